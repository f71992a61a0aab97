//! What is to be looked at, per target.

/// What a source has seen happen to a path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Seen {
    /// A file was closed after writing, or moved here: it is complete now.
    Written,
    /// Attributes changed, of a file or a directory.
    Touched,
    /// A non-directory appeared, perhaps not yet closed.
    Created,
    /// A non-directory was deleted or moved away.
    Gone,
    /// A directory was made, and its children raise their own events from the start (fanotify only).
    CreatedDir,
    /// A directory was deleted or moved away; absorbs all below.
    GoneDir,
    /// Everything at and below must be looked at: a directory moved in; with inotify every new directory.
    Subtree,
}
