//! A follower of a feed, compared with its upstream.
//!
//! rsync is run dry as the follower's own comparison of the whole tree runs it, towards us. What it
//! names may be on its way: changed at the source and not published, published and not pulled, or
//! changed while rsync compared. A follower cannot read the source, so the source answers up to
//! where it has published ([`crate::feed::barriers`]), and a path is judged between two answers:
//!
//! 1. All that had changed at the source is in records that the follower has read, and pulled.
//! 2. What still waits, flies or fails here is owed, and no matter of this comparison.
//! 3. The others are compared by name, with an upstream that holds all that was read.
//! 4. All that has changed at the source since is in records that the follower has read.
//!
//! What differs in 3, and is named by no record of 4, differs. The others are judged again, a few
//! times. Without the source's answer nothing is judged, and the report says so.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::PoisonError;
use std::time::Duration;

use super::Error;
use super::compare::{Differing, Found, MAX_KEPT, MAX_LISTED, changes, unseen};
use super::ending::{Ending, Way};
use super::judge::{self, FLUSH, Judged, ROUNDS};
use crate::config::Target;
use crate::dirty::Kind;
use crate::engine::{Followed, Live};
use crate::feed::barriers;
use crate::feed::mark;
use crate::follow::guards::UpstreamMark;
use crate::follow::pull::{self, Manner, Pass};
use crate::path::{self, RelPath};
use crate::sync::argv::{self, Compare, Peer};
use crate::sync::output::Names;
use crate::sync::run::{Input, Run};
use crate::text::plural;

/// How long an answer of the source may take.
const ANSWER: Duration = barriers::WITHIN.saturating_add(Duration::from_secs(2));

/// Compares, and compares what differs again until it is known to, or not. `live`: the follower, if
/// it runs.
pub(super) fn judge(followed: &Followed, live: Option<&Live>, checksum: bool, going: &dyn Fn() -> bool) -> Result<Judged, Error> {
    if followed.is_held {
        return Err(Error::Source("it is held; see the status there".into()));
    }
    let mut pulling = Pulling::new(followed, checksum, going);
    let found = judge::complete(|| pulling.whole())?;
    let first = Judged { more: found.more, entries: found.entries, incomplete: found.incomplete, ..Judged::default() };
    let mut judged = match live {
        None => Judged { differing: found.differing, ..first },
        Some(live) => settle(&mut pulling, live, found.differing, first)?,
    };
    // rsync says the same of what is missing and of what exists under another type.
    for (path, why) in judged.differing.iter_mut().filter(|(_, why)| why.is_new()) {
        if followed.mirror.source.join(path.as_path()).symlink_metadata().is_ok() {
            *why = why.with_other_type();
        }
    }
    Ok(judged)
}

fn settle(pulling: &mut Pulling<'_>, live: &Live, mut doubted: Differing, mut out: Judged) -> Result<Judged, Error> {
    let failing: BTreeSet<RelPath> = live.failing().ok_or_else(Error::engine)?.into_iter().collect();
    for _ in 0..ROUNDS {
        if doubted.is_empty() {
            break;
        }
        if !live.barrier(ANSWER).ok_or_else(Error::engine)? {
            not_published(&mut doubted, &mut out);
            break;
        }
        live.flush(FLUSH).ok_or_else(Error::engine)?;
        let Some(upstream) = live.upstream(FLUSH).ok_or_else(Error::engine)? else { continue };
        pulling.upstream = upstream;
        let (watch, owed) = live.watch(doubted.keys().cloned().collect()).ok_or_else(Error::engine)?;
        judge::take_owed(&mut doubted, &owed, &failing, &mut out);
        let again = if doubted.is_empty() { Ok(None) } else { pulling.again(&doubted).map(Some) };
        let published = match &again {
            Ok(Some(_)) => live.barrier(ANSWER).ok_or_else(Error::engine)?,
            _ => true,
        };
        let touched: BTreeSet<RelPath> = live.unwatch(watch).ok_or_else(Error::engine)?.into_iter().collect();
        let Some(again) = again? else { break };
        if !published {
            not_published(&mut doubted, &mut out);
            break;
        }
        let unseen = again.incomplete.is_some() || again.more > 0;
        let shown_again = below_what_came_back(&doubted, &again.differing);
        let differing = again.differing.into_iter().chain(shown_again.clone()).collect();
        let changed = |path: &RelPath| touched.contains(path) || shown_again.contains_key(path);
        doubted = judge::round(doubted, &differing, unseen, changed, &mut out);
    }
    judge::conclude(&doubted, live.failing().ok_or_else(Error::engine)?, &mut out);
    Ok(out)
}

