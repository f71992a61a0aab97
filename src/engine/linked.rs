//! The walks that find hard links: begun when the index wants one, on a thread of their own, one at
//! a time.

use crossbeam::channel::{Receiver, Sender, bounded};

use super::Engine;
use crate::links::{Found, Job, Links, MAX_NAMES, search};
use crate::status;

/// The index and its walk.
pub(super) struct Linking {
    pub(super) links: Links,
    done: (Sender<Found>, Receiver<Found>),
}

impl Linking {
    pub(super) fn new() -> Linking {
        Linking { links: Links::new(MAX_NAMES), done: bounded(1) }
    }
}

impl Engine {
    /// A flush waits for everything: a walk that is wanted begins now.
    pub(super) fn hurry_links(&mut self) {
        if let Some(linking) = &mut self.searches.linking {
            linking.links.hurry();
        }
        self.searches.naming.names.hurry();
    }

    /// What is known of files with several names; `None` where none were met.
    pub(super) fn links_status(&self) -> Option<status::Links> {
        let sought = &self.searches.naming.names;
        let walks = sought.walks() + self.searches.strays.ended();
        let ((files, names), walks) = match &self.searches.linking {
            Some(l) => (l.links.sizes(), l.links.walks() + walks),
            None if walks > 0 => (sought.sizes(), walks),
            None => return None,
        };
        let apart = self.searches.linking.as_ref().map_or(0, |l| l.links.apart()) as u64;
        Some(status::Links { files: files as u64, names: names as u64, walks, apart })
    }

    /// Takes in a walk that has ended, and begins the next one.
    pub(super) fn follow_links(&mut self) {
        if self.flushes.any() {
            self.hurry_links(); // what runs have found since the flush began is waited for as well
        }
        let now = self.now();
        let Some(linking) = &mut self.searches.linking else { return };
        if let Ok(mut found) = linking.done.1.try_recv() {
            let (took, special) = (found.took, std::mem::take(&mut found.special));
            let again = linking.links.end(now, found);
            let (files, names) = linking.links.sizes();
            tracing::debug!(mirror = %self.mirror.name, ?took, files, names, again = again.len(), "looked for hard links");
            self.targets.iter_mut().for_each(|target| target.links_found(&linking.links, now, &again, &special));
        }
        if let Some(job) = linking.links.begin(now)
            && let Err(error) = self.walk_for_links(job.clone())
            && let Some(linking) = &mut self.searches.linking
        {
            tracing::warn!(mirror = %self.mirror.name, %error, "cannot start a thread that searches for hard links; tried again");
            linking.links.put_off(now, job);
        }
    }

    fn walk_for_links(&self, job: Job) -> std::io::Result<()> {
        let Some(linking) = &self.searches.linking else { return Ok(()) };
        self.walk_beside("links", &linking.done.0, move |within, filter| search::search(within, filter, job))
    }
}
