//! Where Shunt does otherwise than the recorded kernel, with `compat = "ipvs"` and with its own defaults, as rules
//! that follow from the decisions which want it.

use std::collections::{BTreeMap, BTreeSet};

use super::found::{Found, What};
use super::listings::{Counts, Rows};
use super::rig::Frames;

/// What has happened so far in a recording.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    /// With `compat = "ipvs"`.
    pub(crate) compat: bool,
    /// The kernel's sysctls that were set.
    pub(crate) sysctls: BTreeMap<String, u64>,
    /// Services that there are.
    pub(crate) services: usize,
    /// Servers that were removed, `ADDRESS:PORT`.
    pub(crate) removed: BTreeSet<String>,
    /// A server was given weight 0 whose service keeps clients to their server.
    pub(crate) weight0: bool,
    /// A service schedules every packet by itself.
    pub(crate) one_packet: bool,
    /// Clients of which a FIN or RST came with a sequence number out of the window.
    pub(crate) out_of_window: BTreeSet<String>,
    /// Clients of which a segment without flags came.
    pub(crate) flagless: BTreeSet<String>,
    /// Clients whose session is, by a listed difference, not the kernel's from then on.
    pub(crate) diverged: BTreeSet<String>,
}

/// A difference that is wanted.
pub(crate) struct Rule {
    /// What Shunt does.
    pub(crate) ours: &'static str,
    /// The decision.
    pub(crate) decision: &'static str,
    /// Not with `compat = "ipvs"`.
    pub(crate) by_default_only: bool,
    /// A recording in which it shows: if that is replayed, it must.
    pub(crate) shows_in: Option<&'static str>,
    pub(crate) fits: fn(&Found) -> bool,
}

/// Numbers of a listing that are taken from others' counts two seconds ago at most.
const STALE: u64 = 2;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

