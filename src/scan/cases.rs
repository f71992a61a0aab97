//! Single situations, by name: what is reported, and what not.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::facts::moment;
use super::walk::MAX_DEPTH;
use super::*;
use crate::scratch::Scratch;
use crate::sys::handle::fs_id;

const FILESYSTEMS: [&str; 4] = ["tmpfs", "ext4", "xfs", "btrfs"];

/// A source whose state was saved, in sync and cleanly stopped.
struct Stopped {
    root: Root,
    fs: FsId,
    filter: Filter,
    mounts: Vec<(RelPath, FsId)>,
    resume: Resume,
    options: Options,
}

impl Stopped {
    fn new(base: &Path, exclude: &[&str], mounts: &[&str]) -> Stopped {
        let root = Root::open(&base.join("src")).unwrap();
        let fs = fs_id(root.as_fd()).unwrap();
        let mounts = mounts
            .iter()
            .map(|m| (RelPath::new(m.as_bytes()).unwrap(), fs_id(File::open(root.path().join(m)).unwrap().as_fd()).unwrap()))
            .collect();
        let mut stopped = Stopped {
            root,
            fs,
            filter: Filter::new::<&str, _>(&[], exclude).unwrap(),
            mounts,
            resume: Resume {
                dirs: Arc::new(Dirs::new([4; 16], Wall::MIN)),
                dirs_complete_at: Wall::MAX,
                watermarks: vec![],
                since: Wall::MIN,
                tidy: true,
                without: vec![],
                newest: Wall::MIN,
            },
            options: Options { threads: 1 },
        };
        let like = Arc::clone(&stopped.resume.dirs);
        let (dirs, _) = build_set(stopped.scope(), &like, stopped.options, &Progress::default()).unwrap();
        stopped.resume.dirs = Arc::new(dirs);
        // After the end of the walk, which the set says its places are known since.
        let now = Clock::now().unwrap().wall;
        let deadline = Instant::now() + Duration::from_secs(60);
        while stopped.resume.since <= now {
            assert!(Instant::now() < deadline);
            stopped.resume.since = moment(&base.join("probe"));
        }
        stopped.resume.watermarks = vec![Some(stopped.resume.since)];
        stopped
    }

    fn scope(&self) -> Scope<'_> {
        Scope { root: &self.root, filter: &self.filter, fs: self.fs, mounts: &self.mounts }
    }

    fn scan(&self) -> (Vec<String>, Dirs, Report) {
        let mut findings = Vec::new();
        let (dirs, report) = restart_scan(self.scope(), &self.resume, self.options, &Progress::default(), &mut |f| {
            assert!(f.since >= self.resume.since);
            findings.push(format!("{:?} {}", f.kind, crate::path::Shown(f.path)));
        })
        .unwrap();
        findings.sort();
        (findings, dirs, report)
    }

    fn findings(&self) -> Vec<String> {
        self.scan().0
    }
}

/// `a/d/inner/f`, `a/f`, `b/d/f`, `b/old`, all in sync.
fn sample(base: &Path) -> Stopped {
    let src = base.join("src");
    for dir in ["a/d/inner", "a/empty", "b/d"] {
        fs::create_dir_all(src.join(dir)).unwrap();
    }
    for file in ["a/d/inner/f", "a/f", "b/d/f", "b/old"] {
        fs::write(src.join(file), "x").unwrap();
    }
    Stopped::new(base, &[], &[])
}

