//! The command line of `ipvsadm` 1.31, in its words: which command, of which service and server. What the
//! kernel would refuse is not known here.

use core::net::IpAddr;

use clap::{ArgAction, Args, Parser};
use shunt_service::{Ports, Protocol, ServiceKey, SetName, Vip};

use super::Refusal;

/// All options; which of them go together is judged by [`Line::command`].
#[derive(Debug, Parser)]
#[command(
    name = "ipvsadm",
    disable_version_flag = true,
    override_usage = "ipvsadm COMMAND [protocol] service-address [scheduling-method] [options]",
    max_term_width = 100
)]
pub(crate) struct Line {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    service: OfService,
    #[command(flatten)]
    server: OfServer,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    others: Others,
}

/// Commands, of which there is one.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct What {
    /// Add a virtual service.
    #[arg(short = 'A', long)]
    add_service: bool,
    /// Edit a virtual service.
    #[arg(short = 'E', long)]
    edit_service: bool,
    /// Delete a virtual service.
    #[arg(short = 'D', long)]
    delete_service: bool,
    /// Clear the whole table.
    #[arg(short = 'C', long)]
    clear: bool,
    /// Restore rules from standard input.
    #[arg(short = 'R', long)]
    restore: bool,
    /// Save rules to standard output.
    #[arg(short = 'S', long)]
    save: bool,
    /// Add a real server.
    #[arg(short = 'a', long)]
    add_server: bool,
    /// Edit a real server.
    #[arg(short = 'e', long)]
    edit_server: bool,
    /// Delete a real server.
    #[arg(short = 'd', long)]
    delete_server: bool,
    /// List the table.
    #[arg(short = 'L', visible_short_alias = 'l', long)]
    list: bool,
    /// Count from zero: all services, or one.
    #[arg(short = 'Z', long)]
    zero: bool,
    /// Set timeouts in seconds: of established TCP, of TCP that was closed by one end, of UDP; 0 leaves one as it is.
    #[arg(long, num_args = 3, value_names = ["TCP", "TCPFIN", "UDP"])]
    set: Option<Vec<String>>,
    /// Refused: sessions are not synchronised with another director.
    #[arg(long, value_name = "STATE")]
    start_daemon: Option<String>,
    /// Refused, as `--start-daemon`.
    #[arg(long, value_name = "STATE")]
    stop_daemon: Option<String>,
    /// Print the version.
    #[arg(short = 'v', long)]
    version: bool,
}

#[derive(Debug, Args)]
struct OfService {
    /// TCP service.
    #[arg(short = 't', long, value_name = "ADDRESS:PORT")]
    tcp_service: Option<String>,
    /// UDP service.
    #[arg(short = 'u', long, value_name = "ADDRESS:PORT")]
    udp_service: Option<String>,
    /// Refused: SCTP is not built yet.
    #[arg(long, value_name = "ADDRESS:PORT")]
    sctp_service: Option<String>,
    /// A match set in the place of a firewall mark, by its number or name.
    #[arg(short = 'f', long, value_name = "MARK")]
    fwmark_service: Option<String>,
    /// With -f: for IPv6. The match set says so already.
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Scheduler; wlc without.
    #[arg(short = 's', long)]
    scheduler: Option<String>,
    /// Flags of the scheduler, with commas.
    #[arg(short = 'b', long)]
    sched_flags: Option<String>,
    /// Persistence, in seconds; 360 without a number.
    #[arg(short = 'p', long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "360")]
    persistent: Option<String>,
    /// Mask of clients' addresses for it: 255.255.255.0, or bits with IPv6.
    #[arg(short = 'M', long, value_name = "MASK")]
    netmask: Option<String>,
    /// Refused: there are no persistence engines.
    #[arg(long, value_name = "ENGINE")]
    pe: Option<String>,
    /// One-packet scheduling.
    #[arg(short = 'o', long)]
    ops: bool,
    /// Shunt's own, with -f: a destination of the match set, "tcp 10.0.0.100:80"; may be repeated.
    #[arg(long = "match", value_name = "DESTINATION")]
    matches: Vec<String>,
    /// Shunt's own: an address that FULLNAT sends from; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    local_address: Vec<IpAddr>,
}

