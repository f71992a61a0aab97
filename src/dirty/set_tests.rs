//! The merge rules as tables.

use std::time::Duration;

use super::*;

const ALL: Limits = Limits { max_paths: usize::MAX, ignore_holds: false };

fn set() -> DirtySet {
    DirtySet::new(1_000_000)
}

/// As when every event from before has been seen.
fn settle(s: &mut DirtySet) {
    for _ in 0..2 {
        s.begin_barrier();
        s.end_barrier();
    }
}

/// Takes everything and shows it as `kind path` lines, sorted; `!` marks what was seen to go.
fn drain(s: &mut DirtySet) -> Vec<String> {
    let mut out = Vec::new();
    // Twice: what was written below a comparison goes after it.
    for turn in 0..4 {
        let batch = if turn % 2 == 0 { s.take_shallow(ALL, &mut |_, _| false) } else { s.take_deep(ALL) };
        let Some(batch) = batch else { continue };
        for e in &batch.entries {
            let kind = match e.kind {
                Kind::Entry => "e",
                Kind::Contents => "c",
                Kind::Subtree => "s",
            };
            out.push(format!("{kind}{} {}", if e.gone { "!" } else { "" }, e.path));
        }
        assert_eq!(s.confirm(batch.id, batch.entries), vec![]);
    }
    out.sort();
    out
}

#[test]
fn merge_table() {
    use Seen::*;
    type Case<'a> = (&'a str, &'a [(&'a str, Seen)], &'a [&'a str]);
    #[rustfmt::skip]
    let table: &[Case<'_>] = &[
        ("many events of one file are one path",       &[("a/f", Created), ("a/f", Written), ("a/f", Touched), ("a/f", Written)], &["e a/f"]),
        ("a created file comes and goes",              &[("a/f", Created), ("a/f", Written), ("a/f", Gone)], &["e a"]),
        ("an old file goes",                           &[("a/f", Written), ("a/f", Gone)], &["e! a/f"]),
        ("a deleted file is made again",               &[("f", Gone), ("f", Created), ("f", Written)], &["e! f"]),
        ("an editor's save",                           &[(".f~", Created), (".f~", Written), (".f~", Gone), ("f", Written)], &["e .", "e f"]),
        ("a directory's deletion absorbs",             &[("d/a", Written), ("d/b/c", Gone), ("d", GoneDir)], &["e! d"]),
        ("a new directory and its files",              &[("d", CreatedDir), ("d/f", Created), ("d/f", Written)], &["e d", "e d/f"]),
        ("a new directory comes and goes with all",    &[("d", CreatedDir), ("d/f", Written), ("d", GoneDir)], &["e ."]),
        ("a directory deleted and made again",         &[("d", GoneDir), ("d", CreatedDir), ("d/f", Written)], &["s d"]),
        ("a directory made over dirty paths",          &[("d/f", Written), ("d", CreatedDir)], &["s d"]),
        ("a directory made where a file was deleted",  &[("d", Gone), ("d", CreatedDir)], &["s d"]),
        ("a directory moved in absorbs",               &[("d/f", Written), ("d", Subtree), ("d/g", Written)], &["s d"]),
        ("a directory moved within",                   &[("a", GoneDir), ("b", Subtree)], &["e! a", "s b"]),
        ("two directories swapped",                    &[("a", GoneDir), ("b", Subtree), ("b", GoneDir), ("a", Subtree)], &["s a", "s b"]),
        ("contents absorb what was touched or goes",   &[("d/f", Touched), ("d", Contents), ("d/g", Touched), ("d/h", Gone)], &["c d"]),
        ("contents keep what was written",             &[("d/f", Written), ("d", Contents), ("d/h", Written)], &["c d", "e d/f", "e d/h"]),
        ("contents keep deeper paths",                 &[("d/e/f", Written), ("d", Contents)], &["c d", "e d/e/f"]),
        ("contents keep what was a directory",         &[("d/e", GoneDir), ("d", Contents)], &["c d", "e! d/e"]),
        ("a new directory below contents",             &[("d", Contents), ("d/e", CreatedDir)], &["c d", "e d/e"]),
        ("the whole tree absorbs all",                 &[("a", Touched), ("", Subtree), ("b/c", Touched), ("d", Contents)], &["s ."]),
        ("what was written goes after the whole tree", &[("a", Written), ("", Subtree), ("b/c", Written), ("d", GoneDir)], &["e a", "e b/c", "e! d", "s ."]),
        ("attributes of the root",                     &[("", Touched)], &["e ."]),
        ("names that share a beginning are strangers", &[("ab", Written), ("a/b", Written), ("a", GoneDir)], &["e ab", "e! a"]),
    ];
    for (name, events, want) in table {
        let mut s = set();
        for (path, seen) in *events {
            s.see(path.as_bytes(), *seen);
        }
        assert_eq!(drain(&mut s), *want, "{name}");
        assert_eq!((s.pending(), s.epochs().total(), s.tree.len()), (0, 0, 1), "{name}: something is left");
    }
}

