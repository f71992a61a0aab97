//! The file of `fansync failover`: what a server needs, what a client needs, or both.
//!
//! Read by serde, told with the same citations as the mirror's file: an unknown key is an error with its place.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::User;
use serde::{Deserialize, Deserializer};

use super::front::sandbox::Identity;
use super::machine::{Side, Thresholds};
use super::{probe, wire};
use crate::config::{ConfigErrors, Problem, may_hold_url, units};
use crate::log::{Level, LogConfig, LogFormat};

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[daemon]`.
    pub daemon: Daemon,
    /// `[server]`: this host exports the tree.
    pub server: Option<Server>,
    /// `[[failover]]`: this host mounts it.
    #[serde(default, rename = "failover")]
    pub clients: Vec<Client>,
}

/// What concerns the process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// The secret that all hosts share.
    pub key_file: PathBuf,
    /// For status and orders.
    #[serde(default = "socket")]
    pub socket: PathBuf,
    /// Where mounts are kept ready, and what was held is remembered.
    #[serde(default = "run_dir")]
    pub run_dir: PathBuf,
    /// Where metrics are served, if at all.
    #[serde(default, deserialize_with = "address")]
    pub metrics: Option<SocketAddr>,
    /// Whether what reads from the network has given up its rights.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// The user that it becomes then.
    #[serde(default = "sandbox_user")]
    pub sandbox_user: String,
    /// `text` or `json`.
    #[serde(default = "text", deserialize_with = "choice")]
    pub log_format: LogFormat,
    /// The least level that is written.
    #[serde(default = "info", deserialize_with = "choice")]
    pub log_level: Level,
}

/// Whether the process that reads from the network gives up its rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// Without that nothing runs.
    #[default]
    Required,
    /// It keeps them.
    Off,
}

/// A server's part.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The exported tree, which holds the mark.
    pub tree: PathBuf,
    /// Address and port for the others; `None`: the address of this host that faces the peer.
    pub listen: Option<String>,
    /// The other server's.
    pub peer: String,
    /// What is exported, as exportfs(8) takes it: `10.0.0.0/24:/srv/data`.
    pub exports: Vec<String>,
    /// Export options besides rw and ro.
    #[serde(default)]
    pub export_options: String,
    /// The program.
    #[serde(default = "exportfs")]
    pub exportfs: PathBuf,
    /// The mirror daemon that pushes this tree to the peer.
    #[serde(default = "mirror_socket")]
    pub mirror_socket: PathBuf,
    /// Its `[[mirror]]`.
    pub mirror: String,
    /// How long clients may wait for the last changes to reach the peer.
    #[serde(default = "flush_timeout", deserialize_with = "duration")]
    pub flush_timeout: Duration,
}

/// How the mount is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One mount point, on which one mount replaces the other.
    Mount,
    /// `mount` is a symbolic link to one of two mounts beside it, `MOUNT.primary` and `MOUNT.backup`.
    Symlink,
}

/// A client's mount.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// For people, files and orders.
    pub name: String,
    /// The mount point, or the link.
    pub mount: PathBuf,
    /// Which of both.
    #[serde(default = "one_mount")]
    pub layout: Layout,
    /// `[failover.primary]`.
    pub primary: Remote,
    /// `[failover.backup]`.
    pub backup: Remote,
    /// `[failover.probe]`.
    #[serde(default)]
    pub probe: Probe,
    /// Whether fail-back begins by itself.
    #[serde(default = "automatic")]
    pub failback: Failback,
    /// `[[failover.hook]]`.
    #[serde(default, rename = "hook")]
    pub hooks: Vec<Hook>,
}

/// Whether fail-back begins by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Failback {
    /// Once the primary has been back for `back_after`.
    Auto,
    /// When somebody says so.
    Manual,
}

/// A server as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    /// Name or address.
    pub host: String,
    /// The exported directory.
    pub export: String,
    /// NFS version: `3`, `4.2`.
    #[serde(default = "version")]
    pub version: String,
    /// Mount options besides the version.
    #[serde(default = "options")]
    pub options: String,
    /// NFS's port.
    #[serde(default = "nfs_port")]
    pub port: u16,
    /// Address and port of the server role there; port 7846 of `host` unless given.
    pub agent: Option<String>,
    /// For mount(8).
    #[serde(default = "fstype")]
    pub fstype: String,
}

/// When a server counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Probe {
    /// Between two questions to a server that answers.
    #[serde(deserialize_with = "duration")]
    pub every: Duration,
    /// For one answer.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// Missing answers, ...
    pub misses: u32,
    /// ... of this many.
    pub of: u32,
    /// Answers in a row after which it is back.
    pub returns: u32,
    /// How long it has to be back before fail-back begins.
    #[serde(deserialize_with = "duration")]
    pub back_after: Duration,
}

/// Whom to tell.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// Of what.
    pub on: Vec<Event>,
    /// A program and its arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Or a place to POST a JSON object to.
    pub url: Option<String>,
}

/// What hooks hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// The mount was moved to the backup.
    Switch,
    /// The mount was moved to the primary.
    Failback,
    /// Something needs somebody.
    Alarm,
}

impl Event {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Event::Switch => "switch",
            Event::Failback => "failback",
            Event::Alarm => "alarm",
        }
    }
}

impl Default for Probe {
    fn default() -> Probe {
        let [timeout, back_after] = [1, 30].map(Duration::from_secs);
        Probe { every: Duration::from_millis(500), timeout, misses: 3, of: 4, returns: 3, back_after }
    }
}

impl Probe {
    /// From one question to the next. One that is refused, as while an NFS server restarts, counts for as long as one that is not
    /// answered: what is borne is a time, whatever the trouble.
    pub fn pace(&self, answered: bool) -> Duration {
        if answered { self.every } else { self.every.max(self.timeout) }
    }
}

impl Daemon {
    /// Whom the process that reads from the network becomes, if it is to give up its rights.
    ///
    /// # Errors
    /// There is no such user, or it is root.
    pub fn identity(&self) -> Result<Option<Identity>, String> {
        if self.sandbox == Sandbox::Off {
            return Ok(None);
        }
        let name = &self.sandbox_user;
        let found = match name.parse() {
            Ok(uid) => Ok(Some(Identity { uid, gid: uid })),
            Err(_) => User::from_name(name).map(|user| user.map(|u| Identity { uid: u.uid.as_raw(), gid: u.gid.as_raw() })),
        };
        match found {
            Ok(Some(Identity { uid: 0, .. } | Identity { gid: 0, .. })) => {
                Err(format!("sandbox_user = {name:?} has the rights of root: name another user"))
            }
            Ok(Some(to)) => Ok(Some(to)),
            Ok(None) => Err(format!("there is no user {name:?}, which sandbox_user names: name another, or give a number")),
            Err(e) => Err(format!("the user {name:?}, which sandbox_user names, cannot be looked up: {e}")),
        }
    }
}

impl Server {
    /// Where the server role listens: what the file says, else the usual port of the address from which the peer is reached, so that no other
    /// network sees it.
    ///
    /// # Errors
    /// The peer's name cannot be looked up, or no route leads to it.
    pub fn listen_on(&self) -> std::io::Result<String> {
        if let Some(listen) = &self.listen {
            return Ok(listen.clone());
        }
        let peer = self.peer.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
        let any: SocketAddr = if peer.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        // Nothing is sent: connecting such a socket asks for the route alone.
        let probe = UdpSocket::bind(any)?;
        probe.connect(peer)?;
        Ok(SocketAddr::new(probe.local_addr()?.ip(), wire::PORT).to_string())
    }

    /// The same, for people.
    pub fn listen_text(&self) -> String {
        self.listen.clone().unwrap_or_else(|| format!("port {} of the address that faces {}", wire::PORT, self.peer))
    }
}

impl Client {
    /// The server of a side.
    pub fn remote(&self, side: Side) -> &Remote {
        match side {
            Side::Primary => &self.primary,
            Side::Backup => &self.backup,
        }
    }

    /// For the state machine.
    pub fn thresholds(&self) -> Thresholds {
        let p = &self.probe;
        Thresholds {
            misses: p.misses,
            of: p.of,
            returns: p.returns,
            failback_after: (self.failback == Failback::Auto).then_some(p.back_after),
            orphan_after: p.pace(false) * 10,
        }
    }
}

impl Remote {
    /// As the mount table shows it.
    pub fn source(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.export)
    }

    /// NFS's major version.
    pub fn major(&self) -> u32 {
        if self.version.starts_with('3') { 3 } else { 4 }
    }

    /// Where its server role listens.
    pub fn agent(&self) -> String {
        self.agent.clone().unwrap_or_else(|| match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, wire::PORT),
            false => format!("{}:{}", self.host, wire::PORT),
        })
    }
}

impl Config {
    /// Whether a file is meant for `fansync failover` and not for the mirror: it says `[server]` or `[[failover]]`, and no `[[mirror]]`. Not so
    /// for what cannot be read, or is no TOML.
    pub fn is_one(path: &Path) -> bool {
        let Ok(text) = std::fs::read_to_string(path) else { return false };
        let Ok(table) = text.parse::<toml::Table>() else { return false };
        (table.contains_key("failover") || table.contains_key("server")) && !table.contains_key("mirror")
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
        let text = crate::config::read_trusted(path)?;
        Config::parse(&text, Some(path))
    }

    /// Checks a text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: Option<&Path>) -> Result<Config, ConfigErrors> {
        let config: Config = toml::from_str(text).map_err(|e| {
            let secret = e.span().is_some_and(|at| may_hold_url(text, at.start));
            let problem = Problem { at: e.span(), secret, ..Problem::new(e.message()) };
            ConfigErrors::new(path, text, vec![problem])
        })?;
        let wrong = config.wrong();
        if wrong.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors::new(path, text, wrong.into_iter().map(Problem::new).collect()))
        }
    }

    /// How the log looks.
    pub fn log(&self) -> LogConfig {
        LogConfig { format: self.daemon.log_format, level: self.daemon.log_level }
    }

    fn wrong(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut absolute = |what: &str, path: &Path| {
            let plain = path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
            if !path.is_absolute() || !plain || path.components().count() < 2 {
                out.push(format!("{what} {} is not an absolute path below / without ..", path.display()));
            }
        };
        absolute("key_file", &self.daemon.key_file);
        absolute("socket", &self.daemon.socket);
        absolute("run_dir", &self.daemon.run_dir);
        if let Some(server) = &self.server {
            absolute("tree", &server.tree);
        }
        self.clients.iter().for_each(|c| absolute("mount", &c.mount));
        if self.server.is_none() && self.clients.is_empty() {
            out.push("there is neither a [server] nor a [[failover]]".into());
        }
        if let Some(server) = &self.server {
            if server.exports.is_empty() {
                out.push("[server] has no exports; write them as exportfs takes them: \"10.0.0.0/24:/srv/data\"".into());
            }
            for export in server.exports.iter().filter(|e| !e.contains(":/") || e.starts_with('-')) {
                out.push(format!("the export {export:?} is not of the form CLIENTS:/DIRECTORY"));
            }
            if server.export_options.split(',').any(|o| matches!(o, "ro" | "rw")) {
                out.push("export_options must not say ro or rw: the role does".into());
            }
        }
        for (i, c) in self.clients.iter().enumerate() {
            let plain = |ch: char| ch.is_ascii_alphanumeric() || "-_".contains(ch);
            if c.name.is_empty() || !c.name.chars().all(plain) {
                out.push(format!("the name {:?} must be of letters, digits, - and _", c.name));
            }
            if self.clients[..i].iter().any(|o| o.name == c.name || o.mount == c.mount) {
                out.push(format!("two [[failover]] have the name or the mount of {:?}", c.name));
            }
            if c.primary.source() == c.backup.source() {
                out.push(format!("primary and backup of {:?} are the same", c.name));
            }
            let p = &c.probe;
            if !(1..=32).contains(&p.of) || !(1..=p.of).contains(&p.misses) || p.returns == 0 {
                out.push(format!("the probe of {:?} needs 1 <= misses <= of <= 32, and returns >= 1", c.name));
            }
            for remote in [&c.primary, &c.backup] {
                if remote.host.is_empty() || remote.host.starts_with('-') || !remote.export.starts_with('/') {
                    out.push(format!("{:?}: {} is no host and directory", c.name, remote.source()));
                }
                if !["3", "4", "4.0", "4.1", "4.2"].contains(&remote.version.as_str()) {
                    out.push(format!("{:?}: NFS version {:?}; write \"3\" or \"4.2\"", c.name, remote.version));
                }
                if remote.options.split(',').any(|o| o == "bg") {
                    out.push(format!("{:?}: the mount option bg hides a mount that did not come to be; remove it", c.name));
                }
            }
            for hook in &c.hooks {
                if hook.command.is_empty() == hook.url.is_none() {
                    out.push(format!("a hook of {:?} needs a command or a url", c.name));
                }
            }
        }
        out
    }
}

/// The usual socket.
pub(super) fn socket() -> PathBuf {
    "/run/fansync/failover.sock".into()
}
fn run_dir() -> PathBuf {
    "/run/fansync/failover".into()
}
fn sandbox_user() -> String {
    "nobody".into()
}
fn text() -> LogFormat {
    LogFormat::Text
}
fn info() -> Level {
    Level::Info
}
fn exportfs() -> PathBuf {
    "exportfs".into()
}
fn mirror_socket() -> PathBuf {
    "/run/fansync/status.sock".into()
}
fn flush_timeout() -> Duration {
    Duration::from_secs(1)
}
fn one_mount() -> Layout {
    Layout::Mount
}
fn automatic() -> Failback {
    Failback::Auto
}
fn version() -> String {
    "4.2".into()
}
fn options() -> String {
    "hard,noatime".into()
}
fn nfs_port() -> u16 {
    probe::PORT
}
fn fstype() -> String {
    "nfs".into()
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    units::duration(&text).map_err(serde::de::Error::custom)
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    units::address(&text).map(Some).map_err(serde::de::Error::custom)
}

fn choice<'de, D: Deserializer<'de>, T: clap::ValueEnum>(from: D) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    T::from_str(&text, false).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = r#"
[daemon]
key_file = "/etc/fansync/failover.key"
[[failover]]
name = "web"
mount = "/srv/www"
[failover.primary]
host = "10.0.0.1"
export = "/srv/data"
[failover.backup]
host = "fe80::2"
export = "/srv/data"
version = "3"
"#;

    #[test]
    fn told_apart_from_a_mirrors() {
        let dir = tempfile::tempdir().unwrap();
        let is_one = |text: &str| {
            let path = dir.path().join("file");
            std::fs::write(&path, text).unwrap();
            Config::is_one(&path)
        };
        assert!(is_one(CLIENT));
        assert!(is_one("[server]"));
        assert!(!is_one("[[mirror]]\n[server]"));
        assert!(!is_one("[daemon]"));
        assert!(!is_one("[server"));
        assert!(!Config::is_one(&dir.path().join("none")));
    }

    #[test]
    fn whom_the_process_that_reads_from_the_network_becomes() {
        for (line, want) in [
            ("", Ok(Some(()))),
            ("sandbox = \"required\"\nsandbox_user = \"65534\"", Ok(Some(()))),
            ("sandbox = \"off\"\nsandbox_user = \"root\"", Ok(None)),
            ("sandbox_user = \"root\"", Err("rights of root")),
            ("sandbox_user = \"0\"", Err("rights of root")),
            ("sandbox_user = \"no-such-user\"", Err("there is no user")),
        ] {
            let config = Config::parse(&CLIENT.replace("[[failover]]", &format!("{line}\n[[failover]]")), None).unwrap();
            match (config.daemon.identity(), want) {
                (Ok(got), Ok(want)) => assert_eq!(got.is_some(), want.is_some(), "{line}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{line}: {got}"),
                (got, want) => panic!("{line}: {got:?}, not {want:?}"),
            }
        }
        assert!(Config::parse(&CLIENT.replace("[[failover]]", "sandbox = \"maybe\"\n[[failover]]"), None).is_err());
    }

    #[test]
    fn a_server_listens_where_its_peer_is_and_nowhere_else() {
        let server = |lines: &str| {
            let text = format!(
                "[daemon]\nkey_file = \"/k\"\n[server]\ntree = \"/srv\"\nmirror = \"m\"\nexports = [\"h:/srv\"]\n{lines}\n"
            );
            Config::parse(&text, None).unwrap().server.unwrap()
        };
        for (peer, listens) in [
            ("127.0.0.1:7846", "127.0.0.1:7846"),
            // The address from which the peer is reached, and not the peer's own.
            ("127.1.2.3:9000", "127.0.0.1:7846"),
            ("[::1]:7846", "[::1]:7846"),
        ] {
            if peer.starts_with('[') && std::net::TcpListener::bind("[::1]:0").is_err() {
                continue; // no IPv6 here
            }
            let server = server(&format!("peer = \"{peer}\""));
            let at: SocketAddr = server.listen_on().unwrap().parse().unwrap();
            assert_eq!(at.to_string(), listens, "{peer}");
            assert!(!at.ip().is_unspecified() && server.listen_text().contains(peer), "{peer}: {}", server.listen_text());
        }
        let everywhere = server("peer = \"127.0.0.1:7846\"\nlisten = \"0.0.0.0:7846\"");
        assert_eq!((everywhere.listen_on().unwrap(), everywhere.listen_text()), ("0.0.0.0:7846".into(), "0.0.0.0:7846".into()));
    }

    #[test]
    fn a_refusal_counts_for_as_long_as_silence() {
        let ms = Duration::from_millis;
        for (every, timeout, answered, pace) in
            [(500, 1000, true, 500), (500, 1000, false, 1000), (2000, 1000, true, 2000), (2000, 1000, false, 2000)]
        {
            let probe = Probe { every: ms(every), timeout: ms(timeout), ..Probe::default() };
            assert_eq!(probe.pace(answered), ms(pace), "{every} {timeout} {answered}");
        }
    }

    #[test]
    fn a_client_with_defaults() {
        let config = Config::parse(CLIENT, None).unwrap();
        assert_eq!(config.daemon.metrics, None);
        let c = &config.clients[0];
        assert_eq!((c.layout, c.failback, c.probe), (Layout::Mount, Failback::Auto, Probe::default()));
        assert_eq!(
            (c.primary.source(), c.primary.agent(), c.primary.major()),
            ("10.0.0.1:/srv/data".into(), "10.0.0.1:7846".into(), 4)
        );
        assert_eq!(
            (c.backup.source(), c.backup.agent(), c.backup.major()),
            ("[fe80::2]:/srv/data".into(), "[fe80::2]:7846".into(), 3)
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (from, to, want) in [
            ("[[failover]]", "metrics = \"9847\"\n[[failover]]", "no address with a port"),
            ("name = \"web\"", "nam = \"web\"", "5:1"),
            ("host = \"10.0.0.1\"", "host = 3", "8:8"),
            ("version = \"3\"", "version = \"5\"", "NFS version"),
            ("version = \"3\"", "options = \"bg\"", "bg hides"),
            ("/srv/www", "srv/www", "absolute"),
            ("[failover.backup]\nhost = \"fe80::2\"", "[failover.backup]\nhost = \"10.0.0.1\"", "the same"),
            ("[failover.primary]", "[failover.probe]\nevery = \"1\"\n[failover.primary]", "no unit"),
            ("[failover.primary]", "[failover.probe]\nmisses = 9\n[failover.primary]", "misses"),
            ("[failover.primary]", "[[failover.hook]]\non = [\"alarm\"]\n[failover.primary]", "needs a command"),
        ] {
            let text = CLIENT.replacen(from, to, 1);
            assert_ne!(text, CLIENT, "{from}");
            let error = Config::parse(&text, Some(Path::new("f.toml"))).unwrap_err().to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
        assert!(Config::parse("[daemon]\nkey_file = \"/k\"\n", None).unwrap_err().to_string().contains("neither"));
    }
}
