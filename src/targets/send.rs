//! What leaves a target: when, how it is listed, and through which process.

use std::os::fd::AsFd;

use super::emptied::Found;
use super::linked::Linked;
use super::*;
use crate::cover::Cover;
use crate::sync::retries::Stand;

/// What one run carries: entries, and how they are listed.
struct Part {
    batch: Batch,
    list: Vec<(RelPath, Form)>,
    /// Something listed is there.
    present: bool,
    /// Listed deletions of names that the guards would protect.
    risks: Vec<RelPath>,
}

/// What the parts of a batch do that leave at the same time.
#[derive(Default)]
struct Begun {
    /// Directories whose level is compared: what the source does not have there is deleted.
    levels: BTreeSet<Vec<u8>>,
    /// Directories in which files are made, under temporary names at first.
    filled: BTreeSet<Vec<u8>>,
}

impl Begun {
    /// Whether one would delete the file that another is writing: that one would fail, and its temporary name would be told as deleted.
    fn meets(&self, entries: &[Entry]) -> bool {
        entries.iter().any(|e| match e.kind {
            Kind::Contents => self.filled.contains(&*e.path),
            _ => path::parent(&e.path).is_some_and(|parent| self.levels.contains(parent)),
        })
    }

    fn take(&mut self, entries: &[Entry]) {
        for e in entries {
            match e.kind {
                Kind::Contents => _ = self.levels.insert(e.path.to_vec()),
                _ => self.filled.extend(path::parent(&e.path).map(<[u8]>::to_vec)),
            }
        }
    }
}

/// What does not travel with the batch that it was taken with.
struct Apart {
    /// Files that cannot be opened now, see [`leases`].
    leased: BTreeSet<RelPath>,
    /// Large files.
    large: bool,
}

/// A list for a process that stands by.
pub(super) struct StandbyList<'l> {
    pub(super) bytes: &'l [u8],
    pub(super) paths: usize,
    pub(super) lane: Lane,
    /// Directories above the listed paths, with the ctime seen.
    pub(super) ancestors: BTreeMap<RelPath, FileTime>,
}

/// Files that are noted as left out; more are left out without a word.
const MOST_LEFT_OUT: usize = 1_000;

/// What a part may delete, and who says so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deleting {
    /// Nothing that was known when it was composed, or within the bounds.
    Within,
    /// Something, and a dry run comes first.
    Guarded,
    /// Whatever it finds: somebody let it through.
    Free,
}

/// New files of a level that is compared above directories of others.
const LEVEL_MAX_ABOVE_OTHERS: usize = 2_000;

/// The kinds of parts, in the order in which they leave.
const PARTS: [(Deleting, bool); 6] = [
    (Deleting::Within, false),
    (Deleting::Within, true),
    (Deleting::Guarded, false),
    (Deleting::Guarded, true),
    (Deleting::Free, false),
    (Deleting::Free, true),
];

impl Part {
    fn new(id: BatchId, round: u32) -> Part {
        Part { batch: Batch { id, entries: Vec::new(), round }, list: Vec::new(), present: false, risks: Vec::new() }
    }
}

/// Whether the content of a file that was written or moved here may be another one although its size and mtime are those
/// that the target has: it changed after `since` (seconds since 1970). The mtime can have been set back (`cp -p`, archives), it can have come with a
/// rename, and two writes within one tick of the kernel's clock (4 ms, before Linux 6.13) leave the same. A file that was
/// only opened for writing has an older ctime.
pub(super) fn may_be_twin(stat: &StatBrief, since: i64) -> bool {
    stat.ctime.secs + TWIN_SLACK_SECS >= since
}

