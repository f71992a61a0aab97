//! Loss of sight: what is compared again, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Engine, UNWATCHED_EVERY};
use crate::dirty::Seen;
use crate::lost::{Cause, Lost};
use crate::path::RelPath;
use crate::targets::Target;

/// The pause before the same subtree is compared again for the same cause doubles from here …
const LOST_PAUSE_MIN: Duration = Duration::from_secs(1);
/// … to here.
const LOST_PAUSE_MAX: Duration = Duration::from_secs(60);

/// When a lost subtree was last compared, and how long the next time has to wait.
pub(super) struct Recent {
    pub(super) at: Duration,
    pub(super) pause: Duration,
    pub(super) scheduled: bool,
    /// When the loss happened whose comparison is scheduled.
    pub(super) since: Duration,
}

impl Engine {
    /// The one road of every loss of sight: the subtree is compared whole; for the same subtree with growing pauses.
    pub(super) fn lost(&mut self, lost: Lost) {
        *self.losses.entry(lost.cause).or_insert(0) += 1;
        self.listeners.tell_lost(&lost);
        self.want_linked(&lost.subtree, true);
        let now = self.now();
        if let Some(history) = &mut self.history {
            history.doubt(now);
        }
        if lost.cause == Cause::Unwatched && self.next_unwatched.is_none() {
            self.next_unwatched = Some(now + UNWATCHED_EVERY);
        }
        let recent = self.recent.entry(lost.subtree.clone()).or_insert(Recent {
            at: Duration::ZERO,
            pause: Duration::ZERO,
            scheduled: false,
            since: now,
        });
        if recent.scheduled {
            return; // compared later anyway
        }
        if now.saturating_sub(recent.at) > recent.pause * 4 {
            recent.pause = Duration::ZERO; // quiet for long enough
        }
        if now >= recent.at + recent.pause {
            recent.at = now;
            recent.pause = (recent.pause * 2).clamp(LOST_PAUSE_MIN, LOST_PAUSE_MAX);
            // These were said, with more words, when they were found out.
            if !matches!(lost.cause, Cause::Unwatched | Cause::UncleanStop) {
                tracing::warn!(
                    mirror = %self.mirror.name, subtree = %lost.subtree, cause = %lost.cause,
                    "events were missed; the subtree is compared with every target"
                );
            }
            self.see_lost(&lost.subtree);
        } else {
            (recent.scheduled, recent.since) = (true, now);
        }
    }

    /// Every loss since the start, for the status: those of the mirror, and those of each target.
    pub(super) fn losses_by_cause(&self) -> BTreeMap<String, u64> {
        let mut all = self.losses.clone();
        for (cause, n) in self.targets.iter().flat_map(Target::losses).filter(|(_, n)| *n > 0) {
            *all.entry(cause).or_insert(0) += n;
        }
        all.into_iter().map(|(cause, n)| (cause.name().to_owned(), n)).collect()
    }

    /// Whatever has changed there is looked for, and hooks that hear events are told that something may have.
    pub(super) fn see_lost(&mut self, path: &[u8]) {
        self.see_all(path, Seen::Subtree);
        self.hooks.seen(path, Seen::Subtree);
    }

    /// Compares the lost subtrees whose pause is over, or all of them for somebody who waits.
    pub(super) fn compare_scheduled(&mut self, all: bool) {
        let now = self.now();
        let due: Vec<RelPath> =
            self.recent.iter().filter(|(_, r)| r.scheduled && (all || r.at + r.pause <= now)).map(|(p, _)| p.clone()).collect();
        for path in due {
            if let Some(recent) = self.recent.get_mut(&path) {
                recent.scheduled = false;
                recent.at = now;
                recent.pause = (recent.pause * 2).clamp(LOST_PAUSE_MIN, LOST_PAUSE_MAX);
            }
            self.see_lost(&path);
        }
    }

    /// Compares what cannot be watched, for its time has come or somebody waits: of changes there nobody hears.
    pub(super) fn compare_unwatched(&mut self) {
        if self.next_unwatched.take().is_none() {
            return;
        }
        let now = self.now();
        let (targets, hooks) = (&mut self.targets, &mut self.hooks);
        let mut out = |path: &[u8], seen: Seen| {
            targets.iter_mut().for_each(|t| t.see(now, path, seen));
            hooks.seen(path, seen);
        };
        for path in self.watching.retry_unwatched(&self.mirror.filter, &mut out) {
            self.see_lost(&path);
            self.next_unwatched = Some(now + UNWATCHED_EVERY);
        }
    }
}
