//! What monitors and servers say to each other: one request a connection, a message each way.
//!
//! ```text
//! server  version, nonce, server
//! client  code, nonce, client, server, request
//! server  code, reply
//! ```
//!
//! Promises: without the key no process gets an answer, is believed, or changes anything. Each
//! message has a fixed length ([`frame`]), and nothing of what a stranger sends is read but for the
//! numbers in front of the request, before its code ([`code`]) has been found right. A message that
//! was recorded is of no use later, nor on another connection, nor sent back to its sender, nor
//! passed on to another server: the codes cover the numbers that both sides made up, sender and
//! addressee, and the request that is answered.
//!
//! Gives up secrecy: roles and epochs can be read on the wire. A host in the way can keep messages
//! from arriving.

pub mod code;
pub mod frame;
pub(crate) mod places;

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::front::{Front, Lost};
use super::machine::{Report, Side};
use crate::role::mark::Mark;
pub(crate) use code::KeyError;
pub use code::{Id, Key};
use frame::{Asked, REPLY, REPLY_BODY, REQUEST, REQUEST_BODY};

/// The usual port.
pub(crate) const PORT: u16 = 7846;
/// How long a client may take for its whole request. A lost packet is sent again only after a
/// second.
pub(super) const WHOLE_REQUEST: Duration = Duration::from_secs(2);
/// How long it may take to take the answer.
pub(super) const WHOLE_REPLY: Duration = Duration::from_secs(2);

