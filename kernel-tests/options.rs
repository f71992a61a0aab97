//! The rsync options that a target may add (`args`), on each transport: in the first comparison, in
//! what events carry, and in the comparison of a subtree.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use crate::fixture::daemon::{Until, fansync};
use crate::fixture::fs::Fs;
use crate::fixture::proc::run;
use crate::fixture::tree::{Dir, Times};
use crate::fixture::{Case, Mirror, Setup, Skip, To, WAIT, case};

fn tree(src: &Dir) {
    src.mkdirs("d/sub");
    src.write("d/file", b"one");
    src.write("d/sub/file", b"two");
    src.symlink("file", "d/link");
}

/// Options that go together, and leave the copy as it is without them.
const GROUPS: &[&[&str]] = &[
    &["--delay-updates", "--fsync", "--no-inc-recursive", "--no-whole-file", "--block-size=2048", "--fuzzy", "--blocking-io"],
    &["--temp-dir=.tmp", "--checksum", "--checksum-choice=md5", "--preallocate", "--no-motd", "--bwlimit=100m"],
    &["--partial-dir=.part", "--sparse", "--open-noatime", "--numeric-ids", "--super", "--max-alloc=1g", "--trust-sender"],
    &[
        "--no-D",
        "--log-file=/dev/null",
        "--log-file-format=%n",
        "--secluded-args",
        "--skip-compress=gz",
        "--chmod=u+rw",
        "--specials",
    ],
    // Of owners that no file here has, and of connections.
    &[
        "--usermap=4711:4712",
        "--groupmap=4711:4712",
        "--address=127.0.0.1",
        "--ipv4",
        "--sockopts=TCP_NODELAY",
        "--checksum-seed=7",
        "--compress-level=1",
        "--no-blocking-io",
        "--links",
        "--times",
    ],
    // What is carried, said once more; nothing of it changes the copy of this tree.
    &[
        "--acls",
        "--xattrs",
        "--atimes",
        "--perms",
        "--owner",
        "--group",
        "--devices",
        "--specials",
        "--chown=root:root",
        "--no-super",
        "--no-numeric-ids",
        "--no-hard-links",
        "--no-crtimes",
        "--no-omit-dir-times",
        "--no-omit-link-times",
        "--no-munge-links",
        "--no-sparse",
        "--no-checksum",
        "--no-fuzzy",
        "--protect-args",
        "--no-delay-updates",
        "--no-open-noatime",
        "--no-bwlimit",
        "--cc=md5",
        "--zl=1",
    ],
    // What fansync does not use, switched off.
    &[
        "--no-A",
        "--no-X",
        "--no-H",
        "--no-U",
        "--no-N",
        "--no-O",
        "--no-J",
        "--no-S",
        "--no-c",
        "--no-y",
        "--no-acls",
        "--no-xattrs",
        "--no-atimes",
        "--no-inplace",
        "--no-append",
        "--no-partial",
        "--no-backup",
        "--no-write-devices",
        "--no-insecure-links",
        "--no-iconv",
        "--no-verbose",
        "--no-v",
        "--no-progress",
        "--no-human-readable",
        "--no-h",
        "--no-msgs2stderr",
        "--no-ignore-errors",
        "--no-drop-D",
        "--no-mkpath",
        "--no-one-file-system",
        "--no-x",
        "--no-prune-empty-dirs",
        "--no-m",
        "--whole-file",
    ],
    &["--no-i-r"],
];

/// The same, of which the copy has other times, modes, owners or link texts than the source.
const OTHERWISE: &[&[&str]] = &[
    &["--fake-super"],
    &["-M--fake-super"],
    &["--omit-dir-times", "--omit-link-times"],
    &["--no-perms", "--no-owner", "--no-group", "--executability", "--no-devices", "--no-specials"],
    &["--no-p", "--no-o", "--no-g", "--munge-links", "--no-W"],
];

/// Places that the options name, and that are no part of the copy.
const LEFT_OUT: &[&str] = &["/.tmp", ".part", ".~tmp~"];

