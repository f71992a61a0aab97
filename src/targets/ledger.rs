//! What a target lacks: the one account of every path that it does not hold for certain, and why.
//!
//! Promises: a path that the target lacks stands in exactly one place here, from its first change
//! until it is confirmed or turns out to be needless. [`Ledger::why`] names the place, and is
//! `None` for the whole tree exactly when nothing is counted and nothing is in doubt.
//!
//! How: the dirty set holds what is pending and what is in flight. All else is *parked*: taken out
//! of the set, and counted in its epochs still. Each kind of parked entry has a field, since each
//! goes on at another time: at a retry, at the end of a walk, when a bound is lifted.
//! [`Ledger::parked`] is all of them.
//!
//! What a receiver did not answer for is not counted: it was sent once more, so a flush need not
//! wait. It is in doubt, for the receiver may yet carry out what it got before.

#[cfg(test)]
pub(super) mod tests;

use std::ops::Bound;

use super::*;
use crate::dirty::{Epochs, ListedTo};
use crate::sync::output::Failed;

/// Where a change is that the target lacks. In the order in which they are named where there are
/// several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Where {
    /// It fails by itself.
    Failed,
    /// Its directory holds paths that rsync cannot be given.
    Long,
    /// A deletion that is held for an administrator.
    Withheld,
    /// At a place that is left alone.
    Shelved,
    /// A run carries it.
    Flying,
    /// In the dirty set.
    Pending,
    /// It waits for its next round.
    Again,
    /// It waits for the lane of large files.
    Large,
    /// It waits for other names of its file, or for their removal.
    Links,
    /// It has left. Other names of its file, or names in it, are sought on its behalf.
    Names,
    /// It is sent once more after a run that may undo it.
    After,
    /// The whole tree, to be counted once more.
    Recount,
    /// A receiver that did not answer may yet change it.
    Unanswered,
}

/// How much of a path a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The path, by itself or as a part of a directory that waits with all that is in it.
    Itself,
    /// The same, and the directories above it, which may not be there yet. The root is.
    At,
    /// As `Itself`, and all that is below the path.
    Below,
}

/// An entry outside of the dirty set, as far as questions go.
#[derive(Clone, Copy)]
pub(super) struct Parked<'l> {
    pub(super) place: Where,
    pub(super) path: &'l RelPath,
    pub(super) kind: Kind,
    gone: bool,
    /// See [`Entry::content`].
    content: bool,
    /// `None` where it is not counted.
    pub(super) since: Option<Epoch>,
}

impl<'l> Parked<'l> {
    fn of(place: Where, entry: &'l Entry) -> Parked<'l> {
        let Entry { path, kind, gone, content, .. } = entry;
        Parked { place, path, kind: *kind, gone: *gone, content: *content, since: Some(entry.epoch()) }
    }

    /// It stands for what is below it, too.
    fn is_whole(&self) -> bool {
        self.kind > Kind::Entry || self.gone
    }

    fn meets(&self, path: &[u8], reach: Reach) -> bool {
        if path::is_at_or_below(path, self.path) {
            let whole = **self.path == *path || self.is_whole();
            return whole || reach == Reach::At && !self.path.is_root();
        }
        reach == Reach::Below && path::is_at_or_below(self.path, path)
    }
}

/// Up to where a search for files that were written came, in each place. What waits in one from
/// the beginning to the end is met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(super) flying: Option<RelPath>,
    parked: Option<RelPath>,
    set: ListedTo,
}

/// The next of `items` behind `reached` by path: `most`, and what else there is of the last path.
/// `reached` becomes that path, and `None` where nothing follows. O(items).
pub(super) fn next_by_path<'l>(
    items: impl Iterator<Item = (&'l RelPath, Option<Epoch>)>,
    reached: &mut Option<RelPath>,
    most: usize,
) -> Vec<(RelPath, Option<Epoch>)> {
    let mut next: Vec<_> = items.filter(|(path, _)| reached.as_ref().is_none_or(|reached| *path > reached)).collect();
    *reached = None;
    if next.len() > most {
        let (_, &mut (last, _), _) = next.select_nth_unstable_by_key(most.saturating_sub(1), |(path, _)| *path);
        next.retain(|(path, _)| *path <= last);
        *reached = Some(last.clone());
    }
    next.into_iter().map(|(path, since)| (path.clone(), since)).collect()
}

