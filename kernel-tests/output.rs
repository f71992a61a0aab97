//! A log or an output that cannot be written costs its lines and nothing else.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::fixture::daemon::{Config, MirrorTable, TargetTable, binary, fansync};
use crate::fixture::fs::{Fs, Ground, work_dir};
use crate::fixture::proc::{Ran, bound_command, poll_until};
use crate::fixture::tree::{Dir, Times, differences};
use crate::fixture::{Case, Run, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("log_on_a_full_disk", &[Fs::Tmpfs], |fs| {
            let full = || File::options().write(true).open("/dev/full").expect("there is one");
            let status = mirrors(fs, full().into(), "text", "debug")?;
            let lost = &status["log_lost"];
            assert!(lost["lines"].as_u64() > Some(1) && lost["failing"] == true, "{lost}");
            assert!(lost["reason"].to_string().contains("No space left on device"), "{lost}");
            Ok(())
        }),
        case("log_whose_reader_has_gone", &[Fs::Tmpfs], |fs| {
            let (reader, writer) = std::io::pipe().expect("a pipe can be made");
            drop(reader);
            let status = mirrors(fs, writer.into(), "json", "debug")?;
            assert!(status["log_lost"]["reason"].to_string().contains("Broken pipe"), "{}", status["log_lost"]);
            Ok(())
        }),
        case("log_whose_reader_stands_still", &[Fs::Tmpfs], |fs| {
            let (mut reader, writer) = std::io::pipe().expect("a pipe can be made");
            mirrors(fs, writer.into(), "text", "trace")?;
            // More than the pipe holds was logged, or this shows nothing.
            let mut log = Vec::new();
            reader.read_to_end(&mut log).expect("the pipe can be read");
            assert!(log.len() >= 60_000, "only {} bytes", log.len());
            Ok(())
        }),
        case("log_of_the_journal", &[Fs::Tmpfs], journal),
        case("output_closed_or_full", &[Fs::Tmpfs], outputs),
    ]
}

