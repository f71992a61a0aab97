//! What is asked of an engine while it runs: status, flush, reconcile, stop; and the drains that make "everything before this" exact.

use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, TryRecvError};

use super::Command;
use super::Engine;
use super::drains::For;
use crate::control::Waiting;
use crate::dirty::{Epoch, Seen};
use crate::targets::Target;

/// A flush that somebody waits for.
#[derive(Clone)]
pub(super) struct Flush {
    /// Which one it is; 0 until an engine takes it.
    pub(super) id: u64,
    pub(super) only: Option<String>,
    pub(super) deadline: Instant,
    pub(super) reply: Sender<Vec<Waiting>>,
    /// Every event from before the request is in the dirty sets.
    pub(super) drained: bool,
    /// The walks that find files that changed without a path, by handle, through a name that they
    /// have lost, and files that may have changed through a name outside, before the request.
    pub(super) sought: [u64; 4],
    /// Which targets wait for which epoch; `None` until every event before the request is in the dirty sets.
    pub(super) waits: Option<Vec<(usize, Epoch)>>,
}

impl Flush {
    pub(super) fn new(only: Option<String>, deadline: Instant, reply: Sender<Vec<Waiting>>) -> Flush {
        Flush { id: 0, only, deadline, reply, drained: false, sought: [0; 4], waits: None }
    }
}

