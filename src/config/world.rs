//! What is valid and cannot work, or not as meant, on this host as it is now: for `check` to warn
//! of.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::statfs::{self, FsType, statfs};

use super::hook::{Action, Hook};
use super::{Mirror, Target};
use crate::filter::Filter;
use crate::location::Location;
use crate::path::Shown;
use crate::trust;

/// Filesystems whose changes raise no events, or only those that are made on this host.
const SILENT: [(FsType, &str, &str); 5] = [
    (statfs::PROC_SUPER_MAGIC, "procfs", "which raises no events: nothing would be mirrored"),
    (statfs::SYSFS_MAGIC, "sysfs", "which raises no events: nothing would be mirrored"),
    (statfs::NFS_SUPER_MAGIC, "NFS", OTHERS),
    (statfs::SMB_SUPER_MAGIC, "SMB", OTHERS),
    (FsType(0xff53_4d42), "SMB", OTHERS), // CIFS_SUPER_MAGIC, linux/magic.h
];
const OTHERS: &str =
    "where changes that other hosts make raise no events here: run fansync on the server, or compare at times (full_every)";

/// What is to be said, with the key that it is about, as a path below the section's.
pub(super) type Notes = Vec<(String, String)>;

/// About the mirror itself.
pub(super) fn of_mirror(mirror: &Mirror) -> Notes {
    let mut out = misplaced_patterns(&mirror.filter, &mirror.source);
    if let Ok(leads_to) = mirror.source.canonicalize().as_ref()
        && *leads_to != mirror.source
    {
        let text = format!(
            "the source {} is given through a symbolic link and leads to {} now; when the link is switched, the new tree is mirrored",
            mirror.source.display(),
            leads_to.display()
        );
        out.push(("source".into(), text));
    }
    if let Ok(fs) = statfs(&mirror.source)
        && let Some((_, name, what)) = SILENT.iter().find(|(kind, ..)| *kind == fs.filesystem_type())
    {
        out.push(("source".into(), format!("the source {} lies on {name}, {what}", mirror.source.display())));
    }
    if trust::program(&mirror.rsync).is_none() {
        out.push(("rsync".into(), format!("there is no program {} (rsync)", mirror.rsync.display())));
    }
    out
}

/// About one of its targets.
pub(super) fn of_target(target: &Target) -> Notes {
    let mut out = Vec::new();
    match &target.location {
        Location::Local(path) if !path.is_dir() => {
            let text = format!("the directory {} is not there; make it, or mount what belongs there", path.display());
            out.push(("url".into(), text));
        }
        Location::Daemon { user: Some(user), .. } if target.password_file.is_none() => {
            let text = format!(
                "the URL names the user {user}, and there is no password_file: a module that asks for a password refuses"
            );
            out.push(("url".into(), text));
        }
        _ => {}
    }
    if let Some(file) = &target.password_file
        && std::fs::read(file)
            .is_ok_and(|text| text.split(|b| *b == b'\n').next().is_none_or(|line| line.trim_ascii().is_empty()))
    {
        let text = format!("the first line of the password file {} is empty: it has to be the password", file.display());
        out.push(("password_file".into(), text));
    }
    let shell = target.ssh.as_deref().and_then(|words| words.split_whitespace().next());
    if target.location.is_behind_shell()
        && let shell = shell.unwrap_or("ssh")
        && trust::program(Path::new(shell)).is_none()
    {
        out.push(("ssh".into(), format!("there is no program {shell}")));
    }
    out
}

/// A home whose own files are deleted, the keys that let fansync in among them.
pub(super) fn of_keys_that_go(mirror: &Mirror, target: &Target) -> Option<String> {
    let Location::Ssh { path, .. } = &target.location else { return None };
    (path.is_empty() && mirror.delete.ever() && !mirror.filter.excludes(b".ssh", true)).then(|| {
        "the target is the home of the login itself: what only it has is deleted, .ssh with the keys that let fansync in too; \
         name a directory in it, or exclude \"/.ssh/\""
            .to_owned()
    })
}

/// About one of its hooks: a program that is not there.
pub(super) fn of_hook(hook: &Hook) -> Notes {
    let Action::Command(command) = &hook.action else { return Vec::new() };
    let words = shlex::split(&command.prefix).unwrap_or_default();
    let Some(first) = words.first() else { return Vec::new() };
    // The text of a shell may begin with what only the shell knows.
    if command.shell && !first.starts_with('/') || trust::program(Path::new(first)).is_some() {
        return Vec::new();
    }
    vec![("prefix".into(), format!("there is no program {first}, so each delivery will fail"))]
}

/// The key of a pattern.
pub(super) fn pattern_key(filter: &Filter, pattern: &[u8]) -> String {
    let at = |key: &str, patterns: &[Vec<u8>]| Some(format!("{key}.{}", patterns.iter().position(|p| p == pattern)?));
    let ordered = filter.ordered().iter().position(|rule| rule.pattern == pattern).map(|n| format!("filter.{n}"));
    ordered
        .or_else(|| at("include", filter.include()))
        .or_else(|| at("exclude", filter.exclude()))
        .unwrap_or_else(|| "exclude".into())
}

