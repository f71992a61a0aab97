//! Renames that travel as renames: what they cost is counted in bytes, as the daemon's own status
//! tells them, not in time.

use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill};

use crate::fixture::daemon::TargetStatus;
use crate::fixture::fs::{ALL, Fs};
use crate::fixture::proc::{descendants, must, poll_until};
use crate::fixture::tree::{Dir, Times};
use crate::fixture::{Case, Mirror, Run, Setup, To, WAIT, case};

/// What a rename of any size may cost on the wire, the daemon's own lists and the times of
/// directories included.
pub(super) const FEW: u64 = 64 << 10;
const MIB: usize = 1 << 20;
/// Where most of these run: a filesystem with hard links and nanoseconds.
pub(super) const ONE: &[Fs] = &[Fs::Ext4];

/// `seed` times a kibibyte of bytes that do not compress.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

/// A directory of 20 files in several levels.
fn fill(src: &Dir, dir: &str, each: usize) {
    src.mkdirs(format!("{dir}/sub/deep"));
    src.mkdir(format!("{dir}/empty"));
    src.symlink("sub/f1", format!("{dir}/link"));
    for n in 0..20 {
        let at = ["", "sub/", "sub/deep/"][n % 3];
        src.write(format!("{dir}/{at}f{n}"), noise(n as u64, each));
    }
    src.chmod(format!("{dir}/f0"), 0o640);
}

fn status(m: &Mirror) -> Vec<TargetStatus> {
    m.targets.iter().map(|t| m.daemon.target_status(&t.name)).collect()
}

/// What `act` cost each target, after everything has arrived.
fn cost(m: &Mirror, act: impl FnOnce(&Mirror)) -> Vec<(u64, u64, u64)> {
    m.check();
    let before = status(m);
    act(m);
    m.check();
    let spent = |(now, then): (TargetStatus, TargetStatus)| {
        let whole = now.renames_sent_whole - then.renames_sent_whole;
        (now.bytes_sent - then.bytes_sent, now.renames - then.renames, whole)
    };
    status(m).into_iter().zip(before).map(spent).collect()
}

/// `act` has to reach each target with few bytes, as this many renames.
#[track_caller]
fn cheap(m: &Mirror, renames: u64, act: impl FnOnce(&Mirror)) {
    for (target, (bytes, carried, whole)) in m.targets.iter().zip(cost(m, act)) {
        assert!(bytes <= FEW, "{bytes} bytes went to {}, {carried} renames, {whole} whole", target.name);
        assert_eq!((carried, whole), (renames, 0), "renames to {}", target.name);
    }
    unlinked(m);
}

/// No file of a target shares its inode with another, where none does on the source.
#[track_caller]
pub(super) fn unlinked(m: &Mirror) {
    for target in &m.targets {
        let mut dirs = vec![target.dir.root().to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).expect("a target can be read") {
                let entry = entry.expect("a target can be read");
                let meta = std::fs::symlink_metadata(entry.path()).expect("a target can be read");
                match meta.is_dir() {
                    true => dirs.push(entry.path()),
                    false => assert_eq!(meta.nlink(), 1, "{} is linked", entry.path().display()),
                }
            }
        }
    }
}

pub(super) const EVERYWHERE: &[To] = &[To::Module, To::Ssh, To::Local];

fn started(fs: Fs, to: &[To], each: usize) -> Run<Mirror> {
    let m = Setup::new(fs).targets(to).start()?;
    fill(&m.src, "a", each);
    m.check();
    Ok(m)
}

