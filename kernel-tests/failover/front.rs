//! The front process: what rights it has, and what becomes of failover when it ends.

use std::ffi::CString;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;

use fansync::failover::front::sandbox::{Identity, confine};
use fansync::failover::wire::frame::{GREETING, REQUEST};
use serde_json::Value;

use super::cluster::{Cluster, Server, Web, binary};
use super::*;
use crate::fixture::Run;

pub fn cases() -> Vec<Case> {
    vec![
        case("what_reads_from_the_network_has_no_rights", T, no_rights),
        case("a_confined_process_can_do_nothing_else", T, nothing_else),
        case("a_front_process_that_is_killed_comes_back", T, comes_back),
        case("a_front_process_that_is_stopped_is_no_silence_of_the_servers", T, stopped),
        case("hostile_bytes_reach_no_daemon", T, hostile),
        case("it_ends_with_its_daemon", T, ends),
        case("without_a_sandbox_only_if_the_configuration_says_so", T, refused),
    ]
}

fn front_of(socket: &Path) -> Value {
    let ran = run(Command::new(binary()).args(["failover", "status", "--json", "--socket"]).arg(socket), WAIT);
    serde_json::from_str::<Value>(&ran.stdout).unwrap_or_default()["front"].clone()
}

impl Server {
    fn front(&self) -> Value {
        front_of(&self.socket())
    }
}

impl Web {
    fn front(&self) -> Value {
        front_of(&self.socket())
    }
}

/// Its process id, once there is one besides `old`.
fn pid(front: impl Fn() -> Value, old: i32) -> i32 {
    let found = poll_until(WAIT, || front()["pid"].as_i64().filter(|pid| *pid > 0 && *pid != i64::from(old)));
    found.expect("there is no front process").try_into().expect("it is a process id")
}

fn kill(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it is there");
}

fn no_rights(_: Fs) -> Run<()> {
    let c = Cluster::new();
    let web = c.web("web", "");
    web.on("primary");
    for pid in [pid(|| c.servers[0].front(), 0), pid(|| web.front(), 0)] {
        let proc = |what: &str| format!("/proc/{pid}/{what}");
        let status = fs::read_to_string(proc("status")).expect("it lives");
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("{name} in {status}")).split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(field("Name"), "fansync-front");
        for ids in ["Uid", "Gid"] {
            assert!(field(ids).split(' ').all(|id| id == "65534"), "{status}");
        }
        assert_eq!(field("Groups"), "");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
        }
        assert_eq!([field("NoNewPrivs"), field("Seccomp"), field("Threads")], ["1", "2", "1"]);
        // Its root is nowhere, and it has nothing open but sockets.
        let root = fs::read_link(proc("root")).expect("it lives");
        assert!(root.to_string_lossy().ends_with(" (deleted)"), "{}", root.display());
        assert_eq!(fs::read_dir(proc("root/.")).map(Iterator::count).unwrap_or(0), 0);
        for fd in fs::read_dir(proc("fd")).expect("it lives").flatten() {
            let to = fs::read_link(fd.path()).unwrap_or_default();
            let to = to.to_string_lossy();
            assert!(to.is_empty() || to.starts_with("socket:"), "{to}");
        }
        assert!(fs::read(proc("environ")).expect("it lives").is_empty());
        let limits = fs::read_to_string(proc("limits")).expect("it lives");
        for limit in ["Max processes", "Max core file size", "Max file size"] {
            let line = limits.lines().find_map(|l| l.strip_prefix(limit)).expect("the kernel shows it");
            assert!(line.split_whitespace().take(2).eq(["0", "0"]), "{limit}: {line}");
        }
    }
    Ok(())
}

/// What [`confined`] tries, and whether the process survives it.
const TRIED: [(&str, bool); 8] = [
    ("nothing", true),
    ("open", false),
    ("connect", false),
    ("unix", false),
    ("thread", false),
    ("program", false),
    ("signal", false),
    ("write", false),
];

fn nothing_else(_: Fs) -> Run<()> {
    let dir = crate::fixture::fs::work_dir();
    let this = std::env::current_exe().expect("it is known");
    for (what, survives) in TRIED {
        let ran = run(Command::new(&this).args(["--confined", what]).arg(dir.path()), WAIT);
        let want = if survives { 0 } else { 128 + Signal::SIGSYS as i32 };
        assert_eq!(ran.code, want, "{what}: {}{}", ran.stdout, ran.stderr);
    }
    Ok(())
}

