//! The times of a directory in which only names come and go that the mirror leaves out.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::{Dir, Times};
use crate::fixture::{Case, Mirror, Run, Setup, To, WAIT, case};

/// Far more than the runs of a burst of any length, far less than one per event.
const FEW_RUNS: u64 = 20;

pub fn cases() -> Vec<Case> {
    vec![
        case("of_excluded_names", ALL, |fs| come_and_go(Setup::new(fs).exclude(&["*.tmp"]))),
        case("of_excluded_names_with_inotify", &[Fs::Ext4], |fs| {
            come_and_go(Setup::new(fs).exclude(&["*.tmp"]).watch("inotify"))
        }),
        case("of_names_excluded_by_expressions", &[Fs::Ext4], |fs| {
            come_and_go(Setup::new(fs).key("exclude_regex", vec![r"\.tmp$".to_owned()]))
        }),
        case("of_excluded_names_to_other_targets", &[Fs::Tmpfs], |fs| {
            come_and_go(Setup::new(fs).exclude(&["*.tmp"]).targets(&[To::Local, To::Ssh]))
        }),
        case("of_temporary_files", &[Fs::Tmpfs], |fs| {
            let m = given(Setup::new(fs).key("exclude_temporary", true))?;
            m.src.write("d/.hidden", b"x");
            m.src.write("e/text~", b"x");
            same_but(&m, &["d/.hidden", "e/text~"]);
            Ok(())
        }),
        case("arrive_without_a_flush", &[Fs::Tmpfs], |fs| {
            let m = given(Setup::new(fs).exclude(&["*.tmp"]))?;
            m.src.write("d/x.tmp", b"x");
            let same = || (mtime(&m.src, "d") == mtime(m.dst(), "d")).then_some(());
            assert!(poll_until(WAIT, same).is_some(), "the times of a directory do not arrive");
            Ok(())
        }),
        case("cost_no_run_for_each_excluded_name", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = given(Setup::new(fs).exclude(&["*.tmp"]))?;
            let before = m.daemon.target_status("t1").runs;
            for n in 0..10_000 {
                m.src.write("d/x.tmp", b"x");
                m.src.remove("d/x.tmp");
                if n % 100 == 0 {
                    m.src.write(format!("e/{n}.tmp"), b"x");
                }
            }
            same_but(&m, &["e"]);
            assert_eq!(mtime(&m.src, "e"), mtime(m.dst(), "e"));
            let runs = m.daemon.target_status("t1").runs - before;
            assert!(runs <= FEW_RUNS, "{runs} runs");
            Ok(())
        }),
        case("not_sent_to_a_target_without_them", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).exclude(&["*.tmp"]).target_key("args", vec!["-O".to_owned()]).start()?;
            m.src.mkdir("d");
            m.daemon.flush(None);
            let before = m.daemon.target_status("t1").runs;
            m.src.write("d/x.tmp", b"x");
            m.daemon.flush(None);
            assert_eq!(m.daemon.target_status("t1").runs, before);
            Ok(())
        }),
        case("of_a_file_that_is_too_large", &[Fs::Tmpfs], |fs| {
            let m = given(Setup::new(fs).key("max_file_size", "1KiB"))?;
            m.src.write("d/large", [b'x'; 5_000]);
            same_but(&m, &["d/large"]);
            Ok(())
        }),
    ]
}

fn given(setup: Setup) -> Run<Mirror> {
    let m = setup.start()?;
    ["d", "e"].iter().for_each(|dir| m.src.mkdir(dir));
    m.src.write("d/f", b"x");
    m.check();
    Ok(m)
}

fn come_and_go(setup: Setup) -> Run<()> {
    type Step = (&'static str, fn(&Dir));
    let m = given(setup)?;
    let steps: [Step; 7] = [
        ("made", |src| src.write("d/x.tmp", b"x")),
        ("written", |src| src.write("d/x.tmp", b"again")),
        ("linked", |src| std::fs::hard_link(src.at("d/x.tmp"), src.at("d/y.tmp")).expect("it can be linked")),
        ("moved to another directory", |src| src.rename("d/y.tmp", "e/y.tmp")),
        ("removed", |src| src.remove("d/x.tmp")),
        ("a directory", |src| src.mkdirs("d/dir.tmp/sub")),
        ("at the top", |src| src.write("x.tmp", b"x")),
    ];
    for (step, act) in steps {
        // So that a change within the same tick of the clock shows as well.
        ["d", "e", "."].iter().for_each(|dir| m.src.set_mtime(dir, 1_000_000_000, 0));
        m.daemon.flush(None);
        act(&m.src);
        m.daemon.flush(None);
        for dir in ["d", "e", "."] {
            for target in &m.targets {
                assert_eq!(mtime(&m.src, dir), mtime(&target.dir, dir), "{dir}: {step}");
            }
        }
        m.daemon.does(&["verify"]);
    }
    Ok(())
}

/// Source and targets are the same after a flush, times included, but for what is below these
/// paths.
#[track_caller]
fn same_but(m: &Mirror, paths: &[&str]) {
    m.check_but(Times::All, &|path: &Path| paths.iter().any(|left_out| path.starts_with(left_out)));
}

fn mtime(dir: &Dir, path: &str) -> (i64, i64) {
    let meta = std::fs::symlink_metadata(dir.at(path)).expect("it is there");
    (meta.mtime(), meta.mtime_nsec())
}
