//! A client's monitor: probes both servers, asks [`super::machine`] what to do, and does it.
//!
//! One thread for each `[[failover]]`, which decides, and one for each server, which queries it
//! ([`Prober`]); a dead server, which takes the whole time-out to be missed, does not delay what
//! the other says. Orders by hand ([`super::control`]) come between. Nothing here waits for a
//! hand-over, which may take long and whose servers may die meanwhile.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, select, unbounded};
use serde::{Deserialize, Serialize};

use super::config::{Client, Event};
use super::machine::{self, Action, Alarm, Answer, Goal, Health, Side, State, Thresholds, step};
use super::mounts::{MountError, Mounts};
use super::notify::{self, Notice};
use super::prober::{ProbeResult, Prober};
use super::server::locked;
use super::stuck::{Stuck, stuck};
use super::wire::{Key, Pair, Reply, Request};
use crate::role::mark::Mark;

/// Between rounds while a hand-over is under way.
const SOON: Duration = Duration::from_millis(40);
/// How long a server may take to become primary; it queries its peer, which may be dead.
const PROMOTE: Duration = Duration::from_secs(3);
/// How long a hand-over may take; no client waits for it.
const HAND_OVER: Duration = Duration::from_secs(60);
/// How long the client that gave an order waits for the mount to follow the roles. After that it is
/// tried on, and reported as an error.
const MOVE: Duration = Duration::from_secs(20);
/// Promotions that fail in a row and are tried again at once; further ones are tried with each
/// answer.
const INSIST: u32 = 5;

/// By hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// To the other server, or to this one: orderly if the mounted one answers.
    Switch {
        /// Where to.
        to: Option<Side>,
    },
    /// Nothing by itself from now on.
    Hold,
    /// By itself again.
    Resume,
}

/// What became of an order, for people.
pub(crate) type Outcome = Result<String, String>;

/// An order, and where its outcome goes.
pub(crate) type OperatorRequest = (Order, Sender<Outcome>);

/// A move that was ordered and that is not made yet.
struct Pending {
    to: Side,
    reply: Sender<Outcome>,
    /// Since when the server is primary.
    since: Option<Instant>,
    /// Why it was not moved at the last attempt.
    why: Option<String>,
}

type Handed = (Side, Result<Mark, String>);

/// What is shown of one `[[failover]]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) name: String,
    /// The mount point.
    pub(crate) mount: String,
    /// What is mounted.
    pub(crate) on: Option<Side>,
    /// The newest epoch.
    pub(crate) epoch: u64,
    /// An administrator gave `hold`.
    pub(crate) held: bool,
    /// What is being done.
    pub(crate) busy: Option<Goal>,
    /// What needs an administrator.
    pub(crate) alarm: Option<Alarm>,
    /// Primary, backup.
    pub(crate) servers: Vec<ShownServer>,
    /// Rounds of probes made.
    pub(crate) rounds: u64,
    /// Switches made since the start.
    pub(crate) switches: u64,
    /// Attempts to move the mount, or to make a server primary, that failed since the start.
    pub(crate) failures: u64,
    /// The last one, for people.
    pub(crate) last_switch: String,
    /// How long the last one took, seconds.
    pub(crate) last_switch_seconds: f64,
    /// Who was blocked on the dead server at the last switch.
    pub(crate) stuck: Vec<Stuck>,
    /// Calls that were given up and have not ended, with their process ids.
    pub(crate) calls: Vec<(String, u32)>,
}

/// One server of [`Shown`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ShownServer {
    /// As the mount table has it.
    pub(crate) source: String,
    /// Whether it counts as alive, its report.
    pub(crate) health: Health,
    /// Mounted, in place or aside.
    pub(crate) ready: bool,
    /// Why it cannot be mounted, or what it says is wrong.
    pub(crate) trouble: String,
}

/// One `[[failover]]` at work.
pub(crate) struct Monitor {
    client: Client,
    key: Key,
    pair: Arc<Pair>,
    host: String,
    thresholds: Thresholds,
    mounts: Mounts,
    state: State,
    begun: Instant,
    dry_run: bool,
    held_file: PathBuf,
    alarm: Option<Alarm>,
    /// Answers of each server.
    rounds: [u64; 2],
    /// What was queried before is old: roles have changed since.
    not_before: Instant,
    pending: Option<Pending>,
    /// Outcomes of hand-overs, and who was to become primary.
    handed: (Sender<Handed>, Receiver<Handed>),
    /// Who was blocked when the promotion began.
    waiting: Option<Vec<Stuck>>,
    /// Promotions that failed in a row, and why.
    refused: (u32, String),
    shown: Arc<Mutex<Shown>>,
}

