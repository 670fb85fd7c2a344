//! The cursors that workers share, under every interleaving: the picks of all workers together are those
//! that one worker would have made, none twice and none left out.

use loom::sync::Arc;
use shunt_service::{
    FlowKey, Load, Mode, Protocol, RealServer, ServerId, ServerSlot, Servers, ServiceId, Status,
    Weight,
};

use crate::rr::Rr;
use crate::wrr::Wrr;
use crate::{Scheduler, State};

fn servers(weights: &[u16]) -> Servers {
    let list = (0..).zip(weights).map(|(id, weight)| RealServer {
        id: ServerId(id),
        slot: ServerSlot(id),
        service: ServiceId(0),
        addr: [192, 168, 0, id as u8].into(),
        port: 80,
        mode: Mode::Nat,
        weight: Weight(*weight),
        upper: 0,
        lower: 0,
        status: Status::Up,
    });
    Servers::newest_first(list.collect())
}

fn pick(scheduler: &dyn Scheduler, servers: &Servers, load: &Load) -> usize {
    let key = FlowKey {
        protocol: Protocol::Tcp,
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 100].into(),
        src_port: 1,
        dst_port: 80,
    };
    let place = scheduler.schedule(&key, servers, load, &mut State::default());
    place.expect("all are available")
}

/// Two workers, with two picks each.
fn together(weights: &'static [u16], make: fn(&Servers) -> Box<dyn Scheduler>) {
    const PICKS: [usize; 2] = [2, 2];
    loom::model(move || {
        let list = servers(weights);
        let load = Load::new(1, weights.len() as u32);
        let alone = make(&list);
        let picks = PICKS.iter().sum();
        let mut wanted: Vec<usize> = (0..picks).map(|_| pick(&*alone, &list, &load)).collect();
        wanted.sort_unstable();
        let shared = Arc::new((servers(weights), Load::new(1, weights.len() as u32)));
        let scheduler = Arc::new(make(&shared.0));
        let work = |n: usize| {
            let (scheduler, shared) = (Arc::clone(&scheduler), Arc::clone(&shared));
            move || -> Vec<usize> {
                let one = |_| pick(&**scheduler, &shared.0, &shared.1);
                (0..PICKS[n]).map(one).collect()
            }
        };
        let other = loom::thread::spawn(work(1));
        let mut picked = work(0)();
        picked.extend(other.join().expect("no panic"));
        picked.sort_unstable();
        assert_eq!(picked, wanted);
    });
}

#[test]
fn workers_share_one_rotation() {
    together(&[1, 1, 1], |s| Box::new(Rr::new(s, None)));
}

#[test]
fn workers_share_one_weighted_rotation() {
    together(&[3, 1], |s| Box::new(Wrr::new(s, None)));
}
