//! What the local rsync can do, and whether a target is usable.
//!
//! Promises: versions decide only what cannot be tried, and everything else is tried: distributions
//! carry fixes back, and `--delete-missing-args` fails with receivers that call themselves 3.2.7
//! and 3.4.3 while others of that number take it.
//!
//! The local half costs two short processes, once per start. The target's half is a dry run
//! ([`Pass::Probe`][super::argv::Pass::Probe]) that names one path that does not exist, with all
//! the options that other passes use: it connects, authenticates, enters the directory, and meets
//! each refusal, but changes nothing.

use std::ffi::OsString;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::argv::environment;
use super::dialect::Dialect;
use super::outcome::{Exit, Outcome, Verdict};
use super::output::Signs;
use super::run::{CollectError, collect};
use crate::config::LocalRsync;
use crate::path::Shown;

/// The oldest rsync that is taken; see [`super::dialect`] for what it does not know.
pub(crate) const OLDEST: Version = Version(3, 1, 2);

/// The oldest one for feeds and followers, whose command lines have no older form.
pub(crate) const OLDEST_OF_FEEDS: Version = Version(3, 2, 3);

/// How long rsync may take to print its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// rsync's version: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What the local rsync can do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RsyncFacts {
    /// Its version.
    pub version: Version,
    /// `--confine-root` works (3.5.0 and later): a directory that becomes a symbolic link cannot
    /// lead the sender out of the tree.
    pub confine_root: bool,
    /// Which options it knows.
    pub dialect: Dialect,
    /// `-A` works.
    pub(crate) acls: bool,
    /// `-X` works.
    pub(crate) xattrs: bool,
    /// What `--compress-choice` takes.
    pub(crate) compress: Vec<String>,
}

/// The rsync of this host, run as a probe.
pub(crate) struct Asked;

impl LocalRsync for Asked {
    fn unconfined(&self, rsync: &Path) -> Option<String> {
        RsyncFacts::probe(rsync, &environment(std::env::vars_os())).ok()?.unconfined()
    }

    fn refuses(&self, rsync: &Path, args: &[String]) -> Option<String> {
        RsyncFacts::refused(rsync, args, &environment(std::env::vars_os()))
    }
}

/// Why rsync cannot be used.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// It cannot be run.
    #[error("cannot get the version of {rsync:?}: install rsync {OLDEST} or later, or set its path")]
    Run {
        /// The program.
        rsync: PathBuf,
        /// Why.
        #[source]
        source: CollectError,
    },
    /// It does not say a version.
    #[error("{rsync:?} does not print its version but {answer:?} ({exit:?}): is this rsync?")]
    NotRsync {
        /// The program.
        rsync: PathBuf,
        /// The first line of its output.
        answer: String,
        /// How it ended.
        exit: Exit,
    },
    /// It cannot be confined, and the mirror requires that.
    #[error(
        "mirror {mirror:?}: require_confined is set, and {rsync:?} is rsync {found}, which has no --confine-root: install rsync 3.5.0 or later, or remove require_confined"
    )]
    Unconfined {
        /// The mirror.
        mirror: String,
        /// The program.
        rsync: PathBuf,
        /// What it says it is.
        found: Version,
    },
    /// It is too old for a feed.
    #[error("{rsync:?} is rsync {found}, which is too old for feeds and followers: install rsync {OLDEST_OF_FEEDS} or later")]
    TooOldForFeeds {
        /// The program.
        rsync: PathBuf,
        /// What it says it is.
        found: Version,
    },
    /// It is too old.
    #[error("{rsync:?} is rsync {found}, which is too old: install rsync {OLDEST} or later")]
    TooOld {
        /// The program.
        rsync: PathBuf,
        /// What it says it is.
        found: Version,
    },
}

