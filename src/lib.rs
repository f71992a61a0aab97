//! fansync keeps remote copies of a directory tree equal to it, within milliseconds of each change.
//!
//! ```text
//! kernel ─► source ─► ring ─► resolve ─► dirty ─► targets ─► sync: rsync children ─► hooks
//!             └── lost sight of a subtree ──┘        └─ one queue, back-off and standby pool per target
//! ```
//!
//! How a change travels:
//!
//! 1. [`source`]: the *reader* thread moves bytes from the fanotify (or inotify) queue into buffers and hands them whole
//!    through the [`ring`]. It parses nothing, so the kernel's queue stays short. A full ring pauses it; events then wait
//!    in the kernel.
//! 2. [`resolve`]: the *engine* thread decodes the records in place and turns each directory handle into a path with the
//!    path tree; [`filter`] drops what is excluded.
//! 3. [`dirty`]: one set per target says which paths to look at. An event never says what happened, only "look here": the
//!    state is read from the disk when the batch leaves, so the queue is as long as the number of distinct dirty paths.
//! 4. [`targets`]: batches leave through `rsync --files-from` ([`sync`]), by preference through a process that already
//!    stands by connected. A path leaves the dirty set only when rsync's outcome confirmed it.
//!
//! The promise: **every change is on the target, or on its way there, or its subtree is marked lost and will be scanned.**

#![cfg_attr(
    not(test),
    deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic where the output cannot be written")
)]

pub mod cli;
pub mod config;
pub mod connect;
pub mod control;
pub mod cover;
pub mod daemon;
pub mod dirty;
pub mod engine;
pub mod error;
pub mod events;
pub mod exit;
pub mod explain;
pub mod exports;
pub mod faillog;
pub mod failover;
pub mod filter;
pub mod hash;
pub mod hooks;
pub mod import;
pub mod links;
pub mod log;
pub mod lost;
#[cfg(feature = "lsyncd")]
pub mod lsyncd;
pub mod manual;
pub mod metrics;
pub mod out;
pub mod path;
pub mod privilege;
pub mod progress;
pub mod resolve;
pub mod ring;
pub mod scan;
pub mod sersync;
pub mod short;
mod socket;
pub mod source;
pub mod state;
pub mod status;
pub mod sync;
pub mod sys;
pub mod targets;
pub mod trust;
pub mod verify;
pub mod watch;
pub mod web;

#[cfg(test)]
mod scratch;

#[cfg(test)]
mod docs_tests;
