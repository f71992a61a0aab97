//! Opening below a directory, with no symbolic link on the way: openat2(2), and before Linux 5.6
//! one component after the other.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

/// Opens `path` below `dir`. No symbolic link leads elsewhere, at its end neither, and nothing in
/// it leads above `dir`.
///
/// # Errors
/// openat2(2): ELOOP for a symbolic link on the way (before Linux 5.6 ENOTDIR), EXDEV for a path
/// that leads above.
pub(crate) fn open_beneath(dir: impl AsFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(dir.as_fd(), path, how) {
        // EPERM: a filter that does not know the call, or no right to O_NOATIME.
        Err(Errno::ENOSYS | Errno::EPERM) => by_steps(dir, path, flags),
        other => other,
    }
}

fn by_steps(dir: impl AsFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let step = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = openat(dir, ".", step, Mode::empty())?;
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        let flags = if names.peek().is_some() { step } else { flags };
        match name {
            Component::CurDir => {}
            Component::Normal(name) if names.peek().is_none() => return openat(&at, name, flags, Mode::empty()),
            Component::Normal(name) => at = openat(&at, name, flags, Mode::empty())?,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(Errno::EXDEV),
        }
    }
    openat(&at, ".", flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_leads_elsewhere() {
        let top = tempfile::tempdir().unwrap();
        let at = |path: &str| top.path().join(path);
        fs::create_dir_all(at("root/d/e")).unwrap();
        fs::write(at("root/d/e/f"), b"inside").unwrap();
        fs::write(at("outside"), b"outside").unwrap();
        symlink("d", at("root/link")).unwrap();
        symlink("../outside", at("root/out")).unwrap();
        let root = File::open(at("root")).unwrap();
        let steps = |path: &Path, flags: OFlag| by_steps(&root, path, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        let whole = |path: &Path, flags: OFlag| open_beneath(&root, path, flags);
        for open in [&steps as &dyn Fn(&Path, OFlag) -> nix::Result<OwnedFd>, &whole] {
            let read = |path: &str| {
                let mut text = String::new();
                File::from(open(path.as_ref(), OFlag::O_RDONLY)?).read_to_string(&mut text).unwrap();
                Ok::<_, Errno>(text)
            };
            assert_eq!(read("d/e/f").as_deref(), Ok("inside"));
            for path in ["link/e/f", "out", "../outside", "d/../../outside", "none", "d/e/f/g"] {
                assert!(read(path).is_err(), "{path}");
            }
            for dir in [".", "d", "d/e"] {
                assert!(open(dir.as_ref(), OFlag::O_RDONLY | OFlag::O_DIRECTORY).is_ok(), "{dir}");
            }
            assert!(open("link".as_ref(), OFlag::O_RDONLY | OFlag::O_DIRECTORY).is_err());
        }
    }
}
