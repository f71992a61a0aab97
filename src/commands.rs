//! What each subcommand does: it calls the library, prints, and gives the code to leave with.

mod check;
mod client;
mod daemons;

use std::error::Error;

use crate::cli::Command;
use crate::cli::manual;
use crate::config::ConfigErrors;
use crate::control::Steer;
use crate::error::chain;
use crate::exit::ExitCode;
use crate::out;

/// Runs a subcommand.
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Mirror(args) => daemons::mirror(args),
        #[cfg(feature = "feed")]
        Command::Follow(args) => daemons::follow(args),
        Command::Run(args) => daemons::configured(&args.config()),
        Command::Sersync(args) => daemons::sersync(&args),
        Command::Import(args) => match crate::import::toml(&args) {
            Ok(text) => print(Ok::<_, std::convert::Infallible>(text)),
            Err(errors) => refuse(&errors),
        },
        Command::Check(args) => check::check_file(&args),
        Command::Status(args) if args.watch => client::watch(&args),
        Command::Status(args) => client::status(args),
        Command::Flush(args) => client::flush(&args),
        Command::Verify(args) => client::verify(&args),
        Command::Explain(args) => client::explain(args),
        Command::Events(args) => client::events(args),
        Command::Pause(args) => client::steer(args, Steer::Pause),
        Command::Resume(args) => {
            let what = Steer::Resume { accept_source: args.accept_source, accept_deletes: args.accept_deletes };
            client::steer(args.which, what)
        }
        Command::Retry(args) => client::steer(args, Steer::Retry),
        Command::Reload(args) => client::reload(&args),
        Command::Failover(args) => daemons::failover(args),
        Command::Completions(args) => out::write(&manual::completions(args.shell), ExitCode::Done),
        Command::Man(args) => man(&args.dir),
        Command::Names(args) => client::names(args.kind),
    }
}

fn man(dir: &std::path::Path) -> ExitCode {
    match manual::write(dir) {
        Ok(()) => ExitCode::Done,
        Err(error) => {
            fail(&error, None);
            error.exit_code()
        }
    }
}

fn print(text: Result<String, impl Error>) -> ExitCode {
    match text {
        Ok(text) => out::print(text, ExitCode::Done),
        Err(error) => {
            out::error(error);
            ExitCode::Bug
        }
    }
}

fn refuse(errors: &ConfigErrors) -> ExitCode {
    out::explained(errors);
    ExitCode::Config
}

fn fail(error: &dyn Error, help: Option<String>) {
    out::error(chain(error));
    if let Some(help) = help {
        out::explained(format_args!("help: {help}"));
    }
}
