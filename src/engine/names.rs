//! The walks that find names of files that changed, where an event does not lead to all of them: on
//! a thread of their own, one at a time.

use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::Engine;
use crate::links::names::{Found, Job, Names};
use crate::links::{Inode, search};
use crate::targets::Target;

/// The index and its walk.
pub(super) struct Naming {
    pub(super) names: Names,
    done: (Sender<Found>, Receiver<Found>),
}

impl Naming {
    pub(super) fn new() -> Naming {
        Naming { names: Names::default(), done: bounded(1) }
    }
}

/// Seeks the names of a file that lost one, for the targets on which changes through that name were
/// pending.
pub(super) fn seek_survivor(names: &mut Names, targets: &mut [Target], now: Duration, inode: Inode) {
    for target in targets {
        target.seek_survivor(names, now, inode);
    }
}

impl Engine {
    /// Takes in a walk that has ended, and begins the next one.
    pub(super) fn follow_names(&mut self) {
        let now = self.now();
        let naming = &mut self.searches.naming;
        if let Ok(mut found) = naming.done.1.try_recv() {
            let took = found.took;
            // They count as names outside until their directory arrives.
            found.names.retain(|(name, ..)| !self.intake.gate.hides(name));
            let ended = naming.names.end(now, found);
            tracing::debug!(mirror = %self.mirror.name, ?took, files = ended.names.len(), "looked for the other names of changed files");
            self.targets.iter_mut().for_each(|target| target.names_found(now, &ended));
        }
        if let Some(job) = naming.names.begin(now)
            && let Err(error) = self.walk_for_names(job)
        {
            tracing::warn!(mirror = %self.mirror.name, %error, "cannot start a thread that looks for other names of changed files; tried again");
            self.searches.naming.names.put_off(now);
        }
    }

    fn walk_for_names(&self, job: Job) -> std::io::Result<()> {
        let done = &self.searches.naming.done.0;
        self.walk_beside("names", done, move |within, filter| search::seek_for(within, filter, &job))
    }
}
