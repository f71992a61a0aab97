//! One message of the feed. `docs/feed.md` has it byte by byte.
//!
//! A record names paths to look at; it never says what happened to them. It may hold an rsync batch
//! beside them: their state when it was made. Whatever is not understood in it is an error, and for
//! a follower that means a comparison of the whole tree.

use thiserror::Error;

use crate::dirty::Kind;
use crate::path::RelPath;

/// Most bytes of a record: JetStream takes 1 MiB by default, with its headers.
pub const MAX_BYTES: usize = 900 * 1024;
/// Bytes before the entries.
const HEAD: usize = 60;
const MAGIC: &[u8; 3] = b"fsf";
/// The version that is written and read.
const VERSION: u8 = 1;
/// That of a record with an entry that [`MOVED`]: earlier fansyncs do not know it, and nothing else
/// is of it.
const VERSION_MOVED: u8 = 2;

const EVERYTHING: u8 = 1;
const HELD: u8 = 2;
const LAST: u8 = 8;
const BATCH: u8 = 4;

const XATTRS: u8 = 1;
const ACLS: u8 = 2;
/// Bytes of a batch's part before the batch itself.
const BATCH_HEAD: usize = 28;

const GONE: u8 = 1;
const DIRECTORY: u8 = 2;
const CONTENT: u8 = 4;
/// It went to another name, which follows the path.
const MOVED: u8 = 8;

/// Which tree is meant: what its mark holds (`.fansync/feed`).
pub type Identity = [u8; 16];

/// One message of the feed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Record {
    /// Drawn by the publisher when it cannot go on from where the stream ends.
    pub incarnation: u64,
    /// The publisher's own count within the incarnation, from 1, without gaps.
    pub number: u64,
    /// When the stream was made, in nanoseconds since 1970, by its server.
    pub stream: u64,
    /// The tree that the paths are of.
    pub identity: Identity,
    /// When it was made, in milliseconds since 1970; for display.
    pub millis: u64,
    /// The whole tree is to be compared.
    pub everything: bool,
    /// The source is held: nothing is to be pulled from it until a record says otherwise.
    pub held: bool,
    /// Its paths are to be pulled only when everything before it is held.
    pub last: bool,
    /// What is to be looked at.
    pub entries: Vec<Item>,
    /// What brings a tree that holds all that came before to the state of these entries.
    pub batch: Option<Batch>,
}

/// What one rsync wrote with `--only-write-batch`, for as many as like to read it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Batch {
    /// rsync's protocol number in it.
    pub protocol: u8,
    /// The version of the rsync that wrote it: major, minor, patch.
    pub version: [u8; 3],
    /// It carries extended attributes (`-X`).
    pub xattrs: bool,
    /// It carries access control lists (`-A`).
    pub acls: bool,
    /// When the record before was known to be stored, in microseconds of a clock of the publisher's
    /// that is not set; 0 where that is not known.
    pub stored: u64,
    /// When rsync began to read this state, by the same clock.
    pub made: u64,
    /// The batch.
    pub bytes: Vec<u8>,
}

/// A path to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Relative to the root.
    pub path: RelPath,
    /// How much of it.
    pub kind: Kind,
    /// Nothing had this name when the record was made.
    pub gone: bool,
    /// It was a directory.
    pub directory: bool,
    /// Its content may be another one although size and times are the same.
    pub content: bool,
    /// Of what is gone: the name that it got. A hint: there may be something else by now, or
    /// nothing.
    pub to: Option<RelPath>,
}

/// Why bytes are no record.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// Not one of fansync's.
    #[error("it is no record of fansync's")]
    Foreign,
    /// By a later fansync.
    #[error("its version is {0}, and this fansync reads 1 and 2")]
    Version(u8),
    /// It ends too early.
    #[error("it is cut off")]
    Short,
    /// Something that its version does not have.
    #[error("byte {at} is {value}, which has no meaning")]
    Unknown {
        /// Where.
        at: usize,
        /// What.
        value: u8,
    },
    /// A path that names no place below a root.
    #[error("the path at byte {0} is none below a root")]
    Path(usize),
    /// Something behind the last entry.
    #[error("{0} bytes follow the last entry")]
    Long(usize),
}

