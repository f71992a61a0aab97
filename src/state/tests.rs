//! The state file through stops of every kind, and with damage of every kind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::record::{Head, Saved};
use super::*;
use crate::dirty::{Epoch, Epochs};
use crate::error::chain;
use crate::sys::handle::open_by_handle;

/// A source, a state directory, and what an engine has.
struct World {
    dir: tempfile::TempDir,
    epochs: Epochs,
    targets: Vec<TargetId>,
    settings: String,
}

fn target(name: &str) -> TargetId {
    TargetId { name: name.into(), settings: format!("rsync://{name}/m") }
}

impl World {
    /// On a tmpfs: the temporary directory may lie on a filesystem that is not proven.
    fn new() -> World {
        let dir = tempfile::Builder::new().prefix("fansync-state-").tempdir_in("/dev/shm").unwrap();
        fs::create_dir_all(dir.path().join("src/a/b")).unwrap();
        World { dir, epochs: Epochs::default(), targets: vec![target("one")], settings: "s".into() }
    }

    fn root(&self) -> Root {
        Root::open(&self.dir.path().join("src")).unwrap()
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn file(&self) -> PathBuf {
        self.state().join("m/state")
    }

    fn try_open(&self) -> Result<(Keeper, Result<Resume, Why>), StateError> {
        Keeper::open(&self.state(), "m", Identity::of(&self.root(), &self.settings), &self.targets, None)
    }

    fn open(&self) -> (Keeper, Result<Resume, Why>) {
        self.try_open().unwrap()
    }

    /// As [`World::open`], up to the moment at which watermarks move: a walk found `a` and `a/b`.
    fn running(&self) -> (Keeper, Result<Resume, Why>) {
        let (mut keeper, resume) = self.open();
        let old = keeper.begin_walk().unwrap();
        assert!(keeper.walked(Some(self.walk(&old, keeper.clock.wall))).unwrap());
        keeper.all_reported();
        (keeper, resume)
    }

    fn walk(&self, like: &Dirs, since: Wall) -> Dirs {
        let root = self.root();
        let fs = fs_id(root.as_fd()).unwrap();
        let handle = |path: &str| name_to_handle(root.as_fd(), Path::new(path)).unwrap();
        let mut dirs = like.like(since);
        for (parent, name, path) in [("", "a", "a"), ("a", "b", "a/b")] {
            if root.path().join(path).is_dir() {
                let place = dirs.place(fs, handle(parent).as_ref(), name.as_bytes());
                dirs.insert(place, dirs.object(fs, handle(path).as_ref()), since);
            }
        }
        dirs
    }

    /// A drain, everything reported, everything confirmed. Returns the watermark.
    fn second(&mut self, keeper: &mut Keeper) -> Wall {
        let drain = keeper.drain().unwrap();
        let epochs: Vec<Option<Epoch>> = self.targets.iter().map(|_| Some(self.epochs.close())).collect();
        keeper.drained(drain, epochs).unwrap();
        self.tick(keeper).unwrap();
        keeper.watermark(0).unwrap()
    }

    fn tick(&self, keeper: &mut Keeper) -> Result<bool, StateError> {
        let root = self.root();
        keeper.tick(|_, _| true, &mut |_, handle| open_by_handle(root.as_fd(), handle))
    }

    fn changed(&self, keeper: &mut Keeper, parent: &str, name: &str) {
        let root = self.root();
        let handle = name_to_handle(root.as_fd(), Path::new(parent)).unwrap();
        keeper.dirs().changed(fs_id(root.as_fd()).unwrap(), handle.as_ref(), name.as_bytes(), true);
    }

    fn stop(&mut self, mut keeper: Keeper, synced: bool) {
        let drain = keeper.drain().unwrap();
        let epochs: Vec<Option<Epoch>> = self.targets.iter().map(|_| Some(self.epochs.close())).collect();
        keeper.drained(drain, epochs).unwrap();
        self.tick(&mut keeper).unwrap();
        keeper.stop(Some(drain), synced, true).unwrap();
    }

    /// Rewrites the last save as if it had been made otherwise.
    fn forge(&self, change: impl FnOnce(&mut Saved)) {
        let bytes = fs::read(self.file()).unwrap();
        let mut state = record::meaning(&log::read(&bytes).unwrap()).unwrap();
        change(&mut state.last);
        let mut out = Vec::new();
        let mut chain = log::Chain::begin([9; 16], &mut out);
        record::put_head(&mut chain, &state.head, &mut out);
        record::put_dirs(&mut chain, &state.dirs, &mut out);
        record::put_saved(&mut chain, &state.last, &mut out);
        fs::write(self.file(), out).unwrap();
    }
}

/// As if the machine had been started again since.
fn in_an_earlier_run(saved: &mut Saved) {
    saved.clock.boot_id ^= 1;
    saved.clock.wall = Wall(saved.clock.wall.0 - Clock::now().unwrap().boot - 1_000_000_000);
}

fn places(dirs: &Dirs) -> BTreeSet<(Place, u64, Wall)> {
    dirs.all().map(|(p, o)| (p, o.0, dirs.known_since(p, o).unwrap())).collect()
}

#[test]
fn from_the_first_start_to_a_clean_restart() {
    let mut w = World::new();
    let (mut keeper, resume) = w.open();
    assert_eq!(resume.unwrap_err(), Why::None(w.file()));
    assert!(keeper.needs_walk());
    assert_eq!(keeper.watermark(0), None);
    let before = keeper.drain().unwrap();
    keeper.drained(before, [Some(w.epochs.close())]).unwrap();
    w.tick(&mut keeper).unwrap();
    assert_eq!(keeper.watermark(0), None, "the whole tree was not reported yet, so an empty dirty set proves nothing");
    let old = keeper.begin_walk().unwrap();
    keeper.all_reported();
    let at = w.second(&mut keeper);
    assert!(at > before.0.wall.before(SLACK) && at <= keeper.clock.wall.before(SLACK));
    keeper.walked(Some(w.walk(&old, keeper.clock.wall))).unwrap();
    let at = w.second(&mut keeper);
    let set = places(keeper.dirs().dirs());
    w.stop(keeper, true);
    let resume = w.open().1.unwrap();
    assert!(resume.since >= at && resume.watermarks == [Some(resume.since)]);
    assert_eq!((resume.dirs_complete_at, places(&resume.dirs)), (Wall::MAX, set));
}

#[test]
fn idle_writes_nothing_and_a_change_little() {
    let mut w = World::new();
    let (mut keeper, _) = w.running();
    w.second(&mut keeper);
    let len = fs::metadata(w.file()).unwrap().len();
    for _ in 0..100 {
        assert!(!w.tick(&mut keeper).unwrap());
    }
    assert_eq!(fs::metadata(w.file()).unwrap().len(), len);
    w.second(&mut keeper);
    let more = fs::metadata(w.file()).unwrap().len() - len;
    assert!((1..200).contains(&more), "{more} bytes");
}

#[test]
fn killed_after_any_save() {
    let mut w = World::new();
    let (mut keeper, _) = w.running();
    let at = w.second(&mut keeper);
    fs::create_dir(w.dir.path().join("src/new")).unwrap();
    w.changed(&mut keeper, "", "new");
    fs::rename(w.dir.path().join("src/a/b"), w.dir.path().join("src/b")).unwrap();
    w.changed(&mut keeper, "a", "b");
    w.changed(&mut keeper, "", "b");
    w.tick(&mut keeper).unwrap();
    let (set, complete_at) = (places(keeper.dirs().dirs()), keeper.dirs().complete_at().unwrap());
    assert_eq!(set.len(), 3);
    drop(keeper);
    let resume = w.open().1.unwrap();
    assert_eq!((resume.since, resume.dirs_complete_at), (at, complete_at), "as of the last save");
    assert_eq!(places(&resume.dirs), set);
    // Killed again before anything was found: the start changed nothing.
    let again = w.open().1.unwrap();
    assert_eq!((again.since, again.dirs_complete_at, places(&again.dirs)), (at, complete_at, set));
}

#[test]
fn a_start_after_a_clean_stop_ends_its_cleanness() {
    let mut w = World::new();
    let (keeper, _) = w.running();
    w.stop(keeper, true);
    let (keeper, resume) = w.open();
    assert_eq!(resume.unwrap().dirs_complete_at, Wall::MAX);
    drop(keeper);
    let (keeper, resume) = w.open();
    let complete_at = resume.unwrap().dirs_complete_at;
    assert!(complete_at <= keeper.clock.wall.before(SLACK), "{complete_at:?}");
    drop(keeper);
    w.forge(in_an_earlier_run);
    assert_eq!(w.open().1.unwrap_err(), Why::PowerLoss);
}

#[test]
fn what_a_stop_must_not_promise() {
    type Act = fn(&mut World, &mut Keeper) -> Option<Drain>;
    let table: [(&str, Act); 4] = [
        ("no drain after the last run", |_, _| None),
        ("the last drain never ended", |_, k| k.drain().ok()),
        ("directories are in doubt", |w, k| {
            let drain = k.drain().unwrap();
            k.drained(drain, [Some(w.epochs.close())]).unwrap();
            k.dirs().doubt();
            Some(drain)
        }),
        ("a walk is under way", |w, k| {
            k.begin_walk().unwrap();
            let drain = k.drain().unwrap();
            k.drained(drain, [Some(w.epochs.close())]).unwrap();
            Some(drain)
        }),
    ];
    for (what, act) in table {
        let mut w = World::new();
        let (mut keeper, _) = w.running();
        w.second(&mut keeper);
        let last = act(&mut w, &mut keeper);
        keeper.stop(last, true, true).unwrap();
        assert!(w.open().1.unwrap().dirs_complete_at < Wall::MAX, "{what}");
    }
    // Events that came with the last drain and were not checked: unknown, and that is saved.
    let mut w = World::new();
    let (mut keeper, _) = w.running();
    w.second(&mut keeper);
    let last = keeper.drain().unwrap();
    w.changed(&mut keeper, "", "a");
    keeper.drained(last, [Some(w.epochs.close())]).unwrap();
    keeper.stop(Some(last), true, true).unwrap();
    let resume = w.open().1.unwrap();
    assert_eq!((resume.dirs_complete_at, resume.dirs.len()), (Wall::MAX, 1));
}

#[test]
fn reasons_to_compare_everything() {
    type Act = fn(&mut World);
    #[rustfmt::skip]
    let table: &[(&str, Act, &str)] = &[
        ("nothing",                  |_| {},                                                      ""),
        ("state removed",            |w| fs::remove_file(w.file()).unwrap(),                      "no saved state"),
        ("state emptied",            |w| fs::write(w.file(), b"").unwrap(),                       "0 bytes long"),
        ("state is a directory",     |w| { fs::remove_file(w.file()).unwrap(); fs::create_dir(w.file()).unwrap(); }, "directory"),
        ("settings",                 |w| w.settings = "other".into(),                             "settings"),
        ("another target's url",     |w| w.targets[0].settings.push('x'),                         "no target"),
        ("root replaced",            |w| {
            fs::rename(w.dir.path().join("src"), w.dir.path().join("old")).unwrap();
            fs::create_dir(w.dir.path().join("src")).unwrap();
        },                                                                                        "another directory"),
        ("rewritten as it was",      |w| w.forge(|_| {}),                                         ""),
        ("source elsewhere",         |w| {
            fs::create_dir(w.dir.path().join("up")).unwrap();
            fs::rename(w.dir.path().join("src"), w.dir.path().join("up/src")).unwrap();
            std::os::unix::fs::symlink("up/src", w.dir.path().join("src")).unwrap();
        },                                                                                        "is of the source"),
        ("clock set back",           |w| w.forge(|s| s.clock.wall.0 += 3_000_000_000),            "behind"),
        ("clock set back, later",    |w| w.forge(|s| s.clock.boot -= 3_000_000_000),              "set back"),
        ("reboot after a sync",      |w| w.forge(in_an_earlier_run), ""),
        ("reboot without a sync",    |w| w.forge(|s| { in_an_earlier_run(s); s.durable = false; }), "went down"),
        ("reboot before the stop",   |w| w.forge(|s| s.clock.boot_id ^= 1),                       "machine started"),
        ("no walk had ended",        |w| w.forge(|s| s.dirs_complete_at = None),                  "recorded"),
        ("nothing was confirmed",    |w| w.forge(|s| s.watermarks[0] = None),                     "no target"),
    ];
    for (what, act, want) in table {
        let mut w = World::new();
        let (keeper, _) = w.running();
        w.stop(keeper, true);
        act(&mut w);
        let opened = match w.try_open() {
            Ok((_, opened)) => opened.map(|_| ()).map_err(|why| why.to_string()),
            Err(error) => Err(chain(&error)),
        };
        match opened {
            Ok(()) => assert_eq!(*want, "", "{what}"),
            Err(why) => assert!(!want.is_empty() && why.contains(want), "{what}: {why}"),
        }
    }
}

#[test]
fn a_new_target_beside_an_old_one() {
    let mut w = World::new();
    let (mut keeper, _) = w.running();
    let at = w.second(&mut keeper);
    drop(keeper);
    w.targets.insert(0, target("zero"));
    let resume = w.open().1.unwrap();
    assert_eq!((resume.watermarks, resume.since), (vec![None, Some(at)], at));
    assert_eq!(resume.without, [Some(Without::New), None]);
}

#[test]
fn a_target_is_what_it_is_and_not_its_name() {
    let named = |name: &str, place: &str| TargetId { name: name.into(), ..target(place) };
    for (targets, without) in [
        (vec![named("renamed", "one")], vec![None]),
        (vec![named("two", "one"), named("one", "two")], vec![None, Some(Without::Changed)]),
        (vec![named("one", "two")], vec![Some(Without::Changed)]),
        (vec![target("two")], vec![Some(Without::New)]),
    ] {
        let mut w = World::new();
        let (mut keeper, _) = w.running();
        w.second(&mut keeper);
        drop(keeper);
        w.targets = targets;
        let found = match w.open().1 {
            Ok(resume) => resume.without,
            Err(Why::NothingConfirmed(why)) => vec![Some(why)],
            Err(why) => panic!("{why}"),
        };
        assert_eq!(found, without, "{:?}", w.targets);
    }
}

#[test]
fn a_target_that_is_not_trusted_is_compared_whole_whatever_ends_the_daemon() {
    let mut w = World::new();
    w.targets.push(target("two"));
    let (mut keeper, _) = w.running();
    let at = w.second(&mut keeper);
    keeper.distrust(1).unwrap();
    drop(keeper);
    let (mut keeper, resume) = w.running();
    let resume = resume.unwrap();
    assert_eq!((resume.watermarks, resume.without), (vec![Some(at), None], vec![None, Some(Without::Behind)]));
    // A target without an epoch for it gets no watermark for it.
    let drain = keeper.drain().unwrap();
    keeper.drained(drain, [Some(w.epochs.close()), None]).unwrap();
    w.tick(&mut keeper).unwrap();
    assert!(keeper.watermark(0) > Some(at) && keeper.watermark(1).is_none());
    w.second(&mut keeper);
    assert!(keeper.watermark(1).is_some());
}

#[test]
fn a_target_taken_for_equal_and_an_end_that_cut_runs_off() {
    let w = World::new();
    let (mut keeper, _) = w.running();
    let at = keeper.clock.wall;
    keeper.adopt(0, at);
    w.tick(&mut keeper).unwrap();
    drop(keeper);
    let (keeper, resume) = w.running();
    let resume = resume.unwrap();
    assert_eq!((resume.since, resume.tidy), (at.before(SLACK), false), "a daemon that was killed may have left anything");
    for tidy in [true, false] {
        let mut w = World::new();
        let (mut keeper, _) = w.running();
        w.second(&mut keeper);
        keeper.stop(None, true, tidy).unwrap();
        let (keeper, resume) = w.open();
        assert_eq!((resume.unwrap().tidy, keeper.is_after_stop()), (tidy, true));
    }
    drop(keeper);
}

#[test]
fn a_stop_in_order_is_known_whatever_became_of_the_state() {
    let w = World::new();
    let (keeper, _) = w.running();
    assert!(!keeper.is_after_stop(), "the first start");
    keeper.stop(None, true, false).unwrap();
    let (keeper, resume) = w.running();
    assert!(matches!(resume, Err(Why::NoDirs | Why::NothingConfirmed(_))), "{resume:?}");
    assert!(keeper.is_after_stop(), "no target had been compared");
    drop(keeper);
    assert!(!w.running().0.is_after_stop(), "killed");
}

#[test]
fn one_daemon_at_a_time() {
    let w = World::new();
    let (keeper, _) = w.open();
    assert!(matches!(w.try_open(), Err(StateError::Locked { .. })));
    drop(keeper);
    assert!(w.try_open().is_ok());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&w.state().join("m")), mode(&w.file())), (0o700, 0o600));
}

