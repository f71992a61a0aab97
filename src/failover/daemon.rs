//! The process: a server's part, monitors, the socket, and its end by a signal.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crossbeam::channel::unbounded;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;

use super::config::Config;
use super::control::{self, ControlError, Handle, Parts};
use super::front::{self, Front, StartError};
use super::monitor::{Monitor, Shown};
use super::mounts::MountError;
use super::server::Server;
use super::wire::{Key, KeyError, Pair};
use crate::exit::ExitCode;
use crate::metrics::CONTENT_TYPE;
use crate::web::http::{HttpError, Request, Response, Server as HttpServer};
use crate::web::site::guarded;

/// Why it does not run.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The process that reads from the network has not given up its rights.
    #[error(
        "{source}: as root, outside of a container that lacks this, it can; with sandbox = \"off\" in [daemon] it keeps all rights"
    )]
    Sandbox {
        /// Why.
        source: StartError,
    },
    /// Whom it should become.
    #[error("{0}")]
    Identity(String),
    /// The socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The port of metrics.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The rest.
    #[error("cannot {what}")]
    Setup {
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// What the process leaves with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Error::Key(_) | Error::Identity(_) | Error::Control(ControlError::InUse { .. }) => ExitCode::Config,
            Error::Control(_) | Error::Sandbox { source: StartError::Confine { .. } } => ExitCode::NotPermitted,
            Error::Http(e) => e.exit_code(),
            Error::Mount(_) | Error::Sandbox { .. } | Error::Setup { .. } => ExitCode::Unavailable,
        }
    }
}

/// How to run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mode {
    /// As many rounds as a decision takes, then leave.
    pub(crate) once: bool,
    /// Probe and say, but change nothing.
    pub(crate) dry_run: bool,
}

/// Runs until a signal, or for the rounds of `--once`.
///
/// # Errors
/// See [`enum@Error`].
pub(crate) fn run(config: &Config, mode: Mode) -> Result<ExitCode, Error> {
    let setup = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Setup { what, source }
    };
    crate::log::serve().map_err(setup("start the thread of the log"))?;
    let key = Key::read(&config.daemon.key_file)?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(setup("handle signals"))?;
    let front = start_front(config)?;
    let server = match &config.server {
        Some(cfg) if !mode.dry_run && !mode.once => {
            let server = Server::new(cfg, &key, &host, &front).map_err(setup("make a number for this server"))?;
            Arc::clone(&server).run().map_err(setup(&format!("listen for clients and the peer ({})", cfg.listen_text())))?;
            Some(server)
        }
        _ => None,
    };
    let http = config.daemon.metrics.filter(|_| !mode.once).map(HttpServer::bind).transpose()?;
    let mut handles = Vec::new();
    let mut threads = Vec::new();
    for client in &config.clients {
        let pair = Arc::new(Pair::new(&front).map_err(setup("make a number for this client"))?);
        let (orders, received) = unbounded();
        let shown = Arc::new(Mutex::new(Shown { name: client.name.clone(), ..Shown::default() }));
        let monitor = Monitor::new(client, &key, pair, &host, &config.daemon.run_dir, mode.dry_run, Arc::clone(&shown))?;
        let rounds = mode.once.then_some(client.probe.of.max(client.probe.returns));
        let named = std::thread::Builder::new().name(format!("fansync-{}", client.name));
        let run = move || {
            if let Err(error) = monitor.run(&received, rounds) {
                tracing::error!(%error, "a monitor cannot ask its servers");
            }
        };
        threads.push(named.spawn(run).map_err(setup("start a monitor"))?);
        handles.push(Handle { name: client.name.clone(), orders, shown });
    }
    if mode.once {
        let shown: Vec<_> = handles.iter().map(|h| Arc::clone(&h.shown)).collect();
        for thread in threads {
            let _ = thread.join();
        }
        let failovers = shown.iter().map(|s| super::server::locked(s).clone()).collect();
        let status = control::Status { version: env!("CARGO_PKG_VERSION").into(), server: None, failovers, front: front.shown() };
        return Ok(crate::out::print(status.human(), ExitCode::Done));
    }
    let socket: PathBuf = config.daemon.socket.clone();
    let parts = Arc::new(Parts { server, monitors: handles, front });
    control::serve(&socket, Arc::clone(&parts))?;
    if let Some(http) = http {
        tracing::info!(address = %http.address(), "serving metrics");
        http.serve(Arc::new(site(parts))).map_err(setup("serve metrics"))?;
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(socket = %socket.display(), failovers = config.clients.len(), "watching");
    // Mounts stay as they are, and so do exports: a restart of this process must not be seen by
    // clients.
    let hung_up = |signal: &i32| {
        if *signal == SIGHUP {
            tracing::warn!(
                "SIGHUP: the failover configuration is not read again; restart fansync failover, which moves no mount and changes no export"
            );
        }
        *signal == SIGHUP
    };
    let why = signals.forever().find(|signal| !hung_up(signal));
    tracing::info!(signal = ?why, "ending");
    let _ = std::fs::remove_file(&socket);
    Ok(ExitCode::Done)
}

/// The failover monitor's document.
pub(super) fn site(parts: Arc<Parts>) -> impl Fn(&Request) -> Response + Send + Sync {
    move |request| {
        guarded(request, || match request.path.as_str() {
            "/metrics" => Response::ok(CONTENT_TYPE, super::metrics::text(&parts.status())),
            _ => Response::refuse(404, "there is /metrics"),
        })
    }
}

/// The process that reads from the network. By /proc/self/exe it is of this version, also after the
/// program was replaced.
fn start_front(config: &Config) -> Result<Arc<Front>, Error> {
    let confine = config.daemon.identity().map_err(Error::Identity)?;
    let exe = "/proc/self/exe".into();
    let front = Front::start(front::Config { exe, confine, dir: config.daemon.run_dir.clone() });
    let front = front.map_err(|source| Error::Sandbox { source })?;
    let shown = front.shown();
    match confine {
        Some(to) => tracing::info!(pid = shown.pid, uid = to.uid, "what reads from the network has no rights"),
        None => tracing::warn!(pid = shown.pid, "what reads from the network has all rights, as the configuration says"),
    }
    Ok(front)
}
