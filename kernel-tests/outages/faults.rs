//! Faults of connections, processes and filesystems.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Backlog, listen};

use super::{arrives, becomes, chattr, kept, noise, other_is_well, rsyncd, status_until, tree, two, while_receiving, whole};
use crate::fixture::daemon::{TargetStatus, Until};
use crate::fixture::fs::{Fs, needs};
use crate::fixture::proc::{descendants, poll_until};
use crate::fixture::{Case, Mirror, WAIT, case};

/// A file of this size takes a second or two at the rate below.
const BIG: usize = 3 << 20;
const RATE: &str = "--bwlimit=2m";

pub fn cases() -> Vec<Case> {
    vec![
        case("down_at_the_start", &[Fs::Tmpfs], |fs| {
            let mut m = two(fs).rsyncd_away().while_reconciling().before(tree).start()?;
            becomes(&m, "down", "Connection refused");
            other_is_well(&m);
            kept(&m);
            m.src.remove("d/sub");
            rsyncd(&mut m).restart();
            m.check();
            Ok(())
        }),
        case("killed_while_it_receives", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let mut m = two(fs).target_key("args", vec![RATE.to_string()]).start()?;
            let (old, new) = (noise(1, BIG), noise(2, BIG));
            m.src.mkdir("d");
            m.src.write("d/big", &old);
            m.check();
            m.src.write("d/big", &new);
            m.src.write("d/small", b"x");
            while_receiving(m.dst(), "d");
            rsyncd(&mut m).stop();
            whole(m.dst(), "d/big", &[&old]);
            becomes(&m, "down", "");
            other_is_well(&m);
            kept(&m);
            rsyncd(&mut m).restart();
            let arrived = poll_until(WAIT, || {
                whole(m.dst(), "d/big", &[&old, &new]);
                m.dst().read("d/big").is_some_and(|now| now == new).then_some(())
            });
            assert!(arrived.is_some(), "the file does not arrive");
            // And no temporary file of the killed receiver is left.
            m.check();
            Ok(())
        }),
        case("stopped_and_continued", &[Fs::Tmpfs], |fs| {
            let m = two(fs).target_key("timeout", "1s").target_key("connect_timeout", "1s");
            let mut m = m.target_key("watchdog", "4s").start()?;
            tree(&m.src);
            m.check();
            rsyncd(&mut m).signal(Signal::SIGSTOP, true);
            m.src.write("d/file", b"while it hangs");
            becomes(&m, "down", "timeout");
            other_is_well(&m);
            kept(&m);
            rsyncd(&mut m).signal(Signal::SIGCONT, true);
            m.check();
            Ok(())
        }),
        case("connections_stopped_one_by_one", &[Fs::Tmpfs], |fs| {
            // New connections work, only those that are open hang, as on a server whose disk does.
            let mut m =
                two(fs).target_key("timeout", "1s").target_key("connect_timeout", "1s").target_key("watchdog", "2s").start()?;
            tree(&m.src);
            m.check();
            status_until(&m, "processes standing by", |t| t.standby > 0);
            let hung = rsyncd(&mut m).children();
            hung.iter().for_each(|&pid| _ = kill(pid, Signal::SIGSTOP));
            m.src.write("d/file", b"while it hangs");
            other_is_well(&m);
            status_until(&m, "a time-out", |t| t.bad_runs.contains_key("timed_out"));
            m.src.write("d/file", b"and what is written since");
            m.check();
            // They wake up and carry out what they were given long ago; that is found when it is
            // looked at again.
            hung.iter().for_each(|&pid| _ = kill(pid, Signal::SIGCONT));
            let ended = || hung.iter().all(|&pid| kill(pid, None).is_err()).then_some(());
            assert!(poll_until(WAIT, ended).is_some(), "connections whose clients are gone do not end");
            arrives(&m);
            Ok(())
        }),
        // rsync's own time-out does not always fire there: what its sender writes to keep the
        // connection counts as progress.
        case("hangs_in_mid_transfer", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = two(fs).target_key("timeout", "2s").target_key("connect_timeout", "2s").target_key("watchdog", "3s");
            let mut m = m.target_key("args", vec![RATE.to_string()]).start()?;
            let (_, new) = sending(&m);
            let hung = rsyncd(&mut m).children();
            hung.iter().for_each(|&pid| _ = kill(pid, Signal::SIGSTOP));
            other_is_well(&m);
            let ended = |t: &TargetStatus| ["timed_out", "killed"].iter().any(|class| t.bad_runs.contains_key(*class));
            status_until(&m, "a run that was ended", ended);
            let arrived = || (m.dst().read("d/big").as_deref() == Some(&new[..])).then_some(());
            assert!(poll_until(WAIT, arrived).is_some(), "the file is not sent by other connections");
            hung.iter().for_each(|&pid| _ = kill(pid, Signal::SIGCONT));
            arrives(&m);
            Ok(())
        }),
        // rsync itself hangs, so its own time-outs do not help: the watchdog ends it.
        case("client_hangs_in_mid_transfer", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = two(fs).target_key("timeout", "2s").target_key("connect_timeout", "2s").target_key("watchdog", "3s");
            let m = m.target_key("args", vec![RATE.to_string()]).start()?;
            let (old, new) = sending(&m);
            let to_the_first = |pid: &nix::unistd::Pid| {
                std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(8).any(|w| w == b"rsync://"))
            };
            let hung: Vec<_> = descendants(m.daemon.pid()).into_iter().filter(to_the_first).collect();
            assert!(!hung.is_empty(), "no run sends to the first target");
            hung.iter().for_each(|&pid| _ = kill(pid, Signal::SIGSTOP));
            whole(m.dst(), "d/big", &[&old, &new]);
            other_is_well(&m);
            let killed = status_until(&m, "a run that was ended", |t| t.bad_runs.contains_key("killed"));
            assert!(killed.state != "config", "{killed:?}");
            assert!(m.daemon.log().contains("a run made no progress"), "the log does not tell of the watchdog");
            let arrived = || (m.dst().read("d/big").as_deref() == Some(&new[..])).then_some(());
            assert!(poll_until(WAIT, arrived).is_some(), "the file is not sent again");
            hung.iter().for_each(|&pid| _ = kill(pid, Signal::SIGCONT));
            arrives(&m);
            Ok(())
        }),
        case("no_answer_to_connects", &[Fs::Tmpfs], |fs| {
            let mut m = two(fs).target_key("connect_timeout", "1s").start()?;
            tree(&m.src);
            m.check();
            rsyncd(&mut m).stop();
            let silent = Silent::on(rsyncd(&mut m).port());
            m.src.write("d/file", b"into the void");
            becomes(&m, "down", "timeout waiting for daemon connection");
            other_is_well(&m);
            kept(&m);
            drop(silent);
            rsyncd(&mut m).restart();
            m.check();
            Ok(())
        }),
        case("disk_full", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = two(fs).target_size("8m").start()?;
            let keep = noise(1, BIG);
            m.src.write("keep", &keep);
            m.check();
            m.src.write("huge", noise(2, 7 << 20));
            m.src.write("keep", noise(3, BIG));
            m.src.write("small", b"after the one that does not fit");
            status_until(&m, "a full disk", |t| t.bad_runs.contains_key("target_full"));
            other_is_well(&m);
            kept(&m);
            // The one that does not fit is set apart, and what comes after it goes through.
            let status = status_until(&m, "the file that does not fit", |t| t.failures.iter().any(|f| f.path == "huge"));
            assert!(status.failures.iter().all(|f| f.reason.contains("No space left")), "{status:?}");
            let arrived = || m.dst().has("small").then_some(());
            assert!(poll_until(WAIT, arrived).is_some(), "what comes after the file that does not fit is held up");
            let none = None::<&str>;
            mount(none, m.dst().root(), none, MsFlags::MS_REMOUNT, Some("size=64m")).expect("the target can be made larger");
            arrives(&m);
            Ok(())
        }),
        case("disk_full_until_something_is_deleted", &[Fs::Tmpfs], |fs| {
            let m = two(fs).target_size("8m").start()?;
            m.src.write("z", noise(1, BIG));
            m.check();
            m.src.write("huge", noise(2, 6 << 20));
            status_until(&m, "a full disk", |t| t.bad_runs.contains_key("target_full"));
            m.src.remove("z");
            arrives(&m);
            // There is no room for a second copy; the second try finds that none is needed.
            m.src.set_mtime("huge", 1_000_000_000, 1);
            arrives(&m);
            Ok(())
        }),
        case("filesystem_read_only", &[Fs::Tmpfs], |fs| {
            let m = two(fs).target_size("8m").start()?;
            tree(&m.src);
            m.check();
            let none = None::<&str>;
            let remount = |flags| mount(none, m.dst().root(), none, MsFlags::MS_REMOUNT | flags, none).ok();
            let read_only = poll_until(WAIT, || remount(MsFlags::MS_RDONLY));
            assert!(read_only.is_some(), "the target cannot be made read-only");
            m.src.write("d/file", b"changed");
            m.src.write("new", b"new");
            m.src.remove("d/sub");
            becomes(&m, "config", "Read-only file system");
            other_is_well(&m);
            kept(&m);
            remount(MsFlags::empty()).expect("the target can be made writable");
            m.check();
            Ok(())
        }),
        case("some_paths_not_permitted", &[Fs::Tmpfs], |fs| {
            needs("chattr")?;
            let m = two(fs).start()?;
            tree(&m.src);
            m.src.mkdir("e");
            m.check();
            let free = Immutable::new(vec![m.dst().at("d")]);
            for n in 0..10 {
                m.src.write(format!("d/new {n}"), b"x");
                m.src.write(format!("e/new {n}"), b"x");
            }
            m.src.remove("d/file");
            let status = status_until(&m, "eleven failures", |t| t.failures.len() >= 11);
            for failure in &status.failures {
                assert!(failure.path.starts_with('d'), "{failure:?}");
                assert!(failure.reason.contains("Operation not permitted"), "{failure:?}");
                assert!(failure.retry_seconds < 1.0, "{failure:?}");
            }
            (0..10).for_each(|n| assert!(m.dst().has(format!("e/new {n}")), "what is permitted is held up"));
            other_is_well(&m);
            drop(free);
            arrives(&m);
            assert!(m.daemon.target_status("t1").failures.is_empty(), "failures that are over are still listed");
            Ok(())
        }),
        case("three_bad_paths_of_five_hundred", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            needs("chattr")?;
            let m = two(fs).start()?;
            m.src.mkdir("d");
            let name = |n: usize| format!("d/{n:03}");
            (0..500).for_each(|n| m.src.write(name(n), b"old"));
            m.check();
            let bad = [249, 250, 377];
            let free = Immutable::new(bad.iter().map(|&n| m.dst().at(name(n))).collect());
            (0..500).for_each(|n| m.src.write(name(n), b"new"));
            let status =
                status_until(&m, "three failures and nothing else", |t| t.failures.len() == 3 && t.pending + t.in_flight <= 3);
            let listed: Vec<_> = status.failures.iter().map(|f| f.path.as_str()).collect();
            assert_eq!(listed, bad.map(name), "other paths are listed as failures");
            for n in (0..500).filter(|n| !bad.contains(n)) {
                assert_eq!(m.dst().read(name(n)).as_deref(), Some(&b"new"[..]), "{} is held up by bad ones", name(n));
            }
            bad.iter().for_each(|&n| whole(m.dst(), &name(n), &[b"old"]));
            drop(free);
            arrives(&m);
            Ok(())
        }),
        case("fifo_in_place_of_a_file", &[Fs::Tmpfs], |fs| {
            let m = two(fs).target_key("args", vec![RATE.to_string()]).start()?;
            m.out.mkdir("d");
            m.out.write("d/a big one first", noise(1, 2 * BIG));
            m.out.write("d/z", b"a file when the list is made");
            m.out.rename_to("d", &m.src, "d");
            while_receiving(m.dst(), "d");
            m.daemon.flush(Some("t2"));
            m.src.remove("d/z");
            m.src.fifo("d/z");
            let hung = status_until(&m, "a run that was ended", |t| t.bad_runs.contains_key("killed"));
            assert!(hung.state != "down", "the target is blamed for what the source did: {hung:?}");
            other_is_well(&m);
            m.check();
            Ok(())
        }),
        case("clients_killed", &[Fs::Tmpfs, Fs::Ext4], |fs| {
            let m = two(fs).target_key("args", vec![RATE.to_string()]).start()?;
            let (old, _) = sending(&m);
            // Ended children that are not collected yet cannot be signalled, and need not be.
            descendants(m.daemon.pid()).into_iter().for_each(|pid| _ = kill(pid, Signal::SIGKILL));
            whole(m.dst(), "d/big", &[&old]);
            let killed = status_until(&m, "a killed run", |t| t.bad_runs.contains_key("killed"));
            assert!(killed.state != "config", "{killed:?}");
            other_is_well(&m);
            m.check();
            Ok(())
        }),
        case("directory_removed_and_made_again", &[Fs::Tmpfs], |fs| {
            let m = two(fs).before(tree).start()?;
            m.check();
            let dst = m.dst().clone();
            dst.remove(".");
            m.src.write("d/file", b"nowhere to go");
            becomes(&m, "config", "chroot failed");
            other_is_well(&m);
            kept(&m);
            dst.mkdir(".");
            // Also what had long been sent.
            m.check();
            Ok(())
        }),
        case("directory_replaced_under_those_who_stand_by", &[Fs::Tmpfs], |fs| {
            let m = two(fs).before(tree).start()?;
            m.check();
            status_until(&m, "processes standing by", |t| t.standby > 0);
            let dst = m.dst().clone();
            dst.remove(".");
            dst.mkdir(".");
            m.src.write("new", b"of all this the only event");
            m.check();
            Ok(())
        }),
        case("down_over_a_restart", &[Fs::Tmpfs], |fs| {
            let mut m = two(fs).before(tree).start()?;
            m.check();
            rsyncd(&mut m).stop();
            m.src.remove("d/sub");
            becomes(&m, "down", "");
            m.daemon.terminate();
            m.src.write("d/file", b"unseen");
            m.restart(Until::Watching);
            becomes(&m, "down", "Connection refused");
            other_is_well(&m);
            rsyncd(&mut m).restart();
            m.check();
            Ok(())
        }),
        case("one_outage_counts_once", &[Fs::Tmpfs], one_outage_counts_once),
    ]
}

