//! The mirror daemon's metrics: of each mirror, target and hook.

use prometheus::proto::MetricFamily;

use super::Kind::{Counter, Gauge, Histogram};
use super::{Row, Values, row, truth};
use crate::lost::Cause;
use crate::progress::Progress;
use crate::status::{FirstPass, Hook, HookState, Mirror, Snapshot, Target, TargetState, Verify};
use crate::sync::outcome::CLASSES;

const MIRROR: &[Row<Mirror>] = &[
    row(Gauge, "fansync_mirror_held", M, "1 while the source is missing, replaced or emptied, and nothing is sent.", |m, v| {
        v.put(truth(!m.held.is_empty()));
    }),
    row(
        Gauge,
        "fansync_mirror_held_places",
        M,
        "Places below the source where nothing is sent until they are as they were.",
        |m, v| {
            v.put(m.apart.iter().filter(|place| place.held).count() as f64);
        },
    ),
    row(Gauge, "fansync_mirror_initial_pass_running", M, "1 until the first comparison is through.", |m, v| {
        v.put(truth(m.initial == FirstPass::Running));
    }),
    row(
        Gauge,
        "fansync_mirror_start_walk_entries",
        M,
        "Names that the walk over the source after the start has read.",
        |m, v| {
            v.put(m.start.entries as f64);
        },
    ),
    row(
        Gauge,
        "fansync_mirror_state_unsaved_seconds",
        M,
        "For how long the state that a restart begins with could not be saved; 0 when it is.",
        |m, v| v.put(m.state_unsaved_seconds),
    ),
    row(
        Gauge,
        "fansync_mirror_unanswered_seconds",
        M,
        "How long ago the mirror's engine answered last, where it does not now, as while its source hangs; all else of the mirror is from then. 0 when it answers.",
        |m, v| v.put(m.unanswered_seconds),
    ),
    row(Counter, "fansync_mirror_moved_files_total", M, "Files removed from the source (remove_source_files).", |m, v| {
        m.moved.iter().for_each(|moved| v.put(moved.files as f64));
    }),
    row(Counter, "fansync_mirror_moved_bytes_total", M, "Bytes of these.", |m, v| {
        m.moved.iter().for_each(|moved| v.put(moved.bytes as f64));
    }),
    row(
        Gauge,
        "fansync_mirror_unmoved_files",
        &["mirror", "why"],
        "Files that stay in the source for now, as the last round found them: waiting, in_use, differing or unremovable.",
        |m, v| {
            if let Some(moved) = &m.moved {
                v.with(&["waiting"], moved.waiting as f64);
                v.with(&["in_use"], moved.in_use as f64);
                v.with(&["differing"], moved.differing as f64);
                v.with(&["unremovable"], moved.unremovable as f64);
            }
        },
    ),
    row(Counter, "fansync_events_total", M, "Events received from the kernel.", |m, v| v.put(m.events as f64)),
    row(Counter, "fansync_events_ignored_total", M, "Events outside of the source, or excluded.", |m, v| v.put(m.foreign as f64)),
    row(
        Counter,
        "fansync_reader_pauses_total",
        M,
        "How often reading waited as fansync was behind; events then wait in the kernel.",
        |m, v| v.put(m.reader_pauses as f64),
    ),
    row(Counter, "fansync_directory_lookups_total", M, "Directories looked up by handle.", |m, v| v.put(m.lookups as f64)),
    row(Gauge, "fansync_directories", M, "Directories known in the source.", |m, v| v.put(m.directories as f64)),
    row(
        Gauge,
        "fansync_muted_directories",
        M,
        "Busy directories that do not matter, whose events the kernel does not report.",
        |m, v| {
            v.put(m.muted_directories as f64);
        },
    ),
    row(Gauge, "fansync_followed_files", M, "Files sent while they are open for writing.", |m, v| v.put(m.following as f64)),
    row(Gauge, "fansync_watched_filesystems", &["mirror", "backend"], "Filesystems watched, by fanotify or inotify.", |m, v| {
        for backend in ["fanotify", "inotify"] {
            v.with(&[backend], m.watch.iter().filter(|w| w.backend == backend).count() as f64);
        }
    }),
    row(Gauge, "fansync_inotify_watches", M, "Directories watched by inotify.", |m, v| {
        v.put(m.watch.iter().map(|w| w.watches).max().unwrap_or(0) as f64);
    }),
    row(Gauge, "fansync_unwatched_subtrees", M, "Subtrees that cannot be watched and are compared periodically.", |m, v| {
        v.put(m.watch.iter().map(|w| w.unwatched.len()).sum::<usize>() as f64);
    }),
    row(
        Counter,
        "fansync_rescans_total",
        &["mirror", "cause"],
        "Losses of events, by cause; each is followed by a comparison, a failing path by another try.",
        |m, v| {
            for cause in Cause::ALL {
                v.with(&[cause.name()], m.lost.get(cause.name()).copied().unwrap_or(0) as f64);
            }
        },
    ),
];

