//! Configuration: from a file or a command line to a checked form, with every default filled in.
//!
//! [`Config`] is what the daemon runs on, and nothing in it needs to be looked at twice. It comes
//! from [`Config::load`] or, for `fansync mirror`, from [`Config::for_mirror`]; both hold the same
//! rules and report all errors at once ([`ConfigErrors`]). What is on the disk (does the source
//! exist, is the password file private) is not looked at here, since it may change before it is
//! used; but links are followed to see whether two places are one.

mod args;
mod bwlimit;
mod checked;
pub(crate) mod cite;
mod ground;
pub(crate) mod hook;
mod origins;
pub(crate) mod patterns;
mod places;
mod prepare;
mod rules;
mod secrets;
mod setid;
#[cfg(test)]
mod tests;
pub(crate) mod toml;
pub(crate) mod units;
mod whom;
mod whose;
mod world;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

pub use args::allowed as allowed_options;
#[cfg(feature = "lsyncd")]
pub(crate) use args::reasons_against;
pub(crate) use args::{Nodes, copies_dir_times, name_directories, names_places, passes_options_on};
pub(crate) use checked::{
    Batch, Daemon, Delete, Events, Extras, Feed, Follow, FollowOpenFiles, Initial, Login, MaxDelete, Mirror, Mounts, Target,
    Watch,
};
pub use checked::{Compress, Config};
pub(crate) use cite::{ConfigErrors, Problem, Warning, Written};
pub(crate) use origins::Origins;
pub(crate) use places::Places;
pub(crate) use places::path_of_environment;
pub(crate) use secrets::{may_hold_url, readable};
pub use whom::Whom;

use crate::filter::{Filter, Ordered};
use crate::location::{Location, LocationError};
use crate::log::{Level, LogFormat};
use crate::path::Shown;
use crate::role::mark;
use crate::trust::{self, Mind, TrustError};

/// The name of a follower's one target.
pub(crate) const UPSTREAM: &str = "upstream";
/// Within this time a comparison begins that many followers owe at a time.
pub(crate) const SPREAD: std::time::Duration = std::time::Duration::from_secs(30);

/// This host's name, as a follower is called.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    name.trim().chars().map(plain).collect()
}

/// A configuration file larger than this is something else.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// What the rsync of this host says of itself; it is asked where warnings depend on it.
pub(crate) trait LocalRsync {
    /// Why it cannot be confined to a source, if it cannot.
    fn unconfined(&self, rsync: &Path) -> Option<String>;

    /// Why it refuses these arguments, if it does.
    fn refuses(&self, rsync: &Path, args: &[String]) -> Option<String>;
}

