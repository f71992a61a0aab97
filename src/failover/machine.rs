//! What a client does, as a pure function: [`step`] takes the state, what probes saw since, and the
//! time, and gives the new state and what to do. No I/O, no clock.
//!
//! The answers of one server never wait for those of the other: a server that is dead takes the
//! whole time-out to be missed, each time.
//!
//! Promises: nothing is decided before both servers were queried once. The mount is moved only to a
//! server that holds the newest epoch's primary mark, or that has just been given one. One move at
//! a time. Nothing is decided on a single missed answer, and a server that flaps is not taken for
//! returned.
//!
//! How it works: each server has a window of its last answers. `misses` of the last `of` missing
//! make it dead; only `returns` answers in a row make it alive again. The marks rank above the
//! probes: where two clients see different things, the one that is late finds the newer epoch and
//! follows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::role::mark::{Mark, Role};

/// One of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Where clients belong while all is well.
    Primary,
    /// Where they go.
    Backup,
}

impl Side {
    /// The other one.
    pub(crate) fn other(self) -> Side {
        match self {
            Side::Primary => Side::Backup,
            Side::Backup => Side::Primary,
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Primary => "primary",
            Side::Backup => "backup",
        })
    }
}

/// When a server counts as dead, and as back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// Missing answers that make it dead, ...
    pub(crate) misses: u32,
    /// ... of this many; at most 32.
    pub(crate) of: u32,
    /// Answers in a row that make it alive again.
    pub(crate) returns: u32,
    /// How long the primary has been alive before fail-back begins by itself; `None`: never by
    /// itself.
    pub(crate) failback_after: Option<Duration>,
    /// How long there may be no primary at all, with the other server dead, before this one is made
    /// it.
    pub(crate) orphan_after: Duration,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Its tree's mark; `None` when there is none or it is damaged.
    pub mark: Option<Mark>,
    /// A hand-over to the other server is under way.
    pub handing_over: bool,
    /// Whether its exports are writable now.
    pub writable: bool,
    /// As a primary: whether the other server holds a whole copy. As far as it knows.
    pub peer_whole: Option<bool>,
    /// What is wrong, for people; empty when nothing is.
    pub trouble: String,
}

/// One server in one round.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Answer {
    /// NFS answered in time.
    pub(crate) nfs: bool,
    /// The server role answered in time.
    pub(crate) report: Option<Report>,
}

/// What is known of one server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Health {
    /// Whether it counts as alive. Before anything was seen: no.
    pub(crate) alive: bool,
    /// Since when that holds; time of the monitor's clock.
    pub(crate) since: Duration,
    /// Missing answers, the newest in the lowest bit.
    window: u32,
    seen: u32,
    row: u32,
    /// Its last report.
    pub(crate) report: Option<Report>,
}

impl Health {
    fn take(&mut self, answer: &Answer, t: &Thresholds, now: Duration) {
        self.window = self.window << 1 | u32::from(!answer.nfs);
        self.seen = (self.seen + 1).min(32);
        self.row = if answer.nfs { self.row.saturating_add(1) } else { 0 };
        let mask = u32::MAX >> (32 - t.of.clamp(1, 32));
        let missing = (self.window & mask).count_ones();
        // The first answer of all counts at once: at the start something has to be mounted.
        let alive = match self.alive {
            true => missing < t.misses,
            false => answer.nfs && (self.row >= t.returns || self.seen == self.row),
        };
        if alive != self.alive {
            (self.alive, self.since) = (alive, now);
            if alive {
                self.window = 0;
            }
        }
        self.report = answer.report.clone();
    }

    fn primary_epoch(&self) -> Option<u64> {
        self.report.as_ref()?.mark.as_ref().filter(|m| m.role == Role::Primary).map(|m| m.epoch)
    }

    fn epoch(&self) -> u64 {
        self.report.as_ref().and_then(|r| r.mark.as_ref()).map_or(0, |m| m.epoch)
    }
}

/// Everything a client remembers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// What is mounted; `None` while nothing is.
    pub(crate) on: Option<Side>,
    /// The newest epoch in any reply.
    pub(crate) epoch: u64,
    /// An administrator gave `hold`: nothing is done by itself.
    pub(crate) held: bool,
    /// An administrator ordered this move, and the server is primary by now: it is made even while
    /// held.
    pub(crate) ordered: Option<Side>,
    /// What is being done, until [`done`] is called.
    pub(crate) busy: Option<Goal>,
    /// Both servers.
    pub(crate) servers: [Health; 2],
    /// Whether the server that is not mounted held a whole copy, by the last word of the one that
    /// is.
    pub(crate) copy_whole: Option<bool>,
    /// Since when no server that answers is the newest primary.
    orphan_since: Option<Duration>,
    /// When a fail-back was requested last.
    requested: Option<Duration>,
    /// The alarm that was reported last. Each is reported once.
    alarm: Option<Alarm>,
}

