//! Attributes that rsync's list gives to the wrong file where names are linked.
//!
//! An entry of rsync's list leaves out what is the same as in the entry before: type and mode,
//! owner, group, times. With `-H`, a further name of a file is sent as the number of the first
//! alone (protocol 30 and later). The sender then goes on from what it saw under that name, and the
//! receiver from what the first name had. A file that changes while its names are being listed so
//! leaves both with different values, and what comes after it in the list, up to the next entry
//! that differs, gets the receiver's: another file's mode, owner or time. The run ends well (14 of
//! 40 runs of 3.5.0 beside a loop of chmod and utime). The size is in every other entry, and
//! without `-H` every entry is sent by itself, so that both sides go on from the same (none of 40).
//!
//! So once such a run has ended well, the files with several names that it carried are checked
//! again. Where one has changed since the run began, by its ctime, nothing but that file's names is
//! confirmed: these were changed, and go their own way. What else was listed is sent once more, in
//! a list without them, which this file cannot disturb; so are the directories above. What was
//! compared is compared again by a dry run without `-H`, and what that finds different is sent by
//! name. Both come to an end beside a file that changes all the time.
//!
//! Of a directory whose names were not known when its run ended, the same is found out once a walk
//! has found them; it is compared with `-H` again then, once.
//!
//! Gives up: files with more names than are kept together are not checked in directories that are
//! compared. Nor are those found whose names become known, or are renamed, while a directory is
//! compared for the first time. The ctime is compared with this host's clock, so a source that
//! another host's clock stamps is judged by how well the two agree.

use super::proof::Proof;
use super::*;
use crate::links::{Inode, Since, shared};

/// Names that are looked up at a time, where directories were compared.
const AT_A_TIME: usize = 10_000;

/// The words for a batch that is sent again for this.
const REASON: &str = "a file with several names changed while it was sent";

/// Whether a name shows that a file with several names changed. `known`: the file that it was known
/// to lead to. `began`: when the run did.
fn shows_change(look: Option<&Look>, known: Option<Inode>, began: FileTime) -> bool {
    match look {
        Some(Look::Present(stat)) if !stat.is_dir() => {
            let replaced = known.is_some_and(|known| known != (stat.dev, stat.ino));
            let linked = known.is_some() || shared(stat).is_some();
            linked && (replaced || is_since(stat.ctime, began))
        }
        _ => known.is_some(),
    }
}

/// Whether what has this ctime was changed after `began`, on a filesystem that may store whole
/// seconds.
fn is_since(ctime: FileTime, began: FileTime) -> bool {
    if ctime.nanos == 0 { ctime.secs >= began.secs } else { ctime >= began }
}

/// Directories that are compared once more, for what was known only after their runs.
#[derive(Default)]
pub(super) struct Late {
    again: BTreeSet<RelPath>,
}

impl How {
    /// Whether a file with several names among those of a run changed since it began, so that its
    /// list may have been wrong.
    pub(super) fn is_disturbed(&self, cx: &mut Context<'_>, entries: &[Entry]) -> bool {
        self.links.as_ref().is_some_and(|since| !changed_since(cx, &kinds_of(entries), self.began, Some(since)).is_empty())
    }
}

