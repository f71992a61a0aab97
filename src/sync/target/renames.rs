//! Renames: how the pairs that the dirty set found leave, and what their end means.
//!
//! ```text
//! pair ─► link run ─► NEW confirmed ─► OLD removed ─► OLD's directory compared as after any deletion
//!              └─ anything but a clean end: NEW is pending whole again, without trust in size and time
//! ```
//!
//! The removal of the old name is a run that looks at no source: hard links to the new name may be there, and if the old name
//! has come back on the source meanwhile, changing what lies there on the target would change the new name too.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::dirty::Moves;
use crate::sync::below::open_below;
use crate::sync::guard;
use crate::sync::output::Item;
use crate::sync::renames::{Renamed, fits};

/// Smaller files are sent with all others: a run of their own would cost more.
const SMALLEST_FILE: u64 = 256 * 1024;
/// Files that are renamed in one run.
const MOST_FILES: usize = 1_000;
/// Paths that wait for another try and are asked whether they have to do with a rename.
const MOST_ASKED: usize = 1_000;
/// So many runs in a row that a target refuses, and no more are tried until it was away.
const REFUSALS: u32 = 3;

/// A rename in flight.
pub(super) struct Moving {
    /// New and old names.
    pairs: Vec<(RelPath, RelPath)>,
}

/// Renames of one target.
pub(super) struct Renames {
    /// Runs in a row that the target refused.
    refused: u32,
    /// An empty directory without a name, to delete by.
    nothing: Option<OwnedFd>,
}

impl Renames {
    pub(super) fn new() -> Renames {
        Renames { refused: 0, nothing: None }
    }

