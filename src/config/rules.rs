//! What must hold between and within values, whether a file or a command line gave them.
//!
//! The rules about places guard data: a target inside its source feeds itself, two mirrors that
//! delete in one place delete each other's files.

mod bandwidth;
mod feed;
mod hook;

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::args;
use super::checked::{Config, Daemon, Delete, Initial, Mirror, Target};
use super::ground::Ground;
use super::units::shown;
use crate::filter::Filter;
use crate::location::Location;
use crate::role::mark;

/// The least `max_bytes` of a batch.
const MAX_BYTES_MIN: u64 = 1024 * 1024;

/// The least `backup_keep`.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The longest `delay`.
const MOST_DELAY: Duration = Duration::from_secs(24 * 3600);

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Complaint {
    /// The key it is about, as a path: `mirror.0.target.1.args.2`.
    pub(super) key: String,
    pub(super) message: String,
    pub(super) help: String,
}

/// Collects complaints about one section.
struct Section<'a> {
    path: String,
    /// How messages call it.
    title: String,
    out: &'a mut Vec<Complaint>,
}

impl Section<'_> {
    fn complain(&mut self, key: &str, message: impl AsRef<str>, help: impl Into<String>) {
        let key = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let message = format!("{}: {}", self.title, message.as_ref());
        self.out.push(Complaint { key, message, help: help.into() });
    }

    fn name(&mut self, name: &str) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) || name.starts_with(['-', '.']) {
            let help =
                "use up to 64 letters, digits, - _ and . , beginning with a letter or digit; it names files and shows in status";
            self.complain("name", format!("the name {name:?} cannot be used"), help);
        }
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            self.complain(
                key,
                format!("{key} {path:?} is not an absolute path"),
                "write the whole path; ~ is not expanded, and a variable is written ${NAME}",
            );
        } else if path.components().any(|c| c == Component::ParentDir) {
            self.complain(key, format!("{key} {path:?} holds .."), "write the path that it means");
        }
    }

    fn count(&mut self, key: &str, value: usize, from: usize, to: usize) {
        if !(from..=to).contains(&value) {
            self.complain(key, format!("{key} is {value}"), format!("use a number from {from} to {to}"));
        }
    }

    fn whole_seconds(&mut self, key: &str, value: Duration) {
        if value.subsec_nanos() != 0 || value.as_secs() > i32::MAX as u64 {
            self.complain(
                key,
                format!("{key} is {}, and rsync counts in whole seconds", shown(value)),
                "write it in seconds, as in \"10s\"",
            );
        }
    }

    fn least_wait(&mut self, delay: Option<Duration>) {
        if let Some(delay) = delay.filter(|delay| *delay > MOST_DELAY) {
            let message = format!("delay is {}, more than a day", shown(delay));
            self.complain("delay", message, "changes that are to leave so rarely are full_every's, with [mirror.events] off");
        }
    }

    /// `small` must be less than `large`.
    fn below(&mut self, small: (&str, Duration), large: (&str, Duration)) {
        if small.1 >= large.1 {
            let message = format!("{} is {}, not less than {} with {}", small.0, shown(small.1), large.0, shown(large.1));
            self.complain(small.0, message, format!("lower {} or raise {}", small.0, large.0));
        }
    }

    /// `small` must not exceed `large`.
    fn ordered(&mut self, small: (&str, Duration), large: (&str, Duration)) {
        if small.1 > large.1 {
            let message = format!("{} is {}, more than {} with {}", small.0, shown(small.1), large.0, shown(large.1));
            self.complain(small.0, message, format!("lower {} or raise {}", small.0, large.0));
        }
    }

    fn words(&mut self, key: &str, value: &Option<String>, ssh: bool) {
        let Some(value) = value else { return };
        if !ssh {
            self.complain(
                key,
                format!("{key} is for targets behind ssh only"),
                "remove it, or write the url as host:/path or ssh+rsync://host/module",
            );
        } else if value.trim().is_empty() || value.contains(char::is_control) {
            self.complain(
                key,
                format!("{key} {value:?} is no command"),
                "write the program and its words, as in \"ssh -p 2222\"",
            );
        } else if value.starts_with('-') {
            self.complain(key, format!("{key} {value:?} begins with an option"), "begin with the program, as in \"ssh -p 2222\"");
        }
    }
}