impl RsyncFacts {
    /// Asks and tries the program `rsync`, with the environment `env`. Blocks for some
    /// milliseconds.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub fn probe(rsync: &Path, env: &[(OsString, OsString)]) -> Result<RsyncFacts, ProbeError> {
        let ask = |args: &[&str]| {
            let argv: Vec<OsString> = [rsync.as_os_str().to_owned()].into_iter().chain(args.iter().map(OsString::from)).collect();
            collect(&argv, env, 64 * 1024, PATIENCE).map_err(|source| ProbeError::Run { rsync: rsync.into(), source })
        };
        // Twice -V: JSON where rsync offers it (3.2.7 and later), else the text of --version, which
        // has no short form before 3.2.0.
        let answer = match ask(&["-VV"])? {
            unknown if unknown.exit == Exit::Code(1) => ask(&["--version"])?,
            answer => answer,
        };
        let facts = RsyncFacts::parse(&answer.stdout).filter(|_| answer.exit == Exit::Code(0));
        let mut facts = facts.ok_or_else(|| {
            let text = if answer.stdout.is_empty() { &answer.stderr } else { &answer.stdout };
            let line = text.split(|&b| b == b'\n').next().unwrap_or_default();
            ProbeError::NotRsync { rsync: rsync.into(), answer: Shown(line).to_string(), exit: answer.exit }
        })?;
        if facts.version < OLDEST {
            return Err(ProbeError::TooOld { rsync: rsync.into(), found: facts.version });
        }
        // Options are read in their order, so an unknown one fails before the version is shown.
        facts.confine_root = ask(&["--confine-root=/", "--version"])?.exit == Exit::Code(0);
        Ok(facts)
    }

    /// What the program `rsync` says against options for it; `None` where it takes them, or cannot
    /// be probed.
    pub(crate) fn refused(rsync: &Path, args: &[String], env: &[(OsString, OsString)]) -> Option<String> {
        // Options are read in their order, so one that it does not take fails before the version is
        // shown.
        let words = args.iter().map(OsString::from).chain(["--version".into()]);
        let argv: Vec<OsString> = [rsync.as_os_str().to_owned()].into_iter().chain(words).collect();
        let answer = collect(&argv, env, 64 * 1024, PATIENCE).ok().filter(|answer| answer.exit != Exit::Code(0))?;
        let line = answer.stderr.split(|&b| b == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
        Some(Shown(line.strip_prefix(b"rsync: ").unwrap_or(line)).to_string())
    }

    /// The warning about a sender that cannot be confined; `None` of one that can.
    pub(crate) fn unconfined(&self) -> Option<String> {
        (!self.confine_root).then(|| {
            format!(
                "rsync {} has no --confine-root: a user who may write below the source can have any file of this host copied, also one that only root may read, by putting \
                 a symbolic link in the place of a directory while it is sent; install rsync 3.5.0 or later where such users are not trusted",
                self.version
            )
        })
    }

    /// Reads the output of `rsync -VV`: JSON, or the text of `--version`. `confine_root` is left
    /// off.
    pub fn parse(text: &[u8]) -> Option<RsyncFacts> {
        if let Ok(json) = serde_json::from_slice::<serde_json::Value>(text) {
            let capable = |name: &str| json["capabilities"][name].as_bool().unwrap_or(false);
            let compress = json["compress_list"].as_array().map(Vec::as_slice).unwrap_or_default();
            let version = version(json["version"].as_str()?)?;
            return Some(RsyncFacts {
                version,
                dialect: Dialect::of(version),
                acls: capable("ACLs"),
                xattrs: capable("xattrs"),
                compress: compress.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect(),
                confine_root: false,
            });
        }
        let text = std::str::from_utf8(text).ok()?;
        let answer = text.strip_prefix("rsync ")?.trim_start().strip_prefix("version ")?.split_whitespace().next()?;
        let capable = |name: &str| text.split([',', '\n']).any(|item| item.trim() == name);
        let compress = text.lines().skip_while(|line| !line.starts_with("Compress list:")).nth(1).unwrap_or_default();
        let version = version(answer)?;
        Some(RsyncFacts {
            version,
            dialect: Dialect::of(version),
            acls: capable("ACLs"),
            xattrs: capable("xattrs"),
            compress: compress.split_whitespace().map(String::from).collect(),
            confine_root: false,
        })
    }
}

