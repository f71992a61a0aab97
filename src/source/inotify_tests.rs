//! Real trees and real events. The kernel queues an event before the system call that causes it
//! returns, so nothing waits.

use super::*;
use crate::scratch::{WatchLimit, judging};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::RwLockReadGuard;
use std::sync::atomic::{AtomicBool, Ordering};

struct Rig {
    watches: Watches,
    now: Instant,
    dir: tempfile::TempDir,
    _judging: Option<RwLockReadGuard<'static, ()>>,
}

/// `.skip` and `cache` at the root are excluded; other filesystems are not crossed.
const RULES: Rules<'static> =
    Rules { excluded: &|path, _| path::base(path) == b".skip" || path == b"cache", cross: &|_| false, beat: &|| {} };

impl Rig {
    fn new() -> Rig {
        let judging = judging();
        Rig { _judging: Some(judging), ..Rig::under_a_limit() }
    }

    /// For a test that holds the limit itself.
    fn under_a_limit() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        let watches = Watches::new(Inotify::new(false).unwrap(), &dir.path().join("tree")).unwrap();
        Rig { watches, now: Instant::now(), dir, _judging: None }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("tree").join(path)
    }

    fn outside(&self, path: &str) -> PathBuf {
        self.dir.path().join("outside").join(path)
    }

    fn add_all(&mut self) -> WatchReport {
        self.watches.add_tree(b"", &RULES)
    }

    fn queued(&self) -> Vec<u8> {
        let (mut out, mut buf) = (Vec::new(), [0; 65536]);
        loop {
            match nix::unistd::read(self.watches.queue(), &mut buf) {
                Ok(n) => out.extend_from_slice(&buf[..n]),
                Err(Errno::EAGAIN) => return out,
                Err(errno) => panic!("read from an inotify queue failed: {errno}"),
            }
        }
    }

    fn handle(&mut self, buf: &[u8]) -> (Vec<String>, Handled) {
        let mut seen = Vec::new();
        let handled = self.watches.handle(buf, self.now, &RULES, &mut |_, path, what| {
            seen.push(format!("{what:?} {}", path::Shown(path)));
        });
        (seen, handled)
    }

    /// All that has happened since, as `Kind path`.
    fn seen(&mut self) -> Vec<String> {
        let buf = self.queued();
        self.handle(&buf).0
    }

    /// Every directory on the disk that is to be watched, by path, and whether it is.
    fn coverage(&self) -> BTreeMap<String, bool> {
        let mut out = BTreeMap::new();
        let mut stack = vec![String::new()];
        while let Some(path) = stack.pop() {
            for entry in fs::read_dir(self.at(&path)).unwrap() {
                let entry = entry.unwrap();
                let below = Path::new(&path).join(entry.file_name()).to_str().unwrap().to_owned();
                if entry.file_type().unwrap().is_dir() && !(RULES.excluded)(below.as_bytes(), true) {
                    stack.push(below);
                }
            }
            out.insert(path.clone(), self.watches.find(path.as_bytes()).is_some_and(|dir| self.watches.dirs.wd(dir).is_some()));
        }
        out
    }

    /// The tree's watches equal the disk, neither fewer nor more.
    fn assert_covered(&self) {
        let coverage = self.coverage();
        let missing: Vec<_> = coverage.iter().filter(|(_, watched)| !**watched).collect();
        assert!(missing.is_empty(), "without a watch: {missing:?}");
        assert_eq!(self.watches.count(), coverage.len(), "watches for what is not there");
    }
}

