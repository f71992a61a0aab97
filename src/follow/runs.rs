//! The runs of a follower: what is started when, and what its end means.

use super::pull::{self, Judged, Manner, Pass};
use super::*;
use crate::feed::machine::{End, Work};
use crate::feed::mark;
use crate::sync::output::{Names, Stream};
use crate::sync::pulse::{Beat, Carries, Pulse};
use crate::sync::run::Input;
use crate::text::plural;

/// Runs in turn that may come to nothing before the pause after them grows.
const SOON: u32 = 12;

/// A run under way.
pub(super) struct Doing {
    pub(super) run: Run,
    pub(super) what: What,
    pub(super) began: Duration,
    pub(super) cut: Option<Cut>,
    pulse: Pulse,
}

/// Why a run was ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The follower ends.
    Stop,
    /// It made no progress.
    Stalled,
}

impl Doing {
    /// What it carries, for the watchdog.
    fn carries(&self) -> Carries {
        match &self.what {
            _ if self.cut.is_some() => Carries::List,
            What::Mark(_) => Carries::List,
            What::Pull(Work::List { deep: false, paths, .. }) if paths.len() > 1 => Carries::List,
            _ => Carries::Whole,
        }
    }

    /// When [`Follower::watch_over`] has something to do.
    pub(super) fn due(&self, watchdog: Duration) -> Duration {
        self.pulse.due(self.carries(), watchdog)
    }
}

/// What a run is for.
pub(super) enum What {
    /// Fetches the upstream's mark, before this.
    Mark(Work),
    /// Counts what this would delete.
    Count(Work),
    Pull(Work),
    /// Applies a batch.
    Apply,
}

impl Follower {
    pub(super) fn on_ready(&mut self, token: u64) {
        match token {
            STDOUT | STDERR => {
                let stream = if token == STDOUT { Stream::Stdout } else { Stream::Stderr };
                if let Some(doing) = &mut self.doing
                    && !doing.run.on_readable(stream)
                {
                    let _ = self.reactor.remove(token);
                }
            }
            EXIT => {
                let Some(doing) = &mut self.doing else { return };
                let outcome = match doing.run.on_exit() {
                    Ok(Some(outcome)) => outcome,
                    Ok(None) => return,
                    Err(error) => crate::sync::outcome::Outcome::unknown(format!("how rsync ended is not known: {error}")),
                };
                self.unwatch();
                if let Some(doing) = self.doing.take() {
                    self.ended(doing, &outcome);
                }
            }
            SPARE => self.drop_spare(),
            _ => {}
        }
    }

    fn unwatch(&mut self) {
        for token in [STDOUT, STDERR, EXIT] {
            let _ = self.reactor.remove(token);
        }
    }

    pub(super) fn drop_spare(&mut self) {
        let _ = self.reactor.remove(SPARE);
        self.spare = None;
    }

    /// Ends a run that makes no progress, as that of a target.
    fn watch_over(&mut self) {
        let (now, watchdog) = (self.now(), self.upstream().watchdog);
        let Some(doing) = self.doing.as_mut().filter(|doing| doing.due(watchdog) <= now) else { return };
        let carries = doing.carries();
        match doing.pulse.take(now, doing.run.work_of_pull(), carries, watchdog) {
            Beat::Goes => {}
            _ if doing.cut.is_some() => doing.run.kill(),
            Beat::Silent | Beat::Idle | Beat::Knotted => {
                doing.cut = Some(Cut::Stalled);
                doing.run.cut();
                doing.pulse = Pulse::new(now);
                tracing::warn!(mirror = %self.mirror.name, "a run made no progress for {watchdog:?}, ending it");
            }
        }
    }