pub(crate) const RULES: &[Rule] = &[
    Rule {
        ours: "counts are of this moment",
        decision: "the kernel's --stats are copied every two seconds (SEMANTICS 2.11, estimator); \
                   Shunt's counters are read as they are (docs/api.md)",
        by_default_only: false,
        shows_in: Some("change.wlc-weights"),
        fits: |found| {
            let What::Stats { ours, kernels, age } = &found.what else {
                return false;
            };
            let mut pairs = ours.iter().zip(kernels);
            age.is_none_or(|age| age < STALE)
                && ours.len() == kernels.len()
                && pairs.all(|((name, ours), (other, kernels))| {
                    name == other && kernels.iter().zip(ours).all(|(k, o)| k <= o)
                })
        },
    },
    Rule {
        ours: "a template whose server cannot be used is replaced by its client's new one",
        decision: "docs/design/decisions/015; the kernel keeps it until its time is over, renamed to port 65535",
        by_default_only: false,
        shows_in: Some("persist.rs-deleted"),
        fits: |found| match &found.what {
            What::Sessions { ours, kernels } => {
                let renamed = |row: &String| row.contains(" NONE ") && row.ends_with(":65535");
                ours.is_empty() && kernels.iter().all(renamed)
            }
            _ => false,
        },
    },
    Rule {
        ours: "what is no service's goes to the director's kernel, which answers",
        decision: "ARCHITECTURE, mirror: Shunt answers for services alone",
        by_default_only: false,
        shows_in: Some("ops.delete-rs.dr.expire_nodest_conn0"),
        fits: |found| match &found.what {
            What::Frames { ours, up, .. } => ours.is_empty() && *up,
            _ => false,
        },
    },
    Rule {
        ours: "only a SYN alone is scheduled, all else without session is answered as `unknown` says",
        decision: "SEMANTICS, TCP segment without a session",
        by_default_only: false,
        shows_in: Some("state.ack-first.nat"),
        fits: |found| match &found.what {
            What::Frames {
                ours,
                kernels,
                drops,
                ..
            } => {
                let answered = matches!(ours.as_slice(), [] | [(0, _)]) && *drops == ["no-session"];
                let scheduled = matches!(kernels.as_slice(), [(1, _)]);
                let more = found.flags & SYN != 0 && found.flags & (SYN | ACK | RST) != SYN;
                answered && scheduled && more
            }
            _ => false,
        },
    },
    Rule {
        ours: "RST and FIN out of the window change no state",
        decision: "SEMANTICS, TCP state",
        by_default_only: false,
        shows_in: Some("state.server-closes-first.nat"),
        fits: |found| other_states(found, &found.story.out_of_window),
    },
    Rule {
        ours: "a segment without flags changes no state",
        decision: "SEMANTICS, TCP state",
        by_default_only: false,
        shows_in: None,
        fits: |found| other_states(found, &found.story.flagless),
    },
    Rule {
        ours: "states of the usual table",
        decision: "docs/design/decisions/021: secure_tcp is refused",
        by_default_only: false,
        shows_in: Some("state.secure-tcp.nat"),
        fits: |found| {
            let on = found
                .story
                .sysctls
                .get("secure_tcp")
                .is_some_and(|n| *n > 0);
            on && same_but_states(found)
        },
    },
    Rule {
        ours: "the SYN of a session that has not ended by our reckoning is no new connection",
        decision: "SEMANTICS, TCP state: its FIN was out of the window; SYN hits a closing session",
        by_default_only: false,
        shows_in: Some("state.port-reuse.conn_reuse_mode2"),
        fits: |found| match &found.what {
            What::Frames { ours, kernels, .. } => {
                let to_servers = |frames: &Frames| matches!(frames.as_slice(), [(1, _)]);
                found.flags & (SYN | ACK | RST | FIN) == SYN
                    && found.story.out_of_window.contains(&found.client)
                    && to_servers(ours)
                    && to_servers(kernels)
            }
            _ => false,
        },
    },
    Rule {
        ours: "a SYN on a session that has ended is scheduled anew, whatever conn_reuse_mode says",
        decision: "SEMANTICS, SYN hits a closing session; docs/design/decisions/021",
        by_default_only: false,
        shows_in: None,
        fits: |found| match &found.what {
            What::Frames { ours, kernels, .. } => {
                let off = found.story.sysctls.get("conn_reuse_mode") == Some(&0);
                let to_servers = |frames: &Frames| matches!(frames.as_slice(), [(1, _)]);
                off && found.flags & (SYN | ACK | RST | FIN) == SYN
                    && to_servers(ours)
                    && to_servers(kernels)
            }
            _ => false,
        },
    },
    Rule {
        ours: "`hold` drops what the removed server sends as well",
        decision: "SEMANTICS, real server removed; docs/operations.md, on_removed",
        by_default_only: false,
        shows_in: Some("ops.delete-rs.nat.expire_nodest_conn0"),
        fits: |found| match &found.what {
            What::Frames { ours, drops, .. } => {
                let from = source(&found.frame);
                let removed = from.is_some_and(|from| found.story.removed.contains(&from));
                ours.is_empty() && *drops == ["server-gone"] && removed
            }
            _ => false,
        },
    },
    Rule {
        ours: "the sessions of a removed service are not answered by the director's own stack",
        decision: "SEMANTICS, real server removed: its sessions go as `on_removed` says",
        by_default_only: false,
        shows_in: Some("ops.delete-rs.dr.expire_nodest_conn0"),
        fits: |found| match &found.what {
            What::Frames { ours, kernels, .. } => {
                let answered = matches!(kernels.as_slice(), [(0, _)]);
                found.story.services == 0 && matches!(ours.as_slice(), [] | [(1, _)]) && answered
            }
            _ => false,
        },
    },
    Rule {
        ours: "a session of a removed server that is to be rescheduled waits for its next packet",
        decision: "SEMANTICS, real server removed: reschedule; docs/operations.md",
        by_default_only: false,
        shows_in: None,
        fits: |found| match &found.what {
            What::Sessions { ours, kernels } => {
                let removed = |row: &String| {
                    let server = row.rsplit(' ').next().unwrap_or_default();
                    found.story.removed.contains(server)
                };
                kernels.is_empty() && ours.iter().all(removed)
            }
            _ => false,
        },
    },
    Rule {
        ours: "a segment of a session that is to be rescheduled is answered, not dropped",
        decision: "SEMANTICS, TCP segment without a session: unknown = \"reset\"",
        by_default_only: false,
        shows_in: None,
        fits: |found| match &found.what {
            What::Frames {
                ours,
                kernels,
                drops,
                ..
            } => {
                let expires = found.story.sysctls.get("expire_nodest_conn") == Some(&1);
                let answered = matches!(ours.as_slice(), [(0, _)]) && *drops == ["no-session"];
                expires && answered && kernels.is_empty() && !found.story.removed.is_empty()
            }
            _ => false,
        },
    },
    Rule {
        ours: "replies of one-packet scheduling come from the VIP",
        decision: "docs/design/decisions/020",
        by_default_only: false,
        shows_in: Some("ops.one-packet-udp"),
        fits: |found| match &found.what {
            What::Frames { ours, kernels, .. } => {
                let out = |frames: &Frames| matches!(frames.as_slice(), [(0, _)]);
                found.story.one_packet && out(ours) && out(kernels)
            }
            _ => false,
        },
    },
    Rule {
        ours: "a client that gets no server gets a reset",
        decision: "SEMANTICS, no real server available: no_server = \"reset\"",
        by_default_only: true,
        shows_in: Some("ops.weight0.dr"),
        fits: |found| match &found.what {
            What::Frames {
                ours,
                kernels,
                drops,
                ..
            } => {
                // Protocol and flags of an IPv4 packet without options.
                let is = |frames: &Frames, protocol: u8| match frames.as_slice() {
                    [(0, frame)] => frame.get(23) == Some(&protocol),
                    _ => false,
                };
                let refused = matches!(drops.as_slice(), ["no-server" | "server-limit"]);
                is(ours, 6) && is(kernels, 1) && refused
            }
            _ => false,
        },
    },
    Rule {
        ours: "the sessions of a removed server finish with it",
        decision: "SEMANTICS, real server removed: on_removed = \"finish\"",
        by_default_only: true,
        shows_in: None,
        fits: |found| match &found.what {
            What::Frames { ours, kernels, .. } => {
                let to_server = matches!(ours.as_slice(), [(1, _)]);
                to_server && kernels.is_empty() && !found.story.removed.is_empty()
            }
            _ => false,
        },
    },
    Rule {
        ours: "a client's server of weight 0 is passed over",
        decision: "SEMANTICS, weight 0: template_weight0 = \"ignore\"",
        by_default_only: true,
        shows_in: Some("persist.weight0-template-kept"),
        fits: |found| {
            let another = match &found.what {
                What::Pick { ours, kernels } => ours.is_some() && kernels.is_some(),
                What::Sessions { ours, kernels } => {
                    let but_server = |rows: &[String]| {
                        let cut = rows.iter().filter_map(|row| row.rsplit_once(' '));
                        cut.map(|(row, _)| row.to_owned()).collect::<BTreeSet<_>>()
                    };
                    but_server(ours) == but_server(kernels)
                }
                What::Counts { ours, kernels } => {
                    let sum = |counts: &Counts| -> u64 { counts.values().map(|c| c.2 + c.3).sum() };
                    ours.keys().eq(kernels.keys()) && sum(ours) == sum(kernels)
                }
                What::Stats { ours, kernels, .. } => {
                    ours.first() == kernels.first() && ours.len() == kernels.len()
                }
                _ => false,
            };
            found.story.weight0 && another
        },
    },
    Rule {
        ours: "what follows from a session that is not the kernel's, by a difference above",
        decision: "as there",
        by_default_only: false,
        shows_in: Some("state.ack-first.nat"),
        fits: |found| match &found.what {
            What::Sessions { ours, kernels } => {
                let client = |row: &String| row.split(' ').nth(2).map(str::to_owned);
                let known =
                    |row| client(row).is_some_and(|client| found.story.diverged.contains(&client));
                ours.iter().chain(kernels).all(known)
            }
            What::Frames { .. } => found.story.diverged.contains(&found.client),
            What::Counts { ours, kernels } => {
                let same = ours.keys().eq(kernels.keys());
                same && !found.story.diverged.is_empty()
            }
            What::Stats { ours, kernels, .. } => {
                let names = |rows: &Rows| {
                    rows.iter()
                        .map(|(name, _)| name.clone())
                        .collect::<Vec<_>>()
                };
                names(ours) == names(kernels) && !found.story.diverged.is_empty()
            }
            _ => false,
        },
    },
];

/// Whether sessions differ in their states alone.
fn same_but_states(found: &Found) -> bool {
    let What::Sessions { ours, kernels } = &found.what else {
        return false;
    };
    let rest = |rows: &[String]| {
        let rest = rows.iter().map(|row| {
            let mut words: Vec<&str> = row.split(' ').collect();
            words.remove(1);
            words.join(" ")
        });
        rest.collect::<BTreeSet<_>>()
    };
    rest(ours) == rest(kernels)
}

/// Whether sessions differ in their states alone, and all of them are of these clients.
fn other_states(found: &Found, clients: &BTreeSet<String>) -> bool {
    let What::Sessions { ours, .. } = &found.what else {
        return false;
    };
    let of = |row: &String| {
        let client = row.split(' ').nth(2).unwrap_or_default();
        clients.contains(client)
    };
    same_but_states(found) && ours.iter().all(of)
}

/// Source of an IPv4 segment or datagram.
fn source(frame: &[u8]) -> Option<String> {
    let ip = frame.get(14..34).filter(|ip| ip[0] == 0x45)?;
    let port = frame.get(34..36)?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    Some(format!(
        "{}.{}.{}.{}:{port}",
        ip[12], ip[13], ip[14], ip[15]
    ))
}
