//! Where filesystem marks cannot be had: forced inotify, FUSE, btrfs subvolumes, mounts below the
//! root.

use crate::fixture::fs::{ALL, Fs, Mount};
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Mirror, Run, Setup, Skip, WAIT, case, real};

use std::fs::read_to_string;
use std::path::Path;

pub fn cases() -> Vec<Case> {
    vec![
        case("inotify", ALL, |fs| {
            let m = Setup::new(fs).watch("inotify").start()?;
            assert_eq!(backend(&m, m.src.root()), "inotify");
            work_out(&m)
        }),
        case("fanotify", ALL, |fs| {
            let m = Setup::new(fs).watch("fanotify").start()?;
            assert_eq!(backend(&m, m.src.root()), "fanotify");
            work_out(&m)
        }),
        case("auto_takes_fanotify", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            assert_eq!(backend(&m, m.src.root()), "fanotify");
            Ok(())
        }),
        case("auto", &[Fs::Fuse], |fs| {
            let m = Setup::new(fs).start()?;
            assert_eq!(backend(&m, m.src.root()), "inotify");
            work_out(&m)
        }),
        // Which of the two it gets depends on the kernel (6.8 relaxed the rules); both have to
        // work.
        case("auto", &[Fs::Subvolume], |fs| work_out(&Setup::new(fs).start()?)),
        case("inotify_real_tree", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).watch("inotify").start()?;
            // Directories appear faster than watches can follow.
            real::copy_into(&m.src)?;
            m.check();
            m.src.mkdirs("far/down");
            m.src.write("far/down/file", b"after all that");
            m.check();
            Ok(())
        }),
        case("inotify_dirs_created_deep", ALL, |fs| {
            let m = Setup::new(fs).watch("inotify").start()?;
            for n in 0..200 {
                let dir = format!("{n}/a/b/c/d");
                m.src.mkdirs(&dir);
                m.src.write(format!("{dir}/file"), format!("{n}"));
            }
            m.check();
            for n in 0..200 {
                m.src.write(format!("{n}/a/b/c/d/file"), format!("{n} again"));
                m.src.write(format!("{n}/a/b/new"), b"new");
            }
            m.check();
            Ok(())
        }),
        case("inotify_moved_dirs_are_followed", ALL, |fs| {
            let m = Setup::new(fs).watch("inotify").start()?;
            m.src.mkdirs("a/b/c");
            m.src.mkdirs("x/y");
            m.check();
            m.src.rename("a", "x/a");
            m.src.write("x/a/b/c/file", b"below what moved");
            m.check();
            m.src.rename("x", "z");
            m.src.write("z/a/b/c/file2", b"below what moved twice");
            m.check();
            m.src.rename_to("z/a", &m.out, "a");
            m.out.write("a/b/c/file", b"of no concern");
            m.check();
            m.out.rename_to("a", &m.src, "back");
            m.src.write("back/b/c/file3", b"back again");
            m.check();
            m.src.exchange("back", "z");
            m.src.write("z/b/c/file4", b"after the swap");
            m.check();
            Ok(())
        }),
        case("without_io_uring", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).without("io_uring").start()?;
            assert_ne!(m.daemon.status().mirrors[0].reader, "io_uring");
            work_out(&m)
        }),
        case("without_rename_events", ALL, |fs| work_out(&Setup::new(fs).without("rename_events").start()?)),
        case("fanotify_overflow", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            overflow(Setup::new(fs).watch("fanotify").without("unlimited_queue"), "fanotify")
        }),
        case("inotify_overflow", &[Fs::Tmpfs, Fs::Ext4], |fs| overflow(Setup::new(fs).watch("inotify"), "inotify")),
        case("fanotify_frozen_reader", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = Setup::new(fs).start()?;
            m.daemon.freeze();
            for n in 0..20_000 {
                m.src.write(format!("f{n}"), b"");
            }
            m.daemon.thaw();
            m.check();
            Ok(())
        }),
        case("nested_mount", &[Fs::Ext4, Fs::Btrfs], |fs| {
            // The mount has to be there before the daemon; it lies below the source's own mount and
            // goes with it.
            let m = Setup::new(fs).before(|src| {
                let mount = Mount::tmpfs(&src.at("inner"));
                src.write("inner/before", b"there at the start");
                std::mem::forget(mount);
            });
            let m = m.start()?;
            m.check();
            nested_work_out(&m);
            Ok(())
        }),
        case("nested_mount_appears", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).start()?;
            m.src.write("outer", b"x");
            m.check();
            let _mount = Mount::tmpfs(&m.src.at("inner"));
            m.src.write("inner/early", b"written before anyone could have noticed");
            let watched = || watches(&m).any(|mount| mount.ends_with("inner")).then_some(());
            assert!(poll_until(WAIT, watched).is_some(), "the new mount is not watched");
            let lost = &m.daemon.status().mirrors[0].lost;
            assert!(lost.get("mount_changed").is_some_and(|&n| n > 0), "{lost:?}");
            m.check();
            nested_work_out(&m);
            Ok(())
        }),
    ]
}

