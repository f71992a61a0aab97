//! What a target's runs confirmed, for hooks and flushes.
//!
//! Promises: everything that a run changed on the target is reported once it is confirmed, at least
//! once: by name where rsync printed the names, else by the directory that was compared, as a
//! subtree. So no change goes unreported.
//!
//! How: a run itemises what it changes, and a pass that finds a path equal does not name it. So
//! what a run named that did not end well is carried over until what it belongs to is confirmed by
//! a later run. Listed paths are reported whether they were named or not. Two kinds of listed
//! directories are ours and no change of the source: those whose times were set anew after runs
//! that overlapped, and those that stand for a deletion.
//!
//! Costs nothing without hooks: nothing is kept then.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::config::hook::{Change, When};
use crate::cover::Cover;
use crate::hash::KeyedSet;

/// One change that a target holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Confirmation {
    /// Relative to the source.
    pub(crate) path: RelPath,
    /// What happened; `None`: not known, check the source.
    pub(crate) change: Option<Change>,
    /// It is or was a directory.
    pub(crate) dir: bool,
    /// The number of the target that holds it.
    pub(crate) target: usize,
    /// The batch that confirmed it.
    pub(crate) batch: BatchId,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct ConfirmationLog {
    /// Names kept of one run, and of all that did not end well; 0 when no hook takes them.
    pub(super) keep: usize,
    target: usize,
    /// Named by runs that did not end well.
    carried: BTreeMap<RelPath, (Change, bool)>,
    /// Compared by runs that did not say all they did.
    doubtful: BTreeSet<RelPath>,
    /// Named by the run that has just ended well.
    fresh: Vec<RelPath>,
    /// Directories that were listed for our own sake.
    own: KeyedSet<RelPath>,
    out: Vec<Confirmation>,
    settled: Vec<RelPath>,
}

/// What a line says; none for a directory whose attributes alone changed, which happens to every
/// directory above a change.
fn change_of(item: &Item) -> Option<(Change, bool)> {
    match item.change {
        [b'*', ..] => Some((Change::Deleted, item.dir)),
        [b'.', b'd', ..] => None,
        [_, b'd', ..] => Some((Change::Directory, true)),
        _ => Some((Change::Changed, false)),
    }
}

impl ConfirmationLog {
    pub(super) fn new(index: usize, mirror: &Mirror, name: &str) -> ConfirmationLog {
        let ours = mirror.hooks.iter().filter(|h| h.when == When::Confirmed && h.target.as_deref().is_none_or(|t| t == name));
        ConfirmationLog { keep: ours.map(|h| h.max_pending).max().unwrap_or(0), target: index, ..ConfirmationLog::default() }
    }

    /// A directory is listed for our own sake.
    pub(super) fn own(&mut self, dir: &RelPath) {
        if self.keep > 0 {
            self.own.insert(dir.clone());
        }
    }

    /// A run that carries a rename has ended. What it names is relative to another root, and what
    /// it linked it does not name.
    pub(super) fn moved(&mut self, dir: &RelPath) {
        if self.keep > 0 {
            self.doubtful.insert(dir.clone());
        }
    }

    /// A run has ended, and what it carried is not judged yet.
    pub(super) fn ran(&mut self, output: &Output, batch: &Batch, outcome: &Outcome) {
        if self.keep == 0 {
            return;
        }
        // Its last output may be lost.
        let cut_off = !matches!(outcome.verdict, Verdict::Done | Verdict::Partial | Verdict::SourceRace);
        let compared = batch.entries.iter().filter(|e| e.kind > Kind::Entry);
        let compared: KeyedSet<RelPath> = compared.map(|e| e.path.clone()).collect();
        let more = output.items_more > 0;
        if cut_off || more {
            self.doubtful.extend(compared.iter().cloned());
        }
        self.fresh.clear();
        for item in &output.items {
            if let Some(change) = change_of(item) {
                // Reported as a part of what was compared: not some by name and others not.
                if !(more && upwards(&item.path).any(|at| compared.contains(at))) {
                    self.carried.insert(item.path.clone(), change);
                    if outcome.is_done() {
                        self.fresh.push(item.path.clone());
                    }
                }
            } else if !item.change.starts_with(b".d..t......") {
                self.own.remove(&item.path); // a change of its own, too
            }
        }
        if self.carried.len() > self.keep.max(1000) * 2 {
            self.carried.clear();
            self.fresh.clear();
            self.doubtful = [RelPath::root()].into();
        }
    }

