//! What rsync writes decides what is confirmed: paths that it names in its many ways, and lines
//! that it is not known to write.

use std::process::Command;

use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::must;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Setup, To, case};
use crate::outages::program;

/// Hands on to rsync, and writes a line that no rsync writes where a run carries something.
pub const TALKS: &str = r#"
case " $* " in *" -n "* | *" -VV "* | *" --version "*) exec rsync "$@" ;; esac
echo "the frobnicator was skipped for some file" >&2
exec rsync "$@"
"#;

/// Writes a line in every run, as a remote shell with a banner does; with a time of day in it.
const GREETS: &str = r#"
case " $* " in *" -VV "* | *" --version "*) exec rsync "$@" ;; esac
echo "Welcome to this host, it is $(date +%s%N)" >&2
exec rsync "$@"
"#;

/// Hands on to rsync; once, at the end of a run, a file is replaced by a directory, and called
/// unreadable. The daemon has seen that by the time that the run ends.
const REPLACED: &str = r#"
case " $* " in *" -n "* | *" -VV "* | *" --version "*) exec rsync "$@" ;; esac
if [ -e 'ARMED' ]; then
    src=$(cat 'ARMED')
    rsync "$@"
    rm "$src/d/bad"
    mkdir -p "$src/d/bad/deep"
    echo new >"$src/d/bad/deep/f"
    sleep 1
    rm 'ARMED'
    echo "rsync: [sender] send_files failed to open \"$src/d/bad\": Input/output error (5)" >&2
    echo "rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1338) [sender=3.5.0]" >&2
    exit 23
fi
exec rsync "$@"
"#;

/// A run that carries something takes longer than the pauses between the first attempts. At the end
/// of the first ones the file changes once more.
const CHANGES_ON: &str = r#"
case " $* " in *" -n "* | *" -VV "* | *" --version "*) exec rsync "$@" ;; esac
rsync "$@"
code=$?
if [ -s 'LEFT' ]; then
    at=$(head -n 1 'LEFT')
    sed -i 1d 'LEFT'
    echo "$at" >"$at"
    sleep 0.4
fi
[ "$code" = 0 ] || sleep 0.4
exit "$code"
"#;

fn chattr(flag: &str, at: std::path::PathBuf) {
    must(Command::new("chattr").arg(flag).arg(at));
}

fn tree(src: &Dir) {
    src.mkdirs("d/e");
    src.write("d/bad", b"newer content");
    src.write("d/good", b"good");
    src.symlink("good", "d/link");
    src.write("d/e/f", b"f");
}

