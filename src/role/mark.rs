//! The role and the epoch of a tree, in a small file inside of it.
//!
//! Promises: what [`write()`] returned from survives a power cut, whole; a reader sees the old mark
//! or the new one. A file that is neither (cut off, edited by hand and wrong) is an error and never
//! taken for "no mark": who cannot read the epoch must not push. An epoch never goes down by
//! [`raise`].
//!
//! How it works: five lines of text, the last a checksum of the others, written aside, fsynced,
//! renamed, the directory fsynced. Writers take turns by flock(2) on a file beside it. The
//! directory [`DIR`] is left out of every pass of a mirror that honours roles, and protected on its
//! target.
//!
//! The checksum finds accidents. A user who may write in the tree's top directory can move [`DIR`]
//! away and put another in its place; so a mark counts only in a directory, and as a file, that is
//! root's or ours and that others cannot write. He can still take the mark away, which stops a
//! server, or bring an old one of root's back.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;
use thiserror::Error;

use crate::sys::replace::{self, Replace};
use crate::trust::{self, Mind, TrustError};

/// Where a tree keeps its mark, and what a change of roles set aside.
pub const DIR: &str = ".fansync";
/// The mark itself, below the tree.
pub const FILE: &str = ".fansync/role";
/// No epoch is later. It leaves room above it, so that `epoch + 1` is always a number; one that is
/// near the end was not reached by switching.
pub const LAST_EPOCH: u64 = 1 << 53;
/// A mark is shorter than this, in bytes.
pub(crate) const MAX_BYTES: u64 = 1024;
/// How long a writer waits for another.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_LOOK: Duration = Duration::from_millis(10);
const HEAD: &str = "fansync-role 1";

/// What a server is to its clients and to its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Clients write here; it may push.
    Primary,
    /// It receives what the primary pushes; clients may read at most.
    Follower,
}

/// A tree's role since an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PeerMark")]
pub struct Mark {
    /// Goes up with each switch; the highest one with the role of a primary is where clients
    /// belong. From 1.
    pub epoch: u64,
    /// The role.
    pub role: Role,
    /// Who wrote it and why, for people. One line.
    pub by: String,
}

/// A mark as another host sends it.
#[derive(Deserialize)]
struct PeerMark {
    epoch: u64,
    role: Role,
    by: String,
}

impl TryFrom<PeerMark> for Mark {
    type Error = &'static str;

    fn try_from(sent: PeerMark) -> Result<Mark, &'static str> {
        Ok(Mark::new(known_epoch(sent.epoch)?, sent.role, &sent.by))
    }
}

fn known_epoch(epoch: u64) -> Result<u64, &'static str> {
    if (1..=LAST_EPOCH).contains(&epoch) { Ok(epoch) } else { Err("its epoch is none that switching leads to") }
}

/// Why a mark cannot be read or written.
#[derive(Debug, Error)]
pub enum MarkError {
    /// The file is there and makes no sense.
    #[error("the role mark {path} is damaged ({what}): check both servers, then write it anew with `fansync failover role`")]
    Damaged {
        /// The file, or where it came from.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The disk.
    #[error("cannot {what} the role mark {path}: {source}")]
    Io {
        /// `read`, `write`, `lock`, `remove`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It, or its directory, was not put there by root or us, or others can change it.
    #[error(
        "the role mark {path} is not taken, for {source}: if it was moved there by hand, remove it and write it anew with `fansync failover role`"
    )]
    Others {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        source: TrustError,
    },
    /// Another process was faster, or has raised the epoch meanwhile.
    #[error("the epoch of {path} is {found} already, and cannot become {asked}: ask again for the state of both servers")]
    Stale {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: Mark,
        /// What should have been written.
        asked: Mark,
    },
}

impl Mark {
    /// A mark; control characters of `by` are replaced.
    pub fn new(epoch: u64, role: Role, by: &str) -> Mark {
        let by = by.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        Mark { epoch, role, by: by.trim().to_owned() }
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let body = self.body();
        let sum = checksum(body.as_bytes());
        format!("{body}check {sum:016x}\n")
    }

