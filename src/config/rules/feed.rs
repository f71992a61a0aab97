//! Rules of feeds and of their followers.

use super::*;
use crate::config::checked::{Delete, Follow, Login};

/// The mark of a feed ([`crate::feed`]).
const FEED_MARK: &str = ".fansync/feed";

/// A feed of a mirror.
pub(super) fn published(mirror: &Mirror, target: &Target, path: &str, out: &mut Vec<Complaint>) {
    let title = format!("mirror {:?}, feed {:?}", mirror.name, target.name);
    let mut section = Section { path: path.into(), title, out };
    section.built();
    if mirror.roles {
        let help = "remove roles, or give the mirror with roles no feed";
        section.complain("roles", "a feed of a mirror with roles = true is not supported", help);
    }
    if mirror.delete != Delete::Always {
        let help = "remove delete: what a follower may delete is bounded there, by max_delete";
        section.complain("delete", "a feed lists all that is gone, so delete is true with a feed", help);
    }
    if mirror.filter.excludes(mark::DIR.as_bytes(), true) || mirror.filter.excludes(FEED_MARK.as_bytes(), false) {
        let help = "exclude something narrower: followers know the tree by that file";
        section.complain("exclude", format!("the mark of the feed, {}, is left out", FEED_MARK), help);
    }
    let Some(feed) = &target.feed else { return };
    section.login(&feed.login);
    section.count("replicas", feed.replicas, 1, 5);
    if feed.keep < Duration::from_secs(60) {
        section.complain("keep", format!("keep is {}", shown(feed.keep)), "keep records for at least \"1m\"");
    }
}

/// A follower.
pub(super) fn followed(mirror: &Mirror, path: &str, out: &mut Vec<Complaint>) {
    let Some(Follow { feed, login, follower, others, serve, .. }) = &mirror.follow else { return };
    let title = format!("follow {:?}", mirror.name);
    let mut section = Section { path: path.into(), title, out };
    section.built();
    section.login(login);
    section.absolute("directory", &mirror.source);
    if !feed.is_feed() {
        section.complain("servers", format!("{feed} is no feed"), "write nats://HOST:4222 or tls://HOST:4222");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if follower.is_empty() || follower.len() > 64 || !follower.chars().all(plain) {
        let help = "use up to 64 letters, digits, - and _; each follower of a feed has its own name";
        section.complain("follower", format!("the name {follower:?} cannot be used"), help);
    }
    let upstreams: Vec<&Location> = mirror.targets.iter().map(|target| &target.location).chain(others).collect();
    for (n, upstream) in upstreams.iter().enumerate() {
        if upstream.is_feed() || matches!(upstream, Location::Local(_)) {
            let help = "write rsync://host/module or host:/path: the same tree as the source of the feed";
            section.complain("upstream", format!("nothing can be pulled from {upstream}"), help);
        }
        if n + 1 < upstreams.len() && upstream.is_behind_shell() {
            let help = "relays serve their tree by an rsync daemon; put the source last";
            section.complain("upstream", format!("{upstream} comes before the last one, and is no relay"), help);
        }
        if upstreams[..n].contains(upstream) {
            section.complain("upstream", format!("{upstream} is there twice"), "name each place once");
        }
    }
    if let Some(serve) = serve {
        if !serve.is_socket() {
            let help = "write rsync://host/module, as this relay's followers have it in upstream";
            section.complain("serve", format!("{serve} is no module of an rsync daemon"), help);
        }
        if upstreams.contains(&serve) {
            let help = "a relay serves its own tree, and pulls from another place";
            section.complain("serve", format!("{serve} is the upstream, too"), help);
        }
    }
    if matches!(mirror.max_delete, Some(super::super::MaxDelete::Percent(_))) {
        section.complain("max_delete", "a follower counts deletions, it knows no share", "write a number of entries, as in 1000");
    }
}

impl Section<'_> {
    fn built(&mut self) {
        if cfg!(not(feature = "feed")) {
            self.complain("feed", "this fansync was built without feeds", "build it with the cargo feature `feed`");
        }
    }

    fn login(&mut self, login: &Login) {
        for (key, file) in [
            ("nats_password_file", &login.nats_password_file),
            ("nkey_file", &login.nkey_file),
            ("ca_file", &login.ca_file),
            ("cert_file", &login.cert_file),
            ("key_file", &login.key_file),
        ] {
            if let Some(file) = file {
                self.absolute(key, file);
            }
        }
        for (one, other, both) in [
            ("nats_user", "nats_password_file", login.nats_user.is_some() == login.nats_password_file.is_some()),
            ("cert_file", "key_file", login.cert_file.is_some() == login.key_file.is_some()),
        ] {
            if !both {
                self.complain(one, format!("{one} and {other} go together"), "give both, or none");
            }
        }
        if login.nkey_file.is_some() && login.nats_user.is_some() {
            self.complain("nkey_file", "an nkey and a user are two ways to log in", "give one of them");
        }
    }
}
