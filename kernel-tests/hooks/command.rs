//! Programs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::{ANY, delivered_all, list};
use crate::fixture::daemon::Until;
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Mirror, Run, Setup, To, WAIT, case};
use crate::names;

pub fn cases() -> Vec<Case> {
    vec![
        case("hostile_names_reach_every_form_of_command", ANY, |fs| {
            let work = tempfile::tempdir().expect("a directory can be made");
            let (direct, shell, stdin) = (work.path().join("direct"), work.path().join("shell"), work.path().join("stdin"));
            let program = script(work.path(), &format!("printf '%s\\0' \"$2\" >> {}\n[ \"$1$3\" = 'a bc' ]", direct.display()));
            let m = Setup::new(fs)
                .targets(&[To::Local])
                .hook(&format!("name = 'direct'\nkind = 'command'\nprefix = \"{} 'a b'\"\nsuffix = 'c'\nkinds = ['changed']", program.display()))
                .hook(&format!(
                    "name = 'shell'\nkind = 'command'\nshell = true\nprefix = \"printf '%s\\\\0'\"\nsuffix = '>> {}'\nkinds = ['changed']",
                    shell.display()
                ))
                .hook(&format!(
                    "name = 'stdin'\nkind = 'command'\ninput = 'stdin'\nshell = true\nprefix = 'cat'\nsuffix = '>> {}'\nkinds = ['changed']",
                    stdin.display()
                ))
                .start()?;
            let pwned = work.path().join("pwned");
            let mut given = names::hostile();
            // No slash in a name, so the daemon's own directory, `/`, would get it.
            given.extend(
                ["$(touch pwned)", "`touch pwned`", ";touch pwned;", "x\ntouch pwned\n", "'$(touch pwned)'"].map(PathBuf::from),
            );
            for name in &given {
                m.src.write(name, b"x");
            }
            m.check();
            for (hook, file) in [("direct", &direct), ("shell", &shell), ("stdin", &stdin)] {
                delivered_all(&m, hook);
                let want = given.iter().map(|name| name.as_os_str().as_bytes().to_vec()).collect();
                assert_eq!(list(file, m.src.root()), want, "what was delivered to hook {hook}");
                assert_eq!(m.daemon.hook_status(hook).failed, 0, "hook {hook} failed");
            }
            assert!(!pwned.exists() && !Path::new("/pwned").exists(), "a file name was executed");
            Ok(())
        }),
        case("command_gets_what_happened_to_each_path", ANY, |fs| {
            let work = tempfile::tempdir().expect("a directory can be made");
            let log = work.path().join("log");
            let line =
                "$FANSYNC_MIRROR $FANSYNC_HOOK $FANSYNC_TARGET $FANSYNC_KIND $FANSYNC_RELATIVE_PATH $FANSYNC_COUNT $SECRET";
            let program = script(work.path(), &format!("[ \"$1\" = \"$FANSYNC_PATH\" ] && echo \"{line}\" >> {}", log.display()));
            let m = Setup::new(fs)
                .targets(&[To::Local])
                .hook(&format!("name = 'h'\nkind = 'command'\nprefix = '{}'", program.display()))
                .start()?;
            m.src.mkdirs("d/e");
            m.src.write("d/e/f", b"1");
            m.src.write("g", b"2");
            m.check();
            delivered_all(&m, "h");
            let received = || {
                let mut lines: Vec<String> = fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_owned).collect();
                lines.sort();
                lines.dedup();
                fs::write(&log, "").expect("the log can be emptied");
                lines
            };
            let line = |kind: &str, path: &str| format!("mirror h t1 {kind} {path} 1 ");
            assert_eq!(
                received(),
                [line("changed", "d/e/f"), line("changed", "g"), line("directory", "d"), line("directory", "d/e")]
            );
            m.src.rename("d", "moved");
            m.src.remove("g");
            m.check();
            delivered_all(&m, "h");
            let received = received();
            for want in [
                line("deleted", "g"),
                line("deleted", "d"),
                line("deleted", "d/e/f"),
                line("directory", "moved"),
                line("directory", "moved/e"),
                line("changed", "moved/e/f"),
            ] {
                assert!(received.contains(&want), "{want} is not in {received:#?}");
            }
            Ok(())
        }),
        case("events_of_a_moved_tree_are_one_subtree", ANY, |fs| {
            let work = tempfile::tempdir().expect("a directory can be made");
            let log = work.path().join("log");
            let program = script(work.path(), &format!("echo \"$FANSYNC_KIND $FANSYNC_RELATIVE_PATH\" >> {}", log.display()));
            let m = Setup::new(fs)
                .watch("fanotify")
                .targets(&[To::Local])
                .hook(&format!("name = 'h'\nkind = 'command'\nwhen = 'event'\nprefix = '{}'", program.display()))
                .start()?;
            m.out.mkdirs("tree/e");
            m.out.write("tree/e/f", b"1");
            m.out.rename_to("tree", &m.src, "tree");
            m.src.rename("tree", "renamed");
            m.src.mkdir("made");
            m.check();
            delivered_all(&m, "h");
            let shown = fs::read_to_string(&log).unwrap_or_default();
            let has = |line: &str| shown.lines().any(|shown| shown == line);
            assert!(has("subtree renamed") && has("directory made") && !has("directory renamed"), "{shown}");
            Ok(())
        }),
        case("command_that_fails_is_tried_again_and_others_go_on", ANY, |fs| {
            let work = tempfile::tempdir().expect("a directory can be made");
            let (log, good) = (work.path().join("log"), work.path().join("good"));
            let program = script(
                work.path(),
                &format!(
                    "case $1 in */bad) [ -e {} ] || {{ echo no luck >&2; exit 9; }};; esac\nprintf '%s\\0' \"$1\" >> {}",
                    good.display(),
                    log.display()
                ),
            );
            let m = Setup::new(fs)
                .targets(&[To::Local])
                .hook(&format!("name = 'h'\nkind = 'command'\nprefix = '{}'\ntries = 1000\nretry_min = '20ms'\nretry_max = '50ms'\nkinds = ['changed']", program.display()))
                .start()?;
            m.src.write("bad", b"1");
            let failing = || m.daemon.hook_status("h").failures.into_iter().find(|f| f.path == "bad");
            let failure = poll_until(WAIT, failing).expect("the status tells of the failure");
            assert_eq!(failure.reason, "exit code 9: no luck");
            m.src.write("other", b"2");
            m.check();
            let others = || list(&log, m.src.root()).contains(&b"other"[..]).then_some(());
            assert!(poll_until(WAIT, others).is_some(), "one that fails holds up another");
            fs::write(&good, b"").expect("a file can be made");
            delivered_all(&m, "h");
            assert!(list(&log, m.src.root()).contains(&b"bad"[..]), "it was not tried again");
            assert!(m.daemon.hook_status("h").failures.is_empty());
            Ok(())
        }),
        case("command_is_given_up_after_its_tries", ANY, |fs| {
            let m = Setup::new(fs)
                .targets(&[To::Local])
                .hook("name = 'h'\nkind = 'command'\nprefix = 'false'\ntries = 2\nretry_min = '1ms'\nretry_max = '2ms'")
                .hook("name = 'ok'\nkind = 'command'\nprefix = 'false'\nsuccess = [0, 1]")
                .hook("name = 'whatever'\nkind = 'command'\nprefix = 'sh -c \"kill -9 $$\"'\nignore_error = true")
                .start()?;
            m.src.write("f", b"1");
            for hook in ["h", "ok", "whatever"] {
                delivered_all(&m, hook);
            }
            let h = m.daemon.hook_status("h");
            assert_eq!((h.failed, h.delivered, h.failures[0].path.as_str(), h.failures[0].tries), (1, 0, "f", 2));
            assert_eq!((m.daemon.hook_status("ok").delivered, m.daemon.hook_status("whatever").delivered), (1, 1));
            Ok(())
        }),
        case("command_that_takes_too_long_dies_with_its_children", ANY, |fs| {
            let work = tempfile::tempdir().expect("a directory can be made");
            let pids = work.path().join("pids");
            let program = script(
                work.path(),
                &format!(
                    "trap '' TERM\nsh -c 'trap \"\" TERM; while :; do sleep 1000; done' &\necho $$ $! > {}\nwait",
                    pids.display()
                ),
            );
            let m = Setup::new(fs)
                .targets(&[To::Local])
                .hook(&format!("name = 'h'\nkind = 'command'\nprefix = '{}'\ntries = 1\ntimeout = '300ms'", program.display()))
                .start()?;
            m.src.write("f", b"1");
            delivered_all(&m, "h");
            let h = m.daemon.hook_status("h");
            assert_eq!(h.failed, 1);
            assert!(h.failures[0].reason.contains("ran for more than 300ms and was killed"), "{:?}", h.failures);
            let text = fs::read_to_string(&pids).expect("the program has run");
            for pid in text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().expect("a number"))) {
                let gone = || kill(pid, None).is_err().then_some(());
                assert!(poll_until(WAIT, gone).is_some(), "process {pid} of a command that was killed lives");
            }
            Ok(())
        }),
        case("slow_hook_does_not_delay_the_mirror", ANY, |fs| {
            let work = tempfile::tempdir().expect("a directory can be made");
            let go = work.path().join("go");
            let program = script(work.path(), &format!("while [ ! -e {} ]; do sleep 0.05; done", go.display()));
            let m = Setup::new(fs)
                .targets(&[To::Local])
                .hook(&format!("name = 'h'\nkind = 'command'\nprefix = '{}'\ntimeout = '10m'", program.display()))
                .start()?;
            for n in 0..30 {
                m.src.write(format!("f{n}"), b"x");
                m.check();
            }
            let h = m.daemon.hook_status("h");
            assert_eq!((h.delivered, h.pending + h.in_flight), (0, 30), "nothing was delivered to the hook yet");
            fs::write(&go, b"").expect("a file can be made");
            delivered_all(&m, "h");
            assert_eq!(m.daemon.hook_status("h").delivered, 30);
            Ok(())
        }),
        case("pending_at_a_stop_is_delivered_after_the_next_start", ANY, |fs| {
            let work = tempfile::tempdir().expect("a directory can be made");
            let (go, log) = (work.path().join("go"), work.path().join("log"));
            let program =
                script(work.path(), &format!("[ -e {} ] || exit 1\nprintf '%s\\0' \"$1\" >> {}", go.display(), log.display()));
            let mut m = Setup::new(fs)
                .targets(&[To::Local])
                .hook(&format!(
                    "name = 'h'\nkind = 'command'\nprefix = '{}'\ntries = 1000\nkinds = ['changed', 'deleted']",
                    program.display()
                ))
                .start()?;
            m.src.write("a\n\u{e9}", b"1");
            m.src.write("gone", b"1");
            m.check();
            m.src.remove("gone");
            m.check();
            m.daemon.terminate();
            fs::write(&go, b"").expect("a file can be made");
            m.restart(Until::Reconciled);
            delivered_all(&m, "h");
            assert_eq!(list(&log, m.src.root()), ["a\n\u{e9}".into(), b"gone".to_vec()].into());
            m.rest("z", b"1"); // what was written just before a stop may be delivered again
            delivered_all(&m, "h");
            m.daemon.terminate();
            fs::remove_file(&log).expect("it is there");
            m.restart(Until::Reconciled);
            delivered_all(&m, "h");
            assert!(!log.exists(), "it was delivered twice");
            Ok(())
        }),
        case("delivered_when_the_last_target_has_it", ANY, last_target),
        case("deletions_held_on_one_target_are_not_delivered", ANY, held_on_one),
        case("changes_beside_a_held_comparison_are_delivered", ANY, beside_a_held_comparison),
        case("hook_alone_gets_events", ANY, |fs| {
            let work = tempfile::tempdir().expect("a directory can be made");
            let log = work.path().join("log");
            let program = script(work.path(), &format!("echo $FANSYNC_KIND $FANSYNC_RELATIVE_PATH >> {}", log.display()));
            let m = Setup::new(fs)
                .targets(&[])
                .hook(&format!("name = 'h'\nkind = 'command'\nprefix = '{}'\nexclude = ['*.swp']", program.display()))
                .start()?;
            let received = |want: &[&str]| {
                let all = || {
                    let text = fs::read_to_string(&log).unwrap_or_default();
                    want.iter().all(|w| text.lines().any(|line| line == *w)).then_some(())
                };
                let text = || fs::read_to_string(&log).unwrap_or_default();
                assert!(poll_until(WAIT, all).is_some(), "{want:?} is not in {}", text());
            };
            m.src.write("f", b"1");
            m.src.mkdir("d");
            m.src.write("d/x.swp", b"1");
            m.src.symlink("f", "link");
            received(&["changed f", "directory d", "changed link"]);
            m.src.remove("f");
            m.src.rename("d", "e");
            received(&["deleted f", "deleted d", "subtree e"]);
            assert!(!fs::read_to_string(&log).unwrap_or_default().contains("swp"), "what is excluded was delivered");
            Ok(())
        }),
    ]
}

