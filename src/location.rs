//! Where a target lies: an rsync daemon's module, a directory behind ssh, a directory of this host,
//! or a feed on NATS, which followers read.
//!
//! A location is checked when it is read, not when rsync is run: host, user and module become words
//! of a command line that runs as root, so nothing that another program could read as an option or
//! that would break a log line gets this far. Paths are absolute and name a real place below the
//! root, or, behind ssh, relative to the home of the login; `..` is refused, since what it means is
//! decided elsewhere.

mod advice;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};

pub(crate) use advice::{Reach, Trouble};

/// A checked target location. `Display` writes it as [`Location::parse`] reads it; it never holds a
/// password.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A module of an rsync daemon: `rsync://[user@]host[:port]/module[/path]` or
    /// `[user@]host::module[/path]`; `ssh+rsync://[user@]host/module[/path]` for a daemon that a
    /// remote shell starts.
    Daemon {
        /// Whether a remote shell starts the daemon for each run, and carries the connection.
        shell: bool,
        /// Whom to log in as; with `shell` the login of both (rsync(1), USING RSYNC-DAEMON FEATURES
        /// VIA A REMOTE-SHELL CONNECTION).
        user: Option<String>,
        /// Name or address; an IPv6 address without brackets.
        host: String,
        /// TCP port, 873 if not given; none with `shell`.
        port: Option<u16>,
        /// The module's name.
        module: String,
        /// The directory in the module, without leading or trailing slash; empty for the module
        /// itself.
        path: String,
    },
    /// A directory behind a remote shell: `[user@]host:/path`, or `[user@]host:path` for one that
    /// is relative to the directory the login begins in, its home.
    Ssh {
        /// Whom to log in as.
        user: Option<String>,
        /// Name, alias or address; an IPv6 address without brackets.
        host: String,
        /// Without trailing slash. Absolute, or relative to the home of the login; empty for the
        /// home itself.
        path: String,
    },
    /// A directory of this host: `/path`, without trailing slash.
    Local(PathBuf),
    /// A change feed: `nats://host[:port]/feed` or `tls://host[:port]/feed`; several servers of one
    /// cluster with commas between.
    Feed {
        /// With scheme and port, at least one.
        servers: Vec<String>,
        /// The feed's name: letters, digits, `-`, `_`.
        feed: String,
    },
}

/// How rsync starts a daemon through a remote shell (3.1 to 3.5), which greets at once.
pub(crate) const DAEMON: &str = "--server --daemon .";

/// The remote shell's command: what the target says, or ssh. An ssh must not ask on a terminal, nor
/// wait for longer than `connect_timeout` for a connection; what the target says of either comes
/// first, and so holds (ssh_config(5): the first value is used).
pub(crate) fn remote_shell(words: Option<&str>, connect_timeout: Duration) -> String {
    let shell = with_option(words.unwrap_or("ssh"), "BatchMode=yes");
    with_option(&shell, &format!("ConnectTimeout={}", whole_seconds(connect_timeout)))
}

/// An ssh with one more option, which does not outdo those that it has; another shell as it is.
pub(crate) fn with_option(words: &str, option: &str) -> String {
    let program = words.split_whitespace().next().map(Path::new).and_then(Path::file_name);
    match program.is_some_and(|name| name == "ssh") {
        true => format!("{words} -o {option}"),
        false => words.to_owned(),
    }
}

/// Rounded up, at least one.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

