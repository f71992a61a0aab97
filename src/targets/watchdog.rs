//! Ends runs that make no progress ([`crate::sync::pulse`]), or wait for what does not come. One
//! that was requested to end is killed when it makes no progress for `watchdog`.

use super::*;
use crate::sync::pulse::{Beat, Carries};

/// Why a run is ended, and the line of the log.
type Hindrance = (AbortReason, &'static str);

impl InFlightRun {
    fn carries(&self) -> Carries {
        let Some(Carried { batch, how, .. }) = self.carried() else { return Carries::List };
        let trees = batch.entries.iter().any(|e| e.kind > Kind::Entry);
        match (how.links.is_some(), trees, batch.entries.len() > 1) {
            (true, true, _) | (true, _, true) => Carries::Links,
            (false, false, true) => Carries::List,
            _ => Carries::Whole,
        }
    }

    /// When [`InFlightRun::watch_over`] has something to do.
    fn watched_next(&self, watchdog: Duration) -> Duration {
        self.process.pulse.due(self.carries(), watchdog)
    }

    /// When there is something to do about it, if nothing else happens.
    pub(super) fn next_due(&self, target: &config::Target) -> Vec<Duration> {
        let Process { started, fifo_checked, progress_logged, abort_reason, .. } = self.process;
        if let Some(lingers) = &self.process.lingers {
            return vec![lingers.due()];
        }
        let mut due: Vec<Duration> = self.process.stdout_paused_until.into_iter().collect();
        match &self.kind {
            RunKind::Standby => {
                due.push(started + target.standby_max_age);
                return due;
            }
            RunKind::Batch(carried) if carried.how.wide && !carried.how.soft => due.push(started + SOFT_AFTER),
            RunKind::Batch(_) | RunKind::Probe | RunKind::Role => {}
        }
        due.push(self.watched_next(target.watchdog));
        due.extend(abort_reason.is_none().then_some(fifo_checked + FIFO_CHECK));
        due.push(progress_logged + LOG_EVERY);
        due
    }

    /// It carries subtrees for so long that others pass below it from now on.
    fn softens(&mut self, now: Duration) -> bool {
        let age = now.saturating_sub(self.process.started);
        match &mut self.kind {
            RunKind::Batch(carried) if carried.how.wide && !carried.how.soft && age >= SOFT_AFTER => {
                carried.how.soft = true;
                true
            }
            _ => false,
        }
    }

    /// What holds it up, where that is known. `deep`: a comparison waits for its end.
    fn hindrance(&mut self, now: Duration, root: &Root, deep: bool, unread: &mut unread::Unread) -> Option<Hindrance> {
        let wide = self.carried().is_some_and(|carried| carried.how.wide);
        match self.process.rsync.waits_on() {
            Some(WaitsOn::Fifo) => {
                return Some((AbortReason::Fifo, "a file became a FIFO under a run, which is ended and done again"));
            }
            // A pass over a tree would begin anew, and meet it again.
            Some(WaitsOn::Lease) if !wide => {
                let what = "a program holds a lease on a file of a run, which is ended and done again without it";
                return Some((AbortReason::Lease, what));
            }
            _ => {}
        }
        let process = &self.process;
        let RunKind::Batch(carried) = &mut self.kind else { return None };
        let Carried { batch, how, .. } = &mut **carried;
        if process.lane == Lane::Large && leases::is_gone(root, batch) {
            return Some((AbortReason::Gone, "the only file of a run is gone, so the run is ended"));
        }
        if process.lane == Lane::Large && deep && unread.gives_way(batch, now.saturating_sub(process.started)) {
            let what = "a file of holes gives way to a comparison, and is sent again after it";
            return Some((AbortReason::GivesWay, what));
        }
        if !how.soft && process.pass != Pass::ShallowOneLevel {
            return None;
        }
        match how.stalled.judge(now, process.rsync.open_file())? {
            slow::Stop::Gone => Some((AbortReason::Gone, "a comparison reads a file that is gone, and is made again")),
            slow::Stop::Hollow(at) => unread
                .hide_hollow(root, batch, &at)
                .then_some((AbortReason::Hollow, "a comparison stands at a file of holes, and is made again without it")),
        }
    }

    /// Ends a run that makes no progress. Two reads from /proc, where it is due.
    fn watch_over(&mut self, now: Duration, mirror: &str, target: &config::Target) {
        if self.is_standby() || self.watched_next(target.watchdog) > now {
            return;
        }
        let aborted = self.process.abort_reason.is_some();
        let carries = if aborted { Carries::List } else { self.carries() };
        let process = &mut self.process;
        let reason = match process.pulse.take(now, process.rsync.work(), carries, target.watchdog) {
            Beat::Goes => return,
            _ if aborted => return process.rsync.kill(),
            Beat::Silent => {
                tracing::warn!(mirror = %mirror, target_name = %target.name, "a run made no progress for {:?}, ending it", target.watchdog);
                AbortReason::Stalled
            }
            Beat::Idle => {
                tracing::warn!(
                    mirror = %mirror, target_name = %target.name,
                    "a run did nothing but keep its connection alive, ending it: {}",
                    if carries == Carries::List { "its paths are sent in smaller lists" } else { "it is done again" }
                );
                AbortReason::Idle
            }
            Beat::Knotted => {
                tracing::warn!(
                    mirror = %mirror, target_name = %target.name,
                    "a run that makes hard links stands still, ending it: its work is done in smaller parts"
                );
                AbortReason::Knotted
            }
        };
        process.abort_reason = Some(reason);
        process.rsync.cut();
        process.pulse = Pulse::new(now);
    }
}

impl Target {
    /// Looks after the runs: softens long ones, ends those that are held up or make no progress,
    /// and standby processes that are old.
    pub(super) fn watch_over_runs(&mut self, cx: &mut Context<'_>) {
        let (now, deep) = (cx.now, self.ledger.set.has_deep());
        let mut softened = Vec::new();
        for (serial, run) in self.runs.iter_mut().filter(|(_, run)| run.process.lingers.is_none()) {
            if run.softens(now) {
                softened.push(serial);
            }
            let checks = !run.is_standby() && run.process.abort_reason.is_none();
            if checks && now.saturating_sub(run.process.fifo_checked) >= FIFO_CHECK {
                run.process.fifo_checked = now;
                if let Some((reason, what)) = run.hindrance(now, cx.root, deep, &mut self.unread) {
                    tracing::info!(mirror = %self.mirror.name, target_name = %self.cfg.name, "{what}");
                    run.process.abort_reason = Some(reason);
                    run.process.rsync.cut();
                }
            }
            run.watch_over(now, &self.mirror.name, &self.cfg);
        }
        for batch in softened.into_iter().filter_map(|serial| self.runs.get(serial)?.batch()) {
            self.ledger.set.soften(batch);
        }
        let oldest = self.cfg.standby_max_age;
        self.runs.discard_where(cx.reactor, |run| run.is_standby() && now.saturating_sub(run.process.started) > oldest);
    }
}
