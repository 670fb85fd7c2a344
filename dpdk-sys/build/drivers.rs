//! The one list of what a statically linked Shunt drives. Read by the build script (what to link)
//! and by the crate (what to tell an operator). To add a driver, add its archive here, the other
//! DPDK archives it needs, the system's shared libraries it needs, and the Debian package of those
//! to README.md. The order does not matter: every archive is linked whole.

/// A driver that is linked in.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    /// Its archive, `librte_<archive>.a`.
    pub archive: &'static str,
    /// What it drives, in an operator's words.
    pub drives: &'static str,
    /// Further DPDK archives it needs, beyond [`CORE`].
    pub needs: &'static [&'static str],
    /// Shared libraries of the system it needs.
    pub system: &'static [&'static str],
}

const fn driver(archive: &'static str, drives: &'static str) -> Driver {
    Driver {
        archive,
        drives,
        needs: &[],
        system: &[],
    }
}

const fn with(mut d: Driver, needs: &'static [&'static str]) -> Driver {
    d.needs = needs;
    d
}

const fn on(mut d: Driver, system: &'static [&'static str]) -> Driver {
    d.system = system;
    d
}

/// The drivers.
pub const DRIVERS: &[Driver] = &[
    // Virtual devices.
    with(
        driver("net_tap", "a TAP interface of the kernel"),
        &["gso", "hash"],
    ),
    driver(
        "net_af_packet",
        "an interface of the kernel, through AF_PACKET",
    ),
    on(
        driver("net_af_xdp", "an interface of the kernel, through AF_XDP"),
        &["xdp", "bpf"],
    ),
    driver(
        "net_virtio",
        "virtio: PCI devices of virtual machines, and virtio_user",
    ),
    with(
        driver("net_vhost", "vhost-user backend for a virtual machine"),
        &["vhost", "cryptodev", "hash", "dmadev"],
    ),
    with(
        driver("net_memif", "shared memory between processes"),
        &["hash"],
    ),
    driver("net_ring", "rings within the process"),
    on(
        driver("net_pcap", "capture files and interfaces, through libpcap"),
        &["pcap"],
    ),
    driver("net_null", "nothing; for measurements"),
    with(
        driver("net_bond", "several ports as one"),
        &["sched", "ip_frag", "hash"],
    ),
    // Network cards.
    driver("net_e1000", "Intel 8254x, 82571 to 82574, I21x, I35x"),
    driver("net_igc", "Intel I225, I226"),
    with(
        driver("net_ixgbe", "Intel 82599, X520, X540, X550"),
        &["hash", "security", "cryptodev"],
    ),
    with(
        driver("net_i40e", "Intel X710, XL710, XXV710, X722"),
        &["hash"],
    ),
    with(
        driver("net_ice", "Intel E810, E82x"),
        &["hash", "common_iavf"],
    ),
    with(
        driver("net_iavf", "Intel virtual functions"),
        &["common_iavf", "security", "cryptodev"],
    ),
    on(
        with(
            driver(
                "net_mlx5",
                "NVIDIA/Mellanox ConnectX-4 and later, BlueField",
            ),
            &["hash", "common_mlx5", "bus_auxiliary"],
        ),
        &["mlx5", "ibverbs"],
    ),
    driver("net_bnxt", "Broadcom NetXtreme-C and -E"),
    driver("net_vmxnet3", "VMware"),
    with(driver("net_ena", "Amazon"), &["timer"]),
    driver("net_gve", "Google"),
];

/// What every program needs: the environment, packet memory, the device layer, buses.
pub const CORE: &[&str] = &[
    "eal",
    "kvargs",
    "telemetry",
    "ring",
    "rcu",
    "mempool",
    "mbuf",
    "net",
    "meter",
    "ethdev",
    "pci",
    "bus_pci",
    "bus_vdev",
    "mempool_ring",
    "mempool_stack",
    "stack",
    "hash",
];

/// Shared libraries of the system that [`CORE`] needs.
pub const CORE_SYSTEM: &[&str] = &["numa", "bsd", "m", "dl", "pthread"];