/// All rules; empty if they hold.
pub(super) fn check(config: &Config) -> Vec<Complaint> {
    let mut out = Vec::new();
    daemon(&config.daemon, &mut out);
    for (i, m) in config.mirrors.iter().enumerate() {
        // They stand behind the mirrors.
        let before = config.mirrors[..i].iter().filter(|before| before.follow.is_some()).count();
        let path = if m.follow.is_some() { format!("follow.{before}") } else { format!("mirror.{i}") };
        mirror(m, &path, &mut out);
    }
    conflicts(config, &mut out);
    out
}

fn daemon(daemon: &Daemon, out: &mut Vec<Complaint>) {
    let mut section = Section { path: "daemon".into(), title: "daemon".into(), out };
    section.absolute("state_dir", &daemon.state_dir);
    section.absolute("status_socket", &daemon.status_socket);
    // unix(7): sun_path has 108 bytes with the NUL.
    if daemon.status_socket.as_os_str().len() > 107 {
        section.complain(
            "status_socket",
            "the path of status_socket is longer than 107 bytes, which no socket can have",
            "use a shorter one",
        );
    }
    if let Some(group) = &daemon.socket_group
        && (group.is_empty() || group.contains(|c: char| c.is_control() || c.is_whitespace() || c == ':'))
    {
        let message = format!("socket_group {group:?} is no name of a group");
        section.complain("socket_group", message, "write a group of this host, as in \"monitoring\"");
    }
    if let Some(runs) = daemon.max_runs {
        section.count("max_runs", runs, 1, 10_000);
    }
    bandwidth::check(daemon, &mut section);
    if let Some(file) = &daemon.metrics_file {
        section.absolute("metrics_file", file);
        if file.extension().is_none_or(|end| end != "prom") {
            let message = format!("metrics_file {file:?} does not end in .prom");
            section.complain("metrics_file", message, "node_exporter's textfile collector reads files that end in .prom only");
        }
    }
    if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&daemon.metrics_interval) {
        let message = format!("metrics_interval is {}", shown(daemon.metrics_interval));
        section.complain("metrics_interval", message, "use a time from \"1s\" to \"1h\"");
    }
}

