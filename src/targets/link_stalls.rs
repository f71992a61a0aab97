//! Runs with `-H` that wait for themselves, and how their work is done without.
//!
//! Beside a program that makes, links and renames files, sender, generator and receiver of a run
//! with `-H` can come to wait for each other for good (3.5.0; not seen without `-H`). rsync's own
//! time-out does not end it: all the while keep-alives of four bytes go both ways. So such a run is
//! ended once it has neither written a line, nor read more than keep-alives, nor used the processor
//! for ten seconds ([`crate::sync::pulse`]). A list is halved then, down to the names of one file.
//! A comparison is made again without `-H`, and then a walk finds the names below it, which are
//! sent in lists, so that they are linked.
//!
//! A target that is slow may look the same: then the work is done in smaller parts, and loses
//! nothing but time. A run that carries one path is left to the watchdog: its peer may be reading a
//! large file.

use super::*;
/// Subtrees whose next comparison links nothing.
#[derive(Debug, Default)]
pub(super) struct LinkStalls {
    plain: BTreeSet<RelPath>,
}

impl LinkStalls {
    /// Whether a run over `entries` is one of these.
    pub(super) fn links_later(&self, entries: &[Entry]) -> bool {
        entries.iter().any(|e| e.kind == Kind::Subtree && self.plain.contains(&e.path))
    }
}

impl Target {
    /// A run that waited for itself was ended: its batch goes on in another way, at once.
    pub(super) fn run_without_links(&mut self, cx: &Context<'_>, batch: Batch, why: &str) {
        let Batch { id, entries, round } = batch;
        self.ledger.set.park(id, &entries);
        let (trees, lists): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| e.kind == Kind::Subtree);
        self.hard_links.stalls.plain.extend(trees.iter().map(|e| e.path.clone()));
        if !trees.is_empty() {
            self.ledger.retries.at_once(cx.now, trees, round);
        }
        self.ledger.retries.failed(cx.now, lists, WHOLE_ROUNDS, &[], why, fastrand::f64());
    }

    /// A comparison has ended well. If it linked nothing, the names that it carried are sent once
    /// more, together: those below a directory after a walk that finds them all.
    pub(super) fn link_after(&mut self, cx: &mut Context<'_>, entries: &[Entry]) {
        if !self.hard_links.stalls.links_later(entries) {
            return;
        }
        let Some(links) = cx.links.as_deref_mut() else { return };
        for entry in entries {
            self.hard_links.stalls.plain.remove(&entry.path);
            if entry.kind > Kind::Entry {
                let counted = self.ledger.set.parked(entry.path.clone(), entry.epoch());
                self.ledger.linking.unlinked(links.want(&entry.path, entry.kind == Kind::Subtree), counted);
            } else if links.known(&entry.path).is_some() {
                self.ledger.set.see_since(&entry.path, Seen::Touched, entry.epoch());
            }
        }
        self.schedule.pace.waits(cx.now);
    }
}
