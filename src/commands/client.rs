//! The subcommands that ask a running daemon.

mod followers;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{fail, refuse};
use crate::cli::{self, FlushArgs, Named, ReloadArgs, StatusArgs, SteerArgs};
use crate::config::Whom;
use crate::control::{self, Reply, Request, Steer};
use crate::events::{self, EventsArgs, Followed};
use crate::exit::ExitCode;
use crate::explain::{self, ExplainArgs};
use crate::out;
use crate::sys::patient::Patient;
use crate::verify::cli::{self as verify, Failed, VerifyArgs};

/// The socket that the command line names, or the environment, or the only one that there is.
pub(super) fn socket(whom: &Whom) -> Result<PathBuf, ExitCode> {
    let named = whom.named().map_err(|errors| refuse(&errors))?;
    named.map_or_else(usual_socket, Ok).map_err(|several| {
        out::error(several);
        ExitCode::Unavailable
    })
}

/// The same for a command that has none of its own.
fn usual_socket() -> Result<PathBuf, control::find::Several> {
    cli::socket_of_environment().map_or_else(control::find::socket, Ok)
}

fn ask(whom: &Whom, request: &Request, patience: Duration) -> Result<Reply, ExitCode> {
    answered(control::ask(&socket(whom)?, request, patience))
}

