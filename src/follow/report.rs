//! A follower's reports: to its source, and in the status.

use std::collections::VecDeque;

use super::supply::SIGN_OF_LIFE;
use super::*;
use crate::feed::Report;
use crate::path::Shown;
use crate::status::{FirstPass, StartKind, TargetState};
use crate::targets::latency::Latency;

/// Between two reports to the source.
const REPORT_EVERY: Duration = Duration::from_millis(50);

/// Paths in the status.
const SHOWN: usize = 20;

/// What was reported to the source, and how old the records are that are not held.
#[derive(Default)]
pub(super) struct Reports {
    /// With the time when they were read.
    ages: VecDeque<(u64, Duration)>,
    /// From reading a record to holding it.
    latency: Latency,
    sent: Option<(Report, Duration)>,
}

impl Reports {
    /// A record was read.
    pub(super) fn read(&mut self, sequence: u64, now: Duration) {
        self.ages.push_back((sequence, now));
    }

    /// Everything up to this record is held.
    fn held(&mut self, held: u64, now: Duration) {
        while let Some((_, since)) = self.ages.front().copied().filter(|(sequence, _)| *sequence <= held) {
            self.ages.pop_front();
            self.latency.count(now.saturating_sub(since));
        }
        // While a comparison is owed, the first of them is all that counts.
        if self.ages.len() > 100_000 {
            self.ages.drain(1..50_000);
        }
    }

    /// The age of the oldest record that is not held.
    fn lag(&self, now: Duration) -> Duration {
        self.ages.front().map_or(Duration::ZERO, |(_, since)| now.saturating_sub(*since))
    }
}

impl Follower {
    /// One word, and why.
    pub(super) fn state(&self) -> (TargetState, String) {
        if self.pause.is_on() {
            return (TargetState::Paused, "paused; records are read, and pulled after `fansync resume`".into());
        }
        if self.machine.is_held() {
            return (TargetState::Held, "the source is held; see the status there".into());
        }
        if let Some(held) = self.deletions.held() {
            return (TargetState::Held, format!("{}; `fansync resume --accept-deletes` lets it through", held.why));
        }
        if let Some(away) = self.away.clone().filter(|away| away.tries > 0).or_else(|| self.supply.trouble()) {
            return (if away.config { TargetState::Config } else { TargetState::Down }, away.why);
        }
        if let Some(why) = self.feed.trouble() {
            return (TargetState::Down, why.to_owned());
        }
        if let Some(why) = self.machine.why_owed() {
            return (TargetState::Syncing, format!("the whole tree is compared: {why}"));
        }
        if self.machine.in_sync() && self.supply.records.is_empty() {
            return (TargetState::Idle, String::new());
        }
        if self.machine.pending().is_empty()
            && self.machine.queued() == 0
            && self.processes.doing().is_none()
            && self.supply.records.is_empty()
        {
            let first = self.machine.failed().iter().next().map(|(path, failure)| format!("{path}: {}", failure.words));
            return (TargetState::Failing, first.unwrap_or_default());
        }
        (TargetState::Syncing, String::new())
    }

    /// What was made of batches.
    fn inline(&self) -> status::Inline {
        let mut pulled: std::collections::BTreeMap<String, u64> =
            self.batches.pulled.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        pulled.insert("order".into(), self.machine.passed_over());
        pulled.retain(|_, count| *count > 0);
        status::Inline { applied: self.batches.applied, pulled }
    }

    fn lag(&self) -> Duration {
        self.reports.lag(self.now())
    }

    /// Where it is in the feed.
    fn place(&self) -> status::Position {
        let follow = self.mirror.follow.as_ref();
        let sequence = |point: Option<crate::feed::machine::Point>| point.map_or(0, |point| point.sequence);
        status::Position {
            feed: follow.map(|follow| follow.feed.to_string()).unwrap_or_default(),
            follower: follow.map(|follow| follow.follower.clone()).unwrap_or_default(),
            sequence: sequence(self.machine.position()),
            read: sequence(self.machine.read()),
        }
    }

    /// The report to the source, but for its time.
    pub(super) fn word(&self) -> Report {
        let position = self.machine.position();
        let (state, reason) = self.state();
        let comparing = self.machine.owes() && state == TargetState::Syncing;
        Report {
            version: env!("CARGO_PKG_VERSION").into(),
            incarnation: position.map(|p| mark::hex(&p.incarnation.to_be_bytes())).unwrap_or_default(),
            sequence: position.map_or(0, |p| p.sequence),
            state: if comparing { "comparing".into() } else { state.name().into() },
            reason,
            upstream: self.supply.waits_for().unwrap_or(&self.upstream().location).to_string(),
            serve: self.mirror.follow.as_ref().and_then(|f| f.serve.as_ref()).map(ToString::to_string).unwrap_or_default(),
            through: if self.supply.own.is_some() { self.supply.way() } else { Vec::new() },
            barrier: self.verifying.barrier(),
            failed: self.machine.failing() as u64,
            unix: 0.0,
            lag_seconds: self.lag().as_secs_f64().floor(),
        }
    }