/// Why a text is no location.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// The text is not shown, nor may the caller show it.
    #[error(
        "the target holds a password, which would show in process lists and logs; put it into a file, give the file as password_file, and write only user@host"
    )]
    Password,
    /// A relative local path, or something else without host.
    #[error(
        "the target \"{0}\" is neither a remote place nor an absolute path; write /the/whole/path, host:/path, host:path, host::module or rsync://host/module"
    )]
    NotAbsolute(String),
    /// `host:~user/path`.
    #[error("the target \"{0}\" is in the home of another user; write the whole path, as in host:/home/user/path")]
    OtherHome(String),
    /// `ssh://`, `file://`, ...
    #[error("the target \"{0}\" has a scheme that rsync does not know; write rsync://host/module, host:/path or /path")]
    Scheme(String),
    /// `rsync://host` or `host::`.
    #[error("the target \"{0}\" names no module; write rsync://host/module/path")]
    NoModule(String),
    /// A part cannot be used.
    #[error("the target \"{target}\" has the {part} \"{text}\", which {reason}")]
    Part {
        /// The whole text.
        target: String,
        /// Which part.
        part: &'static str,
        /// It.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Location {
    /// Reads a target as the command line and the configuration write it.
    ///
    /// # Errors
    /// See [`LocationError`]; a local path that is relative, a password, a part that another
    /// program might misread.
    pub fn parse(text: &str) -> Result<Location, LocationError> {
        let part = |part, given: &str, reason| LocationError::Part { target: shown(text), part, text: shown(given), reason };
        if text.starts_with('/') {
            let path = absolute(text).map_err(|reason| part("path", text, reason))?;
            return Ok(Location::Local(path.into()));
        }
        if let Some(rest) = text.strip_prefix("rsync://") {
            let (authority, place) = rest.split_once('/').unwrap_or((rest, ""));
            let (user, host) = split_user(authority);
            if user.is_some_and(|u| u.contains(':')) {
                return Err(LocationError::Password);
            }
            let (host, port) = match split_host(host).ok_or_else(|| part("host", host, "has no closing bracket"))? {
                (host, "") => (host, None),
                (host, after) => {
                    let port = after.strip_prefix(':').and_then(|p| p.parse().ok()).filter(|&p: &u16| p > 0);
                    (host, Some(port.ok_or_else(|| part("port", after, "is not a number from 1 to 65535"))?))
                }
            };
            return daemon(text, user, host, port, place);
        }
        if let Some(rest) = text.strip_prefix("ssh+rsync://") {
            let (authority, place) = rest.split_once('/').unwrap_or((rest, ""));
            let (user, host) = split_user(authority);
            if user.is_some_and(|u| u.contains(':')) {
                return Err(LocationError::Password);
            }
            let (host, after) = split_host(host).ok_or_else(|| part("host", host, "has no closing bracket"))?;
            if !after.is_empty() {
                return Err(part("port", after, "belongs to the remote shell: set ssh = \"ssh -p PORT\""));
            }
            return daemon(text, user, host, None, place).map(Location::through_shell);
        }
        if text.starts_with("nats://") || text.starts_with("tls://") {
            return feed(text);
        }
        if text.split_once("://").is_some_and(|(scheme, _)| !scheme.contains(['/', '@', ':'])) {
            return Err(LocationError::Scheme(shown(text)));
        }

        // The user ends at the last `@` before the first byte that only a host or a path can hold.
        let user_end = text.find([':', '[', '/']).map_or(text.len(), |at| text[..at].rfind('@').map_or(0, |at| at + 1));
        let (user, rest) = (text[..user_end].strip_suffix('@'), &text[user_end..]);
        let (host, after) = split_host(rest).ok_or_else(|| part("host", rest, "has no closing bracket"))?;
        let Some(place) = after.strip_prefix(':').filter(|_| !host.contains('/')) else {
            return Err(LocationError::NotAbsolute(shown(text)));
        };
        if let Some(place) = place.strip_prefix(':') {
            return daemon(text, user, host, None, place);
        }
        if place.contains('@') && !place.starts_with('/') && !place.starts_with("./") {
            return Err(LocationError::Password);
        }
        check_user(text, user)?;
        check_host(text, host)?;
        let path = if place.starts_with('/') { absolute(place) } else { of_the_login(text, place)? };
        let path = path.map_err(|reason| part("path", place, reason))?;
        Ok(Location::Ssh { user: user.map(str::to_owned), host: host.to_owned(), path })
    }

    /// The same module behind a remote shell; other places as they are, also a module with a port,
    /// which no remote shell knows.
    pub(crate) fn through_shell(self) -> Location {
        match self {
            Location::Daemon { user, host, port: None, module, path, .. } => {
                Location::Daemon { shell: true, user, host, port: None, module, path }
            }
            other => other,
        }
    }

    /// Another directory in the same place: of this host, of the one behind the login, of the
    /// module. `path`: absolute, in a module from its own directory. `None` for a feed, and for a
    /// path that none may have.
    pub(crate) fn elsewhere(&self, path: &Path) -> Option<Location> {
        let inside = components(path).ok()?;
        match self.clone() {
            Location::Daemon { shell, user, host, port, module, .. } => {
                Some(Location::Daemon { shell, user, host, port, module, path: inside })
            }
            _ if inside.is_empty() => None,
            Location::Ssh { user, host, .. } => Some(Location::Ssh { user, host, path: format!("/{inside}") }),
            Location::Local(_) => Some(Location::Local(format!("/{inside}").into())),
            Location::Feed { .. } => None,
        }
    }

    /// The destination argument for rsync. It ends in `/.`, so that rsync reports a missing
    /// directory and does not create it (measured with 3.5.0: exit code 3 or 11).
    pub(crate) fn dest(&self) -> OsString {
        let mut out = self.argument();
        out.push("/.");
        out
    }

    /// The place as an argument for rsync, to which `/` and a path below may be appended.
    fn argument(&self) -> OsString {
        match self {
            Location::Local(path) => path.clone().into_os_string(),
            // The dot keeps `host:` with a path from being the root, and any path from being read
            // as something else.
            Location::Ssh { path, .. } if !path.starts_with('/') => {
                let dot = if path.is_empty() { "." } else { "./" };
                format!("{}{dot}{path}", self.login()).into()
            }
            // That it is behind a remote shell is given by `-e`.
            Location::Daemon { .. } => self.as_rsync_url().into(),
            other => other.to_string().into(),
        }
    }

    /// `rsync://…` of a module, whatever carries the connection.
    fn as_rsync_url(&self) -> String {
        let Location::Daemon { user, host, port, module, path, .. } = self else { return self.to_string() };
        let port = port.map_or(String::new(), |port| format!(":{port}"));
        let slash = if path.is_empty() { "" } else { "/" };
        format!("rsync://{}{}{port}/{module}{slash}{path}", at(user), bracketed(host))
    }

    /// `[user@]host:` of a place behind ssh, and nothing for others.
    fn login(&self) -> String {
        let Location::Ssh { user, host, .. } = self else { return String::new() };
        format!("{}{}:", at(user), bracketed(host))
    }

    /// The destination argument for something below: `path` is appended byte for byte.
    pub(crate) fn dest_below(&self, path: &[u8]) -> OsString {
        let mut out = self.argument();
        if !path.is_empty() {
            out.push("/");
            out.push(OsStr::from_bytes(path));
        }
        out
    }

    /// How the receiver itself names a directory below, as `--link-dest` wants it in a run into
    /// `dest`, which is below, too. An absolute path, which in a module is one below the module's
    /// own directory (measured with 3.5.0, with and without chroot). Where the place is relative
    /// to a home that only the receiver knows, a path that is relative to `dest`, as rsync(1) has
    /// it for `--link-dest`.
    pub(crate) fn seen_there(&self, path: &[u8], dest: &[u8]) -> OsString {
        let mut out = match self {
            Location::Feed { .. } => OsString::new(),
            Location::Daemon { path, .. } if path.is_empty() => OsString::new(),
            Location::Daemon { path, .. } => format!("/{path}").into(),
            Location::Ssh { path, .. } if !path.starts_with('/') => {
                let up = dest.split(|&b| b == b'/').filter(|name| !name.is_empty()).count();
                [".", &"/..".repeat(up)].concat().into()
            }
            Location::Ssh { path, .. } => path.into(),
            Location::Local(own) => own.clone().into_os_string(),
        };
        out.push("/");
        out.push(OsStr::from_bytes(path));
        out
    }

    /// Whether an rsync daemon is spoken to, which has modules and password files.
    pub(crate) fn is_daemon(&self) -> bool {
        matches!(self, Location::Daemon { .. })
    }

    /// Whether rsync itself connects to a daemon, which is when it knows of `--contimeout` and
    /// socket options.
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self, Location::Daemon { shell: false, .. })
    }

    /// Whether a remote shell carries the connection.
    pub(crate) fn is_behind_shell(&self) -> bool {
        matches!(self, Location::Ssh { .. } | Location::Daemon { shell: true, .. })
    }

    /// Whether it is a feed.
    pub(crate) fn is_feed(&self) -> bool {
        matches!(self, Location::Feed { .. })
    }

    /// The path below `self` that `other` is, if it is the same place (empty) or lies below. Two
    /// names for one host are not recognised, nor are the whole path of a place and the one from
    /// the home.
    pub(crate) fn holds(&self, other: &Location) -> Option<String> {
        let below = |above: &str, path: &str| match path.strip_prefix(above)? {
            "" => Some(String::new()),
            rest if above.is_empty() => Some(rest.to_owned()),
            rest => rest.strip_prefix('/').map(str::to_owned),
        };
        match (self, other) {
            (
                Location::Daemon { host: h, port: n, module: m, path: p, .. },
                Location::Daemon { host, port, module, path, .. },
            ) if h.eq_ignore_ascii_case(host) && n.unwrap_or(873) == port.unwrap_or(873) && m == module => below(p, path),
            (Location::Ssh { user: u, host: h, path: p }, Location::Ssh { user, host, path })
                if u == user && h.eq_ignore_ascii_case(host) && p.starts_with('/') == path.starts_with('/') =>
            {
                below(p, path)
            }
            (Location::Local(p), Location::Local(path)) => below(p.to_str()?, path.to_str()?),
            (Location::Feed { servers: s, feed: f }, Location::Feed { servers, feed })
                if f == feed && s.iter().any(|server| servers.contains(server)) =>
            {
                Some(String::new())
            }
            _ => None,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Daemon { shell, .. } => {
                let by = if *shell { "ssh+" } else { "" };
                write!(f, "{by}{}", self.as_rsync_url())
            }
            Location::Ssh { path, .. } => {
                // What would be read as a module, another home or a password without the dot.
                let dot = if !path.starts_with('/') && (path.starts_with([':', '~']) || path.contains('@')) { "./" } else { "" };
                write!(f, "{}{dot}{path}", self.login())
            }
            Location::Local(path) => path.display().fmt(f),
            Location::Feed { servers, feed } => write!(f, "{}/{feed}", servers.join(",")),
        }
    }
}

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn daemon(text: &str, user: Option<&str>, host: &str, port: Option<u16>, place: &str) -> Result<Location, LocationError> {
    let part = |part, given: &str, reason| LocationError::Part { target: shown(text), part, text: shown(given), reason };
    check_user(text, user)?;
    check_host(text, host)?;
    let (module, path) = place.split_once('/').unwrap_or((place, ""));
    if module.is_empty() {
        return Err(LocationError::NoModule(shown(text)));
    }
    if module.starts_with('-') {
        return Err(part("module", module, "begins with -, as an option does"));
    }
    if module.chars().any(char::is_control) || matches!(module, "." | "..") || module.starts_with(':') {
        return Err(part("module", module, "is no name of a module"));
    }
    let path =
        if path.is_empty() { String::new() } else { components(Path::new(path)).map_err(|reason| part("path", path, reason))? };
    let (user, host, module) = (user.map(str::to_owned), host.to_owned(), module.to_owned());
    Ok(Location::Daemon { shell: false, user, host, port, module, path })
}

