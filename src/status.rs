//! What the daemon reports of itself: one `Snapshot` type, printed as JSON or for a human.
//!
//! The JSON is published: `docs/status.schema.json` describes it, and [`FORMAT`] numbers it.

#[cfg(test)]
#[path = "../kernel-tests/fixture/schema.rs"]
mod schema;
mod human;
mod states;
mod verdict;
pub mod verify;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::progress::Progress;
use crate::text::{plural, span};
pub use states::{FirstPass, HookState, PathState, StartKind, TargetState};
pub(crate) use verdict::Health;
pub(crate) use verify::Verify;

/// The number of the JSON's format: another one when a field goes or comes to mean something else,
/// not when one is added.
const FORMAT: u32 = 1;

/// Everything, at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`FORMAT`].
    #[serde(default)]
    pub(crate) format: u32,
    /// `ok`, `behind` or `trouble`: see [`Health`].
    #[serde(default)]
    pub(crate) health: String,
    /// The same in one line.
    #[serde(default)]
    pub(crate) verdict: String,
    /// The name of the host that the daemon runs on; empty where it has none.
    #[serde(default)]
    pub(crate) host: String,
    /// The socket on which it answered; empty where it was asked in another way.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) socket: String,
    /// The daemon's version.
    pub(crate) version: String,
    /// Its process id.
    pub(crate) pid: u32,
    /// Seconds since it started.
    pub(crate) uptime_seconds: f64,
    /// Capabilities in force, as in capabilities(7).
    #[serde(default)]
    pub(crate) capabilities: Vec<String>,
    /// Why the configuration in force is not that of the file, with its place there; empty when it
    /// is.
    #[serde(default)]
    pub(crate) config_error: String,
    /// Lines of the log that could not be written.
    #[serde(default)]
    pub(crate) log_lost: crate::log::Lost,
    /// The bandwidth of all targets on other hosts; `None` where it is never bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bwlimit: Option<Bwlimit>,
    /// One per `[[mirror]]`.
    pub mirrors: Vec<Mirror>,
}

/// `bwlimit` and `bwlimit_at`, in bytes a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bwlimit {
    /// What holds now; `None`: no bound.
    pub(crate) bytes_per_second: Option<u64>,
    /// What rsync runs under way were given of it.
    pub(crate) given_bytes_per_second: u64,
    /// The time of day, local, at which another one holds; empty where there is none.
    pub(crate) until: String,
    /// That one; `None`: no bound.
    pub(crate) then_bytes_per_second: Option<u64>,
}

/// One mirror.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Mirror {
    pub(crate) name: String,
    /// The canonical watch root.
    pub(crate) source: String,
    /// The source as configured, where a symbolic link on it leads elsewhere; empty otherwise.
    #[serde(default)]
    pub(crate) given: String,
    /// How each filesystem is watched.
    pub(crate) watch: Vec<Watch>,
    /// The rsync that is run; empty for a mirror without targets.
    #[serde(default)]
    pub(crate) rsync: String,
    /// What is unsafe about that rsync; empty when nothing is known.
    #[serde(default)]
    pub(crate) rsync_unsafe: String,
    /// How events are read, and why so.
    pub(crate) reader: String,
    /// How often the reader waited because the ring was full, or all buffers were; events then wait
    /// in the kernel.
    #[serde(default)]
    pub(crate) reader_pauses: u64,
    /// Whether all marks (or watches) are in place.
    pub(crate) ready: bool,
    /// Why nothing is sent although targets may be well; empty when it is.
    pub(crate) held: String,
    /// Places below the source that are left alone.
    #[serde(default)]
    pub(crate) apart: Vec<Apart>,
    /// Why the state that a restart begins with is not saved; empty when it is.
    #[serde(default)]
    pub(crate) state_unsaved: String,
    /// For how long.
    #[serde(default)]
    pub(crate) state_unsaved_seconds: f64,
    /// Its engine has not answered for so long; the rest is from its last answer. 0 when it
    /// answers.
    #[serde(default)]
    pub(crate) unanswered_seconds: f64,
    /// Events decoded.
    pub events: u64,
    /// Events that made no path dirty: outside the root, or excluded.
    pub(crate) foreign: u64,
    /// Directories that were looked up by handle.
    pub(crate) lookups: u64,
    /// Walks over the source for files that changed and had no path.
    #[serde(default)]
    pub(crate) searches: u64,
    /// Directories known inside the root.
    pub(crate) directories: u64,
    /// Directories outside the root or left out that are muted in the kernel, as they were busy.
    pub(crate) muted_directories: u64,
    /// Files outside the root or left out whose writes are muted in the kernel
    /// (`follow_open_files`).
    pub(crate) muted_files: u64,
    /// Whether files are sent while they are open for writing.
    #[serde(default)]
    pub(crate) follow_open_files: bool,
    /// Why, or why not.
    #[serde(default)]
    pub(crate) follow_why: String,
    /// Files that are being written and are checked when `follow_interval` is over
    /// (`follow_open_files`).
    pub(crate) following: u64,
    /// Files known to have several names: a change through one outside is one of theirs.
    #[serde(default)]
    pub(crate) linked_files: u64,
    /// Walks over the source, or directories of it, for such files.
    #[serde(default)]
    pub(crate) linked_walks: u64,
    /// Files with several names; only with `hard_links`.
    pub(crate) links: Option<Links>,
    /// Losses of events, by cause.
    pub lost: BTreeMap<String, u64>,
    /// What went from the source; `None` without `remove_source_files`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moved: Option<Moved>,
    /// How far the first pass is.
    pub initial: FirstPass,
    /// How the mirror began.
    pub(crate) start: Start,
    /// One per target.
    pub targets: Vec<Target>,
    /// One per `[[mirror.hook]]`.
    #[serde(default)]
    pub(crate) hooks: Vec<Hook>,
}

