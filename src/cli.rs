//! The command line, parsed and not judged: what the words mean together is for [`crate::config`].

pub mod manual;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::path_of_environment;
use crate::config::{Extras, FollowOpenFiles, MaxDelete, Overrides, Places, Watch, Whom, units};
#[cfg(feature = "feed")]
use crate::config::{Following, Login};
use crate::events::{self, EventsArgs};
use crate::exit::ExitCode;
use crate::explain::{self, ExplainArgs};
use crate::failover::cli::{self as failover, FailoverArgs};
use crate::log::{Level, LogFormat};
use crate::sersync::{ImportArgs, SersyncArgs};
use crate::verify::cli::{self as verify, VerifyArgs};
use manual::{CompletionsArgs, ManArgs};

const EXIT_CODES: &str = "\
Environment:
  FANSYNC_SOCKET           the daemon's socket, for every command that takes --socket
  FANSYNC_FAILOVER_SOCKET  the same for the commands of fansync failover
  NO_COLOR                 no colours, if it is not empty
  XDG_CONFIG_HOME, XDG_STATE_HOME, XDG_RUNTIME_DIR
                           where an ordinary user's configuration, state and socket are

Exit codes:
  0   done
  1   there are differences, or some paths failed
  2   status --exit-code: a target is in trouble
  64  the command line is wrong
  69  the kernel or rsync lacks something, or no daemon answers
  70  a bug
  74  standard output cannot be written
  75  a target cannot be reached
  77  not permitted
  78  the configuration is wrong";

/// Keeps remote copies of a directory tree equal to it, within milliseconds of each change.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "fansync", version, after_help = EXIT_CODES, arg_required_else_help = true, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Mirror a tree to one or more targets, without a configuration file
    #[command(after_help = MIRROR_HELP)]
    Mirror(MirrorArgs),
    /// Follow a change feed: pull what it names into a directory, without a configuration file
    #[cfg(feature = "feed")]
    #[command(after_help = FOLLOW_HELP)]
    Follow(FollowArgs),
    /// Run the daemon in the foreground
    #[command(after_help = RUN_HELP)]
    Run(RunArgs),
    /// Check a configuration file
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Show the status of a running daemon
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Wait until every change made so far is on the targets
    #[command(after_help = FLUSH_HELP)]
    Flush(FlushArgs),
    /// Compare targets with their source
    #[command(after_help = verify::HELP)]
    Verify(VerifyArgs),
    /// Tell where a path is on its way, and why
    #[command(after_help = explain::HELP)]
    Explain(ExplainArgs),
    /// Follow events as they arrive
    #[command(after_help = events::HELP)]
    Events(EventsArgs),
    /// Stop sending, and go on collecting changes
    #[command(after_help = PAUSE_HELP)]
    Pause(SteerArgs),
    /// Send again
    #[command(after_help = RESUME_HELP)]
    Resume(ResumeArgs),
    /// Try failed paths, and targets that are away, at once
    #[command(after_help = RETRY_HELP)]
    Retry(SteerArgs),
    /// Have a running daemon read its configuration again
    #[command(after_help = RELOAD_HELP)]
    Reload(ReloadArgs),
    /// Run sersync's configuration as sersync does; also when called as sersync or sersync2
    #[command(after_help = SERSYNC_HELP)]
    Sersync(SersyncArgs),
    /// Print the TOML that a configuration of sersync's or lsyncd's means
    #[command(after_help = IMPORT_HELP)]
    Import(ImportArgs),
    /// Roles of two servers, and the switch between them
    #[command(after_help = failover::HELP)]
    Failover(FailoverArgs),
    /// Print what lets a shell complete the words of a command line
    #[command(after_help = manual::COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
    /// Write the manual pages
    #[command(after_help = manual::MAN_HELP)]
    Man(ManArgs),
    /// Print the names that completions offer
    #[command(hide = true)]
    Names(NamesArgs),
}

