//! The schedulers by name. This table is the one place that knows them all.

use std::sync::Arc;

use shunt_service::Servers;
use thiserror::Error;

use crate::{Flags, Scheduler, lc, rr, sh, wlc, wrr};

/// Makes a scheduler for a list of servers; the last argument is the one it replaces.
type Make = fn(&Flags, &Servers, Option<&dyn Scheduler>) -> Arc<dyn Scheduler>;

struct Entry {
    name: &'static str,
    /// Words of the flags that it takes.
    flags: &'static [&'static str],
    make: Make,
}

const SCHEDULERS: &[Entry] = &[
    Entry {
        name: rr::NAME,
        flags: &[],
        make: |_, s, p| Arc::new(rr::Rr::new(s, p)),
    },
    Entry {
        name: wrr::NAME,
        flags: &[],
        make: |_, s, p| Arc::new(wrr::Wrr::new(s, p)),
    },
    Entry {
        name: lc::NAME,
        flags: &[],
        make: |_, _, _| Arc::new(lc::Lc),
    },
    Entry {
        name: wlc::NAME,
        flags: &[],
        make: |_, _, _| Arc::new(wlc::Wlc),
    },
    Entry {
        name: sh::NAME,
        flags: &["sh-fallback", "sh-port"],
        make: |f, s, _| Arc::new(sh::Sh::new(f, s)),
    },
];

/// The kernel's schedulers that are not in the table: an operator who comes from IPVS is told so,
/// and not that `mh` might be a misspelt `sh`.
const KERNEL_ONLY: &[&str] = &[
    "dh", "fo", "lblc", "lblcr", "mh", "nq", "ovf", "sed", "twos",
];

/// Why there is no scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BuildError {
    /// No scheduler has this name.
    #[error(
        "no scheduler is called `{name}`{}; known are: {}",
        hint(nearest),
        listed()
    )]
    UnknownName {
        /// The name asked for.
        name: String,
        /// The known name that looks most like it, if one does.
        nearest: Option<&'static str>,
    },
    /// The kernel has a scheduler of this name, Shunt has not.
    #[error(
        "the kernel's scheduler `{name}` is not available; known are: {}",
        listed()
    )]
    KernelOnly {
        /// The name asked for.
        name: &'static str,
    },
    /// The scheduler does not take this flag.
    #[error("scheduler `{name}` does not take the flag `{flag}`")]
    FlagNotTaken {
        /// The scheduler.
        name: &'static str,
        /// The flag.
        flag: &'static str,
    },
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |n| format!(", perhaps `{n}` is meant"))
}

fn listed() -> String {
    names().collect::<Vec<_>>().join(", ")
}

/// Names of all schedulers, in the order in which documentation lists them.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCHEDULERS.iter().map(|e| e.name)
}

/// Builds the scheduler `name` for `servers`, after every change of theirs. `previous` is the one
/// it replaces in the same service: where it is of the same name its cursor is carried over as
/// the kernel does, so that a change of servers does not start the rotation anew. What workers
/// pick with `previous` after this call is not seen by the new one.
///
/// # Errors
/// [`BuildError`] if there is no such scheduler, or it does not take one of the flags.
pub fn build(
    name: &str,
    flags: &Flags,
    servers: &Servers,
    previous: Option<&dyn Scheduler>,
) -> Result<Arc<dyn Scheduler>, BuildError> {
    let Some(entry) = SCHEDULERS.iter().find(|e| e.name == name) else {
        return Err(match KERNEL_ONLY.iter().find(|k| **k == name) {
            Some(name) => BuildError::KernelOnly { name },
            None => BuildError::UnknownName {
                name: name.to_owned(),
                nearest: nearest(name),
            },
        });
    };
    if let Some(flag) = flags.words().find(|w| !entry.flags.contains(w)) {
        return Err(BuildError::FlagNotTaken {
            name: entry.name,
            flag,
        });
    }
    Ok((entry.make)(flags, servers, previous))
}

/// The known name with the fewest edits from `name`, if these are fewer than half its letters.
fn nearest(name: &str) -> Option<&'static str> {
    // Longer words are no misspelling of ours; this also bounds the work.
    if name.len() > 16 {
        return None;
    }
    let name = name.to_ascii_lowercase();
    names()
        .map(|known| (edits(&name, known), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| distance * 2 <= name.len())
        .map(|(_, known)| known)
}

/// Levenshtein distance in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let best = (diagonal + usize::from(x != y))
                .min(left + 1)
                .min(*cell + 1);
            diagonal = core::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str, flags: &str) -> String {
        let flags = flags.parse().expect("a flag");
        build(name, &flags, &Servers::default(), None)
            .expect_err("no such scheduler")
            .to_string()
    }

    #[test]
    fn every_name_builds_what_it_says() {
        for name in names() {
            let built = build(name, &Flags::default(), &Servers::default(), None);
            assert_eq!(built.map(|s| s.name()), Ok(name));
        }
    }

    #[test]
    fn errors_tell_what_would_be_right() {
        assert_eq!(
            error("wlcc", ""),
            "no scheduler is called `wlcc`, perhaps `wlc` is meant; known are: rr, wrr, lc, wlc, sh"
        );
        assert_eq!(
            error("round-robin", ""),
            "no scheduler is called `round-robin`; known are: rr, wrr, lc, wlc, sh"
        );
        assert_eq!(
            error("mh", ""),
            "the kernel's scheduler `mh` is not available; known are: rr, wrr, lc, wlc, sh"
        );
        assert_eq!(
            error("rr", "sh-port"),
            "scheduler `rr` does not take the flag `sh-port`"
        );
    }

    #[test]
    fn distance_of_words() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "rr", 2),
            ("rr", "wrr", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edits(a, b), distance, "{a} {b}");
        }
        assert_eq!(nearest("WRR"), Some("wrr"));
        assert_eq!(nearest(""), None);
    }
}
