//! Ends runs that do not get on ([`crate::sync::pulse`]). One that was asked to end is killed when
//! it does not get on for `watchdog`.

use super::*;
use crate::sync::pulse::{Beat, Carries};

impl Flight {
    fn carries(&self) -> Carries {
        let Load::Batch(batch) = &self.load else { return Carries::List };
        let trees = batch.entries.iter().any(|e| e.kind > Kind::Entry);
        match (self.links, trees, batch.entries.len() > 1) {
            (true, true, _) | (true, _, true) => Carries::Links,
            (false, false, true) => Carries::List,
            _ => Carries::Whole,
        }
    }

    /// When [`Flight::watch_over`] has something to do.
    pub(super) fn watched_next(&self, watchdog: Duration) -> Duration {
        self.pulse.due(self.carries(), watchdog)
    }

    /// Ends a run that does not get on. Two reads from /proc, where it is due.
    pub(super) fn watch_over(&mut self, now: Duration, mirror: &str, target: &config::Target) {
        if matches!(self.load, Load::Standby) || self.watched_next(target.watchdog) > now {
            return;
        }
        let carries = if self.ended_badly.is_some() { Carries::List } else { self.carries() };
        let beat = self.pulse.take(now, self.run.work(), carries, target.watchdog);
        let ended = match beat {
            Beat::Goes => return,
            _ if self.ended_badly.is_some() => return self.run.kill(),
            Beat::Silent => {
                tracing::warn!(mirror = %mirror, target_name = %target.name, "a run made no progress for {:?}, ending it", target.watchdog);
                Ended::Stalled
            }
            Beat::Idle => {
                tracing::warn!(
                    mirror = %mirror, target_name = %target.name,
                    "a run did nothing but keep its connection alive, ending it: {}",
                    if carries == Carries::List { "its paths are sent in smaller lists" } else { "it is done again" }
                );
                Ended::Idle
            }
            Beat::Knotted => {
                tracing::warn!(
                    mirror = %mirror, target_name = %target.name,
                    "a run that makes hard links stands still, ending it: its work is done in smaller parts"
                );
                Ended::Knotted
            }
        };
        self.ended_badly = Some(ended);
        self.run.cut();
        self.pulse = Pulse::new(now);
    }
}
