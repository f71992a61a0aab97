//! The engines of the daemon as whoever asks them sees them: a list that changes with a reload.

use std::sync::{Arc, PoisonError, RwLock};

use super::Handle;

/// The ways to all engines. Clones share one list.
#[derive(Clone, Default)]
pub struct Engines(Arc<RwLock<Arc<[Handle]>>>);

impl Engines {
    /// The engines of this moment.
    pub fn all(&self) -> Arc<[Handle]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this one, too, in the place of that of the same mirror if there is one.
    pub fn put(&self, handle: Handle) {
        self.change(|list| match list.iter_mut().find(|h| h.mirror == handle.mirror) {
            Some(old) => *old = handle,
            None => list.push(handle),
        });
    }

    /// From now on without that of `mirror`.
    pub fn remove(&self, mirror: &str) {
        self.change(|list| list.retain(|h| h.mirror != mirror));
    }

    /// Puts them into the order of these names.
    pub fn sort(&self, names: &[&str]) {
        self.change(|list| list.sort_by_key(|h| names.iter().position(|name| *name == h.mirror)));
    }

    fn change(&self, how: impl FnOnce(&mut Vec<Handle>)) {
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut handles = list.to_vec();
        how(&mut handles);
        *list = handles.into();
    }
}
