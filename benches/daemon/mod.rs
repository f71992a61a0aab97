//! A daemon at work between two directories, for benches; each takes what it needs of it.

#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fansync::control::{Reply, Request, Steer, ask};
use fansync::status;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Mounts of our own from here on, which go with this process. `false` without root, said aloud.
pub fn own_mounts() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: it mounts, which needs root");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("mounts of our own");
    true
}

/// A tmpfs until it is dropped.
pub struct Tmpfs(pub PathBuf);

impl Tmpfs {
    pub fn new(path: PathBuf) -> Tmpfs {
        fs::create_dir(&path).expect("the mount point is new");
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("mode=700")).expect("a tmpfs");
        Tmpfs(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

pub struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// With its files in `work`; `more` is put between the mirror's source and its target, a
    /// directory. Returns when the target is equal.
    pub fn start(work: &Path, source: &Path, target: &Path, more: &str) -> Daemon {
        let (socket, log) = (work.join("sock"), work.join("log"));
        let config = work.join("fansync.toml");
        let text = format!(
            "[daemon]\nstate_dir = \"{0}/state\"\nstatus_socket = \"{1}\"\n[[mirror]]\nname = \"m\"\nsource = \"{2}\"\n{more}\n\
             [[mirror.target]]\nname = \"t\"\nurl = \"{3}\"\n",
            work.display(),
            socket.display(),
            source.display(),
            target.display(),
        );
        fs::write(&config, text).expect("the configuration is written");
        let out = fs::File::create(&log).expect("the log is new");
        let child = Command::new(env!("CARGO_BIN_EXE_fansync"))
            .args(["run", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(out)
            .spawn()
            .expect("fansync starts");
        let mut daemon = Daemon { child, socket, log };
        let begun = Instant::now();
        while daemon.status().is_none_or(|m| m.initial == status::FirstPass::Running) {
            assert!(daemon.child.try_wait().expect("a child of ours").is_none(), "fansync ended: {}", daemon.words());
            assert!(begun.elapsed() < PATIENCE, "fansync is not ready: {}", daemon.words());
            thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    pub fn words(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn status(&self) -> Option<status::Mirror> {
        match ask(&self.socket, &Request::Status, PATIENCE) {
            Ok(Reply::Status(snapshot)) => snapshot.mirrors.into_iter().next(),
            _ => None,
        }
    }

    pub fn flush(&self) {
        let request = Request::Flush { mirror: None, target: None, timeout_ms: PATIENCE.as_millis() as u64 };
        match ask(&self.socket, &request, PATIENCE) {
            Ok(Reply::Flush(done)) if done.waiting.is_empty() => {}
            other => panic!("the flush does not end: {other:?}: {}", self.words()),
        }
    }

    pub fn steer(&self, what: Steer) {
        let reply = ask(&self.socket, &Request::Steer { what, mirror: None, target: None }, PATIENCE);
        assert!(matches!(reply, Ok(Reply::Steer { .. })), "fansync does not do as it is told: {reply:?}");
    }

    /// Waits until its status is such.
    pub fn until(&self, such: impl Fn(&status::Mirror) -> bool) {
        let begun = Instant::now();
        while !self.status().is_some_and(|m| such(&m)) {
            assert!(begun.elapsed() < PATIENCE, "fansync does not get there: {}", self.words());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Seconds of processor time, of the daemon and of its children that have ended.
    pub fn cpu(&self) -> (f64, f64) {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        // proc_pid_stat(5): behind the name in parentheses the fields from the third; times are the
        // fourteenth to the seventeenth.
        let fields: Vec<f64> = stat.rsplit_once(") ").expect("proc(5)").1.split(' ').filter_map(|f| f.parse().ok()).collect();
        let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
        // The state is a letter, and not among the numbers.
        ((fields[10] + fields[11]) / hertz, (fields[12] + fields[13]) / hertz)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether two trees hold the same, contents included.
pub fn equal(source: &Path, target: &Path) -> bool {
    let mut slash = source.as_os_str().to_owned();
    slash.push("/");
    let out = Command::new("rsync")
        .args(["-anci", "--delete", "--modify-window=-1"])
        .arg(slash)
        .arg(target)
        .output()
        .expect("rsync runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout.is_empty()
}
