//! Busy directories that do not matter are muted in the kernel, and reported again when they do.

use crate::fixture::fs::{ALL, Fs, Mount};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::{Dir, Times};
use crate::fixture::{Case, Mirror, Setup, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("outside", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            m.out.mkdirs("hot/below");
            heat(&m, &m.out, "hot");
            // All of it comes inside at once; then it is written.
            m.out.rename_to("hot", &m.src, "came");
            m.src.write("came/f 1", b"behind the move");
            m.src.write("came/below/f", b"new");
            m.check();
            m.src.write("came/f 2", b"later");
            m.src.remove("came/f 3");
            m.check();
            Ok(())
        }),
        case("outside_and_racing", &[Fs::Ext4, Fs::Xfs], |fs| {
            let m = Setup::new(fs).start()?;
            m.out.mkdir("hot");
            heat(&m, &m.out, "hot");
            for round in 0..20 {
                // In, written, out, written, and in again, without giving the daemon time.
                m.out.rename_to("hot", &m.src, "in");
                m.src.write("in/f 1", format!("{round}"));
                m.src.rename_to("in", &m.out, "hot");
                for n in 0..300 {
                    m.out.write(format!("hot/f {n}"), format!("{round} of {n}"));
                }
                m.out.rename_to("hot", &m.src, "in");
                m.src.write("in/f 2", format!("{round}"));
                if round % 4 == 0 {
                    m.check();
                }
                m.src.rename_to("in", &m.out, "hot");
            }
            m.out.rename_to("hot", &m.src, "in");
            m.check();
            m.src.write("in/f 5", b"the end");
            m.check();
            Ok(())
        }),
        case("excluded", ALL, |fs| {
            let m = Setup::new(fs).exclude(&["/cache/", "/a/tmp/"]).start()?;
            m.src.mkdirs("cache/below");
            m.src.mkdirs("a/tmp");
            heat(&m, &m.src, "cache");
            let shown = m.daemon.does(&["explain", m.src.at("cache/f 1").to_str().expect("text")]);
            assert!(shown.contains("  muted   its directory is left out and busy"), "{shown}");
            let shown = m.daemon.does(&["explain", m.src.at("a").to_str().expect("text")]);
            assert!(!shown.contains("  muted "), "{shown}");
            heat(&m, &m.src, "a/tmp");
            m.src.rename("cache", "kept");
            m.src.write("kept/f 1", b"behind the move");
            m.check_but(Times::NotOfDirs, &|path| path.starts_with("a/tmp"));
            m.src.rename("a", "b");
            m.src.write("b/tmp/f 1", b"behind the move of what is above");
            m.check();
            m.src.write("b/tmp/f 2", b"later");
            m.src.write("kept/f 2", b"later");
            m.check();
            Ok(())
        }),
        case("unrelated_mounts", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).start()?;
            m.out.mkdir("hot");
            heat(&m, &m.out, "hot");
            let muted = |m: &Mirror| m.daemon.status().mirrors[0].muted_directories;
            let before = muted(&m);
            for n in 0..5 {
                drop(Mount::tmpfs(&m.scratch(&format!("elsewhere {n}"))));
                m.daemon.flush(None);
                assert!(muted(&m) >= before, "a mount that does not concern the source took the marks away");
            }
            // One below the source may show what lies outside.
            m.out.write("hot/shown", b"1");
            let _mount = Mount::bind(&m.out.at("hot"), &m.src.at("inside"));
            let received = || (muted(&m) == 0).then_some(());
            assert!(poll_until(WAIT, received).is_some(), "still muted although it is visible below the source");
            m.check();
            m.src.write("inside/f 1", b"seen through the mount");
            m.check();
            Ok(())
        }),
        case("deleted_and_made_again_inside", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).start()?;
            m.out.mkdir("hot");
            heat(&m, &m.out, "hot");
            std::fs::remove_dir_all(m.out.at("hot")).expect("a directory can be removed");
            // On ext4 it gets the same inode number.
            m.src.mkdir("fresh");
            m.src.write("fresh/f", b"1");
            m.check();
            m.src.write("fresh/f", b"2");
            m.check();
            Ok(())
        }),
        case("spares_the_daemon", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).start()?;
            m.out.mkdir("hot");
            heat(&m, &m.out, "hot");
            // What was queued before the mark is counted before.
            m.check();
            let before = m.daemon.status().mirrors[0].events;
            for n in 0..5_000 {
                // One after the other, so that the kernel cannot merge them.
                m.out.write(format!("hot/f {}", n % 500), format!("{n}"));
            }
            m.check();
            let received = m.daemon.status().mirrors[0].events - before;
            // The kernel may have evicted the mark; then it takes 200 events to earn another.
            assert!(received < 1_000, "{received} events of a muted directory");
            Ok(())
        }),
    ]
}

/// Writes files in `dir` until it is muted: until they raise no events any more.
#[track_caller]
pub fn heat(m: &Mirror, tree: &Dir, dir: &str) {
    let events = || {
        m.daemon.flush(None);
        m.daemon.status().mirrors[0].events
    };
    let (mut n, mut received) = (0, 0);
    let done = poll_until(WAIT, || {
        let before = events();
        for _ in 0..100 {
            tree.write(format!("{dir}/f {}", n % 500), format!("{n}"));
            n += 1;
        }
        received = events() - before;
        (received < 10 && m.daemon.status().mirrors[0].muted_directories > 0).then_some(())
    });
    assert!(done.is_some(), "{dir} was not muted after {n} files: the last 100 raised {received} events");
}
