//! What a service manager receives (sd_notify(3)), on a socket of the test's own.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::{Case, Setup, WAIT, case};
use crate::frozen::{Stopped, server};

/// `WATCHDOG_USEC` of these tests.
const WATCHDOG: Duration = Duration::from_millis(400);

pub fn cases() -> Vec<Case> {
    vec![
        case("ready_status_and_stop", &[Fs::Tmpfs], |fs| {
            let manager = Manager::new();
            // Without a first pass only events carry changes: what is written once it is ready
            // arrives if marks were set by then.
            let mut m = manager.watch_over(Setup::new(fs).initial("none").while_reconciling()).start()?;
            assert!(manager.receives(WAIT, |line| line == "READY=1"), "it does not say that it is ready");
            m.src.write("f", b"as soon as it was ready");
            m.check();
            assert!(manager.receives(WAIT, |line| line == "STATUS=the target is in sync"), "no such status line");
            m.daemon.hang_up();
            let reloading = |text: &str| text.starts_with("RELOADING=1\nMONOTONIC_USEC=");
            assert!(
                manager.receives(WAIT, reloading) && manager.receives(WAIT, |line| line == "READY=1"),
                "a reload is not reported"
            );
            m.rsyncd.as_mut().expect("the target is a module").stop();
            m.src.write("g", b"for later");
            let down = |line: &str| {
                line.starts_with("STATUS=0 of 1 target in sync; mirror/t1 down; ")
                    && line.contains(" path")
                    && line.contains(" pending, lag ")
            };
            assert!(manager.receives(WAIT, down), "no status line tells that the target is down");
            m.daemon.terminate();
            // 10 s to send, and 10 s to save.
            let stopping = |text: &str| text == "STOPPING=1\nEXTEND_TIMEOUT_USEC=20000000";
            assert!(manager.receives(WAIT, stopping), "it does not say that it stops");
            Ok(())
        }),
        case("a_stuck_engine_is_not_vouched_for", &[Fs::Fuse], |fs| {
            let manager = Manager::new();
            let m = manager.watch_over(Setup::new(fs)).start()?;
            assert!(manager.receives(WAIT, |line| line == "WATCHDOG=1"), "no ping");
            {
                // The source's server does not answer, so the engine waits when it looks there; no
                // other thread does.
                let _stopped = Stopped::new(server(m.src.root().parent().expect("the mount is above")));
                kill(m.daemon.pid(), Signal::SIGUSR1).expect("the daemon runs");
                assert!(
                    manager.receives(WAIT, |line| line == "STATUS=mirror mirror does not answer"),
                    "the status line does not tell"
                );
                assert!(!manager.receives(WATCHDOG * 5, |line| line == "WATCHDOG=1"), "a ping while the engine hangs");
            }
            assert!(manager.receives(WAIT, |line| line == "WATCHDOG=1"), "no ping once it goes on");
            m.src.write("f", b"afterwards");
            m.check();
            Ok(())
        }),
    ]
}

/// Listens as a service manager does.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _dir: TempDir,
}

impl Manager {
    fn new() -> Manager {
        let dir = work_dir();
        let path = dir.path().join("notify");
        Manager { socket: UnixDatagram::bind(&path).expect("a socket can be bound"), path, _dir: dir }
    }

    fn watch_over(&self, setup: Setup) -> Setup {
        let path = self.path.to_str().expect("it is text");
        setup.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
    }

    /// Waits for a message like this; what comes before is dropped.
    fn receives(&self, within: Duration, wanted: impl Fn(&str) -> bool) -> bool {
        let end = Instant::now() + within;
        let mut buf = [0; 4096];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.socket.set_read_timeout(Some(left)).expect("a timeout can be set");
            let Ok(len) = self.socket.recv(&mut buf) else { continue };
            if wanted(String::from_utf8_lossy(&buf[..len]).trim_end()) {
                return true;
            }
        }
    }
}
