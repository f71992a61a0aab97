//! The process: a server's part, monitors, the socket, and its end by a signal.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crossbeam::channel::unbounded;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;

use super::config::Config;
use super::control::{self, ControlError, Handle, Parts};
use super::monitor::{Monitor, Shown};
use super::mounts::MountError;
use super::server::Server;
use super::wire::{Key, KeyError};
use crate::exit::ExitCode;
use crate::web::http::{HttpError, Server as HttpServer};
use crate::web::site;

/// Why it does not run.
#[derive(Debug, Error)]
pub enum Error {
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The mounts.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The port of metrics.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The rest.
    #[error("cannot {what}")]
    Setup {
        /// What.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// What the process leaves with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Key(_) | Error::Control(ControlError::InUse { .. }) => ExitCode::Config,
            Error::Control(_) => ExitCode::NotPermitted,
            Error::Http(e) => e.exit_code(),
            Error::Mount(_) | Error::Setup { .. } => ExitCode::Unavailable,
        }
    }
}

/// How to run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mode {
    /// As many rounds as a decision takes, then leave.
    pub once: bool,
    /// Probe and say, but change nothing.
    pub dry_run: bool,
}

/// Runs until a signal, or for the rounds of `--once`.
///
/// # Errors
/// See [`enum@Error`].
pub fn run(config: &Config, mode: Mode) -> Result<ExitCode, Error> {
    let setup = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Setup { what, source }
    };
    let key = Key::read(&config.daemon.key_file)?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(setup("handle signals"))?;
    let server = match &config.server {
        Some(cfg) if !mode.dry_run && !mode.once => {
            let server = Server::new(cfg, &key, &host);
            Arc::clone(&server).run().map_err(setup(&format!("listen on {}", cfg.listen)))?;
            tracing::info!(listen = %cfg.listen, tree = %cfg.tree.display(), "server role");
            Some(server)
        }
        _ => None,
    };
    let http = config.daemon.metrics.filter(|_| !mode.once).map(HttpServer::bind).transpose()?;
    let mut handles = Vec::new();
    let mut threads = Vec::new();
    for client in &config.clients {
        let (orders, told) = unbounded();
        let shown = Arc::new(Mutex::new(Shown { name: client.name.clone(), ..Shown::default() }));
        let monitor = Monitor::new(client, &key, &host, &config.daemon.run_dir, mode.dry_run, Arc::clone(&shown))?;
        let rounds = mode.once.then_some(client.probe.of.max(client.probe.returns));
        let named = std::thread::Builder::new().name(format!("fansync-{}", client.name));
        let run = move || {
            if let Err(error) = monitor.run(&told, rounds) {
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
        let status = control::Status { version: env!("CARGO_PKG_VERSION").into(), server: None, failovers };
        print!("{}", status.human());
        return Ok(ExitCode::Done);
    }
    let socket: PathBuf = config.daemon.socket.clone();
    let parts = Arc::new(Parts { server, monitors: handles });
    control::serve(&socket, Arc::clone(&parts))?;
    if let Some(http) = http {
        tracing::info!(address = %http.address(), "serving metrics");
        http.serve(Arc::new(site::failover(parts))).map_err(setup("serve metrics"))?;
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(socket = %socket.display(), failovers = config.clients.len(), "watching");
    // Mounts stay as they are, and so do exports: a restart of this process must not be seen by clients.
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