/// The backend of the mount `path` lies on.
fn backend(m: &Mirror, path: &Path) -> String {
    let status = m.daemon.status();
    let covering = status.mirrors[0].watch.iter().filter(|w| path.starts_with(&w.mount));
    let nearest = covering.max_by_key(|w| w.mount.as_os_str().len());
    nearest.unwrap_or_else(|| panic!("no watch covers {}: {:?}", path.display(), status.mirrors[0].watch)).backend.clone()
}

fn watches(m: &Mirror) -> impl Iterator<Item = std::path::PathBuf> {
    m.daemon.status().mirrors.remove(0).watch.into_iter().map(|w| w.mount)
}

/// A little of everything.
fn work_out(m: &Mirror) -> Run<()> {
    m.src.mkdirs("d/sub/deep");
    m.src.write("d/file", b"one");
    m.src.write("d/sub/deep/file", b"two");
    m.src.symlink("file", "d/link");
    m.check();
    m.src.write("d/file", b"two");
    m.src.append("d/sub/deep/file", b" and longer");
    m.src.chmod("d/sub", 0o700);
    m.src.chown("d/link", 3, 4);
    m.src.set_mtime("d", 1_000_000_000, 123_456_789);
    m.check();
    m.src.chmod(".", 0o711);
    m.check();
    m.src.rename("d/sub", "sub");
    m.src.write("sub/deep/new", b"after the rename");
    m.check();
    m.src.rename_to("sub", &m.out, "sub");
    m.check();
    m.out.rename_to("sub", &m.src, "d/back");
    m.src.write("d/back/deep/newer", b"at once");
    m.check();
    m.src.remove("d/back");
    m.src.write("d/back", b"a file now");
    m.check();
    for n in 0..1_000 {
        m.src.write(format!("burst {n}"), format!("{n}"));
    }
    m.check();
    Ok(())
}

fn nested_work_out(m: &Mirror) {
    m.src.mkdirs("inner/d");
    m.src.write("inner/d/file", b"inside");
    m.src.write("outside", b"outside");
    m.check();
    m.src.rename("inner/d", "inner/e");
    m.src.append("inner/e/file", b" and more");
    m.src.chmod("inner", 0o700);
    m.check();
    m.src.remove("inner/e");
    m.check();
}

/// More events than the kernel's queue takes while the daemon does not get to run.
fn overflow(setup: Setup, backend: &str) -> Run<()> {
    let limit = read_to_string(format!("/proc/sys/fs/{backend}/max_queued_events")).expect("the limit can be read");
    let limit: usize = limit.trim().parse().expect("the limit is a number");
    if limit > 60_000 {
        return Err(Skip(format!("fs.{backend}.max_queued_events is {limit}: too many to overflow in a test")));
    }
    let m = setup.start()?;
    m.src.mkdir("d");
    m.check();
    m.daemon.freeze();
    // fanotify merges events of one file and one kind, so each needs a file of its own.
    for n in 0..limit + 1_000 {
        m.src.write(format!("d/{n}"), b"");
    }
    m.src.mkdirs("not seen/deep");
    m.src.write("not seen/deep/file", b"its event was dropped");
    m.daemon.thaw();
    m.check();
    let lost = &m.daemon.status().mirrors[0].lost;
    assert!(lost.get("queue_overflow").is_some_and(|&n| n > 0), "the queue did overflow, and the status says {lost:?}");
    m.src.write("not seen/deep/file", b"seen again");
    m.check();
    Ok(())
}
