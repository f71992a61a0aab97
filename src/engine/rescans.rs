//! Rescans: what is compared again because events of it were missed or never come, and when.
//!
//! A loss of events, whatever its cause, makes the whole subtree dirty. One that recurs is compared
//! with growing pauses. What cannot be watched is compared every [`UNWATCHED_EVERY`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::Engine;
use super::intake::Fanout;
use crate::daily::{Daily, TimeOfDay};
use crate::dirty::Seen;
use crate::lost::{Cause, Lost};
use crate::path::RelPath;
use crate::sys::localtime::LocalTime;
use crate::targets::Target;

/// How often subtrees that cannot be watched are compared.
pub(super) const UNWATCHED_EVERY: Duration = Duration::from_secs(30);
/// Subtrees remembered; beyond that, those that were quiet are forgotten.
const MAX_RECENT: usize = 1000;
/// The pause before the same subtree is compared again for the same cause doubles from here …
const LOST_PAUSE_MIN: Duration = Duration::from_secs(1);
/// … to here.
const LOST_PAUSE_MAX: Duration = Duration::from_secs(60);

/// A clock without a time of day is checked again after that.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(60);

/// When a lost subtree was last compared, and how long the next time has to wait.
struct Recent {
    at: Duration,
    pause: Duration,
    scheduled: bool,
    /// When the loss happened whose comparison is scheduled.
    since: Duration,
}

/// When what is compared again. Times are since the engine's start. Pure.
pub(super) struct Rescans {
    losses: BTreeMap<Cause, u64>,
    recent: BTreeMap<RelPath, Recent>,
    next_unwatched: Option<Duration>,
    full_every: Option<Duration>,
    next_full: Option<Duration>,
    full_at: Daily,
    /// When the time of day is read.
    next_look: Option<Duration>,
}

impl Rescans {
    pub(super) fn new(full_every: Option<Duration>, full_at: &[TimeOfDay]) -> Rescans {
        let (losses, recent, full_at) = (BTreeMap::new(), BTreeMap::new(), Daily::new(full_at));
        let next_look = (!full_at.is_empty()).then_some(Duration::ZERO);
        Rescans { losses, recent, next_unwatched: None, full_every, next_full: full_every, full_at, next_look }
    }

    pub(super) fn count(&mut self, cause: Cause) {
        *self.losses.entry(cause).or_insert(0) += 1;
    }

    /// Events of a subtree were lost: whether it is compared now, or later.
    fn lost(&mut self, subtree: &RelPath, now: Duration) -> bool {
        let new = Recent { at: Duration::ZERO, pause: Duration::ZERO, scheduled: false, since: now };
        let recent = self.recent.entry(subtree.clone()).or_insert(new);
        if recent.scheduled {
            return false;
        }
        if now.saturating_sub(recent.at) > recent.pause * 4 {
            recent.pause = Duration::ZERO; // quiet for long enough
        }
        if now < recent.at + recent.pause {
            (recent.scheduled, recent.since) = (true, now);
            return false;
        }
        recent.compared(now);
        true
    }

    /// The subtrees whose pause is over, or `all` that wait.
    fn take_due(&mut self, now: Duration, all: bool) -> Vec<RelPath> {
        let due = self.recent.iter_mut().filter(|(_, r)| r.scheduled && (all || r.at + r.pause <= now));
        let due = due.map(|(path, recent)| {
            recent.scheduled = false;
            recent.compared(now);
            path.clone()
        });
        due.collect()
    }

    /// To be called now and then; keeps the memory within its bound.
    pub(super) fn maintain(&mut self, now: Duration) {
        if self.recent.len() > MAX_RECENT {
            self.recent.retain(|_, r| r.scheduled || now.saturating_sub(r.at) < r.pause * 4);
        }
    }

    /// Something cannot be watched; where nothing was so before, its time begins now.
    fn unwatched(&mut self, now: Duration) {
        self.next_unwatched.get_or_insert(now + UNWATCHED_EVERY);
    }

    /// As above, and the time begins anew.
    pub(super) fn unwatched_from(&mut self, now: Duration) {
        self.next_unwatched = Some(now + UNWATCHED_EVERY);
    }

