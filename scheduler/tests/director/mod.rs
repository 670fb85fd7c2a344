//! A director for the recordings: one service that understands the recorded `ipvsadm` commands,
//! has a scheduler rebuilt after every change as control does it, and counts sessions.

use core::net::{AddrParseError, IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;
use shunt_scheduler::{Flags, Scheduler, State, build};
use shunt_service::{
    FlowKey, Load, Mode, Protocol, RealServer, ServerId, ServerSlot, Servers, ServiceId, Status,
    Weight, WorkerId,
};

const WORKER: WorkerId = WorkerId(0);

/// More servers than any recording has.
const MOST_SERVERS: u32 = 256;

/// A client's flow to the service.
pub(crate) struct Flow(FlowKey);

impl Flow {
    fn new(src: IpAddr, src_port: u16) -> Self {
        // The service's address; who picks by destination is recorded over many of them.
        let dst = match src {
            IpAddr::V4(_) => "10.0.0.100".parse(),
            IpAddr::V6(_) => "2001:db8:1::100".parse(),
        };
        let dst = dst.expect("an address");
        Self(FlowKey {
            protocol: Protocol::Tcp,
            src,
            dst,
            src_port,
            dst_port: 80,
        })
    }

    /// From `"addr:port"`, `["addr", port]`, or `"addr"`.
    pub(crate) fn read(value: &Value) -> Result<Self, String> {
        let bad = || format!("not a flow: {value}");
        if let Some(text) = value.as_str() {
            return match text.parse::<SocketAddr>() {
                Ok(a) => Ok(Self::new(a.ip(), a.port())),
                Err(_) => Ok(Self::new(text.parse().map_err(|_| bad())?, 40_000)),
            };
        }
        let addr = value[0]
            .as_str()
            .and_then(|a| a.parse().ok())
            .ok_or_else(bad)?;
        let port = value[1]
            .as_u64()
            .and_then(|p| u16::try_from(p).ok())
            .ok_or_else(bad)?;
        Ok(Self::new(addr, port))
    }

    /// From the address that one client sends to.
    pub(crate) fn to(value: &Value) -> Result<Self, String> {
        let mut flow = Self::new([10, 0, 0, 2].into(), 40_000);
        let dst = value.as_str().and_then(|a| a.parse().ok());
        flow.0.dst = dst.ok_or_else(|| format!("not a destination: {value}"))?;
        Ok(flow)
    }

    /// From an Ethernet frame in hexadecimal that carries TCP over IPv4 without options.
    pub(crate) fn of_frame(hex: &str) -> Result<Self, String> {
        let byte = |at: usize| {
            let digits = hex.get(2 * at..2 * at + 2).ok_or("frame too short")?;
            u8::from_str_radix(digits, 16).map_err(|e| e.to_string())
        };
        let addr = Ipv4Addr::new(byte(26)?, byte(27)?, byte(28)?, byte(29)?);
        Ok(Self::new(
            addr.into(),
            u16::from_be_bytes([byte(34)?, byte(35)?]),
        ))
    }
}

/// A service, its servers and their load.
pub(crate) struct Director {
    scheduler: Option<Arc<dyn Scheduler>>,
    name: String,
    flags: Flags,
    /// Newest first.
    list: Vec<RealServer>,
    /// Addresses in the order of addition: the recordings' index, and the slot.
    added: Vec<SocketAddr>,
    load: Load,
    /// Build the scheduler at the first pick only.
    lazy: bool,
    state: State,
}

impl Default for Director {
    fn default() -> Self {
        Self {
            scheduler: None,
            name: String::new(),
            flags: Flags::default(),
            list: Vec::new(),
            added: Vec::new(),
            load: Load::new(1, MOST_SERVERS),
            lazy: false,
            state: State::of_worker(0),
        }
    }
}

impl Director {
    /// After these commands, the scheduler rebuilt after each.
    pub(crate) fn one_by_one(commands: &[&str]) -> Result<Self, String> {
        let mut director = Self::default();
        commands.iter().try_for_each(|c| director.ipvsadm(c))?;
        Ok(director)
    }

    /// After these commands, the scheduler built once for all servers.
    pub(crate) fn at_once(commands: &[&str]) -> Result<Self, String> {
        let mut director = Self {
            lazy: true,
            ..Self::default()
        };
        commands.iter().try_for_each(|c| director.ipvsadm(c))?;
        director.lazy = false;
        director.build()?;
        Ok(director)
    }

    /// Carries a recorded command out; listings change nothing.
    pub(crate) fn ipvsadm(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |flag| {
            words
                .iter()
                .position(|w| *w == flag)
                .and_then(|n| words.get(n + 1))
        };
        let server = || {
            let addr = after("-r").ok_or_else(|| format!("no server in `{line}`"))?;
            let address = addr.parse::<SocketAddr>();
            // Behind a firewall mark servers are named without a port.
            address
                .or_else(|_| Ok(SocketAddr::new(addr.parse()?, 0)))
                .map_err(|e: AddrParseError| format!("{addr}: {e}"))
        };
        let number = |flag, otherwise: u32| {
            after(flag).map_or(Ok(otherwise), |n| {
                n.parse().map_err(|e| format!("{n}: {e}"))
            })
        };
        match words.first() {
            Some(&("-A" | "-E")) => {
                self.name = (*after("-s").ok_or("no scheduler")?).to_owned();
                let flags = after("-b").copied().unwrap_or_default();
                self.flags = flags.parse().map_err(|e| format!("{e}"))?;
            }
            Some(&"-a") => {
                let addr = server()?;
                self.added.push(addr);
                let slot = self.added.len() as u32 - 1;
                self.list.insert(0, new_server(addr, slot));
                self.edit(addr, number("-w", 1)?, number("-x", 0)?, number("-y", 0)?)?;
            }
            Some(&"-e") => {
                self.edit(
                    server()?,
                    number("-w", 1)?,
                    number("-x", 0)?,
                    number("-y", 0)?,
                )?;
            }
            Some(&"-d") => {
                let addr = server()?;
                self.list
                    .retain(|s| (s.addr, s.port) != (addr.ip(), addr.port()));
            }
            _ if words.iter().any(|w| w.starts_with("-L")) => return Ok(()),
            _ => return Err(format!("command not understood: `{line}`")),
        }
        self.build()
    }

    fn edit(
        &mut self,
        addr: SocketAddr,
        weight: u32,
        upper: u32,
        lower: u32,
    ) -> Result<(), String> {
        let same = |s: &&mut RealServer| (s.addr, s.port) == (addr.ip(), addr.port());
        let server = self
            .list
            .iter_mut()
            .find(same)
            .ok_or_else(|| format!("no server {addr}"))?;
        server.weight = Weight(u16::try_from(weight).map_err(|e| e.to_string())?);
        (server.upper, server.lower) = (upper, lower);
        Ok(())
    }

    fn build(&mut self) -> Result<(), String> {
        if !self.lazy {
            let servers = Servers::newest_first(self.list.clone());
            let built = build(&self.name, &self.flags, &servers, self.scheduler.as_deref());
            self.scheduler = Some(built.map_err(|e| e.to_string())?);
        }
        Ok(())
    }

    /// Picks for a new flow, opens a session on the server and counts it as active; an error
    /// where the kernel picked another server or none.
    pub(crate) fn expect(
        &mut self,
        n: usize,
        flow: &Flow,
        kernel: Option<u64>,
    ) -> Result<(), String> {
        let servers = Servers::newest_first(self.list.clone());
        let scheduler = self.scheduler.as_ref().ok_or("no service")?;
        let place = scheduler.schedule(&flow.0, &servers, &self.load, &mut self.state);
        let pick = place.map(|p| self.list[p].slot);
        if pick.map(|slot| u64::from(slot.0)) != kernel {
            return Err(format!("pick {n} is {pick:?}, the kernel's {kernel:?}"));
        }
        if let (Some(place), Some(slot)) = (place, pick) {
            if !self.load.open(WORKER, slot, self.list[place].upper) {
                return Err(format!("pick {n}: {slot:?} is full"));
            }
            self.load.set_active(WORKER, slot, true);
        }
        Ok(())
    }

    /// A session of a server stops being active.
    pub(crate) fn half_close(&mut self, server: Option<u64>) -> Result<(), String> {
        let slot = server
            .and_then(|s| u32::try_from(s).ok())
            .ok_or("no server to close on")?;
        self.load.set_active(WORKER, ServerSlot(slot), false);
        Ok(())
    }

    /// Active and inactive sessions of each server, in the order of addition.
    pub(crate) fn counts(&self) -> Vec<(u32, u32)> {
        let of = |n| {
            (
                self.load.active(ServerSlot(n)),
                self.load.inactive(ServerSlot(n)),
            )
        };
        (0..self.added.len() as u32).map(of).collect()
    }

    /// Compares weights and counts with the kernel's last listing.
    pub(crate) fn expect_counts(&self, listing: &Value) -> Result<(), String> {
        let listing = listing.as_object().ok_or("no final counts")?;
        if listing.len() != self.list.len() {
            return Err(format!(
                "{} servers, kernel {}",
                self.list.len(),
                listing.len()
            ));
        }
        for server in &self.list {
            let addr = SocketAddr::new(server.addr, server.port).to_string();
            let line = &listing
                .get(&addr)
                .ok_or_else(|| format!("no line for {addr}"))?;
            let kernel = ["weight", "active", "inact"].map(|k| line[k].as_u64());
            let load = (
                self.load.active(server.slot),
                self.load.inactive(server.slot),
            );
            let ours = [u32::from(server.weight.0), load.0, load.1].map(|n| Some(u64::from(n)));
            if kernel != ours {
                return Err(format!("{addr}: {ours:?}, kernel {kernel:?}"));
            }
        }
        Ok(())
    }
}

fn new_server(addr: SocketAddr, slot: u32) -> RealServer {
    RealServer {
        id: ServerId(slot),
        slot: ServerSlot(slot),
        service: ServiceId(0),
        addr: addr.ip(),
        port: addr.port(),
        mode: Mode::Nat,
        weight: Weight::ZERO,
        upper: 0,
        lower: 0,
        status: Status::Up,
    }
}