const TARGET: &[Row<Target>] = &[
    row(Gauge, "fansync_target_state", &["mirror", "target", "state"], "1 for the state that the target is in.", |t, v| {
        v.one_of(TargetState::ALL.iter().map(|s| s.name()), t.state.name());
    }),
    row(
        Gauge,
        "fansync_target_lag_seconds",
        T,
        "Age of the oldest change that is not confirmed, beyond `delay`; 0 in sync.",
        |t, v| {
            v.put(t.lag_seconds);
        },
    ),
    row(
        Histogram,
        "fansync_target_latency_seconds",
        T,
        "From the event that made a path pending to its confirmation, for each path.",
        |t, v| v.histogram(&t.latency),
    ),
    row(Gauge, "fansync_target_pending_paths", T, "Paths that wait to be sent.", |t, v| v.put(t.pending as f64)),
    row(Gauge, "fansync_target_in_flight_paths", T, "Paths in running batches.", |t, v| v.put(t.in_flight as f64)),
    row(
        Counter,
        "fansync_target_merged_changes_total",
        T,
        "Changes that made no path more wait, as it waited already.",
        |t, v| v.put(t.merged as f64),
    ),
    row(Gauge, "fansync_target_failed_paths", T, "Paths that failed again and again.", |t, v| {
        v.put(t.failures.len() as f64 + t.failures_more as f64);
    }),
    row(Gauge, "fansync_target_held_deletions", T, "Deletions that wait until an administrator accepts them.", |t, v| {
        v.put(t.held_deletes as f64);
    }),
    row(
        Gauge,
        "fansync_target_last_success_timestamp_seconds",
        T,
        "When a batch was last confirmed, in seconds since 1970; 0 for never.",
        |t, v| v.put(t.last_success_unix),
    ),
    row(Counter, "fansync_target_batches_total", T, "Batches confirmed.", |t, v| v.put(t.batches as f64)),
    row(
        Counter,
        "fansync_target_rsync_runs_total",
        &["mirror", "target", "outcome"],
        "Runs of rsync that carried a batch, by how they ended.",
        |t, v| {
            let bad: u64 = t.bad_runs.values().sum();
            v.with(&["done"], t.runs.saturating_sub(bad) as f64);
            for class in CLASSES.into_iter().filter(|class| *class != "done") {
                v.with(&[class], t.bad_runs.get(class).copied().unwrap_or(0) as f64);
            }
        },
    ),
    row(Counter, "fansync_target_standby_hits_total", T, "Batches that left through a standby process.", |t, v| {
        v.put(t.standby_hits as f64);
    }),
    row(Gauge, "fansync_target_standby_processes", T, "Standby processes.", |t, v| v.put(t.standby as f64)),
    row(Counter, "fansync_target_sent_bytes_total", T, "Bytes sent, as rsync counts them.", |t, v| v.put(t.bytes_sent as f64)),
    row(Counter, "fansync_target_sent_files_total", T, "Files whose content was sent.", |t, v| v.put(t.files_sent as f64)),
    row(Counter, "fansync_target_deleted_names_total", T, "Names deleted on the target.", |t, v| v.put(t.deleted as f64)),
    row(
        Counter,
        "fansync_target_renames_total",
        &["mirror", "target", "how"],
        "Renames: made on the target, or sent whole after all.",
        |t, v| {
            v.with(&["on_target"], t.renames as f64);
            v.with(&["sent_whole"], t.renames_sent_whole as f64);
        },
    ),
    row(Counter, "fansync_target_coarsened_total", T, "How often max_pending made directories coarser.", |t, v| {
        v.put(t.coarsened as f64);
    }),
    row(Gauge, "fansync_target_connection_attempts", T, "Failed attempts to reach it since it was last up.", |t, v| {
        v.put(t.tries as f64);
    }),
    row(Gauge, "fansync_target_full_pass_running", T, "1 while the whole tree is being compared.", |t, v| {
        v.put(truth(t.reconcile.is_some()));
    }),
    row(Gauge, "fansync_target_verify_running", T, "1 while the target is compared with the source by verify.", |t, v| {
        v.put(truth(t.verify.as_ref().is_some_and(|v| v.running)));
    }),
    row(
        Gauge,
        "fansync_target_progress_entries",
        W,
        "Entries that work under way has done or found so far; 0 without any.",
        |t, v| {
            works(t, v, |p| p.files_done);
        },
    ),
    row(
        Gauge,
        "fansync_target_progress_expected_entries",
        W,
        "Entries that it will have done at its end; 0 while not known.",
        |t, v| {
            works(t, v, |p| p.files_total);
        },
    ),
    row(Gauge, "fansync_target_progress_bytes", W, "Content that it has sent, or read to compare it.", |t, v| {
        works(t, v, |p| p.bytes)
    }),
    row(
        Gauge,
        "fansync_target_epoch",
        T,
        "With roles: the epoch that is pushed as; 0 without roles and while fenced.",
        |t, v| {
            v.put(t.epoch as f64);
        },
    ),
    row(Gauge, "fansync_feed_sequence", T, "Of a feed: the last record that is stored.", |t, v| {
        t.feed.iter().for_each(|feed| v.put(feed.sequence as f64));
    }),
    row(Counter, "fansync_feed_record_bytes_total", T, "Of a feed: bytes of records stored.", |t, v| {
        t.feed.iter().for_each(|feed| v.put(feed.record_bytes as f64));
    }),
    row(Counter, "fansync_feed_batches_total", T, "Of a feed: records stored with an rsync batch.", |t, v| {
        t.feed.iter().for_each(|feed| v.put(feed.batches as f64));
    }),
    row(
        Counter,
        "fansync_feed_batches_failed_total",
        T,
        "Of a feed: batches that were not written, as the source changed meanwhile or rsync failed.",
        |t, v| {
            t.feed.iter().for_each(|feed| v.put(feed.batches_failed as f64));
        },
    ),
    row(Counter, "fansync_follow_batches_applied_total", T, "Of a follower: batches of records that were applied.", |t, v| {
        t.inline.iter().for_each(|inline| v.put(inline.applied as f64));
    }),
    row(
        Counter,
        "fansync_follow_batches_pulled_total",
        &["mirror", "target", "reason"],
        "Of a follower: batches of records whose paths were pulled instead.",
        |t, v| {
            if let Some(inline) = &t.inline {
                for reason in INLINE {
                    v.with(&[reason], inline.pulled.get(*reason).copied().unwrap_or(0) as f64);
                }
            }
        },
    ),
    row(
        Gauge,
        "fansync_feed_followers",
        &["mirror", "target", "state"],
        "Of a feed: followers in each state; silent ones have not reported for 30 s.",
        |t, v| {
            if let Some(feed) = &t.feed {
                for state in FOLLOWER {
                    v.with(&[state], feed.states.get(*state).copied().unwrap_or(0) as f64);
                }
            }
        },
    ),
    row(
        Gauge,
        "fansync_feed_behind_records",
        T,
        "Of a feed: records that the slowest follower lacks, silent ones aside.",
        |t, v| {
            t.feed.iter().for_each(|feed| v.put(feed.lag.records as f64));
        },
    ),
    row(
        Gauge,
        "fansync_feed_behind_seconds",
        T,
        "Of a feed: the age of the oldest record that a follower lacks, silent ones aside.",
        |t, v| {
            t.feed.iter().for_each(|feed| v.put(feed.lag.max_seconds));
        },
    ),
    row(
        Gauge,
        "fansync_feed_follower_lag_seconds",
        &["mirror", "target", "quantile"],
        "Of a feed: the same, at most so much at this part of the followers.",
        |t, v| {
            if let Some(feed) = &t.feed {
                v.with(&["0.5"], feed.lag.p50_seconds);
                v.with(&["0.9"], feed.lag.p90_seconds);
                v.with(&["0.99"], feed.lag.p99_seconds);
            }
        },
    ),
    row(
        Gauge,
        "fansync_feed_unread_seconds",
        T,
        "Of a feed: the age of the oldest record that a follower lacks, silent ones included.",
        |t, v| {
            t.feed.iter().for_each(|feed| v.put(feed.lag.any_seconds));
        },
    ),
    row(
        Gauge,
        "fansync_feed_kept_seconds",
        T,
        "Of a feed: for how long records are kept: keep, or what keep_bytes leaves of it.",
        |t, v| {
            t.feed.iter().for_each(|feed| v.put(feed.kept_seconds));
        },
    ),
    row(
        Gauge,
        "fansync_follower_sequence",
        T,
        "Of a follower: it holds everything up to this record; 0 while it compares.",
        |t, v| {
            t.position.iter().for_each(|at| v.put(at.sequence as f64));
        },
    ),
    row(Gauge, "fansync_follower_read_sequence", T, "Of a follower: the last record that it has read.", |t, v| {
        t.position.iter().for_each(|at| v.put(at.read as f64));
    }),
    row(
        Gauge,
        "fansync_target_verify_timestamp_seconds",
        T,
        "When it was last compared with the source (verify), in seconds since 1970; 0 for never.",
        |t, v| v.put(verified(t, |v| v.ended_unix)),
    ),
    row(Gauge, "fansync_target_verify_duration_seconds", T, "How long that took.", |t, v| v.put(verified(t, |v| v.seconds))),
    row(Gauge, "fansync_target_verify_differing_paths", T, "Paths that differed then, with those put right.", |t, v| {
        v.put(verified(t, |v| v.differing as f64))
    }),
    row(Gauge, "fansync_target_verify_repaired_paths", T, "Of these, paths that were put right.", |t, v| {
        v.put(verified(t, |v| v.repaired as f64))
    }),
    row(Gauge, "fansync_target_verify_incomplete", T, "1 if not everything could be compared.", |t, v| {
        v.put(verified(t, |v| truth(!v.error.is_empty())))
    }),
];

