//! Changes through names, and what becomes of them when their paths are not pending by themselves
//! any more.

use super::*;

#[test]
fn another_name_of_a_changed_file_carries_no_change_of_its_own() {
    let through = |set: &mut DirtySet| {
        let entries = set.take_shallow(Limits { max_paths: 10, ignore_holds: true }, &mut |_, _| false).unwrap().entries;
        entries.into_iter().map(|e| (e.path.to_string(), e.through, e.content)).collect::<Vec<_>>()
    };
    let mut set = DirtySet::new(100);
    let since = set.epochs().current();
    set.see(b"a", Seen::Written);
    set.see(b"made", Seen::Created);
    set.see_other_name(b"b", true, since);
    set.see_other_name(b"c", false, since);
    // What an event reported stays reported, whatever came first.
    set.see(b"d", Seen::Touched);
    set.see_other_name(b"d", true, since);
    set.see_other_name(b"e", true, since);
    set.see(b"e", Seen::Touched);
    let want =
        [("a", true, true), ("made", false, true), ("b", false, true), ("c", false, false), ("d", true, true), ("e", true, true)];
    assert_eq!(through(&mut set), want.map(|(path, through, content)| (path.to_owned(), through, content)));
    // Nor is it lost when a batch comes back.
    let mut set = DirtySet::new(100);
    set.see(b"a", Seen::Modified);
    set.see_other_name(b"b", false, since);
    let batch = set.take_shallow(Limits { max_paths: 10, ignore_holds: true }, &mut |_, _| false).unwrap();
    set.park(batch.id, &batch.entries);
    batch.entries.into_iter().for_each(|e| set.restore(e));
    assert_eq!(through(&mut set), [("a".to_owned(), true, true), ("b".to_owned(), false, false)]);
}

/// Which of the paths that leave carry changes through names, directories for what is in them.
fn carrying(set: &mut DirtySet) -> Vec<String> {
    let limits = Limits { max_paths: 1000, ignore_holds: true };
    let mut entries = set.take_shallow(limits, &mut |_, _| false).map(|b| b.entries).unwrap_or_default();
    entries.extend(set.take_deep(limits).into_iter().flat_map(|b| b.entries));
    entries.into_iter().filter(|e| e.through).map(|e| e.path.to_string()).collect()
}

