//! Against the running kernel; needs root. The events are counted, on every filesystem.

use super::*;
use crate::scratch::Scratch;
use crate::source::fan_decode::events;
use crate::sys::fanotify::Options;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;

const ALL: [&str; 4] = ["tmpfs", "ext4", "xfs", "btrfs"];

struct Ground {
    scratch: Scratch,
    group: Group,
    ignorer: Ignorer,
    kind: &'static str,
}

impl Ground {
    fn all(test: &str, each: impl Fn(&Ground)) {
        for kind in ALL {
            let Some(scratch) = Scratch::new(kind, test) else { continue };
            let group = Group::open(&Options { writes: true, ..Options::default() }).unwrap();
            group.mark_filesystem(scratch.path()).unwrap();
            let ignorer = Ignorer::new(&group).unwrap();
            each(&Ground { scratch, group, ignorer, kind });
        }
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.scratch.path().join(path)
    }

    /// The masks of the events since the last call, together.
    fn reported(&self) -> u64 {
        let (mut buf, mut all) = ([0; 16384], 0);
        loop {
            match nix::unistd::read(&self.group, &mut buf) {
                Ok(n) => all |= events(&buf[..n]).fold(0, |all, event| all | event.unwrap().mask),
                Err(Errno::EAGAIN) => return all,
                Err(errno) => panic!("read from a fanotify group failed: {errno}"),
            }
        }
    }
}

fn o_path(path: &Path) -> OwnedFd {
    nix::fcntl::open(path, nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_NOFOLLOW, nix::sys::stat::Mode::empty()).unwrap()
}

#[test]
fn a_muted_file_is_silent_until_it_is_closed_or_unmuted() {
    Ground::all("a_muted_file_is_silent_until_it_is_closed_or_unmuted", |g| {
        let mut file = File::create(g.at("f")).unwrap();
        file.write_all(b"1").unwrap();
        assert!(g.reported() & libc::FAN_MODIFY != 0, "{}", g.kind);
        g.ignorer.ignore_writes(o_path(&g.at("f")).as_fd()).unwrap();
        g.reported();
        for _ in 0..3 {
            file.write_all(b"2").unwrap();
        }
        assert_eq!(g.reported(), 0, "{}: a write does not clear the mark", g.kind);
        nix::unistd::truncate(&g.at("f"), 0).unwrap();
        assert_eq!(g.reported(), 0, "{}", g.kind);
        g.ignorer.unmute_writes(o_path(&g.at("f")).as_fd()).unwrap();
        g.ignorer.unmute_writes(o_path(&g.at("f")).as_fd()).expect("a second time is fine");
        file.write_all(b"3").unwrap();
        assert_eq!(g.reported(), libc::FAN_MODIFY, "{}", g.kind);
        g.ignorer.ignore_writes(o_path(&g.at("f")).as_fd()).unwrap();
        file.write_all(b"4").unwrap();
        drop(file);
        assert_eq!(g.reported(), libc::FAN_CLOSE_WRITE, "{}", g.kind);
    });
}

#[test]
fn what_raises_a_modify_alone() {
    Ground::all("what_raises_a_modify_alone", |g| {
        fs::write(g.at("f"), "some").unwrap();
        std::os::unix::fs::symlink("f", g.at("s")).unwrap();
        fs::create_dir(g.at("d")).unwrap();
        g.reported();
        nix::unistd::truncate(&g.at("f"), 0).unwrap();
        assert_eq!(g.reported(), libc::FAN_MODIFY, "{}: truncate by name", g.kind);
        let mtime = |name: &str| {
            use nix::sys::stat::{UtimensatFlags, utimensat};
            use nix::sys::time::TimeSpec;
            utimensat(
                nix::fcntl::AT_FDCWD,
                &g.at(name),
                &TimeSpec::UTIME_OMIT,
                &TimeSpec::new(9, 9),
                UtimensatFlags::NoFollowSymlink,
            )
            .unwrap();
        };
        mtime("f");
        assert_eq!(g.reported(), libc::FAN_MODIFY, "{}: mtime alone", g.kind);
        mtime("s");
        assert_eq!(g.reported(), libc::FAN_MODIFY, "{}: of a symbolic link", g.kind);
        g.ignorer.ignore_writes(o_path(&g.at("s")).as_fd()).unwrap();
        mtime("s");
        assert_eq!(g.reported(), 0, "{}: the link itself is muted", g.kind);
        mtime("f");
        assert_eq!(g.reported(), libc::FAN_MODIFY, "{}: and not what it leads to", g.kind);
        mtime("d");
        assert_eq!(g.reported(), libc::FAN_MODIFY | libc::FAN_ONDIR, "{}: of a directory", g.kind);
    });
}

