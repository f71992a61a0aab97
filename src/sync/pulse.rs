//! Whether a run makes progress, judged by what its process has done.
//!
//! Keep-alives are no progress: rsync sends four bytes every half of `timeout` to a peer that
//! waits, whatever it waits for itself, so a run that hangs between them looks alive to rsync's own
//! time-out for ever. Progress is a line of output, more bytes read than keep-alives, or processor
//! time.
//!
//! | what the process did | ended after |
//! | --- | --- |
//! | nothing at all, not even a keep-alive | `watchdog` |
//! | keep-alives only: a list of several paths | `watchdog`; its paths are sent in smaller lists |
//! | keep-alives only: the same, with hard links | [`KNOT`] (see `targets/link_stalls.rs`) |
//! | keep-alives only: one path, or a comparison | [`PATIENT_WATCHDOGS`] times `watchdog`: the target may be reading a large file, or a large directory on a slow disk |
//!
//! Pure: time and work are arguments.

use std::time::Duration;

use crate::sys::child::Work;

/// How long a run with hard links may keep its connection alive and do nothing else.
const KNOT: Duration = Duration::from_secs(10);
/// How often such a run is checked.
const KNOT_BEAT: Duration = Duration::from_secs(1);
/// Of how many parts of the bound a silence is made up.
const SAMPLES: u32 = 4;
/// How many times `watchdog` a run may keep its connection alive that cannot be done in parts.
const PATIENT_WATCHDOGS: u32 = 10;

/// What a run carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carries {
    /// Several paths, each for itself; or nothing of the source, as a probe.
    List,
    /// The same, or directories, and names of one file are linked (`-H`).
    Links,
    /// A path alone, or directories.
    Whole,
}

/// The progress of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beat {
    /// It does, or nothing else can be concluded yet.
    Goes,
    /// It has done nothing at all for too long.
    Silent,
    /// It has kept its connection alive for too long and done nothing else.
    Idle,
    /// The same, and it makes links.
    Knotted,
}

/// What a run had done, and since when it has done nothing more.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// At the last progress.
    work: Work,
    since: Duration,
    /// At the last sign of life.
    alive: Work,
    alive_since: Duration,
    taken: Duration,
}

impl Pulse {
    pub(crate) fn new(now: Duration) -> Pulse {
        Pulse { work: Work::default(), since: now, alive: Work::default(), alive_since: now, taken: now }
    }

    /// When it is to be taken next.
    pub(crate) fn due(&self, carries: Carries, watchdog: Duration) -> Duration {
        let beat = watchdog / SAMPLES;
        self.taken + if carries == Carries::Links { beat.min(KNOT_BEAT) } else { beat }
    }

    /// Takes in what the run has done by `now`.
    pub(crate) fn take(&mut self, now: Duration, work: Work, carries: Carries, watchdog: Duration) -> Beat {
        self.taken = now;
        if work != self.alive {
            (self.alive, self.alive_since) = (work, now);
        }
        if work.goes_on_from(&self.work, now.saturating_sub(self.since)) {
            (self.work, self.since) = (work, now);
        }
        let idle = now.saturating_sub(self.since);
        if now.saturating_sub(self.alive_since) >= watchdog {
            return Beat::Silent;
        }
        match carries {
            Carries::Links if idle >= KNOT => Beat::Knotted,
            Carries::List | Carries::Links if idle >= watchdog => Beat::Idle,
            Carries::Whole if idle >= watchdog * PATIENT_WATCHDOGS => Beat::Idle,
            _ => Beat::Goes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(150);

    fn work(written: u64, read: u64, ticks: u64) -> Work {
        Work { written, read, ticks }
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    /// The first beat that ends a run which reads `bytes` and uses `ticks` in each step of `step`
    /// seconds, and the second at which it comes.
    fn ends(carries: Carries, step: u64, each: Work) -> Option<(Beat, u64)> {
        let mut pulse = Pulse::new(secs(0));
        let mut done = work(10, 1000, 50);
        for now in (0..5_000).step_by(usize::try_from(step).unwrap()) {
            match pulse.take(secs(now), done, carries, WATCHDOG) {
                Beat::Goes => {}
                beat => return Some((beat, now)),
            }
            done = work(done.written + each.written, done.read + each.read, done.ticks + each.ticks);
        }
        None
    }

    #[test]
    fn what_ends_a_run_and_when() {
        use Carries::{Links, List, Whole};
        let nothing = work(0, 0, 0);
        // With the shortest `timeout`, and with the usual one.
        let (fast, slow) = ((1, work(0, 8, 0)), (30, work(0, 4, 0)));
        for (what, carries, (step, each), end) in [
            ("nothing", Whole, (10, nothing), Some((Beat::Silent, 150))),
            ("nothing", List, (10, nothing), Some((Beat::Silent, 150))),
            ("nothing, with links", Links, (1, nothing), Some((Beat::Knotted, 10))),
            ("keep-alives", List, slow, Some((Beat::Idle, 150))),
            ("many keep-alives", List, fast, Some((Beat::Idle, 150))),
            ("keep-alives, with links", Links, fast, Some((Beat::Knotted, 10))),
            ("keep-alives of one path", Whole, slow, Some((Beat::Idle, 1500))),
            ("many keep-alives of one path", Whole, fast, Some((Beat::Idle, 1500))),
            ("processor time for keep-alives", List, (30, work(0, 4, 1)), Some((Beat::Idle, 150))),
            ("lines", List, (30, work(1, 4, 0)), None),
            ("content", List, (30, work(0, 3000, 0)), None),
            ("checksums of what is cached", Links, (5, work(0, 0, 40)), None),
        ] {
            assert_eq!(ends(carries, step, each), end, "{what}");
        }
    }

    #[test]
    fn a_sign_of_progress_begins_it_anew() {
        let mut pulse = Pulse::new(secs(0));
        for (now, done, want) in [
            (1, work(10, 1000, 50), Beat::Goes),
            (8, work(10, 1008, 50), Beat::Goes),
            (10, work(11, 1008, 50), Beat::Goes), // a line
            (19, work(11, 1016, 50), Beat::Goes),
            (20, work(11, 1016, 51), Beat::Knotted),
        ] {
            assert_eq!(pulse.take(secs(now), done, Carries::Links, WATCHDOG), want, "at {now}");
        }
        assert_eq!(pulse.due(Carries::Links, WATCHDOG), secs(21));
        assert_eq!(pulse.due(Carries::List, secs(8)), secs(22));
    }
}
