//! What one user who may write below the source makes, so that others wait or the daemon grows.
//! Each kind is his own cost: it is reported, kept within bounds, and another user's file does not
//! wait for it.

use std::fs::{File, Permissions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use fansync::sys::lease::hold_write_lease;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};

use crate::fixture::daemon::{TargetStatus, Until};
use crate::fixture::fs::Fs;
use crate::fixture::proc::{descendants, poll_until};
use crate::fixture::rsyncd::Rsyncd;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};

/// The longest path that rsync is given.
const MAX_PATH_BYTES: usize = 4000;

pub fn cases() -> Vec<Case> {
    vec![
        case("long_paths_are_one_failure_for_each_directory", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).start()?;
            m.src.mkdirs("u/one");
            m.src.mkdirs("u/other");
            m.src.mkdir("others");
            m.check();
            // The directory itself is short enough, and what is in it is not.
            let one = deep(&m.src, "u/one", MAX_PATH_BYTES - 20);
            (0..500).for_each(|n| create(&one, &format!("more-than-twenty-bytes-{n:06}")));
            // A directory that is too long, with more below it.
            let other = deep(&m.src, "u/other", MAX_PATH_BYTES + 200);
            (0..500).for_each(|n| create(&other, &format!("f{n:06}")));
            victim(&m);
            let failing = |t: &TargetStatus| t.state == "failing" && t.failures.len() == 2;
            let status = m.daemon.target_status_until("t1", "one failure for each directory", failing);
            for failure in &status.failures {
                assert!(failure.path.len() <= MAX_PATH_BYTES && failure.reason.contains("rsync takes at most"), "{failure:?}");
            }
            let lines = m.daemon.log().matches("paths are longer than rsync takes").count();
            assert!((1..=2).contains(&lines), "{lines} lines in the log for two directories");
            let shown = m.daemon.client(&["flush", "--timeout", "5s"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("2 paths failed"), "{}: {}", shown.code, shown.stderr);
            // One that begins alike and is not below it: of no concern to it.
            create(&one, "short");
            let there = || at("u/one", MAX_PATH_BYTES - 20, m.dst().root()).map(|dir| has(&dir, "short"));
            assert!(
                poll_until(WAIT, || there().filter(|there| *there)).is_some(),
                "what is short enough beside them did not arrive"
            );
            drop((one, other));
            std::fs::remove_dir_all(m.src.at("u")).expect("it is there");
            m.check();
            Ok(())
        }),
        case("leased_files_hold_up_no_others", &[Fs::Ext4, Fs::Btrfs], |fs| {
            let m = Setup::new(fs).start()?;
            m.src.mkdir("u");
            m.src.mkdir("others");
            (0..LEASED).for_each(|n| m.src.write(format!("u/f{n}"), b"before"));
            m.check();
            // Each of them waits 45 s for a process that opens it.
            let hold = |n| {
                let file = File::open(m.src.at(format!("u/f{n}"))).expect("it is there");
                hold_write_lease(file.as_fd()).expect("no other process has it open");
                m.src.set_mtime(format!("u/f{n}"), n as i64, 0);
                m.src.chmod(format!("u/f{n}"), 0o640);
                file
            };
            let held: Vec<File> = (0..LEASED).map(hold).collect();
            let failing = |t: &TargetStatus| t.failures.len() == LEASED && t.in_flight == 0;
            let status = m.daemon.target_status_until("t1", "set apart", failing);
            assert!(status.failures.iter().all(|f| f.reason.contains("holds a lease")), "{:?}", status.failures);
            victim(&m);
            assert!(runs(&m) <= AT_ONCE, "{} rsyncs at once", runs(&m));
            drop(held);
            assert_eq!(m.daemon.client(&["retry"], WAIT).code, 0);
            m.check();
            Ok(())
        }),
        case("files_beyond_the_bound_are_left_out", &[Fs::Tmpfs], |fs| {
            // The target has room for 16 MiB.
            let m = Setup::new(fs).target_size("16m").key("max_file_size", "1GiB");
            let m = m.before(|src| src.sparse("hole", 1 << 40)).start()?;
            m.src.sparse("another", 1 << 40);
            m.src.write("others", b"x");
            m.daemon.flush(None);
            assert!(m.dst().has("others") && !m.dst().has("hole") && !m.dst().has("another"));
            assert!(m.daemon.log().contains("a file is larger than max_file_size"));
            // It is sent once it is small enough.
            m.src.write("hole", b"small");
            m.src.remove("another");
            m.check();
            Ok(())
        }),
        case("a_file_that_does_not_fit_holds_up_no_comparison", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            // The target has room for 16 MiB, and no bound is set.
            let m = Setup::new(fs).target_size("16m").before(|src| {
                src.mkdir("d");
                src.write("a", b"before it");
                src.sparse("d/hole", HOLE);
                src.write("z", b"after it");
                (0..50).for_each(|n| src.write(format!("d/{n}"), b"of another user"));
            });
            // The first comparison ends.
            let m = m.start()?;
            let alone = |t: &TargetStatus| t.in_flight == 1 && t.pending == 0;
            m.daemon.target_status_until("t1", "sent by itself", alone);
            let arrived = |path: &str| poll_until(WAIT, || m.dst().has(path).then_some(())).is_some();
            assert!(["a", "z", "d/49"].iter().all(|path| m.dst().has(path)), "what comes after it did not arrive");
            // So does another one, which deletes; and one of a level.
            m.dst().mkdir("stray");
            m.daemon.reconcile();
            let deleted = || (!m.dst().has("stray")).then_some(());
            assert!(poll_until(WAIT, deleted).is_some(), "no comparison deletes any more");
            m.daemon.freeze();
            m.src.mkdir("e");
            m.src.sparse("e/hole", HOLE);
            (0..80).for_each(|n| m.src.write(format!("e/{n}"), b"of another user"));
            m.daemon.thaw();
            assert!((0..80).all(|n| arrived(&format!("e/{n}"))), "a level of another user's files did not arrive");
            m.src.remove("d/hole");
            m.src.remove("e/hole");
            m.check();
            assert!(m.daemon.target_status("t1").failures.is_empty());
            assert!(m.daemon.log().contains("made again without it"));
            Ok(())
        }),
        case("files_of_nothing_but_holes_leave_room_for_others", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).carrying(&["sparse"]).start()?;
            m.src.mkdir("u");
            m.src.mkdir("others");
            m.check();
            // Hours, each.
            (0..12).for_each(|n| m.src.sparse(format!("u/hole{n}"), 1 << 40));
            let busy = |t: &TargetStatus| t.in_flight == 3 && t.pending == 9;
            m.daemon.target_status_until("t1", "half of all processes, and no more", busy);
            for n in 0..20 {
                m.src.write(format!("others/{n}"), b"of another user");
                let there = || m.dst().has(format!("others/{n}")).then_some(());
                assert!(poll_until(WAIT, there).is_some(), "another user's file does not arrive");
                assert!(runs(&m) <= AT_ONCE, "{} rsyncs at once", runs(&m));
            }
            // Runs whose file is gone end by themselves.
            std::fs::remove_dir_all(m.src.at("u")).expect("it is there");
            m.check();
            Ok(())
        }),
        case("a_flood_of_each_kind_holds_up_no_others", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).large().carrying(&["sparse"]).targets(&[To::Module, To::Module]).module("exclude = *.bad");
            let mut m = m.start()?;
            // The second target has a server of its own.
            let work = m.scratch("other-server");
            std::fs::create_dir(&work).expect("there is room");
            let mut other = Rsyncd::start(&work, &[("t2".into(), m.targets[1].dir.root().into())])?;
            m.configure(|table| table.target[1].url = other.url("t2"));
            m.daemon.terminate();
            m.restart(Until::Reconciled);
            more_files();
            m.src.mkdir("u");
            admit_nobody(&m);
            m.src.mkdir("others");
            m.check();
            let before = m.daemon.rss();
            // What the machine needs for one answer at the same time, with all that runs on it.
            let calm = Setup::new(Fs::Tmpfs).start()?;
            let alone = (0..5).map(|n| arrival(&m, &format!("others/alone{n}"))).max().unwrap_or_default();
            // One target is away, so that all of it gathers there.
            other.stop();
            let src = &m.src;
            for (kind, make) in KINDS {
                let begun = Instant::now();
                let _leases = as_nobody(|| {
                    src.mkdir(format!("u/{kind}"));
                    make(src, &src.at(format!("u/{kind}")), flood())
                });
                let made = begun.elapsed();
                m.src.write(format!("others/{kind}"), b"of another user");
                let (begun, mut slowest, mut idle) = (Instant::now(), Duration::ZERO, Duration::ZERO);
                let arrived = poll_until(WAIT, || {
                    slowest = slowest.max(answer(&m));
                    idle = idle.max(answer(&calm));
                    m.dst().has(format!("others/{kind}")).then_some(())
                });
                let (waited, rss) = (begun.elapsed(), m.daemon.rss() >> 20);
                eprintln!(
                    "{} of {kind}: made in {made:.1?}, status {slowest:.0?} (idle {idle:.0?}), another's file {waited:.1?}, {rss} MiB",
                    flood()
                );
                assert!(arrived.is_some(), "{kind}: another user's file does not arrive");
                // However slow the machine is: it took as long to make them, and an idle daemon was
                // as slow.
                let bound = Duration::from_secs(1).max(idle * 60).max(made * 4);
                assert!(slowest <= bound, "{kind}: the status took {slowest:?}, {bound:?} are meant");
                let bound = Duration::from_secs(2).max(alone * 20).max(made * 8).max(idle * 100);
                assert!(waited <= bound, "{kind}: another user's file took {waited:?}, {bound:?} are meant");
            }
            let away = m.daemon.target_status("t2");
            assert_eq!(away.state, "down", "{away:?}");
            // The other target gets all of it at once, and does not hold up the first.
            other.restart();
            m.daemon.does(&["retry", "--target", "t2"]);
            m.src.write("others/last", b"of another user");
            let arrived = poll_until(WAIT, || m.dst().has("others/last").then_some(()));
            assert!(arrived.is_some(), "another user's file does not arrive while the other target is sent to");
            std::fs::remove_dir_all(m.src.at("u")).expect("it is there");
            let flushed = poll_until(WAIT * 4, || m.daemon.try_flush(WAIT).ok());
            assert!(flushed.is_some(), "what was removed does not go");
            m.check();
            let rss = m.daemon.rss();
            eprintln!("memory {} -> {} MiB", before >> 20, rss >> 20);
            // A kilobyte for each at most is left, and what a process needs to have worked at all.
            assert!(rss <= before + (48 << 20) + flood() as u64 * 1024, "memory {} -> {} MiB", before >> 20, rss >> 20);
            Ok(())
        }),
        case("a_file_of_very_many_names_holds_up_no_others", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).carrying(&["hard_links"]).start()?;
            m.src.mkdir("u");
            m.src.mkdir("others");
            admit_nobody(&m);
            m.check();
            let calm = Setup::new(Fs::Tmpfs).start()?;
            let begun = Instant::now();
            let src = &m.src;
            as_nobody(|| link(src, &src.at("u"), flood()));
            let made = begun.elapsed();
            m.src.write("others/f", b"of another user");
            let (begun, mut slowest, mut idle) = (Instant::now(), Duration::ZERO, Duration::ZERO);
            let arrived = poll_until(WAIT, || {
                slowest = slowest.max(answer(&m));
                idle = idle.max(answer(&calm));
                m.dst().has("others/f").then_some(())
            });
            let bound = Duration::from_secs(1).max(made * 4).max(idle * 60);
            eprintln!("{} names of one file: status {slowest:.0?}, another's file {:.1?}", flood(), begun.elapsed());
            assert!(arrived.is_some() && slowest <= bound, "status {slowest:?}, {bound:?} are meant");
            let flushed = poll_until(WAIT * 4, || m.daemon.try_flush(WAIT).ok());
            assert!(flushed.is_some(), "the names do not arrive");
            // So many are not kept together.
            let late = |n: &usize| std::fs::read(m.dst().at(format!("u/{n}"))).is_ok_and(|found| found == LINKED);
            assert_eq!((0..flood()).find(|n| !late(n)), None, "a name that has not the last content");
            Ok(())
        }),
    ]
}

