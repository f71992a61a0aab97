//! `fansync pause` of a follower, which outlives the process.

use std::path::Path;

use super::unix_now;
use crate::config::Mirror;
use crate::state::pauses::{PauseFile, Pauses};

/// See the module's text.
pub(super) struct Pause {
    mirror: String,
    /// Of which upstream the file has it.
    of: String,
    /// Where it is kept.
    file: Option<PauseFile>,
    since: Option<f64>,
}

impl Pause {
    /// None so far. `keeps`: whether it is kept in `state_dir`.
    pub(super) fn new(mirror: &Mirror, state_dir: &Path, keeps: bool) -> Pause {
        let first = mirror.targets.first().map(|target| format!("{} {}", target.name, target.location));
        Pause {
            mirror: mirror.name.clone(),
            of: first.unwrap_or_default(),
            file: keeps.then(|| PauseFile::new(state_dir, &mirror.name, &mirror.source)),
            since: None,
        }
    }

    /// Takes up what an earlier process left.
    pub(super) fn take_up(&mut self) {
        let Some(file) = &self.file else { return };
        self.since = match file.load() {
            Ok(pauses) => pauses.get(&self.of).copied(),
            Err(error) => {
                tracing::error!(mirror = %self.mirror, "the follower is paused, as it is not known whether it was: {error}. `fansync resume` goes on");
                Some(unix_now())
            }
        };
        if self.is_on() {
            tracing::warn!(mirror = %self.mirror, "the follower is paused; `fansync resume` goes on");
        }
    }

    /// Whether the follower is paused.
    pub(super) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Since when, seconds since 1970.
    pub(super) fn since(&self) -> Option<f64> {
        self.since
    }

    /// `true`: it was paused already.
    pub(super) fn begin(&mut self) -> bool {
        let was = self.is_on();
        self.since.get_or_insert_with(unix_now);
        self.keep();
        was
    }

    /// `true`: it was paused.
    pub(super) fn end(&mut self) -> bool {
        let was = self.since.take().is_some();
        self.keep();
        was
    }

    fn keep(&self) {
        let Some(file) = &self.file else { return };
        let pauses: Pauses = self.since.map(|since| (self.of.clone(), since)).into_iter().collect();
        if let Err(error) = file.save(&pauses) {
            tracing::warn!(mirror = %self.mirror, "the pause ends with the daemon: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_pause_outlives_the_process_where_state_is_kept() {
        let state = tempfile::tempdir().unwrap();
        let config = Config::for_follow("nats://hub/web", "rsync://hub/web", Path::new("/srv/web"), Default::default()).unwrap();
        for keeps in [true, false] {
            let new = || {
                let mut pause = Pause::new(&config.mirrors[0], state.path(), keeps);
                pause.take_up();
                pause
            };
            let mut pause = new();
            assert_eq!((pause.is_on(), pause.begin(), pause.begin(), pause.is_on()), (false, false, true, true));
            let mut next = new();
            assert_eq!((next.is_on(), next.end(), next.end()), (keeps, keeps, false));
            assert!(!new().is_on());
        }
    }
}
