//! From what an lsyncd program declares to a [`Config`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::options::{self, Options, shown};
use super::script::{Declared, Fields, Script, Value};
use super::{Found, line_range};
use crate::config::patterns::{self, List};
use crate::config::{Config, Daemon, Delete, Initial, Mirror, Problem, Target};
use crate::daily::TimeOfDay;
use crate::filter::{Filter, Ordered};
use crate::location::Location;
use crate::sersync::Note;

/// The most rsync runs at the same time for one target.
const MAX_JOBS: f64 = 64.0;
/// The same for all targets together.
const MAX_RUNS: f64 = 10_000.0;
/// The longest `delay` of a target.
const MOST_DELAY: Duration = Duration::from_secs(24 * 3600);
/// rsync's own limit is given more time than this before a run is ended from outside.
const WATCHDOG_BEYOND: Duration = Duration::from_secs(90);
/// Fields of a `sync` that are actions of the user's own: a program, or a function.
const ACTIONS: &[&str] =
    &["action", "init", "prepare", "collect", "onAttrib", "onCreate", "onModify", "onDelete", "onMove", "onStartup"];

/// What a hook is notified of in place of an action, by the kinds of docs/hooks.md; none where it
/// is all of them.
const KINDS: &[(&str, &[&str])] = &[
    ("onAttrib", &["changed", "directory"]),
    ("onCreate", &["changed", "directory"]),
    ("onModify", &["changed"]),
    ("onDelete", &["deleted"]),
    ("onMove", &["changed", "deleted"]),
];

/// How a `sync` reaches its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsync,
    RsyncSsh,
    Direct,
}

/// The configuration, if `Found` holds no problem.
pub(super) fn config(script: &Script, text: &str) -> (Config, Found) {
    let mut found = Found::default();
    let mut config = Config { daemon: Daemon::default(), mirrors: Vec::new() };
    let mut common = BTreeMap::new();
    for declared in &script.settings {
        common.extend(declared.fields.named.clone());
        settings(declared, text, &mut found);
    }
    if let Some(Value::Number(most)) = common.get("maxProcesses") {
        config.daemon.max_runs = Some(most.clamp(1.0, MAX_RUNS) as usize);
    }
    for declared in &script.syncs {
        let mut sync = Sync { declared, text, found: &mut found, common: &common };
        if let Some(mirror) = sync.mirror() {
            sync.join(mirror, &mut config.mirrors);
        }
    }
    if script.syncs.is_empty() {
        let problem = Problem::new("the program declares no sync");
        found
            .problems
            .push(problem.help("is this lsyncd's configuration? It calls sync{ default.rsync, source = …, target = … }"));
    } else if config.mirrors.is_empty() && found.problems.is_empty() {
        found
            .problems
            .push(Problem::new("no sync of this file can be carried over").help(
                found.notes.iter().map(|note| format!("line {}: {}", note.line, note.text)).collect::<Vec<_>>().join("; "),
            ));
    }
    (config, found)
}

/// What concerns all trees, as far as it is no field of a `sync`.
fn settings(declared: &Declared, text: &str, found: &mut Found) {
    for key in declared.fields.named.keys() {
        let reason = match key.as_str() {
            "logfile" | "logfacility" | "logident" | "log" | "statusFile" | "statusInterval" | "statusIntervall" | "pidfile" => {
                "the log goes to stderr and so to the journal; `fansync status` and metrics take the place of the status file"
            }
            "nodaemon" => "fansync runs in the foreground, for a service manager",
            "insist" => "fansync always starts, and tries a target again until it answers",
            "maxProcesses" | "maxDelays" | "inotifyMode" | "delay" => continue, // with each sync
            _ => "there is no such setting",
        };
        let line = line_of(text, declared.line, key);
        found.notes.push(Note { line, text: format!("{key} is not carried over: {reason}") });
    }
}

/// One call of `sync`.
struct Sync<'a> {
    declared: &'a Declared,
    text: &'a str,
    found: &'a mut Found,
    common: &'a BTreeMap<String, Value>,
}

