//! How children stand behind other processes for processors and disks. Of the disk it helps with
//! schedulers that know priorities only (bfq).

#![allow(unsafe_code)]

/// ioprio_set(2), include/uapi/linux/ioprio.h: one process; the class is in the upper bits.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const CLASS_SHIFT: libc::c_int = 13;
const BEST_EFFORT: libc::c_int = 2;
const IDLE: libc::c_int = 3;
/// The lowest of the eight levels of [`BEST_EFFORT`].
const LOWEST: libc::c_int = 7;

/// How a process stands behind others, and what it starts with it. The default is as we stand
/// ourselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Priority {
    /// Added to our own nice value; setpriority(2).
    pub nice: u8,
    /// Its class for disks.
    pub io: Option<IoClass>,
}

/// A class for disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoClass {
    /// Best effort, at the lowest level.
    Low,
    /// When no other process uses the disk.
    Idle,
}

impl Priority {
    /// Gives way to all others.
    pub(crate) const IDLE: Priority = Priority { nice: 19, io: Some(IoClass::Idle) };

    /// For the calling process, between fork and exec: two system calls at most. That a kernel, or
    /// a filter of system calls, has no classes keeps no run from its work.
    pub(super) fn set(self) {
        if self.nice > 0 {
            // SAFETY: nice(2) takes no pointer.
            unsafe { libc::nice(self.nice.into()) };
        }
        let class = match self.io {
            Some(IoClass::Low) => BEST_EFFORT << CLASS_SHIFT | LOWEST,
            Some(IoClass::Idle) => IDLE << CLASS_SHIFT,
            None => return,
        };
        // SAFETY: ioprio_set(2) takes three integers and no pointer; process 0 is the calling one.
        unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, class) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::child::{Child, Limits, Stdin};

    /// The nice value and the class for disks of a child, and of ourselves.
    fn of_child(priority: Priority) -> [(i64, i64); 2] {
        let limits = Limits { priority, ..Limits::default() };
        let argv = ["sleep", "60"].map(Into::into);
        let env = [("PATH".into(), std::env::var_os("PATH").unwrap())];
        let mut child = Child::spawn_with(&argv, &env, Stdin::Null, None, limits, &[]).unwrap();
        let read = |pid: u32| {
            // proc_pid_stat(5): behind the name in parentheses the fields from the third; nice is
            // the nineteenth.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let nice = stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap();
            // SAFETY: ioprio_get(2) takes two integers and no pointer.
            (nice, unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, pid) })
        };
        let seen = [read(child.pid()), read(std::process::id())];
        child.kill();
        seen
    }

    #[test]
    fn a_child_stands_behind_others() {
        let [usual, own] = of_child(Priority::default());
        assert_eq!(usual, own);
        for (priority, nice, class) in [
            (Priority { nice: 3, io: None }, 3, None),
            (Priority { nice: 0, io: Some(IoClass::Low) }, 0, Some(BEST_EFFORT << CLASS_SHIFT | LOWEST)),
            (Priority::IDLE, 19, Some(IDLE << CLASS_SHIFT)),
        ] {
            let [child, own] = of_child(priority);
            assert_eq!(child.0, (own.0 + nice).min(19), "{priority:?}");
            if let Some(class) = class {
                assert_eq!(child.1, i64::from(class), "{priority:?}");
            }
        }
    }
}
