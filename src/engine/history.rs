//! How a mirror begins and ends: what the last run left on disk ([`crate::state`]), the walk that
//! finds what changed since ([`crate::scan`]), and what this run leaves behind.
//!
//! # The start
//! | state | what is done |
//! | --- | --- |
//! | usable | a walk over the source; each target gets what changed since its own watermark |
//! | … but not for one target (new, other settings) | that one is compared whole |
//! | not usable | every target is compared whole; log and `status` say why |
//! | none yet, and `initial = "none"` | the targets are taken as they are; from then on as above |
//!
//! The dirty sets themselves are not saved. A target's watermark stands for them: whatever is
//! pending changed after it, so the walk finds it again, with what changed while fansync did not
//! run, and after any kind of end. What is pending and changed before it, as a file that is closed
//! long after it was written, is saved by its name ([`unsent`](super::unsent)).
//!
//! # While it runs
//! A second after something happened a drain is requested of the sources; what was reported before
//! it and is confirmed moves the watermarks, and what moved is saved. A drain speaks of what
//! changed up to [`SLACK`](crate::state::SLACK) before it, so when all is quiet one more follows,
//! and after it everything is covered. Nothing happens while nothing happens. The set of
//! directories follows the events where marks report every change; where it cannot (inotify), or
//! after a loss, it stands still, and the next walk trusts it less.
//!
//! # What it gives up
//! A source on a filesystem that keeps no reliable change times (FUSE, NFS): nothing is kept. With
//! `initial = "none"` a mark on the disk then makes the next start compare everything if
//! something was pending at the end, of whatever kind.

mod checkpoint;
mod startup;

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};

use super::Engine;
use super::watching::Watching;
use crate::config::{Delete, Events, Initial, Mirror};
use crate::dirty::{Epoch, Kind, Seen};
use crate::filter::Filter;
use crate::path::{self, RelPath};
use crate::progress::{self, Figures, LOG_EVERY};
use crate::root::Root;
use crate::scan::{self, Finding, Options, Progress, Report, ScanError, Scope};
use crate::source::fan_decode::FanEvent;
use crate::state::{Clock, Dirs, Identity, Keeper, Resume, StateError, TargetId, Wall, Why};
use crate::status;
use crate::sys::event::EventFd;
use crate::sys::handle::{FsId, fs_id};
use crate::targets::Target;

/// From something that happened to the drain after it, and from one attempt to move the watermarks
/// to the next.
const EVERY: Duration = Duration::from_secs(1);
/// After an error of the disk that holds the state.
const AFTER_ERROR: Duration = Duration::from_secs(10);
/// The state's disk does not answer for so long: it is worth a word.
const UNANSWERED: Duration = Duration::from_secs(5);
/// Files that are written all the time are reported at a drain at least so often.
const FOLLOWED_EVERY: Duration = Duration::from_secs(10);
/// The set of directories is made anew this long after the last loss of events …
const REBUILD_MIN: Duration = Duration::from_secs(10);
/// … or, when losses recur, up to this long.
const REBUILD_MAX: Duration = Duration::from_secs(600);
/// Findings that travel together from the walk to the engine, the longest time they wait for that,
/// and how many such parts are on their way or taken in one turn.
const PART: usize = 1_000;
const PART_WAIT: Duration = Duration::from_millis(20);
const PARTS: usize = 16;
/// At the end: for the last drain, and for what the directories' places need.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// At the end, beyond the time that the stop was given: for writing the source's filesystems to
/// disk.
const SYNC_GRACE: Duration = Duration::from_secs(1);
/// What an event of a directory that came, went, or moved has in its mask.
const PLACES: u64 = libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO | libc::FAN_RENAME;

/// See the module's text.
pub(super) struct History {
    keeper: Keeper,
    /// Marks report every change, so the set of directories can follow the events.
    follows: bool,
    fs: FsId,
    walk: Option<Walk>,
    /// Something happened since the last drain was requested.
    moved: bool,
    /// When there is something to do.
    next: Option<Duration>,
    /// When the drain is due that covers the last changes, if it stays quiet.
    closing: Option<Duration>,
    /// When the set of directories is to be made anew, and the pause before that the next time.
    rebuild: Option<Duration>,
    rebuild_pause: Duration,
    /// Since when drains counted for nothing because files were being written.
    following_since: Option<Duration>,
    /// The error of the disk that was logged last.
    logged: String,
    /// Since when the state cannot be saved.
    unsaved: Option<Instant>,
}

