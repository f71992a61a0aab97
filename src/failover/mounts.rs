//! A client's mounts: kept ready aside, moved into place, taken out.
//!
//! Promises: nothing here waits for a dead server. Paths below the mount are never looked up by
//! this process; the mount table is read, and every call is made by a child with a deadline
//! ([`super::child`]). A mount that answers is never forced.
//!
//! How a switch goes: the other server is mounted already, in a private directory, and is checked
//! now and then, since a server that was rebuilt leaves a mount of which every call says ESTALE.
//! Where the kernel has `/sys/fs/nfs/MAJ:MIN/shutdown` and the mounted server is dead, that ends
//! every blocked call with an error. Then the new mount is moved below the old one (Linux 6.5; no
//! moment without a mount), and the old one detached by a child without a wait for its end: tearing
//! an NFS mount down asks its server several times, 180 s each (measured). Older kernels detach
//! first; what is then seen for some milliseconds is an empty read-only filesystem put below at the
//! start, so that a write in the gap fails and does not vanish into the local directory. Each step
//! is what the mount table calls for, so a switch that broke off half-way is ended by the next
//! attempt, whatever was done before.
//!
//! Gives up: a file that is open stays on the old server. With what was mounted before the
//! monitor's first start, and without the newer kernel, there is no read-only filesystem below
//! until the first switch.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::child::{CallError, Calls, failed};
use super::config::{Client, Layout};
use super::machine::Side;
use super::worker::{Worker, Workers};
use crate::sys::mount::{MountEntry, Mounts as Table};

/// For calls that do not ask a server: on a busy host a process may wait for seconds to be run.
const CALL: Duration = Duration::from_secs(10);
/// For mounting, which does.
const MOUNT: Duration = Duration::from_secs(15);
/// For all steps of one attempt to move a mount. The next attempt goes on where it ended.
const ATTEMPT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Before a mount that failed is tried again, and between two checks of a standby mount.
const AGAIN: Duration = Duration::from_secs(5);
/// Before a detach that has ended without effect is tried again.
const DETACH_AGAIN: Duration = Duration::from_millis(200);
/// For a check of a standby mount, and for the last one before it is used.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
const LAST_CHECK: Duration = Duration::from_millis(300);
/// What the read-only filesystem below is called in the mount table.
pub(crate) const PLACEHOLDER: &str = "fansync-placeholder";

/// Why the mount was not moved.
#[derive(Debug, Error)]
pub(crate) enum MountError {
    /// A child.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A file or the mount table.
    #[error("cannot {what} {path}: {source}")]
    Io {
        what: &'static str,
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The old mount does not leave the mount table.
    #[error("{path} is still mounted after {ATTEMPT:?}")]
    Stays {
        /// Where.
        path: PathBuf,
    },
    /// Something else is mounted there.
    #[error("{path} is not what was to be mounted there, but {found}")]
    Other {
        /// Where.
        path: PathBuf,
        found: String,
    },
}

/// How a switch went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    /// From the decision to the new mount being in place.
    pub(crate) took: Duration,
    /// For people: by which calls.
    pub(crate) how: String,
}

/// The mounts of one `[[failover]]`.
pub(crate) struct Mounts {
    client: Client,
    /// A private filesystem for what is kept ready.
    dir: PathBuf,
    workers: Workers,
    /// Children that were given up.
    pub(crate) calls: Calls,
    mounting: Option<(Side, Child, Instant)>,
    checking: Option<(Side, Worker, Instant)>,
    checked: Option<Instant>,
    failed: [Option<(Instant, String)>; 2],
}

impl Mounts {
    /// Changes nothing; [`Mounts::prepare`] comes before everything that does.
    ///
    /// # Errors
    /// See [`MountError`].
    pub(crate) fn new(client: &Client, run_dir: &Path) -> Result<Mounts, MountError> {
        let exe =
            std::env::current_exe().map_err(|source| MountError::Io { what: "find", path: "/proc/self/exe".into(), source })?;
        let dir = run_dir.join("mounts");
        Ok(Mounts {
            client: client.clone(),
            dir,
            workers: Workers::new(&exe),
            calls: Calls::default(),
            mounting: None,
            checking: None,
            checked: None,
            failed: [None, None],
        })
    }

