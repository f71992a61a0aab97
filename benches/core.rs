//! The core: bytes as the kernel delivers them → decoded → resolved → merged into the dirty set,
//! beside the raw drain, which only reads them.
//!
//! - `core/recorded`: a load's bytes from a file in memory, read in the reader's buffers. `raw` reads, `core` works on what it
//!   read. `known`: every path is in the set already; `new`: none is. `no observer`: without the engine's look whether somebody
//!   listens to `fansync events`; nobody does.
//! - `core/live`: the same load, its events waiting in the kernel's queue.
//!
//! Timed is the thread's CPU time, so what else the machine does counts little. Both need root for
//! a filesystem of their own; without, they are left out, said aloud.
//!
//! Before anything is timed, the merged set is compared with what the load did, and the steady
//! state is shown to allocate nothing: the allocator counts.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fansync::dirty::{DirtySet, PathSink, Seen};
use fansync::engine::Listeners;
use fansync::filter::Filter;
use fansync::resolve::Resolver;
use fansync::root::Root;
use fansync::source::fan_decode::events;
use fansync::sys::fanotify::{Group, Options};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::time::{ClockId, clock_gettime};

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the count is a thread's own and
// allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BUF_BYTES: usize = 128 << 10;
const DIRS: usize = 64;

/// A filesystem of its own with a mark, and the core as the engine has it.
struct Ground {
    dir: PathBuf,
    group: Group,
    core: Core,
}

struct Core {
    root: Root,
    resolver: Resolver,
    filter: Filter,
    set: DirtySet,
    listeners: Listeners,
}

impl Core {
    fn resolve(&mut self, bytes: &[u8], out: &mut dyn PathSink) {
        for event in events(bytes) {
            let event = event.expect("the kernel's records are good");
            self.resolver.event(&self.root, &self.filter, &event, out).expect("every handle can be resolved");
        }
    }

    /// As the engine does it; tells how many events that were. `OBSERVABLE`: somebody could listen
    /// by `fansync events`.
    fn take<const OBSERVABLE: bool>(&mut self, bytes: &[u8]) -> u64 {
        let now = Duration::from_secs(1);
        let (set, listeners, mut count) = (&mut self.set, &mut self.listeners, 0);
        self.resolver.tick(now);
        for event in events(bytes) {
            let event = event.expect("the kernel's records are good");
            let mut out = |path: &[u8], seen: Seen| {
                if OBSERVABLE && listeners.any() {
                    listeners.publish(event.mask, event.pid, path, seen);
                }
                set.tick(now);
                set.see(path, seen);
            };
            self.resolver.event(&self.root, &self.filter, &event, &mut out).expect("every handle can be resolved");
            count += 1;
        }
        count
    }

    fn forget_dirty(&mut self) {
        self.set = DirtySet::new(1_000_000);
    }
}

impl Ground {
    /// `None` without root.
    fn new() -> Option<Ground> {
        let dir = std::env::temp_dir().join(format!("fansync-bench-{}", std::process::id()));
        let mounted = || -> nix::Result<()> {
            use nix::mount::{MsFlags, mount};
            const NONE: Option<&Path> = None;
            // This process alone sees it, so it goes when this process ends.
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
            fs::create_dir_all(&dir).map_err(|e| nix::Error::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
            mount(Some("none"), &dir, Some("tmpfs"), MsFlags::empty(), Some("size=512m"))
        };
        if let Err(errno) = mounted() {
            eprintln!("SKIPPED: a filesystem of its own needs root: {errno}");
            return None;
        }
        for n in 0..DIRS {
            fs::create_dir_all(dir.join(format!("root/d{:02}/of/users", n))).expect("an empty filesystem takes directories");
        }
        let group = Group::open(&Options::default()).expect("root may");
        group.mark_filesystem(&dir).expect("tmpfs can be marked");
        let root = Root::open(&dir.join("root")).expect("it was just made");
        let mut resolver = Resolver::new(1_000_000);
        resolver
            .add_mount(&root, &fansync::path::RelPath::root(), File::open(root.path()).expect("it is there").into())
            .expect("tmpfs has an id");
        let core = Core {
            root,
            resolver,
            filter: Filter::new::<&str, _>(&[], &["*.swp", ".git/", "*~"]).expect("good"),
            set: DirtySet::new(1_000_000),
            listeners: black_box(Listeners::default()),
        };
        Some(Ground { dir, group, core })
    }

    /// Writes (creates, at the first time) `files` files, so many in one directory before the next
    /// one's turn.
    fn load(&self, files: usize, run: usize) {
        for n in 0..files {
            fs::write(self.dir.join(format!("root/d{:02}/of/users/document-{n:06}.txt", n / run % DIRS)), "x")
                .expect("there is room");
        }
    }

    /// Reads all that is queued; `each` gets each buffer.
    fn drain(&mut self, buf: &mut [u8], mut each: impl FnMut(&mut Core, &[u8])) {
        while let Ok(len) = nix::unistd::read(&self.group, buf) {
            each(&mut self.core, &buf[..len]);
        }
    }

    fn record(&mut self, files: usize) -> Vec<u8> {
        self.load(files, 1);
        let (mut all, mut buf) = (Vec::new(), vec![0; BUF_BYTES]);
        self.drain(&mut buf, |_, bytes| all.extend_from_slice(bytes));
        all
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.dir, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.dir);
    }
}

fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every kernel has it").into()
}

/// The CPU time of this thread for so many rounds.
fn timed(rounds: u64, mut round: impl FnMut()) -> Duration {
    let begun = cpu();
    for _ in 0..rounds {
        round();
    }
    cpu() - begun
}

/// The input is what it is taken for, and a pass over known paths allocates nothing.
fn check(ground: &mut Ground, bytes: &[u8], files: usize) {
    let count = ground.core.take::<true>(bytes);
    assert_eq!(count, files as u64, "one merged record for each file");
    assert_eq!(ground.core.set.pending(), files, "every file is in the set");
    assert_eq!(ground.core.resolver.stats().opened, DIRS as u64, "each directory was looked up once");
    let before = ALLOCATIONS.get();
    assert_eq!(black_box(vec![0u8; 100]).len(), 100);
    assert_eq!(ALLOCATIONS.get(), before + 1, "the allocator counts");
    let before = ALLOCATIONS.get();
    ground.core.take::<true>(bytes);
    assert_eq!(ALLOCATIONS.get(), before, "the steady state allocates");
    assert_eq!(ground.core.set.pending(), files);
}

fn recorded(c: &mut Criterion, ground: &mut Ground, files: usize) {
    let bytes = ground.record(files);
    check(ground, &bytes, files);
    let file = File::from(memfd_create("events", MFdFlags::MFD_CLOEXEC).expect("every kernel has it"));
    file.write_all_at(&bytes, 0).expect("memory");
    // Whole records, as the kernel gives them.
    let mut cuts = vec![0];
    let (mut at, mut start) = (0, 0);
    while at < bytes.len() {
        let len = u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        if at + len - start > BUF_BYTES {
            cuts.push(at);
            start = at;
        }
        at += len;
    }
    cuts.push(bytes.len());
    let mut buf = vec![0; BUF_BYTES];
    let mut read = |each: &mut dyn FnMut(&[u8])| {
        for cut in cuts.windows(2) {
            let len = cut[1] - cut[0];
            file.read_exact_at(&mut buf[..len], cut[0] as u64).expect("it was written");
            each(&buf[..len]);
        }
    };
    let mut group = c.benchmark_group("core/recorded");
    group.throughput(Throughput::Elements(files as u64)).sample_size(20);
    group.bench_function("raw", |b| b.iter_custom(|rounds| timed(rounds, || read(&mut |bytes| _ = black_box(bytes)))));
    group.bench_function("decode", |b| {
        b.iter_custom(|rounds| timed(rounds, || read(&mut |bytes| _ = black_box(events(bytes).count()))))
    });
    let core = &mut ground.core;
    group.bench_function("resolve", |b| {
        b.iter_custom(|rounds| {
            timed(rounds, || read(&mut |bytes| core.resolve(bytes, &mut |path: &[u8], seen: Seen| _ = black_box((path, seen)))))
        })
    });
    group.bench_function("known, no observer", |b| {
        b.iter_custom(|rounds| timed(rounds, || read(&mut |bytes| _ = core.take::<false>(bytes))))
    });
    group.bench_function("known", |b| b.iter_custom(|rounds| timed(rounds, || read(&mut |bytes| _ = core.take::<true>(bytes)))));
    group.bench_function("new", |b| {
        b.iter_custom(|rounds| {
            let each = || {
                core.forget_dirty();
                timed(1, || read(&mut |bytes| _ = core.take::<true>(bytes)))
            };
            std::iter::repeat_with(each).take(rounds as usize).sum()
        })
    });
    group.finish();
}

fn live(c: &mut Criterion, ground: &mut Ground, files: usize) {
    let mut group = c.benchmark_group("core/live");
    group.throughput(Throughput::Elements(files as u64)).sample_size(10);
    let mut buf = vec![0; BUF_BYTES];
    // As a tree that is copied or unpacked gives them, and as many writers at once do.
    let orders = [("in runs of 100", 100), ("scattered", 1)];
    for ((order, run), what) in orders.iter().flat_map(|&order| ["raw", "known", "new"].map(|what| (order, what))) {
        group.bench_function(BenchmarkId::new(what, order), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    ground.load(files, run);
                    if what == "new" {
                        ground.core.forget_dirty();
                    }
                    let (begun, mut count) = (cpu(), 0);
                    ground.drain(&mut buf, |core, bytes| match what {
                        "raw" => _ = black_box(bytes),
                        _ => count += core.take::<true>(bytes),
                    });
                    spent += cpu() - begun;
                    assert!(what == "raw" || count == files as u64, "{count} events for {files} files");
                }
                spent
            })
        });
    }
    group.finish();
}

fn core(c: &mut Criterion) {
    let files = if std::env::args().any(|word| word == "--bench") { 50_000 } else { 2_000 };
    let Some(mut ground) = Ground::new() else { return };
    let ground = &mut ground;
    black_box(ground.group.as_fd());
    recorded(c, ground, files);
    live(c, ground, files);
}

criterion_group!(benches, core);
criterion_main!(benches);