/// Those that have a test of their own.
const ALONE: &[&str] = &["--crtimes", "--ipv6", "--compress-threads=", "--zt="];

fn with(fs: Fs, to: To, args: &[&str]) -> crate::fixture::Run<Mirror> {
    let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
    let m = Setup::new(fs).targets(&[to]).target_key("args", args).exclude(LEFT_OUT).before(tree);
    m.before_on_target(|dst| dst.mkdirs(".tmp")).start()
}

/// Whether runs ended otherwise than well, but for those that met the changes while these were
/// made.
fn went_wrong(status: &crate::fixture::daemon::TargetStatus) -> bool {
    !status.failures.is_empty() || status.bad_runs.keys().any(|class| class != "source_race" && class != "unproven")
}

/// Whether rsync wrote a line that is not understood. What a login shell on the way writes does not
/// count.
fn is_unknown(status: &crate::fixture::daemon::TargetStatus, to: To) -> bool {
    to != To::Ssh && (!status.unknown_words.is_empty() || status.bad_runs.contains_key("unproven"))
}

/// Changes of every kind that a pass is made for.
fn change(src: &Dir) {
    src.write("d/file", b"rewritten by an event");
    src.write("new", b"new");
    src.remove("d/sub/file");
    src.mkdirs("tree/a");
    for n in 0..60 {
        src.write(format!("tree/a/{n}"), format!("file {n}"));
    }
    src.symlink("a", "tree/link");
    src.rename("d/sub", "tree/moved");
}

fn each_group(fs: Fs, to: To) -> crate::fixture::Run<()> {
    for args in GROUPS {
        let m = with(fs, to, args)?;
        let aside = |path: &std::path::Path| path.starts_with(".tmp");
        m.check_but(Times::All, &aside);
        change(&m.src);
        m.check_but(Times::All, &aside);
        let status = m.daemon.target_status("t1");
        assert!(!went_wrong(&status) && !is_unknown(&status, to), "{to:?} with {args:?}: {status:?}");
    }
    // What is kept in attributes is another tree on the disk: only the content is compared.
    for args in OTHERWISE {
        let m = with(fs, to, args)?;
        m.daemon.flush(None);
        change(&m.src);
        m.daemon.flush(None);
        for path in ["d/file", "new", "tree/a/0", "tree/a/59"] {
            assert_eq!(m.dst().read(path), m.src.read(path), "{to:?} with {args:?}: {path}");
        }
        assert!(!m.dst().has("d/sub"), "{to:?} with {args:?}");
        let status = m.daemon.target_status("t1");
        assert!(!went_wrong(&status) && !is_unknown(&status, to), "{to:?} with {args:?}: {status:?}");
    }
    Ok(())
}

/// On every transport: these options, of which the copy has nothing; and keys of the target.
fn each_transport(fs: Fs, args: &[String], keys: &[(&str, &str)]) -> crate::fixture::Run<()> {
    for to in [To::Local, To::Module, To::Ssh] {
        let m = keys.iter().fold(Setup::new(fs).targets(&[to]), |m, (key, value)| m.target_key(key, *value));
        let m = m.target_key("args", args.to_vec()).before(tree).start()?;
        m.check();
        change(&m.src);
        m.check();
        let status = m.daemon.target_status("t1");
        assert!(!went_wrong(&status) && !is_unknown(&status, to), "{to:?} with {args:?}: {status:?}");
    }
    Ok(())
}

