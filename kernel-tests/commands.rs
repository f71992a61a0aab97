//! The commands as people type them: a daemon that is just starting, an ordinary user's, one that
//! runs for a moment.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::daemon::{binary, fansync};
use crate::fixture::fs::{Fs, needs, work_dir};
use crate::fixture::proc::{Ran, Service, bound_command, descendants, poll_until, run};
use crate::fixture::rsyncd::{Rsyncd, free_port};
use crate::fixture::{Case, Mirror, Run, Setup, WAIT, case};

const NOBODY: u32 = 65_534;

pub fn cases() -> Vec<Case> {
    vec![
        case("flush_waits_for_a_daemon_that_starts", &[Fs::Tmpfs], flush_at_once),
        case("an_ordinary_user_beside_root", &[Fs::Tmpfs], ordinary_user),
        case("status_for_monitoring", &[Fs::Tmpfs], status_for_monitoring),
        case("a_group_reads_the_status", &[Fs::Tmpfs], group),
        case("check_tries_each_target", &[Fs::Tmpfs], connect),
        case("once_says_what_is_not_done", &[Fs::Tmpfs], once),
        case("a_terminal_has_local_time", &[Fs::Tmpfs], local_time),
        case("a_closed_terminal_ends_mirror", &[Fs::Tmpfs], closed_terminal),
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
    let nobody = fansync(&["flush", "--socket", &at("no"), "--timeout", "100ms"], WAIT);
    assert!(nobody.code == 69 && nobody.stderr.contains("no fansync daemon answers on"), "{}: {}", nobody.code, nobody.stderr);
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
    let flushed = user.runs(&["flush"]);
    assert!(flushed.code == 0, "{}: {}", flushed.code, flushed.stderr);
    assert!(user.at("dst/a").exists() && user.at("run/fansync/status.sock").exists());
    leaves_no_image(daemon.pid());
    let paused = user.runs(&["pause"]);
    assert!(paused.code == 0 && paused.stdout.contains("until fansync ends only"), "{}{}", paused.stdout, paused.stderr);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait(WAIT).success());
    let nobody = user.runs(&["status"]);
    assert!(nobody.code == 69 && nobody.stderr.contains("run/fansync/status.sock"), "{}: {}", nobody.code, nobody.stderr);

    // And by a configuration of his own, in its usual place.
    let config = format!("[[mirror]]\nname = \"m\"\nsource = {src:?}\n[[mirror.target]]\nname = \"t\"\nurl = {dst:?}\n");
    fs::write(user.at("home/.config/fansync/fansync.toml"), config).expect("it can be written");
    let checked = user.runs(&["check"]);
    assert!(checked.code == 0 && checked.stdout.contains("valid"), "{}{}", checked.stdout, checked.stderr);
    let mut daemon = Service::start("fansync", &mut user.command(&["run"]), &log(user.dir.path())).expect("it starts");
    user.writes("src/b");
    let flushed = user.runs(&["flush"]);
    assert!(flushed.code == 0, "{}: {}", flushed.code, flushed.stderr);
    assert!(user.at("dst/b").exists() && user.at("home/.local/state/fansync/m").exists());
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait(WAIT).success());
    Ok(())
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
    let bad = whole(&m).stdout;
    let (first, line) = bad.split_once('\n').expect("two lines");
    let (what, next) = first.split_once(". Next: ").unwrap_or_else(|| panic!("it does not say what to do: {first}"));
    assert!(what.starts_with("TROUBLE: 0 of 1 target in sync; mirror/t1 down, ") && what.ends_with(" behind"), "{what}");
    assert!(next.contains("see that 127.0.0.1 answers"), "{next}");
    assert!(line.starts_with("  mirror/t1  down, ") && line.contains(" pending: "), "{line}");
    let json: serde_json::Value = serde_json::from_str(&m.daemon.does(&["status", "--json"])).expect("JSON");
    assert_eq!((&json["health"], &json["format"]), (&"trouble".into(), &1.into()));
    assert_eq!(json["mirrors"][0]["targets"][0]["in_sync"], false);
    assert_eq!(m.daemon.client(&["status"], WAIT).code, 0, "without --exit-code it is only told");
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
    let told = fs::read_to_string(work.path().join("log")).expect("there is a log");
    assert!(told.contains("the socket cannot be given to socket_group"), "{told}");
    assert_eq!(as_group(&["status"], "--regid=daemon").code, 77);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait(WAIT).success());
    Ok(())
}

