//! The engines of the daemon as other threads see them: a list that changes with a reload.

use std::sync::{Arc, PoisonError, RwLock};

use super::handle::Handle;

/// The ways to all engines, and what is to be known of all together. Clones share one value.
#[derive(Clone, Default)]
pub(crate) struct Engines {
    list: Arc<RwLock<Arc<[Handle]>>>,
    note: Arc<RwLock<String>>,
}

impl Engines {
    /// The engines of this moment.
    pub(crate) fn all(&self) -> Arc<[Handle]> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
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
