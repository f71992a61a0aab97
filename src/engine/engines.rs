//! The engines of the daemon as other threads see them: a list that changes with a reload.

use std::sync::{Arc, PoisonError, RwLock};

use super::handle::Handle;
use crate::budget::Budget;

/// The ways to all engines, and what is to be known of all together. Clones share one value.
#[derive(Clone, Default)]
pub(crate) struct Engines {
    list: Arc<RwLock<Arc<[Handle]>>>,
    note: Arc<RwLock<String>>,
    budget: Budget,
}

impl Engines {
    /// The engines of this moment.
    pub(crate) fn all(&self) -> Arc<[Handle]> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the targets of all share.
    pub(crate) fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// Why the configuration in force is not that of the file; empty when it is.
    pub(crate) fn trouble(&self) -> String {
        self.note.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What [`Engines::trouble`] returns from now on.
    pub(crate) fn note(&self, trouble: String) {
        *self.note.write().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// From now on this one, too, in the place of that of the same mirror if there is one.
    pub(crate) fn put(&self, handle: Handle) {
        self.change(|list| match list.iter_mut().find(|h| h.mirror == handle.mirror) {
            Some(old) => *old = handle,
            None => list.push(handle),
        });
    }

    /// From now on without that of `mirror`.
    pub(crate) fn remove(&self, mirror: &str) {
        self.change(|list| list.retain(|h| h.mirror != mirror));
    }

    /// Puts them into the order of these names.
    pub(crate) fn sort(&self, names: &[&str]) {
        self.change(|list| list.sort_by_key(|h| names.iter().position(|name| *name == h.mirror)));
    }

    fn change(&self, how: impl FnOnce(&mut Vec<Handle>)) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut handles = list.to_vec();
        how(&mut handles);
        *list = handles.into();
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::unbounded;

    use super::*;
    use crate::sys::event::EventFd;

    fn handle(mirror: &str, target: &str) -> Handle {
        Handle {
            mirror: mirror.into(),
            targets: vec![target.into()],
            commands: unbounded().0,
            wake: Arc::new(EventFd::new().unwrap()),
            turns: Arc::default(),
            last: Default::default(),
            moved: Default::default(),
        }
    }

    fn names(list: &[Handle]) -> Vec<String> {
        list.iter().map(|h| format!("{}/{}", h.mirror, h.targets[0])).collect()
    }

    #[test]
    fn a_mirror_that_begins_anew_keeps_its_place_and_is_there_once() {
        let engines = Engines::default();
        for (mirror, target) in [("a", "1"), ("b", "1"), ("c", "1"), ("b", "2")] {
            engines.put(handle(mirror, target));
        }
        assert_eq!(names(&engines.all()), ["a/1", "b/2", "c/1"]);
        let (before, other) = (engines.all(), engines.clone());
        other.remove("a");
        other.remove("no mirror");
        assert_eq!(names(&engines.all()), ["b/2", "c/1"], "clones are one");
        assert_eq!(before.len(), 3, "a caller keeps what was then");
    }

    #[test]
    fn the_order_is_that_of_the_configuration() {
        let engines = Engines::default();
        ["b", "c", "a"].iter().for_each(|mirror| engines.put(handle(mirror, "t")));
        engines.sort(&["c", "a", "b"]);
        assert_eq!(names(&engines.all()), ["c/t", "a/t", "b/t"]);
        engines.note("line 3".into());
        assert_eq!(engines.clone().trouble(), "line 3");
        engines.note(String::new());
        assert_eq!(engines.trouble(), "");
    }
}
