//! `fansync verify` at a follower: what it finds, and what it must not find.

use super::*;

use std::os::unix::fs::MetadataExt;

use serde_json::Value;

fn verify(follower: &Follower, words: &[&str]) -> Ran {
    follower.daemon.client(&[&["verify"], words].concat(), WAIT)
}

/// The report of `verify --json`, and its differences as they are printed.
#[track_caller]
fn report(follower: &Follower, words: &[&str]) -> (i32, Value, Vec<String>) {
    let ran = verify(follower, &[&["--json"], words].concat());
    let json: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", ran.stdout, ran.stderr));
    let report = json["reports"][0].clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let differences = report["differences"].as_array().expect("it has them").iter();
    let differences = differences.map(|d| format!("{}: {}", text(&d["path"]), text(&d["why"]))).collect();
    (ran.code, report, differences)
}

fn mtime(dir: &Dir, path: &str) -> (i64, i64) {
    let meta = dir.at(path).symlink_metadata().expect("it is there");
    (meta.mtime(), meta.mtime_nsec())
}

/// What another program does to a copy, and what a comparison reports of it.
fn spoil(copy: &Dir) -> Vec<&'static str> {
    copy.write("size", b"123456");
    let kept = mtime(copy, "mode");
    copy.chmod("mode", 0o600);
    copy.set_mtime("mode", kept.0, kept.1);
    copy.remove("missing");
    copy.remove("type");
    copy.mkdir("type");
    copy.mkdirs("extra/deep");
    copy.write("extra/deep/f", b"x");
    copy.write("new\nline", b"xy");
    let kept = mtime(copy, "same content");
    copy.write("same content", b"SAME CONTENT");
    copy.set_mtime("same content", kept.0, kept.1);
    vec![
        ".: times",
        "extra: extra here",
        "extra/deep: extra here",
        "extra/deep/f: extra here",
        "missing: missing here",
        "mode: mode",
        "new\\x0aline: size, times",
        "size: size, times",
        "type: of another type here",
    ]
}

/// Says when a comparison of the whole tree has ended, and holds one by name until `go`.
const HOLDS_NAMES: &str = r#"case " $* " in
*" --files-from=- "*" -n "*) : >"$0.waits"; while [ ! -e "$0.go" ]; do sleep 0.01; done;;
*" -n "*) rsync "$@"; code=$?; : >"$0.whole"; exit $code;;
esac"#;

fn fill(src: &Dir) {
    src.write("size", b"12345");
    src.write("mode", b"mode");
    src.write("missing", b"missing");
    src.write("type", b"type");
    src.write("new\nline", b"x");
    src.write("same content", b"same content");
}

