//! The `fansync` command: parses, calls the library, maps the result to an exit code.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode as ProcessExit;
use std::time::Duration;

use fansync::cli::{self, CheckArgs, Command, SteerArgs};
use fansync::config::{Config, ConfigErrors, Daemon, LogConfig, LogFormat};
use fansync::control::{self, Reply, Request, Steer};
use fansync::daemon::{self, Mode, Reread};
use fansync::events::{self, EventsArgs, Followed};
use fansync::exit::ExitCode;
use fansync::explain::{self, ExplainArgs};
use fansync::failover::cli::{FailoverArgs, act};
use fansync::failover::config::Config as FailoverConfig;
use fansync::failover::daemon::Mode as FailoverMode;
use fansync::manual;
use fansync::sersync::detach::{self, Detached};
use fansync::sersync::{Flags, SersyncArgs};
use fansync::verify::cli::{self as verify, Failed, VerifyArgs};

fn main() -> ProcessExit {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err((error, code)) => {
            let _ = error.print();
            return code.into();
        }
    };
    let code = match cli.command {
        Command::Mirror(args) => match Config::for_mirror(&args.source, &args.targets, &args.overrides()) {
            Ok(config) if args.dry_run => rehearse(&config),
            Ok(config) => {
                let mode = Mode { once: args.once, any_socket: args.socket.is_none(), state: false, ..Mode::default() };
                run(&config, mode, None)
            }
            Err(errors) => refuse(&errors),
        },
        Command::Run(args) => match Config::load(&args.config) {
            Ok(config) => run(&config, Mode { state: true, ..Mode::default() }, Some(&|| Config::load(&args.config))),
            Err(errors) => refuse(&errors),
        },
        Command::Sersync(args) => sersync(&args),
        Command::Import(args) => match fansync::sersync::load(&args.file, &Flags::from(&args)) {
            Ok(loaded) => print(fansync::sersync::toml(&loaded)),
            Err(errors) => refuse(&errors),
        },
        Command::Check(args) if begins_as_xml(&args.config) => match fansync::sersync::load(&args.config, &Flags::default()) {
            Ok(loaded) => {
                for note in &loaded.notes {
                    eprintln!("{}:{}: {}", args.config.display(), note.line, note.text);
                }
                for text in loaded.unseen() {
                    eprintln!("look at the target: {text}");
                }
                check(&loaded.config, args.effective)
            }
            Err(errors) => refuse(&errors),
        },
        Command::Check(args) if FailoverConfig::is_one(&args.config) => check_failover(&args),
        Command::Check(args) => match Config::load(&args.config) {
            Ok(config) => check(&config, args.effective),
            Err(errors) => refuse(&errors),
        },
        Command::Status(args) if args.watch => watch(&socket(args.socket)),
        Command::Status(args) => status(args.socket, args.json),
        Command::Flush(args) => {
            let timeout_ms = args.timeout.as_millis() as u64;
            flush(args.socket, Request::Flush { mirror: args.mirror, target: args.target, timeout_ms }, args.timeout)
        }
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
        Command::Completions(args) => completions(args.shell),
        Command::Man(args) => man(&args.dir),
    };
    code.into()
}

fn completions(shell: clap_complete::Shell) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(&manual::completions(shell)) {
        Ok(()) => ExitCode::Done,
        // Nobody reads on, as in `fansync completions bash | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::Done,
        Err(error) => {
            eprintln!("error: cannot write to standard output: {error}");
            ExitCode::Unavailable
        }
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
        match said {
            Ok(text) if text.is_empty() => {}
            Ok(text) => println!("{text}"),
            Err(text) => eprintln!("error: {text}"),
        }
        return code;
    }
    let config = match FailoverConfig::load(&args.config.unwrap_or_default()) {
        Ok(config) => config,
        Err(errors) => return refuse(&errors),
    };
    log_to_stderr(config.log());
    match fansync::failover::daemon::run(&config, FailoverMode { once: args.once, dry_run: args.dry_run }) {
        Ok(code) => code,
        Err(error) => {
            fail(&error, None);
            error.exit_code()
        }
    }
}

