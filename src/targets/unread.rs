//! Places of the source that rsync could not read, and files that do not fit, which comparisons
//! leave alone.
//!
//! One such place (a directory that cannot be opened, a path that is too long, a bad sector, a
//! mount that root may not enter) makes rsync skip all deletions of its run:
//! `IO error encountered -- skipping file deletion`. So the place is named, the comparison is made
//! again with the place hidden from the source and protected on the target, and the rest becomes
//! equal, deletions included. The place is a failure of its own: tried by itself with growing
//! pauses, and no longer hidden once that went through.
//!
//! The same for a large file that finds no room on the target, or that the target's filesystem
//! cannot hold: rsync ends at it, and what comes after it in the comparison would wait for as long
//! as it is there.
//!
//! Gives up: more than [`MAX_HIDDEN`] places at a time. Then deletions are skipped as rsync does
//! it, and the comparison fails.

use super::*;
use crate::sync::output::Failed;

/// Places that are hidden at a time: each is an argument of rsync's.
const MAX_HIDDEN: usize = 200;
/// Bytes of a hidden path. For a longer one the directory above it is hidden that fits: rsync's
/// rules are no longer than its paths.
const MAX_HIDDEN_BYTES: usize = 1500;

/// Why a file is left alone that a comparison stands at.
const HOLLOW: &str = "a file of holes, which comparisons go on without; it is sent by itself";

/// A file of holes that travels gives way to a comparison after this time; it doubles, so that in
/// the end it gets through.
const FIRST_TRAVEL: Duration = Duration::from_secs(1);

/// A place that is left alone.
struct Place {
    kind: Kind,
    words: String,
    then: Then,
    /// How long it travels before it gives way to a comparison.
    travels: Duration,
}

/// What becomes of a place once the rest is equal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It is a failure.
    Fails,
    /// It travels in the lane of large files.
    Travels,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Unread {
    places: BTreeMap<RelPath, Place>,
}

/// Whether carrying `entry` compares what is at `path` without naming it.
fn compares(entry: &Entry, path: &RelPath) -> bool {
    match entry.kind {
        Kind::Entry => false,
        Kind::Contents => path::parent(path) == Some(&*entry.path),
        Kind::Subtree => entry.path != *path && path::is_at_or_below(path, &entry.path),
    }
}

/// Whether a file that did not fit is the reason, not the target: it is large, or larger than the
/// target's filesystem takes. Where a small one finds no room, the next finds none either.
fn is_to_blame(size: u64, too_large: bool) -> bool {
    too_large || size >= lanes::LARGE_FILE
}

/// The path itself, or the nearest directory above it that fits into a rule.
fn fitting(path: &RelPath) -> RelPath {
    let mut at: &[u8] = path;
    while at.len() > MAX_HIDDEN_BYTES {
        at = path::parent(at).unwrap_or_default();
    }
    RelPath::from_normal(at)
}

impl Unread {
    /// Takes in the places that the sender named in a run over `entries`. Returns whether one of
    /// them is new, so that another run may do better.
    fn learn(&mut self, entries: &[Entry], failed: &[Failed], kind: impl Fn(&RelPath) -> Kind) -> bool {
        let mut new = false;
        for f in failed.iter().filter(|f| f.unread) {
            let path = fitting(&f.path);
            let compared = entries.iter().any(|e| compares(e, &path));
            if compared && self.places.len() < MAX_HIDDEN && !self.places.contains_key(&path) {
                let kind = kind(&path);
                self.places.insert(path, Place { kind, words: f.words.clone(), then: Then::Fails, travels: FIRST_TRAVEL });
                new = true;
            }
        }
        new
    }

