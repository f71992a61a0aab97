//! A client's monitor: probes both servers, asks [`super::machine`] what to do, and does it.
//!
//! One thread for each `[[failover]]`. A round probes both servers at once, each by threads with their own deadlines, so a round
//! takes no longer than `timeout`. Orders by hand ([`super::control`]) come between rounds.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};
use serde::{Deserialize, Serialize};

use super::config::{Client, Event};
use super::machine::{self, Action, Alarm, Answer, Goal, Health, Side, State, Thresholds, step};
use super::mounts::{MountError, Mounts};
use super::notify::{self, Notice};
use super::server::locked;
use super::stuck::{Stuck, stuck};
use super::wire::{self, Key, Reply, Request};
use super::{mark, probe};

/// Between rounds while a hand-over is under way.
const SOON: Duration = Duration::from_millis(40);
/// How long a server may take to become primary; it asks its peer, which may be dead.
const PROMOTE: Duration = Duration::from_secs(3);
/// How long a hand-over may take; nobody waits for it.
const HAND_OVER: Duration = Duration::from_secs(60);

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

/// An order, and where its outcome goes.
pub type Told = (Order, Sender<Result<String, String>>);

/// What is shown of one `[[failover]]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// The mount point.
    pub mount: String,
    /// What is mounted.
    pub on: Option<Side>,
    /// The newest epoch.
    pub epoch: u64,
    /// Somebody said `hold`.
    pub held: bool,
    /// What is being done.
    pub busy: Option<Goal>,
    /// What needs somebody.
    pub alarm: Option<Alarm>,
    /// Primary, backup.
    pub servers: Vec<ShownServer>,
    /// Rounds of probes made.
    pub rounds: u64,
    /// Switches made.
    pub switches: u64,
    /// The last one, for people.
    pub last_switch: String,
    /// How long the last one took, seconds.
    pub last_switch_seconds: f64,
    /// Who was blocked on the dead server at the last switch.
    pub stuck: Vec<Stuck>,
    /// Calls that were given up and have not ended, with their process ids.
    pub calls: Vec<(String, u32)>,
}

/// One server of [`Shown`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ShownServer {
    /// As the mount table has it.
    pub source: String,
    /// Whether it counts as alive, its report.
    pub health: Health,
    /// Mounted, in place or aside.
    pub ready: bool,
    /// Why it cannot be mounted, or what it says is wrong.
    pub trouble: String,
}

/// One `[[failover]]` at work.
pub struct Monitor {
    client: Client,
    key: Key,
    host: String,
    thresholds: Thresholds,
    mounts: Mounts,
    state: State,
    begun: Instant,
    dry_run: bool,
    held_file: PathBuf,
    alarm: Option<Alarm>,
    rounds: u64,
    shown: Arc<Mutex<Shown>>,
}

impl Monitor {
    /// Prepares mounts and adopts what is mounted.
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn new(
        client: &Client,
        key: &Key,
        host: &str,
        run_dir: &std::path::Path,
        dry_run: bool,
        shown: Arc<Mutex<Shown>>,
    ) -> Result<Monitor, MountError> {
        let mounts = Mounts::new(client, run_dir)?;
        let held_file = run_dir.join(format!("{}.held", client.name));
        let mut state = State::default();
        (state.on, state.held) = (mounts.mounted()?, held_file.exists());
        Ok(Monitor {
            client: client.clone(),
            key: key.clone(),
            host: host.into(),
            thresholds: client.thresholds(),
            mounts,
            state,
            begun: Instant::now(),
            dry_run,
            held_file,
            alarm: None,
            rounds: 0,
            shown,
        })
    }

