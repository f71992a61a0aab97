//! Random histories of a source, a stream that forgets, repeats, reorders and is set back, and a
//! follower that is killed at any moment: in the end both trees are equal.

use std::collections::BTreeMap;

use super::*;
use crate::feed::record::Item;

#[path = "moves_tests.rs"]
mod moves_tests;

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn item(text: &str) -> Item {
    Item { path: path(text), kind: Kind::Entry, gone: false, directory: false, content: true, to: None }
}

fn record(incarnation: u64, number: u64, entries: Vec<Item>) -> Record {
    Record { incarnation, number, stream: 1, entries, ..Record::default() }
}

fn follower() -> Machine {
    Machine::new(None, 1_000, Duration::from_secs(1))
}

/// One that holds everything up to the record 5 of the incarnation 1.
fn in_sync() -> Machine {
    let point = Point { stream: 1, incarnation: 1, number: 5, sequence: 5 };
    Machine::new(Some(Saved { position: Some(point), ..Saved::default() }), 1_000, Duration::from_secs(1))
}

fn sequence(machine: &Machine) -> Option<u64> {
    machine.position().map(|point| point.sequence)
}

const NOW: Duration = Duration::ZERO;

#[test]
fn a_new_follower_compares_the_whole_tree_first() {
    let mut machine = follower();
    machine.record(9, Ok(record(1, 9, vec![item("a")])));
    assert_eq!((sequence(&machine), machine.take(NOW)), (None, Some(Work::Whole)));
    machine.record(10, Ok(record(1, 10, vec![item("b")])));
    let saved = machine.saved();
    assert!(saved.owed.is_some() && saved.position.is_some_and(|p| p.sequence == 10), "owed before the position moves");
    machine.ended(NOW, End::Done, &|_| false);
    assert_eq!(sequence(&machine), Some(9), "what came meanwhile is not held");
    assert!(matches!(machine.take(NOW), Some(Work::List { .. })));
    machine.ended(NOW, End::Done, &|_| false);
    assert_eq!((sequence(&machine), machine.in_sync()), (Some(10), true));
    assert_eq!(machine.saved().owed, None);
}

/// How many runs it takes until nothing is pending, where those fail that list what `stops` says,
/// and do not say so; and what was pulled.
fn pulled_past(paths: &[String], stops: impl Fn(&RelPath) -> bool) -> (Machine, u32, Vec<RelPath>) {
    let mut machine = in_sync();
    machine.record(6, Ok(record(1, 6, paths.iter().map(|path| item(path)).collect())));
    let (mut runs, mut pulled) = (0, Vec::new());
    while let Some(work) = machine.take(NOW) {
        runs += 1;
        assert!(runs < 1_000, "without an end");
        let Work::List { paths, .. } = work else { break };
        let stopped = paths.iter().any(|(path, _)| stops(path));
        let end = if stopped { End::Partly { complaints: Vec::new(), complete: false } } else { End::Done };
        pulled.extend(paths.into_iter().map(|(path, _)| path).filter(|_| !stopped));
        machine.ended(NOW, end, &|_| false);
    }
    (machine, runs, pulled)
}

#[test]
fn a_path_that_fails_runs_without_a_word_holds_up_no_other() {
    let mut paths: Vec<String> = (0..500).map(|n| format!("other{n}")).collect();
    paths.push("a/d/e/big".to_owned());
    // The directory `a/d` is a link by now.
    let below = |path: &RelPath| path.len() > 3 && path.starts_with(b"a/d");
    let (machine, runs, pulled) = pulled_past(&paths, below);
    assert!(machine.in_sync() && sequence(&machine) == Some(6));
    assert!(pulled.contains(&path("a/d")) && !pulled.contains(&path("a")), "no higher than it takes");
    assert!(paths[..500].iter().all(|other| pulled.contains(&path(other))));
    assert!(runs < 60, "{runs}");
}

#[test]
fn where_every_run_fails_without_a_word_the_whole_tree_is_compared() {
    let paths: Vec<String> = (0..500).map(|n| format!("d/e/{n}")).collect();
    let (machine, runs, pulled) = pulled_past(&paths, |_| true);
    assert!(machine.owes() && pulled.is_empty());
    assert!(runs <= FRUITLESS + 2, "{runs}");
    let (machine, ..) = pulled_past(&["top".to_owned()], |_| true);
    assert!(machine.owes(), "above it is the root");
}

