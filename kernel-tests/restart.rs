//! Restarts: what changed while the daemon was down arrives, and little else is sent; and where
//! that cannot be known, everything is compared and the reason is reported.

use crate::fixture::daemon::{Until, fansync, log_path};
use crate::fixture::fs::{ALL, Fs, needs};
use crate::fixture::proc::{descendants, must, poll_until};
use crate::fixture::rsyncd::Rsyncd;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Run, SLACK, Setup, To, WAIT, case};

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use nix::sys::signal::{Signal, kill};

/// Whether rsync's temporary file of a transfer lies in a directory.
fn partial(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut l| l.any(|e| e.is_ok_and(|e| e.file_name().as_encoded_bytes()[0] == b'.')))
}

const DIRS: usize = 20;
const FILES_PER_DIR: usize = 25;

pub fn cases() -> Vec<Case> {
    vec![
        case("only_what_changed_is_sent", ALL, |fs| only_what_changed(Setup::new(fs))),
        case("only_what_changed_is_sent_inotify", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            only_what_changed(Setup::new(fs).watch("inotify"))
        }),
        case("an_older_copy_of_the_source", &[Fs::Ext4], |_| an_older_copy_of_the_source()),
        case("nothing_changed", ALL, |fs| {
            let mut m = old_tree(Setup::new(fs))?;
            m.daemon.terminate();
            m.restart(Until::Reconciled);
            let (start, sent) = (m.daemon.status().mirrors.remove(0), m.daemon.target_status("t1").files_sent);
            assert_eq!((start.start.how.as_str(), start.start.found, sent), ("walk", 0, 0), "{:?}", start.start);
            assert_eq!(start.start.directories as usize, DIRS + 1);
            assert!(start.lost.is_empty(), "{:?}", start.lost);
            m.check();
            Ok(())
        }),
        case("killed_while_idle", ALL, |fs| {
            let mut m = old_tree(Setup::new(fs))?;
            m.src.write("d3/f3", b"the last change");
            m.check();
            covered(&m);
            m.daemon.crash();
            change(&m);
            m.restart(Until::Watching);
            m.check();
            walked(&m, 60);
            assert_eq!(m.daemon.status().mirrors[0].lost.get("unclean_stop"), Some(&1));
            Ok(())
        }),
        case("a_stop_before_the_first_comparison_is_a_stop", &[Fs::Tmpfs], |fs| {
            let mut m = Setup::new(fs).rsyncd_away().while_reconciling().before(|src| src.write("f", b"1")).start()?;
            m.daemon.target_status_until("t1", "down", |t| t.state == "down");
            m.daemon.terminate();
            m.restart(Until::Watching);
            let lost = m.daemon.status().mirrors.remove(0).lost;
            assert!(!lost.contains_key("unclean_stop"), "{lost:?}");
            m.daemon.crash();
            m.restart(Until::Watching);
            assert_eq!(m.daemon.status().mirrors[0].lost.get("unclean_stop"), Some(&1), "killed");
            m.rsyncd.as_mut().expect("the target is a module").restart();
            m.check();
            Ok(())
        }),
        case("killed_in_mid_transfer", ALL, |fs| {
            let slow = Setup::new(fs).targets(&[To::Local, To::Module]).target_key("args", vec!["--bwlimit=400"]);
            let mut m = old_tree(slow)?;
            // There before, so that no change of its directory leads to what a killed receiver
            // leaves beside it.
            m.src.write("d1/large", b"small");
            m.check();
            covered(&m);
            for round in 0..2 {
                m.src.write("d1/large", vec![b'a' + round; 2 << 20]);
                m.src.write("d2/other", vec![b'k' + round; 1 << 20]);
                let begun = poll_until(WAIT, || partial(&m.dst().at("d1")).then_some(()));
                begun.expect("the first target receives the large file");
                m.daemon.kill();
                m.src.rename("d4", format!("renamed {round}"));
                m.src.rename(format!("renamed {round}"), "d4");
                m.src.write("d5/f5", format!("while it was dead {round}"));
                m.restart(Until::Watching);
            }
            m.check();
            Ok(())
        }),
        case("killed_in_mid_transfer_and_stopped_before_it_was_sent", &[Fs::Ext4], |fs| {
            let slow = Setup::new(fs).targets(&[To::Local]).target_key("args", vec!["--bwlimit=400"]);
            let mut m = old_tree(slow)?;
            m.src.write("d1/large", b"small");
            m.check();
            covered(&m);
            m.src.write("d1/large", vec![b'a'; 800 << 10]);
            poll_until(WAIT, || partial(&m.dst().at("d1")).then_some(())).expect("the target receives the large file");
            // So that nothing is sent by the next daemon, which then stops in order.
            m.daemon.does(&["pause"]);
            // A receiver that outlives its client removes the file.
            let all = descendants(m.daemon.pid());
            let send = |signal| all.iter().for_each(|pid| _ = kill(*pid, signal));
            send(Signal::SIGSTOP);
            m.daemon.kill();
            send(Signal::SIGKILL);
            m.restart(Until::Watching);
            let walked = || (!m.daemon.status().mirrors[0].start.walking).then_some(());
            poll_until(WAIT, walked).expect("the walk ends");
            m.daemon.terminate();
            m.restart(Until::Watching);
            assert!(partial(&m.dst().at("d1")), "nothing was left behind, so this shows nothing");
            m.daemon.does(&["resume"]);
            m.check();
            Ok(())
        }),
        case("target_emptied_while_stopped", &[Fs::Ext4], |fs| {
            let mut m = old_tree(Setup::new(fs).targets(&[To::Module, To::Local]))?;
            covered(&m);
            m.daemon.terminate();
            for name in fs::read_dir(m.dst().root()).expect("it is there").flatten() {
                m.dst().remove(name.file_name());
            }
            m.src.write("d3/f3", b"while it was stopped");
            m.restart(Until::Watching);
            m.check();
            assert!(m.daemon.log().contains("lacks what it had at the last stop"));
            assert_eq!(m.daemon.target_status("t2").files_sent, 1, "the other target was not left alone");
            Ok(())
        }),
        case("same_content_size_and_time_at_a_kill", ALL, |fs| {
            let mut m = old_tree(Setup::new(fs))?;
            m.src.write("d0/twin", b"one");
            m.src.set_mtime("d0/twin", 1_600_000_000, 5);
            m.check();
            m.daemon.freeze();
            m.src.write("d0/twin", b"two");
            m.src.set_mtime("d0/twin", 1_600_000_000, 5);
            m.daemon.crash();
            // Long enough ago that only the watermark tells of it.
            let now = SystemTime::now();
            poll_until(WAIT, || (SystemTime::now() > now + SLACK * 2).then_some(())).expect("time goes by");
            m.restart(Until::Watching);
            m.check();
            Ok(())
        }),
        case("target_dead_at_the_stop", ALL, |fs| {
            let mut m = old_tree(Setup::new(fs).targets(&[To::Module, To::Local]))?;
            rsyncd(&mut m).stop();
            for n in 0..40 {
                m.src.write(format!("d7/pending {n}"), format!("{n}"));
            }
            m.src.rename("d8", "moved");
            m.daemon.flush(Some("t2"));
            covered(&m);
            // What waits for the first target is read again for both. Of a file that changed just
            // before the second one's watermark, size and mtime say nothing: it would be sent.
            covered(&m);
            covered(&m);
            m.daemon.terminate();
            m.src.write("d10/new", b"while down");
            // Stopped twice before the first target is back.
            m.restart(Until::Watching);
            m.daemon.flush(Some("t2"));
            m.daemon.terminate();
            m.src.remove("d11");
            rsyncd(&mut m).restart();
            m.restart(Until::Watching);
            m.check();
            walked(&m, 120);
            let sent: Vec<u64> = ["t1", "t2"].iter().map(|t| m.daemon.target_status(t).files_sent).collect();
            assert!((42..=42 + 2 * FILES_PER_DIR as u64).contains(&sent[0]), "what was pending of the first: {sent:?}");
            assert!(sent[1] <= 5, "each target gets what changed since its own watermark: {sent:?}");
            Ok(())
        }),
        case("changes_before_during_and_after_the_walk", ALL, |fs| {
            let mut m = old_tree(Setup::new(fs))?;
            for round in 0..4 {
                m.daemon.terminate();
                for n in 0..10 {
                    m.src.remove(format!("d{n}"));
                }
                m.src.rename("d19", "elsewhere");
                m.restart(Until::Watching);
                // The target has other things below these names.
                for n in 0..10 {
                    m.src.mkdirs(format!("d{n}/f1"));
                    m.src.write(format!("d{n}/f2"), format!("round {round}"));
                    m.src.write(format!("d{n}/f1/deep"), b"deep");
                }
                m.src.rename("elsewhere", "d19");
                m.src.write("d19/f1", format!("round {round}"));
                m.check();
            }
            Ok(())
        }),
        case("second_daemon_in_the_same_state_dir", &[Fs::Tmpfs], |fs| {
            let m = old_tree(Setup::new(fs))?;
            let second = m.scratch("second");
            fs::create_dir(&second).expect("a directory can be made");
            let text = toml::to_string(m.config()).expect("the config is TOML").replace("status.sock", "second/status.sock");
            let path = second.join("fansync.toml");
            fs::write(&path, text).expect("a file can be written");
            let ran = fansync(&["run", "--config", &path.display().to_string()], WAIT);
            assert_eq!(ran.code, 78, "{}", ran.stderr);
            assert!(ran.stderr.contains("another fansync keeps state in"), "{}", ran.stderr);
            m.src.write("f", b"the first goes on");
            m.check();
            Ok(())
        }),
        case("state_that_cannot_be_used", ALL, unusable),
        case("state_cut_or_changed_anywhere", &[Fs::Tmpfs], damaged),
        case("another_filesystem_in_the_place_of_the_source", &[Fs::Tmpfs], |_| another_filesystem()),
        case("target_that_lost_everything_before_a_kill", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let mut m = old_tree(Setup::new(fs).targets(&[To::Local, To::Module]))?;
            let aside = m.scratch("aside");
            fs::rename(m.dst().root(), &aside).expect("the target can be moved");
            m.src.write("d1/f1", b"finds the target gone");
            let gone = poll_until(WAIT, || {
                (m.daemon.target_status("t1").state != "idle" && m.daemon.target_status("t1").tries > 0).then_some(())
            });
            gone.expect("the daemon finds that the target is gone");
            m.daemon.crash();
            m.dst().mkdir(".");
            m.restart(Until::Watching);
            m.check();
            let start = m.daemon.status().mirrors.remove(0).start;
            assert!(start.how == "walk" && start.why.contains("the whole tree with t1"), "{start:?}");
            Ok(())
        }),
        case("new_target_and_new_url", &[Fs::Tmpfs], |fs| {
            let mut m = old_tree(Setup::new(fs).targets(&[To::Local, To::Local]))?;
            m.daemon.terminate();
            m.targets[1].dir = Dir::new(m.scratch("t2 moved"));
            m.targets[1].dir.mkdir(".");
            let url = m.targets[1].dir.root().display().to_string();
            m.configure(|table| table.target[1].url = url);
            m.src.write("d1/f1", b"changed");
            m.restart(Until::Watching);
            m.check();
            let start = m.daemon.status().mirrors.remove(0).start;
            assert!(start.why.contains("with t2: the settings have changed") && !start.why.contains("t1"), "{start:?}");
            assert!(m.daemon.target_status("t1").files_sent <= 1);
            Ok(())
        }),
        case("without_a_comparison_nothing_is_lost_either", &[Fs::Tmpfs, Fs::Ext4, Fs::Fuse], |fs| {
            let mut m = Setup::new(fs).initial("none").before(|src| src.write("old", b"not compared")).start()?;
            m.src.write("f", b"one");
            m.daemon.flush(None);
            assert!(!m.dst().has("old"), "initial = \"none\" compares nothing at the first start");
            must(Command::new("cp").arg("-a").arg(m.src.at("old")).arg(m.dst().root()));
            for kill in [false, true] {
                rsyncd(&mut m).stop();
                m.src.mkdirs("d/e");
                m.src.write("d/e/f", format!("pending at the end {kill}"));
                if kill {
                    m.daemon.crash()
                } else {
                    m.daemon.terminate()
                }
                rsyncd(&mut m).restart();
                m.restart(Until::Watching);
                m.check();
            }
            Ok(())
        }),
    ]
}

