//! Processes that get what others leave over: of the processor by setpriority(2), of the disk by
//! ioprio_set(2).

#![allow(unsafe_code)]

use std::io;

use nix::errno::Errno;

/// ioprio_set(2): a process group.
const IOPRIO_WHO_PGRP: libc::c_int = 2;
/// ioprio_set(2): `IOPRIO_CLASS_IDLE`, in the upper bits.
const IDLE_CLASS: libc::c_int = 3 << 13;
/// setpriority(2): the nicest.
const NICEST: libc::c_int = 19;

/// Makes every process of a group, and what they start, give way to all others. Of the disk it
/// helps with schedulers that know priorities only (bfq).
///
/// # Errors
/// `ESRCH`: there is no such group any more.
pub(crate) fn idle_group(group: u32) -> io::Result<()> {
    // SAFETY: setpriority(2) takes no pointer; a group that is not ours is refused or not found.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PGRP, group, NICEST) })?;
    // SAFETY: ioprio_set(2) takes three integers and no pointer.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PGRP, group as libc::c_int, IDLE_CLASS) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn a_group_becomes_idle() {
        let mut child = Command::new("sleep").arg("30").process_group(0).spawn().unwrap();
        idle_group(child.id()).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        // proc_pid_stat(5): behind the name in parentheses the fields from the third; nice is the
        // nineteenth.
        let nice = stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().to_owned();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(nice, "19");
        assert!(idle_group(child.id()).is_err(), "a group that is gone");
    }
}
