//! Renames: how the pairs that the dirty set found leave, and what their end means.
//!
//! ```text
//! pairs ─► link run ─► NEW confirmed ─► OLD removed ─► nothing at OLD on the source: done
//!              │                                      └► else checked again, like any change
//!              └─ anything but a clean end: NEW is pending whole again, and compared by content
//! ```
//!
//! What goes from one directory to another under its name shares one link run, and old names of one
//! directory share one removal. So a rename that comes while others do waits for them, see
//! [`Burst`].
//!
//! Hard links to the new name may be below the old one. If the old name has come back on the source
//! meanwhile, changing what lies there on the target would change the new name too. So the removal
//! is a run that reads no source ([`Pass::Clear`]). A list of old names that are missing on the
//! source, through a standby process, does the same for directories: of one that comes back before
//! it is read, no more than its own attributes change, and those are not linked. Which names went
//! it says itself, and the others are removed by a run of the first kind.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use super::send::StandbyList;
use super::*;
use crate::dirty::Moves;
use crate::guard;
use crate::sync::below::open_below;
use crate::sync::output::Item;
use crate::sync::renames::{Renamed, fits};

/// Smaller files are sent with all others: a run of their own would cost more.
const SMALLEST_FILE: u64 = 256 * 1024;
/// So many small files that a run links save more than it costs.
const MANY_FILES: usize = 20;
/// Directories or files that are renamed in one run.
const MOST_AT_ONCE: usize = 10_000;
/// Old names wait that long for further renames, so that one run removes many.
const MOST_WAIT: Duration = Duration::from_secs(2);
/// A burst of renames is over when none came for so long …
const PAUSE: Duration = Duration::from_millis(5);
/// … and what waits leaves after so long at the latest.
const LONGEST: Duration = Duration::from_millis(50);
/// Paths that wait for another try and are checked for a part in a rename.
const MOST_ASKED: usize = 1_000;
/// So many runs in a row that a target refuses, and no more are tried until it was away.
const REFUSALS: u32 = 3;

/// What a run of this module's does.
pub(super) enum Moving {
    /// It makes new names from old ones.
    Links(Vec<(RelPath, RelPath)>),
    /// It removes old names, whatever the source has there.
    Clears,
    /// It removes those old names that the source has nothing at.
    Deletes,
}

impl Moving {
    pub(super) fn removes(&self) -> bool {
        !matches!(self, Moving::Links(_))
    }
}

/// When renames leave: the first one at once, those that follow on its heels together.
#[derive(Debug)]
struct Burst {
    /// Since when the oldest waits.
    began: Duration,
    last: Option<Duration>,
    go_now: bool,
    /// All that wait were seen to wait for something in flight: its end is worth another check.
    blocked: bool,
}

impl Burst {
    fn seen(&mut self, now: Duration) {
        if self.last.is_none_or(|last| now.saturating_sub(last) > PAUSE * 2) {
            self.go_now = true;
        }
        self.last = Some(now);
        self.blocked = false;
    }

    fn leaves_at(&self) -> Duration {
        match self.last {
            Some(last) if !self.go_now => (last + PAUSE).min(self.began + LONGEST),
            _ => Duration::ZERO,
        }
    }

    fn left(&mut self, now: Duration) {
        (self.began, self.go_now) = (now, false);
    }
}

/// Renames of one target.
pub(super) struct Renames {
    /// Runs in a row that the target refused.
    refused: u32,
    /// An empty directory without a name, to delete by.
    nothing: Option<OwnedFd>,
    burst: Burst,
    /// Since when old names wait for further renames.
    removals_wait: Option<Duration>,
    /// Directories that are sent before a name in them is removed.
    above: BTreeMap<RelPath, Above>,
}

/// How far a directory is that is sent before a name in it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Above {
    Flying(BatchId),
    Sent,
}

/// The pause before a directory is sent once more that could not be sent, so that a name in it can
/// be removed.
const ABOVE_PAUSE: Duration = Duration::from_secs(1);

impl Renames {
    pub(super) fn new() -> Renames {
        let burst = Burst { began: Duration::ZERO, last: None, go_now: true, blocked: false };
        Renames { refused: 0, nothing: None, burst, removals_wait: None, above: BTreeMap::new() }
    }