impl Sync<'_> {
    fn field(&self, key: &str) -> Option<&Value> {
        self.declared.fields.named.get(key).or_else(|| self.common.get(key))
    }

    fn text_of(&self, key: &str) -> Option<String> {
        match self.declared.fields.named.get(key) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }

    fn table(&self, key: &str) -> Option<&Fields> {
        match self.declared.fields.named.get(key) {
            Some(Value::Table(table)) => Some(table),
            _ => None,
        }
    }

    fn note(&mut self, key: &str, text: impl Into<String>) {
        let line = line_of(self.text, self.declared.line, key);
        self.found.notes.push(Note { line, text: text.into() });
    }

    fn wrong(&mut self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        let at = line_range(self.text, line_of(self.text, self.declared.line, key));
        self.found.problems.push(Problem { at, ..Problem::new(message) }.help(help));
    }

    /// The mirror with its one target; `None` where that is no copy, or a problem was found.
    fn mirror(&mut self) -> Option<Mirror> {
        let kind = match self.text_of("_default").as_deref() {
            Some("rsync") => Kind::Rsync,
            Some("rsyncssh") => Kind::RsyncSsh,
            Some("direct") => Kind::Direct,
            _ => {
                self.own_actions();
                return None;
            }
        };
        let own: Vec<&str> = ACTIONS.iter().copied().filter(|key| self.own(key)).collect();
        if !own.is_empty() {
            self.own_actions();
            return None;
        }
        let Some(source) = self.text_of("source") else {
            self.wrong("sync", "this sync has no source", "add source = \"/the/tree\"");
            return None;
        };
        let source = PathBuf::from(source);
        let problems = self.found.problems.len();
        let mut mirror = Mirror::new("", source.clone());
        let options = options::read(self.table("rsync"));
        let location = self.location(kind)?;
        let mut target = Target::new("", location);
        self.apply(&mut mirror, &mut target, options);
        if kind == Kind::Direct {
            // lsyncd copies with cp -p and rsync -lt.
            target.args.clear();
        }
        self.shell(&mut target, kind);
        self.filter(&mut mirror);
        self.backups(&mirror, &mut target);
        self.deletions(&mut mirror);
        self.rest(&mut mirror, &mut target);
        (self.found.problems.len() == problems).then_some(mirror).map(|mut mirror| {
            mirror.targets.push(target);
            mirror
        })
    }

    /// Whether an action of the user's own stands there; `init = false` is a setting.
    fn own(&self, key: &str) -> bool {
        match self.declared.fields.named.get(key) {
            None | Some(Value::Bool(_)) => false,
            Some(_) => true,
        }
    }

    /// Actions of the user's own are no copy; a hook can do the same.
    fn own_actions(&mut self) {
        let actions: Vec<String> = ACTIONS.iter().filter(|key| self.own(key)).map(|key| (*key).to_owned()).collect();
        let first = actions.first().cloned().unwrap_or_else(|| "sync".to_owned());
        let action = |key: &String| match self.text_of(key) {
            Some(program) => format!("{key} = {program:?}"),
            None => format!("{key} is a function"),
        };
        let what = match actions.as_slice() {
            [] => "it names none of default.rsync, default.rsyncssh and default.direct".to_owned(),
            actions => actions.iter().map(action).collect::<Vec<_>>().join(", "),
        };
        let kinds: BTreeSet<&str> =
            KINDS.iter().filter(|(key, _)| self.own(key)).flat_map(|(_, kinds)| kinds.iter().copied()).collect();
        let all = kinds.is_empty() || actions.iter().any(|key| key != "onStartup" && KINDS.iter().all(|(name, _)| name != key));
        let kinds = if all { String::new() } else { format!(", kinds = {:?}", Vec::from_iter(kinds)) };
        let mut text = format!(
            "this sync is not carried over, as it runs actions of its own: {what}. A hook runs a program for each change: \
             [[mirror.hook]] with kind = \"command\", when = \"event\"{kinds}, prefix = \"PROGRAM\"; docs/hooks.md"
        );
        if self.own("onStartup") {
            text += ". For onStartup, run `fansync mirror --once` or the program before fansync starts";
        }
        self.note(&first, text);
    }

    fn location(&mut self, kind: Kind) -> Option<Location> {
        let (key, text) = match kind {
            Kind::RsyncSsh => {
                let (Some(host), Some(dir)) = (self.text_of("host"), self.text_of("targetdir")) else {
                    self.wrong("sync", "this sync has no host, or no targetdir", "default.rsyncssh needs both");
                    return None;
                };
                ("targetdir", format!("{host}:{dir}"))
            }
            Kind::Rsync | Kind::Direct => {
                let Some(target) = self.text_of("target") else {
                    self.wrong(
                        "sync",
                        "this sync has no target",
                        "add target = \"host::module\", \"host:/path\", \"host:path\" or \"/path\"",
                    );
                    return None;
                };
                ("target", target)
            }
        };
        if !text.starts_with('/') && !text.contains(':') {
            self.wrong(key, format!("the target {text:?} is a relative path"), "write the whole path");
            return None;
        }
        match Location::parse(&text) {
            Ok(location) => Some(location),
            Err(error) => {
                self.wrong(
                    key,
                    error.to_string(),
                    "write it as rsync://host/module, host::module, host:/path, host:path or /path",
                );
                None
            }
        }
    }

    fn apply(&mut self, mirror: &mut Mirror, target: &mut Target, options: Options) {
        for (key, reason) in options.left {
            self.note(&key, format!("{key} is not carried over: {reason}"));
        }
        for (key, reason) in options.wrong {
            self.wrong(&key, reason, "write it with filter of the mirror (docs/config.md), and take it out here");
        }
        mirror.extras = options.extras;
        if let Some(rsync) = options.rsync {
            mirror.rsync = rsync.into();
        }
        target.args = options.args;
        target.compress = options.compress.unwrap_or(target.compress);
        target.password_file = options.password_file.map(PathBuf::from);
        target.rsync_path = options.rsync_path;
        target.backup_dir = options.backup_dir.map(PathBuf::from);
        target.ssh = options.ssh;
        target.put_behind_its_shell();
        target.timeout = options.timeout.unwrap_or(target.timeout);
        target.connect_timeout = options.connect_timeout.unwrap_or(target.connect_timeout);
        let least = target.timeout.max(target.connect_timeout) + WATCHDOG_BEYOND;
        target.watchdog = target.watchdog.max(least);
        // Excludes alone have no order.
        let (rules, exclude) = match options.rules.iter().all(|rule| rule.excludes) {
            true => (Vec::new(), options.rules.into_iter().map(|rule| rule.pattern).collect()),
            false => (options.rules, Vec::new()),
        };
        match Filter::new::<&[u8], Vec<u8>>(&[], &exclude).and_then(|filter| filter.with_rules(&rules)) {
            Ok(filter) => mirror.filter = filter,
            Err(error) => self.wrong("_extra", error.to_string(), "write a pattern of rsync"),
        }
    }

    /// `ssh = { … }`: words behind the remote shell.
    fn shell(&mut self, target: &mut Target, kind: Kind) {
        let Some(ssh) = self.table("ssh").cloned() else { return };
        if kind != Kind::RsyncSsh {
            return self.note("ssh", "ssh does nothing without default.rsyncssh, as with lsyncd");
        }
        let mut words = vec!["ssh".to_owned()];
        let mut left = Vec::new();
        for (key, value) in &ssh.named {
            match (key.as_str(), value) {
                ("binary", Value::Text(program)) => words[0].clone_from(program),
                ("port", value @ (Value::Number(_) | Value::Text(_))) => {
                    words.extend(["-p".to_owned(), plain(value)]);
                }
                ("identityFile", Value::Text(file)) => words.extend(["-i".to_owned(), file.clone()]),
                ("options", Value::Table(options)) => {
                    words.extend(options.named.iter().flat_map(|(k, v)| ["-o".to_owned(), format!("{k}={}", plain(v))]));
                }
                ("_extra", Value::Table(extra)) => words.extend(extra.listed.iter().map(plain)),
                (key, _) => left.push(key.to_owned()),
            }
        }
        for key in left {
            self.note(&key, format!("{key} of ssh is not carried over: there is no such setting"));
        }
        if words.len() > 1 || words[0] != "ssh" {
            target.ssh = shlex::try_join(words.iter().map(String::as_str)).ok();
        }
    }

    /// `exclude`, `excludeFrom`, and rules that cannot be carried.
    fn filter(&mut self, mirror: &mut Mirror) {
        let mut patterns: Vec<String> = mirror.filter.exclude().iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect();
        match self.declared.fields.named.get("exclude").cloned() {
            None | Some(Value::Bool(_)) => {}
            Some(Value::Text(pattern)) => patterns.push(pattern),
            Some(Value::Table(list)) => patterns.extend(list.listed.iter().map(plain)),
            Some(other) => {
                self.wrong("exclude", format!("exclude is {}", shown(&other)), "write a list of patterns");
            }
        }
        let file = self.text_of("excludeFrom").map(PathBuf::from);
        let lines = file.as_ref().map_or(Ok(Vec::new()), |file| patterns::read(file, List::Exclude));
        let of_file: Vec<Vec<u8>> = match lines {
            Ok(lines) => lines.into_iter().map(|(_, pattern)| pattern).collect(),
            Err(error) => {
                let help =
                    "without its patterns more would be copied than lsyncd copies; import where the file is, as one line each";
                return self.wrong("excludeFrom", error, help);
            }
        };
        // lsyncd's own options to rsync stand before what it makes of these fields.
        let mut rules = mirror.filter.ordered().to_vec();
        rules.extend(self.rules(mirror));
        if patterns.is_empty() && of_file.is_empty() && mirror.pattern_files.filter.is_empty() {
            // An include behind the last exclude changes nothing, and would keep deletions from
            // being listed by name.
            rules.truncate(rules.iter().rposition(|rule| rule.excludes).map_or(0, |at| at + 1));
        }
        let own = patterns.into_iter().map(String::into_bytes);
        let patterns: Vec<Vec<u8>> = own.chain(of_file.iter().cloned()).collect();
        mirror.pattern_files.exclude = file.into_iter().collect();
        mirror.pattern_files.excluded = of_file.len();
        if patterns.is_empty() && rules.is_empty() {
            return;
        }
        match Filter::new::<&[u8], _>(&[], &patterns).and_then(|filter| filter.with_rules(&rules)) {
            Ok(filter) => mirror.filter = filter,
            Err(error) => self.wrong("exclude", error.to_string(), "write a pattern of rsync"),
        }
    }

    /// `filter`, and behind it `filterFrom`: rules in order, which go before the excludes with
    /// lsyncd, too.
    fn rules(&mut self, mirror: &mut Mirror) -> Vec<Ordered> {
        let mut rules = Vec::new();
        match self.declared.fields.named.get("filter").cloned() {
            None | Some(Value::Bool(_)) => {}
            Some(Value::Text(rule)) => rules.extend(self.rule("filter", &rule)),
            Some(Value::Table(list)) => {
                let given: Vec<String> = list.listed.iter().map(plain).collect();
                rules.extend(given.iter().filter_map(|rule| self.rule("filter", rule)));
            }
            Some(other) => self.wrong("filter", format!("filter is {}", shown(&other)), "write a list of rules"),
        }
        let Some(file) = self.text_of("filterFrom") else { return rules };
        if let Ok(lines) = patterns::read_rules(Path::new(&file)) {
            mirror.pattern_files.filtered = lines.len();
            mirror.pattern_files.filter.push(file.into());
            rules.extend(lines.into_iter().map(|(_, rule)| rule));
        } else {
            // lsyncd reads more forms of a line than rsync does.
            let lines = self.lines_of("filterFrom", &file);
            rules.extend(lines.iter().filter_map(|line| self.rule("filterFrom", line)));
        }
        rules
    }

    /// A rule as lsyncd reads it: a sign, spaces or none, a pattern.
    fn rule(&mut self, key: &str, rule: &str) -> Option<Ordered> {
        let text = rule.trim_start();
        let pattern = text.strip_prefix(['+', '-']).map(str::trim_start).unwrap_or_default();
        match Ordered::parse(format!("{} {pattern}", &text[..text.len().min(1)]).as_bytes()) {
            Ok(rule) => Some(rule),
            Err(why) => {
                self.wrong(key, format!("{key}: {rule:?} is no rule: {why}"), "write \"+ PATTERN\" or \"- PATTERN\"");
                None
            }
        }
    }

    /// The rules in a file.
    fn lines_of(&mut self, key: &str, file: &str) -> Vec<String> {
        match std::fs::read_to_string(file) {
            Ok(text) => {
                self.note(key, format!("the rules of {file} are those of now; later changes of the file do not count"));
                let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
                lines.filter(|line| !line.starts_with(['#', ';'])).map(str::to_owned).collect()
            }
            Err(error) => {
                let help = "without its patterns more would be copied than lsyncd copies; import where the file is";
                self.wrong(key, format!("cannot read {file}: {error}"), help);
                Vec::new()
            }
        }
    }

    fn deletions(&mut self, mirror: &mut Mirror) {
        match self.field("delete").cloned() {
            None | Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => mirror.delete = Delete::Never,
            Some(Value::Text(when)) if when == "startup" => mirror.delete = Delete::Startup,
            Some(Value::Text(when)) if when == "running" => mirror.delete = Delete::Running,
            Some(other) => {
                self.wrong("delete", format!("delete is {}", shown(&other)), "write true, false, \"startup\" or \"running\"")
            }
        }
    }

    /// What lsyncd keeps in the copy itself, and deletes there with its next comparison, is not
    /// kept.
    fn backups(&mut self, mirror: &Mirror, target: &mut Target) {
        let Some(dir) = target.backup_dir.take() else { return };
        let kept = target.location.elsewhere(&dir).is_some_and(|place| {
            let below = target.location.holds(&place);
            below.is_none_or(|below| !below.is_empty() && mirror.filter.excludes(below.as_bytes(), true))
        });
        match kept {
            true => target.backup_dir = Some(dir),
            false => self.note(
                "backup_dir",
                format!(
                    "backup_dir is not carried over: {} lies inside the copy; write a directory beside it as backup_dir of the target, or exclude it",
                    dir.display()
                ),
            ),
        }
    }

    /// What is left of the fields.
    fn rest(&mut self, mirror: &mut Mirror, target: &mut Target) {
        if let Some(Value::Number(n)) = self.field("maxProcesses").cloned() {
            target.jobs = n.clamp(1.0, MAX_JOBS) as usize;
        }
        if let Some(Value::Number(n)) = self.field("maxDelays").cloned() {
            mirror.batch.max_pending = (n.clamp(1_000.0, 10_000_000.0)) as usize;
        }
        if let Some(Value::Text(mode)) = self.field("inotifyMode").cloned() {
            mirror.follow_open_files = mode.contains("Modify").into();
        }
        if self.field("init") == Some(&Value::Bool(false)) {
            mirror.initial = Initial::None;
        }
        if let Some(Value::Number(delay)) = self.field("delay").cloned()
            && delay > 0.0
        {
            // lsyncd's clock has a grain of 10 ms and more.
            let delay = Duration::try_from_secs_f64(delay).unwrap_or(MOST_DELAY).clamp(Duration::from_millis(10), MOST_DELAY);
            target.delay = Some(Duration::from_millis(delay.as_millis() as u64));
        }
        self.crontab(mirror);
        let reasons = [
            ("onepass", "use `fansync mirror --once`"),
            (
                "tunnel",
                "start the tunnel as a service of its own, or have ssh start the daemon: url = \"ssh+rsync://HOST/MODULE\"",
            ),
            ("batchSizeLimit", "files of 64 MiB and more travel alone; [mirror.batch] max_bytes bounds the bytes of a run"),
            ("checkgauge", "it belongs to lsyncd's own tests"),
            ("password_file", "it belongs into rsync = { … }"),
        ];
        for (key, reason) in reasons {
            if self.declared.fields.named.contains_key(key) {
                self.note(key, format!("{key} is not carried over: {reason}"));
            }
        }
        const KNOWN: &[&str] = &[
            "_default",
            "source",
            "target",
            "targetdir",
            "host",
            "rsync",
            "ssh",
            "exclude",
            "excludeFrom",
            "filter",
            "filterFrom",
            "delete",
            "delay",
            "init",
            "maxProcesses",
            "maxDelays",
            "onepass",
            "crontab",
            "tunnel",
            "batchSizeLimit",
            "checkgauge",
            "password_file",
            "inotifyMode",
            "name",
        ];
        let unknown: Vec<String> = self
            .declared
            .fields
            .named
            .keys()
            .filter(|key| !KNOWN.contains(&key.as_str()) && !ACTIONS.contains(&key.as_str()))
            .cloned()
            .collect();
        for key in unknown {
            self.note(&key, format!("{key} is not carried over: there is no such field"));
        }
    }

    /// `crontab`: entries that stand for times of each day.
    fn crontab(&mut self, mirror: &mut Mirror) {
        let entries: Vec<String> = match self.declared.fields.named.get("crontab") {
            None | Some(Value::Bool(_)) => return,
            Some(Value::Table(list)) => list.listed.iter().map(plain).collect(),
            Some(other) => vec![plain(other)],
        };
        for entry in entries {
            match daily(&entry) {
                Some(times) => mirror.full_at.extend(times),
                None => self.note(
                    "crontab",
                    format!("crontab {entry:?} is not carried over: full_at has times of each day, full_every intervals"),
                ),
            }
        }
        mirror.full_at.sort_unstable();
        mirror.full_at.dedup();
    }

    /// A `sync` of the same tree in the same manner is one more target of its mirror.
    fn join(&mut self, mirror: Mirror, mirrors: &mut Vec<Mirror>) {
        let mut mirror = mirror;
        let alike = |other: &Mirror| Mirror { name: String::new(), targets: Vec::new(), ..other.clone() };
        let mut target = mirror.targets.remove(0);
        let at = mirrors.iter().position(|other| alike(other) == mirror).unwrap_or_else(|| {
            let taken = mirrors.iter().map(|m| m.name.as_str()).collect();
            let last = mirror.source.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = self.text_of("name").unwrap_or(last);
            mirror.name = crate::sersync::name(&name, "root", &taken);
            mirrors.push(mirror);
            mirrors.len() - 1
        });
        let into = &mut mirrors[at];
        let taken: BTreeSet<&str> = into.targets.iter().map(|t| t.name.as_str()).collect();
        target.name = crate::sersync::name(&host_and_place(&target.location), "target", &taken);
        if let Some(range) = line_range(self.text, self.declared.line) {
            let key = format!("mirror.{at}");
            self.found.places.insert(format!("{key}.target.{}", into.targets.len()), range.clone());
            self.found.places.entry(key).or_insert(range);
        }
        into.targets.push(target);
    }
}

