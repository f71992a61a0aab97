//! A server for a handful of small documents.
//!
//! `GET` and `HEAD`, one request per connection, by hyper on a thread of its own; answers are made
//! on others, so that one that takes long holds up no other. Bounded in everything: size of a
//! request, time to send it, time to take the answer, connections at the same time.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::AbortHandle;

use crate::exit::ExitCode;

/// The longest head of a request; hyper takes no less.
const MAX_HEAD_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// For sending a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(2);
/// For its answer and taking it.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// Connections at the same time. For one more the oldest goes that has not sent its request yet, or
/// else the oldest: a scrape is served however many others stay silent.
const MAX_CONNECTIONS: usize = 128;
/// Answers that are made at the same time.
const MAX_ANSWERS: usize = 16;
/// Between attempts when no connection can be taken, as descriptors have run out.
const REST: Duration = Duration::from_millis(100);
/// Nothing may be loaded from elsewhere, run inline, framed or kept.
const HEADERS: [(header::HeaderName, HeaderValue); 4] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// Nothing can be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// Another process has the port.
    #[error("cannot serve metrics on {address}: the address is in use; choose another port (metrics), or stop who has it")]
    InUse {
        /// As configured.
        address: SocketAddr,
    },
    /// Another reason.
    #[error("cannot serve metrics on {address} (metrics)")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl HttpError {
    /// What the process leaves with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            HttpError::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ExitCode::NotPermitted,
            HttpError::Listen { .. } | HttpError::InUse { .. } => ExitCode::Config,
        }
    }
}

/// A request that is well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Without a query.
    pub path: String,
    /// The `Host` header.
    pub(crate) host: Option<String>,
    /// The client.
    pub(crate) peer: SocketAddr,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200, 404, ...
    pub(crate) status: u16,
    /// Of the body.
    pub(crate) content_type: &'static str,
    /// What is sent; of `HEAD` only its length.
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// 200.
    pub fn ok(content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        Response { status: 200, content_type, body: body.into() }
    }

    /// One line of text.
    pub(crate) fn refuse(status: u16, why: &str) -> Response {
        Response { status, content_type: "text/plain; charset=utf-8", body: format!("{why}\n").into_bytes() }
    }

    fn encode(self) -> hyper::Response<Full<Bytes>> {
        let mut out = hyper::Response::new(Full::new(Bytes::from(self.body)));
        *out.status_mut() = hyper::StatusCode::from_u16(self.status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = out.headers_mut();
        headers.extend(HEADERS);
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if self.status == 405 {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        out
    }
}

/// Answers requests; called by several threads.
pub(crate) type Handler = dyn Fn(&Request) -> Response + Send + Sync;

/// A port that is taken.
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes the port.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub(crate) fn bind(address: SocketAddr) -> Result<Server, HttpError> {
        match TcpListener::bind(address) {
            Ok(listener) => Ok(Server { listener, address }),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(HttpError::InUse { address }),
            Err(source) => Err(HttpError::Listen { address, source }),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.address)
    }

    /// Serves for ever, on threads of its own.
    ///
    /// # Errors
    /// The thread, or what hyper runs on, cannot be had.
    pub(crate) fn serve(self, handler: Arc<Handler>) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .thread_name("fansync-web")
            .max_blocking_threads(MAX_ANSWERS)
            .build()?;
        let listener = {
            let _in = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        let serve = move || runtime.block_on(accept(&listener, &handler));
        std::thread::Builder::new().name("fansync-http".into()).spawn(serve).map(drop)
    }
}

/// The connections that are served, in the order of their coming.
#[derive(Default)]
struct Connections {
    next: u64,
    all: VecDeque<Connection>,
}

struct Connection {
    number: u64,
    asked: bool,
    task: Option<AbortHandle>,
}

type Shared = Arc<Mutex<Connections>>;

fn locked(connections: &Shared) -> MutexGuard<'_, Connections> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    /// The number of a new connection. What is closed for it is returned.
    fn enter(&mut self) -> (u64, Option<Connection>) {
        let over = self.all.len() >= MAX_CONNECTIONS;
        let silent = self.all.iter().position(|c| !c.asked).unwrap_or(0);
        let closed = if over { self.all.remove(silent) } else { None };
        let number = self.next;
        self.next += 1;
        self.all.push_back(Connection { number, asked: false, task: None });
        (number, closed)
    }

    fn of(&mut self, number: u64) -> Option<&mut Connection> {
        self.all.iter_mut().find(|c| c.number == number)
    }
}

/// Takes a connection out of the list, however its task ends.
struct Entry {
    connections: Shared,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        locked(&self.connections).all.retain(|c| c.number != self.number);
    }
}

async fn accept(listener: &tokio::net::TcpListener, handler: &Arc<Handler>) {
    let connections = Shared::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (number, closed) = locked(&connections).enter();
                if let Some(task) = closed.and_then(|c| c.task) {
                    task.abort();
                }
                let handler = Arc::clone(handler);
                let entry = Entry { connections: Arc::clone(&connections), number };
                let task = tokio::spawn(async move {
                    // It ends early when the client stalls or leaves: nothing of ours.
                    let _ = tokio::time::timeout(HEAD_PATIENCE + 2 * PATIENCE, one(stream, peer, handler, &entry, false)).await;
                });
                if let Some(connection) = locked(&connections).of(number) {
                    connection.task = Some(task.abort_handle());
                }
            }
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
}

