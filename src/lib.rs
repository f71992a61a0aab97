//! fansync keeps remote copies of a directory tree equal to it, within milliseconds of each change.
//!
//! ```text
//! kernel ─► source ─► ring ─► resolve ─► dirty ─► targets ─► sync: rsync children ─► hooks
//!             └── events lost in a subtree ─┘        └─ queue, back-off and standby processes
//! ```
//!
//! How a change travels:
//!
//! 1. [`source`]: the *reader* thread moves bytes from the fanotify (or inotify) queue into buffers
//!    and hands them whole through the [`ring`]. It parses nothing, so the kernel's queue stays
//!    short. A full ring pauses it; events then wait in the kernel.
//! 2. [`resolve`]: the *engine* thread decodes the records in place and turns each directory handle
//!    into a path with the path tree; [`filter`] drops what is excluded.
//! 3. [`dirty`]: one set per target says which paths are to be checked. An event only marks a path:
//!    the state is read from the disk when the batch leaves, so the queue is as long as the number
//!    of distinct dirty paths.
//! 4. [`targets`]: batches leave through `rsync --files-from` ([`sync`]), by preference through a
//!    standby process, which is connected already. A path leaves the dirty set only when rsync's
//!    outcome confirmed it.
//!
//! The promise: **every change is on the target, or on its way there, or its subtree is marked lost
//! and will be scanned.**
//!
//! # Where a change belongs
//!
//! | about | module |
//! | --- | --- |
//! | a system call, a kernel's behaviour | [`sys`], the only one with `unsafe` beside [`ring`] |
//! | the records of fanotify and inotify | [`source`] (`fan_decode`, `ino_decode`) |
//! | which path an event means, muting | [`resolve`] |
//! | what is left out | [`filter`] |
//! | what is pending, and how it merges | [`dirty`] |
//! | when a batch leaves | [`targets`] (`pace`) |
//! | how a path is listed | [`targets`] (`compose`), [`sync`] (`normal`, `filelist`) |
//! | rsync's options | [`sync`] (`argv`), [`config`] (`args`: those that a user adds) |
//! | what rsync's output and exit code mean | [`sync`] (`output`, `messages`, `outcome`) |
//! | what the end of a run means for its paths | [`targets`] (`completion`, `ended`) |
//! | files with several names | [`links`], [`targets`] (`linked`, `link_stalls`) |
//! | an emptied source, deletions that are held | [`guard`], [`engine`] (`hold`), [`targets`] (`guarded`) |
//! | lost events and comparisons | [`lost`], [`engine`] (`rescans`), [`scan`] |
//! | a restart: watermark, walk | [`state`], [`scan`], [`engine`] (`history`) |
//! | the order of an engine's turn, a flush | [`engine`] |
//! | a key of the configuration | [`config`] (`toml`, `checked`, `rules`), `docs/config.md` |
//! | a number in `status` or `/metrics` | [`status`], [`metrics`] |
//! | a subcommand | [`cli`], [`commands`] |
//! | a receiver of changes | [`hooks`] |
//! | threads, signals, reload, the control socket | [`daemon`], [`control`] |
//! | which of two servers may be written to | [`role`], [`failover`] |
//!
//! The modules below stand in three groups: the stages in the order of the pipeline, what they
//! share, and what a user sees. Which may use which is a list of layers in `layers_tests`; there
//! are no circles. One event, function by function: `docs/development/architecture.md`.

// What other modules use and no other crate does is `pub(crate)`, so that the compiler says what
// nothing uses.
#![warn(unreachable_pub)]
#![cfg_attr(not(feature = "feed"), allow(dead_code, unused_imports, reason = "some is there for feeds alone"))]
#![allow(rustdoc::private_intra_doc_links, reason = "its readers work on the crate: `cargo doc --document-private-items`")]
#![cfg_attr(
    not(test),
    deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic where the output cannot be written")
)]

// ----- the stages of the pipeline -----

pub mod source;
pub mod ring;
pub mod resolve;
pub mod filter;
pub mod dirty;
pub mod targets;
pub mod sync;
pub mod feed;
pub mod hooks;
pub mod engine;

// ----- what they share -----

pub mod sys;
pub mod path;
mod budget;
mod cover;
mod daily;
mod hash;
mod short;
mod lost;
pub mod root;
pub mod exports;
mod guard;
mod apart;
mod links;
pub mod scan;
pub mod state;
pub mod role;
pub mod location;
pub mod config;
pub mod trust;
mod privilege;
pub mod log;
pub mod faillog;
pub mod status;
mod progress;
mod text;
mod error;
pub mod exit;
mod socket;

// ----- what a user sees -----

mod daemon;
pub mod control;
mod metrics;
pub mod web;
pub mod failover;
#[cfg(feature = "feed")]
mod follow;
mod verify;
mod backups;
mod explain;
mod events;
mod watch;
pub mod connect;
mod import;
pub mod sersync;
#[cfg(feature = "lsyncd")]
pub mod lsyncd;
pub mod cli;
pub mod commands;
pub mod out;

#[cfg(test)]
mod docs_tests;
#[cfg(test)]
mod layers_tests;
#[cfg(test)]
mod scratch;