/// Lists of thousands of names, for receivers on this host that are given options of their own.
fn many_names(fs: Fs) -> crate::fixture::Run<()> {
    const MANY: usize = 3_000;
    let backups = crate::fixture::fs::work_dir();
    let setups = [
        Setup::new(fs).carrying(&["xattrs"]),
        Setup::new(fs).target_key("args", vec!["-M--fsync".to_owned()]),
        Setup::new(fs).target_key("backup_dir", backups.path().to_str().expect("it is text")),
    ];
    for setup in setups {
        let m = setup.targets(&[To::Local]).start()?;
        m.check();
        // With all below it.
        m.out.mkdir("big");
        (0..MANY).for_each(|n| m.out.write(format!("big/a name of some length {n}"), format!("{n}")));
        m.out.rename_to("big", &m.src, "big");
        m.check();
        // By their names, and one level.
        m.daemon.does(&["pause"]);
        m.src.mkdir("few");
        for n in 0..MANY {
            m.src.write(format!("big/a name of some length {n}"), format!("again {n}"));
            m.src.write(format!("few/{n}"), format!("{n}"));
        }
        m.daemon.does(&["resume"]);
        m.check();
        let status = m.daemon.target_status("t1");
        assert!(!went_wrong(&status) && !is_unknown(&status, To::Local), "{status:?}");
    }
    Ok(())
}

/// A port of ::1 that leads to one of 127.0.0.1, for as long as the test runs.
fn over_ipv6(port: u16) -> Option<u16> {
    let listener = TcpListener::bind(("::1", 0)).ok()?;
    let own = listener.local_addr().ok()?.port();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            let copy = |from: &TcpStream, to: &TcpStream| {
                let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            };
            copy(&near, &far);
            copy(&far, &near);
        }
    });
    Some(own)
}

