//! Files that cannot be opened now, because a program holds a lease on them (fcntl(2),
//! `F_SETLEASE`).
//!
//! Who opens such a file waits until the holder gives the lease up, at most `fs.lease-break-time`
//! (45 s): so would rsync, once for each, and any user may take leases on files of his own. So each
//! file is opened without waiting first: that begins to break the lease, and a well-behaved holder
//! (Samba, the NFS server) lets go of it within moments. Until then the file is set apart like one
//! that fails.
//!
//! Gives up: the kernel's list of leases is one of inodes, so a pass over a tree, which finds its
//! files by itself, waits for each leased file that differs.

use std::collections::HashSet;
use std::os::fd::AsFd;

use crate::sys::beneath::open_beneath;

use super::*;
use crate::sync::output::Failed;

/// Why a leased file waits.
pub(super) const REASON: &str =
    "a program holds a lease on the file (fcntl F_SETLEASE), and a process that opens it would have to wait";

/// So many files of one list are opened one by one. For more, the kernel's list of locks shows
/// which to open: reading it waits for a grace period of RCU (9 to 15 ms on Linux 6.18, measured),
/// where an open and a close cost 3 µs.
const OPENED_EACH: usize = 2_000;
/// The list of locks is used again for so long.
const KEPT_FOR: Duration = Duration::from_millis(200);

/// The inodes under lease at the last check.
#[derive(Default)]
pub(super) struct Leases {
    inodes: HashSet<u64>,
    until: Duration,
}

impl Leases {
    /// Brings the list up to date.
    fn renew(&mut self, now: Duration) {
        if self.until <= now {
            // Where it cannot be read, the run's own waiting shows it.
            self.inodes = leased(&std::fs::read("/proc/locks").unwrap_or_default());
            self.until = now + KEPT_FOR;
        }
    }
}

/// Whether an open for reading has to wait for the end of a lease, open(2): EWOULDBLOCK. It is
/// being broken then. No symbolic link leads the open out of the tree.
fn is_leased(root: &Root, path: &RelPath) -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    open_beneath(root.as_fd(), path.as_path(), flags).err() == Some(Errno::EWOULDBLOCK)
}

/// The inodes that a list of locks (proc(5), `/proc/locks`) has under a lease that an open for
/// reading has to break. Their devices are left out: those of btrfs's subvolumes are not shown by
/// stat.
pub fn leased(locks: &[u8]) -> HashSet<u64> {
    let mut inodes = HashSet::new();
    for line in locks.split(|&b| b == b'\n') {
        let mut words = line.split(|&b| b == b' ').filter(|word| !word.is_empty()).skip(1);
        let (Some(b"LEASE" | b"DELEG"), Some(state), Some(kind)) = (words.next(), words.next(), words.next()) else { continue };
        // One that is being broken shows what it will be.
        if state != b"BREAKING" && (state != b"ACTIVE" || kind != b"WRITE") {
            continue;
        }
        let place = words.nth(1).and_then(|place| place.rsplit(|&b| b == b':').next());
        inodes.extend(place.and_then(|ino| std::str::from_utf8(ino).ok()).and_then(|ino| ino.parse::<u64>().ok()));
    }
    inodes
}

/// Whether the only path of a run is not there any more.
pub(super) fn is_gone(root: &Root, batch: &Batch) -> bool {
    let [entry] = &*batch.entries else { return false };
    let found = fstatat(root, entry.path.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW);
    !entry.gone && matches!(found, Err(Errno::ENOENT | Errno::ENOTDIR))
}

impl Target {
    /// The files of a list that cannot be opened without waiting for the end of a lease. Begins to
    /// break these.
    pub(super) fn leased(&mut self, cx: &Context<'_>, normal: &Normal) -> BTreeSet<RelPath> {
        let file = |item: &normal::Item| match item.state {
            Look::Present(stat) if stat.is_file() => Some(stat.ino),
            _ => None,
        };
        let files = || normal.items.iter().filter_map(|item| Some((&item.path, file(item)?)));
        let many = files().nth(OPENED_EACH).is_some();
        if many {
            self.met.leases.renew(cx.now);
        }
        files()
            .filter(|(path, ino)| (!many || self.met.leases.inodes.contains(ino)) && is_leased(cx.root, path))
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Lets files that are leased wait: shortly at first, then as failures.
    pub(super) fn set_leased_apart(&mut self, now: Duration, id: BatchId, leased: Vec<Entry>, round: u32) {
        self.ledger.set.park(id, &leased);
        let about = |e: &Entry| Failed { path: e.path.clone(), words: REASON.into(), unread: false };
        let named: Vec<Failed> = leased.iter().map(about).collect();
        self.ledger.retries.failed(now, leased, round, &named, REASON, fastrand::f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_among_locks() {
        let locks = b"1: POSIX  ADVISORY  WRITE 4242 08:01:17 0 EOF\n\
            2: LEASE  ACTIVE    WRITE 4242 00:2f:18 0 EOF\n\
            3: LEASE  ACTIVE    READ  4242 00:2f:19 0 EOF\n\
            4: LEASE  BREAKING  UNLCK 4242 00:2f:20 0 EOF\n\
            4: -> LEASE  BREAKER   READ  4243 00:2f:20 0 EOF\n\
            5: DELEG  BREAKING  READ  4242 fd:00:21 0 EOF\n\
            6: FLOCK  ADVISORY  WRITE 4242 00:2f:22 0 EOF\n\
            7: LEASE  ACTIVE\n";
        let mut found: Vec<u64> = leased(locks).into_iter().collect();
        found.sort();
        assert_eq!(found, [18, 20, 21]);
        assert!(leased(b"").is_empty());
    }
}