impl Monitor {
    /// Prepares mounts and adopts what is mounted.
    ///
    /// # Errors
    /// See [`MountError`].
    pub(crate) fn new(
        client: &Client,
        key: &Key,
        pair: Arc<Pair>,
        host: &str,
        run_dir: &std::path::Path,
        dry_run: bool,
        shown: Arc<Mutex<Shown>>,
    ) -> Result<Monitor, MountError> {
        let mut mounts = Mounts::new(client, run_dir)?;
        if !dry_run {
            mounts.prepare()?;
        }
        let held_file = run_dir.join(format!("{}.held", client.name));
        let mut state = State::default();
        (state.on, state.held) = (mounts.mounted()?, held_file.exists());
        Ok(Monitor {
            client: client.clone(),
            key: key.clone(),
            pair,
            host: host.into(),
            thresholds: client.thresholds(),
            mounts,
            state,
            begun: Instant::now(),
            dry_run,
            held_file,
            alarm: None,
            rounds: [0, 0],
            not_before: Instant::now(),
            pending: None,
            handed: unbounded(),
            waiting: None,
            refused: (0, String::new()),
            shown,
        })
    }

    /// Watches for ever, or until both servers were queried `rounds` times.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(crate) fn run(mut self, orders: &Receiver<OperatorRequest>, rounds: Option<u32>) -> std::io::Result<()> {
        let (sender, answers) = unbounded();
        let start =
            |side| Prober::start(side, self.client.remote(side), &self.key, &self.pair, self.client.probe, sender.clone());
        let probers = [start(Side::Primary)?, start(Side::Backup)?];
        let handed = self.handed.1.clone();
        loop {
            let soon = select! {
                recv(answers) -> result => result.is_ok_and(|result| self.on_answer(result)),
                recv(handed) -> outcome => outcome.is_ok_and(|(to, outcome)| self.handed_over(to, outcome)),
                recv(orders) -> order => match order {
                    Ok((order, reply)) => self.order(order, reply),
                    Err(_) => return Ok(()),
                },
            };
            self.report_outcome();
            self.show();
            if rounds.is_some_and(|n| self.rounds.iter().all(|&made| made >= n.into())) {
                return Ok(());
            }
            if soon {
                probers.iter().for_each(|p| p.soon(SOON));
            }
        }
    }

    /// Takes one server's answer; whether the next should come soon.
    fn on_answer(&mut self, result: ProbeResult) -> bool {
        self.rounds[result.side as usize] += 1;
        let mut answers = [None, None];
        if result.queried >= self.not_before {
            answers[result.side as usize] = Some(result.answer);
        }
        let soon = self.advance(answers);
        if !self.dry_run {
            let side = result.side;
            if self.state.on != Some(side) && self.state.servers[side as usize].alive {
                self.mounts.make_ready(side);
            }
        }
        soon
    }

    /// Decides and acts until there is nothing more to do; whether to check again soon.
    fn advance(&mut self, mut answers: [Option<Answer>; 2]) -> bool {
        loop {
            // An administrator may have mounted or unmounted by hand.
            match self.mounts.mounted() {
                Ok(on) => self.state.on = on,
                Err(error) => tracing::warn!(failover = %self.client.name, %error, "what is mounted is not known"),
            }
            let before = self.state.clone();
            let (state, actions) = step(&self.state, &answers, &self.thresholds, self.begun.elapsed());
            self.state = state;
            self.report_changes(&before);
            let (mut soon, mut again) = (false, false);
            for action in actions {
                match self.act(action) {
                    After::Nothing => {}
                    After::Soon => soon = true,
                    After::Again => again = true,
                }
            }
            if !again {
                return soon;
            }
            answers = [None, None];
        }
    }

    fn report_changes(&self, before: &State) {
        for side in [Side::Primary, Side::Backup] {
            let (was, is) = (before.servers[side as usize].alive, self.state.servers[side as usize].alive);
            let source = self.client.remote(side).source();
            let name = &self.client.name;
            match (was, is) {
                (true, false) => {
                    tracing::warn!(failover = %name, server = %source, "the {side} does not answer NFS calls any more")
                }
                (false, true) => tracing::info!(failover = %name, server = %source, "the {side} answers"),
                _ => {}
            }
        }
        if before.epoch != 0 && before.epoch != self.state.epoch {
            tracing::info!(failover = %self.client.name, epoch = self.state.epoch, "a new epoch");
        }
    }

    /// Does one thing.
    fn act(&mut self, action: Action) -> After {
        if self.dry_run {
            if action != Action::LookSoon {
                tracing::warn!(failover = %self.client.name, "would: {action:?}");
            }
            self.state = machine::done(&self.state, self.state.on);
            return After::Nothing;
        }
        match action {
            Action::LookSoon => After::Soon,
            Action::Promote { to, above } => self.make_primary(to, above),
            Action::Switch { to, dead } => {
                if let Err(why) = self.switch(to, dead) {
                    tracing::error!(failover = %self.client.name, "{why}");
                    if let Some(pending) = self.pending.as_mut().filter(|p| p.to == to) {
                        pending.why = Some(why);
                    }
                }
                After::Nothing
            }
            Action::HandOver { from } => {
                tracing::info!(failover = %self.client.name, "the primary is back: requesting a hand-over from the {from}");
                self.ask_to_hand_over(from);
                After::Soon
            }
            Action::Alarm(alarm) => {
                self.alarm = Some(alarm);
                let text = words(alarm);
                tracing::error!(failover = %self.client.name, "{text}");
                self.notify(Event::Alarm, text.into());
                After::Nothing
            }
            Action::AllClear => {
                if self.alarm.take().is_some() {
                    tracing::info!(failover = %self.client.name, "the alarm is over");
                }
                After::Nothing
            }
        }
    }

    /// Who is blocked is looked up meanwhile: the switch ends their calls, where it can.
    fn make_primary(&mut self, to: Side, above: u64) -> After {
        let dead = self.state.on.is_some_and(|on| !self.state.servers[on as usize].alive);
        let point = self.mounts.point().to_owned();
        let (promoted, waiting) = std::thread::scope(|s| {
            let waiting = dead.then(|| s.spawn(|| stuck(&point)));
            (self.promote(to, above), waiting.and_then(|w| w.join().ok()))
        });
        self.state = machine::done(&self.state, self.state.on);
        match promoted {
            Ok(mark) => {
                self.refused = (0, String::new());
                self.waiting = waiting;
                self.primary_is(to, &mark);
                After::Again
            }
            Err(why) => {
                locked(&self.shown).failures += 1;
                if self.refused.1 != why {
                    tracing::error!(failover = %self.client.name, "cannot make the {to} primary: {why}");
                }
                self.refused = (self.refused.0 + 1, why);
                if self.refused.0 < INSIST { After::Soon } else { After::Nothing }
            }
        }
    }

    /// A server says that it is primary now; what was queried before is old.
    fn primary_is(&mut self, side: Side, mark: &Mark) {
        self.state = machine::promoted(&self.state, side, mark);
        self.not_before = Instant::now();
    }

    /// Has a server hand over to the other, by a thread; its outcome comes to
    /// [`Monitor::handed_over`].
    fn ask_to_hand_over(&self, from: Side) {
        let (agent, key, by) = (self.client.remote(from).agent(), self.key.clone(), self.host.clone());
        let pair = Arc::clone(&self.pair);
        let outcome = self.handed.0.clone();
        let spawned = std::thread::Builder::new().name("fansync-handover".into()).spawn(move || {
            let handed = match pair.ask(from, &agent, &key, &Request::HandOver { by }, HAND_OVER) {
                Ok(Reply::Done { mark }) => Ok(mark),
                Ok(Reply::Refused { why }) => Err(why),
                Ok(Reply::Report(_)) => Err("it answers something else".into()),
                Err(e) => Err(e.to_string()),
            };
            let _ = outcome.send((from.other(), handed));
        });
        if let Err(e) = spawned {
            let _ = self.handed.0.send((from.other(), Err(format!("cannot ask it: {e}"))));
        }
    }

    /// A hand-over has ended; whether to check again soon.
    fn handed_over(&mut self, to: Side, outcome: Result<Mark, String>) -> bool {
        match outcome {
            Ok(mark) => {
                if let Some(pending) = self.pending.as_mut().filter(|p| p.to == to) {
                    (pending.since, self.state.ordered) = (Some(Instant::now()), Some(to));
                }
                self.primary_is(to, &mark);
                self.advance([None, None])
            }
            Err(why) => {
                tracing::warn!(failover = %self.client.name, "no hand-over: {why}");
                if let Some(pending) = self.pending.take() {
                    let _ = pending.reply.send(Err(format!("the {} does not hand over: {why}", pending.to.other())));
                }
                true
            }
        }
    }

    fn promote(&self, to: Side, above: u64) -> Result<Mark, String> {
        tracing::warn!(failover = %self.client.name, above, "making the {to} primary");
        let request = Request::Promote { above, by: self.host.clone() };
        match self.pair.ask(to, &self.client.remote(to).agent(), &self.key, &request, PROMOTE) {
            Ok(Reply::Done { mark }) => Ok(mark),
            Ok(Reply::Refused { why }) => Err(why),
            Ok(Reply::Report(_)) => Err("it answers something else".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    fn switch(&mut self, to: Side, dead: bool) -> Result<String, String> {
        let waiting = match self.waiting.take() {
            Some(waiting) => waiting,
            None if dead => stuck(self.mounts.point()),
            None => Vec::new(),
        };
        let moved = self.mounts.switch(to, dead);
        let on = self.mounts.mounted().unwrap_or(self.state.on);
        self.state = machine::done(&self.state, on);
        match moved {
            Ok(moved) => {
                let text = format!(
                    "{} is on the {to} now ({}, epoch {}) after {:?}: {}",
                    self.client.mount.display(),
                    self.client.remote(to).source(),
                    self.state.epoch,
                    moved.took,
                    moved.how
                );
                tracing::warn!(failover = %self.client.name, "{text}");
                for s in &waiting {
                    tracing::warn!(failover = %self.client.name, pid = s.pid, name = %s.name, waits = %s.waits, "blocked on the dead server");
                }
                {
                    let mut shown = locked(&self.shown);
                    shown.switches += 1;
                    shown.last_switch.clone_from(&text);
                    shown.last_switch_seconds = moved.took.as_secs_f64();
                    shown.stuck = waiting;
                }
                let event = if to == Side::Primary { Event::Failback } else { Event::Switch };
                self.notify(event, text.clone());
                Ok(text)
            }
            Err(error) => {
                let text = format!("cannot move {} to the {to}: {error}; it is tried again", self.client.mount.display());
                locked(&self.shown).failures += 1;
                self.notify(Event::Alarm, text.clone());
                Err(text)
            }
        }
    }

    fn notify(&self, event: Event, text: String) {
        let on = self.state.on.map_or(String::new(), |s| s.to_string());
        let notice = Notice {
            event: event.name(),
            name: self.client.name.clone(),
            host: self.host.clone(),
            on,
            epoch: self.state.epoch,
            text,
        };
        notify::send(&self.client, event, &notice);
    }

    /// Carries out an order, or begins to; whether to check again soon.
    fn order(&mut self, order: Order, reply: Sender<Outcome>) -> bool {
        tracing::warn!(failover = %self.client.name, "by hand: {order:?}");
        let done = match order {
            Order::Hold | Order::Resume if self.dry_run => Err("this monitor runs with --dry-run".into()),
            Order::Hold => self.hold(true),
            Order::Resume => self.hold(false),
            Order::Switch { to } => match self.begin_move(to) {
                Ok(Some(text)) => Ok(text),
                Err(why) => Err(why),
                Ok(None) => {
                    let to = to.or(self.state.on.map(Side::other)).unwrap_or(Side::Primary);
                    self.pending = Some(Pending { to, reply, since: None, why: None });
                    return self.order_roles(to);
                }
            },
        };
        let _ = reply.send(done);
        false
    }

    fn hold(&mut self, held: bool) -> Outcome {
        let done = if held { std::fs::write(&self.held_file, b"") } else { std::fs::remove_file(&self.held_file) };
        match done {
            Err(e) if held || e.kind() != std::io::ErrorKind::NotFound => return Err(format!("cannot remember it: {e}")),
            _ => self.state.held = held,
        }
        Ok(if held { "held: nothing is switched by itself until resume" } else { "switches by itself again" }.into())
    }

    /// Whether a move may begin: `Some` when there is nothing to do.
    fn begin_move(&self, to: Option<Side>) -> Result<Option<String>, String> {
        if let Some(pending) = &self.pending {
            return Err(format!("a move to the {} is being made already", pending.to));
        }
        let on = self.state.on.ok_or("nothing is mounted; the first round that finds a primary mounts it")?;
        let to = to.unwrap_or(on.other());
        let newest = machine::authority(&self.state).ok().flatten();
        if to == on && newest == Some(on) {
            return Ok(Some(format!("it is on the {to} already")));
        }
        if to == on {
            return Err(format!("it is on the {to}, which is not primary"));
        }
        Ok(self.dry_run.then(|| format!("would move to the {to}")))
    }

    /// Makes a server primary for an ordered move: orderly when the mounted one answers, and not at
    /// all when it is primary already, as after a hand-over that the mount did not follow.
    fn order_roles(&mut self, to: Side) -> bool {
        if machine::authority(&self.state) == Ok(Some(to)) {
            self.ordered(to);
            return self.advance([None, None]);
        }
        if self.state.servers[to.other() as usize].alive {
            self.ask_to_hand_over(to.other());
            return true;
        }
        match self.promote(to, self.state.epoch) {
            Ok(mark) => {
                self.ordered(to);
                self.primary_is(to, &mark);
                self.advance([None, None])
            }
            Err(why) => {
                if let Some(pending) = self.pending.take() {
                    let _ = pending.reply.send(Err(why));
                }
                false
            }
        }
    }

    fn ordered(&mut self, to: Side) {
        self.state.ordered = Some(to);
        if let Some(pending) = &mut self.pending {
            pending.since = Some(Instant::now());
        }
    }

    /// Answers the client that gave an order, once the mount has followed or has not for long.
    fn report_outcome(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        let outcome = match &pending.since {
            _ if self.state.on == Some(pending.to) => Ok(locked(&self.shown).last_switch.clone()),
            Some(since) if since.elapsed() > MOVE => {
                let why = pending.why.as_deref().unwrap_or("the server does not answer");
                Err(format!("the {} is primary, but the mount has not followed yet, which is tried on: {why}", pending.to))
            }
            _ => {
                self.pending = Some(pending);
                return;
            }
        };
        let _ = pending.reply.send(outcome);
    }

    fn show(&mut self) {
        let calls = self.mounts.calls.still_there();
        let servers = [Side::Primary, Side::Backup].map(|side| {
            let health = self.state.servers[side as usize].clone();
            let reported = health.report.as_ref().map(|r| r.trouble.clone()).unwrap_or_default();
            ShownServer {
                source: self.client.remote(side).source(),
                ready: self.state.on == Some(side) || self.mounts.is_ready(side),
                trouble: self.mounts.trouble(side).map_or(reported, str::to_owned),
                health,
            }
        });
        let mut shown = locked(&self.shown);
        shown.rounds = self.rounds[0].min(self.rounds[1]);
        shown.name.clone_from(&self.client.name);
        shown.mount = self.client.mount.display().to_string();
        (shown.on, shown.epoch, shown.held, shown.busy) = (self.state.on, self.state.epoch, self.state.held, self.state.busy);
        (shown.alarm, shown.servers, shown.calls) = (self.alarm, servers.into(), calls);
    }
}

/// What follows an action.
enum After {
    Nothing,
    /// Check again soon.
    Soon,
    /// Decide again at once: roles have changed.
    Again,
}

/// An alarm for people.
pub(crate) fn words(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::BothDead => "neither server answers NFS calls; nothing can be done from here",
        Alarm::CopyNotWhole => {
            "the mounted server is dead, and the other holds no whole copy: not switched. If an older state is better than none, \
             promote it with `fansync failover role` there"
        }
        Alarm::SplitBrain => {
            "both servers say that they are primary of the same epoch: nothing is switched. Make one the follower with \
             `fansync failover role` there"
        }
        Alarm::Held => "a switch is due, but it is on hold: `fansync failover resume` lets it happen",
        Alarm::NoAgent => {
            "the mounted server is dead, and `fansync failover` does not answer on the other, so it cannot be made primary: start it there"
        }
    }
}
