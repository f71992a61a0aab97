//! Paths of directories that raised events of late: where many change in turn, writing each one's
//! path anew would be most of the work of resolving.

use super::tree::{NodeId, Tree};

/// Directories at a time, a power of two.
const SLOTS: usize = 1024;

/// See the module's text. A slot holds as long as the tree's version is that of the slot.
#[derive(Default)]
pub(super) struct Paths {
    /// Empty until one is remembered.
    slots: Vec<Slot>,
}

#[derive(Clone, Default)]
struct Slot {
    of: Option<(NodeId, u64)>,
    path: Vec<u8>,
}

impl Paths {
    /// Writes the path of `node` into `out` (cleared first); `false` when the node is detached.
    #[inline]
    pub(super) fn write(&mut self, tree: &Tree, node: NodeId, out: &mut Vec<u8>) -> bool {
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, Slot::default());
        }
        let of = Some((node, tree.version()));
        let slot = &mut self.slots[node.index() % SLOTS];
        if slot.of != of {
            slot.of = None;
            if !tree.path(node, &mut slot.path) {
                return false;
            }
            slot.of = of;
        }
        out.clear();
        out.extend_from_slice(&slot.path);
        true
    }

    /// To be called when the tree is another one.
    pub(super) fn forget(&mut self) {
        self.slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_that_of_the_moment() {
        let (mut tree, mut paths, mut out) = (Tree::new(100_000), Paths::default(), Vec::new());
        let dirs: Vec<NodeId> = (0..3 * SLOTS).map(|n| tree.ensure(format!("top/d{n}").as_bytes())).collect();
        for _ in 0..2 {
            for (n, &dir) in dirs.iter().enumerate() {
                assert!(paths.write(&tree, dir, &mut out));
                assert_eq!(out, format!("top/d{n}").as_bytes());
            }
        }
        let (last, other) = (*dirs.last().unwrap(), tree.ensure(b"other"));
        tree.rename(last, other, b"moved");
        assert!(paths.write(&tree, last, &mut out));
        assert_eq!(out, b"other/moved");
        tree.detach(other);
        assert!(!paths.write(&tree, last, &mut out));
        assert!(paths.write(&tree, tree.root(), &mut out) && out.is_empty());
    }
}
