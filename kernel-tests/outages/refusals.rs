//! Servers that say no, and an rsync that is not there.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::Signal;

use super::{becomes, kept, other_is_well, rsyncd, tree, two};
use crate::fixture::daemon::{Config, MirrorTable, TargetTable, fansync};
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Mirror, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("module_read_only", &[Fs::Tmpfs], |fs| refused(fs, "read only = yes", "module is read only")),
        case("module_refuses_delete", &[Fs::Tmpfs], |fs| refused(fs, "refuse options = delete", "refuse --delete")),
        case("module_refuses_deletes_by_name", &[Fs::Tmpfs], |fs| {
            let m = two(fs).module("refuse options = delete-missing-args").before(tree).start()?;
            m.check();
            m.src.remove("d/sub");
            m.src.write("d/new", b"x");
            m.check();
            m.src.remove("d/new");
            m.src.remove("d/link");
            m.check();
            let status = m.daemon.target_status("t1");
            assert!(status.failures.is_empty() && status.state == "idle", "{status:?}");
            Ok(())
        }),
        case("one_connection_is_enough", &[Fs::Tmpfs], |fs| {
            let mut m = two(fs).before(tree).start()?;
            at_most_one_connection(&mut m);
            for n in 0..300 {
                m.src.write(format!("d/{n}"), b"x");
            }
            m.check();
            // More than a waiting process would take, a whole directory, and small ones beside.
            m.src.rename("d", "e");
            m.src.write("small", b"x");
            m.check();
            Ok(())
        }),
        case("connections_used_up_by_others", &[Fs::Tmpfs], |fs| {
            let mut m = two(fs).before(tree).start()?;
            at_most_one_connection(&mut m);
            let port = rsyncd(&mut m).port();
            let held = poll_until(WAIT, || hold_connection(port)).expect("a connection can be had");
            m.src.write("d/file", b"no room for it");
            becomes(&m, "down", "max connections");
            other_is_well(&m);
            kept(&m);
            drop(held);
            m.check();
            Ok(())
        }),
        case("password", &[Fs::Tmpfs], |fs| {
            let dir = work_dir();
            let (password, secrets) = (dir.path().join("password"), dir.path().join("secrets"));
            secret(&secrets, "root:right\nnobody:right\n");
            secret(&password, "wrong\n");
            let module = format!("auth users = *\nsecrets file = {}", secrets.display());
            let m = two(fs).module(&module).target_key("password_file", password.display().to_string());
            let m = m.while_reconciling().before(tree).start()?;
            becomes(&m, "config", "auth failed");
            other_is_well(&m);
            kept(&m);
            secret(&password, "right\n");
            m.check();
            // It goes bad again, and is then gone.
            secret(&secrets, "root:other\nnobody:other\n");
            m.src.remove("d/sub");
            let dropped = || {
                m.src.write("d/file", b"again");
                (m.daemon.target_status("t1").state == "config").then_some(())
            };
            assert!(poll_until(WAIT, dropped).is_some(), "a changed password is not noticed");
            fs::remove_file(&password).expect("the password file can be removed");
            becomes(&m, "config", "cannot use the password file");
            let log = m.daemon.log();
            assert!(
                log.contains("target cannot be used as it is configured") && !log.contains("target refuses us: cannot use"),
                "{log}"
            );
            other_is_well(&m);
            secret(&password, "other\n");
            m.check();
            Ok(())
        }),
        case("module_unknown_and_added", &[Fs::Tmpfs], |fs| {
            let mut m = two(fs).before(tree).start()?;
            m.check();
            let dir = rsyncd(&mut m).remove("t1");
            rsyncd(&mut m).signal(Signal::SIGKILL, false);
            m.src.write("d/file", b"nowhere to go");
            becomes(&m, "config", "Unknown module");
            other_is_well(&m);
            kept(&m);
            // What comes back under the name need not be what it was.
            m.dst().remove("d/sub");
            rsyncd(&mut m).add("t1", dir);
            m.check();
            Ok(())
        }),
        case("rsync_missing_or_too_old", &[Fs::Tmpfs], |_| {
            let dir = work_dir();
            let (source, target) = (dir.path().join("source"), dir.path().join("target"));
            fs::create_dir(&source).and_then(|()| fs::create_dir(&target)).expect("directories can be made");
            let old = program(&dir.path().join("old"), "echo 'rsync  version 3.1.1  protocol version 31'");
            let other = program(&dir.path().join("other"), "echo 'BusyBox v1.36'; exit 1");
            let none = dir.path().join("none");
            for (rsync, words) in [(none, "install rsync"), (old, "too old"), (other, "is this rsync")] {
                let targets = vec![TargetTable { name: "t".into(), url: target.display().to_string(), ..Default::default() }];
                let rsync = Some(rsync);
                let mirror =
                    MirrorTable { name: "m".into(), source: source.clone(), rsync, target: targets, ..Default::default() };
                let config = Config::new(dir.path(), vec![mirror]).write(dir.path()).display().to_string();
                let ran = fansync(&["run", "--config", &config], WAIT);
                assert!(ran.code == 69 && ran.stderr.contains(words), "ended with {}: {}{}", ran.code, ran.stdout, ran.stderr);
            }
            Ok(())
        }),
    ]
}

/// A module that gets `lines` while the mirror runs, and loses them again.
fn refused(fs: Fs, lines: &str, words: &str) -> crate::fixture::Run<()> {
    let mut m = two(fs).before(tree).start()?;
    m.check();
    rsyncd(&mut m).module("t1", lines);
    // The connections that wait were made under the old terms.
    rsyncd(&mut m).signal(Signal::SIGKILL, false);
    m.src.write("d/file", b"refused");
    m.src.remove("d/sub");
    becomes(&m, "config", words);
    other_is_well(&m);
    kept(&m);
    assert!(m.dst().has("d/sub"), "a target that refuses has changed");
    rsyncd(&mut m).module("t1", "");
    m.check();
    Ok(())
}

fn at_most_one_connection(m: &mut Mirror) {
    let lock = m.scratch("rsyncd.lock").display().to_string();
    rsyncd(m).module("t1", &format!("max connections = 1\nlock file = {lock}"));
    rsyncd(m).signal(Signal::SIGKILL, false);
    m.src.write("limited", b"x");
    m.check();
}

/// A client of the module that says nothing after its name; `None` when there is no connection
/// left.
fn hold_connection(port: u16) -> Option<TcpStream> {
    let mut client = TcpStream::connect(("127.0.0.1", port)).ok()?;
    client.set_read_timeout(Some(WAIT)).expect("a socket can have a time-out");
    let mut lines = BufReader::new(client.try_clone().expect("a descriptor can be copied")).lines();
    lines.next()?.ok()?; // the greeting
    client.write_all(b"@RSYNCD: 31.0\nt1\n").ok()?;
    let answer = lines.next()?.ok()?;
    (answer == "@RSYNCD: OK").then_some(client)
}

fn secret(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::set_permissions(&new, Permissions::from_mode(0o600)))
        .and_then(|()| fs::rename(&new, path))
        .expect("a password can be written");
}

/// A shell script as a program.
pub fn program(path: &Path, body: &str) -> std::path::PathBuf {
    fs::write(path, format!("#!/bin/sh\n{body}\n"))
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)))
        .expect("a script can be written");
    path.into()
}
