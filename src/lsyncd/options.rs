//! lsyncd's `rsync = { … }`: by the name of a key, what of a mirror or a target it is.
//!
//! lsyncd's keys are rsync's long options with `_` for `-`. Its default is `--links --times` and
//! nothing else, so that modes, owners and groups are kept only where they are requested.

use std::collections::BTreeSet;
use std::time::Duration;

use super::script::{Fields, Value};
use crate::config::{Compress, Extras, reasons_against};
use crate::filter::Ordered;

/// What a target and its mirror get of the options.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) args: Vec<String>,
    pub(super) extras: Extras,
    pub(super) compress: Option<Compress>,
    pub(super) password_file: Option<String>,
    pub(super) rsync: Option<String>,
    pub(super) rsync_path: Option<String>,
    pub(super) ssh: Option<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) connect_timeout: Option<Duration>,
    /// An absolute path; in a module, from the module's own directory, with both.
    pub(super) backup_dir: Option<String>,
    /// `--exclude`, `--include` and `--filter`, in their order.
    pub(super) rules: Vec<Ordered>,
    /// Key and reason of what is left out.
    pub(super) left: Vec<(String, String)>,
    /// The same for what would change which files are copied.
    pub(super) wrong: Vec<(String, String)>,
}

/// What every run does.
const ALWAYS: &[&str] = &["links", "times", "protect_args", "secluded_args", "recursive", "numeric_ids", "force", "dirs"];
/// What changes only what rsync prints, or which lsyncd sets itself.
const SILENT: &[&str] = &["verbose", "quiet", "progress", "stats", "human_readable", "itemize_changes", "info"];
/// What is kept of a file only where it is requested, with the option that leaves it.
const KEPT: &[(&str, &str)] = &[("perms", "--no-perms"), ("owner", "--no-owner"), ("group", "--no-group"), ("devices", "--no-D")];

/// What rsync is asked to keep of a file.
#[derive(Default)]
struct Asked {
    archive: bool,
    kept: BTreeSet<&'static str>,
    left: BTreeSet<&'static str>,
}

/// The name of a key that says what is kept.
fn kept(key: &str) -> Option<&'static str> {
    KEPT.iter().map(|(name, _)| *name).find(|name| *name == key)
}

/// Reads the table; `None` where a `sync` has none.
pub(super) fn read(table: Option<&Fields>) -> Options {
    let mut out = Options::default();
    let empty = Fields::default();
    let table = table.unwrap_or(&empty);
    let mut asked = Asked { archive: table.named.get("archive").is_some_and(is_true), ..Asked::default() };
    for (key, value) in &table.named {
        match (key.as_str(), value) {
            ("archive", _) => {}
            ("_extra" | "rsyncOpts", value) => extra(&words(value), &mut out, &mut asked),
            ("hard_links", v) => out.extras.hard_links = is_true(v),
            ("acls", v) => out.extras.acls = is_true(v),
            ("xattrs", v) => out.extras.xattrs = is_true(v),
            ("sparse", v) => out.extras.sparse = is_true(v),
            ("compress", v) => out.compress = is_true(v).then_some(Compress::Zlib),
            ("password_file", Value::Text(file)) => out.password_file = Some(file.clone()),
            ("binary", Value::Text(program)) => out.rsync = Some(program.clone()),
            ("rsync_path", Value::Text(path)) => out.rsync_path = Some(path.clone()),
            ("rsh", Value::Text(shell)) => out.ssh = Some(shell.clone()),
            ("backup_dir", Value::Text(dir)) => backup_dir(key, dir, &mut out),
            ("backup", Value::Bool(true)) if keeps_aside(table) => {}
            ("timeout", value) => out.timeout = seconds(value),
            ("contimeout", value) => out.connect_timeout = seconds(value),
            ("filter", Value::Text(text)) => rule(key, "--filter", text, &mut out),
            ("filter", value) => out.wrong.push((key.clone(), format!("filter is {}", shown(value)))),
            (key, Value::Bool(wanted)) if kept(key).is_some() => {
                let side = if *wanted { &mut asked.kept } else { &mut asked.left };
                side.extend(kept(key));
            }
            (key, _) if ALWAYS.contains(&key) => {
                if matches!(value, Value::Bool(false)) {
                    out.left.push((key.to_owned(), "it is part of every run".to_owned()));
                }
            }
            (key, _) if SILENT.contains(&key) => {}
            (_, Value::Bool(false)) => {}
            (key, value) => plain(key, value, &mut out),
        }
    }
    let left = KEPT.iter().filter(|(name, _)| asked.left.contains(name) || !(asked.archive || asked.kept.contains(name)));
    out.args.extend(left.map(|(_, option)| (*option).to_owned()));
    out
}

/// Whether `backup_dir` says where what is replaced goes, so that `backup` says nothing more.
fn keeps_aside(table: &Fields) -> bool {
    matches!(table.named.get("backup_dir"), Some(Value::Text(dir)) if dir.starts_with('/'))
}

/// Where what is replaced or deleted goes.
fn backup_dir(key: &str, dir: &str, out: &mut Options) {
    if dir.starts_with('/') {
        out.backup_dir = Some(dir.to_owned());
    } else {
        let why = format!(
            "{dir:?} is a relative path, below the copy; write an absolute one outside of it as backup_dir of the target"
        );
        out.left.push((key.to_owned(), why));
    }
}

