//! How the entries of a batch are listed, by what the last check of the disk found. What each needs
//! is decided by [`Rules`], which is pure; what does not leave now goes where it waits.

use super::emptied::Found;
use super::linked::{Linked, path_and_above};
use super::*;

/// What the checks before batches found.
#[derive(Default)]
pub(super) struct Met {
    /// The newest change time, until it is requested.
    pub(super) newest: Option<FileTime>,
    /// Files that are larger than `max_file_size`, the first of them.
    pub(super) left_out: BTreeSet<RelPath>,
    pub(super) leases: leases::Leases,
}

/// What was found out about a batch before it leaves.
pub(super) struct Looked {
    pub(super) normal: Normal,
    /// It carries subtrees.
    pub(super) deep: bool,
    pub(super) linked: Linked,
    /// A place that next to nothing is left of.
    pub(super) suspect: Option<guarded::Suspect>,
    /// Files that cannot be opened now, see [`leases`].
    pub(super) leased: BTreeSet<RelPath>,
    pub(super) lane: Lane,
}

/// What one run carries: entries, and how they are listed.
pub(super) struct Part {
    pub(super) batch: Batch,
    pub(super) list: Vec<(RelPath, Form)>,
    /// Something listed is there.
    pub(super) present: bool,
    /// Listed deletions of names that the guards would protect.
    pub(super) risks: Vec<RelPath>,
}

/// Files that are noted as left out; more are left out without a word.
const MOST_LEFT_OUT: usize = 1_000;

/// What a part may delete, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deleting {
    /// Nothing that was known when it was composed, or within the bounds.
    Within,
    /// Something, and a dry run comes first.
    Guarded,
    /// Whatever it finds: an administrator accepted it.
    Free,
}

/// When the target's content is taken for the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Where size and mtime are equal.
    ByTimes,
    /// Where it was read on both sides. A file that was open for writing, and has no newer ctime
    /// than what was sent of it: most likely it was only opened. But a store through a mapping
    /// changes the times with the first store to a clean page only, and on tmpfs never (Linux 6.18,
    /// measured), so that what was sent between two stores is an older content of the same times.
    Read,
    /// Never: it is sent, or it has neither size nor mtime.
    Sent,
}

/// The kinds of parts, in the order in which they leave.
pub(super) const PARTS: [(Deleting, Content); 9] = [
    (Deleting::Within, Content::ByTimes),
    (Deleting::Within, Content::Read),
    (Deleting::Within, Content::Sent),
    (Deleting::Guarded, Content::ByTimes),
    (Deleting::Guarded, Content::Read),
    (Deleting::Guarded, Content::Sent),
    (Deleting::Free, Content::ByTimes),
    (Deleting::Free, Content::Read),
    (Deleting::Free, Content::Sent),
];

impl Content {
    /// How rsync compares in this round of a batch.
    pub(super) fn compare(self, round: u32) -> Compare {
        match (self, round) {
            // Set apart, and perhaps for want of room: what the target has already must not be sent
            // for a time stamp.
            (_, WHOLE_ROUNDS..) | (Content::Sent, 1..) | (Content::Read, _) => Compare::Checksum,
            (Content::Sent, 0) => Compare::Resend,
            (Content::ByTimes, _) => Compare::Quick,
        }
    }
}

impl Part {
    pub(super) fn new(id: BatchId, round: u32) -> Part {
        Part { batch: Batch { id, entries: Vec::new(), round }, list: Vec::new(), present: false, risks: Vec::new() }
    }
}

/// Whether the content of a file that was written or moved here may be another one although its
/// size and mtime are those that the target has: it changed after `since` (seconds since 1970). The
/// mtime can have been set back (`cp -p`, archives), it can have come with a rename, and two writes
/// within one tick of the kernel's clock (4 ms, before Linux 6.13) leave the same. A file that was
/// only opened for writing has an older ctime ([`Content::Read`]).
pub(super) fn may_be_twin(stat: &StatBrief, since: i64) -> bool {
    stat.ctime.secs + TWIN_SLACK_SECS >= since
}