/// The servers of a feed, and its name behind the last slash.
fn feed(text: &str) -> Result<Location, LocationError> {
    let part = |part, given: &str, reason| LocationError::Part { target: shown(text), part, text: shown(given), reason };
    let (places, name) = text.rsplit_once('/').unwrap_or((text, ""));
    let mut servers = Vec::new();
    for place in places.split(',') {
        servers.push(feed_server(place).map_err(|e| match e {
            LocationError::Part { part, text: given, reason, .. } => {
                LocationError::Part { target: shown(text), part, text: given, reason }
            }
            other => other,
        })?);
    }
    if name.is_empty() || name.len() > 64 || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        return Err(part("feed", name, "is no name of a feed: letters, digits, - and _, as in nats://hub:4222/web"));
    }
    Ok(Location::Feed { servers, feed: name.to_owned() })
}

/// A NATS server: `nats://host[:port]` or `tls://host[:port]`, with the port.
///
/// # Errors
/// A user or a password, which belong into the configuration; a part that is none.
pub(crate) fn feed_server(text: &str) -> Result<String, LocationError> {
    let part = |part, given: &str, reason| LocationError::Part { target: shown(text), part, text: shown(given), reason };
    let scheme = ["nats://", "tls://"].into_iter().find(|scheme| text.starts_with(scheme));
    let Some(scheme) = scheme else { return Err(part("server", text, "is neither nats://host:port nor tls://host:port")) };
    let place = &text[scheme.len()..];
    if place.contains('@') {
        return Err(LocationError::Password);
    }
    let (host, after) = split_host(place).ok_or_else(|| part("host", place, "has no closing bracket"))?;
    check_host(text, host)?;
    let port = match after {
        "" => 4222,
        after => {
            let port = after.strip_prefix(':').and_then(|p| p.parse().ok()).filter(|&p: &u16| p > 0);
            port.ok_or_else(|| part("port", after, "is not a number from 1 to 65535"))?
        }
    };
    Ok(format!("{scheme}{}:{port}", bracketed(host)))
}

