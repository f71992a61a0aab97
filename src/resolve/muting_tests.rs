//! Against the running kernel: what is muted, and that it is reported when it matters. Each on a
//! filesystem of its own, so that events can be counted. Needs root.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::super::tests::Watched;
use super::super::{MuteBy, mute};
use super::*;
use crate::lost::{Cause, Lost};
use crate::path;
use crate::scratch::Scratch;
use crate::source::fan_decode::events;
use crate::sys::fanotify::Options;

impl Watched {
    /// Events of this filesystem that the kernel queued since the last call, whatever they led to.
    fn events(&mut self) -> u64 {
        let before = self.resolver.stats().events;
        self.reported();
        self.resolver.stats().events - before
    }

    /// Writes files in `dir` until it is muted.
    fn heat(&mut self, dir: &str) {
        let before = self.resolver.muted().directories;
        for n in 0..=mute::HOT {
            fs::write(self.at(dir).join(format!("hot {n}")), "1").unwrap();
        }
        assert!(self.reported().is_empty());
        assert_eq!(self.resolver.muted().directories, before + 1, "{dir} was not muted");
        fs::write(self.at(dir).join("hot 0"), "2").unwrap();
        assert_eq!(self.events(), 0, "{dir} is still reported");
    }

    fn followed(&mut self, now: Duration) -> Vec<String> {
        let mut out = Vec::new();
        let mut sink = |p: &[u8], s: Seen| out.push(format!("{s:?} {}", path::Shown(p)));
        self.resolver.report_followed(&self.root, &self.filter, now, &mut sink).unwrap();
        out
    }
}

/// `None`, printed, where this cannot be tested.
fn ground(test: &str, exclude: &[&str], follow: Option<Duration>) -> Option<Watched> {
    let scratch = Scratch::new("ext4", test)?;
    let options = Options { writes: follow.is_some(), ..Options::default() };
    let mut w = Watched::on(scratch, exclude, &options);
    let ignorer = Ignorer::new(&w.group).unwrap();
    if !ignorer.can_ignore_entries() {
        eprintln!("SKIPPED {test}: this kernel has no FAN_MARK_IGNORE");
        return None;
    }
    w.resolver.mute_by(MuteBy { ignorer, follow, names_files: w.group.features().target_fid });
    Some(w)
}

/// One byte.
fn write(file: &mut fs::File) {
    file.write_all(b"1").unwrap();
}

#[test]
fn a_muted_directory_that_comes_inside_is_heard() {
    let Some(mut w) = ground("a_muted_directory_that_comes_inside_is_heard", &[], None) else { return };
    fs::create_dir_all(w.at("outside/d/below")).unwrap();
    w.reported();
    w.heat("outside/d");
    w.heat("outside/d/below");
    fs::rename(w.at("outside/d"), w.at("root/d")).unwrap();
    assert_eq!(w.reported(), ["MovedDir d"]);
    assert_eq!(w.resolver.muted().directories, 0);
    fs::write(w.at("root/d/hot 0"), "3").unwrap();
    fs::write(w.at("root/d/below/hot 0"), "3").unwrap();
    assert_eq!(w.reported(), ["Written d/hot 0", "Written d/below/hot 0"]);
}

#[test]
fn a_directory_above_a_muted_one_comes_inside() {
    let Some(mut w) = ground("a_directory_above_a_muted_one_comes_inside", &[], None) else { return };
    fs::create_dir_all(w.at("outside/a/b/c")).unwrap();
    w.reported();
    w.heat("outside/a/b/c");
    fs::rename(w.at("outside/a"), w.at("root/a")).unwrap();
    assert_eq!(w.reported(), ["MovedDir a"]);
    fs::write(w.at("root/a/b/c/hot 0"), "3").unwrap();
    assert_eq!(w.reported(), ["Written a/b/c/hot 0"]);
}