/// What is to be done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is pending again, as this.
    Turn {
        kind: Kind,
        gone: bool,
    },
    /// Nothing is known of it.
    Unreadable(Errno),
    /// It is a deletion that goes with the directory above it.
    ByParent(Deletions),
    /// It waits for the end of a write.
    Hold,
    /// It waits for the end of a lease.
    Lease,
    /// It is larger than what is to be carried: so large.
    TooLarge(u64),
    /// It waits for the lane of large files, to be compared so.
    LargeLane(Content),
    /// It is not to be sent.
    Needless,
    Goes(Goes),
}

/// How an entry leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Goes {
    listed: Listed,
    /// It may delete.
    deletes: bool,
    /// Names of one file go in one run, so what holds for one of them holds for all.
    tied: bool,
    content: Content,
}

/// What is listed for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    /// Nothing: any list carries it.
    Nothing,
    /// The present entry.
    There(Form),
    /// What is missing.
    Missing,
}

/// What a target knows of an entry.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Its comparison leaves alone what only the target has.
    spares: bool,
    /// Its content was found to be another one, or may be.
    doubted: bool,
    /// Since when it may have changed, seconds since 1970.
    since: i64,
}

/// By what the entries of one batch are judged.
struct Rules<'r> {
    looked: &'r Looked,
    filter: &'r Filter,
    deletions: Deletions,
    follows_deletions: bool,
    /// Nothing waits for the end of a write.
    hurry: bool,
    max_file_size: Option<u64>,
    /// Some of the subtrees are compared without deletions, and others are not.
    mixed: bool,
    /// Levels that wait for files in them.
    levels: BTreeSet<RelPath>,
    /// Deletions have a bound.
    bounded: bool,
    /// What became dirty until then may delete without it.
    accepted: Option<Epoch>,
    newest: Option<Epoch>,
}

