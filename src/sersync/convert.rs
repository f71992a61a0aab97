//! From sersync's elements to a [`Config`].

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::Flags;
use super::params::{self, Params};
use super::plugins;
use super::xml::{Decoded, Element, Found, Value};
use crate::config::hook::When;
use crate::config::{Config, Daemon, Initial, Mirror, Target};
use crate::filter::Filter;
use crate::location::Location;
use crate::log::Level;

/// Most minutes and seconds that make sense: ten years.
const MAX_MINUTES: u64 = 10 * 366 * 24 * 60;
/// The most rsync runs at the same time for one target.
const MAX_JOBS: usize = 64;
/// rsync's own limit is given more time than this to do its work before a run is ended from
/// outside.
const WATCHDOG_BEYOND: Duration = Duration::from_secs(90);

/// What concerns all trees.
struct Common {
    mirror: Mirror,
    params: Params,
    /// Where they stand.
    params_at: Option<Range<usize>>,
    target: Target,
    user: Option<String>,
    port: Option<u16>,
    ssh: bool,
}

/// The configuration, if `Found` holds no problem.
pub(super) fn config(document: &roxmltree::Document<'_>, decoded: &Decoded, flags: &Flags) -> (Config, Found) {
    let mut found = Found::default();
    let mut config = Config { daemon: Daemon::default(), mirrors: Vec::new() };
    let head = Element { node: document.root_element() };
    if head.name() != "head" {
        found.wrong(head.at(), format!("the file begins with <{}>, not <head>", head.name()), "is this sersync's configuration?");
        return (config, found);
    }
    let children = ["host", "debug", "fileSystem", "filter", "inotify", "sersync", "plugin"];
    head.known(&["version"], &children, &mut found);
    if let Some(encoding) = decoded.encoding
        && !decoded.text.is_ascii()
    {
        let text = format!("the file is read as {encoding}; names and paths in it stand for UTF-8 names on the disk");
        found.note(None, text);
    }
    if let Some(host) = head.child("host", &mut found) {
        host.known(&["hostip", "port"], &[], &mut found);
        found.note(host.at(), "<host> does nothing, as with sersync");
    }
    if let Some(debug) = head.child("debug", &mut found) {
        debug.known(&["start"], &[], &mut found);
        if debug.on(&mut found) {
            config.daemon.log.level = Level::Trace;
        }
    }
    if let Some(system) = head.child("fileSystem", &mut found) {
        system.known(&["xfs"], &[], &mut found);
        if system.flag("xfs", &mut found) == Some(true) {
            let text = "xfs=\"true\" does nothing: every filesystem is watched as it is. A symbolic link to a directory is copied as a link, and what is \
                        behind it is not followed, which sersync does then";
            found.note(system.at(), text);
        }
    }
    let mut mirror = Mirror::new("", "");
    let (filtered, filter_at) = filter(head, &mut mirror, &mut found);
    inotify(head, &mut mirror, &mut found);
    mirror.initial = if flags.reconcile { Initial::Reconcile } else { Initial::None };
    let Some(sersync) = head.child("sersync", &mut found) else {
        found.wrong(head.at(), "there is no <sersync>", "it holds the trees and the targets");
        return (config, found);
    };
    sersync.known(&[], &["localpath", "rsync", "failLog", "crontab", "plugin"], &mut found);
    plugins::unused(head, &mut found);
    if let Some(name) = &flags.plugin {
        config.mirrors = alone(head, sersync, name, &mirror, &mut found);
        return (config, found);
    }
    mirror.hooks = plugins::attached(head, sersync, &mut found).into_iter().collect();
    fail_log(sersync, &mut mirror, &mut found);
    let mut target = Target::new("", Location::Local(PathBuf::new()));
    let minutes = mirror_retry(sersync, &mut found);
    target.retry_failed = minutes;
    crontab(sersync, filtered, &mut mirror, &mut found);
    target.jobs = workers(flags, target.jobs, &mut found);
    let mut common = rsync(sersync, mirror, target, &mut found);
    exclude_params(&mut common, &mut found);
    let trees: Vec<Element<'_>> = sersync.all("localpath").collect();
    if trees.is_empty() {
        found.wrong(sersync.at(), "there is no <localpath>", "add <localpath watch=\"/the/tree\"> with its <remote>");
    }
    if let [_, second, ..] = trees[..] {
        found.note(second.at(), "each <localpath> is mirrored; sersync takes the first only");
    }
    for tree in trees {
        if let Some(mirror) = localpath(tree, &common, &config.mirrors, &filter_at, &mut found) {
            config.mirrors.push(mirror);
        }
    }
    (config, found)
}

