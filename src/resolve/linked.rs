//! Files below the source that have several names: a change through a name that lies outside, or
//! that the filter leaves out, is a change of the names inside.
//!
//! A filesystem mark reports changes from everywhere on the filesystem, and each event carries the
//! handle of the file (`FAN_REPORT_TARGET_FID`). So where a name leads nowhere, the handle is
//! looked up among those of the files inside that have more than one name. One that is found there
//! is reported by a name inside; from there the names of a file find each other as always
//! ([`crate::links`]).
//!
//! Which files these are is found by lookups: at the paths of a batch, and by a walk in the
//! background (`engine::outside`). The walk is needed when a file changes outside that has several
//! names itself; until then each that changes is opened and asked for their number. What link(2)
//! does to a file inside is not seen by either where the new name lies outside. It raises an event
//! of the file itself, though, so a file outside whose number of names changed is remembered as a
//! suspect; when it changes after that, it is sought inside, once.
//!
//! Costs: after a walk that found no file with several names, one comparison for each event
//! outside; after others one check-up in a set of hashes, where a collision costs an open of the
//! file. Before a walk it is an open for each event outside, [`MAX_OPENED`] times at most. Both
//! sets are bounded.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::hash::BuildHasherDefault;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fstat, fstatat};
use rustc_hash::FxHasher;

use super::nameless::Change;
use super::opening::Opened;
use super::tree::hash;
use super::unexplained::owned;
use super::{CHANGES, Outcome, Resolver, Root, inode_of, leads_to};
use crate::dirty::PathSink;
use crate::filter::Filter;
use crate::links::objects::Object;
use crate::path::{self, RelPath};
use crate::source::fan_decode::{FanEvent, Fid};
use crate::sys::dirent::{Listing, Type};
use crate::sys::handle::{fd_path, name_to_handle};

/// Files known to have several names; a hash each.
const MAX_FILES: usize = 2_000_000;
/// Files of which a name is remembered as well. Others are sought by a walk when they change.
const MAX_NAMES: usize = 50_000;
/// Suspects, in each of two generations.
const MAX_SUSPECTS: usize = 50_000;
/// So many more files than at the last walk over everything ask for another one: those that were
/// removed are forgotten by it.
const GROWTH: usize = 50_000;

/// Files outside that are opened to learn whether a walk is needed; with more it is.
const MAX_OPENED: u32 = 20_000;

/// Which of the files inside with several names are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Extent {
    #[default]
    All,
    /// A walk will find the others, if one is needed; files opened to learn that.
    Some { opened: u32 },
    /// The walk is needed, and finds what has changed by its time of change.
    Awaited,
}

type Hashes = HashSet<u64, BuildHasherDefault<FxHasher>>;

/// See the module's text. The hashes are those of the tree: what they hash is chosen by the kernel.
#[derive(Debug, Default)]
pub(super) struct Linked {
    files: Hashes,
    names: HashMap<u64, RelPath, BuildHasherDefault<FxHasher>>,
    suspects: Hashes,
    suspects_before: Hashes,
    /// What a walk over everything has found so far, with what was found beside it.
    walked: Option<Hashes>,
    /// Files after the last walk over everything.
    base: usize,
    full_said: bool,
    extent: Extent,
    /// A walk is needed, and `engine::outside` does not know yet.
    needed: bool,
}

impl Linked {
    fn any(&self) -> bool {
        matches!(self.extent, Extent::Some { .. }) || self.any_known()
    }

    fn any_known(&self) -> bool {
        !self.files.is_empty() || !self.suspects.is_empty() || !self.suspects_before.is_empty()
    }

    fn may_be(&self, file: u64) -> bool {
        self.files.contains(&file) || self.suspects.contains(&file) || self.suspects_before.contains(&file)
    }

    /// Takes in a file; whether it is new.
    fn know(&mut self, file: u64, name: &RelPath) -> bool {
        if let Some(walked) = &mut self.walked {
            walked.insert(file);
        }
        if let Some(known) = self.names.get_mut(&file) {
            known.clone_from(name);
        } else if self.names.len() < MAX_NAMES {
            self.names.insert(file, name.clone());
        }
        if self.files.len() >= MAX_FILES {
            if !self.files.contains(&file) && !std::mem::replace(&mut self.full_said, true) {
                tracing::warn!(
                    files = MAX_FILES,
                    "more files with several names than are remembered; what changes through a name outside waits for a comparison"
                );
            }
            return false;
        }
        self.files.insert(file)
    }

    fn need(&mut self) {
        if let Extent::Some { .. } = self.extent {
            (self.extent, self.needed) = (Extent::Awaited, true);
        }
    }

    fn suspect(&mut self, file: u64) {
        if self.suspects.len() >= MAX_SUSPECTS {
            self.suspects_before = std::mem::take(&mut self.suspects);
        }
        self.suspects.insert(file);
    }

