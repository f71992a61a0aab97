//! A round: the work, then quiet, then the comparison of everything.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::fixture::fs::needs;
use crate::fixture::proc::{bound_command, poll_until, run};
use crate::fixture::tree::{Times, count, differing, is_stub, listed, show};
use crate::fixture::{Mirror, Run, Setup, WAIT, identity};

use super::ops::{Done, Place, Rules, Worker};
use super::wish::{Combination, Settings, Work};

/// Processes, or threads, that change the tree.
const WORKERS: usize = 4;
/// How long the target may take to become equal: a deadline for faults, not a measure.
const QUIET: Duration = Duration::from_secs(180);
/// A path that failed so often fails for good.
const STUCK: u32 = 5;
/// Operations shown of those on a path that differs, and of these paths.
const SHOWN_OPERATIONS: usize = 20;
const SHOWN_PATHS: usize = 5;
/// The states of a target that a source at work is no reason for.
const BAD_STATES: [&str; 3] = ["down", "config", "fenced"];

/// The titles of what [`Combination`] and [`Judgement`] print.
pub const HEAD: &str = "fs     watch    settings work     round     ops   work s   lag s  entries    runs  result";

/// A mirror and who changes its source.
pub struct Scene {
    mirror: Mirror,
    combination: Combination,
    serial: AtomicU64,
    /// Those of the last round.
    log: Vec<Done>,
}

/// How a round ended.
#[derive(Debug)]
pub enum Judgement {
    Equal(Tally),
    Fault(String),
}

/// What a round was.
#[derive(Debug)]
pub struct Tally {
    operations: usize,
    took: Duration,
    /// From the last operation until the target had it.
    lag: Duration,
    entries: usize,
    runs: u64,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Judgement::Equal(Tally { operations, took, lag, entries, runs }) => {
                let (took, lag) = (took.as_secs_f64(), lag.as_secs_f64());
                write!(f, "{operations:>6} {took:>8.1} {lag:>7.2} {entries:>8} {runs:>7}  equal")
            }
            Judgement::Fault(why) => write!(f, "FAULT\n{why}"),
        }
    }
}

impl Scene {
    /// A mirror of an empty tree to a module.
    ///
    /// # Errors
    /// The machine lacks something.
    pub fn set(combination: &Combination) -> Run<Scene> {
        needs("xfs_io")?;
        let setup = Setup::new(combination.fs).watch(combination.watch.name()).large();
        let setup = match combination.settings {
            Settings::Defaults => setup,
            Settings::All => setup.carrying(&["hard_links", "xattrs", "acls", "sparse"]).follow("500ms"),
        };
        Ok(Scene { mirror: setup.start()?, combination: combination.clone(), serial: AtomicU64::new(1), log: Vec::new() })
    }

    /// One round.
    pub fn round(&mut self, seed: u64, operations: usize) -> Judgement {
        let begun = Instant::now();
        let over = AtomicBool::new(false);
        let (log, mut faults) = thread::scope(|scope| {
            let seen = scope.spawn(|| self.observe(&over));
            let log = match &self.combination.work {
                Work::Own => self.own(seed, operations),
                Work::Fsstress(program) => self.fsstress(program, seed, operations),
            };
            over.store(true, Ordering::Release);
            (log, seen.join().expect("the observer does not panic"))
        });
        let took = begun.elapsed();
        let log = log.unwrap_or_else(|why| {
            faults += &why;
            Vec::new()
        });
        let quiet = Instant::now();
        faults += &self.settle();
        let lag = quiet.elapsed();
        faults += &self.states();
        faults += &self.difference(&log);
        self.log = log;
        if !faults.is_empty() {
            return Judgement::Fault(faults);
        }
        let entries = count(self.mirror.src.root()).unwrap_or(0);
        let runs = self.mirror.daemon.target_status("t1").runs;
        Judgement::Equal(Tally { operations, took, lag, entries, runs })
    }

