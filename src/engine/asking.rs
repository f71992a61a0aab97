//! What other threads want of an engine beyond its few commands: a piece of work, done on the engine's thread between two turns.
//!
//! Some of it has to see everything that happened before it was asked. That waits for a drain of the event queues, as a flush does.

use std::time::Duration;

use crossbeam::channel::bounded;

use super::Engine;
use super::{Command, Handle};

/// A piece of work; see the module's text.
pub struct Question {
    after_drain: bool,
    work: Box<dyn FnOnce(&mut Engine) + Send>,
}

/// Work that waits for a drain.
pub(super) struct Asked {
    token: u64,
    question: Question,
}

/// Has `work` done by the engine, and waits for what it gives, at most `within`. `after_drain`: once every event from before this call
/// is in the dirty sets. `None` when the engine has ended, or does not answer.
pub(super) fn ask<T: Send + 'static>(
    handle: &Handle,
    after_drain: bool,
    within: Duration,
    work: impl FnOnce(&mut Engine) -> T + Send + 'static,
) -> Option<T> {
    let (reply, answer) = bounded(1);
    let work = Box::new(move |engine: &mut Engine| {
        let _ = reply.send(work(engine));
    });
    handle.tell(Command::Ask(Question { after_drain, work }));
    answer.recv_timeout(within).ok()
}

impl Engine {
    pub(super) fn asked(&mut self, question: Question) {
        if !question.after_drain {
            return (question.work)(self);
        }
        self.next_token += 1;
        self.asked.push(Asked { token: self.next_token, question });
        self.reader.request_drain(self.next_token);
    }

    /// Does the work that waited for this drain.
    pub(super) fn drained_for_questions(&mut self, token: u64) {
        if let Some(at) = self.asked.iter().position(|asked| asked.token == token) {
            let asked = self.asked.swap_remove(at);
            (asked.question.work)(self);
        }
    }
}
