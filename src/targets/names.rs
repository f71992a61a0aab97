//! Where links are not kept: a change through one name of a file makes its other names dirty.
//!
//! The names are those of the index ([`Names`]), each looked up again before it is believed; where
//! they are fewer than the file has, the change waits for the walk that finds the rest. What waits
//! is counted like anything that is not confirmed, so a flush waits for it too. The other names
//! leave in batches of their own, and lead no further: they carry no change of their own
//! ([`Entry::through`]).

use std::collections::{HashMap, HashSet};

use super::linked::path_and_above;
use super::*;
use crate::links::names::{Ended, MANY, Names, Scope, Ticket};
use crate::links::{Inode, MOST_TOGETHER, covers, shared};

/// Names looked up for one batch; the names of further files are left to a walk, which is not in
/// the engine's way.
const MOST_LOOKS: usize = 4096;
/// So long a path that was not found waits for the event that says where it went. That one is on
/// its way already.
const ABSENCE: Duration = Duration::from_millis(200);
/// How much earlier than a directory became dirty files in it may have changed: events can wait in
/// the kernel, and clocks be coarse.
const SLACK_SECS: i64 = 60;

/// A file whose other names are sought.
struct Waiting {
    /// The name that the change came through, for what counts and what is shown; it has left
    /// already.
    entry: Entry,
    content: bool,
    /// The change came through this name alone: it need not be sent again.
    alone: bool,
}

/// The files whose other names are sought, by walk.
#[derive(Default)]
pub(super) struct Sought {
    files: BTreeMap<Ticket, BTreeMap<Inode, Waiting>>,
    /// Directories that left, in which files changed that have other names perhaps.
    dirs: BTreeMap<Ticket, Vec<Entry>>,
}

impl Sought {
    #[cfg(test)]
    pub(super) fn put(&mut self, entry: Entry) {
        self.dirs.entry(Ticket::default()).or_default().push(entry);
    }

    /// Has the files sought in a directory (`true`: with all below it) that changed since `entry`
    /// became dirty.
    /// Of what may be anywhere one entry is kept that is as old; the others are returned.
    fn survey(&mut self, names: &mut Names, wall_start: i64, (dir, deep): (RelPath, bool), entry: Entry) -> Vec<Entry> {
        let since = wall_start + entry.since().as_secs() as i64 - SLACK_SECS;
        let anywhere = dir.is_root() && deep && entry.kind == Kind::Entry;
        let waiting = self.dirs.entry(names.survey(dir, Scope { deep, since })).or_default();
        if anywhere
            && waiting.iter().any(|other| other.kind == Kind::Entry && other.gone == entry.gone && other.epoch() <= entry.epoch())
        {
            return vec![entry];
        }
        waiting.push(entry);
        Vec::new()
    }

    /// Whether files are sought in a directory that a rename of `moved` may take elsewhere, before
    /// the walk gets there.
    fn may_miss(&self, moved: &[u8]) -> bool {
        let overlaps = |dir: &RelPath| path::is_at_or_below(dir, moved) || !dir.is_root() && path::is_at_or_below(moved, dir);
        self.dirs.values().flatten().any(|entry| overlaps(&entry.path))
    }

    /// What waits, by the name that the change came through.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let files = self.files.values().flat_map(BTreeMap::values).map(|waiting| &waiting.entry);
        files.chain(self.dirs.values().flatten())
    }
}

/// A file with several names, as a batch found it.
struct File<'a> {
    here: Vec<&'a RelPath>,
    nlink: u32,
    /// What changed through its names here: nothing, attributes, content.
    change: Option<bool>,
    since: Epoch,
}

fn has_names(item: &normal::Item, least: u32) -> bool {
    matches!(item.state, Look::Present(stat) if stat.nlink >= least && shared(&stat).is_some())
}

