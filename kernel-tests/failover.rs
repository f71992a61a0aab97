//! Failover with plain directories: monitors, server roles and mirror daemons are real; NFS servers
//! are a listener that answers NULL calls, their mounts are tmpfs or FUSE, exportfs is a script
//! that notes how it was called.

mod attacks;
mod cluster;
pub mod front;
mod fuseblk;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fansync::role::mark::{self, Mark, Role};
use fansync::sys::mount::{MountEntry, Mounts};
use nix::sys::signal::Signal;

use crate::fixture::fs::Fs;
use crate::fixture::proc::{Service, bound_command, poll_until, run};
use crate::fixture::{Case, WAIT, case};
use cluster::Cluster;

const T: &[Fs] = &[Fs::Tmpfs];

pub fn cases() -> Vec<Case> {
    let mut all = attacks::cases();
    all.extend(front::cases());
    all.extend(plain());
    all
}

fn plain() -> Vec<Case> {
    vec![
        case("the_primary_dies", T, |_| {
            let mut c = Cluster::new();
            let web = c.web("web", "");
            web.on("primary");
            fs::write(web.mount.join("open"), b"x").expect("the mount can be written");
            c.servers[0].die();
            web.on("backup");
            assert_eq!(c.servers[1].mark(), (2, Role::Primary));
            assert_eq!(c.servers[1].exported(), "rw");
            let f = web.status();
            assert!(f["last_switch_seconds"].as_f64().is_some_and(|s| s < 2.0), "{f}");
            assert_eq!(web.below(), ["fansync-placeholder"], "what is below the mount");
            let shown =
                poll_until(WAIT, || fs::read_to_string(c.work.path().join("hook-log")).ok().filter(|t| t.contains("switch")));
            assert!(shown.is_some_and(|t| t.contains("switch web backup")), "the hook was not called");
            Ok(())
        }),
        case("a_returning_primary_is_a_follower", T, |_| {
            let mut c = Cluster::new();
            let web = c.web("web", "failback = \"manual\"");
            web.on("primary");
            c.servers[0].die();
            web.on("backup");
            c.servers[0].live();
            let down = || (c.servers[0].mark() == (1, Role::Follower) && c.servers[0].exported() == "ro").then_some(());
            assert!(poll_until(WAIT, down).is_some(), "{:?} {}", c.servers[0].mark(), c.servers[0].exported());
            assert!(!c.servers[0].exports().contains(&"rw".into()), "the old primary was exported read-write for a moment");
            web.on("backup");
            Ok(())
        }),
        case("a_primary_that_starts_alone_stays_read_only_until_its_peer_has_spoken", T, |_| {
            let mut c = Cluster::new();
            for server in &mut c.servers {
                server.die();
                server.forget();
            }
            c.servers[0].live();
            assert!(c.servers[0].trouble("read-only until the peer answers"));
            assert_eq!(c.servers[0].exported(), "ro");
            c.servers[1].live();
            assert!(c.servers[0].is_exported("rw"));
            // Lost for good, and the administrator says so.
            c.servers[1].die();
            c.servers[0].die();
            c.servers[0].forget();
            c.servers[0].live();
            assert!(c.servers[0].trouble("read-only until the peer answers"));
            c.servers[0].set(9, Role::Primary);
            assert!(c.servers[0].is_exported("rw"));
            Ok(())
        }),
        case("two_clients_that_disagree_end_on_one_server", T, |_| {
            let c = Cluster::new();
            let near = c.web("near", "");
            // One that cannot reach the primary: no server listens on the port that it asks.
            let far = c.web_with("far", "", &format!("port = {}", crate::fixture::rsyncd::free_port()));
            near.on("backup");
            far.on("backup");
            assert_eq!((c.servers[0].mark(), c.servers[1].mark()), ((1, Role::Follower), (2, Role::Primary)));
            assert_eq!(c.servers[0].exported(), "ro");
            Ok(())
        }),
        case("hung_up_it_goes_on_and_says_what_it_does_not", T, |_| {
            let c = Cluster::new();
            let web = c.web("web", "");
            web.on("primary");
            web.signal(Signal::SIGHUP);
            let shown = || web.log().contains("the failover configuration is not read again").then_some(());
            assert!(poll_until(WAIT, shown).is_some(), "{}", web.log());
            web.rounds(1);
            web.on("primary");
            Ok(())
        }),
        case("flapping_and_hold", T, |_| {
            let c = Cluster::new();
            let web = c.web("web", "");
            web.on("primary");
            for _ in 0..6 {
                c.servers[0].nfs.answer(false);
                web.rounds(1);
                c.servers[0].nfs.answer(true);
                web.rounds(3);
            }
            web.on("primary");
            assert_eq!(web.order(&["hold"]).0, 0);
            c.servers[0].nfs.answer(false);
            assert!(poll_until(WAIT, || (web.status()["alarm"] == "held").then_some(())).is_some(), "{}", web.status());
            assert_eq!(web.on_now(), "primary");
            assert_eq!(web.order(&["resume"]).0, 0);
            web.on("backup");
            Ok(())
        }),
        case("both_dead_is_an_alarm_and_no_switch", T, |_| {
            let mut c = Cluster::new();
            let web = c.web("web", "");
            web.on("primary");
            c.servers[1].die();
            c.servers[0].die();
            assert!(poll_until(WAIT, || (web.status()["alarm"] == "both_dead").then_some(())).is_some());
            assert_eq!(web.on_now(), "primary");
            c.servers[1].live();
            web.on("backup");
            Ok(())
        }),
        case("promoted_by_hand", T, |_| {
            let c = Cluster::new();
            let web = c.web("web", "failback = \"manual\"");
            web.on("primary");
            c.servers[1].set(7, Role::Primary);
            web.on("backup");
            let down = || (c.servers[0].mark() == (1, Role::Follower)).then_some(());
            assert!(poll_until(WAIT, down).is_some(), "the primary does not step down");
            Ok(())
        }),
        case("a_damaged_mark_promotes_no_server", T, |_| {
            let mut c = Cluster::new();
            let web = c.web("web", "");
            web.on("primary");
            fs::write(c.servers[1].tree.join(mark::FILE), b"fansync-role 1\nep").expect("the mark can be damaged");
            c.servers[0].die();
            assert!(c.servers[1].trouble("damaged"));
            assert!(poll_until(WAIT, || (!web.alive(0)).then_some(())).is_some());
            web.rounds(3);
            assert_eq!(web.on_now(), "primary", "moved to a server whose epoch is not known");
            c.servers[1].set(1, Role::Follower);
            web.on("backup");
            Ok(())
        }),
        case("the_link_layout", T, |_| {
            let mut c = Cluster::new();
            let web = c.web("web", "layout = \"symlink\"");
            web.on("primary");
            fs::write(web.mount.join("f"), b"x").expect("the link leads to a writable mount");
            c.servers[0].die();
            web.on("backup");
            let to = fs::read_link(&web.mount).expect("a link");
            assert!(to.ends_with("mount.backup"), "{to:?}");
            Ok(())
        }),
        case("a_dry_run_changes_nothing", T, |_| {
            let mut c = Cluster::new();
            c.servers[0].die();
            let text = c.dry_run("web");
            assert_eq!(text.0, 0, "{}", text.1);
            assert!(text.1.contains("DOES NOT ANSWER") && text.1.contains("backup"), "{}", text.1);
            assert_eq!(c.servers[1].mark(), (1, Role::Follower));
            Ok(())
        }),
        case("a_stopped_fuse_filesystem_does_not_hold_up_the_switch", T, |_| {
            let mut c = Cluster::new();
            let web = c.prepare("web", "", "");
            let fuse = fuseblk::Stopped::fuse(&c.source(0), &web.mount)?;
            let web = web.start();
            web.on("primary");
            fuse.stop();
            // Somebody runs into it.
            let mut stuck = Command::new("cat").arg(web.mount.join("file")).spawn().expect("cat starts");
            let wchan = format!("/proc/{}/wchan", stuck.id());
            let waits = || fs::read_to_string(&wchan).ok().filter(|w| w.contains("request_wait_answer"));
            assert!(poll_until(WAIT, waits).is_some(), "cat does not wait for the stopped filesystem");
            c.servers[0].die();
            web.on("backup");
            let f = web.status();
            assert!(f["last_switch_seconds"].as_f64().is_some_and(|s| s < 2.0), "{f}");
            let named = f["stuck"].as_array().is_some_and(|all| all.iter().any(|s| s["pid"] == stuck.id() && s["name"] == "cat"));
            assert!(named, "the blocked process is not named: {f}");
            fs::write(web.mount.join("new"), b"y").expect("the new mount can be written");
            drop(fuse);
            assert!(stuck.wait().is_ok());
            Ok(())
        }),
        case("a_teardown_that_blocks_does_not_hold_up_the_switch", T, |_| {
            let mut c = Cluster::new();
            let web = c.prepare("web", "", "");
            let fuse = fuseblk::Stopped::mount(c.work.path(), &c.source(0), &web.mount)?;
            let web = web.start();
            web.on("primary");
            fuse.stop();
            c.servers[0].die();
            web.on("backup");
            let f = web.status();
            assert!(f["last_switch_seconds"].as_f64().is_some_and(|s| s < 2.0), "{f}");
            let left = f["calls"].as_array().map_or(0, Vec::len);
            assert_eq!(left, 1, "the child that detaches should still wait: {f}");
            drop(fuse);
            let gone = || web.status()["calls"].as_array().is_some_and(Vec::is_empty).then_some(());
            assert!(poll_until(WAIT, gone).is_some(), "the child is never collected");
            Ok(())
        }),
        case("fail_back_loses_nothing", T, |_| {
            let mut c = Cluster::with_mirrors();
            let web = c.web("web", "failback = \"manual\"");
            c.whole_and_seen(&web);
            c.servers[0].write("both", b"mirrored");
            c.flush(0);
            c.servers[0].die();
            // Acknowledged by the primary at the last moment, never mirrored.
            c.servers[0].write("late", b"only the primary has it");
            c.servers[0].write("both", b"rewritten at the last moment");
            web.on("backup");
            c.servers[1].write("on the backup", b"1");
            c.servers[0].live();
            c.whole(1);
            assert_eq!(c.servers[0].read("on the backup").as_deref(), Some(&b"1"[..]));
            assert_eq!(c.kept(0, 2, "late"), [b"only the primary has it"]);
            assert_eq!(c.kept(0, 2, "both"), [b"rewritten at the last moment"]);
            let (code, text) = web.order(&["failback"]);
            assert_eq!(code, 0, "{text}");
            web.on("primary");
            let (code, text) = web.order(&["failback"]);
            assert!(code == 0 && text.contains("already"), "a second order: {text}");
            assert_eq!((c.servers[0].mark(), c.servers[1].mark()), ((3, Role::Primary), (2, Role::Follower)));
            assert_eq!((c.servers[0].exported(), c.servers[1].exported()), ("rw".into(), "ro".into()));
            c.servers[0].write("after", b"2");
            c.whole(0);
            c.flush(0);
            assert!(c.servers[1].read("after").is_some(), "the primary does not push again");
            Ok(())
        }),
        case("fail_back_under_load", T, |_| {
            let (mut c, web) = Cluster::switched();
            c.servers[0].live();
            c.whole(1);
            let ledger = c.write_while_writable(1);
            let (code, text) = web.order(&["failback"]);
            let written = ledger.stop();
            assert_eq!(code, 0, "{text}");
            assert!(written > 20, "only {written} files were written meanwhile");
            let lost: Vec<u32> = (0..written).filter(|n| c.servers[0].read(&format!("load {n}")).is_none()).collect();
            assert!(lost.is_empty(), "{} of {written} lost: {lost:?}", lost.len());
            Ok(())
        }),
        case("a_server_that_is_ordered_to_step_down_pushes_first", T, |_| {
            // Changes wait, so that there are some.
            let c = Cluster::mirrored(|m| drop(m.batch.insert("settle".into(), "300ms".into())));
            let web = c.web("web", "failback = \"manual\"");
            c.whole_and_seen(&web);
            let ledger = c.write_while_writable(0);
            // Too slow for its clients, but alive.
            c.servers[0].nfs.answer(false);
            web.on("backup");
            let written = ledger.stop();
            assert_eq!((c.servers[0].mark(), c.servers[1].mark()), ((1, Role::Follower), (2, Role::Primary)));
            let lost: Vec<u32> = (0..written).filter(|n| c.servers[1].read(&format!("load {n}")).is_none()).collect();
            assert!(written > 20 && lost.is_empty(), "{} of {written} lost: {lost:?} {}", lost.len(), c.servers[0].log());
            Ok(())
        }),
        case("a_mirror_that_does_not_follow_open_files_hands_nothing_over", T, |_| {
            let c = Cluster::mirrored(|m| m.follow_open_files = None);
            let web = c.web("web", "failback = \"manual\"");
            c.whole_and_seen(&web);
            assert!(c.servers[0].trouble("without follow_open_files"), "{}", c.servers[0].status());
            assert!(
                c.servers[0].check().contains("warning: the mirror data runs without follow_open_files"),
                "{}",
                c.servers[0].check()
            );
            let before = c.servers[0].exports();
            let (code, text) = web.order(&["switch"]);
            assert!(code == 1 && text.contains("without follow_open_files"), "{text}");
            assert!(!c.servers[0].exports()[before.len()..].contains(&"ro".into()), "made read-only all the same");
            Ok(())
        }),
        case("fail_back_is_refused_on_any_doubt", T, |_| {
            let (mut c, web) = Cluster::switched();
            // Nobody there to hand over to.
            let (code, text) = web.order(&["failback"]);
            assert!(code == 1 && text.contains("hand over"), "{text}");
            c.servers[0].live();
            c.whole(1);
            // The last flush fails: what was made read-only is writable again, and nothing has
            // changed.
            c.on_exportfs(1, "[ \"${2%%,*}\" = ro ] && kill -STOP $(cat mirror.pid)");
            let (code, text) = web.order(&["failback"]);
            c.servers[1].mirror_signal(Signal::SIGCONT);
            assert_eq!(code, 1, "{text}");
            assert!(c.servers[1].is_exported("rw"));
            assert_eq!((c.servers[0].mark(), c.servers[1].mark()), ((1, Role::Follower), (2, Role::Primary)));
            web.on("backup");
            c.on_exportfs(1, "");
            let (code, text) = web.order(&["failback"]);
            assert_eq!(code, 0, "{text}");
            Ok(())
        }),
        case("a_switch_that_broke_off_half_way_is_ended", T, |_| {
            let mut c = Cluster::new();
            let web = c.web("web", "failback = \"manual\"");
            web.on("primary");
            web.is_ready(1);
            // The monitor ends after it has moved the backup's mount below the primary's.
            let ahead = web.ahead("backup");
            drop(web);
            let mount = c.prepare("web", "failback = \"manual\"", "").mount;
            let at = mount.to_str().expect("the path is text");
            assert_eq!(calls(&[&["beneath", &ahead, at]]), ["null"]);
            assert_eq!(on(&mount), [c.source(0), c.source(1), "fansync-placeholder".into()]);
            c.servers[0].die();
            let web = c.web("web", "failback = \"manual\"");
            web.on("backup");
            assert_eq!(on(&mount), [c.source(1), "fansync-placeholder".into()]);
            Ok(())
        }),
        case("a_detach_that_comes_late_leaves_what_came_in_its_place", T, |_| {
            let work = crate::fixture::fs::work_dir();
            let _below = crate::fixture::fs::Mount::tmpfs(&work.path().join("m"));
            let point = work.path().join("m");
            let at = point.to_str().expect("the path is text");
            let id = mounts_on(&point)[0].id.to_string();
            let (late, wrong) = (["detach", at, &id], ["detach", at, "0"]);
            // Something else has come on top, as the new server's mount does.
            let above = crate::fixture::fs::Mount::tmpfs(&point);
            let text = calls(&[&late, &wrong]);
            assert!(text.iter().all(|s| s.contains("any more")), "{text:?}");
            assert_eq!(mounts_on(&point).len(), 2);
            drop(above);
            assert_eq!(calls(&[&late]), ["null"]);
            assert_eq!(mounts_on(&point).len(), 0);
            Ok(())
        }),
        // Each step: who dies when exportfs is called with what, and on which server clients end.
        case("a_crash_before_the_backup_is_read_only", T, |_| crash(1, "ro", "kill -9 $PPID; sleep 1", "backup")),
        case("a_crash_after_the_backup_is_read_only", T, |_| crash(1, "ro", "note \"$@\"; kill -9 $PPID; sleep 1", "backup")),
        case("the_primary_crashes_while_it_takes_over", T, |_| crash(0, "rw", "kill -9 $PPID; sleep 1", "primary")),
        case("the_backup_crashes_while_the_primary_takes_over", T, |_| {
            crash(0, "rw", "note \"$@\"; kill -9 $(cat ../s1/agent.pid); sleep 0.3", "primary")
        }),
        case("both_crash_while_the_primary_takes_over", T, |_| {
            crash(0, "rw", "kill -9 $(cat ../s1/agent.pid); kill -9 $PPID; sleep 1", "primary")
        }),
    ]
}

