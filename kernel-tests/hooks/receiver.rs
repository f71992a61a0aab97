//! A receiver: a TCP port that keeps what each connection brings, and answers as a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::fixture::WAIT;
use crate::fixture::proc::poll_until;

/// What came in, one piece after the other.
#[derive(Clone, Default)]
pub struct Inbox(Arc<Mutex<Vec<Vec<u8>>>>);

impl Inbox {
    pub fn put(&self, piece: Vec<u8>) -> usize {
        let mut all = self.0.lock().expect("no holder panics");
        all.push(piece);
        all.len()
    }

    pub fn all(&self) -> Vec<Vec<u8>> {
        self.0.lock().expect("no holder panics").clone()
    }

    /// Waits for `count` pieces.
    #[track_caller]
    pub fn wait(&self, count: usize) -> Vec<Vec<u8>> {
        let there = poll_until(WAIT, || Some(self.all()).filter(|all| all.len() >= count));
        there.unwrap_or_else(|| panic!("only {} of {count} pieces came: {:?}", self.all().len(), self.all()))
    }
}

/// A port without a listener.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be listened on");
    listener.local_addr().expect("it has an address")
}

/// Serves each connection to `address` by `serve`, until the process ends.
pub fn listen(address: SocketAddr, serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("the port is free");
    let address = listener.local_addr().expect("it has an address");
    std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
    address
}

/// On any port.
pub fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Keeps all that each connection brings.
pub fn keep(inbox: &Inbox) -> impl Fn(TcpStream) + Send + 'static {
    let inbox = inbox.clone();
    move |mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        inbox.put(all);
    }
}

/// Keeps each line, and answers it where `answer` is not empty.
pub fn lines<S: Read + Write>(stream: S, inbox: &Inbox, answer: &[u8]) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
        inbox.put(std::mem::take(&mut line));
        if stream.get_mut().write_all(answer).is_err() {
            return;
        }
    }
}

/// Reads one HTTP request: head, body.
pub fn request<S: Read>(stream: &mut S) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("a head is text");
    let length = header(&head, "content-length").map_or(0, |v| v.parse().expect("a length is a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// A header's value.
pub fn header(head: &str, name: &str) -> Option<String> {
    let of = |line: &str| line.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()));
    head.lines().filter_map(of).find(|(n, _)| n == name).map(|(_, v)| v)
}

/// An HTTP service: keeps heads and bodies, and answers the n-th request (from 0) with `answer(n)`,
/// a status line and more headers.
pub fn web(answer: impl Fn(usize) -> String + Send + 'static) -> (SocketAddr, Web) {
    let web = Web::default();
    let kept = web.clone();
    let address = listen(anywhere(), move |mut stream| kept.serve(&mut stream, &answer));
    (address, web)
}

/// What an HTTP service got.
#[derive(Clone, Default)]
pub struct Web {
    pub heads: Inbox,
    pub bodies: Inbox,
}

impl Web {
    /// One request of a connection.
    pub fn serve<S: Read + Write>(&self, stream: &mut S, answer: &impl Fn(usize) -> String) {
        let Some((head, body)) = request(stream) else { return };
        self.heads.put(head.into_bytes());
        let count = self.bodies.put(body);
        let answer = format!("HTTP/1.1 {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", answer(count - 1));
        let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.flush());
    }
}
