//! Times of day: `full_at`, `verify_at`, `bwlimit_at`. Pure; the clock is an argument.
//!
//! A time has come when the local clock reaches or passes it. Where the clock skips it (a switch to
//! summer time, a suspended machine, a clock that is set) it comes with the first moment behind it,
//! once; where the clock goes back over it, it does not come again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::sys::localtime::LocalTime;

/// The local clock can be set and change its zone, so it is looked at this often.
const LOOK: Duration = Duration::from_secs(60);
/// A clock that goes back further was set: it counts as it is now.
const MOST_BACK: i64 = 2 * 3600;

/// A time of day, in minutes from midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimeOfDay(u16);

impl FromStr for TimeOfDay {
    type Err = String;

    fn from_str(text: &str) -> Result<TimeOfDay, String> {
        let parts = text.split_once(':').filter(|(h, m)| (1..=2).contains(&h.len()) && m.len() == 2);
        let number = |digits: &str, end: u16| {
            let plain = digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|n| plain && *n < end)
        };
        let time = parts.and_then(|(h, m)| Some(number(h, 24)? * 60 + number(m, 60)?));
        time.map(TimeOfDay).ok_or_else(|| format!("\"{text}\" is no time of day; write one like \"03:00\", up to \"23:59\""))
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl TimeOfDay {
    /// That of a moment.
    pub(crate) fn of(now: LocalTime) -> TimeOfDay {
        TimeOfDay(u16::from(now.hour) * 60 + u16::from(now.minute))
    }

    /// How long it is from a moment to this time; a whole day where the moment is in its minute.
    pub(crate) fn after(self, now: LocalTime) -> Duration {
        let now = seconds(now);
        Duration::from_secs(u64::try_from(next(self, now) - now).unwrap_or(0))
    }
}

/// A part of each day, its end not included; over midnight where that comes before its begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartOfDay {
    /// When it begins.
    pub(crate) from: TimeOfDay,
    /// When it ends; another time than that.
    pub(crate) to: TimeOfDay,
}

impl PartOfDay {
    /// Whether it is part of it.
    pub(crate) fn has(self, time: TimeOfDay) -> bool {
        match self.from < self.to {
            true => self.from <= time && time < self.to,
            false => self.from <= time || time < self.to,
        }
    }

    /// Whether some time is part of both.
    pub(crate) fn overlaps(self, other: PartOfDay) -> bool {
        self.has(other.from) || other.has(self.from)
    }
}

impl fmt::Display for PartOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

/// When times of day come.
#[derive(Debug, Default)]
pub(crate) struct Daily {
    times: Vec<TimeOfDay>,
    /// Up to when they have come, in seconds of the local clock.
    seen: Option<i64>,
}