#[test]
fn a_filesystem_that_is_not_proven() {
    let w = World::new();
    let (mut keeper, _) = w.running();
    keeper.all_reported();
    drop(keeper);
    let proc = Root::open(Path::new("/proc")).unwrap();
    let identity = Identity::of(&proc, "s");
    assert_eq!(identity, Err(Why::Unproven(libc::PROC_SUPER_MAGIC as u64)));
    let (mut keeper, resume) = Keeper::open(&w.state(), "m", identity, &w.targets, None).unwrap();
    assert_eq!(resume.unwrap_err(), Why::Unproven(libc::PROC_SUPER_MAGIC as u64));
    assert!(!keeper.is_on() && !keeper.needs_walk() && !w.file().exists(), "an old state does not outlive a run without one");
    assert!(!w.tick(&mut keeper).unwrap());
    keeper.stop(None, true, true).unwrap();
    assert!(!w.file().exists());
}

/// The clock as the keeper saw it last is moved, which is the same as moving the machine's in the
/// other direction.
#[test]
fn a_clock_set_back_while_running() {
    let mut w = World::new();
    let (mut keeper, _) = w.running();
    let before = w.second(&mut keeper);
    keeper.clock.boot -= 3_600_000_000_000;
    w.tick(&mut keeper).unwrap();
    let after = keeper.watermark(0).unwrap();
    assert!(after < before.before(Duration::from_secs(3599)), "it was set back somewhere within an hour");
    assert!(keeper.dirs().complete_at().unwrap() <= after);
    drop(keeper);
    assert_eq!(w.open().1.unwrap().since, after, "and that is on disk");

    let (mut keeper, _) = w.running();
    let mut drain = keeper.drain().unwrap();
    drain.0.wall.0 += 10_000_000_000;
    keeper.drained(drain, [Some(w.epochs.close())]).unwrap();
    w.tick(&mut keeper).unwrap();
    assert!(keeper.watermark(0).unwrap() <= keeper.clock.wall.before(SLACK), "set back between the drain's request and its end");
}

