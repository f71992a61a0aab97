//! Notifies receivers of changes: `[[mirror.hook]]`, after a batch is confirmed, or as events come.
//!
//! Promises: no hook ever holds up a sync. Each has a queue and threads of its own; the engine only
//! puts changes into the queue. A change that was confirmed is delivered at least once, or it is
//! counted: as *failed* (the receiver refused it for good, or it failed by itself too often) or as
//! *dropped* (the queue was full). What waits at an orderly stop is saved and delivered by the next
//! daemon.
//!
//! How it works. [`Hooks`] lives on the engine's thread and decides what each hook gets: a change
//! that is confirmed on the hook's target, or on all of them; an event. A [`queue`] holds each path
//! once, however often it changed. Worker threads take changes in their order, never one path twice
//! at a time, read the disk where the fate of a path is not known, and deliver them. What the
//! receiver cannot take now is tried again with growing pauses and holds up what comes after it;
//! what fails by itself (a command's exit code) is put back for later, and others go on.
//!
//! Gives up: order between paths when `jobs` is more than one or a path failed; delivery exactly
//! once; and what was pending when the daemon is killed.

mod cdn;
mod command;
mod http;
mod message;
pub(crate) mod queue;
mod saved;
mod socket;
mod worker;

/// How the answer of a receiver is judged, in words that are shown: by HTTP, on a socket of a CDN,
/// or the last that a command wrote.
pub fn judged(status: u16, retry_after: &str, answer: &[u8]) -> String {
    let http = http::judge(status, answer, http::retry_after(retry_after));
    format!("{http:?} {:?} {}", cdn::status(answer), command::last_line(answer))
}

/// How many events a file of what a hook has pending holds.
pub fn pending(text: &str) -> Option<usize> {
    saved::parse(text).ok().map(|events| events.len())
}

pub(crate) use http::plain_agent;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::Mirror;
use crate::config::hook::{Change, Hook as Config, When};
use crate::dirty::Seen;
use crate::path::{self, RelPath};
use crate::status;
use crate::targets::{Confirmation, Owed, OwedQuery, Target};
use queue::{Event, Queue};
use saved::SavedFile;

/// What of a status is sent in full.
const SHOWN_FAILURES: usize = 50;

/// The hooks of one mirror.
pub(crate) struct Hooks {
    hooks: Vec<Hook>,
    /// Some hook takes events.
    on_events: bool,
    /// Some hook is notified of what is confirmed on all of several targets.
    on_all: bool,
    /// Confirmed on some target and not yet on all.
    waiting: BTreeMap<RelPath, Waiting>,
    max_waiting: usize,
    create_hold: Duration,
    names: Vec<Arc<str>>,
    /// Distinguishes the batches of this daemon from those of others.
    run: u64,
}

/// A change that some target lacks.
struct Waiting {
    /// As the last target reported it.
    confirmation: Confirmation,
    /// Which have, and whether it was a deletion there.
    by: BTreeMap<usize, bool>,
}

impl Waiting {
    fn is_deletion(&self) -> bool {
        self.confirmation.change == Some(Change::Deleted)
    }

    /// The query to a target.
    fn of(&self, at: usize) -> OwedQuery {
        match self.confirmation.change {
            Some(Change::Subtree) => OwedQuery::All,
            _ if self.by.get(&at) == Some(&self.is_deletion()) => OwedQuery::Reported,
            _ => OwedQuery::Unreported,
        }
    }
}

struct Hook {
    config: Arc<Config>,
    queue: Arc<Queue>,
    saved: SavedFile,
    /// The only target that counts.
    target: Option<usize>,
}

