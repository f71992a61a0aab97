//! Which capabilities the daemon and its children need (capabilities(7)), and why.
//!
//! | | daemon | rsync to another host | rsync to a directory here |
//! | --- | --- | --- | --- |
//! | `CAP_SYS_ADMIN` | fanotify marks, of filesystems mounted later too | with `xattrs`: `trusted.*` attributes show to no other process | as to the left |
//! | `CAP_DAC_READ_SEARCH` | directories by handle, and looking at everything | reading everything | reading everything |
//! | `CAP_SETPCAP` | to take from children what they do not need | | |
//! | `CAP_CHOWN` `CAP_FOWNER` `CAP_FSETID` `CAP_MKNOD` `CAP_DAC_OVERRIDE` | as its children, below | | owner, mode and times, set-ID bits, devices, writing everywhere |
//! | `CAP_SETFCAP` | as its children, below | | with `xattrs`: file capabilities |
//! | `CAP_DAC_OVERRIDE` | with a feed: its mark is kept in the source, which may be another user's | | |
//! | `CAP_SETUID` `CAP_SETGID` `CAP_KILL` | with `roles`, to start another user's process that fetches a mark, and to end it | | |
//!
//! The daemon has what its children have, else it could not look after them ([`crate::sys::caps`]);
//! it uses none of that. Programs that the configuration names besides rsync are the administrator's,
//! and what they need is not known: hooks start with what root has. A remote shell other than ssh
//! may have to become another user (`sudo -u`), so with one nothing is given up.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::OnceLock;

use caps::Capability;

use crate::config::{Config, Extras, Mirror};
use crate::location::Location;
use crate::sys::caps::{self as sys, Caps};
use crate::sys::child::User;

/// What a run of rsync may have; `None`: whatever the daemon has.
pub(crate) fn of_rsync(location: &Location, ssh: Option<&str>, extras: Extras) -> Option<Caps> {
    let mut list = vec![Capability::CAP_DAC_READ_SEARCH];
    if extras.xattrs {
        list.push(Capability::CAP_SYS_ADMIN);
    }
    match location {
        Location::Ssh { .. } | Location::Daemon { shell: true, .. } => {
            if let Some(words) = ssh {
                let program = Path::new(words.split_whitespace().next()?);
                program.file_name().filter(|name| *name == "ssh")?;
            }
        }
        Location::Daemon { .. } | Location::Feed { .. } => {}
        Location::Local(_) => {
            list.extend([
                Capability::CAP_CHOWN,
                Capability::CAP_DAC_OVERRIDE,
                Capability::CAP_FOWNER,
                Capability::CAP_FSETID,
                Capability::CAP_MKNOD,
            ]);
            if extras.xattrs {
                list.push(Capability::CAP_SETFCAP);
            }
        }
    }
    Some(Caps::of(&list))
}

/// What a run may have that fetches the mark of a target: nothing, but to read it from a directory
/// of this host.
pub(crate) fn of_fetch(location: &Location, ssh: Option<&str>) -> Option<Caps> {
    let usual = of_rsync(location, ssh, Extras::default())?;
    Some(match location {
        Location::Local(_) => usual.in_common(Caps::of(&[Capability::CAP_DAC_READ_SEARCH])),
        Location::Daemon { .. } | Location::Ssh { .. } | Location::Feed { .. } => Caps::of(&[]),
    })
}

/// To start a process as another user, and to end it.
fn of_other_users() -> Caps {
    Caps::of(&[Capability::CAP_SETUID, Capability::CAP_SETGID, Capability::CAP_KILL])
}

/// Whether the run that fetches a mark can be another user's: ssh reads keys that are this user's
/// alone.
fn fetches_as_another(location: &Location) -> bool {
    !location.is_behind_shell()
}

/// Whom the run becomes that fetches the mark of a target; `None`: no other user. A number that no
/// user and no group has, so that no other process can look into this one, which may have a
/// password, nor put a mark in the place of the one that it brings.
pub(crate) fn user_of_fetch(location: &Location) -> Option<User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    *fetches_as_another(location).then(|| USER.get_or_init(another_user))?
}

/// Numbers that are reserved and that no tool gives away: Debian's policy, 9.2.2, and systemd's
/// table of users and groups.
const RESERVED: RangeInclusive<u32> = 65_520..=65_533;

