//! Files whose attributes changed and that the kernel has no path for, until it is known why.
//!
//! A file that loses or gains one of several names raises FAN_ATTRIB without a name, just before the record of that name (Linux
//! 6.18, `fsnotify_link_count`). Where its other names are not in the kernel's cache, nothing says whether it lies inside the
//! root. Programs that work with many hard links (build tools, snapshots made of links) do this all the time, anywhere on the
//! filesystem, and it is of no concern: the name's own record tells what changed. The same record also comes when someone who
//! works by file handle, an NFS server, changes a file that lost its name in the cache; that must not be missed.
//!
//! So such a record waits for one that adds or takes a name of the same file. When the queue was drained once and none came, it
//! counts as lost.
//!
//! Gives up: of a change by handle that comes in one window with another name of the same file made or removed, that
//! change is taken for the link count's.

use std::collections::HashSet;

use crate::source::fan_decode::Fid;

/// More at once are not held: each names an inode of some hundred bytes of kernel queue, so this is never seen unless something is wrong.
const MAX: usize = 10_000;

type Owned = (u64, i32, Box<[u8]>);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Unexplained(HashSet<Owned>);

fn owned(fid: &Fid<'_>) -> Owned {
    (fid.fs.0, fid.kind, fid.handle.into())
}

impl Unexplained {
    /// Holds a file back; `false` when there are too many.
    pub fn hold(&mut self, file: &Fid<'_>) -> bool {
        self.0.len() < MAX && {
            self.0.insert(owned(file));
            true
        }
    }

    /// A name of `file` was made or removed.
    pub fn explained(&mut self, file: Option<&Fid<'_>>) {
        if !self.0.is_empty()
            && let Some(file) = file
        {
            self.0.remove(&owned(file));
        }
    }

    /// Whether some wait.
    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Everything that the kernel had queued was seen: what is left has no explanation. Whether there was any.
    pub fn settle(&mut self) -> bool {
        let any = self.any();
        self.0.clear();
        any
    }
}
