//! What this kernel offers, and which way fansync goes with it (`scripts/vm/kernels`): a line
//! `fact: NAME = VALUE` each.
//!
//! What can be tried is tried, by the calls that fansync makes; what fansync took, the daemon
//! tells.

use std::fs;
use std::process::{Command, ExitCode};

use fanotify::low_level::fanotify_init;
use fansync::sys::fanotify::{Group, Options};
use fansync::sys::ignore::Ignorer;
use fansync::sys::movemount::move_mount;
use fansync::sys::uring::Uring;

use crate::fixture::Setup;
use crate::fixture::fs::{ALL, Fs, Mount, enter, work_dir};

/// linux/fanotify.h: an error number instead of a descriptor in records (6.13, and in stable
/// kernels before).
const FAN_REPORT_FD_ERROR: u32 = 0x2000;
/// linux/fanotify.h: mounts as objects (6.15).
const FAN_REPORT_MNT: u32 = 0x4000;

/// Tells all of it.
pub fn print() -> ExitCode {
    let arena = match enter() {
        Ok(arena) => arena,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::FAILURE;
        }
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    fact("kernel", release.trim());
    fanotify();
    fact("`MOVE_MOUNT_BENEATH` (6.5): a switch without a gap", yes(beneath()));
    fact("`/sys/fs/nfs/*/shutdown` (6.5): blocked calls end with EIO", nfs_shutdown());
    let ring = Uring::open(1);
    fact("io_uring with timed waits (5.11)", yes(ring.is_ok()));
    fact("idle waits kept out of iowait (6.14)", yes(ring.is_ok_and(|ring| ring.hides_iowait())));
    for &fs in ALL {
        taken(fs);
    }
    drop(arena);
    ExitCode::SUCCESS
}

fn fact(name: &str, value: &str) {
    println!("fact: {name} = {value}");
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

fn fanotify() {
    let group = Group::open(&Options::default());
    let features = group.as_ref().map(Group::features);
    fact("fanotify with names (5.9)", yes(group.is_ok()));
    fact("own handle in each record (5.17)", yes(features.as_ref().is_ok_and(|f| f.target_fid)));
    fact("renames as one record (5.17)", yes(features.as_ref().is_ok_and(|f| f.rename)));
    fact("queue without limit", yes(features.as_ref().is_ok_and(|f| f.unlimited_queue)));
    let ignorer = group.as_ref().ok().and_then(|group| Ignorer::new(group).ok());
    fact("evictable marks (5.19)", yes(ignorer.as_ref().is_some_and(Ignorer::is_evictable)));
    fact("entries of a directory muted (6.0)", yes(ignorer.as_ref().is_some_and(Ignorer::can_ignore_entries)));
    // These descriptors live as long as this process.
    let takes = |flags| fanotify_init(flags, 0).is_ok();
    fact("`FAN_REPORT_FD_ERROR` (not used)", yes(takes(libc::FAN_CLASS_NOTIF | FAN_REPORT_FD_ERROR)));
    fact("mount events, `FAN_REPORT_MNT` (6.15; not used, the mount table is polled)", yes(takes(FAN_REPORT_MNT)));
}

/// As the monitor moves a mount.
fn beneath() -> bool {
    let work = work_dir();
    let _parent = Mount::tmpfs(&work.path().join("m"));
    let [from, to] = ["from", "to"].map(|name| work.path().join("m").join(name));
    let _mounts = [Mount::tmpfs(&from), Mount::tmpfs(&to)];
    move_mount(&from, &to, true).is_ok()
}

fn nfs_shutdown() -> &'static str {
    let _ = Command::new("modprobe").arg("nfs").output();
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let nfs = |line: &str| line.ends_with("\t[nfs]") || line.ends_with(" nfs_fs_type");
    match symbols.lines().any(nfs) {
        false => "no NFS client",
        true => yes(symbols.lines().any(|line| line.contains(" shutdown_store") && line.contains("nfs"))),
    }
}

/// What a mirror with its defaults takes.
fn taken(on: Fs) {
    let name = on.name();
    match Setup::new(on).follow("1s").start() {
        Ok(mirror) => {
            let status = mirror.daemon.status();
            let shown = &status.mirrors[0];
            let watch: Vec<String> = shown.watch.iter().map(|w| format!("{}: {}", w.backend, w.why)).collect();
            fact(&format!("fansync watches {name} by"), &watch.join("; "));
            if on == Fs::Tmpfs {
                fact("fansync waits and reads by", &shown.reader);
            }
        }
        Err(skip) => fact(&format!("fansync watches {name} by"), &format!("not tried: {}", skip.0)),
    }
}
