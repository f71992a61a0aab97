//! `fansync check --connect`: tries each target as a run would use it, and says what to set.
//!
//! What is tried, one after the other, each only where the one before it worked:
//!
//! - an rsync daemon: whether it answers, its protocol, whether it sends small answers at once;
//!   ssh: the rsync on the other side, its version and what it can carry over;
//! - the probe that a daemon makes at its start: password, module, directory, every option;
//! - a directory of its own, `.fansync-check-…`: written, compared, deleted. What comes back
//!   otherwise than it was sent (times cut to seconds, owners, attributes) would be sent again by
//!   each comparison. As root also a file of another user with a set-user-ID bit, that no other
//!   user can run: whether a target on another host keeps its owner;
//! - as many connections as runs and waiting processes may take, unless a daemon runs already and
//!   has them.
//!
//! Nothing else on the target is listed, changed or deleted: the lists of these runs hold paths of
//! that directory alone. With `roles` nothing is written: this side may be one that must not.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::config::{Config, Mirror, Target};
use crate::control::{self, Request};
use crate::exit::ExitCode;
use crate::location::{DAEMON, Location, Trouble, remote_shell};
use crate::path::{RelPath, Shown};
use crate::sync::argv::{self, Pass, Spec};
use crate::sync::dialect::{Dialect, LINK_TIMES};
use crate::sync::filelist::{self, Form};
use crate::sync::outcome::{Exit, Outcome, Verdict};
use crate::sync::output::Signs;
use crate::sync::password::{self, password};
use crate::sync::probe::{OLDEST, RsyncFacts, TargetState, interpret_probe, probe_list};
use crate::sync::run::{Collected, Input, Run, collect, collect_confined};
use crate::sys::borrowed::{data_segments_in, set_quick_acks};

/// Listings of modules that are requested.
const LISTINGS: usize = 5;
/// Lines of a listing that says something.
const LINES_MIN: u32 = 6;
/// Segments of a listing that is held back, at most: the first line, the rest, and one for an
/// acknowledgement in between.
const HELD_BACK: u32 = 3;
/// How long connections are held to see whether one of them is refused.
const HELD: Duration = Duration::from_secs(2);
/// Longer than one of these runs takes; the target's own timeouts end it before.
const PATIENCE: Duration = Duration::from_secs(600);
/// The time of the file that is written: with nanoseconds, and not now.
const WRITTEN: Duration = Duration::new(1_000_000_000, 123_456_789);

/// The file of another user, and a number that is no user's.
const OWNED: &str = "owned";
const NOBODYS: u32 = 65_533;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Good,
    /// Not known, or not tried.
    Note,
    Warn,
    Bad,
}

/// What was found out about one target.
#[derive(Debug)]
pub(crate) struct Tried {
    /// `mirror/target`.
    target: String,
    url: String,
    findings: Vec<(Mark, String)>,
    code: ExitCode,
}

impl Tried {
    fn good(&mut self, text: impl Into<String>) {
        self.findings.push((Mark::Good, text.into()));
    }

    fn note(&mut self, text: impl Into<String>) {
        self.findings.push((Mark::Note, text.into()));
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.findings.push((Mark::Warn, text.into()));
    }

    fn bad(&mut self, code: ExitCode, text: impl Into<String>) {
        self.findings.push((Mark::Bad, text.into()));
        self.code = code;
    }

    /// The code to leave with; warnings count for none.
    pub(crate) fn exit_code(&self) -> ExitCode {
        self.code
    }

    /// Findings that are warnings.
    pub(crate) fn warnings(&self) -> usize {
        self.findings.iter().filter(|(mark, _)| *mark == Mark::Warn).count()
    }

    /// A line for the target, and one for each finding.
    pub(crate) fn human(&self) -> String {
        let mut out = format!("{}  {}\n", self.target, self.url);
        for (mark, text) in &self.findings {
            let mark = match mark {
                Mark::Good => "ok     ",
                Mark::Note => "note   ",
                Mark::Warn => "warning",
                Mark::Bad => "error  ",
            };
            let _ = writeln!(out, "  {mark}  {text}");
        }
        out
    }
}

