//! Hard links: all names of a file leave in one run.
//!
//! rsync links the names of a file that one run lists; one that is listed without the others is
//! parted from them. So a batch is completed before it leaves ([`Target::join_links`]), and what
//! cannot be completed yet, because names are not known, waits for the walk that finds them. What
//! waits is counted like anything else that is not confirmed, so a flush waits for it too.

use std::collections::{HashMap, HashSet};

use super::compose::{Content, may_be_twin};
use super::*;
use crate::links::{Inode, MOST_TOGETHER, Ticket, shared};

/// What waits for a walk over the source.
enum Waits {
    /// A path that has not left.
    Held(Entry),
    /// A path that left without the other names of its file; the entry is there to be counted.
    Alone(Entry, Inode),
    /// A directory that left, so compared and at this time; the entry is there to be counted.
    Left(Entry, (Kind, FileTime)),
    /// A directory that was compared without links: the names in it are sent together once they are
    /// known.
    Unlinked(Entry),
}

/// What waits for walks over the source, and what has.
#[derive(Default)]
pub(super) struct Linking {
    waiting: Vec<(Ticket, Waits)>,
    /// Directories that left, and whose names are known since. They are checked in
    /// the next turn.
    pub(super) known: Vec<(Entry, (Kind, FileTime))>,
    /// Paths that have waited once. What was not found for them then is not there.
    released: HashSet<RelPath>,
    /// What shares a file with a name that is to be removed from the target first.
    behind: Vec<Entry>,
}

impl Linking {
    /// What shares a file with a name that is to be removed first.
    #[cfg(test)]
    pub(super) fn put_behind(&mut self, entry: Entry) {
        self.behind.push(entry);
    }

    /// The directory of `entry` was compared without links; what a walk finds in it is to be
    /// linked.
    pub(super) fn unlinked(&mut self, ticket: Ticket, entry: Entry) {
        self.waiting.push((ticket, Waits::Unlinked(entry)));
    }

    /// Everything that waits.
    pub(super) fn places(&self) -> impl Iterator<Item = (Where, &Entry)> {
        let waiting = self.waiting.iter().map(|(_, waits)| match waits {
            Waits::Held(entry) => (Where::Links, entry),
            Waits::Alone(entry, _) | Waits::Left(entry, _) | Waits::Unlinked(entry) => (Where::Names, entry),
        });
        let known = self.known.iter().map(|(entry, _)| (Where::Names, entry));
        waiting.chain(known).chain(self.behind.iter().map(|entry| (Where::Links, entry)))
    }
}

/// What is known of files with several names.
#[derive(Default)]
pub(super) struct HardLinks {
    pub(super) stalls: link_stalls::LinkStalls,
    pub(super) late: inherited::Late,
    pub(super) specials: specials::Specials,
}

/// How the files of a batch that have several names are compared.
#[derive(Default)]
pub(super) struct Linked {
    on: bool,
    /// Files of which a name was written: all names are sent without trust in size and times.
    distrusted: HashSet<Inode>,
    /// Files of which a name was open for writing, see [`Content::Read`].
    reread: HashSet<Inode>,
    /// Names were added on behalf of directories: these and all shared files go in one run, trusted
    /// or not.
    one_run: Option<Content>,
    /// Levels that wait for files in them, also where these have to wait by now: what is outside of
    /// such a level was not added on its behalf.
    pub(super) levels: BTreeSet<RelPath>,
}

/// The file that a check found, if it has several names that are kept together.
fn together(stat: &StatBrief) -> Option<Inode> {
    shared(stat).filter(|_| stat.nlink <= MOST_TOGETHER)
}

impl Linked {
    pub(super) fn is_shared(&self, stat: &StatBrief) -> bool {
        self.on && together(stat).is_some()
    }

    /// How the content of this one is compared, where that follows from others; `compared`: it is a
    /// directory that is compared with what is in it.
    pub(super) fn together(&self, stat: &StatBrief, compared: bool) -> Option<Content> {
        match together(stat) {
            Some(inode) if self.on => Some(self.one_run.unwrap_or_else(|| self.of(inode, stat.is_file()))),
            _ if compared => self.one_run,
            _ => None,
        }
    }

    fn of(&self, inode: Inode, file: bool) -> Content {
        match file && !self.distrusted.contains(&inode) {
            false => Content::Sent,
            true if self.reread.contains(&inode) => Content::Read,
            true => Content::ByTimes,
        }
    }

