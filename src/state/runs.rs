//! Whether processes of an earlier run of the daemon are still at work.
//!
//! A daemon that was killed takes its rsyncs with it, and the receiver of a local target ends once
//! it sees the end of its connection: that may take as long as a disk does. What it puts in place
//! until then would come over what the next daemon sends. So each rsync inherits a descriptor of
//! one file, with a lock on it (flock(2)) that lasts until the last process that holds it has
//! ended.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const FILE: &str = "runs";

/// The file of one mirror.
#[derive(Debug)]
pub(crate) struct Runs(File);

impl Runs {
    /// In the mirror's directory below the state directory, which is there. Also whether an earlier
    /// daemon made it.
    ///
    /// # Errors
    /// open(2).
    pub(crate) fn open(state_dir: &Path, mirror: &str) -> io::Result<(Runs, bool)> {
        let path = state_dir.join(mirror).join(FILE);
        let mut options = OpenOptions::new();
        options.append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        match options.open(&path) {
            Ok(file) => Ok((Runs(file), true)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((Runs(options.create_new(true).open(&path)?), false)),
            Err(error) => Err(error),
        }
    }

    /// Whether no process of an earlier run is left. From then on the lock is ours, and that of the
    /// processes that inherit it.
    pub(crate) fn are_over(&self) -> bool {
        #[allow(deprecated)] // `Flock` would own the file, which is locked anew until it can be.
        nix::fcntl::flock(self.0.as_raw_fd(), nix::fcntl::FlockArg::LockExclusiveNonblock).is_ok()
    }
}

impl AsFd for Runs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::sys::child::{Child, Limits, Stdin};

    #[test]
    fn a_process_that_is_left_counts_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("m")).unwrap();
        assert!(!Runs::open(dir.path(), "m").unwrap().1, "it was not there");
        let open = || {
            let (runs, earlier) = Runs::open(dir.path(), "m").unwrap();
            earlier.then_some(runs).expect("it is there")
        };
        let first = open();
        assert!(first.are_over() && first.are_over(), "asked twice");
        let argv = ["/bin/sh", "-c", "exec sleep 1000"].map(Into::into);
        let child = Child::spawn_with(&argv, &[], Stdin::Null, None, Limits::default(), &[first.as_fd()]).unwrap();
        drop(first);
        let second = open();
        assert!(!second.are_over(), "its rsync lives");
        drop(child);
        let began = std::time::Instant::now();
        while !second.are_over() {
            assert!(began.elapsed().as_secs() < 60, "it ended");
            std::thread::yield_now();
        }
        assert!(!open().are_over(), "it is ours now");
    }
}
