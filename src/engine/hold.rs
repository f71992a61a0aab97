//! A source that is gone, or was emptied: everything stops until it is back, or until somebody says that it is meant.
//!
//! | the source | is held until |
//! | --- | --- |
//! | is missing, unmounted, replaced by another directory or by a link; a filesystem below it is gone, also since before the start | it is back as it was, or accepted |
//! | had filesystems below it, and the saved list of these cannot be read | the list can be read or is removed, or accepted |
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
pub(super) struct Remembered {
    file: MountsFile,
    /// What is on disk; `None`: not known.
    saved: Option<BTreeSet<RelPath>>,
    /// Why it is not known, until somebody accepts the source without.
    unread: Option<String>,
}

impl Remembered {
    /// `accepted`: somebody said that the source is meant as it is now.
    pub(super) fn load(state_dir: &Path, mirror: &Mirror, root: &Root, accepted: bool) -> Remembered {
        let file = MountsFile::new(state_dir, &mirror.name, root.path());
        let (saved, unread) = match file.load() {
            Ok(seen) => (Some(seen), None),
            Err(error) => (None, (!accepted).then(|| error.to_string())),
        };
        Remembered { file, saved, unread }
    }

    /// What has to be mounted now.
    pub(super) fn expected(&self) -> BTreeSet<RelPath> {
        self.saved.clone().unwrap_or_default()
    }

    /// Whether it is known what has to be mounted; if not, why.
    fn known(&self) -> Result<(), String> {
        self.unread.as_ref().map_or(Ok(()), |why| {
            Err(format!("{why}. It names the filesystems that were mounted below the source; without it, one that is missing is taken for deleted"))
        })
    }

    fn can_be_read_again(&self) -> bool {
        self.unread.is_some() && self.file.load().is_ok()
    }
}

impl Engine {
    /// Saves where filesystems are mounted below the source, if that has changed.
    pub(super) fn remember_mounts(&mut self) {
        let expected = self.watching.expected();
        let stale = |m: &&mut Remembered| m.unread.is_none() && m.saved.as_ref() != Some(expected);
        let Some(mounts) = self.mounts.as_mut().filter(stale) else { return };
        match mounts.file.save(expected) {
            Ok(()) => mounts.saved = Some(expected.clone()),
            Err(error) => tracing::error!(mirror = %self.mirror.name, "{error}"),
        }
    }

    fn source_is_itself(&self) -> Result<(), String> {
        let known = || self.mounts.as_ref().map_or(Ok(()), Remembered::known);
        self.root.check().and_then(|()| self.watching.check(&self.root)).and_then(|()| known())
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
        if self.mounts.as_ref().is_some_and(Remembered::can_be_read_again) {
            tracing::info!(mirror = %self.mirror.name, "the list of filesystems below the source can be read again");
            self.begin_again = Some(false);
            return;
        }
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
