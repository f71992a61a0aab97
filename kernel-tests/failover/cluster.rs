//! Two servers and their clients on one host.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::fixture::daemon::{Config, Daemon, MirrorTable, TargetTable, Until};
use crate::fixture::rsyncd::free_port;

/// What answers NULL calls, or is silent.
pub struct Nfs {
    pub port: u16,
    answers: Arc<AtomicBool>,
}

impl Nfs {
    fn start() -> Nfs {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        let port = listener.local_addr().expect("it is bound").port();
        let answers = Arc::new(AtomicBool::new(true));
        let on = Arc::clone(&answers);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let on = Arc::clone(&on);
                std::thread::spawn(move || {
                    let mut call = [0; 44];
                    if stream.read_exact(&mut call).is_ok() && on.load(Ordering::Relaxed) {
                        let mut reply = vec![0x80, 0, 0, 24];
                        reply.extend_from_slice(&call[4..8]);
                        reply.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                        let _ = stream.write_all(&reply);
                    }
                    // Silent: until the other side gives up.
                    let _ = stream.read(&mut call);
                });
            }
        });
        Nfs { port, answers }
    }

    pub fn answer(&self, yes: bool) {
        self.answers.store(yes, Ordering::Relaxed);
    }
}

/// One server: its tree, its role, its mirror daemon.
pub struct Server {
    pub tree: PathBuf,
    pub nfs: Nfs,
    dir: PathBuf,
    port: u16,
    agent: Option<Service>,
    mirror: Option<(Config, Option<Daemon>)>,
}

/// Two servers; the first is the primary.
pub struct Cluster {
    pub work: TempDir,
    pub servers: [Server; 2],
}

/// A client that is not started yet.
pub struct Prepared {
    pub mount: PathBuf,
    dir: PathBuf,
    name: String,
}

/// A client.
pub struct Web {
    pub mount: PathBuf,
    dir: PathBuf,
    name: String,
    service: Service,
}

pub fn binary() -> PathBuf {
    std::env::var_os("FANSYNC_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_fansync").into(), PathBuf::from)
}

fn start(dir: &Path, config: &str) -> Service {
    let file = dir.join("failover.toml");
    fs::write(&file, config).expect("a config can be written");
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log can be made");
    let mut command = bound_command(binary().to_str().expect("the path is text"));
    command.args(["failover", "--config"]).arg(&file).current_dir(dir);
    let service = Service::start("fansync failover", &mut command, &log).expect("fansync starts");
    fs::write(dir.join("agent.pid"), service.pid().to_string()).expect("a file can be written");
    service
}

impl Cluster {
    pub fn new() -> Cluster {
        let mut c = Cluster::prepared();
        c.servers.iter_mut().for_each(Server::live);
        c.settled();
        c
    }

    /// With a mirror daemon on each, towards the other.
    pub fn with_mirrors() -> Cluster {
        Cluster::mirrored(|_| {})
    }

    /// As [`Cluster::with_mirrors`], with another configuration of the mirrors.
    pub fn mirrored(change: impl Fn(&mut MirrorTable)) -> Cluster {
        let mut c = Cluster::prepared();
        let trees = [c.servers[1].tree.clone(), c.servers[0].tree.clone()];
        for (server, target) in c.servers.iter_mut().zip(trees) {
            let target = TargetTable { name: "peer".into(), url: target.display().to_string(), ..TargetTable::default() };
            let mut table = MirrorTable {
                name: "data".into(),
                source: server.tree.clone(),
                roles: Some(true),
                follow_open_files: Some(true),
                target: vec![target],
                ..MirrorTable::default()
            };
            change(&mut table);
            server.mirror = Some((Config::new(&server.dir, vec![table]), None));
            server.live();
        }
        c.settled();
        c
    }

