//! What the walk's rules rest on, tested on each filesystem that [`crate::state::proven`] trusts.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::scratch::Scratch;
use crate::state::{Clock, SLACK, Wall};
use crate::sys::handle::name_to_handle;
use crate::sys::statx::FileTime;

const FILESYSTEMS: [&str; 4] = ["tmpfs", "ext4", "xfs", "btrfs"];

/// `ctime` of a path, not following it.
pub(super) fn ctime(path: &Path) -> Wall {
    let m = fs::symlink_metadata(path).unwrap();
    Wall::from(FileTime { secs: m.ctime(), nanos: m.ctime_nsec() as u32 })
}

/// A moment of the filesystem's own clock: every change from before has a ctime before it, every
/// later one not. `probe`: a file name that nothing else uses.
pub(super) fn moment(probe: &Path) -> Wall {
    fs::write(probe, "").unwrap();
    let before = ctime(probe);
    let deadline = Instant::now() + Duration::from_secs(60);
    for n in 0.. {
        // Its attributes, back and forth: a change that no filesystem merges with the one before.
        fs::set_permissions(probe, fs::Permissions::from_mode(0o600 | (n & 1) << 3)).unwrap();
        let now = ctime(probe);
        if now > before {
            return now;
        }
        assert!(Instant::now() < deadline, "the clock of {} stands still", probe.display());
    }
    unreachable!()
}

fn swap(a: &Path, b: &Path) {
    renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE).unwrap();
}

fn overwrite(path: &Path) {
    use std::os::unix::fs::FileExt;
    File::options().write(true).open(path).unwrap().write_all_at(b"y", 0).unwrap();
}

