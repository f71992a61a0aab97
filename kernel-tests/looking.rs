//! `fansync explain` and `fansync events`: what they say of paths and changes.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::daemon::binary;
use crate::fixture::fs::Fs;
use crate::fixture::proc::poll_until;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("explain_tells_the_state_at_each_target", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Module, To::Local]).start()?;
            m.src.write("f", b"x");
            m.check();
            let shown = explain(&m, "f", 0);
            assert!(shown.contains("found   a file of 1 bytes") && shown.contains("no pattern matches"), "{shown}");
            assert!(shown.contains("watch   fanotify on ") && shown.matches("    in sync: ").count() == 2, "{shown}");
            m.daemon.does(&["pause", "--target", "t1"]);
            m.src.write("f", b"xy");
            m.src.mkdir("d");
            m.daemon.flush(Some("t2"));
            let shown = explain(&m, "f", 0);
            assert!(shown.contains("    pending: for ") && shown.contains("    paused since "), "{shown}");
            assert_eq!(shown.matches("    in sync: ").count(), 1, "{shown}");
            m.src.remove("f");
            assert!(explain(&m, "f", 0).contains("found   nothing is there"));
            m.daemon.does(&["resume"]);
            m.check();
            assert_eq!(explain(&m, "f", 0).matches("    in sync: ").count(), 2, "gone from both is in sync");
            let json = m.daemon.does(&["explain", "--json", &m.src.at("d").display().to_string()]);
            let json: serde_json::Value = serde_json::from_str(&json).expect("one JSON object");
            assert_eq!(json["mirrors"][0]["targets"][1]["state"], "in sync", "{json}");
            Ok(())
        }),
        case("explain_names_the_rule_and_its_place", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).exclude(&["*.tmp", "/cache/"]).key("include", vec!["keep.tmp".to_string()]).start()?;
            m.src.mkdirs("cache/deep");
            m.src.write("keep.tmp", b"");
            m.src.write("x.tmp", b"");
            m.src.symlink("cache", "link");
            let config = m.scratch("fansync.toml");
            let text = std::fs::read_to_string(&config).expect("it was written for the daemon");
            let place = |pattern: &str| {
                let at = text.find(pattern).expect("it is in the file");
                let line = text[..at].matches('\n').count() + 1;
                let column = at - text[..at].rfind('\n').map_or(0, |n| n + 1) + 1;
                format!("({}:{line}:{column})", config.display())
            };
            let shown = explain(&m, "x.tmp", 0);
            let want = format!("left out by exclude \"*.tmp\" {}\n", place("\"*.tmp\""));
            assert!(shown.contains(&want) && shown.contains("    left out: "), "{want} is not in\n{shown}");
            let shown = explain(&m, "keep.tmp", 0);
            assert!(shown.contains(&format!("by include \"keep.tmp\" {}", place("\"keep.tmp\""))), "{shown}");
            // Gone, below a directory that is left out, through a link.
            m.src.remove("cache/deep");
            let shown = explain(&m, "link/deep/gone", 0);
            let want = format!("left out by exclude \"/cache/\" {}, for cache above it", place("\"/cache/\""));
            assert!(shown.starts_with("cache/deep/gone in mirror mirror of ") && shown.contains(&want), "{shown}");
            // Relative to the working directory.
            let socket = m.scratch("status.sock");
            let mut relative = Command::new(binary());
            relative.args(["explain", "../src/x.tmp", "--socket"]).arg(&socket).current_dir(m.src.at("cache/.."));
            let shown = relative.output().expect("it runs");
            assert!(shown.status.success() && shown.stdout.starts_with(b"x.tmp in mirror"), "{shown:?}");
            let shown = m.daemon.client(&["explain", "/etc/hostname"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("the sources are: "), "{}: {}", shown.code, shown.stderr);
            Ok(())
        }),
        case("explain_tells_of_a_file_that_is_too_large", &[Fs::Tmpfs], |fs| {
            let large = |src: &Dir| src.write("large", [b'x'; 2048]);
            let m = Setup::new(fs).key("max_file_size", "1KiB").before(large).start()?;
            m.daemon.flush(None);
            assert!(!m.dst().has("large"));
            let shown = explain(&m, "large", 0);
            assert!(shown.contains("    left out: it is larger than max_file_size"), "{shown}");
            m.src.write("large", b"small now");
            m.check();
            assert!(explain(&m, "large", 0).contains("    in sync: "));
            Ok(())
        }),
        case("explain_tells_why_a_path_fails", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Local]).target_key("retry_max", "60s").start()?;
            m.src.write("f", b"x");
            m.check();
            // A mount keeps its name from being replaced.
            m.dst().mkdir("busy");
            let mount = crate::fixture::fs::Mount::tmpfs(&m.dst().at("busy"));
            m.src.write("busy", b"a file");
            let failed = poll_until(WAIT, || Some(explain(&m, "busy", 0)).filter(|shown| shown.contains("    failed: ")));
            let shown = failed.unwrap_or_else(|| panic!("{}", explain(&m, "busy", 0)));
            assert!(shown.contains("(tried ") && shown.contains(", next in "), "{shown}");
            drop(mount);
            m.daemon.does(&["retry"]);
            m.check();
            Ok(())
        }),
        case("events_tell_what_who_and_where", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).exclude(&["*.tmp"]).start()?;
            let mut listener = Listener::start(&m, &[]);
            listener.receives(|| m.src.write("begin", b""));
            m.src.write("x.tmp", b"");
            let touched = Command::new("touch").arg(m.src.at("by touch\n")).status().expect("it runs");
            assert!(touched.success());
            let line = listener.line_with("by touch\\x0a");
            assert!(line.contains(" mirror create"), "{line}");
            // The process may have ended before its event was taken.
            assert!(line.contains(" touch by touch") || line.contains(" ? by touch"), "{line}");
            m.src.write("own", b"");
            let line = listener.line_with(" own");
            assert!(line.contains(&format!(" {} ", std::process::id())), "{line}");
            m.src.rename("own", "other");
            assert!(listener.line_with(" moved_from ").ends_with(" own\n"));
            let all = listener.end();
            assert!(!all.contains("x.tmp"), "what is left out is reported:\n{all}");
            let count = m.daemon.client(&["events", "--count", "0", "--json"], WAIT);
            assert_eq!((count.code, count.stdout.as_str()), (0, ""));
            Ok(())
        }),
        case("a_listener_that_stands_still_holds_up_nothing", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).start()?;
            let mut still = Listener::start(&m, &["--json"]);
            still.receives(|| m.src.write("begin", b""));
            still.signal(Signal::SIGSTOP);
            let mut dead = Listener::start(&m, &[]);
            dead.receives(|| m.src.write("begin", b""));
            drop(dead);
            // More than a queue and a socket hold; kept back, as this is about its report.
            m.daemon.does(&["pause"]);
            for n in 0..10_000 {
                m.src.write(format!("{n:0200}"), b"");
            }
            let all = || (m.daemon.target_status("t1").pending >= 10_000).then_some(());
            assert!(poll_until(WAIT, all).is_some(), "the engine waits for a listener\n{}", m.daemon.report());
            still.signal(Signal::SIGCONT);
            let shown = still.line_with("\"dropped\":");
            let shown: serde_json::Value = serde_json::from_str(&shown).expect("one JSON object a line");
            assert!(shown["dropped"].as_u64().is_some_and(|n| n > 0), "{shown}");
            Ok(())
        }),
    ]
}