/// One plugin without targets: on its own tree, or, if it names none, on those of `<localpath>`.
fn alone(head: Element<'_>, sersync: Element<'_>, name_: &str, common: &Mirror, found: &mut Found) -> Vec<Mirror> {
    let Some(plugin) = plugins::plugin(head, name_, When::Event, found) else { return Vec::new() };
    let watches: Vec<PathBuf> = match plugin.watch {
        Some(watch) => vec![watch],
        None => sersync.all("localpath").filter_map(|t| t.required("watch", found)).map(|v| v.text.into()).collect(),
    };
    let mut out: Vec<Mirror> = Vec::new();
    for source in watches {
        let taken = out.iter().map(|m| m.name.as_str()).collect();
        let own = format!("{name_}-{}", source.file_name().unwrap_or_default().to_string_lossy());
        let mirror = Mirror { name: name(&own, "plugin", &taken), source, hooks: vec![plugin.hook.clone()], ..common.clone() };
        found.places.insert(format!("mirror.{}", out.len()), sersync.at());
        out.push(Mirror { initial: Initial::Reconcile, ..mirror });
    }
    out
}

/// The excludes; whether they are switched on, and where they stand.
fn filter(head: Element<'_>, mirror: &mut Mirror, found: &mut Found) -> (bool, Vec<Range<usize>>) {
    let mut expressions = Vec::new();
    let mut places = Vec::new();
    let element = head.child("filter", found);
    let on = element.is_some_and(|e| e.on(found));
    if let Some(element) = element {
        element.known(&["start"], &["exclude"], found);
        for exclude in element.all("exclude").filter(|_| on) {
            exclude.known(&["expression"], &[], found);
            let Some(value) = exclude.required("expression", found) else { continue };
            match Filter::with_regexes::<&[u8], &[u8]>(&[], &[], &[value.text.to_owned()], false) {
                Ok(one) => {
                    if !one.never_matching().is_empty() {
                        let text = format!(
                            "{:?} matches nothing: it is compared with \"name\" at the top and \"/dir/name\" below",
                            value.text
                        );
                        found.note(value.at.clone(), text);
                    }
                    expressions.push(value.text.to_owned());
                    places.push(value.at);
                }
                Err(error) => found.wrong(value.at, error.to_string(), "sersync drops such an expression with a message"),
            }
        }
    }
    match Filter::with_regexes::<&[u8], &[u8]>(&[], &[], &expressions, true) {
        Ok(filter) => mirror.filter = filter,
        Err(error) => found.wrong(element.unwrap_or(head).at(), error.to_string(), "use fewer or shorter ones"),
    }
    (on, places)
}

