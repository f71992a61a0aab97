//! What a verification needs of a target: whether a path is owed, which paths become dirty while it
//! looks, and what it found wrong to be put right.
//!
//! A verification compares beside the target's own work, so what it finds may be under way, or have
//! changed between two checks. It requests [`Target::watch`] on the paths it doubts, checks once
//! more, and takes for wrong only what was neither owed nor touched meanwhile. Costs one test for
//! each change while no path is watched.

use super::*;

/// Paths that a client watches; which of them were touched.
pub(super) struct Watch {
    id: u64,
    paths: BTreeMap<RelPath, bool>,
}

impl Watch {
    /// Takes in a change: of the path, of the directory it is in (whose times change with it), and
    /// of all that is below what is reported as a whole.
    pub(super) fn see(&mut self, path: &[u8], seen: Seen) {
        let above = path::parent(path);
        for at in [Some(path), above].into_iter().flatten() {
            if let Some(touched) = self.paths.get_mut(at) {
                *touched = true;
            }
        }
        let whole =
            !matches!(seen.plain(), Seen::Written | Seen::Replaced | Seen::Modified | Seen::Touched | Seen::Created | Seen::Gone);
        if whole {
            let from = RelPath::from_normal(path);
            let below = self.paths.range_mut(from..).take_while(|(at, _)| at.starts_with(path));
            below.filter(|(at, _)| path::is_at_or_below(at, path)).for_each(|(_, touched)| *touched = true);
        }
    }
}

/// What is wrong with a path on the target, as far as putting it right goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Relative to the source.
    pub(crate) path: RelPath,
    /// A directory that the target lacks, with all that is in it.
    pub(crate) whole: bool,
    /// Something goes from the target: it has what the source has not, or has under another type.
    pub(crate) removes: bool,
    /// Its attributes would be set in place, and so for every name that the target has linked to
    /// it: it is removed first, where that can be done by name.
    pub(crate) parts: bool,
}

/// Whether the target may lack a change of `path` that is known here: of a directory also by what
/// is in it, which its times follow.
fn is_owed(index: &Index<'_>, path: &[u8]) -> bool {
    // Paths that are too long fail for good, and are not verified.
    index.why(path, Reach::Below, &[Where::Long]).is_some()
}

impl Target {
    /// Notes from here on which of `paths` become dirty; returns which of them are owed already.
    pub(crate) fn watch(&mut self, id: u64, paths: Vec<RelPath>) -> Vec<RelPath> {
        let index = self.ledger.index();
        let owed = paths.iter().filter(|path| is_owed(&index, path)).cloned().collect();
        self.watches.push(Watch { id, paths: paths.into_iter().map(|path| (path, false)).collect() });
        owed
    }

    /// Ends a watch: which of its paths became dirty, or are owed.
    pub(crate) fn unwatch(&mut self, id: u64) -> Vec<RelPath> {
        let Some(at) = self.watches.iter().position(|w| w.id == id) else { return Vec::new() };
        let watch = self.watches.swap_remove(at);
        let index = self.ledger.index();
        watch.paths.into_iter().filter(|(path, touched)| *touched || is_owed(&index, path)).map(|(path, _)| path).collect()
    }

    /// Sends what was found wrong. Files are sent whatever their size and times: these may be
    /// right, and the content another one.
    pub(crate) fn repair(&mut self, now: Duration, wrong: Vec<Wrong>) {
        self.ledger.set.tick(now);
        let since = self.ledger.set.epochs().current();
        for Wrong { path, whole, removes, parts } in wrong {
            if !removes {
                self.doubts.files.insert(path.clone());
            }
            if parts && self.removes_by_name() && renames::removable(&path) {
                self.ledger.set.link(path.clone(), false);
            }
            let mut entry = self.ledger.set.parked(path, since);
            entry.kind = if whole { Kind::Subtree } else { Kind::Entry };
            entry.gone = removes;
            self.ledger.set.restore(entry);
        }
        self.schedule.pace.waits(now);
        self.schedule.pace.hurry();
    }

    /// What a comparison from outside needs to run as this target's own would.
    pub(crate) fn sides(&self) -> Sides {
        Sides {
            target: self.cfg.clone(),
            facts: self.args.facts.clone(),
            missing_args: self.link.missing_args,
            dialect: self.dialect(),
            top_refused: self.counters.top_refused,
            apart: self.ledger.shelf.rules(),
        }
    }
}

/// See [`Target::sides`].
#[derive(Debug, Clone)]
pub(crate) struct Sides {
    /// The configuration.
    pub(crate) target: config::Target,
    /// What our rsync can do.
    pub(crate) facts: RsyncFacts,
    /// Whether the receiver can delete missing arguments.
    pub(crate) missing_args: bool,
    /// Which options both sides know.
    pub(crate) dialect: Dialect,
    /// The target's top directory keeps its own times and mode.
    pub(crate) top_refused: bool,
    /// Rules that come before the mirror's: for places that are left alone.
    pub(crate) apart: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(events: &[(&str, Seen)], watched: &[&str]) -> Vec<String> {
        let path = |p: &&str| (RelPath::new(p.as_bytes()).unwrap(), false);
        let mut watch = Watch { id: 0, paths: watched.iter().map(path).collect() };
        events.iter().for_each(|(path, seen)| watch.see(path.as_bytes(), *seen));
        watch.paths.iter().filter(|(_, touched)| **touched).map(|(path, _)| path.to_string()).collect()
    }

    #[test]
    fn a_watch_hears_of_the_path_its_directory_and_what_is_told_whole() {
        let all = ["a", "a/b", "a/b/c", "a/b.x", "ab"];
        assert_eq!(touched(&[("a/b", Seen::Written)], &all), ["a", "a/b"]);
        assert_eq!(touched(&[("a/b", Seen::GoneDir)], &all), ["a", "a/b", "a/b/c"]);
        assert_eq!(touched(&[("a", Seen::ArrivedDir)], &all), ["a", "a/b", "a/b.x", "a/b/c"]);
        assert_eq!(touched(&[("", Seen::Subtree)], &all).len(), all.len());
        assert_eq!(touched(&[("z", Seen::Written), ("a/b/d/e", Seen::Written)], &all), [""; 0]);
    }
}
