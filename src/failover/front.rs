//! The front process: all that strangers send to failover's port, and all that servers answer, is
//! read by a process without rights ([`process`], [`sandbox`]). What it hands on are messages of
//! fixed length ([`message`]).
//!
//! Promises: the daemon, which is root, reads of a stranger's message the fixed places of its
//! numbers alone before it has found the code right; the key, the numbers for each connection, and
//! every decision are the daemon's. A front process under an attacker's control can be silent, and
//! can say that NFS answers or does not; it can make no message with a right code, nor use one
//! twice. One that ends, stops answering or says what it cannot know is killed and started again.
//!
//! What was under way then is [`Lost::Away`], and counts neither as an answer nor as a missing one:
//! it says something of this host, not of the other.

pub mod message;
pub(crate) mod process;
pub(crate) mod restart;
pub mod sandbox;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::probe::Wrong;
use super::server::locked;
use super::wire::code::Key;
use super::wire::frame::{self, GREETING, REPLY, REQUEST};
use super::wire::{self, Id, Reply, Request};
use crate::sys::packets::{Came, Packets};
use message::{CAME_IN, News, Order, PACKET};
use restart::pause;
use sandbox::{Identity, Step};

/// How long a front process may take to give up its rights.
const START: Duration = Duration::from_secs(10);
/// How long it may take to take an order.
const PATIENCE: Duration = Duration::from_secs(1);
/// A process that has sent nothing for so long gets a ping, ...
const QUIET: Duration = Duration::from_secs(1);
/// ... and killed when it does not answer within this.
const ANSWERS: Duration = Duration::from_secs(3);
/// After a deadline, how long it may take to report that the other side missed it.
const REPORT: Duration = Duration::from_millis(300);
/// Connections that came in and have sent no request yet, at most: more than it has places for.
const MOST_OPEN: usize = 256;
/// Requests that are carried out at the same time, at most.
const MOST_SERVED: usize = 192;

/// How a front process is started.
#[derive(Debug, Clone)]
pub struct Config {
    /// This program.
    pub exe: PathBuf,
    /// Whom it becomes; `None`: it keeps its rights.
    pub confine: Option<Identity>,
    /// Where an empty directory can be made for it, and removed.
    pub dir: PathBuf,
}

/// Why it cannot be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// It could not give up its rights.
    #[error("the process that reads from the network cannot {step}: {source}")]
    Confine {
        /// What.
        step: Step,
        /// Why.
        source: io::Error,
    },
    /// The rest.
    #[error("cannot {what} the process that reads from the network: {source}")]
    Io {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Why nothing came.
#[derive(Debug, Error)]
pub enum Lost {
    /// The connection.
    #[error("{0}")]
    Connection(io::Error),
    /// The front process: it has ended or does not answer.
    #[error("the process that reads from the network is away")]
    Away,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    /// Its process id; 0 while there is none.
    pub(crate) pid: u32,
    /// It has no rights.
    pub(crate) confined: bool,
    /// How often it was started again.
    pub(crate) restarts: u64,
    /// Why the last one ended, or could not be started.
    pub(crate) reason: String,
}

/// What requests are answered with.
pub(crate) type Serve = dyn Fn(Request) -> Reply + Send + Sync;

/// For connections that come in.
struct Service {
    listener: TcpListener,
    key: Key,
    id: Id,
    serve: Arc<Serve>,
}

/// The way to one front process.
#[derive(Debug)]
struct Link {
    packets: Packets,
    /// `None` in tests, where it is a thread.
    child: Mutex<Option<Child>>,
    pid: u32,
}

impl Link {
    fn send(&self, order: &Order, fd: Option<BorrowedFd<'_>>) -> bool {
        let sent = self.packets.send(&order.encode(), fd);
        if sent.is_err() {
            // The thread that reads from it finds the end, and starts another.
            self.packets.end();
        }
        sent.is_ok()
    }

    /// Kills it; how it had ended.
    fn end(&self) -> String {
        self.packets.end();
        let Some(mut child) = locked(&self.child).take() else { return "ended".into() };
        // It ends by itself when its socket is closed, unless it is stuck.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(100) {
            if let Ok(Some(status)) = child.try_wait() {
                return status.to_string();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().map_or_else(|e| e.to_string(), |status| format!("killed, {status}"))
    }
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    service: Option<Arc<Service>>,
    peers: Vec<IpAddr>,
    /// What waits for news of a connection.
    jobs: HashMap<u64, Sender<News>>,
    shown: Shown,
    ended: bool,
}

struct Shared {
    start: Box<dyn Fn() -> Result<Link, StartError> + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
    next: AtomicU64,
    served: Arc<AtomicUsize>,
}

/// The front process, and the next one when it ends. It is ended when this is dropped.
pub struct Front(Arc<Shared>);

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Front").field(&self.shown()).finish()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let link = {
            let mut state = locked(&self.0.state);
            state.ended = true;
            state.link.take()
        };
        if let Some(link) = link {
            link.end();
        }
        self.0.changed.notify_all();
    }
}

