use super::*;

const ALL: Limits = Limits { max_paths: usize::MAX, ignore_holds: true };

fn renamed(set: &mut DirtySet, old: &str, new: &str, dir: bool) {
    let (left, arrived) = if dir { (Seen::LeftDir, Seen::ArrivedDir) } else { (Seen::Left, Seen::Arrived) };
    set.see(old.as_bytes(), left);
    set.see(new.as_bytes(), arrived);
}

fn shown(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|e| format!("{:?} {}", e.kind, e.path)).collect()
}

fn moves(set: &mut DirtySet) -> Vec<String> {
    set.take_moves(usize::MAX).map_or_else(Vec::new, |m| shown(&m.batch.entries))
}

fn shallow(set: &mut DirtySet) -> Option<Batch> {
    set.take_shallow(ALL, &mut |_, _| false)
}

fn land(set: &mut DirtySet, batch: Batch) {
    let Batch { id, entries, .. } = batch;
    for e in set.confirm(id, entries) {
        set.restore(e);
    }
}

#[test]
fn what_was_in_sync_becomes_a_pair_and_leaves_only_together() {
    let mut set = DirtySet::new(1000);
    renamed(&mut set, "a", "p/b", true);
    assert!(shallow(&mut set).is_none() && set.take_deep(ALL).is_none());
    assert_eq!(moves(&mut set), ["Subtree p/b", "Entry a"]);
    assert_eq!((set.parted(), set.has_moves()), (0, false));
}

#[test]
fn files_leave_by_directory_and_kind_of_change() {
    let mut set = DirtySet::new(1000);
    for (old, new) in [("a/1", "b/1"), ("a/2", "b/2"), ("c/1", "d/1"), ("a/3", "a/4")] {
        renamed(&mut set, old, new, false);
    }
    let mut groups: Vec<usize> = Vec::new();
    while let Some(m) = set.take_moves(usize::MAX) {
        groups.push(m.batch.entries.len() / 2);
    }
    groups.sort_unstable();
    assert_eq!(groups, [1, 1, 2]);
}

#[test]
fn directories_leave_together_where_one_run_can_link_them() {
    let mut set = DirtySet::new(1000);
    for (old, new, dir) in [
        ("d1", "m/d1", true),
        ("f1", "m/f1", false),
        ("d2", "m/d2", true),
        ("d3", "m/other", true),
        ("d4", "m/another", true),
        ("f2", "m/f2", false),
        ("p/d5", "m/d5", true),
        ("p/d6", "n/d6", true),
        ("x", "y", true),
    ] {
        renamed(&mut set, old, new, dir);
    }
    let mut groups: Vec<(bool, Vec<String>)> = Vec::new();
    while let Some(m) = set.take_moves(usize::MAX) {
        groups.push((m.dir, m.batch.entries.iter().map(|e| e.path.to_string()).collect()));
    }
    groups.sort_unstable();
    let want = [
        (false, &["m/f1", "f1", "m/f2", "f2"][..]),
        (true, &["m/another", "d4"]),
        (true, &["m/d1", "d1", "m/d2", "d2"]),
        (true, &["m/d5", "p/d5"]),
        (true, &["m/other", "d3"]),
        (true, &["n/d6", "p/d6"]),
        (true, &["y", "x"]),
    ];
    assert_eq!(groups, want.map(|(dir, names)| (dir, names.iter().map(|n| n.to_string()).collect())));
    // One that cannot leave holds none of the others up.
    let mut set = DirtySet::new(1000);
    set.see(b"d1/f", Seen::Written);
    let batch = shallow(&mut set).unwrap();
    renamed(&mut set, "d1", "m/d1", true);
    renamed(&mut set, "d2", "m/d2", true);
    renamed(&mut set, "d3", "m/d3", true);
    assert_eq!(moves(&mut set), ["Subtree m/d2", "Entry d2", "Subtree m/d3", "Entry d3"]);
    land(&mut set, batch);
    // At most so many.
    let mut set = DirtySet::new(1000);
    for n in 0..5 {
        renamed(&mut set, &format!("d{n}"), &format!("m/d{n}"), true);
    }
    let counts: Vec<usize> = std::iter::from_fn(|| set.take_moves(2)).map(|moves| moves.batch.entries.len() / 2).collect();
    assert_eq!(counts, [2, 2, 1]);
}

