//! Things of the target whose names on the source are those of something that is left out.
//!
//! What is left out may depend on what it is: `exclude_temporary` leaves out files called `.d`, and
//! no directory of that name; the pattern `d/` leaves out directories alone. So a name can change
//! from something that is mirrored to something that is not, and the target has to lose what it
//! has there. By its name that cannot be listed, for the source has it. It goes with a comparison
//! of one level of the directory above, in which rsync is shown nothing of what is there: all is
//! hidden from it, and all but these names is protected.
//!
//! Gives up: an empty directory in the place of a temporary file. What rsync lists is the same as
//! without it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use super::linked::path_and_above;
use super::survey::{MAX_RISKS, guard};
use super::*;

/// What one run deletes.
#[derive(Debug, Default)]
pub(super) struct Displaced {
    /// The things that go.
    pub(super) names: Vec<RelPath>,
    /// The directories that they are in.
    pub(super) dirs: BTreeSet<RelPath>,
    /// What is deleted or protected of them, and below them.
    exact: Vec<OsString>,
}

impl Displaced {
    /// The rules for the run. `guards`: those that protect what rsync cannot be given exactly.
    pub(super) fn rules(&self, guards: &[OsString]) -> Vec<OsString> {
        let inside = |dir: &RelPath| if dir.is_root() { b"/*".to_vec() } else { Filter::inside(dir) };
        let protected = self.dirs.iter().map(|dir| guard(b"-r", &inside(dir)));
        // One of the directories may be in another.
        let on_the_way: BTreeSet<&[u8]> = self.dirs.iter().flat_map(|dir| path_and_above(dir)).collect();
        let shown = on_the_way.into_iter().filter(|at| !at.is_empty()).map(|at| guard(b"+s", &Filter::exactly(at)));
        let hidden = self.dirs.iter().map(|dir| guard(b"-s", &inside(dir)));
        self.exact.iter().cloned().chain(guards.iter().cloned()).chain(protected).chain(shown).chain(hidden).collect()
    }
}

/// Those that a run of this kind was made for since the last comparison that went through. What
/// stays of them holds something that is left out.
#[derive(Debug, Default)]
pub(super) struct Tried(BTreeSet<RelPath>);

impl Tried {
    /// A run for them went through.
    pub(super) fn went(&mut self, names: Vec<RelPath>) {
        self.0.extend(names);
    }

    /// A comparison went through.
    pub(super) fn done(&mut self) {
        self.0.clear();
    }

    /// What has to go of the differences that a dry run found (`items`). `normal`: how the source
    /// has them. At most [`MAX_RISKS`] rules; the rest is found by the next comparison.
    pub(super) fn found(&self, filter: &Filter, guarded: &Filter, normal: &Normal, items: &[Item]) -> Displaced {
        let left_out = normal.items.iter().filter_map(|item| match item.state {
            Look::Present(stat) if !item.path.is_root() && filter.excludes(&item.path, stat.is_dir()) => Some(&*item.path),
            _ => None,
        });
        let left_out: BTreeSet<&[u8]> = left_out.collect();
        let mut found = Displaced::default();
        if left_out.is_empty() {
            return found;
        }
        // rsync lists the deletion itself where its own rules hide what the source has, and what is
        // in a directory where it would send a file in its place.
        let mut there: BTreeMap<RelPath, bool> = BTreeMap::new();
        for item in items.iter().filter(|item| item.deletes()) {
            for at in path_and_above(&item.path).filter(|at| left_out.contains(at)) {
                *there.entry(RelPath::from_normal(at)).or_default() |= item.dir || *at != *item.path;
            }
        }
        for (name, dir) in there {
            if filter.excludes(&name, dir) || self.0.contains(&name) {
                continue;
            }
            let mut rules = Vec::new();
            for below in items.iter().filter(|b| b.deletes() && b.path != name && path::is_at_or_below(&b.path, &name)) {
                let exactly = Filter::exactly(&below.path);
                if filter.excludes(&below.path, below.dir) {
                    rules.push(guard(b"-r", &exactly));
                } else if guarded.excludes_leaf(&below.path, false) {
                    rules.push(guard(b"+r", &exactly));
                }
            }
            let as_dir = [&Filter::exactly(&name)[..], b"/"].concat();
            match dir {
                true => rules.push(guard(b"+r", &as_dir)),
                false => rules.extend([guard(b"-r", &as_dir), guard(b"+r", &Filter::exactly(&name))]),
            }
            if found.exact.len() + rules.len() > MAX_RISKS && !found.names.is_empty() {
                break;
            }
            found.exact.append(&mut rules);
            found.dirs.extend(path::parent(&name).map(RelPath::from_normal));
            found.names.push(name);
        }
        found
    }
}
