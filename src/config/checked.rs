//! The configuration that the daemon runs on: every value present, every rule held.
//!
//! Serialised it is the effective configuration: TOML that reads back as an equal value. All
//! defaults are here, in the `Default` and `new` functions.

mod choices;
mod feed;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::ser::{Error as _, SerializeStruct};
use serde::{Serialize, Serializer};

use super::bwlimit::BwlimitAt;
use super::hook::Hook;
use super::origins::Origins;
use super::patterns::PatternFiles;
use super::units;
use crate::budget::{Bounds, Hours};
use crate::daily::TimeOfDay;
use crate::filter::Filter;
use crate::location::{Location, Reach};
use crate::log::LogConfig;
use crate::sys::priority::{IoClass, Priority};

pub use choices::Compress;
pub(crate) use choices::{Delete, FollowOpenFiles, Initial, IoNice, MaxDelete, Watch};
pub(crate) use feed::{Feed, Follow, Login};
use feed::{FeedKeys, FollowKeys};

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[daemon]`.
    pub daemon: Daemon,
    /// `[[mirror]]` and behind them `[[follow]]`, at least one, with different names.
    pub mirrors: Vec<Mirror>,
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mirrors: Vec<&Mirror> = self.mirrors.iter().filter(|m| m.follow.is_none()).collect();
        let mut follows = Vec::new();
        for mirror in &self.mirrors {
            follows.extend(FollowKeys::of::<S::Error>(mirror)?);
        }
        let mut out = serializer.serialize_struct("Config", 3)?;
        out.serialize_field("daemon", &self.daemon)?;
        if !mirrors.is_empty() {
            out.serialize_field("mirror", &mirrors)?;
        }
        if !follows.is_empty() {
            out.serialize_field("follow", &follows)?;
        }
        out.end()
    }
}

/// What concerns the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Daemon {
    /// Where pending work survives a restart. Absolute.
    pub(crate) state_dir: PathBuf,
    /// The socket that `status` and `flush` speak to. Absolute.
    pub(crate) status_socket: PathBuf,
    /// A group whose members may read the status through that socket, and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) socket_group: Option<String>,
    /// How long SIGTERM waits for runs in flight.
    #[serde(serialize_with = "units::serialize")]
    pub(crate) stop_timeout: Duration,
    /// rsync runs at the same time over all mirrors, those that wait connected included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_runs: Option<usize>,
    /// Bytes a second over all targets on other hosts.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "units::serialize_bytes")]
    pub(crate) bwlimit: Option<u64>,
    /// The same for parts of the day, which do not overlap.
    pub(crate) bwlimit_at: Vec<BwlimitAt>,
    /// Where metrics and the status page are served, if at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Whether that has the page, which shows names of files to every user of this host.
    pub(crate) page: bool,
    /// A file of metrics for node_exporter's textfile collector, if there is to be one. Absolute,
    /// ends in `.prom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics_file: Option<PathBuf>,
    /// How often that file is written.
    #[serde(serialize_with = "units::serialize")]
    pub(crate) metrics_interval: Duration,
    /// `[daemon.log]`.
    pub(crate) log: LogConfig,
}

