//! The password of a daemon's module, from its file to rsync's environment.
//!
//! rsync reads such a file itself with `--password-file`, except that with `--confine-root` 3.5.0 refuses one outside of the source. So it is
//! read here, at each start of a run (it may be changed at any time), under the conditions that rsync sets.

use crate::config::replaceable_by_others;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a password file is not used.
#[derive(Debug, Error)]
pub enum PasswordError {
    /// Others can put another file in its place.
    #[error("the password file {} can be replaced by others: {reason}", .path.display())]
    Above {
        /// The file.
        path: PathBuf,
        /// Which directory, and why.
        reason: String,
    },
    /// It cannot be read.
    #[error("cannot read password file {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// open(2), read(2).
        #[source]
        source: io::Error,
    },
    /// Others may read it.
    #[error("password file {path:?} can be read or written by others: chmod 600 {path:?}")]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to somebody else, who could change it.
    #[error("password file {path:?} belongs to user {owner}, not to root: chown root {path:?}")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
    },
    /// Its first line is empty or holds a NUL, or is longer than rsync takes.
    #[error("password file {path:?} holds no password in its first line, or one that no environment can hold")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// The password in the first line of a file, under the conditions that rsync sets for its `--password-file`: no access for others, and root's
/// when run by root.
///
/// # Errors
/// See [`PasswordError`].
pub fn password(path: &Path) -> Result<Vec<u8>, PasswordError> {
    let read = |source| PasswordError::Read { path: path.into(), source };
    // Not blocking: a FIFO would hold up the engine.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(read)?;
    let stat = file.metadata().map_err(read)?;
    if stat.mode() & 0o006 != 0 {
        return Err(PasswordError::Open { path: path.into() });
    }
    if nix::unistd::geteuid().is_root() && stat.uid() != 0 {
        return Err(PasswordError::Owner { path: path.into(), owner: stat.uid() });
    }
    if let Some(reason) = replaceable_by_others(path) {
        return Err(PasswordError::Above { path: path.into(), reason });
    }
    let mut text = Vec::new();
    file.take(4096).read_to_end(&mut text).map_err(read)?;
    let line = text.split(|&b| b == b'\n' || b == b'\r').next().unwrap_or_default();
    if line.is_empty() || line.contains(&0) || line.len() == 4096 {
        return Err(PasswordError::Empty { path: path.into() });
    }
    Ok(line.to_vec())
}

/// `env` with the password for a module, as rsync looks for it. Others than the user and root cannot read a process's environment.
pub fn with_password(env: &[(OsString, OsString)], password: Vec<u8>) -> Vec<(OsString, OsString)> {
    let others = env.iter().filter(|(name, _)| name != "RSYNC_PASSWORD").cloned();
    others.chain([("RSYNC_PASSWORD".into(), OsString::from_vec(password))]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_above_that_others_may_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        std::fs::write(&path, "pw").unwrap();
        for (at, mode) in [(path.as_path(), 0o600), (dir.path(), 0o777)] {
            std::fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        assert!(matches!(password(&path), Err(PasswordError::Above { .. })));
    }

    #[test]
    fn password_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        let with = |text: &[u8], mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            password(&path)
        };
        for mode in [0o600, 0o640, 0o400] {
            assert_eq!(with(b"p w\nrest\n", mode).unwrap(), b"p w");
        }
        assert_eq!(with(b"\xff", 0o600).unwrap(), b"\xff");
        assert!(matches!(with(b"pw", 0o644), Err(PasswordError::Open { .. })));
        assert!(matches!(with(b"pw", 0o602), Err(PasswordError::Open { .. })));
        for text in [&b""[..], b"\npw", b"a\0b", &[b'x'; 5000]] {
            assert!(matches!(with(text, 0o600), Err(PasswordError::Empty { .. })), "{text:?}");
        }
        if nix::unistd::geteuid().is_root() {
            nix::unistd::chown(&path, Some(65534.into()), None).unwrap();
            assert!(matches!(with(b"pw", 0o600), Err(PasswordError::Owner { owner: 65534, .. })));
        }
        assert!(matches!(password(&dir.path().join("none")), Err(PasswordError::Read { .. })));
    }

    #[test]
    fn it_replaces_the_empty_one() {
        let env = [("RSYNC_PASSWORD", ""), ("PATH", "/bin")].map(|(name, value)| (name.into(), value.into()));
        let env = with_password(&env, b"pw".to_vec());
        let want = [("PATH", "/bin"), ("RSYNC_PASSWORD", "pw")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(env, want);
    }
}