/// Tries every target; `each` is given each result.
pub(crate) fn try_all(config: &Config, each: &mut dyn FnMut(Tried)) {
    let runs = control::ask(&config.daemon.status_socket, &Request::Status, Duration::from_secs(5)).is_ok();
    for mirror in &config.mirrors {
        for target in &mirror.targets {
            each(try_one(mirror, target, runs));
        }
    }
}

/// `runs`: a daemon runs on this configuration.
fn try_one(mirror: &Mirror, target: &Target, runs: bool) -> Tried {
    let mut tried = Tried {
        target: format!("{}/{}", mirror.name, target.name),
        url: target.location.to_string(),
        findings: Vec::new(),
        code: ExitCode::Done,
    };
    if target.location.is_feed() || mirror.follow.is_some() {
        tried.note("feeds and followers are tried when they run: see `fansync status`");
        return tried;
    }
    let env = argv::environment(std::env::vars_os());
    let facts = match RsyncFacts::probe(&mirror.rsync, &env) {
        Ok(facts) => facts,
        Err(error) => {
            tried.bad(ExitCode::Unavailable, error.to_string());
            return tried;
        }
    };
    let reached = match &target.location {
        Location::Daemon { shell: false, host, port, .. } => greet(&mut tried, target, &mirror.rsync, host, port.unwrap_or(873)),
        Location::Daemon { user, host, .. } => {
            greet_through_shell(&mut tried, &Login { mirror, target, user: user.as_deref(), host, env: &env })
        }
        Location::Ssh { user, host, .. } => {
            ask_version(&mut tried, &Login { mirror, target, user: user.as_deref(), host, env: &env })
        }
        Location::Local(_) | Location::Feed { .. } => true,
    };
    if !reached {
        return tried;
    }
    let ground = match Ground::new() {
        Ok(ground) => ground,
        Err(error) => {
            tried.bad(ExitCode::Unavailable, format!("cannot make a directory for the files to send: {error}"));
            return tried;
        }
    };
    let spec = Spec::new(mirror, target, &facts, &ground.root);
    let Some(spec) = probe(&mut tried, target, &spec, &env) else { return tried };
    match mirror.roles {
        true => tried.note("nothing is written, as roles decide who may"),
        false => write(&mut tried, &spec, &ground, &env),
    }
    if target.location.is_daemon() {
        let needed = target.jobs + target.small_jobs + target.standby;
        match runs {
            true => tried.note(format!("{needed} connections at a time are not tried: a daemon runs and may have them")),
            false => hold(&mut tried, &spec, needed, &env),
        }
    }
    tried
}

/// A directory of this host whose content is sent; removed when dropped.
struct Ground {
    root: PathBuf,
    /// The directory in it, and on the target.
    name: String,
}

impl Ground {
    fn new() -> io::Result<Ground> {
        let number = fastrand::u64(..);
        let root = std::env::temp_dir().canonicalize()?.join(format!("fansync-check-{number:016x}"));
        fs::DirBuilder::new().mode(0o700).create(&root)?;
        Ok(Ground { root, name: format!(".fansync-check-{number:016x}") })
    }

    fn fill(&self, spec: &Spec<'_>) -> io::Result<()> {
        let dir = self.root.join(&self.name);
        fs::create_dir(&dir)?;
        let file = dir.join("file");
        fs::write(&file, b"written by `fansync check --connect`\n")?;
        if spec.extras.xattrs {
            // Where this host's own filesystem takes none, none can be tried.
            let _ = xattr::set(&file, "user.fansync", b"check");
        }
        fs::File::options().write(true).open(&file)?.set_modified(UNIX_EPOCH + WRITTEN)
    }

    /// A file of a user without an entry, with a set-ID bit, where there is no program. Whether
    /// that can be had.
    fn fill_owned(&self) -> bool {
        let file = self.root.join(&self.name).join(OWNED);
        let made = fs::write(&file, b"written by `fansync check --connect`\n")
            .and_then(|()| chown(&file, Some(NOBODYS), Some(NOBODYS)))
            .and_then(|()| fs::set_permissions(&file, Permissions::from_mode(0o4644)));
        let there = made.is_ok();
        if !there {
            let _ = fs::remove_file(&file);
        }
        there
    }

    fn empty(&self) -> io::Result<()> {
        fs::remove_dir_all(self.root.join(&self.name))
    }

