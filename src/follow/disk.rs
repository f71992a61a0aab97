//! What a follower keeps on disk: its position, and which directory it has filled.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::Mirror;
use crate::feed::machine::Saved;
use crate::feed::note::{Followed, FollowedFile};

/// See the module's text.
pub(super) struct Disk {
    state_dir: PathBuf,
    mirror: String,
    directory: PathBuf,
    /// Whether anything is kept.
    keeps: bool,
    file: FollowedFile,
    kept: Followed,
    /// The directory that a comparison has filled.
    filled: Option<(u64, u64)>,
    /// Whether it was logged that the state on disk is old.
    unsaved: bool,
}

/// Whether the directory is the one that was filled.
pub(super) enum Directory {
    Same,
    /// Another one than before.
    Replaced,
}

impl Disk {
    /// What an earlier process left, and where it left off; `keeps`: whether that goes on.
    pub(super) fn open(mirror: &Mirror, state_dir: &Path, keeps: bool) -> (Disk, Option<Saved>) {
        let file = FollowedFile::new(state_dir, &mirror.name, &mirror.source);
        let kept = match file.load() {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(mirror = %mirror.name, "where the follower left off is not known, so the whole tree is compared: {error}");
                None
            }
        };
        let saved = kept.as_ref().map(|kept| kept.saved.clone());
        let filled = kept.as_ref().and_then(|kept| kept.filled);
        let disk = Disk {
            state_dir: state_dir.to_owned(),
            mirror: mirror.name.clone(),
            directory: mirror.source.clone(),
            keeps,
            file,
            kept: kept.unwrap_or_default(),
            filled,
            unsaved: false,
        };
        (disk, saved)
    }

    /// Where state is kept, and whether any is.
    pub(super) fn place(&self) -> (&Path, bool) {
        (&self.state_dir, self.keeps)
    }

    /// Where the upstream's mark is fetched to.
    pub(super) fn mark_dir(&self) -> PathBuf {
        self.state_dir.join(&self.mirror).join("mark")
    }

    /// Writes down where the follower is.
    pub(super) fn save(&mut self, saved: Saved) {
        if !self.keeps {
            return;
        }
        let now = Followed { saved, filled: self.filled };
        if now == self.kept {
            return;
        }
        match self.file.save(&now) {
            Ok(()) => {
                self.unsaved = false;
                self.kept = now;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.unsaved, true) {
                    tracing::warn!(mirror = %self.mirror, "the position cannot be saved, so a restart reads or compares again: {error}");
                }
            }
        }
    }

    /// Whether anything is kept.
    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Whether the disk has an older position than the follower.
    pub(super) fn is_behind(&self) -> bool {
        self.unsaved && self.keeps
    }

    /// Whether a comparison has filled the directory.
    pub(super) fn is_filled(&self) -> bool {
        self.filled.is_some()
    }

    /// A comparison has filled the directory.
    pub(super) fn note_filled(&mut self) {
        self.filled = self.found().ok();
    }

    /// Looks at the directory. One that was replaced counts as not filled from here on.
    ///
    /// # Errors
    /// It cannot be used.
    pub(super) fn look(&mut self) -> std::io::Result<Directory> {
        let found = self.found()?;
        match self.filled {
            Some(filled) if filled != found => {
                self.filled = None;
                Ok(Directory::Replaced)
            }
            _ => Ok(Directory::Same),
        }
    }

    /// The device and inode of the directory.
    fn found(&self) -> std::io::Result<(u64, u64)> {
        let found = std::fs::metadata(&self.directory)?;
        if !found.is_dir() {
            return Err(std::io::Error::from(std::io::ErrorKind::NotADirectory));
        }
        Ok((found.dev(), found.ino()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_directory_that_was_replaced_is_not_filled_any_more() {
        let (state, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let copy = tree.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        let config = Config::for_follow("nats://hub/web", "rsync://hub/web", &copy, Default::default()).unwrap();
        let mirror = &config.mirrors[0];
        let (mut disk, saved) = Disk::open(mirror, state.path(), true);
        assert_eq!((saved, disk.is_filled()), (None, false));
        assert!(matches!(disk.look(), Ok(Directory::Same)), "which one it was is not known");
        disk.note_filled();
        disk.save(Saved::default());
        assert!(matches!(disk.look(), Ok(Directory::Same)) && !disk.is_behind());
        let (mut next, saved) = Disk::open(mirror, state.path(), true);
        assert_eq!((saved, next.is_filled()), (Some(Saved::default()), true));
        std::fs::rename(&copy, tree.path().join("aside")).unwrap();
        assert!(next.look().is_err());
        std::fs::create_dir(&copy).unwrap();
        assert!(matches!(next.look(), Ok(Directory::Replaced)) && !next.is_filled());
        // Without a place for it nothing is written, and nothing is missing.
        let gone = state.path().join("file");
        std::fs::write(&gone, "").unwrap();
        let (mut none, _) = Disk::open(mirror, &gone, false);
        none.note_filled();
        none.save(Saved::default());
        assert!(!none.is_behind());
        let (mut full, _) = Disk::open(mirror, &gone, true);
        full.note_filled();
        full.save(Saved::default());
        assert!(full.is_behind());
    }
}
