//! What all targets of a daemon share: how many runs go on at a time, and bandwidth.
//!
//! Promises: never more runs that carry changes or wait connected than `max_runs`, never more
//! bandwidth given away than `bwlimit`. Whoever waits is not passed over by others for good: those
//! that have no run of their own come first, then those that have waited longest, and after
//! [`PATIENCE`] nothing but that counts. Some places, and a part of the bandwidth, are for small
//! batches alone, whose runs are short, and the last place is for a target without a run: a change
//! on an idle target never waits for the end of a long run, nor for one target that hangs.
//!
//! How: a target makes a request when it is about to start a run ([`Member::room`]), and settles at
//! the end of its engine's turn what it has really started. A place that is free again goes to the
//! one that waits first, whose engine is woken. A process that waits connected (standby) holds a
//! place as long as no other target needs it; else its target is requested to end it. A wake that
//! is lost, or an engine that is busy, costs others a second at most ([`STALE`]).
//!
//! The bandwidth depends on the time of day ([`Hours`]). rsync takes its own at its start, so a
//! long run that was given what no longer holds is ended, and begins anew with what does
//! ([`Member::is_overdue`]).
//!
//! Gives up: what ends is for runs that start later, those under way get no more of it.

mod hours;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::daily::TimeOfDay;
use crate::sys::event::EventFd;
use crate::sys::localtime::{self, LocalTime};
pub(crate) use hours::{Hours, Rate};

/// Whoever waits longer comes before those that have no run of their own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a place is kept for one that was woken.
const STALE: Duration = Duration::from_secs(1);
/// Of this many places one is for small batches alone.
const SMALL_PLACES: usize = 4;
/// The part of the bandwidth that is for small batches alone.
const SMALL_PART: u64 = 4;
/// What a small batch gets at least, as a part of all, where there is as much.
const SMALL_SHARE: u64 = 16;
/// The least part that is given to a run.
const LEAST_PART: u64 = 64;

/// A run may go on for so long with what it was given before another bandwidth held; many end by
/// themselves meanwhile.
const OVERDUE: Duration = Duration::from_secs(10);

/// The bounds as they are configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Runs at a time, at least one.
    pub(crate) runs: Option<usize>,
    /// The bandwidth towards other hosts.
    pub(crate) hours: Hours,
}

/// The bounds of this moment; `None`: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Runs at a time, at least one.
    pub(crate) runs: Option<usize>,
    /// KiB a second towards other hosts, at least [`LEAST_PART`].
    pub(crate) bandwidth: Rate,
}

/// The bandwidth, for people and programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    /// What all may take now.
    pub(crate) all: Rate,
    /// What runs under way were given of it, in KiB a second.
    pub(crate) given: u64,
    /// The next time of day at which another one holds, and that.
    pub(crate) next: Option<(TimeOfDay, Rate)>,
}

/// What a run was given.
#[derive(Clone, Copy, Debug)]
struct Given {
    /// Its own rate.
    rate: Rate,
    /// The rate of all at that time.
    of: Rate,
}

impl Given {
    /// What it counts of `all`: its part of it, where that is less by now.
    fn counts(&self, all: Rate) -> u64 {
        let rate = self.rate.unwrap_or_default();
        match (self.of, all) {
            (Some(of), Some(all)) if all < of => rate * all / of,
            _ => rate,
        }
    }
}

/// What a target has under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Runs that carry a small batch.
    pub(crate) small: usize,
    /// Runs that carry a large one, or compare.
    pub(crate) long: usize,
    /// Processes that wait connected.
    pub(crate) standby: usize,
}

impl Held {
    fn carrying(&self) -> usize {
        self.small + self.long
    }

    fn all(&self) -> usize {
        self.carrying() + self.standby
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// The end of a run.
    Place,
    /// Bandwidth, which a run that ends gives back.
    Bandwidth,
}

/// Who a share belongs to.
type Id = u64;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Duration,
    /// What the last answers of its turn refused.
    small: bool,
    long: bool,
    what: WaitsFor,
    /// When it was woken.
    rung: Option<Duration>,
}

#[derive(Debug, Default)]
struct Share {
    held: Held,
    /// Places that are its own, at least those that are held.
    places: usize,
    /// The same of long runs.
    long_places: usize,
    /// What its runs were given.
    rates: BTreeMap<u32, Given>,
    /// Set aside for a run that is about to start.
    rate_aside: u64,
    /// Refused in this turn.
    refused: BTreeMap<bool, WaitsFor>,
    waiting: Option<Waiting>,
    /// It is to end so many processes that wait.
    gives_up: usize,
}