/// `remove_source_files`: what went from the source, and what stays, as the last round found it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Files removed since the start.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// When the last one was, seconds since 1970; 0 for never.
    pub(crate) last_unix: f64,
    /// Files that are not old enough (`remove_after`), or not compared yet.
    pub(crate) waiting: u64,
    /// Files that a process had open, or that changed meanwhile.
    pub(crate) in_use: u64,
    /// Files that a target did not have as they are.
    pub(crate) differing: u64,
    /// Files that could not be removed.
    pub(crate) unremovable: u64,
    /// The source has more than one round looks at: the last four are of a part of it.
    pub(crate) more: bool,
}

/// A place below the source that is left alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Apart {
    /// Relative to the source.
    pub(crate) path: String,
    pub(crate) why: String,
    /// What lies there waits; else it does not belong to the mirror.
    pub(crate) held: bool,
}

/// What is known of hard links.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Links {
    /// Files with several names.
    pub(crate) files: u64,
    /// Their names.
    pub(crate) names: u64,
    /// Walks over the source in search of them.
    pub(crate) walks: u64,
    /// Files with too many names to be kept together: each name is sent as a file of its own.
    #[serde(default)]
    pub(crate) apart: u64,
}

/// How a mirror began, and what that took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Start {
    pub(crate) how: StartKind,
    /// Why not by a walk; per target where only some need a comparison. Empty for a walk for all.
    pub(crate) why: String,
    /// The walk goes on.
    pub(crate) walking: bool,
    /// How far it is while it goes on.
    #[serde(default)]
    pub(crate) progress: Option<Progress>,
    /// The walk: directories read.
    pub(crate) directories: u64,
    /// The walk: names read.
    pub(crate) entries: u64,
    /// The walk: paths found that may differ on a target, a subtree being one.
    pub(crate) found: u64,
    /// The walk: how long it took.
    pub(crate) seconds: f64,
}

impl Start {
    /// In one line.
    fn human(&self) -> String {
        let walked = || {
            format!(
                "{} and {} looked at, {} found, {}",
                plural(self.directories, "directory"),
                plural(self.entries, "name"),
                plural(self.found, "path"),
                if self.walking { "still walking".into() } else { span(self.seconds) }
            ) + &self.progress.as_ref().map(|p| format!(" ({})", p.figures())).unwrap_or_default()
        };
        match (self.how, self.why.as_str()) {
            (StartKind::Walk, "") => format!("walk over the source: {}", walked()),
            (StartKind::Walk, why) => format!("walk over the source: {}; {why}", walked()),
            (StartKind::Comparison, why) => format!("comparison of the whole tree: {why}"),
            (StartKind::None | StartKind::Undecided, why) => format!("nothing compared: {why}"),
        }
    }
}

