//! Whether one place on the disk lies inside another, also where the two paths do not say so:
//! through symbolic links, bind mounts, and filesystems that are mounted twice.
//!
//! How: the mount table says for each path on which filesystem it lies and where in it. A directory
//! shows its own part of its filesystem, and that of every filesystem mounted below it. Gives up:
//! what a filesystem hides from the table, such as a FUSE filesystem that shows another directory,
//! and everything on other hosts.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::sys::mount::{MountEntry, Mounts};

/// The mount table at one moment; none where it cannot be read.
pub(super) struct Ground {
    mounts: Option<Mounts>,
}

/// A directory of a filesystem: device number, and path in it.
type Spot = ((u32, u32), PathBuf);

impl Ground {
    pub(super) fn look() -> Ground {
        Ground { mounts: Mounts::read().ok() }
    }

    #[cfg(test)]
    fn of(table: &str) -> Ground {
        Ground { mounts: Some(Mounts::parse(table.as_bytes()).expect("the table is well-formed")) }
    }

    /// Whether `below` can be seen at or below `above`; both resolved.
    pub(super) fn holds(&self, above: &Path, below: &Path) -> bool {
        if below.starts_with(above) {
            return true;
        }
        let Some(mounts) = &self.mounts else { return false };
        let Some((dev, at)) = mounts.mount_of(below).and_then(|m| spot(m, below)) else { return false };
        let own = mounts.mount_of(above).and_then(|m| spot(m, above));
        let mounted = mounts.below(above).filter_map(|m| spot(m, &m.point));
        own.into_iter().chain(mounted).any(|(its, shows)| its == dev && at.starts_with(&shows))
    }

    /// Whether one holds the other.
    pub(super) fn touch(&self, a: &Path, b: &Path) -> bool {
        self.holds(a, b) || self.holds(b, a)
    }
}

fn spot(mount: &MountEntry, path: &Path) -> Option<Spot> {
    let root = Path::new(OsStr::from_bytes(&mount.root));
    // On some filesystems a mount's root is a name of their own and no path.
    root.is_absolute().then_some(())?;
    let rest = path.strip_prefix(&mount.point).ok()?;
    Some((mount.dev, if rest.as_os_str().is_empty() { root.to_owned() } else { root.join(rest) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
1 1 8:1 / / rw - ext4 /dev/a rw
2 1 8:2 / /srv rw - ext4 /dev/b rw
3 1 8:2 /web/up /mnt/up rw - ext4 /dev/b rw
4 1 8:3 / /disk rw - ext4 /dev/c rw
5 2 8:3 / /srv/web/disk rw - ext4 /dev/c rw
6 1 0:5 / /tmp rw - tmpfs tmpfs rw
";

    #[test]
    fn what_lies_inside_what() {
        let ground = Ground::of(TABLE);
        for (above, below, want) in [
            ("/srv/web", "/srv/web", true),
            ("/srv/web", "/srv/web/x/new", true),
            ("/srv/web", "/srv/webs", false),
            ("/srv/web", "/srv/copy", false),
            // A bind mount of a directory of it, and what is below.
            ("/srv/web", "/mnt/up", true),
            ("/srv/web", "/mnt/up/new", true),
            ("/srv/web/down", "/mnt/up", false),
            ("/mnt/up", "/srv/web/up/x", true),
            ("/mnt/up", "/srv/web", false),
            // A filesystem that is mounted inside it as well.
            ("/srv/web", "/disk/copy", true),
            ("/srv/other", "/disk/copy", false),
            ("/disk", "/srv/web/disk/x", true),
            ("/srv/web", "/tmp/copy", false),
        ] {
            assert_eq!(ground.holds(Path::new(above), Path::new(below)), want, "{below} in {above}");
        }
        assert!(ground.touch(Path::new("/mnt/up/x"), Path::new("/srv/web")));
        assert!(!ground.touch(Path::new("/tmp"), Path::new("/srv/web")));
    }
}