    fn body(&self) -> String {
        format!("{HEAD}\nepoch {}\nrole {}\nby {}\n", self.epoch, self.role, self.by)
    }

    /// Reads a file's content.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &[u8]) -> Result<Mark, &'static str> {
        if text.is_empty() {
            return Err("it is empty");
        }
        let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Err("it does not begin as a mark does, or is of a later version");
        }
        let mut field = |name: &'static str, wrong: &'static str| {
            lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' ')).ok_or(wrong)
        };
        let epoch = field("epoch", "it has no epoch")?;
        let role = match field("role", "it has no role")? {
            "primary" => Role::Primary,
            "follower" => Role::Follower,
            _ => return Err("its role is neither primary nor follower"),
        };
        let by = field("by", "it is cut off")?.to_owned();
        let sum = field("check", "it is cut off")?;
        let epoch = epoch.parse().map_err(|_| "its epoch is no number")?;
        let mark = Mark { epoch, role, by };
        if u64::from_str_radix(sum, 16) != Ok(checksum(mark.body().as_bytes())) || mark.text() != text {
            return Err("its checksum is wrong");
        }
        // Not as it was written, but as it may be shown: it may come from a host that is not
        // trusted.
        Ok(Mark::new(known_epoch(epoch)?, role, &mark.by))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Primary => "primary",
            Role::Follower => "follower",
        })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of epoch {}", self.role, self.epoch)
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The mark of a tree; `None` when it has none. Two opens and one read.
///
/// # Errors
/// [`MarkError::Damaged`] when there is a file that is no mark; [`MarkError::Others`] when it is
/// not root's or ours alone; [`MarkError::Io`] for everything but "no such file".
pub fn read(tree: &Path) -> Result<Option<Mark>, MarkError> {
    let path = tree.join(FILE);
    match beside(tree, "role")? {
        None => Ok(None),
        Some(text) => Mark::parse(&text).map(Some).map_err(|what| MarkError::Damaged { path: path.display().to_string(), what }),
    }
}

/// The first [`MAX_BYTES`] of a file in a tree's [`DIR`], if it is there, and root's or ours.
///
/// # Errors
/// As [`read`].
pub(crate) fn beside(tree: &Path, name: &str) -> Result<Option<Vec<u8>>, MarkError> {
    let path = tree.join(DIR).join(name);
    let fail = |source| MarkError::Io { what: "read", path: path.clone(), source };
    let Some(dir) = directory(tree)? else { return Ok(None) };
    // Not blocking, and no link: any user who can write in the tree could have put one there.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file: File = match openat(&dir, name, flags, Mode::empty()) {
        Ok(fd) => fd.into(),
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(fail(errno.into())),
    };
    trust::descriptor(&file, &path, Mind::Writing).map_err(|source| MarkError::Others { path: path.clone(), source })?;
    content(file, &path).map(Some)
}

/// A tree's [`DIR`], if it is there, and root's or ours.
fn directory(tree: &Path) -> Result<Option<File>, MarkError> {
    let path = tree.join(DIR);
    let open = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
    let dir = match open {
        Ok(dir) => dir,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(MarkError::Io { what: "read", path, source }),
    };
    match trust::descriptor(&dir, &path, Mind::Writing) {
        Ok(()) => Ok(Some(dir)),
        Err(source) => Err(MarkError::Others { path: tree.join(FILE), source }),
    }
}

fn content(file: File, path: &Path) -> Result<Vec<u8>, MarkError> {
    let fail = |source| MarkError::Io { what: "read", path: path.into(), source };
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(MarkError::Damaged { path: path.display().to_string(), what: "it is not a regular file" });
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(fail)?;
    Ok(text)
}

