//! What the kernel really says; needs root. Filesystems are the test's own, so nothing else raises
//! events.

use super::*;
use crate::scratch::Scratch;
use crate::source::fan_decode::{FanEvent, Place, events};
use crate::sys::handle::{Handle, fd_path, fs_id, name_to_handle, open_by_handle};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

const ALL: [&str; 4] = ["tmpfs", "ext4", "xfs", "btrfs"];

fn drain(group: &Group) -> Vec<u8> {
    let mut out = Vec::new();
    let mut buf = [0; 16384];
    loop {
        match nix::unistd::read(group, &mut buf) {
            Ok(n) => out.extend_from_slice(&buf[..n]),
            Err(Errno::EAGAIN) => return out,
            Err(errno) => panic!("read from a fanotify group failed: {errno}"),
        }
    }
}

fn handle_of(path: &Path) -> Handle {
    name_to_handle(File::open(path).unwrap().as_fd(), Path::new("")).unwrap()
}

/// A mask as words, as in the tables below.
fn words(mask: u64) -> String {
    let names = [
        (libc::FAN_CREATE, "create"),
        (libc::FAN_DELETE, "delete"),
        (libc::FAN_MOVED_FROM, "from"),
        (libc::FAN_MOVED_TO, "to"),
        (libc::FAN_RENAME, "rename"),
        (libc::FAN_CLOSE_WRITE, "close"),
        (libc::FAN_ATTRIB, "attrib"),
        (libc::FAN_ONDIR, "dir"),
    ];
    let known = names.iter().fold(0, |all, (bit, _)| all | bit);
    assert_eq!(mask & !known, 0, "bits that were not asked for");
    names.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, name)| *name).collect::<Vec<_>>().join("+")
}

/// An event as `mask place`, `mask place>place` for a rename, or `mask -` without a place;
/// directories by their last name, the root as nothing.
fn shown(root: &File, base: &Path, event: &FanEvent<'_>) -> String {
    let at = |place: Place<'_>| {
        let dir = open_by_handle(root.as_fd(), place.fid.handle_ref()).unwrap();
        let path = fd_path(dir.as_fd()).unwrap();
        let dir = Path::new(OsStr::from_bytes(&path)).strip_prefix(base).expect("inside the filesystem").to_path_buf();
        dir.join(OsStr::from_bytes(place.name)).to_string_lossy().into_owned()
    };
    let place = match (event.dir, event.old, event.new) {
        (Some(dir), None, None) => at(dir),
        (None, Some(old), Some(new)) => format!("{}>{}", at(old), at(new)),
        (None, None, None) if event.child.is_some() => "-".into(),
        other => panic!("an unknown shape of event: {other:?}"),
    };
    format!("{} {place}", words(event.mask))
}

