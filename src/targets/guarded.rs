//! Runs that may delete, where deletions are guarded ([`crate::guard`]): a dry run first, then what
//! it found decides.
//!
//! ```text
//! part that may delete ─► dry run ─► within the bounds ─► the run itself
//!                                 ├► too many deletions ─► the same run without deletions, then
//!                                 the part waits (Withheld)
//!                                 ├► a place lost nearly everything ─► the same, and its names are
//!                                 guarded (Lost)
//!                                 └► … and nothing is left in it ─► the place or the whole mirror
//!                                 is held
//! ```
//!
//! What waits stays pending. It is judged again after growing pauses, for the files may have come
//! back, and goes through once an administrator accepted it ([`Target::accept_deletes`]).

use super::emptied::{self, Found, Lost, Was};
use super::*;
use crate::config::MaxDelete;
use crate::cover::Cover;
use crate::guard::{self, Hold};
use crate::sync::below::Below;
use crate::sync::first;
use crate::sync::renames::Renamed;

/// Changes whose paths are checked, to learn what a run has done.
const KEPT_ITEMS: usize = 10_000;

/// What a dry run is for.
pub(super) enum DryRun {
    /// To count the entries of the tree, for a bound that is a share of it.
    Entries,
    /// To learn what a run has done that did not end well.
    Proof(proof::Proof),
    /// To count deletions.
    Deletes { suspect: Option<Suspect>, run: Prepared },
}

/// The run that a dry run comes before. Its list is not made anew in between: what is gone by then
/// with a directory above it would be listed as that directory, and take more away than was
/// counted.
pub(super) struct Prepared {
    pub(super) list: Vec<u8>,
    /// Something listed is there, and can be sent without deletions.
    pub(super) present: bool,
    pub(super) compare: Compare,
    /// In place of the usual guards of what is left out.
    pub(super) guards: Option<Vec<OsString>>,
    pub(super) ancestors: BTreeMap<RelPath, FileTime>,
}

impl Prepared {
    /// A comparison of the whole tree.
    pub(super) fn whole(compare: Compare) -> Prepared {
        Prepared { list: Vec::new(), present: true, compare, guards: None, ancestors: BTreeMap::new() }
    }
}

/// A place that next to nothing is left of.
#[derive(Clone)]
pub(super) struct Suspect {
    pub(super) at: RelPath,
    pub(super) enough: Option<usize>,
    /// It is to be compared; else names are known to be gone.
    pub(super) level: bool,
    emptied: Emptied,
}

impl Suspect {
    /// Whether an entry may delete at the top of the place. `missing`: nothing has this name.
    pub(super) fn concerns(&self, entry: &Entry, missing: &RelPath) -> bool {
        (entry.kind > Kind::Entry && path::is_at_or_below(&self.at, &entry.path)) || path::parent(missing) == Some(&*self.at)
    }
}

/// How a place came to be suspected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Emptied {
    /// By this run.
    Now(guard::Extent),
    /// Deletions there wait already.
    Before,
}

/// Deletions that are left out of a run.
pub(super) struct Withholds {
    pub(super) deletes: u64,
    /// `None`: they are more than a bound allows.
    pub(super) lost: Option<Lost>,
}

impl Withholds {
    pub(super) fn beyond(deletes: u64) -> Withholds {
        Withholds { deletes, lost: None }
    }
}

/// In which way a run is started.
#[derive(Default)]
pub(super) struct RunOptions<'r> {
    /// An administrator accepted the deletions: no bound.
    pub(super) free: bool,
    /// In place of the usual guards of what is left out.
    pub(super) guards: Option<Vec<OsString>>,
    /// Leaves alone what only the periodic comparisons leave alone.
    pub(super) limited: bool,
    /// It carries a rename.
    pub(super) renamed: Option<&'r Renamed>,
    /// It begins below the root.
    pub(super) below: Option<&'r Below>,
}

/// What a comparison does with what only the target has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Extra {
    /// It goes, within the bounds.
    #[default]
    Goes,
    /// It stays, and is counted.
    Counted,
    /// It stays.
    Stays,
}