fn check_failover(args: &CheckArgs) -> ExitCode {
    if args.effective {
        eprintln!("error: --effective is for a configuration with a [[mirror]]");
        return ExitCode::Usage;
    }
    match FailoverConfig::load(&args.config) {
        Ok(config) => {
            for warning in config.server.iter().flat_map(fansync::failover::mirror::warnings) {
                eprintln!("warning: {warning}");
            }
            println!("the configuration is valid");
            ExitCode::Done
        }
        Err(errors) => refuse(&errors),
    }
}

fn begins_as_xml(path: &std::path::Path) -> bool {
    use std::io::Read;
    let mut start = Vec::new();
    std::fs::File::open(path).is_ok_and(|f| f.take(4096).read_to_end(&mut start).is_ok()) && fansync::sersync::is_xml(&start)
}

fn print(text: Result<String, impl Error>) -> ExitCode {
    match text {
        Ok(text) => {
            print!("{text}");
            ExitCode::Done
        }
        Err(error) => {
            eprintln!("error: {error}");
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
                eprintln!("error: cannot detach: {error}");
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
    log_to_stderr(loaded.config.daemon.log);
    for note in &loaded.notes {
        tracing::info!(line = note.line, "{}: {}", args.file.display(), note.text);
    }
    let mode = Mode { state: true, any_socket: true, ready: Some(detach::ready), ..Mode::default() };
    let reread = || fansync::sersync::load(&args.file, &Flags::from(args)).map(|loaded| loaded.config);
    serve(&loaded.config, mode, Some(&reread))
}

fn refuse(errors: &ConfigErrors) -> ExitCode {
    eprintln!("{errors}");
    ExitCode::Config
}

fn fail(error: &dyn Error, help: Option<String>) {
    eprint!("error: {error}");
    let mut next = error.source();
    while let Some(cause) = next {
        eprint!(": {cause}");
        next = cause.source();
    }
    eprintln!();
    if let Some(help) = help {
        eprintln!("help:  {help}");
    }
}

fn log_to_stderr(log: LogConfig) {
    let level = tracing::Level::from(log.level);
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    match log.format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => {
            builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
        }
    }
}

fn run(config: &Config, mode: Mode, reread: Option<Reread<'_>>) -> ExitCode {
    log_to_stderr(config.daemon.log);
    serve(config, mode, reread)
}

fn serve(config: &Config, mode: Mode, reread: Option<Reread<'_>>) -> ExitCode {
    match daemon::run(config, mode, reread) {
        Ok(code) => code,
        Err(error) => {
            fail(&error, error.help());
            error.exit_code()
        }
    }
}

fn check(config: &Config, effective: bool) -> ExitCode {
    for warning in config.warnings() {
        eprintln!("warning: {warning}");
    }
    if effective {
        match config.to_toml() {
            Ok(text) => print!("{text}"),
            Err(error) => {
                fail(&error, None);
                return ExitCode::Bug;
            }
        }
    } else {
        println!("the configuration is valid");
    }
    ExitCode::Done
}

fn socket(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| daemon::find_socket(&Daemon::default().status_socket))
}

fn ask(path: &std::path::Path, request: &Request, patience: Duration) -> Result<Reply, ExitCode> {
    answered(control::ask(path, request, patience))
}

/// The daemon's answer, unless it is that the request cannot be served.
fn answered(asked: Result<Reply, control::Error>) -> Result<Reply, ExitCode> {
    match asked {
        Ok(Reply::Error { message }) => {
            eprintln!("error: {message}");
            Err(ExitCode::Usage)
        }
        Ok(reply) => Ok(reply),
        Err(error) => {
            fail(&error, None);
            let denied = error.source().and_then(|e| e.downcast_ref::<std::io::Error>());
            Err(match denied.map(std::io::Error::kind) {
                Some(std::io::ErrorKind::PermissionDenied) => ExitCode::NotPermitted,
                _ => ExitCode::Unavailable,
            })
        }
    }
}

