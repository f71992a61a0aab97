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
/// The directory of a relay, below its root: what is half copied, and its name. It is never copied.
pub(crate) const RELAY: &str = ".fansync/relay";
/// The name of a relay, below its root: who finds it served knows that this is not the source.
pub(crate) const RELAY_NAME: &str = ".fansync/relay/name";
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
    let dir = make_in_place(&root, dir)?;
    // A tree that was a relay's, and is a source now.
    match no_relay_in(&dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    match read(&dir, name) {
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

fn read(dir: impl AsFd, name: &str) -> io::Result<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = std::fs::File::from(openat(&dir, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, MAX_BYTES), &mut text)?;
    Ok(text)
}

/// How the mark of a tree is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// As it was written.
    Ours,
    /// Something else has its name.
    Another,
    /// Nothing has.
    Missing,
}

/// Whether the mark of a tree is still this feed's and this identity's; cheap enough for each
/// record.
pub(crate) fn look(root: impl AsFd, feed: &str, identity: &Identity) -> Found {
    let (dir, name) = FILE.split_once('/').expect("it lies in a directory");
    let found = openat(&root, dir, DIRECTORY, Mode::empty()).map_err(io::Error::from).and_then(|dir| read(dir, name));
    match found {
        Ok(found) if found == text(feed, identity) => Found::Ours,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Found::Missing,
        Ok(_) | Err(_) => Found::Another,
    }
}

/// Puts the mark back in the place of what has its name.
///
/// # Errors
/// It cannot be written.
pub(crate) fn put_back(root: impl AsFd, feed: &str, identity: &Identity) -> io::Result<()> {
    let (dir, name) = FILE.split_once('/').expect("it lies in a directory");
    let dir = make_in_place(root, dir)?;
    let text = text(feed, identity);
    match write(&dir, name, &text) {
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => {
            set_aside(&dir, name)?;
            write(&dir, name, &text)
        }
        other => other,
    }
}

/// The directory, also where something of another kind has its name: that gets another one.
fn make_in_place(root: impl AsFd, dir: &str) -> io::Result<std::os::fd::OwnedFd> {
    match make(&root, dir) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
            set_aside(&root, dir)?;
            make(&root, dir)
        }
        other => other,
    }
}