impl Hooks {
    /// Starts the threads of every hook, and takes up what the last daemon saved.
    ///
    /// `root`: the canonical source.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(crate) fn start(mirror: &Mirror, root: &Path, state_dir: &Path) -> io::Result<Hooks> {
        let mut hooks = Vec::new();
        for config in &mirror.hooks {
            let config = Arc::new(config.clone());
            let queue = Arc::new(Queue::new(mirror.name.clone(), Arc::clone(&config)));
            let saved = SavedFile::new(state_dir, &mirror.name, &config.name);
            match saved.load() {
                Ok(events) => {
                    if !events.is_empty() {
                        tracing::info!(mirror = %mirror.name, hook = %config.name, changes = events.len(), "taking up what the hook had pending at the last stop");
                    }
                    queue.take_up(events, saved.clone());
                }
                Err(error) => {
                    tracing::error!(mirror = %mirror.name, hook = %config.name, "{error}; what the hook had pending is not delivered")
                }
            }
            let place = worker::Place { mirror: mirror.name.clone(), root: root.as_os_str().as_bytes().to_vec() };
            for _ in 0..config.jobs {
                worker::spawn(Arc::clone(&queue), Arc::clone(&config), place.clone())?;
            }
            let target = config.target.as_ref().and_then(|name| mirror.targets.iter().position(|t| t.name == *name));
            hooks.push(Hook { config, queue, saved, target });
        }
        let several = mirror.targets.len() > 1;
        Ok(Hooks {
            on_events: mirror.hooks.iter().any(|h| h.when == When::Event),
            on_all: several && mirror.hooks.iter().any(|h| h.when == When::Confirmed && h.target.is_none()),
            waiting: BTreeMap::new(),
            max_waiting: mirror.hooks.iter().map(|h| h.max_pending).max().unwrap_or_default(),
            create_hold: mirror.batch.create_hold,
            names: mirror.targets.iter().map(|t| Arc::from(&*t.name)).collect(),
            run: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            hooks,
        })
    }

    /// Publishes an event. Costs nothing where no hook takes them.
    #[inline]
    pub(crate) fn seen(&mut self, path: &[u8], seen: Seen) {
        if self.on_events {
            self.event_seen(path, seen);
        }
    }

    fn event_seen(&self, path: &[u8], seen: Seen) {
        let (change, dir) = match seen {
            Seen::Written | Seen::Replaced | Seen::Arrived | Seen::Modified | Seen::Created => (Some(Change::Changed), false),
            Seen::Touched | Seen::DirTimes => (None, false),
            Seen::Gone | Seen::Left => (Some(Change::Deleted), false),
            Seen::GoneDir | Seen::LeftDir => (Some(Change::Deleted), true),
            Seen::CreatedDir => (Some(Change::Directory), true),
            // What came along has no events of its own.
            Seen::MovedDir | Seen::ArrivedDir | Seen::Contents | Seen::Subtree => (Some(Change::Subtree), true),
        };
        // A file is reported when it is closed.
        let hold = if seen == Seen::Created { self.create_hold } else { Duration::ZERO };
        for hook in self.hooks.iter().filter(|h| h.config.when == When::Event) {
            hook.queue.push(Event::new(RelPath::from_normal(path), change, dir, None, String::new()), hold);
        }
    }

    /// Reports what target `at` holds now. `settled`: every path that was confirmed there, reported
    /// or not.
    pub(crate) fn confirmed(&mut self, at: usize, confirmations: Vec<Confirmation>, settled: &[RelPath], targets: &[Target]) {
        for hook in self.hooks.iter().filter(|h| h.config.when == When::Confirmed) {
            if hook.target == Some(at) || (hook.target.is_none() && targets.len() == 1) {
                confirmations.iter().for_each(|t| hook.queue.push(self.event(at, t), Duration::ZERO));
            }
        }
        if self.on_all {
            self.confirmed_by_one(at, confirmations, settled, targets);
        }
    }

    /// Whether changes wait for a target that lacks them.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Every target holds everything.
    pub(crate) fn all_in_sync(&mut self) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            self.report_to_all(&waiting.confirmation);
        }
    }

    /// What no target lacks any more is reported; the rest waits for the last one that does.
    fn confirmed_by_one(&mut self, at: usize, confirmations: Vec<Confirmation>, settled: &[RelPath], targets: &[Target]) {
        let mut candidates: Vec<(RelPath, bool)> = Vec::new();
        for settled in settled {
            let below = self.waiting.range(settled.clone()..).map(|(path, _)| path);
            candidates.extend(
                below
                    .take_while(|p| p.starts_with(settled))
                    .filter(|p| path::is_at_or_below(p, settled))
                    .map(|p| (p.clone(), false)),
            );
        }
        for confirmation in confirmations {
            candidates.push((confirmation.path.clone(), true));
            let mut by = self.waiting.remove(&confirmation.path).map(|waiting| waiting.by).unwrap_or_default();
            by.insert(at, confirmation.change == Some(Change::Deleted));
            self.waiting.insert(confirmation.path.clone(), Waiting { confirmation, by });
        }
        let owed: Vec<Owed<'_>> = targets.iter().filter(|_| !candidates.is_empty()).map(Target::owed).collect();
        for (path, new) in candidates {
            let Some(waiting) = self.waiting.get(&path) else { continue };
            // What this target took a moment ago may be dirty there again already, and will then be
            // reported again.
            let lacks = owed.iter().enumerate().any(|(i, owed)| (i != at || !new) && owed.covers(&path, waiting.of(i)));
            if !lacks && let Some(waiting) = self.waiting.remove(&path) {
                self.report_to_all(&waiting.confirmation);
            }
        }
        if self.waiting.len() > self.max_waiting {
            tracing::warn!(
                changes = self.waiting.len(),
                "a target lacks more changes than hooks keep waiting for it; they get a `subtree` of everything once it has them"
            );
            let batch = self.waiting.values().next().map_or((0, 0), |w| (w.confirmation.target, w.confirmation.batch));
            self.waiting.clear();
            let all =
                Confirmation { path: RelPath::root(), change: Some(Change::Subtree), dir: true, target: batch.0, batch: batch.1 };
            self.waiting.insert(RelPath::root(), Waiting { confirmation: all, by: BTreeMap::new() });
        }
    }

    fn report_to_all(&self, confirmation: &Confirmation) {
        for hook in self.hooks.iter().filter(|h| h.config.when == When::Confirmed && h.target.is_none()) {
            hook.queue.push(self.event(confirmation.target, confirmation), Duration::ZERO);
        }
    }

    fn event(&self, at: usize, confirmation: &Confirmation) -> Event {
        let batch = format!("{}-{}-{}", self.run, at, confirmation.batch);
        Event::new(confirmation.path.clone(), confirmation.change, confirmation.dir, self.names.get(at).cloned(), batch)
    }

    /// The current numbers.
    pub(crate) fn status(&self) -> Vec<status::Hook> {
        let waiting =
            |hook: &Hook| if hook.config.when == When::Confirmed && hook.target.is_none() { self.waiting.len() } else { 0 };
        self.hooks.iter().map(|hook| hook.queue.status(waiting(hook) as u64, SHOWN_FAILURES)).collect()
    }

    /// Delivers what is queued, until `deadline` at most, and saves the rest. Returns how many
    /// changes were not delivered.
    pub(crate) fn stop(&mut self, deadline: Instant) -> usize {
        // No hook is notified of these otherwise; that a target lacks them is the mirror's matter.
        self.all_in_sync();
        self.hooks.iter().for_each(|hook| hook.queue.begin_stop());
        let mut left = 0;
        for hook in &self.hooks {
            let events = hook.queue.finish(deadline);
            left += events.len();
            let name = &hook.config.name;
            match hook.saved.save(&events) {
                Ok(()) if events.is_empty() => {}
                Ok(()) => {
                    tracing::warn!(hook = %name, changes = events.len(), "the hook could not be notified of everything; the next start goes on with it")
                }
                Err(error) => {
                    tracing::error!(hook = %name, changes = events.len(), "{error}; the hook is never notified of them")
                }
            }
        }
        left
    }
}
