//! The control socket as the daemon serves it.
//!
//! The socket is mode 0600, so only its owner and root reach it. With `socket_group` it is 0660,
//! and the credentials of each client decide: who is neither root nor the daemon's user may read
//! the status and nothing else. The status changes nothing and reads nothing from the disk; each
//! other request does one of these with the daemon's rights. What they take of the daemon is
//! bounded (`guests`).
//!
//! What cannot be parsed is refused.

mod events;
mod explain;
mod guests;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};

use super::Wish;
use crate::budget::Bandwidth;
use crate::control::{Error, Flushed, Reply, Request, STATUS_TIMEOUT, Steer, Waiting};
use crate::engine::{Command, Engines, Handle};
use crate::socket::{self, BindError};
use crate::status::{self, Snapshot};
use crate::verify;
use guests::{Guests, Place};

/// What requests are served from.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) started: Instant,
    pub(super) engines: Engines,
    pub(super) wish: mpsc::Sender<Wish>,
}

/// The listening socket; its file is removed on drop.
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Others than the owner may connect.
    is_shared: bool,
}

impl Listener {
    /// Binds `path`, making its directory (mode 0755) if need be.
    ///
    /// # Errors
    /// [`Error::InUse`] when a daemon answers there, [`Error::Listen`] otherwise.
    pub(crate) fn bind(path: &Path) -> Result<Listener, Error> {
        let listener = socket::bind(path).map_err(|error| match error {
            BindError::InUse => Error::InUse { path: path.into() },
            BindError::Io(source) => Error::Listen { path: path.into(), source },
        })?;
        Ok(Listener { listener, path: path.into(), is_shared: false })
    }

    /// Lets members of `group` connect, to read the status.
    ///
    /// # Errors
    /// There is no such group, or the socket cannot be given to it (chown(2)); it stays its
    /// owner's.
    pub(crate) fn share_with(&mut self, group: &str) -> io::Result<()> {
        let found = nix::unistd::Group::from_name(group)?;
        let found = found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such group"))?;
        // Before anybody of the group can connect.
        self.is_shared = true;
        std::os::unix::fs::lchown(&self.path, None, Some(found.gid.as_raw()))?;
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o660))
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Serves requests for ever, each on a thread of its own.
    pub(super) fn serve(self, served: Served) {
        let listener = match self.listener.try_clone() {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the control socket is not served"),
        };
        let is_shared = self.is_shared;
        let guests = Guests::default();
        let greet = move |stream: &UnixStream| match guest(stream).filter(|_| is_shared) {
            None => Some(Who::Owner),
            Some(user) => guests.enter(user).map(|place| Who::Guest(guests.clone(), place)),
        };
        let serves = socket::serve(listener, greet, move |stream, who| answer(stream, &served, &who));
        serves.unwrap_or_else(|error| tracing::error!(%error, "the control socket is not served"));
        // The file outlives this value: `remove` ends it.
        std::mem::forget(self);
    }

    /// Removes the socket's file.
    pub(crate) fn remove(path: &Path) {
        let _ = std::fs::remove_file(path);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        Listener::remove(&self.path);
    }
}

