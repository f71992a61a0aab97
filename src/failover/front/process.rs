//! The front process: it accepts connections, reads from them and writes to them, for the daemon,
//! which keeps the key and decides everything. `fansync failover front`, for [`super`] alone.
//!
//! Promises: it reads no more of a connection than the message that is due, by that connection's
//! deadline, however it comes in pieces; connections that came in have places as `wire::places`
//! gives them. It opens nothing and connects nowhere: each socket was given to it, or accepted from
//! one. It ends when the daemon does.
//!
//! How: one thread, poll(2), no call that waits otherwise.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};

use super::message::{CAME_IN, End, News, Order, PACKET};
use super::sandbox;
use crate::failover::probe::{self, Wrong};
use crate::failover::wire::frame::{GREETING, REPLY, REQUEST};
use crate::failover::wire::places::{Admission, Place, admit};
use crate::failover::wire::{WHOLE_REPLY, WHOLE_REQUEST};
use crate::sys::packets::{self, Came, Packets};

/// After a connection that could not be accepted: descriptors are used up, most likely.
const AGAIN: Duration = Duration::from_millis(50);
/// Connections that are accepted before others are looked after.
const AT_ONCE: usize = 16;
/// How long the answer to a NULL call is, its length in front of it.
const RPC_HEAD: usize = 4;

/// What is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Nothing,
    Greeting,
    Request,
    Reply,
    RpcHead { xid: u32 },
    RpcBody { xid: u32, len: usize },
}

impl Reading {
    fn bytes(self) -> usize {
        match self {
            Reading::Nothing => 0,
            Reading::Greeting => GREETING,
            Reading::Request => REQUEST,
            Reading::Reply => REPLY,
            Reading::RpcHead { .. } => RPC_HEAD,
            Reading::RpcBody { len, .. } => len,
        }
    }
}

/// A connection.
#[derive(Debug)]
struct Conn {
    id: u64,
    socket: TcpStream,
    /// Of one that came in.
    place: Option<Place>,
    until: Option<Instant>,
    out: Vec<u8>,
    sent: usize,
    reading: Reading,
    got: Vec<u8>,
    /// After what is sent.
    ends: bool,
}

/// What became of a connection's turn.
enum Turn {
    GoesOn,
    Says(News),
    Over(Option<News>),
}

impl Conn {
    fn new(id: u64, socket: TcpStream, until: Instant, reading: Reading) -> Conn {
        Conn { id, socket, place: None, until: Some(until), out: vec![], sent: 0, reading, got: vec![], ends: false }
    }

    fn sends(&self) -> bool {
        self.sent < self.out.len()
    }

    fn says(&mut self, bytes: &[u8], reading: Reading) {
        (self.out, self.sent, self.reading) = (bytes.to_vec(), 0, reading);
        self.got.clear();
    }

    fn wants(&self) -> PollFlags {
        match (self.sends(), self.reading) {
            (true, _) => PollFlags::POLLOUT,
            (false, Reading::Nothing) => PollFlags::empty(),
            (false, _) => PollFlags::POLLIN,
        }
    }

    fn ended(&self, why: End) -> Turn {
        Turn::Over(Some(News::Ended { id: self.id, why }))
    }

    /// Sends or reads what there is.
    fn turn(&mut self) -> Turn {
        let fd = self.socket.as_raw_fd();
        if self.sends() {
            match send(fd, &self.out[self.sent..], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(n) => self.sent += n,
                Err(Errno::EAGAIN | Errno::EINTR) => return Turn::GoesOn,
                Err(e) => return self.ended(End::Failed(e as i32)),
            }
            return if self.ends && !self.sends() { Turn::Over(None) } else { Turn::GoesOn };
        }
        if self.reading == Reading::Nothing {
            // It was not waited for: the connection has broken.
            return self.ended(End::Closed);
        }
        let at = self.got.len();
        self.got.resize(self.reading.bytes(), 0);
        let read = recv(fd, &mut self.got[at..], MsgFlags::MSG_DONTWAIT);
        self.got.truncate(at + read.unwrap_or(0));
        match read {
            Ok(0) => self.ended(End::Closed),
            Ok(_) if self.got.len() < self.reading.bytes() => Turn::GoesOn,
            Ok(_) => self.whole(),
            Err(Errno::EAGAIN | Errno::EINTR) => Turn::GoesOn,
            Err(e) => self.ended(End::Failed(e as i32)),
        }
    }

