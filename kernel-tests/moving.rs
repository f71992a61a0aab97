//! `remove_source_files`: files go from the source once every target has them, and no others.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::fixture::daemon::Until;
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Run, Setup, To, WAIT, case};
use crate::outages::program;

/// Beside what is in a source and no file: the directory of what is on its way out.
const OWN: &str = ".fansync";

fn setup(fs: Fs, to: &[To]) -> Setup {
    Setup::new(fs).targets(to).key("delete", false).key("remove_source_files", true).key("remove_after", "50ms")
}

/// The files below `dir`, but for those of fansync's own.
fn files(dir: &Dir) -> Vec<PathBuf> {
    fn below(at: &Path, top: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(at).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && path != top.join(OWN) => below(&path, top, out),
                Ok(kind) if kind.is_file() => out.push(path.strip_prefix(top).expect("it is below").to_owned()),
                _ => {}
            }
        }
    }
    let mut out = Vec::new();
    below(dir.root(), dir.root(), &mut out);
    out.sort();
    out
}

fn empties(m: &Mirror) {
    let empty = || files(&m.src).is_empty().then_some(());
    assert!(poll_until(WAIT, empty).is_some(), "files stay in the source: {:?}\n{}", files(&m.src), m.daemon.report());
}

fn moves(fs: Fs) -> Run<()> {
    let m = setup(fs, &[To::Module, To::Local]).start()?;
    m.src.mkdirs("d/sub");
    for (path, content) in [("f", "one"), ("d/g", "two"), ("d/sub/#h", "three"), ("d/a\nb", "four"), ("d/empty", "")] {
        m.src.write(path, content.as_bytes());
    }
    m.src.symlink("f", "link");
    empties(&m);
    for target in &m.targets {
        for (path, content) in [("f", "one"), ("d/g", "two"), ("d/sub/#h", "three"), ("d/a\nb", "four"), ("d/empty", "")] {
            assert_eq!(target.dir.read(path).as_deref(), Some(content.as_bytes()), "{path}: {}", m.daemon.report());
        }
    }
    assert!(m.src.at("d/sub").is_dir() && m.src.has("link"), "more than files went");
    // A comparison deletes nothing of what was moved, and a new file of an old name replaces it.
    m.daemon.reconcile();
    m.src.write("f", b"one, the second");
    empties(&m);
    m.daemon.flush(None);
    for target in &m.targets {
        assert_eq!(target.dir.read("f").as_deref(), Some(&b"one, the second"[..]));
        assert!(target.dir.has("d/sub/#h") && !target.dir.has(OWN), "{}", m.daemon.report());
    }
    counted(&m);
    Ok(())
}

/// Of the six files that went, and of one that a process has open.
fn counted(m: &Mirror) {
    let moved = || {
        let status: serde_json::Value = serde_json::from_str(&m.daemon.does(&["status", "--json"])).expect("it is JSON");
        status["mirrors"][0]["moved"].clone()
    };
    let is = |want: [u64; 4]| {
        let counts = || ["files", "bytes", "in_use", "waiting"].map(|key| moved()[key].as_u64().expect("a number"));
        assert!(
            poll_until(WAIT, || (counts() == want).then_some(())).is_some(),
            "{}, not {want:?}\n{}",
            moved(),
            m.daemon.report()
        );
    };
    is([6, 30, 0, 0]);
    assert!(moved()["last_unix"].as_f64() > Some(0.0));
    m.src.write("open", b"four");
    let open = File::open(m.src.at("open")).expect("it can be opened");
    is([6, 30, 1, 0]);
    let shown = m.daemon.does(&["status"]);
    assert!(shown.contains("moved  6 files with 30 B removed from the source; 0 waiting, 1 in use or changed"), "{shown}");
    drop(open);
    is([7, 34, 0, 0]);
}