/// What a dry run would delete and the run itself leaves alone: what the filter leaves out, where
/// rsync cannot express that, and the directories above it.
pub(crate) fn spared(filter: &Filter, items: &[Item]) -> BTreeSet<RelPath> {
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

/// Deletions that wait for an administrator.
pub(super) struct Withheld {
    entries: Vec<Entry>,
    /// What came later and waits with them.
    joined: BTreeMap<RelPath, Entry>,
    deletes: u64,
    pub(super) due: Duration,
    /// The place that lost them at one blow.
    lost: Option<Lost>,
}

impl Withheld {
    #[cfg(test)]
    pub(super) fn of(entries: Vec<Entry>) -> Withheld {
        Withheld { entries, joined: BTreeMap::new(), deletes: 1, due: Duration::ZERO, lost: None }
    }

    /// All that waits.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().chain(self.joined.values())
    }

    pub(super) fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.entries.into_iter().chain(self.joined.into_values())
    }
}

impl Target {
    pub(super) fn limit(&self) -> Option<MaxDelete> {
        self.cfg.max_delete.or(self.mirror.max_delete).filter(|_| self.mirror.delete.ever())
    }

    /// The bound that rsync itself is given.
    pub(super) fn cap(&self) -> Option<u64> {
        match self.limit()? {
            MaxDelete::Count(count) => Some(count),
            limit => self.guard.tree.map(|entries| guard::allowed(limit, entries)),
        }
    }

    pub(super) fn is_accepted(&self, entry: &Entry) -> bool {
        self.guard.is_accepted(entry)
    }

    /// Whether next to nothing is left of a place at whose top `entries` may delete. `normal`: none
    /// for the whole tree.
    pub(super) fn suspect(&mut self, cx: &Context<'_>, entries: &[Entry], normal: Option<&Normal>) -> Option<Suspect> {
        let deletes = match normal {
            Some(_) => self.deletes(),
            None => entries.iter().any(|e| self.deletes_whole(e)),
        };
        if !deletes || self.mirror.allow_empty {
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
            let held = self.held_loss(cx, &at).is_some();
            if level {
                if held {
                    return Some(Suspect { at, enough: None, level, emptied: Emptied::Before });
                }
                let known = self.guard.tops.get(&at).copied().unwrap_or(0);
                let Some(left) = guard::left(cx.root, cx.filter, &at, usize::MAX) else { continue };
                if guard::suspicious_level(known, left) {
                    let emptied = Emptied::Now(guard::extent(left, guard::is_shared(cx.root, &at)));
                    return Some(Suspect { at, enough: (known > 0).then(|| known.div_ceil(2)), level, emptied });
                }
                self.guard.tops.insert(at, left);
            } else if let Some(normal) = normal.filter(|_| !held) {
                let gone = |i: &&normal::Item| i.state == normal::State::Missing && path::parent(&i.path) == Some(&*at);
                let missing = normal.items.iter().filter(gone).count();
                if missing == 0 {
                    continue;
                }
                let Some(left) = guard::left(cx.root, cx.filter, &at, missing / 9 + 1) else { continue };
                if guard::suspicious_names(missing, left) {
                    let emptied = Emptied::Now(guard::extent(left, guard::is_shared(cx.root, &at)));
                    return Some(Suspect { at, enough: Some((missing + left).div_ceil(2)), level, emptied });
                }
            }
        }
        None
    }

    /// What the place has lost, if deletions there wait and go on waiting. Where half of it is back
    /// they are judged at the next dispatch.
    fn held_loss(&mut self, cx: &Context<'_>, at: &RelPath) -> Option<&Lost> {
        let withheld = self.ledger.withheld.iter_mut().find(|w| w.lost.as_ref().is_some_and(|lost| lost.at() == at))?;
        if withheld.lost.as_ref().is_some_and(|lost| lost.is_back(cx.root)) {
            withheld.due = Duration::ZERO;
            return None;
        }
        withheld.lost.as_ref()
    }

    /// Starts the dry run that a part which may delete needs before its run. `count`: the entries
    /// of the tree have to be known, and are not.
    pub(super) fn look_first(
        &mut self,
        cx: &mut Context<'_>,
        pass: Pass,
        batch: Batch,
        suspect: Option<Suspect>,
        run: Prepared,
        lane: Lane,
    ) -> bool {
        if self.is_feed() {
            return self.judge_feed(cx, pass, batch, suspect, run, lane);
        }
        let full = matches!(pass, Pass::Full { .. });
        if self.guard.tree.is_none() && !full && matches!(self.limit(), Some(MaxDelete::Percent(_))) {
            let launch = Launch::batch(Pass::Full { progress: true }, Input::None, batch, Purpose::DryRun(DryRun::Entries));
            return self.start(cx, Launch { lane, ..launch }).is_some();
        }
        let bytes = run.list.clone();
        let input = if full { Input::None } else { Input::List(&bytes) };
        let paths = batch.entries.len();
        let launch = Launch::batch(pass, input, batch, Purpose::DryRun(DryRun::Deletes { suspect, run }));
        self.start(cx, Launch { paths, lane, ..launch }).is_some()
    }

