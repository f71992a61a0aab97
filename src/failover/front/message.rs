//! What the daemon and its front process say to each other: packets of one length, each field in
//! its place.
//!
//! Promises: whatever a packet of the front process says, decoding it gives one of a few values,
//! each of one size. What is in a message of failover's wire is not looked into.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use super::sandbox::{Identity, Step};
use crate::failover::probe::Wrong;
use crate::failover::wire::frame::{GREETING, In, Out, REPLY, REQUEST};

const HEAD: usize = 16;
const BODY: usize = REPLY;
/// Bytes of each packet, both ways.
pub(crate) const PACKET: usize = HEAD + BODY;
/// The peer's addresses that are given at most.
const PEERS: usize = 16;
/// In the number of a connection that came in.
pub(crate) const CAME_IN: u64 = 1 << 63;

/// What the daemon has its front process do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// To give up its rights; the directory that comes along is its root. `None`: it keeps them.
    Confine(Option<Identity>),
    /// To accept connections from the socket that comes along.
    Listen,
    /// Which addresses are the peer's.
    Peers(Vec<IpAddr>),
    /// To read a greeting from the connection that comes along, which has so many milliseconds for
    /// everything.
    Talk {
        /// The connection.
        id: u64,
        /// Milliseconds.
        ms: u32,
    },
    /// To make an NFS NULL call over the connection that comes along.
    Null {
        /// The connection.
        id: u64,
        /// Milliseconds.
        ms: u32,
        /// Which version is requested.
        version: u32,
        /// Its number.
        xid: u32,
    },
    /// To send a request and read the reply.
    Ask {
        /// The connection.
        id: u64,
        /// The request.
        frame: Box<[u8; REQUEST]>,
    },
    /// To send a greeting and read a request.
    Greet {
        /// The connection.
        id: u64,
        /// The greeting.
        frame: [u8; GREETING],
    },
    /// The request was made with the key: the connection keeps its place until it is answered.
    Proved {
        /// The connection.
        id: u64,
    },
    /// To send a reply, and close.
    Answer {
        /// The connection.
        id: u64,
        /// The reply.
        frame: Box<[u8; REPLY]>,
    },
    /// To close.
    Drop {
        /// The connection.
        id: u64,
    },
    /// To say that it is there.
    Ping,
}

/// What the front process reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It has given up its rights, or was to keep them.
    Ready,
    /// It could not.
    NotConfined {
        /// What did not work.
        step: Step,
        /// Why.
        errno: i32,
    },
    /// A connection came in.
    Opened {
        /// Its number.
        id: u64,
        /// The other end.
        from: IpAddr,
    },
    /// A request came.
    Asked {
        /// The connection.
        id: u64,
        /// What came.
        frame: Box<[u8; REQUEST]>,
    },
    /// A greeting came.
    Greeted {
        /// The connection.
        id: u64,
        /// What came.
        frame: [u8; GREETING],
    },
    /// A reply came.
    Answered {
        /// The connection.
        id: u64,
        /// What came.
        frame: Box<[u8; REPLY]>,
    },
    /// What became of an NFS NULL call that was answered.
    Null {
        /// The connection.
        id: u64,
        /// What is wrong with the answer.
        wrong: Option<Wrong>,
    },
    /// A connection ended before what was to be read had come.
    Ended {
        /// The connection.
        id: u64,
        /// Why.
        why: End,
    },
    /// It is there.
    Pong,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The other side closed it.
    Closed,
    /// Its time was over.
    Late,
    /// Reading or writing failed, with this error number.
    Failed(i32),
}

impl From<End> for io::Error {
    fn from(end: End) -> io::Error {
        match end {
            End::Closed => io::ErrorKind::UnexpectedEof.into(),
            End::Late => io::ErrorKind::TimedOut.into(),
            End::Failed(errno) => io::Error::from_raw_os_error(errno),
        }
    }
}

/// Kind, a small number, 32 bits, the connection, and what follows.
fn packet(kind: u8, small: u8, number: u32, id: u64, body: &[u8]) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    let mut out = Out(&mut packet);
    out.bytes(&[kind, small, 0, 0]);
    out.bytes(&number.to_le_bytes());
    out.number(id);
    out.bytes(body);
    packet
}

/// The same, read back.
struct Fields<'a> {
    kind: u8,
    small: u8,
    number: u32,
    id: u64,
    body: In<'a>,
}

