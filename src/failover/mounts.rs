//! A client's mounts: kept ready aside, moved into place, taken out.
//!
//! Promises: nothing here waits for a dead server. Paths below the mount are never looked up by this process; the mount table is
//! read, and every call is made by a child with a deadline ([`super::child`]). A mount that answers is never forced.
//!
//! How a switch goes: the other server is mounted already, in a private directory. Where the kernel has
//! `/sys/fs/nfs/MAJ:MIN/shutdown` and the mounted server is dead, that ends every blocked call with an error. Then the new mount is
//! moved below the old one (Linux 6.5; no moment without a mount), and the old one detached by a child that nobody waits
//! for: tearing an NFS mount down asks its server several times, 180 s each (measured). Older kernels detach first; what is
//! then seen for some milliseconds is an empty read-only filesystem put below at the start, so that a write in the gap fails and does not
//! vanish into the local directory.
//!
//! Gives up: a file that is open stays on the old server. With what was mounted before the monitor's first start, and without
//! the newer kernel, there is no read-only filesystem below until the first switch.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::child::{CallError, Calls, failed};
use super::config::{Client, Layout};
use super::machine::Side;
use crate::sys::mount::{MountEntry, Mounts as Table};

/// For calls that do not ask a server: only starting the process takes time, on a busy host seconds.
const CALL: Duration = Duration::from_secs(10);
/// For mounting, which does.
const MOUNT: Duration = Duration::from_secs(15);
/// Until a detached mount has left the mount table.
const GONE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(2);
/// Before a mount that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// What the read-only filesystem below is called in the mount table.
pub const PLACEHOLDER: &str = "fansync-placeholder";

/// Why the mount was not moved.
#[derive(Debug, Error)]
pub enum MountError {
    /// A child.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A file or the mount table.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What.
        what: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The old mount does not leave the mount table.
    #[error("{path} is still mounted after {GONE:?}")]
    Stays {
        /// Where.
        path: PathBuf,
    },
    /// Something else is mounted there.
    #[error("{path} is not what was to be mounted there, but {found}")]
    Other {
        /// Where.
        path: PathBuf,
        /// What is.
        found: String,
    },
}

/// How a switch went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// From the decision to the new mount being in place.
    pub took: Duration,
    /// For people: by which calls.
    pub how: String,
}

/// The mounts of one `[[failover]]`.
pub struct Mounts {
    client: Client,
    /// A private filesystem for what is kept ready.
    dir: PathBuf,
    exe: PathBuf,
    /// Children.
    pub calls: Calls,
    mounting: Option<(Side, Child, Instant)>,
    failed: [Option<(Instant, String)>; 2],
}

impl Mounts {
    /// Prepares the private directory and, where nothing is mounted yet, the read-only filesystem below.
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn new(client: &Client, run_dir: &Path) -> Result<Mounts, MountError> {
        let exe =
            std::env::current_exe().map_err(|source| MountError::Io { what: "find", path: "/proc/self/exe".into(), source })?;
        let dir = run_dir.join("mounts");
        let mut m = Mounts { client: client.clone(), dir, exe, calls: Calls::default(), mounting: None, failed: [None, None] };
        m.make_dir(&m.dir.clone())?;
        // A mount can be moved only out of a mount that is not shared with other namespaces.
        let private = m.table()?.iter().any(|e| e.point == m.dir);
        if !private {
            let dir = m.dir.clone();
            m.tool("keep a private directory for mounts", &["private", path(&dir)])?;
        }
        match client.layout {
            Layout::Mount => {
                for side in [Side::Primary, Side::Backup] {
                    m.make_dir(&m.ahead(side))?;
                }
                if !client.mount.exists_without_look()? {
                    m.make_dir(&client.mount)?;
                }
                if m.top()?.is_none() {
                    m.tool("put a read-only filesystem below the mount", &["placeholder", path(&client.mount)])?;
                }
            }
            Layout::Symlink => {
                for side in [Side::Primary, Side::Backup] {
                    let at = m.ahead(side);
                    if m.entry_at(&at)?.is_none() {
                        m.make_dir(&at)?;
                        m.tool("put a read-only filesystem below the mount", &["placeholder", path(&at)])?;
                    }
                }
            }
        }
        Ok(m)
    }

    fn make_dir(&self, at: &Path) -> Result<(), MountError> {
        fs::create_dir_all(at).map_err(|source| MountError::Io { what: "make", path: at.into(), source })
    }

    fn table(&self) -> Result<Table, MountError> {
        Table::read().map_err(|source| MountError::Io { what: "read", path: "/proc/self/mountinfo".into(), source })
    }

    fn entry_at(&self, point: &Path) -> Result<Option<MountEntry>, MountError> {
        Ok(self.table()?.mount_of(point).filter(|e| e.point == point).cloned())
    }

