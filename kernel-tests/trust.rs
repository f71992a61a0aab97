//! Whose files they are: what others than root and the calling user can change is refused or warned
//! of.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::fixture::daemon::{binary, fansync};
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::run;
use crate::fixture::{Case, Run, Setup, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("configuration_that_others_can_change", &[Fs::Ext4, Fs::Tmpfs], configuration),
        case("state_and_socket_where_others_can_write", &[Fs::Tmpfs], state_and_socket),
        case("an_ordinary_users_own_mirror", &[Fs::Tmpfs], ordinary_user),
        case("an_rsync_that_cannot_be_confined", &[Fs::Tmpfs], unconfined),
        case("secrets_are_not_printed", &[Fs::Tmpfs], secrets),
    ]
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("the mode can be set");
}

const HOOK: &str =
    "[[mirror]]\nname = \"m\"\nsource = \"/srv\"\n[[mirror.hook]]\nname = \"h\"\nkind = \"command\"\nprefix = \"/bin/true\"\n";

fn configuration(_: Fs) -> Run<()> {
    let work = work_dir();
    let at = |name: &str| work.path().join(name);
    for name in ["safe", "group", "open", "links"] {
        fs::create_dir(at(name)).expect("a directory can be made");
        mode(&at(name), 0o755);
    }
    let file = at("safe/c.toml");
    fs::write(&file, HOOK).expect("a file can be written");
    mode(&file, 0o600);
    let code = |path: &Path| fansync(&["check", "--config", &path.display().to_string()], WAIT).code;
    assert_eq!(code(&file), 0);
    chown(&file, None, Some(65534)).expect("root may");
    for bits in [0o664, 0o660] {
        mode(&file, bits);
        assert_eq!(code(&file), 78, "group 65534, mode {bits:o}");
    }
    mode(&file, 0o640);
    assert_eq!(code(&file), 0, "a group may read it");
    fs::write(at("group/c.toml"), HOOK).expect("a file can be written");
    chown(at("group"), None, Some(65534)).expect("root may");
    mode(&at("group"), 0o775);
    assert_eq!(code(&at("group/c.toml")), 78, "in a directory that a group may write");
    // Behind a chain of links, one of which others can replace.
    mode(&at("open"), 0o777);
    symlink(&file, at("open/l")).expect("a link can be made");
    symlink(at("open/l"), at("links/c.toml")).expect("a link can be made");
    assert_eq!(code(&at("links/c.toml")), 78, "by a link in a directory of mode 777");
    // The program of a hook.
    let program = at("open/program");
    fs::write(&program, "#!/bin/sh\n").expect("a file can be written");
    mode(&program, 0o755);
    fs::write(&file, HOOK.replace("/bin/true", program.to_str().expect("text"))).expect("a file can be written");
    assert_eq!(code(&file), 78, "a hook's program in a directory of mode 777");
    fs::rename(&program, at("safe/program")).expect("it can be moved");
    fs::write(&file, HOOK.replace("/bin/true", at("safe/program").to_str().expect("text"))).expect("a file can be written");
    assert_eq!(code(&file), 0);
    Ok(())
}

fn state_and_socket(_: Fs) -> Run<()> {
    let work = work_dir();
    let at = |name: &str| work.path().join(name);
    for name in ["src", "dst", "open", "victim", "safe"] {
        fs::create_dir(at(name)).expect("a directory can be made");
        mode(&at(name), 0o755);
    }
    mode(&at("open"), 0o777);
    symlink(at("victim"), at("open/state")).expect("a link can be made");
    symlink(at("victim"), at("open/run")).expect("a link can be made");
    for (state, socket) in [("open/state", "safe/sock"), ("safe/state", "open/run/sock"), ("safe/state", "open/sock")] {
        let text = format!(
            "[daemon]\nstate_dir = {:?}\nstatus_socket = {:?}\n[[mirror]]\nname = \"m\"\nsource = {:?}\n\
             [[mirror.target]]\nname = \"t\"\nurl = {:?}\n",
            at(state),
            at(socket),
            at("src"),
            at("dst")
        );
        fs::write(at("c.toml"), text).expect("a file can be written");
        let config = at("c.toml").display().to_string();
        let ran = fansync(&["check", "--config", &config], WAIT);
        assert!(ran.code == 0 && ran.stderr.contains("has mode 0777"), "{state} {socket}: {ran:?}");
        let ran = fansync(&["run", "--config", &config], WAIT);
        assert!(ran.code == 77 && ran.stderr.contains("has mode 0777"), "{state} {socket}: {ran:?}");
        assert_eq!(fs::metadata(at("victim")).expect("it is there").permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs::read_dir(at("victim")).expect("it can be read").count(), 0, "something was made through a link");
    }
    Ok(())
}

