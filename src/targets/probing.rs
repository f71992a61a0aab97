//! Asking a target whether it is usable: what it counts for meanwhile, and how long its answer may
//! take.
//!
//! A target that failed is what it was until it has answered: one that accepts connections and
//! answers none would else be neither up nor down for most of the time. `connect_timeout` bounds
//! the silence of the whole greeting. rsync's own bounds leave gaps: `--contimeout` ends with the
//! TCP connection, ssh's `ConnectTimeout` with its key exchange, and from there on the much longer
//! `--timeout` holds.

use super::*;

/// Of how many parts of the bound a silence is made up: the more, the sooner after it a probe is
/// ended.
const SAMPLES: u32 = 4;

/// How long a probe has been without a sign of life.
pub(super) struct Silence {
    bound: Duration,
    mark: u64,
    since: Duration,
    sampled: Duration,
}

/// What is to be done about a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    /// Not within the bound.
    Overdue,
}

impl Silence {
    pub(super) fn new(now: Duration, bound: Duration) -> Silence {
        Silence { bound, mark: 0, since: now, sampled: now }
    }

    /// When it is to be sampled next.
    pub(super) fn due(&self) -> Duration {
        self.sampled + self.bound / SAMPLES
    }

    /// `mark`: grows for as long as the probe makes progress. After [`Answer::Overdue`] the time
    /// begins anew.
    fn sample(&mut self, now: Duration, mark: u64) -> Answer {
        self.sampled = now;
        if mark != self.mark {
            (self.mark, self.since) = (mark, now);
            return Answer::Awaited;
        }
        if now.saturating_sub(self.since) < self.bound {
            return Answer::Awaited;
        }
        self.since = now;
        Answer::Overdue
    }
}

impl Target {
    /// Asks a target that is away, once its time has come.
    pub(super) fn probe_if_due(&mut self, cx: &mut Context<'_>) {
        let waits = self.link.next_try().is_none_or(|next| next > cx.now);
        if waits || cx.held.is_some() || self.schedule.is_paused() {
            return;
        }
        self.link.probes(cx.now, self.cfg.connect_timeout);
        let list = self.probe_list(cx);
        self.start(cx, Launch::of(Pass::Probe, Input::List(&list), LaunchKind::Probe));
    }

    /// Ends a probe that has got no answer for [`config::Target::connect_timeout`].
    pub(super) fn end_silent_probe(&mut self, now: Duration) {
        let probe = self.runs.values_mut().find(|run| matches!(run.kind, RunKind::Probe)).map(|run| &mut run.process);
        let (Some(probe), Some(silence)) = (probe, &mut self.link.silence) else {
            self.link.silence = None;
            return;
        };
        if silence.due() > now || silence.sample(now, probe.rsync.progress_mark()) == Answer::Awaited {
            return;
        }
        match probe.abort_reason.replace(AbortReason::Silent) {
            None => probe.rsync.cut(),
            Some(_) => probe.rsync.kill(),
        }
    }

    /// Of a probe that was ended for its silence.
    pub(super) fn no_answer(&self) -> String {
        format!("no answer within {:?} (connect_timeout)", self.cfg.connect_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_overdue_after_its_bound_and_any_sign_of_life_begins_it_anew() {
        let s = Duration::from_secs;
        let mut silence = Silence::new(s(100), s(8));
        assert_eq!(silence.due(), s(102));
        for (now, mark, want) in [
            (102, 5, Answer::Awaited), // it started
            (104, 5, Answer::Awaited),
            (109, 5, Answer::Awaited),
            (109, 6, Answer::Awaited), // the greeting
            (112, 6, Answer::Awaited),
            (117, 6, Answer::Overdue),
            (118, 6, Answer::Awaited), // it has as long to end
            (125, 6, Answer::Overdue),
        ] {
            assert_eq!(silence.sample(s(now), mark), want, "at {now}");
            assert_eq!(silence.due(), s(now + 2));
        }
    }
}
