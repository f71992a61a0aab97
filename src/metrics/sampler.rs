//! Requests the status of the engines, at most so often.
//!
//! Scrapes, the page and the file share one snapshot that is at most [`FRESH`] old. While one
//! request is under way, the others wait for the same answer; that no engine answers is remembered
//! as long. A thread samples each target's lag every [`SAMPLE`], for the page's graph, and writes
//! the file.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use super::history::History;
use super::{MetricsFile, of_daemon};
use crate::status::Snapshot;

/// How old a snapshot may be.
pub(crate) const FRESH: Duration = Duration::from_millis(500);
/// How long engines may take to answer; less than Prometheus' usual patience of 10 s.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Between two points of the graph.
pub(crate) const SAMPLE: Duration = Duration::from_secs(5);

/// The request to the engines.
pub(crate) type Ask = dyn Fn() -> Result<Snapshot, String> + Send + Sync;

struct Taken {
    at: Instant,
    snapshot: Result<Arc<Snapshot>, String>,
}

/// See the module's text.
pub(crate) struct Sampler {
    ask: Box<Ask>,
    last: Mutex<Option<Taken>>,
    history: Mutex<History>,
}

/// The sampling thread; dropped, it ends, and the file is gone.
pub(crate) struct Sampling {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Sampling {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Sampler {
    /// No request was made yet.
    pub(crate) fn new(ask: Box<Ask>) -> Arc<Sampler> {
        Arc::new(Sampler { ask, last: Mutex::new(None), history: Mutex::new(History::new(SAMPLE)) })
    }

    /// How everything is, at most [`FRESH`] ago.
    ///
    /// # Errors
    /// In words, who does not answer.
    pub(crate) fn snapshot(&self) -> Result<Arc<Snapshot>, String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = last.as_ref().filter(|taken| taken.at.elapsed() < FRESH) {
            return taken.snapshot.clone();
        }
        let snapshot = (self.ask)().map(Arc::new);
        *last = Some(Taken { at: Instant::now(), snapshot: snapshot.clone() });
        snapshot
    }

    /// The last hour of each target's lag, as JSON.
    pub(crate) fn history(&self) -> Vec<u8> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).json()
    }

    /// Starts the thread; `file`: where metrics are written, and how often.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(self: Arc<Sampler>, file: Option<(&Path, Duration)>) -> std::io::Result<Sampling> {
        let file = file.map(|(path, every)| (MetricsFile::new(path), every));
        let (stop, stopped) = bounded::<()>(0);
        let work = move || {
            let begun = Instant::now();
            let mut writing = Writing { file, next: begun, logged: String::new() };
            let mut next_sample = begun;
            loop {
                let now = Instant::now();
                if now >= next_sample {
                    next_sample = now + SAMPLE;
                    let snapshot = self.snapshot().ok();
                    self.history.lock().unwrap_or_else(PoisonError::into_inner).push(snapshot.as_deref());
                }
                writing.write_if_due(now, &self);
                let due = writing.due().map_or(next_sample, |due| due.min(next_sample));
                match stopped.recv_timeout(due.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("fansync-sampler".into()).spawn(work)?;
        Ok(Sampling { stop: Some(stop), thread: Some(thread) })
    }
}

struct Writing {
    file: Option<(MetricsFile, Duration)>,
    next: Instant,
    /// The trouble that was logged last.
    logged: String,
}

impl Writing {
    fn due(&self) -> Option<Instant> {
        self.file.as_ref().map(|_| self.next)
    }

    fn write_if_due(&mut self, now: Instant, sampler: &Sampler) {
        let Some((file, every)) = self.file.as_ref().filter(|_| now >= self.next) else { return };
        self.next = now + *every;
        let written = sampler.snapshot().and_then(|s| file.write(&of_daemon(&s)).map_err(|e| e.to_string()));
        match written {
            Ok(()) => self.logged.clear(),
            Err(why) if why == self.logged => {}
            Err(why) => {
                tracing::warn!("metrics are not written: {why}");
                self.logged = why;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn counting(fails: bool) -> (Arc<AtomicU32>, Box<Ask>) {
        let requests = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&requests);
        let ask = move || {
            count.fetch_add(1, Ordering::Relaxed);
            if fails { Err("silent".into()) } else { Ok(crate::status::tests::snapshot()) }
        };
        (requests, Box::new(ask))
    }

    #[test]
    fn however_many_ask_the_engines_are_asked_once() {
        for fails in [false, true] {
            let (requests, ask) = counting(fails);
            let sampler = Sampler::new(ask);
            std::thread::scope(|s| {
                (0..8).for_each(|_| drop(s.spawn(|| (0..50).for_each(|_| assert_eq!(sampler.snapshot().is_err(), fails)))));
            });
            // Never more than once in FRESH, however long this took.
            assert!((1..10).contains(&requests.load(Ordering::Relaxed)), "{requests:?}");
        }
    }

    #[test]
    fn the_file_comes_and_goes_with_the_thread() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.prom");
        let sampling = Sampler::new(counting(false).1).start(Some((&path, Duration::from_secs(1)))).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !path.exists() {
            assert!(Instant::now() < deadline, "no file was written");
            std::thread::yield_now();
        }
        assert!(std::fs::read_to_string(&path).unwrap().contains("fansync_target_lag_seconds{"));
        drop(sampling);
        assert!(!path.exists());
    }
}
