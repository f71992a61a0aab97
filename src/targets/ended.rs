//! What comes back from runs: confirmed, to be tried again, or the target is not to be had.

use super::*;
use crate::cover::Cover;
use crate::sync::first;
use crate::sync::output::Signs;

use super::completion::{Completion, Ended};

impl Target {
    /// A descriptor of one of this target's children is ready.
    pub(crate) fn on_ready(&mut self, cx: &mut Context<'_>, token_: u64) {
        let (serial, which) = ((token_ >> 8) as u32, token_ as u8);
        let Some(InFlightRun { process, .. }) = self.runs.get_mut(serial) else {
            let _ = cx.reactor.remove(token_);
            return;
        };
        match which {
            STDOUT | STDERR => {
                let stream = if which == STDOUT { Stream::Stdout } else { Stream::Stderr };
                let open = process.rsync.on_readable(stream);
                if !open || stream == Stream::Stdout {
                    let _ = cx.reactor.remove(token_);
                }
                if open && stream == Stream::Stdout {
                    process.stdout_paused_until = Some(cx.now + OUTPUT_PAUSE);
                }
            }
            _ => {
                let outcome = match process.rsync.on_exit() {
                    Ok(Some(outcome)) => outcome,
                    Ok(None) => return,
                    Err(error) => Outcome::unknown(format!("how rsync ended is not known: {error}")),
                };
                self.runs.unregister(cx.reactor, serial);
                if let Some(outcome) = self.lingers(cx.now, serial, outcome) {
                    self.run_ended(cx, serial, outcome);
                }
            }
        }
    }

    /// A run ended, and its receiver with it.
    pub(super) fn run_ended(&mut self, cx: &mut Context<'_>, serial: u32, outcome: Outcome) {
        let Some(InFlightRun { process, kind }) = self.runs.remove(serial) else { return };
        match kind {
            RunKind::Probe => self.probed(cx, &process, &outcome),
            RunKind::Role => self.role_answered(cx, &outcome, process.rsync.output().signs.not_found),
            RunKind::Standby => self.standby_ended(cx, &process, &outcome),
            RunKind::Batch(carried) => {
                let outcome = self.link.ambient.weigh(outcome);
                self.carried_ended(cx, process, *carried, outcome);
            }
        }
    }

    /// A run that carried a batch has ended.
    fn carried_ended(&mut self, cx: &mut Context<'_>, run: Process, carried: Carried, outcome: Outcome) {
        let usable = matches!(outcome.verdict, Verdict::Done | Verdict::Unproven | Verdict::Partial | Verdict::SourceRace);
        if !usable || !carried.purpose.is_dry() {
            self.account(cx.now, &run, &carried, &outcome);
        }
        let Carried { mut batch, purpose, how } = carried;
        self.ledger.set.settle_single(&mut batch.entries);
        match purpose {
            Purpose::DryRun(DryRun::Proof(proof)) if usable => self.proved(cx, run, (batch, how), proof, &outcome),
            Purpose::DryRun(dry) if usable => self.dry_run_ended(cx, &run, batch, dry, &outcome),
            Purpose::Survey { withholds, .. } if usable => self.surveyed(cx, run, (batch, how), withholds, outcome),
            Purpose::Withhold(withholds) if usable => self.withheld_ended(cx, batch, Some(withholds)),
            // The second half withholds what the first did. Where not all was listed, the rest is
            // found by another comparison, which counts the deletions anew.
            Purpose::SecondHalf { survey, withholds: Some(withholds) } if usable => {
                self.withheld_ended(cx, batch, Some(withholds).filter(|_| !survey.is_cut_off()));
            }
            Purpose::Rename(moving) => self.rename_ended(cx, &run, moving, (batch, how), &outcome),
            purpose => self.batch_ended(cx, &run, Carried { batch, purpose, how }, &outcome),
        }
    }

