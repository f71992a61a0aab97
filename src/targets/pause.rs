//! Commands to a target: pause, resume, retry now.

use super::*;

/// A time for people.
fn shown(unix: f64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs_f64(unix.max(0.0))).to_string()
}

impl Target {
    /// What it is, for the file of pauses: name and URL.
    pub(crate) fn identity(&self) -> String {
        format!("{} {}", self.cfg.name, self.cfg.location)
    }

    /// Whether a run of this mirror has made it equal.
    pub(crate) fn is_filled(&self) -> bool {
        self.guard.fill == Fill::Filled
    }

    /// An earlier daemon has.
    pub(crate) fn was_filled(&mut self) {
        self.guard.was_filled();
    }

    /// From now on nothing is sent; what is in flight ends, and changes are collected. `since`:
    /// seconds since 1970.
    pub(crate) fn pause(&mut self, cx: &mut Context<'_>, since: f64) {
        self.schedule.paused.get_or_insert(since);
        self.drop_standbys(cx);
    }

    /// Sends again.
    pub(crate) fn resume(&mut self, cx: &mut Context<'_>) {
        self.schedule.paused = None;
        self.hurry_up(cx);
    }

    /// Makes everything due that waits for its time: failed paths, and a target that is away. The
    /// pauses after the next failure are as long as they would have been.
    pub(crate) fn hurry_up(&mut self, cx: &mut Context<'_>) {
        self.ledger.retries.hurry(cx.now);
        self.ledger.long.hurry(cx.now);
        self.link.try_at(cx.now);
        self.link.lift_limit();
        self.ledger.withheld.iter_mut().for_each(|w| w.due = cx.now);
        self.schedule.pace.hurry();
    }

    /// Since when it is paused, in seconds since 1970.
    pub(crate) fn paused(&self) -> Option<f64> {
        self.schedule.paused
    }

    /// Why nothing is sent, while paused.
    pub(super) fn why_paused(&self) -> Option<String> {
        let since = shown(self.schedule.paused?);
        Some(format!("paused since {since}; {} kept; `fansync resume` sends them", plural(self.unconfirmed() as u64, "path")))
    }

    /// Whether a run is under way.
    pub(crate) fn is_sending(&self) -> bool {
        self.runs.is_sending()
    }

    /// Whether it can do nothing more by itself: a stop or a flush need not wait for it.
    pub(crate) fn at_rest(&self) -> bool {
        self.stuck() || (self.schedule.is_paused() && !self.is_sending())
    }

    /// Whether nothing is left but paths that keep failing; they may be under way once more.
    pub(super) fn only_failures(&self) -> bool {
        !self.ledger.goes_on()
            && self.ledger.failing() > 0
            && !self.ledger.is_held()
            && self.runs.batches().all(|batch| batch.round >= WHOLE_ROUNDS)
    }
}
