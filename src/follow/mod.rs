//! A follower of a feed: a thread that reads records, pulls what they name from its upstream with
//! rsync, and answers the same commands as an engine.
//!
//! One run at a time. Before a run that may delete something the upstream's mark is fetched: only
//! the tree that the records are of takes anything away. A comparison of the whole tree runs dry
//! first, unless there is nothing here that it could delete.

mod batches;
mod commands;
mod explaining;
mod pull;
mod report;
mod runs;
mod supply;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::config::{Mirror, Target};
use crate::control::Waiting;
use crate::engine::{Command, Handle, Replacement};
use crate::feed::choice::Away;
use crate::feed::machine::Machine;
use crate::feed::mark;
use crate::feed::note::{Followed, FollowedFile};
use crate::feed::reader::{Read, Reader};
use crate::feed::record::{Record, RecordError};
use crate::state::pauses::PauseFile;
use crate::status;
use crate::sync::argv;
use crate::sync::run::Run;
use crate::sys::event::EventFd;
use crate::sys::reactor::{Interest, Reactor};
use crate::targets::latency::Latency;
use batches::Batches;
use runs::Doing;
use supply::{Supply, Waits};

const WAKE: u64 = 1;
/// A run's descriptors: its outputs, and its end.
const STDOUT: u64 = 2;
const STDERR: u64 = 3;
const EXIT: u64 = 4;
/// The end of the standby process.
const SPARE: u64 = 5;

/// How long a mark holds that was fetched, for runs that delete nothing.
const MARK_HOLDS: Duration = Duration::from_secs(10);
/// Between two reports to the source.
const REPORT_EVERY: Duration = Duration::from_millis(50);
/// Messages of the feed that are taken in a turn.
const A_TURN: usize = 200;

/// How a follower ended.
pub(crate) enum Ended {
    /// As requested, with so many paths that are not pulled.
    Stopped(usize),
    /// With another configuration.
    Again(Box<Follower>),
}

struct Flush {
    deadline: Instant,
    reply: Sender<Vec<Waiting>>,
    /// Until the stream was looked at: the number of that look.
    look: Option<u64>,
    /// The last message of the stream then.
    until: u64,
}

/// A process that waits for what it is to do.
struct Spare {
    run: Run,
    what: Ready,
    since: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// For a list, connected to the upstream.
    Pull,
    /// For a batch.
    Apply,
}

/// See the module's text.
pub(crate) struct Follower {
    mirror: Mirror,
    supply: Supply,
    /// Relays that are passed over.
    noted_silent: Vec<usize>,
    state_dir: PathBuf,
    keep: bool,
    file: FollowedFile,
    pauses: PauseFile,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    turns: Arc<AtomicU64>,
    started: Instant,
    env: Vec<(OsString, OsString)>,
    reader: Option<Reader>,
    reactor: Reactor,
    machine: Machine,
    /// What is on the disk.
    kept: Followed,
    /// The directory that a comparison has filled.
    filled: Option<(u64, u64)>,
    /// Whether it was logged that the state on disk is old.
    unsaved: bool,
    doing: Option<Doing>,
    spare: Option<Spare>,
    batches: Batches,
    /// When the upstream's mark was the right one.
    mark_seen: Option<Duration>,
    /// The run under way began with a mark that was not fetched for it.
    mark_old: bool,
    /// What keeps it from pulling from any upstream.
    away: Option<Away>,
    /// Why the servers of the feed do not answer.
    feed_down: Option<String>,
    paused: Option<f64>,
    /// Deletions that wait, in words, and until when they are not judged again.
    held_deletes: Option<(String, u64, Duration)>,
    /// The next run may delete what it likes.
    accepted: bool,
    /// The owed comparison does not begin before.
    spread_until: Option<Duration>,
    flushes: Vec<Flush>,
    looks: u64,
    /// Records that are not held, with the time when they were read.
    ages: VecDeque<(u64, Duration)>,
    /// From reading a record to holding it.
    latency: Latency,
    reported: Option<(crate::feed::Report, Duration)>,
    counters: status::Target,
    stop_at: Option<Instant>,
    successor: Option<Box<Replacement>>,
}

impl Follower {
    /// One that is ready to run, and the way to it. `keep`: whether its position is kept in
    /// `state_dir`.
    ///
    /// # Errors
    /// eventfd(2).
    pub(crate) fn prepare(mirror: &Mirror, state_dir: &Path, keep: bool) -> std::io::Result<(Follower, Handle)> {
        let (commands, taken) = unbounded();
        let wake = Arc::new(EventFd::new()?);
        let turns: Arc<AtomicU64> = Arc::default();
        let handle = Handle {
            mirror: mirror.name.clone(),
            targets: mirror.targets.iter().map(|t| t.name.clone()).collect(),
            commands,
            wake: Arc::clone(&wake),
            turns: Arc::clone(&turns),
            last: Default::default(),
        };
        Ok((Follower::new(mirror, state_dir, keep, taken, wake, turns), handle))
    }

