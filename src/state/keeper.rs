//! One mirror's state while the daemon runs.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::file::StateFile;
use super::record::{Head, Saved, Stop};
use super::{Clock, DirSet, Dirs, Identity, OpenByHandle, SLACK, StateError, TargetId, Wall, Watermark, Why, dirs, log, record};
use crate::dirty::Epoch;
use crate::error::chain;

/// What an earlier run left.
#[derive(Debug, Clone)]
pub struct Resume {
    /// Where directories were.
    pub dirs: Arc<Dirs>,
    /// Up to when `dirs` holds every change; [`Wall::MAX`] after a clean stop.
    pub dirs_complete_at: Wall,
    /// Per target: every change before this is on it. `None`: it needs a comparison of everything.
    pub watermarks: Vec<Option<Wall>>,
    /// The least of them.
    pub since: Wall,
    /// No rsync was under way at the end, so none left temporary files on a target.
    pub tidy: bool,
    /// Per target: why it has no watermark.
    pub without: Vec<Option<Without>>,
    /// After a clean stop: something in the source had changed as late as that. What is removed
    /// leaves a later time in its directory, so a source in which nothing is as new is an older
    /// copy of itself.
    pub newest: Wall,
}

/// Why a target has no watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Without {
    /// It was not there when the state was saved.
    New,
    /// Its place or its arguments are others.
    Changed,
    /// It did not have everything yet, or was to be compared whole for another reason.
    Behind,
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Without::New => "the saved state knows nothing",
            Without::Changed => "the settings have changed since the state was saved",
            Without::Behind => "the comparison had not ended when the state was saved",
        })
    }
}

/// A moment at which a drain was requested of the sources: [`Keeper::drain`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drain(pub(crate) Clock);

#[cfg(test)]
impl Drain {
    pub(crate) fn of_now() -> Drain {
        Drain(Clock::now().expect("the clocks can be read"))
    }
}

/// Keeps one mirror's state. See the module's text; calls in their order:
///
/// 1. [`Keeper::open`] before the first change is acted upon, with marks already set. Resume, or
///    compare everything.
/// 2. [`Keeper::begin_walk`] and a walk on another thread; [`Keeper::walked`] when it ended.
/// 3. [`Keeper::all_reported`] when the dirty sets hold all that may differ: the findings, or the
///    whole tree.
/// 4. For each event of a directory that comes, goes or moves: [`Keeper::dirs`] →
///    [`DirSet::changed`]. When events were lost: [`DirSet::doubt`], and step 2 again.
/// 5. Each second while something happens: [`Keeper::drain`], [`Keeper::drained`],
///    [`Keeper::tick`].
/// 6. [`Keeper::stop`].
pub struct Keeper {
    file: StateFile,
    /// `None`: nothing is kept.
    head: Option<Head>,
    pub(super) clock: Clock,
    dirs: DirSet,
    watermarks: Vec<Watermark>,
    reported: bool,
    drained_at: Wall,
    /// Of the file, to append to.
    chain: Option<log::Chain>,
    /// The file lacks changes of the set: it must be written whole.
    behind: bool,
    clean: bool,
    durable: bool,
    stop: Stop,
    newest: Wall,
    /// The last daemon that kept this state stopped in order.
    after_stop: bool,
}

impl Keeper {
    /// Locks the mirror's directory in `state_dir`, reads what an earlier run left, and makes the
    /// start of this one durable.
    ///
    /// `targets`: in the order of all later calls. When the state cannot be begun (a full disk), or
    /// the filesystem is not fit for it, the keeper keeps nothing, every call is a no-op, and the
    /// reason is in the result. `distrusted`: why what an earlier run left is not gone on from,
    /// where there is a reason.
    ///
    /// # Errors
    /// [`StateError::Locked`], [`StateError::Directory`]; [`StateError::Write`] when not even an
    /// old file can be removed.
    pub fn open(
        state_dir: &Path,
        mirror: &str,
        identity: Result<Identity, Why>,
        targets: &[TargetId],
        distrusted: Option<Why>,
    ) -> Result<(Keeper, Result<Resume, Why>), StateError> {
        let file = StateFile::open(state_dir, mirror)?;
        let clock = Clock::now().map_err(|source| StateError::System { what: "the clocks", source })?;
        let mut last_stop = Stop::None;
        let resume = identity.clone().and_then(|identity| resume(&file, &identity, targets, &clock, &mut last_stop));
        let resume = match distrusted.filter(|_| identity.is_ok()) {
            Some(why) => Err(why),
            None => resume,
        };
        let key = match &resume {
            Ok(resume) => resume.dirs.key(),
            Err(_) => random().map_err(|source| StateError::System { what: "/dev/urandom", source })?,
        };
        let (dirs, watermarks) = match &resume {
            // After a clean stop the set is complete up to now; from here on it is not.
            Ok(r) => {
                let at = r.dirs_complete_at.min(clock.wall.before(SLACK));
                (DirSet::new(Arc::clone(&r.dirs), Some(at)), r.watermarks.clone())
            }
            Err(_) => (DirSet::new(Arc::new(Dirs::new(key, Wall::MIN)), None), vec![None; targets.len()]),
        };
        let head = identity.ok().map(|identity| Head { key, identity, targets: targets.to_vec() });
        let mut keeper = Keeper {
            file,
            head,
            clock,
            dirs,
            watermarks: watermarks.into_iter().map(Watermark::new).collect(),
            reported: false,
            drained_at: Wall::MIN,
            chain: None,
            behind: true,
            clean: false,
            durable: false,
            stop: Stop::None,
            newest: Wall::MIN,
            after_stop: last_stop != Stop::None,
        };
        let begun = if keeper.is_on() { keeper.replace(true) } else { keeper.file.remove() };
        let Err(error) = begun else { return Ok((keeper, resume)) };
        // An old file must not be taken for what this run did.
        keeper.head = None;
        keeper.file.remove()?;
        Ok((keeper, Err(Why::Unwritable(chain(&error)))))
    }