#[test]
fn what_happened_and_what_is_told() {
    type Act = fn(&Path);
    fn swap(a: &Path, b: &Path) {
        renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE).unwrap();
    }
    #[rustfmt::skip]
    let table: &[(&str, Act, &[&str])] = &[
        ("nothing",                              |_| {},                                                  &[]),
        ("a file was changed",                   |p| fs::write(p.join("a/f"), "y").unwrap(),              &["Entry a/f"]),
        ("a file was created",                   |p| fs::write(p.join("a/g"), "y").unwrap(),              &["Contents a", "Entry a/g"]),
        ("a file was deleted",                   |p| fs::remove_file(p.join("b/old")).unwrap(),           &["Contents b"]),
        ("a file was replaced by an old one",    |p| fs::rename(p.join("b/old"), p.join("a/f")).unwrap(), &["Contents a", "Contents b", "Entry a/f"]),
        ("a symlink was made",                   |p| symlink("/", p.join("l")).unwrap(),                  &["Contents .", "Entry l"]),
        ("a hard link was added",                |p| fs::hard_link(p.join("a/f"), p.join("b/l")).unwrap(), &["Contents b", "Entry a/f", "Entry b/l"]),
        ("a file's mtime was set back",          |p| File::open(p.join("a/f")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap(), &["Entry a/f"]),
        ("attributes of a directory",            |p| fs::set_permissions(p.join("a/d"), fs::Permissions::from_mode(0o700)).unwrap(), &["Contents a/d"]),
        ("attributes of the root",               |p| fs::set_permissions(p, fs::Permissions::from_mode(0o700)).unwrap(), &["Contents ."]),
        ("a directory was made",                 |p| fs::create_dir_all(p.join("a/n/m")).unwrap(),        &["Contents a", "Subtree a/n"]),
        ("a directory was deleted",              |p| fs::remove_dir_all(p.join("a/d")).unwrap(),          &["Contents a"]),
        ("a directory was made again",           |p| { fs::remove_dir(p.join("a/empty")).unwrap(); fs::create_dir(p.join("a/empty")).unwrap(); }, &["Contents a", "Subtree a/empty"]),
        ("a directory was renamed",              |p| fs::rename(p.join("a"), p.join("c")).unwrap(),       &["Contents .", "Subtree c"]),
        ("a directory was moved",                |p| fs::rename(p.join("a/d"), p.join("b/e")).unwrap(),   &["Contents a", "Contents b", "Subtree b/e"]),
        ("one was moved into one that was made", |p| { fs::create_dir(p.join("n")).unwrap(); fs::rename(p.join("a"), p.join("n/a")).unwrap(); }, &["Contents .", "Subtree n"]),
        ("two directories were exchanged",       |p| swap(&p.join("a/d"), &p.join("b/d")),                &["Contents a", "Contents b", "Subtree a/d", "Subtree b/d"]),
        ("a file and a directory were exchanged", |p| swap(&p.join("a/f"), &p.join("b/d")),               &["Contents a", "Contents b", "Entry b/d", "Subtree a/f"]),
        ("a directory was away and came back",   |p| { fs::rename(p.join("a/d"), p.join("x")).unwrap(); fs::rename(p.join("x"), p.join("a/d")).unwrap(); }, &["Contents .", "Contents a", "Contents a/d"]),
        ("a directory became a file",            |p| { fs::remove_dir_all(p.join("b")).unwrap(); fs::write(p.join("b"), "").unwrap(); }, &["Contents .", "Entry b"]),
        ("a directory became a link out",        |p| { fs::remove_dir_all(p.join("b")).unwrap(); symlink("/etc", p.join("b")).unwrap(); }, &["Contents .", "Entry b"]),
    ];
    for kind in FILESYSTEMS {
        let Some(scratch) = Scratch::new(kind, "what_happened_and_what_is_told") else { continue };
        for (n, (what, act, want)) in table.iter().enumerate() {
            let base = scratch.path().join(n.to_string());
            fs::create_dir(&base).unwrap();
            let stopped = sample(&base);
            act(stopped.root.path());
            assert_eq!(stopped.findings(), *want, "{kind}: {what}");
        }
    }
}

#[test]
fn after_a_kill_directories_that_may_have_been_away_are_suspect() {
    let Some(scratch) = Scratch::new("tmpfs", "after_a_kill_directories_that_may_have_been_away_are_suspect") else { return };
    let mut stopped = sample(scratch.path());
    stopped.resume.dirs_complete_at = stopped.resume.since;
    let at = |path: &str| stopped.root.path().join(path);
    fs::write(at("a/d/inner/new"), "").unwrap();
    assert_eq!(stopped.findings(), ["Contents a/d/inner", "Entry a/d/inner/new"], "its parent lost and got no name");
    fs::rename(at("a/d"), at("x")).unwrap();
    fs::rename(at("x"), at("a/d")).unwrap();
    assert_eq!(stopped.findings(), ["Contents .", "Subtree a"], "a could have been away just as well as a/d");
    let mut again = Stopped { resume: stopped.resume.clone(), ..stopped };
    again.resume.dirs_complete_at = moment(&scratch.path().join("probe"));
    let findings = again.findings();
    assert_eq!(findings, ["Contents .", "Contents a", "Contents a/d", "Contents a/d/inner", "Entry a/d/inner/new"]);
}

