//! What the integration tests share: flows, sessions over them, a table.
#![allow(dead_code, reason = "each test file uses its part")]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shunt_service::{AdjacencyId, FlowKey, Mode, Protocol, ServerId, ServerSlot, ServiceId};
use shunt_session::{Arena, Counts, Direction, Flags, Key, NewSession, Table, TableConfig};
use shunt_wire::checksum::Delta;

/// A table of its own arena.
pub(crate) fn table(sessions: u32) -> Table {
    let arena = Arena::new(sessions, 1).expect("address space");
    Table::new(
        arena,
        TableConfig {
            sessions,
            secret: [0x1234, 0x5678],
        },
    )
    .expect("a table")
}

/// A client's flow to port 80 of the VIP.
pub(crate) fn flow(protocol: Protocol, ipv6: bool, client: u32, port: u16) -> FlowKey {
    let (src, dst): (IpAddr, IpAddr) = if ipv6 {
        let prefix = 0x2001_0db8_u128 << 96;
        (
            Ipv6Addr::from(prefix | u128::from(client)).into(),
            Ipv6Addr::from(prefix | 1 << 64).into(),
        )
    } else {
        (
            Ipv4Addr::from(0x0a00_0000 + client).into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        )
    };
    FlowKey {
        protocol,
        src,
        dst,
        src_port: port,
        dst_port: 80,
    }
}

/// The real server that [`session`] sends to.
pub(crate) fn server(ipv6: bool) -> IpAddr {
    if ipv6 {
        "2001:db8:5::11".parse().expect("address")
    } else {
        "192.168.1.11".parse().expect("address")
    }
}

/// The local address of FULLNAT.
pub(crate) fn local(ipv6: bool) -> IpAddr {
    if ipv6 {
        "2001:db8:5::1".parse().expect("address")
    } else {
        "192.168.1.1".parse().expect("address")
    }
}

/// A session for a flow; `local_port` is FULLNAT's.
pub(crate) fn session(flow: &FlowKey, mode: Mode, local_port: u16) -> NewSession {
    let ipv6 = flow.src.is_ipv6();
    let mut to = *flow;
    match mode {
        Mode::Dr => {}
        Mode::Tun => (to.src, to.dst) = (local(ipv6), server(ipv6)),
        Mode::Nat => (to.dst, to.dst_port) = (server(ipv6), 8080),
        Mode::FullNat => {
            (to.src, to.src_port) = (local(ipv6), local_port);
            (to.dst, to.dst_port) = (server(ipv6), 8080);
        }
    }
    let direction = |from: &FlowKey, to: &FlowKey, n: u16| Direction {
        key: Key::from(from),
        to: Key::from(to),
        l4_delta: Delta(n),
        ip_delta: Delta(n + 1),
        adjacency: AdjacencyId(u32::from(n) + 2),
        adjacency_generation: n + 3,
    };
    NewSession {
        protocol: flow.protocol,
        mode,
        forward: direction(flow, &to, 100),
        reply: mode
            .sees_replies()
            .then(|| direction(&to.reversed(), &flow.reversed(), 200)),
        service: ServiceId(7),
        server: ServerId(8),
        slot: ServerSlot(0xff_fffe),
        counts: Counts::default(),
        flags: Flags::empty(),
        seq_delta: 0,
    }
}

