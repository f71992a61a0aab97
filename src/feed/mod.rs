//! A change feed on NATS JetStream: what a source publishes, and what a follower makes of it.
//!
//! | part | holds |
//! | --- | --- |
//! | `barriers` | at the source: up to which record it has published; a thread |
//! | [`record`] | one message of the feed, byte by byte; pure |
//! | `batch` | what may travel in a record as an rsync batch, and rsync's words for it |
//! | [`pending`] | what a follower has read and does not hold yet; pure |
//! | [`machine`] | a follower's position, and when it owes a comparison; pure |
//! | [`moves`] | names that a follower gives by itself to what was renamed; pure |
//! | [`choice`] | which upstream a follower pulls from; pure |
//! | [`mark`] | the file in the source that identifies the tree |
//! | `note` | what a publisher and a follower keep on disk |
//! | `client` | the connection to the servers, on a thread of its own |
//! | `publisher` | the source's side of it |
//! | `writer` | rsync's batches, on a thread of its own |
//! | `reader` | a follower's side of it |
//!
//! The promise: a change is in the publisher's dirty set until its record is stored in the stream.
//! The stream is one order, and whatever breaks that order makes a follower compare its whole tree.
//! A record says where to look; a follower leaves a path alone once rsync has copied a state of it
//! that is as new as the record, or newer. A batch in the record is such a state.

#[cfg_attr(not(feature = "feed"), allow(dead_code, reason = "a configuration with a feed is refused then"))]
pub(crate) mod batch;
pub(crate) mod barriers;
pub mod choice;
#[cfg(feature = "feed")]
mod client;
pub mod machine;
pub(crate) mod mark;
pub(crate) mod note;
pub mod moves;
pub mod pending;
#[cfg(feature = "feed")]
mod publisher;
#[cfg(not(feature = "feed"))]
#[path = "absent.rs"]
mod publisher;
#[cfg(feature = "feed")]
pub(crate) mod reader;
pub mod record;
#[cfg(feature = "feed")]
pub(crate) mod writer;

pub(crate) use publisher::Publisher;

use serde::{Deserialize, Serialize};

use crate::location::Location;

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

/// What a relay reports to, too, so that its followers need no other's reports:
/// `fansync.relay.FEED.` and the key of the place that it serves; `*` for all.
pub(crate) fn relay_subject(feed: &str, key: &str) -> String {
    format!("fansync.relay.{feed}.{key}")
}

/// What stands for a place that a relay serves in the names of subjects: host, port if it is
/// another than rsync's, module and path. A dot is `_`, and what is no letter, digit or `-` is its
/// hexadecimal value after `=`. `None` for what is no module of an rsync daemon.
pub(crate) fn key(place: &Location) -> Option<String> {
    let Location::Daemon { host, port, module, path, .. } = place else { return None };
    let port = port.filter(|port| *port != 873).map(|port| format!(":{port}")).unwrap_or_default();
    let path = if path.is_empty() { String::new() } else { format!("/{path}") };
    let mut out = String::new();
    for byte in format!("{}{port}/{module}{path}", host.to_ascii_lowercase()).bytes() {
        match byte {
            b'.' => out.push('_'),
            b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => out.push(byte.into()),
            other => out.push_str(&format!("={other:02X}")),
        }
    }
    Some(out)
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
    /// Where it pulls from, or the relay that it waits for, without a password.
    #[serde(default)]
    pub(crate) upstream: String,
    /// Where a relay serves its tree.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) serve: String,
    /// Of a relay: the keys of the places that its tree comes by, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) through: Vec<String>,
    /// A number that it has drawn: it waits for a record that answers it, published after all that
    /// changed before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) barrier: String,
    /// Paths that it could not pull, and that are not in its position.
    #[serde(default)]
    pub(crate) failed: u64,
    /// When it made the report, seconds since 1970, by its own clock.
    #[serde(default)]
    pub(crate) unix: f64,
    /// The age of the oldest record that it does not hold, in seconds.
    #[serde(default)]
    pub(crate) lag_seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_key_for_all_logins() {
        let key = |text: &str| super::key(&Location::parse(text).unwrap());
        let plain = key("rsync://relay7.example.com/web");
        assert_eq!(plain.as_deref(), Some("relay7_example_com=2Fweb"));
        for same in ["rsync://m@Relay7.example.com:873/web", "relay7.example.com::web"] {
            assert_eq!(key(same), plain, "{same}");
        }
        for other in ["rsync://relay7_example.com/web", "rsync://relay7.example.com:8730/web", "rsync://relay7.example.com/web/a"]
        {
            assert_ne!(key(other), plain, "{other}");
        }
        assert_eq!(key("relay7:/srv/web"), None);
        assert!(!key("rsync://[::1]:9/a_b/c.d").unwrap().contains(['.', ' ', '*', '>']));
    }
}