    /// A list of the directory, and of the files in it.
    fn list(&self, files: &[&str]) -> Vec<u8> {
        let mut paths = vec![RelPath::from_normal(self.name.clone())];
        paths.extend(files.iter().map(|file| RelPath::from_normal(format!("{}/{file}", self.name))));
        filelist::encode(paths.iter().map(|path| (path, Form::Plain))).bytes
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn run(spec: &Spec<'_>, pass: Pass, list: &[u8], env: &[(OsString, OsString)]) -> (Outcome, Signs, Vec<String>) {
    let failed = |text: String| (Outcome::unknown(text), Signs::default(), Vec::new());
    let mut run = match Run::start(spec, pass, env, Input::List(list)) {
        Ok(run) => run,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|e| format!(": {e}")).unwrap_or_default();
            return failed(format!("{error}{cause}"));
        }
    };
    run.keep_items(10);
    match run.wait(PATIENCE, |_| {}) {
        Ok(outcome) => {
            let output = run.output();
            let differing = output.items.iter().filter(|item| !item.path.is_root() && !item.is_access_time());
            (outcome, output.signs.clone(), differing.map(crate::verify::difference).collect())
        }
        Err(error) => failed(format!("how rsync ended is not known: {error}")),
    }
}

// ----- an rsync daemon -----

/// Whether an rsync daemon answers there.
fn greet(tried: &mut Tried, target: &Target, rsync: &Path, host: &str, port: u16) -> bool {
    let at = format!("port {port} of {host}");
    let advice = || target.location.advice(Trouble::Away, &target.reach(rsync));
    let greeting = connect(host, port, target.connect_timeout).and_then(|stream| {
        let mut line = String::new();
        BufReader::new(stream.take(200)).read_line(&mut line).map(|_| line)
    });
    let greeting = match greeting {
        Ok(greeting) => greeting,
        Err(error) => {
            tried.bad(ExitCode::TargetUnreachable, format!("{at} does not answer: {error}; {}", advice()));
            return false;
        }
    };
    let Some(protocol) = protocol(&greeting) else {
        let text = format!("what answers on {at} is no rsync daemon, or refuses this host by its address; {}", advice());
        tried.bad(ExitCode::TargetUnreachable, text);
        return false;
    };
    match protocol {
        ..31 => tried.warn(format!("{at} speaks protocol {protocol}: rsync is older than 3.1; install 3.1.2 or later there")),
        31 => tried.good(format!("{at} answers: protocol 31 (rsync 3.1 to 3.3)")),
        _ => tried.good(format!("{at} answers: protocol {protocol} (rsync 3.4 or later)")),
    }
    match sends_at_once(host, port, target.connect_timeout) {
        Some(true) => tried.good("it sends small answers at once (TCP_NODELAY)"),
        Some(false) => tried.warn(
            "it holds small answers back (no TCP_NODELAY): write `socket options = TCP_NODELAY` into the global part of its rsyncd.conf; \
             it makes single changes up to 40 ms faster",
        ),
        None => tried.note("whether it sends small answers at once (TCP_NODELAY) does not show: it lists too few modules"),
    }
    true
}

/// The protocol of a greeting: `@RSYNCD: 31.0`.
pub fn protocol(greeting: &str) -> Option<u32> {
    greeting.strip_prefix("@RSYNCD: ")?.split(['.', ' ', '\n']).next()?.parse().ok()
}

