//! Places of the source that rsync cannot read or cannot print: each is a failure of its own, and
//! holds up nothing else.

use std::time::Duration;

use crate::fixture::fs::Fs;
use crate::fixture::tree::{Dir, Times};
use crate::fixture::{Case, Setup, To, WAIT, case};

/// A chain of directories whose path is longer than any system call takes.
fn too_deep(src: &Dir) {
    let name = "n".repeat(200);
    let at = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
    src.mkdir("deep");
    let open = |path: &std::path::Path| nix::fcntl::open(path, at, nix::sys::stat::Mode::empty());
    let mut dir = open(&src.at("deep")).expect("it was just made");
    for _ in 0..25 {
        nix::sys::stat::mkdirat(&dir, &*name, nix::sys::stat::Mode::S_IRWXU).expect("a directory can be made");
        dir = nix::fcntl::openat(&dir, &*name, at, nix::sys::stat::Mode::empty()).expect("it was just made");
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("one_path_that_is_too_long_stops_no_deletions", &[Fs::Tmpfs], |fs| {
            for to in [To::Module, To::Local] {
                let tree = |src: &Dir| {
                    src.mkdirs("ok/d");
                    src.write("ok/f", b"f");
                    too_deep(src);
                };
                let extra = |dst: &Dir| {
                    dst.mkdirs("ok/d/extra");
                    dst.write("ok/extra", b"x");
                };
                let m = Setup::new(fs).targets(&[to]).target_key("retry_min", "50ms").while_reconciling();
                let m = m.before(tree).before_on_target(extra).start()?;
                let status = m.daemon.target_status_until("t1", "the place that cannot be read", |t| !t.failures.is_empty());
                assert!(status.failures.iter().all(|f| f.path.starts_with("deep")), "{to:?}: {status:?}");
                assert!(!m.dst().has("ok/extra") && !m.dst().has("ok/d/extra"), "{to:?}: what is extra elsewhere stays");
                assert!(m.daemon.try_flush(Duration::from_secs(1)).is_err(), "{to:?}: flush says that all is there");
                // A comparison does not make it fail less, nor again and again.
                let verified = m.daemon.client(&["verify"], WAIT);
                assert!(verified.code != 0 && verified.stdout.contains("deep"), "{to:?}: {verified:?}");
                // What changes elsewhere goes on; once the place is gone all is equal.
                m.src.write("ok/f", b"changed");
                m.src.remove("deep");
                m.check();
                let failures = m.daemon.target_status_until("t1", "no failure", |t| t.failures.is_empty());
                assert!(failures.reason.is_empty(), "{failures:?}");
            }
            Ok(())
        }),
        case("long_links_are_a_matter_of_their_own", &[Fs::Tmpfs], |fs| {
            let dir = vec!["d".repeat(250); 8].join("/");
            let long = "t".repeat(4000);
            let links = dir.clone();
            let before = move |src: &Dir| {
                src.mkdirs(&links);
                for n in 0..5 {
                    src.symlink(&long, format!("{links}/{n}"));
                }
                src.write("beside", b"x");
            };
            let m = Setup::new(fs).targets(&[To::Module]).before(before).start()?;
            m.check_but(Times::All, &|_| false);
            m.src.symlink("t".repeat(4001), format!("{dir}/live"));
            m.src.write("beside", b"y");
            m.check();
            let status = m.daemon.target_status("t1");
            assert!(status.bad_runs.is_empty(), "{status:?}");
            Ok(())
        }),
        case("verify_is_not_equal_while_a_path_fails", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Module]).target_key("retry_min", "50ms").start()?;
            m.src.mkdirs("d");
            m.src.write("d/f", b"one");
            m.check();
            let chattr = |flag: &str| {
                crate::fixture::proc::must(std::process::Command::new("chattr").arg(flag).arg(m.dst().at("d/f")));
            };
            chattr("+i");
            m.src.write("d/f", b"longer");
            m.daemon.target_status_until("t1", "the failing path", |t| !t.failures.is_empty());
            let verified = m.daemon.client(&["verify"], WAIT);
            chattr("-i");
            assert!(verified.code == 1 && verified.stdout.contains("d/f"), "{verified:?}");
            m.daemon.does(&["retry"]);
            m.check();
            let verified = m.daemon.client(&["verify"], WAIT);
            assert!(verified.code == 0, "{verified:?}");
            Ok(())
        }),
    ]
}