impl Engine {
    pub(super) fn take_commands(&mut self) {
        loop {
            match self.io.commands.try_recv() {
                Ok(Command::Status(reply)) => {
                    self.check_root();
                    let _ = reply.send(self.status());
                }
                Ok(Command::Flush { target, deadline, reply }) => {
                    // Before the flush's epoch is closed: what a source that came back needs belongs to it.
                    if self.looks_at_source() {
                        self.recheck_root();
                    }
                    self.check_root();
                    self.take_flush(Flush::new(target, deadline, reply));
                }
                Ok(Command::Steer { what, target, reply }) => {
                    let _ = reply.send(self.steer(what, target.as_deref()));
                }
                Ok(Command::Call(call)) => self.take_call(call),
                Ok(Command::Reconcile) => {
                    tracing::info!(mirror = %self.mirror.name, "a comparison of the whole tree was asked for");
                    self.distrust_all();
                    self.see_all(b"", Seen::Subtree);
                }
                // A stop for good stays one.
                Ok(Command::Replace(_)) if self.shutdown.stop_at.is_some() && self.shutdown.successor.is_none() => {}
                Ok(Command::Replace(with)) => {
                    tracing::info!(mirror = %self.mirror.name, "the mirror's configuration is another; it begins anew with it");
                    self.shutdown.successor = Some(Box::new((with.mirror, with.facts)));
                    self.wind_up(with.deadline);
                }
                Ok(Command::Stop { deadline }) => {
                    self.shutdown.successor = None;
                    self.wind_up(deadline);
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    /// From here on nothing is delayed, and the engine ends once all that can be sent is, or at the deadline.
    fn wind_up(&mut self, deadline: Instant) {
        self.shutdown.stop_at = Some(self.shutdown.stop_at.map_or(deadline, |at| at.min(deadline)));
        for at in 0..self.targets.len() {
            self.with_target(at, |target, cx| target.stop(cx));
        }
        self.drain(For::Stop);
    }

    /// Asks for a drain of the event queues.
    pub(super) fn drain(&mut self, why: For) -> u64 {
        let token = self.drains.open(why);
        self.intake.reader.request_drain(token);
        token
    }

    /// Takes in a flush; what it waits for is known after a drain.
    fn take_flush(&mut self, flush: Flush) {
        self.last_flush += 1;
        self.flushes.push(Flush { id: self.last_flush, ..flush });
        self.drain(For::Flush(self.last_flush));
    }

    /// Takes over flushes that the engine before did not answer: what they wait for is found by the walk, so they begin anew.
    pub(super) fn take_over(&mut self, flushes: Vec<Flush>) {
        for flush in flushes {
            if let Some(name) = flush.only.as_ref().filter(|name| self.targets.iter().all(|t| t.cfg.name != **name)) {
                let why = "the configuration has this target no more".into();
                let target = format!("{}/{name}", self.mirror.name);
                let _ = flush.reply.send(vec![Waiting { target, why, unreachable: false }]);
                continue;
            }
            self.take_flush(Flush::new(flush.only, flush.deadline, flush.reply));
        }
    }

    /// After something landed, or changed in a way not understood yet: asks for a drain, so that it is known when every event from
    /// before has been seen.
    pub(super) fn raise_barrier(&mut self) {
        if !self.drains.waits(|why| matches!(why, For::Barrier)) && self.targets.iter().any(Target::wants_barrier) {
            self.targets.iter_mut().for_each(Target::begin_barrier);
            self.drain(For::Barrier);
        }
        if !self.drains.waits(|why| matches!(why, For::Settle)) && self.intake.resolver.has_unexplained() {
            self.drain(For::Settle);
        }
    }

    /// A drain has ended: every event from before the request is in the dirty sets now.
    pub(super) fn drained_until(&mut self, token: u64) {
        self.intake.resolver.settle();
        match self.drains.ended(token) {
            None | Some(For::Settle) => {}
            Some(For::Stop) => {
                self.intake.resolver.nameless_files().hurry();
                self.want_by_handle();
                self.want_strays();
                self.take_what_waits(); // so that it is sent, or counted as left
            }
            Some(For::Barrier) => self.targets.iter_mut().for_each(Target::end_barrier),
            Some(For::Checkpoint(drain)) => self.drained_for_history(drain),
            Some(For::Call(call)) => self.serve(call),
            Some(For::Flush(id)) => self.flush_is_drained(id),
        }
        self.open_flushes();
    }

    /// Whatever is put off is dirty from here on.
    fn take_what_waits(&mut self) {
        self.compare_scheduled(true);
        self.compare_unwatched();
        self.tell_followed(Duration::MAX);
    }

    /// A flush waits for what is lost, too, and for the walks that find what changed before it.
    fn flush_is_drained(&mut self, id: u64) {
        if !self.flushes.iter().any(|flush| flush.id == id) {
            return;
        }
        self.hurry_links();
        self.intake.resolver.nameless_files().hurry();
        self.take_what_waits();
        let nameless = self.intake.resolver.nameless_files().covered_by();
        let sought = [nameless, self.want_by_handle(), self.want_strays(), self.hurry_outside()];
        self.flushes.iter_mut().filter(|flush| flush.id == id).for_each(|flush| (flush.drained, flush.sought) = (true, sought));
    }

    /// Tells flushes what they wait for, as soon as all that may differ is in the dirty sets: what a walk after the start has
    /// still to find was changed before any request.
    pub(super) fn open_flushes(&mut self) {
        if self.begin.status.walking {
            return;
        }
        let walks = [
            self.intake.resolver.nameless_walks(),
            self.searches.by_handle.ended(),
            self.searches.strays.ended(),
            self.searches.outside.ended(),
        ];
        let found = |f: &Flush| f.drained && f.sought.iter().zip(&walks).all(|(sought, ended)| sought <= ended);
        for flush in self.flushes.iter_mut().filter(|f| found(f) && f.waits.is_none()) {
            let only = flush.only.as_deref();
            let chosen = self.targets.iter_mut().enumerate().filter(|(_, t)| only.is_none_or(|name| name == t.cfg.name));
            flush.waits = Some(chosen.map(|(at, target)| (at, target.flush())).collect());
        }
    }

    pub(super) fn serve_flushes(&mut self) {
        let now = Instant::now();
        let mut at = 0;
        while at < self.flushes.len() {
            let flush = &self.flushes[at];
            let late = now >= flush.deadline;
            let waiting: Option<Vec<Waiting>> = match &flush.waits {
                None if late => Some(vec![Waiting {
                    target: self.mirror.name.clone(),
                    why: match self.begin.status.walking {
                        true => "the walk over the source after the start goes on".into(),
                        false if flush.drained => "the walk over the source for files that changed without a path goes on".into(),
                        false => "the event queue could not be drained in time".into(),
                    },
                    unreachable: false,
                }]),
                None => None,
                Some(waits) => {
                    let open: Vec<usize> = waits
                        .iter()
                        .filter(|(t, epoch)| self.guard.held.is_some() || !self.targets[*t].flushed(*epoch))
                        .map(|(t, _)| *t)
                        .collect();
                    let hopeless = open.iter().all(|&t| self.targets[t].at_rest());
                    (late || hopeless).then(|| {
                        open.iter()
                            .map(|&t| {
                                let (why, unreachable) = match self.held_words() {
                                    Some(why) => (format!("{why}; nothing is sent or deleted"), false),
                                    None => self.targets[t].why_waiting(),
                                };
                                Waiting { target: format!("{}/{}", self.mirror.name, self.targets[t].cfg.name), why, unreachable }
                            })
                            .collect()
                    })
                }
            };
            match waiting {
                None => at += 1,
                Some(waiting) => {
                    let flush = self.flushes.swap_remove(at);
                    for (t, epoch) in flush.waits.into_iter().flatten() {
                        self.targets[t].end_flush(epoch);
                    }
                    let _ = flush.reply.send(waiting);
                }
            }
        }
    }
}