    fn prepared() -> Cluster {
        let work = crate::fixture::fs::work_dir();
        let key = work.path().join("key");
        fs::write(&key, "00112233445566778899aabbccddeeff").expect("a key can be written");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its mode can be set");
        let ports = [free_port(), free_port()];
        let servers = [0, 1].map(|n| {
            let dir = work.path().join(format!("s{n}"));
            let tree = dir.join("tree");
            fs::create_dir_all(&tree).expect("a tree can be made");
            let server = Server { tree, nfs: Nfs::start(), port: ports[n], agent: None, mirror: None, dir };
            server.set(1, if n == 0 { Role::Primary } else { Role::Follower });
            let script = format!(
                "#!/bin/sh\ncd {}\nnote() {{ m=${{2%%,*}}; echo \"$m\" >>exports; echo \"$m\" >exported.new; mv exported.new exported; }}\n\
                 [ -e on-exportfs ] && . ./on-exportfs\nnote \"$@\"\n",
                server.dir.display()
            );
            let exportfs = server.dir.join("exportfs");
            fs::write(&exportfs, script).expect("a script can be written");
            fs::set_permissions(&exportfs, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
            let text = format!(
                "[daemon]\nkey_file = {key:?}\nsocket = {:?}\nrun_dir = {:?}\n[server]\ntree = {:?}\nlisten = \"127.0.0.1:{}\"\n\
                 peer = \"127.0.0.1:{}\"\nexports = [\"127.0.0.1:/tree\"]\nexport_options = \"sync\"\nexportfs = {exportfs:?}\n\
                 mirror_socket = {:?}\nmirror = \"data\"\n",
                server.dir.join("socket"),
                server.dir.join("run"),
                server.tree,
                ports[n],
                ports[1 - n],
                server.dir.join("status.sock"),
            );
            fs::write(server.dir.join("config"), text).expect("a config can be written");
            server
        });
        Cluster { work, servers }
    }

    fn settled(&self) {
        for server in &self.servers {
            let want = if server.mark().1 == Role::Primary { "rw" } else { "ro" };
            assert!(server.is_exported(want), "a server is not exported {want}: {}", server.log());
        }
    }

    /// As the mount table has it.
    pub fn source(&self, n: usize) -> String {
        format!("127.0.0.1:/{}", ["primary", "backup"][n])
    }

    pub fn prepare(&self, name: &str, more: &str, primary: &str) -> Prepared {
        let dir = self.work.path().join(name);
        fs::create_dir_all(&dir).expect("a directory can be made");
        let mount = dir.join("mount");
        let side = |n: usize, more: &str| {
            let server = &self.servers[n];
            let port = if more.contains("port") { String::new() } else { format!("port = {}\n", server.nfs.port) };
            format!(
                "[failover.{0}]\nhost = \"127.0.0.1\"\nexport = \"/{0}\"\nfstype = \"tmpfs\"\noptions = \"size=1m\"\n\
                 agent = \"127.0.0.1:{1}\"\n{port}{more}\n",
                ["primary", "backup"][n],
                server.port
            )
        };
        let shown = self.work.path().join("hook-log");
        let text = format!(
            "[daemon]\nkey_file = {:?}\nsocket = {:?}\nrun_dir = {:?}\n[[failover]]\nname = {name:?}\nmount = {mount:?}\n{more}\n{}{}\
             [failover.probe]\nevery = \"200ms\"\ntimeout = \"1s\"\nback_after = \"1s\"\n[[failover.hook]]\n\
             on = [\"switch\", \"failback\", \"alarm\"]\n\
             command = [\"sh\", \"-c\", \"echo $FANSYNC_EVENT $FANSYNC_NAME $FANSYNC_ON >>{}\"]\n",
            self.work.path().join("key"),
            dir.join("socket"),
            dir.join("run"),
            side(0, primary),
            side(1, ""),
            shown.display(),
        );
        fs::write(dir.join("config"), text).expect("a config can be written");
        Prepared { mount, dir, name: name.into() }
    }

    pub fn web(&self, name: &str, more: &str) -> Web {
        self.prepare(name, more, "").start()
    }

    pub fn web_with(&self, name: &str, more: &str, primary: &str) -> Web {
        self.prepare(name, more, primary).start()
    }

    pub fn dry_run(&self, name: &str) -> (i32, String) {
        let p = self.prepare(name, "", "");
        let below = p.dir.display().to_string();
        let mounts = || {
            let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table can be read");
            table.lines().filter(|line| line.contains(&below)).map(str::to_owned).collect::<Vec<_>>()
        };
        let before = mounts();
        let ran =
            run(Command::new(binary()).args(["failover", "--once", "--dry-run", "--config"]).arg(p.dir.join("config")), WAIT);
        assert_eq!(mounts(), before, "a dry run changed what is mounted");
        (ran.code, ran.stdout + &ran.stderr)
    }

    /// Waits until what `n` pushes to holds a whole copy.
    pub fn whole(&self, n: usize) {
        let whole = || (self.servers[n].status()["peer_whole"] == true).then_some(());
        assert!(
            poll_until(WAIT, whole).is_some(),
            "no whole copy: {} {}",
            self.servers[n].log(),
            self.servers[n].mirror_report()
        );
    }

    /// The primary's copy is whole, and a client that has mounted it knows.
    #[track_caller]
    pub fn whole_and_seen(&self, web: &Web) {
        web.on("primary");
        self.whole(0);
        web.rounds(2);
    }

    /// Two servers that mirror and a client that went to the backup, as the primary died.
    #[track_caller]
    pub fn switched() -> (Cluster, Web) {
        let mut c = Cluster::with_mirrors();
        let web = c.web("web", "failback = \"manual\"");
        c.whole_and_seen(&web);
        c.servers[0].die();
        web.on("backup");
        (c, web)
    }

    pub fn flush(&self, n: usize) {
        self.servers[n].daemon().flush(None);
    }

    /// Shell lines for the next calls of a server's exportfs.
    pub fn on_exportfs(&self, n: usize, script: &str) {
        fs::write(self.servers[n].dir.join("on-exportfs"), script).expect("a script can be written");
    }

    /// What a server's tree has kept aside of a path.
    pub fn kept(&self, n: usize, epoch: u64, path: &str) -> Vec<Vec<u8>> {
        let at = self.servers[n].tree.join(format!(".fansync/conflict/{epoch}"));
        let runs = fs::read_dir(at).into_iter().flatten().flatten();
        runs.filter_map(|run| fs::read(run.path().join(path)).ok()).collect()
    }

    /// Writes files into a server's tree for as long as it is exported read-write.
    pub fn write_while_writable(&self, n: usize) -> Ledger {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (ended, written) = (Arc::clone(&stop), Arc::clone(&count));
        let (tree, exported) = (self.servers[n].tree.clone(), self.servers[n].dir.join("exported"));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) && fs::read_to_string(&exported).is_ok_and(|e| e.trim() == "rw") {
                let n = written.load(Ordering::Relaxed);
                let mut file = File::create(tree.join(format!("load {n}"))).expect("a file can be made");
                file.write_all(&[b'x'; 5000]).and_then(|()| file.sync_all()).expect("it can be written");
                written.store(n + 1, Ordering::Relaxed);
                // A load that the mirror can follow: some hundred files a second.
                std::thread::park_timeout(Duration::from_millis(4));
            }
        });
        Ledger { stop, count, thread }
    }
}

