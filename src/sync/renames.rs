//! The command lines that carry a rename: the target makes the new name from the old one, and
//! hardly a byte is sent.
//!
//! | pass | source | target | how |
//! | --- | --- | --- | --- |
//! | [`Pass::MovedTree`] | `NEW/`, whole | `NEW/`, which it must make itself | `--link-dest=OLD`: equal in size, mtime and attributes → one more hard link |
//! | [`Pass::MovedTrees`] | directories of `NEWDIR/`, whole | `NEWDIR/`, where it must make them itself | `--link-dest=OLDDIR`, the same names there |
//! | [`Pass::MovedFiles`] | files of `NEWDIR/` | `NEWDIR/` | `--link-dest=OLDDIR`, the same names there |
//! | [`Pass::LikeOthers`] | files of a directory, with other names | the same | `--fuzzy` by size and mtime, and the content checked block by block (`--ignore-times`) |
//! | [`Pass::Clear`] | an empty directory | `OLDDIR/` | old names are listed, missing, and deleted |
//!
//! The source is named by a descriptor that rsync inherits (`/proc/self/fd/N/`). So it is the
//! directory that was checked, wherever it is moved meanwhile, and no symbolic link that takes
//! its place is followed.
//!
//! A file that changes both its name and its directory is sent: `--fuzzy` twice finds no basis in
//! another directory of a module (it does on a local target), and a link is made for the same name
//! only.
//!
//! Links are only as right as the target's old name was: see [`crate::dirty`] for when it is
//! trusted. Where the file system cannot link, or the old copy has other attributes, rsync itself
//! copies on the target; where there is no old copy, it sends.
//!
//! Names are arguments here, not list entries. A server expands wildcards in them, and line breaks
//! are its protocol's, so [`fits`] says which names travel this way. All others are sent as new
//! ones are.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};

use super::argv::{ITEMS, Pass, Spec, attributes, backup_args, destination, inherited, receiver_only, transport};
use crate::location::Location;
use crate::location::whole_seconds;
use crate::path::RelPath;

/// Blocks of [`Pass::LikeOthers`]: the largest there are, since nearly all are expected to match.
const BLOCK_BYTES: u32 = 128 * 1024;

/// Where a renamed thing was and is.
#[derive(Debug)]
pub struct Renamed {
    /// The directory to read. The child inherits it.
    pub(crate) source: OwnedFd,
    /// The directory on the target, relative to its root.
    pub(crate) dest: RelPath,
    /// The directory on the target that is linked from.
    pub(crate) basis: Option<RelPath>,
    /// Exclude rules that hold in both.
    pub(crate) filter_args: Vec<OsString>,
}

/// Whether a path may be an argument; see the module's text.
pub(crate) fn fits(path: &[u8]) -> bool {
    path.iter().all(|&b| b >= b' ' && b != 0x7f && !b"*?[]\\\"'`$".contains(&b))
}

pub(super) fn argv(spec: &Spec<'_>, renamed: &Renamed, pass: Pass) -> Vec<OsString> {
    let mut args = vec![spec.rsync.as_os_str().to_owned()];
    let mut add = |arg: &dyn AsRef<OsStr>| args.push(arg.as_ref().to_owned());
    add(&"-lptgoD");
    if let Pass::MovedTree | Pass::MovedTrees = pass {
        add(&"-r");
    }
    if pass != Pass::MovedTree {
        add(&"--from0");
        add(&"--files-from=-");
    }
    // All but the links among files: what has several names does not travel this way.
    attributes(spec.extras, spec.dialect).iter().for_each(|arg| add(arg));
    add(&"--numeric-ids");
    if spec.dialect.compares_nanoseconds() {
        add(&"--modify-window=-1");
    }
    match pass {
        Pass::Clear => {
            // `--delete` does nothing to a list; with it the receiver gets the filters and protects
            // what they name.
            if !renamed.filter_args.is_empty() {
                add(&"--delete");
            }
            add(&"--delete-missing-args");
            add(&"--force");
            renamed.filter_args.iter().for_each(|arg| add(&receiver_only(arg)));
        }
        Pass::MovedTree | Pass::MovedTrees => renamed.filter_args.iter().for_each(|arg| add(arg)),
        _ => {}
    }
    spec.dialect.compression(spec.peer.compress).iter().for_each(|arg| add(arg));
    add(&format!("--timeout={}", whole_seconds(spec.peer.timeout)));
    add(&ITEMS);
    // That the directory was made is printed with items from 3.2.4 on, before only where names are
    // printed.
    add(&if pass == Pass::MovedTree { "--info=stats1,name1" } else { "--info=stats1" });
    if let Location::Daemon { .. } = spec.peer.location {
        add(&"-s"); // as always over ssh: nothing that reads line by line gets to see the names
    }
    transport(spec).iter().for_each(|arg| add(arg));
    spec.extra.iter().for_each(|arg| add(arg));
    backup_args(spec, Some(&renamed.dest)).iter().for_each(|arg| add(arg));
    match pass {
        Pass::MovedTree | Pass::MovedTrees | Pass::MovedFiles => {
            if let Some(basis) = &renamed.basis {
                let mut link = OsString::from("--link-dest=");
                link.push(spec.peer.location.seen_there(basis, &renamed.dest));
                add(&link);
            }
            if pass != Pass::MovedTree {
                add(&"-ii"); // what was linked is reported as well, and a directory that was made like the one that it was made from
            }
        }
        Pass::LikeOthers => {
            add(&"--ignore-times");
            add(&"--no-whole-file");
            add(&"--fuzzy");
            add(&format!("--block-size={BLOCK_BYTES}"));
        }
        _ => {}
    }
    add(&"--");
    add(&format!("{}/", inherited(renamed.source.as_fd())));
    let mut dest = spec.peer.location.dest_below(&renamed.dest);
    // A tree's own directory is made by its run. Any other has to be there: with the dot it is an
    // error if it is not.
    dest.push(if pass == Pass::MovedTree { "/" } else { "/." });
    add(&destination(spec, dest));
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_travel_as_arguments() {
        for (name, fit) in [
            (&b"a b/c-d_e.f"[..], true),
            ("été".as_bytes(), true),
            (b"-n", true),
            (b"a*", false),
            (b"x\ny", false),
            (b"$(x)", false),
        ] {
            assert_eq!(fits(name), fit, "{}", crate::path::Shown(name));
        }
    }
}