impl Rules<'_> {
    /// `item`: of the path itself, or of the component above it that decides. With it, what is
    /// queried for the places that lost nearly everything ([`Target::join_lost`]).
    fn step(&self, entry: &Entry, item: Option<&normal::Item>, known: Known) -> (Option<Found>, Step) {
        let level_waits = entry.kind == Kind::Contents && self.levels.contains(&entry.path);
        if self.mixed && known.spares || level_waits {
            return (None, Step::Turn { kind: entry.kind, gone: entry.gone });
        }
        match item.map(|item| (item, item.state)) {
            // Only the root's own attributes: they travel with any list.
            None if entry.path.is_root() && entry.kind == Kind::Contents => {
                let listed = Listed::There(Form::OneLevel);
                (None, Step::Goes(Goes { listed, deletes: !known.spares, tied: false, content: Content::ByTimes }))
            }
            None => (None, Step::Goes(Goes::UNLISTED)),
            Some((_, Look::Unreadable(errno))) => (None, Step::Unreadable(errno)),
            Some((item, Look::Missing)) => self.missing(entry, item),
            Some((item, Look::Present(stat))) => self.present(entry, item, &stat, known),
        }
    }

    fn missing(&self, entry: &Entry, item: &normal::Item) -> (Option<Found>, Step) {
        let own = item.path == entry.path;
        if !(self.follows_deletions || own && entry.gone) {
            return (None, Step::Needless); // gone by an event that is not followed
        }
        let step = match self.deletions {
            Deletions::ByName if self.looked.deep => Step::Turn { kind: Kind::Entry, gone: true },
            Deletions::ByName => Step::Goes(Goes { listed: Listed::Missing, deletes: true, tied: false, content: Content::Sent }),
            Deletions::ByParent | Deletions::Never => Step::ByParent(self.deletions),
        };
        (Some(Found::Missing), step)
    }

    fn present(&self, entry: &Entry, item: &normal::Item, stat: &StatBrief, known: Known) -> (Option<Found>, Step) {
        let Looked { deep, linked, leased, lane, .. } = self.looked;
        let (own, dir, file) = (item.path == entry.path, stat.is_dir(), stat.is_file());
        if !item.path.is_root() && self.filter.excludes(&item.path, dir) {
            // Its type changed to one that is left out: to the target it is a deletion.
            return (None, Step::ByParent(self.deletions));
        }
        if own && dir && entry.gone && entry.kind < Kind::Subtree {
            return (None, Step::Turn { kind: Kind::Subtree, gone: false });
        }
        // One that was to be compared is a file in the place of a directory: it is not held.
        if own && entry.held && entry.kind == Kind::Entry && file && stat.nlink == 1 && !self.hurry {
            return (None, Step::Hold);
        }
        let shared = linked.is_shared(stat);
        if *deep && !dir && !shared {
            return (None, Step::Turn { kind: Kind::Entry, gone: entry.gone });
        }
        if leased.contains(&item.path) {
            return (None, Step::Lease);
        }
        if own && file && self.max_file_size.is_some_and(|most| stat.size > most) {
            return (None, Step::TooLarge(stat.size));
        }
        let own_content = Self::own_content(entry, stat, known);
        let alone = if own_content == Content::Read { lanes::READ_ALONE } else { lanes::LARGE_FILE };
        if *lane != Lane::Large && own && !deep && file && stat.size >= alone && !shared {
            return (None, Step::LargeLane(own_content));
        }
        let form = if own && item.kind == Kind::Contents { Form::OneLevel } else { Form::Plain };
        if item.path.is_root() && form == Form::Plain {
            return (None, Step::Goes(Goes::UNLISTED));
        }
        let compared = *deep || form == Form::OneLevel;
        let together = linked.together(stat, form == Form::OneLevel || *deep && dir);
        let content = match together {
            Some(content) => content,
            None if compared && !entry.content => Content::ByTimes,
            None if compared => Content::Sent,
            None if own => own_content,
            // Of others than files nothing is compared but what is sent anyway.
            None if !file => Content::Sent,
            None => Content::ByTimes,
        };
        // What took the place of a directory takes away what was below.
        let deletes = compared && !known.spares || entry.gone || !own;
        let found = match (dir, file) {
            (true, _) => Found::Dir { deletes },
            (false, true) => Found::File,
            (false, false) => Found::Special,
        };
        (Some(found), Step::Goes(Goes { listed: Listed::There(form), deletes, tied: together.is_some(), content }))
    }

    /// How an entry is compared that is what was found under its name, and not with what is below.
    fn own_content(entry: &Entry, stat: &StatBrief, known: Known) -> Content {
        match entry.content {
            _ if !stat.is_file() || known.doubted => Content::Sent,
            true if may_be_twin(stat, known.since) => Content::Sent,
            true => Content::Read,
            false => Content::ByTimes,
        }
    }

    /// What an entry may delete. `at`: the path that decides.
    fn deleting(&self, entry: &Entry, at: &RelPath, goes: &Goes) -> Deleting {
        let suspects = |suspect: &guarded::Suspect| goes.tied || suspect.concerns(entry, at);
        let guards = self.bounded || self.looked.suspect.as_ref().is_some_and(suspects);
        let since = self.newest.filter(|_| goes.tied).unwrap_or(entry.epoch());
        match (goes.deletes || goes.tied) && guards {
            false => Deleting::Within,
            true if self.accepted.is_some_and(|until| since <= until) => Deleting::Free,
            true => Deleting::Guarded,
        }
    }
}

impl Goes {
    const UNLISTED: Goes = Goes { listed: Listed::Nothing, deletes: false, tied: false, content: Content::Sent };
}

