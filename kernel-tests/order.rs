//! A link arrives after the tree that it leads to.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::fs::{Fs, needs, work_dir};
use crate::fixture::proc::{must, poll_until};
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Setup, To, WAIT, case};
use crate::outages::program;

/// Files of the tree.
const FILES: usize = 400;

/// Once `hold` is there, runs with a list show it and wait for `go`. What has run is noted in the
/// order of the ends.
const IN_STEPS: &str = r#"
case " $* " in *" -n "* | *" -VV "* | *" --version "* | *" --max-delete=0 "*) exec rsync "$@" ;; esac
list="$0.list.$$"
cat >"$list"
if [ -e "$0.hold" ]; then
    tr '\0' '\n' <"$list" >"$0.waits.$$"
    while [ ! -e "$0.go" ]; do sleep 0.01; done
fi
rsync "$@" <"$list"
code=$?
tr '\0' '\n' <"$list" | sed 's/^/ran /' >>"$0.ran"
rm -f "$list"
exit $code
"#;

fn tree(src: &Dir, release: &str) {
    src.mkdirs(release);
    (0..FILES).for_each(|n| src.write(format!("{release}/{n}"), b"content"));
}

/// Whether some list that waits holds this line.
fn waits(dir: &Path, line: &str) -> bool {
    let names = fs::read_dir(dir).expect("it can be read").flatten().map(|e| e.path());
    let waiting = names.filter(|at| at.to_string_lossy().contains("steps.waits."));
    waiting.flat_map(fs::read_to_string).any(|text| text.lines().any(|l| l.trim_start_matches("./") == line))
}

pub fn cases() -> Vec<Case> {
    vec![
        case("a_link_leaves_after_the_tree_it_leads_to", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            for to in [To::Module, To::Local, To::Ssh] {
                in_order(fs, to)?;
            }
            Ok(())
        }),
        case("a_link_waits_for_nothing_that_fails_or_came_later", &[Fs::Tmpfs], |fs_| {
            needs("chattr")?;
            let m = Setup::new(fs_).start()?;
            m.src.mkdirs("r/1");
            m.src.symlink("..", "r/1/up");
            m.src.symlink("other", "self");
            m.src.symlink("self", "other");
            m.src.symlink("r/1", "current");
            m.src.symlink(m.src.at("r/1"), "absolute");
            m.check();
            // What its tree cannot bring does not hold it.
            must(Command::new("chattr").arg("+i").arg(m.dst().at("r/1")));
            m.src.write("r/1/f", b"x");
            m.src.remove("current");
            m.src.symlink("./r/1", "current");
            let there = || (fs::read_link(m.dst().at("current")).ok()?.as_os_str() == "./r/1").then_some(());
            let arrived = poll_until(WAIT, there);
            must(Command::new("chattr").arg("-i").arg(m.dst().at("r/1")));
            assert!(arrived.is_some(), "a file that fails holds the link to its tree");
            m.daemon.does(&["retry"]);
            m.check();
            Ok(())
        }),
    ]
}

fn in_order(fs_: Fs, to: To) -> crate::fixture::Run<()> {
    let dir = work_dir();
    let rsync = program(&dir.path().join("steps"), IN_STEPS);
    let m = Setup::new(fs_).targets(&[to]).rsync(rsync).target_key("standby", 0).target_key("small_jobs", 8).start()?;
    tree(&m.src, "r/1");
    m.src.symlink("r/1", "current");
    m.check();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("steps.hold"), b"").expect("a file can be made");
    // At one go: runs that wait keep their lanes, and some have to be left.
    m.daemon.freeze();
    tree(&m.src, "r/2");
    m.daemon.thaw();
    // In flight, or ready to be: whatever is small overtakes it.
    let begun =
        || fs::read_dir(dir.path()).ok()?.flatten().any(|e| e.file_name().to_string_lossy().contains(".waits.")).then_some(());
    assert!(poll_until(WAIT, begun).is_some(), "nothing of the tree leaves");
    m.src.symlink("r/2", "next");
    m.src.rename("next", "current");
    m.src.write("small", b"x");
    std::fs::remove_dir_all(m.src.at("r/1")).expect("it is there");
    // What need not wait leaves now, and shows that what came before it was looked at.
    let small = || waits(dir.path(), "small").then_some(());
    assert!(poll_until(WAIT, small).is_some(), "{to:?}: a small change waits for the tree\n{}", m.daemon.report());
    assert!(!waits(dir.path(), "current"), "{to:?}: the link leaves before its tree");
    assert!(!waits(dir.path(), "r/1"), "{to:?}: the old tree is deleted before the link is switched");
    fs::write(at("steps.go"), b"").expect("a file can be made");
    m.check();
    let ran = fs::read_to_string(at("steps.ran")).expect("runs were noted");
    let lines: Vec<&str> = ran.lines().map(|l| l.trim_start_matches("ran ").trim_start_matches("./")).collect();
    let link = lines.iter().rposition(|l| *l == "current").unwrap_or_else(|| panic!("no list holds the link:\n{ran}"));
    let tree = lines.iter().rposition(|l| l.starts_with("r/2/")).unwrap_or_else(|| panic!("no list holds the tree:\n{ran}"));
    assert!(tree < link, "{to:?}: {} came after the link", lines[tree]);
    let old = lines.iter().rposition(|l| l.starts_with("r/1"));
    assert!(old.is_some_and(|at| at > link), "{to:?}: the old tree went before the link was switched");
    Ok(())
}
