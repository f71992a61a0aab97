//! `fansync verify`: sends the request to the daemon, or compares by itself where none runs.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{alone, bar, failed, verify};
#[cfg(feature = "feed")]
use super::{follower_alone, verify_followed};
use crate::config::{Config, ConfigErrors};
use crate::control::{self, Reply, Request};
use crate::exit::ExitCode;
use crate::status::verify::{Options, Report};
use crate::text::{plural, span};

/// Longer than any comparison takes.
const PATIENCE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The end of `fansync verify --help`.
pub(crate) const HELP: &str = "\
Compares as the mirror's own full pass does: type, mode, owner, times to the nanosecond, deletions, and what hard_links, xattrs and acls add; \
less what the filter and full_exclude leave out. A follower is compared with its upstream. What waits to be sent, or changes meanwhile, is counted and not reported. With --config, \
and no daemon running on that configuration's socket, it compares by itself, and what the daemon had still to send differs.

Examples:
  fansync verify
  fansync verify --mirror data --target backup --checksum
  fansync verify --repair
  fansync verify --config /etc/fansync/fansync.toml --json

Exit codes: 0 equal (or put right), 1 not equal, or not all could be compared, 64 usage, 69 no daemon answers, or rsync lacks something, \
75 target unreachable, 77 not permitted, 78 configuration.";

/// `fansync verify`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct VerifyArgs {
    /// Only the targets with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Option<String>,
    /// Only the mirror with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) mirror: Option<String>,
    /// Read files of equal size and times on both sides, too
    #[arg(long)]
    pub(crate) checksum: bool,
    /// Put right what differs, within max_delete; needs the running daemon
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// The configuration file: where the daemon's socket is, and what to compare when no daemon
    /// runs
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub(crate) config: Option<PathBuf>,
    /// The daemon's socket, if not the usual one or FANSYNC_SOCKET
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

