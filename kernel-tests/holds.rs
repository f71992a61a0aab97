//! A source that is not what it was, and deletions that are too many: nothing is deleted before somebody says so.

use nix::mount::{MntFlags, umount2};

use crate::fixture::daemon::{Config, Daemon, MirrorTable, TargetStatus, TargetTable, Until, fansync};
use crate::fixture::fs::{Fs, Ground, Mount, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::{Dir, Times, count, differences};
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};
use crate::outages::program;

pub fn cases() -> Vec<Case> {
    vec![
        // The source is gone.
        case("source_missing_then_accepted", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = Setup::guarded(fs).before(twenty).start()?;
            m.check();
            let parent = above(&m);
            parent.rename("src", "elsewhere");
            held(&m, "is not there");
            let told = m.daemon.client(&["resume", "--accept-source"], WAIT);
            assert!(told.code == 1 && told.stderr.contains("cannot open the source"), "{}: {}", told.code, told.stderr);
            keeps_twenty(&m);
            parent.mkdir("src");
            m.src.write("new", b"the new source");
            accept(&m);
            m.check();
            assert!(!m.dst().has("d0"), "what the accepted source lacks is still on the target");
            // Events of the new source are heard.
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
            let told = m.daemon.client(&["resume", "--accept-source", "--target", "t1"], WAIT);
            assert!(told.code == 1 && told.stderr.contains("leave --target out"), "{}", told.stderr);
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
            let told = daemon.client(&["flush", "--timeout", "2s"], WAIT);
            assert!(told.code == 1 && told.stderr.contains("nothing is sent or deleted"), "{}: {}", told.code, told.stderr);
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
                    // A file that events would have told of, had the target not lost it: only a
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
            let told = m.daemon.client(&["flush", "--timeout", "20s"], WAIT);
            assert!(told.code == 1 && told.stderr.contains("inner is gone"), "{}: {}", told.code, told.stderr);
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
        // The source is there, and empty.
        case("source_emptied_at_one_blow", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = Setup::guarded(fs).targets(&[To::Module, To::Local]).before(twenty).start()?;
            m.check();
            empty(&m);
            held(&m, "lost nearly everything at one blow");
            keeps_twenty(&m);
            let told = m.daemon.client(&["flush", "--timeout", "2s"], WAIT);
            assert!(told.code == 1 && told.stderr.contains("at one blow"), "{}: {}", told.code, told.stderr);
            let told = m.daemon.does(&["resume", "--accept-source"]);
            assert!(told.contains("the source is accepted as it is"), "{told}");
            m.check();
            assert_eq!(count(m.dst().root()).expect("it can be read"), 0);
            // Once is once.
            twenty(&m.src);
            m.check();
            empty(&m);
            held(&m, "at one blow");
            keeps_twenty(&m);
            Ok(())
        }),
        case("source_emptied_and_filled_again", &[Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs).before(twenty).start()?;
            m.check();
            empty(&m);
            held(&m, "at one blow");
            m.src.write("a stray file", b"is not enough");
            held(&m, "at one blow");
            keeps_twenty(&m);
            for n in 0..15 {
                m.out.rename_to(format!("d{n}"), &m.src, format!("d{n}"));
            }
            m.check();
            Ok(())
        }),
        case("source_emptied_while_the_target_is_away", &[Fs::Tmpfs], |fs| {
            let mut m =
                Setup::guarded(fs).target_key("retry_min", "50ms").target_key("retry_max", "300ms").before(twenty).start()?;
            m.check();
            m.rsyncd.as_mut().expect("a module").stop();
            m.src.write("d0/more", b"what finds out that it is away");
            m.daemon.target_status_until("t1", "known to be away", |t| t.state == "down");
            // One by one, and all of it in one batch when the target is back.
            for n in 0..20 {
                m.src.remove(format!("d{n}"));
            }
            m.daemon.target_status_until("t1", "all of it is seen", |t| t.pending >= 20);
            m.rsyncd.as_mut().expect("a module").restart();
            held(&m, "at one blow");
            keeps_twenty(&m);
            accept(&m);
            m.check();
            Ok(())
        }),
        case("a_comparison_finds_the_source_emptied", &[Fs::Tmpfs], |fs| {
            let busy = |src: &Dir| {
                twenty(src);
                src.mkdir("busy");
            };
            let m = Setup::guarded(fs).watch("inotify").before(busy).start()?;
            m.check();
            // The queue overflows, so that no event tells of what comes after: only the comparison
            // finds it. A batch that
            // leaves before may carry what the first events name, so that lies in none of the
            // twenty.
            m.daemon.freeze();
            let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("the limit can be read");
            let limit: usize = limit.trim().parse().expect("the limit is a number");
            m.out.mkdir("flood");
            m.out.rename_to("flood", &m.src, "flood");
            for n in 0..limit {
                m.src.write(format!("busy/{n}"), b"");
            }
            m.src.remove("flood");
            m.src.remove("busy");
            move_out(&m);
            m.daemon.thaw();
            held(&m, "at one blow");
            keeps_twenty(&m);
            accept(&m);
            m.check();
            Ok(())
        }),
        case("empty_at_the_start_before_a_target_that_is_not", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let mut m = Setup::guarded(fs).before(twenty).start()?;
            m.check();
            m.daemon.kill();
            let state = m.scratch("state");
            if state.exists() {
                std::fs::remove_dir_all(state).expect("the state can be removed");
            }
            move_out(&m);
            m.restart(Until::Watching);
            held(&m, "a disk that is not mounted?");
            keeps_twenty(&m);
            accept(&m);
            m.check();
            Ok(())
        }),
        case("empty_at_the_start_until_its_disk_is_mounted", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            let disk = Dir::new(work.path().join("disk"));
            disk.mkdir(".");
            let mounted = Mount::tmpfs(disk.root());
            twenty(&disk);
            let at = ground.src.root().to_path_buf();
            let target = Dir::new(work.path().join("t"));
            target.mkdir(".");
            twenty(&target);
            let (daemon, target) = started_before(work.path(), &at, target);
            until_held(&daemon, "a disk that is not mounted?");
            let late = Mount::bind(disk.root(), &at);
            let followed = poll_until(WAIT, || daemon.try_status().filter(|s| s.mirrors[0].held.is_empty()));
            assert!(followed.is_some(), "the disk is there and not taken\n{}", daemon.report());
            disk.write("d1/new", b"heard of");
            daemon.flush(None);
            let found = differences(disk.root(), target.root(), Times::All, &|_| false);
            assert!(found.is_empty(), "{found}");
            drop((daemon, late, mounted));
            Ok(())
        }),
        case("once_with_an_empty_source", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            let target = Dir::new(work.path().join("t"));
            target.mkdir(".");
            target.write("precious", b"x");
            let (source, url) = (ground.src.root().display().to_string(), target.root().display().to_string());
            let ran = fansync(&["mirror", &source, &url, "--once"], WAIT);
            assert!(ran.code == 78 && target.has("precious"), "{}: {}", ran.code, ran.stderr);
            assert!(ran.stderr.contains("a disk that is not mounted?"), "{}", ran.stderr);
            let ran = fansync(&["mirror", &source, &url, "--once", "--allow-empty"], WAIT);
            assert!(ran.code == 0 && !target.has("precious"), "{}: {}", ran.code, ran.stderr);
            Ok(())
        }),
        case("a_spool_may_be_empty", &[Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs).key("allow_empty", true).before(twenty).start()?;
            m.check();
            empty(&m);
            m.check();
            Ok(())
        }),
        case("a_few_files_may_go", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = Setup::guarded(fs).start()?;
            for round in 0..5 {
                (0..4).for_each(|n| m.src.write(format!("{n}"), format!("{round}")));
                m.check();
                (0..4).for_each(|n| m.src.remove(format!("{n}")));
                m.check();
            }
            Ok(())
        }),
        // Too many deletions.
        case("max_delete_of_a_batch", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = Setup::guarded(fs).targets(&[To::Module, To::Local]).key("max_delete", 10).before(twenty).start()?;
            m.src.mkdir("big");
            (0..30).for_each(|n| m.src.write(format!("big/{n}"), b"x"));
            m.check();
            m.out.mkdir("aside");
            m.src.rename_to("big", &m.out, "aside/big");
            m.src.write("d0/new", b"goes on");
            let status = withheld(&m, 31);
            assert!(status.held_reason.contains("max_delete = 10") && status.held_reason.contains("(at big)"), "{status:?}");
            assert!(status.held_reason.contains("fansync resume --accept-deletes"), "{status:?}");
            assert_eq!(count(&m.dst().at("big")).expect("it is there"), 30, "a held directory lost something");
            arrives(&m, "d0/new");
            // Few enough: they go through beside what is held.
            at_once(&m, || m.src.remove("d1"));
            let gone = || (!m.dst().has("d1")).then_some(());
            assert!(poll_until(WAIT, gone).is_some(), "a deletion within the bound is held up");
            let told = m.daemon.client(&["flush", "--timeout", "20s"], WAIT);
            assert!(told.code == 1 && told.stderr.contains("31 deletions are held"), "{}: {}", told.code, told.stderr);
            assert!(m.daemon.log().contains("31 deletions are held"), "the log does not say so");
            // For one target, then for all.
            m.daemon.does(&["resume", "--target", "t1", "--accept-deletes"]);
            m.daemon.flush(Some("t1"));
            assert!(!m.dst().has("big") && m.targets[1].dir.has("big"));
            m.daemon.does(&["resume", "--accept-source"]);
            m.check();
            // Once is once.
            m.out.rename_to("aside/big", &m.src, "big");
            m.check();
            at_once(&m, || m.src.remove("big"));
            withheld(&m, 31);
            m.out.mkdir("fresh");
            m.out.rename_to("fresh", &m.src, "big");
            m.daemon.does(&["retry"]);
            withheld(&m, 30);
            m.daemon.does(&["resume", "--accept-deletes"]);
            m.check();
            Ok(())
        }),
        // Accepted while the dry run that would hold them is under way.
        case("accepted_before_they_are_held", &[Fs::Tmpfs], |fs| {
            let dir = work_dir();
            let rsync = program(&dir.path().join("slow-when-dry"), SLOW_WHEN_DRY);
            let m = Setup::guarded(fs).rsync(rsync).key("max_delete", 10).before(twenty).start()?;
            m.check();
            let (gate, waits) = (dir.path().join("gate"), dir.path().join("waits"));
            std::fs::write(&gate, b"").expect("a file can be made");
            empty_some(&m);
            let counting = || waits.exists().then_some(());
            assert!(poll_until(WAIT, counting).is_some(), "nothing is counted before it is deleted");
            m.daemon.does(&["resume", "--accept-deletes"]);
            std::fs::remove_file(&gate).expect("it can be removed");
            m.check();
            assert!(!m.dst().has("d0"), "accepted deletions are held");
            Ok(())
        }),
        case("max_delete_lets_go_what_came_back", &[Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs).key("max_delete", 10).before(twenty).start()?;
            m.check();
            at_once(&m, || (0..12).for_each(|n| m.src.rename_to(format!("d{n}"), &m.out, format!("d{n}"))));
            status(&m, |t| t.held_deletes > 10);
            (0..12).for_each(|n| m.out.rename_to(format!("d{n}"), &m.src, format!("d{n}")));
            m.daemon.does(&["retry"]);
            status(&m, |t| t.state == "idle" && t.held_deletes == 0);
            m.check();
            Ok(())
        }),
        case("max_delete_judges_again_what_a_wider_run_has_covered", &[Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs).key("max_delete", 10).before(twenty).start()?;
            m.check();
            at_once(&m, || (0..12).for_each(|n| m.src.rename_to(format!("d{n}"), &m.out, format!("d{n}"))));
            status(&m, |t| t.held_deletes > 10);
            // Six entries are left to delete, and nobody asks.
            (0..9).for_each(|n| m.out.rename_to(format!("d{n}"), &m.src, format!("d{n}")));
            status(&m, |t| t.state == "idle" && t.held_deletes == 0);
            m.check();
            assert!(!m.dst().has("d9"));
            Ok(())
        }),
        case("max_delete_of_a_comparison", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let mut m = Setup::guarded(fs).key("max_delete", "20%").before(twenty).start()?;
            m.check();
            m.daemon.terminate();
            (0..10).for_each(|n| m.src.remove(format!("d{n}")));
            m.src.write("d15/new", b"is sent all the same");
            m.src.write("d16/f", b"so is this");
            let state = m.scratch("state");
            if state.exists() {
                std::fs::remove_dir_all(state).expect("the state can be removed");
            }
            m.restart(Until::Watching);
            let status = withheld(&m, 20);
            assert!(status.held_reason.contains("max_delete = 20%"), "{status:?}");
            arrives(&m, "d15/new");
            assert_eq!(m.dst().read("d16/f").as_deref(), Some(&b"so is this"[..]));
            (0..20).for_each(|n| assert!(m.dst().has(format!("d{n}/f")), "a held comparison has deleted"));
            // Live changes go on beside it, a deletion within the bound too.
            m.src.remove("d17/f");
            let gone = || (!m.dst().has("d17/f")).then_some(());
            assert!(poll_until(WAIT, gone).is_some(), "a deletion within the bound is held up");
            m.daemon.does(&["resume", "--accept-deletes"]);
            m.check();
            Ok(())
        }),
        case("max_delete_as_a_share_without_a_comparison", &[Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs).key("max_delete", "50%").initial("none").before(twenty);
            let m = m.start()?;
            m.src.write("d0/now", b"the tree is not on the target yet");
            m.daemon.flush(None);
            // The target holds next to nothing of the tree: what is deleted is a small part of it.
            at_once(&m, || m.src.remove("d0"));
            m.daemon.flush(None);
            assert!(!m.dst().has("d0"));
            assert_eq!(m.daemon.target_status("t1").held_deletes, 0);
            Ok(())
        }),
        case("max_delete_when_a_directory_becomes_a_file", &[Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs).key("max_delete", 10).before(twenty).start()?;
            m.src.mkdir("big");
            (0..30).for_each(|n| m.src.write(format!("big/{n}"), b"x"));
            m.check();
            at_once(&m, || {
                m.src.remove("big");
                m.src.write("big", b"a file now");
            });
            status(&m, |t| t.held_deletes > 10 && t.state == "held");
            assert_eq!(count(&m.dst().at("big")).expect("it is there"), 30, "a held directory lost something");
            m.daemon.does(&["resume", "--accept-deletes"]);
            m.check();
            Ok(())
        }),
        case("max_delete_of_one_target", &[Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs).targets(&[To::Module, To::Local]).target_key("max_delete", 5).before(twenty).start()?;
            m.check();
            at_once(&m, || (0..8).for_each(|n| m.src.rename_to(format!("d{n}"), &m.out, format!("d{n}"))));
            m.daemon.flush(Some("t2"));
            assert!(!m.targets[1].dir.has("d0"), "the other target has a bound of its own");
            status(&m, |t| t.held_deletes > 5);
            m.daemon.does(&["resume", "--accept-deletes"]);
            m.check();
            Ok(())
        }),
    ]
}

