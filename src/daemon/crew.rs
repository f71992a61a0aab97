//! The engines on their threads: begun, replaced by ones with another configuration, ended.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use super::barriers::{self, Barriers};
use super::{Error, MissingSource, Wish};
use crate::backups::{self, Pruning};
use crate::budget::Budget;
use crate::config::{Daemon, Mirror};
use crate::engine::{Again, Ended, Engine, Stage, StartError};
use crate::engine::{Command, Engines, Handle, Replacement};
use crate::error::chain;
#[cfg(feature = "feed")]
use crate::follow::{self, Follower};
use crate::sync::argv;
use crate::sync::probe::{OLDEST_OF_FEEDS, ProbeError, RsyncFacts};
use crate::verify::background::{self, Verifying};
use crate::verify::moving::{self, Moving};

/// One mirror as it runs.
struct Member {
    mirror: Mirror,
    facts: RsyncFacts,
    handle: Handle,
    /// How many changes are not on some target; `None`: the source could not be opened anew.
    thread: JoinHandle<Ending>,
    verifying: Verifying,
    /// Removes old backups.
    pruning: Pruning,
    /// Removes files from the source that every target has.
    moving: Moving,
    /// Answers followers of its feeds.
    barriers: Barriers,
    /// It was ordered to end for good while the others go on.
    leaving: bool,
}

/// See the module's text.
pub(super) struct Crew {
    members: Vec<Member>,
    engines: Engines,
    wish: mpsc::Sender<Wish>,
    env: Vec<(OsString, OsString)>,
    state_dir: PathBuf,
    /// What the targets of all mirrors share.
    budget: Budget,
    keep: bool,
}

/// How the engines of a mirror ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// As requested, with so many changes that are not on some target.
    Stopped(usize),
    /// While the source was missing.
    Waited,
    /// The source could not be opened anew.
    Lost,
}

/// How all of them ended.
#[derive(Default)]
pub(super) struct Left {
    /// Changes that are not on some target.
    pub(super) changes: usize,
    /// Mirrors whose source was missing.
    pub(super) waiting: usize,
    /// By a bug.
    pub(super) died: bool,
    /// A source could not be opened anew.
    pub(super) lost: bool,
}

/// Reports that an engine has ended, by a panic too.
struct Farewell {
    wish: mpsc::Sender<Wish>,
    engines: Engines,
    mirror: String,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.engines.remove(&self.mirror);
        let _ = self.wish.send(Wish::EngineEnded(std::mem::take(&mut self.mirror)));
    }
}

impl Crew {
    pub(super) fn new(engines: Engines, wish: mpsc::Sender<Wish>, daemon: &Daemon, keep: bool) -> Crew {
        let env = argv::environment(std::env::vars_os());
        let (state_dir, budget) = (daemon.state_dir.clone(), engines.budget());
        budget.set(daemon.bounds());
        Crew { members: Vec::new(), engines, wish, env, state_dir, budget, keep }
    }

    /// Other bounds for all mirrors.
    pub(super) fn limit(&self, daemon: &Daemon) {
        self.budget.set(daemon.bounds());
    }

    /// What the rsync of a mirror can do: asked, or known from one that runs.
    pub(super) fn facts(&self, mirror: &Mirror) -> Result<RsyncFacts, ProbeError> {
        // Hooks alone need no rsync.
        if mirror.targets.is_empty() {
            return Ok(RsyncFacts::default());
        }
        let same = |m: &&Member| !m.mirror.targets.is_empty() && m.mirror.rsync == mirror.rsync;
        let facts = match self.members.iter().find(same) {
            Some(member) => member.facts.clone(),
            None => RsyncFacts::probe(&mirror.rsync, &self.env)?,
        };
        let feeds = mirror.follow.is_some() || mirror.targets.iter().any(|target| target.location.is_feed());
        if feeds && facts.version < OLDEST_OF_FEEDS {
            return Err(ProbeError::TooOldForFeeds { rsync: mirror.rsync.clone(), found: facts.version });
        }
        if let Some(text) = facts.unconfined() {
            if mirror.require_confined {
                let (mirror, rsync) = (mirror.name.clone(), mirror.rsync.clone());
                return Err(ProbeError::Unconfined { mirror, rsync, found: facts.version });
            }
            tracing::warn!(mirror = %mirror.name, "{text}");
        }
        tracing::debug!(rsync = %mirror.rsync.display(), version = %facts.version, confine_root = facts.confine_root, "rsync");
        Ok(facts)
    }