fn another_user() -> Option<User> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let can = Caps::effective().is_ok_and(|caps| caps.covers(of_other_users()));
    // A lookup that fails finds none.
    let free = |n: &u32| {
        let user = nix::unistd::User::from_uid((*n).into()).ok().flatten();
        let group = nix::unistd::Group::from_gid((*n).into()).ok().flatten();
        user.is_none() && group.is_none()
    };
    let found = RESERVED.rev().find(free).filter(|_| can);
    if found.is_none() {
        tracing::warn!(
            "role marks are fetched by a process of root's, without capabilities: to start one of another user takes CAP_SETUID, \
             CAP_SETGID and CAP_KILL, and a number from 65520 to 65533 that no user and no group has"
        );
    }
    found.map(|n| User { uid: n, gid: n })
}

/// Whether the run that fetches a mark can be kept from writing anything else. Not an ssh that is
/// to keep a connection for others, for which it makes a socket; not a shell of which nothing is
/// known.
pub(crate) fn fetch_writes_nothing_else(location: &Location, ssh: Option<&str>) -> bool {
    let shares =
        |words: &str| words.to_ascii_lowercase().contains("controlmaster") || words.split_whitespace().any(|w| w == "-M");
    of_fetch(location, ssh).is_some() && !(location.is_behind_shell() && ssh.is_some_and(shares))
}

/// To take leases on files of others, and to rename and delete them in their directories.
fn of_removal() -> Caps {
    Caps::of(&[Capability::CAP_LEASE, Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER])
}

/// What all rsync runs of a configuration need together; `None` when that cannot be determined.
fn of_children(mirrors: &[Mirror]) -> Option<Caps> {
    let targets = mirrors.iter().flat_map(|m| m.targets.iter().map(move |t| (m, t)));
    // What a follower pulls is written here.
    let here = Location::Local("/".into());
    targets
        .map(|(m, t)| {
            let peer = of_rsync(&t.location, t.ssh.as_deref(), m.extras)?;
            Some(if m.follow.is_some() { peer.with(of_rsync(&here, None, m.extras)?) } else { peer })
        })
        .try_fold(Caps::of(&[]), |all, one| Some(all.with(one?)))
}

/// What the daemon needs beside what its children need.
fn own(mirrors: &[Mirror]) -> Caps {
    let always = Caps::of(&[Capability::CAP_SYS_ADMIN, Capability::CAP_DAC_READ_SEARCH, Capability::CAP_SETPCAP]);
    let feeds = |m: &Mirror| m.targets.iter().any(|t| t.location.is_feed());
    let always = match mirrors.iter().any(feeds) {
        true => always.with(Caps::of(&[Capability::CAP_DAC_OVERRIDE])),
        false => always,
    };
    let fetches = |m: &Mirror| m.roles && m.targets.iter().any(|t| fetches_as_another(&t.location));
    let needed = if mirrors.iter().any(fetches) { always.with(of_other_users()) } else { always };
    match mirrors.iter().any(|mirror| mirror.remove_source_files) {
        true => needed.with(of_removal()),
        false => needed,
    }
}

/// Gives up what the daemon does not need, and returns that. Before the first thread.
pub(crate) fn drop_surplus(config: &Config) -> Caps {
    let none = Caps::of(&[]);
    let Some(children) = of_children(&config.mirrors) else {
        tracing::info!("every capability is kept, for a remote shell other than ssh may need any");
        return none;
    };
    let before = Caps::effective().unwrap_or(none);
    let kept = own(&config.mirrors).with(children);
    if let Err(error) = sys::keep_only(kept, children) {
        tracing::warn!(%error, "cannot give up the capabilities that are not needed; going on with them");
        return none;
    }
    before.without(kept)
}

