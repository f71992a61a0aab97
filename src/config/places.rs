//! Default paths: for root, and for an ordinary user (XDG Base Directory Specification 0.8).

use std::ffi::OsString;
use std::path::PathBuf;

use nix::unistd::geteuid;

/// The usual places of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// [`super::Daemon::state_dir`].
    pub(crate) state: PathBuf,
    /// The directory of sockets.
    pub(crate) run: PathBuf,
}

impl Places {
    /// Those of the user who runs this.
    pub(crate) fn own() -> Places {
        Places::of(geteuid().is_root(), |name| std::env::var_os(name))
    }

    /// Those of root.
    pub(crate) fn system() -> Places {
        Places { config: "/etc/fansync/fansync.toml".into(), state: "/var/lib/fansync".into(), run: "/run/fansync".into() }
    }

    /// `var`: of the environment. A user without a home has root's places; a variable that is no
    /// absolute path counts for nothing, as the specification says. Without `XDG_RUNTIME_DIR` the
    /// socket lies beside the state, where no other user can put one.
    fn of(root: bool, var: impl Fn(&str) -> Option<OsString>) -> Places {
        let dir = |name: &str| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let Some(home) = dir("HOME").filter(|_| !root) else { return Places::system() };
        let state = dir("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")).join("fansync");
        Places {
            config: dir("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")).join("fansync/fansync.toml"),
            run: dir("XDG_RUNTIME_DIR").map_or_else(|| state.clone(), |dir| dir.join("fansync")),
            state,
        }
    }

    /// The socket of a daemon without another in its configuration.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("status.sock")
    }
}

/// A path in the environment; an empty one is none.
pub(crate) fn path_of_environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_root_and_of_users() {
        let of = |root, vars: &[(&str, &str)]| {
            let places = Places::of(root, |name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()));
            [places.config, places.state, places.run].map(|path| path.display().to_string()).join(" ")
        };
        let system = "/etc/fansync/fansync.toml /var/lib/fansync /run/fansync";
        let xdg = [("HOME", "/h"), ("XDG_STATE_HOME", "/s"), ("XDG_CONFIG_HOME", "/c"), ("XDG_RUNTIME_DIR", "/r")];
        assert_eq!(of(true, &xdg), system);
        assert_eq!(of(false, &[]), system);
        assert_eq!(of(false, &[("HOME", "relative")]), system);
        assert_eq!(of(false, &xdg), "/c/fansync/fansync.toml /s/fansync /r/fansync");
        let home = "/h/.config/fansync/fansync.toml /h/.local/state/fansync /h/.local/state/fansync";
        assert_eq!(of(false, &[("HOME", "/h")]), home);
        assert_eq!(of(false, &[("HOME", "/h"), ("XDG_STATE_HOME", "s"), ("XDG_RUNTIME_DIR", "")]), home);
    }
}
