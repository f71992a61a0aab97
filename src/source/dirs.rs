//! The tree of watched directories: watch → directory → path. Pure; makes no system calls.
//!
//! A node is its name, its parent and its children, so a rename re-hangs one node whatever lies
//! below. Between the two halves of a rename a node hangs nowhere ("in limbo"): it and all below
//! have no path.

use crate::sys::inotify::Wd;
use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use std::hash::BuildHasher;

/// A directory in the tree. Used again after the directory was removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct DirId(u32);

const NIL: u32 = u32::MAX;

#[derive(Debug)]
struct Node {
    /// `NIL` for the root and in limbo.
    parent: u32,
    first_child: u32,
    next: u32,
    prev: u32,
    /// The last walk that has seen it.
    stamp: u32,
    wd: Option<Wd>,
    name: Box<[u8]>,
}

/// The tree. Its root is always there.
#[derive(Debug)]
pub(super) struct Dirs {
    nodes: Vec<Node>,
    free: Vec<u32>,
    /// (parent, name) → node, for all but the root and what is in limbo.
    by_name: HashTable<u32>,
    by_wd: HashMap<i32, u32>,
    hasher: DefaultHashBuilder,
}

impl Dirs {
    pub(super) const ROOT: DirId = DirId(0);

    pub(super) fn new() -> Dirs {
        let root = Node { parent: NIL, first_child: NIL, next: NIL, prev: NIL, stamp: 0, wd: None, name: Box::default() };
        Dirs {
            nodes: vec![root],
            free: Vec::new(),
            by_name: HashTable::new(),
            by_wd: HashMap::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// How many directories have a watch.
    pub(super) fn watched(&self) -> usize {
        self.by_wd.len()
    }

    pub(super) fn by_wd(&self, wd: i32) -> Option<DirId> {
        self.by_wd.get(&wd).copied().map(DirId)
    }

    pub(super) fn wd(&self, id: DirId) -> Option<Wd> {
        self.node(id).wd
    }

    pub(super) fn child(&self, parent: DirId, name: &[u8]) -> Option<DirId> {
        let found = |&id: &u32| self.nodes[id as usize].parent == parent.0 && *self.nodes[id as usize].name == *name;
        self.by_name.find(self.hash(parent.0, name), found).copied().map(DirId)
    }

    pub(super) fn child_or_insert(&mut self, parent: DirId, name: &[u8]) -> DirId {
        if let Some(child) = self.child(parent, name) {
            return child;
        }
        let node = Node { parent: NIL, first_child: NIL, next: NIL, prev: NIL, stamp: 0, wd: None, name: Box::default() };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                // 2^32 directories would need 200 GB here and as much again in the kernel.
                let id = u32::try_from(self.nodes.len()).expect("fewer directories than 2^32");
                self.nodes.push(node);
                id
            }
        };
        self.attach(DirId(id), parent, name);
        DirId(id)
    }

    /// Takes a directory and all below it out of the tree, into limbo.
    ///
    /// # Panics
    /// For the root.
    pub(super) fn detach(&mut self, id: DirId) {
        let Node { parent, next, prev, .. } = *self.node(id);
        assert!(parent != NIL, "the root and what is in limbo cannot be detached");
        let hash = self.hash(parent, &self.node(id).name);
        if let Ok(entry) = self.by_name.find_entry(hash, |&other| other == id.0) {
            entry.remove();
        }
        match prev {
            NIL => self.nodes[parent as usize].first_child = next,
            prev => self.nodes[prev as usize].next = next,
        }
        if next != NIL {
            self.nodes[next as usize].prev = prev;
        }
        let node = self.node_mut(id);
        (node.parent, node.next, node.prev) = (NIL, NIL, NIL);
    }

    /// Hangs a directory from limbo below `parent`, which has no child of that name.
    pub(super) fn attach(&mut self, id: DirId, parent: DirId, name: &[u8]) {
        debug_assert!(self.child(parent, name).is_none() && self.node(id).parent == NIL && id != Dirs::ROOT);
        let first = std::mem::replace(&mut self.node_mut(parent).first_child, id.0);
        if first != NIL {
            self.nodes[first as usize].prev = id.0;
        }
        let node = self.node_mut(id);
        (node.parent, node.next, node.prev) = (parent.0, first, NIL);
        node.name = name.into();
        let hash = self.hash(parent.0, name);
        let Dirs { by_name, nodes, hasher, .. } = self;
        by_name.insert_unique(hash, id.0, |&id| hasher.hash_one((nodes[id as usize].parent, &*nodes[id as usize].name)));
    }

