//! What a run needs before it may delete something: the upstream's mark, and the bound on
//! deletions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::feed::mark;
use crate::feed::record::Identity;
use crate::location::Location;

/// How long a mark holds that was fetched, for runs that delete nothing.
const HOLDS: Duration = Duration::from_secs(10);

/// The mark of the upstream, `.fansync/feed`, as it was fetched.
pub(crate) struct UpstreamMark {
    /// Where it is fetched to.
    dir: PathBuf,
    /// When it was the right one.
    seen: Option<Duration>,
    /// The run under way began with one that was not fetched for it.
    old: bool,
}

impl UpstreamMark {
    pub(crate) fn new(dir: PathBuf) -> UpstreamMark {
        UpstreamMark { dir, seen: None, old: false }
    }

    /// Makes room for the next one.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub(crate) fn clear(&self) -> std::io::Result<&Path> {
        std::fs::create_dir_all(&self.dir)?;
        for name in ["feed", "name"] {
            match std::fs::remove_file(self.dir.join(name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(&self.dir)
    }

    /// Where it is fetched to.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Why what was fetched from `place` is not that of the tree `wanted`.
    pub(crate) fn judge(&self, place: &Location, wanted: Option<Identity>) -> Result<(), String> {
        let text = std::fs::read_to_string(self.dir.join("feed"))
            .map_err(|_| format!("{place} has no {}: it is not the tree that the feed is of, or it was emptied", mark::FILE))?;
        let Some((feed, identity)) = mark::parse(&text) else {
            return Err(format!("the {} of {place} is not understood", mark::FILE));
        };
        if Some(identity) != wanted {
            return Err(format!(
                "{place} is another tree than the feed's: its {} is of the feed {feed} with the identity {}",
                mark::FILE,
                mark::hex(&identity)
            ));
        }
        Ok(())
    }

    /// Whether it came with the name of a relay.
    pub(crate) fn is_of_a_relay(&self) -> bool {
        self.dir.join("name").exists()
    }

    /// Puts what was fetched into the tree at `root`.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub(crate) fn put(&self, root: &Path) -> std::io::Result<()> {
        mark::put(root, &std::fs::read_to_string(self.dir.join("feed"))?)
    }

    /// It was the right one just now.
    pub(crate) fn see(&mut self, now: Duration) {
        (self.seen, self.old) = (Some(now), false);
    }

    /// The upstream may be another one.
    pub(crate) fn forget(&mut self) {
        self.seen = None;
    }

    /// Whether a run that deletes nothing may begin with the one that was fetched before.
    pub(crate) fn serves_again(&mut self, now: Duration) -> bool {
        let holds = self.seen.is_some_and(|seen| now.saturating_sub(seen) < HOLDS);
        self.old |= holds;
        holds
    }

    /// Whether the run that has ended began so.
    pub(crate) fn take_old(&mut self) -> bool {
        std::mem::take(&mut self.old)
    }
}

/// Deletions that wait for `fansync resume --accept-deletes`.
pub(super) struct Held {
    pub(super) why: String,
    pub(super) count: u64,
    /// They are not judged again before.
    until: Duration,
}

/// The bound on deletions.
#[derive(Default)]
pub(super) struct Deletions {
    held: Option<Held>,
    /// The next run may delete what it likes.
    accepted: bool,
}

impl Deletions {
    /// Those that wait.
    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// When those that wait are judged again.
    pub(super) fn due(&self) -> Option<Duration> {
        self.held.as_ref().map(|held| held.until)
    }

    /// These wait, and are judged again then.
    pub(super) fn hold(&mut self, why: String, count: u64, until: Duration) {
        self.held = Some(Held { why, count, until });
    }

    /// They are judged again at once.
    pub(super) fn hurry(&mut self) {
        if let Some(held) = &mut self.held {
            held.until = Duration::ZERO;
        }
    }

    /// What is held goes through with the next run; `false`: nothing is.
    pub(super) fn accept(&mut self) -> bool {
        self.accepted = self.held.take().is_some();
        self.accepted
    }

    /// Whether the next run may delete what it likes.
    pub(super) fn are_accepted(&self) -> bool {
        self.accepted
    }

    /// A run has ended well.
    pub(super) fn went_through(&mut self) {
        *self = Deletions::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_mark_holds_for_a_while_and_only_for_the_tree_that_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = UpstreamMark::new(dir.path().join("mark"));
        let place = Location::parse("rsync://hub/web").unwrap();
        let judge = |mark: &UpstreamMark, wanted| mark.judge(&place, wanted).err().unwrap_or_default();
        assert_eq!(mark.clear().unwrap(), mark.dir());
        assert!(judge(&mark, Some([1; 16])).contains("it was emptied"));
        for (text, wanted, words) in [
            (mark::text("web", &[1; 16]), Some([1; 16]), ""),
            (mark::text("web", &[1; 16]), Some([2; 16]), "another tree"),
            (mark::text("web", &[1; 16]), None, "another tree"),
            ("torn".to_owned(), Some([1; 16]), "not understood"),
        ] {
            std::fs::write(mark.dir().join("feed"), &text).unwrap();
            let why = judge(&mark, wanted);
            assert!(why.contains(words) && why.is_empty() == words.is_empty(), "{text:?}: {why}");
        }
        std::fs::write(mark.dir().join("name"), "relay").unwrap();
        assert!(mark.is_of_a_relay());
        mark.clear().unwrap();
        assert!(!mark.is_of_a_relay() && judge(&mark, Some([1; 16])).contains("has no"));
        assert!(!mark.serves_again(at(1)) && !mark.take_old());
        mark.see(at(5));
        assert!(mark.serves_again(at(14)) && mark.take_old() && !mark.take_old());
        assert!(!mark.serves_again(at(15)) && !mark.take_old());
        mark.see(at(20));
        mark.forget();
        assert!(!mark.serves_again(at(20)));
    }

    #[test]
    fn what_is_accepted_is_what_was_held_and_only_once() {
        let mut deletions = Deletions::default();
        assert!(!deletions.accept() && !deletions.are_accepted(), "nothing is accepted in advance");
        deletions.hold("many".into(), 7, at(8));
        deletions.hold("more".into(), 8, at(9));
        assert_eq!((deletions.held().map(|held| held.count), deletions.due()), (Some(8), Some(at(9))));
        deletions.hurry();
        assert_eq!(deletions.due(), Some(at(0)));
        assert!(deletions.accept() && deletions.are_accepted() && deletions.held().is_none());
        deletions.went_through();
        assert!(!deletions.are_accepted());
    }
}
