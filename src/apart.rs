//! Places below the source that runs leave alone, found while the mirror runs: what is mounted
//! there is no tree of files, or the filesystem that was there is gone.
//!
//! Each place becomes an exclude rule in front of the mirror's own. A rule hides the place on the
//! source and protects it on the target, so a comparison of all that lies around it neither reads
//! it nor deletes it. What is dirty at or below such a place does not leave by a list either
//! ([`Apart::due`]).
//!
//! | place | the directory itself | what lies below it |
//! | --- | --- | --- |
//! | [`Why::NoTree`] | is mirrored | left alone, nothing waits; compared once it is unmounted |
//! | [`Why::Users`] | left alone, for it may not even be looked at | the same |
//! | [`Why::Held`] | left alone | waits until the hold ends |
//!
//! A hold covers its place and nothing else: the rest of the mirror goes on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::dirty::Kind;
use crate::filter::Filter;
use crate::guard::Hold;
use crate::path::{self, RelPath};

/// Why a place is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// What is mounted there is not mirrored; in words.
    NoTree(String),
    /// A user mounted it; in words. Even root may be refused to look at it.
    Users(String),
    /// What lies there waits until it is as it was, or until it is accepted.
    Held(Hold),
}

impl Why {
    /// For people. A hold needs the name of the source, see [`Hold::words`].
    pub(crate) fn words(&self) -> String {
        match self {
            Why::NoTree(why) | Why::Users(why) => why.clone(),
            Why::Held(hold) => hold.words("the source"),
        }
    }
}

/// What becomes of a dirty path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// It leaves as always.
    Goes,
    /// It leaves, without what lies below it.
    Alone,
    /// Nothing is to be sent.
    Drops,
    /// It waits for the end of a hold.
    Waits,
}

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Apart {
    places: BTreeMap<RelPath, Why>,
}

impl Apart {
    /// Adds a place, or gives it another reason. The root is none: what concerns all of the source
    /// stops the mirror.
    pub(crate) fn put(&mut self, at: RelPath, why: Why) {
        debug_assert!(!at.is_root());
        self.places.insert(at, why);
    }

    /// Takes a place out.
    pub(crate) fn remove(&mut self, at: &RelPath) -> Option<Why> {
        self.places.remove(at)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&RelPath, &Why)> {
        self.places.iter()
    }

