//! How old is the oldest change that is not on the target yet?
//!
//! Time is cut into epochs of [`EPOCH_MS`]; each unconfirmed path is counted in the epoch of its
//! first change. A flush request closes the current epoch: it is served when no path of that epoch
//! or an earlier one is left.

use std::collections::BTreeMap;
use std::time::Duration;

/// The grain of the lag, in milliseconds.
const EPOCH_MS: u64 = 1;

/// A moment, in units of `EPOCH_MS` since the daemon's start (or a little ahead of it after many
/// flush requests).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Epoch(u64);

impl Epoch {
    /// When it begins, as a time since the daemon's start.
    pub(crate) fn begins(self) -> Duration {
        Duration::from_millis(self.0 * EPOCH_MS)
    }
}

/// Unconfirmed paths by epoch. Memory: one entry per epoch that still has a path.
#[derive(Debug, Default)]
pub struct Epochs {
    now: u64,
    counts: BTreeMap<u64, u32>,
}

impl Epochs {
    /// Moves on to the epoch of `now` (time since the daemon's start); never backwards.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now.as_millis() as u64 / EPOCH_MS);
    }

    /// The epoch that new changes fall into.
    pub(crate) fn current(&self) -> Epoch {
        Epoch(self.now)
    }

    /// Closes the current epoch and returns it: all that is counted so far lies in it or before it,
    /// all that comes later lies behind it.
    pub(crate) fn close(&mut self) -> Epoch {
        self.now += 1;
        Epoch(self.now - 1)
    }

    pub(super) fn add(&mut self, at: Epoch) {
        *self.counts.entry(at.0).or_insert(0) += 1;
    }

    pub(super) fn remove(&mut self, at: Epoch) {
        match self.counts.get_mut(&at.0) {
            Some(1) => {
                self.counts.remove(&at.0);
            }
            Some(n) => *n -= 1,
            None => unreachable!("a confirmed path was counted in its epoch when it became dirty"),
        }
    }

    /// Whether nothing from `until` or before it is left.
    pub(crate) fn clear_until(&self, until: Epoch) -> bool {
        self.counts.first_key_value().is_none_or(|(&first, _)| first > until.0)
    }

    /// That of the oldest unconfirmed change.
    pub(crate) fn oldest(&self) -> Option<Epoch> {
        self.counts.first_key_value().map(|(&first, _)| Epoch(first))
    }

    /// Unconfirmed paths from `until` or before it.
    pub(crate) fn count_until(&self, until: Epoch) -> usize {
        self.counts.range(..=until.0).map(|(_, &n)| n as usize).sum()
    }

    /// Unconfirmed paths altogether.
    pub fn total(&self) -> usize {
        self.counts.values().map(|&n| n as usize).sum()
    }

    /// Age of the oldest unconfirmed change at `now` (time since the daemon's start), to within
    /// `EPOCH_MS`. `but`: the epochs of changes that do not count.
    pub(crate) fn lag(&self, now: Duration, but: &[Epoch]) -> Option<Duration> {
        let apart = |epoch: u64| but.iter().filter(|Epoch(other)| *other == epoch).count();
        let (&first, _) = self.counts.iter().find(|&(&epoch, &count)| count as usize > apart(epoch))?;
        Some(now.saturating_sub(Duration::from_millis(first * EPOCH_MS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_epoch_is_clear_only_when_its_paths_are_confirmed() {
        let mut e = Epochs::default();
        e.tick(Duration::from_millis(100));
        let a = e.current();
        e.add(a);
        let closed = e.close();
        let b = e.current();
        assert!(b > closed);
        e.add(b);
        assert!(!e.clear_until(closed));
        e.remove(a);
        assert!(e.clear_until(closed));
        assert!(!e.clear_until(b));
        assert_eq!(e.total(), 1);
    }

    #[test]
    fn lag_is_the_age_of_the_oldest() {
        let mut e = Epochs::default();
        assert_eq!(e.lag(Duration::from_secs(5), &[]), None);
        e.tick(Duration::from_secs(1));
        e.add(e.current());
        let first = e.current();
        e.tick(Duration::from_secs(3));
        e.add(e.current());
        let lag = |e: &Epochs, but: &[Epoch]| e.lag(Duration::from_secs(4), but).map(|lag| lag.as_secs());
        assert_eq!(lag(&e, &[]), Some(3));
        assert_eq!((lag(&e, &[first]), lag(&e, &[first, e.current()])), (Some(1), None));
        e.add(first);
        assert_eq!(lag(&e, &[first]), Some(3), "another change of that epoch");
    }
}
