//! The words of `fansync failover`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::config::Config;
use super::control::{self, Answer, Ask};
use super::machine::Side;
use super::monitor::Order;
use crate::config::path_of_environment;
use crate::exit::ExitCode;
use crate::role::mark::{self, Mark, MarkError, Role};

pub(crate) const HELP: &str = "\
With --config it runs in the foreground: the part of a server ([server]), of a client ([[failover]]), or both.

Examples:
  fansync failover --config /etc/fansync/failover.toml
  fansync failover --config /etc/fansync/failover.toml --once --dry-run
  fansync failover status
  fansync failover role /srv/data --set primary

Exit codes: 0 done, 64 usage, 69 a mount or a port cannot be had, 77 not permitted, 78 configuration.";

const STATUS_HELP: &str = "\
Examples:
  fansync failover status
  fansync failover status --json --config /etc/fansync/failover-web.toml

Exit codes: 0 printed, 64 usage, 69 no daemon answers, 78 configuration.";

const SWITCH_HELP: &str = "\
If the mounted server answers, it hands over orderly, and no write is lost; if it does not, the other is made primary.

Examples:
  fansync failover switch
  fansync failover switch --to backup --name web

Exit codes: 0 done, 1 not done, 64 usage, 69 no daemon answers.";

const FAILBACK_HELP: &str = "\
The same as switch --to primary.

Examples:
  fansync failover failback
  fansync failover failback --name web

Exit codes: 0 done, 1 not done, 64 usage, 69 no daemon answers.";

const HOLD_HELP: &str = "\
Remembered over restarts, until resume.

Examples:
  fansync failover hold
  fansync failover hold --name web

Exit codes: 0 done, 1 not done, 64 usage, 69 no daemon answers.";

const RESUME_HELP: &str = "\
Examples:
  fansync failover resume
  fansync failover resume --name web

Exit codes: 0 done, 1 not done, 64 usage, 69 no daemon answers.";

const ROLE_HELP: &str = "\
Without --set the mark is shown. A tree without a mark becomes the primary or the follower of epoch 1; a primary that was a follower gets a new epoch. \
--epoch writes that epoch, whatever there was: for an administrator who knows both sides, and for damaged marks.

Examples:
  fansync failover role /srv/data
  fansync failover role /srv/data --set primary
  fansync failover role /srv/data --set follower --epoch 4

Exit codes: 0 done, 1 the mark is damaged, 64 usage, 69 there is no mark, 77 not permitted.";

/// `fansync failover`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(arg_required_else_help = true, args_conflicts_with_subcommands = true)]
pub struct FailoverArgs {
    /// The configuration file, if not /etc/fansync/failover.toml
    #[arg(long, value_name = "FILE", required_unless_present_any = ["once", "dry_run"])]
    pub(crate) config: Option<PathBuf>,
    /// Make one decision, print the status, and exit
    #[arg(long)]
    pub(crate) once: bool,
    /// Change nothing; print what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// What to do by hand.
    #[command(subcommand)]
    pub(crate) action: Option<Action>,
}

impl FailoverArgs {
    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| CONFIG.into())
    }
}

/// What to do by hand.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum Action {
    /// Show what is mounted, how the servers are, and what needs an administrator
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Move to the other server
    #[command(after_help = SWITCH_HELP)]
    Switch(SwitchArgs),
    /// Move back to the primary
    #[command(after_help = FAILBACK_HELP)]
    Failback(ByHand),
    /// Do nothing by itself
    #[command(after_help = HOLD_HELP)]
    Hold(ByHand),
    /// Act by itself again
    #[command(after_help = RESUME_HELP)]
    Resume(ByHand),
    /// Show or set the role of a tree
    #[command(after_help = ROLE_HELP)]
    Role(RoleArgs),
    /// Calls that touch a mount, from standard input; for fansync itself.
    #[command(hide = true)]
    Call,
    /// Reads from the network, for fansync itself.
    #[command(hide = true)]
    Front,
}