/// Has a process make calls that touch mounts, as the monitor has; its answers.
fn calls(requests: &[&[&str]]) -> Vec<String> {
    let mut child = Command::new(cluster::binary())
        .args(["failover", "call"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("fansync starts");
    let mut input = child.stdin.take().expect("it is piped");
    for request in requests {
        writeln!(input, "{}", serde_json::json!(request)).expect("it reads");
    }
    drop(input);
    let out = child.wait_with_output().expect("it ends").stdout;
    String::from_utf8(out).expect("answers are text").lines().map(str::to_owned).collect()
}

/// The mounts on a directory, topmost first.
fn mounts_on(point: &Path) -> Vec<MountEntry> {
    let table = Mounts::read().expect("the mount table can be read");
    let mut on: Vec<MountEntry> = Vec::new();
    let mut at = table.mount_of(point).filter(|e| e.point == point);
    while let Some(entry) = at {
        on.push(entry.clone());
        at = table.iter().find(|e| e.id == entry.parent && e.point == entry.point);
    }
    on
}

/// What is mounted on a directory, topmost first.
fn on(point: &Path) -> Vec<String> {
    mounts_on(point).iter().map(|e| String::from_utf8_lossy(&e.source).into_owned()).collect()
}

/// Fails back, with a crash in the middle; restarts who has crashed, and expects one writable
/// server that holds everything.
fn crash(server: usize, when: &str, how: &str, ends_on: &str) -> Result<(), crate::fixture::Skip> {
    let mut c = Cluster::with_mirrors();
    let web = c.web("web", "failback = \"manual\"");
    c.whole_and_seen(&web);
    c.servers[0].die();
    web.on("backup");
    c.servers[0].live();
    c.whole(1);
    c.servers[1].write("acknowledged", b"on the backup");
    c.on_exportfs(server, &format!("if [ \"${{2%%,*}}\" = {when} ]; then rm -f on-exportfs; {how}; fi"));
    let (_, text) = web.order(&["failback"]);
    let side = usize::from(ends_on == "backup");
    let settled = poll_until(WAIT, || {
        // Whoever has crashed is started again, whenever that was.
        c.servers.iter_mut().for_each(cluster::Server::restart_if_dead);
        let [this, other] = [&c.servers[side], &c.servers[1 - side]];
        let right = this.exported() == "rw" && this.mark().1 == Role::Primary && other.mark().1 == Role::Follower;
        let journal = c.servers.iter().any(|s| s.tree.join(".fansync/handover").exists());
        (right && other.exported() != "rw" && !journal).then_some(())
    });
    let state = || c.servers.iter().map(|s| format!("{:?} {}", s.mark(), s.exported())).collect::<Vec<_>>();
    assert!(settled.is_some(), "{text}: {:?}", state());
    web.on(ends_on);
    assert_eq!(c.servers[side].read("acknowledged").as_deref(), Some(&b"on the backup"[..]));
    c.servers[side].write("after", b"x");
    c.whole(side);
    c.flush(side);
    assert!(c.servers[1 - side].read("after").is_some());
    Ok(())
}
