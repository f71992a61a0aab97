//! The messages as bytes: each kind has one length, and every field its place.
//!
//! ```text
//! greeting   50  version 18, nonce 16, server 16
//! request   336  code 32, nonce 16, client 16, server 16, body 256
//! reply    1024  code 32, body 992
//! ```
//!
//! Promises: nothing here allocates by what a message says, and no field decides where another
//! begins. A body has one form: what [`Request::decode`] takes, [`Request::encode`] makes again,
//! byte for byte. Texts are cut at a character where they are too long, and have no control
//! characters: these are replaced by spaces before they are sent, and refused where they come in.

use super::code::{CODE, ID, Id, VERSION};
use super::{Reply, Request};
use crate::failover::machine::Report;
use crate::role::mark::{LAST_EPOCH, Mark, Role};

/// Bytes of what a server says first.
pub const GREETING: usize = VERSION.len() + 2 * ID;
/// Bytes of a request's content.
pub(crate) const REQUEST_BODY: usize = 256;
/// Bytes of a request.
pub const REQUEST: usize = CODE + 3 * ID + REQUEST_BODY;
/// Bytes of a reply's content.
pub(crate) const REPLY_BODY: usize = 992;
/// Bytes of a reply.
pub const REPLY: usize = CODE + REPLY_BODY;

/// Bytes of the longest name of an asker.
const MOST_BY: usize = 200;
/// Bytes of the longest text of a mark.
const MOST_MARK: usize = 220;
/// Bytes of the longest text for people.
const MOST_TEXT: usize = 700;

/// Writes fields one after the other.
pub(in crate::failover) struct Out<'a>(pub(in crate::failover) &'a mut [u8]);

impl Out<'_> {
    pub(in crate::failover) fn bytes(&mut self, bytes: &[u8]) {
        let (head, rest) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.0 = rest;
    }

    pub(in crate::failover) fn byte(&mut self, byte: u8) {
        self.bytes(&[byte]);
    }

    pub(in crate::failover) fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    /// A field of `most` bytes and a length.
    fn text(&mut self, text: &str, most: usize) {
        let text = plain(text);
        let end = (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let text = text[..end].trim();
        self.bytes(&(text.len() as u16).to_le_bytes());
        self.bytes(text.as_bytes());
        let (_, rest) = std::mem::take(&mut self.0).split_at_mut(most - text.len());
        self.0 = rest;
    }
}

/// A text without control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Reads fields one after the other.
pub(in crate::failover) struct In<'a>(pub(in crate::failover) &'a [u8]);

impl<'a> In<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub(in crate::failover) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(in crate::failover) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(in crate::failover) fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, most: usize) -> Option<String> {
        let len = usize::from(u16::from_le_bytes(self.array()?));
        let field = self.bytes(most)?;
        let (text, padding) = field.split_at_checked(len)?;
        let text = std::str::from_utf8(text).ok()?;
        let good = padding.iter().all(|&b| b == 0) && text.trim() == text && !text.contains(char::is_control);
        good.then(|| text.to_owned())
    }

    /// Nothing but zeros is left.
    pub(in crate::failover) fn end(self) -> Option<()> {
        self.0.iter().all(|&b| b == 0).then_some(())
    }
}

impl Request {
    /// Its bytes.
    pub fn encode(&self) -> [u8; REQUEST_BODY] {
        let mut body = [0; REQUEST_BODY];
        let mut out = Out(&mut body);
        let (kind, above, by) = match self {
            Request::Report => (1, 0, ""),
            Request::Promote { above, by } => (2, *above, by.as_str()),
            Request::StepDown { by } => (3, 0, by.as_str()),
            Request::HandOver { by } => (4, 0, by.as_str()),
        };
        out.byte(kind);
        out.number(above);
        out.text(by, MOST_BY);
        body
    }

    /// The request that these bytes are, if they are one.
    pub fn decode(body: &[u8; REQUEST_BODY]) -> Option<Request> {
        let mut fields = In(body);
        let (kind, above, by) = (fields.byte()?, fields.number()?, fields.text(MOST_BY)?);
        fields.end()?;
        match kind {
            1 if above == 0 && by.is_empty() => Some(Request::Report),
            2 => Some(Request::Promote { above, by }),
            3 if above == 0 => Some(Request::StepDown { by }),
            4 if above == 0 => Some(Request::HandOver { by }),
            _ => None,
        }
    }
}

