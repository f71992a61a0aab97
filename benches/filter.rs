//! What a verdict costs: it is paid once per event.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fansync::filter::Filter;
use std::hint::black_box;

const PATHS: &[&[u8]] = &[
    b"projects/alpha/src/main.rs",
    b"projects/alpha/target/debug/deps/alpha-0123456789abcdef.d",
    b"mail/inbox/cur/1700000000.M1P2.host:2,S",
    b"www/static/img/2024/05/header.png",
    b"home/user/.cache/thumbnails/large/0123456789abcdef0123456789abcdef.png",
    b"notes.txt",
    b"var/lib/app/data/shard-07/segment-000123.log.tmp",
    b"a/b/c/d/e/f/g/h/i/j/k",
];

/// The shapes people write, most of them plain, one in five a path expression.
fn patterns(count: usize) -> Vec<String> {
    (0..count)
        .map(|i| match i % 10 {
            0 => format!("*.tmp{i}"),
            1 => format!(".cache{i}"),
            2 => format!("/var/spool/{i}/"),
            3 => format!("*~{i}"),
            4 => format!(".nfs{i}*"),
            5 => format!("build-{i}/"),
            6 => format!("*.ext{i}"),
            7 => format!("node_modules{i}"),
            8 => format!("/srv/*/cache-{i}/**"),
            _ => format!("[Tt]emp-{i}-*"),
        })
        .collect()
}

fn verdicts(c: &mut Criterion) {
    for (name, leaf) in [("filter/leaf", true), ("filter/whole", false)] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(PATHS.len() as u64));
        let mut cases: Vec<_> = [1, 20, 200].map(|n| (format!("{n}"), patterns(n))).into();
        cases.push(("3 plain".into(), ["*.swp", ".git/", "*~"].map(String::from).into()));
        cases.push(("3 paths".into(), ["**/node_modules/**", "/var/*/tmp", "a/[bc]/d"].map(String::from).into()));
        for (name, patterns) in cases {
            let filter = Filter::new::<&str, _>(&[], &patterns).unwrap();
            assert!(!filter.excludes(PATHS[0], false), "the usual verdict is no, after all rules");
            group.bench_with_input(BenchmarkId::from_parameter(name), &filter, |b, filter| {
                b.iter(|| {
                    PATHS
                        .iter()
                        .filter(|p| {
                            if leaf { filter.excludes_leaf(black_box(p), false) } else { filter.excludes(black_box(p), false) }
                        })
                        .count()
                });
            });
        }
    }
    c.bench_function("filter/compile 200", |b| {
        let patterns = patterns(200);
        b.iter(|| Filter::new::<&str, _>(&[], black_box(&patterns)).unwrap());
    });
}

criterion_group!(benches, verdicts);
criterion_main!(benches);