/// The files of a batch that have several names, at least so many.
fn files<'a>(batch: &Batch, normal: &'a Normal, least: u32) -> BTreeMap<Inode, File<'a>> {
    let several = |item: &&normal::Item| has_names(item, least);
    let mut out: BTreeMap<Inode, File<'a>> = BTreeMap::new();
    if !normal.items.iter().any(|item| several(&item)) {
        return out;
    }
    let entries: HashMap<&[u8], &Entry> = batch.entries.iter().map(|entry| (&*entry.path, entry)).collect();
    for item in normal.items.iter().filter(several) {
        let (Look::Present(stat), Some(entry)) = (item.state, entries.get(&*item.path)) else { continue };
        let Some(inode) = shared(&stat) else { continue };
        // What was to be compared as a directory is a file by now: it came there by any event.
        let changed = entry.through || entry.kind > Kind::Entry;
        let (change, since) = (changed.then_some(entry.content), entry.epoch());
        let file = out.entry(inode).or_insert(File { here: Vec::new(), nlink: stat.nlink, change: None, since });
        file.here.push(&item.path);
        file.change = file.change.max(change);
        file.since = file.since.min(since);
    }
    out
}

/// The paths of a batch that lead nowhere.
fn absent(batch: &Batch, normal: &Normal) -> HashSet<RelPath> {
    let stops: HashMap<&[u8], bool> = normal
        .items
        .iter()
        .filter_map(|item| match item.state {
            Look::Missing => Some((&*item.path, true)),
            // Nothing is below it.
            Look::Present(stat) if !stat.is_dir() => Some((&*item.path, false)),
            Look::Present(_) | Look::Unreadable(_) => None,
        })
        .collect();
    if stops.values().all(|missing| !missing) && batch.entries.len() == normal.items.len() {
        return HashSet::new();
    }
    let leads_nowhere = |entry: &&Entry| {
        stops.get(&*entry.path) == Some(&true) || path_and_above(&entry.path).skip(1).any(|above| stops.contains_key(above))
    };
    batch.entries.iter().filter(|entry| entry.through).filter(leads_nowhere).map(|entry| entry.path.clone()).collect()
}

/// Marks what was found under its only name: no other name changed with it.
fn mark_single(batch: &mut Batch, normal: &Normal, absent: &HashSet<RelPath>) {
    // What lies below a directory that is compared whole was not read.
    if batch.entries.iter().any(|entry| entry.kind == Kind::Subtree) {
        return;
    }
    let unsure = |item: &&normal::Item| has_names(item, 2) || matches!(item.state, Look::Unreadable(_));
    let unsure: HashSet<&[u8]> = normal.items.iter().filter(unsure).map(|item| &*item.path).collect();
    let single = |e: &Entry| e.kind == Kind::Entry && !unsure.contains(&*e.path) && !absent.contains(&e.path);
    batch.entries.iter_mut().filter(|e| e.through && single(e)).for_each(|entry| entry.single = true);
}

/// Reports what may have names outside.
fn meet(cx: &mut Context<'_>, batch: &Batch, normal: &Normal) {
    if normal.items.iter().any(|item| has_names(item, 2)) || batch.entries.iter().any(|entry| entry.kind > Kind::Entry) {
        cx.names.meet();
    }
    for item in normal.items.iter().filter(|item| has_names(item, 2)) {
        (cx.meet)(links::Met::Name(&item.path));
    }
    for entry in batch.entries.iter().filter(|e| e.kind > Kind::Entry && (e.through || e.path.is_root())) {
        (cx.meet)(links::Met::Dir(&entry.path, entry.kind == Kind::Subtree));
    }
}

/// Files and names of theirs.
type NamesOf = BTreeMap<Inode, Vec<RelPath>>;

/// Other names of the files of a batch, as far as the index has them.
#[derive(Default)]
struct Others {
    /// What each of these names is known to lead to. It may be several files, all but one of them
    /// of before: names are forgotten when they are looked up, and filesystems use a file's number
    /// again.
    owners: BTreeMap<RelPath, BTreeSet<Inode>>,
    /// Files of which all known names are among them.
    checked: BTreeSet<Inode>,
}