fn connect(host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => {
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether an rsync daemon sends small pieces at once (TCP_NODELAY); `None` where that does not
/// show.
fn sends_at_once(host: &str, port: u16, patience: Duration) -> Option<bool> {
    let listings = (0..LISTINGS).filter_map(|_| listing(connect(host, port, patience).ok()?).ok().flatten());
    at_once(&listings.collect::<Vec<_>>())
}

/// The same from the lines and segments of some listings. A daemon writes its modules line by line:
/// then each line is a segment, or nearly, as a busy sender joins some. With Nagle's algorithm all
/// lines behind the first wait until that is acknowledged, or the connection ends, and are one
/// segment.
fn at_once(listings: &[(u32, u32)]) -> Option<bool> {
    let any =
        |holds: fn(u32, u32) -> bool| listings.iter().any(|(lines, segments)| *lines >= LINES_MIN && holds(*lines, *segments));
    if any(|lines, segments| segments > HELD_BACK && segments * 2 > lines) {
        return Some(true);
    }
    any(|_, segments| segments <= HELD_BACK).then_some(false)
}

/// The lines of a listing of modules, and the segments that they came in.
fn listing(mut stream: TcpStream) -> io::Result<Option<(u32, u32)>> {
    let mut greeting = String::new();
    BufReader::new((&stream).take(200)).read_line(&mut greeting)?;
    let before = data_segments_in(stream.as_fd())?;
    // Else each line is acknowledged at once, and nothing waits.
    set_quick_acks(stream.as_fd(), false)?;
    stream.write_all(b"@RSYNCD: 31.0\n#list\n")?;
    let (mut buffer, mut lines) = ([0; 4096], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            read => lines += buffer[..read].iter().filter(|b| **b == b'\n').count() as u32,
        }
        set_quick_acks(stream.as_fd(), false)?;
    }
    let segments = before.zip(data_segments_in(stream.as_fd())?).map(|(before, now)| now.saturating_sub(before));
    Ok(segments.map(|segments| (lines, segments)))
}

/// Holds as many connections as the target may take.
fn hold(tried: &mut Tried, spec: &Spec<'_>, needed: usize, env: &[(OsString, OsString)]) {
    let started = (0..needed).map_while(|_| Run::start(spec, Pass::Shallow, env, Input::Standby).ok());
    let mut held: Vec<Run> = started.collect();
    let begun = Instant::now();
    let refused: Vec<String> = held
        .iter_mut()
        .filter_map(|run| run.wait_while(Duration::from_millis(20), |_| begun.elapsed() < HELD).ok())
        .filter(|outcome| outcome.verdict == Verdict::Busy)
        .map(|outcome| outcome.reason)
        .collect();
    match refused.first() {
        Some(reason) => tried.warn(format!(
            "{} of {needed} connections are refused ({reason}): raise the module's `max connections` to {needed} or more for each host \
             that mirrors to it, or lower jobs, small_jobs and standby",
            refused.len()
        )),
        None => tried.good(format!("{} connections at a time", held.len())),
    }
}

// ----- ssh -----

/// A login through a remote shell.
struct Login<'a> {
    mirror: &'a Mirror,
    target: &'a Target,
    user: Option<&'a str>,
    host: &'a str,
    env: &'a [(OsString, OsString)],
}

impl Login<'_> {
    /// The words that run `args` of the rsync there.
    fn words(&self, args: &str) -> Vec<OsString> {
        let Login { target, user, host, .. } = *self;
        let shell = remote_shell(target.ssh.as_deref(), target.connect_timeout);
        let mut words: Vec<OsString> = shlex::split(&shell).unwrap_or_default().into_iter().map(Into::into).collect();
        words.push(user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}")).into());
        words.push(format!("{} {args}", target.rsync_path.as_deref().unwrap_or("rsync")).into());
        words
    }

    /// Runs them.
    fn run(&self, tried: &mut Tried, args: &str) -> Option<Collected> {
        let patience = self.target.connect_timeout + self.target.timeout;
        match collect(&self.words(args), self.env, 64 * 1024, patience) {
            Ok(asked) => Some(asked),
            Err(error) => {
                self.refuse(tried, format!("the remote shell cannot be run: {error}"));
                None
            }
        }
    }

    /// Notes what is wrong, with advice.
    fn refuse(&self, tried: &mut Tried, what: String) {
        let advice = self.target.location.advice(Trouble::Away, &self.target.reach(&self.mirror.rsync));
        tried.bad(ExitCode::TargetUnreachable, format!("{what}; {advice}"));
    }
}

/// Whether the remote shell works, and a daemon that it starts greets.
fn greet_through_shell(tried: &mut Tried, login: &Login<'_>) -> bool {
    let host = login.host;
    let Some(asked) = login.run(tried, DAEMON) else { return false };
    let (stdout, stderr) = (String::from_utf8_lossy(&asked.stdout), String::from_utf8_lossy(&asked.stderr));
    let Some(protocol) = protocol(&stdout) else {
        let said = stderr.lines().chain(stdout.lines()).rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing").trim();
        login.refuse(tried, format!("the rsync daemon behind ssh on {host} does not answer: {said}"));
        return false;
    };
    match protocol {
        ..31 => tried.warn(format!("{host} speaks protocol {protocol}: rsync is older than 3.1; install 3.1.2 or later there")),
        _ => tried.good(format!("{host} answers through ssh: protocol {protocol}")),
    }
    true
}