    /// How many changes of a dry run are kept with their paths.
    pub(super) fn kept_items(&self, dry: &DryRun) -> usize {
        match dry {
            DryRun::Deletes { suspect, .. } if suspect.is_some() || !self.mirror.filter.is_rsyncs() => {
                self.mirror.batch.max_pending
            }
            DryRun::Proof(_) => KEPT_ITEMS,
            _ => 0,
        }
    }

    /// A dry run has shown what the run would do.
    pub(super) fn dry_run_ended(&mut self, cx: &mut Context<'_>, run: &Process, batch: Batch, dry: DryRun, outcome: &Outcome) {
        self.ledger.landed(batch.id);
        let full = matches!(run.pass, Pass::Full { .. });
        let found = run.rsync.output().progress.map_or(0, |p| p.files_total);
        let spared = spared(cx.filter, &run.rsync.output().items);
        let deletes = outcome.counters.deleted.saturating_sub(spared.len() as u64);
        if !self.is_up() || cx.held.is_some() || self.schedule.is_paused() || !self.preflight(cx) {
            return self.ledger.give_back(batch);
        }
        // It was accepted while it was counted.
        if batch.entries.iter().all(|e| self.is_accepted(e)) {
            return self.ledger.give_back(batch);
        }
        let DryRun::Deletes { suspect, run: prepared } = dry else {
            self.guard.counted(found, self.ledger.set.close_epoch());
            self.launch(cx, batch, run.lane);
            return;
        };
        if let Some(suspect) = suspect {
            let output = run.rsync.output();
            let there = |i: &&Item| i.deletes() && path::is_at_or_below(&i.path, &suspect.at) && !spared.contains(&i.path);
            let lost = match suspect.at.is_root() {
                true => deletes,
                false => output.items.iter().filter(there).count() as u64 + output.items_more,
            };
            let from_the_start = suspect.level && self.counters.stats.batches == 0;
            let least = if from_the_start || suspect.emptied == Emptied::Before { 1 } else { guard::EMPTIED_MIN };
            match suspect.emptied {
                _ if lost < least => {}
                emptied if from_the_start || emptied == Emptied::Now(guard::Extent::Place) => {
                    self.ledger.give_back(batch);
                    *cx.held = Some(Hold::Emptied { at: suspect.at, enough: suspect.enough, deletes: lost, from_the_start });
                    return;
                }
                _ => {
                    let listed = batch.entries.iter().filter(|e| e.kind == Kind::Entry).map(|e| (&*e.path, Was::Other));
                    let deleted: Vec<&Item> = output.items.iter().filter(there).collect();
                    let back = |i: &&&Item| path::parent(&i.path) == Some(&*suspect.at) && !emptied::is_gone(cx.root, &i.path);
                    let back = deleted.iter().filter(back).count();
                    let deleted = deleted.into_iter().map(|i| (&*i.path, if i.dir { Was::Dir } else { Was::Other }));
                    let names = Lost::new(suspect.at.clone(), listed.chain(deleted), |name| emptied::is_gone(cx.root, name));
                    let names = match suspect.emptied {
                        Emptied::Now(_) => emptied::judged(names, back),
                        Emptied::Before => emptied::judged_again(self.held_loss(cx, &suspect.at), names),
                    };
                    if let Some(names) = names {
                        let withholds = Withholds { deletes: lost, lost: Some(names) };
                        return self.withhold(cx, run.pass, batch, withholds, run.lane, prepared);
                    }
                }
            }
        }
        if full {
            self.guard.tree = Some(found + deletes);
        }
        let (created, kept) = (outcome.counters.created, found.saturating_sub(outcome.counters.created));
        tracing::debug!(target_name = %self.cfg.name, deletes, created, "counted by a dry run");
        let first = full && self.guard.fill.counts() && self.limit().is_none();
        match self.limit() {
            None if first && first::exceeds(self.mirror.first_max_delete, deletes, kept) => {
                if let Err(batch) = self.count_later(cx, batch) {
                    self.withhold(cx, run.pass, batch, Withholds::beyond(deletes), run.lane, prepared);
                }
            }
            Some(limit) if guard::exceeds(limit, deletes, self.guard.tree.unwrap_or(0)) => {
                self.withhold(cx, run.pass, batch, Withholds::beyond(deletes), run.lane, prepared);
            }
            _ => {
                self.start_prepared(cx, Purpose::carry(), run.pass, batch, run.lane, prepared);
            }
        }
    }