impl Others {
    fn of(files: &BTreeMap<Inode, File<'_>>, names: &Names) -> Others {
        let mut others = Others::default();
        for (inode, file) in files {
            let Some(known) = names.known(*inode).filter(|_| file.change.is_some()) else { continue };
            let new: Vec<&RelPath> = known.iter().filter(|name| !file.here.contains(name)).collect();
            if file.here.len() > MANY || others.owners.len() + new.len() > MOST_LOOKS {
                continue;
            }
            others.checked.insert(*inode);
            new.into_iter().for_each(|name| _ = others.owners.entry(name.clone()).or_default().insert(*inode));
        }
        others
    }

    fn paths(&self) -> Vec<(RelPath, Kind)> {
        self.owners.keys().map(|name| (name.clone(), Kind::Entry)).collect()
    }

    /// Which of them are names of their files, and which are not any more.
    fn found(&self, there: Vec<normal::Item>) -> (NamesOf, Vec<(&RelPath, Inode)>) {
        let mut found = NamesOf::new();
        for item in there {
            let Look::Present(stat) = item.state else { continue };
            let owners = self.owners.get(&item.path);
            if let Some(inode) = shared(&stat).filter(|inode| owners.is_some_and(|owners| owners.contains(inode))) {
                found.entry(inode).or_default().push(item.path);
            }
        }
        let all = self.owners.iter().flat_map(|(name, inodes)| inodes.iter().map(move |inode| (name, *inode)));
        let lost = all.filter(|(name, inode)| !found.get(inode).is_some_and(|names| names.contains(name))).collect();
        (found, lost)
    }
}

impl Target {
    /// Makes the other names dirty of the files in a batch that changed through a name in it.
    pub(super) fn spread(&mut self, cx: &mut Context<'_>, batch: &mut Batch, normal: &Normal) {
        meet(cx, batch, normal);
        // Where links are kept, all names of a file leave together, unless they are too many.
        let (together, least) = if cx.links.is_some() { (true, MOST_TOGETHER + 1) } else { (false, 2) };
        // A comparison of a whole directory finds names that no event reported.
        if batch.entries.iter().any(|entry| entry.kind == Kind::Subtree || entry.kind == Kind::Contents && entry.through) {
            cx.names.arrived();
        }
        let absent = absent(batch, normal);
        self.hold_absent(cx.now, batch, &absent);
        self.seek_in_dirs(cx.names, cx.wall_start, batch, &absent, together);
        let files = files(batch, normal, least);
        // Where links are kept, a name that comes meanwhile leaves together with this one.
        if !together {
            mark_single(batch, normal, &absent);
        }
        if self.hurry() && !(self.ledger.sought.dirs.is_empty() && files.is_empty()) {
            cx.names.hurry();
        }
        if files.is_empty() {
            return;
        }
        // What was written through one name was written through those that leave with it.
        let written: HashSet<RelPath> =
            files.values().filter(|f| f.change == Some(true)).flat_map(|f| &f.here).map(|name| (*name).clone()).collect();
        batch.entries.iter_mut().filter(|entry| written.contains(&entry.path)).for_each(|entry| entry.content = true);
        let spread: HashSet<RelPath> = files.values().flat_map(|file| &file.here).map(|name| (*name).clone()).collect();
        let others = Others::of(&files, cx.names);
        // Where the root does not answer, nothing is known of any name; the run that follows finds
        // that out.
        let there = normal::normalise(std::os::fd::AsFd::as_fd(cx.root), &others.paths(), cx.statter);
        let (found, lost) = others.found(there.map(|normal| normal.items).unwrap_or_default());
        lost.into_iter().for_each(|(name, inode)| cx.names.forget(inode, name));
        for (inode, file) in files {
            file.here.iter().for_each(|name| cx.names.note(inode, name));
            let Some(content) = file.change else { continue };
            for name in found.get(&inode).into_iter().flatten() {
                self.ledger.set.see_other_name(name, content, file.since);
            }
            let seen = |name: &RelPath| file.here.contains(&name) || found.get(&inode).is_some_and(|names| names.contains(name));
            let checked = others.checked.contains(&inode) && cx.names.known(inode).is_some_and(|names| names.iter().all(seen));
            let complete = checked && cx.names.complete(inode, file.nlink) || file.here.len() as u32 >= file.nlink;
            if !complete {
                self.seek(cx.names, inode, &file, content);
            }
        }
        // A run that fails brings its entries back, and their other names are dirty by themselves
        // now.
        let done = |entry: &Entry| entry.kind == Kind::Entry && (!together || spread.contains(&entry.path));
        batch.entries.iter_mut().filter(|entry| done(entry)).for_each(|entry| entry.through = false);
        self.note_ready(cx.now);
    }

