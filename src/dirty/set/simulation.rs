//! A simulation with an oracle: random histories on a model tree, events delivered late, several
//! batches in flight, failures, and in the end the target's model must equal the source's.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug, PartialEq)]
enum Obj {
    Dir,
    File(u32),
}

type Tree = BTreeMap<String, Obj>;

fn below<'a>(t: &'a Tree, dir: &str) -> Vec<(&'a String, &'a Obj)> {
    t.iter().filter(|(p, _)| path::is_at_or_below(p.as_bytes(), dir.as_bytes()) && *p != dir).collect()
}

fn remove(t: &mut Tree, at: &str) {
    t.retain(|p, _| !path::is_at_or_below(p.as_bytes(), at.as_bytes()));
}

fn put(t: &mut Tree, at: &str, obj: &Obj) {
    for (i, _) in at.match_indices('/') {
        if t.get(&at[..i]) != Some(&Obj::Dir) {
            remove(t, &at[..i]);
            t.insert(at[..i].into(), Obj::Dir);
        }
    }
    match (t.get(at), obj) {
        (Some(Obj::Dir), Obj::Dir) => {}
        _ => {
            remove(t, at);
            t.insert(at.into(), obj.clone());
        }
    }
}

/// What one run read from the source for one entry; applied to the target later.
enum Found {
    Missing(String),
    Same(String, Obj),
    Level(String, Vec<(String, Obj)>),
    All(String, Tree),
}

/// Reads the source as a run does: rule N, then the current state.
fn read(source: &Tree, e: &Entry) -> Found {
    let p = String::from_utf8(e.path.to_vec()).unwrap();
    if p.is_empty() {
        return match e.kind {
            Kind::Entry => Found::Same(p, Obj::Dir),
            Kind::Contents => {
                Found::Level(p, source.iter().filter(|(q, _)| !q.contains('/')).map(|(q, o)| (q.clone(), o.clone())).collect())
            }
            Kind::Subtree => Found::All(p, source.clone()),
        };
    }
    let mut ends: Vec<usize> = p.match_indices('/').map(|(i, _)| i).collect();
    ends.push(p.len());
    for end in ends {
        match source.get(&p[..end]) {
            None => return Found::Missing(p[..end].into()),
            Some(f @ Obj::File(_)) => return Found::Same(p[..end].into(), f.clone()),
            Some(Obj::Dir) => {}
        }
    }
    let prefix = format!("{p}/");
    let whole = || below(source, &p).into_iter().map(|(q, o)| (q.clone(), o.clone())).collect();
    match e.kind {
        Kind::Entry if !e.gone => Found::Same(p, Obj::Dir),
        Kind::Contents => {
            let level = below(source, &p)
                .into_iter()
                .filter(|(q, _)| !q[prefix.len()..].contains('/'))
                .map(|(q, o)| (q.clone(), o.clone()))
                .collect();
            Found::Level(p, level)
        }
        _ => Found::All(p.clone(), whole()),
    }
}