    /// The target holds `path` as batch `id` found it.
    pub(super) fn confirmed(&mut self, id: BatchId, path: &RelPath) {
        if let Some(above) = self.above.get_mut(path).filter(|above| **above == Above::Flying(id)) {
            *above = Above::Sent;
        }
    }

    /// The target was away and may be another one now.
    pub(super) fn came_up(&mut self) {
        self.refused = 0;
        self.above.clear();
    }
}

fn is_missing(root: &Root, path: &RelPath) -> bool {
    matches!(fstatat(root, path.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW), Err(Errno::ENOENT | Errno::ENOTDIR))
}

/// Whether the names above `name` travel as an argument, so that it can be removed from there by
/// itself.
pub(super) fn removable(name: &[u8]) -> bool {
    fits(path::parent(name).unwrap_or_default())
}

fn parent_of(path: &[u8]) -> RelPath {
    RelPath::from_normal(path::parent(path).unwrap_or_default())
}

impl Target {
    /// Whether halves of a rename may come together. `true` for what is none.
    pub(super) fn may_pair(&mut self, now: Duration, path: &[u8], seen: Seen) -> bool {
        if seen == seen.plain() {
            return true;
        }
        // The links among files are kept by listing all their names together, and a target that may
        // hold what no other does loses nothing to a link. After a restart it is not known yet what
        // of the old name is in sync. With a bound on deletions, each of them has to be counted: a
        // directory that is emptied right after its rename may have been linked half.
        let plain = self.is_feed() // followers are given hints
            || !self.mirror.send_renames
            || self.mirror.extras.hard_links
            || !self.mirror.hooks.is_empty() // they receive each path below
            || !self.mirror.filter.is_rsyncs()
            || self.keeps_aside()
            || self.doubts.is_resuming()
            || self.limit().is_some()
            || config::name_directories(&self.cfg.args) // looked for below the new name
            || self.ledger.shelf.meets(path);
        let by_name = !plain && self.deletes() && self.link.missing_args && self.args.excludes_only();
        // What is outside of the set counts as well: waiting for another try, or for the end of
        // another run. So many, for a short time, that a query of each of them for each rename
        // would take longer than sending what is renamed.
        let many = || self.ledger.parked().nth(MOST_ASKED).is_some();
        // What a walk finds becomes dirty under each of its names.
        let parked = || self.ledger.parked_at(path, Reach::Below, &[Where::Names]).is_some();
        // What is too long at the old name may be short enough at the new one.
        let busy = || many() || parked() || self.ledger.long.has_below(path);
        if !by_name || self.renames.refused >= REFUSALS || !fits(path) || busy() {
            return false;
        }
        self.renames.burst.seen(now);
        true
    }

    /// When the renames that wait may leave; `None` when there are none, or only the end of a run
    /// lets them go.
    pub(super) fn moves_leave_at(&self) -> Option<Duration> {
        let burst = &self.renames.burst;
        let waits = self.ledger.set.has_moves() && !burst.blocked && self.lanes_free().1;
        let opens = self.schedule.pace.opens_at(self.hurry()).unwrap_or_default();
        waits.then(|| if self.hurry() { Duration::ZERO } else { burst.leaves_at().max(opens) })
    }

    /// Sends renames, and removes the names they left. Returns whether something was started.
    pub(super) fn dispatch_renames(&mut self, cx: &mut Context<'_>) -> bool {
        self.renames.burst.blocked = false;
        let since = *self.renames.removals_wait.get_or_insert(cx.now);
        let moves_go = self.moves_leave_at().is_some_and(|at| at <= cx.now);
        let waits = self.ledger.set.has_linked() && moves_go && cx.now.saturating_sub(since) < MOST_WAIT;
        let mut launched = !waits && self.remove_linked(cx);
        let mut left = false;
        while self.moves_leave_at().is_some_and(|at| at <= cx.now) && self.is_up() && cx.held.is_none() {
            match self.ledger.set.take_moves(MOST_AT_ONCE) {
                Some(moves) => {
                    launched |= self.launch_moves(cx, moves);
                    left = true;
                }
                None => self.renames.burst.blocked = true,
            }
        }
        if left {
            self.renames.burst.left(cx.now);
        }
        launched |= waits && self.remove_linked(cx);
        launched
    }

