//! The course of one server's checks: when the next is due, how often it is tried, what is
//! reported. One task for each checked server; each has at most one attempt under way, so a server
//! that hangs delays nobody but itself.

use core::time::Duration;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use shunt_service::ServerId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::check::Check;
use super::failure::Reason;
use super::probe::{Outcome, Probe, Target};

/// First checks are spread over this time, or over the interval if that is shorter.
const SPREAD: Duration = Duration::from_secs(2);

/// What a check found.
#[derive(Debug)]
pub struct Report {
    /// Whom.
    pub server: ServerId,
    /// Which of the server's tasks.
    pub epoch: u64,
    /// What the last attempt found.
    pub outcome: Outcome,
    /// How long that took.
    pub took: Duration,
}

/// What a task is to do.
pub(super) struct Task {
    pub(super) server: ServerId,
    pub(super) epoch: u64,
    pub(super) check: Arc<Check>,
    pub(super) target: Target,
    pub(super) seed: u64,
}

/// Checks until nobody hears of it any more.
pub(super) async fn run(task: Task, probe: Arc<dyn Probe>, reports: mpsc::Sender<Report>) {
    let check = &*task.check;
    let mut random = SmallRng::seed_from_u64(task.seed);
    let spread = check.interval.min(SPREAD);
    let mut due = Instant::now() + spread.mul_f64(random.random());
    loop {
        sleep_until(due).await;
        let (outcome, took) = attempts(check, &task.target, &*probe).await;
        let report = Report {
            server: task.server,
            epoch: task.epoch,
            outcome,
            took,
        };
        if reports.send(report).await.is_err() {
            return;
        }
        let jitter = f64::from(check.jitter) / 100.0;
        let factor = 1.0 + jitter * random.random_range(-1.0..=1.0);
        // One that took longer than the interval is not made up for.
        due = (due + check.interval.mul_f64(factor)).max(Instant::now());
    }
}

/// An attempt, and further ones while they fail; what the last one found, and its duration.
async fn attempts(check: &Check, target: &Target, probe: &dyn Probe) -> (Outcome, Duration) {
    let mut left = check.retry;
    loop {
        let begin = Instant::now();
        let outcome = probe.probe(check, target).await;
        let took = begin.elapsed();
        let again = matches!(&outcome, Err(failure) if failure.reason != Reason::Local);
        if !again || left == 0 {
            return (outcome, took);
        }
        left -= 1;
        sleep(check.delay_before_retry).await;
    }
}