/// One source and its targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Letters, digits, `-`, `_`, `.`.
    pub(crate) name: String,
    /// The tree. Absolute; need not exist yet.
    pub(crate) source: PathBuf,
    /// When what is gone from the source goes from the targets.
    pub(crate) delete: Delete,
    /// What would delete more on a target is held until an administrator accepts it.
    pub(crate) max_delete: Option<MaxDelete>,
    /// A target that no run of this mirror has filled keeps what only it has, where that is more
    /// than this part of it.
    pub(crate) first_max_delete: MaxDelete,
    /// Larger files are left out, in bytes; what size they say that they have counts, whatever they
    /// take of the disk.
    pub(crate) max_file_size: Option<u64>,
    /// Files are removed from the source once every target has them.
    pub(crate) remove_source_files: bool,
    /// How long ago a file has to have changed before that.
    pub(crate) remove_after: Duration,
    /// The source may lose everything at one blow without stopping the mirror.
    pub(crate) allow_empty: bool,
    /// What happens at the start.
    pub initial: Initial,
    /// Where events come from.
    pub(crate) watch: Watch,
    /// Whether the role marks of source and targets decide who may push.
    pub(crate) roles: bool,
    /// Nothing runs unless rsync can be kept within the source.
    pub(crate) require_confined: bool,
    /// Renames are carried out on the targets instead of sending their content.
    pub(crate) send_renames: bool,
    /// Whether files are sent while they are open for writing.
    pub(crate) follow_open_files: FollowOpenFiles,
    /// The least time between two looks at a file that is being written.
    pub(crate) follow_interval: Duration,
    /// What belongs to the mirror.
    pub filter: Filter,
    /// Which filesystems below the source belong to the mirror.
    pub(crate) mounts: Mounts,
    /// Where its patterns are written.
    pub(crate) origins: Origins,
    /// Files whose patterns are part of `filter`.
    pub(crate) pattern_files: PatternFiles,
    /// What is carried over beside content, owner, mode and times.
    pub(crate) extras: Extras,
    /// Time between full passes, if there are to be any.
    pub(crate) full_every: Option<Duration>,
    /// Times of day of such passes.
    pub(crate) full_at: Vec<TimeOfDay>,
    /// What those passes leave alone besides: patterns of rsync.
    pub(crate) full_exclude: Vec<String>,
    /// Time between comparisons in the background, if there are to be any.
    pub(crate) verify_every: Option<Duration>,
    /// Times of day of such comparisons.
    pub(crate) verify_at: Vec<TimeOfDay>,
    /// They read files of equal size and times, too.
    pub(crate) verify_checksum: bool,
    /// What they find is put right.
    pub(crate) verify_repair: bool,
    /// `[mirror.events]`.
    pub events: Events,
    /// Where a record of the paths that failed for good is kept. Absolute.
    pub(crate) fail_log: Option<PathBuf>,
    /// `[mirror.batch]`.
    pub(crate) batch: Batch,
    /// The rsync program: absolute, or a name to look up in `PATH`.
    pub(crate) rsync: PathBuf,
    /// `[mirror.kernel]`.
    pub(crate) kernel: KernelSwitches,
    /// `[[mirror.target]]`, with different names; at least one, or else at least one hook.
    pub targets: Vec<Target>,
    /// `[[mirror.hook]]`, with different names.
    pub(crate) hooks: Vec<Hook>,
    /// Of a `[[follow]]`: the feed that it follows. The `source` is the directory then, and the one
    /// target is the upstream that is pulled from.
    pub(crate) follow: Option<Follow>,
}

/// What is carried over beside content, owner, mode and times; keys of the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extras {
    /// Which names are one file (`-H`).
    pub(crate) hard_links: bool,
    /// Extended attributes (`-X`).
    pub(crate) xattrs: bool,
    /// Access control lists (`-A`).
    pub(crate) acls: bool,
    /// Holes in files stay holes (`-S`).
    pub(crate) sparse: bool,
}

/// Filesystems below the source that do not belong to the mirror, and those that do although they
/// are none by default. Each is a type, or a place: a path from the source, with a slash in front.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Mounts {
    /// Left alone.
    pub(crate) skip: Vec<String>,
    /// Mirrored.
    pub(crate) take: Vec<String>,
}

/// How changes are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Batch {
    /// Cadence at which the kernel's queue is drained once it is busy.
    #[serde(serialize_with = "units::serialize")]
    pub(crate) settle: Duration,
    /// The longest time a change may wait for others to join it.
    #[serde(serialize_with = "units::serialize")]
    pub(crate) max_delay: Duration,
    /// The least time a change waits, if it is to.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "units::serialize_some")]
    pub(crate) delay: Option<Duration>,
    /// How long a file that was created and not closed is held back.
    #[serde(serialize_with = "units::serialize")]
    pub(crate) create_hold: Duration,
    /// Paths in one rsync run.
    pub(crate) max_paths: usize,
    /// Bytes of the files in one rsync run, if there is a bound.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "units::serialize_bytes")]
    pub(crate) max_bytes: Option<u64>,
    /// Pending paths per target; past it, directories stand for what is below them.
    pub(crate) max_pending: usize,
}