    /// Opens an engine: from here on every change raises an event.
    pub(super) fn open(&self, mirror: &Mirror, facts: &RsyncFacts, missing: MissingSource) -> Result<(Part, Handle), StartError> {
        if let Some(follower) = self.follower(mirror) {
            return follower;
        }
        let (again, handle) = Engine::prepare(mirror, facts, &self.state_dir, self.keep, &self.budget)?;
        let stage = match missing {
            MissingSource::IsAwaited => Stage::open(again)?,
            MissingSource::Fails => Stage::Runs(Box::new(Engine::open(again)?)),
        };
        Ok((Part::Engine(stage), handle))
    }

    /// A follower, where the mirror is one.
    #[cfg(feature = "feed")]
    fn follower(&self, mirror: &Mirror) -> Option<Result<(Part, Handle), StartError>> {
        mirror.follow.as_ref()?;
        let made = Follower::prepare(mirror, &self.state_dir, self.keep);
        let made = made.map(|(follower, handle)| (Part::Follower(Box::new(follower)), handle));
        Some(made.map_err(|source| StartError::Setup { mirror: mirror.name.clone(), what: "cannot make an eventfd", source }))
    }

    /// The configuration has none.
    #[cfg(not(feature = "feed"))]
    fn follower(&self, _: &Mirror) -> Option<Result<(Part, Handle), StartError>> {
        None
    }

    /// Lets an opened engine run.
    pub(super) fn run(&mut self, mirror: Mirror, facts: RsyncFacts, part: Part, handle: Handle) -> Result<(), Error> {
        self.engines.put(handle.clone());
        self.spawn(mirror, facts, handle, move |wish| run_on(part, wish))
    }

    /// Opens and runs an engine while the others run; [`Wish::Begun`] has the result.
    pub(super) fn add(&mut self, mirror: Mirror, facts: RsyncFacts) -> Result<(), Error> {
        if let Some(follower) = self.follower(&mirror) {
            let (part, handle) = follower?;
            let (engines, listed, name) = (self.engines.clone(), handle.clone(), mirror.name.clone());
            return self.spawn(mirror, facts, handle, move |wish| {
                engines.put(listed);
                let _ = wish.send(Wish::Begun { mirror: name, result: Ok(()) });
                run_on(part, wish)
            });
        }
        let (again, handle) = Engine::prepare(&mirror, &facts, &self.state_dir, self.keep, &self.budget)?;
        let (engines, listed) = (self.engines.clone(), handle.clone());
        self.spawn(mirror, facts, handle, move |wish| {
            let mirror = listed.mirror.clone();
            match Stage::open(again) {
                Ok(stage) => {
                    engines.put(listed);
                    let _ = wish.send(Wish::Begun { mirror, result: Ok(()) });
                    run_on(Part::Engine(stage), wish)
                }
                Err(error) => {
                    let _ = wish.send(Wish::Begun { mirror, result: Err(chain(&error)) });
                    Ending::Stopped(0)
                }
            }
        })
    }

    fn spawn(
        &mut self,
        mirror: Mirror,
        facts: RsyncFacts,
        handle: Handle,
        body: impl FnOnce(&mpsc::Sender<Wish>) -> Ending + Send + 'static,
    ) -> Result<(), Error> {
        let farewell = Farewell { wish: self.wish.clone(), engines: self.engines.clone(), mirror: mirror.name.clone() };
        let thread = std::thread::Builder::new()
            .name(format!("fansync-{}", mirror.name))
            .spawn(move || {
                let farewell = farewell;
                body(&farewell.wish)
            })
            .map_err(|source| Error::Setup { what: "an engine thread", source })?;
        let (verifying, pruning) = (background::start(&mirror, &handle), backups::start(&mirror));
        let (moving, barriers) = (moving::start(&mirror, &handle), barriers::start(&mirror, &handle));
        self.members.push(Member { mirror, facts, handle, thread, verifying, pruning, moving, barriers, leaving: false });
        Ok(())
    }

    fn member(&mut self, mirror: &str) -> Option<&mut Member> {
        self.members.iter_mut().find(|m| m.mirror.name == mirror)
    }

    /// The mirrors that run, as they are configured.
    pub(super) fn mirrors(&self) -> impl Iterator<Item = &Mirror> {
        self.members.iter().map(|m| &m.mirror)
    }

    /// Ends the engine of a mirror and begins one with another configuration in its place, on the
    /// same channel; [`Wish::Begun`] has the result. What is in flight is given time until
    /// `deadline`.
    pub(super) fn replace(&mut self, mirror: &Mirror, facts: RsyncFacts, deadline: Instant) {
        if let Some(member) = self.member(&mirror.name) {
            member.handle.send(Command::Replace(Box::new(Replacement { mirror: mirror.clone(), facts, deadline })));
        }
    }

