//! Changes that inotify reported by a name which had lost its file before the name was looked up.
//!
//! inotify names a directory entry, never the file behind it. A file that was written under one of
//! its names, and whose name was removed or replaced before a batch looked there, changed under its
//! other names too, and no event says which these are. Each such change sets the ctime of the file,
//! so a walk over what inotify watches finds every file that changed since, and they are sent once
//! more. Targets are not queried, and nothing is deleted for what a walk finds. (With fanotify the
//! event leads to the file: [`super::names`].)
//!
//! What may be such a change: one that was pending, in flight or sent a moment ago under a name
//! that goes or is replaced; one under a name that lost its file a moment before, as a program may
//! have it open still; one in a directory that left, or that was filled before its watch was set.
//!
//! Temporary files look the same, and a tree in which no file has several names has none to miss.
//! So where a walk met no such file, the next one waits for a batch that meets one, or that
//! compares a directory. Walks are apart by twenty times what one takes, and more while they meet
//! none; a flush and a stop wait for one that is owed.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::Engine;
use super::byhandle::wall_clock;
use crate::dirty::Seen;
use crate::links::search::{self, Changed};
use crate::path::RelPath;

/// From the first change that is astray to the walk: what comes in the same moment is found with
/// it.
const GATHER: Duration = Duration::from_millis(100);
/// The pause between walks, in times of the walk before, and the least and the most of what is
/// added to it: it doubles while walks meet no file with several names.
const PAUSE_WALKS: u32 = 20;
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// After a walk that could not begin.
const RETRY: Duration = Duration::from_secs(1);
/// Timestamps of files lag behind the clock, and have whole seconds on some filesystems.
const SLACK: Duration = Duration::from_secs(2);
/// For so long after its name went a file may be open in a program that writes to it.
const OPEN: Duration = Duration::from_secs(5);
/// Names remembered for that. With more, every name counts as one.
const MOST: usize = 10_000;

/// Names that lost their file a moment ago.
#[derive(Debug, Default)]
struct Lost {
    names: HashMap<RelPath, Duration>,
    by_time: VecDeque<(Duration, RelPath)>,
    /// There were too many; until then any name may be one of them.
    any_until: Duration,
}

impl Lost {
    fn add(&mut self, name: &[u8], now: Duration) {
        self.forget(now);
        if self.names.len() >= MOST {
            *self = Lost { any_until: now + OPEN, ..Lost::default() };
        }
        let name = RelPath::from_normal(name);
        self.names.insert(name.clone(), now);
        self.by_time.push_back((now, name));
    }

    fn forget(&mut self, now: Duration) {
        while self.by_time.front().is_some_and(|(at, _)| *at + OPEN <= now) {
            let Some((_, name)) = self.by_time.pop_front() else { return };
            // Once more since.
            if self.names.get(&name).is_some_and(|at| *at + OPEN <= now) {
                self.names.remove(&name);
            }
        }
    }

    fn may_hold(&mut self, name: &[u8], now: Duration) -> bool {
        self.forget(now);
        now < self.any_until || self.names.contains_key(name)
    }
}

/// Which changes a walk has to find, and when it begins. Pure, but for the channel.
#[derive(Debug)]
pub(super) struct Strays {
    lost: Lost,
    /// What left with the last event; it may arrive with the next one.
    left: Option<Duration>,
    /// The earliest change that is astray, as a time since the engine's start.
    since: Option<Duration>,
    /// Every event from before then was taken in.
    caught_up: Duration,
    hurried: bool,
    /// Where no file has several names, what [`Names::met`] was then.
    ///
    /// [`Names::met`]: crate::links::names::Names::met
    plain: Option<u64>,
    /// The earliest change that the walk under way finds, and [`Strays::plain`] at its begin.
    running: Option<(Duration, u64)>,
    begun: u64,
    ended: u64,
    /// The walk that a flush or a stop waits for.
    promised: u64,
    next: Duration,
    pause: Duration,
    done: (Sender<Found>, Receiver<Found>),
}

#[derive(Debug)]
struct Found {
    changed: Changed,
    took: Duration,
}

impl Strays {
    pub(super) fn new() -> Strays {
        Strays {
            lost: Lost::default(),
            left: None,
            since: None,
            caught_up: Duration::ZERO,
            hurried: false,
            plain: None,
            running: None,
            begun: 0,
            ended: 0,
            promised: 0,
            next: Duration::ZERO,
            pause: PAUSE_MIN,
            done: bounded(1),
        }
    }

