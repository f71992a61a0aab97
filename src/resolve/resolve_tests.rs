//! Against the running kernel: a directory on a filesystem with a mark, changes, and the paths that
//! are reported. Each on a filesystem of its own, so that nothing else raises events. Needs root.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use super::*;
use crate::scratch::Scratch;
use crate::source::fan_decode::events;
use crate::sys::fanotify::{Group, Options};
use crate::sys::handle::open_by_handle;

pub(super) struct Watched {
    pub(super) group: Group,
    pub(super) root: Root,
    pub(super) resolver: Resolver,
    pub(super) filter: Filter,
    // Unmounted last.
    scratch: Scratch,
}

impl Watched {
    /// `None`, printed, where this cannot be tested.
    fn new(test: &str, exclude: &[&str], rename_events: bool) -> Option<Watched> {
        let options = Options { rename_events, ..Options::default() };
        Some(Watched::on(Scratch::new("ext4", test)?, exclude, &options))
    }

    pub(super) fn on(scratch: Scratch, exclude: &[&str], options: &Options) -> Watched {
        fs::create_dir(scratch.path().join("root")).unwrap();
        fs::create_dir(scratch.path().join("outside")).unwrap();
        let group = Group::open(options).expect("needs root");
        group.mark_filesystem(scratch.path()).unwrap();
        let root = Root::open(&scratch.path().join("root")).unwrap();
        let mut resolver = Resolver::new(1000);
        resolver.add_mount(&root, &RelPath::root(), fs::File::open(root.path()).unwrap().into()).unwrap();
        let filter = Filter::new::<&str, &str>(&[], exclude).unwrap();
        Watched { group, root, resolver, filter, scratch }
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.scratch.path().join(path)
    }

    /// Everything reported since the last call, as `what path`.
    pub(super) fn reported(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        let mut buf = vec![0; 65536];
        while let Ok(n) = nix::unistd::read(&self.group, &mut buf) {
            for event in events(&buf[..n]) {
                let mut sink = |p: &[u8], s: Seen| out.push(format!("{s:?} {}", path::Shown(p)));
                self.resolver.event(&self.root, &self.filter, &event.unwrap(), &mut sink).unwrap();
            }
        }
        out.retain(|s| !s.starts_with("Touched"));
        out.dedup();
        out
    }
}

#[test]
fn a_directory_that_cannot_be_opened_by_its_handle_is_sought() {
    let Some(mut w) = Watched::new("a_directory_that_cannot_be_opened_by_its_handle_is_sought", &[], true) else { return };
    fs::create_dir(w.at("root/a")).unwrap();
    fs::write(w.at("root/a/f"), "1").unwrap();
    fs::write(w.at("outside/f"), "1").unwrap();
    // Capabilities belong to a thread, and so does a test.
    caps::clear(None, caps::CapSet::Effective).unwrap();
    let mut buf = vec![0; 65536];
    let n = nix::unistd::read(&w.group, &mut buf).unwrap();
    for event in events(&buf[..n]) {
        w.resolver.event(&w.root, &w.filter, &event.unwrap(), &mut |_: &[u8], _: Seen| {}).expect("nothing is lost");
    }
    let nameless = w.resolver.nameless_files();
    nameless.hurry();
    let sought = nameless.begin(Duration::ZERO).expect("they are sought");
    assert_eq!((sought.objects.len(), sought.files), (2, false), "a and outside");
    let within = crate::links::search::Within { fd: w.root.as_fd(), apart: &crate::apart::Apart::default() };
    let objects = crate::links::objects::seek_objects(within, &w.filter, &sought.objects, sought.files);
    let ended = nameless.end(Duration::ZERO, &[], &objects, Duration::ZERO);
    assert_eq!((ended.lost, ended.dirty), (vec![RelPath::from_normal("a")], Vec::new()), "what is outside compares nothing");
}

