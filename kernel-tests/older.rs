//! An rsync of 3.1.2, as CentOS 7 and Ubuntu 18.04 have it: as a server, behind ssh, and on this
//! host.
//!
//! `FANSYNC_TEST_OLD_RSYNC` is one to run. Without it this host's takes its place, behind a front
//! that refuses what the old one does not know, in its words: a relay before a daemon, which ends
//! the connection as an old one does, and a script elsewhere.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::daemon::{Until, binary};
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::run;
use crate::fixture::rsyncd::Rsyncd;
use crate::fixture::tree::{Dir, Times};
use crate::fixture::{Case, Mirror, Run, Setup, To, WAIT, case};

/// What a status says of a target that compares times to the second.
const SECONDS: &str = "compares times to the second";

pub fn cases() -> Vec<Case> {
    vec![
        case("behind_ssh", &[Fs::Ext4], |fs| {
            let work = work_dir();
            let front = old_rsync(work.path());
            let m = Setup::new(fs).targets(&[To::Ssh]).target_key("rsync_path", front.display().to_string()).start()?;
            work_out(&m)
        }),
        case("on_this_host", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let work = work_dir();
            let targets = [To::Local, To::Module];
            work_out(&Setup::new(fs).rsync(old_rsync(work.path())).targets(&targets).start()?)
        }),
        case("as_a_daemon", &[Fs::Ext4], |fs| {
            let work = work_dir();
            let server = Server::start(work.path())?;
            let mut m = Setup::new(fs).targets(&[To::Local]).start()?;
            m.daemon.terminate();
            m.configure(|mirror| mirror.target[0].url = server.url.clone());
            m.targets[0].dir = Dir::new(&server.dir);
            m.restart(Until::Reconciled);
            work_out(&m)
        }),
        case("compression_that_it_lacks", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let front = old_rsync(work.path());
            let m = Setup::new(fs).targets(&[To::Ssh]).target_key("compress", "zstd");
            let m = m.target_key("rsync_path", front.display().to_string()).start()?;
            assert!(m.daemon.target_status("t1").weaker.iter().any(|text| text.contains("zlib takes the place")));
            work_out(&m)
        }),
        case("a_newer_one_is_not_weaker", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Module, To::Local]).start()?;
            m.check();
            for target in ["t1", "t2"] {
                let weaker = m.daemon.target_status(target).weaker;
                assert!(!weaker.iter().any(|text| text.contains("older")), "{weaker:?}");
            }
            Ok(())
        }),
        case("a_newer_one_that_hung_up_once_is_not_taken_for_old", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let dst = Dir::new(work.path().join("module"));
            dst.mkdir(".");
            let rsyncd = Rsyncd::start(work.path(), &[("m".to_owned(), dst.root().to_owned())])?;
            let mut m = Setup::new(fs).targets(&[To::Local]).start()?;
            m.daemon.terminate();
            let url = format!("rsync://127.0.0.1:{}/m", relay(rsyncd.port(), Relay::HangsUpOnce));
            m.configure(|mirror| mirror.target[0].url = url);
            m.targets[0].dir = dst;
            m.restart(Until::Reconciled);
            m.src.write("f", b"1");
            m.check();
            let status = m.daemon.target_status("t1");
            assert!(status.weaker.is_empty(), "{:?}", status.weaker);
            Ok(())
        }),
        case("check_and_verify_say_so", &[Fs::Tmpfs], |_| check_and_verify()),
    ]
}

