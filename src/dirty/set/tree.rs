//! The tree of names: nodes in an arena, looked up by a hash of (parent, name).

use std::ops::{Index, IndexMut};

use hashbrown::HashTable;

use super::{BatchId, Epoch, Kind};
use crate::hash;
use crate::path::{self, RelPath};
use crate::short::Short;

/// No node.
pub(super) const NONE: u32 = u32::MAX;
/// The root's node, which is never taken out.
pub(super) const ROOT: u32 = 0;

/// Free nodes, with no other left, from which on the memory of a past burst is given back.
const MANY_FREE: usize = 1024;

pub(super) struct Node {
    pub(super) parent: u32,
    pub(super) first_child: u32,
    last_child: u32,
    pub(super) next: u32,
    prev: u32,
    pub(super) name: Short,
    pub(super) epoch: Epoch,
    /// Nodes in flight strictly below.
    pub(super) flying_below: u32,
    /// The batch that carries this path; 0 = none.
    pub(super) flying: BatchId,
    pub(super) kind: Option<Kind>,
    pub(super) flags: u16,
}

impl Node {
    /// Clean, without children, and the last in its directory.
    fn new(parent: u32, prev: u32, name: Short) -> Node {
        Node {
            parent,
            first_child: NONE,
            last_child: NONE,
            next: NONE,
            prev,
            name,
            epoch: Epoch::default(),
            flying_below: 0,
            flying: 0,
            kind: None,
            flags: 0,
        }
    }

    /// Whether the tree needs it: it is pending or in flight, or something below it is.
    pub(super) fn is_needed(&self) -> bool {
        self.kind.is_some() || self.flying != 0 || self.first_child != NONE
    }
}

/// See the module's text. Indexed by a node's number.
pub(super) struct NameTree {
    nodes: Vec<Node>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
}

impl Index<u32> for NameTree {
    type Output = Node;

    #[inline]
    fn index(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }
}

impl IndexMut<u32> for NameTree {
    #[inline]
    fn index_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }
}

fn hash_of(parent: u32, name: &[u8]) -> u64 {
    hash::of((parent, name))
}

impl NameTree {
    /// The root alone.
    pub(super) fn new() -> NameTree {
        NameTree { nodes: vec![Node::new(NONE, NONE, Short::default())], free: Vec::new(), by_name: HashTable::new() }
    }

    /// A node by a number that may be one of the past.
    pub(super) fn get(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)
    }

    /// One more than the highest number that a node has.
    pub(super) fn end(&self) -> u32 {
        self.nodes.len() as u32
    }

    pub(super) fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let fits = |&at: &u32| {
            let n = &self[at];
            n.parent == parent && *n.name == *name
        };
        self.by_name.find(hash_of(parent, name), fits).copied()
    }

    /// The same where it is `last`, or, if asked for, the one behind that in its directory.
    pub(super) fn near(&self, parent: u32, name: &[u8], last: u32, or_next: bool) -> Option<u32> {
        // A place that is free has no name, and one that was given away another name or parent.
        let fits = |n: &Node| n.parent == parent && *n.name == *name;
        let n = self.get(last)?;
        if fits(n) {
            return Some(last);
        }
        let next = n.next;
        (or_next && self.get(next).is_some_and(fits)).then_some(next)
    }

    pub(super) fn find(&self, path: &[u8]) -> Option<u32> {
        let mut at = ROOT;
        for name in components(path) {
            at = self.child(at, name)?;
        }
        Some(at)
    }

    pub(super) fn children(&self, of: u32) -> Children<'_> {
        Children { nodes: &self.nodes, next: self[of].first_child }
    }

    pub(super) fn path_of(&self, mut at: u32) -> RelPath {
        let mut chain = Vec::new();
        while at != ROOT {
            chain.push(at);
            at = self[at].parent;
        }
        let mut out = Vec::new();
        for &at in chain.iter().rev() {
            path::push(&mut out, &self[at].name);
        }
        RelPath::from_normal(out)
    }

    /// Finds a child or adds it.
    pub(super) fn child_or_new(&mut self, parent: u32, name: &[u8]) -> u32 {
        match self.child(parent, name) {
            Some(child) => child,
            None => self.add(parent, name),
        }
    }

    /// Finds a path or adds what is missing of it.
    pub(super) fn find_or_new(&mut self, path: &[u8]) -> u32 {
        components(path).fold(ROOT, |at, name| self.child_or_new(at, name))
    }

    /// Adds a child that the parent does not have.
    pub(super) fn add(&mut self, parent: u32, name: &[u8]) -> u32 {
        let prev = self[parent].last_child;
        let node = Node::new(parent, prev, name.into());
        let at = match self.free.pop() {
            Some(at) => {
                self[at] = node;
                at
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        match prev {
            NONE => self[parent].first_child = at,
            prev => self[prev].next = at,
        }
        self[parent].last_child = at;
        let nodes = &self.nodes;
        self.by_name.insert_unique(hash_of(parent, name), at, |&at| {
            let n = &nodes[at as usize];
            hash_of(n.parent, &n.name)
        });
        at
    }

    /// Takes out a node without children.
    pub(super) fn remove(&mut self, at: u32) {
        let (parent, prev, next, hash) = {
            let n = &self[at];
            (n.parent, n.prev, n.next, hash_of(n.parent, &n.name))
        };
        match prev {
            NONE => self[parent].first_child = next,
            prev => self[prev].next = next,
        }
        match next {
            NONE => self[parent].last_child = prev,
            next => self[next].prev = prev,
        }
        if let Ok(slot) = self.by_name.find_entry(hash, |&x| x == at) {
            slot.remove();
        }
        self[at].name = Short::default();
        self.free.push(at);
    }

    /// Gives the memory of a past burst back, where nothing but the root is left. Whether it did.
    pub(super) fn shrink(&mut self) -> bool {
        let shrinks = self.free.len() > MANY_FREE && self.len() == 1;
        if shrinks {
            self.nodes.truncate(1);
            self.nodes.shrink_to_fit();
            (self.free, self.by_name) = (Vec::new(), HashTable::new());
        }
        shrinks
    }

    /// Nodes, the root among them.
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}

pub(super) struct Children<'a> {
    nodes: &'a [Node],
    next: u32,
}

impl Iterator for Children<'_> {
    type Item = u32;
    fn next(&mut self) -> Option<u32> {
        if self.next == NONE {
            return None;
        }
        let at = self.next;
        self.next = self.nodes[at as usize].next;
        Some(at)
    }
}

pub(super) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|c| !c.is_empty())
}
