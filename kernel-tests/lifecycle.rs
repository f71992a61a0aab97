//! Starts, stops, crashes, exit codes, and a source that is not what it was.

use crate::fixture::daemon::{Config, Daemon, MirrorTable, TargetTable, Until, fansync};
use crate::fixture::fs::{ALL, Fs, Ground, Mount, work_dir};
use crate::fixture::proc::{Ran, poll_until};
use crate::fixture::rsyncd::{Rsyncd, free_port};
use crate::fixture::tree::{Dir, Times, count, differences};
use crate::fixture::{Case, Mirror, Run, Setup, WAIT, case, real};
use crate::outages::program;

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
                // A machine without such a tree skips `bursts`, which says so; here a smaller one does.
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
        case("two_mirrors_in_one_daemon", ALL, two_mirrors),
        case("command_line_mirror", ALL, |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            let target = Dir::new(work.path().join("target"));
            target.mkdir(".");
            small_tree(&ground.src);
            let url = target.root().display().to_string();
            let daemon = Daemon::mirror(work.path(), ground.src.root(), &[url], &["--watch", "inotify"], Until::Reconciled);
            assert_eq!(daemon.status().mirrors[0].watch[0].backend, "inotify");
            equal_after_flush(&daemon, &ground.src, &target);
            ground.src.write("d/new", b"new");
            equal_after_flush(&daemon, &ground.src, &target);
            Ok(())
        }),
        case("once", ALL, |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            let target = Dir::new(work.path().join("target"));
            target.mkdir(".");
            small_tree(&ground.src);
            target.write("extra", b"to be deleted");
            let (source, url) = (ground.src.root().display().to_string(), target.root().display().to_string());
            ended(0, &fansync(&["mirror", &source, &url, "--once"], WAIT));
            let found = differences(ground.src.root(), target.root(), Times::All, &|_| false);
            assert!(found.is_empty(), "source and target differ after --once:\n{found}");
            Ok(())
        }),
        case("once_with_no_target_there", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            let (source, url) = (ground.src.root().display().to_string(), format!("rsync://127.0.0.1:{}/none", free_port()));
            ended(75, &fansync(&["mirror", &source, &url, "--once"], WAIT));
            Ok(())
        }),
        case("bad_config", &[Fs::Tmpfs], |_| {
            let work = work_dir();
            let path = work.path().join("bad.toml");
            std::fs::write(&path, "[[mirror]]\nname = \"m\"\nsource = \"/\"\nno_such_key = 1\n").expect("a file can be written");
            let path = path.display().to_string();
            for command in ["check", "run"] {
                let ran = fansync(&[command, "--config", &path], WAIT);
                ended(78, &ran);
                assert!(ran.stderr.contains("bad.toml:4:1"), "{command} does not say where: {}", ran.stderr);
                assert!(ran.stderr.contains("no_such_key"), "{command} does not say what: {}", ran.stderr);
            }
            Ok(())
        }),
        case("check_sees_a_loop_through_other_mounts", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            ground.src.mkdirs("sub/copy");
            let bind = Mount::bind(&ground.src.at("sub"), &work.path().join("bind"));
            let disk = Mount::tmpfs(&work.path().join("disk"));
            let inside = Mount::bind(&work.path().join("disk"), &ground.src.at("disk"));
            let source = ground.src.root().to_path_buf();
            let work = work.path();
            let cases = [
                (source.clone(), work.join("bind/copy"), "lies inside the source"),
                (source.clone(), work.join("disk/copy"), "lies inside the source"),
                (work.join("bind"), source.clone(), "lies inside the target"),
                (source, work.join("fs/out"), ""),
            ];
            for (source, target, words) in cases {
                let target = TargetTable { name: "t".into(), url: target.display().to_string(), ..TargetTable::default() };
                let mirror = MirrorTable { name: "m".into(), source, target: vec![target], ..MirrorTable::default() };
                let path = Config::new(work, vec![mirror]).write(work).display().to_string();
                let ran = fansync(&["check", "--config", &path], WAIT);
                ended(if words.is_empty() { 0 } else { 78 }, &ran);
                let place = words.is_empty() || ran.stderr.contains("fansync.toml:");
                assert!(ran.stderr.contains(words) && place, "{}", ran.stderr);
            }
            drop((inside, disk, bind));
            Ok(())
        }),
        case("bad_usage", &[Fs::Tmpfs], |_| {
            ended(64, &fansync(&["--no-such-flag"], WAIT));
            ended(64, &fansync(&["no-such-command"], WAIT));
            ended(64, &fansync(&["mirror"], WAIT));
            ended(64, &fansync(&["flush", "--timeout", "yesterday"], WAIT));
            Ok(())
        }),
        case("second_daemon_on_the_same_state", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).start()?;
            let config = m.scratch("fansync.toml").display().to_string();
            let ran = fansync(&["run", "--config", &config], WAIT);
            assert!(ran.code != 0, "a second daemon ran on the state of the first");
            m.src.write("f", b"the first still works");
            m.check();
            Ok(())
        }),
        case("source_replaced_by_an_empty_one", ALL, |fs| {
            let m = Setup::new(fs).before(small_tree).start()?;
            m.check();
            let before = count(m.dst().root()).expect("the target can be read");
            // As after a failed mount: the path is there, the tree is not.
            let (parent, name) = (Dir::new(m.src.root().parent().expect("it has one")), "src");
            parent.rename(name, "elsewhere");
            parent.mkdir(name);
            parent.write("elsewhere/f", b"written where the source went");
            m.src.write("only this", b"written where the source was");
            let told = m.daemon.client(&["flush", "--timeout", "3s"], WAIT);
            assert!(told.code != 0, "flush claims that the target is equal to a source that was replaced");
            assert_eq!(count(m.dst().root()).expect("the target can be read"), before, "the target lost files");
            parent.remove(name);
            parent.rename("elsewhere", name);
            m.src.write("f", b"the source is back");
            m.check();
            Ok(())
        }),
        case("source_replaced_while_rsync_connects", &[Fs::Tmpfs], |fs| {
            let dir = work_dir();
            let gate = dir.path().join("gate");
            let rsync = program(&dir.path().join("late"), LATE);
            let m = Setup::new(fs).rsync(rsync).target_key("standby", 1).before(small_tree).start()?;
            m.check();
            fs::write(&gate, b"").expect("a gate can be made");
            m.src.write("d/file", b"takes the process that stands by, so that another is started");
            m.check();
            let late = poll_until(WAIT, || fs::read_to_string(dir.path().join("waits")).ok().filter(|pid| pid.ends_with('\n')));
            let late = late.expect("a process that is to stand by is started");
            let (parent, name) = (Dir::new(m.src.root().parent().expect("it has one")), "src");
            parent.rename(name, "elsewhere");
            parent.mkdir(name);
            fs::remove_file(&gate).expect("a gate can be opened");
            // It has connected, and is in the directory that it will read.
            let enters = || fs::read_link(format!("/proc/{}/cwd", late.trim())).ok().filter(|at| at != Path::new("/"));
            poll_until(WAIT, enters).expect("rsync enters its source");
            parent.remove(name);
            parent.rename("elsewhere", name);
            let (before, hits) = (count(m.dst().root()).expect("the target can be read"), m.daemon.target_status("t1").runs);
            m.src.write("f", b"the source is back");
            m.check();
            assert_eq!(count(m.dst().root()).expect("the target can be read"), before);
            assert_eq!(m.daemon.target_status("t1").runs, hits + 1, "sent, deleted and repaired");
            Ok(())
        }),
    ]
}

/// Hands on to rsync; what stands by does so once the gate is away.
const LATE: &str = r#"
at=${0%/*}
case " $* " in *" -n "* | *" -VV "* | *" --version "*) exec rsync "$@" ;; esac
[ -e "$at/gate" ] && echo $$ >"$at/waits"
while [ -e "$at/gate" ]; do sleep 0.01; done
exec rsync "$@"
"#;

fn small_tree(src: &Dir) {
    src.mkdirs("d/sub/deep");
    src.write("d/file", b"one");
    src.write("d/sub/deep/file", b"two");
    src.write("f", b"three");
    src.write("gone", b"four");
    src.symlink("file", "d/link");
    src.set_mtime("d/file", 1_000_000_000, 999_999_999);
}

#[track_caller]
fn ended(code: i32, ran: &Ran) {
    assert!(ran.code == code, "ended with {} instead of {code}: {}{}", ran.code, ran.stdout, ran.stderr);
}

#[track_caller]
fn equal_after_flush(daemon: &Daemon, source: &Dir, target: &Dir) {
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
