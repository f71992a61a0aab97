//! Whether a target can be sent to: what is known of it, since how many tries, and when it is
//! probed next. Pure.

use std::time::Duration;

use super::CONFIG_PAUSE;
use super::probing::Silence;
use crate::location::Trouble;
use crate::sync::ambient::Ambient;
use crate::sync::dialect::Dialect;
use crate::sync::retries::Backoff;

/// How the target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Being probed.
    Probing {
        /// The last answer, where it was a failure: until there is another one, that is how the
        /// target is.
        after: Option<Outage>,
    },
    /// Usable.
    Up,
    /// Not usable until something changes; tried again at `next`.
    Away { outage: Outage, next: Duration },
}

/// Why a target cannot be sent to, as it was found by so many tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) config: bool,
    pub(super) cause: Trouble,
    pub(super) reason: String,
    pub(super) tries: u32,
}

/// See the module's text.
pub(super) struct Link {
    state: State,
    backoff: Backoff,
    /// Failures since the target last took something. That it answers a probe does not end the row:
    /// a full disk does so too.
    tries: u32,
    /// While it is being probed.
    pub(super) silence: Option<Silence>,
    /// Whether the receiver can delete missing arguments.
    pub(super) missing_args: bool,
    /// Which options the receiver knows, as far as it was asked since it was last away.
    pub(super) dialect: Dialect,
    /// It is known to be that one. A connection that just ended may have ended for another reason.
    pub(super) dialect_sure: bool,
    /// What of that was last logged as weaker than a newer one.
    pub(super) logged: Dialect,
    /// Until then one connection at a time: the server had none left for us.
    connection_limited: Option<Duration>,
    /// The last outage was for want of space.
    pub(super) out_of_space: bool,
    /// What its probes say beside their result.
    pub(super) ambient: Ambient,
}

