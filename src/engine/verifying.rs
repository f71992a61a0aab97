//! The engine's part in a verification: what to compare and how, and what became dirty meanwhile.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};

use super::Engine;
use super::calls::{self, Call, OnTarget};
use super::{Command, Handle};
use crate::config::{Mirror, Target};
use crate::control::Waiting;
use crate::feed::barriers::Questions;
use crate::feed::record::Identity;
use crate::path::RelPath;
use crate::root::Root;
use crate::status;
use crate::targets::{Sides, Wrong};

/// How long an engine may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `status` shows of a target's verifications; shared with the thread that runs one.
pub(crate) type Board = Arc<Mutex<status::Verify>>;

/// What is compared with what.
pub(crate) struct Plan {
    pub(crate) mirror: Mirror,
    /// The target.
    pub(crate) sides: Sides,
    /// The source.
    pub(crate) root: Root,
    /// Where the progress of the comparison and its findings go.
    pub(crate) board: Board,
    /// rsync gets only what other processes leave over.
    pub(crate) idle: bool,
}

/// A follower, which is compared with its upstream.
pub(crate) struct Followed {
    pub(crate) mirror: Mirror,
    /// What it pulls from.
    pub(crate) upstream: Target,
    /// The tree that the feed is of, as far as that is known.
    pub(crate) identity: Option<Identity>,
    /// The source is held.
    pub(crate) is_held: bool,
    /// A directory for the upstream's mark, which is made and removed.
    pub(crate) dir: PathBuf,
    /// As a plan's.
    pub(crate) board: Board,
}

/// Verifications of an engine's targets.
#[derive(Default)]
pub(super) struct Verifying {
    boards: Vec<Board>,
    next_watch: u64,
}

impl Verifying {
    pub(super) fn new(targets: usize) -> Verifying {
        Verifying { boards: (0..targets).map(|_| Board::default()).collect(), next_watch: 0 }
    }

    /// The number of a watch.
    pub(super) fn next_watch(&mut self) -> u64 {
        self.next_watch += 1;
        self.next_watch
    }

    pub(super) fn status(&self, at: usize) -> Option<status::Verify> {
        let board = self.boards.get(at)?.lock().unwrap_or_else(PoisonError::into_inner);
        (board.running || board.ended_unix > 0.0).then(|| board.clone())
    }
}

/// A target of a running daemon, as a verification sees it.
pub(crate) struct Live {
    handle: Handle,
    target: String,
}

impl Live {
    /// The target of this name.
    pub(crate) fn new(handle: Handle, target: String) -> Live {
        Live { handle, target }
    }

    /// `mirror/target`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.handle.mirror, self.target)
    }

    fn call<T>(&self, what: impl FnOnce(Sender<T>) -> OnTarget) -> Option<T> {
        calls::call(&self.handle, PATIENCE, |reply| Call::OnTarget(self.target.clone(), what(reply)))
    }

    /// What is to be compared with what; in words, why nothing can be. `None`: the engine has
    /// ended.
    pub(crate) fn plan(&self) -> Option<Result<Plan, String>> {
        self.call(OnTarget::Plan)
    }

    /// Waits until what changed before this call is on the target, at most `within`. What is not,
    /// and why; `true` when waiting longer would not help.
    pub(crate) fn flush(&self, within: Duration) -> Option<(Vec<Waiting>, bool)> {
        let deadline = Instant::now() + within;
        let (reply, answer) = bounded(1);
        self.handle.send(Command::Flush { target: Some(self.target.clone()), deadline, reply });
        let waiting: Vec<Waiting> = answer.recv_timeout(within + PATIENCE).ok()?;
        let hopeless = !waiting.is_empty() && Instant::now() < deadline;
        Some((waiting, hopeless))
    }

    /// Notes from now on which of `paths` become dirty. Gives the number of the watch, and the
    /// paths that the target is owed already.
    pub(crate) fn watch(&self, paths: Vec<RelPath>) -> Option<(u64, Vec<RelPath>)> {
        self.call(|reply| OnTarget::Watch(paths, reply))
    }

    /// The paths that fail on every try.
    pub(crate) fn failing(&self) -> Option<Vec<RelPath>> {
        self.call(OnTarget::Failing)
    }

    /// Ends a watch: the paths that became dirty since, or are owed.
    pub(crate) fn unwatch(&self, id: u64) -> Option<Vec<RelPath>> {
        self.call(|reply| OnTarget::Unwatch(id, reply))
    }

    /// Questions of the followers of a feed; `None`: the engine does not answer, or it is no feed.
    pub(crate) fn questions(&self) -> Option<Questions> {
        self.call(OnTarget::Questions)?
    }

    /// What a follower is compared with; `Some(None)`: it is none; `None`: it has ended.
    pub(crate) fn followed(&self) -> Option<Option<Followed>> {
        self.call(OnTarget::Followed)
    }

    /// Waits, at most `within`, until a follower has read a record that its source published after
    /// all that has changed there by now; `false`: it has not.
    pub(crate) fn barrier(&self, within: Duration) -> Option<bool> {
        let deadline = Instant::now() + within;
        calls::call(&self.handle, within + PATIENCE, |reply| {
            Call::OnTarget(self.target.clone(), OnTarget::Barrier(deadline, reply))
        })
    }

    /// The upstream of a follower that holds all that it has read, at the latest after `within`.
    pub(crate) fn upstream(&self, within: Duration) -> Option<Option<Target>> {
        let deadline = Instant::now() + within;
        calls::call(&self.handle, within + PATIENCE, |reply| {
            Call::OnTarget(self.target.clone(), OnTarget::Upstream(deadline, reply))
        })
    }

    /// Has the target put right.
    pub(crate) fn repair(&self, wrong: Vec<Wrong>) -> Option<()> {
        self.call(|reply| OnTarget::Repair(wrong, reply))
    }
}

impl Engine {
    /// What a verification of the target is to compare with what; in words, why it cannot.
    pub(super) fn plan(&mut self, at: usize) -> Result<Plan, String> {
        if self.mirror.targets.get(at).is_some_and(|target| target.location.is_feed()) {
            return Err("a feed has no tree to compare; `fansync verify` at a follower compares that".into());
        }
        self.check_root();
        if let Some(why) = self.held_words() {
            return Err(why);
        }
        let root = self.root.try_clone().map_err(|e| format!("cannot open the source once more: {e}"))?;
        let board = Arc::clone(&self.verifying.boards[at]);
        Ok(Plan { mirror: self.mirror.clone(), sides: self.targets[at].sides(), root, board, idle: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_shows_a_verification_once_one_has_begun() {
        let mut verifying = Verifying::new(2);
        assert_ne!(verifying.next_watch(), verifying.next_watch(), "two watches at a time do not end each other");
        assert!(verifying.status(0).is_none() && verifying.status(2).is_none());
        verifying.boards[1].lock().unwrap().running = true;
        assert!(verifying.status(1).is_some_and(|shown| shown.running) && verifying.status(0).is_none());
        *verifying.boards[1].lock().unwrap() = status::Verify { ended_unix: 5.0, differing: 3, ..Default::default() };
        assert!(verifying.status(1).is_some_and(|shown| !shown.running && shown.differing == 3));
    }
}