#[test]
fn nothing_leaves_above_below_or_beside_itself_in_flight() {
    let mut s = set();
    s.see(b"a/b/f", Seen::Written);
    let first = s.take_shallow(ALL, &mut |_, _| false).unwrap();
    for (path, seen) in [("a/b/f", Seen::Written), ("a", Seen::GoneDir), ("a/b/g", Seen::Written), ("x", Seen::Written)] {
        s.see(path.as_bytes(), seen);
    }
    let second = s.take_shallow(ALL, &mut |_, _| false).unwrap();
    assert_eq!(second.entries.iter().map(|e| e.path.to_string()).collect::<Vec<_>>(), ["x"], "a waits, and all below it with it");
    s.confirm(first.id, first.entries);
    s.confirm(second.id, second.entries);
    assert_eq!(drain(&mut s), ["e a/b/g", "e! a"]);
}

#[test]
fn a_directory_made_again_while_its_deletion_is_in_flight_is_compared_whole() {
    let mut s = set();
    s.see(b"d", Seen::GoneDir);
    let batch = s.take_shallow(ALL, &mut |_, _| false).unwrap();
    s.see(b"d", Seen::CreatedDir);
    s.confirm(batch.id, batch.entries);
    assert_eq!(drain(&mut s), ["s d"]);
}

#[test]
fn what_is_made_in_a_new_directory_in_flight_is_new_to_the_target() {
    let mut s = set();
    s.see(b"d", Seen::CreatedDir);
    let batch = s.take_shallow(ALL, &mut |_, _| false).unwrap();
    s.see(b"d/e", Seen::CreatedDir);
    s.see(b"d/e/f", Seen::Created);
    s.see(b"d/e/f", Seen::Written);
    s.see(b"d/g", Seen::CreatedDir);
    s.see(b"d/g", Seen::GoneDir);
    s.confirm(batch.id, batch.entries);
    assert_eq!(drain(&mut s), ["e d", "e d/e", "e d/e/f"], "d once more: the times that d/g left");
    // One that was there before may hold anything, and what is compared with all below it may have
    // carried it.
    for (seen, deep) in [(Seen::Touched, false), (Seen::Contents, false), (Seen::Subtree, true)] {
        settle(&mut s);
        s.see(b"o", seen);
        let batch = if deep { s.take_deep(ALL) } else { s.take_shallow(ALL, &mut |_, _| false) }.unwrap();
        s.see(b"o/e", Seen::CreatedDir);
        s.confirm(batch.id, batch.entries);
        assert_eq!(drain(&mut s), ["s o/e"], "{seen:?}");
    }
}

#[test]
fn a_new_directory_in_flight_stays_new_when_its_attributes_change() {
    let mut s = set();
    s.see(b"d", Seen::CreatedDir);
    let batch = s.take_shallow(ALL, &mut |_, _| false).unwrap();
    s.see(b"d", Seen::Touched);
    s.see(b"d/e", Seen::CreatedDir);
    s.confirm(batch.id, batch.entries);
    assert_eq!(drain(&mut s), ["e d", "e d/e"]);
    // When it leaves for the second time, more than it may be carried: it was not new then.
    s.see(b"n", Seen::CreatedDir);
    let batch = s.take_shallow(ALL, &mut |_, _| false).unwrap();
    s.see(b"n", Seen::Touched);
    s.confirm(batch.id, batch.entries);
    let batch = s.take_shallow(ALL, &mut |_, _| false).unwrap();
    s.see(b"n/e", Seen::CreatedDir);
    s.confirm(batch.id, batch.entries);
    assert_eq!(drain(&mut s), ["s n/e"]);
}

