//! The way to a follower: the commands of other threads, what wakes it for them, and its end.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, unbounded};

use crate::config::Mirror;
use crate::engine::{Command, Handle, Replacement};
use crate::sys::event::EventFd;

/// See the module's text.
pub(super) struct Door {
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    turns: Arc<AtomicU64>,
    /// When the follower ends at the latest.
    stop_at: Option<Instant>,
    successor: Option<Box<Replacement>>,
}

impl Door {
    /// That of a follower of `mirror`, and what other threads have of it.
    ///
    /// # Errors
    /// eventfd(2).
    pub(super) fn of(mirror: &Mirror) -> std::io::Result<(Door, Handle)> {
        let (commands, taken) = unbounded();
        let wake = Arc::new(EventFd::new()?);
        let turns: Arc<AtomicU64> = Arc::default();
        let handle = Handle {
            mirror: mirror.name.clone(),
            targets: mirror.targets.iter().map(|t| t.name.clone()).collect(),
            commands,
            wake: Arc::clone(&wake),
            turns: Arc::clone(&turns),
            last: Default::default(),
            moved: Default::default(),
        };
        Ok((Door { commands: taken, wake, turns, stop_at: None, successor: None }, handle))
    }

    /// The next command.
    pub(super) fn next(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// There is another turn at once.
    pub(super) fn ring(&self) {
        self.wake.wake();
    }

    /// For other threads that have something for the follower.
    pub(super) fn bell(&self) -> Arc<EventFd> {
        Arc::clone(&self.wake)
    }

    /// What is readable once another thread rang.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&*self.wake)
    }

    /// A turn begins.
    pub(super) fn begin_turn(&self) {
        self.wake.clear();
    }

    /// A turn is over.
    pub(super) fn end_turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// The follower is to end.
    pub(super) fn stop(&mut self, deadline: Instant) {
        self.stop_at = Some(deadline);
    }

    /// The follower is to end, and one with another configuration takes its place.
    pub(super) fn replace(&mut self, next: Box<Replacement>) {
        self.stop_at = Some(next.deadline);
        self.successor = Some(next);
    }

    /// Whether the follower is to end.
    pub(super) fn is_closing(&self) -> bool {
        self.stop_at.is_some()
    }

    /// Whether there is no more time for that.
    pub(super) fn is_late(&self) -> bool {
        self.stop_at.is_some_and(|at| Instant::now() >= at)
    }

    /// When there is no more time, on the clock that began at `started`.
    pub(super) fn due(&self, started: Instant) -> Option<Duration> {
        self.stop_at.map(|at| at.saturating_duration_since(started))
    }

    /// The same door for the next follower, if there is to be one.
    pub(super) fn pass_on(mut self) -> Option<(Door, Box<Replacement>)> {
        let next = self.successor.take()?;
        Some((Door { stop_at: None, ..self }, next))
    }
}