    /// Whether the last daemon that kept this state stopped in order, whatever became of its state.
    pub(crate) fn is_after_stop(&self) -> bool {
        self.after_stop
    }

    /// Whether anything is kept.
    pub(crate) fn is_on(&self) -> bool {
        self.head.is_some()
    }

    /// Whether a write has not come back.
    pub(crate) fn is_stuck(&self) -> bool {
        self.file.is_stuck()
    }

    /// For a mirror without state: leaves a mark that something may be missing on a target; whether
    /// an earlier run left one.
    ///
    /// # Errors
    /// [`StateError::Write`].
    pub(crate) fn mark_unsent(&self) -> Result<bool, StateError> {
        self.file.mark()
    }

    /// Every target holds everything: takes that mark away.
    ///
    /// # Errors
    /// [`StateError::Write`].
    pub(crate) fn clear_unsent(&self) -> Result<(), StateError> {
        self.file.unmark()
    }

    /// Something in the source has this change time. One from the future says nothing: its next
    /// change will look older.
    pub(crate) fn saw(&mut self, ctime: Wall) {
        if ctime > self.newest && self.now().is_ok_and(|now| ctime <= now.wall) {
            self.newest = ctime;
        }
    }

    /// The live set of directories, which follows changes.
    pub(crate) fn dirs(&mut self) -> &mut DirSet {
        &mut self.dirs
    }

    /// The target's watermark; `None` where the next start compares it whole.
    pub(crate) fn watermark(&self, target: usize) -> Option<Wall> {
        self.watermarks.get(target).and_then(Watermark::get)
    }

    /// Whether a walk is needed: the set does not follow the events and none is under way.
    pub(crate) fn needs_walk(&self) -> bool {
        self.is_on() && !self.dirs.is_live() && !self.dirs.is_building()
    }

    /// A walk begins when this returns: of the whole tree, with the returned set as the old one.
    ///
    /// # Errors
    /// [`StateError::System`].
    pub fn begin_walk(&mut self) -> Result<Arc<Dirs>, StateError> {
        let now = self.now()?;
        self.dirs.begin_build(now.wall.before(SLACK));
        Ok(Arc::clone(self.dirs.dirs()))
    }

    /// The walk ended with this set; `None`: it failed. `Ok(false)`: it will not do, another one is
    /// needed.
    ///
    /// # Errors
    /// [`StateError::Write`].
    pub(crate) fn walked(&mut self, found: Option<Dirs>) -> Result<bool, StateError> {
        let Some(found) = found else {
            self.dirs.abandon_build();
            return Ok(false);
        };
        if !self.dirs.finish_build(found) {
            return Ok(false);
        }
        self.behind = true;
        self.save(&[])?;
        Ok(true)
    }

    /// The target is taken for equal to the source as it was at `at`, because the administrator
    /// says so. Saved with the next [`Keeper::tick`].
    pub(crate) fn adopt(&mut self, target: usize, at: Wall) {
        if let Some(watermark) = self.watermarks.get_mut(target) {
            *watermark = Watermark::new(Some(at.before(SLACK)));
            self.behind = true;
        }
    }

    /// The target is to be compared whole, for a reason that no change time in the source shows: it
    /// may have lost what it had, or a command requested it. Whatever ends the daemon before that
    /// is done, the next one does it. Saved at once.
    ///
    /// # Errors
    /// [`StateError::Write`].
    pub(crate) fn distrust(&mut self, target: usize) -> Result<(), StateError> {
        match self.watermarks.get_mut(target) {
            Some(watermark) if watermark.get().is_some() || watermark.waiting() => {
                watermark.forget();
                self.save(&[])
            }
            _ => Ok(()),
        }
    }

