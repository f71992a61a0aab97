//! Paths that are pending and not to be taken before their time.

use std::collections::VecDeque;
use std::time::Duration;

use super::{ABSENT, LATER, OPEN, WAITS};
use crate::path::RelPath;

/// A path that was absent and is not held for that any more is no link that waits, either.
const ABSENCE: u16 = ABSENT | LATER;
/// What a path may be held for; with the mark of one that is open.
pub(super) const ALL: u16 = ABSENCE | WAITS | OPEN;

/// How many paths are held, and until when. What a path is held for is in the flags of its node.
#[derive(Default)]
pub(super) struct Holds {
    waiting: usize,
    absent: usize,
    later: usize,
    /// Files that wait for their closing write, by the time they stop waiting (oldest first).
    open: VecDeque<(Duration, RelPath)>,
    /// The same of paths that are `ABSENT`.
    absences: VecDeque<(Duration, RelPath)>,
}

impl Holds {
    fn count(&mut self, flag: u16) -> &mut usize {
        match flag {
            WAITS => &mut self.waiting,
            ABSENT => &mut self.absent,
            LATER => &mut self.later,
            _ => unreachable!("a path is held for one of three causes"),
        }
    }

    /// Holds a path for `flag`. Whether it was not held for that before.
    pub(super) fn begin(&mut self, flags: &mut u16, flag: u16) -> bool {
        let begins = *flags & flag == 0;
        *flags |= flag;
        *self.count(flag) += usize::from(begins);
        begins
    }

    /// The same of a file that is open, or of a path that is absent, at most until `until`.
    pub(super) fn begin_until(&mut self, flags: &mut u16, flag: u16, until: Duration, path: RelPath) {
        if self.begin(flags, flag) {
            let queue = if flag == ABSENT { &mut self.absences } else { &mut self.open };
            queue.push_back((until, path));
        }
    }

    /// Holds a path no longer for what is among `which`.
    pub(super) fn end(&mut self, flags: &mut u16, which: u16) {
        for flag in [WAITS, ABSENT, LATER] {
            *self.count(flag) -= usize::from(*flags & which & flag != 0);
        }
        *flags &= !which;
    }

    /// A path whose hold has ended by `now`, and what it is not held for any more.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<(RelPath, u16)> {
        [(&mut self.absences, ABSENCE), (&mut self.open, ALL)].into_iter().find_map(|(queue, flags)| {
            let due = queue.front().is_some_and(|(until, _)| *until <= now);
            due.then(|| queue.pop_front()).flatten().map(|(_, path)| (path, flags))
        })
    }

    /// When the next hold ends.
    pub(super) fn next(&self) -> Option<Duration> {
        self.open.front().into_iter().chain(self.absences.front()).map(|(until, _)| *until).min()
    }

    /// Paths that may not be taken; without those that wait for their closing write if asked for.
    pub(super) fn held(&self, ignore_open: bool) -> usize {
        self.absent + self.later + if ignore_open { 0 } else { self.waiting }
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;

    const ALL: Limits = Limits { max_paths: usize::MAX, ignore_holds: true };

    #[test]
    fn memory_of_a_burst_is_given_back_and_what_is_held_stays_so() {
        let mut set = DirtySet::new(1_000_000);
        set.see(b"", Seen::Touched);
        let mut root = set.take_shallow(ALL, &mut |_, _| false).unwrap();
        set.hold_absent(root.id, root.entries.remove(0), Duration::from_secs(1));
        for n in 0..2000 {
            set.see(format!("d/{n}").as_bytes(), Seen::Written);
        }
        let burst = set.take_shallow(ALL, &mut |_, _| false).unwrap();
        assert_eq!(burst.entries.len(), 2000);
        assert!(set.tree.get(1).is_some());
        set.confirm(burst.id, burst.entries);
        assert!(set.tree.get(1).is_none(), "the memory was kept");
        assert_eq!((set.pending(), set.ready(true), set.next_hold()), (1, 0, Some(Duration::from_secs(1))));
        set.tick(Duration::from_secs(1));
        assert_eq!((set.pending(), set.ready(true), set.next_hold()), (1, 1, None));
    }
}
