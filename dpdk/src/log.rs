//! EAL's log lines: those that were asked for go to the sink given at start, and errors and warnings
//! logged by a call that fails become part of the error it returns.

use std::cell::RefCell;
use std::ffi::c_char;
use std::sync::OnceLock;

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

impl LogLevel {
    /// EAL's number of it.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Error => dpdk_sys::RTE_LOG_ERR,
            Self::Warning => dpdk_sys::RTE_LOG_WARNING,
            Self::Notice => dpdk_sys::RTE_LOG_NOTICE,
            Self::Info => dpdk_sys::RTE_LOG_INFO,
            Self::Debug => dpdk_sys::RTE_LOG_DEBUG,
        }
    }

    fn from_number(level: u32) -> Self {
        match level {
            0..=dpdk_sys::RTE_LOG_ERR => Self::Error,
            dpdk_sys::RTE_LOG_WARNING => Self::Warning,
            dpdk_sys::RTE_LOG_NOTICE => Self::Notice,
            dpdk_sys::RTE_LOG_INFO => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// Receives EAL's log lines (no trailing newline). Called from any thread, also from EAL's own;
/// must neither panic nor call into this crate.
pub type LogSink = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

/// Where lines go, and the least severity of those that do.
static SINK: OnceLock<(LogLevel, Option<LogSink>)> = OnceLock::new();

/// What DPDK logs as errors and warnings although nothing is lost; reported as [`LogLevel::Info`].
/// An operator who is told of errors at every start stops reading them.
const HARMLESS: &[&str] = &[
    // net_tap prepares for flow rules, which we do not use, in traffic control.
    "tap_nl_dump_ext_ack()",
    "qdisc_create_multiq()",
    "failed to create multiq qdisc",
    "Disabling rte flow support",
    // Drivers look for secondary processes, which we have turned off.
    "tap_mp_req_on_rxtx(): Failed to send start req to secondary",
    "rte_pmd_memif_probe(): Failed to register mp action callback",
    // Without root; the folder would stay empty.
    "EAL: Error creating '",
    "EAL: No DPDK runtime directory created",
    // virtio_user makes one up.
    "No valid MAC in devargs or device, use random",
];

/// What a failing call need not say, because its error does.
const NOTHING_NEW: &[&str] = &[
    "EAL: Driver cannot attach the device",
    "EAL: Failed to attach device on primary process",
];

/// Most lines and bytes that are kept of what a failing call logs.
const KEEP: usize = 6;
const KEEP_BYTES: usize = 240;

thread_local! {
    /// What this thread's current call has logged.
    static CAPTURED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Sends EAL's lines to `sink`, or nowhere. Once a process. Returns the level that EAL is to log
/// at: warnings are needed for our errors even if nobody wants to see them.
pub(crate) fn redirect(level: LogLevel, sink: Option<LogSink>) -> LogLevel {
    if SINK.set((level, sink)).is_ok() {
        // SAFETY: `receive` keeps to the shim's contract for its lifetime, the process's. Without
        // memory for a stream the lines go to stderr as before.
        unsafe { dpdk_sys::shunt_log_redirect(Some(receive)) };
    }
    level.max(LogLevel::Warning)
}

/// Runs `call` and returns what it returned and the errors and warnings it logged.
pub(crate) fn capture<R>(call: impl FnOnce() -> R) -> (R, Vec<String>) {
    CAPTURED.set(Some(Vec::new()));
    // SAFETY: writes a thread-local variable. Not every failing call sets it.
    unsafe { dpdk_sys::shunt_clear_rte_errno() };
    let result = call();
    (result, CAPTURED.take().unwrap_or_default())
}

/// The shim's callback: one or more lines of one message.
unsafe extern "C" fn receive(level: u32, text: *const c_char, len: usize) {
    // SAFETY: the shim passes `len` bytes.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    let level = LogLevel::from_number(level);
    for line in String::from_utf8_lossy(bytes).lines().map(str::trim_end) {
        if line.is_empty() {
            continue;
        }
        let is_one_of = |list: &[&str]| list.iter().any(|words| line.contains(words));
        let level = if is_one_of(HARMLESS) {
            level.max(LogLevel::Info)
        } else {
            level
        };
        if level <= LogLevel::Warning && !is_one_of(NOTHING_NEW) {
            keep(line);
        }
        if let Some((least, Some(sink))) = SINK.get()
            && level <= *least
        {
            sink(level, line);
        }
    }
}

fn keep(line: &str) {
    // A thread that is ending has no variables any more; its lines belong to no call.
    let _ = CAPTURED.try_with(|captured| {
        if let Ok(mut captured) = captured.try_borrow_mut()
            && let Some(lines) = captured.as_mut()
            && lines.len() < KEEP
        {
            lines.push(line.chars().take(KEEP_BYTES).collect());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_errors_of_the_call_only() {
        let say = |level, text: &str| {
            // SAFETY: the bytes of a string.
            unsafe { receive(level, text.as_ptr().cast(), text.len()) }
        };
        say(dpdk_sys::RTE_LOG_ERR, "before\n");
        let ((), lines) = capture(|| {
            say(dpdk_sys::RTE_LOG_WARNING, "EAL: one\nEAL: two\n\n");
            say(dpdk_sys::RTE_LOG_INFO, "EAL: not an error\n");
            say(
                dpdk_sys::RTE_LOG_ERR,
                "EAL: Driver cannot attach the device (x)\n",
            );
            say(
                dpdk_sys::RTE_LOG_ERR,
                "qdisc_create_multiq(): not one either\n",
            );
            for _ in 0..100 {
                say(dpdk_sys::RTE_LOG_CRIT, &"long".repeat(1000));
            }
        });
        assert_eq!(lines[..2], ["EAL: one", "EAL: two"]);
        assert_eq!(lines.len(), KEEP);
        assert!(lines.iter().all(|l| l.len() <= KEEP_BYTES));
    }
}
