//! The commands of other threads: the same as an engine's.

use super::*;
use crate::control::{Steer, Steered};
use crate::engine::Call;

impl Follower {
    pub(super) fn take_commands(&mut self) {
        while let Some(command) = self.door.next() {
            match command {
                Command::Status(reply) => _ = reply.send(self.status()),
                Command::Flush { deadline, reply, .. } => {
                    self.feed.look(self.flushes.add(deadline, reply));
                    self.hurry();
                }
                Command::Steer { what, reply, .. } => {
                    let steered = self.steer(what);
                    let _ = reply.send(vec![steered]);
                }
                Command::Call(Call::OnTarget(_, what)) => self.answer_verification(what),
                Command::Call(Call::Explain(paths, reply)) => _ = reply.send(self.explain_first(&paths)),
                // A follower has no source of its own, nor events. Such a call gets no answer.
                Command::Call(_) => {}
                Command::Reconcile => {
                    let owed = self.machine.owes();
                    self.machine.owe("it was asked for".into());
                    self.owes(owed);
                    self.spread_until = None;
                }
                Command::Replace(next) => self.door.replace(next),
                Command::Stop { deadline } => self.door.stop(deadline),
            }
        }
        if self.door.is_late() {
            self.processes.stop();
        }
    }

    /// A client waits: nothing is put off.
    fn hurry(&mut self) {
        self.spread_until = None;
        if let Some(away) = &mut self.away {
            away.next = Duration::ZERO;
        }
        self.supply.hurry();
        self.deletions.hurry();
        self.machine.retry();
    }

    fn steer(&mut self, what: Steer) -> Steered {
        let (said, done) = match what {
            Steer::Pause => (if self.pause.begin() { "was paused already" } else { "paused" }.to_owned(), true),
            Steer::Resume { accept_source, accept_deletes } => {
                let was = self.pause.end();
                let held = self.deletions.held().is_some();
                let accepted = (accept_source || accept_deletes) && self.deletions.accept();
                self.hurry();
                let said = match (was, held, accepted) {
                    (_, true, true) => "the deletions that were held go through now",
                    (true, ..) => "resumed",
                    (false, true, false) => "was not paused; deletions are held: add --accept-deletes if they are meant",
                    (false, false, _) => "was not paused, and no deletions were held",
                };
                (said.to_owned(), true)
            }
            Steer::Retry if self.pause.is_on() => ("is paused; `fansync resume` goes on".into(), false),
            Steer::Retry => {
                self.hurry();
                ("trying again now".into(), true)
            }
        };
        tracing::info!(mirror = %self.mirror.name, "{said}");
        Steered { target: self.full_name(), said, done }
    }

    fn full_name(&self) -> String {
        format!("{}/{}", self.mirror.name, self.upstream().name)
    }

    /// Answers flushes that are done, hopeless or late.
    pub(super) fn serve_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let held = self.machine.held();
        let (failing, why) = (!self.machine.failed().is_empty(), self.waiting());
        self.flushes.answer(Instant::now(), held, failing, || why.clone());
    }

    /// Answers the clients that wait: it ends.
    pub(super) fn end_flushes(&mut self) {
        let why = self.waiting();
        self.flushes.end(|| why.clone());
    }

    fn waiting(&self) -> Waiting {
        let (why, unreachable) = self.why_waiting();
        Waiting { target: self.full_name(), why, unreachable }
    }
}
