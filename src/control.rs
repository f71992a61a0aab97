//! The control socket as a client sees it: one request per connection, a line of JSON each way.

pub(crate) mod find;

use std::io::{self, BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::explain::Explained;
use crate::socket;
use crate::status::Snapshot;
use crate::status::verify::{Options, Report};

/// How long an engine may take to answer a question about its state.
pub(crate) const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

/// A request of a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase")]
pub enum Request {
    /// The snapshot.
    Status,
    /// The same, with every follower of the feeds.
    Followers,
    /// Wait until every change made before this request is on the targets.
    Flush {
        /// Only this mirror.
        mirror: Option<String>,
        /// Only this target.
        target: Option<String>,
        /// How long to wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Compare targets with their source.
    Verify {
        /// Only this mirror.
        mirror: Option<String>,
        /// Only this target.
        target: Option<String>,
        /// How.
        options: Options,
    },
    /// Send each event, until the client hangs up: after [`Reply::Events`] a line of JSON for each
    /// event ([`crate::events::Event`]).
    Events {
        /// Only this mirror.
        mirror: Option<String>,
    },
    /// Say where a path is on its way.
    Explain {
        /// What it may mean, absolute, as bytes; the first that lies below a source counts.
        paths: Vec<Vec<u8>>,
    },
    /// Read the configuration again; answered when what changed has begun anew.
    Reload,
    /// Pause, resume or retry targets.
    Steer {
        /// What to do.
        what: Steer,
        /// Only this mirror.
        mirror: Option<String>,
        /// Only this target.
        target: Option<String>,
    },
}

/// Commands to a target while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Steer {
    /// Send nothing more, and go on collecting. Runs in flight end.
    Pause,
    /// Send again.
    Resume {
        /// Take the source as it is now, and let deletions through that were held.
        accept_source: bool,
        /// Let deletions through that were held.
        accept_deletes: bool,
    },
    /// Try what failed, and a target that is away, now and not after its pause.
    Retry,
}

impl Request {
    /// Whether it may come from the socket's group.
    pub(crate) fn only_reads(&self) -> bool {
        matches!(self, Request::Status)
    }
}

/// What the daemon answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub enum Reply {
    /// To [`Request::Status`] and [`Request::Followers`].
    Status(Box<Snapshot>),
    /// To [`Request::Flush`].
    Flush(Flushed),
    /// To [`Request::Verify`].
    Verify {
        /// One for each target.
        reports: Vec<Report>,
    },
    /// To [`Request::Events`].
    Events,
    /// To [`Request::Explain`].
    Explain(Explained),
    /// To [`Request::Steer`].
    Steer {
        /// One for each target.
        targets: Vec<Steered>,
    },
    /// To [`Request::Reload`].
    Reload(Reloaded),
    /// The client may not send this request.
    Denied {
        /// Why.
        message: String,
    },
    /// The request cannot be served.
    Error {
        /// Why.
        message: String,
    },
}

/// How a reload ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Why the configuration is not in force, or not all of it; empty when it is.
    pub(crate) troubles: Vec<String>,
    /// Keys of `[daemon]` that changed, and take effect at the next start.
    pub(crate) later: Vec<String>,
}

/// How a flush ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Flushed {
    /// One line per target that does not hold every change; empty when all do.
    pub waiting: Vec<Waiting>,
}

/// A target that a flush waited for in vain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// `mirror/target`.
    pub(crate) target: String,
    /// What is left and why.
    pub(crate) why: String,
    /// It cannot be reached (or it refuses the connection).
    pub(crate) unreachable: bool,
}

/// What became of a [`Steer`] for one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steered {
    /// `mirror/target`.
    pub(crate) target: String,
    /// What was done, or why it could not be.
    pub(crate) said: String,
    /// Whether it was done.
    pub(crate) done: bool,
}

/// What cannot be done with the socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon answers there.
    #[error(
        "another fansync answers on {path}; stop it, or give this one a socket of its own (--socket, FANSYNC_SOCKET, status_socket)"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No answer.
    #[error("no fansync daemon answers on {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The talk broke off.
    #[error("the daemon on {path} gave no proper answer")]
    Talk {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// What the caller can do, where the message does not say so itself.
    pub(crate) fn help(&self) -> Option<&'static str> {
        match self {
            Error::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("the socket belongs to another user: try it with sudo, or as that user")
            }
            Error::Connect { .. } => Some("see that it runs, and give the socket that it uses (--socket, FANSYNC_SOCKET)"),
            _ => None,
        }
    }

    /// No process listens there, which may be different soon.
    pub(crate) fn is_nobody(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Error::Connect { source, .. } if matches!(source.kind(), NotFound | ConnectionRefused))
    }
}

/// Sends a request to the daemon at `path`; `patience` bounds the wait for its answer.
///
/// # Errors
/// [`Error::Connect`] when no process listens, [`Error::Talk`] when the answer is missing or not
/// understood.
pub fn ask(path: &Path, request: &Request, patience: Duration) -> Result<Reply, Error> {
    let stream = request_to(path, request)?;
    let talk = |source| Error::Talk { path: path.into(), source };
    stream.set_read_timeout(Some(patience + STATUS_TIMEOUT * 2)).map_err(talk)?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).map_err(talk)?;
    serde_json::from_str(&answer).map_err(|e| talk(e.into()))
}

/// Sends a request to the daemon at `path`; the answer can be read from what is returned.
///
/// # Errors
/// [`Error::Connect`] when no process listens, [`Error::Talk`] when the request cannot be sent.
pub(crate) fn request_to(path: &Path, request: &Request) -> Result<UnixStream, Error> {
    let stream = UnixStream::connect(path).map_err(|source| Error::Connect { path: path.into(), source })?;
    let talk = |source| Error::Talk { path: path.into(), source };
    socket::say(&stream, request).map_err(talk)?;
    Ok(stream)
}
