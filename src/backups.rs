//! `backup_keep`: what runs replaced or deleted is kept in `backup_dir` for so long, and then
//! removed.
//!
//! Runs keep it below a directory named after the day (UTC), so whole days are removed, by rsync
//! itself: an empty directory is compared with `backup_dir` under rules that name the days to go
//! and nothing else. So it works on every kind of target, and where the target cannot be listed.
//! What is in `backup_dir` under other names stays.
//!
//! The days to go are counted by the clock of this host, as the names are. Only [`WINDOW`] days
//! before the last one that is kept are named: a clock that is years ahead removes nothing.

use std::ffi::OsString;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::{Mirror, Target};
use crate::location::whole_seconds;
use crate::sync::argv::{self, Peer};
use crate::sync::outcome::Exit;
use crate::sync::password::{password, with_password};
use crate::sync::run::collect;

/// Between two removals.
const EVERY: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// So many days are named.
const WINDOW: u32 = 400;
/// The longest that one may take; the target's own timeouts end it before where nothing moves.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);
/// Bytes of rsync's messages that are read.
const OUTPUT: usize = 64 * 1024;

/// Keeps the thread of a mirror running; where the mirror keeps nothing, or for ever, nothing.
#[derive(Default)]
pub(crate) struct Pruning {
    _lives: Option<mpsc::Sender<()>>,
}

/// Starts the thread of a mirror that wants one.
pub(crate) fn start(mirror: &Mirror) -> Pruning {
    let wants = |target: &&Target| target.backup_dir.is_some() && target.backup_keep.is_some();
    let targets: Vec<Target> = mirror.targets.iter().filter(wants).cloned().collect();
    if targets.is_empty() {
        return Pruning::default();
    }
    let (lives, ended) = mpsc::channel();
    let of = mirror.clone();
    let thread = std::thread::Builder::new().name("fansync-backups".into()).spawn(move || run(&of, &targets, &ended));
    if let Err(error) = thread {
        tracing::error!(mirror = %mirror.name, %error, "backups are kept for ever: no thread can be started to remove old ones; restart fansync");
    }
    Pruning { _lives: Some(lives) }
}

