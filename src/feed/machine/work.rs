//! A run: what it is to do, and how it ended.

use std::time::Duration;

use crate::dirty::Kind;
use crate::feed::pending::{Need, Trust};
use crate::feed::record::Batch;
use crate::path::RelPath;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A comparison of the whole tree.
    Whole,
    /// These paths.
    List {
        /// Directories with all below them.
        deep: bool,
        /// Which files are taken for equal.
        trust: Trust,
        /// What is listed.
        paths: Vec<(RelPath, Kind)>,
        /// How many of them are gone.
        gone: usize,
        /// Something may be deleted.
        deletes: bool,
    },
    /// The state of these paths that came with their record.
    Batch {
        /// It.
        batch: Batch,
        /// Some of them are directories one level deep.
        contents: bool,
        /// How many of them are gone.
        gone: usize,
    },
}

/// A path that rsync complained about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Which.
    pub path: RelPath,
    /// It, or something above it, is not there, or is no directory.
    pub absent: bool,
    /// rsync's words.
    pub words: String,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it is held.
    Done,
    /// Some paths failed.
    Partly {
        /// These.
        complaints: Vec<Complaint>,
        /// No other.
        complete: bool,
    },
    /// Nothing is known to be held: the upstream is away, or the run was not to go on.
    Not,
}

/// A path that failed again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What is pulled with each try.
    pub need: Need,
    /// rsync's words.
    pub words: String,
    /// When it is tried again.
    pub due: Duration,
}