type Step = (&'static str, fn(&Path), &'static [&'static str]);

/// Situation, what is done, and every event it raises. All steps in order on one tree.
const STEPS: &[Step] = &[
    ("directory", |d| fs::create_dir(d.join("d")).unwrap(), &["create+dir d"]),
    ("create, write and close are merged", |d| fs::write(d.join("d/f"), "x").unwrap(), &["create+close d/f"]),
    ("write again", |d| fs::write(d.join("d/f"), "xy").unwrap(), &["close d/f"]),
    ("attributes of a file", |d| fs::set_permissions(d.join("d/f"), Permissions::from_mode(0o600)).unwrap(), &["attrib d/f"]),
    ("of a directory", |d| fs::set_permissions(d.join("d"), Permissions::from_mode(0o711)).unwrap(), &["attrib+dir d/."]),
    ("of the root", |d| fs::set_permissions(d, Permissions::from_mode(0o711)).unwrap(), &["attrib+dir ."]),
    ("hard link", |d| fs::hard_link(d.join("d/f"), d.join("l")).unwrap(), &["attrib -", "create l"]),
    ("one link less", |d| fs::remove_file(d.join("l")).unwrap(), &["attrib -", "delete l"]),
    ("symlink", |d| symlink("nowhere", d.join("s")).unwrap(), &["create s"]),
    (
        "made and gone",
        |d| {
            fs::write(d.join("g"), "x").unwrap();
            fs::remove_file(d.join("g")).unwrap();
        },
        &["create+delete+close g", "attrib -"],
    ),
    (
        "another file of the same name is not merged",
        |d| {
            fs::write(d.join("g"), "x").unwrap();
            fs::remove_file(d.join("g")).unwrap();
            fs::write(d.join("g"), "x").unwrap();
        },
        &["create+delete+close g", "attrib -", "create+close g"],
    ),
    ("rename over", |d| fs::rename(d.join("g"), d.join("d/f")).unwrap(), &["rename g>d/f", "attrib -"]),
    (
        "directory rename",
        |d| {
            fs::create_dir(d.join("e")).unwrap();
            fs::rename(d.join("d"), d.join("e/d")).unwrap();
        },
        &["create+dir e", "rename+dir d>e/d"],
    ),
    ("write behind the rename", |d| fs::write(d.join("e/d/f"), "x").unwrap(), &["close e/d/f"]),
    (
        "reading in every way is silent",
        |d| {
            assert_eq!(fs::read(d.join("e/d/f")).unwrap(), b"x");
            assert_eq!(fs::read_dir(d).unwrap().count(), fs::read_dir(d).unwrap().count());
            fs::read_link(d.join("s")).unwrap();
            fs::metadata(d.join("e/d/f")).unwrap();
        },
        &[],
    ),
    (
        "what this mask does not report: truncate by path, mtime alone",
        |d| {
            nix::unistd::truncate(&d.join("e/d/f"), 0).unwrap();
            let file = File::open(d.join("e/d/f")).unwrap();
            file.set_times(fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH)).unwrap();
        },
        &[],
    ),
    (
        "open for writing, closed unwritten",
        |d| drop(OpenOptions::new().write(true).open(d.join("e/d/f")).unwrap()),
        &["close e/d/f"],
    ),
    ("file gone", |d| fs::remove_file(d.join("e/d/f")).unwrap(), &["attrib -", "delete e/d/f"]),
    ("directory gone", |d| fs::remove_dir(d.join("e/d")).unwrap(), &["delete+dir e/d"]),
    ("bytes", |d| fs::write(d.join(OsStr::from_bytes(b"\n#\xff")), "").unwrap(), &["create+close \n#\u{fffd}"]),
];

#[test]
fn each_change_raises_these_events() {
    for kind in ALL {
        let Some(scratch) = Scratch::new(kind, "each_change_raises_these_events") else { continue };
        let root = File::open(scratch.path()).unwrap();
        let group = Group::open(&Options::default()).unwrap();
        group.mark_filesystem(scratch.path()).unwrap();
        let id = fs_id(root.as_fd()).unwrap();
        for (situation, act, want) in STEPS {
            act(scratch.path());
            let buf = drain(&group);
            let got: Vec<_> = events(&buf).map(Result::unwrap).collect();
            for event in &got {
                let places = [event.dir, event.old, event.new].into_iter().flatten().map(|place| place.fid);
                assert!(places.chain(event.child).all(|fid| fid.fs == id), "{kind}, {situation}: fsid differs from statfs");
                assert_eq!(event.skipped, 0);
            }
            let got: Vec<_> = got.iter().map(|event| shown(&root, scratch.path(), event)).collect();
            assert_eq!(&got, want, "{kind}: {situation}");
        }
    }
}

#[test]
fn records_carry_the_handles_that_name_to_handle_gives() {
    for kind in ALL {
        let Some(scratch) = Scratch::new(kind, "records_carry_the_handles_that_name_to_handle_gives") else { continue };
        let group = Group::open(&Options::default()).unwrap();
        group.mark_filesystem_of(File::open(scratch.path()).unwrap().as_fd(), scratch.path()).unwrap();
        fs::create_dir(scratch.path().join("d")).unwrap();
        fs::write(scratch.path().join("d/f"), "").unwrap();
        let buf = drain(&group);
        let got: Vec<_> = events(&buf).map(Result::unwrap).collect();
        let handles: Vec<_> =
            got.iter().map(|event| (event.dir.unwrap().fid.handle_ref(), event.child.unwrap().handle_ref())).collect();
        let (root, dir, file) =
            (handle_of(scratch.path()), handle_of(&scratch.path().join("d")), handle_of(&scratch.path().join("d/f")));
        assert_eq!(handles, [(root.as_ref(), dir.as_ref()), (dir.as_ref(), file.as_ref())], "{kind}");
    }
}

#[test]
fn without_rename_events_both_halves_come() {
    let Some(scratch) = Scratch::new("tmpfs", "without_rename_events_both_halves_come") else { return };
    let root = File::open(scratch.path()).unwrap();
    let group = Group::open(&Options { unlimited_queue: false, rename_events: false, writes: false }).unwrap();
    assert!(!group.features().rename && !group.features().unlimited_queue);
    group.mark_filesystem(scratch.path()).unwrap();
    fs::create_dir(scratch.path().join("a")).unwrap();
    fs::rename(scratch.path().join("a"), scratch.path().join("b")).unwrap();
    let buf = drain(&group);
    let got: Vec<_> = events(&buf).map(|event| shown(&root, scratch.path(), &event.unwrap())).collect();
    assert_eq!(got, ["create+from+dir a", "to+dir b"], "and the first half is merged with what came before");
}

#[test]
fn a_limited_queue_overflows_with_an_event_that_says_so() {
    let Some(scratch) = Scratch::new("tmpfs", "a_limited_queue_overflows_with_an_event_that_says_so") else { return };
    let group = Group::open(&Options { unlimited_queue: false, ..Options::default() }).unwrap();
    group.mark_filesystem(scratch.path()).unwrap();
    let limit: usize = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap().trim().parse().unwrap();
    for n in 0..limit + 10 {
        File::create(scratch.path().join(n.to_string())).unwrap();
    }
    let buf = drain(&group);
    let got: Vec<_> = events(&buf).map(Result::unwrap).collect();
    let (overflow, rest) = got.split_last().unwrap();
    assert_eq!(
        overflow,
        &FanEvent { mask: libc::FAN_Q_OVERFLOW, pid: 0, dir: None, old: None, new: None, child: None, skipped: 0 }
    );
    assert_eq!(rest.len(), limit);
}

#[test]
fn a_mark_through_a_directory_is_of_the_filesystem() {
    let Some(scratch) = Scratch::new("tmpfs", "a_mark_through_a_directory_is_of_the_filesystem") else { return };
    let odd = scratch.path().join(OsStr::from_bytes(b"odd \xff\n"));
    fs::create_dir(&odd).unwrap();
    let group = Group::open(&Options::default()).unwrap();
    group.mark_filesystem(&odd).unwrap();
    fs::write(scratch.path().join("a"), "").unwrap();
    assert_eq!(events(&drain(&group)).count(), 1);
}

#[test]
fn refusals_say_what_to_do() {
    let group = match Group::open(&Options::default()) {
        Err(error) => return eprintln!("SKIPPED refusals_say_what_to_do: {error}"),
        Ok(group) => group,
    };
    let proc = group.mark_filesystem(Path::new("/proc")).unwrap_err();
    assert_eq!(proc.to_string(), "cannot watch the filesystem of \"/proc\" with fanotify");
    assert!(proc.help().unwrap().contains("inotify"), "{proc:?}");
    let cut_short = group.mark_filesystem(Path::new(OsStr::from_bytes(b"/tmp\0/x"))).unwrap_err();
    assert_eq!(cut_short.errno(), Some(libc::EINVAL));
    let file = group.mark_filesystem(Path::new("/proc/self/status")).unwrap_err();
    assert_eq!(file.errno(), Some(libc::ENOTDIR));
}

/// A btrfs subvolume refuses the mark; one of the top level reports it, and its handles open below
/// the subvolume.
#[test]
fn a_btrfs_subvolume_is_reported_through_the_top_level() {
    let Some(scratch) = Scratch::new("btrfs", "a_btrfs_subvolume_is_reported_through_the_top_level") else { return };
    let sub = scratch.path().join("sub");
    let group = Group::open(&Options::default()).unwrap();
    let refused = group.mark_filesystem(&sub).unwrap_err();
    assert_eq!(refused.errno(), Some(libc::EXDEV));
    assert!(refused.help().unwrap().contains("subvolume"));
    let (top, below) = (File::open(scratch.path()).unwrap(), File::open(&sub).unwrap());
    group.mark_filesystem_of(top.as_fd(), scratch.path()).unwrap();
    fs::create_dir(sub.join("d")).unwrap();
    let buf = drain(&group);
    let got: Vec<_> = events(&buf).map(Result::unwrap).collect();
    assert_eq!(got.len(), 1);
    let dir = got[0].dir.unwrap();
    assert_eq!(dir.fid.fs, fs_id(top.as_fd()).unwrap());
    assert_ne!(dir.fid.fs, fs_id(below.as_fd()).unwrap());
    let opened = open_by_handle(below.as_fd(), dir.fid.handle_ref()).unwrap();
    assert_eq!(fd_path(opened.as_fd()).unwrap(), sub.as_os_str().as_bytes());
}

/// A file is changed through its handle while no directory entry of it is in memory, as knfsd does:
/// the kernel knows the object and not the place. The record must still come, without a place, for
/// the caller to act upon.
#[test]
fn a_change_through_a_handle_has_no_place() {
    let Some(scratch) = Scratch::new("ext4", "a_change_through_a_handle_has_no_place") else { return };
    let root = File::open(scratch.path()).unwrap();
    fs::write(scratch.path().join("f"), "x").unwrap();
    let handle = name_to_handle(root.as_fd(), Path::new("f")).unwrap();
    nix::unistd::sync();
    let opened = (0..20)
        .find_map(|_| {
            fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
            let fd = open_by_handle(root.as_fd(), handle.as_ref()).unwrap();
            (fd_path(fd.as_fd()).unwrap() == b"/").then_some(fd)
        })
        .expect("an open file without a directory entry in memory");
    let group = Group::open(&Options::default()).unwrap();
    group.mark_filesystem(scratch.path()).unwrap();
    fs::write(format!("/proc/thread-self/fd/{}", opened.as_raw_fd()), "changed").unwrap();
    let buf = drain(&group);
    let got: Vec<_> = events(&buf).map(Result::unwrap).collect();
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!((got[0].mask, got[0].dir), (libc::FAN_CLOSE_WRITE, None));
    assert_eq!(got[0].child.unwrap().handle_ref(), handle.as_ref());
}
