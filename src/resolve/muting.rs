//! Which event mutes what, and which one unmutes it: [`mute`](super::mute) and
//! [`follow`](super::follow) put to use.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::fstat;

use super::follow::{Followed, Follows};
use super::mute::{Muted, Mutes};
use super::nameless::Change;
use super::opening::Opened;
use super::tree::hash;
use super::unexplained::owned;
use super::{Dir, Outcome, Placed, Resolver, Root, Whereabouts};
use crate::dirty::{PathSink, Seen};
use crate::filter::Filter;
use crate::source::fan_decode::{FanEvent, Fid, Place};
use crate::sys::handle::name_to_handle;
use crate::sys::ignore::Ignorer;

/// Ends what a mute was for: the file is complete, or is somewhere else, or has another name.
const TURNS: u64 =
    libc::FAN_CREATE | libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO | libc::FAN_RENAME | libc::FAN_CLOSE_WRITE;

/// No process need be writing any more: not worth a mark.
const OVER: u64 = libc::FAN_DELETE | libc::FAN_CLOSE_WRITE;

/// The means to mute, and what is followed.
pub(super) struct Muting {
    mutes: Mutes,
    /// Only where writes raise events.
    follows: Option<Follows>,
    /// Every record names the file by handle, so a muted file cannot come inside unnoticed.
    names_files: bool,
}

/// What `Muting` is given.
pub struct MuteBy {
    /// For the marks of the group that the events come from.
    pub ignorer: Ignorer,
    /// Writes are reported; a file that is written is reported once in this time.
    pub follow: Option<Duration>,
    /// The group reports the handle of what is created and moved (`FAN_REPORT_TARGET_FID`).
    pub names_files: bool,
}

fn hash_of(fid: &Fid<'_>) -> u64 {
    hash((fid.fs.0, fid.kind, fid.handle))
}

impl Muting {
    pub(super) fn any_directory(&self) -> bool {
        self.mutes.counts().0 > 0
    }

    /// What happens in a directory is reported again; whether it was muted.
    pub(super) fn unmute_directory(&mut self, dir: u64, fd: BorrowedFd<'_>) -> bool {
        self.mutes.unmute_directory(dir, fd)
    }

    /// The same of all.
    pub(super) fn unmute_directories(&mut self) {
        if self.any_directory() {
            self.mutes.unmute_all();
        }
    }
}

impl Resolver {
    /// Mutes what does not matter from here on, and follows files if requested.
    pub fn mute_by(&mut self, by: MuteBy) {
        let follows = by.follow.map(Follows::new);
        self.nameless.names_files(by.names_files);
        self.muting = Some(Muting { mutes: Mutes::new(by.ignorer), follows, names_files: by.names_files });
    }

    /// Writes raise events from here on; a file that is written is reported once in `interval`.
    pub(crate) fn follow_writes(&mut self, interval: Duration) {
        if let Some(muting) = &mut self.muting {
            muting.follows.get_or_insert_with(|| Follows::new(interval));
        }
    }

    /// Whether every event carries the handle of the file that it is about.
    pub(crate) fn names_files(&self) -> bool {
        self.muting.as_ref().is_some_and(|muting| muting.names_files)
    }

    /// Whether ignore marks that may matter stay; once for each resolver.
    pub(crate) fn takes_deafness(&mut self) -> bool {
        let deaf = self.muting.as_ref().is_some_and(|muting| muting.mutes.is_deaf());
        deaf && !std::mem::replace(&mut self.deafness_taken, true)
    }

    /// Whether [`Resolver::mute_by`] was called.
    pub(crate) fn mutes(&self) -> bool {
        self.muting.is_some()
    }

    /// Sets the time (since the daemon's start); to be called before each buffer.
    pub fn tick(&mut self, now: Duration) {
        self.now = now;
    }

    /// What is muted.
    pub fn muted(&self) -> Muted {
        let Some(muting) = &self.muting else { return Muted::default() };
        let (directories, files) = muting.mutes.counts();
        Muted { directories, files, followed: muting.follows.as_ref().map_or(0, |f| f.len() as u64) }
    }

    /// Whether this directory is muted.
    ///
    /// # Errors
    /// Those of asking for its handle.
    pub(crate) fn mutes_directory(&self, dir: BorrowedFd<'_>) -> io::Result<bool> {
        let Some(muting) = &self.muting else { return Ok(false) };
        let handle = name_to_handle(dir, Path::new(""))?;
        // Not by fstatfs(2): a subvolume of btrfs has another id than its events carry.
        let muted = |fs| muting.mutes.mutes_directory(hash_of(&Fid { fs, kind: handle.kind, handle: &handle.bytes }));
        Ok(self.marked.iter().any(|marked| muted(marked.fs)))
    }

    /// Takes all ignore marks away: what did not matter may from now on, and no event says so. What
    /// changed there without an event has to be compared after this call.
    pub(crate) fn unmute_all(&mut self) {
        self.nameless.forget_outside();
        if let Some(muting) = &mut self.muting
            && muting.mutes.any()
        {
            muting.mutes.unmute_all();
        }
    }

    /// A directory has come to a place inside, from outside or from another one inside: what is
    /// muted may matter there.
    pub(super) fn dir_came(&mut self, from_outside: bool) {
        if let Some(muting) = &mut self.muting
            && (from_outside && muting.mutes.any() || muting.mutes.any_filtered())
        {
            muting.mutes.unmute_all();
        }
    }

