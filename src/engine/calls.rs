//! Calls of other threads beyond the few commands of every day: each is served on the engine's
//! thread between two turns, and answered on a channel of its own.
//!
//! Some have to see all that happened before they were made. Those wait for a drain of the event
//! queues, as a flush does.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};

use super::Engine;
use super::Plan;
use super::drains::For;
use super::explaining::Said;
use super::listening::Listener;
use super::verifying::Followed;
use super::{Command, Handle};
use crate::config::Target;
use crate::feed::barriers::Questions;
use crate::path::RelPath;
use crate::targets::Wrong;

/// See the module's text.
pub(crate) enum Call {
    /// `fansync explain`: of the first of these absolute paths that lies below the source.
    Explain(Vec<PathBuf>, Sender<Said>),
    /// `fansync events`.
    Subscribe(Listener, Sender<()>),
    /// About the target of this name, for a verification.
    OnTarget(String, OnTarget),
}

/// A request of a verification to a target.
pub(crate) enum OnTarget {
    /// What is to be compared with what; in words, why nothing can be.
    Plan(Sender<Result<Plan, String>>),
    /// Notes from now on which of these paths become dirty. Gives the number of the watch, and
    /// those that the target lacks already.
    Watch(Vec<RelPath>, Sender<(u64, Vec<RelPath>)>),
    /// Ends a watch: the paths that became dirty since, or that the target lacks.
    Unwatch(u64, Sender<Vec<RelPath>>),
    /// The paths that fail on every try.
    Failing(Sender<Vec<RelPath>>),
    /// Has the target put right.
    Repair(Vec<Wrong>, Sender<()>),
    /// Questions of the followers of this feed.
    Questions(Sender<Option<Questions>>),
    /// What a follower is compared with; `None` from an engine that is no follower.
    Followed(Sender<Option<Followed>>),
    /// Whether a record was read by this time that the source published after all that had changed
    /// there when this was requested; of a follower.
    Barrier(Instant, Sender<bool>),
    /// The upstream that holds all that was read, once there is one, at the latest by this time; of
    /// a follower.
    Upstream(Instant, Sender<Option<Target>>),
}

impl Call {
    /// Whether every event from before the call has to be in the dirty sets.
    fn is_after_drain(&self) -> bool {
        match self {
            Call::Explain(..) => true,
            Call::Subscribe(..) => false,
            Call::OnTarget(_, what) => {
                matches!(what, OnTarget::Watch(..) | OnTarget::Unwatch(..) | OnTarget::Failing(_))
            }
        }
    }
}

/// Makes a call and waits for its answer, at most `within`. `None` when the engine has ended, or
/// does not answer.
pub(super) fn call<T>(handle: &Handle, within: Duration, call: impl FnOnce(Sender<T>) -> Call) -> Option<T> {
    let (reply, answer) = bounded(1);
    handle.send(Command::Call(call(reply)));
    answer.recv_timeout(within).ok()
}

impl Engine {
    pub(super) fn take_call(&mut self, call: Call) {
        match call.is_after_drain() {
            true => _ = self.drain(For::Call(call)),
            false => self.serve(call),
        }
    }

    /// Answers a call; a caller that has given up gets nothing.
    pub(super) fn serve(&mut self, call: Call) {
        match call {
            Call::Explain(paths, reply) => _ = reply.send(self.explain_first(&paths)),
            Call::Subscribe(listener, reply) => {
                self.listeners.add(listener);
                let _ = reply.send(());
            }
            Call::OnTarget(name, what) => {
                if let Some(at) = self.targets.iter().position(|target| target.cfg.name == name) {
                    self.serve_on_target(at, what);
                }
            }
        }
    }

    fn serve_on_target(&mut self, at: usize, what: OnTarget) {
        match what {
            OnTarget::Plan(reply) => _ = reply.send(self.plan(at)),
            OnTarget::Watch(paths, reply) => {
                self.report_followed(Duration::MAX);
                let id = self.verifying.next_watch();
                let _ = reply.send((id, self.targets[at].watch(id, paths)));
            }
            OnTarget::Unwatch(id, reply) => {
                self.report_followed(Duration::MAX);
                let _ = reply.send(self.targets[at].unwatch(id));
            }
            OnTarget::Failing(reply) => _ = reply.send(self.targets[at].failing_paths()),
            OnTarget::Repair(wrong, reply) => {
                let now = self.now();
                self.targets[at].repair(now, wrong);
                let _ = reply.send(());
            }
            OnTarget::Questions(reply) => _ = reply.send(self.targets[at].questions()),
            OnTarget::Followed(reply) => _ = reply.send(None),
            // They are for followers.
            OnTarget::Barrier(..) | OnTarget::Upstream(..) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crossbeam::channel::unbounded;

    use super::*;
    use crate::sys::event::EventFd;

    #[test]
    fn what_asks_about_the_dirty_sets_waits_for_the_events_before_it() {
        let on_target = |what| Call::OnTarget("t".into(), what);
        for (call, waits) in [
            (Call::Explain(Vec::new(), bounded(1).0), true),
            (on_target(OnTarget::Watch(Vec::new(), bounded(1).0)), true),
            (on_target(OnTarget::Unwatch(1, bounded(1).0)), true),
            (on_target(OnTarget::Failing(bounded(1).0)), true),
            (on_target(OnTarget::Plan(bounded(1).0)), false),
            (on_target(OnTarget::Repair(Vec::new(), bounded(1).0)), false),
        ] {
            assert_eq!(call.is_after_drain(), waits);
        }
    }

    #[test]
    fn a_call_to_an_engine_that_has_ended_is_not_waited_for() {
        let (commands, engine) = unbounded();
        let wake = Arc::new(EventFd::new().unwrap());
        let handle = Handle {
            mirror: "m".into(),
            targets: Vec::new(),
            commands,
            wake: Arc::clone(&wake),
            turns: Arc::default(),
            last: Default::default(),
            moved: Default::default(),
        };
        assert!(handle.send(Command::Reconcile) && wake.clear(), "a command wakes the engine");
        drop(engine);
        let hour = Duration::from_secs(3600);
        let answer = call(&handle, hour, |reply| Call::OnTarget("t".into(), OnTarget::Failing(reply)));
        assert!(answer.is_none() && !handle.send(Command::Reconcile));
    }
}