/// How one filesystem is watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watch {
    /// Where it is mounted (or the root).
    pub(crate) mount: String,
    /// `fanotify` or `inotify`.
    pub(crate) backend: String,
    pub(crate) why: String,
    /// inotify: directories watched.
    pub(crate) watches: u64,
    /// inotify: subtrees that could not be watched and are compared again and again instead.
    pub(crate) unwatched: Vec<String>,
    /// inotify: what raises no event here, and what is done about it.
    #[serde(default)]
    pub(crate) unreported: String,
}

impl Mirror {
    /// The long work that goes on, each with whom it concerns.
    pub(crate) fn works(&self) -> Vec<(String, Progress)> {
        let mut out: Vec<(String, Progress)> = self.start.progress.iter().map(|p| (self.name.clone(), p.clone())).collect();
        for t in &self.targets {
            let verify = t.verify.iter().filter_map(|v| v.progress.as_ref());
            let works = t.reconcile.iter().chain(&t.passes).chain(verify);
            out.extend(works.map(|p| (format!("{}/{}", self.name, t.name), p.clone())));
        }
        out
    }
}

/// What to do about a source that is held.
const BRING_BACK: &str =
    "Bring the source back as it was and sending goes on; if it is meant as it is now: `fansync resume --accept-source`";

/// What to do about a source that was missing at the start.
const MAKE_SOURCE: &str = "Mount or make the source, and the mirror begins by itself; if the path is wrong, change it and reload";

/// A change feed, and who follows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Feed {
    /// When the stream was made, in nanoseconds since 1970; 0 while it is not known.
    pub(crate) stream: u64,
    /// That of the publisher, in hexadecimal.
    pub(crate) incarnation: String,
    /// The last record that is stored.
    pub(crate) sequence: u64,
    /// Records stored since the start.
    pub(crate) records: u64,
    /// Bytes of them.
    pub(crate) record_bytes: u64,
    /// For how long records are kept, in seconds: `keep`, or what `keep_bytes` leaves of it.
    #[serde(default)]
    pub(crate) kept_seconds: f64,
    /// Records among them that hold an rsync batch.
    #[serde(default)]
    pub(crate) batches: u64,
    /// Records that were to hold one, and do not: the source changed meanwhile, or rsync failed.
    #[serde(default)]
    pub(crate) batches_failed: u64,
    /// How many followers are known.
    pub(crate) followers_known: u64,
    /// How many of them are in each state.
    #[serde(default)]
    pub(crate) states: BTreeMap<String, u64>,
    /// How far behind they are.
    #[serde(default)]
    pub(crate) lag: FollowerLag,
    /// The followers, the silent ones and the slowest first; at most 1,000.
    pub(crate) followers: Vec<Follower>,
    /// The others, which only a barrier asks for.
    #[serde(skip)]
    pub(crate) rest: Vec<Follower>,
}

/// How far behind the followers of a feed are. But for the last number, silent ones do not count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FollowerLag {
    /// Records that the slowest one lacks.
    pub(crate) records: u64,
    /// The age of the oldest record that a follower does not hold; half of them are below.
    pub(crate) p50_seconds: f64,
    pub(crate) p90_seconds: f64,
    pub(crate) p99_seconds: f64,
    pub(crate) max_seconds: f64,
    /// That of the slowest one, the silent ones included.
    pub(crate) any_seconds: f64,
}

impl Feed {
    /// Followers that are listed.
    const SHOWN: usize = 1_000;