/// Failures come together when they are due, and the whole tree may be among them.
#[test]
fn the_whole_tree_covers_what_is_tried_again_with_it() {
    let mut s = set();
    s.see(b"a/f", Seen::Written);
    let small = s.take_shallow(ALL, &mut |_, _| false).unwrap();
    s.park(small.id, &small.entries);
    s.see(b"", Seen::Subtree);
    let whole = s.take_deep(ALL).unwrap();
    s.park(whole.id, &whole.entries);
    let both = s.take_again(small.entries.into_iter().chain(whole.entries).collect(), 3).unwrap();
    assert_eq!(both.entries.iter().map(|e| (e.path.to_string(), e.kind)).collect::<Vec<_>>(), [(".".into(), Kind::Subtree)]);
    s.confirm(both.id, both.entries);
    s.see(b"a/f", Seen::Written);
    assert_eq!(drain(&mut s), ["e a/f"], "nothing is left in flight");
    assert_eq!((s.epochs().total(), s.tree.len()), (0, 1));
}

#[test]
fn what_landed_before_its_event_was_seen_is_not_new() {
    let mut s = set();
    let land = |s: &mut DirtySet| {
        settle(s);
        s.see(b"d", Seen::GoneDir);
        let batch = s.take_shallow(ALL, &mut |_, _| false).unwrap();
        s.confirm(batch.id, batch.entries);
        assert!(s.wants_barrier());
    };
    land(&mut s);
    s.see(b"d", Seen::CreatedDir);
    assert_eq!(drain(&mut s), ["s d"], "the run may have found the new directory and left the old one's contents");
    land(&mut s);
    s.begin_barrier();
    s.see(b"d", Seen::Created);
    s.see(b"d", Seen::Gone);
    assert_eq!(drain(&mut s), ["e! d"]);
    land(&mut s);
    settle(&mut s);
    s.see(b"d", Seen::CreatedDir);
    assert_eq!(drain(&mut s), ["e d"], "every event from before has been seen: this one is later");
}

#[test]
fn what_a_deep_run_may_have_sent_is_not_fresh() {
    let mut s = set();
    s.see(b"d", Seen::Subtree);
    let deep = s.take_deep(ALL).unwrap();
    s.see(b"d/tmp", Seen::Created);
    s.see(b"d/tmp", Seen::Gone);
    s.confirm(deep.id, deep.entries);
    assert_eq!(drain(&mut s), ["e! d/tmp"], "the deep run may have carried it to the target");
}

#[test]
fn what_all_but_a_part_of_a_deep_run_sent_is_not_new_either() {
    let mut s = set();
    s.see(b"d", Seen::Subtree);
    let mut deep = s.take_deep(ALL).unwrap();
    s.park(deep.id, &deep.entries);
    let left = s.narrow(deep.entries.remove(0), [(RelPath::new(b"d/bad").unwrap(), Kind::Entry)]);
    s.see(b"d/tmp", Seen::Created);
    s.see(b"d/tmp", Seen::Gone);
    assert_eq!(drain(&mut s), ["e! d/tmp"], "the deep run has perhaps carried it to the target");
    s.forget(left);
    assert_eq!(s.epochs().total(), 0);
}

