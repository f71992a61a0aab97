//! Status and orders over a socket of the process's own: a line of JSON each way, as with the
//! mirror daemon.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Sender, bounded};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::front::{self, Front};
use super::machine::{Report, Side};
use super::monitor::{OperatorRequest, Order, Shown, words};
use super::server::{Server, locked};
use crate::socket::{self, BindError};

/// An order by hand may wait for a hand-over.
const ORDER: Duration = Duration::from_secs(90);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub enum Ask {
    /// Everything.
    Status,
    /// To one `[[failover]]`, or the only one.
    Order {
        /// Its name.
        name: Option<String>,
        /// What to do.
        order: Order,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// To [`Ask::Status`].
    Status(Box<Status>),
    Done {
        /// For people.
        text: String,
    },
    /// Not done.
    Error {
        /// Why.
        message: String,
    },
}

/// Everything.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    /// The server role, if this host has it.
    pub(crate) server: Option<Report>,
    /// The mounts.
    pub(crate) failovers: Vec<Shown>,
    /// The process that reads from the network.
    #[serde(default)]
    pub(crate) front: front::Shown,
}

/// What cannot be done with the socket.
#[derive(Debug, Error)]
pub(crate) enum ControlError {
    /// Another one answers there.
    #[error("another fansync failover answers on {path}")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The rest.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// `listen on`, `reach`, `talk to`.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The way to one monitor.
pub(crate) struct Handle {
    pub(crate) name: String,
    pub(crate) orders: Sender<OperatorRequest>,
    /// What it shows.
    pub(crate) shown: Arc<Mutex<Shown>>,
}

/// What a process has of both roles.
pub(crate) struct Parts {
    /// The server role, if this host has it.
    pub(crate) server: Option<Arc<Server>>,
    pub(crate) monitors: Vec<Handle>,
    /// What reads from the network for both.
    pub(crate) front: Arc<Front>,
}

impl Parts {
    /// Everything, now.
    pub(crate) fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            server: self.server.as_ref().map(|s| s.report()),
            failovers: self.monitors.iter().map(|h| locked(&h.shown).clone()).collect(),
            front: self.front.shown(),
        }
    }
}

/// Serves the socket on a thread.
///
/// # Errors
/// See [`ControlError`].
pub(crate) fn serve(path: &Path, parts: Arc<Parts>) -> Result<(), ControlError> {
    let fail = |source| ControlError::Io { what: "listen on", path: path.into(), source };
    let listener = socket::bind(path).map_err(|error| match error {
        BindError::InUse => ControlError::InUse { path: path.into() },
        BindError::Io(source) => fail(source),
    })?;
    socket::serve(listener, |_| Some(()), move |stream, ()| one(&stream, &parts)).map_err(fail)
}

fn one(stream: &UnixStream, parts: &Parts) {
    let Some(line) = socket::request(stream) else { return };
    let answer = match serde_json::from_slice(&line) {
        Ok(Ask::Status) => Answer::Status(Box::new(parts.status())),
        Ok(Ask::Order { name, order }) => pass_on(&parts.monitors, name.as_deref(), order),
        Err(e) => Answer::Error { message: format!("not a request: {e}") },
    };
    let _ = socket::say(stream, &answer);
}

fn pass_on(handles: &[Handle], name: Option<&str>, order: Order) -> Answer {
    let names = || handles.iter().map(|h| h.name.as_str()).collect::<Vec<_>>().join(", ");
    let chosen: Vec<&Handle> = handles.iter().filter(|h| name.is_none_or(|n| n == h.name)).collect();
    let [handle] = chosen[..] else {
        return Answer::Error { message: format!("say which one; there are: {}", names()) };
    };
    let (reply, outcome) = bounded(1);
    if handle.orders.send((order, reply)).is_err() {
        return Answer::Error { message: "its monitor has ended".into() };
    }
    match outcome.recv_timeout(ORDER) {
        Ok(Ok(text)) => Answer::Done { text },
        Ok(Err(message)) => Answer::Error { message },
        Err(_) => Answer::Error { message: format!("not done within {ORDER:?}; see the log") },
    }
}

/// Sends a request to the process at `path`.
///
/// # Errors
/// See [`ControlError`].
pub(crate) fn ask(path: &Path, ask: &Ask) -> Result<Answer, ControlError> {
    let io = |what| move |source| ControlError::Io { what, path: path.into(), source };
    let stream = UnixStream::connect(path).map_err(io("reach"))?;
    stream.set_read_timeout(Some(ORDER + Duration::from_secs(5))).map_err(io("talk to"))?;
    let talk = || -> io::Result<Answer> {
        socket::say(&stream, ask)?;
        let mut text = String::new();
        BufReader::new(&stream).read_line(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    };
    talk().map_err(io("talk to"))
}

impl Status {
    /// For a terminal.
    pub(crate) fn human(&self) -> String {
        let mut out = format!("fansync {}\n", self.version);
        let front = &self.front;
        if front.pid == 0 {
            let _ = writeln!(out, "  TROUBLE nothing is read from the network: {}", front.reason);
        } else if front.restarts > 0 {
            let times = if front.restarts == 1 { "once".into() } else { format!("{} times", front.restarts) };
            let _ =
                writeln!(out, "  what reads from the network was started again {times}, the last time since {}", front.reason);
        }
        if !front.confined {
            out.push_str("  what reads from the network has all rights (sandbox = \"off\")\n");
        }
        if let Some(server) = &self.server {
            let mark = server.mark.as_ref().map_or("no role mark".into(), ToString::to_string);
            let exported = if server.writable { "read-write" } else { "read-only" };
            let _ = writeln!(out, "\nserver  {mark}, exported {exported}");
            match server.peer_whole {
                Some(false) => out.push_str("  the peer holds no whole copy yet\n"),
                Some(true) => out.push_str("  the peer holds a whole copy\n"),
                None => {}
            }
            if server.handing_over {
                out.push_str("  hands over to its peer\n");
            }
            if !server.trouble.is_empty() {
                let _ = writeln!(out, "  TROUBLE {}", server.trouble);
            }
        }
        for f in &self.failovers {
            let on = f.on.map_or("nothing".into(), |s: Side| s.to_string());
            let _ = writeln!(out, "\nfailover {}  {} is on: {on} (epoch {})", f.name, f.mount, f.epoch);
            if f.held {
                out.push_str("  HELD    by hand; `fansync failover resume` ends it\n");
            }
            if let Some(alarm) = f.alarm {
                let _ = writeln!(out, "  ALARM   {}", words(alarm));
            }
            for (side, s) in [Side::Primary, Side::Backup].into_iter().zip(&f.servers) {
                let alive = if s.health.alive { "answers" } else { "DOES NOT ANSWER" };
                let ready = if s.ready { "mounted" } else { "not mounted" };
                let mark =
                    s.health.report.as_ref().and_then(|r| r.mark.as_ref()).map_or("role unknown".into(), ToString::to_string);
                let _ = writeln!(out, "  {side:<7} {}  {alive}, {ready}; {mark}", s.source);
                if !s.trouble.is_empty() {
                    let _ = writeln!(out, "          {}", s.trouble);
                }
            }
            if !f.last_switch.is_empty() {
                let _ = writeln!(out, "  last    {}", f.last_switch);
            }
            for s in &f.stuck {
                let _ = writeln!(out, "  blocked at that time: {} ({}), {}", s.name, s.pid, s.waits);
            }
            for (what, pid) in &f.calls {
                let _ = writeln!(out, "  waits on: {what} (pid {pid})");
            }
        }
        out
    }
}