/// A key that is one of rsync's options, passed on where a target may have it.
fn plain(key: &str, value: &Value, out: &mut Options) {
    let option = format!("--{}", key.replace('_', "-"));
    let word = match value {
        Value::Bool(_) => option,
        Value::Number(n) => format!("{option}={n}"),
        Value::Text(text) => format!("{option}={text}"),
        Value::Table(_) | Value::Code => {
            return out.left.push((key.to_owned(), "its value is no text, number or boolean".to_owned()));
        }
    };
    pass(key, word, out);
}

fn pass(key: &str, word: String, out: &mut Options) {
    match reasons_against(std::slice::from_ref(&word)).into_iter().next() {
        None => out.args.push(word),
        Some(reason) => out.left.push((key.to_owned(), format!("{word}: {reason}"))),
    }
}

/// Words as they stand on a command line.
fn extra(given: &[String], out: &mut Options, asked: &mut Asked) {
    let mut words = given.iter();
    while let Some(word) = words.next() {
        let (name, mut value) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let mut needs = |words: &mut std::slice::Iter<'_, String>| value.take().or_else(|| words.next().cloned());
        match name {
            "--exclude" | "--include" | "--filter" | "-f" => rule("_extra", name, &needs(&mut words).unwrap_or_default(), out),
            "--exclude-from" | "--include-from" => {
                let file = needs(&mut words).unwrap_or_default();
                out.wrong.push(("_extra".to_owned(), format!("{name} {file} has no counterpart in this place")));
            }
            "--backup-dir" => backup_dir("_extra", &needs(&mut words).unwrap_or_default(), out),
            "--password-file" => out.password_file = needs(&mut words),
            "--rsync-path" => out.rsync_path = needs(&mut words),
            "-e" | "--rsh" => out.ssh = needs(&mut words),
            "--timeout" => out.timeout = needs(&mut words).and_then(|v| v.parse().ok()).map(Duration::from_secs),
            "--contimeout" => out.connect_timeout = needs(&mut words).and_then(|v| v.parse().ok()).map(Duration::from_secs),
            "--archive" => asked.archive = true,
            "--compress" => out.compress = Some(Compress::Zlib),
            "--hard-links" => out.extras.hard_links = true,
            "--acls" => out.extras.acls = true,
            "--xattrs" => out.extras.xattrs = true,
            "--sparse" => out.extras.sparse = true,
            "--delete" | "--delete-after" | "--delete-before" | "--delete-during" | "--delete-delay" => {
                out.left.push(("_extra".to_owned(), format!("{name}: `delete` decides what is deleted")));
            }
            _ if name.starts_with("--") => {
                let key = name[2..].replace('-', "_");
                if ALWAYS.contains(&key.as_str()) || SILENT.contains(&key.as_str()) {
                    continue;
                }
                pass("_extra", word.clone(), out);
            }
            _ if name.starts_with('-') => cluster(&name[1..], out, asked),
            _ => out.left.push(("_extra".to_owned(), format!("{word}: it is no option"))),
        }
    }
}

/// A pattern or rule as an option has it: what `--exclude` and `--include` are given may begin with
/// a sign, too.
fn rule(key: &str, option: &str, text: &str, out: &mut Options) {
    let signed = text.starts_with("+ ") || text.starts_with("- ");
    let parsed = match option {
        "--exclude" if !signed => Ordered::parse(format!("- {text}").as_bytes()),
        "--include" if !signed => Ordered::parse(format!("+ {text}").as_bytes()),
        _ => Ordered::parse(text.as_bytes()),
    };
    match parsed {
        Ok(rule) => out.rules.push(rule),
        Err(why) => out.wrong.push((key.to_owned(), format!("{option} {text:?}: {why}"))),
    }
}

/// Letters behind one dash, none with a value.
fn cluster(letters: &str, out: &mut Options, asked: &mut Asked) {
    for letter in letters.chars() {
        match letter {
            'a' => asked.archive = true,
            'z' => out.compress = Some(Compress::Zlib),
            'H' => out.extras.hard_links = true,
            'A' => out.extras.acls = true,
            'X' => out.extras.xattrs = true,
            'S' => out.extras.sparse = true,
            'p' => _ = asked.kept.insert("perms"),
            'o' => _ = asked.kept.insert("owner"),
            'g' => _ = asked.kept.insert("group"),
            'D' => _ = asked.kept.insert("devices"),
            'l' | 't' | 's' | 'r' | 'd' | 'v' | 'q' | 'h' | 'i' => {}
            other => pass("_extra", format!("-{other}"), out),
        }
    }
}

/// A text in words, or a list of words, each an argument as lsyncd passes it on; numbers count as
/// texts.
fn words(value: &Value) -> Vec<String> {
    match value {
        Value::Text(text) => shlex::split(text).unwrap_or_else(|| vec![text.clone()]),
        Value::Table(table) => {
            let word = |value: &Value| if let Value::Text(text) = value { vec![text.clone()] } else { words(value) };
            table.listed.iter().flat_map(word).collect()
        }
        Value::Number(n) => vec![n.to_string()],
        Value::Bool(_) | Value::Code => Vec::new(),
    }
}

fn is_true(value: &Value) -> bool {
    *value == Value::Bool(true)
}

fn seconds(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(n) if *n >= 1.0 => Some(Duration::from_secs(*n as u64)),
        Value::Text(text) => text.parse().ok().filter(|&n| n > 0).map(Duration::from_secs),
        _ => None,
    }
}

/// A value for a message.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::Table(table) => {
            let parts: Vec<String> = table.listed.iter().map(shown).collect();
            format!("{{ {} }}", parts.join(", "))
        }
        Value::Code => "a function".to_owned(),
    }
}