impl State {
    fn is_alive(&self, side: Side) -> bool {
        self.servers[side.index()].alive
    }

    /// The role that the server reported last.
    fn report(&self, side: Side) -> Option<&Report> {
        self.servers[side.index()].report.as_ref()
    }
}

/// Something that takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "goal")]
pub(crate) enum Goal {
    /// A server is being made primary.
    Promote { to: Side },
    /// The mount is being moved.
    Switch {
        /// Where to.
        to: Side,
    },
}

/// What needs an administrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Alarm {
    /// Neither server answers.
    BothDead,
    /// The mounted one is dead, and the other holds no whole copy.
    CopyNotWhole,
    /// Both say that they are primary, of one epoch.
    SplitBrain,
    /// The mounted server is dead, and nothing is done because of `hold`.
    Held,
    /// The other server's role does not answer, so it cannot be made primary.
    NoAgent,
}

impl Alarm {
    /// Every alarm.
    pub(crate) const ALL: [Alarm; 5] = [Alarm::BothDead, Alarm::CopyNotWhole, Alarm::SplitBrain, Alarm::Held, Alarm::NoAgent];

    /// The name used in status and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Alarm::BothDead => "both_dead",
            Alarm::CopyNotWhole => "copy_not_whole",
            Alarm::SplitBrain => "split_brain",
            Alarm::Held => "held",
            Alarm::NoAgent => "no_agent",
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Request the server to become primary of an epoch above `above`.
    Promote {
        to: Side,
        /// The newest epoch known.
        above: u64,
    },
    /// Move the mount.
    Switch {
        /// Where to.
        to: Side,
        /// What is mounted now does not answer: blocked calls on it may be ended with an error.
        dead: bool,
    },
    /// Request the server that clients are on to hand over to the other.
    HandOver {
        /// The server that gets the request.
        from: Side,
    },
    /// Notify.
    Alarm(Alarm),
    /// What the last alarm was about is over.
    AllClear,
    /// Check again soon: a hand-over is under way.
    LookSoon,
}

/// Between two requests for a fail-back that was refused.
const ASK_AGAIN: Duration = Duration::from_secs(15);

/// One round. `answers`: primary, backup; `None`: nothing since the last round. `now`: monotonic.
pub(crate) fn step(state: &State, answers: &[Option<Answer>; 2], t: &Thresholds, now: Duration) -> (State, Vec<Action>) {
    let mut s = state.clone();
    let mut out = Vec::new();
    for (health, answer) in s.servers.iter_mut().zip(answers) {
        if let Some(answer) = answer {
            health.take(answer, t, now);
        }
    }
    let newest = s.servers.iter().map(Health::epoch).max().unwrap_or(0);
    s.epoch = s.epoch.max(newest);
    if let Some(whole) = s.on.and_then(|on| s.report(on)?.peer_whole) {
        s.copy_whole = Some(whole);
    }
    if s.servers.iter().any(|h| h.report.as_ref().is_some_and(|r| r.handing_over)) {
        out.push(Action::LookSoon);
    }
    let authority = authority(&s);
    let usable = authority.ok().flatten().is_some_and(|side| s.is_alive(side));
    s.orphan_since = if usable { None } else { s.orphan_since.or(Some(now)) };
    if s.busy.is_some() || s.servers.iter().any(|h| h.seen == 0) {
        return (s, out);
    }
    let orphan = s.orphan_since.is_some_and(|since| now.saturating_sub(since) >= t.orphan_after);
    let (goal, mut alarm) = match decide(&s, authority, orphan) {
        Ok(goal) => (goal, None),
        Err(alarm) => (None, Some(alarm)),
    };
    if let Some(goal) = goal {
        let ordered = matches!(goal, Goal::Switch { to } if s.ordered == Some(to));
        if s.held && !ordered {
            alarm = Some(Alarm::Held);
        } else {
            out.push(match goal {
                Goal::Promote { to } => Action::Promote { to, above: s.epoch },
                Goal::Switch { to } => Action::Switch { to, dead: s.on.is_some_and(|on| !s.is_alive(on)) },
            });
            s.busy = Some(goal);
        }
    } else if !s.held && alarm.is_none() && wants_failback(&s, t, now) {
        s.requested = Some(now);
        out.push(Action::HandOver { from: Side::Backup });
    }
    if s.alarm != alarm {
        s.alarm = alarm;
        out.push(alarm.map_or(Action::AllClear, Action::Alarm));
    }
    (s, out)
}

