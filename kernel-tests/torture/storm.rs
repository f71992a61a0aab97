//! A storm: two threads that change the tree at full speed, while a target and the daemon fall and
//! rise again; then quiet, and a comparison of everything. What differs is shown with the operations
//! that had to do with it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::fixture::daemon::Until;
use crate::fixture::proc::{descendants, poll_until};
use crate::fixture::tree::{Times, differing, listed, show};
use crate::fixture::{Mirror, Run, Setup, To, WAIT, identity};

use super::ops::{Dice, Mood, Op, Place, stamp, wait};

const THREADS: u64 = 2;
/// Operations shown of those that touched a path that differs, and of these paths.
const SHOWN_OPS: usize = 25;
const SHOWN_PATHS: usize = 4;

/// How hard it blows. Whatever a storm leaves wrong, the rest of it may put right, so most of the
/// checks are after light ones.
#[derive(Clone, Copy, Debug)]
pub struct Force {
    /// Operations without a pause, at most.
    burst: usize,
    operations: usize,
}

/// From single changes to full speed.
pub const FORCES: [Force; 4] = [
    Force { burst: 1, operations: 150 },
    Force { burst: 8, operations: 1_000 },
    Force { burst: 100, operations: 6_000 },
    Force { burst: 1_500, operations: 24_000 },
];

/// For [`Mood::Moves`]: single changes, most of them with time to arrive.
pub const STEPS: Force = Force { burst: 2, operations: 300 };

/// What happens beside the changes, at a share of the storm's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    FreezeTarget,
    ThawTarget,
    StopTarget,
    StartTarget,
    CrashDaemon,
    StartDaemon,
    /// Every rsync that the daemon has at this moment is killed.
    KillRuns,
}

/// One operation as it went. Its number was taken before it began, `ended` after it.
#[derive(Debug)]
struct Done {
    serial: u64,
    ended: u64,
    thread: u64,
    op: Op,
    result: Result<(), Option<i32>>,
}

/// What a storm cost.
#[derive(Debug)]
pub struct Tally {
    pub operations: usize,
    pub took: Duration,
    /// From the last operation until everything was on all targets.
    pub lag: Duration,
}

/// A mirror and what storms need to know of it.
pub struct World {
    /// The mirror.
    pub mirror: Mirror,
    place: Place,
    seed: u64,
    storms: u64,
    serial: AtomicU64,
}

/// How two trees came to differ, in words.
#[derive(Debug)]
pub struct Differs(pub String);

/// A mirror with a module and a local directory as targets. Some seeds have small queues.
pub fn setup(setup: Setup, seed: u64) -> Run<World> {
    let mut setup = setup.targets(&[To::Module, To::Local]).target_key("retry_min", "100ms").target_key("retry_max", "500ms");
    if seed % 3 == 2 {
        setup = setup.batch("max_paths", 40);
    }
    let mirror = setup.start()?;
    let out = mirror.out.root().to_path_buf();
    let place = Place { src: mirror.src.root().into(), store: out.join("store"), out };
    mirror.out.mkdir("store");
    Ok(World { mirror, place, seed, storms: 0, serial: AtomicU64::new(1) })
}

impl World {
    /// One storm, then quiet, then the comparison.
    ///
    /// # Errors
    /// A target that never became equal, or is not, with everything there is to know.
    pub fn storm(&mut self, mood: Mood, force: Force) -> Result<Tally, Differs> {
        self.storms += 1;
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(self.storms);
        if mood == Mood::Crash {
            // What looked alike before may be renamed over each other now.
            let serial = &self.serial;
            stamp(&self.place, &mut || serial.fetch_add(1, Ordering::Relaxed)).expect("a quiet tree can be read");
        }
        let mut blows = blows(mood, &mut Dice::new(seed, mood));
        blows.reverse();
        let begun = Instant::now();
        let count = AtomicUsize::new(0);
        let (place, serial, mirror) = (&self.place, &self.serial, &mut self.mirror);
        let mut log: Vec<Done> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let count = &count;
                    let dice = Dice::new(seed.wrapping_mul(31).wrapping_add(thread), mood);
                    scope.spawn(move || work(thread, dice, mood, force, place, serial, count))
                })
                .collect();
            while let Some((share, blow)) = blows.pop() {
                let due = poll_until(WAIT * 4, || {
                    let done = count.load(Ordering::Relaxed);
                    (done >= force.operations * share / 100 || threads.iter().all(|t| t.is_finished())).then_some(())
                });
                assert!(due.is_some(), "the storm's threads hang");
                strike(mirror, blow);
            }
            threads.into_iter().flat_map(|t| t.join().expect("no operation panics")).collect()
        });
        let took = begun.elapsed();
        let quiet = Instant::now();
        let flushed = mirror.daemon.try_flush(WAIT);
        let lag = quiet.elapsed();
        log.sort_by_key(|done| done.serial);
        let mut text = flushed.err().unwrap_or_default();
        for target in &self.mirror.targets {
            let found = differing(self.mirror.src.root(), target.dir.root(), Times::All, &|_| false);
            let found = found.unwrap_or_else(|e| vec![(PathBuf::new(), format!("a tree cannot be read: {e}"))]);
            if !found.is_empty() {
                let _ = write!(text, "source and target {} differ:\n{}", target.name, listed(&found));
                text += &history(&log, &found);
            }
            text += &identity::differences(self.mirror.src.root(), target.dir.root(), &self.mirror.config().mirror[0]);
        }
        if !text.is_empty() {
            let last = log.last().map_or(0, |done| done.ended);
            let head = format!("seed {}, storm {} ({mood:?}, {force:?}), numbers up to {last}: ", self.seed, self.storms);
            return Err(Differs(head + &text));
        }
        Ok(Tally { operations: log.len(), took, lag })
    }

    /// Copies everything needed to understand a difference to a directory that outlives the test,
    /// and names it.
    ///
    /// # Errors
    /// Those of making and filling it.
    pub fn keep(&self, differs: &Differs) -> io::Result<PathBuf> {
        let kept = tempfile::Builder::new().prefix("fansync-soak.").tempdir_in("/tmp")?.keep();
        std::fs::write(kept.join("what"), format!("{}\n{}", differs.0, self.mirror.daemon.report()))?;
        std::fs::copy(crate::fixture::daemon::log_path(&self.mirror.scratch("")), kept.join("fansync.log"))?;
        let trees = self.mirror.targets.iter().map(|t| (t.name.as_str(), &t.dir)).chain([("source", &self.mirror.src)]);
        for (name, dir) in trees {
            crate::fixture::proc::must(std::process::Command::new("cp").arg("-a").arg(dir.root()).arg(kept.join(name)));
        }
        Ok(kept)
    }
}