#[test]
fn the_newest_time_of_the_source_is_known_after_a_clean_stop() {
    let mut w = World::new();
    let (mut keeper, _) = w.running();
    let now = keeper.clock.wall;
    keeper.saw(now);
    keeper.saw(now.before(Duration::from_secs(1)));
    keeper.saw(Wall::MAX); // from the future: it says nothing
    w.second(&mut keeper);
    drop(keeper); // as SIGKILL does
    let (mut keeper, resume) = w.running();
    assert_eq!(resume.unwrap().newest, Wall::MIN, "directories that are reported whole are not read");
    keeper.saw(now);
    w.stop(keeper, true);
    assert_eq!(w.open().1.unwrap().newest, now);
}

#[test]
fn a_long_file_is_written_whole_again() {
    let mut w = World::new();
    let (mut keeper, _) = w.running();
    let len = |w: &World| fs::metadata(w.file()).unwrap().len();
    let mut most = 0;
    while len(&w) >= most {
        most = len(&w);
        assert!(most < 2 << 20);
        w.second(&mut keeper);
    }
    assert!(most > 1 << 20);
    let (at, set) = (keeper.watermark(0).unwrap(), places(keeper.dirs().dirs()));
    drop(keeper);
    let resume = w.open().1.unwrap();
    assert_eq!((resume.since, places(&resume.dirs)), (at, set));
}