const MIRROR_HELP: &str = "\
Targets:
  rsync://[user@]host[:port]/module[/path]   an rsync daemon, also [user@]host::module[/path]
  [user@]host:/path                          ssh, also [user@]host:path from the home of the login
  /path                                      this host
  nats://host[:port]/feed                    a change feed on NATS JetStream, for `fansync follow`; also tls://

Examples:
  fansync mirror /srv/data rsync://backup/data
  fansync mirror /srv/data root@a:/srv/data root@b:/srv/data --exclude '*.swp' --exclude /cache/
  fansync mirror --dry-run /srv/data rsync://backup/data
  fansync mirror --once /srv/data /mnt/copy

Exit codes: 0 done (--once, or stopped by a signal), 1 some paths failed, 64 usage, 69 kernel or rsync lacks something, \
75 target unreachable (--once), 77 not permitted, 78 the arguments do not fit together.";

#[cfg(feature = "feed")]
const FOLLOW_HELP: &str = "\
  FEED      nats://host[:port]/feed or tls://host[:port]/feed: where the source publishes (`fansync mirror SRC FEED`, [[mirror.feed]])
  UPSTREAM  rsync://[user@]host/module[/path] or [user@]host:/path: the tree that the feed is of
  DIR       the copy; what it has and the source has not is deleted. It must exist

Where it left off is kept, so that the next start pulls what changed since. docs/fan-out.md has the whole of it.

Examples:
  fansync follow nats://hub/web rsync://hub/web /srv/web
  fansync follow tls://hub/web rsync://m@hub/web /srv/web --password-file /etc/fansync/web.pass --nkey-file /etc/fansync/web.nk

Exit codes: 0 stopped by a signal, 64 usage, 69 rsync lacks something, 77 not permitted, 78 the arguments do not fit together.";

const SERSYNC_HELP: &str = "\
The file is checked as `fansync check` does; what is different from sersync is logged.

Examples:
  fansync sersync -r -o /etc/sersync/confxml.xml
  sersync2 -dro /etc/sersync/confxml.xml

Exit codes: 0 stopped by a signal (with -d: it watches), 64 usage, 69 kernel or rsync lacks something, 77 not permitted, 78 configuration, \
or this file is run already.";

const IMPORT_HELP: &str = "\
For sersync, give -r and -n as sersync gets them. lsyncd's configuration is a Lua program; it is run without files, commands and network. Comments in the output say what is different.

Examples:
  fansync import -r -n 10 confxml.xml > /etc/fansync/fansync.toml
  fansync import /etc/lsyncd/lsyncd.conf.lua > /etc/fansync/fansync.toml

Exit codes: 0 done, 64 usage, 78 the file is wrong.";

const RUN_HELP: &str = "\
SIGTERM and SIGINT finish what is pending, at most stop_timeout; SIGHUP reads the configuration again; SIGUSR1 compares the whole tree.

Example:
  fansync run --config /etc/fansync/fansync.toml

Exit codes: 0 stopped by a signal, 64 usage, 69 kernel or rsync lacks something, 77 not permitted, 78 configuration.";

const CHECK_HELP: &str = "\
With --connect each target is tried as a run would use it: greeting or rsync's version, TCP_NODELAY, password, module, options; a file in a \
directory of its own is written, compared and deleted, and as many connections are held as the target may take. Nothing else is touched there.

Examples:
  fansync check --config /etc/fansync/fansync.toml
  fansync check --config /etc/fansync/fansync.toml --effective > all-values.toml
  fansync check --config /etc/fansync/failover.toml
  fansync check --strict
  fansync check --connect

Exit codes: 0 nothing is wrong, 1 a target cannot be written as it should be (--connect), 64 usage, 69 rsync cannot be run (--connect), \
75 a target cannot be reached (--connect), 78 something is wrong, a target refuses (--connect), or with --strict there is a warning.";

const STATUS_HELP: &str = "\
The first line says whether all is in sync; if not, what is not and by how much, and what to do. A line for each target follows, then all details. \
Where several daemons run and none is named, all of them are shown, with --json by a line each.

