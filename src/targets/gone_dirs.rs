//! `delete = "running"`: the directories that went while fansync ran.
//!
//! A comparison deletes nothing then, for nothing shows that the source once had what only the
//! target has. What goes is listed by its name. A directory that went, and whose name another one
//! has before that was sent, cannot be listed so: the comparison of the new one takes what is left
//! of the old one away.

use super::*;

/// Directories remembered; of more, what the target has of the old one stays.
const MOST: usize = 100_000;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct GoneDirs {
    paths: BTreeSet<RelPath>,
}

impl GoneDirs {
    /// Whether the comparison for `entry` takes what is left of a directory that went.
    pub(super) fn covers(&self, entry: &Entry) -> bool {
        entry.kind == Kind::Subtree && self.paths.contains(&entry.path)
    }
}

impl Target {
    /// Takes in a change. What a walk at the start finds says nothing of when it went.
    pub(super) fn note_gone(&mut self, path: &[u8], seen: Seen) {
        let went = self.mirror.delete == Delete::Running && seen.plain() == Seen::GoneDir && !self.doubts.is_resuming();
        if went && self.gone_dirs.paths.len() < MOST {
            self.gone_dirs.paths.insert(RelPath::from_normal(path));
        }
    }

    /// The names of directories that went among those of a batch: compared (`true`), or listed.
    pub(super) fn gone_of(&self, entries: &[Entry], compared: bool) -> Vec<RelPath> {
        if self.gone_dirs.paths.is_empty() {
            return Vec::new();
        }
        let fits = |e: &&Entry| if compared { e.kind == Kind::Subtree } else { e.kind < Kind::Subtree && e.gone };
        let names = entries.iter().filter(fits).map(|entry| &entry.path);
        names.filter(|path| self.gone_dirs.paths.contains(*path)).cloned().collect()
    }

    /// Directories were compared after they had gone. One that went since then is to be sent again.
    pub(super) fn compared(&mut self, names: Vec<RelPath>) {
        for path in names {
            if !self.ledger.set.owes(&path) {
                self.gone_dirs.paths.remove(&path);
            }
        }
    }

    /// Names were listed as gone. Those that lead nowhere now, and of which nothing is to be sent,
    /// are deleted on the target; another directory may have had one of the others by the time that
    /// rsync read it, and is merged with what was there.
    pub(super) fn listed_as_gone(&mut self, root: &Root, mut names: Vec<RelPath>) {
        names.retain(|path| {
            matches!(fstatat(root, path.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW), Err(Errno::ENOENT | Errno::ENOTDIR))
        });
        self.compared(names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_comparison_of_a_directory_that_went_deletes() {
        let mut set = DirtySet::new(10);
        let mut take = |path: &str, seen| {
            set.see(path.as_bytes(), seen);
            set.take_deep(Limits { max_paths: 1, ignore_holds: true }).unwrap().entries.remove(0)
        };
        let (went, other) = (take("d", Seen::MovedDir), take("e", Seen::MovedDir));
        let gone = GoneDirs { paths: [went.path.clone()].into() };
        assert!(gone.covers(&went) && !gone.covers(&other));
        let mut listed = went;
        (listed.kind, listed.gone) = (Kind::Entry, true);
        assert!(!gone.covers(&listed));
    }
}