/// A walk under way.
struct Walk {
    messages: Receiver<ScanMessage>,
    progress: Arc<Progress>,
    began: Instant,
    /// Directories there were at the last stop.
    before: usize,
    /// When its progress is logged next, as a time since the daemon's start; set at the first turn.
    log_at: Option<Duration>,
    /// `None`: only the set of directories is wanted.
    restart: Option<Restart>,
}

/// What the findings of a walk are judged by.
struct Restart {
    watermarks: Vec<Option<Wall>>,
    /// Directories known since then are not known to have moved.
    floor: Wall,
    /// Runs may have left temporary files.
    untidy: bool,
    /// Targets that are compared whole.
    whole: Vec<bool>,
    /// See [`Resume::newest`].
    newest: Wall,
}

enum ScanMessage {
    Found(Vec<(RelPath, Kind, Wall)>),
    Ended(Result<(Dirs, Report), ScanError>),
}

/// Why an engine takes over from one of the same process that did not stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    /// The source was mounted anew at its path.
    Remounted,
    /// Everything else: another source, one that was accepted, a list that can be read again.
    Otherwise,
}

/// How far the start is.
pub(super) struct Begin {
    /// What the state holds; taken when the engine runs.
    opened: Option<Result<Resume, Why>>,
    /// Before the marks were set.
    at: Wall,
    pub(super) status: status::Start,
    /// An engine of this process had the mirror before, and gave it up without a stop.
    pub(super) renewed: Option<Renewed>,
    /// An earlier run may have left temporary files on targets, beside what the walk finds.
    untidy: bool,
    /// Per target: what has to be clear before it counts as begun; `None`: a comparison of
    /// everything.
    pub(super) epochs: Option<Vec<Option<Epoch>>>,
}

impl Begin {
    /// Before the marks are set.
    pub(super) fn now() -> std::io::Result<Begin> {
        let at = Clock::now()?.wall;
        Ok(Begin { opened: None, at, status: status::Start::default(), renewed: None, untidy: false, epochs: None })
    }
}

/// What decides about the contents of every target.
fn settings(mirror: &Mirror) -> String {
    let (filter, delete) = (&mirror.filter, mirror.delete);
    let mut out = format!("delete {} include {:?} exclude {:?}", delete.shown(), filter.include(), filter.exclude());
    if !filter.ordered().is_empty() {
        out += &format!(" filter {:?}", filter.ordered());
    }
    if !filter.is_rsyncs() {
        out += &format!(" expressions {:?} temporary {}", filter.expressions(), filter.temporary());
    }
    let follows = mirror.events == Events::default() && mirror.delete != Delete::Startup;
    if !follows && mirror.initial == Initial::Reconcile {
        // What was not followed was seen, but is not on the targets: only a comparison brings it,
        // so no run is like another.
        out += &format!(" run {:016x}", fastrand::u64(..));
    }
    out
}

impl History {
    /// Opens the state and makes it known on the disk that a run has begun. After the marks are
    /// set, before anything is sent.
    ///
    /// # Errors
    /// See [`Keeper::open`].
    pub(super) fn open(
        state_dir: &Path,
        mirror: &Mirror,
        root: &Root,
        watching: &Watching,
        targets: &[Target],
        begin: &mut Begin,
    ) -> Result<History, StateError> {
        let identity = Identity::of(root, &settings(mirror));
        let targets: Vec<TargetId> =
            targets.iter().map(|t| TargetId { name: t.cfg.name.clone(), settings: t.settings() }).collect();
        let distrusted = (begin.renewed == Some(Renewed::Remounted)).then_some(Why::Remounted);
        let (keeper, opened) = Keeper::open(state_dir, &mirror.name, identity, &targets, distrusted)?;
        begin.opened = Some(opened);
        Ok(History {
            keeper,
            follows: watching.by_marks(),
            // Without one the keeper keeps nothing, and no walk is made.
            fs: fs_id(root.as_fd()).unwrap_or(FsId(0)),
            walk: None,
            moved: false,
            next: None,
            closing: None,
            rebuild: None,
            rebuild_pause: REBUILD_MIN,
            following_since: None,
            logged: String::new(),
            unsaved: None,
        })
    }

