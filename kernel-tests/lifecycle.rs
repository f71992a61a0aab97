//! Starts, stops and crashes.

use crate::fixture::daemon::{Config, Daemon, MirrorTable, TargetTable, Until, binary, fansync};
use crate::fixture::fs::{ALL, Fs, Ground, work_dir};
use crate::fixture::proc::{Service, bound_command};
use crate::fixture::rsyncd::Rsyncd;
use crate::fixture::tree::{Dir, Times, differences};
use crate::fixture::{Case, Mirror, Run, Setup, WAIT, case, real};

use std::fs;
use std::path::Path;

pub fn cases() -> Vec<Case> {
    vec![
        case("files_from_before_the_start", ALL, |fs| {
            let m = Setup::new(fs).before(small_tree).start()?;
            m.check();
            Ok(())
        }),
        case("target_has_other_things", ALL, |fs| {
            let mut m = Setup::new(fs).before(small_tree).start()?;
            m.check();
            m.daemon.terminate();
            m.dst().write("not on the source", b"x");
            m.dst().remove("d");
            m.dst().write("d", b"a file where a directory belongs");
            // A daemon that knows nothing of what it has sent.
            let state = m.scratch("state");
            if state.exists() {
                fs::remove_dir_all(state).expect("the state can be removed");
            }
            m.restart(Until::Watching);
            m.check();
            Ok(())
        }),
        case("changes_while_the_first_reconcile_runs", ALL, |fs| {
            let m = Setup::new(fs).while_reconciling().before(|src| {
                src.mkdir("real");
                // A machine without such a tree skips `bursts`, which says so; here a smaller one
                // does.
                if real::copy_into(&Dir::new(src.at("real"))).is_err() {
                    (0..5_000).for_each(|n| src.write(format!("real/{n}"), b"made up"));
                }
            });
            let m = m.start()?;
            for n in 0..300 {
                m.src.write(format!("new {n}"), b"x");
            }
            m.src.rename("real", "renamed");
            m.src.mkdir("real");
            m.src.write("real/file", b"another");
            let children: Vec<_> = std::fs::read_dir(m.src.at("renamed")).expect("it can be read").flatten().collect();
            for child in children.iter().step_by(3) {
                m.src.remove(Path::new("renamed").join(child.file_name()));
            }
            m.check();
            Ok(())
        }),
        case("stop_in_a_burst_and_start_again", ALL, |fs| stop_in_a_burst(fs, |m| m.daemon.terminate())),
        case("killed_in_a_burst_and_started_again", ALL, |fs| stop_in_a_burst(fs, |m| m.daemon.kill())),
        case("changes_while_stopped", ALL, |fs| {
            let mut m = Setup::new(fs).before(small_tree).start()?;
            m.check();
            m.daemon.terminate();
            m.src.write("d/file", b"ONE");
            m.src.write("new", b"new");
            m.src.rename("d/sub", "d/renamed");
            m.src.mkdirs("fresh/deep");
            m.src.write("fresh/deep/file", b"f");
            m.src.chmod("f", 0o600);
            m.src.remove("gone");
            m.restart(Until::Watching);
            m.check();
            m.src.write("fresh/deep/file", b"and on it goes");
            m.check();
            Ok(())
        }),
        case("moved_in_while_stopped", ALL, |fs| {
            let mut m = Setup::new(fs).before(small_tree).start()?;
            m.check();
            m.daemon.terminate();
            // Older than the stop by every time stamp but the new parent's.
            m.out.mkdirs("old/deep");
            m.out.write("old/deep/file", b"old");
            m.out.set_mtime("old/deep/file", 1_000_000_000, 0);
            m.out.rename_to("old", &m.src, "d/old");
            m.src.rename("d/sub", "sub");
            m.restart(Until::Watching);
            m.check();
            Ok(())
        }),
        case("a_signal_as_soon_as_there_is_a_socket", &[Fs::Tmpfs], early_signal),
        case("two_mirrors_in_one_daemon", ALL, two_mirrors),
        case("second_daemon_on_the_same_state", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).start()?;
            let config = m.scratch("fansync.toml").display().to_string();
            let ran = fansync(&["run", "--config", &config], WAIT);
            assert!(ran.code != 0, "a second daemon ran on the state of the first");
            m.src.write("f", b"the first still works");
            m.check();
            Ok(())
        }),
    ]
}

