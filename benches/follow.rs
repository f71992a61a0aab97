//! What a write(2) of 100 bytes costs its writer, by how the filesystem is listened to. Each on a filesystem of its own; needs root.
//!
//! `none`: nobody listens. `default`: a mark that does not hear of writes. `naive`: one that does, and a reader that drains every
//! 2 ms. `muted`: the same, the file muted, as `follow_open_files` does it for all but the moment between two intervals.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fansync::sys::fanotify::{Group, Options};
use fansync::sys::ignore::Ignorer;
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn mounted(dir: &Path) -> nix::Result<()> {
    use nix::mount::{MsFlags, mount};
    const NONE: Option<&Path> = None;
    // This process alone sees it, so it goes when this process ends.
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    fs::create_dir_all(dir).map_err(|e| nix::Error::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    mount(Some("none"), dir, Some("tmpfs"), MsFlags::empty(), Some("size=64m"))
}

/// Drains every 2 ms until told to stop; counts what came.
fn drain(group: &Group, stop: &AtomicBool, bytes: &AtomicU64) {
    let mut buf = vec![0; 128 << 10];
    while !stop.load(Ordering::Relaxed) {
        while let Ok(len) = nix::unistd::read(group, &mut buf) {
            bytes.fetch_add(len as u64, Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn write(c: &mut Criterion) {
    let dir = std::env::temp_dir().join(format!("fansync-bench-{}", std::process::id()));
    if let Err(errno) = mounted(&dir) {
        return eprintln!("SKIPPED: a filesystem of its own needs root: {errno}");
    }
    let mut file = File::create(dir.join("log")).expect("an empty filesystem takes files");
    let mut bench = c.benchmark_group("follow/write");
    bench.throughput(Throughput::Elements(1));
    for (name, marked, writes, muted) in [
        ("none", false, false, false),
        ("default", true, false, false),
        ("naive", true, true, false),
        ("muted", true, true, true),
    ] {
        let group = Group::open(&Options { writes, ..Options::default() }).expect("root may");
        if marked {
            group.mark_filesystem(&dir).expect("tmpfs can be marked");
        }
        if muted {
            Ignorer::new(&group).expect("a descriptor").ignore_writes(file.as_fd()).expect("a file can be muted");
        }
        let (stop, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| drain(&group, &stop, &bytes));
            bench.bench_function(name, |b| {
                b.iter_custom(|rounds| {
                    let begun = Instant::now();
                    for n in 0..rounds {
                        if n.is_multiple_of(10_000) {
                            file.rewind().expect("a file can be rewound");
                        }
                        file.write_all(&[b'x'; 100]).expect("there is room");
                    }
                    begun.elapsed()
                })
            });
            // The last writes' events, too.
            let heard = || bytes.load(Ordering::Relaxed) > 0;
            let deadline = Instant::now() + Duration::from_secs(1);
            while writes && !muted && !heard() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(heard(), writes && !muted, "{name}: what is heard is what was asked for");
        });
    }
    bench.finish();
    drop(file);
    let _ = nix::mount::umount2(&dir, nix::mount::MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(&dir);
}

criterion_group!(benches, write);
criterion_main!(benches);