/// Whether the remote shell works, and which rsync is there.
fn ask_version(tried: &mut Tried, login: &Login<'_>) -> bool {
    let (mirror, host) = (login.mirror, login.host);
    let Some(asked) = login.run(tried, "--version") else { return false };
    let Some(there) = RsyncFacts::parse(&asked.stdout) else {
        let stderr = String::from_utf8_lossy(&asked.stderr);
        let said = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says no version").trim().to_owned();
        login.refuse(tried, format!("rsync on {host} does not answer: {said}"));
        return false;
    };
    match there.version {
        old if old < OLDEST => tried.warn(format!("{host} has rsync {old}: install {OLDEST} or later there")),
        version => {
            tried.good(format!("{host} answers: rsync {version}"));
            if Dialect::of(version) == Dialect::Zlib {
                tried.warn(format!("it is {LINK_TIMES}"));
            }
        }
    }
    for (wanted, can, what) in [(mirror.extras.acls, there.acls, "acls"), (mirror.extras.xattrs, there.xattrs, "xattrs")] {
        if wanted && !can {
            tried.bad(
                ExitCode::Config,
                format!("its rsync is built without {what}: set {what} = false, or install another one there"),
            );
        }
    }
    true
}

// ----- what every target has -----

/// The probe of a daemon's start. With what the target can do; `None` where it is not usable.
fn probe<'s>(tried: &mut Tried, target: &Target, spec: &Spec<'s>, env: &[(OsString, OsString)]) -> Option<Spec<'s>> {
    let mut spec = *spec;
    loop {
        let (outcome, signs, _) = run(&spec, Pass::Probe, &probe_list(), env);
        if let Some(older) = spec.dialect.after(&outcome, &signs, &target.location, target.compress) {
            spec.dialect = older;
            continue;
        }
        match interpret_probe(&outcome, &signs) {
            TargetState::Usable => {
                tried.good(match &target.location {
                    Location::Daemon { .. } => "the module lets fansync in and takes every option",
                    Location::Ssh { .. } | Location::Local(_) | Location::Feed { .. } => {
                        "the directory is there, and every option is taken"
                    }
                });
                spec.dialect.weaker(target.compress).into_iter().for_each(|text| tried.warn(text));
                return Some(spec);
            }
            TargetState::UseFallback if spec.missing_args => {
                tried.warn(
                    "its rsync cannot delete by name (--delete-missing-args), so directories are compared one level deep instead, \
                     which costs more; rsync 3.4.4 and later can",
                );
                spec.missing_args = false;
            }
            TargetState::Config(reason) => {
                let advice = target.location.refusal_advice(outcome.cause, &target.reach(spec.rsync));
                let advice = advice.trim().trim_end_matches('.');
                let advice = if advice.is_empty() { String::new() } else { format!(". {advice}") };
                tried.bad(ExitCode::Config, format!("it refuses: {reason}{advice}"));
                return None;
            }
            TargetState::UseFallback => {
                tried.bad(ExitCode::TargetUnreachable, outcome.reason);
                return None;
            }
            TargetState::Down(reason) | TargetState::Source(reason) => {
                let advice = target.location.advice(outcome.cause, &target.reach(spec.rsync));
                tried.bad(ExitCode::TargetUnreachable, format!("it cannot be used: {reason}; {advice}"));
                return None;
            }
        }
    }
}