#[test]
fn changes_that_a_directory_absorbs_go_with_it() {
    use Seen::{Arrived, ArrivedDir, Created, Gone, GoneDir, Left, LeftDir, MovedDir, Subtree, Touched, Written};
    type Case = (&'static [(&'static str, Seen)], &'static [&'static str]);
    let cases: &[Case] = &[
        (&[("d/f", Written), ("d", LeftDir), ("e", ArrivedDir)], &["e"]),
        (&[("d/x/f", Touched), ("d/x", LeftDir), ("e", ArrivedDir), ("e", LeftDir), ("g", ArrivedDir)], &["g"]),
        (&[("d/f", Created), ("d", LeftDir), ("e", ArrivedDir)], &[]),
        (&[("d", LeftDir), ("e", ArrivedDir)], &[]),
        (&[("d", LeftDir), ("e", ArrivedDir), ("e/f", Written)], &["e"]),
        // It left to where nothing is reported of it.
        (&[("d/f", Written), ("d", LeftDir)], &["d"]),
        (&[("d/f", Written), ("d", LeftDir), ("x", Written), ("e", MovedDir)], &["d", "x"]),
        (&[("d/f", Written), ("d", GoneDir)], &["d"]),
        // Each file was reported as gone before its directory.
        (&[("d/f", Written), ("d/f", Gone), ("d", GoneDir)], &[]),
        (&[("d/f", Written), ("d", Subtree)], &["d"]),
        (&[("f", Written), ("f", Gone)], &[]),
        (&[("f", Written), ("f", Left), ("g", Arrived)], &["g"]),
        (&[("", Subtree), ("d/f", Written)], &["."]),
        // Exchanges, also with a directory. The first name holds another file, which arrived.
        (&[("f", Written), ("f", Left), ("g", Arrived), ("g", Left), ("f", Arrived)], &["f", "g"]),
        (&[("g", Touched), ("f", Left), ("g", Arrived), ("g", Left), ("f", Arrived)], &["f", "g"]),
        (&[("f", Written), ("f", Left), ("d", Arrived), ("d", LeftDir), ("f", ArrivedDir)], &["d"]),
        (&[("f", Written), ("f", Left), ("g", Arrived), ("x", Created), ("g", Left), ("f", Arrived)], &["f", "g"]),
        // Of two directories, one or both of which hold what changed; and one that was moved before.
        (&[("d/f", Written), ("d", LeftDir), ("e", ArrivedDir), ("e", LeftDir), ("d", ArrivedDir)], &["d", "e"]),
        (&[("e/f", Touched), ("d", LeftDir), ("e", ArrivedDir), ("e", LeftDir), ("d", ArrivedDir)], &["d", "e"]),
        (
            &[("d/f", Written), ("e/f", Touched), ("d", LeftDir), ("e", ArrivedDir), ("e", LeftDir), ("d", ArrivedDir)],
            &["d", "e"],
        ),
        (
            &[
                ("d/f", Written),
                ("d", LeftDir),
                ("y", ArrivedDir),
                ("y", LeftDir),
                ("e", ArrivedDir),
                ("e", LeftDir),
                ("y", ArrivedDir),
            ],
            &["e", "y"],
        ),
        // None.
        (&[("f", Written), ("f", Left), ("g", Arrived), ("g", Left), ("h", Arrived)], &["h"]),
    ];
    for (seen, want) in cases {
        let mut set = DirtySet::new(100);
        seen.iter().for_each(|(path, seen)| set.see(path.as_bytes(), *seen));
        let mut got = carrying(&mut set);
        got.sort();
        assert_eq!(got, *want, "{seen:?}");
    }
}

#[test]
fn changes_that_leave_the_source_with_their_directory_are_handed_out_once() {
    let mut set = DirtySet::new(100);
    set.see(b"d/f", Seen::Written);
    set.see(b"d", Seen::LeftDir);
    assert!(set.take_strayed().is_none(), "it may arrive elsewhere");
    set.see(b"e", Seen::ArrivedDir);
    set.see(b"e", Seen::GoneDir);
    assert_eq!(set.take_strayed().map(|(dir, _)| dir.to_string()), Some("e".into()));
    assert!(set.take_strayed().is_none());
    assert!(carrying(&mut set).is_empty(), "it is sought already");
    set.see(b"x/f", Seen::Created);
    set.see(b"x", Seen::GoneDir);
    assert!(set.take_strayed().is_none(), "nothing changed through a name in it");
}

#[test]
fn a_name_that_goes_tells_whether_a_change_was_pending() {
    use Seen::{Arrived, Created, Gone, GoneDir, Left, Replaced, Written};
    for (seen, want) in [
        (&[("f", Written), ("f", Gone)][..], true),
        (&[("f", Written), ("f", Replaced)], true),
        (&[("f", Replaced)], false),
        (&[("f", Written), ("f", Left)], true),
        (&[("f", Written), ("f", Left), ("g", Arrived)], false),
        (&[("d/f", Written), ("d", GoneDir)], true),
        (&[("d", GoneDir)], false),
        (&[("f", Created), ("f", Written), ("f", Gone)], true),
        (&[("f", Created), ("f", Gone)], false),
        (&[("f", Gone)], false),
        (&[("f", Written), ("f", Gone), ("g", Gone)], false),
    ] {
        let mut set = DirtySet::new(100);
        seen.iter().for_each(|(path, seen)| set.see(path.as_bytes(), *seen));
        assert_eq!(set.dropped_change().is_some(), want, "{seen:?}");
    }
}

