//! What `remove_source_files` has done, as the thread that does it counts it, for the status of the
//! mirror.

use std::sync::{Arc, Mutex, PoisonError};

use crate::status::Moved;

/// See the module's text; `None` inside where nothing is removed. Clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct MovedFiles(Arc<Mutex<Option<Moved>>>);

impl MovedFiles {
    /// Whether files are removed from now on. The counts of before go on.
    pub(crate) fn counts(&self, on: bool) {
        let mut moved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *moved = on.then(|| moved.take().unwrap_or_default());
    }

    /// Counts.
    pub(crate) fn change(&self, how: impl FnOnce(&mut Moved)) {
        if let Some(moved) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            how(moved);
        }
    }

    /// The counts.
    pub(crate) fn get(&self) -> Option<Moved> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_over_a_reload_and_end_with_the_moving() {
        let moved = MovedFiles::default();
        moved.change(|m| m.files += 1);
        assert_eq!(moved.get(), None, "nothing is removed");
        for want in [3, 6] {
            moved.counts(true);
            moved.clone().change(|m| m.files += 3);
            assert_eq!(moved.get().unwrap().files, want);
        }
        moved.counts(false);
        assert_eq!(moved.get(), None);
    }
}