    /// A replacement runs.
    pub(super) fn replaced(&mut self, mirror: Mirror, facts: RsyncFacts) {
        let engines = self.engines.clone();
        if let Some(member) = self.member(&mirror.name) {
            member.handle.targets = mirror.targets.iter().map(|t| t.name.clone()).collect();
            engines.put(member.handle.clone());
            member.verifying = background::start(&mirror, &member.handle);
            member.pruning = backups::start(&mirror);
            member.moving = moving::start(&mirror, &member.handle);
            member.barriers = barriers::start(&mirror, &member.handle);
            (member.mirror, member.facts) = (mirror, facts);
        }
    }

    /// Ends the engine of a mirror for good.
    pub(super) fn dismiss(&mut self, mirror: &str, deadline: Instant) {
        if let Some(member) = self.member(mirror) {
            member.leaving = true;
            (member.verifying, member.pruning, member.moving, member.barriers) = Default::default();
            member.handle.send(Command::Stop { deadline });
        }
    }

    /// Puts the list of engines into the order of these names.
    pub(super) fn sort(&self, names: &[&str]) {
        self.engines.sort(names);
    }

    /// The engine of this mirror has ended: takes it out; `false` when it was not to end.
    pub(super) fn let_go(&mut self, mirror: &str) -> bool {
        let Some(at) = self.members.iter().position(|m| m.mirror.name == mirror && m.leaving) else { return false };
        if let Ok(Ending::Stopped(left @ 1..)) = self.members.remove(at).thread.join() {
            tracing::warn!(%mirror, paths = left, "the mirror ended with changes that are not on every target");
        }
        true
    }

    /// Sends every engine the same command.
    pub(super) fn send_all(&self, command: impl Fn() -> Command) {
        self.members.iter().for_each(|m| {
            m.handle.send(command());
        });
    }

    /// The ways to those that run.
    pub(super) fn engines(&self) -> &Engines {
        &self.engines
    }

    /// Waits until all have ended.
    pub(super) fn join(self) -> Left {
        let mut out = Left::default();
        for member in self.members {
            match member.thread.join() {
                Ok(Ending::Stopped(n)) => out.changes += n,
                Ok(Ending::Waited) => out.waiting += 1,
                Ok(Ending::Lost) => out.lost = true,
                Err(_) => {
                    out.died = true;
                    let mirror = member.mirror.name;
                    tracing::error!(%mirror, "the engine ended by a bug; its last message is above. Restart fansync: it finds what is missing");
                }
            }
        }
        out
    }
}

/// What runs on a mirror's thread.
pub(super) enum Part {
    Engine(Stage),
    #[cfg(feature = "feed")]
    Follower(Box<Follower>),
}

fn run_on(part: Part, wish: &mpsc::Sender<Wish>) -> Ending {
    match part {
        Part::Engine(stage) => run_engines(stage, wish),
        #[cfg(feature = "feed")]
        Part::Follower(follower) => run_followers(follower, wish),
    }
}

/// Runs a follower, and those that take its place when its configuration is another.
#[cfg(feature = "feed")]
fn run_followers(mut follower: Box<Follower>, wish: &mpsc::Sender<Wish>) -> Ending {
    loop {
        match follower.run() {
            follow::Ended::Stopped(left) => return Ending::Stopped(left),
            follow::Ended::Again(next) => {
                let _ = wish.send(Wish::Begun { mirror: next.name().to_owned(), result: Ok(()) });
                follower = next;
            }
        }
    }
}

/// Runs an engine, and those that take its place when its source is to be opened anew, is there at
/// last, or its configuration is another.
fn run_engines(mut stage: Stage, wish: &mpsc::Sender<Wish>) -> Ending {
    loop {
        let again: Again = match stage {
            Stage::Runs(engine) => match engine.run() {
                Ended::Stopped(left) => return Ending::Stopped(left),
                Ended::Again(again) => *again,
            },
            Stage::Waits(waiting) => match waiting.wait() {
                Some(again) => again,
                None => return Ending::Waited,
            },
        };
        let (mirror, before) = (again.mirror().to_owned(), again.before());
        let reloading = before.is_some();
        let (next, result) = match (Stage::open(again), before) {
            (Ok(next), _) => (Ok(next), Ok(())),
            (Err(error), Some(before)) => (Stage::open(before), Err(chain(&error))),
            (Err(error), None) => (Err(error), Ok(())),
        };
        stage = match next {
            Ok(next) => next,
            Err(error) => {
                let error = chain(&error);
                tracing::error!("{error}; the source cannot be opened anew, so fansync ends. Start it again");
                return Ending::Lost;
            }
        };
        if reloading {
            let _ = wish.send(Wish::Begun { mirror, result });
        }
    }
}
