//! Replays the packets that a real Linux IPVS forwarded, answered or dropped
//! (`tests/golden/README.md`, `pkt.*`) through a worker set up as the recording's director, and
//! compares what comes out byte for byte.
//!
//! The recordings are read from the folder in `SHUNT_GOLDEN_DIR`, or from `tests/golden` of the
//! repository. A recording that is neither replayed nor listed fails the test, and so does a
//! listed difference that is none.
//!
//! Not compared, as the README says: identification (and with it the header checksum, which must
//! be right) of IPv4 packets that the director makes without DF, and the flow label of IPv6 ones.

mod common;
#[path = "golden_packets/differences.rs"]
mod differences;
#[path = "golden_packets/frames.rs"]
mod frames;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use common::*;
use differences::{DIFFERENCES, NOT_BUILT, Ours};
use frames::{bytes, comparable, is_intact, shown};
use serde_json::Value;
use shunt_scheduler::Scheduler;
use shunt_service::*;

/// All packet recordings, by name.
fn recordings() -> Vec<(String, Value)> {
    let root = std::env::var_os("SHUNT_GOLDEN_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")),
        PathBuf::from,
    );
    let folder = Some(root.join("ipvs"))
        .filter(|f| f.is_dir())
        .unwrap_or(root);
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("no recordings in {}: {e}", folder.display()));
    let mut names: Vec<String> = entries
        .filter_map(|e| e.expect("a folder entry").file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .filter(|name| name.starts_with("pkt."))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no recordings in {}", folder.display());
    let read = |name: String| {
        let text = fs::read_to_string(folder.join(format!("{name}.json")))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, value)
    };
    names.into_iter().map(read).collect()
}

/// The recordings' network: clients behind a gateway on port 0, real servers on port 1.
fn network(server_mtu: u16) -> Fib {
    let mut fib = Fib::default();
    let links = [
        ("c0", 0, 1500, ["10.0.0.1", "2001:db8:1::1"], 0x00),
        ("s0", 1, server_mtu, ["192.168.1.1", "2001:db8:5::1"], 0x01),
    ];
    for (name, port, mtu, own, net) in links {
        fib.interfaces.push(Interface {
            port: PortId(port),
            vlan: None,
            mac: [2, 0, 0, 0, net, 1],
            mtu,
            name: name.to_owned(),
            addresses: own.map(addr).to_vec(),
        });
        let (neighbours, last) = if port == 0 {
            (["10.0.0.254", "2001:db8:1::fe"], 0xfe)
        } else {
            (["192.168.1.11", "2001:db8:5::11"], 0x11)
        };
        let id = AdjacencyId(fib.adjacencies.len() as u32);
        fib.adjacencies.push(Adjacency {
            dst: [2, 0, 0, 0, net, last],
            src: [2, 0, 0, 0, net, 1],
            vlan: 0,
            mtu,
            port: PortId(port),
        });
        let interface = InterfaceId(port.into());
        for n in neighbours {
            fib.neighbours.insert((interface, addr(n), mtu), id);
        }
        let route = |src, via: Option<&str>| Route {
            interface,
            via: via.map(addr),
            src: Some(addr(src)),
            mtu,
        };
        let (net4, net6) = if port == 0 {
            let default = ["0.0.0.0/0", "::/0"];
            fib.routes4.insert(
                default[0].parse().unwrap(),
                route(own[0], Some(neighbours[0])),
            );
            fib.routes6.insert(
                default[1].parse().unwrap(),
                route(own[1], Some(neighbours[1])),
            );
            ("10.0.0.0/24", "2001:db8:1::/64")
        } else {
            ("192.168.1.0/24", "2001:db8:5::/64")
        };
        fib.routes4
            .insert(net4.parse().unwrap(), route(own[0], None));
        fib.routes6
            .insert(net6.parse().unwrap(), route(own[1], None));
    }
    fib
}

