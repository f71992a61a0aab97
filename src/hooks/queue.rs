//! The queue of one hook: each path once, in the order of the first change, at most `max_pending`
//! of them.
//!
//! A change of a path that waits already takes the older one's place. Past the bound the oldest
//! change is dropped, counted, and logged. A path that is being delivered and changes again waits
//! until that delivery has ended.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::saved::SavedFile;
use crate::config::hook::{Change, Hook as Config};
use crate::path::{RelPath, Shown};
use crate::status;
use crate::sync::retries::Backoff;

/// Changes that were given up and are still named in the status.
const KEPT_FAILURES: usize = 200;
/// How long a delivery may take to notice that it is to end.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

/// One change to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Relative to the source.
    pub(crate) path: RelPath,
    /// What happened; `None`: look at the disk.
    pub(crate) change: Option<Change>,
    /// It is (or was) a directory.
    pub(crate) dir: bool,
    /// The target that holds it, and confirmed it last; none for events.
    pub(crate) target: Option<Arc<str>>,
    /// When that was, in milliseconds since 1970.
    pub(crate) millis: u64,
    /// Which batch carried it; empty for events.
    pub(crate) batch: String,
}

impl Event {
    /// A change of now.
    pub(crate) fn new(path: RelPath, change: Option<Change>, dir: bool, target: Option<Arc<str>>, batch: String) -> Event {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        Event { path, change, dir, target, millis, batch }
    }
}

/// A change that failed.
#[derive(Debug)]
struct Failed {
    reason: String,
    tries: u32,
}

#[derive(Debug)]
struct Pending {
    event: Event,
    failed: Option<Failed>,
    due: Option<Instant>,
}

#[derive(Default)]
struct Inner {
    events: BTreeMap<u64, Pending>,
    by_path: HashMap<RelPath, u64>,
    ready: BTreeSet<u64>,
    later: BTreeSet<(Instant, u64)>,
    next: u64,
    /// What is being delivered, with the tries so far.
    flying: HashMap<RelPath, (Event, u32)>,
    /// Deliveries start no earlier.
    not_before: Option<Instant>,
    /// The receiver's error, while it cannot be had, and when it is tried next.
    away: Option<(String, Instant)>,
    given_up: VecDeque<(RelPath, Failed)>,
    /// Not delivered at the stop.
    left: Vec<Event>,
    /// Loaded from the file, which stays until all of them are settled.
    loaded: HashMap<RelPath, ()>,
    saved: Option<SavedFile>,
    full: bool,
    stopping: bool,
    closed: bool,
    delivered: u64,
    failed: u64,
    retries: u64,
    dropped: u64,
    last_success: f64,
}

/// See the module's text.
pub(crate) struct Queue {
    mirror: String,
    config: Arc<Config>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// How a delivery failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The receiver cannot take anything now; perhaps it reported when it can.
    Receiver {
        /// In words.
        reason: String,
        /// Not before.
        after: Option<Duration>,
    },
    /// These changes failed; others may go through.
    Changes {
        /// In words.
        reason: String,
        /// Trying again is of no use.
        permanent: bool,
    },
}

