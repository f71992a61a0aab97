//! Names that a place lost at one blow, where not the whole place is held for it.
//!
//! Where several users may write into the top of a source, one of them can remove nearly all that
//! is there: what was his. So the mirror goes on, and the deletions wait:
//!
//! | a change at the top of the place, or below a name that it lost | |
//! | --- | --- |
//! | a name is gone, by whatever cause | waits |
//! | a directory has the name again: a comparison may delete what is in it | waits |
//! | something else has the name of what was a directory, or a name below it | waits |
//! | a file has the name of what was none, a new name, an attribute | goes on |
//!
//! A comparison that covers the place runs without deletions, and what it counts is added to what
//! was lost before. The hold ends when half of all these names are there again, or when the
//! deletions are accepted; then what is not back is deleted like anything else.
//!
//! Gives up: after a restart what is pending is judged anew, by what is left then.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use crate::path::{self, RelPath};
use crate::root::Root;

/// Names that are looked for again, at most.
const SAMPLE: usize = 1_000;

/// What a name was on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Was {
    /// As far as known.
    Other,
    Dir,
}

/// What was found under a name, and what sending it may take away on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Missing,
    /// A directory. `deletes`: what it lacks may go.
    Dir {
        deletes: bool,
    },
    File,
    Special,
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// The root, or where the filesystem is mounted.
    at: RelPath,
    names: BTreeMap<RelPath, Was>,
}

impl Lost {
    /// `gone`: what would be deleted; of each, the name at the top of the place counts, if
    /// `is_gone`.
    pub(super) fn new<'p>(at: RelPath, gone: impl Iterator<Item = (&'p [u8], Was)>, is_gone: impl Fn(&RelPath) -> bool) -> Lost {
        let mut lost = Lost { at, names: BTreeMap::new() };
        let mut there: Option<RelPath> = None;
        for (path, was) in gone {
            let Some(name) = lost.top_name(path) else { continue };
            let was = if name.len() < path.len() { Was::Dir } else { was };
            match lost.names.get_mut(name) {
                Some(known) => *known = was.max(*known),
                None if there.as_ref().is_some_and(|there| **there == *name) => {}
                None => {
                    let name = RelPath::from_normal(name);
                    match is_gone(&name) {
                        true => _ = lost.names.insert(name, was),
                        false => there = Some(name),
                    }
                }
            }
        }
        lost
    }

    /// The place.
    pub(super) fn at(&self) -> &RelPath {
        &self.at
    }

    /// How many names.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The name at the top of the place that `path` has, or lies below.
    fn top_name<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        if path == &*self.at || !path::is_at_or_below(path, &self.at) {
            return None;
        }
        let begin = if self.at.is_root() { 0 } else { self.at.len() + 1 };
        let end = memchr::memchr(b'/', &path[begin..]).map_or(path.len(), |end| begin + end);
        Some(&path[..end])
    }

    /// Whether what was found at `path` waits.
    pub(super) fn holds(&self, path: &[u8], found: Found) -> bool {
        let Some(name) = self.top_name(path) else { return false };
        let own = name.len() == path.len();
        match (found, self.names.get(name)) {
            (Found::Missing, None) => own,
            (_, None) | (Found::Dir { deletes: false }, _) => false,
            (Found::Missing | Found::Special | Found::Dir { .. }, Some(_)) => true,
            (Found::File, Some(was)) => own && *was == Was::Dir,
        }
    }

    /// Another name of the place is gone as well.
    pub(super) fn add(&mut self, path: &[u8]) {
        if let Some(name) = self.top_name(path) {
            self.names.entry(RelPath::from_normal(name)).or_insert(Was::Other);
        }
    }

    /// Takes in what another comparison of the same place found.
    pub(super) fn merge(&mut self, other: Lost) {
        for (name, was) in other.names {
            let known = self.names.entry(name).or_insert(was);
            *known = was.max(*known);
        }
    }

    /// Whether half of what was lost is there again.
    pub(super) fn is_back(&self, root: &Root) -> bool {
        self.is_half(|name| fstatat(root, name.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok())
    }

    fn is_half(&self, there: impl Fn(&RelPath) -> bool) -> bool {
        let sample = || self.names.keys().step_by(self.names.len().div_ceil(SAMPLE).max(1));
        let back = sample().filter(|name| there(name)).count();
        is_half(back, sample().count())
    }
}

/// Whether so many names that are back of `all` that were lost end a hold.
fn is_half(back: usize, all: usize) -> bool {
    back * 2 >= all
}

/// What is to wait of a place that was found emptied, once a dry run has counted its deletions.
/// `back`: names that the dry run found gone, and that are there by now.
pub(super) fn judged(found: Lost, back: usize) -> Option<Lost> {
    (!is_half(back, back + found.len())).then_some(found)
}

