//! Kernels from 3.10 on: what they lack is answered with ENOSYS and EINVAL by a filter for system
//! calls (seccomp(2)), for the daemon, its rsyncs and the test itself.
//!
//! What a filter cannot take away stays: what the kernel reports of an io_uring, and what is in
//! /proc. `scripts/vm/kernels` runs the tests on other kernels.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

use crate::fixture::daemon::Until;
use crate::fixture::fs::{Fs, Mount};
use crate::fixture::{Case, Mirror, Run, Setup, To, case};
use crate::on_a_thread;

/// A version of Linux: major, minor.
type Release = (u32, u32);

/// CentOS 7; RHEL 8; Debian 11.
const RELEASES: [Release; 3] = [(3, 10), (4, 18), (5, 10)];

pub fn cases() -> Vec<Case> {
    const ON: &[Fs] = &[Fs::Ext4, Fs::Tmpfs, Fs::Xfs];
    let names = ["as_3_10", "as_4_18", "as_5_10"];
    let all = names
        .into_iter()
        .zip(RELEASES)
        .map(|(name, release)| case(name, ON, move |fs| on_a_thread(|| as_on(release, || work_out(fs, release)))));
    all.chain([case("what_is_lacked_is_refused", &[Fs::Tmpfs], |_| on_a_thread(refused))]).collect()
}

/// Runs something as on this kernel, on this thread and in what it starts.
fn as_on(release: Release, run: impl FnOnce() -> Run<()>) -> Run<()> {
    let (calls, words) = (SINCE.iter().filter(|(since, _)| *since > release), FLAGS.iter().filter(|flag| flag.since > release));
    let mut invalid: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for Flag { call, argument, bits, whole, .. } in words {
        let compare = if *whole { SeccompCmpOp::Eq } else { SeccompCmpOp::MaskedEq(*bits) };
        let condition = SeccompCondition::new(*argument, SeccompCmpArgLen::Qword, compare, *bits).expect("a condition");
        invalid.entry(*call).or_default().push(SeccompRule::new(vec![condition]).expect("a rule"));
    }
    let missing = calls.flat_map(|(_, calls)| calls.iter().map(|call| (*call, Vec::new()))).collect();
    // The second takes away seccomp(2) itself.
    for (rules, errno) in [(invalid, libc::EINVAL), (missing, libc::ENOSYS)] {
        let arch = TargetArch::try_from(std::env::consts::ARCH).expect("an architecture with filters");
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch).expect("a filter");
        let program = seccompiler::BpfProgram::try_from(filter).expect("a program");
        seccompiler::apply_filter(&program).expect("root may set a filter");
    }
    run()
}

/// The filter itself.
fn refused() -> Run<()> {
    as_on((3, 10), || {
        assert_eq!(memfd_create(c"x", MFdFlags::empty()).err(), Some(Errno::ENOSYS));
        let mut lock = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
        let file = std::fs::File::open("/dev/null").expect("it is there");
        assert_eq!(fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).err(), Some(Errno::EINVAL));
        assert!(fcntl(&file, FcntlArg::F_GETLK(&mut lock)).is_ok());
        Ok(())
    })
}

