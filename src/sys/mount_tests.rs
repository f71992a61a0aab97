//! The parser against tables and noise, the reading of the table against the kernel.

use super::*;
use crate::scratch::Scratch;
use crate::sys::handle::name_to_handle;
use proptest::prelude::*;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

const TABLE_OF_A_HOST: &[u8] = br"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
30 22 8:17 / /data rw,relatime shared:5 master:2 propagate_from:1 - xfs /dev/sdb1 rw,attr2
31 30 0:44 / /data/cache rw - tmpfs  rw,size=1g
32 30 8:33 / /data/with\040space\134\012 rw - ext4 /dev/sdc1 rw
40 22 0:50 /vol /srv rw - btrfs /dev/sdd rw,subvol=/vol
41 40 0:51 / /srv/nfs rw - nfs4 host:/export rw
42 40 0:60 / /srv rw - tmpfs over rw
43 42 0:61 / /srv/new rw - tmpfs new rw
";

fn host() -> Mounts {
    Mounts::parse(TABLE_OF_A_HOST).unwrap()
}

#[test]
fn fields() {
    let mounts = host();
    let by_id = |id| mounts.iter().find(|mount| mount.id == id).unwrap();
    let want = MountEntry {
        id: 40,
        parent: 22,
        dev: (0, 50),
        root: b"/vol".to_vec(),
        point: "/srv".into(),
        fs_type: b"btrfs".to_vec(),
        source: b"/dev/sdd".to_vec(),
        user: None,
    };
    assert_eq!(by_id(40), &want);
    assert_eq!((by_id(31).source.as_slice(), by_id(30).fs_type.as_slice()), (&b""[..], &b"xfs"[..]));
    assert_eq!(by_id(32).point.as_os_str().as_bytes(), b"/data/with space\\\n");
}

#[test]
fn which_mount_a_path_lies_on() {
    for (path, id) in [
        ("/", 22),
        ("/etc/fstab", 22),
        ("/database", 22),
        ("/data", 30),
        ("/data/x/y", 30),
        ("/data/cache/x", 31),
        ("/srv", 42),
        ("/srv/nfs", 42),
        ("/srv/new/x", 43),
    ] {
        assert_eq!(host().mount_of(Path::new(path)).map(|mount| mount.id), Some(id), "{path}");
    }
}

#[test]
fn mounts_below_a_root() {
    for (root, want) in [
        ("/", &[23, 30, 31, 32, 42, 43][..]),
        ("/data", &[31, 32]),
        ("/data/cache", &[]),
        ("/dat", &[]),
        // What was mounted below before /srv was mounted over is out of reach.
        ("/srv", &[43]),
    ] {
        let (mounts, root) = (host(), Path::new(root));
        let found: Vec<u32> = mounts.below(root).map(|mount| mount.id).collect();
        assert_eq!(found, want, "{root:?}");
    }
}

#[test]
fn a_mount_that_hides_others_from_above() {
    let text = b"22 1 8:1 / / rw - ext4 a rw\n23 22 8:2 / /a/b rw - ext4 b rw\n24 22 8:3 / /a rw - ext4 c rw\n";
    let mounts = Mounts::parse(text).unwrap();
    assert_eq!(mounts.mount_of(Path::new("/a/b")).unwrap().id, 24);
    assert_eq!(mounts.below(Path::new("/")).map(|mount| mount.id).collect::<Vec<_>>(), [24]);
}

#[test]
fn tops_of_the_tree() {
    // The first root filesystem is its own parent, the real one lies over it.
    let own = Mounts::parse(b"1 1 0:2 / / rw - rootfs none rw\n22 1 8:1 / / rw - ext4 a rw\n").unwrap();
    assert_eq!(own.mount_of(Path::new("/x")).unwrap().id, 22);
    // In a chroot that is no mount's root.
    let chroot = Mounts::parse(b"50 22 8:1 / /mnt rw - ext4 a rw\n51 50 8:1 / /mnt/x rw - ext4 a rw\n").unwrap();
    assert_eq!(chroot.mount_of(Path::new("/")), None);
    assert_eq!(chroot.mount_of(Path::new("/mnt/x/y")).unwrap().id, 51);
    // Torn: two that are each other's parents.
    let circle = Mounts::parse(b"1 2 0:2 / / rw - a a rw\n2 1 0:2 / / rw - a a rw\n").unwrap();
    assert_eq!(circle.mount_of(Path::new("/x")), None);
}

