//! The `fansync` command.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic where the output cannot be written")]

use std::process::ExitCode as ProcessExit;

use fansync::exit::ExitCode;
use fansync::{cli, commands, log, out};

fn main() -> ProcessExit {
    // Passwords and keys pass through its memory. That it cannot be set leaves things as they were.
    let _ = fansync::sys::child::no_image();
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        // Help and version are output; what is wrong with the command line goes to standard error.
        Err((error, ExitCode::Done)) => return out::written(error.print(), ExitCode::Done).into(),
        Err((error, code)) => {
            let _ = error.print();
            return code.into();
        }
    };
    let code = commands::run(cli.command);
    log::finish();
    code.into()
}
