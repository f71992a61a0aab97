//! Drains, watermarks and the end: what is saved while the mirror runs, and when it stops.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{AFTER_ERROR, EVERY, FOLLOWED_EVERY, History, LAST_WORDS, SYNC_GRACE};
use crate::dirty::Epoch;
use crate::engine::Engine;
use crate::engine::drains::For;
use crate::state::{Drain, SLACK, sync_source};
use crate::targets::{Context, Target};

impl Engine {
    /// Since when the state is not saved, in seconds, and why; for the status.
    pub(in crate::engine) fn unsaved_state(&self) -> (f64, String) {
        let unsaved = self.saved.history.as_ref().and_then(History::unsaved);
        unsaved.map_or_else(Default::default, |(since, why)| (since.as_secs_f64(), why.to_owned()))
    }

    /// Does what is due: a drain, a save, a walk.
    pub(in crate::engine) fn keep_history(&mut self) {
        let now = self.now();
        let Some(history) = &mut self.saved.history else { return };
        for (at, _) in self.targets.iter().enumerate().filter(|(_, t)| t.is_suspect()) {
            history.touch(now);
            if let Err(error) = history.keeper.distrust(at) {
                history.complain(&self.mirror.name, &error);
            }
        }
        if history.walk.is_none() && history.rebuild.is_some_and(|at| at <= now) {
            history.rebuild = None;
            if history.keeper.needs_walk() {
                self.walk(None, &[]);
            }
        }
        let Some(history) = &mut self.saved.history else { return };
        if history.closing.take_if(|at| *at <= now).is_some() && self.drains.checkpoint().is_none() {
            self.ask_for_drain();
        }
        let Some(history) = &mut self.saved.history else { return };
        if history.next.is_some_and(|at| at <= now) {
            history.next = None;
            if history.moved && self.drains.checkpoint().is_none() {
                history.closing = Some(now + SLACK + EVERY);
                self.ask_for_drain();
            }
            self.save_history();
        }
    }

    /// Every target is to be compared whole because of a command: the next start does it
    /// if this one does not get there.
    pub(in crate::engine) fn distrust_all(&mut self) {
        let now = self.now();
        let Some(history) = &mut self.saved.history else { return };
        for target in 0..self.targets.len() {
            if let Err(error) = history.keeper.distrust(target) {
                history.complain(&self.mirror.name, &error);
            }
        }
        history.touch(now);
    }

    fn ask_for_drain(&mut self) {
        let Some(history) = &mut self.saved.history else { return };
        match history.keeper.drain() {
            Ok(drain) => {
                history.moved = false;
                self.drain(For::Checkpoint(drain));
            }
            Err(error) => history.complain(&self.mirror.name, &error),
        }
    }

    /// Whether something may differ that is not in the dirty sets.
    fn knows_of_more(&self) -> bool {
        self.guard.held.is_some()
            || self.intake.watching.is_blind_somewhere()
            || self.searches.by_handle.is_on()
            || !self.searches.strays.is_idle()
            || self.searches.outside.is_busy()
            || self.intake.resolver.seeks_nameless()
            || self.rescans.any_scheduled()
    }

    /// A drain came to its end. While something that may differ is not in the dirty sets, it says
    /// nothing.
    pub(in crate::engine) fn drained_for_history(&mut self, drain: Drain) {
        let now = self.now();
        if self.next_followed().is_some() {
            // Files that are being written are reported when their interval is over. Reporting them
            // at each drain would send them more often; never, and the watermarks would stand
            // still.
            let since = self.saved.history.as_mut().map_or(now, |h| *h.following_since.get_or_insert(now));
            if self.shutdown.stop_at.is_some() || now.saturating_sub(since) >= FOLLOWED_EVERY {
                self.report_followed(Duration::MAX);
            }
        }
        let waits = self.knows_of_more() || self.next_followed().is_some();
        let Some(history) = &mut self.saved.history else { return };
        if waits {
            return history.touch(now);
        }
        history.following_since = None;
        let epochs: Vec<Option<Epoch>> =
            self.targets.iter_mut().map(|t| if t.in_doubt() { None } else { Some(t.close_epoch()) }).collect();
        if epochs.contains(&None) {
            history.touch(now); // for those, later
        }
        if let Err(error) = history.keeper.drained(drain, epochs) {
            history.complain(&self.mirror.name, &error);
        }
        self.save_history();
    }

