//! How far long work is: comparing a tree or a part of it, verifying, walking over the source.
//!
//! One type for all of these, and for everything that shows them: status, page, metrics, log lines,
//! and the bar on a terminal.
//!
//! The time left is given only where a total is known, and else the reason. It follows the mean
//! since the figures began to move: rsync reads the whole tree before it sends the first file of a
//! full pass, and that time says nothing about the rest. A pass that sends most of what it comes to
//! is as far as the slower of its entries and its bytes; of any other the bytes mean nothing, as
//! those of what is equal are not counted.

mod bar;

use std::fmt::Write as _;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::text::{plural, span};

pub(crate) use bar::Bar;

/// How often work that goes on is logged.
pub(crate) const LOG_EVERY: Duration = Duration::from_secs(10);
/// A mean over less than this is none.
pub(crate) const MEAN_MIN: f64 = 0.5;

/// How far a piece of work is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    /// In words: `comparing the whole tree`.
    pub(crate) what: String,
    /// Seconds it has been going on.
    pub(crate) seconds: f64,
    /// Entries (files, directories, links) done so far, or found while all are not known.
    pub files_done: u64,
    /// All entries; 0 while not known.
    pub files_total: u64,
    /// Content sent, or read to be compared, in bytes.
    pub(crate) bytes: u64,
    /// Entries in a second, the mean since the figures began to move; 0 while not known.
    pub(crate) files_per_second: f64,
    /// Bytes in a second, likewise.
    pub(crate) bytes_per_second: f64,
    /// Seconds left at this rate.
    pub(crate) eta_seconds: Option<f64>,
    /// Why that is not known; empty when it is.
    pub(crate) eta_unknown: String,
}

/// What a [`Progress`] is made from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// How long it has been going on.
    pub(crate) elapsed: Duration,
    /// Since the figures began to move.
    pub(crate) moving: Duration,
    /// Entries done.
    pub(crate) done: u64,
    /// All entries; 0 while not known.
    pub(crate) total: u64,
    /// Bytes sent or read.
    pub(crate) bytes: u64,
    /// Which part of the work is done, 0 to 1; `None` while not known.
    pub(crate) share: Option<f64>,
    /// Why not.
    pub(crate) unknown: &'static str,
}

impl Progress {
    /// `what`: see there.
    pub(crate) fn new(what: String, of: Figures) -> Progress {
        let moving = of.moving.as_secs_f64();
        let per_second = |n: u64| if moving < MEAN_MIN { 0.0 } else { n as f64 / moving };
        let eta_seconds =
            of.share.filter(|share| *share > 0.0 && moving >= MEAN_MIN).map(|share| moving * (1.0 / share.min(1.0) - 1.0));
        let unknown = if of.share.is_some() { "it has just begun" } else { of.unknown };
        Progress {
            what,
            seconds: of.elapsed.as_secs_f64(),
            files_done: of.done,
            files_total: of.total,
            bytes: of.bytes,
            files_per_second: per_second(of.done),
            bytes_per_second: per_second(of.bytes),
            eta_seconds,
            eta_unknown: if eta_seconds.is_some() { String::new() } else { unknown.into() },
        }
    }

    /// The figures in one line: `1204 of 30301 files, 12.3 MiB, 310 files/s, 4.2 MiB/s, 1m 5s
    /// left`.
    pub(crate) fn figures(&self) -> String {
        let mut out = match (self.files_done, self.files_total) {
            (done, 0) => format!("{} so far", plural(done, "file")),
            (done, total) => format!("{done} of {}", plural(total, "file")),
        };
        if self.bytes > 0 {
            let _ = write!(out, ", {}", ByteSize(self.bytes));
        }
        if let Some(rate) = self.rate() {
            let _ = write!(out, ", {rate}");
        }
        match self.eta_seconds {
            Some(left) => {
                let _ = write!(out, ", {} left", span(left));
            }
            None if !self.eta_unknown.is_empty() => {
                let _ = write!(out, "; time left not known: {}", self.eta_unknown);
            }
            None => {}
        }
        out
    }

    /// The figures where there is little room, what matters most first: `1m 5s left, 310 files/s,
    /// 1204 of 30301 files, 12.3 MiB`.
    pub(crate) fn brief(&self) -> String {
        let left = self.eta_seconds.map(|left| format!("{} left", span(left)));
        let done = match (self.files_done, self.files_total) {
            (done, 0) => format!("{} so far", plural(done, "file")),
            (done, total) => format!("{done} of {}", plural(total, "file")),
        };
        let bytes = (self.bytes > 0).then(|| ByteSize(self.bytes).to_string());
        let parts: Vec<String> = [left, self.rate(), Some(done), bytes].into_iter().flatten().collect();
        parts.join(", ")
    }

    fn rate(&self) -> Option<String> {
        let files = (self.files_per_second >= 0.5).then(|| format!("{:.0} files/s", self.files_per_second));
        let bytes = (self.bytes_per_second >= 1.0).then(|| format!("{}/s", ByteSize(self.bytes_per_second as u64)));
        let both: Vec<String> = files.into_iter().chain(bytes).collect();
        (!both.is_empty()).then(|| both.join(", "))
    }

    /// Logs it. Nothing while a bar shows it.
    ///
    /// `target`: empty for what concerns no target.
    pub(crate) fn log(&self, mirror: &str, target: &str) {
        if bar::is_drawn() {
            return;
        }
        let (what, figures, seconds) = (&self.what, self.figures(), self.seconds.round());
        match target {
            "" => tracing::info!(%mirror, seconds, "{what}: {figures}"),
            target => tracing::info!(%mirror, target_name = %target, seconds, "{what}: {figures}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn the_time_left_needs_a_total_and_a_moment() {
        let of = Figures {
            elapsed: SECONDS(30),
            moving: SECONDS(10),
            done: 250,
            total: 1000,
            share: Some(0.25),
            ..Figures::default()
        };
        let p = Progress::new("comparing".into(), of);
        assert_eq!((p.eta_seconds, p.files_per_second, p.seconds), (Some(30.0), 25.0, 30.0));
        assert_eq!(p.figures(), "250 of 1000 files, 25 files/s, 30.0s left");
        let begun = Progress::new(String::new(), Figures { moving: Duration::from_millis(100), ..of });
        assert_eq!(begun.figures(), "250 of 1000 files; time left not known: it has just begun");
        let open = Figures { share: None, total: 0, bytes: 5 << 20, unknown: "the total is not known yet", ..of };
        let open = Progress::new(String::new(), open);
        assert_eq!(
            open.figures(),
            "250 files so far, 5.0 MiB, 25 files/s, 512.0 KiB/s; time left not known: the total is not known yet"
        );
        assert_eq!(open.brief(), "25 files/s, 512.0 KiB/s, 250 files so far, 5.0 MiB");
        let long = Figures { elapsed: SECONDS(120), moving: SECONDS(100), done: 69_010, total: 200_421, share: Some(0.34), ..of };
        let brief = Progress::new(String::new(), long).brief();
        assert_eq!(brief, "3m 14s left, 690 files/s, 69010 of 200421 files");
        // What is left of 80 columns behind `⠦ mirror/t1: comparing the whole tree ██░░░░░░░░ `.
        assert!(brief.split(", 69010").next().is_some_and(|vital| vital.len() <= 80 - 50), "{brief}");
        let done = Progress::new(String::new(), Figures { share: Some(1.0), done: 1000, ..of });
        assert_eq!(done.eta_seconds, Some(0.0));
    }
}