/// Of the work under way, by kind.
fn works(t: &Target, v: &mut Values<'_>, of: fn(&Progress) -> u64) {
    let verify = t.verify.as_ref().and_then(|verify| verify.progress.as_ref());
    let sum = |works: &mut dyn Iterator<Item = &Progress>| works.map(of).sum::<u64>() as f64;
    v.with(&["full_pass"], sum(&mut t.reconcile.iter()));
    v.with(&["pass"], sum(&mut t.passes.iter()));
    v.with(&["verify"], sum(&mut verify.into_iter()));
}

/// Of the last comparison; 0 when there was none.
fn verified(t: &Target, of: fn(&Verify) -> f64) -> f64 {
    t.verify.as_ref().filter(|v| v.ended_unix > 0.0).map_or(0.0, of)
}

const HOOK: &[Row<Hook>] = &[
    row(Gauge, "fansync_hook_state", &["mirror", "hook", "state"], "1 for the state that the hook is in.", |h, v| {
        v.one_of(HookState::ALL.iter().map(|s| s.name()), h.state.name());
    }),
    row(Gauge, "fansync_hook_pending_changes", H, "Changes that wait for their delivery.", |h, v| v.put(h.pending as f64)),
    row(Gauge, "fansync_hook_in_flight_changes", H, "Changes that are being delivered.", |h, v| v.put(h.in_flight as f64)),
    row(Gauge, "fansync_hook_waiting_changes", H, "Changes that one target holds and another one lacks.", |h, v| {
        v.put(h.waiting as f64);
    }),
    row(Counter, "fansync_hook_delivered_changes_total", H, "Changes delivered.", |h, v| v.put(h.delivered as f64)),
    row(Counter, "fansync_hook_failed_changes_total", H, "Changes given up.", |h, v| v.put(h.failed as f64)),
    row(Counter, "fansync_hook_dropped_changes_total", H, "Changes that did not fit into the queue.", |h, v| {
        v.put(h.dropped as f64)
    }),
    row(Counter, "fansync_hook_retries_total", H, "Deliveries that failed and are tried again.", |h, v| v.put(h.retries as f64)),
    row(
        Gauge,
        "fansync_hook_last_success_timestamp_seconds",
        H,
        "When something was last delivered, in seconds since 1970; 0 for never.",
        |h, v| v.put(h.last_success_unix),
    ),
];

