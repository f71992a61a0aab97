//! What is pending for one path.

use super::{DirtySet, Epoch, Kind, ROOT, components};
use crate::path::RelPath;

impl DirtySet {
    /// The pending entry that covers `path`: of the path itself, or of a directory above with what
    /// is in it.
    pub(crate) fn pending_at(&self, path: &[u8]) -> Option<(RelPath, Kind, Epoch)> {
        let pending = |at: u32| {
            let n = &self.tree[at];
            n.kind.map(|kind| (self.tree.path_of(at), kind, n.epoch))
        };
        let mut at = ROOT;
        let mut left = components(path).count();
        for name in components(path) {
            let level = left == 1; // what one level of a directory covers
            if let Some(found) = pending(at).filter(|(_, kind, _)| *kind == Kind::Subtree || *kind == Kind::Contents && level) {
                return Some(found);
            }
            at = self.tree.child(at, name)?;
            left -= 1;
        }
        pending(at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Seen;
    use super::*;

    #[test]
    fn what_covers_a_path() {
        let mut set = DirtySet::new(1000);
        set.see(b"a/f", Seen::Written);
        set.see(b"d", Seen::Contents);
        set.see(b"s", Seen::Subtree);
        set.see(b"t", Seen::Touched);
        let at = |path: &str| set.pending_at(path.as_bytes()).map(|(at, kind, _)| (at.to_string(), kind));
        assert_eq!(at("a/f"), Some(("a/f".into(), Kind::Entry)));
        assert_eq!(at("d/x"), Some(("d".into(), Kind::Contents)));
        assert_eq!(at("s/x/y"), Some(("s".into(), Kind::Subtree)));
        assert_eq!((at("a"), at("a/g"), at("d/x/y"), at("t/f"), at("")), (None, None, None, None, None));
        assert_eq!(at("t"), Some(("t".into(), Kind::Entry)));
    }
}
