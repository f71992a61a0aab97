//! Which paths a record named while a verification compared them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::dirty::Kind;
use crate::feed::record::{Item, Record};
use crate::path::{self, RelPath};

/// Paths that are compared, and those of them that a record named meanwhile.
#[derive(Default)]
struct Watch {
    paths: BTreeSet<RelPath>,
    touched: BTreeSet<RelPath>,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Watches {
    last: u64,
    open: BTreeMap<u64, Watch>,
}

impl Watches {
    /// Watches these paths from now on, under the number that it gives.
    pub(super) fn begin(&mut self, paths: Vec<RelPath>) -> u64 {
        self.last += 1;
        self.open.insert(self.last, Watch { paths: paths.into_iter().collect(), ..Watch::default() });
        self.last
    }

    /// A record was read.
    pub(super) fn see(&mut self, record: &Record) {
        if record.everything {
            return self.see_all();
        }
        for watch in self.open.values_mut() {
            let named = |path: &&RelPath| record.entries.iter().any(|item| concerns(item, path));
            let named: Vec<RelPath> = watch.paths.iter().filter(named).cloned().collect();
            watch.touched.extend(named);
        }
    }

    /// Any path may have changed.
    pub(super) fn see_all(&mut self) {
        for watch in self.open.values_mut() {
            watch.touched.extend(watch.paths.iter().cloned());
        }
    }

    /// Ends a watch: its paths, and those that were named.
    pub(super) fn end(&mut self, id: u64) -> (BTreeSet<RelPath>, BTreeSet<RelPath>) {
        let watch = self.open.remove(&id).unwrap_or_default();
        (watch.paths, watch.touched)
    }
}

/// Whether what an entry of a record says may be the reason of a difference of this path.
fn concerns(item: &Item, path: &RelPath) -> bool {
    match () {
        () if *path == item.path => true,
        // A directory has other times than before.
        () if path::is_at_or_below(&item.path, path) => true,
        () if path::is_at_or_below(path, &item.path) => item.kind > Kind::Entry || item.gone || !item.directory,
        () => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn named(item: Item) -> Vec<String> {
        let mut watches = Watches::default();
        let all = ["", "a", "a/b", "a/b/c", "a/bc", "x"].map(path);
        let id = watches.begin(all.to_vec());
        let other = watches.begin(vec![path("y")]);
        watches.see(&Record { entries: vec![item], ..Record::default() });
        let (paths, touched) = watches.end(id);
        assert_eq!((paths.len(), watches.end(other).1.len(), watches.end(id).0.len()), (6, 0, 0));
        touched.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_record_explains_what_is_at_above_and_below_its_paths() {
        let directory = Item { path: path("a/b"), kind: Kind::Entry, gone: false, directory: true, content: false, to: None };
        assert_eq!(named(directory.clone()), [".", "a", "a/b"], "of a directory by itself nothing below changes");
        for item in [
            Item { kind: Kind::Contents, ..directory.clone() },
            Item { kind: Kind::Subtree, ..directory.clone() },
            Item { gone: true, ..directory.clone() },
            Item { directory: false, ..directory },
        ] {
            assert_eq!(named(item.clone()), [".", "a", "a/b", "a/b/c"], "{item:?}");
        }
    }

    #[test]
    fn what_is_compared_whole_explains_everything() {
        for whole in [true, false] {
            let mut watches = Watches::default();
            let id = watches.begin(vec![path("a"), path("b")]);
            match whole {
                true => watches.see(&Record { everything: true, ..Record::default() }),
                false => watches.see_all(),
            }
            assert_eq!(watches.end(id).1.len(), 2);
        }
    }
}
