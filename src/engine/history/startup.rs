//! The start: from what the last run left on disk, or with a comparison of everything.

use std::sync::atomic::Ordering;

use super::Renewed;
use crate::config::Initial;
use crate::dirty::{Epoch, Seen};
use crate::engine::Engine;
use crate::lost::{Cause, Lost};
use crate::state::{Resume, Why, Without};
use crate::status;

/// What is done without usable state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anew {
    /// Nothing is compared, and the targets count as equal from here on.
    Adopted,
    /// Nothing is compared.
    Nothing,
    /// Everything is compared.
    Whole {
        /// There was state, and an end that was none made it useless.
        unclean: bool,
    },
}

/// What follows from it that the state cannot be used. `left_unsent`: whether the last run, which
/// kept none, may have ended with something pending; called only where it matters.
fn anew(why: &Why, initial: Initial, mut left_unsent: impl FnMut() -> bool) -> Anew {
    let none = initial == Initial::None;
    match why {
        Why::None(_) | Why::OtherSource(_) | Why::NothingConfirmed(Without::New) if none => Anew::Adopted,
        Why::Unproven(_) | Why::NoHandles(_) | Why::Unwritable(_) if none && !left_unsent() => Anew::Nothing,
        Why::Damaged { .. } | Why::PowerLoss | Why::Clock(_) | Why::NoDirs | Why::NothingConfirmed(Without::Behind) => {
            Anew::Whole { unclean: true }
        }
        _ => Anew::Whole { unclean: false },
    }
}

impl Engine {
    /// How the start goes, for the status.
    pub(in crate::engine) fn start_status(&self) -> status::Start {
        let mut start = self.begin.status.clone();
        if let Some(walk) = self.saved.history.as_ref().and_then(|h| h.walk.as_ref()).filter(|walk| walk.restart.is_some()) {
            start.directories = walk.progress.dirs.load(Ordering::Relaxed);
            start.entries = walk.progress.entries.load(Ordering::Relaxed);
            start.progress = walk.how_far();
        }
        start
    }

    /// Begins: resumes from what the last run left, or compares everything.
    pub(in crate::engine) fn begin(&mut self) {
        let opened = self.begin.opened.take();
        if self.begin.renewed == Some(Renewed::Remounted) {
            // Whatever is known of the time before: what changed meanwhile raised no event.
            self.lost(Lost::all(Cause::MountChanged));
            self.begin_whole(&Why::Remounted.to_string());
            return self.all_is_told();
        }
        match opened {
            None => match self.mirror.initial {
                Initial::Reconcile => self.begin_whole("no state is kept"),
                Initial::None => self.begin_with_nothing("initial = \"none\""),
            },
            Some(Ok(resume)) => self.begin_resumed(resume),
            Some(Err(why)) => self.begin_anew(&why),
        }
    }

    fn begin_anew(&mut self, why: &Why) {
        match anew(why, self.mirror.initial, || self.was_left_unsent()) {
            Anew::Adopted => {
                let at = self.begin.at;
                if let Some(history) = &mut self.saved.history {
                    (0..self.targets.len()).for_each(|target| history.keeper.adopt(target, at));
                }
                self.begin_with_nothing("initial = \"none\", and this is the first start");
            }
            Anew::Nothing => self.begin_with_nothing(&format!("initial = \"none\"; {why}")),
            Anew::Whole { unclean } => {
                match (
                    unclean && self.begin.renewed.is_none(),
                    self.saved.history.as_ref().is_some_and(|history| history.keeper.is_after_stop()),
                ) {
                    (false, _) => {}
                    // No events were lost. What changed since is not known, so hooks get the whole
                    // tree.
                    (true, true) => self.see_lost(b""),
                    (true, false) => self.lost(Lost::all(Cause::UncleanStop)),
                }
                self.begin_whole(&why.to_string());
            }
        }
        self.all_is_told();
    }

    fn all_is_told(&mut self) {
        if let Some(history) = &mut self.saved.history {
            history.keeper.all_reported();
            let now = self.clock.started.elapsed();
            history.touch(now);
            if history.keeper.needs_walk() {
                history.rebuild = Some(now);
            }
        }
    }

    /// Without state: whether the last run may have ended with something pending. Marks this one as
    /// such until it ends well.
    fn was_left_unsent(&mut self) -> bool {
        let Some(history) = &mut self.saved.history else { return false };
        match history.keeper.mark_unsent() {
            Ok(was) => was,
            Err(error) => {
                history.complain(&self.mirror.name, &error);
                false
            }
        }
    }

    pub(super) fn begin_whole(&mut self, why: &str) {
        tracing::info!(mirror = %self.mirror.name, "the whole tree is compared with every target: {why}");
        self.begin.status = status::Start { how: status::StartKind::Comparison, why: why.into(), ..status::Start::default() };
        self.begin.epochs = Some(vec![None; self.targets.len()]);
        self.see_all(b"", Seen::Subtree);
    }

