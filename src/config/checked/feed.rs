//! A feed that a mirror publishes, and one that is followed.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{Compress, MaxDelete, Mirror, Target};
use crate::config::units;
use crate::filter::Filter;
use crate::location::Location;

/// A feed that is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Follow {
    /// The servers, and the feed's name.
    pub(crate) feed: Location,
    pub(crate) login: Login,
    /// The name that this follower has at the source.
    pub(crate) follower: String,
    /// What is pulled from if not the one target, in order of preference behind that; the last of
    /// all is the source.
    pub(crate) others: Vec<Location>,
    /// Where others pull what this one holds.
    pub(crate) serve: Option<Location>,
    /// A comparison that many followers owe at a time begins within this time.
    pub(crate) spread: Duration,
}

/// Who logs in to the servers of a feed, and how they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Login {
    /// A user, whose password is in `nats_password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nats_user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nats_password_file: Option<PathBuf>,
    /// The seed of an nkey.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nkey_file: Option<PathBuf>,
    /// Certificates that the servers' are signed by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The client's own certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
}

/// What a `[[mirror.feed]]` says beside its servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Feed {
    pub(crate) login: Login,
    /// How long records are kept.
    pub(crate) keep: Duration,
    /// How many bytes of them.
    pub(crate) keep_bytes: u64,
    /// Servers of a cluster that hold the stream.
    pub(crate) replicas: usize,
    /// What it excludes is published after all that changed before.
    pub(crate) last: Filter,
    /// Changes with at most so many bytes of content travel in their record.
    pub(crate) inline: u64,
}

impl Default for Feed {
    fn default() -> Feed {
        Feed {
            login: Login::default(),
            keep: Duration::from_secs(3 * 24 * 3600),
            keep_bytes: 4 << 30,
            replicas: 1,
            last: Filter::none(),
            inline: 256 << 10,
        }
    }
}

/// As `[[mirror.feed]]` has it.
#[derive(Serialize)]
pub(super) struct FeedKeys<'a> {
    name: &'a str,
    servers: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    feed: Option<&'a str>,
    #[serde(flatten)]
    login: &'a Login,
    keep: String,
    keep_bytes: String,
    replicas: usize,
    last: Vec<&'a str>,
    inline: String,
    retry_min: String,
    retry_max: String,
}

impl<'a> FeedKeys<'a> {
    pub(super) fn of(mirror: &Mirror, target: &'a Target) -> Option<FeedKeys<'a>> {
        let (Location::Feed { servers, feed }, Some(keys)) = (&target.location, &target.feed) else { return None };
        Some(FeedKeys {
            name: &target.name,
            servers,
            feed: (*feed != mirror.name).then_some(feed),
            login: &keys.login,
            keep: units::shown(keys.keep),
            keep_bytes: size(keys.keep_bytes),
            replicas: keys.replicas,
            // Patterns of a file are UTF-8.
            last: keys.last.exclude().iter().filter_map(|p| std::str::from_utf8(p).ok()).collect(),
            inline: size(keys.inline),
            retry_min: units::shown(target.retry_min),
            retry_max: units::shown(target.retry_max),
        })
    }
}

/// A size with the largest unit that it is a multiple of.
fn size(bytes: u64) -> String {
    if bytes == 0 {
        return "0".into();
    }
    let unit = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")].into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

/// A value, or a list of them.
#[derive(Serialize)]
#[serde(untagged)]
enum OneOrMore<'a> {
    One(&'a Location),
    More(Vec<&'a Location>),
}

/// As `[[follow]]` has it.
#[derive(Serialize)]
pub(super) struct FollowKeys<'a> {
    name: &'a str,
    servers: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    feed: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    follower: Option<&'a str>,
    #[serde(flatten)]
    login: &'a Login,
    directory: &'a std::path::Path,
    upstream: OneOrMore<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serve: &'a Option<Location>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_file: &'a Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_delete: Option<MaxDelete>,
    spread: String,
    exclude: Vec<&'a str>,
    xattrs: bool,
    acls: bool,
    sparse: bool,
    compress: Compress,
    timeout: String,
    connect_timeout: String,
    watchdog: String,
    retry_min: String,
    retry_max: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh: &'a Option<String>,
    rsync: &'a std::path::Path,
}

impl<'a> FollowKeys<'a> {
    pub(super) fn of<E: serde::ser::Error>(mirror: &'a Mirror) -> Result<Option<FollowKeys<'a>>, E> {
        let (Some(follow), Some(upstream)) = (&mirror.follow, mirror.targets.first()) else { return Ok(None) };
        let Location::Feed { servers, feed } = &follow.feed else { return Ok(None) };
        let text = |p: &'a Vec<u8>| std::str::from_utf8(p).map_err(|_| E::custom("a pattern is not UTF-8"));
        Ok(Some(FollowKeys {
            name: &mirror.name,
            servers,
            feed: (*feed != mirror.name).then_some(feed),
            follower: (follow.follower != crate::config::host_name()).then_some(&follow.follower),
            login: &follow.login,
            directory: &mirror.source,
            upstream: match &*follow.others {
                [] => OneOrMore::One(&upstream.location),
                others => OneOrMore::More(std::iter::once(&upstream.location).chain(others).collect()),
            },
            serve: &follow.serve,
            password_file: &upstream.password_file,
            max_delete: mirror.max_delete,
            spread: units::shown(follow.spread),
            exclude: mirror.filter.exclude().iter().map(text).collect::<Result<_, E>>()?,
            xattrs: mirror.extras.xattrs,
            acls: mirror.extras.acls,
            sparse: mirror.extras.sparse,
            compress: upstream.compress,
            timeout: units::shown(upstream.timeout),
            connect_timeout: units::shown(upstream.connect_timeout),
            watchdog: units::shown(upstream.watchdog),
            retry_min: units::shown(upstream.retry_min),
            retry_max: units::shown(upstream.retry_max),
            ssh: &upstream.ssh,
            rsync: &mirror.rsync,
        }))
    }
}