/// The client.
enum Who {
    /// Root, or the user that this runs as.
    Owner,
    /// A member of `socket_group`, who may read the status.
    Guest(Guests, #[expect(dead_code, reason = "held until the connection ends")] Place),
}

/// The user at the other side, unless that is root or the one that this runs as.
fn guest(stream: &UnixStream) -> Option<u32> {
    let peer = nix::sys::socket::getsockopt(&stream.as_fd(), nix::sys::socket::sockopt::PeerCredentials);
    let user = peer.map_or(u32::MAX, |peer| peer.uid());
    (user != 0 && user != nix::unistd::geteuid().as_raw()).then_some(user)
}

fn answer(stream: UnixStream, from: &Served, who: &Who) {
    let Some(line) = socket::request(&stream) else { return };
    let text = |reply: Reply| socket::json_line(&reply);
    let served = |request| serve_request(request, from, &stream).map(text);
    let answer: Option<Arc<str>> = match (serde_json::from_slice::<Request>(&line), who) {
        (Err(e), _) => Some(text(Reply::Error { message: format!("not a request: {e}") }).into()),
        (Ok(request), Who::Owner) => served(request).map(Into::into),
        (Ok(request), Who::Guest(guests, _)) if request.only_reads() => {
            Some(guests.answer(|| served(request).unwrap_or_default()))
        }
        (Ok(_), Who::Guest(..)) => {
            let message = "the group of the socket (socket_group) may read the status and do nothing else; run the command as root, \
                           or as the user of the daemon";
            Some(text(Reply::Denied { message: message.into() }).into())
        }
    };
    if let Some(answer) = answer {
        let _ = (&stream).write_all(answer.as_bytes());
    }
}

/// The answer, if it is not given already.
fn serve_request(request: Request, from: &Served, client: &UnixStream) -> Option<Reply> {
    let Served { started, engines, wish } = from;
    let all = engines.all();
    Some(match request {
        Request::Status => match snapshot(*started, engines, STATUS_TIMEOUT) {
            Ok(snapshot) => Reply::Status(Box::new(snapshot)),
            Err(message) => Reply::Error { message },
        },
        Request::Followers => match snapshot(*started, engines, STATUS_TIMEOUT) {
            Ok(mut snapshot) => {
                let targets = snapshot.mirrors.iter_mut().flat_map(|mirror| &mut mirror.targets);
                targets.filter_map(|target| target.feed.as_mut()).for_each(status::Feed::list_all);
                Reply::Status(Box::new(snapshot))
            }
            Err(message) => Reply::Error { message },
        },
        Request::Flush { mirror, target, timeout_ms } => flush(&all, mirror.as_deref(), target.as_deref(), timeout_ms),
        Request::Verify { mirror, target, options } => match choose(&all, mirror.as_deref(), target.as_deref()) {
            Ok(chosen) if chosen.iter().all(|e| e.targets.is_empty()) => {
                Reply::Error { message: "there is no target to compare, only hooks".into() }
            }
            Ok(chosen) => Reply::Verify { reports: verify::answer(client, &chosen, target.as_deref(), options) },
            Err(reply) => reply,
        },
        Request::Events { mirror } => match choose(&all, mirror.as_deref(), None) {
            Ok(chosen) => {
                let _ = events::serve(client, &chosen); // whatever ends it, the client no longer listens
                return None;
            }
            Err(reply) => reply,
        },
        Request::Explain { paths } => explain::answer(&all, &paths),
        Request::Reload => reload(wish),
        Request::Steer { what, mirror, target } => steer(&all, what, mirror.as_deref(), target.as_deref()),
    })
}

/// Asks every engine how it is. `patience`: for all answers together.
///
/// # Errors
/// In words, which engine does not answer.
pub(crate) fn snapshot(started: Instant, engines: &Engines, patience: Duration) -> Result<Snapshot, String> {
    let deadline = Instant::now() + patience;
    let all = engines.all();
    let requests: Vec<(&Handle, Receiver<status::Mirror>)> = all
        .iter()
        .map(|e| {
            let (tx, rx) = bounded(1);
            e.send(Command::Status(tx));
            (e, rx)
        })
        .collect();
    let mut mirrors = Vec::new();
    for (engine, rx) in requests {
        let moved = engine.moved.get();
        match rx.recv_deadline(deadline) {
            Ok(m) => mirrors.push(engine.last.keep(status::Mirror { moved, ..m })),
            // What it was when it answered last: one that hangs hides no other.
            Err(_) => match engine.last.get() {
                Some(m) => mirrors.push(status::Mirror { moved, ..m }),
                None => return Err(format!("the engine of mirror {} does not answer", engine.mirror)),
            },
        }
    }
    Ok(Snapshot {
        host: nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        capabilities: crate::sys::caps::Caps::effective().map(|caps| caps.names()).unwrap_or_default(),
        uptime_seconds: started.elapsed().as_secs_f64(),
        config_error: engines.trouble(),
        log_lost: crate::log::lost(),
        bwlimit: engines.budget().bandwidth().map(bwlimit),
        mirrors,
        ..Snapshot::default()
    }
    .judged())
}

fn bwlimit(of: Bandwidth) -> status::Bwlimit {
    let bytes = |kib: u64| kib * 1024;
    status::Bwlimit {
        bytes_per_second: of.all.map(bytes),
        given_bytes_per_second: bytes(of.given),
        until: of.next.map(|(time, _)| time.to_string()).unwrap_or_default(),
        then_bytes_per_second: of.next.and_then(|(_, rate)| rate).map(bytes),
    }
}

/// The engines that have what was requested.
fn choose<'e>(engines: &'e [Handle], mirror: Option<&str>, target: Option<&str>) -> Result<Vec<&'e Handle>, Reply> {
    let has = |e: &&Handle| mirror.is_none_or(|m| m == e.mirror) && target.is_none_or(|t| e.targets.iter().any(|x| x == t));
    let chosen: Vec<&Handle> = engines.iter().filter(has).collect();
    if chosen.is_empty() {
        let known: Vec<String> = engines.iter().flat_map(|e| e.targets.iter().map(|t| format!("{}/{t}", e.mirror))).collect();
        let wanted = format!("{}/{}", mirror.unwrap_or("*"), target.unwrap_or("*"));
        return Err(Reply::Error { message: format!("no target {wanted}; there are: {}", known.join(", ")) });
    }
    Ok(chosen)
}

fn reload(wish: &mpsc::Sender<Wish>) -> Reply {
    let (reply, rx) = bounded(1);
    let _ = wish.send(Wish::Reload(Some(reply)));
    match rx.recv() {
        Ok(reloaded) => Reply::Reload(reloaded),
        Err(_) => Reply::Error { message: "fansync ended meanwhile".into() },
    }
}

