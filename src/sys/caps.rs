//! What this process and its children may do: capabilities(7).
//!
//! A process of root has every capability, and gets them back with every program that it starts, as
//! far as its bounding set goes. So the daemon gives up what it does not need ([`keep_only`]),
//! once, before its first thread: each thread has sets of its own. And a child of rsync takes what
//! it does not need out of its bounding set between fork and exec ([`surplus`], [`give_up`]), for
//! which the daemon keeps `CAP_SETPCAP`.
//!
//! A child never gets more than the daemon has: execve(2) would clear its parent-death signal then,
//! and the daemon could not read its
//! /proc/PID/io (both from the kernel's sources, 6.18: `commit_creds`, `cap_ptrace_access_check`).

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setfsgid, setgroups, setresgid, setresuid};

/// A set of capabilities, as the kernel shows it in /proc/self/status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps(u64);

impl Caps {
    /// The effective set of this process (of its main thread).
    ///
    /// # Errors
    /// Those of reading /proc/self/status; `InvalidData` when it has no such line.
    pub(crate) fn effective() -> io::Result<Caps> {
        let status = std::fs::read("/proc/self/status")?;
        Caps::parse(&status).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/status has no CapEff line"))
    }

    /// From the text of /proc/self/status.
    pub fn parse(status: &[u8]) -> Option<Caps> {
        let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"CapEff:"))?;
        u64::from_str_radix(std::str::from_utf8(line).ok()?.trim(), 16).ok().map(Caps)
    }

    /// These capabilities.
    pub(crate) fn of(list: &[Capability]) -> Caps {
        Caps(list.iter().fold(0, |bits, cap| bits | cap.bitmask()))
    }

    /// Those of both.
    #[must_use]
    pub(crate) fn with(self, other: Caps) -> Caps {
        Caps(self.0 | other.0)
    }

    /// Those that `other` has not.
    #[must_use]
    pub(crate) fn without(self, other: Caps) -> Caps {
        Caps(self.0 & !other.0)
    }

    /// Whether it has all that `other` has.
    pub(crate) fn covers(self, other: Caps) -> bool {
        other.0 & !self.0 == 0
    }

    /// Those that `other` has, too.
    #[must_use]
    pub(crate) fn in_common(self, other: Caps) -> Caps {
        Caps(self.0 & other.0)
    }

    /// Their names, as in capabilities(7).
    pub fn names(self) -> Vec<String> {
        self.list().map(|cap| cap.to_string()).collect()
    }

    fn list(self) -> impl Iterator<Item = Capability> {
        let mut all: Vec<Capability> = caps::all().into_iter().filter(|cap| self.0 & cap.bitmask() != 0).collect();
        all.sort_by_key(Capability::index);
        all.into_iter()
    }
}

/// Gives up, for good, what is not in `keep`. `children`: what programs may have that are started
/// without being root. To be called before threads are started, as it concerns the calling one and
/// those that it starts.
///
/// # Errors
/// capset(2); prctl(2) for the ambient set.
pub(crate) fn keep_only(keep: Caps, children: Caps) -> Result<(), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let of = |set: Caps| -> CapsHashSet { set.list().filter(|cap| permitted.contains(cap)).collect() };
    let (keep, children) = (of(keep), of(children));
    // Root's programs get theirs by being root's.
    let inherited = if nix::unistd::geteuid().is_root() { CapsHashSet::new() } else { children };
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    caps::set(None, CapSet::Inheritable, &inherited)?;
    // Kernels before 4.3 have no ambient set, and nothing to be inherited by it.
    match caps::set(None, CapSet::Ambient, &inherited) {
        Err(_) if inherited.is_empty() => Ok(()),
        other => other,
    }
}

/// What a child has to take out of its bounding set so that it ends with `keep` at most.
pub(crate) fn surplus(keep: Caps) -> Vec<Capability> {
    let bound = |cap: &Capability| caps::has_cap(None, CapSet::Bounding, *cap).unwrap_or(false);
    let mut out: Vec<Capability> = caps::all().into_iter().filter(|cap| keep.0 & cap.bitmask() == 0 && bound(cap)).collect();
    out.sort_by_key(Capability::index);
    out
}

