//! `follow_open_files`: when a file that is being written is reported, by either kind of events.
//!
//! With fanotify the resolver does it, and mutes the file meanwhile (`resolve::follow`). With
//! inotify nothing can be muted: each write that finds the queue's last event another than its own
//! is an event; here they become one check per file and interval.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::Engine;
use super::intake::Fanout;
use crate::dirty::Seen;
use crate::path::RelPath;

/// Files in their interval at a time; one more is reported at once.
const MAX_WRITTEN: usize = 65_536;

/// Files that inotify says are being written, each until its interval is over.
pub(super) struct Written {
    interval: Duration,
    files: HashMap<RelPath, Duration>,
    /// By time. What is not in `files` with this time any more is skipped.
    due: VecDeque<(Duration, RelPath)>,
}

impl Written {
    pub(super) fn new(interval: Duration) -> Written {
        Written { interval, files: HashMap::new(), due: VecDeque::new() }
    }

    /// Takes in what was seen of `path`; `true` when it is to be reported now.
    pub(super) fn see(&mut self, path: &[u8], seen: Seen, now: Duration) -> bool {
        match seen.plain() {
            Seen::Modified => {
                if self.files.contains_key(path) {
                    return false;
                }
                if self.files.len() >= MAX_WRITTEN {
                    return true;
                }
                let (due, path) = (now + self.interval, RelPath::from_normal(path));
                self.files.insert(path.clone(), due);
                self.due.push_back((due, path));
                false
            }
            Seen::Written | Seen::Replaced | Seen::Gone => {
                self.files.remove(path);
                true
            }
            _ => true,
        }
    }

    /// Whether a write of this file waits for its interval.
    pub(super) fn holds(&self, path: &[u8]) -> bool {
        self.files.contains_key(path)
    }

    /// The next file whose interval is over at `now`. Where it moved meanwhile, the move reported
    /// the new name.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<RelPath> {
        while self.due.front().is_some_and(|(due, _)| *due <= now) {
            let (due, path) = self.due.pop_front()?;
            if self.files.get(&path) == Some(&due) {
                self.files.remove(&path);
                return Some(path);
            }
        }
        None
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.due.front().map(|(due, _)| *due)
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }
}

impl Engine {
    /// Reports the files whose interval is over; with [`Duration::MAX`] all, for a flush that waits
    /// for what is written so far.
    pub(super) fn report_followed(&mut self, until: Duration) {
        let now = self.now();
        let (mut fanout, gate) = (Fanout { now, targets: &mut self.targets, hooks: &mut self.hooks }, &self.intake.gate);
        let mut out = |path: &[u8], seen: Seen| {
            if !gate.hides(path) {
                fanout.apply(path, seen);
            }
        };
        let outcome = self.intake.resolver.report_followed(&self.root, &self.mirror.filter, until, &mut out);
        while let Some(path) = self.intake.written.take_due(until) {
            out(&path, Seen::Modified);
        }
        if let Err(lost) = outcome {
            self.lost(lost);
        }
        self.take_dir_times(until);
    }

    /// When there is something to report.
    pub(super) fn next_followed(&self) -> Option<Duration> {
        self.intake
            .resolver
            .next_followed()
            .into_iter()
            .chain(self.intake.written.next_due())
            .chain(self.intake.dir_times.next_due())
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn writes_are_told_once_per_interval_and_a_close_at_once() {
        let mut written = Written::new(SECOND * 2);
        assert!((0..5).all(|_| !written.see(b"log", Seen::Modified, SECOND)));
        assert_eq!((written.take_due(SECOND * 2), written.next_due()), (None, Some(SECOND * 3)));
        assert_eq!(written.take_due(SECOND * 3).as_deref(), Some(&b"log"[..]));
        assert_eq!(written.take_due(SECOND * 9), None);
        assert!(!written.see(b"log", Seen::Modified, SECOND * 4));
        assert!(written.see(b"log", Seen::Written, SECOND * 5));
        assert!(!written.see(b"log", Seen::Modified, SECOND * 5));
        assert_eq!(written.take_due(SECOND * 6), None, "the interval before the close is void");
        assert_eq!(written.take_due(Duration::MAX).as_deref(), Some(&b"log"[..]));
        assert_eq!((written.len(), written.next_due()), (0, None));
    }

    #[test]
    fn what_ends_a_write_ends_its_interval_and_nothing_else_does() {
        for (seen, reported, waits) in [
            (Seen::Modified, false, true),
            (Seen::Written, true, false),
            (Seen::Replaced, true, false),
            (Seen::Arrived, true, false),
            (Seen::Gone, true, false),
            (Seen::Left, true, false),
            (Seen::Touched, true, true),
            (Seen::Created, true, true),
        ] {
            let mut written = Written::new(SECOND);
            written.see(b"f", Seen::Modified, SECOND);
            assert_eq!((written.see(b"f", seen, SECOND), written.holds(b"f")), (reported, waits), "{seen:?}");
            assert_eq!(written.take_due(Duration::MAX).is_some(), waits, "{seen:?}");
        }
    }

    #[test]
    fn beyond_the_bound_a_write_is_told_at_once() {
        let mut written = Written::new(SECOND);
        let name = |n: usize| n.to_string().into_bytes();
        assert!((0..MAX_WRITTEN).all(|n| !written.see(&name(n), Seen::Modified, SECOND)));
        assert!(written.see(b"more", Seen::Modified, SECOND) && !written.holds(b"more"));
        assert_eq!(written.len(), MAX_WRITTEN);
        assert!(!written.see(&name(0), Seen::Modified, SECOND), "those that wait go on waiting");
        written.see(&name(0), Seen::Written, SECOND);
        assert!(!written.see(b"more", Seen::Modified, SECOND), "one that ended makes room");
    }
}
