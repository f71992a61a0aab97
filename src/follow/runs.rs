//! The runs of a follower: what is started when, and what its end means.

use super::processes::{Cut, What};
use super::pull::{self, Judged, Manner, Pass};
use super::*;
use crate::feed::machine::{End, Work};
use crate::feed::mark;
use crate::sync::argv::Compare;
use crate::sync::output::Names;
use crate::sync::run::Input;
use crate::text::plural;

/// Runs in turn that may come to nothing before the pause after them grows.
const SOON: u32 = 12;

impl Follower {
    /// Starts what may be started, and ends what stands still.
    pub(super) fn go_on(&mut self) {
        let (now, watchdog, timeout) = (self.now(), self.upstream().watchdog, self.upstream().timeout);
        if self.processes.watch_over(now, watchdog) {
            tracing::warn!(mirror = %self.mirror.name, "a run made no progress for {watchdog:?}, ending it");
        }
        if self.door.is_closing() {
            return;
        }
        if self.processes.doing().is_some() {
            return self.processes.end_slow_batch(now, timeout);
        }
        if self.pause.is_on() || self.machine.is_held() {
            return self.processes.drop_spare();
        }
        let waits = |until: Option<Duration>| until.is_some_and(|until| until > now);
        if waits(self.deletions.due()) {
            return;
        }
        // What came with a record needs no upstream.
        let away = waits(self.away.as_ref().map(|away| away.next));
        if away && self.machine.queued() == 0 {
            return;
        }
        if self.machine.owes() && waits(self.spread_until) {
            return;
        }
        // Nothing is known of the tree that is followed.
        if self.machine.identity().is_none() {
            return;
        }
        match self.disk.look() {
            Ok(Directory::Same) => {}
            Ok(Directory::Replaced) => {
                let owed = self.machine.owes();
                self.machine.owe("the directory is another one than before".into());
                return self.owes(owed);
            }
            Err(error) => {
                return self.went_away(true, format!("the directory {} cannot be used: {error}", self.mirror.source.display()));
            }
        }
        if !self.machine.has_work(now) {
            return self.refill_spare();
        }
        self.give_names();
        let work = if !away && self.choose_upstream() { self.machine.take(now) } else { self.machine.take_batch() };
        if let Some(work) = work {
            self.begin(work);
        }
    }

    /// Begins with what has to be known before a work.
    fn begin(&mut self, work: Work) {
        let (deletes, gone) = match &work {
            Work::Whole => (true, 0),
            Work::List { deletes, gone, .. } => (*deletes, *gone as u64),
            Work::Batch { .. } => return self.apply(work),
        };
        if let Some(most) = self.bound().filter(|most| gone > *most) {
            return self.hold_deletes(gone, format!("{} gone, and max_delete is {most}", plural(gone, "name")));
        }
        if deletes || !self.mark.serves_again(self.now()) {
            return self.fetch_mark(work);
        }
        self.count_or_pull(work);
    }

    /// How many entries a run may delete.
    fn bound(&self) -> Option<u64> {
        match self.mirror.max_delete {
            Some(crate::config::MaxDelete::Count(most)) if !self.deletions.are_accepted() => Some(most),
            _ => None,
        }
    }

    fn fetch_mark(&mut self, work: Work) {
        if let Err(error) = self.mark.clear() {
            self.end_run(End::Not);
            return self.went_away(true, format!("cannot use {} for the upstream's mark: {error}", self.mark.dir().display()));
        }
        let words = pull::mark_words(&self.mirror, self.upstream(), self.mark.dir());
        self.start(&words, Input::None, Names::default(), What::Mark(work));
    }

    /// A relay keeps what is half copied apart. While it fills a directory it is not known by its
    /// mark: its followers would delete what is not there yet.
    fn prepare_relay(&self, work: &Work) -> std::io::Result<()> {
        let Some(follow) = self.mirror.follow.as_ref().filter(|follow| follow.serve.is_some()) else { return Ok(()) };
        mark::take_relay(&self.mirror.source, &follow.follower)?;
        match work {
            Work::Whole if !self.disk.is_filled() => mark::remove(&self.mirror.source),
            _ => Ok(()),
        }
    }