#[derive(Debug, Args)]
struct OfServer {
    /// Real server; the port is the service's without.
    #[arg(short = 'r', long, value_name = "ADDRESS:PORT")]
    real_server: Option<String>,
    /// Direct routing (the default).
    #[arg(short = 'g', long, group = "method")]
    gatewaying: bool,
    /// Tunnelling.
    #[arg(short = 'i', long, group = "method")]
    ipip: bool,
    /// NAT.
    #[arg(short = 'm', long, group = "method")]
    masquerading: bool,
    /// Shunt's own: FULLNAT.
    #[arg(long, group = "method")]
    fullnat: bool,
    /// Kind of tunnel; ipip alone is built.
    #[arg(long, value_name = "TYPE")]
    tun_type: Option<String>,
    /// Refused, as other kinds of tunnel.
    #[arg(long, value_name = "PORT")]
    tun_port: Option<String>,
    /// Refused, as other kinds of tunnel.
    #[arg(long)]
    tun_nocsum: bool,
    /// Refused, as other kinds of tunnel.
    #[arg(long)]
    tun_csum: bool,
    /// Refused, as other kinds of tunnel.
    #[arg(long)]
    tun_remcsum: bool,
    /// Weight; 1 without.
    #[arg(short = 'w', long, allow_hyphen_values = true)]
    weight: Option<String>,
    /// Most sessions.
    #[arg(short = 'x', long, value_name = "N", allow_hyphen_values = true)]
    u_threshold: Option<String>,
    /// Below so many sessions a full server is used again.
    #[arg(short = 'y', long, value_name = "N", allow_hyphen_values = true)]
    l_threshold: Option<String>,
}

/// What a listing shows.
#[derive(Clone, Copy, Debug, Default, Args)]
#[allow(clippy::struct_excessive_bools, reason = "they are ipvsadm's")]
pub(crate) struct Shown {
    /// Sessions.
    #[arg(short = 'c', long)]
    pub(crate) connection: bool,
    /// With -L: the timeouts that --set sets.
    #[arg(long)]
    pub(crate) timeout: bool,
    /// Sync daemons: there are none.
    #[arg(long)]
    pub(crate) daemon: bool,
    /// Counters.
    #[arg(long)]
    pub(crate) stats: bool,
    /// With -L: what comes a second, as the kernel estimates it.
    #[arg(long)]
    pub(crate) rate: bool,
    /// Numbers in full.
    #[arg(long)]
    pub(crate) exact: bool,
    /// Thresholds.
    #[arg(long)]
    pub(crate) thresholds: bool,
    /// With -L: how many templates of persistence each server has; with -c: their columns.
    #[arg(long)]
    pub(crate) persistent_conn: bool,
    /// In the order of the configuration.
    #[arg(long)]
    pub(crate) nosort: bool,
    /// Sorted, as without.
    #[arg(long)]
    pub(crate) sort: bool,
    /// Addresses as numbers, as without.
    #[arg(short = 'n', long)]
    pub(crate) numeric: bool,
}

/// Of the sync daemon.
#[derive(Debug, Args)]
struct Others {
    /// Of the sync daemon.
    #[arg(long, hide = true, action = ArgAction::Set)]
    mcast_interface: Option<String>,
    /// Of the sync daemon.
    #[arg(long, hide = true, action = ArgAction::Set)]
    syncid: Option<String>,
}

/// A service as it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) key: ServiceKey,
    /// Port of servers that name none.
    pub(crate) port: u16,
}

/// Settings of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) scheduler: String,
    pub(crate) flags: Vec<String>,
    /// Seconds.
    pub(crate) persistence: Option<u32>,
    /// Bits.
    pub(crate) prefix: Option<u8>,
    pub(crate) one_packet: bool,
    pub(crate) matches: Vec<String>,
    pub(crate) local_addresses: Vec<IpAddr>,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) address: core::net::SocketAddr,
    pub(crate) mode: &'static str,
    pub(crate) weight: u32,
    pub(crate) upper: u32,
    pub(crate) lower: u32,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Version,
    AddService(Named, Settings),
    EditService(Named, Settings),
    DeleteService(Named),
    AddServer(Named, Server),
    EditServer(Named, Server),
    DeleteServer(Named, core::net::SocketAddr),
    Clear,
    Restore,
    Save,
    Zero(Option<Named>),
    /// Seconds of established TCP, of FIN_WAIT, of UDP; `None` leaves one as it is.
    Timeouts([Option<u32>; 3]),
    List(Option<Named>),
}

impl Line {
    /// What a listing is to show.
    pub(crate) fn shown(&self) -> Shown {
        self.shown
    }

