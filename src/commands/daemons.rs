//! The subcommands that stay in the foreground, or leave a daemon behind.

use std::path::Path;

use super::{fail, refuse};
#[cfg(feature = "feed")]
use crate::cli::FollowArgs;
use crate::cli::{self, MirrorArgs};
use crate::config::Config;
use crate::daemon::{self, MissingSource, Mode, Reread};
use crate::exit::ExitCode;
use crate::failover::cli::{FailoverArgs, act};
use crate::failover::config::Config as FailoverConfig;
use crate::failover::daemon::Mode as FailoverMode;
use crate::log;
use crate::out;
use crate::sersync::detach::{self, Detached};
use crate::sersync::{Flags, SersyncArgs};

pub(super) fn configured(file: &Path) -> ExitCode {
    match Config::load(file) {
        Ok(config) => {
            let mode = Mode { state: true, missing: MissingSource::IsAwaited, ..Mode::default() };
            run(&config, mode, Some(&|| Config::load(file)))
        }
        Err(errors) => refuse(&errors),
    }
}

pub(super) fn mirror(mut args: MirrorArgs) -> ExitCode {
    args.socket = args.socket.or_else(cli::socket_of_environment);
    match Config::for_mirror(&args.source, &args.targets, &args.overrides()) {
        Ok(config) if args.dry_run => rehearse(&config),
        Ok(config) => {
            let mode = Mode {
                once: args.once,
                any_socket: args.socket.is_none(),
                state: false,
                ends_with_terminal: std::io::IsTerminal::is_terminal(&std::io::stderr()),
                ..Mode::default()
            };
            run(&config, mode, None)
        }
        Err(errors) => refuse(&errors),
    }
}

#[cfg(feature = "feed")]
pub(super) fn follow(mut args: FollowArgs) -> ExitCode {
    let any_socket = args.socket.is_none();
    args.socket = args.socket.or_else(cli::socket_of_environment);
    match Config::for_follow(&args.feed, &args.upstream, &args.directory, args.given()) {
        Ok(config) => {
            let ends_with_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            run(&config, Mode { any_socket, state: true, ends_with_terminal, ..Mode::default() }, None)
        }
        Err(errors) => refuse(&errors),
    }
}

pub(super) fn failover(args: FailoverArgs) -> ExitCode {
    if let Some(action) = &args.action {
        let (outcome, code) = act(action);
        return match outcome {
            Ok(text) if text.is_empty() => code,
            Ok(text) => out::print(format_args!("{text}\n"), code),
            Err(text) => {
                out::error(text);
                code
            }
        };
    }
    let config = match FailoverConfig::load(&args.config()) {
        Ok(config) => config,
        Err(errors) => return refuse(&errors),
    };
    log::begin(config.log());
    match crate::failover::daemon::run(&config, FailoverMode { once: args.once, dry_run: args.dry_run }) {
        Ok(code) => code,
        Err(error) => {
            fail(&error, None);
            error.exit_code()
        }
    }
}

pub(super) fn sersync(args: &SersyncArgs) -> ExitCode {
    let loaded = match crate::sersync::load(&args.file, &Flags::from(args)) {
        Ok(loaded) => loaded,
        Err(errors) => return refuse(&errors),
    };
    if args.detach {
        let log = detach::log_path(&loaded.config.daemon.state_dir, &args.file);
        match detach::detach(&log) {
            Ok(Detached::Run) => {}
            Ok(Detached::Leave(code)) => return code,
            Err(error) => {
                out::error(format_args!("cannot detach: {error}"));
                return ExitCode::Unavailable;
            }
        }
    }
    let _lock = match detach::Lock::take(&args.file) {
        Ok(lock) => lock,
        Err(error) => {
            fail(&error, None);
            return match error {
                detach::LockError::Taken { .. } => ExitCode::Config,
                detach::LockError::File { .. } => ExitCode::NotPermitted,
            };
        }
    };
    log::begin(loaded.config.daemon.log);
    for note in &loaded.notes {
        tracing::info!(line = note.line, "{}: {}", args.file.display(), note.text);
    }
    let mode =
        Mode { state: true, missing: MissingSource::IsAwaited, any_socket: true, ready: Some(detach::ready), ..Mode::default() };
    let reread = || crate::sersync::load(&args.file, &Flags::from(args)).map(|loaded| loaded.config);
    serve(&loaded.config, mode, Some(&reread))
}

fn run(config: &Config, mode: Mode, reread: Option<Reread<'_>>) -> ExitCode {
    log::begin(config.daemon.log);
    serve(config, mode, reread)
}

fn serve(config: &Config, mode: Mode, reread: Option<Reread<'_>>) -> ExitCode {
    for text in config.others_can_change().into_iter().chain(config.set_id_changes_hands()) {
        tracing::warn!("{text}");
    }
    match daemon::run(config, mode, reread) {
        Ok(code) => code,
        Err(error) => {
            fail(&error, error.help());
            error.exit_code()
        }
    }
}

fn rehearse(config: &Config) -> ExitCode {
    let mut printed = ExitCode::Done;
    let code = crate::verify::rehearse(config, &mut |line| match line {
        Ok(text) if printed == ExitCode::Done => printed = out::print(text, printed),
        Ok(_) => {}
        Err(text) => out::error(text),
    });
    match printed {
        ExitCode::Done => out::print("nothing was changed\n", code),
        failed => failed,
    }
}