/// Which server clients are to be on. `orphan`: no primary answered for
/// [`Thresholds::orphan_after`].
///
/// # Errors
/// Why nothing may be done about a state that is wrong.
fn decide(s: &State, authority: Result<Option<Side>, ()>, orphan: bool) -> Result<Option<Goal>, Alarm> {
    let alive = |side: Side| s.is_alive(side);
    match (s.on, authority) {
        (_, Err(())) => Err(Alarm::SplitBrain),
        // Nothing is mounted: what the newest mark says.
        (None, Ok(Some(side))) if alive(side) => Ok(Some(Goal::Switch { to: side })),
        // A client that starts while the primary is dead. It has no memory, so it waits longer than
        // others.
        (None, _) => {
            let ready = |side: Side| alive(side) && s.report(side).is_some_and(|r| r.mark.is_some());
            let alone = [Side::Primary, Side::Backup].into_iter().find(|&side| ready(side) && !alive(side.other()));
            Ok(alone.filter(|_| orphan).map(|to| Goal::Promote { to }))
        }
        // Another client was faster, or a hand-over is through.
        (Some(on), Ok(Some(side))) if side != on && alive(side) => Ok(Some(Goal::Switch { to: side })),
        (Some(on), _) if !alive(on) => fail_over(s, on.other()).map(Some),
        // A hand-over that broke off between stepping down and the other's rise, and the other
        // died.
        (Some(on), Ok(None)) if !alive(on.other()) => Ok((orphan && s.report(on).is_some()).then_some(Goal::Promote { to: on })),
        _ => Ok(None),
    }
}

/// The server that clients are on is dead: whether `to` may take its place.
///
/// # Errors
/// Why it may not.
fn fail_over(s: &State, to: Side) -> Result<Goal, Alarm> {
    if !s.is_alive(to) {
        Err(Alarm::BothDead)
    } else if s.report(to).is_none() {
        Err(Alarm::NoAgent)
    } else if s.copy_whole == Some(false) {
        Err(Alarm::CopyNotWhole)
    } else {
        Ok(Goal::Promote { to })
    }
}

/// The primary of the newest epoch: `Ok(None)` when no server that answers is one, or a newer epoch
/// is known; `Err` when both are of one epoch.
///
/// # Errors
/// Both say that they are primary of one epoch.
#[allow(clippy::result_unit_err)]
pub(crate) fn authority(s: &State) -> Result<Option<Side>, ()> {
    let [p, b] = [&s.servers[0], &s.servers[1]].map(Health::primary_epoch);
    let best = match (p, b) {
        (Some(p), Some(b)) if p == b => return Err(()),
        (Some(p), Some(b)) => Some(if p > b { (Side::Primary, p) } else { (Side::Backup, b) }),
        (Some(p), None) => Some((Side::Primary, p)),
        (None, b) => b.map(|b| (Side::Backup, b)),
    };
    // An old primary that comes back alone, while the newer one is away, is no place to go.
    Ok(best.filter(|(_, epoch)| *epoch >= s.epoch).map(|(side, _)| side))
}

fn wants_failback(s: &State, t: &Thresholds, now: Duration) -> bool {
    let [primary, backup] = &s.servers;
    let Some(after) = t.failback_after else { return false };
    s.on == Some(Side::Backup)
        && backup.alive
        && backup.primary_epoch() == Some(s.epoch)
        && primary.alive
        && primary.report.as_ref().is_some_and(|r| r.mark.as_ref().is_some_and(|m| m.role == Role::Follower))
        && s.copy_whole == Some(true)
        && now.saturating_sub(primary.since) >= after
        && s.requested.is_none_or(|requested| now.saturating_sub(requested) >= ASK_AGAIN)
}

/// A promotion or a switch has ended. `mounted`: what is mounted now.
pub(crate) fn done(state: &State, mounted: Option<Side>) -> State {
    let ordered = state.ordered.filter(|&to| mounted != Some(to));
    State { busy: None, on: mounted, ordered, ..state.clone() }
}

/// A server has answered that it is primary now. This counts as its report: the switch need not
/// wait for the next one.
pub(crate) fn promoted(state: &State, side: Side, mark: &Mark) -> State {
    let mut s = state.clone();
    let report = s.servers[side.index()].report.get_or_insert_default();
    (report.mark, report.handing_over) = (Some(mark.clone()), false);
    s.epoch = s.epoch.max(mark.epoch);
    s
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
