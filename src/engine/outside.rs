//! The walk that finds the files inside that have several names, so that a change through a name
//! outside is known for theirs ([`crate::resolve`]).
//!
//! Where a filesystem mark reports changes outside of the source, or a filter leaves some of the
//! source out, the files of the source are not known after the start, and those of a directory that
//! is compared whole or came in from elsewhere are not known then: rsync looks at what is in these,
//! and not the daemon. The walk over them begins with the first change outside that is one of a
//! file with several names, so a source beside which nothing is linked is never walked over.
//! Targets are not queried. The walk works a quarter of the time, begins when the targets have had
//! their first comparison, and runs at full speed while a flush or a stop waits for it.
//!
//! Promises: a change of such a file through a name outside is either reported, or newer than the
//! time from which on its place was not known when the walk comes by, which makes the file dirty.
//! While a walk is needed, no time is saved as one up to which everything is known.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::Engine;
use crate::dirty::Seen;
use crate::links::objects::Object;
use crate::links::search;
use crate::path::RelPath;
use crate::sys::statx::Paths;

/// After the start, and after a walk, before the next one that nothing waits for.
const PAUSE: Duration = Duration::from_secs(1);
/// After a walk that could not begin.
const RETRY: Duration = Duration::from_secs(1);
/// Files handed over at a time, each checked once more when it is taken in.
const PART: usize = 512;
/// Work before the next rest, and how much longer than the work that is.
const WORK: Duration = Duration::from_millis(10);
const REST: u32 = 3;
/// Directories that wait to be walked; with more it is a walk over everything.
const MAX_PLACES: usize = 1000;
/// The kernel's clock for timestamps lags behind the clock by a tick.
const SLACK: Duration = Duration::from_millis(100);

/// A place to be walked over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// With all below.
    deep: bool,
    /// Since when changes through names outside may be unknown there, in seconds since 1970.
    since: i64,
}

enum Part {
    Files(Vec<(RelPath, Object)>, i64),
    End(Duration),
}

/// See the module's text.
pub(super) struct Outside {
    wanted: BTreeMap<RelPath, Place>,
    /// A file outside may be one of them.
    needed: bool,
    /// The walk under way, and whether it is over everything.
    running: Option<bool>,
    begun: u64,
    ended: u64,
    next: Duration,
    hurried: Arc<AtomicBool>,
    /// The engine has ended.
    over: Arc<AtomicBool>,
    parts: (Sender<Part>, Receiver<Part>),
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// In seconds since 1970, by the clock of timestamps.
fn stamp() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(SLACK).as_secs() as i64
}

impl Outside {
    pub(super) fn new() -> Outside {
        Outside {
            wanted: BTreeMap::new(),
            needed: false,
            running: None,
            begun: 0,
            ended: 0,
            next: PAUSE,
            hurried: Arc::default(),
            over: Arc::default(),
            parts: bounded(4),
        }
    }

    fn want(&mut self, at: RelPath, deep: bool, since: i64) {
        if let Some(all) = self.wanted.get_mut(&RelPath::root()).filter(|place| place.deep) {
            all.since = all.since.min(since);
            return;
        }
        let all = self.wanted.len() >= MAX_PLACES;
        let (at, deep) = if all { (RelPath::root(), true) } else { (at, deep) };
        let place = self.wanted.entry(at).or_insert(Place { deep, since });
        *place = Place { deep: place.deep || deep, since: place.since.min(since) };
    }

    /// Places are not known, or are being walked over.
    pub(super) fn is_incomplete(&self) -> bool {
        !self.wanted.is_empty() || self.running.is_some()
    }

    /// A walk is needed, or under way.
    pub(super) fn is_busy(&self) -> bool {
        self.needed && !self.wanted.is_empty() || self.running.is_some()
    }

    /// Walks that ended.
    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    /// When a walk is to begin.
    pub(super) fn next_due(&self) -> Option<Duration> {
        (self.needed && !self.wanted.is_empty() && self.running.is_none()).then_some(self.next)
    }

