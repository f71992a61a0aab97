//! What a process may write at most, whichever user it runs as: landlock(7), Linux 5.13.
//!
//! Promises: a process that is held to a [`Ruleset`], and what it starts, opens nothing for
//! writing, and makes, removes, renames and links nothing, but below the directories of the set and
//! in the two devices that every program may write to. From Linux 6.12 on it sends no signal to
//! others, either.
//!
//! Gives up: what a process has open already; reading; connections.

#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

// linux/landlock.h. Of `handled_access_fs`, with the version that they came with:
const WRITE_FILE: u64 = 1 << 1;
/// From `REMOVE_DIR` to `MAKE_SYM`.
const ENTRIES: u64 = 0x1ff << 4;
const REFER: u64 = 1 << 13; // 2
const TRUNCATE: u64 = 1 << 14; // 3
/// Of `scoped`, version 6: abstract sockets, signals.
const SCOPES: u64 = 0b11;

const VERSION: u32 = 1;
const PATH_BENEATH: u32 = 1;

/// What programs write to without meaning a file of the host.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/tty"];

#[repr(C)]
#[derive(Default)]
struct RulesetAttr {
    fs: u64,
    net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// What may be written.
#[derive(Debug)]
pub struct Ruleset(OwnedFd);

impl Ruleset {
    /// Nothing but what lies below a directory.
    ///
    /// # Errors
    /// ENOSYS, EOPNOTSUPP: the kernel has no Landlock, or it is off. EPERM: a filter of system
    /// calls. EMFILE.
    pub fn writes_below(dir: BorrowedFd<'_>) -> io::Result<Ruleset> {
        let version = create(None, VERSION)?;
        let mut fs = WRITE_FILE | ENTRIES;
        for (since, right) in [(2, REFER), (3, TRUNCATE)] {
            if version >= since {
                fs |= right;
            }
        }
        let attr = RulesetAttr { fs, net: 0, scoped: if version >= 6 { SCOPES } else { 0 } };
        let fd = create(Some(&attr), 0)?;
        // SAFETY: the kernel has just made this descriptor for us and nothing else knows it.
        let set = Ruleset(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        set.allow(dir, fs)?;
        for device in DEVICES {
            // One that is not there needs no rule.
            if let Ok(device) = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(device) {
                set.allow(device.as_fd(), fs & (WRITE_FILE | TRUNCATE))?;
            }
        }
        Ok(set)
    }

    fn allow(&self, parent: BorrowedFd<'_>, allowed: u64) -> io::Result<()> {
        let rule = PathBeneath { allowed, parent: parent.as_raw_fd() };
        // SAFETY: two open descriptors, and a structure that lives until the call returns.
        let done = unsafe { libc::syscall(libc::SYS_landlock_add_rule, self.0.as_raw_fd(), PATH_BENEATH, &raw const rule, 0u32) };
        Errno::result(done)?;
        Ok(())
    }

    /// Holds a process that starts a program to it, between fork and exec: see [`hold_to`].
    pub(super) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Holds this thread, and what it starts, to the ruleset of this number; it must have
/// `no_new_privs`. Allocates nothing.
pub(super) fn hold_to(ruleset: RawFd) -> nix::Result<()> {
    // SAFETY: two numbers, no pointers.
    Errno::result(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0u32) }).map(drop)
}

/// landlock_create_ruleset(2); without a structure, the version.
fn create(attr: Option<&RulesetAttr>, flags: u32) -> io::Result<libc::c_long> {
    let (at, size) = match attr {
        Some(attr) => (attr as *const RulesetAttr, size_of::<RulesetAttr>()),
        None => (std::ptr::null(), 0),
    };
    // SAFETY: the pointer is null with a size of 0, which asks for the version, or of a structure
    // of that size that lives until the call returns.
    let made = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, at, size, flags) };
    Ok(Errno::result(made)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_the_kernels() {
        assert_eq!((size_of::<RulesetAttr>(), size_of::<PathBeneath>()), (24, 12));
        assert_eq!(ENTRIES, (4..=12).map(|bit| 1 << bit).sum::<u64>());
    }
}