/// Which changes are followed as they come. What is not followed is left to comparisons
/// (`full_every`, a start, a loss of events).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Events {
    /// Files and directories that are deleted.
    pub(crate) delete: bool,
    /// Directories that are made, and all that happens below them.
    pub(crate) create_folder: bool,
    /// Files, links and nodes that are made; beside `close_write`, what is never written: links,
    /// FIFOs.
    pub(crate) create_file: bool,
    /// Files that were written.
    pub(crate) close_write: bool,
    /// Old names of what is renamed or moved away.
    pub(crate) move_from: bool,
    /// New names of what is renamed or moved in.
    pub(crate) move_to: bool,
    /// Mode, owner, times, extended attributes.
    pub(crate) attrib: bool,
}

/// Kernel features that can be switched off, to find faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct KernelSwitches {
    /// `FAN_UNLIMITED_QUEUE`.
    pub(crate) unlimited_queue: bool,
    /// `FAN_RENAME`.
    pub(crate) rename_events: bool,
    /// io_uring for reading events and driving rsync.
    pub(crate) io_uring: bool,
}

/// One copy to keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Letters, digits, `-`, `_`, `.`.
    pub(crate) name: String,
    /// Where it lies.
    #[serde(rename = "url")]
    pub(crate) location: Location,
    /// The rsync daemon's password. Absolute; only for [`Location::Daemon`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password_file: Option<PathBuf>,
    /// Instead of the mirror's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_delete: Option<MaxDelete>,
    /// Instead of the mirror's `batch.delay`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "units::serialize_some")]
    pub(crate) delay: Option<Duration>,
    /// Compression on the wire.
    pub(crate) compress: Compress,
    /// More rsync options, each of them judged harmless.
    pub(crate) args: Vec<String>,
    /// Runs at the same time for large batches.
    pub(crate) jobs: usize,
    /// Runs at the same time for small batches, beside `jobs`.
    pub(crate) small_jobs: usize,
    /// rsync processes that wait connected.
    pub(crate) standby: usize,
    /// Age at which a waiting process is replaced.
    #[serde(serialize_with = "units::serialize")]
    pub(crate) standby_max_age: Duration,
    /// rsync's `--timeout`; whole seconds.
    #[serde(serialize_with = "units::serialize")]
    pub(crate) timeout: Duration,
    /// Time to connect; whole seconds.
    #[serde(serialize_with = "units::serialize")]
    pub(crate) connect_timeout: Duration,
    /// A run without any progress for this long is ended. More than `timeout`.
    #[serde(serialize_with = "units::serialize")]
    pub(crate) watchdog: Duration,
    /// The first wait after a failure.
    #[serde(serialize_with = "units::serialize")]
    pub(crate) retry_min: Duration,
    /// The longest wait after failures.
    #[serde(serialize_with = "units::serialize")]
    pub(crate) retry_max: Duration,
    /// The longest wait of a path that failed for good; `retry_max` if not given.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "units::serialize_some")]
    pub(crate) retry_failed: Option<Duration>,
    /// Added to the nice value of runs over large batches, and of comparisons.
    pub(crate) nice: u8,
    /// The class of these for this host's disks.
    pub(crate) ionice: IoNice,
    /// The remote shell and its words, as in `ssh -p 2222 -i key`; only for what is behind one.
    /// `ssh` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ssh: Option<String>,
    /// The rsync program on the other side; only for what is behind a remote shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rsync_path: Option<String>,
    /// Where what runs replace or delete is kept, as the receiver names it. Absolute; in a module,
    /// from the module's own directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backup_dir: Option<PathBuf>,
    /// How long it is kept there; for ever if not given. At least a day.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "units::serialize_some")]
    pub(crate) backup_keep: Option<Duration>,
    /// Of a feed, and of no other.
    #[serde(skip)]
    pub(crate) feed: Option<Feed>,
}

impl Default for Daemon {
    fn default() -> Daemon {
        // Tests compare with what the documents say of root, whichever user runs them.
        let places = if cfg!(test) { super::Places::system() } else { super::Places::own() };
        Daemon {
            status_socket: places.socket(),
            socket_group: None,
            state_dir: places.state,
            stop_timeout: Duration::from_secs(10),
            max_runs: None,
            bwlimit: None,
            bwlimit_at: Vec::new(),
            metrics: None,
            page: true,
            metrics_file: None,
            metrics_interval: Duration::from_secs(15),
            log: LogConfig::default(),
        }
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            settle: Duration::from_millis(2),
            max_delay: Duration::from_millis(300),
            delay: None,
            create_hold: Duration::from_secs(1),
            max_paths: 20_000,
            max_bytes: None,
            max_pending: 1_000_000,
        }
    }
}