#[test]
fn a_full_disk_costs_nothing_but_time() {
    use crate::scratch::Scratch;
    let Some(disk) = Scratch::new("tmpfs", "a_full_disk_costs_nothing_but_time") else { return };
    let mut w = World::new();
    let open = |w: &World| Keeper::open(disk.path(), "m", Identity::of(&w.root(), &w.settings), &w.targets, None).unwrap();
    let (mut keeper, _) = open(&w);
    let old = keeper.begin_walk().unwrap();
    keeper.walked(Some(w.walk(&old, keeper.clock.wall))).unwrap();
    keeper.all_reported();
    let early = w.second(&mut keeper);
    let filler = fs::File::create(disk.path().join("filler")).unwrap();
    for step in [1 << 20, 4096] {
        while nix::fcntl::posix_fallocate(&filler, filler.metadata().unwrap().len() as i64, step).is_ok() {}
    }
    fs::create_dir(w.dir.path().join("src/late")).unwrap();
    w.changed(&mut keeper, "", "late");
    // The page at the end of the file has room for some saves.
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    let drain = loop {
        let drain = keeper.drain().unwrap();
        keeper.drained(drain, [Some(w.epochs.close())]).unwrap();
        if w.tick(&mut keeper).is_err() {
            break drain;
        }
        assert!(std::time::Instant::now() < deadline, "the disk never was full");
    };
    let bytes = fs::read(disk.path().join("m/state")).unwrap();
    let on_disk = record::meaning(&log::read(&bytes).unwrap()).unwrap();
    assert!(on_disk.last.watermarks[0] >= Some(early) && on_disk.last.watermarks[0] < keeper.watermark(0));
    assert!(w.tick(&mut keeper).is_err(), "tried again each time");
    filler.set_len(0).unwrap();
    w.tick(&mut keeper).unwrap();
    let set = places(keeper.dirs().dirs());
    assert_eq!(set.len(), 3);
    drop(keeper);
    let (_, resume) = open(&w);
    let resume = resume.unwrap();
    assert_eq!((resume.since, places(&resume.dirs)), (drain.0.wall.before(SLACK), set));
}