/// Six runs that break at once are one outage, and the first pause is the shortest.
fn one_outage_counts_once(fs: Fs) -> crate::fixture::Run<()> {
    let m = two(fs).target_key("args", vec![RATE.to_string()]).target_key("retry_min", "3s").target_key("retry_max", "60s");
    let mut m = m.target_key("standby", 0).start()?;
    for n in 0..4 {
        m.src.write(format!("{n}"), noise(n, BIG / 2));
        while_receiving(m.dst(), ".");
    }
    let before = m.daemon.target_status("t1");
    assert!(before.in_flight >= 1, "{before:?}");
    rsyncd(&mut m).stop();
    let status = status_until(&m, "down, all runs ended", |t| t.state == "down" && t.in_flight == 0);
    assert!(status.tries == 1 && status.retry_seconds <= 3.0, "one outage is counted {} times: {status:?}", status.tries);
    rsyncd(&mut m).restart();
    m.check();
    Ok(())
}

/// A port without an answer: its queue of connections to accept is full, so the kernel drops
/// what comes.
struct Silent {
    _listener: TcpListener,
    _clients: Vec<TcpStream>,
}

impl Silent {
    fn on(port: u16) -> Silent {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = poll_until(WAIT, || TcpListener::bind(address).ok()).expect("the port of a stopped server is free");
        listen(&listener, Backlog::new(0).expect("zero is a backlog")).expect("a listening socket can be made to listen again");
        let mut clients = Vec::new();
        while let Ok(client) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            clients.push(client);
            assert!(clients.len() < 50, "the queue of a listening socket does not fill");
        }
        Silent { _listener: listener, _clients: clients }
    }
}

/// Immutable files, until this is dropped.
struct Immutable(Vec<PathBuf>);

impl Immutable {
    fn new(paths: Vec<PathBuf>) -> Self {
        paths.iter().for_each(|path| chattr("+i", path));
        Immutable(paths)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        self.0.iter().for_each(|path| chattr("-i", path));
    }
}

/// A large file is there, and goes out with other content at this moment: the old content and the
/// new.
#[track_caller]
fn sending(m: &Mirror) -> (Vec<u8>, Vec<u8>) {
    let (old, new) = (noise(1, BIG), noise(2, BIG));
    m.src.mkdir("d");
    m.src.write("d/big", &old);
    m.check();
    m.src.write("d/big", &new);
    while_receiving(m.dst(), "d");
    (old, new)
}
