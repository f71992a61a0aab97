//! Files that were written and wait to be sent, kept on the disk while they do and pending again at
//! the start ([`crate::state::written`]). Not all of them would be found without: a walk goes by
//! change times, and a comparison of the whole tree, which a start may have to make, by size and
//! mtime.
//!
//! While fansync runs, searches go over what waits for each target, part by part: each begins where
//! the one before ended. What a walk would not find stays kept from then on, as long as it waits.
//! What a kill loses is what no search has reached.

use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::Engine;
use crate::dirty::Seen;
use crate::path::RelPath;
use crate::state::written::WrittenFile;
use crate::sys::statx::{Looked, Paths, StatBrief};
use crate::targets::{Reached, Since};

/// At most so many files are kept, by their [`Class`]. While fansync runs, a search looks at so many
/// of what waits for each target, in each place where it waits.
const MOST: usize = 10_000;
/// The same of the search at the end.
const CHECKED_AT_END: usize = 500_000;
/// What waits for less is most likely on its way. What is killed before that loses it.
const AGE: Duration = Duration::from_secs(2);
/// The pause after a search, by the time that it took.
const REST: u32 = 50;

/// Why a file that waits is kept, the more important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// A walk would not find it.
    Hidden,
    /// It was kept before, and was not looked at since.
    Before,
    /// A start makes no walk for it. A comparison does not find it where size and mtime are as
    /// before.
    Alike,
    /// A walk finds it. A comparison of the whole tree may not.
    Found,
    /// It is not there, or no file: not kept.
    Gone,
}

impl Class {
    /// Of a file. `since`: from when on its change time may be, for a walk to find it, seconds since
    /// 1970; `None`: the next start makes no walk for the target.
    fn of(looked: Looked, since: Option<i64>) -> Class {
        match (looked.ok().filter(StatBrief::is_file), since) {
            (None, _) => Class::Gone,
            (Some(_), None) => Class::Alike,
            (Some(stat), Some(since)) if stat.ctime.secs < since => Class::Hidden,
            (Some(_), Some(_)) => Class::Found,
        }
    }

    /// Whether it is kept from one search to the next.
    fn stays(self) -> bool {
        self < Class::Found
    }
}

/// Files that wait.
#[derive(Default)]
pub(super) struct Found {
    files: BTreeMap<RelPath, Class>,
    /// Something waits that was not looked at.
    partly: bool,
}

impl Found {
    pub(super) fn append(&mut self, more: Found) {
        more.files.into_iter().for_each(|(path, class)| self.add(path, class));
        self.partly |= more.partly;
    }

    fn add(&mut self, path: RelPath, class: Class) {
        merge(&mut self.files, path, class);
    }

    fn count(&self, class: impl Fn(Class) -> bool) -> usize {
        self.files.values().filter(|&&of| class(of)).count()
    }

    /// What is kept of it, at most `most`. While fansync runs, of what is found anyway all or
    /// nothing: others of it after each search would be kept for nothing. `last`: it is the end.
    fn kept(self, most: usize, last: bool) -> BTreeSet<RelPath> {
        let mut files: Vec<_> = self.files.into_iter().map(|(path, class)| (class, path)).collect();
        files.retain(|(class, _)| class.stays() || *class == Class::Found && (last || !self.partly));
        files.sort_unstable();
        files.into_iter().take(most).map(|(_, path)| path).collect()
    }
}

/// A path that waits in several places, or for several targets, is kept for the best reason.
fn merge(files: &mut BTreeMap<RelPath, Class>, path: RelPath, class: Class) {
    match files.entry(path) {
        Vacant(place) => _ = place.insert(class),
        Occupied(mut place) => *place.get_mut() = class.min(*place.get()),
    }
}

/// What is known of one target.
#[derive(Default)]
struct OfTarget {
    reached: Reached,
    /// What stays kept.
    kept: BTreeMap<RelPath, Class>,
}

impl OfTarget {
    /// Takes in what a search looked at, adds that and what was kept before to `found`, and keeps
    /// at most `most`: of the same class rather what was kept before.
    fn take(&mut self, looked: BTreeMap<RelPath, Class>, most: usize, found: &mut Found) {
        let mut new = Vec::new();
        for (path, class) in looked {
            if class != Class::Gone {
                found.add(path.clone(), class);
            }
            match self.kept.entry(path) {
                Occupied(kept) if !class.stays() => _ = kept.remove(),
                Occupied(mut kept) => _ = kept.insert(class),
                Vacant(place) if class.stays() => new.push((class, true, place.into_key())),
                Vacant(_) => {}
            }
        }
        self.kept.iter().for_each(|(path, class)| found.add(path.clone(), *class));
        if self.kept.len() + new.len() > most {
            new.extend(std::mem::take(&mut self.kept).into_iter().map(|(path, class)| (class, false, path)));
            new.sort_unstable();
            new.truncate(most);
        }
        self.kept.extend(new.into_iter().map(|(class, _, path)| (path, class)));
    }
}

