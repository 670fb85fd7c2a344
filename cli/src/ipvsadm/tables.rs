//! What `ipvsadm` prints: the tables of `-L`, the rules of `-S`. Widths and words are those of ipvsadm
//! 1.31, for scripts that read them; a recorded session of it is replayed in the tests.

use core::cmp::Ordering;
use core::fmt::Write;
use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use shunt_control::api::types::{Counters, Rates, Server, Service, Session, Template};
use shunt_control::config::milliseconds;
use shunt_service::{Destination, Protocol, ServiceKey};

use super::grammar::Shown;

/// Version of IPVS that ipvsadm says it was made for, and a size that scripts look for.
const VERSION: &str = "IP Virtual Server version 1.2.1 (size=4096)\n";

/// `--version`
pub(crate) fn version() -> String {
    let own = env!("CARGO_PKG_VERSION");
    format!("ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1), by shunt {own}\n")
}

/// The table of these services; `whole` of all.
pub(crate) fn list(
    services: &[Service],
    templates: &[Template],
    shown: Shown,
    whole: bool,
) -> String {
    let mut text = String::from(if whole { VERSION } else { "" });
    text.push_str(match () {
        () if shown.stats => {
            "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n  \
             -> RemoteAddress:Port\n"
        }
        () if shown.rate => {
            "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n  \
             -> RemoteAddress:Port\n"
        }
        () if shown.persistent_conn => {
            "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n  \
             -> RemoteAddress:Port\n"
        }
        () if shown.thresholds => {
            "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n  \
             -> RemoteAddress:Port\n"
        }
        () => {
            "Prot LocalAddress:Port Scheduler Flags\n  \
             -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
        }
    });
    for service in in_order(services, shown) {
        let name = name(service);
        if shown.stats || shown.rate {
            let _ = write!(text, "{name:<33}");
            let all = match shown.rate {
                true => rates(&service.rates),
                false => since(&service.counters, service.zero.as_ref()),
            };
            numbers(&mut text, all, shown.exact);
        } else {
            text.push_str(name.trim_end());
            text.push_str(&flags(service));
        }
        text.push('\n');
        for server in servers(service, shown) {
            let address = server.address.to_string();
            let c = &server.counters;
            if shown.stats || shown.rate {
                let _ = write!(text, "  -> {address:<28}");
                let all = match shown.rate {
                    true => rates(&server.rates),
                    false => since(c, server.zero.as_ref()),
                };
                numbers(&mut text, all, shown.exact);
            } else if shown.persistent_conn {
                let of =
                    |t: &&Template| t.service == service.key && t.server == Some(server.address);
                let persistent = templates.iter().filter(of).count();
                let weight = weight(server);
                let _ = write!(
                    text,
                    "  -> {address:<28} {weight:<9} {persistent:<11} {:<10} {:<10}",
                    c.active, c.inactive
                );
            } else if shown.thresholds {
                let (upper, lower) = (server.upper_threshold, server.lower_threshold);
                let _ = write!(
                    text,
                    "  -> {address:<28} {upper:<10} {lower:<10} {:<10} {:<10}",
                    c.active, c.inactive
                );
            } else {
                let (forward, weight) = (forward(&server.mode), weight(server));
                let _ = write!(
                    text,
                    "  -> {address:<28} {forward:<7} {weight:<6} {:<10} {:<10}",
                    c.active, c.inactive
                );
            }
            text.push('\n');
        }
    }
    text
}

