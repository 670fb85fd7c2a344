//! The packet generator's command line; see `shunt_bench::pktgen`.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use shunt_bench::pktgen::client::{Clients, Counts, Ends};
use shunt_bench::pktgen::engine::{Engine, Load, Plan, Probes};
use shunt_bench::pktgen::replier::Replier;
use shunt_bench::stand::{Bench, Setup};
use shunt_dataplane::io::{Burst, PacketBuf, Port};
use shunt_dpdk::PortQueue;
use shunt_service::Protocol;
use shunt_wire::arp;

/// A packet generator for load balancers, over any DPDK device.
///
/// Plays the clients, the real servers, or both, on one or several devices. Clients send data of
/// open flows, open and close connections, flood with SYNs, or send single packets after a pause;
/// data carries a number and a time, so that loss and latency are measured. Servers answer ARP,
/// neighbour solicitations, ping, TCP and UDP, and take tunnel headers off.
///
/// A director in FULLNAT or NAT on a memif, clients and servers here:
///
///   shunt-pktgen --device net_memif0,role=client,socket=/run/m.sock,socket-abstract=no
///       --vip 10.0.0.100:80 --server 192.168.1.11 --protocol udp --flows 1000 --seconds 5
///
/// Servers in DR and TUN answer their clients directly: add --gateway with --mac's address for
/// clients of this process, or the router's.
#[derive(Debug, Parser)]
#[command(max_term_width = 100, verbatim_doc_comment)]
struct Arguments {
    #[command(flatten)]
    setup: Setup,
    /// Device, a PCI address or a virtual one with its arguments. Clients send on the first.
    #[arg(long = "device", required = true)]
    devices: Vec<String>,
    /// Only clients, only servers, or both.
    #[arg(long, default_value = "both")]
    role: Role,
    /// The service: address and port.
    #[arg(long)]
    vip: SocketAddr,
    /// Its protocol.
    #[arg(long, default_value = "udp")]
    protocol: ProtocolName,
    /// Address of a real server that answers here; as often as there are servers.
    #[arg(long = "server")]
    servers: Vec<IpAddr>,
    /// Further addresses that answer ARP and ping here, such as the router's.
    #[arg(long = "address")]
    addresses: Vec<IpAddr>,
    /// MAC of everybody here.
    #[arg(long, default_value = "02:00:00:00:00:02", value_parser = mac)]
    mac: [u8; 6],
    /// MAC that clients' packets go to. Asked for by ARP without it.
    #[arg(long, value_parser = mac)]
    director: Option<[u8; 6]>,
    /// MAC that servers' answers go to, where it is not the director's (DR, TUN).
    #[arg(long, value_parser = mac)]
    gateway: Option<[u8; 6]>,
    /// Servers take data and do not send it back.
    #[arg(long)]
    no_echo: bool,
    /// Address of the first client.
    #[arg(long)]
    clients: Option<IpAddr>,
    /// What clients do.
    #[arg(long, default_value = "data")]
    load: Load,
    /// Number of clients.
    #[arg(long, default_value_t = 1000)]
    flows: u32,
    /// Packets (or connections) a second; 0: as many as go.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Data packets (or connections) on their way at a time; 0: any number.
    #[arg(long, default_value_t = 0)]
    window: u64,
    /// Bytes of a data frame, without FCS; at least what a number and a time need.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// --load probe: milliseconds between two packets.
    #[arg(long, default_value_t = 100)]
    pause: u64,
    /// Packet memory, MiB.
    #[arg(long, default_value_t = 128)]
    memory: u32,
    /// Print one object of JSON instead of words.
    #[arg(long)]
    json: bool,
}

/// Who is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Both,
    Client,
    Server,
}

/// Protocols, as the command line has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProtocolName {
    Tcp,
    Udp,
}