impl Share {
    /// Its place among those that wait; the least comes first.
    fn rank(&self, id: Id, now: Duration) -> (bool, usize, Duration, Id) {
        let since = self.waiting.map_or(now, |waiting| waiting.since);
        let patient = now.saturating_sub(since) < PATIENCE;
        (patient, if patient { self.held.carrying() } else { 0 }, since, id)
    }

    fn rate(&self, all: Rate) -> u64 {
        self.rates.values().map(|given| given.counts(all)).sum::<u64>() + self.rate_aside
    }
}

/// The shares. Pure: time is an argument, since any moment.
#[derive(Debug, Default)]
struct Table {
    limits: Limits,
    /// When the bandwidth became what it is, if it was another one.
    changed: Option<Duration>,
    shares: BTreeMap<Id, Share>,
    next: Id,
}

impl Table {
    /// From `now` on these bounds; returns whether the bandwidth was another one.
    fn limit(&mut self, limits: Limits, now: Duration) -> bool {
        let changes = self.limits.bandwidth != limits.bandwidth;
        if changes {
            self.changed = Some(now);
        }
        self.limits = limits;
        changes
    }

    fn join(&mut self) -> Id {
        self.next += 1;
        self.shares.insert(self.next, Share::default());
        self.next
    }

    /// Returns whom to wake.
    fn leave(&mut self, id: Id, now: Duration) -> Vec<Id> {
        self.shares.remove(&id);
        self.ring(now)
    }

    fn share(&mut self, id: Id) -> &mut Share {
        self.shares.entry(id).or_default()
    }

    /// Places for long runs.
    fn long_most(&self, most: usize) -> usize {
        if most < 2 { most } else { most - (most / SMALL_PLACES).max(1) }
    }

    fn free_places(&self) -> Option<usize> {
        Some(self.limits.runs?.saturating_sub(self.shares.values().map(|share| share.places).sum()))
    }

    fn free_rate(&self) -> Option<u64> {
        Some(self.limits.bandwidth?.saturating_sub(self.given()))
    }

    fn given(&self) -> u64 {
        self.shares.values().map(|share| share.rate(self.limits.bandwidth)).sum()
    }

    fn long_free(&self) -> bool {
        let long: usize = self.shares.values().map(|share| share.long_places).sum();
        self.limits.runs.is_none_or(|most| long < self.long_most(most))
    }

    /// Who waits, the first first.
    fn line(&self, now: Duration) -> Vec<Id> {
        let waiting = self.shares.iter().filter(|(_, share)| share.waiting.is_some());
        let mut line: Vec<_> = waiting.map(|(id, share)| share.rank(*id, now)).collect();
        line.sort_unstable();
        line.into_iter().map(|(.., id)| id).collect()
    }

    /// How many that wait come before `id`, and can use what is free.
    fn ahead(&self, id: Id, now: Duration) -> usize {
        let (long_free, free) = (self.long_free(), self.free_places());
        let own = self.shares[&id].rank(id, now);
        let comes = |other: &(&Id, &Share)| {
            let (other, share) = other;
            share.waiting.is_some_and(|waiting| {
                let away = waiting.rung.is_some_and(|at| now.saturating_sub(at) > STALE);
                let can = waiting.small || waiting.long && long_free;
                !away && can && free.is_none_or(|free| free > self.kept(share.held)) && share.rank(**other, now) < own
            })
        };
        self.shares.iter().filter(|(other, _)| **other != id).filter(comes).count()
    }

    /// Where one hangs, it is not to hang with all places: the last is for those without a run.
    fn kept(&self, held: Held) -> usize {
        usize::from(held.carrying() > 0 && self.shares.len() > 1 && self.limits.runs.is_some_and(|most| most > 1))
    }

    /// Whether `id`, which has this under way, may start one more run. Then the place is kept for
    /// it until it settles. `remote`: it takes bandwidth.
    fn room(&mut self, id: Id, now: Duration, held: Held, long: bool, remote: bool) -> bool {
        let share = self.share(id);
        share.held = held;
        share.places = share.places.max(held.all());
        share.long_places = share.long_places.max(held.long);
        let refused = self.refuses(id, now, held, long, remote);
        let aside = self.limits.bandwidth.filter(|_| remote).map_or(0, least);
        let share = self.share(id);
        match refused {
            Some(what) => _ = share.refused.insert(long, what),
            None => {
                share.refused.remove(&long);
                // One that waits can make room.
                share.places = share.places.max(held.carrying() + 1);
                if long {
                    share.long_places = share.long_places.max(held.long + 1);
                }
                share.rate_aside = share.rate_aside.max(aside);
            }
        }
        refused.is_none()
    }