/// A request to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Its state.
    Report,
    /// To become primary of an epoch above this one. One that is such a primary already says yes
    /// again.
    Promote {
        /// The newest epoch that the asker knows.
        above: u64,
        /// The sender of the request.
        by: String,
    },
    /// To be a follower from now on, since the asker takes over.
    StepDown {
        /// The sender of the request.
        by: String,
    },
    /// To hand over to its peer, orderly.
    HandOver {
        /// The sender of the request.
        by: String,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To [`Request::Report`].
    Report(Report),
    /// Done; its mark now.
    Done {
        /// The mark.
        mark: Mark,
    },
    /// Not done.
    Refused {
        /// Why.
        why: String,
    },
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum WireError {
    /// Connecting, sending, receiving; also too slow.
    #[error("cannot talk to the fansync failover server on {address}: {source}")]
    Io {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// This host's front process is away, so the request was not sent, or its answer is not known.
    #[error("{address} was not queried: {lost}")]
    Away {
        /// Where.
        address: String,
        /// Why.
        lost: Lost,
    },
    /// The other side has another key, or a host in the way has changed or replayed its reply.
    #[error("{address} does not prove that it knows the key: compare the key files of both hosts")]
    Key {
        /// Where.
        address: String,
    },
    /// The other side is of another version, or something else.
    #[error("{address} does not speak {}: run the same version of fansync on all hosts", code::VERSION)]
    Version {
        /// Where.
        address: String,
    },
    /// Another server answers there than should.
    #[error("at {address} answers {}: correct the address, or look for a host in the way that sends connections elsewhere", .who)]
    Misdirected {
        /// Where.
        address: String,
        /// Who answers.
        who: &'static str,
    },
}

impl WireError {
    /// This host could not send the request: nothing is known of the other.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, WireError::Away { .. })
    }
}

/// The sender, and who must not be the one that answers.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Us.
    pub id: Id,
    /// The server that is queried is another one than this.
    pub not: Option<(Id, &'static str)>,
}

impl Asker {
    /// A server, which queries its peer and never itself.
    pub(crate) fn server(id: Id) -> Asker {
        Asker { id, not: Some((id, "this server itself")) }
    }
}

/// A client's view of two servers: which process has answered for which.
#[derive(Debug)]
pub(crate) struct Pair {
    front: Arc<Front>,
    id: Id,
    seen: Mutex<[Option<Id>; 2]>,
}

impl Pair {
    /// Nothing was seen yet.
    ///
    /// # Errors
    /// Those of reading /dev/urandom.
    pub(crate) fn new(front: &Arc<Front>) -> io::Result<Pair> {
        Ok(Pair { front: Arc::clone(front), id: Id::new()?, seen: Mutex::default() })
    }

    /// Queries the server of a side, which must not be the one that answers for the other side.
    ///
    /// # Errors
    /// See [`WireError`].
    pub(crate) fn ask(
        &self,
        side: Side,
        address: &str,
        key: &Key,
        request: &Request,
        deadline: Duration,
    ) -> Result<Reply, WireError> {
        let other = self.seen()[side.other() as usize];
        let asker = Asker { id: self.id, not: other.map(|id| (id, "the other of both servers")) };
        let (reply, by) = ask(&self.front, address, key, &asker, request, deadline)?;
        self.seen()[side as usize] = Some(by);
        Ok(reply)
    }

    /// The front that carries its requests.
    pub(crate) fn front(&self) -> &Front {
        &self.front
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, [Option<Id>; 2]> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a host may take to accept a connection, which its kernel does however busy it is. A
/// lost packet is sent again only after a second.
pub(super) const CONNECT: Duration = Duration::from_millis(400);

/// Sends one request. `deadline`: for all of it; connecting has at most 400 ms of it. Returns who
/// has answered as well.
///
/// # Errors
/// See [`WireError`].
pub fn ask(
    front: &Front,
    address: &str,
    key: &Key,
    asker: &Asker,
    request: &Request,
    deadline: Duration,
) -> Result<(Reply, Id), WireError> {
    ask_within(front, address, key, asker, request, CONNECT, deadline)
}

/// The same, with another bound for connecting.
///
/// # Errors
/// See [`WireError`].
pub(crate) fn ask_within(
    front: &Front,
    address: &str,
    key: &Key,
    asker: &Asker,
    request: &Request,
    connect: Duration,
    deadline: Duration,
) -> Result<(Reply, Id), WireError> {
    let until = Instant::now() + deadline;
    let io = |source| WireError::Io { address: address.into(), source };
    let to: SocketAddr = address.to_socket_addrs().map_err(io)?.next().ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
    let stream = TcpStream::connect_timeout(&to, left(until).map_err(io)?.min(connect)).map_err(io)?;
    stream.set_nodelay(true).map_err(io)?;
    let lost = |lost| match lost {
        Lost::Connection(source) => WireError::Io { address: address.into(), source },
        lost => WireError::Away { address: address.into(), lost },
    };
    let job = front.talk(stream, until).map_err(lost)?;
    let greeting = job.greeting().map_err(lost)?;
    let (theirs, server) = frame::read_greeting(&greeting).ok_or_else(|| WireError::Version { address: address.into() })?;
    if let Some((_, who)) = asker.not.filter(|(id, _)| *id == server) {
        return Err(WireError::Misdirected { address: address.into(), who });
    }
    let body = request.encode();
    let talk = Talk { nonces: [theirs, Id::new().map_err(io)?], client: asker.id, server };
    let answer = job.ask(talk.ask(key, body).encode()).map_err(lost)?;
    let (code, reply) = frame::split_reply(&answer);
    if !talk.is_reply(key, code, &body, reply) {
        return Err(WireError::Key { address: address.into() });
    }
    // It has the key, and says what is not understood.
    let reply = Reply::decode(reply).ok_or_else(|| WireError::Version { address: address.into() })?;
    Ok((reply, server))
}

/// What both sides know of their connection before the request is sent.
struct Talk {
    /// The server's and the client's.
    nonces: [Id; 2],
    client: Id,
    server: Id,
}

impl Talk {
    fn request_parts<'a>(&'a self, body: &'a [u8; REQUEST_BODY]) -> [&'a [u8]; 6] {
        let [theirs, ours] = &self.nonces;
        [b"request", theirs.bytes(), ours.bytes(), self.client.bytes(), self.server.bytes(), body]
    }

    fn reply_parts<'a>(&'a self, body: &'a [u8; REQUEST_BODY], reply: &'a [u8; REPLY_BODY]) -> [&'a [u8]; 7] {
        let [theirs, ours] = &self.nonces;
        [b"reply", theirs.bytes(), ours.bytes(), self.server.bytes(), self.client.bytes(), body, reply]
    }

    fn ask(&self, key: &Key, body: [u8; REQUEST_BODY]) -> Asked {
        let code = key.code(&self.request_parts(&body));
        Asked { code, nonce: self.nonces[1], client: self.client, server: self.server, body }
    }

    fn answer(&self, key: &Key, body: &[u8; REQUEST_BODY], reply: &Reply) -> [u8; REPLY] {
        let reply = reply.encode();
        frame::reply(&key.code(&self.reply_parts(body, &reply)), &reply)
    }

    fn is_reply(&self, key: &Key, code: &[u8; code::CODE], body: &[u8; REQUEST_BODY], reply: &[u8; REPLY_BODY]) -> bool {
        key.is_code(code, &self.reply_parts(body, reply))
    }
}

/// How a request is to be answered.
pub(super) struct Answering {
    talk: Talk,
    body: [u8; REQUEST_BODY],
}

impl Answering {
    /// The message with this reply.
    pub(super) fn with(&self, key: &Key, reply: &Reply) -> [u8; REPLY] {
        self.talk.answer(key, &self.body, reply)
    }
}

/// A request that is for `server` on this connection and was made with the key, and how to answer
/// it. Nothing but the numbers in front of its body is read before that.
pub(super) fn open(frame: &[u8; REQUEST], key: &Key, nonce: Id, server: Id) -> Option<(Request, Answering)> {
    let Asked { code, nonce: theirs, client, server: to, body } = Asked::split(frame);
    let talk = Talk { nonces: [nonce, theirs], client, server: to };
    // A request of ours that comes back to us has our own number as its sender's.
    let good = to == server && client != server && key.is_code(&code, &talk.request_parts(&body));
    good.then(|| Request::decode(&body))?.map(|request| (request, Answering { talk, body }))
}

/// What is made of a message: for tests that feed it anything.
pub fn opens(frame: &[u8; REQUEST], key: &Key, nonce: Id, server: Id) -> Option<Request> {
    open(frame, key, nonce, server).map(|(request, _)| request)
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests;
