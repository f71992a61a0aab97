//! Handing over to the peer, so that no acknowledged write is lost: fail-back, and any planned
//! switch.
//!
//! The server that is primary does it; its mirror daemon keeps the peer equal all the time, and has
//! kept aside what only the peer held ([`crate::role::fence`]), so what is left at the end are the
//! last changes. In this order:
//!
//! 1. The peer reports that it is a follower. The mirror daemon reports that it follows open files
//!    and that the peer holds a whole copy. Clients probe more often from here on. What is pending
//!    is flushed until a flush takes a third of what clients may wait.
//! 2. The intention is written down (`.fansync/handover`), with the epoch that the peer gets.
//! 3. Exports read-only: from now on clients get EROFS, and nothing more is acknowledged.
//! 4. Flush, twice, both within what clients may wait.
//! 5. The mark: follower. This is the point of no return.
//! 6. The peer is promoted, by which it exports read-write and pushes; clients see its mark and
//!    move.
//!
//! Any doubt before 5 undoes 3 and says why; the epoch that was reserved is not used again. A crash
//! before 5 is undone by the next start, one after 5 is carried on by it: the peer is requested to
//! take over until it has, or until a client has promoted the other server, which counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::mirror;
use super::server::{PEER, Server, locked, next_epoch};
use super::wire::{Reply, Request};
use crate::control;
use crate::role::mark::{self, Mark, Role};

/// The intention, beside the mark.
const JOURNAL_NAME: &str = "handover";
/// How long what is pending may take before anything is changed.
const FIRST_FLUSH: Duration = Duration::from_secs(30);
/// So that clients know of it before writes are refused.
const NOTICE: Duration = Duration::from_millis(1200);
/// How long the peer may take to be promoted.
const PROMOTE: Duration = Duration::from_secs(3);
/// How long the caller of a hand-over waits; after that the rounds carry it on.
const INSIST: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Journal {
    /// Ours.
    epoch: u64,
    /// The peer's, or above.
    next: u64,
    by: String,
}

/// Sets a flag back, whatever happens.
struct HandingOver<'a>(&'a Server);

impl Drop for HandingOver<'_> {
    fn drop(&mut self) {
        locked(&self.0.now).handing_over = false;
    }
}

impl Server {
    fn journal(&self) -> Option<Journal> {
        // Only one that is root's or ours, as the mark: it says which epoch the peer gets.
        let text = mark::beside(&self.cfg.tree, JOURNAL_NAME).ok()??;
        serde_json::from_slice(&text).ok().filter(|j: &Journal| j.next <= mark::LAST_EPOCH)
    }

    /// The highest epoch that was promised to the peer and may be in use.
    pub(super) fn reserved(&self) -> u64 {
        self.journal().map_or(0, |j| j.next)
    }

    fn forget(&self) -> Result<(), String> {
        mark::remove_beside(&self.cfg.tree, JOURNAL_NAME).map_err(|e| e.to_string())
    }