/// Patterns that are read otherwise than they were meant.
fn misplaced_patterns(filter: &Filter, source: &Path) -> Notes {
    let mut out = Vec::new();
    let source = source.as_os_str().as_bytes();
    let ordered = filter.ordered().iter().map(|rule| &rule.pattern);
    for pattern in ordered.chain(filter.include()).chain(filter.exclude()) {
        // The source "/" begins every pattern.
        if let Some(rest) = pattern.strip_prefix(source).filter(|rest| source.len() > 1 && (rest.is_empty() || rest[0] == b'/')) {
            let write = if rest.is_empty() { b"/".as_slice() } else { rest };
            let text = format!(
                "the pattern \"{}\" begins with the source's own path, which it does not match: a leading / stands for the source; write \"{}\"",
                Shown(pattern),
                Shown(write)
            );
            out.push((pattern_key(filter, pattern), text));
        }
    }
    let ordered = filter.ordered().iter().filter(|rule| !rule.excludes).map(|rule| &rule.pattern);
    for pattern in ordered.chain(filter.include()) {
        let Some(path) = pattern.strip_prefix(b"/").map(|p| p.strip_suffix(b"/").unwrap_or(p)) else { continue };
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let above = slashes.map(|at| &path[..at]).take_while(|dir| !dir.iter().any(|b| b"*?[\\".contains(b)));
        if let Some(dir) = above.into_iter().find(|dir| !dir.is_empty() && filter.excludes(dir, true)) {
            let text = format!(
                "the include pattern \"{0}\" can never match: /{1} above it is left out with all that is in it; exclude \"/{1}/*\" \
                 instead of the directory itself",
                Shown(pattern),
                Shown(dir)
            );
            out.push((pattern_key(filter, pattern), text));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(notes: Notes) -> Vec<String> {
        notes.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn patterns_that_are_not_read_as_meant() {
        let warned = |include: &[&str], exclude: &[&str], source: &str| {
            let filter = Filter::new(include, exclude).unwrap();
            texts(misplaced_patterns(&filter, Path::new(source))).join("; ")
        };
        for (include, exclude, source, want) in [
            (&["/logs/keep.log"][..], &["/logs/"][..], "/srv/web", "\"/logs/keep.log\" can never match: /logs above it"),
            (&["/a/b/c/keep"], &["b"], "/srv/web", "/a/b above it is left out with all that is in it; exclude \"/a/b/*\""),
            (&["/logs/keep.log"], &["/logs/*"], "/srv/web", ""),
            (&["/logs/", "/logs/keep.log"], &["*"], "/srv/web", ""),
            (&["/lo*/keep.log"], &["/logs/"], "/srv/web", ""),
            (&["keep.log"], &["/logs/"], "/srv/web", ""),
            (&[], &["/srv/web/cache/"], "/srv/web", "a leading / stands for the source; write \"/cache/\""),
            (&[], &["/srv/website/"], "/srv/web", ""),
            (&[], &["/cache/"], "/", ""),
        ] {
            let got = warned(include, exclude, source);
            assert!(if want.is_empty() { got.is_empty() } else { got.contains(want) }, "{include:?} {exclude:?}: {got}");
        }
    }

    #[test]
    fn places_and_programs_that_are_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let target = |url: &str, password: Option<&Path>| {
            let mut target = Target::new("t", Location::parse(url).unwrap());
            target.password_file = password.map(Into::into);
            texts(of_target(&target)).join("; ")
        };
        let (here, away) = (dir.path().display().to_string(), dir.path().join("away").display().to_string());
        assert_eq!(target(&here, None), "");
        assert!(target(&away, None).contains("is not there"));
        assert!(target("rsync://u@h/m", None).contains("names the user u"));
        assert_eq!(target("rsync://h/m", None), "");
        let file = dir.path().join("password");
        for (text, good) in [("", false), ("\nsecret\n", false), ("  \n", false), ("secret", true), ("secret\n", true)] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(target("rsync://u@h/m", Some(&file)).is_empty(), good, "{text:?}");
        }
        let mut mirror = Mirror::new("m", "/proc");
        for (url, exclude, delete, warned) in [
            ("h:", "x", true, true),
            ("h:", "/.ssh/", true, false),
            ("h:", "x", false, false),
            ("h:a", "x", true, false),
            ("h:/a", "x", true, false),
            ("h::m", "x", true, false),
        ] {
            (mirror.filter, mirror.delete) = (Filter::new::<&[u8], _>(&[], &[exclude]).unwrap(), delete.into());
            let warning = of_keys_that_go(&mirror, &Target::new("t", Location::parse(url).unwrap()));
            assert_eq!(warning.is_some(), warned, "{url} {exclude} {delete}: {warning:?}");
        }
        mirror = Mirror::new("m", "/proc");
        let warned = texts(of_mirror(&mirror));
        assert!(warned.iter().any(|w| w.contains("lies on procfs")), "{warned:?}");
        (mirror.source, mirror.rsync) = (dir.path().into(), "/no/rsync".into());
        assert_eq!(of_mirror(&mirror), [("rsync".into(), "there is no program /no/rsync (rsync)".into())]);
        let link = dir.path().join("current");
        std::os::unix::fs::symlink(dir.path().join("release"), &link).unwrap();
        std::fs::create_dir(dir.path().join("release")).unwrap();
        mirror.source = link;
        assert!(of_mirror(&mirror)[0].1.contains("symbolic link and leads to"), "{:?}", of_mirror(&mirror));
    }
}
