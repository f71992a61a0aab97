//! Many changes at once: more than any queue should have to hold, and whole trees as people copy
//! and remove them.

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::{Dir, count};
use crate::fixture::{Case, Mirror, Setup, WAIT, case, real};

use std::path::Path;
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    vec![
        case("more_paths_than_may_be_pending", &[Fs::Tmpfs], |fs| {
            const MOST: u64 = 2_000;
            let m = Setup::new(fs).batch("max_pending", MOST as i64).before(|src| {
                (0..50).for_each(|d| src.mkdirs(format!("old{d}")));
                (0..2_000).for_each(|n| src.write(format!("old{}/{n}", n % 50), b"old"));
            });
            let mut m = m.start()?;
            m.check();
            m.rsyncd.as_mut().expect("t1 is a module").stop();
            // In few directories, in many, at the top, and below one that goes.
            let mut seen = 0;
            for n in 0..40_000 {
                match n % 4 {
                    0 => m.src.write(format!("old{}/{n}", n % 50), b"x"),
                    1 if n % 200 == 1 => m.src.mkdirs(format!("new{}/sub", n / 200)),
                    1 => m.src.write(format!("new{}/sub/{n}", n / 200), b"x"),
                    2 => m.src.write(format!("{n}"), b"x"),
                    _ => m.src.write(format!("old{}/{}", n % 50, n % 2_000), b"new"),
                }
                if n % 2_000 == 0 {
                    seen = seen.max(m.daemon.target_status("t1").pending);
                }
            }
            (0..10).for_each(|d| m.src.remove(format!("old{d}")));
            // It cannot be done, but every event has been read after it.
            assert!(m.daemon.try_flush(Duration::from_secs(3)).is_err(), "flushed to a dead target");
            let status = m.daemon.target_status("t1");
            assert!(seen.max(status.pending) <= MOST, "{seen} and {} paths pending, with a bound of {MOST}", status.pending);
            assert!(status.coarsened > 0, "{status:?}");
            m.rsyncd.as_mut().expect("t1 is a module").restart();
            m.check();
            Ok(())
        }),
        case("ten_thousand_files", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            files(&m.src, 10_000);
            m.check();
            for n in (0..10_000).step_by(3) {
                m.src.write(path(n), format!("changed {n}"));
            }
            for n in (1..10_000).step_by(3) {
                m.src.remove(path(n));
            }
            m.check();
            Ok(())
        }),
        case("more_than_may_be_pending", ALL, |fs| {
            let m = Setup::new(fs).batch("max_pending", 1_000).batch("max_paths", 300).start()?;
            files(&m.src, 5_000);
            m.check();
            for n in (0..5_000).step_by(2) {
                m.src.write(path(n), format!("changed {n}"));
                m.src.remove(path(n + 1));
            }
            m.src.rename("d1", "moved");
            m.check();
            Ok(())
        }),
        case("a_huge_file_holds_up_no_small_one", &[Fs::Tmpfs], |fs| {
            // The huge one takes ten seconds at this rate.
            let m = Setup::new(fs).target_key("args", vec!["--bwlimit=400"]).start()?;
            m.src.write("huge", vec![7; 4 << 20]);
            let begun = |m: &Mirror| {
                std::fs::read_dir(m.dst().root())
                    .is_ok_and(|mut l| l.any(|e| e.is_ok_and(|e| e.file_name().as_encoded_bytes().starts_with(b".huge"))))
            };
            assert!(poll_until(WAIT, || begun(&m).then_some(())).is_some(), "the huge file is not being sent");
            for n in 0..20 {
                m.src.write(format!("small {n}"), b"one of many");
            }
            let all = || (0..20).all(|n| m.dst().has(format!("small {n}"))).then_some(());
            assert!(poll_until(WAIT, all).is_some(), "small files did not arrive");
            assert!(!m.dst().has("huge") && begun(&m), "they arrived after the huge one");
            Ok(())
        }),
        case("no_spinning_while_a_flood_waits_for_its_job", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).target_key("jobs", 1).target_key("args", vec!["--bwlimit=400"]).start()?;
            // Each is pending whole before any of it leaves.
            let send = |dir: &str, many: u64, len: usize| {
                m.daemon.does(&["pause"]);
                m.src.mkdir(dir);
                (0..many).for_each(|n| m.src.write(format!("{dir}/{n}"), vec![7; len]));
                m.daemon.target_status_until("t1", "has all of it pending", |t| t.pending > many);
                m.daemon.does(&["resume"]);
            };
            send("first", 300, 4 << 10);
            m.daemon.target_status_until("t1", "sends the first", |t| t.in_flight > 0 && t.pending == 0);
            send("second", 600, 1);
            let (begun, cpu) = (Instant::now(), m.daemon.cpu());
            let all = || (0..600).all(|n| m.dst().has(format!("second/{n}"))).then_some(());
            assert!(poll_until(WAIT, all).is_some(), "the second did not arrive");
            let (took, cpu) = (begun.elapsed(), m.daemon.cpu() - cpu);
            assert!(cpu < took / 8 + Duration::from_millis(100), "{cpu:?} of CPU in {took:?}");
            m.check();
            Ok(())
        }),
        case("ten_thousand_in_one_dir", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            m.src.mkdir("d");
            for n in 0..10_000 {
                m.src.write(format!("d/{n}"), format!("{n}"));
            }
            m.check();
            m.src.remove("d");
            m.check();
            Ok(())
        }),
        case("real_tree_copied_and_removed", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            m.src.mkdir("copy");
            real::copy_into(&Dir::new(m.src.at("copy")))?;
            m.check();
            let entries = count(&m.dst().at("copy")).expect("the target can be read");
            assert!(entries >= real::ENTRIES, "only {entries} entries were copied");
            m.src.remove("copy");
            m.check();
            Ok(())
        }),
        case("real_tree_moved_in_and_around", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            m.out.mkdir("tree");
            real::copy_into(&Dir::new(m.out.at("tree")))?;
            m.out.rename_to("tree", &m.src, "tree");
            m.check();
            m.src.mkdir("below");
            m.src.rename("tree", "below/tree");
            m.check();
            m.src.rename_to("below/tree", &m.out, "tree");
            m.check();
            Ok(())
        }),
        case("copied_while_it_is_removed", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            // Batches leave while what they list is already going again.
            for round in 0..3 {
                files(&m.src, 2_000);
                for dir in 0..20 {
                    m.src.remove(format!("d{dir}"));
                }
                m.src.write("kept", format!("round {round}"));
            }
            m.check();
            Ok(())
        }),
        case("shared_parents", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            // Every rsync run brings the times of the parents of what it lists: of runs side by
            // side, the last to arrive need not have been the last to look.
            m.src.mkdirs("a/b");
            for round in 0..8 {
                for n in 0..700 {
                    m.src.write(format!("{round}-{n}"), b"in the root");
                    if n % 5 == 0 {
                        m.src.write(format!("a/b/{round}-{n}"), b"further down");
                    }
                }
                m.check();
            }
            Ok(())
        }),
        case("deep_tree", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            let deep: String = (0..200).map(|n| format!("d{n}/")).collect();
            m.src.mkdirs(&deep);
            let mut at = String::new();
            for n in 0..200 {
                at += &format!("d{n}/");
                m.src.write(format!("{at}file"), &at);
            }
            m.check();
            m.src.rename("d0/d1", "top");
            m.src.write("top/d2/d3/d4/file", b"changed");
            m.check();
            Ok(())
        }),
    ]
}

/// `many` files in 20 directories.
fn files(src: &Dir, many: usize) {
    for n in 0..20 {
        src.mkdirs(format!("d{n}"));
    }
    for n in 0..many {
        src.write(path(n), format!("{n}"));
    }
}

fn path(n: usize) -> impl AsRef<Path> {
    format!("d{}/{n}", n % 20)
}
