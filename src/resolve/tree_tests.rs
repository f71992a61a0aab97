//! The path tree against a model: a map of handle → path kept by string surgery.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn key(n: &u32) -> (u64, i32, [u8; 4]) {
    (7, 1, n.to_ne_bytes())
}

fn shown(t: &mut Tree, n: u32) -> Option<String> {
    let (fs, kind, bytes) = key(&n);
    match t.get((fs, kind, &bytes)) {
        Known::Inside(node) => {
            let mut out = Vec::new();
            t.path(node, &mut out).then(|| String::from_utf8(out).unwrap())
        }
        _ => None,
    }
}

fn bind(t: &mut Tree, path: &str, n: u32) {
    let node = t.ensure(path.as_bytes());
    let (fs, kind, bytes) = key(&n);
    t.bind(node, (fs, kind, &bytes));
}

#[test]
fn a_rename_carries_everything_below() {
    let mut t = Tree::new(1000);
    bind(&mut t, "a", 1);
    bind(&mut t, "a/b/c", 2);
    let a = t.child(t.root(), b"a").unwrap();
    let d = t.ensure(b"d");
    t.rename(a, d, b"x");
    assert_eq!(shown(&mut t, 1).as_deref(), Some("d/x"));
    assert_eq!(shown(&mut t, 2).as_deref(), Some("d/x/b/c"));
    assert_eq!(t.child(t.root(), b"a"), None);
}

#[test]
fn what_is_overwritten_or_detached_has_no_path() {
    let mut t = Tree::new(1000);
    bind(&mut t, "a", 1);
    bind(&mut t, "b/c", 2);
    let (a, b) = (t.ensure(b"a"), t.ensure(b"b"));
    t.rename(a, t.root(), b"b");
    assert_eq!(shown(&mut t, 1).as_deref(), Some("b"));
    assert_eq!(shown(&mut t, 2), None);
    assert_ne!(Some(b), t.child(t.root(), b"b"));
    bind(&mut t, "e/c", 2);
    assert_eq!(shown(&mut t, 2).as_deref(), Some("e/c"), "a new look-up mends it");
}

#[test]
fn foreign_is_remembered_until_something_moves_in() {
    let mut t = Tree::new(1000);
    let (fs, kind, bytes) = key(&1);
    t.set_foreign((fs, kind, &bytes));
    assert_eq!(t.get((fs, kind, &bytes)), Known::Foreign);
    t.forget_foreign();
    assert_eq!(t.get((fs, kind, &bytes)), Known::Nothing);
}

#[test]
fn a_node_below_itself_is_detached_not_a_circle() {
    let mut t = Tree::new(1000);
    bind(&mut t, "a/b", 1);
    let (a, b) = (t.ensure(b"a"), t.ensure(b"a/b"));
    t.rename(a, b, b"c");
    assert_eq!(shown(&mut t, 1), None);
}

#[test]
fn memory_is_bounded_and_what_is_in_use_survives() {
    let mut t = Tree::new(100);
    bind(&mut t, "hot/dir", 0);
    for n in 1..10_000 {
        bind(&mut t, &format!("d{}/e{n}", n % 7), n);
        if n % 10 == 0 && shown(&mut t, 0).is_none() {
            bind(&mut t, "hot/dir", 0);
        }
        assert_eq!(shown(&mut t, n), Some(format!("d{}/e{n}", n % 7)));
        t.sweep();
        assert!(t.sizes().0 <= 100, "{} nodes", t.sizes().0);
    }
    for n in 0..10_000 {
        let (fs, kind, bytes) = key(&n);
        t.set_foreign((fs, kind, &bytes));
        assert!(t.sizes().1 <= 100);
    }
}

#[test]
fn verdicts_end_with_a_rename() {
    let mut t = Tree::new(100);
    let a = t.ensure(b"a");
    t.set_verdict(a, true);
    assert_eq!(t.verdict(a), Some(true));
    t.rename(a, t.root(), b"b");
    assert_eq!(t.verdict(a), None);
}

proptest! {
    #[test]
    fn follows_a_model(ops in proptest::collection::vec((0..4u8, 0..40u32, 0..5u8, 0..5u8), 1..200)) {
        let mut t = Tree::new(1_000_000);
        // The model: which directory (by number) is at which path; parents always exist as numbers,
        // too.
        let mut model: BTreeMap<u32, String> = BTreeMap::new();
        let at = |m: &BTreeMap<u32, String>, p: &str| m.iter().find(|(_, q)| *q == p).map(|(n, _)| *n);
        let mut next = 0;
        for (op, pick, a, b) in ops {
            let dirs: Vec<String> = std::iter::once(String::new()).chain(model.values().cloned()).collect();
            let parent = dirs[pick as usize % dirs.len()].clone();
            let name = char::from(b'a' + a).to_string();
            let path = if parent.is_empty() { name.clone() } else { format!("{parent}/{name}") };
            match op {
                0 if at(&model, &path).is_none() => {
                    bind(&mut t, &path, next);
                    model.insert(next, path);
                    next += 1;
                }
                1 => {
                    if at(&model, &path).is_none() {
                        continue;
                    }
                    let node = t.ensure(path.as_bytes());
                    t.detach(node);
                    model.retain(|_, q| !crate::path::is_at_or_below(q.as_bytes(), path.as_bytes()));
                }
                2 | 3 => {
                    if at(&model, &path).is_none() {
                        continue;
                    }
                    let to_parent = dirs[(pick as usize + b as usize) % dirs.len()].clone();
                    let to = if to_parent.is_empty() { format!("n{b}") } else { format!("{to_parent}/n{b}") };
                    if crate::path::is_at_or_below(to_parent.as_bytes(), path.as_bytes())
                        || crate::path::is_at_or_below(path.as_bytes(), to.as_bytes())
                    {
                        continue;
                    }
                    let (node, dir) = (t.ensure(path.as_bytes()), t.ensure(to_parent.as_bytes()));
                    t.rename(node, dir, format!("n{b}").as_bytes());
                    if to != path {
                        model.retain(|_, q| !crate::path::is_at_or_below(q.as_bytes(), to.as_bytes()));
                        for q in model.values_mut() {
                            if crate::path::is_at_or_below(q.as_bytes(), path.as_bytes()) {
                                *q = format!("{to}{}", &q[path.len()..]);
                            }
                        }
                    }
                }
                _ => {}
            }
            for n in 0..next {
                prop_assert_eq!(shown(&mut t, n), model.get(&n).cloned(), "directory {}", n);
            }
        }
    }
}
