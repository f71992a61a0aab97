//! Where a follower pulls from: its upstreams, and the records that wait for one that holds them.

use std::collections::VecDeque;

use super::*;
use crate::feed;
use crate::feed::choice::{Away, Choice, Upstreams, Word};
use crate::feed::machine::Point;
use crate::feed::reader::Reading;
use crate::feed::record::RecordError;
use crate::location::Location;
use crate::path::{self, RelPath};

/// A relay that has something to pull reports at least as often, so that who waits for it knows
/// that it goes on.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// Records that wait for a relay.
const MOST: usize = 256;

/// A record that was read.
pub(super) struct Waits {
    pub(super) sequence: u64,
    pub(super) record: Result<Record, RecordError>,
}

/// See the module's text.
pub(super) struct Supply {
    /// With the keys of the first one, each with its own place.
    targets: Vec<Target>,
    all: Upstreams,
    /// Which one is pulled from, or waited for.
    current: usize,
    /// The last report of each relay's way.
    through: Vec<Vec<String>>,
    /// Which relay is waited for.
    waits: Option<usize>,
    /// None can be pulled from.
    no_upstream: bool,
    /// When there is something to do about it.
    due: Option<Duration>,
    /// Read, and not taken in.
    pub(super) records: VecDeque<Waits>,
    /// A record that is pulled last: nothing is taken in behind it before it is held.
    last: Option<u64>,
    /// The key of the place that this one serves.
    pub(super) own: Option<String>,
    /// Relays that are passed over, as far as that was logged.
    noted_silent: Vec<usize>,
}

impl Supply {
    pub(super) fn of(mirror: &Mirror) -> Supply {
        let first = mirror.targets.first().cloned();
        let first = first.unwrap_or_else(|| Target::new(crate::config::UPSTREAM, Location::Local("/".into())));
        let follow = mirror.follow.as_ref();
        let others = follow.map(|follow| &*follow.others).unwrap_or_default();
        let others = others.iter().map(|place| Target { location: place.clone(), ..first.clone() });
        let targets: Vec<Target> = std::iter::once(first.clone()).chain(others).collect();
        Supply {
            all: Upstreams::new(targets.len()),
            through: vec![Vec::new(); targets.len()],
            targets,
            current: 0,
            waits: None,
            no_upstream: false,
            due: None,
            records: VecDeque::new(),
            last: None,
            own: follow.and_then(|follow| feed::key(follow.serve.as_ref()?)),
            noted_silent: Vec::new(),
        }
    }

    /// A turn begins: whether anything waits is not known yet.
    pub(super) fn begin_turn(&mut self) {
        (self.waits, self.no_upstream, self.due) = (None, false, None);
    }

    /// When a wait ends, or something is tried again.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    /// An upstream that holds all records up to `need`, and answers as far as is known.
    pub(super) fn holder(&self, now: Duration, need: &Point) -> Option<&Target> {
        self.targets.get(self.all.holder(now, need)?)
    }

    /// Whether a record that waits concerns this path.
    pub(super) fn is_about(&self, path: &RelPath) -> bool {
        let touches = |other: &RelPath| path::is_at_or_below(path, other) || path::is_at_or_below(other, path);
        self.records.iter().any(|waits| match &waits.record {
            Ok(record) => record.everything || record.entries.iter().any(|item| touches(&item.path)),
            Err(_) => true,
        })
    }

    /// What the reader has to know.
    pub(super) fn reading(&self, follower: &str) -> Reading {
        let keys = self.targets.iter().enumerate();
        let relays = keys.filter_map(|(n, target)| Some((n, feed::key(&target.location)?))).collect();
        Reading { follower: follower.to_owned(), serve: self.own.clone(), relays }
    }

    /// The one that is pulled from, or waited for.
    pub(super) fn current(&self) -> &Target {
        &self.targets[self.current]
    }

    /// Why none can be pulled from.
    pub(super) fn trouble(&self) -> Option<Away> {
        let silent = || {
            let places: Vec<String> = self.all.silent().map(|n| self.targets[n].location.to_string()).collect();
            let why = format!("no upstream holds what is to be pulled, and it is waited for a report of {}", places.join(", "));
            Away { config: false, why, tries: 1, next: Duration::ZERO }
        };
        self.all.trouble().cloned().or_else(|| (self.no_upstream && self.all.silent().next().is_some()).then(silent))
    }

    /// Whether the one that is pulled from was in trouble.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.all.away(self.current).is_some()
    }

    /// Whether the one that is pulled from is a relay, as far as is known.
    pub(super) fn is_a_relay(&self) -> bool {
        self.all.relays(self.current)
    }

    /// The relay that is waited for.
    pub(super) fn waits_for(&self) -> Option<&Location> {
        Some(&self.targets[self.waits?].location)
    }

    /// The keys of the places that the tree comes by.
    pub(super) fn way(&self) -> Vec<String> {
        // Relays that wait for each other learn it from this.
        let by = self.waits.unwrap_or(self.current);
        let near = feed::key(&self.targets[by].location);
        near.into_iter().chain(self.through[by].iter().cloned()).take(16).collect()
    }

    pub(super) fn hurry(&mut self) {
        self.all.hurry();
    }

    /// Whether a record may be taken in: whatever is taken in can be pulled from an upstream that
    /// is not behind it. What comes with a record need not be, and waits later if it has to be.
    fn has(&mut self, now: Duration, read: Option<Point>, waits: &Waits, whole: bool) -> bool {
        // What does not go on from the last one owes a comparison, which waits by itself.
        let (Some(read), Ok(record)) = (read, &waits.record) else { return true };
        let point = Point::of(waits.sequence, record);
        if !read.is_followed_by(&point) || record.everything || record.held || record.batch.is_some() {
            return true;
        }
        matches!(self.choose(now, &point, whole), Choice::Use(_))
    }

    fn choose(&mut self, now: Duration, need: &Point, whole: bool) -> Choice {
        let choice = self.all.choose(now, need, whole);
        let due = match choice {
            Choice::Use(_) => None,
            Choice::Wait(_, until) => Some(until),
            Choice::NoUpstream(due) => due,
        };
        self.due = self.due.into_iter().chain(due).min();
        if let Choice::Wait(on, _) = choice {
            self.waits = Some(on);
        }
        self.no_upstream |= matches!(choice, Choice::NoUpstream(_));
        choice
    }

    /// Logs relays that are passed over since just now.
    fn note_silent(&mut self, mirror: &str) {
        let silent: Vec<usize> = self.all.silent().collect();
        for n in silent.iter().filter(|n| !self.noted_silent.contains(n)) {
            let relay = &self.targets[*n].location;
            tracing::warn!(%mirror, %relay, "the relay has reported nothing for 3 s; the next upstream is pulled from until it does");
        }
        self.noted_silent = silent;
    }
}