#[test]
fn what_fails_once_more_while_a_record_says_more_of_it_is_no_failure() {
    let fails = || Complaint { path: path("large"), absent: false, words: "no room".into() };
    let partly = || End::Partly { complaints: vec![fails()], complete: true };
    for end in [End::Not, partly()] {
        let mut machine = in_sync();
        machine.record(6, Ok(record(1, 6, vec![item("large")])));
        while machine.take(NOW).is_some() {
            machine.ended(NOW, partly(), &|_| false);
        }
        assert_eq!((machine.failed().len(), sequence(&machine)), (1, Some(6)));
        machine.retry();
        assert!(machine.take(NOW).is_some());
        machine.record(7, Ok(record(1, 7, vec![Item { gone: true, ..item("large") }])));
        machine.ended(NOW, end, &|_| false);
        assert!(machine.failed().is_empty());
        assert!(matches!(machine.take(NOW), Some(Work::List { gone: 1, .. })));
        machine.ended(NOW, End::Done, &|_| false);
        assert!(machine.in_sync() && sequence(&machine) == Some(7));
    }
}

#[test]
fn whatever_breaks_the_order_is_an_owed_comparison() {
    let other = |stream, incarnation, number, sequence| (sequence, Ok(Record { stream, ..record(incarnation, number, vec![]) }));
    let cases = [
        ("a gap", other(1, 1, 8, 8)),
        ("another stream", other(2, 1, 6, 6)),
        ("the stream was set back", other(1, 1, 3, 4)),
        ("another incarnation", other(1, 2, 6, 6)),
        ("a number is missing", other(1, 1, 7, 6)),
        ("not understood", (6, Err(RecordError::Foreign))),
        ("everything", (6, Ok(Record { everything: true, ..record(1, 6, vec![]) }))),
    ];
    for (what, (at, record)) in cases {
        let mut machine = in_sync();
        machine.record(at, record);
        assert!(machine.owes(), "{what}");
        assert!(machine.saved().owed.is_some_and(|why| !why.is_empty()));
        assert_eq!(machine.take(NOW), Some(Work::Whole));
        // Killed while it compares: it is owed still.
        let mut next = Machine::new(Some(machine.saved()), 1_000, Duration::ZERO);
        assert_eq!(next.take(NOW), Some(Work::Whole), "{what}");
    }
    let mut machine = in_sync();
    for at in [4, 5, 5, 6, 6] {
        machine.record(at, Ok(record(1, at, vec![])));
    }
    assert_eq!((machine.owes(), sequence(&machine)), (false, Some(6)), "what comes twice is harmless");
}

#[test]
fn the_end_of_the_stream_tells_that_it_was_set_back() {
    for (at, number, incarnation, back) in
        [(5, 5, 1, false), (7, 7, 1, false), (7, 1, 2, false), (4, 4, 1, true), (5, 1, 2, true)]
    {
        let mut machine = in_sync();
        assert_eq!(machine.end(at, Ok(record(incarnation, number, vec![]))), back, "{at}, {incarnation}-{number}");
        assert_eq!(machine.owes(), back);
    }
}

#[test]
fn a_follower_that_was_just_started_learns_what_it_follows_from_the_end_of_the_stream() {
    for held in [false, true] {
        let mut machine = in_sync();
        assert_eq!((machine.identity(), machine.is_held()), (None, false));
        assert!(!machine.end(5, Ok(Record { identity: TREE, held, ..record(1, 5, vec![]) })));
        assert_eq!((machine.identity(), machine.is_held(), sequence(&machine)), (Some(TREE), held, Some(5)));
        machine.owe("it was asked for".into());
        assert_eq!(machine.take(NOW).is_some(), !held);
    }
}

#[test]
fn a_path_that_fails_for_good_does_not_hold_the_position() {
    let mut machine = in_sync();
    machine.record(6, Ok(record(1, 6, vec![item("bad"), item("good")])));
    let complaint = || Complaint { path: path("bad"), absent: false, words: "Permission denied".into() };
    for _ in 0..2 * ROUNDS {
        let Some(Work::List { paths, .. }) = machine.take(NOW) else { break };
        let end = match paths.iter().any(|(p, _)| *p == path("bad")) {
            true => End::Partly { complaints: vec![complaint()], complete: true },
            false => End::Done,
        };
        machine.ended(NOW, end, &|_| false);
    }
    assert_eq!((sequence(&machine), machine.in_sync()), (Some(6), false));
    assert_eq!(machine.failed().keys().collect::<Vec<_>>(), [&path("bad")]);
    assert_eq!(machine.saved().failed, [b"bad".to_vec()]);
    assert_eq!((machine.take(NOW), machine.next_due()), (None, Some(Duration::from_secs(1))));
    let mut next = Machine::new(Some(machine.saved()), 1_000, Duration::ZERO);
    assert!(matches!(next.take(NOW), Some(Work::List { deep: true, .. })), "a restart tries it again");
    assert!(matches!(machine.take(Duration::from_secs(1)), Some(Work::List { .. })));
    machine.ended(NOW, End::Done, &|_| false);
    assert!(machine.in_sync());
}