    /// Moves the watermarks and saves what moved; whether there is more to do.
    fn save_history(&mut self) -> bool {
        let now = self.now();
        let Some(history) = &mut self.saved.history else { return false };
        for newest in self.targets.iter_mut().filter_map(Target::take_newest) {
            history.keeper.saw(newest.into());
        }
        let (targets, resolver) = (&self.targets, &self.intake.resolver);
        let mut clear = |target: usize, epoch| !targets[target].in_doubt() && targets[target].flushed(epoch);
        let saved = history.keeper.tick(&mut clear, &mut |fs, handle| resolver.open(fs, handle));
        let (more, pause) = match saved {
            Ok(more) => {
                history.logged.clear();
                history.unsaved = None;
                (more, EVERY)
            }
            Err(error) => {
                history.complain(&self.mirror.name, &error);
                // To see that a disk answers again costs nothing.
                (true, if history.keeper.is_stuck() { EVERY } else { AFTER_ERROR })
            }
        };
        if more || history.moved {
            history.next.get_or_insert(now + pause);
        }
        more
    }

    /// The end: no run goes on, and what this run leaves behind is saved.
    pub(in crate::engine) fn leave(&mut self) {
        // Before the runs are ended: what they carry is not on the targets.
        let mut unsent = self.unsent_at_end();
        let mut cut = !self.tidied_up();
        for at in 0..self.targets.len() {
            self.with_target(at, |target, cx: &mut Context<'_>| cut |= target.end_runs(cx));
        }
        if self.saved.history.is_none() {
            return;
        }
        let last = self.last_drain();
        let until = Instant::now() + LAST_WORDS;
        while self.save_history()
            && self.saved.history.as_ref().is_some_and(|h| h.keeper.is_unsettled())
            && Instant::now() < until
        {}
        // Those that the last events were about, too.
        unsent.append(self.unsent_at_end());
        self.save_unsent(unsent, true);
        let in_sync = self.targets.iter().all(Target::in_sync) && !self.knows_of_more();
        let Some(mut history) = self.saved.history.take() else { return };
        if let Some(walk) = &history.walk {
            walk.progress.stop();
        }
        if in_sync
            && last.is_some()
            && let Err(error) = history.keeper.clear_unsent()
        {
            history.complain(&self.mirror.name, &error);
        }
        let patience =
            self.shutdown.stop_at.map(|at| at.saturating_duration_since(Instant::now())).unwrap_or_default() + SYNC_GRACE;
        let mut filesystems: Vec<std::os::fd::OwnedFd> = self.root.as_fd().try_clone_to_owned().into_iter().collect();
        filesystems.extend(self.intake.watching.mounts(&self.root).into_iter().map(|(_, _, fd)| fd.into()));
        let synced = history.keeper.is_on() && !filesystems.is_empty() && sync_source(filesystems, patience);
        if let Err(error) = history.keeper.stop(last, synced, !cut) {
            tracing::error!(mirror = %self.mirror.name, error = %error, "the state could not be saved at the end");
        }
    }

    /// Whether what an earlier run may have left on the targets is gone: everything that the walk
    /// found has been sent.
    fn tidied_up(&self) -> bool {
        let sent = |(target, epoch): (&Target, &Option<Epoch>)| match epoch {
            Some(epoch) => target.flushed(*epoch),
            None => target.reconciles() > 0,
        };
        !self.begin.untidy || self.begin.epochs.as_ref().is_some_and(|epochs| self.targets.iter().zip(epochs).all(sent))
    }

    /// One more drain, after the last run; `None` when it did not end in time or says nothing.
    fn last_drain(&mut self) -> Option<Drain> {
        let until = Instant::now() + LAST_WORDS;
        self.drains.give_up_checkpoint(); // one from before the last run's end
        self.ask_for_drain();
        let (token, drain) = self.drains.checkpoint()?;
        let mut ready = Vec::new();
        loop {
            self.take_events();
            match self.drains.checkpoint() {
                // Whether it counted, the keeper knows.
                None => return Some(drain),
                Some((now, _)) if now != token => return None,
                Some(_) => {}
            }
            let left = until.checked_duration_since(Instant::now())?;
            ready.clear();
            self.io.reactor.wait(&mut ready, Some(left)).ok()?;
            self.io.wake.clear();
        }
    }
}