/// Forty entries in twenty directories.
fn twenty(src: &Dir) {
    for n in 0..20 {
        src.mkdirs(format!("d{n}"));
        src.write(format!("d{n}/f"), format!("{n}"));
    }
}

/// Moves everything that [`twenty`] made out of the source, in as short a time as it takes.
fn empty(m: &Mirror) {
    at_once(m, || move_out(m));
}

/// Stays in each dry run while there is a file `gate` beside it.
const SLOW_WHEN_DRY: &str = r#"
case " $* " in *" -n "*) while [ -e "${0%/*}/gate" ]; do : >"${0%/*}/waits"; sleep 0.02; done ;; esac
exec rsync "$@"
"#;

/// More than a bound of 10, less than nearly everything.
fn empty_some(m: &Mirror) {
    at_once(m, || (0..12).for_each(|n| m.src.remove(format!("d{n}"))));
}

/// So fast that fansync sees nothing of it before it is done.
fn at_once(m: &Mirror, act: impl FnOnce()) {
    m.daemon.freeze();
    act();
    m.daemon.thaw();
}

fn move_out(m: &Mirror) {
    for n in 0..20 {
        if m.out.has(format!("d{n}")) {
            m.out.remove(format!("d{n}"));
        }
        m.src.rename_to(format!("d{n}"), &m.out, format!("d{n}"));
    }
}

