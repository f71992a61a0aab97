//! Whom a file must not be open to: secrets, and files that decide what runs as root.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// A file that others could read or change.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be looked at.
    #[error("cannot look at the password file {}: {error}", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is a directory or a device.
    #[error("the password file {} is not a regular file", .path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The mode gives others a right.
    #[error("the password file {} has mode {mode:04o}, so that others can read or change it; run: chmod 600 {}", .path.display(), .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else could change it.
    #[error("the password file {} belongs to uid {owner}; it must belong to root or to the user fansync runs as", .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
}

/// Checks that a password file is a regular file that others can neither read nor write (mode & 006), and that it
/// belongs to root or to the calling user: what rsync itself demands, told before rsync is run.
///
/// # Errors
/// See [`SecretFileError`].
pub fn check_secret_file(path: &Path) -> Result<(), SecretFileError> {
    let path = path.to_owned();
    let meta = match std::fs::metadata(&path) {
        Ok(meta) => meta,
        Err(error) => return Err(SecretFileError::Missing { path, error }),
    };
    if !meta.is_file() {
        return Err(SecretFileError::NotAFile { path });
    }
    if meta.mode() & 0o006 != 0 {
        return Err(SecretFileError::Mode { path, mode: meta.mode() & 0o7777 });
    }
    // rsync run as root takes a file of root only.
    let me = geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != me {
        return Err(SecretFileError::Owner { path, owner: meta.uid() });
    }
    Ok(())
}

/// Why a configuration file with these properties must not be trusted, if so: it names commands that run as root.
pub(super) fn distrust(meta: &Metadata) -> Option<(String, String)> {
    if meta.mode() & 0o002 != 0 {
        let mode = format!("its mode {:04o} lets everybody change it", meta.mode() & 0o7777);
        return Some((mode, "run: chmod o-w on it, after reading what it says now".to_owned()));
    }
    let me = geteuid().as_raw();
    (meta.uid() != 0 && meta.uid() != me).then(|| {
        (format!("it belongs to uid {}", meta.uid()), "it must belong to root or to the user fansync runs as".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn secret_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        assert!(matches!(check_secret_file(&path), Err(SecretFileError::Missing { .. })));
        fs::write(&path, "x").unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o602, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let result = check_secret_file(&path);
            assert_eq!(result.is_ok(), good, "{mode:o}");
            assert!(good || result.unwrap_err().to_string().contains("chmod 600"));
        }
        assert!(matches!(check_secret_file(dir.path()), Err(SecretFileError::NotAFile { .. })));
        if geteuid().is_root() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            chown(&path, Some(4711), None).unwrap();
            assert!(matches!(check_secret_file(&path), Err(SecretFileError::Owner { owner: 4711, .. })));
        }
    }
}
