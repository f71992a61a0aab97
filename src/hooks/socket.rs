//! `kind = "socket"`: a line of JSON for each change over a connection that stays, or a bare path
//! over one of its own.
//!
//! A line counts as delivered when the kernel took it, unless `acknowledge` makes the receiver
//! answer each with a line: what is written to a receiver that dies before it reads is lost
//! otherwise, without a trace.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::message;
use super::queue::{Event, Fault};
use super::worker::{Deliver, Place};
use crate::config::hook::{Address, Hook as Config, Socket, SocketForm};

/// The longest answer to a line, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

pub(super) struct Sender {
    socket: Socket,
    config: Arc<Config>,
    place: Place,
    open: Option<BufReader<Stream>>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Sender {
    pub(super) fn new(socket: &Socket, config: &Arc<Config>, place: &Place) -> Sender {
        Sender { socket: socket.clone(), config: Arc::clone(config), place: place.clone(), open: None }
    }

    fn connect(&self) -> io::Result<Stream> {
        let timeout = self.config.timeout;
        let stream = match &self.socket.address {
            Address::Tcp(address) => Stream::Tcp(connect(address, timeout)?),
            // Does not wait: a full backlog is an error at once for a stream that does not block,
            // and a bounded wait otherwise.
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        stream.limit(timeout)?;
        Ok(stream)
    }

    fn json(&mut self, events: &[Event]) -> io::Result<()> {
        // Taken out: whatever fails, the connection is not used again.
        let mut kept = self.open.take();
        if let Some(stream) = &mut kept
            && !stream.get_mut().lives()?
        {
            kept = None;
        }
        let mut stream = match kept {
            Some(stream) => stream,
            None => BufReader::new(self.connect()?),
        };
        let mut text = Vec::new();
        for event in events {
            let mut line = message::envelope(&self.place, &self.config.name);
            message::add(&mut line, event);
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        stream.get_mut().write_all(&text)?;
        if self.socket.acknowledge {
            let mut answer = Vec::new();
            for _ in events {
                answer.clear();
                (&mut stream).take(MAX_ANSWER_BYTES).read_until(b'\n', &mut answer)?;
                if answer.last() != Some(&b'\n') {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the receiver closed before it acknowledged"));
                }
            }
        }
        self.open = Some(stream);
        Ok(())
    }

    fn path(&self, event: &Event) -> io::Result<()> {
        let mut stream = self.connect()?;
        stream.write_all(&message::absolute(&self.place, event))?;
        stream.end()
    }
}

impl Deliver for Sender {
    fn deliver(&mut self, events: &[Event]) -> Result<(), Fault> {
        let result = match self.socket.form {
            SocketForm::Json => self.json(events),
            SocketForm::Path => events.iter().try_for_each(|event| self.path(event)),
        };
        result.map_err(|e| {
            let who = match &self.socket.address {
                Address::Tcp(address) => address.clone(),
                Address::Unix(path) => path.display().to_string(),
            };
            Fault::Receiver { reason: format!("{who}: {e}"), after: None }
        })
    }
}

/// Connects to `host:port`, trying each of its addresses.
pub(super) fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

impl Stream {
    fn limit(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_nodelay(true).and(s.set_read_timeout(Some(timeout))).and(s.set_write_timeout(Some(timeout))),
            Stream::Unix(s) => s.set_read_timeout(Some(timeout)).and(s.set_write_timeout(Some(timeout))),
        }
    }

    fn nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_nonblocking(on),
            Stream::Unix(s) => s.set_nonblocking(on),
        }
    }

    fn end(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.shutdown(Shutdown::Write),
            Stream::Unix(s) => s.shutdown(Shutdown::Write),
        }
    }

    /// Whether the other side has not closed. What it says without being asked is passed over.
    fn lives(&mut self) -> io::Result<bool> {
        self.nonblocking(true)?;
        let mut buffer = [0; 512];
        let lives = loop {
            match self.read(&mut buffer) {
                Ok(0) => break false,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break false,
            }
        };
        self.nonblocking(false)?;
        Ok(lives)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.read(buffer),
            Stream::Unix(s) => s.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.write(bytes),
            Stream::Unix(s) => s.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