/// A daemon with a local target, killed when dropped.
struct Bare {
    _work: tempfile::TempDir,
    child: std::process::Child,
    socket: String,
    config: PathBuf,
    src: Dir,
    dst: Dir,
    _ground: Ground,
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bare {
    fn start(fs: Fs, stderr: Stdio, format: &str, level: &str) -> Run<Bare> {
        let work = work_dir();
        let ground = Ground::new(fs, work.path())?;
        let (src, dst) = (Dir::new(ground.src.root()), Dir::new(work.path().join("dst")));
        dst.mkdir(".");
        let target = TargetTable { name: "t".into(), url: dst.root().display().to_string(), ..TargetTable::default() };
        let mirror = MirrorTable { name: "m".into(), source: src.root().into(), target: vec![target], ..MirrorTable::default() };
        let log = toml::toml! { format = format level = level };
        let config = Config::new(work.path(), vec![mirror]).with_keys([("log".into(), log.into())].into());
        let config = config.write(work.path());
        let mut command = bound_command(binary().to_str().expect("text"));
        command.args(["run", "--config"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().expect("fansync can be started");
        let socket = work.path().join("status.sock").display().to_string();
        // What the command holds of the pipe's end ends with it.
        drop(command);
        let bare = Bare { _work: work, child, socket, config, src, dst, _ground: ground };
        let up = poll_until(WAIT, || (bare.asked(&["status"]).code == 0).then_some(()));
        up.expect("it answers");
        Ok(bare)
    }

    fn asked(&self, words: &[&str]) -> Ran {
        let words: Vec<&str> = words.iter().copied().chain(["--socket", &self.socket]).collect();
        fansync(&words, WAIT)
    }
}

/// Mirrors beside a log that goes to `stderr`, ends in order, and gives the last status.
fn mirrors(fs: Fs, stderr: Stdio, format: &str, level: &str) -> Run<serde_json::Value> {
    let mut bare = Bare::start(fs, stderr, format, level)?;
    for n in 0..400 {
        bare.src.write(format!("{n:0>200}"), b"x");
    }
    let flushed = bare.asked(&["flush", "--timeout", "25s"]);
    assert!(flushed.code == 0, "flush ended with {}: {}", flushed.code, flushed.stderr);
    let found = differences(bare.src.root(), bare.dst.root(), Times::All, &|_| false);
    assert!(found.is_empty(), "{found}");
    let status = bare.asked(&["status", "--json"]).stdout;
    let pid = nix::unistd::Pid::from_raw(bare.child.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("it lives");
    let ended = poll_until(WAIT, || bare.child.try_wait().expect("it is our child"));
    assert!(ended.expect("it ends").success(), "ended with {ended:?}");
    Ok(serde_json::from_str(&status).expect("the status is JSON"))
}

fn outputs(fs: Fs) -> Run<()> {
    let bare = Bare::start(fs, Stdio::null(), "text", "info")?;
    (0..50).for_each(|n| bare.src.mkdir(format!("d{n}")));
    assert_eq!(bare.asked(&["flush"]).code, 0);
    let (config, below) = (bare.config.display().to_string(), bare.src.at("d1").display().to_string());
    let (src, dst) = (bare.src.root().display().to_string(), bare.dst.root().display().to_string());
    let asked =
        |words: &[&str]| -> Vec<String> { words.iter().copied().chain(["--socket", &bare.socket]).map(str::to_owned).collect() };
    let commands = [
        asked(&["status"]),
        asked(&["status", "--json"]),
        asked(&["verify"]),
        asked(&["explain", &below]),
        asked(&["pause"]),
        asked(&["resume"]),
        ["check", "--config", &config].map(str::to_owned).to_vec(),
        ["check", "--effective", "--config", &config].map(str::to_owned).to_vec(),
        ["mirror", "--dry-run", &src, &dst].map(str::to_owned).to_vec(),
        ["completions", "bash"].map(str::to_owned).to_vec(),
        ["status", "--help"].map(str::to_owned).to_vec(),
        ["--version"].map(str::to_owned).to_vec(),
    ];
    for words in &commands {
        let full = File::options().write(true).open("/dev/full").expect("there is one");
        assert_eq!(ended(words, full.into(), Stdio::piped()), (74, true), "{words:?} with a full output");
        let (reader, writer) = std::io::pipe().expect("a pipe can be made");
        drop(reader);
        assert_eq!(ended(words, writer.into(), Stdio::piped()), (0, false), "{words:?} with a closed output");
    }
    // What cannot be said anywhere leaves the code.
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("there is one"));
    let nowhere = ["status", "--socket", "/nowhere"].map(str::to_owned);
    assert_eq!(ended(&nowhere, full(), full()).0, 69);
    assert_eq!(ended(&["--nope"].map(str::to_owned), full(), full()).0, 64);
    assert!(Path::new(&bare.socket).exists());
    Ok(())
}

fn journal(_: Fs) -> Run<()> {
    let work = work_dir();
    let lines_of = |words: &[&str], named: bool| {
        let log = tempfile::NamedTempFile::new_in(work.path()).expect("a file can be made");
        let (dev, ino) = log.as_file().metadata().map(|m| (m.dev(), m.ino())).expect("it has a number");
        let mut command = bound_command(binary().to_str().expect("text"));
        command.args(words).env("JOURNAL_STREAM", format!("{dev}:{}", if named { ino } else { ino + 1 }));
        let status = command.stdout(Stdio::null()).stderr(log.reopen().expect("it is there")).status();
        assert!(status.is_ok(), "{status:?}");
        let text = std::fs::read_to_string(log.path()).expect("it is text");
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (src, dst) = (Dir::new(work.path().join("src")), Dir::new(work.path().join("dst")));
    src.mkdir(".");
    dst.mkdir(".");
    let path = |dir: &Dir| dir.root().display().to_string();
    let socket = work.path().join("s").display().to_string();
    let once = ["mirror", "--once", "--socket", &socket, &path(&src), &path(&dst)];
    let lines = lines_of(&once, true);
    assert!(!lines.is_empty() && lines.iter().all(|l| l.starts_with("<6>") && l.contains(" INFO ")), "{lines:#?}");
    let lines = lines_of(&once, false);
    assert!(!lines.is_empty() && lines.iter().all(|l| l.starts_with("20")), "the time is missing: {lines:#?}");
    let lines = lines_of(&["check", "--config", "/nowhere"], true);
    assert!(!lines.is_empty() && lines.iter().all(|l| l.starts_with("<3>")), "{lines:#?}");
    Ok(())
}

/// The code of a command, and whether it said anything on standard error.
fn ended(words: &[String], stdout: Stdio, stderr: Stdio) -> (i32, bool) {
    let ran = Command::new(binary()).args(words).stdin(Stdio::null()).stdout(stdout).stderr(stderr).output();
    let ran = ran.expect("fansync can be started");
    (ran.status.code().unwrap_or(-1), !ran.stderr.is_empty())
}
