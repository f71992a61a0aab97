//! When files were last written, by their handles.
//!
//! A write is known by the name it came through until it is on the targets. When the file loses
//! that name before, what is left is a record of its attributes, for its number of names changed
//! (see [`relinked`](super::relinked)). Size and time may be those from before the write (a program
//! can set the time back), so such a record has to count as one of content: where the file was
//! written since the oldest change that is not on every target.
//!
//! Each file has one of [`PLACES`] places by the hash of its handle, and two that share one are
//! taken for each other: then a content is compared that need not be, and none is missed. Costs
//! 256 KiB once a file was written, and one store for each write. The same is kept of attributes:
//! of a file that the kernel knows by a name outside only, such a record says nothing else.

use std::time::Duration;

use super::tree::hash;
use crate::source::fan_decode::Fid;

/// A power of two.
const PLACES: usize = 1 << 16;
/// So long after a change is on the targets the record of a name that its file lost may come: the
/// kernel raises both one after the other.
const SLACK: Duration = Duration::from_secs(5);

/// See the module's text. Times are since the daemon's start.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Seconds and one; 0: never.
    at: Box<[u32]>,
    /// Every change from before is on the targets.
    confirmed: Duration,
}

fn stamp(at: Duration) -> u32 {
    u32::try_from(at.as_secs() + 1).unwrap_or(u32::MAX)
}

fn place(file: &Fid<'_>) -> usize {
    hash((file.fs.0, file.kind, file.handle)) as usize % PLACES
}

impl Writes {
    /// `file` was written just now.
    pub(super) fn note(&mut self, file: &Fid<'_>, now: Duration) {
        if self.at.is_empty() {
            self.at = vec![0; PLACES].into();
        }
        self.at[place(file)] = stamp(now);
    }

    /// Every change from before `since` is on the targets.
    pub(super) fn confirmed(&mut self, since: Duration) {
        self.confirmed = since;
    }

    /// Whether `file` was written, and that may not be on the targets.
    pub(super) fn may_be_unsent(&self, file: &Fid<'_>) -> bool {
        !self.at.is_empty() && self.at[place(file)] >= stamp(self.confirmed.saturating_sub(SLACK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::handle::FsId;

    fn fid(handle: &[u8]) -> Fid<'_> {
        Fid { fs: FsId(1), kind: 1, handle }
    }

    #[test]
    fn a_write_counts_until_it_is_on_the_targets() {
        let at = Duration::from_secs;
        let (a, b) = (fid(b"a"), fid(b"b"));
        let mut writes = Writes::default();
        assert!(!writes.may_be_unsent(&a), "none at all");
        writes.note(&a, Duration::ZERO);
        assert!(writes.may_be_unsent(&a) && !writes.may_be_unsent(&b));
        writes.note(&a, at(100));
        writes.confirmed(at(90));
        assert!(writes.may_be_unsent(&a), "a target is away");
        writes.confirmed(at(100) + SLACK);
        assert!(writes.may_be_unsent(&a), "what the kernel raised with it is on its way");
        writes.confirmed(at(101) + SLACK);
        assert!(!writes.may_be_unsent(&a));
    }
}