/// Writes, compares and deletes the directory.
fn write(tried: &mut Tried, spec: &Spec<'_>, ground: &Ground, env: &[(OsString, OsString)]) {
    if let Err(error) = ground.fill(spec) {
        return tried.bad(ExitCode::Unavailable, format!("cannot make a file to send: {error}"));
    }
    let (written, ..) = run(spec, Pass::Shallow, &ground.list(&["file"]), env);
    let done = written.verdict == Verdict::Done;
    if done {
        tried.good("a file and a directory can be written");
        compare(tried, spec, ground, env);
        // A target on this host is judged by its arguments.
        if !matches!(spec.peer.location, Location::Local(_)) && ground.fill_owned() {
            owners(tried, spec, ground, env);
        }
    } else {
        tried.bad(ExitCode::Differences, format!("a file cannot be written as it should be: {}", written.reason));
    }
    if let Err(error) = ground.empty() {
        return tried.bad(ExitCode::Unavailable, format!("cannot remove the file that was sent: {error}"));
    }
    // Also where the mirror deletes nothing: this is our own.
    let (deleted, ..) = match spec.missing_args {
        true => run(&Spec { delete: true, ..*spec }, Pass::Shallow, &ground.list(&[]), env),
        false => {
            // By name it cannot be deleted; what is in it can.
            let _ = fs::create_dir(ground.root.join(&ground.name));
            run(&Spec { delete: true, ..*spec }, Pass::Deep, &ground.list(&[]), env)
        }
    };
    match (&deleted.verdict, spec.missing_args) {
        (Verdict::Done, true) if done => tried.good("and deleted"),
        (Verdict::Done, true) => {}
        (Verdict::Done, false) => {
            tried.warn(format!("what is in a directory can be deleted; {} stays there, empty: remove it", ground.name))
        }
        _ => {
            let text = format!("it cannot be deleted: {}; remove {} there yourself", deleted.reason, ground.name);
            tried.bad(if spec.delete { ExitCode::Differences } else { tried.code }, text);
        }
    }
}

/// What was written, and is not as it was sent.
fn compare(tried: &mut Tried, spec: &Spec<'_>, ground: &Ground, env: &[(OsString, OsString)]) {
    let (outcome, _, differing) = run(&Spec { dry_run: true, ..*spec }, Pass::Shallow, &ground.list(&["file"]), env);
    if outcome.verdict != Verdict::Done {
        return tried.warn(format!("what was written cannot be compared: {}", outcome.reason));
    }
    let mut words: Vec<String> = differing;
    words.sort();
    words.dedup();
    match words.as_slice() {
        [] => {
            let exact = if spec.dialect.compares_nanoseconds() { "nanosecond" } else { "second" };
            tried.good(format!("what was written is there as it was sent: content, times to the {exact}, mode"));
        }
        some => tried.warn(format!(
            "what was written is not there as it was sent ({}), so each comparison would send it again: a filesystem that keeps less (times \
             to a second or two, no owners), or a user who may not set it; see args in docs/config.md",
            some.join("; ")
        )),
    }
}

/// Whether a set-user-ID program of a user becomes another user's there, which only the target's
/// server knows: the user that a module, or the name of a host in ssh's configuration, stands for.
fn owners(tried: &mut Tried, spec: &Spec<'_>, ground: &Ground, env: &[(OsString, OsString)]) {
    let (written, ..) = run(spec, Pass::Shallow, &ground.list(&[OWNED]), env);
    if written.verdict != Verdict::Done {
        return tried.note(format!("whether owners are kept is not known: {}", written.reason));
    }
    let with_password = spec.peer.password_of_module().and_then(|file| password(file).ok());
    let env = with_password.map_or_else(|| env.to_vec(), |password| password::with_password(env, password));
    let here = ground.root.join(&ground.name);
    let words = argv::compare_owner(spec, &format!("{}/{OWNED}", ground.name), &here);
    let dir = match fs::File::open(&here) {
        Ok(dir) => dir,
        Err(error) => return tried.note(format!("whether owners are kept is not known: {error}")),
    };
    match collect_confined(spec, &words, &env, dir.as_fd(), 4096, PATIENCE) {
        Ok(said) if said.exit == Exit::Code(0) => match changed(&said.stdout) {
            Changed { owner: false, .. } => tried.good("and owners are kept"),
            Changed { mode: true, .. } => tried.good("owners are not kept, and set-ID bits are taken away"),
            Changed { .. } => tried.warn(
                "owners are not kept, and set-user-ID bits are: a set-user-ID file of any user of the source becomes one of the user that \
                 rsync runs as there, whose rights it gives to all who run it; write `incoming chmod = Fug-s` into the module, add \
                 --chmod=Fug-s to args, or let the copy lie on a filesystem that is mounted nosuid",
            ),
        },
        Ok(said) => {
            let why = String::from_utf8_lossy(&said.stderr);
            let why = Shown(why.lines().next().unwrap_or_default().as_bytes()).to_string();
            tried.note(format!("whether owners are kept is not known, as the target does not show it: {why}"));
        }
        Err(error) => tried.note(format!("whether owners are kept is not known: {error}")),
    }
}

