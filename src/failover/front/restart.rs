//! How soon a front process is started again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(10);
/// Well below the time for one answer (`probe.timeout`).
const MOST: Duration = Duration::from_millis(640);
/// One that has lived for so long has not ended because of what ended the one before.
const LIVED: Duration = Duration::from_secs(10);

/// How many have ended soon in a row, this one not counted.
pub(crate) fn row(before: u32, lived: Duration) -> u32 {
    if lived >= LIVED { 0 } else { before }
}

/// Before the next is started, after so many in a row.
pub(crate) fn pause(row: u32) -> Duration {
    FIRST.saturating_mul(1u32.checked_shl(row).unwrap_or(u32::MAX)).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_then_more_seldom_and_never_later_than_an_answer_may_be() {
        let pauses = [0, 1, 2, 5, 6, 7, 31, 32, u32::MAX].map(pause).map(|p| p.as_millis());
        assert_eq!(pauses, [10, 20, 40, 320, 640, 640, 640, 640, 640]);
        let timeout = crate::failover::config::Probe::default().timeout;
        assert!(MOST < timeout);
        assert_eq!([row(5, Duration::from_secs(9)), row(5, LIVED)], [5, 0]);
    }
}
