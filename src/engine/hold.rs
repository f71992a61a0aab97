//! A source that is gone, or was emptied: nothing of it is sent until it is back, or until an
//! administrator accepts it.
//!
//! | what happened | held | until |
//! | --- | --- | --- |
//! | the source is missing, unmounted, replaced by another directory | the mirror | it is back as it was, or accepted |
//! | a filesystem below it is gone, also since before the start | its place ([`crate::apart`]) | it is mounted there again, or accepted |
//! | it had filesystems below it, and the saved list of these cannot be read | the mirror | the list can be read or is removed, or accepted |
//! | the source, or a filesystem below it, lost nearly everything at one blow | the mirror, or that place | half of its top is there again, or accepted |
//! | it was empty from the start, with targets that are not | the mirror, or that place | something is mounted on it, or accepted |
//!
//! Where the source's path leads to the same directory through another mount, or elsewhere because
//! a link on the way was switched, nothing is held: it is opened anew, as at a start.
//!
//! A source that is accepted, and is not the directory that was opened, is opened anew: the engine
//! ends, and begins again on the same channel ([`Again`]).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::history::Renewed;
use super::opening::Setup;
use super::{Again, Engine, Io};
use crate::apart::{Apart, Why};
use crate::config::Mirror;
use crate::control::Steered;
use crate::guard::{self, Hold};
use crate::lost::{Cause, Lost};
use crate::path::{RelPath, Shown};
use crate::root::{Astray, Root};
use crate::state::mounts::MountsFile;
use crate::status;

/// How often a source that is held is checked.
const ROOT_CHECK: Duration = Duration::from_secs(1);

/// Where an earlier run saw filesystems mounted below the source.
pub(super) struct Remembered {
    file: MountsFile,
    /// What is on disk; `None`: not known.
    saved: Option<BTreeSet<RelPath>>,
    /// Why it is not known, until an administrator accepts the source without.
    unread: Option<String>,
}

impl Remembered {
    /// `accepted`: an administrator accepted the source as it is now.
    pub(super) fn load(state_dir: &Path, mirror: &Mirror, root: &Root, accepted: bool) -> Remembered {
        let file = MountsFile::new(state_dir, &mirror.name, root.path());
        let (saved, unread) = match file.load() {
            Ok(seen) => (Some(seen), None),
            Err(error) => (None, (!accepted).then(|| error.to_string())),
        };
        Remembered { file, saved, unread }
    }

