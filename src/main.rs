//! The `fansync` command: parses, calls the library, maps the result to an exit code.

#![deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic where the output cannot be written")]

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode as ProcessExit;
use std::time::{Duration, Instant};

use fansync::cli::{self, CheckArgs, Command, FlushArgs, MirrorArgs, StatusArgs, SteerArgs};
use fansync::config::{Config, ConfigErrors, Written};
use fansync::control::{self, Reply, Request, Steer};
use fansync::daemon::{self, MissingSource, Mode, Reread};
use fansync::error::chain;
use fansync::events::{self, EventsArgs, Followed};
use fansync::exit::ExitCode;
use fansync::explain::{self, ExplainArgs};
use fansync::failover::cli::{FailoverArgs, act};
use fansync::failover::config::Config as FailoverConfig;
use fansync::failover::daemon::Mode as FailoverMode;
use fansync::import::Program;
use fansync::log;
use fansync::manual;
use fansync::out;
use fansync::sersync::detach::{self, Detached};
use fansync::sersync::{Flags, SersyncArgs};
use fansync::verify::cli::{self as verify, Failed, VerifyArgs};

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
    let code = match cli.command {
        Command::Mirror(args) => mirror(args),
        Command::Run(args) => {
            let file = args.config();
            match Config::load(&file) {
                Ok(config) => run(
                    &config,
                    Mode { state: true, missing: MissingSource::IsAwaited, ..Mode::default() },
                    Some(&|| Config::load(&file)),
                ),
                Err(errors) => refuse(&errors),
            }
        }
        Command::Sersync(args) => sersync(&args),
        Command::Import(args) => match fansync::import::toml(&args) {
            Ok(text) => print(Ok::<_, std::convert::Infallible>(text)),
            Err(errors) => refuse(&errors),
        },
        Command::Check(args) => check_file(&args),
        Command::Status(args) if args.watch => socket(args.socket).map_or_else(|code| code, |path| watch(&path)),
        Command::Status(args) => status(args),
        Command::Flush(args) => flush(&args),
        Command::Verify(args) => verify(&args),
        Command::Explain(args) => explain(args),
        Command::Events(args) => events(args),
        Command::Pause(args) => steer(args, Steer::Pause),
        Command::Resume(args) => {
            let what = Steer::Resume { accept_source: args.accept_source, accept_deletes: args.accept_deletes };
            steer(args.which, what)
        }
        Command::Retry(args) => steer(args, Steer::Retry),
        Command::Failover(args) => failover(args),
        Command::Completions(args) => out::write(&manual::completions(args.shell), ExitCode::Done),
        Command::Man(args) => man(&args.dir),
    };
    log::finish();
    code.into()
}