    /// A relay has compared its tree: from here on it is known by its mark.
    fn served(&self) -> std::io::Result<()> {
        if self.supply.own.is_none() {
            return Ok(());
        }
        self.mark.put(&self.mirror.source)
    }

    /// Whether a comparison could take something away that is here.
    fn has_something(&self) -> bool {
        let Ok(mut found) = std::fs::read_dir(&self.mirror.source) else { return true };
        found
            .any(|entry| entry.map_or(true, |entry| !matches!(entry.file_name().as_encoded_bytes(), b"lost+found" | b".fansync")))
    }

    fn count_or_pull(&mut self, work: Work) {
        let deep = match &work {
            Work::Whole => self.has_something(),
            Work::List { deep, .. } => *deep && self.bound().is_some(),
            Work::Batch { .. } => false,
        };
        if deep && !self.deletions.are_accepted() {
            let (manner, list, _) = pull::manner(&work, None);
            return self.launch(Manner { dry: true, ..manner }, &list, What::Count(work));
        }
        self.pull(work);
    }

    fn pull(&mut self, work: Work) {
        let (manner, list, refused) = pull::manner(&work, self.bound());
        if let Err(error) = self.prepare_relay(&work) {
            self.end_run(End::Not);
            return self.went_away(true, format!("cannot use {} in the directory: {error}", mark::RELAY));
        }
        if !refused.is_empty() {
            let complain =
                |path| crate::feed::machine::Complaint { path, absent: false, words: "the name is too long for rsync".into() };
            let complaints = refused.into_iter().map(complain).collect();
            self.end_run(End::Partly { complaints, complete: true });
            return self.door.ring();
        }
        // Whatever is named travels, also what looks the same.
        if manner.pass == Pass::Listed && manner.compare == Compare::Resend && !manner.deletes {
            match self.processes.feed_spare(Ready::Pull, &list) {
                Some(Ok(run)) => {
                    self.counters.standby_hits += 1;
                    return self.watch(run, What::Pull(work));
                }
                Some(Err(error)) => tracing::debug!(mirror = %self.mirror.name, %error, "a standby took no list"),
                None => {}
            }
        }
        self.launch(manner, &list, What::Pull(work));
    }

    fn launch(&mut self, manner: Manner, list: &[u8], what: What) {
        let words = pull::words(&self.mirror, self.upstream(), manner);
        let input = if manner.pass == Pass::Whole { Input::None } else { Input::List(list) };
        let names = pull::names(&self.mirror, self.upstream());
        self.start(&words, input, names, what);
    }

    fn start(&mut self, words: &[OsString], input: Input<'_>, names: Names, what: What) {
        tracing::debug!(mirror = %self.mirror.name, command = ?words, "starting rsync");
        match self.processes.start(words, &argv::Peer::of(self.upstream()), input, names) {
            Ok(run) => self.watch(run, what),
            Err(error) => {
                self.end_run(End::Not);
                let config = matches!(error, crate::sync::run::RunError::Password(_));
                self.went_away(config, format!("cannot start rsync: {}", crate::error::chain(&error)));
            }
        }
    }

    pub(super) fn watch(&mut self, run: Run, what: What) {
        if let Err(error) = self.processes.watch(run, what, self.now()) {
            self.end_run(End::Not);
            self.went_away(false, format!("cannot wait for rsync: {error}"));
        }
    }

