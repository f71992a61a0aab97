//! Whether an NFS server answers: a NULL call (RFC 5531, RFC 8881 §16.1) over a TCP connection of
//! our own, with a deadline for all of it. Never through the mount, whose calls wait for minutes;
//! never by ICMP, which a dead service answers.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::front::{Front, Lost};

/// NFS's program number, and its port.
const NFS: u32 = 100_003;
/// The usual port.
pub(crate) const PORT: u16 = 2049;
/// A reply to NULL is far shorter.
const MAX_REPLY_BYTES: u32 = 4096;

/// Why a server counts as not answering.
#[derive(Debug, Error)]
pub(crate) enum Miss {
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
        /// What was requested.
        version: u32,
        /// What came.
        what: Wrong,
    },
    /// It was not queried: this host's front process is away. This is no answer of the server.
    #[error("it was not queried: {0}")]
    NotAsked(Lost),
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Wrong {
    /// No reply has such a length.
    Length = 1,
    /// It ends before its fields do.
    CutOff,
    /// It is to another call.
    OtherCall,
    /// It is no reply.
    NoReply,
    /// The call is denied.
    Denied,
    /// No such program.
    NoNfs,
    /// No such version.
    Version,
    /// Another refusal.
    Refused,
}

impl Wrong {
    /// The one of this number.
    pub fn from_number(number: u8) -> Option<Wrong> {
        use Wrong::*;
        [Length, CutOff, OtherCall, NoReply, Denied, NoNfs, Version, Refused].into_iter().find(|w| *w as u8 == number)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wrong::Length => "the reply has a length that no reply has",
            Wrong::CutOff => "the reply is cut off",
            Wrong::OtherCall => "the reply is to another call",
            Wrong::NoReply => "it is no reply",
            Wrong::Denied => "the call is denied",
            Wrong::NoNfs => "there is no NFS on this port",
            Wrong::Version => "this version is not served",
            Wrong::Refused => "the call is refused",
        })
    }
}

/// Asks once, through the front process. `version`: 3 or 4. Returns how long it took.
///
/// # Errors
/// See [`Miss`].
pub(crate) fn null_call(front: &Front, host: &str, port: u16, version: u32, deadline: Duration) -> Result<Duration, Miss> {
    let begun = Instant::now();
    let name = |source| Miss::Name { host: host.into(), source };
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(name)?.collect();
    let address = addresses.first().ok_or_else(|| name(io::Error::from(io::ErrorKind::NotFound)))?;
    let left = deadline.checked_sub(begun.elapsed()).filter(|d| !d.is_zero()).ok_or(io::ErrorKind::TimedOut);
    let stream = TcpStream::connect_timeout(address, left.map_err(io::Error::from)?)?;
    match front.null(stream, version, fastrand::u32(..), begun + deadline) {
        Ok(None) => Ok(begun.elapsed()),
        Ok(Some(what)) => Err(Miss::Reply { version, what }),
        Err(Lost::Connection(e)) => Err(Miss::Io(e)),
        Err(lost) => Err(Miss::NotAsked(lost)),
    }
}

/// The call: a fragment header (last, 40 bytes), xid, CALL, RPC 2, program, version, NULL, no
/// credentials, no verifier.
pub(super) fn null(xid: u32, version: u32) -> Vec<u8> {
    let words = [0x8000_0000 | 40, xid, 0, 2, NFS, version, 0, 0, 0, 0, 0];
    words.iter().flat_map(|w: &u32| w.to_be_bytes()).collect()
}

/// How much follows the first word of a reply, if that can be.
pub fn reply_length(head: [u8; 4]) -> Option<usize> {
    let len = u32::from_be_bytes(head) & 0x7fff_ffff;
    (24..=MAX_REPLY_BYTES).contains(&len).then_some(len as usize)
}

/// Whether a reply says that the call was carried out.
///
/// # Errors
/// What is wrong with it.
pub fn judge(reply: &[u8], xid: u32) -> Result<(), Wrong> {
    let mut words = reply.chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
    let mut next = || words.next().ok_or(Wrong::CutOff);
    if next()? != xid {
        return Err(Wrong::OtherCall);
    }
    if next()? != 1 {
        return Err(Wrong::NoReply);
    }
    if next()? != 0 {
        return Err(Wrong::Denied);
    }
    next()?; // verifier: flavour
    let verifier = next()?.div_ceil(4);
    for _ in 0..verifier {
        next()?;
    }
    match next()? {
        0 => Ok(()),
        1 => Err(Wrong::NoNfs),
        2 => Err(Wrong::Version),
        _ => Err(Wrong::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
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

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn answers() {
        for version in [3, 4] {
            let port = server(|xid| words(&[0x8000_0018, xid, 1, 0, 0, 0, 0]));
            assert!(null_call(&Front::of_a_thread(), "127.0.0.1", port, version, SOON).is_ok());
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
            let error = null_call(&Front::of_a_thread(), "127.0.0.1", server(answer), 3, SOON).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap(); // connects by its backlog, and never answers
        let port = listener.local_addr().unwrap().port();
        let begun = Instant::now();
        let late = null_call(&Front::of_a_thread(), "127.0.0.1", port, 4, Duration::from_millis(200)).unwrap_err();
        assert!(matches!(&late, Miss::Io(e) if e.kind() == io::ErrorKind::TimedOut), "{late}");
        assert!(begun.elapsed() < SOON);
        drop(listener);
        assert!(matches!(null_call(&Front::of_a_thread(), "127.0.0.1", port, 4, SOON), Err(Miss::Io(_))));
    }

    #[test]
    fn wrongs_have_numbers() {
        for number in 0..=u8::MAX {
            let wrong = Wrong::from_number(number);
            assert_eq!(wrong.map(|w| w as u8), (1..=8).contains(&number).then_some(number));
        }
    }
}