    /// After which time it reports this, if `sent` was its last report.
    fn report_again(&self, sent: &Report, word: &Report) -> Option<Duration> {
        match () {
            () if sent != word => Some(REPORT_EVERY),
            () if self.supply.own.is_some() && matches!(&*word.state, "syncing" | "comparing") => Some(SIGN_OF_LIFE),
            // The source may have been away when it was asked.
            () if !word.barrier.is_empty() => Some(SIGN_OF_LIFE),
            () => None,
        }
    }

    /// When it reports again.
    pub(super) fn report_due(&self) -> Option<Duration> {
        let (sent, at) = self.reports.sent.as_ref()?;
        Some(*at + self.report_again(sent, &self.word())?)
    }

    /// Reports to the source what has changed, not too often.
    pub(super) fn report(&mut self) {
        let now = self.now();
        self.reports.held(self.machine.position().map_or(0, |point| point.sequence), now);
        // Nothing is reported before it is on the disk.
        if self.disk.is_behind() {
            return;
        }
        let word = self.word();
        let due = match &self.reports.sent {
            Some((sent, at)) => self.report_again(sent, &word).is_some_and(|after| now.saturating_sub(*at) >= after),
            None => true,
        };
        if due && self.feed.report(&word) {
            self.reports.sent = Some((word, now));
        }
    }

    pub(super) fn status(&self) -> status::Mirror {
        let (state, reason) = self.state();
        let failures = self.machine.failed().iter().take(50).map(|(path, failure)| status::Failure {
            path: Shown(path).to_string(),
            reason: failure.words.clone(),
            tries: failure.need.round,
            retry_seconds: failure.due.saturating_sub(self.now()).as_secs_f64(),
        });
        let away = self.away.clone().or_else(|| self.supply.trouble());
        let reason = match self.supply.waits_for() {
            Some(relay) if reason.is_empty() => format!("waits for the relay {relay}"),
            _ => reason,
        };
        let target = status::Target {
            name: self.upstream().name.clone(),
            url: self.upstream().location.to_string(),
            state,
            reason,
            pending: (self.machine.pending().len() + self.machine.queued()) as u64,
            pending_paths: Vec::new(),
            in_flight: self.machine.in_flight() as u64,
            paused_unix: self.pause.since().unwrap_or(0.0),
            lag_seconds: self.lag().as_secs_f64(),
            retry_seconds: away.as_ref().map_or(0.0, |away| away.next.saturating_sub(self.now()).as_secs_f64()),
            tries: away.as_ref().map_or(0, |away| away.tries),
            standby: u64::from(self.processes.has_spare()),
            held_deletes: self.deletions.held().map_or(0, |held| held.count),
            held_reason: self.deletions.held().map(|held| held.why.clone()).unwrap_or_default(),
            failures: failures.collect(),
            latency: self.reports.latency.shown(),
            position: Some(self.place()),
            inline: Some(self.inline()),
            verify: self.verifying.status(),
            ..self.counters.clone()
        };
        let feed = self.mirror.follow.as_ref().map(|follow| follow.feed.to_string()).unwrap_or_default();
        let owes = self.machine.owes();
        status::Mirror {
            name: self.mirror.name.clone(),
            source: self.mirror.source.display().to_string(),
            reader: format!("follows {feed}"),
            ready: true,
            initial: if self.disk.is_filled() { FirstPass::Done } else { FirstPass::Running },
            start: status::Start {
                how: if owes { StartKind::Comparison } else { StartKind::None },
                why: self.machine.why_owed().map_or_else(|| "the position in the feed was known".into(), str::to_owned),
                ..status::Start::default()
            },
            targets: vec![target],
            ..status::Mirror::default()
        }
    }
}

impl Follower {
    /// Some of what waits, for a flush that ended in vain.
    pub(super) fn why_waiting(&self) -> (String, bool) {
        let (state, reason) = self.state();
        if state == TargetState::Syncing && reason.is_empty() {
            let some: Vec<String> = self.machine.pending().iter().take(SHOWN).map(|(path, _)| path.to_string()).collect();
            let count = crate::text::plural(self.unconfirmed() as u64, "path");
            let some = if some.is_empty() { String::new() } else { format!(": {}", some.join(", ")) };
            return (format!("{count} not pulled yet{some}"), false);
        }
        (reason, matches!(state, TargetState::Down | TargetState::Config))
    }
}
