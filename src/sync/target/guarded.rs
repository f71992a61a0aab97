//! Runs that may delete, where deletions are guarded ([`super::super::guard`]): a dry run first, then what it found decides.
//!
//! ```text
//! part that may delete ─► dry run ─► within the bounds ─► the run itself
//!                                 ├► too many deletions ─► the same run without deletions, then the part waits (Withheld)
//!                                 └► the source was emptied ─► the whole mirror is held
//! ```
//!
//! What waits stays pending. It is judged again after growing pauses, for the files may have come back, and goes through once
//! somebody accepted it ([`Target::accept_deletes`]).

use super::super::guard::{self, Hold};
use super::*;
use crate::config::MaxDelete;
use crate::sync::below::Below;
use crate::sync::renames::Renamed;

/// The first pause before what is withheld is judged again; it doubles …
const JUDGE_MIN: Duration = Duration::from_secs(60);
/// … up to this.
const JUDGE_MAX: Duration = Duration::from_secs(3600);
/// The same where a run stopped at its bound although its dry run did not foresee that.
const JUDGE_SOON: Duration = Duration::from_secs(1);
/// Deletions whose paths are looked at, to tell which place they are in.
const KEPT_ITEMS: usize = 10_000;

/// What a dry run is for.
pub(super) enum Look {
    /// To count the entries of the tree, for a bound that is a share of it.
    Entries,
    /// To count deletions.
    Deletes { suspect: Option<Suspect>, run: Prepared },
}

/// The run that a dry run comes before. Its list is not made anew in between: what is gone by then with a directory above it would be
/// listed as that directory, and take more away than was counted.
pub(super) struct Prepared {
    pub(super) list: Vec<u8>,
    /// Something listed is there, and can be sent without deletions.
    pub(super) present: bool,
    pub(super) compare: Compare,
    /// In place of the usual guards of what is left out.
    pub(super) guards: Option<Vec<OsString>>,
    pub(super) ancestors: BTreeMap<RelPath, FileTime>,
}

/// A place that next to nothing is left of.
#[derive(Clone)]
pub(super) struct Suspect {
    at: RelPath,
    enough: Option<usize>,
    /// It is to be compared; else names are known to be gone.
    level: bool,
}

/// In which way a run is started.
#[derive(Default)]
pub(super) struct Manner<'r> {
    /// Dry, for this.
    pub(super) look: Option<Look>,
    /// Without deletions; so many are left out.
    pub(super) withholds: Option<u64>,
    /// Somebody let the deletions through: no bound.
    pub(super) free: bool,
    /// In place of the usual guards of what is left out.
    pub(super) guards: Option<Vec<OsString>>,
    /// Leaves alone what only the periodic comparisons leave alone.
    pub(super) limited: bool,
    /// The second half of a survey.
    pub(super) second: bool,
    /// It carries a rename.
    pub(super) renamed: Option<&'r Renamed>,
    /// It begins below the root.
    pub(super) below: Option<&'r Below>,
}

/// What a dry run said would be deleted and the run itself leaves alone: what the filter leaves out, where rsync cannot be told that,
/// and the directories above it.
pub fn spared(filter: &Filter, items: &[Item]) -> BTreeSet<RelPath> {
    let mut spared = BTreeSet::new();
    if filter.is_rsyncs() {
        return spared;
    }
    let deleted: BTreeSet<&[u8]> = items.iter().filter(|i| i.deletes()).map(|i| &*i.path).collect();
    for item in items.iter().filter(|i| i.deletes() && filter.excludes(&i.path, i.dir)) {
        let mut at = Some(&*item.path);
        while let Some(path) = at.filter(|path| deleted.contains(path)) {
            if !spared.insert(RelPath::from_normal(path)) {
                break;
            }
            at = path::parent(path);
        }
    }
    spared
}

/// Deletions that wait for somebody.
pub(super) struct Withheld {
    pub(super) entries: Vec<Entry>,
    deletes: u64,
    pub(super) due: Duration,
}

impl Target {
    pub(super) fn limit(&self) -> Option<MaxDelete> {
        self.cfg.max_delete.or(self.mirror.max_delete).filter(|_| self.mirror.delete)
    }