/// What a file has there otherwise than here.
#[derive(Debug, PartialEq, Eq, Default)]
struct Changed {
    mode: bool,
    owner: bool,
}

/// From the line of a file that rsync itemizes: `.f...po.... name`.
fn changed(said: &[u8]) -> Changed {
    let itemized = |line: &&[u8]| line.len() > 11 && line[1] == b'f' && line[11] == b' ';
    let line = said.split(|&b| b == b'\n').find(itemized);
    line.map_or_else(Changed::default, |line| Changed { mode: line[5] == b'p', owner: line[6] == b'o' || line[7] == b'g' })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn what_a_file_has_otherwise() {
        for (said, mode, owner) in [
            (&b""[..], false, false),
            (b".f....og... owned\n", false, true),
            (b"a greeting of ssh\n.f...pog... owned\n", true, true),
            (b".f....o.... owned\n", false, true),
            (b".f...p..... owned\n", true, false),
            (b">f..t.o.... \xff\n", false, true),
        ] {
            assert_eq!(changed(said), Changed { mode, owner }, "{}", said.escape_ascii());
        }
    }

    #[test]
    fn greetings() {
        for (greeting, want) in [
            ("@RSYNCD: 32.0 sha512 sha256 sha1 md5 md4\n", Some(32)),
            ("@RSYNCD: 31.0\n", Some(31)),
            ("@RSYNCD: 30\n", Some(30)),
            ("SSH-2.0-OpenSSH_9.2\r\n", None),
            ("@ERROR: access denied\n", None),
            ("", None),
        ] {
            assert_eq!(protocol(greeting), want, "{greeting:?}");
        }
    }

    /// Serves listings, line by line.
    fn serve(nodelay: bool, modules: usize) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.set_nodelay(nodelay).unwrap();
                let _ = stream.write_all(b"@RSYNCD: 31.0\n");
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                while !line.ends_with("#list\n") && reader.read_line(&mut line).is_ok_and(|n| n > 0) {}
                for module in 0..modules {
                    let _ = stream.write_all(format!("module{module}\t\n").as_bytes());
                }
                let _ = stream.write_all(b"@RSYNCD: EXIT\n");
            }
        });
        port
    }

    #[test]
    fn segments_of_listings() {
        for (listings, want) in [
            (&[(6, 6)][..], Some(true)),
            (&[(6, 2)], Some(false)),
            (&[(6, 3), (6, 2)], Some(false)),
            (&[(6, 3), (6, 5)], Some(true)),
            (&[(21, 14), (21, 9)], Some(true)),
            (&[(21, 5), (21, 9)], None),
            (&[(21, 5), (21, 3)], Some(false)),
            (&[(2, 2)], None),
            (&[(5, 2)], None),
            (&[], None),
        ] {
            assert_eq!(at_once(listings), want, "{listings:?}");
        }
    }

    #[test]
    fn a_servers_lines_and_segments_are_counted() {
        let listed = |nodelay, modules| {
            let port = serve(nodelay, modules);
            listing(connect("127.0.0.1", port, Duration::from_secs(60)).unwrap()).unwrap().unwrap()
        };
        let (lines, segments) = listed(true, 20);
        assert!(lines == 21 && (1..=21).contains(&segments), "{lines} lines in {segments} segments");
        assert_eq!(listed(true, 1).0, 2);
        let asked = |nodelay, modules| sends_at_once("127.0.0.1", serve(nodelay, modules), Duration::from_secs(60));
        assert_ne!(asked(false, 20), Some(true), "Nagle's algorithm holds lines back");
        assert_eq!(asked(true, 1), None, "one module says nothing");
    }

    #[test]
    fn what_is_shown() {
        let mut tried = Tried { target: "web/b".into(), url: "h::m".into(), findings: Vec::new(), code: ExitCode::Done };
        tried.good("answers");
        tried.warn("slow");
        assert_eq!((tried.exit_code(), tried.warnings()), (ExitCode::Done, 1));
        tried.bad(ExitCode::Config, "refuses");
        assert_eq!(tried.human(), "web/b  h::m\n  ok       answers\n  warning  slow\n  error    refuses\n");
        assert_eq!(tried.exit_code(), ExitCode::Config);
    }
}
