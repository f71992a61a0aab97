//! Which directory is where: what a walk needs to distinguish a directory that stayed from one that
//! moved in.
//!
//! A change of a file shows in its ctime. A directory that was moved brings along files whose ctime
//! is old, so a walk that compares ctimes would miss them. This set remembers, for each directory
//! below the root, its *place* (the parent's handle and the name) and the *object* found there (its
//! own handle), both as 64-bit hashes. A directory found at a place that the set does not give it
//! came there unseen. A rename concerns one place, however much lies below.
//!
//! Each object has the time since when it is known at its place. A target whose watermark is not
//! behind that time cannot be trusted to have the contents: the directory moved in, and was perhaps
//! not sent yet.
//!
//! Live, [`DirSet::changed`] takes a place out at once; its current state is read from the disk
//! later, at the next save, by the parent's handle. It does not matter then in which order the
//! events came: the kernel merges an event into an earlier equal one (of the renames `a b`, `b a`,
//! `a b` of one directory the third vanishes in the first), so the objects that events name may be
//! reported in an order that never was.
//!
//! Gives up: below a directory that is moved in from outside the root, directories stay unknown
//! until the next walk; a restart compares them whole. Hashes are SipHash-2-4 under a random key,
//! so no choice of names makes two of them equal but by chance: 10⁻¹² among ten million
//! directories.

use std::ffi::OsStr;
use std::hash::Hasher;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use rustc_hash::FxBuildHasher;
use siphasher::sip::SipHasher24;

use super::clock::Wall;
use super::log::Key;
use crate::sys::handle::{FsId, HandleRef, name_to_handle};

/// The hash of a parent's handle and a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place(pub(crate) u64);

/// The hash of a directory's handle; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Object(pub(crate) u64);

/// Most places that wait for a check; what comes beyond stays unknown. About 100 bytes each.
const MAX_CHECKS: usize = 100_000;
/// Places checked in one [`DirSet::settle`], about 5 µs each.
const CHECKS_PER_SETTLE: usize = 4_000;
/// Most places kept in mind during a walk, and taken out between two [`DirSet::settle`]s. Beyond,
/// the set is in doubt.
const MAX_PLACES: usize = 1_000_000;

/// One state of the set: a walk reads an old one and makes a new one.
#[derive(Clone, Debug)]
pub struct Dirs {
    key: Key,
    /// What is not in `recent` is known since then.
    floor: Wall,
    known: HashMap<u64, u64, FxBuildHasher>,
    recent: HashMap<u64, Wall, FxBuildHasher>,
}

impl Dirs {
    /// An empty set. `key`: any random bytes; sets can only be compared under the same key.
    /// `floor`: since when the objects without a time of their own are known.
    pub(crate) fn new(key: Key, floor: Wall) -> Dirs {
        Dirs { key, floor, known: HashMap::default(), recent: HashMap::default() }
    }

    /// An empty set under the same key.
    pub(crate) fn like(&self, floor: Wall) -> Dirs {
        Dirs::new(self.key, floor)
    }

    /// The place `name` in the directory `parent` of the filesystem `fs`.
    pub(crate) fn place(&self, fs: FsId, parent: HandleRef<'_>, name: &[u8]) -> Place {
        let mut hasher = start(&self.key, b'p', fs, parent);
        hasher.write(name);
        Place(hasher.finish())
    }

    /// The directory `handle` of the filesystem `fs`.
    pub(crate) fn object(&self, fs: FsId, handle: HandleRef<'_>) -> Object {
        Object(start(&self.key, b'o', fs, handle).finish().max(1))
    }

    /// Since when `object` is known to be at `place`; `None` when it is not.
    pub(crate) fn known_since(&self, place: Place, object: Object) -> Option<Wall> {
        (self.known.get(&place.0) == Some(&object.0)).then(|| self.recent.get(&place.0).copied().unwrap_or(self.floor))
    }

    /// Puts `object` at `place`. A time at or before the floor is kept as the floor.
    pub(crate) fn insert(&mut self, place: Place, object: Object, since: Wall) {
        self.known.insert(place.0, object.0);
        if since > self.floor {
            self.recent.insert(place.0, since);
        } else {
            self.recent.remove(&place.0);
        }
    }

