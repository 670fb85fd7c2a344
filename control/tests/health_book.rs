//! The course of checks with a probe that is told what to find, on a clock that jumps: when servers
//! are asked, what is made of the answers, and that nobody waits for anybody.

use core::future::Future;
use core::net::SocketAddr;
use core::pin::Pin;
use core::time::Duration;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use shunt_control::config::{self, Config, Machine};
use shunt_control::director::Director;
use shunt_control::health::saved::{Fact, Key, Known};
use shunt_control::health::{Book, Check, Failure, Outcome, Probe, Reason, Report, Target};
use shunt_service::{Mode, Protocol, ServerId, ServiceKey, Ticks};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Answer,
    Refuse,
    Hang,
    CannotBeAsked,
}

/// A world of servers; keeps when each was asked.
#[derive(Default)]
struct World {
    does: Mutex<HashMap<SocketAddr, Does>>,
    asked: Mutex<BTreeMap<SocketAddr, Vec<Instant>>>,
}

impl World {
    fn set(&self, last: u8, does: Does) {
        self.does.lock().insert(address(last), does);
    }

    fn asked(&self, last: u8) -> Vec<Instant> {
        let asked = self.asked.lock();
        asked.get(&address(last)).cloned().unwrap_or_default()
    }
}

impl Probe for World {
    fn probe<'a>(
        &'a self,
        check: &'a Check,
        target: &'a Target,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        let now = Instant::now();
        self.asked
            .lock()
            .entry(target.server)
            .or_default()
            .push(now);
        Box::pin(async {
            let does = self.does.lock().get(&target.server).copied();
            match does.unwrap_or(Does::Answer) {
                Does::Answer => Ok(()),
                Does::Refuse => Err(Failure::new(Reason::Refused, "no")),
                Does::CannotBeAsked => Err(Failure::new(Reason::Local, "no descriptor")),
                Does::Hang => {
                    tokio::time::sleep(check.timeout).await;
                    Err(Failure::new(Reason::Timeout, "silence"))
                }
            }
        })
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, last], 80))
}

fn file(servers: u8, check: &str) -> Config {
    let mut text = format!(
        "[[port]]\nname='p'\ndevice='net_null0'\n\
         [[service]]\nprotocol='tcp'\nvip='10.0.0.1:80'\nscheduler='rr'\ncheck={{{check}}}\n"
    );
    for last in 1..=servers {
        text += &format!("[[service.server]]\naddress='{}'\n", address(last));
    }
    config::parse("shunt.toml", &text, &Machine::default()).expect("a good file")
}