/// See the module's text.
pub(super) struct Unsent {
    file: WrittenFile,
    /// What the file has.
    saved: BTreeSet<RelPath>,
    targets: Vec<OfTarget>,
    next: Duration,
    /// It could not be written, which was logged.
    failing: bool,
    /// It was logged that not all are kept.
    overflowing: bool,
}

impl Unsent {
    pub(super) fn new(file: WrittenFile) -> Unsent {
        let (saved, targets, next) = (BTreeSet::new(), Vec::new(), Duration::ZERO);
        Unsent { file, saved, targets, next, failing: false, overflowing: false }
    }

    /// Whether it is to be logged that not all of `found` are kept. `last`: it is the end.
    fn overflows(&mut self, found: &Found, last: bool) -> Option<usize> {
        // While fansync runs, a walk or a comparison most likely finds those that are not sure to be
        // hidden.
        let hidden = found.count(|class| if last { class.stays() } else { class == Class::Hidden });
        let over = hidden > MOST;
        let logged = self.overflowing;
        self.overflowing = over || logged && hidden > 0;
        (over && (last || !logged)).then_some(hidden)
    }
}

impl Engine {
    /// What an earlier run left is pending again.
    pub(super) fn take_up_unsent(&mut self) {
        let Some(unsent) = &mut self.saved.unsent else { return };
        match unsent.file.load() {
            Ok(paths) => unsent.saved = paths,
            Err(error) => tracing::warn!(
                mirror = %self.mirror.name,
                "files that an earlier run had not sent, and whose change times are older than that, are not known: {error}. `fansync verify` finds them"
            ),
        }
        // The patterns may be others now.
        let filter = &self.mirror.filter;
        let paths: Vec<RelPath> = unsent.saved.iter().filter(|path| !filter.excludes(path, false)).cloned().collect();
        let kept: BTreeMap<RelPath, Class> = paths.iter().map(|path| (path.clone(), Class::Before)).collect();
        unsent.targets = self.targets.iter().map(|_| OfTarget { kept: kept.clone(), ..OfTarget::default() }).collect();
        if !paths.is_empty() {
            tracing::info!(mirror = %self.mirror.name, files = paths.len(), "what was written and not sent before this start is read again");
        }
        paths.iter().for_each(|path| self.take_found(path, Seen::Written));
    }

    /// When the next search for such files is due.
    pub(super) fn unsent_due(&self) -> Option<Duration> {
        let unsent = self.saved.unsent.as_ref()?;
        let oldest = self.targets.iter().filter_map(|target| target.waits_since()).min();
        let from = oldest.map(|since| since + AGE).or((!unsent.saved.is_empty()).then_some(Duration::ZERO))?;
        Some(from.max(unsent.next))
    }

    /// Keeps such files, if a search is due.
    pub(super) fn keep_unsent(&mut self) {
        let now = self.now();
        if self.unsent_due().is_some_and(|due| due <= now) {
            let began = Instant::now();
            let found = self.unsent_writes(MOST, false);
            self.save_unsent(found, false);
            let pause = AGE.max(began.elapsed() * REST);
            self.saved.unsent.iter_mut().for_each(|unsent| unsent.next = now + pause);
        }
    }

    /// The same at the end. To be called before the runs are ended, too: what they carry is known to
    /// them alone.
    pub(super) fn unsent_at_end(&mut self) -> Found {
        self.unsent_writes(CHECKED_AT_END, true)
    }

    /// Such files: those that are kept, and of each target the next `most` of what waits in each
    /// place. `first`: the first ones.
    fn unsent_writes(&mut self, most: usize, first: bool) -> Found {
        let mut found = Found::default();
        let Some(unsent) = &mut self.saved.unsent else { return found };
        let held = self.guard.held.is_some();
        if held {
            // The source is another one, or none: what is not there may come back.
            unsent.saved.iter().for_each(|path| found.add(path.clone(), Class::Before));
        }
        unsent.targets.resize_with(self.targets.len(), OfTarget::default);
        for (at, (target, of)) in self.targets.iter().zip(&mut unsent.targets).enumerate() {
            let by_walk = self.saved.history.as_ref().is_some_and(|history| history.finds_by_time(at));
            target.retain_unconfirmed(&mut of.kept);
            if first {
                of.reached = Reached::default();
            }
            found.partly |= of.reached != Reached::default();
            let written = target.written(&mut of.reached, most);
            found.partly |= of.reached != Reached::default();
            let mut paths = Paths::default();
            written.iter().for_each(|(path, _)| _ = paths.push(path, None));
            let looked = self.io.statter.stat_all(self.root.as_fd(), &paths);
            let mut classes = BTreeMap::new();
            for ((path, since), looked) in written.into_iter().zip(looked) {
                let since = since.filter(|_| by_walk).map(|since| match since {
                    // The watermark is earlier by [`SLACK`](crate::state::SLACK), so a second more
                    // or less is of no matter.
                    Since::Dirty(at) => self.clock.wall_start + at.as_secs() as i64,
                    // That was in the course of this second.
                    Since::Walked(at) => at + 1,
                });
                let class = Class::of(looked, since);
                if !held || class != Class::Gone {
                    merge(&mut classes, path, class);
                }
            }
            of.take(classes, MOST, &mut found);
        }
        found
    }