    /// Whether the next start finds by change times what the target lacks.
    pub(super) fn finds_by_time(&self, target: usize) -> bool {
        self.keeper.is_on() && self.keeper.watermark(target).is_some()
    }

    /// See [`Keeper::is_after_stop`].
    pub(super) fn is_after_stop(&self) -> bool {
        self.keeper.is_after_stop()
    }

    /// When there is something to do, as a time since the daemon's start.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let log = self.walk.as_ref().filter(|walk| walk.restart.is_some()).and_then(|walk| walk.log_at);
        [self.next, self.closing, self.rebuild.filter(|_| self.walk.is_none()), log].into_iter().flatten().min()
    }

    /// Something became dirty.
    pub(super) fn touch(&mut self, now: Duration) {
        if !self.moved && self.keeper.is_on() {
            self.moved = true;
            self.closing = None;
            self.next.get_or_insert(now + EVERY);
        }
    }

    /// Whether an event may concern the place of a directory.
    pub(super) fn concerns_places(event: &FanEvent<'_>) -> bool {
        event.mask & libc::FAN_ONDIR != 0 && event.mask & PLACES != 0
    }

    /// A directory came, went or moved. `inside`: in the mirror.
    pub(super) fn directory(&mut self, event: &FanEvent<'_>, inside: bool) {
        for place in [event.dir, event.old, event.new].into_iter().flatten() {
            self.keeper.dirs().changed(place.fid.fs, place.fid.handle_ref(), place.name, inside);
        }
    }

    /// Events were lost: the set of directories cannot be trusted from here on.
    pub(super) fn doubt(&mut self, now: Duration) {
        self.keeper.dirs().doubt();
        if self.follows && self.keeper.is_on() {
            self.rebuild = Some(now + self.rebuild_pause);
        }
    }

    fn start_walk(
        &mut self,
        root: &Root,
        filter: &Filter,
        watching: &Watching,
        wake: &Arc<EventFd>,
        resume: Option<Resume>,
        whole: &[bool],
    ) -> Result<(), String> {
        let old = self.keeper.begin_walk().map_err(|e| e.to_string())?;
        let before = resume.as_ref().map_or(0, |r| r.dirs.len());
        let (sender, messages) = bounded(PARTS);
        let progress = Arc::new(Progress::default());
        let restart = resume.as_ref().map(|r| Restart {
            watermarks: r.watermarks.clone(),
            floor: r.dirs.floor(),
            untidy: !r.tidy,
            whole: whole.to_vec(),
            newest: r.newest,
        });
        let work = {
            let root = root.try_clone().map_err(|e| e.to_string())?;
            let mounts: Vec<(RelPath, FsId)> = watching.mounts(&root).into_iter().map(|(at, fs, _)| (at, fs)).collect();
            let (filter, fs, wake, progress) = (filter.clone(), self.fs, Arc::clone(wake), Arc::clone(&progress));
            move || {
                let scope = Scope { root: &root, filter: &filter, fs, mounts: &mounts };
                let mut parts = Parts { sender, wake, progress: &progress, part: Vec::new(), since: Instant::now() };
                let ended = match &resume {
                    Some(resume) => {
                        scan::restart_scan(scope, resume, Options::default(), &progress, &mut |finding| parts.add(finding))
                    }
                    None => scan::build_set(scope, &old, Options::default(), &progress),
                };
                parts.end(ended);
            }
        };
        std::thread::Builder::new().name("fansync-walk".into()).spawn(work).map_err(|e| e.to_string())?;
        self.walk = Some(Walk { messages, progress, began: Instant::now(), before, log_at: None, restart });
        Ok(())
    }

    /// Logs an error of the disk, once for as long as it is the same.
    fn complain(&mut self, mirror: &str, error: &StateError) {
        let since = *self.unsaved.get_or_insert_with(Instant::now);
        // A disk that is busy answers soon.
        if self.keeper.is_stuck() && since.elapsed() < UNANSWERED {
            return;
        }
        let cause = std::error::Error::source(error).map(|c| format!(": {c}")).unwrap_or_default();
        let text = format!("{error}{cause}");
        if self.logged != text {
            tracing::error!(%mirror, "{text}");
            self.logged = text;
        }
    }

    /// For how long the state could not be saved, and why.
    fn unsaved(&self) -> Option<(Duration, &str)> {
        self.unsaved.filter(|_| !self.logged.is_empty()).map(|since| (since.elapsed(), &*self.logged))
    }
}