    /// The target holds these. `again`: those that have to be sent once more, and are reported
    /// then.
    pub(super) fn confirmed(&mut self, id: BatchId, entries: &[(RelPath, Kind)], again: &[Entry]) {
        if self.keep == 0 {
            return;
        }
        let again: KeyedSet<&[u8]> = again.iter().map(|e| e.path.as_bytes()).collect();
        for (path, kind) in entries.iter().filter(|(path, _)| !again.contains(path.as_bytes())) {
            self.settled.push(path.clone());
            let named = self.carried.contains_key(path);
            self.release(id, path, *kind);
            if *kind == Kind::Entry && !path.is_root() && !self.own.remove(path) && !named {
                self.confirm(id, path.clone(), None, false);
            }
        }
        // Directories made on the way to a path belong to no entry.
        for path in std::mem::take(&mut self.fresh) {
            if !upwards(&path).any(|at| again.contains(at))
                && let Some((change, dir)) = self.carried.remove(&path)
            {
                self.confirm(id, path, Some(change), dir);
            }
        }
    }

    /// Reports what was carried over and belongs to a path that is confirmed.
    fn release(&mut self, id: BatchId, path: &RelPath, kind: Kind) {
        let depth = |p: &RelPath| p.split(|&b| b == b'/').filter(|part| !part.is_empty()).count();
        let level = depth(path) + 1;
        let belongs = |p: &RelPath, change: Change| match kind {
            Kind::Subtree => true,
            // What is deleted goes with all that was below it.
            _ if change == Change::Deleted => true,
            Kind::Contents => depth(p) <= level,
            Kind::Entry => p == path,
        };
        let found: Vec<RelPath> =
            at_or_below(&self.carried, path).filter(|(p, carried)| belongs(p, carried.0)).map(|(p, _)| p.clone()).collect();
        for path in found {
            if let Some((change, dir)) = self.carried.remove(&path) {
                self.confirm(id, path, Some(change), dir);
            }
        }
        let doubtful: Vec<RelPath> = self
            .doubtful
            .iter()
            .filter(|p| **p == *path || (kind == Kind::Subtree && path::is_at_or_below(p, path)))
            .cloned()
            .collect();
        for path in doubtful {
            self.doubtful.remove(&path);
            self.confirm(id, path, Some(Change::Subtree), true);
        }
    }

    /// A pass is done but for what it has named as `failed`.
    pub(super) fn done_except(&mut self, id: BatchId, path: &RelPath, failed: &[RelPath]) {
        if self.keep == 0 {
            return;
        }
        let failed = Cover::new(failed);
        let (kept, done) = std::mem::take(&mut self.carried).into_iter().partition(|(p, _)| failed.covers(p));
        self.carried = done;
        self.settled.push(path.clone());
        self.release(id, path, Kind::Subtree);
        self.carried.extend::<BTreeMap<_, _>>(kept);
    }

    fn confirm(&mut self, batch: BatchId, path: RelPath, change: Option<Change>, dir: bool) {
        self.out.push(Confirmation { path, change, dir, target: self.target, batch });
    }

    /// What nothing that was confirmed has covered; reported once nothing else is left.
    fn rest(&mut self, id: BatchId) {
        for (path, (change, dir)) in std::mem::take(&mut self.carried) {
            self.confirm(id, path, Some(change), dir);
        }
        for path in std::mem::take(&mut self.doubtful) {
            self.confirm(id, path, Some(Change::Subtree), true);
        }
        self.own.clear();
    }
}

/// A path and all above it, the root last.
fn upwards(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| path::parent(path))
}

/// The part of a map at and below `path`. O(log n + what lies between).
fn at_or_below<'m, V>(map: &'m BTreeMap<RelPath, V>, path: &RelPath) -> impl Iterator<Item = (&'m RelPath, &'m V)> {
    let path = path.clone();
    let above = path.clone();
    map.range(path.clone()..).take_while(move |(p, _)| p.starts_with(&path)).filter(move |(p, _)| path::is_at_or_below(p, &above))
}

/// What a target lacks, for queries about many paths.
pub(crate) struct Owed<'t>(Index<'t>);

