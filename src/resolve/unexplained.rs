//! Files whose attributes changed and that the kernel has no path for, until it is known why.
//!
//! A file that loses or gains one of several names raises FAN_ATTRIB without a name, just before
//! the record of that name (Linux 6.18, `fsnotify_link_count`). Where its other names are not in
//! the kernel's cache, nothing says whether it lies inside the root. Programs that work with many
//! hard links (build tools, snapshots made of links) do this all the time, anywhere on the
//! filesystem, and it is of no concern: the name's own record says what changed. The same record
//! also comes when someone who works by file handle, an NFS server, changes a file that lost its
//! name in the cache; that must not be missed.
//!
//! So such a record waits for one that adds or takes a name of the same file. When the queue was
//! drained once and none came, the file is sought below the root ([`nameless`](super::nameless)).
//!
//! Gives up: of a change by handle that comes in one window with another name of the same file made
//! or removed, that change is taken for the link count's.

use std::collections::HashMap;

use crate::links::Inode;
use crate::source::fan_decode::Fid;

/// More at once are not held: each names an inode of some hundred bytes of kernel queue, so this is
/// never seen unless something is wrong.
const MAX: usize = 10_000;

/// A handle of one's own: filesystem, type and bytes.
pub(super) type Owned = (u64, i32, Box<[u8]>);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Unexplained(HashMap<Owned, Inode>);

/// That of a record.
pub(super) fn owned(fid: &Fid<'_>) -> Owned {
    (fid.fs.0, fid.kind, fid.handle.into())
}

impl Unexplained {
    /// Holds a file back; `false` when there are too many.
    pub(crate) fn hold(&mut self, file: &Fid<'_>, inode: Inode) -> bool {
        self.0.len() < MAX && {
            self.0.insert(owned(file), inode);
            true
        }
    }

    /// A name of `file` was made or removed. Whether it was held back: then it lives and has other
    /// names.
    pub(crate) fn explained(&mut self, file: &Fid<'_>) -> bool {
        !self.0.is_empty() && self.0.remove(&owned(file)).is_some()
    }

    /// Whether some wait.
    pub(crate) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Everything that the kernel had queued was seen: what is left has no explanation.
    pub(crate) fn settle(&mut self) -> impl Iterator<Item = (Owned, Inode)> + '_ {
        self.0.drain()
    }
}
