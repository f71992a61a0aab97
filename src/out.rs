//! What commands print.
//!
//! Standard output may be closed (`| head`) or full. The first ends a command quietly, with the
//! code that it would have ended with; the
//! second is an error of its own. What goes to standard error is not worth failing for.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::Level;

use crate::exit::ExitCode;

/// Prints to standard output, and gives the code to leave with: `code`, unless the output cannot be
/// written.
#[must_use]
pub fn print(text: impl Display, code: ExitCode) -> ExitCode {
    write(text.to_string().as_bytes(), code)
}

/// The same for bytes.
#[must_use]
pub fn write(bytes: &[u8], code: ExitCode) -> ExitCode {
    let mut out = Patient(io::stdout().lock());
    written(out.write_all(bytes).and_then(|()| out.flush()), code)
}

/// The code to leave with after writing to standard output ended so.
#[must_use]
pub fn written(result: io::Result<()>, code: ExitCode) -> ExitCode {
    match result {
        Err(why) if why.kind() != io::ErrorKind::BrokenPipe => {
            error(format_args!("cannot write to standard output: {why}"));
            ExitCode::Output
        }
        _ => code,
    }
}

/// Waits where the file does not block: whoever shares it may have set it so.
pub struct Patient<T>(pub T);

impl<T: Write + AsFd> Patient<T> {
    fn until_ready<R>(&mut self, mut call: impl FnMut(&mut T) -> io::Result<R>) -> io::Result<R> {
        loop {
            match call(&mut self.0) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
        }
    }
}

impl<T: Write + AsFd> Write for Patient<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until_ready(|out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.until_ready(Write::flush)
    }
}

/// Prints an error.
pub fn error(what: impl Display) {
    crate::log::to_stderr(Level::ERROR, &format!("error: {what}\n"));
}

/// Prints what explains itself, as the errors of a configuration with their places do.
pub fn explained(what: impl Display) {
    crate::log::to_stderr(Level::ERROR, &format!("{what}\n"));
}

/// Prints a warning.
pub fn warning(what: impl Display) {
    crate::log::to_stderr(Level::WARN, &format!("warning: {what}\n"));
}

/// Prints a warning that brings its label and its place.
pub fn cautioned(what: impl Display) {
    crate::log::to_stderr(Level::WARN, &format!("{what}\n"));
}

/// Prints to standard error, as it is.
pub fn note(what: impl Display) {
    crate::log::to_stderr(Level::INFO, &format!("{what}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is() {
        let failed = |errno| Err(io::Error::from_raw_os_error(errno));
        assert_eq!(written(Ok(()), ExitCode::Differences), ExitCode::Differences);
        assert_eq!(written(failed(libc::EPIPE), ExitCode::Differences), ExitCode::Differences);
        assert_eq!(written(failed(libc::ENOSPC), ExitCode::Done), ExitCode::Output);
        assert_eq!(written(failed(libc::EIO), ExitCode::Differences), ExitCode::Output);
    }
}