#[test]
fn a_muted_excluded_directory_that_gets_another_name_is_heard() {
    let exclude = ["/cache/", "/old/sub/"];
    let Some(mut w) = ground("a_muted_excluded_directory_that_gets_another_name_is_heard", &exclude, None) else {
        return;
    };
    fs::create_dir_all(w.at("root/cache/below")).unwrap();
    fs::create_dir_all(w.at("root/old/sub")).unwrap();
    w.reported();
    w.heat("root/cache");
    w.heat("root/old/sub");
    fs::write(w.at("root/cache/below/f"), "1").unwrap();
    assert!(w.events() > 0, "a directory in a muted one is reported");
    fs::rename(w.at("root/cache"), w.at("root/kept")).unwrap();
    assert_eq!(w.reported(), ["DirTimes .", "MovedDir kept"]);
    fs::write(w.at("root/kept/hot 0"), "3").unwrap();
    assert_eq!(w.reported(), ["Written kept/hot 0"]);
    // Also when it is the directory above whose name the pattern has.
    w.heat("root/old/sub");
    fs::rename(w.at("root/old"), w.at("root/new")).unwrap();
    assert_eq!(w.reported(), ["LeftDir old", "ArrivedDir new"]);
    fs::write(w.at("root/new/sub/hot 0"), "3").unwrap();
    assert_eq!(w.reported(), ["Written new/sub/hot 0"]);
}

#[test]
fn files_that_leave_a_muted_directory_arrive() {
    let Some(mut w) = ground("files_that_leave_a_muted_directory_arrive", &[], None) else { return };
    w.heat("outside");
    fs::rename(w.at("outside/hot 1"), w.at("root/f")).unwrap();
    fs::hard_link(w.at("outside/hot 2"), w.at("root/l")).unwrap();
    fs::create_dir(w.at("outside/d")).unwrap();
    fs::rename(w.at("outside/d"), w.at("root/d")).unwrap();
    let reported = w.reported();
    assert!(["Replaced f", "Created l", "MovedDir d"].iter().all(|want| reported.iter().any(|t| t == want)), "{reported:?}");
}

#[test]
fn what_was_missed_ends_every_memory() {
    let Some(mut w) = ground("what_was_missed_ends_every_memory", &[], None) else { return };
    fs::create_dir(w.at("outside/d")).unwrap();
    w.reported();
    w.heat("outside/d");
    fs::rename(w.at("outside/d"), w.at("root/d")).unwrap();
    // The rename was among what the queue could not take.
    let mut buf = vec![0; 65536];
    while nix::unistd::read(&w.group, &mut buf).is_ok() {}
    let overflow = FanEvent { mask: libc::FAN_Q_OVERFLOW, pid: 0, dir: None, old: None, new: None, child: None, skipped: 0 };
    let lost = w.resolver.event(&w.root, &w.filter, &overflow, &mut |_: &[u8], _: Seen| {});
    assert_eq!(lost, Err(Lost::all(Cause::QueueOverflow)));
    fs::write(w.at("root/d/hot 0"), "3").unwrap();
    assert_eq!(w.reported(), ["Written d/hot 0"], "neither muted nor remembered as foreign");
}

const INTERVAL: Duration = Duration::from_secs(2);

#[test]
fn an_open_file_is_told_once_per_interval() {
    let Some(mut w) = ground("an_open_file_is_told_once_per_interval", &[], Some(INTERVAL)) else { return };
    fs::write(w.at("root/log"), "").unwrap();
    w.reported();
    let mut log = fs::OpenOptions::new().append(true).open(w.at("root/log")).unwrap();
    for round in 1..5 {
        let now = INTERVAL * round * 2;
        w.resolver.tick(now);
        writeln!(log, "line").unwrap();
        assert!(w.reported().is_empty());
        for _ in 0..100 {
            writeln!(log, "line").unwrap();
            assert_eq!(w.events(), 0, "round {round}: muted after the first");
        }
        assert!(w.followed(now + INTERVAL / 2).is_empty());
        assert_eq!(w.resolver.next_followed(), Some(now + INTERVAL));
        assert_eq!(w.followed(now + INTERVAL), ["Modified log"]);
        assert!(w.followed(Duration::MAX).is_empty());
    }
    // Unmuted before it is reported: the next write raises an event.
    writeln!(log, "line").unwrap();
    assert_eq!(w.events(), 1);
    drop(log);
    assert_eq!(w.reported(), ["Written log"]);
    assert!(w.followed(Duration::MAX).is_empty(), "a closed file is complete");
}