impl Target {
    /// Decides the form of each entry by what was found. Entries that need another kind of pass go
    /// back to the set as such. The parts are those of [`PARTS`]: by how contents are compared, and
    /// with guards by what may be deleted.
    pub(super) fn compose(&mut self, cx: &mut Context<'_>, batch: Batch, looked: &Looked) -> [Part; PARTS.len()] {
        let found: BTreeMap<&[u8], &normal::Item> = looked.normal.items.iter().map(|i| (&*i.path, i)).collect();
        let rules = self.rules(cx.filter, &batch.entries, looked);
        let Batch { id, entries, round } = batch;
        let mut parts: [Part; PARTS.len()] = std::array::from_fn(|_| Part::new(id, round));
        let (mut done, mut leased) = (Vec::new(), Vec::new());
        for entry in entries {
            let item = path_and_above(&entry.path).find_map(|at| found.get(at).copied());
            let known = Known {
                spares: self.spares(&entry),
                doubted: self.doubts.files.contains(&entry.path),
                since: self.doubts.found_since(&entry).unwrap_or(cx.wall_start + entry.since().as_secs() as i64),
            };
            let (joins, step) = rules.step(&entry, item, known);
            let entry = match (joins, item) {
                (Some(found), Some(item)) => self.join_lost(id, entry, &item.path, found),
                _ => Some(entry),
            };
            let Some(entry) = entry else { continue };
            let at = item.map_or_else(|| entry.path.clone(), |item| item.path.clone());
            match step {
                Step::Goes(goes) => {
                    let kind = (rules.deleting(&entry, &at, &goes), goes.content);
                    let part = PARTS.iter().position(|part| *part == kind).expect("every kind is there");
                    self.list(&mut parts[part], entry, at, goes.listed);
                }
                Step::Lease => leased.push(entry),
                step => done.extend(self.keep_back(cx.now, (id, round), entry, &at, step)),
            }
        }
        self.ledger.forget(done);
        self.set_leased_apart(cx.now, id, leased, round);
        // The first keeps the batch's id.
        let whole = Batch { id, entries: Vec::new(), round };
        for part in parts.iter_mut().filter(|part| !part.batch.entries.is_empty()).skip(1) {
            part.batch = self.ledger.set.split(&whole, std::mem::take(&mut part.batch.entries));
        }
        parts
    }

    fn rules<'r>(&self, filter: &'r Filter, entries: &[Entry], looked: &'r Looked) -> Rules<'r> {
        let rescans = entries.iter().filter(|e| self.spares(e)).count();
        // Further names of files in them delete nothing. A subtree that let them go ahead would
        // meet them again, without an end.
        let compared = entries.iter().filter(|e| e.kind > Kind::Entry).count();
        Rules {
            looked,
            filter,
            deletions: self.spec(std::path::Path::new("/"), Compare::Quick).deletions(),
            follows_deletions: self.follows_deletions(),
            hurry: self.hurry(),
            max_file_size: self.mirror.max_file_size,
            mixed: looked.deep && rescans > 0 && rescans < compared,
            levels: &self.found_below(entries) | &looked.linked.levels,
            bounded: self.deletes() && self.limit().is_some(),
            accepted: self.guard.accepted(),
            newest: entries.iter().map(Entry::epoch).max(),
        }
    }

    /// Lists an entry in a part.
    fn list(&mut self, part: &mut Part, entry: Entry, at: RelPath, listed: Listed) {
        match listed {
            Listed::Nothing => {}
            Listed::There(form) => {
                part.present = true;
                part.list.push((at, form));
            }
            Listed::Missing => {
                part.risks.extend([&at, &entry.path].into_iter().filter(|p| self.args.guarded.excludes_leaf(p, false)).cloned());
                if part.risks.len() > survey::MAX_RISKS {
                    part.risks.truncate(survey::MAX_RISKS);
                    return self.ledger.turn(part.batch.id, entry);
                }
                part.list.push((at, Form::Plain));
            }
        }
        part.batch.entries.push(entry);
    }

