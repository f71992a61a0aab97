//! The commands of other threads: the same as an engine's.

use super::runs::Cut;
use super::*;
use crate::control::{Steer, Steered};
use crate::engine::{Call, OnTarget};
use crate::state::pauses::Pauses;

impl Follower {
    pub(super) fn take_commands(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Status(reply) => _ = reply.send(self.status()),
                Command::Flush { deadline, reply, .. } => {
                    self.looks += 1;
                    if let Some(reader) = &self.reader {
                        reader.look(self.looks);
                    }
                    self.flushes.push(Flush { deadline, reply, look: Some(self.looks), until: 0 });
                    self.hurry();
                }
                Command::Steer { what, reply, .. } => {
                    let steered = self.steer(what);
                    let _ = reply.send(vec![steered]);
                }
                Command::Call(Call::OnTarget(_, OnTarget::Plan(reply))) => {
                    let why = "a follower compares itself with its upstream when it gets SIGUSR1";
                    let _ = reply.send(Err(why.into()));
                }
                Command::Call(Call::Explain(paths, reply)) => _ = reply.send(self.explain_first(&paths)),
                // A follower has no source of its own, nor events. The answer is that nobody
                // answers.
                Command::Call(_) => {}
                Command::Reconcile => {
                    let owed = self.machine.owes();
                    self.machine.owe("it was asked for".into());
                    self.owes(owed);
                    self.spread_until = None;
                }
                Command::Replace(next) => {
                    self.stop_at = Some(next.deadline);
                    self.successor = Some(next);
                }
                Command::Stop { deadline } => self.stop_at = Some(deadline),
            }
        }
        let now = Instant::now();
        if self.stop_at.is_some_and(|at| now >= at)
            && let Some(doing) = &mut self.doing
            && doing.cut.replace(Cut::Stop) != Some(Cut::Stop)
        {
            doing.run.cut();
        }
    }

    /// A client waits: nothing is put off.
    fn hurry(&mut self) {
        self.spread_until = None;
        if let Some(away) = &mut self.away {
            away.next = Duration::ZERO;
        }
        self.supply.hurry();
        if let Some((.., until)) = &mut self.held_deletes {
            *until = Duration::ZERO;
        }
        self.machine.retry();
    }

    fn steer(&mut self, what: Steer) -> Steered {
        let was = self.paused.is_some();
        let (said, done) = match what {
            Steer::Pause => {
                self.paused.get_or_insert_with(unix_now);
                self.keep_pause();
                (if was { "was paused already" } else { "paused" }.to_owned(), true)
            }
            Steer::Resume { accept_source, accept_deletes } => {
                self.paused = None;
                self.keep_pause();
                let held = self.held_deletes.is_some();
                if accept_source || accept_deletes {
                    self.accepted = held;
                    self.held_deletes = None;
                }
                self.hurry();
                let said = match (was, held, self.accepted) {
                    (_, true, true) => "the deletions that were held go through now",
                    (true, ..) => "resumed",
                    (false, true, false) => "was not paused; deletions are held: add --accept-deletes if they are meant",
                    (false, false, _) => "was not paused, and no deletions were held",
                };
                (said.to_owned(), true)
            }
            Steer::Retry if was => ("is paused; `fansync resume` goes on".into(), false),
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

    fn identity(&self) -> String {
        let first = self.mirror.targets.first().map(|target| format!("{} {}", target.name, target.location));
        first.unwrap_or_default()
    }

    pub(super) fn take_up_pause(&mut self) {
        if !self.keep {
            return;
        }
        self.paused = match self.pauses.load() {
            Ok(pauses) => pauses.get(&self.identity()).copied(),
            Err(error) => {
                tracing::error!(mirror = %self.mirror.name, "the follower is paused, as it is not known whether it was: {error}. `fansync resume` goes on");
                Some(unix_now())
            }
        };
        if self.paused.is_some() {
            tracing::warn!(mirror = %self.mirror.name, "the follower is paused; `fansync resume` goes on");
        }
    }

    fn keep_pause(&self) {
        if !self.keep {
            return;
        }
        let pauses: Pauses = self.paused.map(|since| (self.identity(), since)).into_iter().collect();
        if let Err(error) = self.pauses.save(&pauses) {
            tracing::warn!(mirror = %self.mirror.name, "the pause ends with the daemon: {error}");
        }
    }

    /// Answers flushes that are done, hopeless or late.
    pub(super) fn serve_flushes(&mut self) {
        let now = Instant::now();
        let held = self.machine.position().map(|point| point.sequence);
        let failing = !self.machine.failed().is_empty();
        let why = self.why_waiting();
        let name = self.full_name();
        self.flushes.retain(|flush| {
            let done = flush.look.is_none() && held.is_some_and(|held| held >= flush.until);
            let answer = match done {
                true if !failing => Some(Vec::new()),
                // All else is here.
                true => Some(vec![Waiting { target: name.clone(), why: why.0.clone(), unreachable: false }]),
                false if now >= flush.deadline => {
                    let (why, unreachable) = match flush.look {
                        Some(_) => ("the end of the feed could not be looked at in time".to_owned(), true),
                        None => why.clone(),
                    };
                    Some(vec![Waiting { target: name.clone(), why, unreachable }])
                }
                false => None,
            };
            let Some(answer) = answer else { return true };
            let _ = flush.reply.send(answer);
            false
        });
    }

    /// Answers the clients that wait: it ends.
    pub(super) fn end_flushes(&mut self) {
        let (why, unreachable) = self.why_waiting();
        let name = self.full_name();
        for flush in self.flushes.drain(..) {
            let _ = flush.reply.send(vec![Waiting { target: name.clone(), why: why.clone(), unreachable }]);
        }
    }
}
