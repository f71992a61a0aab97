//! What the process's exit code says, after sysexits(3).

use std::process;

/// Every way to leave. Of the codes for targets, the greater is the graver: what only an edit mends
/// comes before what may pass by itself, and that before differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// There are differences, or some paths failed.
    Differences = 1,
    /// `status --exit-code`: an administrator should look at it.
    Trouble = 2,
    /// The command line is wrong (`EX_USAGE`).
    Usage = 64,
    /// The kernel or rsync lacks something, or no daemon answers (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A bug (`EX_SOFTWARE`).
    Bug = 70,
    /// What was requested cannot be written to standard output (`EX_IOERR`).
    Output = 74,
    /// A target cannot be reached; trying again later may help (`EX_TEMPFAIL`).
    TargetUnreachable = 75,
    /// Not permitted (`EX_NOPERM`).
    NotPermitted = 77,
    /// The configuration is wrong (`EX_CONFIG`).
    Config = 78,
}

impl ExitCode {
    /// The number.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> process::ExitCode {
        process::ExitCode::from(code.code())
    }
}

#[cfg(test)]
mod tests {
    use super::ExitCode::*;

    /// One target that only an edit mends is not hidden by another that may be back tomorrow.
    #[test]
    fn the_worst_of_several_targets_is_the_one_to_act_on() {
        let order = [Done, Differences, Unavailable, TargetUnreachable, Config];
        assert!(order.is_sorted());
        assert_eq!([Config, TargetUnreachable, Done].into_iter().max(), Some(Config));
    }
}