The JSON has a number, `format`. Its fields are described in docs/status.schema.json.

Examples:
  fansync status
  fansync status --watch
  fansync status --brief --exit-code
  fansync status --json --socket /run/fansync/web.sock

Exit codes: 0 done (with --exit-code: all is in sync), 1 with --exit-code: behind, paused, or something beside the targets needs attention, \
2 with --exit-code: trouble, 64 usage, 69 no daemon answers, 77 not permitted.";

const FLUSH_HELP: &str = "\
Every change made before the call is on the targets when it returns 0. A daemon that is starting is waited for. With --followers the \
followers of the feeds hold it, too, by their reports.

Examples:
  fansync flush
  fansync flush --mirror data --target backup --timeout 5m
  fansync flush --followers all
  fansync flush --followers web3,web4

Exit codes: 0 done, 1 some paths failed, 64 usage, 69 no daemon answers, 75 not done in time, 77 not permitted.";

const PAUSE_HELP: &str = "\
Runs in flight end, then nothing is sent. A pause outlives the daemon: it ends with `fansync resume` only, and `fansync status` and \
a warning at each start report it.

Examples:
  fansync pause
  fansync pause --mirror data --target backup

Exit codes: 0 done, 1 not done, 64 usage, 69 no daemon answers, 77 not permitted.";

const RESUME_HELP: &str = "\
A source that is missing, replaced or empty holds its mirror; more deletions than max_delete wait. What is wrong is in `fansync status`. If \
it is meant, accept it.

Examples:
  fansync resume
  fansync resume --mirror data --accept-source
  fansync resume --target backup --accept-deletes
  fansync resume --mirror data --target backup

Exit codes: 0 done, 1 not done, 64 usage, 69 no daemon answers, 77 not permitted.";

const RETRY_HELP: &str = "\
Without it they are tried after pauses that grow (retry_min, retry_max).

Examples:
  fansync retry
  fansync retry --target backup

Exit codes: 0 done, 1 not done (paused, or the source is held), 64 usage, 69 no daemon answers, 77 not permitted.";

const RELOAD_HELP: &str = "\
As SIGHUP and `systemctl reload fansync` do, and it waits until what changed has begun anew. The file is taken whole or not at all.

Examples:
  fansync check && fansync reload
  fansync reload --config /etc/fansync/web.toml

Exit codes: 0 the configuration is in force, 64 usage, 69 no daemon answers, 77 not permitted, 78 it is not taken, or not all of it.";

/// `fansync mirror`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct MirrorArgs {
    /// The tree
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// Where the copies go
    #[arg(value_name = "TARGET", required = true)]
    pub(crate) targets: Vec<String>,
    /// Make the targets equal to the tree and leave
    #[arg(long)]
    pub(crate) once: bool,
    /// Tell what the first pass would send and delete, change nothing, and leave
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave out what matches, in rsync's pattern syntax; may be repeated
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    pub(crate) exclude: Vec<OsString>,
    /// Keep what matches although --exclude says otherwise; may be repeated
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    pub(crate) include: Vec<OsString>,
    /// A filter rule of rsync, "+ PATTERN" or "- PATTERN"; may be repeated. The first that matches
    /// decides, before
    /// --include and --exclude
    #[arg(long, value_name = "RULE", allow_hyphen_values = true)]
    pub(crate) filter: Vec<OsString>,
    /// Never delete on the targets
    #[arg(long)]
    pub(crate) no_delete: bool,
    /// Send what is renamed as new content, and do not rename it on the targets
    #[arg(long)]
    pub(crate) no_send_renames: bool,
    /// Keep names of one file names of one file on the targets
    #[arg(long)]
    pub(crate) hard_links: bool,
    /// Carry extended attributes over
    #[arg(long)]
    pub(crate) xattrs: bool,
    /// Carry access control lists over
    #[arg(long)]
    pub(crate) acls: bool,
    /// Leave holes in files holes
    #[arg(long)]
    pub(crate) sparse: bool,
    /// Hold what would delete more on a target in one go: a number of entries, or a share as in 10%
    #[arg(long, value_name = "N", value_parser = units::max_delete)]
    pub(crate) max_delete: Option<MaxDelete>,
    /// Hold what the first comparison would delete on a target that this mirror has not filled,
    /// where it is more than this: a number of entries, or a share of what the target has (from 100
    /// entries on); 100% accepts all [default: 50%]
    #[arg(long, value_name = "N", value_parser = units::max_delete)]
    pub(crate) first_max_delete: Option<MaxDelete>,
    /// Go on when the source is empty although a target is not
    #[arg(long)]
    pub(crate) allow_empty: bool,
    /// Where events come from
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Watch::Auto)]
    pub(crate) watch: Watch,
    /// Send files while they are open for writing, each at most every 2 s: auto (where NFS or Samba
    /// exports the source), true, false
    #[arg(long, value_name = "WHEN", default_value = "auto", default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub(crate) follow_open_files: FollowOpenFiles,
    /// File with the password of the rsync daemons
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// rsync runs at the same time, per target
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Unix socket for status and flush, if not the usual one or FANSYNC_SOCKET
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `fansync run`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// The configuration file, if not /etc/fansync/fansync.toml (an ordinary user's:
    /// ~/.config/fansync/fansync.toml)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl RunArgs {
    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| Places::own().config)
    }
}