/// Whether `doubted` differ is not known, as it is not known what changed at the source.
fn not_published(doubted: &mut Differing, out: &mut Judged) {
    out.incomplete = Some(format!(
        "the source has not answered within {} s up to where it has published (it is paused, held or away, or its fansync is older), \
         so {} not judged",
        ANSWER.as_secs(),
        match doubted.len() {
            1 => "a path that differs is".to_owned(),
            many => format!("{} that differ are", plural(many as u64, "path")),
        }
    ));
    out.unsettled += doubted.len() as u64;
    doubted.clear();
}

/// What was extra below a directory that was extra and is not any more: it was not compared by
/// name.
fn below_what_came_back(doubted: &Differing, again: &Differing) -> Differing {
    let unlisted = doubted.iter().filter(|(path, why)| why.is_extra() && !again.contains_key(*path));
    let below = unlisted.filter(|(path, _)| top_extra(doubted, path) != **path);
    below.filter(|(path, _)| !again.contains_key(&top_extra(doubted, path))).map(|(path, why)| (path.clone(), *why)).collect()
}

/// The topmost of the paths at and above this one that are extra.
fn top_extra(doubted: &Differing, path: &RelPath) -> RelPath {
    let above = std::iter::successors(Some(&**path), |at| path::parent(at));
    let extra = above.filter(|at| doubted.get(*at).is_some_and(|why| why.is_extra())).last();
    extra.map_or_else(|| path.clone(), RelPath::from_normal)
}

/// Comparisons of one follower; see the module's text.
struct Pulling<'p> {
    followed: &'p Followed,
    /// What it is compared with.
    upstream: Target,
    compare: Compare,
    env: Vec<(OsString, OsString)>,
    /// Entries of the tree when it was last verified.
    before: u64,
    mark: UpstreamMark,
    going: &'p dyn Fn() -> bool,
}

impl Drop for Pulling<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.mark.dir());
    }
}

