//! The process: engines on their threads, signals, the control socket, progress, and the end.

mod notify;
mod progress;
mod summary;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::config::{Config, Initial};
use crate::control::{self, Command, Engines, Handle, Listener};
use crate::engine::{Ended, Engine, StartError};
use crate::exit::ExitCode;
use crate::metrics::sampler::{self, Sampler, Sampling};
use crate::state::StateError;
use crate::status;
use crate::sync::argv;
use crate::sync::probe::{ProbeError, RsyncFacts};
use crate::web::http::{HttpError, Server};
use crate::web::site;
use notify::Manager;
use progress::{DRAW_EVERY, Progress};

/// At the end, beyond `stop_timeout`: for the last drain, and for saving the state.
const END_GRACE: Duration = Duration::from_secs(10);
/// With `--once`, attempts at a target that is down before it is given up.
const ONCE_TRIES: u64 = 3;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// rsync.
    #[error(transparent)]
    Rsync(#[from] ProbeError),
    /// A mirror.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] control::Error),
    /// The port of metrics and the page.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A thread or a signal handler.
    #[error("cannot start {what}")]
    Setup {
        /// What.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// What the process leaves with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Rsync(_) => ExitCode::Unavailable,
            Error::Start(StartError::Source { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                ExitCode::NotPermitted
            }
            Error::Start(StartError::Source { .. }) => ExitCode::Config,
            Error::Start(StartError::Watch(e)) => e.exit_code(),
            Error::Start(StartError::State(StateError::Locked { .. })) => ExitCode::Config,
            Error::Start(StartError::State(_)) => ExitCode::NotPermitted,
            Error::Start(StartError::Setup { .. }) | Error::Setup { .. } => ExitCode::Unavailable,
            Error::Control(control::Error::InUse { .. }) => ExitCode::Config,
            Error::Http(e) => e.exit_code(),
            Error::Control(_) => ExitCode::NotPermitted,
        }
    }

    /// What the administrator can do, where the message does not say so itself.
    pub fn help(&self) -> Option<String> {
        match self {
            Error::Start(StartError::Watch(e)) => e.help(),
            Error::Start(StartError::Source { .. }) => {
                Some("the source must be a directory that exists and that this user may read".into())
            }
            Error::Control(control::Error::Listen { .. }) => {
                Some("run as root, or give a socket that this user may make (--socket, status_socket)".into())
            }
            _ => None,
        }
    }
}

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// Leave once the targets are equal.
    pub once: bool,
    /// Keep state, so that the next start need not compare everything.
    pub state: bool,
    /// If another daemon has the default socket, take one by process id beside it.
    pub any_socket: bool,
    /// Called once everything is watched.
    pub ready: Option<fn()>,
}

enum Wish {
    Stop(&'static str),
    Reconcile,
    /// An engine's thread has ended.
    EngineEnded,
}

/// Tells the others that an engine has ended, by a panic too.
struct Farewell {
    wish: mpsc::Sender<Wish>,
    engines: Engines,
    mirror: String,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.engines.remove(&self.mirror);
        let _ = self.wish.send(Wish::EngineEnded);
    }
}

struct Running {
    handle: Handle,
    /// How many changes are not on some target; `None`: the source could not be opened anew.
    thread: JoinHandle<Option<usize>>,
}

/// Runs the daemon in the foreground until a signal, or until the work of `--once` is done.
///
/// # Errors
/// What keeps it from starting; see [`Error`].
pub fn run(config: &Config, mode: Mode) -> Result<ExitCode, Error> {
    let started = Instant::now();
    // Before capabilities go: the port may be one below 1024.
    let http = config.daemon.metrics.map(Server::bind).transpose()?;
    crate::privilege::drop_surplus(config);
    let (wish, wishes) = signals()?;
    let listener = listen(config, mode)?;
    let socket = listener.path().to_owned();
    let known = Engines::default();
    let manager = Manager::start(&known);
    let env = argv::environment(std::env::vars_os());
    let mut engines = Vec::new();
    for mirror in &config.mirrors {
        // Hooks alone need no rsync.
        let facts = if mirror.targets.is_empty() { RsyncFacts::default() } else { RsyncFacts::probe(&mirror.rsync, &env)? };
        tracing::debug!(rsync = %mirror.rsync.display(), version = %facts.version, confine_root = facts.confine_root, "rsync");
        let (engine, handle) = Engine::start(mirror, &facts, &config.daemon.state_dir, mode.state)?;
        engines.push((engine, handle));
    }
    let handles: Vec<Handle> = engines.iter().map(|(_, h)| h.clone()).collect();
    handles.iter().for_each(|h| known.put(h.clone()));
    listener.serve(started, known.clone());
    let _socket = Unlink(socket.clone());
    let _sampling = tell_metrics(&config.daemon, http, started, known.clone())?;
    let mut running = Vec::new();
    for (engine, handle) in engines {
        let farewell = Farewell { wish: wish.clone(), engines: known.clone(), mirror: handle.mirror.clone() };
        let thread = std::thread::Builder::new()
            .name(format!("fansync-{}", handle.mirror))
            .spawn(move || {
                let _farewell = farewell;
                run_on(engine)
            })
            .map_err(|source| Error::Setup { what: "an engine thread", source })?;
        running.push(Running { handle, thread });
    }
    tracing::info!(socket = %socket.display(), mirrors = config.mirrors.len(), "watching");
    if let Some(ready) = mode.ready {
        ready();
    }
    manager.ready();
    let why = watch_over(config, mode, &handles, &wishes, &running);
    Ok(end(config, why, running, &manager))
}

