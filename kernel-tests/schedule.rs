//! `full_every` and `full_exclude`: the periodic comparison, and its own filter.

use crate::expressions::reconcile;
use crate::fixture::fs::Fs;
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Setup, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![case("the_schedule_has_its_own_filter", &[Fs::Tmpfs], |fs| {
        let m = Setup::new(fs).key("full_every", "400ms").key("full_exclude", vec![toml::Value::from("*.php")]).before(|src| {
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
        assert_eq!(m.dst().read("a.php").as_deref(), Some(&b"other"[..]), "the periodic comparison did not leave *.php alone");
        assert!(m.dst().has("extra.php"));
        m.src.append("a.php", b", again");
        m.daemon.flush(None);
        assert_eq!(m.src.read("a.php"), m.dst().read("a.php"), "live changes are not the schedule's");
        m.dst().write("a.php", b"other");
        reconcile(&m);
        let whole = || (m.src.read("a.php") == m.dst().read("a.php") && !m.dst().has("extra.php")).then_some(());
        poll_until(WAIT, whole).expect("a comparison that was asked for is of everything");
        Ok(())
    })]
}
