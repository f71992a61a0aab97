//! Times that can be compared with a ctime, and what the clock did since they were taken.
//!
//! A ctime is the system's clock at the moment of the change, so the state on disk has to speak of
//! that clock, which can be set. A clock that was set back makes later changes look older than a
//! watermark; [`Clock::check_since`] finds that out from the distance between the system's clock
//! and the time since boot, which no process can set.
//!
//! Gives up: a clock that was wrong between the start of the machine and the start of the daemon,
//! and was right at the last stop and is right again now. Nothing in the machine remembers that, so
//! let the daemon start after `time-sync.target` where the hardware has no clock that survives a
//! power cut.

use std::fmt;
use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::sys::statx::FileTime;

/// The system's clock, in nanoseconds since 1970; what file times are in. [`Wall::MIN`] lies before
/// and [`Wall::MAX`] after every change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub(crate) i64);

impl Wall {
    /// Before every change.
    pub const MIN: Wall = Wall(i64::MIN);
    /// After every change.
    pub const MAX: Wall = Wall(i64::MAX);

    /// This time less `by`.
    pub(crate) fn before(self, by: Duration) -> Wall {
        Wall(self.0.saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl From<FileTime> for Wall {
    fn from(time: FileTime) -> Wall {
        Wall(time.secs.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanos)))
    }
}

impl fmt::Debug for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Wall::MIN => f.write_str("never"),
            Wall::MAX => f.write_str("always"),
            Wall(ns) => write!(f, "{}.{:09}", ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000)),
        }
    }
}

/// How far a change's ctime may lie before the moment it was made, in the clock that [`Clock::now`]
/// reads: file times are the kernel's coarse clock (one jiffy, up to 10 ms, behind), and an ext4
/// filesystem with 128-byte inodes keeps whole seconds.
pub(crate) const SLACK: Duration = Duration::from_secs(2);

/// How far the clock may fall behind without being taken for set back: reading the two clocks is
/// not one step.
const TOLERANCE: Duration = Duration::from_millis(50);

/// One reading of the machine's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The system's clock.
    pub wall: Wall,
    /// Time since the machine started, suspended time included, in nanoseconds. Cannot be set.
    pub(crate) boot: i64,
    /// Which start of the machine this is: /proc/sys/kernel/random/boot_id.
    pub(crate) boot_id: u128,
}

impl Clock {
    /// Reads the clocks.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn now() -> io::Result<Clock> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let hex: String = text.trim().chars().filter(|c| *c != '-').collect();
        let boot_id = u128::from_str_radix(&hex, 16).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Clock { wall: Wall::MIN, boot: 0, boot_id }.again()
    }

    /// Reads the clocks again: two system calls that do not reach the kernel (vDSO).
    ///
    /// # Errors
    /// None in practice: clock_gettime(2) of clocks that every kernel has.
    pub(crate) fn again(&self) -> io::Result<Clock> {
        let nanos = |id| clock_gettime(id).map(|t| t.tv_sec() * 1_000_000_000 + t.tv_nsec());
        // The time since boot is read last: being late with it makes the distance smaller, as if
        // the clock were set back.
        let wall = nanos(ClockId::CLOCK_REALTIME)?;
        Ok(Clock { wall: Wall(wall), boot: nanos(ClockId::CLOCK_BOOTTIME)?, boot_id: self.boot_id })
    }

    /// When the machine started, by the system's clock as it is now.
    fn started(&self) -> i64 {
        self.wall.0.saturating_sub(self.boot)
    }

    /// Whether the clock was set back since `earlier`, in words; so a change made since may have a
    /// ctime before `earlier.wall`.
    ///
    /// # Errors
    /// What was found.
    pub(crate) fn check_since(&self, earlier: &Clock) -> Result<(), String> {
        let tolerance = TOLERANCE.as_nanos() as i64;
        let seconds = |ns: i64| ns as f64 / 1e9;
        if self.wall < earlier.wall {
            let by = seconds(earlier.wall.0.saturating_sub(self.wall.0));
            return Err(format!("the clock is {by:.3} s behind the time at which the state was saved"));
        }
        if self.boot_id == earlier.boot_id {
            let back = earlier.started().saturating_sub(self.started());
            if back > tolerance {
                return Err(format!("the clock was set back by {:.3} s", seconds(back)));
            }
        } else {
            let back = earlier.wall.0.saturating_sub(self.started());
            if back > tolerance {
                return Err(format!(
                    "by its clock the machine started {:.3} s before the state was saved in an earlier run of it, so the clock was set",
                    seconds(back)
                ));
            }
        }
        Ok(())
    }

    /// The earliest time that the clock can have shown since `earlier`, a reading in the same run
    /// of the machine, when it was set back in between; `None` when it was not.
    pub(crate) fn set_back_to(&self, earlier: &Clock) -> Option<Wall> {
        let back = earlier.started().saturating_sub(self.started());
        let elapsed = self.boot.saturating_sub(earlier.boot).max(0) as u64;
        (back > TOLERANCE.as_nanos() as i64).then(|| self.wall.before(Duration::from_nanos(elapsed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn at(wall: i64, boot: i64, boot_id: u128) -> Clock {
        Clock { wall: Wall(wall * S), boot: boot * S, boot_id }
    }

    #[test]
    fn what_the_clock_did() {
        let saved = at(1000, 100, 1);
        #[rustfmt::skip]
        let table: &[(&str, Clock, bool)] = &[
            ("time went by",                                at(1010, 110, 1), true),
            ("no time went by",                             at(1000, 100, 1), true),
            ("the clock was set ahead",                     at(5000, 110, 1), true),
            ("set back, and still ahead of the state",      at(1005, 110, 1), false),
            ("set back before the state",                   at(990, 110, 1),  false),
            ("another start, later",                        at(1010, 5, 2),   true),
            ("another start, clock behind",                 at(900, 5, 2),    false),
            ("another start that began before the save",    at(1010, 20, 2),  false),
        ];
        for (what, now, fine) in table {
            assert_eq!(now.check_since(&saved).is_ok(), *fine, "{what}");
        }
        let hair = Clock { wall: Wall(1000 * S + 5 * S - 1_000_000), ..at(0, 105, 1) };
        assert_eq!(hair.check_since(&saved), Ok(()), "a millisecond is the reading's own error");
    }

    #[test]
    fn how_far_back() {
        let before = at(1000, 100, 1);
        assert_eq!(at(1010, 110, 1).set_back_to(&before), None);
        assert_eq!(at(2010, 110, 1).set_back_to(&before), None);
        // Somewhere within these 10 s it was set to something that is 510 now: to 500 at the
        // earliest.
        assert_eq!(at(510, 110, 1).set_back_to(&before), Some(Wall(500 * S)));
    }

    #[test]
    fn the_machines_own() {
        let one = Clock::now().unwrap();
        let two = one.again().unwrap();
        assert!(one.boot_id != 0 && one.boot > 0 && two.boot >= one.boot);
        assert_eq!((two.check_since(&one), two.set_back_to(&one)), (Ok(()), None));
        let file = tempfile::tempfile().unwrap();
        use std::os::unix::fs::MetadataExt;
        let m = file.metadata().unwrap();
        let ctime = Wall::from(FileTime { secs: m.ctime(), nanos: m.ctime_nsec() as u32 });
        assert!(ctime > one.wall.before(SLACK) && ctime <= one.again().unwrap().wall, "{ctime:?} {one:?}");
    }
}