    /// An entry does not leave now. Returns it where it never will.
    fn keep_back(
        &mut self,
        now: Duration,
        (id, round): (BatchId, u32),
        mut entry: Entry,
        at: &RelPath,
        step: Step,
    ) -> Option<Entry> {
        match step {
            Step::Turn { kind, gone } => {
                (entry.kind, entry.gone) = (kind, gone);
                self.ledger.turn(id, entry);
            }
            Step::Unreadable(errno) => {
                self.ledger.set.park(id, std::slice::from_ref(&entry));
                let why = format!("cannot look at it on the source: {}", errno.desc());
                self.ledger.retries.failed(now, vec![entry], u32::MAX - 1, &[], &why, fastrand::f64());
            }
            Step::ByParent(deletions) => return self.by_parent(id, entry, at, deletions),
            Step::Hold => self.ledger.set.hold(id, entry, now + self.mirror.batch.create_hold),
            // It may be new, and then the times of its directory are, too.
            Step::TooLarge(size) if self.leave_out(&entry.path, size) => {
                return self.by_parent(id, entry, at, Deletions::Never);
            }
            Step::LargeLane(content) => {
                if content != Content::Read {
                    self.ledger.large.wake(&entry.path);
                }
                self.ledger.set.park(id, std::slice::from_ref(&entry));
                self.wait_for_large_lane(entry, round);
            }
            Step::TooLarge(_) | Step::Needless | Step::Lease | Step::Goes(_) => {
                self.ledger.set.park(id, std::slice::from_ref(&entry));
                return Some(entry);
            }
        }
        None
    }

