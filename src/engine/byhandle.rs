//! Writes by file handle where inotify watches: they raise no event once the kernel has dropped the
//! file's name, as it does for an NFS server after a restart or under memory pressure.
//!
//! inotify reports a change of a file by way of its directory, and a file that was opened by handle
//! may have none in the cache. Names are made, moved and removed in directories, whose watches
//! stay; so only changes of files that are there already go unreported, and each sets the file's
//! ctime.
//!
//! So where such a server exports the source ([`crate::exports`]), a walk over the source finds the
//! files whose ctime is not older than the walk before: in the background, every minute or in
//! twenty times as long as a walk takes, and for each flush and each stop, which wait for it.
//! Targets are not queried, and nothing is deleted for what a walk finds.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::Engine;
use super::exported::POLL_INTERVAL;
use crate::dirty::Seen;
use crate::exports::{self, Exported, Server};
use crate::links::search;
use crate::path::RelPath;

/// The shortest pause between walks that nothing waits for.
const PAUSE_MIN: Duration = Duration::from_secs(60);
/// That pause, in times of the walk before: a twentieth of a processor at most.
const PAUSE_WALKS: u32 = 20;
/// After a walk that could not begin.
const RETRY: Duration = Duration::from_secs(1);
/// Timestamps of files lag behind the clock, and have whole seconds on some filesystems.
const SLACK_SECS: i64 = 2;

/// The host's clock, in seconds since 1970.
pub(super) fn wall_clock() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64
}

/// One moment by two clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Since the engine's start.
    now: Duration,
    /// By the host's clock.
    wall: i64,
}

/// When walks begin, and which changes each has to find. Pure.
#[derive(Debug)]
struct Rounds {
    begun: u64,
    ended: u64,
    wanted: bool,
    next: Duration,
    not_before: Duration,
    /// The begin of the last walk that ended.
    covered: Moment,
    /// The begin of the one under way.
    running: Option<Moment>,
}

impl Rounds {
    /// `start`: everything before it is found otherwise.
    fn new(start: Moment) -> Rounds {
        let (next, not_before) = (start.now, start.now);
        Rounds { begun: 0, ended: 0, wanted: false, next, not_before, covered: start, running: None }
    }

    /// A walk that begins from here on is waited for; returns its number.
    fn want(&mut self) -> u64 {
        self.wanted = true;
        self.begun + 1
    }

    /// The walk to begin now, if one is due and none is under way: the least ctime that it is
    /// about.
    fn begin(&mut self, at: Moment) -> Option<i64> {
        let due = self.wanted || self.next <= at.now;
        if !due || self.running.is_some() || at.now < self.not_before {
            return None;
        }
        self.begun += 1;
        self.wanted = false;
        self.running = Some(at);
        // A clock that was set back since then gives new changes an older ctime.
        let elapsed = at.now.saturating_sub(self.covered.now).as_secs() as i64;
        Some(self.covered.wall.min(at.wall - elapsed) - SLACK_SECS)
    }

    /// It could not begin; it is tried again.
    fn put_off(&mut self, now: Duration) {
        self.begun -= 1;
        self.running = None;
        self.wanted = true;
        self.not_before = now + RETRY;
    }

    fn end(&mut self, now: Duration, took: Duration) {
        self.ended = self.begun;
        self.covered = self.running.take().unwrap_or(self.covered);
        self.next = now + (took * PAUSE_WALKS).max(PAUSE_MIN);
    }

    /// What waits for a walk, or the walk that is under way.
    fn is_idle(&self) -> bool {
        !self.wanted && self.running.is_none()
    }

    fn next_due(&self) -> Option<Duration> {
        let due = if self.wanted { Duration::ZERO } else { self.next };
        self.running.is_none().then_some(due.max(self.not_before))
    }
}

struct Found {
    names: Vec<RelPath>,
    took: Duration,
}

/// See the module's text.
pub(super) struct ByHandle {
    /// Why the source is walked over; `None`: no such server is known to export it.
    why: Option<String>,
    /// When the exports are read next.
    poll: Duration,
    rounds: Rounds,
    done: (Sender<Found>, Receiver<Found>),
}

impl ByHandle {
    pub(super) fn new(wall_start: i64) -> ByHandle {
        let start = Moment { now: Duration::ZERO, wall: wall_start };
        ByHandle { why: None, poll: Duration::ZERO, rounds: Rounds::new(start), done: bounded(1) }
    }

    /// Whether changes may have raised no event.
    pub(super) fn is_on(&self) -> bool {
        self.why.is_some()
    }

    /// Walks that ended.
    pub(super) fn ended(&self) -> u64 {
        self.rounds.ended
    }

    pub(super) fn is_idle(&self) -> bool {
        self.rounds.is_idle()
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        if self.is_on() { self.rounds.next_due() } else { Some(self.poll) }
    }

    /// What inotify does not report, in words.
    pub(super) fn words(&self) -> String {
        match &self.why {
            Some(why) => format!(
                "writes by file handle ({why}); a walk over the source finds them, every {} s or more, and for each flush",
                PAUSE_MIN.as_secs()
            ),
            None => "writes by file handle, as some servers make them; none is known to export the source".into(),
        }
    }
}

