//! Runs that hang while keep-alives go on.

use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Setup, To, WAIT, case};
use crate::outages::program;

/// Hangs with a list that holds both names, and reads four bytes now and then, as rsync does from a
/// peer that waits. All else it leaves to rsync.
const HANGS: &str = r#"
case " $* " in *" --files-from=- "*) ;; *) exec rsync "$@" ;; esac
list=$(mktemp "$0.XXXXXX")
cat >"$list"
if [ "$(tr '\0' '\n' <"$list" | grep -c knot)" -gt 1 ]; then
    mkfifo "$list.fifo"
    (while :; do printf abcd; sleep 0.2; done >"$list.fifo") &
    exec cat "$list.fifo" >/dev/null
fi
exec rsync "$@" <"$list"
"#;

/// Hangs in each run that compares a tree and makes hard links in it.
const HANGS_LINKING: &str = r#"
case " $* " in *" -r "*) ;; *) exec rsync "$@" ;; esac
case " $* " in *" -H "* | *" --hard-links "*) ;; *) exec rsync "$@" ;; esac
mkfifo "$0.fifo" 2>/dev/null
(while :; do printf abcd; sleep 0.5; done >"$0.fifo") &
exec cat "$0.fifo" >/dev/null
"#;

pub fn cases() -> Vec<Case> {
    vec![
        links_after(),
        case("keep_alives_are_no_progress", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let rsync = program(&work.path().join("rsync"), HANGS);
            let setup = Setup::new(fs).targets(&[To::Local]).rsync(rsync);
            let setup = setup.target_key("timeout", "1s").target_key("connect_timeout", "1s");
            let m = setup.target_key("watchdog", "2s").start()?;
            m.check();
            m.daemon.does(&["pause"]);
            ["a", "knot-1", "knot-2", "z"].iter().for_each(|name| m.src.write(name, b"x"));
            m.daemon.does(&["resume"]);
            let arrived = poll_until(WAIT, || ["a", "knot-1", "knot-2", "z"].iter().all(|f| m.dst().has(f)).then_some(()));
            assert!(arrived.is_some(), "a run that hangs is not ended\n{}", m.daemon.report());
            m.check();
            let log = m.daemon.log();
            assert!(log.contains("did nothing but keep its connection alive"), "{log}");
            assert!(m.daemon.target_status("t1").bad_runs.contains_key("killed"));
            let entries = std::fs::read_dir(work.path()).expect("it is there").flatten();
            let hung = entries.filter(|e| e.file_name().to_string_lossy().ends_with(".fifo")).count();
            assert_eq!(hung, 1, "the list hangs, and its parts do not");
            Ok(())
        }),
    ]
}

fn links_after() -> Case {
    case("a_comparison_that_waits_for_itself_links_afterwards", &[Fs::Tmpfs], |fs| {
        let work = work_dir();
        let rsync = program(&work.path().join("rsync"), HANGS_LINKING);
        let tree = |src: &Dir| {
            for n in 0..50 {
                src.mkdirs(format!("d{n}"));
                src.write(format!("d{n}/one"), format!("file {n}"));
                if n > 0 {
                    src.link(format!("d{n}/one"), format!("d{}/two", n - 1));
                }
            }
        };
        let m = Setup::new(fs).targets(&[To::Local]).carrying(&["hard_links"]).rsync(rsync).before(tree).start()?;
        m.check();
        assert!(m.daemon.log().contains("a run that makes hard links stands still"), "{}", m.daemon.report());
        Ok(())
    })
}
