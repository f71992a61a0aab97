//! When anything leaves at all: what is paused, what is in a hurry, and the pace of batches.

use super::*;

/// See the module's text.
pub(super) struct Schedule {
    pub(super) pace: Pace,
    /// All that is pending was seen to wait for something in flight, and only its end is worth
    /// another check.
    pub(super) blocked: bool,
    flushes: Vec<Epoch>,
    stopping: bool,
    /// Nothing is sent until a command says so; since when, in seconds since 1970.
    pub(super) paused: Option<f64>,
    pub(super) periodic: survey::Periodic,
}

impl Schedule {
    pub(super) fn new(pace: Pace) -> Schedule {
        let (flushes, periodic) = (Vec::new(), survey::Periodic::default());
        Schedule { pace, blocked: false, flushes, stopping: false, paused: None, periodic }
    }

    /// Nothing is delayed.
    pub(super) fn hurries(&self) -> bool {
        self.stopping || self.is_flushing()
    }

    pub(super) fn is_flushing(&self) -> bool {
        !self.flushes.is_empty()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub(super) fn begin_flush(&mut self, epoch: Epoch) {
        self.flushes.push(epoch);
    }

    pub(super) fn end_flush(&mut self, epoch: Epoch) {
        self.flushes.retain(|e| *e != epoch);
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_hurries_until_its_own_end_and_a_stop_for_good() {
        let mut epochs = crate::dirty::Epochs::default();
        let (first, second) = (epochs.close(), epochs.close());
        let mut schedule = Schedule::new(Pace::new(&Mirror::new("m", "/src").batch, None));
        assert!(!schedule.hurries());
        schedule.begin_flush(first);
        schedule.begin_flush(second);
        schedule.end_flush(first);
        assert!(schedule.is_flushing() && schedule.hurries(), "the second goes on");
        schedule.end_flush(second);
        assert!(!schedule.hurries());
        schedule.stop();
        assert!(schedule.hurries() && schedule.is_stopping() && !schedule.is_flushing());
    }
}
