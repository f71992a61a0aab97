//! What the kernel need not report: ignore marks on files that are being written and on directories
//! whose events lead nowhere.
//!
//! Two kinds of objects are muted:
//! - *Useless* ones, for as long as they are useless: a directory outside the root or left out by
//!   the filter, after [`HOT`] events of its files within a window of [`WINDOW`]; and, where writes
//!   raise events, a file outside at its first write.
//! - *Followed* ones, for a moment: a file inside the root, from its first write until it is
//!   reported ([`follow`](super::follow)).
//!
//! Promises: every change that matters is reported. A useless object can come to matter only by an
//! event that is reported, for no mark hides a rename, nor anything about a directory: a directory
//! comes inside, or its path changes, by a rename; a file by a rename or a link. What that event
//! makes dirty is read from the disk later than the mark is taken away, so a write in between is
//! not missed. Where no event says so (filter, mounts, a queue that overflowed),
//! [`Mutes::unmute_all`] has to be called.
//!
//! Handles are kept as hashes: a collision unmutes something too early, which costs events and
//! nothing else. Memory is bounded by [`MAX_USELESS`]; beyond it all marks are dropped, and what is
//! still hot gets its mark anew.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustc_hash::FxHasher;

use crate::sys::ignore::Ignorer;

/// Useless events of one directory within a [`WINDOW`] that mute it. A mark costs about as much as
/// ten events.
pub(crate) const HOT: u32 = 200;
/// How long they are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// Objects muted as useless at a time; an evictable mark takes about 200 bytes of the kernel's
/// memory.
const MAX_USELESS: usize = 65_536;
/// Directories counted at a time.
const SLOTS: usize = 1024;

/// What is muted at the moment; for the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Muted {
    /// Directories outside the root or excluded.
    pub directories: u64,
    /// Files outside the root or excluded.
    pub(crate) files: u64,
    /// Files inside, until they are reported.
    pub(crate) followed: u64,
}

/// Counts events by directory with a fixed memory: a slot belongs to the directory with most of its
/// events (a majority vote), so a hot directory is found although quiet ones share its slot.
#[derive(Debug)]
struct Heat {
    slots: Box<[(u64, u32)]>,
    since: Duration,
}

impl Heat {
    fn new() -> Heat {
        Heat { slots: vec![(0, 0); SLOTS].into(), since: Duration::ZERO }
    }

    /// Counts one event of `dir`; `true` when it was the [`HOT`]th.
    fn count(&mut self, dir: u64, now: Duration) -> bool {
        if now.saturating_sub(self.since) > WINDOW {
            self.slots.fill((0, 0));
            self.since = now;
        }
        // The low bits of this hash are its best mixed ones only after the rotation that hash
        // tables do as well.
        let slot = &mut self.slots[(dir.rotate_left(26) as usize) % SLOTS];
        if slot.1 == 0 {
            *slot = (dir, 0);
        }
        if slot.0 != dir {
            slot.1 -= 1;
            return false;
        }
        slot.1 += 1;
        if slot.1 < HOT {
            return false;
        }
        slot.1 = 0;
        true
    }
}

type Hashes = HashSet<u64, BuildHasherDefault<FxHasher>>;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Mutes {
    ignorer: Ignorer,
    dirs: Hashes,
    files: Hashes,
    heat: Heat,
    /// Something is muted for the filter's sake: a path that changes may change that.
    filtered: bool,
    logged: bool,
    deaf: bool,
}

impl Mutes {
    /// Nothing is muted yet.
    pub(crate) fn new(ignorer: Ignorer) -> Mutes {
        Mutes {
            ignorer,
            dirs: Hashes::default(),
            files: Hashes::default(),
            heat: Heat::new(),
            filtered: false,
            logged: false,
            deaf: false,
        }
    }

    /// Counts a useless event of an entry of directory `dir`. `true`: it is worth
    /// [`Mutes::directory`].
    pub(crate) fn heats(&mut self, dir: u64, now: Duration) -> bool {
        !self.deaf && self.ignorer.can_ignore_entries() && self.heat.count(dir, now)
    }

    /// Mutes a directory whose events lead nowhere.
    pub(crate) fn directory(&mut self, dir: u64, fd: BorrowedFd<'_>, filtered: bool) {
        self.make_room();
        self.filtered |= filtered;
        match self.ignorer.ignore_entries(fd) {
            Ok(()) => drop(self.dirs.insert(dir)),
            Err(error) => self.say(&error),
        }
    }

