//! The engine's part in `fansync explain`.

use std::fs::Metadata;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::Engine;
use super::Handle;
use super::calls::{Call, call};
use crate::config::{Delete, Mirror, Origins};
use crate::explain::{AtTarget, Explanation, Verdict};
use crate::filter::Deciding;
use crate::path::{self, RelPath, Shown};
use crate::role::mark;
use crate::status::PathState;

/// How long an engine may take to answer; it drains its event queues first.
const PATIENCE: Duration = Duration::from_secs(10);

/// The reply of one engine about a path.
pub(crate) enum Said {
    /// It lies below the source.
    Explained(Box<Explanation>),
    /// It does not; where the source is.
    Elsewhere(String),
}

/// Requests an explanation of the first of these absolute paths that lies below its source. `None`:
/// the engine has ended, or does not answer.
pub(crate) fn explain(handle: &Handle, paths: Vec<PathBuf>) -> Option<Said> {
    call(handle, PATIENCE, |reply| Call::Explain(paths, reply))
}

impl Engine {
    /// Explains the first of these absolute paths that lies below the source.
    pub(super) fn explain_first(&mut self, paths: &[PathBuf]) -> Said {
        match paths.iter().find_map(|path| RelPath::new(self.root.strip(path.as_os_str().as_bytes())?)) {
            Some(path) => Said::Explained(Box::new(self.explain(&path))),
            None => Said::Elsewhere(Shown(self.root.path().as_os_str().as_bytes()).to_string()),
        }
    }

    fn explain(&mut self, path: &RelPath) -> Explanation {
        self.check_root();
        let meta = self.root.path().join(path.as_path()).symlink_metadata();
        let dir = meta.as_ref().is_ok_and(|m| m.is_dir());
        let filter = verdict(&self.mirror, path, dir);
        let targets = (0..self.targets.len()).map(|at| self.at_target(at, path, &filter, meta.as_ref().ok())).collect();
        let (watch, unwatched) = self.intake.watching.explain(&self.root, path);
        Explanation {
            mirror: self.mirror.name.clone(),
            source: Shown(self.root.path().as_os_str().as_bytes()).to_string(),
            path: path.to_string(),
            found: match &meta {
                Ok(meta) => kind_of(meta),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => "nothing is there".into(),
                Err(e) => format!("it cannot be looked at: {e}"),
            },
            held: self.held_words().unwrap_or_default(),
            filter,
            apart: self
                .guard
                .apart
                .foreign_over(path)
                .map(|(at, why)| format!("{}: {}", Shown(at), why.words()))
                .unwrap_or_default(),
            watch,
            unwatched,
            muted: self.is_muted(path, dir),
            walking: self.begin.status.walking,
            targets,
        }
    }

    /// Whether events of the directory that `path` is are muted in the kernel, or lies in.
    fn is_muted(&self, path: &RelPath, dir: bool) -> bool {
        let at = if dir { path.as_bytes() } else { path::parent(path).unwrap_or_default() };
        let at = std::path::Path::new(std::ffi::OsStr::from_bytes(if at.is_empty() { b"." } else { at }));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = openat(&self.root, at, flags, Mode::empty());
        opened.is_ok_and(|fd| self.intake.resolver.mutes_directory(fd.as_fd()).unwrap_or(false))
    }

    fn at_target(&self, at: usize, path: &RelPath, filter: &Verdict, meta: Option<&Metadata>) -> AtTarget {
        let target = &self.targets[at];
        let pending = target.explain(self.now(), path);
        // The mount point itself is mirrored, as a directory.
        let mounted = self.guard.apart.foreign_over(path).filter(|(at, _)| *at != path);
        let size = meta.filter(|meta| meta.is_file()).map(Metadata::size);
        let too_large = size.zip(self.mirror.max_file_size).is_some_and(|(size, most)| size > most);
        let (state, why) = match (filter.excluded, mounted) {
            (true, _) => (PathState::LeftOut, "it is neither sent nor deleted there".to_owned()),
            (false, Some((at, _))) => {
                (PathState::LeftOut, format!("what is mounted at {} does not belong to the mirror", Shown(at)))
            }
            (false, None) if too_large && pending.state == PathState::InSync => {
                (PathState::LeftOut, "it is larger than max_file_size".into())
            }
            (false, None) if meta.is_none() && !target.deletes() && pending.state == PathState::InSync => {
                let delete = self.mirror.delete;
                let until = if delete == Delete::Startup { " until the next start" } else { "" };
                (
                    PathState::InSync,
                    format!("gone from the source; delete = {} keeps on the target what was sent{until}", delete.shown()),
                )
            }
            (false, None) => (pending.state, pending.why),
        };
        AtTarget {
            name: target.cfg.name.clone(),
            url: target.cfg.location.to_string(),
            state,
            why,
            stopped: target.why_stopped().unwrap_or_default(),
        }
    }
}

/// What the filter of a mirror says of a path.
pub(crate) fn verdict(mirror: &Mirror, path: &RelPath, dir: bool) -> Verdict {
    let filter = &mirror.filter;
    let decision = filter.decide(path, dir);
    let origins: &Origins = &mirror.origins;
    let pattern = |list: &[Vec<u8>], n: usize| list.get(n).map(|p| Shown(p).to_string()).unwrap_or_default();
    let (rule, pattern, origin) = match decision.rule {
        None => ("", String::new(), String::new()),
        Some(Deciding::Ordered(n)) => {
            let rule = filter.ordered().get(n).map(|rule| Shown(&rule.text()).to_string());
            ("filter", rule.unwrap_or_default(), origins.of("filter", n))
        }
        Some(Deciding::Include(n)) => ("include", pattern(filter.include(), n), origins.of("include", n)),
        Some(Deciding::Exclude(n)) => {
            let ours = filter.exclude()[n] == format!("/{}", mark::DIR).into_bytes() && mirror.roles;
            let origin = origins.of("exclude", n);
            ("exclude", pattern(filter.exclude(), n), if ours && origin.is_empty() { "roles = true".into() } else { origin })
        }
        Some(Deciding::Expression(n)) => {
            ("exclude_regex", filter.expressions().get(n).cloned().unwrap_or_default(), origins.of("exclude_regex", n))
        }
        Some(Deciding::Temporary) => ("exclude_temporary", "true".into(), String::new()),
    };
    Verdict { excluded: decision.excluded, rule: rule.into(), pattern, origin, at: Shown(&decision.at).to_string() }
}

/// What an entry is, in words.
pub(crate) fn kind_of(meta: &Metadata) -> String {
    let kind = meta.file_type();
    if kind.is_file() {
        format!("a file of {} bytes", meta.size())
    } else if kind.is_dir() {
        "a directory".into()
    } else if kind.is_symlink() {
        "a symbolic link".into()
    } else if kind.is_fifo() || kind.is_socket() {
        format!("a {}", if kind.is_fifo() { "FIFO" } else { "socket" })
    } else {
        "a device node, which only a receiver that runs as root can make".into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn each_kind_of_entry_has_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "four").unwrap();
        symlink("file", at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for (path, want) in [
            (at("file"), "a file of 4 bytes"),
            (at(""), "a directory"),
            (at("link"), "a symbolic link"),
            (at("fifo"), "a FIFO"),
            (at("socket"), "a socket"),
            ("/dev/null".into(), "a device node, which only a receiver that runs as root can make"),
        ] {
            assert_eq!(kind_of(&path.symlink_metadata().unwrap()), want, "{}", path.display());
        }
    }
}
