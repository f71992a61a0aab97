//! A change feed on NATS JetStream: what a source publishes, and what a follower makes of it.
//!
//! | part | holds |
//! | --- | --- |
//! | [`record`] | one message of the feed, byte by byte; pure |
//! | [`pending`] | what a follower has read and does not hold yet; pure |
//! | [`machine`] | a follower's position, and when it owes a comparison; pure |
//! | [`mark`] | the file in the source that identifies the tree |
//! | `note` | what a publisher and a follower keep on disk |
//! | `client` | the connection to the servers, on a thread of its own |
//! | `publisher` | the source's side of it |
//! | `reader` | a follower's side of it |
//!
//! The promise: a change is in the publisher's dirty set until its record is stored in the stream.
//! The stream is one order, and whatever breaks that order makes a follower compare its whole tree.
//! A record only says where to look; a follower leaves a path alone once rsync has copied a state
//! of it that is as new as the record, or newer.

#[cfg(feature = "feed")]
mod client;
pub mod machine;
pub(crate) mod mark;
pub(crate) mod note;
pub mod pending;
#[cfg(feature = "feed")]
mod publisher;
#[cfg(not(feature = "feed"))]
#[path = "absent.rs"]
mod publisher;
#[cfg(feature = "feed")]
pub(crate) mod reader;
pub mod record;

pub(crate) use publisher::Publisher;

use serde::{Deserialize, Serialize};

/// The stream of a feed.
pub(crate) fn stream(feed: &str) -> String {
    format!("FANSYNC_{feed}")
}

/// What its records are published to.
pub(crate) fn subject(feed: &str) -> String {
    format!("fansync.{feed}")
}

/// What the server repeats them to.
pub(crate) fn live_subject(feed: &str) -> String {
    format!("fansync.live.{feed}")
}

/// The stream of the followers' positions.
pub(crate) fn positions(feed: &str) -> String {
    format!("FANSYNC_AT_{feed}")
}

/// What a follower reports its position to; `*` for those of all.
pub(crate) fn position_subject(feed: &str, follower: &str) -> String {
    format!("fansync.at.{feed}.{follower}")
}

/// A follower's report on itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Its version of fansync.
    #[serde(default)]
    pub(crate) version: String,
    /// The incarnation of the publisher that its position is of; in hexadecimal.
    #[serde(default)]
    pub(crate) incarnation: String,
    /// It holds everything up to this record of the stream.
    #[serde(default)]
    pub(crate) sequence: u64,
    /// A word: `idle`, `syncing`, `comparing`, `paused`, `held`, `down`, `failing`.
    #[serde(default)]
    pub(crate) state: String,
    /// Why, where it is none of the first three.
    #[serde(default)]
    pub(crate) reason: String,
    /// Where it pulls from, without a password.
    #[serde(default)]
    pub(crate) upstream: String,
    /// When it made the report, seconds since 1970, by its own clock.
    #[serde(default)]
    pub(crate) unix: f64,
    /// The age of the oldest record that it does not hold, in seconds.
    #[serde(default)]
    pub(crate) lag_seconds: f64,
}
