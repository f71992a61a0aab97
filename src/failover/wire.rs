//! What monitors and servers say to each other: one request a connection, a line of JSON each way, each with a message
//! authentication code (SipHash-2-4-128) over a number that the server makes up for this connection.
//!
//! Promises: without the key nobody gets an answer or changes anything, and a recorded request is of no use later. Gives up
//! secrecy: roles and epochs can be read on the wire.

use std::fmt::Write as _;
use std::hash::Hasher;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use siphasher::sip128::{Hasher128, SipHasher24};
use thiserror::Error;

use super::machine::Report;
use super::mark::Mark;
use crate::config::{SecretFileError, check_secret_file};

/// The usual port.
pub const PORT: u16 = 7846;
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// What a server is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Its state.
    Report,
    /// To become primary of an epoch above this one. One that is such a primary already says yes again.
    Promote {
        /// The newest epoch that the asker knows.
        above: u64,
        /// Who asks.
        by: String,
    },
    /// To be a follower from now on, since the asker takes over.
    StepDown {
        /// Who asks.
        by: String,
    },
    /// To hand over to its peer, orderly.
    HandOver {
        /// Who asks.
        by: String,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
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

/// The key that all hosts of a set share.
#[derive(Clone)]
pub struct Key([u8; 16]);

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Its file is open to others, or not there.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// It cannot be read.
    #[error("cannot read the key file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("the key file {path} must hold 32 hexadecimal digits; make one: openssl rand -hex 16 > {path}")]
    Form {
        /// The file.
        path: PathBuf,
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
    /// The other side has another key, or is something else.
    #[error("{address} does not prove that it knows the key: compare the key files of both hosts")]
    Key {
        /// Where.
        address: String,
    },
}

impl Key {
    /// Reads it from a file that others cannot read.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn read(path: &Path) -> Result<Key, KeyError> {
        check_secret_file(path)?;
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::Read { path: path.into(), source })?;
        Key::parse(text.trim()).ok_or_else(|| KeyError::Form { path: path.into() })
    }

    fn parse(text: &str) -> Option<Key> {
        let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32 && !text.starts_with('+'))?;
        Some(Key(number.to_be_bytes()))
    }

    fn code(&self, nonce: &str, way: &str, body: &str) -> String {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        for part in [nonce, way, body] {
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part.as_bytes());
        }
        format!("{:032x}", hasher.finish128().as_u128())
    }
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    body: String,
    code: String,
}

/// How long a host may take to accept a connection, which its kernel does however busy it is. A lost packet is sent again only
/// after a second.
pub(super) const CONNECT: Duration = Duration::from_millis(400);

/// Sends one request. `deadline`: for all of it; connecting has at most 400 ms of it.
///
/// # Errors
/// See [`WireError`].
pub fn ask(address: &str, key: &Key, request: &Request, deadline: Duration) -> Result<Reply, WireError> {
    ask_within(address, key, request, CONNECT, deadline)
}

/// The same, with another bound for connecting.
///
/// # Errors
/// See [`WireError`].
pub fn ask_within(
    address: &str,
    key: &Key,
    request: &Request,
    connect: Duration,
    deadline: Duration,
) -> Result<Reply, WireError> {
    let begun = Instant::now();
    let io = |source| WireError::Io { address: address.into(), source };
    let left = || {
        let left = deadline.checked_sub(begun.elapsed()).filter(|d| !d.is_zero());
        left.ok_or_else(|| io(io::ErrorKind::TimedOut.into()))
    };
    let to = address.to_socket_addrs().map_err(io)?.next().ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
    let stream = TcpStream::connect_timeout(&to, left()?.min(connect)).map_err(io)?;
    stream.set_read_timeout(Some(left()?)).map_err(io)?;
    stream.set_write_timeout(Some(left()?)).map_err(io)?;
    let mut lines = BufReader::new(&stream);
    let nonce = line(&mut lines).map_err(io)?;
    send(&stream, key, &nonce, "request", request).map_err(io)?;
    stream.set_read_timeout(Some(left()?)).map_err(io)?;
    let answer = line(&mut lines).map_err(io)?;
    open(&answer, key, &nonce, "reply").ok_or_else(|| WireError::Key { address: address.into() })
}