/// Services as the recording's commands make them.
fn services(recording: &Value) -> Result<Vec<Service<Arc<dyn Scheduler>>>, String> {
    let mut made: Vec<Service<Arc<dyn Scheduler>>> = Vec::new();
    for line in recording["log"].as_array().ok_or("no log")? {
        let Some(command) = line["cmd"].as_str() else {
            continue;
        };
        let words: Vec<&str> = command.split_whitespace().collect();
        let after = |flag: &str| {
            let at = words.iter().position(|w| *w == flag)?;
            words.get(at + 1).copied()
        };
        // Tunnel devices of the kernel; ours is none.
        if words.first() != Some(&"ipvsadm") {
            continue;
        }
        let (protocol, vip) = match (after("-t"), after("-u")) {
            (Some(vip), None) => (Protocol::Tcp, vip),
            (None, Some(vip)) => (Protocol::Udp, vip),
            _ => return Err(format!("command not understood: {command}")),
        };
        match words.get(1) {
            Some(&"-A") if after("-s") == Some("rr") => {}
            Some(&"-a") if words.contains(&"--tun-type") => return Err(command.to_owned()),
            Some(&"-a") => {
                let mode = match words.iter().find(|w| ["-g", "-i", "-m"].contains(w)) {
                    Some(&"-g") => Mode::Dr,
                    Some(&"-i") => Mode::Tun,
                    _ => Mode::Nat,
                };
                let server = after("-r").ok_or("no server")?;
                let id = made.len() as u32 + 1;
                let mut s = service(id, protocol, vip, mode, &[server], "rr");
                // There is no kernel here that has the VIP.
                s.announce = true;
                made.push(s);
            }
            _ => return Err(format!("command not understood: {command}")),
        }
    }
    Ok(made)
}

fn director(recording: &Value) -> Result<Director, String> {
    let note = recording["note"].as_str().unwrap_or_default();
    let server_mtu = if note.contains("server side MTU 1400") {
        1400
    } else {
        1500
    };
    let mut director = Plan {
        ports: 2,
        services: services(recording)?,
        network: Some(network(server_mtu)),
        ..Plan::default()
    }
    .start();
    // Announcements of the VIP.
    director.exchange_on(0, 0, &[]);
    Ok(director)
}

/// What became of one recorded frame.
struct Outcome {
    /// Ours and the kernel's frames, with the port, as far as they can be compared.
    ours: Vec<(u8, Vec<u8>)>,
    kernels: Vec<(u8, Vec<u8>)>,
    /// The frame went up to the kernel as it came.
    mirrored: bool,
    /// Why it was dropped.
    drops: Vec<&'static str>,
}

fn play(d: &mut Director, step: &Value) -> Result<Outcome, String> {
    let frame = bytes(step["in"].as_str().ok_or("no frame")?);
    let port = u8::from(step["in_side"] == "rs");
    let before = d.drops();
    let out = d.exchange_on(0, port, core::slice::from_ref(&frame));
    for (_, sent) in &out {
        is_intact(sent).map_err(|e| format!("{e}: {}", shown(sent)))?;
    }
    let up = d.kernel_frames();
    if !up.is_empty() && up != [frame.clone()] {
        return Err("what went up to the kernel is not what came".to_owned());
    }
    let recorded = step["out"].as_array().ok_or("no list of frames")?;
    let kernels = recorded.iter().map(|o| {
        let frame = bytes(o["frame"].as_str().unwrap_or_default());
        (u8::from(o["side"] == "rs"), frame)
    });
    let strip = |(port, sent): (u8, Vec<u8>)| (port, comparable(&frame, &sent));
    Ok(Outcome {
        ours: out.into_iter().map(strip).collect(),
        kernels: kernels.map(strip).collect(),
        mirrored: !up.is_empty(),
        drops: d
            .drops()
            .into_iter()
            .filter(|d| !before.contains(d))
            .map(|d| d.0)
            .collect(),
    })
}

