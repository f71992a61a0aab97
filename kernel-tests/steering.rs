//! Pause, resume, retry, and what the status calls the states between.

use std::process::Command;

use crate::fixture::daemon::Until;
use crate::fixture::fs::{Fs, needs};
use crate::fixture::proc::{must, poll_until};
use crate::fixture::tree::{Times, differences};
use crate::fixture::{Case, Setup, To, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("pause_stops_sending_and_goes_on_collecting", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = Setup::new(fs).targets(&[To::Module, To::Local]).start()?;
            m.src.write("before", b"x");
            m.check();
            assert!(m.daemon.does(&["pause", "--target", "t1"]).contains("mirror/t1: paused"));
            m.src.write("during", b"x");
            m.src.remove("before");
            m.daemon.flush(Some("t2"));
            let status = m.daemon.target_status("t1");
            assert!(status.state == "paused" && status.reason.contains("fansync resume"), "{status:?}");
            assert!(status.paused_unix > 1e9 && status.pending == 2 && status.standby == 0, "{status:?}");
            assert!(m.dst().has("before") && !m.dst().has("during"), "a paused target has changed");
            assert_eq!(m.daemon.target_status("t2").state, "idle", "no command paused the other target");
            assert!(m.daemon.does(&["resume"]).contains("mirror/t1: resumed, 2 paths"));
            m.check();
            assert_eq!(m.daemon.target_status("t1").paused_unix, 0.0);
            Ok(())
        }),
        case("runs_in_flight_end_when_paused", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).target_key("args", vec!["--bwlimit=2m".to_string()]).start()?;
            m.src.write("big", vec![7u8; 2 << 20]);
            let flying = poll_until(WAIT, || (m.daemon.target_status("t1").in_flight > 0).then_some(()));
            assert!(flying.is_some(), "nothing is on its way");
            m.daemon.does(&["pause"]);
            m.src.write("later", b"x");
            let ended = poll_until(WAIT, || Some(m.daemon.target_status("t1")).filter(|t| t.in_flight == 0));
            let ended = ended.expect("what was on its way ends");
            assert!(m.dst().has("big") && !m.dst().has("later") && ended.bad_runs.is_empty(), "{ended:?}");
            m.daemon.does(&["resume"]);
            m.check();
            Ok(())
        }),
        case("flush_while_paused_ends_at_once_and_says_why", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).start()?;
            m.daemon.does(&["pause"]);
            // With nothing to send, everything is on the target.
            m.daemon.flush(None);
            m.src.write("f", b"x");
            // Longer than the client is waited for.
            let shown = m.daemon.client(&["flush", "--timeout", "1h"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("paused since"), "{}: {}", shown.code, shown.stderr);
            Ok(())
        }),
        case("pause_outlives_the_daemon_and_is_reported", &[Fs::Tmpfs], |fs| {
            let mut m = Setup::new(fs).targets(&[To::Module, To::Local]).start()?;
            m.src.write("f", b"1");
            m.check();
            m.daemon.does(&["pause", "--mirror", "mirror", "--target", "t1"]);
            let since = m.daemon.target_status("t1").paused_unix;
            m.src.write("f", b"22");
            m.daemon.terminate();
            m.restart(Until::Watching);
            m.daemon.flush(Some("t2"));
            let status = m.daemon.target_status("t1");
            assert!(status.state == "paused" && status.paused_unix == since, "{status:?}, paused at {since}");
            assert!(m.daemon.log().contains("paused since before this start"), "the start does not tell of a pause");
            assert_eq!(m.dst().read("f").as_deref(), Some(&b"1"[..]), "a paused target has changed");
            // Killed, it is no different.
            m.daemon.kill();
            m.restart(Until::Watching);
            assert_eq!(m.daemon.target_status("t1").state, "paused");
            m.daemon.does(&["resume"]);
            m.check();
            m.daemon.terminate();
            m.restart(Until::Reconciled);
            m.check();
            Ok(())
        }),
        case("a_damaged_list_of_pauses_pauses_all", &[Fs::Tmpfs], |fs| {
            let mut m = Setup::new(fs).start()?;
            m.daemon.does(&["pause"]);
            m.daemon.terminate();
            std::fs::write(m.scratch("state/mirror/paused"), b"{").expect("the file can be written");
            m.restart(Until::Watching);
            assert_eq!(m.daemon.target_status("t1").state, "paused");
            m.src.write("f", b"x");
            m.daemon.does(&["resume"]);
            m.check();
            Ok(())
        }),
        case("retry_reaches_a_target_in_its_pause", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).target_key("retry_min", "1h").target_key("retry_max", "1h");
            let mut m = m.targets(&[To::Module, To::Local]).start()?;
            m.rsyncd.as_mut().expect("t1 is a module").stop();
            m.src.write("f", b"x");
            m.daemon.target_status_until("t1", "that the target is down", |t| t.state == "down" && t.retry_seconds > 600.0);
            m.rsyncd.as_mut().expect("t1 is a module").restart();
            assert!(m.daemon.does(&["retry"]).contains("mirror/t1: trying again now"));
            m.check();
            Ok(())
        }),
        case("retry_acts_on_failed_paths", &[Fs::Tmpfs], |fs| {
            needs("chattr")?;
            let m = Setup::new(fs).target_key("retry_min", "1h").target_key("retry_max", "1h").start()?;
            m.src.write("bad", b"old");
            m.src.write("good", b"old");
            m.check();
            must(Command::new("chattr").arg("+i").arg(m.dst().at("bad")));
            m.src.write("bad", b"new");
            m.src.write("good", b"new");
            let failing = m.daemon.target_status_until("t1", "that it fails", |t| t.state == "failing");
            assert!(failing.reason.contains("1 path failed") && failing.reason.contains("bad"), "{failing:?}");
            assert!(failing.failures[0].reason.contains("not permitted"), "{failing:?}");
            assert!(failing.failures[0].retry_seconds > 600.0, "{failing:?}");
            assert_eq!(m.dst().read("good").as_deref(), Some(&b"new"[..]));
            let shown = m.daemon.client(&["flush", "--timeout", "60s"], WAIT);
            assert!(
                shown.code == 1 && shown.stderr.contains("1 path failed, the first: bad"),
                "{}: {}",
                shown.code,
                shown.stderr
            );
            must(Command::new("chattr").arg("-i").arg(m.dst().at("bad")));
            assert!(m.daemon.does(&["retry", "--target", "t1"]).contains("trying 1 failed path"));
            m.daemon.target_status_until("t1", "that it is idle", |t| t.state == "idle");
            let found = differences(m.src.root(), m.dst().root(), Times::All, &|_| false);
            assert!(found.is_empty(), "{found}");
            Ok(())
        }),
        case("unknown_names_are_refused", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).start()?;
            for command in ["pause", "resume", "retry"] {
                let shown = m.daemon.client(&[command, "--target", "nobody"], WAIT);
                assert!(
                    shown.code == 64 && shown.stderr.contains("no target */nobody; there are: mirror/t1"),
                    "{}",
                    shown.stderr
                );
            }
            assert_eq!(m.daemon.target_status("t1").state, "idle");
            Ok(())
        }),
    ]
}