    /// The command, with all that belongs to it.
    ///
    /// # Errors
    /// What does not go together, is no value, or is not built.
    pub(crate) fn command(&self) -> Result<Command, Refusal> {
        self.refuse_what_is_not_built()?;
        let what = &self.what;
        let named = || {
            let named = self.named()?;
            named.ok_or_else(|| Refusal::usage("No virtual service specified"))
        };
        let named_server =
            || -> Result<_, Refusal> { Ok((named()?, self.server_address(named()?)?)) };
        Ok(match () {
            () if what.version => Command::Version,
            () if what.clear => Command::Clear,
            () if what.restore => Command::Restore,
            () if what.save => Command::Save,
            () if what.set.is_some() => Command::Timeouts(self.timeouts()?),
            () if what.zero => Command::Zero(self.named()?),
            () if what.add_service => Command::AddService(named()?, self.settings()?),
            () if what.edit_service => Command::EditService(named()?, self.settings()?),
            () if what.delete_service => Command::DeleteService(named()?),
            () if what.add_server => Command::AddServer(named()?, self.server(named()?)?),
            () if what.edit_server => Command::EditServer(named()?, self.server(named()?)?),
            () if what.delete_server => {
                let (named, address) = named_server()?;
                Command::DeleteServer(named, address)
            }
            () => Command::List(self.named()?),
        })
    }

    /// What Shunt has no counterpart of is refused with the reason, never ignored.
    fn refuse_what_is_not_built(&self) -> Result<(), Refusal> {
        let (what, of, server) = (&self.what, &self.service, &self.server);
        let tunnel = server.tun_type.as_deref().is_some_and(|t| t != "ipip");
        let kinds = ["ipip", "gue", "gre"];
        if server
            .tun_type
            .as_deref()
            .is_some_and(|t| !kinds.contains(&t))
        {
            return Err(Refusal::usage("illegal tunnel type specified"));
        }
        let refused = [
            (
                what.start_daemon.is_some()
                    || what.stop_daemon.is_some()
                    || self.others.mcast_interface.is_some()
                    || self.others.syncid.is_some(),
                "sessions are not synchronised between directors: a standby that takes over knows none, and answers \
              their next segments as `unknown` says",
            ),
            (of.sctp_service.is_some(), "SCTP is not built yet"),
            (of.pe.is_some(), "there are no persistence engines"),
            (
                tunnel
                    || server.tun_port.is_some()
                    || server.tun_csum
                    || server.tun_nocsum
                    || server.tun_remcsum,
                "tunnels are IP in IP; GUE and GRE are not built yet",
            ),
        ];
        match refused.into_iter().find(|(is, _)| *is) {
            Some((_, why)) => Err(Refusal::not_built(why)),
            None => Ok(()),
        }
    }

    fn timeouts(&self) -> Result<[Option<u32>; 3], Refusal> {
        let mut seconds = [None; 3];
        let typed = self.what.set.iter().flatten();
        for (place, typed) in seconds.iter_mut().zip(typed) {
            // As in ipvsadm: up to 31 days.
            let good = typed.parse().ok().filter(|s| *s <= 31 * 86_400);
            let s: u32 = good.ok_or_else(|| {
                Refusal::usage(format!("invalid timeout value `{typed}' specified"))
            })?;
            *place = (s > 0).then_some(s);
        }
        Ok(seconds)
    }

    fn named(&self) -> Result<Option<Named>, Refusal> {
        let of = &self.service;
        let at =
            |protocol, typed: &Option<String>| typed.as_deref().map(|t| service_at(protocol, t));
        let marked = of.fwmark_service.as_deref().map(set);
        let given = [
            at(Protocol::Tcp, &of.tcp_service),
            at(Protocol::Udp, &of.udp_service),
            marked,
        ];
        let mut given = given.into_iter().flatten();
        let first = given.next().transpose()?;
        match given.next() {
            Some(_) => Err(Refusal::usage("multiple services specified")),
            None => Ok(first),
        }
    }

