//! What is valid and cannot work, or not as meant, on this host as it is now: for `check` to warn
//! of.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{self, FsType, statfs};

use super::{Mirror, Target};
use crate::filter::Filter;
use crate::path::Shown;
use crate::sync::location::Location;

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

/// About the mirror itself.
pub(super) fn of_mirror(mirror: &Mirror) -> Vec<String> {
    let mut out = misplaced_patterns(&mirror.filter, &mirror.source);
    if let Ok(leads_to) = mirror.source.canonicalize().as_ref()
        && *leads_to != mirror.source
    {
        out.push(format!(
            "the source {} is given through a symbolic link and leads to {} now; when the link is switched, the new tree is mirrored",
            mirror.source.display(),
            leads_to.display()
        ));
    }
    if let Ok(fs) = statfs(&mirror.source)
        && let Some((_, name, what)) = SILENT.iter().find(|(kind, ..)| *kind == fs.filesystem_type())
    {
        out.push(format!("the source {} lies on {name}, {what}", mirror.source.display()));
    }
    if program(&mirror.rsync, std::env::var_os("PATH").as_deref()).is_none() {
        out.push(format!("there is no program {} (rsync)", mirror.rsync.display()));
    }
    out
}

/// About one of its targets.
pub(super) fn of_target(target: &Target) -> Vec<String> {
    let mut out = Vec::new();
    match &target.location {
        Location::Local(path) if !path.is_dir() => {
            out.push(format!("the directory {} is not there; make it, or mount what belongs there", path.display()));
        }
        Location::Daemon { user: Some(user), .. } if target.password_file.is_none() => out.push(format!(
            "the URL names the user {user}, and there is no password_file: a module that asks for a password refuses"
        )),
        _ => {}
    }
    if let Some(file) = &target.password_file
        && std::fs::read(file)
            .is_ok_and(|text| text.split(|b| *b == b'\n').next().is_none_or(|line| line.trim_ascii().is_empty()))
    {
        out.push(format!("the first line of the password file {} is empty: it has to be the password", file.display()));
    }
    out
}

/// The program that a word leads to, as execvp(3) finds it.
fn program(word: &Path, path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    let runs = |at: &PathBuf| std::fs::metadata(at).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if word.components().count() > 1 {
        return Some(word.to_owned()).filter(runs);
    }
    std::env::split_paths(path.unwrap_or_default()).map(|dir| dir.join(word)).find(runs)
}

/// Patterns that are read otherwise than they were meant.
fn misplaced_patterns(filter: &Filter, source: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let source = source.as_os_str().as_bytes();
    for pattern in filter.include().iter().chain(filter.exclude()) {
        // The source "/" begins every pattern.
        if let Some(rest) = pattern.strip_prefix(source).filter(|rest| source.len() > 1 && (rest.is_empty() || rest[0] == b'/')) {
            let write = if rest.is_empty() { b"/".as_slice() } else { rest };
            out.push(format!(
                "the pattern \"{}\" begins with the source's own path, which it does not match: a leading / stands for the source; write \"{}\"",
                Shown(pattern),
                Shown(write)
            ));
        }
    }
    for pattern in filter.include() {
        let Some(path) = pattern.strip_prefix(b"/").map(|p| p.strip_suffix(b"/").unwrap_or(p)) else { continue };
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let above = slashes.map(|at| &path[..at]).take_while(|dir| !dir.iter().any(|b| b"*?[\\".contains(b)));
        if let Some(dir) = above.into_iter().find(|dir| !dir.is_empty() && filter.excludes(dir, true)) {
            out.push(format!(
                "the include pattern \"{0}\" can never match: /{1} above it is left out with all that is in it; exclude \"/{1}/*\" \
                 instead of the directory itself",
                Shown(pattern),
                Shown(dir)
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_are_not_read_as_meant() {
        let warned = |include: &[&str], exclude: &[&str], source: &str| {
            let filter = Filter::new(include, exclude).unwrap();
            misplaced_patterns(&filter, Path::new(source)).join("; ")
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
            of_target(&target).join("; ")
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
        let path = std::ffi::OsStr::new("/nowhere:/bin:/usr/bin");
        assert!(program(Path::new("sh"), Some(path)).is_some() && program(Path::new("/bin/sh"), None).is_some());
        for word in ["no-such-program", "/bin/no-such-program", "/bin", "/etc/passwd"] {
            assert_eq!(program(Path::new(word), Some(path)), None, "{word}");
        }
        let mut mirror = Mirror::new("m", "/proc");
        assert!(of_mirror(&mirror).iter().any(|w| w.contains("lies on procfs")), "{:?}", of_mirror(&mirror));
        (mirror.source, mirror.rsync) = (dir.path().into(), "/no/rsync".into());
        assert_eq!(of_mirror(&mirror), ["there is no program /no/rsync (rsync)"]);
        let link = dir.path().join("current");
        std::os::unix::fs::symlink(dir.path().join("release"), &link).unwrap();
        std::fs::create_dir(dir.path().join("release")).unwrap();
        mirror.source = link;
        assert!(of_mirror(&mirror)[0].contains("symbolic link and leads to"), "{:?}", of_mirror(&mirror));
    }
}