fn inotify(head: Element<'_>, mirror: &mut Mirror, found: &mut Found) {
    let names = ["delete", "createFolder", "createFile", "closeWrite", "moveFrom", "moveTo", "attrib", "modify"];
    let shipped = [true, true, false, true, true, true, false, false];
    let element = head.child("inotify", found);
    if let Some(element) = element {
        element.known(&[], &names, found);
    } else {
        found.note(head.at(), "there is no <inotify>; its switches are as in the file that sersync comes with");
    }
    let mut switch = |at: usize| -> (bool, Option<Range<usize>>) {
        let name = names[at];
        match element.and_then(|e| e.child(name, found)) {
            Some(one) => {
                one.known(&["start"], &[], found);
                (one.on(found), Some(one.at()))
            }
            None => {
                if let Some(element) = element {
                    let text = format!("there is no <{name}>; it is {}, as in the file that sersync comes with", shipped[at]);
                    found.note(element.at(), text);
                }
                (shipped[at], None)
            }
        }
    };
    let [delete, create_folder, create_file, close_write, move_from, move_to, attrib, modify] = std::array::from_fn(&mut switch);
    mirror.delete = delete.0.into();
    mirror.events.create_folder = create_folder.0;
    mirror.events.create_file = create_file.0;
    mirror.events.close_write = close_write.0;
    mirror.events.move_from = move_from.0;
    mirror.events.move_to = move_to.0;
    mirror.events.attrib = attrib.0;
    mirror.follow_open_files = modify.0.into();
    if !create_file.0 {
        let text = "with <createFile> off, what is created and never written (symbolic links, hard links, FIFOs) comes with the next comparison of \
                    the whole tree only, as with sersync; on, it costs nothing here";
        found.note(create_file.1, text);
    }
    if !attrib.0 {
        found.note(
            attrib.1,
            "with <attrib> off, chmod, chown and touch alone are not followed, as with sersync; on, it is safe here",
        );
    }
    if !move_from.0 && delete.0 {
        found.note(move_from.1, "with <moveFrom> off, old names stay on the targets until the next comparison of the whole tree");
    }
    if !close_write.0 {
        found.note(
            close_write.1,
            "with <closeWrite> off, what is written is not sent before the next comparison of the whole tree",
        );
    }
}

fn fail_log(sersync: Element<'_>, mirror: &mut Mirror, found: &mut Found) {
    let Some(element) = sersync.child("failLog", found) else {
        let text = "there is no <failLog>; status and the log list the paths that fail";
        return found.note(sersync.at(), text);
    };
    element.known(&["path", "timeToExecute"], &[], found);
    if let Some(path) = element.required("path", found) {
        mirror.fail_log = Some(path.text.into());
        found.places.insert("fail_log".into(), path.at);
    }
}

fn mirror_retry(sersync: Element<'_>, found: &mut Found) -> Option<Duration> {
    let minutes = sersync.all("failLog").next()?.number("timeToExecute", MAX_MINUTES, found)?;
    Some(Duration::from_secs(minutes * 60))
}

fn crontab(sersync: Element<'_>, filtered: bool, mirror: &mut Mirror, found: &mut Found) {
    let Some(element) = sersync.child("crontab", found) else { return };
    element.known(&["start", "schedule"], &["crontabfilter"], found);
    let filter = element.child("crontabfilter", found);
    if !element.on(found) {
        return;
    }
    mirror.full_every = element.number("schedule", MAX_MINUTES, found).map(|minutes| Duration::from_secs(minutes * 60));
    let on = filter.is_some_and(|f| f.on(found));
    if filtered && !on {
        let text = "sersync does not run the crontab when <filter> is on and <crontabfilter> is off; here it runs, and <filter> holds for it";
        found.note(element.at(), text);
    }
    let Some(filter) = filter else { return };
    filter.known(&["start"], &["exclude"], found);
    for exclude in filter.all("exclude").filter(|_| on) {
        exclude.known(&["expression"], &[], found);
        let Some(value) = exclude.required("expression", found) else { continue };
        if let Err(error) = Filter::new::<&[u8], _>(&[], &[value.text]) {
            found.wrong(value.at, error.to_string(), "write a pattern of rsync, as in \"*.php\" or \"info/*\"");
            continue;
        }
        mirror.full_exclude.push(value.text.to_owned());
    }
}

fn workers(flags: &Flags, usual: usize, found: &mut Found) -> usize {
    let Some(text) = &flags.workers else { return usual };
    match text.parse::<usize>() {
        Ok(n @ 1..=MAX_JOBS) => n,
        Ok(n) if n > MAX_JOBS => {
            found.note(None, format!("-n {n}: {MAX_JOBS} rsync runs at the same time are the most"));
            MAX_JOBS
        }
        _ => {
            found.note(None, format!("-n {text} is no number of workers; it is {usual}"));
            usual
        }
    }
}

