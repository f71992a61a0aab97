//! The engine's part in a verification: what to compare and how, and what became dirty meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;

use super::Engine;
use super::asking::ask;
use super::{Command, Handle};
use crate::config::Mirror;
use crate::control::Waiting;
use crate::path::RelPath;
use crate::root::Root;
use crate::status;
use crate::targets::{Sides, Wrong};

/// How long an engine may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `status` tells of a target's verifications; shared with the thread that runs one.
pub type Board = Arc<Mutex<status::Verify>>;

/// What is compared with what.
pub struct Plan {
    /// The mirror.
    pub mirror: Mirror,
    /// The target.
    pub sides: Sides,
    /// The source.
    pub root: Root,
    /// Where it is told how far the comparison is, and what it found.
    pub board: Board,
    /// rsync gets only what other processes leave over.
    pub idle: bool,
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

    pub(super) fn status(&self, at: usize) -> Option<status::Verify> {
        let board = self.boards.get(at)?.lock().unwrap_or_else(PoisonError::into_inner);
        (board.running || board.ended_unix > 0.0).then(|| board.clone())
    }
}

/// A target of a running daemon, as a verification sees it.
pub struct Live {
    handle: Handle,
    target: String,
}

impl Live {
    /// The target of this name.
    pub fn new(handle: Handle, target: String) -> Live {
        Live { handle, target }
    }

    /// `mirror/target`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.handle.mirror, self.target)
    }

    fn ask<T: Send + 'static>(
        &self,
        after_drain: bool,
        work: impl FnOnce(&mut Engine, usize) -> T + Send + 'static,
    ) -> Option<T> {
        let name = self.target.clone();
        let at = move |engine: &mut Engine| {
            let at = engine.targets.iter().position(|t| t.cfg.name == name)?;
            Some(work(engine, at))
        };
        ask(&self.handle, after_drain, PATIENCE, at).flatten()
    }

    /// What is to be compared with what; in words, why nothing can be. `None`: the engine has ended.
    pub fn plan(&self) -> Option<Result<Plan, String>> {
        self.ask(false, |engine, at| {
            engine.check_root();
            if let Some(why) = engine.held_words() {
                return Err(why);
            }
            let root = engine.root.try_clone().map_err(|e| format!("cannot open the source once more: {e}"))?;
            let board = Arc::clone(&engine.verifying.boards[at]);
            Ok(Plan { mirror: engine.mirror.clone(), sides: engine.targets[at].sides(), root, board, idle: false })
        })
    }

    /// Waits until what changed before this call is on the target, at most `within`. What is not, and why; `true` when waiting longer
    /// would not help.
    pub fn flush(&self, within: Duration) -> Option<(Vec<Waiting>, bool)> {
        let deadline = Instant::now() + within;
        let (reply, answer) = bounded(1);
        self.handle.tell(Command::Flush { target: Some(self.target.clone()), deadline, reply });
        let waiting: Vec<Waiting> = answer.recv_timeout(within + PATIENCE).ok()?;
        let hopeless = !waiting.is_empty() && Instant::now() < deadline;
        Some((waiting, hopeless))
    }

    /// Notes from now on which of `paths` become dirty. Gives the number of the watch, and the paths that the target is owed already.
    pub fn watch(&self, paths: Vec<RelPath>) -> Option<(u64, Vec<RelPath>)> {
        self.ask(true, |engine, at| {
            engine.verifying.next_watch += 1;
            let id = engine.verifying.next_watch;
            engine.tell_followed(Duration::MAX);
            (id, engine.targets[at].watch(id, paths))
        })
    }

    /// The paths that fail on every try.
    pub fn failing(&self) -> Option<Vec<RelPath>> {
        self.ask(true, |engine, at| engine.targets[at].failing_paths())
    }

    /// Ends a watch: the paths that became dirty since, or are owed.
    pub fn unwatch(&self, id: u64) -> Option<Vec<RelPath>> {
        self.ask(true, move |engine, at| {
            engine.tell_followed(Duration::MAX);
            engine.targets[at].unwatch(id)
        })
    }

    /// Has the target put right.
    pub fn repair(&self, wrong: Vec<Wrong>) -> Option<()> {
        self.ask(false, move |engine, at| {
            let now = engine.now();
            engine.targets[at].repair(now, wrong);
        })
    }
}