/// A hook that writes the paths it gets into `log`, each ended by a NUL.
fn lists(name: &str, log: &Path, kinds: &str, more: &str) -> String {
    let suffix = format!("suffix = '>> {}'", log.display());
    format!("name = '{name}'\nkind = 'command'\nshell = true\nprefix = \"printf '%s\\\\0'\"\n{suffix}\nkinds = {kinds}\n{more}")
}

/// Waits until a path was delivered to a hook.
#[track_caller]
fn delivered(m: &Mirror, log: &Path, path: &str) {
    let shown = || list(log, m.src.root()).contains(path.as_bytes()).then_some(());
    assert!(poll_until(WAIT, shown).is_some(), "{path} was not delivered\n{}", m.daemon.report());
}

/// Two targets, one of which holds deletions: these are delivered once they were let through, and others
/// meanwhile.
fn held_on_one(fs: crate::fixture::fs::Fs) -> Run<()> {
    let work = tempfile::tempdir().expect("a directory can be made");
    let (all, one) = (work.path().join("all"), work.path().join("one"));
    let m = Setup::new(fs)
        .targets(&[To::Module, To::Local])
        .target_key("max_delete", 5)
        .before(|src| {
            src.mkdirs("big");
            (0..20).for_each(|n| src.write(format!("big/{n}"), b"1"));
            src.write("lone", b"1");
        })
        .hook(&lists("all", &all, "['deleted']", ""))
        .hook(&lists("one", &one, "['deleted']", "target = 't2'"))
        .start()?;
    m.check();
    m.daemon.does(&["pause", "--target", "t2"]);
    m.src.rename_to("big", &m.out, "big");
    m.daemon.target_status_until("t1", "held", |t| t.state == "held" && t.held_deletes > 5);
    m.daemon.does(&["resume", "--target", "t2"]);
    delivered(&m, &one, "big/7");
    m.daemon.flush(Some("t2"));
    assert!(m.targets[0].dir.has("big/7") && !m.targets[1].dir.has("big"));
    // By now it would have been delivered: this is delivered after it.
    m.src.remove("lone");
    delivered(&m, &all, "lone");
    assert_eq!(list(&all, m.src.root()), [b"lone".to_vec()].into(), "delivered before the last target had carried it out");
    assert!(m.daemon.hook_status("all").waiting > 5);
    m.daemon.does(&["resume", "--accept-deletes"]);
    m.check();
    delivered_all(&m, "all");
    let paths: BTreeSet<Vec<u8>> =
        (0..20).map(|n| format!("big/{n}").into()).chain([b"big".to_vec(), b"lone".to_vec()]).collect();
    assert_eq!(list(&all, m.src.root()), paths);
    Ok(())
}

