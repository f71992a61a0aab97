//! The path tree: what a handle costs that is known, unknown or foreign, and what a directory's
//! rename costs with much below it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fansync::resolve::tree::{Key, Known, Tree};
use std::hint::black_box;

/// Directories in three levels: `d0123/d45/d6`.
const DIRS: u64 = 100_000;

fn key(handle: &[u8; 8]) -> Key<'_> {
    (0x89b3_4ca4_2eb0_f757, 1, handle)
}

/// All below `top`, each bound to its handle.
fn tree() -> Tree {
    let mut tree = Tree::new(1_000_000);
    for n in 0..DIRS {
        let path = format!("top/d{}/d{}/d{}", n / 1000, n / 10 % 100, n % 10);
        let node = tree.ensure(path.as_bytes());
        tree.bind(node, key(&n.to_ne_bytes()));
    }
    for n in 0..DIRS {
        tree.set_foreign(key(&(n | 1 << 40).to_ne_bytes()));
    }
    tree
}

/// In an order that no cache likes.
fn scattered(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % DIRS
}

fn look_ups(c: &mut Criterion) {
    let mut tree = tree();
    assert!(matches!(tree.get(key(&7u64.to_ne_bytes())), Known::Inside(_)));
    assert_eq!(tree.get(key(&(7u64 | 1 << 40).to_ne_bytes())), Known::Foreign);
    assert_eq!(tree.get(key(&(7u64 | 1 << 41).to_ne_bytes())), Known::Nothing);
    let mut group = c.benchmark_group("tree/100,000 directories");
    group.throughput(Throughput::Elements(1));
    for (name, bits) in [("hit", 0), ("foreign", 1 << 40), ("miss", 1 << 41)] {
        let mut n = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                n += 1;
                tree.get(black_box(key(&(scattered(n) | bits).to_ne_bytes())))
            });
        });
    }
    let (mut n, mut path) = (0, Vec::new());
    group.bench_function("hit and path", |b| {
        b.iter(|| {
            n += 1;
            let Known::Inside(node) = tree.get(key(&scattered(n).to_ne_bytes())) else { panic!("all are known") };
            assert!(tree.path(node, &mut path));
            black_box(&path);
        });
    });
    group.finish();
}

fn rename(c: &mut Criterion) {
    let mut tree = tree();
    let (root, deep) = (tree.root(), 99_999u64.to_ne_bytes());
    let top = tree.child(root, b"top").expect("it was made");
    let mut path = Vec::new();
    tree.rename(top, root, b"renamed");
    let Known::Inside(node) = tree.get(key(&deep)) else { panic!("a rename forgets nothing") };
    assert!(tree.path(node, &mut path) && path == b"renamed/d99/d99/d9");
    let (mut group, mut n) = (c.benchmark_group("tree/100,000 directories"), 0u32);
    group.throughput(Throughput::Elements(1));
    group.bench_function("rename with all below", |b| {
        b.iter(|| {
            n += 1;
            tree.rename(top, root, if n.is_multiple_of(2) { b"one" } else { b"two" });
        });
    });
    group.finish();
}

criterion_group!(benches, look_ups, rename);
criterion_main!(benches);