/// A mark that was fetched to a file of any name, whichever user owns it.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_file(path: &Path) -> Result<Option<Mark>, MarkError> {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
    let file = match open {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(MarkError::Io { what: "read", path: path.into(), source }),
    };
    let damaged = |what| MarkError::Damaged { path: path.display().to_string(), what };
    Mark::parse(&content(file, path)?).map(Some).map_err(damaged)
}

/// Writes the mark of a tree, whatever it was, and returns once it is on the disk. For the
/// administrator's word; programs use [`raise`].
///
/// # Errors
/// [`MarkError::Io`].
pub fn write(tree: &Path, mark: &Mark) -> Result<(), MarkError> {
    let _lock = lock(tree)?;
    put(tree, mark)
}

/// Replaces the mark unless it has an epoch that is higher, or the same with another role than a
/// step down: a follower cannot become a primary again without a new epoch. Returns the mark that
/// it replaced.
///
/// # Errors
/// [`MarkError::Stale`], [`MarkError::Damaged`], [`MarkError::Io`]; nothing is changed then.
pub(crate) fn raise(tree: &Path, mark: &Mark) -> Result<Option<Mark>, MarkError> {
    let _lock = lock(tree)?;
    let found = read(tree)?;
    if let Some(old) = &found {
        let steps_down = old.epoch == mark.epoch && (old.role == mark.role || mark.role == Role::Follower);
        if old.epoch > mark.epoch || (old.epoch == mark.epoch && !steps_down) {
            return Err(MarkError::Stale { path: tree.join(FILE), found: old.clone(), asked: mark.clone() });
        }
    }
    put(tree, mark)?;
    Ok(found)
}

fn lock(tree: &Path) -> Result<Flock<File>, MarkError> {
    let path = tree.join(DIR).join("lock");
    let fail = |source: io::Error| MarkError::Io { what: "lock", path: path.clone(), source };
    let dir = made(tree)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mut file: File = openat(&dir, "lock", flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| fail(e.into()))?.into();
    let begun = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, e)) if begun.elapsed() >= LOCK_PATIENCE => return Err(fail(e.into())),
            Err((back, _)) => file = back,
        }
        std::thread::sleep(LOCK_LOOK);
    }
}

/// A tree's [`DIR`], which is made if it is not there.
fn made(tree: &Path) -> Result<File, MarkError> {
    let path = tree.join(DIR);
    let fail = |source| MarkError::Io { what: "lock", path: path.clone(), source };
    // Others may look into it: an rsync daemon that runs as another user serves the mark.
    match fs::DirBuilder::new().mode(0o755).create(&path).and_then(|()| open_to_others(&path)) {
        Ok(()) => File::open(tree).and_then(|top| top.sync_all()).map_err(fail)?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(fail(e)),
    }
    directory(tree)?.ok_or_else(|| fail(io::ErrorKind::NotFound.into()))
}

/// Whatever the umask was when it was made.
fn open_to_others(dir: &Path) -> io::Result<()> {
    let made = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(dir)?;
    made.set_permissions(fs::Permissions::from_mode(0o755))
}

/// The lock is held.
fn put(tree: &Path, mark: &Mark) -> Result<(), MarkError> {
    put_beside(tree, "role", mark.text().as_bytes(), 0o644)
}

/// Puts a small file into a tree's [`DIR`] so that a power cut leaves the old one or the new one
/// ([`replace`]). All of it in the directory that was found to be root's or ours, wherever its path
/// leads by then.
///
/// # Errors
/// [`MarkError::Others`], [`MarkError::Io`].
pub(crate) fn put_beside(tree: &Path, name: &str, content: &[u8], mode: u32) -> Result<(), MarkError> {
    let fail = |source: io::Error| MarkError::Io { what: "write", path: tree.join(DIR).join(name), source };
    let dir = made(tree)?;
    let aside = format!("{name}.new");
    let new = Replace { aside: aside.as_ref(), mode, durable: true };
    new.put(&dir, name.as_ref(), content).map(drop).map_err(fail)
}

