//! `fansync explain PATH`: which mirror a path belongs to, what decides whether it is sent, and
//! where it is on its way.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::Whom;
use crate::path::Shown;
use crate::status::PathState;

/// The end of `fansync explain --help`.
pub(crate) const HELP: &str = "\
PATH need not exist any more. Directories above it that are symbolic links are followed; PATH itself is followed only when it lies below no \
source as it is. Every event received so far is taken into account.

Examples:
  fansync explain /srv/data/report.pdf
  fansync explain --json ./cache/x

Exit codes: 0 printed, 1 no mirror covers it, 64 usage, 69 no daemon answers, 77 not permitted.";

/// `fansync explain`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ExplainArgs {
    /// A file or directory below a source, there or gone
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Which daemon
    #[command(flatten)]
    pub(crate) whom: Whom,
}

/// What one mirror says of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// The mirror's name.
    pub(crate) mirror: String,
    pub(crate) source: String,
    /// Relative to the source, escaped for display.
    pub(crate) path: String,
    /// The entry as it is now.
    pub(crate) found: String,
    /// Why the mirror sends nothing at all; empty when it does.
    pub(crate) held: String,
    /// Whether it belongs to the mirror.
    pub(crate) filter: Verdict,
    /// What is mounted at it or above it does not belong to the mirror: where, and why; empty
    /// otherwise.
    #[serde(default)]
    pub(crate) apart: String,
    /// How its filesystem is watched.
    pub(crate) watch: Watched,
    /// The subtree that is not watched and is compared periodically instead; empty when it is
    /// watched.
    pub(crate) unwatched: String,
    /// The entries of its directory are muted in the kernel, as they are left out and busy.
    #[serde(default)]
    pub(crate) muted: bool,
    /// The walk over the source after the start goes on: what changed before may not be known yet.
    pub(crate) walking: bool,
    pub(crate) targets: Vec<AtTarget>,
}

/// What the filter says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// It is left out.
    pub(crate) excluded: bool,
    /// The key of the rule that decides: `include`, `exclude`, `exclude_regex`,
    /// `exclude_temporary`; empty: none matches.
    pub(crate) rule: String,
    pub(crate) pattern: String,
    /// Where that is written: `FILE:LINE:COLUMN`, or an option.
    pub(crate) origin: String,
    /// What it matches: the path, or a directory above it.
    pub(crate) at: String,
}

/// How a filesystem is watched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Watched {
    /// Where it is mounted, or the source.
    pub(crate) mount: String,
    /// It is mounted below the source.
    pub(crate) nested: bool,
    /// `fanotify` or `inotify`.
    pub(crate) backend: String,
    pub(crate) why: String,
}

/// A path at a target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AtTarget {
    pub(crate) name: String,
    /// Where it is.
    pub(crate) url: String,
    /// Where it stands.
    pub(crate) state: PathState,
    /// Since when, why, what is next.
    pub(crate) why: String,
    /// Why nothing goes there now; empty when it does.
    pub(crate) stopped: String,
}

/// What the daemon says of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// One for each mirror that covers it.
    pub(crate) mirrors: Vec<Explanation>,
    /// The sources of the others.
    pub(crate) elsewhere: Vec<String>,
}

/// The absolute paths that `path` may mean, the likelier first: itself, in the directory it is
/// really in; and what it leads to.
///
/// # Errors
/// The working directory cannot be determined.
pub(crate) fn meanings(path: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let absolute = if path.is_absolute() { path.to_owned() } else { std::env::current_dir()?.join(path) };
    let real = in_real_directory(&absolute);
    let followed = absolute.canonicalize().ok().filter(|followed| *followed != real);
    Ok([Some(real), followed].into_iter().flatten().map(|p| OsString::from(p).as_bytes().to_vec()).collect())
}