impl<'a> Fields<'a> {
    fn of(packet: &'a [u8; PACKET]) -> Option<Fields<'a>> {
        let mut fields = In(packet);
        let [kind, small, 0, 0] = fields.array()? else { return None };
        let (number, id) = (u32::from_le_bytes(fields.array()?), fields.number()?);
        Some(Fields { kind, small, number, id, body: fields })
    }

    /// What is in the body: so many bytes and nothing behind them.
    fn frame<const N: usize>(mut self) -> Option<[u8; N]> {
        let frame = self.body.array()?;
        self.body.end()?;
        Some(frame)
    }

    fn plain(self) -> Option<()> {
        let zero = self.small == 0 && self.number == 0;
        zero.then_some(())?;
        self.body.end()
    }
}

fn ip_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn ip(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

impl Order {
    /// Its bytes.
    pub fn encode(&self) -> [u8; PACKET] {
        match self {
            Order::Confine(None) => packet(1, 0, 0, 0, &[]),
            Order::Confine(Some(to)) => packet(1, 1, to.uid, to.gid.into(), &[]),
            Order::Listen => packet(2, 0, 0, 0, &[]),
            Order::Peers(all) => {
                let bytes: Vec<u8> = all.iter().take(PEERS).flat_map(|ip| ip_bytes(*ip)).collect();
                packet(3, (bytes.len() / 16) as u8, 0, 0, &bytes)
            }
            Order::Talk { id, ms } => packet(4, 0, *ms, *id, &[]),
            Order::Null { id, ms, version, xid } => packet(5, *version as u8, *ms, *id, &xid.to_le_bytes()),
            Order::Ask { id, frame } => packet(6, 0, 0, *id, &frame[..]),
            Order::Greet { id, frame } => packet(7, 0, 0, *id, frame),
            Order::Proved { id } => packet(8, 0, 0, *id, &[]),
            Order::Answer { id, frame } => packet(9, 0, 0, *id, &frame[..]),
            Order::Drop { id } => packet(10, 0, 0, *id, &[]),
            Order::Ping => packet(11, 0, 0, 0, &[]),
        }
    }

    /// The order that these bytes are, if they are one.
    pub fn decode(packet: &[u8; PACKET]) -> Option<Order> {
        let mut fields = Fields::of(packet)?;
        let (kind, small, number, id) = (fields.kind, fields.small, fields.number, fields.id);
        Some(match (kind, small) {
            (1, 0) => fields.plain().map(|()| Order::Confine(None))?,
            (1, 1) => Order::Confine(Some(Identity { uid: number, gid: id.try_into().ok()? })),
            (2, 0) => fields.plain().map(|()| Order::Listen)?,
            (3, n) if usize::from(n) <= PEERS => {
                Order::Peers((0..n).map(|_| fields.body.array().map(ip)).collect::<Option<_>>()?)
            }
            (4, 0) => Order::Talk { id, ms: number },
            (5, version) => {
                let xid = u32::from_le_bytes(fields.body.array()?);
                Order::Null { id, ms: number, version: version.into(), xid }
            }
            (6, 0) => Order::Ask { id, frame: Box::new(fields.frame()?) },
            (7, 0) => Order::Greet { id, frame: fields.frame()? },
            (8, 0) => fields.plain().map(|()| Order::Proved { id })?,
            (9, 0) => Order::Answer { id, frame: Box::new(fields.frame()?) },
            (10, 0) => fields.plain().map(|()| Order::Drop { id })?,
            (11, 0) => fields.plain().map(|()| Order::Ping)?,
            _ => return None,
        })
    }
}

impl News {
    /// Its bytes.
    pub fn encode(&self) -> [u8; PACKET] {
        match self {
            News::Ready => packet(1, 0, 0, 0, &[]),
            News::NotConfined { step, errno } => packet(2, *step as u8, errno.cast_unsigned(), 0, &[]),
            News::Opened { id, from } => packet(3, 0, 0, *id, &ip_bytes(*from)),
            News::Asked { id, frame } => packet(4, 0, 0, *id, &frame[..]),
            News::Greeted { id, frame } => packet(5, 0, 0, *id, frame),
            News::Answered { id, frame } => packet(6, 0, 0, *id, &frame[..]),
            News::Null { id, wrong } => packet(7, wrong.map_or(0, |wrong| wrong as u8), 0, *id, &[]),
            News::Ended { id, why } => {
                let (small, number) = match why {
                    End::Closed => (0, 0),
                    End::Late => (1, 0),
                    End::Failed(errno) => (2, errno.cast_unsigned()),
                };
                packet(8, small, number, *id, &[])
            }
            News::Pong => packet(9, 0, 0, 0, &[]),
        }
    }

    /// The news that these bytes are, if they are any.
    pub fn decode(packet: &[u8; PACKET]) -> Option<News> {
        let fields = Fields::of(packet)?;
        let (kind, small, number, id) = (fields.kind, fields.small, fields.number, fields.id);
        let came_in = id & CAME_IN != 0;
        // Those without a connection have none, and those with one are of the kind that they are
        // for.
        let right = match kind {
            1 | 2 | 9 => id == 0,
            3 | 4 => came_in,
            5..=7 => !came_in,
            _ => true,
        };
        if !right || (number != 0 && kind != 2 && kind != 8) {
            return None;
        }
        Some(match (kind, small) {
            (1, 0) => fields.plain().map(|()| News::Ready)?,
            (2, _) => {
                fields.body.end()?;
                News::NotConfined { step: Step::from_number(small)?, errno: number.cast_signed() }
            }
            (3, 0) => {
                let bytes = fields.frame()?;
                // An address of the old kind has one form.
                let from = ip(bytes);
                (ip_bytes(from) == bytes).then_some(News::Opened { id, from })?
            }
            (4, 0) => News::Asked { id, frame: Box::new(fields.frame()?) },
            (5, 0) => News::Greeted { id, frame: fields.frame()? },
            (6, 0) => News::Answered { id, frame: Box::new(fields.frame()?) },
            (7, _) => {
                fields.body.end()?;
                let wrong = if small == 0 { None } else { Some(Wrong::from_number(small)?) };
                News::Null { id, wrong }
            }
            (8, 0 | 1) if number == 0 => {
                fields.body.end()?;
                News::Ended { id, why: if small == 0 { End::Closed } else { End::Late } }
            }
            (8, 2) => {
                fields.body.end()?;
                News::Ended { id, why: End::Failed(number.cast_signed()) }
            }
            (9, 0) => fields.plain().map(|()| News::Pong)?,
            _ => return None,
        })
    }
}

/// One of each, to begin with: for tests and for fuzzing.
pub fn examples() -> (Vec<Order>, Vec<News>) {
    let id = 7;
    let inner = CAME_IN | 7;
    let orders = vec![
        Order::Confine(None),
        Order::Confine(Some(Identity { uid: 65534, gid: 65534 })),
        Order::Listen,
        Order::Peers(vec!["10.0.0.2".parse().expect("it is one"), "fe80::2".parse().expect("it is one")]),
        Order::Talk { id, ms: 1000 },
        Order::Null { id, ms: 1000, version: 4, xid: 9 },
        Order::Ask { id, frame: Box::new([1; REQUEST]) },
        Order::Greet { id: inner, frame: [2; GREETING] },
        Order::Proved { id: inner },
        Order::Answer { id: inner, frame: Box::new([3; REPLY]) },
        Order::Drop { id },
        Order::Ping,
    ];
    let news = vec![
        News::Ready,
        News::NotConfined { step: Step::Filter, errno: 38 },
        News::Opened { id: inner, from: "10.0.0.2".parse().expect("it is one") },
        News::Opened { id: inner, from: "fe80::2".parse().expect("it is one") },
        News::Asked { id: inner, frame: Box::new([1; REQUEST]) },
        News::Greeted { id, frame: [2; GREETING] },
        News::Answered { id, frame: Box::new([3; REPLY]) },
        News::Null { id, wrong: None },
        News::Null { id, wrong: Some(Wrong::Denied) },
        News::Ended { id, why: End::Closed },
        News::Ended { id: inner, why: End::Late },
        News::Ended { id, why: End::Failed(104) },
        News::Pong,
    ];
    (orders, news)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let (orders, news) = examples();
        for order in orders {
            assert_eq!(Order::decode(&order.encode()), Some(order));
        }
        for news in news {
            assert_eq!(News::decode(&news.encode()), Some(news));
        }
        let many = Order::Peers(vec!["10.0.0.2".parse().unwrap(); PEERS + 3]);
        assert!(matches!(Order::decode(&many.encode()), Some(Order::Peers(all)) if all.len() == PEERS));
    }

    /// Each byte is set to some values: what is still taken has these bytes alone.
    #[test]
    fn news_have_one_form() {
        for packet in examples().1.iter().map(News::encode) {
            for (at, value) in (0..PACKET).flat_map(|at| [0, 1, 2, 3, 9, 0x80, 0xff].map(|value| (at, value))) {
                let mut packet = packet;
                packet[at] = value;
                if let Some(news) = News::decode(&packet) {
                    assert_eq!(news.encode(), packet, "{at} {value} {news:?}");
                }
            }
        }
    }

    #[test]
    fn news_of_what_cannot_be_are_refused() {
        for news in [
            News::Opened { id: 7, from: "10.0.0.2".parse().unwrap() },
            News::Asked { id: 7, frame: Box::new([0; REQUEST]) },
            News::Greeted { id: CAME_IN, frame: [0; GREETING] },
            News::Answered { id: CAME_IN | 3, frame: Box::new([0; REPLY]) },
            News::Null { id: CAME_IN, wrong: None },
        ] {
            assert_eq!(News::decode(&news.encode()), None, "{news:?}");
        }
        assert_eq!(News::decode(&[0; PACKET]), None);
        assert_eq!(News::decode(&[0xff; PACKET]), None);
    }
}
