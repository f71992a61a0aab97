//! How far a run of rsync is.

use std::time::Duration;

use super::run::Run;
use crate::progress::{Figures, MEAN_MIN, Progress};

/// Of a pass whose list is read while it sends.
const AHEAD: &str = "rsync reads the tree while it sends, and does not know the total yet";

impl Progress {
    /// Of a run that has been going on for `elapsed`. `reports`: rsync prints its progress; else
    /// `paths` were listed.
    pub(crate) fn of_run(what: String, run: &Run, elapsed: Duration, reports: bool, paths: usize) -> Progress {
        let moving = run.moving().map_or(Duration::ZERO, |since| since.elapsed());
        let of = Figures { elapsed, moving, ..Figures::default() };
        let output = run.output();
        if !reports {
            let unknown = "rsync does not report its progress in a list of paths";
            let done = output.counters.files_sent + output.counters.other_changes;
            let total = (paths as u64).max(done);
            return Progress::new(what, Figures { moving: elapsed, done, total, bytes: run.bytes_read(), unknown, ..of });
        }
        let all = output.considered.unwrap_or_default();
        let reported = output.progress.filter(|p| p.files_total > 0);
        Progress::new(
            what,
            match (reported, output.progress) {
                (Some(p), _) if p.scanning => Figures { done: p.files_done, bytes: p.bytes, unknown: AHEAD, ..of },
                (Some(p), _) => {
                    let entries = p.files_done as f64 / p.files_total as f64;
                    let sends_most = output.counters.files_sent * 2 >= p.files_done;
                    let share = if sends_most { entries.min(f64::from(p.percent) / 100.0) } else { entries };
                    Figures { done: p.files_done, total: p.files_total, bytes: p.bytes, share: Some(share), ..of }
                }
                // The first file is on its way.
                (None, Some(p)) if all > 0 => {
                    Figures { total: all, bytes: p.bytes, share: Some(f64::from(p.percent) / 100.0), ..of }
                }
                (None, Some(p)) => Figures { bytes: p.bytes, unknown: AHEAD, ..of },
                (None, None) if all > 0 => Figures {
                    total: all,
                    unknown: "rsync reports its progress where it finds a difference, and has found none yet",
                    ..of
                },
                (None, None) => {
                    Figures { done: output.listed, moving: elapsed, unknown: "the source's tree is still being read", ..of }
                }
            },
        )
    }

    /// The same, where the content of files is read to be compared: what rsync has read, and while
    /// it reads the source, the time that this takes, if the tree had `before` entries when it was
    /// last compared.
    #[must_use]
    pub(crate) fn reading(self, run: &Run, before: u64) -> Progress {
        let (elapsed, bytes) = (Duration::from_secs_f64(self.seconds), run.bytes_read());
        if run.output().considered.is_some() || before == 0 {
            return Progress { bytes, bytes_per_second: bytes as f64 / self.seconds.max(MEAN_MIN), ..self };
        }
        let (done, total) = (self.files_done, before.max(self.files_done));
        let share = Some(done as f64 / total as f64);
        let what = format!("{}: reading the source", self.what);
        Progress::new(what, Figures { elapsed, moving: elapsed, done, total, bytes, share, unknown: "" })
    }
}