    /// Hides the file of holes at `at` from a run that stands there. `false` when it cannot be.
    pub(super) fn hide_hollow(&mut self, root: &Root, batch: &Batch, at: &std::path::Path) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let Some(path) = at.strip_prefix(root.path()).ok().and_then(|at| RelPath::new(at.as_os_str().as_bytes())) else {
            return false;
        };
        // What is listed by itself is not hidden, and what is hidden already is not what it stands
        // at.
        let named = batch.entries.iter().any(|e| e.path == path);
        if named || path.len() > MAX_HIDDEN_BYTES || self.places.contains_key(&path) {
            return false;
        }
        let about = Failed { path, words: HOLLOW.into(), unread: true };
        if !self.learn(&batch.entries, std::slice::from_ref(&about), |_| Kind::Entry) {
            return false;
        }
        self.places.get_mut(&about.path).expect("just learned").then = Then::Travels;
        true
    }

    /// The places that a comparison of `entries` leaves alone.
    fn below<'p>(&'p self, entries: &'p [Entry]) -> impl Iterator<Item = (&'p RelPath, &'p Place)> {
        // A path that is listed by itself as well must not be hidden from its own run.
        let hidden = |path: &RelPath| entries.iter().any(|e| compares(e, path)) && !entries.iter().any(|e| e.path == *path);
        self.places.iter().filter(move |(path, _)| hidden(path))
    }

    /// Whether a run that carries a file of holes, for so long, is to end for a comparison's sake.
    pub(super) fn gives_way(&mut self, batch: &Batch, age: Duration) -> bool {
        let [entry] = &*batch.entries else { return false };
        let Some(place) = self.places.get_mut(&entry.path).filter(|p| p.then == Then::Travels && age >= p.travels) else {
            return false;
        };
        place.travels = place.travels.saturating_mul(2);
        true
    }

    /// Whether one did.
    pub(super) fn has_given_way(&self) -> bool {
        self.places.values().any(|place| place.then == Then::Travels && place.travels > FIRST_TRAVEL)
    }

    fn then(&self, path: &RelPath) -> Then {
        self.places.get(path).map_or(Then::Fails, |place| place.then)
    }

    /// The rules that hide and protect them.
    pub(super) fn rules(&self, entries: &[Entry]) -> Vec<OsString> {
        self.below(entries).map(|(path, _)| survey::guard(b"-", &Filter::exactly(path))).collect()
    }

    /// `entry` went through.
    pub(super) fn confirmed(&mut self, entry: &Entry) {
        match entry.kind {
            Kind::Subtree => self.places.retain(|path, _| !path::is_at_or_below(path, &entry.path)),
            _ => _ = self.places.remove(&entry.path),
        }
    }
}

impl Target {
    /// Whether a run over `batch` that skipped its deletions can be made again without the places
    /// that it could not read.
    pub(super) fn hides_unread(&mut self, root: &Root, batch: &Batch, outcome: &Outcome) -> bool {
        self.unread.learn(&batch.entries, &outcome.failed, |path| ended::kind_on_source(root, path))
    }

