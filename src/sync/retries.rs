//! Paths that did not go through: when they are tried again, together with which others, and when
//! one is called a failure.
//!
//! A batch that fails in part is run again whole, twice, because nearly every failure is the source
//! changing under rsync. After that it is split: by the paths that rsync's messages named, else in
//! halves, until a failing path stands alone. Such a path is a *failure*: listed with its reason,
//! tried again with growing pauses, and nothing else waits for it. Of very many, directories stand
//! for what fails in them (`fewer`).
//!
//! A round belongs to a path, not to a batch: a path that changes while it fails leaves again as a
//! new one, and may have to wait behind its own last attempt. It goes on in the round that it had,
//! so that its attempts come to an end and its pauses grow.
//!
//! Pure: time is an argument (since the daemon's start), jitter too.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fewer;
use super::output::Failed;
use super::output::Words;
use crate::cover::Cover;
use crate::dirty::{BatchId, Entry, Kind};
use crate::path::{self, RelPath};
use crate::text::plural;

/// Rounds that a batch is run whole before it is split.
pub(crate) const WHOLE_ROUNDS: u32 = 3;
/// The pause before a batch's second round; grows fourfold with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The rounds of so many paths are known; of more, all begin anew.
const MOST_ROUNDS: usize = 100_000;

/// Pauses that double from `min` to `max`, each shortened at random by up to a half, so that many
/// clients of one server do not come at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// The first pause.
    pub(crate) min: Duration,
    /// The longest.
    pub(crate) max: Duration,
}

impl Backoff {
    /// The pause after `tries` failures (1 for the first). `jitter`: in `[0, 1)`.
    pub(crate) fn pause(&self, tries: u32, jitter: f64) -> Duration {
        let full = self.min.saturating_mul(1 << tries.saturating_sub(1).min(24)).min(self.max);
        full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }
}

/// A path that fails alone.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is to be sent.
    pub(crate) entry: Entry,
    /// rsync's words.
    pub(crate) reason: String,
    /// Failed attempts.
    pub(crate) tries: u32,
    /// When it is tried next.
    pub(crate) due: Duration,
    /// Attempts that a flush waits for, before it takes this for failed.
    owed: u8,
}

#[derive(Debug)]
struct Group {
    due: Duration,
    entries: Vec<Entry>,
    round: u32,
}

/// Entries parked outside the dirty set. See the module's text.
#[derive(Debug)]
pub(crate) struct Retries {
    groups: Vec<Group>,
    /// The rounds that paths are in, which are not failures: in `groups`, or pending again behind
    /// something in flight.
    rounds: BTreeMap<RelPath, u32>,
    failures: BTreeMap<RelPath, Failure>,
    /// Of the failures' paths.
    bytes: usize,
    changes: u64,
    became_failures: u64,
    backoff: Backoff,
    flushing: bool,
}

/// A directory that is to stand for failures.
#[derive(Debug)]
pub(crate) struct Stand {
    /// The directory.
    pub(crate) dir: RelPath,
    /// How much of it fails.
    pub(crate) kind: Kind,
    /// What it stands for; its entries to be replaced by one.
    pub(crate) of: Vec<Failure>,
}

impl Retries {
    /// `backoff`: for failures.
    pub(crate) fn new(backoff: Backoff) -> Retries {
        Retries {
            groups: Vec::new(),
            rounds: BTreeMap::new(),
            failures: BTreeMap::new(),
            bytes: 0,
            changes: 0,
            became_failures: 0,
            backoff,
            flushing: false,
        }
    }

