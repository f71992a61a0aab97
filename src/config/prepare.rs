//! What is done to a document before its keys are read: `include` brings further files, `${NAME}`
//! stands for a variable of the environment, `[defaults]` fills in what mirrors and targets do not
//! say.
//!
//! Every file keeps its places: the texts lie behind each other ([`Texts`]), and each is parsed
//! behind as much blank as the others before it take.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::cite::{Problem, Texts};
use super::read_trusted;
use crate::filter::Filter;
use crate::location::Location;

/// Keys whose strings may hold `${NAME}`: names, places and programs. Patterns, expressions and
/// commands of hooks have a meaning for `$` of their own.
const EXPANDED: &[&str] = &[
    "name",
    "source",
    "url",
    "password_file",
    "ssh",
    "rsync_path",
    "backup_dir",
    "rsync",
    "state_dir",
    "status_socket",
    "socket_group",
    "metrics",
    "metrics_file",
    "fail_log",
    "exclude_from",
    "include_from",
    "filter_from",
    "address",
    "path",
    "token_file",
    "ca_file",
];

/// Keys of a mirror, or of a target, that each has for itself.
const OWN: &[&str] = &["name", "source", "url", "hook"];
/// Keys that hooks of every kind have, and that are not each one's own.
const OF_HOOKS: &[&str] = &[
    "when",
    "kinds",
    "include",
    "exclude",
    "match",
    "jobs",
    "interval",
    "timeout",
    "tries",
    "retry_min",
    "retry_max",
    "max_pending",
];

/// The text of a configuration with those of the files that it includes, and what is wrong about
/// these.
pub(super) fn gather(text: &str, file: Option<&Path>) -> (Texts, Vec<Problem>) {
    let mut texts = Texts::of(file, text);
    let mut problems = Vec::new();
    let (document, errors) = DeTable::parse_recoverable(text);
    let Some(include) = document.get_ref().get("include").filter(|_| errors.is_empty()) else { return (texts, problems) };
    let Some(list) = include.get_ref().as_array() else { return (texts, problems) }; // reported where it is read
    for entry in list.iter() {
        let Some(pattern) = entry.get_ref().as_str() else { continue };
        let mut wrong = |message: String, help: &str| problems.push(Problem::new(message).at(entry.span()).help(help));
        let Some(file) = file else {
            wrong("include is for files".into(), "write the mirrors here");
            continue;
        };
        let found = match files(pattern, file.parent().unwrap_or(Path::new("/"))) {
            Ok(found) => found,
            Err(why) => {
                wrong(format!("include {pattern:?}: {why}"), "write a file, or the files of a directory as in \"conf.d/*.toml\"");
                continue;
            }
        };
        for path in found {
            match read_trusted(&path) {
                Ok(text) => texts.add(&path, text.strip_prefix('\u{feff}').unwrap_or(&text)),
                Err(errors) => {
                    let first = errors.problems.first().and_then(|p| p.help.clone());
                    wrong(errors.one_line_each().join("; "), first.as_deref().unwrap_or("see that it is there and can be read"));
                }
            }
        }
    }
    (texts, problems)
}

/// The files that a pattern stands for, by their names; `*` and `?` in the last part only, and a
/// name that begins with a dot only if the pattern does.
fn files(pattern: &str, dir: &Path) -> Result<Vec<PathBuf>, String> {
    let path = dir.join(pattern);
    let wild = |part: &str| part.contains(['*', '?', '[']);
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Err("it names no file".into()) };
    let above = path.parent().unwrap_or(Path::new("/"));
    if wild(&above.to_string_lossy()) {
        return Err("only the last part of a path may hold * or ?".into());
    }
    if !wild(name) {
        return Ok(vec![path]);
    }
    let matches = Filter::new::<&[u8], _>(&[], &[name]).map_err(|error| error.to_string())?;
    let entries = std::fs::read_dir(above).map_err(|error| format!("cannot read {}: {error}", above.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("cannot read {}: {error}", above.display()))?.file_name();
        let bytes = entry.as_encoded_bytes();
        let hidden = bytes.starts_with(b".") && !name.starts_with('.');
        if !hidden && matches.excludes_leaf(bytes, false) {
            found.push(above.join(entry));
        }
    }
    found.sort();
    Ok(found)
}

