//! The process: engines on their threads, signals, the control socket, progress, and the end.

mod barriers;
mod control;
mod crew;
mod digest;
mod notify;
mod reload;
mod summary;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::config::Config;
use crate::control::{self as client, Reloaded};
use crate::engine::StartError;
use crate::engine::{Command, Engines, Handle};
use crate::exit::ExitCode;
use crate::metrics::sampler::{self, Sampler, Sampling};
use crate::progress::Bar;
use crate::state::StateError;
use crate::status::{self, FirstPass, TargetState};
use crate::sync::probe::ProbeError;
use crate::web::http::{HttpError, Server};
use crate::web::site;
use control::Listener;
use control::Served;
use crew::Crew;
use notify::Manager;
use reload::Reloader;

pub(crate) use reload::Reread;

/// At the end, beyond `stop_timeout`: for the last drain, and for saving the state.
const END_GRACE: Duration = Duration::from_secs(10);
/// On a terminal, how often long-running work is checked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// With `--once`, attempts at a target that is down before it is given up.
const ONCE_TRIES: u64 = 3;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Rsync(#[from] ProbeError),
    /// A mirror.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] client::Error),
    /// The port of metrics and the page.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A thread or a signal handler.
    #[error("cannot start {what}")]
    Setup {
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// What the process leaves with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Error::Rsync(ProbeError::Unconfined { .. }) => ExitCode::Config,
            Error::Rsync(_) => ExitCode::Unavailable,
            Error::Start(StartError::Source { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
                ExitCode::NotPermitted
            }
            Error::Start(StartError::Source { .. }) => ExitCode::Config,
            Error::Start(StartError::Watch(e)) => e.exit_code(),
            Error::Start(StartError::State(StateError::Locked { .. })) => ExitCode::Config,
            Error::Start(StartError::State(_)) => ExitCode::NotPermitted,
            Error::Start(StartError::Setup { .. }) | Error::Setup { .. } => ExitCode::Unavailable,
            Error::Control(client::Error::InUse { .. }) => ExitCode::Config,
            Error::Http(e) => e.exit_code(),
            Error::Control(_) => ExitCode::NotPermitted,
        }
    }

    /// What the administrator can do, where the message does not say so itself.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            Error::Start(StartError::Watch(e)) => e.help(),
            Error::Start(StartError::Source { .. }) => {
                Some("the source must be a directory that exists and that this user may read".into())
            }
            Error::Control(client::Error::Listen { .. }) => {
                Some("run as root, or give a socket that this user may make (--socket, status_socket)".into())
            }
            _ => None,
        }
    }
}

/// What a source that is missing at the start does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MissingSource {
    /// The daemon does not run.
    #[default]
    Fails,
    /// Its mirror is held until it is there; the others run.
    IsAwaited,
}

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mode {
    /// Leave once the targets are equal.
    pub(crate) once: bool,
    /// Keep state, so that the next start need not compare everything.
    pub(crate) state: bool,
    /// If another daemon has the default socket, take one by process id beside it.
    pub(crate) any_socket: bool,
    /// SIGHUP ends it: nothing can be read again, and it runs on a terminal.
    pub(crate) ends_with_terminal: bool,
    /// When a source is missing.
    pub(crate) missing: MissingSource,
    /// Called once everything is watched.
    pub(crate) ready: Option<fn()>,
}

enum Wish {
    Stop(&'static str),
    Reconcile,
    /// Read the configuration again, and say how that ended.
    Reload(Option<Sender<Reloaded>>),
    /// The engine of a mirror that was added or changed runs, or why not.
    Begun {
        mirror: String,
        result: Result<(), String>,
    },
    /// The thread of this mirror's engine has ended.
    EngineEnded(String),
}

/// Runs the daemon in the foreground until a signal, or until the work of `--once` is done.
/// `reread`: reads the configuration anew, for SIGHUP.
///
/// # Errors
/// What keeps it from starting; see [`Error`].
pub(crate) fn run(config: &Config, mode: Mode, reread: Option<Reread<'_>>) -> Result<ExitCode, Error> {
    let started = Instant::now();
    // Before the socket is there: who sees it may send a signal.
    let signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGHUP]).map_err(no_signals)?;
    // Before capabilities go: the port may be one below 1024.
    let http = config.daemon.metrics.map(Server::bind).transpose()?;
    // Likewise: to give the socket to a group of others takes CAP_CHOWN.
    let listener = listen(config, mode)?;
    let given_up = crate::privilege::drop_surplus(config);
    crate::log::serve().map_err(|source| Error::Setup { what: "the thread of the log", source })?;
    let (wish, wishes) = wishes_by(signals)?;
    let socket = listener.path().to_owned();
    let known = Engines::default();
    let manager = Manager::start(&known);
    let mut crew = Crew::new(known.clone(), wish.clone(), &config.daemon, mode.state);
    let mut opened = Vec::new();
    for mirror in &config.mirrors {
        let facts = crew.facts(mirror)?;
        let (engine, handle) = crew.open(mirror, &facts, mode.missing)?;
        opened.push((mirror, facts, engine, handle));
    }
    opened.iter().for_each(|(.., handle)| known.put(handle.clone()));
    listener.serve(Served { started, engines: known.clone(), wish });
    let _socket = Unlink(socket.clone());
    let _sampling = tell_metrics(&config.daemon, http, started, known.clone())?;
    let _digesting =
        digest::start(started, known).map_err(|source| Error::Setup { what: "the thread of the log's summary", source })?;
    for (mirror, facts, engine, handle) in opened {
        crew.run(mirror.clone(), facts, engine, handle)?;
    }
    tracing::info!(socket = %socket.display(), mirrors = config.mirrors.len(), "watching");
    if let Some(ready) = mode.ready {
        ready();
    }
    manager.ready();
    let mut life = Life { started, config: config.clone(), mode, crew, manager, reloader: Reloader::new(reread, given_up) };
    let why = life.watch_over(&wishes);
    Ok(life.end(why))
}