/// The times of day of an entry of a crontab that holds for each day; seconds may stand before the
/// minutes, as lsyncd has them.
fn daily(entry: &str) -> Option<Vec<TimeOfDay>> {
    let fields: Vec<&str> = entry.split_whitespace().collect();
    let (minutes, hours) = match fields[..] {
        [minutes, hours, "*", "*", "*"] | [_, minutes, hours, "*", "*", "*"] => (minutes, hours),
        _ => return None,
    };
    let times =
        hours.split(',').flat_map(|hour| minutes.split(',').map(move |minute| format!("{hour}:{minute:0>2}").parse().ok()));
    times.collect()
}

fn host_and_place(location: &Location) -> String {
    let last = |path: &str| path.trim_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    match location {
        Location::Daemon { host, module, path, .. } => format!("{host}-{}", last(&format!("{module}/{path}"))),
        Location::Ssh { host, path, .. } if path.is_empty() => host.clone(),
        Location::Ssh { host, path, .. } => format!("{host}-{}", last(path)),
        Location::Local(path) => last(&Path::new(path).to_string_lossy()),
        Location::Feed { feed, .. } => feed.clone(),
    }
}

/// A value as a word.
fn plain(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => shown(other),
    }
}

/// The line in which a key of a call stands: the first at or behind the call that sets it, before
/// the next call; else that of the call.
fn line_of(text: &str, call: usize, key: &str) -> usize {
    let sets = |line: &str| {
        line.match_indices(key).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let inside = before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.');
            !inside && line[at + key.len()..].trim_start_matches(['"', ']', '\'']).trim_start().starts_with('=')
        })
    };
    let rest = text.lines().enumerate().skip(call.max(1) - 1);
    let own = rest.take_while(|(at, line)| at + 1 == call.max(1) || !line.trim_start().starts_with("sync"));
    let mut own = own.filter(|(_, line)| sets(line));
    own.next().map_or(call, |(at, _)| at + 1)
}
