//! When what waits leaves, and how many paths at a time. Pure: the time and the number of paths are
//! arguments.
//!
//! The first change after a quiet time leaves at once. What follows leaves in a pause of the
//! events, or when the oldest has waited long enough: of few paths ([`SMALL_PATHS`]) that follows
//! the length of the runs, since such a run costs little more than its process; more than that is a
//! flood, which gathers for [`FLOOD_DELAY`], since each batch of it takes processors from the
//! process that causes it. `max_delay` bounds both.
//!
//! With `delay` nothing leaves that has not waited for it, but what hurries: a flush, a target that
//! answers again, a command. When it is over, as many paths leave as wait then; what comes
//! meanwhile waits as long again. So runs are no closer together than `delay`, however busy the
//! source is.
//!
//! A flood leaves whole, by one run: the next batch takes the next job while that flies. It is
//! shared out among the free jobs when it has come to a pause. Its pause has to be longer the
//! longer it has lasted, since who causes it may have to wait for a processor that our own runs
//! hold.

use std::time::Duration;

use super::SMALL_PATHS;
use crate::config;

/// No event for this many times `settle` (events come at that cadence), and a burst is taken to be
/// over.
const PAUSE_SETTLES: u32 = 5;
/// The same of a flood: a share of the time it has lasted, and at most so many times `settle`.
const FLOOD_PAUSE_SHARE: u32 = 8;
const FLOOD_PAUSE_SETTLES: u32 = 20;
/// Quiet for this many times `settle`, and the next event is handled at once.
const QUIET_SETTLES: u32 = 4;
/// The delay of a busy target, in runs' lengths, and its lower bound.
const DELAY_RUNS: u32 = 20;
const DELAY_MIN: Duration = Duration::from_millis(50);
/// The least delay of a flood.
const FLOOD_DELAY: Duration = Duration::from_millis(300);
/// Fewer paths are not shared out among jobs.
const SHARE_MIN: usize = 500;

/// What the decisions are made from. All times are since the daemon's start.
#[derive(Debug)]
pub(super) struct Pace {
    settle: Duration,
    max_delay: Duration,
    /// Zero where changes need not wait.
    delay: Duration,
    max_paths: usize,
    /// When the last event came.
    last_seen: Duration,
    /// When the events began that came without a pause until then.
    began: Duration,
    /// Since when the oldest waits of what may leave.
    first_ready: Option<Duration>,
    /// With `delay`: when what waits may leave.
    opens: Option<Duration>,
    /// With `delay`: how many of the paths are left whose wait is over.
    released: usize,
    go_now: bool,
    /// More than few paths have waited since the last pause.
    flood: bool,
    run_length: Duration,
}

impl Pace {
    /// That of a target of which nothing is known: what comes first leaves at once.
    pub(super) fn new(batch: &config::Batch, delay: Option<Duration>) -> Pace {
        Pace {
            settle: batch.settle,
            max_delay: batch.max_delay,
            delay: delay.unwrap_or_default(),
            max_paths: batch.max_paths,
            last_seen: Duration::ZERO,
            began: Duration::ZERO,
            first_ready: None,
            opens: None,
            released: 0,
            go_now: true,
            flood: false,
            run_length: Duration::ZERO,
        }
    }

    /// An event came.
    pub(super) fn seen(&mut self, now: Duration) {
        let quiet = now.saturating_sub(self.last_seen);
        if self.first_ready.is_none() {
            self.first_ready = Some(now);
            self.go_now |= self.delay.is_zero()
                && quiet > (self.settle * QUIET_SETTLES).max(if self.flood { self.pause() } else { Duration::ZERO });
        }
        if quiet >= self.pause() {
            (self.began, self.flood) = (now, false);
        }
        self.last_seen = now;
    }

    /// Something may leave that no event reported just now.
    pub(super) fn waits(&mut self, now: Duration) {
        self.first_ready.get_or_insert(now);
    }

    /// What waits is not to wait for company.
    pub(super) fn hurry(&mut self) {
        self.go_now = true;
    }

    /// The whole tree is to be compared: that is no change that waits for others.
    pub(super) fn hurry_whole(&mut self) {
        self.go_now |= !self.delay.is_zero();
    }

    /// Whether what waits need not wait for company.
    pub(super) fn hurries(&self) -> bool {
        self.go_now
    }

    /// The time, and how many paths may leave.
    pub(super) fn tick(&mut self, now: Duration, ready: usize) {
        self.flood = now < self.calm_at() && (self.flood || ready > SMALL_PATHS);
        self.wait(now, ready);
    }