    /// Removes old names, where a run may start.
    fn remove_linked(&mut self, cx: &mut Context<'_>) -> bool {
        let mut launched = false;
        while self.ledger.set.has_linked() && self.lanes_free().1 && self.is_up() && cx.held.is_none() {
            let Some((batch, listed)) = self.ledger.set.take_linked(cx.now) else { break };
            launched |= self.clear(cx, batch, listed);
        }
        if launched || !self.ledger.set.has_linked() {
            self.renames.removals_wait = None;
        }
        launched
    }

    /// Gives renames back as what they are without: a new name to be sent, an old one to be
    /// deleted.
    fn send_whole(&mut self, id: BatchId, entries: Vec<Entry>) {
        self.counters.stats.renames_sent_whole += entries.len() as u64 / 2;
        self.ledger.set.park(id, &entries);
        entries.into_iter().for_each(|e| self.ledger.set.restore(e));
    }

    fn launch_moves(&mut self, cx: &mut Context<'_>, moves: Moves) -> bool {
        let Moves { batch: Batch { id, entries, round }, dir } = moves;
        if !self.preflight(cx) || entries.iter().any(|e| self.ledger.shelf.meets(&e.path)) {
            self.send_whole(id, entries);
            return false;
        }
        let (first, old) = (entries[0].path.clone(), entries[1].path.clone());
        let same_name = path::base(&first) == path::base(&old);
        let pass = match (dir, same_name) {
            (true, _) if entries.len() == 2 => Pass::MovedTree,
            (true, _) => Pass::MovedTrees,
            (false, true) => Pass::MovedFiles,
            (false, false) => Pass::LikeOthers,
        };
        let read = if pass == Pass::MovedTree { first } else { parent_of(&first) };
        let Ok(source) = open_below(cx.root, &read) else {
            self.send_whole(id, entries);
            return false;
        };
        let mut filter_args = Vec::new();
        let mut found = Vec::new();
        let mut waiting = entries.into_iter();
        while let (Some(new), Some(old)) = (waiting.next(), waiting.next()) {
            let found_there = if is_missing(cx.root, &old.path) { find_moved(&source, pass, &new.path) } else { Found::Other };
            let alike = match found_there {
                Found::Dir if !cx.filter.is_empty() => cx.filter.alike_below(&new.path, &old.path),
                _ => Some(Vec::new()),
            };
            found.push((if alike.is_some() { found_there } else { Found::Other }, new, old));
            filter_args = alike.unwrap_or(filter_args); // the same for all
        }
        let Shares { go, pairs, whole, small } = share_out(found, dir, pass == Pass::MovedFiles);
        // Small files are no matter of note.
        self.ledger.set.park(id, &small);
        small.into_iter().for_each(|e| self.ledger.set.restore(e));
        if !whole.is_empty() {
            self.send_whole(id, whole);
        }
        let Some((_, old)) = pairs.first() else { return false };
        let basis = if pass == Pass::MovedTree { old.clone() } else { parent_of(old) };
        // Nothing is saved where no bytes travel: both copies would be read to write the third.
        let local = matches!(self.cfg.location, crate::location::Location::Local(_));
        if pass == Pass::LikeOthers && (local || basis != read) {
            self.send_whole(id, go);
            return false;
        }
        let basis = (pass != Pass::LikeOthers).then_some(basis);
        let renamed = Renamed { source, dest: read, basis, filter_args };
        self.start_renamed(cx, pass, Batch { id, entries: go, round }, &renamed, Moving::Links(pairs))
    }

