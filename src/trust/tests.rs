use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::*;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn others(result: Result<(), TrustError>) -> Option<(PathBuf, Reason)> {
    match result {
        Err(TrustError::Others { path, reason, .. }) => Some((path, reason)),
        Ok(()) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_directory_of_the_way_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (open, sticky) = (dir.path().join("open"), dir.path().join("sticky"));
    for (at, bits) in [(&open, 0o777), (&sticky, 0o1777)] {
        fs::create_dir_all(at.join("sub")).unwrap();
        mode(at, bits);
        fs::write(at.join("sub/pass"), "x").unwrap();
        mode(&at.join("sub/pass"), 0o600);
    }
    file(&sticky.join("sub/pass"), Mind::Secret).unwrap();
    let (path, reason) = others(file(&open.join("sub/pass"), Mind::Secret)).unwrap();
    assert_eq!((path, reason), (open.clone(), Reason::Everyone { mode: 0o777 }));
    // Not even when the way leaves it again.
    assert!(others(file(&open.join("sub/../../sticky/sub/pass"), Mind::Secret)).is_some());
    if nix::unistd::geteuid().is_root() {
        mode(&open, 0o775);
        file(&open.join("sub/pass"), Mind::Secret).unwrap();
        chown(&open, None, Some(4711)).unwrap();
        assert_eq!(others(file(&open.join("sub/pass"), Mind::Secret)).unwrap().1, Reason::Group { gid: 4711, mode: 0o775 });
        chown(&sticky, Some(4711), None).unwrap();
        assert_eq!(others(file(&sticky.join("sub/pass"), Mind::Secret)).unwrap().1, Reason::Owner(4711));
    }
}

#[test]
fn every_link_of_the_way_counts() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["safe", "open", "links"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("safe/f"), "x").unwrap();
    symlink(at("safe/f"), at("links/direct")).unwrap();
    file(&at("links/direct"), Mind::Writing).unwrap();
    // A link that others can replace, in the middle of a chain of links.
    mode(&at("open"), 0o777);
    symlink(at("safe/f"), at("open/l")).unwrap();
    symlink("../open/l", at("links/f")).unwrap();
    assert_eq!(others(file(&at("links/f"), Mind::Writing)).unwrap().0, at("open"));
    symlink("loop", at("links/loop")).unwrap();
    assert!(matches!(file(&at("links/loop"), Mind::Writing), Err(TrustError::Io { .. })));
}

#[test]
fn in_a_sticky_directory_the_owner_counts() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    mode(dir.path(), 0o1777);
    let (target, link) = (dir.path().join("f"), dir.path().join("l"));
    fs::write(&target, "x").unwrap();
    symlink(&target, &link).unwrap();
    file(&link, Mind::Writing).unwrap();
    std::os::unix::fs::lchown(&link, Some(4711), None).unwrap();
    assert_eq!(others(file(&link, Mind::Writing)), Some((link.clone(), Reason::Owner(4711))));
    // Where no other user can write, it does not matter whose the link is: it cannot be changed.
    mode(dir.path(), 0o755);
    file(&link, Mind::Writing).unwrap();
}

#[test]
fn what_is_read_is_what_was_judged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, "secret").unwrap();
    mode(&path, 0o600);
    assert_eq!(read(&path, Mind::Secret, 3).unwrap(), b"sec");
    assert!(read(&dir.path().join("none"), Mind::Secret, 3).unwrap_err().is_missing());
    assert!(matches!(read(dir.path(), Mind::Secret, 3), Err(TrustError::Kind { .. })));
    nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert!(matches!(read(&dir.path().join("fifo"), Mind::Secret, 3), Err(TrustError::Kind { .. })));
    let error = {
        mode(&path, 0o644);
        read(&path, Mind::Secret, 3).unwrap_err()
    };
    assert!(error.help().contains("chmod 600"), "{}", error.help());
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn an_access_control_list_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, "x").unwrap();
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [(1u16, 6u16, u32::MAX), (2, 6, 65534), (4, 0, u32::MAX), (0x10, 6, u32::MAX), (0x20, 0, u32::MAX)] {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&perm.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    for at in [path.as_path(), dir.path()] {
        if xattr::set(at, "system.posix_acl_access", &acl).is_err() {
            return; // a filesystem without them
        }
        assert_eq!(others(file(&path, Mind::Writing)), Some((at.to_owned(), Reason::AclUser(65534))));
        xattr::remove(at, "system.posix_acl_access").unwrap();
        file(&path, Mind::Writing).unwrap();
    }
}

#[test]
fn directories_are_made_with_their_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    directory(&path).unwrap();
    make_directory(&path, 0o750).unwrap();
    for at in [dir.path().join("a"), path.clone()] {
        assert_eq!(fs::metadata(at).unwrap().permissions().mode() & 0o7777, 0o750);
    }
    // A link in its place is followed only where others cannot put one, and nothing is made or set
    // through it.
    fs::create_dir(dir.path().join("open")).unwrap();
    fs::create_dir(dir.path().join("victim")).unwrap();
    mode(&dir.path().join("victim"), 0o755);
    symlink(dir.path().join("victim"), dir.path().join("open/state")).unwrap();
    mode(&dir.path().join("open"), 0o777);
    assert!(matches!(make_directory(&dir.path().join("open/state"), 0o700), Err(TrustError::Others { .. })));
    assert!(matches!(make_directory(&dir.path().join("open/state/m"), 0o700), Err(TrustError::Others { .. })));
    assert_eq!(fs::read_dir(dir.path().join("victim")).unwrap().count(), 0);
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(make_directory(&dir.path().join("file"), 0o700).is_err());
}

#[test]
fn programs_are_found_as_the_kernel_finds_them() {
    assert!(program(Path::new("sh")).is_some_and(|path| path.is_absolute()));
    assert_eq!(program(Path::new("/bin/sh")), Some("/bin/sh".into()));
    assert_eq!(program(Path::new("/etc/passwd")), None);
    assert_eq!(program(Path::new("no such program")), None);
}