/// States that a follower reports, and the one of those that do not report.
const FOLLOWER: &[&str] = &["idle", "syncing", "comparing", "paused", "held", "down", "config", "failing", "silent"];

/// Why a batch is not applied.
const INLINE: &[&str] = &["order", "excluded", "max_delete", "options", "older_rsync", "failed"];

const M: &[&str] = &["mirror"];
const T: &[&str] = &["mirror", "target"];
const W: &[&str] = &["mirror", "target", "work"];
const H: &[&str] = &["mirror", "hook"];

pub(super) fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mirrors = snapshot.mirrors.iter();
    let targets = mirrors.clone().flat_map(|m| m.targets.iter().map(|t| (vec![m.name.as_str(), t.name.as_str()], t)));
    let hooks = mirrors.clone().flat_map(|m| m.hooks.iter().map(|h| (vec![m.name.as_str(), h.name.as_str()], h)));
    [
        super::families(MIRROR, mirrors.map(|m| (vec![m.name.as_str()], m))),
        super::families(TARGET, targets),
        super::families(HOOK, hooks),
    ]
    .concat()
}

#[cfg(test)]
pub(super) fn all() -> Vec<super::Metric> {
    let (mirror, target, hook) =
        (MIRROR.iter().map(|r| r.metric), TARGET.iter().map(|r| r.metric), HOOK.iter().map(|r| r.metric));
    mirror.chain(target).chain(hook).collect()
}
