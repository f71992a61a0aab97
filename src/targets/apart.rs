//! Places that are left alone ([`crate::apart`]), at one target: which runs end because of
//! them, and what waits for their end.

use std::sync::Arc;

use super::*;
use crate::apart::{Apart, Due};

/// What is known of such places, and what waits.
#[derive(Default)]
pub(super) struct Shelf {
    apart: Arc<Apart>,
    /// Parked entries at and below places that are held. Each such place has one for all of it.
    waiting: Vec<Entry>,
}

impl Shelf {
    #[cfg(test)]
    pub(super) fn put(&mut self, entry: Entry) {
        self.waiting.push(entry);
    }

    /// Whether a place is `path`, above it or below it.
    pub(super) fn meets(&self, path: &[u8]) -> bool {
        self.apart.meets(path)
    }

    /// What waits, to be counted with all that is not confirmed.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.waiting.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The rules for a comparison from outside.
    pub(super) fn rules(&self) -> Vec<OsString> {
        self.apart.rules()
    }
}

/// Whether carrying these entries may read or delete all that is at `place`.
fn enters(entries: &[Entry], place: &RelPath) -> bool {
    entries.iter().any(|e| (e.kind > Kind::Entry || e.gone) && path::is_at_or_below(place, &e.path))
}

impl Target {
    /// Learns which places are left alone from here on.
    pub(crate) fn keep_apart(&mut self, cx: &mut Context<'_>, apart: &Arc<Apart>) {
        if Arc::ptr_eq(&self.ledger.shelf.apart, apart) {
            return;
        }
        let old = std::mem::replace(&mut self.ledger.shelf.apart, Arc::clone(apart));
        let rules = apart.rules();
        self.args.leave_apart(&self.mirror, &rules);
        self.drop_standbys(cx); // they were given the rules of before
        let new: Vec<&RelPath> = apart.iter().map(|(at, _)| at).filter(|at| !old.iter().any(|(was, _)| was == *at)).collect();
        for run in self.runs.values_mut() {
            if let Some(batch) = run.batch()
                && new.iter().any(|at| enters(&batch.entries, at))
            {
                tracing::info!(mirror = %self.mirror.name, target_name = %self.cfg.name, "a run would enter a place that is left alone now; it is done again without");
                run.process.abort_reason = Some(AbortReason::Apart);
                run.process.rsync.cut();
            }
        }
        let goes = |e: &mut Entry| apart.due(&e.path, e.kind) != Due::Waits;
        for entry in self.ledger.shelf.waiting.extract_if(.., goes).collect::<Vec<_>>() {
            self.ledger.set.restore(entry);
            self.schedule.pace.hurry();
        }
        self.ledger.set.tick(cx.now);
        for (at, _) in apart.held().filter(|(at, _)| old.hold_at(at).is_none()) {
            let since = self.ledger.set.epochs().current();
            let mut all = self.ledger.set.parked(at.clone(), since);
            all.kind = Kind::Subtree;
            self.ledger.shelf.waiting.push(all);
        }
    }

    /// Takes out of a batch what is left alone.
    pub(super) fn leave_apart(&mut self, mut batch: Batch) -> Batch {
        let apart = Arc::clone(&self.ledger.shelf.apart);
        if apart.is_empty() {
            return batch;
        }
        let id = batch.id;
        for mut entry in batch.entries.extract_if(.., |e| apart.due(&e.path, e.kind) != Due::Goes).collect::<Vec<_>>() {
            match apart.due(&entry.path, entry.kind) {
                Due::Goes => unreachable!("was taken out for it"),
                Due::Alone => {
                    entry.kind = Kind::Entry;
                    self.ledger.turn(id, entry);
                }
                Due::Drops => {
                    self.ledger.set.park(id, std::slice::from_ref(&entry));
                    self.ledger.forget(vec![entry]);
                }
                Due::Waits => {
                    self.ledger.set.park(id, std::slice::from_ref(&entry));
                    // A content that differs under the same size and time is not found by a
                    // comparison.
                    let covers = |all: &Entry| {
                        all.kind == Kind::Subtree && path::is_at_or_below(&entry.path, &all.path) && all.epoch() <= entry.epoch()
                    };
                    match !entry.content && self.ledger.shelf.waiting.iter().any(covers) {
                        true => self.ledger.forget(vec![entry]),
                        false => self.ledger.shelf.waiting.push(entry),
                    }
                }
            }
        }
        batch
    }

    /// What is held and has something that waits, in words.
    pub(super) fn why_shelved(&self) -> Option<String> {
        let first = self.ledger.shelf.waiting.first()?;
        let (_, hold) = self.ledger.shelf.apart.hold_over(&first.path)?;
        Some(format!("{}; nothing is sent or deleted there", hold.words(&self.mirror.source.to_string_lossy())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::{DirtySet, Limits, Seen};

    #[test]
    fn what_reads_or_deletes_a_place_enters_it() {
        let place = RelPath::from_normal("d/place");
        for (path, seen, want) in [
            ("d/place", Seen::Subtree, true),
            ("d", Seen::Subtree, true),
            ("d", Seen::Contents, true),
            ("d", Seen::Gone, true),
            // Its attributes alone, what is in it, and a neighbour.
            ("d", Seen::Touched, false),
            ("d/place/f", Seen::Written, false),
            ("d/place2", Seen::Subtree, false),
        ] {
            let mut set = DirtySet::new(10);
            set.see(path.as_bytes(), seen);
            let limits = Limits { max_paths: 1, ignore_holds: true };
            let batch = set.take_shallow(limits, &mut |_, _| false).or_else(|| set.take_deep(limits)).unwrap();
            assert_eq!(enters(&batch.entries, &place), want, "{path} {seen:?}");
        }
    }
}