#[test]
fn a_held_file_waits_for_its_closing_write_its_time_or_a_flush() {
    let until = Duration::from_secs(1);
    let held = |s: &mut DirtySet| {
        settle(s);
        s.see(b"f", Seen::Created);
        let mut batch = s.take_shallow(ALL, &mut |_, _| false).unwrap();
        assert!(batch.entries[0].held);
        s.hold(batch.id, batch.entries.pop().unwrap(), until);
        assert!(s.take_shallow(ALL, &mut |_, _| false).is_none());
        assert_eq!((s.pending(), s.ready(false), s.next_hold()), (1, 0, Some(until)));
    };
    let mut s = set();
    held(&mut s);
    s.see(b"f", Seen::Touched);
    assert!(s.take_shallow(ALL, &mut |_, _| false).is_none(), "attributes do not end the hold");
    s.see(b"f", Seen::Written);
    assert_eq!(drain(&mut s), ["e f"]);
    held(&mut s);
    s.tick(until);
    assert_eq!(drain(&mut s), ["e f"]);
    held(&mut s);
    let batch = s.take_shallow(Limits { ignore_holds: true, ..ALL }, &mut |_, _| false).unwrap();
    s.confirm(batch.id, batch.entries);
    held(&mut s);
    s.see(b"f", Seen::Gone);
    assert_eq!(drain(&mut s), ["e ."], "it never left");
}

#[test]
fn what_a_run_carried_is_not_new_when_it_is_taken_again() {
    let mut s = set();
    s.see(b"f", Seen::Created);
    let batch = s.take_shallow(ALL, &mut |_, _| false).unwrap();
    assert!(!batch.entries[0].is_replaced());
    s.park(batch.id, &batch.entries);
    let mut again = s.take_again(batch.entries, 1).unwrap();
    assert!(again.entries[0].is_replaced(), "the target may hold a part of it, or an older content");
    s.hold(again.id, again.entries.pop().unwrap(), Duration::from_secs(1));
    s.see(b"f", Seen::Gone);
    assert_eq!(drain(&mut s), ["e! f"], "the first run may have brought it to the target");
}

#[test]
fn what_goes_is_listed_beside_the_comparison_that_covers_it_where_that_deletes_nothing() {
    for (covering, by_name, want) in [
        (Seen::Contents, false, &["c d"][..]),
        (Seen::Contents, true, &["c d", "e! d/f"]),
        (Seen::Subtree, true, &["e! d/f", "s d"]),
        (Seen::MovedDir, true, &["e! d/f", "s d"]),
    ] {
        let mut s = set();
        if by_name {
            s.list_deletions();
        }
        s.see(b"d", covering);
        s.see(b"d/f", Seen::Gone);
        assert_eq!(drain(&mut s), want, "{covering:?}");
        let mut s = set();
        if by_name {
            s.list_deletions();
            s.see(b"d/f", Seen::Gone);
            s.see(b"d", covering);
            assert_eq!(drain(&mut s).iter().filter(|line| *line == "e! d/f").count(), 1, "{covering:?} after it");
        }
    }
}

#[test]
fn many_new_files_of_a_directory_become_one_comparison_of_its_level() {
    let fill = |s: &mut DirtySet| {
        for n in 0..LEVEL_MIN {
            for seen in [Seen::Created, Seen::Written] {
                s.see(format!("d/{n}").as_bytes(), seen);
            }
        }
    };
    let take = |s: &mut DirtySet, yes: bool| {
        let mut queried = Vec::new();
        let mut by_level = |p: &RelPath, n: usize| {
            queried.push((p.to_string(), n));
            yes
        };
        let batch = s.take_shallow(ALL, &mut by_level).unwrap();
        let mut paths: Vec<String> = batch.entries.iter().map(|e| format!("{:?} {}", e.kind, e.path)).collect();
        paths.sort();
        s.confirm(batch.id, batch.entries);
        assert_eq!((s.pending(), s.epochs().total()), (0, 0));
        (queried, paths)
    };
    let mut s = set();
    fill(&mut s);
    s.see(b"d/old", Seen::Written);
    s.see(b"e", Seen::Written);
    let (queried, paths) = take(&mut s, true);
    assert_eq!(queried, [("d".to_owned(), LEVEL_MIN)]);
    assert_eq!(paths, ["Contents d", "Entry d/old", "Entry e"], "an old file may look the same and be another: listed");
    fill(&mut s);
    assert_eq!(take(&mut s, false).1.len(), LEVEL_MIN);
    fill(&mut s);
    s.see(b"d/open", Seen::Created);
    let (queried, paths) = take(&mut s, true);
    assert_eq!((queried.len(), paths.len()), (0, LEVEL_MIN + 1), "a level is not sent while a file in it is open");
}