    /// The bound that rsync itself is given.
    pub(super) fn cap(&self) -> Option<u64> {
        match self.limit()? {
            MaxDelete::Count(count) => Some(count),
            limit => self.tree.map(|entries| guard::allowed(limit, entries)),
        }
    }

    pub(super) fn is_accepted(&self, entry: &Entry) -> bool {
        self.accepted.is_some_and(|until| entry.epoch() <= until)
    }

    /// Whether next to nothing is left of a place at whose top `entries` may delete. `normal`: none for the whole tree.
    pub(super) fn suspect(&mut self, cx: &Context<'_>, entries: &[Entry], normal: Option<&Normal>) -> Option<Suspect> {
        if !self.mirror.delete || self.mirror.allow_empty {
            return None;
        }
        let missing = normal.is_none_or(|n| n.items.iter().any(|i| i.state == normal::State::Missing));
        let compared: Vec<&Entry> = entries.iter().filter(|e| e.kind > Kind::Entry && !self.is_accepted(e)).collect();
        if compared.is_empty() && !missing {
            return None;
        }
        for at in (cx.places)() {
            let level = compared.iter().any(|e| match e.kind {
                Kind::Subtree => path::is_at_or_below(&at, &e.path),
                _ => e.path == at,
            });
            if level {
                let known = self.tops.get(&at).copied().unwrap_or(0);
                let Some(left) = guard::left(cx.root, cx.filter, &at, usize::MAX) else { continue };
                if guard::suspicious_level(known, left) {
                    return Some(Suspect { at, enough: (known > 0).then(|| known.div_ceil(2)), level });
                }
                self.tops.insert(at, left);
            } else if let Some(normal) = normal {
                let gone = |i: &&normal::Item| i.state == normal::State::Missing && path::parent(&i.path) == Some(&*at);
                let missing = normal.items.iter().filter(gone).count();
                if missing == 0 {
                    continue;
                }
                let Some(left) = guard::left(cx.root, cx.filter, &at, missing / 9 + 1) else { continue };
                if guard::suspicious_names(missing, left) {
                    return Some(Suspect { at, enough: Some((missing + left).div_ceil(2)), level });
                }
            }
        }
        None
    }

    /// Starts the dry run that a part which may delete needs before its run. `count`: the entries of the tree have to be known, and are
    /// not.
    pub(super) fn look_first(
        &mut self,
        cx: &mut Context<'_>,
        pass: Pass,
        batch: Batch,
        suspect: Option<Suspect>,
        run: Prepared,
    ) -> bool {
        let full = matches!(pass, Pass::Full { .. });
        let small = !full && pass == Pass::Shallow && batch.entries.len() <= SMALL_PATHS && batch.round == 0;
        if self.tree.is_none() && !full && matches!(self.limit(), Some(MaxDelete::Percent(_))) {
            let manner = Manner { look: Some(Look::Entries), ..Manner::default() };
            let pass = Pass::Full { progress: true };
            return self.start(cx, Launch { manner, small, ..Launch::of(pass, Input::None, Load::Batch(batch)) });
        }
        let bytes = run.list.clone();
        let input = if full { Input::None } else { Input::List(&bytes) };
        let paths = batch.entries.len();
        let manner = Manner { look: Some(Look::Deletes { suspect, run }), ..Manner::default() };
        self.start(cx, Launch { manner, paths, small, ..Launch::of(pass, input, Load::Batch(batch)) })
    }

    /// How many changes of a dry run are kept with their paths.
    pub(super) fn kept_items(&self, look: &Look) -> usize {
        match look {
            Look::Deletes { .. } if !self.mirror.filter.is_rsyncs() => self.mirror.batch.max_pending,
            Look::Deletes { suspect: Some(_), .. } => KEPT_ITEMS,
            _ => 0,
        }
    }

