//! What an older rsync does not know, and what takes its place.
//!
//! Promise: no option of [`super::argv`] reaches an rsync that does not know it, or that takes it
//! for another one.
//!
//! | option | known from | what the other side gets of it | in its place |
//! | --- | --- | --- | --- |
//! | `--modify-window=-1` | 3.1.3 | `-@-1` | nothing: times are compared to the second |
//! | `--filter=-x …` | 3.1.3 | itself, and by `-M` | nothing: `system.` is left out anyway |
//! | `--compress-choice=…` | 3.2.0 | itself | `--old-compress`, which is zlib |
//! | `--confine-root=…` | 3.5.0 | nothing | nothing; see `RsyncFacts::unconfined` |
//!
//! 3.1.2 takes `--modify-window=-1` and then calls all times equal, so that a file of the same
//! size would never be sent: the option must not get there. Files that were seen to be written are
//! sent whatever their times are ([`super::argv::Compare::Resend`]), and 3.1.2 sets times to the
//! nanosecond, so only what a comparison finds by itself is coarser. All else that the command
//! lines hold is known from 3.1.0 on (`--delete-missing-args`, `--info`, `-M`).

use super::outcome::{Outcome, Verdict};
use super::output::Signs;
use super::probe::Version;
use crate::config::Compress;
use crate::location::Location;

/// What is weaker before 3.2.0.
pub(crate) const LINK_TIMES: &str =
    "older than 3.2.0: times of symbolic links, devices and FIFOs are kept to the second, and a comparison finds them different";

/// Which options an rsync knows: each release those of the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Dialect {
    /// 3.1.0 to 3.1.2.
    Seconds,
    /// 3.1.3.
    Zlib,
    /// 3.2.0 and later.
    #[default]
    Current,
}

impl Dialect {
    /// Of a release. Nothing shows by a try that 3.1.2 takes `--modify-window=-1` in another sense.
    pub(crate) fn of(version: Version) -> Dialect {
        match version {
            version if version < Version(3, 1, 3) => Dialect::Seconds,
            version if version < Version(3, 2, 0) => Dialect::Zlib,
            _ => Dialect::Current,
        }
    }

    /// Times are compared to the nanosecond.
    pub(crate) fn compares_nanoseconds(self) -> bool {
        self > Dialect::Seconds
    }

    /// Filters may be about the names of extended attributes.
    pub(super) fn filters_attributes(self) -> bool {
        self > Dialect::Seconds
    }

    /// The options for a compression.
    pub(super) fn compression(self, compress: Compress) -> Vec<String> {
        match compress.choice() {
            None => Vec::new(),
            Some(choice) if self == Dialect::Current => vec!["-z".into(), format!("--compress-choice={choice}")],
            Some(_) => vec!["-z".into(), "--old-compress".into()],
        }
    }

    /// The next older one whose options are others, for a run with this compression.
    fn older(self, compress: Compress) -> Option<Dialect> {
        match self {
            Dialect::Current if matches!(compress, Compress::Zstd | Compress::Lz4) => Some(Dialect::Zlib),
            Dialect::Current | Dialect::Zlib => Some(Dialect::Seconds),
            Dialect::Seconds => None,
        }
    }

    /// What to try next where a probe in this dialect ended so: an older one if the other side may
    /// not have known an option. An old daemon says so in its own log alone, and ends the
    /// connection.
    pub(crate) fn after(self, outcome: &Outcome, signs: &Signs, place: &Location, compress: Compress) -> Option<Dialect> {
        let hung_up = outcome.verdict == Verdict::TargetDown && signs.server.hung_up && place.is_daemon();
        self.older(compress).filter(|_| signs.server.unknown_option || hung_up)
    }

    /// What is weaker with it than with a newer rsync, for people.
    pub(crate) fn weaker(self, compress: Compress) -> Vec<String> {
        let mut out = Vec::new();
        if self == Dialect::Seconds {
            out.push(
                "its rsync is older than 3.1.3 and compares times to the second: a file that was rewritten with the same size within the same second \
                 while fansync was not looking is found by --checksum alone"
                    .into(),
            );
        }
        if self == Dialect::Zlib {
            out.push(format!("its rsync is {LINK_TIMES}"));
        }
        if self < Dialect::Current && matches!(compress, Compress::Zstd | Compress::Lz4) {
            out.push("its rsync is older than 3.2.0: zlib takes the place of the compression that is configured".into());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        for (version, want) in [
            (Version(3, 1, 0), Dialect::Seconds),
            (Version(3, 1, 2), Dialect::Seconds),
            (Version(3, 1, 3), Dialect::Zlib),
            (Version(3, 2, 0), Dialect::Current),
            (Version(3, 10, 0), Dialect::Current),
        ] {
            assert_eq!(Dialect::of(version), want, "{version}");
        }
    }

    #[test]
    fn an_older_one_is_tried_where_an_option_may_not_be_known() {
        let down = Outcome { verdict: Verdict::TargetDown, ..Outcome::unknown("why".into()) };
        let signs = |unknown_option, hung_up| {
            let mut signs = Signs::default();
            (signs.server.unknown_option, signs.server.hung_up) = (unknown_option, hung_up);
            signs
        };
        let (unknown, hung_up) = (signs(true, false), signs(false, true));
        let (module, ssh) = (Location::parse("rsync://h/m").unwrap(), Location::parse("h:/srv").unwrap());
        for (now, signs, place, compress, want) in [
            (Dialect::Current, &unknown, &ssh, Compress::None, Some(Dialect::Seconds)),
            (Dialect::Current, &unknown, &ssh, Compress::Zlib, Some(Dialect::Seconds)),
            (Dialect::Current, &unknown, &ssh, Compress::Zstd, Some(Dialect::Zlib)),
            (Dialect::Current, &hung_up, &module, Compress::Lz4, Some(Dialect::Zlib)),
            (Dialect::Zlib, &hung_up, &module, Compress::Zstd, Some(Dialect::Seconds)),
            (Dialect::Seconds, &unknown, &ssh, Compress::Zstd, None),
            (Dialect::Current, &hung_up, &ssh, Compress::None, None),
            (Dialect::Current, &Signs::default(), &module, Compress::None, None),
        ] {
            assert_eq!(now.after(&down, signs, place, compress), want, "{now:?} {place} {compress:?}");
        }
        let refused = Outcome { verdict: Verdict::Config, ..Outcome::unknown("why".into()) };
        assert_eq!(Dialect::Current.after(&refused, &hung_up, &module, Compress::None), None);
    }

    #[test]
    fn what_is_weaker() {
        let count = |dialect: Dialect, compress| dialect.weaker(compress).len();
        assert_eq!([Dialect::Current, Dialect::Zlib, Dialect::Seconds].map(|d| count(d, Compress::Zstd)), [0, 2, 2]);
        assert_eq!([Dialect::Current, Dialect::Zlib, Dialect::Seconds].map(|d| count(d, Compress::Zlib)), [0, 1, 1]);
    }
}
