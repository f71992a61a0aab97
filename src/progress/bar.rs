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

/// With a total, and without: a bar that cannot be filled says nothing. On 80 columns there is room
/// for the time left and the rate.
const KNOWN: &str = "{spinner} {prefix} {bar:10} {wide_msg}";
const UNKNOWN: &str = "{spinner} {prefix} {wide_msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A bar on standard error; gone when dropped.
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// How often it is drawn anew.
    pub(crate) const DRAW_EVERY: Duration = Duration::from_millis(200);

    /// Standard error has to be a terminal.
    pub(crate) fn new() -> Bar {
        let bar = ProgressBar::new_spinner();
        bar.set_style(style(UNKNOWN));
        DRAWN.store(true, Ordering::Relaxed);
        Bar { bar }
    }

    /// Draws the first of `works`, each with whom it concerns, and how many there are besides.
    pub(crate) fn show(&self, works: &[(String, Progress)]) {
        if let [(whom, work), more @ ..] = works {
            let more = if more.is_empty() { String::new() } else { format!(" (+{})", more.len()) };
            // Each of these may draw: there is a bar only while the figures in place have a total.
            if work.files_total == 0 {
                self.bar.set_style(style(UNKNOWN));
            }
            self.bar.set_prefix(format!("{whom}: {}{more}", work.what));
            self.bar.set_length(work.files_total);
            self.bar.set_position(work.files_done.min(work.files_total));
            self.bar.set_message(work.brief());
            if work.files_total > 0 {
                self.bar.set_style(style(KNOWN));
            }
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
