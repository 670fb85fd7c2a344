//! Whole worlds: every mode over good and bad links, with one worker and several. The world
//! itself checks its invariants after every step; these tests say what happens in it and what has
//! to come of it.
//!
//! A failing world prints its seed. `SHUNT_SIM_SEED=n cargo test -p shunt-sim` runs that seed
//! alone.

use std::ops::Range;

use shunt_dataplane::counters::DropReason;
use shunt_dataplane::io::PortCaps;
use shunt_service::{Mode, Protocol, Ticks};
use shunt_sim::dice::Dice;
use shunt_sim::link::Faults;
use shunt_sim::plan::{Arms, Plan, Spread};
use shunt_sim::world::World;

/// Seeds to run: those given, or the one of `SHUNT_SIM_SEED`.
fn seeds(range: Range<u64>) -> Vec<u64> {
    let one = std::env::var("SHUNT_SIM_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    one.map_or_else(|| range.collect(), |seed| vec![seed])
}

const BAD: Faults = Faults {
    loss: 30,
    duplicate: 30,
    reorder: 50,
};

fn services(plan: &Plan, protocol: Protocol) -> Vec<usize> {
    (0..plan.services.len())
        .filter(|n| plan.services[*n].protocol == protocol)
        .collect()
}

/// Each client fetches something from each TCP service and sends each UDP service a datagram.
fn everybody_asks_everything(world: &mut World, plan: &Plan, bytes: u64) -> usize {
    let mut dice = Dice::new(7);
    let mut datagrams = 0;
    for client in 0..plan.clients {
        for service in services(plan, Protocol::Tcp) {
            let (request, answer) = (dice.below(bytes), dice.below(bytes));
            let delay = Ticks::from_millis(dice.below(2_000));
            world.fetch(client, service, request as usize, answer as usize, delay);
        }
        for service in services(plan, Protocol::Udp) {
            world.ask(client, service, 10 + usize::from(client));
            datagrams += 1;
        }
    }
    datagrams
}

fn answered(world: &World, plan: &Plan) -> usize {
    (0..plan.clients).map(|n| world.client(n).answered()).sum()
}

fn served(world: &World, plan: &Plan) -> Vec<usize> {
    (0..plan.servers)
        .map(|n| world.server(n).served())
        .collect()
}

/// Runs the plan over good links and expects everything to arrive.
fn all_goes_well(plan: &Plan, seed: u64) {
    assert_eq!(plan.faults, Faults::NONE);
    let mut world = World::new(plan.clone(), seed);
    let datagrams = everybody_asks_everything(&mut world, plan, 60_000);
    world.run_to_rest();
    assert_eq!(world.failures(), Vec::<String>::new(), "seed {seed}");
    assert_eq!(answered(&world, plan), datagrams, "seed {seed}");
    let fetches = usize::from(plan.clients) * services(plan, Protocol::Tcp).len();
    assert_eq!(
        served(&world, plan).iter().sum::<usize>(),
        datagrams + fetches,
        "seed {seed}"
    );
    assert_eq!(
        world.frames_to_kernel(),
        0,
        "seed {seed}: all frames were for services"
    );
    world.expire();
}

#[test]
fn every_mode_protocol_and_family_with_one_worker() {
    let plan = Plan::default().with_all_services("rr");
    for seed in seeds(0..5) {
        all_goes_well(&plan, seed);
    }
}

#[test]
fn several_workers_give_what_one_gives() {
    for seed in seeds(0..5) {
        let workers = 2 + (seed % 3) as u16;
        let spread = if seed % 2 == 0 {
            Spread::ByChance
        } else {
            Spread::ByFlow
        };
        let plan = Plan {
            workers,
            spread,
            ..Plan::default()
        }
        .with_all_services("wlc");
        all_goes_well(&plan, seed);
    }
}

#[test]
fn one_arm_and_vlans() {
    for seed in seeds(0..4) {
        let arms = if seed % 2 == 0 { Arms::One } else { Arms::Two };
        let plan = Plan {
            arms,
            server_vlan: Some(7),
            strip_vlan: seed >= 2,
            caps: PortCaps {
                tx_vlan: seed >= 2,
                tx_ip_checksum: seed >= 2,
                rx_ip_checksum: seed >= 2,
                ..PortCaps::default()
            },
            ..Plan::default()
        }
        .with_all_services("rr");
        all_goes_well(&plan, seed);
        all_goes_well(
            &Plan {
                server_vlan: None,
                ..plan
            },
            seed,
        );
    }
}

#[test]
fn servers_whose_macs_are_asked_for() {
    for seed in seeds(0..4) {
        let plan = Plan {
            unresolved: true,
            ..Plan::default()
        }
        .with_all_services("rr");
        all_goes_well(&plan, seed);
    }
}

#[test]
fn data_arrives_whole_over_bad_links() {
    for seed in seeds(0..12) {
        let plan = Plan {
            faults: BAD,
            workers: 1 + (seed % 2) as u16,
            spread: Spread::ByChance,
            ..Plan::default()
        }
        .with_all_services("lc");
        let mut world = World::new(plan.clone(), seed);
        let datagrams = everybody_asks_everything(&mut world, &plan, 20_000);
        world.run_to_rest();
        assert_eq!(world.failures(), Vec::<String>::new(), "seed {seed}");
        // Nobody sends a datagram again.
        let most = answered(&world, &plan);
        assert!(
            most <= datagrams && most > datagrams / 2,
            "seed {seed}: {most} of {datagrams}"
        );
        world.expire();
    }
}

#[test]
fn a_seed_replays_frame_by_frame() {
    let plan = Plan {
        faults: BAD,
        workers: 2,
        spread: Spread::ByChance,
        ..Plan::default()
    }
    .with_all_services("wlc");
    let run = |seed| {
        let mut world = World::new(plan.clone(), seed);
        world.record(usize::MAX);
        everybody_asks_everything(&mut world, &plan, 5_000);
        world.run_to_rest();
        (world.now(), world.recorded().to_vec())
    };
    assert!(run(3) == run(3), "the same history twice");
    assert!(run(3) != run(4), "another seed, another history");
}

#[test]
fn round_robin_is_even_and_weight_0_gets_nothing_new() {
    let mut plan = Plan::default().with_all_services("rr");
    plan.services
        .retain(|s| s.mode == Mode::Nat && s.protocol == Protocol::Tcp && !s.ipv6);
    for seed in seeds(0..3) {
        let mut world = World::new(plan.clone(), seed);
        let fetch = |world: &mut World, n: u8| {
            for client in 0..n {
                world.fetch(client % plan.clients, 0, 100, 5_000, Ticks(0));
            }
            world.run_to_rest();
        };
        fetch(&mut world, 9);
        assert_eq!(served(&world, &plan), [3, 3, 3], "seed {seed}");
        let second = world.director().server_id(0, 1);
        world.director().set_weight(0, second, 0);
        fetch(&mut world, 10);
        assert_eq!(served(&world, &plan), [8, 3, 8], "seed {seed}");
        assert_eq!(world.failures(), Vec::<String>::new(), "seed {seed}");
        world.expire();
    }
}

#[test]
fn changes_of_servers_leave_established_connections_alone() {
    for seed in seeds(0..6) {
        let mut plan = Plan {
            faults: BAD,
            ..Plan::default()
        }
        .with_all_services("wrr");
        plan.services.retain(|s| s.protocol == Protocol::Tcp);
        let mut world = World::new(plan.clone(), seed);
        everybody_asks_everything(&mut world, &plan, 200_000);
        let mut dice = Dice::new(seed);
        for round in 0..8 {
            world.run_for(100 + dice.below(400));
            for service in 0..plan.services.len() {
                let server = world.director().server_id(service, 0);
                // Removed ones finish what they have (the default for TCP).
                match round {
                    6 => world.director().remove_server(service, server),
                    _ => world
                        .director()
                        .set_weight(service, server, dice.below(3) as u16),
                }
            }
        }
        world.run_to_rest();
        assert_eq!(world.failures(), Vec::<String>::new(), "seed {seed}");
        world.expire();
    }
}

#[test]
fn a_dead_servers_connections_are_reset_and_others_go_on() {
    for seed in seeds(0..4) {
        let mut plan = Plan::default().with_all_services("rr");
        plan.services.retain(|s| s.protocol == Protocol::Tcp);
        let mut world = World::new(plan.clone(), seed);
        for service in 0..plan.services.len() {
            for n in 0..6 {
                world.fetch(n % plan.clients, service, 100_000, 100_000, Ticks(0));
            }
        }
        world.run_for(2);
        for service in 0..plan.services.len() {
            let server = world.director().server_id(service, 1);
            world.director().set_up(service, server, false);
        }
        world.run_to_rest();
        let failed = world.failures();
        assert!(
            failed.iter().all(|f| f.contains("Reset")),
            "seed {seed}: {failed:?}"
        );
        assert_eq!(
            failed.len(),
            plan.services.len() * 2,
            "seed {seed}: a third of them"
        );
        // The server is there, and was told of those whose numbers the director sees both ways.
        let both = plan.services.iter().filter(|s| s.mode.sees_replies());
        assert!(
            world.server(1).reset() >= both.count() * 2,
            "seed {seed}: {} of the server's connections",
            world.server(1).reset()
        );
        world.expire();
    }
}

#[test]
fn long_uploads_through_tunnels_learn_the_mtu() {
    let mut plan = Plan::default().with_all_services("rr");
    plan.services
        .retain(|s| s.mode == Mode::Tun && s.protocol == Protocol::Tcp);
    for seed in seeds(0..3) {
        let mut world = World::new(plan.clone(), seed);
        for service in 0..plan.services.len() {
            world.fetch(0, service, 300_000, 100, Ticks(0));
        }
        world.run_to_rest();
        assert_eq!(world.failures(), Vec::<String>::new(), "seed {seed}");
        let icmp = world.client(0).icmp();
        assert!(
            icmp.contains(&(3, 4)) && icmp.contains(&(2, 0)),
            "seed {seed}: {icmp:?}"
        );
        world.expire();
    }
}

/// Frames of real connections, with bytes changed, cut off and added by chance, while others go on.
#[test]
fn garbage_is_accounted_for() {
    for seed in seeds(0..8) {
        let plan = Plan {
            workers: 1 + (seed % 3) as u16,
            spread: Spread::ByChance,
            ..Plan::default()
        }
        .with_all_services("rr");
        let mut world = World::new(plan.clone(), seed);
        world.record(2_000);
        everybody_asks_everything(&mut world, &plan, 5_000);
        world.run_to_rest();
        world.expect_forgery();
        everybody_asks_everything(&mut world, &plan, 5_000);
        let good = world.recorded().to_vec();
        let mut dice = Dice::new(seed);
        for n in 0..3_000 {
            let (port, mut frame) = good[dice.below(good.len() as u64) as usize].clone();
            for _ in 0..dice.below(4) {
                // Behind the MACs: what is not for the director would only reach the kernel.
                let at = 12 + dice.below(frame.len() as u64 - 12) as usize;
                frame[at] = dice.roll() as u8;
            }
            if dice.per_mille(100) {
                frame.truncate(dice.below(frame.len() as u64) as usize);
            }
            if dice.per_mille(100) {
                frame.extend(dice.bytes(30));
            }
            world.inject(port, frame);
            if n % 10 == 0 {
                world.run_for(1);
            }
        }
        // Servers repeat their answers to forged SYNs for more than a minute.
        world.run_for(120_000);
        let counts = |r: DropReason| world.dropped(r);
        for reason in [
            DropReason::Truncated,
            DropReason::TotalLength,
            DropReason::IpChecksum,
        ] {
            assert!(
                counts(reason) > 0,
                "seed {seed}: none dropped as {}",
                reason.word()
            );
        }
        world.expire();
    }
}
