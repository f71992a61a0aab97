//! What fansync does on a terminal: the time and colours of its lines, `status --watch`, and its end
//! when the terminal is closed.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::daemon::{Until, binary};
use crate::fixture::fs::{Fs, needs, work_dir};
use crate::fixture::proc::{Service, bound_command, descendants, must, poll_until, run};
use crate::fixture::{Case, Run, Setup, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("a_terminal_has_local_time", &[Fs::Tmpfs], local_time),
        case("a_closed_terminal_ends_mirror", &[Fs::Tmpfs], closed_terminal),
        case("watch_follows_the_daemon_on_a_terminal", &[Fs::Tmpfs], watch),
    ]
}

/// On a terminal: the time of the zone, not UTC.
fn local_time(_: Fs) -> Run<()> {
    needs("script")?;
    let work = work_dir();
    let at = |name: &str| work.path().join(name).display().to_string();
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
    let at = |name: &str| work.path().join(name).display().to_string();
    ["src", "dst"].iter().for_each(|name| fs::create_dir(at(name)).expect("it can be made"));
    let command = format!("{} mirror --socket {} {} {}", binary().display(), at("s"), at("src"), at("dst"));
    let mut script = bound_command("script");
    let log = File::create(at("log")).expect("a log can be made");
    let terminal = Service::start("script", script.args(["-qec", &command, "/dev/null"]), &log).expect("it starts");
    poll_until(WAIT, || Path::new(&at("s")).exists().then_some(())).expect("it listens");
    let is_it = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "fansync");
    let daemon = descendants(terminal.pid()).into_iter().find(is_it).expect("it runs");
    kill(daemon, Signal::SIGHUP).expect("it lives");
    poll_until(WAIT, || (!Path::new(&format!("/proc/{daemon}/exe")).exists()).then_some(())).expect("it ends");
    Ok(())
}

/// A terminal with one program in it; tmux keeps what it shows.
struct Terminal {
    socket: std::path::PathBuf,
}

impl Terminal {
    fn start(dir: &Path, command: &str) -> Terminal {
        let terminal = Terminal { socket: dir.join("tmux") };
        must(&mut terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", command]));
        terminal
    }

    fn tmux(&self, words: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        // Names and signs are UTF-8, whatever the machine's locale.
        command.arg("-u").arg("-S").arg(&self.socket).args(words).env_remove("TMUX").env("LC_ALL", "C.UTF-8");
        command
    }

    fn screen(&self) -> Option<String> {
        let shown = self.tmux(&["capture-pane", "-p"]).output().expect("tmux can be run");
        shown.status.success().then(|| String::from_utf8_lossy(&shown.stdout).into_owned())
    }

    #[track_caller]
    fn shows(&self, want: &str) -> String {
        let mut last = None;
        let found = poll_until(WAIT, || {
            last = self.screen();
            last.clone().filter(|screen| screen.contains(want))
        });
        found.unwrap_or_else(|| panic!("{want:?} does not show on\n{}", last.unwrap_or_else(|| "no screen".into())))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).output();
    }
}

fn watch(fs: Fs) -> Run<()> {
    needs("tmux")?;
    let mut m = Setup::new(fs).start()?;
    let refused = m.daemon.client(&["status", "--watch"], WAIT);
    assert!(refused.code == 64 && refused.stderr.contains("standard output is none"), "{}: {}", refused.code, refused.stderr);
    let socket = m.scratch("status.sock");
    let command = format!("{} status --watch --socket {}", binary().display(), socket.display());
    let terminal = Terminal::start(&m.scratch("."), &command);
    terminal.shows("● in sync");
    m.rsyncd.as_mut().expect("the target is a module").stop();
    m.src.write("f", b"x");
    terminal.shows("▲ trouble with t1");
    terminal.shows("refused");
    must(&mut terminal.tmux(&["resize-window", "-x", "40", "-y", "12"]));
    let narrow =
        poll_until(WAIT, || terminal.screen().filter(|s| s.contains("pending") && s.lines().all(|l| l.chars().count() <= 40)));
    narrow.expect("it follows the size of the terminal");
    m.daemon.kill();
    terminal.shows("▲ no answer for");
    m.rsyncd.as_mut().expect("the target is a module").restart();
    m.restart(Until::Reconciled);
    terminal.shows("● in sync");
    must(&mut terminal.tmux(&["send-keys", "q"]));
    poll_until(WAIT, || terminal.screen().is_none().then_some(())).expect("q ends it");
    // Without the signal that a shell may keep from it, too.
    let terminal = Terminal::start(&m.scratch("."), &format!("exec env --ignore-signal=HUP {command}"));
    terminal.shows("● in sync");
    let pid = terminal.tmux(&["display-message", "-p", "#{pane_pid}"]).output().expect("tmux can be run").stdout;
    let process = Path::new("/proc").join(String::from_utf8_lossy(&pid).trim());
    assert!(process.join("stat").exists(), "{} is not there", process.display());
    drop(terminal);
    poll_until(WAIT, || (!process.exists()).then_some(())).expect("it ends with its terminal");
    Ok(())
}