    fn settings(&self) -> Result<Settings, Refusal> {
        let of = &self.service;
        if of.ops && of.tcp_service.is_some() {
            let what = "One-Packet Scheduling is only for UDP virtual services";
            return Err(Refusal::usage(what));
        }
        let ipv6 = of.ipv6
            || [&of.tcp_service, &of.udp_service]
                .into_iter()
                .flatten()
                .any(|t| t.starts_with('['));
        let persistence = of.persistent.as_deref().map(|typed| {
            let good = typed.parse().ok().filter(|seconds| *seconds > 0);
            good.ok_or_else(|| Refusal::usage(format!("invalid timeout value `{typed}' specified")))
        });
        let prefix = of.netmask.as_deref().map(|typed| {
            mask(typed, ipv6).ok_or_else(|| Refusal::usage("invalid netmask specified"))
        });
        let flags = of.sched_flags.as_deref().unwrap_or_default().split(',');
        Ok(Settings {
            scheduler: of.scheduler.clone().unwrap_or_else(|| "wlc".to_owned()),
            flags: flags.filter(|f| !f.is_empty()).map(str::to_owned).collect(),
            persistence: persistence.transpose()?,
            prefix: prefix.transpose()?,
            one_packet: of.ops,
            matches: of.matches.clone(),
            local_addresses: of.local_address.clone(),
        })
    }

    fn server_address(&self, of: Named) -> Result<core::net::SocketAddr, Refusal> {
        let typed = self.server.real_server.as_deref();
        let typed = typed.ok_or_else(|| Refusal::usage("No destination specified"))?;
        let (address, port) = endpoint(typed)
            .ok_or_else(|| Refusal::usage("illegal real server address[:port] specified"))?;
        // As ipvsadm: only where addresses are translated can ports be.
        let port = match self.mode() {
            "dr" | "tun" if of.port != 0 => of.port,
            _ => port.unwrap_or(of.port),
        };
        Ok(core::net::SocketAddr::new(address, port))
    }

    fn mode(&self) -> &'static str {
        let server = &self.server;
        match () {
            () if server.masquerading => "nat",
            () if server.ipip => "tun",
            () if server.fullnat => "fullnat",
            () => "dr",
        }
    }

    fn server(&self, of: Named) -> Result<Server, Refusal> {
        let server = &self.server;
        let number = |typed: &Option<String>, default, what: &str| match typed {
            None => Ok(default),
            Some(typed) => {
                let number: Option<u32> = typed.parse().ok();
                number.ok_or_else(|| Refusal::usage(format!("illegal {what} specified")))
            }
        };
        let address = self.server_address(of)?;
        let family = of.key.destination().map(|d| d.vip.address().is_ipv6());
        if family.is_some_and(|v6| v6 != address.is_ipv6()) {
            return Err(match self.mode() {
                "tun" => Refusal::not_built("tunnels between IPv4 and IPv6 are not built yet"),
                _ => {
                    let what = "Different address family is allowed only for tunneling servers";
                    Refusal::usage(what)
                }
            });
        }
        Ok(Server {
            address,
            mode: self.mode(),
            weight: number(&server.weight, 1, "weight")?,
            upper: number(&server.u_threshold, 0, "u_threshold")?,
            lower: number(&server.l_threshold, 0, "l_threshold")?,
        })
    }
}

/// `10.0.0.1`, `10.0.0.1:80`, `[2001:db8::1]`, `[2001:db8::1]:80`
fn endpoint(typed: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(at) = typed.parse::<core::net::SocketAddr>() {
        return Some((at.ip(), Some(at.port())));
    }
    let bare = typed.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    Some((bare.unwrap_or(typed).parse().ok()?, None))
}

fn service_at(protocol: Protocol, typed: &str) -> Result<Named, Refusal> {
    let vip = match endpoint(typed) {
        Some((address, port)) => Some(Vip::host(address, Ports::one(port.unwrap_or(0)))),
        // A prefix or a range of ports, which are Shunt's own.
        None => typed.parse().ok(),
    };
    let what = "illegal virtual server address[:port] specified";
    let vip = vip.ok_or_else(|| Refusal::usage(what))?;
    Ok(Named {
        key: ServiceKey::At(shunt_service::Destination { protocol, vip }),
        port: vip.ports().only().unwrap_or(0),
    })
}

/// A match set by its name; marks are numbers from 1.
fn set(typed: &str) -> Result<Named, Refusal> {
    let name = SetName::new(typed).filter(|_| typed != "0");
    let name =
        name.ok_or_else(|| Refusal::usage(format!("invalid fwmark value `{typed}' specified")))?;
    Ok(Named {
        key: ServiceKey::Set(name),
        port: 0,
    })
}

/// Bits of `255.255.255.0`, or of `64`.
fn mask(typed: &str, ipv6: bool) -> Option<u8> {
    if ipv6 {
        return typed.parse().ok().filter(|bits| (1..=128).contains(bits));
    }
    let mask: core::net::Ipv4Addr = typed.parse().ok()?;
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    (bits.count_ones() == ones && ones > 0).then_some(ones as u8)
}
