//! Every class of outcome once, end to end: a program stands in for rsync and hands on to it, but
//! for runs that it is to end with a given code and text. What the run carried has to arrive
//! by a later one.

use std::fs;

use super::refusals::program;
use super::{other_is_well, status_until, tree, two};
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::{Case, case};

/// Plays the script `play`, once, in place of the first run to the module that carries something.
/// The list is read to its end, as rsync does before it sends anything.
const STAND_IN: &str = r#"
for target; do :; done
case " $* " in *" -n "* | *" -VV "* | *" --version "*) exec rsync "$@" ;; esac
case $target in rsync://*) ;; *) exec rsync "$@" ;; esac
mv "${0%/*}/play" "${0%/*}/play.$$" 2>/dev/null || exec rsync "$@"
cat >/dev/null
. "${0%/*}/play.$$"
"#;

/// Class as the status counts it, and what is played.
const PLAYS: &[(&str, &str)] = &[
    ("partial", r#"echo 'rsync: [sender] send_files failed to open "x": Permission denied (13)' >&2; exit 23"#),
    ("partial", "echo 'cannot delete non-empty directory: d'; exit 0"),
    ("partial", "echo 'skipping non-regular file \"d/file\"'; exit 0"),
    ("partial", "echo 'IO error encountered -- skipping file deletion'; exit 0"),
    ("partial", "echo 'Unable to create partial-dir for d/file -- discarding completed file.' >&2; exit 0"),
    ("partial", "exit 13"),
    ("unproven", "echo 'cannot frobnicate d/file' >&2; exit 0"),
    ("source_race", "exit 24"),
    ("source_race", "echo 'file has vanished: \"d/x\"' >&2; exit 2"),
    ("source_race", "echo 'ABORTING due to invalid path from sender: d/file' >&2; exit 2"),
    ("no_missing_args", "echo 'invalid file mode 00 for gone [Receiver]' >&2; exit 2"),
    ("deletes_held", "echo 'Deletions stopped due to --max-delete limit (3 skipped)' >&2; exit 0"),
    ("deletes_held", "echo 'Deletions stopped due to --max-delete limit (3 skipped)' >&2; exit 25"),
    ("source_root", "exit 3"),
    ("target_missing", r#"echo 'rsync: [Receiver] change_dir#3 "/t/." failed: No such file or directory (2)' >&2; exit 3"#),
    ("target_full", r#"echo 'rsync: [receiver] write failed on "/d/file" (in t1): No space left on device (28)' >&2; exit 11"#),
    ("target_down", "exit 10"),
    ("target_down", "exit 11"),
    ("target_down", "echo 'rsync: connection unexpectedly closed (0 bytes received so far) [sender]' >&2; exit 12"),
    ("target_down", "echo 'rsync error: timeout waiting for daemon connection (code 35)' >&2; exit 35"),
    ("target_down", "exit 255"),
    ("timed_out", "exit 30"),
    ("busy", "echo '@ERROR: max connections (1) reached -- try again later' >&2; exit 5"),
    ("refused", "echo 'rsync: The server is configured to refuse --delete' >&2; exit 4"),
    ("config", "echo \"@ERROR: Unknown module 't1'\" >&2; exit 5"),
    ("config", "echo 'ERROR: module is read only' >&2; exit 1"),
    ("killed", "exit 20"),
    ("killed", "kill -9 $$"),
    ("unknown", "exit 99"),
];

pub fn cases() -> Vec<Case> {
    vec![
        case("every_outcome", &[Fs::Tmpfs], |fs| {
            let dir = work_dir();
            let rsync = program(&dir.path().join("stand-in"), STAND_IN);
            let m = two(fs).rsync(rsync).target_key("standby", 0).before(tree).start()?;
            m.check();
            let play = dir.path().join("play");
            for (round, (class, script)) in PLAYS.iter().enumerate() {
                let count = |t: &crate::fixture::daemon::TargetStatus| t.bad_runs.get(*class).copied().unwrap_or(0);
                let before = count(&m.daemon.target_status("t1"));
                fs::write(&play, script).expect("a play can be written");
                m.src.write("d/file", format!("round {round}"));
                m.src.mkdirs(format!("new {round}"));
                m.src.write(format!("gone {round}"), b"x");
                m.src.remove(format!("gone {round}"));
                status_until(&m, &format!("a run of class {class} after `{script}`"), |t| count(t) == before + 1);
                other_is_well(&m);
                m.check();
                assert!(m.daemon.target_status("t1").failures.is_empty(), "a failure is left of `{script}`");
            }
            Ok(())
        }),
        case("every_outcome_of_a_pass_over_the_tree", &[Fs::Tmpfs], |fs| {
            for (class, script) in PLAYS {
                let dir = work_dir();
                let rsync = program(&dir.path().join("stand-in"), STAND_IN);
                fs::write(dir.path().join("play"), script).expect("a play can be written");
                let m = two(fs).rsync(rsync).target_key("standby", 0).before(tree).while_reconciling().start()?;
                if *class == "deletes_held" {
                    // A first comparison is bounded by `--max-delete=0` itself, and goes on from
                    // what that counts.
                    m.check();
                    continue;
                }
                let met = status_until(&m, &format!("a run of class {class} after `{script}`"), |t| !t.bad_runs.is_empty());
                assert_eq!(met.bad_runs.keys().collect::<Vec<_>>(), [class], "after `{script}`");
                m.check();
            }
            Ok(())
        }),
    ]
}
