//! What comes back from runs: confirmed, to be tried again, or the target is not to be had.

use super::*;
use crate::cover::Cover;
use crate::sync::first;

impl Target {
    /// A descriptor of one of this target's children is ready.
    pub fn on_ready(&mut self, cx: &mut Context<'_>, token_: u64) {
        let (serial, which) = ((token_ >> 8) as u32, token_ as u8);
        let Some(run) = self.runs.get_mut(&serial) else {
            let _ = cx.reactor.remove(token_);
            return;
        };
        match which {
            STDOUT | STDERR => {
                let stream = if which == STDOUT { Stream::Stdout } else { Stream::Stderr };
                let open = run.run.on_readable(stream);
                if !open || stream == Stream::Stdout {
                    let _ = cx.reactor.remove(token_);
                }
                if open && stream == Stream::Stdout {
                    run.unheard = Some(cx.now + OUTPUT_PAUSE);
                }
            }
            _ => {
                let outcome = match run.run.on_exit() {
                    Ok(Some(outcome)) => outcome,
                    Ok(None) => return,
                    Err(error) => Outcome::unknown(format!("how rsync ended is not known: {error}")),
                };
                self.unregister(cx, serial);
                if let Some(outcome) = self.lingers(cx.now, serial, outcome) {
                    self.run_ended(cx, serial, outcome);
                }
            }
        }
    }

    /// A run ended, and its receiver with it.
    pub(super) fn run_ended(&mut self, cx: &mut Context<'_>, serial: u32, outcome: Outcome) {
        let Some(mut run) = self.runs.remove(&serial) else { return };
        let load = std::mem::replace(&mut run.load, Load::Probe);
        match load {
            Load::Probe => self.probed(cx, &run, &outcome),
            Load::Role => self.role_answered(cx, &outcome, run.run.output().signs.not_found),
            Load::Standby => self.standby_ended(cx, &run, &outcome),
            Load::Batch(batch) => {
                let outcome = self.ambient.weigh(outcome);
                let told = matches!(outcome.verdict, Verdict::Done | Verdict::Unproven | Verdict::Partial | Verdict::SourceRace);
                match run.look.take() {
                    Some(guarded::Look::Proof(proof)) if told => self.proved(cx, run, batch, proof, &outcome),
                    Some(look) if told => self.looked(cx, run, batch, look, &outcome),
                    // The second half withholds what the first did.
                    None if told && run.dry => self.surveyed(cx, run, batch, outcome),
                    None if told && run.withholds.is_some() => self.withheld_ended(cx, run, batch, &outcome),
                    _ => self.batch_ended(cx, run, batch, outcome),
                }
            }
        }
    }

    /// Waits again for what runs write, where the pause is over. What they write meanwhile stays in the pipe; an end is seen at once, and reads the rest.
    pub(super) fn hear_again(&mut self, cx: &mut Context<'_>) {
        let index = self.index;
        for (&serial, run) in &mut self.runs {
            if run.unheard.take_if(|at| *at <= cx.now).is_none() {
                continue;
            }
            let Some(fd) = run.run.output_fd(Stream::Stdout) else { continue };
            // Refused is only a token in use, and this one was taken out.
            let _ = cx.reactor.add(fd, Interest::Read, token(index, serial, STDOUT));
        }
    }

    pub(super) fn probed(&mut self, cx: &mut Context<'_>, run: &Flight, outcome: &Outcome) {
        self.silence = None;
        if run.ended_badly == Some(Ended::Silent) {
            return self.went_away(cx, false, self.no_answer());
        }
        self.ledger.suspect |= gone(outcome, run.run.output());
        if self.stands_no_more(cx, run.run.output(), outcome) {
            return;
        }
        match probe::interpret_probe(outcome, &run.run.output().signs) {
            TargetState::Usable => {
                self.ambient.learn(outcome);
                self.answered(cx, true);
            }
            TargetState::UseFallback => {
                self.ambient.learn(outcome);
                self.answered(cx, false);
            }
            TargetState::Config(reason) => self.went_away(cx, true, reason),
            TargetState::Down(reason) => self.went_away(cx, false, reason),
            TargetState::Source(reason) => match (cx.check)() {
                Err(hold) => {
                    *cx.held = Some(hold);
                    self.went_away(cx, false, reason);
                }
                Ok(()) => self.went_away(cx, false, reason),
            },
        }
    }