/// `user@`, where there is a user.
fn at(user: &Option<String>) -> String {
    user.as_ref().map_or(String::new(), |user| format!("{user}@"))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// A path from the home of the login, normalised; empty for the home itself.
fn of_the_login(text: &str, place: &str) -> Result<Result<String, &'static str>, LocationError> {
    let path = match place.strip_prefix('~') {
        None => place,
        // What a shell there would make of it.
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest.trim_start_matches('/'),
        Some(_) => return Err(LocationError::OtherHome(shown(text))),
    };
    Ok(if path.is_empty() { Ok(String::new()) } else { components(Path::new(path)) })
}

/// `user@rest`; the user may hold an `@` itself, as rsync has it.
fn split_user(text: &str) -> (Option<&str>, &str) {
    text.rsplit_once('@').map_or((None, text), |(user, rest)| (Some(user), rest))
}

/// The host and what follows it from the colon on; `None` when a bracket is not closed.
fn split_host(text: &str) -> Option<(&str, &str)> {
    match text.strip_prefix('[') {
        Some(inner) => inner.split_once(']'),
        None => Some(text.split_at(text.find(':').unwrap_or(text.len()))),
    }
}

fn check_user(text: &str, user: Option<&str>) -> Result<(), LocationError> {
    let Some(user) = user else { return Ok(()) };
    let reason = if user.is_empty() {
        "is empty"
    } else if user.starts_with('-') {
        "begins with -, as an option does"
    } else if user.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | ':' | '[' | ']')) {
        "holds a character that no user name has"
    } else {
        return Ok(());
    };
    Err(LocationError::Part { target: shown(text), part: "user", text: shown(user), reason })
}

