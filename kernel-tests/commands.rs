//! Who asks a daemon, and what is answered: a daemon that is just starting, an ordinary user's own,
//! root's with a group that may read the status, a monitoring system.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::fixture::daemon::{binary, fansync};
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::{Ran, Service, bound_command, poll_until, run};
use crate::fixture::schema;
use crate::fixture::{Case, Mirror, Run, Setup, WAIT, case};

const NOBODY: u32 = 65_534;

pub fn cases() -> Vec<Case> {
    vec![
        case("flush_waits_for_a_daemon_that_starts", &[Fs::Tmpfs], flush_at_once),
        case("an_ordinary_user_beside_root", &[Fs::Tmpfs], ordinary_user),
        case("status_of_several_daemons", &[Fs::Tmpfs], several_daemons),
        case("status_for_monitoring", &[Fs::Tmpfs], status_for_monitoring),
        case("a_group_reads_the_status", &[Fs::Tmpfs], group),
    ]
}

fn log(work: &Path) -> File {
    File::options().create(true).append(true).open(work.join("log")).expect("a log can be made")
}

fn text(path: PathBuf) -> String {
    path.to_str().expect("it is text").to_owned()
}

fn flush_at_once(_: Fs) -> Run<()> {
    let work = work_dir();
    let at = |name: &str| text(work.path().join(name));
    let socket = at("s");
    // Started only while flush waits already.
    let flush = Command::new(binary()).args(["flush", "--socket", &socket, "--timeout", "25s"]).stderr(Stdio::piped()).spawn();
    let flush = flush.expect("fansync can be started");
    ["src", "dst"].iter().for_each(|name| fs::create_dir(at(name)).expect("it can be made"));
    fs::write(at("src/new.html"), "hello").expect("it can be written");
    let mut command = bound_command(binary().to_str().expect("text"));
    command.args(["mirror", "--socket", &socket, &at("src"), &at("dst")]);
    let _daemon = Service::start("fansync", &mut command, &log(work.path())).expect("it starts");
    let ended = flush.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(fs::read_to_string(at("dst/new.html")).expect("it is there"), "hello");
    let none = fansync(&["flush", "--socket", &at("no"), "--timeout", "100ms"], WAIT);
    assert!(none.code == 69 && none.stderr.contains("no fansync daemon answers on"), "{}: {}", none.code, none.stderr);
    Ok(())
}

/// A user with a home, to whom a copy of the program is open.
struct User {
    dir: tempfile::TempDir,
}

impl User {
    fn new() -> User {
        let dir = work_dir();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("the mode can be set");
        let user = User { dir };
        fs::copy(binary(), user.at("fansync")).expect("the program can be copied");
        for name in ["home", "home/.config", "home/.config/fansync", "run", "src", "dst"] {
            fs::create_dir(user.at(name)).expect("it can be made");
            chown(user.at(name), Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        fs::set_permissions(user.at("run"), Permissions::from_mode(0o700)).expect("the mode can be set");
        user
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = bound_command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(self.at("fansync")).args(words);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.at("home")).env("XDG_RUNTIME_DIR", self.at("run"));
        command
    }

    fn runs(&self, words: &[&str]) -> Ran {
        run(&mut self.command(words), WAIT)
    }

    fn writes(&self, name: &str) {
        fs::write(self.at(name), name).expect("it can be written");
        chown(self.at(name), Some(NOBODY), Some(NOBODY)).expect("root may");
    }
}

/// What the kernel asks before it writes an image of a process, and before another one of its user
/// may look into it.
fn leaves_no_image(pid: Pid) {
    let at = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let limits = fs::read_to_string(at("limits")).expect("it lives");
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).expect("there is such a limit");
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["1", "1"], "{limits}");
    // proc_pid(5): root's, where the process is not dumpable.
    assert_eq!(fs::metadata(at("mem")).expect("it lives").uid(), 0, "a user's process is dumpable");
}

