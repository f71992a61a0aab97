//! A server's part: it answers for its tree's mark, and exports the tree as the mark says.
//!
//! Promises: the tree is exported read-write only while its mark says primary **and** no server is
//! known to have taken over: after a start that is the peer's word, or an epoch that was raised
//! since. A server that is promoted asks its peer to step down first; a peer that says no is
//! obeyed, one that does not answer counts as dead. The mark is on the disk before the exports
//! change to read-write, and after they have changed to read-only.
//!
//! A server that is ordered to step down is perhaps only slow: it becomes read-only, and pushes
//! what it has acknowledged for as long as `flush_timeout` allows before its mark changes, since
//! afterwards it is fenced.
//!
//! Hand-over (fail-back) is in [`super::handover`].
//!
//! Gives up: two servers that cannot reach each other, promoted by two clients that each see one of
//! them, are both primary until they see each other again; then the older epoch steps down, and
//! what only it held is kept aside.

use std::net::{TcpListener, ToSocketAddrs};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::child::Calls;
use super::config::Server as Config;
use super::front::Front;
use super::grace;
use super::machine::Report;
use super::mirror;
use super::wire::{self, Asker, Id, Key, Reply, Request};
use crate::role::mark::{self, Mark, MarkError, Role};
use crate::status::{self, TargetState};

/// How long the peer may take to answer.
pub(super) const PEER: Duration = Duration::from_millis(700);
/// How long a peer that accepts the connection may take to step down, besides its flush: it sets
/// exports and writes its mark.
const STEP_DOWN: Duration = Duration::from_secs(2);
/// A peer that this many checks in a row did not reach, ...
const SILENT_CHECKS: u32 = 2;
/// ... has this long to accept the connection over which it is ordered to step down, as clients
/// wait meanwhile.
const CONNECT_SILENT: Duration = Duration::from_millis(100);
/// Between two checks of the peer and the mark.
const TEND: Duration = Duration::from_millis(500);
/// Exports are set anew this often: a restart of the NFS server makes them what /etc/exports says.
const EXPORT_AGAIN: Duration = Duration::from_secs(10);
const EXPORTFS: Duration = Duration::from_secs(10);
/// How long another change of roles may take before a request is refused.
const BUSY: Duration = Duration::from_millis(400);

/// The server role of this host.
pub(crate) struct Server {
    pub(super) cfg: Config,
    pub(super) key: Key,
    pub(super) host: String,
    /// Held while the role changes.
    gate: Mutex<()>,
    pub(super) now: Mutex<Now>,
    id: Id,
    front: Arc<Front>,
}

/// What changes.
#[derive(Debug, Default)]
pub(super) struct Now {
    /// How it is exported; `None` before that was set.
    pub(super) writable: Option<bool>,
    exported: Option<Instant>,
    /// The epoch that no server is known to have overtaken.
    pub(super) confirmed: u64,
    /// The epoch at the first check: a later one was raised under our eyes.
    first: Option<u64>,
    pub(super) handing_over: bool,
    peer_whole: Option<bool>,
    /// Checks in a row that did not reach the peer.
    silent: u32,
    trouble: String,
    /// Why its mirror cannot hand over, whatever else is well.
    unfit: String,
}

/// Locks what stays right even if a holder panicked.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The epoch above this one.
pub(super) fn next_epoch(highest: u64) -> Result<u64, String> {
    let next = highest.checked_add(1).filter(|next| *next <= mark::LAST_EPOCH);
    next.ok_or_else(|| format!("there is no epoch above {highest}, which no switching leads to: write both marks anew, by hand"))
}

/// How long a peer that so many checks in a row did not reach may take to accept a connection.
fn to_connect(silent: u32) -> Duration {
    if silent < SILENT_CHECKS { wire::CONNECT } else { CONNECT_SILENT }
}

