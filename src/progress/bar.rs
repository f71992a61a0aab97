//! The bar on a terminal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Progress;

/// Whether one is there: a process has one terminal.
static DRAWN: AtomicBool = AtomicBool::new(false);

/// Whether a bar shows how far the work is, so that the log need not.
pub(super) fn is_drawn() -> bool {
    // Relaxed: nothing else is published with it.
    DRAWN.load(Ordering::Relaxed)
}

/// A bar on standard error; gone when dropped.
pub struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// How often it is drawn anew.
    pub const DRAW_EVERY: Duration = Duration::from_millis(200);

    /// Standard error has to be a terminal.
    #[expect(clippy::new_without_default, reason = "it has an effect on the terminal")]
    pub fn new() -> Bar {
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {prefix} {bar:20} {wide_msg} [{elapsed}]");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        DRAWN.store(true, Ordering::Relaxed);
        Bar { bar }
    }

    /// Draws the first of `works`, each with whom it concerns, and how many there are besides.
    pub fn show(&self, works: &[(String, Progress)]) {
        if let [(whom, work), more @ ..] = works {
            let more = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
            self.bar.set_prefix(format!("{whom}: {}{more}", work.what));
            self.bar.set_length(work.files_total);
            self.bar.set_position(work.files_done.min(work.files_total));
            self.bar.set_message(work.figures());
        }
        self.bar.tick();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        DRAWN.store(false, Ordering::Relaxed);
    }
}