    /// Has a process connected ahead, for the next file that changes.
    fn refill_spare(&mut self) {
        let now = self.now();
        let what = if self.batches.expected { Ready::Apply } else { Ready::Pull };
        self.processes.drop_old_spare(what, now, self.upstream().standby_max_age);
        if self.processes.has_spare()
            || self.machine.owes()
            || self.away.is_some()
            || self.supply.is_in_trouble()
            || self.counters.batches == 0
        {
            return;
        }
        let started = match what {
            Ready::Apply => self.start_apply(false, Input::Standby).ok(),
            Ready::Pull => {
                let manner =
                    Manner { pass: Pass::Listed, compare: Compare::Resend, deletes: false, max_delete: None, dry: false };
                let words = pull::words(&self.mirror, self.upstream(), manner);
                let names = pull::names(&self.mirror, self.upstream());
                self.processes.start(&words, &argv::Peer::of(self.upstream()), Input::Standby, names).ok()
            }
        };
        if let Some(run) = started {
            self.processes.keep_spare(run, what, now);
        }
    }

    // ----- ends -----

    /// As [`crate::feed::machine::Machine::ended`].
    pub(super) fn end_run(&mut self, end: End) -> bool {
        let (now, here) = (self.now(), self.mirror.source.clone());
        let is_dir = |path: &crate::path::RelPath| here.join(path.as_path()).symlink_metadata().is_ok_and(|found| found.is_dir());
        self.machine.ended(now, end, &is_dir)
    }

    pub(super) fn ended(&mut self, doing: Doing, outcome: &crate::sync::outcome::Outcome) {
        let Doing { run, what, began, cut, .. } = doing;
        let now = self.now();
        if let Some(cut) = cut {
            self.end_run(End::Not);
            if cut == Cut::Stalled {
                let watchdog = self.upstream().watchdog;
                self.upstream_went(false, format!("a run made no progress for {watchdog:?}, and was ended"));
            }
            return;
        }
        match what {
            What::Mark(work) => match pull::judge(outcome) {
                // A mark that is not there is no trouble with the connection.
                Judged::Away { config, why } => {
                    self.end_run(End::Not);
                    self.upstream_went(config, why);
                }
                _ => match self.mark.judge(&self.upstream().location, self.machine.identity()) {
                    Ok(()) if self.mark.is_of_a_relay() && !self.supply.is_a_relay() => {
                        self.end_run(End::Not);
                        self.is_a_relay();
                    }
                    Ok(()) => {
                        self.mark.see(now);
                        self.came_back();
                        self.count_or_pull(work);
                    }
                    Err(why) => {
                        self.end_run(End::Not);
                        self.upstream_went(true, format!("{why}. Nothing is pulled or deleted"));
                    }
                },
            },
            What::Count(work) => match pull::judge(outcome) {
                Judged::Away { config, why } => {
                    self.end_run(End::Not);
                    self.upstream_went(config, why);
                }
                _ => {
                    let deletes = outcome.counters.deleted;
                    match self.too_many(&work, deletes) {
                        Some(why) => self.hold_deletes(deletes, why),
                        None => self.pull(work),
                    }
                }
            },
            What::Apply => self.applied(outcome),
            What::Pull(work) => self.pulled(&run, &work, began, outcome),
        }
    }

    /// Why so many deletions have to be accepted.
    fn too_many(&self, work: &Work, deletes: u64) -> Option<String> {
        if let Some(most) = self.bound().filter(|most| deletes > *most) {
            return Some(format!("it would delete {}, and max_delete is {most}", plural(deletes, "entry")));
        }
        if *work != Work::Whole || deletes == 0 {
            return None;
        }
        let here = count(&self.mirror.source, deletes.saturating_mul(2));
        (deletes.saturating_mul(2) > here).then(|| {
            format!(
                "it would delete {deletes} of {}, more than half of what is here: is it the right directory, and the right upstream?",
                plural(here, "entry")
            )
        })
    }