    /// A dry run has told what the run would do.
    pub(super) fn looked(&mut self, cx: &mut Context<'_>, mut run: Flight, batch: Batch, look: Look, outcome: &Outcome) {
        for entry in std::mem::take(&mut run.after) {
            self.set.restore(entry);
        }
        let full = matches!(run.pass, Pass::Full { .. });
        let found = run.run.output().progress.map_or(0, |p| p.files_total);
        let spared = spared(cx.filter, &run.run.output().items);
        let deletes = outcome.counters.deleted.saturating_sub(spared.len() as u64);
        if self.state != State::Up || cx.held.is_some() || self.paused.is_some() {
            return self.give_back(batch);
        }
        // Somebody let it through while it was counted.
        if batch.entries.iter().all(|e| self.is_accepted(e)) {
            return self.give_back(batch);
        }
        let Look::Deletes { suspect, run: prepared } = look else {
            self.tree = Some(found);
            self.launch(cx, batch);
            return;
        };
        if let Some(suspect) = suspect {
            let output = run.run.output();
            let there = |i: &&Item| i.deletes() && path::is_at_or_below(&i.path, &suspect.at) && !spared.contains(&i.path);
            let lost = match suspect.at.is_root() {
                true => deletes,
                false => output.items.iter().filter(there).count() as u64 + output.items_more,
            };
            let from_the_start = suspect.level && self.stats.batches == 0;
            if lost >= if from_the_start { 1 } else { guard::EMPTIED_MIN } {
                self.give_back(batch);
                *cx.held = Some(Hold::Emptied { at: suspect.at, enough: suspect.enough, deletes: lost, from_the_start });
                return;
            }
        }
        if full {
            self.tree = Some(found + deletes);
        }
        match self.limit() {
            Some(limit) if guard::exceeds(limit, deletes, self.tree.unwrap_or(0)) => {
                self.withhold(cx, run.pass, batch, deletes, prepared);
            }
            _ => {
                if let Err(why) = (cx.check)() {
                    self.give_back(batch);
                    *cx.held = Some(Hold::Gone(why));
                    return;
                }
                if let Err(why) = self.own_role() {
                    self.give_back(batch);
                    return self.fence_off(cx, why);
                }
                let paths = batch.entries.len();
                self.start_prepared(cx, Manner::default(), run.pass, batch, paths, run.small, prepared);
            }
        }
    }

    /// Sends what can be sent of a part whose deletions are too many, then lets it wait.
    fn withhold(&mut self, cx: &mut Context<'_>, pass: Pass, batch: Batch, deletes: u64, run: Prepared) {
        if pass == Pass::Shallow && !run.present {
            return self.withhold_entries(cx, batch, deletes, false);
        }
        let paths = batch.entries.len();
        self.start_prepared(cx, Manner { withholds: Some(deletes), ..Manner::default() }, pass, batch, paths, false, run);
    }

    #[allow(clippy::too_many_arguments)]
    fn start_prepared(
        &mut self,
        cx: &mut Context<'_>,
        manner: Manner<'_>,
        pass: Pass,
        batch: Batch,
        paths: usize,
        small: bool,
        run: Prepared,
    ) {
        let limited = matches!(pass, Pass::Full { .. }) && self.periodic.take(self.set.coarsened());
        let manner = Manner { guards: run.guards, limited, ..manner };
        let input = if matches!(pass, Pass::Full { .. }) { Input::None } else { Input::List(&run.list) };
        let (compare, ancestors) = (run.compare, run.ancestors);
        self.start(cx, Launch { manner, paths, small, compare, ancestors, ..Launch::of(pass, input, Load::Batch(batch)) });
    }

    /// A run without the deletions that were withheld has ended, and has sent the rest, all but what failed.
    pub(super) fn withheld_ended(
        &mut self,
        cx: &mut Context<'_>,
        mut run: Flight,
        batch: Batch,
        outcome: &Outcome,
        deletes: u64,
    ) {
        let took = cx.now.saturating_sub(run.started);
        self.count(&run, outcome, took);
        self.repair_overlaps(&run, &batch);
        self.log(&run, &batch, outcome, took);
        self.proven(cx);
        if matches!(run.pass, Pass::Full { .. }) {
            self.reconciles += 1;
        }
        self.withhold_entries(cx, batch, deletes, false);
        for entry in std::mem::take(&mut run.after) {
            self.set.restore(entry);
        }
    }

