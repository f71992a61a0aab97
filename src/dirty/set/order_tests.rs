use super::*;

const ALL: Limits = Limits { max_paths: 1_000, ignore_holds: true };

fn set() -> DirtySet {
    DirtySet::new(1_000)
}

fn read(dest: &str) -> LinkRead {
    LinkRead { dest: RelPath::from_normal(dest), version: (1, 0) }
}

fn take(set: &mut DirtySet) -> Option<Batch> {
    set.take_shallow(ALL, &mut |_, _| false)
}

fn paths(batch: Option<Batch>) -> Vec<String> {
    let mut paths: Vec<_> = batch.into_iter().flat_map(|b| b.entries).map(|e| e.path.to_string()).collect();
    paths.sort();
    paths
}

/// A set in which `link` is in a batch by itself; then these became dirty, at growing times.
fn link_and(link: &str, others: &[(&str, Seen)]) -> (DirtySet, Batch) {
    let mut set = set();
    set.see(link.as_bytes(), Seen::Replaced);
    let batch = take(&mut set).expect("it is pending");
    for (n, (path, seen)) in others.iter().enumerate() {
        set.tick(Duration::from_secs(n as u64));
        set.see(path.as_bytes(), *seen);
    }
    (set, batch)
}

fn waits(set: &mut DirtySet, batch: &Batch, dest: &str, behind: &[BatchId]) -> bool {
    set.order_link(batch.id, &batch.entries[0], read(dest), |_| behind.iter().copied().collect())
}

#[test]
fn what_a_link_waits_for() {
    use Seen::{Contents, Gone, Replaced, Subtree, Touched, Written};
    for (link, dest, dirty, want) in [
        ("current", "releases/7", ("releases/7/f", Written), true),
        ("current", "releases/7", ("releases/7", Replaced), true),
        ("current", "releases/7", ("releases/7/a/b/c", Touched), true),
        ("current", "releases/7", ("releases/7/f", Gone), true),
        ("current", "releases/7", ("releases", Contents), true),
        ("current", "releases/7", ("releases", Subtree), true),
        ("current", "releases/7", ("releases/70/f", Written), false),
        ("current", "releases/7", ("releases/6/f", Written), false),
        ("current", "releases/7", ("other", Written), false),
        ("current", "releases/7", ("current.log", Written), false),
        // Above the link itself: that is sent in an order of its own.
        ("app/current", "app/releases/7", ("app", Touched), false),
        ("app/sub/current", "app/releases/7", ("app", Contents), false),
        ("app/sub/current", "app/releases/7", ("app/releases", Touched), true),
    ] {
        let (mut set, batch) = link_and(link, &[dirty]);
        assert_eq!(waits(&mut set, &batch, dest, &[]), want, "{link} -> {dest}, {dirty:?}");
    }
}

/// As packages are unpacked: links under other names, which are renamed before they could leave.
#[test]
fn links_that_are_gone_keep_no_deletions() {
    let mut set = set();
    let batches = ["bin/a.new", "bin/b.new"].map(|link| {
        set.see(link.as_bytes(), Seen::Replaced);
        take(&mut set).expect("it is pending")
    });
    set.see(b"bin/tool", Seen::Written);
    assert!(batches.iter().all(|batch| waits(&mut set, batch, "bin/tool", &[])));
    for link in ["bin/a.new", "bin/b.new"] {
        set.see(link.as_bytes(), Seen::Gone);
    }
    set.see(b"bin/c.old", Seen::Gone);
    let tool = take(&mut set).expect("what they led to leaves, and their names with it");
    let mut names: Vec<_> = tool.entries.iter().map(|e| e.path.to_string()).collect();
    names.sort();
    assert_eq!(names, ["bin/a.new", "bin/b.new", "bin/tool"]);
    set.release_links(&|id| id == tool.id, &|_| false);
    set.confirm(tool.id, tool.entries);
    set.release_links(&|_| false, &|_| false);
    assert_eq!(paths(take(&mut set)), ["bin/c.old"]);
    assert!(!set.orders());
}

#[test]
fn it_leaves_when_that_is_confirmed_and_not_before() {
    let (mut set, link) = link_and("current", &[("r/7/f", Seen::Written)]);
    assert!(waits(&mut set, &link, "r/7", &[]));
    assert_eq!((set.pending(), set.ready(true)), (2, 1));
    let tree = take(&mut set).expect("the tree leaves");
    assert_eq!(set.ready(true), 0, "and the link does not");
    assert!(!set.release_links(&|id| id == tree.id, &|_| false));
    // What comes later does not count.
    set.tick(Duration::from_secs(9));
    set.see(b"r/7/g", Seen::Written);
    assert!(set.confirm(tree.id, tree.entries).is_empty());
    assert!(!set.release_links(&|_| false, &|_| true), "kept for a lane of its own");
    assert!(set.release_links(&|_| false, &|_| false));
    let both = take(&mut set).expect("it leaves");
    let link = both.entries.iter().find(|e| &*e.path == b"current").expect("the link");
    assert!(!set.order_link(both.id, link, read("r/7"), |_| unreachable!()), "read once");
    assert!(set.confirm(both.id, both.entries).is_empty());
    set.release_links(&|_| false, &|_| false);
    assert!(!set.orders() && set.epochs().total() == 0);
}

