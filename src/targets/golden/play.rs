//! One play: a seeded history of events, time, runs' ends and commands, given to a target without
//! an engine, and the text of what the target did.

mod changes;
mod commands;
mod linked;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::answers::{self, Task};
use super::world::{What, World, parent};
use crate::apart::{Apart, Why};
use crate::config::hook::{Action, Command, Hook, Input as HookInput, When};
use crate::config::{Initial, MaxDelete};
use crate::links::names::{Found as NamesFound, Job as NamesJob};
use crate::links::{self, Inode};
use crate::location::Location;
use crate::sync::probe::Version;
use crate::sync::scripted::{NO_PID, Play as Stage, Played};
use crate::sys::child::{Exit, OpenFile};
use crate::targets::*;

/// Steps before the end of a play, in which everything ends well.
const STEPS: usize = 80;
/// Turns of that end.
const LAST_TURNS: usize = 60;

/// How a process behaves while it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Goes,
    Silent,
    Idle,
}

struct Live {
    played: Played,
    mood: Mood,
    signals: usize,
    waited: bool,
}

/// A trace and what occurred in it.
pub(super) struct Trace {
    pub(super) text: String,
    pub(super) counts: BTreeMap<String, u64>,
}

struct Director {
    rng: fastrand::Rng,
    world: World,
    root: Root,
    mirror: Mirror,
    cfg: config::Target,
    facts: RsyncFacts,
    target: Target,
    links: Option<Links>,
    links_job: Option<links::Job>,
    /// What a walk that takes time met at its begin; `None`: walks see one moment.
    met: Option<Vec<(RelPath, Inode, u32)>>,
    names: Names,
    names_job: Option<NamesJob>,
    statter: Statter,
    reactor: Reactor,
    held: Option<Hold>,
    gone: bool,
    apart: Arc<Apart>,
    barrier: bool,
    /// Events that were raised and not read yet; `None`: each is read at once.
    late: Option<VecDeque<(Vec<u8>, Seen)>>,
    now: Duration,
    wall_start: i64,
    stage: Stage,
    live: BTreeMap<u32, Live>,
    flushes: Vec<Epoch>,
    watches: Vec<u64>,
    last_watch: u64,
    walking: bool,
    fresh: u32,
    last_state: String,
    /// Most runs end well, and few commands come.
    calm: bool,
    /// A path that fails whenever a list names it.
    stubborn: Option<&'static str>,
    /// All goes well from here on.
    ending: bool,
    trace: Trace,
}

fn rel(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).expect("a relative path")
}

fn hook() -> Hook {
    let command = Command {
        prefix: "true".into(),
        suffix: String::new(),
        shell: false,
        input: HookInput::Argument,
        success: vec![0],
        ignore_error: false,
    };
    Hook { max_pending: 500, ..Hook::new("h", When::Confirmed, Action::Command(command)) }
}