    /// Removes old names of one directory from the target. `listed`: a list may do it.
    fn clear(&mut self, cx: &mut Context<'_>, batch: Batch, listed: bool) -> bool {
        if !self.preflight(cx) {
            self.cleared(cx, batch, false, &|_| Old::Stays, false);
            return false;
        }
        let first = batch.entries[0].path.clone();
        if self.is_emptied_at(cx, &first) || batch.entries.iter().any(|e| self.ledger.shelf.meets(&e.path)) {
            // Their deletion is judged like any other.
            self.cleared(cx, batch, false, &|_| Old::Judged, false);
            return false;
        }
        let batch = match listed {
            true => match self.delete_by_standby(cx, batch) {
                Ok(()) => return true,
                Err(batch) => batch,
            },
            false => batch,
        };
        let batch = match self.below_dirs(cx, batch) {
            Ok(batch) => batch,
            Err(launched) => return launched,
        };
        match self.nothing() {
            Ok(source) => {
                let alike = |old: &RelPath| match cx.filter.is_empty() {
                    true => Some(Vec::new()),
                    false => cx.filter.alike_below(old, old),
                };
                let filter_args: Option<Vec<_>> = batch.entries.iter().map(|e| alike(&e.path)).collect();
                let filter_args = filter_args.map_or_else(|| self.args.filter.clone(), |mut all| all.swap_remove(0));
                let renamed = Renamed { source, dest: parent_of(&first), basis: None, filter_args };
                self.start_renamed(cx, Pass::Clear, batch, &renamed, Moving::Clears)
            }
            Err(error) => {
                tracing::warn!(target_name = %self.cfg.name, %error, "cannot make an empty directory to delete by");
                self.cleared(cx, batch, false, &|_| Old::Stays, true);
                false
            }
        }
    }

    /// Whether names can be removed by a run that is given their directory by its path. It follows
    /// a symbolic link that the target has there from before, and would delete where that leads. So
    /// the directory has to be one on the source, and sent, with those above it, since it last
    /// changed.
    ///
    /// # Errors
    /// Not now; whether a run was started that sends the directory.
    fn below_dirs(&mut self, cx: &mut Context<'_>, batch: Batch) -> Result<Batch, bool> {
        let dir = parent_of(&batch.entries[0].path);
        if dir.is_root() {
            return Ok(batch);
        }
        match Below::of(open_below(cx.root, &dir).err()) {
            Below::There => {}
            Below::Gone => {
                self.cleared(cx, batch, false, &|_| Old::Judged, false);
                return Err(false);
            }
            Below::Unknown => {
                self.cleared(cx, batch, false, &|_| Old::Stays, false);
                self.ledger.set.postpone_linked(&dir, cx.now + ABOVE_PAUSE);
                return Err(false);
            }
        }
        let before = self.renames.above.remove(&dir);
        if before == Some(Above::Sent) || self.ledger.why(&dir, Reach::At, &[]).is_none() {
            return Ok(batch);
        }
        self.cleared(cx, batch, false, &|_| Old::Stays, false);
        let flies = match self.ledger.set.take_above(&dir) {
            Some(batch) => {
                let id = batch.id;
                self.renames.above.insert(dir.clone(), Above::Flying(id));
                self.launch(cx, batch, Lane::Bulk);
                self.runs.flies(id)
            }
            None => false,
        };
        if !flies || before.is_some() {
            self.ledger.set.postpone_linked(&dir, cx.now + ABOVE_PAUSE);
        }
        Err(flies)
    }

    /// Gives the names of a batch to a standby process, if the source has nothing there.
    ///
    /// # Errors
    /// The batch, where that is not possible.
    fn delete_by_standby(&mut self, cx: &mut Context<'_>, batch: Batch) -> Result<(), Batch> {
        let plain = self.args.guards.is_empty() && !self.keeps_aside() && self.limit().is_none() && !self.link.is_limited();
        let paths: Vec<(RelPath, Kind)> = batch.entries.iter().map(|e| (e.path.clone(), Kind::Entry)).collect();
        let normal = match normal::normalise(std::os::fd::AsFd::as_fd(cx.root), &paths, cx.statter) {
            Ok(normal) if plain => normal,
            _ => return Err(batch),
        };
        let gone = |item: &normal::Item| item.state == normal::State::Missing;
        // Where one lies below something that is missing or no directory, that is what was found.
        if normal.items.len() != paths.len() || !normal.items.iter().zip(&paths).all(|(i, (path, _))| gone(i) && i.path == *path)
        {
            return Err(batch);
        }
        let list = filelist::encode(batch.entries.iter().map(|e| (&e.path, Form::Plain)));
        if !list.refused.is_empty() {
            return Err(batch);
        }
        let mut ancestors: BTreeMap<RelPath, FileTime> = normal.ancestors.into_iter().collect();
        ancestors.insert(RelPath::root(), normal.root.ctime); // its attributes travel with every list
        let list = StandbyList { bytes: &list.bytes, paths: list.entries, lane: Lane::Bulk, ancestors };
        match self.give_to_standby(cx, batch, Purpose::Rename(Moving::Deletes), list) {
            Ok(serial) => self.runs.keep_items_of(serial, paths.into_iter().map(|(path, _)| path)),
            Err((batch, _)) => return Err(batch),
        }
        Ok(())
    }