/// `fansync check`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CheckArgs {
    /// The configuration file, if not /etc/fansync/fansync.toml (an ordinary user's:
    /// ~/.config/fansync/fansync.toml)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the configuration with every default filled in, secrets as ***
    #[arg(long)]
    pub(crate) effective: bool,
    /// Print secrets, too
    #[arg(long, requires = "effective")]
    pub(crate) show_secrets: bool,
    /// Try each target, too: connect, write, compare and delete a directory .fansync-check-* there
    #[arg(long, conflicts_with = "effective")]
    pub(crate) connect: bool,
    /// Fail with 78 where there is a warning
    #[arg(long)]
    pub(crate) strict: bool,
}

impl CheckArgs {
    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| Places::own().config)
    }
}

/// `fansync status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct StatusArgs {
    /// Print a line with a JSON object for each daemon
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the verdict only, one line
    #[arg(long, conflicts_with = "json")]
    pub(crate) brief: bool,
    /// Exit with 0 when all is in sync, 1 (warning) when something is behind, 2 (critical) when a
    /// person is needed
    #[arg(long)]
    pub(crate) exit_code: bool,
    /// Only the mirror with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) mirror: Option<String>,
    /// Show it on the terminal and follow it, until q is pressed
    #[arg(long, conflicts_with_all = ["json", "brief", "exit_code", "mirror"])]
    pub(crate) watch: bool,
    /// Which daemon
    #[command(flatten)]
    pub(crate) whom: Whom,
}

/// `fansync flush`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct FlushArgs {
    /// Only the targets with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Option<String>,
    /// Only the mirror with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) mirror: Option<String>,
    /// Wait for followers of feeds, too: all that are known, all relays, so many, or these (names
    /// with commas between)
    #[arg(long, value_name = "WHICH")]
    pub(crate) followers: Option<Followers>,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    pub(crate) timeout: Duration,
    /// Which daemon
    #[command(flatten)]
    pub(crate) whom: Whom,
}

/// Whom `fansync flush` waits for beside targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Followers {
    /// Every one that is known.
    All,
    /// Every relay that is known.
    Relays,
    /// So many.
    Count(usize),
    /// Those.
    Named(Vec<String>),
}

impl std::str::FromStr for Followers {
    type Err = String;

    fn from_str(text: &str) -> Result<Followers, String> {
        let names: Vec<String> = text.split(',').map(str::to_owned).collect();
        match (text, text.parse()) {
            ("all", _) => Ok(Followers::All),
            ("relays", _) => Ok(Followers::Relays),
            (_, Ok(count)) => Ok(Followers::Count(count)),
            _ if names.iter().any(String::is_empty) => {
                Err(format!("{text:?} is none of all, relays, a number, names with commas between"))
            }
            _ => Ok(Followers::Named(names)),
        }
    }
}