/// Serves and writes metrics, as far as the configuration enables them.
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
    let sampler = Sampler::new(Box::new(move || control::snapshot(started, &engines, sampler::PATIENCE)));
    if let Some(http) = http {
        tracing::info!(address = %http.address(), "serving metrics and the status page");
        http.serve(Arc::new(site::daemon(Arc::clone(&sampler), daemon.page))).map_err(failed)?;
    }
    let file = daemon.metrics_file.as_deref().map(|path| (path, daemon.metrics_interval));
    sampler.start(file).map(Some).map_err(failed)
}

struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        Listener::remove(&self.0);
    }
}

fn listen(config: &Config, mode: Mode) -> Result<Listener, Error> {
    let path = &config.daemon.status_socket;
    let mut listener = match Listener::bind(path) {
        Err(client::Error::InUse { .. }) if mode.any_socket => {
            let own = path.with_file_name(format!("{}.sock", std::process::id()));
            let listener = Listener::bind(&own)?;
            tracing::info!(socket = %own.display(), "another fansync has the usual socket; use --socket with status and flush");
            listener
        }
        other => other?,
    };
    if let Some(group) = &config.daemon.socket_group
        && let Err(error) = listener.share_with(group)
    {
        // Mirrors matter more than who reads of them.
        tracing::warn!(%group, %error, "the socket cannot be given to socket_group; only the daemon's user and root reach it");
    }
    Ok(listener)
}

fn no_signals(source: std::io::Error) -> Error {
    Error::Setup { what: "the signal handler", source }
}

/// What is wished for by signals, and by who has the sender. It starts a thread, so capabilities
/// are to be given up before.
fn wishes_by(mut signals: Signals) -> Result<(mpsc::Sender<Wish>, mpsc::Receiver<Wish>), Error> {
    let (tx, rx) = mpsc::channel();
    let wish: mpsc::Sender<Wish> = tx.clone();
    std::thread::Builder::new()
        .name("fansync-signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                let wish = match signal {
                    SIGHUP => Wish::Reload(None),
                    SIGUSR1 => Wish::Reconcile,
                    SIGINT => Wish::Stop("SIGINT"),
                    _ => Wish::Stop("SIGTERM"),
                };
                if tx.send(wish).is_err() {
                    return;
                }
            }
        })
        .map_err(no_signals)?;
    Ok((wish, rx))
}

enum End {
    Signal(&'static str),
    /// The work of `--once` is done, or not: how everything is.
    Once(ExitCode, Vec<status::Mirror>),
    EngineDied,
}

/// The daemon between its start and its end.
struct Life<'a> {
    started: Instant,
    config: Config,
    mode: Mode,
    crew: Crew,
    manager: Manager,
    reloader: Reloader<'a>,
}

