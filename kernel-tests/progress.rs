//! How far long work is, as the status and the log tell.

use nix::sys::signal::{Signal, kill};

use crate::fixture::daemon::ProgressStatus;
use crate::fixture::fs::Fs;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Run, Setup, WAIT, case};

/// So many files of this size, sent in a good second. rsync tells of each that is through, within
/// one only once a second.
const FILES: usize = 40;
const SIZE: usize = 128 << 10;
const SLOW: &str = "--bwlimit=4m";

pub fn cases() -> Vec<Case> {
    vec![
        case("the_first_pass_tells_how_far_it_is", &[Fs::Tmpfs], first_pass),
        case("rescans_tell_how_far_they_are", &[Fs::Tmpfs], rescans),
    ]
}

fn fill(dir: &Dir, at: &str, with: u8) {
    (0..FILES).for_each(|n| dir.write(format!("{at}{n}"), vec![with; SIZE]));
}

/// Two reports, the second further than the first.
#[track_caller]
fn advances(m: &Mirror, of: impl Fn(&Mirror) -> Option<ProgressStatus>) -> (ProgressStatus, ProgressStatus) {
    let seen = std::cell::RefCell::new(Vec::<ProgressStatus>::new());
    let further = || {
        let now = of(m).filter(|p| p.bytes > 0)?;
        let mut seen = seen.borrow_mut();
        let further = seen.first().is_some_and(|first| first.bytes < now.bytes);
        seen.push(now);
        further.then_some(())
    };
    let shown = crate::fixture::proc::poll_until(WAIT, further);
    let mut seen = seen.into_inner();
    assert!(shown.is_some(), "no two reports, one further than the other: {seen:?}");
    let last = seen.pop().expect("there are two");
    (seen.swap_remove(0), last)
}

fn first_pass(fs: Fs) -> Run<()> {
    let m = Setup::new(fs).target_key("args", vec![SLOW]).before(|src| fill(src, "", b'x')).while_reconciling().start()?;
    let all = FILES as u64 + 1; // with the root
    let counted = |m: &Mirror| m.daemon.target_status("t1").reconcile.filter(|p| p.files_total == all && p.eta_seconds.is_some());
    let (first, last) = advances(&m, counted);
    assert_eq!((first.what.as_str(), last.eta_unknown.as_str()), ("comparing the whole tree", ""));
    assert!(last.bytes <= (FILES * SIZE) as u64 && last.files_done > first.files_done, "{first:?}, {last:?}");
    assert!(last.bytes_per_second > 0.0 && last.seconds > first.seconds, "{first:?}, {last:?}");
    let shown = m.daemon.does(&["status"]);
    assert!(
        shown.contains("    full    comparing the whole tree for ") && shown.contains(&format!(" of {all} files, ")),
        "{shown}"
    );
    m.check();
    assert!(m.daemon.target_status("t1").reconcile.is_none(), "it is over");
    Ok(())
}

fn rescans(fs: Fs) -> Run<()> {
    let m = Setup::new(fs).target_key("args", vec![SLOW]).start()?;
    m.out.mkdir("moved in");
    fill(&m.out, "moved in/", b'y');
    std::fs::rename(m.out.at("moved in"), m.src.at("moved in")).expect("both lie on one filesystem");
    let (_, last) = advances(&m, |m| m.daemon.target_status("t1").passes.into_iter().next());
    assert_eq!(last.what, "comparing moved in");
    m.check();
    assert!(m.daemon.target_status("t1").passes.is_empty(), "it is over");
    // The whole tree, asked for.
    (0..FILES).for_each(|n| m.dst().write(format!("moved in/{n}"), b"spoilt"));
    kill(m.daemon.pid(), Signal::SIGUSR1).expect("the daemon runs");
    let (_, last) = advances(&m, |m| m.daemon.target_status("t1").reconcile);
    assert_eq!((last.what.as_str(), last.files_total), ("comparing the whole tree", FILES as u64 + 2));
    m.check();
    Ok(())
}