    /// Whether nothing is left of the top that `old` was at: then the new name went as well, and
    /// the old one may be all that the target has.
    fn is_emptied_at(&self, cx: &Context<'_>, old: &RelPath) -> bool {
        let top = parent_of(old);
        !self.mirror.allow_empty && (cx.places)().contains(&top) && guard::left(cx.root, cx.filter, &top, 1) == Some(0)
    }

    /// A descriptor of an empty directory.
    fn nothing(&mut self) -> std::io::Result<OwnedFd> {
        if self.renames.nothing.is_none() {
            let path = std::env::temp_dir().join(format!(".fansync-{:016x}", fastrand::u64(..)));
            std::fs::create_dir(&path)?;
            let opened = nix::fcntl::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
            // Without its name no process can put anything into it.
            std::fs::remove_dir(&path)?;
            self.renames.nothing = Some(opened?);
        }
        self.renames.nothing.as_ref().expect("just made").try_clone()
    }

    fn start_renamed(&mut self, cx: &mut Context<'_>, pass: Pass, batch: Batch, renamed: &Renamed, moving: Moving) -> bool {
        let name = |path: &RelPath| RelPath::from_normal(path::base(path));
        let names: Vec<RelPath> = match &moving {
            Moving::Links(pairs) => pairs.iter().map(|(new, _)| name(new)).collect(),
            Moving::Clears | Moving::Deletes => batch.entries.iter().map(|e| name(&e.path)).collect(),
        };
        let list = match pass {
            // Without `./`: the directory's own attributes would be those of the empty one. With
            // `/`: a name that begins with `#` or `;` would be passed over.
            Pass::Clear => names.iter().flat_map(|name| [b"/", &**name, b"\0"].concat()).collect(),
            _ => filelist::encode(names.iter().map(|name| (name, Form::Plain))).bytes,
        };
        let input = if pass == Pass::MovedTree { Input::None } else { Input::List(&list) };
        // A list of new names carries the attributes of the directory that they are in.
        let mut above = None;
        if pass != Pass::Clear && pass != Pass::MovedTree {
            let dir = [(renamed.dest.clone(), Kind::Entry)];
            let looked = normal::normalise(std::os::fd::AsFd::as_fd(cx.root), &dir, cx.statter);
            above = looked.ok().map(|normal| match normal.items.first().map(|item| item.state) {
                Some(normal::State::Present(stat)) => (renamed.dest.clone(), stat.ctime),
                _ => (renamed.dest.clone(), normal.root.ctime),
            });
        }
        let linked: Vec<RelPath> = batch.entries.iter().filter(|_| pass == Pass::Clear).map(|e| e.path.clone()).collect();
        let options = RunOptions { renamed: Some(renamed), ..Default::default() };
        let launch = Launch::batch(pass, input, batch, Purpose::Rename(moving));
        let ancestors = above.into_iter().collect();
        let Some(serial) = self.start(cx, Launch { options, paths: names.len(), ancestors, ..launch }) else {
            for path in &linked {
                self.ledger.set.unlinked(path, false, false, cx.now);
            }
            return false;
        };
        self.runs.keep_items_of(serial, names);
        true
    }