fn rsyncd(m: &mut Mirror) -> &mut Rsyncd {
    m.rsyncd.as_mut().expect("the target is a module")
}

/// A mirror in sync whose tree is so old that no file of it changed near the next stop.
fn old_tree(setup: Setup) -> Run<Mirror> {
    let m = setup
        .before(|src| {
            for d in 0..DIRS {
                src.mkdir(format!("d{d}"));
                for f in 0..FILES_PER_DIR {
                    src.write(format!("d{d}/f{f}"), format!("{d} {f}"));
                }
            }
        })
        .start()?;
    m.out.mkdirs("old/deep");
    m.out.write("old/deep/file", b"old");
    m.out.set_mtime("old/deep/file", 1_000_000_000, 0);
    m.check();
    covered(&m);
    Ok(m)
}

/// See [`Mirror::rest`].
fn covered(m: &Mirror) {
    m.rest("d0/f24", b"0 24");
}

/// A little of everything.
fn change(m: &Mirror) {
    let src = &m.src;
    src.write("d0/f0", b"longer than before");
    src.write("d0/f1", b"1 1"); // the same size
    src.write("d0/f2", b"9 9");
    src.set_mtime("d0/f3", 1_000_000_000, 7);
    src.chmod("d0/f4", 0o640);
    src.chown("d0/f5", 7, 8);
    src.remove("d0/f6");
    src.write("d0/new", b"new");
    src.symlink("f0", "d0/link");
    src.chmod("d1", 0o750);
    src.set_mtime("d2", 1_000_000_000, 0);
    src.rename("d3", "renamed");
    src.rename("d4", "d5/inner");
    src.remove("d6");
    m.out.rename_to("old", src, "d7/old");
    // Another directory in the place of one, and a directory in the place of a file and the other
    // way round.
    src.rename("d8", "d9/of d8");
    src.mkdir("d8");
    src.write("d8/f1", b"another's");
    src.remove("d10/f1");
    src.mkdirs("d10/f1/deep");
    src.write("d10/f1/deep/f", b"f");
    src.remove("d11");
    src.write("d11", b"a file now");
    src.exchange("d12", "d13");
    src.rename("d14/f1", "d15/f1");
}

