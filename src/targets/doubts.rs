//! What equal size and time say of a content: of which files, or of the whole target, they say
//! nothing. Pure.

use super::*;
use crate::dirty::Epochs;

/// See the module's text.
#[derive(Default)]
pub(super) struct Doubts {
    /// Nothing until the target was compared whole: the source is another directory than the one
    /// that was mirrored, or a comparison was ended in a way that leaves wrong contents
    /// ([`crate::sys::child`]).
    pub(super) all: bool,
    /// Files whose content was found to be another one, or may be, until they are confirmed.
    pub(super) files: BTreeSet<RelPath>,
    /// After a restart: what a walk finds may be another content if it changed since then (seconds
    /// since 1970), and how long that holds.
    resumed: Option<(i64, Option<Epoch>)>,
}

impl Doubts {
    /// How the whole tree is compared.
    pub(super) fn compare(&self) -> Compare {
        if self.all { Compare::Checksum } else { Compare::Quick }
    }

    /// A walk begins to report what changed since `since` (seconds since 1970).
    pub(super) fn walk_begins(&mut self, since: i64) {
        self.resumed = Some((since, None));
    }

    /// It has reported everything, up to this epoch.
    pub(super) fn walk_ended(&mut self, epoch: Epoch) {
        if let Some((_, until)) = &mut self.resumed {
            *until = Some(epoch);
        }
    }

    /// What a walk reports, or has reported, is not on the target yet.
    pub(super) fn is_resuming(&self) -> bool {
        self.resumed.is_some()
    }

    /// Of what a walk found: since when it may have changed, seconds since 1970.
    pub(super) fn found_since(&self, entry: &Entry) -> Option<i64> {
        self.walked_since(entry.epoch())
    }

    /// The same of what became dirty in `epoch`, by the walk or beside it: until that is on the
    /// target, the next start walks from there, too.
    pub(super) fn walked_since(&self, epoch: Epoch) -> Option<i64> {
        let (since, until) = self.resumed?;
        until.is_none_or(|until| epoch <= until).then_some(since)
    }

    pub(super) fn tick(&mut self, epochs: &Epochs) {
        self.resumed.take_if(|(_, until)| until.is_some_and(|epoch| epochs.clear_until(epoch)));
    }

    /// An entry is on the target.
    pub(super) fn confirmed(&mut self, entry: &Entry) {
        self.files.remove(&entry.path);
        if entry.path.is_root() && entry.kind == Kind::Subtree {
            self.all = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_end_with_what_clears_them() {
        let mut set = DirtySet::new(10);
        let (file, root) = (RelPath::new(b"f").unwrap(), RelPath::root());
        let since = set.epochs().current();
        let (one, mut whole) = (set.parked(file.clone(), since), set.parked(root, since));
        let mut doubts = Doubts { all: true, files: [file].into(), ..Default::default() };
        assert_eq!(doubts.compare(), Compare::Checksum);
        doubts.confirmed(&one);
        assert!(doubts.files.is_empty() && doubts.all);
        doubts.confirmed(&whole);
        assert!(doubts.all, "the root alone is not the tree");
        whole.kind = Kind::Subtree;
        doubts.confirmed(&whole);
        assert_eq!(doubts.compare(), Compare::Quick);
    }

    #[test]
    fn what_a_walk_found_is_doubted_until_all_of_it_is_on_the_target() {
        let mut set = DirtySet::new(10);
        let mut doubts = Doubts::default();
        doubts.walk_begins(50);
        let found = set.parked(RelPath::new(b"f").unwrap(), set.epochs().current());
        assert_eq!(doubts.found_since(&found), Some(50));
        doubts.walk_ended(set.close_epoch());
        let later = set.parked(RelPath::new(b"g").unwrap(), set.epochs().current());
        assert_eq!((doubts.found_since(&found), doubts.found_since(&later)), (Some(50), None));
        doubts.tick(set.epochs());
        assert!(doubts.is_resuming());
        set.forget(vec![found]);
        doubts.tick(set.epochs());
        assert!(!doubts.is_resuming());
    }
}
