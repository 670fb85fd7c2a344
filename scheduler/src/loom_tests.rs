//! The cursors that workers share, under every interleaving: the picks of all workers together are those
//! that one worker would have made, none twice and none left out.

use loom::sync::Arc;
use shunt_service::{FlowKey, Load, Protocol, Servers};

use crate::rr::Rr;
use crate::testing::servers;
use crate::wrr::Wrr;
use crate::{Scheduler, State};

/// A client's flow; `n` is its address and port.
fn flow(n: u32) -> FlowKey {
    FlowKey {
        protocol: Protocol::Tcp,
        src: n.to_be_bytes().into(),
        dst: [10, 0, 0, 100].into(),
        src_port: n as u16,
        dst_port: 80,
    }
}

fn pick(scheduler: &dyn Scheduler, servers: &Servers, load: &Load) -> usize {
    let place = scheduler.schedule(&flow(1), servers, load, &mut State::default());
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
