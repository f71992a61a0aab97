//! The decision: who besides us may write an inode, by its owner, mode and ACL. Pure.

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use nix::unistd::{Group, User, geteuid};

use super::walk::{Facts, Kind};

/// What others must not be able to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mind {
    /// Write it.
    Writing,
    /// Write it; and not everybody may read it. A group may, as rsync has it for its password
    /// files.
    Secret,
}

/// What is wrong with an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Its owner can change it.
    Owner(u32),
    /// Everybody can change it.
    Everyone {
        /// Its permission bits.
        mode: u32,
    },
    /// A group can change it.
    Group {
        /// Which.
        gid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// An entry of its access control list lets a user change it.
    AclUser(u32),
    /// An entry of its access control list lets a group change it.
    AclGroup(u32),
    /// Its access control list cannot be read, or is of a form that is not known.
    AclUnknown(String),
    /// Everybody can read the secret in it.
    Readable {
        /// Its permission bits.
        mode: u32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Owner(uid) => write!(f, "belongs to uid {uid}"),
            Reason::Everyone { mode } => write!(f, "has mode {mode:04o}, so that everybody can change it"),
            Reason::Group { gid, mode } => write!(f, "has mode {mode:04o}, so that group {gid} can change it"),
            Reason::AclUser(uid) => write!(f, "has an access control list that lets uid {uid} change it"),
            Reason::AclGroup(gid) => write!(f, "has an access control list that lets group {gid} change it"),
            Reason::AclUnknown(why) => write!(f, "has an access control list that cannot be judged: {why}"),
            Reason::Readable { mode } => write!(f, "has mode {mode:04o}, so that everybody can read the secret in it"),
        }
    }
}

impl Reason {
    /// What to do about it.
    pub(super) fn help(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            Reason::Owner(_) => "it must belong to root or to the user that fansync runs as".into(),
            Reason::Everyone { .. } => format!("check what it holds now, then run: chmod o-w {path}"),
            Reason::Group { .. } => format!("check what it holds now, then run: chmod g-w {path}"),
            Reason::AclUser(_) | Reason::AclGroup(_) => format!("check what it holds now, then run: setfacl -b {path}"),
            Reason::AclUnknown(_) => {
                format!(
                    "see that /proc is mounted, for it is read through that; `getfacl {path}` shows it, `setfacl -b {path}` removes it"
                )
            }
            Reason::Readable { .. } => format!("run: chmod 600 {path}"),
        }
    }
}

/// Who is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Us {
    /// The calling user.
    pub(crate) uid: u32,
    /// A group that only the calling user is in.
    pub(crate) own_group: Option<u32>,
}

impl Us {
    /// The calling user.
    pub(crate) fn now() -> Us {
        let uid = geteuid();
        // Asked once: the answer may come from a directory service.
        static OWN_GROUP: OnceLock<Option<u32>> = OnceLock::new();
        let own_group = if uid.is_root() { None } else { *OWN_GROUP.get_or_init(|| own_group(uid)) };
        Us { uid: uid.as_raw(), own_group }
    }

    fn trusts_user(&self, uid: u32) -> bool {
        uid == 0 || uid == self.uid
    }

    fn trusts_group(&self, gid: u32) -> bool {
        gid == 0 || self.own_group == Some(gid)
    }
}

/// The user's primary group, if it has his name and no other member: what `useradd` makes where
/// each user has a group.
fn own_group(uid: nix::unistd::Uid) -> Option<u32> {
    let user = User::from_uid(uid).ok()??;
    let group = Group::from_gid(user.gid).ok()??;
    (group.name == user.name && group.mem.iter().all(|name| *name == user.name)).then(|| group.gid.as_raw())
}

/// A POSIX access control list beyond the mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acl {
    /// There is none.
    None,
    /// Its entries.
    Entries(Vec<Entry>),
    /// It could not be read, or understood.
    Unknown(String),
}

/// An entry of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

// include/uapi/linux/posix_acl.h, posix_acl_xattr.h
const VERSION: u32 = 2;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const KNOWN: [u16; 6] = [0x01, USER, GROUP_OBJ, GROUP, MASK, 0x20];
const WRITE: u16 = 2;

impl Acl {
    /// Reads the value of `system.posix_acl_access`.
    pub fn parse(value: &[u8]) -> Acl {
        let unknown = |why: &str| Acl::Unknown(why.into());
        let Some((version, rest)) = value.split_first_chunk::<4>() else { return unknown("it is cut off") };
        if u32::from_le_bytes(*version) != VERSION {
            return unknown("it is of another version");
        }
        let (entries, left) = rest.as_chunks::<8>();
        if !left.is_empty() {
            return unknown("it is cut off");
        }
        let entry = |[a, b, c, d, e, f, g, h]: &[u8; 8]| Entry {
            tag: u16::from_le_bytes([*a, *b]),
            perm: u16::from_le_bytes([*c, *d]),
            id: u32::from_le_bytes([*e, *f, *g, *h]),
        };
        let entries: Vec<Entry> = entries.iter().map(entry).collect();
        match entries.iter().all(|e| KNOWN.contains(&e.tag)) {
            true => Acl::Entries(entries),
            false => unknown("it has an entry of an unknown kind"),
        }
    }
}

/// Why an inode is not ours alone, if it is not.
pub(crate) fn judge(facts: &Facts, us: &Us, mind: Mind) -> Option<Reason> {
    let mode = facts.mode;
    if !us.trusts_user(facts.uid) {
        return Some(Reason::Owner(facts.uid));
    }
    if mode & 0o002 != 0 {
        return Some(Reason::Everyone { mode });
    }
    if let Some(reason) = by_group(facts, us) {
        return Some(reason);
    }
    (mind == Mind::Secret && facts.kind == Kind::File && mode & 0o004 != 0).then_some(Reason::Readable { mode })
}