    fn begin_with_nothing(&mut self, why: &str) {
        tracing::info!(mirror = %self.mirror.name, "nothing is compared at the start, the targets are taken for equal: {why}");
        self.begin.status = status::Start { how: status::StartKind::None, why: why.into(), ..status::Start::default() };
        self.begin.epochs = Some(Vec::new());
    }

    fn begin_resumed(&mut self, resume: Resume) {
        let (now, at) = (self.now(), self.begin.at);
        let mut reasons = Vec::new();
        let mut whole = vec![false; self.targets.len()];
        for (target, without) in resume.without.iter().enumerate() {
            let name = self.targets[target].cfg.name.clone();
            match (without, resume.watermarks[target]) {
                (Some(Without::New), _) if self.mirror.initial == Initial::None => {
                    if let Some(history) = &mut self.saved.history {
                        history.keeper.adopt(target, at);
                    }
                    tracing::info!(mirror = %self.mirror.name, target_name = %name, "the new target is taken for equal: initial = \"none\"");
                }
                (Some(why), _) => {
                    tracing::info!(mirror = %self.mirror.name, target_name = %name, "the whole tree is compared with this target: {why}");
                    reasons.push(format!("the whole tree with {name}: {why}"));
                    self.targets[target].see(now, b"", Seen::Subtree);
                    whole[target] = true;
                }
                (None, Some(since)) => {
                    let since = since.0.div_euclid(1_000_000_000);
                    self.targets[target].walk_begins(since);
                    if self.mirror.initial == Initial::Reconcile {
                        self.targets[target].was_equal(since);
                    }
                }
                (None, None) => {}
            }
        }
        self.begin.untidy = !resume.tidy;
        let clean = self.saved.history.as_ref().is_some_and(|history| history.keeper.is_after_stop());
        if !clean && self.begin.renewed.is_none() {
            self.rescans.count(Cause::UncleanStop);
        }
        tracing::info!(
            mirror = %self.mirror.name, directories = resume.dirs.len(), after_a_clean_stop = clean,
            "walking over the source for what changed since the last stop"
        );
        self.begin.status =
            status::Start { how: status::StartKind::Walk, why: reasons.join("; "), walking: true, ..status::Start::default() };
        self.walk(Some(resume), &whole);
    }

    /// For the status: whether the start is over.
    pub(in crate::engine) fn begun(&self) -> status::FirstPass {
        let begun = |(at, epoch): (usize, &Option<Epoch>)| {
            self.targets.get(at).is_none_or(|target| match epoch {
                Some(epoch) => target.flushed(*epoch) || target.at_rest(),
                None => target.reconciles() > 0,
            })
        };
        match &self.begin.epochs {
            Some(epochs) if epochs.is_empty() => status::FirstPass::None,
            Some(epochs) if epochs.iter().enumerate().all(begun) => status::FirstPass::Done,
            _ => status::FirstPass::Running,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_taken_for_equal_only_where_nothing_can_be_pending() {
        let words = String::new;
        let whole = |unclean| Anew::Whole { unclean };
        for (why, by_default, none, none_and_unsent) in [
            (Why::None("s".into()), whole(false), Anew::Adopted, Anew::Adopted),
            (Why::OtherSource(words()), whole(false), Anew::Adopted, Anew::Adopted),
            (Why::NothingConfirmed(Without::New), whole(false), Anew::Adopted, Anew::Adopted),
            (Why::Unproven(1), whole(false), Anew::Nothing, whole(false)),
            (Why::NoHandles(words()), whole(false), Anew::Nothing, whole(false)),
            (Why::Unwritable(words()), whole(false), Anew::Nothing, whole(false)),
            (Why::NothingConfirmed(Without::Changed), whole(false), whole(false), whole(false)),
            (Why::OtherSettings, whole(false), whole(false), whole(false)),
            (Why::OtherRoot, whole(false), whole(false), whole(false)),
            (Why::NothingConfirmed(Without::Behind), whole(true), whole(true), whole(true)),
            (Why::Damaged { path: "s".into(), what: words() }, whole(true), whole(true), whole(true)),
            (Why::PowerLoss, whole(true), whole(true), whole(true)),
            (Why::Clock(words()), whole(true), whole(true), whole(true)),
            (Why::NoDirs, whole(true), whole(true), whole(true)),
        ] {
            assert_eq!(anew(&why, Initial::Reconcile, || unreachable!("it marks the run as unsent")), by_default, "{why:?}");
            assert_eq!(anew(&why, Initial::None, || false), none, "{why:?}");
            assert_eq!(anew(&why, Initial::None, || true), none_and_unsent, "{why:?}");
        }
    }
}