/// Serves one connection.
///
/// # Errors
/// Those of the connection; `PermissionDenied` for a request without the key.
pub fn answer(stream: &TcpStream, key: &Key, serve: impl FnOnce(Request) -> Reply) -> io::Result<()> {
    let patience = Some(Duration::from_secs(2));
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    stream.set_nodelay(true)?;
    let nonce = nonce()?;
    let mut out = stream;
    writeln!(out, "{nonce}")?;
    let text = line(&mut BufReader::new(stream))?;
    let request = open(&text, key, &nonce, "request").ok_or(io::ErrorKind::PermissionDenied)?;
    send(stream, key, &nonce, "reply", &serve(request))
}

/// 16 bytes that were never used before and cannot be told ahead.
fn nonce() -> io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut out = String::new();
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    Ok(out)
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    from.by_ref().take(MAX_LINE_BYTES).read_line(&mut text)?;
    match text.strip_suffix('\n') {
        Some(text) => Ok(text.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn send(mut stream: &TcpStream, key: &Key, nonce: &str, way: &str, what: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_string(what)?;
    let code = key.code(nonce, way, &body);
    let mut text = serde_json::to_string(&Sealed { body, code })?;
    text.push('\n');
    stream.write_all(text.as_bytes())
}

fn open<T: DeserializeOwned>(text: &str, key: &Key, nonce: &str, way: &str) -> Option<T> {
    let sealed: Sealed = serde_json::from_str(text).ok()?;
    let want = key.code(nonce, way, &sealed.body);
    // All bytes are looked at, whichever differ.
    let same = want.len() == sealed.code.len() && want.bytes().zip(sealed.code.bytes()).fold(0, |d, (a, b)| d | (a ^ b)) == 0;
    if same { serde_json::from_str(&sealed.body).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn key(digit: char) -> Key {
        Key::parse(&digit.to_string().repeat(32)).unwrap()
    }

    fn serve_one(key: Key) -> (String, std::thread::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            answer(&stream, &key, |request| Reply::Refused { why: format!("{request:?}") })
        });
        (address, thread)
    }

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn asks_and_answers() {
        let (address, thread) = serve_one(key('a'));
        let request = Request::Promote { above: 7, by: "web1".into() };
        let reply = ask(&address, &key('a'), &request, SOON).unwrap();
        assert_eq!(reply, Reply::Refused { why: format!("{request:?}") });
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn without_the_key_nothing() {
        let (address, thread) = serve_one(key('a'));
        assert!(ask(&address, &key('b'), &Request::Report, SOON).is_err());
        assert_eq!(thread.join().unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        // A server that does not know it is not believed either.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || answer(&listener.accept().unwrap().0, &key('c'), |_| unreachable!()));
        assert!(ask(&address, &key('a'), &Request::Report, SOON).is_err());
    }

    #[test]
    fn a_recorded_request_is_of_no_use() {
        let k = key('a');
        let body = serde_json::to_string(&Request::StepDown { by: String::new() }).unwrap();
        let text = serde_json::to_string(&Sealed { code: k.code("one", "request", &body), body }).unwrap();
        assert!(open::<Request>(&text, &k, "one", "request").is_some());
        assert!(open::<Request>(&text, &k, "two", "request").is_none());
        assert!(open::<Request>(&text, &k, "one", "reply").is_none());
    }

    #[test]
    fn keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for (text, good) in [("0123456789abcdef0123456789ABCDEF\n", true), ("0123", false), ("", false), (&"x".repeat(32), false)]
        {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            assert_eq!(Key::read(&path).is_ok(), good, "{text:?}");
        }
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(Key::read(&path), Err(KeyError::File(_))));
    }
}