impl Target {
    /// Takes out of a batch whose run ended well what may have got attributes of another file; it
    /// is sent, or compared, once more. The rest is to be confirmed: `None` where nothing is left.
    pub(super) fn without_inherited(
        &mut self,
        cx: &mut Context<'_>,
        batch: Batch,
        how: &How,
        extra: Extra,
        outcome: &Outcome,
    ) -> Option<Batch> {
        let changed = match &how.links {
            Some(since) => changed_since(cx, &kinds_of(&batch.entries), how.began, Some(since)),
            None => BTreeSet::new(),
        };
        let Some(since) = batch.entries.iter().map(Entry::epoch).min().filter(|_| !changed.is_empty()) else {
            return Some(batch);
        };
        tracing::debug!(
            mirror = %self.mirror.name, target_name = %self.cfg.name, names = changed.len(),
            "{REASON}: what it carried besides is sent once more"
        );
        let Batch { id, entries, round } = batch;
        let (trees, listed): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| e.kind > Kind::Entry);
        let (own, mut again): (Vec<Entry>, Vec<Entry>) = listed.into_iter().partition(|e| changed.contains(&e.path));
        self.ledger.set.park(id, &again);
        for dir in dirs_apart(&how.ancestors, &again) {
            self.confirmations.own(&dir);
            again.push(self.ledger.set.parked(dir, since));
        }
        if !again.is_empty() {
            self.ledger.retries.at_once(cx.now, again, round.max(1));
        }
        let whole = Batch { id, entries: Vec::new(), round };
        if trees.is_empty() {
            return (!own.is_empty()).then_some(Batch { entries: own, ..whole });
        }
        if extra != Extra::Stays && trees.iter().any(|e| e.path.is_root() && e.kind == Kind::Subtree) {
            self.guard.filled();
        }
        let own = (!own.is_empty()).then(|| self.ledger.set.split(&whole, own));
        let outcome = Outcome { reason: REASON.into(), ..outcome.clone() };
        let proof = Proof { outcome, extra, narrows: true, disturbed: false };
        self.prove_by(cx, Batch { entries: trees, ..whole }, (how.compare, how.limited), proof);
        own
    }

    /// The names in directories that were compared are known. Where the run is still under way, its
    /// end is judged by them.
    pub(super) fn look_at_known(&mut self, cx: &mut Context<'_>) {
        for (entry, (kind, at)) in std::mem::take(&mut self.ledger.linking.known) {
            let dir = &entry.path;
            let under_way = self.runs.batches().flat_map(|batch| &batch.entries).any(|e| e.kind > Kind::Entry && e.path == *dir);
            if under_way || changed_since(cx, &[(dir, kind)], at, None).is_empty() {
                self.hard_links.late.again.remove(dir);
            } else if self.hard_links.late.again.insert(dir.clone()) {
                let seen = if kind == Kind::Subtree { Seen::Subtree } else { Seen::Contents };
                self.ledger.set.see_since(dir, seen, entry.epoch());
                self.note_ready(cx.now);
            }
            self.ledger.forget(vec![entry]);
        }
    }

    /// A dry run without `-H` has found `left` different in what was compared: it is sent by name.
    pub(super) fn narrow_each(&mut self, cx: &Context<'_>, id: BatchId, trees: Vec<Entry>, left: Vec<RelPath>) -> Vec<Entry> {
        self.ledger.set.park(id, &trees);
        let mut all = Vec::new();
        for entry in trees {
            let (deep, dir) = (entry.kind == Kind::Subtree, entry.path.clone());
            let inside = |at: &RelPath| entry.kind > Kind::Entry && links::covers(&dir, deep, at);
            let names: Vec<RelPath> = left.iter().filter(|at| **at == dir || inside(at)).cloned().collect();
            self.counters.reconciles += u64::from(dir.is_root() && deep);
            self.confirmations.done_except(id, &dir, &names);
            let kinds = names.into_iter().map(|at| {
                let kind = ended::kind_on_source(cx.root, &at);
                (at, if deep { kind } else { kind.min(Kind::Contents) })
            });
            let narrowed = self.ledger.set.narrow(entry, kinds.collect::<Vec<_>>());
            all.extend(narrowed);
        }
        all
    }
}

/// Directories above what a run listed that lie above nothing of what is listed again. The root
/// comes before everything else in a list.
fn dirs_apart(ancestors: &BTreeMap<RelPath, FileTime>, again: &[Entry]) -> Vec<RelPath> {
    let covered: BTreeSet<&[u8]> = again.iter().flat_map(|e| linked::path_and_above(&e.path)).collect();
    ancestors.keys().filter(|dir| !dir.is_root() && !covered.contains(&***dir)).cloned().collect()
}

fn kinds_of(entries: &[Entry]) -> Vec<(&RelPath, Kind)> {
    entries.iter().map(|e| (&e.path, e.kind)).collect()
}