/// The same where deletions of the place waited when the dry run began. `held`: what was lost then,
/// all of it; `None`: it waits no more, for half of it is back.
///
/// What the dry run found gone is what is *left* of the loss. By itself it would never be back, as
/// what came back is no part of it.
pub(super) fn judged_again(held: Option<&Lost>, found: Lost) -> Option<Lost> {
    let mut lost = held.filter(|_| found.len() > 0)?.clone();
    lost.merge(found);
    Some(lost)
}

/// Whether nothing has this name.
pub(super) fn is_gone(root: &Root, name: &RelPath) -> bool {
    fstatat(root, name.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW).err() == Some(Errno::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(at: &str) -> Lost {
        let paths = ["m/d/f", "m/d", "m/f", "m/kept/a", "m/kept/b", "other/x", "m"];
        let was = |path: &str| if path == "m/d" { Was::Dir } else { Was::Other };
        let gone = paths.iter().map(|path| (path.as_bytes(), was(path)));
        Lost::new(RelPath::from_normal(at.as_bytes()), gone, |name| !name.ends_with(b"kept"))
    }

    #[test]
    fn names_at_the_top_of_the_place_count() {
        let names = |at| lost(at).names.into_iter().map(|(name, was)| (name.to_string(), was)).collect::<Vec<_>>();
        assert_eq!(names("m"), [("m/d".into(), Was::Dir), ("m/f".into(), Was::Other)]);
        assert_eq!(names(""), [("m".into(), Was::Dir), ("other".into(), Was::Dir)]);
        assert_eq!(names("elsewhere"), []);
    }

    #[test]
    fn what_waits_at_a_place_that_lost_nearly_everything() {
        use Found::{File, Missing, Special};
        let (compared, attributes) = (Found::Dir { deletes: true }, Found::Dir { deletes: false });
        let lost = lost("m");
        for (path, missing, file, special, dir) in [
            ("m/d", true, true, true, true),
            ("m/d/x", true, false, true, true),
            ("m/f", true, false, true, true),
            // A name that was not lost then.
            ("m/new", true, false, false, false),
            ("m/new/x", false, false, false, false),
            ("m", false, false, false, false),
            ("mm/d", false, false, false, false),
            ("elsewhere/d", false, false, false, false),
        ] {
            let path = path.as_bytes();
            let found = [Missing, File, Special, compared].map(|found| lost.holds(path, found));
            assert_eq!(found, [missing, file, special, dir], "{}", String::from_utf8_lossy(path));
            assert!(!lost.holds(path, attributes));
        }
    }

    #[test]
    fn it_ends_when_half_is_back() {
        let mut lost = lost("m");
        for name in ["m/g", "m/h"] {
            lost.add(name.as_bytes());
        }
        assert_eq!(lost.len(), 4);
        for (there, back) in [(&["m/d"][..], false), (&["m/d", "m/h"], true), (&["m/d", "m/new"], false)] {
            assert_eq!(lost.is_half(|name| there.iter().any(|there| there.as_bytes() == &**name)), back, "{there:?}");
        }
        let mut more = lost.clone();
        more.merge(self::lost(""));
        assert_eq!(more.len(), 6);
    }

    fn names(count: usize) -> Lost {
        let names: Vec<String> = (0..count).map(|n| format!("m/f{n:05}")).collect();
        let gone = names.iter().map(|name| (name.as_bytes(), Was::Other));
        Lost::new(RelPath::from_normal(b"m"), gone, |_| true)
    }

    #[test]
    fn names_that_come_back_are_counted_against_all_that_were_lost() {
        // Lost, back before the place is compared once more, back after it; whether it ends.
        for (lost, early, late, ends) in [
            (100, 0, 0, false),
            (100, 49, 0, false),
            (100, 50, 0, true),
            // 70 are gone when it is compared: 50 of the 100 are enough, not 35 of the 70 …
            (100, 30, 19, false),
            (100, 30, 20, true),
            // A sample of more than a thousand.
            (10_000, 3_000, 1_800, false),
            (10_000, 3_000, 2_200, true),
            (10_000, 0, 5_200, true),
        ] {
            let before = names(lost);
            // Those that come back are spread over the names.
            let order = |name: &RelPath| name.to_string()[3..].parse::<usize>().map_or(0, |n| n * 7 % lost);
            let back = |most: usize| move |name: &RelPath| order(name) < most;
            let held = (!before.is_half(back(early))).then_some(&before);
            let all = before.names.keys().map(|name| (&**name, Was::Other));
            let left = Lost::new(before.at.clone(), all, |name| !back(early)(name));
            let again = judged_again(held, left);
            let ended = again.is_none_or(|lost| lost.is_half(back(early + late)));
            assert_eq!(ended, ends, "{lost} lost, {early} and {late} back");
        }
    }

    #[test]
    fn names_that_come_back_while_they_are_counted() {
        for (gone, back, waits) in [(100, 0, true), (60, 40, true), (50, 50, false), (40, 60, false), (0, 0, false), (1, 0, true)]
        {
            assert_eq!(judged(names(gone), back).is_some(), waits, "{gone} gone, {back} back");
        }
    }
}