    /// Takes the entries of a batch that failed in part in its `round` (0 for the first). `named`:
    /// paths in rsync's messages, perhaps not all; not beginning with the root.
    pub(crate) fn failed(&mut self, now: Duration, entries: Vec<Entry>, round: u32, named: &[Failed], reason: &str, jitter: f64) {
        let alone = entries.len() == 1;
        let mut later: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        let mut these = Vec::with_capacity(entries.len());
        for entry in entries {
            match self.round_of(&entry.path) {
                Some(own) if own > round => later.entry(own).or_default().push(entry),
                _ => these.push(entry),
            }
        }
        self.failed_in(now, these, round, named, reason, jitter);
        for (own, entries) in later {
            if own + 1 < WHOLE_ROUNDS {
                self.wait(now + FIRST_PAUSE * 4u32.pow(own), entries, own + 1);
                continue;
            }
            // Beside others in its batch, it need not be what failed.
            let cover = Cover::new(named.iter().filter(|n| !n.path.is_root()));
            let (bad, good): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| alone || cover.meets(&e.path));
            self.wait(now, good, WHOLE_ROUNDS);
            self.fail_each(now, bad, named, reason, jitter);
        }
    }

    /// The round that a path is in, where it failed before.
    fn round_of(&self, path: &RelPath) -> Option<u32> {
        if self.failures.contains_key(path) {
            return Some(WHOLE_ROUNDS);
        }
        self.rounds.get(path).copied()
    }

    /// Takes what waits to be tried again under the path of `entry`, which leaves now, and is no
    /// more of it than that.
    pub(crate) fn take_same(&mut self, entry: &Entry) -> Vec<Entry> {
        let same = |e: &Entry| !e.is_taken() && e.path == entry.path && e.kind <= entry.kind;
        let mut found = Vec::new();
        if self.rounds.contains_key(&entry.path) {
            for group in &mut self.groups {
                found.extend(group.entries.extract_if(.., |e| same(e)));
            }
            self.groups.retain(|group| !group.entries.is_empty());
        }
        if let Some(failure) = self.failures.get_mut(&entry.path).filter(|failure| same(&failure.entry)) {
            found.push(failure.entry.take());
        }
        found
    }

    /// Has `entries` wait for their next round.
    fn wait(&mut self, due: Duration, entries: Vec<Entry>, round: u32) {
        if entries.is_empty() {
            return;
        }
        if round > 0 {
            if self.rounds.len() > MOST_ROUNDS {
                self.rounds.clear();
            }
            self.rounds.extend(entries.iter().map(|e| (e.path.clone(), round)));
        }
        self.groups.push(Group { due, entries, round });
    }

    /// As [`Retries::failed`], of what is in no later round than its batch.
    fn failed_in(&mut self, now: Duration, entries: Vec<Entry>, round: u32, named: &[Failed], reason: &str, jitter: f64) {
        if entries.is_empty() {
            return;
        }
        if round + 1 < WHOLE_ROUNDS {
            return self.wait(now + FIRST_PAUSE * 4u32.pow(round), entries, round + 1);
        }
        if entries.len() == 1 {
            return self.fail_each(now, entries, named, reason, jitter);
        }
        // A message speaks of the path itself, or of one that it covers, or of a directory above
        // it.
        let cover = Cover::new(named.iter().filter(|n| !n.path.is_root()));
        let (bad, good): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| cover.meets(&e.path));
        match (bad.is_empty(), good.is_empty()) {
            // All named: each one a failure of its own, tried again together.
            (false, true) => self.fail_each(now, bad, named, reason, jitter),
            (true, _) => {
                let mut first = good;
                let second = first.split_off(first.len() / 2);
                for entries in [first, second] {
                    self.wait(now, entries, WHOLE_ROUNDS);
                }
            }
            (false, false) => {
                for entries in [good, bad] {
                    self.wait(now, entries, WHOLE_ROUNDS);
                }
            }
        }
    }

    /// Takes entries that are to be tried again at once, in the round that they are in.
    pub(crate) fn at_once(&mut self, now: Duration, entries: Vec<Entry>, round: u32) {
        self.wait(now, entries, round);
    }

    /// Records each of `entries` as a failure, with the words about it, or with `reason` where
    /// there are none.
    fn fail_each(&mut self, now: Duration, entries: Vec<Entry>, named: &[Failed], reason: &str, jitter: f64) {
        let words = Words::of(named);
        for entry in entries {
            let why = words.about(&entry.path).unwrap_or(reason);
            self.fail(now, vec![entry], why, jitter);
        }
    }

    /// Whether a flush waits. Then what becomes a failure is tried once more at once: the attempt
    /// that failed may have begun before the flush, when the source was another.
    pub(crate) fn flushing(&mut self, flushing: bool) {
        self.flushing = flushing;
    }

    /// Whether an attempt is to come whose outcome a flush waits for.
    pub(crate) fn owes(&self) -> bool {
        self.failures.values().any(|f| f.owed > 0)
    }

    /// Records each of `entries` as a failure.
    pub(crate) fn fail(&mut self, now: Duration, entries: Vec<Entry>, reason: &str, jitter: f64) {
        self.changes += 1;
        for entry in entries {
            let old = self.failures.get(&entry.path);
            let (tries, owed) = match old {
                Some(old) => (old.tries + 1, old.owed.saturating_sub(1)),
                None => (1, u8::from(self.flushing)),
            };
            self.became_failures += u64::from(tries == 1);
            // A whole subtree is dear to try.
            let factor = if entry.kind == Kind::Subtree { 10 } else { 1 };
            let due = if owed > 0 { now } else { now + self.backoff.pause(tries, jitter) * factor };
            self.rounds.remove(&entry.path);
            let failure = Failure { entry, reason: reason.into(), tries, due, owed };
            self.bytes += failure.entry.path.len();
            self.put(failure, due);
        }
    }

    fn put(&mut self, failure: Failure, due: Duration) {
        if let Some(old) = self.failures.insert(failure.entry.path.clone(), failure) {
            self.bytes -= old.entry.path.len();
            if !old.entry.is_taken() {
                // The same path failed by two ways; the older is still counted, and joins the other
                // when both are due.
                self.groups.push(Group { due, entries: vec![old.entry], round: WHOLE_ROUNDS });
            }
        }
    }

    /// Takes out failures that are too many to be kept, with the directories that are to stand for
    /// them ([`Retries::stand`]).
    pub(crate) fn take_many(&mut self) -> Vec<Stand> {
        if !fewer::too_many(self.failures.len(), self.bytes) {
            return Vec::new();
        }
        self.changes += 1;
        // What is being tried again just now comes back by itself.
        let failing: Vec<(RelPath, Kind)> =
            self.failures.values().filter(|f| !f.entry.is_taken()).map(|f| (f.entry.path.clone(), f.entry.kind)).collect();
        let stands = fewer::fewer(&failing.iter().map(|(path, kind)| (path, *kind)).collect::<Vec<_>>());
        let mut stand = |stand: fewer::Stand| {
            let of = stand.of.iter().filter_map(|&at| self.failures.remove(&failing[at].0)).collect();
            Stand { dir: stand.dir, kind: stand.kind, of }
        };
        let stands: Vec<Stand> = stands.into_iter().map(&mut stand).collect();
        self.bytes = self.failures.keys().map(|path| path.len()).sum();
        stands
    }

    /// Records that `entry` fails in place of others: with the reason of the first, tried when the
    /// first of them would have been.
    pub(crate) fn stand(&mut self, entry: Entry, of: &[(String, u32, Duration)]) {
        let Some((first, ..)) = of.first() else { return };
        let reason = format!("{} in it failed, the first: {first}", plural(of.len() as u64, "path"));
        let tries = of.iter().map(|(_, tries, _)| *tries).max().unwrap_or(1);
        let due = of.iter().map(|(_, _, due)| *due).min().unwrap_or_default();
        self.bytes += entry.path.len();
        self.put(Failure { entry, reason, tries, due, owed: 0 }, due);
    }

    /// Takes the next entries whose time has come, with their round. All failures that are due come
    /// together.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<(Vec<Entry>, u32)> {
        if let Some(at) = self.groups.iter().position(|g| g.due <= now) {
            let mut group = self.groups.swap_remove(at);
            if group.round == WHOLE_ROUNDS {
                self.join(&mut group.entries);
            }
            return Some((group.entries, group.round));
        }
        let due: Vec<Entry> =
            self.failures.values_mut().filter(|f| f.due <= now && !f.entry.is_taken()).map(|f| f.entry.take()).collect();
        (!due.is_empty()).then_some((due, WHOLE_ROUNDS))
    }

    /// Adds what is a failure under the same path: apart they would be two for ever, each in the
    /// way of the other.
    fn join(&mut self, entries: &mut Vec<Entry>) {
        for at in 0..entries.len() {
            if let Some(failure) = self.failures.get_mut(&entries[at].path).filter(|failure| !failure.entry.is_taken()) {
                let same = failure.entry.take();
                entries.push(same);
            }
        }
    }

    /// Failures that are being tried.
    pub(crate) fn tried(&self) -> impl Iterator<Item = &Failure> {
        self.failures.values().filter(|f| f.entry.is_taken())
    }

    /// A failure was being tried and is no more, whatever became of that: it is tried again.
    pub(crate) fn try_again(&mut self, now: Duration, entry: Entry) {
        if let Some(failure) = self.failures.get_mut(&entry.path) {
            (failure.entry, failure.due) = (entry, now);
        }
    }

    /// When [`Retries::take_due`] has something next.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let groups = self.groups.iter().map(|g| g.due);
        groups.chain(self.failures.values().filter(|f| !f.entry.is_taken()).map(|f| f.due)).min()
    }

    /// The target holds the path of `entry` (and, for a subtree, all below) as batch `id` found it:
    /// its failures are over. What failed while it passed that batch may be newer, and stays.
    pub(crate) fn confirmed(&mut self, id: BatchId, entry: &Entry) -> Vec<Entry> {
        self.leave_round(entry);
        if self.failures.is_empty() {
            return Vec::new();
        }
        let over: Vec<RelPath> = match entry.kind {
            Kind::Subtree => {
                let covered = |(path, failure): &(&RelPath, &Failure)| {
                    path::is_at_or_below(path, &entry.path) && failure.entry.over != Some(id)
                };
                self.failures.iter().filter(covered).map(|(path, _)| path.clone()).collect()
            }
            _ => self.failures.get_key_value(&entry.path).map(|(p, _)| p.clone()).into_iter().collect(),
        };
        self.changes += u64::from(!over.is_empty());
        self.bytes -= over.iter().map(|p| p.len()).sum::<usize>();
        over.into_iter().filter_map(|p| self.failures.remove(&p)).map(|f| f.entry).filter(|e| !e.is_taken()).collect()
    }

    /// What is confirmed is in no round any more. A stale one is of little harm: the path fails
    /// sooner the next time.
    fn leave_round(&mut self, entry: &Entry) {
        match entry.kind {
            _ if self.rounds.is_empty() => {}
            Kind::Subtree => self.rounds.retain(|path, _| !path::is_at_or_below(path, &entry.path)),
            Kind::Entry | Kind::Contents => drop(self.rounds.remove(&entry.path)),
        }
    }

    /// Nothing is to be sent any more.
    pub(crate) fn forget_rounds(&mut self) {
        self.rounds.clear();
    }

    /// Makes everything due now. An attempt that is under way does not count as one that was
    /// requested.
    pub(crate) fn hurry(&mut self, now: Duration) {
        self.groups.iter_mut().for_each(|g| g.due = g.due.min(now));
        for failure in self.failures.values_mut() {
            failure.due = failure.due.min(now);
            failure.owed = if failure.entry.is_taken() { 2 } else { 1 };
        }
    }

    /// Takes everything back: the target went down, and all will be sent anew.
    pub(crate) fn take_all(&mut self) -> Vec<Entry> {
        self.rounds.clear();
        let groups = std::mem::take(&mut self.groups).into_iter().flat_map(|g| g.entries);
        groups.collect()
    }

    /// Entries that wait for another round.
    pub(crate) fn rounds(&self) -> impl Iterator<Item = &Entry> {
        self.groups.iter().flat_map(|g| &g.entries)
    }

    /// The failure of this very path.
    pub(crate) fn failure(&self, path: &RelPath) -> Option<&Failure> {
        self.failures.get(path)
    }

    /// A number that grows with each change of the failures.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// How often a path became a failure; one that fails on and on counts once.
    pub(crate) fn became_failures(&self) -> u64 {
        self.became_failures
    }

    /// Failures, by path.
    pub(crate) fn failures(&self) -> impl ExactSizeIterator<Item = &Failure> {
        self.failures.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::{DirtySet, Limits, Seen};

    fn entries(n: usize) -> Vec<Entry> {
        let mut set = DirtySet::new(1_000_000);
        for i in 0..n {
            set.see(format!("d/{i}").as_bytes(), Seen::Written);
        }
        set.take_shallow(Limits { max_paths: usize::MAX, ignore_holds: false }, &mut |_, _| false).unwrap().entries
    }

    fn retries() -> Retries {
        Retries::new(Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60) })
    }

    fn named(paths: &[RelPath]) -> Vec<Failed> {
        let words = |path: &RelPath| format!("no {path}");
        paths.iter().map(|path| Failed { path: path.clone(), words: words(path), unread: false }).collect()
    }

    /// Runs groups until only failures are left; `bad` fail, and are named or not. Returns runs
    /// needed.
    fn run(r: &mut Retries, all: usize, bad: &[&str], named: bool) -> usize {
        let mut now = Duration::ZERO;
        let mut batch = Some((entries(all), 0));
        let mut runs = 0;
        let mut done = 0;
        while let Some((entries, round)) = batch.take() {
            runs += 1;
            let failing: Vec<RelPath> =
                entries.iter().map(|e| e.path.clone()).filter(|p| bad.contains(&p.to_string().as_str())).collect();
            let all_named = self::named(&failing);
            if failing.is_empty() {
                done += entries.len();
            } else {
                r.failed(now, entries, round, if named { &all_named } else { &[] }, "no", 0.0);
            }
            while !r.groups.is_empty() {
                now += Duration::from_millis(10);
                if r.groups.iter().any(|g| g.due <= now) {
                    batch = r.take_due(now);
                    break;
                }
            }
        }
        assert_eq!(done + r.failures().len(), all, "every path is either through or a failure");
        runs
    }

    #[test]
    fn a_path_that_failed_by_two_ways_is_tried_as_one() {
        let mut r = retries();
        r.fail(Duration::ZERO, entries(1), "no", 0.0);
        r.fail(Duration::ZERO, entries(1), "no", 0.0);
        let later = Duration::from_secs(600);
        let (both, round) = r.take_due(later).expect("it is due");
        assert_eq!((both.len(), round), (2, WHOLE_ROUNDS), "both at once, for one run");
        assert!(r.take_due(later).is_none() && r.groups.is_empty());
        r.fail(later, vec![both.into_iter().next().unwrap()], "no", 0.0);
        assert_eq!((r.failures().len(), r.groups.len()), (1, 0), "one is left");
    }

    #[test]
    fn a_path_that_changes_while_it_fails_goes_on_in_its_round() {
        let at = Duration::from_secs;
        let mut r = retries();
        // Each change leaves at once as a batch of its own, in the round of a new path.
        for now in 0..WHOLE_ROUNDS {
            assert!(r.failures().next().is_none(), "after {now} attempts");
            let [entry] = entries(1).try_into().unwrap();
            let along = r.take_same(&entry);
            assert_eq!(along.len(), usize::from(now > 0), "what waits goes with it");
            r.failed(at(now.into()), vec![entry], 0, &[], "no", 0.0);
        }
        assert_eq!((r.groups.len(), r.failures().next().unwrap().tries), (0, 1));
        for tries in 2..9 {
            let [entry] = entries(1).try_into().unwrap();
            assert_eq!(r.take_same(&entry).len(), 1);
            r.failed(at(50), vec![entry], 0, &[], "no", 0.0);
            assert_eq!((r.groups.len(), r.failures().next().unwrap().tries), (0, tries), "the pauses grow");
        }
        // Beside another path, which does not fail, and no word of which one failed.
        r.failed(at(60), entries(2), 0, &[], "no", 0.0);
        let due: Vec<_> = std::iter::from_fn(|| r.take_due(at(61))).map(|(e, round)| (e.len(), round)).collect();
        assert_eq!(due, [(1, 1), (2, WHOLE_ROUNDS)], "the one alone, with what has failed of it; the other in its next round");
        // What went through begins anew.
        let [entry] = entries(1).try_into().unwrap();
        assert!(r.confirmed(0, &entry).is_empty(), "it was being tried");
        r.failed(at(70), vec![entry], 0, &[], "no", 0.0);
        assert_eq!((r.failures().len(), r.groups.len(), r.groups[0].round), (0, 1, 1));
    }

    #[test]
    fn bad_paths_end_up_alone_and_the_rest_goes_through() {
        for named in [true, false] {
            let mut r = retries();
            let runs = run(&mut r, 1000, &["d/17", "d/900"], named);
            let failed: Vec<String> = r.failures().map(|f| f.entry.path.to_string()).collect();
            assert_eq!(failed, ["d/17", "d/900"]);
            let words: Vec<&str> = r.failures().map(|f| &*f.reason).collect();
            assert_eq!(words, if named { ["no d/17", "no d/900"] } else { ["no", "no"] }, "each has its own words");
            assert!(runs <= if named { 6 } else { 3 + 2 * 2 * 10 }, "{runs} runs");
        }
    }

    #[test]
    fn failures_come_together_with_growing_pauses_until_confirmed() {
        let mut r = retries();
        r.fail(Duration::ZERO, entries(3), "denied", 0.0);
        assert_eq!(r.next_due(), Some(Duration::from_secs(1)));
        assert!(r.take_due(Duration::from_millis(999)).is_none());
        let (again, round) = r.take_due(Duration::from_secs(1)).unwrap();
        assert_eq!((again.len(), round, r.next_due()), (3, 3, None));
        r.failed(Duration::from_secs(1), again, round, &named(&[RelPath::new(b"d").unwrap()]), "denied", 0.0);
        assert_eq!(r.next_due(), Some(Duration::from_secs(3)), "the second pause is twice as long");
        assert!(r.failures().all(|f| f.tries == 2));
        assert_eq!(r.became_failures(), 3, "each path counts once, however often it fails");
        r.hurry(Duration::from_secs(2));
        let (again, _) = r.take_due(Duration::from_secs(2)).unwrap();
        for e in &again {
            r.confirmed(0, e);
        }
        assert_eq!(r.failures().len(), 0);
        r.fail(Duration::from_secs(9), again, "denied again", 0.0);
        assert_eq!(r.became_failures(), 6, "after it went through once it is a new failure");
    }

    #[test]
    fn what_failed_while_it_passed_a_comparison_is_not_over_with_that() {
        let mut set = DirtySet::new(100);
        set.see(b"d", Seen::Subtree);
        let limits = Limits { max_paths: 10, ignore_holds: false };
        let deep = set.take_deep(limits).unwrap();
        set.soften(&deep);
        set.see(b"d/f", Seen::Written);
        let passing = set.take_shallow(limits, &mut |_, _| false).unwrap();
        set.park(passing.id, &passing.entries);
        let mut r = retries();
        r.fail(Duration::ZERO, passing.entries, "full", 0.0);
        assert!(r.confirmed(deep.id, &deep.entries[0]).is_empty(), "it changed after the comparison began");
        assert_eq!(r.failures().len(), 1);
        assert_eq!(r.confirmed(deep.id + 9, &deep.entries[0]).len(), 1, "a later one has it");
    }

    #[test]
    fn a_flush_waits_for_an_attempt_that_began_after_it() {
        let at = Duration::from_secs;
        let mut r = retries();
        r.fail(at(0), entries(1), "denied", 0.0);
        assert!(!r.owes());
        r.hurry(at(0));
        assert!(r.owes(), "it is due, and was not tried yet");
        let (again, round) = r.take_due(at(0)).unwrap();
        assert!(r.owes());
        r.failed(at(0), again, round, &[], "denied", 0.0);
        assert!(!r.owes() && r.next_due() == Some(at(2)), "the pauses are as they were");
        // One that is under way began before.
        let (again, round) = r.take_due(at(2)).unwrap();
        r.hurry(at(2));
        r.failed(at(3), again, round, &[], "denied", 0.0);
        assert!(r.owes());
        let (again, round) = r.take_due(at(3)).unwrap();
        r.failed(at(3), again, round, &[], "denied", 0.0);
        assert!(!r.owes() && r.take_due(at(4)).is_none());
    }

    #[test]
    fn what_fails_during_a_flush_is_tried_once_more_at_once() {
        let at = Duration::from_secs;
        let mut r = retries();
        r.flushing(true);
        r.fail(at(5), entries(1), "denied", 0.0);
        assert!(r.owes());
        let (again, round) = r.take_due(at(5)).unwrap();
        r.failed(at(5), again, round, &[], "denied", 0.0);
        assert!(!r.owes() && r.next_due() > Some(at(5)));
        r.flushing(false);
        let mut r = retries();
        r.fail(at(5), entries(1), "denied", 0.0);
        assert!(!r.owes() && r.take_due(at(5)).is_none());
    }

    #[test]
    fn directories_stand_for_failures_that_are_too_many() {
        let mut r = retries();
        let mut set = DirtySet::new(1_000_000);
        let of = |set: &mut DirtySet, dir: &str, n: usize| {
            (0..n).for_each(|i| set.see(format!("{dir}/{i}").as_bytes(), Seen::Written));
            let batch = set.take_shallow(Limits { max_paths: usize::MAX, ignore_holds: false }, &mut |_, _| false).unwrap();
            set.park(batch.id, &batch.entries);
            batch.entries
        };
        let (many, few) = (of(&mut set, "many", 20_000), of(&mut set, "few", 10));
        r.fail(Duration::ZERO, few, "denied", 0.0);
        assert!(r.take_many().is_empty());
        r.fail(Duration::ZERO, many, "full", 0.0);
        for Stand { dir, kind, of } in r.take_many() {
            assert_eq!((dir.to_string().as_str(), kind, of.len()), ("many", Kind::Contents, 20_000));
            let before: Vec<_> = of.iter().map(|f| (f.reason.clone(), f.tries, f.due)).collect();
            let entry = set.widen(of.into_iter().map(|f| f.entry).collect(), dir, kind).unwrap();
            r.stand(entry, &before);
        }
        assert_eq!((r.failures().len(), set.epochs().total()), (11, 11), "each is counted once, wherever it is");
        let shown: Vec<_> = r.failures().map(|f| (f.entry.path.to_string(), f.reason.clone())).collect();
        assert_eq!(shown[10], ("many".into(), "20000 paths in it failed, the first: full".into()));
        // All are tried together, as before, and are over when they went through.
        let (again, _) = r.take_due(Duration::from_secs(1)).unwrap();
        assert_eq!(again.len(), 11);
        let over: Vec<Entry> = again.iter().flat_map(|e| r.confirmed(0, e)).collect();
        assert_eq!((over.len(), r.failures().len(), r.bytes), (0, 0, 0));
    }

    #[test]
    fn backoff_doubles_up_to_its_bound_and_jitter_only_shortens() {
        let b = Backoff { min: Duration::from_millis(500), max: Duration::from_secs(60) };
        assert_eq!([1, 2, 3, 9, 99].map(|n| b.pause(n, 0.0).as_millis()), [500, 1000, 2000, 60_000, 60_000]);
        assert_eq!(b.pause(2, 0.999).as_millis(), 500);
    }
}
