//! The frame of the state file: records one after the other, each with a checksum that takes in the
//! one before it.
//!
//! Promises: [`read`] returns a prefix of the records that were written, in order and unchanged,
//! whatever happened to the file (cut anywhere, any byte changed, parts of another file in its
//! place), to the strength of a 64-bit checksum; and returns whether anything lies behind that
//! prefix.
//!
//! ```text
//! header ┌ magic 8 │ version u32 │ 0 u32 │ key 16 │ sum u64 ┐
//! record ┌ bytes u32 │ kind u32 │ payload … │ sum u64 ┐           all numbers little-endian
//! ```
//!
//! The checksum is SipHash-2-4 under a random key of the file's own, over the sum before it and the
//! record. The key keeps an old file's records, which a disk may show in the place of new ones,
//! from passing; the chain keeps one that is missing in the middle from passing unseen.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// Which layout the records have; raised when an older program could not read them.
pub(super) const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"fansync\n";
/// Of the header.
const HEADER_BYTES: usize = 40;
const SUM_BYTES: usize = 8;
const HEAD_BYTES: usize = 8;

/// The random number that a file's checksums, or a set's hashes, depend on.
pub(super) type Key = [u8; 16];

/// One record, as it lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(crate) kind: u32,
    pub(crate) payload: &'a [u8],
}

/// Where the next record is appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    key: Key,
    sum: u64,
}

impl Chain {
    /// Begins a file: appends the header to `out`.
    pub(super) fn begin(key: Key, out: &mut Vec<u8>) -> Chain {
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&key);
        let sum = checksum(&key, 0, &[&out[start..]]);
        out.extend_from_slice(&sum.to_le_bytes());
        Chain { key, sum }
    }

    /// Appends a record to `out`.
    ///
    /// # Panics
    /// When the payload has 4 GiB or more: the callers' records have a bound.
    pub(super) fn append(&mut self, kind: u32, payload: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let bytes = u32::try_from(payload.len()).expect("a record's payload fits 32 bits");
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(payload);
        self.sum = checksum(&self.key, self.sum, &[&out[start..]]);
        out.extend_from_slice(&self.sum.to_le_bytes());
    }
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contents<'a> {
    pub(crate) records: Vec<Record<'a>>,
    /// Something follows the last record: a torn tail, or damage.
    pub(crate) torn: bool,
}

/// Why there is nothing to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is {bytes} bytes long, shorter than its header")]
    Short { bytes: usize },
    #[error("it does not begin like one")]
    Foreign,
    #[error("its header is damaged")]
    Header,
    #[error("it has format {found}, this program knows {VERSION}")]
    Version { found: u32 },
}

/// Reads a file's bytes: O(bytes), no copies.
pub(super) fn read(bytes: &[u8]) -> Result<Contents<'_>, Unreadable> {
    let Some((header, mut rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(Unreadable::Short { bytes: bytes.len() });
    };
    if header[..8] != MAGIC {
        return Err(Unreadable::Foreign);
    }
    let key: Key = header[16..32].try_into().expect("16 bytes");
    let mut sum = le64(&header[32..]);
    if checksum(&key, 0, &[&header[..32]]) != sum || header[12..16] != [0; 4] {
        return Err(Unreadable::Header);
    }
    let version = le32(&header[8..]);
    if version != VERSION {
        return Err(Unreadable::Version { found: version });
    }
    let mut records = Vec::new();
    while rest.len() >= HEAD_BYTES + SUM_BYTES {
        let payload = le32(rest) as usize;
        let Some(end) = payload.checked_add(HEAD_BYTES).filter(|end| end.saturating_add(SUM_BYTES) <= rest.len()) else { break };
        sum = checksum(&key, sum, &[&rest[..end]]);
        if sum != le64(&rest[end..]) {
            break;
        }
        records.push(Record { kind: le32(&rest[4..]), payload: &rest[HEAD_BYTES..end] });
        rest = &rest[end + SUM_BYTES..];
    }
    Ok(Contents { records, torn: !rest.is_empty() })
}

/// SipHash-2-4 of `before` and the parts, one after the other.
pub(super) fn checksum(key: &Key, before: u64, parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(&before.to_le_bytes());
    parts.iter().for_each(|part| hasher.write(part));
    hasher.finish()
}

fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes"))
}

fn le64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Vec<(u32, Vec<u8>)>) {
        let records: Vec<(u32, Vec<u8>)> =
            [(1, &b"one"[..]), (2, b""), (7, &[0; 40]), (2, b""), (3, b"the last")].map(|(k, p)| (k, p.to_vec())).into();
        let mut bytes = Vec::new();
        let mut chain = Chain::begin(*b"sixteen bytes...", &mut bytes);
        for (kind, payload) in &records {
            chain.append(*kind, payload, &mut bytes);
        }
        (bytes, records)
    }

    fn owned(contents: &Contents<'_>) -> Vec<(u32, Vec<u8>)> {
        contents.records.iter().map(|r| (r.kind, r.payload.to_vec())).collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let (bytes, records) = sample();
        let contents = read(&bytes).unwrap();
        assert_eq!((owned(&contents), contents.torn), (records, false));
    }

    #[test]
    fn every_cut_and_every_changed_bit_leave_a_prefix() {
        let (bytes, records) = sample();
        for cut in 0..bytes.len() {
            if let Ok(contents) = read(&bytes[..cut]) {
                let got = owned(&contents);
                assert!(got.len() < records.len() && records.starts_with(&got), "cut at {cut}");
            } else {
                assert!(cut < HEADER_BYTES);
            }
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(contents) = read(&bytes) {
                    let got = owned(&contents);
                    assert!(contents.torn && got.len() < records.len() && records.starts_with(&got), "bit {bit} of byte {at}");
                } else {
                    assert!(at < HEADER_BYTES);
                }
            }
        }
    }

    #[test]
    fn records_of_another_file_or_another_place_do_not_pass() {
        let (bytes, records) = sample();
        let mut other = Vec::new();
        let mut chain = Chain::begin(*b"another 16 bytes", &mut other);
        chain.append(1, b"one", &mut other);
        let tail = &bytes[other.len()..];
        other.extend_from_slice(tail);
        assert_eq!(owned(&read(&other).unwrap()), records[..1]);
        // The second and the fourth record are alike; leaving out what is between them shows.
        let empty = HEAD_BYTES + SUM_BYTES;
        let first = HEADER_BYTES + empty + 3;
        let spliced = [&bytes[..first], &bytes[first + empty + 40 + empty..]].concat();
        assert_eq!(owned(&read(&spliced).unwrap()), records[..1]);
    }

    #[test]
    fn what_is_no_state_file_says_so() {
        assert_eq!(read(b""), Err(Unreadable::Short { bytes: 0 }));
        assert_eq!(read(&[0; 100]), Err(Unreadable::Foreign));
        let mut newer = Vec::new();
        Chain::begin([7; 16], &mut newer);
        newer[8] = 2;
        let sum = checksum(&[7; 16], 0, &[&newer[..32]]);
        newer[32..].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(read(&newer), Err(Unreadable::Version { found: 2 }));
    }
}