impl<'p> Pulling<'p> {
    fn new(followed: &'p Followed, checksum: bool, going: &'p dyn Fn() -> bool) -> Pulling<'p> {
        Pulling {
            followed,
            upstream: followed.upstream.clone(),
            compare: if checksum { Compare::Checksum } else { Compare::Quick },
            env: argv::environment(std::env::vars_os()),
            before: followed.board.lock().unwrap_or_else(PoisonError::into_inner).entries,
            mark: UpstreamMark::new(followed.dir.clone()),
            going,
        }
    }

    fn end(
        &self,
        words: &[OsString],
        input: Input<'_>,
        names: Names,
        pass: Pass,
    ) -> Result<(Run, crate::sync::outcome::Outcome), Error> {
        let mut run = Run::pull(words, &Peer::of(&self.upstream), &self.env, input, names).map_err(Error::start)?;
        run.keep_items(MAX_KEPT);
        let ending = Ending {
            mirror: &self.followed.mirror.name,
            target: &self.upstream.name,
            board: &self.followed.board,
            way: Way::FromUpstream,
            watchdog: self.upstream.watchdog,
            reads: (self.compare == Compare::Checksum).then_some(self.before),
            going: self.going,
        };
        ending.of(run, pass == Pass::Whole)
    }

    /// Whether the upstream is the tree that is followed: what is not there may be another tree's.
    fn check(&self) -> Result<(), Error> {
        let trouble = |e| Error::Unavailable(format!("cannot use {} for the upstream's mark: {e}", self.mark.dir().display()));
        self.mark.clear().map_err(trouble)?;
        let words = pull::mark_words(&self.followed.mirror, &self.upstream, self.mark.dir());
        let (_, outcome) = self.end(&words, Input::None, Names::default(), Pass::Listed)?;
        if let pull::Judged::Away { why, .. } = pull::judge(&outcome) {
            return Err(Error::Unreachable(why));
        }
        let here = || std::fs::read_to_string(self.followed.mirror.source.join(mark::FILE)).ok();
        let wanted = self.followed.identity.or_else(|| Some(mark::parse(&here()?)?.1));
        match wanted {
            Some(wanted) => self.mark.judge(&self.upstream.location, Some(wanted)).map_err(Error::Source),
            // It has pulled nothing yet.
            None => Ok(()),
        }
    }

    fn found(&self, manner: Manner, list: &[u8]) -> Result<Found, Error> {
        self.check()?;
        let words = pull::comparing_words(&self.followed.mirror, &self.upstream, manner);
        let input = if manner.pass == Pass::Whole { Input::None } else { Input::List(list) };
        let names = pull::names(&self.followed.mirror, &self.upstream);
        let (run, outcome) = self.end(&words, input, names, manner.pass)?;
        if let pull::Judged::Away { why, .. } = pull::judge(&outcome) {
            return Err(Error::Unreachable(why));
        }
        let output = run.output();
        let incomplete = unseen(&outcome, output.signs.deletes_skipped || output.signs.skipped)?;
        // Marks are each one's own.
        let mut differing = changes(&self.followed.mirror.filter, false, &output.items);
        differing.retain(|path, _| !path::is_at_or_below(path, crate::role::mark::DIR.as_bytes()));
        Ok(Found { differing, more: output.items_more, entries: output.progress.map_or(0, |p| p.files_total), incomplete })
    }

    fn manner(&self, pass: Pass) -> Manner {
        Manner { pass, compare: self.compare, deletes: true, max_delete: None, dry: true }
    }

    fn whole(&self) -> Result<Found, Error> {
        self.found(self.manner(Pass::Whole), &[])
    }

    /// These paths alone. Others may be in what is found. Of what is extra only the topmost is
    /// listed: rsync complains of a missing path below a missing one.
    fn again(&self, paths: &Differing) -> Result<Found, Error> {
        if paths.len() > MAX_LISTED {
            return self.whole();
        }
        let listed = paths.iter().filter(|(path, why)| !why.is_extra() || top_extra(paths, path) == **path);
        let listed: Vec<(RelPath, Kind)> = listed.map(|(path, _)| (path.clone(), Kind::Entry)).collect();
        let (bytes, pass, _) = pull::list(&listed);
        self.found(self.manner(pass), &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::output::Item;
    use crate::verify::why::Why;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn differing(list: &[(&str, &[u8; 11])]) -> Differing {
        let why = |change: &[u8; 11]| Why::new(&Item { change: *change, path: RelPath::root(), dir: false });
        list.iter().map(|(p, change)| (path(p), why(change))).collect()
    }

    #[test]
    fn what_lies_below_what_is_not_extra_any_more_is_looked_at_again() {
        const EXTRA: &[u8; 11] = b"*deleting  ";
        let doubted = differing(&[("a", b".d..t......"), ("a/x", EXTRA), ("a/x/y", EXTRA), ("a/x/y/z", EXTRA), ("b", EXTRA)]);
        let tops: Vec<String> = doubted.keys().map(|path| top_extra(&doubted, path).to_string()).collect();
        assert_eq!(tops, ["a", "a/x", "a/x", "a/x", "b"]);
        let names = |again: &[(&str, &[u8; 11])]| -> Vec<String> {
            below_what_came_back(&doubted, &differing(again)).keys().map(ToString::to_string).collect()
        };
        assert_eq!(names(&[]), ["a/x/y", "a/x/y/z"]);
        assert!(names(&[("a/x", EXTRA)]).is_empty(), "rsync names all below it");
    }

    #[test]
    fn without_the_sources_answer_nothing_is_judged() {
        let mut out = Judged::default();
        let mut doubted = differing(&[("a", b"*deleting  "), ("b", b">f.st......")]);
        not_published(&mut doubted, &mut out);
        assert_eq!((doubted.len(), out.unsettled), (0, 2));
        assert!(out.incomplete.is_some_and(|why| why.ends_with("so 2 paths that differ are not judged")));
    }
}
