//! Short byte strings without an allocation of their own: names and file handles, of which there
//! are millions and few are long.

use std::fmt;
use std::ops::Deref;

/// Bytes that fit into the value itself.
const INLINE: usize = 22;

/// Bytes; at most `INLINE` of them lie in the value, more on the heap. 24 bytes by itself, where a
/// `Box<[u8]>` takes 16 and at least 32 more on the heap (glibc).
#[derive(Clone)]
pub(crate) struct Short(Repr);

#[derive(Clone)]
enum Repr {
    Here { len: u8, bytes: [u8; INLINE] },
    There(Box<[u8]>),
}

impl From<&[u8]> for Short {
    fn from(from: &[u8]) -> Short {
        Short(match from.len() {
            len @ ..=INLINE => {
                let mut bytes = [0; INLINE];
                bytes[..len].copy_from_slice(from);
                Repr::Here { len: len as u8, bytes }
            }
            _ => Repr::There(from.into()),
        })
    }
}

impl Default for Short {
    fn default() -> Short {
        Short::from(&[][..])
    }
}

impl Deref for Short {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Here { len, bytes } => &bytes[..usize::from(*len)],
            Repr::There(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back() {
        assert_eq!(std::mem::size_of::<Short>(), 24);
        let long = [7; 255];
        for len in 0..=long.len() {
            let short = Short::from(&long[..len]);
            assert_eq!(*short, long[..len]);
            assert_eq!(matches!(short.0, Repr::Here { .. }), len <= INLINE, "{len}");
        }
        assert!(Short::default().is_empty());
    }
}
