//! The ring: one hand-over alone, and between two threads.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fansync::ring::Ring;
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What travels in earnest: a boxed slice and a few words.
type Load = (Box<[u8]>, usize);

fn load() -> Load {
    (vec![0; 64].into(), 0)
}

fn alone(c: &mut Criterion) {
    let ring = Ring::new(16);
    ring.push(load()).expect("room in an empty ring");
    assert_eq!(ring.pop().map(|load| load.0.len()), Some(64), "what goes in comes out");
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(1));
    group.bench_function("alone", |b| {
        let mut held = Some(load());
        b.iter(|| {
            ring.push(black_box(held.take().expect("put back below"))).expect("room");
            held = ring.pop();
        });
    });
    group.finish();
}

/// There and back, as the reader and the engine use a pair of rings: `size` buffers go round.
fn contended(c: &mut Criterion) {
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(1));
    for size in [1, 16] {
        group.bench_function(BenchmarkId::new("round_trip", size), |b| {
            b.iter_custom(|rounds| {
                let (filled, empty, stop) = (Ring::new(size), Ring::new(size), AtomicBool::new(false));
                for _ in 0..size {
                    empty.push(load()).expect("room for every buffer");
                }
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            match empty.pop() {
                                Some(load) => filled.push(load).expect("room for every buffer"),
                                None => spin_loop(),
                            }
                        }
                    });
                    let begun = Instant::now();
                    for _ in 0..rounds {
                        let load = loop {
                            match filled.pop() {
                                Some(load) => break load,
                                None => spin_loop(),
                            }
                        };
                        empty.push(load).expect("room for every buffer");
                    }
                    let took = begun.elapsed();
                    stop.store(true, Ordering::Relaxed);
                    took
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, alone, contended);
criterion_main!(benches);