fn mirror(mirror: &Mirror, path: &str, out: &mut Vec<Complaint>) {
    let mut section = Section { path: path.into(), title: format!("mirror {:?}", mirror.name), out };
    section.name(&mirror.name);
    section.absolute("source", &mirror.source);
    let rsync = &mirror.rsync;
    if rsync.as_os_str().is_empty() || (!rsync.is_absolute() && rsync.components().count() != 1) || rsync.as_os_str() == ".." {
        let help = "write an absolute path, or a plain name to be found in PATH";
        section.complain("rsync", format!("rsync {rsync:?} is neither an absolute path nor a plain name"), help);
    }
    if rsync.file_name().is_some_and(|name| name == "rsync-ssl") {
        let help = "use ssh, a VPN, or a tunnel in front of the module (docs/targets.md)";
        section.complain(
            "rsync",
            "rsync-ssl is a program that starts rsync by itself, and takes none of what fansync gives it",
            help,
        );
    }
    removal(mirror, &mut section);
    if mirror.roles && !mirror.filter.excludes(mark::DIR.as_bytes(), true) {
        let help = format!("make the include pattern narrower, so that it does not match {}", mark::DIR);
        let key = if mirror.filter.include().is_empty() { "filter" } else { "include" };
        section.complain(key, format!("with roles = true, {} must be left out, and is included", mark::DIR), help);
    }
    match mirror.delete {
        Delete::Startup if mirror.initial == Initial::None => section.complain(
            "delete",
            "delete = \"startup\" deletes by the comparison at the start, and initial = \"none\" makes none",
            "set delete = false, or initial = \"reconcile\"",
        ),
        Delete::Running if mirror.filter.includes() => section.complain(
            "delete",
            "delete = \"running\" deletes by name, which rsync cannot where patterns include",
            "use exclude patterns alone, or set delete = true or false",
        ),
        _ => {}
    }
    if let Some(file) = &mirror.fail_log {
        section.absolute("fail_log", file);
    }
    if let Err(error) = Filter::new::<&[u8], _>(&[], &mirror.full_exclude) {
        section.complain("full_exclude", error.to_string(), "see \"Patterns\" in docs/config.md");
    }
    if !mirror.full_exclude.is_empty() && mirror.full_every.is_none() && mirror.full_at.is_empty() {
        section.complain(
            "full_exclude",
            "full_exclude is for the passes of full_every and full_at, and there are none",
            "set full_every or full_at, or remove it",
        );
    }
    if mirror.verify_every.is_none() && mirror.verify_at.is_empty() && (mirror.verify_checksum || !mirror.verify_repair) {
        let key = if mirror.verify_checksum { "verify_checksum" } else { "verify_repair" };
        section.complain(
            key,
            format!("{key} is for the comparisons of verify_every and verify_at, and there are none"),
            "set verify_every or verify_at, or remove it",
        );
    }
    if mirror.targets.is_empty() && mirror.hooks.is_empty() {
        section.complain("target", "there is no target", "add a [[mirror.target]] with a name and a url, or a [[mirror.hook]]");
    }
    let batch = mirror.batch;
    section.path = format!("{path}.batch");
    section.ordered(("settle", batch.settle), ("max_delay", batch.max_delay));
    section.least_wait(batch.delay);
    section.count("max_paths", batch.max_paths, 1, 1_000_000);
    if let Some(bytes) = batch.max_bytes.filter(|bytes| *bytes < MAX_BYTES_MIN) {
        let help = "a run costs as much as a megabyte: write \"1MiB\" or more";
        section.complain("max_bytes", format!("max_bytes is {bytes} bytes"), help);
    }
    section.count("max_pending", batch.max_pending, 1000, 1_000_000_000);
    for (i, t) in mirror.targets.iter().enumerate() {
        target(mirror, t, &format!("{path}.target.{i}"), out);
        if t.location.is_feed() {
            feed::published(mirror, t, path, out);
        }
    }
    feed::followed(mirror, path, out);
    for (i, h) in mirror.hooks.iter().enumerate() {
        hook::hook(mirror, h, i, &format!("{path}.hook.{i}"), out);
    }
}

fn target(mirror: &Mirror, target: &Target, path: &str, out: &mut Vec<Complaint>) {
    let title = format!("mirror {:?}, target {:?}", mirror.name, target.name);
    let mut section = Section { path: path.into(), title, out };
    section.name(&target.name);
    if let Some(file) = &target.password_file {
        if !target.location.is_daemon() {
            let help = "remove it; ssh uses keys, and a local copy needs no password";
            section.complain("password_file", "password_file is for rsync daemons only", help);
        }
        section.absolute("password_file", file);
    }
    for refused in args::check(&target.args) {
        let message = format!("the rsync option {} is refused", refused.option);
        section.complain(&format!("args.{}", refused.word), message, refused.reason);
    }
    section.least_wait(target.delay);
    section.count("jobs", target.jobs, 1, 64);
    section.count("small_jobs", target.small_jobs, 1, 64);
    section.count("nice", target.nice.into(), 0, 19);
    section.count("standby", target.standby, 0, 64);
    section.whole_seconds("timeout", target.timeout);
    section.whole_seconds("connect_timeout", target.connect_timeout);
    // Else the watchdog ends a run that rsync was about to end by itself, with its own words.
    section.below(("timeout", target.timeout), ("watchdog", target.watchdog));
    section.below(("connect_timeout", target.connect_timeout), ("watchdog", target.watchdog));
    section.ordered(("retry_min", target.retry_min), ("retry_max", target.retry_max));
    if let Some(failed) = target.retry_failed {
        section.ordered(("retry_min", target.retry_min), ("retry_failed", failed));
    }
    backups(mirror, target, &mut section);
    if target.ssh.is_some() && target.location.is_socket() {
        let help = "that is the port of an rsync daemon; for one behind ssh write host::module, and the port of ssh as in \"ssh -p 2222\"";
        section.complain("url", format!("{} has a port, and the target a remote shell", target.location), help);
    }
    let ssh = target.location.is_behind_shell();
    section.words("ssh", &target.ssh, ssh || target.location.is_socket());
    section.words("rsync_path", &target.rsync_path, ssh);
}

