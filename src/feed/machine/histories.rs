//! Random histories of a source, a stream that forgets, repeats, reorders and is set back, and a
//! follower that is killed at any moment: in the end both trees are equal.

mod rsync;

use std::collections::{BTreeMap, BTreeSet};

use super::batch_tests::{SECOND, TREE};
use super::tests::{follower, item, record, refused, sequence};
use super::*;
use rsync::{Tree, below, pull, pull_beside, remove};

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
    /// Steps so far, and when the follower was started.
    clock: u64,
    born: u64,
    /// When the last record was stored.
    stored: u64,
    /// What batches hold, by their bytes: the source, and when it was so.
    states: Vec<(Tree, Vec<Item>, u64)>,
    /// When runs of this follower pulled paths.
    pulled: BTreeMap<RelPath, u64>,
    /// The end of the stream as it was at a time.
    look: Option<(u64, u64)>,
    applied: usize,
    /// Files of the follower that it gave their names, and that no run compared by content.
    named: BTreeSet<RelPath>,
    renamed: usize,
    /// It cannot be copied just now.
    stubborn: Option<RelPath>,
    /// Runs that were refused it.
    refused: usize,
    /// Little goes wrong.
    calm: bool,
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
            clock: 1,
            born: 0,
            stored: 0,
            states: Vec::new(),
            pulled: BTreeMap::new(),
            look: None,
            applied: 0,
            named: Default::default(),
            renamed: 0,
            stubborn: None,
            refused: 0,
            calm: seed % 2 == 1,
        };
        world.store(true);
        world
    }

    /// Publishes what is dirty.
    fn store(&mut self, everything: bool) {
        self.number += 1;
        self.last += 1;
        let entries = std::mem::take(&mut self.dirty);
        let batch = if everything || self.random.u8(..4) == 0 { None } else { self.write_batch(&entries) };
        let record =
            Record { stream: self.created, everything, identity: TREE, batch, ..record(self.incarnation, self.number, entries) };
        self.stream.insert(self.last, record);
        self.stored = self.micros();
    }

    /// The publisher's time.
    fn micros(&self) -> u64 {
        SECOND + self.clock * 1_000
    }

    /// The follower's time.
    fn now(&self) -> Duration {
        Duration::from_millis(self.clock - self.born)
    }

    /// The state of these entries, if rsync writes it without a complaint and they are what the
    /// record says.
    fn write_batch(&mut self, entries: &[Item]) -> Option<Batch> {
        let is = |item: &Item| {
            let found = self.source.get(&item.path);
            (item.gone, item.directory) == (found.is_none(), found == Some(&None)) && item.kind < Kind::Subtree
        };
        let empty = &mut Tree::from([(RelPath::root(), None)]);
        if !entries.iter().all(is) || pull(&self.source, empty, &by_name(entries)) != End::Done {
            return None;
        }
        self.states.push((self.source.clone(), entries.to_vec(), self.clock));
        let bytes = (self.states.len() - 1).to_le_bytes().to_vec();
        Some(Batch { stored: self.stored, made: self.micros(), bytes, ..Batch::default() })
    }

    /// Does what is under way.
    fn carry_out(&mut self, work: &Work) -> End {
        let Work::Batch { batch, .. } = work else {
            let end = pull_beside(&self.source, &mut self.mine, &mut self.named, work);
            let paths = match work {
                Work::List { paths, .. } => paths.iter().map(|(path, _)| path.clone()).collect(),
                _ => vec![RelPath::root()],
            };
            self.pulled.extend(paths.into_iter().map(|path| (path, self.clock)));
            return end;
        };
        let index = usize::from_le_bytes(batch.bytes[..].try_into().unwrap());
        let (state, items, made) = &self.states[index];
        for item in items {
            let near = |p: &RelPath| path::is_at_or_below(p, &item.path) || path::is_at_or_below(&item.path, p);
            let newer = self.pulled.iter().find(|(path, at)| near(path) && *at >= made);
            assert_eq!(newer, None, "it takes back what was pulled of {}", item.path);
        }
        self.applied += 1;
        let half = self.random.u8(..8) == 0;
        let some = if half { &items[..items.len() / 2] } else { items };
        match pull_beside(state, &mut self.mine, &mut self.named, &by_name(some)) {
            end if !half => end,
            _ => End::Partly { complaints: Vec::new(), complete: false },
        }
    }

    /// A run that is refused one of its paths. A list stops there; a comparison carries the rest.
    fn refuse(&mut self, work: &Work) -> Option<End> {
        let choose = |random: &mut fastrand::Rng, paths: Vec<&RelPath>| {
            let below_top: Vec<&RelPath> = paths.into_iter().filter(|path| !path.is_root()).collect();
            random.choice(below_top).cloned()
        };
        let listed: Vec<&RelPath> = match work {
            Work::Whole => self.source.keys().collect(),
            Work::List { paths, .. } => paths.iter().map(|(path, _)| path).collect(),
            Work::Batch { .. } => return None,
        };
        self.stubborn = match self.stubborn.take() {
            None if self.random.u8(..12) == 0 => choose(&mut self.random, listed.clone()),
            stubborn => stubborn.filter(|_| self.random.u8(..12) > 0),
        };
        let at = self.stubborn.clone().filter(|at| listed.contains(&at))?;
        self.refused += 1;
        if *work == Work::Whole {
            let is_kept = |path: &RelPath| path::is_at_or_below(path, &at);
            let kept: Tree = self.mine.iter().filter(|(path, _)| is_kept(path)).map(|(p, n)| (p.clone(), *n)).collect();
            let named: Vec<RelPath> = self.named.iter().filter(|path| is_kept(path)).cloned().collect();
            self.carry_out(work);
            remove(&mut self.mine, &at);
            self.mine.extend(kept);
            self.named.extend(named);
        }
        Some(refused(&at))
    }

    /// Only what a run was refused, or that was in one that did not end, is a failure after it.
    fn ended(&mut self, end: End) {
        let before = self.machine.failed().len();
        let may_fail = match &end {
            End::Done => false,
            End::Not => true,
            End::Partly { complaints, .. } => complaints.iter().any(|complaint| !complaint.absent),
        };
        let mine = &self.mine;
        self.machine.ended(self.now(), end, &|path| mine.get(path) == Some(&None));
        assert!(may_fail || self.machine.failed().len() <= before, "nothing failed: {:?}", self.machine.failed());
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
        // The source does not know what changed below a directory.
        if !self.calm && self.random.u8(..8) == 0 {
            let dir = self.dir();
            let kind = if self.random.bool() { Kind::Subtree } else { Kind::Contents };
            self.dirty.push(Item { kind, directory: true, content: false, ..item(&dir.to_string()) });
        }
        let at = self.dir().join(&[b'a' + self.random.u8(..4)]);
        if at.len() > 9 {
            return;
        }
        let was = self.source.get(&at).copied();
        match self.random.u8(..9) {
            0..2 => {
                remove(&mut self.source, &at);
                self.source.insert(at.clone(), Some(self.random.u32(..)));
                self.dirty.extend(was.is_some_and(|n| n.is_none()).then(|| Item { gone: true, ..item(&at.to_string()) }));
                self.dirty.push(item(&at.to_string()));
            }
            2 => {
                if was != Some(None) {
                    self.source.insert(at.clone(), None);
                    self.dirty.push(Item { directory: true, content: false, ..item(&at.to_string()) });
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
        // Renamed within the source, so its content is as it was, unless something else says so.
        let content = self.random.bool();
        // Not always what became of it.
        let named = match self.random.u8(..8) {
            0 => None,
            1 => Some(self.dir().join(b"a")).filter(|to| !to.is_root()),
            _ => Some(to.clone()),
        };
        self.dirty.push(Item { gone: true, to: named, ..item(&from.to_string()) });
        let kind = if directory { Kind::Subtree } else { Kind::Entry };
        self.dirty.push(Item { kind, directory, content, ..item(&to.to_string()) });
    }

    /// The follower reads what the stream has, perhaps with repetitions and gaps.
    fn read(&mut self) {
        let want = self.machine.read().map_or(1, |point| point.sequence + 1);
        if self.random.u8(..4) == 0
            && let Some((&at, record)) = self.stream.last_key_value()
        {
            let (began, end) = self.look.take().unwrap_or((self.clock, at));
            self.machine.looked(Duration::from_millis(began - self.born), end);
            self.machine.end(at, Ok(record.clone()));
        }
        let from = self.machine.read().map_or(want, |point| point.sequence + 1).saturating_sub(self.random.u64(..3));
        let most = self.random.usize(1..4);
        let next: Vec<(u64, Record)> = self.stream.range(from..).take(most).map(|(at, r)| (*at, r.clone())).collect();
        for (at, record) in next {
            self.machine.record(at, Ok(record));
        }
    }

    /// The follower gives names, and may be killed before and after each.
    fn give_names(&mut self) {
        while let Some(given) = self.machine.next_move() {
            assert!(!self.machine.is_held() && !self.machine.owes(), "a comparison is owed: {given:?}");
            let of = |at: Point| (at.stream, at.incarnation);
            let at = self.machine.position().filter(|at| Some(of(*at)) == self.machine.read().map(of));
            let is_held = at.is_some_and(|at| at.sequence >= given.sequence);
            assert!(!is_held, "what it says is held already: {given:?}");
            let is_below = path::is_at_or_below(&given.to, &given.from) || path::is_at_or_below(&given.from, &given.to);
            assert!(!is_below, "one is in the other: {given:?}");
            let thing = match self.mine.get(&given.from) {
                Some(None) => Thing::Directory,
                Some(Some(_)) => Thing::File,
                None => continue,
            };
            if !self.machine.begin_move(&given, thing) {
                continue;
            }
            self.disk = self.machine.saved();
            if self.random.u8(..20) == 0 {
                return self.kill();
            }
            let into = path::parent(&given.to).map(RelPath::from_normal).and_then(|dir| self.mine.get(&dir).copied());
            if into != Some(None) || self.mine.contains_key(&given.to) || self.random.u8(..10) == 0 {
                self.machine.not_moved(&given);
                continue;
            }
            let moved: Vec<RelPath> = std::iter::once(given.from.clone()).chain(below(&self.mine, &given.from)).collect();
            for old in moved {
                let mut node = self.mine.remove(&old).expect("it was listed");
                // It may have been pulled after the rename, or changed by another program.
                if matches!(node, Some(content) if content % 3 > 0) && self.random.bool() {
                    node = Some(self.random.u32(..1_000_000) * 3 + 1);
                }
                let new = RelPath::new(&[&given.to, &old[given.from.len()..]].concat()).unwrap();
                if node.is_some() {
                    self.named.insert(new.clone());
                }
                self.mine.insert(new, node);
            }
            self.renamed += 1;
            if self.random.u8(..20) == 0 {
                return self.kill();
            }
            self.machine.end_move(given, thing);
        }
    }

    fn kill(&mut self) {
        (self.machine, self.flying) = (Machine::new(Some(self.disk.clone()), 1_000, Duration::ZERO), None);
        (self.born, self.look) = (self.clock, None);
    }

    fn work(&mut self) {
        if self.flying.is_none() {
            self.give_names();
        }
        match self.flying.take() {
            None => self.flying = self.machine.take(Duration::MAX),
            Some(work) => {
                assert_eq!(self.machine.next_move(), None, "no name is given beside a run");
                let end = match self.random.u8(..5) {
                    0 => End::Not,
                    _ => self.refuse(&work).unwrap_or_else(|| self.carry_out(&work)),
                };
                self.ended(end);
            }
        }
        self.disk = self.machine.saved();
    }

    fn fault(&mut self) {
        match self.random.u8(..6) {
            // The follower is killed.
            0..3 => self.kill(),
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

    /// Whatever is doubted is to be compared.
    fn check(&self) {
        for (path, _) in self.machine.saved().doubted {
            let path = RelPath::from_normal(path);
            assert!(self.machine.is_about(&path) || self.machine.fails_at(&path), "{path} stays doubted: {:?}", self.machine);
        }
    }

    fn step(&mut self) {
        self.clock += 1;
        if self.random.u8(..4) == 0 {
            self.look = Some((self.clock, self.last));
        }
        // What is published at once, and pulled at once, leaves room for the next batch.
        let chosen = match self.random.u8(..20) {
            n @ 0..5 if self.calm => n + 7,
            n => n,
        };
        match chosen {
            0..7 => self.change(),
            7..11 => self.store(false),
            11..14 => self.read(),
            14..19 => self.work(),
            _ if self.calm && self.random.u8(..10) > 0 => self.read(),
            _ => self.fault(),
        }
    }

    /// Nothing changes any more.
    fn come_to_rest(&mut self) {
        self.store(false);
        for _ in 0..2_000 {
            self.clock += 1;
            let (at, last) = self.stream.last_key_value().map(|(at, r)| (*at, r.clone())).expect("one was stored just now");
            self.machine.end(at, Ok(last));
            let from = self.machine.read().map_or(1, |point| point.sequence + 1);
            let next: Vec<(u64, Record)> = self.stream.range(from..).map(|(at, r)| (*at, r.clone())).collect();
            next.into_iter().for_each(|(at, record)| self.machine.record(at, Ok(record)));
            if self.flying.is_none() {
                self.give_names();
            }
            if let Some(work) = self.flying.take().or_else(|| self.machine.take(Duration::MAX)) {
                let end = self.carry_out(&work);
                self.ended(end);
            }
            if self.machine.in_sync() && sequence(&self.machine) == Some(self.last) {
                return;
            }
        }
        panic!("no rest: {:?}", self.machine);
    }
}

/// The list of a batch.
fn by_name(items: &[Item]) -> Work {
    let paths = items.iter().map(|item| (item.path.clone(), item.kind)).collect();
    Work::List { deep: false, trust: Trust::Nothing, paths, gone: 0, deletes: true }
}

#[test]
fn any_history_ends_equal() {
    let (mut applied, mut renamed, mut refused) = (0, 0, 0);
    for seed in 0..600 {
        let mut world = World::new(seed);
        for step in 0..400 {
            world.step();
            if step % 4 == 0 {
                world.check();
            }
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
        applied += world.applied;
        renamed += world.renamed;
        refused += world.refused;
    }
    assert!(renamed > 200, "names were given: {renamed}");
    assert!(refused > 200, "runs were refused a path: {refused}");
    assert!(applied > 200, "batches were applied: {applied}");
}
