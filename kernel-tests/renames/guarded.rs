//! Renames where deletions are guarded, where a server refuses them, and where they are switched
//! off.

use crate::fixture::daemon::TargetStatus;
use crate::fixture::fs::Fs;
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};
use crate::outages::program;

const MIB: usize = 1 << 20;

/// rsync, but before an old name is removed from `d` another program puts a file in the place of that.
const FILE_IN_BETWEEN: &str = r#"
for last in "$@"; do :; done
case "$last" in */t1/d/.) rm -rf "${last%/.}"; echo x >"${last%/.}";; esac
exec rsync "$@""#;

fn fill(m: &Mirror, dir: &str) {
    m.src.mkdirs(format!("{dir}/sub"));
    (0..20).for_each(|n| m.src.write(format!("{dir}/sub/f{n}"), vec![n; MIB / 8]));
    m.check();
}

fn first(m: &Mirror) -> TargetStatus {
    m.daemon.target_status("t1")
}

/// So fast that fansync sees nothing of it before it is done.
fn at_once(m: &Mirror, act: impl FnOnce()) {
    m.daemon.freeze();
    act();
    m.daemon.thaw();
}

pub fn cases() -> Vec<Case> {
    vec![
        case("everything_at_the_top_is_no_emptied_source", &[Fs::Ext4], |fs| {
            let m = Setup::guarded(fs).targets(&[To::Module, To::Local]).start()?;
            (0..20).for_each(|n| fill_small(&m, n));
            fill(&m, "only");
            m.src.mkdir("aside");
            m.check();
            at_once(&m, || {
                m.src.rename("only", "aside/only");
                (0..20).for_each(|n| m.src.rename(format!("d{n}"), format!("aside/d{n}")));
            });
            m.check();
            assert!(m.daemon.status().mirrors[0].held.is_empty());
            assert_eq!((first(&m).renames, first(&m).renames_sent_whole), (21, 0));
            Ok(())
        }),
        case("renamed_then_removed_at_once_is_held", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            // All there is gets another name and goes, at any moment of the runs that carry the
            // rename.
            for runs in 0..3 {
                let m = Setup::guarded(fs).start()?;
                fill(&m, "only");
                let before = first(&m).runs;
                m.src.rename("only", "next");
                // With 0 nothing has left yet; then so many runs have ended in between.
                assert!(poll_until(WAIT, || (first(&m).runs >= before + runs).then_some(())).is_some());
                m.src.rename_to("next", &m.out, "next");
                let held = poll_until(WAIT, || (!m.daemon.try_status()?.mirrors[0].held.is_empty()).then_some(()));
                assert!(held.is_some(), "the mirror is not held\n{}", m.daemon.report());
                let there = |dir: &str| (0..20).all(|n| m.dst().has(format!("{dir}/sub/f{n}")));
                assert!(there("only") || there("next"), "files are gone from the target");
                m.daemon.does(&["resume", "--accept-source"]);
                m.check();
            }
            Ok(())
        }),
        case("max_delete_counts_the_old_name", &[Fs::Ext4], |fs| {
            let m = Setup::guarded(fs).key("max_delete", 10).start()?;
            fill(&m, "a");
            m.src.rename("a", "b");
            let held = poll_until(WAIT, || (first(&m).held_deletes > 10).then_some(()));
            assert!(held.is_some() && m.dst().has("a/sub/f0"), "{}", m.daemon.report());
            m.daemon.does(&["resume", "--accept-deletes"]);
            m.check();
            assert_eq!((first(&m).renames, first(&m).renames_sent_whole), (0, 0));
            Ok(())
        }),
        case("paused_target_keeps_the_old_name", &[Fs::Ext4], |fs| {
            let m = Setup::guarded(fs).targets(&[To::Module, To::Local]).start()?;
            fill(&m, "a");
            m.daemon.does(&["pause", "--target", "t1"]);
            m.src.rename("a", "b");
            m.daemon.flush(Some("t2"));
            assert!(m.dst().has("a/sub/f0") && !m.dst().has("b"));
            assert!(!m.targets[1].dir.has("a") && m.targets[1].dir.has("b/sub/f0"));
            m.daemon.does(&["resume"]);
            m.check();
            assert_eq!((first(&m).renames, first(&m).renames_sent_whole), (1, 0));
            Ok(())
        }),
        case("old_name_below_what_is_no_directory_any_more", &[Fs::Ext4], |fs| {
            let dir = tempfile::tempdir().expect("a directory");
            let rsync = program(&dir.path().join("in-between"), FILE_IN_BETWEEN);
            // Without a standby process, each old name is removed by a run that begins in its
            // directory.
            let m = Setup::new(fs).targets(&[To::Local]).rsync(rsync).target_key("standby", 0).start()?;
            fill(&m, "d/a");
            m.src.rename("d/a", "c");
            m.check();
            assert_eq!(first(&m).renames, 1);
            Ok(())
        }),
        case("server_refuses_links", &[Fs::Ext4], |fs| {
            let mut m = Setup::new(fs).module("refuse options = link-dest fuzzy").target_key("retry_min", "100ms").start()?;
            fill(&m, "a");
            let names = ["a", "b", "c", "d", "e"];
            for pair in names.windows(2) {
                m.src.rename(pair[0], pair[1]);
                m.check();
            }
            // After three it is not asked for a fourth.
            assert_eq!((first(&m).renames, first(&m).renames_sent_whole), (0, 3));
            let shown = m.daemon.log().matches("renames are sent as new content from now on").count();
            assert_eq!(shown, 1, "{}", m.daemon.report());
            // It may be another one after it was away.
            let rsyncd = m.rsyncd.as_mut().expect("a module");
            rsyncd.stop();
            rsyncd.module("t1", "");
            m.src.write("noticed", b"x");
            m.daemon.target_status_until("t1", "is down", |s| s.state == "down");
            m.rsyncd.as_mut().expect("a module").restart();
            m.check();
            m.src.rename("e", "f");
            m.check();
            assert_eq!((first(&m).renames, first(&m).renames_sent_whole), (1, 3));
            Ok(())
        }),
        case("switched_off", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).key("send_renames", false).start()?;
            fill(&m, "a");
            let before = first(&m).bytes_sent;
            m.src.rename("a", "b");
            m.check();
            let now = first(&m);
            assert_eq!((now.renames, now.renames_sent_whole), (0, 0));
            assert!(now.bytes_sent - before > 20 * MIB as u64 / 8, "{} bytes", now.bytes_sent - before);
            Ok(())
        }),
    ]
}

fn fill_small(m: &Mirror, n: u8) {
    m.src.mkdir(format!("d{n}"));
    m.src.write(format!("d{n}/f"), [n]);
}