/// What `fansync mirror` may say besides source and targets; none and empty mean the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    /// Patterns to include, raw bytes.
    pub(crate) include: Vec<Vec<u8>>,
    /// Patterns to exclude, raw bytes.
    pub(crate) exclude: Vec<Vec<u8>>,
    /// Filter rules in order, raw bytes.
    pub(crate) filter: Vec<Vec<u8>>,
    /// Never delete on the targets.
    pub(crate) no_delete: bool,
    /// What is renamed is sent as new content.
    pub(crate) no_send_renames: bool,
    /// What is carried over beside content, owner, mode and times.
    pub(crate) extras: Extras,
    /// The bound on deletions.
    pub(crate) max_delete: Option<MaxDelete>,
    /// The same for the first comparison with a target of unknown content.
    pub(crate) first_max_delete: Option<MaxDelete>,
    /// The source may become empty at one blow.
    pub(crate) allow_empty: bool,
    /// Where events come from.
    pub(crate) watch: Option<Watch>,
    /// Send files while they are open for writing.
    pub(crate) follow_open_files: FollowOpenFiles,
    /// For all targets that are rsync daemons; relative to the working directory.
    pub(crate) password_file: Option<PathBuf>,
    /// Runs at the same time, per target.
    pub(crate) jobs: Option<usize>,
    /// The status socket; relative to the working directory.
    pub(crate) status_socket: Option<PathBuf>,
    /// Form of the log.
    pub(crate) log_format: Option<LogFormat>,
    /// Least level of the log.
    pub(crate) log_level: Option<Level>,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// The file cannot be read; others may change it (it names commands that run as root);
    /// everything that is wrong in it.
    pub(crate) fn load(path: &Path) -> Result<Config, ConfigErrors> {
        Config::load_written(path).map(|(config, _)| config)
    }

    /// The same, and where each value is.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn load_written(path: &Path) -> Result<(Config, Written), ConfigErrors> {
        let (config, written) = toml::parse_written(&read_trusted(path)?, Some(path))?;
        let Some(what) = config.secret() else { return Ok((config, written)) };
        let files: Vec<&Path> = match written.texts.parts().count() {
            1 => vec![path],
            _ => written.texts.parts().filter(|part| secrets::any(part.text)).filter_map(|part| part.file).collect(),
        };
        match files.into_iter().find_map(|file| Some((file, readable(file)?))) {
            Some((file, error)) => {
                let problem = Problem::new(format!("the configuration holds a secret ({what}), and {error}"));
                Err(ConfigErrors::new(Some(file), "", vec![problem.help(error.help())]))
            }
            None => Ok((config, written)),
        }
    }

    /// The same for a file's text.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn from_toml(text: &str) -> Result<Config, ConfigErrors> {
        toml::parse_written(text, None).map(|(config, _)| config)
    }

    /// The configuration of `fansync mirror SRC TARGET…`: one mirror named `mirror`, targets named
    /// `t1`, `t2`, ….
    ///
    /// `source`, targets on this host and the paths in `overrides` are relative to the working
    /// directory; `..` in them is resolved.
    ///
    /// # Errors
    /// All that is wrong with the arguments, without places.
    pub(crate) fn for_mirror(source: &Path, targets: &[String], overrides: &Overrides) -> Result<Config, ConfigErrors> {
        let mut problems = Vec::new();
        let mut note = |problem: String| problems.push(Problem::new(problem));
        let mut path = |given: &Path| {
            absolute(given).unwrap_or_else(|e| {
                note(format!("cannot tell the absolute path of {}: {e}", given.display()));
                given.to_owned()
            })
        };

        let mut daemon = Daemon::default();
        if let Some(socket) = &overrides.status_socket {
            daemon.status_socket = path(socket);
        }
        daemon.log.format = overrides.log_format.unwrap_or(daemon.log.format);
        daemon.log.level = overrides.log_level.unwrap_or(daemon.log.level);

        let mut mirror = Mirror::new("mirror", path(source));
        let password_file = overrides.password_file.as_deref().map(&mut path);
        mirror.delete = (!overrides.no_delete).into();
        mirror.send_renames = !overrides.no_send_renames;
        mirror.extras = overrides.extras;
        mirror.max_delete = overrides.max_delete;
        mirror.first_max_delete = overrides.first_max_delete.unwrap_or(mirror.first_max_delete);
        mirror.allow_empty = overrides.allow_empty;
        mirror.watch = overrides.watch.unwrap_or(mirror.watch);
        mirror.follow_open_files = overrides.follow_open_files;
        let rules: Vec<_> = (overrides.filter.iter())
            .filter_map(|text| {
                Ordered::parse(text).map_err(|why| note(format!("cannot use the filter rule \"{}\": {why}", Shown(text)))).ok()
            })
            .collect();
        match Filter::new(&overrides.include, &overrides.exclude).and_then(|filter| filter.with_rules(&rules)) {
            Ok(filter) => {
                mirror.filter = filter;
                mirror.origins = Origins::options(overrides.include.len(), overrides.exclude.len(), rules.len());
            }
            Err(e) => note(e.to_string()),
        }
        for (i, text) in targets.iter().enumerate() {
            // As rsync reads it: without a colon before its first slash it is a path.
            let here = !text.is_empty() && !text.split('/').next().unwrap_or_default().contains(':');
            let whole = absolute(Path::new(text)).ok().filter(|_| here).and_then(|path| path.into_os_string().into_string().ok());
            match Location::parse(whole.as_deref().unwrap_or(text)) {
                Ok(location) => {
                    let mut target = Target::new(format!("t{}", i + 1), location);
                    target.jobs = overrides.jobs.unwrap_or(target.jobs);
                    target.password_file = password_file.clone().filter(|_| target.location.is_daemon());
                    mirror.targets.push(target);
                }
                Err(e) => note(e.to_string()),
            }
        }
        if password_file.is_some() && problems.is_empty() && mirror.targets.iter().all(|t| t.password_file.is_none()) {
            problems.push(Problem::new("a password file is given, but no target is an rsync daemon"));
        }
        let config = Config { daemon, mirrors: vec![mirror] };
        if problems.is_empty() {
            problems.extend(rules::check(&config).into_iter().map(|c| Problem::new(c.message).help(c.help)));
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigErrors::new(None, "", problems)) }
    }
}