/// `3.2.7`, `v3.2.3`, `3.4.0pre1`.
fn version(text: &str) -> Option<Version> {
    let mut parts = text.trim_start_matches('v').splitn(3, '.').map(|part| {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        part[..digits].parse().ok()
    });
    Some(Version(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

/// What a probe says about a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetState {
    /// All passes work.
    Usable,
    /// It works, but deletions are to be listed by parent: [`super::argv::Spec::missing_args`] off.
    UseFallback,
    /// It will not work before a change by an administrator; the reason for a human.
    Config(String),
    /// It does not work now; the reason for a human.
    Down(String),
    /// The source's root cannot be entered, so nothing is known of the target.
    Source(String),
}

/// The list for a probe: one name that no tree holds.
pub fn probe_list() -> Vec<u8> {
    format!("./.probe-{:016x}\0", RandomState::new().hash_one(std::process::id())).into_bytes()
}

/// Judges the outcome of a [`Pass::Probe`][super::argv::Pass::Probe] run. `signs`: of the same run.
///
/// An itemised root (its mtime differs) is no finding. A probe with
/// [`Spec::missing_args`][super::argv::Spec::missing_args] off never answers
/// [`TargetState::UseFallback`].
pub fn interpret_probe(outcome: &Outcome, signs: &Signs) -> TargetState {
    let reason = || outcome.reason.clone();
    match &outcome.verdict {
        // Also for a missing argument that a receiver takes for a node it may not make.
        Verdict::NoMissingArgs => TargetState::UseFallback,
        _ if signs.skipped => TargetState::UseFallback,
        Verdict::Refused { option } if option.trim_start_matches('-') == "delete-missing-args" => TargetState::UseFallback,
        Verdict::Done => TargetState::Usable,
        Verdict::Refused { .. } | Verdict::Config => TargetState::Config(reason()),
        Verdict::SourceRoot => TargetState::Source(reason()),
        _ => TargetState::Down(reason()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_text() {
        let json = br#"{"program": "rsync", "version": "3.5.0", "capabilities": {"xattrs": true, "ACLs": false},
            "compress_list": ["zstd", "none"]}"#;
        let want = RsyncFacts {
            version: Version(3, 5, 0),
            confine_root: false,
            dialect: Dialect::Current,
            acls: false,
            xattrs: true,
            compress: vec!["zstd".into(), "none".into()],
        };
        assert_eq!(RsyncFacts::parse(json), Some(want.clone()));
        // Abridged from rsync 3.2.3.
        let text = b"rsync  version v3.2.3  protocol version 31\nCapabilities:\n    64-bit files, socketpairs,\n    IPv6, \
            no ACLs, xattrs, optional protect-args\nChecksum list:\n    xxh64 md5\nCompress list:\n    zstd none\n";
        assert_eq!(RsyncFacts::parse(text), Some(RsyncFacts { version: Version(3, 2, 3), ..want }));
        for other in [&b""[..], b"busybox", b"openrsync: protocol version 29", b"{}", b"rsync  version x"] {
            assert_eq!(RsyncFacts::parse(other), None, "{}", Shown(other));
        }
    }

    #[test]
    fn versions() {
        for (text, want) in [
            ("3.2.7", Some(Version(3, 2, 7))),
            ("v3.4.0pre1", Some(Version(3, 4, 0))),
            ("3.1", Some(Version(3, 1, 0))),
            ("3.10.12-2", Some(Version(3, 10, 12))),
            ("three", None),
            ("3", None),
        ] {
            assert_eq!(version(text), want, "{text}");
        }
        assert!(Version(3, 10, 0) > Version(3, 2, 9));
    }

    #[test]
    fn probes_interpreted() {
        let judged = |verdict: Verdict, skipped: bool| {
            let outcome = Outcome { verdict, ..Outcome::unknown("why".into()) };
            interpret_probe(&outcome, &Signs { skipped, ..Signs::default() })
        };
        let refused = |option: &str| Verdict::Refused { option: option.into() };
        let why = || "why".to_owned();
        for (verdict, skipped, want) in [
            (Verdict::Done, false, TargetState::Usable),
            (Verdict::Partial, true, TargetState::UseFallback),
            (Verdict::NoMissingArgs, false, TargetState::UseFallback),
            (refused("--delete-missing-args"), false, TargetState::UseFallback),
            (refused("--delete"), false, TargetState::Config(why())),
            (Verdict::Config, false, TargetState::Config(why())),
            (Verdict::TargetDown, false, TargetState::Down(why())),
            (Verdict::Busy, false, TargetState::Down(why())),
            (Verdict::TargetMissing, false, TargetState::Down(why())),
            (Verdict::Partial, false, TargetState::Down(why())),
            (Verdict::SourceRoot, false, TargetState::Source(why())),
        ] {
            assert_eq!(judged(verdict.clone(), skipped), want, "{verdict:?}");
        }
    }

    #[test]
    fn probe_lists_differ() {
        assert!(probe_list().starts_with(b"./.probe-") && probe_list().ends_with(b"\0"));
        assert_ne!(probe_list(), probe_list());
    }
}