fn rehearse(config: &Config) -> ExitCode {
    let code = fansync::verify::rehearse(config, &mut |told| match told {
        Ok(text) => print!("{text}"),
        Err(text) => eprintln!("error: {text}"),
    });
    println!("nothing was changed");
    code
}

fn explain(args: ExplainArgs) -> ExitCode {
    let paths = match explain::meanings(&args.path) {
        Ok(paths) => paths,
        Err(error) => {
            eprintln!("error: cannot tell the working directory: {error}; give an absolute path");
            return ExitCode::Usage;
        }
    };
    match ask(&socket(args.socket), &Request::Explain { paths }, Duration::from_secs(10)) {
        Ok(Reply::Explain(told)) => {
            match args.json {
                true => println!("{}", serde_json::json!(told)),
                false => print!("{}", told.human()),
            }
            if told.mirrors.is_empty() {
                eprintln!("error: {}", explain::nowhere(&args.path, &told.elsewhere));
                return ExitCode::Differences;
            }
            ExitCode::Done
        }
        Ok(_) => ExitCode::Bug,
        Err(code) => code,
    }
}

fn events(mut args: EventsArgs) -> ExitCode {
    let path = socket(args.socket.take());
    match events::follow(&path, &args, &mut std::io::stdout().lock()) {
        Ok(Followed::Told) => ExitCode::Done,
        Ok(Followed::Ended) => {
            eprintln!("error: the daemon has ended");
            ExitCode::Unavailable
        }
        Ok(Followed::Refused(reply)) => answered(Ok(*reply)).map_or_else(|code| code, |_| ExitCode::Bug),
        Err(error) => answered(Err(error)).map_or_else(|code| code, |_| ExitCode::Bug),
    }
}

fn verify(args: &VerifyArgs) -> ExitCode {
    let reply = match args.run(|| socket(None)) {
        Ok(reply) => answered(Ok(reply)),
        Err(Failed::Ask(error)) => answered(Err(error)),
        Err(Failed::Config(errors)) => Err(refuse(&errors)),
        Err(failed) => {
            eprintln!("error: {failed}");
            Err(failed.exit_code())
        }
    };
    match reply {
        Ok(Reply::Verify { reports }) => {
            match args.json {
                true => println!("{}", serde_json::json!({ "reports": reports })),
                false => print!("{}", verify::human(&reports)),
            }
            verify::exit_code(&reports)
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

fn status(path: Option<PathBuf>, json: bool) -> ExitCode {
    match ask(&socket(path), &Request::Status, Duration::from_secs(10)) {
        Ok(Reply::Status(snapshot)) if json => match serde_json::to_string(&snapshot) {
            Ok(text) => {
                println!("{text}");
                ExitCode::Done
            }
            Err(_) => ExitCode::Bug,
        },
        Ok(Reply::Status(snapshot)) => {
            print!("{}", snapshot.human());
            ExitCode::Done
        }
        Ok(_) => ExitCode::Bug,
        Err(code) => code,
    }
}

fn flush(path: Option<PathBuf>, request: Request, timeout: Duration) -> ExitCode {
    match ask(&socket(path), &request, timeout) {
        Ok(Reply::Flush(flushed)) => {
            for w in &flushed.waiting {
                eprintln!("error: {} does not hold every change: {}", w.target, w.why);
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
    match ask(&socket(args.socket), &request, Duration::from_secs(10)) {
        Ok(Reply::Steer { targets }) => {
            for t in &targets {
                match t.done {
                    true => println!("{}: {}", t.target, t.said),
                    false => eprintln!("error: {}: {}", t.target, t.said),
                }
            }
            if targets.iter().all(|t| t.done) { ExitCode::Done } else { ExitCode::Differences }
        }
        Ok(_) => ExitCode::Bug,
        Err(code) => code,
    }
}