pub fn cases() -> Vec<Case> {
    vec![
        case("a_file_that_cannot_be_replaced_stays_a_failure_after_a_comparison", &[Fs::Tmpfs], |fs| {
            for to in [To::Module, To::Local, To::Ssh] {
                let bad = |dst: &Dir| {
                    dst.mkdirs("d");
                    dst.write("d/bad", b"old");
                    chattr("+i", dst.at("d/bad"));
                };
                let m = Setup::new(fs).targets(&[to]).target_key("retry_min", "50ms").target_key("retry_max", "300ms");
                let m = m.while_reconciling().before(tree).before_on_target(bad).start()?;
                let status = m.daemon.target_status_until("t1", "the failing path", |t| !t.failures.is_empty());
                let flushed = m.daemon.try_flush(std::time::Duration::from_secs(2));
                let old = m.dst().read("d/bad");
                chattr("-i", m.dst().at("d/bad"));
                let paths: Vec<&str> = status.failures.iter().map(|f| &*f.path).collect();
                assert_eq!(paths, ["d/bad"], "{to:?}");
                assert!(status.failures[0].reason.contains("rename"), "{to:?}: {status:?}");
                assert!(flushed.is_err(), "{to:?}: flush says that a path that failed is there");
                assert_eq!(old.as_deref(), Some(&b"old"[..]));
                assert!(m.dst().has("d/e/f"), "{to:?}: what is beside it was not sent");
                m.daemon.does(&["retry"]);
                m.check();
                assert_eq!(m.dst().read("d/bad").as_deref(), Some(&b"newer content"[..]), "{to:?}");
            }
            Ok(())
        }),
        case("a_symbolic_link_that_the_target_refuses_stays_a_failure_after_a_comparison", &[Fs::Tmpfs], |fs| {
            for to in [To::Module, To::Local, To::Ssh] {
                let refuses = |dst: &Dir| {
                    dst.mkdirs("links");
                    chattr("+i", dst.at("links"));
                };
                let m = Setup::new(fs).targets(&[to]).target_key("retry_min", "50ms").target_key("retry_max", "3s");
                let m = m.while_reconciling().before_on_target(refuses).before(|src| {
                    tree(src);
                    src.mkdir("links");
                    src.symlink("../d/good", "links/l");
                });
                let m = m.start()?;
                let refused = |t: &crate::fixture::daemon::TargetStatus| {
                    t.state == "failing" && t.failures.iter().any(|f| f.path == "links/l" && f.reason.contains("symlink"))
                };
                let status = m.daemon.target_status_until("t1", "the link", refused);
                let flushed = m.daemon.try_flush(std::time::Duration::from_secs(2));
                let there = m.dst().has("links/l");
                chattr("-i", m.dst().at("links"));
                assert!(flushed.is_err() && !there, "{to:?}: flush says that a link is there which the target refuses");
                // Its directory keeps its own times, and nothing else fails.
                assert!(status.failures.iter().all(|f| f.path == "links/l" || f.path == "links"), "{to:?}: {status:?}");
                assert!(m.dst().has("d/e/f") && m.dst().has("d/link"), "{to:?}: what is beside it was not sent");
                m.daemon.does(&["retry"]);
                m.check();
            }
            Ok(())
        }),
        // What was a file when rsync could not read it is a directory when it is tried by itself.
        case("a_place_left_alone_becomes_a_directory", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let dir = work_dir();
            let armed = dir.path().join("armed");
            let rsync = program(&dir.path().join("reads"), &REPLACED.replace("ARMED", &armed.display().to_string()));
            let m = Setup::new(fs).rsync(rsync).target_key("standby", 0).target_key("retry_min", "50ms").before(tree).start()?;
            m.check();
            std::fs::write(&armed, m.src.root().display().to_string()).expect("there is room");
            m.daemon.reconcile();
            let taken = || (!armed.exists()).then_some(());
            assert!(crate::fixture::proc::poll_until(crate::fixture::WAIT, taken).is_some(), "no comparison");
            m.check();
            assert!(m.dst().has("d/bad/deep/f"));
            Ok(())
        }),
        case("a_path_that_changes_while_it_fails_becomes_a_failure", &[Fs::Tmpfs], |fs| {
            let dir = work_dir();
            let left = dir.path().join("left");
            let rsync = program(&dir.path().join("rsync"), &CHANGES_ON.replace("LEFT", &left.display().to_string()));
            let m = Setup::new(fs).rsync(rsync).target_key("standby", 0).target_key("jobs", 1);
            // The pauses of a failure are long: of it alone nothing runs on.
            let m = m.target_key("retry_min", "10m").target_key("retry_max", "20m").before(tree).start()?;
            m.check();
            for (what, name) in [("a file", "d/bad"), ("a directory with it", "d")] {
                // A name that rsync cannot replace, and one below which it can make nothing.
                chattr("+i", m.dst().at(name));
                let at = m.src.at("d/bad").display().to_string();
                std::fs::write(&left, format!("{at}\n").repeat(6)).expect("there is room");
                m.src.write("d/bad", what.as_bytes());
                let changed = || std::fs::metadata(&left).is_ok_and(|stat| stat.len() == 0).then_some(());
                let changed = crate::fixture::proc::poll_until(crate::fixture::WAIT, changed).is_some();
                let rests = |t: &crate::fixture::daemon::TargetStatus| !t.failures.is_empty() && t.pending + t.in_flight == 0;
                let status = m.daemon.target_status_until("t1", "the failing path", rests);
                chattr("-i", m.dst().at(name));
                assert!(changed, "{what}: it was not tried after each change");
                assert!(status.failures.iter().any(|f| f.path == "d/bad"), "{what}: {:?}", status.failures);
                m.daemon.does(&["retry"]);
                m.check();
            }
            Ok(())
        }),
        case("each_failing_path_has_its_own_words", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Module]).target_key("retry_min", "50ms").target_key("retry_max", "300ms");
            let m = m.before(tree).start()?;
            chattr("+i", m.dst().at("d/good"));
            chattr("+i", m.dst().at("d/e"));
            m.src.write("d/good", b"longer than it was");
            m.src.write("d/e/new", b"new");
            let both = |t: &crate::fixture::daemon::TargetStatus| t.failures.len() >= 2;
            let status = m.daemon.target_status_until("t1", "both failing paths", both);
            chattr("-i", m.dst().at("d/good"));
            chattr("-i", m.dst().at("d/e"));
            for f in status.failures.iter().filter(|f| f.path != "d/e") {
                let name = f.path.rsplit('/').next().unwrap_or_default();
                assert!(f.reason.contains(name), "{} is shown with the words about another path: {}", f.path, f.reason);
            }
            m.daemon.does(&["retry"]);
            m.check();
            Ok(())
        }),
        case("words_that_are_not_understood_are_shown_and_looked_after", &[Fs::Tmpfs], |fs| {
            let dir = work_dir();
            let rsync = program(&dir.path().join("talks"), TALKS);
            let m = Setup::new(fs).rsync(rsync).target_key("standby", 0).before(tree).start()?;
            m.check();
            m.src.write("d/e/more", b"by events");
            m.src.remove("d/link");
            m.check();
            let status = m.daemon.target_status("t1");
            assert!(status.unknown_words.contains("frobnicator"), "{status:?}");
            assert!(status.bad_runs.contains_key("unproven") && status.failures.is_empty(), "{status:?}");
            Ok(())
        }),
        case("a_greeting_that_comes_with_every_run_is_no_doubt", &[Fs::Tmpfs], |fs| {
            let dir = work_dir();
            let rsync = program(&dir.path().join("greets"), GREETS);
            let m = Setup::new(fs).rsync(rsync).target_key("standby", 0).before(tree).start()?;
            m.check();
            m.src.write("d/e/more", b"by events");
            m.check();
            let status = m.daemon.target_status("t1");
            assert!(status.bad_runs.is_empty() && status.unknown_words.is_empty(), "{status:?}");
            Ok(())
        }),
    ]
}
