//! renameat2(2), which nix has for glibc alone.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

/// Renames `from` in the directory `dir` to `to` in `into`, unless there is something of that name
/// (`RENAME_NOREPLACE`). A file, on kernels before 3.15.
///
/// # Errors
/// renameat2(2): EEXIST when there is; EINVAL where the filesystem cannot tell. linkat(2),
/// unlinkat(2).
pub(crate) fn rename_to_free(dir: BorrowedFd<'_>, from: &OsStr, into: BorrowedFd<'_>, to: &OsStr) -> nix::Result<()> {
    match renameat2(dir, from, into, to) {
        Err(Errno::ENOSYS) => by_link(dir, from, into, to),
        other => other,
    }
}

/// The same in two steps: for a moment it has both names.
fn by_link(dir: BorrowedFd<'_>, from: &OsStr, into: BorrowedFd<'_>, to: &OsStr) -> nix::Result<()> {
    linkat(dir, from, into, to, AtFlags::empty())?;
    unlinkat(dir, from, UnlinkatFlags::NoRemoveDir)
}

fn renameat2(dir: BorrowedFd<'_>, from: &OsStr, into: BorrowedFd<'_>, to: &OsStr) -> nix::Result<()> {
    let done = from.with_nix_path(|from| {
        to.with_nix_path(|to| {
            // SAFETY: two open descriptors that are borrowed to us, two C strings that live as long
            // as the call, and a number.
            unsafe {
                libc::syscall(
                    libc::SYS_renameat2,
                    dir.as_raw_fd(),
                    from.as_ptr(),
                    into.as_raw_fd(),
                    to.as_ptr(),
                    libc::RENAME_NOREPLACE,
                )
            }
        })
    })??;
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    #[test]
    fn a_name_that_is_taken_stays() {
        for rename in [rename_to_free, by_link] {
            let at = tempfile::tempdir().unwrap();
            let dir = File::open(at.path()).unwrap();
            for name in ["a", "b"] {
                fs::write(at.path().join(name), name).unwrap();
            }
            let to = |to: &str| rename(dir.as_fd(), "a".as_ref(), dir.as_fd(), to.as_ref());
            assert_eq!(to("b"), Err(Errno::EEXIST));
            assert_eq!((to("c"), to("d")), (Ok(()), Err(Errno::ENOENT)));
            assert_eq!(
                (fs::read(at.path().join("b")).unwrap(), fs::read(at.path().join("c")).unwrap()),
                (b"b".to_vec(), b"a".to_vec())
            );
        }
    }
}
