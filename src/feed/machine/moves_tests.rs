//! What a follower renamed by itself is compared by content, come what may.

use super::batch_tests::{at, made, with_batch, with_clock};
use super::tests::{NOW, item, path, sequence};
use super::*;

fn gone_to(from: &str, to: &str) -> Item {
    Item { gone: true, to: Some(path(to)), ..item(from) }
}

/// Record 8 says that `d` has another name, which the follower gave to a directory.
fn renamed_to(to: &str) -> Machine {
    let mut machine = with_clock();
    machine.record(8, Ok(with_batch(8, vec![gone_to("d", to)], None)));
    let given = machine.next_move().expect("it waits");
    assert!(machine.begin_move(&given, Thing::Directory));
    machine.end_move(given, Thing::Directory);
    machine
}

/// What is compared by content until nothing is left to do, where all runs end well.
fn compared(machine: &mut Machine) -> Vec<(RelPath, Kind)> {
    let mut out = Vec::new();
    for _ in 0..20 {
        match machine.take(at(12)) {
            None => {
                assert!(machine.in_sync() && machine.saved().doubted.is_empty(), "{machine:?}");
                return out;
            }
            Some(Work::List { trust: Trust::Content, paths, .. }) => out.extend(paths),
            Some(Work::List { .. } | Work::Whole) => {}
            Some(Work::Batch { .. }) => panic!("a batch is applied"),
        }
        machine.ended(at(12), End::Done, &|_| true);
    }
    panic!("without an end");
}

fn whole(to: &str) -> [(RelPath, Kind); 1] {
    [(path(to), Kind::Subtree)]
}

#[test]
fn a_new_name_is_compared_by_content_once() {
    let mut machine = renamed_to("n");
    assert_eq!(machine.saved().doubted, [(b"n".to_vec(), true)]);
    assert_eq!((compared(&mut machine), sequence(&machine)), (whole("n").to_vec(), Some(8)));
}

#[test]
fn a_new_name_is_doubted_after_a_comparison_of_the_whole_tree() {
    let mut machine = renamed_to("n");
    machine.owe("it was asked for".into());
    assert_eq!(machine.take(NOW), Some(Work::Whole));
    machine.ended(NOW, End::Done, &|_| true);
    assert_eq!(compared(&mut machine), whole("n"));
    // One that was let go with what cannot be copied.
    let mut machine = renamed_to("n");
    machine.owe("it was asked for".into());
    while machine.owes() {
        assert_eq!(machine.take(NOW), Some(Work::Whole));
        let complaint = Complaint { path: path("x"), absent: false, words: "it cannot be copied".into() };
        machine.ended(NOW, End::Partly { complaints: vec![complaint], complete: true }, &|_| true);
    }
    assert_eq!(compared(&mut machine), whole("n"));
}

#[test]
fn a_new_name_is_doubted_after_a_restart() {
    let again = |saved: Saved| Machine::new(Some(saved), 1_000, Duration::ZERO);
    let mut machine = again(renamed_to("n").saved());
    assert_eq!(sequence(&machine), Some(7));
    assert_eq!(compared(&mut machine), whole("n"));
    // Killed while it was renamed.
    let mut machine = with_clock();
    machine.record(8, Ok(with_batch(8, vec![gone_to("d", "n")], None)));
    let given = machine.next_move().expect("it waits");
    machine.begin_move(&given, Thing::Directory);
    let mut machine = again(machine.saved());
    assert_eq!(compared(&mut machine), whole("n"));
    // Twice, with the whole tree to be compared.
    let mut machine = renamed_to("n");
    machine.owe("it was asked for".into());
    let mut machine = again(again(machine.saved()).saved());
    machine.record(9, Ok(with_batch(9, vec![], None)));
    assert!(machine.owes());
    assert_eq!(compared(&mut machine), whole("n"));
}

#[test]
fn a_new_name_is_doubted_after_a_run_that_did_not_compare_its_content() {
    let mut machine = renamed_to("n");
    // It was not there, and is there again.
    while let Some(Work::List { trust, .. }) = machine.take(at(12)) {
        let absent = Complaint { path: path("n"), absent: true, words: "it has vanished".into() };
        match trust {
            Trust::Content => machine.ended(at(12), End::Partly { complaints: vec![absent], complete: true }, &|_| true),
            _ => machine.ended(at(12), End::Done, &|_| true),
        };
        if trust == Trust::Content {
            break;
        }
    }
    assert_eq!(compared(&mut machine), whole("n"));
}

#[test]
fn a_new_name_that_is_doubted_is_not_given_to_another_thing() {
    let mut machine = renamed_to("n");
    machine.record(9, Ok(with_batch(9, vec![gone_to("e", "n"), gone_to("f", "m")], None)));
    let given = machine.next_move().expect("it waits");
    assert!(!machine.begin_move(&given, Thing::File), "what is doubted may be a directory still");
    let given = machine.next_move().expect("it waits");
    assert!(machine.begin_move(&given, Thing::File));
    machine.not_moved(&given);
    machine.owe("it was asked for".into());
    assert_eq!(compared(&mut machine), whole("n"), "and nothing of what was not renamed");
}

#[test]
fn a_new_name_is_doubted_after_a_run_above_it() {
    let above = Item { kind: Kind::Subtree, directory: true, content: false, ..item("p") };
    let mut machine = renamed_to("p/n");
    machine.record(9, Ok(with_batch(9, vec![above], None)));
    assert_eq!(machine.queued(), 0);
    assert_eq!((compared(&mut machine), sequence(&machine)), (whole("p/n").to_vec(), Some(9)));
}

#[test]
fn batches_that_wait_at_a_new_name_are_pulled() {
    for (at_name, queued) in [("n/x", 0), ("n", 0), ("other", 1)] {
        let mut machine = with_clock();
        machine.record(8, Ok(with_batch(8, vec![gone_to("d", "n")], None)));
        machine.record(9, Ok(with_batch(9, vec![item(at_name)], made(102))));
        assert_eq!(machine.queued(), 1, "{at_name}: it waits");
        let given = machine.next_move().expect("it waits");
        machine.begin_move(&given, Thing::Directory);
        machine.end_move(given, Thing::Directory);
        assert_eq!(machine.queued(), queued, "{at_name}");
    }
}

#[test]
fn what_is_doubted_below_what_is_no_directory_by_now_is_forgotten() {
    for (is_link, left) in [(true, vec![]), (false, whole("p/n").to_vec())] {
        let mut machine = renamed_to("p/n");
        machine.owe("it was asked for".into());
        // Killed before the comparison, too: it goes before what is doubted.
        let mut machine = Machine::new(Some(machine.saved()), 1_000, Duration::ZERO);
        assert!(machine.pending().is_empty());
        machine.record(9, Ok(with_batch(9, vec![], None)));
        assert_eq!(machine.take(NOW), Some(Work::Whole));
        machine.ended(NOW, End::Done, &|at| *at != path("p") || !is_link);
        assert_eq!(compared(&mut machine), left, "a link: {is_link}");
    }
}
