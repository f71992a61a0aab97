//! Where a target is.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A target's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A module of an rsync daemon.
    Daemon {
        /// Who to authenticate as, where the module asks for it.
        user: Option<String>,
        /// Name or address; an IPv6 address without brackets.
        host: String,
        /// TCP port; 873 where none is given.
        port: Option<u16>,
        /// The module's name.
        module: String,
        /// Path inside the module, without leading and trailing `/`; empty for the module's root.
        path: String,
    },
    /// A path on a host reached through a remote shell.
    Ssh {
        /// Who to log in as.
        user: Option<String>,
        /// Name or address; an IPv6 address without brackets.
        host: String,
        /// Path on that host; relative ones start at the login directory.
        path: String,
    },
    /// An absolute path on this machine.
    Local(PathBuf),
}

impl Location {
    /// Whether an rsync daemon answers there, so that its options (`--password-file`, `--contimeout`) are legal.
    pub fn is_daemon(&self) -> bool {
        matches!(self, Location::Daemon { .. })
    }

    /// The destination argument, ending in `/.`: rsync creates a missing target directory of the form `DST`, so that a
    /// target that is not mounted would be filled beneath its mount point; `DST/.` fails instead.
    pub fn dest(&self) -> OsString {
        let user = |user: &Option<String>| user.as_ref().map_or(String::new(), |u| format!("{u}@"));
        let host = |host: &str| if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut out = match self {
            Location::Daemon { user: u, host: h, port, module, path } => {
                let port = port.map_or(String::new(), |p| format!(":{p}"));
                let slash = if path.is_empty() { "" } else { "/" };
                OsString::from(format!("rsync://{}{}{port}/{module}{slash}{path}", user(u), host(h)))
            }
            Location::Ssh { user: u, host: h, path } => {
                // An empty path is the login directory; written bare it would become `host:/.`, the root of the disk.
                let path = if path.is_empty() { "." } else { path };
                OsString::from(format!("{}{}:{path}", user(u), host(h)))
            }
            Location::Local(path) => path.clone().into_os_string(),
        };
        let ends_in_slash = out.as_bytes().ends_with(b"/");
        out.push(OsStr::new(if ends_in_slash { "." } else { "/." }));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_end_in_slash_dot() {
        let daemon = |user: Option<&str>, host: &str, port, path: &str| Location::Daemon {
            user: user.map(String::from),
            host: host.into(),
            port,
            module: "m".into(),
            path: path.into(),
        };
        let ssh = |path: &str| Location::Ssh { user: Some("u".into()), host: "h".into(), path: path.into() };
        for (location, want) in [
            (daemon(None, "h", None, ""), "rsync://h/m/."),
            (daemon(Some("u"), "h", Some(8730), "a/b"), "rsync://u@h:8730/m/a/b/."),
            (daemon(None, "::1", Some(1), ""), "rsync://[::1]:1/m/."),
            (ssh("/srv/x"), "u@h:/srv/x/."),
            (ssh("/"), "u@h:/."),
            (ssh(""), "u@h:./."),
            (Location::Local("/srv/x".into()), "/srv/x/."),
            (Location::Local("/srv/x/".into()), "/srv/x/."),
        ] {
            assert_eq!(location.dest(), want);
        }
    }
}
