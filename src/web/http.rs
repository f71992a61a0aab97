//! A server for a handful of small documents.
//!
//! `GET` and `HEAD`, one request per connection, the head parsed by httparse. Bounded in everything: size of a request, time to send
//! it, time to take the answer, connections at the same time. A client that stalls costs one thread for `PATIENCE`.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::exit::ExitCode;

/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// For sending a request, and again for taking its answer.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// Connections at the same time; more are told to come back.
const MAX_CONNECTIONS: usize = 16;
/// Between attempts when no connection can be taken, as descriptors have run out.
const REST: Duration = Duration::from_millis(100);

/// Nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Somebody has the port.
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
    pub fn exit_code(&self) -> ExitCode {
        match self {
            HttpError::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ExitCode::NotPermitted,
            HttpError::Listen { .. } | HttpError::InUse { .. } => ExitCode::Config,
        }
    }
}

/// A request that is well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`, or another.
    pub method: String,
    /// Without a query.
    pub path: String,
    /// The `Host` header.
    pub host: Option<String>,
    /// Who asks.
    pub peer: SocketAddr,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200, 404, ...
    pub status: u16,
    /// Of the body.
    pub content_type: &'static str,
    /// What is sent; of `HEAD` only its length.
    pub body: Vec<u8>,
}

impl Response {
    /// 200.
    pub fn ok(content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        Response { status: 200, content_type, body: body.into() }
    }

    /// One line of text.
    pub fn refuse(status: u16, why: &str) -> Response {
        Response { status, content_type: "text/plain; charset=utf-8", body: format!("{why}\n").into_bytes() }
    }

    fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            421 => "Misdirected Request",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "",
        }
    }

    /// The head as it is sent. Nothing may be loaded from elsewhere, run inline, framed or kept.
    fn head(&self) -> String {
        let allow = if self.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Connection: close\r\nCache-Control: no-store\r\n\
             Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\n\
             Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\r\n",
            self.status,
            self.reason(),
            self.content_type,
            self.body.len()
        )
    }
}

/// Answers requests; called by several threads.
pub type Handler = dyn Fn(&Request) -> Response + Send + Sync;

/// A port that is taken.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes the port.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub fn bind(address: SocketAddr) -> Result<Server, HttpError> {
        match TcpListener::bind(address) {
            Ok(listener) => Ok(Server { listener, address }),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(HttpError::InUse { address }),
            Err(source) => Err(HttpError::Listen { address, source }),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.address)
    }

    /// Serves for ever, on threads of its own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn serve(self, handler: Arc<Handler>) -> io::Result<()> {
        let busy = Arc::new(AtomicUsize::new(0));
        let accept = move || {
            loop {
                match self.listener.accept() {
                    Ok((stream, peer)) => hand_over(stream, peer, &busy, &handler),
                    Err(_) => std::thread::sleep(REST),
                }
            }
        };
        std::thread::Builder::new().name("fansync-http".into()).spawn(accept).map(drop)
    }
}

/// Counts a connection while it lives.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn hand_over(stream: TcpStream, peer: SocketAddr, busy: &Arc<AtomicUsize>, handler: &Arc<Handler>) {
    // Only the thread that accepts adds, so the bound cannot be passed by two at once.
    let before = busy.fetch_add(1, Ordering::Relaxed);
    let counted = Busy(Arc::clone(busy));
    if before >= MAX_CONNECTIONS {
        let _ = stream.set_nonblocking(true);
        let full = Response::refuse(503, "too many connections at the same time");
        let _ = (&stream).write(&[full.head().as_bytes(), &full.body].concat());
        return;
    }
    let handler = Arc::clone(handler);
    let _ = std::thread::Builder::new().name("fansync-web".into()).spawn(move || {
        let _counted = counted;
        let _ = one(&stream, peer, &*handler);
    });
}

fn one(stream: &TcpStream, peer: SocketAddr, handler: &Handler) -> io::Result<()> {
    let (bare, response) = match read(stream, peer, Instant::now() + PATIENCE) {
        Ok(Some(request)) => (request.method == "HEAD", respond(&request, handler)),
        Ok(None) => return Ok(()),
        Err(response) => (false, response),
    };
    let mut out = response.head().into_bytes();
    if !bare {
        out.extend_from_slice(&response.body);
    }
    write(stream, &out, Instant::now() + PATIENCE)?;
    // What is left unread would turn the close into a reset, and that can overtake the answer.
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let _ = io::copy(&mut stream.take(64 * 1024), &mut io::sink());
    Ok(())
}

fn respond(request: &Request, handler: &Handler) -> Response {
    match request.method.as_str() {
        "GET" | "HEAD" => handler(request),
        _ => Response::refuse(405, "only GET and HEAD are served"),
    }
}

/// `None`: the client left without a word.
fn read(mut stream: &TcpStream, peer: SocketAddr, deadline: Instant) -> Result<Option<Request>, Response> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let late = || Response::refuse(408, "the request took too long");
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return Err(late());
        }
        match stream.read(&mut chunk) {
            Ok(0) if head.is_empty() => return Ok(None),
            Ok(0) => return Err(Response::refuse(400, "the request is cut off")),
            Ok(n) => head.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(late()),
        }
        if let Some(request) = parse(&head, peer)? {
            return Ok(Some(request));
        }
        if head.len() >= MAX_HEAD_BYTES {
            return Err(Response::refuse(431, "the request is too long"));
        }
    }
}

/// `None`: it is not complete.
fn parse(head: &[u8], peer: SocketAddr) -> Result<Option<Request>, Response> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Response::refuse(431, "the request has too many headers")),
        Err(e) => return Err(Response::refuse(400, &format!("not a request: {e}"))),
    }
    let mut hosts = parsed.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("host"));
    let host = hosts.next().map(|h| String::from_utf8_lossy(h.value).trim().to_owned());
    if hosts.next().is_some() {
        return Err(Response::refuse(400, "the request has more than one Host"));
    }
    let path = parsed.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    Ok(Some(Request { method: parsed.method.unwrap_or_default().into(), path: path.into(), host, peer }))
}

fn write(mut stream: &TcpStream, mut out: &[u8], deadline: Instant) -> io::Result<()> {
    while !out.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(out) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => out = &out[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
        for header in ["Content-Security-Policy: default-src 'none'", "nosniff", "no-store", "Content-Length: 12\r\n"] {
            assert!(got.contains(header), "{header} is not in {got}");
        }
        let head = say(at, b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(head.contains("Content-Length: 12\r\n") && head.ends_with("\r\n\r\n"), "{head}");
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
        assert!(say(at, b"POST / HTTP/1.1\r\n\r\n").contains("Allow: GET, HEAD\r\n"));
    }

    #[test]
    fn clients_that_stall_are_bounded_in_number_and_time() {
        let at = server();
        let stalled: Vec<_> = (0..MAX_CONNECTIONS)
            .map(|_| {
                let mut stream = TcpStream::connect(at).unwrap();
                stream.write_all(b"GET / HT").unwrap();
                stream
            })
            .collect();
        // Connections are taken in order, so all of these are known before the next one.
        assert!(say(at, b"").starts_with("HTTP/1.1 503 "));
        for mut stream in stalled {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while !say(at, b"GET / HTTP/1.0\r\n\r\n").contains(" 200 ") {
            assert!(Instant::now() < deadline, "the places of stalled clients are not free again");
        }
    }

    #[test]
    fn a_port_in_use_is_named() {
        let at = server();
        let error = Server::bind(at).err().unwrap().to_string();
        assert!(error.contains(&at.to_string()) && error.contains("in use"), "{error}");
    }
}