/// Once `hold` is there, a comparison by content says that it has ended, and waits for `go`.
const HOLDS_THE_PROOF: &str = r#"
case " $* " in *" --checksum "*) ;; *) exec rsync "$@" ;; esac
: >"$0.begun.$$"
rsync "$@"
code=$?
if [ -e "$0.hold" ]; then
    : >"$0.waits"
    while [ ! -e "$0.go" ]; do sleep 0.01; done
fi
exit $code
"#;

/// While the targets' answers are on their way, another directory is in the place of the one that
/// was compared, and on the target, and goes again: nothing of the file shows that.
fn swapped(fs: Fs) -> Run<()> {
    let work = work_dir();
    let sign = |name: &str| work.path().join(format!("steps.{name}"));
    let rsync = program(&work.path().join("steps"), HOLDS_THE_PROOF);
    let m = setup(fs, &[To::Local]).rsync(rsync).start()?;
    fs::write(sign("hold"), "").expect("it can be written");
    m.out.mkdir("other");
    m.out.write("other/f", b"of the other directory");
    m.src.mkdir("d");
    m.src.write("d/f", b"of this one");
    assert!(poll_until(WAIT, || sign("waits").exists().then_some(())).is_some(), "no comparison\n{}", m.daemon.report());
    m.src.rename_to("d", &m.out, "aside");
    m.out.rename_to("other", &m.src, "d");
    m.daemon.flush(None);
    assert_eq!(m.dst().read("d/f").as_deref(), Some(&b"of the other directory"[..]));
    m.daemon.does(&["pause"]);
    m.src.rename_to("d", &m.out, "other");
    m.out.rename_to("aside", &m.src, "d");
    let begun = || {
        let names = fs::read_dir(work.path()).expect("it is there").flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().contains(".begun.")).count()
    };
    let before = begun();
    fs::remove_file(sign("hold")).and_then(|()| fs::write(sign("go"), "")).expect("they can be");
    // The next comparison is of the next round.
    let ended = || (begun() > before || !m.src.has("d/f")).then_some(());
    assert!(poll_until(WAIT, ended).is_some(), "no further comparison\n{}", m.daemon.report());
    assert!(m.src.has("d/f"), "no target has it\n{}", m.daemon.report());
    m.daemon.does(&["resume"]);
    m.daemon.flush(None);
    assert_eq!(m.dst().read("d/f").as_deref(), Some(&b"of this one"[..]));
    Ok(())
}

/// A target that is away, and one that has a file otherwise, keep it in the source.
fn waits(fs: Fs) -> Run<()> {
    let mut m = setup(fs, &[To::Local, To::Module]).target_key("retry_min", "100ms").target_key("retry_max", "200ms").start()?;
    m.src.write("first", b"x");
    empties(&m);
    m.rsyncd.as_mut().expect("a module").stop();
    m.src.write("second", b"y");
    let there = || m.targets[0].dir.has("second").then_some(());
    assert!(poll_until(WAIT, there).is_some(), "it does not come to the target that answers");
    // Longer than a round: the log says at the level of debug that there is no answer.
    let asked = || m.daemon.log().contains("nothing is removed from the source").then_some(());
    let _ = poll_until(Duration::from_secs(6), asked);
    assert!(m.src.has("second"), "it went although a target is away");
    m.rsyncd.as_mut().expect("a module").restart();
    empties(&m);
    m.daemon.flush(None);
    assert!(m.targets.iter().all(|target| target.dir.read("second").as_deref() == Some(b"y")));
    // One that a program has open stays until it is closed.
    m.src.write("open", b"z");
    let held = File::open(m.src.at("open")).expect("it is there");
    let all = || m.targets.iter().all(|target| target.dir.has("open")).then_some(());
    assert!(poll_until(WAIT, all).is_some());
    m.src.write("beside", b"z");
    let beside = || (!m.src.has("beside")).then_some(());
    assert!(poll_until(WAIT, beside).is_some());
    assert!(m.src.has("open"), "it went although it is open");
    drop(held);
    empties(&m);
    Ok(())
}

