//! Random histories of a source, a stream that forgets, repeats, reorders and is set back, and a
//! follower that is killed at any moment: in the end both trees are equal.

use std::collections::BTreeMap;

use super::*;
use crate::feed::record::Item;

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn item(text: &str) -> Item {
    Item { path: path(text), kind: Kind::Entry, gone: false, directory: false, content: true }
}

fn record(incarnation: u64, number: u64, entries: Vec<Item>) -> Record {
    Record { incarnation, number, stream: 1, entries, ..Record::default() }
}

fn follower() -> Machine {
    Machine::new(None, 1_000, Duration::from_secs(1))
}

/// One that holds everything up to the record 5 of the incarnation 1.
fn in_sync() -> Machine {
    let point = Point { stream: 1, incarnation: 1, number: 5, sequence: 5 };
    Machine::new(Some(Saved { position: Some(point), ..Saved::default() }), 1_000, Duration::from_secs(1))
}

fn sequence(machine: &Machine) -> Option<u64> {
    machine.position().map(|point| point.sequence)
}

const NOW: Duration = Duration::ZERO;

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

// ----- random histories -----

/// A tree: names to contents, `None` for a directory. Every parent is there.
type Tree = BTreeMap<RelPath, Option<u32>>;

fn below(tree: &Tree, dir: &RelPath) -> Vec<RelPath> {
    tree.keys().filter(|p| *p != dir && path::is_at_or_below(p, dir)).cloned().collect()
}

fn remove(tree: &mut Tree, at: &RelPath) {
    for gone in below(tree, at) {
        tree.remove(&gone);
    }
    if !at.is_root() {
        tree.remove(at);
    }
}

/// Makes a name of the follower what it is in the source, without what is below.
fn copy(source: &Tree, copy: &mut Tree, at: &RelPath) {
    let Some(node) = source.get(at) else { return };
    if node.is_some() || copy.get(at).is_some_and(Option::is_some) {
        remove(copy, at);
    }
    copy.insert(at.clone(), *node);
}

/// What rsync does with a list, as it was measured: see the table in `docs/feed.md`.
fn pull(source: &Tree, mine: &mut Tree, work: &Work) -> End {
    let mut complaints = Vec::new();
    match work {
        Work::Whole => *mine = source.clone(),
        Work::List { paths, deletes, deep, .. } => {
            let remove = |mine: &mut Tree, at: &RelPath| {
                if *deletes {
                    remove(mine, at)
                }
            };
            for (at, kind) in paths {
                let mut above: Vec<RelPath> = Vec::new();
                let mut dir = path::parent(at);
                while let Some(d) = dir {
                    above.push(RelPath::from_normal(d));
                    dir = path::parent(d);
                }
                above.reverse();
                let complain = |path: &RelPath| Complaint { path: path.clone(), absent: true, words: "vanished".into() };
                if above.iter().any(|dir| source.get(dir).is_some_and(Option::is_some)) {
                    complaints.push(complain(at));
                    continue;
                }
                if let Some(gone) = above.iter().find(|dir| !source.contains_key(*dir)) {
                    remove(mine, at);
                    complaints.push(complain(gone));
                    continue;
                }
                if !source.contains_key(at) {
                    match deep {
                        true => complaints.push(complain(at)),
                        false => remove(mine, at),
                    }
                    continue;
                }
                if *kind == Kind::Contents && source[at].is_some() {
                    complaints.push(complain(at));
                    continue;
                }
                above.iter().chain([at]).for_each(|p| copy(source, mine, p));
                let inside = |p: &RelPath| match kind {
                    Kind::Entry => false,
                    Kind::Contents => path::parent(p) == Some(&**at),
                    Kind::Subtree => true,
                };
                for gone in below(mine, at).iter().filter(|p| inside(p) && !source.contains_key(*p)) {
                    assert!(*deletes, "a comparison deletes");
                    remove(mine, gone);
                }
                for there in below(source, at).iter().filter(|p| inside(p)) {
                    copy(source, mine, there);
                }
            }
        }
    }
    if complaints.is_empty() { End::Done } else { End::Partly { complaints, complete: true } }
}

