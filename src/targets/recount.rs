//! A first comparison that counted too many deletions while changes were still under way.
//!
//! Not all that a second attempt would delete is foreign then: an earlier one may have been cut
//! short (a directory vanished under it), and what it had copied was renamed or deleted on the
//! source since. Those deletions are pending by themselves. So they are carried out first, and the
//! whole tree is counted once more; what is left is what only the target had.
//!
//! Once per target, and after a bounded time: a source that never rests needs its administrator's
//! acceptance like any other.

use super::*;

/// Counted again after this time where changes do not come to an end.
const RECOUNT_AFTER: Duration = Duration::from_secs(60);

/// See the module's text.
#[derive(Default)]
pub(super) enum Recount {
    /// No count was in doubt.
    #[default]
    Unused,
    /// The whole tree is to be counted again.
    Waits { entries: Vec<Entry>, due: Duration },
    /// It was.
    Spent,
}

impl Recount {
    /// Whether a count that ended now waits for what else is under way.
    pub(super) fn is_wanted(&self, under_way: bool) -> bool {
        matches!(self, Recount::Unused) && under_way
    }

    /// When it is due: at once where nothing else is under way.
    pub(super) fn due(&self, under_way: bool) -> Option<Duration> {
        match self {
            Recount::Waits { due, .. } => Some(if under_way { *due } else { Duration::ZERO }),
            Recount::Unused | Recount::Spent => None,
        }
    }

    /// What waits.
    pub(super) fn entries(&self) -> &[Entry] {
        match self {
            Recount::Waits { entries, .. } => entries,
            Recount::Unused | Recount::Spent => &[],
        }
    }

    /// Takes what waits; another count is not in doubt any more.
    pub(super) fn take(&mut self) -> Vec<Entry> {
        if !matches!(self, Recount::Waits { .. }) {
            return Vec::new();
        }
        match std::mem::replace(self, Recount::Spent) {
            Recount::Waits { entries, .. } => entries,
            Recount::Unused | Recount::Spent => Vec::new(),
        }
    }
}

impl Target {
    /// Whether anything else is pending or in flight.
    fn is_under_way(&self) -> bool {
        self.ledger.set.pending() > 0 || self.ledger.large.len() > 0 || self.runs.is_sending()
    }

    /// When the tree is counted again.
    pub(super) fn recount_due(&self) -> Option<Duration> {
        self.ledger.recount.due(self.is_under_way())
    }

    /// A first comparison has counted too many deletions. `Err`: the count stands.
    pub(super) fn count_later(&mut self, cx: &Context<'_>, batch: Batch) -> Result<(), Batch> {
        if !self.ledger.recount.is_wanted(self.is_under_way()) {
            return Err(batch);
        }
        tracing::debug!(target_name = %self.cfg.name, "changes are under way; deletions are counted again after them");
        self.ledger.set.park(batch.id, &batch.entries);
        self.ledger.recount = Recount::Waits { entries: batch.entries, due: cx.now + RECOUNT_AFTER };
        Ok(())
    }

    /// Counts again, when it is due.
    pub(super) fn count_again(&mut self, cx: &mut Context<'_>) {
        if self.recount_due().is_none_or(|due| due > cx.now) || !self.has_room(Lane::Bulk) {
            return;
        }
        if let Some(batch) = self.ledger.set.take_again(self.ledger.recount.take(), 0) {
            self.launch(cx, batch, Lane::Bulk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_and_after_what_is_under_way() {
        let second = Duration::from_secs(1);
        let mut recount = Recount::default();
        assert!(recount.is_wanted(true) && !recount.is_wanted(false), "only where something may explain it");
        assert_eq!((recount.due(true), recount.due(false)), (None, None));
        recount = Recount::Waits { entries: Vec::new(), due: second };
        assert_eq!((recount.due(true), recount.due(false)), (Some(second), Some(Duration::ZERO)));
        assert!(!recount.is_wanted(true));
        assert!(recount.take().is_empty());
        assert_eq!(recount.due(false), None);
        assert!(!recount.is_wanted(true), "a second count stands");
    }
}
