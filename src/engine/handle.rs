//! What other threads have of an engine: the way to it, and its commands.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crossbeam::channel::Sender;

use super::last::LastStatus;
use super::moved::MovedFiles;
use crate::config::Mirror;
use crate::control::{Steer, Steered, Waiting};
use crate::status;
use crate::sync::probe::RsyncFacts;
use crate::sys::event::EventFd;

/// The commands of an engine.
pub(crate) enum Command {
    /// Send the mirror's status.
    Status(Sender<status::Mirror>),
    /// See [`crate::control::Request::Flush`]; answered when done, when only failed paths are left,
    /// or at the deadline.
    Flush {
        /// Only this target.
        target: Option<String>,
        /// When to answer at the latest.
        deadline: Instant,
        /// Where to.
        reply: Sender<Vec<Waiting>>,
    },
    /// See [`crate::control::Request::Steer`].
    Steer {
        /// What to do.
        what: Steer,
        /// Only this target.
        target: Option<String>,
        /// Where the answer goes.
        reply: Sender<Vec<Steered>>,
    },
    /// Serve this between two turns.
    Call(super::Call),
    /// Compare the whole tree with every target.
    Reconcile,
    /// As [`Command::Stop`], with another engine in its place that serves the calls to this one.
    Replace(Box<Replacement>),
    /// Send what is pending, then end; at the deadline end anyway.
    Stop {
        /// When to end at the latest.
        deadline: Instant,
    },
}

/// What an engine is replaced with.
pub(crate) struct Replacement {
    /// What it will run on.
    pub(crate) mirror: Mirror,
    pub(crate) facts: RsyncFacts,
    /// When to end at the latest.
    pub(crate) deadline: Instant,
}

/// The way to one engine.
#[derive(Clone)]
pub(crate) struct Handle {
    /// The mirror's name.
    pub(crate) mirror: String,
    /// The names of its targets.
    pub(crate) targets: Vec<String>,
    pub(crate) commands: Sender<Command>,
    /// Rung after each command.
    pub(crate) wake: Arc<EventFd>,
    /// Counts the engine's turns, and the steps of what takes long within one. An engine that was
    /// woken and whose count stands still is stuck.
    pub(crate) turns: Arc<AtomicU64>,
    /// What it answered last.
    pub(crate) last: LastStatus,
    /// What went from the source.
    pub(crate) moved: MovedFiles,
}

impl Handle {
    /// Sends a command; `false` when the engine has ended.
    pub(crate) fn send(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        self.wake.wake();
        sent
    }
}
