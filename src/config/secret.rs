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
    /// Somebody else could put another file in its place.
    #[error("the password file {} can be replaced by others: {reason}", .path.display())]
    Above {
        /// The file.
        path: PathBuf,
        /// Which directory, and why.
        reason: String,
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
    match replaceable(&path) {
        Some((reason, _)) => Err(SecretFileError::Above { path, reason }),
        None => Ok(()),
    }
}

/// Why others can put another file in the place of `path`, if they can.
pub fn replaceable_by_others(path: &Path) -> Option<String> {
    replaceable(path).map(|(reason, _)| reason)
}

/// Whether others can put another file in the place of `path`, at it or at a directory above it: where it leads, and where links on the way lie.
pub(super) fn replaceable(path: &Path) -> Option<(String, String)> {
    let me = geteuid().as_raw();
    let named = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| named.clone());
    for dir in named.ancestors().skip(1).chain(real.ancestors().skip(1)) {
        let Ok(meta) = std::fs::metadata(dir) else { continue };
        // In a sticky directory (as /tmp) only the owner replaces a file.
        if meta.mode() & 0o002 != 0 && meta.mode() & 0o1000 == 0 {
            let mode = format!("the directory {} has mode {:04o}, so that everybody can", dir.display(), meta.mode() & 0o7777);
            return Some((mode, format!("run: chmod o-w {}", dir.display())));
        }
        if meta.uid() != 0 && meta.uid() != me {
            let owner = format!("the directory {} belongs to uid {}", dir.display(), meta.uid());
            return Some((owner, "it must belong to root or to the user fansync runs as".to_owned()));
        }
    }
    None
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
    fn directories_above_count_too() {
        let dir = tempfile::tempdir().unwrap();
        let (open, sticky) = (dir.path().join("open"), dir.path().join("sticky"));
        for (at, mode) in [(&open, 0o777), (&sticky, 0o1777)] {
            fs::create_dir_all(at.join("sub")).unwrap();
            fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
            fs::write(at.join("sub/pass"), "x").unwrap();
            fs::set_permissions(at.join("sub/pass"), fs::Permissions::from_mode(0o600)).unwrap();
        }
        check_secret_file(&sticky.join("sub/pass")).unwrap();
        let error = check_secret_file(&open.join("sub/pass")).unwrap_err();
        assert!(matches!(&error, SecretFileError::Above { reason, .. } if reason.contains("/open has mode 0777")), "{error}");
        // A link from a safe place into it, and one that others can replace.
        std::os::unix::fs::symlink(open.join("sub"), dir.path().join("link")).unwrap();
        assert!(replaceable(&dir.path().join("link/pass")).is_some());
        std::os::unix::fs::symlink(sticky.join("sub/pass"), open.join("link")).unwrap();
        assert!(replaceable(&open.join("link")).is_some());
        if geteuid().is_root() {
            chown(&sticky, Some(4711), None).unwrap();
            assert!(matches!(check_secret_file(&sticky.join("sub/pass")), Err(SecretFileError::Above { .. })));
        }
    }

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
