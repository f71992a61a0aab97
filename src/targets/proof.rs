//! What a run has done for certain that did not end well, or not clearly.
//!
//! rsync confirms nothing path by path: an itemised change is printed when a file is sent, and its
//! messages name the paths that failed in many ways, some with names that cannot be distinguished
//! from others. So before a part of such a run is confirmed, the same batch is run dry. What that
//! finds equal is on the target; what it finds different is sent again; what a message named
//! becomes a failure with these words. A dry run that did not see everything, or could not be made,
//! proves nothing.
//!
//! Costs nothing for runs that end well. A comparison that keeps failing costs one dry run, after
//! its rounds.

use super::*;
use crate::sync::first;
use crate::sync::output::Failed;
use crate::sync::words::without_temporary;

/// Paths that a batch is narrowed to; with more it stays whole.
const MAX_LEFT: usize = 1000;

/// What waits for a dry run.
pub(super) struct Proof {
    /// Of the run in question.
    pub(super) outcome: Outcome,
    pub(super) extra: Extra,
    /// The run ended well, and made what links there are; see [`inherited`]. What is different in a
    /// directory takes the place of the directory.
    pub(super) narrows: bool,
    /// A file with several names changed while that run was under way; see [`inherited`].
    pub(super) disturbed: bool,
}

/// What a dry run left of a batch: each path with its words, where a message named it.
type Left = BTreeMap<RelPath, Option<String>>;

/// What is left of `entry`, if anything is: the words about it, where a message named it.
fn first_left<'l>(left: &'l Left, entry: &Entry) -> Option<Option<&'l str>> {
    let path = &entry.path;
    let concerns = |at: &RelPath| match entry.kind {
        Kind::Entry if !entry.gone => at == path,
        Kind::Contents => at == path || path::parent(at) == Some(&**path),
        Kind::Entry | Kind::Subtree => path::is_at_or_below(at, path),
    };
    // Names that go on with a byte before `/` lie between a directory and what is in it.
    let near = left.range(path.clone()..).take_while(|(at, _)| at.starts_with(path)).filter(|(at, _)| concerns(at));
    let mut any = None;
    for (_, words) in near {
        match words {
            Some(words) => return Some(Some(words)),
            None => any = Some(None),
        }
    }
    any
}