fn steer(engines: &[Handle], what: Steer, mirror: Option<&str>, target: Option<&str>) -> Reply {
    let chosen = match choose(engines, mirror, target) {
        Ok(chosen) => chosen,
        Err(reply) => return reply,
    };
    let mut targets = Vec::new();
    for engine in chosen {
        let (reply, rx) = bounded(1);
        engine.send(Command::Steer { what, target: target.map(Into::into), reply });
        match rx.recv_timeout(STATUS_TIMEOUT) {
            Ok(steered) => targets.extend(steered),
            Err(_) => {
                return Reply::Error { message: format!("the engine of mirror {} ended or does not answer", engine.mirror) };
            }
        }
    }
    Reply::Steer { targets }
}

fn flush(engines: &[Handle], mirror: Option<&str>, target: Option<&str>, timeout_ms: u64) -> Reply {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms.min(u64::from(u32::MAX)));
    let chosen = match choose(engines, mirror, target) {
        Ok(chosen) => chosen,
        Err(reply) => return reply,
    };
    let requests: Vec<(&Handle, Receiver<Vec<Waiting>>)> = chosen
        .into_iter()
        .map(|e| {
            let (reply, rx) = bounded(1);
            e.send(Command::Flush { target: target.map(Into::into), deadline, reply });
            (e, rx)
        })
        .collect();
    let mut flushed = Flushed::default();
    for (engine, rx) in requests {
        // The engine answers at the deadline by itself; the grace only covers one that is stuck.
        let grace = deadline.saturating_duration_since(Instant::now()) + STATUS_TIMEOUT;
        match rx.recv_timeout(grace) {
            Ok(waiting) => flushed.waiting.extend(waiting),
            Err(_) => {
                return Reply::Error { message: format!("the engine of mirror {} ended or does not answer", engine.mirror) };
            }
        }
    }
    Reply::Flush(flushed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ask;
    use crate::status::verify::Options;
    use std::io::Read;
    use std::io::{BufRead, BufReader};
    use std::time::Duration;

    #[test]
    fn a_socket_that_a_killed_daemon_left_with_another_process_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let left = crate::sys::apart::left_listening(&path);
        assert!(UnixStream::connect(&path).is_ok(), "something accepts");
        let listener = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(Error::InUse { .. })), "this one is alive");
        drop((listener, left));
    }

    fn nothing() -> Served {
        Served { started: Instant::now(), engines: Engines::default(), wish: mpsc::channel().0 }
    }

    fn listener() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/x.sock");
        Listener::bind(&path).unwrap().serve(nothing());
        (dir, path)
    }

    #[test]
    fn talks_refuses_and_keeps_others_out() {
        let (_dir, path) = listener();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let ask = |r| ask(&path, &r, Duration::from_secs(1)).unwrap();
        assert!(matches!(ask(Request::Status), Reply::Status(s) if s.mirrors.is_empty()));
        let flush = Request::Flush { mirror: Some("m".into()), target: None, timeout_ms: 1 };
        assert!(matches!(ask(flush), Reply::Error { message } if message.contains("no target m/*")));
        for junk in ["\n", "{}\n", "[[[[\n"] {
            let mut s = UnixStream::connect(&path).unwrap();
            s.write_all(junk.as_bytes()).unwrap();
            let mut answer = String::new();
            s.read_to_string(&mut answer).unwrap();
            assert!(answer.contains("not a request"), "{junk:?}: {answer}");
        }
        assert!(matches!(Listener::bind(&path), Err(Error::InUse { .. })));
    }

    #[test]
    fn the_group_reads_the_status_and_nothing_else() {
        let verify = Request::Verify { mirror: None, target: None, options: Options::default() };
        let steer = Request::Steer { what: Steer::Pause, mirror: None, target: None };
        let flush = Request::Flush { mirror: None, target: None, timeout_ms: 1 };
        let events = Request::Events { mirror: None };
        for request in [verify, steer, flush, events, Request::Reload, Request::Explain { paths: Vec::new() }, Request::Status] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            assert_eq!(guest(&theirs), None, "a process is its own owner");
            (&ours).write_all(format!("{}\n", serde_json::to_string(&request).unwrap()).as_bytes()).unwrap();
            let guests = Guests::default();
            let place = guests.enter(1).unwrap();
            answer(theirs, &nothing(), &Who::Guest(guests, place));
            let mut text = String::new();
            BufReader::new(&ours).read_line(&mut text).unwrap();
            let reply = serde_json::from_str(&text).unwrap();
            let status = request == Request::Status;
            assert!(matches!(reply, Reply::Denied { .. }) != status && matches!(reply, Reply::Status(_)) == status, "{text}");
        }
    }

    #[test]
    fn a_socket_is_given_to_a_group_that_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut l = Listener::bind(&dir.path().join("x.sock")).unwrap();
        assert_eq!(l.share_with("no-such-group").unwrap_err().kind(), io::ErrorKind::NotFound);
        let mode = |l: &Listener| std::fs::metadata(l.path()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&l), 0o600);
        let own = nix::unistd::Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
        l.share_with(&own.name).unwrap();
        assert_eq!(mode(&l), 0o660);
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let l = Listener::bind(&path).unwrap();
        assert_eq!(l.path(), path);
        drop(l);
        assert!(!path.exists());
        assert!(matches!(ask(&path, &Request::Status, Duration::ZERO), Err(Error::Connect { .. })));
    }
}