/// Where a comparison of the whole tree is held for its deletions, what changes by itself is delivered
/// as before.
fn beside_a_held_comparison(fs: crate::fixture::fs::Fs) -> Run<()> {
    let work = tempfile::tempdir().expect("a directory can be made");
    let all = work.path().join("all");
    let m = Setup::new(fs)
        .targets(&[To::Module, To::Local])
        .target_key("max_delete", 5)
        .before(|src| (0..9).for_each(|n| src.write(format!("{n}"), b"1")))
        .hook(&lists("all", &all, "['changed', 'deleted']", ""))
        .start()?;
    m.check();
    (0..9).for_each(|n| m.targets[0].dir.write(format!("only here {n}"), b"1"));
    m.daemon.reconcile();
    m.daemon.target_status_until("t1", "held", |t| t.state == "held" && t.held_deletes == 9);
    // The one that is late decides, whichever it is.
    for late in ["t1", "t2"] {
        m.daemon.does(&["pause", "--target", late]);
        let (new, gone) = (format!("new {late}"), if late == "t1" { "1" } else { "2" });
        m.src.write(&new, b"1");
        m.src.remove(gone);
        let other = &m.targets[usize::from(late == "t1")];
        assert!(poll_until(WAIT, || (other.dir.has(&new) && !other.dir.has(gone)).then_some(())).is_some());
        assert!(!list(&all, m.src.root()).contains(new.as_bytes()), "delivered before the last target has it");
        m.daemon.does(&["resume", "--target", late]);
        delivered(&m, &all, &new);
        delivered(&m, &all, gone);
    }
    m.daemon.does(&["resume", "--accept-deletes"]);
    m.check();
    delivered_all(&m, "all");
    Ok(())
}