impl Follower {
    pub(super) fn upstream(&self) -> &Target {
        self.supply.current()
    }

    /// Takes in what relays have reported.
    pub(super) fn take_relay_reports(&mut self) {
        let now = self.now();
        while let Some(report) = self.feed.relay_report() {
            let own = self.supply.own.as_deref();
            let word = Word::of(&report.report, own);
            let was_silent = self.supply.all.silent().any(|n| n == report.from);
            if report.live && was_silent {
                let relay = &self.supply.targets[report.from].location;
                tracing::info!(mirror = %self.mirror.name, %relay, "the relay reports again");
            }
            if let Some(through) = self.supply.through.get_mut(report.from) {
                *through = report.report.through;
            }
            self.supply.all.word(now, report.from, word, report.live);
        }
    }

    /// Whether no more records are read for now.
    pub(super) fn has_enough(&self) -> bool {
        self.supply.records.len() >= MOST
    }

    /// Takes in records that an upstream holds.
    pub(super) fn take_records(&mut self) {
        let now = self.now();
        while let Some(front) = self.supply.records.pop_front() {
            let last = front.record.as_ref().is_ok_and(|record| record.last);
            if self.waits_for_last(last) || !self.supply.has(now, self.machine.read(), &front, self.machine.owes()) {
                self.supply.records.push_front(front);
                return self.supply.note_silent(&self.mirror.name);
            }
            self.supply.last = last.then_some(front.sequence);
            self.take_record(front.sequence, front.record);
        }
        self.supply.note_silent(&self.mirror.name);
    }

    /// Whether the next record waits for others before it. `last`: it is one that is pulled last.
    fn waits_for_last(&mut self, last: bool) -> bool {
        let sequence = |point: Option<Point>| point.map(|point| point.sequence);
        let held = sequence(self.machine.position());
        if self.supply.last.is_some_and(|behind| held >= Some(behind)) || self.machine.owes() {
            self.supply.last = None;
        }
        self.supply.last.is_some() || last && held != sequence(self.machine.read())
    }

    /// Chooses where to pull what was taken in; `false`: nowhere for now.
    pub(super) fn choose_upstream(&mut self) -> bool {
        let Some(read) = self.machine.read() else { return false };
        let (now, whole) = (self.now(), self.machine.owes());
        let choice = self.supply.choose(now, &read, whole);
        self.supply.note_silent(&self.mirror.name);
        match choice {
            Choice::Use(n) | Choice::Wait(n, _) if n != self.supply.current => {
                self.supply.current = n;
                self.mark.forget();
                self.processes.drop_spare();
                let upstream = &self.upstream().location;
                tracing::debug!(mirror = %self.mirror.name, %upstream, "another upstream is pulled from");
            }
            _ => {}
        }
        matches!(choice, Choice::Use(_))
    }

    /// The upstream is another one than it was taken for.
    pub(super) fn is_a_relay(&mut self) {
        let upstream = &self.upstream().location;
        tracing::info!(mirror = %self.mirror.name, %upstream, "this upstream is a relay, so its reports say what it holds");
        self.supply.all.is_a_relay(self.supply.current);
        self.mark.forget();
        self.processes.drop_spare();
        self.door.ring();
    }

    /// The upstream cannot be pulled from.
    pub(super) fn upstream_went(&mut self, config: bool, why: String) {
        let current = self.supply.current;
        let (known, tries) = self.supply.all.away(current).map_or((false, 0), |away| (away.why == why, away.tries));
        if !known {
            let what = if config { "cannot be pulled from as it is" } else { "does not answer" };
            tracing::warn!(mirror = %self.mirror.name, upstream = %self.upstream().location, "the upstream {what}: {why}. It is tried again by itself");
        }
        self.processes.drop_spare();
        self.mark.forget();
        let next = self.now() + self.backoff(tries + 1);
        self.supply.all.went(current, Away { config, why, tries: tries + 1, next });
        // The next one can be pulled from at once.
        self.door.ring();
    }

    pub(super) fn backoff(&self, tries: u64) -> Duration {
        let target = self.upstream();
        let wait = target.retry_min.saturating_mul(1 << tries.min(20)).min(target.retry_max);
        wait.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub(super) fn upstream_came_back(&mut self) {
        if self.supply.all.came_back(self.supply.current).is_some_and(|away| away.tries > 0) {
            tracing::info!(mirror = %self.mirror.name, "the upstream is pulled from again");
        }
    }
}