    /// Notes that a file is larger than what is to be carried. `true`: it was not known to be.
    fn leave_out(&mut self, path: &RelPath, size: u64) -> bool {
        if self.met.left_out.contains(path) {
            return false;
        }
        if self.met.left_out.len() < MOST_LEFT_OUT {
            self.met.left_out.insert(path.clone());
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name, %path, size,
                "a file is larger than max_file_size and is left out"
            );
        }
        true
    }

    /// Lets a large file wait for its lane.
    pub(super) fn wait_for_large_lane(&mut self, entry: Entry, round: u32) {
        let (path, gone) = (entry.path.clone(), entry.gone);
        if let Some(old) = self.ledger.large.put(entry.clone(), round) {
            let gone = gone || old.gone;
            if let Some(mut both) = self.ledger.set.widen(vec![old, entry], path, Kind::Entry) {
                both.gone = gone;
                self.ledger.large.put(both, round);
            }
        }
    }

    /// A deletion that cannot be listed by name becomes a one-level pass over the directory above;
    /// where nothing may be deleted, only that directory's times are left to send. Returns it where
    /// there is none.
    fn by_parent(&mut self, id: BatchId, mut entry: Entry, missing: &RelPath, deletions: Deletions) -> Option<Entry> {
        self.ledger.set.park(id, std::slice::from_ref(&entry));
        match path::parent(missing) {
            Some(parent) => {
                entry.path = RelPath::from_normal(parent);
                self.confirmations.own(&entry.path);
                entry.kind = if deletions == Deletions::Never { Kind::Entry } else { Kind::Contents };
                entry.gone = false;
                entry.held = false;
                self.ledger.set.restore(entry);
            }
            None => return Some(entry),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind, change: impl Fn(&mut Entry)) -> Entry {
        let set = &mut DirtySet::new(10);
        let mut entry = set.parked(RelPath::new(path.as_bytes()).unwrap(), set.epochs().current());
        entry.kind = kind;
        change(&mut entry);
        entry
    }

    fn looked(deep: bool, lane: Lane) -> Looked {
        let normal = Normal { items: Vec::new(), ancestors: Vec::new(), root: StatBrief::default() };
        Looked { normal, deep, linked: Linked::default(), suspect: None, leased: BTreeSet::new(), lane }
    }

    fn rules<'r>(looked: &'r Looked, filter: &'r Filter) -> Rules<'r> {
        Rules {
            looked,
            filter,
            deletions: Deletions::ByName,
            follows_deletions: true,
            hurry: false,
            max_file_size: None,
            mixed: false,
            levels: BTreeSet::new(),
            bounded: false,
            accepted: None,
            newest: None,
        }
    }

    const KNOWN: Known = Known { spares: false, doubted: false, since: 100 };

    fn stat(mode: u32, size: u64) -> StatBrief {
        StatBrief { mode, nlink: 1, size, ..Default::default() }
    }

    fn step(rules: &Rules<'_>, entry: &Entry, at: &str, kind: Kind, state: Look) -> Step {
        let item = normal::Item { path: RelPath::new(at.as_bytes()).unwrap(), kind, state };
        rules.step(entry, Some(&item), KNOWN).1
    }

    fn goes(listed: Listed, deletes: bool, content: Content) -> Step {
        Step::Goes(Goes { listed, deletes, tied: false, content })
    }

    #[test]
    fn step_by_what_is_found_under_the_name() {
        let filter = Filter::new(&[] as &[&str], &["no/"]).unwrap();
        let (file, dir) = (Look::Present(stat(libc::S_IFREG, 5)), Look::Present(stat(libc::S_IFDIR, 0)));
        let large = Look::Present(stat(libc::S_IFREG, lanes::LARGE_FILE));
        let plain = Listed::There(Form::Plain);
        let level = Listed::There(Form::OneLevel);
        for (what, deep, entry, at, kind, state, want) in [
            ("a file", false, entry("f", Kind::Entry, |_| {}), "f", Kind::Entry, file, goes(plain, false, Content::ByTimes)),
            ("a level", false, entry("d", Kind::Contents, |_| {}), "d", Kind::Contents, dir, goes(level, true, Content::ByTimes)),
            (
                "a subtree",
                true,
                entry("d", Kind::Subtree, |e| e.content = true),
                "d",
                Kind::Subtree,
                dir,
                goes(plain, true, Content::Sent),
            ),
            (
                "a file in a deep list",
                true,
                entry("f", Kind::Subtree, |_| {}),
                "f",
                Kind::Entry,
                file,
                Step::Turn { kind: Kind::Entry, gone: false },
            ),
            (
                "another directory",
                false,
                entry("d", Kind::Entry, |e| e.gone = true),
                "d",
                Kind::Entry,
                dir,
                Step::Turn { kind: Kind::Subtree, gone: false },
            ),
            (
                "what is above is a file",
                false,
                entry("f/g", Kind::Entry, |_| {}),
                "f",
                Kind::Entry,
                file,
                goes(plain, true, Content::ByTimes),
            ),
            ("not closed", false, entry("f", Kind::Entry, |e| e.held = true), "f", Kind::Entry, file, Step::Hold),
            (
                "not closed, in the place of a directory",
                false,
                entry("f", Kind::Contents, |e| e.held = true),
                "f",
                Kind::Entry,
                file,
                goes(plain, false, Content::ByTimes),
            ),
            ("left out", false, entry("no", Kind::Entry, |_| {}), "no", Kind::Entry, dir, Step::ByParent(Deletions::ByName)),
            ("large", false, entry("f", Kind::Entry, |_| {}), "f", Kind::Entry, large, Step::LargeLane(Content::ByTimes)),
            (
                "gone",
                false,
                entry("f", Kind::Entry, |_| {}),
                "f",
                Kind::Entry,
                Look::Missing,
                goes(Listed::Missing, true, Content::Sent),
            ),
            (
                "gone, deep",
                true,
                entry("f", Kind::Subtree, |_| {}),
                "f",
                Kind::Entry,
                Look::Missing,
                Step::Turn { kind: Kind::Entry, gone: true },
            ),
            (
                "not known",
                false,
                entry("f", Kind::Entry, |_| {}),
                "f",
                Kind::Entry,
                Look::Unreadable(Errno::EIO),
                Step::Unreadable(Errno::EIO),
            ),
        ] {
            let looked = looked(deep, Lane::Bulk);
            assert_eq!(step(&rules(&looked, &filter), &entry, at, kind, state), want, "{what}");
        }
    }

    #[test]
    fn step_by_how_the_target_is_configured_and_what_is_known() {
        let (looked, filter) = (looked(false, Lane::Large), Filter::default());
        let (size, file) = (lanes::LARGE_FILE, entry("f", Kind::Entry, |_| {}));
        let there = Look::Present(stat(libc::S_IFREG, size));
        let own = |rules: &Rules<'_>, state| step(rules, &file, "f", Kind::Entry, state);
        let plain = |content| goes(Listed::There(Form::Plain), false, content);
        let base = || rules(&looked, &filter);
        assert_eq!(own(&base(), there), plain(Content::ByTimes), "in the lane of large files");
        assert_eq!(own(&Rules { max_file_size: Some(size - 1), ..base() }, there), Step::TooLarge(size));
        assert_eq!(own(&Rules { max_file_size: Some(size), ..base() }, there), plain(Content::ByTimes));
        assert_eq!(own(&Rules { follows_deletions: false, ..base() }, Look::Missing), Step::Needless);
        for deletions in [Deletions::ByParent, Deletions::Never] {
            assert_eq!(own(&Rules { deletions, ..base() }, Look::Missing), Step::ByParent(deletions));
        }
        let held = entry("f", Kind::Entry, |e| e.held = true);
        assert_eq!(step(&Rules { hurry: true, ..base() }, &held, "f", Kind::Entry, there), plain(Content::ByTimes), "in a hurry");
        let written = entry("f", Kind::Entry, |e| e.content = true);
        let touched = entry("f", Kind::Entry, |_| {});
        for (entry, ctime, known, content) in [
            (&touched, 100, KNOWN, Content::ByTimes),
            (&touched, 50, Known { doubted: true, ..KNOWN }, Content::Sent),
            (&written, 50, KNOWN, Content::Read),
            (&written, 100, KNOWN, Content::Sent),
            (&written, 50, Known { doubted: true, ..KNOWN }, Content::Sent),
        ] {
            let stat = StatBrief { ctime: FileTime { secs: ctime, nanos: 0 }, ..stat(libc::S_IFREG, 1) };
            let item = normal::Item { path: written.path.clone(), kind: Kind::Entry, state: Look::Present(stat) };
            let case = format!("content {}, ctime {ctime}, {known:?}", entry.content);
            assert_eq!(base().step(entry, Some(&item), known).1, plain(content), "{case}");
            let small = self::looked(false, Lane::Small);
            let item = normal::Item { state: Look::Present(StatBrief { size: lanes::READ_ALONE, ..stat }), ..item };
            let want = if content == Content::Read { Step::LargeLane(content) } else { plain(content) };
            assert_eq!(rules(&small, &filter).step(entry, Some(&item), known).1, want, "{case}");
        }
    }

    #[test]
    fn what_an_entry_may_delete() {
        let (looked, filter) = (looked(false, Lane::Bulk), Filter::default());
        let file = entry("f", Kind::Entry, |_| {});
        let base = || rules(&looked, &filter);
        let all = Goes { listed: Listed::Missing, deletes: true, tied: false, content: Content::Sent };
        let until = Some(file.epoch());
        for (what, rules, goes, want) in [
            ("without a bound", base(), all, Deleting::Within),
            ("with a bound", Rules { bounded: true, ..base() }, all, Deleting::Guarded),
            ("nothing", Rules { bounded: true, ..base() }, Goes { deletes: false, ..all }, Deleting::Within),
            ("accepted", Rules { bounded: true, accepted: until, ..base() }, all, Deleting::Free),
        ] {
            assert_eq!(rules.deleting(&file, &file.path, &goes), want, "{what}");
        }
    }
}