impl Target {
    /// Names as they are in the tree: a message may name the temporary file that was to become one.
    pub(super) fn place(&self, root: &Root, failed: &mut [Failed]) {
        let there = |path: &RelPath| fstatat(root, path.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok();
        for f in failed.iter_mut().filter(|f| !f.path.is_root()) {
            let plain = without_temporary(f.path.clone());
            if plain != f.path && !there(&f.path) && there(&plain) {
                f.path = plain;
            }
        }
    }

    /// Runs a batch dry, to learn what of it is on the target. Where that cannot be, the batch is
    /// tried again whole.
    pub(super) fn prove(&mut self, cx: &mut Context<'_>, batch: Batch, how: &How, outcome: Outcome) {
        let disturbed = how.is_disturbed(cx, &batch.entries);
        let proof = Proof { outcome, extra: Extra::Goes, narrows: false, disturbed };
        self.prove_by(cx, batch, (how.compare, how.limited), proof);
    }

    /// The same. `extra` of the proof is found here.
    pub(super) fn prove_by(&mut self, cx: &mut Context<'_>, batch: Batch, (compare, limited): (Compare, bool), mut proof: Proof) {
        let paths: Vec<(RelPath, Kind)> = batch.entries.iter().map(|e| (e.path.clone(), e.kind)).collect();
        let whole_tree = paths.iter().any(|(path, kind)| path.is_root() && *kind == Kind::Subtree);
        let normalised = match whole_tree {
            true => Ok(None),
            false => normal::normalise(std::os::fd::AsFd::as_fd(cx.root), &paths, cx.statter).map(Some),
        };
        let listed = normalised.map(|normal| normal.map(|normal| self.list_of(&normal)));
        let list = match listed {
            Ok(Some(Some(list))) if self.is_up() => Some(list),
            Ok(None) if self.is_up() => None,
            _ => return self.unproven(cx, batch, &proof.outcome),
        };
        let pass = match (&list, paths.iter().any(|(_, kind)| *kind == Kind::Subtree)) {
            (None, _) => Pass::Full { progress: true },
            (Some(_), true) => Pass::Deep,
            (Some(list), false) if list.iter().any(|(_, form)| *form == Form::OneLevel) => Pass::ShallowOneLevel,
            (Some(_), false) => Pass::Shallow,
        };
        // Size and time prove nothing where they were not trusted before.
        let compare = if compare == Compare::Quick { Compare::Quick } else { Compare::Checksum };
        let encoded = list.as_ref().map(|list| filelist::encode(list.iter().map(|(path, form)| (path, *form))));
        if encoded.as_ref().is_some_and(|encoded| !encoded.refused.is_empty()) {
            return self.unproven(cx, batch, &proof.outcome);
        }
        let input = encoded.as_ref().map_or(Input::None, |encoded| Input::List(&encoded.bytes));
        proof.extra = self.extra_of_proof(&batch, whole_tree, &proof.outcome);
        let purpose = Purpose::DryRun(DryRun::Proof(proof));
        let options = RunOptions { limited, ..Default::default() };
        self.start(cx, Launch { options, paths: paths.len(), compare, ..Launch::batch(pass, input, batch, purpose) });
    }

    /// What a dry run does with what only the target has: it must not find deletions that the run
    /// in question was not to make, for each of them would be carried out by name later.
    fn extra_of_proof(&self, batch: &Batch, whole_tree: bool, outcome: &Outcome) -> Extra {
        let accepted = batch.entries.iter().all(|e| self.is_accepted(e));
        // How much the target has besides is not known here, so only a few deletions pass.
        let many = first::exceeds(self.mirror.first_max_delete, outcome.counters.spared, 0);
        let spares = match self.guard.fill {
            _ if !whole_tree => batch.entries.iter().any(|e| self.spares(e)),
            Fill::Filled | Fill::Counted => false,
            Fill::Unknown => !accepted && many,
            Fill::Kept => !accepted || self.mirror.delete == Delete::Running,
        };
        if spares { Extra::Stays } else { Extra::Goes }
    }

    /// How a batch is listed for a dry run; `None` where something of it cannot be read.
    fn list_of(&self, normal: &Normal) -> Option<Vec<(RelPath, Form)>> {
        let deletions = self.spec(std::path::Path::new("/"), Compare::Quick).deletions();
        let mut list = Vec::new();
        for item in &normal.items {
            match item.state {
                Look::Unreadable(_) => return None,
                Look::Present(_) if item.path.is_root() && item.kind == Kind::Entry => {}
                Look::Present(_) if item.kind == Kind::Contents => list.push((item.path.clone(), Form::OneLevel)),
                Look::Present(_) => list.push((item.path.clone(), Form::Plain)),
                Look::Missing => list.extend(deletions.listed(&item.path)),
            }
        }
        if list.is_empty() {
            list.push((RelPath::from_normal(format!(".probe-{:016x}", fastrand::u64(..))), Form::Plain));
        }
        Some(list)
    }

    /// Nothing of a batch is proven: all of it is tried again, in smaller parts with each round.
    fn unproven(&mut self, cx: &Context<'_>, batch: Batch, outcome: &Outcome) {
        self.ledger.retry(cx.now, batch, &outcome.failed, &outcome.reason);
    }

    /// The dry run has ended.
    pub(super) fn proved(
        &mut self,
        cx: &mut Context<'_>,
        mut run: Process,
        (batch, how): (Batch, How),
        proof: Proof,
        dry: &Outcome,
    ) {
        self.ledger.landed(batch.id);
        let Proof { mut outcome, extra, narrows, disturbed } = proof;
        let (items, all) = run.rsync.take_items();
        if !all || run.rsync.output().signs.deletes_skipped {
            return if narrows { self.again_at_once(cx, batch) } else { self.unproven(cx, batch, &outcome) };
        }
        self.place(cx.root, &mut outcome.failed);
        let failed = outcome.failed.iter().chain(&dry.failed);
        let left = self.left_of(cx, &batch, &items, failed);
        if !outcome.unknown.is_empty() {
            self.note_unknown(&outcome, left.len());
        }
        if left.len() > MAX_LEFT && narrows {
            return self.again_at_once(cx, batch);
        }
        if left.len() > MAX_LEFT {
            return self.unproven(cx, Batch { round: WHOLE_ROUNDS, ..batch }, &outcome);
        }
        self.proven(cx);
        let reconciles = self.counters.reconciles;
        let Batch { id, mut entries, round } = batch;
        if entries.len() == 1 && entries[0].kind == Kind::Subtree && !left.is_empty() && !narrows {
            self.ledger.set.park(id, &entries);
            let entry = entries.remove(0);
            if entry.path.is_root() {
                self.counters.reconciles += 1;
            }
            let names: Vec<RelPath> = left.keys().cloned().collect();
            self.confirmations.done_except(id, &entry.path, &names);
            let kinds = left.keys().map(|p| (p.clone(), ended::kind_on_source(cx.root, p)));
            let narrowed = self.ledger.set.narrow(entry, kinds.collect::<Vec<_>>());
            return self.set_apart(cx, narrowed, &left, 0, &outcome);
        }
        let (bad, good): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| first_left(&left, e).is_some());
        let bad = match narrows {
            true => self.narrow_each(cx, id, bad, left.keys().cloned().collect()),
            false => {
                self.ledger.set.park(id, &bad);
                bad
            }
        };
        let round = if narrows { 0 } else { round };
        if !good.is_empty() && disturbed {
            let good = self.ledger.set.split(&Batch { id, entries: Vec::new(), round }, good);
            let proof = Proof { outcome: outcome.clone(), extra, narrows: true, disturbed: false };
            self.prove_by(cx, good, (how.compare, how.limited), proof);
        } else if !good.is_empty() {
            self.link_after(cx, &good);
            self.confirm(cx.now, id, good);
        }
        // Both sides are equal. With anything left, what a later run replaces there is to be kept
        // still.
        if left.is_empty() && self.counters.reconciles > reconciles {
            if extra == Extra::Goes {
                self.guard.filled();
            }
            if let Some(epoch) = run.aside {
                self.aside_done(cx, epoch);
            }
        }
        self.set_apart(cx, bad, &left, round, &outcome);
    }