    /// The places where something waits.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&RelPath, &Hold)> {
        self.places.iter().filter_map(|(at, why)| match why {
            Why::Held(hold) => Some((at, hold)),
            Why::NoTree(_) | Why::Users(_) => None,
        })
    }

    /// What holds `at` itself.
    pub(crate) fn hold_at(&self, at: &[u8]) -> Option<&Hold> {
        match self.places.get(at) {
            Some(Why::Held(hold)) => Some(hold),
            _ => None,
        }
    }

    /// The hold that covers `path`.
    pub(crate) fn hold_over(&self, path: &[u8]) -> Option<(&RelPath, &Hold)> {
        let above = self.at_and_above(path).filter_map(|(at, _)| self.places.get_key_value(at));
        above.into_iter().find_map(|(at, why)| match why {
            Why::Held(hold) => Some((at, hold)),
            Why::NoTree(_) | Why::Users(_) => None,
        })
    }

    /// The place at or above `path` that holds what does not belong to the mirror.
    pub(crate) fn foreign_over(&self, path: &[u8]) -> Option<(&RelPath, &Why)> {
        let at = self.at_and_above(path).find(|(_, why)| !matches!(why, Why::Held(_)))?.0;
        self.places.get_key_value(at)
    }

    /// Whether a place is `path`, above it or below it.
    pub(crate) fn meets(&self, path: &[u8]) -> bool {
        self.covers(path) || self.lies_in(path)
    }

    /// Whether a place is below `path` or is `path`, so that whatever reads all of `path` would
    /// enter it.
    fn lies_in(&self, path: &[u8]) -> bool {
        self.places.keys().any(|at| path::is_at_or_below(at, path))
    }

    /// Whether `path` is at or below a place.
    pub(crate) fn covers(&self, path: &[u8]) -> bool {
        self.at_and_above(path).next().is_some()
    }

    /// The places at `path` and above it, from `path` upwards.
    fn at_and_above<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = (&'a [u8], &'a Why)> {
        let first = (!self.places.is_empty()).then_some(path);
        std::iter::successors(first, |at| path::parent(at)).filter_map(|at| Some((at, self.places.get(at)?)))
    }

    /// What becomes of a dirty path. A hold that covers it decides before all else.
    pub(crate) fn due(&self, path: &[u8], kind: Kind) -> Due {
        let mut due = Due::Goes;
        for (above, why) in self.at_and_above(path) {
            due = match why {
                Why::Held(_) => return Due::Waits,
                Why::NoTree(_) if above == path && kind == Kind::Entry => Due::Goes,
                Why::NoTree(_) if above == path => Due::Alone,
                Why::NoTree(_) | Why::Users(_) => Due::Drops,
            };
        }
        due
    }

    /// The rules for rsync; they come before all others.
    pub(crate) fn rules(&self) -> Vec<OsString> {
        let rule = |(at, why): (&RelPath, &Why)| {
            let pattern = match why {
                Why::NoTree(_) => Filter::inside(at),
                Why::Users(_) | Why::Held(_) => Filter::exactly(at),
            };
            OsString::from_vec([b"--filter=- ", &*pattern].concat())
        };
        self.places.iter().map(rule).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> RelPath {
        RelPath::from_normal(path.as_bytes())
    }

    fn apart() -> Apart {
        let mut apart = Apart::default();
        apart.put(at("c/proc"), Why::NoTree("proc".into()));
        apart.put(at("u/m"), Why::Users("fuse".into()));
        apart.put(at("disk"), Why::Held(Hold::Lost { at: at("disk") }));
        apart.put(at("disk/proc"), Why::NoTree("proc".into()));
        apart
    }

    #[test]
    fn what_becomes_of_a_dirty_path() {
        let apart = apart();
        for (path, entry, deep) in [
            ("c", Due::Goes, Due::Goes),
            ("c/proc", Due::Goes, Due::Alone),
            ("c/proc/1", Due::Drops, Due::Drops),
            ("c/procx", Due::Goes, Due::Goes),
            ("u/m", Due::Drops, Due::Drops),
            ("u/m/f", Due::Drops, Due::Drops),
            ("disk", Due::Waits, Due::Waits),
            ("disk/a/b", Due::Waits, Due::Waits),
            ("disk/proc/1", Due::Waits, Due::Waits),
            ("", Due::Goes, Due::Goes),
        ] {
            assert_eq!(apart.due(path.as_bytes(), Kind::Entry), entry, "{path}");
            assert_eq!(apart.due(path.as_bytes(), Kind::Contents), deep, "{path}");
            assert_eq!(apart.due(path.as_bytes(), Kind::Subtree), deep, "{path}");
        }
        assert_eq!(Apart::default().due(b"c/proc/1", Kind::Entry), Due::Goes);
    }

    #[test]
    fn rules_name_the_place_and_nothing_else() {
        let mut apart = apart();
        apart.put(at("w[1]*/p"), Why::NoTree("proc".into()));
        let rules: Vec<String> = apart.rules().iter().map(|r| r.to_string_lossy().into_owned()).collect();
        assert_eq!(
            rules,
            [
                "--filter=- /c/proc/*",
                "--filter=- /disk",
                "--filter=- /disk/proc/*",
                "--filter=- /u/m",
                r"--filter=- /w\[1]\*/p/*"
            ]
        );
    }

    #[test]
    fn what_a_run_would_enter() {
        let apart = apart();
        for (path, lies_in, meets, covers) in [
            ("", true, true, false),
            ("c", true, true, false),
            ("c/proc", true, true, true),
            ("c/proc/1", false, true, true),
            ("c/p", false, false, false),
            ("d", false, false, false),
        ] {
            let path = path.as_bytes();
            assert_eq!((apart.lies_in(path), apart.meets(path), apart.covers(path)), (lies_in, meets, covers));
        }
    }
}
