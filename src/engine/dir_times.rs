//! Directories whose times changed with an entry that the filter leaves out.
//!
//! An excluded file that is made or removed changes the mtime of its directory, which belongs to
//! the mirror. Nothing else of that directory may be due, so this is a reason of its own to send
//! it, and the least urgent one: a program that makes temporary files all day must not cost a run
//! per file. So a directory waits, for a second at first, and where that goes on for twice as long
//! each time, up to [`MAX_PAUSE`]. Those with the same pause end it at the same moment, and leave
//! in one batch. A `flush`, a stop and a comparison by `verify` take them all at once.
//!
//! Bounded: beyond [`MAX_DIRS`] directories, one more is taken in at once.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::Engine;
use crate::dirty::Seen;
use crate::path::RelPath;

/// How long a directory waits at first.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// How long at most. Less than the time for which the watermarks wait for what is not in the dirty
/// sets (`history`).
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// Directories that are remembered at a time.
const MAX_DIRS: usize = 16_384;

/// What is remembered of a directory. Times are since the daemon's start.
struct Dir {
    pause: Duration,
    /// When its pause ends or, where `waits` is not set, when it is forgotten.
    until: Duration,
    /// Its times changed since it was last taken.
    waits: bool,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct DirTimes {
    dirs: HashMap<RelPath, Dir>,
    /// Those that wait.
    due: BTreeSet<(Duration, RelPath)>,
    /// Those that were taken, to be forgotten.
    calm: BTreeSet<(Duration, RelPath)>,
}

impl DirTimes {
    /// The times of `path` changed; `true` when it is not to wait.
    pub(super) fn changed(&mut self, path: &[u8], now: Duration) -> bool {
        self.forget_calm(now);
        let pause = match self.dirs.get(path) {
            Some(dir) if dir.waits => return false,
            Some(dir) => {
                self.calm.remove(&(dir.until, RelPath::from_normal(path)));
                (dir.pause * 2).min(MAX_PAUSE)
            }
            None if self.dirs.len() >= MAX_DIRS => return true,
            None => MIN_PAUSE,
        };
        let until = end_of(pause, now);
        let path = RelPath::from_normal(path);
        self.dirs.insert(path.clone(), Dir { pause, until, waits: true });
        self.due.insert((until, path));
        false
    }

    /// The next directory whose pause ends by `until`.
    pub(super) fn take_due(&mut self, until: Duration, now: Duration) -> Option<RelPath> {
        let (_, path) = self.due.pop_first_if(until)?;
        if let Some(dir) = self.dirs.get_mut(&path) {
            dir.waits = false;
            dir.until = now + dir.pause;
            self.calm.insert((dir.until, path.clone()));
        }
        Some(path)
    }

    /// When the next pause ends.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(until, _)| *until)
    }

    fn forget_calm(&mut self, now: Duration) {
        while let Some((_, path)) = self.calm.pop_first_if(now) {
            self.dirs.remove(&path);
        }
    }
}

/// When a pause ends that begins now: at a multiple of it, so that several end together.
fn end_of(pause: Duration, now: Duration) -> Duration {
    let turns = now.as_millis() / pause.as_millis().max(1) + 1;
    pause * u32::try_from(turns).unwrap_or(u32::MAX)
}

trait PopFirst {
    fn pop_first_if(&mut self, until: Duration) -> Option<(Duration, RelPath)>;
}

impl PopFirst for BTreeSet<(Duration, RelPath)> {
    fn pop_first_if(&mut self, until: Duration) -> Option<(Duration, RelPath)> {
        self.first().is_some_and(|(at, _)| *at <= until).then(|| self.pop_first()).flatten()
    }
}

impl Engine {
    /// Has the targets send the times of the directories whose pause ends by `until`.
    pub(super) fn take_dir_times(&mut self, until: Duration) {
        let now = self.now();
        while let Some(path) = self.intake.dir_times.take_due(until, now) {
            let targets = &mut self.targets;
            let mut send = |path: &[u8]| {
                targets.iter_mut().filter(|t| t.sends_dir_times()).for_each(|t| t.see(now, path, Seen::Touched));
            };
            send(&path);
            let filter = &self.mirror.filter;
            self.intake.watching.aliases().others(&path, Seen::Touched, &mut |path, _| {
                if !filter.excludes(path, true) {
                    send(path);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn taken(times: &mut DirTimes, at: Duration) -> Vec<String> {
        std::iter::from_fn(|| times.take_due(at, at)).map(|path| path.to_string()).collect()
    }

    #[test]
    fn a_directory_that_changes_all_the_time_waits_ever_longer() {
        let (mut times, mut at) = (DirTimes::default(), Vec::new());
        for ms in (0..60_000).step_by(10) {
            let now = Duration::from_millis(ms);
            if !taken(&mut times, now).is_empty() {
                at.push(ms / 1_000);
            }
            assert!(!times.changed(b"busy", now));
        }
        assert_eq!(at, [1, 2, 4, 8, 16, 24, 32, 40, 48, 56]);
    }

    #[test]
    fn one_that_rested_waits_a_second_whatever_others_do() {
        let mut times = DirTimes::default();
        for now in (0..40).map(|n| SECOND * n) {
            taken(&mut times, now);
            times.changed(b"busy", now);
        }
        let now = SECOND * 40 + SECOND / 2;
        taken(&mut times, now);
        times.changed(b"busy", now);
        times.changed(b"lone", now);
        assert_eq!(taken(&mut times, SECOND * 41), ["lone"]);
        assert_eq!(taken(&mut times, SECOND * 47), [""; 0]);
        assert_eq!(taken(&mut times, SECOND * 48), ["busy"]);
    }

    #[test]
    fn those_that_change_at_different_moments_leave_together() {
        let mut times = DirTimes::default();
        for n in 0..100u32 {
            times.changed(format!("d{n}").as_bytes(), SECOND * n / 100);
        }
        assert_eq!(taken(&mut times, SECOND).len(), 100);
    }

    #[test]
    fn whoever_needs_them_gets_all() {
        let mut times = DirTimes::default();
        assert!(["a", "a", "b"].iter().all(|path| !times.changed(path.as_bytes(), SECOND)));
        let all: Vec<RelPath> = std::iter::from_fn(|| times.take_due(Duration::MAX, SECOND)).collect();
        assert_eq!((all.len(), times.next_due()), (2, None));
    }

    #[test]
    fn its_memory_is_bounded() {
        let mut times = DirTimes::default();
        let at_once = (0..MAX_DIRS + 10).filter(|n| times.changed(format!("d{n}").as_bytes(), Duration::ZERO)).count();
        assert_eq!((at_once, times.dirs.len()), (10, MAX_DIRS));
        taken(&mut times, SECOND);
        assert!(!times.changed(b"another", SECOND * 5), "what rested is forgotten");
        assert_eq!((times.dirs.len(), times.calm.len()), (1, 0));
    }
}
