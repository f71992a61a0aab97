//! Where one path is on its way to the target.

use super::*;

/// The state of a path at a target, in one word and in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathState {
    /// `in sync`, `pending`, `in flight`, `waiting`, `failed`, `held`, `left out`.
    pub state: &'static str,
    /// Since when, why, what is next.
    pub why: String,
}

impl Target {
    /// What is known of `path` here. Everything heard of has to be in the dirty sets.
    pub fn explain(&self, now: Duration, path: &[u8]) -> PathState {
        let state = |state, why| PathState { state, why };
        let covers = |e: &&Entry| *e.path == *path || (e.kind > Kind::Entry || e.gone) && path::is_at_or_below(path, &e.path);
        let age = |since: Duration| span(now.saturating_sub(since));
        let by = |e: &Entry| by(&e.path, e.kind, path);
        if let Some(f) = self.retries.failures().find(|f| covers(&&f.entry) && !f.entry.is_taken()) {
            let next = span(f.due.saturating_sub(now));
            return state(
                "failed",
                format!("{} (tried {}, next in {next}){}", f.reason, plural(f.tries.into(), "time"), by(&f.entry)),
            );
        }
        if let Some(place) = self.long.of(path) {
            return state("failed", format!("its directory {} {}", place.dir(), place.reason()));
        }
        if self.withheld.iter().flat_map(guarded::Withheld::entries).any(|e| covers(&e)) {
            return state("held", self.why_withheld().unwrap_or_default());
        }
        if self.shelf.entries().any(|e| covers(&e)) {
            return state("held", self.why_shelved().unwrap_or_default());
        }
        if let Some((run, entry)) = self.batches().find_map(|(run, batch)| Some((run, batch.entries.iter().find(covers)?))) {
            let why =
                format!("rsync has been carrying it for {}; changed {} ago{}", age(run.started), age(entry.since()), by(entry));
            return state("in flight", why);
        }
        if let Some((at, kind, since)) = self.set.pending_at(path) {
            return state("pending", format!("for {}{}", age(since.begins()), self::by(&at, kind, path)));
        }
        if let Some(entry) = self.retries.entries().find(covers) {
            return state("waiting", format!("for another try, changed {} ago{}", age(entry.since()), by(entry)));
        }
        if let Some(entry) = self.large.entries().find(covers) {
            return state("waiting", format!("for other large files, changed {} ago", age(entry.since())));
        }
        if let Some(entry) = self.linking.entries().chain(self.sought.entries()).find(covers) {
            return state("waiting", format!("until the other names of its file are found, changed {} ago", age(entry.since())));
        }
        if self.unanswered.iter().flat_map(|u| &u.carried).any(|(at, _)| path::is_at_or_below(path, at)) {
            return state("waiting", "it was sent, and the target did not answer; it is looked at again".into());
        }
        if self.left_out.contains(path) {
            return state("left out", "when it changed last it was larger than max_file_size".into());
        }
        state("in sync", "nothing of it waits: every change heard so far is confirmed".into())
    }

    /// Why nothing goes to the target at all, if so.
    pub fn why_stopped(&self) -> Option<String> {
        self.why_paused().or_else(|| {
            self.away().map(|(reason, config, tries)| match config {
                true => format!("the target cannot be used as it is configured: {reason}"),
                false => format!("the target is down: {reason} (tried {})", plural(tries.into(), "time")),
            })
        })
    }
}

fn span(time: Duration) -> String {
    status::span(time.as_secs_f64())
}

/// What an entry for something else has to do with the path.
fn by(at: &RelPath, kind: Kind, path: &[u8]) -> String {
    match kind {
        _ if **at == *path => String::new(),
        Kind::Contents => format!(", with the directory {at}"),
        _ => format!(", with all of {at}"),
    }
}