impl Link {
    /// To a target that is to be probed.
    pub(super) fn new(backoff: Backoff) -> Link {
        let outage = Outage { config: false, cause: Trouble::Away, reason: "not probed yet".into(), tries: 0 };
        Link {
            state: State::Away { outage, next: Duration::ZERO },
            backoff,
            tries: 0,
            silence: None,
            missing_args: true,
            dialect: Dialect::default(),
            dialect_sure: false,
            logged: Dialect::default(),
            connection_limited: None,
            out_of_space: false,
            ambient: Ambient::default(),
        }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Failures since the target last took something.
    pub(super) fn tries(&self) -> u32 {
        self.tries
    }

    /// Why the target cannot be sent to.
    pub(super) fn outage(&self) -> Option<&Outage> {
        match &self.state {
            State::Away { outage, .. } | State::Probing { after: Some(outage) } => Some(outage),
            State::Probing { after: None } | State::Up => None,
        }
    }

    /// When the target is probed next, while it is away.
    pub(super) fn next_try(&self) -> Option<Duration> {
        match &self.state {
            State::Away { next, .. } => Some(*next),
            State::Probing { .. } | State::Up => None,
        }
    }

    /// Has a target that is away probed at `at`.
    pub(super) fn try_at(&mut self, at: Duration) {
        if let State::Away { next, .. } = &mut self.state {
            *next = at;
        }
    }

    /// A target that is away is being probed, with this timeout.
    pub(super) fn probes(&mut self, now: Duration, patience: Duration) {
        if let State::Away { outage, .. } = &self.state {
            self.state = State::Probing { after: Some(outage.clone()).filter(|outage| outage.tries > 0) };
            self.silence = Some(Silence::new(now, patience));
        }
    }

    /// The target is usable. Whether that is new.
    pub(super) fn came_up(&mut self, missing_args: bool) -> bool {
        self.missing_args = missing_args;
        std::mem::replace(&mut self.state, State::Up) != State::Up
    }

    /// The target has taken something, or a connection to it has lived. Whether an outage is over
    /// with that.
    pub(super) fn proven(&mut self) -> bool {
        self.out_of_space = false;
        std::mem::take(&mut self.tries) > 0
    }

    /// The target cannot be sent to. `jitter`: in `[0, 1)`.
    pub(super) fn failed(&mut self, now: Duration, config: bool, (cause, reason): (Trouble, String), jitter: f64) {
        self.tries += 1;
        let pause = self.backoff.pause(self.tries, jitter) * if config { CONFIG_PAUSE } else { 1 };
        // It may come back with another rsync; the next probe finds out.
        (self.missing_args, self.dialect, self.dialect_sure) = (true, Dialect::default(), false);
        self.ask_at(now + pause, config, reason);
        if let State::Away { outage, .. } = &mut self.state {
            outage.cause = cause;
        }
    }

    /// Nothing is sent before the target was probed once more, which counts for no failure.
    pub(super) fn ask_at(&mut self, next: Duration, config: bool, reason: String) {
        self.state = State::Away { outage: Outage { config, cause: Trouble::Away, reason, tries: self.tries }, next };
    }

    /// One connection at a time until then. Whether that is new.
    pub(super) fn limit_connections(&mut self, until: Duration) -> bool {
        self.connection_limited.replace(until).is_none()
    }

    /// As many connections as are wanted.
    pub(super) fn lift_limit(&mut self) {
        self.connection_limited = None;
    }

    pub(super) fn is_limited(&self) -> bool {
        self.connection_limited.is_some()
    }

    pub(super) fn tick(&mut self, now: Duration) {
        self.connection_limited.take_if(|until| *until <= now);
    }

    /// When there is something to do, beside the next try.
    pub(super) fn due(&self) -> impl Iterator<Item = Duration> {
        self.silence.as_ref().map(Silence::due).into_iter().chain(self.connection_limited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn link() -> Link {
        Link::new(Backoff { min: SECOND, max: SECOND * 60 })
    }

    #[test]
    fn pauses_grow_until_the_target_takes_something() {
        let mut link = link();
        for (config, pause) in [(false, 1), (false, 2), (true, 16), (false, 8)] {
            link.failed(SECOND, config, (Trouble::Away, "down".into()), 0.0);
            assert_eq!(link.next_try(), Some(SECOND + SECOND * pause), "try {}", link.tries());
        }
        link.probes(SECOND, SECOND);
        link.came_up(true);
        link.failed(SECOND, false, (Trouble::Away, "full".into()), 0.0);
        assert_eq!(link.next_try(), Some(SECOND * 17), "an answer to a probe ends no row");
        assert!(link.proven() && !link.proven());
        link.failed(SECOND, false, (Trouble::Away, "down".into()), 0.0);
        assert_eq!(link.next_try(), Some(SECOND * 2));
    }

    #[test]
    fn outage_while_it_is_asked_is_the_last_answer() {
        let mut link = link();
        assert_eq!(link.outage().map(|o| o.tries), Some(0));
        link.probes(SECOND, SECOND);
        assert_eq!(link.outage(), None, "nothing is known before the first answer");
        link.failed(SECOND, false, (Trouble::Away, "down".into()), 0.0);
        link.probes(SECOND * 2, SECOND);
        assert_eq!(link.outage().map(|o| (&*o.reason, o.tries)), Some(("down", 1)));
        assert_eq!((link.next_try(), link.is_up()), (None, false));
        assert!(link.came_up(false) && !link.came_up(false), "new once");
        assert_eq!((link.outage(), link.missing_args), (None, false));
        link.failed(SECOND * 3, false, (Trouble::Away, "down".into()), 0.0);
        assert!(link.missing_args, "another rsync may come back");
    }

    #[test]
    fn asking_once_more_is_no_failure_and_only_what_is_away_is_tried() {
        let mut link = link();
        link.came_up(true);
        link.try_at(SECOND);
        assert_eq!(link.next_try(), None);
        link.ask_at(SECOND * 9, false, "is probed again".into());
        link.try_at(SECOND);
        assert_eq!((link.next_try(), link.tries()), (Some(SECOND), 0));
    }

    #[test]
    fn connections_are_limited_for_a_time() {
        let mut link = link();
        assert!(link.limit_connections(SECOND) && !link.limit_connections(SECOND * 2));
        assert_eq!(link.due().collect::<Vec<_>>(), [SECOND * 2]);
        link.tick(SECOND);
        assert!(link.is_limited());
        link.tick(SECOND * 2);
        assert!(!link.is_limited());
    }
}
