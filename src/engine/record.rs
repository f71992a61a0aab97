//! Keeps the record of failed paths (`fail_log`) as the targets have them.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use crate::faillog::FailLog;

/// At most so often; a target with many failures changes them often.
const EVERY: Duration = Duration::from_secs(1);

/// See the module's text.
pub(super) struct Record {
    log: Arc<FailLog>,
    /// Of each target, [`Target::failure_changes`](crate::targets::Target::failure_changes) as
    /// recorded.
    recorded: Vec<Option<u64>>,
    next: Duration,
    /// It could not be written, which was logged.
    failing: bool,
}

impl Record {
    pub(super) fn new(log: Arc<FailLog>, targets: usize) -> Record {
        Record { log, recorded: vec![None; targets], next: Duration::ZERO, failing: false }
    }
}

impl Engine {
    fn recorded(&self, record: &Record) -> bool {
        record.recorded.iter().zip(&self.targets).all(|(old, t)| *old == Some(t.failure_changes()))
    }

    /// When the record is to be written, if it is.
    pub(super) fn record_due(&self) -> Option<Duration> {
        self.saved.record.as_ref().filter(|r| !self.recorded(r)).map(|r| r.next)
    }

    /// Writes the record if it is due, or `now_or_never`.
    pub(super) fn keep_record(&mut self, now_or_never: bool) {
        let Some(mut record) = self.saved.record.take() else { return };
        let now = self.now();
        if !self.recorded(&record) && (now_or_never || record.next <= now) {
            record.next = now + EVERY;
            let mut failed = None;
            for (target, recorded) in self.targets.iter().zip(&mut record.recorded) {
                let changes = Some(target.failure_changes());
                if *recorded != changes {
                    let section = format!("{}/{}", self.mirror.name, target.cfg.name);
                    match record.log.set(&section, target.failure_record(self.root.path())) {
                        Ok(()) => *recorded = changes,
                        Err(error) => failed = Some(error),
                    }
                }
            }
            if let Some(error) = &failed
                && !record.failing
            {
                let path = record.log.path().display();
                tracing::error!(mirror = %self.mirror.name, %path, %error, "cannot write fail_log; status lists the failed paths");
            }
            record.failing = failed.is_some();
        }
        self.saved.record = Some(record);
    }
}