/// The rules that make these services, as `-R` takes them.
pub(crate) fn save(services: &[Service]) -> String {
    let mut text = String::new();
    let shown = Shown::default();
    for service in in_order(services, shown) {
        let named = match ServiceKey::from_name(&service.key) {
            Some(ServiceKey::At(Destination { protocol, vip })) => match protocol {
                Protocol::Tcp => format!("-t {vip}"),
                Protocol::Udp => format!("-u {vip}"),
            },
            Some(ServiceKey::Set(name)) if is_ipv6(service) => format!("-f {name} -6"),
            Some(ServiceKey::Set(name)) => format!("-f {name}"),
            None => continue,
        };
        let _ = write!(text, "-A {named} -s {}", scheduler(service));
        let spec = &service.configuration;
        if let Some(flags) = spec.scheduler_flags.as_ref().filter(|f| !f.is_empty()) {
            let _ = write!(text, " -b {}", flags.join(","));
        }
        if let Some((seconds, mask)) = persistence(service) {
            let _ = write!(text, " -p {seconds}");
            if let Some(mask) = mask {
                let _ = write!(text, " -M {mask}");
            }
        }
        if spec.one_packet == Some(true) {
            text.push_str(" -o");
        }
        for destination in spec.matches.iter().flatten() {
            let _ = write!(text, " --match \"{destination}\"");
        }
        for address in spec.local_addresses.iter().flatten() {
            let _ = write!(text, " --local-address {address}");
        }
        text.push('\n');
        for server in servers(service, shown) {
            let method = match &*server.mode {
                "nat" => "-m",
                "tun" => "-i",
                "fullnat" => "--fullnat",
                _ => "-g",
            };
            let _ = write!(
                text,
                "-a {named} -r {} {method} -w {}",
                server.address, server.weight
            );
            if server.upper_threshold > 0 {
                let _ = write!(text, " -x {}", server.upper_threshold);
            }
            if server.lower_threshold > 0 {
                let _ = write!(text, " -y {}", server.lower_threshold);
            }
            if server.mode == "tun" {
                text.push_str(" --tun-type ipip");
            }
            text.push('\n');
        }
    }
    text
}

/// `-L --timeout`
pub(crate) fn timeouts(all: &BTreeMap<String, String>) -> String {
    let seconds = |name| all.get(name).and_then(|t| milliseconds(t)).unwrap_or(0) / 1000;
    let [tcp, fin, udp] = ["tcp_established", "tcp_fin_wait", "udp"].map(seconds);
    format!("Timeout (tcp tcpfin udp): {tcp} {fin} {udp}\n")
}

/// `-Lc`
pub(crate) fn sessions(sessions: &[Session], templates: &[Template], shown: Shown) -> String {
    let mut text = String::from(
        "IPVS connection entries\n\
         pro expire state       source             virtual            destination",
    );
    text.push_str(match shown.persistent_conn {
        true => "        pe name          pe_data\n",
        false => "\n",
    });
    for template in templates {
        let Some(ServiceKey::At(of)) = ServiceKey::from_name(&template.service) else {
            // The kernel has none of marks either that would name an address.
            continue;
        };
        let seconds = template.expires_ms / 1000;
        let server = template
            .server
            .map_or_else(|| "?".to_owned(), |s| s.to_string());
        let client = SocketAddr::new(template.client, 0);
        let _ = writeln!(
            text,
            "{:<3} {:02}:{:02}  {:<11} {:<18} {:<18} {server}",
            of.protocol.to_string().to_uppercase(),
            seconds / 60,
            seconds % 60,
            "NONE",
            client.to_string(),
            of.vip.to_string(),
        );
    }
    for session in sessions {
        let seconds = session.expires_ms / 1000;
        let state = session.state.as_deref().unwrap_or("UDP");
        let server = session.server.map(|mut server| {
            // One without a port of its own has the client's destination port.
            if server.port() == 0 {
                server.set_port(session.vip.port());
            }
            server.to_string()
        });
        let server = server.unwrap_or_else(|| "?".to_owned());
        let _ = writeln!(
            text,
            "{:<3} {:02}:{:02}  {state:<11} {:<18} {:<18} {server}",
            session.protocol.to_uppercase(),
            seconds / 60,
            seconds % 60,
            session.client.to_string(),
            session.vip.to_string(),
        );
    }
    text
}

fn name(service: &Service) -> String {
    match ServiceKey::from_name(&service.key) {
        Some(ServiceKey::At(Destination { protocol, vip })) => {
            format!("{:<4} {vip}", protocol.to_string().to_uppercase())
        }
        Some(ServiceKey::Set(name)) => {
            format!("FWM  {name}{}", if is_ipv6(service) { " IPv6" } else { "" })
        }
        None => service.key.clone(),
    }
}

fn is_ipv6(service: &Service) -> bool {
    let first = service.configuration.matches.iter().flatten().next();
    service.key.contains('[') || first.is_some_and(|d| d.contains('['))
}

fn scheduler(service: &Service) -> &str {
    service.configuration.scheduler.as_deref().unwrap_or("wlc")
}

fn flags(service: &Service) -> String {
    let mut text = format!(" {}", scheduler(service));
    let spec = &service.configuration;
    if let Some(flags) = spec.scheduler_flags.as_ref().filter(|f| !f.is_empty()) {
        let _ = write!(text, " ({})", flags.join(","));
    }
    if let Some((seconds, mask)) = persistence(service) {
        let _ = write!(text, " persistent {seconds}");
        if let Some(mask) = mask {
            let _ = write!(text, " mask {mask}");
        }
    }
    if spec.one_packet == Some(true) {
        text.push_str(" ops");
    }
    text
}

