//! What an engine answered last when it was asked for its status, for the time in which it does not
//! answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::status;

/// See the module's text. Clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastStatus(Arc<Mutex<Option<(Instant, status::Mirror)>>>);

impl LastStatus {
    /// Keeps an answer, and gives it back.
    pub(crate) fn keep(&self, status: status::Mirror) -> status::Mirror {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), status.clone()));
        status
    }

    /// The last answer, with its age; `None` when there was none yet.
    pub(crate) fn get(&self) -> Option<status::Mirror> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, status) = last.as_ref()?;
        Some(status::Mirror { unanswered_seconds: at.elapsed().as_secs_f64(), ..status.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_answer_says_how_old_it_is() {
        let last = LastStatus::default();
        assert!(last.get().is_none());
        let mirror = status::Mirror { name: "m".into(), events: 7, ..status::Mirror::default() };
        assert_eq!(last.keep(mirror).unanswered_seconds, 0.0);
        let old = last.clone().get().expect("it was kept");
        assert!(old.unanswered_seconds > 0.0 && old.events == 7 && old.name == "m");
    }
}
