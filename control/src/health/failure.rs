//! Why a check failed: a reason out of a short list, which metrics count by, and a text for people.

use core::fmt;
use std::io;

use rustix::io::Errno;

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing came in time.
    Timeout,
    /// Nobody listens: RST, or ICMP port unreachable.
    Refused,
    /// There is no way there, or nobody at the end of it.
    Unreachable,
    /// The connection broke.
    Broken,
    /// No TLS session, or a certificate that does not hold.
    Tls,
    /// An answer that is none in its protocol.
    Protocol,
    /// An answer with a status that is not good.
    Status,
    /// An answer that does not have what it should.
    Content,
    /// The program ended with another status than 0, or by a signal.
    Exit,
    /// The director could not ask: no descriptors, no such program.
    Local,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Timeout,
        Self::Refused,
        Self::Unreachable,
        Self::Broken,
        Self::Tls,
        Self::Protocol,
        Self::Status,
        Self::Content,
        Self::Exit,
        Self::Local,
    ];

    /// The word in listings and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::Status => "status",
            Self::Content => "content",
            Self::Exit => "exit",
            Self::Local => "local",
        }
    }
}

/// Longest text of a failure, characters.
const TEXT: usize = 200;

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub reason: Reason,
    /// In words: one line of bounded length without control characters, whatever the server sent.
    pub text: String,
}

impl Failure {
    /// `text` may hold what a server or a program said.
    pub fn new(reason: Reason, text: impl fmt::Display) -> Self {
        // Bounded before it is put together: some errors carry what the peer sent.
        let mut bounded = Bounded(String::new());
        let _ = fmt::write(&mut bounded, format_args!("{text}"));
        Self {
            reason,
            text: bounded.0,
        }
    }

    /// From an error of a socket; `doing` is what was tried.
    pub fn io(doing: &str, error: &io::Error) -> Self {
        let errno = Errno::from_io_error(error);
        let reason = match errno {
            Some(Errno::CONNREFUSED) => Reason::Refused,
            Some(
                Errno::HOSTUNREACH
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::NETDOWN
                | Errno::ADDRNOTAVAIL,
            ) => Reason::Unreachable,
            Some(Errno::TIMEDOUT) => Reason::Timeout,
            Some(
                Errno::MFILE
                | Errno::NFILE
                | Errno::NOMEM
                | Errno::NOBUFS
                | Errno::ACCESS
                | Errno::PERM,
            ) => Reason::Local,
            _ => Reason::Broken,
        };
        Self::new(reason, format_args!("{doing}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.word(), self.text)
    }
}

/// Takes the beginning of what is written.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = TEXT.saturating_sub(self.0.chars().count());
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        self.0.extend(s.chars().take(room).map(clean));
        if s.chars().nth(room).is_some() {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_bounded_and_one_line() {
        let said = format!("a\r\n\x1b[31mb{}", "ü".repeat(1 << 20));
        let failure = Failure::new(Reason::Content, format_args!("it said {said}"));
        assert_eq!(failure.text.chars().count(), TEXT);
        assert!(failure.text.starts_with("it said a   [31mbü"));
        assert!(!failure.text.contains(char::is_control));
    }

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        for (n, reason) in Reason::ALL.iter().enumerate() {
            // The metrics count in an array by this number.
            assert_eq!(*reason as usize, n);
            let same = Reason::ALL.iter().filter(|r| r.word() == reason.word());
            assert_eq!(same.count(), 1);
        }
    }
}