impl Engine {
    fn look_for_handles(&mut self) {
        if self.searches.by_handle.is_on() {
            return;
        }
        self.searches.by_handle.poll = self.now() + POLL_INTERVAL;
        if let Some(Exported { server: Server::Nfs, why }) = exports::exported(self.root.path()) {
            tracing::info!(mirror = %self.mirror.name, "inotify does not report writes by file handle; a walk over the source finds them: {why}");
            self.searches.by_handle.why = Some(why);
        }
    }

    /// A flush or a stop begins: the number of the walk that it waits for.
    pub(super) fn want_by_handle(&mut self) -> u64 {
        if self.intake.watching.by_marks() {
            return 0;
        }
        self.look_for_handles();
        if self.searches.by_handle.is_on() { self.searches.by_handle.rounds.want() } else { 0 }
    }

    /// Takes in a walk that has ended, and begins the next one. Of no concern where fanotify
    /// watches.
    pub(super) fn follow_by_handle(&mut self) {
        if self.intake.watching.by_marks() {
            return;
        }
        let now = self.now();
        if self.searches.by_handle.poll <= now {
            self.look_for_handles();
        }
        if let Ok(found) = self.searches.by_handle.done.1.try_recv() {
            self.searches.by_handle.rounds.end(now, found.took);
            tracing::debug!(mirror = %self.mirror.name, took = ?found.took, found = found.names.len(), "searched for files that were written by handle");
            for name in found.names {
                self.take_found(&name, Seen::Written);
            }
            self.open_flushes();
        }
        if !self.searches.by_handle.is_on() {
            return;
        }
        if let Some(since) = self.searches.by_handle.rounds.begin(Moment { now, wall: wall_clock() })
            && let Err(error) = self.walk_for_changed(since)
        {
            tracing::warn!(mirror = %self.mirror.name, %error, "cannot start a thread that searches for files that were written by handle; tried again");
            self.searches.by_handle.rounds.put_off(now);
        }
    }

    fn walk_for_changed(&self, since: i64) -> std::io::Result<()> {
        let places = self.intake.watching.by_inotify();
        self.walk_beside("by-handle", &self.searches.by_handle.done.0, move |within, filter| {
            let begun = Instant::now();
            let names = search::changed(within, filter, &places, since).names;
            Found { names, took: begun.elapsed() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;

    fn at(now: u64, wall: i64) -> Moment {
        Moment { now: Duration::from_secs(now), wall }
    }

    fn took(rounds: &mut Rounds, now: u64, secs: u64) {
        rounds.end(Duration::from_secs(now), Duration::from_secs(secs));
    }

    #[test]
    fn each_walk_finds_what_changed_since_the_one_before_began() {
        let mut rounds = Rounds::new(at(0, 1000));
        assert_eq!(rounds.begin(at(5, 1005)), Some(1000 - SLACK_SECS));
        assert_eq!((rounds.begin(at(6, 1006)), rounds.next_due()), (None, None), "one at a time");
        took(&mut rounds, 15, 10);
        // Twenty times as long as it took.
        assert_eq!(rounds.begin(at(214, 1214)), None);
        assert_eq!(rounds.begin(at(215, 1215)), Some(1005 - SLACK_SECS));
        took(&mut rounds, 216, 1);
        assert_eq!(rounds.next_due(), Some(Duration::from_secs(216 + MINUTE)));
    }

    #[test]
    fn a_flush_waits_for_a_walk_that_begins_after_it() {
        let mut rounds = Rounds::new(at(0, 1000));
        rounds.begin(at(1, 1001)).unwrap();
        let number = rounds.want();
        took(&mut rounds, 2, 1);
        assert!(rounds.ended < number && !rounds.is_idle());
        assert_eq!(rounds.begin(at(2, 1002)), Some(1001 - SLACK_SECS));
        // One that comes now is not served by it.
        assert_eq!(rounds.want(), number + 1);
        took(&mut rounds, 3, 1);
        assert!(rounds.ended >= number && rounds.ended < number + 1);
    }

    #[test]
    fn a_walk_by_handle_that_could_not_begin_is_tried_again() {
        let mut rounds = Rounds::new(at(0, 1000));
        let number = rounds.want();
        rounds.begin(at(1, 1001)).unwrap();
        rounds.put_off(Duration::from_secs(1));
        assert_eq!((rounds.begin(at(1, 1001)), rounds.next_due()), (None, Some(Duration::from_secs(2))));
        assert_eq!(rounds.begin(at(2, 1002)), Some(1000 - SLACK_SECS), "nothing was found yet");
        took(&mut rounds, 3, 1);
        assert!(rounds.ended >= number);
    }

    #[test]
    fn a_clock_that_was_set_back_hides_nothing() {
        let mut rounds = Rounds::new(at(0, 1000));
        rounds.begin(at(0, 1000)).unwrap();
        took(&mut rounds, 1, 1);
        // Set back by 500 s in the 100 s since; and forward.
        rounds.want();
        assert_eq!(rounds.begin(at(100, 600)), Some(500 - SLACK_SECS));
        took(&mut rounds, 101, 1);
        rounds.want();
        assert_eq!(rounds.begin(at(200, 9000)), Some(600 - SLACK_SECS));
    }
}