/// A director with its checks.
struct Bench {
    world: Arc<World>,
    director: Director,
    book: Book,
    reports: mpsc::Receiver<Report>,
    begin: Instant,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self::with(config, Known::new())
    }

    fn with(config: Config, known: Known) -> Self {
        let world = Arc::new(World::default());
        let (director, _) = Director::new(config, Ticks(0)).expect("it fits");
        let probe = Arc::clone(&world) as Arc<dyn Probe>;
        let (mut book, reports) = Book::new(probe, known, 7);
        book.follow(&director);
        Self {
            world,
            director,
            book,
            reports,
            begin: Instant::now(),
        }
    }

    fn id(&self, last: u8) -> ServerId {
        let servers = &self.director.snapshot().services.list()[0].servers;
        let at = |s: &&shunt_service::RealServer| SocketAddr::new(s.addr, s.port) == address(last);
        servers.iter().find(at).expect("it is there").id
    }

    /// Lets time pass and takes what is found meanwhile, each at its time; returns who changed:
    /// last byte of the address, whether it is down.
    async fn pass(&mut self, time: Duration) -> Vec<(u8, bool)> {
        let end = Instant::now() + time;
        let mut changes = Vec::new();
        while let Ok(Some(report)) = tokio::time::timeout_at(end, self.reports.recv()).await {
            self.book.take(report);
            let found = self.book.changes();
            self.director.set_failed(found.clone(), Ticks(0));
            let last = |id| (1..=255).find(|last| self.id(*last) == id);
            changes.extend(
                found
                    .into_iter()
                    .map(|(id, down)| (last(id).expect("of ours"), down)),
            );
        }
        changes
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn first_checks_are_spread_and_later_ones_come_each_interval() {
    let mut bench = Bench::new(file(200, "type='tcp', interval='1s', jitter=10"));
    bench.pass(SECOND * 20).await;
    let mut first: Vec<Duration> = Vec::new();
    for last in 1..=200 {
        let asked = bench.world.asked(last);
        first.push(asked[0] - bench.begin);
        for two in asked.windows(2) {
            let apart = two[1] - two[0];
            // The clock has whole milliseconds.
            assert!(
                apart >= SECOND.mul_f64(0.898) && apart <= SECOND.mul_f64(1.102),
                "{apart:?}"
            );
        }
        assert!((18..=23).contains(&asked.len()), "{}", asked.len());
    }
    // In each tenth of the interval a tenth of them, more or less.
    for tenth in 0..10 {
        let within = |at: &&Duration| at.as_millis() / 100 == tenth;
        let n = first.iter().filter(within).count();
        assert!((5..=40).contains(&n), "{n} in tenth {tenth}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_asks_at_the_same_times() {
    let mut times = Vec::new();
    for _ in 0..2 {
        let mut bench = Bench::new(file(5, "type='tcp', interval='1s', jitter=50"));
        bench.pass(SECOND * 10).await;
        let asked = bench.world.asked.lock().clone();
        let since = |all: &Vec<Instant>| all.iter().map(|at| *at - bench.begin).collect::<Vec<_>>();
        times.push(asked.values().map(since).collect::<Vec<_>>());
    }
    assert_eq!(times[0], times[1]);
}

#[tokio::test(start_paused = true)]
async fn rise_and_fall_decide_and_the_director_hears_of_it() {
    let check = "type='tcp', interval='1s', jitter=0, rise=2, fall=3";
    let mut bench = Bench::new(file(2, check));
    assert_eq!(bench.pass(SECOND * 3).await, []);
    bench.world.set(1, Does::Refuse);
    assert_eq!(bench.pass(SECOND * 2).await, [], "two are not three");
    assert_eq!(bench.pass(SECOND).await, [(1, true)]);
    assert!(bench.director.is_failed(bench.id(1)) && !bench.director.is_failed(bench.id(2)));
    bench.world.set(1, Does::Answer);
    assert_eq!(bench.pass(SECOND).await, [], "one is not two");
    assert_eq!(bench.pass(SECOND).await, [(1, false)]);
    assert!(!bench.director.is_failed(bench.id(1)));
    let record = bench.book.of(bench.id(1)).expect("it is checked");
    assert_eq!(record.checks(), 8);
    let refused = record
        .failures()
        .find(|(reason, _)| *reason == Reason::Refused);
    assert_eq!(refused, Some((Reason::Refused, 3)));
    assert_eq!(record.error(), None);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_delays_nobody() {
    let check = "type='tcp', interval='1s', timeout='900ms', jitter=0, fall=3";
    let mut bench = Bench::new(file(50, check));
    for last in 1..=49 {
        bench.world.set(last, Does::Hang);
    }
    let mut changes = bench.pass(SECOND * 5).await;
    changes.sort_unstable();
    // The first check of a server that nothing is known of decides.
    assert_eq!(
        changes,
        (1..=49).map(|last| (last, true)).collect::<Vec<_>>()
    );
    for two in bench.world.asked(50).windows(2) {
        let apart = two[1] - two[0];
        assert!(apart <= SECOND + Duration::from_millis(2), "{apart:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_come_before_a_failure_and_save_from_it() {
    let check = "type='tcp', interval='10s', jitter=0, retry=3, delay_before_retry='1s', fall=1";
    let mut bench = Bench::new(file(1, check));
    bench.pass(SECOND * 2).await;
    let before = bench.world.asked(1).len();
    bench.world.set(1, Does::Refuse);
    let due = bench.world.asked(1)[before - 1] + SECOND * 10;
    // Two attempts fail, the third succeeds.
    assert_eq!(bench.pass(due + SECOND * 3 / 2 - Instant::now()).await, []);
    bench.world.set(1, Does::Answer);
    assert_eq!(bench.pass(SECOND * 5).await, []);
    assert_eq!(bench.world.asked(1).len(), before + 3);
    bench.world.set(1, Does::Refuse);
    assert_eq!(bench.pass(SECOND * 10).await, [(1, true)]);
    assert_eq!(bench.world.asked(1).len(), before + 3 + 4);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_asked_says_nothing_of_the_server() {
    let mut bench = Bench::new(file(2, "type='tcp', interval='1s', jitter=0, fall=1"));
    bench.world.set(1, Does::CannotBeAsked);
    bench.world.set(2, Does::Refuse);
    assert_eq!(bench.pass(SECOND * 2).await, [(2, true)]);
    bench.world.set(2, Does::CannotBeAsked);
    assert_eq!(bench.pass(SECOND * 10).await, []);
    let record = bench.book.of(bench.id(2)).expect("it is checked");
    assert!(record.is_down());
    assert_eq!(record.error().map(|e| e.reason), Some(Reason::Local));
    assert!(
        !bench
            .book
            .of(bench.id(1))
            .expect("it is checked")
            .is_judged()
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_check_decides_unless_an_earlier_process_knew() {
    let key = |last| Key {
        service: ServiceKey::new(Protocol::Tcp, "10.0.0.1".parse().unwrap(), 80),
        server: address(last),
        mode: Mode::Nat,
    };
    let known = Known::from([(
        key(1),
        Fact {
            down: false,
            since: 42,
        },
    )]);
    let check = "type='tcp', interval='1s', jitter=0, fall=3";
    let mut bench = Bench::with(file(2, check), known);
    bench.world.set(1, Does::Refuse);
    bench.world.set(2, Does::Refuse);
    assert_eq!(
        bench
            .book
            .of(bench.id(1))
            .map(|r| (r.is_judged(), r.since())),
        Some((true, 42))
    );
    assert_eq!(bench.pass(SECOND).await, [(2, true)]);
    assert_eq!(bench.pass(SECOND).await, []);
    assert_eq!(bench.pass(SECOND).await, [(1, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_new_check_goes_on_with_what_is_known_and_an_old_ones_word_is_not_heard() {
    let mut bench = Bench::new(file(2, "type='tcp', interval='1s', jitter=0"));
    bench.world.set(1, Does::Refuse);
    assert_eq!(bench.pass(SECOND * 2).await, [(1, true)]);
    // A report is on its way when the check changes.
    bench.world.set(2, Does::Refuse);
    tokio::time::sleep(SECOND * 5).await;
    bench.world.set(2, Does::Answer);
    let config = file(2, "type='tcp', interval='2s', jitter=0");
    bench.director.apply(config, Ticks(0)).expect("it fits");
    bench.book.follow(&bench.director);
    assert!(bench.director.is_failed(bench.id(1)));
    assert_eq!(bench.pass(SECOND * 20).await, []);
    assert_eq!(bench.book.len(), 2);
    let asked = bench.world.asked(1);
    let [.., before, last] = asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!((last - before).as_secs(), 2);

    // One that is gone is not asked any more.
    bench
        .director
        .apply(file(1, "type='tcp'"), Ticks(0))
        .expect("it fits");
    bench.book.follow(&bench.director);
    let before = bench.world.asked(2).len();
    bench.pass(SECOND * 10).await;
    assert_eq!((bench.world.asked(2).len(), bench.book.len()), (before, 1));
}

#[tokio::test(start_paused = true)]
async fn who_changes_twice_before_the_director_hears_of_it_did_not_change() {
    let mut bench = Bench::new(file(
        1,
        "type='tcp', interval='1s', jitter=0, rise=1, fall=1",
    ));
    bench.pass(SECOND).await;
    for does in [Does::Refuse, Does::Answer] {
        bench.world.set(1, does);
        let report = bench.reports.recv().await.expect("checks go on");
        bench.book.take(report);
    }
    assert_eq!(bench.book.changes(), []);
}