pub fn cases() -> Vec<Case> {
    vec![
        case("carried_dir_everywhere", ALL, |fs| {
            let m = started(fs, EVERYWHERE, MIB)?;
            m.src.mkdirs("other/place");
            cheap(&m, 1, |m| m.src.rename("a", "b"));
            cheap(&m, 1, |m| m.src.rename("b", "other/place/c d"));
            cheap(&m, 1, |m| m.src.rename("other/place/c d/sub", "sub"));
            Ok(())
        }),
        case("carried_dir_into_a_new_one", ONE, |fs| {
            let m = started(fs, EVERYWHERE, MIB)?;
            cheap(&m, 1, |m| {
                m.src.mkdirs("x/y");
                m.src.rename("a", "x/y/a");
            });
            Ok(())
        }),
        case("carried_files", ONE, |fs| {
            let m = Setup::new(fs).targets(&[To::Module, To::Ssh]).start()?;
            m.src.mkdir("there");
            for n in 0..5 {
                m.src.write(format!("f{n}"), noise(n, 4 * MIB + n as usize));
            }
            m.src.write("small", noise(9, 1_000));
            // Sizes differ, for likeness is by size and second.
            // All to another directory, each under its name: linked.
            cheap(&m, 5, |m| (0..5).for_each(|n| m.src.rename(format!("f{n}"), format!("there/f{n}"))));
            // Within it: by likeness.
            cheap(&m, 2, |m| {
                m.src.rename("there/f0", "there/g0");
                m.src.rename("there/f1", "there/g1");
            });
            cheap(&m, 0, |m| m.src.rename("small", "there/small"));
            Ok(())
        }),
        case("carried_file_to_a_local_dir", ONE, |fs| {
            let m = Setup::new(fs).targets(&[To::Local]).start()?;
            m.src.mkdir("there");
            m.src.write("f", noise(1, 4 * MIB));
            cheap(&m, 1, |m| m.src.rename("f", "there/f"));
            Ok(())
        }),
        case("carried_in_a_subdirectory_of_the_module", ONE, |fs| {
            // Without chroot too, where the server makes the path absolute itself.
            let m = Setup::new(fs).module("use chroot = no\nmunge symlinks = no").start()?;
            fill(&m.src, "a", MIB);
            cheap(&m, 1, |m| m.src.rename("a", "b"));
            Ok(())
        }),
        case("carried_with_inotify", ONE, |fs| {
            let m = Setup::new(fs).watch("inotify").start()?;
            m.src.mkdir("there");
            fill(&m.src, "a", MIB);
            m.src.write("f", noise(1, 4 * MIB));
            cheap(&m, 1, |m| m.src.rename("a", "b"));
            cheap(&m, 1, |m| m.src.rename("b", "there/c"));
            cheap(&m, 1, |m| m.src.rename("f", "there/f"));
            Ok(())
        }),
        case("carried_below_the_home_of_the_login", ONE, |fs| {
            let m = started(fs, &[To::SshHome], MIB)?;
            m.src.mkdirs("one/two/three");
            cheap(&m, 1, |m| m.src.rename("a", "one/two/three/a"));
            cheap(&m, 1, |m| m.src.rename("one/two/three/a", "b"));
            cheap(&m, 1, |m| m.src.rename("b/sub/f1", "one/two/f1"));
            Ok(())
        }),
        case("carried_one_after_the_other", ONE, |fs| {
            let m = started(fs, EVERYWHERE, MIB)?;
            for (from, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("a", "b")] {
                cheap(&m, 1, |m| m.src.rename(from, to));
            }
            Ok(())
        }),
        case("carried_with_names_excluded", ONE, |fs| {
            let m = Setup::new(fs).exclude(&["*.swp", "/elsewhere/cache/"]).start()?;
            fill(&m.src, "a", MIB);
            m.src.write("a/sub/.f1.swp", noise(77, MIB));
            m.check_but(Times::NotOfDirs, &|p| p.extension().is_some_and(|e| e == "swp"));
            let before = m.daemon.target_status("t1");
            m.src.rename("a", "b");
            m.check_but(Times::NotOfDirs, &|p| p.extension().is_some_and(|e| e == "swp"));
            let after = m.daemon.target_status("t1");
            assert!(after.bytes_sent - before.bytes_sent <= FEW);
            assert_eq!(after.renames - before.renames, 1);
            assert!(!m.dst().has("a") && !m.dst().has("b/sub/.f1.swp"));
            Ok(())
        }),
        case("not_carried_where_filters_differ", ONE, |fs| {
            let m = Setup::new(fs).exclude(&["/a/sub/"]).start()?;
            fill(&m.src, "a", MIB / 4);
            let not_a_sub = |p: &std::path::Path| p.starts_with("a/sub");
            m.check_but(Times::NotOfDirs, &not_a_sub);
            m.src.rename("a", "b");
            // What was left out is not any more.
            m.check();
            let status = m.daemon.target_status("t1");
            assert_eq!((status.renames, status.renames_sent_whole), (0, 1));
            Ok(())
        }),
        case("not_carried_without_deletions", ONE, |fs| {
            let m = Setup::new(fs).keep().start()?;
            fill(&m.src, "a", MIB / 4);
            m.daemon.flush(None);
            m.src.rename("a", "b");
            m.daemon.flush(None);
            let status = m.daemon.target_status("t1");
            assert_eq!(status.renames, 0);
            assert!(m.dst().has("a/f0") && m.dst().has("b/f0"));
            unlinked(&m);
            Ok(())
        }),
        case("carried_then_changed_at_once", ALL, |fs| {
            let m = started(fs, EVERYWHERE, MIB / 8)?;
            m.src.rename("a", "b");
            m.src.write("b/f0", b"other content");
            m.src.chmod("b/sub", 0o700);
            m.src.remove("b/empty");
            m.check();
            m.src.rename("b", "c");
            m.src.mkdir("b");
            m.src.write("b/f0", b"another b");
            m.check();
            unlinked(&m);
            Ok(())
        }),
        case("old_name_taken_again_by_a_twin", ONE, |fs| {
            // The new tree under the old name differs from the renamed one in modes only, so rsync
            // would change these in place, through hard links that the rename left.
            let m = started(fs, EVERYWHERE, MIB / 8)?;
            for round in 0..6 {
                m.src.rename("a", "b");
                must(std::process::Command::new("cp").arg("-a").arg(m.src.at("b")).arg(m.src.at("a")));
                m.src.chmod("a/f0", 0o600 + round);
                m.src.chmod("a/sub/f1", 0o400);
                m.check();
                unlinked(&m);
                m.src.remove("b");
                m.check();
            }
            Ok(())
        }),
        case("chains_and_swaps_while_one_flies", ALL, |fs| {
            let m = started(fs, EVERYWHERE, MIB / 8)?;
            fill(&m.src, "z", MIB / 16);
            m.check();
            for _ in 0..4 {
                // Swap by way of a third name, then round and back.
                for (from, to) in [("a", "t"), ("z", "a"), ("t", "z"), ("a", "b"), ("b", "c"), ("c", "a"), ("z", "y"), ("y", "z")]
                {
                    m.src.rename(from, to);
                }
                m.check();
                m.src.exchange("a", "z");
                m.src.append("a/f0", b"more");
                m.check();
            }
            unlinked(&m);
            Ok(())
        }),
        case("target_away_in_between", ONE, |fs| {
            let mut m = started(fs, &[To::Module, To::Local], MIB / 2)?;
            for (from, to) in [("a", "b"), ("b", "c"), ("c", "d")] {
                m.src.rename(from, to);
                m.rsyncd.as_mut().expect("a module").restart();
                m.check();
            }
            unlinked(&m);
            Ok(())
        }),
        case("runs_killed_in_between", ONE, |fs| {
            let m = started(fs, &[To::Module, To::Local], MIB / 2)?;
            let mut at = "a".to_string();
            for n in 0..10 {
                let next = format!("b{n}");
                m.src.rename(&at, &next);
                // Whatever runs at this moment: the rename's, the removal's, or a standby one.
                let victim = poll_until(WAIT, || descendants(m.daemon.pid()).into_iter().nth(n % 3));
                victim.into_iter().for_each(|pid| _ = kill(pid, Signal::SIGKILL));
                m.check();
                at = next;
            }
            unlinked(&m);
            Ok(())
        }),
        case("daemon_killed_in_between", ONE, |fs| {
            let mut m = started(fs, &[To::Module, To::Local], MIB / 2)?;
            for (from, to) in [("a", "b"), ("b", "c"), ("c", "d")] {
                m.src.rename(from, to);
                m.daemon.kill();
                m.restart(crate::fixture::daemon::Until::Reconciled);
                m.check();
            }
            unlinked(&m);
            Ok(())
        }),
    ]
}