/// Takes capabilities out of the bounding set, between fork and exec: a prctl(2) for each. What may
/// not be done, without `CAP_SETPCAP`, is left.
pub(crate) fn give_up(surplus: &[Capability]) {
    for cap in surplus {
        let _ = caps::drop(None, CapSet::Bounding, *cap);
    }
}

/// Those of `keep` that this thread may have.
pub(crate) fn permitted(keep: Caps) -> CapsHashSet {
    let permitted = caps::read(None, CapSet::Permitted).unwrap_or_default();
    keep.list().filter(|cap| permitted.contains(cap)).collect()
}

/// Becomes another user without further groups, that has these capabilities and gives them to the
/// program that it starts; between fork and exec, so nothing is allocated unless it fails.
///
/// # Errors
/// setgroups(2), setresgid(2), setresuid(2), capset(2), prctl(2).
pub(crate) fn become_user(uid: u32, gid: u32, keep: &CapsHashSet) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[]).and_then(|()| setresgid(gid, gid, gid))?;
    // Else the change of the user takes them all.
    nix::sys::prctl::set_keepcaps(!keep.is_empty())?;
    setresuid(uid, uid, uid)?;
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::set(None, set, keep).map_err(|_| Errno::EPERM)?;
    }
    // Kernels before 4.3 have no ambient set.
    match caps::set(None, CapSet::Ambient, keep) {
        Err(_) if !keep.is_empty() => Err(Errno::EPERM),
        _ => Ok(()),
    }
}

/// Does something as a member of this group alone, as far as files go, on this thread.
///
/// # Errors
/// EPERM: CAP_SETGID is missing.
pub(crate) fn as_group<T>(gid: u32, work: impl FnOnce() -> T) -> io::Result<T> {
    struct Back(Gid);
    impl Drop for Back {
        fn drop(&mut self) {
            setfsgid(self.0);
        }
    }
    let gid = Gid::from_raw(gid);
    let back = Back(setfsgid(gid));
    // setfsgid(2) says no errors: a second call says what the first has done.
    let now = setfsgid(gid);
    let done = if now == gid { Ok(work()) } else { Err(Errno::EPERM.into()) };
    drop(back);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_self_status() {
        for (status, admin, read) in [
            (&b"Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n"[..], true, true),
            (b"CapEff:\t0000000000000000\n", false, false),
            (b"CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000004", false, true),
            (b"CapEff:\t0000000000200000\n", true, false),
        ] {
            let names = Caps::parse(status).unwrap().names();
            let has = |name| names.iter().any(|n| n == name);
            assert_eq!((has("CAP_SYS_ADMIN"), has("CAP_DAC_READ_SEARCH")), (admin, read), "{}", status.escape_ascii());
        }
        for status in [&b""[..], b"CapEff:\tno\n", b"Name:\tCapEff:\t1\n"] {
            assert_eq!(Caps::parse(status), None);
        }
    }

    #[test]
    fn names_and_sets() {
        let caps = Caps::of(&[Capability::CAP_SYS_ADMIN, Capability::CAP_DAC_READ_SEARCH]);
        assert_eq!(caps, Caps::parse(b"CapEff:\t0000000000200004\n").unwrap());
        assert_eq!(caps.names(), ["CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"]);
        assert_eq!(caps.with(Caps::of(&[Capability::CAP_CHOWN])).names().len(), 3);
    }

    /// On a thread of its own, as what is given up does not come back.
    #[test]
    fn what_is_given_up_is_gone() {
        let left = std::thread::spawn(|| {
            let keep = Caps::of(&[Capability::CAP_DAC_READ_SEARCH]);
            keep_only(keep, keep).unwrap();
            caps::read(None, CapSet::Permitted).unwrap()
        });
        let left = left.join().unwrap();
        assert!(left.iter().all(|cap| *cap == Capability::CAP_DAC_READ_SEARCH), "{left:?}");
        assert!(!surplus(Caps::of(&[Capability::CAP_CHOWN])).contains(&Capability::CAP_CHOWN));
    }

    #[test]
    fn this_process_agrees_with_what_the_kernel_lets_it_do() {
        let caps = Caps::effective().unwrap();
        let marks = crate::sys::fanotify::Group::open(&Default::default())
            .is_ok_and(|group| group.mark_filesystem(std::path::Path::new("/tmp")).is_ok());
        assert!(caps.names().iter().any(|name| name == "CAP_SYS_ADMIN") || !marks);
    }
}
