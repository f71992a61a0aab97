//! Paths that were not on a target when the daemon stopped, for mirrors that do not begin with a comparison of everything.
//!
//! One file per mirror, written whole and put in place in one step, with the checksums of the state file. It is believed
//! only if it is whole: what cannot be proven is compared. The file stays until every target holds everything again, so
//! a daemon that dies before that finds it once more.
//!
//! Gives up: a daemon that is killed saves nothing, and with `initial = "none"` nobody looks for what it had pending.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::log::{Chain, read};
use crate::dirty::Seen;
use crate::path::RelPath;

const TARGET: u32 = 1;
const PATHS: u32 = 2;
const END: u32 = 3;
/// Payload of a record, about.
const RECORD_BYTES: usize = 64 * 1024;

/// What one target lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// What the target is: its name and URL, in one string. Compared, not parsed.
    pub target: String,
    /// Where to look, and for what.
    pub paths: Vec<(RelPath, Seen)>,
}

/// Why nothing can be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum PendingError {
    /// The file or its directory.
    #[error("cannot {what} {path}; state_dir must be a directory that fansync can write")]
    File {
        /// `read`, `write`, `make` or `remove`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{path} is damaged ({why}); remove it when the targets have been compared")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The file of one mirror.
#[derive(Debug, Clone)]
pub struct PendingFile {
    dir: PathBuf,
}

impl PendingFile {
    /// The file of `mirror` below `state_dir`; the directories are made, readable by their owner alone.
    ///
    /// # Errors
    /// [`PendingError::File`].
    pub fn open(state_dir: &Path, mirror: &str) -> Result<PendingFile, PendingError> {
        let dir = state_dir.join(mirror);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|source| PendingError::File { what: "make", path: dir.clone(), source })?;
        Ok(PendingFile { dir })
    }

    fn path(&self) -> PathBuf {
        self.dir.join("pending")
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> PendingError {
        let path = self.path();
        move |source| PendingError::File { what, path, source }
    }

    /// Saves what each target lacks; on the disk when it returns.
    ///
    /// # Errors
    /// [`PendingError::File`]; what was saved before is still there then.
    pub fn save(&self, pending: &[Pending]) -> Result<(), PendingError> {
        let mut bytes = Vec::new();
        let mut chain = Chain::begin(fastrand::u128(..).to_le_bytes(), &mut bytes);
        for target in pending {
            chain.append(TARGET, target.target.as_bytes(), &mut bytes);
            let mut record = Vec::new();
            for (path, seen) in &target.paths {
                record.push(code(*seen));
                record.extend_from_slice(&(path.len() as u32).to_le_bytes());
                record.extend_from_slice(path);
                if record.len() >= RECORD_BYTES {
                    chain.append(PATHS, &record, &mut bytes);
                    record.clear();
                }
            }
            chain.append(PATHS, &record, &mut bytes);
        }
        chain.append(END, &[], &mut bytes);
        self.replace(&bytes).map_err(self.failed("write"))
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let new = self.dir.join("pending.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, self.path())?;
        File::open(&self.dir)?.sync_all()
    }

    /// What an earlier run saved; empty when there is nothing.
    ///
    /// # Errors
    /// [`PendingError::Damaged`] when the file is not whole: then nothing is known, and everything has to be compared.
    pub fn load(&self) -> Result<Vec<Pending>, PendingError> {
        let bytes = match fs::read(self.path()) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.failed("read")(e)),
        };
        decode(&bytes).map_err(|why| PendingError::Damaged { path: self.path(), why })
    }

    /// Removes the file: every target holds everything.
    ///
    /// # Errors
    /// [`PendingError::File`].
    pub fn remove(&self) -> Result<(), PendingError> {
        match fs::remove_file(self.path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed("remove")(e)),
            _ => Ok(()),
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Vec<Pending>, String> {
    let contents = read(bytes).map_err(|e| e.to_string())?;
    let whole = !contents.torn && contents.records.last().is_some_and(|r| r.kind == END);
    if !whole {
        return Err("its end is missing".into());
    }
    let mut out: Vec<Pending> = Vec::new();
    for record in &contents.records {
        match (record.kind, out.last_mut()) {
            (TARGET, _) => {
                let target = String::from_utf8(record.payload.into()).map_err(|_| "a target's name is no text")?;
                out.push(Pending { target, paths: Vec::new() });
            }
            (PATHS, Some(target)) => {
                let mut rest = record.payload;
                while let Some((&kind, after)) = rest.split_first() {
                    let (bytes, after) = after.split_first_chunk::<4>().ok_or("a path is cut off")?;
                    let (path, after) = after.split_at_checked(u32::from_le_bytes(*bytes) as usize).ok_or("a path is cut off")?;
                    let path = RelPath::new(path).filter(|p| **p == *path).ok_or("a path is none")?;
                    target.paths.push((path, seen(kind).ok_or("an unknown kind of change")?));
                    rest = after;
                }
            }
            (END, _) => {}
            _ => return Err("records are out of order".into()),
        }
    }
    Ok(out)
}

/// What each letter means; never changed.
const CODES: [(Seen, u8); 6] = [
    (Seen::Written, b'w'),
    (Seen::Touched, b't'),
    (Seen::Gone, b'g'),
    (Seen::Contents, b'c'),
    (Seen::MovedDir, b'm'),
    (Seen::Subtree, b's'),
];

fn code(seen: Seen) -> u8 {
    let plain = match seen {
        // What matters of these after a restart is that the path is looked at.
        Seen::Created | Seen::Modified => Seen::Written,
        Seen::CreatedDir => Seen::MovedDir,
        Seen::GoneDir => Seen::Gone,
        other => other,
    };
    CODES.iter().find(|(s, _)| *s == plain).map_or(b's', |(_, c)| *c)
}

fn seen(code: u8) -> Option<Seen> {
    CODES.iter().find(|(_, c)| *c == code).map(|(s, _)| *s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Pending> {
        let path = |p: &[u8]| RelPath::new(p).unwrap();
        let paths = vec![(path(b"a/\xff\n"), Seen::Written), (path(b""), Seen::Subtree), (path(b"d"), Seen::Contents)];
        let many = (0..20_000).map(|n| (path(format!("dir/file {n}").as_bytes()), Seen::Gone)).collect();
        vec![Pending { target: "t1 rsync://h/m".into(), paths }, Pending { target: "t2 /x".into(), paths: many }]
    }

    #[test]
    fn comes_back_as_it_was_until_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = PendingFile::open(&dir.path().join("state"), "m").unwrap();
        assert_eq!(file.load().unwrap(), []);
        file.save(&sample()).unwrap();
        assert_eq!(file.load().unwrap(), sample());
        file.save(&sample()[..1]).unwrap();
        assert_eq!(file.load().unwrap(), sample()[..1]);
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), []);
    }

    #[test]
    fn cut_or_changed_anywhere_it_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let file = PendingFile::open(dir.path(), "m").unwrap();
        file.save(&sample()[..1]).unwrap();
        let bytes = fs::read(file.path()).unwrap();
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
            let mut changed = bytes.clone();
            changed[cut] ^= 1;
            assert!(decode(&changed).is_err(), "changed at {cut}");
        }
        fs::write(file.path(), &bytes[..bytes.len() - 1]).unwrap();
        assert!(matches!(file.load(), Err(PendingError::Damaged { .. })));
    }
}