    /// Counts these followers, and lists the slowest of them.
    pub(crate) fn of(self, mut followers: Vec<Follower>) -> Feed {
        let mut states: BTreeMap<String, u64> = BTreeMap::new();
        followers.iter().for_each(|f| *states.entry(f.state.clone()).or_default() += 1);
        let all = followers.iter().map(|f| f.lag_seconds);
        let any_seconds = all.fold(0.0, f64::max);
        let reporting = || followers.iter().filter(|f| f.state != SILENT);
        let records = reporting().map(|f| f.behind).max().unwrap_or(0);
        let mut lags: Vec<f64> = reporting().map(|f| f.lag_seconds).collect();
        lags.sort_by(f64::total_cmp);
        // The smallest that so many in a hundred do not exceed.
        let at = |percent: usize| lags.get((lags.len() * percent).div_ceil(100).max(1) - 1).copied().unwrap_or(0.0);
        let lag = FollowerLag {
            records,
            p50_seconds: at(50),
            p90_seconds: at(90),
            p99_seconds: at(99),
            max_seconds: at(100),
            any_seconds,
        };
        followers.sort_by_key(|f| std::cmp::Reverse((f.state == SILENT, f.failed > 0, f.behind)));
        let followers_known = followers.len() as u64;
        let rest = followers.split_off(Feed::SHOWN.min(followers.len()));
        Feed { followers_known, states, lag, followers, rest, ..self }
    }

    /// Lists all of them.
    pub(crate) fn list_all(&mut self) {
        self.followers.append(&mut self.rest);
    }
}

/// The state of a follower that has not reported for a while.
pub(crate) const SILENT: &str = "silent";

/// Of a follower: where it is in the feed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The feed, with its servers.
    pub(crate) feed: String,
    /// The name that it reports under.
    pub(crate) follower: String,
    /// It holds everything up to this record; 0 while it compares.
    pub(crate) sequence: u64,
    /// The last record that it has read.
    pub(crate) read: u64,
}

/// A follower of a feed, by its last report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Follower {
    pub(crate) name: String,
    /// `idle`, `syncing`, `comparing`, `paused`, `held`, `down`, `failing`; `silent` where it has
    /// reported nothing for 30 s.
    pub(crate) state: String,
    /// Why.
    pub(crate) reason: String,
    /// It holds everything up to this record; 0 while it compares.
    pub(crate) sequence: u64,
    /// Records that it does not hold.
    pub(crate) behind: u64,
    /// The age of the oldest of these.
    pub(crate) lag_seconds: f64,
    /// Paths that it could not pull, which its position does not count.
    #[serde(default)]
    pub(crate) failed: u64,
    /// The age of its last report.
    pub(crate) reported_seconds: f64,
    /// Where it pulls from.
    pub(crate) upstream: String,
    /// Of a relay: where it serves its tree.
    #[serde(default)]
    pub(crate) serve: String,
    /// Its version of fansync.
    pub(crate) version: String,
}

/// What a follower made of the batches in records, since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inline {
    /// Batches that were applied.
    pub(crate) applied: u64,
    /// Batches whose paths were pulled instead, by reason: `order` (something else concerned their
    /// paths), `excluded`, `max_delete`, `options`, `older_rsync`, `failed`.
    pub(crate) pulled: BTreeMap<String, u64>,
}

