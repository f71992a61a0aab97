//! A file of holes that a comparison stands at: it takes hours by its size alone, and takes up next
//! to nothing on the source, so no quota bounds it. rsync learns of a target without room for it
//! only when all of it is sent (a module, 3.5.0: the sender reads no message while it sends a
//! file).
//!
//! Such a comparison is ended and made again without the file, which travels by itself in the lane
//! of large files. Files that have their blocks are none of these: what they take is their owner's.
//!
//! A comparison that stands at a file without a name any more is ended as well.

use super::*;
use crate::sys::child::OpenFile;

/// A comparison that stands at a file of holes for so long goes on without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a run has open, and since when.
#[derive(Debug, Default)]
pub(super) struct StalledAt {
    inode: u64,
    since: Duration,
}

/// Why a comparison is ended that stands at a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nothing has its name any more.
    Gone,
    /// It has next to no blocks; where it lies, as the kernel names it.
    Hollow(std::path::PathBuf),
}

impl StalledAt {
    /// Takes in what is open now.
    pub(super) fn judge(&mut self, now: Duration, open: Option<OpenFile>) -> Option<Stop> {
        let Some(file) = open else {
            *self = StalledAt::default();
            return None;
        };
        if file.inode != self.inode {
            *self = StalledAt { inode: file.inode, since: now };
            return None;
        }
        if now.saturating_sub(self.since) < PATIENCE {
            return None;
        }
        match file.links {
            0 => Some(Stop::Gone),
            _ if file.size >= lanes::LARGE_FILE && file.blocks.saturating_mul(512) < file.size / 2 => {
                Some(Stop::Hollow(file.path))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_comparison_goes_on_without_a_file() {
        let file = |inode, size, blocks, links| OpenFile { path: "/s/f".into(), inode, size, blocks, links };
        let secs = Duration::from_secs;
        let tib = 1 << 40;
        for (size, blocks, links, want) in [
            (tib, 0, 1, Some(Stop::Hollow("/s/f".into()))),
            (tib, tib / 1024 - 1, 2, Some(Stop::Hollow("/s/f".into()))),
            (tib, tib / 1024, 1, None),
            (tib, tib / 512, 1, None),
            (lanes::LARGE_FILE, 8, 1, Some(Stop::Hollow("/s/f".into()))),
            (lanes::LARGE_FILE - 1, 0, 1, None),
            (tib, tib / 512, 0, Some(Stop::Gone)),
        ] {
            let mut stalled = StalledAt::default();
            let open = || Some(file(7, size, blocks, links));
            assert_eq!(stalled.judge(secs(10), open()), None, "just begun");
            assert_eq!(stalled.judge(secs(11), open()), None, "not for long");
            assert_eq!(stalled.judge(secs(12), open()), want, "{size} bytes in {blocks} blocks, {links} names");
            assert_eq!(stalled.judge(secs(13), Some(file(8, size, blocks, links))), None, "another file");
            assert_eq!(stalled.judge(secs(14), None), None);
            assert_eq!(stalled.judge(secs(16), open()), None, "begun anew");
        }
    }
}