    pub(super) fn unwatched_is_due(&self, now: Duration) -> bool {
        self.next_unwatched.is_some_and(|at| at <= now)
    }

    /// Whether the periodic comparison of everything is due; the next one is after its interval, or
    /// at the next of its times of day. `local`: the time of day, if that is known.
    pub(super) fn take_full(&mut self, now: Duration, local: impl FnOnce() -> Option<LocalTime>) -> bool {
        let mut due = self.next_full.is_some_and(|at| at <= now);
        if due {
            self.next_full = self.full_every.map(|every| now + every);
        }
        if self.next_look.is_some_and(|at| at <= now) {
            let local = local();
            due |= local.is_some_and(|local| self.full_at.take(local));
            self.next_look = Some(now + local.and_then(|local| self.full_at.wait(local)).unwrap_or(UNKNOWN_PAUSE));
        }
        due
    }

    /// Whether a lost subtree waits for its comparison.
    pub(super) fn any_scheduled(&self) -> bool {
        self.recent.values().any(|r| r.scheduled)
    }

    /// How long the oldest loss waits.
    pub(super) fn put_off(&self, now: Duration) -> Option<Duration> {
        self.recent.values().filter(|r| r.scheduled).map(|r| now.saturating_sub(r.since)).max()
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        let scheduled = self.recent.values().filter(|r| r.scheduled).map(|r| r.at + r.pause);
        scheduled.chain(self.next_unwatched).chain(self.next_full).chain(self.next_look).min()
    }
}

impl Recent {
    fn compared(&mut self, now: Duration) {
        self.at = now;
        self.pause = (self.pause * 2).clamp(LOST_PAUSE_MIN, LOST_PAUSE_MAX);
    }
}

impl Engine {
    /// Every loss of events comes through here: the subtree is compared whole; for the same subtree
    /// with growing pauses.
    pub(super) fn lost(&mut self, lost: Lost) {
        self.rescans.count(lost.cause);
        self.listeners.publish_lost(&lost);
        self.want_linked(&lost.subtree, true);
        let now = self.now();
        if let Some(history) = &mut self.saved.history {
            history.doubt(now);
        }
        if lost.cause == Cause::Unwatched {
            self.rescans.unwatched(now);
        }
        if !self.rescans.lost(&lost.subtree, now) {
            return;
        }
        // These were logged, with more words, when they were found out.
        if !matches!(lost.cause, Cause::Unwatched | Cause::UncleanStop) {
            tracing::warn!(
                mirror = %self.mirror.name, subtree = %lost.subtree, cause = %lost.cause,
                "events were missed; the subtree is compared with every target"
            );
        }
        self.see_lost(&lost.subtree);
    }

    /// Every loss since the start, for the status: those of the mirror, and those of each target.
    pub(super) fn losses_by_cause(&self) -> BTreeMap<String, u64> {
        let mut all = self.rescans.losses.clone();
        for (cause, n) in self.targets.iter().flat_map(Target::losses).filter(|(_, n)| *n > 0) {
            *all.entry(cause).or_insert(0) += n;
        }
        all.into_iter().map(|(cause, n)| (cause.name().to_owned(), n)).collect()
    }

    /// Whatever has changed there is looked for, and hooks of events get a message that something
    /// may have changed.
    pub(super) fn see_lost(&mut self, path: &[u8]) {
        self.see_all(path, Seen::Subtree);
        self.hooks.seen(path, Seen::Subtree);
    }

    /// Compares the lost subtrees whose pause is over, or all of them for a flush.
    pub(super) fn compare_scheduled(&mut self, all: bool) {
        let now = self.now();
        for path in self.rescans.take_due(now, all) {
            self.see_lost(&path);
        }
    }