    /// Nothing is known of `place` from here on; whether something was.
    pub(crate) fn remove(&mut self, place: Place) -> bool {
        self.recent.remove(&place.0);
        self.known.remove(&place.0).is_some()
    }

    /// Every target's watermark has passed `all`: times before it say nothing any more. O(recent).
    pub(super) fn forget_before(&mut self, all: Wall) {
        let floor = self.floor;
        self.recent.retain(|_, since| *since >= all && *since > floor);
    }

    /// Directories known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    pub(crate) fn floor(&self) -> Wall {
        self.floor
    }

    pub(crate) fn all(&self) -> impl ExactSizeIterator<Item = (Place, Object)> {
        self.known.iter().map(|(&p, &o)| (Place(p), Object(o)))
    }

    pub(super) fn recent(&self) -> impl Iterator<Item = (Place, Object, Wall)> {
        self.recent.iter().filter_map(|(&p, &since)| Some((Place(p), Object(*self.known.get(&p)?), since)))
    }

    pub(crate) fn reserve(&mut self, more: usize) {
        self.known.reserve(more);
    }
}

fn start(key: &Key, what: u8, fs: FsId, handle: HandleRef<'_>) -> SipHasher24 {
    let mut hasher = SipHasher24::new_with_key(key);
    let mut head = [what; 21];
    head[1..9].copy_from_slice(&fs.0.to_le_bytes());
    head[9..13].copy_from_slice(&handle.kind.to_le_bytes());
    head[13..].copy_from_slice(&(handle.bytes.len() as u64).to_le_bytes());
    hasher.write(&head);
    hasher.write(handle.bytes);
    hasher
}

/// What happened to a place between two saves; `None`: nothing is known there.
pub(crate) type Delta = (Place, Option<(Object, Wall)>);

/// Opens a directory of a filesystem by its handle, `O_PATH` will do.
pub(crate) type OpenByHandle<'a> = dyn FnMut(FsId, HandleRef<'_>) -> io::Result<OwnedFd> + 'a;

struct Check {
    fs: FsId,
    kind: i32,
    parent: Box<[u8]>,
    name: Box<[u8]>,
}

/// A walk that makes a new set, and the places that changed since it began.
struct Build {
    began: Wall,
    places: HashSet<Place, FxBuildHasher>,
    spoiled: bool,
}

/// The live set: follows the events, is remade by walks.
pub(crate) struct DirSet {
    dirs: Arc<Dirs>,
    /// Up to when every change of a directory's place is in `dirs`; `None`: there was no walk yet.
    complete_at: Option<Wall>,
    /// Whether events are followed; if not, `complete_at` stands still.
    live: bool,
    build: Option<Build>,
    checks: HashMap<Place, Check, FxBuildHasher>,
    /// Taken out since the last [`DirSet::settle`].
    gone: HashSet<Place, FxBuildHasher>,
}

impl DirSet {
    /// A set that does not follow the events yet: an earlier run's, or an empty one.
    pub(crate) fn new(dirs: Arc<Dirs>, complete_at: Option<Wall>) -> DirSet {
        DirSet { dirs, complete_at, live: false, build: None, checks: HashMap::default(), gone: HashSet::default() }
    }

    /// The set as it is.
    pub(crate) fn dirs(&self) -> &Arc<Dirs> {
        &self.dirs
    }

    /// Up to when the set is complete; `None` when there was no walk yet.
    pub(crate) fn complete_at(&self) -> Option<Wall> {
        self.complete_at
    }

    /// Whether the set follows the events.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Whether a walk is under way.
    pub(crate) fn is_building(&self) -> bool {
        self.build.is_some()
    }

    /// An event says that a directory came to, left, or was replaced at the place `name` in
    /// `parent`. `fs`: as in the event, and as in the walk's scope. `inside`: the place belongs to
    /// the mirror, so its entry is worth knowing; of another, what is known is forgotten and no
    /// more. No system calls.
    pub(crate) fn changed(&mut self, fs: FsId, parent: HandleRef<'_>, name: &[u8], inside: bool) {
        if self.build.is_none() && !self.live {
            return;
        }
        let place = self.dirs.place(fs, parent, name);
        if let Some(build) = &mut self.build {
            build.places.insert(place);
            build.spoiled |= build.places.len() > MAX_PLACES;
        } else if Arc::make_mut(&mut self.dirs).remove(place) {
            self.gone.insert(place);
            if self.gone.len() > MAX_PLACES {
                return self.doubt();
            }
        }
        if inside && self.checks.len() < MAX_CHECKS {
            let check = || Check { fs, kind: parent.kind, parent: parent.bytes.into(), name: name.into() };
            self.checks.entry(place).or_insert_with(check);
        }
    }