    /// The walk to begin now; not while targets are `filled` for the first time.
    fn begin(&mut self, now: Duration, filled: bool) -> Option<BTreeMap<RelPath, Place>> {
        self.next_due().filter(|due| *due <= now)?;
        if !filled && !self.hurried.load(Ordering::Relaxed) {
            self.next = now + PAUSE;
            return None;
        }
        self.needed = false;
        let mut places = std::mem::take(&mut self.wanted);
        // What lies below one that is walked over with all below it.
        let since = places.values().map(|place| place.since).min().unwrap_or_default();
        if places.get(&RelPath::root()).is_some_and(|place| place.deep) {
            places = [(RelPath::root(), Place { deep: true, since })].into();
        }
        self.begun += 1;
        self.running = Some(places.get(&RelPath::root()).is_some_and(|place| place.deep));
        Some(places)
    }
}

impl Engine {
    /// The files with several names in it are not known; nor are changes of these through names
    /// outside, from now on.
    pub(super) fn want_linked(&mut self, at: &[u8], deep: bool) {
        if self.intake.resolver.names_files() && self.intake.watching.reports_elsewhere(&self.mirror.filter) {
            self.searches.outside.want(RelPath::from_normal(at), deep, stamp());
            self.intake.resolver.linked_are_incomplete();
        }
    }

    /// A flush begins: the number of the walk that it waits for.
    pub(super) fn hurry_outside(&mut self) -> u64 {
        self.searches.outside.needed |= self.intake.resolver.takes_need_of_linked();
        if self.searches.outside.is_busy() {
            self.searches.outside.hurried.store(true, Ordering::Relaxed);
            self.searches.outside.next = Duration::ZERO;
        }
        self.searches.outside.begun + u64::from(self.searches.outside.needed && !self.searches.outside.wanted.is_empty())
    }

    /// Takes in what a walk has found, and begins the next one; whether there is more to take in.
    pub(super) fn follow_outside(&mut self) -> bool {
        let part = self.searches.outside.parts.1.try_recv();
        match part {
            Ok(Part::Files(files, since)) => {
                self.take_linked(&files, since);
                return true;
            }
            Ok(Part::End(took)) => {
                let whole = self.searches.outside.running.take() == Some(true);
                if whole {
                    self.intake.resolver.linked_walk_ends();
                }
                self.searches.outside.ended = self.searches.outside.begun;
                self.searches.outside.next = self.now() + PAUSE.max(took);
                // What was seen of those meanwhile was left to a walk.
                self.searches.outside.needed = !self.searches.outside.wanted.is_empty();
                if !self.searches.outside.needed {
                    self.searches.outside.hurried.store(false, Ordering::Relaxed);
                    self.intake.resolver.linked_are_complete();
                }
                tracing::debug!(
                    mirror = %self.mirror.name, ?took, files = self.intake.resolver.linked_files(),
                    "looked for files that may have names outside"
                );
                self.open_flushes();
            }
            Err(_) => {}
        }
        if self.intake.resolver.wants_linked_walk() && !self.searches.outside.is_busy() {
            self.want_linked(b"", true);
            self.searches.outside.needed = true;
        }
        self.searches.outside.needed |= self.intake.resolver.takes_need_of_linked();
        let now = self.now();
        if self.begin.status.walking || self.searches.outside.next_due().is_none_or(|due| due > now) {
            return false;
        }
        let filled = self.targets.iter().all(|target| target.is_filled() || !target.is_up());
        if let Some(places) = self.searches.outside.begin(now, filled) {
            if self.searches.outside.running == Some(true) {
                self.intake.resolver.linked_walk_begins();
            }
            if let Err(error) = self.walk_for_linked(places.clone()) {
                tracing::warn!(mirror = %self.mirror.name, %error, "cannot start a thread that looks for files with names outside; tried again");
                self.searches.outside.begun -= 1;
                self.searches.outside.running = None;
                self.searches.outside.needed = true;
                places.into_iter().for_each(|(at, place)| self.searches.outside.want(at, place.deep, place.since));
                self.searches.outside.next = now + RETRY;
            }
        }
        false
    }