#[track_caller]
fn keeps_twenty(m: &Mirror) {
    for target in &m.targets {
        (0..20).for_each(|n| assert!(target.dir.has(format!("d{n}/f")), "d{n}/f is gone from {}", target.name));
    }
}

fn above(m: &Mirror) -> Dir {
    Dir::new(m.src.root().parent().expect("the source has one"))
}

#[track_caller]
fn until_held(daemon: &Daemon, words: &str) -> String {
    let held = poll_until(WAIT, || {
        let held = daemon.try_status()?.mirrors.remove(0).held;
        (!held.is_empty() && held.contains(words)).then_some(held)
    });
    held.unwrap_or_else(|| panic!("the mirror is not held for {words:?}\n{}", daemon.report()))
}

/// Waits until a place is held for a reason with `words`, and the mirror is not; every target says so as well, and so does the log.
#[track_caller]
pub(crate) fn place_held(m: &Mirror, path: &str, words: &str) {
    let held = poll_until(WAIT, || {
        let mirror = m.daemon.try_status()?.mirrors.remove(0);
        let place = mirror.apart.iter().any(|p| p.held && p.path == path && p.why.contains(words));
        let told = |t: &TargetStatus| t.state == "held" && t.reason.contains(words);
        (mirror.held.is_empty() && place && mirror.targets.iter().all(told)).then_some(())
    });
    assert!(held.is_some(), "{path} is not held for {words:?}\n{}", m.daemon.report());
    assert!(m.daemon.log().contains("fansync resume --accept-source"), "the log does not say what to do");
}