#[test]
fn faults_name_their_line() {
    for (line, what) in [
        ("x 1 8:1 / / rw - ext4 a rw", "the mount id is no number"),
        ("22", "no parent id"),
        ("22 +1 8:1 / / rw - ext4 a rw", "the parent id is no number"),
        ("22 1 81 / / rw - ext4 a rw", "the device number has no colon"),
        ("22 1 8: / / rw - ext4 a rw", "the device number is no number"),
        ("22 1 8:1 / / rw shared:1", "no hyphen behind the optional fields"),
        ("22 1 8:1 / / rw -", "no filesystem type"),
        ("22 1 8:1 / / rw - ext4", "no source"),
        ("22 1 8:1 / / rw - ext4 a", "no options of the filesystem"),
    ] {
        let text = format!("21 1 8:1 / / rw - ext4 a rw\n{line}\n");
        let malformed = Mounts::parse(text.as_bytes()).unwrap_err();
        assert_eq!(malformed, Malformed { line: 2, what, text: line.as_bytes().to_vec() });
    }
}

/// The kernel itself says which mount a path lies on: it gives the mount's id with a handle.
#[test]
fn agrees_with_the_kernel() {
    let Some(scratch) = Scratch::new("tmpfs", "agrees_with_the_kernel") else { return };
    let (below, over) = (scratch.path().join("a b\\"), scratch.path().join("a b\\/c\n"));
    let tmpfs = |point: &Path| {
        std::fs::create_dir_all(point).unwrap();
        nix::mount::mount(Some("x y"), point, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    };
    let watch = MountWatch::new().unwrap();
    tmpfs(&below);
    assert!(watch.changed().unwrap(), "a mount is reported");
    tmpfs(&over);
    tmpfs(&below);
    let mounts = Mounts::read().unwrap();
    for path in [Path::new("/"), scratch.path(), &below] {
        let dir = File::open(path).unwrap();
        let mount = mounts.mount_of(path).unwrap();
        assert_eq!(mount.id as i32, name_to_handle(dir.as_fd(), Path::new("")).unwrap().mount_id, "{path:?}");
        let dev = std::fs::metadata(path).unwrap().dev();
        assert_eq!(mount.dev, (nix::sys::stat::major(dev) as u32, nix::sys::stat::minor(dev) as u32));
    }
    let found: Vec<_> = mounts.below(scratch.path()).map(|mount| (mount.point.as_path(), mount.source.as_slice())).collect();
    assert_eq!(found, [(below.as_path(), &b"x y"[..])], "one of the three can be reached");
}

fn escape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for &b in text {
        match b {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend(format!("\\{b:03o}").bytes()),
            _ => out.push(b),
        }
    }
    out
}

proptest! {
    #[test]
    fn any_bytes_are_understood_or_refused(text in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(mounts) = Mounts::parse(&text) {
            mounts.mount_of(Path::new("/a/b"));
            mounts.below(Path::new("/")).count();
        }
    }

    /// A good table with bytes changed: reaches deeper than noise.
    #[test]
    fn damaged_tables_are_understood_or_refused(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut text = TABLE_OF_A_HOST.to_vec();
        for (at, byte) in damage {
            let at = at.index(text.len());
            text[at] = byte;
        }
        if let Ok(mounts) = Mounts::parse(&text) {
            mounts.mount_of(Path::new("/srv/new"));
            mounts.below(Path::new("/")).count();
        }
    }

    #[test]
    fn what_is_escaped_comes_back(
        id in any::<u32>(), parent in any::<u32>(), dev in any::<(u32, u32)>(),
        root in prop::collection::vec(any::<u8>(), 0..40),
        point in prop::collection::vec(any::<u8>(), 0..40),
        source in prop::collection::vec(any::<u8>(), 0..40),
        optional in prop::sample::select(vec!["", "shared:1 ", "shared:1 master:2 unbindable "]),
    ) {
        let mut text = format!("{id} {parent} {}:{} ", dev.0, dev.1).into_bytes();
        text.extend([&escape(&root)[..], b" ", &escape(&point), b" rw ", optional.as_bytes(), b"- fuse.x ", &escape(&source), b" rw,user_id=7\n"].concat());
        let mounts = Mounts::parse(&text).unwrap();
        let point = PathBuf::from(OsString::from_vec(point));
        let want = MountEntry { id, parent, dev, root, point, fs_type: b"fuse.x".to_vec(), source, user: Some(7) };
        prop_assert_eq!(mounts.iter().collect::<Vec<_>>(), vec![&want]);
    }
}