fn explain(m: &Mirror, path: &str, code: i32) -> String {
    let ran = m.daemon.client(&["explain", &m.src.at(path).display().to_string()], WAIT);
    assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// A running `fansync events`.
struct Listener {
    child: Child,
    lines: BufReader<Box<dyn Read + Send>>,
    shown: String,
}

impl Listener {
    fn start(m: &Mirror, args: &[&str]) -> Listener {
        let mut command = Command::new(binary());
        command.arg("events").args(args).arg("--socket").arg(m.scratch("status.sock"));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the client starts");
        let lines = BufReader::new(Box::new(child.stdout.take().expect("it was asked for")) as Box<dyn Read + Send>);
        Listener { child, lines, shown: String::new() }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    /// Makes changes until one is reported: from there on it is subscribed.
    fn receives(&mut self, change: impl Fn()) {
        use std::os::fd::AsFd;
        let Some(out) = self.ready_fd() else { panic!("no output") };
        let received = poll_until(WAIT, || {
            change();
            let mut fds = [nix::poll::PollFd::new(out.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, 20u8).is_ok_and(|n| n > 0).then_some(())
        });
        assert!(received.is_some(), "nothing is reported");
    }

    fn ready_fd(&self) -> Option<std::fs::File> {
        let link = format!("/proc/{}/fd/1", self.child.id());
        std::fs::File::open(link).ok()
    }

    /// The next line that holds `word`.
    fn line_with(&mut self, word: &str) -> String {
        loop {
            let mut line = String::new();
            let len = self.lines.read_line(&mut line).expect("it can be read");
            assert!(len > 0, "it ended before {word:?}:\n{}", self.shown);
            self.shown.push_str(&line);
            if line.contains(word) {
                return line;
            }
        }
    }

    /// Ends it; everything it printed.
    fn end(mut self) -> String {
        self.child.kill().expect("it runs");
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("it can be read");
        self.shown.clone() + &rest
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