/// Holds a step to the recording, or to what is listed.
fn judge(outcome: &Outcome, listed: Option<&Ours>) -> Result<(), String> {
    let same = outcome.ours == outcome.kernels;
    let came_out = || {
        let list = |frames: &[(u8, Vec<u8>)]| {
            let lines = frames
                .iter()
                .map(|(p, f)| format!("\n    port {p} {}", shown(f)));
            lines.collect::<String>()
        };
        format!(
            "drops {:?}, to the kernel: {}, out:{}\n  recorded:{}",
            outcome.drops,
            outcome.mirrored,
            list(&outcome.ours),
            list(&outcome.kernels)
        )
    };
    let Some(ours) = listed else {
        // What the recorded kernel drops may be dropped or left to our kernel.
        return if same { Ok(()) } else { Err(came_out()) };
    };
    if same {
        return Err("is as recorded: no difference to be listed".to_owned());
    }
    let as_listed = match ours {
        Ours::Drops(reason) => outcome.ours.is_empty() && outcome.drops == [*reason],
        Ours::Kernels => outcome.ours.is_empty() && outcome.mirrored,
        Ours::Sends(hex) => match outcome.ours.as_slice() {
            [(_, frame)] => frame.starts_with(&bytes(hex)),
            _ => false,
        },
        Ours::Bytes(ranges) => match (outcome.ours.as_slice(), outcome.kernels.as_slice()) {
            ([(port, ours)], [(kernels_port, kernels)]) => {
                let differ = |n: &usize| ours.get(*n) != kernels.get(*n);
                let listed = |n: usize| ranges.iter().any(|r| r.contains(&n));
                port == kernels_port
                    && ours.len() == kernels.len()
                    && (0..ours.len()).filter(differ).all(listed)
                    && ranges.iter().all(|r| r.clone().any(|n| differ(&n)))
            }
            _ => false,
        },
    };
    if as_listed {
        Ok(())
    } else {
        Err(format!("listed as {ours:?}: {}", came_out()))
    }
}

#[test]
fn golden_packets() {
    let (mut wrong, mut compared, mut used) = (0, 0, Vec::new());
    for (name, recording) in recordings() {
        let not_built = NOT_BUILT.iter().find(|(n, _)| *n == name);
        let mut d = match (director(&recording), not_built) {
            (_, Some((_, why))) => {
                println!("{name}: not replayed: {why}");
                used.push(name);
                continue;
            }
            (Ok(d), None) => d,
            (Err(e), None) => panic!("{name} is neither replayed nor listed: {e}"),
        };
        let (mut same, mut otherwise) = (0, 0);
        for step in recording["log"].as_array().expect("a log") {
            let Some(word) = step["step"].as_str() else {
                continue;
            };
            let listed = DIFFERENCES
                .iter()
                .find(|d| d.steps.contains(&word) && d.recordings.contains(&name.as_str()));
            let result = play(&mut d, step).and_then(|o| judge(&o, listed.map(|d| &d.ours)));
            match (result, listed) {
                (Err(e), _) => {
                    println!("{name}: {word}: {e}");
                    wrong += 1;
                }
                (Ok(()), Some(_)) => {
                    used.push(format!("{name}: {word}"));
                    otherwise += 1;
                }
                (Ok(()), None) => same += 1,
            }
        }
        assert_ne!(same, 0, "{name}: nothing compared");
        println!("{name}: {same} steps as recorded, {otherwise} as listed");
        compared += same;
    }
    let listed = DIFFERENCES
        .iter()
        .flat_map(|d| d.recordings.iter().map(move |r| (r, d.steps)))
        .flat_map(|(r, steps)| steps.iter().map(move |s| format!("{r}: {s}")))
        .chain(NOT_BUILT.iter().map(|(name, _)| (*name).to_owned()));
    for entry in listed {
        if !used.contains(&entry) {
            println!("{entry}: listed, but there is no such thing");
            wrong += 1;
        }
    }
    assert_eq!(wrong, 0, "steps that differ");
    println!("{compared} steps as recorded");
}
