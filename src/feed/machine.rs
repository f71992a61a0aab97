//! A follower's position in the feed, what it owes, and what it pulls next. Pure: records, the ends
//! of runs and the time are arguments.
//!
//! Promises: the position is at a record only if everything up to it is held, but for paths that
//! are listed as failed; and whatever breaks the order of records (a gap, a stream that was set
//! back, another stream, another incarnation of the publisher, a record that is not understood)
//! becomes an owed comparison of the whole tree. [`Machine::saved`] is to be on the disk before the
//! position that it has counts.
//!
//! **Batches.** A batch is the state of its record's paths when that was made. It is applied in the
//! order of the records, and only where nothing at, above or below its paths is to be pulled or
//! failed, and no run pulls anything, or may have ended after the record was made: it would take
//! that back, be it the times of a directory above both. Otherwise, and where it fails, its paths
//! are pulled.
//!
//! **Climbing.** A follower cannot look at the source. Where directories above a listed path are
//! gone with it, rsync names the topmost of them, which takes the path's place; where it lies below
//! what is a file by now, what is above it does. At most as often as the tree is deep. Such a name
//! is listed as one that is gone. Where it is a directory here after that, it was there again, as
//! another one, and is compared whole.
//!
//! **What is not understood.** Of a run that failed and did not say at which paths, nothing is
//! held. Its paths go again in smaller parts, at last each by itself, so that the others arrive.
//! One that fails by itself gives way to its directory, as above, and that to the one above it:
//! whatever stands in the way (a directory above it is a link by now) is no matter for what is
//! above that. Where nothing comes of this for long, the whole tree is compared.

mod ended;
mod point;
mod pulled;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::moves::{Move, Moves, Thing};
use super::pending::{Need, Pending, Trust};
use super::record::{Batch, Identity, Item, Record, RecordError};
use crate::dirty::Kind;
use crate::path::{self, RelPath};

pub use point::Point;
use point::broken;
use pulled::Pulled;
pub use work::{Complaint, End, Failure, Work};

/// Tries of a path before it counts as failed.
const ROUNDS: u32 = 3;
/// Paths of one run.
const MOST: usize = 20_000;
/// Paths of one run that have failed so often, with others or by themselves.
const TOGETHER: [usize; ROUNDS as usize + 1] = [MOST, 200, 20, 1];
/// Runs in turn that failed, and did not say why, before the whole tree is compared.
const FRUITLESS: u32 = 60;

/// Batches that wait for their turn, and their bytes: with more of them pulling takes less time.
const QUEUE: usize = 32;
const QUEUE_BYTES: usize = 8 << 20;

/// What outlives the process.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Saved {
    /// Everything up to it is held, or `owed` says that it is not.
    pub position: Option<Point>,
    /// Why the whole tree is to be compared.
    pub owed: Option<String>,
    /// Paths that failed again and again, as bytes.
    pub failed: Vec<Vec<u8>>,
    /// Names that were given here and are not compared by content, as bytes, and whether it is to
    /// be a directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubted: Vec<(Vec<u8>, bool)>,
}

#[derive(Clone, Debug)]
enum Flight {
    Whole { owed: String },
    List(BTreeMap<RelPath, Need>),
    Batch { sequence: u64, items: Vec<Item> },
}

/// A batch that waits for its turn.
#[derive(Clone, Debug)]
struct Queued {
    sequence: u64,
    items: Vec<Item>,
    batch: Batch,
}