fn ordinary_user(_: Fs) -> Run<()> {
    // What root's fansync leaves: nothing that a user may read.
    let left = Path::new("/var/lib/fansync/mirror");
    fs::create_dir_all(left).expect("root may");
    fs::set_permissions(left, Permissions::from_mode(0o700)).expect("the mode can be set");
    let user = User::new();
    user.writes("src/a");
    let (src, dst) = (text(user.at("src")), text(user.at("dst")));
    let mut daemon =
        Service::start("fansync", &mut user.command(&["mirror", &src, &dst]), &log(user.dir.path())).expect("it starts");
    // Before it listens, a daemon of root that another test runs would be found.
    let listens = || UnixStream::connect(user.at("run/fansync/status.sock")).ok();
    poll_until(WAIT, listens).expect("it listens");
    let flushed = user.runs(&["flush"]);
    assert!(flushed.code == 0, "{}: {}", flushed.code, flushed.stderr);
    assert!(user.at("dst/a").exists() && user.at("run/fansync/status.sock").exists());
    leaves_no_image(daemon.pid());
    let paused = user.runs(&["pause"]);
    assert!(paused.code == 0 && paused.stdout.contains("until fansync ends only"), "{}{}", paused.stdout, paused.stderr);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait(WAIT).success());
    // A daemon of root that another test runs meanwhile is found instead, as long as it runs.
    let none = || Some(user.runs(&["status"])).filter(|ran| ran.code == 69);
    let none = poll_until(WAIT, none).expect("no daemon answers");
    assert!(none.stderr.contains("run/fansync/status.sock"), "{}", none.stderr);

    // And by a configuration of his own, in its usual place.
    let config = format!("[[mirror]]\nname = \"m\"\nsource = {src:?}\n[[mirror.target]]\nname = \"t\"\nurl = {dst:?}\n");
    fs::write(user.at("home/.config/fansync/fansync.toml"), config).expect("it can be written");
    let checked = user.runs(&["check"]);
    assert!(checked.code == 0 && checked.stdout.contains("valid"), "{}{}", checked.stdout, checked.stderr);
    let mut daemon = Service::start("fansync", &mut user.command(&["run"]), &log(user.dir.path())).expect("it starts");
    poll_until(WAIT, listens).expect("it listens");
    user.writes("src/b");
    let flushed = user.runs(&["flush"]);
    assert!(flushed.code == 0, "{}: {}", flushed.code, flushed.stderr);
    assert!(user.at("dst/b").exists() && user.at("home/.local/state/fansync/m").exists());
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait(WAIT).success());
    Ok(())
}

