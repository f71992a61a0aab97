//! Where one path is on its way to the target.

use super::ledger::Parked;
use super::*;
use crate::status::PathState as At;

/// The state of a path at a target, in one word and in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathState {
    /// In one word.
    pub(crate) state: status::PathState,
    /// Since when, why, what is next.
    pub(crate) why: String,
}

impl Target {
    /// What is known of `path` here. Every event has to be in the dirty sets.
    pub(crate) fn explain(&self, now: Duration, path: &[u8]) -> PathState {
        let state = |state, why| PathState { state, why };
        let ago = |since: Epoch| span(now.saturating_sub(since.begins()));
        let changed = |p: &Parked<'_>| p.since.map(|since| format!(", changed {} ago", ago(since))).unwrap_or_default();
        let by = |p: &Parked<'_>| by(p.path, p.kind, path);
        let parked = self.ledger.parked_at(path, Reach::Itself, &[]);
        if let Some(place) = self.ledger.long.of(path) {
            return state(At::Failed, format!("its directory {} {}", place.dir(), place.reason()));
        }
        if let Some(p) = parked.filter(|p| p.place <= Where::Shelved) {
            return match (p.place, self.ledger.retries.failure(p.path)) {
                (Where::Failed, Some(f)) => {
                    let (tries, next) = (plural(f.tries.into(), "time"), span(f.due.saturating_sub(now)));
                    state(At::Failed, format!("{} (tried {tries}, next in {next}){}", f.reason, by(&p)))
                }
                (Where::Shelved, _) => state(At::Held, self.why_shelved().unwrap_or_default()),
                _ => state(At::Held, self.why_withheld().unwrap_or_default()),
            };
        }
        let covers = |e: &&Entry| *e.path == *path || (e.kind > Kind::Entry || e.gone) && path::is_at_or_below(path, &e.path);
        if let Some((run, entry)) = self.runs.carriers().find_map(|(run, c)| Some((run, c.batch.entries.iter().find(covers)?))) {
            let since = span(now.saturating_sub(run.started));
            let by = self::by(&entry.path, entry.kind, path);
            return state(
                At::InFlight,
                format!("rsync has been carrying it for {since}; changed {} ago{by}", ago(entry.epoch())),
            );
        }
        if let Some((at, kind, since)) = self.ledger.set.pending_at(path) {
            let leaves = self.leaves_in(now).map(|left| format!("; leaves in {} (delay)", span(left))).unwrap_or_default();
            return state(At::Pending, format!("for {}{}{leaves}", ago(since), self::by(&at, kind, path)));
        }
        let Some(p) = parked else {
            return match self.met.left_out.contains(path) {
                true => state(At::LeftOut, "when it changed last it was larger than max_file_size".into()),
                false => state(At::InSync, "nothing of it waits: every change heard so far is confirmed".into()),
            };
        };
        let why = match p.place {
            Where::Large => match self.ledger.large.resting(now).find(|(entry, _)| *entry.path == *path) {
                Some((_, until)) => format!(
                    "it was read on both sides and found equal, and then only opened for writing: it is read again in {}",
                    span(until.saturating_sub(now))
                ),
                None => "for other large files".into(),
            },
            Where::Links | Where::Names => "until the other names of its file are found".into(),
            Where::After => "for the end of a run that may undo it".into(),
            Where::Recount => "until its deletions are counted again".into(),
            Where::Unanswered => "it was sent, and the target did not answer; it is looked at again".into(),
            _ => "for another try".to_string(),
        };
        let by = if p.place == Where::Again { by(&p) } else { String::new() };
        state(At::Waiting, format!("{why}{}{by}", changed(&p)))
    }

    /// Why nothing goes to the target at all, if so.
    pub(crate) fn why_stopped(&self) -> Option<String> {
        self.why_paused().or_else(|| {
            self.away().map(|(reason, config, tries)| match config {
                true => format!("the target cannot be used as it is configured: {reason}"),
                false => format!("the target is down: {reason} (tried {})", plural(tries.into(), "time")),
            })
        })
    }
}

fn span(time: Duration) -> String {
    crate::text::span(time.as_secs_f64())
}

/// What an entry for something else has to do with the path.
fn by(at: &RelPath, kind: Kind, path: &[u8]) -> String {
    match kind {
        _ if **at == *path => String::new(),
        Kind::Contents => format!(", with the directory {at}"),
        _ => format!(", with all of {at}"),
    }
}
