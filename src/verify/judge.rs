//! What of the differences is one: not on its way, and not of a path that changed while it was
//! looked at.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::compare::{Comparer, Differing, Found};
use super::why::Why;
use super::{Error, is_recent};
use crate::engine::{Live, Plan};
use crate::path::{self, RelPath};
use crate::targets::Wrong;

/// How often a path is judged before it is called unsettled.
pub(super) const ROUNDS: u32 = 3;
/// How often a comparison that could not see everything is made.
const TRIES: u32 = 3;
/// How long one wait for the events so far lasts; what is not through by then is owed.
pub(super) const FLUSH: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Judged {
    pub(super) differing: Differing,
    /// Differences that were counted and not kept.
    pub(super) more: u64,
    /// Paths that differ and are owed, or changed in every round.
    pub(super) unsettled: u64,
    pub(super) entries: u64,
    pub(super) incomplete: Option<String>,
}

/// Compares the whole tree, and compares what differs again until it is known to, or not.
pub(super) fn judge(comparer: &Comparer<'_>, live: Option<&Live>, plan: &Plan) -> Result<Judged, Error> {
    let found = complete(|| comparer.whole())?;
    let first = Judged { more: found.more, entries: found.entries, incomplete: found.incomplete, ..Judged::default() };
    match live {
        None => Ok(Judged { differing: found.differing, ..first }),
        Some(live) => settle(comparer, live, plan, found.differing, first),
    }
}

