//! A target that no run of the mirror has filled: what only it has is not deleted before an administrator
//! says so.

use nix::sys::signal::{Signal, kill};

use crate::fixture::daemon::{TargetStatus, Until, fansync};
use crate::fixture::fs::{Fs, Ground, work_dir};
use crate::fixture::tree::{Dir, count};
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};
use crate::outages::program;
use crate::words::TALKS;

pub fn cases() -> Vec<Case> {
    vec![
        case("first_comparison_spares_what_it_did_not_make", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Module, To::Local]).before(ten).before_on_target(home).start()?;
            let held = |t: &TargetStatus| t.state == "held" && t.held_deletes == 149;
            let status = m.daemon.target_status_until("t1", "held", held);
            assert!(
                status.held_reason.contains("first_max_delete") && status.held_reason.contains("--dry-run"),
                "{}",
                status.held_reason
            );
            assert!(m.dst().has("f9") && m.dst().has("user/149"), "the rest was not copied, or what was there is gone");
            // Everything else goes on, deletions that were seen too, and a second target does not
            // wait.
            m.src.write("new", b"x");
            m.src.remove("f0");
            m.src.mkdir("user");
            m.src.write("user/own", b"x");
            m.daemon.flush(Some("t2"));
            let there = || (m.dst().has("user/own") && !m.dst().has("f0")).then_some(());
            assert!(crate::fixture::proc::poll_until(WAIT, there).is_some(), "what changes does not arrive");
            assert!(m.dst().has("user/149"));
            compare_all(&m);
            let shown = m.daemon.client(&["flush", "--timeout", "5s"], WAIT);
            assert!(shown.code == 1 && m.dst().has("user/149"), "{}: {}", shown.code, shown.stderr);
            let shown = m.daemon.client(&["resume", "--accept-deletes"], WAIT);
            assert!(shown.code == 0, "{}", shown.stderr);
            m.check();
            Ok(())
        }),
        case("what_a_dry_run_proves_spares_what_the_run_spared", &[Fs::Tmpfs], |fs| {
            let dir = work_dir();
            let rsync = program(&dir.path().join("talks"), TALKS);
            let m = Setup::new(fs).initial("none").rsync(rsync).before_on_target(home).while_reconciling().start()?;
            ten(&m.src);
            m.daemon.flush(None);
            compare_all(&m);
            m.daemon.target_status_until("t1", "at rest after its comparison", |t| {
                !t.unknown_words.is_empty() && t.state == "idle" && t.reconcile.is_none()
            });
            m.src.write("new", b"x");
            m.daemon.flush(None);
            assert!(m.dst().has("new") && m.dst().has("f9") && m.dst().has("user/149"), "what only the target had is gone");
            Ok(())
        }),
        case("a_target_that_was_filled_is_not_asked_about_again", &[Fs::Ext4], |fs| {
            let mut m = Setup::new(fs).before(ten).start()?;
            m.check();
            m.daemon.terminate();
            m.restart(Until::Watching);
            home(m.dst());
            compare_all(&m);
            m.check();
            Ok(())
        }),
        case("a_few_deletions_of_a_first_comparison_are_carried_out", &[Fs::Tmpfs], |fs| {
            for (module, filter) in [(To::Module, false), (To::Local, true)] {
                let mut setup =
                    Setup::new(fs).targets(&[module]).before(|src| (0..300).for_each(|n| src.write(format!("{n}"), b"x")));
                setup = setup.before_on_target(|dst| {
                    (0..300).for_each(|n| dst.write(format!("{n}"), b"old"));
                    (0..120).for_each(|n| dst.write(format!("gone{n}"), b"x"));
                });
                if filter {
                    setup = setup.key("exclude_regex", vec!["never-there$"]);
                }
                setup.start()?.check();
            }
            Ok(())
        }),
        case("once_with_a_target_it_did_not_fill", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            ten(&ground.src);
            let target = Dir::new(work.path().join("t"));
            target.mkdir(".");
            home(&target);
            let (source, url) = (ground.src.root().display().to_string(), target.root().display().to_string());
            let before = count(target.root()).expect("it can be read");
            let ran = fansync(&["mirror", &source, &url, "--once"], WAIT);
            assert!(ran.code == 78 && ran.stderr.contains("149 deletions are held"), "{}: {}", ran.code, ran.stderr);
            assert_eq!(count(target.root()).expect("it can be read"), before + 10, "copied, and nothing deleted");
            let ran = fansync(&["mirror", &source, &url, "--once", "--first-max-delete", "100%"], WAIT);
            assert!(ran.code == 0 && !target.has("user"), "{}: {}", ran.code, ran.stderr);
            Ok(())
        }),
        case("initial_none_spares_what_only_the_target_has", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).initial("none").before(ten).before_on_target(|dst| {
                dst.mkdirs("d/sub");
                dst.write("foreign", b"x");
                dst.write("d/sub/foreign", b"x");
            });
            let m = m.start()?;
            m.src.mkdir("d");
            m.src.write("d/f", b"x");
            // A level that is compared, as many new files make it, and the whole tree.
            (0..100).for_each(|n| m.src.write(format!("d/{n}"), b"x"));
            m.daemon.flush(None);
            compare_all(&m);
            m.daemon.flush(None);
            assert!(m.dst().has("f0") && m.dst().has("d/99"), "it was compared");
            assert!(m.dst().has("foreign") && m.dst().has("d/sub/foreign"), "what only the target had is gone");
            // What goes from the source goes.
            m.src.remove("f0");
            std::fs::remove_dir_all(m.src.at("d")).expect("it is there");
            m.daemon.flush(None);
            assert!(!m.dst().has("f0") && !m.dst().has("d") && m.dst().has("foreign"));
            Ok(())
        }),
    ]
}

fn ten(src: &Dir) {
    (0..10).for_each(|n| src.write(format!("f{n}"), b"x"));
}

/// A home directory: 150 entries.
fn home(dst: &Dir) {
    dst.mkdirs("user");
    (1..150).for_each(|n| dst.write(format!("user/{n}"), b"precious"));
}

fn compare_all(m: &Mirror) {
    kill(m.daemon.pid(), Signal::SIGUSR1).expect("the daemon runs");
}