/// Whether one of these paths is at, above or below this one.
pub(super) fn touches<V>(paths: &BTreeMap<RelPath, V>, path: &RelPath) -> bool {
    let mut at: Option<&[u8]> = Some(path);
    while let Some(above) = at {
        if paths.contains_key(above) {
            return true;
        }
        at = path::parent(above);
    }
    if path.is_root() {
        return !paths.is_empty();
    }
    let from = [&path[..], b"/"].concat();
    let next = paths.range::<[u8], _>((Bound::Included(&from[..]), Bound::Unbounded)).next();
    next.is_some_and(|(below, _)| path::is_at_or_below(below, path))
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The last record that was read.
    read: Option<Point>,
    /// The last record up to which everything is held.
    confirmed: Option<Point>,
    /// Records behind it that were read.
    behind: VecDeque<Point>,
    owed: Option<String>,
    rounds: u32,
    /// Runs in turn of which nothing came.
    fruitless: u32,
    pending: Pending,
    moves: Moves,
    /// Nothing that is to be pulled or failed touches their paths.
    batches: VecDeque<Queued>,
    pulled: Pulled,
    /// Batches in whose place paths are pulled.
    passed_over: u64,
    flight: Option<Flight>,
    failed: BTreeMap<RelPath, Failure>,
    held: bool,
    identity: Option<Identity>,
    max_pending: usize,
    /// Between two tries of a path that failed.
    pause: Duration,
}

impl Machine {
    /// Where an earlier process left off. Beyond `max_pending` paths the whole tree stands for
    /// them; failed paths are tried again after `pause`.
    pub fn new(saved: Option<Saved>, max_pending: usize, pause: Duration) -> Machine {
        let saved = saved.unwrap_or_else(|| Saved { owed: Some("nothing was pulled before".into()), ..Saved::default() });
        let failed = saved.failed.iter().filter_map(|path| {
            let need = Need::compare(Kind::Subtree, u64::MAX, 0);
            Some((RelPath::new(path)?, Failure { need, words: "failed before the restart".into(), due: Duration::ZERO }))
        });
        let thing = |directory| if directory { Thing::Directory } else { Thing::File };
        let doubted = saved.doubted.iter().filter_map(|(path, directory)| Some((RelPath::new(path)?, thing(*directory))));
        let moves = Moves::of(doubted);
        let owed = match saved.position {
            None => saved.owed.or(Some("the position is not known".into())),
            Some(_) => saved.owed,
        };
        let mut pending = Pending::default();
        let next = saved.position.map_or(0, |position| position.sequence + 1);
        // A comparison of the whole tree finds out first what is there.
        if owed.is_none() {
            moves.doubted().for_each(|(path, thing)| pending.restore(path.clone(), Need::moved(thing, next)));
        }
        Machine {
            read: saved.position,
            confirmed: saved.position.filter(|_| owed.is_none()),
            behind: VecDeque::new(),
            owed,
            rounds: 0,
            fruitless: 0,
            pending,
            moves,
            batches: VecDeque::new(),
            pulled: Pulled::all(),
            passed_over: 0,
            flight: None,
            failed: failed.collect(),
            held: false,
            identity: None,
            max_pending,
            pause,
        }
    }

    /// The last record that was read.
    pub fn read(&self) -> Option<Point> {
        self.read
    }

    /// The last record up to which everything is held; `None` while a comparison is owed.
    pub fn position(&self) -> Option<Point> {
        self.confirmed.filter(|_| !self.owes())
    }

    /// The same as a number of the stream as it is now: one that was made anew, or set back, begins
    /// before what was held of the old one.
    pub(crate) fn held(&self) -> Option<u64> {
        let (held, read) = (self.position()?, self.read?);
        (held.sequence <= read.sequence && self.is_known(&held, &read)).then_some(held.sequence)
    }

    /// Whether a comparison of the whole tree is owed, or under way.
    pub fn owes(&self) -> bool {
        self.owed.is_some() || matches!(self.flight, Some(Flight::Whole { .. }))
    }

    /// Why it is.
    pub fn why_owed(&self) -> Option<&str> {
        match (&self.owed, &self.flight) {
            (Some(why), _) | (None, Some(Flight::Whole { owed: why })) => Some(why),
            _ => None,
        }
    }