/// The daemon's answer, unless it is that the request cannot be served.
fn answered(answer: Result<Reply, control::Error>) -> Result<Reply, ExitCode> {
    match answer {
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

pub(super) fn explain(args: ExplainArgs) -> ExitCode {
    let paths = match explain::meanings(&args.path) {
        Ok(paths) => paths,
        Err(error) => {
            out::error(format_args!("cannot determine the working directory: {error}; give an absolute path"));
            return ExitCode::Usage;
        }
    };
    match ask(&args.whom, &Request::Explain { paths }, Duration::from_secs(10)) {
        Ok(Reply::Explain(explained)) => {
            let code = if explained.mirrors.is_empty() { ExitCode::Differences } else { ExitCode::Done };
            let code = match args.json {
                true => out::print(format_args!("{}\n", serde_json::json!(explained)), code),
                false => out::print(explained.human(), code),
            };
            if explained.mirrors.is_empty() {
                out::error(explain::nowhere(&std::path::absolute(&args.path).unwrap_or(args.path), &explained.elsewhere));
            }
            code
        }
        Ok(_) => ExitCode::Bug,
        Err(code) => code,
    }
}

pub(super) fn events(args: EventsArgs) -> ExitCode {
    let path = match socket(&args.whom) {
        Ok(path) => path,
        Err(code) => return code,
    };
    match events::follow(&path, &args, &mut Patient(std::io::stdout().lock())) {
        Ok(Followed::Printed) => ExitCode::Done,
        Ok(Followed::NotWritten(why)) => out::written(Err(why), ExitCode::Done),
        Ok(Followed::Ended) => {
            out::error("the daemon has ended");
            ExitCode::Unavailable
        }
        Ok(Followed::Refused(reply)) => answered(Ok(*reply)).map_or_else(|code| code, |_| ExitCode::Bug),
        Err(error) => answered(Err(error)).map_or_else(|code| code, |_| ExitCode::Bug),
    }
}

pub(super) fn verify(args: &VerifyArgs) -> ExitCode {
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

pub(super) fn watch(args: &StatusArgs) -> ExitCode {
    let sockets = match everyone(args) {
        Some(all) => all,
        None => match socket(&args.whom) {
            Ok(path) => vec![path],
            Err(code) => return code,
        },
    };
    match crate::watch::run(&sockets) {
        Ok(()) => ExitCode::Done,
        Err(error) => {
            fail(&error, None);
            error.exit_code()
        }
    }
}

/// All daemons, where there are several and none is named.
fn everyone(args: &StatusArgs) -> Option<Vec<PathBuf>> {
    let any = args.whom == Whom::default() && cli::socket_of_environment().is_none();
    any.then(control::find::all).filter(|all| all.len() > 1)
}

pub(super) fn status(args: StatusArgs) -> ExitCode {
    let mut all = everyone(&args).unwrap_or_default();
    if let Some(name) = args.mirror.as_deref().filter(|_| all.len() > 1) {
        let having: Vec<PathBuf> = all.iter().filter(|path| mirrors(path).iter().any(|m| m.name == *name)).cloned().collect();
        // Where none has it, the usual one says which there are.
        all = if having.is_empty() { all[..1].to_vec() } else { having };
        if let [only] = all.as_slice() {
            return status_of(only, &args);
        }
    }
    if all.is_empty() {
        return socket(&args.whom).map_or_else(|code| code, |path| status_of(&path, &args));
    }
    let mut worst = ExitCode::Done;
    for (n, path) in all.iter().enumerate() {
        // As JSON, each has its socket as a field.
        if !args.json {
            let gap = if n > 0 && !args.brief { "\n" } else { "" };
            let printed = out::print(format_args!("{gap}{}:\n", path.display()), ExitCode::Done);
            if printed != ExitCode::Done {
                return printed;
            }
        }
        let code = status_of(path, &args);
        // By weight: nothing, a warning, what is critical, no answer.
        if code.code() > worst.code() {
            worst = code;
        }
    }
    worst
}

/// The mirrors of a daemon; none of one that does not answer.
fn mirrors(socket: &Path) -> Vec<crate::status::Mirror> {
    match control::ask(socket, &Request::Status, Duration::from_secs(2)) {
        Ok(Reply::Status(snapshot)) => snapshot.mirrors,
        _ => Vec::new(),
    }
}

/// The names that a shell completes a word by, one a line.
pub(super) fn names(kind: Named) -> ExitCode {
    let sockets = cli::socket_of_environment().map_or_else(control::find::all, |socket| vec![socket]);
    let mut names = BTreeSet::new();
    for mirror in sockets.iter().flat_map(|socket| mirrors(socket)) {
        match kind {
            Named::Mirrors => names.extend([mirror.name]),
            Named::Targets => names.extend(mirror.targets.into_iter().map(|target| target.name)),
        }
    }
    let lines: String = names.into_iter().map(|name| name + "\n").collect();
    out::print(lines, ExitCode::Done)
}

/// The same of the daemon at a socket.
fn status_of(path: &Path, args: &StatusArgs) -> ExitCode {
    let mut snapshot = match answered(control::ask(path, &Request::Status, Duration::from_secs(10))) {
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
    snapshot.socket = path.display().to_string();
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

/// How often it is checked whether a daemon has come up.
const DAEMON_POLL: Duration = Duration::from_millis(100);

pub(super) fn flush(args: &FlushArgs) -> ExitCode {
    let deadline = Instant::now() + args.timeout;
    let begun = Instant::now();
    let mut mentioned = false;
    let answer = loop {
        let path = match socket(&args.whom) {
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
            answer => break answered(answer),
        }
    };
    let answer = match (answer, &args.followers) {
        (Ok(Reply::Flush(flushed)), Some(which)) if flushed.waiting.is_empty() => {
            followers::wait(args, which, deadline).map(Reply::Flush)
        }
        (answer, _) => answer,
    };
    match answer {
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

/// How long a reload may take: mirrors that changed end as at a stop.
const RELOAD: Duration = Duration::from_secs(600);

pub(super) fn reload(args: &ReloadArgs) -> ExitCode {
    match ask(&args.whom, &Request::Reload, RELOAD) {
        Ok(Reply::Reload(reloaded)) if reloaded.troubles.is_empty() => {
            let later = match reloaded.later.as_slice() {
                [] => String::new(),
                keys => format!("; in effect from the next start on: {}", keys.join(", ")),
            };
            out::print(format_args!("the configuration is in force{later}\n"), ExitCode::Done)
        }
        Ok(Reply::Reload(reloaded)) => {
            reloaded.troubles.iter().for_each(out::error);
            ExitCode::Config
        }
        Ok(_) => ExitCode::Bug,
        Err(code) => code,
    }
}

pub(super) fn steer(args: SteerArgs, what: Steer) -> ExitCode {
    let request = Request::Steer { what, mirror: args.mirror, target: args.target };
    match ask(&args.whom, &request, Duration::from_secs(10)) {
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
