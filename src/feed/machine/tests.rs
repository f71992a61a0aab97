//! The position, what becomes an owed comparison, and paths that fail.

use super::batch_tests::TREE;
use super::*;
use crate::feed::record::Item;

pub(super) fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

pub(super) fn item(text: &str) -> Item {
    Item { path: path(text), kind: Kind::Entry, gone: false, directory: false, content: true, to: None }
}

pub(super) fn record(incarnation: u64, number: u64, entries: Vec<Item>) -> Record {
    Record { incarnation, number, stream: 1, entries, ..Record::default() }
}

pub(super) fn follower() -> Machine {
    Machine::new(None, 1_000, Duration::from_secs(1))
}

/// One that holds everything up to the record 5 of the incarnation 1.
pub(super) fn in_sync() -> Machine {
    let point = Point { stream: 1, incarnation: 1, number: 5, sequence: 5 };
    Machine::new(Some(Saved { position: Some(point), ..Saved::default() }), 1_000, Duration::from_secs(1))
}

pub(super) fn sequence(machine: &Machine) -> Option<u64> {
    machine.position().map(|point| point.sequence)
}

pub(super) const NOW: Duration = Duration::ZERO;

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

/// A flush compares numbers of the stream: those of one that was made anew, or set back, begin
/// before what the follower held of the old one.
#[test]
fn numbers_of_a_stream_that_was_made_anew_begin_before_those_of_the_old_one() {
    for (what, stream, incarnation) in [("another stream", 2, 1), ("set back", 1, 2)] {
        for by_its_end in [false, true] {
            let mut machine = in_sync();
            let of = |number, entries| Ok(Record { stream, ..record(incarnation, number, entries) });
            if by_its_end {
                assert!(machine.end(1, of(1, vec![])));
            } else {
                machine.record(1, of(1, vec![]));
            }
            assert_eq!((machine.held(), machine.take(NOW)), (None, Some(Work::Whole)), "{what}");
            machine.record(2, of(2, vec![item("a")]));
            (3..8).for_each(|number| machine.record(number, of(number, vec![])));
            machine.ended(NOW, End::Done, &|_| false);
            assert!(machine.held().is_none_or(|held| held < 2), "{what}: what came meanwhile is not held");
            assert!(matches!(machine.take(NOW), Some(Work::List { .. })));
            machine.ended(NOW, End::Done, &|_| false);
            assert_eq!((machine.held(), machine.in_sync()), (Some(7), true), "{what}");
        }
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

fn complained(at: &RelPath, absent: bool, words: &str) -> End {
    let complaints = vec![Complaint { path: at.clone(), absent, words: words.into() }];
    End::Partly { complaints, complete: true }
}

pub(super) fn refused(at: &RelPath) -> End {
    complained(at, false, "it cannot be copied")
}

fn vanished(text: &str) -> End {
    complained(&path(text), true, "file has vanished")
}

/// A follower with this path among its failures, whose next try is due.
fn failing_at(text: &str) -> Machine {
    let mut machine = in_sync();
    machine.record(6, Ok(record(1, 6, vec![item(text)])));
    while machine.failed().is_empty() {
        assert!(machine.take(NOW).is_some(), "{machine:?}");
        machine.ended(NOW, refused(&path(text)), &|_| false);
    }
    assert_eq!(machine.failed().keys().collect::<Vec<_>>(), [&path(text)]);
    machine.retry();
    machine
}

#[test]
fn what_takes_the_place_of_a_failure_is_pulled_at_once() {
    let mut machine = failing_at("d/f");
    // Its directory has gone, then is another one, in which something goes while it is compared.
    for (end, next) in [
        (vanished("d"), Some((Kind::Entry, "d"))),
        (End::Done, Some((Kind::Subtree, "d"))),
        (vanished("d/x"), Some((Kind::Subtree, "d"))),
        (End::Done, None),
    ] {
        assert!(machine.take(NOW).is_some(), "{machine:?}");
        machine.ended(NOW, end.clone(), &|at| *at == path("d"));
        let waits: Vec<_> = machine.pending().iter().map(|(at, need)| (need.kind, at.clone())).collect();
        let wanted: Vec<_> = next.into_iter().map(|(kind, at)| (kind, path(at))).collect();
        assert_eq!((waits, machine.failed().len()), (wanted, 0), "after {end:?}");
        assert_eq!(machine.failing(), usize::from(next.is_some()), "it is not in the position");
    }
    assert!(machine.in_sync());
}

#[test]
fn a_failure_that_is_tried_again_outlives_the_process() {
    let mut machine = failing_at("d/f");
    assert!(machine.take(NOW).is_some());
    assert_eq!(machine.saved().failed, [b"d/f".to_vec()], "in a run");
    machine.ended(NOW, vanished("d"), &|_| false);
    assert_eq!(machine.saved().failed, [b"d".to_vec()], "what takes its place");
}

#[test]
fn what_failed_below_what_is_no_directory_by_now_is_forgotten() {
    for (is_link, failing) in [(true, 0), (false, 1)] {
        let is_dir = |at: &RelPath| *at != path("d") || !is_link;
        let mut machine = failing_at("d/f");
        machine.owe("it was asked for".into());
        assert_eq!(machine.take(NOW), Some(Work::Whole));
        machine.ended(NOW, End::Done, &is_dir);
        assert_eq!(machine.failing(), failing, "the whole tree, a link: {is_link}");
        let mut machine = failing_at("p/d/f");
        let is_dir = |at: &RelPath| *at != path("p/d") || !is_link;
        machine.record(7, Ok(record(1, 7, vec![Item { kind: Kind::Subtree, directory: true, ..item("p") }])));
        assert!(matches!(machine.take(NOW), Some(Work::List { deep: true, .. })));
        machine.ended(NOW, End::Done, &is_dir);
        assert_eq!(machine.failing(), failing, "a directory, a link in it: {is_link}");
    }
}