    fn flush(&self, within: Duration) -> Result<(), String> {
        let timeout_ms = within.as_millis() as u64;
        let request = control::Request::Flush { mirror: Some(self.cfg.mirror.clone()), target: None, timeout_ms };
        match control::ask(&self.cfg.mirror_socket, &request, within) {
            Ok(control::Reply::Flush(flushed)) => match flushed.waiting.first() {
                None => Ok(()),
                Some(w) => Err(format!("the peer does not hold every change: {}", w.why)),
            },
            Ok(control::Reply::Error { message }) => Err(message),
            Ok(_) => Err("the mirror daemon answers something else".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// The last changes of a server that has become read-only. Twice: a write that the NFS server
    /// had let in just before may end after the first.
    pub(super) fn flush_last(&self, within: Duration) -> Result<(), String> {
        let begun = Instant::now();
        self.flush(within)?;
        self.flush(within.saturating_sub(begun.elapsed()))
    }

    /// What is pending may be much; under load each flush is shorter than the one before, or the
    /// mirror cannot follow.
    fn flush_until_short(&self) -> Result<(), String> {
        let begun = Instant::now();
        while begun.elapsed() < FIRST_FLUSH {
            let this = Instant::now();
            self.flush(FIRST_FLUSH)?;
            if this.elapsed() < self.cfg.flush_timeout / 3 {
                return Ok(());
            }
        }
        Err(format!("changes come faster than the mirror carries them: no flush took less than {:?}", self.cfg.flush_timeout / 3))
    }

    /// Hands over to the peer. Returns the peer's mark.
    pub(super) fn hand_over(self: &Arc<Self>, by: &str) -> Result<Mark, String> {
        {
            let mut now = locked(&self.now);
            if std::mem::replace(&mut now.handing_over, true) {
                return Err("a hand-over is under way already".into());
            }
        }
        let _flag = HandingOver(self);
        let begun = Instant::now();
        let own = self.own()?;
        if own.role != Role::Primary {
            return Err(format!("this server is {own}, and has nothing to hand over"));
        }
        let peer = match self.ask_peer(&Request::Report, PEER) {
            Ok(Reply::Report(report)) => report,
            Ok(_) => return Err("the peer answers something else".into()),
            Err(e) => return Err(e.to_string()),
        };
        match peer.mark {
            Some(Mark { role: Role::Follower, epoch, .. }) if epoch <= own.epoch => {}
            Some(mark) => return Err(format!("the peer is {mark}, and not a follower of ours")),
            None => return Err(format!("the peer has no role mark: {}", peer.trouble)),
        }
        let mirror = mirror::of(&self.cfg).ok_or("the mirror daemon does not answer, so it is not known what the peer holds")?;
        if let Some(why) = mirror::unfit(&mirror) {
            return Err(why);
        }
        for t in &mirror.targets {
            if !t.holds_whole_copy() {
                return Err(format!("the peer does not hold a whole copy yet: target {} is {} {}", t.name, t.state, t.reason));
            }
        }
        tracing::warn!(by, "hand-over to the peer begins");
        std::thread::sleep(NOTICE);
        self.flush_until_short()?;

        let next = next_epoch(own.epoch.max(self.reserved()))?;
        let by_whom: String = by.chars().take(200).collect();
        let journal = Journal { epoch: own.epoch, next, by: by_whom };
        let text = serde_json::to_vec(&journal).map_err(|e| e.to_string())?;
        mark::put_beside(&self.cfg.tree, JOURNAL_NAME, &text, 0o600).map_err(|e| e.to_string())?;
        let frozen = Instant::now();
        let ready = match self.export(false) {
            true => self.flush_last(self.cfg.flush_timeout),
            false => Err("the exports cannot be made read-only".into()),
        };
        let still = self.own().and_then(|m| if m == own { Ok(()) } else { Err(format!("this server became {m} meanwhile")) });
        if let Err(why) = ready.and(still) {
            if self.own().is_ok_and(|m| m == own) {
                self.export(true);
            }
            self.forget()?;
            tracing::error!("hand-over undone after {:?}: {why}", frozen.elapsed());
            return Err(why);
        }
        self.raise(&Mark::new(own.epoch, Role::Follower, &format!("handed over for {by}")))?;
        let mark = self.insist(&journal, INSIST)?;
        tracing::warn!(pause = ?frozen.elapsed(), whole = ?begun.elapsed(), "handed over: the peer is {mark}");
        Ok(mark)
    }

    /// Asks the peer to take over until it has, or a server is primary of the reserved epoch or a
    /// later one.
    fn insist(&self, journal: &Journal, within: Duration) -> Result<Mark, String> {
        let begun = Instant::now();
        loop {
            let own = self.own()?;
            if own.role == Role::Primary {
                self.forget()?;
                return Err(format!("this server was promoted meanwhile: {own}"));
            }
            let by = format!("{} (hand-over for {})", self.host, journal.by);
            let why = match self.ask_peer(&Request::Promote { above: journal.next - 1, by }, PROMOTE) {
                Ok(Reply::Done { mark }) => {
                    self.forget()?;
                    return Ok(mark);
                }
                Ok(Reply::Refused { why }) => why,
                Ok(Reply::Report(_)) => "the peer answers something else".into(),
                Err(e) => e.to_string(),
            };
            if begun.elapsed() >= within {
                return Err(format!("the peer has not taken over yet, and is asked again: {why}"));
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Undoes what a crash has interrupted before the mark changed. Called at the start, before the
    /// exports are set.
    pub(super) fn resume_hand_over(&self) {
        let Some(journal) = self.journal() else {
            // One that is half there was never acted upon: its directory entry came after its
            // content.
            let _ = self.forget();
            return;
        };
        match self.own() {
            Ok(Mark { role: Role::Primary, epoch, .. }) => {
                tracing::warn!(epoch, "a hand-over was interrupted before the mark changed: it is undone");
                if let Err(why) = self.forget() {
                    tracing::error!("{why}");
                }
            }
            Ok(own) => {
                tracing::warn!(
                    epoch = own.epoch,
                    next = journal.next,
                    "a hand-over was interrupted after the mark changed: it is carried on"
                );
                self.export(false);
            }
            Err(why) => tracing::error!("{why}"),
        }
    }

    /// Carries on what was interrupted after the mark changed, by a crash of either side or by a
    /// peer that did not answer for long. Called in each round; one attempt.
    pub(super) fn carry_on(&self) {
        let Some(journal) = self.journal() else { return };
        if std::mem::replace(&mut locked(&self.now).handing_over, true) {
            return;
        }
        let _flag = HandingOver(self);
        match self.insist(&journal, Duration::ZERO) {
            Ok(mark) => tracing::warn!("handed over: the peer is {mark}"),
            Err(why) => tracing::warn!("{why}"),
        }
    }
}