/// Starts this program as a front process, and waits until it has given up its rights.
fn start(config: &Config) -> Result<Link, StartError> {
    let io = |what| move |source| StartError::Io { what, source };
    let root = config.confine.map(|_| empty_directory(&config.dir)).transpose().map_err(io("make an empty directory for"))?;
    let (packets, theirs) = Packets::pair().map_err(io("make a socket for"))?;
    packets.patience(PATIENCE).map_err(io("make a socket for"))?;
    let mut command = Command::new(&config.exe);
    command.arg0("fansync").args(["failover", "front"]).env_clear().current_dir("/").process_group(0);
    command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(io("start"))?;
    let link = Link { packets, pid: child.id(), child: Mutex::new(Some(child)) };
    match confined(&link, config.confine, root.as_ref().map(AsFd::as_fd)) {
        Ok(()) => Ok(link),
        Err(e) => {
            let how = link.end();
            tracing::debug!(how, "a front process was not started");
            Err(e)
        }
    }
}

fn confined(link: &Link, confine: Option<Identity>, root: Option<BorrowedFd<'_>>) -> Result<(), StartError> {
    let io = |source| StartError::Io { what: "start", source };
    if !link.send(&Order::Confine(confine), root) {
        return Err(io(io::ErrorKind::BrokenPipe.into()));
    }
    match next(&link.packets, START).map_err(io)? {
        Some(News::Ready) => Ok(()),
        Some(News::NotConfined { step, errno }) => Err(StartError::Confine { step, source: io::Error::from_raw_os_error(errno) }),
        Some(_) => Err(io(io::ErrorKind::InvalidData.into())),
        None => Err(io(io::ErrorKind::TimedOut.into())),
    }
}

/// A directory that is removed already: nothing is in it, and nothing can be put there.
fn empty_directory(below: &Path) -> io::Result<OwnedFd> {
    crate::trust::make_directory(below, 0o755).map_err(io::Error::from)?;
    let path = below.join(format!(".front.{}", std::process::id()));
    match std::fs::create_dir(&path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        done => done?,
    }
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let opened = File::options().read(true).custom_flags(flags).open(&path);
    std::fs::remove_dir(&path)?;
    Ok(opened?.into())
}

/// What a front process says next; `None` when nothing comes within this time.
fn next(packets: &Packets, within: Duration) -> io::Result<Option<News>> {
    let until = Instant::now() + within;
    loop {
        match packets.recv_bytes_now::<PACKET>() {
            Ok(Came::Packet(packet, _)) => {
                return News::decode(&packet).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
            Ok(Came::Other) => return Err(io::ErrorKind::InvalidData.into()),
            Ok(Came::End) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let wait = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(packets.as_fd(), PollFlags::POLLIN)], wait) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

impl Front {
    /// Starts one, and has it started again whenever it ends.
    ///
    /// # Errors
    /// See [`StartError`]: the first could not be started.
    pub fn start(config: Config) -> Result<Arc<Front>, StartError> {
        let confined = config.confine.is_some();
        Front::with(confined, Box::new(move || start(&config)))
    }

    fn with(confined: bool, start: Box<dyn Fn() -> Result<Link, StartError> + Send + Sync>) -> Result<Arc<Front>, StartError> {
        let shared = Arc::new(Shared {
            start,
            state: Mutex::default(),
            changed: Condvar::new(),
            next: AtomicU64::new(1),
            served: Arc::default(),
        });
        locked(&shared.state).shown.confined = confined;
        let link = Arc::new((shared.start)()?);
        shared.take(&link);
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("fansync-front".into());
        thread.spawn(move || watched.watch(link)).map_err(|source| StartError::Io { what: "watch", source })?;
        Ok(Arc::new(Front(shared)))
    }

    /// One whose other end is a thread of this process, with all rights.
    #[cfg(test)]
    pub(super) fn of_a_thread() -> Arc<Front> {
        let start = || {
            let (packets, theirs) = Packets::pair().unwrap();
            packets.patience(PATIENCE).unwrap();
            std::thread::spawn(move || process::run(theirs.into()));
            let link = Link { packets, child: Mutex::new(None), pid: 0 };
            confined(&link, None, None).map(|()| link)
        };
        Front::with(false, Box::new(start)).unwrap()
    }

    pub(crate) fn shown(&self) -> Shown {
        locked(&self.0.state).shown.clone()
    }

    /// Answers what comes to a listener, for clients that have the key, as the server of this
    /// number.
    ///
    /// # Errors
    /// Those of setting up the listener.
    pub(crate) fn serve(&self, listener: TcpListener, key: &Key, id: Id, serve: Arc<Serve>) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        // Connections that are accepted from it inherit that.
        nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::TcpNoDelay, &true)?;
        let mut state = locked(&self.0.state);
        if let Some(link) = &state.link {
            link.send(&Order::Listen, Some(listener.as_fd()));
        }
        state.service = Some(Arc::new(Service { listener, key: key.clone(), id, serve }));
        Ok(())
    }

    /// Says which addresses are the peer's.
    pub(crate) fn peers(&self, peers: Vec<IpAddr>) {
        let mut state = locked(&self.0.state);
        if state.peers != peers {
            if let Some(link) = &state.link {
                link.send(&Order::Peers(peers.clone()), None);
            }
            state.peers = peers;
        }
    }

    /// Gives a connection to the front process; what comes of it can be waited for until then.
    fn open(&self, stream: TcpStream, until: Instant, order: impl FnOnce(u64, u32) -> Order) -> Result<Job<'_>, Lost> {
        let mut state = locked(&self.0.state);
        let link = loop {
            if let Some(link) = &state.link {
                break Arc::clone(link);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return Err(Lost::Away);
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        };
        let (news, came) = unbounded();
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) & !CAME_IN;
        state.jobs.insert(id, news);
        drop(state);
        let job = Job { front: self, link, id, came, until };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Lost::Connection(io::ErrorKind::TimedOut.into()));
        }
        let ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1);
        job.order(&order(id, ms), Some(stream.as_fd()))?;
        Ok(job)
    }

    /// Begins to talk to a server over a connection.
    ///
    /// # Errors
    /// See [`Lost`].
    pub(super) fn talk(&self, stream: TcpStream, until: Instant) -> Result<Job<'_>, Lost> {
        self.open(stream, until, |id, ms| Order::Talk { id, ms })
    }

    /// Makes an NFS NULL call over a connection; what is wrong with the answer.
    ///
    /// # Errors
    /// See [`Lost`].
    pub(super) fn null(&self, stream: TcpStream, version: u32, xid: u32, until: Instant) -> Result<Option<Wrong>, Lost> {
        let job = self.open(stream, until, |id, ms| Order::Null { id, ms, version, xid })?;
        match job.news()? {
            News::Null { wrong, .. } => Ok(wrong),
            _ => Err(job.broken()),
        }
    }
}