    fn refuses(&self, id: Id, now: Duration, held: Held, long: bool, remote: bool) -> Option<WaitsFor> {
        let share = &self.shares[&id];
        if long && share.long_places <= held.long && !self.long_free() {
            return Some(WaitsFor::Place);
        }
        // What waits connected makes room for one's own.
        let own = share.places > held.carrying();
        let ahead = self.ahead(id, now);
        if !own && self.free_places().is_some_and(|free| free <= ahead + self.kept(held)) {
            return Some(WaitsFor::Place);
        }
        if let (true, Some(all)) = (remote && share.rate_aside == 0, self.limits.bandwidth) {
            let free = self.free_rate().unwrap_or_default();
            let kept = if long { all / SMALL_PART } else { 0 } + least(all) * ahead as u64;
            if free < kept + least(all) {
                return Some(WaitsFor::Bandwidth);
            }
        }
        None
    }

    /// Whether `id` may start one more process that waits.
    fn standby_room(&mut self, id: Id, held: Held) -> bool {
        let anyone_waits = self.shares.values().any(|share| share.waiting.is_some() || !share.refused.is_empty());
        let share = self.share(id);
        share.held = held;
        share.places = share.places.max(held.all());
        let own = share.places > held.all();
        // One place stays free, so that a change finds it.
        let room = !anyone_waits && (own || self.free_places().is_none_or(|free| free > 1));
        if room {
            let share = self.share(id);
            share.places = share.places.max(held.all() + 1);
        }
        room
    }

    /// The bandwidth of a run that starts; `alive`: the others of `id`. `None` where there is no
    /// bound.
    fn rate(&mut self, id: Id, run: u32, long: bool, alive: &BTreeSet<u32>) -> Rate {
        let of = self.limits.bandwidth;
        let share = self.share(id);
        share.rates.retain(|run, _| alive.contains(run));
        share.rate_aside = 0;
        let rate = of.map(|all| {
            let free = self.free_rate().unwrap_or_default();
            match long {
                true => self.long_rate(all, free),
                false => (free / SMALL_PART).max((all / SMALL_SHARE).min(free)).max(least(all)),
            }
        });
        self.share(id).rates.insert(run, Given { rate, of });
        rate
    }

    /// What a long run is given of `free`.
    fn long_rate(&self, all: u64, free: u64) -> u64 {
        let others = self.shares.values().filter(|share| share.waiting.is_some_and(|w| w.long)).count() as u64;
        (free.saturating_sub(all / SMALL_PART) / (others + 1)).max(least(all))
    }

    /// Whether `run` of `id`, a long one, is to begin anew as another bandwidth holds than at its
    /// start. `own`: what it takes at most in any case. `faster`: it would also where that is more.
    fn is_overdue(&self, id: Id, run: u32, now: Duration, own: Rate, faster: bool) -> bool {
        if self.changed.is_none_or(|at| now.saturating_sub(at) < OVERDUE) {
            return false;
        }
        let Some(given) = self.shares.get(&id).and_then(|share| share.rates.get(&run)) else { return false };
        let all = self.limits.bandwidth;
        if given.of == all {
            return false;
        }
        let takes = [given.rate, own].into_iter().flatten().min();
        match (takes, all) {
            (None, all) => all.is_some(),
            (Some(takes), None) => faster && own != Some(takes),
            (Some(takes), Some(all)) => {
                let counts = given.counts(Some(all));
                let anew = self.long_rate(all, self.free_rate().unwrap_or_default() + counts);
                let fits = if given.rate.is_some() { counts } else { anew };
                takes > fits || faster && own.map_or(anew, |own| own.min(anew)) >= takes * 2
            }
        }
    }

    /// The end of a turn: `id` has this under way, and `wants` more of what it was refused. Returns
    /// whom to wake.
    fn settle(&mut self, id: Id, now: Duration, held: Held, alive: &BTreeSet<u32>, wants: bool) -> Vec<Id> {
        let share = self.share(id);
        (share.held, share.places, share.long_places) = (held, held.all(), held.long);
        share.rates.retain(|run, _| alive.contains(run));
        share.rate_aside = 0;
        share.gives_up = share.gives_up.min(held.standby);
        let refused = std::mem::take(&mut share.refused);
        let before = share.waiting.take();
        if let Some(what) = refused.values().next().filter(|_| wants) {
            let (small, long) = (refused.contains_key(&false), refused.contains_key(&true));
            let since = before.filter(|b| b.small == small || b.long == long).map_or(now, |b| b.since);
            share.waiting = Some(Waiting { since, small, long, what: *what, rung: None });
        }
        self.ring(now)
    }

    /// `id` has ended processes that waited. Returns whom to wake.
    fn give_back(&mut self, id: Id, now: Duration, held: Held) -> Vec<Id> {
        let share = self.share(id);
        (share.held, share.places, share.long_places) = (held, held.all(), held.long);
        share.gives_up = share.gives_up.min(held.standby);
        self.ring(now)
    }

