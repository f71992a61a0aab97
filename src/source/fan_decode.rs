//! fanotify records to events: safe code over bytes, no system calls, no allocation.
//!
//! Promises: every byte string is either decoded or refused with
//! [`Corrupt`](super::records::Corrupt), none panics, and nothing outside the given slice is read.
//! Records of unknown type are skipped by their length and counted, so a newer kernel's additions
//! pass by. Events borrow from the buffer; a buffer is decoded where the kernel wrote it.
//!
//! How a record lies in memory (fanotify(7), native byte order, all multiples of 4 bytes):
//!
//! ```text
//! event  ┌ event_len u32 │ vers u8 = 3 │ – u8 │ metadata_len u16 = 24 │ mask u64 │ fd i32 = -1 │ pid i32 ┐
//!        └ info … up to event_len                                                                         ┘
//! info   ┌ type u8 │ – u8 │ len u16 │ fsid 8 │ handle_bytes u32 │ handle_type i32 │ handle … │ name … NUL, padding ┐
//! ```
//!
//! What the kernel says, measured on 6.18, ext4, xfs, btrfs and tmpfs alike (tests beside
//! `sys::fanotify`):
//! - A directory's own attributes: the directory's handle with the name `.`, no child; the
//!   filesystem's root too.
//! - A mask is the union of what was merged, without order. Merging needs the same object, so a
//!   name deleted and made again gives two records, in order: `CREATE|CLOSE_WRITE|DELETE` of the
//!   first file, then `CREATE|CLOSE_WRITE` of the second.
//! - `FAN_RENAME`: only `old` and `new`, no `dir`; an exchange gives one record for each direction.
//!   The overwritten file has a record without a place, below.
//! - **Records without a place**, `dir` = `None` and `child` set. `FAN_ATTRIB`: a file's link count
//!   changed (at every link and unlink, beside the record that names the entry). But also
//!   `FAN_CLOSE_WRITE` and `FAN_ATTRIB` of a change made through a file handle whose directory
//!   entry is not in memory: knfsd after a restart or under memory pressure. Opening the child's
//!   handle decides: `ESTALE`, it is gone and its `FAN_DELETE` says so; a path, that is the place;
//!   the path `/` alone, the kernel does not know where it is, and the change is lost until a scan
//!   finds it by its ctime.

use super::records::{Record, Records};
use crate::sys::handle::{FsId, HandleRef};

const HEAD_BYTES: usize = 24;
/// Type, padding, length, fsid and the handle's two words.
const FID_HEAD_BYTES: usize = 20;
/// `FANOTIFY_METADATA_VERSION`, unchanged since Linux 3.0.
const VERSION: u8 = 3;

/// An object by handle.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fid<'a> {
    /// The filesystem.
    pub fs: FsId,
    /// `handle_type`.
    pub kind: i32,
    /// `f_handle`; empty where the kernel had none to give.
    pub handle: &'a [u8],
}

impl<'a> Fid<'a> {
    /// The handle alone, to open or to look up inside a filesystem already known.
    pub(crate) fn handle_ref(&self) -> HandleRef<'a> {
        HandleRef { kind: self.kind, bytes: self.handle }
    }
}

/// An entry of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place<'a> {
    /// The directory.
    pub fid: Fid<'a>,
    /// The entry's name, without NUL; `.` for the directory itself; empty when the record carries
    /// no name.
    pub name: &'a [u8],
}

/// One event. Which fields are set follows from the group's flags and the mask; the kernel may have
/// merged several changes of one object into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FanEvent<'a> {
    /// `FAN_*` bits; several when merged. `FAN_ONDIR` says that the object is a directory,
    /// `FAN_Q_OVERFLOW` that events were lost (then nothing else is set).
    pub mask: u64,
    /// The process that caused the (first) event; 0 for an overflow or a process outside this pid
    /// namespace.
    pub pid: i32,
    /// Where it happened; `None` for overflow, rename, and records without a place (see the
    /// module).
    pub dir: Option<Place<'a>>,
    /// `FAN_RENAME`: the place before.
    pub old: Option<Place<'a>>,
    /// `FAN_RENAME`: the place after.
    pub new: Option<Place<'a>>,
    /// The object itself, where the group reports it.
    pub child: Option<Fid<'a>>,
    /// Info records of unknown type that were skipped.
    pub skipped: u32,
}

/// The events of `buf`, as read(2) filled it, oldest first. Ends after the first
/// [`Corrupt`](super::records::Corrupt).
pub fn events(buf: &[u8]) -> Records<'_, FanEvent<'_>> {
    Records::of(buf)
}