    pub(super) fn came_up(&mut self, cx: &mut Context<'_>, missing_args: bool) {
        self.missing_args = missing_args;
        self.renames.came_up();
        self.descents.came_up();
        if !missing_args {
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name,
                "the target's rsync cannot delete by name (--delete-missing-args); its directories are compared one level deep instead, \
                 which costs more. rsync 3.4.4 and later can"
            );
        }
        if self.state != State::Up {
            tracing::info!(mirror = %self.mirror.name, target_name = %self.cfg.name, url = %self.cfg.location, pending = self.unconfirmed(), "target is up");
        }
        self.state = State::Up;
        self.pace.hurry();
        if std::mem::take(&mut self.ledger.suspect) {
            tracing::warn!(mirror = %self.mirror.name, target_name = %self.cfg.name, "the target's directory was gone, so the whole tree is compared with what came back");
            self.see(cx.now, b"", Seen::Subtree);
        }
        self.refill_standby(cx);
    }

    /// The target has taken something, or a connection to it has lived: an outage, if there was one, is over.
    pub(super) fn proven(&mut self, cx: &Context<'_>) {
        self.full = false;
        if std::mem::take(&mut self.tries) > 0 {
            self.stats.reason.clear();
            // What failed may have failed for the same cause.
            self.ledger.retries.hurry(cx.now);
        }
    }

    pub(super) fn went_away(&mut self, cx: &mut Context<'_>, config: bool, reason: String) {
        self.tries += 1;
        let tries = self.tries;
        let pause = self.backoff.pause(tries, fastrand::f64()) * if config { CONFIG_PAUSE } else { 1 };
        // Once per cause; what repeats is counted and shown in the status.
        if outcome::words(&self.stats.reason) != outcome::words(&reason) {
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name,
                url = %self.cfg.location,
                pending = self.unconfirmed(),
                "{}: {reason}. {}",
                if config { "target cannot be used as it is configured" } else { "target is down" },
                self.advice(config, &reason),
            );
        }
        self.stats.reason = reason.clone();
        self.missing_args = true; // it may come back with another rsync; the probe asks anew
        self.state = State::Away { config, reason, tries, next: cx.now + pause };
        self.drop_standbys(cx);
    }

    /// What somebody can do about a target that cannot be sent to.
    pub(super) fn advice(&self, config: bool, reason: &str) -> String {
        let config::Target { location, ssh, connect_timeout, password_file, .. } = &self.cfg;
        match config {
            true => {
                let place = location.refusal_advice(reason, password_file.as_deref());
                format!("{place}Once that is put right, `fansync retry` has it tried at once")
            }
            false if reason == TARGET_MISSING => {
                format!("It is tried again for as long as fansync runs; {}", location.missing_advice())
            }
            false => {
                format!("It is tried again for as long as fansync runs; {}", location.advice(ssh.as_deref(), *connect_timeout))
            }
        }
    }

    /// What made the waiting processes' connections useless may have befallen the target: asks it at once, and nothing is
    /// sent before it has answered.
    pub(super) fn doubt(&mut self, cx: &mut Context<'_>, reason: &str) {
        if self.is_up() {
            self.state = State::Away { config: false, reason: reason.into(), tries: self.tries, next: cx.now };
            self.drop_standbys(cx);
        }
    }

    pub(super) fn standby_ended(&mut self, cx: &mut Context<'_>, run: &Flight, outcome: &Outcome) {
        let old = cx.now.saturating_sub(run.started) > STANDBY_INFANT;
        if old || self.stopping || self.state != State::Up {
            if old && self.state == State::Up {
                self.proven(cx);
            }
            return self.refill_standby(cx);
        }
        match outcome.verdict {
            Verdict::Done => self.went_away(cx, false, "rsync ended before it was given a list".into()),
            // No connection to spare for standing by: work goes on without.
            Verdict::Busy => self.crowd(cx, outcome),
            _ => self.went_away(cx, matches!(outcome.verdict, Verdict::Config | Verdict::Refused { .. }), outcome.reason.clone()),
        }
    }

    /// The server's connections are used up. What we hold beyond the one that works may be the cause, so it is let go for
    /// as long as a process would stand by; then it is tried again.
    pub(super) fn crowd(&mut self, cx: &mut Context<'_>, outcome: &Outcome) {
        if self.crowded.replace(cx.now + self.cfg.standby_max_age).is_none() {
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name,
                "one connection at a time for {:?}: {}. Raise the module's max connections to {} or more",
                self.cfg.standby_max_age, outcome.reason, self.cfg.jobs + self.cfg.small_jobs + self.cfg.standby,
            );
        }
        self.drop_standbys(cx);
    }

    /// The contents that a run has sent may be those of other files.
    fn distrust(&mut self, now: Duration, batch: &Batch) {
        if batch.entries.iter().any(|entry| entry.kind > Kind::Entry) {
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name,
                "rsync was ended by SIGTERM, SIGINT or SIGHUP from elsewhere, after which files may have the content of others: the contents of the whole tree are compared. End fansync, not its rsyncs"
            );
            self.contents_unknown = true;
            self.see(now, b"", Seen::Subtree);
        } else {
            self.doubted.extend(batch.entries.iter().map(|entry| entry.path.clone()));
        }
    }

    pub(super) fn batch_ended(&mut self, cx: &mut Context<'_>, mut run: Flight, batch: Batch, outcome: Outcome) {
        if outcome.verdict != Verdict::Done {
            self.periodic.back(run.limited);
        }
        let took = cx.now.saturating_sub(run.started);
        let id = batch.id;
        self.count(&run, &outcome, took);
        self.repair_overlaps(&run, &batch);
        let since = batch.entries.iter().map(Entry::epoch).min();
        if outcome.interrupted && !run.dry {
            self.distrust(cx.now, &batch);
        }
        let mut litter = if self.mirror.delete { leftovers(&batch, &outcome, run.run.output()) } else { BTreeSet::new() };
        if run.survey.is_none() && outcome.counters.dirs_kept > 0 && !self.mirror.filter.is_rsyncs() {
            let kept: Vec<RelPath> = run.run.output().failed.iter().map(|f| f.path.clone()).collect();
            litter.extend(survey::above_kept(&kept));
        }
        if run.moving.is_none() {
            self.telling.ran(run.run.output(), &batch, &outcome);
        }
        self.log(cx.now, &run, &batch, &outcome, took);
        // The directory that a rename goes to, or that a list begins in, is below the target's own.
        self.ledger.suspect |= run.moving.is_none() && run.below.is_none() && gone(&outcome, run.run.output());
        let reconciles = self.reconciles;
        // A receiver that hangs keeps what it got, and may carry it out when it wakes up, over what was sent since (measured).
        if outcome.verdict == Verdict::TimedOut || matches!(run.ended_badly, Some(Ended::Stalled | Ended::Idle)) {
            let carried = batch.entries.iter().map(|e| (e.path.clone(), e.kind)).collect();
            let due = cx.now + self.cfg.watchdog * UNANSWERED_WATCHDOGS;
            self.ledger.unanswered.extend(since.map(|since| Unanswered { due, since, carried }));
        }
        if let Some(moving) = run.moving.take() {
            self.moving_ended(cx, &run, moving, batch, &outcome);
            return self.ledger.landed(id);
        }
        match &outcome.verdict {
            Verdict::Done => {
                if self.full && outcome.counters.deleted > 0 {
                    self.ledger.retries.hurry(cx.now); // there may be room now
                }
                if !self.full || outcome.counters.files_sent + outcome.counters.deleted > 0 {
                    self.proven(cx);
                }
                match run.survey.take() {
                    Some(survey) => self.survey_done(cx, batch, (run.compare, run.limited), survey),
                    None => {
                        if let (Pass::Full { .. }, Some(progress)) = (run.pass, run.run.output().progress) {
                            self.tree = Some(progress.files_total);
                        }
                        self.descents.done(run.below.as_ref(), &batch.entries);
                        self.link_after(cx, &batch.entries);
                        self.confirm_read(cx, batch);
                    }
                }
            }
            verdict if run.below.is_some() && !matches!(verdict, Verdict::Partial | Verdict::Unproven | Verdict::SourceRace) => {
                self.back_to_the_top(batch, run.below.take().expect("just seen"));
            }
            Verdict::Partial
                if read_only(&batch, &outcome, run.run.output())
                    && (batch.round + 1 == WHOLE_ROUNDS || (batch.round == 0 && self.tries > 0)) =>
            {
                self.ledger.give_back(batch);
                if self.is_up() {
                    self.went_away(cx, true, outcome.reason.clone());
                }
            }
            Verdict::Partial | Verdict::SourceRace => {
                if !run.run.output().signs.read_only {
                    self.proven(cx);
                }
                let limited = run.limited;
                self.partial(cx, run.run.output().signs.deletes_skipped, batch, (run.compare, limited), outcome.clone());
            }
            Verdict::Unproven => {
                self.proven(cx);
                match run.survey.take() {
                    Some(_) => self.partial(cx, false, batch, (run.compare, run.limited), outcome.clone()),
                    None => self.prove(cx, batch, run.compare, run.limited, outcome.clone()),
                }
            }
            Verdict::Busy => {
                self.ledger.give_back(batch);
                // With others of ours it was a matter of our own number, and their ends free a connection.
                let others = self.runs.values().any(|r| matches!(r.load, Load::Standby | Load::Batch(_)));
                self.crowd(cx, &outcome);
                if self.is_up() && !others {
                    self.went_away(cx, false, outcome.reason.clone());
                }
            }
            Verdict::TargetFull => {
                let signs = &run.run.output().signs;
                let too_large = signs.too_large && !signs.target_full;
                self.full = !too_large;
                let hidden = self.hides_unfit(cx.root, &batch, &outcome, too_large);
                let mut batch = batch;
                self.set_unfit_apart(cx, &mut batch, &outcome);
                // One that was tried alone tells nothing new of the others.
                if !batch.entries.is_empty() && !hidden && !too_large && self.is_up() {
                    self.went_away(cx, false, outcome.reason.clone());
                }
                self.ledger.give_back(batch);
            }
            // The connection was old, and rsync does not look at it before it has its list: the server may have been restarted since,
            // or something on the way forgot about it. A probe tells whether the target is there.
            Verdict::TargetDown | Verdict::TimedOut if run.stood_by => {
                self.ledger.give_back(batch);
                self.doubt(cx, &outcome.reason);
            }
            // Somebody else did that to our process, the target has no part in it. The kernel, when memory is short: smaller lists may help.
            Verdict::Killed if run.ended_badly.is_none() && batch.round + 1 < WHOLE_ROUNDS => {
                self.ledger.retry(cx.now, batch, &[], &outcome.reason);
            }
            // Everything else has gone through. What is found in the second of two such comparisons was counted in the first.
            Verdict::DeletesHeld if run.extra == guarded::Extra::Counted => {
                self.proven(cx);
                let found = run.run.output().progress.map_or(0, |p| p.files_total);
                let (deletes, kept) = (outcome.counters.spared, found.saturating_sub(outcome.counters.created));
                if first::exceeds(self.mirror.first_max_delete, deletes, kept) {
                    if let Err(batch) = self.count_later(cx, batch) {
                        self.reconciles += 1;
                        self.withhold_entries(cx, batch, guarded::Withholds::beyond(deletes), false);
                    }
                } else {
                    self.fill = Fill::Counted;
                    self.ledger.give_back(batch);
                }
            }
            // More went away between the dry run and the run.
            Verdict::DeletesHeld if self.limit().is_some() => {
                let deletes = self.cap().unwrap_or_default() + 1;
                self.withhold_entries(cx, batch, guarded::Withholds::beyond(deletes), true);
            }
            Verdict::NoMissingArgs => {
                self.ledger.give_back(batch);
                self.drop_standbys(cx);
                self.came_up(cx, false);
            }
            Verdict::SourceRoot => {
                self.ledger.give_back(batch);
                match (cx.check)() {
                    Err(hold) => *cx.held = Some(hold),
                    Ok(()) if self.is_up() => self.went_away(cx, false, outcome.reason.clone()),
                    Ok(()) => {}
                }
            }
            Verdict::Killed if matches!(run.ended_badly, Some(Ended::Gone | Ended::Apart | Ended::Hollow)) => {
                self.ledger.give_back(batch)
            }
            Verdict::Killed if run.ended_badly == Some(Ended::GivesWay) => {
                self.ledger.set.park(id, &batch.entries);
                batch.entries.into_iter().for_each(|entry| self.wait_for_large_lane(entry, batch.round));
            }
            _ if run.ended_badly == Some(Ended::Knotted) => self.untie(cx, batch, "hard links: rsync came to wait for itself"),
            // Done in the same way it would hang again.
            Verdict::Killed if run.ended_badly == Some(Ended::Idle) => {
                let why = "nothing but keep-alives, ended by the watchdog";
                let list = batch.entries.iter().all(|e| e.kind == Kind::Entry);
                let round = if list { WHOLE_ROUNDS } else { batch.round };
                self.ledger.retry(cx.now, Batch { round, ..batch }, &[], why);
            }
            Verdict::Killed if run.ended_badly.is_some() => {
                let why = match run.ended_badly {
                    Some(Ended::Fifo) => "a file became a FIFO while it was to be sent".into(),
                    Some(Ended::Lease) => leases::REASON.into(),
                    _ => format!("no progress for {:?}, ended by the watchdog", self.cfg.watchdog),
                };
                self.ledger.retry(cx.now, batch, &outcome.failed, &why);
                if run.stood_by && run.ended_badly == Some(Ended::Stalled) {
                    self.doubt(cx, &why);
                }
            }
            verdict => {
                let config = matches!(verdict, Verdict::Config | Verdict::Refused { .. } | Verdict::DeletesHeld);
                self.ledger.give_back(batch);
                for e in self.ledger.retries.take_all() {
                    self.ledger.set.restore(e);
                }
                // Of several runs that meet the same outage, the first counts.
                if self.is_up() {
                    self.went_away(cx, config, outcome.reason.clone());
                }
            }
        }
        self.ledger.landed(id);
        self.note_failing();
        if self.reconciles > reconciles && outcome.verdict != Verdict::DeletesHeld && run.extra != guarded::Extra::Stays {
            self.filled();
        }
        if let Some(epoch) = run.aside.filter(|_| self.reconciles > reconciles) {
            self.aside_done(cx, epoch);
        }
        if let Some(since) = since {
            litter.iter().for_each(|dir| self.ledger.set.see_since(dir, Seen::Contents, since));
        }
        if self.ledger.set.ready(false) > 0 {
            self.pace.waits(cx.now);
        }
    }

    /// Tells the log when no path keeps failing any more.
    fn note_failing(&mut self) {
        let failing = self.ledger.failing() > 0;
        if self.repeats.is_over(failing) {
            tracing::info!(mirror = %self.mirror.name, target_name = %self.cfg.name, "every path that failed is on the target now");
        }
    }

    /// The target was made equal: from now on it holds what the source once had.
    pub(super) fn filled(&mut self) {
        if matches!(self.fill, Fill::Unknown | Fill::Counted) {
            self.fill = Fill::Filled;
        }
    }

    pub(super) fn confirm(&mut self, id: BatchId, entries: Vec<Entry>) {
        self.stats.batches += 1;
        self.stats.last_success_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.judge_covered(&entries);
        for entry in &entries {
            self.unread.confirmed(entry);
            self.renames.confirmed(id, &entry.path);
            let over = self.ledger.retries.confirmed(entry);
            self.ledger.forget(over);
            self.doubted.remove(&entry.path);
            if entry.path.is_root() && entry.kind == Kind::Subtree {
                self.reconciles += 1;
                self.contents_unknown = false;
            }
        }
        let paths: Vec<_> = entries.iter().filter(|_| self.telling.keep > 0).map(|e| (e.path.clone(), e.kind)).collect();
        let again = self.ledger.set.confirm(id, entries);
        self.telling.confirmed(id, &paths, &again);
        for entry in again {
            match entry.over.filter(|id| self.flies(*id)) {
                Some(id) => self.ledger.send_after(id, entry),
                None => self.ledger.set.restore(entry),
            }
        }
        self.spend_acceptance();
    }

    /// Some of a run's paths failed. `ran`: how they were compared, and whether it was a limited comparison.
    pub(super) fn partial(
        &mut self,
        cx: &mut Context<'_>,
        deletes_skipped: bool,
        batch: Batch,
        ran: (Compare, bool),
        mut outcome: Outcome,
    ) {
        self.place(cx.root, &mut outcome.failed);
        let named = &outcome.failed;
        let clean = outcome.failed_more == 0 && outcome.unknown.is_empty() && !deletes_skipped;
        if clean && !named.is_empty() && named.iter().all(|f| f.path.is_root()) {
            let Batch { id, entries, .. } = batch;
            self.ledger.set.park(id, &entries);
            // A module that may not change its own top directory. Nothing else failed, and nothing helps.
            if !std::mem::replace(&mut self.top_refused, true) {
                tracing::warn!(mirror = %self.mirror.name, target_name = %self.cfg.name, "the target's top directory keeps its own times and mode: {}", outcome.reason);
            }
            return self.confirm(id, entries);
        }
        // The first time it may be the source that changed.
        if deletes_skipped && batch.round > 0 && self.hides_unread(cx.root, &batch, &outcome) {
            let Batch { id, entries, round } = batch;
            self.ledger.set.park(id, &entries);
            return self.ledger.retries.at_once(cx.now, entries, round);
        }
        let deep_alone = batch.entries.len() == 1 && batch.entries[0].kind == Kind::Subtree;
        if batch.round >= 2 && deep_alone && !deletes_skipped {
            return self.prove(cx, batch, ran.0, ran.1, outcome);
        }
        self.ledger.retry(cx.now, batch, &outcome.failed, &outcome.reason);
    }

    /// Directories above both this run's paths and those of a run still in flight, seen with different times: whichever ends
    /// last may have set the older ones. They are sent again when the other has ended; who waits for this run's changes waits
    /// for that too.
    pub(super) fn repair_overlaps(&mut self, ended: &Flight, batch: &Batch) {
        let Some(since) = batch.entries.iter().map(Entry::epoch).min() else { return };
        for other in self.runs.values() {
            let Load::Batch(Batch { id, .. }) = other.load else { continue };
            for (dir, seen) in &ended.ancestors {
                let waits = |e: &Entry| e.path == *dir && e.kind == Kind::Entry;
                if other.ancestors.get(dir).is_some_and(|theirs| theirs != seen) && !self.ledger.sent_after(id).iter().any(waits)
                {
                    self.telling.own(dir);
                    let again = self.ledger.set.parked(dir.clone(), since);
                    self.ledger.send_after(id, again);
                }
            }
        }
    }

    pub(super) fn count(&mut self, run: &Flight, outcome: &Outcome, took: Duration) {
        let s = &mut self.stats;
        s.runs += 1;
        s.standby_hits += u64::from(run.stood_by);
        s.files_sent += outcome.counters.files_sent;
        s.deleted += deletions(run, outcome);
        s.bytes_sent += outcome.counters.wire_sent;
        if !outcome.is_done() && !counted(run, outcome) {
            *s.bad_runs.entry(outcome.verdict.class().into()).or_insert(0) += 1;
        }
        if run.pass == Pass::Shallow && run.lane != Lane::Large {
            self.pace.ran(took);
        }
    }

    pub(super) fn log(&mut self, now: Duration, run: &Flight, batch: &Batch, outcome: &Outcome, took: Duration) {
        let c = &outcome.counters;
        let first = batch.entries.first().map(|e| e.path.to_string()).unwrap_or_default();
        let pass = match run.pass {
            _ if run.moving.as_ref().is_some_and(renames::Moving::removes) => "old name",
            Pass::Full { .. } => "full",
            Pass::Deep => "deep",
            Pass::ShallowOneLevel => "one-level",
            Pass::Shallow | Pass::Probe | Pass::Role => "shallow",
            Pass::MovedTree | Pass::MovedTrees | Pass::MovedFiles | Pass::LikeOthers => "rename",
            Pass::Clear => "old name",
        };
        let ms = took.as_secs_f64() * 1000.0;
        let below = run.below.as_ref().map(tracing::field::display);
        // A comparison of everything has one path in its list, and the number says nothing of it.
        let whole = matches!(run.pass, Pass::Full { .. });
        let paths = (!whole).then_some(run.paths);
        let deleted = deletions(run, outcome);
        self.stats.last_batch = format!(
            "{} ({pass}{}), {} sent, {deleted} deleted, {ms:.1} ms: {}",
            if whole { "the whole tree".into() } else { plural(run.paths as u64, "path") },
            run.below.as_ref().map(|dir| format!(" below {dir}")).unwrap_or_default(),
            plural(c.files_sent, "file"),
            if outcome.is_done() { "done" } else { &outcome.reason }
        );
        if outcome.is_done() || counted(run, outcome) {
            tracing::debug!(
                mirror = %self.mirror.name, target_name = %self.cfg.name, pass, paths, sent = c.files_sent, deleted, bytes = c.wire_sent,
                ms = (ms * 10.0).round() / 10.0, standby = run.stood_by, below, %first, "batch"
            );
            return;
        }
        let class = outcome.verdict.class();
        match self.repeats.line(now, class, &outcome.reason) {
            Some(times) => tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name, pass, paths, ms = (ms * 10.0).round() / 10.0, round = batch.round, below, %first,
                class, times, "batch did not end well, its paths are kept: {}", outcome.reason
            ),
            None => tracing::debug!(
                mirror = %self.mirror.name, target_name = %self.cfg.name, pass, paths, ms = (ms * 10.0).round() / 10.0, round = batch.round, below, %first,
                class, "batch did not end well again, its paths are kept: {}", outcome.reason
            ),
        }
    }
}

