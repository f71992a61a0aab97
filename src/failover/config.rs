//! The file of `fansync failover`: what a server needs, what a client needs, or both.
//!
//! Read key by key as the mirror's file is, so that all errors are reported at once, each with its
//! place.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use nix::unistd::User;
use toml::Spanned;

use super::front::sandbox::Identity;
use super::machine::{Side, Thresholds};
use super::{probe, wire};
use crate::config::toml::{Form, Places, Section};
use crate::config::{ConfigErrors, Problem, cite, may_hold_url, units};
use crate::log::{Level, LogConfig, LogFormat};

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[daemon]`.
    pub daemon: Daemon,
    /// `[server]`: this host exports the tree.
    pub server: Option<Server>,
    /// `[[failover]]`: this host mounts it.
    pub clients: Vec<Client>,
}

/// What concerns the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// The secret that all hosts share.
    pub(crate) key_file: PathBuf,
    /// For status and orders.
    pub(crate) socket: PathBuf,
    /// Where mounts are kept ready, and what was held is remembered.
    pub(crate) run_dir: PathBuf,
    /// Where metrics are served, if at all.
    pub(crate) metrics: Option<SocketAddr>,
    /// Whether what reads from the network has given up its rights.
    pub(crate) sandbox: Sandbox,
    /// The user that it becomes then.
    pub(crate) sandbox_user: String,
    /// `text` or `json`.
    pub(crate) log_format: LogFormat,
    /// The least level that is written.
    pub(crate) log_level: Level,
}

/// Whether the process that reads from the network gives up its rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Sandbox {
    /// Without that nothing runs.
    #[default]
    Required,
    /// It keeps them.
    Off,
}

/// A server's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The exported tree, which holds the mark.
    pub(crate) tree: PathBuf,
    /// Address and port for the others; `None`: the address of this host that faces the peer.
    pub(crate) listen: Option<String>,
    /// The other server's.
    pub(crate) peer: String,
    /// What is exported, as exportfs(8) takes it: `10.0.0.0/24:/srv/data`.
    pub(crate) exports: Vec<String>,
    /// Export options besides rw and ro.
    pub(crate) export_options: String,
    /// The program.
    pub(crate) exportfs: PathBuf,
    /// The mirror daemon that pushes this tree to the peer.
    pub(crate) mirror_socket: PathBuf,
    /// Its `[[mirror]]`.
    pub(crate) mirror: String,
    /// How long clients may wait for the last changes to reach the peer.
    pub(crate) flush_timeout: Duration,
}

/// How the mount is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// One mount point, on which one mount replaces the other.
    Mount,
    /// `mount` is a symbolic link to one of two mounts beside it, `MOUNT.primary` and
    /// `MOUNT.backup`.
    Symlink,
}

/// A client's mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// For people, files and orders.
    pub(crate) name: String,
    /// The mount point, or the link.
    pub(crate) mount: PathBuf,
    /// Which of both.
    pub(crate) layout: Layout,
    /// `[failover.primary]`.
    pub(crate) primary: Remote,
    /// `[failover.backup]`.
    pub(crate) backup: Remote,
    /// `[failover.probe]`.
    pub(crate) probe: Probe,
    /// Whether fail-back begins by itself.
    pub(crate) failback: Failback,
    /// `[[failover.hook]]`.
    pub(crate) hooks: Vec<Hook>,
}

/// Whether fail-back begins by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Failback {
    /// Once the primary has been back for `back_after`.
    Auto,
    /// On a command.
    Manual,
}

/// A server as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Name or address.
    pub(crate) host: String,
    /// The exported directory.
    pub(crate) export: String,
    /// NFS version: `3`, `4.2`.
    pub(crate) version: String,
    /// Mount options besides the version.
    pub(crate) options: String,
    /// NFS's port.
    pub(crate) port: u16,
    /// Address and port of the server role there; port 7846 of `host` unless given.
    pub(crate) agent: Option<String>,
    /// For mount(8).
    pub(crate) fstype: String,
}

/// When a server counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Between two questions to a server that answers.
    pub(crate) every: Duration,
    /// For one answer.
    pub(crate) timeout: Duration,
    /// Missing answers, ...
    pub(crate) misses: u32,
    /// ... of this many.
    pub(crate) of: u32,
    /// Answers in a row after which it is back.
    pub(crate) returns: u32,
    /// How long it has to be back before fail-back begins.
    pub(crate) back_after: Duration,
}

/// Whom to notify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) on: Vec<Event>,
    /// A program and its arguments.
    pub(crate) command: Vec<String>,
    /// Or a place to POST a JSON object to.
    pub(crate) url: Option<String>,
}

/// What hooks are notified of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Event {
    /// The mount was moved to the backup.
    Switch,
    /// The mount was moved to the primary.
    Failback,
    /// Something needs an administrator.
    Alarm,
}

impl Event {
    pub(crate) fn name(self) -> &'static str {
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
    /// From one question to the next. One that is refused, as while an NFS server restarts, counts
    /// for as long as one that is not answered: what is borne is a time, whatever the trouble.
    pub(crate) fn pace(&self, answered: bool) -> Duration {
        if answered { self.every } else { self.every.max(self.timeout) }
    }
}

impl Daemon {
    /// Whom the process that reads from the network becomes, if it is to give up its rights.
    ///
    /// # Errors
    /// There is no such user, or it is root.
    pub(crate) fn identity(&self) -> Result<Option<Identity>, String> {
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
    /// Where the server role listens: what the file says, else the usual port of the address from
    /// which the peer is reached, so that no other network sees it.
    ///
    /// # Errors
    /// The peer's name cannot be looked up, or no route leads to it.
    pub(crate) fn listen_on(&self) -> std::io::Result<String> {
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
    pub(crate) fn listen_text(&self) -> String {
        self.listen.clone().unwrap_or_else(|| format!("port {} of the address that faces {}", wire::PORT, self.peer))
    }
}

impl Client {
    /// The server of a side.
    pub(crate) fn remote(&self, side: Side) -> &Remote {
        match side {
            Side::Primary => &self.primary,
            Side::Backup => &self.backup,
        }
    }

    /// For the state machine.
    pub(crate) fn thresholds(&self) -> Thresholds {
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
    pub(crate) fn source(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.export)
    }

    /// NFS's major version.
    pub(crate) fn major(&self) -> u32 {
        if self.version.starts_with('3') { 3 } else { 4 }
    }

    /// Where its server role listens.
    pub(crate) fn agent(&self) -> String {
        self.agent.clone().unwrap_or_else(|| match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, wire::PORT),
            false => format!("{}:{}", self.host, wire::PORT),
        })
    }
}

impl Config {
    /// Whether a file is meant for `fansync failover` and not for the mirror: it says `[server]` or
    /// `[[failover]]`, and no `[[mirror]]`. Not so for what cannot be read, or is no TOML.
    pub(crate) fn is_one(path: &Path) -> bool {
        let Ok(text) = std::fs::read_to_string(path) else { return false };
        let Ok(table) = text.parse::<toml::Table>() else { return false };
        (table.contains_key("failover") || table.contains_key("server")) && !table.contains_key("mirror")
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn load(path: &Path) -> Result<Config, ConfigErrors> {
        let text = crate::config::read_trusted(path)?;
        Config::parse(&text, Some(path))
    }

    /// Checks a text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: Option<&Path>) -> Result<Config, ConfigErrors> {
        let form = Form { elsewhere: &[], is_secret: may_hold_url, whole, judge };
        form.read(text, path).map(|(config, _)| config)
    }

    /// How the log looks.
    pub(crate) fn log(&self) -> LogConfig {
        LogConfig { format: self.daemon.log_format, level: self.daemon.log_level }
    }
}

fn whole(top: &mut Section<'_, '_>) -> Option<Config> {
    let daemon = top.table("daemon", "[daemon]", daemon);
    let server = top.optional("server", "[server]", server);
    let clients = top.tables("failover", "[[failover]]", client);
    let server = match server {
        Some(read) => Some(read?),
        None => None,
    };
    Some(Config { daemon: daemon?, server, clients: clients.into_iter().collect::<Option<_>>()? })
}

fn daemon(s: &mut Section<'_, '_>) -> Option<Daemon> {
    let key_file = s.required("key_file", "\"/etc/fansync/failover.key\"", |s| s.path("key_file"));
    let rest = Daemon {
        key_file: PathBuf::new(),
        socket: s.path("socket").unwrap_or_else(socket),
        run_dir: s.path("run_dir").unwrap_or_else(|| "/run/fansync/failover".into()),
        metrics: s.text("metrics", "an address and a port, as in \"127.0.0.1:9847\"", units::address),
        sandbox: s.choice("sandbox").unwrap_or_default(),
        sandbox_user: s.string("sandbox_user").unwrap_or_else(|| "nobody".into()),
        log_format: s.choice("log_format").unwrap_or(LogFormat::Text),
        log_level: s.choice("log_level").unwrap_or(Level::Info),
    };
    Some(Daemon { key_file: key_file?, ..rest })
}

fn server(s: &mut Section<'_, '_>) -> Option<Server> {
    let tree = s.required("tree", "\"/the/tree\"", |s| s.path("tree"));
    let peer = s.required("peer", "\"HOST:7846\"", |s| s.string("peer"));
    let exports = s.required("exports", "[\"10.0.0.0/24:/the/tree\"]", |s| s.strings("exports"));
    let mirror = s.required("mirror", "\"NAME\"", |s| s.string("mirror"));
    let rest = Server {
        tree: PathBuf::new(),
        listen: s.string("listen"),
        peer: String::new(),
        exports: Vec::new(),
        export_options: s.string("export_options").unwrap_or_default(),
        exportfs: s.path("exportfs").unwrap_or_else(|| "exportfs".into()),
        mirror_socket: s.path("mirror_socket").unwrap_or_else(|| "/run/fansync/status.sock".into()),
        mirror: String::new(),
        flush_timeout: s.duration("flush_timeout").unwrap_or(Duration::from_secs(1)),
    };
    Some(Server { tree: tree?, peer: peer?, exports: plain(exports?), mirror: mirror?, ..rest })
}

fn client(s: &mut Section<'_, '_>) -> Option<Client> {
    let name = s.required("name", "\"NAME\"", |s| s.string("name"));
    let mount = s.required("mount", "\"/the/mount\"", |s| s.path("mount"));
    let layout = s.choice("layout").unwrap_or(Layout::Mount);
    let primary = s.table("primary", "[failover.primary]", remote);
    let backup = s.table("backup", "[failover.backup]", remote);
    let probe = s.table("probe", "[failover.probe]", probe_times);
    let failback = s.choice("failback").unwrap_or(Failback::Auto);
    let hooks = s.tables("hook", "[[failover.hook]]", hook);
    Some(Client {
        name: name?,
        mount: mount?,
        layout,
        primary: primary?,
        backup: backup?,
        probe,
        failback,
        hooks: hooks.into_iter().collect::<Option<_>>()?,
    })
}

fn remote(s: &mut Section<'_, '_>) -> Option<Remote> {
    let host = s.required("host", "\"HOST\"", |s| s.string("host"));
    let export = s.required("export", "\"/the/tree\"", |s| s.string("export"));
    let rest = Remote {
        host: String::new(),
        export: String::new(),
        version: s.string("version").unwrap_or_else(|| "4.2".into()),
        options: s.string("options").unwrap_or_else(|| "hard,noatime".into()),
        port: s.number("port", "a port, from 0 to 65535").unwrap_or(probe::PORT),
        agent: s.string("agent"),
        fstype: s.string("fstype").unwrap_or_else(|| "nfs".into()),
    };
    Some(Remote { host: host?, export: export?, ..rest })
}

fn probe_times(s: &mut Section<'_, '_>) -> Probe {
    const COUNT: &str = "a small whole number";
    let d = Probe::default();
    Probe {
        every: s.duration("every").unwrap_or(d.every),
        timeout: s.duration("timeout").unwrap_or(d.timeout),
        misses: s.number("misses", COUNT).unwrap_or(d.misses),
        of: s.number("of", COUNT).unwrap_or(d.of),
        returns: s.number("returns", COUNT).unwrap_or(d.returns),
        back_after: s.duration("back_after").unwrap_or(d.back_after),
    }
}

fn hook(s: &mut Section<'_, '_>) -> Option<Hook> {
    let on = s.required("on", "[\"switch\", \"alarm\"]", |s| s.choices("on"));
    let command = s.strings("command").map(plain).unwrap_or_default();
    let url = s.string("url");
    Some(Hook { on: on?, command, url })
}

fn plain(list: Vec<Spanned<String>>) -> Vec<String> {
    list.into_iter().map(Spanned::into_inner).collect()
}

/// The rules that do not hold.
fn judge(config: &Config, places: &Places) -> Vec<Problem> {
    let mut out = Vec::new();
    let mut wrong = |key: String, text: String| out.push(Problem { at: cite::place(places, &key), ..Problem::new(text) });
    let mut absolute = |key: String, what: &str, path: &Path| {
        let plain = path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
        if !path.is_absolute() || !plain || path.components().count() < 2 {
            wrong(key, format!("{what} {} is not an absolute path below / without ..", path.display()));
        }
    };
    for (key, path) in
        [("key_file", &config.daemon.key_file), ("socket", &config.daemon.socket), ("run_dir", &config.daemon.run_dir)]
    {
        absolute(format!("daemon.{key}"), key, path);
    }
    if let Some(server) = &config.server {
        absolute("server.tree".into(), "tree", &server.tree);
    }
    for (i, c) in config.clients.iter().enumerate() {
        absolute(format!("failover.{i}.mount"), "mount", &c.mount);
    }
    if config.server.is_none() && config.clients.is_empty() {
        wrong(String::new(), "there is neither a [server] nor a [[failover]]".into());
    }
    if let Some(server) = &config.server {
        if server.exports.is_empty() {
            let text = "[server] has no exports; write them as exportfs takes them: \"10.0.0.0/24:/srv/data\"";
            wrong("server.exports".into(), text.into());
        }
        for (n, export) in server.exports.iter().enumerate().filter(|(_, e)| !e.contains(":/") || e.starts_with('-')) {
            wrong(format!("server.exports.{n}"), format!("the export {export:?} is not of the form CLIENTS:/DIRECTORY"));
        }
        if server.export_options.split(',').any(|o| matches!(o, "ro" | "rw")) {
            wrong("server.export_options".into(), "export_options must not say ro or rw: the role does".into());
        }
    }
    for (i, c) in config.clients.iter().enumerate() {
        let at = |key: &str| format!("failover.{i}.{key}");
        let plain = |ch: char| ch.is_ascii_alphanumeric() || "-_".contains(ch);
        if c.name.is_empty() || !c.name.chars().all(plain) {
            wrong(at("name"), format!("the name {:?} must be of letters, digits, - and _", c.name));
        }
        if config.clients[..i].iter().any(|o| o.name == c.name || o.mount == c.mount) {
            wrong(at("name"), format!("two [[failover]] have the name or the mount of {:?}", c.name));
        }
        if c.primary.source() == c.backup.source() {
            wrong(at("backup"), format!("primary and backup of {:?} are the same", c.name));
        }
        let p = &c.probe;
        if !(1..=32).contains(&p.of) || !(1..=p.of).contains(&p.misses) || p.returns == 0 {
            wrong(at("probe"), format!("the probe of {:?} needs 1 <= misses <= of <= 32, and returns >= 1", c.name));
        }
        for (side, remote) in [("primary", &c.primary), ("backup", &c.backup)] {
            if remote.host.is_empty() || remote.host.starts_with('-') || !remote.export.starts_with('/') {
                wrong(at(side), format!("{:?}: {} is no host and directory", c.name, remote.source()));
            }
            if !["3", "4", "4.0", "4.1", "4.2"].contains(&remote.version.as_str()) {
                let text = format!("{:?}: NFS version {:?}; write \"3\" or \"4.2\"", c.name, remote.version);
                wrong(at(&format!("{side}.version")), text);
            }
            if remote.options.split(',').any(|o| o == "bg") {
                let text = format!("{:?}: the mount option bg hides a mount that did not come to be; remove it", c.name);
                wrong(at(&format!("{side}.options")), text);
            }
        }
        for (n, hook) in c.hooks.iter().enumerate() {
            if hook.command.is_empty() == hook.url.is_none() {
                wrong(at(&format!("hook.{n}")), format!("a hook of {:?} needs a command or a url", c.name));
            }
        }
    }
    out
}

/// The usual socket.
pub(super) fn socket() -> PathBuf {
    "/run/fansync/failover.sock".into()
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
        let text = CLIENT.replacen("host = \"10.0.0.1\"", "host = 3\nport = 70000", 1);
        let text = text.replacen("version", "fstyp", 1) + "[[failover.hook]]\non = [\"alarm\", \"switched\"]\n";
        let error = Config::parse(&text, Some(Path::new("f.toml"))).unwrap_err().to_string();
        for (what, place) in [
            ("host is a number, and should be a string", "8:8"),
            ("port is a number, and should be a port, from 0 to 65535", "9:8"),
            ("unknown key \"fstyp\" in [failover.backup]", "14:1"),
            ("on has \"switched\", and should have of \"switch\", \"failback\", \"alarm\"", "16:16"),
        ] {
            let want = format!("error: {what}\n --> f.toml:{place}\n");
            assert!(error.contains(&want), "{want}: {error}");
        }
        assert!(error.contains("did you mean \"fstype\"?"), "{error}");
        let text = CLIENT.replacen("/srv/www", "srv/www", 1).replacen("version = \"3\"", "version = \"5\"", 1);
        let error = Config::parse(&text, Some(Path::new("f.toml"))).unwrap_err().to_string();
        for (what, place) in [
            ("mount srv/www is not an absolute path below / without ..", "6:9"),
            ("\"web\": NFS version \"5\"; write \"3\" or \"4.2\"", "13:11"),
        ] {
            let want = format!("error: {what}\n --> f.toml:{place}\n");
            assert!(error.contains(&want), "{want}: {error}");
        }
        assert!(Config::parse("[daemon]\nkey_file = \"/k\"\n", None).unwrap_err().to_string().contains("neither"));
    }
}
