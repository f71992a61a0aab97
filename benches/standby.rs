//! One small file through a real rsync: started for it, and standing by. Change to visible on the
//! target, and to exit.
//!
//! Starts an rsync daemon of its own on a free port of the loopback address. Prints a table;
//! criterion's sampling does not fit a process that has to be made ready before each measurement.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fansync::config::Compress;
use fansync::location::Location;
use fansync::path::RelPath;
use fansync::sync::argv::{Compare, Pass, Peer, Spec, environment};
use fansync::sync::filelist::{Form, encode};
use fansync::sync::probe::RsyncFacts;
use fansync::sync::run::{Input, Run};

const PATIENCE: Duration = Duration::from_secs(10);

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// Waits until a started rsync does nothing any more: it has connected and reads its list.
fn settle(run: &Run) {
    let start = Instant::now();
    let mut since = start;
    let mut mark = run.progress_mark();
    while since.elapsed() < Duration::from_millis(60) {
        assert!(start.elapsed() < PATIENCE, "rsync does not come to rest");
        let now = run.progress_mark();
        if now != mark {
            (mark, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn measure(name: &str, spec: &Spec<'_>, env: &[(OsString, OsString)], dst: &Path, rounds: usize) {
    let path = RelPath::from_normal(&b"file"[..]);
    let list = encode([(&path, Form::Plain)]).bytes;
    for standby in [false, true] {
        let (mut visible, mut exit) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let ahead = standby.then(|| {
                let run = Run::start(spec, Pass::Shallow, env, Input::Standby).expect("rsync starts");
                settle(&run);
                run
            });
            let content = format!("{name} {standby} {round:08}").into_bytes();
            fs::write(spec.root.join("file"), &content).expect("the source is writable");
            let start = Instant::now();
            let mut run = match ahead {
                Some(mut run) => {
                    run.feed(&list).expect("the standby takes its list");
                    run
                }
                None => Run::start(spec, Pass::Shallow, env, Input::List(&list)).expect("rsync starts"),
            };
            while fs::read(dst.join("file")).ok().as_ref() != Some(&content) {
                assert!(start.elapsed() < PATIENCE, "the change does not arrive");
                // Spinning would take one of few cores from the three processes that do the work.
                std::thread::sleep(Duration::from_micros(50));
            }
            visible.push(start.elapsed());
            let outcome = run.wait(PATIENCE, |_| {}).expect("rsync ends");
            exit.push(start.elapsed());
            assert!(outcome.is_done(), "{outcome:?}");
        }
        let how = if standby { "standing by" } else { "started" };
        println!("{name:8} {how:12} visible {:7.2} ms   exit {:7.2} ms", median(visible), median(exit));
    }
}

fn main() {
    // `cargo test --benches` passes --test: one round is enough to see that it works.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { 41 } else { 1 };
    let dir = tempfile::tempdir().expect("a directory");
    let base = dir.path().canonicalize().expect("it is there");
    let (src, dst) = (base.join("src"), base.join("dst"));
    fs::create_dir(&src).expect("source");
    fs::create_dir(&dst).expect("target");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let ids = if nix::unistd::geteuid().is_root() { "uid = 0\ngid = 0\n" } else { "" };
    let config = format!(
        "address = 127.0.0.1\nport = {port}\nuse chroot = no\nmunge symlinks = no\nsocket options = TCP_NODELAY\nlog file = {}\n\
         {ids}[m]\npath = {}\nread only = no\n",
        base.join("log").display(),
        dst.display()
    );
    fs::write(base.join("conf"), config).expect("configuration");
    let mut daemon = Command::new("rsync")
        .args(["--daemon", "--no-detach"])
        .arg(format!("--config={}", base.join("conf").display()))
        .stdin(Stdio::null())
        .spawn()
        .expect("rsync is installed");
    let start = Instant::now();
    while !TcpStream::connect(("127.0.0.1", port)).is_ok_and(|mut stream| stream.read(&mut [0; 8]).is_ok_and(|len| len > 0)) {
        assert!(start.elapsed() < PATIENCE, "the daemon does not answer");
    }

    let env = environment(std::env::vars_os());
    let facts = RsyncFacts::probe(Path::new("rsync"), &env).expect("a usable rsync");
    let module = Location::Daemon {
        shell: false,
        user: None,
        host: "127.0.0.1".into(),
        port: Some(port),
        module: "m".into(),
        path: String::new(),
    };
    let local = Location::Local(dst.clone());
    for (name, location) in [("module", &module), ("local", &local)] {
        let spec = Spec {
            rsync: Path::new("rsync"),
            root: &src,
            peer: Peer {
                location,
                password_file: None,
                ssh: None,
                remote_rsync: None,
                compress: Compress::None,
                timeout: Duration::from_secs(60),
                connect_timeout: Duration::from_secs(10),
            },
            delete: true,
            max_delete: None,
            dry_run: false,
            spare: false,
            max_file_size: None,
            missing_args: true,
            dialect: Default::default(),
            compare: Compare::Quick,
            extras: Default::default(),
            facts: &facts,
            filter_args: &[],
            guard_args: &[],
            extra: &[],
            backup: None,
            renamed: None,
            below: None,
            lock: None,
            priority: Default::default(),
            source: None,
        };
        measure(name, &spec, &env, &dst, rounds);
    }
    daemon.kill().and_then(|()| daemon.wait()).expect("the daemon ends");
}