#[test]
fn every_change_shows_in_ctimes() {
    type Act = fn(&Path);
    #[rustfmt::skip]
    let table: &[(&str, Act, &[&str])] = &[
        ("write",                       |p| overwrite(&p.join("a/f")),                                &["a/f"]),
        ("truncate by path",            |p| nix::unistd::truncate(&p.join("a/f"), 0).unwrap(),           &["a/f"]),
        ("chmod",                       |p| fs::set_permissions(p.join("a/f"), fs::Permissions::from_mode(0o600)).unwrap(), &["a/f"]),
        ("mtime set back",              |p| File::open(p.join("a/f")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap(), &["a/f"]),
        ("a directory's mtime set back", |p| File::open(p.join("a")).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap(), &["a"]),
        ("create",                      |p| fs::write(p.join("a/new"), "").unwrap(),                     &["a", "a/new"]),
        ("symlink",                     |p| symlink("f", p.join("a/new")).unwrap(),                      &["a", "a/new"]),
        ("mkdir",                       |p| fs::create_dir(p.join("a/new")).unwrap(),                    &["a", "a/new"]),
        ("unlink",                      |p| fs::remove_file(p.join("a/f")).unwrap(),                     &["a"]),
        ("unlink of one of two names",  |p| fs::remove_file(p.join("b/link")).unwrap(),                  &["b", "a/linked"]),
        ("rmdir",                       |p| fs::remove_dir(p.join("a/empty")).unwrap(),                  &["a"]),
        ("link",                        |p| fs::hard_link(p.join("a/f"), p.join("b/new")).unwrap(),      &["b", "a/f", "b/new"]),
        ("rename of a file",            |p| fs::rename(p.join("a/f"), p.join("a/g")).unwrap(),           &["a", "a/g"]),
        ("rename of a file elsewhere",  |p| fs::rename(p.join("a/f"), p.join("b/g")).unwrap(),           &["a", "b", "b/g"]),
        ("rename of a file over one",   |p| fs::rename(p.join("a/f"), p.join("b/f")).unwrap(),           &["a", "b", "b/f"]),
        ("rename of a symlink",         |p| fs::rename(p.join("a/l"), p.join("b/l")).unwrap(),           &["a", "b", "b/l"]),
        ("rename of a directory",       |p| fs::rename(p.join("a/d"), p.join("a/e")).unwrap(),           &["a", "a/e"]),
        ("rename of a directory elsewhere", |p| fs::rename(p.join("a/d"), p.join("b/e")).unwrap(),       &["a", "b", "b/e"]),
        ("rename of a directory over one",  |p| fs::rename(p.join("b/d"), p.join("a/empty")).unwrap(),   &["a", "b", "a/empty"]),
        ("exchange of directories",     |p| swap(&p.join("a/d"), &p.join("b/d")),                        &["a", "b", "a/d", "b/d"]),
        ("exchange of a file and a directory", |p| swap(&p.join("a/f"), &p.join("b/d")),                 &["a", "b", "a/f", "b/d"]),
        ("a directory moved away and back", |p| { fs::rename(p.join("a/d"), p.join("x")).unwrap(); fs::rename(p.join("x"), p.join("a/d")).unwrap(); }, &["a", "a/d"]),
    ];
    for kind in FILESYSTEMS {
        let Some(scratch) = Scratch::new(kind, "every_change_shows_in_ctimes") else { continue };
        for (n, (what, act, changed)) in table.iter().enumerate() {
            let top = scratch.path().join(n.to_string());
            for dir in ["a/d/inner", "a/empty", "b/d"] {
                fs::create_dir_all(top.join(dir)).unwrap();
            }
            for file in ["a/f", "a/linked", "b/f", "a/d/f", "a/d/inner/f"] {
                fs::write(top.join(file), "x").unwrap();
            }
            symlink("f", top.join("a/l")).unwrap();
            fs::hard_link(top.join("a/linked"), top.join("b/link")).unwrap();
            let now = moment(&scratch.path().join("probe"));
            let deep = ctime(&top.join("a/d/inner/f"));
            act(&top);
            for path in *changed {
                assert!(ctime(&top.join(path)) >= now, "{kind}: {what}: the ctime of {path} shows nothing");
            }
            for inner in ["a", "a/d", "b/d", "a/e", "b/e"].map(|d| top.join(d).join("inner/f")) {
                assert!(!inner.exists() || ctime(&inner) == deep, "{kind}: {what}: that is why directories need the set");
            }
        }
    }
}

#[test]
fn a_ctime_lies_within_the_slack_of_the_systems_clock() {
    for kind in FILESYSTEMS {
        let Some(scratch) = Scratch::new(kind, "a_ctime_lies_within_the_slack_of_the_systems_clock") else { continue };
        let file = scratch.path().join("f");
        for _ in 0..200 {
            let before = Clock::now().unwrap().wall;
            fs::write(&file, "x").unwrap();
            let at = ctime(&file);
            assert!(at >= before.before(SLACK / 2) && at <= Clock::now().unwrap().wall, "{kind}: {before:?} {at:?}");
        }
    }
}

/// `ext4` with small inodes keeps whole seconds, the worst of the filesystems trusted.
#[test]
fn whole_seconds_lie_within_the_slack_too() {
    let Some(scratch) = Scratch::new("tmpfs", "whole_seconds_lie_within_the_slack_too") else { return };
    let (image, point) = (scratch.path().join("image"), scratch.path().join("mnt"));
    fs::create_dir(&point).unwrap();
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let run = |program: &str, args: &[&std::ffi::OsStr]| {
        assert!(std::process::Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
    };
    run("mkfs.ext4", &["-q".as_ref(), "-I".as_ref(), "128".as_ref(), image.as_ref()]);
    run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), point.as_ref()]);
    let before = Clock::now().unwrap().wall;
    fs::write(point.join("f"), "x").unwrap();
    let at = ctime(&point.join("f"));
    nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert_eq!(at.0 % 1_000_000_000, 0);
    assert!(at >= before.before(SLACK), "{before:?} {at:?}");
}

#[test]
fn handles_follow_a_directory_and_never_come_again() {
    for kind in FILESYSTEMS {
        let Some(scratch) = Scratch::new(kind, "handles_follow_a_directory_and_never_come_again") else { continue };
        let root = File::open(scratch.path()).unwrap();
        let handle = |name: &str| {
            let handle = name_to_handle(root.as_fd(), Path::new(name)).unwrap();
            (handle.kind, handle.bytes)
        };
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir_all(at("a/inner")).unwrap();
        fs::create_dir(at("b")).unwrap();
        let (a, inner) = (handle("a"), handle("a/inner"));
        fs::rename(at("a"), at("b/c")).unwrap();
        assert_eq!((handle("b/c"), handle("b/c/inner")), (a, inner), "{kind}");
        let mut seen = BTreeSet::new();
        for n in 0..500 {
            fs::create_dir(at("again")).unwrap();
            assert!(seen.insert(handle("again")), "{kind}: directory {n} has the handle of one that was removed");
            fs::remove_dir(at("again")).unwrap();
        }
    }
}