/// The names that show that files with several changed since the run over `entries` began. Of what
/// was compared no more than the first is found. `since`: what the index has lost since then counts
/// as well.
fn changed_since(
    cx: &mut Context<'_>,
    entries: &[(&RelPath, Kind)],
    began: FileTime,
    since: Option<&Since>,
) -> BTreeSet<RelPath> {
    let Some(links) = cx.links.as_deref_mut() else { return BTreeSet::new() };
    let by_name = entries.iter().filter(|(_, kind)| *kind == Kind::Entry);
    let listed: Vec<(RelPath, Kind)> = by_name.map(|(path, kind)| ((*path).clone(), *kind)).collect();
    let mut changed: BTreeSet<RelPath> = BTreeSet::new();
    let mut look = |links: &mut Links, names: &[(RelPath, Kind)]| {
        // Where the root does not answer, the next run finds out.
        let Ok(normal) = normal::normalise(std::os::fd::AsFd::as_fd(cx.root), names, cx.statter) else { return };
        let found: BTreeMap<&[u8], &Look> = normal.items.iter().map(|item| (&*item.path, &item.state)).collect();
        for (name, _) in names {
            let (look, known) = (found.get(&**name).copied(), links.known_since(name, since));
            if !shows_change(look, known, began) {
                continue;
            }
            changed.insert(name.clone());
            match look {
                Some(Look::Present(stat)) => match shared(stat) {
                    Some(inode) => _ = links.note(name, inode),
                    None => links.forget(name),
                },
                Some(Look::Unreadable(_)) => {}
                Some(Look::Missing) | None => links.forget(name),
            }
        }
    };
    if !listed.is_empty() {
        look(links, &listed);
    }
    for (dir, kind) in entries.iter().filter(|(_, kind)| *kind > Kind::Entry) {
        let names = links.one_of_each(dir, *kind == Kind::Subtree, since);
        let names: Vec<(RelPath, Kind)> = names.into_iter().map(|name| (name, Kind::Entry)).collect();
        for names in names.chunks(AT_A_TIME) {
            look(links, names);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Inode = ((8, 1), 7);
    const BEGAN: FileTime = FileTime { secs: 100, nanos: 500 };

    fn look(nlink: u32, ino: u64, secs: i64, nanos: u32) -> Look {
        let ctime = FileTime { secs, nanos };
        Look::Present(StatBrief { mode: libc::S_IFREG, nlink, ino, dev: (8, 1), ctime, ..Default::default() })
    }

    #[test]
    fn which_names_show_that_a_linked_file_changed() {
        let dir = Look::Present(StatBrief { mode: libc::S_IFDIR, nlink: 4, ..Default::default() });
        for (what, look, known, want) in [
            ("as before", Some(look(2, 7, 100, 499)), Some(FILE), false),
            ("changed", Some(look(2, 7, 100, 500)), Some(FILE), true),
            ("by whole seconds", Some(look(2, 7, 100, 0)), Some(FILE), true),
            ("the second before", Some(look(2, 7, 99, 0)), Some(FILE), false),
            ("its other name removed", Some(look(1, 7, 101, 1)), Some(FILE), true),
            ("another file", Some(look(1, 8, 99, 1)), Some(FILE), true),
            ("gone", Some(Look::Missing), Some(FILE), true),
            ("gone with what is above", None, Some(FILE), true),
            ("a directory", Some(dir), Some(FILE), true),
            ("linked meanwhile", Some(look(2, 7, 101, 1)), None, true),
            ("linked before, and not known", Some(look(2, 7, 99, 1)), None, false),
            ("of one name, written", Some(look(1, 7, 101, 1)), None, false),
            ("removed, of one name", Some(Look::Missing), None, false),
            ("a directory as before", Some(dir), None, false),
        ] {
            assert_eq!(shows_change(look.as_ref(), known, BEGAN), want, "{what}");
        }
    }

    #[test]
    fn directories_above_nothing_that_is_listed_again_are_sent_by_themselves() {
        let path = |name: &str| RelPath::new(name.as_bytes()).unwrap();
        let mut set = DirtySet::new(10);
        let again = [set.parked(path("a/b/f"), set.epochs().current())];
        let ancestors = ["", "a", "a/b", "a/c", "d"].map(|dir| (path(dir), FileTime::default())).into();
        assert_eq!(dirs_apart(&ancestors, &again), [path("a/c"), path("d")]);
    }
}
