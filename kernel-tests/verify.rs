//! `fansync verify`: what it finds, what it must not find, and what it puts right.

use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::fixture::daemon::fansync;
use crate::fixture::fs::Fs;
use crate::fixture::proc::{Ran, poll_until};
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};

/// A name that no file should have.
const HOSTILE: &[u8] = b"new\nline \xff -> #x";

pub fn cases() -> Vec<Case> {
    vec![
        case("equal_then_each_kind_of_difference", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Module, To::Local]).carrying(&["xattrs"]).start()?;
            fill(&m.src);
            m.check();
            let shown = m.daemon.does(&["verify"]);
            assert!(shown.contains("mirror/t1: equal; ") && shown.contains("mirror/t2: equal; "), "{shown}");
            spoil(m.dst());
            m.dst().write("extra dir/f", b"");
            let ran = verify(&m, &["--target", "t1"]);
            assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
            for want in [
                "mirror/t1: 12 paths differ",
                "  content/size: size, times\n",
                "  mode: mode\n",
                "  owner: owner, group\n",
                "  times: times\n",
                "  link: link target, times\n",
                "  type: of another type on the target\n",
                "  xattr: xattrs\n",
                "  missing: missing on the target\n",
                "  extra dir: extra on the target\n",
                "  extra dir/f: extra on the target\n",
                "  new\\x0aline \\xff -> #x: size, times\n",
            ] {
                assert!(ran.stdout.contains(want), "{want:?} is not in\n{}", ran.stdout);
            }
            assert!(!ran.stdout.contains("same content"), "found without --checksum:\n{}", ran.stdout);
            // The other target has not changed.
            assert_eq!(verify(&m, &["--target", "t2"]).code, 0);
            let json = verify(&m, &["--target", "t1", "--json"]);
            let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("one JSON object");
            assert_eq!(json["reports"][0]["differences"].as_array().map(Vec::len), Some(12), "{json}");
            Ok(())
        }),
        case("content_alone_is_found_by_checksum_and_put_right", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).start()?;
            fill(&m.src);
            m.check();
            spoil_content(m.dst());
            assert_eq!(verify(&m, &[]).code, 0, "size and times are equal");
            let ran = verify(&m, &["--checksum"]);
            assert!(ran.code == 1 && ran.stdout.contains("  same content: content\n"), "{}{}", ran.stdout, ran.stderr);
            let ran = verify(&m, &["--checksum", "--repair"]);
            assert!(ran.code == 0 && ran.stdout.contains("equal, 1 put right"), "{}{}", ran.stdout, ran.stderr);
            m.check();
            Ok(())
        }),
        case("repair_puts_everything_right", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Local]).carrying(&["xattrs"]).start()?;
            fill(&m.src);
            m.src.mkdirs("tree/of/dirs");
            m.src.write("tree/of/dirs/f", b"x");
            m.check();
            spoil(m.dst());
            m.dst().write("extra dir/f", b"");
            m.dst().remove("tree");
            let ran = verify(&m, &["--repair", "--checksum"]);
            assert!(ran.code == 0 && ran.stdout.contains("put right"), "{}{}", ran.stdout, ran.stderr);
            m.compare(crate::fixture::tree::Times::All, &|_| false);
            let status = m.daemon.status().mirrors.remove(0).targets.remove(0).verify.expect("it is in the status");
            assert!(status.differing > 0 && status.repaired == status.differing && !status.running, "{status:?}");
            Ok(())
        }),
        case("repair_deletes_no_more_than_max_delete", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Local]).key("max_delete", 3).start()?;
            fill(&m.src);
            m.check();
            (0..5).for_each(|n| m.dst().write(format!("extra{n}"), b""));
            m.dst().write("mode", b"other");
            let ran = verify(&m, &["--repair"]);
            assert!(ran.code == 1 && ran.stdout.contains("5 paths differ, 2 put right"), "{}{}", ran.stdout, ran.stderr);
            assert!((0..5).all(|n| m.dst().has(format!("extra{n}"))), "more than max_delete was deleted");
            assert_eq!(m.daemon.target_status("t1").held_deletes, 5);
            m.daemon.does(&["resume", "--accept-deletes"]);
            m.check();
            assert_eq!(verify(&m, &[]).code, 0);
            Ok(())
        }),
        case("what_is_left_out_does_not_differ", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs)
                .exclude(&["*.tmp", "/cache/"])
                .key("exclude_regex", vec![".*/log.*".to_string()])
                .key("full_every", "24h")
                .key("full_exclude", vec!["/volatile".to_string()])
                .start()?;
            m.src.mkdir("d");
            m.src.write("d/f", b"x");
            m.check();
            m.dst().mkdir("cache");
            for path in ["d/a.tmp", "d/log1", "cache/f", "volatile"] {
                m.dst().write(path, b"only here");
            }
            m.src.write("b.tmp", b"only there");
            // What the directories' times should be.
            m.src.chmod("d", 0o711);
            m.src.write("f", b"");
            m.daemon.flush(None);
            let ran = verify(&m, &[]);
            assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
            m.dst().write("d/e", b"");
            let ran = verify(&m, &[]);
            assert!(
                ran.code == 1 && ran.stdout.contains("2 paths differ") && ran.stdout.contains("  d/e: extra"),
                "{}{}",
                ran.stdout,
                ran.stderr
            );
            Ok(())
        }),
        case("hard_links_that_are_none_differ", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).carrying(&["hard_links"]).start()?;
            m.src.write("one", b"x");
            m.src.link("one", "two");
            m.check();
            assert_eq!(verify(&m, &[]).code, 0);
            m.dst().remove("two");
            std::fs::copy(m.dst().at("one"), m.dst().at("two")).expect("it is there");
            let ran = verify(&m, &["--repair"]);
            assert!(ran.code == 0 && ran.stdout.contains("put right"), "{}{}", ran.stdout, ran.stderr);
            m.check();
            Ok(())
        }),
        case("names_that_only_the_target_links_are_parted", &[Fs::Tmpfs], |fs| {
            for links in [&[][..], &["hard_links"]] {
                let m = Setup::new(fs).targets(&[To::Module, To::Local]).carrying(links).start()?;
                let pairs = ["fifo", "link", "node", "file"].map(|kind| [format!("{kind}.1"), format!("{kind}.2")]);
                for (n, name) in pairs.iter().flatten().enumerate() {
                    match &name[..4] {
                        "fifo" => m.src.fifo(name),
                        "link" => m.src.symlink("nowhere", name),
                        "node" => m.src.device(name, 1, 3),
                        _ => m.src.write(name, "the same"),
                    }
                    std::os::unix::fs::lchown(m.src.at(name), Some(4711 + n as u32), None).expect("root may");
                    m.src.set_mtime(name, 1_000_000_000, 0);
                }
                m.check();
                let targets: Vec<&Dir> = m.targets.iter().map(|t| &t.dir).collect();
                let one = |dst: &Dir, pair: &[String; 2]| {
                    let [a, b] = pair.each_ref().map(|name| dst.at(name).symlink_metadata().expect("it was sent").ino());
                    a == b
                };
                for dst in &targets {
                    for [first, second] in &pairs {
                        dst.remove(second);
                        dst.link(first, second);
                    }
                    assert!(pairs.iter().all(|pair| one(dst, pair)));
                }
                let ran = verify(&m, &[]);
                assert!(ran.code == 1 && ran.stdout.matches("5 paths differ").count() == 2, "{}{}", ran.stdout, ran.stderr);
                let ran = verify(&m, &["--repair"]);
                assert!(ran.code == 0 && ran.stdout.matches("equal, 5 put right").count() == 2, "{}{}", ran.stdout, ran.stderr);
                for dst in &targets {
                    assert!(!pairs.iter().any(|pair| one(dst, pair)), "names are one on the target still");
                }
                m.check();
            }
            Ok(())
        }),
        case("changes_meanwhile_are_no_difference", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Module, To::Local]).start()?;
            fill(&m.src);
            m.src.mkdir("busy");
            (0..300).for_each(|n| m.src.write(format!("busy/{n}"), b"0"));
            m.check();
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for round in 0.. {
                        if done.load(Ordering::Relaxed) {
                            return;
                        }
                        churn(&m.src, round);
                        // Some hundred changes a second: what comes faster than it can be sent is
                        // pending anyway.
                        let _ = poll_until::<()>(Duration::from_millis(5), || None);
                    }
                });
                let ran = verify(&m, &[]);
                done.store(true, Ordering::Relaxed);
                assert_eq!(ran.code, 0, "a false alarm: {}{}", ran.stdout, ran.stderr);
            });
            m.check();
            // What is wrong is found all the same, beside the noise.
            m.dst().write("mode", b"other content");
            assert_eq!(verify(&m, &["--target", "t1"]).code, 1);
            Ok(())
        }),
        case("what_is_pending_is_no_difference", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).start()?;
            fill(&m.src);
            m.check();
            m.daemon.does(&["pause"]);
            m.src.write("mode", b"changed while paused");
            m.src.remove("times");
            m.src.mkdir("new");
            m.src.write("new/f", b"");
            let ran = verify(&m, &[]);
            assert!(ran.code == 0 && ran.stdout.contains("more wait to be sent"), "{}{}", ran.stdout, ran.stderr);
            m.dst().write("owner", b"but this is no change of ours");
            let ran = verify(&m, &[]);
            assert!(ran.code == 1 && ran.stdout.contains("1 path differs"), "{}{}", ran.stdout, ran.stderr);
            Ok(())
        }),
        case("dead_target_and_dead_daemon", &[Fs::Tmpfs], |fs| {
            let mut m = Setup::new(fs).start()?;
            fill(&m.src);
            m.check();
            let config = m.scratch("fansync.toml").display().to_string();
            m.daemon.terminate();
            // By itself, with the file alone.
            let ran = fansync(&["verify", "--config", &config], WAIT);
            assert!(ran.code == 0 && ran.stdout.contains("mirror/t1: equal"), "{}{}", ran.stdout, ran.stderr);
            m.dst().write("mode", b"other");
            let ran = fansync(&["verify", "--config", &config], WAIT);
            assert!(ran.code == 1 && ran.stdout.contains("  mode: "), "{}{}", ran.stdout, ran.stderr);
            let ran = fansync(&["verify", "--config", &config, "--repair"], WAIT);
            assert!(ran.code == 69 && ran.stderr.contains("running daemon"), "{}{}", ran.stdout, ran.stderr);
            assert_eq!(fansync(&["verify", "--config", &config, "--target", "nope"], WAIT).code, 64);
            m.rsyncd.as_mut().expect("a module").stop();
            let ran = fansync(&["verify", "--config", &config], WAIT);
            assert!(ran.code == 75 && ran.stdout.contains("not known"), "{}{}", ran.stdout, ran.stderr);
            m.restart(crate::fixture::daemon::Until::Watching);
            let ran = verify(&m, &[]);
            assert!(ran.code == 75 && ran.stdout.contains("Connection refused"), "{}{}", ran.stdout, ran.stderr);
            Ok(())
        }),
        case("in_the_background_and_put_right", &[Fs::Tmpfs], |fs| {
            // Long enough for the status to be seen before the next one is equal.
            let m = Setup::new(fs).key("verify_every", "1s").start()?;
            fill(&m.src);
            m.check();
            m.dst().write("mode", b"written by another program");
            m.dst().write("extra", b"");
            let shown = poll_until(WAIT, || m.daemon.target_status("t1").verify.filter(|v| v.differing > 0));
            let shown = shown.unwrap_or_else(|| panic!("nothing is found\n{}", m.daemon.report()));
            assert_eq!(shown.repaired, shown.differing, "{shown:?}");
            m.compare(crate::fixture::tree::Times::All, &|_| false);
            let log = m.daemon.log();
            assert!(log.contains("was not equal to its source") && log.contains("extra: extra on the target"), "{log}");
            let equal = || m.daemon.target_status("t1").verify.filter(|v| v.differing == 0 && !v.running);
            assert!(poll_until(WAIT, equal).is_some(), "it is not equal once it was put right");
            assert!(m.daemon.does(&["status"]).contains(": equal; "), "{}", m.daemon.does(&["status"]));
            Ok(())
        }),
        case("in_the_background_and_reported_only", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs)
                .targets(&[To::Local])
                .key("verify_every", "300ms")
                .key("verify_checksum", true)
                .key("verify_repair", false)
                .start()?;
            fill(&m.src);
            m.check();
            spoil_content(m.dst());
            let shown = poll_until(WAIT, || m.daemon.target_status("t1").verify.filter(|v| v.differing > 0));
            let shown = shown.unwrap_or_else(|| panic!("nothing is found\n{}", m.daemon.report()));
            assert_eq!((shown.differing, shown.repaired), (1, 0), "{shown:?}");
            assert_eq!(m.dst().read("same content").as_deref(), Some(&b"SAME CONTENT"[..]), "it was put right");
            Ok(())
        }),
        case("a_rehearsal_changes_nothing", &[Fs::Tmpfs], |fs| {
            let work = crate::fixture::fs::work_dir();
            let ground = crate::fixture::fs::Ground::new(fs, work.path())?;
            let (target, before) = (Dir::new(work.path().join("t")), Dir::new(work.path().join("before")));
            fill(&ground.src);
            target.mkdir(".");
            target.write("old", b"");
            target.write("mode", b"other");
            let snapshot = |of: &Dir, to: &Dir| {
                let copied = std::process::Command::new("cp").arg("-a").arg(of.root()).arg(to.root()).status();
                assert!(copied.is_ok_and(|status| status.success()), "cp");
            };
            snapshot(&target, &before);
            let (src, url) = (ground.src.root().display().to_string(), target.root().display().to_string());
            let ran = fansync(&["mirror", "--dry-run", &src, &url, "--exclude", "times"], WAIT);
            assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
            for want in [
                "would send 8 files of 43 B, make or set ",
                "  send   mode: size",
                "  send   new\\x0aline \\xff -> #x: missing on the target\n",
                "  set    link: missing on the target\n",
                "  delete old\n",
                "nothing was changed\n",
            ] {
                assert!(ran.stdout.contains(want), "{want:?} is not in\n{}", ran.stdout);
            }
            assert!(!ran.stdout.contains("times: missing"), "{}", ran.stdout);
            let found =
                crate::fixture::tree::differences(before.root(), target.root(), crate::fixture::tree::Times::All, &|_| false);
            assert!(found.is_empty(), "the target has changed:\n{found}");
            let ran = fansync(&["mirror", "--dry-run", "--max-delete", "0", &src, &url], WAIT);
            assert!(ran.code == 0 && ran.stdout.contains("  HELD   1 deletion is more than"), "{}{}", ran.stdout, ran.stderr);
            let ran = fansync(&["mirror", "--dry-run", &src, "rsync://127.0.0.1:1/m"], WAIT);
            assert!(ran.code == 75 && ran.stderr.contains("Connection refused"), "{}{}", ran.stdout, ran.stderr);
            Ok(())
        }),
        case("a_client_that_leaves_ends_the_comparison", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).target_key("args", vec!["--bwlimit=1".to_string()]).start()?;
            let running = || m.daemon.target_status("t1").verify.is_some_and(|v| v.running);
            (0..4000).for_each(|n| m.src.write(format!("{n}"), b""));
            m.daemon.does(&["pause"]);
            let socket = m.scratch("status.sock").display().to_string();
            let binary = crate::fixture::daemon::binary();
            let mut client = std::process::Command::new(binary)
                .args(["verify", "--checksum", "--socket", &socket])
                .spawn()
                .expect("the client starts");
            assert!(poll_until(WAIT, || running().then_some(())).is_some(), "no comparison begins");
            let shown = || m.daemon.target_status("t1").verify?.progress.filter(|p| p.files_done > 0 || p.files_total > 0);
            let shown = poll_until(WAIT, shown).expect("it tells how far it is");
            assert!(shown.what == "verifying" && !shown.eta_unknown.is_empty(), "{shown:?}");
            client.kill().expect("it runs");
            client.wait().expect("it is ours");
            assert!(poll_until(WAIT, || (!running()).then_some(())).is_some(), "it goes on without its client");
            Ok(())
        }),
    ]
}