/// Serves and writes metrics, as far as the configuration asks for them.
fn tell_metrics(
    daemon: &crate::config::Daemon,
    http: Option<Server>,
    started: Instant,
    engines: Engines,
) -> Result<Option<Sampling>, Error> {
    if http.is_none() && daemon.metrics_file.is_none() {
        return Ok(None);
    }
    let failed = |source| Error::Setup { what: "the threads of metrics", source };
    let sampler = Sampler::new(Box::new(move || control::snapshot(started, &engines.all(), sampler::PATIENCE)));
    if let Some(http) = http {
        tracing::info!(address = %http.address(), "serving metrics and the status page");
        http.serve(Arc::new(site::daemon(Arc::clone(&sampler)))).map_err(failed)?;
    }
    let file = daemon.metrics_file.as_deref().map(|path| (path, daemon.metrics_interval));
    sampler.start(file).map(Some).map_err(failed)
}

/// Runs an engine, and those that take its place when its source is to be opened anew.
fn run_on(mut engine: Engine) -> Option<usize> {
    loop {
        match engine.run() {
            Ended::Stopped(left) => return Some(left),
            Ended::Again(again) => match Engine::open(*again) {
                Ok(next) => engine = next,
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
                    tracing::error!("{error}{cause}; the source cannot be opened anew, so fansync ends. Start it again");
                    return None;
                }
            },
        }
    }
}

struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        Listener::remove(&self.0);
    }
}

fn listen(config: &Config, mode: Mode) -> Result<Listener, Error> {
    let path = &config.daemon.status_socket;
    match Listener::bind(path) {
        Err(control::Error::InUse { .. }) if mode.any_socket => {
            let own = path.with_file_name(format!("{}.sock", std::process::id()));
            let listener = Listener::bind(&own)?;
            tracing::info!(socket = %own.display(), "another fansync has the usual socket; use --socket with status and flush");
            Ok(listener)
        }
        other => Ok(other?),
    }
}

fn signals() -> Result<(mpsc::Sender<Wish>, mpsc::Receiver<Wish>), Error> {
    let failed = |source| Error::Setup { what: "the signal handler", source };
    let (tx, rx) = mpsc::channel();
    let wish: mpsc::Sender<Wish> = tx.clone();
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGHUP]).map_err(failed)?;
    std::thread::Builder::new()
        .name("fansync-signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                let wish = match signal {
                    SIGHUP => {
                        tracing::warn!("SIGHUP does nothing here: restart fansync to read a changed configuration");
                        continue;
                    }
                    SIGUSR1 => Wish::Reconcile,
                    SIGINT => Wish::Stop("SIGINT"),
                    _ => Wish::Stop("SIGTERM"),
                };
                if tx.send(wish).is_err() {
                    return;
                }
            }
        })
        .map_err(failed)?;
    Ok((wish, rx))
}

