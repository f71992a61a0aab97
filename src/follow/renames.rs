//! What the source renamed gets its new name here, too, in place of being pulled again: see
//! [`crate::feed::moves`].
//!
//! Nothing outside of the directory can get or lose a name: the directories above both names are
//! opened one by one, and no symbolic link is followed. What has the new name already keeps it.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstatat};

use super::*;
use crate::feed::moves::{Move, Thing};
use crate::filter::Filter;
use crate::path::{self, RelPath};
use crate::sync::below::open_below;
use crate::sys::rename::rename_to_free;

impl Follower {
    /// Gives the new names that wait, between two runs.
    pub(super) fn give_names(&mut self) {
        while let Some(given) = self.machine.next_move() {
            // What is left out stays where it is, and what is not on the disk is not doubted after
            // a restart.
            if self.mirror.filter != Filter::default() || !self.disk.keeps() {
                continue;
            }
            let Some(thing) = self.thing_at(&given) else { continue };
            if !self.machine.begin_move(&given, thing) {
                continue;
            }
            self.disk.save(self.machine.saved());
            let done = if self.disk.is_behind() { Err(Errno::EIO) } else { rename(&self.mirror.source, &given) };
            match done {
                Ok(()) => {
                    self.counters.renames += 1;
                    tracing::debug!(mirror = %self.mirror.name, from = %given.from, to = %given.to, "renamed here");
                    self.machine.end_move(given, thing);
                }
                Err(errno) => {
                    tracing::debug!(mirror = %self.mirror.name, from = %given.from, to = %given.to, %errno, "pulled, as it cannot be renamed here");
                    self.machine.not_moved(&given);
                }
            }
        }
    }

    /// What has the old name, if it is worth a rename.
    fn thing_at(&self, given: &Move) -> Option<Thing> {
        let (dir, name) = parent(&self.mirror.source, &given.from).ok()?;
        let found = fstatat(&dir, name.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => Some(Thing::Directory),
            SFlag::S_IFREG => Some(Thing::File),
            _ => None,
        }
    }
}

/// The directory above a path below `root`, and the name in it.
fn parent(root: &Path, path: &RelPath) -> nix::Result<(std::os::fd::OwnedFd, RelPath)> {
    let root =
        nix::fcntl::open(root, nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())?;
    let above = path::parent(path).ok_or(Errno::EINVAL)?;
    Ok((open_below(root, above)?, RelPath::from_normal(path::base(path))))
}

fn rename(root: &Path, given: &Move) -> nix::Result<()> {
    let ((from, old), (to, new)) = (parent(root, &given.from)?, parent(root, &given.to)?);
    rename_to_free(from.as_fd(), old.as_path().as_os_str(), to.as_fd(), new.as_path().as_os_str())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::dirty::Kind;
    use crate::feed::machine::{Machine, Point, Saved};
    use crate::feed::record::Item;

    fn given(from: &str, to: &str) -> Move {
        let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
        let point = Point { stream: 1, incarnation: 1, number: 1, sequence: 1 };
        let mut machine = Machine::new(Some(Saved { position: Some(point), ..Saved::default() }), 100, Duration::ZERO);
        let item = Item { path: path(from), kind: Kind::Entry, gone: true, directory: false, content: true, to: Some(path(to)) };
        for number in 2..4 {
            let entries = vec![item.clone()];
            let record = Record { identity: [1; 16], incarnation: 1, stream: 1, number, entries, ..Record::default() };
            machine.record(number, Ok(record));
        }
        machine.next_move().expect("it waits")
    }

    #[test]
    fn a_name_is_given_below_the_directory_and_to_nothing_that_has_one() {
        let (tree, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |path: &str| tree.path().join(path);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/f"), "f").unwrap();
        std::fs::create_dir_all(at("n")).unwrap();
        std::fs::write(at("taken"), "mine").unwrap();
        std::fs::create_dir(outside.path().join("d")).unwrap();
        symlink(outside.path(), at("link")).unwrap();
        for (from, to) in [("a/b", "link/b"), ("link/d", "d"), ("a/b", "taken"), ("a/b", "missing/b"), ("gone", "x")] {
            assert!(rename(tree.path(), &given(from, to)).is_err(), "{from} {to}");
        }
        assert!(outside.path().join("d").is_dir() && std::fs::read_dir(outside.path()).unwrap().count() == 1);
        assert_eq!(std::fs::read(at("taken")).unwrap(), b"mine");
        rename(tree.path(), &given("a/b", "n/c")).unwrap();
        assert_eq!((std::fs::read(at("n/c/f")).unwrap(), at("a/b").exists()), (b"f".to_vec(), false));
    }
}
