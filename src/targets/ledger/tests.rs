use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { max_paths: 5, ignore_holds: true };

pub(in crate::targets) fn ledger() -> Ledger {
    Ledger::new(1000, Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60) })
}

/// Takes what leaves next.
fn take(ledger: &mut Ledger) -> Option<Batch> {
    ledger.set.take_shallow(LIMITS, &mut |_, _| false).or_else(|| ledger.set.take_deep(LIMITS))
}

/// Parks an entry of a batch in a place.
fn put(ledger: &mut Ledger, place: Where, id: BatchId, entry: Entry) {
    let (now, path) = (Duration::ZERO, entry.path.clone());
    match place {
        Where::Flying => return,
        Where::Pending => return ledger.turn(id, entry),
        Where::Unanswered => {
            let (since, carried) = (entry.epoch(), vec![(path, entry.kind)]);
            ledger.unanswered.push(Unanswered { due: now, since, carried });
            ledger.set.confirm(id, vec![entry]);
            return;
        }
        Where::Long => {
            let parked = ledger.set.parked(path.clone(), entry.epoch());
            ledger.long.note(now, &path, 5000, |_| parked);
            ledger.set.confirm(id, vec![entry]);
            return;
        }
        _ => ledger.set.park(id, std::slice::from_ref(&entry)),
    }
    match place {
        Where::Failed => ledger.retries.fail(now, vec![entry], "denied", 0.0),
        Where::Withheld => ledger.withheld.push(guarded::Withheld::of(vec![entry])),
        Where::Shelved => ledger.shelf.put(entry),
        Where::Again => ledger.retries.at_once(now, vec![entry], 1),
        Where::Large => {
            if let Some(old) = ledger.large.put(entry, 0) {
                ledger.set.forget(vec![old]);
            }
        }
        Where::Links => ledger.linking.put_behind(entry),
        Where::Names => ledger.sought.put(entry),
        Where::After => ledger.send_after(id, entry),
        Where::Recount => {
            let entries = ledger.recount.take().into_iter().chain([entry]).collect();
            ledger.recount = recount::Recount::Waits { entries, due: now };
        }
        Where::Flying | Where::Pending | Where::Unanswered | Where::Long => unreachable!("done above"),
    }
}

/// A ledger with one change, in a place.
pub(in crate::targets) fn with(place: Where, path: &str, seen: Seen) -> Ledger {
    let mut ledger = ledger();
    ledger.set.see(path.as_bytes(), seen);
    let mut batch = take(&mut ledger).expect("it was just seen");
    put(&mut ledger, place, batch.id, batch.entries.remove(0));
    ledger
}

#[test]
fn every_place_is_named() {
    for place in ALL {
        let want = match place {
            Where::Long => [None, None, Some(place)], // a path that is too long is in it
            _ => [Some(place); 3],
        };
        let ledger = with(place, "d/e", Seen::Written);
        assert_eq!([Reach::Itself, Reach::At, Reach::Below].map(|reach| ledger.why(b"d/e", reach, &[])), want);
        let other = (place == Where::Flying).then_some(Where::Pending); // the set holds both
        assert_eq!(ledger.why(b"d/e", Reach::Below, &[place]), other, "{place:?} does not count");
        assert_eq!(ledger.in_sync(), place == Where::Unanswered, "{place:?}");
        assert_eq!(ledger.in_doubt(), place == Where::Unanswered, "{place:?}");
    }
}

#[test]
fn how_far_a_question_reaches() {
    let reaches = [Reach::Itself, Reach::At, Reach::Below];
    for place in [Where::Failed, Where::Withheld, Where::Again, Where::After, Where::Links] {
        for (seen, path, want) in [
            (Seen::Touched, "d/e", [true; 3]),
            (Seen::Touched, "d/e/f", [false, true, false]),
            (Seen::Touched, "d", [false, false, true]),
            (Seen::Touched, "", [false, false, true]),
            (Seen::Touched, "d/ef", [false; 3]),
            (Seen::Touched, "d/f", [false; 3]),
            (Seen::Subtree, "d/e/f", [true; 3]),
            (Seen::Contents, "d/e/f", [true; 3]),
            (Seen::GoneDir, "d/e/f", [true; 3]),
        ] {
            let ledger = with(place, "d/e", seen);
            let got = reaches.map(|reach| ledger.why(path.as_bytes(), reach, &[]).is_some());
            assert_eq!(got, want, "{seen:?} of d/e, {place:?}: {path}");
        }
        // That the root's attributes wait says nothing of what is in it.
        let ledger = with(place, "", Seen::Touched);
        assert_eq!(reaches.map(|reach| ledger.why(b"d", reach, &[]).is_some()), [false; 3]);
        assert_eq!(reaches.map(|reach| ledger.why(b"", reach, &[]).is_some()), [true; 3]);
    }
}

