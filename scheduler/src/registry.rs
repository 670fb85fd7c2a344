//! The schedulers by name. This table is the one place that knows them all.

use std::sync::Arc;

use shunt_service::Servers;
use thiserror::Error;

use crate::least::{Least, Measure};
use crate::{
    Flags, Scheduler, buckets, conhash, dh, fo, lblc, lblcr, lc, mh, nq, ovf, p2c_latency, rr, sed,
    sh, twos, wlc, wrr,
};

/// Makes a scheduler for a list of servers; the last argument is the one it replaces.
type Make = fn(&Flags, &Servers, Option<&dyn Scheduler>) -> Arc<dyn Scheduler>;

struct Entry {
    name: &'static str,
    /// Names of the flags that it takes.
    flags: &'static [&'static str],
    /// Most servers that it can serve.
    most: fn(&Flags) -> Option<u32>,
    make: Make,
}

impl Entry {
    /// A scheduler without flags, for any number of servers.
    const fn plain(name: &'static str, make: Make) -> Self {
        Self {
            name,
            flags: &[],
            most: |_| None,
            make,
        }
    }
}

/// A scheduler that picks the least by a measure.
macro_rules! least {
    ($module:ident) => {
        Entry::plain($module::NAME, |_, s, p| {
            const BY: &[Measure; 1] = &[Measure::new($module::measure)];
            Arc::new(Least::new($module::NAME, BY, s, p))
        })
    };
}

const SCHEDULERS: &[Entry] = &[
    Entry::plain(rr::NAME, |_, s, p| Arc::new(rr::Rr::new(s, p))),
    Entry::plain(wrr::NAME, |_, s, p| Arc::new(wrr::Wrr::new(s, p))),
    least!(lc),
    least!(wlc),
    Entry::plain(lblc::NAME, |_, s, p| Arc::new(lblc::Lblc::new(s, p))),
    Entry::plain(lblcr::NAME, |_, s, p| Arc::new(lblcr::Lblcr::new(s, p))),
    Entry {
        name: dh::NAME,
        flags: &[],
        most: |_| Some(buckets::BUCKETS),
        make: |_, s, _| Arc::new(dh::Dh::new(s)),
    },
    Entry {
        name: sh::NAME,
        flags: &["sh-fallback", "sh-port"],
        most: |_| Some(buckets::BUCKETS),
        make: |f, s, _| Arc::new(sh::Sh::new(f, s)),
    },
    least!(sed),
    least!(nq),
    least!(fo),
    least!(ovf),
    Entry {
        name: mh::NAME,
        flags: &["mh-fallback", "mh-port", "mh-seed", "mh-size"],
        most: |f| Some(f.mh_size.places()),
        make: |f, s, p| Arc::new(mh::Mh::new(f, s, p)),
    },
    Entry::plain(twos::NAME, |_, s, _| Arc::new(twos::Twos::new(s))),
    Entry::plain(conhash::NAME, |_, s, p| {
        Arc::new(conhash::Conhash::new(s, p))
    }),
    Entry::plain(p2c_latency::NAME, |_, s, _| {
        Arc::new(p2c_latency::P2cLatency::new(s))
    }),
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
    /// The scheduler does not take this flag.
    #[error("scheduler `{name}` does not take the flag `{flag}`")]
    FlagNotTaken {
        /// The scheduler.
        name: &'static str,
        /// The flag.
        flag: &'static str,
    },
    /// There are more servers than the scheduler's table has places.
    #[error(
        "scheduler `{name}` serves {most} servers at most, one for each place of its table, not {servers}"
    )]
    TooManyServers {
        /// The scheduler.
        name: &'static str,
        /// How many it serves.
        most: u32,
        /// How many there are.
        servers: usize,
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
/// [`BuildError`] if there is no such scheduler, or it does not take one of the flags or so many
/// servers.
pub fn build(
    name: &str,
    flags: &Flags,
    servers: &Servers,
    previous: Option<&dyn Scheduler>,
) -> Result<Arc<dyn Scheduler>, BuildError> {
    let Some(entry) = SCHEDULERS.iter().find(|e| e.name == name) else {
        return Err(BuildError::UnknownName {
            name: name.to_owned(),
            nearest: nearest(name),
        });
    };
    if let Some(flag) = flags.names().find(|w| !entry.flags.contains(w)) {
        return Err(BuildError::FlagNotTaken {
            name: entry.name,
            flag,
        });
    }
    if let Some(most) = (entry.most)(flags)
        && servers.len() > most as usize
    {
        return Err(BuildError::TooManyServers {
            name: entry.name,
            most,
            servers: servers.len(),
        });
    }
    Ok((entry.make)(flags, servers, previous))
}

/// The most servers that the scheduler of a name serves with these flags; `None` where it serves
/// any number, or is not known.
pub fn most_servers(name: &str, flags: &Flags) -> Option<u32> {
    let entry = SCHEDULERS.iter().find(|e| e.name == name)?;
    (entry.most)(flags)
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
    use crate::testing::servers;

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
        let known = "known are: rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos, \
                     conhash, p2c-latency";
        assert_eq!(
            error("wlcc", ""),
            format!("no scheduler is called `wlcc`, perhaps `wlc` is meant; {known}")
        );
        assert_eq!(
            error("round-robin", ""),
            format!("no scheduler is called `round-robin`; {known}")
        );
        assert_eq!(
            error("rr", "sh-port"),
            "scheduler `rr` does not take the flag `sh-port`"
        );
    }

    #[test]
    fn as_many_servers_as_the_table_has_places() {
        for (name, flags, most) in [("sh", "", 256), ("dh", "", 256), ("mh", "mh-size=251", 251)] {
            let flags = flags.parse().expect("flags");
            assert_eq!(most_servers(name, &flags), Some(most));
            let most = most as usize;
            assert!(build(name, &flags, &servers(&vec![1; most]), None).is_ok());
            let error = build(name, &flags, &servers(&vec![1; most + 1]), None);
            let text = error.expect_err("one too many").to_string();
            let wanted = format!("serves {most} servers at most");
            assert!(text.contains(name) && text.contains(&wanted), "{text}");
        }
        assert_eq!(most_servers("wlc", &Flags::default()), None);
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