fn rsync(sersync: Element<'_>, mirror: Mirror, target: Target, found: &mut Found) -> Common {
    let params = Params { compress: None, ..Params::default() };
    let mut common = Common { mirror, params, params_at: None, target, user: None, port: None, ssh: false };
    let Some(rsync) = sersync.child("rsync", found) else {
        found.note(sersync.at(), "there is no <rsync>; nothing is asked of it beside what it always does");
        return common;
    };
    rsync.known(&[], &["commonParams", "auth", "userDefinedPort", "timeout", "ssh"], found);
    if let Some(element) = rsync.child("commonParams", found) {
        element.known(&["params"], &[], found);
        if let Some(value) = element.value("params") {
            common.params = params::read(value.text, &value.at, found);
            common.params_at = Some(value.at);
        }
    }
    let p = &mut common.params;
    common.target.compress = p.compress.unwrap_or(common.target.compress);
    common.target.args = std::mem::take(&mut p.args);
    common.target.timeout = p.timeout.unwrap_or(common.target.timeout);
    common.target.connect_timeout = p.connect_timeout.unwrap_or(common.target.connect_timeout);
    common.target.password_file = p.password_file.take().map(PathBuf::from);
    common.target.rsync_path = p.rsync_path.take();
    common.port = p.port;
    common.mirror.extras = p.extras;
    if let Some(element) = rsync.child("ssh", found) {
        element.known(&["start"], &[], found);
        common.ssh = element.on(found);
    }
    match p.ssh.take() {
        Some(ssh) if common.ssh => common.target.ssh = Some(ssh),
        Some(_) => found.note(common.params_at.clone(), "-e in params does nothing without <ssh start=\"true\"/>"),
        None => {}
    }
    if let Some(element) = rsync.child("auth", found) {
        element.known(&["start", "users", "passwordfile"], &[], found);
        if element.on(found) {
            common.user = element.required("users", found).map(|v| v.text.to_owned());
            if let Some(file) = element.value("passwordfile").filter(|v| !v.text.is_empty()) {
                common.target.password_file = Some(file.text.into());
                found.places.insert("password_file".into(), file.at);
            }
        }
    }
    if common.ssh && common.target.password_file.take().is_some() {
        let at = found.places.get("password_file").cloned().or_else(|| common.params_at.clone());
        found.note(at, "the password file does nothing with ssh, which needs a key: rsync would refuse it");
    }
    if let Some(element) = rsync.child("userDefinedPort", found) {
        element.known(&["start", "port"], &[], found);
        if element.on(found) {
            common.port = element.number("port", 65535, found).map(|port| port as u16);
            if common.ssh {
                found.note(
                    element.at(),
                    "<userDefinedPort> does nothing with ssh, as with sersync; set the port in ssh's own configuration",
                );
            }
        }
    }
    if let Some(element) = rsync.child("timeout", found) {
        element.known(&["start", "time"], &[], found);
        if element.on(found)
            && let Some(seconds) = element.number("time", MAX_MINUTES * 60, found)
        {
            common.target.timeout = Duration::from_secs(seconds);
        }
    }
    let least = common.target.timeout.max(common.target.connect_timeout) + WATCHDOG_BEYOND;
    common.target.watchdog = common.target.watchdog.max(least);
    common
}

/// `--exclude` and `--include` of `commonParams`.
fn exclude_params(common: &mut Common, found: &mut Found) {
    let (include, exclude) = (&common.params.include, &common.params.exclude);
    if include.is_empty() && exclude.is_empty() {
        return;
    }
    let at = common.params_at.clone();
    if !include.is_empty() {
        found.note(at.clone(), "--include in params goes before every exclude, wherever it stands");
    }
    let filter = Filter::with_regexes(include, exclude, common.mirror.filter.expressions(), common.mirror.filter.temporary());
    match filter {
        Ok(filter) => common.mirror.filter = filter,
        Err(error) => {
            found.wrong(at.unwrap_or_default(), error.to_string(), "write a pattern of rsync, as in --exclude=\"*.php\"")
        }
    }
}

