//! What happens elsewhere on the source's filesystem: it costs no comparison, and loses nothing
//! inside.

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::proc::must;
use crate::fixture::tree::{Dir, Times};
use crate::fixture::{Case, Mirror, Setup, case};

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use fansync::sys::handle::{Handle, name_to_handle, open_by_handle};

/// Filesystems that can forget a name.
const DISKS: &[Fs] = &[Fs::Ext4, Fs::Xfs, Fs::Btrfs];

pub fn cases() -> Vec<Case> {
    vec![
        case("dirs_made_and_removed", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            m.src.write("d", b"inside");
            m.check();
            churn(&m.out, 3_000);
            unimpressed(&m);
            Ok(())
        }),
        // A comparison would delete what only the target has.
        case("what_only_the_target_has_stays", &[Fs::Ext4], |fs| {
            let theirs = |dst: &Dir| dst.write("theirs", b"not from the source");
            let m = Setup::new(fs).initial("none").before_on_target(theirs).start()?;
            churn(&m.out, 3_000);
            m.src.write("mine", b"from the source");
            m.daemon.flush(None);
            assert!(m.dst().has("mine") && m.dst().has("theirs"), "deleted for what happened outside");
            unimpressed(&m);
            Ok(())
        }),
        case("changes_by_handle", DISKS, |fs| {
            let m = Setup::new(fs).start()?;
            files(&m.out, 30);
            m.check();
            let outside = ByHandle::of(&m.out, 30);
            outside.each(change);
            unimpressed(&m);
            let walks = m.daemon.status().mirrors[0].searches;
            assert!((1..=3).contains(&walks), "{walks} walks over the source for changes outside");
            outside.each(change);
            unimpressed(&m);
            assert_eq!(m.daemon.status().mirrors[0].searches, walks, "sought again, although they are known to lie outside");
            // One of them comes inside, by a link, and loses its name in the cache again.
            m.out.rename_to("f0", &m.src, "f0");
            m.check();
            forget_names(&m.src);
            outside.each(change);
            m.check();
            unimpressed(&m);
            Ok(())
        }),
        case("changes_by_handle_inside", DISKS, |fs| {
            let m = Setup::new(fs).start()?;
            files(&m.src, 30);
            m.src.mkdir("d");
            m.src.link("f1", "d/other name");
            m.check();
            ByHandle::of(&m.src, 30).each(change);
            m.check();
            unimpressed(&m);
            Ok(())
        }),
        case("changes_by_handle_inside_before_a_stop", &[Fs::Ext4], |fs| {
            let mut m = Setup::new(fs).start()?;
            changes_before_a_stop(&mut m);
            Ok(())
        }),
        // The record of a rename does not name the file that it overwrites, which has another name.
        case("links_overwritten_by_renames", DISKS, |fs| {
            let m = Setup::new(fs).start()?;
            m.out.mkdir("other");
            for n in 0..30 {
                m.out.write(format!("f{n}"), b"overwritten");
                m.out.link(format!("f{n}"), format!("other/f{n}"));
                m.out.write(format!("new{n}"), b"new");
            }
            m.check();
            forget_names(&m.out);
            (0..30).for_each(|n| m.out.rename(format!("new{n}"), format!("f{n}")));
            unimpressed(&m);
            Ok(())
        }),
        // Inside, the same must not lose a file.
        case("dirs_made_and_removed_inside", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            churn(&m.src, 1_000);
            for n in 0..50 {
                m.src.mkdir(format!("kept {n}"));
                m.src.write(format!("kept {n}/f"), b"kept");
            }
            m.check();
            Ok(())
        }),
    ]
}

/// Directories with a file in them, made and removed by three at a time: each inode number is in
/// use again at once.
fn churn(dir: &Dir, rounds: usize) {
    thread::scope(|scope| {
        for thread in 0..3 {
            scope.spawn(move || {
                for n in 0..rounds {
                    let name = format!("{thread}-{}", n % 50);
                    dir.mkdir(&name);
                    dir.write(format!("{name}/f"), b"");
                    dir.remove(&name);
                }
            });
        }
    });
}

/// What changes by handle right before a stop is on the target after it.
#[track_caller]
pub fn changes_before_a_stop(m: &mut Mirror) {
    files(&m.src, 3);
    m.check();
    ByHandle::of(&m.src, 3).each(change);
    m.daemon.terminate();
    m.compare(Times::All, &|_| false);
}

/// No event was lost, and nothing was compared beyond the first time.
#[track_caller]
fn unimpressed(m: &Mirror) {
    m.daemon.flush(None);
    let status = m.daemon.status();
    assert!(status.mirrors[0].lost.is_empty(), "lost: {:?}", status.mirrors[0].lost);
    assert!(!m.daemon.log().contains("CAP_DAC_READ_SEARCH"), "advice about a capability that is there");
    let compared = m.daemon.log().matches("comparing the whole tree").count();
    assert!(compared <= 1, "the whole tree was compared {compared} times");
}

/// Has the kernel forget every name on the filesystem, as memory pressure or a restart of an NFS
/// server does.
pub fn forget_names(at: &Dir) {
    must(Command::new("sync").arg("-f").arg(at.root()));
    let fs = at.root().parent().expect("it lies on a mount");
    must(Command::new("mount").args(["-o", "remount"]).arg(fs));
}

/// Files of which only the handles are known, as a server has them.
pub struct ByHandle {
    fs: File,
    handles: Vec<Handle>,
}

impl ByHandle {
    /// The files `f0`, `f1`, … of `dir`; the kernel forgets their names.
    pub fn of(dir: &Dir, files: usize) -> ByHandle {
        let fs = File::open(dir.root()).expect("a directory can be opened");
        let handle = |n: usize| name_to_handle(fs.as_fd(), Path::new(&format!("f{n}"))).expect("a file has a handle");
        let handles = (0..files).map(handle).collect();
        forget_names(dir);
        ByHandle { fs, handles }
    }

    pub fn each(&self, act: impl Fn(&Path)) {
        for handle in &self.handles {
            let file = open_by_handle(self.fs.as_fd(), handle.as_ref()).expect("it is there");
            act(Path::new(&format!("/proc/thread-self/fd/{}", file.as_raw_fd())));
        }
    }
}

pub fn files(dir: &Dir, files: usize) {
    (0..files).for_each(|n| dir.write(format!("f{n}"), b"as it was"));
}

/// Every way to change a file, by handle alone.
pub fn change(path: &Path) {
    OpenOptions::new().append(true).open(path).and_then(|mut f| f.write_all(b" and by handle")).expect("it can be written");
    std::fs::set_permissions(path, Permissions::from_mode(0o640)).expect("its mode can be set");
}
