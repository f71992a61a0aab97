//! The walks for files that changed without a path ([`crate::resolve::nameless`]): on a thread of
//! their own, one at a time.

use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::Engine;
use crate::links::names;
use crate::links::objects::{Objects, seek_objects};
use crate::links::search;
use crate::lost::{Cause, Lost};
use crate::resolve::nameless::Sought;

/// What a walk found.
pub(super) struct Found {
    names: names::Found,
    objects: Objects,
}

/// The end of the walk under way.
pub(super) struct Walks(Sender<Found>, Receiver<Found>);

impl Walks {
    pub(super) fn new() -> Walks {
        let (done, found) = bounded(1);
        Walks(done, found)
    }
}

impl Engine {
    /// Takes in a walk that has ended, and begins the next one.
    pub(super) fn follow_nameless(&mut self) {
        let now = self.now();
        if let Ok(found) = self.searches.nameless_walks.1.try_recv() {
            self.take_nameless(now, found);
        }
        if let Some(sought) = self.intake.resolver.nameless_files().begin(now)
            && let Err(error) = self.walk_for_nameless(sought)
        {
            tracing::warn!(mirror = %self.mirror.name, %error, "cannot start a thread that looks for files that changed without a path; tried again");
            self.intake.resolver.nameless_files().put_off(now);
        }
    }

    fn take_nameless(&mut self, now: Duration, found: Found) {
        let Found { names: names::Found { names, took, .. }, objects } = found;
        if let Some(error) = objects.incomplete {
            tracing::warn!(mirror = %self.mirror.name, %error, "cannot look everywhere for what changed without a path; tried again");
            return self.intake.resolver.nameless_files().put_off(now);
        }
        names.iter().filter(|(.., nlink)| *nlink > 1).for_each(|(path, ..)| self.intake.resolver.know_linked(&self.root, path));
        let names: Vec<_> = names.into_iter().map(|(path, inode, _)| (path, inode)).collect();
        let ended = self.intake.resolver.nameless_files().end(now, &names, &objects, took);
        tracing::debug!(
            mirror = %self.mirror.name, ?took, found = ended.dirty.len(), lost = ended.lost.len(),
            "looked for files that changed without a path"
        );
        for (path, seen) in ended.dirty {
            self.take_found(&path, seen);
        }
        for subtree in ended.lost {
            self.lost(Lost { subtree, cause: Cause::UnresolvableHandle });
        }
        self.open_flushes();
    }

    fn walk_for_nameless(&self, sought: Sought) -> std::io::Result<()> {
        self.walk_beside("nameless", &self.searches.nameless_walks.0, move |within, filter| {
            let objects = seek_objects(within, filter, &sought.objects, sought.files);
            Found { names: search::seek(within, filter, &sought.inodes), objects }
        })
    }
}