    /// The queues were empty at `now`.
    pub(super) fn caught_up(&mut self, now: Duration) {
        self.caught_up = now;
    }

    /// Takes in an event after the targets did. `dropped`: since when a change was pending that
    /// this event took the name from; `unsent`: a write was held back of which no target knows.
    pub(super) fn see(&mut self, path: &[u8], seen: Seen, dropped: Option<Duration>, unsent: bool, now: Duration) {
        if let Some(since) = self.left.take().filter(|_| !matches!(seen, Seen::Arrived | Seen::ArrivedDir)) {
            self.stray(since, now);
        }
        let loses = matches!(seen.plain(), Seen::Gone | Seen::Replaced);
        let dropped = dropped.or((loses && unsent).then_some(self.caught_up));
        match (seen, dropped) {
            // A rename within the tree takes the change along.
            (Seen::Left | Seen::LeftDir, since) => self.left = since,
            (_, Some(since)) => self.stray(since, now),
            (Seen::Written | Seen::Modified | Seen::Touched, None) if self.lost.may_hold(path, now) => self.stray(now, now),
            _ => {}
        }
        if loses {
            self.lost.add(path, now);
        }
    }

    /// A file changed at `now` of which there is no event.
    pub(super) fn astray(&mut self, now: Duration) {
        self.stray(now, now);
    }

    /// A change that was taken in at `since`, and that is known to be astray at `now`.
    fn stray(&mut self, since: Duration, now: Duration) {
        let late = now.saturating_sub(self.caught_up);
        let since = since.saturating_sub(late);
        if self.since.is_none() {
            self.next = self.next.max(now + GATHER);
        }
        self.since = self.since.into_iter().chain([since]).min();
    }

    /// A flush or a stop begins: the number of the walk that it waits for.
    fn want(&mut self, met: u64) -> u64 {
        self.settle(met);
        self.hurried = self.since.is_some();
        let number = self.begun + u64::from(self.hurried);
        self.promised = self.promised.max(number);
        number
    }

    /// What left and did not arrive has left; and where no file has several names, none is astray.
    fn settle(&mut self, met: u64) {
        self.since = self.since.into_iter().chain(self.left.take()).min();
        if self.plain == Some(met) {
            self.since = None;
        }
    }

    /// The walk to begin now, if one is due and none is under way: the earliest change that it is
    /// about.
    fn begin(&mut self, now: Duration, met: u64) -> Option<Duration> {
        if self.running.is_some() {
            return None;
        }
        if self.plain == Some(met) {
            (self.since, self.left) = (None, None);
        }
        if self.since.is_none() && self.left.is_none() {
            // The walk that ended has found what another one was to find.
            self.begun = self.begun.max(self.promised);
            self.ended = self.begun;
            return None;
        }
        if !self.hurried && now < self.next {
            return None;
        }
        self.settle(met);
        self.hurried = false;
        let since = self.since.take()?;
        self.begun += 1;
        self.running = Some((since, met));
        Some(since)
    }

    /// It could not begin; it is tried again.
    fn put_off(&mut self, now: Duration) {
        let Some((since, _)) = self.running.take() else { return };
        self.begun -= 1;
        self.since = self.since.into_iter().chain([since]).min();
        self.next = now + RETRY;
    }

    fn end(&mut self, now: Duration, linked: bool, took: Duration) {
        self.ended = self.begun;
        let met = self.running.take().map(|(_, met)| met);
        self.plain = met.filter(|_| !linked);
        self.pause = if linked { PAUSE_MIN } else { (self.pause * 2).min(PAUSE_MAX) };
        self.next = now + took * PAUSE_WALKS + self.pause;
    }

    /// Walks that ended.
    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    /// Nothing is astray.
    pub(super) fn is_idle(&self) -> bool {
        self.since.is_none() && self.left.is_none() && self.running.is_none()
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        let due = if self.hurried { Duration::ZERO } else { self.next };
        (self.running.is_none() && !self.is_idle()).then_some(due)
    }
}

impl Engine {
    /// See [`Strays::want`].
    pub(super) fn want_strays(&mut self) -> u64 {
        self.take_strays();
        self.searches.strays.want(self.searches.naming.names.met())
    }

