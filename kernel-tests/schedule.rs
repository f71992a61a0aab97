//! `full_every` and `full_exclude`: the periodic comparison, and its own filter. `delay`: the least
//! wait of a change. `full_at` and `verify_at`.

use crate::expressions::reconcile;
use crate::fixture::fs::Fs;
use crate::fixture::proc::{poll_until, zone_where_it_is};
use crate::fixture::{Case, Setup, To, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        delay(),
        delay_ends(),
        times_of_day(),
        case("the_schedule_has_its_own_filter", &[Fs::Tmpfs], |fs| {
            let m =
                Setup::new(fs).key("full_every", "400ms").key("full_exclude", vec![toml::Value::from("*.php")]).before(|src| {
                    src.write("a.php", b"live");
                    src.write("b", b"live");
                });
            let m = m.start()?;
            m.check();
            // Changed behind the daemon's back.
            m.dst().write("a.php", b"other");
            m.dst().write("b", b"other");
            m.dst().write("extra.php", b"extra");
            m.dst().write("extra", b"extra");
            let repaired = || (m.dst().read("b").as_deref() == Some(b"live") && !m.dst().has("extra")).then_some(());
            poll_until(WAIT, repaired).expect("the periodic comparison repairs what it looks at");
            assert_eq!(
                m.dst().read("a.php").as_deref(),
                Some(&b"other"[..]),
                "the periodic comparison did not leave *.php alone"
            );
            assert!(m.dst().has("extra.php"));
            m.src.append("a.php", b", again");
            m.daemon.flush(None);
            assert_eq!(m.src.read("a.php"), m.dst().read("a.php"), "live changes are not the schedule's");
            m.dst().write("a.php", b"other");
            reconcile(&m);
            let whole = || (m.src.read("a.php") == m.dst().read("a.php") && !m.dst().has("extra.php")).then_some(());
            poll_until(WAIT, whole).expect("a comparison that was asked for is of everything");
            Ok(())
        }),
    ]
}

/// Changes of every kind wait, a flush does not; each target has a wait of its own.
fn delay() -> Case {
    case("changes_wait_for_the_delay_and_a_flush_does_not", &[Fs::Tmpfs], |fs| {
        let m = Setup::new(fs).targets(&[To::Local, To::Module]).target_key("delay", "1h").before(|src| {
            src.write("old", b"1");
            src.write("large", vec![7; 300 << 10]);
            src.write("goes", b"1");
        });
        let m = m.start()?;
        m.check();
        let status = || m.daemon.status().mirrors.remove(0).targets;
        m.src.write("new", b"1");
        m.src.rename("large", "renamed");
        m.src.remove("goes");
        m.daemon.flush(Some("t2"));
        assert!(m.targets[1].dir.has("new") && m.targets[1].dir.has("renamed"), "the other target waits for nothing");
        let (first, second) = (&status()[0], &status()[1]);
        assert!(first.pending > 0 && first.leaves_seconds > 3000.0 && second.pending == 0, "{first:?}");
        assert_eq!((first.lag_seconds, first.state.as_str()), (0.0, "syncing"), "nothing is late");
        let kept = &m.targets[0].dir;
        assert!(!kept.has("new") && !kept.has("renamed") && kept.has("goes"), "something left before its time");
        let shown = m.daemon.does(&["status", "--exit-code"]);
        assert!(shown.starts_with("OK: 2 of 2 targets") && shown.contains("beyond the delay of 1h"), "{shown}");
        let shown = m.daemon.does(&["explain", &m.src.at("new").display().to_string()]);
        assert!(shown.contains("(delay)"), "{shown}");
        m.check();
        m.src.write("old", b"2");
        let waits = || (status()[0].leaves_seconds > 3000.0).then_some(());
        poll_until(WAIT, waits).expect("what comes after a flush waits again");
        reconcile(&m);
        let whole = || (kept.read("old").as_deref() == Some(b"2")).then_some(());
        poll_until(WAIT, whole).expect("a comparison of the whole tree takes along what waits");
        Ok(())
    })
}

fn delay_ends() -> Case {
    case("changes_leave_when_the_delay_is_over", &[Fs::Tmpfs], |fs| {
        let m = Setup::new(fs).batch("delay", "1s").start()?;
        m.check();
        let before = m.daemon.status().mirrors.remove(0).targets.remove(0);
        for n in 0..20 {
            m.src.write(format!("f{n}"), b"1");
        }
        let idle =
            || Some(m.daemon.status().mirrors.remove(0).targets.remove(0)).filter(|t| t.files_sent >= before.files_sent + 20);
        let after = poll_until(WAIT, idle).expect("they leave by themselves");
        assert_eq!(after.standby, 0, "there is a standby process");
        assert!(after.runs <= before.runs + 2, "they leave together: {after:?}");
        m.check();
        Ok(())
    })
}

/// A zone in which it is shortly before three: each of the next minutes is a time of the schedule,
/// so that however long the start takes, one comes within a minute after it.
fn times_of_day() -> Case {
    case("comparisons_at_times_of_day", &[Fs::Tmpfs], |fs| {
        let times: Vec<toml::Value> = (0..10).map(|minute| format!("03:{minute:02}").into()).collect();
        let zone = zone_where_it_is(2, 59, 50);
        let m = Setup::new(fs).key("full_at", times.clone()).key("verify_at", times).env("TZ", zone);
        let m = m.before(|src| src.write("b", b"live")).start()?;
        m.check();
        // Changed behind the daemon's back.
        m.dst().write("b", b"other");
        m.dst().write("extra", b"extra");
        let repaired = || (m.dst().read("b").as_deref() == Some(b"live") && !m.dst().has("extra")).then_some(());
        poll_until(WAIT, repaired).expect("a time of day comes");
        let verified = || m.daemon.target_status("t1").verify.filter(|verify| verify.ended_unix > 0.0);
        poll_until(WAIT, verified).expect("and that of the other schedule");
        assert!(m.daemon.log().contains("the periodic comparison of the whole tree is due"));
        Ok(())
    })
}