#[test]
fn a_held_source_is_not_pulled_from() {
    let mut machine = in_sync();
    machine.record(6, Ok(Record { held: true, ..record(1, 6, vec![item("a")]) }));
    assert_eq!((machine.take(NOW), machine.is_held()), (None, true));
    machine.record(7, Ok(record(1, 7, vec![])));
    assert!(machine.take(NOW).is_some());
}

#[test]
fn too_many_paths_become_a_comparison() {
    let mut machine = in_sync();
    let entries = (0..=1_000).map(|n| item(&format!("f{n}"))).collect();
    machine.record(6, Ok(record(1, 6, entries)));
    assert_eq!(machine.take(NOW), Some(Work::Whole));
}

// ----- batches -----

const SECOND: u64 = 1_000_000;

/// A batch that was made so many seconds after the source was started, a second after the record
/// before it was stored.
fn made(seconds: u64) -> Option<Batch> {
    Some(Batch { stored: (seconds - 1) * SECOND, made: seconds * SECOND, ..Batch::default() })
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const TREE: Identity = [7; 16];

fn with_batch(number: u64, entries: Vec<Item>, batch: Option<Batch>) -> Record {
    Record { identity: TREE, batch, ..record(1, number, entries) }
}

/// One that is in sync up to the record 7, and knows the publisher's clock: its own second 10 came
/// before that one's second 100, when 6 was stored.
fn with_clock() -> Machine {
    let mut machine = in_sync();
    machine.looked(at(10), 5);
    machine.record(6, Ok(with_batch(6, vec![], made(100))));
    machine.record(7, Ok(with_batch(7, vec![], made(101))));
    assert_eq!((sequence(&machine), machine.in_sync(), machine.take(at(11))), (Some(7), true, None));
    machine
}

#[test]
fn batches_are_applied_in_order_and_nothing_is_pulled() {
    let mut machine = with_clock();
    machine.record(8, Ok(with_batch(8, vec![item("a"), Item { gone: true, ..item("b") }], made(102))));
    machine.record(9, Ok(with_batch(9, vec![Item { kind: Kind::Contents, directory: true, ..item("a") }], made(103))));
    assert_eq!((machine.queued(), sequence(&machine)), (3, Some(7)));
    assert_eq!(machine.saved().position.map(|p| p.sequence), Some(7), "what is not applied is read again");
    let work = Work::Batch { batch: made(102).unwrap(), contents: false, gone: 1 };
    assert_eq!(machine.take(at(12)), Some(work));
    assert!(machine.ended(at(12), End::Done, &|_| false));
    assert_eq!(sequence(&machine), Some(8));
    let work = Work::Batch { batch: made(103).unwrap(), contents: true, gone: 0 };
    assert_eq!(machine.take_batch(), Some(work), "without an upstream");
    machine.ended(at(12), End::Done, &|_| false);
    assert_eq!((sequence(&machine), machine.in_sync(), machine.passed_over()), (Some(9), true, 0));
}

#[test]
fn a_look_at_each_record_tells_when_batches_were_made() {
    let mut machine = in_sync();
    for n in 6..9 {
        machine.looked(at(n), n - 1);
        machine.record(n, Ok(with_batch(n, vec![item("a")], made(100 + n))));
        while machine.take(at(n)).is_some() {
            machine.ended(at(n), End::Done, &|_| false);
        }
    }
    assert_eq!(machine.passed_over(), 1, "the first one tells of the time");
}

#[test]
fn a_batch_that_fails_is_pulled_and_what_came_behind_it_too() {
    for end in [End::Not, End::Partly { complaints: Vec::new(), complete: false }] {
        let mut machine = with_clock();
        machine.record(8, Ok(with_batch(8, vec![item("a/b")], made(102))));
        machine.record(9, Ok(with_batch(9, vec![Item { directory: true, ..item("a") }], made(103))));
        assert!(matches!(machine.take(at(12)), Some(Work::Batch { .. })));
        machine.ended(at(12), end, &|_| false);
        assert_eq!((sequence(&machine), machine.queued(), machine.passed_over()), (Some(7), 0, 1));
        let Some(Work::List { paths, .. }) = machine.take(at(12)) else { panic!("it is pulled") };
        assert_eq!(paths, [(path("a"), Kind::Entry), (path("a/b"), Kind::Entry)]);
        machine.ended(at(12), End::Done, &|_| false);
        assert_eq!(sequence(&machine), Some(9));
    }
}

#[test]
fn a_batch_gives_way_to_what_is_pulled_at_above_or_below_its_paths() {
    let near = ["a/b", "a", "", "a/b/c"];
    let applies = |machine: &Machine| machine.queued() == 1;
    for other in near.into_iter().chain(["a/bc", "a/c", "b"]) {
        let far = !near.contains(&other);
        // It is to be pulled.
        let mut machine = with_clock();
        machine.record(8, Ok(with_batch(8, vec![item(other)], None)));
        let mut later = machine.clone();
        machine.record(9, Ok(with_batch(9, vec![item("a/b")], made(110))));
        assert_eq!(applies(&machine), far, "pending: {other:?}");
        // A run sets the times of the directories above its paths.
        assert!(matches!(machine.take(at(12)), Some(Work::List { .. })));
        assert!(!applies(&machine), "behind a run: {other:?}");
        // It is under way.
        assert!(matches!(later.take(at(12)), Some(Work::List { .. })));
        let mut pulled = later.clone();
        later.record(9, Ok(with_batch(9, vec![item("a/b")], made(110))));
        assert!(!applies(&later), "in flight: {other:?}");
        // It has failed.
        let mut failed = pulled.clone();
        for _ in 0..=ROUNDS {
            let complaint = Complaint { path: path(other), absent: false, words: "Permission denied".into() };
            failed.ended(at(12), End::Partly { complaints: vec![complaint], complete: true }, &|_| false);
            if failed.take(at(12)).is_none() {
                break;
            }
        }
        assert_eq!(failed.failed().len(), 1);
        failed.record(9, Ok(with_batch(9, vec![item("a/b")], made(1_000))));
        assert_eq!(applies(&failed), far, "failed: {other:?}");
        // It was pulled, in the publisher's second 105 at the earliest.
        pulled.ended(at(15), End::Done, &|_| false);
        let mut older = pulled.clone();
        older.record(9, Ok(with_batch(9, vec![item("a/b")], made(105))));
        assert!(!applies(&older), "pulled since: {other:?}");
        pulled.record(9, Ok(with_batch(9, vec![item("a/b")], made(106))));
        assert!(applies(&pulled), "pulled before it was made: {other:?}");
    }
}

#[test]
fn what_is_pulled_takes_along_batches_that_wait() {
    let mut machine = with_clock();
    machine.record(8, Ok(with_batch(8, vec![item("a/b")], made(102))));
    machine.record(9, Ok(with_batch(9, vec![item("x")], made(103))));
    machine.record(10, Ok(with_batch(10, vec![Item { kind: Kind::Subtree, directory: true, ..item("a") }], None)));
    assert_eq!((machine.queued(), machine.passed_over()), (0, 2));
    let Some(Work::List { paths, .. }) = machine.take(at(12)) else { panic!("it is pulled") };
    assert_eq!(paths, [(path("x"), Kind::Entry)]);
    machine.ended(at(12), End::Done, &|_| false);
    assert_eq!(sequence(&machine), Some(7), "8 is a part of what is compared whole");
}

#[test]
fn a_batch_of_another_tree_or_of_a_held_source_is_not_applied() {
    let mut other = with_clock();
    other.record(8, Ok(Record { identity: [8; 16], ..with_batch(8, vec![item("a")], made(102)) }));
    assert!(matches!(other.take(at(12)), Some(Work::List { .. })));
    let mut held = with_clock();
    held.record(8, Ok(Record { held: true, ..with_batch(8, vec![item("a")], made(102)) }));
    assert_eq!((held.queued(), held.take(at(12)), held.take_batch()), (0, None, None));
    let mut whole = with_clock();
    whole.owe("it was asked for".into());
    whole.record(8, Ok(with_batch(8, vec![item("a")], made(102))));
    assert_eq!((whole.queued(), whole.take_batch(), whole.take(at(12))), (0, None, Some(Work::Whole)));
    let mut started = Machine::new(Some(with_clock().saved()), 1_000, Duration::ZERO);
    started.record(8, Ok(with_batch(8, vec![item("a")], made(1_000))));
    assert!(matches!(started.take(at(12)), Some(Work::List { .. })), "what was pulled before the start is not known");
}

#[test]
fn more_batches_than_are_applied_in_a_moment_are_pulled() {
    let mut many = with_clock();
    for n in 0..40 {
        many.record(8 + n, Ok(with_batch(8 + n, vec![item(&format!("f{n}"))], made(102 + n))));
    }
    assert_eq!((many.queued(), many.pending().len(), many.passed_over()), (QUEUE, 40 - QUEUE, 40 - QUEUE as u64));
    let mut large = with_clock();
    for n in 0..12 {
        let batch = made(102 + n).map(|batch| Batch { bytes: vec![0; 900_000], ..batch });
        large.record(8 + n, Ok(with_batch(8 + n, vec![item(&format!("f{n}"))], batch)));
    }
    assert_eq!(large.queued(), QUEUE_BYTES / 900_000);
}

// ----- random histories -----

/// A tree: names to contents, `None` for a directory. Every parent is there. Some contents are
/// those of symbolic links to a directory ([`is_link`]).
type Tree = BTreeMap<RelPath, Option<u32>>;

fn below(tree: &Tree, dir: &RelPath) -> Vec<RelPath> {
    tree.keys().filter(|p| *p != dir && path::is_at_or_below(p, dir)).cloned().collect()
}

fn remove(tree: &mut Tree, at: &RelPath) {
    for gone in below(tree, at) {
        tree.remove(&gone);
    }
    if !at.is_root() {
        tree.remove(at);
    }
}

fn is_link(node: Option<&Option<u32>>) -> bool {
    matches!(node, Some(Some(content)) if content % 3 == 0)
}

/// Makes a name of the follower what it is in the source, without what is below.
fn copy(source: &Tree, copy: &mut Tree, at: &RelPath) {
    let Some(node) = source.get(at) else { return };
    if node.is_some() || copy.get(at).is_some_and(Option::is_some) {
        remove(copy, at);
    }
    copy.insert(at.clone(), *node);
}

/// What rsync does with a list, as it was measured: see the table in `docs/feed.md`.
fn pull(source: &Tree, mine: &mut Tree, work: &Work) -> End {
    let mut complaints = Vec::new();
    match work {
        Work::Batch { .. } => panic!("a batch is applied"),
        Work::Whole => *mine = source.clone(),
        Work::List { paths, deletes, deep, .. } => {
            let remove = |mine: &mut Tree, at: &RelPath| {
                if *deletes {
                    remove(mine, at)
                }
            };
            let all_above = |at: &RelPath| {
                let mut above: Vec<RelPath> =
                    std::iter::successors(path::parent(at), |dir| path::parent(dir)).map(RelPath::from_normal).collect();
                above.reverse();
                above
            };
            // What a link leads to is listed in the place of the link, whatever else the list has.
            let followed = |(at, kind): &(RelPath, Kind)| {
                let above = all_above(at).into_iter().chain((*kind == Kind::Contents).then(|| at.clone()));
                above.into_iter().find(|dir| is_link(source.get(dir)))
            };
            let links: BTreeMap<RelPath, RelPath> =
                paths.iter().filter_map(|listed| Some((listed.0.clone(), followed(listed)?))).collect();
            for (at, kind) in paths {
                let above = all_above(at);
                if let Some(link) = links.get(at).or_else(|| links.values().find(|link| *link == at)) {
                    all_above(link).iter().for_each(|p| copy(source, mine, p));
                    if mine.get(link).is_none_or(Option::is_some) {
                        mine.insert(link.clone(), None);
                    }
                    if *deletes && at != link {
                        remove(mine, at);
                    }
                    continue;
                }
                let complain = |path: &RelPath| Complaint { path: path.clone(), absent: true, words: "vanished".into() };
                if above.iter().any(|dir| source.get(dir).is_some_and(Option::is_some)) {
                    complaints.push(complain(at));
                    continue;
                }
                if let Some(gone) = above.iter().find(|dir| !source.contains_key(*dir)) {
                    remove(mine, at);
                    complaints.push(complain(gone));
                    continue;
                }
                if !source.contains_key(at) {
                    match deep {
                        true => complaints.push(complain(at)),
                        false => remove(mine, at),
                    }
                    continue;
                }
                if *kind == Kind::Contents && source[at].is_some() {
                    complaints.push(complain(at));
                    continue;
                }
                above.iter().chain([at]).for_each(|p| copy(source, mine, p));
                let inside = |p: &RelPath| match kind {
                    Kind::Entry => false,
                    Kind::Contents => path::parent(p) == Some(&**at),
                    Kind::Subtree => true,
                };
                for gone in below(mine, at).iter().filter(|p| inside(p) && !source.contains_key(*p)) {
                    assert!(*deletes, "a comparison deletes");
                    remove(mine, gone);
                }
                for there in below(source, at).iter().filter(|p| inside(p)) {
                    copy(source, mine, there);
                }
            }
        }
    }
    if complaints.is_empty() { End::Done } else { End::Partly { complaints, complete: true } }
}

/// Whether a work reaches a name, and what it takes for equal there.
fn reaches(work: &Work, at: &RelPath) -> Option<Trust> {
    let (paths, trust) = match work {
        Work::Whole => return Some(Trust::SizeAndTimes),
        Work::List { paths, trust, .. } => (paths, *trust),
        Work::Batch { .. } => return None,
    };
    let reaches = |(path, kind): &(RelPath, Kind)| match kind {
        Kind::Entry => path == at,
        Kind::Contents => path == at || path::parent(at) == Some(&**path),
        Kind::Subtree => path::is_at_or_below(at, path),
    };
    paths.iter().any(reaches).then_some(trust)
}

/// A run as [`pull`] does it, but for files that were given their names by the follower: whatever
/// they hold, their size and times are those of the source's.
fn pull_beside(source: &Tree, mine: &mut Tree, named: &mut std::collections::BTreeSet<RelPath>, work: &Work) -> End {
    let before = mine.clone();
    let end = pull(source, mine, work);
    let is_file = |tree: &Tree, at: &RelPath| matches!(tree.get(at), Some(Some(_))) && !is_link(tree.get(at));
    named.retain(|at| is_file(mine, at) && is_file(&before, at));
    for at in named.clone() {
        match reaches(work, &at) {
            Some(Trust::SizeAndTimes) => _ = mine.insert(at.clone(), before[&at]),
            Some(_) => _ = named.remove(&at),
            None => {}
        }
    }
    end
}

/// A publisher, its stream, and a follower.
struct World {
    random: fastrand::Rng,
    source: Tree,
    mine: Tree,
    /// Messages by sequence; the first ones may be gone.
    stream: BTreeMap<u64, Record>,
    created: u64,
    last: u64,
    incarnation: u64,
    number: u64,
    /// Paths that no record has.
    dirty: Vec<Item>,
    machine: Machine,
    disk: Saved,
    flying: Option<Work>,
    /// Steps so far, and when the follower was started.
    clock: u64,
    born: u64,
    /// When the last record was stored.
    stored: u64,
    /// What batches hold, by their bytes: the source, and when it was so.
    states: Vec<(Tree, Vec<Item>, u64)>,
    /// When runs of this follower pulled paths.
    pulled: BTreeMap<RelPath, u64>,
    /// The end of the stream as it was at a time.
    look: Option<(u64, u64)>,
    applied: usize,
    /// Files of the follower that it gave their names, and that no run compared by content.
    named: std::collections::BTreeSet<RelPath>,
    renamed: usize,
    /// Little goes wrong.
    calm: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let root = Tree::from([(RelPath::root(), None)]);
        let mut world = World {
            random: fastrand::Rng::with_seed(seed),
            source: root.clone(),
            mine: root,
            stream: BTreeMap::new(),
            created: 1,
            last: 0,
            incarnation: 1,
            number: 0,
            dirty: Vec::new(),
            machine: follower(),
            disk: Saved::default(),
            flying: None,
            clock: 1,
            born: 0,
            stored: 0,
            states: Vec::new(),
            pulled: BTreeMap::new(),
            look: None,
            applied: 0,
            named: Default::default(),
            renamed: 0,
            calm: seed % 2 == 1,
        };
        world.store(true);
        world
    }

    /// Publishes what is dirty.
    fn store(&mut self, everything: bool) {
        self.number += 1;
        self.last += 1;
        let entries = std::mem::take(&mut self.dirty);
        let batch = if everything || self.random.u8(..4) == 0 { None } else { self.write_batch(&entries) };
        let record =
            Record { stream: self.created, everything, identity: TREE, batch, ..record(self.incarnation, self.number, entries) };
        self.stream.insert(self.last, record);
        self.stored = self.micros();
    }

    /// The publisher's time.
    fn micros(&self) -> u64 {
        SECOND + self.clock * 1_000
    }

    /// The follower's time.
    fn now(&self) -> Duration {
        Duration::from_millis(self.clock - self.born)
    }

    /// The state of these entries, if rsync writes it without a complaint and they are what the
    /// record says.
    fn write_batch(&mut self, entries: &[Item]) -> Option<Batch> {
        let is = |item: &Item| {
            let found = self.source.get(&item.path);
            (item.gone, item.directory) == (found.is_none(), found == Some(&None)) && item.kind < Kind::Subtree
        };
        let empty = &mut Tree::from([(RelPath::root(), None)]);
        if !entries.iter().all(is) || pull(&self.source, empty, &by_name(entries)) != End::Done {
            return None;
        }
        self.states.push((self.source.clone(), entries.to_vec(), self.clock));
        let bytes = (self.states.len() - 1).to_le_bytes().to_vec();
        Some(Batch { stored: self.stored, made: self.micros(), bytes, ..Batch::default() })
    }

    /// Does what is under way.
    fn carry_out(&mut self, work: &Work) -> End {
        let Work::Batch { batch, .. } = work else {
            let end = pull_beside(&self.source, &mut self.mine, &mut self.named, work);
            let paths = match work {
                Work::List { paths, .. } => paths.iter().map(|(path, _)| path.clone()).collect(),
                _ => vec![RelPath::root()],
            };
            self.pulled.extend(paths.into_iter().map(|path| (path, self.clock)));
            return end;
        };
        let index = usize::from_le_bytes(batch.bytes[..].try_into().unwrap());
        let (state, items, made) = &self.states[index];
        for item in items {
            let near = |p: &RelPath| path::is_at_or_below(p, &item.path) || path::is_at_or_below(&item.path, p);
            let newer = self.pulled.iter().find(|(path, at)| near(path) && *at >= made);
            assert_eq!(newer, None, "it takes back what was pulled of {}", item.path);
        }
        self.applied += 1;
        let half = self.random.u8(..8) == 0;
        let some = if half { &items[..items.len() / 2] } else { items };
        match pull_beside(state, &mut self.mine, &mut self.named, &by_name(some)) {
            end if !half => end,
            _ => End::Partly { complaints: Vec::new(), complete: false },
        }
    }

    /// The publisher finds that the stream does not end where it left it.
    fn begin_anew(&mut self) {
        (self.incarnation, self.number) = (self.incarnation + 1, 0);
        self.store(true);
    }

    fn dir(&mut self) -> RelPath {
        let dirs: Vec<RelPath> = self.source.iter().filter(|(_, n)| n.is_none()).map(|(p, _)| p.clone()).collect();
        dirs[self.random.usize(..dirs.len())].clone()
    }

    /// One change of the source, and what an engine makes of it.
    fn change(&mut self) {
        let at = self.dir().join(&[b'a' + self.random.u8(..4)]);
        if at.len() > 9 {
            return;
        }
        let was = self.source.get(&at).copied();
        match self.random.u8(..9) {
            0..2 => {
                remove(&mut self.source, &at);
                self.source.insert(at.clone(), Some(self.random.u32(..)));
                self.dirty.extend(was.is_some_and(|n| n.is_none()).then(|| Item { gone: true, ..item(&at.to_string()) }));
                self.dirty.push(item(&at.to_string()));
            }
            2 => {
                if was != Some(None) {
                    self.source.insert(at.clone(), None);
                    self.dirty.push(Item { directory: true, ..item(&at.to_string()) });
                }
            }
            3..5 => {
                remove(&mut self.source, &at);
                self.dirty.push(Item { gone: true, ..item(&at.to_string()) });
            }
            _ => self.rename(at),
        }
    }

    fn rename(&mut self, from: RelPath) {
        let to = self.dir().join(&[b'a' + self.random.u8(..4)]);
        let both = path::is_at_or_below(&to, &from) || path::is_at_or_below(&from, &to);
        if both || !self.source.contains_key(&from) || to.len() > 6 {
            return;
        }
        remove(&mut self.source, &to);
        let moved: Vec<RelPath> = std::iter::once(from.clone()).chain(below(&self.source, &from)).collect();
        let mut directory = false;
        for old in moved {
            let node = self.source.remove(&old).expect("it was listed");
            directory |= old == from && node.is_none();
            self.source.insert(RelPath::new(&[&to, &old[from.len()..]].concat()).unwrap(), node);
        }
        // Not always what became of it.
        let told = match self.random.u8(..8) {
            0 => None,
            1 => Some(self.dir().join(b"a")).filter(|to| !to.is_root()),
            _ => Some(to.clone()),
        };
        self.dirty.push(Item { gone: true, to: told, ..item(&from.to_string()) });
        let kind = if directory { Kind::Subtree } else { Kind::Entry };
        self.dirty.push(Item { kind, directory, ..item(&to.to_string()) });
    }

    /// The follower reads what the stream has, perhaps with repetitions and gaps.
    fn read(&mut self) {
        let want = self.machine.read().map_or(1, |point| point.sequence + 1);
        if self.random.u8(..4) == 0
            && let Some((&at, record)) = self.stream.last_key_value()
        {
            let (began, end) = self.look.take().unwrap_or((self.clock, at));
            self.machine.looked(Duration::from_millis(began - self.born), end);
            self.machine.end(at, Ok(record.clone()));
        }
        let from = self.machine.read().map_or(want, |point| point.sequence + 1).saturating_sub(self.random.u64(..3));
        let most = self.random.usize(1..4);
        let next: Vec<(u64, Record)> = self.stream.range(from..).take(most).map(|(at, r)| (*at, r.clone())).collect();
        for (at, record) in next {
            self.machine.record(at, Ok(record));
        }
    }

    /// The follower gives names, and may be killed before and after each.
    fn give_names(&mut self) {
        while let Some(given) = self.machine.next_move() {
            let thing = match self.mine.get(&given.from) {
                Some(None) => Thing::Directory,
                Some(Some(_)) => Thing::File,
                None => continue,
            };
            if !self.machine.begin_move(&given, thing) {
                continue;
            }
            self.disk = self.machine.saved();
            if self.random.u8(..20) == 0 {
                return self.kill();
            }
            let into = path::parent(&given.to).map(RelPath::from_normal).and_then(|dir| self.mine.get(&dir).copied());
            if into != Some(None) || self.mine.contains_key(&given.to) || self.random.u8(..10) == 0 {
                self.machine.not_moved(&given);
                continue;
            }
            let moved: Vec<RelPath> = std::iter::once(given.from.clone()).chain(below(&self.mine, &given.from)).collect();
            for old in moved {
                let mut node = self.mine.remove(&old).expect("it was listed");
                // It may have been pulled after the rename, or changed by another hand.
                if matches!(node, Some(content) if content % 3 > 0) && self.random.bool() {
                    node = Some(self.random.u32(..1_000_000) * 3 + 1);
                }
                let new = RelPath::new(&[&given.to, &old[given.from.len()..]].concat()).unwrap();
                if node.is_some() {
                    self.named.insert(new.clone());
                }
                self.mine.insert(new, node);
            }
            self.renamed += 1;
            if self.random.u8(..20) == 0 {
                return self.kill();
            }
            self.machine.end_move(given, thing);
        }
    }

    fn kill(&mut self) {
        (self.machine, self.flying) = (Machine::new(Some(self.disk.clone()), 1_000, Duration::ZERO), None);
        (self.born, self.look) = (self.clock, None);
    }

    fn work(&mut self) {
        if self.flying.is_none() {
            self.give_names();
        }
        match self.flying.take() {
            None => self.flying = self.machine.take(Duration::MAX),
            Some(work) => {
                let end = match self.random.u8(..5) {
                    0 => End::Not,
                    _ => self.carry_out(&work),
                };
                let mine = &self.mine;
                self.machine.ended(self.now(), end, &|path| mine.get(path) == Some(&None));
            }
        }
        self.disk = self.machine.saved();
    }

    fn fault(&mut self) {
        match self.random.u8(..6) {
            // The follower is killed.
            0..3 => self.kill(),
            // Retention.
            3 => {
                let keep = self.last.saturating_sub(self.random.u64(..3));
                self.stream.retain(|at, _| *at >= keep);
            }
            // An old store is put back: the tail is lost, and the next publish is refused.
            4 => {
                let back = self.random.u64(1..4);
                self.last = self.last.saturating_sub(back);
                self.stream.retain(|at, _| *at <= self.last);
                self.begin_anew();
            }
            // The store is wiped.
            _ => {
                self.stream.clear();
                (self.created, self.last) = (self.created + 1, 0);
                self.begin_anew();
                for _ in 0..self.random.u64(..5) {
                    self.store(false);
                }
            }
        }
    }

    fn step(&mut self) {
        self.clock += 1;
        if self.random.u8(..4) == 0 {
            self.look = Some((self.clock, self.last));
        }
        // What is published at once, and pulled at once, leaves room for the next batch.
        let chosen = match self.random.u8(..20) {
            n @ 0..5 if self.calm => n + 7,
            n => n,
        };
        match chosen {
            0..7 => self.change(),
            7..11 => self.store(false),
            11..14 => self.read(),
            14..19 => self.work(),
            _ if self.calm && self.random.u8(..10) > 0 => self.read(),
            _ => self.fault(),
        }
    }

    /// Nothing changes any more.
    fn come_to_rest(&mut self) {
        self.store(false);
        for _ in 0..2_000 {
            self.clock += 1;
            let (at, last) = self.stream.last_key_value().map(|(at, r)| (*at, r.clone())).expect("one was stored just now");
            self.machine.end(at, Ok(last));
            let from = self.machine.read().map_or(1, |point| point.sequence + 1);
            let next: Vec<(u64, Record)> = self.stream.range(from..).map(|(at, r)| (*at, r.clone())).collect();
            next.into_iter().for_each(|(at, record)| self.machine.record(at, Ok(record)));
            if self.flying.is_none() {
                self.give_names();
            }
            if let Some(work) = self.flying.take().or_else(|| self.machine.take(Duration::MAX)) {
                let end = self.carry_out(&work);
                let mine = &self.mine;
                self.machine.ended(self.now(), end, &|path| mine.get(path) == Some(&None));
            }
            if self.machine.in_sync() && sequence(&self.machine) == Some(self.last) {
                return;
            }
        }
        panic!("no rest: {:?}", self.machine);
    }
}

/// The list of a batch.
fn by_name(items: &[Item]) -> Work {
    let paths = items.iter().map(|item| (item.path.clone(), item.kind)).collect();
    Work::List { deep: false, trust: Trust::Nothing, paths, gone: 0, deletes: true }
}

#[test]
fn any_history_ends_equal() {
    let (mut applied, mut renamed) = (0, 0);
    for seed in 0..600 {
        let mut world = World::new(seed);
        for step in 0..400 {
            world.step();
            // A position is never early.
            if step % 40 == 39
                && world.dirty.is_empty()
                && sequence(&world.machine) == Some(world.last)
                && world.machine.in_sync()
                && world.machine.read().map(|p| (p.stream, p.incarnation)) == Some((world.created, world.incarnation))
            {
                assert_eq!(world.mine, world.source, "seed {seed}, step {step}: the position is early");
            }
        }
        world.come_to_rest();
        assert_eq!(world.mine, world.source, "seed {seed}");
        applied += world.applied;
        renamed += world.renamed;
    }
    assert!(renamed > 200, "names were given: {renamed}");
    assert!(applied > 200, "batches were applied: {applied}");
}