/// A connection that the front process has been given.
pub(super) struct Job<'a> {
    front: &'a Front,
    link: Arc<Link>,
    id: u64,
    came: Receiver<News>,
    until: Instant,
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        locked(&self.front.0.state).jobs.remove(&self.id);
        self.link.send(&Order::Drop { id: self.id }, None);
    }
}

impl Job<'_> {
    fn order(&self, order: &Order, fd: Option<BorrowedFd<'_>>) -> Result<(), Lost> {
        if self.link.send(order, fd) { Ok(()) } else { Err(Lost::Away) }
    }

    fn news(&self) -> Result<News, Lost> {
        match self.came.recv_deadline(self.until + REPORT) {
            Ok(News::Ended { why, .. }) => Err(Lost::Connection(why.into())),
            Ok(news) => Ok(news),
            // Not even that the other side is late.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(Lost::Away),
        }
    }

    /// It sends what was not requested.
    fn broken(&self) -> Lost {
        self.link.packets.end();
        Lost::Away
    }

    /// What the server says first.
    pub(super) fn greeting(&self) -> Result<[u8; GREETING], Lost> {
        match self.news()? {
            News::Greeted { frame, .. } => Ok(frame),
            _ => Err(self.broken()),
        }
    }

    /// Sends a request; what the server replies.
    pub(super) fn ask(&self, frame: [u8; REQUEST]) -> Result<Box<[u8; REPLY]>, Lost> {
        self.order(&Order::Ask { id: self.id, frame: Box::new(frame) }, None)?;
        match self.news()? {
            News::Answered { frame, .. } => Ok(frame),
            _ => Err(self.broken()),
        }
    }
}

/// Why a front process is not used any more.
enum Broken {
    /// It has ended.
    Ended(io::Error),
    /// It does not answer.
    Stuck,
    /// It says what it cannot know.
    Lies(&'static str),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Ended(e) if e.kind() == io::ErrorKind::UnexpectedEof => f.write_str("it has ended"),
            Broken::Ended(e) => write!(f, "{e}"),
            Broken::Stuck => write!(f, "it has not answered for {ANSWERS:?}"),
            Broken::Lies(what) => f.write_str(what),
        }
    }
}

impl Shared {
    /// Begins to use a front process.
    fn take(&self, link: &Arc<Link>) {
        let mut state = locked(&self.state);
        if let Some(service) = &state.service {
            link.send(&Order::Listen, Some(service.listener.as_fd()));
        }
        link.send(&Order::Peers(state.peers.clone()), None);
        state.shown.pid = link.pid;
        state.link = Some(Arc::clone(link));
        self.changed.notify_all();
    }