fn work_out(fs: Fs, release: Release) -> Run<()> {
    let mut m = Setup::new(fs).targets(&[To::Module, To::Local]).carrying(&["hard_links"]);
    m = m.before(|src| {
        src.mkdirs("before/dir");
        src.write("before/dir/file", b"there at the start");
        src.mkdirs("kept/dir");
        src.write("kept/dir/file", b"there at the start");
    });
    let mut m = m.start()?;
    m.check();
    let status = m.daemon.status();
    let (watch, reader) = (&status.mirrors[0].watch[0], &status.mirrors[0].reader);
    let says = |text: &str| assert!(watch.why.contains(text), "{watch:?}");
    match release >= (5, 9) {
        true => says("without rename records"),
        false => says("no fanotify"),
    }
    assert_eq!(watch.backend, if release >= (5, 9) { "fanotify" } else { "inotify" });
    assert!(release >= (5, 1) || reader.starts_with("poll"), "{reader}");
    change(&m);
    // What happens while fansync does not run, beside a mount, is found by the walk of the start.
    m.src.mkdirs("inner");
    let mount = Mount::tmpfs(&m.src.at("inner"));
    m.src.write("inner/in", b"of another filesystem");
    m.check();
    m.rest("rest", b"and then nothing");
    m.daemon.terminate();
    m.src.write("kept/dir/file", b"changed meanwhile");
    m.src.mkdirs("new/dir");
    m.src.write("new/dir/file", b"new");
    m.restart(Until::Watching);
    m.check();
    assert_eq!(m.daemon.status().mirrors[0].start.how, "walk", "{:?}", m.daemon.status().mirrors[0].start);
    m.src.write("inner/later", b"of another filesystem");
    m.check();
    drop(mount);
    Ok(())
}

/// Files, directories, renames, deletions and links.
fn change(m: &Mirror) {
    m.src.mkdirs("d/sub/deep");
    m.src.write("d/file", b"one");
    m.src.write("d/sub/deep/file", vec![7; 300_000]);
    m.src.symlink("file", "d/link");
    m.src.link("d/file", "d/sub/name");
    m.src.fifo("d/fifo");
    m.check();
    m.src.append("d/sub/name", b", through the other name");
    m.src.chmod("d/sub", 0o700);
    m.src.chown("d/file", 1, 2);
    m.check();
    m.src.rename("d/sub", "sub");
    m.src.rename("d/link", "sub/link");
    m.src.write("sub/deep/more", b"in a directory that was moved");
    m.check();
    m.src.remove("d");
    m.src.write("d", b"a file now");
    m.src.rename("sub", "aside");
    m.src.rename("before", "sub");
    m.src.rename("aside", "before");
    m.check();
    for n in 0..300 {
        m.src.write(format!("sub/{n}"), format!("{n}"));
    }
    m.check();
    m.src.remove("sub/dir");
    m.src.remove("before/deep");
    m.check();
}

/// An argument of a call that a kernel does not take before this release.
struct Flag {
    since: Release,
    call: i64,
    argument: u8,
    bits: u64,
    /// The argument is this number, and not a set with these bits.
    whole: bool,
}

const fn bit(since: Release, call: i64, argument: u8, bits: u64) -> Flag {
    Flag { since, call, argument, bits, whole: false }
}

const fn number(since: Release, call: i64, bits: u64) -> Flag {
    Flag { since, call, argument: if call == libc::SYS_fcntl { 1 } else { 0 }, bits, whole: true }
}

