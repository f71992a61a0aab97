//! Those of `socket_group`: what they may take of the daemon.
//!
//! Each connection is a descriptor and a thread, which rsync's processes need, too, and each answer
//! a turn of every engine. So a user who is neither root nor the daemon's has few connections, all
//! of them together have a bound, and answers are made a few times a second for all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections of one user at the same time, and of all.
const OF_ONE: usize = 8;
const OF_ALL: usize = 64;
/// How old an answer may be.
const FRESH: Duration = Duration::from_millis(250);

/// All of them.
#[derive(Clone, Default)]
pub(in crate::daemon::control) struct Guests(Arc<Shared>);

#[derive(Default)]
struct Shared {
    by_user: Mutex<HashMap<u32, usize>>,
    answer: Mutex<Option<(Instant, Arc<str>)>>,
}

/// The place of a connection.
pub(in crate::daemon::control) struct Place {
    guests: Guests,
    user: u32,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guests {
    /// A place for a connection of this user, if there is one.
    pub(in crate::daemon::control) fn enter(&self, user: u32) -> Option<Place> {
        let mut by_user = locked(&self.0.by_user);
        let all: usize = by_user.values().sum();
        if all >= OF_ALL || by_user.get(&user).is_some_and(|&own| own >= OF_ONE) {
            return None;
        }
        *by_user.entry(user).or_default() += 1;
        Some(Place { guests: self.clone(), user })
    }

    /// An answer that was made a moment ago, or a new one. Others wait for it meanwhile.
    pub(in crate::daemon::control) fn answer(&self, make: impl FnOnce() -> String) -> Arc<str> {
        let mut last = locked(&self.0.answer);
        if let Some((made, text)) = &*last
            && made.elapsed() < FRESH
        {
            return Arc::clone(text);
        }
        let text: Arc<str> = make().into();
        *last = Some((Instant::now(), Arc::clone(&text)));
        text
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_user = locked(&self.guests.0.by_user);
        if let Some(own) = by_user.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_member_of_the_group_takes_no_places_from_others() {
        let guests = Guests::default();
        let mut held: Vec<Place> = std::iter::repeat_with(|| guests.enter(1000)).take(1000).flatten().collect();
        assert_eq!(held.len(), OF_ONE);
        held.extend(guests.enter(1001));
        assert_eq!(held.len(), OF_ONE + 1, "another member");
        held.pop();
        held.pop();
        assert!(guests.enter(1000).is_some(), "a place that was left");
        drop(held);
        let held: Vec<Place> = (0..1000).filter_map(|user| guests.enter(user)).collect();
        assert_eq!(held.len(), OF_ALL);
        drop(held);
        assert!(locked(&guests.0.by_user).is_empty());
    }

    #[test]
    fn an_answer_is_made_once_for_many() {
        let (guests, mut made) = (Guests::default(), 0);
        for _ in 0..100 {
            let text = guests.answer(|| {
                made += 1;
                made.to_string()
            });
            assert!(!text.is_empty());
        }
        assert!(made < 100, "each question was an engine's turn");
    }
}