    /// What is on top at the mount point.
    fn top(&self) -> Result<Option<MountEntry>, MountError> {
        self.entry_at(&self.client.mount)
    }

    fn side_of(&self, entry: &MountEntry) -> Option<Side> {
        [Side::Primary, Side::Backup].into_iter().find(|&s| self.client.remote(s).source().as_bytes() == entry.source)
    }

    /// Where a side is mounted while it waits; with a link, always.
    fn ahead(&self, side: Side) -> PathBuf {
        match self.client.layout {
            Layout::Mount => self.dir.join(format!("{}.{side}", self.client.name)),
            Layout::Symlink => {
                let mut at = self.client.mount.as_os_str().to_owned();
                at.push(format!(".{side}"));
                at.into()
            }
        }
    }

    /// Which server clients see now. Reads the mount table, or the link.
    ///
    /// # Errors
    /// Those of reading.
    pub fn mounted(&self) -> Result<Option<Side>, MountError> {
        match self.client.layout {
            Layout::Mount => Ok(self.top()?.and_then(|e| self.side_of(&e))),
            Layout::Symlink => match fs::read_link(&self.client.mount) {
                Ok(to) => Ok([Side::Primary, Side::Backup].into_iter().find(|&s| to == self.ahead(s))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(MountError::Io { what: "read the link", path: self.client.mount.clone(), source }),
            },
        }
    }

    /// Whether a side is mounted where it waits.
    pub fn is_ready(&self, side: Side) -> bool {
        self.entry_at(&self.ahead(side)).is_ok_and(|e| e.is_some_and(|e| self.side_of(&e) == Some(side)))
    }

    /// Why mounting failed last, if it did.
    pub fn trouble(&self, side: Side) -> Option<&str> {
        self.failed[side as usize].as_ref().map(|(_, why)| why.as_str())
    }

    fn mount_command(&self, side: Side) -> Command {
        let remote = self.client.remote(side);
        let mut options = remote.options.clone();
        if remote.fstype.starts_with("nfs") {
            let more = format!("vers={},port={}", remote.version, remote.port);
            options = if options.is_empty() { more } else { format!("{more},{options}") };
        }
        let mut command = Command::new("mount");
        command.args(["-t", &remote.fstype]);
        if !options.is_empty() {
            command.args(["-o", &options]);
        }
        command.arg("--").arg(remote.source()).arg(self.ahead(side));
        command
    }

    /// Mounts a side where it waits, by and by; call it in each round. Never waits.
    pub fn make_ready(&mut self, side: Side) {
        if let Some((which, child, begun)) = &mut self.mounting {
            let which = *which;
            match child.try_wait() {
                Ok(None) if begun.elapsed() < MOUNT => return,
                Ok(Some(status)) if status.success() => self.failed[which as usize] = None,
                Ok(Some(status)) => {
                    let why = failed("mount", child, &status.to_string()).to_string();
                    if self.failed[which as usize].as_ref().is_none_or(|(_, said)| *said != why) {
                        tracing::warn!(failover = %self.client.name, server = %which, "cannot mount it ahead: {why}");
                    }
                    self.failed[which as usize] = Some((Instant::now(), why));
                }
                Ok(None) | Err(_) => {
                    self.failed[which as usize] = Some((Instant::now(), format!("mount did not end within {MOUNT:?}")));
                    if let Some((_, child, _)) = self.mounting.take() {
                        self.calls.adopt("mount", child);
                    }
                }
            }
            self.mounting = None;
        }
        let recently = self.failed[side as usize].as_ref().is_some_and(|(at, _)| at.elapsed() < AGAIN);
        if recently || self.is_ready(side) {
            return;
        }
        let mut command = self.mount_command(side);
        match self.calls.spawn("mount", &mut command) {
            Ok(child) => self.mounting = Some((side, child, Instant::now())),
            Err(e) => self.failed[side as usize] = Some((Instant::now(), e.to_string())),
        }
    }

    /// Mounts a side where it waits, and waits for that.
    fn ready_now(&mut self, side: Side) -> Result<(), MountError> {
        let begun = Instant::now();
        while self.mounting.is_some() && begun.elapsed() < MOUNT {
            self.make_ready(side);
            std::thread::sleep(LOOK);
        }
        if self.is_ready(side) {
            return Ok(());
        }
        let command = self.mount_command(side);
        Ok(self.calls.run("mount", command, MOUNT)?)
    }

    /// One of the calls of [`super::tool`], in a child.
    fn tool(&mut self, what: &str, args: &[&str]) -> Result<(), MountError> {
        let command = self.tool_command(args);
        Ok(self.calls.run(what, command, CALL)?)
    }

    fn tool_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.exe);
        command.args(["failover", "call"]).args(args);
        command
    }

    /// Puts a server in place. `dead`: what is mounted now does not answer.
    ///
    /// # Errors
    /// See [`MountError`]; the mount is then what [`Mounts::mounted`] says.
    pub fn switch(&mut self, to: Side, dead: bool) -> Result<Moved, MountError> {
        self.ready_now(to)?;
        let begun = Instant::now();
        let how = match self.client.layout {
            Layout::Mount => self.replace(to, dead)?,
            Layout::Symlink => self.flip(to, dead)?,
        };
        match self.mounted()? {
            Some(side) if side == to => Ok(Moved { took: begun.elapsed(), how }),
            _ => {
                let found = self.top()?.map_or("nothing".into(), |e| String::from_utf8_lossy(&e.source).into_owned());
                Err(MountError::Other { path: self.client.mount.clone(), found })
            }
        }
    }

    fn replace(&mut self, to: Side, dead: bool) -> Result<String, MountError> {
        let ahead = self.ahead(to);
        let point = self.client.mount.clone();
        let old = self.top()?.filter(|e| e.source != PLACEHOLDER.as_bytes());
        let Some(old) = old else {
            self.tool("move the mount into place", &["move", path(&ahead), path(&point)])?;
            return Ok("moved into place".into());
        };
        let ended = if dead { self.shut_down(&old) } else { "" };
        if self.tool("move the mount below the old one", &["beneath", path(&ahead), path(&point)]).is_ok() {
            self.detach(&point, &old)?;
            return Ok(format!("{ended}moved below the old mount, which was then detached"));
        }
        self.detach(&point, &old)?;
        // A read-only filesystem of ours may have been below, or the local directory.
        if self.top()?.is_none() {
            self.tool("put a read-only filesystem below the mount", &["placeholder", path(&point)])?;
        }
        self.tool("move the mount into place", &["move", path(&ahead), path(&point)])?;
        Ok(format!("{ended}old mount detached, then moved into place"))
    }

    /// Ends every blocked call on a dead NFS mount with an error, where the kernel can (6.5). Otherwise those stay blocked, and
    /// what they write lands on the old server when it comes back.
    fn shut_down(&mut self, old: &MountEntry) -> &'static str {
        let file = format!("/sys/fs/nfs/{}:{}/shutdown", old.dev.0, old.dev.1);
        if !old.fs_type.starts_with(b"nfs") || !Path::new(&file).exists() {
            return "";
        }
        match self.tool("end blocked calls", &["shutdown", &file]) {
            Ok(()) => "blocked calls ended, ",
            Err(error) => {
                tracing::warn!(failover = %self.client.name, %error, "blocked calls go on");
                ""
            }
        }
    }

    /// Takes the topmost mount out, by a child that nobody waits for.
    fn detach(&mut self, point: &Path, old: &MountEntry) -> Result<(), MountError> {
        let command = self.tool_command(&["detach", path(point)]);
        self.calls.leave("detach the old mount", command)?;
        let begun = Instant::now();
        while self.table()?.iter().any(|e| e.id == old.id && e.point == old.point) {
            if begun.elapsed() > GONE {
                return Err(MountError::Stays { path: point.into() });
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// rename(2) does not look where the old link leads; mv(1) does, and hangs.
    fn flip(&mut self, to: Side, dead: bool) -> Result<String, MountError> {
        let mut ended = "";
        if dead && let Some(old) = self.entry_at(&self.ahead(to.other()))?.filter(|e| self.side_of(e).is_some()) {
            ended = self.shut_down(&old);
        }
        let mut aside = self.client.mount.as_os_str().to_owned();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        let fail = |what| {
            let path = self.client.mount.clone();
            move |source| MountError::Io { what, path, source }
        };
        let _ = fs::remove_file(&aside);
        std::os::unix::fs::symlink(self.ahead(to), &aside).map_err(fail("make a link for"))?;
        fs::rename(&aside, &self.client.mount).map_err(fail("replace the link"))?;
        // The dead one is mounted anew, or its files would fail for ever after a shutdown.
        if dead && let Some(old) = self.entry_at(&self.ahead(to.other()))?.filter(|e| self.side_of(e).is_some()) {
            let at = old.point.clone();
            self.detach(&at, &old)?;
        }
        Ok(format!("{ended}link replaced"))
    }

    /// The device of what is mounted, to find who waits for it.
    pub fn point(&self) -> &Path {
        &self.client.mount
    }
}

trait Exists {
    /// Whether there is something, without asking a server: the mount table first.
    fn exists_without_look(&self) -> Result<bool, MountError>;
}

impl Exists for PathBuf {
    fn exists_without_look(&self) -> Result<bool, MountError> {
        let table =
            Table::read().map_err(|source| MountError::Io { what: "read", path: "/proc/self/mountinfo".into(), source })?;
        Ok(table.iter().any(|e| e.point == *self) || fs::symlink_metadata(self).is_ok())
    }
}

/// Paths come from a TOML file, so they are text.
fn path(p: &Path) -> &str {
    p.to_str().unwrap_or_default()
}