/// `fansync follow`.
#[cfg(feature = "feed")]
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct FollowArgs {
    /// Where records are read
    #[arg(value_name = "FEED")]
    pub(crate) feed: String,
    /// Where what they name is pulled from
    #[arg(value_name = "UPSTREAM")]
    pub(crate) upstream: String,
    /// The copy
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// The name of this follower at the source, if not that of this host
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Leave out what matches, in rsync's pattern syntax; may be repeated
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true)]
    pub(crate) exclude: Vec<OsString>,
    /// Hold what would delete more than so many entries in one go
    #[arg(long, value_name = "N", value_parser = units::max_delete)]
    pub(crate) max_delete: Option<MaxDelete>,
    /// File with the password of the upstream's rsync daemon
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// User at the NATS servers
    #[arg(long, value_name = "USER", requires = "nats_password_file")]
    pub(crate) nats_user: Option<String>,
    /// File with that user's password
    #[arg(long, value_name = "FILE", requires = "nats_user")]
    pub(crate) nats_password_file: Option<PathBuf>,
    /// File with the seed of an nkey for the NATS servers
    #[arg(long, value_name = "FILE", conflicts_with = "nats_user")]
    pub(crate) nkey_file: Option<PathBuf>,
    /// File with the certificates that sign those of the NATS servers
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// File with the certificate that is shown to the NATS servers
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub(crate) cert_file: Option<PathBuf>,
    /// File with the key of that certificate
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub(crate) key_file: Option<PathBuf>,
    /// Where it is kept how far the copy is, if not in the usual state directory
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Unix socket for status and flush, if not the usual one or FANSYNC_SOCKET
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[cfg(feature = "feed")]
impl FollowArgs {
    /// What the options say, for [`crate::config::Config::for_follow`].
    pub(crate) fn given(&self) -> Following {
        Following {
            exclude: self.exclude.iter().map(|p| p.clone().into_vec()).collect(),
            max_delete: self.max_delete,
            follower: self.name.clone(),
            login: Login {
                nats_user: self.nats_user.clone(),
                nats_password_file: self.nats_password_file.clone(),
                nkey_file: self.nkey_file.clone(),
                ca_file: self.ca_file.clone(),
                cert_file: self.cert_file.clone(),
                key_file: self.key_file.clone(),
            },
            password_file: self.password_file.clone(),
            status_socket: self.socket.clone(),
            state_dir: self.state_dir.clone(),
            log_format: self.log.log_format,
            log_level: self.log.level(),
        }
    }
}

/// What is logged by a daemon without a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LogArgs {
    /// Form of the log
    #[arg(long, value_enum, value_name = "FORM")]
    pub(crate) log_format: Option<LogFormat>,
    /// Log more: -v for detail, -vv each event
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Log less: -q warnings and errors, -qq errors
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) quiet: u8,
}

impl LogArgs {
    /// What `-v` and `-q` say.
    fn level(&self) -> Option<Level> {
        match (self.verbose, self.quiet) {
            (0, 0) => None,
            (0, 1) => Some(Level::Warn),
            (0, _) => Some(Level::Error),
            (1, _) => Some(Level::Debug),
            _ => Some(Level::Trace),
        }
    }
}

/// `fansync pause`, `resume`, `retry`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SteerArgs {
    /// Only the targets with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Option<String>,
    /// Only the mirror with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) mirror: Option<String>,
    /// Which daemon
    #[command(flatten)]
    pub(crate) whom: Whom,
}

/// `fansync reload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ReloadArgs {
    /// Which daemon
    #[command(flatten)]
    pub(crate) whom: Whom,
}

