//! `max_delete`: deletions that are too many.

use super::{arrives, at_once, twenty};
use crate::fixture::daemon::{TargetStatus, Until};
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::count;
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};
use crate::outages::program;

pub fn cases() -> Vec<Case> {
    vec![
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
            let shown = m.daemon.client(&["flush", "--timeout", "20s"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("31 deletions are held"), "{}: {}", shown.code, shown.stderr);
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
            // Six entries are left to delete, and no command came.
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
        case("max_delete_as_a_share_counts_what_is_pending_once", &[Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs).key("max_delete", "50%").initial("none").before(twenty).before_on_target(twenty);
            let m = m.start()?;
            m.src.mkdir("g");
            // The source is counted for a deletion, with 60 files that are not on the target yet.
            at_once(&m, || {
                m.src.remove("d0");
                (0..60).for_each(|n| m.src.write(format!("g/{n}"), b"x"));
            });
            m.check();
            // 54 of some 100.
            at_once(&m, || {
                (0..30).for_each(|n| m.src.remove(format!("g/{n}")));
                (1..13).for_each(|n| m.src.rename_to(format!("d{n}"), &m.out, format!("d{n}")));
            });
            status(&m, |t| t.held_deletes >= 54);
            m.daemon.does(&["resume", "--accept-deletes"]);
            m.check();
            Ok(())
        }),
        case("max_delete_as_a_share_of_the_tree_as_it_is_now", &[Fs::Tmpfs], |fs| {
            let m = Setup::guarded(fs).key("max_delete", "50%").targets(&[To::Module, To::Local]).before(twenty).start()?;
            m.check();
            // It grows.
            m.src.mkdir("g");
            (0..60).for_each(|n| m.src.write(format!("g/{n}"), b"x"));
            m.check();
            // 30 of some 100, then 30 of some 70.
            for some in [0..30, 30..60] {
                at_once(&m, || some.for_each(|n| m.src.remove(format!("g/{n}"))));
                m.check();
            }
            // It has shrunk: 24 of some 40.
            at_once(&m, || (0..12).for_each(|n| m.src.rename_to(format!("d{n}"), &m.out, format!("d{n}"))));
            for target in ["t1", "t2"] {
                let held = || (m.daemon.target_status(target).held_deletes >= 24).then_some(());
                assert!(poll_until(WAIT, held).is_some(), "{target} holds nothing\n{}", m.daemon.report());
            }
            assert!(m.targets.iter().all(|target| target.dir.has("d0/f") && target.dir.has("d11/f")));
            m.daemon.does(&["resume", "--accept-deletes"]);
            m.check();
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

/// Stays in each dry run while there is a file `gate` beside it.
const SLOW_WHEN_DRY: &str = r#"
case " $* " in *" -n "*) while [ -e "${0%/*}/gate" ]; do : >"${0%/*}/waits"; sleep 0.02; done ;; esac
exec rsync "$@"
"#;

/// More than a bound of 10, less than nearly everything.
fn empty_some(m: &Mirror) {
    at_once(m, || (0..12).for_each(|n| m.src.remove(format!("d{n}"))));
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