    /// Keeps these for the next start. `last`: it is the end.
    pub(super) fn save_unsent(&mut self, found: Found, last: bool) {
        let Some(unsent) = &mut self.saved.unsent else { return };
        if let Some(hidden) = unsent.overflows(&found, last) {
            tracing::warn!(
                mirror = %self.mirror.name, files = hidden,
                "files wait that a restart would not find by their change times, and not all are kept; the others are compared by `fansync verify` alone"
            );
        }
        let paths = found.kept(MOST, last);
        if paths == unsent.saved && !last {
            return;
        }
        match unsent.file.save(&paths, last) {
            Ok(()) => (unsent.saved, unsent.failing) = (paths, false),
            Err(error) => {
                if !std::mem::replace(&mut unsent.failing, true) {
                    tracing::error!(mirror = %self.mirror.name, "{error}. A restart does not find what was written and is not sent yet, where its change time is older");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, Class)]) -> BTreeMap<RelPath, Class> {
        files.iter().map(|(path, class)| (RelPath::new(path.as_bytes()).unwrap(), *class)).collect()
    }

    fn names<'p>(paths: impl IntoIterator<Item = &'p RelPath>) -> Vec<String> {
        paths.into_iter().map(ToString::to_string).collect()
    }

    fn found(of: &mut OfTarget, looked: &[(&str, Class)], most: usize) -> Found {
        let mut found = Found::default();
        of.take(files(looked), most, &mut found);
        found
    }

    #[test]
    fn what_was_hidden_stays_kept_until_it_is_looked_at_once_more() {
        let mut of = OfTarget { kept: files(&[("before", Class::Before)]), ..OfTarget::default() };
        found(&mut of, &[("a", Class::Hidden), ("b", Class::Hidden), ("c", Class::Alike), ("d", Class::Found)], 10);
        let next = found(&mut of, &[("e", Class::Found), ("f", Class::Gone)], 10);
        assert_eq!(names(next.files.keys()), ["a", "b", "before", "c", "e"]);
        let next = found(&mut of, &[("a", Class::Found), ("b", Class::Gone), ("before", Class::Hidden)], 10);
        assert_eq!(next.files, files(&[("a", Class::Found), ("before", Class::Hidden), ("c", Class::Alike)]));
        assert_eq!(of.kept, files(&[("before", Class::Hidden), ("c", Class::Alike)]));
    }

    #[test]
    fn of_too_many_those_stay_that_matter_most_and_were_kept_before() {
        let mut of = OfTarget::default();
        found(&mut of, &[("m", Class::Hidden), ("n", Class::Hidden), ("o", Class::Alike)], 3);
        let more = found(&mut of, &[("a", Class::Hidden), ("b", Class::Hidden), ("c", Class::Alike)], 3);
        assert_eq!(
            (names(of.kept.keys()), more.count(|class| class == Class::Hidden)),
            (vec!["a".into(), "m".into(), "n".into()], 4)
        );
        assert_eq!(names(&more.kept(4, false)), ["a", "b", "m", "n"]);
    }

    #[test]
    fn what_is_found_anyway_is_kept_where_all_was_looked_at() {
        let all = |partly| Found { files: files(&[("a", Class::Found), ("h", Class::Hidden), ("x", Class::Alike)]), partly };
        assert_eq!(names(&all(false).kept(9, false)), ["a", "h", "x"]);
        assert_eq!(names(&all(true).kept(9, false)), ["h", "x"]);
        assert_eq!(names(&all(true).kept(9, true)), ["a", "h", "x"]);
        assert_eq!(names(&all(false).kept(1, false)), ["h"]);
    }

    #[test]
    fn that_not_all_are_kept_is_logged_once_while_it_lasts_and_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut unsent = Unsent::new(WrittenFile::new(dir.path(), "m", dir.path()));
        let of = |class, most: usize| {
            let files = (0..most).map(|at| (RelPath::new(at.to_string().as_bytes()).unwrap(), class)).collect();
            Found { files, partly: true }
        };
        let (many, few) = (of(Class::Hidden, MOST + 1), of(Class::Hidden, MOST));
        let logged = [&few, &many, &many, &few, &many, &Found::default(), &many].map(|found| unsent.overflows(found, false));
        assert_eq!(logged, [None, Some(MOST + 1), None, None, None, None, Some(MOST + 1)]);
        assert_eq!(unsent.overflows(&many, true), Some(MOST + 1));
        let alike = of(Class::Alike, MOST + 1);
        assert_eq!([false, true].map(|last| unsent.overflows(&alike, last)), [None, Some(MOST + 1)]);
    }
}
