//! Shared-nothing workers: whatever a worker does for its sessions, it touches none of another's. While
//! it is its turn the sessions of all others and their indexes are inaccessible memory, so that a
//! single access to them, be it a read, would end the process.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use rustix::process::Signal;
use shunt_bench::director::Scene;
use shunt_bench::flows::{Frames, Kind, Rig, Traffic, clients, establish};
use shunt_bench::lab::Lab;
use shunt_service::{Mode, Protocol};

/// Sessions of a worker before and after the others are shut out.
const BEFORE: usize = 40;
const AFTER: usize = 24;

/// A second, for a round of the sweep.
const SECOND: u64 = 1_000_000_000;

struct Shards {
    lab: Lab,
    traffic: Traffic,
    clients: Vec<Vec<u32>>,
}

impl Shards {
    fn new(workers: u16, mode: Mode, ipv6: bool, protocol: Protocol) -> Self {
        let each = (BEFORE + AFTER) as u32;
        let lab = Lab::new(
            Scene::new(mode, ipv6, protocol, each * u32::from(workers)),
            workers.into(),
        );
        Self {
            traffic: Traffic::new(lab.scene()),
            lab,
            clients: clients(workers, each, ipv6),
        }
    }

    /// Opens sessions of the worker whose turn it is, lets data go both ways, and closes some.
    fn work(&mut self, clients: &[u32]) {
        let Self { lab, traffic, .. } = self;
        let (mut frames, mut out) = (Frames::default(), Frames::default());
        let mut known = Vec::new();
        let before = lab.counters().forwarded.get();
        establish(lab, traffic, clients.iter().copied(), Some(&mut known));
        for some in clients.chunks(16) {
            for kind in [Kind::Data, Kind::Fin] {
                frames.clear();
                for n in some {
                    frames.push(|to| traffic.request(kind, *n, to));
                    if let Some(k) = clients
                        .iter()
                        .position(|c| c == n)
                        .and_then(|p| known.get(p))
                    {
                        frames.push(|to| traffic.reply(kind, *n, *k, to));
                    }
                }
                lab.pass(&frames, &mut out);
                assert_eq!(out.len(), frames.len(), "{}", lab.drops());
            }
        }
        assert!(lab.counters().forwarded.get() >= before + 3 * clients.len() as u64);
    }
}

fn alone(mode: Mode, ipv6: bool, protocol: Protocol) {
    for workers in [2, 4, 8, 16, 32, 64, 128] {
        let mut s = Shards::new(workers, mode, ipv6, protocol);
        for n in 0..usize::from(workers) {
            s.lab.turn(n);
            let some = s.clients[n][..BEFORE].to_vec();
            s.work(&some);
        }
        s.lab.alone();
        for n in 0..usize::from(workers) {
            s.lab.turn(n);
            let some = s.clients[n][BEFORE..].to_vec();
            s.work(&some);
            // The sweep, sessions that end, and a new configuration to judge the others by.
            let ended = s.lab.counters().sessions_closed.get();
            s.lab.change(2 + n as u32);
            for _ in 0..400 {
                s.lab.poll_after(SECOND);
            }
            assert!(s.lab.counters().sessions_closed.get() > ended);
            assert_eq!(s.lab.counters().handed_over.get(), 0);
        }
    }
}

#[test]
fn dr_sessions_are_their_workers_alone() {
    alone(Mode::Dr, false, Protocol::Tcp);
}

#[test]
fn fullnat_sessions_are_their_workers_alone() {
    alone(Mode::FullNat, false, Protocol::Tcp);
}

#[test]
fn nat_sessions_over_ipv6_are_their_workers_alone() {
    alone(Mode::Nat, true, Protocol::Udp);
}

/// Set in the process that is to die.
const TRESPASS: &str = "SHUNT_TEST_TRESPASS";

/// The test above could not fail if what is shut could be touched.
#[test]
fn who_touches_anothers_sessions_dies() {
    if std::env::var_os(TRESPASS).is_some() {
        let mut s = Shards::new(2, Mode::Nat, false, Protocol::Tcp);
        let (mine, theirs) = (s.clients[0].clone(), s.clients[1].clone());
        s.lab.turn(1);
        s.work(&theirs[..BEFORE]);
        s.lab.turn(0);
        s.work(&mine[..BEFORE]);
        s.lab.alone();
        // The second worker's turn, as it were, but its sessions are shut.
        s.lab.trespass(1);
        s.work(&theirs[BEFORE..]);
        return;
    }
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "who_touches_anothers_sessions_dies"])
        .env(TRESPASS, "1")
        .output()
        .expect("this program runs");
    let died = child.status.signal();
    assert_eq!(died, Some(Signal::SEGV.as_raw()), "{child:?}");
}
