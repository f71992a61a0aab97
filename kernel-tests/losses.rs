//! Losses of sight that are counted by cause, and made good. Others: `fallback` (overflow, mounts),
//! `restart` (unclean stop).

use std::process::Command;

use crate::fixture::fs::{Fs, needs};
use crate::fixture::proc::{must, poll_until};
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("pending_bound", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = Setup::new(fs).targets(&[To::Module, To::Local]).batch("max_pending", 1_000).start()?;
            m.daemon.does(&["pause", "--target", "t1"]);
            for d in 0..30 {
                m.src.mkdir(format!("d{d}"));
                (0..100).for_each(|n| m.src.write(format!("d{d}/{n}"), b"x"));
            }
            counted(&m, "pending_bound", |n| n > 0);
            assert!(m.daemon.target_status("t1").pending <= 1_000, "more is pending than may be");
            assert!(m.daemon.log().contains("max_pending"), "the log does not tell");
            m.daemon.does(&["resume"]);
            m.check();
            Ok(())
        }),
        case("failing_path", &[Fs::Tmpfs], |fs| {
            needs("chattr")?;
            let m = Setup::new(fs).target_key("retry_min", "50ms").target_key("retry_max", "300ms").start()?;
            m.src.write("bad", b"old");
            m.check();
            assert!(lost(&m, "failing_path").is_none(), "counted although nothing fails");
            must(Command::new("chattr").arg("+i").arg(m.dst().at("bad")));
            m.src.write("bad", b"new");
            let failed = || m.daemon.target_status("t1").failures.iter().any(|f| f.tries >= 3).then_some(());
            let failed = poll_until(WAIT, failed);
            let count = lost(&m, "failing_path");
            must(Command::new("chattr").arg("-i").arg(m.dst().at("bad")));
            assert!(failed.is_some(), "the path is not tried again and again");
            assert_eq!(count, Some(1), "once for the path, however often it fails");
            let arrived = || (m.dst().read("bad").as_deref() == Some(&b"new"[..])).then_some(());
            assert!(poll_until(WAIT, arrived).is_some(), "it does not arrive when it can");
            m.check();
            Ok(())
        }),
    ]
}

fn lost(m: &Mirror, cause: &str) -> Option<u64> {
    m.daemon.status().mirrors[0].lost.get(cause).copied()
}

#[track_caller]
fn counted(m: &Mirror, cause: &str, wanted: impl Fn(u64) -> bool) {
    let found = || lost(m, cause).filter(|n| wanted(*n));
    assert!(poll_until(WAIT, found).is_some(), "{cause} is not counted: {:?}", m.daemon.status().mirrors[0].lost);
}
