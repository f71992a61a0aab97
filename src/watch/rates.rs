//! What happens in a second, from two answers, and the last batches.
//!
//! Counters that fell, or another process, begin anew: no rate is shown across a restart.

use std::collections::{HashMap, VecDeque};

use crate::status::Snapshot;

/// Batches remembered.
const BATCHES: usize = 50;

/// One batch, as it was seen to be the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// `mirror/target`.
    pub(crate) target: String,
    /// In the daemon's words.
    pub(crate) summary: String,
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct Rates {
    pid: u32,
    uptime: f64,
    events: HashMap<String, u64>,
    bytes: HashMap<String, u64>,
    /// Per second.
    events_rate: HashMap<String, f64>,
    bytes_rate: HashMap<String, f64>,
    runs: HashMap<String, u64>,
    batches: VecDeque<Batch>,
}

impl Rates {
    /// Takes in a newer answer.
    pub(crate) fn take(&mut self, s: &Snapshot) {
        if s.pid != self.pid || s.uptime_seconds < self.uptime {
            *self = Rates { pid: s.pid, batches: std::mem::take(&mut self.batches), ..Rates::default() };
        }
        let seconds = s.uptime_seconds - self.uptime;
        let known = self.uptime > 0.0 && seconds > 0.1;
        let rate = |old: Option<u64>, new: u64| Some((new.checked_sub(old?)?) as f64 / seconds).filter(|_| known);
        for m in &s.mirrors {
            let old = self.events.insert(m.name.clone(), m.events);
            set(&mut self.events_rate, m.name.clone(), rate(old, m.events));
            for t in &m.targets {
                let name = format!("{}/{}", m.name, t.name);
                let old = self.bytes.insert(name.clone(), t.bytes_sent);
                set(&mut self.bytes_rate, name.clone(), rate(old, t.bytes_sent));
                if self.runs.insert(name.clone(), t.runs) != Some(t.runs) && !t.last_batch.is_empty() {
                    self.batches.push_front(Batch { target: name, summary: t.last_batch.clone() });
                    self.batches.truncate(BATCHES);
                }
            }
        }
        self.uptime = s.uptime_seconds;
    }

    /// Events in a second; `None` while not known.
    pub(crate) fn events(&self, mirror: &str) -> Option<f64> {
        self.events_rate.get(mirror).copied()
    }

    /// Bytes sent in a second.
    pub(crate) fn bytes(&self, mirror: &str, target: &str) -> Option<f64> {
        self.bytes_rate.get(&format!("{mirror}/{target}")).copied()
    }

    /// The newest first. Of several in one second, the last one of each target.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.batches.iter()
    }
}

fn set(rates: &mut HashMap<String, f64>, name: String, rate: Option<f64>) {
    match rate {
        Some(rate) => rates.insert(name, rate),
        None => rates.remove(&name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::snapshot;

    #[test]
    fn no_rate_across_a_restart() {
        let mut s = snapshot();
        let mut r = Rates::default();
        (s.pid, s.uptime_seconds, s.mirrors[0].events) = (7, 10.0, 1000);
        r.take(&s);
        assert_eq!(r.events("data"), None);
        (s.uptime_seconds, s.mirrors[0].events) = (12.0, 1500);
        r.take(&s);
        assert_eq!(r.events("data"), Some(250.0));
        (s.uptime_seconds, s.mirrors[0].events) = (13.0, 3);
        r.take(&s);
        assert_eq!(r.events("data"), None, "the mirror began anew");
        (s.pid, s.uptime_seconds, s.mirrors[0].events) = (8, 20.0, 9000);
        r.take(&s);
        assert_eq!(r.events("data"), None);
    }

    #[test]
    fn the_last_batches_are_kept_and_bounded() {
        let mut s = snapshot();
        let mut r = Rates::default();
        for n in 1..=100 {
            (s.mirrors[0].targets[0].runs, s.mirrors[0].targets[0].last_batch) = (n, format!("batch {n}"));
            r.take(&s);
            r.take(&s);
        }
        let summary: Vec<_> = r.batches().map(|b| b.summary.as_str()).collect();
        assert_eq!((summary.len(), summary[0], summary[1]), (BATCHES, "batch 100", "batch 99"));
    }
}