    /// The target was away and may be another one now.
    pub(super) fn came_up(&mut self) {
        self.refused = 0;
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
    /// What a change is to this target: halves of a rename only where they may come together.
    pub(super) fn may_be_half(&self, path: &[u8], seen: Seen) -> Seen {
        if seen == seen.plain() {
            return seen;
        }
        // The links among files are kept by listing all their names together, and a target that may hold what no other does
        // loses nothing to a link. After a restart nobody knows yet what of the old name is in sync.
        // With a bound on deletions, each of them has to be counted: a directory that is emptied right after its rename
        // may have been linked half.
        let plain = !self.mirror.send_renames
            || self.mirror.extras.hard_links
            || !self.mirror.hooks.is_empty() // they are told of each path below
            || !self.mirror.filter.is_rsyncs()
            || self.keeps_aside()
            || self.resumed.is_some()
            || self.limit().is_some()
            || config::name_directories(&self.cfg.args) // looked for below the new name
            || self.ledger.shelf.meets(path);
        let by_name = !plain && self.mirror.delete && self.missing_args && argv::excludes_only(&self.filter_args);
        // What is outside of the set counts as well: waiting for another try, or for the end of another run.
        // So many, for a short time, that asking each of them for each rename would take longer than sending what is renamed.
        let many = || self.ledger.parked().nth(MOST_ASKED).is_some();
        // What a walk finds becomes dirty under each of its names.
        let parked = || self.ledger.parked_at(path, Reach::Below, &[Where::Names]).is_some();
        // What is too long at the old name may be short enough at the new one.
        let busy = || many() || parked() || self.ledger.long.has_below(path);
        if by_name && self.renames.refused < REFUSALS && fits(path) && !busy() { seen } else { seen.plain() }
    }

    /// Sends renames, and removes the names they left. Returns whether something was started.
    pub(super) fn dispatch_renames(&mut self, cx: &mut Context<'_>) -> bool {
        let mut launched = false;
        while self.ledger.set.has_linked() && self.lanes_free().1 && self.is_up() && cx.held.is_none() {
            let Some(batch) = self.ledger.set.take_linked(cx.now) else { break };
            launched |= self.clear(cx, batch);
        }
        while self.ledger.set.has_moves() && self.lanes_free().1 && self.is_up() && cx.held.is_none() {
            let Some(moves) = self.ledger.set.take_moves(MOST_FILES) else { break };
            launched |= self.launch_moves(cx, moves);
        }
        launched
    }

    /// Gives renames back as what they are without: a new name to be sent, an old one to be deleted.
    fn send_whole(&mut self, id: BatchId, entries: Vec<Entry>) {
        self.stats.renames_sent_whole += entries.len() as u64 / 2;
        self.ledger.set.park(id, &entries);
        entries.into_iter().for_each(|e| self.ledger.set.restore(e));
    }

    fn launch_moves(&mut self, cx: &mut Context<'_>, moves: Moves) -> bool {
        let Moves { batch: Batch { id, entries, round }, dir } = moves;
        if let Err(hold) = (cx.check)() {
            self.send_whole(id, entries);
            *cx.held = Some(hold);
            return false;
        }
        if let Err(why) = self.own_role() {
            self.send_whole(id, entries);
            self.fence_off(cx, why);
            return false;
        }
        if entries.iter().any(|e| self.ledger.shelf.meets(&e.path)) {
            self.send_whole(id, entries);
            return false;
        }
        let (first, old) = (entries[0].path.clone(), entries[1].path.clone());
        let read = if dir { first.clone() } else { parent_of(&first) };
        let fitting = match open_below(cx.root, &read) {
            Ok(source) if dir => {
                let alike = if cx.filter.is_empty() { Some(Vec::new()) } else { cx.filter.alike_below(&first, &old) };
                alike.filter(|_| is_missing(cx.root, &old)).map(|filter_args| (source, filter_args))
            }
            Ok(source) => Some((source, Vec::new())),
            Err(_) => None,
        };
        let Some((source, filter_args)) = fitting else {
            self.send_whole(id, entries);
            return false;
        };
        let (mut go, mut whole, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
        let mut waiting = entries.into_iter();
        while let (Some(new), Some(old)) = (waiting.next(), waiting.next()) {
            let fits = dir || {
                let name = std::path::Path::new(OsStr::from_bytes(path::base(&new.path)));
                let stat = fstatat(&source, name, AtFlags::AT_SYMLINK_NOFOLLOW);
                // One of several names of a file belongs to the others as well.
                let large = |s: nix::sys::stat::FileStat| {
                    s.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits()
                        && s.st_nlink == 1
                        && s.st_size as u64 >= SMALLEST_FILE
                };
                stat.is_ok_and(large) && is_missing(cx.root, &old.path)
            };
            if fits {
                pairs.push((new.path.clone(), old.path.clone()));
            }
            (if fits { &mut go } else { &mut whole }).extend([new, old]);
        }
        // Small files are no matter of note.
        self.ledger.set.park(id, &whole);
        whole.into_iter().for_each(|e| self.ledger.set.restore(e));
        let Some((_, old)) = pairs.first() else { return false };
        let basis = if dir { old.clone() } else { parent_of(old) };
        let pass = match (dir, path::base(&first) == path::base(old)) {
            (true, _) => Pass::MovedTree,
            (false, true) => Pass::MovedFiles,
            (false, false) => Pass::LikeOthers,
        };
        // Nothing is saved where no bytes travel: both copies would be read to write the third.
        let local = matches!(self.cfg.location, crate::sync::location::Location::Local(_));
        if pass == Pass::LikeOthers && (local || basis != read) {
            self.send_whole(id, go);
            return false;
        }
        let names: Vec<RelPath> = pairs.iter().map(|(new, _)| RelPath::from_normal(path::base(new))).collect();
        let list = filelist::encode(names.iter().map(|name| (name, Form::Plain)));
        let basis = (pass != Pass::LikeOthers).then_some(basis);
        let renamed = Renamed { source, dest: read, basis, filter_args };
        let input = if dir { Input::None } else { Input::List(&list.bytes) };
        let count = pairs.len();
        let moving = Moving { pairs };
        self.start_renamed(cx, pass, input, Batch { id, entries: go, round }, count, &renamed, moving)
    }

    /// Removes an old name from the target.
    fn clear(&mut self, cx: &mut Context<'_>, batch: Batch) -> bool {
        if let Err(hold) = (cx.check)() {
            self.cleared(cx, batch, false, false);
            *cx.held = Some(hold);
            return false;
        }
        if let Err(why) = self.own_role() {
            self.cleared(cx, batch, false, false);
            self.fence_off(cx, why);
            return false;
        }
        let old = batch.entries[0].path.clone();
        if self.is_emptied_at(cx, &old) || self.ledger.shelf.meets(&old) {
            // Its deletion is judged like any other.
            self.cleared(cx, batch, true, false);
            return false;
        }
        match self.nothing() {
            Ok(source) => {
                let filter_args = if cx.filter.is_empty() { Some(Vec::new()) } else { cx.filter.alike_below(&old, &old) };
                let filter_args = filter_args.unwrap_or_else(|| self.filter_args.clone());
                let renamed = Renamed { source, dest: parent_of(&old), basis: None, filter_args };
                // Without `./`: the directory's own attributes would be those of the empty one.
                let list = [path::base(&old), b"\0"].concat();
                let moving = Moving { pairs: Vec::new() };
                self.start_renamed(cx, Pass::Clear, Input::List(&list), batch, 1, &renamed, moving)
            }
            Err(error) => {
                tracing::warn!(target_name = %self.cfg.name, %error, "cannot make an empty directory to delete by");
                self.cleared(cx, batch, false, true);
                false
            }
        }
    }

    /// Whether nothing is left of the top that `old` was at: then the new name went as well, and the old one may be all
    /// that the target has.
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
            // Without its name nobody can put anything into it.
            std::fs::remove_dir(&path)?;
            self.renames.nothing = Some(opened?);
        }
        self.renames.nothing.as_ref().expect("just made").try_clone()
    }

