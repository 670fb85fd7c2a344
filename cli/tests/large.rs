//! How long it takes with a hundred thousand servers. Prints, asserts nothing about time:
//! `cargo test --release -p shunt-cli --test large -- --ignored --nocapture`

mod common;

use std::fmt::Write;
use std::time::Instant;

use common::Lab;

const SERVERS: usize = 100_000;

/// A file with so many services that share the servers out, `changed` of which have another weight.
fn file(services: usize, scheduler: &str, changed: usize) -> String {
    let mut text = format!(
        "[workers]\ncores = [1]\n[limits]\nservers = {}\n[health]\nfile = 'none'\n[[port]]\nname = 'p0'\n\
         device = 'net_null0'\nmirror = 'none'\naddresses = ['10.128.0.1/9']\n",
        2 * SERVERS
    );
    let each = SERVERS / services;
    for s in 0..services {
        let _ = write!(
            text,
            "[[service]]\nprotocol = 'tcp'\nvip = '10.{}.{}.1:80'\nscheduler = '{scheduler}'\n",
            s / 250,
            s % 250
        );
        for n in s * each..(s + 1) * each {
            let (a, b, c) = (n / 62_500, n / 250 % 250, n % 250 + 1);
            let _ = write!(
                text,
                "[[service.server]]\naddress = '10.{}.{b}.{c}:80'\n",
                128 + a
            );
            if n < changed {
                text.push_str("weight = 7\n");
            }
        }
    }
    text
}

fn timed(what: &str, work: impl FnOnce() -> String) -> String {
    let begin = Instant::now();
    let said = work();
    println!("{what:40} {:>8.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    said
}

#[test]
#[ignore = "prints times"]
fn a_hundred_thousand_servers() {
    for (services, scheduler) in [(1000, "wlc"), (10, "wrr"), (1000, "mh"), (1, "wlc")] {
        println!("-- {services} services, {scheduler}");
        let text = file(services, scheduler, 0);
        let begin = Instant::now();
        let lab = Lab::idle(&text);
        println!(
            "{:40} {:>8.0} ms",
            "read and start",
            begin.elapsed().as_secs_f64() * 1e3
        );
        let folder = lab.folder();
        let (one, many) = (folder.join("one.toml"), folder.join("many.toml"));
        std::fs::write(&one, file(services, scheduler, 1)).expect("ours");
        std::fs::write(&many, file(services, scheduler, SERVERS)).expect("ours");
        println!(
            "{:40} {:>8.1} MB",
            "size of the file",
            text.len() as f64 / 1e6
        );
        timed("check (parsing alone)", || {
            lab.says(&format!("check --elsewhere {}", one.display()))
        });
        timed("plan, one weight", || {
            lab.says(&format!("plan {}", one.display()))
        });
        timed("apply, one weight", || {
            lab.says(&format!("apply {}", one.display()))
        });
        timed("plan, every weight", || {
            lab.says(&format!("plan {}", many.display()))
        });
        timed("apply, every weight", || {
            lab.says(&format!("apply {}", many.display()))
        });
        timed("rollback", || lab.says("rollback"));
        let lines = timed("servers", || lab.says("servers")).lines().count();
        assert!(lines > SERVERS);
        timed("servers --json", || lab.says("--json servers"));
        timed("services", || lab.says("services"));
        let lines = timed("ipvsadm -Ln", || lab.says("ipvsadm -Ln"))
            .lines()
            .count();
        assert!(lines > SERVERS);
        let server = "server change tcp:10.0.0.1:80 10.128.0.1:80 --weight";
        timed("one weight by the API", || lab.says(&format!("{server} 9")));
        timed("one weight by the API, again", || {
            lab.says(&format!("{server} 11"))
        });
        timed("services NAME --json", || {
            lab.says("--json services tcp:10.0.0.1:80")
        });
        timed("save", || {
            lab.says(&format!("save {}", folder.join("saved.toml").display()))
        });
        timed("history", || lab.says("history"));
    }
}
