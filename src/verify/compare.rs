//! Dry runs of rsync, reported as paths that differ.
//!
//! The command lines are those of the mirror's own passes ([`argv`]), made from the same
//! configuration, so what a verification takes for equal is what a full pass would leave alone.
//! What such a pass leaves alone although rsync's filters cannot express it
//! ([`Filter::is_rsyncs`](crate::filter::Filter::is_rsyncs)) is taken out of what it says.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use super::Error;
use super::ending::{Ending, Way};
use super::why::Why;
use crate::dirty::Kind;
use crate::engine::Plan;
use crate::filter::Filter;
use crate::path::{self, RelPath};
use crate::sync::argv::{self, Compare, Deletions, Pass, Spec};
use crate::sync::dialect::Dialect;
use crate::sync::filelist::{self, Form};
use crate::sync::normal::{self, State as Look};
use crate::sync::outcome::{Outcome, Verdict};
use crate::sync::output::Item;
use crate::sync::run::{Input, Run};
use crate::sys::priority::Priority;
use crate::sys::statx::Statter;
use crate::targets::{limited_args, spared};

/// Differences kept of one run.
pub(super) const MAX_KEPT: usize = 100_000;
/// Paths that are compared again by name; more, and the whole tree is compared again.
pub(super) const MAX_LISTED: usize = 20_000;

/// Paths that differ, with what is different.
pub(super) type Differing = BTreeMap<RelPath, Why>;

/// What one comparison found.
pub(super) struct Found {
    pub(super) differing: Differing,
    /// Differences beyond [`MAX_KEPT`].
    pub(super) more: u64,
    /// Entries of the tree; 0 for a comparison by names.
    pub(super) entries: u64,
    /// Why not everything was seen.
    pub(super) incomplete: Option<String>,
}

/// Compares a target; one for the whole of a verification.
pub(super) struct Comparer<'p> {
    plan: &'p Plan,
    compare: Compare,
    filter_args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    going: &'p dyn Fn() -> bool,
    /// Entries of the tree when it was last verified.
    before: u64,
    /// Which options both sides know: as the daemon found it, or as the first run here finds it.
    dialect: Cell<Dialect>,
}

