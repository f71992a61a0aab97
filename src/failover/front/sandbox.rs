//! What the front process gives up before it reads anything: files, its user, capabilities, limits,
//! system calls.
//!
//! Promises: after [`confine`] the process has no file but the descriptors that it was given, no
//! capability, and no way to get either: its root is a directory that is empty and removed, it is
//! another user without groups, it cannot gain rights by a program, and every system call but those
//! that it needs for the connections that it has ends it at once.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use caps::CapSet;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, chroot, fchdir, setgroups, setresgid, setresuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};

/// Bytes of address space.
const MEMORY: u64 = 512 << 20;
/// Descriptors: places for connections that come in, and those that go out.
const FILES: u64 = 512;

/// Whom it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// What may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// chroot(2).
    Root = 1,
    /// setrlimit(2).
    Limits,
    /// The bounding set.
    Bounding,
    /// setgroups(2), setresgid(2), setresuid(2).
    User,
    /// capset(2).
    Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivs,
    /// seccomp(2).
    Filter,
}

impl Step {
    const ALL: [Step; 7] =
        [Step::Root, Step::Limits, Step::Bounding, Step::User, Step::Capabilities, Step::NoNewPrivs, Step::Filter];

    pub(crate) fn from_number(number: u8) -> Option<Step> {
        Step::ALL.into_iter().find(|step| *step as u8 == number)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Root => "change its root to an empty directory (CAP_SYS_CHROOT)",
            Step::Limits => "set its limits",
            Step::Bounding => "empty its bounding set (CAP_SETPCAP)",
            Step::User => "become another user (CAP_SETUID, CAP_SETGID)",
            Step::Capabilities => "give up its capabilities",
            Step::NoNewPrivs => "set no_new_privs",
            Step::Filter => "filter its system calls (seccomp)",
        })
    }
}

/// Gives up everything but the descriptors that are open. For a process of one thread.
///
/// # Errors
/// What did not work, and why. The process has given up a part then, and must end.
pub fn confine(to: Identity, root: impl AsFd) -> Result<(), (Step, io::Error)> {
    let at = |step| move |e: Errno| (step, io::Error::from(e));
    let filter = filter().map_err(|e| (Step::Filter, io::Error::other(e)))?;
    fchdir(root).and_then(|()| chroot(".")).map_err(at(Step::Root))?;
    for (limit, most) in [
        (Resource::RLIMIT_AS, MEMORY),
        (Resource::RLIMIT_NOFILE, FILES),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
    ] {
        setrlimit(limit, most, most).map_err(at(Step::Limits))?;
    }
    caps::clear(None, CapSet::Bounding).map_err(|_| (Step::Bounding, Errno::EPERM.into()))?;
    let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
    setgroups(&[]).and_then(|()| setresgid(gid, gid, gid)).and_then(|()| setresuid(uid, uid, uid)).map_err(at(Step::User))?;
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        caps::clear(None, set).map_err(|_| (Step::Capabilities, Errno::EPERM.into()))?;
    }
    prctl::set_dumpable(false).and_then(|()| prctl::set_no_new_privs()).map_err(at(Step::NoNewPrivs))?;
    apply_filter(&filter).map_err(|e| match e {
        seccompiler::Error::Seccomp(e) | seccompiler::Error::Prctl(e) => (Step::Filter, e),
        other => (Step::Filter, io::Error::other(other)),
    })
}

/// The system calls that [`super::process`] makes, and those of the allocator and of an end. What
/// is not here ends the process.
fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let plain = [
        // Connections: one that comes in, what is read and sent, and their end. No socket(2), no
        // connect(2), no bind(2).
        libc::SYS_accept4,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_close,
        libc::SYS_ppoll,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        libc::SYS_restart_syscall,
        // Time, where the kernel's page for it cannot be used.
        libc::SYS_clock_gettime,
        // Memory.
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        // Signals and the end.
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> = plain.into_iter().map(|call| (call, vec![])).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let exec = libc::PROT_EXEC as u64;
        let no_code = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(exec), 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![no_code])?]);
    }
    // The standard library asks whether a descriptor that it closes is open, where debug assertions
    // are on.
    let asks = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, libc::F_GETFD as u64)?;
    rules.insert(libc::SYS_fcntl, vec![SeccompRule::new(vec![asks])?]);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_numbers_and_words() {
        for step in Step::ALL {
            assert_eq!(Step::from_number(step as u8), Some(step));
            assert!(!step.to_string().is_empty());
        }
        assert_eq!((Step::from_number(0), Step::from_number(8)), (None, None));
    }

    #[test]
    fn the_filter_can_be_made_here() {
        let filter = filter().unwrap();
        assert!((30..1000).contains(&filter.len()), "{}", filter.len());
    }
}