/// Two targets, one of them away: only a hook of the other one gets it.
fn last_target(fs: crate::fixture::fs::Fs) -> Run<()> {
    let work = tempfile::tempdir().expect("a directory can be made");
    let (all, one) = (work.path().join("all"), work.path().join("one"));
    let hook = |name: &str, log: &Path, more: &str| lists(name, log, "['changed', 'deleted']", more);
    let mut m = Setup::new(fs)
        .targets(&[To::Module, To::Local])
        .hook(&hook("all", &all, ""))
        .hook(&hook("one", &one, "target = 't2'"))
        .start()?;
    m.src.write("both", b"1");
    m.check();
    delivered_all(&m, "all");
    m.rsyncd.as_mut().expect("a module has a daemon").stop();
    m.src.write("one", b"1");
    m.daemon.flush(Some("t2"));
    let received = || list(&one, m.src.root()).contains(&b"one"[..]).then_some(());
    assert!(poll_until(WAIT, received).is_some(), "nothing was delivered to the hook of t2");
    assert_eq!(m.daemon.hook_status("all").waiting, 1);
    assert_eq!(list(&all, m.src.root()), [b"both".to_vec()].into(), "delivered before the last target had it");
    m.rsyncd.as_mut().expect("a module has a daemon").restart();
    m.check();
    delivered_all(&m, "all");
    assert_eq!(list(&all, m.src.root()), [b"both".to_vec(), b"one".to_vec()].into());
    Ok(())
}

/// A program.
fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("program");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    path
}