impl Queue {
    /// An empty queue.
    pub(crate) fn new(mirror: String, config: Arc<Config>) -> Queue {
        Queue { mirror, config, inner: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self, event: &Event) -> bool {
        wanted(&self.config, event)
    }

    /// Takes a change in, to be delivered after `hold` at the earliest.
    pub(crate) fn push(&self, event: Event, hold: Duration) {
        if event.change.is_some() && !self.wanted(&event) {
            return;
        }
        let mut inner = self.lock();
        if inner.closed {
            inner.left.push(event);
            return;
        }
        let due = (!hold.is_zero() && !inner.stopping).then(|| Instant::now() + hold);
        self.insert(&mut inner, event, None, due);
        drop(inner);
        self.changed.notify_one();
    }

    fn insert(&self, inner: &mut Inner, mut event: Event, failed: Option<Failed>, due: Option<Instant>) {
        if let Some(&at) = inner.by_path.get(&event.path) {
            inner.unlist(at);
            let pending = inner.events.get_mut(&at).expect("every path leads to its change");
            // It may still be that anything below has changed.
            if pending.event.change == Some(Change::Subtree) {
                (event.change, event.dir) = (Some(Change::Subtree), true);
            }
            *pending = Pending { event, failed, due };
            return inner.list(at, due);
        }
        if inner.events.len() >= self.config.max_pending {
            if let Some(&at) = inner.events.keys().next() {
                inner.unlist(at);
                let oldest = inner.events.remove(&at).expect("the key was just seen");
                inner.by_path.remove(&oldest.event.path);
                inner.settled(&oldest.event.path);
            }
            inner.dropped += 1;
            if !std::mem::replace(&mut inner.full, true) {
                tracing::error!(
                    mirror = %self.mirror, hook = %self.config.name, max_pending = self.config.max_pending,
                    "the hook is too slow for the changes: the oldest are dropped and never delivered. Raise jobs, batch or max_pending, or speed its receiver up"
                );
            }
        }
        let at = inner.next;
        inner.next += 1;
        inner.by_path.insert(event.path.clone(), at);
        inner.events.insert(at, Pending { event, failed, due });
        inner.list(at, due);
    }

    /// Puts what an earlier daemon left before everything else. The file stays until it is settled.
    pub(super) fn take_up(&self, events: Vec<Event>, saved: SavedFile) {
        let mut inner = self.lock();
        inner.saved = Some(saved);
        for event in events {
            inner.loaded.insert(event.path.clone(), ());
            self.insert(&mut inner, event, None, None);
        }
    }

    /// Waits for changes and takes the next, at most one delivery's worth, oldest first. `None`: it
    /// is all over.
    pub(crate) fn take(&self) -> Option<Vec<Event>> {
        let most = if self.config.one_by_one() { 1 } else { self.config.batch };
        let mut inner = self.lock();
        loop {
            if inner.closed {
                return None;
            }
            let now = Instant::now();
            inner.ripen(now);
            let early = inner.not_before.filter(|at| *at > now);
            // While the receiver cannot be had, one worker tries and the others wait for it.
            let away = inner.away.is_some() && !inner.stopping;
            let wake = early.or_else(|| inner.later.first().map(|(at, _)| *at)).filter(|_| !away);
            if early.is_none() && !away {
                let chosen: Vec<u64> = {
                    let free = |at: &&u64| !inner.flying.contains_key(&inner.events[*at].event.path);
                    inner.ready.iter().filter(free).take(most).copied().collect()
                };
                if !chosen.is_empty() {
                    inner.not_before = self.config.interval.map(|interval| now + interval);
                    return Some(chosen.into_iter().map(|at| inner.fly(at)).collect());
                }
            }
            if inner.events.len() < self.config.max_pending / 2 {
                inner.full = false;
            }
            inner = match wake {
                None => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let pause = at.saturating_duration_since(now).max(Duration::from_millis(1));
                    self.changed.wait_timeout(inner, pause).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// These were delivered, or no hook takes them.
    pub(crate) fn done(&self, events: &[Event], delivered: bool) {
        let mut inner = self.lock();
        if inner.closed {
            return; // saved already
        }
        for event in events {
            inner.flying.remove(&event.path);
            inner.given_up.retain(|(path, _)| *path != event.path);
            inner.settled(&event.path);
        }
        if delivered {
            if inner.away.take().is_some() {
                tracing::info!(mirror = %self.mirror, hook = %self.config.name, "the hook's receiver takes changes again");
            }
            inner.delivered += events.len() as u64;
            inner.last_success = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// These failed by themselves.
    pub(crate) fn failed(&self, events: Vec<Event>, reason: &str, permanent: bool) {
        let backoff = Backoff { min: self.config.retry_min, max: self.config.retry_max };
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        inner.away = None; // it is there, and has judged
        for event in events {
            let tries = inner.flying.remove(&event.path).map_or(0, |(_, tries)| tries) + 1;
            let failed = Failed { reason: reason.to_owned(), tries };
            if inner.by_path.contains_key(&event.path) {
                continue; // it changed again, which is tried in its place
            }
            if permanent || tries >= self.config.tries {
                tracing::error!(
                    mirror = %self.mirror, hook = %self.config.name, path = %Shown(&event.path), tries,
                    "the hook is not notified of a change: {reason}"
                );
                inner.failed += 1;
                inner.settled(&event.path);
                inner.given_up.retain(|(path, _)| *path != event.path);
                if inner.given_up.len() == KEPT_FAILURES {
                    inner.given_up.pop_front();
                }
                inner.given_up.push_back((event.path, failed));
                continue;
            }
            if tries == 1 {
                tracing::warn!(mirror = %self.mirror, hook = %self.config.name, path = %Shown(&event.path), "the hook failed and is tried again: {reason}");
            }
            inner.retries += 1;
            if inner.stopping {
                inner.left.push(event);
            } else {
                let due = Instant::now() + backoff.pause(tries, fastrand::f64());
                self.insert(&mut inner, event, Some(failed), Some(due));
            }
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// The receiver cannot be had for the `tries`-th time. Waits until it is to be tried again;
    /// `false`: it is not, and the changes were taken back.
    pub(crate) fn pause(&self, events: &[Event], tries: u32, reason: &str, after: Option<Duration>) -> bool {
        let backoff = Backoff { min: self.config.retry_min, max: self.config.retry_max };
        let pause = backoff.pause(tries, fastrand::f64()).max(after.unwrap_or_default());
        let at = Instant::now() + pause;
        let mut inner = self.lock();
        if inner.away.as_ref().is_none_or(|(old, _)| old != reason) && !inner.stopping {
            tracing::warn!(mirror = %self.mirror, hook = %self.config.name, changes = inner.pending(), "the hook's receiver cannot be had: {reason}");
        }
        inner.away = Some((reason.to_owned(), at));
        inner.retries += 1;
        loop {
            if inner.closed {
                return false;
            }
            if inner.stopping {
                for event in events {
                    if let Some((event, _)) = inner.flying.remove(&event.path) {
                        inner.left.push(event);
                    }
                }
                drop(inner);
                self.changed.notify_all();
                return false;
            }
            let now = Instant::now();
            let at = inner.not_before.map_or(at, |early| early.max(at));
            if at <= now {
                inner.not_before = self.config.interval.map(|interval| now + interval);
                return true;
            }
            inner = self.changed.wait_timeout(inner, at - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether a delivery that is under way must end.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Changes dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// From now on nothing is waited for: each change is tried once more.
    pub(crate) fn begin_stop(&self) {
        let mut inner = self.lock();
        inner.stopping = true;
        let later: Vec<u64> = std::mem::take(&mut inner.later).into_iter().map(|(_, at)| at).collect();
        inner.ready.extend(later);
        drop(inner);
        self.changed.notify_all();
    }

    /// Waits until everything was tried, until `deadline` at most; ends the workers, and returns
    /// what was not delivered.
    pub(crate) fn finish(&self, deadline: Instant) -> Vec<Event> {
        let mut inner = self.lock();
        while !(inner.ready.is_empty() && inner.flying.is_empty()) {
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            inner = self.changed.wait_timeout(inner, deadline - now).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.closed = true;
        inner.loaded.clear();
        let mut left = std::mem::take(&mut inner.left);
        left.extend(inner.flying.values().map(|(event, _)| event.clone()));
        left.extend(std::mem::take(&mut inner.events).into_values().map(|pending| pending.event));
        let flying = !inner.flying.is_empty();
        drop(inner);
        self.changed.notify_all();
        if flying {
            // So that a command is ended before the process is.
            let until = Instant::now() + CLOSE_PATIENCE;
            let mut inner = self.lock();
            while !inner.flying.is_empty() && Instant::now() < until {
                inner = self
                    .changed
                    .wait_timeout(inner, until.saturating_duration_since(Instant::now()))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
        left
    }

    /// A delivery that [`Queue::is_closed`] ended.
    pub(crate) fn abandoned(&self, events: &[Event]) {
        let mut inner = self.lock();
        events.iter().for_each(|event| _ = inner.flying.remove(&event.path));
        drop(inner);
        self.changed.notify_all();
    }

    /// The current numbers; at most `most` failures.
    pub(crate) fn status(&self, waiting: u64, most: usize) -> status::Hook {
        let inner = self.lock();
        let now = Instant::now();
        let seconds = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
        let failing = inner.later.iter().filter_map(|(at, n)| {
            let pending = inner.events.get(n)?;
            Some((&pending.event.path, pending.failed.as_ref()?, seconds(*at)))
        });
        let given_up = inner.given_up.iter().rev().map(|(path, failed)| (path, failed, 0.0));
        let failures: Vec<_> = failing.chain(given_up).collect();
        let (reason, retry_seconds) = inner.away.as_ref().map_or((String::new(), 0.0), |(why, at)| (why.clone(), seconds(*at)));
        let state = match (inner.away.is_some(), inner.pending()) {
            (true, _) => status::HookState::Retrying,
            (false, 0) => status::HookState::Idle,
            (false, _) => status::HookState::Working,
        };
        status::Hook {
            name: self.config.name.clone(),
            kind: self.config.action.kind().into(),
            state,
            reason,
            retry_seconds,
            pending: inner.events.len() as u64,
            in_flight: inner.flying.len() as u64,
            waiting,
            delivered: inner.delivered,
            failed: inner.failed,
            retries: inner.retries,
            dropped: inner.dropped,
            last_success_unix: inner.last_success,
            failures_more: failures.len().saturating_sub(most) as u64,
            failures: failures
                .into_iter()
                .take(most)
                .map(|(path, failed, retry_seconds)| status::Failure {
                    path: Shown(path).to_string(),
                    reason: failed.reason.clone(),
                    tries: failed.tries,
                    retry_seconds,
                })
                .collect(),
        }
    }
}

/// Whether a hook is to be notified of a change.
pub(super) fn wanted(config: &Config, event: &Event) -> bool {
    let subject = || {
        let slash: &[u8] = if event.path.contains(&b'/') { b"/" } else { b"" };
        [slash, &event.path].concat()
    };
    event.change.is_none_or(|change| config.kinds.contains(&change))
        && !config.filter.excludes(&event.path, event.dir)
        && (config.matches.is_empty() || {
            let subject = subject();
            config.matches.iter().any(|m| m.regex().is_match(&subject))
        })
}

impl Inner {
    fn pending(&self) -> usize {
        self.events.len() + self.flying.len()
    }

    fn list(&mut self, at: u64, due: Option<Instant>) {
        match due {
            Some(due) => _ = self.later.insert((due, at)),
            None => _ = self.ready.insert(at),
        }
    }

    fn unlist(&mut self, at: u64) {
        if !self.ready.remove(&at)
            && let Some(due) = self.events.get(&at).and_then(|p| p.due)
        {
            self.later.remove(&(due, at));
        }
    }

    fn ripen(&mut self, now: Instant) {
        while let Some(&(due, at)) = self.later.first()
            && due <= now
        {
            self.later.pop_first();
            self.ready.insert(at);
        }
    }

    fn fly(&mut self, at: u64) -> Event {
        self.ready.remove(&at);
        let Pending { event, failed, .. } = self.events.remove(&at).expect("what is listed is there");
        self.by_path.remove(&event.path);
        self.flying.insert(event.path.clone(), (event.clone(), failed.map_or(0, |f| f.tries)));
        event
    }

    /// The path needs no place in the file any more.
    fn settled(&mut self, path: &RelPath) {
        if !self.loaded.is_empty()
            && self.loaded.remove(path).is_some()
            && self.loaded.is_empty()
            && let Some(saved) = &self.saved
        {
            saved.remove();
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