#[test]
fn no_pair_where_something_was_or_is_dirty() {
    type Act = fn(&mut DirtySet);
    let cases: [(&str, Act); 15] = [
        ("below the old name before", |s| {
            s.see(b"a/f", Seen::Written);
            renamed(s, "a", "b", true);
        }),
        ("a whole tree above", |s| {
            s.see(b"", Seen::Subtree);
            renamed(s, "a", "b", true);
        }),
        ("one level above the old name", |s| {
            s.see(b"p", Seen::Contents);
            renamed(s, "p/a", "b", true);
        }),
        ("the old name in flight", |s| {
            s.see(b"a", Seen::Touched);
            shallow(s).unwrap();
            renamed(s, "a", "b", true);
        }),
        ("below the old name in flight", |s| {
            s.see(b"a/f", Seen::Written);
            shallow(s).unwrap();
            renamed(s, "a", "b", true);
        }),
        ("a directory above gone and made again", |s| {
            s.see(b"p", Seen::GoneDir);
            renamed(s, "p/a", "b", true);
        }),
        ("the new name known", |s| {
            s.see(b"b", Seen::GoneDir);
            renamed(s, "a", "b", true);
        }),
        ("below the new name since", |s| {
            renamed(s, "a", "b", true);
            s.see(b"b/f", Seen::Written);
        }),
        ("the new name since", |s| {
            renamed(s, "a", "b", false);
            s.see(b"b", Seen::Touched);
        }),
        ("the old name since", |s| {
            renamed(s, "a", "b", true);
            s.see(b"a", Seen::CreatedDir);
        }),
        ("below the old name since", |s| {
            renamed(s, "a", "b", true);
            s.see(b"a/f", Seen::Created);
        }),
        ("above the old name since", |s| {
            renamed(s, "p/a", "b", true);
            s.see(b"p", Seen::GoneDir);
        }),
        ("one level above since", |s| {
            renamed(s, "p/a", "b", true);
            s.see(b"p", Seen::Contents);
        }),
        ("renamed on", |s| {
            renamed(s, "a", "b", true);
            renamed(s, "b", "c", true);
        }),
        ("exchanged", |s| {
            renamed(s, "a", "b", true);
            renamed(s, "b", "a", true);
        }),
    ];
    for (name, act) in cases {
        let mut set = DirtySet::new(1000);
        act(&mut set);
        assert!(!set.has_moves() && moves(&mut set).is_empty(), "{name}");
    }
}

#[test]
fn halves_that_do_not_follow_each_other_are_no_pair() {
    let mut set = DirtySet::new(1000);
    set.see(b"a", Seen::LeftDir);
    set.see(b"x", Seen::Touched);
    set.see(b"b", Seen::ArrivedDir);
    assert!(!set.has_moves());
    // The old name left, landed, and its place in memory stands for another path by the time the
    // second half is reported.
    let mut set = DirtySet::new(1000);
    set.see(b"a", Seen::LeftDir);
    let batch = shallow(&mut set).unwrap();
    land(&mut set, batch);
    set.see(b"b", Seen::ArrivedDir);
    assert!(!set.has_moves());
}

#[test]
fn what_was_exchanged_with_something_new_is_not_forgotten() {
    let mut set = DirtySet::new(1000);
    set.see(b"new", Seen::CreatedDir);
    renamed(&mut set, "link", "new", false);
    renamed(&mut set, "new", "link", true);
    let batch = shallow(&mut set).unwrap();
    assert_eq!(shown(&batch.entries), ["Entry new"], "the link is there now");
}

#[test]
fn what_was_exchanged_with_something_new_is_not_forgotten_where_renames_are_no_pairs() {
    // To a target that is sent no renames, of a name outside of the tree, and of a kernel without
    // rename events, each half comes alone.
    for (what, halves) in [
        ("a file with a file", [(Seen::Created, "new"), (Seen::Arrived, "new"), (Seen::Left, "new"), (Seen::Arrived, "old")]),
        (
            "a file with a directory",
            [(Seen::Created, "new"), (Seen::ArrivedDir, "new"), (Seen::Left, "new"), (Seen::Arrived, "old")],
        ),
        (
            "a directory with a file",
            [(Seen::CreatedDir, "new"), (Seen::Arrived, "new"), (Seen::LeftDir, "new"), (Seen::ArrivedDir, "old")],
        ),
    ] {
        let mut set = DirtySet::new(1000);
        for (seen, path) in halves {
            set.see(path.as_bytes(), seen.plain());
        }
        let mut left = Vec::new();
        for batch in [shallow(&mut set), set.take_deep(ALL)].into_iter().flatten() {
            left.extend(shown(&batch.entries));
        }
        assert!(left.iter().any(|entry| entry.ends_with(" new")), "{what}: {left:?}");
    }
    // What came and went by itself, as what is written aside and renamed over a file, still costs
    // nothing.
    let mut set = DirtySet::new(1000);
    set.see(b"aside", Seen::Created);
    set.see(b"aside", Seen::Written);
    set.see(b"aside", Seen::Left.plain());
    set.see(b"f", Seen::Arrived.plain());
    let batch = shallow(&mut set).unwrap();
    let left = shown(&batch.entries);
    assert!(left.iter().any(|entry| entry.ends_with(" f")) && !left.iter().any(|entry| entry.ends_with(" aside")), "{left:?}");
}