impl Record {
    /// As it is sent. Longer than [`MAX_BYTES`] where the entries are too many: see [`split`].
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.entries.iter().map(Item::len).sum::<usize>());
        out.extend_from_slice(MAGIC);
        out.push(if self.entries.iter().any(|item| item.to.is_some()) { VERSION_MOVED } else { VERSION });
        let flags = [(self.everything, EVERYTHING), (self.held, HELD), (self.batch.is_some(), BATCH), (self.last, LAST)];
        out.push(flags.iter().map(|(set, flag)| if *set { *flag } else { 0 }).sum());
        out.extend_from_slice(&[0; 3]);
        for number in [self.incarnation, self.number, self.stream] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.identity);
        out.extend_from_slice(&self.millis.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for item in &self.entries {
            out.push(match item.kind {
                Kind::Entry => 0,
                Kind::Contents => 1,
                Kind::Subtree => 2,
            });
            let flags = [(item.gone, GONE), (item.directory, DIRECTORY), (item.content, CONTENT), (item.to.is_some(), MOVED)];
            out.push(flags.iter().map(|(set, flag)| if *set { *flag } else { 0 }).sum());
            for path in std::iter::once(&item.path).chain(&item.to) {
                out.extend_from_slice(path);
                out.push(0);
            }
        }
        if let Some(batch) = &self.batch {
            batch.encode(&mut out);
        }
        out
    }

    /// Bytes that a batch may have, so that the record with these entries is not longer than
    /// [`MAX_BYTES`].
    pub fn room(entries: &[Item]) -> usize {
        MAX_BYTES.saturating_sub(HEAD + entries.iter().map(Item::len).sum::<usize>() + BATCH_HEAD)
    }

    /// Reads one.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        match bytes.get(..4) {
            None => return Err(RecordError::Short),
            Some(start) if !start.starts_with(MAGIC) => return Err(RecordError::Foreign),
            Some(start) if !matches!(start[3], VERSION | VERSION_MOVED) => return Err(RecordError::Version(start[3])),
            Some(_) => {}
        }
        let head = bytes.get(..HEAD).ok_or(RecordError::Short)?;
        let known = |at: usize, mask: u8| match head[at] & !mask {
            0 => Ok(head[at]),
            _ => Err(RecordError::Unknown { at, value: head[at] }),
        };
        let flags = known(4, EVERYTHING | HELD | BATCH | LAST)?;
        (5..8).try_for_each(|at| known(at, 0).map(drop))?;
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let count = u32::from_le_bytes(std::array::from_fn(|i| head[56 + i]));
        let (mut at, mut entries) = (HEAD, Vec::new());
        for _ in 0..count {
            let (item, next) = Item::decode(bytes, at, head[3])?;
            entries.push(item);
            at = next;
        }
        // So that there is one way to write a record.
        if head[3] == VERSION_MOVED && entries.iter().all(|item| item.to.is_none()) {
            return Err(RecordError::Unknown { at: 3, value: VERSION_MOVED });
        }
        let batch = match flags & BATCH {
            0 => None,
            _ => {
                let (batch, end) = Batch::decode(bytes, at)?;
                at = end;
                Some(batch)
            }
        };
        if at < bytes.len() {
            return Err(RecordError::Long(bytes.len() - at));
        }
        Ok(Record {
            incarnation: number(8),
            number: number(16),
            stream: number(24),
            identity: std::array::from_fn(|i| head[32 + i]),
            millis: number(48),
            everything: flags & EVERYTHING != 0,
            held: flags & HELD != 0,
            last: flags & LAST != 0,
            entries,
            batch,
        })
    }
}

