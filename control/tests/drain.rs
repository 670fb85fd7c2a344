//! Drains on a clock that the test moves: what workers are told of the server, when a drain ends and how,
//! and what else may happen to the server meanwhile.

use core::time::Duration;

use shunt_control::config::{self, Config, Machine, edit};
use shunt_control::director::Director;
use shunt_control::drain::{Order, Outcome};
use shunt_control::health::saved::Known;
use shunt_control::snapshot::Snapshot;
use shunt_service::publish::Reader;
use shunt_service::{OnRemoved, ServerId, ServerSlot, Status, Ticks, Weight, WorkerId};
use shunt_session::{Arena, IdTable};

const W: WorkerId = WorkerId(0);
const FINISH: Status = Status::Ended(OnRemoved::Finish);

/// Milliseconds after the start.
fn at(ms: u64) -> Ticks {
    Ticks::from_millis(ms)
}

fn file(servers: &[(u8, u16)], more: &str) -> Config {
    let mut text = format!(
        "[[port]]\nname='p'\ndevice='net_null0'\n\
         [[service]]\nprotocol='tcp'\nvip='10.0.0.1:80'\nscheduler='wrr'\n{more}\n"
    );
    for (last, weight) in servers {
        text += &format!("[[service.server]]\naddress='10.1.0.{last}:80'\nweight={weight}\n");
    }
    config::parse("shunt.toml", &text, &Machine::default()).expect("a good file")
}

fn order(deadline_s: impl Into<Option<u64>>, then: OnRemoved) -> Order {
    Order {
        deadline: deadline_s.into().map(Duration::from_secs),
        then,
    }
}

struct Bench {
    director: Director,
    reader: Reader<Snapshot>,
}

impl Bench {
    fn new(config: Config) -> Self {
        let (director, mut readers) = Director::new(config, at(0)).expect("it fits");
        let reader = readers.pop().expect("one worker");
        Self { director, reader }
    }

    fn find(&self, last: u8) -> (ServerId, ServerSlot) {
        let list = &self.director.snapshot().services.list()[0].servers;
        let address: core::net::IpAddr = [10, 1, 0, last].into();
        let server = list
            .iter()
            .find(|s| s.addr == address)
            .expect("it is there");
        (server.id, server.slot)
    }

    /// Last byte of the address, weight and status of each server, newest first.
    fn list(&self) -> Vec<(u8, u16, Status)> {
        let list = &self.director.snapshot().services.list()[0].servers;
        let last = |s: &shunt_service::RealServer| match s.addr {
            core::net::IpAddr::V4(a) => a.octets()[3],
            core::net::IpAddr::V6(_) => 0,
        };
        list.iter()
            .map(|s| (last(s), s.weight.0, s.status))
            .collect()
    }

    fn status(&self, last: u8) -> Status {
        let all = self.list();
        all.iter()
            .find(|(l, ..)| *l == last)
            .expect("it is there")
            .2
    }

    fn drain(&mut self, last: u8, order: Order, now: Ticks) -> bool {
        let (id, _) = self.find(last);
        self.director
            .drain(id, order, 1000, now)
            .expect("it is there")
    }

    fn outcome(&self, last: u8) -> Option<Outcome> {
        self.director
            .drain_of(self.find(last).0)
            .expect("a drain")
            .outcome
    }

    fn reload(&mut self, config: Config) {
        self.director.apply(config, at(0)).expect("it fits");
    }
}

#[test]
fn a_drained_server_has_no_weight_until_the_drain_is_cancelled() {
    let three = [(1, 3), (2, 5), (3, 7)];
    let mut bench = Bench::new(file(&three, ""));
    let before: Vec<_> = [1, 2, 3].map(|n| bench.find(n)).into();
    assert!(bench.drain(2, order(None, OnRemoved::Finish), at(0)));
    let drained = [(3, 7, Status::Up), (2, 0, FINISH), (1, 3, Status::Up)];
    assert_eq!(bench.list(), drained);
    let service = bench.director.snapshot().services.list()[0].id;
    assert_eq!(bench.director.quorum(service).live, 10);

    // A reload, with another weight of it and another server.
    bench.reload(file(&[(1, 3), (2, 6), (3, 7), (4, 1)], ""));
    assert_eq!(bench.list()[1..], drained);
    bench.director.advance(at(3_600_000));
    assert_eq!(bench.list()[1..], drained, "there is no deadline");
    assert_eq!([1, 2, 3].map(|n| bench.find(n)).to_vec(), before);

    let id = before[1].0;
    assert!(bench.director.cancel_drain(id, at(1)));
    assert!(!bench.director.cancel_drain(id, at(1)));
    let back = [(3, 7, Status::Up), (2, 6, Status::Up), (1, 3, Status::Up)];
    assert_eq!(
        bench.list()[1..],
        back,
        "with the weight that it has by now"
    );
}

