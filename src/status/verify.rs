//! Requests for and results of a comparison of a target with its source: by `fansync verify`, and
//! in the status.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::progress::Progress;
use crate::text::{plural, span};

/// How to compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Files of equal size and times are read on both sides.
    pub checksum: bool,
    /// What differs is put right.
    pub repair: bool,
}

/// How a verification ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `mirror/target`.
    pub target: String,
    /// Paths that differ, with what is different; of a repair, those that still do. The first
    /// `LISTED`.
    pub differences: Vec<Difference>,
    /// Further paths that differ.
    pub more: u64,
    /// Paths that differed before anything was put right.
    pub found: u64,
    /// The first of these.
    pub first: Vec<Difference>,
    /// Paths that were put right.
    pub repaired: u64,
    /// Paths that differ and wait to be sent anyway, or changed again and again.
    pub unsettled: u64,
    /// Entries compared.
    pub entries: u64,
    /// How long it took.
    pub seconds: f64,
    /// Files of equal size and times were read, too.
    pub checksum: bool,
    /// Why there is no answer, or none for everything; empty otherwise.
    pub error: String,
    /// There is none because the target cannot be reached.
    pub unreachable: bool,
    /// There is none because rsync or the engine is not to be had.
    pub unavailable: bool,
}

/// A path that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Relative to the source, escaped for display.
    pub(crate) path: String,
    /// What is different.
    pub(crate) why: String,
}

impl Report {
    /// Paths that differ.
    pub(crate) fn differing(&self) -> u64 {
        self.differences.len() as u64 + self.more
    }
}

/// A comparison of a target with the source (`fansync verify`, `verify_every`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verify {
    /// One runs now.
    pub(crate) running: bool,
    /// How far that one is.
    #[serde(default)]
    pub(crate) progress: Option<Progress>,
    /// When the last one ended, seconds since 1970; 0 for never. All below is of that one.
    pub(crate) ended_unix: f64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Files of equal size and times were read, too.
    pub(crate) checksum: bool,
    /// Entries compared.
    pub(crate) entries: u64,
    /// Paths that differed.
    pub(crate) differing: u64,
    /// Of these, paths that were put right.
    pub(crate) repaired: u64,
    /// The first of them, with what was different.
    pub(crate) paths: Vec<String>,
    /// Paths that differ and wait to be sent anyway, or changed again and again.
    pub(crate) unsettled: u64,
    /// Why it could not compare everything; empty when it could.
    pub(crate) error: String,
}

impl Verify {
    /// For a terminal, below the lines of its target.
    pub(crate) fn human(&self, out: &mut String) {
        if self.running {
            let figures = self.progress.as_ref().map(|p| format!("{} for {}: {}", p.what, span(p.seconds), p.figures()));
            let _ = writeln!(out, "    verify  {}", figures.unwrap_or_else(|| "begins".into()));
        }
        if self.ended_unix == 0.0 {
            return;
        }
        let how = if self.checksum { " by content" } else { "" };
        let at = UNIX_EPOCH + Duration::from_secs_f64(self.ended_unix.max(0.0));
        let _ = write!(out, "    verify  {}{how}: ", humantime::format_rfc3339_seconds(at));
        let _ = match (self.differing, self.repaired) {
            (0, _) if !self.error.is_empty() => write!(out, "not known"),
            (0, _) => write!(out, "equal"),
            (1, 0) => write!(out, "1 path differs"),
            (n, 0) => write!(out, "{n} paths differ"),
            (n, repaired) => write!(out, "{} differed, {repaired} put right", plural(n, "path")),
        };
        let _ = write!(out, "; {} in {}", plural(self.entries, "entry"), span(self.seconds));
        if self.unsettled > 0 {
            let _ = write!(out, "; {} more were changing or waited to be sent", self.unsettled);
        }
        let error = if self.error.is_empty() { String::new() } else { format!("; {}", self.error) };
        let _ = writeln!(out, "{error}");
        for path in &self.paths {
            let _ = writeln!(out, "            {path}");
        }
    }
}
