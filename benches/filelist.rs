//! Encoding a batch into the list that rsync reads.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fansync::path::RelPath;
use fansync::sync::filelist::{Form, encode};

fn filelist(c: &mut Criterion) {
    let mut group = c.benchmark_group("filelist/encode");
    for count in [1_usize, 1_000, 100_000] {
        // Spread over the tree by a multiplication, so that sorting has work to do.
        let paths: Vec<RelPath> = (0..count)
            .map(|i| i.wrapping_mul(0x9e37_79b1) % 1_000_000)
            .map(|i| RelPath::from_normal(format!("dir-{:03}/sub-{:02}/file-{i:06}", i % 211, i % 17)))
            .collect();
        let list = encode(paths.iter().map(|path| (path, Form::Plain)));
        assert_eq!((list.entries, list.refused.len()), (count, 0));
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::from_parameter(count), &paths, |b, paths| {
            b.iter(|| black_box(encode(paths.iter().map(|path| (path, Form::Plain)))));
        });
    }
    group.finish();
}

criterion_group!(benches, filelist);
criterion_main!(benches);