#[test]
fn at_the_deadline_the_policy_is_in_force_unless_none_is_left() {
    for then in [OnRemoved::Finish, OnRemoved::Reset, OnRemoved::Reschedule] {
        let mut bench = Bench::new(file(&[(1, 1), (2, 1)], ""));
        let (_, one) = bench.find(1);
        assert!(bench.director.load().open(W, one, 0));
        for last in [1, 2] {
            bench.drain(last, order(10, then), at(1000));
        }
        // Nobody has a session with 2; a worker that has not read the snapshot may be making one.
        bench.director.advance(at(2000));
        assert_eq!(bench.outcome(2), None);
        bench.reader.refresh();
        bench.director.advance(at(3000));
        assert_eq!(bench.outcome(2), Some(Outcome::Gone));

        bench.director.advance(at(10_999));
        assert_eq!((bench.outcome(1), bench.status(1)), (None, FINISH));
        bench.director.advance(at(11_000));
        assert_eq!(bench.outcome(1), Some(Outcome::Deadline));
        assert_eq!(bench.status(1), Status::Ended(then));
        assert_eq!(bench.status(2), FINISH, "it ended before");
        let version = bench.director.snapshot().generation;
        bench.director.load().close(W, one, false, 0, 0);
        assert!(!bench.director.advance(at(12_000)), "once");
        assert_eq!(bench.director.snapshot().generation, version);
        assert_eq!(bench.outcome(1), Some(Outcome::Deadline));
    }
}

#[test]
fn another_order_gives_another_deadline_to_the_same_drain() {
    let mut bench = Bench::new(file(&[(1, 1), (2, 1)], ""));
    let (id, slot) = bench.find(1);
    for _ in 0..3 {
        assert!(bench.director.load().open(W, slot, 0));
    }
    assert!(bench.drain(1, order(10, OnRemoved::Reset), at(0)));
    bench.director.load().close(W, slot, false, 0, 0);
    bench.director.advance(at(10_000));
    assert_eq!(bench.status(1), Status::Ended(OnRemoved::Reset));
    assert!(!bench.drain(1, order(60, OnRemoved::Reschedule), at(20_000)));
    assert_eq!((bench.status(1), bench.outcome(1)), (FINISH, None));
    let drain = bench.director.drain_of(id).expect("it is there");
    assert_eq!((drain.since, drain.before), (1000, 3), "as it began");
    bench.director.advance(at(79_999));
    assert_eq!(bench.outcome(1), None);
    bench.director.advance(at(80_000));
    assert_eq!(bench.status(1), Status::Ended(OnRemoved::Reschedule));
}

#[test]
fn a_server_that_is_removed_takes_its_drain_along() {
    let mut bench = Bench::new(file(&[(1, 1), (2, 1)], ""));
    let (id, slot) = bench.find(1);
    assert!(bench.director.load().open(W, slot, 0));
    bench.drain(1, order(10, OnRemoved::Reset), at(0));
    assert!(bench.director.take_drains_changed());
    bench.reload(file(&[(2, 1)], ""));
    assert!(bench.director.take_drains_changed(), "it is not to be kept");
    let left = bench
        .director
        .snapshot()
        .services
        .server(slot)
        .expect("it has a session");
    assert_eq!((left.id, left.status), (id, Status::Removed));
    assert!(bench.director.drain_of(id).is_none());
    bench.director.advance(at(20_000));
    assert_eq!(
        bench
            .director
            .drain(id, order(None, OnRemoved::Finish), 0, at(0)),
        None
    );

    // Added again it is the same server, and serves.
    bench.reload(file(&[(2, 1), (1, 1)], ""));
    assert_eq!(bench.list(), [(1, 1, Status::Up), (2, 1, Status::Up)]);
    assert_eq!(bench.find(1), (id, slot));
}

