//! The table against a plain model: hash maps of keys and sessions, and no cleverness. Few
//! clients, ports and local ports, so that keys of both directions collide and small tables fill.

mod common;

use core::net::IpAddr;

use common::{flow, session, table};
use hashbrown::HashMap;
use proptest::prelude::*;
use shunt_service::{FlowKey, Mode, Protocol, ServerId, ServiceId, TcpState};
use shunt_session::{
    Closed, Direction, Flags, InsertError, Key, LineNo, NewSession, SessionView, Table,
};

/// The sweep's clock ticks every so many milliseconds; the model's time is in ticks, so that nothing
/// is ended late.
const TICK_MS: u32 = 256;
/// Idle timeouts of the model's services, milliseconds.
const TCP_MS: u32 = 4 * TICK_MS;
const UDP_MS: u32 = TICK_MS;

#[derive(Clone, Copy, Debug)]
enum Op {
    Insert {
        flow: FlowKey,
        mode: Mode,
        local_port: u16,
    },
    Touch {
        which: usize,
        reply: bool,
        bytes: u32,
    },
    Remove {
        which: usize,
        by_reply: bool,
    },
    Wait {
        ms: u32,
    },
    Sweep,
    Judge,
    Page {
        limit: usize,
    },
}

/// Address and port of one end.
type End = (IpAddr, u16);

/// What the model knows of a session.
#[derive(Clone, Debug)]
struct Known {
    line: LineNo,
    new: NewSession,
    client: End,
    vip: End,
    last_seen: u32,
    /// Packets and bytes: from the client, from the server.
    traffic: [(u64, u64); 2],
}

struct Model {
    table: Table,
    sessions: Vec<Known>,
    /// Each key's session (by its forward line) and direction.
    keys: HashMap<Key, (LineNo, bool)>,
    now: u32,
}

fn op() -> impl Strategy<Value = Op> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let mode = prop::sample::select(Mode::ALL.as_slice());
    let insert = (
        protocol,
        any::<bool>(),
        0u32..3,
        0u16..3,
        80u16..82,
        mode,
        0u16..3,
    )
        .prop_map(|(protocol, ipv6, client, port, vip_port, mode, local)| {
            let mut flow = flow(protocol, ipv6, client, 4000 + port);
            flow.dst_port = vip_port;
            Op::Insert {
                flow,
                mode,
                local_port: 1024 + local,
            }
        });
    let bytes = prop_oneof![9 => 0u32..1500, 1 => Just(u32::MAX)];
    prop_oneof![
        6 => insert,
        6 => (any::<usize>(), any::<bool>(), bytes)
            .prop_map(|(which, reply, bytes)| Op::Touch { which, reply, bytes }),
        2 => (any::<usize>(), any::<bool>())
            .prop_map(|(which, by_reply)| Op::Remove { which, by_reply }),
        2 => (0u32..3).prop_map(|ticks| Op::Wait { ms: ticks * TICK_MS }),
        1 => Just(Op::Judge),
        1 => Just(Op::Sweep),
        1 => (1usize..5).prop_map(|limit| Op::Page { limit }),
    ]
}

fn timeout(view: &SessionView) -> u32 {
    if view.protocol == Protocol::Tcp {
        TCP_MS
    } else {
        UDP_MS
    }
}

impl Model {
    fn new(sessions: u32, now: u32) -> Self {
        Self {
            table: table(sessions),
            sessions: Vec::new(),
            keys: HashMap::new(),
            now,
        }
    }

    fn insert(&mut self, flow: &FlowKey, mode: Mode, local_port: u16) {
        let new = session(flow, mode, local_port);
        let taken = |d: &Direction| self.keys.contains_key(&d.key);
        let expected = if taken(&new.forward) {
            Some(InsertError::ForwardTaken)
        } else if new.reply.as_ref().is_some_and(taken) {
            Some(InsertError::ReplyTaken)
        } else if self.sessions.len() == self.table.capacity() {
            Some(InsertError::Full)
        } else {
            None
        };
        match self.table.insert(&new, self.now) {
            Ok(line) => {
                assert_eq!(expected, None);
                self.keys.insert(new.forward.key, (line, false));
                if let Some(reply) = &new.reply {
                    self.keys.insert(reply.key, (line, true));
                }
                self.sessions.push(Known {
                    line,
                    new,
                    client: (flow.src, flow.src_port),
                    vip: (flow.dst, flow.dst_port),
                    last_seen: self.now,
                    traffic: [(0, 0); 2],
                });
            }
            // An index of few buckets may have no place in reach of a key before it is full.
            Err(InsertError::Full) if expected.is_none() => {}
            Err(e) => assert_eq!(Some(e), expected),
        }
    }