/// A little of everything; at the end of each step all targets are equal.
fn work_out(m: &Mirror) -> Run<()> {
    m.src.mkdirs("d/sub");
    m.src.write("d/file", b"one");
    m.src.write("d/sub/file", b"two");
    m.src.symlink("file", "d/link");
    check(m);
    if compares_seconds() {
        let weaker = m.daemon.target_status("t1").weaker;
        assert!(weaker.iter().any(|text| text.contains(SECONDS)), "{weaker:?}");
    }
    // Of one size, all within one second.
    for (n, text) in [b"1st", b"2nd", b"3rd"].into_iter().enumerate() {
        m.src.write("d/file", text);
        m.src.set_mtime("d/file", 1_700_000_000, 100_000_000 * n as i64);
        check(m);
    }
    m.src.rename("d/sub", "sub");
    m.src.write("sub/#hash", b"hostile");
    m.src.write("sub/new\nline", b"hostile");
    m.src.chmod("sub", 0o700);
    m.src.link("d/file", "d/name");
    check(m);
    m.src.remove("d");
    m.src.write("d", b"a file now");
    check(m);
    for n in 0..200 {
        m.src.write(format!("sub/{n}"), format!("{n}"));
    }
    check(m);
    m.src.rename("sub", "sub2");
    check(m);
    m.src.remove("sub2");
    check(m);
    Ok(())
}

/// All targets are equal; of times an old one keeps no more than the second in all cases.
fn check(m: &Mirror) {
    m.check_but(Times::ToTheSecond, &|_| false);
}

fn check_and_verify() -> Run<()> {
    let work = work_dir();
    let at = |name: &str| work.path().join(name).display().to_string();
    fs::create_dir(at("src")).expect("it can be made");
    fs::write(at("src/f"), "1").expect("it can be written");
    let server = Server::start(work.path())?;
    let text = format!(
        "[daemon]\nstatus_socket = {:?}\n[[mirror]]\nname = \"m\"\nsource = {:?}\n[[mirror.target]]\nname = \"t\"\nurl = {:?}\n",
        at("socket"),
        at("src"),
        server.url
    );
    fs::write(at("config.toml"), text).expect("it can be written");
    let fansync = |words: &[&str]| run(Command::new(binary()).args(words).args(["--config", &at("config.toml")]), WAIT);
    let check = fansync(&["check", "--connect"]);
    let weaker = match compares_seconds() {
        true => &[SECONDS, "as it was sent: content, times to the second, mode"][..],
        false => &[],
    };
    for want in ["protocol 31", "lets fansync in", "and deleted"].iter().chain(weaker) {
        assert!(check.code == 0 && check.stdout.contains(want), "{want}: {}: {}{}", check.code, check.stdout, check.stderr);
    }
    assert_eq!(fs::read_dir(&server.dir).expect("it is there").count(), 0, "something is left on the target");
    let verify = fansync(&["verify"]);
    assert!(verify.code == 1 && verify.stdout.contains('f'), "{}: {}{}", verify.code, verify.stdout, verify.stderr);
    fs::copy(at("src/f"), server.dir.join("f")).expect("it can be copied");
    let times = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).expect("it has a time");
    for (from, to) in [("src/f", server.dir.join("f")), ("src", server.dir.clone())] {
        let time = times(&work.path().join(from));
        fs::File::open(&to).and_then(|file| file.set_modified(time)).expect("the time can be set");
        let mode = fs::metadata(work.path().join(from)).expect("it is there").permissions();
        fs::set_permissions(&to, mode).expect("the mode can be set");
    }
    let verify = fansync(&["verify"]);
    assert!(verify.code == 0, "{}: {}{}", verify.code, verify.stdout, verify.stderr);
    Ok(())
}

/// Whether the old one is older than 3.1.3.
fn compares_seconds() -> bool {
    let said = old().map(|program| run(Command::new(program).arg("--version"), WAIT).stdout);
    said.is_none_or(|said| ["version 3.1.0", "version 3.1.1", "version 3.1.2"].iter().any(|version| said.contains(version)))
}

fn old() -> Option<PathBuf> {
    std::env::var_os("FANSYNC_TEST_OLD_RSYNC").map(PathBuf::from)
}

/// An rsync that is old, or answers so.
fn old_rsync(work: &Path) -> PathBuf {
    old().unwrap_or_else(|| {
        let front = work.join("old-rsync");
        fs::write(&front, FRONT)
            .and_then(|()| fs::set_permissions(&front, Permissions::from_mode(0o755)))
            .expect("it can be made");
        front
    })
}

