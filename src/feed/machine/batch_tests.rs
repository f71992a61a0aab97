//! When a batch is applied, and when its paths are pulled.

use super::tests::{in_sync, item, path, record, sequence};
use super::*;

pub(super) const SECOND: u64 = 1_000_000;

/// A batch that was made so many seconds after the source was started, a second after the record
/// before it was stored.
pub(super) fn made(seconds: u64) -> Option<Batch> {
    Some(Batch { stored: (seconds - 1) * SECOND, made: seconds * SECOND, ..Batch::default() })
}

pub(super) fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) const TREE: Identity = [7; 16];

pub(super) fn with_batch(number: u64, entries: Vec<Item>, batch: Option<Batch>) -> Record {
    Record { identity: TREE, batch, ..record(1, number, entries) }
}

/// One that is in sync up to the record 7, and knows the publisher's clock: its own second 10 came
/// before that one's second 100, when 6 was stored.
pub(super) fn with_clock() -> Machine {
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
