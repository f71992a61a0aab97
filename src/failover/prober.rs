//! Probes one server, again and again, on a thread of its own: its NFS service and its role, both
//! with a deadline.
//!
//! A query that this host could not send, since its front process was away, is no missing answer:
//! it is sent again.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::config::{Probe, Remote};
use super::machine::{Answer, Side};
use super::probe::{self, Miss};
use super::wire::{Key, Pair, Reply, Request};

/// After a query that could not be sent.
const AGAIN: Duration = Duration::from_millis(20);

/// What one server answered.
#[derive(Debug, Clone)]
pub(crate) struct ProbeResult {
    pub(crate) side: Side,
    /// When it was queried.
    pub(crate) queried: Instant,
    pub(crate) answer: Answer,
}

/// One server's thread. It ends when this is dropped, after the query under way.
#[derive(Debug)]
pub(crate) struct Prober {
    hurry: Sender<Duration>,
}

impl Prober {
    /// Begins to probe; each answer goes to `out`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(
        side: Side,
        remote: &Remote,
        key: &Key,
        pair: &Arc<Pair>,
        every: Probe,
        out: Sender<ProbeResult>,
    ) -> io::Result<Prober> {
        let (hurry, hurried) = unbounded();
        let (remote, key, pair) = (remote.clone(), key.clone(), Arc::clone(pair));
        std::thread::Builder::new().name(format!("fansync-{side}")).spawn(move || {
            loop {
                let queried = Instant::now();
                let Some(answer) = ask(side, &remote, &key, &pair, every.timeout) else {
                    std::thread::sleep(AGAIN);
                    continue;
                };
                let next = queried + every.pace(answer.nfs);
                if out.send(ProbeResult { side, queried, answer }).is_err() || !wait(&hurried, next) {
                    return;
                }
            }
        })?;
        Ok(Prober { hurry })
    }

    /// Probes again after `pause`, or earlier if that is due.
    pub(crate) fn soon(&self, pause: Duration) {
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

/// Both questions at once, so that it takes no longer than `timeout`; `None` when one could not be
/// sent.
fn ask(side: Side, remote: &Remote, key: &Key, pair: &Pair, timeout: Duration) -> Option<Answer> {
    std::thread::scope(|s| {
        let report = s.spawn(|| match pair.ask(side, &remote.agent(), key, &Request::Report, timeout) {
            Ok(Reply::Report(report)) => Some(Some(report)),
            Ok(_) => Some(None),
            Err(error) => {
                tracing::debug!(%error, "the {side}'s role is not known");
                (!error.is_ours()).then_some(None)
            }
        });
        let nfs = match probe::null_call(pair.front(), &remote.host, remote.port, remote.major(), timeout) {
            Ok(_) => Some(true),
            Err(Miss::NotAsked(_)) => None,
            Err(_) => Some(false),
        };
        let report = report.join().unwrap_or(Some(None));
        Some(Answer { nfs: nfs?, report: report? })
    })
}
