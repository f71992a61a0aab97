//! Outages and faults of targets, one by one. In each: the other target gets its changes meanwhile,
//! the status says what is wrong, and when the fault is over everything arrives, without a restart.

mod faults;
mod plays;
mod refusals;
mod silent;

pub use refusals::program;

use std::path::Path;
use std::process::Command;

use crate::fixture::daemon::TargetStatus;
use crate::fixture::fs::Fs;
use crate::fixture::proc::{must, poll_until};
use crate::fixture::rsyncd::Rsyncd;
use crate::fixture::tree::{Dir, Times, differences};
use crate::fixture::{Case, Mirror, Setup, To, WAIT};

pub fn cases() -> Vec<Case> {
    [faults::cases(), refusals::cases(), silent::cases(), plays::cases()].into_iter().flatten().collect()
}

/// The target that has the fault, a module with short pauses, and one beside it.
fn two(fs: Fs) -> Setup {
    let setup = Setup::new(fs).targets(&[To::Module, To::Local]);
    setup.target_key("retry_min", "50ms").target_key("retry_max", "300ms")
}

fn rsyncd(m: &mut Mirror) -> &mut Rsyncd {
    m.rsyncd.as_mut().expect("the first target is a module")
}

fn tree(src: &Dir) {
    src.mkdirs("d/sub");
    src.write("d/file", b"one");
    src.write("d/sub/file", b"two");
    src.symlink("file", "d/link");
}

/// A change made now is on the other target soon.
#[track_caller]
fn other_is_well(m: &Mirror) {
    m.src.write("for the other", b"whatever befalls the first");
    m.daemon.flush(Some("t2"));
    let found = differences(m.src.root(), m.targets[1].dir.root(), Times::All, &|_| false);
    assert!(found.is_empty(), "the other target lacks something:\n{found}");
}

/// Waits until the first target's status pleases `wanted`; `what` it was, for the message.
#[track_caller]
fn status_until(m: &Mirror, what: &str, wanted: impl Fn(&TargetStatus) -> bool) -> TargetStatus {
    m.daemon.target_status_until("t1", what, wanted)
}

/// Waits until the first target is in `state`, for a reason that holds `words`.
#[track_caller]
fn becomes(m: &Mirror, state: &str, words: &str) {
    let wanted = |t: &TargetStatus| t.state == state && t.reason.contains(words);
    let status = status_until(m, &format!("{state:?} with {words:?}"), wanted);
    assert!(status.retry_seconds < 2.0, "the next try is not shown, or far: {status:?}");
}

/// Everything arrives in time, also what a flush does not wait for: failed paths, and what is
/// looked at again by itself.
#[track_caller]
fn arrives(m: &Mirror) {
    let mut found = String::new();
    let equal = poll_until(WAIT, || {
        found = differences(m.src.root(), m.dst().root(), Times::All, &|_| false);
        found.is_empty().then_some(())
    });
    assert!(equal.is_some(), "the first target still differs:\n{found}");
    m.check();
}

/// Something waits for the first target.
#[track_caller]
fn kept(m: &Mirror) {
    let status = m.daemon.target_status("t1");
    let waits = status.pending + status.in_flight > 0 || !status.failures.is_empty();
    assert!(waits, "nothing waits for the target that has a fault: {status:?}");
}

/// `size` bytes that no other `seed` gives.
fn noise(seed: u8, size: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// What the target has under `path` is one of `versions`, whole.
#[track_caller]
fn whole(dst: &Dir, path: &str, versions: &[&[u8]]) {
    let now = dst.read(path).unwrap_or_else(|| panic!("{path} is gone from the target"));
    assert!(versions.contains(&&now[..]), "{path} is torn on the target: {} bytes of neither version", now.len());
}

/// Waits until the target receives something in its directory `dir`: rsync's temporary file is
/// there.
#[track_caller]
fn while_receiving(dst: &Dir, dir: &str) {
    let temporary = || {
        let names = std::fs::read_dir(dst.at(dir)).ok()?.flatten().map(|e| e.file_name());
        names.into_iter().any(|name| name.as_encoded_bytes().starts_with(b".")).then_some(())
    };
    assert!(poll_until(WAIT, temporary).is_some(), "nothing is received in {dir:?}");
}

/// Sets (`+i`) or takes away (`-i`) the flag that makes a file immutable.
fn chattr(flag: &str, at: &Path) {
    must(Command::new("chattr").arg(flag).arg(at));
}