#[cfg_attr(not(feature = "feed"), allow(dead_code, reason = "there is no such command then"))]
/// What `fansync follow` says beside feed, upstream and directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Following {
    /// Patterns to exclude, raw bytes.
    pub(crate) exclude: Vec<Vec<u8>>,
    /// The bound on deletions.
    pub(crate) max_delete: Option<MaxDelete>,
    /// The name that this follower has at the source.
    pub(crate) follower: Option<String>,
    /// Who logs in to the servers; paths are relative to the working directory.
    pub(crate) login: Login,
    /// Of the upstream's module; relative to the working directory.
    pub(crate) password_file: Option<PathBuf>,
    /// The status socket; relative to the working directory.
    pub(crate) status_socket: Option<PathBuf>,
    /// Where the position is kept; relative to the working directory.
    pub(crate) state_dir: Option<PathBuf>,
    /// Form of the log.
    pub(crate) log_format: Option<LogFormat>,
    /// Least level of the log.
    pub(crate) log_level: Option<Level>,
}

impl Config {
    /// The configuration of `fansync follow FEED UPSTREAM DIRECTORY`: one follower with the name of
    /// the feed.
    ///
    /// # Errors
    /// All that is wrong with the arguments, without places.
    #[cfg_attr(not(feature = "feed"), allow(dead_code, reason = "there is no such command then"))]
    pub(crate) fn for_follow(feed: &str, upstream: &str, directory: &Path, given: Following) -> Result<Config, ConfigErrors> {
        let mut problems = Vec::new();
        let mut path = |given: PathBuf| {
            absolute(&given).unwrap_or_else(|e| {
                problems.push(Problem::new(format!("cannot tell the absolute path of {}: {e}", given.display())));
                given
            })
        };
        let mut daemon = Daemon::default();
        if let Some(socket) = given.status_socket {
            daemon.status_socket = path(socket);
        }
        if let Some(dir) = given.state_dir {
            daemon.state_dir = path(dir);
        }
        daemon.log.format = given.log_format.unwrap_or(daemon.log.format);
        daemon.log.level = given.log_level.unwrap_or(daemon.log.level);
        let login = Login {
            nats_user: given.login.nats_user,
            nats_password_file: given.login.nats_password_file.map(&mut path),
            nkey_file: given.login.nkey_file.map(&mut path),
            ca_file: given.login.ca_file.map(&mut path),
            cert_file: given.login.cert_file.map(&mut path),
            key_file: given.login.key_file.map(&mut path),
        };
        let password_file = given.password_file.map(&mut path);
        let directory = path(directory.to_owned());
        let mut note =
            |e: LocationError| problems.push(Problem { secret: e == LocationError::Password, ..Problem::new(e.to_string()) });
        let feed = Location::parse(feed).map_err(&mut note).ok();
        let upstream = Location::parse(upstream).map_err(&mut note).ok();
        let filter = Filter::new::<&[u8], _>(&[], &given.exclude).map_err(|e| problems.push(Problem::new(e.to_string())));
        if let (Some(feed), Some(upstream), Ok(filter)) = (feed, upstream, filter) {
            let name = match &feed {
                Location::Feed { feed, .. } => feed.clone(),
                other => {
                    let problem = Problem::new(format!("{other} is no feed"));
                    problems.push(problem.help("the feed comes first: fansync follow nats://hub/web rsync://hub/web /srv/web"));
                    String::new()
                }
            };
            let follower = given.follower.unwrap_or_else(host_name);
            let follow = Follow { feed, login, follower, others: Vec::new(), serve: None, spread: SPREAD };
            let upstream = Target { password_file, ..Target::new(UPSTREAM, upstream) };
            let mirror = Mirror {
                max_delete: given.max_delete,
                filter,
                follow: Some(follow),
                targets: vec![upstream],
                origins: Origins::options(0, given.exclude.len(), 0),
                ..Mirror::new(name, directory)
            };
            let config = Config { daemon, mirrors: vec![mirror] };
            if problems.is_empty() {
                problems.extend(rules::check(&config).into_iter().map(|c| Problem::new(c.message).help(c.help)));
            }
            if problems.is_empty() {
                return Ok(config);
            }
        }
        Err(ConfigErrors::new(None, "", problems))
    }
}

