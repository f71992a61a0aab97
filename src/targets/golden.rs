//! The golden trace: what a target launches and confirms, for many histories.
//!
//! Each seed is a history of events, time, runs' ends and commands ([`play`]) for a target without
//! an engine, without processes ([`crate::sync::scripted`]) and by a clock of its own. Every launch
//! (arguments and list), every confirmation and every state is written into a text. The texts'
//! hashes are kept in `golden/hashes.txt`, and two texts whole in `golden/*.trace`.
//!
//! A change of the code that is to change nothing changes no line. Where one does, read what
//! changed: every trace in a file of its own, before the change and after it, then `diff -r`.
//!
//! ```text
//! FANSYNC_GOLDEN=dump:/tmp/before cargo test --lib golden
//! FANSYNC_GOLDEN=show:17 cargo test --lib golden -- --nocapture
//! FANSYNC_GOLDEN=renew cargo test --lib golden
//! ```
//!
//! The last keeps the traces as they are now. The commit says which lines changed and why.

mod answers;
mod play;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::Hasher;
use std::path::{Path, PathBuf};

use siphasher::sip::SipHasher24;

use crate::sys::apart::apart;

/// Histories.
const SEEDS: u64 = 220;
/// Those that are kept whole.
const WHOLE: [u64; 2] = [3, 17];

/// What occurs in these histories, so that the trace cannot become hollow: launches by what they
/// are for, verdicts, states.
const OCCURS: &[&str] = &[
    "confirmed: None",
    "confirmed: Some(Changed)",
    "confirmed: Some(Deleted)",
    "confirmed: Some(Directory)",
    "confirmed: Some(Subtree)",
    "flushed",
    "hold Emptied",
    "hold Gone",
    "launch: Clear",
    "launch: Deep",
    "launch: Deep, dry",
    "launch: Deep, proof",
    "launch: Deep, spares",
    "launch: Deep, survey",
    "launch: Deep, without deletions",
    "launch: Full",
    "launch: Full, counting entries",
    "launch: Full, counts",
    "launch: Full, dry",
    "launch: Full, limited",
    "launch: Full, proof",
    "launch: Full, spares",
    "launch: Full, survey",
    "launch: Full, without deletions",
    "launch: LikeOthers",
    "launch: MovedTree",
    "launch: MovedTrees",
    "launch: Shallow",
    "launch: Shallow, dry",
    "launch: Shallow, large",
    "launch: Shallow, proof",
    "launch: Shallow, spares",
    "launch: Shallow, surveyed",
    "launch: Shallow, without deletions",
    "launch: ShallowOneLevel",
    "launch: ShallowOneLevel, dry",
    "launch: ShallowOneLevel, proof",
    "launch: ShallowOneLevel, spares",
    "launch: ShallowOneLevel, survey",
    "launch: ShallowOneLevel, surveyed",
    "launch: ShallowOneLevel, without deletions",
    "launch: probe",
    "launch: standby",
    "launch: stood by",
    "path: held",
    "path: in flight",
    "path: in sync",
    "path: left out",
    "path: pending",
    "path: waiting",
    "restart",
    "signal",
    "state: config",
    "state: down",
    "state: failing",
    "state: held",
    "state: idle",
    "state: paused",
    "state: probing",
    "state: syncing",
    "unwatch",
    "verdict: busy",
    "verdict: config",
    "verdict: deletes_held",
    "verdict: killed",
    "verdict: no_missing_args",
    "verdict: partial",
    "verdict: refused",
    "verdict: source_race",
    "verdict: source_root",
    "verdict: target_down",
    "verdict: target_full",
    "verdict: target_missing",
    "verdict: timed_out",
    "verdict: unknown",
    "verdict: unproven",
    "walk for links",
    "walk for names",
];

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/targets/golden")
}

fn hash(text: &str) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// Plays all seeds, half of them on each of two threads: the text of each, and what occurred in
/// all.
fn all() -> (Vec<String>, BTreeMap<String, u64>) {
    let part = |begin: u64| (begin..SEEDS).step_by(2).map(play::play).collect::<Vec<_>>();
    let (even, odd) = std::thread::scope(|scope| {
        let odd = scope.spawn(|| part(1));
        (part(0), odd.join().expect("the odd seeds"))
    });
    let (mut texts, mut counts) = (Vec::new(), BTreeMap::new());
    let (mut even, mut odd) = (even.into_iter(), odd.into_iter());
    for seed in 0..SEEDS {
        let trace = if seed % 2 == 0 { even.next() } else { odd.next() }.expect("each seed was played");
        trace.counts.into_iter().for_each(|(what, n)| *counts.entry(what).or_default() += n);
        texts.push(trace.text);
    }
    (texts, counts)
}

#[test]
fn histories_leave_the_trace_that_is_kept() {
    apart(); // what it has open is nothing to the children of other tests
    let order = std::env::var("FANSYNC_GOLDEN").unwrap_or_default();
    if let Some(seed) = order.strip_prefix("show:") {
        print!("{}", play::play(seed.parse().expect("a seed")).text);
        return;
    }
    let (texts, counts) = all();
    if let Some(dir) = order.strip_prefix("dump:") {
        std::fs::create_dir_all(dir).expect("the directory");
        for (seed, text) in texts.iter().enumerate() {
            std::fs::write(Path::new(dir).join(format!("{seed:03}.trace")), text).expect("a trace");
        }
        std::fs::write(Path::new(dir).join("counts.txt"), format!("{counts:#?}")).expect("the counts");
    }
    for &what in OCCURS {
        assert!(counts.contains_key(what), "{what} occurs in no history any more, of {counts:#?}");
    }
    let mut hashes = String::new();
    for (seed, text) in texts.iter().enumerate() {
        let launches = text.lines().filter(|line| line.contains(" launch #")).count();
        let _ = writeln!(hashes, "{seed:>3} {:016x} {:>5} lines {launches:>4} launches", hash(text), text.lines().count());
    }
    if order == "renew" {
        std::fs::write(home().join("hashes.txt"), &hashes).expect("the hashes");
        for seed in WHOLE {
            std::fs::write(home().join(format!("{seed}.trace")), &texts[seed as usize]).expect("a trace");
        }
    }
    let kept = std::fs::read_to_string(home().join("hashes.txt")).unwrap_or_default();
    let other: Vec<&str> =
        hashes.lines().zip(kept.lines().chain(std::iter::repeat(""))).filter(|(a, b)| a != b).map(|(a, _)| a).collect();
    assert!(
        other.is_empty() && hashes.lines().count() == kept.lines().count(),
        "{} of {SEEDS} traces are other ones than those kept; see the text of this module. Now:\n{}",
        other.len(),
        other.join("\n")
    );
    for seed in WHOLE {
        let kept = std::fs::read_to_string(home().join(format!("{seed}.trace"))).unwrap_or_default();
        assert!(kept == texts[seed as usize], "the trace of seed {seed} that is kept whole is another one");
    }
}