    /// Of all in one run, where `any` directory may have other contents.
    fn of_all(&self, any: bool) -> Content {
        match any || !self.distrusted.is_empty() {
            true => Content::Sent,
            false if !self.reread.is_empty() => Content::Read,
            false => Content::ByTimes,
        }
    }
}

/// What has to leave together with a batch.
#[derive(Default)]
struct Gathered {
    /// What is to be added, and on whose behalf.
    wanted: BTreeMap<RelPath, RelPath>,
    /// What has to wait for a walk.
    waits: HashMap<RelPath, Ticket>,
    /// The files in the batch; the names that are not in it are gathered once, on behalf of the
    /// first.
    here: BTreeMap<Inode, Here>,
    /// Something is to be added on behalf of a directory.
    across: bool,
}

/// A file of a batch.
struct Here {
    /// Those of its names that are in the batch.
    own: Vec<RelPath>,
    /// Names that it has in all.
    nlink: u32,
    /// A name has waited for a walk.
    waited: bool,
}

/// What came of adding names to a batch.
#[derive(Default)]
struct Joined {
    /// These were, with how they were found.
    added: BTreeMap<RelPath, StatBrief>,
    /// These have to wait, for the run that carries the batch named.
    blocked: HashMap<RelPath, Option<BatchId>>,
}

/// What holds up one name of a file holds up all.
fn with_all_names(
    mut blocked: HashMap<RelPath, Option<BatchId>>,
    here: BTreeMap<Inode, Here>,
) -> HashMap<RelPath, Option<BatchId>> {
    for file in here.into_values().filter(|file| file.own.len() > 1) {
        if let Some(by) = blocked.get(&file.own[0]).copied() {
            blocked.extend(file.own.into_iter().map(|name| (name, by)));
        }
    }
    blocked
}