impl<'a> Record<'a> for FanEvent<'a> {
    const SOURCE: &'static str = "fanotify";

    #[inline]
    fn split(buf: &'a [u8]) -> Result<(FanEvent<'a>, &'a [u8]), &'static str> {
        let head: &[u8; HEAD_BYTES] = buf.first_chunk().ok_or("shorter than an event's head")?;
        let event_len = u32_at(head, 0) as usize;
        if head[4] != VERSION {
            return Err("unknown version of the event's head");
        }
        let head_len = u16::from_ne_bytes([head[6], head[7]]) as usize;
        if head_len < HEAD_BYTES {
            return Err("metadata_len is shorter than an event's head");
        }
        if u32_at(head, 16) as i32 >= 0 {
            return Err("carries a descriptor, which no group with file ids reports");
        }
        let (event, rest) = buf.split_at_checked(event_len).ok_or("event_len is longer than the buffer")?;
        let mut infos = event.get(head_len..).ok_or("event_len is shorter than metadata_len")?;
        let mask = u64::from_ne_bytes([head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15]]);
        let pid = u32_at(head, 20) as i32;
        let mut out = FanEvent { mask, pid, dir: None, old: None, new: None, child: None, skipped: 0 };
        while !infos.is_empty() {
            let (kind, info, more) = split_info(infos)?;
            infos = more;
            match kind {
                libc::FAN_EVENT_INFO_TYPE_DFID_NAME => out.dir = Some(place(info)?),
                libc::FAN_EVENT_INFO_TYPE_FID => out.child = Some(fid(info)?.0),
                libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => out.old = Some(place(info)?),
                libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => out.new = Some(place(info)?),
                libc::FAN_EVENT_INFO_TYPE_DFID => out.dir = Some(Place { fid: fid(info)?.0, name: &[] }),
                _ => out.skipped += 1,
            }
        }
        Ok((out, rest))
    }
}

/// One info record off the front: its type, all its bytes, and what follows.
#[inline]
fn split_info(buf: &[u8]) -> Result<(u8, &[u8], &[u8]), &'static str> {
    let head: &[u8; 4] = buf.first_chunk().ok_or("shorter than an info record's head")?;
    let len = u16::from_ne_bytes([head[2], head[3]]) as usize;
    if len < head.len() {
        return Err("an info record's length is shorter than its head");
    }
    let (info, rest) = buf.split_at_checked(len).ok_or("an info record is longer than its event")?;
    Ok((head[0], info, rest))
}

/// The object an info record names, and the bytes behind its handle.
#[inline]
fn fid(info: &[u8]) -> Result<(Fid<'_>, &[u8]), &'static str> {
    let (head, rest) = info.split_first_chunk::<FID_HEAD_BYTES>().ok_or("an info record is too short for a file id")?;
    let fs = FsId(u64::from_ne_bytes([head[4], head[5], head[6], head[7], head[8], head[9], head[10], head[11]]));
    let (handle, rest) =
        rest.split_at_checked(u32_at(head, 12) as usize).ok_or("a file handle is longer than its info record")?;
    Ok((Fid { fs, kind: u32_at(head, 16) as i32, handle }, rest))
}

#[inline]
fn place(info: &[u8]) -> Result<Place<'_>, &'static str> {
    let (fid, rest) = fid(info)?;
    let end = memchr::memchr(0, rest).ok_or("a name does not end in NUL")?;
    Ok(Place { fid, name: &rest[..end] })
}

#[inline]
fn u32_at(head: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

/// Appends `event` to `out` as the kernel would write it, `skipped` as that many records of an
/// unknown type. For tests and benches: the decoder's counterpart.
///
/// # Panics
/// If a record would be longer than 65,535 bytes, or a name holds a NUL: the kernel writes no such
/// record.
pub fn encode_event(out: &mut Vec<u8>, event: &FanEvent<'_>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[VERSION, 0]);
    out.extend_from_slice(&(HEAD_BYTES as u16).to_ne_bytes());
    out.extend_from_slice(&event.mask.to_ne_bytes());
    out.extend_from_slice(&libc::FAN_NOFD.to_ne_bytes());
    out.extend_from_slice(&event.pid.to_ne_bytes());
    let mut info = |kind: u8, fid: &Fid<'_>, name: Option<&[u8]>| {
        assert!(name.is_none_or(|name| !name.contains(&0)), "a name holds no NUL");
        let unpadded = FID_HEAD_BYTES + fid.handle.len() + name.map_or(0, |name| name.len() + 1);
        let len = unpadded.next_multiple_of(4);
        out.extend_from_slice(&[kind, 0]);
        out.extend_from_slice(&u16::try_from(len).expect("an info record's length is 16 bits").to_ne_bytes());
        out.extend_from_slice(&fid.fs.0.to_ne_bytes());
        out.extend_from_slice(&(fid.handle.len() as u32).to_ne_bytes());
        out.extend_from_slice(&fid.kind.to_ne_bytes());
        out.extend_from_slice(fid.handle);
        out.extend_from_slice(name.unwrap_or_default());
        out.resize(out.len() + len - unpadded + usize::from(name.is_some()), 0);
    };
    for (place, kind) in [
        (&event.old, libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME),
        (&event.new, libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME),
        (&event.dir, libc::FAN_EVENT_INFO_TYPE_DFID_NAME),
    ] {
        match place {
            Some(Place { fid, name: [] }) if kind == libc::FAN_EVENT_INFO_TYPE_DFID_NAME => {
                info(libc::FAN_EVENT_INFO_TYPE_DFID, fid, None);
            }
            Some(place) => info(kind, &place.fid, Some(place.name)),
            None => {}
        }
    }
    if let Some(child) = &event.child {
        info(libc::FAN_EVENT_INFO_TYPE_FID, child, None);
    }
    for _ in 0..event.skipped {
        const UNKNOWN: u8 = 0xee;
        out.extend_from_slice(&[UNKNOWN, 0]);
        out.extend_from_slice(&8u16.to_ne_bytes());
        out.extend_from_slice(&[0xaa; 4]);
    }
    let len = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&len.to_ne_bytes());
}

#[cfg(test)]
#[path = "fan_decode_tests.rs"]
mod tests;
