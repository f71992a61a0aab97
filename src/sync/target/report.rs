//! A target in numbers.

use super::*;

impl Target {
    /// The current numbers.
    ///
    /// `held`: why the mirror sends nothing. `put_off`: how long a subtree that was lost sight of has been waiting to be compared.
    pub fn status(&self, now: Duration, held: Option<&str>, put_off: Option<Duration>) -> status::Target {
        let mut s = self.stats.clone();
        s.pending = self.set.pending() as u64;
        s.in_flight = self.batches().map(|(_, b)| b.entries.len() as u64).sum();
        s.lag_seconds = self.set.epochs().lag(now).max(put_off).unwrap_or_default().as_secs_f64();
        s.standby = self.runs.values().filter(|r| matches!(r.load, Load::Standby)).count() as u64;
        s.coarsened = self.set.coarsened();
        s.retry_seconds = 0.0;
        match &self.state {
            State::Probing { .. } => s.state = "probing".into(),
            State::Up => {
                s.reason.clear();
                s.state = match put_off {
                    _ if !self.withheld.is_empty() && self.stuck() => {
                        s.reason = self.why_waiting().0;
                        "held"
                    }
                    _ if self.only_failures() => {
                        s.reason = self.why_waiting().0;
                        "failing"
                    }
                    Some(_) if self.in_sync() => {
                        s.reason = "a subtree that was lost sight of again will be compared soon".into();
                        "syncing"
                    }
                    None if self.in_sync() => "idle",
                    _ => "syncing",
                }
                .into();
            }
            State::Away { config, reason, next, tries } => {
                let fenced = self.fence.as_ref().is_some_and(|f| f.fenced);
                s.state = if fenced {
                    "fenced"
                } else if *config {
                    "config"
                } else {
                    "down"
                }
                .into();
                s.tries = u64::from(*tries);
                s.reason = reason.clone();
                s.retry_seconds = next.saturating_sub(now).as_secs_f64();
            }
        }
        if let Some(why) = self.why_paused() {
            (s.state, s.reason, s.retry_seconds) = ("paused".into(), why, 0.0);
        }
        s.paused_unix = self.paused.unwrap_or_default();
        s.epoch = self.fence.as_ref().map_or(0, |f| f.epoch);
        s.keeps_aside = self.fence.as_ref().is_some_and(|f| f.aside);
        if let Some(why) = held {
            (s.state, s.reason) = ("held".into(), why.into());
        }
        s.reconcile = self.batches().find(|(r, _)| matches!(r.pass, Pass::Full { .. })).map(|(run, _)| {
            let p = run.run.output().progress.unwrap_or_default();
            status::Reconcile {
                seconds: now.saturating_sub(run.started).as_secs_f64(),
                files_done: p.files_done,
                files_total: if p.scanning { 0 } else { p.files_total },
                bytes: p.bytes,
            }
        });
        s.held_deletes = self.withheld_deletes();
        s.held_reason = self.why_withheld().unwrap_or_default();
        s.failures = self
            .retries
            .failures()
            .take(SHOWN_FAILURES)
            .map(|f| status::Failure {
                path: Shown(&f.entry.path).to_string(),
                reason: f.reason.clone(),
                tries: f.tries,
                retry_seconds: f.due.saturating_sub(now).as_secs_f64(),
            })
            .collect();
        s.failures_more = self.retries.failures().len().saturating_sub(SHOWN_FAILURES) as u64;
        s
    }
}
