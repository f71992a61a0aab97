//! Filesystems below the source that are none of its, and mounts that come, go, move and are made
//! anew.

use std::os::fd::AsRawFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::fixture::daemon::{Daemon, Until, fansync};
use crate::fixture::fs::{Fs, Mount};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::{Dir, count};
use crate::fixture::{Case, Mirror, Setup, Skip, To, WAIT, case};
use crate::holds::place_held;

pub fn cases() -> Vec<Case> {
    vec![
        // What is no tree of files.
        case("a_chroot_comes_and_goes", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs).targets(&[To::Module, To::Local]).start()?;
            ["c/proc", "c/sys", "c/dev/pts", "c/etc"].iter().for_each(|dir| m.src.mkdirs(dir));
            m.src.write("c/dev/null", b"below the mount");
            m.check();
            for round in 0..2 {
                let mounts = [
                    kernel_fs("proc", &m.src.at("c/proc")),
                    kernel_fs("sysfs", &m.src.at("c/sys")),
                    kernel_fs("devtmpfs", &m.src.at("c/dev")),
                ];
                apart(&m, "c/proc c/sys c/dev");
                m.src.write("c/etc/hosts", format!("{round}"));
                m.src.chmod("c", 0o750 + round);
                m.daemon.reconcile();
                m.daemon.flush(None);
                for target in &m.targets {
                    let counts = ["c/proc", "c/sys"].map(|dir| count(&target.dir.at(dir)).expect("the mount point is mirrored"));
                    assert_eq!(counts, [0, 0], "something of the kernel's was copied to {}", target.name);
                    assert_eq!(
                        target.dir.read("c/dev/null").as_deref(),
                        Some(&b"below the mount"[..]),
                        "what is hidden was deleted"
                    );
                    assert_eq!(target.dir.read("c/etc/hosts"), Some(format!("{round}").into_bytes()));
                }
                // fansync keeps none of them busy, and no process waits for them.
                for mount in mounts.iter().rev() {
                    mount.unmount();
                }
                apart(&m, "");
                m.check();
            }
            m.src.remove("c");
            m.check();
            assert!(m.daemon.status().mirrors[0].held.is_empty());
            Ok(())
        }),
        case("mounted_before_the_start", &[Fs::Xfs, Fs::Tmpfs], |fs| {
            let mut m = Setup::guarded(fs)
                .keep()
                .key("mounts", toml::Table::from_iter([("skip".to_owned(), toml::Value::from(vec!["ramfs", "/scratch"]))]))
                .before(|src| {
                    src.mkdirs("c/proc");
                    std::mem::forget(kernel_fs("proc", &src.at("c/proc")));
                    std::mem::forget(Mount::ramfs(&src.at("cache")));
                    std::mem::forget(Mount::tmpfs(&src.at("scratch/a")));
                    std::mem::forget(Mount::tmpfs(&src.at("taken")));
                    ["cache/f", "scratch/a/f", "taken/f"].iter().for_each(|f| src.write(f, b"x"));
                })
                .start()?;
            let mirrored =
                |m: &Mirror| ["c/proc", "cache", "scratch/a", "taken"].map(|dir| count(&m.dst().at(dir)).unwrap_or(99));
            assert_eq!(mirrored(&m), [0, 0, 0, 1]);
            let shown = m.daemon.does(&["explain", &m.src.at("scratch/a/f").display().to_string()]);
            let says = |what: &str| assert!(shown.contains(what), "{what} is not in\n{shown}");
            says("  apart   scratch/a: ");
            says("    left out: what is mounted at scratch/a does not belong to the mirror");
            m.src.write("taken/g", b"reported");
            m.daemon.flush(None);
            assert_eq!(mirrored(&m), [0, 0, 0, 2]);
            let verified = m.daemon.client(&["verify"], WAIT);
            assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
            m.src.write("cache/g", b"left alone");
            // Over a restart, with a walk: none of them is missed.
            m.daemon.terminate();
            ["c/proc", "cache", "scratch/a"]
                .iter()
                .for_each(|at| umount2(&m.src.at(at), MntFlags::empty()).expect("it is mounted"));
            m.restart(Until::Reconciled);
            m.check();
            assert!(m.daemon.status().mirrors[0].apart.is_empty());
            Ok(())
        }),
        case("what_a_user_mounts", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs)
                .before(|src| {
                    src.mkdirs("u/m");
                    src.write("u/m/below", b"the mount");
                    src.write("u/f", b"beside it");
                })
                .start()?;
            m.check();
            let fuse = users_fuse(&m.src.at("u/m"))?;
            apart(&m, "u/m");
            m.src.write("others", b"x");
            m.src.chmod("u", 0o711);
            m.dst().write("stray", b"a comparison deletes it");
            m.daemon.reconcile();
            m.daemon.flush(None);
            assert!(m.dst().has("others") && m.dst().has("u/m/below") && !m.dst().has("stray"));
            drop(fuse);
            apart(&m, "");
            m.src.remove("u/m/below");
            m.check();
            Ok(())
        }),
        case("a_source_missing_at_the_start", &[Fs::Tmpfs], |fs| {
            let mut m = Setup::guarded(fs).before(|src| src.write("f", b"x")).start()?;
            m.check();
            m.daemon.terminate();
            let (src, away) = (m.src.root().to_path_buf(), m.out.at("away"));
            std::fs::rename(&src, &away).expect("it can be moved");
            let beside = m.scratch("beside");
            Dir::new(&beside).write_in("to/x");
            Dir::new(&beside).write_in("from/y");
            let mut other = m.config().mirror[0].clone();
            (other.name, other.source) = ("beside".into(), beside.join("from"));
            other.target.truncate(1);
            other.target[0].url = beside.join("to").display().to_string();
            let mut config = m.config().clone();
            config.mirror.push(other);
            m.daemon = Daemon::run(&m.scratch(""), &config, Until::Answering);
            let config = m.scratch("").join("fansync.toml");
            let arrived = poll_until(WAIT, || beside.join("to/y").exists().then_some(()));
            assert!(arrived.is_some(), "the other mirror does not run\n{}", m.daemon.report());
            let status = m.daemon.status();
            let (held, place) = (&status.mirrors[0].held, format!("{}:", config.display()));
            assert!(
                held.contains("cannot be opened") && held.contains(&place) && held.contains(&status.mirrors[0].name),
                "{held}"
            );
            assert_eq!(status.mirrors[0].targets[0].state, "held");
            let shown = m.daemon.client(&["flush", "--timeout", "100ms"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("cannot be opened"), "{}: {}", shown.code, shown.stderr);
            let shown = m.daemon.client(&["resume", "--accept-source"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("nothing has changed"), "{}: {}", shown.code, shown.stderr);
            std::fs::rename(&away, &src).expect("it can be moved");
            m.src.write("g", b"when it was there again");
            let begun = poll_until(WAIT, || m.daemon.try_status().filter(|s| s.mirrors[0].held.is_empty()));
            assert!(begun.is_some(), "the mirror does not begin\n{}", m.daemon.report());
            m.src.write("h", b"reported");
            m.check();
            m.daemon.terminate();
            Ok(())
        }),
        case("a_link_to_the_source_is_switched", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = Setup::guarded(fs)
                .source("current")
                .before(|src| {
                    let above = Dir::new(src.root().parent().expect("it has one"));
                    above.write_in("releases/1/index");
                    above.write_in("releases/1/only");
                    above.write_in("releases/2/index");
                    above.write("releases/1/index", b"one");
                    above.write("releases/2/index", b"two");
                    // As archives do that set all times alike.
                    ["releases/1/index", "releases/2/index"].iter().for_each(|f| above.set_mtime(f, 1_000_000_000, 0));
                    above.symlink("releases/1", "current");
                })
                .start()?;
            m.daemon.flush(None);
            assert!(m.dst().has("only"));
            let mirror = &m.daemon.status().mirrors[0];
            assert!(mirror.source.ends_with("/releases/1") && mirror.given.ends_with("/current"), "{mirror:?}");
            assert!(m.daemon.log().contains("is given through a symbolic link and leads to"), "{}", m.daemon.log());
            let shown = m.daemon.client(&["status"], WAIT).stdout;
            assert!(shown.contains("/current, by a symbolic link)"), "{shown}");
            let checked = fansync(&["check", "--config", &m.write_config().display().to_string()], WAIT);
            let shown = format!("{}{}", checked.stdout, checked.stderr);
            assert!(checked.code == 0 && shown.contains("is given through a symbolic link"), "{shown}");
            let above = Dir::new(m.src.root().parent().expect("it has one"));
            above.symlink("releases/2", "new");
            above.rename("new", "current");
            let switched =
                poll_until(WAIT, || (m.dst().read("index").as_deref() == Some(b"two") && !m.dst().has("only")).then_some(()));
            assert!(switched.is_some(), "the new release does not arrive\n{}", m.daemon.report());
            above.write("releases/2/more", b"reported");
            m.daemon.flush(None);
            assert!(m.dst().has("more"));
            // To one that is not there: held, and nothing is deleted.
            above.symlink("releases/3", "new");
            above.rename("new", "current");
            let held = poll_until(WAIT, || m.daemon.try_status().filter(|s| s.mirrors[0].held.contains("is not there")));
            assert!(held.is_some() && m.dst().has("more"), "{}", m.daemon.report());
            above.write_in("releases/3/third");
            let switched = poll_until(WAIT, || m.dst().has("third").then_some(()));
            assert!(switched.is_some(), "the third release does not arrive\n{}", m.daemon.report());
            // An empty one is judged as a source that was emptied.
            m.daemon.flush(None);
            (0..12).for_each(|n| above.write(format!("releases/3/{n}"), b"x"));
            m.daemon.flush(None);
            above.mkdir("releases/4");
            above.symlink("releases/4", "new");
            above.rename("new", "current");
            let held = poll_until(WAIT, || m.daemon.try_status().filter(|s| s.mirrors[0].held.contains("is empty")));
            assert!(held.is_some() && m.dst().has("third"), "{}", m.daemon.report());
            Ok(())
        }),
        // The link is further up, as where a disk is chosen by one.
        case("a_link_above_the_source_is_switched", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = Setup::guarded(fs)
                .source("disk/tree/data")
                .before(|src| {
                    let above = Dir::new(src.root().parent().expect("it has one"));
                    for disk in ["one", "two"] {
                        (0..12).for_each(|n| above.write_in(&format!("{disk}/tree/data/d/{n}")));
                        above.write(format!("{disk}/tree/data/disk"), disk);
                    }
                    above.write_in("one/tree/data/only");
                    // As archives do that set all times alike.
                    ["one", "two"].iter().for_each(|disk| above.set_mtime(format!("{disk}/tree/data/disk"), 1_000_000_000, 0));
                    above.symlink("one", "disk");
                })
                .start()?;
            m.daemon.flush(None);
            assert_eq!(m.dst().read("disk").as_deref(), Some(&b"one"[..]));
            let above = Dir::new(m.src.root().parent().expect("it has one"));
            above.symlink("two", "new");
            above.rename("new", "disk");
            let switched =
                poll_until(WAIT, || (m.dst().read("disk").as_deref() == Some(b"two") && !m.dst().has("only")).then_some(()));
            assert!(switched.is_some(), "the other disk does not arrive\n{}", m.daemon.report());
            let mirror = &m.daemon.status().mirrors[0];
            assert!(mirror.source.ends_with("/two/tree/data") && mirror.given.ends_with("/disk/tree/data"), "{mirror:?}");
            assert!(mirror.lost.is_empty(), "{:?}", mirror.lost);
            above.write("two/tree/data/d/more", b"by an event");
            m.daemon.flush(None);
            assert!(m.dst().has("d/more"));
            // What changes on the first one is of no concern any more.
            above.write("one/tree/data/d/late", b"elsewhere");
            m.daemon.flush(None);
            assert!(!m.dst().has("d/late"));
            // To nothing: held.
            above.symlink("three", "new");
            above.rename("new", "disk");
            let held = poll_until(WAIT, || m.daemon.try_status().filter(|s| s.mirrors[0].held.contains("is not there")));
            assert!(held.is_some() && m.dst().has("d/more"), "{}", m.daemon.report());
            Ok(())
        }),
        // Mounts that are made anew.
        case("detached_and_mounted_again", &[Fs::Ext4, Fs::Xfs, Fs::Btrfs, Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs)
                .before(|src| {
                    let disk = src.root().parent().expect("it has one").join("disk");
                    (0..20).for_each(|n| Dir::new(&disk).write_in(&format!("d/{n}")));
                    std::mem::forget(Mount::bind(&disk, &src.at("n")));
                })
                .start()?;
            m.check();
            for round in 0..2 {
                umount2(&m.src.at("n"), MntFlags::MNT_DETACH).expect("it is mounted");
                place_held(&m, "n", "is gone");
                let disk = m.src.root().parent().expect("it has one").join("disk");
                std::mem::forget(Mount::bind(&disk, &m.src.at("n")));
                m.check();
                m.src.write("n/d/1", format!("reported, {round}"));
                m.src.write("n/new", b"x");
                m.check();
                m.src.rename("n/d", "n/e");
                m.src.write("n/e/2", format!("reported, {round}"));
                m.check();
                m.src.rename("n/e", "n/d");
                m.check();
            }
            Ok(())
        }),
        case("bound_inside_the_source", &[Fs::Ext4, Fs::Btrfs, Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs)
                .before(|src| {
                    let above = Dir::new(src.root().parent().expect("it has one"));
                    ["src/a/f", "src/x/y/f", "src/lone", "src/from", "outer/f", "single"].iter().for_each(|f| above.write_in(f));
                    std::mem::forget(Mount::bind(&src.at("a"), &src.at("b")));
                    std::mem::forget(Mount::bind(&above.at("outer"), &src.at("c")));
                    bind_file(&src.at("x/y/f"), &src.at("lone"));
                    bind_file(&above.at("single"), &src.at("from"));
                })
                .start()?;
            m.check();
            let above = Dir::new(m.src.root().parent().expect("it has one"));
            m.src.write("a/f", b"by the first");
            m.src.mkdir("a/sub");
            m.src.write("a/sub/g", b"new");
            above.write("outer/f", b"from outside");
            m.src.write("x/y/f", b"the file's own name");
            m.check();
            m.src.write("b/f", b"by the second place");
            m.src.remove("b/sub");
            m.src.append("lone", b"by the mount");
            above.append("single", b"by the name outside");
            m.check();
            m.src.append("from", b"by the mount");
            m.src.rename("x", "z");
            m.src.append("z/y/f", b"after the directory above was renamed");
            m.check();
            let blind: Vec<String> = m.daemon.status().mirrors[0].watch.iter().flat_map(|w| w.unwatched.clone()).collect();
            assert_eq!(blind, ["from", "lone"]);
            Ok(())
        }),
        case("moved_stacked_and_remounted", &[Fs::Ext4], |fs| {
            let m = Setup::guarded(fs)
                .before(|src| {
                    ["a", "b"].iter().for_each(|dir| src.mkdir(dir));
                    std::mem::forget(Mount::tmpfs(&src.at("a")));
                    src.write("a/f", b"x");
                })
                .start()?;
            m.check();
            let flags = |flags| mount(None::<&str>, &m.src.at("a"), None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>);
            flags(MsFlags::MS_RDONLY).expect("a remount");
            flags(MsFlags::empty()).expect("a remount");
            m.src.write("a/g", b"after the remounts");
            m.check();
            // Shared mounts cannot be moved from; those of the test's namespace are private.
            mount(Some(&m.src.at("a")), &m.src.at("b"), None::<&str>, MsFlags::MS_MOVE, None::<&str>).expect("a move");
            m.check();
            assert!(m.dst().has("b/f") && !m.dst().has("a/f"));
            m.src.write("b/h", b"reported where it is now");
            m.check();
            let over = Mount::tmpfs(&m.src.at("b"));
            m.src.write("b/over", b"y");
            m.check();
            assert!(!m.dst().has("b/f"));
            m.src.write("b/over", b"reported");
            m.check();
            drop(over);
            m.check();
            assert!(m.dst().has("b/f"));
            m.src.write("b/h", b"reported again");
            m.check();
            Ok(())
        }),
    ]
}