pub fn cases() -> Vec<Case> {
    vec![
        case("verify_finds_what_differs_and_changes_nothing", ON, |fs| {
            let mut w = World::new(fs, 1)?;
            fill(&w.src);
            w.check();
            let (code, equal, none) = report(&w.followers[0], &[]);
            assert_eq!((code, none.len(), &equal["target"]), (0, 0, &Value::from("web/upstream")), "{equal}");
            assert!(equal["entries"].as_u64() > Some(6) && equal["unsettled"] == 0, "{equal}");
            let want = spoil(&w.followers[0].dir);
            let before = w.work.path().join("before");
            copy(w.followers[0].dir.root(), &before);
            let (code, found, differences) = report(&w.followers[0], &[]);
            assert_eq!((code, differences), (1, want.iter().map(|d| (*d).to_owned()).collect()), "{found}");
            let ran = verify(&w.followers[0], &["--checksum"]);
            assert!(ran.code == 1 && ran.stdout.contains("  same content: content\n"), "{}{}", ran.stdout, ran.stderr);
            assert!(ran.stdout.starts_with("web/upstream: 10 paths differ; "), "{}", ran.stdout);
            let changed = differences_between(&before, &w.followers[0].dir);
            assert!(changed.is_empty(), "a comparison changed the copy:\n{changed}");
            let status = w.followers[0].daemon.target_status("upstream").verify.expect("it was compared");
            assert!(status.differing == 10 && !status.running, "{status:?}");
            let ran = verify(&w.followers[0], &["--repair"]);
            assert!(ran.code == 69 && ran.stdout.contains("SIGUSR1"), "{}: {}{}", ran.code, ran.stdout, ran.stderr);
            // Without a daemon.
            w.followers[0].daemon.kill();
            let config = w.followers[0].work.path().join("fansync.toml");
            let args = ["verify", "--config", config.to_str().expect("a plain path")];
            let ran = crate::fixture::daemon::fansync(&args, WAIT);
            assert!(ran.code == 1 && ran.stdout.starts_with("web/upstream: 9 paths differ; "), "{}{}", ran.stdout, ran.stderr);
            w.followers[0].restart();
            let compared = comparisons(&w.followers[0].daemon);
            let pid = w.followers[0].daemon.pid();
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).expect("the daemon runs");
            let begins = || (comparisons(&w.followers[0].daemon) > compared).then_some(());
            poll_until(WAIT, begins).expect("it compares its whole tree");
            w.followers[0].daemon.flush(None);
            // A comparison of the whole tree goes by size and times.
            let (code, _, differences) = report(&w.followers[0], &["--checksum"]);
            assert_eq!((code, differences), (1, vec!["same content: content".to_owned()]));
            w.src.write("same content", b"Same content");
            w.check();
            assert_eq!(verify(&w.followers[0], &["--checksum"]).code, 0);
            Ok(())
        }),
        case("verify_takes_nothing_that_is_under_way_for_a_difference", ON, |fs| {
            let w = World::new(fs, 1)?;
            w.keep();
            w.src.write("spoilt", b"spoilt");
            w.check();
            // Published, and not pulled.
            w.followers[0].daemon.does(&["pause"]);
            w.src.write("top", b"while the follower is paused");
            w.src.remove("kept/7");
            w.daemon.flush(None);
            let (code, found, differences) = report(&w.followers[0], &[]);
            assert_eq!((code, differences.len()), (0, 0), "{found}");
            assert!(found["unsettled"].as_u64() > Some(1), "{found}");
            w.followers[0].daemon.does(&["resume"]);
            w.check();
            // Changed, and not published.
            w.daemon.does(&["pause"]);
            w.src.write("top", b"while the source is paused");
            let (code, found, differences) = report(&w.followers[0], &[]);
            assert_eq!((code, differences.len()), (1, 0), "it is not known: {found}");
            assert!(found["error"].as_str().is_some_and(|why| why.contains("up to where it has published")), "{found}");
            w.daemon.does(&["resume"]);
            w.check();
            // Changing all the time, beside what differs for good.
            w.followers[0].dir.write("spoilt", b"by another program");
            let ends = Arc::new(AtomicBool::new(false));
            let (src, stop) = (w.src.clone(), Arc::clone(&ends));
            let (reports, changes) = std::thread::scope(|scope| {
                let writer = scope.spawn(|| change_until(&src, &w.daemon, &stop));
                let reports: Vec<_> = (0..8).map(|_| report(&w.followers[0], &[])).collect();
                ends.store(true, Ordering::Relaxed);
                (reports, writer.join().expect("the writer does not panic"))
            });
            for (_, found, differences) in &reports {
                assert_eq!(differences, &["spoilt: size, times"], "after {changes} changes: {found}");
            }
            assert!(reports.iter().any(|(_, found, _)| found["unsettled"].as_u64() > Some(0)), "nothing changed: {reports:?}");
            w.barrier("f0");
            let (code, found, differences) = report(&w.followers[0], &[]);
            assert_eq!((code, differences), (1, vec!["spoilt: size, times".to_owned()]), "{found}");
            assert_eq!(found["unsettled"], 0);
            Ok(())
        }),
        case("verify_judges_nothing_that_changes_while_it_is_compared", ON, |fs| {
            for published in [false, true] {
                let tools = fs::work_dir();
                let sign = |name: &str| tools.path().join(format!("rsync.{name}"));
                let keys = instead_of_rsync(tools.path(), HOLDS_NAMES);
                let w = World::with(fs, 1, "", &keys, "")?;
                w.check();
                let follower = &w.followers[0];
                let (code, found, differences) = std::thread::scope(|scope| {
                    // What makes it doubt the path is pulled before that is compared by name.
                    follower.daemon.does(&["pause"]);
                    w.src.write("top", b"not pulled yet");
                    w.daemon.flush(None);
                    let verify = scope.spawn(|| report(follower, &[]));
                    let is_there = |name: &str| poll_until(WAIT, || sign(name).exists().then_some(())).expect("it gets there");
                    is_there("whole");
                    follower.daemon.does(&["resume"]);
                    is_there("waits");
                    let paused = if published { &follower.daemon } else { &w.daemon };
                    paused.does(&["pause"]);
                    w.src.write("top", b"while it is compared by name");
                    if published {
                        w.daemon.flush(None);
                    }
                    std::fs::write(sign("go"), "").expect("it can be written");
                    verify.join().expect("it is a report")
                });
                assert_eq!((code, differences.len()), (i32::from(!published), 0), "{found}");
                assert_eq!(found["unsettled"], 1, "{found}");
                w.daemon.does(&["resume"]);
                follower.daemon.does(&["resume"]);
                w.check();
            }
            Ok(())
        }),
        case("verify_of_an_upstream_that_is_away_or_another_tree_finds_nothing", ON, |fs| {
            let mut w = World::new(fs, 1)?;
            fill(&w.src);
            w.check();
            w.rsyncd.stop();
            let (code, away, differences) = report(&w.followers[0], &[]);
            assert_eq!((code, differences.len(), &away["unreachable"]), (75, 0, &Value::from(true)), "{away}");
            let ran = verify(&w.followers[0], &[]);
            assert!(ran.code == 75 && ran.stdout.starts_with("web/upstream: not known; "), "{}{}", ran.stdout, ran.stderr);
            w.rsyncd.restart();
            let empty = w.work.path().join("empty");
            std::fs::create_dir(&empty).expect("it can be made");
            w.rsyncd.remove("web");
            w.rsyncd.add("web", empty);
            let (code, other, differences) = report(&w.followers[0], &[]);
            assert_eq!((code, differences.len()), (1, 0), "{other}");
            assert!(other["error"].as_str().is_some_and(|why| why.contains("it is not the tree that the feed is of")), "{other}");
            w.rsyncd.remove("web");
            w.rsyncd.add("web", w.module.clone());
            // The servers of the feed are away: what differs cannot be judged, what is equal can.
            w.followers[0].daemon.flush(None);
            w.nats.kill();
            assert_eq!(report(&w.followers[0], &[]).0, 0);
            spoil(&w.followers[0].dir);
            let (code, found, differences) = report(&w.followers[0], &[]);
            assert_eq!((code, differences.len(), &found["unsettled"]), (1, 0, &Value::from(9)), "{found}");
            w.nats.restart();
            w.barrier("f0");
            let (code, found, differences) = report(&w.followers[0], &[]);
            assert_eq!((code, differences.len()), (1, 9), "{found}");
            Ok(())
        }),
        case("verify_asks_no_relay_for_what_it_does_not_hold", ON, |fs| {
            let mut w = World::new(fs, 0)?;
            w.keep();
            let served = fs::work_dir();
            let mut rsyncd = Rsyncd::start(served.path(), &[("copy".to_owned(), served.path().to_owned())])?;
            let (origin, place) = (w.rsyncd.url("web"), rsyncd.url("copy"));
            w.join_by(0, std::slice::from_ref(&origin), Some(&place), |_| {});
            rsyncd.remove("copy");
            rsyncd.add("copy", w.followers[0].dir.root().to_owned());
            w.join_by(1, &[place, origin], None, |_| {});
            w.barrier("all");
            w.change_until(1, |inline| inline.applied > 0);
            w.barrier("all");
            for n in 0..2 {
                let (code, found, _) = report(&w.followers[n], &[]);
                assert_eq!(code, 0, "{n}: {found}");
            }
            // What came with its record the leaf holds, and the relay does not.
            w.followers[0].daemon.freeze();
            w.src.write("top", b"not at the relay");
            w.src.write("later", b"not at the relay");
            w.barrier("f1");
            assert_eq!(w.followers[1].dir.read("later"), w.src.read("later"));
            assert_eq!(w.followers[0].dir.read("later"), None);
            let (code, found, differences) = report(&w.followers[1], &[]);
            assert_eq!((code, differences.len()), (0, 0), "{found}");
            w.followers[1].dir.write("kept/1", b"by another program");
            let (code, found, differences) = report(&w.followers[1], &[]);
            assert_eq!((code, differences), (1, vec!["kept/1: size, times".to_owned()]), "{found}");
            w.followers[0].daemon.thaw();
            Ok(())
        }),
    ]
}

/// Changes files and directories, and has them published now and then.
fn change_until(src: &Dir, source: &Daemon, stop: &AtomicBool) -> u64 {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        match n % 3 {
            0 => src.write(format!("d/{}", n % 20), n.to_string()),
            1 => src.mkdirs(format!("d/dir-{n}/e")),
            _ => src.rename(format!("d/dir-{}", n - 1), format!("d/moved-{n}")),
        }
        if n % 60 == 59 {
            (n - 57..=n).filter(|n| n % 3 == 2).for_each(|n| src.remove(format!("d/moved-{n}")));
            source.flush(None);
        }
    }
    n
}

fn differences_between(before: &Path, now: &Dir) -> String {
    differences(before, now.root(), Times::All, &|_| false)
}