impl Default for Events {
    fn default() -> Events {
        Events {
            delete: true,
            create_folder: true,
            create_file: true,
            close_write: true,
            move_from: true,
            move_to: true,
            attrib: true,
        }
    }
}

impl Default for KernelSwitches {
    fn default() -> KernelSwitches {
        KernelSwitches { unlimited_queue: true, rename_events: true, io_uring: true }
    }
}

impl Mirror {
    /// A mirror with all defaults and no targets yet.
    pub(crate) fn new(name: impl Into<String>, source: impl Into<PathBuf>) -> Mirror {
        Mirror {
            name: name.into(),
            source: source.into(),
            delete: Delete::Always,
            max_delete: None,
            first_max_delete: MaxDelete::Percent(50),
            max_file_size: None,
            remove_source_files: false,
            remove_after: Duration::from_secs(60),
            allow_empty: false,
            initial: Initial::Reconcile,
            watch: Watch::Auto,
            roles: false,
            require_confined: false,
            send_renames: true,
            follow_open_files: FollowOpenFiles::Auto,
            follow_interval: Duration::from_secs(2),
            filter: Filter::none(),
            mounts: Mounts::default(),
            origins: Origins::default(),
            pattern_files: PatternFiles::default(),
            extras: Extras::default(),
            full_every: None,
            full_at: Vec::new(),
            full_exclude: Vec::new(),
            verify_every: None,
            verify_at: Vec::new(),
            verify_checksum: false,
            verify_repair: true,
            events: Events::default(),
            fail_log: None,
            batch: Batch::default(),
            rsync: "rsync".into(),
            kernel: KernelSwitches::default(),
            targets: Vec::new(),
            hooks: Vec::new(),
            follow: None,
        }
    }
}

impl Target {
    /// A target with all defaults.
    pub(crate) fn new(name: impl Into<String>, location: Location) -> Target {
        let feed = location.is_feed().then(Feed::default);
        Target {
            name: name.into(),
            location,
            feed,
            password_file: None,
            max_delete: None,
            delay: None,
            compress: Compress::None,
            args: Vec::new(),
            jobs: 2,
            small_jobs: 4,
            standby: 2,
            standby_max_age: Duration::from_secs(4 * 60),
            timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            watchdog: Duration::from_secs(150),
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(60),
            retry_failed: None,
            nice: 0,
            ionice: IoNice::Normal,
            ssh: None,
            rsync_path: None,
            backup_dir: None,
            backup_keep: None,
        }
    }

    /// As rsync has it with `-e`: where there is a remote shell, a module is that of a daemon
    /// behind it.
    pub(crate) fn put_behind_its_shell(&mut self) {
        if self.ssh.is_some() {
            self.location = self.location.clone().through_shell();
        }
    }

    /// How runs that are not urgent stand behind other processes.
    pub(crate) fn priority(&self) -> Priority {
        let io = match self.ionice {
            IoNice::Normal => None,
            IoNice::Low => Some(IoClass::Low),
            IoNice::Idle => Some(IoClass::Idle),
        };
        Priority { nice: self.nice, io }
    }

    /// How it is reached from this side's `rsync`.
    pub(crate) fn reach<'a>(&'a self, rsync: &'a Path) -> Reach<'a> {
        Reach {
            rsync,
            ssh: self.ssh.as_deref(),
            rsync_path: self.rsync_path.as_deref(),
            password_file: self.password_file.as_deref(),
            connect_timeout: self.connect_timeout,
        }
    }
}

impl Daemon {
    /// What its targets share.
    pub(crate) fn bounds(&self) -> Bounds {
        let rate = |limit: Option<u64>| limit.map(|bytes| bytes / 1024);
        let parts = self.bwlimit_at.iter().map(|at| (at.part, rate(at.limit))).collect();
        Bounds { runs: self.max_runs, hours: Hours { usual: rate(self.bwlimit), parts } }
    }
}