/// What a run deleted. The old name of what was renamed on the target is none: nothing is lost
/// there.
fn deletions(run: &Flight, outcome: &Outcome) -> u64 {
    if run.moving.is_some() { 0 } else { outcome.counters.deleted }
}

/// Whether a run ended as it should that was to count what it would delete.
fn counted(run: &Flight, outcome: &Outcome) -> bool {
    run.extra == guarded::Extra::Counted && outcome.verdict == Verdict::DeletesHeld
}

/// Whether a run found that the target's directory, or the module that stands for it, is not there.
fn gone(outcome: &Outcome, output: &Output) -> bool {
    outcome.verdict == Verdict::TargetMissing || output.signs.module_missing
}

/// Whether a batch found the whole target read-only, as a filesystem is after an error: every path failed, and for this. A
/// read-only part of a target looks the same for as long as nothing else changes; so it is asked of whole rounds only, and what
/// was set apart already stays a matter of its paths.
fn read_only(batch: &Batch, outcome: &Outcome, output: &Output) -> bool {
    let failed = Cover::new(&outcome.failed);
    output.signs.read_only && batch.entries.iter().all(|e| failed.reaches(&e.path))
}

/// Directories where a receiver that was killed has left temporary files, which only a pass with deletes over them removes. One
/// that lives longer than its client cleans up.
fn leftovers(batch: &Batch, outcome: &Outcome, output: &Output) -> BTreeSet<RelPath> {
    let broken = match outcome.verdict {
        // Whatever rsync counted as sent until then. Who never got a connection left nothing.
        Verdict::TargetDown | Verdict::TimedOut | Verdict::Unknown => !output.signs.no_connection,
        // What it had said so far is lost with it; with a local target the receiver is killed as well, most likely.
        Verdict::Killed => true,
        _ => false,
    };
    let files = batch.entries.iter().filter(|e| broken && e.kind == Kind::Entry);
    files.filter_map(|e| path::parent(&e.path).map(RelPath::from_normal)).collect()
}

/// What has to be sent of a path that a deep run named: what is below a directory that could not be made was skipped with it.
pub(super) fn kind_on_source(root: &Root, path: &RelPath) -> Kind {
    match fstatat(root, path.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFDIR.bits() => Kind::Entry,
        Err(Errno::ENOENT | Errno::ENOTDIR) => Kind::Entry,
        Ok(_) | Err(_) => Kind::Subtree,
    }
}
