//! Paths of more bytes than rsync can be given ([`path::MAX_PATH_BYTES`]).
//!
//! Promises: none of them is sent or deleted, and none is forgotten. The deepest directory above
//! them that rsync can be given is one *failure*, however many such paths it holds: the user who
//! makes them pays with one line, and the next run with others' paths is not longer for it.
//!
//! How: such a path never enters the dirty set; its directory is kept here, counted in the epoch of
//! its first change. When it is due, the names in that directory are read from the source (no run,
//! no target). Once none of them is too long, the level is compared like any other, since a
//! comparison of the whole tree may have brought a path that is only a little too long.
//!
//! Gives up: of more than [`MAX_PLACES`] directories no names are kept, but one directory above all
//! of these; it is compared whole when the others have become few.

use std::os::fd::AsFd;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::*;
use crate::path::MAX_PATH_BYTES;

/// Directories kept by name. Each has up to [`MAX_PATH_BYTES`], so this is a megabyte.
const MAX_PLACES: usize = 256;
/// A directory that fails already is checked again this long after a further event.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Directories checked in one turn of the engine.
const MOST_LOOKS: usize = 16;

/// See the module's text.
pub(super) struct LongPaths {
    places: BTreeMap<RelPath, Place>,
    /// Those beyond [`MAX_PLACES`]: a directory above all of them.
    further: Option<(Place, u64)>,
    backoff: Backoff,
    changes: u64,
    became: u64,
}

/// A directory that holds paths which are too long.
pub(super) struct Place {
    /// Counts it in its epoch; its path is the directory.
    entry: Entry,
    /// Bytes of the first such path.
    bytes: usize,
    pub(super) tries: u32,
    pub(super) due: Duration,
    /// The log names it, or another one that was met with it.
    logged: bool,
}

/// What is to be listed in place of paths that are long no more.
#[derive(Debug)]
pub(super) struct Over {
    entry: Entry,
    kind: Seen,
}

impl Place {
    pub(super) fn dir(&self) -> &RelPath {
        &self.entry.path
    }

    pub(super) fn reason(&self) -> String {
        format!("holds paths of {} bytes, rsync takes at most {MAX_PATH_BYTES}", self.bytes)
    }
}

/// The deepest directory above `path` that rsync can be given; `None` for a path that is itself
/// short enough.
pub(super) fn place_of(path: &[u8]) -> Option<&[u8]> {
    if path.len() <= MAX_PATH_BYTES {
        return None;
    }
    // A path of exactly so many bytes may end there.
    Some(memchr::memrchr(b'/', &path[..=MAX_PATH_BYTES]).map_or(&b""[..], |at| &path[..at]))
}

/// The deepest directory above both.
fn above_both<'p>(a: &'p [u8], b: &[u8]) -> &'p [u8] {
    let mut at = a;
    while !path::is_at_or_below(b, at) {
        at = path::parent(at).unwrap_or_default();
    }
    at
}

impl LongPaths {
    pub(super) fn new(backoff: Backoff) -> LongPaths {
        LongPaths { places: BTreeMap::new(), further: None, backoff, changes: 0, became: 0 }
    }

    /// A path of `bytes` in `dir` changed. `parked`: makes the entry that counts a directory met
    /// for the first time.
    pub(super) fn note(&mut self, now: Duration, dir: &[u8], bytes: usize, parked: impl FnOnce(RelPath) -> Entry) {
        if let Some(place) = self.places.get_mut(dir) {
            place.due = place.due.min(now + AGAIN_AFTER);
            return;
        }
        self.changes += 1;
        self.became += 1;
        let place = |entry| Place { entry, bytes, tries: 0, due: now, logged: false };
        if self.places.len() < MAX_PLACES {
            let dir = RelPath::from_normal(dir);
            self.places.insert(dir.clone(), place(parked(dir)));
            return;
        }
        match &mut self.further {
            Some((further, count)) => {
                if !path::is_at_or_below(dir, &further.entry.path) {
                    further.entry.path = RelPath::from_normal(above_both(&further.entry.path, dir));
                }
                *count += 1;
            }
            None => self.further = Some((place(parked(RelPath::from_normal(dir))), 1)),
        }
    }

    /// Directories that fail, those without a name included.
    pub(super) fn len(&self) -> usize {
        self.places.len() + self.further.as_ref().map_or(0, |(_, count)| *count as usize)
    }