    fn own(&self, seed: u64, operations: usize) -> Result<Vec<Done>, String> {
        let place = Place { src: self.mirror.src.root().into(), out: self.mirror.out.root().into() };
        let Combination { fs, settings, without, .. } = self.combination.clone();
        let rules = Rules { fs, followed: settings == Settings::All, without };
        let mut log: Vec<Done> = thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|number| {
                    let mut worker = Worker::new(number, seed, rules.clone(), place.clone());
                    scope.spawn(move || {
                        let mut serials = || self.serial.fetch_add(1, Ordering::Relaxed);
                        worker.work(operations / WORKERS, &mut serials)
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("no operation panics")).collect()
        });
        log.sort_by_key(|done| done.serial);
        Ok(log)
    }

    fn fsstress(&self, program: &Path, seed: u64, operations: usize) -> Result<Vec<Done>, String> {
        let mut command = bound_command(program);
        command.arg("-d").arg(self.mirror.src.root());
        command.args(["-s", &seed.to_string(), "-n", &(operations / WORKERS).to_string(), "-p", &WORKERS.to_string()]);
        // Off unless asked for: attributes by handle, and a sync of everything.
        command.args(["-f", "attr_set=2", "-f", "attr_remove=1"]);
        if self.combination.settings == Settings::Defaults {
            // By name, which raises no event unless open files are followed.
            command.args(["-f", "truncate=0"]);
        }
        let output = File::create(self.mirror.scratch("fsstress.log")).map_err(|e| format!("fsstress.log: {e}\n"))?;
        let errors = output.try_clone().map_err(|e| format!("fsstress.log: {e}\n"))?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let status = child.and_then(|mut child| child.wait()).map_err(|e| format!("{}: {e}\n", program.display()))?;
        if status.success() { Ok(Vec::new()) } else { Err(format!("fsstress ended with {status}\n")) }
    }

    /// Notes what the mirror must never be while the tree changes, until `over`.
    fn observe(&self, over: &AtomicBool) -> String {
        let mut seen = String::new();
        while !over.load(Ordering::Acquire) {
            let message = self.states();
            if !message.is_empty() && !seen.contains(&message) {
                seen += &message;
            }
            let _ = poll_until(Duration::from_secs(1), || over.load(Ordering::Acquire).then_some(()));
        }
        seen
    }

    /// Waits until the target has everything. A flush does not wait for a path that failed, as one
    /// whose attribute went while rsync read it: such a path is tried again, until it goes through
    /// or has failed so often that it fails for good.
    fn settle(&self) -> String {
        loop {
            if let Err(why) = self.mirror.daemon.try_flush(QUIET) {
                return why;
            }
            let Some(failing) = self.failing() else { return "the status does not answer\n".into() };
            if failing.is_empty() {
                return String::new();
            }
            let _ = self.mirror.daemon.client(&["retry"], WAIT);
            let tried = poll_until(QUIET, || self.failing().filter(|now| *now != failing));
            if tried.is_none() || failing.iter().all(|(_, _, tries)| *tries >= STUCK) {
                let lines = failing.iter().map(|(path, why, tries)| format!("{path} fails after {tries} tries: {why}\n"));
                return lines.collect();
            }
        }
    }

    /// The paths that wait for another try: why, and how often they failed.
    fn failing(&self) -> Option<Vec<(String, String, u32)>> {
        let status = self.mirror.daemon.try_status()?;
        let targets = status.mirrors.into_iter().flat_map(|mirror| mirror.targets);
        Some(targets.flat_map(|t| t.failures).map(|f| (f.path, f.reason, f.tries)).collect())
    }

    fn states(&self) -> String {
        let mut text = String::new();
        let Some(status) = self.mirror.daemon.try_status() else { return "the status does not answer\n".into() };
        for mirror in status.mirrors {
            if !mirror.held.is_empty() {
                let _ = writeln!(text, "HELD: {}", mirror.held);
            }
            for target in mirror.targets.iter().filter(|target| BAD_STATES.contains(&target.state.as_str())) {
                let _ = writeln!(text, "target {} is {}: {}", target.name, target.state, target.reason);
            }
        }
        text
    }

    fn difference(&self, log: &[Done]) -> String {
        let mut text = String::new();
        for target in &self.mirror.targets {
            let (source, copy) = (self.mirror.src.root(), target.dir.root());
            let found = differing(source, copy, Times::All, &|_| false);
            let found = found.unwrap_or_else(|e| vec![(PathBuf::new(), format!("a tree cannot be read: {e}"))]);
            if !found.is_empty() {
                let _ = write!(text, "{} differences to target {}:\n{}", found.len(), target.name, listed(&found));
                text += &history(log, &found);
            }
            text += &identity::differences(source, copy, &self.mirror.config().mirror[0]);
            text += &rsync_finds(source, copy, self.combination.settings);
        }
        text
    }

