//! Batches that come in records: whether they can be applied here, and how one is.

use super::processes::What;
use super::*;
use crate::feed::batch;
use crate::feed::machine::{End, Work};
use crate::filter::Filter;
use crate::sync::argv::{ITEMS, receiver_only};
use crate::sync::outcome::{Outcome, Verdict};
use crate::sync::probe::{RsyncFacts, Version};
use crate::sync::run::Input;

/// What a follower knows of batches.
#[derive(Default)]
pub(super) struct Batches {
    /// That of the rsync here, once it was asked.
    version: Option<Option<Version>>,
    /// The last record that named paths had a batch that can be applied here.
    pub(super) expected: bool,
    pub(super) applied: u64,
    /// Why others were not, and how often.
    pub(super) pulled: std::collections::BTreeMap<&'static str, u64>,
}

impl Batches {
    pub(super) fn count(&mut self, reason: &'static str) {
        *self.pulled.entry(reason).or_default() += 1;
    }

    /// Takes out a batch that cannot be applied here. `left_out`: some of its paths are.
    pub(super) fn weigh(&mut self, mirror: &Mirror, record: &mut Record, left_out: bool, env: &[(OsString, OsString)]) {
        let Some(found) = &record.batch else {
            self.expected &= record.entries.is_empty();
            return;
        };
        let version = *self.version.get_or_insert_with(|| Some(RsyncFacts::probe(&mirror.rsync, env).ok()?.version));
        // Where not all is copied a directory is not compared by what another one has of it.
        let by_level = record.entries.iter().any(|item| item.kind == crate::dirty::Kind::Contents);
        let reason = match version {
            _ if left_out || by_level && mirror.filter != Filter::default() => Some("excluded"),
            Some(version) => batch::unreadable(found, version, mirror.extras),
            None => Some("older_rsync"),
        };
        self.expected = reason.is_none();
        if let Some(reason) = reason {
            record.batch = None;
            self.count(reason);
        }
    }
}

impl Follower {
    /// The words that apply a batch.
    fn apply_words(&self, contents: bool) -> Vec<OsString> {
        let mirror = &self.mirror;
        let rules: Vec<OsString> = mirror.filter.rsync_args().iter().map(|rule| receiver_only(rule)).collect();
        let most = self.bound_at_all();
        batch::reading(&mirror.rsync, mirror.extras, &rules, contents, most, ITEMS, &mirror.source)
    }

    /// How many entries a batch may delete. What was accepted is a matter of the run that was held.
    fn bound_at_all(&self) -> Option<u64> {
        match self.mirror.max_delete {
            Some(crate::config::MaxDelete::Count(most)) => Some(most),
            _ => None,
        }
    }

    /// Starts an rsync that applies a batch, or waits for one.
    pub(super) fn start_apply(&self, contents: bool, input: Input<'_>) -> Result<Run, String> {
        let words = self.apply_words(contents);
        let dir = std::fs::File::open(&self.mirror.source).map_err(|e| e.to_string())?;
        let names = pull::names(&self.mirror, self.upstream());
        tracing::debug!(mirror = %self.mirror.name, command = ?words, "starting rsync");
        Run::apply(&words, self.processes.env(), input, &dir, self.mirror.extras, names).map_err(|e| crate::error::chain(&e))
    }

    /// Applies what came with a record.
    pub(super) fn apply(&mut self, work: Work) {
        let Work::Batch { batch, contents, gone } = work else { return };
        if self.bound_at_all().is_some_and(|most| gone as u64 > most) {
            // The run in its place is held.
            self.batches.count("max_delete");
            self.end_run(End::Not);
            return self.door.ring();
        }
        let spare = if contents { None } else { self.processes.feed_spare(Ready::Apply, &batch.bytes) };
        match spare {
            Some(Ok(run)) => {
                self.counters.standby_hits += 1;
                return self.watch(run, What::Apply);
            }
            Some(Err(error)) => tracing::debug!(mirror = %self.mirror.name, %error, "a standby took no batch"),
            None => {}
        }
        match self.start_apply(contents, Input::List(&batch.bytes)) {
            Ok(run) => self.watch(run, What::Apply),
            Err(why) => {
                tracing::debug!(mirror = %self.mirror.name, "a batch is not applied: {why}");
                self.batches.count("failed");
                self.end_run(End::Not);
                self.door.ring();
            }
        }
    }

    /// A batch was applied, or was not.
    pub(super) fn applied(&mut self, outcome: &Outcome) {
        self.counters.runs += 1;
        self.counters.files_sent += outcome.counters.files_sent;
        self.counters.deleted += outcome.counters.deleted;
        // Whatever it says that is not known, the state of the record's paths is not known then.
        if outcome.verdict == Verdict::Done && outcome.unknown.is_empty() {
            self.counters.batches += 1;
            self.counters.last_success_unix = unix_now();
            self.batches.applied += 1;
            self.end_run(End::Done);
            return;
        }
        *self.counters.bad_runs.entry(outcome.verdict.class().to_owned()).or_default() += 1;
        tracing::debug!(mirror = %self.mirror.name, reason = %outcome.reason, unknown = ?outcome.unknown, "a batch came to nothing, its paths are pulled");
        self.batches.count("failed");
        self.end_run(End::Not);
    }
}
