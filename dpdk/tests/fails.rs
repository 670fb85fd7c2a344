//! A start that fails says why, leaves nothing behind, and is the last one of the process.

mod common;

use shunt_dpdk::{Eal, EalConfig, EalError, Hugepages};

#[test]
fn one_clear_message() {
    let config = common::config("fails");
    let with = |change: fn(&mut EalConfig)| {
        let mut config = config.clone();
        change(&mut config);
        Eal::init(&config, None).unwrap_err()
    };
    // Found out before EAL begins, so that another try is possible.
    let error = with(|c| c.main_cores = vec![0, 5000]);
    assert!(
        matches!(error, EalError::UnknownCore { core: 5000, .. }),
        "{error}"
    );
    let error = with(|c| (c.hugepages, c.memory_mib) = (Hugepages::On, 1 << 30));
    assert!(matches!(error, EalError::NoHugepages { .. }), "{error}");
    assert!(
        error.to_string().contains("/proc/sys/vm/nr_hugepages"),
        "{error}"
    );
    let error = with(|c| c.memory_mib = 1 << 30);
    assert!(matches!(error, EalError::NoMemory { .. }), "{error}");
    let error = with(|c| c.file_prefix = "a/b".into());
    assert!(matches!(error, EalError::BadArgument { .. }), "{error}");

    // EAL itself refuses.
    let error = with(|c| c.extra = vec!["--vdev=net_nosuch0".into()]);
    let EalError::Init { reason } = &error else {
        panic!("{error}")
    };
    assert!(
        reason.log.iter().any(|line| line.contains("net_nosuch0")),
        "{error}"
    );
    common::assert_nothing_left(&config);
    assert_eq!(with(|_| {}), EalError::AlreadyInitialised);
}
