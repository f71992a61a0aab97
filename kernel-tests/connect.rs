//! `fansync check --connect`: what it finds at each kind of target, and that it leaves nothing
//! there.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use crate::fixture::daemon::binary;
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::run;
use crate::fixture::rsyncd::{self, Rsyncd, Sshd, free_port};
use crate::fixture::{Case, Run, WAIT, case};

const NOBODY: u32 = 65_534;

pub fn cases() -> Vec<Case> {
    vec![
        case("check_tries_each_target", &[Fs::Tmpfs], connect),
        case("check_tries_a_daemon_that_ssh_starts", &[Fs::Tmpfs], behind_ssh),
    ]
}

fn behind_ssh(_: Fs) -> Run<()> {
    let work = work_dir();
    let at = |name: &str| work.path().join(name).display().to_string();
    for name in ["src", "tmp", "m"] {
        fs::create_dir(at(name)).expect("it can be made");
    }
    let sshd = Sshd::start(work.path(), work.path())?;
    let rsync_path = rsyncd::behind_ssh(work.path(), "m", at("m").as_ref(), "max connections = 3");
    let check = |url: &str, keys: &str| {
        let mirror = format!("[[mirror]]\nname = \"m\"\nsource = {:?}\n", at("src"));
        let daemon = format!("[daemon]\nstatus_socket = {:?}\n", at("s"));
        let target = format!("[[mirror.target]]\nname = \"t\"\nurl = {url:?}\nrsync_path = {rsync_path:?}\n{keys}");
        fs::write(at("config.toml"), format!("{daemon}{mirror}{target}")).expect("it can be written");
        let mut check = Command::new(binary());
        run(check.args(["check", "--connect", "--config", &at("config.toml")]).env("TMPDIR", at("tmp")), WAIT)
    };
    let shell = format!("ssh = {:?}\n", sshd.command());
    let dead = shell.replace(&format!(" {} ", sshd.port()), &format!(" {} ", free_port()));
    for (url, keys, code, wants) in [
        (
            "root@127.0.0.1::m",
            &shell,
            0,
            &[
                "m/t  ssh+rsync://root@127.0.0.1/m\n",
                "127.0.0.1 answers through ssh: protocol 3",
                "the module lets fansync in",
                "as it was sent",
                "ok       and owners are kept",
                "warning  5 of 8 connections are refused",
            ][..],
        ),
        ("ssh+rsync://root@127.0.0.1/none", &shell, 78, &["Unknown module", "write the module none there"]),
        ("rsync://root@127.0.0.1/m", &dead, 75, &["does not answer: ", "answers @RSYNCD without a question"]),
        ("rsync://root@127.0.0.1:1/m", &shell, 78, &[]),
    ] {
        let ran = check(url, keys);
        assert!(ran.code == code, "{url}: {}: {}{}", ran.code, ran.stdout, ran.stderr);
        wants.iter().for_each(|want| assert!(ran.stdout.contains(want), "{want} for {url}: {}", ran.stdout));
    }
    assert_eq!(fs::read_dir(at("m")).expect("it is there").count(), 0, "something is left on the target");
    Ok(())
}

fn connect(_: Fs) -> Run<()> {
    let work = work_dir();
    let at = |name: &str| work.path().join(name).display().to_string();
    let names = ["good", "few", "sealed", "strict", "nobodys", "harmless", "fake", "blind"];
    for name in names.iter().chain(&["src", "tmp", "local", "local/before"]) {
        fs::create_dir(at(name)).expect("it can be made");
    }
    fs::write(at("src/f"), "1").expect("it can be written");
    names.iter().for_each(|name| fs::write(at(&format!("{name}/before")), name).expect("it can be written"));
    let mut modules: Vec<(String, PathBuf)> = names.iter().map(|name| ((*name).to_owned(), at(name).into())).collect();
    // Enough of them for a listing that shows how it is sent.
    modules.extend((0..6).map(|n| (format!("more{n}"), at("good").into())));
    let mut rsyncd = Rsyncd::start(work.path(), &modules)?;
    rsyncd.module("few", &format!("max connections = 3\nlock file = {}\n", at("lock")));
    rsyncd.module("sealed", "read only = yes\n");
    rsyncd.module("strict", "hosts allow = 192.0.2.1\n");
    let none = "uid = nobody\ngid = 65534\n";
    rsyncd.module("nobodys", none);
    rsyncd.module("harmless", &format!("{none}incoming chmod = Fug-s\n"));
    rsyncd.module("fake", &format!("{none}fake super = yes\n"));
    rsyncd.module("blind", "write only = yes\n");
    for name in ["nobodys", "harmless", "fake"] {
        chown(at(name), Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    // The modules' user has to get there.
    fs::set_permissions(work.path(), Permissions::from_mode(0o755)).expect("the mode can be set");
    let config = at("config.toml");
    let check = |url: &str| {
        let mirror = format!("[[mirror]]\nname = \"m\"\nsource = {:?}\nexclude = [\"*\"]\n", at("src"));
        let daemon = format!("[daemon]\nstatus_socket = {:?}\n", at("s"));
        fs::write(&config, format!("{daemon}{mirror}[[mirror.target]]\nname = \"t\"\nurl = {url:?}\n"))
            .expect("it can be written");
        let mut check = Command::new(binary());
        run(check.args(["check", "--connect", "--config", &config]).env("TMPDIR", at("tmp")), WAIT)
    };
    let dead = format!("rsync://127.0.0.1:{}/m", free_port());
    for (url, code, wants) in [
        (
            rsyncd.url("good"),
            0,
            &[
                "protocol 3",
                "can be written",
                "as it was sent",
                "ok       and owners are kept",
                "and deleted",
                "8 connections at a time",
            ][..],
        ),
        (at("local"), 0, &["the directory is there", "can be written", "as it was sent", "and deleted"]),
        (rsyncd.url("few"), 0, &["warning  5 of 8 connections are refused", "`max connections` to 8"]),
        (rsyncd.url("nobodys"), 0, &["warning  owners are not kept, and set-user-ID bits are", "incoming chmod = Fug-s"]),
        (rsyncd.url("harmless"), 0, &["ok       owners are not kept, and set-ID bits are taken away"]),
        (rsyncd.url("fake"), 0, &["ok       and owners are kept"]),
        (rsyncd.url("blind"), 0, &["note     whether owners are kept is not known, as the target does not show it"]),
        (rsyncd.url("sealed"), 78, &["error    it refuses: ", "Write `read only = no`"]),
        (rsyncd.url("strict"), 78, &["error    it refuses: ", "`hosts allow`"]),
        (rsyncd.url("none"), 78, &["Unknown module", "lists the modules that are served"]),
        (dead, 75, &["does not answer: Connection refused", "see that 127.0.0.1 answers on port"]),
        (at("away"), 75, &["the target directory does not exist"]),
    ] {
        let ran = check(&url);
        assert!(ran.code == code, "{url}: {}: {}{}", ran.code, ran.stdout, ran.stderr);
        wants.iter().for_each(|want| assert!(ran.stdout.contains(want), "{want} for {url}: {}", ran.stdout));
    }
    // Nothing came from the source, and nothing that was there went or changed.
    for dir in names.iter().chain(&["local"]) {
        let left = fs::read_dir(at(dir)).expect("it is there").flatten().map(|e| e.file_name()).collect::<Vec<_>>();
        assert_eq!(left, ["before"], "{dir}");
    }
    assert_eq!(fs::read_dir(at("tmp")).expect("it is there").count(), 0, "a directory is left here");
    Ok(())
}