/// Every prefix and every changed bit of a file with several saves reads as one of the saves, never
/// as something that was not, never as a clean stop; and a later save only when it and all before
/// it are whole.
#[test]
fn every_damage_leads_back_to_an_earlier_save() {
    let mut w = World::new();
    let (mut keeper, _) = w.running();
    let read = |bytes: &[u8]| log::read(bytes).ok().and_then(|c| record::meaning(&c)).map(|s| (s.last, places(&s.dirs)));
    let mut saves = vec![(fs::read(w.file()).unwrap().len(), read(&fs::read(w.file()).unwrap()).unwrap())];
    for n in 0..6 {
        let name = format!("d{n}");
        fs::create_dir(w.dir.path().join("src").join(&name)).unwrap();
        if n % 2 == 0 {
            w.changed(&mut keeper, "", &name);
        }
        w.second(&mut keeper);
        let bytes = fs::read(w.file()).unwrap();
        saves.push((bytes.len(), read(&bytes).unwrap()));
    }
    w.stop(keeper, true);
    let bytes = fs::read(w.file()).unwrap();
    let end = read(&bytes).unwrap();
    assert!(end.0.clean && end.0.durable && saves.iter().all(|(len, s)| *len < bytes.len() && !s.0.clean));
    assert!(saves.windows(2).all(|s| s[0].1.0.watermarks < s[1].1.0.watermarks), "each save says something new");
    // The tick of the stop is a save of its own.
    let before_end = {
        let contents = log::read(&bytes).unwrap();
        let last = contents.records.last().unwrap().payload.len() + 16;
        let cut = bytes.len() - last;
        (cut, read(&bytes[..cut]).unwrap())
    };
    saves.push(before_end);
    let whole_until = |at: usize| saves.iter().rev().find(|(len, _)| *len <= at).map(|(_, s)| s.clone());
    for cut in 0..bytes.len() {
        assert_eq!(read(&bytes[..cut]), whole_until(cut), "cut at {cut}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            assert_eq!(read(&bytes), whole_until(at), "bit {bit} of byte {at}");
        }
    }
    for extra in [1, 16, 100] {
        let (last, set) = read(&[&bytes[..], &vec![0; extra]].concat()).unwrap();
        assert!(!last.clean && !last.durable && last.watermarks == end.0.watermarks && set == end.1, "something follows the end");
    }
    // Through the real thing, with a fraction of them.
    for cut in (0..bytes.len()).step_by(97) {
        fs::write(w.file(), &bytes[..cut]).unwrap();
        let (_, resume) = w.open();
        match (resume, whole_until(cut)) {
            (Ok(resume), Some((saved, set))) => {
                assert_eq!(resume.watermarks, saved.watermarks);
                assert_eq!((Some(resume.dirs_complete_at), places(&resume.dirs)), (saved.dirs_complete_at, set));
            }
            (Err(Why::NothingConfirmed(_)), Some((saved, _))) => assert_eq!(saved.watermarks, [None]),
            (Err(Why::Damaged { .. }), None) => {}
            (resume, saved) => panic!("cut at {cut}: {resume:?}, {saved:?}"),
        }
    }
}

