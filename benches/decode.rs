//! Decoding a reader's buffer: events per second, for the records that a busy filesystem gives.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fansync::source::fan_decode::{FanEvent, Fid, Place, encode_event, events};
use fansync::sys::handle::FsId;
use std::hint::black_box;

const BUF_BYTES: usize = 128 << 10;

/// A full buffer of created and closed files in 64 directories (ext4's handles), every tenth event
/// a rename.
fn buffer(name_bytes: usize) -> (Vec<u8>, u64) {
    let (mut buf, mut count) = (Vec::with_capacity(BUF_BYTES), 0u64);
    loop {
        let dir = [2, 0, 0, 0, (count % 64) as u8, 7, 7, 7];
        let mut child = [0; 8];
        child.copy_from_slice(&count.to_ne_bytes());
        let name = format!("{count:0name_bytes$}");
        let fid = |handle| Fid { fs: FsId(0x89b3_4ca4_2eb0_f757), kind: 1, handle };
        let place = Some(Place { fid: fid(&dir), name: name.as_bytes() });
        let plain = FanEvent { mask: 0x108, pid: 4242, dir: place, old: None, new: None, child: Some(fid(&child)), skipped: 0 };
        let event =
            if count % 10 == 9 { FanEvent { mask: 0x1000_0000, dir: None, old: place, new: place, ..plain } } else { plain };
        let before = buf.len();
        encode_event(&mut buf, &event);
        if buf.len() > BUF_BYTES {
            buf.truncate(before);
            break (buf, count);
        }
        count += 1;
    }
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for name_bytes in [8, 24, 128] {
        let (buf, count) = buffer(name_bytes);
        let names = events(&buf).map(|event| event.expect("a good record")).filter_map(|event| event.dir.or(event.new));
        assert_eq!(names.filter(|place| place.name.len() == name_bytes).count() as u64, count, "the input decodes wholly");
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::new("name_bytes", name_bytes), |b| {
            b.iter(|| {
                for event in events(black_box(&buf)) {
                    black_box(&event).as_ref().expect("checked above");
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
