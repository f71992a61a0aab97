//! What may travel in a record as an rsync batch, and with which words rsync writes and reads one.
//!
//! A batch is written against an empty directory with `-W --ignore-times`, so that it does not
//! depend on what a follower has. What is listed and not there is deleted by who reads it. With
//! `-R` a reader makes the directories above a path, and puts them in the place of a link.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

use super::record::{Batch, Item};
use crate::config::Extras;
use crate::dirty::Kind;
use crate::path::RelPath;
use crate::sync::probe::{RsyncFacts, Version};

/// What a batch takes beside its content, for each entry; about half of it is enough as a rule.
const ENTRY_BYTES: u64 = 150;
/// Entries of a directory that are looked at.
const MOST_ENTRIES: usize = 2_000;

/// What writes batches of a source.
pub(crate) struct Making {
    /// The program.
    pub(crate) rsync: PathBuf,
    /// What it can do.
    pub(crate) facts: RsyncFacts,
    /// What is carried over beside content, owner, mode and times.
    pub(crate) extras: Extras,
    /// The source's canonical path.
    pub(crate) source: PathBuf,
    /// A directory of its own.
    pub(crate) dir: PathBuf,
}

/// What a record may have as a batch.
pub(crate) struct Inline {
    /// The source, held open.
    pub(crate) root: OwnedFd,
    /// Its paths as rsync is given them.
    pub(crate) list: Vec<u8>,
}

/// What the words of both ends begin with, the program aside.
fn common(extras: Extras) -> Vec<OsString> {
    let mut words = vec![OsString::from("-lptgoD")];
    for (option, wanted) in [("-X", extras.xattrs), ("-A", extras.acls)] {
        if wanted {
            words.push(option.into());
        }
    }
    let others = ["--numeric-ids", "--delete-missing-args", "--force", "--modify-window=-1", "-W", "--ignore-times"];
    words.extend(others.map(OsString::from));
    words
}

/// The words that write a batch into `file`: `root` is the source as its reader names it, `path`
/// its canonical path, `empty` an empty directory. The list comes on standard input.
pub(crate) fn writing(
    (rsync, facts): (&Path, &RsyncFacts),
    extras: Extras,
    root: &str,
    path: &Path,
    file: &Path,
    empty: &Path,
) -> Vec<OsString> {
    let mut words = vec![rsync.as_os_str().to_owned()];
    words.extend(common(extras));
    words.extend(["--from0".into(), "--files-from=-".into()]);
    if facts.confine_root {
        let mut confined = OsString::from("--confine-root=");
        confined.push(path);
        words.push(confined);
    }
    // The sender says when all is written, and only its exit comes after that.
    words.push("--debug=EXIT2".into());
    let mut batch = OsString::from("--only-write-batch=");
    batch.push(file);
    words.extend([batch, "--".into(), format!("{root}/").into()]);
    let mut target = empty.as_os_str().to_owned();
    target.push("/.");
    words.push(target);
    words
}

/// The words that apply a batch to `dir`, which comes on standard input. `rules`: receiver-only
/// filters; `contents`: it has directories one level deep.
pub(crate) fn reading(
    rsync: &Path,
    extras: Extras,
    rules: &[OsString],
    contents: bool,
    max_delete: Option<u64>,
    items: &str,
    dir: &Path,
) -> Vec<OsString> {
    let mut words = vec![rsync.as_os_str().to_owned()];
    words.extend(common(extras));
    if extras.sparse {
        words.push("-S".into());
    }
    words.extend(["-d".into(), "-R".into()]);
    if contents || !rules.is_empty() {
        words.push("--delete".into());
    }
    if let Some(most) = max_delete {
        words.push(format!("--max-delete={most}").into());
    }
    words.extend(rules.iter().cloned());
    words.extend([items.into(), "--info=stats1".into(), "--read-batch=-".into(), "--".into()]);
    let mut here = dir.as_os_str().to_owned();
    here.push("/.");
    words.push(here);
    words
}

/// The number of the protocol that a batch begins with, behind its flags; `None` where it is none.
pub(crate) fn protocol(bytes: &[u8]) -> Option<u8> {
    let number = bytes.get(4..8)?;
    u8::try_from(i32::from_le_bytes([number[0], number[1], number[2], number[3]])).ok().filter(|number| *number > 0)
}

