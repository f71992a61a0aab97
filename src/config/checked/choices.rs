//! Keys whose value is one of a few words, and bounds on deletions.

use clap::ValueEnum;
use serde::{Serialize, Serializer};

/// When what is gone from the source is deleted on the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delete {
    /// As it goes, and by comparisons.
    Always,
    /// Never.
    Never,
    /// By the comparison at the start, and at no other time.
    Startup,
    /// As it goes; comparisons leave alone what only the target has.
    Running,
}

impl Delete {
    /// Whether anything is ever deleted.
    pub(crate) fn ever(self) -> bool {
        self != Delete::Never
    }

    /// Whether what goes is deleted as it goes.
    pub(crate) fn follows(self) -> bool {
        matches!(self, Delete::Always | Delete::Running)
    }

    /// As messages write it.
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Delete::Always => "true",
            Delete::Never => "false",
            Delete::Startup => "\"startup\"",
            Delete::Running => "\"running\"",
        }
    }
}

impl From<bool> for Delete {
    fn from(on: bool) -> Delete {
        if on { Delete::Always } else { Delete::Never }
    }
}

/// As the configuration has it: a truth value, or a word.
impl Serialize for Delete {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Delete::Always => serializer.serialize_bool(true),
            Delete::Never => serializer.serialize_bool(false),
            Delete::Startup => serializer.serialize_str("startup"),
            Delete::Running => serializer.serialize_str("running"),
        }
    }
}

/// How many entries one batch or one comparison may delete on a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MaxDelete {
    /// So many.
    Count(u64),
    /// That share of the tree's entries, 1 to 100.
    Percent(u8),
}

impl std::fmt::Display for MaxDelete {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MaxDelete::Count(count) => write!(f, "{count}"),
            MaxDelete::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for MaxDelete {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            MaxDelete::Count(count) => serializer.serialize_u64(*count),
            MaxDelete::Percent(_) => serializer.collect_str(self),
        }
    }
}

/// What happens at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Initial {
    /// The targets are made equal to the source.
    Reconcile,
    /// Only changes from now on are carried over.
    None,
}

/// When files are sent while they are open for writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FollowOpenFiles {
    /// Where other hosts write to the source: it is exported by NFS, or shared by Samba.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl From<bool> for FollowOpenFiles {
    fn from(on: bool) -> FollowOpenFiles {
        if on { FollowOpenFiles::On } else { FollowOpenFiles::Off }
    }
}

impl std::str::FromStr for FollowOpenFiles {
    type Err = String;

    fn from_str(text: &str) -> Result<FollowOpenFiles, String> {
        match text {
            "auto" => Ok(FollowOpenFiles::Auto),
            "true" => Ok(FollowOpenFiles::On),
            "false" => Ok(FollowOpenFiles::Off),
            _ => Err(format!("{text:?} is none of auto, true, false")),
        }
    }
}

/// As the configuration has it: a truth value, or a word.
impl Serialize for FollowOpenFiles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            FollowOpenFiles::Auto => serializer.serialize_str("auto"),
            FollowOpenFiles::On => serializer.serialize_bool(true),
            FollowOpenFiles::Off => serializer.serialize_bool(false),
        }
    }
}

/// Where events come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Watch {
    /// fanotify where the kernel and the filesystem have it, else inotify; per filesystem.
    Auto,
    /// fanotify or an error.
    Fanotify,
    /// inotify, one watch per directory.
    Inotify,
}

/// How runs stand behind other processes for disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IoNice {
    /// As the daemon does.
    Normal,
    /// Best effort, at the lowest level.
    Low,
    /// When no other process uses the disk.
    Idle,
}

/// Compression on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Compress {
    /// None; right for fast networks.
    None,
    /// zstd.
    Zstd,
    /// lz4.
    Lz4,
    /// zlib, which every rsync has.
    Zlib,
}

impl Compress {
    /// The name that rsync's `--compress-choice` takes; `None` for no compression.
    pub(crate) fn choice(self) -> Option<&'static str> {
        match self {
            Compress::None => None,
            Compress::Zstd => Some("zstd"),
            Compress::Lz4 => Some("lz4"),
            Compress::Zlib => Some("zlib"),
        }
    }
}
