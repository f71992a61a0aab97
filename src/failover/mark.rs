//! The role and the epoch of a tree, in a small file inside of it.
//!
//! Promises: what [`write()`] returned from survives a power cut, whole; a reader sees the old mark or the new one. A file that is
//! neither (cut off, edited by hand and wrong) is an error and never taken for "no mark": who cannot read the epoch must not
//! push. An epoch never goes down by [`raise`].
//!
//! How it works: five lines of text, the last a checksum of the others, written aside, fsynced, renamed, the directory fsynced.
//! Writers take turns by flock(2) on a file beside it. The directory [`DIR`] is left out of every pass of a mirror that
//! honours roles, and protected on its target.
//!
//! The checksum finds accidents. It is no protection from somebody who may write in the tree's top directory.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;
use thiserror::Error;

/// Where a tree keeps its mark, and what a change of roles set aside.
pub const DIR: &str = ".fansync";
/// The mark itself, below the tree.
pub const FILE: &str = ".fansync/role";
/// A mark is shorter than this, in bytes.
pub const MAX_BYTES: u64 = 1024;
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
pub struct Mark {
    /// Goes up with each switch; the highest one with the role of a primary is where clients belong. From 1.
    pub epoch: u64,
    /// The role.
    pub role: Role,
    /// Who wrote it and why, for people. One line.
    pub by: String,
}

/// Why a mark cannot be read or written.
#[derive(Debug, Error)]
pub enum MarkError {
    /// The file is there and makes no sense.
    #[error("the role mark {path} is damaged ({what}): look at both servers, then write it anew with `fansync failover role`")]
    Damaged {
        /// The file, or where it came from.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The disk.
    #[error("cannot {what} the role mark {path}: {source}")]
    Io {
        /// `read`, `write`, `lock`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody was faster, or has raised the epoch meanwhile.
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
        let epoch = epoch.parse().ok().filter(|&e| e > 0).ok_or("its epoch is no number")?;
        let mark = Mark { epoch, role, by };
        if u64::from_str_radix(sum, 16) != Ok(checksum(mark.body().as_bytes())) || mark.text() != text {
            return Err("its checksum is wrong");
        }
        Ok(mark)
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

/// The mark of a tree; `None` when it has none. One open and one read.
///
/// # Errors
/// [`MarkError::Damaged`] when there is a file that is no mark; [`MarkError::Io`] for everything but "no such file".
pub fn read(tree: &Path) -> Result<Option<Mark>, MarkError> {
    read_file(&tree.join(FILE))
}

/// As [`read`], of a file of any name.
///
/// # Errors
/// As [`read`].
pub fn read_file(path: &Path) -> Result<Option<Mark>, MarkError> {
    let fail = |source| MarkError::Io { what: "read", path: path.into(), source };
    // Not blocking, and no link: whoever can write in the tree could put one there.
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
    let file = match open {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    let damaged = |what| MarkError::Damaged { path: path.display().to_string(), what };
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(damaged("it is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(fail)?;
    Mark::parse(&text).map(Some).map_err(damaged)
}

/// Writes the mark of a tree, whatever it was, and returns once it is on the disk. For the administrator's word; programs
/// use [`raise`].
///
/// # Errors
/// [`MarkError::Io`].
pub fn write(tree: &Path, mark: &Mark) -> Result<(), MarkError> {
    let _lock = lock(tree)?;
    put(tree, mark)
}

/// Replaces the mark unless it has an epoch that is higher, or the same with another role than a step down: a follower cannot
/// become a primary again without a new epoch. Returns what was there.
///
/// # Errors
/// [`MarkError::Stale`], [`MarkError::Damaged`], [`MarkError::Io`]; nothing is changed then.
pub fn raise(tree: &Path, mark: &Mark) -> Result<Option<Mark>, MarkError> {
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
    let dir = tree.join(DIR);
    let path = dir.join("lock");
    let fail = |source| MarkError::Io { what: "lock", path: path.clone(), source };
    // Others may look into it: an rsync daemon that runs as somebody else serves the mark.
    match fs::DirBuilder::new().mode(0o755).create(&dir) {
        Ok(()) => File::open(tree).and_then(|top| top.sync_all()).map_err(fail)?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if !fs::symlink_metadata(&dir).map_err(fail)?.is_dir() {
                return Err(fail(io::Error::from(io::ErrorKind::NotADirectory)));
            }
        }
        Err(e) => return Err(fail(e)),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path)
        .map_err(fail)?;
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

/// Aside, fsync, rename, fsync of the directory. The lock is held.
fn put(tree: &Path, mark: &Mark) -> Result<(), MarkError> {
    put_file(&tree.join(FILE), mark.text().as_bytes(), 0o644).map_err(|source| MarkError::Io {
        what: "write",
        path: tree.join(FILE),
        source,
    })
}

/// Puts a small file in its place so that a power cut leaves the old one or the new one.
///
/// # Errors
/// Those of the disk.
pub fn put_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    match fs::remove_file(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(dir)?.sync_all()
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

    #[test]
    fn a_file_that_is_half_written_is_damaged_and_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &mark(3, Role::Follower)).unwrap();
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(matches!(read(dir.path()), Err(MarkError::Damaged { .. })), "cut off after {len} bytes");
            // And it is not written over by a program: somebody has to look.
            assert!(raise(dir.path(), &mark(9, Role::Primary)).is_err(), "raised after {len} bytes");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(read(dir.path()).is_err());
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
        fn reads_what_it_writes(epoch in 1u64.., primary: bool, by in "\\PC{0,40}") {
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