/// Where renames are sent as two names.
#[test]
fn a_change_goes_along_with_an_exchange_that_is_sent_as_names() {
    let mut set = DirtySet::new(1000);
    set.see(b"a", Seen::Written);
    for (path, seen) in [("a", Seen::Left), ("b", Seen::Arrived), ("b", Seen::Left), ("a", Seen::Arrived)] {
        set.see_apart(path.as_bytes(), seen, set.epochs().current());
    }
    let batch = shallow(&mut set).unwrap();
    let through: Vec<String> = batch.entries.iter().filter(|e| e.through).map(|e| e.path.to_string()).collect();
    assert_eq!(through, ["a", "b"]);
}

/// A directory with changes in it is renamed, and each half of that is sent as one of a rename or
/// not: the changes are sought at the new name, or all over.
#[test]
fn what_is_in_a_renamed_directory_is_sought_however_its_halves_are_sent() {
    for (left_apart, arrived_apart) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut set = DirtySet::new(1000);
        set.see(b"d/f", Seen::Written);
        for (path, seen, apart) in [("d", Seen::LeftDir, left_apart), ("e", Seen::ArrivedDir, arrived_apart)] {
            match apart {
                true => set.see_apart(path.as_bytes(), seen, set.epochs().current()),
                false => set.see(path.as_bytes(), seen),
            }
        }
        let strayed = set.take_strayed().map(|(dir, _)| dir.to_string());
        let deep = set.take_deep(ALL).unwrap();
        let through = deep.entries.iter().any(|e| e.through && &*e.path == b"e");
        assert_eq!((strayed, through), (left_apart.then(|| "d".into()), !left_apart), "{left_apart} {arrived_apart}");
    }
}

#[test]
fn a_move_waits_for_its_directory_and_for_what_flies() {
    let mut set = DirtySet::new(1000);
    set.see(b"p", Seen::CreatedDir);
    renamed(&mut set, "a", "p/b", true);
    assert!(moves(&mut set).is_empty(), "the target has no p yet");
    let batch = shallow(&mut set).unwrap();
    assert_eq!(shown(&batch.entries), ["Entry p"]);
    assert!(moves(&mut set).is_empty());
    land(&mut set, batch);
    assert_eq!(moves(&mut set), ["Subtree p/b", "Entry a"]);
}

#[test]
fn nothing_leaves_near_a_linked_name_before_it_is_removed() {
    let mut set = DirtySet::new(1000);
    let at = |p: &str| RelPath::new(p.as_bytes()).unwrap();
    renamed(&mut set, "d/a", "b", true);
    let Moves { batch: Batch { id, mut entries, .. }, .. } = set.take_moves(9).unwrap();
    let old = entries.pop().unwrap();
    // It comes back while the links are made.
    set.see(b"d/a", Seen::CreatedDir);
    set.see(b"d/a/f", Seen::Written);
    set.see(b"d/other", Seen::Written);
    set.park(id, std::slice::from_ref(&old));
    set.link(at("d/a"), false);
    set.restore(old);
    set.confirm(id, entries);
    assert!(set.take_deep(ALL).is_none(), "the old name is not to be touched");
    set.see(b"d/a/sub", Seen::LeftDir);
    set.see(b"e", Seen::ArrivedDir);
    assert!(!set.has_moves(), "nor taken from");
    let batch = shallow(&mut set).unwrap();
    assert_eq!(shown(&batch.entries), ["Entry d/other"]);
    land(&mut set, batch);
    // What covers it waits as well, and does not make it forgotten.
    set.see(b"d", Seen::Subtree);
    assert!(set.take_deep(ALL).is_none_or(|b| b.entries.iter().all(|e| *e.path != *b"d")));
    let (clear, listed) = set.take_linked(Duration::ZERO).unwrap();
    assert!(!listed);
    assert_eq!(shown(&clear.entries), ["Entry d/a"]);
    assert!(set.take_linked(Duration::ZERO).is_none());
    set.park(clear.id, &clear.entries);
    set.forget(clear.entries);
    assert!(set.unlinked(&at("d/a"), false, true, Duration::ZERO), "tried again, later");
    assert!(set.take_linked(Duration::ZERO).is_none());
    assert!(set.next_linked().is_some());
    let (clear, _) = set.take_linked(Duration::from_secs(9)).unwrap();
    set.park(clear.id, &clear.entries);
    set.forget(clear.entries);
    assert!(set.unlinked(&at("d/a"), true, true, Duration::ZERO));
    let mut left: Vec<String> = Vec::new();
    while let Some(batch) = set.take_deep(ALL) {
        left.extend(shown(&batch.entries));
    }
    assert!(left.contains(&"Subtree d".to_owned()), "{left:?}");
}