#[test]
fn what_was_written_or_moved_may_differ_under_the_same_times() {
    use Seen::*;
    for (events, path, content) in [
        (&[("f", Touched)][..], "f", false),
        (&[("f", Touched), ("f", Written), ("f", Touched)], "f", true),
        (&[("f", Created)], "f", true),
        (&[("d/f", Written), ("d", Subtree)], "d", true),
        (&[("d/f", Touched), ("d", Subtree)], "d", false),
        (&[("d", MovedDir)], "d", true),
        (&[("d", GoneDir), ("d", CreatedDir)], "d", true),
        (&[("d/f", Touched), ("d", CreatedDir), ("d/f", Written)], "d", true),
        (&[("d/f", Written), ("", Subtree)], ".", false),
    ] {
        let mut s = set();
        events.iter().for_each(|(p, seen)| s.see(p.as_bytes(), *seen));
        let batches = [s.take_shallow(ALL, &mut |_, _| false), s.take_deep(ALL)].into_iter().flatten();
        let entry = batches.flat_map(|b| b.entries).find(|e| e.path.to_string() == path).unwrap();
        assert_eq!(entry.content, content, "{events:?}");
    }
}

#[test]
fn a_flush_waits_for_what_came_before_it_through_failures() {
    let mut s = set();
    s.tick(Duration::from_secs(1));
    s.see(b"a", Seen::Written);
    let flush = s.close_epoch();
    s.see(b"b", Seen::Written);
    let batch = s.take_shallow(ALL, &mut |_, _| false).unwrap();
    s.park(batch.id, &batch.entries);
    assert!(!s.epochs().clear_until(flush));
    for e in batch.entries {
        s.restore(e);
    }
    assert!(!s.epochs().clear_until(flush));
    s.see(b"", Seen::Subtree);
    assert!(!s.epochs().clear_until(flush), "absorbed paths pass their age on");
    drain(&mut s);
    assert!(s.epochs().clear_until(flush));
}

#[test]
fn a_long_deep_run_lets_others_pass_and_they_are_sent_again() {
    let mut s = set();
    s.see(b"", Seen::Subtree);
    let deep = s.take_deep(ALL).unwrap();
    s.see(b"a/f", Seen::Written);
    assert!(s.take_shallow(ALL, &mut |_, _| false).is_none());
    s.soften(&deep);
    let small = s.take_shallow(ALL, &mut |_, _| false).unwrap();
    assert_eq!(small.entries[0].over, Some(deep.id));
    let again = s.confirm(small.id, small.entries);
    assert_eq!(again.len(), 1);
    assert!(s.confirm(deep.id, deep.entries).is_empty());
    for e in again {
        s.restore(e);
    }
    assert_eq!(drain(&mut s), ["e a/f"]);
    assert_eq!(s.epochs().total(), 0);
}

#[test]
fn beyond_the_bound_directories_become_coarser_and_nothing_is_dropped() {
    let mut s = DirtySet::new(100);
    for d in 0..50 {
        for f in 0..40 {
            s.see(format!("top/d{d}/f{f}").as_bytes(), Seen::Written);
            assert!(s.pending() <= 100);
        }
    }
    assert!(s.coarsened() > 0);
    let covered: Vec<Entry> =
        [s.take_shallow(ALL, &mut |_, _| false), s.take_deep(ALL)].into_iter().flatten().flat_map(|b| b.entries).collect();
    for d in 0..50 {
        for f in 0..40 {
            let path = format!("top/d{d}/f{f}");
            assert!(
                covered.iter().any(|e| match e.kind {
                    Kind::Entry => *e.path == *path.as_bytes(),
                    Kind::Contents => path::parent(path.as_bytes()) == Some(&e.path),
                    Kind::Subtree => path::is_at_or_below(path.as_bytes(), &e.path),
                }),
                "{path} was dropped"
            );
        }
    }
}