    /// Those with a name, then the one that stands for the others.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.values().chain(self.further.iter().map(|(place, _)| place))
    }

    /// Whether a directory that fails lies at or below `path`.
    pub(super) fn has_below(&self, path: &[u8]) -> bool {
        let further = self.further.as_ref().is_some_and(|(further, _)| {
            path::is_at_or_below(&further.entry.path, path) || path::is_at_or_below(path, &further.entry.path)
        });
        further || path::any_at_or_below(&self.places, path)
    }

    /// The directory that fails for `path`, which is too long.
    pub(super) fn of(&self, path: &[u8]) -> Option<&Place> {
        let dir = place_of(path)?;
        let further = self.further.as_ref().map(|(place, _)| place).filter(|p| path::is_at_or_below(dir, &p.entry.path));
        self.places.get(dir).or(further)
    }

    pub(super) fn hurry(&mut self, now: Duration) {
        self.places.values_mut().for_each(|p| p.due = p.due.min(now));
        self.further.iter_mut().for_each(|(p, _)| p.due = p.due.min(now));
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.places().map(|p| p.due).min()
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// The first of the directories that were checked and that the log does not know yet, and how
    /// many there are. It knows them from here on.
    fn unlogged(&mut self) -> Option<(&Place, u64)> {
        let places = self.places.values_mut().chain(self.further.iter_mut().map(|(place, _)| place));
        let unlogged = |place: &mut Place| place.tries > 0 && !std::mem::replace(&mut place.logged, true);
        let mut new = places.filter_map(|place| unlogged(place).then_some(&*place));
        let first = new.next()?;
        let more = new.count() as u64;
        Some((first, 1 + more))
    }

    pub(super) fn became(&self) -> u64 {
        self.became
    }

    /// Looks at the directories that are due, some of them. `holds`: whether one still holds a path
    /// that is too long; `None`: that cannot be determined. Returns those that do not.
    pub(super) fn check(&mut self, now: Duration, jitter: f64, mut holds: impl FnMut(&RelPath) -> Option<bool>) -> Vec<Over> {
        let due: Vec<RelPath> =
            self.places.iter().filter(|(_, p)| p.due <= now).map(|(dir, _)| dir.clone()).take(MOST_LOOKS).collect();
        let mut over = Vec::new();
        for dir in due {
            if holds(&dir) == Some(false) {
                let place = self.places.remove(&dir).expect("it was just listed");
                over.push(Over { entry: place.entry, kind: Seen::Contents });
                self.changes += 1;
                continue;
            }
            let place = self.places.get_mut(&dir).expect("it was just listed");
            place.tries = place.tries.saturating_add(1);
            place.due = now + self.backoff.pause(place.tries, jitter);
        }
        if let Some((further, _)) = self.further.as_mut().filter(|(p, _)| p.due <= now) {
            further.tries = further.tries.saturating_add(1);
            further.due = now + self.backoff.pause(further.tries, jitter);
            if self.places.len() <= MAX_PLACES / 2 {
                over.extend(self.further.take().map(|(p, _)| Over { entry: p.entry, kind: Seen::Subtree }));
                self.changes += 1;
            }
        }
        over
    }
}

/// Whether a name in `dir` makes a path that is too long, as far as the mirror carries it. `None`
/// when the directory cannot be read.
fn holds_long(root: &Root, filter: &Filter, dir: &RelPath) -> Option<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut listing = match nix::dir::Dir::openat(root.as_fd(), dir.as_path(), flags, Mode::empty()) {
        Ok(listing) => listing,
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Some(false),
        Err(_) => return None,
    };
    let above = if dir.is_root() { 0 } else { dir.len() + 1 };
    for entry in listing.iter() {
        let entry = entry.ok()?;
        let name = entry.file_name().to_bytes();
        if above + name.len() > MAX_PATH_BYTES {
            let is_dir = entry.file_type() == Some(nix::dir::Type::Directory);
            if !filter.excludes_leaf(&dir.join(name), is_dir) {
                return Some(true);
            }
        }
    }
    Some(false)
}

impl Target {
    /// Takes in that a path of `bytes` in `dir` changed, as old as `since`, which rsync cannot be
    /// given.
    pub(super) fn see_long(&mut self, now: Duration, dir: &[u8], bytes: usize, since: Epoch) {
        let set = &mut self.ledger.set;
        self.ledger.long.note(now, dir, bytes, |path| set.parked(path, since));
    }

    /// Looks at the directories that hold paths which are too long, where it is time.
    pub(super) fn look_at_long(&mut self, cx: &Context<'_>) {
        if self.ledger.long.next_due().is_none_or(|due| due > cx.now) {
            return;
        }
        let over = self.ledger.long.check(cx.now, fastrand::f64(), |dir| holds_long(cx.root, cx.filter, dir));
        if let Some((place, directories)) = self.ledger.long.unlogged() {
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name, dir = %Shown(place.dir()), bytes = place.bytes, directories,
                "paths are longer than rsync takes, so they are neither sent nor deleted"
            );
        }
        for Over { entry, kind } in over {
            self.ledger.set.see_since(&entry.path, kind, entry.epoch());
            self.ledger.forget(vec![entry]);
            self.schedule.pace.waits(cx.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long() -> LongPaths {
        LongPaths::new(Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60) })
    }