#[test]
fn paths_follow_directories_wherever_they_go() {
    for rename_events in [true, false] {
        let Some(mut w) = Watched::new("paths_follow_directories_wherever_they_go", &[], rename_events) else { return };
        fs::create_dir_all(w.at("root/a/b")).unwrap();
        fs::write(w.at("root/a/b/f"), "1").unwrap();
        assert_eq!(w.reported(), ["CreatedDir a", "CreatedDir a/b", "Created a/b/f", "Written a/b/f"]);
        fs::rename(w.at("root/a"), w.at("root/c")).unwrap();
        fs::write(w.at("root/c/b/f"), "2").unwrap();
        let halves = if rename_events { ["LeftDir a", "ArrivedDir c"] } else { ["GoneDir a", "MovedDir c"] };
        assert_eq!(w.reported(), [halves[0], halves[1], "Written c/b/f"], "rename events {rename_events}");
        fs::rename(w.at("root/c"), w.at("outside/c")).unwrap();
        fs::write(w.at("outside/c/b/f"), "3").unwrap();
        assert_eq!(w.reported(), ["GoneDir c"]);
        fs::write(w.at("outside/c/b/g"), "3").unwrap();
        assert!(w.reported().is_empty());
        fs::rename(w.at("outside/c"), w.at("root/d")).unwrap();
        fs::write(w.at("root/d/b/f"), "4").unwrap();
        assert_eq!(w.reported(), ["MovedDir d", "Written d/b/f"], "a foreign directory came inside with all below it");
        fs::remove_dir_all(w.at("root/d")).unwrap();
        assert_eq!(w.reported().last().map(String::as_str), Some("GoneDir d"));
    }
}

#[test]
fn many_renames_drained_late_end_right() {
    let Some(mut w) = Watched::new("many_renames_drained_late_end_right", &[], true) else { return };
    fs::create_dir_all(w.at("root/a/x")).unwrap();
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "d")] {
        fs::rename(w.at("root").join(from), w.at("root").join(to)).unwrap();
    }
    fs::write(w.at("root/d/x/f"), "1").unwrap();
    let reported = w.reported();
    assert!(reported.contains(&"Written d/x/f".into()) && reported.contains(&"ArrivedDir d".into()), "{reported:?}");
    fs::write(w.at("root/d/x/g"), "1").unwrap();
    assert_eq!(w.reported(), ["Created d/x/g", "Written d/x/g"]);
    let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
    fs::create_dir(w.at("root/e")).unwrap();
    fs::write(w.at("root/e/one"), "1").unwrap();
    w.reported();
    nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &w.at("root/d"), nix::fcntl::AT_FDCWD, &w.at("root/e"), flags).unwrap();
    fs::write(w.at("root/e/x/f"), "2").unwrap();
    fs::write(w.at("root/d/one"), "2").unwrap();
    let reported = w.reported();
    assert!(reported.contains(&"Written e/x/f".into()) && reported.contains(&"Written d/one".into()), "{reported:?}");
}

/// The kernel merges the third rename into the first, so the last record says "back to a".
#[test]
fn a_directory_that_went_to_and_fro_is_found_where_it_is() {
    let Some(mut w) = Watched::new("a_directory_that_went_to_and_fro_is_found_where_it_is", &[], true) else { return };
    fs::create_dir_all(w.at("root/a/x")).unwrap();
    fs::write(w.at("root/a/x/f"), "1").unwrap();
    w.reported();
    for (from, to) in [("a", "b"), ("b", "a"), ("a", "b")] {
        fs::rename(w.at("root").join(from), w.at("root").join(to)).unwrap();
    }
    w.reported();
    fs::write(w.at("root/b/f"), "2").unwrap();
    fs::write(w.at("root/b/x/f"), "2").unwrap();
    assert_eq!(w.reported(), ["Created b/f", "Written b/f", "Written b/x/f"]);
}

/// The look-up of the first finds it where the exchange has put it, and the exchange is reported
/// after that.
#[test]
fn a_directory_looked_up_ahead_is_not_taken_for_the_one_it_was_exchanged_with() {
    let Some(mut w) = Watched::new("a_directory_looked_up_ahead_is_not_taken_for_the_one_it_was_exchanged_with", &[], true)
    else {
        return;
    };
    for dir in ["d/c", "e/c"] {
        fs::create_dir_all(w.at("root").join(dir)).unwrap();
    }
    w.reported();
    let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
    fs::write(w.at("root/e/c/before"), "1").unwrap();
    nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &w.at("root/e/c"), nix::fcntl::AT_FDCWD, &w.at("root/d/c"), flags).unwrap();
    w.reported();
    fs::write(w.at("root/d/c/after"), "1").unwrap();
    fs::write(w.at("root/e/c/after"), "1").unwrap();
    assert_eq!(w.reported(), ["Created d/c/after", "Written d/c/after", "Created e/c/after", "Written e/c/after"]);
}

