//! The file for node_exporter's textfile collector.
//!
//! Written aside and put into place by rename, so that the collector never reads half a file; the
//! name aside does not end in `.prom`, so that it is never read at all. An orderly end removes the
//! file, so that its numbers end with the daemon. After a crash it stays, and its age shows
//! (`node_textfile_mtime_seconds`). A snapshot that cannot be had writes nothing, for the same
//! reason.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys::replace::Replace;

/// The file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write metrics to {path}: {source}; its directory must be there and be writable for fansync (metrics_file)")]
pub(crate) struct FileError {
    pub(crate) path: PathBuf,
    /// Why.
    pub(crate) source: io::Error,
}

/// The file; dropped, it is removed.
pub(crate) struct MetricsFile {
    path: PathBuf,
    aside: PathBuf,
}

impl MetricsFile {
    /// Nothing is written yet.
    pub(crate) fn new(path: &Path) -> MetricsFile {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".tmp");
        MetricsFile { path: path.into(), aside: aside.into() }
    }

    /// Puts `text` into the file's place. It is not synced: after a power loss it is of no use.
    ///
    /// # Errors
    /// Those of making, writing and renaming.
    pub(crate) fn write(&self, text: &str) -> Result<(), FileError> {
        let fail = |source| FileError { path: self.path.clone(), source };
        let new = Replace { aside: self.aside.file_name().unwrap_or_default(), mode: 0o644, durable: false };
        new.put_at(&self.path, text.as_bytes()).map(drop).map_err(fail)
    }
}

impl Drop for MetricsFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.aside);
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn is_whole_readable_by_all_and_gone_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fansync.prom");
        let file = MetricsFile::new(&path);
        file.write("one\n").unwrap();
        let first = fs::metadata(&path).unwrap();
        assert_eq!(first.mode() & 0o777, 0o644);
        file.write("two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_ne!(fs::metadata(&path).unwrap().ino(), first.ino(), "it is another file, not the same one written over");
        let names = || fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names(), 1);
        assert!(!file.aside.to_str().unwrap().ends_with(".prom"));
        drop(file);
        assert_eq!(names(), 0);
    }

    /// The owner of the directory puts a link in the place of the file aside, between its making
    /// and the next step.
    #[test]
    fn no_link_that_is_put_there_meanwhile_is_followed() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
        let places = dir.path().join("textfiles");
        fs::create_dir(&places).unwrap();
        let file = MetricsFile::new(&places.join("f.prom"));
        let end = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                let link = places.join("l");
                while !end.load(Ordering::Relaxed) {
                    let _ = symlink(&victim, &link);
                    let _ = fs::rename(&link, &file.aside);
                }
            });
            for _ in 0..3000 {
                // It may fail, as the name is taken again and again.
                let _ = file.write("x");
            }
            end.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::metadata(&victim).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        let file = MetricsFile::new(&dir.path().join("f.prom"));
        symlink(&victim, &file.aside).unwrap();
        file.write("x").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert!(MetricsFile::new(&dir.path().join("no/f.prom")).write("").unwrap_err().to_string().contains("metrics_file"));
    }
}