    /// Sends what can be sent of a part whose deletions are too many, then lets it wait.
    fn withhold(&mut self, cx: &mut Context<'_>, pass: Pass, batch: Batch, withholds: Withholds, lane: Lane, run: Prepared) {
        if pass == Pass::Shallow && !run.present {
            return self.withhold_entries(cx, batch, withholds, false);
        }
        self.start_prepared(cx, Purpose::Withhold(withholds), pass, batch, lane, run);
    }

    fn start_prepared(&mut self, cx: &mut Context<'_>, purpose: Purpose, pass: Pass, batch: Batch, lane: Lane, run: Prepared) {
        let Prepared { list, compare, guards, ancestors, .. } = run;
        let full = matches!(pass, Pass::Full { .. });
        let limited = full && self.schedule.periodic.take(self.ledger.set.coarsened());
        let options = RunOptions { guards, limited, ..Default::default() };
        let input = if full { Input::None } else { Input::List(&list) };
        let paths = batch.entries.len();
        self.start(cx, Launch { options, paths, lane, compare, ancestors, ..Launch::batch(pass, input, batch, purpose) });
    }

    /// A run without the deletions that were withheld has ended, and has sent the rest, all but
    /// what failed. `None`: the rest is not known.
    pub(super) fn withheld_ended(&mut self, cx: &mut Context<'_>, batch: Batch, withholds: Option<Withholds>) {
        self.proven(cx);
        let id = batch.id;
        match withholds {
            Some(withholds) => self.withhold_rest(cx, batch, withholds),
            None => self.ledger.give_back(batch),
        }
        self.ledger.landed(id);
    }

    /// All of a batch went through but for these deletions.
    pub(super) fn withhold_rest(&mut self, cx: &Context<'_>, batch: Batch, withholds: Withholds) {
        self.counters.reconciles += u64::from(batch.entries.iter().any(|e| e.path.is_root() && e.kind == Kind::Subtree));
        self.withhold_entries(cx, batch, withholds, false);
    }

    /// `soon`: the number of deletions is a guess, and is to be found out.
    pub(super) fn withhold_entries(&mut self, cx: &Context<'_>, batch: Batch, withholds: Withholds, soon: bool) {
        // It was accepted while its run was under way.
        if batch.entries.iter().all(|e| self.is_accepted(e)) {
            return self.ledger.give_back(batch);
        }
        self.ledger.set.park(batch.id, &batch.entries);
        let Withholds { deletes, lost } = withholds;
        let pause = self.guard.pause(lost.is_some(), soon);
        let mut new = Withheld { entries: batch.entries, joined: BTreeMap::new(), deletes, due: cx.now + pause, lost };
        // What was held of the same place before is counted in this, or the other way round: judged
        // together, it is counted once.
        let places = Cover::new(new.entries.iter().map(|e| &e.path));
        let at = |w: &Withheld| w.lost.as_ref().map(|lost| lost.at().clone());
        let same =
            |old: &mut Withheld| (at(old).is_some() && at(old) == at(&new)) || old.entries().any(|e| places.meets(&e.path));
        let before: Vec<Withheld> = self.ledger.withheld.extract_if(.., same).collect();
        for mut old in before {
            new.lost = match (new.lost, old.lost.take()) {
                (Some(mut lost), Some(old)) => {
                    lost.merge(old);
                    Some(lost)
                }
                (lost, old) => lost.or(old),
            };
            new.deletes = new.deletes.max(old.deletes);
            new.due = cx.now + JUDGE_SOON;
            new.entries.extend(old.into_entries());
        }
        self.ledger.withheld.push(new);
        let all = self.withheld_deletes();
        if self.guard.logs(all) {
            tracing::error!(
                mirror = %self.mirror.name, target_name = %self.cfg.name, deletes = all,
                "{}", self.why_withheld().unwrap_or_default()
            );
        }
    }

    /// Lets an entry wait with the deletions of a place that lost nearly everything, if what was
    /// found would delete there.
    /// `missing`: the path that decides.
    pub(super) fn join_lost(&mut self, id: BatchId, entry: Entry, missing: &RelPath, found: Found) -> Option<Entry> {
        let holds = |w: &&mut Withheld| w.lost.as_ref().is_some_and(|lost| lost.holds(missing, found));
        let Some(withheld) = self.ledger.withheld.iter_mut().find(holds) else { return Some(entry) };
        self.ledger.set.park(id, std::slice::from_ref(&entry));
        if let Some(lost) = withheld.lost.as_mut().filter(|_| found == Found::Missing) {
            let before = lost.len();
            lost.add(missing);
            withheld.deletes += (lost.len() - before) as u64;
        }
        match withheld.joined.get_mut(&entry.path) {
            Some(old) => {
                old.kind = old.kind.max(entry.kind);
                old.gone |= entry.gone;
                old.content |= entry.content;
                old.through |= entry.through;
                self.ledger.forget(vec![entry]);
            }
            None => _ = withheld.joined.insert(entry.path.clone(), entry),
        }
        None
    }