/// Whether `new` files are so large a part of a directory that comparing its whole level is cheaper than listing them: where
/// they are one in four or five, with paths of 30 bytes as with 130 (`scripts/batching --only level`, rsync 3.5.0), since longer
/// paths make the entries of a level dearer, too.
///
/// Not where a file in it has other names: each is looked for when the file is listed.
fn mostly_new(root: &Root, dir: &RelPath, new: usize) -> bool {
    let most = new * LEVEL_ENTRIES_PER_PATH + 2; // with `.` and `..`
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let Ok(mut listing) = nix::dir::Dir::openat(root, dir.as_path(), flags, Mode::empty()) else { return false };
    let entries: Vec<_> = listing.iter().take(most + 1).flatten().collect();
    let names = entries.iter().map(|entry| entry.file_name()).filter(|name| !matches!(name.to_bytes(), b"." | b".."));
    let mut has_dirs = false;
    let mut plain = |name: &std::ffi::CStr| {
        let Ok(stat) = fstatat(&listing, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { return true };
        let dir = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
        has_dirs |= dir;
        dir || stat.st_nlink <= 1
    };
    entries.len() <= most && names.into_iter().all(&mut plain) && leaves_room(new, has_dirs)
}

/// Whether a comparison of a level of `new` files is short enough for what lies in its directories:
/// nothing of that leaves
/// while it is under way.
fn leaves_room(new: usize, has_dirs: bool) -> bool {
    !has_dirs || new <= LEVEL_MAX_ABOVE_OTHERS
}

/// New files in a directory before its level is asked for. In a small batch a level costs a process of its own, where the list goes to one that
/// stands by; `dry_first`: it costs a dry run.
fn level_min(lane: Lane, dry_first: bool) -> usize {
    if lane == Lane::Small || dry_first { DEAR_LEVEL_MIN } else { LEVEL_MIN }
}

impl Target {
    pub(super) fn hurry(&self) -> bool {
        self.stopping || !self.flushes.is_empty()
    }

    pub(super) fn lanes_free(&self) -> (bool, bool) {
        (self.has_room(Lane::Small), self.has_room(Lane::Bulk))
    }

    /// Whether a further run may start in `lane`.
    pub(super) fn has_room(&self, lane: Lane) -> bool {
        let lanes = self.runs.lanes();
        (self.crowded.is_none() || lanes.all() == 0) && lanes.room(lane, self.cfg.jobs, self.cfg.small_jobs)
    }

    /// Whether a large file may leave. Where one of holes gave way to a comparison, that goes
    /// first.
    pub(super) fn large_goes(&self) -> bool {
        self.has_room(Lane::Large) && !(self.ledger.set.has_deep() && self.unread.has_given_way())
    }

    /// When the pending paths may leave; `None` when there are none.
    pub(super) fn leaves_at(&self) -> Option<Duration> {
        self.pace.leaves_at(self.ledger.set.ready(self.hurry()), self.hurry())
    }

    /// Which lane the next batch takes; `None` when only a run's end makes room for it.
    pub(super) fn next_lane(&self) -> Option<Lane> {
        let few = self.ledger.set.ready(self.hurry()) <= SMALL_PATHS;
        Lane::of(few, self.ledger.set.has_deep(), self.lanes_free())
    }

    /// While all bulk jobs carry floods: what is pending in other directories at the top, if it
    /// fits into the small lane. A flood in
    /// the top itself counts as one of its name.
    fn take_beside(&mut self) -> Option<Batch> {
        let mut bulk = self.runs.carriers().filter(|(run, _)| run.lane == Lane::Bulk).map(|(_, c)| &c.how.tops).peekable();
        if !self.has_room(Lane::Small) || bulk.peek().is_none() {
            return None;
        }
        let tops: BTreeSet<Vec<u8>> = bulk.flatten().cloned().collect();
        if tops.is_empty() {
            return None;
        }
        self.ledger.set.take_beside(Limits { max_paths: SMALL_PATHS, ignore_holds: self.hurry() }, &tops)
    }

    /// The few paths of a bulk batch that lie beside its flood, where the small lane has room. Links
    /// and deletions keep their order, so they stay.
    fn split_beside(&mut self, batch: &mut Batch, normal: &mut Normal) -> Option<Batch> {
        if !self.has_room(Lane::Small) {
            return None;
        }
        let stat = |item: &normal::Item| match item.state {
            Look::Present(stat) => Some(stat),
            _ => None,
        };
        let present: BTreeSet<&[u8]> = (normal.items.iter())
            .filter(|item| stat(item).is_some_and(|stat| stat.is_dir() || stat.is_file()))
            .map(|item| &*item.path)
            .collect();
        let stays = |entry: &Entry| entry.gone || !present.contains(&*entry.path);
        let beside = lanes::take_few_beside(&mut batch.entries, SMALL_PATHS, stays);
        if beside.is_empty() {
            return None;
        }
        let taken: BTreeSet<&[u8]> = beside.iter().map(|entry| &*entry.path).collect();
        normal.remove(&taken);
        Some(self.ledger.set.split(batch, beside))
    }

    /// Sends what may leave now.
    pub fn dispatch(&mut self, cx: &mut Context<'_>) {
        self.ledger.set.tick(cx.now);
        self.release_links(cx.now);
        if self.state != State::Up || cx.held.is_some() || self.paused.is_some() || self.orphans.is_some() {
            return;
        }
        while self.lanes_free().1 {
            let Some((entries, round)) = self.ledger.retries.take_due(cx.now) else { break };
            if let Some(batch) = self.ledger.set.take_again(entries, round) {
                self.launch(cx, batch, Lane::Bulk);
            }
            if self.state != State::Up || cx.held.is_some() {
                return;
            }
        }
        while self.large_goes() {
            let Some((entry, round)) = self.ledger.large.take() else { break };
            if let Some(batch) = self.ledger.set.take_again(vec![entry], round) {
                self.launch(cx, batch, Lane::Large);
            }
            if self.state != State::Up || cx.held.is_some() {
                return;
            }
        }
        self.waits = false;
        self.look_at_long(cx);
        self.bound_failures();
        if self.lanes_free().1 {
            self.judge_again(cx);
            self.count_again(cx);
            if self.state != State::Up || cx.held.is_some() {
                return;
            }
        }
        let mut launched = self.dispatch_renames(cx);
        if self.state != State::Up || cx.held.is_some() {
            return;
        }
        // A level that is compared whole carries what is not to be followed.
        let follows_all = self.mirror.events == config::Events::default();
        while self.leaves_at().is_some_and(|at| at <= cx.now) {
            let Some(lane) = self.next_lane() else {
                let Some(batch) = self.take_beside() else {
                    self.waits = true;
                    break;
                };
                launched |= self.launch(cx, batch, Lane::Small);
                if self.state != State::Up || cx.held.is_some() {
                    return;
                }
                continue;
            };
            let (bulk, ignore_holds) = (self.lanes_free().1, self.hurry());
            let max_paths = match lane {
                Lane::Small | Lane::Large => SMALL_PATHS,
                Lane::Bulk => {
                    let free = self.cfg.jobs.saturating_sub(self.runs.lanes().bulk);
                    self.pace.share(cx.now, self.ledger.set.ready(ignore_holds), free, ignore_holds)
                }
            };
            let level_min = level_min(lane, self.limit().is_some() || !self.mirror.filter.is_rsyncs());
            let batch = match self.ledger.set.take_shallow(Limits { max_paths, ignore_holds }, &mut |dir, new| {
                // Each name has to be looked at for the others of its file.
                new >= level_min && follows_all && !self.mirror.extras.hard_links && mostly_new(cx.root, dir, new)
            }) {
                Some(batch) => Some(batch),
                None if bulk => self.ledger.set.take_deep(Limits { max_paths, ignore_holds }),
                None => None,
            };
            let Some(batch) = batch else {
                self.waits = true;
                break;
            };
            launched |= self.launch(cx, batch, lane);
            if self.state != State::Up || cx.held.is_some() {
                return;
            }
        }
        // Names that are to be removed before they are sent were found just now.
        launched |= self.dispatch_renames(cx);
        if self.state != State::Up || cx.held.is_some() {
            return;
        }
        self.pace.left(cx.now, launched, self.ledger.set.ready(false));
        // Starting a process takes a core from the transfer that just began; what stands by is replaced after it.
        if !self.runs.is_sending() || self.runs.standbys() == 0 {
            self.refill_standby(cx);
        }
    }

    /// Looks at the disk, decides how each entry is listed, and starts the run. `false` when nothing was left to send.
    pub(super) fn launch(&mut self, cx: &mut Context<'_>, batch: Batch, lane: Lane) -> bool {
        if !self.preflight(cx) {
            self.ledger.give_back(batch);
            return false;
        }
        let mut batch = self.leave_apart(batch);
        if batch.entries.is_empty() {
            return false;
        }
        let whole_tree = batch.entries.iter().any(|e| e.path.is_root() && e.kind == Kind::Subtree);
        if whole_tree {
            if self.removes_first(cx, &batch.entries, &[]) {
                self.ledger.give_back(batch);
                return false;
            }
            if let Some(links) = cx.links.as_deref_mut().filter(|_| self.reconciles > 0) {
                links.want(&RelPath::root(), true); // what the pass links is not known yet
            }
            return self.start_full(cx, batch, lane);
        }
        let paths: Vec<(RelPath, Kind)> = batch.entries.iter().map(|e| (e.path.clone(), e.kind)).collect();
        let mut normal = match normal::normalise(std::os::fd::AsFd::as_fd(cx.root), &paths, cx.statter) {
            Ok(normal) => normal,
            Err(e) => {
                self.ledger.give_back(batch);
                *cx.held = Some(Hold::Gone(chain(&e)));
                return false;
            }
        };
        self.newest = self.newest.max(Some(normal.newest()));
        self.order_links(cx, &mut batch, &normal);
        let mut started = false;
        if lane == Lane::Bulk
            && let Some(beside) = self.split_beside(&mut batch, &mut normal)
        {
            started = self.launch(cx, beside, Lane::Small);
            if self.state != State::Up || cx.held.is_some() {
                self.ledger.give_back(batch);
                return started;
            }
        }
        self.spread(cx, &mut batch, &normal);
        if batch.entries.is_empty() {
            return started;
        }
        let Some((batch, normal, linked)) = self.join_links(cx, batch, normal) else { return started };
        if self.removes_first(cx, &batch.entries, &normal.items) {
            self.ledger.give_back(batch);
            return started;
        }
        let deep = batch.entries.iter().any(|e| e.kind == Kind::Subtree);
        let suspect = self.suspect(cx, &batch.entries, Some(&normal));
        let apart = Apart { leased: self.leased(cx, &normal), large: lane != Lane::Large };
        let parts = self.compose(cx, batch, &normal, deep, &linked, suspect.as_ref(), apart);
        let mut begun = Begun::default();
        let several = parts.iter().filter(|part| !part.batch.entries.is_empty()).count() > 1;
        for ((deleting, thorough), part) in PARTS.into_iter().zip(parts) {
            if part.batch.entries.is_empty() {
                continue;
            }
            // A further part waits for the first where the lane has no room for both, or where they would meet.
            if self.state == State::Up && self.has_room(lane) && !begun.meets(&part.batch.entries) {
                if several {
                    begun.take(&part.batch.entries);
                }
                started |= self.start_listed(cx, part, &normal, deep, thorough, deleting, suspect.as_ref(), lane);
            } else {
                self.ledger.give_back(part.batch);
            }
        }
        started
    }

    /// Makes the files that did not fit failures, for rsync ends at the first such and never gets to what comes after it.
    pub(super) fn set_unfit_apart(&mut self, cx: &Context<'_>, batch: &mut Batch, outcome: &Outcome) {
        let failed = Cover::new(&outcome.failed);
        let unfit = |e: &Entry| e.kind == Kind::Entry && failed.has(&e.path);
        let (bad, good): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut batch.entries).into_iter().partition(unfit);
        self.ledger.set.park(batch.id, &bad);
        self.ledger.retries.fail(cx.now, bad, &outcome.reason, fastrand::f64());
        batch.entries = good;
    }

    /// Decides the form of each entry by what was found. Entries that need another kind of pass go back to the set as such.
    /// The parts are those of [`PARTS`]: what is compared by size and mtime, and what may differ although these are the same
    /// ([`may_be_twin`]) or has neither; with `guards`, each in three by what it may delete.
    #[allow(clippy::too_many_arguments)]
    fn compose(
        &mut self,
        cx: &mut Context<'_>,
        batch: Batch,
        normal: &Normal,
        deep: bool,
        linked: &Linked,
        suspect: Option<&guarded::Suspect>,
        apart: Apart,
    ) -> [Part; 6] {
        let bounded = self.mirror.delete && self.limit().is_some();
        let deletions = self.spec(cx.root.path(), Compare::Quick).deletions();
        let found: BTreeMap<&[u8], &normal::Item> = normal.items.iter().map(|i| (&*i.path, i)).collect();
        let Batch { id, entries, round } = batch;
        let mut parts: [Part; 6] = std::array::from_fn(|_| Part::new(id, round));
        let accepted = self.accepted;
        // Names of one file go in one run, so what holds for one of them holds for all: `tied`.
        let newest = entries.iter().map(Entry::epoch).max();
        let place = |entry: &Entry, at: &RelPath, deletes: bool, tied: bool, thorough: bool| {
            let since = newest.filter(|_| tied).unwrap_or(entry.epoch());
            let guards = bounded || suspect.is_some_and(|suspect| tied || suspect.concerns(entry, at));
            let deleting = match (deletes || tied) && guards {
                false => Deleting::Within,
                true if accepted.is_some_and(|until| since <= until) => Deleting::Free,
                true => Deleting::Guarded,
            };
            PARTS.iter().position(|part| *part == (deleting, thorough)).expect("every kind is there")
        };
        let (mut done, mut leased) = (Vec::new(), Vec::new());
        let levels = self.found_below(&entries);
        let rescans = entries.iter().filter(|e| self.spares(e)).count();
        let mixed = deep && rescans > 0 && rescans < entries.len();
        for mut entry in entries {
            if mixed && self.spares(&entry) {
                self.ledger.turn(id, entry); // by a run of its own, which deletes nothing
                continue;
            }
            if entry.kind == Kind::Contents && levels.contains(&entry.path) {
                self.ledger.turn(id, entry);
                continue;
            }
            // The item of the path itself, or of the component above it that decides.
            let mut at: &[u8] = &entry.path;
            let item = loop {
                match found.get(at) {
                    Some(item) => break Some(*item),
                    None => match path::parent(at) {
                        Some(up) => at = up,
                        None => break None,
                    },
                }
            };
            let Some(item) = item else {
                // Only the root's own attributes: they travel with any list.
                if entry.path.is_root() && entry.kind == Kind::Contents {
                    let part = &mut parts[place(&entry, &entry.path, !self.spares(&entry), false, false)];
                    part.list.push((RelPath::root(), Form::OneLevel));
                    part.present = true;
                    part.batch.entries.push(entry);
                } else {
                    parts[place(&entry, &entry.path, false, false, true)].batch.entries.push(entry);
                }
                continue;
            };
            let own = item.path == entry.path;
            if item.state == Look::Missing && (self.follows_deletions() || own && entry.gone) {
                let Some(goes) = self.join_lost(id, entry, &item.path, Found::Missing) else { continue };
                entry = goes;
            }
            match item.state {
                Look::Unreadable(errno) => {
                    self.ledger.set.park(id, std::slice::from_ref(&entry));
                    let why = format!("cannot look at it on the source: {}", errno.desc());
                    self.ledger.retries.failed(cx.now, vec![entry], u32::MAX - 1, &[], &why, fastrand::f64());
                    continue;
                }
                Look::Present(stat) => {
                    let dir = stat.is_dir();
                    if !item.path.is_root() && cx.filter.excludes(&item.path, dir) {
                        // Its type changed to one that is left out: to the target it is a deletion.
                        self.by_parent(id, entry, &item.path, deletions, &mut done);
                        continue;
                    }
                    if own && dir && entry.gone && entry.kind < Kind::Subtree {
                        entry.kind = Kind::Subtree;
                        entry.gone = false;
                        self.ledger.turn(id, entry);
                        continue;
                    }
                    if own && entry.held && stat.is_file() && stat.nlink == 1 && !self.hurry() {
                        let until = cx.now + self.mirror.batch.create_hold;
                        self.ledger.set.hold(id, entry, until);
                        continue;
                    }
                    if deep && !dir && !linked.is_shared(&stat) {
                        entry.kind = Kind::Entry;
                        self.ledger.turn(id, entry);
                        continue;
                    }
                    if apart.leased.contains(&item.path) {
                        leased.push(entry);
                        continue;
                    }
                    if own && stat.is_file() && self.mirror.max_file_size.is_some_and(|most| stat.size > most) {
                        if self.leave_out(&entry.path, stat.size) {
                            // It may be new, and then the times of its directory are, too.
                            self.by_parent(id, entry, &item.path, Deletions::Never, &mut done);
                        } else {
                            self.ledger.set.park(id, std::slice::from_ref(&entry));
                            done.push(entry);
                        }
                        continue;
                    }
                    let large = apart.large && own && !deep && stat.is_file() && stat.size >= lanes::LARGE_FILE;
                    if large && !linked.is_shared(&stat) {
                        self.ledger.set.park(id, std::slice::from_ref(&entry));
                        self.wait_for_large_lane(entry, round);
                        continue;
                    }
                    let form = if own && item.kind == Kind::Contents { Form::OneLevel } else { Form::Plain };
                    let since = self.found_since(&entry).unwrap_or(cx.wall_start + entry.since().as_secs() as i64);
                    let together = linked.together(&stat, form == Form::OneLevel || deep && dir);
                    let trusted = match together {
                        Some(trusted) => trusted,
                        None => match deep || form == Form::OneLevel {
                            true => !entry.content,
                            // Of others than files nothing is compared but what is sent anyway.
                            false => {
                                stat.is_file()
                                    && !(own
                                        && (entry.content && may_be_twin(&stat, since) || self.doubted.contains(&entry.path)))
                            }
                        },
                    };
                    if item.path.is_root() && form == Form::Plain {
                        parts[place(&entry, &item.path, false, false, true)].batch.entries.push(entry);
                        continue;
                    }
                    // What took the place of a directory takes away what was below.
                    let compared = deep || form == Form::OneLevel;
                    let deletes = compared && !self.spares(&entry) || entry.gone || !own;
                    let place_found = match (dir, stat.is_file()) {
                        (true, _) => Found::Dir { deletes },
                        (false, true) => Found::File,
                        (false, false) => Found::Special,
                    };
                    let Some(entry) = self.join_lost(id, entry, &item.path, place_found) else { continue };
                    let part = &mut parts[place(&entry, &item.path, deletes, together.is_some(), !trusted)];
                    part.present = true;
                    part.list.push((item.path.clone(), form));
                    part.batch.entries.push(entry);
                    continue;
                }
                // Gone by an event that is not followed.
                Look::Missing if !(self.follows_deletions() || own && entry.gone) => {
                    self.ledger.set.park(id, std::slice::from_ref(&entry));
                    done.push(entry);
                    continue;
                }
                Look::Missing => match deletions {
                    Deletions::ByName if deep => {
                        entry.kind = Kind::Entry;
                        entry.gone = true;
                        self.ledger.turn(id, entry);
                        continue;
                    }
                    Deletions::ByName => {
                        let part = &mut parts[place(&entry, &item.path, true, false, true)];
                        let guarded = [&item.path, &entry.path].into_iter().filter(|p| self.guarded.excludes_leaf(p, false));
                        part.risks.extend(guarded.cloned());
                        if part.risks.len() > survey::MAX_RISKS {
                            part.risks.truncate(survey::MAX_RISKS);
                            self.ledger.turn(id, entry);
                            continue;
                        }
                        part.list.push((item.path.clone(), Form::Plain));
                        part.batch.entries.push(entry);
                        continue;
                    }
                    Deletions::ByParent | Deletions::Never => {
                        self.by_parent(id, entry, &item.path, deletions, &mut done);
                        continue;
                    }
                },
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

    /// Whether a comparison for this entry leaves alone what only the target has: nothing told that the source once had it. Where deletions cannot be
    /// listed by name, a comparison is what carries them out.
    pub(super) fn spares(&self, entry: &Entry) -> bool {
        let rescan = entry.kind > Kind::Entry && !entry.content && !self.is_accepted(entry);
        rescan && self.fill.spares() && self.missing_args && argv::excludes_only(&self.filter_args)
    }

    /// Notes that a file is larger than what is to be carried. `true`: it was not known to be.
    fn leave_out(&mut self, path: &RelPath, size: u64) -> bool {
        if self.left_out.contains(path) {
            return false;
        }
        if self.left_out.len() < MOST_LEFT_OUT {
            self.left_out.insert(path.clone());
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

    /// A deletion that cannot be listed by name becomes a one-level pass over the directory above; where nothing may be
    /// deleted, only that directory's times are left to send.
    pub(super) fn by_parent(
        &mut self,
        id: BatchId,
        mut entry: Entry,
        missing: &RelPath,
        deletions: Deletions,
        done: &mut Vec<Entry>,
    ) {
        self.ledger.set.park(id, std::slice::from_ref(&entry));
        match path::parent(missing) {
            Some(parent) => {
                entry.path = RelPath::from_normal(parent);
                self.telling.own(&entry.path);
                entry.kind = if deletions == Deletions::Never { Kind::Entry } else { Kind::Contents };
                entry.gone = false;
                entry.held = false;
                self.ledger.set.restore(entry);
            }
            None => done.push(entry),
        }
    }

    pub(super) fn spec<'s>(&'s self, root: &'s std::path::Path, compare: Compare) -> Spec<'s> {
        Spec {
            missing_args: self.missing_args,
            compare,
            filter_args: &self.filter_args,
            guard_args: &self.guard_args,
            lock: self.lock.as_deref().map(AsFd::as_fd),
            ..Spec::new(&self.mirror, &self.cfg, &self.facts, root)
        }
    }

    pub(super) fn start_full(&mut self, cx: &mut Context<'_>, batch: Batch, lane: Lane) -> bool {
        let pass = Pass::Full { progress: true };
        let compare = if self.contents_unknown { Compare::Checksum } else { Compare::Quick };
        let free = batch.entries.iter().all(|e| self.is_accepted(e));
        if self.mirror.delete && !free && self.fill != Fill::Kept {
            let suspect = self.suspect(cx, &batch.entries, None);
            if suspect.is_some() || self.limit().is_some() {
                let ancestors = BTreeMap::new();
                let run = guarded::Prepared { list: Vec::new(), present: true, compare, guards: None, ancestors };
                return self.look_first(cx, pass, batch, suspect, run, lane);
            }
        }
        let extra = match self.fill {
            _ if free || !self.mirror.delete => Extra::Goes,
            Fill::Filled | Fill::Counted => Extra::Goes,
            Fill::Unknown if !self.mirror.filter.is_rsyncs() => {
                let ancestors = BTreeMap::new();
                let run = guarded::Prepared { list: Vec::new(), present: true, compare, guards: None, ancestors };
                return self.look_first(cx, pass, batch, None, run, lane);
            }
            Fill::Unknown => Extra::Counted,
            Fill::Kept => Extra::Stays,
        };
        tracing::info!(mirror = %self.mirror.name, target_name = %self.cfg.name, "comparing the whole tree");
        let limited = self.periodic.take(self.ledger.set.coarsened());
        let options = RunOptions { free, limited, ..Default::default() };
        let launch = Launch::batch(pass, Input::None, batch, Purpose::Carry { extra, below: None });
        self.start(cx, Launch { options, paths: 1, lane, compare, ..launch }).is_some()
    }

    #[allow(clippy::too_many_arguments)]
    fn start_listed(
        &mut self,
        cx: &mut Context<'_>,
        part: Part,
        normal: &Normal,
        deep: bool,
        thorough: bool,
        deleting: Deleting,
        suspect: Option<&guarded::Suspect>,
        lane: Lane,
    ) -> bool {
        let Part { batch, mut list, present, risks } = part;
        if list.is_empty() {
            // The root's own attributes travel with any list, so with one that names nothing there is.
            list.push((RelPath::from_normal(format!(".probe-{:016x}", fastrand::u64(..))), Form::Plain));
        }
        let one_level = list.iter().any(|(_, form)| *form == Form::OneLevel);
        let encoded = filelist::encode(list.iter().map(|(p, f)| (p, *f)));
        let mut batch = self.refuse(cx, batch, &encoded.refused);
        if batch.entries.is_empty() {
            return false;
        }
        let refused = !encoded.refused.is_empty();
        let pass = match (deep, one_level) {
            (true, _) => Pass::Deep,
            (false, true) => Pass::ShallowOneLevel,
            (false, false) => Pass::Shallow,
        };
        let few = batch.entries.len() <= SMALL_PATHS && pass == Pass::Shallow && batch.round == 0;
        let mut ancestors: BTreeMap<RelPath, FileTime> = normal.ancestors.iter().cloned().collect();
        ancestors.insert(RelPath::root(), normal.root.ctime); // its attributes travel with every list
        let compare = match batch.round {
            // Set apart, and perhaps for want of room: what is there already must not be sent for a time stamp.
            WHOLE_ROUNDS.. => Compare::Checksum,
            1.. if thorough => Compare::Checksum,
            0 if thorough => Compare::Resend,
            _ => Compare::Quick,
        };
        let guards = (!risks.is_empty()).then(|| self.guards_but(&risks));
        if deleting == Deleting::Guarded {
            let run = guarded::Prepared { list: encoded.bytes, present, compare, guards, ancestors };
            return self.look_first(cx, pass, batch, suspect.cloned(), run, lane);
        }
        let below = if refused || guards.is_some() { None } else { self.begins_below(cx, pass, &batch, &list) };
        let encoded = match &below {
            Some(below) => {
                ancestors.retain(|dir, _| path::is_at_or_below(dir, &below.dir)); // the others it does not touch
                let list: Vec<_> = list.iter().map(|(path, form)| (below.relative(path), *form)).collect();
                filelist::encode(list.iter().map(|(path, form)| (path, *form)))
            }
            None => encoded,
        };
        // A process that stands by has its bound on deletions already, and begins at the top.
        let standby = below.is_none() && few && (deleting == Deleting::Within || self.limit().is_none());
        let entries = encoded.entries;
        if standby && thorough && risks.is_empty() {
            let list = StandbyList { bytes: &encoded.bytes, paths: entries, lane, ancestors };
            match self.give_to_standby(cx, batch, Purpose::carry(), list) {
                Ok(_) => return true,
                Err((back, list)) => (batch, ancestors) = (back, list.ancestors),
            }
        }
        let extra = if batch.entries.iter().any(|e| self.spares(e)) { Extra::Stays } else { Extra::Goes };
        let free = deleting == Deleting::Free;
        let options = RunOptions { free, guards, below: below.as_ref(), ..Default::default() };
        let purpose = Purpose::Carry { extra, below: below.as_ref().map(|below| below.dir.clone()) };
        let launch = Launch::batch(pass, Input::List(&encoded.bytes), batch, purpose);
        self.start(cx, Launch { options, paths: entries, lane, compare, ancestors, ..launch }).is_some()
    }

    /// Takes paths out of a batch that rsync cannot be given; they are reported, not dropped. Changes that are this long never come here
    /// ([`long`]), so these are others: further names of a file.
    fn refuse(&mut self, cx: &Context<'_>, mut batch: Batch, refused: &[(RelPath, Refusal)]) -> Batch {
        if refused.is_empty() {
            return batch;
        }
        // Where something above a path is missing, that is what was to be listed.
        let refused = Cover::new(refused.iter().filter(|(_, why)| *why == Refusal::TooLong).map(|(path, _)| path));
        let (bad, good): (Vec<Entry>, Vec<Entry>) = batch.entries.into_iter().partition(|e| refused.covers(&e.path));
        batch.entries = good;
        self.ledger.set.park(batch.id, &bad);
        for entry in &bad {
            if let Some(dir) = long::place_of(&entry.path) {
                self.see_long(cx.now, dir, entry.path.len(), entry.epoch());
            }
        }
        self.ledger.forget(bad);
        batch
    }

    /// Keeps failures few: where they are too many, directories stand for them.
    fn bound_failures(&mut self) {
        for Stand { dir, kind, of } in self.ledger.retries.take_many() {
            tracing::warn!(mirror = %self.mirror.name, target_name = %self.cfg.name, %dir, paths = of.len(), "so many paths fail that their directory stands for them");
            let (told, entries): (Vec<_>, Vec<Entry>) = of.into_iter().map(|f| ((f.reason, f.tries, f.due), f.entry)).unzip();
            if let Some(entry) = self.ledger.set.widen(entries, dir, kind) {
                self.ledger.retries.stand(entry, &told);
            }
        }
    }

    // ----- standby -----

    pub(super) fn refill_standby(&mut self, cx: &mut Context<'_>) {
        if self.state != State::Up || self.stopping || self.paused.is_some() || cx.held.is_some() || self.crowded.is_some() {
            return;
        }
        for _ in self.runs.standbys()..self.pace.standbys(self.cfg.standby) {
            let standby = Launch::of(Pass::Shallow, Input::Standby, LaunchKind::Standby);
            if self.start(cx, Launch { lane: Lane::Small, compare: Compare::Resend, ..standby }).is_none() {
                return;
            }
        }
    }

    /// Gives a list to a process that stands by. Returns the run.
    ///
    /// # Errors
    /// The batch and the list, where none takes it.
    pub(super) fn give_to_standby<'l>(
        &mut self,
        cx: &mut Context<'_>,
        batch: Batch,
        purpose: Purpose,
        list: StandbyList<'l>,
    ) -> Result<u32, (Batch, StandbyList<'l>)> {
        let Some((serial, InFlightRun { mut process, .. })) = self.runs.take_standby(list.bytes) else {
            return Err((batch, list));
        };
        if cx.now.saturating_sub(process.started) > STANDBY_INFANT {
            self.proven(cx);
        }
        match process.rsync.feed(list.bytes) {
            Ok(()) => {
                (process.started, process.fifo_checked, process.progress_logged) = (cx.now, cx.now, cx.now);
                (process.pulse, process.lane) = (Pulse::new(cx.now), list.lane);
                let how = How::by_standby(list.paths, self.mirror.extras.hard_links, list.ancestors);
                let kind = RunKind::Batch(Box::new(Carried { batch, purpose, how }));
                self.runs.insert(serial, InFlightRun { process, kind });
                Ok(serial)
            }
            Err(error) => {
                tracing::debug!(mirror = %self.mirror.name, target_name = %self.cfg.name, %error, "a standby took no list");
                self.runs.unregister(cx.reactor, serial);
                Err((batch, list))
            }
        }
    }

    pub(super) fn drop_standbys(&mut self, cx: &mut Context<'_>) {
        self.runs.drop_standbys(cx.reactor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, seen: Seen) -> [Entry; 1] {
        let mut set = DirtySet::new(10);
        set.see(path.as_bytes(), seen);
        let batch = set.take_shallow(Limits { max_paths: 10, ignore_holds: true }, &mut |_, _| false);
        batch.unwrap().entries.try_into().unwrap()
    }

    #[test]
    fn a_level_is_asked_for_where_it_costs_no_more_than_itself() {
        for (lane, dry_first, min) in
            [(Lane::Bulk, false, 10), (Lane::Bulk, true, 50), (Lane::Small, false, 50), (Lane::Small, true, 50)]
        {
            assert_eq!(level_min(lane, dry_first), min, "{lane:?}, dry run first: {dry_first}");
        }
    }

    #[test]
    fn a_level_of_many_files_is_not_compared_above_others() {
        for (new, has_dirs, want) in [(2_000, true, true), (2_001, true, false), (120_000, false, true)] {
            assert_eq!(leaves_room(new, has_dirs), want, "{new} files, directories: {has_dirs}");
        }
    }

    #[test]
    fn a_level_and_a_file_in_it_do_not_leave_together() {
        use Seen::{Contents, Written};
        for (first, second, meet) in [
            (("", Contents), ("f", Written), true),
            (("d/f", Written), ("d", Contents), true),
            (("d", Contents), ("d/f", Written), true),
            (("d", Contents), ("d/e/f", Written), false),
            (("d", Contents), ("dd/f", Written), false),
            (("d", Contents), ("d/e", Contents), false),
            (("d/f", Written), ("d/g", Written), false),
        ] {
            let mut begun = Begun::default();
            begun.take(&entry(first.0, first.1));
            assert_eq!(begun.meets(&entry(second.0, second.1)), meet, "{first:?} {second:?}");
        }
    }
}