    /// Takes in what batches found. Of no concern where fanotify watches: there the event leads to
    /// the file.
    fn take_strays(&mut self) {
        if let Some(since) = self.searches.naming.names.take_astray()
            && !self.intake.watching.by_marks()
        {
            let now = self.now();
            self.searches.strays.stray(since, now);
        }
    }

    /// Takes in a walk that has ended, and begins the next one.
    pub(super) fn follow_strays(&mut self) {
        let now = self.now();
        self.take_strays();
        if let Ok(Found { changed: Changed { names, linked }, took }) = self.searches.strays.done.1.try_recv() {
            self.searches.strays.end(now, linked, took);
            tracing::debug!(mirror = %self.mirror.name, ?took, found = names.len(), linked, "searched for files that lost the name they changed by");
            for name in names {
                self.take_found(&name, Seen::Written);
            }
            self.open_flushes();
        }
        let ended = self.searches.strays.ended;
        let begins = self.searches.strays.begin(now, self.searches.naming.names.met());
        if self.searches.strays.ended > ended {
            self.open_flushes();
        }
        if let Some(since) = begins
            && let Err(error) = self.walk_for_strays(now, since)
        {
            tracing::warn!(mirror = %self.mirror.name, %error, "cannot start a thread that searches for files that lost the name they changed by; tried again");
            self.searches.strays.put_off(now);
        }
    }

