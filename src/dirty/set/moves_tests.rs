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
    // The old name left, landed, and its place in memory stands for another path by the time the second half is told.
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
    // To a target that is sent no renames, of a name outside of the tree, and of a kernel without rename events, each half
    // comes alone.
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
    // What came and went by itself, as what is written aside and renamed over a file, still costs nothing.
    let mut set = DirtySet::new(1000);
    set.see(b"aside", Seen::Created);
    set.see(b"aside", Seen::Written);
    set.see(b"aside", Seen::Left.plain());
    set.see(b"f", Seen::Arrived.plain());
    let batch = shallow(&mut set).unwrap();
    let left = shown(&batch.entries);
    assert!(left.iter().any(|entry| entry.ends_with(" f")) && !left.iter().any(|entry| entry.ends_with(" aside")), "{left:?}");
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
    set.link(at("d/a"));
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
    let clear = set.take_linked(Duration::ZERO).unwrap();
    assert_eq!(shown(&clear.entries), ["Entry d/a"]);
    assert!(set.take_linked(Duration::ZERO).is_none());
    set.park(clear.id, &clear.entries);
    set.forget(clear.entries);
    assert!(set.unlinked(&at("d/a"), false, true, Duration::ZERO), "tried again, later");
    assert!(set.take_linked(Duration::ZERO).is_none());
    assert!(set.next_linked().is_some());
    let clear = set.take_linked(Duration::from_secs(9)).unwrap();
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
    set.link(path.clone());
    let mut now = Duration::ZERO;
    let mut tries = 0;
    while set.has_linked() {
        let Some(clear) = set.take_linked(now) else {
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