/// `fansync failover status`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Of which process.
    #[command(flatten)]
    pub(crate) at: At,
}

/// Which process is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct At {
    /// The socket of the process, if not FANSYNC_FAILOVER_SOCKET or that of the configuration
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub(crate) socket: Option<PathBuf>,
    /// The configuration file of the process, which names its socket
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    pub(crate) config: PathBuf,
}

impl At {
    /// The socket: the one given, that of the environment unless a configuration was named, or the
    /// configuration's. Without the usual configuration, which a user who is not root may not be
    /// allowed to read, the usual socket.
    fn socket(&self) -> Result<PathBuf, String> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        if let Some(socket) = path_of_environment("FANSYNC_FAILOVER_SOCKET").filter(|_| self.config == Path::new(CONFIG)) {
            return Ok(socket);
        }
        match Config::load(&self.config) {
            Ok(config) => Ok(config.daemon.socket),
            Err(_) if self.config == Path::new(CONFIG) => Ok(super::config::socket()),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// Orders to one `[[failover]]`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct ByHand {
    /// Which failover block, where there are several
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// To which process.
    #[command(flatten)]
    pub(crate) at: At,
}

/// `fansync failover switch`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct SwitchArgs {
    /// Where to; the other one if not given
    #[arg(long, value_enum, value_name = "SERVER")]
    pub(crate) to: Option<Side>,
    /// Which, and through what.
    #[command(flatten)]
    pub(crate) by_hand: ByHand,
}

/// `fansync failover role`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct RoleArgs {
    /// The tree
    #[arg(value_name = "TREE")]
    pub(crate) tree: PathBuf,
    /// The role it shall have
    #[arg(long, value_enum, value_name = "ROLE")]
    pub(crate) set: Option<Role>,
    /// Write this epoch, whatever there was
    #[arg(long, value_name = "N", requires = "set", value_parser = clap::value_parser!(u64).range(1..=mark::LAST_EPOCH))]
    pub(crate) epoch: Option<u64>,
}

/// What is read unless something else is given.
const CONFIG: &str = "/etc/fansync/failover.toml";

/// Carries out one command: what to print, and the code to leave with.
pub(crate) fn act(action: &Action) -> (Result<String, String>, ExitCode) {
    let order = |by: &ByHand, order| ask(&by.at, &Ask::Order { name: by.name.clone(), order }, false);
    match action {
        Action::Role(args) => role(args),
        Action::Status(args) => ask(&args.at, &Ask::Status, args.json),
        Action::Switch(args) => order(&args.by_hand, Order::Switch { to: args.to }),
        Action::Failback(by) => order(by, Order::Switch { to: Some(Side::Primary) }),
        Action::Hold(by) => order(by, Order::Hold),
        Action::Resume(by) => order(by, Order::Resume),
        Action::Call => match super::tool::serve(std::io::stdin().lock(), std::io::stdout().lock()) {
            Ok(()) => (Ok(String::new()), ExitCode::Done),
            Err(e) => (Err(e.to_string()), ExitCode::Unavailable),
        },
        Action::Front => match super::front::process::serve() {
            Ok(()) => (Ok(String::new()), ExitCode::Done),
            Err(e) => (Err(e.to_string()), ExitCode::Unavailable),
        },
    }
}

fn ask(at: &At, what: &Ask, json: bool) -> (Result<String, String>, ExitCode) {
    let socket = match at.socket() {
        Ok(socket) => socket,
        Err(why) => return (Err(why), ExitCode::Config),
    };
    match control::ask(&socket, what) {
        Ok(Answer::Status(status)) if json => (serde_json::to_string(&status).map_err(|e| e.to_string()), ExitCode::Done),
        Ok(Answer::Status(status)) => (Ok(status.human().trim_end().to_owned()), ExitCode::Done),
        Ok(Answer::Done { text }) => (Ok(text), ExitCode::Done),
        Ok(Answer::Error { message }) => (Err(message), ExitCode::Differences),
        Err(e) => (Err(format!("{e}; is `fansync failover --config FILE` running here?")), ExitCode::Unavailable),
    }
}

