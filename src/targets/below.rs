//! When a list begins below the root ([`crate::sync::below`]), and what becomes of such a run that
//! ends badly.
//!
//! A run that begins below is a shorter way for what the same list from the top would do, and is
//! never the only way: one that ends in anything but success or failed paths gives its batch back,
//! which leaves from the top at once. Only that run says whether the target is there. Paths that
//! failed are tried again from the top, too, as every second round is.

use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::location::Location;
use crate::sync::below::{Below, open_below, shared};

/// So many runs in a row that did not get through, and none begins below until the target was away.
const REFUSALS: u32 = 3;
/// How long a check of a directory of a local target may take. It may be a dead network filesystem.
const PATIENCE: Duration = Duration::from_millis(100);
/// Most directories that are known to be lacking.
const MOST_LACKING: usize = 100;

/// Runs of one target that begin below its root.
#[derive(Default)]
pub(super) struct Descents {
    /// Directories that the target did not have as such. What lies in them leaves from the top
    /// until something did.
    lacking: Vec<RelPath>,
    /// Runs in a row that did not get through.
    refused: u32,
    /// A check of a local target that took too long and goes on.
    opening: Option<thread::JoinHandle<()>>,
}

impl Descents {
    /// The target was away and may be another one now.
    pub(super) fn came_up(&mut self) {
        (self.refused, self.lacking) = (0, Vec::new());
    }

    /// A run has ended well. From the top, it made the directories above what it carried.
    pub(super) fn done(&mut self, from: Option<&RelPath>, entries: &[Entry]) {
        match from {
            Some(_) => self.refused = 0,
            None => {
                let made = |dir: &RelPath, e: &Entry| {
                    path::is_at_or_below(&e.path, dir) || e.kind == Kind::Subtree && path::is_at_or_below(dir, &e.path)
                };
                self.lacking.retain(|dir| !entries.iter().any(|e| made(dir, e)));
            }
        }
    }

    fn failed(&mut self, dir: RelPath) {
        self.refused += 1;
        if self.lacking.len() == MOST_LACKING {
            self.lacking.remove(0);
        }
        self.lacking.push(dir);
    }

    fn may_reach(&self, dir: &RelPath) -> bool {
        self.refused < REFUSALS && !self.lacking.iter().any(|l| path::is_at_or_below(dir, l) || path::is_at_or_below(l, dir))
    }

    /// Opens a directory of a local target, links not followed. `None` when it is not there as
    /// such, or does not answer.
    fn open(&mut self, root: &std::path::Path, dir: &RelPath) -> Option<std::os::fd::OwnedFd> {
        self.opening.take_if(|thread| thread.is_finished());
        if self.opening.is_some() {
            return None;
        }
        let (tx, rx) = mpsc::sync_channel(1);
        let (root, dir) = (root.to_owned(), dir.clone());
        let open_dir = move || {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let opened = nix::fcntl::open(&root, flags, Mode::empty()).and_then(|root| open_below(root.as_fd(), &dir));
            let _ = tx.send(opened.ok());
        };
        let thread = thread::Builder::new().name("target-open".into()).spawn(open_dir).ok()?;
        match rx.recv_timeout(PATIENCE) {
            Ok(opened) => opened,
            Err(_) => {
                self.opening = Some(thread);
                None
            }
        }
    }
}

impl Target {
    /// Where the list of a batch begins: `None` for the top. `list`: what is listed for `batch`.
    pub(super) fn begins_below(
        &mut self,
        cx: &Context<'_>,
        pass: Pass,
        batch: &Batch,
        list: &[(RelPath, Form)],
    ) -> Option<Below> {
        // The root's own attributes travel with a list from the top alone. A deep list names few
        // paths. A second round is there for what the first could not do, perhaps for where it
        // began.
        let plain = matches!(pass, Pass::Shallow | Pass::ShallowOneLevel);
        // What is hidden from it is hidden by its path from the top.
        let hides = !self.unread.rules(&batch.entries).is_empty();
        if !plain || hides || batch.round > 0 || batch.entries.iter().any(|e| e.path.is_root()) {
            return None;
        }
        let dir = shared(list.iter().map(|(path, _)| path))?;
        if !self.means_the_same_below() || !self.descents.may_reach(&dir) || !self.has(&dir) || self.ledger.shelf.meets(&dir) {
            return None;
        }
        let filter_args = if cx.filter.is_empty() { Vec::new() } else { cx.filter.alike_below(&dir, &dir)? };
        let source = open_below(cx.root, &dir).ok()?;
        let target = match &self.cfg.location {
            Location::Local(root) => Some(self.descents.open(root, &dir)?),
            // Named by its path, as for renames: a link at that place is followed, and a server
            // expands wildcards.
            Location::Daemon { .. } if self.mirror.send_renames && crate::sync::renames::fits(&dir) => None,
            Location::Daemon { .. } | Location::Ssh { .. } | Location::Feed { .. } => return None,
        };
        Some(Below { dir, source, target, filter_args })
    }

