//! The Unix socket of a daemon: its owner's alone, a line each way, a thread for each client.
//!
//! A socket file left by a dead daemon is replaced, one of a living daemon is not. A request is
//! bounded in length and time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind as bind_to, getsockopt, listen, recv, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use serde::Serialize;

/// The longest request, in bytes.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than another start takes to listen.
const ALONE: Duration = Duration::from_secs(2);
/// After a connection that could not be accepted.
const AGAIN: Duration = Duration::from_millis(50);

/// Why a socket is not there to listen on.
pub(crate) enum BindError {
    /// Another daemon answers there.
    InUse,
    /// Anything else.
    Io(io::Error),
}

impl From<io::Error> for BindError {
    fn from(error: io::Error) -> BindError {
        BindError::Io(error)
    }
}

/// Listens at `path`, for this user alone; makes its directory (mode 0755) if need be.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, BindError> {
    if let Some(dir) = path.parent() {
        // Below, names in it are removed and given a mode.
        crate::trust::make_directory(dir, 0o755).map_err(io::Error::from)?;
    }
    // Between bind(2) and listen(2) the socket of another start looks like one that was left.
    let _alone = path.parent().and_then(alone);
    match UnixStream::connect(path) {
        Ok(stream) if !is_left(&stream) => return Err(BindError::InUse),
        Ok(_) => std::fs::remove_file(path)?,
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    Ok(private(path)?)
}