/// Moves the mirrors of an included file into the document. Nothing else may be in such a file.
pub(super) fn join<'i>(document: &mut DeTable<'i>, part: Spanned<DeTable<'i>>, problems: &mut Vec<Problem>) {
    let mut part = part.into_inner();
    for (key, value) in std::mem::take(&mut part) {
        if key.get_ref() != "mirror" {
            let problem = Problem::new(format!("{:?} in an included file", key.get_ref())).at(key.span());
            problems.push(problem.help("included files hold [[mirror]] tables; all else belongs into the main file"));
            continue;
        }
        let span = value.span();
        match (document.get_mut("mirror").map(Spanned::get_mut), value.into_inner()) {
            (Some(DeValue::Array(all)), DeValue::Array(more)) => more.into_iter().for_each(|item| all.push(item)),
            (None, value @ DeValue::Array(_)) => _ = document.insert(key, Spanned::new(span, value)),
            (Some(DeValue::Array(_)) | None, _) => {
                let problem = Problem::new("mirror should be a list of tables").at(span);
                problems.push(problem.help("write [[mirror]] with double brackets"));
            }
            // Reported where it is read.
            (Some(_), _) => {}
        }
    }
}

/// Puts variables in their places. `var`: the value of one.
pub(super) fn expand(table: &mut DeTable<'_>, var: &dyn Fn(&str) -> Option<String>, problems: &mut Vec<Problem>) {
    for (key, value) in table.iter_mut() {
        let expanded = EXPANDED.contains(&key.get_ref().as_ref());
        value_of(value, expanded, var, problems);
    }
}

/// The same for a value; `expanded`: its key is one of those.
pub(super) fn value_of(
    value: &mut Spanned<DeValue<'_>>,
    expanded: bool,
    var: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) {
    let span = value.span();
    match value.get_mut() {
        DeValue::Table(table) => expand(table, var, problems),
        DeValue::Array(list) => list.iter_mut().for_each(|item| value_of(item, expanded, var, problems)),
        DeValue::String(text) if expanded && text.contains("${") => match with_values(text, var) {
            Ok(whole) => *text = whole.into(),
            Err((message, help)) => problems.push(Problem::new(message).at(span).help(help)),
        },
        _ => {}
    }
}

fn with_values(text: &str, var: &dyn Fn(&str) -> Option<String>) -> Result<String, (String, &'static str)> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("${") {
        out.push_str(before);
        let plain = |name: &&str| {
            let first = name.bytes().next();
            first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let Some((name, behind)) = behind.split_once('}').filter(|(name, _)| plain(name)) else {
            return Err((format!("{text:?} has a ${{ without a name"), "write ${NAME}"));
        };
        match var(name) {
            Some(value) => out.push_str(&value),
            None => {
                let help = "set it where fansync runs, as by Environment= in its unit, or write the value";
                return Err((format!("the variable {name} is not set"), help));
            }
        }
        rest = behind;
    }
    Ok(out + rest)
}

