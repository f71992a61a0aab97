//! What runs have pulled, and how late the state in a record may be, without a clock of two hosts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::MOST;
use crate::feed::record::Batch;
use crate::path::RelPath;

/// Paths that runs have pulled, each with the state of a moment that no record names, and when
/// records were made, as far as that is known here.
///
/// The clocks of two hosts are not compared. A record that was not in the stream yet when its end
/// was read was stored later than that request began, and the publisher's own clock says how long
/// after that the state in another record was read.
#[derive(Clone, Debug)]
pub(super) struct Pulled {
    /// With the time when the run ended.
    paths: BTreeMap<RelPath, Duration>,
    /// When the last request for the end of the stream began, and the record that it found.
    end: Option<(Duration, u64)>,
    /// The last record, and when a request began that did not find it.
    after: Option<(u64, Duration)>,
    /// When a request began, and the time of the publisher, in microseconds, when it knew a
    /// record to be stored that this request did not find.
    anchor: Option<(Duration, u64)>,
}

impl Pulled {
    /// All of it, by an earlier process.
    pub(super) fn all() -> Pulled {
        Pulled { paths: [(RelPath::root(), Duration::ZERO)].into(), end: None, after: None, anchor: None }
    }

    /// Nothing was, since any batch that is known.
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// See [`super::Machine::looked`].
    pub(super) fn looked(&mut self, began: Duration, end: u64) {
        self.end = Some((began, end));
    }

    /// Another publisher has another clock.
    pub(super) fn forget_clock(&mut self) {
        (self.end, self.after, self.anchor) = (None, None, None);
    }

    pub(super) fn note(&mut self, path: RelPath, now: Duration) {
        if self.paths.len() >= MOST {
            self.paths = [(RelPath::root(), now)].into();
        }
        self.paths.insert(path, now);
    }

    /// Takes in when a batch was made, and forgets the paths that were pulled before.
    pub(super) fn learn(&mut self, sequence: u64, batch: Option<&Batch>) {
        let before = self.after.take().filter(|(last, _)| last + 1 == sequence);
        self.after = self.end.filter(|(_, end)| end + 1 == sequence).map(|(began, _)| (sequence, began));
        let Some(batch) = batch else { return };
        if let Some((_, began)) = before
            && batch.stored > 0
            && self.not_before(batch.stored).is_none_or(|known| known < began)
        {
            self.anchor = Some((began, batch.stored));
        }
        if let Some(made) = self.not_before(batch.made) {
            self.paths.retain(|_, ended| *ended > made);
        }
    }

    /// A time of the publisher's by the clock here: it was that late, or later.
    fn not_before(&self, micros: u64) -> Option<Duration> {
        let (began, stored) = self.anchor?;
        let since = Duration::from_micros(micros.checked_sub(stored)?);
        // No two clocks run alike.
        Some(began + since - since / 1_000)
    }
}
