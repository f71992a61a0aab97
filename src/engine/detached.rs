//! Filesystems below the source that were unmounted lazily (`umount -l`), and may be mounted again.
//!
//! Such a filesystem lives for as long as something has it open, and fansync has. If that ended
//! with the unmount, what is made for one mount would go with it before it can be mounted again: a
//! loop device that the kernel frees at its last close, a tmpfs. So it is kept open for [`KEEP`],
//! or until a filesystem is mounted at its place again, or the place is no longer waited for. Not
//! for longer: a device in use can be neither checked nor given away.
//!
//! Pure: the time is an argument.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::path::RelPath;

/// How long.
const KEEP: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Detached(Vec<(RelPath, Instant, OwnedFd)>);

impl Detached {
    /// The filesystem that was mounted at `at`.
    pub(super) fn keep(&mut self, at: RelPath, now: Instant, fd: OwnedFd) {
        self.0.retain(|(place, _, _)| *place != at);
        self.0.push((at, now + KEEP, fd));
    }

    /// Lets go of those whose time is over, or whose place is not `awaited`.
    pub(super) fn release(&mut self, now: Instant, awaited: impl Fn(&RelPath) -> bool) {
        self.0.retain(|(at, until, _)| *until > now && awaited(at));
    }

    #[cfg(test)]
    fn places(&self) -> Vec<&str> {
        self.0.iter().map(|(at, _, _)| std::str::from_utf8(at).unwrap()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn kept_for_a_while_and_no_longer_than_awaited() {
        let (at, start) = (|place: &'static str| RelPath::from_normal(place), Instant::now());
        let fd = || OwnedFd::from(File::open("/").unwrap());
        let mut kept = Detached::default();
        kept.keep(at("a"), start, fd());
        kept.keep(at("b"), start + KEEP / 2, fd());
        kept.release(start + KEEP / 2, |_| true);
        assert_eq!(kept.places(), ["a", "b"]);
        kept.release(start + KEEP, |_| true);
        assert_eq!(kept.places(), ["b"]);
        kept.keep(at("b"), start + KEEP, fd());
        kept.release(start + KEEP * 3 / 2, |_| true);
        assert_eq!(kept.places(), ["b"], "once more, and its time begins anew");
        kept.release(start + KEEP * 3 / 2, |place| *place != at("b"));
        assert!(kept.places().is_empty(), "mounted again, or given up");
    }
}