/// Makes a kind in a directory; what is returned is kept while another user's file is sent.
type Make = fn(&Dir, &Path, usize) -> Vec<File>;

/// Many names of one file, written through the last of them.
fn link(_: &Dir, dir: &Path, n: usize) -> Vec<File> {
    let first = dir.join("0");
    std::fs::write(&first, b"of many names").expect("there is room");
    (1..n).for_each(|i| std::fs::hard_link(&first, dir.join(i.to_string())).expect("ext4 takes 65,000"));
    std::fs::write(dir.join((n - 1).to_string()), LINKED).expect("there is room");
    Vec::new()
}

/// What all names lead to.
const LINKED: &[u8] = b"written through the last";

/// An ordinary user, and the group of that name.
const NOBODY: u32 = 65_534;

/// Makes `u` that user's, and the way to it passable.
fn admit_nobody(m: &Mirror) {
    m.src.chown("u", NOBODY, NOBODY);
    std::fs::set_permissions(m.scratch(""), Permissions::from_mode(0o711)).expect("it is ours");
}

/// Does `what` with this user's rights on files, and none of root's: they are those of a thread.
fn as_nobody<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
    let become_nobody = || {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        setfsgid(group);
        setfsuid(user);
        // They report no error: what they answer is what was in force.
        assert_eq!((setfsgid(group), setfsuid(user)), (group, user), "the thread's user cannot be changed");
    };
    let done = std::thread::scope(|threads| {
        let made = threads.spawn(|| {
            become_nobody();
            what()
        });
        made.join()
    });
    done.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
}

