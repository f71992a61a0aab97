//! Paths below a watch root, as bytes.
//!
//! A file name on Linux is any byte string without `/` and NUL, so paths are bytes from the
//! kernel's buffer to rsync's list and become text only for a human eye.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::ops::{Bound, Deref};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest path that is handed to rsync, in bytes. Linux `PATH_MAX` is 4,096; rsync 3.5.0
/// truncates beyond 4,095 and then looks the truncated name up (measured), so longer ones are
/// refused before they are sent.
pub(crate) const MAX_PATH_BYTES: usize = 4000;

/// A path relative to the watch root: raw bytes, no leading, trailing or doubled `/`, no `.` or
/// `..` component. The root itself is the empty path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// The watch root itself.
    pub const fn root() -> RelPath {
        RelPath(Vec::new())
    }

    /// Normalises `bytes` (doubled slashes, `.` components, leading and trailing slashes); `None`
    /// when a component is `..` or a byte is NUL, which no path below a root holds.
    pub fn new(bytes: &[u8]) -> Option<RelPath> {
        let mut out = Vec::with_capacity(bytes.len());
        for part in bytes.split(|&b| b == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return None,
                _ if part.contains(&0) => return None,
                _ => {
                    if !out.is_empty() {
                        out.push(b'/');
                    }
                    out.extend_from_slice(part);
                }
            }
        }
        Some(RelPath(out))
    }

    /// Takes bytes that are known to be normal: built from a parent's path and a kernel's file
    /// name.
    pub fn from_normal(bytes: impl Into<Vec<u8>>) -> RelPath {
        let bytes = bytes.into();
        debug_assert!(RelPath::new(&bytes).is_some_and(|p| p.0 == bytes), "not a normal path: {}", Shown(&bytes));
        RelPath(bytes)
    }

    /// This path with `name` below it.
    pub(crate) fn join(&self, name: &[u8]) -> RelPath {
        let mut out = self.0.clone();
        push(&mut out, name);
        RelPath(out)
    }

    /// Whether this is the watch root.
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative filesystem path (`.` for the root, so that it can be opened from the root's
    /// descriptor).
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(if self.0.is_empty() { b"." } else { &self.0 }))
    }
}

impl Deref for RelPath {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for RelPath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for RelPath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown(&self.0).fmt(f)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Shown(&self.0))
    }
}

/// Appends `name` to `dir` with a `/` between, none after the root.
pub(crate) fn push(dir: &mut Vec<u8>, name: &[u8]) {
    if !dir.is_empty() {
        dir.push(b'/');
    }
    dir.extend_from_slice(name);
}

/// The parent of a relative path; `None` for the root.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    Some(memchr::memrchr(b'/', path).map_or(&b""[..], |at| &path[..at]))
}

/// The last component; empty for the root.
pub(crate) fn base(path: &[u8]) -> &[u8] {
    memchr::memrchr(b'/', path).map_or(path, |at| &path[at + 1..])
}

/// Whether `path` is `above` or lies below it. Everything is below the root.
pub(crate) fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    above.is_empty() || (path.starts_with(above) && (path.len() == above.len() || path[above.len()] == b'/'))
}

/// Byte order in which everything below a directory follows it directly: `/` before all other
/// bytes.
pub(crate) fn tree_order(a: &[u8], b: &[u8]) -> Ordering {
    let differs = a.iter().zip(b).position(|(a, b)| a != b);
    match differs {
        None => a.len().cmp(&b.len()),
        Some(at) => match (a[at], b[at]) {
            (b'/', _) => Ordering::Less,
            (_, b'/') => Ordering::Greater,
            (a, b) => a.cmp(&b),
        },
    }
}

/// Whether a key of `map` is `path` or lies below it. O(log n).
pub(crate) fn any_at_or_below<V>(map: &BTreeMap<RelPath, V>, path: &[u8]) -> bool {
    if path.is_empty() {
        return !map.is_empty();
    }
    // Between the path and what is below it come other names that begin with it: `a`, `a-b`, `a/b`.
    let from = [path, b"/"].concat();
    let next = map.range::<[u8], _>((Bound::Included(&*from), Bound::Unbounded)).next();
    map.contains_key(path) || next.is_some_and(|(next, _)| next.starts_with(&from))
}

/// A path for a human eye: control bytes, invalid UTF-8, and what turns the writing direction or
/// breaks lines as `\xNN`, the root as `.`. Not meant to be parsed.
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(".");
        }
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    // By the last four, "gpj.exe" could read "exe.jpg".
                    c if c.is_control()
                        || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
                    {
                        for b in c.encode_utf8(&mut [0; 4]).bytes() {
                            write!(f, "\\x{b:02x}")?;
                        }
                    }
                    c => write!(f, "{c}")?,
                }
            }
            for b in chunk.invalid() {
                write!(f, "\\x{b:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_form() {
        for (given, want) in [
            (&b"a/b"[..], Some(&b"a/b"[..])),
            (b"/a//b/", Some(b"a/b")),
            (b"./a/./b", Some(b"a/b")),
            (b".", Some(b"")),
            (b"a/../b", None),
            (b"..", None),
            (b"...", Some(b"...")),
            (b"a\0b", None),
            (b"\xff/ \n", Some(b"\xff/ \n")),
        ] {
            assert_eq!(RelPath::new(given).as_deref(), want, "{}", Shown(given));
        }
    }

    #[test]
    fn relations() {
        assert_eq!(parent(b"a/b/c"), Some(&b"a/b"[..]));
        assert_eq!(parent(b"a"), Some(&b""[..]));
        assert_eq!(parent(b""), None);
        assert_eq!(base(b"a/b"), b"b");
        assert!(is_at_or_below(b"a/b", b"a"));
        assert!(is_at_or_below(b"a", b"a"));
        assert!(!is_at_or_below(b"ab", b"a"));
        assert!(is_at_or_below(b"x", b""));
    }

    #[test]
    fn order_of_the_tree() {
        for (a, b) in [("a", "a/b"), ("a/b", "a-c"), ("a/z", "a\u{1}"), ("", "a"), ("a/b/c", "a/c"), ("a", "b")] {
            assert_eq!(tree_order(a.as_bytes(), b.as_bytes()), Ordering::Less, "{a:?} {b:?}");
            assert_eq!(tree_order(b.as_bytes(), a.as_bytes()), Ordering::Greater, "{a:?} {b:?}");
        }
    }

    #[test]
    fn one_that_begins_alike_is_not_below() {
        for (keys, path, want) in [
            (&["a/bc", "a-b", "a.b"][..], "a/b", false),
            (&["a/bc", "a/b"], "a/b", true),
            (&["a/b-c", "a/b/c"], "a/b", true),
            (&["a"], "a/b", false),
            (&["a"], "", true),
            (&[], "", false),
        ] {
            let map: BTreeMap<RelPath, ()> = keys.iter().map(|key| (RelPath::from_normal(*key), ())).collect();
            assert_eq!(any_at_or_below(&map, path.as_bytes()), want, "{keys:?} {path}");
        }
    }

    #[test]
    fn shown_is_one_line_and_reversible_by_eye() {
        assert_eq!(Shown(b"a\nb\xff\\").to_string(), "a\\x0ab\\xff\\\\");
        assert_eq!(Shown("\u{202e}gpj.exe".as_bytes()).to_string(), "\\xe2\\x80\\xaegpj.exe");
        assert_eq!(Shown(b"").to_string(), ".");
        assert_eq!(Shown("é".as_bytes()).to_string(), "é");
    }
}