    /// The end of a run of this module's.
    pub(super) fn moving_ended(&mut self, cx: &mut Context<'_>, run: &Process, moving: Moving, batch: Batch, outcome: &Outcome) {
        let done = outcome.is_done();
        // A matter of the target or of the line, and not of this run.
        let line = matches!(
            outcome.verdict,
            Verdict::TargetDown | Verdict::TimedOut | Verdict::Busy | Verdict::TargetFull | Verdict::Killed | Verdict::SourceRoot
        );
        let conclusive = done || matches!(outcome.verdict, Verdict::Partial | Verdict::SourceRace);
        // Where the directory above an old name is not there, the name is not either.
        let no_dir = matches!(moving, Moving::Clears) && outcome.verdict == Verdict::TargetMissing;
        if done {
            // What removes an old name links nothing, so a server that refuses to link does that as
            // well.
            if !moving.removes() {
                self.renames.refused = 0;
            }
            self.proven(cx);
        } else if !line && !no_dir && !conclusive {
            self.renames.refused += 1;
            if self.renames.refused == REFUSALS {
                tracing::warn!(target_name = %self.cfg.name, "renames are sent as new content from now on: {}", outcome.reason);
            }
        }
        // A name is printed when it has been deleted.
        let items = run.rsync.output().items.iter().filter(|item| conclusive && item.deletes());
        // Its source is a directory of ours, so that cannot be what is missing.
        let count = !line || outcome.verdict == Verdict::SourceRoot;
        match moving {
            Moving::Links(pairs) => self.moved(cx.now, run, pairs, batch, outcome),
            Moving::Clears => {
                let deleted: BTreeSet<&[u8]> = items.map(|item| &*item.path).collect();
                self.cleared(cx, batch, false, &|old| Old::removed(done || no_dir || deleted.contains(path::base(old))), count);
            }
            Moving::Deletes => {
                let deleted: BTreeSet<&[u8]> = items.map(|item| &*item.path).collect();
                self.cleared(cx, batch, true, &|old| Old::removed(deleted.contains(&**old)), count);
            }
        }
        if let Verdict::TargetDown | Verdict::TimedOut = outcome.verdict {
            self.doubt(cx, &outcome.reason);
        } else if outcome.verdict == Verdict::Busy {
            self.crowd(cx, outcome);
        }
        self.note_ready(cx.now);
    }

    /// Old names were removed from the target, or were to be. `listed`: by a list. `now`: what each
    /// is by now.
    fn cleared(&mut self, cx: &Context<'_>, batch: Batch, listed: bool, now: &dyn Fn(&RelPath) -> Old, count: bool) {
        let Batch { id, entries, .. } = batch;
        self.ledger.set.park(id, &entries);
        let dir = parent_of(&entries[0].path);
        for Entry { path, .. } in &entries {
            let (old, since) = (now(path), entries[0].epoch());
            let gone = old != Old::Stays;
            if old == Old::Removed && is_missing(cx.root, path) {
                let settled = self.ledger.set.settle(path);
                if !listed {
                    // Who waits for the deletion waits for the times of the directory above, too.
                    // With a list these were sent.
                    self.ledger.set.see_since(&dir, Seen::Touched, settled.map_or(since, |settled| settled.min(since)));
                }
            } else {
                // It is checked once more in the usual way: whatever has come there since.
                // One that was new when it was given back did not come and go: `Replaced` says so.
                self.ledger.set.see_since(path, Seen::Replaced, since);
                self.ledger.set.see_since(path, Seen::Gone, since);
            }
            let given_up = !self.ledger.set.unlinked(path, gone, count, cx.now);
            // Where links are kept, renames are not sent as such.
            match old {
                _ if cx.links.is_none() => {}
                Old::Judged => self.hard_links.specials.not_removed(path),
                Old::Removed => self.hard_links.specials.removed(path),
                Old::Stays if given_up => self.hard_links.specials.removed(path),
                Old::Stays => {}
            }
            match (given_up, cx.links.is_some()) {
                (true, false) => {
                    tracing::warn!(target_name = %self.cfg.name, %path, "an old name cannot be removed from the target by itself")
                }
                (true, true) => {
                    tracing::warn!(target_name = %self.cfg.name, %path, "a name that was replaced cannot be removed from the target, and may stay linked there")
                }
                (false, _) => {}
            }
        }
        self.ledger.forget(entries);
        self.release_behind();
    }