/// What is not ours is kept, under a name that nothing has.
fn set_aside(dir: impl AsFd, name: &str) -> io::Result<()> {
    let aside = format!("{name}.aside-{:016x}", fastrand::u64(..));
    Ok(nix::fcntl::renameat(&dir, name, &dir, aside.as_str())?)
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The directory of marks below `root`, made where it is not there.
fn marks(root: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let root = openat(nix::fcntl::AT_FDCWD, root, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let (dir, _) = FILE.split_once('/').expect("it lies in a directory");
    make(&root, dir)
}

fn make(at: impl AsFd, name: &str) -> io::Result<std::os::fd::OwnedFd> {
    match mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(openat(&at, name, DIRECTORY, Mode::empty())?)
}

/// Makes the directory of the relay `name` in its tree.
///
/// # Errors
/// It cannot be made.
pub(crate) fn take_relay(root: &Path, name: &str) -> io::Result<()> {
    let dir = make(marks(root)?, "relay")?;
    match fstatat(&dir, "name", AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(()),
        Err(_) => write(&dir, "name", &format!("{name}\n")),
    }
}

/// The tree at `root` is no relay's any more.
///
/// # Errors
/// What is there cannot be removed.
pub(crate) fn no_relay(root: &Path) -> io::Result<()> {
    match openat(nix::fcntl::AT_FDCWD, &root.join(".fansync"), DIRECTORY, Mode::empty()) {
        Ok(dir) => match no_relay_in(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        },
        Err(_) => Ok(()),
    }
}

fn no_relay_in(marks: impl AsFd) -> io::Result<()> {
    let dir = openat(&marks, "relay", DIRECTORY, Mode::empty())?;
    nix::unistd::unlinkat(&dir, "name", nix::unistd::UnlinkatFlags::NoRemoveDir)?;
    // What an rsync left that was killed goes with it, if there is nothing of another kind.
    for entry in nix::dir::Dir::openat(&dir, ".", DIRECTORY, Mode::empty())?.iter().flatten() {
        let _ = nix::unistd::unlinkat(&dir, entry.file_name(), nix::unistd::UnlinkatFlags::NoRemoveDir);
    }
    Ok(nix::unistd::unlinkat(&marks, "relay", nix::unistd::UnlinkatFlags::RemoveDir)?)
}

/// A relay begins to fill the directory `root`: it is not served as the feed's tree until then.
///
/// # Errors
/// The mark is there, and cannot be removed.
pub(crate) fn remove(root: &Path) -> io::Result<()> {
    match std::fs::remove_file(root.join(FILE)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// A relay has filled its directory.
///
/// # Errors
/// The mark cannot be written.
pub(crate) fn put(root: &Path, text: &str) -> io::Result<()> {
    write(marks(root)?, "feed", text)
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
        // What was a relay's is a source's now.
        take_relay(one.path(), "web1").unwrap();
        std::fs::write(one.path().join(RELAY).join(".half"), "").unwrap();
        assert_eq!(std::fs::read_to_string(one.path().join(RELAY_NAME)).unwrap(), "web1\n");
        assert_eq!((take(&one, "web"), one.path().join(RELAY).exists()), (again, false));
        take_relay(one.path(), "web1").unwrap();
        no_relay(one.path()).unwrap();
        no_relay(one.path()).unwrap();
        assert!(!one.path().join(RELAY).exists());
        remove(one.path()).unwrap();
        remove(one.path()).unwrap();
        put(one.path(), &super::text("web", &again)).unwrap();
        assert_eq!(take(&one, "web"), again);
        assert_eq!(look(std::fs::File::open(one.path()).unwrap(), "web", &again), Found::Ours);
    }

    #[test]
    fn what_has_the_name_of_the_mark_is_set_aside() {
        let tree = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(tree.path()).unwrap();
        let identity = super::take(&root, "web").unwrap();
        let dir = tree.path().join(".fansync");
        let file = tree.path().join(FILE);
        let gone = || std::fs::remove_dir_all(&dir).unwrap();
        let ways: [&dyn Fn(); 7] = [
            &|| std::fs::write(&file, text("web", &[9; 16])).unwrap(),
            &|| std::fs::write(&file, "").unwrap(),
            &|| {
                std::fs::remove_file(&file).unwrap();
                nix::unistd::mkfifo(&file, Mode::from_bits_truncate(0o600)).unwrap();
            },
            &|| {
                std::fs::remove_file(&file).unwrap();
                std::fs::create_dir(&file).unwrap();
                std::fs::write(file.join("kept"), "").unwrap();
            },
            &|| {
                gone();
                std::os::unix::fs::symlink("/nowhere", &dir).unwrap();
            },
            &|| {
                std::fs::remove_dir_all(&dir).unwrap();
                std::fs::write(&dir, "a user's").unwrap();
            },
            &|| {
                gone();
                std::fs::create_dir(&dir).unwrap();
                std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
            },
        ];
        for (n, way) in ways.iter().enumerate() {
            way();
            assert_eq!(look(&root, "web", &identity), Found::Another, "{n}");
            put_back(&root, "web", &identity).unwrap();
            assert_eq!(look(&root, "web", &identity), Found::Ours, "{n}");
        }
        gone();
        assert_eq!(look(&root, "web", &identity), Found::Missing);
        std::os::unix::fs::symlink("/nowhere", &dir).unwrap();
        assert_ne!(super::take(&root, "web").unwrap(), identity, "a start is not stopped by it");
        let aside = std::fs::read_dir(tree.path()).unwrap().flatten();
        assert_eq!(aside.filter(|e| e.file_name().to_string_lossy().contains(".aside-")).count(), 3);
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