fn mirror(mut args: MirrorArgs) -> ExitCode {
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

fn man(dir: &std::path::Path) -> ExitCode {
    match manual::write(dir) {
        Ok(()) => ExitCode::Done,
        Err(error) => {
            fail(&error, None);
            error.exit_code()
        }
    }
}

fn failover(args: FailoverArgs) -> ExitCode {
    if let Some(action) = &args.action {
        let (said, code) = act(action);
        return match said {
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
    match fansync::failover::daemon::run(&config, FailoverMode { once: args.once, dry_run: args.dry_run }) {
        Ok(code) => code,
        Err(error) => {
            fail(&error, None);
            error.exit_code()
        }
    }
}

fn check_file(args: &CheckArgs) -> ExitCode {
    let file = args.config();
    if let Some(program) = Program::of(&file) {
        return match program.load(&file, &Flags::default(), false) {
            Ok(loaded) => {
                for note in &loaded.notes {
                    out::note(format_args!("{}:{}: {}", file.display(), note.line, note.text));
                }
                for text in loaded.unseen() {
                    out::note(format_args!("look at the target: {text}"));
                }
                check(&loaded.config, &Written::default(), args)
            }
            Err(errors) => refuse(&errors),
        };
    }
    if FailoverConfig::is_one(&file) {
        return check_failover(&file, args);
    }
    match Config::load_written(&file) {
        Ok((config, written)) => check(&config, &written, args),
        Err(errors) => refuse(&errors),
    }
}

fn check_failover(file: &std::path::Path, args: &CheckArgs) -> ExitCode {
    if args.effective {
        out::error("--effective is for a configuration with a [[mirror]]");
        return ExitCode::Usage;
    }
    match FailoverConfig::load(file) {
        Ok(config) => {
            let warnings: Vec<String> = config.server.iter().flat_map(fansync::failover::mirror::warnings).collect();
            warnings.iter().for_each(out::warning);
            valid(warnings.len(), args.strict)
        }
        Err(errors) => refuse(&errors),
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

fn sersync(args: &SersyncArgs) -> ExitCode {
    let loaded = match fansync::sersync::load(&args.file, &Flags::from(args)) {
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
    let reread = || fansync::sersync::load(&args.file, &Flags::from(args)).map(|loaded| loaded.config);
    serve(&loaded.config, mode, Some(&reread))
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

fn check(config: &Config, written: &Written, args: &CheckArgs) -> ExitCode {
    let warnings = config.warnings();
    warnings.iter().for_each(|warning| out::cautioned(written.cite(warning)));
    let shown = || if args.show_secrets { config.to_toml() } else { config.without_secrets().to_toml() };
    match args.effective.then(shown) {
        None if args.connect => connect(config, warnings.len(), args.strict),
        None => valid(warnings.len(), args.strict),
        Some(Ok(text)) if args.strict && !warnings.is_empty() => out::print(text, ExitCode::Config),
        Some(Ok(text)) => out::print(text, ExitCode::Done),
        Some(Err(error)) => {
            fail(&error, None);
            ExitCode::Bug
        }
    }
}

/// Tries each target.
fn connect(config: &Config, warnings: usize, strict: bool) -> ExitCode {
    let (mut code, mut warnings) = (ExitCode::Done, warnings);
    fansync::connect::try_all(config, &mut |tried| {
        // What is worse has the larger number: a path, a target, the configuration.
        if tried.exit_code().code() > code.code() {
            code = tried.exit_code();
        }
        warnings += tried.warnings();
        code = out::print(tried.human(), code);
    });
    match code {
        ExitCode::Done => valid(warnings, strict),
        code => code,
    }
}

/// The end of a check that found no errors.
fn valid(warnings: usize, strict: bool) -> ExitCode {
    match warnings {
        0 => out::print("the configuration is valid\n", ExitCode::Done),
        n if strict => {
            let number = if n == 1 { "the warning".to_owned() } else { format!("the {n} warnings") };
            out::error(format_args!("--strict takes {number} above for an error"));
            ExitCode::Config
        }
        1 => out::print("the configuration is valid, with 1 warning\n", ExitCode::Done),
        n => out::print(format_args!("the configuration is valid, with {n} warnings\n"), ExitCode::Done),
    }
}

/// The socket that the command line names, or the environment, or the only one that there is.
fn socket(given: Option<PathBuf>) -> Result<PathBuf, ExitCode> {
    given.map_or_else(usual_socket, Ok).map_err(|several| {
        out::error(several);
        ExitCode::Unavailable
    })
}

/// The same for a command that has none of its own.
fn usual_socket() -> Result<PathBuf, control::find::Several> {
    cli::socket_of_environment().map_or_else(control::find::socket, Ok)
}

fn ask(given: Option<PathBuf>, request: &Request, patience: Duration) -> Result<Reply, ExitCode> {
    answered(control::ask(&socket(given)?, request, patience))
}

/// The daemon's answer, unless it is that the request cannot be served.
fn answered(asked: Result<Reply, control::Error>) -> Result<Reply, ExitCode> {
    match asked {
        Ok(Reply::Error { message }) => {
            out::error(message);
            Err(ExitCode::Usage)
        }
        Ok(Reply::Denied { message }) => {
            out::error(message);
            Err(ExitCode::NotPermitted)
        }
        Ok(reply) => Ok(reply),
        Err(error) => {
            fail(&error, error.help().map(Into::into));
            let denied = error.source().and_then(|e| e.downcast_ref::<std::io::Error>());
            Err(match denied.map(std::io::Error::kind) {
                Some(std::io::ErrorKind::PermissionDenied) => ExitCode::NotPermitted,
                _ => ExitCode::Unavailable,
            })
        }
    }
}

fn rehearse(config: &Config) -> ExitCode {
    let mut printed = ExitCode::Done;
    let code = fansync::verify::rehearse(config, &mut |told| match told {
        Ok(text) if printed == ExitCode::Done => printed = out::print(text, printed),
        Ok(_) => {}
        Err(text) => out::error(text),
    });
    match printed {
        ExitCode::Done => out::print("nothing was changed\n", code),
        failed => failed,
    }
}

fn explain(args: ExplainArgs) -> ExitCode {
    let paths = match explain::meanings(&args.path) {
        Ok(paths) => paths,
        Err(error) => {
            out::error(format_args!("cannot tell the working directory: {error}; give an absolute path"));
            return ExitCode::Usage;
        }
    };
    match ask(args.socket, &Request::Explain { paths }, Duration::from_secs(10)) {
        Ok(Reply::Explain(told)) => {
            let code = if told.mirrors.is_empty() { ExitCode::Differences } else { ExitCode::Done };
            let code = match args.json {
                true => out::print(format_args!("{}\n", serde_json::json!(told)), code),
                false => out::print(told.human(), code),
            };
            if told.mirrors.is_empty() {
                out::error(explain::nowhere(&std::path::absolute(&args.path).unwrap_or(args.path), &told.elsewhere));
            }
            code
        }
        Ok(_) => ExitCode::Bug,
        Err(code) => code,
    }
}

fn events(mut args: EventsArgs) -> ExitCode {
    let path = match socket(args.socket.take()) {
        Ok(path) => path,
        Err(code) => return code,
    };
    match events::follow(&path, &args, &mut out::Patient(std::io::stdout().lock())) {
        Ok(Followed::Told) => ExitCode::Done,
        Ok(Followed::NotWritten(why)) => out::written(Err(why), ExitCode::Done),
        Ok(Followed::Ended) => {
            out::error("the daemon has ended");
            ExitCode::Unavailable
        }
        Ok(Followed::Refused(reply)) => answered(Ok(*reply)).map_or_else(|code| code, |_| ExitCode::Bug),
        Err(error) => answered(Err(error)).map_or_else(|code| code, |_| ExitCode::Bug),
    }
}

fn verify(args: &VerifyArgs) -> ExitCode {
    let reply = match args.run(usual_socket) {
        Ok(reply) => answered(Ok(reply)),
        Err(Failed::Ask(error)) => answered(Err(error)),
        Err(Failed::Config(errors)) => Err(refuse(&errors)),
        Err(failed) => {
            out::error(&failed);
            Err(failed.exit_code())
        }
    };
    match reply {
        Ok(Reply::Verify { reports }) => {
            let code = verify::exit_code(&reports);
            match args.json {
                true => out::print(format_args!("{}\n", serde_json::json!({ "reports": reports })), code),
                false => out::print(verify::human(&reports), code),
            }
        }
        Ok(_) => ExitCode::Bug,
        Err(code) => code,
    }
}

fn watch(socket: &std::path::Path) -> ExitCode {
    match fansync::watch::run(socket) {
        Ok(()) => ExitCode::Done,
        Err(error) => {
            fail(&error, None);
            error.exit_code()
        }
    }
}

fn status(args: StatusArgs) -> ExitCode {
    let mut snapshot = match ask(args.socket, &Request::Status, Duration::from_secs(10)) {
        Ok(Reply::Status(snapshot)) => *snapshot,
        Ok(_) => return ExitCode::Bug,
        Err(code) => return code,
    };
    if let Some(name) = &args.mirror {
        let known: Vec<String> = snapshot.mirrors.iter().map(|m| m.name.clone()).collect();
        snapshot.mirrors.retain(|m| m.name == *name);
        if snapshot.mirrors.is_empty() {
            out::error(format_args!("no mirror {name}; there are: {}", known.join(", ")));
            return ExitCode::Usage;
        }
    }
    // Of what is left; and an older daemon has not judged it.
    let snapshot = snapshot.judged();
    let code = if args.exit_code { snapshot.health().exit_code() } else { ExitCode::Done };
    match (args.json, args.brief) {
        (true, _) => match serde_json::to_string(&snapshot) {
            Ok(text) => out::print(format_args!("{text}\n"), code),
            Err(_) => ExitCode::Bug,
        },
        (false, true) => out::print(format_args!("{}\n", snapshot.verdict), code),
        (false, false) => out::print(snapshot.human(), code),
    }
}

/// How often it is asked whether a daemon has come up.
const DAEMON_POLL: Duration = Duration::from_millis(100);

fn flush(args: &FlushArgs) -> ExitCode {
    let deadline = Instant::now() + args.timeout;
    let begun = Instant::now();
    let mut mentioned = false;
    let asked = loop {
        let path = match socket(args.socket.clone()) {
            Ok(path) => path,
            Err(code) => return code,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = left.as_millis() as u64;
        let request = Request::Flush { mirror: args.mirror.clone(), target: args.target.clone(), timeout_ms };
        match control::ask(&path, &request, left) {
            // It may be starting, as in `fansync mirror … & fansync flush`.
            Err(error) if error.is_nobody() && !left.is_zero() => {
                if begun.elapsed() > Duration::from_secs(1) && !std::mem::replace(&mut mentioned, true) {
                    out::note(format_args!("{error}; waiting for one, at most {:?}", args.timeout));
                }
                std::thread::sleep(DAEMON_POLL.min(left));
            }
            asked => break answered(asked),
        }
    };
    match asked {
        Ok(Reply::Flush(flushed)) => {
            for w in &flushed.waiting {
                out::error(format_args!("{} does not hold every change: {}", w.target, w.why));
            }
            match flushed.waiting.as_slice() {
                [] => ExitCode::Done,
                some if some.iter().any(|w| w.unreachable) => ExitCode::TargetUnreachable,
                _ => ExitCode::Differences,
            }
        }
        Ok(_) => ExitCode::Bug,
        Err(code) => code,
    }
}

fn steer(args: SteerArgs, what: Steer) -> ExitCode {
    let request = Request::Steer { what, mirror: args.mirror, target: args.target };
    match ask(args.socket, &request, Duration::from_secs(10)) {
        Ok(Reply::Steer { targets }) => {
            let all_done = targets.iter().all(|t| t.done);
            let mut code = if all_done { ExitCode::Done } else { ExitCode::Differences };
            for t in &targets {
                let line = format!("{}: {}", t.target, t.said);
                match t.done {
                    true => code = out::print(line + "\n", code),
                    false => out::error(line),
                }
            }
            code
        }
        Ok(_) => ExitCode::Bug,
        Err(code) => code,
    }
}