impl<'p> Comparer<'p> {
    /// `going`: called now and then; once it returns false, the comparison ends with
    /// [`Error::Cancelled`].
    pub(super) fn new(plan: &'p Plan, checksum: bool, going: &'p dyn Fn() -> bool) -> Comparer<'p> {
        Comparer {
            plan,
            compare: if checksum { Compare::Checksum } else { Compare::Quick },
            filter_args: plan.sides.apart.iter().cloned().chain(limited_args(&plan.mirror)).collect(),
            env: argv::environment(std::env::vars_os()),
            going,
            dialect: Cell::new(plan.sides.dialect),
            before: plan.board.lock().unwrap_or_else(PoisonError::into_inner).entries,
        }
    }

    fn spec(&self) -> Spec<'_> {
        let Plan { mirror, sides, root, idle, .. } = self.plan;
        Spec {
            source: Some(root.as_fd()),
            dry_run: true,
            missing_args: sides.missing_args,
            dialect: self.dialect.get(),
            compare: self.compare,
            filter_args: &self.filter_args,
            priority: if *idle { Priority::IDLE } else { sides.target.priority() },
            ..Spec::new(mirror, &sides.target, &sides.facts, root.path())
        }
    }

    /// The whole tree.
    pub(super) fn whole(&self) -> Result<Found, Error> {
        self.run(Pass::Full { progress: true }, Input::None)
    }

    /// These paths alone. Others may be in what is found.
    pub(super) fn again(&self, paths: &Differing) -> Result<Found, Error> {
        let wanted: Vec<(RelPath, Kind)> = paths.keys().map(|path| (path.clone(), Kind::Entry)).collect();
        let mut statter = Statter::new();
        let normal =
            normal::normalise(self.plan.root.as_fd(), &wanted, &mut statter).map_err(|e| Error::Source(e.to_string()))?;
        let linked = |state: &Look| matches!(state, Look::Present(stat) if stat.nlink > 1 && !stat.is_dir());
        let links = self.plan.mirror.extras.hard_links && normal.items.iter().any(|i| linked(&i.state));
        if wanted.len() > MAX_LISTED || links {
            return self.whole(); // all names of a file have to be in the list
        }
        let mut list = vec![(RelPath::from_normal(format!(".probe-{:016x}", fastrand::u64(..))), Form::Plain)];
        for item in normal.items {
            list.extend(listed(item.path, item.state, self.spec().deletions()));
        }
        let one_level = list.iter().any(|(_, form)| *form == Form::OneLevel);
        let pass = if one_level { Pass::ShallowOneLevel } else { Pass::Shallow };
        let encoded = filelist::encode(list.iter().map(|(path, form)| (path, *form)));
        self.run(pass, Input::List(&encoded.bytes))
    }

    fn run(&self, pass: Pass, input: Input<'_>) -> Result<Found, Error> {
        self.run_as(&self.spec(), pass, input)
    }

    /// Those of these files that the target has as they are here: rsync read both, and calls them
    /// unchanged. What it says nothing about is not among them.
    pub(super) fn equal(&self, paths: &[RelPath]) -> Result<BTreeSet<RelPath>, Error> {
        let list = filelist::encode(paths.iter().map(|path| (path, Form::Plain)));
        // Of options that contradict each other the last holds, so these come behind the user's
        // own.
        let own = ["--checksum", "-n", "-ii"].map(String::from);
        let extra: Vec<String> = self.plan.sides.target.args.iter().cloned().chain(own).collect();
        let spec = Spec { extra: &extra, compare: Compare::Checksum, ..self.spec() };
        let (run, outcome) = self.end_of(&spec, Pass::Shallow, Input::List(&list.bytes))?;
        unseen(&outcome, false)?;
        let wanted: BTreeSet<&RelPath> = paths.iter().collect();
        let same = run.output().items.iter().filter(|item| is_unchanged_file(item) && wanted.contains(&item.path));
        Ok(same.map(|item| item.path.clone()).collect())
    }

    fn run_as(&self, spec: &Spec<'_>, pass: Pass, input: Input<'_>) -> Result<Found, Error> {
        let (run, outcome) = self.end_of(spec, pass, input)?;
        let (signs, peer) = (&run.output().signs, &spec.peer);
        match spec.dialect.after(&outcome, signs, peer.location, peer.compress) {
            Some(older) => {
                self.dialect.set(older);
                self.run_as(&Spec { dialect: older, ..*spec }, pass, input)
            }
            None => self.found(&run, &outcome),
        }
    }

    /// Runs it to its end.
    fn end_of(&self, spec: &Spec<'_>, pass: Pass, input: Input<'_>) -> Result<(Run, Outcome), Error> {
        self.plan.root.check().map_err(|astray| Error::Source(astray.to_string()))?;
        let mut run = Run::start(spec, pass, &self.env, input).map_err(Error::start)?;
        run.keep_items(MAX_KEPT);
        let Plan { mirror, sides, board, .. } = self.plan;
        let ending = Ending {
            mirror: &mirror.name,
            target: &sides.target.name,
            board,
            way: Way::ToTarget,
            watchdog: sides.target.watchdog,
            reads: (self.compare == Compare::Checksum).then_some(self.before),
            going: self.going,
        };
        ending.of(run, matches!(pass, Pass::Full { .. }))
    }

    fn found(&self, run: &Run, outcome: &Outcome) -> Result<Found, Error> {
        let output = run.output();
        let incomplete = unseen(outcome, output.signs.deletes_skipped || output.signs.skipped)?;
        Ok(Found {
            differing: self.differing(&output.items),
            more: output.items_more,
            entries: output.progress.map_or(0, |p| p.files_total),
            incomplete,
        })
    }

    /// What a full pass would change.
    fn differing(&self, items: &[Item]) -> Differing {
        changes(&self.plan.mirror.filter, self.plan.sides.top_refused, items)
    }

    /// Distinguishes what is missing from what exists under another type: rsync says the same of
    /// both, but creates nothing where it may not (`--existing`). Where that cannot be asked (a
    /// server may refuse the option), both are called missing.
    pub(super) fn tell_types(&self, differing: &mut Differing) {
        let new = differing.iter().filter(|(_, why)| why.is_new()).map(|(path, _)| (path, Form::Plain));
        let list = filelist::encode(new.take(MAX_LISTED));
        if list.entries == 0 {
            return;
        }
        let extra: Vec<String> = self.plan.sides.target.args.iter().cloned().chain(["--existing".into()]).collect();
        let spec = Spec { extra: &extra, ..self.spec() };
        let Ok(found) = self.run_as(&spec, Pass::Shallow, Input::List(&list.bytes)) else { return };
        for path in found.differing.iter().filter(|(_, why)| why.is_new()).map(|(path, _)| path) {
            if let Some(why) = differing.get_mut(path) {
                *why = why.with_other_type();
            }
        }
    }
}

/// Whether rsync calls it a regular file that is the same on both sides (rsync(1), `-ii`).
fn is_unchanged_file(item: &Item) -> bool {
    let rest = &item.change[2..];
    item.change.starts_with(b".f") && (rest.iter().all(|&b| b == b' ') || item.is_access_time())
}

/// How a path is listed to be compared by name, if it can be.
fn listed(path: RelPath, state: Look, deletions: Deletions) -> Option<(RelPath, Form)> {
    match (state, deletions) {
        (Look::Present(_), _) | (Look::Missing, Deletions::ByName) => Some((path, Form::Plain)),
        (Look::Missing, Deletions::ByParent) => {
            Some((RelPath::from_normal(path::parent(&path).unwrap_or_default()), Form::OneLevel))
        }
        (Look::Missing, Deletions::Never) | (Look::Unreadable(_), _) => None,
    }
}