/// Which files of a batch are sent without trust in size and times. `added`: names that were not
/// read with the batch. `across`: some were added on behalf of directories.
fn distrust(
    batch: &Batch,
    normal: &Normal,
    added: &BTreeMap<RelPath, StatBrief>,
    across: bool,
    doubted: &BTreeSet<RelPath>,
    wall_start: i64,
) -> Linked {
    let found: BTreeMap<&[u8], &normal::Item> = normal.items.iter().map(|i| (&*i.path, i)).collect();
    let mut linked = Linked { on: true, ..Linked::default() };
    let mut any = false;
    for entry in &batch.entries {
        // One that was added may have been written, too, and have waited for another batch.
        let looked = found.get(&*entry.path).map(|item| (item.kind, item.state));
        match looked.or_else(|| Some((Kind::Entry, Look::Present(*added.get(&entry.path)?)))) {
            Some((kind, Look::Present(stat))) if stat.is_dir() => any |= kind > Kind::Entry && entry.content,
            Some((_, Look::Present(stat))) => {
                // A name that was made and never written is a link: there is nothing to doubt,
                // unless another file had the name.
                let written = entry.content && (entry.gone || !entry.held || entry.written);
                let seen = wall_start + entry.since().as_secs() as i64;
                let doubtful = doubted.contains(&entry.path) || written && may_be_twin(&stat, seen);
                match together(&stat) {
                    Some(inode) if doubtful => _ = linked.distrusted.insert(inode),
                    Some(inode) if written => _ = linked.reread.insert(inode),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    linked.one_run = across.then(|| linked.of_all(any));
    linked
}

impl Target {
    /// Adds to a batch the other names of the files in it. What waits for a walk, or for a batch in
    /// flight that holds such a name, is taken out. `None` when nothing is left.
    pub(super) fn join_links(
        &mut self,
        cx: &mut Context<'_>,
        mut batch: Batch,
        normal: Normal,
    ) -> Option<(Batch, Normal, Linked)> {
        let Some(links) = cx.links.as_deref_mut() else { return Some((batch, normal, Linked::default())) };
        if self.hurry() {
            links.hurry();
        }
        let since = batch.entries.iter().map(Entry::epoch).min()?;
        let levels = self.found_below(&batch.entries);
        let mut gathered = self.gather(cx.filter, links, &normal, (since, cx.stamp), &levels);
        let joined = match self.add_names(cx, &mut batch, &normal, &mut gathered, since) {
            Ok(joined) => joined,
            Err(error) => return self.source_gone(cx, batch, &error),
        };
        let Joined { added, blocked } = joined;
        self.keep_waiting(&mut batch, gathered.waits, with_all_names(blocked, gathered.here));
        if batch.entries.is_empty() {
            return None;
        }
        let linked = distrust(&batch, &normal, &added, gathered.across, &self.doubts.files, cx.wall_start);
        let linked = Linked { levels, ..linked };
        if added.is_empty() {
            return Some((batch, normal, linked));
        }
        let paths: Vec<(RelPath, Kind)> = batch.entries.iter().map(|e| (e.path.clone(), e.kind)).collect();
        match normal::normalise(std::os::fd::AsFd::as_fd(cx.root), &paths, cx.statter) {
            Ok(normal) => Some((batch, normal, linked)),
            Err(error) => self.source_gone(cx, batch, &error),
        }
    }

    /// The root of the source does not answer.
    fn source_gone<T>(&mut self, cx: &mut Context<'_>, batch: Batch, error: &normal::NormalError) -> Option<T> {
        self.ledger.give_back(batch);
        *cx.held = Some(Hold::Gone(chain(error)));
        None
    }

    /// The whole tree is about to be compared: what the pass links is not known yet.
    pub(super) fn await_names_of_all(&mut self, cx: &mut Context<'_>, batch: &Batch) {
        let Some(links) = cx.links.as_deref_mut() else { return };
        let Some(since) = batch.entries.iter().map(Entry::epoch).min() else { return };
        let ticket = links.want(&RelPath::root(), true);
        let left = self.ledger.set.parked(RelPath::root(), since);
        self.ledger.linking.waiting.push((ticket, Waits::Left(left, (Kind::Subtree, cx.stamp))));
    }

    /// What has to go with a batch, as far as it is known. `levels` do not leave with it: they wait
    /// for files in them. What left on their behalf could keep these files waiting in turn.
    fn gather(
        &mut self,
        filter: &Filter,
        links: &mut Links,
        normal: &Normal,
        (since, stamp): (Epoch, FileTime),
        levels: &BTreeSet<RelPath>,
    ) -> Gathered {
        let mut gathered = Gathered::default();
        for item in &normal.items {
            let waited = self.ledger.linking.released.remove(&item.path);
            match item.state {
                Look::Present(stat) if stat.is_dir() => {
                    let waits = item.kind == Kind::Contents && levels.contains(&item.path);
                    if item.kind > Kind::Entry && !waits {
                        let deep = item.kind == Kind::Subtree;
                        let others = links.crossing(&item.path, deep);
                        gathered.across |= !others.is_empty();
                        gathered.wanted.extend(others.into_iter().map(|name| (name, item.path.clone())));
                        // What it holds besides is found while rsync compares; a flush may wait for
                        // it.
                        let left = self.ledger.set.parked(item.path.clone(), since);
                        let left = Waits::Left(left, (item.kind, stamp));
                        self.ledger.linking.waiting.push((links.want(&item.path, deep), left));
                    }
                }
                Look::Present(stat) => match shared(&stat) {
                    Some(_) if filter.excludes(&item.path, false) => {}
                    Some(inode) if !links.keeps_together(inode, stat.nlink, &item.path) => {}
                    Some(inode) => {
                        links.note(&item.path, inode);
                        let file = gathered.here.entry(inode).or_insert_with(|| Here {
                            own: Vec::new(),
                            nlink: stat.nlink,
                            waited: false,
                        });
                        file.own.push(item.path.clone());
                        file.waited |= waited;
                    }
                    None => links.forget(&item.path),
                },
                Look::Missing => links.forget_below(&item.path),
                Look::Unreadable(_) => {}
            }
        }
        for (inode, file) in &gathered.here {
            gathered.wanted.extend(links.partners(*inode).map(|name| (RelPath::from_normal(name), file.own[0].clone())));
        }
        gathered
    }

    /// Which files of a batch have to wait until all their names are known. To be called once the
    /// known ones were looked up: one that leads elsewhere by now would hide one that is not known.
    fn await_names(&mut self, now: Duration, links: &mut Links, gathered: &mut Gathered, since: Epoch) {
        for (inode, file) in &gathered.here {
            if links.complete(*inode, file.nlink) {
                continue;
            }
            // One that has waited got more names since: it leaves, and they are sent together after
            // the walk that finds them.
            let (ticket, soon) = links.want_whole(now, *inode);
            for name in &file.own {
                if soon && !file.waited {
                    gathered.waits.insert(name.clone(), ticket);
                } else {
                    let alone = Waits::Alone(self.ledger.set.parked(name.clone(), since), *inode);
                    self.ledger.linking.waiting.push((ticket, alone));
                }
            }
        }
    }

    /// Adds to a batch the names that are wanted and are what they should be.
    fn add_names(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch,
        normal: &Normal,
        gathered: &mut Gathered,
        since: Epoch,
    ) -> Result<Joined, normal::NormalError> {
        let mut joined = Joined::default();
        let found: BTreeMap<&[u8], &normal::Item> = normal.items.iter().map(|i| (&*i.path, i)).collect();
        let inode_at = |path: &[u8]| match found.get(path)?.state {
            Look::Present(stat) => together(&stat),
            _ => None,
        };
        let mut wanted = std::mem::take(&mut gathered.wanted);
        wanted.retain(|name, _| !found.contains_key(&**name));
        let paths: Vec<(RelPath, Kind)> = wanted.keys().map(|name| (name.clone(), Kind::Entry)).collect();
        let looked = match paths.is_empty() {
            true => Vec::new(),
            false => normal::normalise(std::os::fd::AsFd::as_fd(cx.root), &paths, cx.statter)?.items,
        };
        let Some(links) = cx.links.as_deref_mut() else { return Ok(joined) };
        let there: BTreeMap<&[u8], (Inode, StatBrief)> = looked
            .iter()
            .filter_map(|item| match item.state {
                Look::Present(stat) => Some((&*item.path, (shared(&stat)?, stat))),
                _ => None,
            })
            .collect();
        let mut known: Vec<(&RelPath, &RelPath, StatBrief)> = Vec::new();
        for (name, owner) in &wanted {
            match there.get(&**name).filter(|(inode, _)| inode_at(owner).is_none_or(|wanted| wanted == *inode)) {
                Some((inode, stat)) => {
                    links.note(name, *inode);
                    known.push((name, owner, *stat));
                }
                None => links.forget(name),
            }
        }
        self.await_names(cx.now, links, gathered, since);
        for (name, owner, stat) in known {
            if joined.blocked.contains_key(owner) || gathered.waits.contains_key(owner) {
                continue;
            }
            match self.ledger.set.join(batch.id, name, since) {
                Ok(Some(entry)) => {
                    joined.added.insert(name.clone(), stat);
                    batch.entries.push(entry);
                }
                Ok(None) => {}
                Err(by) => _ = joined.blocked.insert(owner.clone(), by),
            }
        }
        Ok(joined)
    }

    /// Takes out of a batch what waits for a walk, or for a run.
    fn keep_waiting(&mut self, batch: &mut Batch, waits: HashMap<RelPath, Ticket>, blocked: HashMap<RelPath, Option<BatchId>>) {
        let held_up = |path: &&[u8]| waits.contains_key(*path) || blocked.contains_key(*path);
        let on_behalf = |entry: &Entry| path_and_above(&entry.path).find(held_up).map(RelPath::from_normal);
        let (out, stays): (Vec<Entry>, Vec<Entry>) =
            std::mem::take(&mut batch.entries).into_iter().partition(|entry| on_behalf(entry).is_some());
        batch.entries = stays;
        self.ledger.set.park(batch.id, &out);
        for entry in out {
            let Some(owner) = on_behalf(&entry) else { continue };
            if let Some(ticket) = waits.get(&owner) {
                self.ledger.linking.waiting.push((*ticket, Waits::Held(entry)));
                continue;
            }
            let by = blocked.get(&owner).copied().flatten();
            let run = self.runs.batches().map(|b| b.id).find(|id| by.is_none_or(|by| *id == by));
            match run {
                Some(id) => self.ledger.send_after(id, entry),
                None if self.ledger.set.has_linked() => self.ledger.linking.behind.push(entry),
                // Its run has just ended.
                None => self.ledger.set.restore(entry),
            }
        }
    }

    /// A name was removed from the target, or could not be: what shares its file may leave.
    pub(super) fn release_behind(&mut self) {
        std::mem::take(&mut self.ledger.linking.behind).into_iter().for_each(|entry| self.ledger.set.restore(entry));
    }

    /// A walk has ended: `again` are names to be sent together, and what waited for the walk goes
    /// on. `special`: names of files with several that are neither files nor directories.
    pub(crate) fn links_found(&mut self, links: &Links, now: Duration, again: &[RelPath], special: &[(RelPath, Inode)]) {
        self.hard_links.specials.found(special);
        let (done, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.ledger.linking.waiting).into_iter().partition(|(ticket, _)| links.has_ended(*ticket));
        self.ledger.linking.waiting = waiting;
        // Who waits for the change that led to the walk waits for this too. Where another target
        // led to it, that change may be in flight here, or wait for a later walk.
        let since = self.ledger.set.epochs().oldest();
        for name in again {
            match since {
                Some(since) => self.ledger.set.see_since(name, Seen::Touched, since),
                None => self.ledger.set.see(name, Seen::Touched),
            }
        }
        let (mut alone, mut alone_entries): (BTreeMap<Inode, Epoch>, Vec<Entry>) = Default::default();
        for (_, waits) in done {
            match waits {
                Waits::Held(entry) => {
                    self.ledger.linking.released.insert(entry.path.clone());
                    self.ledger.set.restore(entry);
                }
                Waits::Alone(entry, inode) => {
                    let since = alone.entry(inode).or_insert(entry.epoch());
                    *since = entry.epoch().min(*since);
                    alone_entries.push(entry);
                }
                Waits::Left(entry, how) => match links.rest() {
                    Some(ticket) => self.ledger.linking.waiting.push((ticket, Waits::Left(entry, how))),
                    None => self.ledger.linking.known.push((entry, how)),
                },
                Waits::Unlinked(entry) => match links.rest() {
                    Some(ticket) => self.ledger.linking.unlinked(ticket, entry),
                    None => {
                        for name in links.names_below(&entry.path) {
                            self.ledger.set.see_since(&name, Seen::Touched, entry.epoch());
                        }
                        self.ledger.forget(vec![entry]);
                    }
                },
            }
        }
        for (inode, since) in alone {
            // Found by any walk or lookup.
            if links.partners(inode).nth(1).is_some() {
                links.partners(inode).for_each(|name| self.ledger.set.see_since(name, Seen::Touched, since));
            }
        }
        self.ledger.forget(alone_entries);
        self.note_ready(now);
    }
}

/// `path`, and every directory above it.
pub(super) fn path_and_above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| path::parent(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> RelPath {
        RelPath::new(name.as_bytes()).unwrap()
    }

    #[test]
    fn what_holds_up_the_first_name_of_a_file_holds_up_the_others() {
        let file = |names: [&str; 2]| Here { own: names.map(path).to_vec(), nlink: 2, waited: false };
        let here: BTreeMap<Inode, Here> = [(((0, 1), 1), file(["a", "b"])), (((0, 1), 2), file(["c", "d"]))].into();
        let blocked = with_all_names([(path("a"), None)].into(), here);
        let mut names: Vec<_> = blocked.keys().map(RelPath::to_string).collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
    }

    /// One name was written: all are sent without trust in size and times.
    #[test]
    fn files_are_distrusted_by_what_happened_to_one_of_their_names() {
        let file = StatBrief { mode: libc::S_IFREG, nlink: 2, ino: 7, ..Default::default() };
        let item = normal::Item { path: path("a"), kind: Kind::Entry, state: Look::Present(file) };
        let normal = Normal { items: vec![item], ancestors: Vec::new(), root: StatBrief::default() };
        let none = BTreeSet::new();
        use Content::{ByTimes, Read, Sent};
        for (what, content, held, gone, ctime, doubted, want, written) in [
            ("touched", false, false, false, 0, none.clone(), ByTimes, ByTimes),
            ("written", true, false, false, 0, none.clone(), Sent, Sent),
            ("open for writing", true, false, false, -100, none.clone(), Read, Read),
            ("a link that was made", true, true, false, 0, none.clone(), ByTimes, Sent),
            ("a link that was made, and open for writing", true, true, false, -100, none.clone(), ByTimes, Read),
            ("a link over another file", true, true, true, 0, none.clone(), Sent, Sent),
            ("found to be another one", false, false, false, -100, [path("a")].into(), Sent, Sent),
        ] {
            let mut set = DirtySet::new(10);
            let mut entry = set.parked(path("a"), set.epochs().current());
            (entry.content, entry.held, entry.gone) = (content, held, gone);
            let mut batch = Batch { id: 0, entries: vec![entry], round: 0 };
            let mut normal = normal.clone();
            let stat = StatBrief { ctime: FileTime { secs: ctime, nanos: 0 }, ..file };
            normal.items[0].state = Look::Present(stat);
            let all =
                |batch: &Batch, across| distrust(batch, &normal, &BTreeMap::new(), across, &doubted, 0).together(&stat, false);
            assert_eq!([all(&batch, false), all(&batch, true)], [Some(want); 2], "{what}");
            // The file was written through a name that is gone since.
            batch.entries[0].written = true;
            assert_eq!([all(&batch, false), all(&batch, true)], [Some(written); 2], "{what}, and its file written");
        }
    }
}
