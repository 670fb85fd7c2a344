//! EAL's own threads stay on the main cores, as its main thread does, and leave the workers theirs.

mod common;

use std::fs;

use shunt_dpdk::Eal;

#[test]
fn eal_stays_on_the_main_cores() {
    let core = core_affinity::get_core_ids().unwrap()[0].id;
    let mut config = common::config("cores");
    config.main_cores = vec![core];
    let _eal = Eal::init(&config, None).unwrap();
    let mut seen = 0;
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let name = fs::read_to_string(task.join("comm")).unwrap();
        if !name.starts_with("eal-") {
            continue;
        }
        let status = fs::read_to_string(task.join("status")).unwrap();
        let cpus = status
            .lines()
            .find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
        assert_eq!(cpus.map(str::trim), Some(&*core.to_string()), "{name}");
        seen += 1;
    }
    assert!(seen > 0, "EAL has no thread");
}