/// Which group, or entry of the list, may write. With a list the mode's middle bits are its mask,
/// and no group's.
fn by_group(facts: &Facts, us: &Us) -> Option<Reason> {
    let entries = match &facts.acl {
        Acl::None => {
            let writes = facts.mode & 0o020 != 0 && !us.trusts_group(facts.gid);
            return writes.then_some(Reason::Group { gid: facts.gid, mode: facts.mode });
        }
        Acl::Unknown(why) => return Some(Reason::AclUnknown(why.clone())),
        Acl::Entries(entries) => entries,
    };
    let mask = entries.iter().find(|e| e.tag == MASK).map_or(!0, |e| e.perm);
    entries.iter().filter(|e| e.perm & mask & WRITE != 0).find_map(|e| match e.tag {
        USER if !us.trusts_user(e.id) => Some(Reason::AclUser(e.id)),
        GROUP if !us.trusts_group(e.id) => Some(Reason::AclGroup(e.id)),
        GROUP_OBJ if !us.trusts_group(facts.gid) => Some(Reason::Group { gid: facts.gid, mode: facts.mode }),
        _ => None,
    })
}

/// Whether only owners can replace what lies in a directory, though others may write it. The
/// directory's own owner can as well.
pub(crate) fn is_sticky(facts: &Facts, us: &Us) -> bool {
    facts.kind == Kind::Directory && facts.mode & 0o1000 != 0 && us.trusts_user(facts.uid)
}

/// Whether the owner is trusted.
pub(crate) fn owner(facts: &Facts, us: &Us) -> Option<Reason> {
    (!us.trusts_user(facts.uid)).then_some(Reason::Owner(facts.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(uid: u32, gid: u32, mode: u32) -> Facts {
        Facts { kind: Kind::File, uid, gid, mode, acl: Acl::None }
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&perm.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    #[test]
    fn owners_modes_and_groups() {
        let root = Us { uid: 0, own_group: None };
        let user = Us { uid: 1000, own_group: Some(1000) };
        let none = Us { uid: 1000, own_group: None };
        for (us, uid, gid, mode, want) in [
            (&root, 0, 0, 0o644, None),
            (&root, 0, 0, 0o664, None),
            (&root, 0, 0, 0o666, Some(Reason::Everyone { mode: 0o666 })),
            (&root, 0, 50, 0o640, None),
            (&root, 0, 50, 0o660, Some(Reason::Group { gid: 50, mode: 0o660 })),
            (&root, 1000, 0, 0o600, Some(Reason::Owner(1000))),
            (&user, 1000, 1000, 0o664, None),
            (&user, 0, 1000, 0o664, None),
            (&user, 0, 0, 0o664, None),
            (&user, 1000, 100, 0o664, Some(Reason::Group { gid: 100, mode: 0o664 })),
            (&user, 1001, 1000, 0o600, Some(Reason::Owner(1001))),
            (&none, 1000, 1000, 0o664, Some(Reason::Group { gid: 1000, mode: 0o664 })),
        ] {
            assert_eq!(judge(&facts(uid, gid, mode), us, Mind::Writing), want, "{us:?} {uid} {gid} {mode:o}");
        }
    }

    #[test]
    fn secrets_that_everybody_reads() {
        let root = Us { uid: 0, own_group: None };
        for (mode, secret, writing) in [(0o600, true, true), (0o640, true, true), (0o644, false, true), (0o604, false, true)] {
            assert_eq!(judge(&facts(0, 4, mode), &root, Mind::Secret).is_none(), secret, "{mode:o}");
            assert_eq!(judge(&facts(0, 4, mode), &root, Mind::Writing).is_none(), writing, "{mode:o}");
        }
    }

    #[test]
    fn lists() {
        let root = Us { uid: 0, own_group: None };
        let none = u32::MAX;
        let judged = |gid: u32, mode: u32, value: Vec<u8>| {
            judge(&Facts { acl: Acl::parse(&value), ..facts(0, gid, mode) }, &root, Mind::Writing)
        };
        let with = |user_perm: u16, mask: u16| {
            acl(&[(1, 6, none), (2, user_perm, 65534), (4, 0, none), (0x10, mask, none), (0x20, 0, none)])
        };
        assert_eq!(judged(0, 0o660, with(6, 6)), Some(Reason::AclUser(65534)));
        assert_eq!(judged(0, 0o640, with(6, 4)), None, "the mask takes the right away");
        assert_eq!(judged(0, 0o640, with(4, 4)), None, "who may read does not change it");
        // The mode's middle bits are the mask: the owning group itself may not write here.
        assert_eq!(judged(50, 0o660, acl(&[(1, 6, none), (2, 4, 1), (4, 4, none), (0x10, 6, none), (0x20, 0, none)])), None);
        let group = acl(&[(1, 6, none), (4, 6, none), (8, 6, 60), (0x10, 6, none), (0x20, 0, none)]);
        assert_eq!(judged(0, 0o660, group.clone()), Some(Reason::AclGroup(60)));
        assert_eq!(judged(50, 0o660, group), Some(Reason::Group { gid: 50, mode: 0o660 }));
        for broken in [&b""[..], b"\x02\0\0", &[3, 0, 0, 0], &[2, 0, 0, 0, 1], &acl(&[(0x40, 7, 0)])] {
            assert!(matches!(judged(0, 0o600, broken.to_vec()), Some(Reason::AclUnknown(_))), "{broken:?}");
        }
    }
}
