use super::*;
use crate::config::hook::{Action, Command, Input, Pattern, When};
use crate::filter::Filter;

const HOUR: Duration = Duration::from_secs(3600);

fn config(adapt: impl FnOnce(&mut Config)) -> Config {
    let (prefix, suffix, success) = ("true".into(), String::new(), vec![0]);
    let command = Command { prefix, suffix, shell: false, input: Input::Stdin, success, ignore_error: false };
    let mut config = Config::new("h", When::Confirmed, Action::Command(command));
    (config.retry_min, config.retry_max) = (Duration::ZERO, Duration::ZERO);
    adapt(&mut config);
    config
}

fn queue(adapt: impl FnOnce(&mut Config)) -> Queue {
    Queue::new("m".into(), Arc::new(config(adapt)))
}

fn event(path: &str, change: Change) -> Event {
    Event::new(RelPath::from_normal(path), Some(change), change == Change::Subtree, None, String::new())
}

fn push(queue: &Queue, path: &str, change: Change) {
    queue.push(event(path, change), Duration::ZERO);
}

/// The next delivery.
fn taken(queue: &Queue) -> Vec<(String, Change)> {
    named(&queue.take().expect("the queue is open"))
}

fn named(events: &[Event]) -> Vec<(String, Change)> {
    events.iter().map(|e| (e.path.to_string(), e.change.expect("pushed with one"))).collect()
}

fn changed(path: &str) -> (String, Change) {
    (path.into(), Change::Changed)
}

#[test]
fn each_path_waits_once_with_its_last_change_in_the_order_of_the_first() {
    let queue = queue(|_| {});
    for (path, change) in [("a", Change::Changed), ("b", Change::Changed), ("a", Change::Deleted)] {
        push(&queue, path, change);
    }
    assert_eq!(taken(&queue), [("a".into(), Change::Deleted), changed("b")]);
}

#[test]
fn a_subtree_stays_one_whatever_happens_to_its_top() {
    let queue = queue(|_| {});
    push(&queue, "d", Change::Subtree);
    push(&queue, "d", Change::Directory);
    let events = queue.take().unwrap();
    assert_eq!((named(&events), events[0].dir), (vec![("d".into(), Change::Subtree)], true));
}

#[test]
fn past_the_bound_the_oldest_is_dropped_and_counted() {
    let queue = queue(|c| c.max_pending = 2);
    for path in ["a", "b", "b", "c", "d"] {
        push(&queue, path, Change::Changed);
    }
    assert_eq!(queue.dropped(), 2);
    assert_eq!(taken(&queue), [changed("c"), changed("d")]);
}

#[test]
fn a_delivery_has_at_most_the_batch() {
    let queue = queue(|c| c.batch = 2);
    for path in ["a", "b", "c"] {
        push(&queue, path, Change::Changed);
    }
    assert_eq!((taken(&queue), taken(&queue)), (vec![changed("a"), changed("b")], vec![changed("c")]));
}

#[test]
fn a_path_in_delivery_that_changes_again_waits_for_its_end() {
    let queue = queue(|c| c.batch = 1);
    push(&queue, "a", Change::Changed);
    let first = queue.take().unwrap();
    push(&queue, "a", Change::Deleted);
    push(&queue, "b", Change::Changed);
    assert_eq!(taken(&queue), [changed("b")], "the order would be lost");
    queue.done(&first, true);
    assert_eq!(taken(&queue), [("a".into(), Change::Deleted)]);
}

#[test]
fn what_is_held_lets_others_pass() {
    let queue = queue(|c| c.batch = 1);
    queue.push(event("held", Change::Changed), HOUR);
    push(&queue, "b", Change::Changed);
    assert_eq!(taken(&queue), [changed("b")]);
    assert_eq!(queue.status(0, 0).pending, 1);
    // Not at a stop: each is tried once more.
    queue.begin_stop();
    assert_eq!(taken(&queue), [changed("held")]);
}

