//! A first comparison that has to be begun again while the tree changes.

use std::fs;

use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Setup, To, WAIT, case};
use crate::outages::program;

/// The first comparison copies everything and ends as one that could not read a directory; the
/// second begins when it may, and what is compared by a list comes after it.
const CUT_SHORT: &str = r#"
awaits() { while [ ! -e "$0.$1" ]; do sleep 0.01; done; }
case " $* " in
*" --max-delete=0 "*)
    if mkdir "$0.first" 2>/dev/null; then
        rsync "$@"
        echo "IO error encountered -- skipping file deletion"
        exit 23
    elif mkdir "$0.second" 2>/dev/null; then
        awaits go
        rsync "$@"
        code=$?
        : >"$0.counted"
        exit $code
    fi ;;
*" -r "*" --files-from=- "*) awaits counted ;;
esac
exec rsync "$@"
"#;

pub fn cases() -> Vec<Case> {
    vec![case("what_a_first_comparison_copied_itself_is_not_foreign", &[Fs::Ext4, Fs::Tmpfs], |fs| {
        for to in [To::Module, To::Local] {
            let dir = work_dir();
            let rsync = program(&dir.path().join("cut"), CUT_SHORT);
            let m = Setup::new(fs).targets(&[to]).rsync(rsync).while_reconciling();
            let m = m.before(|src| {
                src.mkdir("real");
                (0..300).for_each(|n| src.write(format!("real/{n}"), b"x"));
            });
            let m = m.start()?;
            let second = || dir.path().join("cut.second").exists().then_some(());
            assert!(poll_until(WAIT, second).is_some(), "the comparison was not made again");
            m.src.rename("real", "renamed");
            m.src.mkdir("real");
            m.src.write("real/file", b"another");
            m.daemon.target_status_until("t1", "the rename", |t| t.pending + t.in_flight >= 3);
            fs::write(dir.path().join("cut.go"), b"").expect("a file can be made");
            m.check();
            assert_eq!(m.daemon.target_status("t1").held_deletes, 0, "{to:?}");
            assert!(!m.daemon.log().contains("deletions are held"), "{to:?}: its own copies were taken for foreign files");
        }
        Ok(())
    })]
}
