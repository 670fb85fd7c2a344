//! EAL's log lines.

/// Severity of a line, as syslog has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is odd.
    #[default]
    Warning,
    /// Something an operator may want to know.
    Notice,
    /// Progress.
    Info,
    /// Everything.
    Debug,
}

/// Receives EAL's log lines (no trailing newline). Called from any thread, also from EAL's own.
pub type LogSink = Box<dyn Fn(LogLevel, &str) + Send + Sync>;
