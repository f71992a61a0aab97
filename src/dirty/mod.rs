//! What is to be checked, per target: a set of distinct dirty paths, however many events made
//! them dirty.
//!
//! An event only names a path: the state of a path is read from the disk when its batch leaves.
//! So merging is cheap and the queue is as long as the number of distinct dirty paths. Everything
//! in this module is pure: no system calls, no threads, time is an argument.
//!
//! A path is in one of three places, and stays counted in its [`Epochs`] until the target confirmed
//! it:
//!
//! * *pending* in the [`DirtySet`];
//! * *in flight* in a [`Batch`]: nothing that touches it, above or below, leaves before that batch
//!   came back;
//! * with the caller, who waits to try it again ([`Batch::entries`] that failed), and hands it back
//!   with [`DirtySet::restore`] or [`DirtySet::take_again`].

mod epochs;
mod set;

pub(crate) use epochs::{Epoch, Epochs};
pub use set::{Batch, DirtySet, Entry, Kind, Limits};
pub(crate) use set::{BatchId, LEVEL_MIN, LinkRead, ListedTo, Moves, Needs};

/// Takes dirty paths as they are found.
pub trait PathSink {
    /// `seen` happened at `path`, below the source.
    fn apply(&mut self, path: &[u8], seen: Seen);
}

impl<F: FnMut(&[u8], Seen)> PathSink for F {
    fn apply(&mut self, path: &[u8], seen: Seen) {
        self(path, seen);
    }
}

/// What a source saw happen to a path. Sources of every kind speak this language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A file was closed after writing: it is complete now.
    Written,
    /// As `Written`, by a move to this name. Two names that are exchanged come as two renames, so
    /// what leaves the name next need not be what came to it.
    Replaced,
    /// A file is being written, and need not be complete.
    Modified,
    /// The attributes of a file or directory changed.
    Touched,
    /// The times of the directory changed, by an entry of it that came or went and is left out.
    DirTimes,
    /// A non-directory appeared and is perhaps still being written.
    Created,
    /// A non-directory was deleted or moved away.
    Gone,
    /// A directory was made, and its children raise events of their own from the first moment
    /// (fanotify).
    CreatedDir,
    /// A directory was deleted or moved away: absorbs all that was pending below.
    GoneDir,
    /// One level of the directory must be compared, with deletes.
    Contents,
    /// A directory moved to this name, with all below it: everything must be compared, and what
    /// looks the same may not be.
    MovedDir,
    /// Everything at and below the path must be compared, with deletes: a subtree without events.
    Subtree,
    /// As `Gone`, and the next event says where it went, as `Arrived`: one rename within the tree.
    Left,
    /// As `GoneDir`, and the next event says where it went, as `ArrivedDir`.
    LeftDir,
    /// As `Replaced`, of what the event before reported as `Left`.
    Arrived,
    /// As `MovedDir`, of what the event before reported as having left.
    ArrivedDir,
}

impl Seen {
    /// The same without what ties the two halves of a rename together.
    pub(crate) fn plain(self) -> Seen {
        match self {
            Seen::Left => Seen::Gone,
            Seen::LeftDir => Seen::GoneDir,
            Seen::Arrived => Seen::Replaced,
            Seen::ArrivedDir => Seen::MovedDir,
            Seen::DirTimes => Seen::Touched,
            other => other,
        }
    }

    /// Whether an entry came or went, so that the times of its directory changed.
    pub(crate) fn changes_dir(self) -> bool {
        match self {
            Seen::Written | Seen::Modified | Seen::Touched | Seen::DirTimes | Seen::Contents | Seen::Subtree => false,
            Seen::Replaced | Seen::Created | Seen::Gone | Seen::CreatedDir | Seen::GoneDir | Seen::MovedDir => true,
            Seen::Left | Seen::LeftDir | Seen::Arrived | Seen::ArrivedDir => true,
        }
    }
}
