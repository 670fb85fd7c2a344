//! Devices: attached, configured and dealt out to the workers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, getsockname};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use shunt_control::api::types;
use shunt_control::config::{self, Config};
use shunt_dataplane::share::{SharedPort, share};
use shunt_dpdk::steering::{KEY, SHARDS, Side, Steering};
use shunt_dpdk::{Device, DeviceError, Eal, Mempool, PortConfig, PortControl, PortQueue};
use tracing::{debug, info, warn};

/// A worker's queue of a port, or its way to another worker's.
pub(crate) type WorkerPort = SharedPort<PortQueue, Mempool>;

/// The driver of packet sockets.
const AF_PACKET: &str = "net_af_packet";
/// Descriptors of a queue where the configuration names none.
pub(crate) const DESCRIPTORS: u16 = 512;

/// A port that runs.
#[derive(Debug)]
pub(crate) struct RunningPort {
    pub(crate) control: PortControl,
    /// One for each worker.
    pub(crate) queues: Vec<WorkerPort>,
}

/// Attaches the device of a port.
pub(crate) fn attach(
    eal: &Eal,
    port: &config::Port,
    workers: usize,
) -> Result<Device, DeviceError> {
    eal.attach(&arguments(port, workers))
}

/// Starts the device of a port.
pub(crate) fn start(
    device: Device,
    port: &config::Port,
    map: &[u16; SHARDS],
    key: &[u8; KEY],
    workers: usize,
    pool: &Mempool,
) -> Result<RunningPort, DeviceError> {
    let most = device.info().max_rx_queues.min(device.info().max_tx_queues);
    let wanted = port.queues.unwrap_or(workers as u16);
    let queues = wanted.min(workers as u16).min(most).max(1);
    if usize::from(queues) < workers {
        info!(
            port = port.name,
            queues, workers, "fewer queues than workers: the others send and receive through them"
        );
    }
    let descriptors = port.descriptors.unwrap_or(DESCRIPTORS);
    let config = PortConfig {
        rx_queues: queues,
        tx_queues: queues,
        rx_descriptors: descriptors,
        tx_descriptors: descriptors,
        mtu: Some(port.mtu),
        steering: steering(port.steering, map, key, queues),
        ..PortConfig::default()
    };
    let (control, handles) = device.configure(&config, std::slice::from_ref(pool))?;
    let mac = control.mac();
    info!(
        port = port.name,
        device = control.device(),
        driver = control.info().driver,
        mac = %mac_text(mac),
        queues,
        "port is up"
    );
    if workers > 1 {
        let by = match control.rss_steers() {
            true => "RSS, and hand-over of the rest",
            false => "hand-over",
        };
        info!(port = port.name, by, "packets reach their worker");
    }
    if !control.info().trusted {
        info!(
            port = port.name,
            "this driver's offloads are not relied on: checksums are verified in software"
        );
    }
    Ok(RunningPort {
        control,
        queues: share(handles, workers, pool),
    })
}

/// What the device is to do so that packets come by the queue of their worker; those without a queue of
/// their own share others' (`shunt_dataplane::share`).
fn steering(
    wanted: config::Steering,
    map: &[u16; SHARDS],
    key: &[u8; KEY],
    queues: u16,
) -> Option<Steering> {
    let side = match wanted {
        config::Steering::Source => Side::Clients,
        config::Steering::Destination => Side::Servers,
        config::Steering::Software => return None,
    };
    Some(Steering {
        key: *key,
        queues: map.map(|worker| worker % queues),
        side,
    })
}

/// Has the devices steer replies to local addresses, where they can.
pub(crate) fn steer_local(config: &Config, controls: &[PortControl], local: &BTreeSet<IpAddr>) {
    let local: Vec<IpAddr> = local.iter().copied().collect();
    for (port, control) in config.ports.iter().zip(controls) {
        match control.steer_local(&local, !port.vlans.is_empty()) {
            Ok(0) => {}
            Ok(rules) => info!(
                port = port.name,
                rules,
                addresses = local.len(),
                "the device steers replies to local addresses"
            ),
            Err(why) => info!(
                port = port.name,
                %why,
                "replies to local addresses are steered in software"
            ),
        }
    }
}