/// Nothing may go from a target because it went from the source.
fn removal(mirror: &Mirror, section: &mut Section<'_>) {
    if !mirror.remove_source_files {
        return;
    }
    let key = "remove_source_files";
    if mirror.delete != Delete::Never {
        let help = "set delete = false; else a comparison would delete on the targets what was removed here";
        section.complain(key, "remove_source_files goes with delete = false only", help);
    }
    if mirror.targets.is_empty() || mirror.targets.iter().any(|target| target.location.is_feed()) {
        let help = "whether a feed's followers, or hooks, have a file is not known; give the mirror targets of its own";
        section.complain(key, "remove_source_files needs targets that can be compared", help);
    }
    if mirror.roles {
        let help = "a server that takes over serves its own tree; use one of the two";
        section.complain(key, "remove_source_files does not go with roles", help);
    }
    if !mirror.filter.excludes(mark::DIR.as_bytes(), true) {
        let help = format!("make the include pattern narrower, so that it does not match {}", mark::DIR);
        section.complain(key, format!("with remove_source_files, {} must be left out, and is included", mark::DIR), help);
    }
}

/// What is kept on the target may not lie where runs delete it, nor be the copy itself.
fn backups(mirror: &Mirror, target: &Target, section: &mut Section<'_>) {
    if let Some(keep) = target.backup_keep {
        if target.backup_dir.is_none() {
            section.complain("backup_keep", "backup_keep is for a backup_dir, and there is none", "set backup_dir, or remove it");
        }
        if keep < DAY {
            let help = "what is kept is counted in days: write \"1d\" or more";
            section.complain("backup_keep", format!("backup_keep is {}", shown(keep)), help);
        }
    }
    let Some(dir) = &target.backup_dir else { return };
    section.absolute("backup_dir", dir);
    let Some(place) = target.location.elsewhere(dir) else {
        let help = "write an absolute path of the target's host; in a module, one from the module's own directory";
        return section.complain("backup_dir", format!("backup_dir {dir:?} cannot be used"), help);
    };
    let (place, copy) = (canonical(&place), canonical(&target.location));
    if let Some(below) = copy.holds(&place)
        && (below.is_empty() || !mirror.filter.excludes(below.as_bytes(), true))
    {
        let message = format!("backup_dir {} lies inside the copy, where the next comparison deletes it", dir.display());
        let help = match below.is_empty() {
            true => "choose a directory beside the copy".to_owned(),
            false => format!("choose a directory beside the copy, or exclude \"/{below}/\""),
        };
        section.complain("backup_dir", message, help);
    } else if place.holds(&copy).is_some_and(|below| !below.is_empty()) {
        let message = format!("the copy {} lies inside backup_dir {}", target.location, dir.display());
        section.complain("backup_dir", message, "choose a directory beside the copy");
    }
    if let Location::Local(place) = &place
        && place.starts_with(resolved(&mirror.source))
    {
        let message = format!("backup_dir {} lies inside the source {}", dir.display(), mirror.source.display());
        section.complain("backup_dir", message, "what is kept would be mirrored; choose a directory outside the source");
    }
}

/// No target deletes where another keeps what it replaced, and no two keep it in one place.
fn between_backups(config: &Config, out: &mut Vec<Complaint>) {
    let all: Vec<(usize, usize, &Mirror, &Target)> = (config.mirrors.iter().enumerate())
        .flat_map(|(i, m)| m.targets.iter().enumerate().map(move |(j, t)| (i, j, m, t)))
        .collect();
    let place = |target: &Target| Some(canonical(&target.location.elsewhere(target.backup_dir.as_ref()?)?));
    for (n, (i, j, mirror, target)) in all.iter().enumerate() {
        let Some(own) = place(target) else { continue };
        let title = format!("mirror {:?}, target {:?}", mirror.name, target.name);
        let mut section = Section { path: format!("mirror.{i}.target.{j}"), title, out };
        for (m, (.., other_mirror, other)) in all.iter().enumerate().filter(|(m, _)| *m != n) {
            let named = format!("target {:?} of mirror {:?}", other.name, other_mirror.name);
            let below = canonical(&other.location).holds(&own);
            if other_mirror.delete.ever() && below.is_some_and(|below| !other_mirror.filter.excludes(below.as_bytes(), true)) {
                let message = format!("backup_dir lies inside {}, {named}, which deletes there", other.location);
                section.complain("backup_dir", message, "choose another directory");
            }
            if m < n && place(other).is_some_and(|place| place.holds(&own).is_some() || own.holds(&place).is_some()) {
                let message = format!("{named} keeps what it replaces in the same place");
                section.complain("backup_dir", message, "give each target a directory of its own");
            }
        }
    }
}

