//! What a change costs its writer, by how the filesystem is listened to; on a filesystem of its
//! own, which needs root.
//!
//! `follow/write`: a write(2) of 100 bytes to an open file. `none`: nobody listens. `default`: a
//! mark that does not hear of writes. `naive`: one that does, and a reader that drains every 2 ms.
//! `muted`: the same, the file muted, as `follow_open_files` does it for all but the moment between
//! two intervals.
//!
//! `muting/rewrite`: open, write, close of one of 1,000 files in a directory that does not matter.
//! `none`, `heard`, and `muted`: the directory has an ignore mark.
//!
//! `muting/daemon`: processor time, for one such change in an excluded directory, of the thread
//! that drains every 2 ms and resolves. `heard`: it may not mute; `muted`: it does, once the
//! directory is hot.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fansync::filter::Filter;
use fansync::resolve::{MuteBy, Resolver};
use fansync::root::Root;
use fansync::source::fan_decode::events;
use fansync::sys::fanotify::{Group, Options};
use fansync::sys::ignore::Ignorer;
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};
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

/// How a filesystem is listened to.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    marked: bool,
    writes: bool,
    muted: bool,
}

impl Way {
    const fn new(name: &'static str, marked: bool, writes: bool, muted: bool) -> Way {
        Way { name, marked, writes, muted }
    }