fn ordinary_user(_: Fs) -> Run<()> {
    let work = work_dir();
    let home = work.path().join("home");
    for dir in [work.path().to_owned(), home.clone(), home.join("src"), home.join("dst")] {
        fs::create_dir_all(&dir).expect("a directory can be made");
        mode(&dir, 0o755);
    }
    fs::write(home.join("src/f"), "mine").expect("a file can be written");
    fs::write(home.join("pass"), "pw\n").expect("a file can be written");
    mode(&home.join("pass"), 0o600);
    for at in ["", "src", "dst", "src/f", "pass"] {
        chown(home.join(at), Some(4711), Some(4711)).expect("root may");
    }
    let text = format!(
        "[daemon]\nstate_dir = {:?}\nstatus_socket = {:?}\n[[mirror]]\nname = \"m\"\nsource = {:?}\n\
         [[mirror.target]]\nname = \"t\"\nurl = \"rsync://u@127.0.0.1:1/m\"\npassword_file = {:?}\n",
        home.join("state"),
        home.join("run/sock"),
        home.join("src"),
        home.join("pass")
    );
    fs::write(home.join("c.toml"), text).expect("a file can be written");
    chown(home.join("c.toml"), Some(4711), Some(4711)).expect("root may");
    mode(&home.join("c.toml"), 0o644);
    let as_user = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "4711", "--regid", "4711", "--clear-groups", "--"]).arg(binary()).args(args);
        run(&mut command, WAIT)
    };
    let text = |at: &str| home.join(at).display().to_string();
    let ran = as_user(&["check", "--config", &text("c.toml")]);
    assert!(ran.code == 0 && !ran.stderr.contains("warning"), "{ran:?}");
    let ran = as_user(&["mirror", "--once", "--socket", &text("run/s"), &text("src"), &text("dst")]);
    assert!(ran.code == 0, "{ran:?}");
    assert_eq!(fs::read_to_string(home.join("dst/f")).expect("it is there"), "mine");
    Ok(())
}

/// An rsync of this host that says it is older, and lacks the option.
fn unconfined(fs: Fs) -> Run<()> {
    let work = work_dir();
    let old = work.path().join("rsync");
    let script = "#!/bin/sh\nfor word; do case $word in --confine-root*) echo 'rsync: unknown option' >&2; exit 1;; esac; done\n\
                  [ \"$1\" = -VV ] && { rsync -VV | sed 's/\"version\": *\"[^\"]*\"/\"version\": \"3.2.7\"/'; exit; }\nexec rsync \"$@\"\n";
    std::fs::write(&old, script).expect("a script can be written");
    mode(&old, 0o755);
    let m = Setup::new(fs).key("rsync", old.to_str().expect("text")).start()?;
    m.src.write("f", b"it works");
    m.check();
    let shown = m.daemon.client(&["status"], WAIT).stdout;
    assert!(shown.contains("UNSAFE") && shown.contains("rsync 3.2.7 has no --confine-root"), "{shown}");
    assert!(m.daemon.log().contains("has no --confine-root"), "{}", m.daemon.log());
    // The configuration that it runs with.
    let text = std::fs::read_to_string(m.scratch("fansync.toml")).expect("it can be read");
    let file = work.path().join("c.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).expect("a file can be written");
        fansync(&["check", "--config", &file.display().to_string()], WAIT)
    };
    let ran = check(&text);
    assert!(ran.code == 0 && ran.stderr.contains("rsync 3.2.7 has no --confine-root"), "{ran:?}");
    drop(m);
    let strict = text.replace("[[mirror]]\n", "[[mirror]]\nrequire_confined = true\n");
    assert!(check(&strict).stderr.contains("does not start"), "{strict}");
    let ran = fansync(&["run", "--config", &file.display().to_string()], WAIT);
    assert!(ran.code == 78 && ran.stderr.contains("require_confined"), "{ran:?}");
    Ok(())
}

fn secrets(_: Fs) -> Run<()> {
    let work = work_dir();
    let file = work.path().join("c.toml");
    let config = file.display().to_string();
    let text = HOOK.replace(
        "kind = \"command\"\nprefix = \"/bin/true\"",
        "kind = \"http\"\nurl = \"https://h/p?token=pw1\"\nheaders = [\"Authorization: pw2\"]",
    );
    fs::write(&file, &text).expect("a file can be written");
    mode(&file, 0o644);
    for command in ["check", "run"] {
        let ran = fansync(&[command, "--config", &config], WAIT);
        assert!(ran.code == 78 && ran.stderr.contains("chmod 600") && !ran.stderr.contains("pw"), "{ran:?}");
    }
    mode(&file, 0o600);
    let ran = fansync(&["check", "--config", &config, "--effective"], WAIT);
    assert!(ran.code == 0 && ran.stdout.contains("***") && !ran.stdout.contains("pw"), "{ran:?}");
    let ran = fansync(&["check", "--config", &config, "--effective", "--show-secrets"], WAIT);
    assert!(ran.code == 0 && ran.stdout.contains("token=pw1") && ran.stdout.contains("pw2"), "{ran:?}");
    fs::write(&file, text.replace("pw2\"]", "pw2]")).expect("a file can be written");
    let ran = fansync(&["check", "--config", &config], WAIT);
    assert!(ran.code == 78 && !ran.stderr.contains("pw"), "{ran:?}");
    Ok(())
}
