//! Files that were written and wait to be sent, kept on the disk while they do and pending again at
//! the start ([`crate::state::written`]). Not all of them would be found without: a walk goes by
//! change times, and a comparison of the whole tree, which a start may have to make, by size and
//! mtime.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::Engine;
use crate::dirty::Seen;
use crate::path::RelPath;
use crate::state::written::WrittenFile;
use crate::sys::statx::{Paths, StatBrief};

/// At most so many files are kept, those that a walk would not find before others.
const MOST: usize = 10_000;
/// Of each target so many of what waits are checked: at the end.
const CHECKED_AT_END: usize = 500_000;
/// What waits for less is most likely on its way. What is killed before that loses it.
const AGE: Duration = Duration::from_secs(2);
/// The pause after a search, by the time that it took.
const REST: u32 = 50;

/// See the module's text.
pub(super) struct Unsent {
    file: WrittenFile,
    /// What the file has.
    saved: BTreeSet<RelPath>,
    next: Duration,
    /// It could not be written, which was logged.
    failing: bool,
}

/// A file that was written and is not sent.
struct Waits {
    path: RelPath,
    /// When it became dirty, seconds since 1970. `None`: the next start makes no walk for the
    /// target.
    since: Option<i64>,
}

impl Waits {
    /// Whether a walk for what changed since the target's watermark would not find it. The
    /// watermark is earlier than the change by [`SLACK`](crate::state::SLACK), so a second more or
    /// less is of no matter.
    fn is_hidden(&self, stat: &StatBrief) -> bool {
        self.since.is_none_or(|since| stat.ctime.secs < since)
    }
}

/// Files that wait.
#[derive(Default)]
pub(super) struct Found {
    /// Those that a walk would not find.
    hidden: BTreeSet<RelPath>,
    others: BTreeSet<RelPath>,
}

impl Found {
    pub(super) fn append(&mut self, mut more: Found) {
        self.hidden.append(&mut more.hidden);
        self.others.append(&mut more.others);
    }
}

impl Unsent {
    pub(super) fn new(file: WrittenFile) -> Unsent {
        Unsent { file, saved: BTreeSet::new(), next: Duration::ZERO, failing: false }
    }
}

impl Engine {
    /// What an earlier run left is pending again.
    pub(super) fn take_up_unsent(&mut self) {
        let Some(unsent) = &mut self.saved.unsent else { return };
        match unsent.file.load() {
            Ok(paths) => unsent.saved = paths,
            Err(error) => tracing::warn!(
                mirror = %self.mirror.name,
                "files that an earlier run had not sent, and whose change times are older than that, are not known: {error}. `fansync verify` finds them"
            ),
        }
        // The patterns may be others now.
        let filter = &self.mirror.filter;
        let paths: Vec<RelPath> = unsent.saved.iter().filter(|path| !filter.excludes(path, false)).cloned().collect();
        if !paths.is_empty() {
            tracing::info!(mirror = %self.mirror.name, files = paths.len(), "what was written and not sent before this start is read again");
        }
        paths.iter().for_each(|path| self.take_found(path, Seen::Written));
    }

    /// When the next search for such files is due.
    pub(super) fn unsent_due(&self) -> Option<Duration> {
        let unsent = self.saved.unsent.as_ref()?;
        let oldest = self.targets.iter().filter_map(|target| target.waits_since()).min();
        let from = oldest.map(|since| since + AGE).or((!unsent.saved.is_empty()).then_some(Duration::ZERO))?;
        Some(from.max(unsent.next))
    }

    /// Keeps such files, if a search is due.
    pub(super) fn keep_unsent(&mut self) {
        let now = self.now();
        if self.unsent_due().is_some_and(|due| due <= now) {
            let began = Instant::now();
            let waits = self.unsent_writes(MOST);
            self.save_unsent(waits, false);
            let pause = AGE.max(began.elapsed() * REST);
            self.saved.unsent.iter_mut().for_each(|unsent| unsent.next = now + pause);
        }
    }

    /// The same at the end. To be called before the runs are ended, too: what they carry is known to
    /// them alone.
    pub(super) fn unsent_at_end(&mut self) -> Found {
        self.unsent_writes(CHECKED_AT_END)
    }

    /// Such files, of the first `most` that wait for each target.
    fn unsent_writes(&mut self, most: usize) -> Found {
        let mut all = Found::default();
        let Some(unsent) = &self.saved.unsent else { return all };
        if self.guard.held.is_some() {
            // The source is another one, or none: what is not there may come back.
            all.hidden = unsent.saved.clone();
        }
        let (mut paths, mut waits) = (Paths::default(), Vec::new());
        for (at, target) in self.targets.iter().enumerate() {
            let by_walk = self.saved.history.as_ref().is_some_and(|history| history.finds_by_time(at));
            for (path, since) in target.written(most) {
                paths.push(&path, None);
                let since = since.filter(|_| by_walk).map(|since| self.clock.wall_start + since.as_secs() as i64);
                waits.push(Waits { path, since });
            }
        }
        let found = self.io.statter.stat_all(self.root.as_fd(), &paths);
        for (waits, stat) in waits.into_iter().zip(found) {
            let Some(stat) = stat.ok().filter(StatBrief::is_file) else { continue };
            let kind = if waits.is_hidden(&stat) { &mut all.hidden } else { &mut all.others };
            kind.insert(waits.path);
        }
        all
    }

    /// Keeps these for the next start. `last`: it is the end.
    pub(super) fn save_unsent(&mut self, found: Found, last: bool) {
        let Some(unsent) = &mut self.saved.unsent else { return };
        if last && found.hidden.len() > MOST {
            tracing::warn!(
                mirror = %self.mirror.name, files = found.hidden.len(),
                "files wait that a restart would not find by their change times, and not all are kept; the others are compared by `fansync verify` alone"
            );
        }
        let paths: BTreeSet<RelPath> = found.hidden.into_iter().chain(found.others).take(MOST).collect();
        if paths == unsent.saved && !last {
            return;
        }
        match unsent.file.save(&paths, last) {
            Ok(()) => (unsent.saved, unsent.failing) = (paths, false),
            Err(error) => {
                if !std::mem::replace(&mut unsent.failing, true) {
                    tracing::error!(mirror = %self.mirror.name, "{error}. A restart does not find what was written and is not sent yet, where its change time is older");
                }
            }
        }
    }
}