    /// `soon`: the number of deletions is a guess, and is to be found out.
    pub(super) fn withhold_entries(&mut self, cx: &Context<'_>, batch: Batch, deletes: u64, soon: bool) {
        // Somebody let it through while its run was under way.
        if batch.entries.iter().all(|e| self.is_accepted(e)) {
            return self.give_back(batch);
        }
        self.set.park(batch.id, &batch.entries);
        let pause = if soon { JUDGE_SOON } else { JUDGE_MIN.saturating_mul(1 << self.judged.min(6)).min(JUDGE_MAX) };
        self.judged += 1;
        let mut new = Withheld { entries: batch.entries, deletes, due: cx.now + pause };
        // What was held of the same place before is counted in this, or the other way round: judged together, it is counted once.
        let place = |a: &Entry, b: &Entry| path::is_at_or_below(&a.path, &b.path) || path::is_at_or_below(&b.path, &a.path);
        let same = |old: &mut Withheld| old.entries.iter().any(|a| new.entries.iter().any(|b| place(a, b)));
        for old in self.withheld.extract_if(.., same).collect::<Vec<_>>() {
            new.entries.extend(old.entries);
            new.deletes = new.deletes.max(old.deletes);
            new.due = cx.now + JUDGE_SOON;
        }
        self.withheld.push(new);
        let all = self.withheld_deletes();
        if std::mem::replace(&mut self.withheld_said, all) != all {
            tracing::error!(
                mirror = %self.mirror.name, target_name = %self.cfg.name, deletes = all,
                "{}", self.why_withheld().unwrap_or_default()
            );
        }
    }

    /// Judges what is withheld again, when its time has come.
    pub(super) fn judge_again(&mut self, cx: &mut Context<'_>) {
        let due: Vec<Withheld> = self.withheld.extract_if(.., |w| w.due <= cx.now).collect();
        for withheld in due {
            if let Some(batch) = self.set.take_again(withheld.entries, 0) {
                self.launch(cx, batch);
            }
        }
    }

    /// A run has ended well that carried `entries`: what is withheld below them may be done with it, and is judged at once.
    pub(super) fn judge_covered(&mut self, entries: &[Entry]) {
        let wide = |e: &&Entry| e.kind > Kind::Entry;
        let covered = |e: &Entry| entries.iter().filter(wide).any(|run| path::is_at_or_below(&e.path, &run.path));
        for withheld in self.withheld.iter_mut().filter(|w| w.entries.iter().any(covered)) {
            withheld.due = Duration::ZERO;
        }
    }

    pub(super) fn withheld_deletes(&self) -> u64 {
        self.withheld.iter().map(|w| w.deletes).sum()
    }

    /// Why deletions wait, and what to do.
    pub(super) fn why_withheld(&self) -> Option<String> {
        let first = self.withheld.first()?.entries.first()?;
        let limit = self.limit().map(|l| l.to_string()).unwrap_or_default();
        Some(format!(
            "{} deletions are held, more than max_delete = {limit} allows at once (at {}); if they are meant: \
             fansync resume --accept-deletes",
            self.withheld_deletes(),
            first.path,
        ))
    }

    /// Lets everything through that is pending now, deletions beyond every bound too. Returns how many were held.
    pub fn accept_deletes(&mut self, cx: &mut Context<'_>) -> u64 {
        let held = self.withheld_deletes();
        self.set.tick(cx.now);
        self.accepted = Some(self.set.close_epoch());
        for entry in std::mem::take(&mut self.withheld).into_iter().flat_map(|w| w.entries) {
            self.set.restore(entry);
        }
        (self.judged, self.withheld_said) = (0, 0);
        self.pace.hurry();
        held
    }

    /// Forgets what was accepted once it is on the target.
    pub(super) fn spend_acceptance(&mut self) {
        if self.accepted.is_some_and(|until| self.flushed(until)) {
            self.accepted = None;
        }
        if self.withheld.is_empty() && self.in_sync() {
            (self.judged, self.withheld_said) = (0, 0);
        }
    }
}