    /// What a dry run and the messages of both runs left of a batch.
    fn left_of<'f>(&self, cx: &Context<'_>, batch: &Batch, items: &[Item], failed: impl Iterator<Item = &'f Failed>) -> Left {
        let spared = spared(cx.filter, items);
        let mut left: Left = BTreeMap::new();
        for item in items.iter().filter(|i| !i.path.is_root() && !spared.contains(&i.path)) {
            if item.deletes() || !cx.filter.excludes(&item.path, item.dir) {
                left.insert(item.path.clone(), None);
            }
        }
        let there = |path: &RelPath| fstatat(cx.root, path.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok();
        for f in failed.filter(|f| !f.path.is_root()) {
            // A name that neither side has was read wrongly, and what it was about is among the
            // differences.
            if left.contains_key(&f.path) || there(&f.path) {
                left.insert(f.path.clone(), Some(f.words.clone()));
            }
        }
        left.extend(self.left_alone(cx.root, &batch.entries).into_iter().map(|(path, _, words)| (path, Some(words))));
        left
    }

    /// As it was, and soon.
    fn again_at_once(&mut self, cx: &Context<'_>, batch: Batch) {
        self.ledger.set.park(batch.id, &batch.entries);
        self.ledger.retries.at_once(cx.now, batch.entries, batch.round);
    }

    /// What a message named fails; the rest is tried again, and fails after that.
    fn set_apart(&mut self, cx: &Context<'_>, entries: Vec<Entry>, left: &Left, round: u32, outcome: &Outcome) {
        let mut again = Vec::new();
        for entry in entries {
            match first_left(left, &entry).flatten() {
                Some(why) => self.ledger.retries.fail(cx.now, vec![entry], why, fastrand::f64()),
                None => again.push(entry),
            }
        }
        self.ledger.retries.failed(cx.now, again, round, &[], &outcome.reason, fastrand::f64());
    }

    /// Shows words that are not understood, and says so once.
    fn note_unknown(&mut self, outcome: &Outcome, left: usize) {
        let words = outcome.unknown.first().map(|line| Shown(line).to_string()).unwrap_or_default();
        if self.counters.stats.unknown_words != words {
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name, left,
                "rsync or the remote shell wrote what is not understood, so the run was compared once more: {words}"
            );
        }
        self.counters.stats.unknown_words = words;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One pending entry as a batch has it.
    fn entry(path: &str, seen: crate::dirty::Seen) -> Entry {
        let mut set = crate::dirty::DirtySet::new(10);
        set.see(path.as_bytes(), seen);
        let limits = crate::dirty::Limits { max_paths: 1, ignore_holds: true };
        let batch = set.take_shallow(limits, &mut |_, _| false).or_else(|| set.take_deep(limits));
        batch.expect("it is pending").entries.remove(0)
    }

    #[test]
    fn what_is_left_of_an_entry_is_what_it_covers() {
        use crate::dirty::Seen::{Contents, Gone, Subtree, Written};
        let left: Left = [("d", None), ("d.x", Some("x")), ("d/f", None), ("d/sub/g", Some("no space"))]
            .map(|(path, words)| (RelPath::from_normal(path), words.map(String::from)))
            .into();
        for (path, seen, want) in [
            ("d", Written, Some(None)),
            ("d/f", Written, Some(None)),
            ("d/sub", Written, None),
            ("d/sub/g", Written, Some(Some("no space"))),
            // One level, not what is below it.
            ("d", Contents, Some(None)),
            ("d/sub", Contents, Some(Some("no space"))),
            ("e", Contents, None),
            // All below; a message is worth more than a difference, and a neighbour's name counts
            // for nothing.
            ("d", Subtree, Some(Some("no space"))),
            ("d/sub", Subtree, Some(Some("no space"))),
            ("d/su", Subtree, None),
            // A directory may have gone, and what was in it.
            ("d/sub", Gone, Some(Some("no space"))),
        ] {
            assert_eq!(first_left(&left, &entry(path, seen)), want, "{path} {seen:?}");
        }
    }
}
