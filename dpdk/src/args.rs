//! From a configuration to EAL's command line. Pure.

use std::ffi::CString;

use crate::{EalConfig, EalError, LogLevel};

/// The command line for `config`, on huge pages or not, with EAL's main thread on `cpus`.
///
/// What is chosen, and why:
/// - `--in-memory` (huge pages) or `--no-huge --no-shconf`: no file on hugetlbfs, none under
///   /var/run/dpdk. Packet memory is a memory file without a name in both, so that its descriptor
///   can be passed to a vhost-user backend.
/// - `--single-file-segments` (implied by `--no-huge`): one descriptor for all of it; vhost-user
///   takes eight at most.
/// - `--iova-mode=va` unless a PCI device is to be driven on huge pages, where the bus decides:
///   ordinary pages have no lasting physical address.
/// - `-a 0000:00:00.0` where the PCI bus is wanted: a list with an address that no driver takes, so
///   that EAL probes nothing by itself and [`crate::Eal::attach`] can report each device's error.
/// - no telemetry socket: it would be a file, and a thread.
pub(crate) fn command_line(
    config: &EalConfig,
    huge: bool,
    cpus: &[usize],
) -> Result<Vec<CString>, EalError> {
    let bad = |argument: &str, why| EalError::BadArgument {
        argument: argument.into(),
        why,
    };
    let prefix = &config.file_prefix;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(plain) {
        return Err(bad(
            prefix,
            "a file prefix is 1 to 64 letters, digits, `-`, `_`",
        ));
    }
    let has = |names: &[&str]| {
        config.extra.iter().any(|extra| {
            names.iter().any(|name| {
                let rest = extra.strip_prefix(name);
                // `-d` may have its value glued on, `--name` only after `=`.
                rest.is_some_and(|r| r.is_empty() || r.starts_with('=') || !name.starts_with("--"))
            })
        })
    };
    let pci = config.pci || has(&["-a", "--allow", "-b", "--block"]);
    let list: Vec<String> = cpus.iter().map(ToString::to_string).collect();

    let mut args: Vec<String> = ["shunt", "--no-telemetry"].map(String::from).into();
    args.push(format!("--lcores=0@({})", list.join(",")));
    args.push(format!("--file-prefix={prefix}"));
    // Warnings are part of our errors, whether or not they are reported as well.
    let level = config.log_level.max(LogLevel::Warning);
    args.push(format!("--log-level={}", level.number()));
    if huge {
        args.extend(["--in-memory", "--single-file-segments"].map(String::from));
    } else {
        args.extend(["--no-huge", "--no-shconf"].map(String::from));
    }
    args.extend(["-m".to_owned(), config.memory_mib.to_string()]);
    let bus_decides = huge && pci;
    if !bus_decides && !has(&["--iova-mode"]) {
        args.push("--iova-mode=va".to_owned());
    }
    match pci {
        false => args.push("--no-pci".to_owned()),
        // EAL takes a list of allowed devices or one of blocked ones, not both.
        true if !has(&["-a", "--allow", "-b", "--block"]) => {
            args.extend(["-a", "0000:00:00.0"].map(String::from));
        }
        true => {}
    }
    for vdev in &config.vdevs {
        if vdev.is_empty() {
            return Err(bad(vdev, "the name of a virtual device is missing"));
        }
        args.push(format!("--vdev={vdev}"));
    }
    if !dpdk_sys::DYNAMIC
        && let Some(plugin) = plugin(&config.extra)
    {
        return Err(EalError::PluginsNeedDynamic { plugin });
    }
    for plugin in &config.plugins {
        let plugin = plugin.to_string_lossy().into_owned();
        if !dpdk_sys::DYNAMIC {
            return Err(EalError::PluginsNeedDynamic { plugin });
        }
        args.extend(["-d".to_owned(), plugin]);
    }
    args.extend(config.extra.iter().cloned());
    args.into_iter()
        .map(|arg| CString::new(arg.clone()).map_err(|_| bad(&arg, "it contains a zero byte")))
        .collect()
}

/// The first plugin that further arguments name: `-d`, `x.so` or `-dx.so`.
fn plugin(extra: &[String]) -> Option<String> {
    let at = extra.iter().position(|a| a.starts_with("-d"))?;
    match extra.get(at)?.strip_prefix("-d")? {
        "" => Some(extra.get(at + 1).map_or("-d", String::as_str).to_owned()),
        glued => Some(glued.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(config: &EalConfig, huge: bool) -> Result<String, EalError> {
        let args = command_line(config, huge, &[0, 2])?;
        Ok(args
            .iter()
            .map(|a| a.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn small_and_without_huge_pages() {
        let config = EalConfig {
            file_prefix: "a-b_1".into(),
            memory_mib: 64,
            log_level: LogLevel::Error,
            vdevs: vec!["net_tap0,iface=x".into()],
            ..EalConfig::default()
        };
        assert_eq!(
            line(&config, false).unwrap(),
            "shunt --no-telemetry --lcores=0@(0,2) --file-prefix=a-b_1 --log-level=5 --no-huge \
             --no-shconf -m 64 --iova-mode=va --no-pci --vdev=net_tap0,iface=x"
        );
    }

    #[test]
    fn pci_on_huge_pages() {
        let mut config = EalConfig {
            pci: true,
            ..EalConfig::default()
        };
        let text = line(&config, true).unwrap();
        assert!(text.contains("--in-memory --single-file-segments -m 128 -a 0000:00:00.0"));
        assert!(!text.contains("--iova-mode") && !text.contains("--no-pci"));
        config.extra = vec!["-b0000:03:00.0".into(), "--iova-mode=pa".into()];
        config.pci = false;
        let text = line(&config, true).unwrap();
        assert!(
            text.ends_with("-m 128 -b0000:03:00.0 --iova-mode=pa"),
            "{text}"
        );
    }

    #[test]
    fn refuses_what_eal_would_misread() {
        for prefix in ["", "a b", "../x", "%", &"x".repeat(65)] {
            let config = EalConfig {
                file_prefix: prefix.into(),
                ..EalConfig::default()
            };
            assert!(matches!(
                line(&config, false),
                Err(EalError::BadArgument { .. })
            ));
        }
        let config = EalConfig {
            extra: vec!["a\0b".into()],
            ..EalConfig::default()
        };
        assert!(matches!(
            line(&config, false),
            Err(EalError::BadArgument { .. })
        ));
    }

    #[test]
    fn plugins_need_shared_libraries() {
        let config = EalConfig {
            plugins: vec!["/usr/lib/x.so".into()],
            ..EalConfig::default()
        };
        let glued = EalConfig {
            extra: vec!["-d/usr/lib/x.so".into()],
            ..EalConfig::default()
        };
        let apart = EalConfig {
            extra: vec!["--vdev=net_x0".into(), "-d".into(), "/usr/lib/x.so".into()],
            ..EalConfig::default()
        };
        for config in [config, glued, apart] {
            let result = line(&config, false);
            if dpdk_sys::DYNAMIC {
                assert!(result.unwrap().contains("/usr/lib/x.so"));
            } else {
                let plugin = "/usr/lib/x.so".into();
                assert_eq!(result, Err(EalError::PluginsNeedDynamic { plugin }));
            }
        }
    }
}