impl Daily {
    pub(crate) fn new(times: &[TimeOfDay]) -> Daily {
        Daily { times: times.to_vec(), seen: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Whether one of the times has come since the last call. The first call only begins.
    pub(crate) fn take(&mut self, now: LocalTime) -> bool {
        let now = seconds(now);
        let seen = self.seen.unwrap_or(now);
        if now < seen && seen - now <= MOST_BACK {
            return false;
        }
        self.seen = Some(now);
        self.times.iter().any(|time| next(*time, seen) <= now && now > seen)
    }

    /// How long the next call may wait.
    pub(crate) fn wait(&self, now: LocalTime) -> Option<Duration> {
        let now = seconds(now);
        let first = self.times.iter().map(|time| next(*time, now)).min()?;
        Some(Duration::from_secs(u64::try_from(first - now).unwrap_or(0)).min(LOOK))
    }
}

/// The first moment behind `after` that has this time of day, in seconds of the local clock.
fn next(time: TimeOfDay, after: i64) -> i64 {
    const DAY: i64 = 86_400;
    let at = after.div_euclid(DAY) * DAY + i64::from(time.0) * 60;
    if at > after { at } else { at + DAY }
}

/// Seconds since 1970 that a clock of UTC would show this at; a date is a number by the calendar's
/// own count of days.
fn seconds(at: LocalTime) -> i64 {
    let (month, day) = (at.month as i64 + 1, i64::from(at.day));
    // Years begin with March, so that the day that comes and goes is the last.
    let year = i64::from(at.year) - i64::from(month < 3);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468;
    ((days * 24 + i64::from(at.hour)) * 60 + i64::from(at.minute)) * 60 + i64::from(at.second)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day of March 2026, and a time of it.
    fn at(day: u8, hour: u8, minute: u8, second: u8) -> LocalTime {
        LocalTime { year: 2026, month: 2, day, hour, minute, second }
    }

    fn daily(times: &[&str]) -> Daily {
        Daily::new(&times.iter().map(|time| time.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn times_are_hours_and_minutes() {
        for (text, want) in [("03:00", "03:00"), ("3:05", "03:05"), ("23:59", "23:59"), ("0:00", "00:00")] {
            assert_eq!(text.parse::<TimeOfDay>().unwrap().to_string(), want);
        }
        for text in ["", "3", "24:00", "12:60", "3:5", "003:00", "+3:00", "03:00:00", "3am", "-1:00", "1:+5"] {
            assert!(text.parse::<TimeOfDay>().unwrap_err().contains("03:00"), "{text}");
        }
    }

    #[test]
    fn a_time_comes_once_a_day() {
        let mut one = daily(&["03:00"]);
        assert!(!one.take(at(1, 3, 0, 0)), "a start at that time compares by itself");
        for (now, due) in [
            (at(1, 3, 0, 1), false),
            (at(1, 23, 59, 59), false),
            (at(2, 2, 59, 59), false),
            (at(2, 3, 0, 0), true),
            (at(2, 3, 0, 0), false),
            (at(2, 3, 0, 30), false),
            (at(3, 3, 0, 59), true),
            (at(4, 2, 0, 0), false),
        ] {
            assert_eq!(one.take(now), due, "{now:?}");
        }
        let mut two = daily(&["12:30", "00:00"]);
        two.take(at(1, 12, 0, 0));
        assert!(two.take(at(1, 12, 30, 0)) && !two.take(at(1, 23, 59, 59)) && two.take(at(2, 0, 0, 0)));
    }

    #[test]
    fn a_clock_that_jumps_neither_skips_a_time_nor_repeats_it() {
        let mut one = daily(&["02:30"]);
        one.take(at(29, 1, 59, 59));
        assert!(one.take(at(29, 3, 0, 0)), "summer time begins");
        let mut one = daily(&["02:30"]);
        one.take(at(25, 2, 0, 0));
        assert!(one.take(at(25, 2, 30, 0)) && !one.take(at(25, 2, 59, 59)));
        assert!(!one.take(at(25, 2, 0, 0)) && !one.take(at(25, 2, 30, 0)), "summer time ends");
        assert!(!one.take(at(25, 4, 0, 0)) && one.take(at(26, 2, 30, 0)));
        let mut one = daily(&["02:30"]);
        one.take(at(20, 12, 0, 0));
        assert!(one.take(at(24, 12, 0, 0)), "four days suspended, and one comparison");
        assert!(!one.take(at(20, 12, 0, 0)), "the clock was set back");
        assert!(one.take(at(21, 2, 30, 0)));
    }

    #[test]
    fn the_next_look_is_at_the_time_or_within_a_minute() {
        let one = daily(&["03:00", "04:00"]);
        for (now, wait) in
            [(at(1, 2, 59, 30), 30), (at(1, 2, 0, 0), 60), (at(1, 3, 0, 0), 60), (at(1, 3, 59, 59), 1), (at(1, 23, 0, 0), 60)]
        {
            assert_eq!(one.wait(now), Some(Duration::from_secs(wait)), "{now:?}");
        }
        assert_eq!(daily(&[]).wait(at(1, 0, 0, 0)), None);
    }

    #[test]
    fn a_part_of_a_day_may_go_over_midnight() {
        let time = |text: &str| text.parse::<TimeOfDay>().unwrap();
        let part = |from, to| PartOfDay { from: time(from), to: time(to) };
        let (day, night) = (part("08:00", "18:00"), part("22:00", "06:00"));
        for (at, of_day, of_night) in [
            ("00:00", false, true),
            ("05:59", false, true),
            ("06:00", false, false),
            ("08:00", true, false),
            ("17:59", true, false),
            ("18:00", false, false),
            ("22:00", false, true),
            ("23:59", false, true),
        ] {
            assert_eq!((day.has(time(at)), night.has(time(at))), (of_day, of_night), "{at}");
        }
        for (one, other, overlap) in [
            (day, night, false),
            (day, part("18:00", "08:00"), false),
            (day, part("17:59", "18:30"), true),
            (day, part("06:00", "08:01"), true),
            (day, part("09:00", "10:00"), true),
            (night, part("23:00", "23:30"), true),
            (night, part("05:00", "07:00"), true),
            (night, part("21:00", "02:00"), true),
            (night, part("06:00", "22:00"), false),
            (day, day, true),
        ] {
            assert_eq!((one.overlaps(other), other.overlaps(one)), (overlap, overlap), "{one} and {other}");
        }
    }

    #[test]
    fn how_long_it_is_to_a_time() {
        let time: TimeOfDay = "18:00".parse().unwrap();
        for (now, want) in
            [(at(1, 17, 59, 30), 30), (at(1, 18, 0, 0), 86_400), (at(1, 18, 0, 1), 86_399), (at(31, 20, 0, 0), 79_200)]
        {
            assert_eq!(time.after(now), Duration::from_secs(want), "{now:?}");
        }
        assert_eq!(TimeOfDay::of(at(1, 17, 59, 30)), "17:59".parse().unwrap());
    }

    #[test]
    fn days_follow_each_other_over_months_and_years() {
        let day = |year, month, day| seconds(LocalTime { year, month, day, hour: 0, minute: 0, second: 0 }) / 86_400;
        assert_eq!(day(1970, 0, 1), 0);
        for (before, after) in [((2026, 11, 31), (2027, 0, 1)), ((2028, 1, 29), (2028, 2, 1)), ((2026, 1, 28), (2026, 2, 1))] {
            let [before, after] = [before, after].map(|(y, m, d)| day(y, m, d));
            assert_eq!(before + 1, after);
        }
    }
}
