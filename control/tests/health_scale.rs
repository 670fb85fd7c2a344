//! Ten thousand servers checked each second by one thread: none is left out, and what that costs is
//! printed (`--nocapture`).

mod namespace;

use std::io::Read;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use namespace::{Namespace, allowed};
use shunt_control::config::{self, Machine};
use shunt_control::director::Director;
use shunt_control::health::saved::Known;
use shunt_control::health::{Book, Prober};
use shunt_service::{ServerId, Ticks};

const SERVERS: usize = 10_000;
/// Checks of each that are waited for.
const CHECKS: u64 = 5;

fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).expect("it is positive")
}

fn director() -> Director {
    let mut text = "[limits]\nservers=20000\n[[port]]\nname='p'\ndevice='net_null0'\n\
                    [[service]]\nprotocol='tcp'\nvip='10.0.0.1:80'\n\
                    check={type='tcp', interval='1s', timeout='20s'}\n"
        .to_owned();
    for n in 0..SERVERS {
        text += &format!(
            "[[service.server]]\naddress='10.32.{}.{}'\n",
            n / 250,
            n % 250 + 1
        );
    }
    let config = config::parse("shunt.toml", &text, &Machine::default()).expect("a good file");
    Director::new(config, Ticks(0)).expect("it fits").0
}

#[test]
fn ten_thousand_servers() {
    if !allowed() {
        return;
    }
    let namespace = Namespace::new();
    namespace.enter();
    // All of them are this machine.
    namespace.ip("route add local 10.32.0.0/16 dev lo");
    let listener = TcpListener::bind("0.0.0.0:80").expect("nobody has it");
    // One that waits does not keep the others: a full backlog costs seconds.
    for _ in 0..8 {
        let listener = listener.try_clone().expect("there are descriptors");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                // Until the director hangs up, so that it is not this end that waits afterwards.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let _ = stream.read(&mut [0; 1]);
            }
        });
    }
    let mut director = director();
    let ids: Vec<ServerId> = director
        .snapshot()
        .services
        .servers()
        .map(|s| s.id)
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (mut book, mut reports) = Book::new(Arc::new(Prober::new()), Known::new(), 7);
        let (begin, spent) = (Instant::now(), cpu());
        book.follow(&director);
        let mut taken = Vec::new();
        let mut checks = 0;
        while ids.iter().any(|id| book.of(*id).is_none_or(|r| r.checks() < CHECKS)) {
            assert!(begin.elapsed() < Duration::from_secs(120), "{checks} checks");
            // A second's worth between two looks at all of them.
            for _ in 0..SERVERS / 256 {
                checks += reports.recv_many(&mut taken, 256).await;
                for report in taken.drain(..) {
                    assert_eq!(report.outcome, Ok(()));
                    book.take(report);
                }
            }
        }
        let (wall, spent) = (begin.elapsed(), cpu() - spent);
        println!(
            "{SERVERS} servers, {checks} checks in {wall:.1?}: {spent:.1?} of the thread, {:.1?} a check",
            spent / u32::try_from(checks).expect("not that many"),
        );
    });
    let begin = Instant::now();
    assert!(director.set_failed(ids.iter().map(|id| (*id, true)), Ticks(0)));
    println!(
        "all of them fail: {:.1?} to the next snapshot",
        begin.elapsed()
    );
}
