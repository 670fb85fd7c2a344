//! Two segments of one session in a burst, of which the first ends it.
mod common;
use common::*;
use shunt_service::{Mode, OnRemoved, Protocol, ServerSlot, Servers, Status};
use shunt_wire::packet::tcp_flags::{ACK, SYN};

#[test]
fn second_segment_of_a_burst_does_not_meet_a_dead_session() {
    let mut services = vec![service(
        1,
        Protocol::Tcp,
        "172.16.1.90:80",
        Mode::Dr,
        &["172.16.1.5:80"],
        "rr",
    )];
    // Its next packet ends the session.
    services[0].on_down = OnRemoved::Reschedule;
    let mut d = Plan {
        services,
        ..Plan::default()
    }
    .start();
    let vip = "172.16.1.90:80";
    for client in ["10.0.0.10:40000", "10.0.0.11:40000", "10.0.0.12:40000"] {
        d.forward(&tcp(client, vip).flags(SYN).seq(7).frame());
        d.forward(&tcp(client, vip).flags(ACK).seq(8).ack(9).frame());
    }
    assert_eq!(d.sessions(), 3);
    d.publish(
        |p| {
            let s = &mut p.services[0];
            let list = s
                .servers
                .iter()
                .cloned()
                .map(|mut r| {
                    r.status = Status::Down;
                    r
                })
                .collect();
            s.servers = Servers::newest_first(list);
        },
        1,
    );
    d.advance(2000);
    let slot = ServerSlot(16);
    println!(
        "sessions {} held {} active {}",
        d.sessions(),
        d.load.sessions(slot),
        d.load.active(slot)
    );
    let data = tcp("10.0.0.10:40000", vip).flags(ACK).seq(8).ack(9).frame();
    d.exchange_on(0, 0, &[data.clone(), data]);
    println!(
        "sessions {} held {} active {}",
        d.sessions(),
        d.load.sessions(slot),
        d.load.active(slot)
    );
    assert_eq!(d.sessions(), 2);
    assert_eq!(d.load.sessions(slot), 2);
}