    fn probed(&mut self, cx: &mut Context<'_>, run: &Process, outcome: &Outcome) {
        self.link.silence = None;
        if run.abort_reason == Some(AbortReason::Silent) {
            return self.went_away(cx, false, self.no_answer());
        }
        self.ledger.suspect |= gone(outcome, run.rsync.output());
        if self.is_another(cx, run.rsync.output(), outcome) {
            return;
        }
        let signs = &run.rsync.output().signs;
        let found = probe::interpret_probe(outcome, signs);
        if let Some(next) = self.next_dialect(outcome, signs, &found) {
            self.link.dialect = next;
            return self.link.ask_at(cx.now, false, outcome.reason.clone());
        }
        match found {
            TargetState::Usable => {
                self.link.ambient.learn(outcome);
                self.answered(cx, true);
            }
            TargetState::UseFallback => {
                self.link.ambient.learn(outcome);
                self.answered(cx, false);
            }
            TargetState::Config(reason) => self.went_away_by(cx, true, outcome.cause, reason),
            TargetState::Down(reason) => self.went_away_by(cx, false, outcome.cause, reason),
            TargetState::Source(reason) => match (cx.check)() {
                Err(hold) => {
                    *cx.held = Some(hold);
                    self.went_away(cx, false, reason);
                }
                Ok(()) => self.went_away(cx, false, reason),
            },
        }
    }

    /// In which dialect the target is asked next, if once more: in an older one, where it may not
    /// know an option. One that answers in an older one after a connection that just ended is asked
    /// in the newer one again, as it may only have been away for a moment.
    fn next_dialect(&mut self, outcome: &Outcome, signs: &Signs, found: &TargetState) -> Option<Dialect> {
        let dialect = self.dialect();
        if let Some(older) = dialect.after(outcome, signs, &self.cfg.location, self.cfg.compress) {
            self.link.dialect_sure |= signs.server.unknown_option;
            return Some(older);
        }
        let answers = matches!(found, TargetState::Usable | TargetState::UseFallback);
        let newest = self.args.facts.dialect;
        (answers && dialect < newest && !std::mem::replace(&mut self.link.dialect_sure, true)).then_some(newest)
    }