/// Seconds, and the mask where it is not of whole addresses.
fn persistence(service: &Service) -> Option<(u64, Option<String>)> {
    let spec = &service.configuration;
    let ms = milliseconds(spec.persistence.as_deref()?)?;
    let ipv6 = is_ipv6(service);
    let mask = spec.persistence_prefix.and_then(|bits| match (bits, ipv6) {
        (32, false) | (128, true) => None,
        (bits, true) => Some(bits.to_string()),
        (bits, false) => {
            let rest = 32_u32.saturating_sub(bits.into());
            let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
            Some(core::net::Ipv4Addr::from_bits(mask).to_string())
        }
    });
    Some((ms / 1000, mask))
}

/// What gets new sessions has its weight, what is down has none.
fn weight(server: &Server) -> u16 {
    if server.status == "up" {
        server.weight
    } else {
        0
    }
}

fn forward(mode: &str) -> &'static str {
    match mode {
        "nat" => "Masq",
        "tun" => "Tunnel",
        "fullnat" => "FullNat",
        _ => "Route",
    }
}

/// What was counted since the last `-Z`.
fn since(c: &Counters, zero: Option<&Counters>) -> [u64; 5] {
    let of = |c: &Counters| {
        [
            c.sessions,
            c.packets_in,
            c.packets_out,
            c.bytes_in,
            c.bytes_out,
        ]
    };
    let (mut now, zero) = (of(c), zero.map(of).unwrap_or_default());
    now.iter_mut()
        .zip(zero)
        .for_each(|(n, zero)| *n = n.wrapping_sub(zero));
    now
}

fn rates(r: &Rates) -> [u64; 5] {
    [
        r.sessions,
        r.packets_in,
        r.packets_out,
        r.bytes_in,
        r.bytes_out,
    ]
}

fn numbers(text: &mut String, all: [u64; 5], exact: bool) {
    for n in all {
        let shown = match () {
            () if exact || n < 100_000_000 => n.to_string(),
            () if n < 1_000_000_000 => format!("{}K", n / 1000),
            () if n < 100_000_000_000 => format!("{}M", n / 1_000_000),
            () if n < 100_000_000_000_000 => format!("{}G", n / 1_000_000_000),
            () => format!("{}T", n / 1_000_000_000_000),
        };
        let _ = write!(text, " {shown:>8}");
    }
}

/// The services in ipvsadm's order: those of marks last, IPv4 first, then by protocol, address, port.
fn in_order(services: &[Service], shown: Shown) -> Vec<&Service> {
    let mut all: Vec<&Service> = services.iter().collect();
    if shown.nosort {
        return all;
    }
    let key = |s: &Service| ServiceKey::from_name(&s.key);
    all.sort_by(|a, b| match (key(a), key(b)) {
        (Some(ServiceKey::At(a)), Some(ServiceKey::At(b))) => {
            let rank = |d: Destination| {
                let ipv6 = d.vip.address().is_ipv6();
                (ipv6, d.protocol.number(), d.vip)
            };
            rank(a).cmp(&rank(b))
        }
        (Some(ServiceKey::Set(a)), Some(ServiceKey::Set(b))) => {
            let mark = |name: &str| name.parse::<u32>().ok();
            let (x, y) = (mark(a.as_str()), mark(b.as_str()));
            // Numbers first, as numbers.
            x.is_none()
                .cmp(&y.is_none())
                .then(x.cmp(&y))
                .then(a.cmp(&b))
        }
        (Some(ServiceKey::Set(_)), _) => Ordering::Greater,
        (_, Some(ServiceKey::Set(_))) => Ordering::Less,
        _ => Ordering::Equal,
    });
    all
}

fn servers(service: &Service, shown: Shown) -> Vec<&Server> {
    let mut all: Vec<&Server> = service
        .servers
        .iter()
        .filter(|s| s.status != "removed" && !s.sorry)
        .collect();
    if shown.nosort {
        // The kernel has the newest first.
        all.reverse();
    } else {
        let rank = |a: &SocketAddr| (matches!(a.ip(), IpAddr::V6(_)), *a);
        all.sort_by_key(|s| rank(&s.address));
    }
    all
}