/// What a client reads that sends these bytes and no more, and takes what comes.
///
/// # Errors
/// What hyper runs on cannot be had.
pub fn exchange(sent: Vec<u8>, peer: SocketAddr, handler: Arc<Handler>) -> io::Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let connections = Shared::default();
    let number = locked(&connections).enter().0;
    let entry = Entry { connections, number };
    let (mut client, server) = tokio::io::duplex(sent.len().max(1));
    runtime.block_on(async move {
        let speaks = tokio::spawn(async move {
            let mut got = Vec::new();
            let _ = client.write_all(&sent).await;
            let _ = client.shutdown().await;
            let _ = client.read_to_end(&mut got).await;
            got
        });
        // Else the end of what it sends would end the connection.
        let _ = one(server, peer, handler, &entry, true).await;
        Ok(speaks.await?)
    })
}

async fn one<S>(stream: S, peer: SocketAddr, handler: Arc<Handler>, entry: &Entry, half_close: bool) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = service_fn(move |asked| {
        if let Some(connection) = locked(&entry.connections).of(entry.number) {
            connection.asked = true;
        }
        respond(asked, peer, Arc::clone(&handler))
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .half_close(half_close)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

async fn respond(
    asked: hyper::Request<Incoming>,
    peer: SocketAddr,
    handler: Arc<Handler>,
) -> Result<hyper::Response<Full<Bytes>>, std::convert::Infallible> {
    let response = match request(&asked, peer) {
        Ok(request) => {
            let made = tokio::task::spawn_blocking(move || handler(&request)).await;
            made.unwrap_or_else(|_| Response::refuse(500, "the answer could not be made; the log says why"))
        }
        Err(refused) => refused,
    };
    Ok(response.encode())
}

/// The request, or why it is not answered.
fn request(asked: &hyper::Request<Incoming>, peer: SocketAddr) -> Result<Request, Response> {
    if !matches!(*asked.method(), hyper::Method::GET | hyper::Method::HEAD) {
        return Err(Response::refuse(405, "only GET and HEAD are served"));
    }
    let mut hosts = asked.headers().get_all(header::HOST).iter();
    let host = hosts.next().map(|host| String::from_utf8_lossy(host.as_bytes()).trim().to_owned());
    if hosts.next().is_some() {
        return Err(Response::refuse(400, "the request has more than one Host"));
    }
    Ok(Request { path: asked.uri().path().into(), host, peer })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn server() -> SocketAddr {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = server.address();
        server.serve(Arc::new(|r: &Request| Response::ok("text/plain", format!("{} {:?}", r.path, r.host)))).unwrap();
        address
    }

    fn say(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers_and_refuses() {
        let at = server();
        let got = say(at, b"GET /a?x=1 HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("\r\n\r\n/a Some(\"h\")"), "{got}");
        for header in [
            "content-security-policy: default-src 'none'",
            "nosniff",
            "no-store",
            "content-length: 12\r\n",
            "connection: close\r\n",
        ] {
            assert!(got.contains(header), "{header} is not in {got}");
        }
        let head = say(at, b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(head.contains("content-length: 12\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_HEAD_BYTES));
        for (request, status) in [
            (&b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"[..], "405"),
            (b"DELETE / HTTP/1.1\r\nHost: h\r\n\r\n", "405"),
            (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
            (many.as_bytes(), "431"),
            (long.as_bytes(), "431"),
        ] {
            let got = say(at, request);
            assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {got}");
        }
        assert!(say(at, b"POST / HTTP/1.1\r\n\r\n").contains("allow: GET, HEAD\r\n"));
    }

    #[test]
    fn clients_that_stall_keep_nobody_else_out() {
        let at = server();
        let stall = || {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(b"GET / HT").unwrap();
            stream
        };
        let begun = std::time::Instant::now();
        let stalled: Vec<_> = (0..MAX_CONNECTIONS + 20).map(|_| stall()).collect();
        assert!(say(at, b"GET / HTTP/1.0\r\n\r\n").contains(" 200 "));
        // No client's time was over by then: the oldest had to go. On a machine that is too busy
        // for that, it is not shown.
        let early = begun.elapsed() < HEAD_PATIENCE;
        for (n, mut stream) in stalled.into_iter().enumerate() {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut answer = String::new();
            // One that was closed with a byte of it unread is reset.
            let ended = stream.read_to_string(&mut answer);
            let reset = ended.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset);
            assert!((ended.is_ok() || reset) && answer.is_empty(), "{n}: {ended:?} {answer}");
        }
        assert!(!early || begun.elapsed() >= HEAD_PATIENCE, "the last ones were given less than their time");
    }

    #[test]
    fn the_oldest_that_is_silent_goes_first() {
        let mut connections = Connections::default();
        for _ in 0..MAX_CONNECTIONS {
            assert!(connections.enter().1.is_none());
        }
        connections.of(0).unwrap().asked = true;
        assert_eq!(connections.enter().1.unwrap().number, 1);
        connections.all.iter_mut().for_each(|c| c.asked = true);
        assert_eq!(connections.enter().1.unwrap().number, 0);
        assert_eq!(connections.all.len(), MAX_CONNECTIONS);
    }

    #[test]
    fn an_answer_that_cannot_be_made_is_told() {
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let at = server.address();
        server
            .serve(Arc::new(|r: &Request| if r.path == "/" { panic!("as a test") } else { Response::ok("text/plain", "") }))
            .unwrap();
        assert!(say(at, b"GET / HTTP/1.0\r\n\r\n").contains(" 500 "));
        assert!(say(at, b"GET /a HTTP/1.0\r\n\r\n").contains(" 200 "), "and the next is served");
    }

    #[test]
    fn a_port_in_use_is_named() {
        let at = server();
        let error = Server::bind(at).err().unwrap().to_string();
        assert!(error.contains(&at.to_string()) && error.contains("in use"), "{error}");
    }
}