#[test]
fn what_goes_on_by_itself() {
    for place in ALL {
        let ledger = with(place, "f", Seen::Written);
        let rests =
            matches!(place, Where::Failed | Where::Long | Where::Withheld | Where::Shelved | Where::Flying | Where::Unanswered);
        assert_eq!(ledger.goes_on(), !rests, "{place:?}");
        assert_eq!(ledger.is_held(), matches!(place, Where::Withheld | Where::Shelved), "{place:?}");
        assert_eq!(ledger.failing(), usize::from(matches!(place, Where::Failed | Where::Long)), "{place:?}");
    }
}

#[test]
fn what_is_sent_after_a_run_is_pending_when_that_has_ended() {
    let mut ledger = ledger();
    let since = ledger.epochs().current();
    let entry = ledger.set.parked(RelPath::from_normal("d"), since);
    ledger.send_after(7, entry);
    ledger.landed(8);
    assert_eq!((ledger.set.pending(), ledger.sent_after(7).len()), (0, 1));
    ledger.landed(7);
    assert_eq!((ledger.set.pending(), ledger.sent_after(7).len(), ledger.total()), (1, 0, 1));
}

#[derive(Clone, Debug)]
enum Step {
    See(&'static str, Seen),
    /// The oldest batch ends: what becomes of each of its entries, in turn; `None`: confirmed.
    End(Vec<Option<Where>>),
    Take,
    /// All that waits for its next round, and all failures, leave.
    Again,
    /// Every place but failures is emptied.
    Release,
}

const PATHS: [&str; 9] = ["", "a", "a/b", "a/b/c", "a-b", "a/b-", "d", "d/e", "d/e/f"];

fn step() -> impl Strategy<Value = Step> {
    let seen = proptest::sample::select(vec![
        Seen::Written,
        Seen::Touched,
        Seen::Gone,
        Seen::GoneDir,
        Seen::CreatedDir,
        Seen::Contents,
        Seen::Subtree,
    ]);
    let end = proptest::option::weighted(0.6, proptest::sample::select(ALL.to_vec()));
    prop_oneof![
        4 => (proptest::sample::select(PATHS.to_vec()), seen).prop_map(|(path, seen)| match seen {
            // The source itself neither comes nor goes.
            Seen::Written | Seen::Gone | Seen::GoneDir | Seen::CreatedDir if path.is_empty() => Step::See(path, Seen::Touched),
            seen => Step::See(path, seen),
        }),
        3 => Just(Step::Take),
        3 => proptest::collection::vec(end, 1..4).prop_map(Step::End),
        1 => Just(Step::Again),
        1 => Just(Step::Release),
    ]
}

fn release(ledger: &mut Ledger) {
    let withheld = std::mem::take(&mut ledger.withheld).into_iter().flat_map(guarded::Withheld::into_entries);
    let entries: Vec<Entry> = withheld.chain(ledger.recount.take()).chain(ledger.retries.take_all()).collect();
    entries.into_iter().for_each(|e| ledger.set.restore(e));
    let after: Vec<BatchId> = ledger.after.keys().copied().collect();
    after.into_iter().for_each(|id| ledger.landed(id));
    ledger.look_again_at_unanswered(Duration::ZERO);
}

/// What must hold of every ledger.
fn check(ledger: &Ledger) -> Result<(), TestCaseError> {
    let reaches = [Reach::Itself, Reach::At, Reach::Below];
    let index = ledger.index();
    let none = ledger.in_sync() && ledger.unanswered.is_empty();
    prop_assert_eq!(ledger.why(b"", Reach::Below, &[]).is_none(), none, "{} counted", ledger.total());
    for path in PATHS.map(str::as_bytes) {
        for reach in reaches {
            for but in [&[][..], &[Where::Withheld, Where::Failed, Where::Flying], &[Where::Long, Where::Unanswered]] {
                prop_assert_eq!(ledger.why(path, reach, but), index.why(path, reach, but), "{:?} {:?}", path, reach);
            }
        }
        // A query for more finds more.
        let [itself, at, below] = reaches.map(|reach| ledger.why(path, reach, &[]).is_some());
        prop_assert!(!itself || at && below, "{:?}", path);
        for above in std::iter::successors(path::parent(path), |at| path::parent(at)) {
            prop_assert!(!itself || ledger.why(above, Reach::Below, &[]).is_some(), "{:?} above {:?}", above, path);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn nothing_is_lacking_exactly_when_nothing_is_counted(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut ledger, mut flying) = (ledger(), std::collections::VecDeque::<Batch>::new());
        for step in steps {
            match step {
                Step::See(path, seen) => ledger.set.see(path.as_bytes(), seen),
                Step::Take => flying.extend(take(&mut ledger)),
                Step::Again => {
                    while let Some((entries, round)) = ledger.retries.take_due(Duration::from_secs(9999)) {
                        flying.extend(ledger.set.take_again(entries, round));
                    }
                }
                Step::Release => release(&mut ledger),
                Step::End(places) => {
                    let Some(Batch { id, entries, .. }) = flying.pop_front() else { continue };
                    for (entry, place) in entries.into_iter().zip(places.into_iter().cycle()) {
                        match place {
                            Some(Where::Flying) | None => {
                                let over = ledger.retries.confirmed(id, &entry);
                                ledger.set.forget(over);
                                let again = ledger.set.confirm(id, vec![entry]);
                                again.into_iter().for_each(|e| ledger.set.restore(e));
                            }
                            Some(place) => put(&mut ledger, place, id, entry),
                        }
                    }
                }
            }
            check(&ledger)?;
        }
    }
}

/// An attempt for a failing path ends as one for something else, or as needless: nothing has
/// confirmed it, so it is tried again. One that is on its way is not.
#[test]
fn a_failure_whose_attempt_is_lost_is_tried_again() {
    let now = Duration::from_secs(100);
    let tries = |ledger: &mut Ledger| ledger.retries.take_due(now).map(|(entries, _)| entries);
    let mut ledger = with(Where::Failed, "f", Seen::Written);
    let entries = tries(&mut ledger).expect("it is due");
    let batch = ledger.set.take_again(entries, 3).expect("nothing is in its way");
    ledger.try_lost_again(now);
    assert_eq!(tries(&mut ledger), None, "it flies");
    let Batch { id, entries, .. } = batch;
    ledger.set.park(id, &entries);
    ledger.forget(entries);
    assert_eq!((tries(&mut ledger), ledger.failing()), (None, 1));
    ledger.try_lost_again(now);
    let again = tries(&mut ledger).expect("it is due");
    assert_eq!((again.len(), &*again[0].path, again[0].content), (1, &b"f"[..], true));
    let id = ledger.set.take_again(again, 3).expect("nothing is in its way").id;
    let over = ledger.retries.confirmed(id, &ledger.set.parked(RelPath::from_normal("f"), ledger.set.epochs().current()));
    assert_eq!((over.len(), ledger.failing()), (0, 0));
}

#[test]
fn the_next_paths_come_by_their_order_and_those_of_one_path_together() {
    let paths = ["e", "b", "d", "b", "a", "c"].map(|path| RelPath::new(path.as_bytes()).unwrap());
    let mut reached = None;
    let mut next = |most| {
        let found = next_by_path(paths.iter().map(|path| (path, None)), &mut reached, most);
        let mut found: Vec<_> = found.into_iter().map(|(path, _)| path.to_string()).collect();
        found.sort();
        (found.concat(), reached.is_some())
    };
    assert_eq!(
        [2, 2, 2, 9].map(&mut next),
        [("abb", true), ("cd", true), ("e", false), ("abbcde", false)].map(|(p, m)| (p.into(), m))
    );
}
