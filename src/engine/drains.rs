//! Drains of the event queues: each is requested with a reason, and returns it when every event
//! from before the request is in the dirty sets. Pure.

use crate::state::Drain;

use super::calls::Call;

/// Why a drain is requested.
pub(super) enum For {
    /// A stop: what is found before its end is still sent.
    Stop,
    /// Something landed: what was seen before is separated from what comes after
    /// ([`DirtySet::begin_barrier`](crate::dirty::DirtySet::begin_barrier)).
    Barrier,
    /// Events of files without a path ([`Resolver::settle`](crate::resolve::Resolver::settle)).
    Settle,
    /// The watermarks.
    Checkpoint(Drain),
    /// The flush of this number.
    Flush(u64),
    /// A call that is to see all that happened before it.
    Call(Call),
}

/// Drains under way, by token.
#[derive(Default)]
pub(super) struct Drains {
    last: u64,
    open: Vec<(u64, For)>,
}

impl Drains {
    /// A token for the reader.
    pub(super) fn open(&mut self, why: For) -> u64 {
        self.last += 1;
        self.open.push((self.last, why));
        self.last
    }

    /// What the drain that ended was for; `None` where that was given up.
    pub(super) fn ended(&mut self, token: u64) -> Option<For> {
        let at = self.open.iter().position(|(open, _)| *open == token)?;
        Some(self.open.remove(at).1)
    }

    /// Whether one is under way for such a reason.
    pub(super) fn waits(&self, why: impl Fn(&For) -> bool) -> bool {
        self.open.iter().any(|(_, open)| why(open))
    }

    /// A drain for the watermarks is under way.
    pub(super) fn checkpoint(&self) -> Option<(u64, Drain)> {
        self.open.iter().find_map(|(token, why)| match why {
            For::Checkpoint(drain) => Some((*token, *drain)),
            _ => None,
        })
    }

    /// The one for the watermarks counts for nothing.
    pub(super) fn give_up_checkpoint(&mut self) {
        self.open.retain(|(_, why)| !matches!(why, For::Checkpoint(_)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_drain_ends_once_and_for_its_own_reason() {
        let mut drains = Drains::default();
        let (stop, flush) = (drains.open(For::Stop), drains.open(For::Flush(7)));
        assert!(stop != flush && drains.waits(|why| matches!(why, For::Stop)));
        assert!(matches!(drains.ended(flush), Some(For::Flush(7))));
        assert!(drains.ended(flush).is_none() && drains.ended(99).is_none());
        assert!(matches!(drains.ended(stop), Some(For::Stop)));
        assert!(!drains.waits(|_| true));
        // A token is not used again, also not after its drain ended.
        assert!(drains.open(For::Barrier) > flush);
    }

    #[test]
    fn a_checkpoint_that_is_given_up_says_nothing_at_its_end() {
        let mut drains = Drains::default();
        assert!(drains.checkpoint().is_none());
        let drain = Drain::of_now();
        let token = drains.open(For::Checkpoint(drain));
        drains.open(For::Settle);
        assert_eq!(drains.checkpoint().map(|(open, _)| open), Some(token));
        drains.give_up_checkpoint();
        assert!(drains.checkpoint().is_none() && drains.ended(token).is_none());
        assert!(drains.waits(|why| matches!(why, For::Settle)), "another one goes on");
    }
}