    /// Reads from it, and from those that come after it.
    fn watch(&self, mut link: Arc<Link>) {
        let mut row = 0;
        loop {
            let begun = Instant::now();
            let why = self.read(&link);
            {
                let mut state = locked(&self.state);
                (state.link, state.shown.pid) = (None, 0);
                // Whatever waits for it is let go.
                state.jobs.clear();
            }
            let how = link.end();
            let mut reason = format!("{why} ({how})");
            row = restart::row(row, begun.elapsed());
            loop {
                let (restarts, is_new) = {
                    let mut state = locked(&self.state);
                    if state.ended {
                        return;
                    }
                    state.shown.restarts += 1;
                    let before = std::mem::replace(&mut state.shown.reason, reason.clone());
                    (state.shown.restarts, before != reason)
                };
                // One that ends again and again for one reason does not fill the log.
                if is_new || restarts.is_power_of_two() {
                    tracing::error!(restarts, "the process that reads from the network is started again: {reason}");
                }
                std::thread::sleep(pause(row));
                row += 1;
                match (self.start)() {
                    Ok(next) => {
                        link = Arc::new(next);
                        break;
                    }
                    Err(e) => reason = e.to_string(),
                }
            }
            self.take(&link);
            if locked(&self.state).ended {
                link.end();
                return;
            }
        }
    }

    /// Takes what it says until it must not be used any more.
    fn read(&self, link: &Arc<Link>) -> Broken {
        // Each connection that came in, its number and where it is from, until its request.
        let mut open: HashMap<u64, (Id, IpAddr)> = HashMap::new();
        let mut asked_whether = false;
        loop {
            let news = match next(&link.packets, if asked_whether { ANSWERS } else { QUIET }) {
                Ok(Some(news)) => news,
                Ok(None) if asked_whether => return Broken::Stuck,
                Ok(None) => {
                    asked_whether = link.send(&Order::Ping, None);
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::InvalidData => return Broken::Lies("it says what is no message"),
                Err(e) => return Broken::Ended(e),
            };
            asked_whether = false;
            let service = locked(&self.state).service.clone();
            match (news, service) {
                (News::Pong, _) => {}
                (News::Opened { id, from }, Some(service)) => {
                    let Ok(nonce) = Id::new() else { continue };
                    if open.len() >= MOST_OPEN || open.insert(id, (nonce, from)).is_some() {
                        return Broken::Lies("it has more connections than places");
                    }
                    link.send(&Order::Greet { id, frame: frame::greeting(nonce, service.id) }, None);
                }
                (News::Asked { id, frame }, Some(service)) => {
                    let Some((nonce, from)) = open.remove(&id) else { return Broken::Lies("a request without a connection") };
                    self.answer(link, &service, id, &frame, nonce, from);
                }
                (News::Ended { id, .. }, _) if id & CAME_IN != 0 => {
                    open.remove(&id);
                }
                (
                    ref news @ (News::Greeted { id, .. }
                    | News::Answered { id, .. }
                    | News::Null { id, .. }
                    | News::Ended { id, .. }),
                    _,
                ) => {
                    // An answer without a waiting thread was on its way already.
                    if let Some(job) = locked(&self.state).jobs.get(&id) {
                        let _ = job.send(news.clone());
                    }
                }
                (News::Ready | News::NotConfined { .. } | News::Opened { .. } | News::Asked { .. }, _) => {
                    return Broken::Lies("it sends what was not requested");
                }
            }
        }
    }

    /// Answers a request, if it was made with the key, on a thread of its own.
    fn answer(&self, link: &Arc<Link>, service: &Arc<Service>, id: u64, frame: &[u8; REQUEST], nonce: Id, from: IpAddr) {
        let asked = wire::open(frame, &service.key, nonce, service.id);
        let Some((request, reply)) = asked.filter(|_| self.served.load(Ordering::Relaxed) < MOST_SERVED) else {
            tracing::debug!(%from, "a request was not served");
            link.send(&Order::Drop { id }, None);
            return;
        };
        link.send(&Order::Proved { id }, None);
        let (link, service, served) = (Arc::clone(link), Arc::clone(service), Arc::clone(&self.served));
        served.fetch_add(1, Ordering::Relaxed);
        let count = Count(served);
        let begun = std::thread::Builder::new().name("fansync-role".into()).spawn(move || {
            let _count = count;
            let frame = Box::new(reply.with(&service.key, &(service.serve)(request)));
            link.send(&Order::Answer { id, frame }, None);
        });
        if let Err(error) = begun {
            tracing::debug!(%error, "no thread for a request");
        }
    }
}

/// Counts down when it is dropped.
struct Count(Arc<AtomicUsize>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