    /// The source is held: nothing is to be pulled.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// The tree that the records are of; `None` before the first one.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Paths that are to be pulled, those under way left aside.
    pub fn pending(&self) -> &Pending {
        &self.pending
    }

    /// How many paths are under way.
    pub fn in_flight(&self) -> usize {
        match &self.flight {
            None => 0,
            Some(Flight::Whole { .. }) => 1,
            Some(Flight::List(paths)) => paths.len(),
            Some(Flight::Batch { items, .. }) => items.len(),
        }
    }

    /// Paths whose state waits to be applied.
    pub fn queued(&self) -> usize {
        self.batches.iter().map(|queued| queued.items.len()).sum()
    }

    /// The record whose batch is being applied, or waits to be, with something about this path.
    pub fn batch_about(&self, touches: impl Fn(&RelPath) -> bool) -> Option<u64> {
        let about = |items: &[Item]| items.iter().any(|item| touches(&item.path));
        let flying = match &self.flight {
            Some(Flight::Batch { sequence, items }) if about(items) => Some(*sequence),
            _ => None,
        };
        flying.or_else(|| self.batches.iter().find(|queued| about(&queued.items)).map(|queued| queued.sequence))
    }

    /// Whether something that is to be pulled or applied, or is under way, may concern this path.
    pub fn is_about(&self, path: &RelPath) -> bool {
        let near = |other: &RelPath| path::is_at_or_below(path, other) || path::is_at_or_below(other, path);
        let flies = matches!(&self.flight, Some(Flight::List(paths)) if touches(paths, path));
        self.owes() || flies || self.pending.touches(path) || self.batch_about(near).is_some()
    }

    /// Whether it, or something above or below it, failed again and again.
    pub fn fails_at(&self, path: &RelPath) -> bool {
        touches(&self.failed, path)
    }

    /// Batches that came to nothing, as something else concerned their paths.
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// Paths that failed again and again.
    pub fn failed(&self) -> &BTreeMap<RelPath, Failure> {
        &self.failed
    }

    /// How many runs in turn came to nothing.
    pub fn fruitless(&self) -> u32 {
        self.fruitless
    }

    /// How many paths failed again and again, with those of them that are tried just now: none of
    /// them is in the position.
    pub fn failing(&self) -> usize {
        self.failed.len() + self.tried_again().count()
    }

    /// Those that are tried just now.
    fn tried_again(&self) -> impl Iterator<Item = &RelPath> {
        let flying = match &self.flight {
            Some(Flight::List(paths)) => Some(paths.iter()),
            Some(Flight::Whole { .. } | Flight::Batch { .. }) | None => None,
        };
        let all = flying.into_iter().flatten().chain(self.pending.iter());
        all.filter(|(_, need)| need.sequence == u64::MAX).map(|(path, _)| path)
    }

    /// Tries them at once.
    pub fn retry(&mut self) {
        self.failed.values_mut().for_each(|failure| failure.due = Duration::ZERO);
    }

    /// What is to be on the disk.
    pub fn saved(&self) -> Saved {
        let owed = self.why_owed().map(str::to_owned);
        let position = if owed.is_some() { self.read } else { self.confirmed };
        let failed = self.failed.keys().chain(self.tried_again()).map(|path| path.to_vec()).collect();
        let doubted = self.moves.doubted().map(|(path, thing)| (path.to_vec(), thing == Thing::Directory)).collect();
        Saved { position, owed, failed, doubted }
    }

    /// Whether everything that was read is held.
    pub fn in_sync(&self) -> bool {
        !self.owes() && self.pending.is_empty() && self.batches.is_empty() && self.flight.is_none() && self.failed.is_empty()
    }

    // ----- records -----

