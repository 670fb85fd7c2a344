//! What a change reaches, and what stays as it was.

use std::sync::Arc;

use shunt_control::director::{CannotApply, Director};
use shunt_service::{FlowKey, Protocol, Status, Weight};

use crate::tools::{NOW, W, ids, order, parse, server, service, start};

#[test]
fn what_is_set_up_at_start_is_not_changed_by_a_reload() {
    let (mut director, _reader) = start(parse(""));
    let mut other = parse(&service(80, "rr", &[]));
    other.limits.servers = 13;
    other.ports[0].mtu = 9000;
    let error = director.apply(other, NOW).expect_err("a restart is needed");
    assert_eq!(
        error,
        CannotApply::NeedsRestart(vec!["[limits] servers", "[[port]]"])
    );
    assert!(director.snapshot().services.list().is_empty());
}

#[test]
fn a_scheduler_goes_on_where_it_stood() {
    let file = |servers: &[&str]| parse(&service(80, "rr", servers));
    let [a, b, c, d] = [1, 2, 3, 4].map(server);
    let (mut director, _reader) = start(file(&[&a, &b, &c]));
    let pick = |director: &Director| {
        let service = &director.snapshot().services.list()[0];
        let key = FlowKey {
            protocol: Protocol::Tcp,
            src: [10, 9, 9, 9].into(),
            dst: [10, 0, 0, 1].into(),
            src_port: 1024,
            dst_port: 80,
        };
        let n = service
            .scheduler
            .schedule(
                &key,
                &service.servers,
                director.load(),
                &mut Default::default(),
            )
            .expect("all are up");
        order(director, 0)[n]
    };
    let picked = [pick(&director), pick(&director)];
    assert_ne!(picked[0], picked[1]);

    // Nothing that it depends on changes: it is the same object.
    let scheduler = Arc::clone(&director.snapshot().services.list()[0].scheduler);
    director.apply(file(&[&a, &b, &c]), NOW).expect("it fits");
    assert!(Arc::ptr_eq(
        &scheduler,
        &director.snapshot().services.list()[0].scheduler
    ));

    director
        .apply(file(&[&a, &b, &c, &d]), NOW)
        .expect("it fits");
    let next = pick(&director);
    assert!(
        !picked.contains(&next),
        "{next} was not next after {picked:?}"
    );
}

#[test]
fn thresholds_are_judged_anew_when_they_change() {
    let file = |upper: u32| {
        parse(&service(
            80,
            "rr",
            &[&format!("{}\nupper_threshold={upper}", server(1))],
        ))
    };
    let (mut director, _reader) = start(file(0));
    let (_, slot) = ids(&director, 0)[&1];
    for _ in 0..3 {
        assert!(director.load().open(W, slot, 0));
    }
    assert!(!director.load().overloaded(slot));
    director.apply(file(2), NOW).expect("it fits");
    assert!(director.load().overloaded(slot));
    director.apply(file(9), NOW).expect("it fits");
    assert!(!director.load().overloaded(slot));
}

#[test]
fn a_server_that_is_down_stays_down_over_reloads() {
    let file = |weight: u8| {
        parse(&service(
            80,
            "rr",
            &[&format!("{}\nweight={weight}", server(1))],
        ))
    };
    let (mut director, _reader) = start(file(1));
    let (id, _) = ids(&director, 0)[&1];
    assert!(director.set_down(id, true, NOW));
    assert!(!director.set_down(id, true, NOW));
    director.apply(file(2), NOW).expect("it fits");
    let status = |d: &Director| d.snapshot().services.list()[0].servers.as_slice()[0].status;
    assert_eq!(status(&director), Status::Down);
    assert!(director.set_down(id, false, NOW));
    assert_eq!(status(&director), Status::Up);
}

#[test]
fn weights_arrive() {
    let heavy = format!("{}\nweight=65535", server(1));
    let (director, _reader) = start(parse(&service(80, "wrr", &[&heavy])));
    let weight = director.snapshot().services.list()[0].servers.as_slice()[0].weight;
    assert_eq!(weight, Weight(65535));
}
