//! Which daemon a command without a socket talks to.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::config::Places;

/// The sockets of more than one daemon, none of them the usual one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "several daemons run here; name one with --socket, --config or FANSYNC_SOCKET: {}",
    .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
)]
pub(crate) struct Several(pub(crate) Vec<PathBuf>);

/// The usual socket of this user, or of root; else the only one beside these. Where there is none,
/// the usual one.
///
/// # Errors
/// There are several.
pub(crate) fn socket() -> Result<PathBuf, Several> {
    let (own, system) = (Places::own(), Places::system());
    let mut dirs = vec![own.run];
    if dirs[0] != system.run {
        dirs.push(system.run);
    }
    among(&dirs)
}

/// All sockets of daemons that this user may use, the usual one first.
pub(crate) fn all() -> Vec<PathBuf> {
    let (own, system) = (Places::own(), Places::system());
    let dirs = if own.run == system.run { vec![own.run] } else { vec![own.run, system.run] };
    all_among(&dirs)
}

fn all_among(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut served = served(dirs);
    served.retain(|path| UnixStream::connect(path).is_ok());
    let usual = |path: &PathBuf| path.file_name().is_some_and(|name| name == "status.sock");
    served.sort_by_key(|path| !usual(path));
    served
}

/// The sockets in these directories that a daemon answers on.
fn served(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let all = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten()).map(|entry| entry.path());
    // The failover monitor has commands of its own.
    let mut served: Vec<PathBuf> = all
        .filter(|path| path.extension().is_some_and(|x| x == "sock") && path.file_stem().is_some_and(|s| s != "failover"))
        .filter(|path| is_served(path))
        .collect();
    served.sort();
    served
}

fn among(dirs: &[PathBuf]) -> Result<PathBuf, Several> {
    let usual: Vec<PathBuf> = dirs.iter().map(|dir| dir.join("status.sock")).collect();
    if let Some(there) = usual.iter().find(|path| is_served(path)) {
        return Ok(there.clone());
    }
    let served = served(dirs);
    match served.as_slice() {
        [] => Ok(usual.into_iter().next().unwrap_or_default()),
        [only] => Ok(only.clone()),
        _ => Err(Several(served)),
    }
}

/// Whether a daemon is there, also one that this user may not use.
fn is_served(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        Err(e) => e.kind() == ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_usual_one_the_only_one_or_a_choice() {
        let work = tempfile::tempdir().unwrap();
        let dirs = ["own", "system"].map(|name| work.path().join(name));
        let find = || among(&dirs);
        assert_eq!(find(), Ok(dirs[0].join("status.sock")), "nothing there, not even the directories");
        dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let listen = |dir: usize, name: &str| UnixListener::bind(dirs[dir].join(name)).unwrap();
        let _failover = listen(1, "failover.sock");
        drop(listen(0, "dead.sock"));
        assert_eq!(find(), Ok(dirs[0].join("status.sock")));
        let only = listen(1, "web.sock");
        assert_eq!(find(), Ok(dirs[1].join("web.sock")));
        let second = listen(0, "4711.sock");
        let several = find().unwrap_err();
        assert_eq!(several.0, [dirs[0].join("4711.sock"), dirs[1].join("web.sock")]);
        assert!(several.to_string().contains("4711.sock, ") && several.to_string().contains("FANSYNC_SOCKET"), "{several}");
        let _system = listen(1, "status.sock");
        assert_eq!(find(), Ok(dirs[1].join("status.sock")));
        let _own = listen(0, "status.sock");
        assert_eq!(find(), Ok(dirs[0].join("status.sock")));
        let all = ["own/status.sock", "system/status.sock", "own/4711.sock", "system/web.sock"];
        assert_eq!(all_among(&dirs), all.map(|path| work.path().join(path)));
        drop((only, second));
    }
}