    /// Events were lost: from here on the set stands still, until a walk made it anew. One that is
    /// under way will not do.
    pub(crate) fn doubt(&mut self) {
        self.live = false;
        self.checks.clear();
        if let Some(build) = &mut self.build {
            build.spoiled = true;
        }
    }

    /// A walk begins, now: from here on places that change are kept in mind, so that what it read
    /// of them does not count. An earlier walk that is still under way is forgotten. The caller
    /// receives every event already.
    pub(crate) fn begin_build(&mut self, now: Wall) {
        self.live = false;
        self.checks.clear();
        self.build = Some(Build { began: now, places: HashSet::default(), spoiled: false });
    }

    /// A walk ended and found `walked`. `false`: events were lost meanwhile, another one is needed.
    pub(crate) fn finish_build(&mut self, mut walked: Dirs) -> bool {
        let Some(build) = self.build.take() else { return false };
        if build.spoiled || walked.key != self.dirs.key {
            self.checks.clear();
            return false;
        }
        for place in build.places {
            walked.remove(place);
        }
        (self.dirs, self.complete_at, self.live) = (Arc::new(walked), Some(build.began), true);
        true
    }

    /// The walk failed.
    pub(super) fn abandon_build(&mut self) {
        self.build = None;
        self.checks.clear();
    }

    /// All changes of places before `at` have been reported.
    pub(super) fn complete_until(&mut self, at: Wall) {
        if self.live {
            self.complete_at = self.complete_at.max(Some(at));
        }
    }

    /// The clock was set back: what is complete, is up to `at` at most.
    pub(super) fn lower(&mut self, at: Wall) {
        self.complete_at = self.complete_at.map(|c| c.min(at));
        if let Some(build) = &mut self.build {
            build.began = build.began.min(at);
        }
    }

    pub(super) fn forget_before(&mut self, all: Wall) {
        if self.live && !self.dirs.recent.is_empty() {
            Arc::make_mut(&mut self.dirs).forget_before(all);
        }
    }

    /// Reads what is at the places that changed, and appends to `out` what is to be saved. While a
    /// walk is under way the checks wait for its end. `now` is read after the checks.
    ///
    /// # Errors
    /// Those of `now`; then `out` is to be saved all the same.
    pub(crate) fn settle(
        &mut self,
        now: &mut dyn FnMut() -> io::Result<Wall>,
        open: &mut OpenByHandle<'_>,
        out: &mut Vec<Delta>,
    ) -> io::Result<()> {
        out.extend(self.gone.drain().map(|place| (place, None)));
        if !self.live || self.checks.is_empty() {
            return Ok(());
        }
        let mut found = Vec::new();
        for (place, check) in self.checks.extract_if(|_, _| true).take(CHECKS_PER_SETTLE) {
            let parent = HandleRef { kind: check.kind, bytes: &check.parent };
            // Gone, a mount that is no more, no permission: whatever the reason, unknown is never
            // wrong.
            let Ok(dir) = open(check.fs, parent) else { continue };
            let name = Path::new(OsStr::from_bytes(&check.name));
            let Ok(handle) = name_to_handle(dir.as_fd(), name) else { continue };
            found.push((place, self.dirs.object(check.fs, handle.as_ref())));
        }
        if !found.is_empty() {
            // Later than every check, so not before any of the changes that were checked.
            let since = now()?;
            let dirs = Arc::make_mut(&mut self.dirs);
            for (place, object) in found {
                dirs.insert(place, object, since);
                out.push((place, Some((object, since))));
            }
        }
        Ok(())
    }

    /// Whether [`DirSet::settle`] has something to do.
    pub(super) fn unsettled(&self) -> bool {
        !self.gone.is_empty() || (self.live && !self.checks.is_empty())
    }
}

#[cfg(test)]
#[path = "dirs_tests.rs"]
mod tests;