    fn touch(&mut self, which: usize, reply: bool, bytes: u32) {
        let n = self.sessions.len();
        let Some(known) = which.checked_rem(n).and_then(|n| self.sessions.get_mut(n)) else {
            return;
        };
        let reply = reply && known.new.reply.is_some();
        let line = if reply {
            self.table.peer(known.line)
        } else {
            known.line
        };
        self.table.entry_mut(line).touch(self.now, bytes);
        known.last_seen = self.now;
        let (packets, sum) = &mut known.traffic[usize::from(reply)];
        (*packets, *sum) = (*packets + 1, *sum + u64::from(bytes));
    }

    fn remove(&mut self, which: usize, by_reply: bool) {
        let Some(n) = which.checked_rem(self.sessions.len()) else {
            return;
        };
        let known = self.sessions.swap_remove(n);
        let line = if by_reply {
            self.table.peer(known.line)
        } else {
            known.line
        };
        let closed = self.table.remove(line);
        self.forget(&known);
        is_described(&known, &closed);
    }

    fn forget(&mut self, known: &Known) {
        self.keys.remove(&known.new.forward.key);
        if let Some(reply) = &known.new.reply {
            self.keys.remove(&reply.key);
        }
    }

    /// A whole round over all sessions: servers of odd client ports are gone.
    fn judge(&mut self) {
        self.table.judge_all();
        self.sweep();
        for known in &self.sessions {
            for line in [known.line, self.table.peer(known.line)] {
                let gone = self.table.entry(line).flags().contains(Flags::GONE);
                assert_eq!(gone, known.client.1 % 2 == 1);
            }
        }
    }

    /// A whole round ends what is idle, and nothing else.
    fn sweep(&mut self) {
        let mut closed: Vec<Closed> = Vec::new();
        let (table, now) = (&mut self.table, self.now);
        let (slots, mut looked) = (table.slots(), 0);
        while looked < slots {
            let gone = |v: &SessionView| v.client.1 % 2 == 1;
            looked += table.sweep(now, slots - looked, timeout, gone, |c| closed.push(*c));
        }
        let idle = |k: &Known| {
            let most = if k.new.protocol == Protocol::Tcp {
                TCP_MS
            } else {
                UDP_MS
            };
            now.wrapping_sub(k.last_seen) >= most
        };
        let (ended, live): (Vec<_>, Vec<_>) = self.sessions.drain(..).partition(idle);
        self.sessions = live;
        assert_eq!(closed.len(), ended.len());
        for known in ended {
            self.forget(&known);
            let same = |c: &&Closed| {
                (c.protocol, c.client, c.vip) == (known.new.protocol, known.client, known.vip)
            };
            is_described(&known, closed.iter().find(same).expect("reported as ended"));
        }
    }

    /// Pages list every session once.
    fn page(&self, limit: usize) {
        let mut seen: HashMap<(Protocol, End, End), SessionView> = HashMap::new();
        let mut cursor = Some(0);
        let mut pages = 0;
        while let Some(at) = cursor {
            let mut listed = 0;
            cursor = self.table.page(self.now, at, limit, |v| {
                listed += 1;
                assert!(
                    seen.insert((v.protocol, v.client, v.vip), *v).is_none(),
                    "listed twice"
                );
            });
            assert!(listed <= limit);
            pages += 1;
            assert!(pages <= self.table.slots() + 1, "an end is reached");
        }
        assert_eq!(seen.len(), self.sessions.len());
        for known in &self.sessions {
            let view = &seen[&(known.new.protocol, known.client, known.vip)];
            is_described(known, view);
            assert_eq!(view.idle_ms, self.now.wrapping_sub(known.last_seen));
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Insert {
                flow,
                mode,
                local_port,
            } => self.insert(&flow, mode, local_port),
            Op::Touch {
                which,
                reply,
                bytes,
            } => self.touch(which, reply, bytes),
            Op::Remove { which, by_reply } => self.remove(which, by_reply),
            Op::Wait { ms } => self.now = self.now.wrapping_add(ms),
            Op::Sweep => self.sweep(),
            Op::Judge => self.judge(),
            Op::Page { limit } => self.page(limit),
        }
    }

    /// Every key that there could be is found, or not, by each way to look.
    fn check(&self) {
        assert_eq!(self.table.len(), self.sessions.len());
        assert_eq!(self.table.is_empty(), self.sessions.is_empty());
        // No handshake ever ends here.
        let tcp = self
            .sessions
            .iter()
            .filter(|k| k.new.protocol == Protocol::Tcp);
        assert_eq!(self.table.half_open(), tcp.count());
        for (key, (line, reply)) in &self.keys {
            let expected = if *reply {
                self.table.peer(*line)
            } else {
                *line
            };
            assert_eq!(self.look(key), Some(expected), "{key:?}");
            assert_eq!(self.table.entry(expected).is_reply(), *reply);
            assert_ne!(self.table.entry(expected).generation(), 0);
        }
        for client in 0..3 {
            for (ipv6, protocol) in [(false, Protocol::Tcp), (true, Protocol::Udp)] {
                let key = Key::from(&flow(protocol, ipv6, client, 4000));
                let expected = self.keys.get(&key).map(|(line, _)| *line);
                assert_eq!(self.look(&key), expected, "{key:?}");
                let other = Key::from(&flow(protocol, ipv6, client, 9));
                assert_eq!(self.look(&other), None);
            }
        }
    }

