//! Targets that take a connection and never answer.

use std::net::TcpListener;

use super::{becomes, kept, other_is_well, program, rsyncd, status_until, tree, two};
use crate::fixture::daemon::{TargetStatus, Until};
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::{descendants, poll_until};
use crate::fixture::{Case, Mirror, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("accepts_and_never_answers", &[Fs::Tmpfs], |fs| {
            let mut m = two(fs).target_key("connect_timeout", "1s").start()?;
            tree(&m.src);
            m.check();
            rsyncd(&mut m).stop();
            let address = ("127.0.0.1", rsyncd(&mut m).port());
            let hung = poll_until(WAIT, || TcpListener::bind(address).ok()).expect("the port of a stopped server is free");
            m.src.write("d/file", b"into the void");
            becomes(&m, "down", "");
            down_throughout(&m, "no answer within 1s (connect_timeout)");
            let flushed = m.daemon.client(&["flush", "--target", "t1", "--timeout", "1s"], WAIT);
            assert!(flushed.code == 75 && flushed.stderr.contains("paths pending"), "{}: {}", flushed.code, flushed.stderr);
            other_is_well(&m);
            kept(&m);
            drop(hung);
            rsyncd(&mut m).restart();
            m.check();
            Ok(())
        }),
        case("remote_shell_never_answers", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let ssh = program(&work.path().join("ssh"), "echo \"$@\" >\"${0%/*}/words\"; sleep 1000\n");
            let mut m = two(fs).target_key("connect_timeout", "1s").start()?;
            m.daemon.terminate();
            let shell = format!("{} -p 7", ssh.display());
            m.configure(|mirror| {
                mirror.target[0].url = "u@host:/place".into();
                mirror.target[0].ssh = Some(shell.clone());
            });
            m.restart(Until::Watching);
            becomes(&m, "down", "no answer within 1s (connect_timeout)");
            let status = down_throughout(&m, "no answer within 1s (connect_timeout)");
            let tried = format!("`{shell} -o BatchMode=yes -o ConnectTimeout=1 u@host rsync --version`");
            assert!(status.advice.contains(&tried), "{}", status.advice);
            let given = std::fs::read_to_string(work.path().join("words")).expect("it was started");
            assert!(given.starts_with("-p 7 -o BatchMode=yes -o ConnectTimeout=1 -l u host rsync --server"), "{given}");
            // Those that were given up have ended.
            let shells = || descendants(m.daemon.pid()).iter().filter(|pid| is_sleep(pid)).count();
            poll_until(WAIT, || (shells() <= 1).then_some(())).expect("at most the try under way is there");
            other_is_well(&m);
            Ok(())
        }),
    ]
}

fn is_sleep(pid: &nix::unistd::Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "sleep")
}

/// The first target is down for the same reason from its second try on, while it is tried and
/// between.
#[track_caller]
fn down_throughout(m: &Mirror, words: &str) -> TargetStatus {
    let first = status_until(m, words, |t| t.tries >= 1 && t.reason.contains(words));
    let (mut tried, mut waited) = (false, false);
    let found = poll_until(WAIT, || {
        let now = m.daemon.target_status("t1");
        assert!(now.state == "down" && now.reason == first.reason, "it is {now:?}");
        assert!(now.trying || now.retry_seconds > 0.0 || now.tries > first.tries, "the next try is not shown: {now:?}");
        (tried, waited) = (tried || now.trying, waited || now.retry_seconds > 0.0);
        (now.tries > first.tries && tried).then_some(now)
    });
    found.unwrap_or_else(|| panic!("no further try was seen (tried: {tried}, waited: {waited})"))
}