/// Removes a file of a tree's [`DIR`], if it is there, and the directory is root's or ours.
///
/// # Errors
/// As [`put_beside`].
pub(crate) fn remove_beside(tree: &Path, name: &str) -> Result<(), MarkError> {
    let Some(dir) = directory(tree)? else { return Ok(()) };
    replace::remove(&dir, name.as_ref()).map_err(|source| MarkError::Io {
        what: "remove",
        path: tree.join(DIR).join(name),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark(epoch: u64, role: Role) -> Mark {
        Mark::new(epoch, role, "test")
    }

    #[test]
    fn a_mark_survives_and_no_mark_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let mark = Mark::new(7, Role::Primary, "switched by web1\nat noon");
        write(dir.path(), &mark).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(mark.clone()));
        assert_eq!(mark.by, "switched by web1 at noon");
        assert!(!dir.path().join(".fansync/role.new").exists());
    }

    /// A user who may write at the top of a tree exchanges the directory and another one all the
    /// time.
    #[test]
    fn nothing_is_written_or_removed_through_what_others_put_there() {
        use nix::fcntl::{RenameFlags, renameat2};
        use std::sync::atomic::{AtomicBool, Ordering};

        let (dir, aim) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tree = dir.path();
        write(tree, &mark(1, Role::Primary)).unwrap();
        for name in ["role.new", "known.t.new", "known.t"] {
            fs::write(aim.path().join(name), "not ours").unwrap();
        }
        std::os::unix::fs::symlink(aim.path(), tree.join("theirs")).unwrap();
        let (ends, top) = (AtomicBool::new(false), File::open(tree).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ends.load(Ordering::Relaxed) {
                    let _ = renameat2(&top, DIR, &top, "theirs", RenameFlags::RENAME_EXCHANGE);
                }
            });
            for epoch in 2..500 {
                let _ = write(tree, &mark(epoch, Role::Primary));
                let _ = put_beside(tree, "known.t", b"1\n", 0o644);
                let _ = remove_beside(tree, "known.t");
                let _ = beside(tree, "known.t");
            }
            ends.store(true, Ordering::Relaxed);
        });
        let mut left: Vec<_> = fs::read_dir(aim.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["known.t", "known.t.new", "role.new"]);
        for name in left {
            assert_eq!(fs::read(aim.path().join(&name)).unwrap(), b"not ours", "{name:?}");
        }
    }

    #[test]
    fn a_file_that_is_half_written_is_damaged_and_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &mark(3, Role::Follower)).unwrap();
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(matches!(read(dir.path()), Err(MarkError::Damaged { .. })), "cut off after {len} bytes");
            // And it is not written over by a program: an administrator has to check it.
            assert!(raise(dir.path(), &mark(9, Role::Primary)).is_err(), "raised after {len} bytes");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(read(dir.path()).is_err());
    }

    /// The mark of a tree in which another user may write at the top.
    #[test]
    fn a_mark_that_others_put_there_is_not_taken() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        use std::os::unix::fs::chown;
        let tree = tempfile::tempdir().unwrap();
        let (dir, file) = (tree.path().join(DIR), tree.path().join(FILE));
        let others = |what: &str| {
            let found = read(tree.path());
            assert!(matches!(&found, Err(MarkError::Others { .. })), "{what}: {found:?}");
            assert!(raise(tree.path(), &mark(9, Role::Primary)).is_err(), "{what}");
        };
        write(tree.path(), &mark(3, Role::Follower)).unwrap();
        chown(&file, Some(4711), None).unwrap();
        others("his file in root's directory");
        chown(&file, Some(0), None).unwrap();
        assert_eq!(read(tree.path()).unwrap(), Some(mark(3, Role::Follower)));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        others("a file that everybody may write");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        chown(&dir, Some(4711), None).unwrap();
        others("his directory");
        assert!(write(tree.path(), &mark(9, Role::Primary)).is_err(), "nothing is written into it by hand either");
        assert!(beside(tree.path(), "handover").is_err());
        fs::rename(&dir, tree.path().join("moved")).unwrap();
        std::os::unix::fs::symlink("moved", &dir).unwrap();
        assert!(read(tree.path()).is_err(), "a link in its place");
    }

    #[test]
    fn what_a_mark_says_is_fit_to_be_shown_and_its_epoch_can_be_outdone() {
        let signed = |epoch: u64, by: &str| {
            let mark = Mark { epoch, role: Role::Primary, by: by.into() };
            Mark::parse(mark.text().as_bytes())
        };
        assert_eq!(signed(7, "x\x1b[2Jy").unwrap().by, "x [2Jy");
        for epoch in [0, LAST_EPOCH + 1, u64::MAX] {
            assert!(signed(epoch, "x").is_err(), "{epoch}");
            let json = format!("{{\"epoch\":{epoch},\"role\":\"primary\",\"by\":\"x\"}}");
            assert!(serde_json::from_str::<Mark>(&json).is_err(), "{epoch}");
        }
        assert_eq!(signed(LAST_EPOCH, "x").unwrap().epoch, LAST_EPOCH);
        let mark: Mark = serde_json::from_str("{\"epoch\":7,\"role\":\"primary\",\"by\":\"a\\u001bb\"}").unwrap();
        assert_eq!(mark.by, "a b");
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &mark(3, Role::Follower)).unwrap();
        fs::write(dir.path().join(".fansync/role.new"), b"fansync-role 1\nepo").unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(mark(3, Role::Follower)));
        raise(dir.path(), &mark(4, Role::Primary)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(mark(4, Role::Primary)));
    }

    #[test]
    fn epochs_only_go_up() {
        use Role::{Follower, Primary};
        for (old, new, allowed) in [
            (None, (1, Primary), true),
            (Some((1, Follower)), (2, Primary), true),
            (Some((2, Primary)), (3, Primary), true),
            (Some((2, Primary)), (2, Follower), true),
            (Some((2, Primary)), (2, Primary), true),
            (Some((2, Follower)), (2, Primary), false),
            (Some((2, Primary)), (1, Primary), false),
            (Some((2, Primary)), (1, Follower), false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            if let Some((epoch, role)) = old {
                write(dir.path(), &mark(epoch, role)).unwrap();
            }
            let done = raise(dir.path(), &mark(new.0, new.1));
            assert_eq!(done.is_ok(), allowed, "{old:?} {new:?}: {done:?}");
            let want = if allowed { Some(new) } else { old };
            assert_eq!(read(dir.path()).unwrap(), want.map(|(e, r)| mark(e, r)), "{old:?} {new:?}");
        }
    }

    #[test]
    fn of_two_that_raise_at_once_one_wins() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &mark(1, Role::Follower)).unwrap();
        let won: usize = std::thread::scope(|s| {
            let all: Vec<_> = (0..8)
                .map(|n| {
                    let tree = dir.path();
                    s.spawn(move || {
                        // As two servers' agents do: each for its own view of the world.
                        let role = if n % 2 == 0 { Role::Primary } else { Role::Follower };
                        raise(tree, &mark(2, role)).is_ok_and(|old| old.is_some_and(|m| m.epoch == 1))
                    })
                })
                .collect();
            all.into_iter().map(|t| usize::from(t.join().unwrap())).sum()
        });
        assert_eq!(won, 1);
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(epoch in 1u64..=LAST_EPOCH, primary: bool, by in "\\PC{0,40}") {
            let mark = Mark::new(epoch, if primary { Role::Primary } else { Role::Follower }, &by);
            prop_assert_eq!(Mark::parse(mark.text().as_bytes()), Ok(mark));
        }

        #[test]
        fn one_wrong_byte_is_found(at in 0usize..100, to: u8) {
            let mut text = mark(12, Role::Primary).text().into_bytes();
            let at = at % text.len();
            prop_assume!(text[at] != to);
            text[at] = to;
            prop_assert!(Mark::parse(&text).is_err());
        }
    }
}