    /// With `delay`: the wait of what may leave begins, if none goes on.
    fn wait(&mut self, now: Duration, ready: usize) {
        if self.delay.is_zero() || ready == 0 {
            (self.opens, self.released) = (None, 0);
        } else if self.released == 0 {
            self.opens.get_or_insert(now + self.delay);
        }
    }

    /// When the flood that goes on will have paused, if no event comes.
    pub(super) fn flood_ends(&self) -> Option<Duration> {
        self.flood.then(|| self.calm_at())
    }

    /// Something left, or nothing did, and of `before` paths `ready` stay behind.
    pub(super) fn left(&mut self, now: Duration, launched: bool, before: usize, ready: usize) {
        if !self.delay.is_zero() {
            match self.released {
                // The wait of all these was over.
                0 if launched => (self.opens, self.released) = (None, ready),
                0 => {}
                some => self.released = some.saturating_sub(before.saturating_sub(ready)).min(ready),
            }
            // What comes next waits, although nothing was there to hurry.
            self.go_now &= ready > 0;
            self.wait(now, ready);
        }
        self.go_now &= !launched;
        if ready == 0 {
            self.first_ready = None;
        } else if launched {
            // What is left waits for something in flight; its own delay begins anew.
            self.first_ready = Some(now);
        }
    }

    /// A run of a list has taken so long.
    pub(super) fn ran(&mut self, took: Duration) {
        self.run_length = (self.run_length * 3 + took) / 4;
    }

    /// When `ready` paths may leave; `None` when there are none. `hurry`: a flush waits for them.
    pub(super) fn leaves_at(&self, ready: usize, hurry: bool) -> Option<Duration> {
        if ready == 0 {
            return None;
        }
        if self.go_now || hurry || self.released > 0 {
            return Some(Duration::ZERO);
        }
        let oldest = self.first_ready.unwrap_or(Duration::ZERO);
        let leaves = self.calm_at().min(oldest + self.company(ready));
        Some(self.opens.map_or(leaves, |opens| leaves.max(opens)))
    }

    /// With `delay`: when what waits may leave. `None`: it may leave now, or nothing waits.
    pub(super) fn opens_at(&self, hurry: bool) -> Option<Duration> {
        self.opens.filter(|_| !(self.go_now || hurry || self.released > 0))
    }

    /// The least wait of a change; zero without `delay`.
    pub(super) fn least(&self) -> Duration {
        self.delay
    }

    /// How many of `ready` paths one bulk run takes, where so many jobs are free.
    pub(super) fn share(&self, now: Duration, ready: usize, free_jobs: usize, hurry: bool) -> usize {
        let goes_on = !hurry && !self.go_now && now < self.calm_at();
        // Two runs at once take two thirds of the time of one (measured), but also of the
        // processors.
        let jobs = if goes_on { 1 } else { free_jobs.max(1) };
        ready.div_ceil(jobs).max(SHARE_MIN).min(self.max_paths)
    }

    /// How many of `wanted` standby processes to keep. A flood uses none, and each that is started
    /// takes a processor from its transfers. With `delay` they would save milliseconds of a wait,
    /// and hold connections.
    pub(super) fn standbys(&self, wanted: usize) -> usize {
        if self.flood || !self.delay.is_zero() { 0 } else { wanted }
    }

    fn calm_at(&self) -> Duration {
        self.last_seen + self.pause()
    }

    /// How long no event comes when a burst is over.
    fn pause(&self) -> Duration {
        let least = self.settle * PAUSE_SETTLES;
        match self.flood {
            true => {
                (self.last_seen.saturating_sub(self.began) / FLOOD_PAUSE_SHARE).clamp(least, self.settle * FLOOD_PAUSE_SETTLES)
            }
            false => least,
        }
    }