#[test]
fn a_large_set_survives() {
    let mut dirs = Dirs::new([3; 16], Wall(100));
    for n in 0..(1u64 << 20) + 5 {
        let since = if n % 1000 == 0 { Wall(200) } else { Wall(100) };
        dirs.insert(Place(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), Object(n + 1), since);
    }
    let mut out = Vec::new();
    let mut chain = log::Chain::begin([1; 16], &mut out);
    let head = Head { key: [3; 16], identity: Identity::of(&World::new().root(), "").unwrap(), targets: vec![] };
    record::put_head(&mut chain, &head, &mut out);
    record::put_dirs(&mut chain, &dirs, &mut out);
    let saved = Saved {
        clock: Clock::now().unwrap(),
        clean: false,
        durable: false,
        stop: record::Stop::None,
        dirs_complete_at: None,
        watermarks: vec![],
        newest: Wall(77),
    };
    record::put_saved(&mut chain, &saved, &mut out);
    let back = record::meaning(&log::read(&out).unwrap()).unwrap();
    assert_eq!((back.head, back.last), (head, saved));
    assert!(places(&back.dirs) == places(&dirs));
}

#[test]
fn syncing_the_source() {
    let w = World::new();
    assert!(sync_source(vec![fs::File::open(w.dir.path()).unwrap().into()], Duration::from_secs(20)));
    let (pipe, _write) = nix::unistd::pipe().unwrap();
    assert!(sync_source(vec![pipe], Duration::from_secs(20)), "a filesystem that has nothing to write");
}
