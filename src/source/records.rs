//! The records that one read(2) of a notification descriptor brings, one after the other.

use std::marker::PhantomData;

/// A kernel interface's record.
pub trait Record<'a>: Sized {
    /// The interface's name.
    const SOURCE: &'static str;

    /// The first record of `buf`, and what follows it; or what is wrong with it.
    fn split(buf: &'a [u8]) -> Result<(Self, &'a [u8]), &'static str>;
}

/// Bytes that no kernel would write. The buffer's remainder cannot be trusted, so its changes count
/// as lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{source_name} record at byte {at} of the buffer is corrupt: {what}; its changes count as lost, a rescan is needed")]
pub struct Corrupt {
    /// Which interface it came from.
    pub(crate) source_name: &'static str,
    /// Where the record begins, in bytes from the buffer's start.
    pub(crate) at: usize,
    /// What is wrong with it.
    pub(crate) what: &'static str,
}

/// The records of a buffer, oldest first. Ends after the first [`Corrupt`].
#[derive(Clone, Debug)]
pub struct Records<'a, R> {
    rest: &'a [u8],
    len: usize,
    kind: PhantomData<R>,
}

impl<'a, R: Record<'a>> Records<'a, R> {
    /// Those of `buf`, as read(2) filled it.
    pub(crate) fn of(buf: &'a [u8]) -> Records<'a, R> {
        Records { rest: buf, len: buf.len(), kind: PhantomData }
    }
}

impl<'a, R: Record<'a>> Iterator for Records<'a, R> {
    type Item = Result<R, Corrupt>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let at = self.len - self.rest.len();
        Some(match R::split(self.rest) {
            Ok((record, rest)) => {
                self.rest = rest;
                Ok(record)
            }
            Err(what) => {
                self.rest = &[];
                Err(Corrupt { source_name: R::SOURCE, at, what })
            }
        })
    }
}

impl<'a, R: Record<'a>> std::iter::FusedIterator for Records<'a, R> {}