/// Carries out `fansync failover role`: what to print, and the code to leave with.
pub(crate) fn role(args: &RoleArgs) -> (Result<String, String>, ExitCode) {
    let failed = |e: MarkError| {
        let code = match &e {
            MarkError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => ExitCode::NotPermitted,
            _ => ExitCode::Differences,
        };
        (Err(e.to_string()), code)
    };
    let tree = &args.tree;
    let Some(role) = args.set else {
        return match mark::read(tree) {
            Ok(Some(mark)) => (Ok(format!("{mark} ({})", mark.by)), ExitCode::Done),
            Ok(None) => {
                let why = format!("{} holds no role mark; write one with --set primary or --set follower", tree.display());
                (Err(why), ExitCode::Unavailable)
            }
            Err(e) => failed(e),
        };
    };
    let by_hand = |epoch| Mark::new(epoch, role, "by hand");
    let written = match args.epoch {
        Some(epoch) => mark::write(tree, &by_hand(epoch)).map(|()| by_hand(epoch)),
        None => mark::read(tree).and_then(|old| {
            let new = by_hand(match old {
                None => 1,
                Some(Mark { epoch, role: Role::Follower, .. }) if role == Role::Primary => epoch + 1,
                Some(Mark { epoch, .. }) => epoch,
            });
            mark::raise(tree, &new).map(|_| new)
        }),
    };
    match written {
        Ok(mark) => (Ok(mark.to_string()), ExitCode::Done),
        Err(e) => failed(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_the_configurations() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.toml");
        let at = |socket: Option<&str>, config: &Path| At { socket: socket.map(Into::into), config: config.into() };
        assert_eq!(at(Some("/s"), &file).socket(), Ok("/s".into()));
        assert!(at(None, &file).socket().unwrap_err().contains("f.toml"), "a file that was named and is not there");
        std::fs::write(&file, "[daemon]\nkey_file = \"/k\"\nsocket = \"/run/other.sock\"\n[server]\ntree = \"/srv/a\"\npeer = \"b:1\"\nmirror = \"m\"\nexports = [\"h:/srv/a\"]\n").unwrap();
        assert_eq!(at(None, &file).socket(), Ok("/run/other.sock".into()));
    }

    fn say(args: RoleArgs) -> (String, ExitCode) {
        let (text, code) = role(&args);
        (text.unwrap_or_else(|e| e), code)
    }

    #[test]
    fn by_hand() {
        let dir = tempfile::tempdir().unwrap();
        let args = |set, epoch| RoleArgs { tree: dir.path().into(), set, epoch };
        assert_eq!(say(args(None, None)).1, ExitCode::Unavailable);
        for (set, epoch, want) in [
            (Role::Follower, None, "follower of epoch 1"),
            (Role::Primary, None, "primary of epoch 2"),
            (Role::Primary, None, "primary of epoch 2"),
            (Role::Follower, None, "follower of epoch 2"),
            (Role::Primary, Some(2), "primary of epoch 2"),
            (Role::Follower, Some(1), "follower of epoch 1"),
        ] {
            assert_eq!(say(args(Some(set), epoch)), (want.into(), ExitCode::Done));
        }
        assert_eq!(say(args(None, None)), ("follower of epoch 1 (by hand)".into(), ExitCode::Done));
        std::fs::write(dir.path().join(mark::FILE), "junk").unwrap();
        assert_eq!(say(args(None, None)).1, ExitCode::Differences);
        assert_eq!(say(args(Some(Role::Primary), None)).1, ExitCode::Differences);
        assert_eq!(say(args(Some(Role::Primary), Some(5))), ("primary of epoch 5".into(), ExitCode::Done));
    }
}
