//! What a publisher and a follower keep on disk, each in its mirror's state directory.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::machine::{Point, Saved};
use crate::state::note::{Note, NoteError};

/// Where a publisher left off.
#[derive(Debug, Clone)]
pub(crate) struct PublishedFile(Note);

impl PublishedFile {
    /// That of a mirror, which publishes `source`.
    pub(crate) fn new(state_dir: &Path, mirror: &str, source: &Path) -> PublishedFile {
        PublishedFile(Note::new(state_dir, mirror, "published", source))
    }

    /// What an earlier process left; `None` where nothing is known.
    pub(crate) fn load(&self) -> Option<Point> {
        self.0.load::<Kept<Point>>().ok().flatten().map(|kept| kept.kept)
    }

    /// Saves; on the disk when it returns.
    ///
    /// # Errors
    /// [`NoteError`]; what was saved before is still there then.
    pub(crate) fn save(&self, point: &Point) -> Result<(), NoteError> {
        self.0.save(Some(&Kept { kept: *point }))
    }
}

#[derive(Serialize, Deserialize)]
struct Kept<T> {
    kept: T,
}

/// What a follower keeps.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Followed {
    /// Where it left off, and what it owes.
    pub(crate) saved: Saved,
    /// A comparison of the whole tree has filled this directory: its device and inode.
    pub(crate) filled: Option<(u64, u64)>,
}

/// Where a follower left off, and what it owes.
#[derive(Debug, Clone)]
pub(crate) struct FollowedFile(Note);

impl FollowedFile {
    /// That of a follower with this directory.
    pub(crate) fn new(state_dir: &Path, name: &str, directory: &Path) -> FollowedFile {
        FollowedFile(Note::new(state_dir, name, "followed", directory))
    }

    /// What an earlier process left; `None` where nothing is known, which owes a comparison.
    ///
    /// # Errors
    /// [`NoteError`]: there is something, and it cannot be read.
    pub(crate) fn load(&self) -> Result<Option<Followed>, NoteError> {
        Ok(self.0.load::<Kept<Followed>>()?.map(|kept| kept.kept))
    }

    /// Saves; on the disk when it returns.
    ///
    /// # Errors
    /// [`NoteError`]; what was saved before is still there then.
    pub(crate) fn save(&self, saved: &Followed) -> Result<(), NoteError> {
        self.0.save(Some(&Kept { kept: saved.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_comes_back_for_the_same_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = FollowedFile::new(dir.path(), "web", Path::new("/srv/web"));
        assert_eq!(file.load().unwrap(), None);
        let point = Point { stream: 1, incarnation: u64::MAX, number: 3, sequence: 4 };
        let saved = Saved { position: Some(point), owed: Some("why".into()), failed: vec![b"\xff".to_vec()], ..Saved::default() };
        let saved = Followed { saved, filled: Some((1, 2)) };
        file.save(&saved).unwrap();
        assert_eq!(file.load().unwrap(), Some(saved));
        assert_eq!(FollowedFile::new(dir.path(), "web", Path::new("/srv/other")).load().unwrap(), None);
        std::fs::write(dir.path().join("web/followed"), "torn").unwrap();
        assert!(file.load().is_err());
        let published = PublishedFile::new(dir.path(), "m", Path::new("/src"));
        assert_eq!(published.load(), None);
        published.save(&point).unwrap();
        assert_eq!(published.load(), Some(point));
    }
}