/// Fills in what mirrors and targets do not say. A table is filled in key by key; a list of their
/// own takes the place of the other.
pub(super) fn defaults(document: &mut DeTable<'_>, problems: &mut Vec<Problem>) {
    let Some(value) = document.remove("defaults") else { return };
    let Defaults { mirrors: of_mirrors, targets: of_targets, hooks: of_hooks } = match taken_apart(value) {
        Ok(all) => all,
        Err(problem) => return problems.push(problem),
    };
    for (key, _) in of_hooks.iter().flat_map(DeTable::iter).filter(|(key, _)| !OF_HOOKS.contains(&key.get_ref().as_ref())) {
        let problem = Problem::new(format!("[defaults.hook] has {}", key.get_ref())).at(key.span());
        problems.push(problem.help(format!("write it in each hook; all kinds of hooks have {}", OF_HOOKS.join(", "))));
    }
    for (table, title) in [(Some(&of_mirrors), "[defaults]"), (of_targets.as_ref(), "[defaults.target]")] {
        for (key, _) in table.into_iter().flat_map(DeTable::iter).filter(|(key, _)| OWN.contains(&key.get_ref().as_ref())) {
            let problem = Problem::new(format!("{title} has {}", key.get_ref())).at(key.span());
            problems.push(problem.help("write it where it belongs: each has its own"));
        }
    }
    for mirror in tables(document, "mirror") {
        fill(mirror, &of_mirrors, OWN);
        if let Some(of_hooks) = &of_hooks {
            tables(mirror, "hook").for_each(|hook| fill(hook, of_hooks, &[]));
        }
        let Some(of_targets) = &of_targets else { continue };
        for target in tables(mirror, "target") {
            let without = inapplicable(target);
            fill(target, of_targets, &[OWN, without].concat());
        }
    }
}

/// The tables of a list of them.
fn tables<'t, 'i>(table: &'t mut DeTable<'i>, key: &str) -> impl Iterator<Item = &'t mut DeTable<'i>> {
    let items = match table.get_mut(key).map(Spanned::get_mut) {
        Some(DeValue::Array(items)) => items.as_mut(),
        _ => &mut [],
    };
    items.iter_mut().filter_map(|item| if let DeValue::Table(table) = item.get_mut() { Some(table) } else { None })
}

/// What is for mirrors, for targets and for hooks.
struct Defaults<'i> {
    mirrors: DeTable<'i>,
    targets: Option<DeTable<'i>>,
    hooks: Option<DeTable<'i>>,
}

/// Takes the tables for targets and hooks out of the one for mirrors.
fn taken_apart<'i>(value: Spanned<DeValue<'i>>) -> Result<Defaults<'i>, Problem> {
    let single = |span: Range<usize>, title: &str| {
        Problem::new(format!("{title} should be one table")).at(span).help(format!("write {title} with single brackets"))
    };
    let span = value.span();
    let DeValue::Table(mut mirrors) = value.into_inner() else { return Err(single(span, "[defaults]")) };
    let mut below = |key: &str| match mirrors.remove(key).map(|value| (value.span(), value.into_inner())) {
        None => Ok(None),
        Some((_, DeValue::Table(table))) => Ok(Some(table)),
        Some((span, _)) => Err(single(span, &format!("[defaults.{key}]"))),
    };
    let (targets, hooks) = (below("target")?, below("hook")?);
    Ok(Defaults { mirrors, targets, hooks })
}

/// Keys of which a target of its kind has no use.
fn inapplicable(target: &DeTable<'_>) -> &'static [&'static str] {
    let url = target.get("url").and_then(|url| url.get_ref().as_str());
    match url.map(Location::parse) {
        Some(Ok(Location::Daemon { shell: true, .. })) => &[],
        // One with a remote shell of its own is behind that.
        Some(Ok(Location::Daemon { .. })) if target.contains_key("ssh") => &[],
        Some(Ok(Location::Daemon { .. })) => &["ssh", "rsync_path"],
        Some(Ok(Location::Ssh { .. })) => &["password_file"],
        Some(Ok(Location::Local(_) | Location::Feed { .. })) => &["ssh", "rsync_path", "password_file"],
        Some(Err(_)) | None => &[],
    }
}

fn fill<'i>(table: &mut DeTable<'i>, from: &DeTable<'i>, but: &[&str]) {
    for (key, value) in from.iter().filter(|(key, _)| !but.contains(&key.get_ref().as_ref())) {
        match (table.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value.get_ref()) {
            (None, _) => _ = table.insert(key.clone(), value.clone()),
            (Some(DeValue::Table(own)), DeValue::Table(from)) => fill(own, from, &[]),
            (Some(_), _) => {}
        }
    }
}