#[test]
fn a_followed_file_is_found_wherever_it_went() {
    let Some(mut w) = ground("a_followed_file_is_found_wherever_it_went", &["*.tmp"], Some(INTERVAL)) else { return };
    fs::create_dir(w.at("root/d")).unwrap();
    let open = |name: &str| fs::OpenOptions::new().create(true).append(true).open(w.at(name)).unwrap();
    let (mut a, mut b, mut foreign, mut tmp) = (open("root/d/a"), open("root/d/b"), open("outside/f"), open("root/x.tmp"));
    w.reported();
    [&mut a, &mut b, &mut foreign, &mut tmp].into_iter().for_each(write);
    w.reported();
    assert_eq!(w.resolver.muted(), mute::Muted { directories: 0, files: 2, followed: 2 });
    [&mut a, &mut b, &mut foreign, &mut tmp].into_iter().for_each(write);
    assert_eq!(w.events(), 0);
    // The directory moves: the path is the one at the time of the report.
    fs::rename(w.at("root/d"), w.at("root/e")).unwrap();
    w.reported();
    let mut reported = w.followed(Duration::MAX);
    reported.sort();
    assert_eq!(reported, ["Modified e/a", "Modified e/b"]);
    // The file moves while it is muted: its new name is reported, and so are later writes.
    write(&mut a);
    w.reported();
    fs::rename(w.at("root/e/a"), w.at("root/c")).unwrap();
    assert_eq!(w.reported(), ["Left e/a", "Arrived c"]);
    write(&mut a);
    w.reported();
    assert_eq!(w.followed(Duration::MAX), ["Modified c"]);
    // Muted for good, until it comes inside by a rename, a link, or a name that is not left out.
    fs::rename(w.at("outside/f"), w.at("root/f")).unwrap();
    fs::rename(w.at("root/x.tmp"), w.at("root/x")).unwrap();
    w.reported();
    [&mut foreign, &mut tmp].into_iter().for_each(write);
    w.reported();
    let mut reported = w.followed(Duration::MAX);
    reported.sort();
    assert_eq!(reported, ["Modified f", "Modified x"]);
    // Deleted and still written: nothing to report, and no events either.
    fs::remove_file(w.at("root/f")).unwrap();
    w.reported();
    write(&mut foreign);
    w.reported();
    assert!(w.followed(Duration::MAX).is_empty());
    write(&mut foreign);
    assert_eq!(w.events(), 0);
}

#[test]
fn a_muted_file_that_is_linked_inside_is_heard() {
    let Some(mut w) = ground("a_muted_file_that_is_linked_inside_is_heard", &[], Some(INTERVAL)) else { return };
    let mut file = fs::File::create(w.at("outside/f")).unwrap();
    w.reported();
    file.write_all(b"1").unwrap();
    w.reported();
    assert_eq!(w.resolver.muted().files, 1);
    fs::hard_link(w.at("outside/f"), w.at("root/l")).unwrap();
    assert!(w.reported().contains(&"Created l".into()));
    assert_eq!(w.resolver.muted().files, 0);
    // A write through the name inside.
    let mut inside = fs::OpenOptions::new().append(true).open(w.at("root/l")).unwrap();
    inside.write_all(b"2").unwrap();
    w.reported();
    assert_eq!(w.followed(Duration::MAX), ["Modified l"]);
}

#[test]
fn truncate_and_mtime_alone_are_heard() {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let Some(mut w) = ground("truncate_and_mtime_alone_are_heard", &[], Some(INTERVAL)) else { return };
    fs::write(w.at("root/f"), "some").unwrap();
    fs::create_dir(w.at("root/d")).unwrap();
    w.reported();
    nix::unistd::truncate(&w.at("root/f"), 0).unwrap();
    w.reported();
    assert_eq!(w.followed(Duration::MAX), ["Modified f"]);
    let mtime = |at: &Path| {
        utimensat(nix::fcntl::AT_FDCWD, at, &TimeSpec::UTIME_OMIT, &TimeSpec::new(9, 9), UtimensatFlags::NoFollowSymlink)
            .unwrap();
    };
    mtime(&w.at("root/f"));
    w.reported();
    assert_eq!(w.followed(Duration::MAX), ["Modified f"]);
    mtime(&w.at("root/d"));
    let mut reported = Vec::new();
    let mut buf = vec![0; 65536];
    while let Ok(n) = nix::unistd::read(&w.group, &mut buf) {
        for event in events(&buf[..n]) {
            w.resolver
                .event(&w.root, &w.filter, &event.unwrap(), &mut |p: &[u8], s: Seen| reported.push((p.to_vec(), s)))
                .unwrap();
        }
    }
    assert_eq!(reported, [(b"d".to_vec(), Seen::Touched)], "a directory cannot be written, so it need not wait");
}