pub fn cases() -> Vec<Case> {
    vec![
        case("lists_of_thousands_for_a_local_receiver_with_options_of_its_own", &[Fs::Ext4, Fs::Tmpfs], many_names),
        // What the program allows, and what the tests try.
        case("each_allowed_option_is_tried", &[Fs::Tmpfs], |_| {
            let groups = GROUPS.iter().chain(OTHERWISE).flat_map(|group| group.iter()).chain(ALONE);
            let tried: Vec<&str> = groups.map(|option| option.trim_start_matches("-M").trim_start_matches("--")).collect();
            let missing: Vec<&str> = fansync::config::allowed_options()
                .filter(|name| match name.strip_suffix('=') {
                    Some(_) => !tried.iter().any(|option| option.starts_with(name)),
                    None => !tried.contains(name),
                })
                .collect();
            assert_eq!(missing, Vec::<&str>::new(), "allowed, and tried by no test");
            Ok(())
        }),
        case("compression_threads", &[Fs::Tmpfs], |fs| {
            each_transport(fs, &["--compress-threads=2".into()], &[("compress", "zstd")])?;
            each_transport(fs, &["--zt=2".into(), "--compress-level=3".into()], &[("compress", "zstd")])
        }),
        case("over_ipv6", &[Fs::Tmpfs], |fs| {
            for to in [To::Module, To::Ssh, To::Local] {
                let mut m = Setup::new(fs).targets(&[to]).before(tree).start()?;
                m.check();
                let target = &m.config().mirror[0].target[0];
                let (mut url, mut ssh) = (target.url.clone(), target.ssh.clone());
                let port = match to {
                    To::Local => None,
                    To::Module => m.rsyncd.as_ref().map(|rsyncd| rsyncd.port()),
                    To::Ssh | To::SshHome | To::SshWholeHome | To::SshModule => {
                        ssh.as_deref().and_then(|ssh| ssh.split(' ').nth(2)?.parse().ok())
                    }
                };
                if let Some(port) = port {
                    let Some(own) = over_ipv6(port) else { return Err(Skip("there is no IPv6 on loopback".into())) };
                    url = url.replace("127.0.0.1", "[::1]").replace(&format!(":{port}/"), &format!(":{own}/"));
                    ssh = ssh.map(|ssh| ssh.replace(&format!(" {port} "), &format!(" {own} ")));
                }
                m.daemon.terminate();
                m.configure(|mirror| {
                    let target = &mut mirror.target[0];
                    (target.url, target.ssh) = (url, ssh);
                    target.keys.insert("args".into(), toml::Value::from(vec!["--ipv6"]));
                });
                m.restart(Until::Reconciled);
                change(&m.src);
                m.check();
                let status = m.daemon.target_status("t1");
                assert!(!went_wrong(&status) && !is_unknown(&status, to), "{to:?}: {status:?}");
            }
            Ok(())
        }),
        // An rsync that was built without it says so, and so does the check before.
        case("creation_times", &[Fs::Tmpfs], |fs| {
            for to in [To::Local, To::Module, To::Ssh] {
                let m = Setup::new(fs).targets(&[to]).target_key("args", vec!["--crtimes".to_string()]).before(tree);
                let m = m.while_reconciling().start()?;
                let checked = fansync(&["check", "--config", &m.write_config().display().to_string()], WAIT);
                let text = format!("{}{}", checked.stdout, checked.stderr);
                let has = run(Command::new("rsync").arg("--version"), WAIT).stdout;
                if !has.contains("no crtimes") {
                    assert!(!text.contains("crtimes"), "{text}");
                    m.check();
                    continue;
                }
                assert!(checked.code == 0 && text.contains("--crtimes"), "{text}");
                let status = m.daemon.target_status_until("t1", "the option is refused", |t| t.state == "config");
                assert!(status.reason.contains("crtimes"), "{status:?}");
            }
            Ok(())
        }),
        case("access_times_and_verify", &[Fs::Ext4], |fs| {
            for to in [To::Local, To::Module, To::Ssh] {
                let m = Setup::new(fs).targets(&[to]).target_key("args", vec!["--atimes".to_string()]).before(tree).start()?;
                m.check();
                // The copy's are set by rsync, and the source's by any reader: no difference
                // that counts.
                for n in 0..3 {
                    let file = std::fs::File::options().append(true).open(m.src.at("d/file")).expect("it is there");
                    let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000 + n);
                    let modified = file.metadata().and_then(|meta| meta.modified()).expect("it has one");
                    file.set_times(std::fs::FileTimes::new().set_accessed(at).set_modified(modified)).expect("it is ours");
                    drop(file);
                    m.daemon.flush(None);
                    let text = m.daemon.does(&["verify"]);
                    assert!(text.contains("equal"), "{to:?}: {text}");
                }
                m.dst().write("d/file", b"one?");
                let ran = m.daemon.client(&["verify"], WAIT);
                assert!(ran.code == 1 && ran.stdout.contains("d/file"), "{to:?}: {} {}", ran.stdout, ran.stderr);
            }
            Ok(())
        }),
        case("added_options_to_a_directory", &[Fs::Tmpfs], |fs| each_group(fs, To::Local)),
        case("added_options_to_a_module", &[Fs::Tmpfs], |fs| each_group(fs, To::Module)),
        case("added_options_over_ssh", &[Fs::Tmpfs], |fs| each_group(fs, To::Ssh)),
        case("a_temporary_directory_elsewhere", &[Fs::Tmpfs], |fs| {
            for to in [To::Local, To::Ssh] {
                let dir = crate::fixture::fs::work_dir();
                let option = format!("--temp-dir={}", PathBuf::from(dir.path()).display());
                let m = with(fs, to, &[&option])?;
                let aside = |path: &std::path::Path| path.starts_with(".tmp");
                change(&m.src);
                m.check_but(Times::All, &aside);
                let status = m.daemon.target_status("t1");
                assert!(!went_wrong(&status), "{to:?}: {status:?}");
            }
            Ok(())
        }),
        case("nodes_that_are_not_wanted_are_no_failures", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Module]).target_key("args", vec!["--no-D".to_string()]);
            let nodes = |src: &Dir| {
                tree(src);
                src.fifo("d/pipe");
                drop(std::os::unix::net::UnixListener::bind(src.at("d/socket")).expect("a socket can be made"));
            };
            let m = m.before(nodes).start()?;
            m.daemon.flush(None);
            m.src.write("d/file", b"by an event");
            drop(std::os::unix::net::UnixListener::bind(m.src.at("d/other")).expect("a socket can be made"));
            m.daemon.flush(None);
            assert_eq!(m.dst().read("d/file").as_deref(), Some(&b"by an event"[..]));
            assert!(!m.dst().has("d/pipe") && !m.dst().has("d/socket"));
            let status = m.daemon.target_status("t1");
            assert!(!went_wrong(&status), "{status:?}");
            Ok(())
        }),
    ]
}
