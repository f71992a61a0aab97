//! What a hook had pending at an orderly stop: one JSON object a line, in
//! `state_dir/MIRROR/hook-NAME.pending`.
//!
//! Written whole and put in place in one step. The next daemon leaves it where it is until all of
//! it was delivered, so that one that dies before that delivers it again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::queue::Event;
use crate::config::hook::Change;
use crate::path::RelPath;
use crate::state::disk::Disk;
use crate::state::note;

/// The time that a write may take; it goes to the disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why nothing can be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum SavedError {
    #[error("cannot {what} {path}: {error}")]
    File { what: &'static str, path: PathBuf, error: io::Error },
    #[error("{path} is damaged in line {line}")]
    Damaged { path: PathBuf, line: usize },
}

/// The file of one hook.
#[derive(Debug, Clone)]
pub(super) struct SavedFile {
    dir: PathBuf,
    path: PathBuf,
    disk: Disk,
}

#[derive(Serialize, Deserialize)]
struct Line {
    path: String,
    change: Option<Change>,
    dir: bool,
    target: Option<String>,
    millis: u64,
    batch: String,
}

/// The events that a file holds, or the number of the line that is damaged.
pub(super) fn parse(text: &str) -> Result<Vec<Event>, usize> {
    let read = |(at, line): (usize, &str)| {
        let damaged = || at + 1;
        let line: Line = serde_json::from_str(line).map_err(|_| damaged())?;
        let path = BASE64.decode(&line.path).ok().and_then(|bytes| RelPath::new(&bytes)).ok_or_else(damaged)?;
        let target = line.target.map(Arc::from);
        Ok(Event { path, change: line.change, dir: line.dir, target, millis: line.millis, batch: line.batch })
    };
    text.lines().enumerate().map(read).collect()
}

impl SavedFile {
    pub(super) fn new(state_dir: &Path, mirror: &str, hook: &str) -> SavedFile {
        let dir = state_dir.join(mirror);
        SavedFile { path: dir.join(format!("hook-{hook}.pending")), dir, disk: Disk::default() }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> SavedError {
        let path = self.path.clone();
        move |error| SavedError::File { what, path, error }
    }

    /// What an earlier daemon left; empty when there is nothing.
    pub(super) fn load(&self) -> Result<Vec<Event>, SavedError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed("read")(error)),
        };
        parse(&text).map_err(|line| SavedError::Damaged { path: self.path.clone(), line })
    }

    /// Saves what is left, or removes the file where nothing is.
    pub(super) fn save(&self, events: &[Event]) -> Result<(), SavedError> {
        if events.is_empty() {
            self.remove();
            return Ok(());
        }
        let mut text = Vec::new();
        for event in events {
            let line = Line {
                path: BASE64.encode(&*event.path),
                change: event.change,
                dir: event.dir,
                target: event.target.as_deref().map(str::to_owned),
                millis: event.millis,
                batch: event.batch.clone(),
            };
            serde_json::to_writer(&mut text, &line).map_err(|e| self.failed("write")(e.into()))?;
            text.push(b'\n');
        }
        let (dir, path) = (self.dir.clone(), self.path.clone());
        self.disk.within_or_later(PATIENCE, move || note::replace(&dir, &path, &text)).map_err(self.failed("write"))
    }

    pub(super) fn remove(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "cannot remove what was delivered; the next start delivers it again");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = SavedFile::new(dir.path(), "m", "h");
        assert_eq!(file.load().unwrap(), []);
        let event = |path: &[u8], change, target: Option<&str>| {
            Event::new(RelPath::from_normal(path), change, change.is_none(), target.map(Arc::from), "1-0-7".into())
        };
        let events = [event(b"a\n\xff\"", Some(Change::Deleted), Some("t")), event(b"", None, None)];
        file.save(&events).unwrap();
        assert_eq!(file.load().unwrap(), events);
        let text = fs::read(&file.path).unwrap();
        fs::write(&file.path, &text[..text.len() - 5]).unwrap();
        assert!(matches!(file.load(), Err(SavedError::Damaged { line: 2, .. })));
        file.save(&[]).unwrap();
        assert_eq!(file.load().unwrap(), []);
    }
}