impl Server {
    /// A server that serves nothing yet; exports are set by the first round of [`Server::run`].
    ///
    /// # Errors
    /// Those of reading /dev/urandom.
    pub(crate) fn new(cfg: &Config, key: &Key, host: &str, front: &Arc<Front>) -> std::io::Result<Arc<Server>> {
        Ok(Arc::new(Server {
            cfg: cfg.clone(),
            key: key.clone(),
            host: host.into(),
            gate: Mutex::new(()),
            now: Mutex::default(),
            id: Id::new()?,
            front: Arc::clone(front),
        }))
    }

    /// Listens, and maintains mark, exports and peer from now on, on threads of its own.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub(crate) fn run(self: Arc<Self>) -> std::io::Result<()> {
        let listener = TcpListener::bind(self.cfg.listen_on()?)?;
        tracing::info!(listen = %listener.local_addr()?, tree = %self.cfg.tree.display(), "server role");
        let tending = Arc::clone(&self);
        std::thread::Builder::new().name("fansync-tend".into()).spawn(move || {
            tending.resume_hand_over();
            loop {
                tending.carry_on();
                tending.tend();
                std::thread::sleep(TEND);
            }
        })?;
        let serving = Arc::clone(&self);
        self.front.serve(listener, &self.key, self.id, Arc::new(move |request| serving.serve(request)))
    }

    /// Notes the peer's addresses, whose connections find a place when strangers have taken the
    /// others: a name may get others.
    fn look_up_peer(&self) {
        if let Ok(found) = self.cfg.peer.to_socket_addrs() {
            self.front.peers(found.map(|at| at.ip().to_canonical()).collect());
        }
    }

    /// Answers one request.
    pub(crate) fn serve(self: &Arc<Self>, request: Request) -> Reply {
        let done = match request {
            Request::Report => return Reply::Report(self.report()),
            Request::Promote { above, by } => self.promote(above, &by),
            Request::StepDown { by } => self.step_down(&by),
            Request::HandOver { by } => self.hand_over(&by),
        };
        match done {
            Ok(mark) => Reply::Done { mark },
            Err(why) => Reply::Refused { why },
        }
    }

    /// What is known of this side.
    pub(crate) fn report(&self) -> Report {
        let mark = mark::read(&self.cfg.tree);
        let now = locked(&self.now);
        Report {
            trouble: match &mark {
                Err(e) => e.to_string(),
                Ok(_) if now.trouble.is_empty() => now.unfit.clone(),
                Ok(_) => now.trouble.clone(),
            },
            mark: mark.ok().flatten(),
            handing_over: now.handing_over,
            writable: now.writable == Some(true),
            peer_whole: now.peer_whole,
        }
    }

    pub(super) fn ask_peer(&self, request: &Request, deadline: Duration) -> Result<Reply, wire::WireError> {
        wire::ask(&self.front, &self.cfg.peer, &self.key, &Asker::server(self.id), request, deadline).map(|(reply, _)| reply)
    }

    fn ask_to_step_down(&self) -> Result<Reply, wire::WireError> {
        let request = Request::StepDown { by: self.host.clone() };
        let deadline = STEP_DOWN + self.cfg.flush_timeout;
        let connect = to_connect(locked(&self.now).silent);
        let asker = Asker::server(self.id);
        wire::ask_within(&self.front, &self.cfg.peer, &self.key, &asker, &request, connect, deadline).map(|(reply, _)| reply)
    }

    fn gate(&self) -> Result<MutexGuard<'_, ()>, String> {
        let begun = Instant::now();
        loop {
            match self.gate.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(e)) => return Ok(e.into_inner()),
                Err(TryLockError::WouldBlock) if begun.elapsed() < BUSY => std::thread::sleep(Duration::from_millis(5)),
                Err(TryLockError::WouldBlock) => return Err("its role is being changed by another process".into()),
            }
        }
    }

    pub(super) fn own(&self) -> Result<Mark, String> {
        match mark::read(&self.cfg.tree) {
            Ok(Some(mark)) => Ok(mark),
            Ok(None) => Err(format!("{} holds no role mark; write one with `fansync failover role`", self.cfg.tree.display())),
            Err(e) => Err(e.to_string()),
        }
    }

    pub(super) fn raise(&self, mark: &Mark) -> Result<(), String> {
        mark::raise(&self.cfg.tree, mark).map(drop).map_err(|e: MarkError| e.to_string())
    }

    fn promote(&self, above: u64, by: &str) -> Result<Mark, String> {
        let _gate = self.gate()?;
        let own = self.own()?;
        if own.role == Role::Primary && own.epoch > above {
            return Ok(own);
        }
        let mut highest = above.max(own.epoch).max(self.reserved());
        match self.ask_to_step_down() {
            Ok(Reply::Done { mark }) => highest = highest.max(mark.epoch),
            Ok(Reply::Refused { why }) => return Err(format!("the peer does not step down: {why}")),
            Ok(Reply::Report(_)) => return Err("the peer answers something else".into()),
            // Perhaps it lives, and was not queried.
            Err(error) if error.is_ours() => return Err(error.to_string()),
            Err(error) => tracing::warn!(%error, "the peer is not reached, and counts as dead"),
        }
        let mark = Mark::new(next_epoch(highest)?, Role::Primary, &format!("promoted for {by}"));
        self.raise(&mark)?;
        locked(&self.now).confirmed = mark.epoch;
        tracing::warn!(epoch = mark.epoch, by, "this server is primary now");
        // Until now it was read-only, so no client holds anything here that it would claim again.
        grace::end();
        self.export(true);
        Ok(mark)
    }

    fn step_down(&self, by: &str) -> Result<Mark, String> {
        let own = self.own()?;
        if own.role == Role::Follower {
            return Ok(own);
        }
        let _gate = self.gate()?;
        if locked(&self.now).handing_over {
            return Err("it hands over right now".into());
        }
        self.read_only();
        match self.flush_last(self.cfg.flush_timeout) {
            Ok(()) => tracing::info!("the peer holds everything that was acknowledged here"),
            Err(why) => {
                tracing::warn!("stepping down with writes that the peer does not hold, which are kept aside later: {why}")
            }
        }
        self.follow(&format!("stepped down for {by}"))
    }

    /// Read-only first: from then on no client gets a reply that anything is stored.
    fn read_only(&self) {
        if !self.export(false) {
            // The NFS server may be what is broken here. Clients leave by the mark, and what they
            // write until then is kept aside later.
            tracing::error!("stepping down although the exports cannot be made read-only");
        }
    }

    fn follow(&self, why: &str) -> Result<Mark, String> {
        let own = self.own()?;
        let mark = Mark::new(own.epoch, Role::Follower, why);
        self.raise(&mark)?;
        tracing::warn!(epoch = mark.epoch, why, "this server is a follower now");
        Ok(mark)
    }

    /// Sets the exports; whether that went well.
    pub(super) fn export(&self, writable: bool) -> bool {
        let options = if self.cfg.export_options.is_empty() { String::new() } else { format!(",{}", self.cfg.export_options) };
        let mode = if writable { "rw" } else { "ro" };
        for export in &self.cfg.exports {
            let mut command = Command::new(&self.cfg.exportfs);
            command.args(["-o", &format!("{mode}{options}"), export]);
            if let Err(error) = Calls::default().run("exportfs", command, EXPORTFS) {
                let text = format!("cannot export {export} {mode}: {error}");
                let mut now = locked(&self.now);
                if now.trouble != text {
                    tracing::error!("{text}");
                }
                (now.trouble, now.writable, now.exported) = (text, None, None);
                return false;
            }
        }
        let mut now = locked(&self.now);
        if now.writable != Some(writable) {
            tracing::info!(exports = ?self.cfg.exports, "exported {}", if writable { "read-write" } else { "read-only" });
        }
        now.trouble.clear();
        (now.writable, now.exported) = (Some(writable), Some(Instant::now()));
        true
    }

    /// One round: does another server have a newer epoch, and are the exports as the mark says.
    fn tend(&self) {
        self.look_at_mirror();
        self.look_up_peer();
        let peer = self.ask_peer(&Request::Report, PEER);
        {
            let silent = &mut locked(&self.now).silent;
            *silent = match &peer {
                Ok(_) => 0,
                Err(error) if error.is_ours() => *silent,
                Err(_) => silent.saturating_add(1),
            };
        }
        let Ok(_gate) = self.gate() else { return };
        if locked(&self.now).handing_over {
            return;
        }
        let own = match self.own() {
            Ok(own) => own,
            Err(why) => {
                if locked(&self.now).writable != Some(false) {
                    tracing::error!("not exported read-write: {why}");
                    self.export(false);
                }
                locked(&self.now).trouble = why;
                return;
            }
        };
        let first = *locked(&self.now).first.get_or_insert(own.epoch);
        if own.epoch > first {
            locked(&self.now).confirmed = own.epoch;
        }
        let mut split = false;
        if own.role == Role::Primary
            && let Ok(Reply::Report(report)) = &peer
        {
            match &report.mark {
                Some(theirs) if theirs.epoch > own.epoch => {
                    tracing::warn!(ours = own.epoch, "the peer is {theirs}, newer than we are: stepping down");
                    self.read_only();
                    let _ = self.follow("the peer has a newer epoch");
                    return;
                }
                Some(theirs) if theirs.epoch == own.epoch && theirs.role == Role::Primary => split = true,
                _ => locked(&self.now).confirmed = own.epoch,
            }
        }
        let confirmed = locked(&self.now).confirmed == own.epoch;
        let writable = own.role == Role::Primary && confirmed;
        let (have, old) = {
            let now = locked(&self.now);
            (now.writable, now.exported.is_none_or(|at| at.elapsed() > EXPORT_AGAIN))
        };
        if (have != Some(writable) || old) && !(split && have.is_some()) {
            self.export(writable);
        }
        let trouble = if split {
            format!("both servers are primary of epoch {}: make one the follower with `fansync failover role`", own.epoch)
        } else if own.role == Role::Primary && !confirmed {
            "primary by its mark, but read-only until the peer answers that it has not taken over; \
             if the peer is lost for good, raise the epoch: `fansync failover role TREE --set primary --epoch N`"
                .into()
        } else {
            return;
        };
        let mut now = locked(&self.now);
        if now.trouble != trouble {
            tracing::error!("{trouble}");
            now.trouble = trouble;
        }
    }

    /// Whether the peer holds a whole copy, by the mirror daemon that pushes to it.
    fn look_at_mirror(&self) {
        let mirror = mirror::of(&self.cfg);
        let whole = mirror.as_ref().map(|m| {
            // A daemon that has confirmed nothing yet may know nothing of its targets.
            let whole = |t: &status::Target| t.holds_whole_copy() && t.batches > 0;
            !m.targets.is_empty() && m.targets.iter().all(whole)
        });
        // A target that is down for a moment still holds the whole copy that it held.
        let away = |t: &status::Target| matches!(t.state, TargetState::Down | TargetState::Probing | TargetState::Paused);
        let down = mirror.as_ref().is_some_and(|m| m.targets.iter().any(away));
        let unfit = mirror.as_ref().and_then(mirror::unfit).unwrap_or_default();
        let mut now = locked(&self.now);
        if now.unfit != unfit && !unfit.is_empty() {
            tracing::warn!("{unfit}");
        }
        now.unfit = unfit;
        if let Some(whole) = whole
            && !(down && now.peer_whole.is_some())
        {
            now.peer_whole = Some(whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_silent_peer_is_hurried() {
        let silent = [0, 1, 2, 9].map(to_connect);
        assert_eq!(silent, [wire::CONNECT, wire::CONNECT, CONNECT_SILENT, CONNECT_SILENT]);
    }
}