enum End {
    Signal(&'static str),
    Once(ExitCode),
    EngineDied,
}

/// Waits for a signal, and meanwhile shows the first pass and decides about `--once`.
fn watch_over(config: &Config, mode: Mode, handles: &[Handle], wishes: &mpsc::Receiver<Wish>, running: &[Running]) -> End {
    let terminal = std::io::stderr().is_terminal();
    let reconciling = config.mirrors.iter().any(|m| m.initial == Initial::Reconcile);
    let mut progress = reconciling.then(|| Progress::new(terminal));
    loop {
        let pause = match (&progress, mode.once) {
            (_, true) => Duration::from_millis(20),
            (Some(_), _) if terminal => DRAW_EVERY,
            (Some(_), _) => Duration::from_secs(1),
            (None, _) => Duration::from_secs(24 * 3600), // whatever happens sends a wish
        };
        match wishes.recv_timeout(pause) {
            Ok(Wish::Stop(signal)) => return End::Signal(signal),
            Ok(Wish::Reconcile) => handles.iter().for_each(|h| {
                h.tell(Command::Reconcile);
            }),
            Ok(Wish::EngineEnded) => return End::EngineDied,
            Err(_) => {}
        }
        if running.iter().any(|r| r.thread.is_finished()) {
            return End::EngineDied;
        }
        if progress.is_some() || mode.once {
            let mirrors = ask_all(handles);
            if let Some(p) = &mut progress
                && p.show(&mirrors)
            {
                progress = None;
            }
            if mode.once
                && let Some(code) = once_done(&mirrors)
            {
                return End::Once(code);
            }
        }
    }
}

fn ask_all(handles: &[Handle]) -> Vec<status::Mirror> {
    handles
        .iter()
        .filter_map(|h| {
            let (tx, rx) = bounded(1);
            h.tell(Command::Status(tx));
            rx.recv_timeout(Duration::from_secs(10)).ok()
        })
        .collect()
}

/// With `--once`: the code to leave with, once nothing more can be done.
fn once_done(mirrors: &[status::Mirror]) -> Option<ExitCode> {
    let mut worst = ExitCode::Done;
    for m in mirrors {
        if !m.held.is_empty() {
            return Some(ExitCode::Config);
        }
        for t in &m.targets {
            if t.state == "held" {
                return Some(ExitCode::Config);
            }
            if t.state == "paused" {
                if worst != ExitCode::Config {
                    worst = ExitCode::TargetUnreachable;
                }
                continue;
            }
            let away = t.state == "down" || t.state == "config";
            let in_sync = t.state == "idle" && m.initial == "done";
            let only_failures = t.in_flight == 0 && t.state == "failing";
            match (in_sync, away, only_failures) {
                (true, ..) => {}
                (_, true, _) if t.state == "config" => worst = ExitCode::Config,
                (_, true, _) if t.tries >= ONCE_TRIES => {
                    if worst != ExitCode::Config {
                        worst = ExitCode::TargetUnreachable;
                    }
                }
                (_, _, true) => {
                    if worst == ExitCode::Done {
                        worst = ExitCode::Differences;
                    }
                }
                _ => return None,
            }
        }
    }
    Some(worst)
}

/// Tells every engine to finish, waits for it, and says what is left.
fn end(config: &Config, why: End, running: Vec<Running>, manager: &Manager) -> ExitCode {
    let patience = match why {
        End::Signal(signal) => {
            tracing::info!("{signal}: finishing what is pending, at most {:?}", config.daemon.stop_timeout);
            config.daemon.stop_timeout
        }
        End::Once(_) | End::EngineDied => Duration::ZERO,
    };
    manager.stopping(patience + END_GRACE);
    // The children need a moment of the time to end.
    let deadline = Instant::now() + patience.mul_f64(0.9);
    for r in &running {
        r.handle.tell(Command::Stop { deadline });
    }
    let mut left = 0;
    let mut died = false;
    let mut lost = false;
    for r in running {
        let mirror = r.handle.mirror.clone();
        match r.thread.join() {
            Ok(Some(n)) => left += n,
            Ok(None) => lost = true,
            Err(_) => {
                died = true;
                tracing::error!(%mirror, "the engine ended by a bug; its last message is above. Restart fansync: it finds what is missing");
            }
        }
    }
    match why {
        End::Once(code) => code,
        _ if died => ExitCode::Bug,
        _ if lost => ExitCode::Unavailable,
        _ if left > 0 => {
            tracing::warn!(paths = left, "stopped with changes that are not on every target; the next start finds them");
            ExitCode::Done
        }
        _ => {
            tracing::info!("stopped, every target holds every change");
            ExitCode::Done
        }
    }
}

/// The socket that `status` and `flush` use when none is named: the usual one, or the only one there is beside it.
pub fn find_socket(usual: &Path) -> PathBuf {
    if std::os::unix::net::UnixStream::connect(usual).is_ok() {
        return usual.into();
    }
    let Some(dir) = usual.parent().and_then(|d| std::fs::read_dir(d).ok()) else { return usual.into() };
    let mut living = dir
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|x| x == "sock") && std::os::unix::net::UnixStream::connect(p).is_ok());
    match (living.next(), living.next()) {
        (Some(only), None) => only,
        _ => usual.into(),
    }
}
