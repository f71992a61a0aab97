//! A target in numbers.

use super::*;
use crate::faillog;

use super::link::Outage;
use crate::status::TargetState;

/// Pending paths in the status.
const SHOWN_PENDING: usize = 20;
/// Failures in the record.
const RECORDED_FAILURES: usize = 10_000;

/// What is counted, and what the log has of it.
pub(super) struct Counters {
    pub(super) stats: status::Target,
    pub(super) latency: latency::Latency,
    /// Passes over the whole tree that ended well.
    pub(super) reconciles: u64,
    /// What the log has of batches that failed.
    pub(super) repeats: repeats::Repeats,
    /// Whether it was logged that the target's top directory cannot be changed.
    pub(super) top_refused: bool,
    /// Whether it was logged that more waits than `max_pending`.
    pub(super) bound_said: bool,
}

impl Counters {
    pub(super) fn new(stats: status::Target) -> Counters {
        Counters {
            stats,
            latency: Default::default(),
            reconciles: 0,
            repeats: Default::default(),
            top_refused: false,
            bound_said: false,
        }
    }
}

impl Target {
    /// Losses that concern this target alone, by cause, since the start.
    pub(crate) fn losses(&self) -> [(Cause, u64); 2] {
        [
            (Cause::PendingBound, self.ledger.set.coarsened()),
            (Cause::FailingPath, self.ledger.retries.became_failures() + self.ledger.long.became()),
        ]
    }

    /// What is weaker because a rsync is older.
    fn weaker(&self) -> Vec<String> {
        let mut weaker = self.dialect().weaker(self.cfg.compress);
        if self.deletes() && !self.link.missing_args {
            weaker.push("its rsync cannot delete by name: each deletion compares a directory one level deep".into());
        }
        weaker
    }

    /// The current numbers.
    ///
    /// `held`: why the mirror sends nothing. `put_off`: how long a subtree whose events were lost
    /// has been waiting to be compared.
    pub(crate) fn status(&self, now: Duration, held: Option<&str>, put_off: Option<Duration>) -> status::Target {
        let mut s = self.counters.stats.clone();
        s.pending = (self.ledger.set.pending() + self.ledger.large.len()) as u64;
        s.pending_paths = self.some_pending(now);
        s.merged = self.ledger.set.merged();
        s.in_flight = self.runs.batches().map(|b| b.entries.len() as u64).sum();
        let delay = self.schedule.pace.least();
        // Most likely nothing of these changed.
        let resting: Vec<Epoch> = self.ledger.large.resting(now).map(|(entry, _)| entry.epoch()).collect();
        let late = self.ledger.set.epochs().lag(now, &resting).map(|lag| lag.saturating_sub(delay));
        s.lag_seconds = late.max(put_off).unwrap_or_default().as_secs_f64();
        (s.delay_seconds, s.leaves_seconds) = (delay.as_secs_f64(), self.leaves_in(now).unwrap_or_default().as_secs_f64());
        s.latency = self.counters.latency.shown();
        s.standby = self.runs.standbys() as u64;
        s.feed = self.feed.as_ref().map(feed::Feed::status);
        s.coarsened = self.ledger.set.coarsened();
        s.renames_sent_whole += self.ledger.set.parted();
        s.retry_seconds = 0.0;
        s.trying = matches!(self.link.state(), State::Probing { .. });
        match self.link.state() {
            State::Probing { after: None } => s.state = TargetState::Probing,
            State::Probing { after: Some(outage) } => self.report_away(&mut s, outage),
            State::Up => {
                s.reason.clear();
                s.state = match put_off {
                    _ if self.ledger.is_held() && self.stuck() => {
                        s.reason = self.why_waiting().0;
                        TargetState::Held
                    }
                    _ if self.only_failures() => {
                        s.reason = self.why_waiting().0;
                        TargetState::Failing
                    }
                    Some(_) if self.in_sync() => {
                        s.reason = "a subtree that was lost sight of again will be compared soon".into();
                        TargetState::Syncing
                    }
                    None if self.in_sync() => TargetState::Idle,
                    _ => {
                        s.reason = self.waits_for_others().unwrap_or_default();
                        TargetState::Syncing
                    }
                };
            }
            State::Away { outage, next } => {
                self.report_away(&mut s, outage);
                s.retry_seconds = next.saturating_sub(now).as_secs_f64();
                // Due: the try begins in this turn of the engine.
                s.trying = *next <= now;
            }
        }
        if let Some(why) = self.why_paused() {
            (s.state, s.reason, s.retry_seconds, s.trying) = (TargetState::Paused, why, 0.0, false);
            s.advice.clear();
        }
        s.paused_unix = self.schedule.paused.unwrap_or_default();
        s.epoch = self.fence.as_ref().map_or(0, |f| f.epoch);
        s.keeps_aside = self.fence.as_ref().is_some_and(|f| f.aside);
        if let Some(why) = held {
            (s.state, s.reason, s.trying) = (TargetState::Held, why.into(), false);
            s.advice.clear();
        }
        (s.reconcile, s.passes) = self.progress_of_runs(now);
        if self.mirror.delete == Delete::Running && self.is_up() && !self.deletes() {
            s.deletes_off = "its rsync cannot delete by name, and delete = \"running\" allows no other way".into();
        }
        if self.is_up() {
            s.weaker = self.weaker();
        }
        s.held_deletes = self.withheld_deletes();
        s.held_reason = self.why_withheld().unwrap_or_default();
        s.failures = self
            .ledger
            .retries
            .failures()
            .map(|f| status::Failure {
                path: Shown(&f.entry.path).to_string(),
                reason: f.reason.clone(),
                tries: f.tries,
                retry_seconds: f.due.saturating_sub(now).as_secs_f64(),
            })
            .chain(self.ledger.long.places().map(|p| status::Failure {
                path: Shown(p.dir()).to_string(),
                reason: p.reason(),
                tries: p.tries,
                retry_seconds: p.due.saturating_sub(now).as_secs_f64(),
            }))
            .take(SHOWN_FAILURES)
            .collect();
        s.failures_more = self.ledger.failing().saturating_sub(s.failures.len()) as u64;
        s
    }