    /// From here on their events are understood; what was changed before has a newer ctime.
    fn take_linked(&mut self, files: &[(RelPath, Object)], since: i64) {
        self.intake.resolver.know_linked_files(files.iter().map(|(name, object)| (name, object)));
        let mut paths = Paths::default();
        files.iter().for_each(|(name, _)| _ = paths.push(name, None));
        let looked = self.io.statter.stat_all(self.root.as_fd(), &paths);
        for ((name, _), stat) in files.iter().zip(looked) {
            if stat.is_ok_and(|stat| stat.ctime.secs >= since) {
                self.take_found(name, Seen::Written);
            }
        }
    }

    fn walk_for_linked(&self, places: BTreeMap<RelPath, Place>) -> std::io::Result<()> {
        let (parts, wake) = (self.searches.outside.parts.0.clone(), Arc::clone(&self.io.wake));
        let (hurried, over) = (Arc::clone(&self.searches.outside.hurried), Arc::clone(&self.searches.outside.over));
        self.walk_beside("outside", &self.searches.outside.parts.0, move |within, filter| {
            let begun = Instant::now();
            let mut worked = Instant::now();
            for (at, Place { deep, since }) in places {
                let mut found = Vec::new();
                search::linked(within, filter, at, deep, &mut |files| {
                    found.extend(files);
                    // An engine that has ended meanwhile does not receive any more.
                    while found.len() >= PART {
                        let rest = found.split_off(PART);
                        let _ = parts.send(Part::Files(std::mem::replace(&mut found, rest), since));
                        wake.wake();
                    }
                    let work = worked.elapsed();
                    if work >= WORK {
                        if !hurried.load(Ordering::Relaxed) {
                            std::thread::sleep((work * REST).min(WORK * REST * 2));
                        }
                        worked = Instant::now();
                    }
                    !over.load(Ordering::Relaxed)
                });
                if !found.is_empty() {
                    let _ = parts.send(Part::Files(found, since));
                    wake.wake(); // the next one may wait for room
                }
            }
            Part::End(begun.elapsed())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(path: &str) -> RelPath {
        RelPath::from_normal(path)
    }

    #[test]
    fn one_walk_serves_all_that_wait_and_begins_after_the_first_comparison() {
        let mut outside = Outside::new();
        assert!(!outside.is_busy() && outside.begin(Duration::MAX, true).is_none());
        outside.want(p("d"), false, 20);
        assert!(!outside.is_busy() && outside.is_incomplete() && outside.begin(Duration::MAX, true).is_none(), "not needed");
        outside.needed = true;
        outside.want(p("d"), true, 30);
        outside.want(p("e"), false, 10);
        assert!(outside.begin(Duration::ZERO, true).is_none());
        assert!(outside.begin(PAUSE, false).is_none(), "targets are filled");
        let want: BTreeMap<_, _> = [(p("d"), Place { deep: true, since: 20 }), (p("e"), Place { deep: false, since: 10 })].into();
        assert_eq!(outside.begin(PAUSE * 2, true), Some(want));
        assert_eq!((outside.running, outside.begin(Duration::MAX, true)), (Some(false), None));
        outside.running = None;
        outside.want(p("d"), false, 20);
        outside.want(p(""), true, 30);
        outside.want(p("e"), false, 40);
        assert!(!outside.wanted.contains_key(&p("e")), "below what is walked over anyway");
        assert!(!outside.is_busy(), "for the walk before only");
        outside.needed = true;
        outside.hurried.store(true, Ordering::Relaxed);
        let all = [(p(""), Place { deep: true, since: 20 })].into();
        assert_eq!(outside.begin(PAUSE * 2, false), Some(all), "a flush waits");
        assert_eq!(outside.running, Some(true));
        (0..2 * MAX_PLACES).for_each(|n| outside.want(p(&n.to_string()), false, 1));
        assert!(outside.wanted.len() <= MAX_PLACES + 1);
        assert!(outside.wanted[&p("")].deep);
    }
}