    /// Whether a list means the same from another directory: nothing else in rsync's arguments is
    /// looked for from the root.
    fn means_the_same_below(&self) -> bool {
        !matches!(self.cfg.location, Location::Ssh { .. })
            // Rules in merge files, includes and what rsync cannot express protect by whole paths.
            && self.args.excludes_only()
            && self.mirror.filter.is_rsyncs()
            && self.mirror.events == config::Events::default()
            // The directory of what is kept aside is found from the target's own, and each deletion
            // is counted by its path from there.
            && !self.keeps_aside()
            && self.limit().is_none()
            // The names of a file are linked with those that the run lists, wherever they are.
            && !self.mirror.extras.hard_links
            && !config::name_directories(&self.cfg.args)
    }

    /// Whether the target should have this directory: nothing at it or above it waits, is under
    /// way, or failed.
    fn has(&self, dir: &RelPath) -> bool {
        self.ledger.why(dir, Reach::At, &[]).is_none()
    }

    /// A run that began in `dir` got nowhere, or it is not known where. Whatever the reason, a run
    /// from the top finds it out.
    pub(super) fn back_to_the_top(&mut self, batch: Batch, dir: Option<&RelPath>) {
        dir.into_iter().for_each(|dir| self.descents.failed(dir.clone()));
        self.ledger.give_back(batch);
        self.schedule.pace.hurry();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(path: &str) -> RelPath {
        RelPath::from_normal(path.as_bytes())
    }

    fn entries(path: &str) -> Vec<Entry> {
        let mut set = DirtySet::new(10);
        set.see(path.as_bytes(), Seen::Written);
        set.take_shallow(Limits { max_paths: 10, ignore_holds: true }, &mut |_, _| false).unwrap().entries
    }

    #[test]
    fn what_is_lacking_is_reached_again_after_a_run_from_the_top() {
        let mut d = Descents::default();
        d.failed(dir("a/b"));
        let reach = |d: &Descents| ["a/b", "a/b/c", "a", "a/bb", "x"].map(|at| d.may_reach(&dir(at)));
        assert_eq!(reach(&d), [false, false, false, true, true]);
        d.done(None, &entries("a/bb/f"));
        d.done(Some(&dir("x")), &entries("a/b/f"));
        assert_eq!(reach(&d), [false, false, false, true, true]);
        d.done(None, &entries("a/b/f"));
        assert_eq!(reach(&d), [true; 5]);
        d.failed(dir("a/b"));
        let mut set = DirtySet::new(10);
        set.see(b"", Seen::Subtree);
        d.done(None, &set.take_deep(Limits { max_paths: 10, ignore_holds: true }).unwrap().entries);
        assert_eq!(reach(&d), [true; 5]);
    }

    #[test]
    fn refusals_in_a_row_end_it_until_the_target_was_away() {
        let mut d = Descents::default();
        for at in ["a", "b"] {
            d.failed(dir(at));
        }
        d.done(Some(&dir("x")), &entries("x/f"));
        for at in ["c", "d"] {
            d.failed(dir(at));
        }
        assert!(d.may_reach(&dir("x")));
        d.failed(dir("e"));
        assert!(!d.may_reach(&dir("x")));
        d.came_up();
        assert!(d.may_reach(&dir("x")) && d.may_reach(&dir("a")));
    }
}