    /// All that may differ is in the dirty sets, for every target without a watermark the whole
    /// tree. Watermarks move from here on, not before.
    pub(crate) fn all_reported(&mut self) {
        self.reported = true;
    }

    /// A moment for a drain; to be taken right before the drain is requested.
    ///
    /// # Errors
    /// [`StateError::System`].
    pub(crate) fn drain(&self) -> Result<Drain, StateError> {
        Ok(Drain(self.now()?))
    }

    /// Every event from before `drain` has been reported, to the dirty sets and to
    /// [`Keeper::dirs`]. `epochs`: of each target in turn, closed now; `None` for one that may yet
    /// lose what it has confirmed.
    ///
    /// Not to be called while the engine knows of something that may differ and is not in the dirty
    /// sets: a lost subtree that waits for its turn, a subtree that cannot be watched, a source
    /// that is away.
    ///
    /// # Errors
    /// [`StateError::System`].
    pub(crate) fn drained(&mut self, drain: Drain, epochs: impl IntoIterator<Item = Option<Epoch>>) -> Result<(), StateError> {
        if !self.reported {
            return Ok(());
        }
        let mut at = drain.0.wall;
        if let Some(to) = self.now()?.set_back_to(&drain.0) {
            at = at.min(to);
        }
        let at = at.before(SLACK);
        for (watermark, epoch) in self.watermarks.iter_mut().zip(epochs) {
            if let Some(epoch) = epoch {
                watermark.drained(at, epoch);
            }
        }
        self.drained_at = self.drained_at.max(at);
        self.dirs.complete_until(at);
        Ok(())
    }

    /// Moves watermarks and saves what moved; nothing is written when nothing did. `clear`: whether
    /// a target has everything of an epoch and before. Returns whether there is more to save, in a
    /// second or so.
    ///
    /// # Errors
    /// [`StateError::Write`]: the next call tries again with everything.
    pub(crate) fn tick(
        &mut self,
        mut clear: impl FnMut(usize, Epoch) -> bool,
        open: &mut OpenByHandle<'_>,
    ) -> Result<bool, StateError> {
        if !self.is_on() {
            return Ok(false);
        }
        let now = self.now()?;
        let mut moved = self.behind;
        if let Some(to) = now.set_back_to(&self.clock) {
            let to = to.before(SLACK);
            tracing::warn!(?to, "the clock was set back; a restart will look at every change since");
            self.watermarks.iter_mut().for_each(|w| moved |= w.lower(to));
            self.dirs.lower(to);
            self.drained_at = self.drained_at.min(to);
            self.newest = self.newest.min(to);
            moved = true;
        }
        self.clock = now;
        for (target, watermark) in self.watermarks.iter_mut().enumerate() {
            moved |= watermark.advance(|epoch| clear(target, epoch));
        }
        if moved {
            let all = self.watermarks.iter().map(|w| w.get().unwrap_or(Wall::MIN)).min();
            self.dirs.forget_before(all.unwrap_or(Wall::MIN));
        }
        let mut changes = Vec::new();
        let settled = self.dirs.settle(&mut || now.again().map(|c| c.wall), open, &mut changes);
        if moved || !changes.is_empty() {
            self.save(&changes)?;
        }
        settled.map_err(|source| StateError::System { what: "the clocks", source })?;
        Ok(self.dirs.unsettled() || self.watermarks.iter().any(Watermark::waiting))
    }

