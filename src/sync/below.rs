//! Runs that begin below the root: source and target are one directory, and the list's paths are
//! relative to it.
//!
//! rsync reads its list byte by byte, some 2 µs each, so a long list whose paths share a long
//! beginning is dear for that alone. Such a run carries what the same list from the top would, but
//! for two things:
//!
//! - The attributes of the directories above [`Below::dir`] do not travel. None of them changed on
//!   account of what is listed: a change of a directory's entries is listed as that entry, and the
//!   shared directory holds all that is listed.
//! - A run from the top makes the directories on the way, and replaces whatever has taken the place
//!   of one. This one finds the directory, or fails. So it is only taken where the target should
//!   have it, and its failure says nothing of the target.
//!
//! Where the directory on the target is named by its path, a symbolic link in the place of a part
//! of it is followed. Hence:
//!
//! | target | directory named by | links |
//! | --- | --- | --- |
//! | local | a descriptor that rsync inherits, opened part by part | none is followed |
//! | module | its path | those that stay within the module: rsync 3.5.0 refuses others, and with `use chroot` none leads out |
//! | ssh | | no run begins below: nothing bounds where a link leads |
//!
//! rsync's messages name paths below the directory; [`super::words::Names`] turns them into paths
//! below the root.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::argv::inherited;
use crate::location::Location;
use crate::path::{self, RelPath};

/// Bytes that a list has to lose. `scripts/bench/batching --only prefix`: 4,000 are worth 9 ms,
/// 8,000 are worth 25. A list that begins below does not leave through a standby process, which
/// would save about 8.
const WORTH_BYTES: usize = 8 * 1024;

/// A run that begins below the root.
#[derive(Debug)]
pub struct Below {
    /// Where, relative to the root. Never the root.
    pub(crate) dir: RelPath,
    /// That directory of the source. The child inherits it.
    pub(crate) source: OwnedFd,
    /// That directory of a local target. The child inherits it. `None`: named by its path.
    pub(crate) target: Option<OwnedFd>,
    /// What the mirror's exclude rules are there.
    pub(crate) filter_args: Vec<OsString>,
}

impl Below {
    /// The destination argument. It ends in `/.`, so that a directory that is not there is an
    /// error.
    pub(super) fn dest(&self, location: &Location) -> OsString {
        match &self.target {
            Some(fd) => format!("{}/.", inherited(fd.as_fd())).into(),
            None => {
                let mut dest = location.dest_below(&self.dir);
                dest.push("/.");
                dest
            }
        }
    }

    /// A listed path, as this run lists it.
    pub(crate) fn relative(&self, path: &RelPath) -> RelPath {
        RelPath::from_normal(path.get(self.dir.len() + 1..).unwrap_or_default())
    }
}

/// The directory that all `paths` lie in, if beginning there takes at least [`WORTH_BYTES`] off
/// their list.
pub(crate) fn shared<'a>(paths: impl ExactSizeIterator<Item = &'a RelPath>) -> Option<RelPath> {
    let count = paths.len();
    let mut paths = paths.map(|path| path::parent(path).unwrap_or_default());
    let mut dir = paths.next()?;
    for path in paths {
        while !path::is_at_or_below(path, dir) {
            dir = path::parent(dir)?;
        }
    }
    (!dir.is_empty() && (dir.len() + 1) * count >= WORTH_BYTES).then(|| RelPath::from_normal(dir))
}

/// Opens a directory below `root`, one component at a time: no symbolic link is followed.
///
/// # Errors
/// openat(2): ENOENT, ENOTDIR for whatever is no directory, ELOOP.
pub(crate) fn open_below(root: impl AsFd, path: &[u8]) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let mut at = openat(root, ".", flags, Mode::empty())?;
    for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty()) {
        at = openat(&at, Path::new(OsStr::from_bytes(name)), flags, Mode::empty())?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_directory_that_all_share() {
        let deep = "deep/".repeat(20) + "end"; // 103 bytes
        let many = |names: &[&str]| -> Vec<String> { names.iter().cycle().take(200).map(|n| n.replace('@', &deep)).collect() };
        for (paths, want) in [
            (many(&["@/a", "@/b/c"]), Some(deep.clone())),
            (many(&["@/a/f", "@/a/g"]), Some(format!("{deep}/a"))),
            // A directory of which attributes or one level are sent: the one above it, whose times
            // its coming and going change.
            (many(&["@/a", "@/a/f"]), Some(deep.clone())),
            (many(&["@/ab/f", "@/a/f"]), Some(deep.clone())),
            (many(&["@"]), Some(deep[..deep.len() - 4].into())),
            // One path at the top, or the top itself.
            (many(&["@/a", "x"]), None),
            (many(&["@/a", ""]), None),
            (many(&["short/a", "short/b"]), None),
            (many(&["@/a"])[..50].to_vec(), None),
            (Vec::new(), None),
        ] {
            let paths: Vec<RelPath> = paths.iter().map(|p| RelPath::from_normal(p.as_bytes())).collect();
            let got = shared(paths.iter());
            assert_eq!(got.map(|d| d.to_string()), want, "{:?}", &paths[..paths.len().min(2)]);
        }
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        symlink("b", dir.path().join("a/to_b")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        for (path, open) in [("a/b", true), ("", true), ("link/b", false), ("a/to_b", false), ("file", false), ("a/none", false)]
        {
            assert_eq!(open_below(&root, path.as_bytes()).is_ok(), open, "{path}");
        }
    }
}