/// Files written, and by whom.
pub struct Ledger {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU32>,
    thread: std::thread::JoinHandle<()>,
}

impl Ledger {
    /// Ends it; how many were written.
    pub fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer does not panic");
        self.count.load(Ordering::Relaxed)
    }
}

impl Server {
    /// Power off: role, NFS and mirror are gone at once.
    pub fn die(&mut self) {
        self.nfs.answer(false);
        self.agent = None;
        if let Some((_, daemon)) = &mut self.mirror
            && let Some(mut d) = daemon.take()
        {
            d.kill();
        }
        // A server that is off exports nothing.
        let _ = fs::remove_file(self.dir.join("exported"));
    }

    pub fn live(&mut self) {
        let _ = fs::remove_file(self.dir.join("exports"));
        let config = fs::read_to_string(self.dir.join("config")).expect("it was written");
        self.agent = Some(start(&self.dir, &config));
        if let Some((config, daemon)) = &mut self.mirror
            && daemon.is_none()
        {
            let started = Daemon::run(&self.dir, config, Until::Watching);
            fs::write(self.dir.join("mirror.pid"), started.pid().to_string()).expect("a file can be written");
            *daemon = Some(started);
        }
        self.nfs.answer(true);
    }

    pub fn restart_if_dead(&mut self) {
        if self.agent.as_mut().is_none_or(|a| a.ended().is_some()) {
            self.live();
        }
    }

