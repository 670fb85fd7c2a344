//! A program: exit status 0 is success. It runs in a process group of its own with a small
//! environment; at the timeout the whole group is killed. Of what it prints the first 4 KiB are
//! kept for people; the rest is read slowly and thrown away, so that a flood costs the director
//! next to nothing.

use core::time::Duration;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use shunt_service::Destination;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;

use super::check::Exec;
use super::failure::{Failure, Reason};
use super::probe::{Outcome, Target};

/// What is kept of a program's output, bytes.
const KEPT: usize = 4096;
/// Pause between two reads of what is thrown away.
const SLOWLY: Duration = Duration::from_millis(10);

pub(super) async fn run(exec: &Exec, target: &Target) -> Outcome {
    let Some((program, arguments)) = exec.command.split_first() else {
        return Err(Failure::new(Reason::Local, "no program"));
    };
    let local =
        |error: std::io::Error| Failure::new(Reason::Local, format_args!("{program}: {error}"));
    let (output, input) = std::io::pipe().map_err(local)?;
    let errors = input.try_clone().map_err(local)?;
    let mut output = pipe::Receiver::from_owned_fd(output.into()).map_err(local)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("SHUNT_SERVICE", target.service.name())
        .env("SHUNT_SERVER", target.server.ip().to_string())
        .env("SHUNT_SERVER_PORT", target.server.port().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(input)
        .stderr(errors)
        .process_group(0)
        .kill_on_drop(true);
    if let Some(Destination { protocol, vip }) = target.service.destination() {
        command
            .env("SHUNT_PROTOCOL", protocol.to_string())
            .env("SHUNT_VIP", vip.address().to_string())
            .env("SHUNT_VIP_PREFIX", vip.prefix_len().to_string())
            .env("SHUNT_VIP_PORT", vip.ports().to_string());
    }
    let mut child = command.spawn().map_err(local)?;
    // Its copies of the pipe's other end would keep the pipe open.
    drop(command);
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let mut kept = Vec::new();
    let status = {
        let mut reading = core::pin::pin!(read(&mut output, &mut kept));
        tokio::select! {
            status = child.wait() => status.map_err(local)?,
            // Never: it ends with the program.
            () = &mut reading => return Ok(()),
        }
    };
    // It has been reaped: the number may be somebody else's now.
    group.0 = None;
    drain(&output, &mut kept);
    judge(status, &kept)
}

/// Kills what is left of a program when its check is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // There is nobody left in it, at worst.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Reads on and on.
async fn read(output: &mut pipe::Receiver, kept: &mut Vec<u8>) {
    let mut piece = vec![0; KEPT];
    while let Ok(length @ 1..) = output.read(&mut piece).await {
        let room = KEPT - kept.len();
        kept.extend(piece.iter().take(length.min(room)));
        if kept.len() == KEPT {
            tokio::time::sleep(SLOWLY).await;
        }
    }
    core::future::pending().await
}

/// Takes what is in the pipe, without waiting for those that hold it open.
fn drain(output: &pipe::Receiver, kept: &mut Vec<u8>) {
    let mut piece = [0; KEPT];
    if let Ok(length) = output.try_read(&mut piece) {
        let room = KEPT - kept.len();
        kept.extend(piece.iter().take(length.min(room)));
    }
}

fn judge(status: ExitStatus, said: &[u8]) -> Outcome {
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    let text = match last {
        Some(line) => format!("{status}: {line}"),
        None => status.to_string(),
    };
    Err(Failure::new(Reason::Exit, text))
}