    /// How long what waits for `delay` is still to wait.
    pub(super) fn leaves_in(&self, now: Duration) -> Option<Duration> {
        let opens = self.schedule.pace.opens_at(self.hurry()).filter(|_| self.is_up() && !self.schedule.is_paused())?;
        Some(opens.saturating_sub(now)).filter(|left| !left.is_zero())
    }

    fn report_away(&self, s: &mut status::Target, outage: &Outage) {
        let Outage { config, cause, reason, tries } = outage;
        let (config, tries) = (*config, *tries);
        let fenced = self.fence.as_ref().is_some_and(|f| f.fenced);
        s.state = match (fenced, config) {
            (true, _) => TargetState::Fenced,
            (false, true) => TargetState::Config,
            (false, false) => TargetState::Down,
        };
        s.tries = u64::from(tries);
        s.reason = reason.clone();
        s.advice = if fenced || tries == 0 { String::new() } else { self.advice(config, *cause) };
    }

    fn some_pending(&self, now: Duration) -> Vec<status::Pending> {
        let kind = |kind| match kind {
            Kind::Entry => "entry",
            Kind::Contents => "contents",
            Kind::Subtree => "subtree",
        };
        let waits = self.ledger.set.some_pending(SHOWN_PENDING).into_iter();
        waits
            .map(|w| status::Pending {
                path: Shown(&w.path).to_string(),
                kind: kind(w.kind).into(),
                seconds: now.saturating_sub(w.epoch.begins()).as_secs_f64(),
            })
            .collect()
    }

    /// A number that grows with each change of what [`Target::failure_record`] gives.
    pub(crate) fn failure_changes(&self) -> u64 {
        self.ledger.retries.changes() + self.ledger.long.changes()
    }

    /// The paths that failed for good, each with the reason and a shell line that sends it.
    pub(crate) fn failure_record(&self, root: &std::path::Path) -> Vec<u8> {
        let mut out = Vec::new();
        let failures = self.ledger.retries.failures();
        let more = failures.len().saturating_sub(RECORDED_FAILURES);
        for f in failures.take(RECORDED_FAILURES) {
            let (name, path, tries) = (&self.cfg.name, Shown(&f.entry.path), plural(f.tries.into(), "time"));
            let text = format!("# {}/{name}: {path} (tried {tries})\n# {}\n", self.mirror.name, f.reason.replace('\n', " "));
            out.extend_from_slice(text.as_bytes());
            let pass = if f.entry.kind == Kind::Entry { Pass::Shallow } else { Pass::Deep };
            out.extend_from_slice(b"printf '%s\\0' ");
            out.extend(faillog::quoted(&[b"./", f.entry.path.as_bytes()].concat()));
            out.extend_from_slice(b" | ");
            out.extend(self.command_line(root, pass));
            out.push(b'\n');
        }
        for place in self.ledger.long.places() {
            let (name, dir, reason) = (&self.cfg.name, Shown(place.dir()), place.reason());
            out.extend_from_slice(format!("# {}/{name}: {dir}\n# {reason}\n", self.mirror.name).as_bytes());
        }
        if more > 0 {
            out.extend_from_slice(format!("# {}/{}: {more} more\n", self.mirror.name, self.cfg.name).as_bytes());
        }
        out
    }

    /// The shell line for a pass.
    fn command_line(&self, root: &std::path::Path, pass: Pass) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        let spec = self.spec(root, Compare::Checksum);
        let mut out = Vec::new();
        if let Some(file) = spec.peer.password_of_module() {
            // As an option it is refused: it lies outside of the source, to which rsync is
            // confined.
            out.extend_from_slice(b"RSYNC_PASSWORD=\"$(cat ");
            out.extend(faillog::quoted(file.as_os_str().as_bytes()));
            out.extend_from_slice(b")\" ");
        }
        let words: Vec<Vec<u8>> = argv::argv(&spec, pass).iter().map(|w| faillog::quoted(w.as_bytes())).collect();
        out.extend(words.join(&b' '));
        out
    }
}