    /// Rounds for ever, or `rounds` of them.
    pub fn run(mut self, orders: &Receiver<Told>, rounds: Option<u32>) {
        let mut made = 0;
        loop {
            let begun = Instant::now();
            let soon = self.round();
            made += 1;
            if rounds.is_some_and(|n| made >= n) {
                return;
            }
            let every = if soon { SOON } else { self.client.probe.every };
            match orders.recv_timeout(every.saturating_sub(begun.elapsed())) {
                Ok((order, reply)) => {
                    let done = self.order(order);
                    let _ = reply.send(done);
                    self.show();
                }
                Err(crossbeam::channel::RecvTimeoutError::Timeout) => {}
                Err(crossbeam::channel::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn probe(&self) -> [Answer; 2] {
        let (client, key) = (&self.client, &self.key);
        let timeout = client.probe.timeout;
        std::thread::scope(|s| {
            [Side::Primary, Side::Backup]
                .map(|side| {
                    let remote = client.remote(side);
                    let nfs = s.spawn(move || probe::null_call(&remote.host, remote.port, remote.major(), timeout).is_ok());
                    let report = s.spawn(move || match wire::ask(&remote.agent(), key, &Request::Report, timeout) {
                        Ok(Reply::Report(report)) => Some(report),
                        _ => None,
                    });
                    (nfs, report)
                })
                .map(|(nfs, report)| Answer { nfs: nfs.join().unwrap_or_default(), report: report.join().unwrap_or_default() })
        })
    }

    /// One round; whether the next should come soon.
    fn round(&mut self) -> bool {
        let answers = self.probe();
        self.rounds += 1;
        // Somebody may have mounted or unmounted by hand.
        match self.mounts.mounted() {
            Ok(on) => self.state.on = on,
            Err(error) => tracing::warn!(failover = %self.client.name, %error, "what is mounted is not known"),
        }
        let before = self.state.clone();
        let (state, actions) = step(&self.state, &answers, &self.thresholds, self.begun.elapsed());
        self.state = state;
        self.tell_changes(&before);
        let mut soon = false;
        for action in actions {
            soon |= self.act(action);
        }
        if !self.dry_run {
            for side in [Side::Primary, Side::Backup] {
                if self.state.on != Some(side) && self.state.servers[side as usize].alive {
                    self.mounts.make_ready(side);
                }
            }
        }
        self.show();
        soon
    }

    fn tell_changes(&self, before: &State) {
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

    /// Does one thing; whether to look again soon.
    fn act(&mut self, action: Action) -> bool {
        if self.dry_run {
            if action != Action::LookSoon {
                tracing::warn!(failover = %self.client.name, "would: {action:?}");
            }
            self.state = machine::done(&self.state, self.state.on);
            return false;
        }
        match action {
            Action::LookSoon => true,
            Action::Promote { to, above } => {
                if let Err(why) = self.promote(to, above) {
                    tracing::error!(failover = %self.client.name, "cannot make the {to} primary: {why}");
                }
                self.state = machine::done(&self.state, self.state.on);
                true
            }
            Action::Switch { to, dead } => {
                if let Err(why) = self.switch(to, dead) {
                    tracing::error!(failover = %self.client.name, "{why}");
                }
                false
            }
            Action::HandOver { from } => {
                let (agent, key) = (self.client.remote(from).agent(), self.key.clone());
                let (by, name) = (self.host.clone(), self.client.name.clone());
                tracing::info!(failover = %name, "the primary is back: asking the {from} to hand over");
                let spawned = std::thread::Builder::new().name("fansync-handover".into()).spawn(move || {
                    match wire::ask(&agent, &key, &Request::HandOver { by }, HAND_OVER) {
                        Ok(Reply::Refused { why }) => tracing::warn!(failover = %name, "no hand-over: {why}"),
                        Ok(_) => {}
                        Err(error) => tracing::warn!(failover = %name, %error, "no hand-over"),
                    }
                });
                if let Err(error) = spawned {
                    tracing::warn!(%error, "cannot ask for a hand-over");
                }
                true
            }
            Action::Alarm(alarm) => {
                self.alarm = Some(alarm);
                let text = words(alarm);
                tracing::error!(failover = %self.client.name, "{text}");
                self.notify(Event::Alarm, text.into());
                false
            }
            Action::AllClear => {
                if self.alarm.take().is_some() {
                    tracing::info!(failover = %self.client.name, "the alarm is over");
                }
                false
            }
        }
    }

    fn promote(&self, to: Side, above: u64) -> Result<mark::Mark, String> {
        tracing::warn!(failover = %self.client.name, above, "making the {to} primary");
        let request = Request::Promote { above, by: self.host.clone() };
        match wire::ask(&self.client.remote(to).agent(), &self.key, &request, PROMOTE) {
            Ok(Reply::Done { mark }) => Ok(mark),
            Ok(Reply::Refused { why }) => Err(why),
            Ok(Reply::Report(_)) => Err("it answers something else".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    fn switch(&mut self, to: Side, dead: bool) -> Result<String, String> {
        let waiting = if dead { stuck(self.mounts.point()) } else { Vec::new() };
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
                let text = format!("cannot move {} to the {to}: {error}", self.client.mount.display());
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
        notify::tell(&self.client, event, &notice);
    }

    fn order(&mut self, order: Order) -> Result<String, String> {
        tracing::warn!(failover = %self.client.name, "by hand: {order:?}");
        if self.dry_run && !matches!(order, Order::Switch { .. }) {
            return Err("this monitor runs with --dry-run".into());
        }
        let remember = |e: std::io::Error| format!("cannot remember it: {e}");
        match order {
            Order::Hold => {
                std::fs::write(&self.held_file, b"").map_err(remember)?;
                self.state.held = true;
                Ok("held: nothing is switched by itself until resume".into())
            }
            Order::Resume => {
                match std::fs::remove_file(&self.held_file) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(remember(e)),
                    _ => self.state.held = false,
                }
                Ok("switches by itself again".into())
            }
            Order::Switch { to } => {
                let on = self.state.on.ok_or("nothing is mounted; the first round that finds a primary mounts it")?;
                let to = to.unwrap_or(on.other());
                if to == on {
                    return Err(format!("it is on the {to} already"));
                }
                if self.dry_run {
                    return Ok(format!("would move to the {to}"));
                }
                let alive = self.state.servers[on as usize].alive;
                if alive {
                    let agent = self.client.remote(on).agent();
                    match wire::ask(&agent, &self.key, &Request::HandOver { by: self.host.clone() }, HAND_OVER) {
                        Ok(Reply::Done { .. }) => {}
                        Ok(Reply::Refused { why }) => return Err(format!("the {on} does not hand over: {why}")),
                        Ok(Reply::Report(_)) => return Err("it answers something else".into()),
                        Err(e) => return Err(e.to_string()),
                    }
                } else {
                    self.promote(to, self.state.epoch)?;
                }
                self.switch(to, !alive)
            }
        }
    }

    fn show(&mut self) {
        let calls = self.mounts.calls.still_there();
        let servers = [Side::Primary, Side::Backup].map(|side| {
            let health = self.state.servers[side as usize].clone();
            let said = health.report.as_ref().map(|r| r.trouble.clone()).unwrap_or_default();
            ShownServer {
                source: self.client.remote(side).source(),
                ready: self.state.on == Some(side) || self.mounts.is_ready(side),
                trouble: self.mounts.trouble(side).map_or(said, str::to_owned),
                health,
            }
        });
        let mut shown = locked(&self.shown);
        shown.rounds = self.rounds;
        shown.name.clone_from(&self.client.name);
        shown.mount = self.client.mount.display().to_string();
        (shown.on, shown.epoch, shown.held, shown.busy) = (self.state.on, self.state.epoch, self.state.held, self.state.busy);
        (shown.alarm, shown.servers, shown.calls) = (self.alarm, servers.into(), calls);
    }
}

/// An alarm for people.
pub fn words(alarm: Alarm) -> &'static str {
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
        Alarm::Held => "a switch is due, but somebody said hold: `fansync failover resume` lets it happen",
        Alarm::NoAgent => {
            "the mounted server is dead, and `fansync failover` does not answer on the other, so it cannot be made primary: start it there"
        }
    }
}
