//! What the end of a run means for what it carried. Pure.

use super::runs::AbortReason;
use crate::sync::outcome::Verdict;
use crate::sync::retries::WHOLE_ROUNDS;

/// What is known of a run that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended<'v> {
    pub(super) verdict: &'v Verdict,
    pub(super) abort_reason: Option<AbortReason>,
    /// Of its batch.
    pub(super) round: u32,
    pub(super) from_standby: bool,
    /// It began below the root.
    pub(super) below: bool,
    /// It was to count what it would delete.
    pub(super) counts: bool,
    /// All that it carried failed because the target is read-only.
    pub(super) read_only: bool,
    /// The target has taken nothing since it failed last.
    pub(super) in_outage: bool,
    /// Deletions have a bound.
    pub(super) bounded: bool,
}

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    /// It is on the target.
    Done,
    /// It is sent from the top.
    FromTheTop,
    /// The target is read-only.
    ReadOnly,
    /// Some of it is on the target.
    SomeFailed,
    /// What of it is on the target is to be found out.
    Unproven,
    /// The server has no connection left.
    Busy,
    /// The target has no room.
    NoRoom,
    /// The connection was old, and rsync does not look at it before it has its list: the server may
    /// have been restarted since, or something on the way forgot about it. A probe finds out
    /// whether the target can be reached.
    StaleConnection,
    /// The process was ended from elsewhere, the target has no part in it. By the kernel, when
    /// memory is short: smaller lists may help.
    Interrupted,
    /// All but the deletions has gone through, and these are counted.
    Counted,
    /// The same, and there are more than the bound allows.
    TooManyDeletes,
    /// The target's rsync cannot delete by name.
    NoMissingArgs,
    /// The source itself could not be read.
    SourceRoot,
    /// It is pending again.
    GiveBack,
    /// It goes on in the lane of large files.
    LargeLane,
    /// Links are made in another way.
    Untie,
    /// Done in the same way it would hang again.
    SmallerLists,
    /// It is tried again after what held it up.
    HeldUp,
    /// The target cannot be sent to.
    Outage { config: bool },
}