/// A target has a file of the same size and time with other content, which a quick comparison takes
/// for equal.
fn other_content(fs: Fs) -> Run<()> {
    fn dated(dir: &Dir, text: &str) {
        dir.write("f", text.as_bytes());
        let file = File::options().write(true).open(dir.at("f")).expect("it is there");
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).expect("the time can be set");
    }
    let quick: toml::Value = vec!["--no-checksum"].into();
    for args in [None, Some(quick)] {
        let mut setup = setup(fs, &[To::Local]).before(|src| dated(src, "right")).before_on_target(|dst| dated(dst, "wrong"));
        if let Some(args) = args {
            setup = setup.target_key("args", args);
        }
        let m = setup.start()?;
        // In a round of its own or together with the other.
        for name in ["g", "h"] {
            m.src.write(name, b"x");
            let gone = || (!m.src.has(name)).then_some(());
            assert!(poll_until(WAIT, gone).is_some(), "{name} stays\n{}", m.daemon.report());
        }
        assert_eq!((m.src.read("f"), m.dst().read("f")), (Some(b"right".to_vec()), Some(b"wrong".to_vec())), "it went");
    }
    Ok(())
}

/// Writes to the same names all the time, in every way: the last of each is on the targets.
fn hostile(fs: Fs) -> Run<()> {
    const NAMES: usize = 8;
    const ROUNDS: usize = 1_500;
    let m = setup(fs, &[To::Local]).key("remove_after", "1ms").start()?;
    m.src.mkdir("d");
    let stop = AtomicBool::new(false);
    let mut written = vec![Vec::new(); NAMES];
    std::thread::scope(|scope| {
        // Somebody who opens everything that comes up.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for path in files(&m.src) {
                    let _ = fs::read(m.src.at(&path));
                }
            }
        });
        for round in 0..ROUNDS {
            let (n, text) = (round % NAMES, format!("{round};"));
            let path = m.src.at(format!("d/{n}"));
            match fastrand::u8(..4) {
                // What was appended stays beside what was there, where that is still here.
                0 => {
                    let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("it can be opened");
                    file.write_all(text.as_bytes()).expect("it can be written");
                }
                1 => fs::write(&path, &text).expect("it can be written"),
                2 => {
                    let new = m.src.at(format!("d/new{n}"));
                    fs::write(&new, &text).and_then(|()| fs::rename(&new, &path)).expect("it can be renamed");
                }
                _ => {
                    let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("it can be opened");
                    std::thread::yield_now();
                    file.write_all(text.as_bytes()).expect("it can be written");
                }
            }
            written[n] = text.into_bytes();
            if round % 50 == 0 {
                let _ = poll_until(Duration::from_millis(300), || files(&m.src).is_empty().then_some(()));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    empties(&m);
    m.daemon.flush(None);
    for (n, last) in written.iter().enumerate() {
        let there = m.dst().read(format!("d/{n}")).unwrap_or_default();
        let shown = String::from_utf8_lossy(&there).into_owned();
        assert!(
            there.ends_with(last),
            "d/{n}: {:?} is lost, there is {shown}\n{}",
            String::from_utf8_lossy(last),
            m.daemon.report()
        );
    }
    Ok(())
}

/// Killed at any moment, and started again.
fn killed(fs: Fs) -> Run<()> {
    const FILES: usize = 400;
    let mut m = setup(fs, &[To::Local]).key("remove_after", "1ms").start()?;
    m.src.mkdir("d");
    (0..FILES).for_each(|n| m.src.write(format!("d/{n}"), format!("content of {n}")));
    for _ in 0..6 {
        let before = files(&m.src).len();
        // In the middle of a round, if one is to be had.
        let _ = poll_until(Duration::from_secs(5), || (files(&m.src).len() < before || before == 0).then_some(()));
        m.daemon.kill();
        for n in 0..FILES {
            let name = format!("d/{n}");
            let want = format!("content of {n}").into_bytes();
            let held = m.src.at(format!("{OWN}/moving/{name}"));
            let whole = m.src.read(&name) == Some(want.clone())
                || m.dst().read(&name) == Some(want.clone())
                || fs::read(held).is_ok_and(|text| text == want);
            assert!(whole, "{name} is nowhere");
        }
        (0..20).for_each(|n| m.src.write(format!("d/{n}"), format!("content of {n}")));
        m.restart(Until::Watching);
    }
    empties(&m);
    m.daemon.flush(None);
    for n in 0..FILES {
        assert_eq!(m.dst().read(format!("d/{n}")), Some(format!("content of {n}").into_bytes()), "d/{n}");
    }
    let left = || fs::read_dir(m.src.at(format!("{OWN}/moving"))).into_iter().flatten().flatten().count();
    assert!(poll_until(WAIT, || (left() == 0).then_some(())).is_some(), "something is left on its way");
    Ok(())
}

/// So many files stay that a round has no room for others.
fn many_open(fs: Fs) -> Run<()> {
    const OPEN: usize = 1_000;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit");
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(10_000)), hard).expect("it can be raised");
    let m = setup(fs, &[To::Local]).start()?;
    let names: Vec<String> = (0..OPEN).map(|n| n.to_string()).collect();
    names.iter().for_each(|name| m.src.write(name, b"open"));
    let open: Vec<File> = names.iter().map(|name| File::open(m.src.at(name)).expect("it can be opened")).collect();
    m.src.mkdir("behind");
    m.src.write("behind/f", b"closed");
    let gone = || (!m.src.has("behind/f")).then_some(());
    assert!(poll_until(WAIT, gone).is_some(), "it waits for those that are open\n{}", m.daemon.report());
    assert_eq!(files(&m.src).len(), OPEN);
    drop(open);
    Ok(())
}