#[test]
fn the_walk_makes_the_set_that_the_next_one_needs() {
    let Some(scratch) = Scratch::new("tmpfs", "the_walk_makes_the_set_that_the_next_one_needs") else { return };
    let mut stopped = sample(scratch.path());
    fs::rename(stopped.root.path().join("a/d"), stopped.root.path().join("b/e")).unwrap();
    let (first, dirs, report) = stopped.scan();
    assert_eq!((report.dirs, report.entries, report.subtree, report.contents, report.entry), (7, 10, 1, 2, 0));
    stopped.resume.dirs = Arc::new(dirs);
    assert_eq!(stopped.findings(), first, "nothing was confirmed");
    let now = Clock::now().unwrap().wall;
    while stopped.resume.since <= now {
        stopped.resume.since = moment(&scratch.path().join("probe"));
    }
    assert_eq!(stopped.findings(), [""; 0], "all was confirmed");
}

#[test]
fn what_is_left_out_is_neither_told_nor_entered() {
    let Some(scratch) = Scratch::new("tmpfs", "what_is_left_out_is_neither_told_nor_entered") else { return };
    let src = scratch.path().join("src");
    fs::create_dir_all(src.join("cache/deep")).unwrap();
    fs::create_dir_all(src.join("a/cache")).unwrap();
    let stopped = Stopped::new(scratch.path(), &["*.swp", "/cache/"], &[]);
    for file in ["x.swp", "x", "cache/deep/f", "a/cache/f"] {
        fs::write(src.join(file), "").unwrap();
    }
    fs::create_dir(src.join("d.swp")).unwrap();
    fs::create_dir(src.join("cache/new")).unwrap();
    let (findings, dirs, _) = stopped.scan();
    assert_eq!(findings, ["Contents .", "Contents a/cache", "Entry a/cache/f", "Entry x"]);
    assert_eq!(dirs.len(), 2);
}