/// Raises the number of files that this process may have open, for leases.
fn more_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// How many leases there can be.
fn leases(n: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    n.min(getrlimit(Resource::RLIMIT_NOFILE).map_or(500, |(now, _)| now as usize / 2))
}

/// What one user makes by thousands.
const KINDS: [(&str, Make); 8] = [
    ("ordinary", |_, dir, n| {
        (0..n).for_each(|i| File::create(dir.join(format!("f{i}"))).map(drop).expect("there is room"));
        Vec::new()
    }),
    ("long", |src, dir, n| {
        let top = dir.strip_prefix(src.root()).expect("it lies there").to_str().expect("it is text").to_owned();
        let deepest = deep(src, &top, MAX_PATH_BYTES + 16);
        (0..n).for_each(|i| create(&deepest, &format!("f{i}")));
        Vec::new()
    }),
    ("colliding", |_, dir, n| {
        let begin = [0xd3, 0x08, 0xa3, 0x85, 0x88, 0x6a, 0x3f, 0x24];
        for i in 0..n as u64 {
            let rest: Vec<u8> = (0..8).map(|at| 0x30 + (i >> (5 * at) & 0x1f) as u8).collect();
            let name = [&begin[..], &rest].concat();
            File::create(dir.join(std::ffi::OsStr::from_bytes(&name))).expect("there is room");
        }
        Vec::new()
    }),
    ("failing", |_, dir, n| {
        (0..n).for_each(|i| File::create(dir.join(format!("{i}.bad"))).map(drop).expect("there is room"));
        Vec::new()
    }),
    ("linked", link),
    ("sparse", |_, dir, n| {
        let make = |i| File::create(dir.join(format!("{i}"))).and_then(|file| file.set_len(HOLE)).expect("there is room");
        (0..n).for_each(make);
        Vec::new()
    }),
    ("leased", |_, dir, n| {
        let hold = |i| {
            std::fs::write(dir.join(format!("{i}")), b"leased").expect("there is room");
            let file = File::open(dir.join(format!("{i}"))).expect("it is there");
            hold_write_lease(file.as_fd()).ok().map(|()| file)
        };
        (0..leases(n)).filter_map(hold).collect()
    }),
    ("special", |_, dir, n| {
        (0..n).for_each(|i| {
            nix::unistd::mkfifo(&dir.join(format!("{i}")), Mode::from_bits_truncate(0o600)).expect("there is room")
        });
        Vec::new()
    }),
];