/// What runs carried that the target did not answer.
pub(super) struct Unanswered {
    /// When it is checked again.
    pub(super) due: Duration,
    /// The epoch of the oldest change among it: until it was checked, that is not known to be on
    /// the target.
    pub(super) since: Epoch,
    pub(super) carried: Vec<(RelPath, Kind)>,
}

/// See the module's text.
pub(super) struct Ledger {
    pub(super) set: DirtySet,
    pub(super) retries: Retries,
    pub(super) long: long::LongPaths,
    pub(super) large: LargeFiles,
    pub(super) linking: linked::Linking,
    /// Changed files whose other names are sought.
    pub(super) sought: names::Sought,
    /// Places that are left alone.
    pub(super) shelf: apart::Shelf,
    /// Deletions that wait for an administrator.
    pub(super) withheld: Vec<guarded::Withheld>,
    pub(super) recount: recount::Recount,
    /// What went through beside a run that may have undone it, by the run's batch.
    after: BTreeMap<BatchId, Vec<Entry>>,
    pub(super) unanswered: Vec<Unanswered>,
    /// The target's directory was not there: what comes back in its place may hold nothing of what
    /// was sent before.
    pub(super) suspect: bool,
    /// Hooks wait for what is confirmed here, so for what turns out to be needless, too.
    pub(super) delivered: bool,
    /// What did.
    pub(super) forgotten: Vec<RelPath>,
}

impl Ledger {
    /// `failed`: the pauses of what fails by itself.
    pub(super) fn new(max_pending: usize, failed: Backoff) -> Ledger {
        Ledger {
            set: DirtySet::new(max_pending),
            retries: Retries::new(failed),
            long: long::LongPaths::new(failed),
            large: LargeFiles::default(),
            linking: Default::default(),
            sought: Default::default(),
            shelf: Default::default(),
            withheld: Vec::new(),
            recount: Default::default(),
            after: BTreeMap::new(),
            unanswered: Vec::new(),
            suspect: false,
            delivered: false,
            forgotten: Vec::new(),
        }
    }

    // ----- questions -----