/// A publisher, its stream, and a follower.
struct World {
    random: fastrand::Rng,
    source: Tree,
    mine: Tree,
    /// Messages by sequence; the first ones may be gone.
    stream: BTreeMap<u64, Record>,
    created: u64,
    last: u64,
    incarnation: u64,
    number: u64,
    /// Paths that no record has.
    dirty: Vec<Item>,
    machine: Machine,
    disk: Saved,
    flying: Option<Work>,
}

impl World {
    fn new(seed: u64) -> World {
        let root = Tree::from([(RelPath::root(), None)]);
        let mut world = World {
            random: fastrand::Rng::with_seed(seed),
            source: root.clone(),
            mine: root,
            stream: BTreeMap::new(),
            created: 1,
            last: 0,
            incarnation: 1,
            number: 0,
            dirty: Vec::new(),
            machine: follower(),
            disk: Saved::default(),
            flying: None,
        };
        world.store(true);
        world
    }

    /// Publishes what is dirty.
    fn store(&mut self, everything: bool) {
        self.number += 1;
        self.last += 1;
        let entries = std::mem::take(&mut self.dirty);
        let record = Record { stream: self.created, everything, ..record(self.incarnation, self.number, entries) };
        self.stream.insert(self.last, record);
    }

    /// The publisher finds that the stream does not end where it left it.
    fn begin_anew(&mut self) {
        (self.incarnation, self.number) = (self.incarnation + 1, 0);
        self.store(true);
    }

    fn dir(&mut self) -> RelPath {
        let dirs: Vec<RelPath> = self.source.iter().filter(|(_, n)| n.is_none()).map(|(p, _)| p.clone()).collect();
        dirs[self.random.usize(..dirs.len())].clone()
    }

    /// One change of the source, and what an engine makes of it.
    fn change(&mut self) {
        let at = self.dir().join(&[b'a' + self.random.u8(..4)]);
        if at.len() > 9 {
            return;
        }
        let was = self.source.get(&at).copied();
        match self.random.u8(..6) {
            0..2 => {
                remove(&mut self.source, &at);
                self.source.insert(at.clone(), Some(self.random.u32(..)));
                self.dirty.extend(was.is_some_and(|n| n.is_none()).then(|| Item { gone: true, ..item(&at.to_string()) }));
                self.dirty.push(item(&at.to_string()));
            }
            2 => {
                if was != Some(None) {
                    self.source.insert(at.clone(), None);
                    self.dirty.push(Item { directory: true, ..item(&at.to_string()) });
                }
            }
            3..5 => {
                remove(&mut self.source, &at);
                self.dirty.push(Item { gone: true, ..item(&at.to_string()) });
            }
            _ => self.rename(at),
        }
    }

    fn rename(&mut self, from: RelPath) {
        let to = self.dir().join(&[b'a' + self.random.u8(..4)]);
        let both = path::is_at_or_below(&to, &from) || path::is_at_or_below(&from, &to);
        if both || !self.source.contains_key(&from) || to.len() > 6 {
            return;
        }
        remove(&mut self.source, &to);
        let moved: Vec<RelPath> = std::iter::once(from.clone()).chain(below(&self.source, &from)).collect();
        let mut directory = false;
        for old in moved {
            let node = self.source.remove(&old).expect("it was listed");
            directory |= old == from && node.is_none();
            self.source.insert(RelPath::new(&[&to, &old[from.len()..]].concat()).unwrap(), node);
        }
        self.dirty.push(Item { gone: true, ..item(&from.to_string()) });
        let kind = if directory { Kind::Subtree } else { Kind::Entry };
        self.dirty.push(Item { kind, directory, ..item(&to.to_string()) });
    }