fn bind_file(from: &Path, at: &Path) {
    mount(Some(from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap_or_else(|e| panic!("cannot bind a file: {e}"));
}

/// A filesystem of the kernel's own, mounted at `at`.
pub fn kernel_fs(fs_type: &str, at: &Path) -> Kernel {
    mount(Some(fs_type), at, Some(fs_type), MsFlags::empty(), None::<&str>)
        .unwrap_or_else(|e| panic!("cannot mount {fs_type} on {}: {e}", at.display()));
    Kernel { at: at.into() }
}

pub struct Kernel {
    at: std::path::PathBuf,
}

impl Kernel {
    /// As umount(8) does, which fails for what is busy.
    fn unmount(&self) {
        umount2(&self.at, MntFlags::empty()).unwrap_or_else(|e| panic!("cannot unmount {}: {e}", self.at.display()));
    }
}

/// The very mount that fusermount3 makes for a user who gives no option: root may not even look at
/// it.
struct UsersFuse {
    at: std::path::PathBuf,
    _device: std::fs::File,
}

fn users_fuse(at: &Path) -> Result<UsersFuse, Skip> {
    let device =
        std::fs::File::options().read(true).write(true).open("/dev/fuse").map_err(|e| Skip(format!("/dev/fuse: {e}")))?;
    let options = format!("fd={},rootmode=40000,user_id=65534,group_id=65534", device.as_raw_fd());
    mount(Some("anything"), at, Some("fuse.x"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|e| Skip(format!("FUSE: {e}")))?;
    Ok(UsersFuse { at: at.into(), _device: device })
}

impl Drop for UsersFuse {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// Waits until these places, and no others, are left alone, and nothing is held.
#[track_caller]
pub fn apart(m: &Mirror, places: &str) {
    let mut want: Vec<&str> = places.split_whitespace().collect();
    want.sort_unstable();
    let found = poll_until(WAIT, || {
        let status = m.daemon.try_status()?;
        let apart = &status.mirrors[0].apart;
        (apart.iter().map(|p| &*p.path).eq(want.iter().copied()) && apart.iter().all(|p| !p.held)).then_some(())
    });
    assert!(found.is_some(), "not left alone: {places}\n{}", m.daemon.report());
}

trait WriteIn {
    /// Writes a file, and makes the directories above it.
    fn write_in(&self, path: &str);
}

impl WriteIn for Dir {
    fn write_in(&self, path: &str) {
        self.mkdirs(Path::new(path).parent().expect("a file is in a directory"));
        self.write(path, b"x");
    }
}
