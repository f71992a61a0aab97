//! Whether an NFS server answers: a NULL call (RFC 5531, RFC 8881 §16.1) over a TCP connection of our own, with a deadline for all
//! of it. Never through the mount, whose calls wait for minutes; never by ICMP, which a dead service answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use thiserror::Error;

/// NFS's program number, and its port.
const NFS: u32 = 100_003;
/// The usual port.
pub const PORT: u16 = 2049;
/// A reply to NULL is far shorter.
const MAX_REPLY_BYTES: u32 = 4096;

/// Why a server counts as not answering.
#[derive(Debug, Error)]
pub enum Miss {
    /// Its name.
    #[error("cannot find {host}: {source}")]
    Name {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// Connecting, sending, receiving; also too slow.
    #[error("no answer: {0}")]
    Io(#[from] io::Error),
    /// It answers something else.
    #[error("it answers, but not to NFS version {version}: {what}")]
    Reply {
        /// What was asked for.
        version: u32,
        /// What came.
        what: &'static str,
    },
}

/// Asks once. `version`: 3 or 4. Returns how long it took.
///
/// # Errors
/// See [`Miss`].
pub fn null_call(host: &str, port: u16, version: u32, deadline: Duration) -> Result<Duration, Miss> {
    let begun = Instant::now();
    let name = |source| Miss::Name { host: host.into(), source };
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(name)?.collect();
    let address = addresses.first().ok_or_else(|| name(io::Error::from(io::ErrorKind::NotFound)))?;
    let left = || deadline.checked_sub(begun.elapsed()).filter(|d| !d.is_zero()).ok_or(io::ErrorKind::TimedOut);
    let mut stream = TcpStream::connect_timeout(address, left().map_err(io::Error::from)?)?;
    let xid = fastrand::u32(..);
    // Fragment header (last, 40 bytes), xid, CALL, RPC 2, program, version, NULL, no credentials, no verifier.
    let words = [0x8000_0000 | 40, xid, 0, 2, NFS, version, 0, 0, 0, 0, 0];
    let call: Vec<u8> = words.iter().flat_map(|w: &u32| w.to_be_bytes()).collect();
    stream.set_write_timeout(Some(left().map_err(io::Error::from)?))?;
    stream.write_all(&call)?;
    let mut head = [0; 4];
    exactly(&mut stream, &mut head, &left)?;
    let len = u32::from_be_bytes(head) & 0x7fff_ffff;
    let wrong = |what| Miss::Reply { version, what };
    if !(24..=MAX_REPLY_BYTES).contains(&len) {
        return Err(wrong("the reply has a length that no reply has"));
    }
    let mut reply = vec![0; len as usize];
    exactly(&mut stream, &mut reply, &left)?;
    judge(&reply, xid).map_err(wrong)?;
    Ok(begun.elapsed())
}

/// Reads with what is left of the deadline; a server that sends a byte now and then gains nothing.
fn exactly(stream: &mut TcpStream, into: &mut [u8], left: &dyn Fn() -> Result<Duration, io::ErrorKind>) -> io::Result<()> {
    let mut at = 0;
    while at < into.len() {
        stream.set_read_timeout(Some(left().map_err(io::Error::from)?))?;
        match stream.read(&mut into[at..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn judge(reply: &[u8], xid: u32) -> Result<(), &'static str> {
    let mut words = reply.chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
    let mut next = || words.next().ok_or("the reply is cut off");
    if next()? != xid {
        return Err("the reply is to another call");
    }
    if next()? != 1 {
        return Err("it is no reply");
    }
    if next()? != 0 {
        return Err("the call is denied");
    }
    next()?; // verifier: flavour
    let verifier = next()?.div_ceil(4);
    for _ in 0..verifier {
        next()?;
    }
    match next()? {
        0 => Ok(()),
        1 => Err("there is no NFS on this port"),
        2 => Err("this version is not served"),
        _ => Err("the call is refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that answers one call with what `answer` makes of the xid.
    fn server(answer: impl FnOnce(u32) -> Vec<u8> + Send + 'static) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut call = [0; 44];
            stream.read_exact(&mut call).unwrap();
            assert_eq!(call[16..20], NFS.to_be_bytes());
            let xid = u32::from_be_bytes(call[4..8].try_into().unwrap());
            stream.write_all(&answer(xid)).unwrap();
            let _ = stream.read(&mut call);
        });
        port
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn answers() {
        for version in [3, 4] {
            let port = server(|xid| words(&[0x8000_0018, xid, 1, 0, 0, 0, 0]));
            assert!(null_call("127.0.0.1", port, version, SOON).is_ok());
        }
    }

    #[test]
    fn other_answers_are_misses() {
        type Answer = fn(u32) -> Vec<u8>;
        let cases: [(Answer, &str); 6] = [
            (|xid| words(&[0x8000_0020, xid, 1, 0, 0, 0, 2, 3, 4]), "this version is not served"),
            (|xid| words(&[0x8000_0018, xid, 1, 0, 0, 0, 1]), "no NFS on this port"),
            (|xid| words(&[0x8000_0018, xid ^ 1, 1, 0, 0, 0, 0]), "another call"),
            (|xid| words(&[0x8000_0018, xid, 1, 1, 0, 0, 0]), "denied"),
            (|_| words(&[0xffff_ffff]), "length"),
            (|_| b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "length"),
        ];
        for (answer, why) in cases {
            let error = null_call("127.0.0.1", server(answer), 3, SOON).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // connects by its backlog, and never answers
        let port = listener.local_addr().unwrap().port();
        let begun = Instant::now();
        assert!(null_call("127.0.0.1", port, 4, Duration::from_millis(200)).is_err());
        assert!(begun.elapsed() < SOON);
        drop(listener);
        assert!(matches!(null_call("127.0.0.1", port, 4, SOON), Err(Miss::Io(_))));
    }
}
