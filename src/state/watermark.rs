//! Up to when a target has everything: one number that stands for all pending work.
//!
//! Whatever is pending has a ctime at or after the watermark, or a directory above it has, or it
//! came to its place since ([`super::Dirs::known_since`]); so a walk after a restart finds it
//! again, and no list of pending paths needs to be saved.
//!
//! How it moves: the engine requests a drain of its sources at the time `D`, and is notified when
//! every event from before it is in the dirty sets; then it closes each target's epoch. When
//! nothing of that epoch or an earlier one is left, every change from before `D` is on the target.
//! A change does not count by the time it was seen at: it may have waited in the kernel's queue for
//! any time before.

use std::collections::VecDeque;

use super::clock::Wall;
use crate::dirty::Epoch;

/// Drains kept in mind per target; when there are more (a target that is away), some are dropped:
/// the watermark then moves in larger steps, and never too far.
const MAX_POINTS: usize = 256;

/// The watermark of one target.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watermark {
    /// `None`: nothing is known of the target, it needs a comparison of the whole tree.
    at: Option<Wall>,
    points: VecDeque<(Wall, Epoch)>,
}

impl Watermark {
    /// Every change before `at` is on the target.
    pub(crate) fn new(at: Option<Wall>) -> Watermark {
        Watermark { at, points: VecDeque::new() }
    }

    /// See [`Watermark::new`].
    pub(crate) fn get(&self) -> Option<Wall> {
        self.at
    }

    /// Nothing is known of the target any more, until a later drain's epoch is clear.
    pub(crate) fn forget(&mut self) {
        *self = Watermark::default();
    }

    /// Every change before `at` belongs to `epoch` or an earlier one.
    pub(crate) fn drained(&mut self, at: Wall, epoch: Epoch) {
        if self.points.len() >= MAX_POINTS {
            // The one whose neighbours are closest, so that the rest stay evenly apart.
            let gap = |i: usize| self.points[i + 1].0.0.saturating_sub(self.points[i - 1].0.0);
            if let Some(least) = (1..self.points.len() - 1).min_by_key(|&i| gap(i)) {
                self.points.remove(least);
            }
        }
        self.points.push_back((at, epoch));
    }

    /// Moves up to the last drain whose epoch is `clear`; whether it moved. Calls `clear` with
    /// growing epochs until it says no.
    pub(crate) fn advance(&mut self, mut clear: impl FnMut(Epoch) -> bool) -> bool {
        let mut moved = false;
        while let Some(&(at, epoch)) = self.points.front() {
            if !clear(epoch) {
                break;
            }
            self.points.pop_front();
            // After the clock was set back, a later drain can carry an earlier time: that is the
            // one that holds.
            if self.at.is_none_or(|now| at > now) {
                self.at = Some(at);
                moved = true;
            }
        }
        moved
    }

    /// The clock was set back and may have shown `at`: changes since may have a ctime from there
    /// on.
    pub(crate) fn lower(&mut self, at: Wall) -> bool {
        for point in &mut self.points {
            point.0 = point.0.min(at);
        }
        let lowered = self.at.is_some_and(|now| now > at);
        self.at = self.at.map(|now| now.min(at));
        lowered
    }

    /// Drains whose epoch is not clear yet.
    pub(crate) fn waiting(&self) -> bool {
        !self.points.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::Epochs;

    fn epochs(n: usize) -> Vec<Epoch> {
        let mut clock = Epochs::default();
        (0..n).map(|_| clock.close()).collect()
    }

    #[test]
    fn it_follows_the_oldest_epoch_that_is_not_clear() {
        let e = epochs(4);
        let mut w = Watermark::new(None);
        for (at, epoch) in [(10, e[0]), (20, e[1]), (30, e[2])] {
            w.drained(Wall(at), epoch);
        }
        assert!(!w.advance(|_| false));
        assert_eq!(w.get(), None, "nothing is confirmed");
        assert!(w.advance(|epoch| epoch <= e[1]));
        assert_eq!(w.get(), Some(Wall(20)));
        assert!(!w.advance(|epoch| epoch <= e[1]));
        w.drained(Wall(40), e[3]);
        assert!(w.advance(|_| true));
        assert_eq!((w.get(), w.waiting()), (Some(Wall(40)), false));
    }

    #[test]
    fn a_clock_set_back_takes_it_along() {
        let e = epochs(3);
        let mut w = Watermark::new(Some(Wall(1000)));
        w.drained(Wall(1100), e[0]);
        assert!(w.lower(Wall(500)));
        assert_eq!(w.get(), Some(Wall(500)));
        w.drained(Wall(510), e[1]);
        w.advance(|epoch| epoch <= e[0]);
        assert_eq!(w.get(), Some(Wall(500)), "the drain from before the clock was set says nothing of the time after");
        w.advance(|_| true);
        assert_eq!(w.get(), Some(Wall(510)));
        assert!(!w.lower(Wall(600)));
    }

    #[test]
    fn a_target_that_is_away_for_long_costs_no_memory() {
        let e = epochs(10_000);
        let mut w = Watermark::new(Some(Wall(0)));
        for (n, epoch) in e.iter().enumerate() {
            w.drained(Wall(n as i64), *epoch);
            assert!(w.points.len() <= MAX_POINTS);
        }
        assert!(w.points.iter().all(|(at, epoch)| e[at.0 as usize] == *epoch), "no time is credited to another's epoch");
        w.advance(|epoch| epoch <= e[5_000]);
        let at = w.get().unwrap().0;
        assert!((4_500..=5_000).contains(&at), "{at}");
        w.advance(|_| true);
        assert_eq!(w.get(), Some(Wall(9_999)));
    }
}