impl Config {
    /// What the disk says against this configuration now, and patterns that match nothing: for
    /// `check` to print. Some of it may be right again by the time the daemon starts, so none of it
    /// is an error here.
    pub(crate) fn warnings(&self, rsync: &dyn LocalRsync) -> Vec<Warning> {
        let mut out = Vec::new();
        if let Some(dir) = self.daemon.metrics_file.as_deref().and_then(Path::parent).filter(|dir| !dir.is_dir()) {
            let text = format!("daemon: the directory of metrics_file, {}, is not there", dir.display());
            out.push(Warning::new("daemon.metrics_file", text));
        }
        if let Some(group) = &self.daemon.socket_group
            && !nix::unistd::Group::from_name(group).is_ok_and(|found| found.is_some())
        {
            let text = format!("daemon: there is no group {group} (socket_group): only the daemon's user will reach the socket");
            out.push(Warning::new("daemon.socket_group", text));
        }
        out.extend(self.others_can_change());
        out.extend(self.set_id_changes_hands());
        for (i, mirror) in self.mirrors.iter().enumerate() {
            let mut warn = |key: String, text: String| {
                out.push(Warning::new(format!("mirror.{i}.{key}"), format!("mirror {:?}: {text}", mirror.name)));
            };
            mirror.warnings(rsync).into_iter().for_each(|(key, text)| warn(key, text));
            for (j, target) in mirror.targets.iter().enumerate() {
                let warnings = mirror.warnings_about(target, rsync).into_iter();
                warnings.for_each(|(key, text)| warn(format!("target.{j}.{key}"), format!("target {:?}: {text}", target.name)));
            }
            for (k, hook) in mirror.hooks.iter().enumerate() {
                let mut warnings = world::of_hook(hook);
                for pattern in hook.filter.never_matching() {
                    let text = format!("the pattern \"{}\" matches no path", Shown(pattern));
                    warnings.push((world::pattern_key(&hook.filter, pattern), text));
                }
                for e in hook.secret_files().filter_map(|file| trust::file(file, Mind::Secret).err()) {
                    warnings.push((String::new(), format!("the file with its secret: {e}; {}", e.help())));
                }
                warnings
                    .into_iter()
                    .for_each(|(key, text)| warn(format!("hook.{k}.{key}"), format!("hook {:?}: {text}", hook.name)));
            }
        }
        out
    }
}

impl Mirror {
    fn warnings(&self, rsync: &dyn LocalRsync) -> world::Notes {
        let mut out = Vec::new();
        let mut warn = |key: &str, text: String| out.push((key.to_owned(), text));
        match std::fs::metadata(&self.source) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => warn("source", format!("the source {} is not a directory; correct the path", self.source.display())),
            Err(e) => {
                let path = self.source.display();
                let text = format!(
                    "cannot look at the source {path}: {e}; correct the path, make the directory, or mount what belongs there"
                );
                warn("source", text);
            }
        }
        if !self.roles && self.source.join(mark::FILE).exists() {
            let text = format!("the source holds a role mark ({}), which is copied as data without roles = true", mark::FILE);
            warn("source", text);
        }
        if !self.targets.is_empty()
            && let Some(text) = rsync.unconfined(&self.rsync)
        {
            match self.require_confined {
                true => warn("require_confined", format!("it does not start, for require_confined is set: {text}")),
                false => warn("rsync", text),
            }
        }
        for pattern in self.filter.never_matching() {
            let key = world::pattern_key(&self.filter, pattern);
            let mut text = format!("the pattern \"{}\" matches no path", Shown(pattern));
            if let Some(place) = self.of_file(&key) {
                text = format!("{place}: {text}");
            }
            warn(&key, text);
        }
        out.extend(world::of_mirror(self));
        out
    }

    /// The place of the pattern with this key, if a file of patterns has it.
    fn of_file(&self, key: &str) -> Option<String> {
        let (list, n) = key.split_once('.')?;
        let n: usize = n.parse().ok()?;
        let (all, of_files) = match list {
            "filter" => (self.filter.ordered().len(), self.pattern_files.filtered),
            "include" => (self.filter.include().len(), self.pattern_files.included),
            _ => (self.filter.exclude().len(), self.pattern_files.excluded),
        };
        (n + of_files >= all).then(|| self.origins.of(list, n)).filter(|place| !place.is_empty())
    }

    fn warnings_about(&self, target: &Target, rsync: &dyn LocalRsync) -> world::Notes {
        let mut out = Vec::new();
        let refused = (!target.args.is_empty()).then(|| rsync.refuses(&self.rsync, &target.args)).flatten();
        if let Some(words) = refused {
            out.push(("args".into(), format!("rsync on this host refuses args: {words}")));
        }
        out.extend(world::of_target(target));
        out.extend(world::of_keys_that_go(self, target).map(|text| ("url".into(), text)));
        out.extend(self.extras.refused_by(&target.location).into_iter().map(|text| ("url".into(), text)));
        if let Some(Err(e)) = target.password_file.as_deref().map(|file| trust::file(file, Mind::Secret)) {
            out.push(("password_file".into(), format!("password_file: {e}; {}", e.help())));
        }
        out
    }
}

