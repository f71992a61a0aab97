//! A follower of a feed: a thread that reads records, pulls what they name from its upstream with
//! rsync, and answers the same commands as an engine.
//!
//! One run at a time. Before a run that may delete something the upstream's mark is fetched: only
//! the tree that the records are of takes anything away. A comparison of the whole tree runs dry
//! first, unless there is nothing here that it could delete.

mod batches;
mod commands;
mod disk;
mod door;
mod explaining;
mod flushes;
pub(crate) mod guards;
mod pause;
mod processes;
pub(crate) mod pull;
mod reading;
mod renames;
mod report;
mod runs;
mod supply;
mod verifying;
mod watches;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::{Mirror, Target};
use crate::control::Waiting;
use crate::engine::{Command, Handle};
use crate::feed::choice::Away;
use crate::feed::machine::Machine;
use crate::feed::mark;
use crate::feed::reader::{Read, Stored};
use crate::feed::record::{Record, RecordError};
use crate::status;
use crate::sync::argv;
use crate::sync::run::Run;
use batches::Batches;
use disk::{Directory, Disk};
use door::Door;
use flushes::Flushes;
use guards::{Deletions, UpstreamMark};
use pause::Pause;
use processes::{Doing, Processes, Ready};
use reading::Feed;
use report::Reports;
use supply::{Supply, Waits};
use verifying::Verifying;

/// Messages of the feed that are taken in a turn.
const A_TURN: usize = 200;

/// How a follower ended.
pub(crate) enum Ended {
    /// As requested, with so many paths that are not pulled.
    Stopped(usize),
    /// With another configuration.
    Again(Box<Follower>),
}

/// See the module's text.
pub(crate) struct Follower {
    mirror: Mirror,
    started: Instant,
    door: Door,
    disk: Disk,
    pause: Pause,
    feed: Feed,
    machine: Machine,
    supply: Supply,
    processes: Processes,
    batches: Batches,
    mark: UpstreamMark,
    deletions: Deletions,
    /// What keeps it from pulling from any upstream.
    away: Option<Away>,
    /// The owed comparison does not begin before.
    spread_until: Option<Duration>,
    flushes: Flushes,
    reports: Reports,
    verifying: Verifying,
    counters: status::Target,
}

impl Follower {
    /// One that is ready to run, and the way to it. `keep`: whether its position is kept in
    /// `state_dir`.
    ///
    /// # Errors
    /// eventfd(2).
    pub(crate) fn prepare(mirror: &Mirror, state_dir: &Path, keep: bool) -> std::io::Result<(Follower, Handle)> {
        let (door, handle) = Door::of(mirror)?;
        Ok((Follower::new(mirror, state_dir, keep, door), handle))
    }

    fn new(mirror: &Mirror, state_dir: &Path, keep: bool, door: Door) -> Follower {
        let supply = Supply::of(mirror);
        let (disk, saved) = Disk::open(mirror, state_dir, keep);
        let machine = Machine::new(saved, mirror.batch.max_pending, supply.current().retry_max);
        Follower {
            started: Instant::now(),
            door,
            pause: Pause::new(mirror, state_dir, keep),
            feed: Feed::new(mirror),
            machine,
            supply,
            processes: Processes::new(mirror.kernel.io_uring),
            batches: Batches::default(),
            mark: UpstreamMark::new(disk.mark_dir()),
            disk,
            deletions: Deletions::default(),
            away: None,
            spread_until: None,
            flushes: Flushes::default(),
            reports: Reports::default(),
            verifying: Verifying::default(),
            counters: status::Target::default(),
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
        if let Err(error) = self.processes.listen(self.door.fd()) {
            tracing::error!(mirror = %self.mirror.name, %error, "cannot wait for events; restart fansync");
            return Ended::Stopped(0);
        }
        self.pause.take_up();
        self.start_reader();
        if self.supply.own.is_none()
            && let Err(error) = mark::no_relay(&self.mirror.source)
        {
            tracing::warn!(mirror = %self.mirror.name, "the directory looks like a relay's still: cannot remove {}: {error}", mark::RELAY);
        }
        loop {
            let timeout = self.next_due().map(|due| due.saturating_sub(self.now()));
            let ended = self.processes.wait(timeout).unwrap_or_else(|error| {
                tracing::error!(mirror = %self.mirror.name, %error, "cannot wait for events; tried again");
                std::thread::sleep(Duration::from_millis(100));
                None
            });
            self.door.begin_turn();
            if let Some((doing, outcome)) = ended {
                self.ended(doing, &outcome);
            }
            self.supply.begin_turn();
            self.take_relay_reports();
            let more = self.read();
            self.take_commands();
            self.go_on();
            self.disk.save(self.machine.saved());
            self.report();
            self.serve_flushes();
            self.serve_verifying();
            if more {
                self.door.ring();
            }
            if self.door.is_closing() && (self.processes.doing().is_none() || self.door.is_late()) {
                return self.leave();
            }
            self.door.end_turn();
        }
    }

    fn leave(mut self) -> Ended {
        self.end_flushes();
        let left = self.unconfirmed();
        match self.door.pass_on() {
            None => Ended::Stopped(left),
            Some((door, next)) => {
                let (state_dir, keep) = self.disk.place();
                Ended::Again(Box::new(Follower::new(&next.mirror, state_dir, keep, door)))
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
        let upstream = self.upstream();
        let mut due: Vec<Duration> = Vec::new();
        due.extend(self.door.due(self.started));
        let clients = self.flushes.due().into_iter().chain(self.verifying.due());
        due.extend(clients.map(|at| at.saturating_duration_since(self.started)));
        due.extend(self.supply.due());
        due.extend(self.report_due());
        due.extend(self.processes.due(upstream.watchdog, upstream.timeout));
        if self.processes.doing().is_none() && !self.pause.is_on() {
            due.extend(self.away.as_ref().map(|away| away.next));
            due.extend(self.deletions.due());
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
        self.feed.start(&self.mirror, reading, from, self.door.bell());
    }

    /// Takes in what the feed has; `true` when there may be more.
    fn read(&mut self) -> bool {
        self.take_records();
        for _ in 0..A_TURN {
            if self.has_enough() {
                return false;
            }
            let Some(read) = self.feed.take() else { return false };
            match read {
                Read::Record(Stored { sequence, payload, answers }) => {
                    self.reports.read(sequence, self.now());
                    let record = Record::decode(&payload);
                    self.verifying.read(&record, &answers);
                    self.supply.records.push_back(Waits { sequence, record });
                    self.take_records();
                }
                Read::End(began, Some(Stored { sequence, payload, .. })) => {
                    self.machine.looked(began.saturating_duration_since(self.started), sequence);
                    let owed = self.machine.owes();
                    if self.machine.end(sequence, Record::decode(&payload)) {
                        self.owes(owed);
                        self.supply.records.clear();
                        self.feed.read_behind(sequence);
                    }
                }
                Read::End(_, None) => {}
                Read::Looked(number, end) => self.flushes.looked(number, end),
                Read::Up => self.feed.came_up(),
                Read::Down(why) => self.feed.went_down(why),
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
            self.batches.weigh(&self.mirror, &mut record, left_out, self.processes.env());
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
        self.processes.drop_spare();
    }
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
