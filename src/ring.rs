//! The ring between reader and engine: a bounded queue that neither side ever waits on.
//!
//! Promises: first in, first out; a value that does not fit is handed back, never dropped; `push`
//! and `pop` take no lock and make no system call, so the reader is never held up by the engine.
//! Two rings make one loop: filled buffers travel to the engine, empty ones back to the reader, so
//! memory is bounded by the buffers that exist.
//!
//! It is [`crossbeam::queue::ArrayQueue`] behind a narrow door: the queue was measured at a few
//! tens of nanoseconds per hand-over (`benches/ring.rs`), once per *buffer* of some thousand
//! events, so a single-producer ring of our own, with its `unsafe`, would buy nothing that shows.
//! Gives up: blocking. Who finds the ring empty or full sleeps elsewhere, on an eventfd it can poll
//! together with its other work.

use crossbeam::queue::ArrayQueue;

/// A bounded lock-free queue, shared by reference between any number of threads.
#[derive(Debug)]
pub struct Ring<T>(ArrayQueue<T>);

impl<T> Ring<T> {
    /// A ring that holds up to `capacity` values; allocates all of it here and nothing later.
    ///
    /// # Panics
    /// If `capacity` is 0: such a ring could pass nothing on.
    pub fn new(capacity: usize) -> Ring<T> {
        Ring(ArrayQueue::new(capacity))
    }

    /// Appends `value`. O(1), no allocation.
    ///
    /// # Errors
    /// Gives `value` back when the ring is full; nothing is overwritten.
    pub fn push(&self, value: T) -> Result<(), T> {
        self.0.push(value)
    }

    /// Takes the oldest value; `None` when the ring is empty. O(1).
    pub fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    /// How many values are inside; may be stale by the time it is read when another thread is at
    /// work.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is inside; stale in the same way as [`Ring::len`].
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether no further value fits; stale in the same way as [`Ring::len`].
    pub(crate) fn is_full(&self) -> bool {
        self.0.is_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Any order of pushes and pops does what a bounded `VecDeque` does.
        #[test]
        fn behaves_like_a_bounded_deque(capacity in 1usize..9, ops in prop::collection::vec(prop::option::of(any::<u16>()), 0..200)) {
            let (ring, mut model) = (Ring::new(capacity), VecDeque::new());
            for op in ops {
                match op {
                    Some(value) if model.len() < capacity => {
                        prop_assert_eq!(ring.push(value), Ok(()));
                        model.push_back(value);
                    }
                    Some(value) => prop_assert_eq!(ring.push(value), Err(value)),
                    None => prop_assert_eq!(ring.pop(), model.pop_front()),
                }
                prop_assert_eq!(ring.len(), model.len());
                prop_assert_eq!(ring.is_full(), model.len() == capacity);
            }
        }
    }

    /// Two threads, a tiny ring: everything arrives, in order.
    #[test]
    fn two_threads_keep_order() {
        const COUNT: u32 = if cfg!(miri) { 200 } else { 100_000 };
        let ring = Ring::new(3);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for mut value in 0..COUNT {
                    while let Err(back) = ring.push(value) {
                        value = back;
                        std::thread::yield_now();
                    }
                }
            });
            for want in 0..COUNT {
                let got = loop {
                    match ring.pop() {
                        Some(value) => break value,
                        None => std::thread::yield_now(),
                    }
                };
                assert_eq!(got, want);
            }
        });
        assert!(ring.is_empty());
    }
}
