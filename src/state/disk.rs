//! Writes to the state directory that block no thread: each on a thread of its own, for which its
//! caller waits a bounded time.
//!
//! A filesystem that is frozen (fsfreeze(8), a snapshot of a volume), or whose disk does not
//! answer, holds a write in the kernel for as long as it likes, and no signal ends it. So the
//! thread is left there, and the caller goes on with an error. While one write has not come back no
//! other is begun: they would wait for the same, and their order is kept.
//!
//! A write that comes back late was carried out. What it saved is older than what is saved next,
//! as after a stop at that moment, and a state that is older makes a restart find more, never less.
//!
//! Gives up: a process does not end before the kernel lets its threads go. A stop does what it has
//! to in its time, and the process is gone when the filesystem answers.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::bounded;

/// The writes of one file, or of several that are to keep their order.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<Writes>>);

#[derive(Default)]
struct Writes {
    /// One is under way.
    busy: bool,
    /// No caller waits for what is done after it.
    next: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("busy", &self.is_stuck()).finish()
    }
}

impl Disk {
    /// Does `work`, and waits for it at most so long. While another write has not come back it is
    /// not done.
    ///
    /// # Errors
    /// Its own; [`io::ErrorKind::TimedOut`] when it, or what was begun before it, has not come
    /// back.
    pub(crate) fn within<T, F>(&self, patience: Duration, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        if std::mem::replace(&mut self.lock().busy, true) {
            return Err(no_answer());
        }
        let (done, result) = bounded(1);
        let own = self.clone();
        let write = move || {
            let result = work();
            while let Some(next) = own.next() {
                next();
            }
            let _ = done.send(result);
        };
        if let Err(error) = std::thread::Builder::new().name("fansync-state".into()).spawn(write) {
            self.lock().busy = false;
            return Err(error);
        }
        result.recv_timeout(patience).unwrap_or_else(|_| Err(no_answer()))
    }

    /// The same, but it is done in any case: after the write that has not come back, unless another
    /// one takes its place till then.
    ///
    /// # Errors
    /// See [`Disk::within`].
    pub(crate) fn within_or_later<F>(&self, patience: Duration, work: F) -> io::Result<()>
    where
        F: FnOnce() -> io::Result<()> + Send + 'static,
    {
        {
            let mut writes = self.lock();
            if writes.busy {
                writes.next = Some(Box::new(move || _ = work()));
                return Err(no_answer());
            }
        }
        self.within(patience, work)
    }

    /// Whether a write has not come back.
    pub(crate) fn is_stuck(&self) -> bool {
        self.lock().busy
    }

    /// What is to be done now that a write has come back.
    fn next(&self) -> Option<Box<dyn FnOnce() + Send>> {
        let mut writes = self.lock();
        writes.busy = writes.next.is_some();
        writes.next.take()
    }

    fn lock(&self) -> MutexGuard<'_, Writes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "its filesystem does not answer; it may be frozen, or its disk may hang")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn one_that_does_not_come_back_keeps_no_other() {
        let disk = Disk::default();
        assert_eq!(disk.within(LONG, || Ok(1)).unwrap(), 1);
        let failed = disk.within(LONG, || Err::<(), _>(io::Error::from_raw_os_error(libc::ENOSPC)));
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        let (thaw, frozen) = bounded::<()>(0);
        let hangs = move || {
            let _ = frozen.recv();
            Ok(())
        };
        assert_eq!(disk.within(SHORT, hangs).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let again = disk.clone().within(LONG, || -> io::Result<()> { panic!("begun before the first came back") });
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(disk.is_stuck());
        // Of what is to be done in any case the last is.
        let (wrote, written) = bounded(2);
        for n in [1, 2] {
            let wrote = wrote.clone();
            let work = move || wrote.send(n).map_err(io::Error::other);
            assert_eq!(disk.within_or_later(LONG, work).unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        drop((thaw, wrote));
        assert_eq!(written.iter().collect::<Vec<_>>(), [2]);
        while disk.is_stuck() {
            std::thread::yield_now();
        }
        assert_eq!(disk.within(LONG, || Ok(2)).unwrap(), 2);
    }
}