/// The walk's end of the channel.
struct Parts<'a> {
    sender: Sender<ScanMessage>,
    wake: Arc<EventFd>,
    progress: &'a Progress,
    part: Vec<(RelPath, Kind, Wall)>,
    since: Instant,
}

impl Parts<'_> {
    fn add(&mut self, finding: Finding<'_>) {
        self.part.push((RelPath::from_normal(finding.path), finding.kind, finding.since));
        if self.part.len() >= PART || self.since.elapsed() >= PART_WAIT {
            self.send();
        }
    }

    fn send(&mut self) {
        self.since = Instant::now();
        if self.sender.send(ScanMessage::Found(std::mem::take(&mut self.part))).is_err() {
            self.progress.stop(); // the engine no longer listens
        }
        self.wake.wake();
    }

    fn end(mut self, ended: Result<(Dirs, Report), ScanError>) {
        self.send();
        let _ = self.sender.send(ScanMessage::Ended(ended));
        self.wake.wake();
    }
}

impl Walk {
    /// How far the walk after a start is. Names cannot be foretold, directories can, from the last
    /// stop.
    fn how_far(&self) -> Option<progress::Progress> {
        self.restart.as_ref()?;
        let elapsed = self.began.elapsed();
        let (dirs, done) = (self.progress.dirs.load(Ordering::Relaxed), self.progress.entries.load(Ordering::Relaxed));
        let share = (self.before > 0).then(|| dirs as f64 / self.before as f64).filter(|share| *share <= 1.0);
        let unknown = "there are more directories than at the last stop";
        let of = Figures { elapsed, moving: elapsed, done, share, unknown, ..Figures::default() };
        Some(progress::Progress::new("walking over the source".into(), of))
    }
}

impl Engine {
    /// Logs a walk that takes long.
    pub(super) fn tell_walk(&mut self) {
        let now = self.now();
        let Some(walk) = self.saved.history.as_mut().and_then(|h| h.walk.as_mut()) else { return };
        if *walk.log_at.get_or_insert(now + LOG_EVERY) > now {
            return;
        }
        walk.log_at = Some(now + LOG_EVERY);
        if let Some(progress) = walk.how_far() {
            progress.log(&self.mirror.name, "");
        }
    }

    /// Starts a walk; where that is not possible, what it would have found is compared whole.
    fn walk(&mut self, resume: Option<Resume>, whole: &[bool]) {
        let Some(history) = &mut self.saved.history else { return };
        let restart = resume.is_some();
        let wake = &self.io.wake;
        if let Err(why) = history.start_walk(&self.root, &self.mirror.filter, &self.intake.watching, wake, resume, whole) {
            self.walk_failed(restart, &why);
        }
    }

    fn walk_failed(&mut self, restart: bool, why: &str) {
        let now = self.now();
        let Some(history) = &mut self.saved.history else { return };
        let _ = history.keeper.walked(None); // writes nothing
        history.rebuild_pause = (history.rebuild_pause * 2).min(REBUILD_MAX);
        history.rebuild = history.follows.then_some(now + history.rebuild_pause);
        tracing::warn!(mirror = %self.mirror.name, "the walk over the source failed: {why}");
        if restart {
            history.keeper.all_reported();
            self.begin_whole(&format!("the walk over the source failed: {why}"));
        }
    }

    /// Takes the messages of the walk; whether there may be more.
    pub(super) fn take_walk(&mut self) -> bool {
        for _ in 0..PARTS {
            let Some(Walk { messages, .. }) = self.saved.history.as_ref().and_then(|h| h.walk.as_ref()) else { return false };
            match messages.try_recv() {
                Ok(ScanMessage::Found(part)) => self.found(&part),
                Ok(ScanMessage::Ended(ended)) => {
                    self.walk_ended(ended);
                    self.open_flushes();
                }
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {
                    self.walk_ended(Err(ScanError::System(std::io::Error::other("its thread ended by a bug"))));
                    self.open_flushes();
                }
            }
        }
        true
    }