/// A daemon that was killed left a file on its way, and the next one moves nothing.
fn switched_off(fs: Fs) -> Run<()> {
    let mut m = setup(fs, &[To::Local]).start()?;
    m.daemon.kill();
    m.src.mkdirs("d");
    m.src.mkdirs(format!("{OWN}/moving/d"));
    m.src.chmod(format!("{OWN}/moving"), 0o700);
    m.src.write(format!("{OWN}/moving/d/f"), b"on its way");
    m.configure(|mirror| {
        for key in ["remove_source_files", "remove_after", "delete"] {
            mirror.keys.remove(key);
        }
    });
    m.restart(Until::Watching);
    let back = || (m.src.has("d/f") && !m.src.has(OWN)).then_some(());
    assert!(poll_until(WAIT, back).is_some(), "it stays on its way\n{}", m.daemon.report());
    m.check();
    assert_eq!(m.src.read("d/f").as_deref(), Some(&b"on its way"[..]));
    Ok(())
}

pub fn cases() -> Vec<Case> {
    vec![
        case("files_go_from_the_source_once_every_target_has_them", &[Fs::Ext4, Fs::Xfs, Fs::Btrfs, Fs::Tmpfs], moves),
        case("a_file_stays_while_a_target_lacks_it_or_it_is_open", &[Fs::Tmpfs], waits),
        case("a_file_that_a_target_has_with_other_content_stays", &[Fs::Tmpfs], other_content),
        case("a_file_stays_that_a_target_had_for_a_while_only", &[Fs::Ext4, Fs::Tmpfs], swapped),
        case("what_is_written_while_files_go_is_not_lost", &[Fs::Ext4, Fs::Tmpfs], hostile),
        case("a_kill_while_files_go_loses_nothing", &[Fs::Ext4], killed),
        case("files_that_are_open_do_not_hold_up_those_behind", &[Fs::Tmpfs], many_open),
        case("what_was_on_its_way_goes_back_without_the_option", &[Fs::Tmpfs], switched_off),
    ]
}