    /// Unmutes a directory; whether it was muted.
    pub(crate) fn unmute_directory(&mut self, dir: u64, fd: BorrowedFd<'_>) -> bool {
        let muted = self.dirs.remove(&dir);
        if muted && let Err(error) = self.ignorer.unmute_entries(fd) {
            tracing::debug!(%error, "an ignore mark cannot be removed; all are");
            self.unmute_all();
        }
        muted
    }

    /// Mutes a file whose events lead nowhere.
    pub(crate) fn file(&mut self, file: u64, fd: BorrowedFd<'_>, filtered: bool) {
        self.make_room();
        self.filtered |= filtered;
        match self.ignorer.ignore_writes(fd) {
            Ok(()) => drop(self.files.insert(file)),
            Err(error) => self.say(&error),
        }
    }

    /// Mutes a file for a moment; who calls remembers it.
    pub(crate) fn briefly(&mut self, fd: BorrowedFd<'_>) {
        if let Err(error) = self.ignorer.ignore_writes(fd) {
            self.say(&error);
        }
    }

    /// Whether a directory is muted.
    pub(crate) fn mutes_directory(&self, dir: u64) -> bool {
        self.dirs.contains(&dir)
    }

    /// Whether a file is muted as useless.
    pub(crate) fn is_useless(&self, file: u64) -> bool {
        self.files.contains(&file)
    }

    /// A file is gone, and its mark with it.
    pub(crate) fn forget(&mut self, file: u64) {
        self.files.remove(&file);
    }

    /// Counts a file that is muted already as a useless one.
    pub(crate) fn keep(&mut self, file: u64) {
        self.make_room();
        self.files.insert(file);
    }

    /// Unmutes the writes to a file. If that cannot be had, of everything.
    pub(crate) fn unmute(&mut self, file: u64, fd: BorrowedFd<'_>) {
        self.files.remove(&file);
        if let Err(error) = self.ignorer.unmute_writes(fd) {
            tracing::debug!(%error, "an ignore mark cannot be removed; all are");
            self.unmute_all();
        }
    }

    /// Takes all ignore marks away. The caller has to compare what may have changed without an
    /// event. If the kernel refuses, which it has no reason to, what is muted stays so, and
    /// [`Mutes::is_deaf`] says it.
    pub(crate) fn unmute_all(&mut self) {
        if let Err(error) = self.ignorer.unmute_all() {
            if !std::mem::replace(&mut self.deaf, true) {
                tracing::error!(%error, "the kernel does not take ignore marks away, so changes may go unreported");
            }
            return;
        }
        self.dirs.clear();
        self.files.clear();
        self.filtered = false;
    }

    /// Whether something is muted that may matter, and nothing can be done about it.
    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Whether a file is muted as useless.
    pub(crate) fn any_file(&self) -> bool {
        !self.files.is_empty()
    }

    /// Whether something is muted because the filter leaves it out.
    pub(crate) fn any_filtered(&self) -> bool {
        self.filtered
    }

    /// Whether anything useless is muted.
    pub(crate) fn any(&self) -> bool {
        !self.dirs.is_empty() || !self.files.is_empty()
    }

    /// Directories and files muted as useless.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.dirs.len() as u64, self.files.len() as u64)
    }

    fn make_room(&mut self) {
        if self.dirs.len() + self.files.len() >= MAX_USELESS {
            // Useless is useless: these hid nothing inside.
            self.unmute_all();
        }
    }

    fn say(&mut self, error: &std::io::Error) {
        if !std::mem::replace(&mut self.logged, true) {
            tracing::warn!(
                %error,
                "cannot keep the kernel from reporting writes that do not matter; they cost CPU time only. \
                 Raise fs.fanotify.max_user_marks if that is the reason"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hot_directory_is_found_among_quiet_ones() {
        let mut heat = Heat::new();
        let found = (0..u64::from(HOT) * 3).filter(|n| {
            heat.count(n.wrapping_mul(0x9e37_79b9_7f4a_7c15), Duration::ZERO);
            heat.count(7, Duration::ZERO)
        });
        assert!((2..=3).contains(&found.count()));
    }

    #[test]
    fn marks_that_cannot_be_removed_make_it_deaf() {
        let mut mutes = Mutes::new(Ignorer::broken());
        mutes.keep(7);
        assert!(!mutes.is_deaf() && mutes.is_useless(7));
        mutes.unmute_all();
        assert!(mutes.is_deaf() && mutes.is_useless(7), "it is muted still");
        assert!((0..2 * HOT).all(|_| !mutes.heats(7, Duration::ZERO)), "nothing more is muted");
    }

    #[test]
    fn a_slow_one_is_not() {
        let mut heat = Heat::new();
        assert!((0..HOT * 10).all(|n| !heat.count(7, WINDOW * n / (HOT / 2))));
    }
}
