//! How many changes a second the whole daemon bears before the kernel drops events, and what it
//! does beyond.
//!
//! Two threads create, write and close files in 200 directories at a growing rate, a step every 1.5
//! seconds, until a loss of sight is counted; then the load ends, and the time until the target is
//! equal is taken, by `flush` and a full comparison. Each setting has a daemon and two tmpfs of its
//! own: fanotify with an unlimited queue and with two limited ones, inotify with the kernel's usual
//! queue, and with fewer watches than directories.
//!
//! Needs root: it mounts, in a mount namespace of its own, and sets four sysctls, which come back.
//! Prints a table; as a test (`cargo test --bench limits`) one short step of each.

mod daemon;

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use daemon::{Daemon, Tmpfs, equal, own_mounts};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

const DIRECTORIES: usize = 200;
const NAMES: usize = 200;
const WRITERS: usize = 2;
const QUEUE: &str = "/proc/sys/fs/fanotify/max_queued_events";
const INOTIFY_QUEUE: &str = "/proc/sys/fs/inotify/max_queued_events";
const INOTIFY_WATCHES: &str = "/proc/sys/fs/inotify/max_user_watches";

struct Setting {
    name: &'static str,
    watch: &'static str,
    unlimited: bool,
    sysctls: &'static [(&'static str, &'static str)],
}

const SETTINGS: &[Setting] = &[
    Setting { name: "fanotify, no limit", watch: "fanotify", unlimited: true, sysctls: &[] },
    Setting { name: "fanotify, queue of 16,384", watch: "fanotify", unlimited: false, sysctls: &[(QUEUE, "16384")] },
    Setting { name: "fanotify, queue of 1,024", watch: "fanotify", unlimited: false, sysctls: &[(QUEUE, "1024")] },
    Setting { name: "inotify, queue of 16,384", watch: "inotify", unlimited: true, sysctls: &[(INOTIFY_QUEUE, "16384")] },
    Setting { name: "inotify, watches for half", watch: "inotify", unlimited: true, sysctls: &[(INOTIFY_WATCHES, "100")] },
];

/// A setting of the kernel that comes back.
struct Sysctl {
    path: &'static str,
    before: String,
}

impl Sysctl {
    fn set(&(path, value): &(&'static str, &'static str)) -> Sysctl {
        let before = fs::read_to_string(path).expect("the sysctl is readable");
        fs::write(path, value).expect("the sysctl is writable");
        Sysctl { path, before }
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        fs::write(self.path, &self.before).expect("the sysctl comes back");
    }
}

/// Creates, writes and closes files at `rate` a second altogether (0: as fast as it goes) for
/// `time`; the number made.
fn load(source: &Path, rate: u64, time: Duration) -> u64 {
    let made = AtomicU64::new(0);
    thread::scope(|threads| {
        for writer in 0..WRITERS {
            let made = &made;
            threads.spawn(move || {
                let dirs: Vec<fs::File> = (writer..DIRECTORIES)
                    .step_by(WRITERS)
                    .map(|d| fs::File::open(source.join(format!("d{d}"))).expect("the directory is there"))
                    .collect();
                assert!(dirs.iter().all(|d| d.as_raw_fd() > 2));
                let begun = Instant::now();
                let mut n = 0u64;
                while begun.elapsed() < time {
                    let due = begun.elapsed().as_secs_f64() * rate as f64 / WRITERS as f64;
                    if rate > 0 && n as f64 > due {
                        thread::sleep(Duration::from_micros(200));
                        continue;
                    }
                    let name = format!("f{}", n / dirs.len() as u64 % NAMES as u64);
                    let flags = OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                    let fd = openat(&dirs[n as usize % dirs.len()], name.as_str(), flags, Mode::from_bits_truncate(0o644));
                    let mut file = fs::File::from(fd.expect("the file is made"));
                    file.write_all(&n.to_le_bytes()).expect("the file is written");
                    n += 1;
                }
                made.fetch_add(n, Ordering::Relaxed);
            });
        }
    });
    made.into_inner()
}

/// Losses so far, those excepted that say only that something is not watched.
fn losses(daemon: &Daemon) -> u64 {
    daemon.status().expect("fansync answers").lost.iter().filter(|(cause, _)| *cause != "watch-limit").map(|(_, n)| n).sum()
}

fn run(setting: &Setting, rates: &[u64], time: Duration) {
    let _sysctls: Vec<Sysctl> = setting.sysctls.iter().map(Sysctl::set).collect();
    let work = tempfile::tempdir().expect("a temporary directory");
    let (source, target) = (Tmpfs::new(work.path().join("source")), Tmpfs::new(work.path().join("target")));
    for d in 0..DIRECTORIES {
        fs::create_dir(source.0.join(format!("d{d}"))).expect("the directory is new");
    }
    let more = format!("watch = \"{}\"\n[mirror.kernel]\nunlimited_queue = {}\n", setting.watch, setting.unlimited);
    let daemon = Daemon::start(work.path(), &source.0, &target.0, &more);
    let losses_before = losses(&daemon);
    let (mut borne, mut broke) = (None, None);
    for &rate in rates {
        let events = daemon.status().expect("fansync answers").events;
        let begun = Instant::now();
        let made = load(&source.0, rate, time);
        let seconds = begun.elapsed().as_secs_f64();
        let files = made as f64 / seconds;
        if losses(&daemon) > losses_before {
            broke = Some(files);
            break;
        }
        let heard = daemon.status().expect("fansync answers").events - events;
        borne = Some((files, heard as f64 / seconds));
    }
    let begun = Instant::now();
    daemon.flush();
    let seconds = begun.elapsed().as_secs_f64();
    assert!(equal(&source.0, &target.0), "{}: source and target differ: {}", setting.name, daemon.words());
    let status = daemon.status().expect("fansync answers");
    let causes: Vec<String> = status.lost.iter().map(|(cause, n)| format!("{cause} {n}")).collect();
    let (files, events) = borne.map_or(("-".into(), "-".into()), |(f, e)| (format!("{f:.0}"), format!("{e:.0}")));
    println!(
        "| {} | {files} | {events} | {} | {} | {seconds:.2} |",
        setting.name,
        broke.map_or("not reached".into(), |f| format!("{f:.0}")),
        if causes.is_empty() { "none".into() } else { causes.join(", ") },
    );
}

fn main() {
    let full = std::env::args().any(|a| a == "--bench");
    if !own_mounts() {
        return;
    }
    println!("| | files/s borne | events/s | files/s at the first loss | losses | s to equal |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for setting in SETTINGS {
        match full {
            true => run(setting, &[5_000, 20_000, 50_000, 100_000, 200_000, 0], Duration::from_millis(1500)),
            false => run(setting, &[2_000], Duration::from_millis(200)),
        }
    }
}