    /// Starts what may be started, and ends what stands still.
    pub(super) fn go_on(&mut self) {
        self.watch_over();
        let now = self.now();
        if self.stop_at.is_some() {
            return;
        }
        if self.doing.is_some() {
            return self.end_slow_batch();
        }
        if self.paused.is_some() || self.machine.is_held() {
            return self.drop_spare();
        }
        let waits = |until: Option<Duration>| until.is_some_and(|until| until > now);
        if waits(self.held_deletes.as_ref().map(|(.., until)| *until)) {
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
        match self.directory() {
            Ok(found) => {
                if let Some(filled) = self.filled
                    && filled != found
                {
                    self.filled = None;
                    let owed = self.machine.owes();
                    self.machine.owe("the directory is another one than before".into());
                    return self.owes(owed);
                }
            }
            Err(error) => {
                return self.went_away(true, format!("the directory {} cannot be used: {error}", self.mirror.source.display()));
            }
        }
        if !self.machine.has_work(now) {
            return self.refill_spare();
        }
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
        let fresh = self.mark_seen.is_some_and(|seen| self.now().saturating_sub(seen) < MARK_HOLDS);
        if deletes || !fresh {
            return self.fetch_mark(work);
        }
        self.mark_old = true;
        self.count_or_pull(work);
    }

    /// How many entries a run may delete.
    fn bound(&self) -> Option<u64> {
        match self.mirror.max_delete {
            Some(crate::config::MaxDelete::Count(most)) if !self.accepted => Some(most),
            _ => None,
        }
    }

    fn mark_dir(&self) -> PathBuf {
        self.state_dir.join(&self.mirror.name).join("mark")
    }

    fn fetch_mark(&mut self, work: Work) {
        let dir = self.mark_dir();
        let gone = |name: &str| match std::fs::remove_file(dir.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
        let made = std::fs::create_dir_all(&dir).and_then(|()| gone("feed")).and_then(|()| gone("name"));
        if let Err(error) = made {
            self.end_run(End::Not);
            return self.went_away(true, format!("cannot use {} for the upstream's mark: {error}", dir.display()));
        }
        let words = pull::mark_words(&self.mirror, self.upstream(), &dir);
        self.start(&words, Input::None, Names::default(), What::Mark(work));
    }

    /// The mark was fetched; why it is not the right one.
    fn judge_mark(&self) -> Result<(), String> {
        let place = &self.upstream().location;
        let text = std::fs::read_to_string(self.mark_dir().join("feed"))
            .map_err(|_| format!("{place} has no {}: it is not the tree that the feed is of, or it was emptied", mark::FILE))?;
        let Some((feed, identity)) = mark::parse(&text) else {
            return Err(format!("the {} of {place} is not understood", mark::FILE));
        };
        if Some(identity) != self.machine.identity() {
            return Err(format!(
                "{place} is another tree than the feed's: its {} is of the feed {feed} with the identity {}",
                mark::FILE,
                mark::hex(&identity)
            ));
        }
        Ok(())
    }

    /// Whether the mark came with the name of a relay.
    fn serves_a_relay(&self) -> bool {
        self.mark_dir().join("name").exists()
    }

    /// A relay keeps what is half copied apart. While it fills a directory it is not known by its
    /// mark: its followers would delete what is not there yet.
    fn prepare_relay(&self, work: &Work) -> std::io::Result<()> {
        let Some(follow) = self.mirror.follow.as_ref().filter(|follow| follow.serve.is_some()) else { return Ok(()) };
        mark::take_relay(&self.mirror.source, &follow.follower)?;
        match work {
            Work::Whole if self.filled.is_none() => mark::remove(&self.mirror.source),
            _ => Ok(()),
        }
    }

    /// A relay has compared its tree: from here on it is known by its mark.
    fn served(&self) -> std::io::Result<()> {
        if self.supply.own.is_none() {
            return Ok(());
        }
        mark::put(&self.mirror.source, &std::fs::read_to_string(self.mark_dir().join("feed"))?)
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
        if deep && !self.accepted {
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
            return self.wake.wake();
        }
        // Whatever is named travels, also what looks the same.
        if manner.pass == Pass::Listed
            && manner.content
            && !manner.deletes
            && let Some(Spare { mut run, .. }) = self
                .spare
                .take_if(|spare| spare.what == Ready::Pull && spare.run.capacity().is_some_and(|most| most >= list.len()))
        {
            let _ = self.reactor.remove(SPARE);
            match run.feed(&list) {
                Ok(()) => {
                    self.counters.standby_hits += 1;
                    return self.watch(run, What::Pull(work));
                }
                Err(error) => tracing::debug!(mirror = %self.mirror.name, %error, "a standby took no list"),
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
        match Run::pull(words, &argv::Peer::of(self.upstream()), &self.env, input, names) {
            Ok(run) => self.watch(run, what),
            Err(error) => {
                self.end_run(End::Not);
                let config = matches!(error, crate::sync::run::RunError::Password(_));
                self.went_away(config, format!("cannot start rsync: {}", crate::error::chain(&error)));
            }
        }
    }

    pub(super) fn watch(&mut self, run: Run, what: What) {
        let fds = [(run.output_fd(Stream::Stdout), STDOUT), (run.output_fd(Stream::Stderr), STDERR), (Some(run.pidfd()), EXIT)];
        for (fd, token) in fds {
            let added = fd.map_or(Ok(()), |fd| self.reactor.add(fd, Interest::Read, token));
            if let Err(error) = added {
                self.unwatch();
                self.end_run(End::Not);
                return self.went_away(false, format!("cannot wait for rsync: {error}"));
            }
        }
        let began = self.now();
        self.doing = Some(Doing { run, what, began, cut: None, pulse: Pulse::new(began) });
    }

    /// Has a process connected ahead, for the next file that changes.
    fn refill_spare(&mut self) {
        let now = self.now();
        let what = if self.batches.expected { Ready::Apply } else { Ready::Pull };
        let old = |spare: &Spare| now.saturating_sub(spare.since) > self.upstream().standby_max_age;
        if self.spare.as_ref().is_some_and(|spare| spare.what != what || old(spare)) {
            self.drop_spare();
        }
        if self.spare.is_some()
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
                let manner = Manner { pass: Pass::Listed, content: true, deletes: false, max_delete: None, dry: false };
                let words = pull::words(&self.mirror, self.upstream(), manner);
                let names = pull::names(&self.mirror, self.upstream());
                Run::pull(&words, &argv::Peer::of(self.upstream()), &self.env, Input::Standby, names).ok()
            }
        };
        if let Some(run) = started
            && self.reactor.add(run.pidfd(), Interest::Read, SPARE).is_ok()
        {
            self.spare = Some(Spare { run, what, since: now });
        }
    }

    // ----- ends -----

    /// As [`crate::feed::machine::Machine::ended`].
    pub(super) fn end_run(&mut self, end: End) -> bool {
        let (now, here) = (self.now(), self.mirror.source.clone());
        let is_dir = |path: &crate::path::RelPath| here.join(path.as_path()).symlink_metadata().is_ok_and(|found| found.is_dir());
        self.machine.ended(now, end, &is_dir)
    }

    fn ended(&mut self, doing: Doing, outcome: &crate::sync::outcome::Outcome) {
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
                _ => match self.judge_mark() {
                    Ok(()) if self.serves_a_relay() && !self.supply.is_a_relay() => {
                        self.end_run(End::Not);
                        self.is_a_relay();
                    }
                    Ok(()) => {
                        self.mark_seen = Some(now);
                        self.mark_old = false;
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
                    self.accepted = false;
                    self.held_deletes = None;
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
                if end == End::Done && std::mem::take(&mut self.mark_old) && done.files_sent < listed {
                    self.mark_seen = None;
                    self.end_run(End::Not);
                    return self.wake.wake();
                }
                let progress = self.end_run(end);
                if *work == Work::Whole && !self.machine.owes() {
                    self.filled = self.directory().ok();
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
        self.drop_spare();
        let tries = self.away.as_ref().map_or(0, |away| away.tries) + 1;
        let next = self.now() + self.backoff(tries);
        self.away = Some(Away { config, why, tries, next });
    }

    fn hold_deletes(&mut self, deletes: u64, why: String) {
        let now = self.now();
        self.end_run(End::Not);
        if self.held_deletes.is_none() {
            tracing::error!(
                mirror = %self.mirror.name,
                "nothing is pulled: {why}. If it is meant: fansync resume --accept-deletes"
            );
        }
        self.held_deletes = Some((why, deletes, now + self.upstream().retry_max));
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
