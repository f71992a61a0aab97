//! What lies beside a flood leaves while the flood is under way, whatever travelled with it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Setup, To, WAIT, case};
use crate::outages::program;

/// Files of a flood: more than the small lane takes.
const FLOOD: usize = 400;

/// Once `hold` is there, runs whose list has a name below `u` wait for `go`.
const HOLDS_THE_FLOOD: &str = r#"
case " $* " in *" -n "* | *" -VV "* | *" --version "* | *" --max-delete=0 "*) exec rsync "$@" ;; esac
list="$0.list.$$"
cat >"$list"
if [ -e "$0.hold" ] && tr '\0' '\n' <"$list" | grep -q '^\(\./\)\?u/'; then
    : >"$0.waits.$$"
    while [ ! -e "$0.go" ]; do sleep 0.01; done
fi
rsync "$@" <"$list"
code=$?
rm -f "$list"
exit $code
"#;

/// Notes how each run stands behind others: nice value, class for disks, and whether it is a
/// comparison or has a list.
const NOTES_PRIORITY: &str = r#"
case " $* " in
*" -VV "* | *" --version "*) ;;
*" --files-from="*) echo "list $(nice) $(ionice -p $$)" >>"$0.notes" ;;
*) echo "tree $(nice) $(ionice -p $$)" >>"$0.notes" ;;
esac
exec rsync "$@"
"#;

/// Once a run waits.
fn held(dir: &Path) -> Option<()> {
    let mut names = fs::read_dir(dir).ok()?.flatten().map(|e| e.file_name());
    names.any(|name| name.to_string_lossy().contains(".waits.")).then_some(())
}

pub fn cases() -> Vec<Case> {
    vec![
        case("a_directory_that_changed_with_a_flood_is_not_held_up_by_it", &[Fs::Ext4, Fs::Xfs], |fs| {
            for to in [To::Module, To::Local] {
                let dir = work_dir();
                let rsync = program(&dir.path().join("steps"), HOLDS_THE_FLOOD);
                let m = Setup::new(fs).targets(&[to]).rsync(rsync).target_key("standby", 0).start()?;
                ["u", "others", "others/d"].iter().for_each(|path| m.src.mkdir(path));
                let flood =
                    |from: usize, to: usize| (from..to).for_each(|n| m.src.write(format!("u/{n}"), n.to_string().as_bytes()));
                // They are not new to the target, so that they are listed.
                flood(0, FLOOD * 2);
                m.check();
                fs::write(dir.path().join("steps.hold"), b"").expect("a file can be made");
                // At one go: the directory of others is pending together with the flood.
                m.daemon.freeze();
                flood(0, FLOOD);
                m.src.chmod("others", 0o711);
                m.src.chmod("others/d", 0o711);
                flood(FLOOD, FLOOD * 2);
                m.daemon.thaw();
                let begun = || held(dir.path());
                assert!(poll_until(WAIT, begun).is_some(), "{to:?}: the flood does not leave\n{}", m.daemon.report());
                for path in ["others/f", "others/d/f", "others/d/g"] {
                    m.src.write(path, b"of another user");
                    let there = || m.dst().has(path).then_some(());
                    assert!(poll_until(WAIT, there).is_some(), "{to:?}: {path} waits for the flood\n{}", m.daemon.report());
                }
                fs::write(dir.path().join("steps.go"), b"").expect("a file can be made");
                m.check();
            }
            Ok(())
        }),
        case("large_runs_stand_behind_other_processes_where_asked", &[Fs::Tmpfs], |fs| {
            let dir = work_dir();
            let rsync = program(&dir.path().join("steps"), NOTES_PRIORITY);
            let setup = Setup::new(fs).rsync(rsync).target_key("standby", 0);
            let m = setup.target_key("nice", 7).target_key("ionice", "idle").start()?;
            let own = Command::new("nice").output().expect("coreutils are there").stdout;
            let own: i32 = String::from_utf8_lossy(&own).trim().parse().expect("a number");
            let low = (own + 7).min(19);
            let notes = || fs::read_to_string(dir.path().join("steps.notes")).expect("rsync has run");
            m.check();
            assert!(notes().lines().any(|line| line == format!("tree {low} idle")), "the first comparison:\n{}", notes());
            m.src.mkdir("d");
            m.check();
            let before = notes().len();
            m.src.write("d/one", b"of a few");
            m.check();
            let few = notes()[before..].to_owned();
            assert!(few.starts_with(&format!("list {own} ")) && !few.contains("idle"), "a small change:\n{few}");
            let before = notes().len();
            m.daemon.freeze();
            (0..FLOOD).for_each(|n| m.src.write(format!("d/{n}"), b"of many"));
            m.daemon.thaw();
            m.check();
            let many = notes()[before..].to_owned();
            assert!(many.contains(&format!("list {low} idle")), "many changes:\n{many}");
            Ok(())
        }),
        case("few_changes_do_not_wait_for_the_lane_of_a_comparison", &[Fs::Ext4], |fs| {
            let dir = work_dir();
            let rsync = program(&dir.path().join("steps"), HOLDS_THE_FLOOD);
            let m = Setup::new(fs).rsync(rsync).target_key("standby", 0).target_key("jobs", 1).start()?;
            ["u", "others", "new"].iter().for_each(|path| m.src.mkdir(path));
            let outside = m.out.root().join("tree");
            fs::create_dir(&outside).expect("it is not there");
            fs::write(outside.join("f"), b"moved").expect("there is room");
            m.check();
            fs::write(dir.path().join("steps.hold"), b"").expect("a file can be made");
            // A comparison waits for the only bulk lane, which few paths took.
            m.daemon.freeze();
            fs::rename(&outside, m.src.at("new/tree")).expect("one filesystem");
            m.src.write("u/f", b"of one user");
            m.daemon.thaw();
            let begun = || held(dir.path());
            assert!(poll_until(WAIT, begun).is_some(), "it does not leave\n{}", m.daemon.report());
            m.src.write("others/f", b"of another user");
            let there = || m.dst().has("others/f").then_some(());
            assert!(poll_until(WAIT, there).is_some(), "a small change waits for a comparison\n{}", m.daemon.report());
            assert!(!m.dst().has("new/tree/f"), "the comparison found a lane");
            fs::write(dir.path().join("steps.go"), b"").expect("a file can be made");
            m.check();
            Ok(())
        }),
    ]
}