    /// Makes the private directory and, where nothing is mounted yet, the read-only filesystem
    /// below.
    ///
    /// # Errors
    /// See [`MountError`].
    pub(crate) fn prepare(&mut self) -> Result<(), MountError> {
        let client = self.client.clone();
        self.make_dir(&self.dir.clone())?;
        // A mount can be moved only out of a mount that is not shared with other namespaces.
        let private = self.table()?.iter().any(|e| e.point == self.dir);
        if !private {
            let dir = self.dir.clone();
            self.tool("keep a private directory for mounts", &["private", path(&dir)])?;
        }
        match client.layout {
            Layout::Mount => {
                for side in [Side::Primary, Side::Backup] {
                    self.make_dir(&self.ahead(side))?;
                }
                if !client.mount.exists_without_look()? {
                    self.make_dir(&client.mount)?;
                }
                if self.top()?.is_none() {
                    self.tool("put a read-only filesystem below the mount", &["placeholder", path(&client.mount)])?;
                }
            }
            Layout::Symlink => {
                for side in [Side::Primary, Side::Backup] {
                    let at = self.ahead(side);
                    if self.entry_at(&at)?.is_none() {
                        self.make_dir(&at)?;
                        self.tool("put a read-only filesystem below the mount", &["placeholder", path(&at)])?;
                    }
                }
            }
        }
        Ok(())
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
    pub(crate) fn mounted(&self) -> Result<Option<Side>, MountError> {
        match self.client.layout {
            Layout::Mount => Ok(self.top()?.and_then(|e| self.side_of(&e))),
            Layout::Symlink => match fs::read_link(&self.client.mount) {
                Ok(to) => Ok([Side::Primary, Side::Backup].into_iter().find(|&s| to == self.ahead(s))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(MountError::Io { what: "read the link", path: self.client.mount.clone(), source }),
            },
        }
    }

    /// The mounts on the mount point that lie on each other, topmost first.
    fn stack(&self) -> Result<Vec<MountEntry>, MountError> {
        let table = self.table()?;
        let mut at = table.mount_of(&self.client.mount).filter(|e| e.point == self.client.mount);
        let mut out = Vec::new();
        while let Some(entry) = at {
            out.push(entry.clone());
            at = table.iter().find(|e| e.id == entry.parent && e.point == entry.point && e.id != entry.id);
        }
        Ok(out)
    }

    /// Whether a side is mounted where it waits.
    pub(crate) fn is_ready(&self, side: Side) -> bool {
        self.entry_at(&self.ahead(side)).is_ok_and(|e| e.is_some_and(|e| self.side_of(&e) == Some(side)))
    }

    /// Why mounting failed last, if it did.
    pub(crate) fn trouble(&self, side: Side) -> Option<&str> {
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

    /// Mounts a side where it waits, by and by, and checks whether it is of use; call it in each
    /// round. Never waits.
    pub(crate) fn make_ready(&mut self, side: Side) {
        self.workers.refill();
        self.end_mounting();
        if self.mounting.is_some() {
            return;
        }
        let recently = self.failed[side as usize].as_ref().is_some_and(|(at, _)| at.elapsed() < AGAIN);
        if self.is_ready(side) {
            return self.check(side);
        }
        if recently {
            return;
        }
        let mut command = self.mount_command(side);
        match self.calls.spawn("mount", &mut command) {
            Ok(child) => self.mounting = Some((side, child, Instant::now())),
            Err(e) => self.failed[side as usize] = Some((Instant::now(), e.to_string())),
        }
    }

    fn end_mounting(&mut self) {
        let Some((side, mut child, begun)) = self.mounting.take() else { return };
        match child.try_wait() {
            Ok(None) if begun.elapsed() < MOUNT => self.mounting = Some((side, child, begun)),
            Ok(Some(status)) if status.success() => self.failed[side as usize] = None,
            Ok(Some(status)) => {
                let why = failed("mount", &mut child, &status.to_string()).to_string();
                self.trouble_with(side, format!("cannot mount it ahead: {why}"));
            }
            Ok(None) | Err(_) => {
                self.calls.abandon("mount", child);
                self.trouble_with(side, format!("cannot mount it ahead: mount did not end within {MOUNT:?}"));
            }
        }
    }

    fn trouble_with(&mut self, side: Side, why: String) {
        if self.failed[side as usize].as_ref().is_none_or(|(_, message)| *message != why) {
            tracing::warn!(failover = %self.client.name, server = %side, "{why}");
        }
        self.failed[side as usize] = Some((Instant::now(), why));
    }

    /// Checks now and then, by a worker, whether the standby mount answers. A stale one is taken
    /// out, and mounted anew by a later round.
    fn check(&mut self, side: Side) {
        if let Some((which, mut worker, begun)) = self.checking.take() {
            match worker.answer(Duration::ZERO) {
                Ok(None) if begun.elapsed() < CHECK_TIMEOUT => self.checking = Some((which, worker, begun)),
                Ok(Some(answer)) => {
                    self.workers.back(worker);
                    match answer {
                        Ok(()) => self.failed[which as usize] = None,
                        Err(refusal) => self.not_usable(which, refusal.errno, &refusal.message),
                    }
                }
                Ok(None) | Err(_) => {
                    self.workers.abandon(&mut self.calls, "check a standby mount", worker);
                    self.trouble_with(which, format!("mounted ahead, but a check of it did not end within {CHECK_TIMEOUT:?}"));
                }
            }
            return;
        }
        if self.checked.is_some_and(|at| at.elapsed() < AGAIN) {
            return;
        }
        self.checked = Some(Instant::now());
        let at = self.ahead(side);
        match self.workers.begin("check a standby mount", &["look", path(&at)]) {
            Ok(worker) => self.checking = Some((side, worker, Instant::now())),
            Err(error) => tracing::warn!(failover = %self.client.name, %error, "cannot check a standby mount"),
        }
    }

    /// A server that was rebuilt does not know the old handle of its root.
    fn not_usable(&mut self, side: Side, errno: i32, message: &str) {
        self.trouble_with(side, format!("mounted ahead, but of no use: {message}"));
        if errno == libc::ESTALE
            && let Ok(Some(entry)) = self.entry_at(&self.ahead(side))
            && self.side_of(&entry) == Some(side)
            && let Err(error) = self.detach(&entry)
        {
            tracing::warn!(failover = %self.client.name, %error, "cannot take out a stale mount");
        }
        // The next round mounts it.
        self.failed[side as usize] = None;
    }

    /// Sees to it that a side is mounted where it waits and of use.
    fn ready_now(&mut self, side: Side) -> Result<(), MountError> {
        let begun = Instant::now();
        while self.mounting.is_some() && begun.elapsed() < MOUNT {
            self.end_mounting();
            std::thread::sleep(POLL_INTERVAL);
        }
        if self.is_ready(side) {
            let at = self.ahead(side);
            match self.workers.run(&mut self.calls, "check the mount", &["look", path(&at)], LAST_CHECK) {
                Err(CallError::Failed { message, errno, .. }) if errno == libc::ESTALE => {
                    self.not_usable(side, errno, &message);
                    while self.is_ready(side) && begun.elapsed() < MOUNT {
                        std::thread::sleep(POLL_INTERVAL);
                    }
                }
                // Slow, or in other trouble: mounting it again would ask the same server.
                _ => return Ok(()),
            }
        }
        let command = self.mount_command(side);
        Ok(self.calls.run("mount", command, MOUNT)?)
    }

    /// One of the calls of [`super::tool`], in a worker.
    fn tool(&mut self, what: &str, words: &[&str]) -> Result<(), MountError> {
        Ok(self.workers.run(&mut self.calls, what, words, CALL)?)
    }

    /// Puts a server in place. `dead`: what is mounted now does not answer. Called again after an
    /// error, it goes on from what the mount table shows.
    ///
    /// # Errors
    /// See [`MountError`]; the mount is then what [`Mounts::mounted`] says.
    pub(crate) fn switch(&mut self, to: Side, dead: bool) -> Result<Moved, MountError> {
        let begun = Instant::now();
        let how = match self.client.layout {
            Layout::Mount => self.replace(to, dead)?,
            Layout::Symlink => {
                self.ready_now(to)?;
                self.flip(to, dead)?
            }
        };
        match self.mounted()? {
            Some(side) if side == to => Ok(Moved { took: begun.elapsed(), how }),
            _ => {
                let found = self.top()?.map_or("nothing".into(), |e| String::from_utf8_lossy(&e.source).into_owned());
                Err(MountError::Other { path: self.client.mount.clone(), found })
            }
        }
    }

    /// Does what the mount table calls for until the new mount is on top.
    fn replace(&mut self, to: Side, dead: bool) -> Result<String, MountError> {
        let (ahead, point) = (self.ahead(to), self.client.mount.clone());
        let begun = Instant::now();
        let mut how: Vec<&str> = Vec::new();
        let (mut ready, mut asked, mut too_old) = (false, false, false);
        let mut detaching: Option<(u32, u32, Instant)> = None;
        loop {
            let stack = self.stack()?;
            let Some(top) = stack.first().filter(|e| e.source != PLACEHOLDER.as_bytes()) else {
                if stack.is_empty() {
                    self.tool("put a read-only filesystem below the mount", &["placeholder", path(&point)])?;
                }
                // Not twice: between the detach and this, clients see the read-only filesystem.
                if !ready {
                    self.ready_now(to)?;
                    ready = true;
                }
                self.tool("move the mount into place", &["move", path(&ahead), path(&point)])?;
                how.push("moved into place");
                continue;
            };
            if self.side_of(top) == Some(to) {
                return Ok(how.join(", "));
            }
            if begun.elapsed() > ATTEMPT {
                return Err(MountError::Stays { path: point });
            }
            let below = stack.iter().any(|e| self.side_of(e) == Some(to));
            if !below && !ready {
                self.ready_now(to)?;
                ready = true;
            }
            if dead && !asked {
                asked = true;
                how.extend(self.shut_down(top));
            }
            if !below && !too_old {
                match self.tool("move the mount below the old one", &["beneath", path(&ahead), path(&point)]) {
                    Ok(()) => how.push("moved below the old mount"),
                    Err(MountError::Call(CallError::Failed { .. })) => too_old = true,
                    Err(error) => return Err(error),
                }
                continue;
            }
            // The call is bound to this mount, so one that ends late does no harm.
            match detaching {
                Some((id, pid, at)) if id == top.id && !(self.calls.has_ended(pid) && at.elapsed() > DETACH_AGAIN) => {}
                _ => {
                    detaching = Some((top.id, self.detach(top)?, Instant::now()));
                    how.push("old mount detached");
                }
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Ends every blocked call on a dead NFS mount with an error, where the kernel can (6.5).
    /// Otherwise those stay blocked, and what they write lands on the old server when it comes
    /// back.
    fn shut_down(&mut self, old: &MountEntry) -> Option<&'static str> {
        let file = format!("/sys/fs/nfs/{}:{}/shutdown", old.dev.0, old.dev.1);
        if !old.fs_type.starts_with(b"nfs") || !Path::new(&file).exists() {
            return None;
        }
        match self.tool("end blocked calls", &["shutdown", &file]) {
            Ok(()) => Some("blocked calls ended"),
            Err(error) => {
                tracing::warn!(failover = %self.client.name, %error, "blocked calls go on");
                None
            }
        }
    }

    /// Begins to take a mount out, by a worker that no thread waits for; its process id.
    fn detach(&mut self, old: &MountEntry) -> Result<u32, MountError> {
        let id = old.id.to_string();
        Ok(self.workers.leave(&mut self.calls, "detach the old mount", &["detach", path(&old.point), &id])?)
    }

    /// rename(2) does not look where the old link leads; mv(1) does, and hangs.
    fn flip(&mut self, to: Side, dead: bool) -> Result<String, MountError> {
        let mut how = Vec::new();
        if dead && let Some(old) = self.entry_at(&self.ahead(to.other()))?.filter(|e| self.side_of(e).is_some()) {
            how.extend(self.shut_down(&old));
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
            self.detach(&old)?;
        }
        how.push("link replaced");
        Ok(how.join(", "))
    }

    /// The device of what is mounted, to find who waits for it.
    pub(crate) fn point(&self) -> &Path {
        &self.client.mount
    }
}

trait Exists {
    /// Whether there is something, without a query to a server: the mount table first.
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