/// fanotify_init(2), fanotify_mark(2), waitid(2), prctl(2), fcntl(2), name_to_handle_at(2).
const FLAGS: [Flag; 26] = [
    bit((4, 20), libc::SYS_fanotify_init, 0, 0x100),       // FAN_REPORT_TID
    bit((5, 1), libc::SYS_fanotify_init, 0, 0x200),        // FAN_REPORT_FID
    bit((5, 9), libc::SYS_fanotify_init, 0, 0x400),        // FAN_REPORT_DIR_FID
    bit((5, 9), libc::SYS_fanotify_init, 0, 0x800),        // FAN_REPORT_NAME
    bit((5, 15), libc::SYS_fanotify_init, 0, 0x80),        // FAN_REPORT_PIDFD
    bit((5, 17), libc::SYS_fanotify_init, 0, 0x1000),      // FAN_REPORT_TARGET_FID
    bit((6, 13), libc::SYS_fanotify_init, 0, 0x2000),      // FAN_REPORT_FD_ERROR
    bit((6, 14), libc::SYS_fanotify_init, 0, 0x4000),      // FAN_REPORT_MNT
    bit((4, 20), libc::SYS_fanotify_mark, 1, 0x100),       // FAN_MARK_FILESYSTEM
    bit((5, 19), libc::SYS_fanotify_mark, 1, 0x200),       // FAN_MARK_EVICTABLE
    bit((6, 0), libc::SYS_fanotify_mark, 1, 0x400),        // FAN_MARK_IGNORE
    bit((5, 1), libc::SYS_fanotify_mark, 2, 0x4),          // FAN_ATTRIB
    bit((5, 1), libc::SYS_fanotify_mark, 2, 0x40),         // FAN_MOVED_FROM
    bit((5, 1), libc::SYS_fanotify_mark, 2, 0x80),         // FAN_MOVED_TO
    bit((5, 1), libc::SYS_fanotify_mark, 2, 0x100),        // FAN_CREATE
    bit((5, 1), libc::SYS_fanotify_mark, 2, 0x200),        // FAN_DELETE
    bit((5, 1), libc::SYS_fanotify_mark, 2, 0x400),        // FAN_DELETE_SELF
    bit((5, 1), libc::SYS_fanotify_mark, 2, 0x800),        // FAN_MOVE_SELF
    bit((5, 17), libc::SYS_fanotify_mark, 2, 0x1000_0000), // FAN_RENAME
    number((5, 4), libc::SYS_waitid, 3),                   // P_PIDFD
    number((4, 3), libc::SYS_prctl, 47),                   // PR_CAP_AMBIENT
    number((3, 17), libc::SYS_fcntl, 1033),                // F_ADD_SEALS
    number((3, 15), libc::SYS_fcntl, 36),                  // F_OFD_GETLK
    number((3, 15), libc::SYS_fcntl, 37),                  // F_OFD_SETLK
    number((3, 15), libc::SYS_fcntl, 38),                  // F_OFD_SETLKW
    bit((6, 5), libc::SYS_name_to_handle_at, 4, 0x200),    // AT_HANDLE_FID
];

/// System calls, by the release that brought them (syscalls(2)).
const SINCE: [(Release, &[i64]); 24] = [
    ((3, 14), &[libc::SYS_sched_setattr, libc::SYS_sched_getattr]),
    ((3, 15), &[libc::SYS_renameat2]),
    ((3, 17), &[libc::SYS_seccomp, libc::SYS_getrandom, libc::SYS_memfd_create]),
    ((3, 18), &[libc::SYS_bpf]),
    ((3, 19), &[libc::SYS_execveat]),
    ((4, 3), &[libc::SYS_userfaultfd, libc::SYS_membarrier]),
    ((4, 4), &[libc::SYS_mlock2]),
    ((4, 5), &[libc::SYS_copy_file_range]),
    ((4, 6), &[libc::SYS_preadv2, libc::SYS_pwritev2]),
    ((4, 11), &[libc::SYS_statx]),
    ((4, 18), &[libc::SYS_rseq]),
    ((5, 1), &[libc::SYS_pidfd_send_signal, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register]),
    ((5, 2), &[libc::SYS_open_tree, libc::SYS_move_mount, libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount]),
    ((5, 3), &[libc::SYS_pidfd_open, libc::SYS_clone3]),
    ((5, 6), &[libc::SYS_openat2, libc::SYS_pidfd_getfd]),
    ((5, 8), &[libc::SYS_faccessat2]),
    ((5, 9), &[libc::SYS_close_range]),
    ((5, 10), &[libc::SYS_process_madvise]),
    ((5, 11), &[libc::SYS_epoll_pwait2]),
    ((5, 12), &[libc::SYS_mount_setattr]),
    ((5, 13), &[libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self]),
    ((5, 16), &[libc::SYS_futex_waitv]),
    // cachestat, fchmodat2, statmount and listmount, which this C library does not name.
    ((6, 5), &[451]),
    ((6, 6), &[452, 457, 458]),
];
