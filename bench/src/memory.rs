//! What a process really uses.

use std::io::{Error, ErrorKind, Result};

/// Resident memory of this process, bytes; huge pages, which the kernel counts apart, included.
///
/// # Errors
/// If the kernel does not say.
pub fn resident() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let mut kib = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let Some("Rss:" | "Shared_Hugetlb:" | "Private_Hugetlb:") = words.next() {
            let number = words.next().and_then(|w| w.parse::<u64>().ok());
            kib += number.ok_or_else(|| Error::from(ErrorKind::InvalidData))?;
        }
    }
    Ok(kib * 1024)
}