    /// Compares what cannot be watched, for its time has come or a flush waits: changes there raise
    /// no event.
    pub(super) fn compare_unwatched(&mut self) {
        if self.rescans.next_unwatched.take().is_none() {
            return;
        }
        let now = self.now();
        let mut fanout = Fanout { now, targets: &mut self.targets, hooks: &mut self.hooks };
        let mut out = |path: &[u8], seen: Seen| fanout.apply(path, seen);
        for path in self.intake.watching.retry_unwatched(&self.mirror.filter, &mut out) {
            self.see_lost(&path);
            self.rescans.unwatched_from(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_loss_that_recurs_is_compared_with_growing_pauses() {
        let (mut rescans, d) = (Rescans::new(None, &[]), RelPath::from_normal("d"));
        assert!(rescans.lost(&d, SECOND * 10), "at once");
        assert!(!rescans.lost(&d, SECOND * 10) && rescans.any_scheduled());
        assert!(!rescans.lost(&d, SECOND * 10), "one comparison for all of them");
        assert_eq!(rescans.next_due(), Some(SECOND * 11));
        assert_eq!(rescans.put_off(SECOND * 11), Some(SECOND));
        assert!(rescans.take_due(SECOND * 10, false).is_empty());
        assert_eq!(rescans.take_due(SECOND * 11, false), std::slice::from_ref(&d));
        assert!(!rescans.lost(&d, SECOND * 12), "two seconds by now");
        assert_eq!(rescans.next_due(), Some(SECOND * 13));
        assert_eq!(rescans.take_due(SECOND * 12, true), std::slice::from_ref(&d), "a flush does not wait for it");
        assert!(rescans.lost(&RelPath::from_normal("e"), SECOND * 12), "another subtree has pauses of its own");
        assert!(rescans.lost(&d, SECOND * 100), "quiet for long enough");
        for _ in 0..20 {
            rescans.lost(&d, SECOND * 100);
            rescans.take_due(SECOND * 100, true);
        }
        rescans.lost(&d, SECOND * 100);
        assert_eq!(rescans.next_due(), Some(SECOND * 100 + LOST_PAUSE_MAX));
    }

    #[test]
    fn quiet_subtrees_are_forgotten_and_those_that_wait_are_not() {
        let mut rescans = Rescans::new(None, &[]);
        let waits = RelPath::from_normal("waits");
        rescans.lost(&waits, SECOND);
        rescans.lost(&waits, SECOND);
        (0..MAX_RECENT).for_each(|n| _ = rescans.lost(&RelPath::from_normal(n.to_string()), SECOND));
        rescans.maintain(SECOND * 2);
        assert_eq!(rescans.recent.len(), MAX_RECENT + 1, "their pauses are not over");
        rescans.maintain(SECOND * 10);
        assert_eq!(rescans.recent.keys().collect::<Vec<_>>(), [&waits]);
    }

    #[test]
    fn a_time_of_day_is_looked_at_when_it_may_have_come() {
        let mut rescans = Rescans::new(None, &["03:00".parse().unwrap()]);
        let at = |hour, minute, second| Some(LocalTime { year: 2026, month: 5, day: 7, hour, minute, second });
        assert_eq!(rescans.next_due(), Some(Duration::ZERO));
        assert!(!rescans.take_full(SECOND, || at(2, 58, 10)));
        assert_eq!(rescans.next_due(), Some(SECOND * 61));
        assert!(!rescans.take_full(SECOND * 60, || panic!("too early")));
        assert!(!rescans.take_full(SECOND * 61, || at(2, 59, 10)));
        assert_eq!(rescans.next_due(), Some(SECOND * 111), "when it comes");
        assert!(rescans.take_full(SECOND * 111, || at(3, 0, 0)));
        assert!(!rescans.take_full(SECOND * 171, || None), "no time of day is known");
        assert_eq!(rescans.next_due(), Some(SECOND * 171 + UNKNOWN_PAUSE));
    }

    #[test]
    fn what_is_periodic_comes_once_an_interval() {
        let mut rescans = Rescans::new(Some(SECOND * 60), &[]);
        let mut full = |now| rescans.take_full(now, || panic!("no time of day is read"));
        assert!(!full(SECOND * 59) && full(SECOND * 61) && !full(SECOND * 61));
        assert_eq!(rescans.next_due(), Some(SECOND * 121));
        rescans.unwatched(SECOND * 61);
        rescans.unwatched(SECOND * 70);
        assert!(!rescans.unwatched_is_due(SECOND * 90) && rescans.unwatched_is_due(SECOND * 61 + UNWATCHED_EVERY));
        rescans.unwatched_from(SECOND * 91);
        assert!(!rescans.unwatched_is_due(SECOND * 91));
    }
}