    #[allow(clippy::too_many_arguments)]
    fn start_renamed(
        &mut self,
        cx: &mut Context<'_>,
        pass: Pass,
        input: Input<'_>,
        batch: Batch,
        paths: usize,
        renamed: &Renamed,
        moving: Moving,
    ) -> bool {
        let serial = self.next_run;
        let linked: Vec<RelPath> = batch.entries.iter().filter(|_| pass == Pass::Clear).map(|e| e.path.clone()).collect();
        let id = batch.id;
        let manner = guarded::Manner { renamed: Some(renamed), ..Default::default() };
        if !self.start(cx, Launch { manner, paths, ..Launch::of(pass, input, Load::Batch(batch)) }) {
            for path in &linked {
                self.ledger.set.unlinked(path, false, false, cx.now);
            }
            return false;
        }
        let run = self.runs.get_mut(&serial).expect("just started");
        debug_assert!(matches!(&run.load, Load::Batch(b) if b.id == id));
        if pass == Pass::MovedFiles {
            run.run.keep_items(paths + 1);
        }
        run.moving = Some(moving);
        true
    }

    /// The end of a run of this module's.
    pub(super) fn moving_ended(&mut self, cx: &mut Context<'_>, run: &Flight, moving: Moving, batch: Batch, outcome: &Outcome) {
        let done = outcome.is_done();
        // A matter of the target or of the line, and not of this run.
        let line = matches!(
            outcome.verdict,
            Verdict::TargetDown | Verdict::TimedOut | Verdict::Busy | Verdict::TargetFull | Verdict::Killed | Verdict::SourceRoot
        );
        // Where the directory above an old name is not there, the name is not either.
        let gone = done || run.pass == Pass::Clear && outcome.verdict == Verdict::TargetMissing;
        if done {
            // What removes an old name links nothing, so a server that refuses to link does that as well.
            if run.pass != Pass::Clear {
                self.renames.refused = 0;
            }
            self.proven(cx);
        } else if !line && !gone && !matches!(outcome.verdict, Verdict::Partial | Verdict::SourceRace) {
            self.renames.refused += 1;
            if self.renames.refused == REFUSALS {
                tracing::warn!(target_name = %self.cfg.name, "renames are sent as new content from now on: {}", outcome.reason);
            }
        }
        if run.pass == Pass::Clear {
            // Its source is a directory of ours, so that cannot be what is missing.
            self.cleared(cx, batch, gone, !line || outcome.verdict == Verdict::SourceRoot);
        } else {
            self.moved(run, moving, batch, outcome);
        }
        if let Verdict::TargetDown | Verdict::TimedOut = outcome.verdict {
            self.doubt(cx, &outcome.reason);
        } else if outcome.verdict == Verdict::Busy {
            self.crowd(cx, outcome);
        }
        if self.ledger.set.ready(false) > 0 {
            self.pace.waits(cx.now);
        }
    }

