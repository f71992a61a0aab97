//! A source, a target, and the three roads between them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fansync::config::Compress;
use fansync::location::Location;
use fansync::path::{RelPath, Shown};
use fansync::sync::argv::{Compare, Pass, Peer, Spec, environment};
use fansync::sync::filelist::{Form, encode};
use fansync::sync::outcome::{Outcome, Verdict};
use fansync::sync::output::Output;
use fansync::sync::probe::RsyncFacts;
use fansync::sync::run::{Input, Run};

pub const PATIENCE: Duration = Duration::from_secs(180);

/// How the target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    Local,
    Module,
    Shell,
}

pub const ROADS: [Road; 3] = [Road::Local, Road::Module, Road::Shell];

/// An rsync daemon on a free port of the loopback address; ends with this value.
pub struct Daemon {
    process: std::process::Child,
    pub port: u16,
}

impl Daemon {
    /// `modules`: the lines of the configuration after the global ones.
    pub fn start(dir: &Path, modules: &str) -> Daemon {
        let root = nix::unistd::geteuid().is_root();
        let ids = if root { "uid = 0\ngid = 0\n" } else { "" };
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The port is free for the moment; should another take it first, the daemon ends and
            // the next one is tried.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = dir.join("rsyncd.conf");
            let log = dir.join("rsyncd.log");
            let text = format!(
                "address = 127.0.0.1\nport = {port}\nuse chroot = no\nmunge symlinks = no\nsocket options = TCP_NODELAY\n\
                 log file = {}\nread only = no\n{ids}{modules}",
                log.display()
            );
            fs::write(&config, text).unwrap();
            let mut process = Command::new("rsync")
                .args(["--daemon", "--no-detach"])
                .arg(format!("--config={}", config.display()))
                .stdin(Stdio::null())
                .spawn()
                .expect("these tests need rsync");
            while process.try_wait().unwrap().is_none() {
                assert!(
                    Instant::now() < deadline,
                    "the daemon does not answer: {}",
                    fs::read_to_string(&log).unwrap_or_default()
                );
                // Greeted by it, not only connected: that could be a stranger.
                let greeted = TcpStream::connect(("127.0.0.1", port)).is_ok_and(|mut stream| {
                    let mut greeting = [0; 8];
                    stream.read_exact(&mut greeting).is_ok() && &greeting == b"@RSYNCD:"
                });
                if greeted {
                    return Daemon { process, port };
                }
                std::thread::yield_now();
            }
        }
    }

    pub fn module(&self, name: &str) -> Location {
        Location::Daemon {
            shell: false,
            user: None,
            host: "127.0.0.1".into(),
            port: Some(self.port),
            module: name.into(),
            path: String::new(),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a pass may get besides its list.
#[derive(Clone, Default)]
pub struct Options {
    pub keep: bool,
    pub no_missing_args: bool,
    pub filters: Vec<OsString>,
    pub extra: Vec<String>,
}

pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub road: Road,
    pub location: Location,
    /// The program; a script in tests of what no rsync does on demand.
    pub rsync: PathBuf,
    pub facts: RsyncFacts,
    pub env: Vec<(OsString, OsString)>,
    pub options: Options,
    shell: String,
    /// Ends with this value.
    _daemon: Option<Daemon>,
}

impl Fixture {
    pub fn new(road: Road) -> Fixture {
        let dir = tempfile::Builder::new().prefix("fansync-").tempdir().unwrap();
        // Canonical, as a source root has to be.
        let base = dir.path().canonicalize().unwrap();
        assert_eq!(base, dir.path(), "TMPDIR holds a symbolic link");
        fs::create_dir(base.join("src")).unwrap();
        fs::create_dir(base.join("dst")).unwrap();
        let target = base.join("dst");
        let env = environment(std::env::vars_os());
        let facts = RsyncFacts::probe(Path::new("rsync"), &env).expect("these tests need rsync");
        // Stands for a remote shell: drops the host, runs the command here.
        let shell = script(&base, "shell", "shift\nexec \"$@\"").to_str().unwrap().to_owned();
        let daemon = (road == Road::Module).then(|| Daemon::start(&base, &format!("[m]\npath = {}\n", target.display())));
        let location = match road {
            Road::Local => Location::Local(target),
            Road::Module => daemon.as_ref().unwrap().module("m"),
            Road::Shell => Location::Ssh { user: None, host: "h".into(), path: target.to_str().unwrap().into() },
        };
        Fixture { dir, road, location, rsync: "rsync".into(), facts, env, options: Options::default(), shell, _daemon: daemon }
    }

    pub fn src(&self) -> PathBuf {
        self.dir.path().join("src")
    }

    pub fn dst(&self) -> PathBuf {
        self.dir.path().join("dst")
    }

    pub fn with_spec<T>(&self, use_it: impl FnOnce(&Spec<'_>) -> T) -> T {
        let root = self.src();
        use_it(&Spec {
            rsync: &self.rsync,
            root: &root,
            peer: Peer {
                location: &self.location,
                password_file: None,
                ssh: Some(&self.shell),
                remote_rsync: None,
                compress: Compress::None,
                timeout: Duration::from_secs(30),
                connect_timeout: Duration::from_secs(10),
            },
            delete: !self.options.keep,
            max_delete: None,
            spare: false,
            max_file_size: None,
            dry_run: false,
            missing_args: !self.options.no_missing_args,
            dialect: self.facts.dialect,
            compare: Compare::Quick,
            extras: Default::default(),
            facts: &self.facts,
            filter_args: &self.options.filters,
            guard_args: &[],
            extra: &self.options.extra,
            priority: Default::default(),
            backup: None,
            renamed: None,
            below: None,
            lock: None,
            source: None,
        })
    }

    pub fn start(&self, pass: Pass, input: Input<'_>) -> Run {
        self.with_spec(|spec| Run::start(spec, pass, &self.env, input)).unwrap()
    }

    /// One pass with entries as rsync reads them: `a` plain, `a/` one level, `/` the root.
    pub fn run(&self, pass: Pass, entries: &[&[u8]]) -> Outcome {
        self.run_reading(pass, entries).0
    }

    pub fn run_reading(&self, pass: Pass, entries: &[&[u8]]) -> (Outcome, Output) {
        let bytes = list(entries);
        let input = if matches!(pass, Pass::Full { .. }) { Input::None } else { Input::List(&bytes) };
        let mut run = self.start(pass, input);
        run.keep_items(1000);
        let outcome = run.wait(PATIENCE, |_| {}).unwrap();
        (outcome, run.output().clone())
    }

    /// A pass that must go through.
    pub fn done(&self, pass: Pass, entries: &[&[u8]]) {
        let (outcome, output) = self.run_reading(pass, entries);
        let message = output.top_message().map(|line| Shown(line).to_string());
        assert_eq!(outcome.verdict, Verdict::Done, "{:?} {pass:?}: {outcome:?} {message:?}", self.road);
    }

    pub fn assert_same(&self) {
        assert_same(&snapshot(&self.src()), &snapshot(&self.dst()), self.road);
    }
}

/// An executable shell script.
pub fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
    let path = dir.join(name);
    // Closed before it is run: a file open for writing cannot be executed, also when a child of
    // another test holds it for the moment between its fork and its exec; so it is written by a
    // process of its own.
    let mut writer =
        Command::new("sh").args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
    writer.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{body}\n").as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
    path
}

pub fn list(entries: &[&[u8]]) -> Vec<u8> {
    let parsed: Vec<(RelPath, Form)> = entries
        .iter()
        .map(|entry| match entry.strip_suffix(b"/") {
            Some(path) => (RelPath::new(path).unwrap(), Form::OneLevel),
            None => (RelPath::new(entry).unwrap(), Form::Plain),
        })
        .collect();
    let list = encode(parsed.iter().map(|(path, form)| (path, *form)));
    assert_eq!(list.refused, []);
    list.bytes
}

/// Everything that a mirror keeps, by path: type and permissions, mtime in nanoseconds, content or
/// link target.
pub type Snapshot = BTreeMap<Vec<u8>, (u32, i64, i64, Vec<u8>)>;

pub fn snapshot(root: &Path) -> Snapshot {
    let mut out = Snapshot::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_file() {
            fs::read(&path).unwrap()
        } else if stat.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        if stat.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let below = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        out.insert(below, (stat.mode(), stat.mtime(), stat.mtime_nsec(), content));
    }
    out
}