#[test]
fn mounts_are_entered_when_listed_and_are_suspect_after_a_kill() {
    let Some(scratch) = Scratch::new("tmpfs", "mounts_are_entered_when_listed_and_are_suspect_after_a_kill") else { return };
    let src = scratch.path().join("src");
    let put = |at: &str| {
        mount(Some("inner"), &src.join(at), Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        fs::create_dir(src.join(at).join("sub")).unwrap();
    };
    for at in ["in", "out"] {
        fs::create_dir_all(src.join(at)).unwrap();
        put(at);
    }
    let mut stopped = Stopped::new(scratch.path(), &[], &["in"]);
    fs::write(src.join("in/sub/f"), "").unwrap();
    fs::write(src.join("out/sub/f"), "").unwrap();
    let (findings, dirs, report) = stopped.scan();
    assert_eq!((findings, report.mounts_skipped), (vec!["Contents in/sub".to_owned(), "Entry in/sub/f".into()], 1));
    assert_eq!(dirs.len(), 2, "in, in/sub");
    stopped.resume.dirs_complete_at = moment(&scratch.path().join("probe"));
    assert_eq!(stopped.findings(), ["Subtree in"], "it may have been unmounted, emptied on the target and mounted again");
    stopped.resume.dirs_complete_at = Wall::MAX;
    umount2(&src.join("in"), MntFlags::empty()).unwrap();
    assert_eq!(stopped.findings(), ["Subtree in"], "what was hidden shows");
    put("in");
    stopped.mounts[0].1 = fs_id(File::open(src.join("in")).unwrap().as_fd()).unwrap();
    assert_eq!(stopped.findings(), ["Subtree in"], "another filesystem");
    // One whose times are not to be trusted.
    umount2(&src.join("in"), MntFlags::empty()).unwrap();
    mount(Some("proc"), &src.join("in"), Some("proc"), MsFlags::empty(), None::<&str>).unwrap();
    let (findings, _, report) = stopped.scan();
    assert_eq!((findings, report.unreadable), (vec!["Subtree in".to_owned()], 1));
    for at in ["in", "out"] {
        umount2(&src.join(at), MntFlags::empty()).unwrap();
    }
}

#[test]
fn the_newest_time_of_all() {
    let Some(scratch) = Scratch::new("tmpfs", "the_newest_time_of_all") else { return };
    let stopped = sample(scratch.path());
    let src = stopped.root.path().to_owned();
    let newest = || stopped.scan().2.newest.unwrap();
    let ctime = |path: &str| {
        let m = fs::symlink_metadata(src.join(path)).unwrap();
        Wall(m.ctime() * 1_000_000_000 + m.ctime_nsec())
    };
    fs::write(src.join("a/f"), "y").unwrap();
    let written = newest();
    assert_eq!(written, ctime("a/f"));
    fs::remove_file(src.join("a/f")).unwrap();
    let removed = newest();
    assert!(removed >= written && removed == ctime("a"), "what is removed leaves a later time in its directory");
    fs::rename(src.join("a"), src.join("b/a")).unwrap();
    assert!(newest() >= removed);
}

#[test]
fn btrfs_subvolumes_are_directories() {
    let Some(scratch) = Scratch::new("btrfs", "btrfs_subvolumes_are_directories") else { return };
    let src = scratch.path().join("src");
    fs::create_dir(&src).unwrap();
    let btrfs = |args: &[&str]| {
        let done = std::process::Command::new("btrfs").args(args).current_dir(&src).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    btrfs(&["subvolume", "create", "one"]);
    fs::create_dir(src.join("one/d")).unwrap();
    fs::write(src.join("one/d/f"), "").unwrap();
    let stopped = Stopped::new(scratch.path(), &[], &[]);
    assert_eq!(stopped.findings(), [""; 0]);
    fs::write(src.join("one/d/g"), "").unwrap();
    assert_eq!(stopped.findings(), ["Contents one/d", "Entry one/d/g"]);
    btrfs(&["subvolume", "snapshot", "one", "two"]);
    assert_eq!(stopped.findings(), ["Contents .", "Contents one/d", "Entry one/d/g", "Subtree two"]);
    // Rolled back to the snapshot: old times, the same inode numbers, another root.
    btrfs(&["subvolume", "delete", "one"]);
    fs::rename(src.join("two"), src.join("one")).unwrap();
    assert_eq!(stopped.findings(), ["Contents .", "Subtree one"]);
}

#[test]
fn two_targets_with_different_watermarks() {
    let Some(scratch) = Scratch::new("tmpfs", "two_targets_with_different_watermarks") else { return };
    let mut stopped = sample(scratch.path());
    let src = stopped.root.path().to_owned();
    let early = stopped.resume.since;
    fs::write(src.join("a/f"), "y").unwrap();
    fs::rename(src.join("a/d"), src.join("b/e")).unwrap();
    let late = moment(&scratch.path().join("probe"));
    fs::write(src.join("b/old"), "y").unwrap();
    // The rename was reported and recorded between the two.
    let mut dirs = (*stopped.resume.dirs).clone();
    let (walked, _) = build_set(stopped.scope(), &stopped.resume.dirs, stopped.options, &Progress::default()).unwrap();
    for (place, object) in walked.all() {
        if dirs.known_since(place, object).is_none() {
            dirs.insert(place, object, Wall(late.0 - 1));
        }
    }
    stopped.resume.dirs = Arc::new(dirs);
    stopped.resume.watermarks = vec![Some(early), Some(late)];
    let mut findings = [vec![], vec![]];
    restart_scan(stopped.scope(), &stopped.resume, stopped.options, &Progress::default(), &mut |f| {
        for (findings, w) in findings.iter_mut().zip(&stopped.resume.watermarks) {
            if f.since >= w.unwrap() {
                findings.push(format!("{:?} {}", f.kind, crate::path::Shown(f.path)));
            }
        }
    })
    .unwrap();
    findings.iter_mut().for_each(|t| t.sort());
    assert_eq!(findings[0], ["Contents a", "Contents b", "Entry a/f", "Entry b/old", "Subtree b/e"]);
    assert_eq!(findings[1], ["Entry b/old"]);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let Some(scratch) = Scratch::new("ext4", "the_number_of_threads_changes_nothing") else { return };
    let src = scratch.path().join("src");
    for d in 0..60 {
        let dir = src.join(format!("{}/{d}", d % 7));
        fs::create_dir_all(&dir).unwrap();
        for f in 0..if d == 0 { 5000 } else { 50 } {
            fs::write(dir.join(f.to_string()), "").unwrap();
        }
    }
    let mut stopped = Stopped::new(scratch.path(), &[], &[]);
    for d in (0..60).step_by(3) {
        fs::write(src.join(format!("{}/{d}/7", d % 7)), "y").unwrap();
        fs::rename(src.join(format!("{}/{d}/8", d % 7)), src.join(format!("{}/{d}/new", d % 7))).unwrap();
    }
    fs::rename(src.join("1"), src.join("elsewhere")).unwrap();
    let (findings, dirs, report) = stopped.scan();
    let set = |dirs: &Dirs| dirs.all().map(|(p, o)| (p, o.0)).collect::<std::collections::BTreeSet<_>>();
    assert!(findings.len() > 40 && report.entries > 7900);
    for threads in [1, 2, 5] {
        stopped.options = Options { threads };
        let (other, other_dirs, other_report) = stopped.scan();
        assert_eq!((&other, other_report.entries), (&findings, report.entries), "{threads}");
        assert!(set(&other_dirs) == set(&dirs));
    }
}

#[test]
fn a_tree_deeper_than_there_are_descriptors() {
    let Some(scratch) = Scratch::new("tmpfs", "a_tree_deeper_than_there_are_descriptors") else { return };
    let mut path = scratch.path().join("src");
    for _ in 0..MAX_DEPTH + 50 {
        path.push("d");
    }
    fs::create_dir_all(&path).unwrap();
    let mut stopped = Stopped::new(scratch.path(), &[], &[]);
    for threads in [1, 2] {
        stopped.options.threads = threads;
        let (findings, _, report) = stopped.scan();
        let deepest = vec!["d"; MAX_DEPTH].join("/");
        assert_eq!((findings, report.unreadable), (vec![format!("Subtree {deepest}")], 1), "reported each time");
    }
}

#[test]
fn a_walk_that_is_stopped_has_no_result() {
    let Some(scratch) = Scratch::new("tmpfs", "a_walk_that_is_stopped_has_no_result") else { return };
    let mut stopped = sample(scratch.path());
    for threads in [1, 2] {
        stopped.options.threads = threads;
        let progress = Progress::default();
        progress.stop();
        let done = restart_scan(stopped.scope(), &stopped.resume, stopped.options, &progress, &mut |_| {});
        assert!(matches!(done, Err(ScanError::Stopped)));
    }
}

/// Through the whole of [`crate::state`], with its clock, and with real seconds behind it.
#[test]
fn from_stop_to_start_through_the_state_on_disk() {
    use crate::dirty::Epochs;
    use crate::state::{Identity, Keeper, TargetId};
    let Some(scratch) = Scratch::new("ext4", "from_stop_to_start_through_the_state_on_disk") else { return };
    let src = scratch.path().join("src");
    fs::create_dir_all(src.join("a/b/c")).unwrap();
    fs::write(src.join("a/b/c/f"), "x").unwrap();
    let root = Root::open(&src).unwrap();
    let fs_of = fs_id(root.as_fd()).unwrap();
    let filter = Filter::none();
    let scope = Scope { root: &root, filter: &filter, fs: fs_of, mounts: &[] };
    let targets = [TargetId { name: "t".into(), settings: "/t".into() }];
    let open = || Keeper::open(&scratch.path().join("state"), "m", Identity::of(&root, "s"), &targets, None).unwrap();
    let options = Options::default();
    let mut epochs = Epochs::default();

    let (mut keeper, resume) = open();
    assert!(resume.is_err());
    let old = keeper.begin_walk().unwrap();
    keeper.all_reported();
    let (set, _) = build_set(scope, &old, options, &Progress::default()).unwrap();
    assert!(keeper.walked(Some(set)).unwrap());
    let walked = Clock::now().unwrap().wall;
    let mut second = |keeper: &mut Keeper| {
        let drain = keeper.drain().unwrap();
        keeper.drained(drain, [Some(epochs.close())]).unwrap();
        keeper.tick(|_, _| true, &mut |_, h| crate::sys::handle::open_by_handle(root.as_fd(), h)).unwrap();
        drain
    };
    // The slack has to pass before the entries count as old.
    let deadline = Instant::now() + Duration::from_secs(60);
    while keeper.watermark(0).is_none_or(|w| w <= walked) {
        assert!(Instant::now() < deadline);
        second(&mut keeper);
        std::thread::yield_now();
    }
    let last = second(&mut keeper);
    keeper.stop(Some(last), true, true).unwrap();

    fs::write(src.join("a/b/c/f"), "y").unwrap();
    fs::rename(src.join("a/b"), src.join("b")).unwrap();
    // A clean stop, and then a kill before anything was sent: now `a` could have been away as well.
    for want in [["Contents .", "Contents a", "Subtree b"], ["Contents .", "Subtree a", "Subtree b"]] {
        let (mut keeper, resume) = open();
        let resume = resume.unwrap();
        keeper.begin_walk().unwrap();
        let mut findings = Vec::new();
        let (set, _) = restart_scan(scope, &resume, options, &Progress::default(), &mut |f| {
            findings.push(format!("{:?} {}", f.kind, crate::path::Shown(f.path)));
        })
        .unwrap();
        findings.sort();
        assert_eq!(findings, want);
        assert!(keeper.walked(Some(set)).unwrap());
    }
}