fn check_host(text: &str, host: &str) -> Result<(), LocationError> {
    let reason = if host.is_empty() {
        "is empty"
    } else if host.starts_with('-') {
        "begins with -, as an option does"
    } else if host.contains(':') && host.split('%').next().is_none_or(|a| a.parse::<std::net::Ipv6Addr>().is_err()) {
        "is not an IPv6 address"
    } else if host.contains(|c: char| c.is_control() || c.is_whitespace() || "/@[]\\\"'`$&;|<>(){}*?!#,".contains(c)) {
        "holds a character that no host name has"
    } else {
        return Ok(());
    };
    Err(LocationError::Part { target: shown(text), part: "host", text: shown(host), reason })
}

/// An absolute path in normal form.
fn absolute(text: &str) -> Result<String, &'static str> {
    let path = components(Path::new(text))?;
    // A mirror that deletes has no business at the root of a whole system.
    if path.is_empty() { Err("is the root of the file system; write a directory below it") } else { Ok(format!("/{path}")) }
}

/// The components, joined; no leading or trailing slash.
fn components(path: &Path) -> Result<String, &'static str> {
    let mut out = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name.to_str().ok_or("is not UTF-8")?),
            Component::ParentDir => return Err("holds .. ; write the path that it means"),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if out.iter().any(|name| name.contains(char::is_control)) {
        return Err("holds a control character");
    }
    Ok(out.join("/"))
}

