//! What a replay finds: differences between our director and the recorded kernel, and why one ends early.

use core::fmt;

use super::differences::Story;
use super::frames::shown;
use super::listings::{Counts, Rows};
use super::rig::Frames;

/// What is not as recorded.
#[derive(Debug)]
pub(crate) enum What {
    /// What came out for a frame.
    Frames {
        ours: Frames,
        kernels: Frames,
        /// Ours went up to the kernel.
        up: bool,
        drops: Vec<&'static str>,
    },
    /// Sessions that we alone have, and that the kernel alone has.
    Sessions {
        ours: Vec<String>,
        kernels: Vec<String>,
    },
    /// `-Ln`, or the counts of a step.
    Counts { ours: Counts, kernels: Counts },
    /// Rows of `-Ln --stats`.
    Stats {
        ours: Rows,
        kernels: Rows,
        /// Seconds from the last packet to the recorded listing, as far as timers tell.
        age: Option<u64>,
    },
    /// Timers are not what time that passed would make of ours.
    Timer {
        session: String,
        ours: u64,
        kernels: u64,
    },
    /// Exit code, output, messages of a command.
    Command {
        ours: (i64, String, String),
        kernels: (i64, String, String),
    },
    /// The real server that a client got.
    Pick {
        ours: Option<u8>,
        kernels: Option<u64>,
    },
}

/// A difference, and where.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) step: String,
    pub(crate) what: What,
    /// The frame of the step, if there is one; its TCP flags; its client.
    pub(crate) frame: Vec<u8>,
    pub(crate) flags: u8,
    pub(crate) client: String,
    /// What had happened by then.
    pub(crate) story: Story,
    /// Place in [`RULES`] of what wants it.
    pub(crate) rule: Option<usize>,
}

/// Why a recording is not replayed to its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something in it is refused, as docs/ipvsadm.md tells.
    NotBuilt(String),
    /// It is not understood.
    Wrong(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

impl From<&str> for Stop {
    fn from(why: &str) -> Self {
        Self::Wrong(why.to_owned())
    }
}

/// What a part of a replay comes to.
pub(crate) type Done<T> = std::result::Result<T, Stop>;

/// What a recording came to.
#[derive(Debug, Default)]
pub(crate) struct Result {
    /// Comparisons made.
    pub(crate) compared: usize,
    pub(crate) found: Vec<Found>,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let two = |f: &mut fmt::Formatter<'_>, ours: &dyn fmt::Debug, kernels: &dyn fmt::Debug| {
            write!(f, "\n      ours     {ours:?}\n      recorded {kernels:?}")
        };
        match self {
            Self::Frames {
                ours,
                kernels,
                up,
                drops,
            } => {
                write!(f, "frames; drops {drops:?}, to the kernel: {up}")?;
                for (whose, frames) in [("ours", ours), ("recorded", kernels)] {
                    for (port, frame) in frames {
                        write!(f, "\n      {whose:<8} port {port} {}", shown(frame))?;
                    }
                }
                Ok(())
            }
            Self::Sessions { ours, kernels } => {
                f.write_str("sessions")?;
                two(f, ours, kernels)
            }
            Self::Counts { ours, kernels } => {
                f.write_str("counts")?;
                two(f, ours, kernels)
            }
            Self::Stats { ours, kernels, age } => {
                write!(f, "statistics, {age:?} s old")?;
                two(f, ours, kernels)
            }
            Self::Timer {
                session,
                ours,
                kernels,
            } => {
                write!(f, "timer of {session}")?;
                two(f, ours, kernels)
            }
            Self::Command { ours, kernels } => {
                f.write_str("exit code, output, messages")?;
                two(f, ours, kernels)
            }
            Self::Pick { ours, kernels } => {
                f.write_str("picked server")?;
                two(f, ours, kernels)
            }
        }
    }
}