/// Why a run that ended so did not see everything; `None` when it did. `doubt`: it reported that it
/// left something out.
///
/// # Errors
/// It gives no answer at all.
pub(super) fn unseen(outcome: &Outcome, doubt: bool) -> Result<Option<String>, Error> {
    let reason = || outcome.reason.clone();
    match outcome.verdict {
        Verdict::Done => Ok(None),
        // What vanished from the source while rsync compared.
        Verdict::SourceRace if !doubt => Ok(None),
        Verdict::Partial | Verdict::SourceRace => Ok(Some(reason())),
        Verdict::SourceRoot => Err(Error::Source(reason())),
        Verdict::Killed | Verdict::Unknown => Err(Error::Incomplete(reason())),
        _ => Err(Error::Unreachable(reason())),
    }
}

/// What of `items` a full pass would change. `top_refused`: the target's top keeps its own times
/// and mode.
pub(super) fn changes(filter: &Filter, top_refused: bool, items: &[Item]) -> Differing {
    let spared = spared(filter, items);
    let concerns = |item: &&Item| {
        let tolerated = item.path.is_root() && top_refused;
        let kept = item.deletes() && spared.contains(&item.path);
        !(tolerated || kept || item.is_access_time() || filter.excludes(&item.path, item.dir))
    };
    items.iter().filter(concerns).map(|item| (item.path.clone(), Why::new(item))).collect()
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::sys::statx::StatBrief;
    use crate::verify::why::Side;

    fn path(path: &str) -> RelPath {
        RelPath::from_normal(path)
    }

    #[test]
    fn only_a_run_that_saw_everything_says_that_a_target_is_equal() {
        let ended = |verdict| Outcome { verdict, ..Outcome::unknown("why".into()) };
        let why = || "why".to_owned();
        let refused = Verdict::Refused { option: "--delete".into() };
        for (verdict, doubt, want) in [
            (Verdict::Done, false, Ok(None)),
            (Verdict::SourceRace, false, Ok(None)),
            (Verdict::SourceRace, true, Ok(Some(why()))),
            (Verdict::Partial, false, Ok(Some(why()))),
            (Verdict::SourceRoot, false, Err(Error::Source(why()))),
            (Verdict::Killed, false, Err(Error::Incomplete(why()))),
            (Verdict::Unknown, false, Err(Error::Incomplete(why()))),
            (Verdict::TargetMissing, false, Err(Error::Unreachable(why()))),
            (Verdict::TargetDown, false, Err(Error::Unreachable(why()))),
            (refused, false, Err(Error::Unreachable(why()))),
        ] {
            assert_eq!(unseen(&ended(verdict.clone()), doubt), want, "{verdict:?} {doubt}");
        }
    }

    #[test]
    fn a_path_is_listed_as_the_target_can_be_asked_for_it() {
        let there = Look::Present(StatBrief::default());
        let refused = Look::Unreadable(Errno::EACCES);
        for (at, state, deletions, want) in [
            ("d/f", there, Deletions::Never, Some(("d/f", Form::Plain))),
            ("d/f", there, Deletions::ByParent, Some(("d/f", Form::Plain))),
            ("d/f", Look::Missing, Deletions::ByName, Some(("d/f", Form::Plain))),
            ("d/f", Look::Missing, Deletions::ByParent, Some(("d", Form::OneLevel))),
            ("f", Look::Missing, Deletions::ByParent, Some(("", Form::OneLevel))),
            ("d/f", Look::Missing, Deletions::Never, None),
            ("d/f", refused, Deletions::ByName, None),
        ] {
            let want = want.map(|(p, form)| (path(p), form));
            assert_eq!(listed(path(at), state, deletions), want, "{at} {state:?} {deletions:?}");
        }
    }

    #[test]
    fn only_a_file_that_is_called_unchanged_is() {
        for (change, want) in [
            (b".f         ", true),
            (b".f......u..", true),
            (b".d         ", false),
            (b".L         ", false),
            (b".f..t......", false),
            (b".f........x", false),
            (b"<f         ", false),
            (b"<f+++++++++", false),
            (b"*deleting  ", false),
        ] {
            let item = Item { change: *change, path: path("f"), dir: false };
            assert_eq!(is_unchanged_file(&item), want, "{}", String::from_utf8_lossy(change));
        }
    }

    #[test]
    fn what_a_full_pass_leaves_alone_is_no_difference() {
        let item = |at: &str, change: &[u8; 11], dir| Item { change: *change, path: path(at), dir };
        let items = [
            item("", b".d..t......", true),
            item("d", b"cd+++++++++", true),
            item("log/x", b"<f+++++++++", false),
            item("gone.tmp", b"*deleting  ", false),
            item("read", b".f......u..", false),
            item("read-and-set", b".f...p..u..", false),
            item("two", b"hf         ", false),
        ];
        let filter = Filter::new(&[] as &[&str], &["*.tmp", "log/"]).unwrap();
        let found = |top_refused| {
            let found = changes(&filter, top_refused, &items);
            found.iter().map(|(path, why)| format!("{path}: {}", why.words(Side::Target))).collect::<Vec<_>>()
        };
        let own = ["d: missing on the target", "read-and-set: mode", "two: not linked to the other names of its file"];
        assert_eq!(found(true), own);
        assert_eq!((&found(false)[..1], &found(false)[1..]), (&[".: times".to_owned()][..], &own.map(str::to_owned)[..]));
    }
}