/// Tries one thing as a process that has given up its rights: `--confined WHAT DIRECTORY`. Ends
/// with 0 if it could.
pub fn confined(words: &[String]) -> ExitCode {
    let [what, dir] = words else { return ExitCode::from(64) };
    let root = File::options().read(true).custom_flags(nix::libc::O_DIRECTORY).open(dir).expect("it is a directory");
    let program = CString::new("/bin/true").expect("it has no zero byte");
    confine(Identity { uid: 65534, gid: 65534 }, root).expect("the rights can be given up");
    match what.as_str() {
        "nothing" => {
            // As the front process does all day.
            let mut memory = vec![7u8; 1 << 20];
            memory.resize(1 << 22, 8);
            drop(memory);
        }
        "open" => drop(File::open("/etc/passwd")),
        "connect" => drop(TcpStream::connect("127.0.0.1:1")),
        "unix" => drop(std::os::unix::net::UnixStream::connect("/x")),
        "thread" => drop(std::thread::Builder::new().spawn(|| ())),
        "program" => drop(nix::unistd::execv(&program, &[&program])),
        "signal" => drop(nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), Signal::SIGTERM)),
        "write" => drop(std::io::stdout().write_all(b"x\n")),
        _ => return ExitCode::from(64),
    }
    // Without what the standard library does at the end of main.
    std::process::exit(0)
}

fn comes_back(_: Fs) -> Run<()> {
    let mut c = Cluster::new();
    let web = c.web("web", "");
    web.on("primary");
    for round in 1..=3u64 {
        let fronts: [(&dyn Fn() -> Value, i32); 3] = [
            (&|| web.front(), pid(|| web.front(), 0)),
            (&|| c.servers[0].front(), pid(|| c.servers[0].front(), 0)),
            (&|| c.servers[1].front(), pid(|| c.servers[1].front(), 0)),
        ];
        fronts.iter().for_each(|(_, pid)| kill(*pid, Signal::SIGKILL));
        for (front, old) in fronts {
            pid(front, old);
            let front = front();
            assert!(front["restarts"].as_u64() >= Some(round), "{front}");
            assert!(front["reason"].as_str().is_some_and(|why| why.contains("SIGKILL")), "{front}");
        }
    }
    // All went on as if nothing had been.
    web.rounds(4);
    let shown = web.status();
    assert_eq!((shown["on"].as_str(), shown["switches"].as_u64()), (Some("primary"), Some(1)), "{shown}");
    assert!(web.log().contains("what reads from the network has no rights"), "{}", web.log());
    assert!(web.log().contains("the process that reads from the network is started again"), "{}", web.log());
    c.servers[0].die();
    web.on("backup");
    assert_eq!(c.servers[1].mark(), (2, Role::Primary));
    Ok(())
}

fn stopped(_: Fs) -> Run<()> {
    let c = Cluster::new();
    let web = c.web("web", "");
    web.on("primary");
    let old = pid(|| web.front(), 0);
    kill(old, Signal::SIGSTOP);
    pid(|| web.front(), old);
    web.rounds(2);
    let shown = web.status();
    assert_eq!((shown["on"].as_str(), shown["switches"].as_u64()), (Some("primary"), Some(1)), "{shown}");
    assert!(!web.log().contains("does not answer NFS calls any more"), "{}", web.log());
    Ok(())
}

fn hostile(_: Fs) -> Run<()> {
    let mut c = Cluster::new();
    let web = c.web("web", "");
    web.on("primary");
    let before = pid(|| c.servers[1].front(), 0);
    let mut random = fastrand::Rng::with_seed(7);
    for n in 0..300 {
        let mut stream = TcpStream::connect(("127.0.0.1", c.servers[1].port())).expect("it listens");
        stream.set_read_timeout(Some(WAIT)).expect("a timeout can be set");
        let mut greeting = [0; GREETING];
        if n % 3 > 0 && stream.read_exact(&mut greeting).is_err() {
            continue; // it was closed for a later one
        }
        let len = if n % 2 == 0 { REQUEST } else { random.usize(..3000) };
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
        let _ = stream.write_all(&bytes);
        if n % 2 == 0 {
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.len() <= GREETING, "a stranger was answered");
        }
    }
    let front = c.servers[1].front();
    assert_eq!((front["pid"].as_i64(), front["restarts"].as_u64()), (Some(before.into()), Some(0)), "{front}");
    c.servers[0].die();
    web.on("backup");
    Ok(())
}

fn ends(_: Fs) -> Run<()> {
    let c = Cluster::new();
    let gone = |pid: i32| {
        let there = || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(());
        assert!(poll_until(WAIT, there).is_some(), "it outlives its daemon");
    };
    for (server, signal) in c.servers.iter().zip([Signal::SIGTERM, Signal::SIGKILL]) {
        let front = pid(|| server.front(), 0);
        server.signal(signal);
        gone(front);
    }
    Ok(())
}

fn refused(_: Fs) -> Run<()> {
    let c = Cluster::new();
    let prepared = c.prepare("web", "", "");
    let start = |config: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-sys_chroot", "--"]).arg(binary());
        run(command.args(["failover", "--once", "--config"]).arg(config), WAIT)
    };
    let config = prepared.config();
    let ran = start(&config);
    assert_eq!(ran.code, 77, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("change its root") && ran.stderr.contains("sandbox = \"off\""), "{}", ran.stderr);
    let text = fs::read_to_string(&config).expect("it was written").replace("[daemon]", "[daemon]\nsandbox = \"off\"");
    fs::write(&config, text).expect("it can be written");
    let ran = start(&config);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("has all rights") && ran.stdout.contains("has all rights"), "{}{}", ran.stdout, ran.stderr);
    Ok(())
}