    fn moved(&mut self, now: Duration, run: &Process, pairs: Vec<(RelPath, RelPath)>, batch: Batch, outcome: &Outcome) {
        let Batch { id, entries, .. } = batch;
        let output = run.rsync.output();
        let came = |item: &&Item| match run.pass {
            // A directory that was there already may hold what only looks the same.
            Pass::MovedTrees => item.change.starts_with(b"cd"),
            _ => sent(item) || item.change[0] == b'h',
        };
        let came: BTreeSet<&[u8]> = output.items.iter().filter(came).map(|item| &*item.path).collect();
        let arrived = |new: &RelPath| match run.pass {
            Pass::MovedTree => output.signs.target.missing,
            Pass::MovedTrees | Pass::MovedFiles => came.contains(path::base(new)),
            _ => true,
        };
        let dir = run.pass == Pass::MovedTree || run.pass == Pass::MovedTrees;
        let mut arrivals = Vec::new();
        let mut waiting = entries.into_iter();
        for (new_name, old_name) in pairs {
            let (Some(new), Some(old)) = (waiting.next(), waiting.next()) else { break };
            if dir {
                self.confirmations.moved(&new_name);
            }
            let (since, done) = (new.epoch(), outcome.is_done() && arrived(&new_name));
            self.ledger.set.park(id, std::slice::from_ref(&old));
            if run.pass != Pass::LikeOthers {
                // Also of a run that failed: it may have got that far.
                self.ledger.set.link(old_name.clone(), dir);
            }
            self.ledger.set.restore(old);
            if done {
                // The name that was made changed the times of the directory above it. With a list
                // these were sent; where the old name was there as well, they are with its removal.
                if run.pass == Pass::MovedTree && path::parent(&new_name) != path::parent(&old_name) {
                    self.ledger.set.see_since(&parent_of(&new_name), Seen::Touched, since);
                }
                if output.signs.target.no_basis {
                    self.counters.stats.renames_sent_whole += 1
                } else {
                    self.counters.stats.renames += 1
                };
                arrivals.push(new);
            } else {
                self.counters.stats.renames_sent_whole += 1;
                self.ledger.set.park(id, std::slice::from_ref(&new));
                self.ledger.set.restore(new);
            }
        }
        if !arrivals.is_empty() {
            self.confirm(now, id, arrivals);
        }
    }
}

/// What became of an old name on the target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    /// It is not there any more.
    Removed,
    /// It is not to be removed by itself.
    Judged,
    Stays,
}

impl Old {
    fn removed(removed: bool) -> Old {
        if removed { Old::Removed } else { Old::Stays }
    }
}

/// What has a new name.
enum Found {
    Dir,
    File {
        size: u64,
    },
    /// It is not renamed as such.
    Other,
}

/// What becomes of renames: a new name and an old one in turn.
#[derive(Default)]
struct Shares {
    go: Vec<Entry>,
    /// The names of `go`.
    pairs: Vec<(RelPath, RelPath)>,
    /// Sent as what they are without, and counted.
    whole: Vec<Entry>,
    /// The same, of no note.
    small: Vec<Entry>,
}

/// Which renames go by a run of links. `together`: many small files may share one.
fn share_out(found: Vec<(Found, Entry, Entry)>, dir: bool, together: bool) -> Shares {
    let small_fit = together && found.iter().filter(|f| matches!(f.0, Found::File { .. })).count() >= MANY_FILES;
    let mut shares = Shares::default();
    for (found, new, old) in found {
        let fits = match found {
            Found::Dir => true,
            Found::File { size } => size >= SMALLEST_FILE || small_fit,
            Found::Other => false,
        };
        if fits {
            shares.pairs.push((new.path.clone(), old.path.clone()));
        }
        let to = match fits {
            true => &mut shares.go,
            false if dir => &mut shares.whole,
            false => &mut shares.small,
        };
        to.extend([new, old]);
    }
    shares
}

/// Looks at a new name of which the directory to read is open: the name's own for
/// [`Pass::MovedTree`].
fn find_moved(source: &OwnedFd, pass: Pass, new: &RelPath) -> Found {
    if pass == Pass::MovedTree {
        return Found::Dir;
    }
    let name = std::path::Path::new(OsStr::from_bytes(path::base(new)));
    let Ok(stat) = fstatat(source, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { return Found::Other };
    let kind = stat.st_mode & SFlag::S_IFMT.bits();
    match pass {
        Pass::MovedTrees if kind == SFlag::S_IFDIR.bits() => Found::Dir,
        // One of several names of a file belongs to the others as well.
        Pass::MovedFiles | Pass::LikeOthers if kind == SFlag::S_IFREG.bits() && stat.st_nlink == 1 => {
            Found::File { size: stat.st_size as u64 }
        }
        _ => Found::Other,
    }
}

fn sent(item: &Item) -> bool {
    matches!(item.change[..2], [b'<' | b'>', b'f'])
}

/// What an attempt to open a directory below the source says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    There,
    /// There is no such directory, or it is a symbolic link.
    Gone,
    /// Nothing: no descriptor is free, or the disk fails.
    Unknown,
}