/// Waits until the mirror is held for a reason with `words`; every target says so as well, and so does the log.
#[track_caller]
fn held(m: &Mirror, words: &str) {
    until_held(&m.daemon, words);
    let status = m.daemon.status();
    for target in &status.mirrors[0].targets {
        assert!(target.state == "held" && target.reason.contains(words), "{target:?}");
    }
    // A thread of its own writes the log.
    let logged = || m.daemon.log().contains("fansync resume --accept-source").then_some(());
    assert!(poll_until(WAIT, logged).is_some(), "the log does not say what to do");
}

#[track_caller]
fn accept(m: &Mirror) {
    m.daemon.does(&["resume", "--accept-source"]);
}

#[track_caller]
fn status(m: &Mirror, wanted: impl Fn(&TargetStatus) -> bool) -> TargetStatus {
    let mut last = None;
    let found = poll_until(WAIT, || {
        let now = m.daemon.try_status()?.mirrors.remove(0).targets.remove(0);
        if wanted(&now) {
            return Some(now);
        }
        last = Some(now);
        None
    });
    found.unwrap_or_else(|| panic!("the status never was as expected; it says {last:?}"))
}

#[track_caller]
fn withheld(m: &Mirror, deletes: u64) -> TargetStatus {
    status(m, |t| t.held_deletes == deletes && t.state == "held")
}

#[track_caller]
fn arrives(m: &Mirror, path: &str) {
    assert!(poll_until(WAIT, || m.dst().has(path).then_some(())).is_some(), "{path} does not arrive");
}

fn started(work: &std::path::Path, source: &std::path::Path) -> (Daemon, Dir) {
    let target = Dir::new(work.join("t"));
    target.mkdir(".");
    let (daemon, target) = started_before(work, source, target);
    daemon.flush(None);
    (daemon, target)
}

fn started_before(work: &std::path::Path, source: &std::path::Path, target: Dir) -> (Daemon, Dir) {
    let table = TargetTable { name: "t1".into(), url: target.root().display().to_string(), ..TargetTable::default() };
    let mirror = MirrorTable { name: "mirror".into(), source: source.into(), target: vec![table], ..MirrorTable::default() };
    (Daemon::run(work, &Config::new(work, vec![mirror]), Until::Watching), target)
}