#[test]
fn a_change_that_fails_is_tried_as_often_as_configured() {
    let queue = queue(|c| c.tries = 2);
    push(&queue, "a", Change::Changed);
    queue.failed(queue.take().unwrap(), "no", false);
    let status = queue.status(0, 9);
    assert_eq!((status.retries, status.failed, status.failures[0].tries), (1, 0, 1));
    queue.failed(queue.take().unwrap(), "no", false);
    let status = queue.status(0, 9);
    assert_eq!((status.retries, status.failed, status.pending), (1, 1, 0));
    assert_eq!((status.failures[0].path.as_str(), status.failures[0].reason.as_str(), status.failures[0].tries), ("a", "no", 2));
    // A later delivery of the path ends it.
    push(&queue, "a", Change::Changed);
    queue.done(&queue.take().unwrap(), true);
    let status = queue.status(0, 9);
    assert_eq!((status.delivered, status.failures.len(), status.failed), (1, 0, 1));
}

#[test]
fn what_is_of_no_use_is_tried_once_and_what_changed_again_in_its_place() {
    let queue = queue(|c| (c.tries, c.batch) = (9, 1));
    push(&queue, "a", Change::Changed);
    queue.failed(queue.take().unwrap(), "no", true);
    assert_eq!((queue.status(0, 9).failed, queue.status(0, 9).pending), (1, 0));
    push(&queue, "b", Change::Changed);
    let first = queue.take().unwrap();
    push(&queue, "b", Change::Deleted);
    queue.failed(first, "no", true);
    assert_eq!((queue.status(0, 9).failed, taken(&queue)), (1, vec![("b".into(), Change::Deleted)]));
}

#[test]
fn a_stop_returns_what_was_not_delivered() {
    let queue = queue(|c| c.batch = 1);
    for path in ["failing", "flying", "pending"] {
        push(&queue, path, Change::Changed);
    }
    let failing = queue.take().unwrap();
    let flying = queue.take().unwrap();
    queue.begin_stop();
    queue.failed(failing, "no", false);
    // A receiver that is away is not waited for.
    assert!(!queue.pause(&flying, 1, "away", Some(HOUR)));
    let mut left = named(&queue.finish(Instant::now()));
    left.sort();
    assert_eq!(left, [changed("failing"), changed("flying"), changed("pending")]);
    assert!(queue.is_closed() && queue.take().is_none());
}

#[test]
fn the_file_of_an_earlier_daemon_stays_until_all_of_it_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let file = || SavedFile::new(dir.path(), "m", "h");
    let events = vec![event("a", Change::Changed), event("b", Change::Deleted)];
    file().save(&events).unwrap();
    let queue = queue(|c| c.batch = 1);
    queue.take_up(file().load().unwrap(), file());
    queue.done(&queue.take().unwrap(), true);
    assert_eq!(file().load().unwrap(), events, "the second is not delivered");
    queue.failed(queue.take().unwrap(), "no", true);
    assert_eq!(file().load().unwrap(), []);
}

#[test]
fn kinds_patterns_and_expressions_say_what_a_hook_gets() {
    let filter = || Filter::new::<&str, &str>(&[], &["*.tmp"]).unwrap();
    let plain = config(|c| (c.kinds, c.filter) = (vec![Change::Changed, Change::Deleted], filter()));
    let top = config(|c| c.matches = vec![Pattern::whole("/d/.*").unwrap()]);
    for (config, path, change, want) in [
        (&plain, "f", Change::Changed, true),
        (&plain, "f", Change::Deleted, true),
        (&plain, "d", Change::Directory, false),
        (&plain, "d/f.tmp", Change::Changed, false),
        (&top, "d/f", Change::Changed, true),
        (&top, "d", Change::Changed, false),
        (&top, "e/d/f", Change::Changed, false),
    ] {
        assert_eq!(wanted(config, &event(path, change)), want, "{path} {change:?}");
    }
    let unknown = Event { change: None, ..event("d", Change::Directory) };
    assert!(wanted(&plain, &unknown), "the disk says later what it is");
}