/// A read that came before the event may have met another file under the name.
#[test]
fn a_name_that_goes_may_have_been_another_files_when_it_left() {
    use Seen::{Gone, Replaced, Written};
    let all = Limits { max_paths: 10, ignore_holds: true };
    for seen in [Gone, Replaced] {
        let mut set = DirtySet::new(100);
        let dropped = |set: &mut DirtySet, path: &str| {
            set.see(path.as_bytes(), seen);
            set.dropped_change().map(Epoch::begins)
        };
        set.tick(Duration::from_secs(1));
        set.see(b"f", Written);
        set.see(b"d/f", Written);
        let batch = set.take_shallow(all, &mut |_, _| false).unwrap();
        set.tick(Duration::from_secs(2));
        assert_eq!(dropped(&mut set, "f"), Some(Duration::from_secs(1)), "in flight, {seen:?}");
        set.confirm(batch.id, batch.entries);
        assert_eq!(dropped(&mut set, "d/f"), Some(Duration::from_secs(1)), "its events are on their way, {seen:?}");
        assert_eq!(dropped(&mut set, "g"), None);
        set.begin_barrier();
        set.end_barrier();
        let batch = set.take_shallow(all, &mut |_, _| false).unwrap();
        set.confirm(batch.id, batch.entries);
        set.begin_barrier();
        set.end_barrier();
        assert_eq!(dropped(&mut set, "f"), None, "all events from before are known, {seen:?}");
        // What a directory stands for.
        set.see(b"s", Seen::Subtree);
        set.see(b"s/f", Written);
        assert_eq!(dropped(&mut set, "s/f"), Some(Duration::from_secs(2)), "{seen:?}");
        let deep = set.take_deep(all).unwrap();
        assert_eq!(dropped(&mut set, "s/f"), Some(Duration::from_secs(2)), "the directory is in flight, {seen:?}");
        set.confirm(deep.id, deep.entries);
    }
}

#[test]
fn the_bound_on_pending_paths_keeps_changes_through_names() {
    let mut set = DirtySet::new(8);
    (0..40).for_each(|n| set.see(format!("d{}/f{n}", n % 4).as_bytes(), Seen::Written));
    let got = carrying(&mut set);
    let covered =
        |n: usize| got.iter().any(|dir| crate::path::is_at_or_below(format!("d{}/f{n}", n % 4).as_bytes(), dir.as_bytes()));
    assert!((0..40).all(covered), "{got:?}");
}

/// No other name is sought for a file of one name whose run failed, and which has gone since.
#[test]
fn what_was_found_under_its_only_name_carries_no_change_once_a_run_has_ended() {
    let all = Limits { max_paths: 10, ignore_holds: true };
    for ended in [true, false] {
        let mut set = DirtySet::new(100);
        set.see(b"f", Seen::Written);
        let mut batch = set.take_shallow(all, &mut |_, _| false).unwrap();
        batch.entries.iter_mut().for_each(|entry| entry.single = true);
        if ended {
            set.settle_single(&mut batch.entries);
        }
        set.park(batch.id, &batch.entries);
        batch.entries.into_iter().for_each(|entry| set.restore(entry));
        let again = set.take_shallow(all, &mut |_, _| false).unwrap();
        let left: Vec<_> = again.entries.iter().map(|entry| (entry.through, entry.single)).collect();
        assert_eq!(left, [(!ended, false)], "without a run, it is checked once more");
        // The name may have been another file's at the read.
        set.park(again.id, &again.entries);
        again.entries.into_iter().for_each(|entry| set.restore(entry));
        set.see(b"f", Seen::Replaced);
        assert!(set.dropped_change().is_some());
        set.take_shallow(all, &mut |_, _| false).unwrap();
    }
}