    /// Wakes those for whom there is a place now, and those that are to give one up.
    fn ring(&mut self, now: Duration) -> Vec<Id> {
        let mut wake = Vec::new();
        let line = self.line(now);
        for id in &line {
            let share = &self.shares[id];
            let Some(waiting) = share.waiting.filter(|waiting| waiting.rung.is_none()) else { continue };
            let (held, remote) = (share.held, waiting.what == WaitsFor::Bandwidth);
            let goes = [(waiting.small, false), (waiting.long, true)]
                .into_iter()
                .any(|(wanted, long)| wanted && self.refuses(*id, now, held, long, remote).is_none());
            if goes {
                if let Some(waiting) = &mut self.share(*id).waiting {
                    waiting.rung = Some(now);
                }
                wake.push(*id);
            }
        }
        // Those that still wait for a place take it from standby processes.
        let lack =
            line.iter().filter(|id| self.shares[id].waiting.is_some_and(|w| w.rung.is_none() && w.what == WaitsFor::Place));
        let requested: usize = self.shares.values().map(|share| share.gives_up).sum();
        for _ in requested..lack.count() {
            let spare = |share: &Share| share.held.standby.saturating_sub(share.gives_up);
            let Some((id, share)) = self.shares.iter_mut().max_by_key(|(_, share)| spare(share)).filter(|(_, s)| spare(s) > 0)
            else {
                break;
            };
            share.gives_up += 1;
            wake.push(*id);
        }
        wake
    }
}

/// The least that a run is given.
fn least(all: u64) -> u64 {
    (all / LEAST_PART).max(1)
}

/// A rate for people.
pub(crate) fn shown(kib: u64) -> String {
    format!("{} a second", bytesize::ByteSize(kib * 1024))
}

/// The shares of all targets of a daemon.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    table: Table,
    bells: BTreeMap<Id, Arc<EventFd>>,
    start: Option<Instant>,
    bounds: Bounds,
    /// When to look at the clock; `None`: the bandwidth does not depend on it.
    look: Option<Duration>,
}

impl Inner {
    /// The time since some moment, after the bounds are those of now.
    fn now(&mut self) -> Duration {
        let now = self.start.get_or_insert_with(Instant::now).elapsed();
        if self.look.is_some_and(|at| at <= now) && self.hold(now, localtime::local(SystemTime::now())) {
            let all = self.table.limits.bandwidth.map_or_else(|| "no bound".to_owned(), shown);
            tracing::info!(bandwidth = %all, "another bandwidth of all targets (bwlimit_at) holds from now on");
        }
        now
    }

    /// The bounds are those of this time of day, as far as it is known. Returns whether the
    /// bandwidth was another one.
    fn hold(&mut self, now: Duration, local: Option<LocalTime>) -> bool {
        let hours = &self.bounds.hours;
        let bandwidth = local.map_or(hours.usual, |local| hours.at(TimeOfDay::of(local)));
        self.look = (!hours.parts.is_empty()).then(|| now + local.and_then(|local| hours.look(local)).unwrap_or(STALE));
        let changed = self.table.limit(Limits { runs: self.bounds.runs, bandwidth }, now);
        if changed {
            self.bells.values().for_each(|bell| bell.wake());
        }
        changed
    }

    fn wake(&self, ids: &[Id]) {
        ids.iter().filter_map(|id| self.bells.get(id)).for_each(|bell| bell.wake());
    }
}

impl Budget {
    /// These bounds from now on.
    pub(crate) fn set(&self, bounds: Bounds) {
        let mut inner = self.lock();
        let now = inner.now();
        inner.bounds = bounds;
        inner.hold(now, localtime::local(SystemTime::now()));
        inner.bells.values().for_each(|bell| bell.wake());
    }

    /// The bandwidth of all targets; `None` where none is ever bounded.
    pub(crate) fn bandwidth(&self) -> Option<Bandwidth> {
        let mut inner = self.lock();
        inner.now();
        let hours = &inner.bounds.hours;
        let next = localtime::local(SystemTime::now()).and_then(|local| hours.next(local));
        let (all, given) = (inner.table.limits.bandwidth, inner.table.given());
        (*hours != Hours::default()).then_some(Bandwidth { all, given, next })
    }