/// How many of each; `FANSYNC_TEST_FLOOD` says otherwise.
fn flood() -> usize {
    std::env::var("FANSYNC_TEST_FLOOD").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

/// How long an answer of the daemon takes, the client's start included.
fn answer(m: &Mirror) -> Duration {
    let begun = Instant::now();
    m.daemon.status();
    begun.elapsed()
}

/// A file of nothing, larger than every target, and no larger than what ext4 takes.
const HOLE: u64 = 1 << 40;
/// How long a file takes to the first target.
fn arrival(m: &Mirror, path: &str) -> Duration {
    let begun = Instant::now();
    m.src.write(path, b"x");
    let there = || m.dst().has(path).then_some(());
    assert!(poll_until(WAIT, there).is_some(), "a file does not arrive");
    begun.elapsed()
}

/// Files under a lease; the list of failures in the status is as long.
const LEASED: usize = 40;
/// `jobs`, `small_jobs` and `standby`, by default.
const AT_ONCE: usize = 2 + 4 + 2;

/// Processes of rsync that the daemon has.
fn runs(m: &Mirror) -> usize {
    descendants(m.daemon.pid()).len()
}

/// A file of another user arrives, whatever waits.
#[track_caller]
fn victim(m: &Mirror) {
    m.src.write("others/victim", b"of another user");
    let there = || m.dst().has("others/victim").then_some(());
    assert!(poll_until(WAIT, there).is_some(), "another user's file does not arrive");
}

/// The names of directories that make a path of `bytes` from `top`.
fn names(top: &str, bytes: usize) -> Vec<String> {
    let mut left = bytes - top.len();
    let mut names = Vec::new();
    while left > 1 {
        // Never one byte alone, which would be a slash without a name.
        let len = left.min(if left == 202 { 200 } else { 201 });
        names.push("d".repeat(len - 1));
        left -= len;
    }
    names
}

/// Makes directories below `top` until the path has so many bytes; the deepest one. No path is
/// given to the kernel, since none may be so long.
fn deep(src: &Dir, top: &str, bytes: usize) -> OwnedFd {
    let mut at = open_dir(&src.at(top));
    for name in names(top, bytes) {
        mkdirat(&at, name.as_str(), Mode::from_bits_truncate(0o755)).expect("it is not there");
        at = below(&at, &name).expect("it was just made");
    }
    at
}

/// The same directory in another tree.
fn at(top: &str, bytes: usize, root: &Path) -> Option<OwnedFd> {
    let mut at = open_dir(&root.join(top));
    for name in names(top, bytes) {
        at = below(&at, &name)?;
    }
    Some(at)
}

fn open_dir(path: &Path) -> OwnedFd {
    open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).expect("it is there")
}

fn below(dir: &OwnedFd, name: &str) -> Option<OwnedFd> {
    openat(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()
}

fn create(dir: &OwnedFd, name: &str) {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    openat(dir.as_fd(), name, flags, Mode::from_bits_truncate(0o644)).expect("it is not there");
}

fn has(dir: &OwnedFd, name: &str) -> bool {
    nix::sys::stat::fstatat(dir, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
}