#[test]
fn a_tree_that_fails_holds_it_no_longer() {
    let (mut set, link) = link_and("current", &[("r/7/f", Seen::Written)]);
    assert!(waits(&mut set, &link, "r/7", &[]));
    let tree = take(&mut set).expect("the tree leaves");
    set.park(tree.id, &tree.entries); // to be tried again later
    assert!(set.release_links(&|_| false, &|_| false));
    let again = set.take_again(tree.entries, 1).expect("the next round");
    assert!(set.release_links(&|id| id == again.id, &|_| false), "not even while it is tried");
}

#[test]
fn batches_that_are_split_count_all() {
    let (mut set, link) = link_and("current", &[("r/7/f", Seen::Written), ("r/7/g", Seen::Written)]);
    assert!(waits(&mut set, &link, "r/7", &[]));
    let mut tree = take(&mut set).expect("the tree leaves");
    let second = tree.entries.pop().expect("two entries");
    let second = set.split(&tree, vec![second]);
    assert!(set.confirm(tree.id, tree.entries).is_empty());
    assert!(!set.release_links(&|id| id == second.id, &|_| false));
    assert!(set.confirm(second.id, second.entries).is_empty());
    assert!(set.release_links(&|_| false, &|_| false));
}

#[test]
fn links_to_each_other_do_not_wait_for_ever() {
    let mut set = set();
    for path in ["a", "b"] {
        set.see(path.as_bytes(), Seen::Replaced);
    }
    let batch = take(&mut set).expect("both");
    let dest = |e: &Entry| if &*e.path == b"a" { "b" } else { "a" };
    // The first waits for the second, which is in its batch, and the second for the first, which
    // waits by then.
    let (first, second) = (&batch.entries[0], &batch.entries[1]);
    assert!(set.order_link(batch.id, first, read(dest(first)), |_| [batch.id].into()));
    assert!(set.order_link(batch.id, second, read(dest(second)), |_| Default::default()));
    for wanted in [first, second] {
        assert!(set.release_links(&|_| false, &|_| false));
        let next = take(&mut set).expect("one of them");
        assert_eq!(next.entries.len(), 1, "{next:?}");
        let entry = &next.entries[0];
        assert_eq!(entry.path, wanted.path);
        assert!(!set.order_link(next.id, entry, read(dest(entry)), |_| unreachable!()));
        assert!(set.confirm(next.id, next.entries).is_empty());
    }
}

#[test]
fn a_chain_of_links_keeps_its_order() {
    let (mut set, inner) = link_and("r/7/lib", &[("r/7/lib64/f", Seen::Written)]);
    assert!(waits(&mut set, &inner, "r/7/lib64", &[]));
    set.see(b"current", Seen::Replaced);
    let both = take(&mut set).expect("the link and the file");
    let at = both.entries.iter().position(|e| &*e.path == b"current").expect("the link");
    assert!(set.order_link(both.id, &both.entries[at], read("r/7"), |_| [both.id].into()));
    let (mut rest, id) = (both.entries, both.id);
    rest.remove(at);
    assert!(set.confirm(id, rest).is_empty());
    assert!(set.release_links(&|_| false, &|_| false));
    let first = take(&mut set).expect("the inner link");
    assert_eq!(first.entries.len(), 1, "{first:?}");
    assert!(!set.order_link(first.id, &first.entries[0], read("r/7/lib64"), |_| unreachable!()));
    assert!(!set.release_links(&|id| id == first.id, &|_| false));
    assert!(set.confirm(first.id, first.entries).is_empty());
    assert!(set.release_links(&|_| false, &|_| false));
    assert_eq!(paths(take(&mut set)), ["current"]);
}

#[test]
fn one_that_is_made_anew_waits_anew_and_not_for_ever() {
    let (mut set, link) = link_and("current", &[("r/8/f", Seen::Written)]);
    let mut id = link.id;
    for n in 0..=MAX_ROUNDS {
        let version = LinkRead { version: (i64::from(n), 0), ..read("r/8") };
        assert!(set.order_link(id, &link.entries[0], version, |_| Default::default()), "{n}");
        set.see(b"current", Seen::Replaced);
        let batch = take(&mut set).expect("it changed");
        let entries = batch.entries;
        id = batch.id;
        for entry in entries.into_iter().filter(|e| &*e.path != b"current") {
            set.park(id, std::slice::from_ref(&entry));
            set.restore(entry);
        }
    }
    let last = LinkRead { version: (99, 0), ..read("r/8") };
    assert!(!set.order_link(id, &link.entries[0], last, |_| Default::default()));
}