    /// The follower reads what the stream has, perhaps with repetitions and gaps.
    fn read(&mut self) {
        let want = self.machine.read().map_or(1, |point| point.sequence + 1);
        if self.random.u8(..4) == 0
            && let Some((&at, record)) = self.stream.last_key_value()
        {
            self.machine.end(at, Ok(record.clone()));
        }
        let from = self.machine.read().map_or(want, |point| point.sequence + 1).saturating_sub(self.random.u64(..3));
        let most = self.random.usize(1..4);
        let next: Vec<(u64, Record)> = self.stream.range(from..).take(most).map(|(at, r)| (*at, r.clone())).collect();
        for (at, record) in next {
            self.machine.record(at, Ok(record));
        }
    }

    fn work(&mut self) {
        match self.flying.take() {
            None => self.flying = self.machine.take(Duration::MAX),
            Some(work) => {
                let end = match self.random.u8(..5) {
                    0 => End::Not,
                    _ => pull(&self.source, &mut self.mine, &work),
                };
                let mine = &self.mine;
                self.machine.ended(NOW, end, &|path| mine.get(path) == Some(&None));
            }
        }
        self.disk = self.machine.saved();
    }

    fn fault(&mut self) {
        match self.random.u8(..6) {
            // The follower is killed.
            0..3 => {
                (self.machine, self.flying) = (Machine::new(Some(self.disk.clone()), 1_000, Duration::ZERO), None);
            }
            // Retention.
            3 => {
                let keep = self.last.saturating_sub(self.random.u64(..3));
                self.stream.retain(|at, _| *at >= keep);
            }
            // An old store is put back: the tail is lost, and the next publish is refused.
            4 => {
                let back = self.random.u64(1..4);
                self.last = self.last.saturating_sub(back);
                self.stream.retain(|at, _| *at <= self.last);
                self.begin_anew();
            }
            // The store is wiped.
            _ => {
                self.stream.clear();
                (self.created, self.last) = (self.created + 1, 0);
                self.begin_anew();
                for _ in 0..self.random.u64(..5) {
                    self.store(false);
                }
            }
        }
    }

    fn step(&mut self) {
        match self.random.u8(..20) {
            0..7 => self.change(),
            7..11 => self.store(false),
            11..14 => self.read(),
            14..19 => self.work(),
            _ => self.fault(),
        }
    }

    /// Nothing changes any more.
    fn come_to_rest(&mut self) {
        self.store(false);
        for _ in 0..2_000 {
            let (at, last) = self.stream.last_key_value().map(|(at, r)| (*at, r.clone())).expect("one was stored just now");
            self.machine.end(at, Ok(last));
            let from = self.machine.read().map_or(1, |point| point.sequence + 1);
            let next: Vec<(u64, Record)> = self.stream.range(from..).map(|(at, r)| (*at, r.clone())).collect();
            next.into_iter().for_each(|(at, record)| self.machine.record(at, Ok(record)));
            if let Some(work) = self.flying.take().or_else(|| self.machine.take(Duration::MAX)) {
                let end = pull(&self.source, &mut self.mine, &work);
                let mine = &self.mine;
                self.machine.ended(NOW, end, &|path| mine.get(path) == Some(&None));
            }
            if self.machine.in_sync() && sequence(&self.machine) == Some(self.last) {
                return;
            }
        }
        panic!("no rest: {:?}", self.machine);
    }
}

#[test]
fn any_history_ends_equal() {
    for seed in 0..400 {
        let mut world = World::new(seed);
        for step in 0..400 {
            world.step();
            // A position is never early.
            if step % 40 == 39
                && world.dirty.is_empty()
                && sequence(&world.machine) == Some(world.last)
                && world.machine.in_sync()
                && world.machine.read().map(|p| (p.stream, p.incarnation)) == Some((world.created, world.incarnation))
            {
                assert_eq!(world.mine, world.source, "seed {seed}, step {step}: the position is early");
            }
        }
        world.come_to_rest();
        assert_eq!(world.mine, world.source, "seed {seed}");
    }
}
