//! Asks one server, again and again, on a thread of its own: its NFS service and its role, both with a deadline.

use std::io;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::config::{Probe, Remote};
use super::machine::{Answer, Side};
use super::probe;
use super::wire::{self, Key, Reply, Request};

/// What one server answered.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Which.
    pub side: Side,
    /// When it was asked.
    pub asked: Instant,
    /// The answer.
    pub answer: Answer,
}

/// One server's thread. It ends when this is dropped, after the question that it is at.
#[derive(Debug)]
pub struct Prober {
    hurry: Sender<Duration>,
}

impl Prober {
    /// Begins to ask; each answer goes to `out`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(side: Side, remote: &Remote, key: &Key, every: Probe, out: Sender<Heard>) -> io::Result<Prober> {
        let (hurry, hurried) = unbounded();
        let (remote, key) = (remote.clone(), key.clone());
        std::thread::Builder::new().name(format!("fansync-{side}")).spawn(move || {
            loop {
                let asked = Instant::now();
                let answer = ask(&remote, &key, every.timeout);
                let next = asked + every.pace(answer.nfs);
                if out.send(Heard { side, asked, answer }).is_err() || !wait(&hurried, next) {
                    return;
                }
            }
        })?;
        Ok(Prober { hurry })
    }

    /// Asks again after `pause`, or earlier if that is due.
    pub fn soon(&self, pause: Duration) {
        let _ = self.hurry.send(pause);
    }
}

/// Whether to go on.
fn wait(hurried: &Receiver<Duration>, mut until: Instant) -> bool {
    loop {
        match hurried.recv_deadline(until) {
            Ok(pause) => until = until.min(Instant::now() + pause),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// Both questions at once, so that it takes no longer than `timeout`.
fn ask(remote: &Remote, key: &Key, timeout: Duration) -> Answer {
    std::thread::scope(|s| {
        let report = s.spawn(|| match wire::ask(&remote.agent(), key, &Request::Report, timeout) {
            Ok(Reply::Report(report)) => Some(report),
            _ => None,
        });
        let nfs = probe::null_call(&remote.host, remote.port, remote.major(), timeout).is_ok();
        Answer { nfs, report: report.join().unwrap_or_default() }
    })
}