/// The mirror and the target of a seed.
fn configured(rng: &mut fastrand::Rng, world: &World) -> (Mirror, config::Target, RsyncFacts) {
    let mut mirror = Mirror::new("m", &world.root);
    let mut one_in = |n: u8| rng.u8(..n) == 0;
    mirror.delete = (!one_in(8)).into();
    mirror.max_delete = match (one_in(4), one_in(6)) {
        (true, _) => Some(MaxDelete::Count(3)),
        (_, true) => Some(MaxDelete::Percent(20)),
        _ => None,
    };
    mirror.max_file_size = one_in(6).then_some(400_000);
    mirror.allow_empty = one_in(6);
    if one_in(5) {
        mirror.initial = Initial::None;
    }
    if one_in(6) {
        mirror.full_every = Some(Duration::from_secs(900));
        mirror.full_exclude = vec!["*.log".into()];
    }
    mirror.extras.hard_links = one_in(4);
    let none: &[&[u8]] = &[];
    mirror.filter = match (one_in(4), one_in(8), one_in(8)) {
        (true, ..) => Filter::new(none, &[b"*.tmp".as_slice(), b"/skip"]),
        (_, true, _) => Filter::new(&[b"*.keep".as_slice()], &[b"*.tmp".as_slice()]),
        (_, _, true) => Filter::with_regexes(none, none, &[".*[.]tmp".into()], true),
        _ => Ok(Filter::none()),
    }
    .expect("valid patterns");
    if one_in(10) {
        (mirror.events.delete, mirror.events.move_from) = (false, false);
    }
    if one_in(2) {
        mirror.hooks.push(hook());
    }
    if one_in(5) {
        mirror.batch.max_pending = 30;
    }
    let place = match (one_in(3), one_in(3)) {
        (true, _) => Location::Local("/nowhere/fansync-golden".into()),
        (_, true) => Location::parse("u@h:/t").expect("a location"),
        _ => Location::parse("rsync://h/m").expect("a location"),
    };
    let mut cfg = config::Target::new("t", place);
    cfg.jobs = rng.usize(1..3);
    cfg.small_jobs = rng.usize(1..4);
    cfg.standby = rng.usize(..3);
    let facts = RsyncFacts { version: Version(3, 5, 0), confine_root: rng.bool(), ..RsyncFacts::default() };
    (mirror, cfg, facts)
}

impl Director {
    /// A director before its first step. `adapt` changes what the seed configures.
    pub(super) fn new(seed: u64, adapt: impl FnOnce(&mut Mirror, &mut config::Target)) -> Director {
        fastrand::seed(seed ^ 0x5eed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let wall_start = 1_700_000_000;
        let world = World::new(wall_start);
        let (mut mirror, mut cfg, facts) = configured(&mut rng, &world);
        adapt(&mut mirror, &mut cfg);
        let root = Root::open(&world.root).expect("the source");
        let mut statter = Statter::new();
        statter.seen_as = Some(world.seen_as());
        let stage = Stage::begin();
        let target = Target::new(0, &mirror, &cfg, &facts);
        Director {
            rng,
            root,
            target,
            links: mirror.extras.hard_links.then(|| Links::new(100)),
            links_job: None,
            met: None,
            names: Names::default(),
            names_job: None,
            statter,
            reactor: Reactor::new(false),
            held: None,
            gone: false,
            apart: Arc::default(),
            barrier: false,
            late: None,
            now: Duration::from_secs(1),
            wall_start,
            stage,
            live: BTreeMap::new(),
            flushes: Vec::new(),
            watches: Vec::new(),
            last_watch: 0,
            walking: false,
            fresh: 0,
            last_state: String::new(),
            calm: !seed.is_multiple_of(3),
            ending: false,
            stubborn: (seed % 5 == 1).then_some("a/b/f3"),
            trace: Trace { text: String::new(), counts: BTreeMap::new() },
            world,
            mirror,
            cfg,
            facts,
        }
    }
}

/// Plays the history of a seed.
pub(super) fn play(seed: u64) -> Trace {
    let mut d = Director::new(seed, |_, _| {});
    d.begin(seed);
    for _ in 0..STEPS {
        d.step();
    }
    d.end();
    d.trace
}

impl Director {
    // ----- what is written down -----

    fn count(&mut self, what: impl Into<String>) {
        *self.trace.counts.entry(what.into()).or_default() += 1;
    }

    /// Adds a line, without what is the machine's: paths, descriptors, random names.
    fn note(&mut self, line: &str) {
        let plain = self.plain(line);
        let _ = writeln!(self.trace.text, "{:>10.3} {plain}", self.now.as_secs_f64());
    }

    fn plain(&self, line: &str) -> String {
        let line = line.replace(&*self.world.root.to_string_lossy(), "{src}");
        let line = masked(&line, "/proc/self/fd/", |c| c.is_ascii_digit());
        masked(&line, ".probe-", |c| c.is_ascii_hexdigit())
    }

