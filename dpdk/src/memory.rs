//! Where packet memory can come from on this machine: what the kernel says of huge and ordinary
//! pages.

use std::fs;
use std::path::Path;

/// Free huge pages of all sizes, MiB.
pub(crate) fn free_hugepages_mib() -> u64 {
    free_hugepages_under(Path::new("/sys/kernel/mm/hugepages"))
}

fn free_hugepages_under(dir: &Path) -> u64 {
    let sizes = fs::read_dir(dir).into_iter().flatten().flatten();
    let free_kib = sizes.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let free = fs::read_to_string(entry.path().join("free_hugepages")).ok()?;
        Some(kib.saturating_mul(free.trim().parse().ok()?))
    });
    free_kib.fold(0, u64::saturating_add) / 1024
}

/// Memory the machine can give without swapping, MiB; `None` if the kernel does not say.
pub(crate) fn available_mib() -> Option<u64> {
    parse_available(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let rest = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_the_sizes() {
        let dir = tempfile::tempdir().unwrap();
        for (name, free) in [("hugepages-2048kB", "5\n"), ("hugepages-1048576kB", "1\n")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("free_hugepages"), free).unwrap();
        }
        fs::create_dir(dir.path().join("hugepages-oddkB")).unwrap();
        assert_eq!(free_hugepages_under(dir.path()), 1034);
        assert_eq!(free_hugepages_under(&dir.path().join("nothing")), 0);
    }

    #[test]
    fn reads_meminfo() {
        let text = "MemTotal:       24684420 kB\nMemAvailable:   24354800 kB\n";
        assert_eq!(parse_available(text), Some(23783));
        assert_eq!(parse_available("MemAvailable: many kB"), None);
        assert!(available_mib().is_some_and(|mib| mib > 0));
    }
}
