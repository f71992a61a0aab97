//! The mark of a published tree, `.fansync/feed` at its top: which tree it is. A follower asks its
//! upstream for it before it deletes anything, so that an empty directory or another tree in the
//! module's place takes nothing away.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat, mkdirat};

use super::record::Identity;

/// The mark, below the root.
pub(crate) const FILE: &str = ".fansync/feed";
/// Its first line.
const HEAD: &str = "fansync-feed 1\n";
/// Most bytes of a mark.
pub(crate) const MAX_BYTES: u64 = 4096;

/// As it is written.
pub(crate) fn text(feed: &str, identity: &Identity) -> String {
    format!("{HEAD}feed {feed}\nidentity {}\n", hex(identity))
}

/// The feed and the identity that a mark names.
pub(crate) fn parse(text: &str) -> Option<(String, Identity)> {
    let mut lines = text.strip_prefix(HEAD)?.lines();
    let feed = lines.next()?.strip_prefix("feed ")?.to_owned();
    let identity = lines.next()?.strip_prefix("identity ")?;
    Some((feed, from_hex(identity)?)).filter(|_| lines.next().is_none())
}

/// In hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Identity> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut out = [0; 16];
    for (byte, at) in out.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(out)
}

/// The identity of the tree at `root` as the feed `feed`. A tree without one gets it here; so does
/// one that was published as another feed.
///
/// # Errors
/// The mark cannot be read or written.
pub(crate) fn take(root: impl AsFd, feed: &str) -> io::Result<Identity> {
    let (dir, name) = FILE.split_once('/').expect("it lies in a directory");
    match mkdirat(&root, dir, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = openat(&root, Path::new(dir), flags, Mode::empty())?;
    let read = || -> io::Result<String> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = std::fs::File::from(openat(&dir, name, flags, Mode::empty())?);
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, MAX_BYTES), &mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => {
            if let Some((_, identity)) = parse(&text).filter(|(of, _)| of == feed) {
                return Ok(identity);
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::InvalidData => {}
        Err(e) => return Err(e),
    }
    let mut identity = [0; 16];
    fastrand::fill(&mut identity);
    write(&dir, name, &text(feed, &identity))?;
    Ok(identity)
}

/// Puts a file in place in one step.
fn write(dir: impl AsFd, name: &str, text: &str) -> io::Result<()> {
    let aside = format!("{name}.new");
    match nix::unistd::unlinkat(&dir, aside.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = std::fs::File::from(openat(&dir, aside.as_str(), flags, Mode::from_bits_truncate(0o644))?);
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()?;
    nix::fcntl::renameat(&dir, aside.as_str(), &dir, name)?;
    Ok(())
}

/// Whether the mark is still there; cheap enough for each record.
pub(crate) fn is_there(root: impl AsFd) -> bool {
    fstatat(root, FILE, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_keeps_its_identity_and_another_one_gets_another() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let take = |dir: &tempfile::TempDir, feed: &str| super::take(std::fs::File::open(dir.path()).unwrap(), feed).unwrap();
        let first = take(&one, "web");
        assert_eq!(take(&one, "web"), first);
        assert_ne!(take(&two, "web"), first);
        let text = std::fs::read_to_string(one.path().join(FILE)).unwrap();
        assert_eq!(parse(&text), Some(("web".into(), first)));
        assert_ne!(take(&one, "other"), first, "it was published as another feed");
        std::fs::write(one.path().join(FILE), "torn").unwrap();
        let again = take(&one, "web");
        assert_ne!(again, first);
        assert!(is_there(std::fs::File::open(one.path()).unwrap()));
    }

    #[test]
    fn only_what_is_written_is_read() {
        let whole = text("web", &[0xab; 16]);
        assert_eq!(parse(&whole), Some(("web".into(), [0xab; 16])));
        for other in
            ["", "fansync-feed 2\nfeed web\nidentity 00\n", &whole.replace("ab", "xy"), &format!("{whole}more\n"), &whole[..40]]
        {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }
}
