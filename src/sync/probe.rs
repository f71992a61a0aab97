//! What the local rsync can do, and whether a target is usable.

/// What the local rsync can do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RsyncFacts {
    /// `--confine-root` exists (3.5.0 and later).
    pub confine_root: bool,
}