/// The same with what is above it: found below the name that its parent has by now, which in the
/// tree still is another's.
#[test]
fn a_directory_looked_up_ahead_is_not_hung_on_the_one_that_had_its_parents_name() {
    let Some(mut w) = Watched::new("a_directory_looked_up_ahead_is_not_hung_on_the_one_that_had_its_parents_name", &[], true)
    else {
        return;
    };
    for dir in ["p/q", "x/q"] {
        fs::create_dir_all(w.at("root").join(dir)).unwrap();
        fs::write(w.at("root").join(dir).parent().unwrap().join("f"), "1").unwrap();
    }
    w.reported();
    fs::write(w.at("root/x/q/before"), "1").unwrap();
    fs::rename(w.at("root/p"), w.at("root/r")).unwrap();
    fs::rename(w.at("root/x"), w.at("root/p")).unwrap();
    w.reported();
    fs::write(w.at("root/p/q/after"), "1").unwrap();
    assert_eq!(w.reported(), ["Created p/q/after", "Written p/q/after"]);
}

#[test]
fn excluded_and_foreign_paths_are_not_told() {
    let Some(mut w) = Watched::new("excluded_and_foreign_paths_are_not_told", &["/cache/", "*.tmp"], true) else { return };
    fs::create_dir_all(w.at("root/cache/deep")).unwrap();
    fs::write(w.at("root/cache/deep/f"), "1").unwrap();
    fs::write(w.at("root/f.tmp"), "1").unwrap();
    fs::write(w.at("outside/f"), "1").unwrap();
    assert_eq!(w.reported(), ["DirTimes ."], "of their directory no more than the times");
    fs::write(w.at("root/f.tmp"), "2").unwrap();
    assert!(w.reported().is_empty(), "no name came or went");
    fs::rename(w.at("root/f.tmp"), w.at("root/f")).unwrap();
    assert_eq!(w.reported(), ["DirTimes .", "Replaced f"], "no rename to a target, which never had the one name");
    fs::rename(w.at("root/cache"), w.at("root/kept")).unwrap();
    fs::write(w.at("root/kept/deep/f"), "2").unwrap();
    assert_eq!(w.reported(), ["DirTimes .", "MovedDir kept", "Written kept/deep/f"], "verdicts end with the rename");
    fs::rename(w.at("root/kept"), w.at("root/cache")).unwrap();
    fs::write(w.at("root/cache/deep/f"), "3").unwrap();
    assert_eq!(w.reported(), ["LeftDir kept", "DirTimes ."]);
}

/// An NFS server works by file handle; with the name out of the cache, the kernel reports the file
/// alone.
#[test]
fn a_file_written_by_handle_is_found_or_lost_but_never_ignored() {
    let Some(mut w) = Watched::new("a_file_written_by_handle_is_found_or_lost_but_never_ignored", &[], true) else { return };
    fs::write(w.at("root/f"), "1").unwrap();
    w.reported();
    let dir = fs::File::open(w.at("root")).unwrap();
    let handle = crate::sys::handle::name_to_handle(dir.as_fd(), Path::new("f")).unwrap();
    let by_handle = |w: &Watched| {
        let fd = open_by_handle(w.root.as_fd(), handle.as_ref()).unwrap();
        fs::write(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()), "by handle").unwrap();
    };
    by_handle(&w);
    assert!(w.reported().contains(&"Written f".into()));
    let nameless = FanEvent {
        mask: libc::FAN_CLOSE_WRITE,
        pid: 1,
        dir: None,
        old: None,
        new: None,
        child: Some(Fid { fs: fs_id(dir.as_fd()).unwrap(), kind: handle.kind, handle: &handle.bytes }),
        skipped: 0,
    };
    let mut reported = Vec::new();
    let mut sink = |p: &[u8], s: Seen| reported.push((p.to_vec(), s));
    w.resolver.event(&w.root, &w.filter, &nameless, &mut sink).unwrap();
    assert_eq!(reported, [(b"f".to_vec(), Seen::Written)]);
}