    fn found(&mut self, part: &[(RelPath, Kind, Wall)]) {
        let now = self.now();
        let Some(Restart { watermarks, floor, untidy, .. }) =
            self.saved.history.as_ref().and_then(|h| h.walk.as_ref()).and_then(|w| w.restart.as_ref())
        else {
            return;
        };
        self.begin.status.found += part.len() as u64;
        let mut above: Option<&[u8]> = None;
        for (path, kind, since) in part {
            let seen = match kind {
                Kind::Entry => Seen::Written,
                Kind::Contents => Seen::Contents,
                Kind::Subtree if *since > *floor => Seen::MovedDir,
                Kind::Subtree => Seen::Subtree,
            };
            // What was being sent when the daemon was killed is found again; its temporary file
            // lies beside it on the target.
            let litter = path::parent(path).filter(|dir| *untidy && *kind == Kind::Entry && above != Some(dir));
            above = litter.or(above);
            self.hooks.seen(path, seen);
            for (target, watermark) in self.targets.iter_mut().zip(watermarks) {
                if watermark.is_some_and(|w| *since >= w) {
                    target.see(now, path, seen);
                    if let Some(dir) = litter {
                        target.see(now, dir, Seen::Contents);
                    }
                }
            }
        }
        if let Some(history) = &mut self.saved.history {
            history.touch(now);
        }
    }