impl Life<'_> {
    /// Waits for a signal, and meanwhile draws how far long work is, on a terminal, and decides
    /// about `--once`.
    fn watch_over(&mut self, wishes: &mpsc::Receiver<Wish>) -> End {
        let terminal = std::io::stderr().is_terminal();
        let mut bar: Option<Bar> = None;
        loop {
            let pause = match (&bar, terminal, self.mode.once) {
                (.., true) => Duration::from_millis(20),
                (Some(_), ..) => Bar::DRAW_EVERY,
                (None, true, _) => LOOK_EVERY,
                (None, false, _) => Duration::from_secs(24 * 3600), // whatever happens sends a wish
            };
            if let Ok(wish) = wishes.recv_timeout(pause)
                && let Some(end) = self.grant(wish)
            {
                return end;
            }
            if terminal || self.mode.once {
                let mirrors = ask_all(&self.crew.engines().all());
                if terminal {
                    draw(&mut bar, &mirrors);
                }
                if self.mode.once
                    && let Some(code) = once_done(&mirrors)
                {
                    return End::Once(code, mirrors);
                }
            }
        }
    }

    fn grant(&mut self, wish: Wish) -> Option<End> {
        let Life { config, crew, manager, reloader, .. } = self;
        match wish {
            Wish::Stop(signal) => return Some(End::Signal(signal)),
            Wish::Reconcile => crew.send_all(|| Command::Reconcile),
            // There is no file to read again, and the terminal it runs on has been closed.
            Wish::Reload(None) if self.mode.ends_with_terminal => return Some(End::Signal("SIGHUP")),
            Wish::Reload(asked) => {
                reloader.answer_to(asked);
                reloader.ask(config, crew, manager);
            }
            Wish::Begun { mirror, result } => reloader.begun(&mirror, result, crew, manager),
            Wish::EngineEnded(mirror) => {
                if !crew.let_go(&mirror) {
                    return Some(End::EngineDied);
                }
                reloader.gone(&mirror, crew, manager);
            }
        }
        if reloader.is_due_again() {
            reloader.ask(config, crew, manager);
        }
        None
    }

    /// Stops every engine, waits for it, and reports what is left.
    fn end(self, why: End) -> ExitCode {
        let patience = match why {
            End::Signal(signal) => {
                let patience = self.config.daemon.stop_timeout;
                tracing::info!("{signal}: finishing what is pending, at most {patience:?}");
                patience
            }
            End::Once(..) | End::EngineDied => Duration::ZERO,
        };
        self.manager.stopping(patience + END_GRACE);
        // The children need a moment of the time to end.
        let deadline = Instant::now() + patience.mul_f64(0.9);
        self.crew.send_all(|| Command::Stop { deadline });
        let left = self.crew.join();
        match why {
            End::Once(code, mirrors) => {
                for (m, t) in mirrors.iter().flat_map(|m| m.targets.iter().map(move |t| (m, t))) {
                    let done = digest::closing(t, self.started.elapsed());
                    tracing::info!(mirror = %m.name, target_name = %t.name, "{}: {done}", if t.state == TargetState::Idle { "equal" } else { "not equal" });
                }
                undone(&mirrors).iter().for_each(crate::out::error);
                code
            }
            _ if left.died => ExitCode::Bug,
            _ if left.lost => ExitCode::Unavailable,
            _ if left.changes > 0 => {
                tracing::warn!(
                    paths = left.changes,
                    "stopped with changes that are not on every target; the next start finds them"
                );
                ExitCode::Done
            }
            _ if left.waiting > 0 => {
                tracing::warn!(mirrors = left.waiting, "stopped while a source was missing; what its targets lack is not known");
                ExitCode::Done
            }
            _ => {
                tracing::info!("stopped, every target holds every change");
                ExitCode::Done
            }
        }
    }
}

/// Shows what goes on, in a bar that is there only while something does.
fn draw(bar: &mut Option<Bar>, mirrors: &[status::Mirror]) {
    let works: Vec<_> = mirrors.iter().flat_map(status::Mirror::works).collect();
    match works.is_empty() {
        true => *bar = None,
        false => bar.get_or_insert_with(Bar::new).show(&works),
    }
}

fn ask_all(handles: &[Handle]) -> Vec<status::Mirror> {
    handles
        .iter()
        .filter_map(|h| {
            let (tx, rx) = bounded(1);
            h.send(Command::Status(tx));
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
            if t.state == TargetState::Held {
                return Some(ExitCode::Config);
            }
            let away = matches!(t.state, TargetState::Down | TargetState::Config);
            let in_sync = t.state == TargetState::Idle && m.initial == FirstPass::Done;
            let only_failures = t.in_flight == 0 && t.state == TargetState::Failing;
            worst = worst.max(match (in_sync, away, only_failures) {
                _ if t.state == TargetState::Paused => ExitCode::TargetUnreachable,
                (true, ..) => ExitCode::Done,
                (_, true, _) if t.state == TargetState::Config => ExitCode::Config,
                (_, true, _) if t.tries >= ONCE_TRIES => ExitCode::TargetUnreachable,
                (_, _, true) => ExitCode::Differences,
                _ => return None,
            });
        }
    }
    Some(worst)
}

/// What `--once` leaves undone.
fn undone(mirrors: &[status::Mirror]) -> Vec<String> {
    let mut out = Vec::new();
    for m in mirrors {
        if !m.held.is_empty() {
            out.push(format!("{}: {}", m.name, m.held));
            continue;
        }
        let behind = m.targets.iter().filter(|t| t.state != TargetState::Idle);
        out.extend(behind.map(|t| match t.tries {
            0 => format!("{}/{} {}: {}", m.name, t.name, t.state.sentence(), t.reason),
            n => format!("{}/{} {} ({}): {}", m.name, t.name, t.state.sentence(), crate::text::plural(n, "try"), t.reason),
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_undone_is_told_in_sentences() {
        let target =
            |state, tries| status::Target { name: "t".into(), state, tries, reason: "why".into(), ..status::Target::default() };
        let targets = [(TargetState::Config, 1), (TargetState::Down, 3), (TargetState::Idle, 0), (TargetState::Failing, 0)];
        let targets = targets.map(|(state, tries)| target(state, tries)).to_vec();
        let mirrors = [status::Mirror { name: "m".into(), targets, ..status::Mirror::default() }];
        let want = [
            "m/t cannot be used as it is configured (1 try): why",
            "m/t is down (3 tries): why",
            "m/t lacks paths that fail: why",
        ];
        assert_eq!(undone(&mirrors), want);
    }
}
