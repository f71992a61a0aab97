//! What is shown of long work while it goes on.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::status;

/// How often progress is drawn, and how often it is logged where there is no terminal.
pub(super) const DRAW_EVERY: Duration = Duration::from_millis(200);
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The first pass, on a terminal as a bar, elsewhere as a line now and then.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    logged: Instant,
}

impl Progress {
    pub(super) fn new(terminal: bool) -> Progress {
        let bar = terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            let style =
                ProgressStyle::with_template("{spinner} comparing {bar:30} {pos}/{len} files {msg} [{elapsed}, eta {eta}]");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Progress { bar, logged: Instant::now() }
    }

    /// Shows the sum over all targets; `true` when the first pass is over everywhere.
    pub(super) fn show(&mut self, mirrors: &[status::Mirror]) -> bool {
        let running = || mirrors.iter().flat_map(|m| &m.targets).filter_map(|t| t.reconcile.as_ref());
        if !mirrors.is_empty() && mirrors.iter().all(|m| m.initial != "running") {
            if let Some(bar) = &self.bar {
                bar.finish_and_clear();
            }
            return true;
        }
        let (done, total, bytes) = running().fold((0, 0, 0), |(d, t, b), r| (d + r.files_done, t + r.files_total, b + r.bytes));
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(bytesize::ByteSize(bytes).to_string());
                bar.tick();
            }
            None if self.logged.elapsed() >= LOG_EVERY && running().next().is_some() => {
                self.logged = Instant::now();
                tracing::info!(files = done, of = total, sent = %bytesize::ByteSize(bytes), "comparing the whole tree");
            }
            None => {}
        }
        false
    }
}