fn several_daemons(_: Fs) -> Run<()> {
    let user = User::new();
    for name in ["src2", "dst2"] {
        fs::create_dir(user.at(name)).expect("it can be made");
        chown(user.at(name), Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    let mut daemons = Vec::new();
    for (n, (src, dst)) in [("src", "dst"), ("src2", "dst2")].into_iter().enumerate() {
        let (src, dst) = (text(user.at(src)), text(user.at(dst)));
        let daemon =
            Service::start("fansync", &mut user.command(&["mirror", &src, &dst]), &log(user.dir.path())).expect("it starts");
        daemons.push(daemon);
        let listen = || (sockets(&user).len() > n).then_some(());
        poll_until(WAIT, listen).expect("it listens");
    }
    let (usual, other) = (user.at("run/fansync/status.sock"), text(sockets(&user).remove(0)));
    assert!(other != text(usual.clone()), "{other}");
    let flushed = |socket: &str| user.runs(&["flush", "--socket", socket]).code == 0;
    assert!(flushed(&text(usual.clone())) && flushed(&other));
    let shown = user.runs(&["status"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    for want in [format!("{}:\nOK", usual.display()), format!("\n\n{other}:\nOK"), text(user.at("src2"))] {
        assert!(shown.stdout.contains(&want), "{want:?} is not in\n{}", shown.stdout);
    }
    let brief = user.runs(&["status", "--brief", "--exit-code"]);
    assert_eq!((brief.code, brief.stdout.lines().count()), (0, 4), "{}", brief.stdout);
    let read = |command: &[&str]| -> Vec<serde_json::Value> {
        let text = user.runs(command).stdout;
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    };
    let all = read(&["status", "--json"]);
    all.iter().for_each(|one| _ = schema::check(one));
    let of =
        |n: usize| [&all[n]["socket"], &all[n]["mirrors"][0]["source"]].map(|text| text.as_str().unwrap_or_default().to_owned());
    assert_eq!(all.len(), 2);
    assert_eq!((of(0), of(1)), ([text(usual.clone()), text(user.at("src"))], [other.clone(), text(user.at("src2"))]));
    let one = read(&["status", "--json", "--socket", &other]);
    assert_eq!((one.len(), &one[0]["socket"]), (1, &all[1]["socket"]));
    // The rest of the file may be wrong, as while it is edited.
    let config = user.at("home/web.toml");
    fs::write(&config, format!("[daemon]\nstatus_socket = {other:?}\nno_such_key = 1\n")).expect("it can be written");
    chown(&config, Some(NOBODY), Some(NOBODY)).expect("root may");
    for command in [&["status"][..], &["flush"], &["pause"], &["resume"], &["retry"], &["explain", &text(user.at("src2"))]] {
        let ran = user.runs(&[command, &["--config", &text(config.clone())]].concat());
        let of_other =
            command[0] != "status" || ran.stdout.contains(&text(user.at("src2"))) && !ran.stdout.contains("status.sock");
        assert!(ran.code == 0 && of_other, "{command:?}: {}{}", ran.stdout, ran.stderr);
    }
    for mut daemon in daemons {
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.wait(WAIT).success());
    }
    Ok(())
}

/// Those of a user's daemons, the one without a usual name first.
fn sockets(user: &User) -> Vec<PathBuf> {
    let found = fs::read_dir(user.at("run/fansync")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = found.filter(|path| UnixStream::connect(path).is_ok()).collect();
    found.sort();
    found
}

fn status_for_monitoring(fs: Fs) -> Run<()> {
    let mut m = Setup::new(fs).start()?;
    m.check();
    let brief = |m: &Mirror| m.daemon.client(&["status", "--brief", "--exit-code"], WAIT);
    let whole = |m: &Mirror| m.daemon.client(&["status", "--exit-code"], WAIT);
    let well = poll_until(WAIT, || Some(whole(&m)).filter(|ran| ran.code == 0)).expect("it is in sync");
    assert!(well.stdout.starts_with("OK: 1 of 1 target in sync\n  mirror/t1  in sync\n\n"), "{}", well.stdout);
    assert_eq!(brief(&m).stdout, "OK: 1 of 1 target in sync\n");
    m.rsyncd.as_mut().expect("the target is a module").stop();
    m.src.write("f", b"x");
    poll_until(WAIT, || Some(brief(&m)).filter(|ran| ran.code == 2)).expect("it is down");
    // While it is tried again it is being probed.
    let bad = poll_until(WAIT, || Some(whole(&m)).filter(|ran| ran.code == 2)).expect("it is down still").stdout;
    let (first, line) = bad.split_once('\n').expect("two lines");
    let (what, next) = first.split_once(". Next: ").unwrap_or_else(|| panic!("it does not say what to do: {first}"));
    assert!(what.starts_with("TROUBLE: 0 of 1 target in sync; mirror/t1 down, ") && what.ends_with(" behind"), "{what}");
    assert!(next.contains("see that 127.0.0.1 answers"), "{next}");
    assert!(line.starts_with("  mirror/t1  down, ") && line.contains(" pending: "), "{line}");
    let json = || serde_json::from_str(&m.daemon.does(&["status", "--json"])).expect("JSON");
    let trouble = || Some(json()).filter(|json: &serde_json::Value| json["health"] == "trouble");
    let json = poll_until(WAIT, trouble).expect("the same as JSON");
    assert_eq!(json["format"], 1);
    assert_eq!(json["mirrors"][0]["targets"][0]["in_sync"], false);
    assert_eq!(m.daemon.client(&["status"], WAIT).code, 0, "without --exit-code it is only reported");
    let other = m.daemon.client(&["status", "--mirror", "other"], WAIT);
    assert!(other.code == 64 && other.stderr.contains("there are: mirror"), "{}: {}", other.code, other.stderr);
    Ok(())
}

fn group(_: Fs) -> Run<()> {
    let user = User::new();
    let (work, at) = (work_dir(), |name: &str| text(user.at(name)));
    let state = text(work.path().join("state"));
    let config = text(work.path().join("config.toml"));
    let write = |group: &str| {
        let daemon = format!("[daemon]\nstate_dir = {state:?}\nstatus_socket = {:?}\nsocket_group = {group:?}\n", at("s"));
        let mirror = format!("[[mirror]]\nname = \"m\"\nsource = {:?}\n", at("src"));
        let target = format!("[[mirror.target]]\nname = \"t\"\nurl = {:?}\n", at("dst"));
        fs::write(&config, daemon + &mirror + &target).expect("it can be written");
    };
    // The directory of the socket has to be root's.
    chown(user.dir.path(), Some(0), Some(0)).expect("root may");
    let as_group = |words: &[&str], group: &str| {
        let mut member = bound_command("setpriv");
        member.args(["--reuid=65534", group, "--clear-groups", "--"]).arg(user.at("fansync")).args(words);
        member.env("FANSYNC_SOCKET", at("s"));
        run(&mut member, WAIT)
    };
    let ask = |words: &[&str]| {
        let mut command = Command::new(binary());
        command.args(words).env("FANSYNC_SOCKET", at("s"));
        run(&mut command, WAIT)
    };
    let start = || {
        let mut command = bound_command(binary().to_str().expect("text"));
        let daemon = Service::start("fansync", command.args(["run", "--config", &config]), &log(work.path())).expect("it starts");
        poll_until(WAIT, || (ask(&["status"]).code == 0).then_some(())).expect("root reads it");
        daemon
    };
    write("daemon");
    let mut daemon = start();
    let read = as_group(&["status", "--json"], "--regid=daemon");
    assert!(read.code == 0 && read.stdout.contains("\"format\":1"), "{}: {}{}", read.code, read.stdout, read.stderr);
    let below = at("src/x");
    for words in [&["pause"][..], &["resume"], &["retry"], &["flush"], &["verify"], &["explain", &below], &["events"]] {
        let refused = as_group(words, "--regid=daemon");
        assert!(refused.code == 77 && refused.stderr.contains("socket_group"), "{words:?}: {}: {}", refused.code, refused.stderr);
    }
    assert_eq!(as_group(&["status"], "--regid=65534").code, 77, "another group's member");
    assert_eq!(ask(&["flush"]).code, 0, "root may do all");
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait(WAIT).success());
    // A group that is not there keeps no mirror.
    write("no-such-group");
    let checked = fansync(&["check", "--config", &config], WAIT);
    assert!(checked.stderr.contains("there is no group no-such-group"), "{}", checked.stderr);
    let mut daemon = start();
    let reported = fs::read_to_string(work.path().join("log")).expect("there is a log");
    assert!(reported.contains("the socket cannot be given to socket_group"), "{reported}");
    assert_eq!(as_group(&["status"], "--regid=daemon").code, 77);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait(WAIT).success());
    Ok(())
}
