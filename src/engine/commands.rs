//! Commands to an engine while it runs: status, flush, reconcile, stop; and the drains that make
//! "everything before this" exact.

use std::time::{Duration, Instant};

use crossbeam::channel::TryRecvError;

use super::Command;
use super::Engine;
use super::drains::For;
use super::flushes::FlushRequest;
use crate::dirty::Seen;
use crate::targets::Target;

impl Engine {
    pub(super) fn take_commands(&mut self) {
        loop {
            match self.io.commands.try_recv() {
                Ok(Command::Status(reply)) => {
                    self.check_root();
                    let _ = reply.send(self.status());
                }
                Ok(Command::Flush { target, deadline, reply }) => {
                    // Before the flush's epoch is closed: what a source that came back needs
                    // belongs to it.
                    if self.looks_at_source() {
                        self.recheck_root();
                    }
                    self.check_root();
                    self.take_flush(FlushRequest { only: target, deadline, reply });
                }
                Ok(Command::Steer { what, target, reply }) => {
                    let _ = reply.send(self.steer(what, target.as_deref()));
                }
                Ok(Command::Call(call)) => self.take_call(call),
                Ok(Command::Reconcile) => {
                    tracing::info!(mirror = %self.mirror.name, "a comparison of the whole tree was requested");
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

    /// From here on nothing is delayed, and the engine ends once all that can be sent is, or at the
    /// deadline.
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

    /// After something landed, or changed in a way not understood yet: requests a drain, so that it
    /// is known when every event from before has been seen.
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
    pub(super) fn take_what_waits(&mut self) {
        self.compare_scheduled(true);
        self.compare_unwatched();
        self.report_followed(Duration::MAX);
    }
}
