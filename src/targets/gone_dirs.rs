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

    /// The target has `entry`.
    pub(super) fn confirmed(&mut self, entry: &Entry) {
        if entry.kind == Kind::Subtree || entry.gone {
            self.paths.remove(&entry.path);
        }
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
        let mut gone = GoneDirs { paths: [went.path.clone()].into() };
        assert!(gone.covers(&went) && !gone.covers(&other));
        gone.confirmed(&other);
        assert!(gone.covers(&went));
        gone.confirmed(&went);
        assert!(!gone.covers(&went));
    }
}
