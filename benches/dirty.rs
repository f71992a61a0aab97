//! The dirty set: inserting, merging and taking, for the patterns that real loads have.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fansync::dirty::{Batch, DirtySet, Limits, Seen};
use std::hint::black_box;

const MAX: usize = 10_000_000;

/// `count` files in 1,000 directories of one level; in 1,000 directories eight levels deep.
fn wide(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("dir {:03}/file {n}", n % 1000).into_bytes()).collect()
}

fn deep(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("a/b/c/d/e/f/g/dir {:03}/file {n}", n % 1000).into_bytes()).collect()
}

fn filled(paths: &[Vec<u8>], seen: Seen) -> DirtySet {
    let mut set = DirtySet::new(MAX);
    paths.iter().for_each(|path| set.see(path, seen));
    set
}

fn take(set: &mut DirtySet) -> Option<Batch> {
    set.take_shallow(Limits { max_paths: 20_000, ignore_holds: false }, &mut |_, _| false)
}

fn see(c: &mut Criterion) {
    let big = std::env::args().any(|word| word == "--bench");
    let mut group = c.benchmark_group("dirty/insert");
    group.sample_size(10);
    let sizes: &[usize] = if big { &[10_000, 1_000_000] } else { &[10_000] };
    for &count in sizes {
        for (name, paths) in [("wide", wide(count)), ("deep", deep(count))] {
            assert_eq!(filled(&paths, Seen::Written).pending(), count, "distinct paths");
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter_batched(|| (), |()| filled(black_box(&paths), Seen::Written), BatchSize::PerIteration);
            });
        }
    }
    group.finish();
    let mut group = c.benchmark_group("dirty/merge");
    group.sample_size(20);
    for (name, paths) in [("wide", wide(10_000)), ("deep", deep(10_000))] {
        let mut set = filled(&paths, Seen::Written);
        group.throughput(Throughput::Elements(paths.len() as u64));
        group.bench_function(name, |b| b.iter(|| paths.iter().for_each(|path| set.see(black_box(path), Seen::Written))));
        assert_eq!(set.pending(), paths.len());
    }
    // 500 files, 20 times each, as an editor or a build rewrites them.
    let rewrite: Vec<_> = (0..20).flat_map(|_| wide(500)).collect();
    assert_eq!(filled(&rewrite, Seen::Written).pending(), 500);
    group.throughput(Throughput::Elements(rewrite.len() as u64));
    group.bench_function("rewrite", |b| b.iter(|| filled(black_box(&rewrite), Seen::Written).pending()));
    group.finish();
}

/// `rm -rf` as its events come: each file, then its directory, which absorbs them.
fn remove(c: &mut Criterion) {
    let paths = wide(10_000);
    let run = || {
        let mut set = filled(&paths, Seen::Gone);
        for n in 0..1000 {
            set.see(format!("dir {n:03}").as_bytes(), Seen::GoneDir);
        }
        set
    };
    assert_eq!(run().pending(), 1000, "a directory's end absorbs what was below");
    let mut group = c.benchmark_group("dirty/rm -rf");
    group.throughput(Throughput::Elements(11_000)).sample_size(20);
    group.bench_function("10,000 files in 1,000 directories", |b| b.iter(|| black_box(run())));
    group.finish();
}

fn leave(c: &mut Criterion) {
    let paths = wide(20_000);
    let mut group = c.benchmark_group("dirty/leave");
    group.throughput(Throughput::Elements(20_000)).sample_size(20);
    let mut set = filled(&paths, Seen::Written);
    assert_eq!(take(&mut set).map(|batch| batch.entries.len()), Some(20_000));
    group.bench_function("take", |b| {
        b.iter_batched(|| filled(&paths, Seen::Written), |mut set| (take(&mut set), set), BatchSize::LargeInput);
    });
    group.bench_function("confirm", |b| {
        b.iter_batched(
            || {
                let mut set = filled(&paths, Seen::Written);
                let batch = take(&mut set).expect("it is filled");
                (set, batch)
            },
            |(mut set, batch)| {
                set.confirm(batch.id, batch.entries);
                assert_eq!(set.epochs().total(), 0);
                set
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, see, remove, leave);
criterion_main!(benches);