    fn forget(&mut self, file: u64) {
        self.files.remove(&file);
        self.names.remove(&file);
        self.suspects.remove(&file);
        self.suspects_before.remove(&file);
    }
}

fn hash_of(fid: &Fid<'_>) -> u64 {
    hash((fid.fs.0, fid.kind, fid.handle))
}

impl Resolver {
    /// Files that are known to have several names.
    pub(crate) fn linked_files(&self) -> u64 {
        self.linked.files.len() as u64
    }

    /// A walk over the whole source for files with several names begins.
    pub(crate) fn linked_walk_begins(&mut self) {
        self.linked.walked = Some(Hashes::default());
    }

    /// It has ended: what it did not find is forgotten.
    pub(crate) fn linked_walk_ends(&mut self) {
        if let Some(walked) = self.linked.walked.take() {
            let linked = &mut self.linked;
            linked.files = walked;
            linked.names.retain(|file, _| linked.files.contains(file));
            linked.base = linked.files.len();
        }
    }

    /// Some are not known from now on.
    pub(crate) fn linked_are_incomplete(&mut self) {
        if self.linked.extent == Extent::All {
            self.linked.extent = Extent::Some { opened: 0 };
        }
    }

    /// All are known again.
    pub(crate) fn linked_are_complete(&mut self) {
        self.linked.extent = Extent::All;
    }

    /// Whether a walk is needed, by what was seen since the last call.
    pub(crate) fn takes_need_of_linked(&mut self) -> bool {
        std::mem::take(&mut self.linked.needed)
    }

    /// Whether so many were met since the last walk over everything that another is worth it.
    pub(crate) fn wants_linked_walk(&self) -> bool {
        self.linked.walked.is_none() && self.linked.files.len() > 2 * self.linked.base + GROWTH
    }

    /// `name`, below the source, leads to a file with several names.
    pub(crate) fn know_linked(&mut self, root: &Root, name: &RelPath) {
        if !self.names_files() {
            return;
        }
        if let Ok(handle) = name_to_handle(root.as_fd(), name.as_path()) {
            self.know_linked_files([(name, &(handle.kind, handle.bytes))]);
        }
    }