pub fn assert_same(want: &Snapshot, got: &Snapshot, what: impl std::fmt::Debug) {
    let differs: Vec<String> = want
        .keys()
        .chain(got.keys())
        .filter(|path| want.get(*path) != got.get(*path))
        .map(|path| format!("{}: source {:?}, target {:?}", Shown(path), want.get(path), got.get(path)))
        .collect();
    assert!(differs.is_empty(), "{what:?}: {differs:#?}");
}

/// Makes files (with their path as content), directories (`a/`) and symbolic links (`a -> b`).
pub fn make(root: &Path, names: &[&str]) {
    for name in names {
        if let Some((link, to)) = name.split_once(" -> ") {
            std::os::unix::fs::symlink(to, root.join(link)).unwrap();
        } else if name.ends_with('/') {
            fs::create_dir_all(root.join(name)).unwrap();
        } else {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
    }
}

/// The paths of a tree, directories with a slash, for short comparisons.
pub fn names(root: &Path) -> Vec<String> {
    let directory = |mode: u32| mode & 0o170_000 == 0o040_000;
    let all = snapshot(root).into_iter().filter(|(path, _)| !path.is_empty());
    all.map(|(path, entry)| format!("{}{}", Shown(&path), if directory(entry.0) { "/" } else { "" })).collect()
}
