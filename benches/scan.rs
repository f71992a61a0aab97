//! The walk of a restart over a tree whose names and inodes are in memory, with nothing and with
//! 100 files changed.
//!
//! `FANSYNC_BENCH_DIR`: where the tree is made (a directory on the filesystem to measure).
//! `FANSYNC_BENCH_FILES`: how many files, 100 to a directory; 20,000 by default.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fansync::filter::Filter;
use fansync::root::Root;
use fansync::scan::{Options, Progress, Scope, build_set, restart_scan};
use fansync::state::{Clock, Identity, Keeper, Resume, Wall};
use fansync::sys::handle::fs_id;
use std::os::fd::AsFd;

const FILES_PER_DIR: usize = 100;

fn tree(root: &Path, files: usize) {
    for d in 0..files.div_ceil(FILES_PER_DIR) {
        let dir = root.join(format!("d{}/d{d}", d % 40));
        fs::create_dir_all(&dir).expect("a directory");
        for f in 0..FILES_PER_DIR.min(files - d * FILES_PER_DIR) {
            fs::write(dir.join(format!("file-{f}.txt")), "x").expect("a file");
        }
    }
}

fn bench(c: &mut Criterion) {
    let files: usize = std::env::var("FANSYNC_BENCH_FILES").map_or(20_000, |n| n.parse().expect("a number"));
    let base = std::env::var_os("FANSYNC_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::Builder::new().prefix("fansync-bench-").tempdir_in(base).expect("a directory");
    let src = dir.path().join("src");
    fs::create_dir(&src).expect("a directory");
    tree(&src, files);
    let root = Root::open(&src).expect("the source");
    let filter = Filter::none();
    let scope = Scope { root: &root, filter: &filter, fs: fs_id(root.as_fd()).expect("its filesystem"), mounts: &[] };
    let identity = Identity::of(&root, "").expect("a filesystem that is trusted: set FANSYNC_BENCH_DIR");
    let (mut keeper, _) = Keeper::open(&dir.path().join("state"), "m", Ok(identity), &[], None).expect("a state directory");
    let like = keeper.begin_walk().expect("the clock");

    let mut group = c.benchmark_group("scan");
    group.sample_size(10).throughput(Throughput::Elements(files as u64));
    for threads in [1, 2] {
        let options = Options { threads };
        group.bench_function(BenchmarkId::new("build_set", threads), |b| {
            b.iter(|| black_box(build_set(scope, &like, options, &Progress::default()).expect("a walk").1));
        });
    }
    let (dirs, report) = build_set(scope, &like, Options::default(), &Progress::default()).expect("a walk");
    assert_eq!(report.entries as usize, files + dirs.len());
    let since = Clock::now().expect("the clock").wall;
    let resume = Resume {
        dirs: Arc::new(dirs),
        dirs_complete_at: Wall::MAX,
        watermarks: vec![Some(since)],
        since,
        tidy: true,
        without: vec![None],
        newest: Wall::MIN,
    };
    for threads in [1, 2] {
        let options = Options { threads };
        group.bench_function(BenchmarkId::new("restart", threads), |b| {
            b.iter(|| {
                let (_, report) = restart_scan(scope, &resume, options, &Progress::default(), &mut |f| {
                    black_box(f);
                })
                .expect("a walk");
                assert_eq!(report.entry, 0, "nothing changed");
                report
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
