//! A source that is gone, or was emptied: everything stops until it is back, or until somebody says that it is meant.
//!
//! | the source | is held until |
//! | --- | --- |
//! | is missing, unmounted, replaced by another directory or by a link; a filesystem below it is gone, also since before the start | it is back as it was, or accepted |
//! | lost nearly everything at one blow | half of its top is there again, or accepted |
//! | was empty from the start, with targets that are not | something is mounted on it, or accepted |
//!
//! A source that is accepted, and is not the directory that was opened, is opened anew: the engine ends, and begins again on
//! the same channel ([`Again`]).

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::{Again, Engine};
use crate::config::Mirror;
use crate::control::Steered;
use crate::lost::{Cause, Lost};
use crate::path::RelPath;
use crate::resolve::Root;
use crate::state::mounts::MountsFile;
use crate::sync::guard::{self, Hold};

/// How often a source that is held is looked at.
const ROOT_CHECK: Duration = Duration::from_secs(1);

/// Where an earlier run saw filesystems mounted below the source.
pub(super) fn remembered_mounts(state_dir: &Path, mirror: &Mirror, root: &Root) -> (MountsFile, BTreeSet<RelPath>) {
    let file = MountsFile::new(state_dir, &mirror.name, root.path());
    let seen = file.load().unwrap_or_else(|error| {
        tracing::error!(mirror = %mirror.name, "{error}. A filesystem below the source that is not mounted now is not missed");
        BTreeSet::new()
    });
    (file, seen)
}

impl Engine {
    /// Saves where filesystems are mounted below the source, if that has changed.
    pub(super) fn remember_mounts(&mut self) {
        let expected = self.watching.expected();
        let Some((file, saved)) = self.mounts.as_mut().filter(|(_, saved)| saved != expected) else { return };
        match file.save(expected) {
            Ok(()) => saved.clone_from(expected),
            Err(error) => tracing::error!(mirror = %self.mirror.name, "{error}"),
        }
    }

    fn source_is_itself(&self) -> Result<(), String> {
        self.root.check().and_then(|()| self.watching.check(&self.root))
    }

    /// Looks whether the source is still the one that was opened; if not, nothing is sent until it is.
    pub(super) fn check_root(&mut self) {
        if self.held.is_none()
            && let Err(why) = self.source_is_itself()
        {
            self.hold(Hold::Gone(why));
        }
    }

    /// While held: looks whether the source is back.
    pub(super) fn recheck_root(&mut self) {
        self.next_root_check = self.now() + ROOT_CHECK;
        let itself = self.source_is_itself();
        match (self.held.take(), itself) {
            (Some(Hold::Gone(_)), Ok(())) => {
                tracing::info!(mirror = %self.mirror.name, "the source is back as it was; sending goes on");
                // While it was away its paths led nowhere, so what was learnt of them then is wrong; and changes could be made that
                // nobody heard of.
                self.resolver.forget(&self.root);
                self.lost(Lost::all(Cause::MountChanged));
            }
            (Some(Hold::Emptied { from_the_start: true, .. }), Err(why)) if self.something_is_mounted_on_it() => {
                // Nothing was ever sent from what lies below: this is what a start a moment later would have found.
                tracing::warn!(mirror = %self.mirror.name, "{why}; it was empty until now, so the new one is taken");
                self.begin_again = Some(false);
            }
            (_, Err(why)) => self.held = Some(Hold::Gone(why)),
            (Some(Hold::Emptied { at, enough: Some(enough), .. }), Ok(()))
                if guard::left(&self.root, &self.mirror.filter, &at, enough).is_some_and(|left| left >= enough) =>
            {
                tracing::info!(mirror = %self.mirror.name, "the source has its entries again; sending goes on");
            }
            (held, Ok(())) => self.held = held,
        }
    }

    fn something_is_mounted_on_it(&self) -> bool {
        Root::open(&self.mirror.source).is_ok_and(|new| {
            new.dev() != self.root.dev()
                && new.path() == self.root.path()
                && guard::left(&new, &self.mirror.filter, &RelPath::root(), 1) == Some(1)
        })
    }

    pub(super) fn hold(&mut self, hold: Hold) {
        tracing::error!(
            mirror = %self.mirror.name,
            "sending stops and nothing is deleted on any target: {}. Bring the source back as it was and sending goes on; \
             if it is meant as it is now: fansync resume --accept-source",
            self.words(&hold)
        );
        self.held = Some(hold);
        self.next_root_check = self.now() + ROOT_CHECK;
    }

    pub(super) fn words(&self, hold: &Hold) -> String {
        hold.words(&self.root.path().to_string_lossy())
    }

    /// Why nothing is sent, for people.
    pub(super) fn held_words(&self) -> Option<String> {
        self.held.as_ref().map(|hold| self.words(hold))
    }

    /// Takes the source as it is now, and lets every deletion through that follows from that.
    ///
    /// # Errors
    /// Why it cannot be taken.
    pub(super) fn accept_source(&mut self) -> Result<(), String> {
        match &self.held {
            None => {}
            Some(Hold::Emptied { .. }) => {
                tracing::warn!(mirror = %self.mirror.name, "the source is accepted as it is; sending goes on");
                self.held = None;
            }
            Some(Hold::Gone(_)) => {
                let path = self.mirror.source.display();
                Root::open(&self.mirror.source)
                    .map_err(|e| format!("cannot open the source {path}: {e}; nothing has changed"))?;
                tracing::warn!(mirror = %self.mirror.name, "the source is accepted as it is; it is opened anew, and everything is compared");
                self.begin_again = Some(true);
                return Ok(());
            }
        }
        for at in 0..self.targets.len() {
            self.with_target(at, |target, cx| {
                target.accept_deletes(cx);
            });
        }
        Ok(())
    }

    /// Lets the deletions of one target through that are pending now.
    pub(super) fn accept_deletes(&mut self, at: usize) -> Steered {
        let mut held = 0;
        self.with_target(at, |target, cx| held = target.accept_deletes(cx));
        let said: String = match held {
            0 => "no deletions were held".into(),
            n => format!("{n} held deletions go through now"),
        };
        tracing::info!(mirror = %self.mirror.name, target_name = %self.targets[at].cfg.name, "{said}");
        Steered { target: format!("{}/{}", self.mirror.name, self.targets[at].cfg.name), said, done: true }
    }

    /// What the next engine of this mirror begins with.
    pub(super) fn again(self, accepted: bool) -> Again {
        let Engine { mirror, facts, state_dir, keep, commands, wake, turns, flushes, successor, .. } = self;
        let ((mirror, facts), before) = match successor {
            Some(next) => (*next, Some(Box::new((mirror, facts)))),
            None => ((mirror, facts), None),
        };
        Again { mirror, facts, state_dir, commands, wake, turns, keep, accepted, flushes, before }
    }
}