/// A server that is dead is dead, drained or not; and a drained one that is well again stays drained.
#[test]
fn marks_and_checks_are_beside_a_drain() {
    for (on_failure, failed) in [
        ("down", Status::Down),
        ("remove", Status::Removed),
        ("inhibit", FINISH),
    ] {
        let check = format!("check={{type='tcp', on_failure='{on_failure}'}}");
        let mut bench = Bench::new(file(&[(1, 4), (2, 1)], &check));
        let (id, _) = bench.find(1);
        bench.drain(1, order(10, OnRemoved::Reset), at(0));
        bench.director.set_failed([(id, true)], at(1));
        assert_eq!(bench.status(1), failed);
        bench.director.set_down(id, true, at(2));
        assert_eq!(bench.status(1), Status::Down);
        bench.director.set_down(id, false, at(3));
        bench.director.set_failed([(id, false)], at(4));
        assert_eq!(bench.list()[1], (1, 0, FINISH));
        bench.director.cancel_drain(id, at(5));
        assert_eq!(bench.list()[1], (1, 4, Status::Up));
    }
}

/// The next process: what has ended is over, and what goes on has as much time left.
#[test]
fn drains_outlive_the_process() {
    let config = || file(&[(1, 1), (2, 2), (3, 3), (4, 4)], "");
    let mut bench = Bench::new(config());
    let (_, slot) = bench.find(1);
    for last in 1..=4 {
        assert!(bench.director.load().open(W, bench.find(last).1, 0));
    }
    bench.drain(1, order(100, OnRemoved::Reset), at(0));
    bench.drain(2, order(5, OnRemoved::Reset), at(0));
    bench.drain(3, order(None, OnRemoved::Finish), at(0));
    bench.drain(4, order(50, OnRemoved::Reschedule), at(0));
    bench.director.advance(at(10_000));
    let kept = bench.director.kept_drains(5000, at(10_000));
    assert_eq!((kept.len(), bench.director.load().sessions(slot)), (4, 1));
    drop(bench);

    // 4 has left the configuration; 60 seconds passed.
    let arena = Arena::new(1024, 1).expect("address space");
    let config = file(&[(1, 1), (2, 2), (3, 3)], "");
    let (mut director, mut readers) =
        Director::resume(config, IdTable::open(&arena), Known::new(), at(0)).expect("it fits");
    director.resume_drains(&kept, 5060, at(0));
    let reader = readers.pop().expect("one worker");
    let mut bench = Bench { director, reader };
    // Adopted sessions.
    for last in 1..=3 {
        bench.director.load().adopt(W, bench.find(last).1, true);
    }
    bench.reader.refresh();
    assert_eq!(
        bench.list(),
        [
            (3, 0, FINISH),
            (2, 0, Status::Ended(OnRemoved::Reset)),
            (1, 0, FINISH)
        ]
    );
    bench.director.advance(at(29_999));
    assert_eq!(bench.outcome(1), None);
    bench.director.advance(at(30_000));
    assert_eq!(bench.status(1), Status::Ended(OnRemoved::Reset));
    let (id, _) = bench.find(3);
    let drain = bench.director.drain_of(id).expect("it goes on");
    assert_eq!((drain.since, drain.before, drain.outcome), (1000, 1, None));
}

#[test]
fn a_change_by_the_api_leaves_drains_alone() {
    let mut bench = Bench::new(file(&[(1, 1), (2, 1)], ""));
    bench.drain(1, order(10, OnRemoved::Reset), at(0));
    let body = serde_json::json!({ "scheduler": "mh" });
    let service = bench.director.config().services[0].clone();
    let next = edit::patch_service(&service, &body, bench.director.config()).expect("good");
    bench.director.set_services(next, at(1)).expect("it fits");
    assert_eq!(bench.list()[1], (1, Weight::ZERO.0, FINISH));
    bench.director.advance(at(10_000));
    assert_eq!(bench.outcome(1), Some(Outcome::Deadline));
}