    /// Whether a run over `batch` that ended at a file that does not fit can be made again without
    /// it.
    pub(super) fn hides_unfit(&mut self, root: &Root, batch: &Batch, outcome: &Outcome, too_large: bool) -> bool {
        let unfit = |f: &&Failed| {
            let stat = fstatat(root, f.path.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW);
            stat.is_ok_and(|s| {
                s.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() && is_to_blame(s.st_size as u64, too_large)
            })
        };
        let named: Vec<Failed> = outcome.failed.iter().filter(unfit).map(|f| Failed { unread: true, ..f.clone() }).collect();
        let hidden = self.unread.learn(&batch.entries, &named, |_| Kind::Entry);
        if hidden && let Some(first) = named.first() {
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.cfg.name, path = %first.path,
                "a large file does not fit on the target; comparisons go on without it, and it is tried by itself: {}", first.words
            );
        }
        hidden
    }

    /// What a comparison of `entries` left alone and what does not fail by itself already, with the
    /// words about it. A place may be a directory by now that was a file when it was named, or
    /// nothing: all that came with it is left alone, too, and no event of it is left.
    pub(super) fn left_alone(&self, root: &Root, entries: &[Entry]) -> Vec<(RelPath, Kind, String)> {
        let under_way = |path: &RelPath| {
            self.ledger.large.has(path)
                || self.runs.carriers().any(|(run, c)| run.lane == Lane::Large && c.batch.entries.iter().any(|e| e.path == *path))
        };
        let covered = |path: &RelPath, kind: Kind| {
            let fails = self.ledger.retries.failure(path).is_some_and(|failure| failure.entry.kind >= kind);
            fails || kind == Kind::Entry && under_way(path)
        };
        let kind = |path: &RelPath, place: &Place| place.kind.max(ended::kind_on_source(root, path));
        let hidden = self.unread.below(entries).map(|(path, place)| (path, kind(path, place), place));
        let left = hidden.filter(|(path, kind, _)| !covered(path, *kind));
        left.map(|(path, kind, place)| (path.clone(), kind, place.words.clone())).collect()
    }

    /// A batch went through, but for what its comparisons left alone.
    pub(super) fn confirm_read(&mut self, cx: &Context<'_>, batch: Batch) {
        let Batch { id, entries, .. } = batch;
        let hides = |e: &Entry| self.unread.below(std::slice::from_ref(e)).next().is_some();
        let (partly, whole): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(hides);
        for entry in partly {
            self.ledger.set.park(id, std::slice::from_ref(&entry));
            let left = self.left_alone(cx.root, std::slice::from_ref(&entry));
            if entry.path.is_root() {
                self.counters.reconciles += 1;
            }
            let names: Vec<RelPath> = left.iter().map(|(path, ..)| path.clone()).collect();
            self.confirmations.done_except(id, &entry.path, &names);
            let narrowed =
                self.ledger.set.narrow(entry, left.iter().map(|(path, kind, _)| (path.clone(), *kind)).collect::<Vec<_>>());
            for (entry, (_, _, words)) in narrowed.into_iter().zip(left) {
                match self.unread.then(&entry.path) {
                    Then::Travels if entry.kind == Kind::Entry => self.wait_for_large_lane(entry, 0),
                    Then::Travels | Then::Fails => self.ledger.retries.fail(cx.now, vec![entry], &words, fastrand::f64()),
                }
            }
        }
        let listed = self.gone_of(&whole, false);
        self.confirm(cx.now, id, whole);
        self.listed_as_gone(cx.root, listed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subtree(path: &str) -> Vec<Entry> {
        let mut set = DirtySet::new(10);
        set.see(path.as_bytes(), Seen::Subtree);
        set.take_deep(Limits { max_paths: 10, ignore_holds: true }).unwrap().entries
    }

    fn failed(path: &str, unread: bool) -> Failed {
        Failed { path: RelPath::from_normal(path), words: format!("cannot read {path}"), unread }
    }

    #[test]
    fn what_the_sender_could_not_read_is_hidden_until_it_went_through() {
        let mut unread = Unread::default();
        let (root, sub) = (subtree(""), subtree("d"));
        let failures = [failed("d/bad", true), failed("d/other", false), failed("d", true)];
        assert!(unread.learn(&sub, &failures, |_| Kind::Subtree), "a new place below the one that was compared");
        assert!(!unread.learn(&sub, &failures, |_| Kind::Subtree), "nothing new");
        assert_eq!(unread.rules(&root), ["--filter=- /d/bad"]);
        assert_eq!(unread.rules(&sub), ["--filter=- /d/bad"]);
        assert!(unread.rules(&subtree("d/bad")).is_empty(), "by itself it is tried");
        assert!(unread.rules(&subtree("e")).is_empty());
        unread.confirmed(&subtree("d/bad")[0]);
        assert!(unread.rules(&root).is_empty());
    }

    #[test]
    fn a_file_that_did_not_fit_is_hidden_from_what_does_not_name_it() {
        let mut set = DirtySet::new(100);
        set.see(b"d", Seen::Contents);
        let limits = Limits { max_paths: 10, ignore_holds: true };
        let level = set.take_shallow(limits, &mut |_, _| false).unwrap().entries;
        let mut unread = Unread::default();
        let failures = [failed("d/hole", true), failed("d/e/hole", true), failed("other", true)];
        assert!(unread.learn(&level, &failures, |_| Kind::Entry));
        assert_eq!(unread.rules(&level), ["--filter=- /d/hole"], "one level, and no more");
        assert_eq!(unread.rules(&subtree("")), ["--filter=- /d/hole"]);
        set.see(b"d/hole", Seen::Written);
        let both = [level.clone(), set.take_shallow(limits, &mut |_, _| false).map(|b| b.entries).unwrap_or_default()].concat();
        let named = both.iter().any(|e| *e.path == *b"d/hole");
        assert_eq!(unread.rules(&both).is_empty(), named, "what is listed is not hidden");
        for (size, too_large, want) in
            [(1, false, false), (1, true, true), (lanes::LARGE_FILE - 1, false, false), (lanes::LARGE_FILE, false, true)]
        {
            assert_eq!(is_to_blame(size, too_large), want, "{size}");
        }
    }

    /// It may have been a file or nothing when it was named.
    #[test]
    fn a_place_that_is_a_directory_by_now_is_left_with_all_that_is_in_it() {
        let source = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(source.path().join("d/bad/sub")).unwrap();
        let root = Root::open(source.path()).unwrap();
        let cfg = config::Target::new("t", crate::location::Location::parse("host:/dir").unwrap());
        let mut target = Target::new(0, &Mirror::new("m", "/src"), &cfg, &RsyncFacts::default());
        let failures = [failed("d/bad", true), failed("d/none", true)];
        assert!(target.unread.learn(&subtree("d"), &failures, |_| Kind::Entry));
        let left = |target: &Target| -> Vec<(String, Kind)> {
            target.left_alone(&root, &subtree("d")).into_iter().map(|(path, kind, _)| (path.to_string(), kind)).collect()
        };
        let both = [("d/bad".to_owned(), Kind::Subtree), ("d/none".to_owned(), Kind::Entry)];
        assert_eq!(left(&target), both);
        // Its failure is that of the file, too.
        let since = target.ledger.set.epochs().current();
        for path in ["d/bad", "d/none"] {
            let entry = target.ledger.set.parked(RelPath::from_normal(path), since);
            target.ledger.retries.fail(Duration::ZERO, vec![entry], "cannot read", 0.0);
        }
        assert_eq!(left(&target), both[..1]);
    }

    #[test]
    fn a_file_of_holes_gives_way_ever_later() {
        let mut set = DirtySet::new(10);
        set.see(b"d/hole", Seen::Written);
        let batch = set.take_shallow(Limits { max_paths: 10, ignore_holds: true }, &mut |_, _| false).unwrap();
        let mut unread = Unread::default();
        let secs = Duration::from_secs;
        assert!(!unread.gives_way(&batch, secs(99)), "any other file");
        assert!(unread.learn(&subtree(""), &[failed("d/hole", true)], |_| Kind::Entry));
        assert!(!unread.gives_way(&batch, secs(99)), "one that did not fit");
        unread.places.values_mut().for_each(|place| place.then = Then::Travels);
        assert!(!unread.has_given_way());
        for (age, gives) in [(0, false), (1, true), (1, false), (2, true), (3, false), (4, true)] {
            assert_eq!(unread.gives_way(&batch, secs(age)), gives, "after {age} s");
        }
        assert!(unread.has_given_way());
    }

    #[test]
    fn a_path_too_long_for_a_rule_is_hidden_with_a_directory_above_it() {
        let long = vec!["n".repeat(200); 20].join("/");
        let mut unread = Unread::default();
        assert!(unread.learn(&subtree(""), &[failed(&long, true)], |_| Kind::Subtree));
        let (path, _) = unread.places.first_key_value().unwrap();
        assert!(path.len() <= MAX_HIDDEN_BYTES && !path.is_root() && long.as_bytes().starts_with(path), "{path}");
    }
}