fn put_mark(out: &mut Out<'_>, mark: Option<&Mark>) {
    let (role, epoch, by) = match mark {
        None => (0, 0, ""),
        Some(Mark { role: Role::Primary, epoch, by }) => (1, *epoch, by.as_str()),
        Some(Mark { role: Role::Follower, epoch, by }) => (2, *epoch, by.as_str()),
    };
    out.byte(role);
    out.number(epoch);
    out.text(by, MOST_MARK);
}

fn mark(fields: &mut In<'_>) -> Option<Option<Mark>> {
    let (role, epoch, by) = (fields.byte()?, fields.number()?, fields.text(MOST_MARK)?);
    let role = match role {
        0 if epoch == 0 && by.is_empty() => return Some(None),
        1 => Role::Primary,
        2 => Role::Follower,
        _ => return None,
    };
    (1..=LAST_EPOCH).contains(&epoch).then(|| Some(Mark::new(epoch, role, &by)))
}

impl Reply {
    /// Its bytes.
    pub fn encode(&self) -> [u8; REPLY_BODY] {
        let mut body = [0; REPLY_BODY];
        let mut out = Out(&mut body);
        let none = Report::default();
        let (kind, report, mark, text) = match self {
            Reply::Report(report) => (1, report, report.mark.as_ref(), report.trouble.as_str()),
            Reply::Done { mark } => (2, &none, Some(mark), ""),
            Reply::Refused { why } => (3, &none, None, why.as_str()),
        };
        out.byte(kind);
        put_mark(&mut out, mark);
        out.byte(report.handing_over.into());
        out.byte(report.writable.into());
        out.byte(report.peer_whole.map_or(0, |whole| 1 + u8::from(whole)));
        out.text(text, MOST_TEXT);
        body
    }

    /// The reply that these bytes are, if they are one.
    pub fn decode(body: &[u8; REPLY_BODY]) -> Option<Reply> {
        let mut fields = In(body);
        let (kind, mark) = (fields.byte()?, mark(&mut fields)?);
        let (handing_over, writable) = (fields.flag()?, fields.flag()?);
        let peer_whole = match fields.byte()? {
            0 => None,
            1 => Some(false),
            2 => Some(true),
            _ => return None,
        };
        let text = fields.text(MOST_TEXT)?;
        fields.end()?;
        let plain = !handing_over && !writable && peer_whole.is_none();
        match (kind, mark) {
            (1, mark) => Some(Reply::Report(Report { mark, handing_over, writable, peer_whole, trouble: text })),
            (2, Some(mark)) if plain && text.is_empty() => Some(Reply::Done { mark }),
            (3, None) if plain => Some(Reply::Refused { why: text }),
            _ => None,
        }
    }
}

/// What a server says first: a number for this connection, and its own.
pub fn greeting(nonce: Id, server: Id) -> [u8; GREETING] {
    let mut frame = [0; GREETING];
    let mut out = Out(&mut frame);
    out.bytes(VERSION.as_bytes());
    out.bytes(nonce.bytes());
    out.bytes(server.bytes());
    frame
}

/// The numbers of a greeting, if it is of this version.
pub fn read_greeting(frame: &[u8; GREETING]) -> Option<(Id, Id)> {
    let mut fields = In(frame);
    (fields.bytes(VERSION.len())? == VERSION.as_bytes()).then_some(())?;
    Some((Id::from_bytes(fields.array()?), Id::from_bytes(fields.array()?)))
}

/// A request, in parts that are not looked into.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The code over the rest.
    pub code: [u8; CODE],
    /// The client's number for this connection.
    pub nonce: Id,
    /// The sender.
    pub client: Id,
    /// The receiver.
    pub server: Id,
    /// What, for [`Request::decode`] once the code was found right.
    pub body: [u8; REQUEST_BODY],
}

impl Asked {
    /// Its bytes.
    pub fn encode(&self) -> [u8; REQUEST] {
        let mut frame = [0; REQUEST];
        let mut out = Out(&mut frame);
        out.bytes(&self.code);
        for id in [self.nonce, self.client, self.server] {
            out.bytes(id.bytes());
        }
        out.bytes(&self.body);
        frame
    }

    /// Takes a request apart. Whatever it is, these are its parts.
    pub fn split(frame: &[u8; REQUEST]) -> Asked {
        let mut fields = In(frame);
        let whole = "the lengths of the parts are that of the whole";
        let id = |fields: &mut In<'_>| Id::from_bytes(fields.array().expect(whole));
        Asked {
            code: fields.array().expect(whole),
            nonce: id(&mut fields),
            client: id(&mut fields),
            server: id(&mut fields),
            body: fields.array().expect(whole),
        }
    }
}