/// Two directories, files, a link, and a time with nanoseconds.
pub(crate) fn small_tree(src: &Dir) {
    src.mkdirs("d/sub/deep");
    src.write("d/file", b"one");
    src.write("d/sub/deep/file", b"two");
    src.write("f", b"three");
    src.write("gone", b"four");
    src.symlink("file", "d/link");
    src.set_mtime("d/file", 1_000_000_000, 999_999_999);
}

/// The target equals the source, once the daemon says that all is sent.
#[track_caller]
pub(crate) fn equal_after_flush(daemon: &Daemon, source: &Dir, target: &Dir) {
    daemon.flush(None);
    let found = differences(source.root(), target.root(), Times::All, &|_| false);
    assert!(found.is_empty(), "{} and its target differ:\n{found}\n{}", source.root().display(), daemon.report());
}

fn stop_in_a_burst(fs: Fs, stop: fn(&mut Mirror)) -> Run<()> {
    let mut m = Setup::new(fs).before(small_tree).start()?;
    m.check();
    for round in 0..3 {
        for n in 0..1_000 {
            m.src.mkdirs(format!("burst{round}/{}", n % 10));
            m.src.write(format!("burst{round}/{}/{n}", n % 10), format!("{n}"));
        }
        m.src.rename("d/sub", format!("sub{round}"));
        stop(&mut m);
        m.src.rename(format!("sub{round}"), "d/sub");
        m.src.write(format!("while stopped {round}"), b"x");
        if round > 0 {
            m.src.remove(format!("burst{}", round - 1));
        }
        m.restart(Until::Watching);
        m.src.write("d/sub/deep/file", format!("round {round}"));
    }
    m.check();
    Ok(())
}

fn two_mirrors(fs: Fs) -> Run<()> {
    let work = work_dir();
    let ground = Ground::new(fs, work.path())?;
    let (one, two) = (&ground.src, &ground.out);
    let dirs: Vec<Dir> = ["one", "two"].iter().map(|name| Dir::new(work.path().join(name))).collect();
    dirs.iter().for_each(|dir| dir.mkdir("."));
    let modules: Vec<_> =
        ["one", "two"].iter().zip(&dirs).map(|(name, dir)| (name.to_string(), dir.root().to_path_buf())).collect();
    let rsyncd = Rsyncd::start(work.path(), &modules)?;
    let table = |name: &str, source: &Dir| MirrorTable {
        name: name.into(),
        source: source.root().into(),
        target: vec![TargetTable { name: format!("to-{name}"), url: rsyncd.url(name), ..TargetTable::default() }],
        ..MirrorTable::default()
    };
    let config = Config::new(work.path(), vec![table("one", one), table("two", two)]);
    let daemon = Daemon::run(work.path(), &config, Until::Reconciled);
    assert_eq!(daemon.status().mirrors.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    small_tree(one);
    two.write("f", b"two's own");
    let check = || {
        equal_after_flush(&daemon, one, &dirs[0]);
        equal_after_flush(&daemon, two, &dirs[1]);
    };
    check();
    // From one tree to the other: gone here, new there.
    one.rename_to("d", two, "d");
    two.write("d/sub/deep/new", b"now two's");
    check();
    two.rename_to("d", one, "back");
    one.write("back/sub/new", b"one's again");
    two.write("f", b"unconcerned");
    check();
    Ok(())
}

/// Who waits for the socket may send a signal at once: SIGUSR1 compares the whole tree, and its
/// default would end the daemon.
fn early_signal(_: Fs) -> Run<()> {
    let work = work_dir();
    let at = |name: &str| work.path().join(name);
    ["src", "dst"].iter().for_each(|name| fs::create_dir(at(name)).expect("it can be made"));
    let log = fs::File::create(at("log")).expect("a log can be made");
    for n in 0..30 {
        let socket = at(&format!("s{n}"));
        let mut command = bound_command(binary());
        let daemon =
            Service::start("fansync", command.arg("mirror").arg("--socket").arg(&socket).args([at("src"), at("dst")]), &log)
                .expect("it starts");
        let began = std::time::Instant::now();
        while !socket.exists() {
            assert!(began.elapsed() < WAIT, "no socket");
            std::thread::yield_now();
        }
        nix::sys::signal::kill(daemon.pid(), nix::sys::signal::Signal::SIGUSR1).expect("it is there");
        let flush = fansync(&["flush", "--socket", &socket.display().to_string()], WAIT);
        assert!(flush.code == 0, "start {n}: {flush:?}");
    }
    Ok(())
}