/// A version as a record has it.
pub(crate) fn version(Version(major, minor, patch): Version) -> Option<[u8; 3]> {
    Some([u8::try_from(major).ok()?, u8::try_from(minor).ok()?, u8::try_from(patch).ok()?])
}

/// Why a follower cannot read a batch: a word for the counters.
pub(crate) fn unreadable(batch: &Batch, reader: Version, extras: Extras) -> Option<&'static str> {
    let [major, minor, patch] = batch.version.map(u32::from);
    match () {
        () if (batch.xattrs, batch.acls) != (extras.xattrs, extras.acls) => Some("options"),
        () if reader < Version(major, minor, patch) => Some("older_rsync"),
        () => None,
    }
}

/// What a name is now: whether nothing has it, and whether it is a directory.
pub(crate) fn found(root: impl AsFd, path: &RelPath) -> Result<(bool, bool), Errno> {
    match fstatat(root, path.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok((false, is(&stat, SFlag::S_IFDIR))),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok((true, false)),
        Err(errno) => Err(errno),
    }
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

/// Whether every entry is still what its record says.
pub(crate) fn unchanged(root: impl AsFd, entries: &[Item]) -> bool {
    entries.iter().all(|item| found(&root, &item.path) == Ok((item.gone, item.directory)))
}

/// Whether the state of these entries is small enough: at most `most` bytes of content, and a batch
/// of at most `room` bytes. Trees are not, nor is what cannot be looked at. `largest`: files of
/// more bytes stay behind; `filtered`: of a directory not all is taken.
pub(crate) fn is_small(root: impl AsFd, entries: &[Item], most: u64, room: usize, largest: Option<u64>, filtered: bool) -> bool {
    let (mut content, mut batch) = (0_u64, 0_u64);
    let mut add = |stat: &FileStat, name: usize| {
        let size = if is(stat, SFlag::S_IFREG) { stat.st_size as u64 } else { 0 };
        content = content.saturating_add(size);
        batch += size.min(most) + ENTRY_BYTES + name as u64;
        largest.is_none_or(|largest| size <= largest) && content <= most && batch <= room as u64
    };
    entries.iter().all(|item| {
        let stat = fstatat(&root, item.path.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW);
        match (stat, item.kind) {
            (_, Kind::Subtree) => false,
            (Err(Errno::ENOENT | Errno::ENOTDIR), _) if item.gone => true,
            (Ok(stat), Kind::Entry) => add(&stat, item.path.len()),
            (Ok(stat), Kind::Contents) if item.directory && !filtered => {
                add(&stat, item.path.len()) && each_entry(&root, &item.path, &mut add)
            }
            _ => false,
        }
    })
}

fn each_entry(root: impl AsFd, dir: &RelPath, add: &mut impl FnMut(&FileStat, usize) -> bool) -> bool {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(fd) = openat(&root, dir.as_path(), flags, Mode::empty()) else { return false };
    let Ok(mut opened) = nix::dir::Dir::from_fd(fd) else { return false };
    let mut names = Vec::new();
    for entry in opened.iter() {
        let Ok(entry) = entry else { return false };
        let name = entry.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
        if names.len() > MOST_ENTRIES {
            return false;
        }
    }
    names.iter().all(|name| {
        let stat = fstatat(&opened, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| add(&stat, dir.len() + name.as_bytes().len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &str, kind: Kind, gone: bool, directory: bool) -> Item {
        Item { path: RelPath::new(path.as_bytes()).unwrap(), kind, gone, directory, content: true, to: None }
    }

    fn shown(words: &[OsString]) -> String {
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn both_ends_say_the_same_of_what_is_carried() {
        let (rsync, facts) = (Path::new("rsync"), RsyncFacts { confine_root: true, ..RsyncFacts::default() });
        let extras = Extras { xattrs: true, acls: true, sparse: true, ..Extras::default() };
        let places = [Path::new("/src"), Path::new("/b/F"), Path::new("/b/empty")];
        let written = shown(&writing((rsync, &facts), extras, "/proc/self/fd/9", places[0], places[1], places[2]));
        let same = "rsync -lptgoD -X -A --numeric-ids --delete-missing-args --force --modify-window=-1 -W --ignore-times ";
        assert!(written.starts_with(same), "{written}");
        assert!(written.ends_with("--confine-root=/src --debug=EXIT2 --only-write-batch=/b/F -- /proc/self/fd/9/ /b/empty/."));
        let read = shown(&reading(rsync, extras, &[], false, Some(7), "-i", Path::new("/copy")));
        assert!(read.starts_with(same), "{read}");
        assert!(read.ends_with("-S -d -R --max-delete=7 -i --info=stats1 --read-batch=- -- /copy/."), "{read}");
        let guarded = shown(&reading(rsync, extras, &["--filter=-r /c/".into()], false, None, "-i", Path::new("/copy")));
        assert!(guarded.contains(" --delete --filter=-r /c/ "), "rules hold only where something is compared: {guarded}");
    }

    #[test]
    fn an_older_rsync_and_other_options_cannot_read_it() {
        let batch = Batch { protocol: 32, version: [3, 5, 0], xattrs: true, ..Batch::default() };
        let (with, without) = (Extras { xattrs: true, ..Extras::default() }, Extras::default());
        for (reader, extras, want) in [
            (Version(3, 5, 0), with, None),
            (Version(3, 10, 0), with, None),
            (Version(4, 0, 0), with, None),
            (Version(3, 4, 9), with, Some("older_rsync")),
            (Version(3, 5, 0), without, Some("options")),
            (Version(3, 5, 0), Extras { acls: true, ..with }, Some("options")),
        ] {
            assert_eq!(unreadable(&batch, reader, extras), want, "{reader}");
        }
        assert_eq!(version(Version(3, 5, 1)), Some([3, 5, 1]));
        assert_eq!(version(Version(3, 500, 1)), None);
        assert_eq!(protocol(b"\x9e\0\0\0\x20\0\0\0rest"), Some(32));
        for none in [&b"\x9e\0\0\0\x20"[..], b"\0\0\0\0\0\0\0\0", b"\0\0\0\0\0\x01\0\0"] {
            assert_eq!(protocol(none), None);
        }
    }

    #[test]
    fn only_what_is_small_travels_in_a_record() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/a"), [b'x'; 600]).unwrap();
        std::fs::write(dir.path().join("d/b"), [b'x'; 600]).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let small = |items: &[Item], most, largest, filtered| is_small(&root, items, most, 100_000, largest, filtered);
        let (a, b) = (item("d/a", Kind::Entry, false, false), item("d/b", Kind::Entry, false, false));
        let contents = item("d", Kind::Contents, false, true);
        assert!(small(&[a.clone(), b.clone()], 1_200, None, true));
        assert!(!small(&[a.clone(), b.clone()], 1_199, None, true), "all content counts");
        assert!(small(std::slice::from_ref(&contents), 1_200, None, false));
        assert!(!small(std::slice::from_ref(&contents), 1_199, None, false));
        assert!(!small(std::slice::from_ref(&contents), 1_200, None, true), "of a directory not all is taken");
        assert!(!small(std::slice::from_ref(&a), 1_200, Some(599), false), "a file that stays behind");
        assert!(!small(&[item("d", Kind::Subtree, false, true)], 1_200, None, false));
        assert!(!small(&[item("d/a", Kind::Contents, false, false)], 1_200, None, false));
        assert!(small(&[item("gone", Kind::Entry, true, false)], 0, None, false));
        assert!(!small(&[item("gone", Kind::Entry, false, false)], 1_200, None, false), "it went meanwhile");
        assert!(!is_small(&root, &[a.clone(), b], 1_200, 1_300, None, false), "the batch would not fit");
        assert!(unchanged(&root, &[a.clone(), contents.clone(), item("gone", Kind::Entry, true, false)]));
        for other in [Item { gone: true, ..a.clone() }, Item { directory: true, ..a }, item("gone", Kind::Entry, false, false)] {
            assert!(!unchanged(&root, &[other]));
        }
    }
}