fn apply(target: &mut Tree, found: Found) {
    match found {
        Found::Missing(p) => remove(target, &p),
        Found::Same(p, o) if !p.is_empty() => put(target, &p, &o),
        Found::Same(..) => {}
        Found::Level(p, level) => {
            if !p.is_empty() {
                put(target, &p, &Obj::Dir);
            }
            let prefix = if p.is_empty() { String::new() } else { format!("{p}/") };
            let extra: Vec<String> = target
                .keys()
                .filter(|q| q.starts_with(&prefix) && !q[prefix.len()..].contains('/') && !level.iter().any(|(l, _)| l == *q))
                .cloned()
                .collect();
            for q in extra {
                remove(target, &q);
            }
            for (q, o) in level {
                put(target, &q, &o);
            }
        }
        Found::All(p, tree) => {
            if p.is_empty() {
                target.clear();
            } else {
                put(target, &p, &Obj::Dir);
                let own: Vec<String> = below(target, &p).into_iter().map(|(q, _)| q.clone()).collect();
                for q in own {
                    target.remove(&q);
                }
            }
            target.extend(tree);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u8, bool),
    Mkdir(u8),
    Delete(u8),
    Rename(u8, u8),
    Lost(u8, bool),
    Deliver(u8),
    Dispatch { deep: bool, max: u8 },
    Read(u8),
    Land { which: u8, fails: u8 },
    Soften,
    Restore,
}

/// A small name space, so that histories collide: 3 names on 3 levels.
fn name(n: u8) -> String {
    let n = n % 39;
    let c = |x: u8| char::from(b'a' + x % 3);
    match n {
        0..3 => c(n).to_string(),
        3..12 => format!("{}/{}", c(n - 3), c((n - 3) / 3)),
        _ => format!("{}/{}/{}", c(n - 12), c((n - 12) / 3), c((n - 12) / 9)),
    }
}

struct Sim {
    source: Tree,
    target: Tree,
    events: VecDeque<(String, Seen)>,
    set: DirtySet,
    flying: Vec<(Batch, bool, Option<Vec<Found>>)>,
    parked: Vec<Entry>,
    after: Vec<(BatchId, Entry)>,
    version: u32,
    /// Events still to be delivered before the barrier that has begun ends.
    barrier: Option<usize>,
    /// Since the start; for what waits.
    clock: Duration,
}

impl Sim {
    fn ev(&mut self, path: &str, seen: Seen) {
        self.events.push_back((path.into(), seen));
    }

    fn parent_is_dir(&self, p: &str) -> bool {
        p.rfind('/').is_none_or(|i| self.source.get(&p[..i]) == Some(&Obj::Dir))
    }

    fn delete(&mut self, p: &str) {
        match self.source.get(p) {
            Some(Obj::File(_)) => {
                self.source.remove(p);
                self.ev(p, Seen::Gone);
            }
            Some(Obj::Dir) => {
                let inner: Vec<(String, Obj)> = below(&self.source, p).into_iter().map(|(q, o)| (q.clone(), o.clone())).collect();
                for (q, o) in inner.into_iter().rev() {
                    self.source.remove(&q);
                    self.ev(&q, if o == Obj::Dir { Seen::GoneDir } else { Seen::Gone });
                }
                self.source.remove(p);
                self.ev(p, Seen::GoneDir);
            }
            None => {}
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(n, closed) => {
                let p = name(*n);
                if self.parent_is_dir(&p) && self.source.get(&p) != Some(&Obj::Dir) {
                    self.version += 1;
                    if self.source.insert(p.clone(), Obj::File(self.version)).is_none() {
                        self.ev(&p, Seen::Created);
                    }
                    // A file that is still open is closed at the end of the history.
                    if *closed {
                        self.ev(&p, Seen::Written);
                    }
                }
            }
            Step::Mkdir(n) => {
                let p = name(*n);
                if self.parent_is_dir(&p) && !self.source.contains_key(&p) {
                    self.source.insert(p.clone(), Obj::Dir);
                    self.ev(&p, Seen::CreatedDir);
                }
            }
            Step::Delete(n) => self.delete(&name(*n)),
            Step::Rename(a, b) => {
                let (a, b) = (name(*a), name(*b));
                let Some(obj) = self.source.get(&a).cloned() else { return };
                if !self.parent_is_dir(&b)
                    || path::is_at_or_below(b.as_bytes(), a.as_bytes())
                    || path::is_at_or_below(a.as_bytes(), b.as_bytes())
                {
                    return;
                }
                match (&obj, self.source.get(&b)) {
                    (_, None) | (Obj::File(_), Some(Obj::File(_))) => {}
                    (Obj::Dir, Some(Obj::Dir)) if below(&self.source, &b).is_empty() => {}
                    _ => return,
                }
                let moved: Tree =
                    below(&self.source, &a).into_iter().map(|(q, o)| (format!("{b}{}", &q[a.len()..]), o.clone())).collect();
                remove(&mut self.source, &a);
                remove(&mut self.source, &b);
                self.source.insert(b.clone(), obj.clone());
                self.source.extend(moved);
                let dir = obj == Obj::Dir;
                self.ev(&a, if dir { Seen::GoneDir } else { Seen::Gone });
                self.ev(&b, if dir { Seen::MovedDir } else { Seen::Written });
            }
            Step::Lost(n, deep) => {
                // Out of sight: everything queued below is lost, and the subtree is marked.
                let p = if n % 4 == 0 { String::new() } else { name(*n) };
                let seen = if *deep { Seen::Subtree } else { Seen::Contents };
                if *deep {
                    self.events.retain(|(q, _)| !path::is_at_or_below(q.as_bytes(), p.as_bytes()) || *q == p);
                    // What is left of them, and the loss itself, come before the barrier ends.
                    self.barrier = self.barrier.map(|_| self.events.len() + 1);
                }
                self.ev(&p, seen);
            }
            Step::Deliver(n) => {
                for _ in 0..*n {
                    if let Some((p, seen)) = self.events.pop_front() {
                        self.set.see(p.as_bytes(), seen);
                        self.barrier = self.barrier.map(|left| left.saturating_sub(1));
                    }
                    if self.barrier == Some(0) {
                        self.barrier = None;
                        self.set.end_barrier();
                    }
                }
            }
            Step::Dispatch { deep, max } => {
                let limits = Limits { max_paths: 1 + *max as usize, ignore_holds: false };
                let batch = if *deep { self.set.take_deep(limits) } else { self.set.take_shallow(limits, &mut |_, _| false) };
                self.flying.extend(batch.map(|b| (b, *deep, None)));
            }
            Step::Read(n) => {
                let Some(i) = self.pick(*n) else { return };
                if self.flying[i].2.is_some() {
                    return;
                }
                // A file that is still open waits; one that is not found, for where it went. How
                // long is the caller's to say, so that a property of the names does for this.
                let (batch, ..) = &mut self.flying[i];
                let id = batch.id;
                let source = &self.source;
                let waits = |e: &Entry| match source.get(&e.path.to_string()) {
                    Some(Obj::File(version)) => e.held && e.kind == Kind::Entry && version % 3 != 0,
                    Some(_) => false,
                    None => e.through && !e.gone && !e.waited && e.kind == Kind::Entry && n % 2 == 0,
                };
                let (waiting, now): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut batch.entries).into_iter().partition(waits);
                if now.is_empty() {
                    self.flying.swap_remove(i);
                } else {
                    let found = now.iter().map(|e| read(source, e)).collect();
                    (batch.entries, self.flying[i].2) = (now, Some(found));
                }
                self.clock += Duration::from_millis(1);
                for e in waiting {
                    let until = self.clock + Duration::from_millis(u64::from(*n));
                    match e.held && self.source.contains_key(&e.path.to_string()) {
                        true => self.set.hold(id, e, until),
                        false => self.set.hold_absent(id, e, until),
                    }
                }
                self.set.tick(self.clock);
                self.release(id);
            }
            Step::Land { which, fails } => {
                let Some(i) = self.pick(*which) else { return };
                let (batch, _, found) = self.flying.swap_remove(i);
                let Some(found) = found else {
                    self.set.park(batch.id, &batch.entries);
                    self.parked.extend(batch.entries);
                    return self.release(batch.id);
                };
                let n = found.len();
                let keep = if *fails % 4 == 0 { *fails as usize % (n + 1) } else { n };
                for f in found.into_iter().take(keep) {
                    apply(&mut self.target, f);
                }
                let id = batch.id;
                if keep == n {
                    let again = self.set.confirm(batch.id, batch.entries);
                    for e in again {
                        self.park_after(e);
                    }
                } else {
                    self.set.park(batch.id, &batch.entries);
                    self.parked.extend(batch.entries);
                }
                self.release(id);
                if fails % 2 == 0 {
                    self.begin_barrier();
                }
            }
            Step::Soften => {
                if let Some((b, ..)) = self.flying.iter().find(|(_, deep, _)| *deep) {
                    self.set.soften(b);
                }
            }
            Step::Restore => {
                let parked = std::mem::take(&mut self.parked);
                if self.version.is_multiple_of(2) {
                    self.flying.extend(self.set.take_again(parked, 1).map(|b| (b, false, None)));
                } else {
                    parked.into_iter().for_each(|e| self.set.restore(e));
                }
            }
        }
    }

    /// A run has ended: what passed below it meanwhile is sent again.
    fn release(&mut self, id: BatchId) {
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.after).into_iter().partition(|(over, _)| *over == id);
        self.after = later;
        for (_, e) in now {
            self.set.restore(e);
        }
    }

    fn begin_barrier(&mut self) {
        if self.barrier.is_none() && self.set.wants_barrier() {
            self.set.begin_barrier();
            self.barrier = Some(self.events.len());
        }
    }

    fn park_after(&mut self, e: Entry) {
        let over = e.over.unwrap();
        if self.flying.iter().any(|(b, ..)| b.id == over) {
            self.after.push((over, e));
        } else {
            self.set.restore(e);
        }
    }

    fn pick(&self, n: u8) -> Option<usize> {
        (!self.flying.is_empty()).then(|| n as usize % self.flying.len())
    }

    fn finish(&mut self) {
        let open: Vec<String> = self.source.iter().filter(|(_, o)| **o != Obj::Dir).map(|(p, _)| p.clone()).collect();
        for p in open {
            self.ev(&p, Seen::Written);
        }
        for _ in 0..200 {
            self.begin_barrier();
            self.step(&Step::Deliver(255));
            self.clock += Duration::from_secs(1);
            self.set.tick(self.clock);
            self.step(&Step::Restore);
            self.step(&Step::Dispatch { deep: false, max: 255 });
            self.step(&Step::Dispatch { deep: true, max: 255 });
            for n in 0..8 {
                self.step(&Step::Read(n));
            }
            while !self.flying.is_empty() {
                self.step(&Step::Read(0));
                self.step(&Step::Land { which: 0, fails: 1 });
            }
            if self.events.is_empty() && self.set.epochs().total() == 0 {
                return;
            }
        }
        panic!("never in sync: {} pending, {} unconfirmed", self.set.pending(), self.set.epochs().total());
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = any::<u8>;
    proptest::collection::vec(
        prop_oneof![
            6 => (n(), any::<bool>()).prop_map(|(a, c)| Step::Write(a, c)),
            5 => n().prop_map(Step::Mkdir),
            4 => n().prop_map(Step::Delete),
            4 => (n(), n()).prop_map(|(a, b)| Step::Rename(a, b)),
            1 => (n(), any::<bool>()).prop_map(|(a, d)| Step::Lost(a, d)),
            6 => (0..6u8).prop_map(Step::Deliver),
            5 => (any::<bool>(), 0..6u8).prop_map(|(deep, max)| Step::Dispatch { deep, max }),
            5 => n().prop_map(Step::Read),
            5 => (n(), n()).prop_map(|(which, fails)| Step::Land { which, fails }),
            1 => Just(Step::Soften),
            2 => Just(Step::Restore),
        ],
        1..120,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, max_shrink_iters: 20_000, ..ProptestConfig::default() })]
    #[test]
    fn any_history_ends_equal(steps in steps(), bound in prop_oneof![Just(1_000_000usize), 2..12usize]) {
        let mut sim = Sim {
            source: Tree::new(),
            target: Tree::new(),
            events: VecDeque::new(),
            set: DirtySet::new(bound),
            flying: Vec::new(),
            parked: Vec::new(),
            after: Vec::new(),
            version: 0,
            barrier: None,
            clock: Duration::ZERO,
        };
        for step in &steps {
            sim.step(step);
        }
        sim.finish();
        prop_assert_eq!(&sim.source, &sim.target);
        prop_assert_eq!(sim.set.pending(), 0);
        prop_assert_eq!(sim.set.tree.len(), 1, "the tree is not empty");
        prop_assert_eq!(sim.set.holds.held(false), 0);
    }
}