/// A reply's bytes.
pub(crate) fn reply(code: &[u8; CODE], body: &[u8; REPLY_BODY]) -> [u8; REPLY] {
    let mut frame = [0; REPLY];
    frame[..CODE].copy_from_slice(code);
    frame[CODE..].copy_from_slice(body);
    frame
}

/// Takes a reply apart: its code and its body.
pub fn split_reply(frame: &[u8; REPLY]) -> (&[u8; CODE], &[u8; REPLY_BODY]) {
    let (code, body) = frame.split_first_chunk().expect("a reply is longer than a code");
    (code, body.first_chunk().expect("the rest is the body"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        let by = || "wëb1 (hand-over for x)".to_owned();
        vec![
            Request::Report,
            Request::Promote { above: u64::MAX, by: by() },
            Request::StepDown { by: String::new() },
            Request::HandOver { by: "h".repeat(MOST_BY) },
        ]
    }

    fn replies() -> Vec<Reply> {
        let mark = |role| Mark::new(LAST_EPOCH, role, &"ü".repeat(110));
        let mut all = vec![
            Reply::Done { mark: mark(Role::Primary) },
            Reply::Refused { why: "x".repeat(MOST_TEXT) },
            Reply::Report(Report::default()),
        ];
        for peer_whole in [None, Some(false), Some(true)] {
            let trouble = "exportfs: no such thing".to_owned();
            let mark = Some(mark(Role::Follower));
            all.push(Reply::Report(Report { mark, handing_over: true, writable: true, peer_whole, trouble }));
        }
        all
    }

    #[test]
    fn what_is_written_is_read() {
        for request in requests() {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        for reply in replies() {
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
        let [a, b, c] = [1, 2, 3].map(|n| Id::from_bytes([n; ID]));
        assert_eq!(read_greeting(&greeting(a, b)), Some((a, b)));
        let asked = Asked { code: [9; CODE], nonce: a, client: b, server: c, body: Request::Report.encode() };
        let again = Asked::split(&asked.encode());
        assert_eq!((again.code, again.nonce, again.client, again.server, again.body), ([9; CODE], a, b, c, asked.body));
    }

    /// Each byte is set to each value: what is still taken has these bytes alone.
    #[test]
    fn every_body_has_one_form() {
        for body in requests().iter().map(Request::encode) {
            for (at, value) in (0..body.len()).flat_map(|at| (0..=u8::MAX).map(move |value| (at, value))) {
                let mut body = body;
                body[at] = value;
                if let Some(request) = Request::decode(&body) {
                    assert_eq!(request.encode(), body, "{at} {value} {request:?}");
                }
            }
        }
        for body in replies().iter().map(Reply::encode) {
            for (at, value) in (0..body.len()).flat_map(|at| [0, 1, 2, 3, b'y', 0x80, 0xff].map(|value| (at, value))) {
                let mut body = body;
                body[at] = value;
                if let Some(reply) = Reply::decode(&body) {
                    assert_eq!(reply.encode(), body, "{at} {value} {reply:?}");
                }
            }
        }
    }

    #[test]
    fn texts_are_cut_at_a_character_and_steer_no_terminal() {
        let why = "é".repeat(MOST_TEXT);
        let Some(Reply::Refused { why }) = Reply::decode(&Reply::Refused { why }.encode()) else { panic!("it is a refusal") };
        assert_eq!(why, "é".repeat(MOST_TEXT / 2));
        let mut body = Reply::Refused { why: "a\x1b[2J\nb".into() }.encode();
        assert_eq!(Reply::decode(&body), Some(Reply::Refused { why: "a [2J b".into() }));
        let at = body.iter().position(|&b| b == b'[').unwrap();
        body[at - 1] = 0x1b;
        assert_eq!(Reply::decode(&body), None);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let good = Request::Promote { above: 7, by: "x".into() }.encode();
        for (at, value) in [(0, 0), (0, 5), (9, 201), (9, 0), (10, 1), (12, b'y'), (11, 0xff), (REQUEST_BODY - 1, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Request::decode(&bad), None, "{at} {value}");
        }
        let good = Reply::Done { mark: Mark::new(1, Role::Primary, "") }.encode();
        for (at, value) in [(0, 1 << 7), (1, 0), (1, 3), (2, 0), (8, 0x21), (232, 1), (234, 3), (REPLY_BODY - 1, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(Reply::decode(&bad), None, "{at} {value}");
        }
        let mut old = greeting(Id::from_bytes([0; ID]), Id::from_bytes([0; ID]));
        old[VERSION.len() - 1] = b'2';
        assert_eq!(read_greeting(&old), None);
    }
}
