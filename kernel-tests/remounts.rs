//! Mounts below the source that are detached and made anew, and those whose place in the mount
//! table changes because a directory above them is renamed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::fixture::daemon::fansync;
use crate::fixture::fs::{Fs, Mount, needs};
use crate::fixture::proc::{must, poll_until};
use crate::fixture::{Case, Mirror, Run, Setup, WAIT, case};
use crate::holds::place_held;
use crate::mounts::{apart, kernel_fs};

pub fn cases() -> Vec<Case> {
    vec![
        // As losetup, mount, losetup -d leave it: the kernel frees the device at its last close.
        case("a_loop_device_outlives_a_lazy_unmount", &[Fs::Tmpfs], |fs| {
            let device = LoopDevice::new()?;
            let m = {
                let device = device.path.clone();
                Setup::guarded(fs)
                    .before(move |src| {
                        src.mkdir("n");
                        attach(&device, &src.at("n"));
                        src.mkdir("n/d");
                        (0..5).for_each(|n| src.write(format!("n/d/{n}"), b"x"));
                    })
                    .start()?
            };
            must(Command::new("losetup").arg("-d").arg(&device.path));
            m.check_but(crate::fixture::tree::Times::All, &|path| path.ends_with("lost+found"));
            umount2(&m.src.at("n"), MntFlags::MNT_DETACH).expect("it is mounted");
            place_held(&m, "n", "is gone");
            assert!(device.is_attached(), "the device went with the mount");
            attach(&device.path, &m.src.at("n"));
            m.src.write("n/d/1", b"written after it was mounted again");
            m.src.rename("n/d", "n/e");
            m.check_but(crate::fixture::tree::Times::All, &|path| path.ends_with("lost+found"));
            // Once nothing waits for it, nothing of fansync's keeps it.
            umount2(&m.src.at("n"), MntFlags::MNT_DETACH).expect("it is mounted");
            place_held(&m, "n", "is gone");
            m.daemon.does(&["resume", "--accept-source"]);
            let freed = poll_until(WAIT, || (!device.is_attached()).then_some(()));
            assert!(freed.is_some(), "the device is still in use\n{}", m.daemon.report());
            Ok(())
        }),
        case("comparisons_without_a_daemon_leave_out_the_same", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let mut m = Setup::guarded(fs)
                .key("mounts", toml::Table::from_iter([("skip".to_owned(), toml::Value::from(vec!["ramfs"]))]))
                .before(|src| {
                    src.mkdirs("c/proc");
                    std::mem::forget(kernel_fs("proc", &src.at("c/proc")));
                    std::mem::forget(Mount::ramfs(&src.at("scratch")));
                    std::mem::forget(Mount::tmpfs(&src.at("disk")));
                    ["scratch/f", "disk/f", "f"].iter().for_each(|f| src.write(f, b"x"));
                })
                .start()?;
            m.daemon.flush(None);
            m.daemon.terminate();
            let config = m.write_config().display().to_string();
            let verified = || fansync(&["verify", "--config", &config], WAIT);
            let ran = verified();
            assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
            let (src, dst) = (m.src.root().display().to_string(), m.dst().root().display().to_string());
            let ran = fansync(&["mirror", "--dry-run", &src, &dst], WAIT);
            assert!(ran.code == 0 && !ran.stdout.contains("c/proc"), "{}{}", ran.stdout, ran.stderr);
            // What is missing is no deletion.
            umount2(&m.src.at("disk"), MntFlags::empty()).expect("it is mounted");
            let ran = verified();
            assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
            Ok(())
        }),
        case("a_directory_above_mounts_is_renamed", &[Fs::Ext4, Fs::Tmpfs], |fs| renamed(Setup::guarded(fs))),
        case("a_directory_above_mounts_is_renamed_by_inotify", &[Fs::Tmpfs], |fs| renamed(Setup::guarded(fs).watch("inotify"))),
    ]
}

/// The kernel raises no event of the mount table when a directory above a mount is renamed.
fn renamed(setup: Setup) -> Run<()> {
    let m = setup
        .before(|src| {
            ["d/e/disk", "c/b/proc"].iter().for_each(|dir| src.mkdirs(dir));
            std::mem::forget(Mount::tmpfs(&src.at("d/e/disk")));
            std::mem::forget(kernel_fs("proc", &src.at("c/b/proc")));
            src.write("d/e/disk/f", b"x");
        })
        .start()?;
    arrives(&m, "d/e/disk/f");
    // Of what is not mirrored nothing is missed, so nothing but the rename tells.
    m.src.rename("c/b", "c/k");
    apart(&m, "c/k/proc");
    m.daemon.flush(None);
    assert_eq!(crate::fixture::tree::count(&m.dst().at("c/k/proc")).ok(), Some(0), "something of the kernel's was copied");
    m.src.rename("d", "x");
    m.src.write("x/e/disk/g", b"written where it is now");
    m.daemon.flush(None);
    let dst = m.dst();
    assert!(dst.has("x/e/disk/f") && dst.has("x/e/disk/g") && !dst.has("d"), "{}", m.daemon.report());
    // What is expected has moved with it.
    umount2(&m.src.at("x/e/disk"), MntFlags::MNT_DETACH).expect("it is mounted");
    place_held(&m, "x/e/disk", "is gone");
    assert!(dst.has("x/e/disk/f"));
    std::mem::forget(Mount::tmpfs(&m.src.at("x/e/disk")));
    m.src.write("x/e/disk/h", b"x");
    m.daemon.flush(None);
    assert!(dst.has("x/e/disk/h") && !dst.has("x/e/disk/f"));
    m.src.rename("x/e", "y");
    m.src.write("y/disk/i", b"x");
    m.daemon.flush(None);
    assert!(dst.has("y/disk/i") && !dst.has("x/e"));
    Ok(())
}

#[track_caller]
fn arrives(m: &Mirror, path: &str) {
    assert!(poll_until(WAIT, || m.dst().has(path).then_some(())).is_some(), "{path} does not arrive\n{}", m.daemon.report());
}

/// An ext4 on a loop device.
pub struct LoopDevice {
    path: PathBuf,
    image: tempfile::NamedTempFile,
}

impl LoopDevice {
    /// A fresh one.
    pub fn new() -> Run<LoopDevice> {
        Self::with(|_| {})
    }

    /// One whose filesystem was changed before the kernel knew it.
    pub fn with(change: impl FnOnce(&Path)) -> Run<LoopDevice> {
        ["losetup", "mkfs.ext4"].iter().try_for_each(|program| needs(program))?;
        let image = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        File::set_len(image.as_file(), 16 << 20).expect("it can be sparse");
        must(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image.path()));
        change(image.path());
        let shown = Command::new("losetup").args(["-f", "--show"]).arg(image.path()).output().expect("losetup runs");
        assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
        Ok(LoopDevice { path: String::from_utf8_lossy(&shown.stdout).trim().into(), image })
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the device still is that of this image.
    fn is_attached(&self) -> bool {
        let name = self.path.file_name().expect("a device has a name");
        let backing = PathBuf::from("/sys/block").join(name).join("loop/backing_file");
        std::fs::read_to_string(backing).is_ok_and(|file| file.trim() == self.image.path().to_string_lossy())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if self.is_attached() {
            let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
        }
    }
}

/// Mounts the ext4 on `device`.
#[track_caller]
pub fn attach(device: &Path, at: &Path) {
    mount(Some(device), at, Some("ext4"), MsFlags::empty(), None::<&str>)
        .unwrap_or_else(|e| panic!("cannot mount {} on {}: {e}", device.display(), at.display()));
}