/// What must hold between sections.
fn conflicts(config: &Config, out: &mut Vec<Complaint>) {
    if config.mirrors.is_empty() {
        let (key, message) = ("mirror".to_owned(), "there is no mirror".to_owned());
        out.push(Complaint { key, message, help: "add a [[mirror]] with a name, a source and a [[mirror.target]]".into() });
    }
    let ground = Ground::look();
    for (i, mirror) in config.mirrors.iter().enumerate() {
        let title = format!("mirror {:?}", mirror.name);
        let mut section = Section { path: format!("mirror.{i}"), title, out };
        if config.mirrors[..i].iter().any(|m| m.name == mirror.name) {
            section.complain("name", "another mirror has this name", "give each mirror its own");
        }
        let source = resolved(&mirror.source);
        let state = &config.daemon.state_dir;
        if let Ok(inside) = resolved(state).strip_prefix(&source)
            && !mirror.filter.excludes(inside.as_os_str().as_encoded_bytes(), true)
        {
            let message = format!("the daemon's state_dir {} lies inside the source", state.display());
            let help = format!("each write to it would be a change to mirror; move it, or exclude \"/{}/\"", inside.display());
            section.complain("source", message, help);
        }
        for (j, target) in mirror.targets.iter().enumerate() {
            section.title = format!("mirror {:?}, target {:?}", mirror.name, target.name);
            if mirror.targets[..j].iter().any(|t| t.name == target.name) {
                section.complain(
                    &format!("target.{j}.name"),
                    "another target of this mirror has this name",
                    "give each target its own",
                );
            }
            let Location::Local(path) = &target.location else { continue };
            let path = resolved(path);
            let key = format!("target.{j}.url");
            if ground.holds(&source, &path) {
                let by = if path.starts_with(&source) { "" } else { ", by another mount" };
                let message = format!("the target {} lies inside the source {}{by}", target.location, mirror.source.display());
                section.complain(&key, message, "the copy would contain itself; choose a place outside the source");
            } else if ground.holds(&path, &source) {
                let by = if source.starts_with(&path) { "" } else { ", by another mount" };
                let message = format!("the source {} lies inside the target {}{by}", mirror.source.display(), target.location);
                section.complain(&key, message, "the source would be taken for a leftover and deleted; choose another place");
            }
        }
    }
    sources_that_lose_files(config, &ground, out);
    between_targets(config, out);
    between_backups(config, out);
    loops(config, &ground, out);
}

/// No other mirror has a source of which files are removed: it would not be waited for.
fn sources_that_lose_files(config: &Config, ground: &Ground, out: &mut Vec<Complaint>) {
    let sources: Vec<PathBuf> = config.mirrors.iter().map(|m| resolved(&m.source)).collect();
    for (i, mirror) in config.mirrors.iter().enumerate().filter(|(_, m)| m.remove_source_files) {
        let title = format!("mirror {:?}", mirror.name);
        let mut section = Section { path: format!("mirror.{i}"), title, out };
        let others = config.mirrors.iter().enumerate().filter(|(j, _)| *j != i);
        for (_, other) in others.filter(|(j, _)| ground.touch(&sources[*j], &sources[i])) {
            let message =
                format!("the source of mirror {:?} is in the tree that files are removed from, or holds it", other.name);
            let help = "a file would go before that mirror has sent it; make its targets targets of this mirror";
            section.complain("remove_source_files", message, help);
        }
    }
}

