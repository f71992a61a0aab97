//! File handles and filesystem ids: how fanotify names a directory without a path.
#![allow(unsafe_code)]

use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::mem::{MaybeUninit, size_of, transmute};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The longest handle the kernel takes or makes, in bytes: `MAX_HANDLE_SZ` of linux/exportfs.h.
const MAX_HANDLE_BYTES: usize = libc::MAX_HANDLE_SZ as usize;

/// Which filesystem: the two 32-bit words of statfs(2) `f_fsid`, as they lie in memory. Equal to
/// the fsid of the filesystem's fanotify records. Not stable across reboots on tmpfs; on ext4, xfs
/// and btrfs it follows from the UUID (xfs: from the device number), so two snapshots of one
/// filesystem mounted at once can share it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FsId(pub u64);

impl fmt::Debug for FsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FsId({:016x})", self.0)
    }
}

/// A file handle inside one filesystem, borrowed from a kernel record or a map key: opaque bytes,
/// at most [`MAX_HANDLE_BYTES`], and their type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HandleRef<'a> {
    /// `handle_type`: how the filesystem encoded the bytes.
    pub(crate) kind: i32,
    /// `f_handle`: the bytes themselves, without the type.
    pub(crate) bytes: &'a [u8],
}

/// An owned file handle, and the mount it was taken on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handle {
    /// `handle_type`, see [`HandleRef::kind`].
    pub(crate) kind: i32,
    /// `f_handle`, see [`HandleRef::bytes`].
    pub(crate) bytes: Box<[u8]>,
    /// The mount's id, the first field of its line in /proc/self/mountinfo.
    pub(crate) mount_id: i32,
}

impl Handle {
    /// Borrowed, to compare with a record's or to open.
    pub fn as_ref(&self) -> HandleRef<'_> {
        HandleRef { kind: self.kind, bytes: &self.bytes }
    }
}

/// `struct file_handle` of fcntl.h with room for the longest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; MAX_HANDLE_BYTES],
}

impl RawHandle {
    const EMPTY: RawHandle = RawHandle { handle_bytes: MAX_HANDLE_BYTES as u32, handle_type: 0, f_handle: [0; MAX_HANDLE_BYTES] };
}

// The flexible array of libc's struct starts where the room above does.
const _: () = assert!(size_of::<libc::file_handle>() + MAX_HANDLE_BYTES == size_of::<RawHandle>());

