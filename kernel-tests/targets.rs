//! Several targets, their kinds, and one that is away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::fixture::daemon::Until;
use crate::fixture::fs::{ALL, Fs, work_dir};
use crate::fixture::proc::{must, poll_until};
use crate::fixture::tree::{Dir, Times, differences};
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("module_and_local", ALL, |fs| work_out(&Setup::new(fs).targets(&[To::Module, To::Local]).start()?)),
        case("local", ALL, |fs| work_out(&Setup::new(fs).targets(&[To::Local]).start()?)),
        case("module_local_and_ssh", &[Fs::Ext4], |fs| {
            work_out(&Setup::new(fs).targets(&[To::Module, To::Local, To::Ssh]).start()?)
        }),
        case("ssh", &[Fs::Tmpfs], |fs| work_out(&Setup::new(fs).targets(&[To::Ssh]).start()?)),
        case("directories_of_the_login_over_ssh", &[Fs::Tmpfs], |fs| {
            work_out(&Setup::new(fs).targets(&[To::SshHome, To::Ssh, To::SshHome]).start()?)
        }),
        case("the_home_of_the_login_over_ssh", &[Fs::Tmpfs], |fs| {
            work_out(&Setup::new(fs).targets(&[To::SshWholeHome]).start()?)
        }),
        case("a_daemon_that_ssh_starts", &[Fs::Tmpfs], |fs| work_out(&Setup::new(fs).targets(&[To::SshModule]).start()?)),
        case("a_daemon_that_ssh_starts_compares_asks_and_goes_away", &[Fs::Ext4], |fs| {
            let keys = work_dir();
            let file = |name: &str, text: &str| {
                let path = keys.path().join(name);
                fs::write(&path, text).expect("it can be written");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the mode can be set");
                path.display().to_string()
            };
            let (secrets, password) = (file("secrets", "root:right\n"), file("password", "wrong\n"));
            let mut m = Setup::new(fs)
                .targets(&[To::SshModule])
                .module(&format!("auth users = root\nsecrets file = {secrets}"))
                .target_key("password_file", password.as_str())
                .target_key("retry_min", "100ms")
                .target_key("retry_max", "200ms")
                .key("first_max_delete", "100%")
                .before(tree)
                .before_on_target(|dst| {
                    dst.mkdirs("d/stray/deep");
                    dst.write("d/stray/deep/file", b"of the target alone");
                    dst.write("d/file", b"an older one");
                })
                .while_reconciling()
                .start()?;
            let refused = || Some(m.daemon.target_status("t1")).filter(|t| t.state == "config");
            let refused = poll_until(WAIT, refused).expect("the status says that the target refuses");
            assert!(refused.advice.contains("holds the password of root"), "{refused:?}");
            assert!(m.dst().has("d/stray/deep/file"), "a module that refuses was written to");
            file("password", "right\n");
            m.check();
            m.src.write("d/file", b"changed");
            m.src.rename("d/sub", "sub");
            m.check();
            sshd(&mut m).stop();
            m.src.write("d/file", b"while the target is away");
            m.src.remove("sub");
            let down = || Some(m.daemon.target_status("t1")).filter(|t| t.state == "down");
            let down = poll_until(WAIT, down).expect("the status says that the target is down");
            assert!(down.advice.contains("root@127.0.0.1 rsync --config=") && down.advice.contains("rsyncd.conf"), "{down:?}");
            sshd(&mut m).restart();
            m.check();
            Ok(())
        }),
        case("one_away_does_not_hold_up_the_other", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let mut m = Setup::new(fs).targets(&[To::Module, To::Local]).start()?;
            tree(&m.src);
            m.check();
            rsyncd(&mut m).stop();
            for n in 0..20 {
                m.src.write(format!("while away {n}"), b"x");
                m.daemon.flush(Some("t2"));
            }
            m.src.rename("d", "e");
            m.src.write("e/later", b"y");
            m.daemon.flush(Some("t2"));
            let found = differences(m.src.root(), m.targets[1].dir.root(), Times::All, &|_| false);
            assert!(found.is_empty(), "the target that is there lacks something:\n{found}");
            assert!(!m.dst().has("while away 0"), "the target that is away received something");
            let down = || Some(m.daemon.target_status("t1")).filter(|t| t.state == "down");
            let down = poll_until(WAIT, down).expect("the status says that the target is down");
            assert!(down.advice.contains("serves the module t1: `rsync --contimeout=10 rsync://127.0.0.1:"), "{down:?}");
            let log = m.daemon.log();
            let shown = log.lines().find(|line| line.contains("target is down: ")).expect("the log tells");
            assert!(shown.contains("target_name=t1") && shown.contains(&down.advice), "{shown}");
            rsyncd(&mut m).restart();
            m.check();
            Ok(())
        }),
        case("away_and_back_many_times", &[Fs::Tmpfs], |fs| {
            let mut m = Setup::new(fs).start()?;
            tree(&m.src);
            m.check();
            for round in 0..5 {
                rsyncd(&mut m).stop();
                m.src.write("d/file", format!("round {round}"));
                m.src.write(format!("new {round}"), b"x");
                rsyncd(&mut m).restart();
                m.src.write(format!("newer {round}"), b"y");
                m.check();
            }
            Ok(())
        }),
        case("cut_off_in_a_burst", &[Fs::Ext4], |fs| {
            let mut m = Setup::new(fs).start()?;
            for n in 0..3_000 {
                m.src.write(format!("file {n}"), vec![7; 3_000]);
                if n % 1_000 == 700 {
                    rsyncd(&mut m).restart();
                }
            }
            m.check();
            Ok(())
        }),
        case("tree_that_could_not_be_made_comes_whole_later", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).target_key("retry_min", "100ms").target_key("retry_max", "200ms").start()?;
            m.src.mkdir("d");
            m.out.mkdirs("sub/deeper");
            m.out.write("sub/file", b"one");
            m.out.write("sub/deeper/file", b"two");
            m.check();
            let attribute = |sign: &str| must(Command::new("chattr").arg(format!("{sign}i")).arg(m.dst().at("d")));
            attribute("+");
            m.out.rename_to("sub", &m.src, "d/sub");
            let failed =
                poll_until(WAIT, || m.daemon.target_status("t1").failures.iter().any(|f| f.path == "d/sub").then_some(()));
            attribute("-");
            assert!(failed.is_some(), "the status does not tell of the directory that cannot be made");
            m.check();
            Ok(())
        }),
        case("killed_server_leaves_no_litter", &[Fs::Tmpfs], |fs| {
            let mut m = Setup::new(fs).start()?;
            m.src.mkdir("d");
            m.check();
            m.src.sparse("d/large", 400 << 20);
            let receiving = |m: &Mirror| {
                let names = std::fs::read_dir(m.dst().at("d")).expect("the target can be read").flatten();
                names.into_iter().any(|entry| entry.file_name().as_encoded_bytes().starts_with(b".large."))
            };
            assert!(poll_until(WAIT, || receiving(&m).then_some(())).is_some(), "no file arrives");
            rsyncd(&mut m).signal(Signal::SIGSTOP, true);
            assert!(receiving(&m), "the file arrived faster than the server can be stopped; it must be larger");
            rsyncd(&mut m).restart();
            // The file itself may go again meanwhile: then nothing else looks at the directory's
            // content.
            m.src.remove("d/large");
            m.check();
            Ok(())
        }),
        case("away_over_a_restart", &[Fs::Ext4], |fs| {
            let mut m = Setup::new(fs).start()?;
            tree(&m.src);
            m.check();
            rsyncd(&mut m).stop();
            m.src.write("d/file", b"changed while the target is away");
            m.src.remove("d/sub");
            m.daemon.terminate();
            m.src.write("new", b"written while nothing watches");
            rsyncd(&mut m).restart();
            m.restart(Until::Watching);
            m.check();
            Ok(())
        }),
        case("pending_over_a_restart_without_a_comparison", &[Fs::Ext4], |fs| {
            let mut m = Setup::new(fs).initial("none").start()?;
            tree(&m.src);
            m.check();
            rsyncd(&mut m).stop();
            m.src.write("d/file", b"changed while the target is away");
            m.src.remove("d/sub");
            m.src.rename("d/link", "link");
            m.daemon.terminate();
            // Stopped twice before the target is back: what was saved stays.
            m.restart(Until::Watching);
            m.src.write("new", b"in between");
            m.daemon.terminate();
            rsyncd(&mut m).restart();
            m.restart(Until::Watching);
            m.check();
            Ok(())
        }),
    ]
}