/// No two targets in one place, none below one that is deleted in.
fn between_targets(config: &Config, out: &mut Vec<Complaint>) {
    let all = || {
        let of = |(i, m)| move |(j, t)| (i, j, m, t);
        config.mirrors.iter().enumerate().flat_map(move |(i, m): (usize, &Mirror)| m.targets.iter().enumerate().map(of((i, m))))
    };
    for (i, j, mirror, target) in all() {
        for (k, l, other_mirror, other) in
            all().filter(|(_, _, m, _)| mirror.follow.is_none() && m.follow.is_none()).filter(|(k, l, ..)| (*k, *l) != (i, j))
        {
            let Some(below) = canonical(&target.location).holds(&canonical(&other.location)) else { continue };
            let same = below.is_empty();
            // Each pair once; and what a mirror neither deletes nor copies to may be another's.
            let harmless = if same {
                (k, l) < (i, j) || (k != i && !mirror.delete.ever() && !other_mirror.delete.ever())
            } else {
                !mirror.delete.ever() || mirror.filter.excludes(below.as_bytes(), true)
            };
            if harmless {
                continue;
            }
            let title = format!("mirror {:?}, target {:?}", other_mirror.name, other.name);
            let mut section = Section { path: format!("mirror.{k}.target.{l}"), title, out };
            let (first, second) = (&target.location, &other.location);
            if same {
                let message = format!("{second} is a target of mirror {:?} already", mirror.name);
                section.complain("url", message, "two runs in one place undo each other's work; give each its own directory");
            } else {
                let message = format!("{second} lies inside the target {first} of mirror {:?}, which deletes there", mirror.name);
                section.complain(
                    "url",
                    message,
                    format!("choose another place, or exclude \"/{below}/\" in mirror {:?}", mirror.name),
                );
            }
        }
    }
}

/// Mirrors of local directories that copy into each other's source, in a circle.
fn loops(config: &Config, ground: &Ground, out: &mut Vec<Complaint>) {
    let mirrors = &config.mirrors;
    let sources: Vec<PathBuf> = mirrors.iter().map(|m| resolved(&m.source)).collect();
    let feeds = |from: usize, to: usize| {
        from != to
            && mirrors[from].targets.iter().any(|t| match &t.location {
                Location::Local(path) => ground.touch(&resolved(path), &sources[to]),
                _ => false,
            })
    };
    let fed: Vec<Vec<usize>> =
        (0..mirrors.len()).map(|from| (0..mirrors.len()).filter(|&to| feeds(from, to)).collect()).collect();
    for last in 0..mirrors.len() {
        // The shortest way back to it by mirrors before it, so that each circle is reported once.
        let mut came_from: Vec<Option<usize>> = vec![None; mirrors.len()];
        let mut queue = std::collections::VecDeque::from([last]);
        let closes = std::iter::from_fn(|| {
            let at = queue.pop_front()?;
            for &to in fed[at].iter().filter(|&&to| to < last) {
                if came_from[to].is_none() {
                    came_from[to] = Some(at);
                    queue.push_back(to);
                }
            }
            Some(at)
        });
        let Some(end) = closes.into_iter().find(|&at| at != last && fed[at].contains(&last)) else { continue };
        let mut way = vec![mirrors[end].name.as_str()];
        let mut at = end;
        while let Some(before) = came_from[at].filter(|&before| before != last) {
            way.push(&mirrors[before].name);
            at = before;
        }
        way.reverse();
        let mut section = Section { path: format!("mirror.{last}"), title: format!("mirror {:?}", mirrors[last].name), out };
        let message = match way.as_slice() {
            [other] => format!("it and mirror {other:?} copy into each other's source"),
            others => format!("it and the mirrors {} copy into each other's source, in a circle", others.join(", ")),
        };
        section.complain("source", message, "a mirror has one direction; changes on both sides would overwrite each other");
    }
}

fn canonical(location: &Location) -> Location {
    match location {
        Location::Local(path) => Location::Local(resolved(path)),
        remote => remote.clone(),
    }
}

/// `path` with symbolic links resolved as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|above| Some((above, std::fs::canonicalize(above).ok()?)));
    match existing {
        Some((above, real)) => match path.strip_prefix(above) {
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            _ => real,
        },
        None => path.to_owned(),
    }
}
