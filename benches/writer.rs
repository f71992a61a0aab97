//! What a flood of changes costs the one who makes it: 200,000 files created, written and closed by
//! one thread, on a tmpfs.
//!
//! - `nobody`: nobody listens.
//! - `raw drain`: the events are read, as the daemon reads them, and thrown away.
//! - `watching`: the daemon hears and merges them; its target is paused.
//! - `sending`: the daemon sends as well, to a directory of this host, so rsync shares the processors with the writer.
//!
//! The ways take turns, and the first moves on from round to round. Prints medians; the raw figures
//! go to standard error. `wall` and `cpu` are the writer's, beside `nobody`. The flood has to be on
//! the target at the end. Needs root: it mounts, in a mount namespace of its own. As a test
//! (`cargo test --bench writer`), one short round.

mod daemon;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use daemon::{Daemon, Tmpfs, equal, own_mounts};
use fansync::control::Steer;
use fansync::source::fan_decode;
use fansync::source::reader::{Feed, Input, Item, Reader, ReaderConfig};
use fansync::sys::event::EventFd;
use fansync::sys::fanotify::{Group, Options};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use std::os::fd::AsFd;

const DIRECTORIES: usize = 200;
const WAYS: [&str; 4] = ["nobody", "raw drain", "watching", "sending"];

/// One flood: the writer's time, and the daemon's with its children until all is on the target.
#[derive(Clone, Copy, Default)]
struct Cost {
    wall: Duration,
    cpu: Duration,
    daemon: f64,
    children: f64,
}

/// The writer's part.
fn flood(source: &Path, files: usize) -> Cost {
    let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every kernel has it"));
    let names: Vec<_> = (0..files).map(|n| source.join(format!("d{}/f{n}", n % DIRECTORIES))).collect();
    let (begun, spent) = (Instant::now(), cpu());
    for name in &names {
        fs::write(name, "sixteen bytes...").expect("there is room");
    }
    Cost { wall: begun.elapsed(), cpu: cpu() - spent, ..Cost::default() }
}

/// Reads what is queued until told to stop, and tells how many events that were.
fn drain(source: &Path, stop: &AtomicBool, ready: &AtomicBool) -> usize {
    let group = Group::open(&Options::default()).expect("root may");
    group.mark_filesystem(source).expect("tmpfs can be marked");
    let fd = group.as_fd().try_clone_to_owned().expect("a descriptor");
    let wake = Arc::new(EventFd::new().expect("an eventfd"));
    let reader =
        Reader::spawn(vec![Input { feed: Feed::Fanotify, fd }], ReaderConfig::default(), Arc::clone(&wake)).expect("a reader");
    ready.store(true, Ordering::Release);
    let (mut events, mut asked) = (0, false);
    loop {
        wake.clear();
        while let Some(item) = reader.pop() {
            match item {
                Item::Buf(buf) => {
                    events += fan_decode::events(&buf).count();
                    reader.give_back(buf);
                }
                Item::Drained(_) => return events,
                Item::Failed { error, .. } => panic!("the reader failed: {error}"),
            }
        }
        if stop.load(Ordering::Acquire) && !asked {
            reader.request_drain(1);
            asked = true;
        }
        let mut polls = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        poll(&mut polls, PollTimeout::from(100u8)).expect("poll works");
    }
}

fn drained(source: &Path, files: usize) -> Cost {
    let (stop, ready) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let drain = scope.spawn(|| drain(source, &stop, &ready));
        while !ready.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let cost = flood(source, files);
        stop.store(true, Ordering::Release);
        let events = drain.join().expect("the drain does not fail");
        assert!(events >= files, "{events} events of {files} files");
        cost
    })
}

fn mirrored(work: &Path, source: &Path, target: &Path, files: usize, send: bool) -> Cost {
    let daemon = Daemon::start(work, source, target, "");
    daemon.flush();
    if !send {
        daemon.steer(Steer::Pause);
    }
    let before = daemon.cpu();
    let mut cost = flood(source, files);
    if !send {
        // What is heard is merged before the time is taken.
        daemon.until(|m| m.targets[0].pending >= files as u64);
        cost.daemon = daemon.cpu().0 - before.0;
        return cost;
    }
    daemon.flush();
    (cost.daemon, cost.children) = (daemon.cpu().0 - before.0, daemon.cpu().1 - before.1);
    assert!(equal(source, target), "source and target differ: {}", daemon.words());
    cost
}

fn trial(way: &str, files: usize) -> Cost {
    let work = tempfile::tempdir().expect("a temporary directory");
    let (source, target) = (Tmpfs::new(work.path().join("source")), Tmpfs::new(work.path().join("target")));
    for d in 0..DIRECTORIES {
        fs::create_dir(source.0.join(format!("d{d}"))).expect("the directory is new");
    }
    match way {
        "nobody" => flood(&source.0, files),
        "raw drain" => drained(&source.0, files),
        way => mirrored(work.path(), &source.0, &target.0, files, way == "sending"),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    if !own_mounts() {
        return;
    }
    let (rounds, files) = if std::env::args().any(|a| a == "--bench") { (7, 200_000) } else { (1, 2_000) };
    let mut costs: [Vec<Cost>; WAYS.len()] = Default::default();
    for round in 0..rounds {
        for turn in 0..WAYS.len() {
            let way = (round + turn) % WAYS.len();
            let cost = trial(WAYS[way], files);
            eprintln!("{round} {}: {:?} {:?} {:.2} {:.2}", WAYS[way], cost.wall, cost.cpu, cost.daemon, cost.children);
            costs[way].push(cost);
        }
    }
    let of = |way: usize, what: fn(&Cost) -> f64| median(costs[way].iter().map(what).collect());
    println!("| | wall, s | cpu, s | wall, ratio | cpu, ratio | daemon, CPU-s | rsync, CPU-s |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let wall = |way| of(way, |c| c.wall.as_secs_f64());
    let cpu = |way| of(way, |c| c.cpu.as_secs_f64());
    for (at, way) in WAYS.iter().enumerate() {
        println!(
            "| {way} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            wall(at),
            cpu(at),
            wall(at) / wall(0),
            cpu(at) / cpu(0),
            of(at, |c| c.daemon),
            of(at, |c| c.children)
        );
    }
}