/// `text` as a name, not in `taken`.
pub(crate) fn name(text: &str, usual: &str, taken: &BTreeSet<&str>) -> String {
    let plain: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let plain = plain.trim_start_matches(['-', '.']).trim_end_matches('-');
    let plain = if plain.is_empty() { usual } else { &plain[..plain.len().min(56)] };
    let mut names = std::iter::once(plain.to_owned()).chain((2..).map(|n| format!("{plain}-{n}")));
    names.find(|name| !taken.contains(name.as_str())).unwrap_or_default()
}

fn localpath(
    tree: Element<'_>,
    common: &Common,
    others: &[Mirror],
    filter_at: &[Range<usize>],
    found: &mut Found,
) -> Option<Mirror> {
    tree.known(&["watch"], &["remote"], found);
    let watch = tree.required("watch", found)?;
    let number = others.len();
    let taken = others.iter().map(|m| m.name.as_str()).collect();
    let last = watch.text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut mirror = Mirror { name: name(last, "root", &taken), source: watch.text.into(), ..common.mirror.clone() };
    let key = format!("mirror.{number}");
    let places = [("fail_log", found.places.get("fail_log").cloned()), ("exclude_regex", filter_at.first().cloned())];
    for (key_, at) in places {
        if let Some(at) = at {
            found.places.insert(format!("{key}.{key_}"), at);
        }
    }
    found.places.insert(key.clone(), tree.at());
    found.places.insert(format!("{key}.source"), watch.at);
    for remote in tree.all("remote") {
        remote.known(&["ip", "name"], &[], found);
        let (Some(ip), Some(module)) = (remote.required("ip", found), remote.required("name", found)) else { continue };
        let Some(location) = location(&ip, &module, common, found) else { continue };
        let key = format!("{key}.target.{}", mirror.targets.len());
        let part = format!("{}-{}", ip.text, module.text.trim_matches('/').rsplit('/').next().unwrap_or_default());
        let taken = mirror.targets.iter().map(|t| t.name.as_str()).collect();
        mirror.targets.push(Target { name: name(&part, "remote", &taken), location, ..common.target.clone() });
        let more = [("password_file", found.places.get("password_file").cloned()), ("args", common.params_at.clone())];
        for (key_, at) in more {
            if let Some(at) = at {
                found.places.insert(format!("{key}.{key_}"), at);
            }
        }
        found.places.insert(format!("{key}.url"), ip.at.start..module.at.end.max(ip.at.end));
        found.places.insert(key, remote.at());
    }
    if tree.all("remote").next().is_none() {
        found.wrong(tree.at(), "<localpath> has no <remote>", "add <remote ip=\"host\" name=\"module\"/>");
    }
    Some(mirror)
}

fn location(ip: &Value<'_>, module: &Value<'_>, common: &Common, found: &mut Found) -> Option<Location> {
    let host = match ip.text.contains(':') && !ip.text.starts_with('[') {
        true => format!("[{}]", ip.text),
        false => ip.text.to_owned(),
    };
    let user = common.user.as_ref().map(|u| format!("{u}@")).unwrap_or_default();
    let text = |place: &str| match common.ssh {
        true => format!("{user}{host}:{place}"),
        false => {
            let port = common.port.map(|p| format!(":{p}")).unwrap_or_default();
            format!("rsync://{user}{host}{port}/{place}")
        }
    };
    let wrong = |e| {
        // With a place that is right what is left is the host.
        let host = Location::parse(&text(if common.ssh { "/m" } else { "m" })).is_err();
        found.wrong(if host { ip.at.clone() } else { module.at.clone() }, format!("{e}"), "see ip and name of this <remote>");
    };
    Location::parse(&text(module.text)).map_err(wrong).ok()
}
