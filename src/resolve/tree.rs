//! The path tree: directory handle → node, node → path.
//!
//! A node is {parent, name, handle}; a directory's rename re-hangs one node and every handle below
//! stays valid. Only directories that raised events have nodes (and their ancestors). The memory is
//! bounded: beyond `max_dirs`, nodes that no event used since the last sweep are forgotten; a
//! forgotten handle is looked up again at its next event.
//!
//! *Detached* nodes have lost their way up (the directory was deleted, or moved out): a path
//! through one is no path, and its handle is looked up again.

use std::hash::Hash;

use hashbrown::HashTable;

use crate::short::Short;

/// A directory in the tree. Valid until the directory is forgotten; look it up again by handle, do
/// not keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeId(u32);

impl NodeId {
    /// Small, and no other directory's at the time.
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The key of a directory: filesystem id, handle type, handle bytes.
pub type Key<'a> = (u64, i32, &'a [u8]);

/// What is known of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// A directory inside the root.
    Inside(NodeId),
    /// A directory outside of it, or hidden below a mount.
    Foreign,
    /// Nothing, or nothing that still holds.
    Nothing,
}

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

struct Node {
    parent: u32,
    name: Short,
    handle: Option<Handle>,
    /// Whether the filter excludes this directory, and in which generation that was found.
    verdict: (u32, bool),
    used: bool,
    live: bool,
}

struct Handle {
    fs: u64,
    kind: i32,
    bytes: Short,
}

impl Handle {
    fn key(&self) -> Key<'_> {
        (self.fs, self.kind, &self.bytes)
    }
}

/// See the module's text.
pub struct Tree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
    by_handle: HashTable<u32>,
    foreign: HashTable<Handle>,
    generation: u32,
    /// Counts what can change a path or make a node another directory's.
    version: u64,
    /// Whose handle was requested last: events come in runs of one directory.
    last: u32,
    max_dirs: usize,
}

/// The hash that the tables here go by.
pub(super) fn hash(of: impl Hash) -> u64 {
    crate::hash::of(of)
}

impl Tree {
    /// A tree that holds the root. `max_dirs`: nodes kept, and foreign directories remembered,
    /// each.
    pub fn new(max_dirs: usize) -> Tree {
        let root = Node { parent: NONE, name: Short::default(), handle: None, verdict: (0, false), used: true, live: true };
        Tree {
            nodes: vec![root],
            free: Vec::new(),
            by_name: HashTable::new(),
            by_handle: HashTable::new(),
            foreign: HashTable::new(),
            generation: 1,
            version: 0,
            last: ROOT,
            max_dirs: max_dirs.max(16),
        }
    }

    /// The watch root.
    pub fn root(&self) -> NodeId {
        NodeId(ROOT)
    }

    /// The bound given at the start.
    pub(crate) fn max_dirs(&self) -> usize {
        self.max_dirs
    }

