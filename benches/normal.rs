//! The look at the disk before a batch leaves: warm cache.

use std::fs::{self, File};
use std::hint::black_box;
use std::os::fd::AsFd;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fansync::path::RelPath;
use fansync::sync::normal::{Kind, normalise};
use fansync::sys::statx::Statter;

fn normal(c: &mut Criterion) {
    // Below the target directory, not /tmp: the filesystem of a real source rather than a tmpfs.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the tree");
    let paths: Vec<(RelPath, Kind)> = (0..20_000)
        .map(|i| (RelPath::from_normal(format!("top-{}/dir-{:03}/file-{i:06}", i % 10, i % 200)), Kind::Entry))
        .collect();
    for (path, _) in &paths {
        let path = dir.path().join(path.as_path());
        fs::create_dir_all(path.parent().expect("has a parent")).expect("create directory");
        fs::write(path, b"x").expect("create file");
    }
    let root = File::open(dir.path()).expect("open the tree");
    let mut group = c.benchmark_group("normal");
    group.sample_size(30);
    let mut statter = Statter::new();
    for count in [1_usize, 64, 1_000, 20_000] {
        let batch = &paths[..count];
        assert_eq!(normalise(root.as_fd(), batch, &mut statter).expect("root is there").items.len(), count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("statx", count), batch, |b, batch| {
            b.iter(|| black_box(normalise(root.as_fd(), batch, &mut statter)));
        });
    }
    group.finish();
}

criterion_group!(benches, normal);
criterion_main!(benches);