    /// A path of so many bytes: directories of 99 bytes, and a rest.
    fn path(bytes: usize) -> Vec<u8> {
        let mut path = [[b'd'; 99].as_slice(), b"/"].concat().repeat(bytes / 100);
        path.resize(bytes, b'f');
        path
    }

    #[test]
    fn the_deepest_directory_that_can_be_given_stands_for_a_path() {
        for (bytes, place) in [(4000, None), (4001, Some(3999)), (4050, Some(3999)), (9000, Some(3999))] {
            let path = path(bytes);
            assert_eq!(place_of(&path).map(<[u8]>::len), place, "{bytes}");
        }
        // A directory of exactly as many bytes as can be given.
        let exact = [path(4000), b"/f".to_vec()].concat();
        assert_eq!(place_of(&exact), Some(&exact[..4000]));
        assert_eq!(place_of(&[b'x'; 5000]), Some(&b""[..]), "a name of a filesystem that allows it");
    }

    #[test]
    fn one_failure_for_each_directory_and_a_bound_on_them() {
        let (mut set, mut long) = (DirtySet::new(100), long());
        for n in 0..20_000 {
            let at = [path(3990), format!("/name-of-{n:06}").into_bytes()].concat();
            long.note(Duration::ZERO, place_of(&at).unwrap(), at.len(), |dir| set.parked(dir, Epoch::default()));
        }
        assert_eq!((long.len(), set.epochs().total(), long.became()), (1, 1, 1));
        for n in 0..20_000 {
            let dir = format!("top/{n:06}/{}", "d".repeat(100));
            long.note(Duration::ZERO, dir.as_bytes(), 4100, |dir| set.parked(dir, Epoch::default()));
        }
        assert_eq!((long.len(), long.places().count()), (20_001, MAX_PLACES + 1), "counted, and not kept");
        assert_eq!(set.epochs().total(), MAX_PLACES + 1);
        assert_eq!(**long.places().last().unwrap().dir(), *b"top", "what is above all of them");
        // As long as they are there nothing changes but their pauses.
        let mut now = Duration::ZERO;
        for _ in 0..MAX_PLACES {
            assert_eq!(long.check(now, 0.0, |_| Some(true)).len(), 0);
        }
        assert_eq!(long.next_due(), Some(Duration::from_secs(1)));
        assert!(long.has_below(b"top") && !long.has_below(b"to") && long.of(b"x").is_none());
        // And when they are gone, each level is compared, and what has no name as a whole.
        now += Duration::from_secs(600);
        let mut over = Vec::new();
        for _ in 0..2 * MAX_PLACES / MOST_LOOKS {
            over.extend(long.check(now, 0.0, |_| Some(false)));
            now += Duration::from_secs(60);
        }
        assert_eq!(long.len(), 0);
        assert_eq!(over.len(), MAX_PLACES + 1);
        assert_eq!(
            over.iter().filter(|o| o.kind == Seen::Subtree).map(|o| o.entry.path.to_string()).collect::<Vec<_>>(),
            ["top"]
        );
    }

    #[test]
    fn the_directory_is_asked_and_not_the_event() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        // `openat` takes a path of 4,000 bytes in one piece, and the names below come by a
        // descriptor.
        let deep = RelPath::from_normal(path(3980));
        let short = RelPath::from_normal("none");
        let all = Filter::default();
        assert_eq!(holds_long(&root, &all, &short), Some(false), "not there");
        make_all(&root, &deep);
        assert_eq!(holds_long(&root, &all, &deep), Some(false));
        let open = nix::fcntl::openat(&root, deep.as_path(), OFlag::O_DIRECTORY | OFlag::O_RDONLY, Mode::empty()).unwrap();
        let make = |name: &str| {
            nix::fcntl::openat(&open, name, OFlag::O_CREAT | OFlag::O_WRONLY, Mode::from_bits_truncate(0o600)).unwrap()
        };
        make("short");
        assert_eq!(holds_long(&root, &all, &deep), Some(false));
        make("a name of many more bytes.tmp");
        assert_eq!(holds_long(&root, &all, &deep), Some(true));
        let filter = Filter::new::<&str, &str>(&[], &["*.tmp"]).unwrap();
        assert_eq!(holds_long(&root, &filter, &deep), Some(false), "left out");
    }

    /// Makes a directory and all above it, each by the descriptor of the one before.
    fn make_all(root: &Root, dir: &RelPath) {
        let mut at = root.as_fd().try_clone_to_owned().unwrap();
        for name in dir.split(|&b| b == b'/') {
            let name = std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
            nix::sys::stat::mkdirat(&at, name, Mode::from_bits_truncate(0o755)).unwrap();
            at = nix::fcntl::openat(&at, name, OFlag::O_DIRECTORY | OFlag::O_RDONLY, Mode::empty()).unwrap();
        }
    }
}
