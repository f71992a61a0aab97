//! What a real rsync does not do on demand, played by a script.

use std::fs;
use std::time::{Duration, Instant};

use fansync::sync::argv::Pass;
use fansync::sync::outcome::{Exit, Outcome, Verdict};
use fansync::sync::probe::{ProbeError, RsyncFacts, Version};
use fansync::sync::run::{Input, Run};
use fansync::sys::child::FeedError;

use crate::fixture::{Fixture, PATIENCE, Road, script};

fn play(body: &str) -> Fixture {
    let mut fixture = Fixture::new(Road::Local);
    fixture.rsync = script(fixture.dir.path(), "rsync", body);
    fixture
}

fn outcome(run: &mut Run) -> Outcome {
    run.wait(PATIENCE, |_| {}).unwrap()
}

#[test]
fn codes_and_texts_through_real_pipes() {
    for (body, want) in [
        ("cat >/dev/null; exit 0", Verdict::Done),
        ("exit 24", Verdict::SourceRace),
        ("echo 'rsync: [sender] link_stat \"/x\" failed: Input/output error (5)' >&2; exit 23", Verdict::Partial),
        ("echo 'invalid file mode 00 for gone [Receiver]' >&2; exit 2", Verdict::NoMissingArgs),
        ("echo 'ABORTING due to invalid path from sender: a' >&2; exit 2", Verdict::SourceRace),
        ("printf 'Deletions stopped due to --max-delete limit (3 skipped)' >&2; exit 0", Verdict::DeletesHeld),
        ("exit 30", Verdict::TimedOut),
        ("kill -9 $$", Verdict::Killed),
        ("kill -15 $$", Verdict::Killed),
    ] {
        let f = play(body);
        let mut run = f.start(Pass::Shallow, Input::List(b"./a\0"));
        assert_eq!(outcome(&mut run).verdict, want, "{body}");
    }
}

#[test]
fn the_list_arrives_whole_however_long_it_is() {
    let f = play("wc -c");
    let list = vec![b'x'; 3_000_000];
    let mut run = f.start(Pass::Shallow, Input::List(&list));
    assert!(outcome(&mut run).is_done());
    assert_eq!(run.output().top_message(), Some(&b"3000000"[..]));
}

#[test]
fn a_flood_on_both_outputs() {
    let f = play(
        "yes '<f+++++++++ some/file' | head -n 200000
        echo 'cannot delete non-empty directory: d'
        yes 'rsync: [sender] link_stat \"/x\" failed: Permission denied (13)' | head -n 100000 >&2
        yes '*deleting   some/file' | head -n 200000
        exit 23",
    );
    let mut run = f.start(Pass::Shallow, Input::List(b"./a\0"));
    let outcome = outcome(&mut run);
    assert_eq!(outcome.verdict, Verdict::Partial);
    let counters = outcome.counters;
    assert_eq!((counters.files_sent, counters.deleted, counters.dirs_kept), (200_000, 200_000, 1));
    assert_eq!(outcome.failed_more, 100_000);
}

#[test]
fn a_stranger_that_keeps_the_outputs_open() {
    let f = play("setsid sleep 1000 & echo $! > \"${0%/*}/stranger\"; echo '<f+++++++++ a'");
    let start = Instant::now();
    let mut run = f.start(Pass::Shallow, Input::List(b"./a\0"));
    let outcome = outcome(&mut run);
    let stranger = fs::read_to_string(f.dir.path().join("stranger")).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(stranger), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(outcome.is_done() && start.elapsed() < PATIENCE / 2, "{outcome:?}");
    assert_eq!(outcome.counters.files_sent, 1);
}

#[test]
fn one_that_does_not_want_to_end() {
    let f = play("trap '' TERM; echo ready; while :; do sleep 1000; done");
    let mut run = f.start(Pass::Shallow, Input::List(b"./a\0"));
    let outcome = run.wait(Duration::from_millis(300), |_| {}).unwrap();
    assert_eq!(outcome.verdict, Verdict::Killed);
    assert_eq!(outcome.reason, "ready (rsync killed by SIGKILL)");
}

#[test]
fn a_standby_that_left() {
    let f = play("exit 12");
    let mut run = f.start(Pass::Shallow, Input::Standby);
    assert_eq!(outcome(&mut run).verdict, Verdict::TargetDown);
    assert!(matches!(run.feed(b"./a\0"), Err(FeedError::Write(_))));
}

#[test]
fn a_list_too_long_for_a_standby_is_not_carried_out() {
    let f = play("cat > \"${0%/*}/carried-out.part\" && mv \"${0%/*}/carried-out.part\" \"${0%/*}/carried-out\"");
    let mut run = f.start(Pass::Shallow, Input::Standby);
    let list = vec![b'x'; run.capacity().unwrap() + 1];
    assert!(matches!(run.feed(&list), Err(FeedError::TooLong { .. })));
    assert_eq!(outcome(&mut run).verdict, Verdict::Killed);
    assert!(!f.dir.path().join("carried-out").exists());
}

#[test]
fn programs_that_are_no_usable_rsync() {
    let probe = |body: &str| RsyncFacts::probe(&play(body).rsync, &[]);
    assert!(matches!(
        probe("echo 'rsync  version v3.1.1  protocol version 31'"),
        Err(ProbeError::TooOld { found: Version(3, 1, 1), .. })
    ));
    assert!(matches!(
        probe("echo usage >&2; exit 1"),
        Err(ProbeError::NotRsync { exit: Exit::Code(1), answer, .. }) if answer == "usage"
    ));
    assert!(matches!(RsyncFacts::probe("/no/such/rsync".as_ref(), &[]), Err(ProbeError::Run { .. })));
    let facts = probe("case $1 in --confine-root*) exit 1;; esac; echo 'rsync  version 3.4.1  protocol version 32'").unwrap();
    assert_eq!((facts.version, facts.confine_root), (Version(3, 4, 1), false));
}