/// What another target holds, for a query to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwedQuery {
    /// A change of the path. This target has reported the same.
    Reported,
    /// A change of the path. This target has not reported it.
    Unreported,
    /// Anything, anywhere.
    All,
}

impl Owed<'_> {
    /// Whether the target lacks it, or may.
    pub(crate) fn covers(&self, path: &[u8], query: OwedQuery) -> bool {
        use Where::{Names, Withheld};
        // A path on whose behalf other names are sought has arrived itself.
        let lacks = match query {
            OwedQuery::All => self.0.why(b"", Reach::Below, &[]).is_some(),
            OwedQuery::Unreported => self.0.why(path, Reach::At, &[Names]).is_some(),
            // Deletions that are held in a directory above are others.
            OwedQuery::Reported => self.0.why(path, Reach::At, &[Names, Withheld]).is_some() || self.0.is_at(path, Withheld),
        };
        lacks || self.0.may_lack_all()
    }
}

impl Target {
    /// What it lacks now.
    pub(crate) fn owed(&self) -> Owed<'_> {
        Owed(self.ledger.index())
    }

    /// What has been confirmed since the last call: what hooks get, and every path that was
    /// confirmed.
    pub(crate) fn take_confirmations(&mut self) -> Option<(Vec<Confirmation>, Vec<RelPath>)> {
        if self.confirmations.keep == 0 {
            return None;
        }
        self.confirmations.settled.append(&mut self.ledger.forgotten);
        if self.ledger.in_sync() && !self.confirmations.settled.is_empty() {
            self.confirmations.rest(0);
        }
        if self.confirmations.out.is_empty() && self.confirmations.settled.is_empty() {
            return None;
        }
        Some((std::mem::take(&mut self.confirmations.out), std::mem::take(&mut self.confirmations.settled)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::Limits;
    use crate::sync::output::Names;

    const LIMITS: Limits = Limits { max_paths: 100, ignore_holds: true };

    /// What one target lacks of `d/f` while another one has reported it.
    #[test]
    fn what_keeps_a_change_from_being_told() {
        use ledger::tests::with;
        let queries = [OwedQuery::Reported, OwedQuery::Unreported, OwedQuery::All];
        for (place, of, want) in [
            (Where::Pending, "d/f", [true; 3]),
            (Where::Flying, "d/f", [true; 3]),
            (Where::Failed, "d/f", [true; 3]),
            (Where::Again, "d/f", [true; 3]),
            (Where::Withheld, "d/f", [true; 3]),
            (Where::Shelved, "d/f", [true; 3]),
            (Where::Large, "d/f", [true; 3]),
            (Where::Links, "d/f", [true; 3]),
            (Where::After, "d/f", [true; 3]),
            (Where::Unanswered, "d/f", [true; 3]),
            (Where::Names, "d/f", [false, false, true]), // it has arrived
            (Where::Withheld, "d", [false, true, true]), // other deletions in the directory
            (Where::Recount, "", [true; 3]),
            (Where::Unanswered, "d", [true; 3]),
            (Where::Failed, "d/g", [false, false, true]),
            (Where::Withheld, "e", [false, false, true]),
        ] {
            let ledger = with(place, of, if of == "d/f" { Seen::Written } else { Seen::Subtree });
            let owed = Owed(ledger.index());
            assert_eq!(queries.map(|query| owed.covers(b"d/f", query)), want, "{place:?} {of}");
        }
        let mut ledger = ledger::tests::ledger();
        assert_eq!(queries.map(|query| Owed(ledger.index()).covers(b"d/f", query)), [false; 3]);
        ledger.suspect = true; // whatever comes back in its place may be empty
        assert_eq!(queries.map(|query| Owed(ledger.index()).covers(b"d/f", query)), [true; 3]);
    }

    fn batch(path: &str, seen: Seen) -> Batch {
        let mut set = DirtySet::new(1000);
        set.see(path.as_bytes(), seen);
        set.take_shallow(LIMITS, &mut |_, _| false).or_else(|| set.take_deep(LIMITS)).expect("it was just seen")
    }

    fn ran(confirmations: &mut ConfirmationLog, batch: &Batch, stdout: &str, verdict: Verdict, keep: usize) {
        let mut output = Output::new(Names::default());
        output.keep_items(keep);
        output.push(Stream::Stdout, stdout.as_bytes());
        output.finish();
        confirmations.ran(&output, batch, &Outcome { verdict: verdict.clone(), ..Outcome::unknown(String::new()) });
        if verdict == Verdict::Done {
            let entries: Vec<_> = batch.entries.iter().map(|e| (e.path.clone(), e.kind)).collect();
            confirmations.confirmed(batch.id, &entries, &[]);
        }
    }

    fn confirmed(confirmations: &mut ConfirmationLog) -> Vec<(String, Option<Change>)> {
        std::mem::take(&mut confirmations.out).into_iter().map(|t| (t.path.to_string(), t.change)).collect()
    }

    fn confirmations() -> ConfirmationLog {
        ConfirmationLog { keep: 100, ..ConfirmationLog::default() }
    }

    fn of(path: &str, change: impl Into<Option<Change>>) -> (String, Option<Change>) {
        (path.into(), change.into())
    }

    #[test]
    fn what_a_failed_run_named_is_told_when_it_is_confirmed() {
        let (mut t, level) = (confirmations(), batch("d", Seen::Contents));
        ran(&mut t, &level, "<f+++++++++ d/a\n*deleting   d/old/\n.d..t...... d/\n", Verdict::Partial, 100);
        assert_eq!(confirmed(&mut t), []);
        // Nothing is left to change, so nothing is named.
        ran(&mut t, &level, "", Verdict::Done, 100);
        assert_eq!(confirmed(&mut t), [of("d/a", Change::Changed), of("d/old", Change::Deleted)]);
        ran(&mut t, &level, "", Verdict::Done, 100);
        assert_eq!(confirmed(&mut t), []);
    }

    #[test]
    fn what_nobody_named_is_told_as_a_subtree() {
        let (mut t, deep) = (confirmations(), batch("d", Seen::Subtree));
        ran(&mut t, &deep, "<f+++++++++ d/a\n", Verdict::TargetDown, 100);
        ran(&mut t, &deep, "", Verdict::Done, 100);
        assert_eq!(confirmed(&mut t), [of("d/a", Change::Changed), of("d", Change::Subtree)]);
        ran(&mut t, &deep, "<f+++++++++ d/a\n<f+++++++++ d/b\n", Verdict::Done, 1);
        assert_eq!(confirmed(&mut t), [of("d", Change::Subtree)]);
    }

    #[test]
    fn listed_paths_are_told_once_named_or_not() {
        let (mut t, file) = (confirmations(), batch("d/f", Seen::Written));
        ran(&mut t, &file, "", Verdict::Done, 100);
        assert_eq!(confirmed(&mut t), [of("d/f", None)]);
        // With a directory that was made on the way.
        ran(&mut t, &file, "cd+++++++++ d/\n<f+++++++++ d/f\n", Verdict::Done, 100);
        assert_eq!(confirmed(&mut t), [of("d/f", Change::Changed), of("d", Change::Directory)]);
        ran(&mut t, &batch("gone", Seen::GoneDir), "*deleting   gone/x\n*deleting   gone/\n", Verdict::Done, 100);
        assert_eq!(confirmed(&mut t), [of("gone", Change::Deleted), of("gone/x", Change::Deleted)]);
    }

    #[test]
    fn directories_listed_for_our_own_sake_are_not_told() {
        let (mut t, dir) = (confirmations(), batch("d", Seen::Touched));
        t.own(&dir.entries[0].path);
        ran(&mut t, &dir, ".d..t...... d/\n", Verdict::Done, 100);
        assert_eq!(confirmed(&mut t), []);
        // Unless its mode changed, too.
        t.own(&dir.entries[0].path);
        ran(&mut t, &dir, ".d...p..... d/\n", Verdict::Done, 100);
        assert_eq!(confirmed(&mut t), [of("d", None)]);
        ran(&mut t, &dir, "", Verdict::Done, 100);
        assert_eq!(confirmed(&mut t), [of("d", None)]);
    }

    #[test]
    fn nothing_is_kept_where_nobody_listens() {
        let mut t = ConfirmationLog::default();
        ran(&mut t, &batch("d", Seen::Contents), "<f+++++++++ d/a\n", Verdict::Partial, 100);
        ran(&mut t, &batch("d", Seen::Contents), "", Verdict::Done, 100);
        assert!(t.out.is_empty() && t.settled.is_empty() && t.carried.is_empty());
    }
}