/// `absolute` with every directory above its last component followed, as far as it exists.
fn in_real_directory(absolute: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in absolute.components() {
        // What was put together so far is a directory above: where it leads counts, before `..`
        // above all.
        out = out.canonicalize().unwrap_or(out);
        match component {
            Component::ParentDir => _ = out.pop(),
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

impl Explained {
    /// For a terminal.
    pub(crate) fn human(&self) -> String {
        let mut out = String::new();
        for mirror in &self.mirrors {
            mirror.human(&mut out);
        }
        out
    }
}

impl Explanation {
    fn human(&self, out: &mut String) {
        let _ = writeln!(out, "{} in mirror {} of {}", self.path, self.mirror, self.source);
        let _ = writeln!(out, "  found   {}", self.found);
        if !self.held.is_empty() {
            let _ = writeln!(out, "  HELD    {}; nothing is sent or deleted", self.held);
        }
        let f = &self.filter;
        let at = if f.at == self.path { String::new() } else { format!(", for {} above it", f.at) };
        let origin = if f.origin.is_empty() { String::new() } else { format!(" ({})", f.origin) };
        let _ = match (f.rule.as_str(), f.excluded) {
            ("", _) if !self.apart.is_empty() => writeln!(out, "  filter  no pattern matches"),
            ("", _) => writeln!(out, "  filter  belongs to the mirror: no pattern matches"),
            (rule, true) => writeln!(out, "  filter  left out by {rule} \"{}\"{origin}{at}", f.pattern),
            (rule, false) => writeln!(out, "  filter  belongs to the mirror by {rule} \"{}\"{origin}", f.pattern),
        };
        if !self.apart.is_empty() {
            let _ = writeln!(out, "  apart   {}", self.apart);
        }
        let nested = if self.watch.nested { ", mounted below the source" } else { "" };
        let _ = writeln!(out, "  watch   {} on {}{nested} ({})", self.watch.backend, self.watch.mount, self.watch.why);
        if !self.unwatched.is_empty() {
            let _ = writeln!(out, "          not watched, compared periodically: {}", self.unwatched);
        }
        if self.muted {
            let _ = writeln!(
                out,
                "  muted   its directory is left out and busy, so the kernel does not report events there; watched again once it matters"
            );
        }
        if self.walking {
            let _ = writeln!(
                out,
                "  start   the walk over the source goes on: what changed while fansync was down may not be known yet"
            );
        }
        for t in &self.targets {
            let _ = writeln!(out, "  target {}  {}", t.name, t.url);
            let _ = writeln!(out, "    {}: {}", t.state, t.why);
            if !t.stopped.is_empty() {
                let _ = writeln!(out, "    {}", t.stopped);
            }
        }
    }
}

/// The answer for a path that no mirror covers.
pub(crate) fn nowhere(path: &Path, sources: &[String]) -> String {
    let path = Shown(path.as_os_str().as_bytes()).to_string();
    format!("no mirror covers {path}; the sources are: {}", sources.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_may_mean() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(top.join("real/sub")).unwrap();
        std::os::unix::fs::symlink("real", top.join("link")).unwrap();
        std::os::unix::fs::symlink("real/sub", top.join("deep")).unwrap();
        let of = |path: &str| -> Vec<String> {
            let paths = meanings(&top.join(path)).unwrap();
            paths.iter().map(|p| String::from_utf8_lossy(&p[top.as_os_str().len()..]).into_owned()).collect()
        };
        assert_eq!(of("real/gone/f"), ["/real/gone/f"]);
        assert_eq!(of("link/f"), ["/real/f"]);
        assert_eq!(of("link"), ["/link", "/real"], "a link is one itself, before what it leads to");
        assert_eq!(of("link/sub"), ["/real/sub"]);
        assert_eq!(of("deep/../f"), ["/real/f"], "what is above is above where the link leads");
        assert_eq!(of("./real//./x"), ["/real/x"]);
    }

    #[test]
    fn the_words_for_it() {
        let mirror = Explanation {
            mirror: "m".into(),
            source: "/s".into(),
            path: "cache/x".into(),
            found: "nothing is there".into(),
            filter: Verdict {
                excluded: true,
                rule: "exclude".into(),
                pattern: "/cache/".into(),
                origin: "/etc/f.toml:4:12".into(),
                at: "cache".into(),
            },
            apart: "cache: tmpfs".into(),
            targets: vec![AtTarget {
                name: "t".into(),
                state: PathState::LeftOut,
                stopped: "paused".into(),
                ..AtTarget::default()
            }],
            ..Explanation::default()
        };
        let text = Explained { mirrors: vec![mirror], elsewhere: Vec::new() }.human();
        for want in [
            "cache/x in mirror m of /s\n",
            "  filter  left out by exclude \"/cache/\" (/etc/f.toml:4:12), for cache above it\n",
            "  apart   cache: tmpfs\n",
            "    left out: ",
            "\n    paused\n",
        ] {
            assert!(text.contains(want), "{want:?} is not in\n{text}");
        }
    }
}