    /// Lets files wait that changed and were not found: the event that says where they went is on
    /// its way.
    fn hold_absent(&mut self, now: Duration, batch: &mut Batch, absent: &HashSet<RelPath>) {
        let waits = |e: &mut Entry| e.kind == Kind::Entry && e.through && !e.waited && absent.contains(&e.path);
        for entry in batch.entries.extract_if(.., waits).collect::<Vec<_>>() {
            self.ledger.set.hold_absent(batch.id, entry, now + ABSENCE);
        }
    }

    /// Has the files sought that changed in directories of a batch, or through what is not found.
    /// `together`: the other names of what is found leave with it.
    fn seek_in_dirs(&mut self, names: &mut Names, wall_start: i64, batch: &mut Batch, absent: &HashSet<RelPath>, together: bool) {
        for entry in batch.entries.iter_mut().filter(|entry| entry.through && (entry.kind > Kind::Entry || entry.waited)) {
            let (dir, deep) = match absent.contains(&entry.path) {
                // It may be anywhere.
                true => {
                    names.stray(entry.since());
                    (RelPath::root(), true)
                }
                false if together || entry.kind == Kind::Entry => continue,
                false => (entry.path.clone(), entry.kind == Kind::Subtree),
            };
            let mut parked = self.ledger.set.parked(entry.path.clone(), entry.epoch());
            (parked.kind, parked.gone) = (entry.kind, entry.gone);
            let counted = self.ledger.sought.survey(names, wall_start, (dir, deep), parked);
            self.ledger.forget(counted);
            entry.through = false;
        }
    }

    /// The directory that went with what was seen last takes along what is still sought in it.
    pub(super) fn keep_seeking(&mut self, dir: &[u8], seen: Seen) {
        if matches!(seen, Seen::LeftDir | Seen::GoneDir) && self.ledger.sought.may_miss(dir) {
            self.ledger.set.take_along(dir, seen);
        }
    }

    /// A directory left the source just now, perhaps with changes that came through names in it:
    /// the other names of these files are sought.
    pub(crate) fn seek_strayed(&mut self, names: &mut Names, wall_start: i64) {
        let Some((dir, since)) = self.ledger.set.take_strayed() else { return };
        names.stray(since.begins());
        let parked = self.ledger.set.parked(dir, since);
        // One of the walk's entries is enough to be waited for, as where a tree is removed.
        let counted = self.ledger.sought.survey(names, wall_start, (RelPath::root(), true), parked);
        self.ledger.forget(counted);
        if self.hurry() {
            names.hurry();
        }
    }

    /// When the oldest change came that is not on the target, as a time since the daemon's start.
    pub(crate) fn oldest_change(&self) -> Option<Duration> {
        self.ledger.set.epochs().oldest().map(Epoch::begins)
    }

    /// See [`DirtySet::dropped_change`]; as a time since the daemon's start.
    pub(crate) fn dropped_change(&self) -> Option<Duration> {
        self.ledger.set.dropped_change().map(Epoch::begins)
    }

    /// The name that went just now was one of this file, which has others.
    pub(crate) fn seek_survivor(&mut self, names: &mut Names, now: Duration, inode: Inode) {
        if self.ledger.set.dropped_change().is_none() {
            return;
        }
        self.ledger.set.tick(now);
        let since = self.ledger.set.epochs().current();
        let (here, nlink, change) = (Vec::new(), 0, Some(true));
        self.seek(names, inode, &File { here, nlink, change, since }, true);
        if self.hurry() {
            names.hurry();
        }
    }