    fn walk_ended(&mut self, ended: Result<(Dirs, Report), ScanError>) {
        let now = self.now();
        let Some(history) = &mut self.saved.history else { return };
        let Some(walk) = history.walk.take() else { return };
        if walk.restart.is_some() {
            let s = &mut self.begin.status;
            s.walking = false;
            s.directories = walk.progress.dirs.load(Ordering::Relaxed);
            s.entries = walk.progress.entries.load(Ordering::Relaxed);
            s.seconds = walk.began.elapsed().as_secs_f64();
        }
        let (dirs, report) = match ended {
            Ok(found) => found,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
                return self.walk_failed(walk.restart.is_some(), &format!("{error}{cause}"));
            }
        };
        if walk.restart.as_ref().is_some_and(|restart| report.newest.is_some_and(|found| found < restart.newest)) {
            self.distrust_all(); // no change time shows what differs, also not at a start after this one
            return self.walk_failed(true, "nothing in it is as new as at the last stop: it is an older copy of itself");
        }
        history.keeper.saw(report.newest.unwrap_or(Wall::MIN));
        let seconds = (report.took.as_secs_f64() * 1000.0).round() / 1000.0;
        if let Some(restart) = walk.restart {
            tracing::info!(
                mirror = %self.mirror.name, directories = report.dirs, names = report.entries, files_found = report.entry,
                directories_found = report.contents, subtrees_found = report.subtree, unreadable = report.unreadable, seconds,
                "walked over the source"
            );
            history.keeper.all_reported();
            let remade = history.keeper.walked(Some(dirs));
            let targets = self.targets.iter_mut().zip(restart.whole);
            self.begin.epochs = Some(targets.map(|(target, whole)| (!whole).then(|| target.walk_ended())).collect());
            self.set_remade(remade, now);
        } else {
            tracing::debug!(mirror = %self.mirror.name, directories = report.dirs, seconds, "recorded where the directories are");
            let remade = history.keeper.walked(Some(dirs));
            self.set_remade(remade, now);
        }
    }

    fn set_remade(&mut self, remade: Result<bool, StateError>, now: Duration) {
        let Some(history) = &mut self.saved.history else { return };
        history.rebuild = None;
        match remade {
            Ok(true) => history.rebuild_pause = REBUILD_MIN,
            Ok(false) => history.rebuild_pause = (history.rebuild_pause * 2).min(REBUILD_MAX),
            Err(error) => history.complain(&self.mirror.name, &error),
        }
        if !history.follows {
            // inotify does not report each directory's place.
            history.keeper.dirs().doubt();
        } else if history.keeper.needs_walk() {
            history.rebuild = Some(now + history.rebuild_pause);
        }
        history.touch(now);
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::unbounded;

    use super::*;
    use crate::config::Config;
    use crate::source::fan_decode::{Fid, Place};

    #[test]
    fn what_decides_about_contents_makes_the_saved_state_another() {
        let of = |lines: &str| {
            let text =
                format!("[[mirror]]\nname = \"m\"\nsource = \"/s\"\n{lines}\n[[mirror.target]]\nname = \"t\"\nurl = \"h::m\"\n");
            settings(&Config::from_toml(&text).unwrap().mirrors[0])
        };
        let base = of("");
        for lines in [
            "delete = false",
            "exclude = [\"*.tmp\"]",
            "include = [\"*.c\"]",
            "exclude_regex = [\"x$\"]",
            "exclude_temporary = true",
        ] {
            assert_ne!(of(lines), base, "{lines}");
            assert_eq!(of(lines), of(lines), "{lines}");
        }
        for lines in ["max_delete = 5", "verify_every = \"1h\"", "allow_empty = true"] {
            assert_eq!(of(lines), base, "{lines}");
        }
        // What was not followed is on no target, so the next run compares again, unless none ever
        // does.
        let events = "[mirror.events]\nattrib = false";
        assert_ne!(of(events), of(events));
        let none = format!("initial = \"none\"\n{events}");
        assert_eq!(of(&none), of(&none));
    }

    #[test]
    fn a_walk_hands_over_every_finding_before_it_says_that_it_ended() {
        let (sender, messages) = unbounded();
        let progress = Progress::default();
        let wake = Arc::new(EventFd::new().unwrap());
        let mut parts = Parts { sender, wake: Arc::clone(&wake), progress: &progress, part: Vec::new(), since: Instant::now() };
        let names: Vec<String> = (0..PART * 2 + 1).map(|n| n.to_string()).collect();
        for name in &names {
            parts.add(Finding { path: name.as_bytes(), kind: Kind::Entry, since: Wall::MIN });
        }
        parts.end(Err(ScanError::Stopped));
        assert!(wake.clear(), "the engine checks only when it is woken");
        let (mut found, mut ended) = (Vec::new(), false);
        for part in messages.iter() {
            assert!(!ended);
            match part {
                ScanMessage::Found(part) => {
                    assert!(part.len() <= PART);
                    found.extend(part.into_iter().map(|(path, ..)| path.to_string()));
                }
                ScanMessage::Ended(how) => ended = matches!(how, Err(ScanError::Stopped)),
            }
        }
        assert!(ended && found == names);
    }

    #[test]
    fn how_far_a_walk_is_follows_the_directories_of_the_last_stop() {
        let walk = |before, restart| Walk {
            messages: unbounded().1,
            progress: Arc::default(),
            began: Instant::now(),
            before,
            log_at: None,
            restart,
        };
        let restart =
            || Restart { watermarks: Vec::new(), floor: Wall::MIN, untidy: false, whole: Vec::new(), newest: Wall::MIN };
        assert!(walk(10, None).how_far().is_none(), "nothing waits for one that only makes the set anew");
        for (before, dirs, outgrown) in [(10, 5, false), (5, 5, false), (4, 5, true), (0, 5, true)] {
            let walk = walk(before, Some(restart()));
            walk.progress.dirs.store(dirs, Ordering::Relaxed);
            walk.progress.entries.store(70, Ordering::Relaxed);
            let progress = walk.how_far().unwrap();
            assert_eq!(progress.files_done, 70);
            assert_eq!(progress.eta_unknown.contains("more directories"), outgrown, "{dirs} of {before}");
        }
    }

    #[test]
    fn only_directories_that_come_go_or_move_change_places() {
        let fid = Fid { fs: FsId(1), kind: 1, handle: b"h" };
        let place = Some(Place { fid, name: b"d" });
        let dir = libc::FAN_ONDIR;
        for (mask, want) in [
            (dir | libc::FAN_CREATE, true),
            (dir | libc::FAN_DELETE, true),
            (dir | libc::FAN_MOVED_FROM, true),
            (dir | libc::FAN_MOVED_TO, true),
            (dir | libc::FAN_RENAME, true),
            (dir | libc::FAN_ATTRIB | libc::FAN_CREATE, true),
            (dir | libc::FAN_ATTRIB, false),
            (libc::FAN_CREATE, false),
            (libc::FAN_RENAME, false),
        ] {
            let event = FanEvent { mask, pid: 0, dir: place, old: None, new: None, child: None, skipped: 0 };
            assert_eq!(History::concerns_places(&event), want, "{mask:#x}");
        }
    }
}
