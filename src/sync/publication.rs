//! A run that is no process: a record that is published to a feed. The publisher ends it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::outcome::{Outcome, Verdict};
use crate::sys::event::EventFd;

/// How a publication ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// The server has stored it.
    Stored,
    /// It has not, as far as is known.
    Not {
        /// Trying again cannot help before a change by an administrator.
        config: bool,
        why: String,
    },
}

impl Published {
    /// It was not stored; trying again may help.
    pub(crate) fn not(why: impl Into<String>) -> Published {
        Published::Not { config: false, why: why.into() }
    }

    /// As the end of a run.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Published::Stored => Outcome { verdict: Verdict::Done, ..Outcome::unknown(String::new()) },
            Published::Not { config: true, why } => Outcome { verdict: Verdict::Config, ..Outcome::unknown(why) },
            Published::Not { config: false, why } => Outcome { verdict: Verdict::TargetDown, ..Outcome::unknown(why) },
        }
    }
}

#[derive(Debug)]
struct Shared {
    ready: EventFd,
    end: Mutex<Option<Published>>,
}

impl Shared {
    fn end(&self, how: Published) {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(how);
        self.ready.wake();
    }
}

/// One that is under way, as its owner has it.
#[derive(Debug)]
pub(crate) struct Publication(Arc<Shared>);

/// The other side of it; dropped, it ends the publication as not stored.
#[derive(Debug)]
pub(crate) struct Promise(Arc<Shared>);

/// A publication and its other side.
///
/// # Errors
/// As [`EventFd::new`].
pub(crate) fn publication() -> io::Result<(Publication, Promise)> {
    let shared = Arc::new(Shared { ready: EventFd::new()?, end: Mutex::new(None) });
    Ok((Publication(Arc::clone(&shared)), Promise(shared)))
}

impl Publication {
    /// Readable once it has ended.
    pub(super) fn ready(&self) -> BorrowedFd<'_> {
        self.0.ready.as_fd()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&self) -> Option<Published> {
        self.0.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its owner waits no longer.
    pub(super) fn give_up(&self) {
        self.0.end(Published::not("it was given up"));
    }
}

impl Promise {
    /// Ends the publication.
    pub(crate) fn keep(self, how: Published) {
        self.0.end(how);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.end(Published::not("the thread of the feed has ended"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts_and_a_lost_promise_is_one() {
        let (one, promise) = publication().unwrap();
        assert_eq!(one.ended(), None);
        promise.keep(Published::Stored);
        one.give_up();
        assert_eq!(one.ended(), Some(Published::Stored));
        assert_eq!(one.ended().unwrap().outcome().verdict, Verdict::Done);
        let (two, promise) = publication().unwrap();
        drop(promise);
        assert_eq!(two.ended().unwrap().outcome().verdict, Verdict::TargetDown);
        let refused = Published::Not { config: true, why: "why".into() }.outcome();
        assert_eq!((refused.verdict, &*refused.reason), (Verdict::Config, "why"));
    }
}