/// Opens what `handle` names with `O_PATH | O_CLOEXEC`: enough for readlink, fstatat and as an
/// anchor for openat, and it works whatever the file's mode is. `mount`: any descriptor on a mount
/// of the same filesystem; a path read back from the result is seen through that mount.
///
/// # Errors
/// `ESTALE` when the object is gone (or the handle belongs to another filesystem), `EPERM` without
/// `CAP_DAC_READ_SEARCH` in the first user namespace, `EINVAL` when the handle is longer than
/// [`MAX_HANDLE_BYTES`] or malformed, `ENOMEM`, `EMFILE`.
pub fn open_by_handle(mount: BorrowedFd<'_>, handle: HandleRef<'_>) -> io::Result<OwnedFd> {
    let mut raw = RawHandle::EMPTY;
    let Some(room) = raw.f_handle.get_mut(..handle.bytes.len()) else { return Err(Errno::EINVAL.into()) };
    room.copy_from_slice(handle.bytes);
    raw.handle_bytes = handle.bytes.len() as u32;
    raw.handle_type = handle.kind;
    loop {
        // SAFETY: `raw` is laid out as `struct file_handle` (asserted above) and holds
        // `handle_bytes` bytes behind the head, both set by this function; the kernel only reads it
        // and keeps no pointer.
        let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), libc::O_PATH | libc::O_CLOEXEC) };
        match Errno::result(fd) {
            // SAFETY: the call succeeded, so `fd` is a new descriptor that nothing else owns.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The handle of `path` below `dir`; an empty path means `dir` itself (`AT_EMPTY_PATH`, an `O_PATH`
/// descriptor will do). A symlink as last component is not followed.
///
/// The result has the type and bytes that the kernel puts in fanotify records for the same object
/// (measured on ext4, xfs, btrfs, tmpfs).
///
/// # Errors
/// `EOPNOTSUPP` when the filesystem makes no handles, `ENOENT`, `ENOTDIR`, `EACCES`; `EINVAL` for a
/// NUL in the path.
pub fn name_to_handle(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Handle> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    name_to_handle_raw(dir, &path)
}

fn name_to_handle_raw(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<Handle> {
    let mut raw = RawHandle::EMPTY;
    let mut mount_id = 0;
    let flags = if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    loop {
        // SAFETY: `raw` is laid out as `struct file_handle` (asserted above) and `handle_bytes`
        // tells the kernel the room behind the head; `path` is NUL-terminated; `mount_id` is
        // written before success is returned.
        let done =
            unsafe { libc::name_to_handle_at(dir.as_raw_fd(), path.as_ptr(), (&raw mut raw).cast(), &mut mount_id, flags) };
        match Errno::result(done) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    let bytes = raw.f_handle.get(..raw.handle_bytes as usize).ok_or(Errno::EOVERFLOW)?;
    Ok(Handle { kind: raw.handle_type, bytes: bytes.into(), mount_id })
}

/// The id of the filesystem that `fd` lies on (any descriptor, `O_PATH` too), through fstatfs(2).
///
/// On a btrfs *subvolume* this is the subvolume's own id, made of the filesystem's and the
/// subvolume's: fanotify_mark(2) refuses a filesystem mark there with `EXDEV` (measured, 6.18), so
/// no record ever carries it. Records about what is in such a subvolume carry the id at the top.
///
/// # Errors
/// Those of fstatfs(2).
pub fn fs_id(fd: BorrowedFd<'_>) -> io::Result<FsId> {
    // libc keeps the words of `fsid_t` private, and statvfs(3) drops one of them on musl.
    const _: () = assert!(size_of::<libc::fsid_t>() == size_of::<u64>());
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    loop {
        // SAFETY: `stat` is valid for writes of one `struct statfs`.
        match Errno::result(unsafe { libc::fstatfs(fd.as_raw_fd(), stat.as_mut_ptr()) }) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // SAFETY: fstatfs succeeded, so the kernel has filled the whole struct.
    let stat = unsafe { stat.assume_init() };
    // SAFETY: `fsid_t` is two `int`s (asserted to be 8 bytes above), for which every byte pattern
    // is valid, as for `u64`.
    Ok(FsId(unsafe { transmute::<libc::fsid_t, u64>(stat.f_fsid) }))
}

/// The link under /proc that leads to what `fd` is open on, for calls that take a path alone. The
/// thread's, not the process's, which would be that of its first thread: a thread may have
/// descriptors of its own (`CLONE_FILES`, clone(2)).
pub(super) fn fd_link(fd: BorrowedFd<'_>) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd())
}

/// The path of what `fd` is open on, raw bytes: readlink of its link under /proc. As seen from this
/// process's root; ends in ` (deleted)` when the object was unlinked (a name may really end so: see
/// `nlink`), and is not absolute for an object outside every mount this process sees.
///
/// # Errors
/// `ENAMETOOLONG` when the path has more than 4,095 bytes (procfs builds it in one page), `ENOENT`
/// without /proc.
pub(crate) fn fd_path(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // std grows its buffer from 256 bytes; nix would first ask lstat for a size, which procfs
    // answers with 64.
    Ok(std::fs::read_link(fd_link(fd))?.into_os_string().into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn handle_of_a_directory_is_the_same_by_name_and_by_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let (root, a) = (File::open(dir.path()).unwrap(), File::open(dir.path().join("a")).unwrap());
        let by_name = name_to_handle(root.as_fd(), Path::new("a")).unwrap();
        let by_fd = name_to_handle(a.as_fd(), Path::new("")).unwrap();
        assert_eq!(by_name, by_fd);
        assert_ne!(by_name, name_to_handle(root.as_fd(), Path::new("")).unwrap());
        assert!(!by_name.bytes.is_empty() && by_name.mount_id > 0);
    }

    #[test]
    fn a_symlink_is_named_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("l")).unwrap();
        let root = File::open(dir.path()).unwrap();
        assert_ne!(name_to_handle(root.as_fd(), Path::new("l")).unwrap(), name_to_handle(root.as_fd(), Path::new("a")).unwrap());
    }

    /// Opens a directory by handle and reads its path back, before and after it moved; then it is
    /// gone. Needs root.
    #[test]
    fn handle_to_path_follows_the_object() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (first, second) = (base.join(OsStr::from_bytes(b"a\xff\n")), base.join("b"));
        std::fs::create_dir(&first).unwrap();
        let root = File::open(&base).unwrap();
        let handle = name_to_handle(root.as_fd(), Path::new(first.file_name().unwrap())).unwrap();
        let open = || open_by_handle(root.as_fd(), handle.as_ref());
        let fd = match open() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return eprintln!("SKIPPED handle_to_path_follows_the_object: needs CAP_DAC_READ_SEARCH");
            }
            other => other.unwrap(),
        };
        assert_eq!(fd_path(fd.as_fd()).unwrap(), first.as_os_str().as_bytes());
        std::fs::rename(&first, &second).unwrap();
        assert_eq!(fd_path(open().unwrap().as_fd()).unwrap(), second.as_os_str().as_bytes());
        std::fs::remove_dir(&second).unwrap();
        assert!(fd_path(fd.as_fd()).unwrap().ends_with(b" (deleted)"));
        drop(fd);
        assert_eq!(open().unwrap_err().raw_os_error(), Some(libc::ESTALE));
    }

    #[test]
    fn an_over_long_handle_is_refused_before_the_kernel_sees_it() {
        let root = File::open("/").unwrap();
        let handle = HandleRef { kind: 1, bytes: &[0; MAX_HANDLE_BYTES + 1] };
        assert_eq!(open_by_handle(root.as_fd(), handle).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn fs_id_tells_filesystems_apart() {
        let (root, proc, dir) = (File::open("/").unwrap(), File::open("/proc").unwrap(), File::open("/usr").unwrap());
        assert_ne!(fs_id(root.as_fd()).unwrap(), fs_id(proc.as_fd()).unwrap());
        assert_eq!(fs_id(dir.as_fd()).unwrap(), fs_id(File::open("/usr/bin").unwrap().as_fd()).unwrap());
    }
}