impl Extras {
    /// What a target on this host cannot take. Others tell only when something is sent.
    fn refused_by(self, location: &Location) -> Vec<String> {
        let Location::Local(path) = location else { return Vec::new() };
        let asked = [
            (self.xattrs, "user.fansync", "extended attributes", "xattrs"),
            (self.acls, "system.posix_acl_access", "ACLs", "acls"),
        ];
        let takes_none = |name: &str| {
            // getxattr(2): ENODATA where it could be there.
            xattr::get(path, name).is_err_and(|e| e.raw_os_error() == Some(nix::libc::EOPNOTSUPP))
        };
        let refused = asked.into_iter().filter(|(wanted, name, ..)| *wanted && takes_none(name));
        refused
            .map(|(_, _, what, key)| {
                format!("the filesystem of {} takes no {what}: files that have some will fail; set {key} = false, or args = [\"--no-{key}\"] for this target", path.display())
            })
            .collect()
    }
}

/// The text of a configuration file that only its owner can change.
pub(crate) fn read_trusted(path: &Path) -> Result<String, ConfigErrors> {
    String::from_utf8(read_trusted_bytes(path)?).map_err(|error| {
        let bytes = error.as_bytes();
        if [&[0xff, 0xfe][..], &[0xfe, 0xff]].iter().any(|mark| bytes.starts_with(mark)) {
            let problem = Problem::new("cannot read the configuration: it is UTF-16").help("save it as UTF-8");
            return ConfigErrors::new(Some(path), "", vec![problem]);
        }
        // The text before that byte is as it was.
        let (text, at) = (String::from_utf8_lossy(bytes), error.utf8_error().valid_up_to());
        let message = format!("cannot read the configuration: it is not UTF-8 (the byte 0x{:02x} here)", bytes[at]);
        let mut problem = Problem::new(message).at(at..at + '\u{fffd}'.len_utf8()).help("save it as UTF-8");
        problem.secret = secrets::may_hold_secret(&text, at);
        ConfigErrors::new(Some(path), &text, vec![problem])
    })
}

/// The same for a file in any encoding.
pub(crate) fn read_trusted_bytes(path: &Path) -> Result<Vec<u8>, ConfigErrors> {
    let fail = |problem| Err(ConfigErrors::new(Some(path), "", vec![problem]));
    let mut bytes = Vec::new();
    let read = open_trusted(path).and_then(|file| {
        let read = file.take(MAX_FILE_BYTES).read_to_end(&mut bytes);
        read.map_err(|source| TrustError::Io { path: path.to_owned(), source })
    });
    match read {
        Ok(_) if bytes.len() as u64 >= MAX_FILE_BYTES => {
            fail(Problem::new("cannot read the configuration: it is larger than 16 MiB").help("is this the right file?"))
        }
        Ok(_) => Ok(bytes),
        Err(TrustError::Io { path: at, source }) if at == path => {
            fail(Problem::new(format!("cannot read the configuration: {source}")))
        }
        Err(error @ (TrustError::Io { .. } | TrustError::Kind { .. })) => {
            fail(Problem::new(format!("cannot read the configuration: {error}")))
        }
        Err(error) => fail(Problem::new(format!("cannot trust the configuration: {error}")).help(error.help())),
    }
}

/// What the caller has open is the caller's, and has no way to it that could be judged.
fn open_trusted(path: &Path) -> Result<File, TrustError> {
    let given = path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd");
    match given {
        true => File::open(path).map_err(|source| TrustError::Io { path: path.to_owned(), source }),
        false => trust::open(path, Mind::Writing),
    }
}

/// The rules that do not hold, each where its key stands, or the section that it is missing in.
pub(crate) fn judge(config: &Config, places: &HashMap<String, Range<usize>>) -> Vec<Problem> {
    let complaints = rules::check(config).into_iter();
    complaints.map(|c| Problem { at: cite::place(places, &c.key), ..Problem::new(c.message).help(c.help) }).collect()
}

/// `path` from the root. `..` is resolved with the links that stand before it, as the shell's user
/// sees it.
fn absolute(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    if !path.components().any(|c| c == Component::ParentDir) {
        return Ok(path);
    }
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out = std::fs::canonicalize(&out)?;
                out.pop();
            }
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(out)
}
