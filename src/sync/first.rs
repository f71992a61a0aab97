//! The guard of a target that no run of this mirror has filled: what it holds may be anything, and
//! the mirror was pointed at it by a slip.
//!
//! ```text
//! first comparison, with --max-delete=0 ─► nothing is left out ─► filled
//!     (copies, deletes nothing, counts)  ├► few ─► the same with deletions ─► filled
//!                                        └► more than the share ─► the deletions are held,
//!                                                                  everything else goes on
//! ```
//!
//! So a target that is empty, or equal but for what is to be copied, costs nothing more. Until it
//! is filled no rescan of a part deletes what the source may never have had; deletions that were
//! seen on the source are carried out. With `initial = "none"` that stays so: nothing is ever
//! compared to be made equal.
//!
//! Gives up: what stands on the target under a name of the source is replaced, as in every mirror,
//! a directory by a file too.

use crate::config::MaxDelete;

/// Fewer deletions are carried out by a first comparison, whatever their share.
const FIRST_MIN: u64 = 100;

/// What is known of a target's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// A run of this mirror has made it equal.
    Filled,
    /// Nothing.
    Unknown,
    /// What a first comparison would delete was counted, and is little.
    Counted,
    /// It is not to be made equal: `initial = "none"`.
    Kept,
}

impl Fill {
    /// Whether a rescan leaves alone what only the target has.
    pub(crate) fn spares(self) -> bool {
        self != Fill::Filled
    }

    /// Whether a comparison of the whole tree counts first.
    pub(crate) fn counts(self) -> bool {
        self == Fill::Unknown
    }
}

/// Whether a first comparison would delete too much: `deletes` entries, with `kept` others that
/// source and target both have.
pub(crate) fn exceeds(limit: MaxDelete, deletes: u64, kept: u64) -> bool {
    match limit {
        MaxDelete::Count(count) => deletes > count,
        MaxDelete::Percent(percent) => {
            deletes >= FIRST_MIN && u128::from(deletes) * 100 > (u128::from(deletes) + u128::from(kept)) * u128::from(percent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_what_the_target_has() {
        use MaxDelete::{Count, Percent};
        for (limit, deletes, kept, want) in [
            (Percent(50), 500, 0, true),
            (Percent(50), 500, 499, true),
            (Percent(50), 500, 500, false),
            (Percent(50), 99, 0, false),
            (Percent(50), 100, 0, true),
            (Percent(100), 1_000_000, 0, false),
            (Percent(10), 1_000, 5_000, true),
            (Count(0), 1, 1_000, true),
            (Count(10), 10, 0, false),
            (Percent(50), u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(exceeds(limit, deletes, kept), want, "{limit:?}: {deletes} beside {kept}");
        }
    }
}
