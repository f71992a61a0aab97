//! Targets that keep the modes of files and not their owners: a set-user-ID file of any user of the
//! source becomes one of another user there, and gives that user's rights to those who run it.
//!
//! Not judged: modules, since only their server knows which user they run as, and whether the
//! filesystem there is mounted `nosuid`. `check --connect` tries it ([`crate::connect`]).

use super::checked::{Config, Target};
use super::cite::Warning;
use crate::location::Location;

impl Config {
    /// Of which targets that is so, a line each. For `check`, and for the log at the start.
    pub(crate) fn set_id_changes_hands(&self) -> Vec<Warning> {
        let of = |(i, mirror): (usize, &'_ super::Mirror)| {
            let judged = mirror.targets.iter().enumerate().map(move |(j, target)| (i, j, target));
            judged
                .filter_map(|(i, j, target)| Some(Warning::new(format!("mirror.{i}.target.{j}.url"), warned(mirror, target)?)))
                .collect::<Vec<_>>()
        };
        self.mirrors.iter().enumerate().flat_map(of).collect()
    }
}

fn warned(mirror: &super::Mirror, target: &Target) -> Option<String> {
    let owner = new_owner(&target.location, &target.args)?;
    Some(format!(
        "mirror {:?}, target {:?}: set-user-ID and set-group-ID files keep these bits there and not their owner: they become those of \
                 {owner}, whose rights they give to all who run them; add --chmod=Fug-s to args, or let the copy lie on a filesystem that is \
                 mounted nosuid",
        mirror.name, target.name
    ))
}

/// To whom files belong on a target, in words; `None` where that is the same user as here, or where
/// set-ID bits are not kept, or stored without effect.
fn new_owner(location: &Location, args: &[String]) -> Option<String> {
    if !keeps_set_id(args) || is_fake_super(location, args) {
        return None;
    }
    let mut long = args.iter().filter_map(|arg| arg.strip_prefix("--"));
    if long.clone().any(|arg| ["chown", "usermap"].contains(&arg.split('=').next().unwrap_or(arg))) {
        return Some("the user that args name".into());
    }
    let owner = long.rfind(|arg| ["owner", "no-owner", "no-o"].contains(arg));
    match location {
        Location::Ssh { user: Some(user), .. } | Location::Daemon { shell: true, user: Some(user), .. } if user != "root" => {
            Some(user.clone())
        }
        _ if owner.is_some_and(|arg| arg != "owner") => Some("the user that rsync runs as there".into()),
        _ => None,
    }
}

/// Whether the receiving rsync stores owners and special bits as attributes.
fn is_fake_super(location: &Location, args: &[String]) -> bool {
    let here = matches!(location, Location::Local(_));
    let passed = |(at, arg): (usize, &String)| match arg.as_str() {
        "-M--fake-super" | "--remote-option=--fake-super" => true,
        "--fake-super" => here || at.checked_sub(1).is_some_and(|at| ["-M", "--remote-option"].contains(&args[at].as_str())),
        _ => false,
    };
    args.iter().enumerate().any(passed)
}

/// Whether set-user-ID or set-group-ID bits of files arrive, by `--no-perms` and `--chmod`.
fn keeps_set_id(args: &[String]) -> bool {
    let mut perms = true;
    let mut kept = SetId { user: true, group: true };
    let mut words = args.iter();
    while let Some(arg) = words.next() {
        match (arg.as_str(), arg.strip_prefix("--chmod=")) {
            ("--no-perms" | "--no-p", _) => perms = false,
            ("--perms" | "-p", _) => perms = true,
            ("--chmod", _) => words.next().into_iter().for_each(|changes| kept.change(changes)),
            (_, Some(changes)) => kept.change(changes),
            _ => {}
        }
    }
    perms && (kept.user || kept.group)
}

/// Which of the bits a file keeps.
struct SetId {
    user: bool,
    group: bool,
}

impl SetId {
    /// By the value of `--chmod`, as rsync 3.5.0 reads it: `a` is user and group, no letter is the
    /// user alone, and `=` without `s` leaves the bits as they are.
    fn change(&mut self, changes: &str) {
        for change in changes.split(',').filter(|change| !change.starts_with('D')) {
            let change = change.trim_start_matches('F');
            if let Ok(mode) = u32::from_str_radix(change, 8) {
                (self.user, self.group) = (mode & 0o4000 != 0, mode & 0o2000 != 0);
                continue;
            }
            let Some((who, what)) = change.find(['+', '-', '=']).map(|at| change.split_at(at)) else { continue };
            if !what.contains('s') {
                continue;
            }
            let set = !what.starts_with('-');
            if who.contains(['u', 'a']) || !who.contains('g') {
                self.user = set;
            }
            if who.contains(['g', 'a']) {
                self.group = set;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_set_id_bits_a_chmod_leaves() {
        // As measured with rsync 3.5.0 on a file of mode 6755.
        for (changes, user, group) in [
            ("ug-s", false, false),
            ("Fug-s", false, false),
            ("Fug-st", false, false),
            ("a-s", false, false),
            ("ugo-s", false, false),
            ("Fu-s,Fg-s", false, false),
            ("F755", false, false),
            ("0755", false, false),
            ("F6755", true, true),
            ("-s", false, true),
            ("o-s", false, true),
            ("u-s", false, true),
            ("u-xs", false, true),
            ("g-s", true, false),
            ("ug-s,u+s", true, false),
            ("D-s", true, true),
            ("Da-s", true, true),
            ("ug-x", true, true),
            ("u=rwx", true, true),
            ("u=rwx,g=rx", true, true),
        ] {
            let mut kept = SetId { user: true, group: true };
            kept.change(changes);
            assert_eq!((kept.user, kept.group), (user, group), "{changes}");
        }
    }

    #[test]
    fn set_id_files_that_become_another_users() {
        for (url, args, owner) in [
            ("bob@h:/d", &[][..], "bob"),
            ("bob@h:/d", &["--bwlimit=1m"], "bob"),
            ("bob@h:/d", &["--fake-super"], "bob"),
            ("bob@h:/d", &["--no-owner"], "bob"),
            ("bob@h:/d", &["--chmod=u-s"], "bob"),
            ("bob@h:/d", &["--chmod=Fug-s", "--chmod=g+s"], "bob"),
            ("bob@h:/d", &["-M--fake-super"], ""),
            ("bob@h:/d", &["-M", "--fake-super"], ""),
            ("bob@h:/d", &["--remote-option=--fake-super"], ""),
            ("bob@h:/d", &["--chmod=Fug-s"], ""),
            ("bob@h:/d", &["--chmod", "ug-s"], ""),
            ("bob@h:/d", &["--no-perms"], ""),
            ("root@h:/d", &[], ""),
            ("h:/d", &[], ""),
            ("bob@h::m", &[], ""),
            ("/d", &[], ""),
            ("/d", &["--no-owner", "--owner"], ""),
            ("/d", &["--no-owner", "--fake-super"], ""),
            ("root@h:/d", &["--no-owner"], "the user that rsync runs as there"),
            ("/d", &["--owner", "--no-o"], "the user that rsync runs as there"),
            ("h::m", &["--no-owner"], "the user that rsync runs as there"),
            ("/d", &["--chown=root"], "the user that args name"),
            ("/d", &["--usermap", "*:root"], "the user that args name"),
        ] {
            let args: Vec<String> = args.iter().map(|arg| (*arg).into()).collect();
            let found = new_owner(&Location::parse(url).unwrap(), &args);
            assert_eq!(found.as_deref().unwrap_or_default(), owner, "{url} {args:?}");
        }
    }
}