    /// How long the oldest change waits for company at most.
    fn company(&self, ready: usize) -> Duration {
        let least = if ready > SMALL_PATHS { FLOOD_DELAY } else { DELAY_MIN };
        (self.run_length * DELAY_RUNS).max(least).min(self.max_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = SMALL_PATHS + 1;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// `settle` 2 ms, `max_delay` 300 ms, 20,000 paths; the first change of all has left at 1,000
    /// ms.
    fn pace(max_delay: u64) -> Pace {
        let mut pace =
            Pace::new(&config::Batch { settle: ms(2), max_delay: ms(max_delay), max_paths: 20_000, ..Default::default() }, None);
        pace.seen(ms(1_000));
        assert_eq!(pace.leaves_at(1, false), Some(Duration::ZERO));
        pace.left(ms(1_000), true, 0, 0);
        pace
    }

    /// Events every 2 ms, the last one at `until`.
    fn events(pace: &mut Pace, from: u64, until: u64, ready: usize) {
        for at in (from..=until).step_by(2) {
            pace.seen(ms(at));
            pace.tick(ms(at), ready);
        }
    }

    #[test]
    fn the_first_after_a_quiet_time_leaves_at_once() {
        for (next, at_once) in [(1_002, false), (1_008, false), (1_009, true), (2_000, true)] {
            let mut pace = pace(300);
            pace.seen(ms(next));
            assert_eq!(pace.leaves_at(1, false) == Some(Duration::ZERO), at_once, "the next at {next} ms");
            assert_eq!(pace.leaves_at(1, true), Some(Duration::ZERO), "a flush waits");
            assert_eq!(pace.leaves_at(0, true), None);
        }
        let mut pace = pace(300);
        pace.seen(ms(2_000));
        pace.left(ms(2_000), false, 0, 1);
        assert_eq!(pace.leaves_at(1, false), Some(Duration::ZERO), "what was not sent is not delayed");
    }

    #[test]
    fn a_delay_follows_the_runs_and_the_number_of_paths() {
        // Paths, length of the runs, `max_delay`, milliseconds until they leave while events go on.
        for (ready, run, max_delay, delay) in [
            (1, 0, 300, 50),
            (1, 5, 300, 100),
            (SMALL_PATHS, 5, 300, 100),
            (SMALL_PATHS, 100, 300, 300),
            (1, 0, 20, 20),
            (MANY, 0, 300, 300),
            (MANY, 5, 300, 300),
            (MANY, 5, 100, 100),
            (MANY, 5, 5_000, 300),
            (MANY, 50, 5_000, 1_000),
            (MANY, 1_000, 5_000, 5_000),
        ] {
            let mut pace = pace(max_delay);
            (0..100).for_each(|_| pace.ran(ms(run)));
            let until = 1_002 + delay;
            events(&mut pace, 1_002, until, ready);
            let leaves = pace.leaves_at(ready, false).expect("something waits");
            assert!(leaves.abs_diff(ms(until)) < ms(1), "{ready} paths, runs of {run} ms, {max_delay} at most: at {leaves:?}");
        }
    }

    #[test]
    fn a_burst_is_over_after_a_pause() {
        // Paths, how long events came, milliseconds without one until they leave.
        for (ready, lasted, pause) in [(10, 40, 10), (MANY, 40, 10), (MANY, 80, 10), (MANY, 160, 20), (MANY, 280, 35)] {
            let mut pace = pace(10_000);
            (0..100).for_each(|_| pace.ran(ms(100)));
            events(&mut pace, 1_002, 1_000 + lasted, ready);
            assert_eq!(pace.leaves_at(ready, false), Some(ms(1_000 + lasted + pause)), "{ready} paths in {lasted} ms");
        }
        let mut long = pace(10_000);
        (0..100).for_each(|_| long.ran(ms(5_000)));
        events(&mut long, 1_002, 5_000, MANY);
        assert_eq!(long.leaves_at(MANY, false), Some(ms(5_040)), "a bound");
    }

    #[test]
    fn a_flood_leaves_whole_and_its_rest_is_shared() {
        let mut pace = pace(300);
        assert_eq!(pace.share(ms(2_000), 8_000, 2, false), 4_000, "nothing goes on");
        events(&mut pace, 2_000, 2_200, 8_000);
        pace.left(ms(2_200), true, 0, 8_000);
        for (now, ready, free, hurry, share) in [
            (2_200, 8_000, 2, false, 8_000),
            (2_200, 8_000, 2, true, 4_000),
            (2_200, 30_000, 2, false, 20_000),
            (2_224, 8_000, 2, false, 8_000),
            (2_226, 8_000, 2, false, 4_000),
            (2_226, 8_000, 1, false, 8_000),
            (2_226, 600, 2, false, SHARE_MIN),
        ] {
            assert_eq!(pace.share(ms(now), ready, free, hurry), share, "{ready} paths at {now} ms, {free} jobs free, {hurry}");
        }
    }

    #[test]
    fn what_stands_by_is_replaced_after_a_flood() {
        let mut pace = pace(300);
        events(&mut pace, 1_002, 1_100, SMALL_PATHS);
        assert_eq!((pace.standbys(2), pace.flood_ends()), (2, None), "few");
        events(&mut pace, 1_102, 1_200, MANY);
        assert_eq!(pace.standbys(2), 0);
        pace.left(ms(1_200), true, 0, 0);
        events(&mut pace, 1_202, 1_240, 3);
        let ends = pace.flood_ends().expect("it goes on, although little waits");
        assert_eq!((pace.standbys(2), ends), (0, ms(1_270)));
        pace.left(ms(1_250), true, 0, 0);
        pace.tick(ends - ms(1), 0);
        assert_eq!(pace.standbys(2), 0);
        pace.tick(ends, 0);
        assert_eq!((pace.standbys(2), pace.flood_ends()), (2, None));
        pace.seen(ms(1_300));
        assert_eq!(pace.leaves_at(1, false), Some(Duration::ZERO), "the next lone change");
    }
    /// `delay` 10 s; the first comparison has left at 1 s, and nothing waits.
    fn delayed() -> Pace {
        let batch = config::Batch { settle: ms(2), max_delay: ms(300), max_paths: 20_000, ..Default::default() };
        let mut pace = Pace::new(&batch, Some(ms(10_000)));
        pace.seen(ms(1_000));
        pace.tick(ms(1_000), 1);
        assert_eq!(pace.leaves_at(1, false), Some(Duration::ZERO), "the first comparison");
        pace.left(ms(1_000), true, 1, 0);
        pace
    }

    #[test]
    fn with_a_delay_a_change_waits_for_it_and_those_that_come_meanwhile_leave_with_it() {
        let mut pace = delayed();
        assert_eq!(pace.standbys(2), 0);
        pace.seen(ms(60_000));
        pace.tick(ms(60_000), 1);
        assert_eq!((pace.leaves_at(1, false), pace.opens_at(false)), (Some(ms(70_000)), Some(ms(70_000))));
        assert_eq!((pace.leaves_at(1, true), pace.opens_at(true)), (Some(Duration::ZERO), None), "a flush");
        pace.left(ms(60_000), false, 1, 1);
        events(&mut pace, 60_002, 69_990, 3);
        assert_eq!(pace.leaves_at(3, false), Some(ms(70_000)), "later ones do not put it off");
        events(&mut pace, 69_992, 70_000, 3);
        assert_eq!(pace.leaves_at(3, false), Some(ms(70_000)), "and no pause of the events is waited for");
    }

    #[test]
    fn with_a_delay_all_that_waited_leaves_and_what_comes_meanwhile_waits_as_long() {
        let mut pace = delayed();
        pace.seen(ms(20_000));
        pace.tick(ms(20_000), 1);
        pace.tick(ms(30_000), 100_000);
        pace.left(ms(30_000), true, 100_000, 60_000);
        // Two jobs took 40,000; 5,000 come while these run.
        pace.seen(ms(30_500));
        pace.tick(ms(30_500), 65_000);
        assert_eq!(pace.leaves_at(65_000, false), Some(Duration::ZERO));
        pace.left(ms(30_500), true, 65_000, 45_000);
        assert_eq!(pace.leaves_at(45_000, false), Some(Duration::ZERO));
        pace.left(ms(31_000), true, 45_000, 5_000);
        assert_eq!(pace.leaves_at(5_000, false), Some(ms(41_000)), "as many left as had waited");
        pace.tick(ms(41_000), 5_000);
        pace.left(ms(41_000), true, 5_000, 0);
        pace.seen(ms(41_001));
        pace.tick(ms(41_001), 1);
        assert_eq!(pace.leaves_at(1, false), Some(ms(51_001)));
    }

    #[test]
    fn with_a_delay_a_command_releases_what_waits_and_nothing_later() {
        let mut pace = delayed();
        pace.hurry();
        pace.left(ms(2_000), false, 0, 0);
        pace.seen(ms(3_000));
        pace.tick(ms(3_000), 1);
        assert_eq!(pace.leaves_at(1, false), Some(ms(13_000)), "nothing was there to hurry");
        pace.hurry();
        assert_eq!((pace.leaves_at(1, false), pace.opens_at(false)), (Some(Duration::ZERO), None));
        pace.left(ms(3_000), true, 1, 0);
        pace.seen(ms(3_001));
        pace.tick(ms(3_001), 1);
        assert_eq!(pace.leaves_at(1, false), Some(ms(13_001)));
        pace.hurry_whole();
        assert_eq!(pace.leaves_at(1, false), Some(Duration::ZERO), "a comparison of the whole tree");
    }
}
