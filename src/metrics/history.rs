//! The last hour of each target's lag and queue, for the page's graph.
//!
//! A ring of `POINTS` points, 8 bytes for each point and target: about 6 KiB a target. A target
//! that is gone from the configuration goes from here, one that is added begins with gaps.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::status::Snapshot;

/// An hour of samples taken every 5 s.
const POINTS: usize = 720;

/// See the module's text.
#[derive(Serialize)]
pub(crate) struct History {
    step_seconds: f64,
    /// When the newest point was taken, seconds since 1970.
    newest_unix: f64,
    targets: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    mirror: String,
    target: String,
    /// Seconds, the newest last; `null` where nothing is known.
    lag: VecDeque<Option<f32>>,
    /// Paths that wait or are in flight.
    queue: VecDeque<Option<u32>>,
}

impl History {
    /// Empty; `step`: the time between two points.
    pub(crate) fn new(step: Duration) -> History {
        History { step_seconds: step.as_secs_f64(), newest_unix: 0.0, targets: Vec::new() }
    }

    /// Adds a point; `None`: no engine answered.
    pub(crate) fn push(&mut self, snapshot: Option<&Snapshot>) {
        self.newest_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let Some(snapshot) = snapshot else {
            self.targets.iter_mut().for_each(|line| line.push(None, None));
            return;
        };
        let mut old = std::mem::take(&mut self.targets);
        let points = old.first().map_or(0, |line| line.lag.len());
        for (m, t) in snapshot.mirrors.iter().flat_map(|m| m.targets.iter().map(move |t| (m, t))) {
            let at = old.iter().position(|line| line.mirror == m.name && line.target == t.name);
            let mut line = at.map_or_else(|| Line::empty(&m.name, &t.name, points), |at| old.swap_remove(at));
            // A millisecond is fine enough, and short as text.
            let lag = (t.lag_seconds * 1000.0).round() / 1000.0;
            line.push(Some(lag as f32), Some(u32::try_from(t.pending + t.in_flight).unwrap_or(u32::MAX)));
            self.targets.push(line);
        }
    }

    /// As the page reads it.
    pub(crate) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|e| panic!("numbers and names can be written as JSON: {e}"))
    }
}

impl Line {
    fn empty(mirror: &str, target: &str, points: usize) -> Line {
        let (lag, queue) = (std::iter::repeat_n(None, points).collect(), std::iter::repeat_n(None, points).collect());
        Line { mirror: mirror.into(), target: target.into(), lag, queue }
    }

    fn push(&mut self, lag: Option<f32>, queue: Option<u32>) {
        if self.lag.len() >= POINTS {
            self.lag.pop_front();
            self.queue.pop_front();
        }
        self.lag.push_back(lag);
        self.queue.push_back(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::snapshot;

    #[test]
    fn is_bounded_and_follows_the_targets() {
        let mut h = History::new(Duration::from_secs(5));
        let mut s = snapshot();
        for i in 0..POINTS * 2 {
            s.mirrors[0].targets[0].lag_seconds = i as f64;
            h.push(Some(&s));
        }
        h.push(None);
        let line = &h.targets[0];
        assert_eq!((line.lag.len(), line.queue.len()), (POINTS, POINTS));
        assert_eq!((line.lag[POINTS - 2], line.lag[POINTS - 1]), (Some((POINTS * 2 - 1) as f32), None));
        let mut another = s.mirrors[0].targets[0].clone();
        another.name = "new".into();
        s.mirrors[0].targets.push(another);
        h.push(Some(&s));
        let added = h.targets.iter().find(|l| l.target == "new").unwrap();
        assert_eq!((added.lag.len(), added.lag[POINTS - 2], added.lag[POINTS - 1].is_some()), (POINTS, None, true));
        s.mirrors.clear();
        h.push(Some(&s));
        assert!(h.targets.is_empty());
        let json: serde_json::Value = serde_json::from_slice(&h.json()).unwrap();
        assert_eq!(json["step_seconds"], 5.0);
    }
}
