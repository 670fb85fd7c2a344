//! Rates, sums that outlive a server, and what is set to zero.

use shunt_control::config::{self, Config, Machine};
use shunt_control::director::Director;
use shunt_control::statistics::Statistics;
use shunt_service::{ServerSlot, Ticks, WorkerId};

fn parse(servers: &[u8]) -> Config {
    let mut text =
        "[workers]\ncores = [1, 2]\n[[port]]\nname='p0'\ndevice='net_null0'\n[[service]]\n\
                    protocol='tcp'\nvip='10.0.0.1:80'\n"
            .to_owned();
    for n in servers {
        text += &format!("[[service.server]]\naddress='10.1.0.{n}:80'\n");
    }
    config::parse("shunt.toml", &text, &Machine { cores: None }).expect("it is good")
}

fn second(n: u64) -> Ticks {
    Ticks(n * 1_000_000_000)
}

fn count(director: &Director, slot: u32, packets: u64) {
    for worker in [WorkerId(0), WorkerId(1)] {
        let line = director.load().counters(worker, ServerSlot(slot));
        line.expect("a server").add_in(packets / 2, packets * 50);
    }
}

#[test]
fn the_estimate_follows_as_the_kernel_does() {
    let (director, _readers) = Director::new(parse(&[1, 2]), Ticks(0)).expect("it fits");
    let mut statistics = Statistics::default();
    let servers = &director.snapshot().services.list()[0].servers;
    // Slots are given in the order of the configuration, the list has the newest first.
    let of = |slot: u32| {
        servers
            .iter()
            .find(|s| s.slot.0 == slot)
            .expect("it is there")
            .id
    };
    statistics.tick(&director, second(1));
    let mut expected = 0.0;
    for n in 1..=10 {
        for at in [2 * n, 2 * n + 1] {
            count(&director, 0, 1000);
            statistics.tick(&director, second(at));
            // Looked at again within the second, nothing moves.
            statistics.tick(&director, Ticks(second(at).0 + 500_000_000));
        }
        let (estimate, last) = statistics.rates(of(0));
        assert_eq!((last.packets_in, last.bytes_in), (1000.0, 100_000.0));
        // The second of a pair ends one estimate and begins none.
        let half = if n == 1 { 500.0 } else { 1000.0 };
        let came = if n == 1 { half } else { 1000.0 };
        expected += (came - expected) / 4.0;
        assert!(
            (estimate.packets_in - expected).abs() < 1e-6,
            "{n}: {estimate:?} {expected}"
        );
    }
    assert_eq!(statistics.rates(of(1)), Default::default());
    // Without traffic it goes down as it came up.
    let (before, _) = statistics.rates(of(0));
    for at in 22..=23 {
        statistics.tick(&director, second(at));
    }
    let (after, last) = statistics.rates(of(0));
    assert_eq!(last.packets_in, 0.0);
    assert!(after.packets_in < before.packets_in && after.packets_in > before.packets_in / 2.0);
}

#[test]
fn what_a_server_counted_stays_with_its_service() {
    let (mut director, mut readers) = Director::new(parse(&[1, 2]), Ticks(0)).expect("it fits");
    let mut statistics = Statistics::default();
    statistics.tick(&director, second(1));
    let service = director.snapshot().services.list()[0].id;
    count(&director, 0, 10);
    count(&director, 1, 70);
    director.apply(parse(&[2]), second(1)).expect("it fits");
    readers.iter_mut().for_each(|r| {
        r.refresh();
    });
    // It still carries what it has when it is looked at for the last time.
    count(&director, 0, 6);
    statistics.tick(&director, Ticks(second(1).0 + 500));
    assert_eq!(director.tick(), 1, "no session refers to it");
    assert_eq!(
        statistics.left(service).0.packets_in,
        0,
        "until the next sample"
    );
    statistics.tick(&director, second(3));
    assert_eq!(statistics.left(service).0.packets_in, 16);
    statistics.set_zero(&director, Some(service));
    let (now, zero) = statistics.left(service);
    assert_eq!((now.packets_in, zero.packets_in), (16, 16));
    let left = director.snapshot().services.list()[0].servers.as_slice()[0].id;
    assert_eq!(statistics.zero(left).map(|t| t.packets_in), Some(70));
    // With the service all of it goes.
    let mut none = parse(&[]);
    none.services.clear();
    director.apply(none, second(4)).expect("it fits");
    readers.iter_mut().for_each(|r| {
        r.refresh();
    });
    director.tick();
    for at in 5..8 {
        statistics.tick(&director, second(at));
    }
    assert_eq!(statistics.left(service).0.packets_in, 0);
}