    /// Judges what is withheld again, when its time has come.
    pub(super) fn judge_again(&mut self, cx: &mut Context<'_>) {
        let due: Vec<Withheld> = self.ledger.withheld.extract_if(.., |w| w.due <= cx.now).collect();
        for mut withheld in due {
            if let Some(lost) = &withheld.lost
                && !lost.is_back(cx.root)
            {
                withheld.due = cx.now + JUDGE_LOST;
                self.ledger.withheld.push(withheld);
                continue;
            }
            if !self.has_room(Lane::Bulk) {
                self.ledger.withheld.push(withheld); // at the end of a run
                continue;
            }
            if let Some(batch) = self.ledger.set.take_again(withheld.into_entries().collect(), 0) {
                self.launch(cx, batch, Lane::Bulk);
            }
        }
    }

    /// A run has ended well that carried `entries`: what is withheld below them may be done with
    /// it, and is judged at once.
    pub(super) fn judge_covered(&mut self, entries: &[Entry]) {
        if self.ledger.withheld.is_empty() {
            return;
        }
        let wide = Cover::new(entries.iter().filter(|e| e.kind > Kind::Entry).map(|e| &e.path));
        for withheld in self.ledger.withheld.iter_mut().filter(|w| w.entries().any(|e| wide.covers(&e.path))) {
            withheld.due = Duration::ZERO;
        }
    }

    pub(super) fn withheld_deletes(&self) -> u64 {
        self.ledger.withheld.iter().map(|w| w.deletes).sum()
    }

    /// Why deletions wait, and what to do.
    pub(super) fn why_withheld(&self) -> Option<String> {
        let first = self.ledger.withheld.first()?.entries.first()?;
        if let Some((withheld, lost)) = self.ledger.withheld.iter().find_map(|w| Some((w, w.lost.as_ref()?))) {
            let root = self.mirror.source.display();
            let at = if lost.at().is_root() { root.to_string() } else { format!("{root}/{}", lost.at()) };
            return Some(format!(
                "{} held: {at} lost nearly everything at one blow ({}), and all else goes on; if {} \
                 meant: fansync resume --accept-deletes",
                are(withheld.deletes, "deletion"),
                plural(lost.len() as u64, "name"),
                they_are(withheld.deletes),
            ));
        }
        let Some(limit) = self.limit() else {
            return Some(format!(
                "{} held: no run of this mirror has filled {}, and the first comparison would delete more than first_max_delete = {} \
                 of what it has; to see what: fansync mirror --dry-run {} {}; if {} meant: fansync resume --accept-deletes, \
                 or mirror --first-max-delete 100%",
                are(self.withheld_deletes(), "deletion"),
                self.cfg.location,
                self.mirror.first_max_delete,
                self.mirror.source.display(),
                self.cfg.location,
                they_are(self.withheld_deletes()),
            ));
        };
        Some(format!(
            "{} held, more than max_delete = {limit} allows at once (at {}); if {} meant: \
             fansync resume --accept-deletes",
            are(self.withheld_deletes(), "deletion"),
            first.path,
            they_are(self.withheld_deletes()),
        ))
    }

    /// Lets everything through that is pending now, deletions beyond every bound too. Returns how
    /// many were held.
    pub(crate) fn accept_deletes(&mut self, cx: &mut Context<'_>) -> u64 {
        let held = self.withheld_deletes();
        self.ledger.set.tick(cx.now);
        self.guard.accept(self.ledger.set.close_epoch());
        let counted = self.ledger.recount.take();
        for entry in std::mem::take(&mut self.ledger.withheld).into_iter().flat_map(Withheld::into_entries).chain(counted) {
            self.ledger.set.restore(entry);
        }
        self.schedule.pace.hurry();
        held
    }

    /// Forgets what was accepted once it is on the target.
    pub(super) fn spend_acceptance(&mut self) {
        self.guard.spend(|until| self.ledger.set.epochs().clear_until(until));
        if self.ledger.withheld.is_empty() && self.in_sync() {
            self.guard.rest();
        }
    }
}