    /// Copies what is needed to understand a fault to a directory that outlives the run, and names
    /// it.
    ///
    /// # Errors
    /// Those of making and filling it.
    pub fn keep(&self, why: &str) -> io::Result<PathBuf> {
        let kept = tempfile::Builder::new().prefix("fansync-stress.").tempdir_in("/tmp")?.keep();
        std::fs::write(kept.join("what"), format!("{why}\n{}", self.report()))?;
        std::fs::write(kept.join("operations"), self.operations())?;
        std::fs::copy(crate::fixture::daemon::log_path(&self.mirror.scratch("")), kept.join("fansync.log"))?;
        let trees = self.mirror.targets.iter().map(|t| (t.name.as_str(), &t.dir)).chain([("source", &self.mirror.src)]);
        for (name, dir) in trees {
            // What cannot be copied, as a file of a filesystem's own attributes, is no reason to
            // lose the rest.
            let _ = run(Command::new("cp").args(["-a", "--sparse=always"]).arg(dir.root()).arg(kept.join(name)), WAIT * 10);
        }
        Ok(kept)
    }

    /// The operations of the last round, those that failed too: some change a file and fail.
    fn operations(&self) -> String {
        let mut text = String::new();
        for Done { at, serial, ended, worker, act, paths, result } in &self.log {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let paths: Vec<String> = paths.iter().map(|path| show(path)).collect();
            let result = result.map_or_else(|kind| format!("{kind:?}"), |()| "ok".into());
            let _ = writeln!(text, "{:.6} {serial}..{ended} {worker} {act:?} {result} {}", at.as_secs_f64(), paths.join(", "));
        }
        text
    }

    /// The end of the daemon's log, and its status.
    pub fn report(&self) -> String {
        self.mirror.daemon.report()
    }
}

/// What rsync itself would send or delete, by content: a second opinion.
fn rsync_finds(source: &Path, copy: &Path, settings: Settings) -> String {
    let mut command = Command::new("rsync");
    command.args(["-anci", "--delete", "--numeric-ids"]);
    if settings == Settings::All {
        // XFS shows root each ACL a second time, as an attribute.
        command.args(["-HXA", "--filter=-x system.*", "--filter=-x trusted.SGI_ACL_*"]);
    }
    let ran = run(command.arg(source.join("")).arg(copy.join("")), QUIET);
    // A stub's own times are made up when it is looked up.
    let stub = |line: &str| {
        let dir = line.strip_prefix(".d..t...... ").map(|dir| source.join(dir.trim_end_matches('/')));
        dir.is_some_and(|dir| dir.symlink_metadata().is_ok_and(|meta| is_stub(&dir, &meta)))
    };
    let lines = ran.stdout.lines().filter(|line| !line.starts_with("skipping non-regular") && !stub(line));
    let lines: Vec<&str> = lines.collect();
    match (ran.code, lines.len()) {
        (0, 0) => String::new(),
        (code, n) => format!("rsync -anci finds {n} ({code}):\n  {}\n{}", lines[..n.min(10)].join("\n  "), ran.stderr),
    }
}

/// The last operations on what differs, on the directories above it and on what is below it.
fn history(log: &[Done], found: &[(PathBuf, String)]) -> String {
    let mut text = String::new();
    let shown = found.iter().take(if log.is_empty() { 0 } else { SHOWN_PATHS });
    for (path, how) in shown {
        let _ = writeln!(text, "--- the last operations around {}: {how}", show(path));
        let touches =
            |done: &&Done| done.result.is_ok() && done.paths.iter().any(|at| path.starts_with(at) || at.starts_with(path));
        let all: Vec<&Done> = log.iter().filter(touches).collect();
        for Done { serial, ended, worker, act, paths, .. } in &all[all.len().saturating_sub(SHOWN_OPERATIONS)..] {
            let paths: Vec<String> = paths.iter().map(|path| show(path)).collect();
            let _ = writeln!(text, "  {serial}..{ended} worker {worker}: {act:?} {}", paths.join(", "));
        }
    }
    text
}