/// `02:00:00:00:00:01`.
fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|b| u8::from_str_radix(b, 16).ok())
        .collect();
    let bytes: Option<[u8; 6]> = bytes.and_then(|b| b.try_into().ok());
    bytes.ok_or_else(|| "not a MAC like 02:00:00:00:00:01".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shunt-pktgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(a: &Arguments) -> Result<(), Box<dyn Error>> {
    if !(a.seconds.is_finite() && a.seconds > 0.0 && a.seconds < 1e6) {
        return Err(format!("--seconds {}: not a time to run", a.seconds).into());
    }
    let protocol = match a.protocol {
        ProtocolName::Tcp => Protocol::Tcp,
        ProtocolName::Udp => Protocol::Udp,
    };
    if a.load == Load::Connections && protocol == Protocol::Udp {
        return Err("--load connections is of TCP: add --protocol tcp".into());
    }
    if !(1..=20_000_000).contains(&a.flows) {
        return Err(format!("--flows {}: 1 to 20 000 000", a.flows).into());
    }
    if a.size > 1514 {
        return Err(format!("--size {}: 1514 at most", a.size).into());
    }
    let bench = Bench::new(&a.setup, a.memory)?;
    let mut controls = Vec::new();
    let mut ports = Vec::new();
    for device in &a.devices {
        let opened = bench.open(device)?;
        controls.push(opened.control);
        ports.push(opened.queue);
    }
    // Some devices have no link before the other end has come.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !controls.iter().all(|c| c.link().is_ok_and(|l| l.up)) {
        if Instant::now() > deadline {
            return Err("a device has no link after 10 s: is the other end there?".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let report = bench.on_core(a.setup.core, || {
        measure(a, protocol, ports, bench.tsc_hz).map_err(|e| e.to_string())
    })?;
    if a.json {
        println!("{report}");
    } else if let Value::Object(fields) = &report {
        for (name, value) in fields {
            println!("{name:<24} {value}");
        }
    }
    Ok(())
}

fn measure(
    a: &Arguments,
    protocol: Protocol,
    mut ports: Vec<PortQueue>,
    tsc_hz: f64,
) -> Result<Value, Box<dyn Error>> {
    let mut addresses = a.servers.clone();
    addresses.extend(&a.addresses);
    let replier = (a.role != Role::Client).then(|| Replier {
        addresses: addresses.clone(),
        vips: vec![a.vip.ip()],
        mac: a.mac,
        gateway: a.gateway,
        echo: !a.no_echo,
    });
    let clients = match a.role {
        Role::Server => None,
        Role::Client | Role::Both => {
            let director = match a.director {
                Some(mac) => mac,
                None => resolve(&mut ports, a, &addresses)?,
            };
            let first = match (a.clients, a.vip) {
                (Some(first), _) => first,
                (None, SocketAddr::V4(_)) => [100, 64, 0, 0].into(),
                (None, SocketAddr::V6(_)) => [0x2001, 0xdb8, 0x99, 0, 0, 0, 0, 0].into(),
            };
            let ends = Ends {
                first,
                clients: a.flows,
                vip: a.vip,
                protocol,
                macs: (director, a.mac),
            };
            if first.is_ipv4() != a.vip.is_ipv4() {
                return Err("--clients and --vip: one IPv4, the other IPv6".into());
            }
            Some(Clients::new(ends, a.size, a.load == Load::Connections))
        }
    };
    let mut engine = Engine::new(ports, replier, clients, tsc_hz);
    let plan = Plan {
        load: a.load,
        rate: a.rate,
        window: a.window,
        time: Duration::from_secs_f64(a.seconds),
        pause: Duration::from_millis(a.pause),
    };
    let (mut lasted, mut probes) = (plan.time, None);
    if engine.clients.is_none() {
        engine.answer(plan.time);
    } else {
        if matches!(a.load, Load::Data | Load::Probe) {
            engine.open(a.flows, protocol)?;
        }
        if a.load == Load::Probe {
            probes = Some(engine.probe(&plan));
        } else {
            lasted = engine.run(&plan, a.flows);
        }
    }
    Ok(report(a, &engine, lasted, probes.as_ref()))
}

/// Asks for the director's MAC.
fn resolve(
    ports: &mut [PortQueue],
    a: &Arguments,
    addresses: &[IpAddr],
) -> Result<[u8; 6], Box<dyn Error>> {
    let IpAddr::V4(vip) = a.vip.ip() else {
        return Err("--director: the MAC for IPv6 has to be given".into());
    };
    let own = addresses.iter().find_map(|a| match a {
        IpAddr::V4(a) => Some(*a),
        IpAddr::V6(_) => None,
    });
    let own = own.ok_or("an --address or --server is needed to ask for the director's MAC from")?;
    let port = ports.first_mut().ok_or("no device")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let mut frame = [0; 60];
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&a.mac);
        frame[12..14].copy_from_slice(&[8, 6]);
        arp::write_request(&mut frame[14..], a.mac, own, vip).ok_or("no room for a request")?;
        let mut burst = Burst::new();
        let mut buf = port.alloc().ok_or("the packet pool is empty")?;
        let room = buf.append(frame.len() as u16);
        room.map_err(|_| "a packet is too small")?
            .copy_from_slice(&frame);
        burst.push(buf);
        port.tx_burst(&mut burst);
        let again = Instant::now() + Duration::from_millis(200);
        while Instant::now() < again {
            burst.clear();
            port.rx_burst(&mut burst);
            for buf in &burst {
                // A reply (2) whose sender is the VIP.
                let frame = buf.data();
                if frame.get(12..14) == Some(&[8, 6])
                    && frame.get(20..22) == Some(&[0, 2])
                    && frame.get(28..32) == Some(&vip.octets())
                    && let Some(mac) = frame.get(22..).and_then(|f| f.first_chunk())
                {
                    return Ok(*mac);
                }
            }
        }
    }
    Err(format!("nobody answers ARP for {vip}; give the director's MAC with --director").into())
}

fn microseconds(histogram: &Histogram<u64>, tsc_hz: f64) -> Value {
    let us = |cycles: u64| (cycles as f64 / tsc_hz * 1e8).round() / 100.0;
    if histogram.is_empty() {
        return Value::Null;
    }
    json!({
        "min": us(histogram.min()),
        "median": us(histogram.value_at_quantile(0.5)),
        "p99": us(histogram.value_at_quantile(0.99)),
        "p99.9": us(histogram.value_at_quantile(0.999)),
        "max": us(histogram.max()),
    })
}

/// Some values as a histogram.
fn histogram(values: &[u64]) -> Histogram<u64> {
    let mut all = Histogram::new(3).expect("a histogram of three digits");
    values.iter().for_each(|v| all += *v);
    all
}

fn report(a: &Arguments, engine: &Engine, lasted: Duration, probes: Option<&Probes>) -> Value {
    let seconds = lasted.as_secs_f64();
    let mut out = json!({
        "load": a.load.to_possible_value().map(|v| v.get_name().to_owned()),
        "protocol": if a.protocol == ProtocolName::Tcp { "tcp" } else { "udp" },
        "flows": a.flows,
        "seconds": seconds,
        "not_taken_by_device": engine.not_sent,
        "strange_packets": engine.strange,
    });
    let Some(clients) = &engine.clients else {
        return out;
    };
    let c: &Counts = &clients.counts;
    let echo = engine.replier.as_ref().is_none_or(|r| r.echo);
    let seen = if echo { c.returned } else { c.arrived };
    let lost = c.sent.saturating_sub(seen);
    let more = json!({
        "frame_bytes": clients.size(),
        "sent": c.sent,
        "arrived_at_servers": c.arrived,
        "returned": c.returned,
        "reordered": c.reordered,
        "lost": lost,
        "lost_percent": lost as f64 * 100.0 / c.sent.max(1) as f64,
        "mpps_sent": c.sent as f64 / seconds / 1e6,
        "mpps_through_director": (c.arrived + c.returned) as f64 / seconds / 1e6,
        "syns": c.syns,
        "syn_acks": c.syn_acks,
        "connections_completed": c.completed,
        "connections_given_up": c.given_up,
        "connections_per_second": c.completed as f64 / seconds,
        "resets": c.resets,
        "us_to_server": microseconds(&c.there, engine.tsc_hz),
        "us_round_trip": microseconds(&c.round_trip, engine.tsc_hz),
        "us_handshake": microseconds(&c.handshake, engine.tsc_hz),
        "us_first_after_pause": probes.map(|p| microseconds(&histogram(&p.idle), engine.tsc_hz)),
        "us_at_once": probes.map(|p| microseconds(&histogram(&p.busy), engine.tsc_hz)),
        "probes": probes.map(|p| p.idle.len()),
    });
    if let (Value::Object(out), Value::Object(more)) = (&mut out, more) {
        out.extend(more);
    }
    out
}
