//! Who may push: a table over the marks of both trees, and nothing else.
//!
//! A daemon pushes only as an undisputed primary: its own tree says so, and its target is a
//! follower of no later epoch (or was never anything). Every doubt is a fence, since a push that
//! comes late costs seconds and one that comes wrongly costs data.

use super::mark::{Mark, Role};

/// What is known of a tree's mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// There is none.
    None,
    /// It is whole.
    Mark(Mark),
    /// There is something that cannot be read; why.
    Unreadable(String),
}

/// Whether to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// Push, as the primary of this epoch.
    Push {
        /// Our epoch.
        epoch: u64,
    },
    /// Push nothing; why, and what ends it.
    Fenced(String),
}

impl From<Result<Option<Mark>, super::mark::MarkError>> for Seen {
    fn from(read: Result<Option<Mark>, super::mark::MarkError>) -> Seen {
        match read {
            Ok(None) => Seen::None,
            Ok(Some(mark)) => Seen::Mark(mark),
            Err(error) => Seen::Unreadable(error.to_string()),
        }
    }
}

/// The part that our own mark decides; checked before every batch.
pub(crate) fn own(mark: &Seen) -> Ruling {
    match mark {
        Seen::Mark(Mark { role: Role::Primary, epoch, .. }) => Ruling::Push { epoch: *epoch },
        Seen::Mark(Mark { epoch, .. }) => {
            Ruling::Fenced(format!("fenced: this side is the follower of epoch {epoch}; it receives, and pushes after fail-back"))
        }
        Seen::None => Ruling::Fenced(
            "fenced: the source holds no role mark; if it is the primary, run `fansync failover role SOURCE --set primary`"
                .into(),
        ),
        Seen::Unreadable(why) => Ruling::Fenced(format!("fenced: {why}")),
    }
}

/// The whole decision, from our mark and the target's.
pub(crate) fn judge(ours: &Seen, target: &Seen) -> Ruling {
    let Ruling::Push { epoch } = own(ours) else { return own(ours) };
    match target {
        Seen::None => Ruling::Push { epoch },
        Seen::Mark(mark) if mark.epoch > epoch => Ruling::Fenced(format!(
            "fenced: the target is {mark}, newer than our epoch {epoch}: nothing is pushed before fail-back makes this side primary"
        )),
        Seen::Mark(Mark { role: Role::Primary, epoch: theirs, .. }) => Ruling::Fenced(format!(
            "fenced: both sides claim to be primary, the target of epoch {theirs} and we of {epoch}: \
             make one of them the follower with `fansync failover role`"
        )),
        Seen::Mark(_) => Ruling::Push { epoch },
        Seen::Unreadable(why) => Ruling::Fenced(format!("fenced: the target's role cannot be determined: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Role::{Follower, Primary};

    fn seen(epoch: u64, role: Role) -> Seen {
        Seen::Mark(Mark::new(epoch, role, ""))
    }

    #[test]
    fn who_may_push() {
        let torn = || Seen::Unreadable("torn".into());
        for (ours, target, push, why) in [
            (seen(1, Primary), Seen::None, true, "a backup that was never promoted"),
            (seen(1, Primary), seen(1, Follower), true, "the usual state"),
            (seen(3, Primary), seen(2, Follower), true, "after fail-back"),
            (seen(1, Primary), seen(2, Primary), false, "the old primary comes back"),
            (seen(2, Primary), seen(1, Primary), false, "the old primary has not stepped down yet"),
            (seen(2, Primary), seen(2, Primary), false, "split brain"),
            (seen(1, Primary), seen(2, Follower), false, "the target has seen a later primary than us"),
            (seen(2, Follower), seen(1, Primary), false, "a follower pushes to no server"),
            (seen(2, Follower), Seen::None, false, "a follower pushes to no server"),
            (Seen::None, Seen::None, false, "no mark says that we are primary"),
            (Seen::None, seen(5, Follower), false, "our disk was replaced"),
            (torn(), seen(1, Follower), false, "our epoch is not known"),
            (seen(1, Primary), torn(), false, "the target's epoch is not known"),
        ] {
            let ruling = judge(&ours, &target);
            assert_eq!(matches!(ruling, Ruling::Push { .. }), push, "{why}: {ours:?} {target:?} {ruling:?}");
            if let Ruling::Fenced(reason) = ruling {
                assert!(reason.starts_with("fenced: ") && !reason.contains('\n'), "{reason}");
            }
        }
    }

    #[test]
    fn never_two_that_push_to_each_other() {
        let all: Vec<Seen> = (1..4)
            .flat_map(|e| [seen(e, Primary), seen(e, Follower)])
            .chain([Seen::None, Seen::Unreadable("x".into())])
            .collect();
        for a in &all {
            for b in &all {
                let both = [judge(a, b), judge(b, a)].iter().all(|r| matches!(r, Ruling::Push { .. }));
                assert!(!both, "{a:?} {b:?}");
            }
        }
    }
}
