//! A mirror whose source does not exist: it answers commands, and begins once the source is.
//!
//! A disk that is mounted late, or a directory that is made later, is no fault of the
//! configuration, and no business of the other mirrors. Nothing is watched meanwhile and nothing
//! sent, so there is nothing to lose: the engine that takes over begins as any other.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::RecvTimeoutError;

use super::Command;
use super::flushes::FlushRequest;
use super::{Again, Engine, StartError};
use crate::control::{Steered, Waiting as Unfinished};
use crate::root::Root;
use crate::status;

/// How often the source is checked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An engine, or what waits for its source.
pub(crate) enum Stage {
    Runs(Box<Engine>),
    /// Its source is missing.
    Waits(Box<Waiting>),
}

impl Stage {
    /// Opens an engine; where its source is missing, waits for that.
    ///
    /// # Errors
    /// What waiting does not mend; see [`StartError`].
    pub(crate) fn open(again: Again) -> Result<Stage, StartError> {
        let name = again.mirror.name.clone();
        match Engine::open(again.once_more()) {
            Ok(engine) => Ok(Stage::Runs(Box::new(engine))),
            Err(StartError::Source { path, source }) => {
                let place = again.mirror.origins.of("source", 0);
                let place = if place.is_empty() { String::new() } else { format!(", at {place}") };
                let why = format!("the source {} of the mirror {name}{place} cannot be opened: {source}", path.display());
                tracing::error!(
                    mirror = %name,
                    "{why}. Mount or make it, and the mirror begins by itself; if the path is wrong, change it and reload. The other mirrors run"
                );
                Ok(Stage::Waits(Box::new(Waiting { again, why, since: Instant::now() })))
            }
            Err(error) => Err(error),
        }
    }
}

/// See the module's text.
pub(crate) struct Waiting {
    again: Again,
    /// What is missing, with the mirror and the place in the configuration.
    why: String,
    since: Instant,
}

impl Waiting {
    /// Waits until the source is there, or the mirror gets another configuration: then an engine
    /// may be opened. `None`: stopped.
    pub(crate) fn wait(mut self) -> Option<Again> {
        let mut next = Instant::now() + LOOK_EVERY;
        loop {
            match self.again.commands.recv_deadline(next) {
                Ok(command) => match self.answer(command) {
                    Then::Waits => {}
                    Then::Begins => return Some(self.again),
                    Then::Ends => return None,
                },
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    next = Instant::now() + LOOK_EVERY;
                    if Root::open(&self.again.mirror.source).is_ok() {
                        tracing::info!(mirror = %self.again.mirror.name, "the source is there; the mirror begins");
                        return Some(self.again);
                    }
                }
            }
            self.again.wake.clear();
            self.again.turns.fetch_add(1, Ordering::Relaxed);
            self.end_flushes(false);
        }
    }

    fn answer(&mut self, command: Command) -> Then {
        match command {
            Command::Status(reply) => _ = reply.send(self.status()),
            Command::Flush { target, deadline, reply } => {
                // The engine that begins in time takes it over.
                self.again.flushes.push(FlushRequest { only: target, deadline, reply });
            }
            Command::Steer { target, reply, .. } => {
                let chosen = self.again.mirror.targets.iter().filter(|t| target.as_ref().is_none_or(|name| *name == t.name));
                let message = format!("nothing has changed: {}", self.why);
                let name = |t: &crate::config::Target| format!("{}/{}", self.again.mirror.name, t.name);
                let _ = reply.send(chosen.map(|t| Steered { target: name(t), said: message.clone(), done: false }).collect());
            }
            // The client sees that no engine answers; a comparison is what it begins with.
            Command::Call(_) | Command::Reconcile => {}
            Command::Replace(with) => {
                let old = (self.again.mirror.clone(), self.again.setup.facts.clone());
                (self.again.mirror, self.again.setup.facts) = (with.mirror, with.facts);
                self.again.before = Some(Box::new(old));
                return Then::Begins;
            }
            Command::Stop { .. } => {
                self.end_flushes(true);
                return Then::Ends;
            }
        }
        Then::Waits
    }

    /// Answers those whose time is over.
    fn end_flushes(&mut self, all: bool) {
        let now = Instant::now();
        let mirror = &self.again.mirror;
        for flush in self.again.flushes.extract_if(.., |flush| all || flush.deadline <= now) {
            let chosen = mirror.targets.iter().filter(|t| flush.only.as_ref().is_none_or(|name| *name == t.name));
            let open = chosen.map(|t| Unfinished {
                target: format!("{}/{}", mirror.name, t.name),
                why: format!("{}; nothing is sent or deleted", self.why),
                unreachable: false,
            });
            let _ = flush.reply.send(open.collect());
        }
    }

    fn status(&self) -> status::Mirror {
        let mirror = &self.again.mirror;
        let target = |t: &crate::config::Target| status::Target {
            name: t.name.clone(),
            url: t.location.to_string(),
            state: status::TargetState::Held,
            reason: self.why.clone(),
            lag_seconds: self.since.elapsed().as_secs_f64(),
            ..status::Target::default()
        };
        status::Mirror {
            name: mirror.name.clone(),
            source: mirror.source.display().to_string(),
            held: self.why.clone(),
            initial: status::FirstPass::Running,
            targets: mirror.targets.iter().map(target).collect(),
            ..status::Mirror::default()
        }
    }
}