impl Ended<'_> {
    pub(super) fn completion(&self) -> Completion {
        use AbortReason::{Apart, Bandwidth, GivesWay, Gone, Hollow, Idle, Knotted};
        let some_done = matches!(self.verdict, Verdict::Partial | Verdict::Unproven | Verdict::SourceRace);
        // The first time it may be a part of the target; and what was set apart stays a matter of
        // its paths.
        let whole_target = self.round + 1 == WHOLE_ROUNDS || self.round == 0 && self.in_outage;
        match (self.verdict, self.abort_reason) {
            (Verdict::Done, _) => Completion::Done,
            _ if self.below && !some_done => Completion::FromTheTop,
            (Verdict::Partial, _) if self.read_only && whole_target => Completion::ReadOnly,
            (Verdict::Partial | Verdict::SourceRace, _) => Completion::SomeFailed,
            (Verdict::Unproven, _) => Completion::Unproven,
            (Verdict::Busy, _) => Completion::Busy,
            (Verdict::TargetFull, _) => Completion::NoRoom,
            (Verdict::TargetDown | Verdict::TimedOut, _) if self.from_standby => Completion::StaleConnection,
            (Verdict::Killed, None) if self.round + 1 < WHOLE_ROUNDS => Completion::Interrupted,
            (Verdict::DeletesHeld, _) if self.counts => Completion::Counted,
            (Verdict::DeletesHeld, _) if self.bounded => Completion::TooManyDeletes,
            (Verdict::NoMissingArgs, _) => Completion::NoMissingArgs,
            (Verdict::SourceRoot, _) => Completion::SourceRoot,
            (Verdict::Killed, Some(Gone | Apart | Hollow | Bandwidth)) => Completion::GiveBack,
            (Verdict::Killed, Some(GivesWay)) => Completion::LargeLane,
            (_, Some(Knotted)) => Completion::Untie,
            (Verdict::Killed, Some(Idle)) => Completion::SmallerLists,
            (Verdict::Killed, Some(_)) => Completion::HeldUp,
            (verdict, _) => {
                Completion::Outage { config: matches!(verdict, Verdict::Config | Verdict::Refused { .. } | Verdict::DeletesHeld) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Ended<'_> = Ended {
        verdict: &Verdict::Done,
        abort_reason: None,
        round: 0,
        from_standby: false,
        below: false,
        counts: false,
        read_only: false,
        in_outage: false,
        bounded: false,
    };

    #[test]
    fn completion_by_verdict_of_a_plain_run() {
        for (verdict, want) in [
            (Verdict::Done, Completion::Done),
            (Verdict::Partial, Completion::SomeFailed),
            (Verdict::SourceRace, Completion::SomeFailed),
            (Verdict::Unproven, Completion::Unproven),
            (Verdict::NoMissingArgs, Completion::NoMissingArgs),
            (Verdict::DeletesHeld, Completion::Outage { config: true }),
            (Verdict::SourceRoot, Completion::SourceRoot),
            (Verdict::TargetMissing, Completion::Outage { config: false }),
            (Verdict::TargetFull, Completion::NoRoom),
            (Verdict::TargetDown, Completion::Outage { config: false }),
            (Verdict::TimedOut, Completion::Outage { config: false }),
            (Verdict::Busy, Completion::Busy),
            (Verdict::Config, Completion::Outage { config: true }),
            (Verdict::Killed, Completion::Interrupted),
            (Verdict::Unknown, Completion::Outage { config: false }),
        ] {
            assert_eq!(Ended { verdict: &verdict, ..PLAIN }.completion(), want, "{verdict:?}");
        }
    }

    #[test]
    fn completion_of_a_run_that_began_below_is_from_the_top_unless_it_got_somewhere() {
        for (verdict, want) in [
            (Verdict::Done, Completion::Done),
            (Verdict::Partial, Completion::SomeFailed),
            (Verdict::Unproven, Completion::Unproven),
            (Verdict::TargetMissing, Completion::FromTheTop),
            (Verdict::TargetDown, Completion::FromTheTop),
            (Verdict::Killed, Completion::FromTheTop),
        ] {
            assert_eq!(Ended { verdict: &verdict, below: true, ..PLAIN }.completion(), want, "{verdict:?}");
        }
    }

    #[test]
    fn completion_of_a_run_that_was_ended_from_here_follows_the_reason() {
        use AbortReason::*;
        for (reason, want) in [
            (Stalled, Completion::HeldUp),
            (Idle, Completion::SmallerLists),
            (Knotted, Completion::Untie),
            (Fifo, Completion::HeldUp),
            (Lease, Completion::HeldUp),
            (Gone, Completion::GiveBack),
            (Apart, Completion::GiveBack),
            (Hollow, Completion::GiveBack),
            (GivesWay, Completion::LargeLane),
            (Bandwidth, Completion::GiveBack),
        ] {
            let killed = Ended { verdict: &Verdict::Killed, abort_reason: Some(reason), ..PLAIN };
            assert_eq!(killed.completion(), want, "{reason:?}");
            // What it printed before counts for more.
            assert_eq!(Ended { verdict: &Verdict::Done, ..killed }.completion(), Completion::Done, "{reason:?}");
            let down = if reason == Knotted { Completion::Untie } else { Completion::Outage { config: false } };
            assert_eq!(Ended { verdict: &Verdict::TargetDown, ..killed }.completion(), down, "{reason:?}");
        }
    }

    #[test]
    fn completion_by_what_else_is_known() {
        let (partial, killed) = (Ended { verdict: &Verdict::Partial, ..PLAIN }, Ended { verdict: &Verdict::Killed, ..PLAIN });
        let held = Ended { verdict: &Verdict::DeletesHeld, ..PLAIN };
        for (ended, want) in [
            (Ended { read_only: true, ..partial }, Completion::SomeFailed),
            (Ended { read_only: true, in_outage: true, ..partial }, Completion::ReadOnly),
            (Ended { read_only: true, in_outage: true, round: 1, ..partial }, Completion::SomeFailed),
            (Ended { read_only: true, round: WHOLE_ROUNDS - 1, ..partial }, Completion::ReadOnly),
            (Ended { read_only: true, round: WHOLE_ROUNDS, ..partial }, Completion::SomeFailed),
            (Ended { verdict: &Verdict::TargetDown, from_standby: true, ..PLAIN }, Completion::StaleConnection),
            (Ended { verdict: &Verdict::TimedOut, from_standby: true, ..PLAIN }, Completion::StaleConnection),
            (Ended { round: WHOLE_ROUNDS - 1, ..killed }, Completion::Outage { config: false }),
            (Ended { counts: true, bounded: true, ..held }, Completion::Counted),
            (Ended { bounded: true, ..held }, Completion::TooManyDeletes),
        ] {
            assert_eq!(ended.completion(), want, "{ended:?}");
        }
    }
}