    /// One more target. `bell`: wakes its engine.
    pub(crate) fn join(&self, bell: Arc<EventFd>) -> Member {
        let mut inner = self.lock();
        let id = inner.table.join();
        inner.bells.insert(id, bell);
        Member { budget: self.clone(), id }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The share of one target; given back when dropped.
#[derive(Debug)]
pub(crate) struct Member {
    budget: Budget,
    id: Id,
}

impl Member {
    /// Whether one more run may start beside `held`. `long`: it carries many paths or a large file,
    /// or compares. `remote`: to another host. A place that is given is kept until
    /// [`Member::settle`].
    pub(crate) fn room(&self, held: Held, long: bool, remote: bool) -> bool {
        let mut inner = self.budget.lock();
        let now = inner.now();
        inner.table.limits == Limits::default() || inner.table.room(self.id, now, held, long, remote)
    }

    /// Whether a place is kept for one more run beside `held`, or no limit counts.
    pub(crate) fn has_spare(&self, held: Held) -> bool {
        let inner = self.budget.lock();
        inner.table.limits.runs.is_none() || inner.table.shares.get(&self.id).is_some_and(|share| share.places > held.all())
    }

    /// Whether one more process may wait connected.
    pub(crate) fn standby_room(&self, held: Held, remote: bool) -> bool {
        let mut inner = self.budget.lock();
        // Its bandwidth would be its own from its start on, and no other target's while it waits.
        match inner.table.limits {
            Limits { bandwidth: Some(_), .. } if remote => false,
            Limits { runs: None, .. } => true,
            _ => inner.table.standby_room(self.id, held),
        }
    }

    /// The bandwidth of a run that starts, in KiB a second.
    pub(crate) fn rate(&self, run: u32, long: bool, alive: &BTreeSet<u32>) -> Rate {
        self.budget.lock().table.rate(self.id, run, long, alive)
    }

    /// Whether a long run is to begin anew, as another bandwidth holds than at its start. `own`: the
    /// rate that it does not exceed in any case. `faster`: it begins anew for a higher one, too.
    pub(crate) fn is_overdue(&self, run: u32, own: Rate, faster: bool) -> bool {
        let mut inner = self.budget.lock();
        let now = inner.now();
        inner.table.is_overdue(self.id, run, now, own, faster)
    }

    /// What is under way at the end of a turn, and whether more would be if there were room.
    /// Returns how many of its processes that wait are to
    /// end, so that others find a place.
    pub(crate) fn settle(&self, held: Held, alive: &BTreeSet<u32>, wants: bool) -> usize {
        let mut inner = self.budget.lock();
        let now = inner.now();
        let wake = inner.table.settle(self.id, now, held, alive, wants);
        inner.wake(&wake);
        std::mem::take(&mut inner.table.share(self.id).gives_up)
    }

    /// Those have ended.
    pub(crate) fn give_back(&self, held: Held) {
        let mut inner = self.budget.lock();
        let now = inner.now();
        let wake = inner.table.give_back(self.id, now, held);
        inner.wake(&wake);
    }

    /// What it waits for, and for how long it has.
    pub(crate) fn waits(&self) -> Option<(WaitsFor, Duration)> {
        let mut inner = self.budget.lock();
        let now = inner.now();
        let waiting = inner.table.shares.get(&self.id)?.waiting?;
        Some((waiting.what, now.saturating_sub(waiting.since)))
    }

    /// Whether a small batch, and a large one, would be refused as they were last.
    pub(crate) fn refused(&self) -> (bool, bool) {
        let inner = self.budget.lock();
        let waiting = inner.table.shares.get(&self.id).and_then(|share| share.waiting);
        waiting.map_or((false, false), |waiting| (waiting.small, waiting.long))
    }

    /// The bounds of this moment.
    pub(crate) fn limits(&self) -> Limits {
        let mut inner = self.budget.lock();
        inner.now();
        inner.table.limits
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut inner = self.budget.lock();
        let now = inner.now();
        let wake = inner.table.leave(self.id, now);
        inner.bells.remove(&self.id);
        inner.wake(&wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn table(runs: Option<usize>, bandwidth: Option<u64>, members: usize) -> Table {
        let mut table = Table { limits: Limits { runs, bandwidth }, ..Table::default() };
        (0..members).for_each(|_| _ = table.join());
        table
    }

    fn held(small: usize, long: usize, standby: usize) -> Held {
        Held { small, long, standby }
    }

    #[test]
    fn long_runs_leave_a_place_for_small_ones() {
        for (most, long) in [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (16, 12)] {
            let mut table = table(Some(most), None, most + 1);
            let given = (1..=most as Id + 1).filter(|id| table.room(*id, SECOND, held(0, 0, 0), true, false)).count();
            assert_eq!(given, long, "{most} places");
            let given = (1..=most as Id + 1).filter(|id| table.room(*id, SECOND, held(0, 0, 0), false, false)).count();
            assert!(given >= most - long, "{most} places");
        }
    }

    #[test]
    fn a_place_is_asked_for_twice_and_given_once() {
        let mut table = table(Some(3), None, 3);
        assert!(table.room(1, SECOND, held(0, 0, 0), false, false));
        assert!(table.room(1, SECOND, held(0, 0, 0), false, false), "the same place");
        assert!(table.room(1, SECOND, held(1, 0, 0), false, false), "the next one");
        assert!(!table.room(1, SECOND, held(2, 0, 0), false, false), "the last is for another target");
        assert!(table.room(2, SECOND, held(0, 0, 0), false, false));
        assert!(!table.room(3, SECOND, held(0, 0, 0), false, false));
        table.settle(1, SECOND, held(1, 0, 0), &BTreeSet::new(), true);
        assert!(table.room(3, SECOND, held(0, 0, 0), false, false), "what was not used is free again");
    }

    #[test]
    fn whoever_has_nothing_under_way_comes_first_and_patience_has_an_end() {
        let mut table = table(Some(3), None, 4);
        let none = BTreeSet::new();
        assert!(table.room(1, SECOND, held(0, 0, 0), false, false) && table.room(1, SECOND, held(1, 0, 0), false, false));
        table.settle(1, SECOND, held(2, 0, 0), &none, true);
        assert!(table.room(4, SECOND, held(0, 0, 0), false, false));
        table.settle(4, SECOND, held(1, 0, 0), &none, true);
        // The busy one wants more, then an idle one comes.
        assert!(!table.room(1, SECOND * 2, held(2, 0, 0), false, false));
        table.settle(1, SECOND * 2, held(2, 0, 0), &none, true);
        assert!(!table.room(2, SECOND * 3, held(0, 0, 0), false, false));
        table.settle(2, SECOND * 3, held(0, 0, 0), &none, true);
        assert_eq!(table.line(SECOND * 3), [2, 1]);
        assert_eq!(table.line(SECOND * 12), [1, 2], "who has waited for ten seconds comes first");
        // A run ends: it is the idle one that is woken, and gets the place.
        let woken = table.settle(4, SECOND * 4, held(0, 0, 0), &none, true);
        assert_eq!(woken, [2]);
        assert!(!table.room(3, SECOND * 4, held(0, 0, 0), false, false), "no target jumps the line");
        assert!(table.room(2, SECOND * 4, held(0, 0, 0), false, false));
    }

    #[test]
    fn one_that_was_woken_and_does_not_come_holds_nobody_up_for_long() {
        let mut table = table(Some(1), None, 3);
        let none = BTreeSet::new();
        assert!(table.room(1, SECOND, held(0, 0, 0), false, false));
        table.settle(1, SECOND, held(1, 0, 0), &none, true);
        assert!(!table.room(2, SECOND, held(0, 0, 0), false, false));
        table.settle(2, SECOND, held(0, 0, 0), &none, true);
        assert_eq!(table.settle(1, SECOND * 2, held(0, 0, 0), &none, true), [2]);
        assert!(!table.room(3, SECOND * 2, held(0, 0, 0), false, false));
        assert!(table.room(3, SECOND * 4, held(0, 0, 0), false, false));
    }

    #[test]
    fn what_stands_by_gives_way() {
        let mut table = table(Some(3), None, 2);
        let none = BTreeSet::new();
        assert!(table.standby_room(1, held(0, 0, 0)) && table.standby_room(1, held(0, 0, 1)));
        assert!(!table.standby_room(1, held(0, 0, 2)), "one place stays free");
        table.settle(1, SECOND, held(0, 0, 2), &none, true);
        assert!(table.room(2, SECOND, held(0, 0, 0), true, false));
        assert!(!table.room(2, SECOND, held(0, 1, 0), false, false));
        assert_eq!(table.settle(2, SECOND, held(0, 1, 0), &none, true), [1], "requested to end one");
        assert_eq!(std::mem::take(&mut table.share(1).gives_up), 1);
        assert_eq!(table.give_back(1, SECOND, held(0, 0, 1)), [1], "the last place is none for a target with a run");
        // One's own makes room by itself.
        assert!(table.room(1, SECOND, held(0, 0, 1), false, false));
        assert_eq!(table.shares[&1].places, 1);
        assert_eq!(std::mem::take(&mut table.share(1).gives_up), 1);
        assert_eq!(table.give_back(1, SECOND, held(0, 0, 0)), [2]);
        assert!(table.room(2, SECOND, held(0, 1, 0), false, false));
    }

    #[test]
    fn bandwidth_is_given_away_in_parts() {
        let mut table = table(None, Some(6400), 3);
        let none = BTreeSet::new();
        assert!(table.room(1, SECOND, held(0, 0, 0), true, true));
        assert_eq!(table.rate(1, 1, true, &none), Some(4800), "a long run gets what is not for small ones");
        assert!(!table.room(2, SECOND, held(0, 0, 0), true, true), "the next one waits");
        assert!(table.room(2, SECOND, held(0, 0, 0), true, false), "but not towards this host");
        assert!(table.room(3, SECOND, held(0, 0, 0), false, true));
        assert_eq!(table.rate(3, 1, false, &none), Some(400));
        assert_eq!(table.free_rate(), Some(1200));
        table.settle(1, SECOND, held(0, 0, 0), &none, true);
        assert_eq!(table.free_rate(), Some(6000));
        assert_eq!(super::least(10), 1);
    }

    #[test]
    fn two_that_want_long_runs_get_half_each() {
        let mut table = table(None, Some(6400), 3);
        let none = BTreeSet::new();
        assert!(table.room(1, SECOND, held(0, 0, 0), true, true));
        table.rate(1, 1, true, &none);
        for id in [2, 3] {
            assert!(!table.room(id, SECOND, held(0, 0, 0), true, true));
            table.settle(id, SECOND, held(0, 0, 0), &none, true);
        }
        assert_eq!(table.settle(1, SECOND, held(0, 0, 0), &none, true), [2, 3]);
        assert!(table.room(2, SECOND, held(0, 0, 0), true, true));
        let first = table.rate(2, 1, true, &none).unwrap();
        table.settle(2, SECOND, held(0, 1, 0), &[1].into(), true);
        assert!(table.room(3, SECOND, held(0, 0, 0), true, true));
        let second = table.rate(3, 1, true, &none).unwrap();
        assert!(first >= 1600 && second >= 1600 && first + second <= 4800, "{first} {second}");
    }

    #[test]
    fn a_long_run_begins_anew_when_another_bandwidth_holds() {
        let none = BTreeSet::new();
        let later = SECOND + OVERDUE;
        // The bound of all at the start of a run, the one that holds now, the run's own; whether it
        // is to begin anew, and whether it is where it would for a higher rate, too.
        for (before, all, own, slower, faster) in [
            (Some(6400), Some(640), None, true, true),
            (Some(6400), Some(640), Some(400), false, false),
            (Some(6400), Some(640), Some(500), true, true),
            (None, Some(640), None, true, true),
            (None, Some(640), Some(100), false, false),
            (None, Some(640), Some(600), true, true),
            (Some(640), Some(6400), None, false, true),
            (Some(640), Some(6400), Some(600), false, false),
            (Some(640), Some(900), None, false, false),
            (Some(640), None, None, false, true),
            (Some(640), None, Some(100), false, false),
            (None, None, None, false, false),
            (Some(640), Some(640), None, false, false),
        ] {
            let case = format!("{before:?} {all:?} {own:?}");
            let mut table = table(None, before, 2);
            table.rate(1, 7, true, &none);
            table.limit(Limits { bandwidth: all, ..table.limits }, SECOND);
            let is = |now, faster| table.is_overdue(1, 7, now, own, faster);
            assert!(!is(later - Duration::from_millis(1), true), "{case}: at once");
            assert_eq!((is(later, false), is(later, true)), (slower, faster), "{case}");
            assert!(
                !table.is_overdue(1, 8, later, own, true) && !table.is_overdue(2, 7, later, own, true),
                "{case}: another run"
            );
            // The next one has what holds.
            table.rate(1, 8, true, &none);
            assert!(!table.is_overdue(1, 8, later * 2, own, true), "{case}: for ever");
        }
    }

    #[test]
    fn others_find_bandwidth_when_it_becomes_less() {
        let mut table = table(None, Some(6400), 2);
        let none = BTreeSet::new();
        assert_eq!(table.rate(1, 1, true, &none), Some(4800));
        table.limit(Limits { bandwidth: Some(640), ..table.limits }, SECOND);
        assert_eq!(table.given(), 480, "its part of it");
        assert!(table.room(2, SECOND, held(0, 0, 0), false, true), "a small change waits for no long run");
        assert_eq!(table.rate(2, 1, false, &none), Some(40));
        table.limit(Limits { bandwidth: Some(6400), ..table.limits }, SECOND);
        assert_eq!(table.given(), 4840, "what they take");
    }

    #[test]
    fn the_bandwidth_is_that_of_the_time_of_day() {
        let part = |from: &str, to: &str| crate::daily::PartOfDay { from: from.parse().unwrap(), to: to.parse().unwrap() };
        let hours = Hours { usual: Some(20), parts: vec![(part("08:00", "18:00"), Some(2)), (part("22:00", "06:00"), None)] };
        let mut inner = Inner { bounds: Bounds { runs: Some(3), hours }, ..Inner::default() };
        let at = |hour, minute, second| LocalTime { year: 2026, month: 2, day: 1, hour, minute, second };
        for (local, bandwidth, changed, look) in [
            (Some(at(7, 59, 30)), Some(20), true, 30),
            (Some(at(8, 0, 0)), Some(2), true, 60),
            (Some(at(9, 0, 0)), Some(2), false, 60),
            (None, Some(20), true, 1),
            (Some(at(22, 0, 0)), None, true, 60),
        ] {
            assert_eq!(inner.hold(SECOND, local), changed, "{local:?}");
            assert_eq!(inner.table.limits, Limits { runs: Some(3), bandwidth }, "{local:?}");
            assert_eq!(inner.look, Some(SECOND + Duration::from_secs(look)), "{local:?}");
        }
        inner.bounds.hours.parts.clear();
        inner.hold(SECOND, None);
        assert_eq!((inner.table.limits.bandwidth, inner.look), (Some(20), None), "no hours");
    }

    /// A model of targets that have work, and of runs that end.
    #[derive(Debug, Default, Clone)]
    struct Model {
        small: Vec<u32>,
        long: Vec<u32>,
        standby: usize,
        work: (u32, u32),
    }

    impl Model {
        fn held(&self) -> Held {
            held(self.small.len(), self.long.len(), self.standby)
        }

        fn alive(&self) -> BTreeSet<u32> {
            self.small.iter().chain(&self.long).copied().collect()
        }
    }

    /// One turn of an engine: it starts what it may, and settles.
    fn turn(table: &mut Table, id: Id, model: &mut Model, now: Duration, number: &mut u32) -> Vec<Id> {
        for long in [false, true] {
            loop {
                let work = if long { model.work.1 } else { model.work.0 };
                if work == 0 || !table.room(id, now, model.held(), long, true) {
                    break;
                }
                if model.standby > 0 && table.limits.runs.is_some_and(|_| table.shares[&id].places <= model.held().all()) {
                    model.standby -= 1;
                }
                *number += 1;
                let alive = model.alive();
                table.rate(id, *number, long, &alive);
                let (runs, work) =
                    if long { (&mut model.long, &mut model.work.1) } else { (&mut model.small, &mut model.work.0) };
                runs.push(*number);
                *work -= 1;
            }
        }
        if table.limits.bandwidth.is_none() && table.standby_room(id, model.held()) {
            model.standby += 1;
        }
        let mut woken = table.settle(id, now, model.held(), &model.alive(), model.work != (0, 0));
        let gives_up = std::mem::take(&mut table.share(id).gives_up);
        if gives_up > 0 {
            model.standby -= gives_up;
            woken.extend(table.give_back(id, now, model.held()));
        }
        woken
    }

    proptest! {
        #[test]
        fn within_the_bounds_and_nobody_starves(
            runs in 1usize..8,
            bandwidth in proptest::option::of(64u64..5000),
            steps in proptest::collection::vec((0usize..5, 0u8..4), 1..120),
        ) {
            let mut table = table(Some(runs), bandwidth, 5);
            let mut models = vec![Model::default(); 5];
            let (mut number, mut now) = (0, SECOND);
            let check = |table: &Table, models: &[Model]| {
                let under_way: usize = models.iter().map(|m| m.held().all()).sum();
                prop_assert!(under_way <= runs, "{under_way} of {runs}: {models:?}");
                if let Some(all) = bandwidth {
                    let given = table.given();
                    prop_assert!(given <= all, "{given} of {all}");
                }
                Ok(())
            };
            for (at, what) in steps {
                now += Duration::from_millis(100);
                match what {
                    0 => models[at].work.0 += 1,
                    1 => models[at].work.1 += 1,
                    2 => _ = models[at].small.pop(),
                    _ => _ = models[at].long.pop(),
                }
                let mut queue = vec![at];
                let mut turns = 0;
                while let Some(at) = queue.pop() {
                    turns += 1;
                    prop_assert!(turns < 200, "they wake each other for ever");
                    let woken = turn(&mut table, at as Id + 1, &mut models[at], now, &mut number);
                    queue.extend(woken.into_iter().map(|id| id as usize - 1));
                    check(&table, &models)?;
                }
            }
            // Runs end one by one, and all work is done.
            for _ in 0..2000 {
                now += SECOND;
                if models.iter().all(|m| m.work == (0, 0)) {
                    break;
                }
                let at = models.iter().position(|m| !m.alive().is_empty());
                if let Some(at) = at {
                    _ = models[at].small.pop();
                    _ = models[at].long.pop();
                }
                for at in 0..5 {
                    turn(&mut table, at as Id + 1, &mut models[at], now, &mut number);
                    check(&table, &models)?;
                }
            }
            prop_assert!(models.iter().all(|m| m.work == (0, 0)), "work is left: {models:?}");
        }
    }
}
