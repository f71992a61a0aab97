//! `-d`: a process of its own, without terminal, and one process for each configuration file.
//!
//! The process that was called starts itself again, in a session of its own, and waits until that
//! one watches the trees or has ended; so errors appear on the terminal, and the exit code is true.
//! The lock is taken by the process that runs, with `-d` and without, and freed by the kernel when
//! it ends, however it ends.

use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{dup2_stdout, geteuid, getpid, setsid};

use crate::exit::ExitCode;
use crate::out;

/// Set for the process that was started by `-d`.
const CHILD: &str = "FANSYNC_DETACHED";
/// What it writes to its standard output when it watches.
const READY: &str = "ready";

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process has it.
    #[error("{} is run by process {pid} already; stop that first (its lock is {})", .config.display(), .lock.display())]
    Taken {
        /// The configuration file.
        config: PathBuf,
        lock: PathBuf,
        /// The process, as it says.
        pid: String,
    },
    /// The file cannot be made.
    #[error("cannot make the lock {}", .path.display())]
    File {
        /// The lock, or its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Held while the daemon runs; the file says by which process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
    path: PathBuf,
}

/// How long a lock is waited for whose holder has ended.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

impl Lock {
    /// Takes the lock of `config`, under whatever name it is called.
    ///
    /// # Errors
    /// See [`LockError`].
    pub(crate) fn take(config: &Path) -> Result<Lock, LockError> {
        Lock::take_until(config, Instant::now() + LOCK_PATIENCE)
    }

    fn take_until(config: &Path, deadline: Instant) -> Result<Lock, LockError> {
        let dir = run_dir();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LockError::File { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o755).create(&dir).map_err(failed(&dir))?;
        let path = dir.join(format!("sersync-{:016x}.pid", id(config)));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path)
            .map_err(failed(&path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Its last holder has just removed it: the lock of a file that has no name locks no
            // process out.
            Ok(file) if !is_at(&file, &path) => {
                drop(file);
                Lock::take_until(config, deadline)
            }
            Ok(file) => {
                let mut writer: &File = &file;
                let written = file.set_len(0).and_then(|()| writer.write_all(format!("{}\n", getpid()).as_bytes()));
                written.map_err(failed(&path))?;
                Ok(Lock { _file: file, path })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                // A process that it was about to start when it was killed may still hold the lock
                // for a moment.
                if Instant::now() < deadline && pid.trim().parse().is_ok_and(crate::sys::child::has_ended) {
                    drop(file);
                    std::thread::sleep(Duration::from_millis(10));
                    return Lock::take_until(config, deadline);
                }
                Err(LockError::Taken { config: config.into(), lock: path, pid: pid.trim().chars().take(20).collect() })
            }
            Err((_, errno)) => Err(failed(&path)(errno.into())),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (there, here) = (std::fs::symlink_metadata(path), file.metadata());
    there.ok().zip(here.ok()).is_some_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

fn run_dir() -> PathBuf {
    if geteuid().is_root() {
        return "/run/fansync".into();
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    own.unwrap_or_else(|| std::env::temp_dir().join(format!("fansync-{}", geteuid()))).join("fansync")
}

/// A number for a file, the same for all its names.
fn id(config: &Path) -> u64 {
    let real = std::fs::canonicalize(config).unwrap_or_else(|_| config.to_owned());
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(real.as_os_str().as_bytes());
    hasher.finish()
}

/// What `-d` comes to.
pub(crate) enum Detached {
    /// This is the process that runs, with or without a terminal.
    Run,
    /// The other process runs, or could not: leave with this code.
    Leave(ExitCode),
}

/// Does what `-d` asks for. `log`: where a terminal was, messages go to this file.
///
/// # Errors
/// The process cannot be started again.
pub(crate) fn detach(log: &Path) -> io::Result<Detached> {
    if std::env::var_os(CHILD).is_some() {
        setsid()?;
        return Ok(Detached::Run);
    }
    // Whom systemd waits for by a message of the process must stay that process.
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        out::note("-d is not needed under systemd with Type=notify, and not done");
        return Ok(Detached::Run);
    }
    if std::env::var_os("INVOCATION_ID").is_some() && !io::stdin().is_terminal() {
        out::note("-d is not needed under systemd: set Type=notify in the unit and leave it out");
    }
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_else(|| "fansync".into());
    let mut command = Command::new(std::env::current_exe()?);
    command.arg0(called).args(words).env(CHILD, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    if io::stderr().is_terminal() {
        if let Some(dir) = log.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        command.stderr(OpenOptions::new().create(true).append(true).mode(0o600).open(log)?);
        out::note(format_args!("the log is {}", log.display()));
    }
    let mut child = command.spawn()?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line.trim() == READY {
        return Ok(Detached::Leave(ExitCode::Done));
    }
    let code = child.wait()?.code().and_then(|code| u8::try_from(code).ok());
    let known = [
        ExitCode::Done,
        ExitCode::Usage,
        ExitCode::Unavailable,
        ExitCode::TargetUnreachable,
        ExitCode::NotPermitted,
        ExitCode::Config,
    ];
    Ok(Detached::Leave(known.into_iter().find(|k| Some(k.code()) == code).unwrap_or(ExitCode::Bug)))
}

/// Reports to the calling process that this one watches, and detaches from it.
pub(crate) fn ready() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let mut out = io::stdout();
    let _ = writeln!(out, "{READY}").and_then(|()| out.flush());
    if let Ok(null) = OpenOptions::new().write(true).open("/dev/null") {
        let _ = dup2_stdout(null);
    }
}

/// The log of a detached process for `config`.
pub(crate) fn log_path(state_dir: &Path, config: &Path) -> PathBuf {
    state_dir.join(format!("sersync-{:016x}.log", id(config)))
}