    /// Looks a key up in the hot path's way and the slow one.
    fn look(&self, key: &Key) -> Option<LineNo> {
        let t = &self.table;
        let found = match key {
            Key::V4(k) => {
                let hash = t.hash4(k);
                t.prefetch(hash);
                t.find4(hash, t.candidate(hash), k)
            }
            Key::V6(k) => {
                let hash = t.hash6(k);
                t.prefetch(hash);
                t.find6(hash, t.candidate6(hash), k)
            }
        };
        assert_eq!(found, t.find(key));
        found
    }

    /// What was written is read: each direction's rewrite, and what both share.
    fn check_contents(&self) {
        for known in &self.sessions {
            let t = &self.table;
            let directions = [Some(&known.new.forward), known.new.reply.as_ref()];
            let lines = [known.line, t.peer(known.line)];
            for (d, line) in directions.into_iter().zip(lines) {
                let Some(d) = d else { continue };
                let e = t.entry(line);
                assert_eq!((e.l4_delta(), e.ip_delta()), (d.l4_delta, d.ip_delta));
                let adjacency = (e.adjacency(), e.adjacency_generation());
                assert_eq!(adjacency, (d.adjacency, d.adjacency_generation));
                let to = d.to.flow();
                assert_eq!(
                    e.new_ports(),
                    [to.src_port, to.dst_port].map(u16::to_be_bytes)
                );
                let (src, dst) = (t.new_src(line), t.new_dst(line));
                assert_eq!([src.ip(), dst.ip()], [to.src, to.dst]);
                assert_eq!([src.port(), dst.port()], [to.src_port, to.dst_port]);
                assert_eq!(
                    (e.mode(), e.protocol()),
                    (known.new.mode, known.new.protocol)
                );
                assert_eq!((e.slot(), e.state()), (known.new.slot, TcpState::None));
                assert_eq!(e.is_paired(), known.new.reply.is_some());
                let client = t.client(line);
                assert_eq!((client.ip(), client.port()), known.client);
            }
            let cold = self.table.cold(lines[1]);
            assert_eq!((cold.service(), cold.server()), (ServiceId(7), ServerId(8)));
        }
    }
}

fn is_described(known: &Known, view: &SessionView) {
    assert_eq!(
        (view.protocol, view.mode),
        (known.new.protocol, known.new.mode)
    );
    assert_eq!((view.client, view.vip), (known.client, known.vip));
    let new = known.new.forward.to.flow();
    let local = (known.new.mode == Mode::FullNat).then_some((new.src, new.src_port));
    assert_eq!(view.local, local);
    let remote = if known.new.mode.sees_replies() {
        (new.dst, new.dst_port)
    } else {
        known.vip
    };
    assert_eq!(view.remote, remote);
    assert_eq!((view.service, view.server), (ServiceId(7), ServerId(8)));
    assert_eq!(view.slot, known.new.slot);
    let traffic = [
        (view.packets_in, view.bytes_in),
        (view.packets_out, view.bytes_out),
    ];
    assert_eq!(traffic, known.traffic);
    assert_eq!(view.last_client_seq, None, "no segment told a window");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    #[test]
    fn equals_the_model(
        sessions in 1u32..40,
        start in prop_oneof![Just(0u32), Just(u32::MAX - 2 * TICK_MS + 1)],
        ops in prop::collection::vec(op(), 0..120),
    ) {
        let mut model = Model::new(sessions, start);
        for op in ops {
            model.apply(op);
            model.check();
        }
        model.check_contents();
        model.page(3);
        model.sweep();
        while !model.sessions.is_empty() {
            model.remove(0, false);
        }
        model.check();
    }
}

/// A bounded sweep comes round to everything, however small its steps.
#[test]
fn small_steps_come_round() {
    let mut table = table(64);
    for client in 0..50 {
        let mode = Mode::ALL[client as usize % 4];
        let new = session(&flow(Protocol::Udp, client % 3 == 0, client, 1), mode, 2000);
        // Reply keys of FULLNAT with one local port meet; that is not what is tested here.
        let _ = table.insert(&new, 0);
    }
    let (live, slots) = (table.len(), table.slots());
    assert!(live > 30);
    let mut ended = 0;
    for _ in 0..slots {
        table.sweep(1000, 1, |_| 1000, |_| false, |_| ended += 1);
    }
    assert_eq!((ended, table.len()), (live, 0));
}