    /// The same of several, whose handles were requested.
    pub(crate) fn know_linked_files<'a>(&mut self, files: impl IntoIterator<Item = (&'a RelPath, &'a Object)>) {
        let mut new = false;
        for (name, (kind, bytes)) in files {
            let at = self.marked.iter().filter(|m| path::is_at_or_below(name, &m.at)).max_by_key(|m| m.at.len());
            let Some(fs) = at.map(|m| m.fs.0) else { continue };
            new |= self.linked.know(hash((fs, *kind, bytes)), name);
        }
        // A directory outside that is muted may hold another name of it.
        if new && let Some(muting) = &mut self.muting {
            muting.unmute_directories();
        }
    }

    /// An event outside, or of what is left out: whether it is one of a file that has, or may have,
    /// a name inside too. That one is reported, or sought.
    ///
    /// # Errors
    /// The file cannot be opened, and too many are sought.
    pub(super) fn changed_elsewhere(
        &mut self,
        root: &Root,
        filter: &Filter,
        event: &FanEvent<'_>,
        change: Change,
        out: &mut dyn PathSink,
    ) -> Result<bool, crate::lost::Lost> {
        let changes = event.mask & (CHANGES | libc::FAN_RENAME | libc::FAN_MOVED_FROM) != 0;
        if !self.linked.any() || !changes || event.mask & libc::FAN_ONDIR != 0 {
            return Ok(false);
        }
        let Some(file) = event.child.filter(|c| !c.handle.is_empty()) else { return Ok(false) };
        if !self.linked.may_be(hash_of(&file)) {
            self.judge_outside(&file);
            return Ok(false);
        }
        self.unmute(event);
        self.note_write(event);
        let writes = event.mask & libc::FAN_MODIFY != 0 && change == Change::Writing;
        if !writes || !self.follow(event, None) {
            self.tell_linked(root, filter, &file, change, out)?;
        }
        Ok(true)
    }

    /// A file outside, or one that is left out, has changed: while not all files inside with
    /// several names are known, whether it may be one of these.
    fn judge_outside(&mut self, file: &Fid<'_>) {
        let Extent::Some { opened } = self.linked.extent else { return };
        let alone = opened < MAX_OPENED
            && match self.open_linked(file) {
                Opened::Here(fd) => fstat(&fd).is_ok_and(|stat| stat.st_nlink < 2),
                Opened::Gone => true,
                Opened::Failed(_) => false,
            };
        match alone {
            true => self.linked.extent = Extent::Some { opened: opened + 1 },
            false => self.linked.need(),
        }
    }

    /// Reports a file that changed through a name which leads nowhere by one that is known inside,
    /// or has it sought.
    ///
    /// # Errors
    /// As above.
    pub(super) fn tell_linked(
        &mut self,
        root: &Root,
        filter: &Filter,
        file: &Fid<'_>,
        change: Change,
        out: &mut dyn PathSink,
    ) -> Outcome {
        let hashed = hash_of(file);
        if !self.linked.may_be(hashed) {
            self.judge_outside(file);
            return Ok(());
        }
        if let Some(name) = self.linked.names.get(&hashed)
            && leads_to(root, name, file)
            && !filter.excludes(name, false)
        {
            out.apply(name, change.seen());
            return Ok(());
        }
        let own = owned(file);
        if self.nameless.is_outside(&own) {
            return Ok(());
        }
        match self.open_linked(file) {
            Opened::Here(fd) => match fstat(&fd) {
                Ok(stat) if stat.st_nlink > 1 => self.nameless.changed(self.now, inode_of(&stat), own, change),
                _ => self.linked.forget(hashed),
            },
            Opened::Gone => self.linked.forget(hashed),
            Opened::Failed(_) => _ = self.seek(file, false, change)?,
        }
        Ok(())
    }

    pub(super) fn open_linked(&self, file: &Fid<'_>) -> Opened {
        match self.marked.iter().find(|m| m.fs == file.fs) {
            Some(mount) => mount.by.open(file.handle_ref()),
            None => Opened::Gone,
        }
    }

    /// The number of names of a file outside (or left out) has changed: one of them may be inside.
    pub(super) fn suspect(&mut self, event: &FanEvent<'_>, file: &Fid<'_>, fd: BorrowedFd<'_>) {
        let Some(stat) = fstat(fd).ok().filter(|stat| stat.st_nlink > 1) else { return };
        if !self.names_files() || event.mask & libc::FAN_ATTRIB == 0 || event.mask & libc::FAN_ONDIR != 0 {
            return;
        }
        let hashed = hash_of(file);
        self.linked.suspect(hashed);
        // The name may be in a directory that is muted, and written through unseen.
        if let Some(muting) = self.muting.as_mut().filter(|m| m.any_directory())
            && let Ok(at) = fd_path(fd)
            && let Some(dir) = Path::new(OsStr::from_bytes(&at)).parent()
            && let Ok(dir) = open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            && let Ok(handle) = name_to_handle(dir.as_fd(), Path::new(""))
            && muting.unmute_directory(hash((file.fs.0, handle.kind, &handle.bytes)), dir.as_fd())
        {
            self.nameless.changed(self.now, inode_of(&stat), owned(file), Change::Written);
        }
    }

    /// Whether a directory holds a name of a file that has, or may have, one inside too.
    pub(super) fn holds_linked(&mut self, dir: BorrowedFd<'_>, fid: &Fid<'_>) -> bool {
        let incomplete = self.linked.extent != Extent::All;
        if !incomplete && !self.linked.any_known() {
            return false;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let open = |flags| openat(dir, ".", flags, Mode::empty());
        let Ok(dir) = open(flags | OFlag::O_NOATIME).or_else(|_| open(flags)) else { return true };
        let mut listing = Listing::default();
        loop {
            match listing.next(dir.as_fd()) {
                Ok(Some(entries)) => {
                    for (name, _) in entries.filter(|(_, kind)| *kind != Type::Dir) {
                        let name = Path::new(OsStr::from_bytes(name));
                        if incomplete && fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_nlink > 1) {
                            self.linked.need();
                            return true;
                        }
                        if let Ok(h) = name_to_handle(dir.as_fd(), name)
                            && self.linked.may_be(hash((fid.fs.0, h.kind, &h.bytes)))
                        {
                            return true;
                        }
                    }
                }
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// As [`Resolver::suspect`], where the file was not opened.
    pub(super) fn suspect_unseen(&mut self, file: &Fid<'_>) {
        if self.names_files() {
            self.linked.suspect(hash_of(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(path: &str) -> RelPath {
        RelPath::from_normal(path)
    }

    #[test]
    fn what_a_walk_over_everything_does_not_find_is_forgotten() {
        let mut linked = Linked::default();
        assert!(!linked.any() && !linked.may_be(1));
        assert!(linked.know(1, &p("a")) && linked.know(2, &p("b")) && !linked.know(1, &p("c")));
        assert_eq!(linked.names[&1], p("c"), "the name that was met last");
        linked.forget(2);
        assert!(linked.may_be(1) && !linked.may_be(2));
        linked.suspect(3);
        (0..MAX_SUSPECTS as u64).for_each(|n| linked.suspect(10 + n));
        assert!(linked.may_be(3), "of the generation before");
        (0..MAX_SUSPECTS as u64).for_each(|n| linked.suspect(1_000_000 + n));
        assert!(!linked.may_be(3), "bounded");
    }
}
