//! What we know of drivers that they do not say themselves, or say wrongly (DPDK 22.11).

/// Drivers of network cards whose checksum and VLAN work is relied on, both ways.
///
/// All others are never asked for it, and what they say of received checksums is erased, so that
/// it is verified in software: a virtual device says "good" of what nobody computed (virtio and
/// vmxnet3 pass on a neighbour's promise, net_vhost marks as good what the guest left partial,
/// net_ring hands over the flags of whoever sent), and net_tap computes its "offloads" by copying
/// the packet. A checksum verified twice costs some nanoseconds; one trusted wrongly forwards
/// damaged packets, or drops sound ones.
const TRUSTED: &[&str] = &[
    "net_e1000_em",
    "net_e1000_igb",
    "net_e1000_igb_vf",
    "net_igc",
    "net_ixgbe",
    "net_ixgbe_vf",
    "net_i40e",
    "net_ice",
    "net_iavf",
    "mlx5_pci",
    "net_bnxt",
    "net_ena",
    "net_gve",
];

/// What we know of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quirks {
    /// Its offloads are relied on.
    pub(crate) trusted: bool,
    /// It says nothing of received checksums, so that nothing need be erased.
    pub(crate) silent: bool,
    /// It wants as many receive as transmit queues.
    pub(crate) equal_queues: bool,
    /// The kernel receives every frame as well.
    pub(crate) kernel_sees_rx: bool,
    /// Its RSS may be configured, be it only to spread packets.
    pub(crate) rss: bool,
    /// It may be told to steer: RSS and rules that bring packets to their worker's queue.
    pub(crate) steers: bool,
    /// How it is told to have more queues.
    pub(crate) queues_hint: &'static str,
}

pub(crate) fn quirks(driver: &str) -> Quirks {
    let trusted = TRUSTED.contains(&driver);
    let is = |names: &[&str]| names.contains(&driver);
    Quirks {
        trusted,
        // Its packets are made by the driver itself, or come with the flags of an empty mbuf.
        silent: is(&["net_null"]),
        // rte_eth_tap.c tap_dev_configure(), rte_eth_af_xdp.c eth_dev_configure().
        equal_queues: is(&["net_tap", "net_tun", "net_af_xdp"]),
        // A packet socket taps the interface, it does not take it.
        kernel_sees_rx: is(&["net_af_packet"]),
        // net_tap would load eBPF programs into traffic control; the kernel spreads by itself.
        rss: trusted || is(&["net_virtio", "net_vmxnet3"]),
        // Any other may: nothing depends on what it does. net_tap's rules are traffic control, too.
        steers: !is(&["net_tap", "net_tun"]),
        queues_hint: match driver {
            "net_af_packet" => ": add qpairs=N to the device",
            "net_af_xdp" => ": add queue_count=N to the device, and channels to the interface",
            "net_virtio_user" => ": add queues=N to the device",
            "net_vhost" => ": add queues=N to the device",
            "net_pcap" => ": give rx_pcap, tx_pcap or iface once for each queue",
            "net_memif" => ": it has 256 rings each way",
            _ => ": let several workers share a queue",
        },
    }
}

/// Names of the drivers there are, for an operator.
pub(crate) fn known() -> String {
    if dpdk_sys::DYNAMIC {
        return "those of DPDK's plugin directory and of the configured plugins".to_owned();
    }
    let names: Vec<&str> = dpdk_sys::drivers::DRIVERS
        .iter()
        .map(|d| d.archive)
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_virtual_device_is_trusted() {
        for driver in [
            "net_tap",
            "net_af_packet",
            "net_virtio",
            "net_virtio_user",
            "net_vhost",
        ] {
            assert!(!quirks(driver).trusted, "{driver}");
        }
        assert!(quirks("net_ixgbe").trusted);
        assert!(!quirks("never heard of").trusted);
    }

    #[test]
    fn the_list_of_drivers_is_told() {
        if !dpdk_sys::DYNAMIC {
            assert!(known().contains("net_tap, net_af_packet"));
        }
    }
}