    fn pulled(&mut self, run: &Run, work: &Work, began: Duration, outcome: &crate::sync::outcome::Outcome) {
        let now = self.now();
        self.counters.runs += 1;
        let done = outcome.counters;
        self.counters.files_sent += done.files_sent;
        self.counters.deleted += done.deleted;
        self.counters.bytes_sent += done.wire_received;
        match pull::judge(outcome) {
            Judged::Ended(end) => {
                self.came_back();
                let good = end == End::Done;
                if good {
                    self.counters.batches += 1;
                    self.counters.last_success_unix = unix_now();
                    self.counters.unknown_words.clear();
                    self.deletions.went_through();
                } else {
                    *self.counters.bad_runs.entry(outcome.verdict.class().to_owned()).or_default() += 1;
                    self.counters.unknown_words = match end {
                        End::Partly { complete: false, .. } => outcome.reason.clone(),
                        _ => String::new(),
                    };
                    tracing::debug!(mirror = %self.mirror.name, reason = %outcome.reason, unknown = ?run.output().unknown, "a run did not pull everything");
                }
                let mut end = end;
                if *work == Work::Whole
                    && end == End::Done
                    && let Err(error) = self.served()
                {
                    end = End::Not;
                    self.went_away(true, format!("cannot write {} in the directory: {error}", mark::FILE));
                }
                // What is missing there is passed over. In a tree that is another one by now, or
                // was emptied, that would be everything: so the mark decides.
                let listed = if let Work::List { paths, .. } = work { paths.len() as u64 } else { 0 };
                if end == End::Done && self.mark.take_old() && done.files_sent < listed {
                    self.mark.forget();
                    self.end_run(End::Not);
                    return self.door.ring();
                }
                let progress = self.end_run(end);
                if *work == Work::Whole && !self.machine.owes() {
                    self.disk.note_filled();
                    self.counters.renames = 0;
                    tracing::info!(
                        mirror = %self.mirror.name, files = done.files_sent, deleted = done.deleted,
                        seconds = format_args!("{:.1}", (now.saturating_sub(began)).as_secs_f64()),
                        "the whole tree is equal to the upstream"
                    );
                }
                if !progress {
                    self.pause_runs(now);
                }
            }
            Judged::DeletesHeld(why) => self.hold_deletes(outcome.counters.deleted, why),
            Judged::Away { config, why } => {
                *self.counters.bad_runs.entry(outcome.verdict.class().to_owned()).or_default() += 1;
                self.end_run(End::Not);
                self.upstream_went(config, why);
            }
        }
    }

    /// Nothing came of a run: the next one waits for a moment.
    fn pause_runs(&mut self, now: Duration) {
        let tries = self.away.as_ref().map_or(0, |away| away.tries);
        let why = "paths could not be pulled".to_owned();
        // What fails is set apart soon, and looked at seldom where that does not help.
        let pause = match self.machine.fruitless() {
            0..=SOON => self.upstream().retry_min,
            more => self.backoff(u64::from(more - SOON)),
        };
        self.away = Some(Away { config: false, why, tries, next: now + pause });
    }

    fn came_back(&mut self) {
        self.upstream_came_back();
        if let Some(away) = self.away.take()
            && away.tries > 0
        {
            tracing::info!(mirror = %self.mirror.name, "the upstream is pulled from again");
        }
    }

    pub(super) fn went_away(&mut self, config: bool, why: String) {
        let known = self.away.as_ref().is_some_and(|away| away.why == why);
        if !known {
            tracing::warn!(mirror = %self.mirror.name, "nothing can be pulled: {why}. It is tried again by itself");
        }
        self.processes.drop_spare();
        let tries = self.away.as_ref().map_or(0, |away| away.tries) + 1;
        let next = self.now() + self.backoff(tries);
        self.away = Some(Away { config, why, tries, next });
    }

    fn hold_deletes(&mut self, deletes: u64, why: String) {
        let now = self.now();
        self.end_run(End::Not);
        if self.deletions.held().is_none() {
            tracing::error!(
                mirror = %self.mirror.name,
                "nothing is pulled: {why}. If it is meant: fansync resume --accept-deletes"
            );
        }
        self.deletions.hold(why, deletes, now + self.upstream().retry_max);
    }
}

/// Entries below a directory, counted up to `most`.
fn count(dir: &Path, most: u64) -> u64 {
    let (mut found, mut dirs) = (0, vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            found += 1;
            if found >= most {
                return found;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            }
        }
    }
    found
}