    pub(super) fn came_up(&mut self, cx: &mut Context<'_>, missing_args: bool) {
        self.renames.came_up();
        self.descents.came_up();
        if !missing_args {
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name,
                "the target's rsync cannot delete by name (--delete-missing-args); its directories are compared one level deep instead, \
                 which costs more. rsync 3.4.4 and later can"
            );
        }
        let dialect = self.dialect();
        if std::mem::replace(&mut self.link.logged, dialect) != dialect {
            for weaker in dialect.weaker(self.cfg.compress) {
                tracing::warn!(mirror = %self.mirror.name, target_name = %self.cfg.name, "weaker with an older rsync: {weaker}");
            }
        }
        if !self.deletes() && self.mirror.delete == Delete::Running {
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name,
                "nothing is deleted on the target, for its rsync cannot delete by name and delete = \"running\" allows no other way"
            );
        }
        if self.link.came_up(missing_args) {
            tracing::info!(mirror = %self.mirror.name, target_name = %self.cfg.name, url = %self.cfg.location, pending = self.unconfirmed(), "target is up");
        }
        self.schedule.pace.hurry();
        if std::mem::take(&mut self.ledger.suspect) {
            tracing::warn!(mirror = %self.mirror.name, target_name = %self.cfg.name, "the target's directory was gone, so the whole tree is compared with what came back");
            self.see(cx.now, b"", Seen::Subtree);
        }
        self.refill_standby(cx);
    }

    /// The target has taken something, or a connection to it has lived: an outage, if there was
    /// one, is over.
    pub(super) fn proven(&mut self, cx: &Context<'_>) {
        if self.link.proven() {
            self.counters.stats.reason.clear();
            // What failed may have failed for the same cause.
            self.ledger.retries.hurry(cx.now);
        }
    }

    pub(super) fn went_away(&mut self, cx: &mut Context<'_>, config: bool, reason: String) {
        self.went_away_by(cx, config, Trouble::Away, reason);
    }

    fn went_away_by(&mut self, cx: &mut Context<'_>, config: bool, cause: Trouble, reason: String) {
        // Once per cause; what repeats is counted and shown in the status.
        if outcome::words(&self.counters.stats.reason) != outcome::words(&reason) {
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name,
                url = %self.cfg.location,
                pending = self.unconfirmed(),
                "{}: {reason}. {}",
                if config { "target cannot be used as it is configured" } else { "target is down" },
                self.advice(config, cause),
            );
        }
        self.counters.stats.reason = reason.clone();
        self.link.failed(cx.now, config, (cause, reason), fastrand::f64());
        self.drop_standbys(cx);
    }

    /// What an administrator can do about a target that cannot be sent to.
    pub(super) fn advice(&self, config: bool, cause: Trouble) -> String {
        let (location, reach) = (&self.cfg.location, self.cfg.reach(&self.mirror.rsync));
        match config {
            true => {
                let place = location.refusal_advice(cause, &reach);
                format!("{place}Once that is put right, `fansync retry` has it tried at once")
            }
            false => format!("It is tried again by itself; {}", location.advice(cause, &reach)),
        }
    }

    /// What made the waiting processes' connections useless may have befallen the target: probes it
    /// at once, and nothing is sent before it has answered.
    pub(super) fn doubt(&mut self, cx: &mut Context<'_>, reason: &str) {
        if self.is_up() {
            self.link.ask_at(cx.now, false, reason.into());
            self.drop_standbys(cx);
        }
    }

    fn standby_ended(&mut self, cx: &mut Context<'_>, run: &Process, outcome: &Outcome) {
        let old = cx.now.saturating_sub(run.started) > STANDBY_INFANT;
        if old || self.schedule.is_stopping() || !self.is_up() {
            if old && self.is_up() {
                self.proven(cx);
            }
            return self.refill_standby(cx);
        }
        match outcome.verdict {
            Verdict::Done => self.went_away(cx, false, "rsync ended before it was given a list".into()),
            // No connection to spare for a standby process: work goes on without.
            Verdict::Busy => self.crowd(cx, outcome),
            _ => {
                let config = matches!(outcome.verdict, Verdict::Config | Verdict::Refused { .. });
                self.went_away_by(cx, config, outcome.cause, outcome.reason.clone());
            }
        }
    }

    /// The server's connections are used up. What we hold beyond the one that works may be the
    /// cause, so it is closed for as long as a standby process would be kept; then it is tried
    /// again.
    pub(super) fn crowd(&mut self, cx: &mut Context<'_>, outcome: &Outcome) {
        if self.link.limit_connections(cx.now + self.cfg.standby_max_age) {
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
            self.doubts.all = true;
            self.see(now, b"", Seen::Subtree);
        } else {
            self.doubts.files.extend(batch.entries.iter().map(|entry| entry.path.clone()));
        }
    }

    /// Numbers, log, and what is owed to runs beside it.
    fn account(&mut self, now: Duration, run: &Process, carried: &Carried, outcome: &Outcome) {
        let took = now.saturating_sub(run.started);
        self.count(run, carried, outcome, took);
        self.repair_overlaps(&carried.how.ancestors, &carried.batch);
        self.log(now, run, carried, outcome, took);
    }

    /// What holds for every end of a run that may have changed the target, whatever becomes of its
    /// batch.
    fn note_end(&mut self, now: Duration, run: &Process, batch: &Batch, how: &How, dry: bool, outcome: &Outcome) {
        if outcome.verdict != Verdict::Done {
            self.schedule.periodic.back(how.limited);
        }
        if outcome.interrupted && !dry {
            self.distrust(now, batch);
        }
        // A receiver that hangs keeps what it got, and may carry it out when it wakes up, over what
        // was sent since (measured).
        let hangs = matches!(run.abort_reason, Some(AbortReason::Stalled | AbortReason::Idle));
        if let Some(since) = oldest(batch)
            && (outcome.verdict == Verdict::TimedOut || hangs)
        {
            let carried = batch.entries.iter().map(|e| (e.path.clone(), e.kind)).collect();
            self.ledger.unanswered.push(Unanswered { due: now + self.cfg.watchdog * UNANSWERED_WATCHDOGS, since, carried });
        }
    }

    fn rename_ended(
        &mut self,
        cx: &mut Context<'_>,
        run: &Process,
        moving: renames::Moving,
        (batch, how): (Batch, How),
        outcome: &Outcome,
    ) {
        let id = batch.id;
        self.note_end(cx.now, run, &batch, &how, false, outcome);
        self.moving_ended(cx, run, moving, batch, outcome);
        self.ledger.landed(id);
    }

    /// A run has ended that was to bring a batch to the target, or that has not found out what it
    /// was to find out.
    fn batch_ended(&mut self, cx: &mut Context<'_>, run: &Process, carried: Carried, outcome: &Outcome) {
        let Carried { batch, purpose, how } = &carried;
        let (id, extra, since, reconciles) = (batch.id, purpose.extra(), oldest(batch), self.counters.reconciles);
        self.note_end(cx.now, run, batch, how, matches!(purpose, Purpose::Survey { .. }), outcome);
        if !matches!(purpose, Purpose::Survey { .. }) {
            self.guard.changed(outcome.counters.created, outcome.counters.deleted, since);
        }
        let mut litter = if self.mirror.delete.ever() { leftovers(batch, outcome, run.rsync.output()) } else { BTreeSet::new() };
        let second = matches!(purpose, Purpose::SecondHalf { .. });
        if !second && outcome.counters.dirs_kept > 0 && !self.mirror.filter.is_rsyncs() {
            let kept: Vec<RelPath> = run.rsync.output().failed.iter().map(|f| f.path.clone()).collect();
            litter.extend(survey::above_kept(&kept));
        }
        self.confirmations.ran(run.rsync.output(), batch, outcome);
        // The directory that a list begins in is below the target's own.
        self.ledger.suspect |= purpose.below().is_none() && gone(outcome, run.rsync.output());
        let ended = Ended {
            verdict: &outcome.verdict,
            abort_reason: run.abort_reason,
            round: batch.round,
            from_standby: how.from_standby,
            below: purpose.below().is_some(),
            counts: extra == Extra::Counted,
            read_only: read_only(batch, outcome, run.rsync.output()),
            in_outage: self.link.tries() > 0,
            bounded: self.limit().is_some(),
        };
        self.complete(cx, ended.completion(), run, carried, outcome);
        self.ledger.landed(id);
        self.note_failing();
        if self.counters.reconciles > reconciles {
            if outcome.verdict != Verdict::DeletesHeld && extra != Extra::Stays {
                self.guard.filled();
            }
            if let Some(epoch) = run.aside {
                self.aside_done(cx, epoch);
            }
        }
        if let Some(since) = since {
            litter.iter().for_each(|dir| self.ledger.set.see_since(dir, Seen::Contents, since));
        }
        self.note_ready(cx.now);
    }

    /// Carries out what the end of a run means for its batch.
    fn complete(&mut self, cx: &mut Context<'_>, completion: Completion, run: &Process, carried: Carried, outcome: &Outcome) {
        let signs = &run.rsync.output().signs;
        let Carried { batch, purpose, how } = carried;
        match completion {
            Completion::Done => self.batch_done(cx, run, batch, purpose, &how, outcome),
            Completion::FromTheTop => self.back_to_the_top(batch, purpose.below()),
            Completion::ReadOnly => self.outage(cx, batch, true, outcome),
            Completion::SomeFailed => {
                if !signs.target.read_only {
                    self.proven(cx);
                }
                self.partial(cx, signs.deletes_skipped, batch, &how, outcome.clone());
            }
            Completion::Unproven => {
                self.proven(cx);
                match purpose {
                    Purpose::SecondHalf { .. } => self.partial(cx, false, batch, &how, outcome.clone()),
                    _ => self.prove(cx, batch, &how, outcome.clone()),
                }
            }
            Completion::Busy => {
                // With others of ours it was a matter of our own number, and their ends free a
                // connection.
                let others = self.runs.values().any(|run| run.is_standby() || run.carried().is_some());
                self.crowd(cx, outcome);
                match others {
                    true => self.ledger.give_back(batch),
                    false => self.outage(cx, batch, false, outcome),
                }
            }
            Completion::NoRoom => self.no_room(cx, signs, batch, outcome),
            Completion::StaleConnection => {
                self.ledger.give_back(batch);
                self.doubt(cx, &outcome.reason);
            }
            Completion::Interrupted => self.ledger.retry(cx.now, batch, &[], &outcome.reason),
            Completion::Counted => self.deletions_counted(cx, run, batch, outcome),
            // More went away between the dry run and the run.
            Completion::TooManyDeletes => {
                let deletes = self.cap().unwrap_or_default() + 1;
                self.withhold_entries(cx, batch, guarded::Withholds::beyond(deletes), true);
            }
            Completion::NoMissingArgs => {
                self.ledger.give_back(batch);
                self.drop_standbys(cx);
                self.came_up(cx, false);
            }
            Completion::SourceRoot => match (cx.check)() {
                Ok(()) => self.outage(cx, batch, false, outcome),
                Err(hold) => {
                    *cx.held = Some(hold);
                    self.ledger.give_back(batch);
                }
            },
            Completion::GiveBack => self.ledger.give_back(batch),
            Completion::LargeLane => {
                self.ledger.set.park(batch.id, &batch.entries);
                batch.entries.into_iter().for_each(|entry| self.wait_for_large_lane(entry, batch.round));
            }
            Completion::Untie => self.run_without_links(cx, batch, "hard links: rsync came to wait for itself"),
            Completion::SmallerLists => {
                let list = batch.entries.iter().all(|e| e.kind == Kind::Entry);
                let round = if list { WHOLE_ROUNDS } else { batch.round };
                let why = "nothing but keep-alives, ended by the watchdog";
                self.ledger.retry(cx.now, Batch { round, ..batch }, &[], why);
            }
            Completion::HeldUp => self.held_up(cx, run, batch, how.from_standby, outcome),
            Completion::Outage { config } => {
                self.ledger.give_back(batch);
                for e in self.ledger.retries.take_all() {
                    self.ledger.set.restore(e);
                }
                self.first_away(cx, config, outcome);
            }
        }
    }

    fn batch_done(&mut self, cx: &mut Context<'_>, run: &Process, batch: Batch, purpose: Purpose, how: &How, outcome: &Outcome) {
        if self.link.out_of_space && outcome.counters.deleted > 0 {
            self.ledger.retries.hurry(cx.now); // there may be room now
        }
        if !self.link.out_of_space || outcome.counters.files_sent + outcome.counters.deleted > 0 {
            self.proven(cx);
        }
        if let Purpose::SecondHalf { survey, .. } = purpose {
            return self.survey_done(cx, batch, how, survey);
        }
        if let (Pass::Full { .. }, Some(progress)) = (run.pass, run.rsync.output().progress) {
            self.guard.tree = Some(progress.files_total);
        }
        self.descents.done(purpose.below(), &batch.entries);
        if let (Lane::Large, Compare::Checksum, 0, [file]) = (run.lane, how.compare, outcome.counters.files_sent, &*batch.entries)
        {
            self.ledger.large.rest(file.path.clone(), cx.now, cx.now.saturating_sub(run.started));
        }
        let Some(batch) = self.without_inherited(cx, batch, how, purpose.extra(), outcome) else { return };
        self.link_after(cx, &batch.entries);
        self.confirm_read(cx, batch);
    }

    /// The target has no room, or its filesystem takes no file as large as one.
    fn no_room(&mut self, cx: &mut Context<'_>, signs: &Signs, mut batch: Batch, outcome: &Outcome) {
        let too_large = signs.target.too_large && !signs.target.full;
        self.link.out_of_space = !too_large;
        let hidden = self.hides_unfit(cx.root, &batch, outcome, too_large);
        self.set_unfit_apart(cx, &mut batch, outcome);
        // One that was tried alone shows nothing new of the others.
        if !batch.entries.is_empty() && !hidden && !too_large {
            self.first_away(cx, false, outcome);
        }
        self.ledger.give_back(batch);
    }

    /// Everything but the deletions has gone through. What is found in the second of two such
    /// comparisons was counted in the first.
    fn deletions_counted(&mut self, cx: &mut Context<'_>, run: &Process, batch: Batch, outcome: &Outcome) {
        self.proven(cx);
        let found = run.rsync.output().progress.map_or(0, |p| p.files_total);
        let (deletes, kept) = (outcome.counters.spared, found.saturating_sub(outcome.counters.created));
        if !first::exceeds(self.mirror.first_max_delete, deletes, kept) {
            self.guard.fill = Fill::Counted;
            self.ledger.give_back(batch);
        } else if let Err(batch) = self.count_later(cx, batch) {
            self.counters.reconciles += 1;
            self.withhold_entries(cx, batch, guarded::Withholds::beyond(deletes), false);
        }
    }

    /// A run was ended because it made no progress.
    fn held_up(&mut self, cx: &mut Context<'_>, run: &Process, batch: Batch, from_standby: bool, outcome: &Outcome) {
        let why = match run.abort_reason {
            Some(AbortReason::Fifo) => "a file became a FIFO while it was to be sent".into(),
            Some(AbortReason::Lease) => leases::REASON.into(),
            _ => format!("no progress for {:?}, ended by the watchdog", self.cfg.watchdog),
        };
        self.ledger.retry(cx.now, batch, &outcome.failed, &why);
        if from_standby && run.abort_reason == Some(AbortReason::Stalled) {
            self.doubt(cx, &why);
        }
    }

    /// A batch is pending again, for the target cannot be sent to.
    fn outage(&mut self, cx: &mut Context<'_>, batch: Batch, config: bool, outcome: &Outcome) {
        self.ledger.give_back(batch);
        self.first_away(cx, config, outcome);
    }

    /// Of several runs that meet the same outage, the first counts.
    fn first_away(&mut self, cx: &mut Context<'_>, config: bool, outcome: &Outcome) {
        if self.is_up() {
            self.went_away_by(cx, config, outcome.cause, outcome.reason.clone());
        }
    }

    /// Logs when no path keeps failing any more.
    fn note_failing(&mut self) {
        let failing = self.ledger.failing() > 0;
        if self.counters.repeats.is_over(failing) {
            tracing::info!(mirror = %self.mirror.name, target_name = %self.cfg.name, "every path that failed is on the target now");
        }
    }

    pub(super) fn confirm(&mut self, now: Duration, id: BatchId, entries: Vec<Entry>) {
        self.counters.stats.batches += 1;
        // It rests for having been read for nothing.
        let equal = |entry: &Entry| self.ledger.large.rests(&entry.path, now);
        self.counters.latency.confirmed(now, &entries, equal);
        self.counters.stats.last_success_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.judge_covered(&entries);
        for entry in &entries {
            self.unread.confirmed(entry);
            self.renames.confirmed(id, &entry.path);
            let over = self.ledger.retries.confirmed(id, entry);
            self.ledger.forget(over);
            self.doubts.confirmed(entry);
            self.counters.reconciles += u64::from(entry.path.is_root() && entry.kind == Kind::Subtree);
        }
        let compared = self.gone_of(&entries, true);
        let paths: Vec<_> = entries.iter().filter(|_| self.confirmations.keep > 0).map(|e| (e.path.clone(), e.kind)).collect();
        let again = self.ledger.set.confirm(id, entries);
        self.confirmations.confirmed(id, &paths, &again);
        for entry in again {
            match entry.over.filter(|id| self.runs.flies(*id)) {
                Some(id) => self.ledger.send_after(id, entry),
                None => self.ledger.set.restore(entry),
            }
        }
        if self.ledger.in_sync() {
            self.ledger.retries.forget_rounds();
        }
        self.compared(compared);
        self.spend_acceptance();
    }

    /// Some of a run's paths failed.
    pub(super) fn partial(&mut self, cx: &mut Context<'_>, deletes_skipped: bool, batch: Batch, how: &How, mut outcome: Outcome) {
        self.place(cx.root, &mut outcome.failed);
        let named = &outcome.failed;
        let clean = outcome.failed_more == 0 && outcome.unknown.is_empty() && !deletes_skipped;
        if clean && !named.is_empty() && named.iter().all(|f| f.path.is_root()) {
            let Some(Batch { id, entries, .. }) = self.without_inherited(cx, batch, how, Extra::Goes, &outcome) else { return };
            self.ledger.set.park(id, &entries);
            // A module that may not change its own top directory. Nothing else failed, and nothing
            // helps.
            if !std::mem::replace(&mut self.counters.top_refused, true) {
                tracing::warn!(mirror = %self.mirror.name, target_name = %self.cfg.name, "the target's top directory keeps its own times and mode: {}", outcome.reason);
            }
            return self.confirm(cx.now, id, entries);
        }
        // The first time it may be the source that changed.
        if deletes_skipped && batch.round > 0 && self.hides_unread(cx.root, &batch, &outcome) {
            let Batch { id, entries, round } = batch;
            self.ledger.set.park(id, &entries);
            return self.ledger.retries.at_once(cx.now, entries, round);
        }
        let deep_alone = batch.entries.len() == 1 && batch.entries[0].kind == Kind::Subtree;
        if batch.round >= 2 && deep_alone && !deletes_skipped {
            return self.prove(cx, batch, how, outcome);
        }
        self.ledger.retry(cx.now, batch, &outcome.failed, &outcome.reason);
    }

    /// Directories above both this run's paths and those of a run still in flight, seen with
    /// different times: whichever ends last may have set the older ones. They are sent again when
    /// the other has ended; who waits for this run's changes waits for that too.
    fn repair_overlaps(&mut self, ancestors: &BTreeMap<RelPath, FileTime>, batch: &Batch) {
        let Some(since) = oldest(batch) else { return };
        for (_, Carried { batch: Batch { id, .. }, how: other, .. }) in self.runs.carriers() {
            let id = *id;
            for (dir, seen) in ancestors {
                let waits = |e: &Entry| e.path == *dir && e.kind == Kind::Entry;
                if other.ancestors.get(dir).is_some_and(|theirs| theirs != seen) && !self.ledger.sent_after(id).iter().any(waits)
                {
                    self.confirmations.own(dir);
                    let again = self.ledger.set.parked(dir.clone(), since);
                    self.ledger.send_after(id, again);
                }
            }
        }
    }

    fn count(&mut self, run: &Process, carried: &Carried, outcome: &Outcome, took: Duration) {
        let s = &mut self.counters.stats;
        s.runs += 1;
        s.standby_hits += u64::from(carried.how.from_standby);
        s.files_sent += outcome.counters.files_sent;
        s.deleted += deletions(carried, outcome);
        s.bytes_sent += outcome.counters.wire_sent;
        if !outcome.is_done() && !counted(carried, outcome) {
            *s.bad_runs.entry(outcome.verdict.class().into()).or_insert(0) += 1;
        }
        if run.pass == Pass::Shallow && run.lane != Lane::Large {
            self.schedule.pace.ran(took);
        }
    }

    fn log(&mut self, now: Duration, run: &Process, carried: &Carried, outcome: &Outcome, took: Duration) {
        let Carried { batch, purpose, how } = carried;
        let c = &outcome.counters;
        let first = batch.entries.first().map(|e| e.path.to_string()).unwrap_or_default();
        let pass = match run.pass {
            _ if matches!(purpose, Purpose::Rename(moving) if moving.removes()) => "old name",
            Pass::Full { .. } => "full",
            Pass::Deep => "deep",
            Pass::ShallowOneLevel => "one-level",
            Pass::Shallow | Pass::Probe | Pass::Role => "shallow",
            Pass::MovedTree | Pass::MovedTrees | Pass::MovedFiles | Pass::LikeOthers => "rename",
            Pass::Clear => "old name",
        };
        let ms = took.as_secs_f64() * 1000.0;
        let below = purpose.below().map(tracing::field::display);
        // A comparison of everything has one path in its list, and the number says nothing of it.
        let whole = matches!(run.pass, Pass::Full { .. });
        let paths = (!whole).then_some(how.paths);
        let deleted = deletions(carried, outcome);
        self.counters.stats.last_batch = format!(
            "{} ({pass}{}), {} sent, {deleted} deleted, {ms:.1} ms: {}",
            if whole { "the whole tree".into() } else { plural(how.paths as u64, "path") },
            purpose.below().map(|dir| format!(" below {dir}")).unwrap_or_default(),
            plural(c.files_sent, "file"),
            if outcome.is_done() { "done" } else { &outcome.reason }
        );
        if outcome.is_done() || counted(carried, outcome) {
            tracing::debug!(
                mirror = %self.mirror.name, target_name = %self.cfg.name, pass, paths, sent = c.files_sent, deleted, bytes = c.wire_sent,
                ms = (ms * 10.0).round() / 10.0, standby = how.from_standby, below, %first, "batch"
            );
            return;
        }
        let class = outcome.verdict.class();
        match self.counters.repeats.line(now, class, &outcome.reason) {
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
fn deletions(carried: &Carried, outcome: &Outcome) -> u64 {
    if matches!(carried.purpose, Purpose::Rename(_)) { 0 } else { outcome.counters.deleted }
}

/// Whether a run ended as it should that was to count what it would delete.
fn counted(carried: &Carried, outcome: &Outcome) -> bool {
    carried.purpose.extra() == Extra::Counted && outcome.verdict == Verdict::DeletesHeld
}

/// The epoch of the oldest change in a batch.
fn oldest(batch: &Batch) -> Option<Epoch> {
    batch.entries.iter().map(Entry::epoch).min()
}

/// Whether a run found that the target's directory, or the module that stands for it, is not there.
fn gone(outcome: &Outcome, output: &Output) -> bool {
    outcome.verdict == Verdict::TargetMissing || output.signs.server.module_missing
}

/// Whether a batch found the whole target read-only, as a filesystem is after an error: every path
/// failed, and for this. A read-only part of a target looks the same for as long as nothing else
/// changes; so it is checked for whole rounds only, and what was set apart already stays a matter
/// of its paths.
fn read_only(batch: &Batch, outcome: &Outcome, output: &Output) -> bool {
    if outcome.verdict != Verdict::Partial || !output.signs.target.read_only {
        return false;
    }
    let failed = Cover::new(&outcome.failed);
    batch.entries.iter().all(|e| failed.reaches(&e.path))
}

/// Directories where a receiver that was killed has left temporary files, which only a pass with
/// deletes over them removes. One that lives longer than its client cleans up.
fn leftovers(batch: &Batch, outcome: &Outcome, output: &Output) -> BTreeSet<RelPath> {
    let broken = match outcome.verdict {
        // Whatever rsync counted as sent until then. Who never got a connection left nothing.
        Verdict::TargetDown | Verdict::TimedOut | Verdict::Unknown => !output.signs.no_connection,
        // Its output so far is lost with it; with a local target the receiver is killed as well,
        // most likely.
        Verdict::Killed => true,
        _ => false,
    };
    let files = batch.entries.iter().filter(|e| broken && e.kind == Kind::Entry);
    files.filter_map(|e| path::parent(&e.path).map(RelPath::from_normal)).collect()
}

/// What has to be sent of a path that a deep run named: what is below a directory that could not be
/// made was skipped with it.
pub(super) fn kind_on_source(root: &Root, path: &RelPath) -> Kind {
    match fstatat(root, path.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFDIR.bits() => Kind::Entry,
        Err(Errno::ENOENT | Errno::ENOTDIR) => Kind::Entry,
        Ok(_) | Err(_) => Kind::Subtree,
    }
}