impl Config {
    /// The effective configuration as TOML.
    ///
    /// # Errors
    /// A path or pattern that is not UTF-8, which a configuration file cannot hold; only `mirror`
    /// on the command line can.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

/// By hand for the order of the keys (tables last) and for the filter, whose two lists are keys of
/// the mirror.
impl Serialize for Mirror {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let texts = |patterns: &[Vec<u8>]| {
            let text = |p: &Vec<u8>| String::from_utf8(p.clone()).map_err(|_| S::Error::custom("a pattern is not UTF-8"));
            patterns.iter().map(text).collect::<Result<Vec<_>, _>>()
        };
        let mut out = serializer.serialize_struct("Mirror", 32)?;
        out.serialize_field("name", &self.name)?;
        out.serialize_field("source", &self.source)?;
        out.serialize_field("delete", &self.delete)?;
        if let Some(limit) = self.max_delete {
            out.serialize_field("max_delete", &limit)?;
        }
        out.serialize_field("first_max_delete", &self.first_max_delete)?;
        if let Some(most) = self.max_file_size {
            out.serialize_field("max_file_size", &format!("{most}B"))?;
        }
        out.serialize_field("remove_source_files", &self.remove_source_files)?;
        out.serialize_field("remove_after", &units::shown(self.remove_after))?;
        out.serialize_field("allow_empty", &self.allow_empty)?;
        out.serialize_field("initial", &self.initial)?;
        out.serialize_field("watch", &self.watch)?;
        out.serialize_field("roles", &self.roles)?;
        out.serialize_field("require_confined", &self.require_confined)?;
        out.serialize_field("send_renames", &self.send_renames)?;
        out.serialize_field("follow_open_files", &self.follow_open_files)?;
        out.serialize_field("follow_interval", &units::shown(self.follow_interval))?;
        let files = &self.pattern_files;
        let own = |patterns: &[Vec<u8>], of_files: usize| texts(&patterns[..patterns.len().saturating_sub(of_files)]);
        let rules: Vec<Vec<u8>> = self.filter.ordered().iter().map(crate::filter::Ordered::text).collect();
        out.serialize_field("filter", &own(&rules, files.filtered)?)?;
        out.serialize_field("filter_from", &files.filter)?;
        out.serialize_field("include", &own(self.filter.include(), files.included)?)?;
        out.serialize_field("exclude", &own(self.filter.exclude(), files.excluded)?)?;
        out.serialize_field("include_from", &files.include)?;
        out.serialize_field("exclude_from", &files.exclude)?;
        out.serialize_field("hard_links", &self.extras.hard_links)?;
        out.serialize_field("xattrs", &self.extras.xattrs)?;
        out.serialize_field("acls", &self.extras.acls)?;
        out.serialize_field("sparse", &self.extras.sparse)?;
        out.serialize_field("exclude_regex", self.filter.expressions())?;
        out.serialize_field("exclude_temporary", &self.filter.temporary())?;
        if let Some(every) = self.full_every {
            out.serialize_field("full_every", &units::shown(every))?;
        }
        let times = |at: &[TimeOfDay]| at.iter().map(ToString::to_string).collect::<Vec<_>>();
        out.serialize_field("full_at", &times(&self.full_at))?;
        out.serialize_field("full_exclude", &self.full_exclude)?;
        if let Some(every) = self.verify_every {
            out.serialize_field("verify_every", &units::shown(every))?;
        }
        out.serialize_field("verify_at", &times(&self.verify_at))?;
        out.serialize_field("verify_checksum", &self.verify_checksum)?;
        out.serialize_field("verify_repair", &self.verify_repair)?;
        if let Some(fail_log) = &self.fail_log {
            out.serialize_field("fail_log", fail_log)?;
        }
        out.serialize_field("rsync", &self.rsync)?;
        out.serialize_field("mounts", &self.mounts)?;
        out.serialize_field("batch", &self.batch)?;
        out.serialize_field("events", &self.events)?;
        out.serialize_field("kernel", &self.kernel)?;
        let targets: Vec<&Target> = self.targets.iter().filter(|t| t.feed.is_none()).collect();
        if !targets.is_empty() {
            out.serialize_field("target", &targets)?;
        }
        let feeds: Vec<_> = self.targets.iter().filter_map(|target| FeedKeys::of(self, target)).collect();
        if !feeds.is_empty() {
            out.serialize_field("feed", &feeds)?;
        }
        if !self.hooks.is_empty() {
            out.serialize_field("hook", &self.hooks)?;
        }
        out.end()
    }
}