fn run(mirror: &Mirror, targets: &[Target], ended: &mpsc::Receiver<()>) {
    loop {
        for target in targets {
            match prune(mirror, target, SystemTime::now()) {
                Ok(removed) if removed > 0 => {
                    tracing::info!(mirror = %mirror.name, target_name = %target.name, removed, "old backups were removed");
                }
                Ok(_) => {}
                Err(why) => {
                    tracing::warn!(
                        mirror = %mirror.name, target_name = %target.name,
                        "old backups cannot be removed, it is tried again in an hour: {why}"
                    );
                }
            }
        }
        if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// The rules under which the days that end before `keep` before `now` go.
fn rules(now: SystemTime, keep: Duration) -> Vec<OsString> {
    // The day that is cut through stays whole.
    let last = now.checked_sub(keep + DAY);
    let days = (0..WINDOW).map_while(|n| last?.checked_sub(DAY * n).filter(|at| *at >= UNIX_EPOCH));
    let day = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string()[..10].to_owned();
    let named = days.map(|at| format!("--include=/{}/***", day(at)).into());
    named.chain(["--exclude=*".into()]).collect()
}

/// Removes what is older, and returns the number of entries.
fn prune(mirror: &Mirror, target: &Target, now: SystemTime) -> Result<usize, String> {
    let (Some(dir), Some(keep)) = (&target.backup_dir, target.backup_keep) else { return Ok(0) };
    let Some(place) = target.location.elsewhere(dir) else { return Ok(0) };
    let empty = Empty::new().map_err(|error| format!("cannot make an empty directory: {error}"))?;
    let peer = Peer { location: &place, ..Peer::of(target) };
    let mut words: Vec<OsString> = vec![mirror.rsync.as_os_str().to_owned(), "-r".into(), "--delete".into(), "--force".into()];
    words.push(format!("--timeout={}", whole_seconds(target.timeout)).into());
    words.push("--out-format=%i %n".into());
    words.extend(rules(now, keep));
    words.extend(peer.transport().into_iter().map(OsString::from));
    words.extend(["--".into(), empty.0.join("").into(), place.dest()]);
    let mut env = argv::environment(std::env::vars_os());
    if let Some(file) = peer.password_of_module() {
        env = with_password(&env, password(file).map_err(|error| error.to_string())?);
    }
    let run = collect(&words, &env, OUTPUT, PATIENCE).map_err(|error| crate::error::chain(&error))?;
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    // Nothing was kept yet. Else the words are those of a target that is away, which the status
    // has.
    if is_missing(&out) || is_missing(&err) {
        return Ok(0);
    }
    let removed = out.lines().filter(|line| line.starts_with("*deleting ")).count();
    match run.exit == Exit::Code(0) {
        true => Ok(removed),
        false => Err(err.lines().chain(out.lines()).find(|line| !line.trim().is_empty()).unwrap_or("rsync failed").to_owned()),
    }
}

/// Whether rsync did not find the directory: `change_dir#3 "/old" failed: No such file or directory
/// (2)` (3.1 to 3.5).
fn is_missing(text: &str) -> bool {
    text.lines().any(|line| line.contains("change_dir") && line.contains("No such file or directory"))
}

/// An empty directory of this host; removed when dropped.
struct Empty(std::path::PathBuf);

impl Empty {
    fn new() -> std::io::Result<Empty> {
        Ok(Empty(nix::unistd::mkdtemp(&std::env::temp_dir().join("fansync-empty.XXXXXX"))?))
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_that_are_older_are_named_and_no_others() {
        // 2026-03-02, noon.
        let now = UNIX_EPOCH + Duration::from_secs(1_772_452_800);
        let of = |days: u32| rules(now, DAY * days);
        let text = |rule: &OsString| rule.to_str().unwrap().to_owned();
        assert_eq!(text(&of(1)[0]), "--include=/2026-02-28/***");
        assert_eq!(text(&of(30)[0]), "--include=/2026-01-30/***");
        assert_eq!(of(30).len(), WINDOW as usize + 1);
        assert_eq!(text(of(30).last().unwrap()), "--exclude=*");
        assert_eq!(rules(UNIX_EPOCH + DAY * 3, DAY).len(), 2 + 1, "there are no days before 1970");
    }

    #[test]
    fn old_days_go_and_everything_else_stays() {
        let at = tempfile::tempdir().unwrap();
        let dir = at.path().join("old");
        let make = |name: &str| {
            std::fs::create_dir_all(dir.join(name).join("120000.000-1/d")).unwrap();
            std::fs::write(dir.join(name).join("120000.000-1/d/f"), name).unwrap();
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_772_452_800);
        let days = ["2026-03-02", "2026-03-01", "2026-02-28", "2026-02-27", "2025-06-01", "2024-01-01", "2026-02", "notes"];
        days.iter().for_each(|name| make(name));
        std::os::unix::fs::symlink("notes", dir.join("2026-02-20")).unwrap();
        let mirror = Mirror::new("m", "/src");
        let mut target = Target::new("t", crate::location::Location::Local(at.path().join("copy")));
        (target.backup_dir, target.backup_keep) = (Some(dir.clone()), Some(DAY * 2));
        assert_eq!(prune(&mirror, &target, now), Ok(2 * 4));
        let mut left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["2024-01-01", "2026-02", "2026-02-20", "2026-02-28", "2026-03-01", "2026-03-02", "notes"]);
        assert!(dir.join("notes/120000.000-1/d/f").exists() && dir.join("2026-02-28/120000.000-1/d/f").exists());
        target.backup_dir = Some(at.path().join("none yet"));
        assert_eq!(prune(&mirror, &target, now), Ok(0));
        target.backup_dir = Some(at.path().join("notes"));
        std::fs::write(at.path().join("notes"), "a file").unwrap();
        assert!(prune(&mirror, &target, now).is_err());
    }
}
