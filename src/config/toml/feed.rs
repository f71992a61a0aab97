//! `[[mirror.feed]]` and `[[follow]]`.

use super::*;
use crate::config::checked::{Feed, Follow, Login};
use crate::location::feed_server;

/// The servers and the name of a feed, which is `name` where it has none of its own.
fn place(s: &mut Section<'_, '_>, name: Option<&str>) -> Option<Location> {
    let servers = s.required("servers", "[\"nats://HOST:4222\"]", |s| s.strings("servers"));
    let feed = s.string("feed").or(name.map(str::to_owned));
    let mut good = Vec::new();
    for server in servers.iter().flatten() {
        match feed_server(server.get_ref()) {
            Ok(server) => good.push(server),
            Err(e) => {
                let secret = e == LocationError::Password;
                s.found.problems.push(Problem { secret, ..Problem::new(e.to_string()).at(server.span()) });
            }
        }
    }
    let servers = servers.filter(|given| given.len() == good.len())?;
    if servers.is_empty() {
        s.found.problems.push(Problem::new("servers names no server").at(s.at.clone()).help("write [\"nats://HOST:4222\"]"));
        return None;
    }
    let text = format!("{}/{}", good.join(","), feed?);
    Location::parse(&text).map_err(|e| s.found.problems.push(Problem::new(e.to_string()).at(s.at.clone()))).ok()
}

fn login(s: &mut Section<'_, '_>) -> Login {
    Login {
        nats_user: s.string("nats_user"),
        nats_password_file: s.path("nats_password_file"),
        nkey_file: s.path("nkey_file"),
        ca_file: s.path("ca_file"),
        cert_file: s.path("cert_file"),
        key_file: s.path("key_file"),
    }
}

/// `mirror`: the feed is called so where it has no name.
pub(super) fn feed(s: &mut Section<'_, '_>, mirror: &str) -> Option<Target> {
    let name = s.required("name", "\"NAME\"", |s| s.string("name"));
    let location = place(s, Some(mirror));
    let d = Target::new(name.clone().unwrap_or_default(), location.clone().unwrap_or(Location::Local(PathBuf::new())));
    let f = Feed::default();
    let last = patterns(s, "last");
    let feed = Feed {
        last,
        login: login(s),
        keep: s.duration("keep").unwrap_or(f.keep),
        keep_bytes: s.text("keep_bytes", "a size in quotes, as in \"4GiB\"", units::file_size).unwrap_or(f.keep_bytes),
        replicas: s.count("replicas").unwrap_or(f.replicas),
        inline: s.text("inline", "a size in quotes, as in \"256KiB\"", units::size_or_none).unwrap_or(f.inline),
    };
    let target = Target {
        feed: Some(feed),
        retry_min: s.duration("retry_min").unwrap_or(d.retry_min),
        retry_max: s.duration("retry_max").unwrap_or(d.retry_max),
        ..d
    };
    name.and(location)?;
    Some(target)
}

/// Patterns, as what they exclude.
fn patterns(s: &mut Section<'_, '_>, key: &'static str) -> Filter {
    let given = s.strings(key).unwrap_or_default();
    let patterns: Vec<Vec<u8>> = given.iter().map(|p| p.get_ref().clone().into_bytes()).collect();
    Filter::new::<&[u8], _>(&[], &patterns).unwrap_or_else(|error| {
        let at = given.iter().find(|p| p.get_ref().as_bytes() == error.pattern).map(Spanned::span);
        s.found.problems.push(Problem { at, ..Problem::new(error.to_string()) });
        Filter::none()
    })
}

/// The place that a key names.
fn location(s: &mut Section<'_, '_>, key: &'static str) -> Option<Location> {
    let mut secret = false;
    let parse = |text: &str| Location::parse(text).inspect_err(|e| secret = *e == LocationError::Password);
    let location = s.text(key, "a string", parse);
    if secret && let Some(problem) = s.found.problems.last_mut() {
        problem.secret = true;
    }
    location
}

/// What is pulled from: one place, or several in order of preference.
fn upstreams(s: &mut Section<'_, '_>) -> Option<Vec<Location>> {
    if s.table.get("upstream").is_none_or(|value| value.get_ref().as_array().is_none()) {
        return Some(vec![location(s, "upstream")?]);
    }
    let given = s.strings("upstream")?;
    if given.is_empty() {
        let problem = Problem::new("upstream names no place").at(s.at.clone());
        s.found.problems.push(problem.help("write relays in order of preference, and the source last"));
        return None;
    }
    let mut good = Vec::new();
    for text in &given {
        match Location::parse(text.get_ref()) {
            Ok(location) => good.push(location),
            Err(e) => {
                let secret = e == LocationError::Password;
                s.found.problems.push(Problem { secret, ..Problem::new(e.to_string()).at(text.span()) });
            }
        }
    }
    (good.len() == given.len()).then_some(good)
}

/// A follower: a mirror whose source is its directory, and whose one target is its upstream.
pub(super) fn follow(s: &mut Section<'_, '_>) -> Option<Mirror> {
    let name = s.required("name", "\"NAME\"", |s| s.string("name"));
    let feed = place(s, name.as_deref());
    let directory = s.required("directory", "\"/the/copy\"", |s| s.path("directory"));
    let upstreams = s.required("upstream", "\"rsync://HOST/MODULE\"", upstreams);
    let (upstream, others) = match upstreams.as_deref() {
        Some([first, others @ ..]) => (Some(first.clone()), others.to_vec()),
        _ => (None, Vec::new()),
    };
    let serve = location(s, "serve");
    let d = Mirror::new(name.clone().unwrap_or_default(), directory.clone().unwrap_or_default());
    let t = Target::new(super::super::UPSTREAM, upstream.clone().unwrap_or(Location::Local(PathBuf::new())));
    let filter = patterns(s, "exclude");
    let follow = Follow {
        follower: s.string("follower").unwrap_or_else(super::super::host_name),
        others,
        serve,
        login: login(s),
        spread: s.duration("spread").unwrap_or(super::super::SPREAD),
        feed: feed.clone().unwrap_or(Location::Local(PathBuf::new())),
    };
    let target = Target {
        password_file: s.path("password_file"),
        compress: s.choice("compress").unwrap_or(t.compress),
        timeout: s.duration("timeout").unwrap_or(t.timeout),
        connect_timeout: s.duration("connect_timeout").unwrap_or(t.connect_timeout),
        watchdog: s.duration("watchdog").unwrap_or(t.watchdog),
        retry_min: s.duration("retry_min").unwrap_or(t.retry_min),
        retry_max: s.duration("retry_max").unwrap_or(t.retry_max),
        ssh: s.string("ssh"),
        ..t
    };
    let mirror = Mirror {
        max_delete: s.max_delete("max_delete"),
        filter,
        extras: Extras {
            hard_links: false,
            xattrs: s.flag("xattrs").unwrap_or(d.extras.xattrs),
            acls: s.flag("acls").unwrap_or(d.extras.acls),
            sparse: s.flag("sparse").unwrap_or(d.extras.sparse),
        },
        rsync: s.path("rsync").unwrap_or_else(|| d.rsync.clone()),
        follow: Some(follow),
        targets: vec![target],
        ..d
    };
    name.and(feed).and(directory).and(upstream)?;
    Some(mirror)
}
