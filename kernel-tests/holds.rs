//! A source that is not what it was, and deletions that are too many: nothing is deleted before an
//! administrator says so.

mod bounds;
mod emptied;
mod vanished;

use std::path::Path;

use crate::fixture::daemon::{Config, Daemon, MirrorTable, TargetStatus, TargetTable, Until};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, WAIT};

pub fn cases() -> Vec<Case> {
    [vanished::cases(), emptied::cases(), bounds::cases()].into_iter().flatten().collect()
}

/// Forty entries in twenty directories.
fn twenty(src: &Dir) {
    for n in 0..20 {
        src.mkdirs(format!("d{n}"));
        src.write(format!("d{n}/f"), format!("{n}"));
    }
}

/// So fast that fansync sees nothing of it before it is done.
fn at_once(m: &Mirror, act: impl FnOnce()) {
    m.daemon.freeze();
    act();
    m.daemon.thaw();
}

#[track_caller]
fn keeps_twenty(m: &Mirror) {
    for target in &m.targets {
        (0..20).for_each(|n| assert!(target.dir.has(format!("d{n}/f")), "d{n}/f is gone from {}", target.name));
    }
}

#[track_caller]
fn until_held(daemon: &Daemon, words: &str) -> String {
    let held = poll_until(WAIT, || {
        let held = daemon.try_status()?.mirrors.remove(0).held;
        (!held.is_empty() && held.contains(words)).then_some(held)
    });
    held.unwrap_or_else(|| panic!("the mirror is not held for {words:?}\n{}", daemon.report()))
}

/// Waits until a place is held for a reason with `words`, and the mirror is not; every target says
/// so as well, and so does the log.
#[track_caller]
pub(crate) fn place_held(m: &Mirror, path: &str, words: &str) {
    let held = poll_until(WAIT, || {
        let mirror = m.daemon.try_status()?.mirrors.remove(0);
        let place = mirror.apart.iter().any(|p| p.held && p.path == path && p.why.contains(words));
        let shown = |t: &TargetStatus| t.state == "held" && t.reason.contains(words);
        (mirror.held.is_empty() && place && mirror.targets.iter().all(shown)).then_some(())
    });
    assert!(held.is_some(), "{path} is not held for {words:?}\n{}", m.daemon.report());
    assert!(m.daemon.log().contains("fansync resume --accept-source"), "the log does not say what to do");
}

/// Waits until the mirror is held for a reason with `words`; every target says so as well, and so
/// does the log.
#[track_caller]
fn held(m: &Mirror, words: &str) {
    until_held(&m.daemon, words);
    let status = m.daemon.status();
    for target in &status.mirrors[0].targets {
        assert!(target.state == "held" && target.reason.contains(words), "{target:?}");
    }
    // A thread of its own writes the log.
    let logged = || m.daemon.log().contains("fansync resume --accept-source").then_some(());
    assert!(poll_until(WAIT, logged).is_some(), "the log does not say what to do");
}

#[track_caller]
fn accept(m: &Mirror) {
    m.daemon.does(&["resume", "--accept-source"]);
}

#[track_caller]
fn arrives(m: &Mirror, path: &str) {
    assert!(poll_until(WAIT, || m.dst().has(path).then_some(())).is_some(), "{path} does not arrive");
}

fn started(work: &Path, source: &Path) -> (Daemon, Dir) {
    let target = Dir::new(work.join("t"));
    target.mkdir(".");
    let (daemon, target) = started_before(work, source, target);
    daemon.flush(None);
    (daemon, target)
}

fn started_before(work: &Path, source: &Path, target: Dir) -> (Daemon, Dir) {
    let table = TargetTable { name: "t1".into(), url: target.root().display().to_string(), ..TargetTable::default() };
    let mirror = MirrorTable { name: "mirror".into(), source: source.into(), target: vec![table], ..MirrorTable::default() };
    (Daemon::run(work, &Config::new(work, vec![mirror]), Until::Watching), target)
}