    fn walk_for_strays(&self, now: Duration, since: Duration) -> std::io::Result<()> {
        // A clock that was set back meanwhile gives new changes an older ctime.
        let ago = now.saturating_sub(since).as_secs() as i64;
        let by_start = self.clock.wall_start + since.as_secs() as i64;
        let since = by_start.min(wall_clock() - ago) - SLACK.as_secs() as i64;
        let places = self.intake.watching.by_inotify();
        self.walk_beside("strays", &self.searches.strays.done.0, move |within, filter| {
            let begun = Instant::now();
            let changed = search::changed(within, filter, &places, since);
            Found { changed, took: begun.elapsed() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Without events in the queue.
    fn strays() -> Strays {
        let mut strays = Strays::new();
        strays.caught_up(at(1000));
        strays
    }

    #[test]
    fn which_changes_are_astray() {
        use Seen::{Arrived, Created, Gone, Left, Modified, Replaced, Touched, Written};
        type Event = (&'static str, Seen, Option<u64>, bool);
        let cases: &[(&[Event], Option<u64>)] = &[
            (&[("f", Written, None, false)], None),
            (&[("f", Gone, None, false)], None),
            (&[("f", Gone, Some(900), false)], Some(900)),
            (&[("f", Replaced, Some(900), false)], Some(900)),
            (&[("f", Gone, Some(900), false), ("g", Replaced, Some(700), false)], Some(700)),
            // Renamed within the tree; and out of it, whatever comes next.
            (&[("f", Left, Some(900), false), ("g", Arrived, None, false)], None),
            (&[("f", Left, Some(900), false), ("g", Arrived, Some(800), false)], Some(800)),
            (&[("f", Left, Some(900), false), ("x", Written, None, false)], Some(900)),
            (&[("f", Left, Some(900), false)], Some(900)),
            // A write that is held back.
            (&[("f", Gone, None, true)], Some(1000)),
            (&[("f", Written, None, true)], None),
            // Written under a name that was another file's a moment ago.
            (&[("f", Gone, None, false), ("f", Created, None, false), ("f", Written, None, false)], Some(1000)),
            (&[("f", Replaced, None, false), ("f", Touched, None, false)], Some(1000)),
            (&[("f", Replaced, None, false), ("f", Modified, None, false)], Some(1000)),
            (&[("f", Gone, None, false), ("g", Written, None, false)], None),
        ];
        for (events, want) in cases {
            let mut strays = strays();
            for (path, seen, dropped, unsent) in *events {
                strays.see(path.as_bytes(), *seen, dropped.map(at), *unsent, at(1000));
            }
            let number = strays.want(1);
            assert_eq!((number > 0, strays.is_idle()), (want.is_some(), want.is_none()), "{events:?}");
            assert_eq!(strays.begin(at(1000), 1), want.map(at), "{events:?}");
        }
    }

    #[test]
    fn a_name_that_lost_its_file_is_remembered_for_a_moment() {
        let mut lost = Lost::default();
        lost.add(b"f", at(0));
        lost.add(b"f", at(2000));
        assert!(lost.may_hold(b"f", at(5500)) && !lost.may_hold(b"g", at(5500)));
        assert!(!lost.may_hold(b"f", at(7000)) && lost.names.is_empty() && lost.by_time.is_empty());
        (0..=MOST).for_each(|n| lost.add(format!("{n}").as_bytes(), at(8000)));
        assert!(lost.may_hold(b"0", at(8000)) && lost.may_hold(b"other", at(8000)) && lost.names.len() < MOST);
        assert!(!lost.may_hold(b"other", at(13_000)));
    }

    #[test]
    fn events_that_were_taken_in_late_tell_of_earlier_changes() {
        let mut strays = strays();
        strays.see(b"f", Seen::Gone, Some(at(7000)), false, at(7000));
        strays.want(1);
        assert_eq!(strays.begin(at(7000), 1), Some(at(1000)));
    }

    #[test]
    fn a_tree_without_links_is_walked_over_once() {
        let mut strays = strays();
        strays.astray(at(1000));
        assert_eq!((strays.begin(at(1050), 1), strays.next_due()), (None, Some(at(1100))), "what comes with it is found with it");
        assert_eq!(strays.begin(at(1100), 1), Some(at(1000)));
        strays.end(at(1200), false, at(10));
        for now in [2000, 9000] {
            strays.astray(at(now));
            assert_eq!((strays.begin(at(now + 100), 1), strays.is_idle()), (None, true));
        }
        strays.astray(at(9500));
        assert_eq!((strays.want(1), strays.is_idle()), (1, true), "the walk that ended");
        // A batch has met a file with several names, while no walk or a walk was under way.
        strays.astray(at(10_000));
        assert_eq!(strays.begin(at(10_100), 2).map(|_| ()), Some(()));
        strays.end(at(10_200), false, at(10));
        strays.astray(at(60_000));
        assert_eq!(strays.begin(at(60_100), 3).map(|_| ()), Some(()));
    }

    #[test]
    fn a_flush_that_waits_for_a_walk_is_served_by_the_one_before_where_nothing_has_two_names() {
        let mut strays = strays();
        strays.astray(at(1000));
        assert!(strays.begin(at(1100), 1).is_some());
        strays.astray(at(1150));
        let number = strays.want(1);
        assert_eq!((strays.begin(at(1160), 1), strays.ended() < number), (None, true), "one is under way");
        strays.end(at(1200), false, at(10));
        assert_eq!((strays.begin(at(1300), 1), strays.ended() >= number), (None, true), "it waits for ever");
        assert_eq!(strays.want(1), number, "and the next one waits for nothing");
        // One that finds nothing astray takes nothing back from the one before.
        strays.astray(at(1400));
        assert!(strays.begin(at(9000), 2).is_some());
        strays.astray(at(9050));
        let number = strays.want(2);
        strays.end(at(9100), false, at(10));
        assert!(strays.want(2) < number);
        assert_eq!((strays.begin(at(9200), 2), strays.ended() >= number), (None, true));
    }

    #[test]
    fn walks_are_apart_unless_a_flush_waits() {
        let mut strays = strays();
        strays.astray(at(1000));
        assert!(strays.begin(at(1100), 1).is_some());
        strays.astray(at(1200));
        assert_eq!((strays.begin(at(1300), 1), strays.next_due()), (None, None), "one at a time");
        let number = strays.want(1);
        assert!(strays.ended() < number);
        strays.end(at(2000), true, at(900));
        assert_eq!(strays.begin(at(2000), 1), Some(at(1000)), "it was taken in before the queues were empty");
        strays.end(at(2100), true, at(100));
        assert!(strays.ended() >= number);
        strays.astray(at(2200));
        assert_eq!((strays.begin(at(4500), 1), strays.next_due()), (None, Some(at(2100 + 100 * 20 + 500))));
        strays.begin(at(4600), 1).expect("it is due");
        strays.put_off(at(4600));
        assert_eq!(strays.next_due(), Some(at(5600)));
        assert!(strays.begin(at(5600), 1).is_some(), "tried again");
    }
}