    fn cleared(&mut self, cx: &Context<'_>, batch: Batch, done: bool, count: bool) {
        let Batch { id, entries, .. } = batch;
        let path = entries[0].path.clone();
        self.ledger.set.park(id, &entries);
        let since = entries[0].epoch();
        // It is looked at once more in the usual way: the times of the directory above, and whatever has come there since.
        // One that was new when it was given back did not come and go: `Replaced` says so.
        self.ledger.set.see_since(&path, Seen::Replaced, since);
        self.ledger.set.see_since(&path, Seen::Gone, since);
        self.ledger.forget(entries);
        let given_up = !self.ledger.set.unlinked(&path, done, count, cx.now);
        self.release_behind();
        // Where links are kept, renames are not sent as such.
        if cx.links.is_some() && (done || given_up) {
            self.specials.removed(&path);
        }
        match (given_up, cx.links.is_some()) {
            (true, false) => {
                tracing::warn!(target_name = %self.cfg.name, %path, "the old name of a rename cannot be removed from the target by itself")
            }
            (true, true) => {
                tracing::warn!(target_name = %self.cfg.name, %path, "a name that was replaced cannot be removed from the target, and may stay linked there")
            }
            (false, _) => {}
        }
    }

    fn moved(&mut self, run: &Flight, moving: Moving, batch: Batch, outcome: &Outcome) {
        let Batch { id, entries, .. } = batch;
        let output = run.run.output();
        // A directory that was there already may hold what only looks the same.
        let made = run.pass != Pass::MovedTree || output.signs.target_missing;
        let arrived = |new: &RelPath| match run.pass {
            Pass::MovedFiles => output.items.iter().any(|i| *i.path == *path::base(new) && (sent(i) || i.change[0] == b'h')),
            _ => true,
        };
        let mut waiting = entries.into_iter();
        for (new_name, old_name) in moving.pairs {
            let (Some(new), Some(old)) = (waiting.next(), waiting.next()) else { break };
            if run.pass == Pass::MovedTree {
                self.telling.moved(&new_name);
            }
            let (since, done) = (new.epoch(), outcome.is_done() && made && arrived(&new_name));
            self.ledger.set.park(id, std::slice::from_ref(&old));
            if run.pass != Pass::LikeOthers {
                // Also of a run that failed: it may have got that far.
                self.ledger.set.link(old_name);
            }
            self.ledger.set.restore(old);
            if done {
                // The name that was made changed the times of the directory above it.
                self.ledger.set.see_since(&parent_of(&new_name), Seen::Touched, since);
                if output.signs.no_basis {
                    self.stats.renames_sent_whole += 1
                } else {
                    self.stats.renames += 1
                };
                self.confirm(id, vec![new]);
            } else {
                self.stats.renames_sent_whole += 1;
                self.ledger.set.park(id, std::slice::from_ref(&new));
                self.ledger.set.restore(new);
            }
        }
    }
}

fn sent(item: &Item) -> bool {
    matches!(item.change[..2], [b'<' | b'>', b'f'])
}
