//! A source that is there, and empty.

use super::{accept, at_once, held, keeps_twenty, started_before, twenty, until_held};
use crate::fixture::daemon::{Until, fansync};
use crate::fixture::fs::{Fs, Ground, Mount, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::{Dir, Times, count, differences};
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("source_emptied_at_one_blow", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = Setup::guarded(fs).targets(&[To::Module, To::Local]).before(twenty).start()?;
            m.check();
            empty(&m);
            held(&m, "lost nearly everything at one blow");
            keeps_twenty(&m);
            let shown = m.daemon.client(&["flush", "--timeout", "2s"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("at one blow"), "{}: {}", shown.code, shown.stderr);
            let shown = m.daemon.does(&["resume", "--accept-source"]);
            assert!(shown.contains("the source is accepted as it is"), "{shown}");
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
            // finds it. A batch that leaves before may carry what the first events name, so that
            // lies in none of the twenty.
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
            disk.write("d1/new", b"seen");
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
    ]
}

/// Moves everything that [`twenty`] made out of the source, in as short a time as it takes.
fn empty(m: &Mirror) {
    at_once(m, || move_out(m));
}

fn move_out(m: &Mirror) {
    for n in 0..20 {
        if m.out.has(format!("d{n}")) {
            m.out.remove(format!("d{n}"));
        }
        m.src.rename_to(format!("d{n}"), &m.out, format!("d{n}"));
    }
}