    /// Removes a directory and all below it; calls `removed` for each, with its watch if it has
    /// one.
    pub(super) fn remove(&mut self, id: DirId, mut removed: impl FnMut(DirId, Option<Wd>)) {
        if self.node(id).parent != NIL {
            self.detach(id);
        }
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            while self.node(id).first_child != NIL {
                let child = DirId(self.node(id).first_child);
                self.detach(child);
                stack.push(child);
            }
            let wd = self.node_mut(id).wd.take();
            if let Some(wd) = wd {
                self.by_wd.remove(&wd.as_raw());
            }
            self.free.push(id.0);
            removed(id, wd);
        }
    }

    /// Ties a watch to a directory, and away from any other that had it: the kernel gives one watch
    /// per directory, so the other was the same directory under an older name. Returns the watch
    /// that `id` had before; it now belongs to none.
    pub(super) fn claim(&mut self, id: DirId, wd: Wd) -> Option<Wd> {
        let before = self.node_mut(id).wd.replace(wd);
        if let Some(before) = before.filter(|&before| before != wd) {
            self.by_wd.remove(&before.as_raw());
        }
        if let Some(other) = self.by_wd.insert(wd.as_raw(), id.0).filter(|&other| other != id.0) {
            self.nodes[other as usize].wd = None;
        }
        before
    }

    /// Forgets a watch that the kernel has removed.
    pub(super) fn unclaim(&mut self, wd: i32) {
        if let Some(id) = self.by_wd.remove(&wd) {
            self.nodes[id as usize].wd = None;
        }
    }

    /// Writes the path into `out`, relative to the root; false when it has none, being in limbo or
    /// below.
    pub(super) fn path(&self, id: DirId, out: &mut Vec<u8>) -> bool {
        out.clear();
        let mut at = id.0;
        while at != Dirs::ROOT.0 {
            let node = &self.nodes[at as usize];
            if node.parent == NIL {
                return false;
            }
            // Backwards first, turned around once at the end.
            if !out.is_empty() {
                out.push(b'/');
            }
            out.extend(node.name.iter().rev());
            at = node.parent;
        }
        out.reverse();
        true
    }

    pub(super) fn stamp(&mut self, id: DirId, stamp: u32) {
        self.node_mut(id).stamp = stamp;
    }

    /// The children that do not carry `stamp`.
    pub(super) fn children_without(&self, id: DirId, stamp: u32) -> Vec<DirId> {
        let mut out = Vec::new();
        let mut at = self.node(id).first_child;
        while at != NIL {
            let node = &self.nodes[at as usize];
            if node.stamp != stamp {
                out.push(DirId(at));
            }
            at = node.next;
        }
        out
    }

    fn node(&self, id: DirId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: DirId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    fn hash(&self, parent: u32, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// What the tree must look like after `op` on a set of paths.
    #[derive(Clone, Debug)]
    enum Op {
        Insert(Vec<u8>),
        Remove(Vec<u8>),
        Move(Vec<u8>, Vec<u8>),
    }

    fn some_path() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![b'a', b'b', b'c']), 1..4)
            .prop_map(|parts| parts.iter().map(|part| vec![*part]).collect::<Vec<_>>().join(&b'/'))
    }

    fn some_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            some_path().prop_map(Op::Insert),
            some_path().prop_map(Op::Remove),
            (some_path(), some_path()).prop_map(|(from, to)| Op::Move(from, to)),
        ]
    }

    fn find(dirs: &Dirs, path: &[u8]) -> Option<DirId> {
        path.split(|&b| b == b'/').filter(|part| !part.is_empty()).try_fold(Dirs::ROOT, |at, part| dirs.child(at, part))
    }

    fn all(dirs: &Dirs) -> BTreeSet<Vec<u8>> {
        let (mut out, mut stack, mut path) = (BTreeSet::new(), vec![Dirs::ROOT], Vec::new());
        while let Some(id) = stack.pop() {
            assert!(dirs.path(id, &mut path));
            out.insert(path.clone());
            stack.extend(dirs.children_without(id, NIL));
        }
        out
    }

    fn below(path: &[u8], above: &[u8]) -> bool {
        crate::path::is_at_or_below(path, above)
    }

    proptest! {
        /// Against a plain set of paths.
        #[test]
        fn behaves_like_a_set_of_paths(ops in prop::collection::vec(some_op(), 0..60)) {
            let (mut dirs, mut model) = (Dirs::new(), BTreeSet::from([Vec::new()]));
            for op in ops {
                match op {
                    Op::Insert(path) => {
                        let parent = crate::path::parent(&path).unwrap().to_vec();
                        if model.contains(&parent) {
                            let at = find(&dirs, &parent).unwrap();
                            let id = dirs.child_or_insert(at, crate::path::base(&path));
                            prop_assert_eq!(find(&dirs, &path), Some(id));
                            model.insert(path);
                        }
                    }
                    Op::Remove(path) => {
                        if let Some(id) = find(&dirs, &path) {
                            let mut removed = 0;
                            dirs.remove(id, |_, _| removed += 1);
                            let before = model.len();
                            model.retain(|other| !below(other, &path));
                            prop_assert_eq!(removed, before - model.len());
                        }
                    }
                    Op::Move(from, to) => {
                        let parent = crate::path::parent(&to).unwrap().to_vec();
                        if model.contains(&from) && model.contains(&parent) && !model.contains(&to) && !below(&to, &from) {
                            let (id, at) = (find(&dirs, &from).unwrap(), find(&dirs, &parent).unwrap());
                            dirs.detach(id);
                            prop_assert!(!dirs.path(id, &mut Vec::new()));
                            dirs.attach(id, at, crate::path::base(&to));
                            model = model
                                .into_iter()
                                .map(|path| if below(&path, &from) { [&to, &path[from.len()..]].concat() } else { path })
                                .collect();
                        }
                    }
                }
                prop_assert_eq!(all(&dirs), model.clone());
            }
        }
    }
}
