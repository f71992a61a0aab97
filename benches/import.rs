//! The import of a sersync configuration: XML to what the daemon runs on, and that as TOML.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fansync::sersync::{Flags, read, toml};
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;

/// A configuration with so many remotes and exclude expressions.
fn xml(remotes: usize, excludes: usize) -> String {
    let mut text =
        String::from("<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>\n<head version=\"2.5\">\n<filter start=\"true\">\n");
    for n in 0..excludes {
        writeln!(text, "<exclude expression=\"(.*)\\.tmp{n}\"></exclude>").expect("a string takes all");
    }
    text.push_str("</filter>\n<sersync>\n<localpath watch=\"/no/such/tree\">\n");
    for n in 0..remotes {
        writeln!(text, "<remote ip=\"192.0.2.{}\" name=\"module{n}\"/>", n % 250 + 1).expect("a string takes all");
    }
    text.push_str("</localpath>\n<rsync><commonParams params=\"-artuz\"/></rsync>\n</sersync>\n</head>\n");
    text
}

fn imports(c: &mut Criterion) {
    let mut group = c.benchmark_group("import/sersync");
    for (remotes, excludes) in [(2, 3), (50, 200)] {
        let text = xml(remotes, excludes);
        let load = |text: &str| read(text.as_bytes(), Some(Path::new("confxml.xml")), &Flags::default()).expect("it is good");
        let loaded = load(&text);
        let mirror = &loaded.config.mirrors[0];
        assert_eq!((mirror.targets.len(), mirror.filter.expressions().len()), (remotes, excludes));
        assert_eq!(toml(&loaded, true).expect("it is UTF-8").matches("[[mirror.target]]").count(), remotes);
        group.throughput(Throughput::Elements((remotes + excludes) as u64));
        let name = format!("{remotes} remotes, {excludes} excludes");
        group.bench_function(BenchmarkId::new("read", &name), |b| b.iter(|| load(black_box(&text))));
        group.bench_function(BenchmarkId::new("as TOML", &name), |b| b.iter(|| toml(black_box(&loaded), true)));
    }
    group.finish();
}

criterion_group!(benches, imports);
criterion_main!(benches);
