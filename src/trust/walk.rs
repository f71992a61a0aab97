//! The way to a path, one descriptor at a time.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat, mkdirat};

use super::TrustError;
use super::judge::{self, Acl, Mind, Us};

/// As the kernel bounds them (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a socket, a FIFO.
    Other,
}

/// What the kernel says of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: Kind,
    /// Its owner.
    pub(crate) uid: u32,
    /// Its group.
    pub(crate) gid: u32,
    /// Its permission bits.
    pub(crate) mode: u32,
    /// Its access control list.
    pub(crate) acl: Acl,
}

/// An inode on the way, held open (`O_PATH`).
#[derive(Debug)]
pub(super) struct Step {
    fd: OwnedFd,
    path: PathBuf,
    pub(super) facts: Facts,
}

impl Step {
    /// What a descriptor shows.
    pub(super) fn of(fd: OwnedFd, path: &Path) -> Result<Step, TrustError> {
        let io = |errno: Errno| TrustError::Io { path: path.to_owned(), source: errno.into() };
        let stat = fstatat(&fd, "", AtFlags::AT_EMPTY_PATH).map_err(io)?;
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Link,
            _ => Kind::Other,
        };
        // Links have neither a mode that counts nor a list.
        let acl = if kind == Kind::Link { Acl::None } else { acl(&fd) };
        let facts = Facts { kind, uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, acl };
        Ok(Step { fd, path: path.to_owned(), facts })
    }

    fn others(&self, reason: judge::Reason) -> TrustError {
        let what = match self.facts.kind {
            Kind::Directory => "the directory",
            Kind::Link => "the symbolic link",
            Kind::File | Kind::Other => "the file",
        };
        TrustError::Others { what, path: self.path.clone(), reason }
    }

    pub(super) fn judge(&self, us: &Us, mind: Mind) -> Result<(), TrustError> {
        judge::judge(&self.facts, us, mind).map_or(Ok(()), |reason| Err(self.others(reason)))
    }

    /// As a directory on the way: one that is sticky is passed, and what lies in it is asked for
    /// its owner.
    pub(super) fn judge_directory(&self, us: &Us) -> Result<(), TrustError> {
        if judge::is_sticky(&self.facts, us) { Ok(()) } else { self.judge(us, Mind::Writing) }
    }

    fn judge_owner(&self, us: &Us) -> Result<(), TrustError> {
        judge::owner(&self.facts, us).map_or(Ok(()), |reason| Err(self.others(reason)))
    }

    /// The same inode, open for reading.
    pub(super) fn reopen(&self, path: &Path) -> Result<File, TrustError> {
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(self.by_descriptor());
        opened.map_err(|source| TrustError::Io { path: path.to_owned(), source })
    }

    fn by_descriptor(&self) -> PathBuf {
        by_descriptor(&self.fd)
    }
}

/// The thread's, as a thread may have descriptors of its own.
fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd()).into()
}

fn acl(fd: &OwnedFd) -> Acl {
    // fgetxattr(2) takes no descriptor of O_PATH.
    match xattr::get_deref(by_descriptor(fd), "system.posix_acl_access") {
        Ok(None) => Acl::None,
        Ok(Some(value)) => Acl::parse(&value),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP | libc::ENOSYS)) => Acl::None,
        Err(e) => Acl::Unknown(e.to_string()),
    }
}

/// What is done about directories that are missing on the way.
#[derive(Debug, Clone, Copy)]
enum Missing {
    Fail,
    /// They are made with this mode.
    Make(u32),
}

/// The inode that `path` leads to, all of its way judged; itself not.
pub(super) fn walk(path: &Path, us: &Us) -> Result<Step, TrustError> {
    follow(path, us, Missing::Fail)
}

fn follow(path: &Path, us: &Us, missing: Missing) -> Result<Step, TrustError> {
    let io = |at: &Path, source: io::Error| TrustError::Io { path: at.to_owned(), source };
    let named = std::path::absolute(path).map_err(|e| io(path, e))?;
    let mut left: VecDeque<OsString> = parts(&named);
    let root = || -> Result<Step, TrustError> {
        let file = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open("/");
        Step::of(file.map_err(|e| io(Path::new("/"), e))?.into(), Path::new("/"))
    };
    // The directories from the root down to here, for `..`.
    let mut way = vec![root()?];
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            if way.len() > 1 {
                way.pop();
            }
            continue;
        }
        let Some(dir) = way.last() else { return Err(io(path, io::ErrorKind::NotFound.into())) };
        dir.judge_directory(us)?;
        let shared = judge::judge(&dir.facts, us, Mind::Writing).is_some();
        let at = dir.path.join(&name);
        let fd = match (open_at(dir, &name), missing) {
            (Err(Errno::ENOENT), Missing::Make(mode)) => {
                match mkdirat(&dir.fd, Path::new(&name), Mode::from_bits_truncate(0o700)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(io(&at, errno.into())),
                }
                let fd = open_at(dir, &name).map_err(|errno| io(&at, errno.into()))?;
                let made = Step::of(fd, &at)?;
                made.judge(us, Mind::Writing)?;
                // Whatever the umask is.
                std::fs::set_permissions(made.by_descriptor(), Permissions::from_mode(mode)).map_err(|e| io(&at, e))?;
                made.fd
            }
            (opened, _) => opened.map_err(|errno| io(&at, errno.into()))?,
        };
        let step = Step::of(fd, &at)?;
        if shared {
            // Its owner can replace it.
            step.judge_owner(us)?;
        }
        match step.facts.kind {
            Kind::Link => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(io(path, io::Error::from_raw_os_error(libc::ELOOP)));
                }
                let to = readlinkat(&step.fd, Path::new("")).map_err(|errno| io(&at, errno.into()))?;
                let to = PathBuf::from(to);
                if to.is_absolute() {
                    way.truncate(1);
                }
                for part in parts(&to).into_iter().rev() {
                    left.push_front(part);
                }
            }
            Kind::Directory => way.push(step),
            Kind::File | Kind::Other if left.is_empty() => return Ok(step),
            Kind::File | Kind::Other => return Err(io(&at, io::Error::from_raw_os_error(libc::ENOTDIR))),
        }
    }
    way.pop().ok_or_else(|| io(path, io::ErrorKind::NotFound.into()))
}

fn open_at(dir: &Step, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(&dir.fd, Path::new(name), OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let name = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

/// The directory at `path`, made with what is missing above it (`mode`), if it and its way are
/// trusted. A directory that is there keeps its mode.
///
/// # Errors
/// See [`TrustError`].
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<Place, TrustError> {
    let us = Us::now();
    let step = follow(path, &us, Missing::Make(mode))?;
    if step.facts.kind != Kind::Directory {
        return Err(TrustError::Kind { path: path.to_owned(), want: "a directory" });
    }
    step.judge_directory(&us)?;
    Ok(Place { step })
}

/// A directory that was judged, held open.
#[derive(Debug)]
pub(crate) struct Place {
    step: Step,
}

impl Place {
    /// Sets its permission bits.
    ///
    /// # Errors
    /// chmod(2).
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        std::fs::set_permissions(self.step.by_descriptor(), Permissions::from_mode(mode))
    }
}

/// Where a program is that is named by a path or to be found in `PATH`, as execvp(3) finds it;
/// `None` when it is nowhere.
pub(crate) fn program(name: &Path) -> Option<PathBuf> {
    let runs = |path: &Path| std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0);
    if name.as_os_str().as_bytes().contains(&b'/') {
        return runs(name).then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| runs(path))
}