    /// What was to be read has come.
    fn whole(&mut self) -> Turn {
        let id = self.id;
        let null = |wrong| Turn::Over(Some(News::Null { id, wrong }));
        match std::mem::replace(&mut self.reading, Reading::Nothing) {
            Reading::Nothing => Turn::GoesOn,
            Reading::Greeting => Turn::Says(News::Greeted { id, frame: self.array() }),
            Reading::Request => Turn::Says(News::Asked { id, frame: Box::new(self.array()) }),
            Reading::Reply => Turn::Over(Some(News::Answered { id, frame: Box::new(self.array()) })),
            Reading::RpcHead { xid } => match probe::reply_length(self.array()) {
                Some(len) => {
                    self.got.clear();
                    self.reading = Reading::RpcBody { xid, len };
                    Turn::GoesOn
                }
                None => null(Some(Wrong::Length)),
            },
            Reading::RpcBody { xid, .. } => null(probe::judge(&self.got, xid).err()),
        }
    }

    fn array<const N: usize>(&self) -> [u8; N] {
        self.got[..].try_into().expect("it is as long as what was to be read")
    }
}

/// A connection, or the listener (`None`), and what can be done with it.
type Ready = (Option<u64>, PollFlags);

/// Everything.
struct Front {
    daemon: Packets,
    listener: Option<TcpListener>,
    /// When connections are accepted again.
    accepts: Option<Instant>,
    peers: Vec<IpAddr>,
    conns: Vec<Conn>,
    /// What the daemon has not taken yet.
    news: VecDeque<[u8; PACKET]>,
    next: u64,
}