    /// Takes in the message with this sequence of the stream.
    pub fn record(&mut self, sequence: u64, record: Result<Record, RecordError>) {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                if self.read.is_none_or(|read| sequence > read.sequence) {
                    // The next one continues nothing either.
                    self.read = Some(Point { sequence, ..Point::default() });
                    self.owe(format!("record {sequence} is not understood: {error}"));
                }
                return;
            }
        };
        let point = Point::of(sequence, &record);
        match self.read {
            Some(read) if read.is_followed_by(&point) => {}
            Some(read) if point.sequence <= read.sequence && self.is_known(&point, &read) => return,
            Some(read) => {
                self.pulled.forget_clock();
                self.owe(broken(&read, &point));
            }
            None => self.owe("the position is not known".into()),
        }
        self.pulled.learn(sequence, record.batch.as_ref());
        let same_tree = self.identity.is_some_and(|known| known == record.identity);
        self.learn(point, &record);
        self.behind.push_back(point);
        if record.everything {
            self.owe("the source published everything".into());
        }
        if self.owed.is_none() {
            let Record { entries: items, batch, .. } = record;
            match batch {
                Some(batch) if same_tree && self.may_apply(&items, &batch) => {
                    self.batches.push_back(Queued { sequence, items, batch });
                }
                batch => {
                    self.passed_over += u64::from(batch.is_some() && !items.is_empty());
                    self.pull(&items, sequence);
                    items.iter().filter(|_| same_tree).for_each(|item| self.moves.see(item, sequence));
                }
            }
        }
        if self.pending.len() > self.max_pending {
            self.owe(format!("more waits than {}", crate::text::plural(self.max_pending as u64, "path")));
        }
        self.advance();
    }

    /// Looks at what the stream ends with. `true`: the stream is not what it was, and reading goes
    /// on behind this record.
    pub fn end(&mut self, sequence: u64, record: Result<Record, RecordError>) -> bool {
        let Some(read) = self.read else { return false };
        let Ok(record) = record else { return false };
        let point = Point::of(sequence, &record);
        if point == read {
            // A process just started knows neither the tree nor whether the source is held.
            self.learn(point, &record);
            return false;
        }
        if point.sequence > read.sequence {
            return false;
        }
        self.owe(broken(&read, &point));
        self.learn(point, &record);
        self.behind.push_back(point);
        true
    }

    /// The stream ended with this record when it was looked at, which began at that time. So what
    /// comes behind it was stored later.
    pub fn looked(&mut self, began: Duration, end: u64) {
        self.pulled.looked(began, end);
    }

    /// Whether the state in a record may be applied.
    fn may_apply(&self, items: &[Item], batch: &Batch) -> bool {
        let bytes: usize = self.batches.iter().map(|queued| queued.batch.bytes.len()).sum();
        if items.is_empty() || self.held || self.batches.len() >= QUEUE || bytes + batch.bytes.len() > QUEUE_BYTES {
            return false;
        }
        // A run sets the times of all directories above its paths, and those of the top are above
        // each path: an older state of these would come behind a newer one.
        if matches!(self.flight, Some(Flight::Whole { .. } | Flight::List(_))) || !self.pulled.is_empty() {
            return false;
        }
        let (pending, failed) = (&self.pending, &self.failed);
        !items.iter().map(|item| &item.path).any(|path| pending.touches(path) || touches(failed, path))
    }

    /// What is to be pulled, newer than all that was read before.
    fn pull(&mut self, items: &[Item], sequence: u64) {
        // Batches that concern none of it are not worth the search.
        let touched = |queued: &Queued| {
            let paths: BTreeMap<RelPath, ()> = queued.items.iter().map(|item| (item.path.clone(), ())).collect();
            items.iter().any(|item| touches(&paths, &item.path))
        };
        if self.batches.iter().any(touched) {
            self.pull_batches();
        }
        for item in items {
            if item.gone || !item.directory {
                // It is another one now, and nothing is below it.
                if let Some(Failure { mut need, .. }) = self.failed.remove(&item.path) {
                    (need.sequence, need.round) = (sequence, 0);
                    self.pending.restore(item.path.clone(), need);
                }
                self.failed.retain(|path, _| !path::is_at_or_below(path, &item.path));
            }
            self.pending.see(item, sequence);
        }
    }

    /// What waits to be applied is pulled.
    fn pull_batches(&mut self) {
        for Queued { sequence, items, .. } in std::mem::take(&mut self.batches) {
            self.passed_over += 1;
            items.iter().for_each(|item| self.pending.see(item, sequence));
        }
    }

    fn learn(&mut self, point: Point, record: &Record) {
        (self.read, self.held) = (Some(point), record.held);
        // A publisher that has looked at no source yet knows none.
        if record.identity != Identity::default() {
            self.identity = Some(record.identity);
        }
    }

    /// Whether a record that comes again is one of those that were read.
    fn is_known(&self, point: &Point, read: &Point) -> bool {
        let back = read.sequence - point.sequence;
        (point.stream, point.incarnation) == (read.stream, read.incarnation)
            && point.number.checked_add(back) == Some(read.number)
    }

    /// The whole tree is to be compared, from here on.
    pub fn owe(&mut self, why: String) {
        self.pending.clear();
        self.moves.forget();
        self.batches.clear();
        self.behind.clear();
        self.behind.extend(self.read);
        self.owed.get_or_insert(why);
    }

    // ----- renames -----

    /// The next name that is to be given here, before the next run. Not while one is under way.
    pub fn next_move(&mut self) -> Option<Move> {
        match self.flight {
            None if !self.held && self.owed.is_none() => self.moves.next(),
            _ => None,
        }
    }

    /// This is about to get its new name. [`Machine::saved`] is to be on the disk before it does,
    /// and [`Machine::end_move`] or [`Machine::not_moved`] to follow. `false`: it is not to get it,
    /// as something that had that name is still to be compared.
    pub fn begin_move(&mut self, given: &Move, thing: Thing) -> bool {
        self.moves.doubt(&given.to, thing)
    }

    /// It has its new name, and is to be compared by content.
    pub fn end_move(&mut self, given: Move, thing: Thing) {
        let paths: BTreeMap<RelPath, ()> = [(given.to.clone(), ())].into();
        if self.batches.iter().any(|queued| queued.items.iter().any(|item| touches(&paths, &item.path))) {
            self.pull_batches();
        }
        self.pending.restore(given.to, Need::moved(thing, given.sequence));
    }

    /// It has not.
    pub fn not_moved(&mut self, given: &Move) {
        self.moves.trust(&given.to);
    }

    /// What was given a name here, and is not compared by content yet, is to be.
    fn doubt_again(&mut self, doubted: Vec<(RelPath, Thing)>, sequence: u64) {
        for (path, thing) in doubted {
            self.pending.restore(path, Need::moved(thing, sequence));
        }
    }

    /// The whole tree was compared by size and times.
    fn doubt_all(&mut self) {
        let next = self.behind.front().or(self.read.as_ref()).map_or(0, |point| point.sequence);
        let doubted = self.moves.doubted().map(|(path, thing)| (path.clone(), thing)).collect();
        self.doubt_again(doubted, next);
    }

    // ----- runs -----

    /// The next run, if there is one; its end goes to [`Machine::ended`]. Not while another one is
    /// under way, nor while the source is held.
    pub fn take(&mut self, now: Duration) -> Option<Work> {
        if self.flight.is_some() || self.held {
            return None;
        }
        if let Some(owed) = self.owed.take() {
            self.flight = Some(Flight::Whole { owed });
            return Some(Work::Whole);
        }
        let oldest = self.pending.oldest().unwrap_or(u64::MAX);
        if self.batches.front().is_some_and(|queued| queued.sequence < oldest) {
            return self.take_batch();
        }
        // What failed before goes by itself, and what is compared whole after what is listed.
        let trusts = [Trust::SizeAndTimes, Trust::Nothing, Trust::Content];
        let manners = [false, true].into_iter().flat_map(|deep| trusts.map(|trust| (deep, trust)));
        let manners = manners.collect::<Vec<_>>();
        for (again, (deep, trust)) in [false, true].into_iter().flat_map(|again| manners.iter().map(move |m| (again, *m))) {
            let fits = |need: &Need| (need.round > 0, need.kind == Kind::Subtree, need.trust) == (again, deep, trust);
            // One path that fails again must not fail others.
            let tries = |need: &Need| need.round.min(ROUNDS);
            let rounds =
                if again { self.pending.iter().map(|(_, need)| need).filter(|n| fits(n)).map(tries).min() } else { Some(0) };
            let Some(rounds) = rounds else { continue };
            let taken = self.pending.take(TOGETHER[rounds as usize], |need| fits(need) && tries(need) == rounds);
            if !taken.is_empty() {
                return Some(self.leave(deep, trust, taken));
            }
        }
        let (path, _) = self.failed.iter().find(|(_, failure)| failure.due <= now)?;
        let path = path.clone();
        let mut need = self.failed.remove(&path)?.need;
        need.round = ROUNDS;
        Some(self.leave(need.kind == Kind::Subtree, need.trust, vec![(path, need)]))
    }

    /// Whether [`Machine::take`] has something.
    pub fn has_work(&self, now: Duration) -> bool {
        let waits = self.owed.is_some()
            || self.moves.wait()
            || !self.pending.is_empty()
            || !self.batches.is_empty()
            || self.failed.values().any(|failure| failure.due <= now);
        waits && self.flight.is_none() && !self.held
    }

    /// The next batch, as [`Machine::take`]: for when nothing can be pulled.
    pub fn take_batch(&mut self) -> Option<Work> {
        if self.flight.is_some() || self.held || self.owed.is_some() {
            return None;
        }
        let Queued { sequence, items, batch } = self.batches.pop_front()?;
        let contents = items.iter().any(|item| item.kind == Kind::Contents);
        let gone = items.iter().filter(|item| item.gone).count();
        self.flight = Some(Flight::Batch { sequence, items });
        Some(Work::Batch { batch, contents, gone })
    }

    /// When [`Machine::take`] has something that it does not have now.
    pub fn next_due(&self) -> Option<Duration> {
        self.failed.values().map(|failure| failure.due).min().filter(|_| self.flight.is_none() && !self.held)
    }

    fn leave(&mut self, deep: bool, trust: Trust, taken: Vec<(RelPath, Need)>) -> Work {
        // As in `may_apply`: they would come behind it.
        self.pull_batches();
        let paths = taken.iter().map(|(path, need)| (path.clone(), need.kind)).collect();
        let gone = taken.iter().filter(|(_, need)| need.gone).count();
        let deletes = taken.iter().any(|(_, need)| need.deletes());
        self.flight = Some(Flight::List(taken.into_iter().collect()));
        Work::List { deep, trust, paths, gone, deletes }
    }

    /// The run has ended. `true`: there was progress, and the next one need not wait. `is_dir`:
    /// Moves the position as far as everything is held.
    fn advance(&mut self) {
        if self.owes() {
            return;
        }
        let flying = match &self.flight {
            Some(Flight::List(paths)) => paths.values().map(|need| need.sequence).min(),
            Some(Flight::Batch { sequence, .. }) => Some(*sequence),
            Some(Flight::Whole { .. }) | None => None,
        };
        let queued = self.batches.front().map(|queued| queued.sequence);
        let open = self.pending.oldest().into_iter().chain(flying).chain(queued).min().unwrap_or(u64::MAX);
        while let Some(point) = self.behind.front().copied().filter(|point| point.sequence < open) {
            self.confirmed = Some(point);
            self.behind.pop_front();
        }
    }
}

#[cfg(test)]
mod batch_tests;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod moves_tests;
#[cfg(test)]
mod tests;
