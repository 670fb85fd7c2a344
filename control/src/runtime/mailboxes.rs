//! Control's ends of the workers' mailboxes: questions for pages of sessions go down, answers and
//! events come up. The rings cannot wake anyone, so the control loop looks into them: often while
//! a question is open or events come, seldom else.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use shunt_dataplane::command::{Command, MailboxPeer, Reply, SessionPage, SessionRecord};
use shunt_dataplane::io::Event;
use shunt_dataplane::session_log::SessionEvent;
use tokio::sync::oneshot;

/// A worker that leaves a question open this long does not answer at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks, at least and at most.
const SOON: Duration = Duration::from_millis(1);
const SELDOM: Duration = Duration::from_millis(10);

/// Most events taken from a worker at one look.
const EVENTS: usize = 1024;

/// Asks a worker for a page of sessions.
#[derive(Debug)]
pub(crate) struct Question {
    /// Which worker.
    pub(crate) worker: u16,
    /// Where to go on; 0 starts.
    pub(crate) cursor: u32,
    /// Most sessions of the page.
    pub(crate) limit: usize,
    /// Where the answer goes. Dropped without one if the worker does not answer.
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// A page of sessions.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) records: Vec<SessionRecord>,
    /// Where the next page starts; `None` on the last.
    pub(crate) next: Option<u32>,
}

/// The mailboxes of all workers.
#[derive(Debug)]
pub(super) struct Mailboxes {
    peers: Vec<MailboxPeer>,
    open: HashMap<u64, (Instant, oneshot::Sender<Answer>)>,
    last_tag: u64,
    pause: Duration,
}

impl Mailboxes {
    pub(super) fn new(peers: Vec<MailboxPeer>) -> Self {
        Self {
            peers,
            open: HashMap::new(),
            last_tag: 0,
            pause: SELDOM,
        }
    }

    /// Passes a question on. What cannot be passed on is dropped, which its asker sees.
    pub(super) fn ask(&mut self, question: Question, now: Instant) {
        let Some(peer) = self.peers.get_mut(usize::from(question.worker)) else {
            return;
        };
        self.last_tag += 1;
        let page = SessionPage {
            cursor: question.cursor,
            records: Vec::with_capacity(question.limit),
            next: None,
            tag: self.last_tag,
        };
        if peer
            .commands
            .push(Command::Sessions(Box::new(page)))
            .is_ok()
        {
            self.open.insert(self.last_tag, (now, question.answer));
            self.pause = SOON;
        }
    }

    /// How long to wait before the next look.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Takes what came: answers go to their askers, events to `event`; returns the sessions that began and
    /// ended, each with its worker.
    pub(super) fn look(
        &mut self,
        now: Instant,
        mut event: impl FnMut(Event),
    ) -> Vec<(u16, SessionEvent)> {
        let mut came = false;
        let mut sessions = Vec::new();
        for (worker, peer) in (0u16..).zip(&mut self.peers) {
            let waiting = peer.sessions.slots();
            if let Ok(chunk) = peer.sessions.read_chunk(waiting) {
                sessions.extend(chunk.into_iter().map(|event| (worker, event)));
            }
            while let Ok(Reply::Sessions(page)) = peer.replies.pop() {
                came = true;
                if let Some((_, answer)) = self.open.remove(&page.tag) {
                    // The asker may have gone away.
                    let _ = answer.send(Answer {
                        records: page.records,
                        next: page.next,
                    });
                }
            }
            for _ in 0..EVENTS {
                let Ok(happened) = peer.events.pop() else {
                    break;
                };
                came = true;
                event(happened);
            }
        }
        self.open
            .retain(|_, (since, _)| now.duration_since(*since) < PATIENCE);
        self.pause = if came || !self.open.is_empty() {
            SOON
        } else {
            (self.pause * 2).min(SELDOM)
        };
        if !sessions.is_empty() {
            self.pause = SOON;
        }
        sessions
    }
}
