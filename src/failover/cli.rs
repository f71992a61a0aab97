//! The words of `fansync failover`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::mark::{self, Mark, MarkError, Role};
use crate::exit::ExitCode;

pub(crate) const HELP: &str = "\
Examples:
  fansync failover role /srv/data
  fansync failover role /srv/data --set primary

Exit codes: 0 done, 1 the mark is damaged, 64 usage, 69 there is no mark, 77 not permitted.";

const ROLE_HELP: &str = "\
Without --set the mark is shown. A tree without a mark becomes the primary or the follower of epoch 1; a primary that was a follower gets a new epoch.
--epoch writes that epoch, whatever there was: for an administrator who knows both sides, and for damaged marks.

Examples:
  fansync failover role /srv/data
  fansync failover role /srv/data --set primary
  fansync failover role /srv/data --set follower --epoch 4

Exit codes: 0 done, 1 the mark is damaged, 64 usage, 69 there is no mark, 77 not permitted.";

/// `fansync failover`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(arg_required_else_help = true)]
pub struct FailoverArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do by hand.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Action {
    /// Show or set the role of a tree
    #[command(after_help = ROLE_HELP)]
    Role(RoleArgs),
}

/// `fansync failover role`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RoleArgs {
    /// The tree
    #[arg(value_name = "TREE")]
    pub tree: PathBuf,
    /// The role it shall have
    #[arg(long, value_enum, value_name = "ROLE")]
    pub set: Option<Role>,
    /// Write this epoch, whatever there was
    #[arg(long, value_name = "N", requires = "set", value_parser = clap::value_parser!(u64).range(1..))]
    pub epoch: Option<u64>,
}

/// Carries out `fansync failover role`: what to print, and the code to leave with.
pub fn role(args: &RoleArgs) -> (Result<String, String>, ExitCode) {
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