/// The lock of those who listen in `dir`. Anybody who may read the directory can hold it, so it is
/// waited for at most [`ALONE`].
fn alone(dir: &Path) -> Option<Flock<File>> {
    let until = Instant::now() + ALONE;
    let mut dir = File::open(dir).ok()?;
    loop {
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((_, errno)) if errno != Errno::EWOULDBLOCK || Instant::now() > until => return None,
            Err((again, _)) => dir = again,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The file has its mode from the descriptor's at bind(2), so that others cannot connect for a
/// moment either.
fn private(path: &Path) -> io::Result<UnixListener> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind_to(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(socket.into())
}

/// Whether who listens has ended. A process that it was about to start when it was killed may still
/// hold the socket for a moment.
fn is_left(stream: &UnixStream) -> bool {
    // unix(7): of the process that called listen(2). 0: of another PID namespace.
    let peer = getsockopt(stream, sockopt::PeerCredentials);
    peer.is_ok_and(|peer| peer.pid() > 0 && crate::sys::child::has_ended(peer.pid() as u32))
}

/// Hands each connection to `answer`, for ever, on a thread of its own; `greet` comes first, on the
/// thread that accepts, and may refuse it.
pub(crate) fn serve<G: Send + 'static>(
    listener: UnixListener,
    mut greet: impl FnMut(&UnixStream) -> Option<G> + Send + 'static,
    answer: impl Fn(UnixStream, G) + Clone + Send + 'static,
) -> io::Result<()> {
    let accept = move || {
        each(listener.incoming(), |stream| {
            let Some(guest) = greet(&stream) else { return };
            let answer = answer.clone();
            let _ = std::thread::Builder::new().name("fansync-request".into()).spawn(move || answer(stream, guest));
        });
    };
    std::thread::Builder::new().name("fansync-control".into()).spawn(accept).map(drop)
}

/// The client's request; `None` where it left without one, was too slow, or sent too much. What is
/// read and written from then on has [`REQUEST_TIMEOUT`] for each step.
pub(crate) fn request(stream: &UnixStream) -> Option<Vec<u8>> {
    let line = line(stream, Instant::now() + REQUEST_TIMEOUT).ok().filter(|line| !line.is_empty())?;
    let _ = stream.set_read_timeout(Some(REQUEST_TIMEOUT));
    let _ = stream.set_write_timeout(Some(REQUEST_TIMEOUT));
    Some(line)
}

/// A line, however slowly it comes, until the deadline; empty where the client left without one.
fn line(stream: &UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let (mut line, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
        match (&*stream).read(&mut piece) {
            Ok(0) => return Ok(line),
            Ok(n) => line.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        if let Some(end) = line.iter().position(|&b| b == b'\n') {
            line.truncate(end + 1);
            return Ok(line);
        }
        if line.len() > MAX_REQUEST_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Whether the other end of a connection is closed. Nothing is taken from it.
pub(crate) fn has_hung_up(client: &UnixStream) -> bool {
    let mut byte = [0];
    matches!(recv(client.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT), Ok(0))
}

/// `what` as a line of JSON.
pub(crate) fn json_line(what: &impl Serialize) -> String {
    let mut line = serde_json::to_string(what).unwrap_or_default();
    line.push('\n');
    line
}

/// Sends `what` as a line of JSON.
pub(crate) fn say(mut stream: &UnixStream, what: &impl Serialize) -> io::Result<()> {
    stream.write_all(json_line(what).as_bytes())
}

/// Pauses after a connection that could not be accepted: descriptors are used up, most likely, and
/// trying again at once would only take the CPU.
fn each<C>(incoming: impl Iterator<Item = io::Result<C>>, begin: impl FnMut(C)) {
    each_pausing(incoming, begin, || std::thread::sleep(AGAIN));
}

fn each_pausing<C>(incoming: impl Iterator<Item = io::Result<C>>, mut begin: impl FnMut(C), mut pause: impl FnMut()) {
    for connection in incoming {
        match connection {
            Ok(connection) => begin(connection),
            Err(error) => {
                tracing::debug!(%error, "a connection cannot be accepted");
                pause();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn each_connection_that_cannot_be_accepted_costs_a_pause() {
        let (attempts, pauses) = (Cell::new(0), Cell::new(0));
        let script = [true, false, false, false, true, false, true].into_iter();
        let mut failed = 0;
        let incoming = script.map(|accepted| {
            assert_eq!(pauses.get(), failed, "tried again without a pause");
            attempts.set(attempts.get() + 1);
            if accepted {
                return Ok(attempts.get());
            }
            failed += 1;
            Err(io::Error::from_raw_os_error(nix::libc::EMFILE))
        });
        let mut begun = Vec::new();
        each_pausing(incoming, |number| begun.push(number), || pauses.set(pauses.get() + 1));
        assert_eq!((begun, attempts.get(), pauses.get()), (vec![1, 5, 7], 7, 4));
    }

    /// Another start has its file, and does not listen yet: it is waited for, not taken for dead.
    #[test]
    fn a_start_waits_for_another_that_is_about_to_listen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let lock = alone(dir.path()).expect("no other process has it");
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind_to(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        std::thread::scope(|scope| {
            let late = scope.spawn(|| bind(&path));
            // One that does not wait ends here, and is found out below.
            let until = Instant::now() + Duration::from_millis(200);
            while !late.is_finished() && Instant::now() < until {
                std::thread::yield_now();
            }
            listen(&socket, Backlog::MAXALLOWABLE).unwrap();
            drop(lock);
            assert!(matches!(late.join().unwrap(), Err(BindError::InUse)));
        });
    }

    /// The lock is a courtesy: any user who may read the directory can keep it.
    #[test]
    fn a_lock_that_is_never_given_back_keeps_no_daemon_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let _kept = alone(dir.path()).expect("no other process has it");
        assert!(bind(&dir.path().join("s")).is_ok());
    }

    #[test]
    fn a_request_that_drips_in_has_one_deadline() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let drips = std::thread::spawn(move || {
            // Until the other side gives up.
            while (&ours).write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let read = line(&theirs, Instant::now() + Duration::from_millis(50));
        assert!(read.is_err(), "{read:?}");
        drop(theirs);
        drips.join().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(b"{}\nmore").unwrap();
        assert_eq!(line(&theirs, Instant::now() + Duration::from_secs(60)).unwrap(), b"{}\n");
        drop(ours);
        assert_eq!(line(&theirs, Instant::now() + Duration::from_secs(60)).unwrap(), b"", "it has left");
    }
}
