//! The password of a daemon's module, from its file to rsync's environment.
//!
//! rsync reads such a file itself with `--password-file`, except that with `--confine-root` 3.5.0
//! refuses one outside of the source. So it is read here, at each start of a run (it may be changed
//! at any time), under the conditions that rsync sets.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::trust::{self, Mind, TrustError};

/// Why a password file is not used.
#[derive(Debug, Error)]
pub enum PasswordError {
    /// It cannot be read; everybody can read it; others can change it, or put another in its place.
    #[error("cannot use the password file {}: {error}; {}", .path.display(), .error.help())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: TrustError,
    },
    /// Its first line is empty or holds a NUL, or is longer than rsync takes.
    #[error("password file {path:?} holds no password in its first line, or one that no environment can hold")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// The password in the first line of a file, under stricter conditions than those that rsync sets
/// for its `--password-file`: nothing for everybody, nothing of the way to it for others to change.
///
/// # Errors
/// See [`PasswordError`].
pub(crate) fn password(path: &Path) -> Result<Vec<u8>, PasswordError> {
    let text = trust::read(path, Mind::Secret, 4096).map_err(|error| PasswordError::File { path: path.into(), error })?;
    let line = text.split(|&b| b == b'\n' || b == b'\r').next().unwrap_or_default();
    if line.is_empty() || line.contains(&0) || line.len() == 4096 {
        return Err(PasswordError::Empty { path: path.into() });
    }
    Ok(line.to_vec())
}

/// `env` with the password for a module, as rsync looks for it. Others than the user and root
/// cannot read a process's environment.
pub(crate) fn with_password(env: &[(OsString, OsString)], password: Vec<u8>) -> Vec<(OsString, OsString)> {
    let others = env.iter().filter(|(name, _)| name != "RSYNC_PASSWORD").cloned();
    others.chain([("RSYNC_PASSWORD".into(), OsString::from_vec(password))]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for mode in [0o644, 0o602, 0o622] {
            assert!(matches!(with(b"pw", mode), Err(PasswordError::File { .. })), "{mode:o}");
        }
        for text in [&b""[..], b"\npw", b"a\0b", &[b'x'; 5000]] {
            assert!(matches!(with(text, 0o600), Err(PasswordError::Empty { .. })), "{text:?}");
        }
        if nix::unistd::geteuid().is_root() {
            nix::unistd::chown(&path, Some(65534.into()), None).unwrap();
            assert!(matches!(with(b"pw", 0o600), Err(PasswordError::File { .. })));
        }
        assert!(matches!(password(&dir.path().join("none")), Err(PasswordError::File { .. })));
    }

    #[test]
    fn it_replaces_the_empty_one() {
        let env = [("RSYNC_PASSWORD", ""), ("PATH", "/bin")].map(|(name, value)| (name.into(), value.into()));
        let env = with_password(&env, b"pw".to_vec());
        let want = [("PATH", "/bin"), ("RSYNC_PASSWORD", "pw")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(env, want);
    }
}