fn connect(_: Fs) -> Run<()> {
    let work = work_dir();
    let at = |name: &str| text(work.path().join(name));
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
    let nobody = "uid = nobody\ngid = 65534\n";
    rsyncd.module("nobodys", nobody);
    rsyncd.module("harmless", &format!("{nobody}incoming chmod = Fug-s\n"));
    rsyncd.module("fake", &format!("{nobody}fake super = yes\n"));
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

fn once(_: Fs) -> Run<()> {
    let work = work_dir();
    let at = |name: &str| text(work.path().join(name));
    ["src", "dst"].iter().for_each(|name| fs::create_dir(at(name)).expect("it can be made"));
    fs::write(at("src/f"), "1").expect("it can be written");
    let away = format!("rsync://127.0.0.1:{}/m", free_port());
    let ran = fansync(&["mirror", "--once", "--socket", &at("s"), &at("src"), &away], WAIT);
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(ran.code == 75 && last.starts_with("error: mirror/t1 is down after 3 tries: "), "{}: {}", ran.code, ran.stderr);
    // A target on this host may be relative, as the source may.
    let mut here = Command::new(binary());
    here.current_dir(work.path()).args(["mirror", "--once", "--socket", "s", "src", "dst"]);
    let ran = run(&mut here, WAIT);
    assert!(ran.code == 0 && Path::new(&at("dst/f")).exists(), "{}: {}", ran.code, ran.stderr);
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("equal: 1 file sent, 0 deleted, ") && last.contains("INFO"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("pass="), "each batch is a line only at debug: {}", ran.stderr);
    Ok(())
}

/// On a terminal: the time of the zone, not UTC.
fn local_time(_: Fs) -> Run<()> {
    needs("script")?;
    let work = work_dir();
    let at = |name: &str| text(work.path().join(name));
    ["src", "dst"].iter().for_each(|name| fs::create_dir(at(name)).expect("it can be made"));
    let now = || {
        let mut date = Command::new("date");
        date.arg("+%b %d %H:%M").env("TZ", "XYZ-5:30").env("LC_ALL", "C");
        run(&mut date, WAIT).stdout.trim().to_owned()
    };
    let logged = |no_color: &str| {
        let command = format!("{} mirror --once --socket {} {} {}", binary().display(), at("s"), at("src"), at("dst"));
        let mut script = bound_command("script");
        script.args(["-qec", &command, "/dev/null"]).env("TZ", "XYZ-5:30").env("NO_COLOR", no_color);
        let before = now();
        let shown = run(&mut script, WAIT).stdout;
        (shown, [before, now()])
    };
    let (shown, times) = logged("1");
    let line = shown.lines().find(|l| l.contains("equal: ")).unwrap_or_else(|| panic!("no closing line: {shown}"));
    assert!(times.iter().any(|time| line.contains(time.as_str())), "{times:?} is not in {line:?}");
    assert!(!line.contains("\x1b[32m"), "colours with NO_COLOR: {line:?}");
    let (shown, _) = logged("");
    let line = shown.lines().find(|l| l.contains("equal: ")).expect("there is a closing line");
    assert!(line.contains("\x1b[32m"), "no colours: {line:?}");
    Ok(())
}

fn closed_terminal(_: Fs) -> Run<()> {
    needs("script")?;
    let work = work_dir();
    let at = |name: &str| text(work.path().join(name));
    ["src", "dst"].iter().for_each(|name| fs::create_dir(at(name)).expect("it can be made"));
    let command = format!("{} mirror --socket {} {} {}", binary().display(), at("s"), at("src"), at("dst"));
    let mut script = bound_command("script");
    let terminal = Service::start("script", script.args(["-qec", &command, "/dev/null"]), &log(work.path())).expect("it starts");
    poll_until(WAIT, || Path::new(&at("s")).exists().then_some(())).expect("it listens");
    let is_it = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "fansync");
    let daemon = descendants(terminal.pid()).into_iter().find(is_it).expect("it runs");
    kill(daemon, Signal::SIGHUP).expect("it lives");
    poll_until(WAIT, || (!Path::new(&format!("/proc/{daemon}/exe")).exists()).then_some(())).expect("it ends");
    Ok(())
}
