//! Receivers whose sender was cut off, and may still be writing.
//!
//! A receiver puts in place what it has received whole, and that may be much: with the connection
//! cut, one on a slow disk wrote 1,000 files for three seconds more. Over what a next run sends
//! meanwhile it would put an older content, and a comparison beside it would miss what it writes.
//! So a run that was cut off counts as under way for as long as there is a sign of its receiver: a
//! connection to the target that is closed on our side alone ([`crate::sys::tcp`]). What it carries
//! waits for it, and nothing else. After the start nothing is sent for as long as there is such a
//! connection, or a process of an earlier run of the daemon ([`crate::state::runs`]).
//!
//! Gives up: behind a remote shell. The shell's server ends with the connection, and the receiver
//! has no more than a pipe holds.

use std::net::IpAddr;

use super::*;
use crate::location::Location;
use crate::sys::tcp::half_closed;

/// How often the connections are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How long is waited without a sign after a daemon that was killed: a connection that was closed
/// with something unread in it is gone at once on our side, and its receiver ends as soon as it
/// writes to it or runs out of what it has (0.3 s, slowed down by a tracer).
const SETTLE: Duration = Duration::from_millis(500);
/// How long a host that does not answer is waited for: its program may not have got the end of the
/// connection.
const UNKNOWN: Duration = Duration::from_secs(5);
/// From when on it is worth a line.
const SAY: Duration = Duration::from_secs(2);

/// What may still be at work, since when, and what was seen of it last.
pub(super) struct Orphans {
    since: Duration,
    /// Until then in any case.
    quiet: Duration,
    next_check: Duration,
    logged: bool,
    /// Of the daemon itself, those before this one are waited for.
    runs: Option<Arc<RunLock>>,
}

impl Orphans {
    /// At a start: what an earlier run of the daemon may have left.
    pub(super) fn of_earlier_runs() -> Orphans {
        Orphans { since: Duration::ZERO, quiet: Duration::ZERO, next_check: Duration::ZERO, logged: false, runs: None }
    }

    /// When the next check is due.
    pub(super) fn due(&self) -> Duration {
        self.next_check
    }
}

/// The end of a run that was cut off, since when, and when the next check is due.
pub(super) struct Lingers {
    outcome: Outcome,
    since: Duration,
    next_check: Duration,
}

impl Lingers {
    /// When the next check is due.
    pub(super) fn due(&self) -> Duration {
        self.next_check
    }
}

/// Where a target's connections go.
pub(super) struct Peer {
    address: Option<IpAddr>,
    port: u16,
}

impl Peer {
    /// Of a daemon's module; others have no connection of rsync's own, nor has one behind a remote
    /// shell.
    pub(super) fn of(location: &Location) -> Option<Peer> {
        let Location::Daemon { shell: false, host, port, .. } = location else { return None };
        Some(Peer { address: host.parse().ok(), port: port.unwrap_or(873) })
    }
}

impl Target {
    /// The lock that every run inherits, free once no process of an earlier run of the daemon is
    /// left. `killed`: that daemon did not stop in order.
    pub(crate) fn take_runs(&mut self, runs: &Arc<RunLock>, killed: bool) {
        self.args.lock = Some(Arc::clone(runs));
        let quiet = if killed && Peer::of(&self.cfg.location).is_some() { SETTLE } else { Duration::ZERO };
        self.orphans = Some(Orphans { quiet, runs: Some(Arc::clone(runs)), ..Orphans::of_earlier_runs() });
    }

    /// A run ended with this. Gives it back where its receiver has ended, too; otherwise it is kept
    /// for [`Target::settle`].
    pub(super) fn lingers(&mut self, now: Duration, serial: u32, outcome: Outcome) -> Option<Outcome> {
        let cut = matches!(outcome.verdict, Verdict::Killed | Verdict::TargetDown | Verdict::TimedOut | Verdict::Unknown);
        let Some(run) = self.runs.get_mut(serial).filter(|run| cut && run.carried().is_some()) else {
            return Some(outcome);
        };
        match Peer::of(&self.cfg.location).map(|peer| half_closed(peer.address, peer.port)) {
            Some(left) if left.known || left.unknown => {
                run.process.stdout_paused_until = None;
                run.process.lingers = Some(Lingers { outcome, since: now, next_check: now + CHECK_INTERVAL });
                None
            }
            _ => Some(outcome),
        }
    }

    /// Takes up runs whose receivers have ended.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        let due = |run: &InFlightRun| run.process.lingers.as_ref().is_some_and(|lingers| lingers.next_check <= now);
        if !self.runs.values().any(due) {
            return;
        }
        let left = Peer::of(&self.cfg.location).map(|peer| half_closed(peer.address, peer.port)).unwrap_or_default();
        let mut over = Vec::new();
        for (serial, run) in self.runs.iter_mut().filter(|(_, run)| due(run)) {
            match run.process.lingers.take() {
                Some(lingers) if left.known || left.unknown && now.saturating_sub(lingers.since) < UNKNOWN => {
                    run.process.lingers = Some(Lingers { next_check: now + CHECK_INTERVAL, ..lingers });
                }
                Some(lingers) => over.push((serial, lingers.outcome)),
                None => {}
            }
        }
        for (serial, outcome) in over {
            self.run_ended(cx, serial, outcome);
        }
    }

    /// Checks for them when it is time.
    pub(super) fn check_orphans(&mut self, now: Duration) {
        let Some(orphans) = self.orphans.as_mut().filter(|orphans| orphans.next_check <= now) else { return };
        orphans.next_check = now + CHECK_INTERVAL;
        let left = Peer::of(&self.cfg.location).map(|peer| half_closed(peer.address, peer.port)).unwrap_or_default();
        let waited = now.saturating_sub(orphans.since);
        let why = match () {
            () if orphans.runs.as_ref().is_some_and(|runs| !runs.are_over()) => {
                "processes of an earlier run of fansync have not ended"
            }
            () if left.known => "the target has not ended with the connection of a run that was cut off",
            () if left.unknown && waited < UNKNOWN => "the target's host has not answered to the end of a connection",
            () if now < orphans.quiet => "fansync was killed just now",
            () => {
                self.orphans = None;
                return;
            }
        };
        if waited >= SAY && !std::mem::replace(&mut orphans.logged, true) {
            tracing::info!(mirror = %self.mirror.name, target_name = %self.cfg.name, "nothing is sent yet: {why}; what they still write must not come later");
        }
    }
}