    /// An event of an entry of `dir` led nowhere; `filtered`: for the filter's sake.
    pub(super) fn useless(&mut self, event: &FanEvent<'_>, dir: &Fid<'_>, filtered: bool) {
        let Some(muting) = &mut self.muting else { return };
        // Events of directories arrive whatever is muted, so theirs do not count.
        if event.mask & libc::FAN_ONDIR != 0 {
            return;
        }
        let hashed = hash_of(dir);
        if muting.mutes.heats(hashed, self.now)
            && let Opened::Here(fd) = open(&self.marked, dir)
            && !self.holds_linked(fd.as_fd(), dir)
            && let Some(muting) = &mut self.muting
        {
            muting.mutes.directory(hashed, fd.as_fd(), filtered);
        }
        self.useless_file(event, filtered);
    }

    /// As [`Resolver::useless`], of the file alone: its directory matters, or is not known.
    pub(super) fn useless_file(&mut self, event: &FanEvent<'_>, filtered: bool) {
        let Some(muting) = &mut self.muting else { return };
        if muting.follows.is_none() || !muting.names_files || event.mask & libc::FAN_MODIFY == 0 || event.mask & OVER != 0 {
            return;
        }
        if let Some(file) = event.child.filter(|c| !c.handle.is_empty())
            && let Opened::Here(fd) = open(&self.marked, &file)
        {
            muting.mutes.file(hash_of(&file), fd.as_fd(), filtered);
        }
    }

    /// To be called with every event of a file inside, before it is reported: if it turns, its
    /// writes raise events again.
    pub(super) fn unmute(&mut self, event: &FanEvent<'_>) {
        let Some(muting) = &mut self.muting else { return };
        let Some(follows) = &mut muting.follows else { return };
        if event.mask & TURNS == 0 || follows.is_empty() && !muting.mutes.any_file() {
            return;
        }
        let Some(file) = event.child else { return };
        let hashed = hash_of(&file);
        if !follows.remove(&file) && !muting.mutes.is_useless(hashed) {
            return;
        }
        match open(&self.marked, &file) {
            Opened::Here(fd) => muting.mutes.unmute(hashed, fd.as_fd()),
            // It is gone, and its mark with it.
            Opened::Gone => muting.mutes.forget(hashed),
            Opened::Failed(_) => muting.mutes.unmute_all(),
        }
    }

    /// Starts a file's interval. `false`: it has to be reported at once.
    pub(super) fn follow(&mut self, event: &FanEvent<'_>, place: Option<&Place<'_>>) -> bool {
        let Some(Muting { mutes, follows: Some(follows), .. }) = &mut self.muting else { return false };
        let Some(file) = event.child.filter(|c| !c.handle.is_empty()) else { return false };
        if !follows.add(&file, place, self.now) {
            return false;
        }
        // Also if it is in its interval already: the kernel may have evicted the mark. One that is
        // gone needs none.
        if let Opened::Here(fd) = open(&self.marked, &file) {
            mutes.briefly(fd.as_fd());
        }
        true
    }

    /// When [`Resolver::report_followed`] has something to do.
    pub(crate) fn next_followed(&self) -> Option<Duration> {
        self.muting.as_ref()?.follows.as_ref()?.next_due()
    }

    /// Reports the files whose interval is over at `now`, each unmuted before; with
    /// [`Duration::MAX`] all.
    ///
    /// # Errors
    /// A loss, when one cannot be credited to a path; the others have been reported.
    pub(crate) fn report_followed(&mut self, root: &Root, filter: &Filter, now: Duration, out: &mut dyn PathSink) -> Outcome {
        let mut outcome = Ok(());
        while let Some(followed) =
            self.muting.as_mut().and_then(|muting| muting.follows.as_mut()).and_then(|follows| follows.take_due(now))
        {
            outcome = outcome.and(self.report_one(root, filter, &followed, out));
        }
        outcome
    }

    fn report_one(&mut self, root: &Root, filter: &Filter, followed: &Followed, out: &mut dyn PathSink) -> Outcome {
        let Some(muting) = &mut self.muting else { return Ok(()) };
        let file = followed.file.fid();
        match open(&self.marked, &file) {
            // Unlinked and still written: no path. Should it be given a name after all, that raises
            // an event of its own.
            Opened::Here(fd) if muting.names_files && fstat(&fd).is_ok_and(|stat| stat.st_nlink == 0) => {
                muting.mutes.keep(hash_of(&file));
                return Ok(());
            }
            Opened::Here(fd) => muting.mutes.unmute(hash_of(&file), fd.as_fd()),
            Opened::Gone => return Ok(()),
            Opened::Failed(_) => muting.mutes.unmute_all(),
        }
        let Some((dir, name)) = &followed.place else {
            return match self.open_and_find(root, &file).0 {
                Whereabouts::Inside(at) => {
                    if filter.excludes(&at, false) {
                        return self.tell_linked(root, filter, &file, Change::Writing, out);
                    }
                    out.apply(&at, Seen::Modified);
                    Ok(())
                }
                Whereabouts::Foreign => self.tell_linked(root, filter, &file, Change::Writing, out),
                Whereabouts::Gone => Ok(()),
                Whereabouts::NoName(inode) => {
                    self.nameless.changed(self.now, inode, owned(&file), Change::Writing);
                    Ok(())
                }
                Whereabouts::Unknown => self.seek(&file, false, Change::Writing).map(drop),
            };
        };
        let Dir::Inside(dir) = self.resolve(root, &dir.fid())? else { return Ok(()) };
        if let Placed::Here = self.place(filter, dir, name, false) {
            out.apply(&self.dir, Seen::Modified);
        }
        Ok(())
    }
}

/// Opens an object by handle, through any mount of its filesystem.
fn open(marked: &[super::Marked], fid: &Fid<'_>) -> Opened {
    match marked.iter().find(|m| m.fs == fid.fs) {
        Some(mount) => mount.by.open(fid.handle_ref()),
        None => Opened::Failed(io::ErrorKind::NotFound.into()),
    }
}

#[cfg(test)]
#[path = "muting_tests.rs"]
mod tests;
