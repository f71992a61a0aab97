//! What the targets did, in a line of the log for each and minute.
//!
//! Each batch is a line at `debug` only: a busy tree has fifty a second. So once a minute the
//! counters of the status are compared with those of the minute before. A target that did nothing
//! has no line.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use super::control;
use crate::engine::Engines;
use crate::status::{Mirror, Target};
use crate::text::plural;

/// Between two lines about one target.
const EVERY: Duration = Duration::from_secs(60);
/// How long engines may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a target has done since its engine began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    runs: u64,
    failed: u64,
    sent: u64,
    deleted: u64,
    bytes: u64,
}

impl Done {
    fn of(t: &Target) -> Done {
        Done { runs: t.runs, failed: t.bad_runs.values().sum(), sent: t.files_sent, deleted: t.deleted, bytes: t.bytes_sent }
    }

    /// What came after `earlier`. A new engine counts from 0 again.
    fn since(self, earlier: Done) -> Done {
        if self.runs < earlier.runs {
            return self;
        }
        let Done { runs, failed, sent, deleted, bytes } = self;
        Done {
            runs: runs - earlier.runs,
            failed: failed.saturating_sub(earlier.failed),
            sent: sent.saturating_sub(earlier.sent),
            deleted: deleted.saturating_sub(earlier.deleted),
            bytes: bytes.saturating_sub(earlier.bytes),
        }
    }
}

/// See the module's text.
#[derive(Default)]
struct Digest(HashMap<(String, String), Done>);

impl Digest {
    /// The targets that did something since the last call, and what.
    fn news<'m>(&mut self, mirrors: &'m [Mirror]) -> Vec<(&'m Mirror, &'m Target, Done)> {
        let mut out = Vec::new();
        let mut now = HashMap::new();
        for (m, t) in mirrors.iter().flat_map(|m| m.targets.iter().map(move |t| (m, t))) {
            let (key, done) = ((m.name.clone(), t.name.clone()), Done::of(t));
            let news = done.since(self.0.get(&key).copied().unwrap_or_default());
            if news.runs > 0 {
                out.push((m, t, news));
            }
            now.insert(key, done);
        }
        self.0 = now;
        out
    }
}

/// The thread; it ends when this is dropped.
pub(super) struct Digesting {
    _stop: Sender<()>,
}

/// Starts the thread.
///
/// # Errors
/// It cannot be started.
pub(super) fn start(started: Instant, engines: Engines) -> std::io::Result<Digesting> {
    let (stop, stopped) = bounded::<()>(0);
    let work = move || {
        let mut digest = Digest::default();
        while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            let Ok(snapshot) = control::snapshot(started, &engines, PATIENCE) else { continue };
            for (m, t, done) in digest.news(&snapshot.mirrors) {
                tracing::info!(
                    mirror = %m.name, target_name = %t.name, runs = done.runs, failed = done.failed, sent = done.sent,
                    deleted = done.deleted, bytes = done.bytes, pending = t.pending + t.in_flight,
                    lag_seconds = t.lag_seconds.round(), state = %t.state, "batches of the last minute"
                );
            }
        }
    };
    std::thread::Builder::new().name("fansync-digest".into()).spawn(work)?;
    Ok(Digesting { _stop: stop })
}

/// What was done for a target altogether, at the end of `--once`.
pub(super) fn closing(t: &Target, took: Duration) -> String {
    let failed = t.bad_runs.values().sum::<u64>();
    let mut out = format!(
        "{} sent, {} deleted, {} in {}, {}",
        plural(t.files_sent, "file"),
        t.deleted,
        bytesize::ByteSize(t.bytes_sent),
        plural(t.runs, "run"),
        crate::text::span(took.as_secs_f64())
    );
    if failed > 0 {
        out.push_str(&format!("; {} of the runs did not end well", failed));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(targets: &[(&str, u64, u64)]) -> Mirror {
        let target = |(name, runs, files_sent): &(&str, u64, u64)| Target {
            name: (*name).into(),
            runs: *runs,
            files_sent: *files_sent,
            bad_runs: [("partial".to_owned(), runs / 10)].into(),
            ..Target::default()
        };
        Mirror { name: "m".into(), targets: targets.iter().map(target).collect(), ..Mirror::default() }
    }

    #[test]
    fn a_line_for_each_target_that_did_something() {
        let mut digest = Digest::default();
        let mut news = |mirror: &Mirror| -> Vec<(String, u64, u64, u64)> {
            let news = digest.news(std::slice::from_ref(mirror));
            news.into_iter().map(|(_, t, done)| (t.name.clone(), done.runs, done.sent, done.failed)).collect()
        };
        assert_eq!(news(&mirror(&[("a", 10, 300), ("b", 0, 0)])), [("a".into(), 10, 300, 1)]);
        assert_eq!(news(&mirror(&[("a", 10, 300), ("b", 1, 1)])), [("b".into(), 1, 1, 0)]);
        assert!(news(&mirror(&[("a", 10, 300), ("b", 1, 1)])).is_empty());
        // An engine that was replaced counts anew.
        assert_eq!(news(&mirror(&[("a", 4, 20), ("b", 1, 1)])), [("a".into(), 4, 20, 0)]);
        // One that went and came back, too.
        assert!(news(&mirror(&[("b", 1, 1)])).is_empty());
        assert_eq!(news(&mirror(&[("a", 5, 1), ("b", 1, 1)])), [("a".into(), 5, 1, 0)]);
    }

    #[test]
    fn the_closing_line() {
        let mut t = mirror(&[("a", 6, 306)]).targets.remove(0);
        (t.bytes_sent, t.bad_runs) = (22_016, [("partial".to_owned(), 1)].into());
        let text = closing(&t, Duration::from_millis(2900));
        assert_eq!(text, "306 files sent, 0 deleted, 21.5 KiB in 6 runs, 2.9s; 1 of the runs did not end well");
    }
}