/// Asserts that the start was a walk for every target, and that at most so many files were sent.
#[track_caller]
fn walked(m: &Mirror, most: u64) {
    let mirror = m.daemon.status().mirrors.remove(0);
    let start = &mirror.start;
    assert!(start.how == "walk" && start.why.is_empty() && !start.walking, "{start:?}");
    assert!((1..=most).contains(&start.found), "{start:?}");
    assert!(start.directories >= DIRS as u64 && start.entries as usize >= (DIRS - 4) * FILES_PER_DIR, "{start:?}");
}

fn only_what_changed(setup: Setup) -> Run<()> {
    let mut m = old_tree(setup)?;
    // With inotify the places of directories are known from the walk after the start alone: let it
    // begin when they are old.
    m.daemon.terminate();
    m.restart(Until::Reconciled);
    covered(&m);
    m.daemon.terminate();
    change(&m);
    m.restart(Until::Watching);
    m.check();
    walked(&m, 40);
    // Whole directories in new places: renamed, d5/inner, d9/of d8, d12, d13; and 12 single files,
    // of 500 altogether. inotify does not tell of each directory's place, so those that changed, in
    // one that changed, are compared whole.
    let sent = m.daemon.target_status("t1").files_sent;
    let inotify = m.daemon.status().mirrors[0].watch[0].backend == "inotify";
    assert!(inotify || (12..=5 * FILES_PER_DIR as u64 + 15).contains(&sent), "{sent} files sent");
    assert!(m.daemon.status().mirrors[0].lost.is_empty(), "a clean stop loses nothing");
    m.src.write("renamed/f1", b"and on it goes");
    m.src.rename("d8", "d18/of d8");
    m.check();
    Ok(())
}