impl Below {
    fn of(error: Option<Errno>) -> Below {
        match error {
            None => Below::There,
            Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Below::Gone,
            Some(_) => Below::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_says_of_a_directory_above_an_old_name() {
        assert_eq!(Below::of(None), Below::There);
        for gone in [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP] {
            assert_eq!(Below::of(Some(gone)), Below::Gone, "{gone}");
        }
        for unknown in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EIO, Errno::EACCES, Errno::ESTALE, Errno::EINTR] {
            assert_eq!(Below::of(Some(unknown)), Below::Unknown, "{unknown}");
        }
    }

    /// A time that has passed would have the engine go round without a pause.
    #[test]
    fn a_name_that_is_to_be_removed_is_not_due_while_nothing_can_be_sent() {
        let cfg = config::Target::new("t", crate::location::Location::parse("host:/dir").unwrap());
        let mut target = Target::new(0, &Mirror::new("m", "/src"), &cfg, &RsyncFacts::default());
        let name = RelPath::new(b"f").unwrap();
        target.ledger.set.link(name.clone(), false);
        let (clear, _) = target.ledger.set.take_linked(Duration::ZERO).unwrap();
        target.ledger.set.park(clear.id, &clear.entries);
        target.ledger.set.forget(clear.entries);
        target.ledger.set.unlinked(&name, false, true, Duration::ZERO);
        let due = target.ledger.set.next_linked();
        target.orphans = None;
        target.link.came_up(true);
        assert!(due.is_some());
        assert_eq!(target.next_due(), due);
        let now = Duration::from_secs(100);
        target.link.failed(now, false, (Trouble::Away, "away".into()), 0.0);
        assert!(target.next_due().is_some_and(|next| next > now), "when it is tried again");
    }

    #[test]
    fn renames_go_by_links_where_that_is_cheaper() {
        let large = || Found::File { size: SMALLEST_FILE };
        let small = || Found::File { size: SMALLEST_FILE - 1 };
        let many = |n| std::iter::repeat_with(small).take(n).collect::<Vec<_>>();
        for (what, found, dir, together, want) in [
            ("directories", vec![Found::Dir, Found::Other], true, false, (1, 1, 0)),
            ("files", vec![large(), small(), Found::Other], false, true, (1, 0, 2)),
            ("fewer small files than are worth a run", many(MANY_FILES - 1), false, true, (0, 0, MANY_FILES - 1)),
            ("many small files", many(MANY_FILES), false, true, (MANY_FILES, 0, 0)),
            ("many small files under other names", many(MANY_FILES), false, false, (0, 0, MANY_FILES)),
        ] {
            let set = &mut DirtySet::new(10);
            let mut entry = |name: &[u8]| set.parked(RelPath::new(name).unwrap(), set.epochs().current());
            let found = found.into_iter().map(|found| (found, entry(b"new"), entry(b"old"))).collect();
            let Shares { go, pairs, whole, small } = share_out(found, dir, together);
            assert_eq!((go.len() / 2, whole.len() / 2, small.len() / 2), want, "{what}");
            assert_eq!(pairs.len(), want.0, "{what}");
        }
    }

    #[test]
    fn the_first_rename_leaves_at_once_and_those_behind_it_together() {
        let ms = Duration::from_millis;
        let mut burst = Burst { began: Duration::ZERO, last: None, go_now: true, blocked: false };
        burst.seen(ms(1_000));
        assert_eq!(burst.leaves_at(), Duration::ZERO);
        burst.left(ms(1_000));
        // Events every 2 ms: in their pause, or when the oldest has waited for long enough.
        for at in (1_002..=1_100).step_by(2) {
            burst.seen(ms(at));
            assert_eq!(burst.leaves_at(), ms(at + 5).min(ms(1_050)), "{at}");
        }
        // After a quiet time the next is the first again.
        for (next, at_once) in [(1_110, false), (1_111, true)] {
            let mut burst = Burst { began: ms(1_090), last: Some(ms(1_100)), go_now: false, blocked: true };
            burst.seen(ms(next));
            assert_eq!((burst.leaves_at() == Duration::ZERO, burst.blocked), (at_once, false), "{next}");
        }
    }
}