#[test]
fn a_muted_directory_hides_its_own_files_only() {
    Ground::all("a_muted_directory_hides_its_own_files_only", |g| {
        fs::create_dir_all(g.at("d/below")).unwrap();
        fs::write(g.at("d/old"), "1").unwrap();
        g.reported();
        if !g.ignorer.can_ignore_entries() {
            return eprintln!("SKIPPED: this kernel has no FAN_MARK_IGNORE");
        }
        g.ignorer.ignore_entries(o_path(&g.at("d")).as_fd()).unwrap();
        fs::write(g.at("d/f"), "1").unwrap();
        fs::write(g.at("d/old"), "2").unwrap();
        fs::remove_file(g.at("d/f")).unwrap();
        fs::set_permissions(g.at("d/old"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        // The link count of a deleted file is reported without a directory, so no directory's mark
        // hides it.
        assert_eq!(g.reported() & !libc::FAN_ATTRIB, 0, "{}", g.kind);
        fs::write(g.at("d/below/f"), "1").unwrap();
        assert!(g.reported() & libc::FAN_CLOSE_WRITE != 0, "{}: what is deeper is reported", g.kind);
        fs::create_dir(g.at("d/new")).unwrap();
        assert_eq!(g.reported(), libc::FAN_CREATE | libc::FAN_ONDIR, "{}: directories are reported", g.kind);
        fs::rename(g.at("d/old"), g.at("moved")).unwrap();
        assert_eq!(g.reported() & libc::FAN_RENAME, libc::FAN_RENAME, "{}: what leaves is reported", g.kind);
        fs::rename(g.at("moved"), g.at("d/old")).unwrap();
        assert_eq!(g.reported() & libc::FAN_RENAME, libc::FAN_RENAME, "{}: what comes is reported", g.kind);
        fs::rename(g.at("d"), g.at("e")).unwrap();
        assert_eq!(g.reported(), libc::FAN_RENAME | libc::FAN_ONDIR, "{}: its own move is reported", g.kind);
        fs::write(g.at("e/old"), "3").unwrap();
        assert_eq!(g.reported(), 0, "{}: the mark moves along", g.kind);
        g.ignorer.unmute_all().unwrap();
        fs::write(g.at("e/old"), "4").unwrap();
        assert!(
            g.reported() & libc::FAN_CLOSE_WRITE != 0,
            "{}: all is reported again, and the filesystem's mark is there",
            g.kind
        );
    });
}

#[test]
fn a_deleted_directory_takes_its_mark_along() {
    Ground::all("a_deleted_directory_takes_its_mark_along", |g| {
        if !g.ignorer.can_ignore_entries() {
            return eprintln!("SKIPPED: this kernel has no FAN_MARK_IGNORE");
        }
        let mut reused = false;
        for _ in 0..50 {
            fs::create_dir(g.at("d")).unwrap();
            let ino = fs::metadata(g.at("d")).unwrap().ino();
            g.ignorer.ignore_entries(o_path(&g.at("d")).as_fd()).unwrap();
            fs::remove_dir(g.at("d")).unwrap();
            fs::create_dir(g.at("d")).unwrap();
            reused |= fs::metadata(g.at("d")).unwrap().ino() == ino;
            g.reported();
            fs::write(g.at("d/f"), "1").unwrap();
            assert!(g.reported() & libc::FAN_CLOSE_WRITE != 0, "{}", g.kind);
            fs::remove_dir_all(g.at("d")).unwrap();
        }
        assert!(reused || g.kind != "ext4", "ext4 gives a number out again at once, so this must have been tried");
    });
}
