//! Configuration: from a file or a command line to a checked form, with every default filled in.
//!
//! [`Config`] is what the daemon runs on, and nothing in it needs to be looked at twice. It comes from [`Config::load`]
//! or, for `fansync mirror`, from [`Config::for_mirror`]; both hold the same rules and tell all that is wrong at once
//! ([`ConfigErrors`]). What is on the disk (does the source exist, is the password file private) is not looked at here,
//! since it may change before it is used; but links are followed to see whether two places are one.

mod args;
mod checked;
mod cite;
mod ground;
pub mod hook;
mod origins;
mod rules;
mod secret;
#[cfg(test)]
mod tests;
mod toml;
pub mod units;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

pub use args::name_directories;
pub use checked::{
    Batch, Compress, Config, Daemon, Events, Extras, Initial, KernelSwitches, Level, LogConfig, LogFormat, MaxDelete, Mirror,
    Target, Watch,
};
pub use cite::{ConfigErrors, Problem};
pub use origins::Origins;
pub use secret::{SecretFileError, check_secret_file, replaceable_by_others};

use crate::failover::mark;
use crate::filter::Filter;
use crate::path::Shown;
use crate::sync::location::Location;

/// A configuration file larger than this is something else.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// What `fansync mirror` may say besides source and targets; none and empty mean the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Patterns to include, raw bytes.
    pub include: Vec<Vec<u8>>,
    /// Patterns to exclude, raw bytes.
    pub exclude: Vec<Vec<u8>>,
    /// Never delete on the targets.
    pub no_delete: bool,
    /// What is renamed is sent as new content.
    pub no_send_renames: bool,
    /// What is carried over beside content, owner, mode and times.
    pub extras: Extras,
    /// The bound on deletions.
    pub max_delete: Option<MaxDelete>,
    /// The source may become empty at one blow.
    pub allow_empty: bool,
    /// Where changes are heard from.
    pub watch: Option<Watch>,
    /// Send files while they are open for writing.
    pub follow_open_files: bool,
    /// For all targets that are rsync daemons; relative to the working directory.
    pub password_file: Option<PathBuf>,
    /// Runs at the same time, per target.
    pub jobs: Option<usize>,
    /// The status socket; relative to the working directory.
    pub status_socket: Option<PathBuf>,
    /// Form of the log.
    pub log_format: Option<LogFormat>,
    /// Least level of the log.
    pub log_level: Option<Level>,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// The file cannot be read; others may change it (it names commands that run as root); everything that is wrong in it.
    pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
        toml::parse(&read_trusted(path)?, Some(path))
    }

    /// The same for a file's text.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn from_toml(text: &str) -> Result<Config, ConfigErrors> {
        toml::parse(text, None)
    }

    /// The configuration of `fansync mirror SRC TARGET…`: one mirror named `mirror`, targets named `t1`, `t2`, ….
    ///
    /// `source` and the paths in `overrides` are relative to the working directory; `..` in them is resolved.
    ///
    /// # Errors
    /// All that is wrong with the arguments, without places.
    pub fn for_mirror(source: &Path, targets: &[String], overrides: &Overrides) -> Result<Config, ConfigErrors> {
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
        mirror.delete = !overrides.no_delete;
        mirror.send_renames = !overrides.no_send_renames;
        mirror.extras = overrides.extras;
        mirror.max_delete = overrides.max_delete;
        mirror.allow_empty = overrides.allow_empty;
        mirror.watch = overrides.watch.unwrap_or(mirror.watch);
        mirror.follow_open_files = overrides.follow_open_files;
        match Filter::new(&overrides.include, &overrides.exclude) {
            Ok(filter) => {
                mirror.filter = filter;
                mirror.origins = Origins::options(overrides.include.len(), overrides.exclude.len());
            }
            Err(e) => note(e.to_string()),
        }
        for (i, text) in targets.iter().enumerate() {
            match Location::parse(text) {
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

impl Config {
    /// What the disk says against this configuration now, and patterns that match nothing: for `check` to tell. Each is one
    /// line. Some of it may be right again by the time the daemon starts, so none of it is an error here.
    pub fn warnings(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(dir) = self.daemon.metrics_file.as_deref().and_then(Path::parent).filter(|dir| !dir.is_dir()) {
            out.push(format!("daemon: the directory of metrics_file, {}, is not there", dir.display()));
        }
        for mirror in &self.mirrors {
            let mut warn = |text: String| out.push(format!("mirror {:?}: {text}", mirror.name));
            match std::fs::metadata(&mirror.source) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => warn(format!("the source {} is not a directory", mirror.source.display())),
                Err(e) => warn(format!("cannot look at the source {}: {e}", mirror.source.display())),
            }
            if !mirror.roles && mirror.source.join(mark::FILE).exists() {
                warn(format!("the source holds a role mark ({}), which is copied as data without roles = true", mark::FILE));
            }
            for pattern in mirror.filter.never_matching() {
                warn(format!("the pattern \"{}\" matches no path", Shown(pattern)));
            }
            for target in &mirror.targets {
                for text in mirror.extras.refused_by(&target.location) {
                    warn(format!("target {:?}: {text}", target.name));
                }
                if let Some(Err(e)) = target.password_file.as_deref().map(check_secret_file) {
                    warn(format!("target {:?}: {e}", target.name));
                }
            }
            for hook in &mirror.hooks {
                for pattern in hook.filter.never_matching() {
                    warn(format!("hook {:?}: the pattern \"{}\" matches no path", hook.name, Shown(pattern)));
                }
                for e in hook.secret_files().filter_map(|file| check_secret_file(file).err()) {
                    warn(format!("hook {:?}: {e}", hook.name));
                }
            }
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
    String::from_utf8(read_trusted_bytes(path)?).map_err(|_| {
        let problem = Problem::new("cannot read the configuration: it is not UTF-8").help("save it as UTF-8");
        ConfigErrors::new(Some(path), "", vec![problem])
    })
}

/// The same for a file in any encoding.
pub(crate) fn read_trusted_bytes(path: &Path) -> Result<Vec<u8>, ConfigErrors> {
    let fail = |problem| Err(ConfigErrors::new(Some(path), "", vec![problem]));
    let mut bytes = Vec::new();
    // The rights are those of the file that is read, not of what has its name a moment later.
    let read = File::open(path).and_then(|file| {
        let meta = file.metadata()?;
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(meta)
    });
    let meta = match read {
        Ok(meta) => meta,
        Err(e) => return fail(Problem::new(format!("cannot read the configuration: {e}"))),
    };
    if meta.len() >= MAX_FILE_BYTES {
        return fail(Problem::new("cannot read the configuration: it is larger than 16 MiB").help("is this the right file?"));
    }
    if let Some((reason, help)) = secret::distrust(&meta).or_else(|| secret::replaceable(path)) {
        return fail(Problem::new(format!("cannot trust the configuration: {reason}")).help(help));
    }
    Ok(bytes)
}

/// The rules that do not hold, each where its key stands, or the section that it is missing in.
pub(crate) fn judge(config: &Config, places: &HashMap<String, Range<usize>>) -> Vec<Problem> {
    fn ancestors(key: &str) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(key), |key| key.rsplit_once('.').map(|(above, _)| above))
    }
    let complaints = rules::check(config).into_iter();
    complaints
        .map(|c| Problem {
            at: ancestors(&c.key).find_map(|key| places.get(key)).cloned(),
            ..Problem::new(c.message).help(c.help)
        })
        .collect()
}

/// `path` from the root. `..` is resolved with the links that stand before it, as the shell's user sees it.
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
