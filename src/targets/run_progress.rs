//! How far the target's runs are.

use super::*;
use crate::progress::Progress;

/// Runs that compare nothing are reported once they have taken so long.
const LONG: Duration = Duration::from_secs(2);

/// What a run does, in words.
fn words(process: &Process, Carried { batch, purpose, how }: &Carried) -> String {
    let first = |what: &str| {
        let first = batch.entries.first().map(|e| Shown(&e.path).to_string()).unwrap_or_default();
        match batch.entries.len() {
            0 | 1 => format!("{what} {first}"),
            n => format!("{what} {first} and {} more", n - 1),
        }
    };
    match (process.pass, purpose) {
        (_, Purpose::Rename(_)) => first("carrying out the rename to"),
        (_, Purpose::DryRun(DryRun::Entries)) => "counting the tree's entries".into(),
        (Pass::Full { .. }, Purpose::DryRun(_)) => "counting what a comparison of the whole tree would delete".into(),
        (_, Purpose::DryRun(_)) => first("counting what would be deleted by comparing"),
        (Pass::Full { .. }, Purpose::Survey { .. }) => "comparing the whole tree, dry".into(),
        (Pass::Full { .. }, _) => "comparing the whole tree".into(),
        (Pass::Deep | Pass::ShallowOneLevel, _) => first("comparing"),
        _ => format!("sending {}", plural(how.paths as u64, "path")),
    }
}

fn progress(process: &Process, carried: &Carried, now: Duration) -> Progress {
    let reported = matches!(process.pass, Pass::Full { .. } | Pass::Deep);
    let took = now.saturating_sub(process.started);
    Progress::of_run(words(process, carried), &process.rsync, took, reported, carried.how.paths)
}

impl Target {
    /// How far the run over the whole tree is, if one goes on, and the others that compare or take
    /// long.
    pub(super) fn progress_of_runs(&self, now: Duration) -> (Option<Progress>, Vec<Progress>) {
        let whole = |(run, _): &(&Process, &Carried)| matches!(run.pass, Pass::Full { .. });
        let slow = |run: &Process| run.pass == Pass::Deep || now.saturating_sub(run.started) >= LONG;
        let of = |(run, carried): (&Process, &Carried)| progress(run, carried, now);
        let full = self.runs.carriers().find(whole).map(of);
        let others = self.runs.carriers().filter(|run| !whole(run) && slow(run.0));
        (full, others.map(of).collect())
    }

    /// Logs runs that take long.
    pub(super) fn report_progress(&mut self, now: Duration) {
        for InFlightRun { process, kind } in self.runs.values_mut() {
            if let RunKind::Batch(carried) = kind
                && now.saturating_sub(process.progress_logged) >= LOG_EVERY
            {
                process.progress_logged = now;
                progress(process, carried, now).log(&self.mirror.name, &self.cfg.name);
            }
        }
    }
}