#[test]
fn a_root_that_is_replaced_is_noticed() {
    let Some(w) = Watched::new("a_root_that_is_replaced_is_noticed", &[], true) else { return };
    assert_eq!(w.root.check(), Ok(()));
    fs::rename(w.at("root"), w.at("was")).unwrap();
    assert!(w.root.check().unwrap_err().to_string().contains("is not there"));
    std::os::unix::fs::symlink("was", w.at("root")).unwrap();
    assert!(w.root.check().unwrap_err().to_string().contains("replaced"));
}

/// Drops what the kernel caches of names, so that a file is known by its inode alone.
fn forget_names() {
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
}

/// Whether a file is sought that has no path.
fn sought(w: &mut Watched) -> bool {
    w.reported();
    w.resolver.settle();
    w.resolver.nameless_files().hurry();
    let sought = w.resolver.nameless_files().begin(Duration::MAX).is_some();
    w.resolver.nameless_files().end(Duration::ZERO, &[], &Default::default(), Duration::ZERO);
    sought
}

#[test]
fn the_other_names_of_a_file_are_no_concern_but_a_change_by_handle_is() {
    let Some(mut w) = Watched::new("the_other_names_of_a_file_are_no_concern_but_a_change_by_handle_is", &[], true) else {
        return;
    };
    fs::write(w.at("outside/one"), "1").unwrap();
    fs::create_dir(w.at("outside/d")).unwrap();
    fs::hard_link(w.at("outside/one"), w.at("outside/d/two")).unwrap();
    let fd = fs::File::open(w.at("outside")).unwrap();
    let handle = name_to_handle(fd.as_fd(), Path::new("one")).unwrap();
    w.reported();
    assert!(!sought(&mut w));
    forget_names();
    fs::remove_file(w.at("outside/d/two")).unwrap();
    assert!(!sought(&mut w), "a name was removed, nothing else");
    forget_names();
    let by_handle = open_by_handle(fd.as_fd(), handle.as_ref()).unwrap();
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        &PathBuf::from(format!("/proc/thread-self/fd/{}", by_handle.as_raw_fd())),
        Mode::S_IRWXU,
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
    .unwrap();
    assert!(sought(&mut w), "changed by handle, and its path is not known");
    assert!(!sought(&mut w));
}

#[test]
fn a_mask_says_what_became_of_a_file() {
    use Seen::*;
    use libc::{FAN_ATTRIB, FAN_CLOSE_WRITE, FAN_CREATE, FAN_DELETE, FAN_MODIFY, FAN_MOVED_FROM, FAN_MOVED_TO};
    // Events of one name that the kernel merges have the bits of all.
    let table: [(u64, &[Seen]); 15] = [
        (FAN_CREATE, &[Created]),
        (FAN_CREATE | FAN_CLOSE_WRITE | FAN_MODIFY, &[Created, Written]),
        (FAN_CREATE | FAN_MOVED_TO, &[Created, Replaced]),
        (FAN_CREATE | FAN_DELETE, &[Gone, Written]),
        (FAN_CREATE | FAN_MOVED_TO | FAN_DELETE, &[Gone, Replaced]),
        (FAN_MOVED_TO, &[Replaced]),
        (FAN_MOVED_TO | FAN_CLOSE_WRITE, &[Replaced]),
        (FAN_MOVED_TO | FAN_MOVED_FROM, &[Gone, Replaced]),
        (FAN_DELETE, &[Gone]),
        (FAN_MOVED_FROM | FAN_ATTRIB, &[Touched, Gone]),
        (FAN_DELETE | FAN_MODIFY, &[Touched, Gone]),
        (FAN_CLOSE_WRITE | FAN_DELETE, &[Gone, Written]),
        (FAN_CLOSE_WRITE | FAN_ATTRIB, &[Written]),
        (FAN_ATTRIB | FAN_MODIFY, &[Touched]),
        (FAN_MODIFY, &[]),
    ];
    for (mask, want) in table {
        assert_eq!(file_changes(mask), want, "{mask:#x}");
    }
}