#[test]
fn kinds_of_events() {
    type Step = (&'static str, fn(&Rig), &'static [&'static str]);
    let steps: &[Step] = &[
        ("file written", |r| fs::write(r.at("f"), "x").unwrap(), &["Created f", "Written f"]),
        ("file rewritten", |r| fs::write(r.at("f"), "y").unwrap(), &["Written f"]),
        ("attributes", |r| fs::set_permissions(r.at("f"), fs::Permissions::from_mode(0o600)).unwrap(), &["Touched f"]),
        ("symlink", |r| symlink("f", r.at("l")).unwrap(), &["Created l"]),
        ("symlink to a directory", |r| symlink(r.outside(""), r.at("out")).unwrap(), &["Created out"]),
        ("hard link", |r| fs::hard_link(r.at("f"), r.at("h")).unwrap(), &["Created h"]),
        ("file renamed", |r| fs::rename(r.at("h"), r.at("g")).unwrap(), &["Left h", "Arrived g"]),
        ("file deleted", |r| fs::remove_file(r.at("g")).unwrap(), &["Gone g"]),
        (
            "file moved in",
            |r| {
                fs::write(r.outside("in"), "").unwrap();
                fs::rename(r.outside("in"), r.at("in")).unwrap();
            },
            &["Replaced in"],
        ),
        ("file moved out", |r| fs::rename(r.at("in"), r.outside("in")).unwrap(), &["Left in"]),
        ("directory made", |r| fs::create_dir(r.at("d")).unwrap(), &["MovedDir d"]),
        ("file in it", |r| fs::write(r.at("d/f"), "").unwrap(), &["Created d/f", "Written d/f"]),
        (
            "its attributes, from its own watch and its parent's",
            |r| {
                fs::set_permissions(r.at("d"), fs::Permissions::from_mode(0o711)).unwrap();
            },
            &["Touched d", "Touched d"],
        ),
        ("the root's attributes", |r| fs::set_permissions(r.at(""), fs::Permissions::from_mode(0o711)).unwrap(), &["Touched ."]),
        ("directories at once", |r| fs::create_dir_all(r.at("p/q/r")).unwrap(), &["MovedDir p"]),
        ("and in the last of them", |r| fs::write(r.at("p/q/r/f"), "").unwrap(), &["Created p/q/r/f", "Written p/q/r/f"]),
        ("directory renamed", |r| fs::rename(r.at("p/q"), r.at("d/q")).unwrap(), &["LeftDir p/q", "ArrivedDir d/q"]),
        ("below it", |r| fs::write(r.at("d/q/r/f"), "1").unwrap(), &["Written d/q/r/f"]),
        (
            "excluded",
            |r| {
                fs::create_dir_all(r.at("d/.skip/x")).unwrap();
                fs::write(r.at("d/.skip/x/f"), "").unwrap();
                fs::write(r.at("cache"), "").unwrap();
                fs::remove_file(r.at("cache")).unwrap();
            },
            &["DirTimes d", "DirTimes .", "DirTimes ."],
        ),
        ("excluded until renamed", |r| fs::rename(r.at("d/.skip"), r.at("d/kept")).unwrap(), &["DirTimes d", "MovedDir d/kept"]),
        ("then watched", |r| fs::write(r.at("d/kept/x/f"), "1").unwrap(), &["Written d/kept/x/f"]),
        (
            "renamed into the excluded",
            |r| fs::rename(r.at("d/kept"), r.at("d/.skip")).unwrap(),
            &["LeftDir d/kept", "DirTimes d"],
        ),
        ("then unheard", |r| fs::write(r.at("d/.skip/x/f"), "2").unwrap(), &[]),
        ("directory deleted", |r| fs::remove_dir_all(r.at("d/q/r")).unwrap(), &["Gone d/q/r/f", "GoneDir d/q/r"]),
        ("made again", |r| fs::create_dir(r.at("d/q/r")).unwrap(), &["MovedDir d/q/r"]),
        (
            "renamed over an empty one",
            |r| {
                fs::create_dir(r.at("e")).unwrap();
                fs::rename(r.at("d/q"), r.at("e")).unwrap();
            },
            &["MovedDir e", "LeftDir d/q", "ArrivedDir e"],
        ),
        (
            "a name of bytes",
            |r| {
                fs::create_dir(r.at("").join(OsStr::from_bytes(b"\xff\n"))).unwrap();
                fs::write(r.at("").join(OsStr::from_bytes(b"\xff\n/#")), "").unwrap();
            },
            &["MovedDir \\xff\\x0a"],
        ),
    ];
    let mut rig = Rig::new();
    assert_eq!(rig.add_all().added, 1);
    for (situation, act, want) in steps {
        act(&rig);
        assert_eq!(rig.seen(), *want, "{situation}");
    }
    fs::remove_dir_all(rig.at("").join(OsStr::from_bytes(b"\xff\n"))).unwrap();
    rig.seen();
    rig.assert_covered();
}

#[test]
fn symlinks_lead_nowhere() {
    let mut rig = Rig::new();
    fs::create_dir_all(rig.outside("a/b")).unwrap();
    symlink(rig.outside("a"), rig.at("link")).unwrap();
    let report = rig.add_all();
    assert_eq!((report.added, report.lost.len()), (1, 0));
    // Asked for by name, as after a directory was swapped for a symlink: through the link lies
    // nothing of ours.
    let report = rig.watches.add_tree(b"link/b", &RULES);
    assert_eq!((report.added, report.gone, rig.watches.count()), (0, 1, 1));
}

#[test]
fn another_filesystem_is_left_alone_unless_told() {
    let Some(scratch) = crate::scratch::Scratch::new("tmpfs", "another_filesystem_is_left_alone_unless_told") else { return };
    let mut watches = Watches::new(Inotify::new(false).unwrap(), scratch.path().parent().unwrap()).unwrap();
    fs::create_dir(scratch.path().join("inside")).unwrap();
    watches.add_tree(b"", &RULES);
    assert_eq!(watches.count(), 1);
    let dev = nix::sys::stat::stat(scratch.path()).unwrap().st_dev;
    watches.add_tree(b"", &Rules { cross: &|other| other == dev, ..RULES });
    assert_eq!(watches.count(), 3);
    watches.add_tree(b"", &RULES);
    assert_eq!(watches.count(), 1, "and forgotten on request");
}

/// Directories nested by another thread at full speed, before, during and after the first walk.
#[test]
fn no_directory_slips_through_while_others_make_them() {
    let mut rig = Rig::new();
    let stop = AtomicBool::new(false);
    let base = rig.at("");
    let mut made = 0;
    std::thread::scope(|scope| {
        let maker = scope.spawn(|| {
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) || made < 500 {
                let top = base.join(format!("t{}", made % 40));
                fs::create_dir_all(top.join(format!("{made}/a/b/c"))).unwrap();
                if made % 7 == 0 {
                    fs::rename(top.join(format!("{made}/a")), top.join(format!("{made}/z"))).unwrap();
                }
                if made % 11 == 0 {
                    fs::remove_dir_all(top.join(made.to_string())).unwrap();
                }
                made += 1;
            }
            made
        });
        rig.add_all();
        for _ in 0..200 {
            rig.seen();
        }
        stop.store(true, Ordering::Relaxed);
        made = maker.join().unwrap();
    });
    let buf = rig.queued();
    let (_, handled) = rig.handle(&buf);
    assert!(!handled.overflow, "{made} rounds: too many for the queue, the test proves nothing");
    rig.now += MOVE_GRACE;
    rig.watches.expire(rig.now);
    rig.assert_covered();
}

#[test]
fn a_renamed_directory_keeps_its_watches() {
    let mut rig = Rig::new();
    for n in 0..50 {
        fs::create_dir_all(rig.at(&format!("big/{n}/x"))).unwrap();
    }
    rig.add_all();
    let before = rig.watches.count();
    fs::rename(rig.at("big"), rig.at("large")).unwrap();
    let buf = rig.queued();
    let (seen, handled) = rig.handle(&buf);
    assert_eq!(seen, ["LeftDir big", "ArrivedDir large"]);
    assert_eq!((handled.report.added, rig.watches.count()), (0, before));
    fs::write(rig.at("large/7/x/f"), "").unwrap();
    assert_eq!(rig.seen(), ["Created large/7/x/f", "Written large/7/x/f"]);
}

/// The halves of a rename come in different buffers, with the directory changed in between.
#[test]
fn a_rename_may_be_split_between_buffers() {
    let mut rig = Rig::new();
    fs::create_dir_all(rig.at("a/x")).unwrap();
    rig.add_all();
    fs::rename(rig.at("a"), rig.at("b")).unwrap();
    fs::create_dir(rig.at("b/x/new")).unwrap();
    fs::write(rig.at("b/x/f"), "").unwrap();
    let buf = rig.queued();
    let first = ino_decode::events(&buf).next().unwrap().unwrap();
    assert_eq!(first.mask & libc::IN_MOVED_FROM, libc::IN_MOVED_FROM);
    let mut head = Vec::new();
    ino_decode::encode_event(&mut head, &first);
    assert_eq!(rig.handle(&head).0, ["LeftDir a"]);
    assert_eq!(rig.watches.count(), 3, "kept for the second half");
    let (seen, _) = rig.handle(&buf[head.len()..]);
    assert_eq!(seen, ["ArrivedDir b", "MovedDir b/x/new", "Created b/x/f", "Written b/x/f"]);
    rig.assert_covered();
}

#[test]
fn what_happens_outside_is_credited_to_nothing() {
    let mut rig = Rig::new();
    fs::create_dir_all(rig.at("a/x")).unwrap();
    rig.add_all();
    fs::rename(rig.at("a"), rig.outside("a")).unwrap();
    fs::write(rig.outside("a/f"), "").unwrap();
    // The name is taken again while the old directory's events are still queued.
    fs::create_dir_all(rig.at("a/x")).unwrap();
    fs::write(rig.outside("a/x/g"), "").unwrap();
    assert_eq!(
        rig.seen(),
        ["GoneDir a", "MovedDir a", "MovedDir a"],
        "its name was found taken again at once, then by its own event"
    );
    fs::write(rig.outside("a/x/h"), "").unwrap();
    assert_eq!(rig.seen(), [""; 0]);
    let due = rig.watches.expire(rig.now).expect("a directory that left");
    assert!(due > rig.now && due <= rig.now + MOVE_GRACE);
    assert_eq!(rig.watches.expire(due), None);
    rig.assert_covered();
    fs::write(rig.outside("a/x/i"), "").unwrap();
    let buf = rig.queued();
    let (seen, handled) = rig.handle(&buf);
    assert_eq!((seen.len(), handled.stale), (0, 2), "only the kernel's word that the two watches are gone");
}

/// Out and in again: two renames with different cookies, the second within the grace of the first,
/// by the same watches.
#[test]
fn out_and_in_again() {
    let mut rig = Rig::new();
    fs::create_dir_all(rig.at("a/x")).unwrap();
    rig.add_all();
    fs::rename(rig.at("a"), rig.outside("a")).unwrap();
    fs::rename(rig.outside("a"), rig.at("b")).unwrap();
    assert_eq!(rig.seen(), ["LeftDir a", "MovedDir b"]);
    rig.now += MOVE_GRACE;
    rig.watches.expire(rig.now);
    rig.assert_covered();
    fs::write(rig.at("b/x/f"), "").unwrap();
    assert_eq!(rig.seen(), ["Created b/x/f", "Written b/x/f"]);
}

/// Two directories change places: each must be reported under its new name, whichever event comes
/// first.
#[test]
fn two_directories_swapped() {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    let mut rig = Rig::new();
    fs::create_dir_all(rig.at("a/x")).unwrap();
    fs::create_dir_all(rig.at("b/y")).unwrap();
    rig.add_all();
    renameat2(AT_FDCWD, &rig.at("a"), AT_FDCWD, &rig.at("b"), RenameFlags::RENAME_EXCHANGE).unwrap();
    rig.seen();
    rig.now += MOVE_GRACE;
    rig.watches.expire(rig.now);
    rig.assert_covered();
    for path in ["a/f", "a/y/f", "b/f", "b/x/f"] {
        fs::write(rig.at(path), "").unwrap();
        assert_eq!(rig.seen(), [format!("Created {path}"), format!("Written {path}")]);
    }
}

/// A walk comes upon the new place of a directory before the rename's events are handled.
#[test]
fn a_walk_ahead_of_the_events() {
    let mut rig = Rig::new();
    fs::create_dir_all(rig.at("a/x")).unwrap();
    rig.add_all();
    fs::rename(rig.at("a"), rig.at("b")).unwrap();
    fs::create_dir_all(rig.at("a/y")).unwrap();
    rig.add_all();
    rig.assert_covered();
    rig.seen();
    rig.now += MOVE_GRACE;
    rig.watches.expire(rig.now);
    rig.assert_covered();
    for dir in ["a/y", "b/x"] {
        fs::write(rig.at(dir).join("f"), "").unwrap();
        assert_eq!(rig.seen(), [format!("Created {dir}/f"), format!("Written {dir}/f")]);
    }
}

#[test]
fn the_roots_end_is_told() {
    let mut moved = Rig::new();
    moved.add_all();
    fs::rename(moved.at(""), moved.outside("tree")).unwrap();
    let buf = moved.queued();
    assert!(moved.handle(&buf).1.root_gone);
    let mut deleted = Rig::new();
    deleted.add_all();
    fs::remove_dir(deleted.at("")).unwrap();
    assert_eq!(deleted.seen(), [""; 0], "if this is reported after all, say so in the documentation");
}

#[test]
fn too_few_watches_are_told_and_made_good() {
    let rig = Rig::new();
    for n in 0..6 {
        fs::create_dir_all(rig.at(&format!("{n}/x"))).unwrap();
    }
    let Rig { mut watches, now, dir, _judging } = rig;
    assert_eq!(watches.add_tree(b"0", &RULES).added, 2);
    drop(_judging);
    let Some(limit) = WatchLimit::set(1, "too_few_watches_are_told_and_made_good") else { return };
    let report = watches.add_tree(b"", &RULES);
    // The root too is one that cannot be watched; what is below is not read.
    assert_eq!(report.lost.iter().map(|lost| lost.0.as_bytes()).collect::<Vec<_>>(), [b""]);
    assert_eq!(report.out_of_watches, Some(OutOfWatches { limit: Some(1), watched: 2, unwatched: 1 }));
    let text = report.out_of_watches.unwrap().to_string();
    assert!(text.contains("fs.inotify.max_user_watches is 1, 2 are in use here and at least 3 are needed"), "{text}");
    let mut seen = Vec::new();
    let still = watches.retry_unwatched(&RULES, &mut |path, what| seen.push((path.to_vec(), what)));
    assert!(still.out_of_watches.is_some() && seen.is_empty() && watches.unwatched.len() == 1);
    drop(limit);
    let _judging = judging();
    let healed = watches.retry_unwatched(&RULES, &mut |path, what| seen.push((path.to_vec(), what)));
    assert!(healed.lost.is_empty() && healed.out_of_watches.is_none());
    assert_eq!(seen, [(Vec::new(), Seen::Subtree)]);
    assert_eq!(watches.unwatched.len(), 0);
    let rig = Rig { watches, now, dir, _judging: Some(_judging) };
    rig.assert_covered();
}

/// A new directory comes when the watches are used up: its path is lost, the rest goes on.
#[test]
fn a_new_directory_without_a_watch_is_lost_by_path() {
    let mut rig = Rig::new();
    fs::create_dir(rig.at("a")).unwrap();
    rig.add_all();
    rig._judging = None;
    let Some(limit) = WatchLimit::set(1, "a_new_directory_without_a_watch_is_lost_by_path") else { return };
    fs::create_dir(rig.at("a/b")).unwrap();
    fs::write(rig.at("a/f"), "").unwrap();
    let buf = rig.queued();
    let (seen, handled) = rig.handle(&buf);
    drop(limit);
    assert_eq!(seen, ["MovedDir a/b", "Created a/f", "Written a/f"]);
    assert_eq!(handled.report.lost.iter().map(|lost| lost.0.as_bytes()).collect::<Vec<_>>(), [b"a/b"]);
    assert_eq!(handled.report.lost[0].1.raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn an_overflow_is_told_and_a_walk_finds_what_it_hid() {
    let mut rig = Rig::new();
    fs::create_dir_all(rig.at("a/x")).unwrap();
    fs::create_dir(rig.at("gone")).unwrap();
    rig.add_all();
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    for n in 0..limit / 2 + 10 {
        fs::write(rig.at(&format!("f{}", n % 5)), "").unwrap();
        fs::rename(rig.at(&format!("f{}", n % 5)), rig.at("g")).unwrap();
    }
    // Behind the overflow, so not reported.
    fs::rename(rig.at("a"), rig.at("b")).unwrap();
    fs::create_dir_all(rig.at("new/y")).unwrap();
    fs::remove_dir(rig.at("gone")).unwrap();
    let buf = rig.queued();
    assert!(rig.handle(&buf).1.overflow);
    rig.add_all();
    rig.assert_covered();
    fs::write(rig.at("b/x/f"), "").unwrap();
    assert_eq!(rig.seen(), ["Created b/x/f", "Written b/x/f"]);
}

#[test]
fn corrupt_bytes_are_told() {
    let mut rig = Rig::new();
    rig.add_all();
    fs::write(rig.at("f"), "").unwrap();
    let mut buf = rig.queued();
    buf.extend_from_slice(&[1, 2, 3]);
    let (seen, handled) = rig.handle(&buf);
    assert_eq!(seen, ["Created f", "Written f"]);
    assert_eq!(handled.corrupt.map(|corrupt| corrupt.at), Some(buf.len() - 3));
}

/// Far deeper than a walk holds open, and than a path may be long.
#[test]
fn a_deep_tree_is_watched_to_its_end() {
    let mut rig = Rig::new();
    let (name, depth) = ("d".repeat(200), MAX_HELD + 30);
    let mut at = nix::fcntl::open(&rig.at(""), OFlag::O_RDONLY, Mode::empty()).unwrap();
    for _ in 0..depth {
        nix::sys::stat::mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
        at = openat(&at, name.as_str(), OFlag::O_RDONLY, Mode::empty()).unwrap();
    }
    let report = rig.add_all();
    assert_eq!((report.added, report.lost.len()), (depth + 1, 0));
    let file = openat(&at, "f", OFlag::O_WRONLY | OFlag::O_CREAT, Mode::S_IRWXU).unwrap();
    drop(file);
    let seen = rig.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].len(), "Written ".len() + depth * 201 + 1);
}