    /// What is parked and goes on by itself, at the end of a run or a walk at the latest.
    fn moving(&self) -> impl Iterator<Item = Parked<'_>> {
        let large = self.large.entries().map(|e| (Where::Large, e));
        let names = self.sought.entries().map(|e| (Where::Names, e));
        let after = self.after.values().flatten().map(|e| (Where::After, e));
        let recount = self.recount.entries().iter().map(|e| (Where::Recount, e));
        let rounds = self.retries.rounds().map(|e| (Where::Again, e));
        let all = rounds.chain(large).chain(self.linking.places()).chain(names).chain(after).chain(recount);
        all.map(|(place, entry)| Parked::of(place, entry))
    }

    /// Everything outside of the dirty set but paths that are too long ([`long`]), in no useful
    /// order.
    pub(super) fn parked(&self) -> impl Iterator<Item = Parked<'_>> {
        let unanswered = self.unanswered.iter().flat_map(|u| &u.carried).map(|(path, kind)| {
            // A deletion among it may have stood for a directory.
            Parked { place: Where::Unanswered, path, kind: *kind, gone: true, content: true, since: None }
        });
        let failures = self.retries.failures().filter(|f| !f.entry.is_taken()).map(|f| (Where::Failed, &f.entry));
        let withheld = self.withheld.iter().flat_map(guarded::Withheld::entries).map(|e| (Where::Withheld, e));
        let shelved = self.shelf.entries().map(|e| (Where::Shelved, e));
        let resting = failures.chain(withheld).chain(shelved).map(|(place, entry)| Parked::of(place, entry));
        self.moving().chain(resting).chain(unanswered)
    }

    /// What is parked and has to do with `path`: the first place by [`Where`]. O(what is parked).
    pub(super) fn parked_at(&self, path: &[u8], reach: Reach, but: &[Where]) -> Option<Parked<'_>> {
        self.parked().filter(|p| !but.contains(&p.place) && p.meets(path, reach)).min_by_key(|p| p.place)
    }

    /// Why the target may lack something of `path`; `None` where it holds all that is known here.
    /// `but`: places that do not count; what flies is pending then.
    pub(super) fn why(&self, path: &[u8], reach: Reach, but: &[Where]) -> Option<Where> {
        let parked = self.parked_at(path, reach, but).map(|p| p.place);
        first(parked.into_iter().chain(self.elsewhere(path, reach)), but)
    }

    /// The same of what is not parked.
    fn elsewhere(&self, path: &[u8], reach: Reach) -> impl Iterator<Item = Where> {
        let long = self.long.of(path).is_some() || reach == Reach::Below && self.long.has_below(path);
        let (flying, pending) = match reach {
            Reach::Itself => (self.set.flies(path), self.set.pending_at(path).is_some()),
            Reach::At => (self.set.flies(path), self.set.owes(path)),
            Reach::Below => (self.set.flies(path), self.set.owes(path) || self.set.owes_in(path)),
        };
        let all = [(long, Where::Long), (flying, Where::Flying), (pending, Where::Pending)];
        all.into_iter().filter(|(is, _)| *is).map(|(_, place)| place)
    }

    /// For queries about many paths.
    pub(super) fn index(&self) -> Index<'_> {
        let mut parked: BTreeMap<&[u8], Places> = BTreeMap::new();
        for p in self.parked() {
            let places = parked.entry(p.path).or_default();
            places.own |= p.place.bit();
            places.whole |= if p.is_whole() { p.place.bit() } else { 0 };
        }
        Index { ledger: self, parked }
    }

    /// The next files behind `reached` that were written and are not confirmed, at most `most` of
    /// each place, with when they became dirty, where that is known. What flies is not among them.
    pub(super) fn written(&self, reached: &mut Reached, most: usize) -> Vec<(RelPath, Option<Epoch>)> {
        let parked = self.parked().filter(|p| p.content && p.kind == Kind::Entry && !(p.gone && p.since.is_some()));
        let mut found = next_by_path(parked.map(|p| (p.path, p.since)), &mut reached.parked, most);
        found.extend(self.set.written(&mut reached.set, most));
        found
    }

    /// Ages of everything that is counted.
    pub(super) fn epochs(&self) -> &Epochs {
        self.set.epochs()
    }

    /// Paths that are not confirmed.
    pub(super) fn total(&self) -> usize {
        self.epochs().total()
    }

    /// Whether nothing is counted.
    pub(super) fn in_sync(&self) -> bool {
        self.total() == 0
    }

    /// Whether the target may have lost what it had, or may yet overwrite it: it is not known what
    /// it holds.
    pub(super) fn in_doubt(&self) -> bool {
        self.suspect || !self.unanswered.is_empty()
    }

    /// Whether something waits that goes on by itself, outside of runs. Not what keeps failing, or
    /// is held.
    pub(super) fn goes_on(&self) -> bool {
        self.set.pending() > 0 || self.moving().next().is_some()
    }

    /// How many paths keep failing.
    pub(super) fn failing(&self) -> usize {
        self.retries.failures().len() + self.long.len()
    }

    /// Whether something waits for an administrator, or for what is not there.
    pub(super) fn is_held(&self) -> bool {
        !self.withheld.is_empty() || !self.shelf.is_empty()
    }

    // ----- from place to place -----

    /// Makes a batch pending again.
    pub(super) fn give_back(&mut self, batch: Batch) {
        self.set.park(batch.id, &batch.entries);
        batch.entries.into_iter().for_each(|e| self.set.restore(e));
    }

    /// A batch failed, in part at least: it is tried again in its next round.
    pub(super) fn retry(&mut self, now: Duration, batch: Batch, named: &[Failed], reason: &str) {
        self.set.park(batch.id, &batch.entries);
        self.retries.failed(now, batch.entries, batch.round, named, reason, fastrand::f64());
    }

    /// What failed before under a path of a batch that leaves goes with it: apart, each would be in
    /// the way of the other.
    pub(super) fn take_along(&mut self, batch: &mut Batch) {
        for entry in &mut batch.entries {
            for waiting in self.retries.take_same(entry) {
                self.set.take_in_flight(entry, waiting);
            }
        }
    }

    /// Makes an entry of a batch pending again, with its new kind.
    pub(super) fn turn(&mut self, id: BatchId, entry: Entry) {
        self.set.park(id, std::slice::from_ref(&entry));
        self.set.restore(entry);
    }

    /// Parked entries turned out to be needless.
    pub(super) fn forget(&mut self, entries: Vec<Entry>) {
        if self.delivered {
            self.forgotten.extend(entries.iter().map(|e| e.path.clone()));
        }
        self.set.forget(entries);
    }

    /// Failures whose attempt ended without a word about them are tried again: an entry can become
    /// needless as another one, and nothing has confirmed the failure. Not while runs go on.
    pub(super) fn try_lost_again(&mut self, now: Duration) {
        let lost = self.retries.tried().map(|failure| &failure.entry).filter(|e| self.why(&e.path, Reach::At, &[]).is_none());
        let lost: Vec<Entry> = lost.cloned().collect();
        let since = self.set.epochs().current();
        for old in lost {
            tracing::debug!(path = %old.path, "the attempt for a failing path ended without a word about it; it is tried again");
            let mut again = self.set.parked(old.path, since);
            (again.kind, again.gone, again.content) = (old.kind, old.gone, old.content);
            self.retries.try_again(now, again);
        }
    }

    /// `entry` is to be sent once more after the run that carries batch `id`.
    pub(super) fn send_after(&mut self, id: BatchId, entry: Entry) {
        self.after.entry(id).or_default().push(entry);
    }

    /// What is sent once more after that run.
    pub(super) fn sent_after(&self, id: BatchId) -> &[Entry] {
        self.after.get(&id).map_or(&[], Vec::as_slice)
    }

    /// That run has ended.
    pub(super) fn landed(&mut self, id: BatchId) {
        self.after.remove(&id).into_iter().flatten().for_each(|e| self.set.restore(e));
    }

    /// What the target did not answer becomes dirty again when its time has come, as old as it was:
    /// no watermark may pass it before. Returns whether something did.
    pub(super) fn look_again_at_unanswered(&mut self, now: Duration) -> bool {
        let due: Vec<Unanswered> = self.unanswered.extract_if(.., |u| u.due <= now).collect();
        for (since, (path, kind)) in due.iter().flat_map(|u| u.carried.iter().map(|carried| (u.since, carried))) {
            let seen = match kind {
                Kind::Entry => Seen::Touched,
                Kind::Contents => Seen::Contents,
                Kind::Subtree => Seen::Subtree,
            };
            self.set.see_since(path, seen, since);
        }
        !due.is_empty()
    }
}