/// One target.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Target {
    pub(crate) name: String,
    /// Where it is, without passwords.
    pub(crate) url: String,
    /// What it does, or why it does nothing.
    pub(crate) state: TargetState,
    /// It holds every change, and nothing failed or waits for a person; `None` until
    /// [`Snapshot::judged`], as the mirror decides, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) in_sync: Option<bool>,
    /// Why it is not `idle` or `syncing`.
    pub(crate) reason: String,
    /// What an administrator can do about that; empty when there is nothing.
    #[serde(default)]
    pub(crate) advice: String,
    /// Distinct paths that wait to be sent.
    pub pending: u64,
    /// Some of them, the oldest of these first.
    #[serde(default)]
    pub(crate) pending_paths: Vec<Pending>,
    /// Changes that made no path more wait, as it waited already.
    #[serde(default)]
    pub(crate) merged: u64,
    /// The epoch that is pushed as; 0 where no roles are honoured, and while fenced.
    #[serde(default)]
    pub(crate) epoch: u64,
    /// What runs replace on the target is kept there: the first pass of an epoch is not through.
    #[serde(default)]
    pub(crate) keeps_aside: bool,
    /// Paths in flight.
    pub(crate) in_flight: u64,
    /// Since when it is paused, seconds since 1970; 0 when it is not.
    pub(crate) paused_unix: f64,
    /// Age of the oldest change that is not confirmed, beyond `delay_seconds`.
    pub(crate) lag_seconds: f64,
    /// The least time that a change waits (`delay`); 0 without.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) delay_seconds: f64,
    /// Seconds until what waits for that leaves; 0 when nothing does.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) leaves_seconds: f64,
    /// How long changes take until the target holds them.
    #[serde(default)]
    pub(crate) latency: Latency,
    /// When a batch was last confirmed, seconds since 1970; 0 for never.
    pub(crate) last_success_unix: f64,
    /// Seconds until the target is tried again; 0 when it is up.
    pub(crate) retry_seconds: f64,
    /// It is being tried at this moment.
    #[serde(default)]
    pub(crate) trying: bool,
    /// Failed attempts to reach it, since it was last up.
    pub(crate) tries: u64,
    /// Batches confirmed.
    pub(crate) batches: u64,
    /// rsync runs that carried a batch.
    pub(crate) runs: u64,
    /// Runs that did not end well, by class.
    pub(crate) bad_runs: BTreeMap<String, u64>,
    /// Batches that left through a standby process.
    pub(crate) standby_hits: u64,
    /// Standby processes.
    pub(crate) standby: u64,
    /// Files whose content was sent.
    pub(crate) files_sent: u64,
    /// Names deleted on the target.
    pub(crate) deleted: u64,
    /// Bytes on the wire, as rsync counts them.
    pub(crate) bytes_sent: u64,
    /// Renames that the target carried out itself.
    pub(crate) renames: u64,
    /// Renames whose content was sent all the same: something changed meanwhile, or the target
    /// could not.
    pub(crate) renames_sent_whole: u64,
    /// How often the bound on pending paths made directories coarser.
    pub(crate) coarsened: u64,
    /// Progress of a running pass over the whole tree.
    pub(crate) reconcile: Option<Progress>,
    /// Progress of the other runs that compare something, and of all that take long.
    #[serde(default)]
    pub(crate) passes: Vec<Progress>,
    /// Why nothing is deleted there although the mirror deletes; empty when it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) deletes_off: String,
    /// What is weaker there because its rsync, or this host's, is older.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) weaker: Vec<String>,
    /// Deletions that wait until an administrator accepts them.
    pub(crate) held_deletes: u64,
    /// Why; empty when there are none.
    pub(crate) held_reason: String,
    /// Paths that failed again and again.
    pub(crate) failures: Vec<Failure>,
    /// Of a feed: where it is, and its followers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) feed: Option<Feed>,
    /// Of a follower: where it is in the feed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<Position>,
    /// Of a follower: what it made of the batches in records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inline: Option<Inline>,
    /// Failures that did not fit into the list.
    pub(crate) failures_more: u64,
    /// The last words of a run that were not understood; what they were about was compared once
    /// more. Empty for none.
    #[serde(default)]
    pub(crate) unknown_words: String,
    pub(crate) last_batch: String,
    /// The last comparison with the source, or the one that runs.
    #[serde(default)]
    pub(crate) verify: Option<Verify>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(seconds: &f64) -> bool {
    *seconds == 0.0
}

/// How long changes take, from the event that made a path pending to its confirmation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// What half of the last paths did not exceed; 0 for none.
    pub(crate) p50_seconds: f64,
    /// The same of 99 in a hundred.
    pub(crate) p99_seconds: f64,
    /// How many paths these two are of.
    pub(crate) recent: u64,
    /// A histogram of all since the start.
    pub(crate) buckets: Vec<Bucket>,
    /// Paths since the start.
    pub(crate) paths: u64,
    /// What they took together.
    pub(crate) sum_seconds: f64,
}

/// Paths that took at most so long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bucket {
    /// The bound.
    pub(crate) seconds: f64,
    /// Those of smaller buckets included.
    pub(crate) paths: u64,
}

/// A path that waits to be sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pending {
    /// Escaped for display; `.` is the source itself.
    pub(crate) path: String,
    /// `entry`, `contents` (one level of a directory) or `subtree`.
    pub(crate) kind: String,
    /// How long it has been waiting.
    pub(crate) seconds: f64,
}

/// A path that does not go through.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Escaped for display.
    pub(crate) path: String,
    /// rsync's words.
    pub(crate) reason: String,
    /// Failed attempts.
    pub(crate) tries: u32,
    /// Seconds until the next one.
    pub(crate) retry_seconds: f64,
}

