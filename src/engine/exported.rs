//! `follow_open_files = "auto"`: on once other hosts write to the source ([`crate::exports`]), from
//! then on until the end.

use std::time::Duration;

use super::Engine;
use crate::config::FollowOpenFiles;
use crate::dirty::Seen;
use crate::exports;
use crate::root::Root;

/// How often the exports are read while the source is not among them: a stat or two of small files.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Whether files are sent while they are open, and why.
pub(super) struct Following {
    on: bool,
    why: String,
    /// When the exports are read next.
    next: Option<Duration>,
}

impl Following {
    /// By the configuration, and by what is exported now.
    pub(super) fn new(mode: FollowOpenFiles, root: &Root) -> Following {
        let decided = |on: bool, why: &str| Following { on, why: why.into(), next: None };
        match mode {
            FollowOpenFiles::On => decided(true, "configured"),
            FollowOpenFiles::Off => decided(false, "configured"),
            FollowOpenFiles::Auto => match exports::exported(root.path()) {
                Some(exported) => decided(true, &exported.why),
                None => Following {
                    next: Some(POLL_INTERVAL),
                    ..decided(false, "the source is neither exported by NFS nor shared by Samba")
                },
            },
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    pub(super) fn why(&self) -> &str {
        &self.why
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.next
    }
}

impl Engine {
    /// Reads the exports again when that is due.
    pub(super) fn look_for_exports(&mut self) {
        let now = self.now();
        if self.intake.following.next.is_none_or(|at| at > now) {
            return;
        }
        let Some(exports::Exported { why, .. }) = exports::exported(self.root.path()) else {
            self.intake.following.next = Some(now + POLL_INTERVAL);
            return;
        };
        tracing::info!(mirror = %self.mirror.name, "files are sent while they are open from here on (follow_open_files = \"auto\"): {why}");
        self.intake.following = Following { on: true, why, next: None };
        self.intake.watching.follow_writes(&self.mirror, &self.root, &mut self.intake.resolver);
        for lost in self.intake.watching.take_lost() {
            self.lost(lost);
        }
        // What clients did since the export began may have raised no event. Without a first
        // comparison nothing says what is the target's own, so nothing is compared.
        if self.mirror.initial != crate::config::Initial::None {
            self.see_all(b"", Seen::Subtree);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_is_not_asked_of_the_exports() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        for (mode, on) in [(FollowOpenFiles::On, true), (FollowOpenFiles::Off, false)] {
            let following = Following::new(mode, &root);
            let is = (following.is_on(), following.why(), following.next_due());
            assert_eq!(is, (on, "configured", None), "{mode:?}");
        }
        // A directory that was made just now is no export, so it is looked for again and again.
        let auto = Following::new(FollowOpenFiles::Auto, &root);
        assert_eq!((auto.is_on(), auto.next_due()), (false, Some(POLL_INTERVAL)), "{}", auto.why());
    }
}