/// Each end of a state, and the words in the reason.
fn unusable(fs: Fs) -> Run<()> {
    let mut m = old_tree(Setup::new(fs))?;
    let replaced = |m: &mut Mirror| {
        // As after a restore of a backup: another directory, the same content.
        let (parent, aside) = (m.src.root().parent().expect("it has one").to_owned(), m.out.at("the old source"));
        fs::rename(m.src.root(), &aside).expect("the source can be moved");
        must(Command::new("cp").arg("-a").arg(&aside).arg(parent.join("src")));
    };
    type Act = Box<dyn Fn(&mut Mirror)>;
    let table: Vec<(&str, Act)> = vec![
        ("there is no saved state", Box::new(|m| fs::remove_file(m.state_file()).expect("it can be removed"))),
        ("the mirror's settings have changed", Box::new(|m| m.configure(|table| table.exclude = vec!["*.none".into()]))),
        ("the source is another directory", Box::new(replaced)),
        ("cannot be used", Box::new(|m| fs::write(m.state_file(), b"no state").expect("it can be written"))),
    ];
    for (reason, act) in table {
        m.daemon.terminate();
        act(&mut m);
        m.src.write("d1/f1", reason);
        m.src.remove("d2");
        m.src.mkdir("d2");
        m.dst().write("d1/extra", b"only a comparison of everything finds this");
        m.restart(Until::Watching);
        m.check();
        let start = m.daemon.status().mirrors.remove(0).start;
        assert!(start.how == "comparison" && start.why.contains(reason), "{reason}: {start:?}");
        let log = fs::read_to_string(log_path(m.scratch("").as_path())).expect("the log can be read");
        assert!(
            log.contains(&format!("the whole tree is compared with every target: {}", start.why)),
            "{reason}: not in the log"
        );
    }
    Ok(())
}