fn tree(src: &Dir) {
    src.mkdirs("d/sub");
    src.write("d/file", b"one");
    src.write("d/sub/file", b"two");
    src.symlink("file", "d/link");
}

/// A little of everything, checked on all targets in between.
fn work_out(m: &Mirror) -> crate::fixture::Run<()> {
    tree(&m.src);
    m.check();
    m.src.write("d/file", b"changed");
    m.src.append("d/sub/file", b" and longer");
    m.src.chmod("d/sub", 0o700);
    m.check();
    m.src.rename("d/sub", "sub");
    m.src.write("sub/#hash", b"hostile");
    m.src.write("sub/new\nline", b"hostile");
    m.check();
    m.src.remove("d");
    m.src.write("d", b"a file now");
    m.check();
    for n in 0..500 {
        m.src.write(format!("sub/{n}"), format!("{n}"));
    }
    m.check();
    m.src.remove("sub");
    m.check();
    Ok(())
}

fn sshd(m: &mut Mirror) -> &mut crate::fixture::rsyncd::Sshd {
    m.sshd.as_mut().expect("the mirror has a target behind ssh")
}

fn rsyncd(m: &mut Mirror) -> &mut crate::fixture::rsyncd::Rsyncd {
    m.rsyncd.as_mut().expect("the mirror has a module target")
}
