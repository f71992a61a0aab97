//! Accepting connections for ever.

use std::io;
use std::time::Duration;

/// After a connection that could not be accepted.
const AGAIN: Duration = Duration::from_millis(50);

/// Hands each connection to `begin`, and pauses after one that could not be accepted: descriptors
/// are used up, most likely, and trying
/// again at once would only take the CPU.
pub(crate) fn each<C>(incoming: impl Iterator<Item = io::Result<C>>, begin: impl FnMut(C)) {
    each_pausing(incoming, begin, || std::thread::sleep(AGAIN));
}

fn each_pausing<C>(incoming: impl Iterator<Item = io::Result<C>>, mut begin: impl FnMut(C), mut pause: impl FnMut()) {
    for connection in incoming {
        match connection {
            Ok(connection) => begin(connection),
            Err(error) => {
                tracing::debug!(%error, "a connection cannot be accepted");
                pause();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn each_connection_that_cannot_be_accepted_costs_a_pause() {
        let (attempts, pauses) = (Cell::new(0), Cell::new(0));
        let script = [true, false, false, false, true, false, true].into_iter();
        let mut failed = 0;
        let incoming = script.map(|accepted| {
            assert_eq!(pauses.get(), failed, "tried again without a pause");
            attempts.set(attempts.get() + 1);
            if accepted {
                return Ok(attempts.get());
            }
            failed += 1;
            Err(io::Error::from_raw_os_error(nix::libc::EMFILE))
        });
        let mut begun = Vec::new();
        each_pausing(incoming, |number| begun.push(number), || pauses.set(pauses.get() + 1));
        assert_eq!((begun, attempts.get(), pauses.get()), (vec![1, 5, 7], 7, 4));
    }
}
