//! How far the target's runs are.

use super::*;
use crate::progress::Progress;

/// Runs that compare nothing are told of once they have taken so long.
const LONG: Duration = Duration::from_secs(2);

/// What a run does, in words.
fn words(run: &Flight, batch: &Batch) -> String {
    let first = |what: &str| {
        let first = batch.entries.first().map(|e| Shown(&e.path).to_string()).unwrap_or_default();
        match batch.entries.len() {
            0 | 1 => format!("{what} {first}"),
            n => format!("{what} {first} and {} more", n - 1),
        }
    };
    match (run.pass, &run.look) {
        _ if run.moving.is_some() => first("carrying out the rename to"),
        (_, Some(guarded::Look::Entries)) => "counting the tree's entries".into(),
        (Pass::Full { .. }, Some(_)) => "counting what a comparison of the whole tree would delete".into(),
        (_, Some(_)) => first("counting what would be deleted by comparing"),
        (Pass::Full { .. }, None) if run.dry => "comparing the whole tree, dry".into(),
        (Pass::Full { .. }, None) => "comparing the whole tree".into(),
        (Pass::Deep | Pass::ShallowOneLevel, None) => first("comparing"),
        _ => format!("sending {}", plural(run.paths as u64, "path")),
    }
}

impl Flight {
    fn progress(&self, batch: &Batch, now: Duration) -> Progress {
        let told = matches!(self.pass, Pass::Full { .. } | Pass::Deep);
        Progress::of_run(words(self, batch), &self.run, now.saturating_sub(self.started), told, self.paths)
    }
}

impl Target {
    /// How far the run over the whole tree is, if one goes on, and the others that compare or take long.
    pub(super) fn how_far(&self, now: Duration) -> (Option<Progress>, Vec<Progress>) {
        let whole = |run: &Flight| matches!(run.pass, Pass::Full { .. });
        let compares = |run: &Flight| run.pass == Pass::Deep;
        let long = |run: &Flight| now.saturating_sub(run.started) >= LONG;
        let full = self.batches().find(|(run, _)| whole(run)).map(|(run, batch)| run.progress(batch, now));
        let others = self.batches().filter(|(run, _)| !whole(run) && (compares(run) || long(run)));
        (full, others.map(|(run, batch)| run.progress(batch, now)).collect())
    }

    /// Tells the log of runs that take long.
    pub(super) fn tell_progress(&mut self, now: Duration) {
        for run in self.runs.values_mut() {
            if matches!(run.load, Load::Batch(_)) && now.saturating_sub(run.told) >= LOG_EVERY {
                run.told = now;
                if let Load::Batch(batch) = &run.load {
                    run.progress(batch, now).log(&self.mirror.name, &self.cfg.name);
                }
            }
        }
    }
}
