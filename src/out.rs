//! What commands print.
//!
//! Standard output may be closed (`| head`) or full. The first ends a command quietly, with the
//! code that it would have ended with; the second is an error of its own. What goes to standard
//! error is not worth failing for.

use std::fmt::Display;
use std::io::{self, Write};

use tracing::Level;

use crate::exit::ExitCode;
use crate::sys::patient::Patient;

/// Prints to standard output, and gives the code to leave with: `code`, unless the output cannot be
/// written.
#[must_use]
pub(crate) fn print(text: impl Display, code: ExitCode) -> ExitCode {
    write(text.to_string().as_bytes(), code)
}

/// The same for bytes.
#[must_use]
pub(crate) fn write(bytes: &[u8], code: ExitCode) -> ExitCode {
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

/// Prints an error.
pub(crate) fn error(what: impl Display) {
    crate::log::to_stderr(Level::ERROR, &format!("error: {what}\n"));
}

/// Prints what explains itself, as the errors of a configuration with their places do.
pub(crate) fn explained(what: impl Display) {
    crate::log::to_stderr(Level::ERROR, &format!("{what}\n"));
}

/// Prints a warning.
pub(crate) fn warning(what: impl Display) {
    crate::log::to_stderr(Level::WARN, &format!("warning: {what}\n"));
}

/// Prints a warning that brings its label and its place.
pub(crate) fn cautioned(what: impl Display) {
    crate::log::to_stderr(Level::WARN, &format!("{what}\n"));
}

/// Prints to standard error, as it is.
pub(crate) fn note(what: impl Display) {
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