#[test]
fn deletions_beside_the_destination_wait_for_the_link() {
    let (mut set, link) = link_and("app/current", &[("app/r/7/f", Seen::Written)]);
    assert!(waits(&mut set, &link, "app/r/7", &[]));
    set.tick(Duration::from_secs(5));
    for (path, seen) in [
        ("app/r/6", Seen::GoneDir),
        ("app/r/5/f", Seen::Gone),
        ("app/r/7/old", Seen::Gone),
        ("app/x", Seen::Gone),
        ("app/r/9/f", Seen::Written),
    ] {
        set.see(path.as_bytes(), seen);
    }
    let first = take(&mut set).expect("what need not wait");
    let mut went: Vec<_> = first.entries.iter().map(|e| e.path.to_string()).collect();
    went.sort();
    assert_eq!(went, ["app/r/7/f", "app/r/7/old", "app/r/9/f", "app/x"]);
    assert!(set.confirm(first.id, first.entries).is_empty());
    assert!(set.release_links(&|_| false, &|_| false));
    let link = take(&mut set).expect("the link");
    assert_eq!(link.entries.len(), 1, "{link:?}");
    assert!(!set.order_link(link.id, &link.entries[0], read("app/r/7"), |_| unreachable!()));
    assert!(take(&mut set).is_none(), "while it is in flight");
    assert!(set.confirm(link.id, link.entries).is_empty());
    set.release_links(&|_| false, &|_| false);
    assert_eq!(paths(take(&mut set)), ["app/r/5/f", "app/r/6"]);
}

#[test]
fn what_is_missing_without_an_event_of_it_waits_as_a_deletion() {
    let (mut set, link) = link_and("current", &[("r/7/f", Seen::Written)]);
    assert!(waits(&mut set, &link, "r/7", &[]));
    set.tick(Duration::from_secs(5));
    set.see(b"r/6/f", Seen::Touched);
    let batch = take(&mut set).expect("no deletion, by its event");
    let mut entry = batch.entries.iter().find(|e| &*e.path == b"r/6/f").expect("it needs nothing").clone();
    // The directory is gone when it is checked.
    assert!(set.waits_for_link(batch.id, &entry, b"r/6") && !set.waits_for_link(batch.id, &entry, b"r/7"));
    entry.gone = true;
    set.park(batch.id, std::slice::from_ref(&entry));
    set.restore(entry);
    let rest = batch.entries.into_iter().filter(|e| &*e.path != b"r/6/f").collect();
    assert!(set.confirm(batch.id, rest).is_empty());
    assert!(take(&mut set).is_none(), "not before the link");
    assert!(set.release_links(&|_| false, &|_| false));
    assert_eq!(paths(take(&mut set)), ["current"]);
}

#[test]
fn a_link_that_goes_is_forgotten() {
    let (mut set, link) = link_and("current", &[("r/7/f", Seen::Written)]);
    assert!(waits(&mut set, &link, "r/7", &[]));
    set.see(b"current", Seen::Gone);
    assert_eq!(set.ready(true), 2, "its deletion does not wait");
    let batch = take(&mut set).expect("both");
    assert!(set.confirm(batch.id, batch.entries).is_empty());
    set.release_links(&|_| false, &|_| false);
    assert!(!set.orders());
    assert_eq!((set.pending(), set.epochs().total()), (0, 0));
}

#[test]
fn a_link_into_what_is_removed_and_that_removal_do_not_wait_for_each_other() {
    let mut set = set();
    for (path, seen) in [("a", Seen::Replaced), ("e", Seen::Replaced), ("a", Seen::Gone)] {
        set.see(path.as_bytes(), seen);
    }
    let both = take(&mut set).expect("both");
    let (removal, link) = (&both.entries[0], &both.entries[1]);
    assert_eq!((&*removal.path, &*link.path), (&b"a"[..], &b"e"[..]));
    assert!(set.order_link(both.id, link, read("a/b"), |_| [both.id].into()));
    assert!(set.waits_for_link(both.id, removal, &removal.path));
    set.park(both.id, std::slice::from_ref(removal));
    set.restore(removal.clone());
    assert!(set.release_links(&|_| false, &|_| false));
    for wanted in [&b"e"[..], b"a"] {
        let next = take(&mut set).expect("one of them");
        let [entry] = &*next.entries else { panic!("{next:?}") };
        assert_eq!(&*entry.path, wanted);
        if wanted == b"e" {
            assert!(!set.order_link(next.id, entry, read("a/b"), |_| unreachable!()));
        }
        assert!(set.confirm(next.id, next.entries).is_empty());
        set.release_links(&|_| false, &|_| false);
    }
    assert_eq!(set.pending(), 0);
}