impl Batch {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.protocol);
        out.extend_from_slice(&self.version);
        out.push(if self.xattrs { XATTRS } else { 0 } | if self.acls { ACLS } else { 0 });
        out.extend_from_slice(&[0; 3]);
        out.extend_from_slice(&self.stored.to_le_bytes());
        out.extend_from_slice(&self.made.to_le_bytes());
        out.extend_from_slice(&(self.bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.bytes);
    }

    /// That at `at`, and where it ends.
    fn decode(bytes: &[u8], at: usize) -> Result<(Batch, usize), RecordError> {
        let head: [u8; BATCH_HEAD] =
            bytes.get(at..at + BATCH_HEAD).and_then(|head| head.try_into().ok()).ok_or(RecordError::Short)?;
        let known = [XATTRS | ACLS, 0, 0, 0];
        if let Some(n) = (0..known.len()).find(|n| head[4 + n] & !known[*n] != 0) {
            return Err(RecordError::Unknown { at: at + 4 + n, value: head[4 + n] });
        }
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let len = u32::from_le_bytes(std::array::from_fn(|i| head[24 + i])) as usize;
        let start = at + BATCH_HEAD;
        let batch = bytes[start..].get(..len).ok_or(RecordError::Short)?;
        let [protocol, major, minor, patch, options, ..] = head;
        let batch = Batch {
            protocol,
            version: [major, minor, patch],
            xattrs: options & XATTRS != 0,
            acls: options & ACLS != 0,
            stored: number(8),
            made: number(16),
            bytes: batch.to_vec(),
        };
        Ok((batch, start + len))
    }
}

impl Item {
    /// Bytes that it takes in a record.
    fn len(&self) -> usize {
        self.path.len() + 3 + self.to.as_ref().map_or(0, |to| to.len() + 1)
    }

    /// That at `at`, and where the next one begins.
    fn decode(bytes: &[u8], at: usize, version: u8) -> Result<(Item, usize), RecordError> {
        let &[kind, flags] = bytes.get(at..at + 2).ok_or(RecordError::Short)? else { return Err(RecordError::Short) };
        let kind = match kind {
            0 => Kind::Entry,
            1 => Kind::Contents,
            2 => Kind::Subtree,
            value => return Err(RecordError::Unknown { at, value }),
        };
        let moved = match version {
            VERSION_MOVED => MOVED,
            _ => 0,
        };
        // Only what is gone went anywhere.
        if flags & !(GONE | DIRECTORY | CONTENT | moved) != 0 || flags & (MOVED | GONE) == MOVED {
            return Err(RecordError::Unknown { at: at + 1, value: flags });
        }
        let flag = |flag: u8| flags & flag != 0;
        let (path, mut next) = path_at(bytes, at + 2)?;
        let mut to = None;
        if flag(MOVED) {
            let (path, behind) = path_at(bytes, next)?;
            if path.is_root() {
                return Err(RecordError::Path(next));
            }
            (to, next) = (Some(path), behind);
        }
        let item = Item { path, kind, gone: flag(GONE), directory: flag(DIRECTORY), content: flag(CONTENT), to };
        Ok((item, next))
    }
}

/// The path at `at`, and where the next thing begins.
fn path_at(bytes: &[u8], at: usize) -> Result<(RelPath, usize), RecordError> {
    let rest = bytes.get(at..).ok_or(RecordError::Short)?;
    let end = memchr::memchr(0, rest).ok_or(RecordError::Short)?;
    // A normal path is the only way to write one, so that two of them are never one.
    let path = RelPath::new(&rest[..end]).filter(|path| path.as_bytes() == &rest[..end]);
    Ok((path.ok_or(RecordError::Path(at))?, at + end + 1))
}