enum Then {
    Waits,
    Begins,
    Ends,
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::bounded;

    use super::*;
    use crate::config::Config;
    use crate::control::Steer;
    use crate::engine::handle::Replacement;

    /// One of a mirror with the targets `a` and `b`, whose source is missing.
    fn waiting() -> Waiting {
        let text = "[[mirror]]\nname = \"m\"\nsource = \"/nowhere\"\n[[mirror.target]]\nname = \"a\"\nurl = \"h::a\"\n\
                    [[mirror.target]]\nname = \"b\"\nurl = \"h::b\"\n";
        let mirror = Config::from_toml(text).unwrap().mirrors.remove(0);
        let (again, _) = Engine::prepare(&mirror, &Default::default(), "/state".as_ref(), false, &Default::default()).unwrap();
        Waiting { again, why: "no source".into(), since: Instant::now() }
    }

    fn flush(target: Option<&str>, deadline: Instant) -> (Command, crossbeam::channel::Receiver<Vec<Unfinished>>) {
        let (reply, answer) = bounded(1);
        (Command::Flush { target: target.map(str::to_owned), deadline, reply }, answer)
    }

    #[test]
    fn a_mirror_without_its_source_is_shown_as_held() {
        let mut waiting = waiting();
        let (reply, answer) = bounded(1);
        assert!(matches!(waiting.answer(Command::Status(reply)), Then::Waits));
        let status = answer.try_recv().unwrap();
        assert_eq!((status.name.as_str(), status.held.as_str()), ("m", "no source"));
        let targets: Vec<_> = status.targets.iter().map(|t| (&*t.name, &*t.url, t.state, &*t.reason)).collect();
        let held = status::TargetState::Held;
        assert_eq!(targets, [("a", "rsync://h/a", held, "no source"), ("b", "rsync://h/b", held, "no source")]);
    }

    #[test]
    fn steering_changes_nothing_without_a_source_and_says_so() {
        for (only, want) in [(None, &["m/a", "m/b"][..]), (Some("b"), &["m/b"]), (Some("x"), &[])] {
            let (reply, answer) = bounded(1);
            let steer = Command::Steer { what: Steer::Pause, target: only.map(str::to_owned), reply };
            assert!(matches!(waiting().answer(steer), Then::Waits));
            let steered = answer.try_recv().unwrap();
            assert_eq!(steered.iter().map(|s| &*s.target).collect::<Vec<_>>(), want);
            assert!(steered.iter().all(|s| !s.done && s.said == "nothing has changed: no source"));
        }
    }

    #[test]
    fn a_flush_is_kept_for_the_engine_until_its_time_is_over() {
        let mut waiting = waiting();
        let (over, later) = (Instant::now(), Instant::now() + Duration::from_secs(3600));
        let ((first, late), (second, open)) = (flush(Some("b"), over), flush(None, later));
        [first, second].into_iter().for_each(|command| assert!(matches!(waiting.answer(command), Then::Waits)));
        waiting.end_flushes(false);
        let unfinished = late.try_recv().unwrap();
        assert_eq!(unfinished.len(), 1);
        assert_eq!((&*unfinished[0].target, &*unfinished[0].why), ("m/b", "no source; nothing is sent or deleted"));
        assert!(open.try_recv().is_err() && waiting.again.flushes.len() == 1);
        assert!(matches!(waiting.answer(Command::Stop { deadline: later }), Then::Ends));
        assert_eq!(open.try_recv().unwrap().len(), 2, "a stop answers every waiting client");
    }

    #[test]
    fn another_configuration_is_tried_at_once_and_the_old_one_kept() {
        let mut waiting = waiting();
        let (command, _answer) = flush(None, Instant::now() + Duration::from_secs(3600));
        waiting.answer(command);
        let mut mirror = waiting.again.mirror.clone();
        mirror.source = "/elsewhere".into();
        let with = Replacement { mirror, facts: Default::default(), deadline: Instant::now() };
        assert!(matches!(waiting.answer(Command::Replace(Box::new(with))), Then::Begins));
        let again = waiting.again;
        assert_eq!((again.mirror.source.to_str(), again.flushes.len()), (Some("/elsewhere"), 1));
        let before = again.before().unwrap();
        assert_eq!((before.mirror.source.to_str(), before.flushes.len()), (Some("/nowhere"), 1));
        assert!(before.before().is_none(), "what cannot be gone back to twice");
    }
}