    /// What has to be mounted now.
    fn expected(&self) -> BTreeSet<RelPath> {
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

/// Whether the source may be sent, and what of it.
pub(super) struct SourceGuard {
    pub(super) held: Option<Hold>,
    /// Places that are left alone.
    pub(super) apart: Arc<Apart>,
    /// The source's path leads to another directory now.
    switched: bool,
    /// The source was mounted anew at its path.
    remounted: bool,
    pub(super) next_root_check: Duration,
    /// Where filesystems were mounted, and what of that is on disk; `None`: nothing is kept.
    mounts: Option<Remembered>,
}

impl SourceGuard {
    pub(super) fn new(mounts: Option<Remembered>) -> SourceGuard {
        let (apart, next_root_check) = (Arc::default(), Duration::ZERO);
        SourceGuard { held: None, apart, switched: false, remounted: false, next_root_check, mounts }
    }

    /// What has to be mounted below the source.
    pub(super) fn expected(&self) -> BTreeSet<RelPath> {
        self.mounts.as_ref().map(Remembered::expected).unwrap_or_default()
    }
}

/// Whether the source's path leads to what was opened.
///
/// # Errors
/// What is held, or to be opened anew.
pub(super) fn check(root: &Root) -> Result<(), Hold> {
    root.check().map_err(|astray| match astray {
        Astray::Gone(why) => Hold::Gone(why),
        Astray::Anew(why) => Hold::Moved(why),
    })
}

impl Engine {
    /// Saves where filesystems are mounted below the source, if that has changed.
    pub(super) fn remember_mounts(&mut self) {
        let expected = self.intake.watching.expected();
        let stale = |m: &&mut Remembered| m.unread.is_none() && m.saved.as_ref() != Some(expected);
        let Some(mounts) = self.guard.mounts.as_mut().filter(stale) else { return };
        match mounts.file.save(expected) {
            Ok(()) => mounts.saved = Some(expected.clone()),
            Err(error) => tracing::error!(mirror = %self.mirror.name, "{error}"),
        }
    }

    fn source_is_itself(&self) -> Result<(), Hold> {
        check(&self.root)?;
        self.intake.watching.check(&self.root, &self.guard.apart)?;
        self.guard.mounts.as_ref().map_or(Ok(()), Remembered::known).map_err(Hold::Gone)
    }

    /// Looks whether the source is still the one that was opened; if not, nothing is sent of what
    /// is not.
    pub(super) fn check_root(&mut self) {
        if self.guard.held.is_none()
            && let Err(hold) = self.source_is_itself()
        {
            self.hold(hold);
        }
    }

    /// Whether the source needs periodic checks: something is held, or a link leads
    /// to it, whose switch raises no event.
    pub(super) fn looks_at_source(&self) -> bool {
        self.guard.held.is_some() || self.root.is_linked() || self.guard.apart.held().next().is_some()
    }

    /// Looks whether the source, and each place that is held, is back.
    pub(super) fn recheck_root(&mut self) {
        self.guard.next_root_check = self.now() + ROOT_CHECK;
        self.intake.watching.release_detached();
        if self.guard.mounts.as_ref().is_some_and(Remembered::can_be_read_again) {
            tracing::info!(mirror = %self.mirror.name, "the list of filesystems below the source can be read again");
            self.shutdown.begin_again = Some(false);
            return;
        }
        self.settle_places();
        let itself = self.source_is_itself();
        match (self.guard.held.take(), itself) {
            (None, Ok(())) => {}
            (_, Err(hold @ (Hold::Moved(_) | Hold::Lost { .. }))) | (None, Err(hold)) => self.hold(hold),
            (Some(Hold::Gone(_)), Ok(())) => {
                tracing::info!(mirror = %self.mirror.name, "the source is back as it was; sending goes on");
                // While it was away its paths led nowhere, so what was learnt of them then is
                // wrong; and changes could be made that raise no event.
                self.intake.resolver.forget(&self.root);
                self.lost(Lost::all(Cause::MountChanged));
            }
            (Some(Hold::Emptied { from_the_start: true, .. }), Err(hold)) if self.something_is_mounted_on_it() => {
                // Nothing was ever sent from what lies below: this is what a start a moment later
                // would have found.
                tracing::warn!(mirror = %self.mirror.name, "{}; it was empty until now, so the new one is taken", self.words(&hold));
                self.shutdown.begin_again = Some(false);
            }
            (_, Err(hold)) => self.guard.held = Some(hold),
            (Some(hold), Ok(())) if self.is_refilled(&hold) => {
                tracing::info!(mirror = %self.mirror.name, "the source has its entries again; sending goes on");
            }
            (held, Ok(())) => self.guard.held = held,
        }
    }

    fn is_refilled(&self, hold: &Hold) -> bool {
        match hold {
            Hold::Emptied { at, enough: Some(enough), .. } => {
                guard::left(&self.root, &self.mirror.filter, at, *enough).is_some_and(|left| left >= *enough)
            }
            _ => false,
        }
    }

    /// Finds anew which places are left alone. A hold ends where the filesystem is back, or the
    /// entries are.
    pub(super) fn settle_places(&mut self) {
        let mut apart = self.intake.watching.apart();
        for (at, hold) in self.guard.apart.held() {
            if apart.hold_at(at).is_some() {
                continue;
            }
            let stays = match hold {
                // The list of mounts may be a moment ahead of what is seen there.
                Hold::Lost { .. } => self.intake.watching.check(&self.root, &Apart::default()) == Err(hold.clone()),
                hold => !self.is_refilled(hold),
            };
            if stays {
                apart.put(at.clone(), Why::Held(hold.clone()));
            } else {
                tracing::info!(mirror = %self.mirror.name, place = %at, "it is back as it was; what waited there is sent");
            }
        }
        self.keep_apart(apart);
    }

    fn keep_apart(&mut self, apart: Apart) {
        if apart == *self.guard.apart {
            return;
        }
        for (at, hold) in apart.held().filter(|(at, _)| self.guard.apart.hold_at(at).is_none()) {
            tracing::error!(
                mirror = %self.mirror.name, place = %at,
                "nothing is sent or deleted there: {}. Bring it back as it was and sending goes on; if it is meant as it is now: \
                 fansync resume --accept-source",
                self.words(hold)
            );
        }
        self.guard.apart = Arc::new(apart);
        self.guard.next_root_check = self.now() + ROOT_CHECK;
        self.io.wake.wake(); // the targets learn it in the next turn
    }

    fn something_is_mounted_on_it(&self) -> bool {
        Root::open(&self.mirror.source).is_ok_and(|new| {
            new.dev() != self.root.dev()
                && new.path() == self.root.path()
                && guard::left(&new, &self.mirror.filter, &RelPath::root(), 1) == Some(1)
        })
    }

    pub(super) fn hold(&mut self, hold: Hold) {
        match hold {
            Hold::Moved(why) => {
                tracing::warn!(mirror = %self.mirror.name, "{why}; it is opened anew, and everything is compared");
                self.guard.switched = self.mirror.source.canonicalize().is_ok_and(|now| now != self.root.path());
                self.guard.remounted = !self.guard.switched;
                self.shutdown.begin_again = Some(false);
            }
            Hold::Lost { ref at } => {
                let at = at.clone();
                self.mounts_changed();
                if let Err(hold) = self.intake.watching.check(&self.root, &self.guard.apart) {
                    self.hold_place(at, hold);
                }
            }
            Hold::Emptied { ref at, .. } if !at.is_root() => {
                let at = at.clone();
                self.hold_place(at, hold);
            }
            hold => {
                tracing::error!(
                    mirror = %self.mirror.name,
                    "sending stops and nothing is deleted on any target: {}. Bring the source back as it was and sending goes on; \
                     if it is meant as it is now: fansync resume --accept-source",
                    self.words(&hold)
                );
                self.guard.held = Some(hold);
                self.guard.next_root_check = self.now() + ROOT_CHECK;
            }
        }
    }

    /// From here on nothing is sent of this place, or deleted there; the rest goes on.
    fn hold_place(&mut self, at: RelPath, hold: Hold) {
        let mut apart = (*self.guard.apart).clone();
        apart.put(at, Why::Held(hold));
        self.keep_apart(apart);
    }

    /// What is left alone, for the status.
    pub(super) fn apart_status(&self) -> Vec<status::Apart> {
        let place = |(at, why): (&RelPath, &Why)| status::Apart {
            path: Shown(at).to_string(),
            why: match why {
                Why::Held(hold) => self.words(hold),
                why => why.words(),
            },
            held: matches!(why, Why::Held(_)),
        };
        self.guard.apart.iter().map(place).collect()
    }

    pub(super) fn words(&self, hold: &Hold) -> String {
        hold.words(&self.root.path().to_string_lossy())
    }

    /// Why nothing is sent, for people.
    pub(super) fn held_words(&self) -> Option<String> {
        self.guard.held.as_ref().map(|hold| self.words(hold))
    }

    /// Takes the source as it is now, and lets every deletion through that follows from that.
    ///
    /// # Errors
    /// Why it cannot be taken.
    pub(super) fn accept_source(&mut self) -> Result<(), String> {
        match &self.guard.held {
            None => {}
            Some(Hold::Gone(_) | Hold::Moved(_)) => {
                let path = self.mirror.source.display();
                Root::open(&self.mirror.source)
                    .map_err(|e| format!("cannot open the source {path}: {e}; nothing has changed"))?;
                tracing::warn!(mirror = %self.mirror.name, "the source is accepted as it is; it is opened anew, and everything is compared");
                self.shutdown.begin_again = Some(true);
                return Ok(());
            }
            Some(Hold::Emptied { .. } | Hold::Lost { .. }) => {
                tracing::warn!(mirror = %self.mirror.name, "the source is accepted as it is; sending goes on");
                self.guard.held = None;
            }
        }
        let mut apart = (*self.guard.apart).clone();
        for (at, _) in self.guard.apart.held() {
            tracing::warn!(mirror = %self.mirror.name, place = %at, "it is accepted as it is; sending goes on there");
            self.intake.watching.give_up(at);
            apart.remove(at);
        }
        self.keep_apart(apart);
        self.intake.watching.release_detached();
        self.remember_mounts();
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
        let message: String = match held {
            0 => "no deletions were held".into(),
            1 => "1 held deletion goes through now".into(),
            n => format!("{n} held deletions go through now"),
        };
        tracing::info!(mirror = %self.mirror.name, target_name = %self.targets[at].cfg.name, "{message}");
        Steered { target: format!("{}/{}", self.mirror.name, self.targets[at].cfg.name), said: message, done: true }
    }

    /// What the next engine of this mirror begins with.
    pub(super) fn again(self, accepted: bool) -> Again {
        let filled = || self.targets.iter().filter(|t| t.is_filled()).map(|t| t.cfg.name.clone()).collect();
        let switched = self.guard.switched.then(filled);
        let renewed = match self.shutdown.begin_again {
            None => None, // it stopped in order, for another configuration
            Some(_) if self.guard.remounted => Some(Renewed::Remounted),
            Some(_) => Some(Renewed::Otherwise),
        };
        let Engine { mirror, setup, io: Io { commands, wake, turns, .. }, flushes, shutdown, .. } = self;
        let (mirror, setup, before) = match shutdown.successor {
            Some(next) => (next.0, Setup { facts: next.1, ..setup.clone() }, Some(Box::new((mirror, setup.facts)))),
            None => (mirror, setup, None),
        };
        let flushes = flushes.into_requests();
        Again { mirror, setup, commands, wake, turns, accepted, switched, renewed, flushes, before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// A source and a state directory, and what is remembered of them.
    fn load(source: &Path, state: &Path, accepted: bool) -> Remembered {
        let text = format!(
            "[[mirror]]\nname = \"m\"\nsource = \"{}\"\n[[mirror.target]]\nname = \"t\"\nurl = \"h::m\"\n",
            source.display()
        );
        let mirror = &Config::from_toml(&text).unwrap().mirrors[0];
        Remembered::load(state, mirror, &Root::open(source).unwrap(), accepted)
    }

    #[test]
    fn what_was_mounted_has_to_be_mounted_again() {
        let (source, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let none = SourceGuard::new(None);
        assert!(none.expected().is_empty() && none.held.is_none(), "without state nothing is expected");
        let first = load(source.path(), state.path(), false);
        assert!(first.expected().is_empty() && first.known().is_ok() && !first.can_be_read_again());
        let disk: BTreeSet<RelPath> = [RelPath::from_normal("disk")].into();
        first.file.save(&disk).unwrap();
        let next = load(source.path(), state.path(), false);
        assert!(next.known().is_ok());
        assert_eq!(SourceGuard::new(Some(next)).expected(), disk);
    }

    #[test]
    fn a_list_of_mounts_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let (source, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = load(source.path(), state.path(), false);
        first.file.save(&[RelPath::from_normal("disk")].into()).unwrap();
        let files: Vec<_> = std::fs::read_dir(state.path().join("m")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        std::fs::write(&files[0], "damaged").unwrap();
        let next = load(source.path(), state.path(), false);
        assert!(next.known().is_err_and(|why| why.contains("taken for deleted")) && !next.can_be_read_again());
        assert!(load(source.path(), state.path(), true).known().is_ok(), "unless the source is meant as it is");
        std::fs::remove_file(&files[0]).unwrap();
        assert!(next.can_be_read_again() && next.known().is_err(), "it is taken up by a new start only");
    }
}