/// The entries of as many records as they need, none of which is longer than [`MAX_BYTES`].
pub fn split(entries: Vec<Item>) -> Vec<Vec<Item>> {
    let (mut out, mut bytes) = (vec![Vec::new()], HEAD);
    for item in entries {
        if bytes + item.len() > MAX_BYTES {
            out.push(Vec::new());
            bytes = HEAD;
        }
        bytes += item.len();
        out.last_mut().expect("there is always one").push(item);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(path: &[u8]) -> Item {
        Item { path: RelPath::new(path).unwrap(), kind: Kind::Entry, gone: false, directory: false, content: false, to: None }
    }

    fn record() -> Record {
        let gone = Item { gone: true, ..item(b"a/b") };
        let tree = Item { kind: Kind::Subtree, directory: true, ..item(b"d\n\xff") };
        let top = Item { kind: Kind::Contents, content: true, ..item(b"") };
        Record {
            incarnation: 0x0807_0605_0403_0201,
            number: 7,
            stream: 9,
            identity: std::array::from_fn(|i| i as u8),
            millis: 1_000,
            everything: true,
            held: true,
            last: false,
            entries: vec![gone, tree, top],
            batch: Some(Batch {
                protocol: 32,
                version: [3, 5, 0],
                xattrs: true,
                acls: false,
                stored: 9,
                made: 258,
                bytes: b"rsync".to_vec(),
            }),
        }
    }

    #[test]
    fn every_byte_is_where_the_document_has_it() {
        let bytes = record().encode();
        assert_eq!(&bytes[..8], b"fsf\x01\x07\0\0\0");
        assert_eq!(&bytes[8..16], &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Record { last: true, ..record() }.encode()[4], 0b1111);
        assert_eq!((bytes[16], bytes[24]), (7, 9));
        assert_eq!(bytes[32..48], std::array::from_fn::<u8, 16, _>(|i| i as u8));
        assert_eq!(&bytes[48..60], &[0xe8, 3, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(&bytes[60..75], b"\0\x01a/b\0\x02\x02d\n\xff\0\x01\x04\0");
        assert_eq!(&bytes[75..83], b"\x20\x03\x05\0\x01\0\0\0");
        assert_eq!(&bytes[83..99], &[9, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[99..], b"\x05\0\0\0rsync");
    }

    /// The message with another byte at this place.
    fn with(whole: &[u8], at: usize, value: u8) -> Result<Record, RecordError> {
        let mut bytes = whole.to_vec();
        bytes[at] = value;
        Record::decode(&bytes)
    }

    #[track_caller]
    fn is_short_wherever_it_is_cut(whole: &[u8]) {
        for len in 0..whole.len() {
            assert_eq!(Record::decode(&whole[..len]), Err(RecordError::Short), "cut off at {len}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let whole = record().encode();
        assert_eq!(Record::decode(&whole), Ok(record()));
        is_short_wherever_it_is_cut(&whole);
        let with = |at: usize, value: u8| with(&whole, at, value);
        assert_eq!(with(0, b'x'), Err(RecordError::Foreign));
        assert_eq!(with(3, 3), Err(RecordError::Version(3)));
        for (at, value) in [(4, 16), (5, 1), (7, 1), (60, 3), (61, 8), (79, 4), (80, 1), (82, 1)] {
            assert_eq!(with(at, value), Err(RecordError::Unknown { at, value }));
        }
        for (at, value) in [(62, b'/'), (64, b'/')] {
            assert_eq!(with(at, value), Err(RecordError::Path(62)), "byte {at}");
        }
        let up = Record { entries: Vec::new(), batch: None, ..record() }.encode();
        let up = [&up[..56], &[1, 0, 0, 0], b"\0\0../x\0"].concat();
        assert_eq!(Record::decode(&up), Err(RecordError::Path(62)));
        assert_eq!(Record::decode(&[&whole[..], b"\0"].concat()), Err(RecordError::Long(1)));
        let vast = [&whole[..99], &[0xff; 4], b"rsync"].concat();
        assert_eq!(Record::decode(&vast), Err(RecordError::Short));
    }

    #[test]
    fn what_went_to_another_name_makes_a_record_of_version_2() {
        let moved = Item { gone: true, to: Some(RelPath::new(b"n/d").unwrap()), ..item(b"d") };
        let record = Record { entries: vec![item(b"a"), moved], ..Record::default() };
        let whole = record.encode();
        assert_eq!(&whole[..4], b"fsf\x02");
        assert_eq!(&whole[60..], b"\0\0a\0\0\x09d\0n/d\0");
        assert_eq!(Record::decode(&whole), Ok(record.clone()));
        assert_eq!(HEAD + record.entries.iter().map(Item::len).sum::<usize>(), whole.len());
        is_short_wherever_it_is_cut(&whole);
        let with = |at: usize, value: u8| with(&whole, at, value);
        assert_eq!(with(3, 1), Err(RecordError::Unknown { at: 65, value: 9 }), "version 1 does not have it");
        assert_eq!(with(3, 3), Err(RecordError::Version(3)));
        assert_eq!(with(65, 8), Err(RecordError::Unknown { at: 65, value: 8 }), "it is not gone");
        assert_eq!(with(68, b'/'), Err(RecordError::Path(68)));
        assert_eq!(with(68, 0), Err(RecordError::Path(68)), "no name");
        let without = Record { entries: vec![item(b"a")], ..Record::default() }.encode();
        let without = [b"fsf\x02", &without[4..]].concat();
        assert_eq!(Record::decode(&without), Err(RecordError::Unknown { at: 3, value: 2 }));
        // What was written before is read as ever.
        assert!(Record::decode(&Record { entries: vec![item(b"a")], ..Record::default() }.encode()).is_ok());
    }

    #[test]
    fn many_paths_become_several_records() {
        let entries: Vec<Item> = (0..50_000).map(|n| item(format!("directory/of/some/length/{n}").as_bytes())).collect();
        let parts = split(entries.clone());
        assert_eq!(parts.len(), 2);
        for part in &parts {
            assert!(Record { entries: part.clone(), ..Record::default() }.encode().len() <= MAX_BYTES);
        }
        assert_eq!(parts.concat(), entries);
        assert_eq!(split(Vec::new()), [Vec::new()], "a record without paths is one");
        assert_eq!(Record::room(&entries), 0);
        let batch = |len| Some(Batch { bytes: vec![7; len], ..Batch::default() });
        let full = Record { entries: parts[1].clone(), batch: batch(Record::room(&parts[1])), ..Record::default() };
        assert_eq!(full.encode().len(), MAX_BYTES);
    }

    proptest! {
        #[test]
        fn any_record_comes_back(
            numbers in any::<[u64; 4]>(), identity in any::<[u8; 16]>(), flags in any::<[bool; 3]>(),
            entries in proptest::collection::vec((any::<Vec<u8>>(), 0_usize..3, any::<[bool; 3]>(), any::<Option<Vec<u8>>>()), 0..20),
            batch in proptest::option::of(any::<(u8, [u8; 3], [bool; 2], [u64; 2], Vec<u8>)>()),
        ) {
            let entries = entries.into_iter().filter_map(|(path, kind, [gone, directory, content], to)| {
                let kind = [Kind::Entry, Kind::Contents, Kind::Subtree][kind];
                let to = to.filter(|_| gone).and_then(|to| RelPath::new(&to)).filter(|to| !to.is_root());
                Some(Item { path: RelPath::new(&path)?, kind, gone, directory, content, to })
            });
            let [incarnation, number, stream, millis] = numbers;
            let [everything, held, last] = flags;
            let entries = entries.collect();
            let batch = batch.map(|(protocol, version, [xattrs, acls], [stored, made], bytes)| {
                Batch { protocol, version, xattrs, acls, stored, made, bytes }
            });
            let record = Record { incarnation, number, stream, identity, millis, everything, held, last, entries, batch };
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn what_is_read_is_what_was_written(
            mut bytes in any::<Vec<u8>>(), count in 0_u8..4, batch in any::<bool>(), version in 1_u8..3,
        ) {
            let mut whole = Record::default().encode();
            whole[3] = version;
            whole[4] = if batch { BATCH } else { 0 };
            whole[56] = count;
            whole.append(&mut bytes);
            if let Ok(record) = Record::decode(&whole) {
                prop_assert_eq!(record.encode(), whole);
            }
        }
    }
}