/// Programs that save a file write a second one again and again, and rename it over the first.
#[test]
fn a_name_that_is_not_found_waits_once_for_its_event_also_if_it_went_before() {
    let all = Limits { max_paths: 10, ignore_holds: true };
    let mut set = DirtySet::new(100);
    for seen in [Seen::Written, Seen::Gone, Seen::Written] {
        set.see(b"aside", seen);
    }
    let mut batch = set.take_shallow(all, &mut |_, _| false).unwrap();
    let entry = batch.entries.remove(0);
    assert_eq!((entry.gone, entry.through, entry.waited), (true, true, false));
    set.hold_absent(batch.id, entry, Duration::from_secs(1));
    assert!(set.take_shallow(all, &mut |_, _| false).is_none());
    set.tick(Duration::from_secs(1));
    let waited = set.take_shallow(all, &mut |_, _| false).unwrap().entries.remove(0);
    assert_eq!((waited.gone, waited.through, waited.waited), (true, true, true));
}

/// A directory that was replaced just before the check of a batch: the check met another file under
/// the name of the one that changed.
#[test]
fn a_change_that_left_may_have_stayed_in_the_directory_that_went() {
    use Seen::{ArrivedDir, Gone, GoneDir, LeftDir, Subtree, Written};
    type End = fn(&mut DirtySet, Batch);
    let ends: [(&str, End); 4] = [
        ("in flight", |_, _| {}),
        ("confirmed", |set, batch| assert!(set.confirm(batch.id, batch.entries).is_empty())),
        ("found under its only name, and failed", |set, mut batch| {
            set.park(batch.id, &batch.entries);
            batch.entries.iter_mut().for_each(|e| e.single = true);
            set.settle_single(&mut batch.entries);
        }),
        ("failed, and tried again", |set, batch| {
            set.park(batch.id, &batch.entries);
            set.take_again(batch.entries, 1).unwrap();
        }),
    ];
    type Case = (&'static [(&'static str, Seen)], &'static [&'static str], Option<&'static str>);
    let cases: &[Case] = &[
        (&[("d", LeftDir), ("e", ArrivedDir)], &["e"], None),
        (&[("d", LeftDir), ("e", ArrivedDir), ("e", LeftDir), ("d", ArrivedDir)], &["d", "e"], None),
        (&[("d", LeftDir), ("e", ArrivedDir), ("e", LeftDir), ("g", ArrivedDir)], &["g"], None),
        (&[("d/x", LeftDir), ("e", ArrivedDir), ("d", GoneDir)], &["e"], None),
        (&[("d", GoneDir)], &[], Some("d")),
        (&[("d/x/f", Gone), ("d/x", GoneDir), ("d", GoneDir)], &[], None),
        (&[("other", GoneDir)], &[], None),
        // Below what is compared whole.
        (&[("", Subtree), ("d", LeftDir)], &["."], None),
        (&[("d/x", Subtree), ("d/x", LeftDir), ("e", ArrivedDir)], &["e"], None),
        (&[("d", Subtree), ("d/x/f", Written), ("d/x", LeftDir), ("e", ArrivedDir)], &["d", "e"], None),
        (&[("d", Subtree), ("d/x/f", Written), ("d/x", GoneDir)], &["d"], Some("d/x")),
    ];
    for (end, ended) in ends {
        for (seen, carry, strayed) in cases {
            let mut set = DirtySet::new(100);
            set.see(b"d/x/f", Written);
            let batch = set.take_shallow(Limits { max_paths: 10, ignore_holds: true }, &mut |_, _| false).unwrap();
            ended(&mut set, batch);
            let mut left = None;
            for (path, seen) in *seen {
                set.see(path.as_bytes(), *seen);
                left = left.or(set.take_strayed().map(|(dir, _)| dir.to_string()));
            }
            assert_eq!(left.as_deref(), *strayed, "{end}: {seen:?}");
            let pending = |path: &str| set.tree.find(path.as_bytes()).is_some_and(|at| set.tree[at].flags & THROUGH != 0);
            let names = ["", "d", "d/x", "e", "g", "other"];
            let got: Vec<&str> =
                names.into_iter().filter(|path| pending(path)).map(|path| if path.is_empty() { "." } else { path }).collect();
            assert_eq!(got, *carry, "{end}: {seen:?}");
        }
    }
}