/// `fansync resume`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ResumeArgs {
    /// Which targets
    #[command(flatten)]
    pub(crate) which: SteerArgs,
    /// Take the source as it is now although it was replaced or emptied; targets may lose what it
    /// lacks
    #[arg(long)]
    pub(crate) accept_source: bool,
    /// Let the deletions through, once, that were held for being more than max_delete or
    /// first_max_delete
    #[arg(long)]
    pub(crate) accept_deletes: bool,
}

/// `fansync names`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct NamesArgs {
    /// Names of what
    pub(crate) kind: Named,
}

/// What has names in a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Named {
    Mirrors,
    Targets,
}

impl MirrorArgs {
    /// What the options say, for [`crate::config::Config::for_mirror`].
    pub(crate) fn overrides(&self) -> Overrides {
        let bytes = |patterns: &[OsString]| patterns.iter().map(|p| p.clone().into_vec()).collect();
        Overrides {
            include: bytes(&self.include),
            filter: bytes(&self.filter),
            exclude: bytes(&self.exclude),
            no_delete: self.no_delete,
            no_send_renames: self.no_send_renames,
            extras: Extras { hard_links: self.hard_links, xattrs: self.xattrs, acls: self.acls, sparse: self.sparse },
            max_delete: self.max_delete,
            first_max_delete: self.first_max_delete,
            allow_empty: self.allow_empty,
            watch: Some(self.watch),
            follow_open_files: self.follow_open_files,
            password_file: self.password_file.clone(),
            jobs: self.jobs,
            status_socket: self.socket.clone(),
            log_format: self.log.log_format,
            log_level: self.log.level(),
        }
    }
}

/// The daemon's socket, if the environment names one.
pub(crate) fn socket_of_environment() -> Option<PathBuf> {
    path_of_environment("FANSYNC_SOCKET")
}

/// Parses a command line, the program's name first.
///
/// # Errors
/// What to print, and the code to leave with: [`ExitCode::Usage`] where clap would leave with 2,
/// [`ExitCode::Done`] for help and version.
pub fn parse<W: Into<OsString> + Clone>(words: impl IntoIterator<Item = W>) -> Result<Cli, (clap::Error, ExitCode)> {
    let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    let called = words.first().map(PathBuf::from);
    let parsed = match called.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()) {
        Some("sersync") => as_sersync("sersync", words),
        Some("sersync2") => as_sersync("sersync2", words),
        _ => Cli::try_parse_from(words),
    };
    parsed.map_err(|error| {
        let code = match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::Done,
            _ => ExitCode::Usage,
        };
        (error, code)
    })
}

