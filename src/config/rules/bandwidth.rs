//! Rules about `bwlimit` and `bwlimit_at`.

use super::*;
use crate::config::bwlimit::BwlimitAt;

/// The least bandwidth, in bytes a second.
const LEAST: u64 = 64 * 1024;

pub(super) fn check(daemon: &Daemon, section: &mut Section<'_>) {
    let too_small = |limit: Option<u64>| limit.filter(|bytes| *bytes < LEAST);
    let help = "it is shared among runs, and rsync counts in KiB: write \"64KiB\" or more a second";
    if let Some(bytes) = too_small(daemon.bwlimit) {
        section.complain("bwlimit", format!("bwlimit is {bytes} bytes a second"), help);
    }
    for (n, at) in daemon.bwlimit_at.iter().enumerate() {
        let BwlimitAt { part, limit } = *at;
        let key = |key: &str| format!("bwlimit_at.{n}.{key}");
        if let Some(bytes) = too_small(limit) {
            section.complain(&key("limit"), format!("the limit of {part} in bwlimit_at is {bytes} bytes a second"), help);
        }
        if part.from == part.to {
            let message = format!("bwlimit_at has a part of the day from {part}, which is none");
            section.complain(&key("to"), message, "write another time; what holds all day is bwlimit");
            continue;
        }
        if let Some(before) = daemon.bwlimit_at[..n].iter().find(|before| before.part.overlaps(part)) {
            let message = format!("the part of the day from {part} in bwlimit_at overlaps the one from {}", before.part);
            section.complain(
                &key("from"),
                message,
                "two limits for one time: let each part begin where the one before it ends, or later",
            );
        }
    }
}