    /// Directories known, inside and foreign.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.nodes.len() - self.free.len(), self.foreign.len())
    }

    /// Changes whenever a path that [`Tree::path`] gave may not hold any more, or a [`NodeId`] may
    /// be another directory's.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Looks a handle up: one or two hash look-ups, none when it is the last one again.
    pub fn get(&mut self, key: Key<'_>) -> Known {
        // A node has a handle only while it is indexed by it, so a match holds whatever happened
        // since.
        if let Some(node) = self.nodes.get_mut(self.last as usize)
            && node.handle.as_ref().is_some_and(|k| k.key() == key)
        {
            node.used = true;
            return Known::Inside(NodeId(self.last));
        }
        let nodes = &self.nodes;
        let h = hash(key);
        if let Some(&at) = self.by_handle.find(h, |&at| nodes[at as usize].handle.as_ref().is_some_and(|k| k.key() == key)) {
            self.nodes[at as usize].used = true;
            self.last = at;
            return Known::Inside(NodeId(at));
        }
        match self.foreign.find(h, |k| k.key() == key) {
            Some(_) => Known::Foreign,
            None => Known::Nothing,
        }
    }

    /// Writes the path of `node` into `out` (cleared first). `false` when the node is detached.
    pub fn path(&self, node: NodeId, out: &mut Vec<u8>) -> bool {
        out.clear();
        let mut bytes = 0;
        let mut at = node.0;
        while at != ROOT {
            let n = &self.nodes[at as usize];
            bytes += n.name.len() + 1;
            at = n.parent;
            if at == NONE {
                return false;
            }
        }
        if bytes == 0 {
            return true;
        }
        out.resize(bytes - 1, b'/');
        let mut end = bytes - 1;
        let mut at = node.0;
        while at != ROOT {
            let n = &self.nodes[at as usize];
            out[end - n.name.len()..end].copy_from_slice(&n.name);
            end = end.saturating_sub(n.name.len() + 1);
            at = n.parent;
        }
        true
    }

    /// The child of `parent` called `name`, if it has a node.
    pub fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let nodes = &self.nodes;
        self.by_name
            .find(hash((parent.0, name)), |&at| {
                let n = &nodes[at as usize];
                n.parent == parent.0 && *n.name == *name
            })
            .map(|&at| NodeId(at))
    }

    /// The node at `path`, made with its ancestors if need be.
    pub fn ensure(&mut self, path: &[u8]) -> NodeId {
        let mut at = self.root();
        for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty()) {
            at = match self.child(at, name) {
                Some(child) => child,
                None => self.add(at, name),
            };
            self.nodes[at.0 as usize].used = true;
        }
        at
    }

    /// Hangs the directory `key` on `parent` as `name`, wherever it was; what had that place is
    /// detached.
    pub(crate) fn put(&mut self, parent: NodeId, name: &[u8], key: Key<'_>) -> NodeId {
        if let Known::Inside(node) = self.get(key) {
            self.rename(node, parent, name);
            return node;
        }
        if let Some(there) = self.child(parent, name) {
            self.detach(there);
        }
        let node = self.add(parent, name);
        self.bind(node, key);
        node
    }

    /// Whether the way up from `node` ends at the root.
    pub(crate) fn is_attached(&self, node: NodeId) -> bool {
        let mut at = node.0;
        while at != ROOT {
            at = self.nodes[at as usize].parent;
            if at == NONE {
                return false;
            }
        }
        true
    }

    fn add(&mut self, parent: NodeId, name: &[u8]) -> NodeId {
        let node = Node { parent: parent.0, name: name.into(), handle: None, verdict: (0, false), used: true, live: true };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        self.index_name(at);
        NodeId(at)
    }

    fn index_name(&mut self, at: u32) {
        let nodes = &self.nodes;
        let of = |at: u32| hash((nodes[at as usize].parent, &*nodes[at as usize].name));
        self.by_name.insert_unique(of(at), at, |&at| of(at));
    }

    fn unindex_name(&mut self, at: u32) {
        let n = &self.nodes[at as usize];
        if let Ok(slot) = self.by_name.find_entry(hash((n.parent, &*n.name)), |&x| x == at) {
            slot.remove();
        }
    }

    /// Hangs a handle on `node`; taken off the node that had it before.
    pub fn bind(&mut self, node: NodeId, key: Key<'_>) {
        self.unbind(key);
        self.drop_handle(node.0);
        self.nodes[node.0 as usize].handle = Some(Handle { fs: key.0, kind: key.1, bytes: key.2.into() });
        let nodes = &self.nodes;
        self.by_handle.insert_unique(hash(key), node.0, |&at| {
            hash(nodes[at as usize].handle.as_ref().expect("indexed nodes have a handle").key())
        });
    }

    fn unbind(&mut self, key: Key<'_>) {
        let nodes = &self.nodes;
        let same = |&at: &u32| nodes[at as usize].handle.as_ref().is_some_and(|k| k.key() == key);
        if let Ok(slot) = self.by_handle.find_entry(hash(key), same) {
            let (at, _) = slot.remove();
            self.nodes[at as usize].handle = None;
        }
        if let Ok(slot) = self.foreign.find_entry(hash(key), |k| k.key() == key) {
            slot.remove();
        }
    }

    fn drop_handle(&mut self, at: u32) {
        if let Some(old) = self.nodes[at as usize].handle.take()
            && let Ok(slot) = self.by_handle.find_entry(hash(old.key()), |&x| x == at)
        {
            slot.remove();
        }
    }

    /// Remembers that a handle is outside the root.
    pub fn set_foreign(&mut self, key: Key<'_>) {
        self.unbind(key);
        if self.foreign.len() >= self.max_dirs {
            self.foreign.clear();
        }
        let handle = Handle { fs: key.0, kind: key.1, bytes: key.2.into() };
        self.foreign.insert_unique(hash(key), handle, |k| hash(k.key()));
    }

    /// Forgets all foreign directories: one of them, with all below it, may have come inside.
    pub(crate) fn forget_foreign(&mut self) {
        self.foreign.clear();
    }

    /// Takes a directory and all below it off the tree: O(1). Handles below are looked up again
    /// when they raise events.
    pub(crate) fn detach(&mut self, node: NodeId) {
        if node.0 == ROOT || self.nodes[node.0 as usize].parent == NONE {
            return;
        }
        self.version += 1;
        self.unindex_name(node.0);
        self.nodes[node.0 as usize].parent = NONE;
    }

    /// Moves a directory, with all below it, to (`parent`, `name`): O(1). What had that place is
    /// detached.
    pub fn rename(&mut self, node: NodeId, parent: NodeId, name: &[u8]) {
        if node.0 == ROOT {
            return;
        }
        match self.child(parent, name) {
            Some(there) if there == node => return,
            Some(there) => self.detach(there),
            None => {}
        }
        // A stale parent that lies below the node itself would close a circle: then nothing is
        // known of either.
        let mut at = parent.0;
        while at != NONE {
            if at == node.0 {
                return self.detach(node);
            }
            at = self.nodes[at as usize].parent;
        }
        self.detach(node);
        self.version += 1;
        let n = &mut self.nodes[node.0 as usize];
        n.parent = parent.0;
        n.name = name.into();
        self.index_name(node.0);
        self.new_verdicts();
    }

    /// Forgets which directories the filter excludes: its rules, or a path, changed.
    fn new_verdicts(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Whether the filter excludes `node`, if that is known.
    pub(crate) fn verdict(&self, node: NodeId) -> Option<bool> {
        let (generation, excluded) = self.nodes[node.0 as usize].verdict;
        (generation == self.generation).then_some(excluded)
    }

    /// Remembers whether the filter excludes `node`.
    pub(crate) fn set_verdict(&mut self, node: NodeId, excluded: bool) {
        self.nodes[node.0 as usize].verdict = (self.generation, excluded);
    }

    /// Keeps the memory within its bound; to be called between buffers, when no [`NodeId`] is held.
    /// Over the bound, it forgets what no event used since the last sweep, and everything detached.
    /// When nearly all is in use, all is forgotten but the root: it comes back by look-ups.
    pub(crate) fn sweep(&mut self) {
        if self.nodes.len() - self.free.len() <= self.max_dirs {
            return;
        }
        self.version += 1;
        let mut keep = vec![false; self.nodes.len()];
        keep[ROOT as usize] = true;
        for at in 1..self.nodes.len() as u32 {
            let n = &self.nodes[at as usize];
            if n.live && n.used && n.handle.is_some() && self.is_attached(NodeId(at)) {
                let mut up = at;
                while !keep[up as usize] {
                    keep[up as usize] = true;
                    up = self.nodes[up as usize].parent;
                }
            }
        }
        let kept = keep.iter().filter(|&&k| k).count();
        if kept > self.max_dirs / 4 * 3 {
            keep.fill(false);
            keep[ROOT as usize] = true;
        }
        for at in 1..self.nodes.len() as u32 {
            self.nodes[at as usize].used = false;
            if self.nodes[at as usize].live && !keep[at as usize] {
                self.drop_handle(at);
                if self.nodes[at as usize].parent != NONE {
                    self.unindex_name(at);
                }
                let n = &mut self.nodes[at as usize];
                (n.parent, n.live, n.name) = (NONE, false, Short::default());
                self.free.push(at);
            }
        }
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