/// The next number of a row without structure (a linear congruence; Knuth's MMIX constants).
pub(crate) fn step(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Sessions by what they must still be after an adoption.
pub(crate) mod model {
    use hashbrown::HashMap;
    use shunt_service::settings::SHARDS;
    use shunt_service::{FlowKey, Load, Mode, Protocol, ServerSlot, TcpState};
    use shunt_session::{
        AdoptConfig, Adopted, Arena, Key, LocalPorts, NewSession, Segment, Shards, Table,
        TableConfig, adopt, on_segment,
    };
    use std::sync::Arc;

    /// The slot that every server has after an adoption.
    pub(crate) const SLOT: ServerSlot = ServerSlot(3);

    #[derive(Clone, Debug)]
    pub(crate) struct Known {
        pub(crate) new: NewSession,
        pub(crate) last_seen: u32,
        pub(crate) state: TcpState,
        pub(crate) packets: u64,
    }

    /// Making them takes a while.
    fn shards() -> &'static Shards {
        static SHARDS: std::sync::OnceLock<Shards> = std::sync::OnceLock::new();
        SHARDS.get_or_init(Shards::default)
    }

    /// The n-th flow, with the mode it has.
    pub(crate) fn nth(n: u32) -> (FlowKey, NewSession) {
        let protocol = if n.is_multiple_of(3) {
            Protocol::Udp
        } else {
            Protocol::Tcp
        };
        let flow = super::flow(protocol, n.is_multiple_of(5), n, 1024 + (n % 7) as u16);
        let mode = Mode::ALL[(n / 2) as usize % 4];
        let shard = shards().shard(flow.src, flow.src_port);
        let local = 1024 + 128 * (n / 8 % 504) as u16 + u16::from(shard);
        let mut new = super::session(&flow, mode, local);
        new.slot = SLOT;
        if mode.sees_replies() {
            new.seq_delta = n;
        }
        (flow, new)
    }

    pub(crate) fn secrets(workers: usize, sessions: u32) -> Vec<TableConfig> {
        (0..workers as u64)
            .map(|n| TableConfig {
                sessions,
                secret: [n * 77 + 5, n ^ 0x1234_5678],
            })
            .collect()
    }

    pub(crate) fn map(workers: usize) -> [u16; SHARDS] {
        core::array::from_fn(|shard| (shard % workers) as u16)
    }

    pub(crate) struct Workers {
        pub(crate) tables: Vec<(Table, LocalPorts)>,
        pub(crate) load: Load,
        pub(crate) shards: Shards,
    }

    impl Workers {
        /// Adopts what is in an arena.
        pub(crate) fn adopt(
            arena: &Arc<Arena>,
            workers: usize,
            sessions: u32,
        ) -> (Self, shunt_session::Census) {
            let load = Load::new(workers as u16, 8);
            let shards = shards().clone();
            let config = AdoptConfig {
                tables: &secrets(workers, sessions),
                shards: &shards,
                map: &map(workers),
                load: &load,
                templates: None,
                sources: None,
            };
            let Adopted { tables, census } = adopt(arena, config, |service, server| {
                (service.0 == 7 && server.0 == 8).then_some(SLOT)
            })
            .expect("room for sessions");
            (
                Self {
                    tables,
                    load,
                    shards,
                },
                census,
            )
        }

        pub(crate) fn of(&mut self, flow: &FlowKey) -> &mut (Table, LocalPorts) {
            let shard = self.shards.shard(flow.src, flow.src_port);
            let n = self.tables.len();
            &mut self.tables[usize::from(shard) % n]
        }

        pub(crate) fn len(&self) -> usize {
            self.tables.iter().map(|(t, _)| t.len()).sum()
        }

        /// Whether the session of a flow is there and all that must stay of it has.
        pub(crate) fn holds(&mut self, flow: &FlowKey, known: &[&Known]) -> Result<(), String> {
            let (table, ports) = self.of(flow);
            let Some(line) = table.find(&Key::from(flow)) else {
                return Err("it is not there".to_owned());
            };
            let Some(Known { new, .. }) = known.first().copied() else {
                return Err("it must not be there".to_owned());
            };
            let cold = table.cold(line);
            if (cold.service(), cold.server()) != (new.service, new.server) {
                return Err(format!("service and server: {cold:?}"));
            }
            let peer = table.peer(line);
            if (peer != line) != new.reply.is_some() {
                return Err("one direction or two".to_owned());
            }
            let both = [(line, &new.forward)];
            let reply = new.reply.iter().map(|r| (peer, r));
            for (l, d) in both.into_iter().chain(reply) {
                if table.find(&d.key) != Some(l) {
                    return Err(format!("key {:?}", d.key));
                }
                let e = table.entry(l);
                let ends = [table.new_src(l), table.new_dst(l)];
                let to = d.to.flow();
                let expected = [(to.src, to.src_port).into(), (to.dst, to.dst_port).into()];
                if new.mode != Mode::Dr && ends != expected {
                    return Err(format!("{ends:?} instead of {expected:?}"));
                }
                if (e.l4_delta(), e.ip_delta(), e.mode(), e.slot())
                    != (d.l4_delta, d.ip_delta, new.mode, SLOT)
                {
                    return Err(format!("{e:?}"));
                }
                if new.reply.is_some() && e.seq_delta() != new.seq_delta {
                    return Err(format!("sequence delta {}", e.seq_delta()));
                }
                let changing = |k: &&Known| k.state == e.state();
                if !known.iter().any(changing) {
                    return Err(format!("state {:?}", e.state()));
                }
            }
            let seen = table.entry(line).last_seen();
            if !known.iter().any(|k| k.last_seen == seen) {
                return Err(format!("last seen {seen}"));
            }
            if new.mode == Mode::FullNat {
                let to = new.forward.to.flow();
                if ports.taken(to.src, (to.dst, to.dst_port)) == 0 {
                    return Err("its local port is not taken".to_owned());
                }
            }
            Ok(())
        }

        /// Inserts the session of a flow.
        pub(crate) fn insert(&mut self, flow: &FlowKey, new: &NewSession, now: u32) -> bool {
            let (table, ports) = self.of(flow);
            if table.insert(new, now).is_err() {
                return false;
            }
            if new.mode == Mode::FullNat {
                let to = new.forward.to.flow();
                ports.adopt(to.src, (to.dst, to.dst_port), to.src_port);
            }
            true
        }

        /// A segment of the client's.
        pub(crate) fn segment(&mut self, flow: &FlowKey, flags: u8) -> TcpState {
            let (table, _) = self.of(flow);
            let line = table.find(&Key::from(flow)).expect("it is there");
            let segment = Segment {
                flags,
                seq: 1,
                ack: 1,
                window: 1000,
                payload_len: 0,
                wscale: None,
            };
            on_segment(table, line, &segment).to
        }
    }

    pub(crate) type Sessions = HashMap<u32, Known>;
}

/// Session files in a folder of their own, in memory where there is a place for it.
pub(crate) mod files {
    use std::path::{Path, PathBuf};

    use shunt_session::file::{self, FileConfig, FileError, Keys, Opened};
    use shunt_session::shard::DEFAULT_KEY;
    use tempfile::TempDir;

    /// A folder that is gone when this is.
    pub(crate) fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("a folder");
        let path = folder.path().join("sessions");
        (folder, path)
    }

    /// What the tests' files are.
    pub(crate) fn config(path: &Path) -> FileConfig<'_> {
        FileConfig {
            path,
            sessions: 2000,
            tables: 1,
            identities: 10,
            templates: 0,
            boot: [7; 16],
            now_ms: 1_000_000,
            discard: false,
            keys: Keys {
                shard: DEFAULT_KEY,
                isn_secret: [3, 4],
            },
        }
    }

    /// Opens it, with memory for all of it.
    pub(crate) fn open(config: &FileConfig<'_>) -> Result<Opened, FileError> {
        let opened = file::open(config)?;
        opened.arena.provide(u32::MAX).expect("memory");
        Ok(opened)
    }
}
