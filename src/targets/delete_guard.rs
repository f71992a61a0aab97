//! Which deletions a target lets through: what is known of its content, and what an administrator
//! has accepted. Pure; what is held stands in the ledger.

use super::*;

/// The first pause before what is withheld is judged again; it doubles …
const JUDGE_MIN: Duration = Duration::from_secs(60);
/// … up to this.
const JUDGE_MAX: Duration = Duration::from_secs(3600);
/// The same where a run stopped at its bound although its dry run did not foresee that.
pub(super) const JUDGE_SOON: Duration = Duration::from_secs(1);
/// How often a place is checked for the return of what it lost.
pub(super) const JUDGE_LOST: Duration = Duration::from_secs(5);

/// See the module's text.
pub(super) struct DeleteGuard {
    /// Whether a run of this mirror has filled the target.
    pub(super) fill: Fill,
    /// Entries of the tree: when it was last compared whole, and what runs made and deleted since.
    pub(super) tree: Option<u64>,
    /// The tree was counted at the source: what became dirty until then is part of it already.
    counted: Option<Epoch>,
    /// Names at the top of the root and of each filesystem below, when last counted.
    pub(super) tops: BTreeMap<RelPath, usize>,
    /// What became dirty until then may delete without a bound.
    accepted: Option<Epoch>,
    /// The comparison at the start became due then, or was due before.
    start: Option<Epoch>,
    /// How often what is withheld was judged.
    judged: u32,
    /// How many deletions were logged last.
    logged: u64,
}

impl DeleteGuard {
    pub(super) fn new(fill: Fill) -> DeleteGuard {
        let (tree, counted, accepted, start) = Default::default();
        DeleteGuard { fill, tree, counted, tops: BTreeMap::new(), accepted, start, judged: 0, logged: 0 }
    }

    /// The source has so many entries, with all that became dirty up to `epoch`.
    pub(super) fn counted(&mut self, entries: u64, epoch: Epoch) {
        (self.tree, self.counted) = (Some(entries), Some(epoch));
    }

    /// A run made and deleted so many entries. `since`: when the oldest change that it carried was
    /// made.
    pub(super) fn changed(&mut self, made: u64, deleted: u64, since: Option<Epoch>) {
        if self.counted.is_none() || since > self.counted {
            self.tree = self.tree.map(|entries| (entries + made).saturating_sub(deleted));
        }
    }

    /// The target was made equal: from now on it holds what the source once had.
    pub(super) fn filled(&mut self) {
        if self.fill != Fill::Kept {
            self.fill = Fill::Filled;
        }
    }

    /// It was by an earlier daemon, or from another source.
    pub(super) fn was_filled(&mut self) {
        if self.fill == Fill::Unknown {
            self.fill = Fill::Filled;
        }
    }

    /// The whole tree is to be compared. The first time, that is the start.
    pub(super) fn compares_whole(&mut self, since: Epoch) {
        self.start.get_or_insert(since);
    }

    /// Whether a comparison of the whole tree is that of the start, put off, repeated or accepted
    /// later perhaps.
    pub(super) fn is_start(&self, whole: &Entry) -> bool {
        self.start.is_some_and(|start| whole.epoch() <= start)
    }

    /// Lets everything through that became dirty until then.
    pub(super) fn accept(&mut self, until: Epoch) {
        self.accepted = Some(until);
        self.rest();
    }

    pub(super) fn accepted(&self) -> Option<Epoch> {
        self.accepted
    }

    pub(super) fn is_accepted(&self, entry: &Entry) -> bool {
        self.accepted.is_some_and(|until| entry.epoch() <= until)
    }

    /// Forgets what was accepted once it is on the target.
    pub(super) fn spend(&mut self, flushed: impl Fn(Epoch) -> bool) {
        self.accepted.take_if(|until| flushed(*until));
    }

    /// Nothing is withheld any more.
    pub(super) fn rest(&mut self) {
        (self.judged, self.logged) = (0, 0);
    }