/// What 3.1.2 does not know it refuses, also where the words come by the connection. Nor may it get
/// `--modify-window=-1`, by which it would call all times equal.
const FRONT: &str = r#"#!/bin/bash
check() {
    case $1 in
    -@* | --compress-choice=* | --confine-root=* | -V* | --filter=-x* | --modify-window=-*)
        echo "rsync: $on$1: unknown option" >&2
        echo "rsync error: syntax or usage error (code 1) at main.c(1629) [$2=3.1.2]" >&2
        exit 1 ;;
    --version)
        echo 'rsync  version 3.1.2  protocol version 31'
        printf 'Capabilities:\n    64-bit files, ACLs, xattrs, iconv\n'
        exit 0 ;;
    esac
}
if [ "$1" != --server ]; then
    for arg; do check "$arg" client; done
    exec rsync "$@"
fi
on='on remote machine: '
args=("$@")
if [[ $2 == -s* ]]; then
    args=(--server "-${2#-s}")
    IFS= read -r -d '' arg
    while IFS= read -r -d '' arg && [ -n "$arg" ]; do args+=("$arg"); done
fi
for arg in "${args[@]}"; do check "$arg" server; done
exec rsync "${args[@]}"
"#;

/// A daemon of an old rsync, or one behind a relay.
struct Server {
    url: String,
    dir: PathBuf,
    _rsyncd: Rsyncd,
}

impl Server {
    fn start(work: &Path) -> Run<Server> {
        let dir = work.join("module");
        fs::create_dir(&dir).expect("it can be made");
        let modules = [("m".to_owned(), dir.clone())];
        let (rsyncd, port) = match old() {
            Some(program) => {
                let rsyncd = Rsyncd::start_program(&program, work, &modules)?;
                let port = rsyncd.port();
                (rsyncd, port)
            }
            None => {
                let rsyncd = Rsyncd::start(work, &modules)?;
                let port = relay(rsyncd.port(), Relay::Old);
                (rsyncd, port)
            }
        };
        Ok(Server { url: format!("rsync://127.0.0.1:{port}/m"), dir, _rsyncd: rsyncd })
    }
}

/// What a relay does to connections.
#[derive(Clone, Copy)]
enum Relay {
    /// Ends those whose words hold an option that 3.1.2 does not know.
    Old,
    /// Ends the first one when it has got its words.
    HangsUpOnce,
}

/// Passes connections on to an rsync daemon, both sides of which get to speak protocol 31. Returns
/// its port.
fn relay(to: u16, how: Relay) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for (n, client) in listener.incoming().flatten().enumerate() {
            std::thread::spawn(move || relayed(client, to, how, n == 0));
        }
    });
    port
}

fn relayed(client: TcpStream, to: u16, how: Relay, first: bool) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", to))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut answers, mut back) = (BufReader::new(server.try_clone()?), client.try_clone()?);
    std::thread::spawn(move || {
        let _ = greeting(&mut answers).and_then(|line| back.write_all(&line));
        let _ = std::io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let mut words = BufReader::new(client.try_clone()?);
    (&server).write_all(&greeting(&mut words)?)?;
    let mut sent = Vec::new();
    let mut bytes = [0; 64 * 1024];
    loop {
        let read = words.read(&mut bytes)?;
        if read == 0 {
            return server.shutdown(Shutdown::Write);
        }
        // The words end in an empty one.
        if !sent.windows(2).any(|two| two == b"\0\0") {
            sent.extend_from_slice(&bytes[..read]);
            let unknown = |word: &[u8]| match how {
                Relay::Old => word.starts_with(b"-@") || word.starts_with(b"--compress-choice="),
                Relay::HangsUpOnce => first && word.ends_with(b"--server"),
            };
            if sent.split(|&b| b == 0).any(unknown) {
                client.shutdown(Shutdown::Both)?;
                return server.shutdown(Shutdown::Both);
            }
        }
        (&server).write_all(&bytes[..read])?;
    }
}

/// The first line of a side: its protocol.
fn greeting(from: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    Ok(if line.starts_with(b"@RSYNCD: ") { b"@RSYNCD: 31.0\n".to_vec() } else { line })
}