/// What `config` needs of what was given up; `None` when it needs nothing of that.
pub(crate) fn lacks(config: &Config, given_up: Caps) -> Option<String> {
    let needed =
        of_children(&config.mirrors).map_or(given_up, |children| own(&config.mirrors).with(children).in_common(given_up));
    let names = needed.names();
    (!names.is_empty()).then(|| names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Target;

    fn names(url: &str, ssh: Option<&str>, extras: Extras) -> Option<Vec<String>> {
        of_rsync(&Location::parse(url).unwrap(), ssh, extras).map(Caps::names)
    }

    #[test]
    fn what_runs_need() {
        let xattrs = Extras { xattrs: true, ..Extras::default() };
        assert_eq!(names("rsync://h/m", None, Extras::default()).unwrap(), ["CAP_DAC_READ_SEARCH"]);
        assert_eq!(names("h:/d", Some("/usr/bin/ssh -p 22"), xattrs).unwrap(), ["CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"]);
        assert_eq!(names("/d", None, Extras::default()).unwrap().len(), 6);
        assert_eq!(names("/d", None, xattrs).unwrap().len(), 8);
        assert_eq!(names("h:/d", Some("sudo -u me ssh"), xattrs), None);
    }

    #[test]
    fn marks_are_fetched_by_another_user_where_that_can_be() {
        let of = |url: &str| Location::parse(url).unwrap();
        let root = nix::unistd::geteuid().is_root();
        for (url, another) in [("rsync://h/m", root), ("/d", root), ("h:/d", false)] {
            let user = user_of_fetch(&of(url));
            assert_eq!(user.is_some(), another, "{url}");
            assert!(user.is_none_or(|u| u.uid == u.gid && RESERVED.contains(&u.uid)), "{user:?}");
        }
        for (url, ssh, nothing_else) in [
            ("rsync://h/m", None, true),
            ("/d", None, true),
            ("h:/d", None, true),
            ("h:/d", Some("ssh -i /key"), true),
            ("h:/d", Some("ssh -o ControlMaster=auto"), false),
            ("h:/d", Some("ssh -M"), false),
            ("h:/d", Some("sudo -u me ssh"), false),
        ] {
            assert_eq!(fetch_writes_nothing_else(&of(url), ssh), nothing_else, "{url} {ssh:?}");
        }
        let mut mirror = Mirror::new("m", "/s");
        mirror.targets = vec![Target::new("a", of("rsync://h/m"))];
        assert_eq!(own(std::slice::from_ref(&mirror)).names().len(), 3);
        let mut published = mirror.clone();
        published.targets = vec![Target::new("feed", Location::Feed { feed: "feed".into(), servers: Vec::new() })];
        assert!(own(&[published]).names().contains(&"CAP_DAC_OVERRIDE".to_owned()), "the mark in the source");
        mirror.roles = true;
        assert_eq!(own(std::slice::from_ref(&mirror)).names().len(), 6);
        mirror.targets = vec![Target::new("a", of("h:/d"))];
        assert_eq!(own(&[mirror]).names().len(), 3);
    }

    #[test]
    fn one_wrapper_is_enough_to_keep_all() {
        let mut mirror = Mirror::new("m", "/s");
        mirror.targets =
            vec![Target::new("a", Location::parse("/d").unwrap()), Target::new("b", Location::parse("h:/d").unwrap())];
        assert_eq!(of_children(std::slice::from_ref(&mirror)).unwrap().names().len(), 6);
        mirror.targets[1].ssh = Some("runuser -u me -- ssh".into());
        assert_eq!(of_children(&[mirror]), None);
    }

    #[test]
    fn what_was_given_up_is_not_there_for_another_configuration() {
        let of = |url: &str, ssh: Option<&str>| {
            let mut mirror = Mirror::new("m", "/s");
            mirror.targets = vec![Target::new("a", Location::parse(url).unwrap())];
            mirror.targets[0].ssh = ssh.map(Into::into);
            Config { daemon: crate::config::Daemon::default(), mirrors: vec![mirror] }
        };
        let given_up = Caps::of(&[Capability::CAP_CHOWN, Capability::CAP_MKNOD, Capability::CAP_NET_ADMIN]);
        assert_eq!(lacks(&of("rsync://h/m", None), given_up), None);
        assert_eq!(lacks(&of("/d", None), given_up).unwrap(), "CAP_CHOWN CAP_MKNOD");
        assert_eq!(lacks(&of("h:/d", Some("sudo -u me ssh")), given_up).unwrap(), "CAP_CHOWN CAP_NET_ADMIN CAP_MKNOD");
        assert_eq!(lacks(&of("h:/d", Some("sudo -u me ssh")), Caps::of(&[])), None, "nothing was given up");
    }
}
