//! Throw-away filesystems for tests, so that all events are the test's own.

use crate::sys::apart::apart;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The watch limit is one for the machine: who changes it holds this alone, who needs watches holds
/// it shared, and only once: a second time waits behind a thread that wants it alone.
static WATCHES: RwLock<()> = RwLock::new(());

/// To be held by every test that judges events without having a [`Scratch`], from before it opens
/// its first file.
pub(crate) fn judging() -> RwLockReadGuard<'static, ()> {
    apart();
    WATCHES.read().unwrap_or_else(PoisonError::into_inner)
}

/// A sysctl set for one test, and set back when dropped, on panic too.
pub(crate) struct WatchLimit {
    before: String,
    _alone: RwLockWriteGuard<'static, ()>,
}

impl WatchLimit {
    const PATH: &'static str = "/proc/sys/fs/inotify/max_user_watches";

    /// `None` without the right to set it; says so.
    pub(crate) fn set(limit: u64, test: &str) -> Option<WatchLimit> {
        let alone = WATCHES.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::fs::read_to_string(Self::PATH).expect("the sysctl can be read");
        match std::fs::write(Self::PATH, limit.to_string()) {
            Ok(()) => Some(WatchLimit { before, _alone: alone }),
            Err(why) => {
                eprintln!("SKIPPED {test}: {why}");
                None
            }
        }
    }
}

impl Drop for WatchLimit {
    fn drop(&mut self) {
        std::fs::write(Self::PATH, &self.before).expect("the sysctl can be set back");
    }
}

/// A filesystem mounted for one test; unmounted and removed when dropped, on panic too.
pub(crate) struct Scratch {
    point: PathBuf,
    _dir: tempfile::TempDir,
    _judging: RwLockReadGuard<'static, ()>,
}

impl Scratch {
    /// A fresh filesystem of `kind` (`tmpfs`, or what `mkfs.KIND` makes in a loop-mounted image; in
    /// btrfs a subvolume `sub`). `None` without root or without the tools; says so on stderr under
    /// the name of `test`.
    pub(crate) fn new(kind: &str, test: &str) -> Option<Scratch> {
        apart();
        let dir = tempfile::tempdir().expect("a temporary directory");
        // Paths read back from the kernel hold no symlinks.
        let base = dir.path().canonicalize().expect("the temporary directory's path");
        let point = base.join("mnt");
        std::fs::create_dir(&point).expect("a mount point");
        let done = match kind {
            "tmpfs" => {
                mount(Some("scratch"), &point, Some("tmpfs"), MsFlags::empty(), Some("size=256m")).map_err(|e| e.to_string())
            }
            _ => mount_image(kind, &base.join("image"), &point),
        };
        match done {
            Ok(()) => Some(Scratch { point, _dir: dir, _judging: judging() }),
            Err(why) => {
                eprintln!("SKIPPED {test} on {kind}: {why}");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.point
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
    }
}

fn mount_image(kind: &str, image: &Path, point: &Path) -> Result<(), String> {
    // The smallest that mkfs.xfs accepts; sparse, so it costs what the test writes.
    const IMAGE_BYTES: u64 = 320 << 20;
    std::fs::File::create(image).and_then(|file| file.set_len(IMAGE_BYTES)).map_err(|e| e.to_string())?;
    run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(image))?;
    run(Command::new("mount").args(["-o", "loop"]).args([image, point]))?;
    match kind {
        // Beside the top level, what distributions put data in.
        "btrfs" => run(Command::new("btrfs").args(["subvolume", "create"]).arg(point.join("sub"))),
        _ => Ok(()),
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if out.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr).trim())) }
}
