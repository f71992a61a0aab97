//! The time of day where this runs, as localtime(3) has it.

#![allow(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment in local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalTime {
    /// Of the calendar.
    pub(crate) year: i32,
    /// From 0.
    pub(crate) month: usize,
    /// Of the month.
    pub(crate) day: u8,
    /// Of the day.
    pub(crate) hour: u8,
    /// Of the hour.
    pub(crate) minute: u8,
    /// Of the minute, 60 in a leap second.
    pub(crate) second: u8,
}

/// `at` in the zone of this process (`TZ`, else /etc/localtime); `None` for a time that has no form
/// there.
pub(crate) fn local(at: SystemTime) -> Option<LocalTime> {
    let seconds = at.duration_since(UNIX_EPOCH).ok()?.as_secs().try_into().ok()?;
    let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to values of this frame that outlive the call, and a `tm` of zeroes
    // is valid. The zone is read from the environment, which this process never changes.
    let filled = unsafe { !libc::localtime_r(&seconds, parts.as_mut_ptr()).is_null() };
    if !filled {
        return None;
    }
    // SAFETY: localtime_r(3) has filled it, or else it has returned NULL.
    let tm = unsafe { parts.assume_init() };
    let part = |n: libc::c_int| u8::try_from(n).ok();
    Some(LocalTime {
        year: tm.tm_year.checked_add(1900)?,
        month: usize::try_from(tm.tm_mon).ok()?,
        day: part(tm.tm_mday)?,
        hour: part(tm.tm_hour)?,
        minute: part(tm.tm_min)?,
        second: part(tm.tm_sec)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn differs_from_utc_by_a_zone_only() {
        let at = |seconds| local(UNIX_EPOCH + Duration::from_secs(seconds)).expect("it has a form");
        // 2026-11-15 12:34:56 UTC, and a day later.
        let (one, next) = (at(1_794_746_096), at(1_794_746_096 + 86_400));
        assert_eq!((one.year, one.month, one.second), (2026, 10, 56));
        assert!((14..=16).contains(&one.day), "{one:?}");
        assert_eq!(next, LocalTime { day: one.day + 1, ..one });
        assert_eq!(local(UNIX_EPOCH - Duration::from_secs(1)), None);
    }
}
