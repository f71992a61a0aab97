//! A source, or a filesystem below it, that is gone, replaced or mounted anew.

use std::path::Path;

use nix::mount::{MntFlags, umount2};

use super::{accept, arrives, held, keeps_twenty, place_held, started, twenty, until_held};
use crate::fixture::daemon::{Config, Daemon, MirrorTable, TargetTable, Until};
use crate::fixture::fs::{ALL, Fs, Ground, Mount, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::{Dir, Times, count, differences};
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};
use crate::lifecycle::small_tree;
use crate::outages::program;

pub fn cases() -> Vec<Case> {
    vec![
        case("source_missing_then_accepted", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = Setup::guarded(fs).before(twenty).start()?;
            m.check();
            let parent = above(&m);
            parent.rename("src", "elsewhere");
            held(&m, "is not there");
            let shown = m.daemon.client(&["resume", "--accept-source"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("cannot open the source"), "{}: {}", shown.code, shown.stderr);
            keeps_twenty(&m);
            parent.mkdir("src");
            m.src.write("new", b"the new source");
            accept(&m);
            m.check();
            assert!(!m.dst().has("d0"), "what the accepted source lacks is still on the target");
            // Events of the new source arrive.
            m.src.mkdir("d");
            m.src.write("d/f", b"after it was accepted");
            m.check();
            Ok(())
        }),
        case("source_replaced_by_a_link_then_accepted", &[Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs).targets(&[To::Module, To::Local]).before(twenty).start()?;
            m.check();
            let parent = above(&m);
            parent.mkdir("next");
            parent.write("next/only", b"x");
            parent.rename("src", "elsewhere");
            parent.symlink("next", "src");
            held(&m, "replaced");
            keeps_twenty(&m);
            let shown = m.daemon.client(&["resume", "--accept-source", "--target", "t1"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("leave --target out"), "{}", shown.stderr);
            accept(&m);
            m.daemon.flush(None);
            parent.write("next/later", b"y");
            m.daemon.flush(None);
            for target in &m.targets {
                let found = differences(&parent.at("next"), target.dir.root(), Times::All, &|_| false);
                assert!(found.is_empty(), "{found}");
            }
            Ok(())
        }),
        case("source_unmounted_and_back", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            let (mounted, at) = (ground.out.clone(), ground.src.at("disk"));
            twenty(&mounted);
            let disk = Mount::bind(mounted.root(), &at);
            let (daemon, target) = started(work.path(), &at);
            // Held open by fansync, so as an administrator in a hurry would do it.
            drop(disk);
            let status = until_held(&daemon, "");
            assert!(status.contains("disk"), "{status}");
            Dir::new(&at).write("below the mount point", b"x");
            let shown = daemon.client(&["flush", "--timeout", "2s"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("nothing is sent or deleted"), "{}: {}", shown.code, shown.stderr);
            assert_eq!(count(target.root()).expect("it can be read"), 40);
            let _disk = Mount::bind(mounted.root(), &at);
            mounted.write("d3/more", b"back as it was");
            daemon.flush(None);
            let found = differences(mounted.root(), target.root(), Times::All, &|_| false);
            assert!(found.is_empty(), "{found}");
            Ok(())
        }),
        // The same directory, through another mount: nothing is known of what was changed
        // meanwhile.
        case("source_mounted_anew", &[Fs::Ext4, Fs::Xfs, Fs::Btrfs, Fs::Tmpfs], |fs| {
            for initial in ["reconcile", "none"] {
                let work = work_dir();
                let ground = Ground::new(fs, work.path())?;
                let (mounted, at) = (ground.out.clone(), work.path().join("disk"));
                twenty(&mounted);
                let target = Dir::new(work.path().join("t"));
                target.mkdir(".");
                let table = TargetTable { name: "t1".into(), url: target.root().display().to_string(), ..TargetTable::default() };
                let mut mirror =
                    MirrorTable { name: "mirror".into(), source: at.clone(), target: vec![table], ..MirrorTable::default() };
                if initial == "none" {
                    mirror.initial = Some(initial.into());
                    twenty(&target);
                }
                let mut disk = Mount::bind(mounted.root(), &at);
                let daemon = Daemon::run(work.path(), &Config::new(work.path(), vec![mirror]), Until::Watching);
                daemon.flush(None);
                for round in 0..3 {
                    // A file that events would have reported, had the target not lost it: only a
                    // comparison finds it.
                    assert!(target.has(format!("d{round}/f")), "{initial}, round {round}\n{}", daemon.report());
                    target.remove(format!("d{round}/f"));
                    drop(disk); // detached, as an administrator in a hurry would do it
                    if round == 1 {
                        until_held(&daemon, "");
                        mounted.write(format!("d{round}/while it was away"), b"by its other path");
                    }
                    disk = Mount::bind(mounted.root(), &at);
                    let anew = poll_until(WAIT, || {
                        let status = daemon.try_status()?.mirrors.remove(0);
                        (status.lost.get("mount_changed") == Some(&1) && status.start.how == "comparison").then_some(status)
                    });
                    let status = anew.unwrap_or_else(|| panic!("it is not begun anew\n{}", daemon.report()));
                    assert!(status.start.why.contains("mounted anew"), "{}", status.start.why);
                    assert!(!status.lost.contains_key("unclean_stop"), "{:?}", status.lost);
                    Dir::new(&at).write(format!("d{round}/after"), b"by the new mount");
                    Dir::new(&at).write("d5/again", format!("{round}"));
                    daemon.flush(None);
                    let found = differences(mounted.root(), target.root(), Times::All, &|_| false);
                    assert!(found.is_empty(), "{found}");
                }
                drop(disk);
            }
            Ok(())
        }),
        case("nested_mount_gone_then_accepted", &[Fs::Ext4], |fs| {
            let m = Setup::guarded(fs).before(|src| {
                let mount = Mount::tmpfs(&src.at("inner"));
                src.write("inner/f", b"there at the start");
                std::mem::forget(mount);
            });
            let m = m.start()?;
            m.check();
            umount2(&m.src.at("inner"), MntFlags::MNT_DETACH).expect("it is mounted");
            place_held(&m, "inner", "is gone");
            assert!(m.dst().has("inner/f"));
            // The rest goes on, deletions and comparisons too.
            m.src.write("beside", b"x");
            arrives(&m, "beside");
            m.src.remove("beside");
            assert!(poll_until(WAIT, || (!m.dst().has("beside")).then_some(())).is_some(), "a deletion elsewhere is held up");
            m.dst().write("stray", b"a comparison deletes it");
            m.daemon.reconcile();
            assert!(poll_until(WAIT, || (!m.dst().has("stray")).then_some(())).is_some(), "no comparison deletes any more");
            let shown = m.daemon.client(&["flush", "--timeout", "20s"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("inner is gone"), "{}: {}", shown.code, shown.stderr);
            assert!(m.dst().has("inner/f"));
            accept(&m);
            m.check();
            assert!(!m.dst().has("inner/f"));
            Ok(())
        }),
        case("nested_mount_absent_at_the_start", &[Fs::Ext4], |fs| {
            let with_inner = |m: &Mirror, name: &str| {
                std::mem::forget(Mount::tmpfs(&m.src.at("inner")));
                m.src.write(name, b"on the filesystem below");
            };
            let without_inner = |m: &mut Mirror| {
                m.daemon.terminate();
                umount2(&m.src.at("inner"), MntFlags::MNT_DETACH).expect("it is mounted");
                m.restart(Until::Watching);
                place_held(m, "inner", "is gone");
                assert!(m.dst().has("inner/f"));
            };
            let mut m = Setup::guarded(fs).start()?;
            with_inner(&m, "inner/f");
            m.src.write("f", b"beside it");
            let seen = || m.daemon.status().mirrors[0].watch.iter().any(|w| w.mount.ends_with("inner")).then_some(());
            assert!(poll_until(WAIT, seen).is_some(), "the new mount is not watched");
            m.check();
            without_inner(&mut m);
            // Back, with another content: that is what counts.
            with_inner(&m, "inner/g");
            m.check();
            assert!(!m.dst().has("inner/f"));
            m.src.write("inner/f", b"again");
            m.check();
            without_inner(&mut m);
            accept(&m);
            m.check();
            assert!(!m.dst().has("inner/f"));
            // Once is once.
            m.daemon.terminate();
            m.restart(Until::Reconciled);
            m.check();
            Ok(())
        }),
        case("list_of_mounts_that_cannot_be_read", &[Fs::Tmpfs], |fs| {
            let mut m = Setup::guarded(fs)
                .before(|src| {
                    src.mkdir("inner");
                    src.write("inner/f", b"of a filesystem, perhaps");
                    src.write("beside", b"stays");
                })
                .start()?;
            m.check();
            let list = m.scratch("state/mirror/mounts");
            let damaged = |m: &mut Mirror| {
                m.daemon.terminate();
                std::fs::write(&list, b"{").expect("a file can be written");
                m.src.remove("inner");
                m.restart(Until::Watching);
                held(m, "cannot understand");
                assert!(m.dst().has("inner/f"));
            };
            damaged(&mut m);
            std::fs::remove_file(&list).expect("it is there");
            m.check();
            m.src.mkdir("inner");
            m.src.write("inner/f", b"once more");
            m.check();
            damaged(&mut m);
            accept(&m);
            m.check();
            m.daemon.terminate();
            m.restart(Until::Reconciled);
            m.check();
            Ok(())
        }),
        case("source_replaced_by_an_empty_one", ALL, |fs| {
            let m = Setup::new(fs).before(small_tree).start()?;
            m.check();
            let before = count(m.dst().root()).expect("the target can be read");
            // As after a failed mount: the path is there, the tree is not.
            let (parent, name) = (Dir::new(m.src.root().parent().expect("it has one")), "src");
            parent.rename(name, "elsewhere");
            parent.mkdir(name);
            parent.write("elsewhere/f", b"written where the source went");
            m.src.write("only this", b"written where the source was");
            let shown = m.daemon.client(&["flush", "--timeout", "3s"], WAIT);
            assert!(shown.code != 0, "flush claims that the target is equal to a source that was replaced");
            assert_eq!(count(m.dst().root()).expect("the target can be read"), before, "the target lost files");
            parent.remove(name);
            parent.rename("elsewhere", name);
            m.src.write("f", b"the source is back");
            m.check();
            Ok(())
        }),
        case("source_replaced_while_rsync_connects", &[Fs::Tmpfs], |fs| {
            let dir = work_dir();
            let gate = dir.path().join("gate");
            let rsync = program(&dir.path().join("late"), LATE);
            let m = Setup::new(fs).rsync(rsync).target_key("standby", 1).before(small_tree).start()?;
            m.check();
            std::fs::write(&gate, b"").expect("a gate can be made");
            m.src.write("d/file", b"takes the standby process, so that another is started");
            m.check();
            let late =
                poll_until(WAIT, || std::fs::read_to_string(dir.path().join("waits")).ok().filter(|pid| pid.ends_with('\n')));
            let late = late.expect("a standby process is started");
            let (parent, name) = (Dir::new(m.src.root().parent().expect("it has one")), "src");
            parent.rename(name, "elsewhere");
            parent.mkdir(name);
            std::fs::remove_file(&gate).expect("a gate can be opened");
            // It has connected, and is in the directory that it will read.
            let enters = || std::fs::read_link(format!("/proc/{}/cwd", late.trim())).ok().filter(|at| at != Path::new("/"));
            poll_until(WAIT, enters).expect("rsync enters its source");
            parent.remove(name);
            parent.rename("elsewhere", name);
            let (before, hits) = (count(m.dst().root()).expect("the target can be read"), m.daemon.target_status("t1").runs);
            m.src.write("f", b"the source is back");
            m.check();
            assert_eq!(count(m.dst().root()).expect("the target can be read"), before);
            assert_eq!(m.daemon.target_status("t1").runs, hits + 1, "sent, deleted and repaired");
            Ok(())
        }),
    ]
}

/// Hands on to rsync; a standby process does so once the gate is away.
const LATE: &str = r#"
at=${0%/*}
case " $* " in *" -n "* | *" -VV "* | *" --version "*) exec rsync "$@" ;; esac
[ -e "$at/gate" ] && echo $$ >"$at/waits"
while [ -e "$at/gate" ]; do sleep 0.01; done
exec rsync "$@"
"#;

fn above(m: &Mirror) -> Dir {
    Dir::new(m.src.root().parent().expect("the source has one"))
}