    /// Whether [`Keeper::tick`] has places of directories to check.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.is_on() && self.dirs.unsettled()
    }

    /// Saves for the last time, after a [`Keeper::tick`].
    ///
    /// `last`: a drain that was requested after the last run of every target had ended, and was
    /// passed to [`Keeper::drained`]; without it the stop counts as unclean. `synced`: after that,
    /// everything on the source's filesystems was written to disk ([`sync_source`]); without it a
    /// restart after a boot compares everything. `tidy`: no run was cut off.
    ///
    /// # Errors
    /// [`StateError::Write`].
    pub(crate) fn stop(mut self, last: Option<Drain>, synced: bool, tidy: bool) -> Result<(), StateError> {
        if !self.is_on() {
            return Ok(());
        }
        self.clock = self.now()?;
        let complete = last.is_some_and(|d| self.drained_at >= d.0.wall.before(SLACK));
        self.clean = self.reported && complete && self.dirs.is_live();
        (self.durable, self.stop) = (synced, if tidy { Stop::Tidy } else { Stop::Untidy });
        self.behind |= self.dirs.unsettled();
        self.save(&[])?;
        self.file.finish()
    }

    fn now(&self) -> Result<Clock, StateError> {
        self.clock.again().map_err(|source| StateError::System { what: "the clocks", source })
    }

    fn saved(&self) -> Saved {
        Saved {
            clock: self.clock,
            clean: self.clean,
            durable: self.durable,
            stop: self.stop,
            dirs_complete_at: self.dirs.complete_at(),
            watermarks: self.watermarks.iter().map(Watermark::get).collect(),
            newest: self.newest,
        }
    }

    fn save(&mut self, changes: &[dirs::Delta]) -> Result<(), StateError> {
        if !self.is_on() {
            return Ok(());
        }
        if self.behind || self.file.is_long() {
            self.behind = true;
            return self.replace(false);
        }
        let Some(mut chain) = self.chain else { return Ok(()) };
        let mut out = Vec::new();
        record::put_changes(&mut chain, changes, &mut out);
        record::put_saved(&mut chain, &self.saved(), &mut out);
        // What fails here is missing in the file for good.
        self.behind = true;
        self.file.append(out)?;
        (self.chain, self.behind) = (Some(chain), false);
        Ok(())
    }

    fn replace(&mut self, durable: bool) -> Result<(), StateError> {
        let Some(head) = &self.head else { return Ok(()) };
        let key = random().map_err(|source| StateError::System { what: "/dev/urandom", source })?;
        let mut out = Vec::with_capacity(self.dirs.dirs().len() * 16 + 4096);
        let mut chain = log::Chain::begin(key, &mut out);
        record::put_head(&mut chain, head, &mut out);
        record::put_dirs(&mut chain, self.dirs.dirs(), &mut out);
        record::put_saved(&mut chain, &self.saved(), &mut out);
        self.file.replace(out, durable)?;
        (self.chain, self.behind) = (Some(chain), false);
        Ok(())
    }
}

/// Judges what an earlier run left. `stop`: how that ended, where the file says.
fn resume(file: &StateFile, identity: &Identity, targets: &[TargetId], now: &Clock, stop: &mut Stop) -> Result<Resume, Why> {
    let path = file.path();
    let damaged = |what: String| Why::Damaged { path: path.clone(), what };
    let bytes = file.read().map_err(|e| damaged(e.to_string()))?.ok_or_else(|| Why::None(path.clone()))?;
    let contents = log::read(&bytes).map_err(|e| damaged(e.to_string()))?;
    let state = record::meaning(&contents).ok_or_else(|| damaged("it breaks off before its first save".into()))?;
    let saved = &state.last;
    *stop = saved.stop;
    identity.same(&state.head.identity)?;
    now.check_since(&saved.clock).map_err(Why::Clock)?;
    if now.boot_id != saved.clock.boot_id && !saved.durable {
        return Err(Why::PowerLoss);
    }
    let complete_at = saved.dirs_complete_at.ok_or(Why::NoDirs)?;
    // By what it is: two targets are never one place, and a name may be given to another one.
    let before = |is: &dyn Fn(&TargetId) -> bool| state.head.targets.iter().position(is);
    let watermark_of = |target: &TargetId| match before(&|old| old.settings == target.settings) {
        None if before(&|old| old.name == target.name).is_some() => Err(Without::Changed),
        None => Err(Without::New),
        Some(at) => saved.watermarks[at].ok_or(Without::Behind),
    };
    let (watermarks, without): (Vec<Option<Wall>>, Vec<Option<Without>>) =
        targets.iter().map(watermark_of).map(|w| (w.ok(), w.err())).unzip();
    let since = watermarks.iter().flatten().min().copied();
    let since = since.ok_or_else(|| Why::NothingConfirmed(without.iter().flatten().max().copied().unwrap_or(Without::New)))?;
    Ok(Resume {
        dirs: Arc::new(state.dirs),
        dirs_complete_at: if saved.clean { Wall::MAX } else { complete_at },
        watermarks,
        since,
        tidy: saved.stop == Stop::Tidy,
        without,
        newest: if saved.clean { saved.newest } else { Wall::MIN },
    })
}

/// Writes everything on the filesystems of `source` to disk, syncfs(2), on a thread of its own;
/// whether that was done in time. The thread ends with its system calls.
pub(crate) fn sync_source(source: Vec<OwnedFd>, patience: Duration) -> bool {
    let (done, wait) = crossbeam::channel::bounded(1);
    let thread = std::thread::Builder::new().name("syncfs".into()).spawn(move || {
        let _ = done.send(source.iter().all(|fd| nix::unistd::syncfs(fd).is_ok()));
    });
    thread.is_ok() && wait.recv_timeout(patience).unwrap_or(false)
}

fn random() -> io::Result<log::Key> {
    let mut key = log::Key::default();
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}