impl Where {
    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The first of some places.
fn first(places: impl Iterator<Item = Where>, but: &[Where]) -> Option<Where> {
    places.filter(|place| !but.contains(place)).min()
}

/// Where entries of one path are, as bits of [`Where`].
#[derive(Clone, Copy, Default)]
struct Places {
    own: u16,
    /// Those that stand for what is below, too.
    whole: u16,
}

/// [`Ledger::why`] for many paths: O(what is parked) to make, O(depth) a query.
pub(super) struct Index<'l> {
    ledger: &'l Ledger,
    parked: BTreeMap<&'l [u8], Places>,
}

impl Index<'_> {
    /// As [`Ledger::why`].
    pub(super) fn why(&self, path: &[u8], reach: Reach, but: &[Where]) -> Option<Where> {
        let left_out = but.iter().fold(0, |bits, place| bits | place.bit());
        let bits = self.bits(path, reach) & !left_out;
        let parked = ALL.into_iter().find(|place| bits & place.bit() != 0);
        first(parked.into_iter().chain(self.ledger.elsewhere(path, reach)), but)
    }

    /// Whether an entry of this very path is parked there.
    pub(super) fn is_at(&self, path: &[u8], place: Where) -> bool {
        self.parked.get(path).is_some_and(|places| places.own & place.bit() != 0)
    }

    /// Whether all that the target had may be gone.
    pub(super) fn may_lack_all(&self) -> bool {
        self.ledger.suspect
    }

    fn bits(&self, path: &[u8], reach: Reach) -> u16 {
        if self.parked.is_empty() {
            return 0;
        }
        let mut bits = self.parked.get(path).map_or(0, |places| places.own);
        for at in std::iter::successors(path::parent(path), |at| path::parent(at)) {
            let any = reach == Reach::At && !at.is_empty();
            bits |= self.parked.get(at).map_or(0, |places| if any { places.own } else { places.whole });
        }
        if reach == Reach::Below {
            // Names that go on with a byte before `/` lie between a directory and what is in it.
            let from = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
            let below = self
                .parked
                .range::<[u8], _>((Bound::Included(&*from), Bound::Unbounded))
                .take_while(|(at, _)| at.starts_with(&from));
            bits |= below.fold(0, |bits, (_, places)| bits | places.own);
        }
        bits
    }
}

/// In their order.
const ALL: [Where; 13] = {
    use Where::*;
    [Failed, Long, Withheld, Shelved, Flying, Pending, Again, Large, Links, Names, After, Recount, Unanswered]
};