/// A state file that was cut or changed leads to an earlier save or to a comparison of everything,
/// never to a difference.
fn damaged(fs: Fs) -> Run<()> {
    let mut m = old_tree(Setup::new(fs))?;
    let mut ways = std::collections::BTreeMap::new();
    for step in 0..12 {
        m.src.write("d1/f1", format!("{step}"));
        m.src.rename("d2", "d3/aside");
        m.src.rename("d3/aside", "d2");
        m.check();
        m.daemon.terminate();
        let mut bytes = fs::read(m.state_file()).expect("the state can be read");
        let at = bytes.len() * (step % 6) / 6 + 3;
        if step < 6 {
            bytes.truncate(at)
        } else {
            bytes[at] ^= 0x10
        }
        fs::write(m.state_file(), bytes).expect("the state can be written");
        m.src.write("d1/f2", format!("{step}"));
        m.src.rename(format!("d{}", 5 + step), format!("d{} moved", 5 + step));
        m.restart(Until::Watching);
        m.check();
        *ways.entry(m.daemon.status().mirrors.remove(0).start.how).or_insert(0) += 1;
    }
    assert!(ways.get("comparison").is_some_and(|n| *n >= 2), "{ways:?}");
    Ok(())
}

/// A snapshot of the block device is put back while the daemon is stopped: same filesystem, same
/// root, old change times.
fn an_older_copy_of_the_source() -> Run<()> {
    needs("mkfs.ext4")?;
    let mut m = old_tree(Setup::new(Fs::Ext4))?;
    m.daemon.terminate();
    let (image, older, content) = (m.scratch("volume"), m.scratch("older"), m.scratch("content"));
    let root = m.src.root().to_owned();
    let mount = || must(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&root));
    let unmount = || must(Command::new("umount").arg(&root));
    must(Command::new("cp").arg("-a").arg(&root).arg(&content));
    must(Command::new("truncate").args(["-s", "32M"]).arg(&image));
    must(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
    mount();
    must(Command::new("cp").arg("-a").arg(content.join(".")).arg(&root));
    m.restart(Until::Watching);
    m.check();
    m.daemon.terminate();
    unmount();
    must(Command::new("cp").arg(&image).arg(&older));
    mount();
    m.restart(Until::Watching);
    m.src.write("d1/f1", b"lost by what is put back");
    m.src.rename("d2/f2", "d2/renamed");
    m.src.remove("d3/f3");
    m.check();
    covered(&m);
    m.daemon.terminate();
    unmount();
    must(Command::new("cp").arg(&older).arg(&image));
    mount();
    m.restart(Until::Watching);
    m.check();
    let start = m.daemon.status().mirrors.remove(0).start;
    assert!(start.how == "comparison" && start.why.contains("older copy"), "{start:?}");
    m.daemon.terminate();
    unmount();
    Ok(())
}

fn another_filesystem() -> Run<()> {
    let mut m = old_tree(Setup::new(Fs::Ext4))?;
    m.daemon.terminate();
    let content = m.scratch("content");
    must(Command::new("cp").arg("-a").arg(m.src.root()).arg(&content));
    // Over the source, with the same content and the same path.
    must(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(m.src.root()));
    must(Command::new("cp").arg("-a").arg(content.join(".")).arg(m.src.root()));
    m.src.write("d1/f1", b"on the other filesystem");
    m.restart(Until::Watching);
    m.check();
    let start = m.daemon.status().mirrors.remove(0).start;
    assert!(start.how == "comparison" && start.why.contains("another filesystem"), "{start:?}");
    m.daemon.terminate();
    must(Command::new("umount").arg("-l").arg(m.src.root()));
    Ok(())
}