/// What strikes in a storm and when: in percent of its operations, in order.
fn blows(mood: Mood, dice: &mut Dice) -> Vec<(usize, Blow)> {
    let mut at = 0;
    let mut next = |blow| {
        at = (at + 6 + dice.below(20)).min(99);
        (at, blow)
    };
    match mood {
        Mood::Any => [Blow::FreezeTarget, Blow::ThawTarget, Blow::StopTarget, Blow::StartTarget].map(&mut next).into(),
        Mood::Moves => {
            [Blow::KillRuns, Blow::KillRuns, Blow::StopTarget, Blow::StartTarget, Blow::KillRuns].map(&mut next).into()
        }
        // Not frozen while the daemon falls: an rsync server that wakes up with the last words of a
        // dead client in its pipes writes an old file over a new one, and no event reports it.
        Mood::Crash => {
            [Blow::StopTarget, Blow::CrashDaemon, Blow::StartDaemon, Blow::StartTarget, Blow::CrashDaemon, Blow::StartDaemon]
                .map(next)
                .into()
        }
    }
}

fn strike(mirror: &mut Mirror, blow: Blow) {
    let rsyncd = mirror.rsyncd.as_mut().expect("one target is a module");
    match blow {
        Blow::FreezeTarget => rsyncd.signal(Signal::SIGSTOP, true),
        Blow::ThawTarget => rsyncd.signal(Signal::SIGCONT, true),
        Blow::StopTarget => rsyncd.stop(),
        Blow::StartTarget => rsyncd.restart(),
        Blow::CrashDaemon => mirror.daemon.crash(),
        Blow::StartDaemon => mirror.restart(Until::Watching),
        Blow::KillRuns => descendants(mirror.daemon.pid()).into_iter().for_each(|pid| _ = kill(pid, Signal::SIGKILL)),
    }
}

/// One thread of a storm: bursts of random length with random pauses.
fn work(
    thread: u64,
    mut dice: Dice,
    mood: Mood,
    force: Force,
    place: &Place,
    serials: &AtomicU64,
    count: &AtomicUsize,
) -> Vec<Done> {
    let operations = force.operations / THREADS as usize;
    let mut log = Vec::with_capacity(operations);
    while log.len() < operations {
        for _ in 0..(1 + dice.below(force.burst)).min(operations - log.len()) {
            let op = dice.throw();
            let serial = serials.fetch_add(1, Ordering::Relaxed);
            let result = op.apply(place, mood, serial).map_err(|e| e.raw_os_error());
            log.push(Done { serial, ended: serials.load(Ordering::Relaxed), thread, op, result });
            count.fetch_add(1, Ordering::Relaxed);
        }
        let pauses = if mood == Mood::Moves { [0, 10, 40, 150] } else { [0, 3, 10, 40] };
        let pause = pauses[dice.below(4)];
        wait(Duration::from_millis(pause));
    }
    log
}

/// The last operations on what differs, on the directories above it and on what is below it.
fn history(log: &[Done], found: &[(PathBuf, String)]) -> String {
    let mut text = String::new();
    for (path, how) in found.iter().take(SHOWN_PATHS) {
        let _ = writeln!(text, "--- the last operations around {}: {how}", show(path));
        let touches = |op: &Op| op.paths().iter().any(|p| related(p, path));
        let all: Vec<&Done> = log.iter().filter(|done| done.result.is_ok() && touches(&done.op)).collect();
        for done in &all[all.len().saturating_sub(SHOWN_OPS)..] {
            let Done { serial, ended, thread, op, .. } = done;
            let _ = writeln!(text, "  {serial}..{ended} thread {thread}: {op:?}");
        }
    }
    text
}

fn related(touched: &Path, path: &Path) -> bool {
    if path.as_os_str().is_empty() {
        return touched.parent().is_none_or(|up| up.as_os_str().is_empty());
    }
    path.starts_with(touched) || touched.starts_with(path)
}