    /// Removes what exportfs was called with so far.
    pub fn forget(&self) {
        let _ = fs::remove_file(self.dir.join("exported"));
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// To its role's process.
    pub fn signal(&self, signal: Signal) {
        self.agent.as_ref().expect("it lives").signal(signal);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes its configuration for the next start.
    pub fn configure(&self, from: &str, to: &str) {
        let file = self.dir.join("config");
        let text = fs::read_to_string(&file).expect("it was written");
        assert!(text.contains(from), "{text}");
        fs::write(file, text.replace(from, to)).expect("a config can be written");
    }

    pub fn set(&self, epoch: u64, role: Role) {
        mark::write(&self.tree, &Mark::new(epoch, role, "test")).expect("a mark can be written");
    }

    pub fn mark(&self) -> (u64, Role) {
        let mark = mark::read(&self.tree).expect("the mark is whole").expect("there is a mark");
        (mark.epoch, mark.role)
    }

    pub fn exported(&self) -> String {
        fs::read_to_string(self.dir.join("exported")).unwrap_or_default().trim().into()
    }

    pub fn is_exported(&self, how: &str) -> bool {
        poll_until(WAIT, || (self.exported() == how).then_some(())).is_some()
    }

    /// Every call of exportfs since its start.
    pub fn exports(&self) -> Vec<String> {
        fs::read_to_string(self.dir.join("exports")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub fn status(&self) -> Value {
        let ran =
            run(Command::new(binary()).args(["failover", "status", "--json", "--socket"]).arg(self.dir.join("socket")), WAIT);
        let all: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        all["server"].clone()
    }

    /// What `fansync check` says of its configuration.
    pub fn check(&self) -> String {
        let ran = run(Command::new(binary()).args(["check", "--config"]).arg(self.dir.join("failover.toml")), WAIT);
        ran.stdout + &ran.stderr
    }

    pub fn trouble(&self, what: &str) -> bool {
        poll_until(WAIT, || self.status()["trouble"].as_str().filter(|t| t.contains(what)).map(drop)).is_some()
    }

    pub fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.tree.join(name), content).expect("the tree can be written");
    }

    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.tree.join(name)).ok()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn daemon(&self) -> &Daemon {
        self.mirror.as_ref().and_then(|(_, d)| d.as_ref()).expect("a mirror daemon runs")
    }

    pub fn mirror_report(&self) -> String {
        self.daemon().report()
    }

    pub fn mirror_signal(&self, signal: Signal) {
        nix::sys::signal::kill(self.daemon().pid(), signal).expect("the daemon is there");
    }
}

impl Prepared {
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    pub fn start(self) -> Web {
        let config = fs::read_to_string(self.dir.join("config")).expect("it was written");
        let service = start(&self.dir, &config);
        Web { mount: self.mount, dir: self.dir, name: self.name, service }
    }
}

impl Web {
    pub fn status(&self) -> Value {
        let ran =
            run(Command::new(binary()).args(["failover", "status", "--json", "--socket"]).arg(self.dir.join("socket")), WAIT);
        let all: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        all["failovers"][0].clone()
    }

    pub fn on_now(&self) -> String {
        self.status()["on"].as_str().unwrap_or_default().into()
    }

    #[track_caller]
    pub fn on(&self, side: &str) {
        let there = poll_until(WAIT, || (self.on_now() == side).then_some(()));
        assert!(there.is_some(), "{} is not on the {side}: {}\n{}", self.name, self.status(), self.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    pub fn signal(&self, signal: Signal) {
        self.service.signal(signal);
    }

    /// Waits until a server is mounted, in place or ahead.
    pub fn is_ready(&self, n: usize) {
        let ready = || (self.status()["servers"][n]["ready"] == true).then_some(());
        assert!(poll_until(WAIT, ready).is_some(), "server {n} is not mounted ahead: {}", self.status());
    }

    /// Where a server is mounted while it waits.
    pub fn ahead(&self, side: &str) -> String {
        self.dir.join(format!("run/mounts/{}.{side}", self.name)).display().to_string()
    }

    pub fn alive(&self, n: usize) -> bool {
        self.status()["servers"][n]["health"]["alive"] == true
    }

    /// Waits for that many rounds of probes.
    pub fn rounds(&self, n: u64) {
        let seen = || self.status()["rounds"].as_u64().unwrap_or_default();
        let from = seen();
        assert!(poll_until(WAIT, || (seen() >= from + n).then_some(())).is_some(), "no rounds are made");
    }

    pub fn order(&self, words: &[&str]) -> (i32, String) {
        let ran = run(Command::new(binary()).arg("failover").args(words).arg("--socket").arg(self.dir.join("socket")), WAIT * 3);
        (ran.code, ran.stdout + &ran.stderr)
    }

    /// What is mounted at the mount point below what is on top.
    pub fn below(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table can be read");
        let at = self.mount.to_str().expect("the path is text");
        let on: Vec<&str> = table.lines().filter(|l| l.split(' ').nth(4) == Some(at)).collect();
        let source = |l: &&str| l.rsplit_once(" - ").and_then(|(_, r)| r.split(' ').nth(1)).unwrap_or_default().to_owned();
        on.iter().map(source).filter(|s| !s.starts_with("127.0.0.1:")).collect()
    }
}