    /// The pause before deletions are judged again. `lost`: a place has lost them. `soon`: their
    /// number is a guess.
    pub(super) fn pause(&mut self, lost: bool, soon: bool) -> Duration {
        let pause = match (lost, soon) {
            (true, _) => JUDGE_LOST,
            (false, true) => JUDGE_SOON,
            (false, false) => JUDGE_MIN.saturating_mul(1 << self.judged.min(6)).min(JUDGE_MAX),
        };
        self.judged += 1;
        pause
    }

    /// Whether to log that so many deletions are withheld.
    pub(super) fn logs(&mut self, deletes: u64) -> bool {
        std::mem::replace(&mut self.logged, deletes) != deletes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_after_a_comparison_and_after_an_earlier_daemon() {
        for (before, filled, was_filled) in [
            (Fill::Unknown, Fill::Filled, Fill::Filled),
            (Fill::Counted, Fill::Filled, Fill::Counted),
            (Fill::Filled, Fill::Filled, Fill::Filled),
            (Fill::Kept, Fill::Kept, Fill::Kept),
        ] {
            let (mut made, mut was) = (DeleteGuard::new(before), DeleteGuard::new(before));
            made.filled();
            was.was_filled();
            assert_eq!((made.fill, was.fill), (filled, was_filled), "{before:?}");
        }
    }

    #[test]
    fn the_tree_is_what_runs_have_made_of_it() {
        let mut guard = DeleteGuard::new(Fill::Filled);
        guard.changed(5, 0, None);
        assert_eq!(guard.tree, None, "nothing is known of the rest");
        guard.tree = Some(10);
        for (made, deleted, want) in [(5, 0, 15), (1, 6, 10), (0, 20, 0)] {
            guard.changed(made, deleted, None);
            assert_eq!(guard.tree, Some(want));
        }
    }

    #[test]
    fn what_was_pending_when_the_source_was_counted_does_not_count_twice() {
        let (mut set, mut guard) = (DirtySet::new(10), DeleteGuard::new(Fill::Filled));
        let before = set.epochs().current();
        guard.counted(240, set.close_epoch());
        let later = set.epochs().current();
        guard.changed(200, 60, Some(before));
        assert_eq!(guard.tree, Some(240));
        guard.changed(3, 1, Some(later));
        assert_eq!(guard.tree, Some(242));
    }

    #[test]
    fn the_first_comparison_is_that_of_the_start() {
        let mut set = DirtySet::new(10);
        let mut guard = DeleteGuard::new(Fill::Unknown);
        let first = set.parked(RelPath::root(), set.epochs().current());
        assert!(!guard.is_start(&first), "none is due");
        guard.compares_whole(set.close_epoch());
        let later = set.parked(RelPath::root(), set.epochs().current());
        guard.compares_whole(set.close_epoch());
        assert!(guard.is_start(&first) && !guard.is_start(&later));
    }

    #[test]
    fn pauses_grow_until_nothing_is_withheld() {
        let mut guard = DeleteGuard::new(Fill::Filled);
        assert_eq!(guard.pause(false, false), JUDGE_MIN);
        assert_eq!(guard.pause(false, true), JUDGE_SOON);
        assert_eq!(guard.pause(true, true), JUDGE_LOST);
        assert_eq!(guard.pause(false, false), JUDGE_MIN * 8);
        assert_eq!(std::iter::repeat_with(|| guard.pause(false, false)).nth(9), Some(JUDGE_MAX));
        assert!(guard.logs(3) && !guard.logs(3) && guard.logs(4));
        guard.rest();
        assert_eq!((guard.pause(false, false), guard.logs(4)), (JUDGE_MIN, true));
    }

    #[test]
    fn what_is_accepted_is_what_was_dirty_by_then_until_it_is_on_the_target() {
        let mut set = DirtySet::new(10);
        let before = set.parked(RelPath::root(), set.epochs().current());
        let mut guard = DeleteGuard::new(Fill::Filled);
        assert!(!guard.is_accepted(&before));
        guard.accept(set.close_epoch());
        let after = set.parked(RelPath::root(), set.epochs().current());
        assert!(guard.is_accepted(&before) && !guard.is_accepted(&after));
        guard.spend(|_| false);
        assert!(guard.is_accepted(&before));
        guard.spend(|_| true);
        assert!(!guard.is_accepted(&before));
    }
}