fn verify(m: &Mirror, args: &[&str]) -> Ran {
    m.daemon.client(&[&["verify"], args].concat(), WAIT)
}

fn hostile_path() -> std::path::PathBuf {
    let name: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(HOSTILE.to_vec());
    name.into()
}

fn fill(src: &Dir) {
    src.mkdir("content");
    src.write("content/size", b"12345");
    for name in ["mode", "owner", "times", "xattr", "missing", "type", "same content"] {
        src.write(name, name);
    }
    src.symlink("somewhere", "link");
    src.write(hostile_path(), b"x");
}

/// One difference of each kind; and one in [`spoil_content`].
fn spoil(dst: &Dir) {
    dst.write("content/size", b"123456");
    let keep = mtime(dst, "mode");
    dst.chmod("mode", 0o600);
    dst.set_mtime("mode", keep.0, keep.1);
    dst.chown("owner", 4711, 4712);
    let (seconds, nanos) = mtime(dst, "times");
    dst.set_mtime("times", seconds, (nanos + 1) % 1_000_000_000);
    xattr::set(dst.at("xattr"), "user.other", b"1").expect("tmpfs takes attributes");
    dst.remove("missing");
    dst.remove("link");
    dst.symlink("elsewhere", "link");
    dst.remove("type");
    dst.mkdir("type");
    dst.write(hostile_path(), b"xy");
    spoil_content(dst);
    dst.mkdir("extra dir");
}

/// Another content under the same size and times.
fn spoil_content(dst: &Dir) {
    let keep = mtime(dst, "same content");
    dst.write("same content", b"SAME CONTENT");
    dst.set_mtime("same content", keep.0, keep.1);
}

fn mtime(dir: &Dir, path: &str) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::symlink_metadata(dir.at(path)).expect("it is there");
    (meta.mtime(), meta.mtime_nsec())
}

/// Every kind of change, in files and directories that come and go.
fn churn(src: &Dir, round: u32) {
    let n = round % 300;
    src.write(format!("busy/{n}"), format!("{round}"));
    src.write(format!("busy/new{n}"), b"");
    src.rename(format!("busy/new{n}"), format!("moved{n}"));
    src.remove(format!("moved{n}"));
    if round.is_multiple_of(7) {
        src.mkdirs(format!("deep{n}/a/b"));
        src.write(format!("deep{n}/a/b/f"), b"x");
        src.rename(format!("deep{n}"), format!("other{n}"));
        src.chmod(format!("other{n}/a"), 0o700);
        src.remove(format!("other{n}"));
    }
    src.chmod("mode", 0o600 + round % 8);
}
