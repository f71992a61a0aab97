//! What rsync's itemised changes say is different, in words.

use crate::sync::output::Item;

/// What is different about a path. The first that is true of these, or all of the last kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Why {
    change: [u8; 11],
    /// Something of another type has the name on the target, and is to be removed.
    other_type: bool,
}

/// Where the copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The source is here.
    Target,
    /// A follower is the copy.
    Here,
}

impl Side {
    fn words(self) -> &'static str {
        match self {
            Side::Target => "on the target",
            Side::Here => "here",
        }
    }
}

/// Attributes by their place in `YXcstpoguax` (rsync(1), `--itemize-changes`), less the first
/// three.
const ATTRIBUTES: [(usize, &str); 6] = [(4, "times"), (5, "mode"), (6, "owner"), (7, "group"), (9, "ACL"), (10, "xattrs")];

impl Why {
    pub(super) fn new(item: &Item) -> Why {
        Why { change: item.change, other_type: false }
    }

    /// A path that fails on every try, whatever a comparison sees of it.
    pub(super) fn failing() -> Why {
        Why { change: *b"!          ", other_type: false }
    }

    pub(super) fn with_other_type(self) -> Why {
        Why { other_type: true, ..self }
    }

    /// The target has it, the source has not.
    pub(super) fn is_extra(&self) -> bool {
        self.change[0] == b'*'
    }

    /// The content of a file would be sent.
    pub(super) fn sends(&self) -> bool {
        matches!(self.change, [b'<' | b'>', b'f', ..])
    }

    /// Something may go from the target when this is put right.
    pub(super) fn removes(&self) -> bool {
        self.is_extra() || self.is_new()
    }

    /// The source has it, the target has not.
    pub(super) fn is_missing(&self) -> bool {
        self.is_new() && !self.other_type
    }

    /// What rsync would make anew: it is missing, or there is something of another type.
    pub(super) fn is_new(&self) -> bool {
        self.change[2..].iter().all(|&b| b == b'+')
    }

    /// A FIFO, socket, device node or symbolic link that the target has, as far as rsync compares
    /// it, but with other attributes: rsync sets these in place, for every name that is linked to
    /// it there.
    pub(super) fn is_set_in_place(&self) -> bool {
        let same = self.change[2..4].iter().all(|&b| matches!(b, b'.' | b' '));
        matches!(self.change, [b'.' | b'c' | b'h', b'S' | b'D' | b'L', ..]) && same
    }

    /// It is a directory of the source.
    pub(super) fn is_dir(&self) -> bool {
        self.change[1] == b'd' && !self.is_extra() // `*deleting` has a `d` there, too
    }

    pub(super) fn words(&self, side: Side) -> String {
        let place = side.words();
        let [how, kind, ..] = self.change;
        if self.change[0] == b'!' {
            return "fails on every try, see FAILED in `fansync status`".into();
        }
        if self.is_extra() {
            return format!("extra {place}");
        }
        if self.other_type {
            return format!("of another type {place}");
        }
        if self.is_missing() {
            return format!("missing {place}");
        }
        let set = |at: usize| !matches!(self.change[at], b'.' | b' ');
        let mut words = Vec::new();
        match kind {
            b'L' if set(2) || set(3) => words.push("link target"),
            b'D' | b'S' if set(2) || set(3) => words.push("device number"),
            b'f' if set(3) => words.push("size"),
            b'f' if set(2) => words.push("content"),
            _ => {}
        }
        words.extend(ATTRIBUTES.iter().filter(|(at, _)| set(*at)).map(|(_, word)| *word));
        match (how, words.is_empty()) {
            (b'h', _) => "not linked to the other names of its file".into(),
            (_, true) => format!("differs ({})", String::from_utf8_lossy(&self.change).trim_end()),
            (_, false) => words.join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::RelPath;

    #[test]
    fn what_a_line_says() {
        for (change, want) in [
            (b"*deleting  ", "extra on the target"),
            (b"<f+++++++++", "missing on the target"),
            (b"cd+++++++++", "missing on the target"),
            (b"<fc........", "content"),
            (b"<fcs.......", "size"),
            (b">f.st......", "size, times"),
            (b"<f..t......", "times"),
            (b".f..tpog...", "times, mode, owner, group"),
            (b".d..t......", "times"),
            (b".f........x", "xattrs"),
            (b".f...p...a.", "mode, ACL"),
            (b"cLc........", "link target"),
            (b".L..T......", "times"),
            (b"cDc.t......", "device number, times"),
            (b"hf..t......", "not linked to the other names of its file"),
        ] {
            let why = Why::new(&Item { change: *change, path: RelPath::root(), dir: false });
            assert_eq!(why.words(Side::Target), want, "{}", String::from_utf8_lossy(change));
        }
        let why = Why::new(&Item { change: *b"cd+++++++++", path: RelPath::root(), dir: true }).with_other_type();
        assert!(!why.is_missing() && why.words(Side::Target) == "of another type on the target");
        assert_eq!(why.words(Side::Here), "of another type here");
    }

    #[test]
    fn what_a_change_may_cost_the_target() {
        // What removes something is sent within max_delete, so a kind that is missed here deletes
        // unasked.
        for (change, extra, sends, removes, missing, dir) in [
            (b"*deleting  ", true, false, true, false, false),
            (b"<f+++++++++", false, true, true, true, false),
            (b">f+++++++++", false, true, true, true, false),
            (b"cd+++++++++", false, false, true, true, true),
            (b"cL+++++++++", false, false, true, true, false),
            (b"<fcst......", false, true, false, false, false),
            (b".f..t......", false, false, false, false, false),
            (b".d..tp.....", false, false, false, false, true),
            (b"hf         ", false, false, false, false, false),
        ] {
            let why = Why::new(&Item { change: *change, path: RelPath::root(), dir: false });
            let is = (why.is_extra(), why.sends(), why.removes(), why.is_missing(), why.is_dir());
            assert_eq!(is, (extra, sends, removes, missing, dir), "{}", String::from_utf8_lossy(change));
        }
        let other = Why::new(&Item { change: *b"<f+++++++++", path: RelPath::root(), dir: false }).with_other_type();
        assert!(other.removes() && !other.is_missing(), "what has the name there goes");
        let fails = Why::failing();
        assert!(
            !(fails.is_extra() || fails.sends() || fails.removes() || fails.is_dir()),
            "nothing is known of it but that it fails"
        );
    }
}
