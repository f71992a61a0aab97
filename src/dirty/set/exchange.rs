//! Exchanges of two names (`RENAME_EXCHANGE`). The kernel reports one as two renames, `a` to `b`
//! and `b` to `a`, so the second takes from `b` what the first has brought there, though it stays.

use crate::hash;
use crate::path::RelPath;

/// Tells an exchange by its two renames. Names are known by hashes: two renames that are taken for
/// an exchange cost one more lookup of a path.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// The last rename, from and to.
    last: Option<(u64, u64)>,
    /// What left just now.
    left: Option<u64>,
    /// The same, where it is the new name of the last rename, and a change had come through it.
    changed: Option<RelPath>,
}

impl Exchange {
    /// `path` is the old name of a rename. `changed`: a change had come through it.
    pub(super) fn left(&mut self, path: &[u8], changed: bool) {
        let name = hash::of(path);
        self.left = Some(name);
        let again = changed && self.last.is_some_and(|(_, to)| to == name);
        self.changed = again.then(|| RelPath::from_normal(path));
    }

    /// `path` is the new name of that rename. If it is the second half of an exchange, the name at
    /// which the file lies that the first one moved, where a change had come through that name.
    pub(super) fn arrived(&mut self, path: &[u8]) -> Option<RelPath> {
        let (from, to) = (self.left.take()?, hash::of(path));
        let exchanged = self.last.replace((from, to)) == Some((to, from));
        self.changed.take().filter(|_| exchanged)
    }
}