/// Why there are no reports.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// No such mirror or target, says the configuration.
    #[error("{0}")]
    Unknown(String),
    /// `--repair` without a daemon.
    #[error(
        "--repair works through the running daemon, and none answers on {socket}; start it (its start compares everything), or make the \
         targets equal once with `fansync mirror --once`"
    )]
    NoDaemon {
        /// Its socket.
        socket: PathBuf,
    },
    /// The request failed, or was refused.
    #[error(transparent)]
    Ask(#[from] control::Error),
    /// It is not known which daemon gets the request.
    #[error(transparent)]
    Several(#[from] control::find::Several),
}

impl VerifyArgs {
    fn options(&self) -> Options {
        Options { checksum: self.checksum, repair: self.repair }
    }

    /// The request to the daemon.
    pub(crate) fn request(&self) -> Request {
        Request::Verify { mirror: self.mirror.clone(), target: self.target.clone(), options: self.options() }
    }

    /// Compares. `usual`: finds the daemon, if the command line does not say where it is.
    ///
    /// # Errors
    /// See [`Failed`].
    pub(crate) fn run(&self, usual: impl FnOnce() -> Result<PathBuf, control::find::Several>) -> Result<Reply, Failed> {
        let Some(file) = &self.config else {
            let socket = self.socket.clone().map_or_else(usual, Ok)?;
            return Ok(bar::of_daemon(&socket, || control::ask(&socket, &self.request(), PATIENCE))?);
        };
        let config = Config::load(file)?;
        let socket = &config.daemon.status_socket;
        match bar::of_daemon(socket, || control::ask(socket, &self.request(), PATIENCE)) {
            Err(error) if error.is_nobody() => {}
            other => return Ok(other?),
        }
        if self.repair {
            return Err(Failed::NoDaemon { socket: socket.clone() });
        }
        Ok(Reply::Verify { reports: self.alone(&config)? })
    }

    /// Without a daemon.
    fn alone(&self, config: &Config) -> Result<Vec<Report>, Failed> {
        let mut reports = Vec::new();
        for mirror in config.mirrors.iter().filter(|m| self.mirror.as_ref().is_none_or(|name| *name == m.name)) {
            for target in mirror.targets.iter().filter(|t| self.target.as_ref().is_none_or(|name| *name == t.name)) {
                let name = format!("{}/{}", mirror.name, target.name);
                #[cfg(feature = "feed")]
                if mirror.follow.is_some() {
                    let followed = follower_alone(mirror, target, &config.daemon.state_dir);
                    let verify = || verify_followed(&followed, None, self.options(), &|| true);
                    reports.push(bar::of_board(&name, &followed.board, verify));
                    continue;
                }
                let verify = |plan| verify(&plan, None, self.options(), &|| true);
                let compared = alone(mirror, target.clone(), Some(&config.daemon.state_dir)).map(|plan| {
                    let board = plan.board.clone();
                    bar::of_board(&name, &board, || verify(plan))
                });
                reports.push(compared.unwrap_or_else(|error| failed(name, &error)));
            }
        }
        let all = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".into());
        match reports.is_empty() {
            true => Err(Failed::Unknown(format!("the configuration has no target {}/{}", all(&self.mirror), all(&self.target)))),
            false => Ok(reports),
        }
    }
}

/// The reports for a terminal: a line for each target, and one for each path that differs.
pub(crate) fn human(reports: &[Report]) -> String {
    let mut out = String::new();
    for r in reports {
        let _ = write!(out, "{}: ", r.target);
        let _ = match r.differing() {
            0 if !r.error.is_empty() => write!(out, "not known"),
            0 => write!(out, "equal"),
            n => write!(out, "{} differ{}", plural(n, "path"), if n == 1 { "s" } else { "" }),
        };
        if r.repaired > 0 {
            let _ = write!(out, ", {} put right", r.repaired);
        }
        if r.entries > 0 {
            let how = if r.checksum { " by content" } else { "" };
            let _ = write!(out, "; {} compared{how} in {}", plural(r.entries, "entry"), span(r.seconds));
        }
        if r.unsettled > 0 {
            let _ = write!(out, "; {} more wait to be sent or changed meanwhile", r.unsettled);
        }
        if !r.error.is_empty() {
            let _ = write!(out, "; {}", r.error);
        }
        out.push('\n');
        for d in &r.differences {
            let _ = writeln!(out, "  {}: {}", d.path, d.why);
        }
        if r.more > 0 {
            let _ = writeln!(out, "  and {} more", r.more);
        }
    }
    out
}

/// What to leave with.
pub(crate) fn exit_code(reports: &[Report]) -> ExitCode {
    let any = |what: fn(&Report) -> bool| reports.iter().any(what);
    if any(|r| r.differing() > 0) {
        ExitCode::Differences
    } else if any(|r| r.unreachable) {
        ExitCode::TargetUnreachable
    } else if any(|r| r.unavailable) {
        ExitCode::Unavailable
    } else if any(|r| !r.error.is_empty()) {
        ExitCode::Differences
    } else {
        ExitCode::Done
    }
}

impl Failed {
    /// What to leave with, where it is no matter of the connection.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failed::Config(_) => ExitCode::Config,
            Failed::Unknown(_) => ExitCode::Usage,
            Failed::NoDaemon { .. } | Failed::Ask(_) | Failed::Several(_) => ExitCode::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Error;
    use super::*;
    use crate::status::verify::Difference;

    #[test]
    fn what_is_printed_and_returned() {
        let equal = Report { target: "m/a".into(), entries: 7, seconds: 0.5, unsettled: 2, ..Report::default() };
        let differs = Report {
            target: "m/b".into(),
            differences: vec![Difference { path: "d/\\x0a".into(), why: "size, times".into() }],
            more: 3,
            ..Report::default()
        };
        let away = failed("m/c".into(), &Error::Unreachable("refused".into()));
        let partial = failed("m/d".into(), &Error::Incomplete("denied".into()));
        let gone = failed("m/e".into(), &Error::engine());
        let text = human(&[equal.clone(), differs.clone(), away.clone()]);
        let want = "m/a: equal; 7 entries compared in 500ms; 2 more wait to be sent or changed meanwhile\n\
                    m/b: 4 paths differ\n  d/\\x0a: size, times\n  and 3 more\nm/c: not known; refused\n";
        assert_eq!(text, want);
        for (reports, code) in [
            (vec![equal.clone()], ExitCode::Done),
            (vec![equal.clone(), differs.clone(), away.clone()], ExitCode::Differences),
            (vec![equal.clone(), away], ExitCode::TargetUnreachable),
            (vec![equal.clone(), partial], ExitCode::Differences),
            (vec![equal, gone], ExitCode::Unavailable),
        ] {
            assert_eq!(exit_code(&reports), code, "{reports:?}");
        }
    }

    #[test]
    fn a_report_tells_what_was_put_right_and_what_could_not_be_seen() {
        let one = vec![Difference { path: "f".into(), why: "times".into() }];
        let part =
            Report { target: "m/t".into(), differences: one, repaired: 2, entries: 1, checksum: true, ..Report::default() };
        let part = Report { error: "denied".into(), ..part };
        let want = "m/t: 1 path differs, 2 put right; 1 entry compared by content in 0s; denied\n  f: times\n";
        let text = human(std::slice::from_ref(&part));
        assert_eq!(text.replace("0ms", "0s"), want);
        let right = Report { differences: Vec::new(), error: String::new(), ..part.clone() };
        assert!(human(std::slice::from_ref(&right)).starts_with("m/t: equal, 2 put right; "));
        for (reports, code) in [
            (&[right.clone()][..], ExitCode::Done),
            (&[part], ExitCode::Differences),
            // Counted and not kept is different as well.
            (&[Report { more: 1, ..right }], ExitCode::Differences),
            (&[], ExitCode::Done),
        ] {
            assert_eq!(exit_code(reports), code, "{reports:?}");
        }
    }

    #[test]
    fn the_daemon_is_asked_for_what_the_command_line_says() {
        let args = VerifyArgs {
            target: Some("t".into()),
            mirror: None,
            checksum: true,
            repair: false,
            json: false,
            config: None,
            socket: None,
        };
        let ask = |args: &VerifyArgs| serde_json::to_value(args.request()).unwrap();
        let (with, without) = (ask(&args), ask(&VerifyArgs { checksum: false, repair: true, target: None, ..args }));
        let field = |of: &serde_json::Value, name: &str| {
            let text = of.to_string();
            text.contains(&format!("\"{name}\":true")) || text.contains(&format!("\"{name}\":\"t\""))
        };
        for (name, first, second) in [("checksum", true, false), ("repair", false, true), ("target", true, false)] {
            assert_eq!((field(&with, name), field(&without, name)), (first, second), "{name}: {with} {without}");
        }
    }

    #[test]
    fn a_repair_without_a_daemon_changes_nothing_and_says_so() {
        let (dir, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = dir.path().join("c.toml");
        let socket = dir.path().join("sock");
        let text = format!(
            "[daemon]\nstatus_socket = \"{}\"\n[[mirror]]\nname = \"m\"\nsource = \"{}\"\n\
             [[mirror.target]]\nname = \"t\"\nurl = \"{}/none\"\n",
            socket.display(),
            source.path().display(),
            dir.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let run = |repair, mirror: Option<&str>, file: PathBuf| {
            let args = VerifyArgs {
                target: None,
                mirror: mirror.map(str::to_owned),
                checksum: false,
                repair,
                json: false,
                config: Some(file),
                socket: None,
            };
            args.run(|| unreachable!("the configuration says where it is")).unwrap_err()
        };
        let no_daemon = run(true, None, file.clone());
        assert!(matches!(&no_daemon, Failed::NoDaemon { socket: at } if *at == socket), "{no_daemon}");
        let unknown = run(false, Some("x"), file);
        assert!(unknown.to_string().ends_with("no target x/*"), "{unknown}");
        let missing = run(false, None, dir.path().join("missing"));
        let codes = [no_daemon, unknown, missing].map(|failed| failed.exit_code());
        assert_eq!(codes, [ExitCode::Unavailable, ExitCode::Usage, ExitCode::Config]);
    }
}