/// One comparison, made again while the source changes under it in a way that hides something.
pub(super) fn complete(compare: impl Fn() -> Result<Found, Error>) -> Result<Found, Error> {
    let mut tries = 1;
    loop {
        match compare() {
            Ok(Found { incomplete: Some(_), .. }) | Err(Error::Incomplete(_)) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

fn settle(comparer: &Comparer<'_>, live: &Live, plan: &Plan, mut doubted: Differing, mut out: Judged) -> Result<Judged, Error> {
    let failing: BTreeSet<RelPath> = live.failing().ok_or_else(Error::engine)?.into_iter().collect();
    for _ in 0..ROUNDS {
        if doubted.is_empty() {
            break;
        }
        live.flush(FLUSH).ok_or_else(Error::engine)?;
        let (watch, owed) = live.watch(doubted.keys().cloned().collect()).ok_or_else(Error::engine)?;
        take_owed(&mut doubted, &owed, &failing, &mut out);
        let begun = SystemTime::now();
        let again = if doubted.is_empty() { Ok(None) } else { comparer.again(&doubted).map(Some) };
        let touched: BTreeSet<RelPath> = live.unwatch(watch).ok_or_else(Error::engine)?.into_iter().collect();
        let Some(again) = again? else { break };
        let unseen = again.incomplete.is_some() || again.more > 0;
        let changed = |path: &RelPath| touched.contains(path) || is_recent(&plan.root, path, begun);
        doubted = round(doubted, &again.differing, unseen, changed, &mut out);
    }
    conclude(&doubted, live.failing().ok_or_else(Error::engine)?, &mut out);
    Ok(out)
}

/// Takes out of `doubted` what the target is owed.
pub(super) fn take_owed(doubted: &mut Differing, owed: &[RelPath], failing: &BTreeSet<RelPath>, out: &mut Judged) {
    for path in owed {
        match doubted.remove(path) {
            // It is owed because it fails, so nothing under way explains it.
            Some(why) if failing.contains(path) => _ = out.differing.insert(path.clone(), why),
            _ => out.unsettled += 1,
        }
    }
}

/// Judges `doubted` by a second comparison, which found `again`; what is left is to be judged once
/// more. `unseen`: that comparison did not see everything. `changed`: whether a path changed since
/// it began.
pub(super) fn round(
    doubted: Differing,
    again: &Differing,
    unseen: bool,
    changed: impl Fn(&RelPath) -> bool,
    out: &mut Judged,
) -> Differing {
    let mut left = Differing::new();
    for (path, before) in doubted {
        match again.get(&path) {
            Some(why) if changed(&path) => _ = left.insert(path, *why),
            Some(why) => _ = out.differing.insert(path, *why),
            None if unseen => _ = left.insert(path, before),
            None => {}
        }
    }
    left
}

/// After the last round: what is still `doubted`, and the paths that fail on every try.
pub(super) fn conclude(doubted: &Differing, failing: Vec<RelPath>, out: &mut Judged) {
    out.unsettled += doubted.len() as u64;
    // What failed meanwhile or is left alone by comparisons is not equal either, whatever size and
    // times say.
    for path in failing {
        out.differing.entry(path).or_insert_with(Why::failing);
    }
    if out.differing.is_empty() && out.unsettled > 0 {
        // What was not kept is of the same kind: the whole tree is on its way.
        out.unsettled += std::mem::take(&mut out.more);
    }
}

/// Puts the differing paths into the mirror's queue, waits until they are through, and compares
/// them once more; everything, where other names of them may have changed on the target.
pub(super) fn repair(
    comparer: &Comparer<'_>,
    live: &Live,
    plan: &Plan,
    judged: Judged,
    going: &dyn Fn() -> bool,
) -> Result<Judged, Error> {
    live.repair(wrong(&judged)).ok_or_else(Error::engine)?;
    loop {
        let (waiting, hopeless) = live.flush(FLUSH).ok_or_else(Error::engine)?;
        if let Some(away) = waiting.iter().find(|w| w.unreachable) {
            return Err(Error::Unreachable(away.why.clone()));
        }
        if waiting.is_empty() || hopeless {
            break;
        }
        if !going() {
            return Err(Error::Cancelled);
        }
    }
    let in_place = judged.differing.values().any(Why::is_set_in_place);
    let whole = judged.more > 0 || in_place;
    let rest = Judged { differing: Differing::new(), more: 0, ..judged };
    let found = if whole { complete(|| comparer.whole())? } else { comparer.again(&judged.differing)? };
    let doubted: Differing =
        found.differing.into_iter().filter(|(path, _)| whole || judged.differing.contains_key(path)).collect();
    // What is owed still is so for a reason, and is reported as different.
    let owed = live.watch(doubted.keys().cloned().collect()).ok_or_else(Error::engine)?;
    live.unwatch(owed.0).ok_or_else(Error::engine)?;
    let held: Differing =
        doubted.iter().filter(|(path, _)| owed.1.contains(path)).map(|(path, why)| (path.clone(), *why)).collect();
    let mut left = settle(comparer, live, plan, doubted, rest)?;
    left.unsettled = left.unsettled.saturating_sub(held.len() as u64);
    left.differing.extend(held);
    Ok(left)
}

/// What is to be sent: what lies below something that goes or comes as a whole is not listed by
/// itself.
fn wrong(judged: &Judged) -> Vec<Wrong> {
    if judged.more > 0 {
        return vec![Wrong { path: RelPath::root(), whole: true, removes: false, parts: false }];
    }
    let whole = |path: &[u8]| judged.differing.get(path).is_some_and(|why| why.is_extra() || (why.is_dir() && why.is_missing()));
    let covered = |path: &[u8]| std::iter::successors(path::parent(path), |at| path::parent(at)).any(whole);
    let tops = judged.differing.iter().filter(|(path, _)| !covered(path));
    let wrong = tops.map(|(path, why)| Wrong {
        path: path.clone(),
        whole: why.is_dir() && why.is_missing(),
        removes: why.removes(),
        parts: why.is_set_in_place(),
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::output::Item;
    use crate::verify::why::Side;

    #[test]
    fn what_is_below_something_whole_is_not_sent_by_itself() {
        let path = |p: &str| RelPath::new(p.as_bytes()).unwrap();
        let why = |change: &[u8; 11]| Why::new(&Item { change: *change, path: RelPath::root(), dir: false });
        let differing = [
            ("gone", b"*deleting  "),
            ("gone.x", b"<f..t......"),
            ("gone/a/b", b"*deleting  "),
            ("link", b".L...p....."),
            ("new", b"cd+++++++++"),
            ("new-link", b"cLc.t......"),
            ("new/f", b"<f+++++++++"),
            ("old", b".d..t......"),
            ("old/f", b"<f+++++++++"),
            ("pipe", b".S....o...."),
        ];
        let differing = differing.iter().map(|(p, change)| (path(p), why(change))).collect();
        let judged = Judged { differing, ..Judged::default() };
        let repairs: Vec<_> = wrong(&judged).into_iter().map(|w| (w.path.to_string(), w.whole, w.removes, w.parts)).collect();
        let want = [
            ("gone", false, true, false),
            ("gone.x", false, false, false),
            ("link", false, false, true),
            ("new", true, true, false),
            ("new-link", false, false, false),
            ("old", false, false, false),
            ("old/f", false, true, false),
            ("pipe", false, false, true),
        ];
        assert_eq!(repairs, want.map(|(p, whole, removes, parts)| (p.to_owned(), whole, removes, parts)));
        let all = wrong(&Judged { more: 1, ..judged });
        assert!(all.len() == 1 && all[0].path.is_root() && all[0].whole);
    }

    fn path(path: &str) -> RelPath {
        RelPath::new(path.as_bytes()).unwrap()
    }

    fn differing(list: &[(&str, &[u8; 11])]) -> Differing {
        let why = |change: &[u8; 11]| Why::new(&Item { change: *change, path: RelPath::root(), dir: false });
        list.iter().map(|(p, change)| (path(p), why(change))).collect()
    }

    fn names(differing: &Differing) -> Vec<String> {
        differing.iter().map(|(path, why)| format!("{path}: {}", why.words(Side::Target))).collect()
    }

    #[test]
    fn what_is_on_its_way_is_unsettled_unless_it_fails_on_every_try() {
        let mut doubted = differing(&[("fails", b"<f.s......."), ("on-its-way", b"<f.s......."), ("wrong", b"<fc........")]);
        let mut out = Judged::default();
        let failing = [path("fails"), path("fails-elsewhere")].into();
        take_owed(&mut doubted, &[path("fails"), path("on-its-way")], &failing, &mut out);
        assert_eq!(names(&doubted), ["wrong: content"]);
        assert_eq!((names(&out.differing), out.unsettled), (vec!["fails: size".to_owned()], 1));
    }

    #[test]
    fn a_path_differs_once_it_does_so_without_a_change_meanwhile() {
        let doubted = || differing(&[("changes", b"<f.s......."), ("equal-now", b"<fc........"), ("wrong", b"<f.s.......")]);
        let again = differing(&[("changes", b"<f..t......"), ("other", b"<fc........"), ("wrong", b"<f..t......")]);
        let changed = |p: &RelPath| *p == path("changes") || *p == path("equal-now");
        for (unseen, want) in [(false, &["changes: times"][..]), (true, &["changes: times", "equal-now: content"])] {
            let mut out = Judged::default();
            let left = round(doubted(), &again, unseen, changed, &mut out);
            assert_eq!(names(&left), want, "unseen: {unseen}");
            assert_eq!(names(&out.differing), ["wrong: times"], "as it was found last, and none that was not in doubt");
            assert_eq!(out.unsettled, 0);
        }
    }

    #[test]
    fn the_end_counts_what_stays_in_doubt_and_tells_what_fails() {
        let doubted = differing(&[("a", b"<f.s......."), ("b", b"<f.s.......")]);
        // What was counted and not kept is unsettled only where nothing is known to differ.
        for (known, failing, unsettled, more) in [(&[][..], &[][..], 2 + 7, 0), (&["d"], &[], 2, 7), (&[], &["f"], 2, 7)] {
            let known: Vec<(&str, &[u8; 11])> = known.iter().map(|p| (*p, b"<f.s.......")).collect();
            let mut out = Judged { differing: differing(&known), more: 7, ..Judged::default() };
            conclude(&doubted, failing.iter().map(|p| path(p)).collect(), &mut out);
            assert_eq!((out.unsettled, out.more), (unsettled, more), "{known:?} {failing:?}");
            assert_eq!(out.differing.len(), known.len() + failing.len());
        }
        let mut out = Judged { differing: differing(&[("d", b"<f.s.......")]), more: 7, ..Judged::default() };
        conclude(&Differing::new(), vec![path("d"), path("f")], &mut out);
        assert_eq!(names(&out.differing), ["d: size", "f: fails on every try, see FAILED in `fansync status`"]);
        let mut equal = Judged { more: 7, ..Judged::default() };
        conclude(&Differing::new(), Vec::new(), &mut equal);
        assert_eq!((equal.unsettled, equal.more), (0, 7), "with nothing in doubt, what was counted differs");
    }
}
