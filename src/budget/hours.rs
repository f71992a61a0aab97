//! `bwlimit` and `bwlimit_at`: the bandwidth of all targets by the time of day. Pure; the clock is
//! an argument.

use std::time::Duration;

use crate::daily::{PartOfDay, TimeOfDay};
use crate::sys::localtime::LocalTime;

/// The local clock can be set and change its zone, so it is looked at this often.
const LOOK: Duration = Duration::from_secs(60);

/// KiB a second towards other hosts; `None`: as much as there is.
pub(crate) type Rate = Option<u64>;

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hours {
    /// At all other times.
    pub(crate) usual: Rate,
    /// Parts of the day that do not overlap.
    pub(crate) parts: Vec<(PartOfDay, Rate)>,
}

impl Hours {
    /// What holds at this time.
    pub(super) fn at(&self, time: TimeOfDay) -> Rate {
        self.parts.iter().find(|(part, _)| part.has(time)).map_or(self.usual, |(_, rate)| *rate)
    }

    /// The next time at which another rate holds, and that.
    pub(super) fn next(&self, now: LocalTime) -> Option<(TimeOfDay, Rate)> {
        let held = self.at(TimeOfDay::of(now));
        let borders = self.parts.iter().flat_map(|(part, _)| [part.from, part.to]);
        let others = borders.filter(|time| self.at(*time) != held);
        others.min_by_key(|time| time.after(now)).map(|time| (time, self.at(time)))
    }

    /// When to look again; `None` where it does not depend on the time.
    pub(super) fn look(&self, now: LocalTime) -> Option<Duration> {
        (!self.parts.is_empty()).then(|| self.next(now).map_or(LOOK, |(time, _)| time.after(now).min(LOOK)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(usual: Rate, parts: &[(&str, &str, Rate)]) -> Hours {
        let time = |text: &str| text.parse().unwrap();
        let part = |&(from, to, rate): &(&str, &str, Rate)| (PartOfDay { from: time(from), to: time(to) }, rate);
        Hours { usual, parts: parts.iter().map(part).collect() }
    }

    fn at(hour: u8, minute: u8, second: u8) -> LocalTime {
        LocalTime { year: 2026, month: 2, day: 1, hour, minute, second }
    }

    #[test]
    fn each_time_has_its_rate_and_the_gaps_the_usual_one() {
        let hours = hours(Some(20), &[("08:00", "12:00", Some(2)), ("12:00", "13:00", Some(4)), ("22:00", "06:00", None)]);
        for (now, rate, next) in [
            (at(7, 59, 59), Some(20), Some(("08:00", Some(2)))),
            (at(8, 0, 0), Some(2), Some(("12:00", Some(4)))),
            (at(12, 59, 0), Some(4), Some(("13:00", Some(20)))),
            (at(13, 0, 0), Some(20), Some(("22:00", None))),
            (at(23, 0, 0), None, Some(("06:00", Some(20)))),
            (at(0, 0, 0), None, Some(("06:00", Some(20)))),
        ] {
            let found = hours.next(now).map(|(time, rate)| (time.to_string(), rate));
            let next = next.map(|(time, rate): (&str, Rate)| (time.to_owned(), rate));
            assert_eq!((hours.at(TimeOfDay::of(now)), found), (rate, next), "{now:?}");
        }
    }

    #[test]
    fn it_is_looked_at_at_the_border_or_within_a_minute() {
        let some = hours(None, &[("08:00", "18:00", Some(2))]);
        for (now, wait) in [(at(7, 59, 30), 30), (at(9, 0, 0), 60), (at(17, 59, 59), 1), (at(18, 0, 0), 60)] {
            assert_eq!(some.look(now), Some(Duration::from_secs(wait)), "{now:?}");
        }
        assert_eq!(hours(Some(7), &[]).look(at(9, 0, 0)), None);
        let same = hours(Some(2), &[("08:00", "18:00", Some(2))]);
        assert_eq!((same.next(at(9, 0, 0)), same.look(at(9, 0, 0))), (None, Some(LOOK)), "a border without a change");
    }
}