    fn argv(&self, process: &crate::sync::scripted::Process) -> String {
        process.argv.iter().map(|arg| arg.as_encoded_bytes().escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
    }

    /// A list, one name between brackets each. Names in a probe have the order of a directory.
    fn list(&self, list: &[u8], probe: bool) -> String {
        let mut names: Vec<&[u8]> = list.split(|&b| b == 0).filter(|name| !name.is_empty()).collect();
        if probe {
            names.sort_unstable();
        }
        names.into_iter().map(|name| format!("[{}]", name.escape_ascii())).collect()
    }

    fn flight(&self, pid: u32) -> Option<(u32, &InFlightRun)> {
        self.target.runs.iter().find(|(_, run)| run.process.rsync.pid() == NO_PID + pid)
    }

    fn task(&self, pid: u32) -> Option<(u32, Task)> {
        let (serial, run) = self.flight(pid)?;
        let task = match run.kind {
            RunKind::Probe | RunKind::Role => Task::Probe,
            RunKind::Standby => Task::Standby,
            RunKind::Batch(_) => Task::Batch,
        };
        Some((serial, task))
    }

    /// Of which kind a launch is, for the counts.
    fn kind(&self, pid: u32) -> String {
        let Some((_, run)) = self.flight(pid) else { return "gone at once".into() };
        let InFlightRun { process, kind } = run;
        let Carried { purpose, how, .. } = match kind {
            RunKind::Probe => return "probe".into(),
            RunKind::Role => return "role".into(),
            RunKind::Standby => return "standby".into(),
            RunKind::Batch(carried) => &**carried,
        };
        let what = format!("{:?}", process.pass).replace("Full { progress: true }", "Full");
        let how = match purpose {
            Purpose::DryRun(DryRun::Entries) => ", counting entries",
            Purpose::DryRun(DryRun::Proof(_)) => ", proof",
            Purpose::DryRun(DryRun::Deletes { .. }) => ", dry",
            _ if purpose.keeps_all() => ", without deletions",
            Purpose::Survey { .. } => ", survey",
            Purpose::SecondHalf { .. } => ", surveyed",
            _ if purpose.below().is_some() => ", below",
            _ if process.lane == Lane::Large => ", large",
            _ if purpose.extra() == Extra::Stays => ", spares",
            _ if purpose.extra() == Extra::Counted => ", counts",
            _ if how.limited => ", limited",
            _ => "",
        };
        what + how
    }

    /// What has become of processes since the last call.
    fn observe(&mut self) {
        for (pid, played) in self.stage.begun() {
            let kind = self.kind(pid);
            self.count(format!("launch: {kind}"));
            let line = {
                let process = played.lock();
                let list = process.list.as_deref().map(|list| self.list(list, kind == "probe")).unwrap_or_default();
                format!("launch #{pid} {kind}: {} {list}", self.argv(&process))
            };
            self.note(&line);
            let mood = match self.rng.u8(..24) {
                0 => Mood::Silent,
                1 => Mood::Idle,
                _ => Mood::Goes,
            };
            let waited = played.lock().waits;
            self.live.insert(pid, Live { played, mood, signals: 0, waited });
        }
        let mut lines = Vec::new();
        for (pid, live) in &mut self.live {
            let process = live.played.lock();
            if live.waited && !process.waits {
                live.waited = false;
                let list: String = process
                    .list
                    .iter()
                    .flat_map(|l| l.split(|&b| b == 0))
                    .filter(|n| !n.is_empty())
                    .map(|n| format!("[{}]", n.escape_ascii()))
                    .collect();
                lines.push(("launch: stood by", format!("feed #{pid} {list}")));
            }
            for signal in &process.signals[live.signals..] {
                lines.push(("signal", format!("signal #{pid} {signal}")));
            }
            live.signals = process.signals.len();
            if process.dropped {
                lines.push(("dropped", format!("dropped #{pid}")));
            }
        }
        self.live.retain(|_, live| !live.played.lock().dropped);
        for (what, line) in lines {
            self.count(what);
            self.note(&line);
        }
    }

    fn state(&mut self) {
        let held = self.held.as_ref().map(|hold| hold.words("{src}"));
        let s = self.target.status(self.now, held.as_deref(), None);
        let t = &self.target;
        let line = format!(
            "state {} [{}] [{}] pending {} in flight {} unconfirmed {} {}{}{}{}{} held {} failing {} batches {} tries {}",
            s.state,
            s.reason,
            s.held_reason,
            s.pending,
            s.in_flight,
            t.unconfirmed(),
            if t.in_sync() { "in sync " } else { "" },
            if t.stuck() { "stuck " } else { "" },
            if t.at_rest() { "at rest " } else { "" },
            if t.in_doubt() { "in doubt " } else { "" },
            if t.only_failures() { "only failures" } else { "" },
            s.held_deletes,
            s.failures.iter().map(|f| format!("{} ({}, {})", f.path, f.tries, f.reason)).collect::<Vec<_>>().join("; "),
            s.batches,
            s.tries,
        );
        if line != self.last_state {
            self.count(format!("state: {}", s.state));
            self.note(&line);
            self.last_state = line;
        }
    }

    // ----- one call, and one turn of the engine -----

    fn call<R>(&mut self, work: impl FnOnce(&mut Target, &mut Context<'_>) -> R) -> R {
        let held_before = self.held.is_some();
        let gone = self.gone;
        let check = move || if gone { Err(Hold::Gone("the source is gone".into())) } else { Ok(()) };
        let places = || vec![RelPath::root()];
        let mut cx = Context {
            now: self.now,
            wall_start: self.wall_start,
            stamp: self.world.stamp(),
            root: &self.root,
            check: &check,
            places: &places,
            filter: &self.mirror.filter,
            statter: &mut self.statter,
            links: self.links.as_mut(),
            names: &mut self.names,
            meet: &mut |_| {},
            reactor: &mut self.reactor,
            held: &mut self.held,
        };
        self.target.keep_apart(&mut cx, &self.apart);
        let done = work(&mut self.target, &mut cx);
        let confirmed = self.target.take_confirmations();
        self.observe();
        if !held_before && let Some(hold) = &self.held {
            let line = format!("hold {hold:?}");
            let kind = line.split([' ', '(', '{']).take(2).collect::<Vec<_>>().join(" ");
            self.count(kind);
            self.note(&line);
        }
        if let Some((confirmations, settled)) = confirmed {
            for t in confirmations {
                self.count(format!("confirmed: {:?}", t.change));
                self.note(&format!(
                    "confirmed {} {:?}{} by batch {}",
                    t.path,
                    t.change,
                    if t.dir { " dir" } else { "" },
                    t.batch
                ));
            }
            let settled: Vec<String> = settled.iter().map(ToString::to_string).collect();
            self.note(&format!("settled {}", settled.join(" ")));
        }
        done
    }

    fn turn(&mut self) {
        if self.late.is_some() {
            // What was raised before a barrier began is read before it ends.
            let most = if self.barrier || self.ending { usize::MAX } else { self.rng.usize(..6) };
            self.read_late(most);
        }
        self.call(|target, cx| target.tick(cx));
        self.follow();
        self.call(|target, cx| target.dispatch(cx));
        if self.barrier {
            self.barrier = false;
            self.target.end_barrier();
        } else if self.target.wants_barrier() {
            self.barrier = true;
            self.target.begin_barrier();
        }
        let done: Vec<Epoch> = self.flushes.iter().copied().filter(|epoch| self.target.flushed(*epoch)).collect();
        for epoch in done {
            self.flushes.retain(|e| *e != epoch);
            self.target.end_flush(epoch);
            self.count("flushed");
            self.note("flushed");
        }
        self.state();
    }

    /// What the engine's walks over the source find. Each ends in the turn after the one it began
    /// in.
    fn follow(&mut self) {
        let walks = self.links_job.is_some() || self.names_job.is_some();
        if self.met.is_some() && walks && self.rng.bool() {
            return; // it is not through
        }
        let mut all = if walks { self.world.linked() } else { Vec::new() };
        if let Some(met) = self.met.take() {
            // What came or went meanwhile was met or not.
            let now: HashSet<RelPath> = all.iter().map(|(name, ..)| name.clone()).collect();
            let gone: Vec<_> = met.iter().filter(|(name, ..)| !now.contains(name)).cloned().collect();
            let before: HashSet<&RelPath> = met.iter().map(|(name, ..)| name).collect();
            all.retain(|(name, ..)| before.contains(name) || self.rng.bool());
            all.extend(gone.into_iter().filter(|_| self.rng.bool()));
            self.met = Some(Vec::new());
        }
        let took = Duration::from_millis(5);
        if let (Some(links), Some(job)) = (&mut self.links, self.links_job.take()) {
            let covered = |name: &RelPath| job.scopes.iter().any(|(dir, deep)| links::covers(dir, *deep, name));
            let names: Vec<_> = all.iter().filter(|(name, ..)| job.whole || covered(name)).cloned().collect();
            let what = |name: &RelPath| self.world.names.get(&*String::from_utf8_lossy(name));
            let is_special = |name: &RelPath| matches!(what(name), Some(What::Link | What::Fifo));
            let special: Vec<_> =
                names.iter().filter(|(name, ..)| is_special(name)).map(|(name, inode, _)| (name.clone(), *inode)).collect();
            let again = links.end(self.now, links::Found { job, names, special: Vec::new(), took });
            self.target.links_found(links, self.now, &again, &special);
            self.count("walk for links");
            let again: Vec<String> = again.iter().map(ToString::to_string).collect();
            self.note(&format!("links found, again {}", again.join(" ")));
        }
        if let Some(links) = &mut self.links {
            self.links_job = links.begin(self.now);
            if self.met.is_some() && self.links_job.is_some() {
                self.met = Some(self.world.linked());
            }
        }
        if let Some(job) = self.names_job.take() {
            let scope = |name: &RelPath| job.scopes.iter().any(|(dir, scope)| links::covers(dir, scope.deep, name));
            let scoped: HashSet<Inode> = all.iter().filter(|(name, ..)| scope(name)).map(|(_, inode, _)| *inode).collect();
            let wanted = |inode: &Inode| job.sought.contains(inode) || scoped.contains(inode);
            let names: Vec<_> = all.iter().filter(|(_, inode, _)| wanted(inode)).cloned().collect();
            let ended = self.names.end(self.now, NamesFound { names, scoped, took });
            self.target.names_found(self.now, &ended);
            self.count("walk for names");
            self.note("names found");
        }
        self.names_job = self.names.begin(self.now);
        if self.met.is_some() && self.names_job.is_some() {
            self.met = Some(self.world.linked());
        }
    }

    // ----- what happens -----

    fn begin(&mut self, seed: u64) {
        let m = &self.mirror;
        let line = format!(
            "seed {seed}: {} delete {} max_delete {:?} size {:?} empty {} initial {:?} every {:?} links {} filter {:?} hooks {} pending {} jobs {} {} {}",
            self.cfg.location,
            m.delete.ever(),
            m.max_delete,
            m.max_file_size,
            m.allow_empty,
            m.initial,
            m.full_every,
            m.extras.hard_links,
            m.filter.rsync_args(),
            m.hooks.len(),
            m.batch.max_pending,
            self.cfg.jobs,
            self.cfg.small_jobs,
            self.cfg.standby,
        );
        self.note(&line);
        for name in ["a", "a/b", "d", "long"] {
            self.world.mkdir(name);
        }
        for at in 0..8 {
            self.world.write(&format!("f{at}"), 10 + at * 100_000);
            self.world.write(&format!("a/b/f{at}"), 20 + at);
        }
        self.world.write("d/x.tmp", 1);
        self.world.write("d/y.keep", 1);
        if self.rng.u8(..3) > 0 {
            self.see("", Seen::Subtree);
        }
        self.turn();
    }

    fn see(&mut self, path: &str, seen: Seen) {
        self.see_bytes(path.as_bytes(), seen);
    }

    fn see_bytes(&mut self, path: &[u8], seen: Seen) {
        match &mut self.late {
            Some(late) => late.push_back((path.to_vec(), seen)),
            None => self.read(path, seen),
        }
    }

    /// Reads so many of the events that come late. Both halves of a rename are read together.
    fn read_late(&mut self, most: usize) {
        let mut left = most;
        while let Some((path, seen)) = self.late.as_mut().filter(|_| left > 0).and_then(VecDeque::pop_front) {
            self.read(&path, seen);
            left -= usize::from(!matches!(seen, Seen::Left | Seen::LeftDir));
        }
    }

    fn read(&mut self, path: &[u8], seen: Seen) {
        self.note(&format!("event {seen:?} {}", path.escape_ascii()));
        self.target.see(self.now, path, seen);
        // As the engine does, once for each event of a directory: both halves of a rename are one.
        if self.late.is_some() && matches!(seen, Seen::GoneDir | Seen::ArrivedDir) {
            self.target.seek_strayed(&mut self.names, self.wall_start);
        }
    }

    fn step(&mut self) {
        let (changes, ends, times, asks) = if self.calm { (26, 68, 94, 98) } else { (44, 66, 88, 92) };
        match self.rng.u8(..100) {
            at if at < changes => self.change(),
            at if at < ends => {
                let well = self.calm && self.rng.u8(..6) > 0;
                self.end_a_run(well);
            }
            at if at < times => self.pass_time(),
            at if at < asks => self.ask(),
            _ => self.command(),
        }
        self.turn();
    }

    fn pass_time(&mut self) {
        let next = self.target.next_due();
        let by = match self.rng.u8(..10) {
            0 => Duration::from_millis(1),
            1 => Duration::from_millis(40),
            2 => Duration::from_secs(3),
            3 => Duration::from_secs(100),
            4 if self.rng.u8(..4) == 0 => Duration::from_secs(4000),
            _ => next.map_or(Duration::from_millis(300), |next| next.saturating_sub(self.now)),
        };
        self.now += by.max(Duration::from_micros(100));
        let secs = by.as_secs().max(1);
        let pids: Vec<u32> = self.live.keys().copied().collect();
        for pid in pids {
            if self.rng.u8(..30) == 0 {
                self.trouble(pid);
            }
            let live = &self.live[&pid];
            let mut process = live.played.lock();
            match live.mood {
                Mood::Goes => {
                    process.work.read += 100_000 * secs;
                    process.work.ticks += 10 * secs;
                }
                Mood::Idle => process.work.read += 4 * secs,
                Mood::Silent => {}
            }
        }
    }

    /// A process comes to stand at something.
    fn trouble(&mut self, pid: u32) {
        let (kind, file) = (self.rng.u8(..4), self.name(|what| what == What::File));
        let inode = file.as_deref().map_or(0, |name| self.world.real_inode(name));
        let path = self.world.path(file.as_deref().unwrap_or("gone"));
        let played = self.live[&pid].played.clone();
        let mut process = played.lock();
        let open = |size, links| OpenFile { path: path.clone(), inode, size, blocks: 0, links };
        match kind {
            0 => process.waits_on = Some(WaitsOn::Fifo),
            1 => process.waits_on = Some(WaitsOn::Lease),
            2 => process.open_file = Some(open(lanes::LARGE_FILE, 1)),
            _ => process.open_file = Some(open(10, 0)),
        }
        drop(process);
        self.note(&format!("#{pid} stands at something: {kind}"));
    }

    /// One of the runs ends. Standbys rarely do; what was requested to end does.
    fn end_a_run(&mut self, well: bool) {
        let mut pids: Vec<(u32, u32, Task)> = Vec::new();
        for pid in self.live.keys().copied() {
            if let Some((serial, task)) = self.task(pid)
                && (task != Task::Standby || !well && self.rng.u8(..12) == 0)
            {
                pids.push((pid, serial, task));
            }
        }
        if pids.is_empty() {
            return;
        }
        let (pid, serial, task) = pids[self.rng.usize(..pids.len())];
        let played = self.live[&pid].played.clone();
        let asked = !played.lock().signals.is_empty();
        let well = well || task == Task::Probe && self.rng.u8(..3) > 0;
        let mut answer = answers::answer(&mut self.rng, &self.world, &played.lock(), task, well);
        let stubborn =
            self.stubborn.filter(|path| !self.ending && answers::listed(&played.lock()).iter().any(|(name, _)| name == path));
        if let Some(path) = stubborn {
            answer.stderr =
                format!("rsync: [generator] failed to set times on \"{path}\": Operation not permitted (1)\n").into_bytes();
            (answer.name, answer.exit) = ("the stubborn path failed", Exit::Code(23));
        }
        if asked && self.rng.u8(..4) > 0 {
            (answer.name, answer.exit) = ("as asked", Exit::Signal(15));
        }
        let escaped = |text: &[u8]| text.escape_ascii().to_string();
        self.note(&format!(
            "end #{pid} {}: {:?} [{}] [{}]",
            answer.name,
            answer.exit,
            escaped(&answer.stdout),
            escaped(&answer.stderr)
        ));
        self.count(format!("end: {}", answer.name));
        let early = if self.rng.u8(..4) == 0 { answer.stdout.len() / 2 } else { 0 };
        if early > 0 {
            played.lock().unread[0].extend(answer.stdout.drain(..early));
            self.call(|target, cx| target.on_ready(cx, token(0, serial, STDOUT)));
            self.turn();
        }
        if self.flight(pid).is_none() {
            return;
        }
        {
            let mut process = played.lock();
            process.unread[0].extend(answer.stdout);
            process.unread[1].extend(answer.stderr);
            process.exit = Some(answer.exit);
        }
        self.call(|target, cx| target.on_ready(cx, token(0, serial, EXIT)));
    }

    /// Everything that hinders is taken away, and all runs end well.
    fn end(&mut self) {
        self.note("from here on all goes well");
        self.ending = true;
        self.release();
        self.apart = Arc::default();
        self.call(|target, cx| target.resume(cx));
        for at in 0..LAST_TURNS {
            self.turn();
            if self.target.in_sync() {
                break;
            }
            if at % 10 == 9 {
                self.release();
                let n = self.call(|target, cx| target.accept_deletes(cx));
                self.note(&format!("accept deletes: {n}"));
            }
            self.end_a_run(true);
            let next = self.target.next_due();
            self.now = next.map_or(self.now, |next| next.max(self.now)) + Duration::from_millis(1);
        }
        self.turn();
        self.count(if self.target.in_sync() { "in sync at the end" } else { "not in sync at the end" });
        let mut stats = self.target.status(self.now, None, None);
        (stats.last_success_unix, stats.failures, stats.pending_paths) = (0.0, Vec::new(), Vec::new());
        stats.latency = Default::default();
        for (class, n) in stats.bad_runs.clone() {
            *self.trace.counts.entry(format!("verdict: {class}")).or_default() += n;
        }
        let line = serde_json::to_string(&stats).expect("a status has a form");
        self.note(&line);
    }
}

/// `line` with what follows each `start` as long as `part` holds taken out.
fn masked(line: &str, start: &str, part: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(start) {
        let end = at + start.len();
        out.push_str(&rest[..end]);
        out.push('*');
        rest = rest[end..].trim_start_matches(&part);
    }
    out.push_str(rest);
    out
}