#[test]
fn a_linked_name_that_cannot_be_removed_holds_nothing_up_for_ever() {
    let mut set = DirtySet::new(1000);
    let path = RelPath::new(b"a").unwrap();
    set.link(path.clone(), false);
    let mut now = Duration::ZERO;
    let mut tries = 0;
    while set.has_linked() {
        let Some((clear, _)) = set.take_linked(now) else {
            now = set.next_linked().unwrap();
            continue;
        };
        tries += 1;
        set.park(clear.id, &clear.entries);
        set.forget(clear.entries);
        set.unlinked(&path, false, true, now);
    }
    assert_eq!(tries, LINKED_TRIES);
    assert_eq!(set.epochs().total(), 0);
}

/// The end of the run wakes who waits; a time that has passed would have him look without a pause.
#[test]
fn a_linked_name_below_what_is_in_flight_is_not_due() {
    let mut set = DirtySet::new(1000);
    let at = |p: &str| RelPath::new(p.as_bytes()).unwrap();
    set.link(at("d/a"), false);
    let (clear, _) = set.take_linked(Duration::ZERO).unwrap();
    set.park(clear.id, &clear.entries);
    set.forget(clear.entries);
    set.unlinked(&at("d/a"), false, true, Duration::ZERO);
    assert_eq!(set.next_linked(), Some(LINKED_PAUSE));
    let above = set.take_above(&at("d")).unwrap();
    assert_eq!(set.next_linked(), None);
    set.park(above.id, &above.entries);
    assert_eq!(set.next_linked(), Some(LINKED_PAUSE));
}

#[test]
fn linked_names_of_one_directory_are_removed_together() {
    let mut set = DirtySet::new(1000);
    let at = |p: &str| RelPath::new(p.as_bytes()).unwrap();
    for (path, listed) in [("d/a", true), ("d/a-b", true), ("d/x", false), ("d/e/f", true), ("a", true), ("d/z", true)] {
        set.link(at(path), listed);
    }
    set.see(b"d/z/f", Seen::Written);
    let near = |set: &DirtySet, path: &str, kind, gone| set.near_linked(path.as_bytes(), kind, gone);
    for (path, kind, gone, want) in [
        ("d/a/below", Kind::Entry, false, true),
        ("d/a", Kind::Entry, false, true),
        ("d/a-", Kind::Entry, false, false),
        ("d", Kind::Entry, false, false),
        ("d", Kind::Entry, true, true),
        ("d", Kind::Contents, false, true),
        ("", Kind::Subtree, false, true),
        ("d/b", Kind::Subtree, true, false),
    ] {
        assert_eq!(near(&set, path, kind, gone), want, "{path} {kind:?} {gone}");
    }
    let mut taken = Vec::new();
    let mut batches = Vec::new();
    while let Some((batch, listed)) = set.take_linked(Duration::ZERO) {
        taken.push((listed, batch.entries.iter().map(|e| e.path.to_string()).collect::<Vec<_>>()));
        batches.push(batch);
    }
    let want = [(true, &["a"][..]), (true, &["d/a", "d/a-b", "d/z"]), (true, &["d/e/f"]), (false, &["d/x"])];
    assert_eq!(taken, want.map(|(listed, names)| (listed, names.iter().map(|n| n.to_string()).collect())));
    // What a list did not remove is removed by a run of the other kind, at once; the others wait no
    // more.
    for batch in batches {
        set.park(batch.id, &batch.entries);
        for e in &batch.entries {
            assert!(set.unlinked(&e.path, *e.path != *b"d/a-b", true, Duration::ZERO));
        }
        set.forget(batch.entries);
    }
    let (batch, listed) = set.take_linked(Duration::ZERO).unwrap();
    assert_eq!((listed, shown(&batch.entries)), (false, vec!["Entry d/a-b".to_owned()]));
    assert!(set.take_linked(Duration::ZERO).is_none());
}

#[test]
fn a_deletion_that_another_run_carried_out_is_settled() {
    let mut set = DirtySet::new(1000);
    set.see(b"d/gone", Seen::GoneDir);
    set.see(b"d/there", Seen::Written);
    set.see(b"d/new", Seen::CreatedDir);
    for path in [&b"d/gone"[..], b"d/there", b"d/new", b"d/none"] {
        assert_eq!(set.settle(path).is_some(), path == b"d/gone");
    }
    let batch = shallow(&mut set).unwrap();
    assert_eq!(shown(&batch.entries), ["Entry d/there", "Entry d/new"]);
    land(&mut set, batch);
    assert_eq!(set.epochs().total(), 0);
}
