//! inotify records to events: safe code over bytes, no system calls, no allocation.
//!
//! Promises what `fan_decode` does: every byte string is decoded or refused, none panics, nothing
//! outside is read.
//!
//! ```text
//! ┌ wd i32 │ mask u32 │ cookie u32 │ len u32 │ name, NUL, padding … len bytes ┐
//! ```

use super::records::{Record, Records};

const HEAD_BYTES: usize = 16;

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InoEvent<'a> {
    /// The watch it belongs to; -1 for an overflow.
    pub(crate) wd: i32,
    /// `IN_*` bits: one kind of event, and `IN_ISDIR` when its object is a directory.
    pub(crate) mask: u32,
    /// Ties the two halves of a rename together; 0 for others.
    pub(crate) cookie: u32,
    /// The entry's name in the watched directory; empty for the directory itself.
    pub(crate) name: &'a [u8],
}

/// The events of `buf`, as read(2) filled it, oldest first. Ends after the first
/// [`Corrupt`](super::records::Corrupt).
pub fn events(buf: &[u8]) -> Records<'_, InoEvent<'_>> {
    Records::of(buf)
}

impl<'a> Record<'a> for InoEvent<'a> {
    const SOURCE: &'static str = "inotify";

    #[inline]
    fn split(buf: &'a [u8]) -> Result<(InoEvent<'a>, &'a [u8]), &'static str> {
        let (head, rest) = buf.split_first_chunk::<HEAD_BYTES>().ok_or("shorter than an event's head")?;
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (name, rest) = rest.split_at_checked(word(12) as usize).ok_or("a name is longer than the buffer")?;
        let name = match name {
            [] => name,
            _ => &name[..memchr::memchr(0, name).ok_or("a name does not end in NUL")?],
        };
        Ok((InoEvent { wd: word(0) as i32, mask: word(4), cookie: word(8), name }, rest))
    }
}

/// Appends `event` to `out` as the kernel would write it, the name padded to a multiple of 16
/// bytes. For tests and benches.
///
/// # Panics
/// If the name holds a NUL: no kernel writes that.
pub fn encode_event(out: &mut Vec<u8>, event: &InoEvent<'_>) {
    assert!(!event.name.contains(&0), "a name holds no NUL");
    let len = if event.name.is_empty() { 0 } else { (event.name.len() + 1).next_multiple_of(HEAD_BYTES) };
    out.extend_from_slice(&event.wd.to_ne_bytes());
    out.extend_from_slice(&event.mask.to_ne_bytes());
    out.extend_from_slice(&event.cookie.to_ne_bytes());
    out.extend_from_slice(&(len as u32).to_ne_bytes());
    out.extend_from_slice(event.name);
    out.resize(out.len() + len - event.name.len(), 0);
}

#[cfg(test)]
mod tests {
    use super::super::records::Corrupt;
    use super::*;
    use proptest::prelude::*;

    const OVERFLOW: InoEvent<'static> = InoEvent { wd: -1, mask: libc::IN_Q_OVERFLOW, cookie: 0, name: b"" };

    fn encoded(events: &[InoEvent<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        events.iter().for_each(|event| encode_event(&mut out, event));
        out
    }

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(HEAD_BYTES, size_of::<libc::inotify_event>());
    }

    #[test]
    fn faults_end_the_iteration() {
        let good = InoEvent { wd: 1, mask: libc::IN_CREATE, cookie: 0, name: b"name" };
        let head = encoded(&[good]).len();
        let set = |at: usize, bytes: &[u8]| {
            let mut buf = encoded(&[good, good, OVERFLOW]);
            buf[at..at + bytes.len()].copy_from_slice(bytes);
            buf
        };
        for (what, buf) in [
            ("shorter than an event's head", encoded(&[good]).into_iter().chain([0; 15]).collect()),
            ("a name is longer than the buffer", set(head + 12, &u32::MAX.to_ne_bytes())),
            ("a name does not end in NUL", set(head + 12, &4u32.to_ne_bytes())),
        ] {
            let mut found = events(&buf);
            assert_eq!(found.next(), Some(Ok(good)), "{what}");
            assert_eq!(found.next(), Some(Err(Corrupt { source_name: "inotify", at: head, what })));
            assert_eq!(found.next(), None, "{what}");
        }
    }

    fn some_event() -> impl Strategy<Value = (i32, u32, u32, Vec<u8>)> {
        (any::<i32>(), any::<u32>(), any::<u32>(), prop::collection::vec(1u8.., 0..256))
    }

    fn lend((wd, mask, cookie, name): &(i32, u32, u32, Vec<u8>)) -> InoEvent<'_> {
        InoEvent { wd: *wd, mask: *mask, cookie: *cookie, name }
    }

    fn walk(buf: &[u8]) {
        let mut bytes = 0;
        for event in events(buf) {
            match event {
                Ok(event) => bytes += HEAD_BYTES + event.name.len(),
                Err(corrupt) => assert!(corrupt.at < buf.len()),
            }
        }
        assert!(bytes <= buf.len());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(given in prop::collection::vec(some_event(), 0..8)) {
            let given: Vec<_> = given.iter().map(lend).collect();
            let buf = encoded(&given);
            prop_assert_eq!(events(&buf).collect::<Result<Vec<_>, _>>(), Ok(given));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(buf in prop::collection::vec(any::<u8>(), 0..200)) {
            walk(&buf);
        }

        #[test]
        fn damaged_records_are_decoded_or_refused(
            given in prop::collection::vec(some_event(), 1..4),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut buf = encoded(&given.iter().map(lend).collect::<Vec<_>>());
            for (at, byte) in damage {
                let at = at.index(buf.len());
                buf[at] = byte;
            }
            buf.truncate(cut.index(buf.len() + 1));
            walk(&buf);
        }
    }
}