    fn seek(&mut self, names: &mut Names, inode: Inode, file: &File<'_>, content: bool) {
        let waiting = self.ledger.sought.files.entry(names.seek(inode)).or_default();
        // A file without a path is counted at the root.
        let first = file.here.first().map_or_else(RelPath::root, |name| (*name).clone());
        match waiting.get_mut(&inode) {
            Some(waiting) => {
                waiting.alone &= file.here == [&waiting.entry.path];
                waiting.content |= content;
            }
            None => {
                let entry = self.ledger.set.parked(first, file.since);
                waiting.insert(inode, Waiting { entry, content, alone: file.here.len() == 1 });
            }
        }
    }

    /// A walk has ended: the names it found are dirty, on behalf of what waited for it.
    pub(crate) fn names_found(&mut self, now: Duration, ended: &Ended) {
        let until = ended.ticket.next();
        let later = (self.ledger.sought.files.split_off(&until), self.ledger.sought.dirs.split_off(&until));
        let files = std::mem::replace(&mut self.ledger.sought.files, later.0);
        let dirs: Vec<Entry> = std::mem::replace(&mut self.ledger.sought.dirs, later.1).into_values().flatten().collect();
        if files.is_empty() && dirs.is_empty() {
            return;
        }
        for (inode, Waiting { entry, content, alone }) in files.into_values().flatten() {
            for name in ended.names.get(&inode).into_iter().flatten().filter(|name| !(alone && **name == entry.path)) {
                self.ledger.set.see_other_name(name, content, entry.epoch());
            }
            self.ledger.forget(vec![entry]);
        }
        if let Some(since) = dirs.iter().map(Entry::epoch).min() {
            // What lies in them was sent with them.
            let sent = |name: &RelPath| dirs.iter().any(|dir| covers(&dir.path, dir.kind == Kind::Subtree, name));
            let scoped = ended.names.iter().filter(|(inode, _)| ended.scoped.contains(*inode));
            for name in scoped.flat_map(|(_, names)| names).filter(|name| !sent(name)) {
                self.ledger.set.see_other_name(name, true, since);
            }
            self.ledger.forget(dirs);
        }
        self.note_ready(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::names::Found;
    use crate::sys::statx::StatBrief;

    #[test]
    fn a_name_that_was_another_files_is_found_for_each() {
        let path = |name: &str| RelPath::new(name.as_bytes()).unwrap();
        let (k, b, c) = (path("a/k"), path("b"), path("c"));
        for (file, former) in [(7, 8), (8, 7)] {
            let (file, former): (Inode, Inode) = (((8, 1), file), ((8, 1), former));
            let mut names = Names::default();
            [file, former].iter().for_each(|inode| _ = names.seek(*inode));
            names.begin(Duration::ZERO).unwrap();
            let known = [(&k, file), (&b, file), (&b, former), (&c, former)];
            let known = known.map(|(name, inode)| (name.clone(), inode, 2)).to_vec();
            names.end(Duration::ZERO, Found { names: known, ..Found::default() });
            let changed =
                |here| File { here: vec![here], nlink: 2, change: Some(true), since: DirtySet::new(1).epochs().current() };
            // The number is that of a new file by now.
            let new = path("new");
            let files = BTreeMap::from([(file, changed(&k)), (former, changed(&new))]);
            let others = Others::of(&files, &names);
            let stat = StatBrief { mode: libc::S_IFREG, nlink: 2, dev: file.0, ino: file.1, ..StatBrief::default() };
            let there = vec![normal::Item { path: b.clone(), kind: Kind::Entry, state: Look::Present(stat) }];
            let (found, lost) = others.found(there);
            assert_eq!((found, lost), ([(file, vec![b.clone()])].into(), vec![(&b, former), (&c, former)]), "{file:?}");
        }
    }
}