/// How packets reach their worker, in the API's words.
fn steering_word(workers: usize, control: &PortControl) -> &'static str {
    match (workers, control.rss_steers(), control.rules() > 0) {
        (..=1, ..) => "none",
        (_, false, false) => "software",
        (_, true, false) => "rss",
        (_, false, true) => "rte_flow",
        (_, true, true) => "rss+rte_flow",
    }
}

/// Whether the port's driver has packet sockets.
pub(crate) fn has_packet_sockets(port: &config::Port) -> bool {
    port.device.starts_with(AF_PACKET)
}

/// Copies of this process's packet sockets, all of which are drivers'. None where the system does
/// not give them: whoever wanted to hold them can do without.
pub(crate) fn packet_sockets() -> Vec<OwnedFd> {
    let of_this = || -> io::Result<_> {
        let this = pidfd_open(getpid(), PidfdFlags::empty())?;
        let mut sockets = Vec::new();
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let entry = entry?;
            let is_socket = std::fs::read_link(entry.path())
                .is_ok_and(|file| file.to_string_lossy().starts_with("socket:"));
            let number = entry.file_name().to_str().and_then(|n| n.parse().ok());
            let Some(number) = number.filter(|_| is_socket) else {
                continue;
            };
            let socket = pidfd_getfd(&this, number, PidfdGetfdFlags::empty())?;
            if getsockname(&socket)?.address_family() == AddressFamily::PACKET {
                sockets.push(socket);
            }
        }
        Ok(sockets)
    };
    of_this().unwrap_or_else(|error| {
        debug!(%error, "no copies of packet sockets");
        Vec::new()
    })
}

/// The device with what its driver must be told about queues, unless the operator did.
fn arguments(port: &config::Port, workers: usize) -> String {
    let device = &port.device;
    let queues = port.queues.map_or(workers, usize::from);
    if has_packet_sockets(port) && !device.contains("qpairs=") {
        format!("{device},qpairs={queues}")
    } else {
        device.clone()
    }
}

/// MAC address in the usual notation.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// What the device counts for each of its queues, as far as it does.
fn queues(control: &PortControl) -> Vec<(String, u64)> {
    let mut all = control.xstats().unwrap_or_default();
    all.retain(|(name, _)| name.starts_with("rx_q") || name.starts_with("tx_q"));
    all
}

/// What the API tells of the ports.
pub(crate) fn report(config: &Config, controls: &[PortControl]) -> Vec<types::Port> {
    config
        .ports
        .iter()
        .zip(controls)
        .map(|(port, control)| {
            let counters = control.stats().map_or_else(
                |error| {
                    warn!(port = port.name, %error, "the device gives no counters");
                    BTreeMap::new()
                },
                |s| {
                    [
                        ("rx_packets", s.rx_packets),
                        ("rx_bytes", s.rx_bytes),
                        ("rx_missed", s.rx_missed),
                        ("rx_errors", s.rx_errors),
                        ("rx_no_mbuf", s.rx_no_mbuf),
                        ("tx_packets", s.tx_packets),
                        ("tx_bytes", s.tx_bytes),
                        ("tx_errors", s.tx_errors),
                    ]
                    .map(|(name, n)| (name.to_owned(), n))
                    .into_iter()
                    .chain(queues(control))
                    .collect()
                },
            );
            types::Port {
                name: port.name.clone(),
                device: port.device.clone(),
                driver: control.info().driver.clone(),
                mac: mac_text(control.mac()),
                link: control.link().ok().map(|l| l.up),
                rx_queues: control.rx_queues(),
                tx_queues: control.tx_queues(),
                steering: steering_word(config.workers.cores.len(), control).to_owned(),
                counters,
            }
        })
        .collect()
}
