//! Runs that are cut off, and the receivers that they leave behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::daemon::Until;
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::{descendants, poll_until};
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};
use crate::outages::program;

/// As rsync ends when SIGTERM reaches it in the middle of a comparison: the second file got the
/// content of the first, with its own size and times. The first such run does that; all else is
/// left to rsync. A local target is the last argument.
const ENDED_BY_SIGTERM: &str = r#"
for target; do :; done
case " $* " in *" -n "* | *" --dry-run "*) exec rsync "$@" ;; esac
case " $* " in *" -r "*) ;; *) exec rsync "$@" ;; esac
mkdir "$0.done" 2>/dev/null || exec rsync "$@"
rsync "$@" >/dev/null
touch -r "$target/d/two" "$0.times"
printf one >"$target/d/two"
touch -r "$0.times" "$target/d/two"
echo 'rsync error: received SIGINT, SIGTERM, or SIGHUP (code 20) at rsync.c(716)' >&2
exit 20
"#;

/// Leaves a process behind that waits, as a local receiver does on a slow disk.
const LEAVES_A_PROCESS: &str = r#"
if [ -e "$0.leaves" ]; then
    (while [ ! -e "$0.go" ]; do sleep 0.05; done) &
    : >"$0.left"
    while :; do sleep 0.05; done
fi
exec rsync "$@"
"#;

pub fn cases() -> Vec<Case> {
    vec![
        case("contents_are_compared_after_an_rsync_that_was_asked_to_end", &[Fs::Ext4], |fs| {
            let work = work_dir();
            let rsync = program(&work.path().join("rsync"), ENDED_BY_SIGTERM);
            let setup = Setup::new(fs).targets(&[To::Local]).rsync(rsync).before(|src| {
                src.mkdir("d");
                src.write("d/one", b"one");
                src.write("d/two", b"two");
            });
            let m = setup.start()?;
            m.check();
            assert!(work.path().join("rsync.done").exists(), "the comparison was not made by the program");
            assert!(m.daemon.log().contains("End fansync, not its rsyncs"), "{}", m.daemon.report());
            Ok(())
        }),
        case("processes_of_a_killed_daemon_end_before_the_next_one_sends", &[Fs::Ext4], |fs| {
            let work = work_dir();
            let rsync = program(&work.path().join("rsync"), LEAVES_A_PROCESS);
            let mut m = Setup::new(fs).targets(&[To::Local]).rsync(rsync).start()?;
            m.check();
            let touch = |name: &str| std::fs::write(work.path().join(name), b"").expect("a file can be made");
            touch("rsync.leaves");
            m.src.write("file", b"1");
            poll_until(WAIT, || work.path().join("rsync.left").exists().then_some(())).expect("a run leaves a process");
            m.daemon.kill();
            std::fs::remove_file(work.path().join("rsync.leaves")).expect("it is there");
            m.src.write("file", b"22");
            m.restart(Until::Watching);
            let waits = || m.daemon.log().contains("processes of an earlier run of fansync have not ended").then_some(());
            let waits = poll_until(WAIT, waits);
            let early = m.dst().has("file") && m.dst().read("file").as_deref() == Some(b"22");
            touch("rsync.go");
            assert!(waits.is_some() && !early, "sent beside a process of the run before\n{}", m.daemon.report());
            m.check();
            Ok(())
        }),
        case("a_receiver_that_goes_on_holds_up_what_its_run_carried_and_nothing_else", &[Fs::Ext4], |fs| {
            let args = toml::Value::Array(vec!["--bwlimit=100".into()]);
            let m = Setup::new(fs).target_key("args", args).start()?;
            m.check();
            let receivers = stopped_at_a_large_file(&m);
            // The process that sends is the one that has the file open.
            let sends = |pid: &Pid| {
                let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
                files.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|at| at.ends_with("large"))
            };
            let senders = descendants(m.daemon.pid()).into_iter().filter(sends).collect::<Vec<_>>();
            assert_eq!(senders.len(), 1);
            kill(senders[0], Signal::SIGKILL).expect("it can be killed");
            m.src.write("large", b"2");
            m.src.write("other", b"x");
            let other = poll_until(WAIT, || m.dst().has("other").then_some(()));
            let early = m.dst().has("large");
            receivers.iter().for_each(|pid| _ = kill(*pid, Signal::SIGCONT));
            assert!(other.is_some() && !early, "{other:?}, {early}\n{}", m.daemon.report());
            m.check();
            Ok(())
        }),
        case("receivers_of_a_killed_daemon_end_before_the_next_one_sends", &[Fs::Ext4], |fs| {
            let args = toml::Value::Array(vec!["--bwlimit=100".into()]);
            let mut m = Setup::new(fs).target_key("args", args).start()?;
            m.check();
            let receivers = stopped_at_a_large_file(&m);
            m.daemon.kill();
            m.src.write("large", b"2");
            m.restart(Until::Watching);
            let sign = "the target has not ended with the connection of a run that was cut off";
            let waits = poll_until(WAIT, || m.daemon.log().contains(sign).then_some(()));
            let early = m.dst().has("large");
            receivers.iter().for_each(|pid| _ = kill(*pid, Signal::SIGCONT));
            assert!(waits.is_some() && !early, "sent beside a receiver that still has the old file\n{}", m.daemon.report());
            m.check();
            Ok(())
        }),
    ]
}

/// Writes a large file to a module that takes it slowly, and stops the processes that serve
/// connections in the middle of it.
fn stopped_at_a_large_file(m: &Mirror) -> Vec<Pid> {
    m.src.write("large", vec![b'1'; 300_000]);
    let arrives = || {
        let names = std::fs::read_dir(m.dst().root()).ok()?.flatten();
        names.map(|entry| entry.file_name()).find(|name| name.to_string_lossy().starts_with(".large."))
    };
    poll_until(WAIT, arrives).expect("a receiver writes its temporary file");
    let serves = |pid: &Pid| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|at| at.to_string_lossy().contains(".large."))
    };
    let children = m.rsyncd.as_ref().expect("the target is a module").children();
    let receivers: Vec<Pid> = children.into_iter().filter(serves).collect();
    assert!(!receivers.is_empty());
    receivers.iter().for_each(|pid| _ = kill(*pid, Signal::SIGSTOP));
    receivers
}
