//! How long changes take until a target holds them: from the event that made a path pending to the
//! end of the run that carried it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::dirty::{Entry, Kind};
use crate::status;

/// Upper bounds of the histogram's buckets, in milliseconds: from what a change alone takes on a
/// local network to an outage of an hour.
const BOUNDS_MS: [u32; 17] =
    [1, 2, 5, 10, 20, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 600_000, 3_600_000];
/// Paths that the percentiles are taken of: 4 KiB for each target.
const RECENT: usize = 1_000;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    /// Paths in each bucket alone; the last one is for what took longer than every bound.
    counts: [u64; BOUNDS_MS.len() + 1],
    sum: Duration,
    /// What the last paths took, in milliseconds; the oldest first.
    recent: VecDeque<u32>,
}

impl Latency {
    /// Counts what is confirmed at `now` (time since the daemon's start). A comparison of the whole
    /// tree is no change and counts for nothing, and neither does what was found `equal` although it
    /// had been opened for writing.
    pub(super) fn confirmed(&mut self, now: Duration, entries: &[Entry], equal: impl Fn(&Entry) -> bool) {
        let changes = entries.iter().filter(|e| !(e.path.is_root() && e.kind == Kind::Subtree || equal(e)));
        changes.for_each(|entry| self.count(now.saturating_sub(entry.since())));
    }

    /// Counts one more, that took so long.
    pub(crate) fn count(&mut self, took: Duration) {
        let ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        self.counts[BOUNDS_MS.partition_point(|bound| *bound < ms)] += 1;
        self.sum += took;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(ms);
    }

    pub(crate) fn shown(&self) -> status::Latency {
        let mut recent: Vec<u32> = self.recent.iter().copied().collect();
        recent.sort_unstable();
        let mut below = 0;
        let mut cumulative = |(bound, count): (&u32, &u64)| {
            below += count;
            status::Bucket { seconds: f64::from(*bound) / 1000.0, paths: below }
        };
        status::Latency {
            p50_seconds: percentile(&recent, 50),
            p99_seconds: percentile(&recent, 99),
            recent: recent.len() as u64,
            buckets: BOUNDS_MS.iter().zip(&self.counts).map(&mut cumulative).collect(),
            paths: self.counts.iter().sum(),
            sum_seconds: self.sum.as_secs_f64(),
        }
    }
}

/// The smallest of them that at least `percent` in a hundred do not exceed, in seconds; 0 of none.
fn percentile(sorted_ms: &[u32], percent: usize) -> f64 {
    let rank = (sorted_ms.len() * percent).div_ceil(100).max(1);
    sorted_ms.get(rank - 1).map_or(0.0, |ms| f64::from(*ms) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_counted_once_below_its_bound() {
        let mut latency = Latency::default();
        for ms in [0, 1, 2, 3, 50, 51, 3_600_000, 3_600_001] {
            latency.count(Duration::from_millis(ms));
        }
        let shown = latency.shown();
        let at = |seconds: f64| shown.buckets.iter().find(|b| b.seconds == seconds).map(|b| b.paths);
        let want = [(0.001, 2), (0.002, 3), (0.005, 4), (0.05, 5), (0.1, 6), (600.0, 6), (3600.0, 7)];
        assert_eq!(want.map(|(seconds, _)| at(seconds)), want.map(|(_, paths)| Some(paths)));
        assert_eq!((shown.paths, shown.recent), (8, 8), "also what took longer than every bound");
        assert!((shown.sum_seconds - 7200.108).abs() < 1e-6, "{}", shown.sum_seconds);
    }

    #[test]
    fn percentiles_are_those_of_the_last_paths() {
        assert_eq!((percentile(&[], 50), percentile(&[7], 99)), (0.0, 0.007));
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (0.05, 0.099));
        let mut latency = Latency::default();
        (0..RECENT).for_each(|_| latency.count(Duration::from_secs(60)));
        (0..RECENT).for_each(|_| latency.count(Duration::from_millis(3)));
        let shown = latency.shown();
        assert_eq!((shown.p50_seconds, shown.p99_seconds, shown.recent), (0.003, 0.003, RECENT as u64));
        assert_eq!(shown.paths, 2 * RECENT as u64);
    }
}