/// For a message: one line, whatever is in it.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn module(user: Option<&str>, host: &str, port: Option<u16>, module: &str, path: &str) -> Location {
        let (user, host, module, path) = (user.map(str::to_owned), host.into(), module.into(), path.into());
        Location::Daemon { shell: false, user, host, port, module, path }
    }

    fn ssh(user: Option<&str>, host: &str, path: &str) -> Location {
        Location::Ssh { user: user.map(str::to_owned), host: host.into(), path: path.into() }
    }

    #[test]
    fn feeds() {
        let feed = |servers: &[&str], feed: &str| Location::Feed {
            servers: servers.iter().map(|s| (*s).to_owned()).collect(),
            feed: feed.to_owned(),
        };
        for (text, want, shown) in [
            ("nats://hub/web", feed(&["nats://hub:4222"], "web"), "nats://hub:4222/web"),
            ("tls://hub:4443/a-b_C", feed(&["tls://hub:4443"], "a-b_C"), "tls://hub:4443/a-b_C"),
            ("nats://a,tls://[::1]:1/w", feed(&["nats://a:4222", "tls://[::1]:1"], "w"), "nats://a:4222,tls://[::1]:1/w"),
        ] {
            let parsed = Location::parse(text).unwrap();
            assert_eq!((parsed.to_string(), &parsed), (shown.to_owned(), &want), "{text}");
            assert_eq!(Location::parse(shown).unwrap(), want);
            assert!(parsed.is_feed() && !parsed.is_daemon());
        }
        for wrong in
            ["nats://hub", "nats://hub/", "nats:///web", "nats://hub:0/web", "nats://hub/a.b", "nats://hub/a/b", "nats://a,b/web"]
        {
            assert!(matches!(Location::parse(wrong), Err(LocationError::Part { .. })), "{wrong}");
        }
        assert_eq!(Location::parse("nats://u:p@hub/web"), Err(LocationError::Password));
        let one = Location::parse("nats://a,nats://b/web").unwrap();
        assert_eq!(one.holds(&Location::parse("nats://b/web").unwrap()), Some(String::new()));
        assert_eq!(one.holds(&Location::parse("nats://b/other").unwrap()), None);
    }

    #[test]
    fn forms() {
        for (text, want, dest) in [
            ("rsync://h/m", module(None, "h", None, "m", ""), "rsync://h/m/."),
            ("rsync://u@h:8730/m/a//b/", module(Some("u"), "h", Some(8730), "m", "a/b"), "rsync://u@h:8730/m/a/b/."),
            ("rsync://[::1]:873/m/", module(None, "::1", Some(873), "m", ""), "rsync://[::1]:873/m/."),
            ("h::m", module(None, "h", None, "m", ""), "rsync://h/m/."),
            ("u@h::m/a/./b", module(Some("u"), "h", None, "m", "a/b"), "rsync://u@h/m/a/b/."),
            ("u@[fe80::1%eth0]::m/a b", module(Some("u"), "fe80::1%eth0", None, "m", "a b"), "rsync://u@[fe80::1%eth0]/m/a b/."),
            ("ssh+rsync://h/m", module(None, "h", None, "m", "").through_shell(), "rsync://h/m/."),
            ("ssh+rsync://u@[::1]/m/a/", module(Some("u"), "::1", None, "m", "a").through_shell(), "rsync://u@[::1]/m/a/."),
            ("u@h:/a/", ssh(Some("u"), "h", "/a"), "u@h:/a/."),
            ("u@dom@h:/a", ssh(Some("u@dom"), "h", "/a"), "u@dom@h:/a/."),
            ("h:/a:b@c", ssh(None, "h", "/a:b@c"), "h:/a:b@c/."),
            ("[::1]:/a", ssh(None, "::1", "/a"), "[::1]:/a/."),
            ("h:a/./b//", ssh(None, "h", "a/b"), "h:./a/b/."),
            ("u@h:a:b", ssh(Some("u"), "h", "a:b"), "u@h:./a:b/."),
            ("[::1]:a b", ssh(None, "::1", "a b"), "[::1]:./a b/."),
            ("h:./:a", ssh(None, "h", ":a"), "h:./:a/."),
            ("h:./~a", ssh(None, "h", "~a"), "h:./~a/."),
            ("h:./a@b", ssh(None, "h", "a@b"), "h:./a@b/."),
            ("h:~/a", ssh(None, "h", "a"), "h:./a/."),
            ("h:~", ssh(None, "h", ""), "h:./."),
            ("h:.", ssh(None, "h", ""), "h:./."),
            ("u@h:", ssh(Some("u"), "h", ""), "u@h:./."),
            ("/a/b", Location::Local("/a/b".into()), "/a/b/."),
            ("//a/./b:c/", Location::Local("/a/b:c".into()), "/a/b:c/."),
        ] {
            let parsed = Location::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((&parsed, parsed.dest()), (&want, dest.into()), "{text}");
            assert_eq!(Location::parse(&parsed.to_string()).as_ref(), Ok(&want), "{text}");
        }
    }

    #[test]
    fn a_module_with_a_port_has_no_shell() {
        let socket = Location::parse("rsync://h:873/m").unwrap();
        assert_eq!(socket.clone().through_shell(), socket);
        let behind = Location::parse("h::m").unwrap().through_shell();
        assert!(behind.is_daemon() && behind.is_behind_shell() && !behind.is_socket());
        assert_eq!(Location::parse("ssh+rsync://u:p@h/m"), Err(LocationError::Password));
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "a",
            "a/b",
            "./a",
            "../a",
            "~/a",
            "a/b:c",
            "h:~bob",
            "h:~bob/a",
            "h:../a",
            "h:a/../b",
            "h:~/../a",
            "h:a\nb",
            "-h:a",
            "h h:a",
            "h::",
            "h::/a",
            "ssh+rsync://h",
            "ssh+rsync://h:22/m",
            "ssh+rsync:///m",
            "ssh+rsync://h/../m",
            "rsync://h",
            "rsync://h/",
            "rsync:///m",
            "rsync://h:0/m",
            "rsync://h:99999/m",
            "rsync://h:x/m",
            "rsync://[::1/m",
            "[::1:/a",
            "[x:y]:/a",
            "ssh://h/a",
            "file:///a",
            "/",
            "//",
            "/a/../b",
            "h:/..",
            "h:/",
            "h::m/../x",
            "h::..",
            "rsync://h/m/..",
            "-oProxyCommand=x:/a",
            "-h::m",
            "h::-m",
            "u@-h:/a",
            "-u@h:/a",
            "@h:/a",
            "h h:/a",
            "h;x:/a",
            "$(x):/a",
            "h\n:/a",
            "/a\nb",
            "h::m\n",
            "h:/a\tb",
            "rsync://-h/m",
            "rsync://h/-m",
        ] {
            assert!(Location::parse(text).is_err(), "{text:?} gives {:?}", Location::parse(text));
        }
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        for text in [
            "rsync://u:secret@h/m",
            "u:secret@h::m",
            "u:secret@h:/a",
            "u:secret@h:",
            "u:secret@h:a",
            "rsync://u:secret@h",
            "rsync://u:sec@ret@h/m",
        ] {
            let error = Location::parse(text).unwrap_err();
            assert_eq!(error, LocationError::Password, "{text}");
            assert!(error.to_string().contains("password_file") && !error.to_string().contains("sec"), "{error}");
        }
    }

    #[test]
    fn places_below_and_how_the_receiver_names_them() {
        for (text, path, dest, below, seen) in [
            ("h:/a", "x", "d/e", "h:/a/x", "/a/x"),
            ("h:a", "x", "d/e", "h:./a/x", "./../../x"),
            ("h:a", "d/e", "", "h:./a/d/e", "./d/e"),
            ("h:", "x/y", "d", "h:./x/y", "./../x/y"),
            ("h:", "", "d", "h:.", "./../"),
            ("h::m/s", "x", "d", "rsync://h/m/s/x", "/s/x"),
            ("/a", "x", "d", "/a/x", "/a/x"),
        ] {
            let place = Location::parse(text).unwrap();
            assert_eq!(place.dest_below(path.as_bytes()), below, "{text}");
            assert_eq!(place.seen_there(path.as_bytes(), dest.as_bytes()), seen, "{text}");
        }
    }

    #[test]
    fn a_module_named_with_a_slash_is_a_path() {
        assert_eq!(Location::parse("h::m/x").unwrap(), module(None, "h", None, "m", "x"));
    }

    #[test]
    fn which_place_holds_which() {
        for (above, other, want) in [
            ("rsync://h/m", "h::m", Some("")),
            ("rsync://h/m", "u@H::m/a/b", Some("a/b")),
            ("rsync://h:873/m/a", "h::m/a/b", Some("b")),
            ("h::m/a", "h::m/ab", None),
            ("h::m/a", "h::m", None),
            ("h::m", "h::n", None),
            ("ssh+rsync://h/m", "h::m/a", Some("a")),
            ("rsync://h:1/m", "h::m", None),
            ("/a", "/a/b/c", Some("b/c")),
            ("/a", "/ab", None),
            ("h:/a", "h:/a", Some("")),
            ("h:/a", "/a", None),
            ("h:", "h:", Some("")),
            ("h:", "h:a/b", Some("a/b")),
            ("h:a", "h:./a/b", Some("b")),
            ("h:a", "h:ab", None),
            ("h:", "h:/a", None),
            ("h:a", "h:/a", None),
        ] {
            let [above, other] = [above, other].map(|t| Location::parse(t).unwrap());
            assert_eq!(above.holds(&other).as_deref(), want, "{above} {other}");
        }
    }

    fn location() -> impl Strategy<Value = Location> {
        let user = proptest::option::of("[a-zA-Z0-9_.éß-]{1,8}(@[a-z.]{1,5})?".prop_filter("an option", |u| !u.starts_with('-')));
        let host = prop_oneof![
            "[a-zA-Z0-9_.][a-zA-Z0-9_.-]{0,12}",
            any::<std::net::Ipv6Addr>().prop_map(|a| a.to_string()),
            any::<std::net::Ipv6Addr>().prop_map(|a| format!("{a}%eth0")),
        ];
        let name = "[^/\\pC]{1,9}".prop_filter("no name", |n| !matches!(n.as_str(), "." | ".."));
        let path = proptest::collection::vec(name, 0..4).prop_map(|p| p.join("/"));
        let module = "[^/\\pC:-][^/\\pC]{0,9}".prop_filter("no name", |n| !matches!(n.as_str(), "." | ".."));
        let some = path.clone().prop_filter("the root", |p| !p.is_empty()).prop_map(|p| format!("/{p}"));
        prop_oneof![
            (any::<bool>(), user.clone(), host.clone(), proptest::option::of(1u16..), module, path.clone()).prop_map(
                |(shell, user, host, port, module, path)| {
                    let port = port.filter(|_| !shell);
                    Location::Daemon { shell, user, host, port, module, path }
                }
            ),
            (user, host, prop_oneof![some.clone(), path]).prop_map(|(user, host, path)| Location::Ssh { user, host, path }),
            some.prop_map(|p| Location::Local(p.into())),
        ]
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(x in location()) {
            prop_assert_eq!(Location::parse(&x.to_string()), Ok(x));
        }

        #[test]
        fn any_text_is_read_or_refused_on_one_line(text in "\\PC{0,20}|[ru@:/\\[\\]a.\n-]{0,16}") {
            match Location::parse(&text) {
                Ok(x) => prop_assert_eq!(Location::parse(&x.to_string()), Ok(x)),
                Err(e) => prop_assert!(!e.to_string().contains('\n')),
            }
        }
    }
}