/// The process: its standard input is the daemon's socket, and it keeps no other descriptor that it
/// was started with.
///
/// # Errors
/// As [`run`].
pub(crate) fn serve() -> io::Result<()> {
    let _ = nix::sys::prctl::set_name(c"fansync-front");
    packets::close_from(1)?;
    run(io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// Serves the daemon at the other end until that is closed.
///
/// # Errors
/// Those of poll(2) and of the daemon's socket; `InvalidData` for what is no order.
pub(crate) fn run(daemon: Packets) -> io::Result<()> {
    let mut front =
        Front { daemon, listener: None, accepts: None, peers: vec![], conns: vec![], news: VecDeque::new(), next: CAME_IN };
    while front.round()? {}
    Ok(())
}

impl Front {
    /// Waits for something, and does what there is to do; whether to go on.
    fn round(&mut self) -> io::Result<bool> {
        let (ready, daemon) = self.wait()?;
        if !daemon.is_empty() && !self.take_orders()? {
            return Ok(false);
        }
        self.give_news()?;
        // Connections that were closed by an order, or are new, have their turn in the next round.
        for (id, sees) in ready {
            match id {
                Some(id) if !sees.is_empty() => self.turn(id),
                None if !sees.is_empty() => self.accept(),
                _ => {}
            }
        }
        self.end_late();
        self.give_news()?;
        Ok(true)
    }

    /// What connections have, and what the daemon has.
    fn wait(&self) -> io::Result<(Vec<Ready>, PollFlags)> {
        let now = Instant::now();
        let accepts = self.listener.as_ref().filter(|_| self.accepts.is_none_or(|at| at <= now));
        let mut ids = Vec::new();
        let mut fds = vec![PollFd::new(self.daemon.as_fd(), PollFlags::POLLIN)];
        if !self.news.is_empty() {
            // Nothing more is read from anyone before the daemon has taken what there is.
            fds[0].set_events(PollFlags::POLLIN | PollFlags::POLLOUT);
        } else {
            for conn in &self.conns {
                ids.push(Some(conn.id));
                fds.push(PollFd::new(conn.socket.as_fd(), conn.wants()));
            }
            // After those that have ended, which leave their places to it.
            if let Some(listener) = accepts {
                ids.push(None);
                fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
            }
        }
        let next = self.conns.iter().filter_map(|c| c.until).chain(self.accepts).min();
        let timeout = next.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(now) + Duration::from_micros(999);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok((vec![], PollFlags::empty())),
            Err(e) => return Err(e.into()),
        }
        let mut sees = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let daemon = sees.next().unwrap_or(PollFlags::empty());
        Ok((ids.into_iter().zip(sees).collect(), daemon))
    }

    fn say(&mut self, news: &News) {
        self.news.push_back(news.encode());
    }

    fn give_news(&mut self) -> io::Result<()> {
        while let Some(packet) = self.news.front() {
            match self.daemon.send_now(packet) {
                Ok(()) => drop(self.news.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether the daemon is still there.
    fn take_orders(&mut self) -> io::Result<bool> {
        loop {
            match self.daemon.recv_now::<PACKET>() {
                Ok(Came::Packet(packet, fd)) => {
                    let order = Order::decode(&packet).ok_or(io::ErrorKind::InvalidData)?;
                    if !self.order(order, fd) {
                        return Ok(false);
                    }
                }
                Ok(Came::Other) => return Err(io::ErrorKind::InvalidData.into()),
                Ok(Came::End) => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Carries out an order; whether to go on. One for a connection that has ended meanwhile is
    /// none.
    fn order(&mut self, order: Order, fd: Option<OwnedFd>) -> bool {
        let until = |ms: u32| Instant::now() + Duration::from_millis(ms.into());
        match (order, fd) {
            (Order::Confine(None), _) => self.say(&News::Ready),
            (Order::Confine(Some(to)), Some(root)) => match sandbox::confine(to, root) {
                Ok(()) => self.say(&News::Ready),
                Err((step, e)) => {
                    // A part of it is given up: this process is of no use.
                    let errno = e.raw_os_error().unwrap_or(libc::ENOSYS);
                    let _ = self.daemon.send_now(&News::NotConfined { step, errno }.encode());
                    return false;
                }
            },
            (Order::Listen, Some(fd)) => self.listener = Some(fd.into()),
            (Order::Peers(all), _) => self.peers = all,
            (Order::Talk { id, ms }, Some(fd)) => {
                self.conns.push(Conn::new(id, fd.into(), until(ms), Reading::Greeting));
            }
            (Order::Null { id, ms, version, xid }, Some(fd)) => {
                let mut conn = Conn::new(id, fd.into(), until(ms), Reading::Nothing);
                conn.says(&probe::null(xid, version), Reading::RpcHead { xid });
                self.conns.push(conn);
            }
            (Order::Ask { id, frame }, _) => {
                self.conn(id).into_iter().for_each(|c| c.says(&frame[..], Reading::Reply));
            }
            (Order::Greet { id, frame }, _) => {
                self.conn(id).into_iter().for_each(|c| c.says(&frame, Reading::Request));
            }
            (Order::Proved { id }, _) => {
                if let Some(conn) = self.conn(id) {
                    conn.until = None;
                    conn.place.iter_mut().for_each(|place| place.proved = true);
                }
            }
            (Order::Answer { id, frame }, _) => {
                if let Some(conn) = self.conn(id) {
                    conn.says(&frame[..], Reading::Nothing);
                    (conn.until, conn.ends) = (Some(Instant::now() + WHOLE_REPLY), true);
                }
            }
            (Order::Drop { id }, _) => self.conns.retain(|c| c.id != id),
            (Order::Ping, _) => self.say(&News::Pong),
            (Order::Confine(Some(_)) | Order::Listen | Order::Talk { .. } | Order::Null { .. }, None) => return false,
        }
        true
    }

    fn conn(&mut self, id: u64) -> Option<&mut Conn> {
        self.conns.iter_mut().find(|c| c.id == id)
    }

    fn turn(&mut self, id: u64) {
        let Some(conn) = self.conn(id) else { return };
        match conn.turn() {
            Turn::GoesOn => {}
            Turn::Says(news) => self.say(&news),
            Turn::Over(news) => {
                self.conns.retain(|c| c.id != id);
                news.iter().for_each(|news| self.say(news));
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..AT_ONCE {
            let Some(listener) = &self.listener else { return };
            self.accepts = None;
            match listener.accept() {
                Ok((socket, from)) => self.admit(socket, from.ip().to_canonical()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // One that was broken off before it was accepted is no reason to wait.
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                Err(_) => {
                    self.accepts = Some(Instant::now() + AGAIN);
                    return;
                }
            }
        }
    }

    /// Gives a connection a place, if there is one; another may be closed for it.
    fn admit(&mut self, socket: TcpStream, from: IpAddr) {
        let places: Vec<(u64, Place)> = self.conns.iter().filter_map(|c| c.place.map(|place| (c.id, place))).collect();
        let held: Vec<Place> = places.iter().map(|(_, place)| *place).collect();
        let peer = self.peers.contains(&from);
        match admit(&held, from, peer) {
            Admission::Take => {}
            Admission::InPlaceOf(at) => {
                let id = places[at].0;
                self.conns.retain(|c| c.id != id);
                self.say(&News::Ended { id, why: End::Closed });
            }
            Admission::Refuse => return,
        }
        let id = self.next;
        self.next = CAME_IN | self.next.wrapping_add(1);
        let mut conn = Conn::new(id, socket, Instant::now() + WHOLE_REQUEST, Reading::Nothing);
        conn.place = Some(Place { from, peer, proved: false });
        self.conns.push(conn);
        self.say(&News::Opened { id, from });
    }

    fn end_late(&mut self) {
        let now = Instant::now();
        if self.accepts.is_some_and(|at| at <= now) {
            self.accepts = None;
        }
        let late = |c: &Conn| c.until.is_some_and(|until| until <= now);
        let ids: Vec<u64> = self.conns.iter().filter(|c| late(c)).map(|c| c.id).collect();
        self.conns.retain(|c| !late(c));
        ids.iter().for_each(|id| self.say(&News::Ended { id: *id, why: End::Late }));
    }
}
