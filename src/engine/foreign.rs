//! Which filesystems below the source are mirrored: those that hold a tree of files, and that a
//! user did not mount.
//!
//! What the kernel shows as files (`/proc`, `/sys`, `/dev` of a chroot) is not a tree to copy: it
//! has no end, reading it has effects, and it comes and goes with the program that needed it. What
//! a user mounted (FUSE) need not let root in, may hang, and goes when that user likes; no other
//! thread has to wait for it. `mounts.skip` and `mounts.take` say otherwise for a type or for a
//! place.

use crate::apart::Why;
use crate::config::Mounts;
use crate::path::{RelPath, is_at_or_below};
use crate::sys::mount::MountEntry;

/// Types that are never a tree of files.
const NO_TREES: [&str; 43] = [
    "anon_inodefs",
    "autofs",
    "bdev",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "debugfs",
    "devpts",
    "devtmpfs",
    "dlmfs",
    "efivarfs",
    "functionfs",
    "fuse.gvfsd-fuse",
    "fuse.lxcfs",
    "fuse.portal",
    "fusectl",
    "gadgetfs",
    "hugetlbfs",
    "ipathfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "ocfs2_dlmfs",
    "openpromfs",
    "pidfs",
    "pipefs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "secretmem",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sockfs",
    "spufs",
    "sysfs",
    "tracefs",
    "usbfs",
];

/// Why the filesystem mounted at `at`, relative to the source, is not mirrored; `None` when it is.
pub(super) fn foreign(mount: &MountEntry, at: &RelPath, mounts: &Mounts) -> Option<Why> {
    let fs_type = String::from_utf8_lossy(&mount.fs_type);
    let has_type = |named: &String| {
        !named.starts_with('/') && (*named == fs_type || fs_type.strip_prefix(&**named).is_some_and(|rest| rest.starts_with('.')))
    };
    let has_place = |named: &String| {
        named
            .strip_prefix('/')
            .is_some_and(|place| is_at_or_below(at, place.trim_end_matches('/').as_bytes()) && !place.is_empty())
    };
    let user = mount.user.filter(|user| *user != 0);
    let skipped = |by: &String| match user {
        Some(user) => Some(Why::Users(users(&fs_type, user))),
        None => Some(Why::NoTree(format!("{fs_type}, left out by mounts.skip: {by:?}"))),
    };
    // A place says more than a type, and to leave out is the safer of two that say the same.
    if let Some(by) = mounts.skip.iter().find(|named| has_place(named)) {
        return skipped(by);
    }
    if mounts.take.iter().any(has_place) {
        return None;
    }
    if let Some(by) = mounts.skip.iter().find(|named| has_type(named)) {
        return skipped(by);
    }
    if mounts.take.iter().any(has_type) {
        return None;
    }
    match user {
        Some(user) => Some(Why::Users(users(&fs_type, user))),
        None if NO_TREES.contains(&&*fs_type) => Some(Why::NoTree(format!("{fs_type} is no tree of files"))),
        None => None,
    }
}

fn users(fs_type: &str, user: u32) -> String {
    format!("{fs_type}, mounted by the user {user}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mount::Mounts as Table;

    fn kind(fs_type: &str, options: &str, at: &str, skip: &[&str], take: &[&str]) -> &'static str {
        let line = format!("33 30 0:42 / /src/{at} rw - {fs_type} x {options}\n");
        let table = Table::parse(line.as_bytes()).unwrap();
        let owned = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect();
        let mounts = Mounts { skip: owned(skip), take: owned(take) };
        match foreign(table.iter().next().unwrap(), &RelPath::from_normal(at), &mounts) {
            None => "taken",
            Some(Why::NoTree(_)) => "no tree",
            Some(Why::Users(_)) => "a user's",
            Some(Why::Held(_)) => "held",
        }
    }

    #[test]
    fn what_is_mirrored() {
        let mine = "rw,user_id=1000,group_id=1000";
        for (fs_type, options, at, skip, take, want) in [
            ("ext4", "rw", "d", &[][..], &[][..], "taken"),
            ("tmpfs", "rw,size=4k", "d", &[], &[], "taken"),
            ("overlay", "rw", "d", &[], &[], "taken"),
            ("nfs4", "rw", "d", &[], &[], "taken"),
            ("proc", "rw", "c/proc", &[], &[], "no tree"),
            ("sysfs", "rw", "c/sys", &[], &[], "no tree"),
            ("devpts", "rw,mode=600", "c/dev/pts", &[], &[], "no tree"),
            ("cgroup2", "rw", "c/sys/fs/cgroup", &[], &[], "no tree"),
            ("autofs", "rw", "auto", &[], &[], "no tree"),
            ("fuse.sshfs", "rw,user_id=0,group_id=0", "d", &[], &[], "taken"),
            ("fuse.sshfs", mine, "d", &[], &[], "a user's"),
            ("fuseblk", mine, "d", &[], &[], "a user's"),
            ("fuse.lxcfs", "rw,user_id=0", "d", &[], &[], "no tree"),
            // Configured.
            ("tmpfs", "rw", "d", &["tmpfs"], &[], "no tree"),
            ("fuse.sshfs", "rw,user_id=0", "d", &["fuse"], &[], "no tree"),
            ("fusectl", "rw", "d", &[], &["fuse"], "no tree"),
            ("fuse.sshfs", mine, "d", &[], &["fuse.sshfs"], "taken"),
            ("fuse.sshfs", mine, "d", &["fuse.sshfs"], &[], "a user's"),
            ("fuse.sshfs", mine, "home/u", &[], &["/home/u"], "taken"),
            ("ext4", "rw", "c/d", &["/c"], &[], "no tree"),
            ("ext4", "rw", "cc/d", &["/c/"], &[], "taken"),
            ("ext4", "rw", "c/d", &["/c/"], &["/c/d"], "no tree"),
            ("tmpfs", "rw", "c/d", &["tmpfs"], &["/c"], "taken"),
            ("tmpfs", "rw", "c/d", &["tmpfs"], &["tmpfs"], "no tree"),
        ] {
            assert_eq!(kind(fs_type, options, at, skip, take), want, "{fs_type} {options} at {at}, skip {skip:?}, take {take:?}");
        }
    }
}