/// One hook.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Hook {
    pub(crate) name: String,
    /// `command`, `socket`, `http` or `cdn`.
    pub(crate) kind: String,
    /// What it does.
    pub(crate) state: HookState,
    /// Why it is `retrying`.
    pub(crate) reason: String,
    /// Seconds until it is tried again.
    pub(crate) retry_seconds: f64,
    /// Changes that wait for their delivery.
    pub(crate) pending: u64,
    /// Changes that are being delivered.
    pub(crate) in_flight: u64,
    /// Changes that one target holds and another one lacks.
    pub(crate) waiting: u64,
    /// Changes delivered.
    pub(crate) delivered: u64,
    /// Changes given up.
    pub(crate) failed: u64,
    /// Deliveries that failed and were, or are to be, tried again.
    pub(crate) retries: u64,
    /// Changes that did not fit into the queue.
    pub(crate) dropped: u64,
    /// When something was last delivered, seconds since 1970; 0 for never.
    pub(crate) last_success_unix: f64,
    /// Changes that keep failing, then those given up, the last first.
    pub(crate) failures: Vec<Failure>,
    /// Failures that did not fit into the list.
    pub(crate) failures_more: u64,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A mirror with a target that is down, and a hook that does not get through.
    pub(crate) fn snapshot() -> Snapshot {
        let target = Target {
            name: "backup".into(),
            url: "rsync://b/data".into(),
            state: TargetState::Down,
            reason: "connection refused".into(),
            lag_seconds: 75.0,
            latency: Latency {
                p50_seconds: 0.004,
                p99_seconds: 1.5,
                recent: 40,
                buckets: vec![Bucket { seconds: 0.01, paths: 39 }, Bucket { seconds: 1.0, paths: 39 }],
                paths: 40,
                sum_seconds: 1.6,
            },
            retry_seconds: 4.0,
            pending: 3,
            failures: vec![Failure { path: "a\\x0a".into(), reason: "denied".into(), tries: 4, retry_seconds: 0.5 }],
            ..Target::default()
        };
        let mirror = Mirror {
            name: "data".into(),
            source: "/data".into(),
            given: String::new(),
            watch: vec![],
            reader: "io_uring".into(),
            rsync: "3.5.0".into(),
            rsync_unsafe: String::new(),
            reader_pauses: 4,
            ready: true,
            held: String::new(),
            apart: Vec::new(),
            state_unsaved: String::new(),
            state_unsaved_seconds: 0.0,
            unanswered_seconds: 0.0,
            events: 1,
            foreign: 0,
            lookups: 0,
            searches: 0,
            directories: 1,
            muted_directories: 2,
            muted_files: 0,
            follow_open_files: true,
            follow_why: "NFS exports /srv (/var/lib/nfs/etab)".into(),
            following: 1,
            linked_files: 0,
            linked_walks: 0,
            links: None,
            moved: Some(Moved { files: 1, bytes: 2 << 20, waiting: 5, in_use: 2, more: true, ..Moved::default() }),
            lost: [("queue_overflow".into(), 2), ("failing_path".into(), 5)].into(),
            initial: FirstPass::Done,
            start: Start { how: StartKind::Walk, directories: 7, entries: 90, found: 3, seconds: 0.25, ..Start::default() },
            targets: vec![target],
            hooks: vec![Hook {
                name: "purge".into(),
                kind: "cdn".into(),
                state: HookState::Retrying,
                reason: "refused".into(),
                retry_seconds: 3.0,
                dropped: 7,
                ..Hook::default()
            }],
        };
        Snapshot {
            format: FORMAT,
            socket: "/run/fansync/status.sock".into(),
            bwlimit: Some(Bwlimit { bytes_per_second: Some(2 << 20), given_bytes_per_second: 3 << 19, ..Bwlimit::default() }),
            host: "web1".into(),
            version: "1".into(),
            pid: 1,
            uptime_seconds: 0.5,
            capabilities: vec!["CAP_SYS_ADMIN".into()],
            config_error: "/etc/fansync.toml:4:1: unknown key".into(),
            log_lost: crate::log::Lost { lines: 1, reason: "No space left on device".into(), failing: true },
            mirrors: vec![mirror],
            ..Snapshot::default()
        }
    }

    /// One that has something in every place.
    fn full() -> Snapshot {
        let mut s = snapshot();
        let p = Progress { what: "comparing".into(), eta_seconds: Some(3.0), ..Progress::default() };
        let m = &mut s.mirrors[0];
        m.watch = vec![Watch {
            mount: "/data".into(),
            backend: "inotify".into(),
            why: String::new(),
            watches: 3,
            unwatched: vec!["a".into()],
            unreported: String::new(),
        }];
        m.apart = vec![Apart { path: "proc".into(), why: "procfs".into(), held: false }];
        m.links = Some(Links { files: 1, names: 2, walks: 1, apart: 0 });
        m.start.progress = Some(p.clone());
        m.hooks[0].failures = m.targets[0].failures.clone();
        let t = &mut m.targets[0];
        t.pending_paths = vec![Pending { path: "a".into(), kind: "entry".into(), seconds: 1.5 }];
        t.bad_runs = [("target_down".to_owned(), 3)].into();
        (t.delay_seconds, t.leaves_seconds) = (60.0, 7.5);
        (t.deletes_off, t.weaker) = ("its rsync cannot".into(), vec!["times".into()]);
        t.feed = Some(Feed::default().of(vec![Follower::default()]));
        t.position = Some(Position::default());
        t.inline = Some(Inline { applied: 1, pulled: [("order".to_owned(), 1)].into() });
        (t.reconcile, t.passes) = (Some(p.clone()), vec![p.clone()]);
        t.verify = Some(Verify { progress: Some(p), paths: vec!["a".into()], ..Verify::default() });
        s.judged()
    }

    #[test]
    fn the_published_schema_is_that_of_what_is_printed() {
        let full = serde_json::to_value(full()).unwrap();
        let used = schema::check(&full);
        assert_eq!(schema::unused(&used), Vec::<String>::new(), "the schema has what the status does not");
        let least = serde_json::to_value(Snapshot::default().judged()).unwrap();
        schema::check(&least);
        assert_eq!(full["format"], FORMAT);
    }

    #[test]
    fn a_status_that_is_not_as_published_is_noticed() {
        let good = serde_json::to_value(full()).unwrap();
        let target = "/mirrors/0/targets/0";
        for (place, change) in [
            ("/mirrors/0", serde_json::json!({ "name": 3 })),
            (target, serde_json::json!({ "state": "asleep" })),
            (target, serde_json::json!({ "lag_seconds": -1.0 })),
            (target, serde_json::json!({ "new_field": 1 })),
            ("", serde_json::json!({ "format": 2 })),
        ] {
            let mut bad = good.clone();
            let at = bad.pointer_mut(place).and_then(|v| v.as_object_mut()).expect("an object");
            at.extend(change.as_object().expect("an object").clone());
            assert!(std::panic::catch_unwind(|| schema::check(&bad)).is_err(), "{place}: {change}");
        }
        let mut bad = good;
        bad.pointer_mut(target).and_then(|v| v.as_object_mut()).map(|t| t.remove("state"));
        assert!(std::panic::catch_unwind(|| schema::check(&bad)).is_err(), "a field that is missing");
    }

    #[test]
    fn a_human_sees_what_is_wrong() {
        let text = snapshot().human();
        for want in [
            "CONFIG /etc/fansync.toml:4:1: unknown key",
            "bwlimit 2.0 MiB a second over all targets on other hosts, 1.5 MiB of it given to runs\n",
            "LOG    1 line not written (No space left on device); the log cannot be written",
            "state   down: connection refused (next try in 4.0s)",
            "lag     1m 15s; 3 pending",
            "latency p50 4ms, p99 1.5s of the last 40 paths",
            "moved  1 file with 2.0 MiB removed from the source; at least 5 waiting, 2 in use or changed, 0 different on a target\n",
            "queue_overflow: 2 (compared again)",
            "failing_path: 5 (tried again)",
            "the reader waited 4 times",
            "muted  2 directories and 0 files outside or excluded; 1 file followed",
            "start  walk over the source: 7 directories and 90 names looked at, 3 paths found, 250ms",
            "FAILED  a\\x0a",
            "state   retrying: refused (next try in 3.0s)",
            "LOST    7 changes",
        ] {
            assert!(text.contains(want), "{want:?} is not in\n{text}");
        }
    }
}