    /// Runs `work` while events are drained, and checks that they came if and only if they were to.
    fn listen(self, dir: &Path, mute: impl FnOnce(&Ignorer), heard: bool, work: impl FnOnce() -> u64) {
        let group = Group::open(&Options { writes: self.writes, ..Options::default() }).expect("root may");
        if self.marked {
            group.mark_filesystem(dir).expect("tmpfs can be marked");
        }
        if self.muted {
            mute(&Ignorer::new(&group).expect("a descriptor"));
        }
        let (stop, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
        let came = || bytes.load(Ordering::Relaxed) > 0;
        std::thread::scope(|scope| {
            scope.spawn(|| drain(&group, &stop, &bytes));
            // A filter on the command line may leave it out.
            let heard = work() > 0 && heard;
            let deadline = Instant::now() + Duration::from_secs(10);
            while heard && !came() && Instant::now() < deadline {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(came(), heard, "{}: what is heard is what was asked for", self.name);
        });
    }
}

fn write(c: &mut Criterion, dir: &Path) {
    let mut file = File::create(dir.join("log")).expect("an empty filesystem takes files");
    let mut bench = c.benchmark_group("follow/write");
    bench.throughput(Throughput::Elements(1));
    for way in [
        Way::new("none", false, false, false),
        Way::new("default", true, false, false),
        Way::new("naive", true, true, false),
        Way::new("muted", true, true, true),
    ] {
        let fd = file.try_clone().expect("a descriptor");
        let mute = |ignorer: &Ignorer| ignorer.ignore_writes(fd.as_fd()).expect("a file can be muted");
        way.listen(dir, mute, way.writes && !way.muted, || {
            let mut all = 0;
            bench.bench_function(way.name, |b| {
                b.iter_custom(|rounds| {
                    all += rounds;
                    let begun = cpu();
                    for n in 0..rounds {
                        if n.is_multiple_of(10_000) {
                            file.rewind().expect("a file can be rewound");
                        }
                        file.write_all(&[b'x'; 100]).expect("there is room");
                    }
                    cpu() - begun
                })
            });
            all
        });
    }
    bench.finish();
}

fn rewrite(c: &mut Criterion, dir: &Path) {
    let hot = dir.join("hot");
    fs::create_dir(&hot).expect("an empty filesystem takes directories");
    let names: Vec<_> = (0..1000).map(|n| hot.join(format!("file {n}"))).collect();
    names.iter().for_each(|name| fs::write(name, "x").expect("there is room"));
    let mut bench = c.benchmark_group("muting/rewrite");
    bench.throughput(Throughput::Elements(1));
    for way in
        [Way::new("none", false, false, false), Way::new("heard", true, false, false), Way::new("muted", true, false, true)]
    {
        let mute = |ignorer: &Ignorer| {
            let fd = File::open(&hot).expect("it is there");
            ignorer.ignore_entries(fd.as_fd()).expect("a directory can be muted, from Linux 6.0 on");
        };
        way.listen(dir, mute, way.marked && !way.muted, || {
            let mut all = 0;
            bench.bench_function(way.name, |b| {
                b.iter_custom(|rounds| {
                    all += rounds;
                    let begun = cpu();
                    for n in 0..rounds as usize {
                        fs::write(&names[n % names.len()], "y").expect("there is room");
                    }
                    cpu() - begun
                })
            });
            all
        });
    }
    bench.finish();
}

/// What changes that do not matter cost the daemon.
fn daemon(c: &mut Criterion, dir: &Path) {
    let hot = dir.join("tree/hot");
    fs::create_dir_all(&hot).expect("an empty filesystem takes directories");
    let names: Vec<_> = (0..1000).map(|n| hot.join(format!("file {n}"))).collect();
    names.iter().for_each(|name| fs::write(name, "x").expect("there is room"));
    let filter = Filter::new::<&str, _>(&[], &["/hot/"]).expect("good");
    let mut bench = c.benchmark_group("muting/daemon");
    bench.throughput(Throughput::Elements(1)).sample_size(10);
    for mutes in [false, true] {
        let group = Group::open(&Options::default()).expect("root may");
        group.mark_filesystem(dir).expect("tmpfs can be marked");
        let root = Root::open(&dir.join("tree")).expect("it was just made");
        let mut resolver = Resolver::new(1_000_000);
        resolver
            .add_mount(&root, &fansync::path::RelPath::root(), File::open(root.path()).expect("it is there").into())
            .expect("tmpfs has an id");
        if mutes {
            let ignorer = Ignorer::new(&group).expect("a descriptor");
            resolver.mute_by(MuteBy { ignorer, follow: None, names_files: group.features().target_fid });
        }
        let (mut all, started, mut buf) = (0, Instant::now(), vec![0; 128 << 10]);
        bench.bench_function(if mutes { "muted" } else { "heard" }, |b| {
            b.iter_custom(|rounds| {
                all += rounds;
                let written = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        (0..rounds as usize).for_each(|n| fs::write(&names[n % names.len()], "y").expect("there is room"));
                        written.store(true, Ordering::Release);
                    });
                    let begun = cpu();
                    loop {
                        let last = written.load(Ordering::Acquire);
                        resolver.tick(started.elapsed());
                        while let Ok(len) = nix::unistd::read(&group, &mut buf) {
                            for event in events(&buf[..len]) {
                                let event = event.expect("the kernel's records are good");
                                resolver
                                    .event(&root, &filter, &event, &mut |path: &[u8], _: fansync::dirty::Seen| {
                                        panic!("{} is excluded", path.escape_ascii())
                                    })
                                    .expect("every handle can be resolved");
                            }
                        }
                        if last {
                            break cpu() - begun;
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                })
            })
        });
        let muted = resolver.muted().directories;
        assert!(all < 1000 || muted == u64::from(mutes), "{muted} directories are muted");
    }
    bench.finish();
}

fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every kernel has it").into()
}

fn all(c: &mut Criterion) {
    let dir = std::env::temp_dir().join(format!("fansync-bench-{}", std::process::id()));
    if let Err(errno) = mounted(&dir) {
        return eprintln!("SKIPPED: a filesystem of its own needs root: {errno}");
    }
    write(c, &dir);
    rewrite(c, &dir);
    daemon(c, &dir);
    let _ = nix::mount::umount2(&dir, nix::mount::MntFlags::MNT_DETACH);
    let _ = fs::remove_dir(&dir);
}

criterion_group!(benches, all);
criterion_main!(benches);
