//! Places of the source that root cannot read: what a damaged disk, or a user's filesystem, makes
//! of them. They are named and protected, and the rest is compared with deletions.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::fixture::daemon::{TargetStatus, Until};
use crate::fixture::fs::{Fs, needs, work_dir};
use crate::fixture::proc::{Service, bound_command, must, poll_until};
use crate::fixture::{Case, Mirror, Run, Setup, Skip, WAIT, case};
use crate::holds::place_held;
use crate::mounts::apart;
use crate::remounts::{LoopDevice, attach};

/// `nobody`, who mounts with fusermount3.
const USER: u32 = 65534;

pub fn cases() -> Vec<Case> {
    vec![
        case("a_directory_that_the_disk_lost", &[Fs::Tmpfs], |fs| {
            let device = damaged()?;
            let at = device.path().to_path_buf();
            let mut m = Setup::guarded(fs)
                .target_key("retry_min", "50ms")
                .while_reconciling()
                .before(move |src| {
                    src.mkdirs("disk");
                    attach(&at, &src.at("disk"));
                    src.write("f", b"x");
                })
                .before_on_target(|dst| {
                    ["disk/bad", "disk/good/stray", "stray"].iter().for_each(|dir| dst.mkdirs(dir));
                    dst.write("disk/bad/f", b"the last copy");
                })
                .start()?;
            let named = |t: &TargetStatus| t.failures.iter().any(|f| f.path == "disk/bad");
            let status = m.daemon.target_status_until("t1", "the place that cannot be read", named);
            assert!(status.failures[0].reason.contains("needs cleaning"), "{status:?}");
            rest_is_equal(&m, &["disk/good/stray", "stray"]);
            assert!(m.dst().has("disk/bad/f") && m.dst().has("disk/good/f"));
            // Over a restart that compares everything.
            m.daemon.terminate();
            fs::remove_dir_all(m.scratch("state")).expect("it can be removed");
            m.dst().mkdirs("disk/good/stray");
            m.restart(Until::Watching);
            m.daemon.target_status_until("t1", "the same place", named);
            rest_is_equal(&m, &["disk/good/stray"]);
            assert!(m.dst().has("disk/bad/f"));
            Ok(())
        }),
        case("what_a_user_mounts_with_fusermount", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let work = work_dir();
            let backing = work.path().join("backing");
            users_dir(&backing);
            fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
            let m = Setup::guarded(fs)
                .before(|src| {
                    users_dir(&src.at("u/m"));
                    src.write("u/m/below", b"the mount");
                })
                .start()?;
            m.check();
            let mut server = users_bindfs(&m, &backing, &m.src.at("u/m"))?;
            apart(&m, "u/m");
            assert!(fs::read_dir(m.src.at("u/m")).is_err(), "root is let in, which the test is not about");
            m.src.write("others", b"x");
            m.dst().mkdirs("stray");
            m.daemon.reconcile();
            rest_is_equal(&m, &["stray"]);
            m.daemon.flush(None);
            assert!(m.dst().has("others") && m.dst().has("u/m/below"));
            // Its server dies: no process can read it any more.
            server.kill();
            m.dst().mkdirs("stray");
            m.daemon.reconcile();
            rest_is_equal(&m, &["stray"]);
            m.daemon.flush(None);
            assert!(m.dst().has("u/m/below"));
            umount2(&m.src.at("u/m"), MntFlags::MNT_DETACH).expect("it is mounted");
            apart(&m, "");
            m.src.remove("u/m/below");
            m.check();
            Ok(())
        }),
        case("a_filesystem_whose_server_dies_holds_its_place", &[Fs::Tmpfs], |fs| {
            needs("bindfs")?;
            let work = work_dir();
            let backing = work.path().join("backing");
            fs::create_dir_all(&backing).expect("a directory can be made");
            fs::write(backing.join("f"), b"x").expect("a file can be written");
            let m = Setup::guarded(fs).before(|src| src.mkdirs("net")).start()?;
            let log = fs::File::create(work.path().join("log")).expect("a file can be made");
            let at = m.src.at("net");
            let mut server = Service::start("bindfs", bound_command("bindfs").arg("-f").arg(&backing).arg(&at), &log)
                .unwrap_or_else(|e| panic!("{e}"));
            let arrived = poll_until(WAIT, || (m.dst().has("net/f") || server.ended().is_some()).then_some(()));
            assert!(arrived.is_some() && server.ended().is_none(), "{}", m.daemon.report());
            server.kill();
            m.src.write("others", b"x");
            m.dst().mkdirs("stray");
            m.daemon.reconcile();
            place_held(&m, "net", "is gone");
            rest_is_equal(&m, &["stray"]);
            assert!(poll_until(WAIT, || m.dst().has("others").then_some(())).is_some(), "{}", m.daemon.report());
            assert!(m.dst().has("net/f"));
            umount2(&at, MntFlags::MNT_DETACH).expect("it is mounted");
            Ok(())
        }),
    ]
}

/// What only the target has beside the bad place is deleted.
#[track_caller]
fn rest_is_equal(m: &Mirror, extra: &[&str]) {
    let gone = poll_until(WAIT, || extra.iter().all(|path| !m.dst().has(path)).then_some(()));
    assert!(gone.is_some(), "what is extra elsewhere stays\n{}", m.daemon.report());
}

/// A filesystem with a directory whose inode is damaged, and one that is not.
fn damaged() -> Run<LoopDevice> {
    needs("debugfs")?;
    let content = work_dir();
    LoopDevice::with(|image| {
        let at = content.path().join("mount");
        fs::create_dir(&at).expect("a directory can be made");
        must(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&at));
        for dir in ["bad", "good"] {
            fs::create_dir(at.join(dir)).expect("a directory can be made");
            fs::write(at.join(dir).join("f"), b"x").expect("a file can be written");
        }
        must(Command::new("umount").arg(&at));
        must(Command::new("debugfs").args(["-w", "-R", "set_inode_field /bad block[0] 0"]).arg(image));
    })
}

fn users_dir(at: &Path) {
    fs::create_dir_all(at).expect("a directory can be made");
    chown(at, Some(USER), Some(USER)).expect("root may");
}

/// bindfs as an ordinary user runs it, without allow_other.
fn users_bindfs(m: &Mirror, backing: &Path, at: &Path) -> Run<Service> {
    needs("bindfs")?;
    needs("fusermount3")?;
    let device = Path::new("/dev/fuse");
    let meta = fs::metadata(device).map_err(|e| Skip(format!("/dev/fuse: {e}")))?;
    if meta.mode() & 0o006 != 0o006 {
        // As udev makes it; in the test's own namespace of mounts.
        let open = m.scratch("fuse");
        mknod(&open, SFlag::S_IFCHR, Mode::all(), meta.rdev()).expect("root may");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).expect("it is ours");
        mount(Some(&open), device, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("it can be bound");
    }
    let log = fs::File::create(m.scratch("bindfs.log")).expect("a file can be made");
    let mut command = bound_command("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--",
        "bindfs",
        "--no-allow-other",
        "-f",
        "-o",
        "nonempty",
    ]);
    let mut server = Service::start("bindfs", command.arg(backing).arg(at), &log).unwrap_or_else(|e| panic!("{e}"));
    let table = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let there = || table().contains(&format!(" {} ", at.display()));
    poll_until(WAIT, || (there() || server.ended().is_some()).then_some(()));
    if server.ended().is_some() {
        return Err(Skip(format!("no user may mount here: {}", fs::read_to_string(m.scratch("bindfs.log")).unwrap_or_default())));
    }
    Ok(server)
}
