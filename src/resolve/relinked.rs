//! Names that do not lead to what changed.
//!
//! An event carries the name by which a file was opened. The file may have lost that name since
//! (linked to another one and unlinked, replaced by a rename), or never had it (`O_TMPFILE`: `#`
//! and the inode number); what is written then belongs to its other names. So of a file whose
//! number of names changed while it lived, a name is checked before it is believed, and one that
//! does not lead to the file is not used: the file is looked up by its handle.
//!
//! A file that lost a name before the events began is not known here.

use std::collections::HashSet;

use super::follow::OwnedFid;
use crate::source::fan_decode::Fid;

/// Files remembered. Beyond that every name is checked, at the price of a check-up for each event.
const MOST: usize = 50_000;

/// Whether it may be the name that the kernel gives to a file without one.
pub(super) fn is_made_up(name: &[u8]) -> bool {
    name.strip_prefix(b"#").is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Relinked {
    files: HashSet<OwnedFid>,
    all: bool,
}

impl Relinked {
    /// The number of names of `file` has changed.
    pub(crate) fn add(&mut self, file: &Fid<'_>) {
        if !self.all {
            self.files.insert(OwnedFid::of(file));
            if self.files.len() > MOST {
                (self.files, self.all) = (HashSet::new(), true);
            }
        }
    }

    /// The same of a name outside: where every name would have to be checked, none is, since most
    /// of what changes there is of no concern.
    pub(crate) fn is_known(&self, file: &Fid<'_>, name: &[u8]) -> bool {
        !self.all && self.may_stray(file, name)
    }

    /// Whether the number of names of `file` may have changed while it lived.
    pub(crate) fn is_added(&self, file: &Fid<'_>) -> bool {
        self.all || !self.files.is_empty() && self.files.contains(&OwnedFid::of(file))
    }

    /// Whether `name` may not lead to `file`.
    #[inline]
    pub(crate) fn may_stray(&self, file: &Fid<'_>, name: &[u8]) -> bool {
        is_made_up(name) || self.is_added(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::handle::FsId;

    #[test]
    fn names_are_checked_where_they_may_be_wrong() {
        fn fid(handle: &[u8]) -> Fid<'_> {
            Fid { fs: FsId(1), kind: 1, handle }
        }
        let mut relinked = Relinked::default();
        assert!(!relinked.may_stray(&fid(b"a"), b"f") && relinked.may_stray(&fid(b"a"), b"#123"));
        relinked.add(&fid(b"a"));
        assert!(relinked.may_stray(&fid(b"a"), b"f") && !relinked.may_stray(&fid(b"b"), b"f"));
        let handles: Vec<[u8; 8]> = (0..=MOST).map(usize::to_ne_bytes).collect();
        handles.iter().for_each(|handle| relinked.add(&fid(handle)));
        assert!(relinked.may_stray(&fid(b"b"), b"f") && relinked.files.is_empty(), "bounded, and none is missed");
    }
}
