//! Lost events, as one type that is handled in one place.
//!
//! Whatever makes the daemon miss events becomes `Lost { subtree, cause }`: the subtree is compared
//! whole, counted by cause, and logged once. Nothing else reports missed events, so nothing is
//! missed silently.
//!
//! Two causes concern one target alone, and no event is missed: [`Cause::PendingBound`] and
//! [`Cause::FailingPath`]. That target compares the subtree, or tries the path again, by itself;
//! they are counted here with the others.

use std::fmt;

use crate::path::RelPath;

/// Why the daemon does not know what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// The kernel's queue was full: `fs.fanotify.max_queued_events` or
    /// `fs.inotify.max_queued_events`.
    QueueOverflow,
    /// A buffer held bytes that no kernel writes.
    CorruptRecord,
    /// The kernel named an object by a handle that could not be turned into a path.
    UnresolvableHandle,
    /// A directory could not be watched: inotify's limit of watches, or an error.
    Unwatched,
    /// A filesystem was mounted or unmounted below the root.
    MountChanged,
    /// Reading events failed.
    ReaderFailed,
    /// An earlier run of the daemon was killed, or the machine went down under it, and not all it
    /// did can be proven.
    UncleanStop,
    /// More paths waited for a target than `max_pending`: directories stand for what is below them,
    /// and are compared with it.
    PendingBound,
    /// rsync failed on a path again and again: whether the target holds it is open until a later
    /// try.
    FailingPath,
}

impl Cause {
    /// Every cause.
    pub(crate) const ALL: [Cause; 9] = [
        Cause::QueueOverflow,
        Cause::CorruptRecord,
        Cause::UnresolvableHandle,
        Cause::Unwatched,
        Cause::MountChanged,
        Cause::ReaderFailed,
        Cause::UncleanStop,
        Cause::PendingBound,
        Cause::FailingPath,
    ];

    /// The name used in logs, status and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Cause::QueueOverflow => "queue_overflow",
            Cause::CorruptRecord => "corrupt_record",
            Cause::UnresolvableHandle => "unresolvable_handle",
            Cause::Unwatched => "unwatched",
            Cause::MountChanged => "mount_changed",
            Cause::ReaderFailed => "reader_failed",
            Cause::UncleanStop => "unclean_stop",
            Cause::PendingBound => "pending_bound",
            Cause::FailingPath => "failing_path",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A subtree of which something was missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The smallest subtree that holds everything missed.
    pub(crate) subtree: RelPath,
    /// Why.
    pub(crate) cause: Cause,
}

impl Lost {
    /// The whole tree.
    pub(crate) fn all(cause: Cause) -> Lost {
        Lost { subtree: RelPath::root(), cause }
    }
}