#[test]
fn part_of_an_older_change_makes_what_covers_it_as_old() {
    for covering in [Seen::Subtree, Seen::Contents] {
        let mut set = DirtySet::new(1000);
        let old = set.close_epoch();
        set.see(b"d", covering);
        assert!(set.epochs().clear_until(old), "{covering:?} came after the flush");
        set.see_since(b"d/f", Seen::Touched, old);
        assert!(!set.epochs().clear_until(old), "under {covering:?}, the flush would not wait for its own change");
    }
}

#[test]
fn another_path_joins_a_batch_once_and_not_past_one_in_flight() {
    let mut set = DirtySet::new(1000);
    let p = |path: &str| RelPath::new(path.as_bytes()).unwrap();
    let all = Limits { max_paths: 100, ignore_holds: false };
    set.see(b"d", Seen::Touched);
    set.see(b"d/a", Seen::Written);
    let mut first = set.take_shallow(all, &mut |_, _| false).unwrap();
    let since = first.entries[0].epoch();
    set.see(b"e/b", Seen::Written);
    // The directory above travels with the batch too, for its attributes: that does not make it
    // carry what is in it.
    let joined = [p("e/b"), p("d/c")].map(|path| set.join(first.id, &path, since).unwrap().expect("not in the batch yet"));
    assert!(joined[0].content && !joined[1].content, "what was pending of it comes along");
    assert_eq!(set.pending(), 0);
    first.entries.extend(joined);
    assert!(matches!(set.join(first.id, &p("d/c"), since), Ok(None)));
    set.see(b"x", Seen::Written);
    let second = set.take_shallow(all, &mut |_, _| false).unwrap();
    assert_eq!(set.join(second.id, &p("e/b"), since).unwrap_err(), Some(first.id));
    set.confirm(first.id, std::mem::take(&mut first.entries));
    let late = set.join(second.id, &p("e/b"), since).unwrap().unwrap();
    set.confirm(second.id, second.entries.into_iter().chain([late]).collect());
    assert_eq!(set.epochs().total(), 0);
}

#[test]
fn what_is_written_below_a_comparison_goes_after_it_with_its_content() {
    let all = Limits { max_paths: 100, ignore_holds: false };
    let none = &mut |_: &RelPath, _| false;
    for top in ["", "d"] {
        let mut set = DirtySet::new(1000);
        // Written before, while it waits, and while it flies; and one that was only touched.
        if top.is_empty() {
            set.see(b"d/before", Seen::Written);
        }
        set.see(top.as_bytes(), Seen::Subtree);
        set.see(b"d/waiting", Seen::Written);
        set.see(b"d/touched", Seen::Touched);
        assert_eq!(set.pending(), 1);
        let batch = set.take_deep(all).unwrap();
        assert!(!batch.entries[0].content, "the whole is compared by size and time");
        set.see(b"d/flying", Seen::Written);
        assert!(set.take_shallow(all, none).is_none(), "not beside it");
        set.confirm(batch.id, batch.entries);
        let after = set.take_shallow(all, none).unwrap();
        let mut paths: Vec<String> = after.entries.iter().map(|e| e.path.to_string()).collect();
        paths.sort();
        let want = if top.is_empty() { &["d/before", "d/flying", "d/waiting"][..] } else { &["d/flying", "d/waiting"] };
        assert_eq!(paths, want, "below {top:?}");
        assert!(after.entries.iter().all(|e| e.content));
        set.confirm(after.id, after.entries);
        assert_eq!((set.pending(), set.epochs().total()), (0, 0));
    }
}

#[test]
fn what_is_remembered_below_a_comparison_is_bounded() {
    let mut set = DirtySet::new(100_000);
    set.see(b"", Seen::Subtree);
    (0..30_000).for_each(|n| set.see(format!("f{n}").as_bytes(), Seen::Written));
    assert_eq!(set.pending(), 1);
    let batch = set.take_deep(Limits { max_paths: 10, ignore_holds: false }).unwrap();
    set.confirm(batch.id, batch.entries);
    assert_eq!(set.pending(), 10_000);
}