/// The command line of a program called `name`: that of `fansync sersync`, and no other command.
fn as_sersync(name: &'static str, words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let all = Cli::command();
    let about = all.find_subcommand("sersync").and_then(|c| c.get_about()).cloned().unwrap_or_default();
    let command = clap::Command::new(name).version(env!("CARGO_PKG_VERSION")).about(about).after_help(SERSYNC_HELP);
    let mut command = SersyncArgs::augment_args(command.max_term_width(120));
    let matches = command.try_get_matches_from_mut(words)?;
    let args = SersyncArgs::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok(Cli { command: Command::Sersync(args) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Cli, (clap::Error, ExitCode)> {
        parse(std::iter::once("fansync").chain(line.split_whitespace()))
    }

    fn mirror(line: &str) -> MirrorArgs {
        match words(line).unwrap_or_else(|(e, _)| panic!("{line}: {e}")).command {
            Command::Mirror(args) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_shape_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mirror_takes_its_options_before_and_after() {
        let o = mirror("mirror /a /b --max-delete 10% --first-max-delete 100% --allow-empty").overrides();
        assert_eq!((o.max_delete, o.allow_empty), (Some(MaxDelete::Percent(10)), true));
        assert_eq!(o.first_max_delete, Some(MaxDelete::Percent(100)));
        let args = mirror(
            "mirror --once /a h::m /b --exclude *.swp --exclude -x --include +y --filter -_a --filter +_b --no-delete --no-send-renames --watch inotify --follow-open-files --jobs 3 -vv",
        );
        assert_eq!((args.source.to_str(), &args.targets[..]), (Some("/a"), &["h::m".to_owned(), "/b".to_owned()][..]));
        let o = args.overrides();
        assert!(args.once && o.no_delete && o.no_send_renames && o.follow_open_files == FollowOpenFiles::On);
        assert_eq!((o.exclude, o.include), (vec![b"*.swp".to_vec(), b"-x".to_vec()], vec![b"+y".to_vec()]));
        assert_eq!(o.filter, [b"-_a", b"+_b"]);
        assert_eq!((o.watch, o.jobs, o.log_level), (Some(Watch::Inotify), Some(3), Some(Level::Trace)));
        let o = mirror("mirror a h::m --socket s --password-file p --log-format json -q").overrides();
        assert_eq!((o.status_socket, o.password_file), (Some("s".into()), Some("p".into())));
        assert_eq!((o.log_format, o.log_level), (Some(LogFormat::Json), Some(Level::Warn)));
        assert_eq!(mirror("mirror a h::m").overrides(), Overrides { watch: Some(Watch::Auto), ..Overrides::default() });
    }

    #[test]
    fn a_pattern_need_not_be_text() {
        let word = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let line = [&b"fansync"[..], b"mirror", b"/a", b"h::m", b"--exclude", b"\xff*"].map(word);
        let Command::Mirror(args) = parse(line).unwrap().command else { panic!("not mirror") };
        assert_eq!(args.overrides().exclude, [b"\xff*".to_vec()]);
    }

    #[test]
    fn the_other_commands() {
        let command = |line| words(line).unwrap_or_else(|(e, _)| panic!("{line}: {e}")).command;
        assert_eq!(command("run --config f"), Command::Run(RunArgs { config: Some("f".into()) }));
        assert_eq!(
            command("check --config f --effective"),
            Command::Check(CheckArgs {
                config: Some("f".into()),
                effective: true,
                show_secrets: false,
                connect: false,
                strict: false
            })
        );
        let Command::Failover(args) = command("failover --once") else { panic!("not failover") };
        assert!(args.once && args.config() == Path::new("/etc/fansync/failover.toml"));
        assert_eq!(command("status --json"), Command::Status(StatusArgs { json: true, ..StatusArgs::default() }));
        let flush = |target: Option<&str>, secs| FlushArgs {
            target: target.map(str::to_owned),
            mirror: None,
            followers: None,
            timeout: Duration::from_secs(secs),
            whom: Whom::default(),
        };
        let of = |line: &'static str| match command(line) {
            Command::Pause(args) => args.whom,
            other => panic!("{other:?}"),
        };
        assert_eq!(of("pause --config f").config, Some("f".into()));
        assert_eq!(of("pause --socket s").socket, Some("s".into()));
        assert_eq!(command("flush"), Command::Flush(flush(None, 30)));
        assert_eq!(command("flush --target b --timeout 5m"), Command::Flush(flush(Some("b"), 300)));
        let named = |names: &[&str]| Followers::Named(names.iter().map(|name| (*name).to_owned()).collect());
        for (text, which) in
            [("all", Followers::All), ("relays", Followers::Relays), ("3", Followers::Count(3)), ("a,b-1", named(&["a", "b-1"]))]
        {
            let want = FlushArgs { followers: Some(which), ..flush(None, 30) };
            let line = format!("flush --followers {text}");
            assert_eq!(words(&line).map(|cli| cli.command).map_err(|(e, _)| e.to_string()), Ok(Command::Flush(want)));
        }
        assert!(words("flush --followers a,,b").is_err());
        let steer = |target: Option<&str>, mirror: Option<&str>| SteerArgs {
            target: target.map(str::to_owned),
            mirror: mirror.map(str::to_owned),
            whom: Whom::default(),
        };
        assert_eq!(command("pause --mirror m"), Command::Pause(steer(None, Some("m"))));
        let resume = |which, accept_source, accept_deletes| Command::Resume(ResumeArgs { which, accept_source, accept_deletes });
        assert_eq!(command("resume --target b"), resume(steer(Some("b"), None), false, false));
        assert_eq!(command("resume --accept-source"), resume(steer(None, None), true, false));
        assert_eq!(command("resume --accept-deletes"), resume(steer(None, None), false, true));
        assert_eq!(command("reload"), Command::Reload(ReloadArgs::default()));
        assert_eq!(command("retry"), Command::Retry(steer(None, None)));
    }

    #[test]
    fn called_as_sersync() {
        let of = |line: &str| match parse(line.split_whitespace()).unwrap_or_else(|(e, _)| panic!("{line}: {e}")).command {
            Command::Sersync(args) => (args.detach, args.reconcile, args.workers, args.file),
            other => panic!("{line}: {other:?}"),
        };
        let usual = PathBuf::from("confxml.xml");
        assert_eq!(of("sersync2"), (false, false, None, usual.clone()));
        assert_eq!(of("/opt/sersync -dro /c.xml"), (true, true, None, "/c.xml".into()));
        assert_eq!(of("fansync sersync -d -n -3 -r"), (true, true, Some("-3".into()), usual.clone()));
        assert_eq!(of("sersync -rn12"), (false, true, Some("12".into()), usual));
        let help = parse(["/opt/sersync2", "-h"]).map_err(|(error, _)| error.to_string());
        assert!(help.as_ref().is_err_and(|text| text.contains("Usage: sersync2 [OPTIONS]")), "{help:?}");
    }

    #[test]
    fn codes() {
        for (line, code) in [
            ("", ExitCode::Usage),
            ("--help", ExitCode::Done),
            ("mirror --help", ExitCode::Done),
            ("--version", ExitCode::Done),
            ("mirror /a", ExitCode::Usage),
            ("mirror /a h::m --nope", ExitCode::Usage),
            ("mirror /a h::m -v -q", ExitCode::Usage),
            ("mirror /a h::m --watch kqueue", ExitCode::Usage),
            ("status --watch --json", ExitCode::Usage),
            ("status --watch --exit-code", ExitCode::Usage),
            ("status --brief --json", ExitCode::Usage),
            ("flush --timeout 5", ExitCode::Usage),
            ("mirror /a h::m --max-delete 0%", ExitCode::Usage),
            ("nope", ExitCode::Usage),
            ("failover", ExitCode::Usage),
            ("sersync -x", ExitCode::Usage),
            ("sersync -h", ExitCode::Done),
        ] {
            assert_eq!(words(line).map_err(|(_, code)| code), Err(code), "{line}");
        }
    }

    /// What follows a line of a paragraph would begin a line in the middle of a terminal that is
    /// narrower than the source.
    #[test]
    fn paragraphs_of_help_are_one_line_each() {
        fn below(command: &clap::Command, seen: &mut usize) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let begins = |line: &str| !line.is_empty() && !line.starts_with(' ');
            for (one, next) in text.lines().zip(text.lines().skip(1)) {
                assert!(!(begins(one) && begins(next)), "{}: {one:?} is broken before {next:?}", command.get_name());
            }
            *seen += usize::from(!text.is_empty());
            command.get_subcommands().for_each(|sub| below(sub, seen));
        }
        let mut seen = 0;
        below(&Cli::command(), &mut seen);
        assert!(seen > 15, "{seen}");
    }

    #[test]
    fn help_lists_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        use ExitCode::*;
        for code in [Done, Differences, Trouble, Usage, Unavailable, Bug, Output, TargetUnreachable, NotPermitted, Config] {
            assert!(help.lines().any(|l| l.trim_start().starts_with(&format!("{} ", code.code()))), "{code:?}\n{help}");
        }
        let mut command = Cli::command();
        for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set()) {
            let help = sub.render_long_help().to_string();
            assert!(help.contains("Example") && help.contains("Exit codes: 0 "), "{help}");
        }
    }
}