    fn new(
        mirror: &Mirror,
        state_dir: &Path,
        keep: bool,
        commands: Receiver<Command>,
        wake: Arc<EventFd>,
        turns: Arc<AtomicU64>,
    ) -> Follower {
        let supply = Supply::of(mirror);
        let file = FollowedFile::new(state_dir, &mirror.name, &mirror.source);
        let kept = match file.load() {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(mirror = %mirror.name, "where the follower left off is not known, so the whole tree is compared: {error}");
                None
            }
        };
        let pauses = PauseFile::new(state_dir, &mirror.name, &mirror.source);
        let machine = Machine::new(kept.as_ref().map(|k| k.saved.clone()), mirror.batch.max_pending, supply.current().retry_max);
        Follower {
            supply,
            noted_silent: Vec::new(),
            state_dir: state_dir.to_owned(),
            keep,
            file,
            pauses,
            commands,
            wake,
            turns,
            started: Instant::now(),
            env: argv::environment(std::env::vars_os()),
            reader: None,
            reactor: Reactor::new(mirror.kernel.io_uring),
            machine,
            filled: kept.as_ref().and_then(|k| k.filled),
            kept: kept.unwrap_or_default(),
            unsaved: false,
            doing: None,
            spare: None,
            batches: Batches::default(),
            mark_seen: None,
            mark_old: false,
            away: None,
            feed_down: Some("the NATS servers have not answered yet".into()),
            paused: None,
            held_deletes: None,
            accepted: false,
            spread_until: None,
            flushes: Vec::new(),
            looks: 0,
            ages: VecDeque::new(),
            latency: Latency::default(),
            reported: None,
            counters: status::Target::default(),
            stop_at: None,
            successor: None,
            mirror: mirror.clone(),
        }
    }

    /// The mirror's name.
    pub(crate) fn name(&self) -> &str {
        &self.mirror.name
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs until a stop is requested.
    pub(crate) fn run(mut self) -> Ended {
        use std::os::fd::AsFd;
        if let Err(error) = self.reactor.add(self.wake.as_fd(), Interest::Read, WAKE) {
            tracing::error!(mirror = %self.mirror.name, %error, "cannot wait for events; restart fansync");
            return Ended::Stopped(0);
        }
        self.take_up_pause();
        self.start_reader();
        if self.supply.own.is_none()
            && let Err(error) = mark::no_relay(&self.mirror.source)
        {
            tracing::warn!(mirror = %self.mirror.name, "the directory looks like a relay's still: cannot remove {}: {error}", mark::RELAY);
        }
        let mut ready = Vec::new();
        loop {
            ready.clear();
            let timeout = self.next_due().map(|due| due.saturating_sub(self.now()));
            if let Err(error) = self.reactor.wait(&mut ready, timeout) {
                tracing::error!(mirror = %self.mirror.name, %error, "cannot wait for events; tried again");
                std::thread::sleep(Duration::from_millis(100));
            }
            self.wake.clear();
            for &token in &ready {
                self.on_ready(token);
            }
            self.supply.begin_turn();
            self.hear_relays();
            let more = self.read();
            self.take_commands();
            self.go_on();
            self.save();
            self.report();
            self.serve_flushes();
            if more {
                self.wake.wake();
            }
            if let Some(at) = self.stop_at
                && (self.doing.is_none() || Instant::now() >= at)
            {
                return self.leave();
            }
            self.turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn leave(mut self) -> Ended {
        self.end_flushes();
        let left = self.unconfirmed();
        match self.successor.take() {
            None => Ended::Stopped(left),
            Some(next) => {
                let Follower { state_dir, keep, commands, wake, turns, .. } = self;
                Ended::Again(Box::new(Follower::new(&next.mirror, &state_dir, keep, commands, wake, turns)))
            }
        }
    }

    /// Paths that are to be pulled, a comparison counting as one.
    fn unconfirmed(&self) -> usize {
        let waits = self.supply.records.iter().flat_map(|waits| &waits.record).map(|record| record.entries.len()).sum::<usize>();
        let owed = usize::from(self.machine.owes());
        waits
            + self.machine.pending().len()
            + self.machine.queued()
            + self.machine.in_flight()
            + owed
            + self.machine.failed().len()
    }

    fn next_due(&self) -> Option<Duration> {
        let since = |at: Instant| at.saturating_duration_since(self.started);
        let mut due: Vec<Duration> = Vec::new();
        due.extend(self.stop_at.map(since));
        due.extend(self.flushes.iter().map(|flush| since(flush.deadline)));
        due.extend(self.supply.due());
        due.extend(self.reported.as_ref().and_then(|(sent, at)| Some(*at + self.report_again(sent)?)));
        due.extend(self.doing.as_ref().map(|doing| doing.due(self.upstream().watchdog)));
        due.extend(self.doing.as_ref().and_then(|doing| doing.until(self.upstream().timeout)));
        if self.doing.is_none() && self.paused.is_none() {
            due.extend(self.away.as_ref().map(|away| away.next));
            due.extend(self.held_deletes.as_ref().map(|(.., until)| *until));
            due.extend(self.spread_until.filter(|_| self.machine.owes()));
            due.extend(self.machine.next_due());
        }
        due.into_iter().min()
    }

    // ----- the feed -----

    fn start_reader(&mut self) {
        let Some(follow) = &self.mirror.follow else { return };
        let from = self.machine.read().map(|point| point.sequence);
        let reading = self.supply.reading(&follow.follower);
        match Reader::start(&follow.feed, &follow.login, reading, from, Arc::clone(&self.wake)) {
            Ok(reader) => self.reader = Some(reader),
            Err(error) => {
                tracing::error!(mirror = %self.mirror.name, %error, "cannot start the thread that reads the feed; restart fansync");
                self.feed_down = Some(format!("the thread that reads the feed did not start: {error}"));
            }
        }
    }

    /// Takes in what the feed has; `true` when there may be more.
    fn read(&mut self) -> bool {
        self.take_records();
        for _ in 0..A_TURN {
            if self.has_enough() {
                return false;
            }
            let Some(read) = self.reader.as_ref().and_then(Reader::take) else { return false };
            match read {
                Read::Record(sequence, bytes) => {
                    self.ages.push_back((sequence, self.now()));
                    self.supply.records.push_back(Waits { sequence, record: Record::decode(&bytes) });
                    self.take_records();
                }
                Read::End(began, Some((sequence, bytes))) => {
                    self.machine.looked(began.saturating_duration_since(self.started), sequence);
                    let owed = self.machine.owes();
                    if self.machine.end(sequence, Record::decode(&bytes)) {
                        self.owes(owed);
                        self.supply.records.clear();
                        if let Some(reader) = &self.reader {
                            reader.read_behind(Some(sequence));
                        }
                    }
                }
                Read::End(_, None) => {}
                Read::Looked(number, end) => {
                    for flush in self.flushes.iter_mut().filter(|flush| flush.look == Some(number)) {
                        (flush.look, flush.until) = (None, end.unwrap_or(0));
                    }
                }
                Read::Up => {
                    if self.feed_down.take().is_some() {
                        tracing::info!(mirror = %self.mirror.name, "the feed is read");
                    }
                }
                Read::Down(why) => {
                    if self.feed_down.as_ref() != Some(&why) {
                        tracing::warn!(mirror = %self.mirror.name, "the feed cannot be read: {why}. It is tried again by itself; what was published meanwhile is read then");
                    }
                    self.feed_down = Some(why);
                }
            }
        }
        true
    }

    fn take_record(&mut self, sequence: u64, record: Result<Record, RecordError>) {
        let owed = self.machine.owes();
        let filter = &self.mirror.filter;
        let record = record.map(|mut record| {
            let all = record.entries.len();
            record.entries.retain(|item| {
                let leaves_out = |dir| !item.path.is_root() && filter.excludes(&item.path, dir);
                // What is gone may have been either.
                let out = leaves_out(item.directory) || item.gone && leaves_out(true);
                !out
            });
            let left_out = record.entries.len() < all;
            self.batches.weigh(&self.mirror, &mut record, left_out, &self.env);
            record
        });
        let held = self.machine.is_held();
        self.machine.record(sequence, record);
        if self.machine.is_held() != held {
            match held {
                false => {
                    tracing::warn!(mirror = %self.mirror.name, "the source is held: nothing is pulled until its fansync goes on")
                }
                true => tracing::info!(mirror = %self.mirror.name, "the source is held no more"),
            }
        }
        self.owes(owed);
    }

    /// A comparison may be owed since just now.
    fn owes(&mut self, before: bool) {
        if before || !self.machine.owes() {
            return;
        }
        let why = self.machine.why_owed().unwrap_or_default().to_owned();
        let spread = self.mirror.follow.as_ref().map_or(Duration::ZERO, |follow| follow.spread);
        let wait = spread.mul_f64(fastrand::f64());
        tracing::warn!(mirror = %self.mirror.name, "the whole tree is compared with the upstream, in {:.0} s: {why}", wait.as_secs_f64());
        self.spread_until = Some(self.now() + wait);
        // It may have connected to what the source was before.
        self.drop_spare();
    }

    // ----- the disk -----

    fn save(&mut self) {
        if !self.keep {
            return;
        }
        let now = Followed { saved: self.machine.saved(), filled: self.filled };
        if now == self.kept {
            return;
        }
        match self.file.save(&now) {
            Ok(()) => {
                self.unsaved = false;
                self.kept = now;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.unsaved, true) {
                    tracing::warn!(mirror = %self.mirror.name, "the position cannot be saved, so a restart reads or compares again: {error}");
                }
            }
        }
    }

    /// The device and inode of the directory.
    fn directory(&self) -> std::io::Result<(u64, u64)> {
        let found = std::fs::metadata(&self.mirror.source)?;
        if !found.is_dir() {
            return Err(std::io::Error::from(std::io::ErrorKind::NotADirectory));
        }
        Ok((found.dev(), found.ino()))
    }
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
