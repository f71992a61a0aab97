//! The configuration file: from TOML to the checked form.
//!
//! The document is taken apart key by key: each is read into its type or noted as a problem, and
//! what is left over at the end of a section is unknown. So one run of `check` reports everything
//! that is wrong in shape, not only the first thing, which is what a derived deserialiser would do.

mod feed;
mod hook;

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::bwlimit;
use super::checked::{
    Batch, Config, Daemon, Delete, Events, Extras, FollowOpenFiles, KernelSwitches, MaxDelete, Mirror, Mounts, Target,
};
use super::cite::{ConfigErrors, Problem, Texts, Written, nearest};
use super::origins::Origins;
use super::patterns::{self, List, PatternFiles};
use super::prepare;
use super::secrets::may_hold_secret;
use super::units;
use crate::daily::TimeOfDay;
use crate::filter::{Filter, Ordered};
use crate::location::{Location, LocationError};
use crate::log::LogConfig;
use crate::role::mark;

/// Reads `text`, and returns where each value is; `file` is named in the errors.
///
/// # Errors
/// All that is wrong in shape; if nothing is, all rules that do not hold.
pub(super) fn parse_written(text: &str, file: Option<&Path>) -> Result<(Config, Written), ConfigErrors> {
    parse_with(text, file, &|name| std::env::var(name).ok())
}

/// The same. `var`: the value of a variable of the environment.
pub(super) fn parse_with(
    text: &str,
    file: Option<&Path>,
    var: &dyn Fn(&str) -> Option<String>,
) -> Result<(Config, Written), ConfigErrors> {
    let (texts, problems) = prepare::gather(text, file);
    if !problems.is_empty() {
        return Err(ConfigErrors::of(texts, problems));
    }
    let form = Form { elsewhere: ELSEWHERE, is_secret: may_hold_secret, whole, judge: super::judge };
    let (mut config, places) = form.read_all(&texts, |document, problems| {
        prepare::expand(document, var, problems);
        prepare::defaults(document, problems);
    })?;
    super::origins::note(&mut config.mirrors, &places, &texts);
    Ok((config, Written { texts, places }))
}

/// The status socket of a configuration whose other values may be wrong.
///
/// # Errors
/// All that is wrong with it where it is no TOML, or this value is.
pub(super) fn socket(text: &str, file: &Path) -> Result<PathBuf, ConfigErrors> {
    let (mut document, errors) = DeTable::parse_recoverable(text);
    let usual = || Daemon::default().status_socket;
    let whole_errors = || parse_written(text, Some(file)).map(|(config, _)| config.daemon.status_socket);
    if !errors.is_empty() {
        return whole_errors();
    }
    let Some(daemon) = document.get_mut().get_mut("daemon") else { return Ok(usual()) };
    let DeValue::Table(daemon) = daemon.get_mut() else { return whole_errors() };
    let Some(mut value) = daemon.remove("status_socket") else { return Ok(usual()) };
    let mut problems = Vec::new();
    prepare::value_of(&mut value, true, &|name| std::env::var(name).ok(), &mut problems);
    if !problems.is_empty() {
        return Err(ConfigErrors::new(Some(file), text, problems));
    }
    value.get_ref().as_str().map_or_else(whole_errors, |path| Ok(path.into()))
}

/// Where the value of a key is, by its path (`mirror.0.target.1.args.2`).
pub(crate) type Places = HashMap<String, Range<usize>>;

/// What a file is to be.
pub(crate) struct Form<T> {
    /// Keys that are often written into another table than their own, with that.
    pub(crate) elsewhere: &'static [(&'static str, &'static str)],
    /// Whether the line at a place may hold a secret, and is not to be shown.
    pub(crate) is_secret: fn(&str, usize) -> bool,
    /// Reads the whole document; `None` where something that it needs is missing or wrong.
    pub(crate) whole: fn(&mut Section<'_, '_>) -> Option<T>,
    /// The rules that do not hold.
    pub(crate) judge: fn(&T, &Places) -> Vec<Problem>,
}

impl<T> Form<T> {
    /// Reads `text`; `file` is named in the errors.
    ///
    /// # Errors
    /// All that is wrong in shape; if nothing is, all rules that do not hold.
    pub(crate) fn read(&self, text: &str, file: Option<&Path>) -> Result<(T, Places), ConfigErrors> {
        self.read_all(&Texts::of(file, text), |_, _| {})
    }

    /// The same for a file and those that it includes. `prepare`: what is done to the document
    /// before its keys are read.
    ///
    /// # Errors
    /// The same.
    fn read_all(
        &self,
        texts: &Texts,
        prepare: impl FnOnce(&mut DeTable<'_>, &mut Vec<Problem>),
    ) -> Result<(T, Places), ConfigErrors> {
        let shield = |mut problems: Vec<Problem>| {
            let secret = |at: &Range<usize>| {
                let part = texts.part(at.start);
                (self.is_secret)(part.text, at.start - part.start)
            };
            problems.iter_mut().for_each(|p| p.secret |= p.at.as_ref().is_some_and(secret));
            ConfigErrors::of(texts.clone(), problems)
        };
        // Behind as much blank as the files before it take, so that its places are those of the
        // whole.
        let padded: Vec<String> = texts.parts().map(|part| " ".repeat(part.start) + part.text).collect();
        let (mut parts, mut errors) = (Vec::new(), Vec::new());
        for text in &padded {
            let (part, wrong) = DeTable::parse_recoverable(text);
            errors.extend(wrong.into_iter().map(|error| (text, error)));
            parts.push(part);
        }
        if !errors.is_empty() {
            // What follows a syntax error is guesswork of the parser: tell only the errors.
            let problem = |text: &str, at: Option<Range<usize>>, message: &str| Problem {
                help: at.as_ref().and_then(|at| help_with_syntax(text, at.start, message)),
                at,
                ..Problem::new(message)
            };
            return Err(shield(errors.iter().map(|(text, e)| problem(text, e.span(), e.message())).collect()));
        }
        let mut problems = Vec::new();
        let mut parts = parts.into_iter();
        let document = parts.next().unwrap_or_else(|| Spanned::new(0..0, DeTable::new()));
        let (span, mut document) = (document.span(), document.into_inner());
        parts.for_each(|part| prepare::join(&mut document, part, &mut problems));
        prepare(&mut document, &mut problems);
        let document = Spanned::new(span, document);
        let mut found = Found { problems, places: Places::new(), elsewhere: self.elsewhere };
        let mut top = Section::new(document, String::new(), "the file", &mut found);
        let read = (self.whole)(&mut top);
        top.finish();
        match read {
            Some(read) if found.problems.is_empty() => match (self.judge)(&read, &found.places) {
                none if none.is_empty() => Ok((read, found.places)),
                problems => Err(shield(problems)),
            },
            _ => Err(shield(found.problems)),
        }
    }
}

/// What to do about a syntax error whose words do not say it.
fn help_with_syntax(text: &str, at: usize, message: &str) -> Option<String> {
    let rest = text.get(at..).unwrap_or_default();
    let line = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let line = text[line..].lines().next().unwrap_or_default().trim();
    if message.contains("duplicate key") && ["[[mirror]]", "[[ mirror ]]"].contains(&line) {
        return Some(
            "a [[mirror.target]] or [[mirror.hook]] stands below its [[mirror]]: move the first [[mirror]] above it".into(),
        );
    }
    let quote =
        rest.chars().next().filter(|c| "\u{201c}\u{201d}\u{201e}\u{201f}\u{2018}\u{2019}\u{201a}\u{ab}\u{bb}".contains(*c))?;
    Some(format!("{quote} is a typographic quotation mark, as word processors make them; write \""))
}

/// What reading has found besides values.
struct Found {
    problems: Vec<Problem>,
    places: Places,
    elsewhere: &'static [(&'static str, &'static str)],
}

/// A table that is being read; [`Section::finish`] reports the keys that were not read.
pub(crate) struct Section<'i, 'f> {
    table: DeTable<'i>,
    at: Range<usize>,
    path: String,
    /// As the file writes it: `[mirror.batch]`.
    title: &'static str,
    asked: Vec<&'static str>,
    found: &'f mut Found,
}

impl<'i, 'f> Section<'i, 'f> {
    fn new(table: Spanned<DeTable<'i>>, path: String, title: &'static str, found: &'f mut Found) -> Self {
        let at = table.span();
        found.places.insert(path.clone(), at.clone());
        Section { table: table.into_inner(), at, path, title, asked: Vec::new(), found }
    }

    /// The path of a key here; at the top it is the key.
    fn below(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'i>>> {
        self.asked.push(key);
        let value = self.table.remove(key)?;
        self.found.places.insert(self.below(key), value.span());
        Some(value)
    }

    fn wrong(&mut self, key: &str, value: &Spanned<DeValue<'_>>, want: &str) {
        let message = format!("{key} is {}, and should be {want}", kind(value.get_ref()));
        self.found.problems.push(Problem::new(message).at(value.span()));
    }

    /// Reads a string by `parse`; a problem becomes none.
    pub(crate) fn text<T, E: Display>(
        &mut self,
        key: &'static str,
        want: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.take(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.wrong(key, &value, want);
            return None;
        };
        parse(text).map_err(|e| self.found.problems.push(Problem::new(e.to_string()).at(value.span()))).ok()
    }

    pub(crate) fn required<T>(&mut self, key: &'static str, what: &str, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if self.table.contains_key(key) {
            return read(self);
        }
        self.asked.push(key);
        let problem = Problem::new(format!("{} has no {key}", self.title)).at(self.at.clone());
        self.found.problems.push(problem.help(format!("add {key} = {what}")));
        None
    }

    pub(crate) fn string(&mut self, key: &'static str) -> Option<String> {
        self.text(key, "a string", |t| Ok::<_, String>(t.to_owned()))
    }

    pub(crate) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.string(key).map(PathBuf::from)
    }

    pub(crate) fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.text(key, "a time in quotes, as in \"500ms\"", units::duration)
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong(key, &value, "true or false");
        }
        flag
    }

    /// A truth value, or a word.
    fn delete(&mut self, key: &'static str) -> Option<Delete> {
        let value = self.take(key)?;
        let found = match (value.get_ref().as_bool(), value.get_ref().as_str()) {
            (Some(on), _) => Some(on.into()),
            (_, Some("startup")) => Some(Delete::Startup),
            (_, Some("running")) => Some(Delete::Running),
            _ => None,
        };
        if found.is_none() {
            self.wrong(key, &value, "true, false, \"startup\" or \"running\"");
        }
        found
    }

    /// A truth value, or "auto".
    fn follow_open_files(&mut self, key: &'static str) -> Option<FollowOpenFiles> {
        let value = self.take(key)?;
        let found = match (value.get_ref().as_bool(), value.get_ref().as_str()) {
            (Some(on), _) => Some(on.into()),
            (_, Some("auto")) => Some(FollowOpenFiles::Auto),
            _ => None,
        };
        if found.is_none() {
            self.wrong(key, &value, "true, false or \"auto\"");
        }
        found
    }

    pub(crate) fn count(&mut self, key: &'static str) -> Option<usize> {
        self.number(key, "a whole number, not negative")
    }

    pub(crate) fn number<T: TryFrom<usize>>(&mut self, key: &'static str, want: &str) -> Option<T> {
        let value = self.take(key)?;
        let number = value.get_ref().as_integer().and_then(|i| usize::from_str_radix(i.as_str(), i.radix()).ok());
        let number = number.and_then(|n| T::try_from(n).ok());
        if number.is_none() {
            self.wrong(key, &value, want);
        }
        number
    }

    /// A number, or a share in quotes.
    pub(super) fn max_delete(&mut self, key: &'static str) -> Option<MaxDelete> {
        match self.table.get(key).map(|value| value.get_ref().as_str().is_some()) {
            Some(true) => self.text(key, "", units::quoted_max_delete),
            Some(false) => {
                let value = self.take(key)?;
                let count = value.get_ref().as_integer().and_then(|i| u64::from_str_radix(i.as_str(), i.radix()).ok());
                if count.is_none() {
                    let want = "a number of entries, as in 1000, or a share in quotes, from \"1%\" to \"100%\"";
                    self.wrong(key, &value, want);
                }
                count.map(MaxDelete::Count)
            }
            None => {
                self.asked.push(key);
                None
            }
        }
    }

    pub(crate) fn choice<T: ValueEnum>(&mut self, key: &'static str) -> Option<T> {
        let names: Vec<_> =
            T::value_variants().iter().filter_map(|v| Some(format!("{:?}", v.to_possible_value()?.get_name()))).collect();
        let want = format!("one of {}", names.join(", "));
        self.text(key, &want, |text| T::from_str(text, false).map_err(|_| format!("{key} is {text:?}, and should be {want}")))
    }

    /// The choices of a list.
    pub(crate) fn choices<T: ValueEnum>(&mut self, key: &'static str) -> Option<Vec<T>> {
        let names: Vec<_> =
            T::value_variants().iter().filter_map(|v| Some(format!("{:?}", v.to_possible_value()?.get_name()))).collect();
        let strings = self.strings(key)?;
        let mut out = Vec::new();
        for text in &strings {
            match T::from_str(text.get_ref(), false) {
                Ok(choice) => out.push(choice),
                Err(_) => {
                    let message = format!("{key} has {:?}, and should have of {}", text.get_ref(), names.join(", "));
                    self.found.problems.push(Problem::new(message).at(text.span()));
                }
            }
        }
        (out.len() == strings.len()).then_some(out)
    }

    /// A time of day, or a list of them, without repetition and in order.
    fn times_of_day(&mut self, key: &'static str) -> Vec<TimeOfDay> {
        let alone = self.table.get(key).is_some_and(|value| value.get_ref().as_str().is_some());
        let mut out: Vec<TimeOfDay> = if alone {
            self.text(key, "", str::parse).into_iter().collect()
        } else {
            let mut out = Vec::new();
            for text in self.strings(key).unwrap_or_default() {
                match text.get_ref().parse() {
                    Ok(time) => out.push(time),
                    Err(why) => {
                        let why: String = why;
                        self.found.problems.push(Problem::new(why).at(text.span()));
                    }
                }
            }
            out
        };
        out.sort_unstable();
        out.dedup();
        out
    }

    /// The strings of a list with their places.
    pub(crate) fn strings(&mut self, key: &'static str) -> Option<Vec<Spanned<String>>> {
        let value = self.take(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong(key, &value, "a list of strings");
            return None;
        };
        let mut out = Vec::new();
        for (i, item) in array.iter().enumerate() {
            self.found.places.insert(format!("{}.{i}", self.below(key)), item.span());
            match item.get_ref().as_str() {
                Some(text) => out.push(Spanned::new(item.span(), text.to_owned())),
                None => self.wrong(key, item, "a list of strings"),
            }
        }
        (out.len() == array.len()).then_some(out)
    }

    /// A table below this one; without it, an empty one, so that its defaults are read in one
    /// place.
    pub(crate) fn table<T>(&mut self, key: &'static str, title: &'static str, read: impl FnOnce(&mut Section<'i, '_>) -> T) -> T {
        let table = match self.take(key) {
            None => Spanned::new(self.at.clone(), DeTable::new()),
            Some(value) => {
                let span = value.span();
                match value.into_inner() {
                    DeValue::Table(table) => Spanned::new(span, table),
                    other => {
                        self.wrong(key, &Spanned::new(span.clone(), other), &format!("a table, written {title}"));
                        Spanned::new(span, DeTable::new())
                    }
                }
            }
        };
        let mut section = Section::new(table, self.below(key), title, self.found);
        let out = read(&mut section);
        section.finish();
        out
    }

    /// A table below this one, if it is there.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        title: &'static str,
        read: impl FnOnce(&mut Section<'i, '_>) -> T,
    ) -> Option<T> {
        self.asked.push(key);
        self.table.contains_key(key).then(|| self.table(key, title, read))
    }

    /// The tables of a list of them, in order; `None` for each that is incomplete.
    pub(crate) fn tables<T>(
        &mut self,
        key: &'static str,
        title: &'static str,
        read: impl Fn(&mut Section<'i, '_>) -> Option<T>,
    ) -> Vec<Option<T>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let span = value.span();
        let DeValue::Array(array) = value.into_inner() else {
            let problem = Problem::new(format!("{key} should be a list of tables")).at(span);
            self.found.problems.push(problem.help(format!("write {title} with double brackets")));
            return Vec::new();
        };
        let mut out = Vec::new();
        for (i, item) in array.into_iter().enumerate() {
            let span = item.span();
            let path = format!("{}.{i}", self.below(key));
            out.push(match item.into_inner() {
                DeValue::Table(table) => {
                    let mut section = Section::new(Spanned::new(span, table), path, title, self.found);
                    let read = read(&mut section);
                    section.finish();
                    read
                }
                other => {
                    self.wrong(key, &Spanned::new(span, other), &format!("a table, written {title}"));
                    None
                }
            });
        }
        out
    }

    /// The table that `key` belongs to, if it is another one. Hooks have keys of the same names
    /// with other meanings.
    fn owner_of(&self, key: &str) -> Option<&'static str> {
        let table = self.found.elsewhere.iter().find(|(name, _)| *name == key)?.1;
        (table != self.title && self.title != "[[mirror.hook]]").then_some(table)
    }

    fn finish(self) {
        for key in self.table.keys() {
            let place = if self.path.is_empty() { String::new() } else { format!(" in {}", self.title) };
            let problem = Problem::new(format!("unknown key {:?}{place}", key.get_ref())).at(key.span());
            let other = OTHER_NAMES.iter().find(|(name, _)| *name == key.get_ref());
            let name = other.map_or(key.get_ref().as_ref(), |(_, name)| *name);
            let meant = self.asked.iter().copied().find(|asked| *asked == name);
            self.found.problems.push(match (self.owner_of(name), meant.or_else(|| nearest(key.get_ref(), &self.asked))) {
                (Some(table), _) if other.is_some() => problem.help(format!("it is called {name}, and is a key of {table}")),
                (Some(table), _) => problem.help(format!("{name} is a key of {table}")),
                (None, Some(meant)) => problem.help(format!("did you mean {meant:?}?")),
                (None, None) => problem.help(format!("the keys here are: {}", self.asked.join(", "))),
            });
        }
    }
}

/// Names that a key does not have, and might.
pub(super) const OTHER_NAMES: &[(&str, &str)] =
    &[("socket", "status_socket"), ("socket_path", "status_socket"), ("log_level", "level"), ("log_format", "format")];

/// Keys that are often written into another table than their own.
pub(super) const ELSEWHERE: &[(&str, &str)] = &[
    ("state_dir", "[daemon]"),
    ("status_socket", "[daemon]"),
    ("socket_group", "[daemon]"),
    ("max_runs", "[daemon]"),
    ("bwlimit", "[daemon]"),
    ("bwlimit_at", "[daemon]"),
    ("metrics", "[daemon]"),
    ("level", "[daemon.log]"),
    ("format", "[daemon.log]"),
    ("source", "[[mirror]]"),
    ("delete", "[[mirror]]"),
    ("include", "[[mirror]]"),
    ("exclude", "[[mirror]]"),
    ("include_from", "[[mirror]]"),
    ("filter", "[[mirror]]"),
    ("filter_from", "[[mirror]]"),
    ("exclude_from", "[[mirror]]"),
    ("hard_links", "[[mirror]]"),
    ("xattrs", "[[mirror]]"),
    ("acls", "[[mirror]]"),
    ("sparse", "[[mirror]]"),
    ("follow_open_files", "[[mirror]]"),
    ("first_max_delete", "[[mirror]]"),
    ("max_file_size", "[[mirror]]"),
    ("remove_source_files", "[[mirror]]"),
    ("full_every", "[[mirror]]"),
    ("verify_every", "[[mirror]]"),
    ("full_at", "[[mirror]]"),
    ("verify_at", "[[mirror]]"),
    ("skip", "[mirror.mounts]"),
    ("take", "[mirror.mounts]"),
    ("max_delay", "[mirror.batch]"),
    ("max_pending", "[mirror.batch]"),
    ("max_bytes", "[mirror.batch]"),
    ("url", "[[mirror.target]]"),
    ("password_file", "[[mirror.target]]"),
    ("compress", "[[mirror.target]]"),
    ("args", "[[mirror.target]]"),
    ("ssh", "[[mirror.target]]"),
    ("timeout", "[[mirror.target]]"),
    ("jobs", "[[mirror.target]]"),
    ("backup_dir", "[[mirror.target]]"),
];

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(i) if i.as_str().starts_with('-') => "a negative number",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn whole(top: &mut Section<'_, '_>) -> Option<Config> {
    // These were taken up before (`prepare`); of what they are, what is not a list of strings is
    // reported here.
    let _ = top.strings("include");
    top.asked.push("defaults");
    let daemon = top.table("daemon", "[daemon]", daemon);
    let mirrors = top.tables("mirror", "[[mirror]]", mirror);
    let follows = top.tables("follow", "[[follow]]", feed::follow);
    Some(Config { daemon, mirrors: mirrors.into_iter().chain(follows).collect::<Option<_>>()? })
}

fn daemon(s: &mut Section<'_, '_>) -> Daemon {
    let d = Daemon::default();
    Daemon {
        state_dir: s.path("state_dir").unwrap_or(d.state_dir),
        status_socket: s.path("status_socket").unwrap_or(d.status_socket),
        socket_group: s.string("socket_group"),
        stop_timeout: s.duration("stop_timeout").unwrap_or(d.stop_timeout),
        max_runs: s.count("max_runs").or(d.max_runs),
        bwlimit: s.text("bwlimit", "a size in quotes, as in \"20MiB\"", units::file_size).or(d.bwlimit),
        bwlimit_at: s.tables("bwlimit_at", "[[daemon.bwlimit_at]]", bwlimit::read).into_iter().flatten().collect(),
        metrics: s.text("metrics", "an address and a port, as in \"127.0.0.1:9846\"", units::address),
        page: s.flag("page").unwrap_or(d.page),
        metrics_file: s.path("metrics_file"),
        metrics_interval: s.duration("metrics_interval").unwrap_or(d.metrics_interval),
        log: s.table("log", "[daemon.log]", |s| LogConfig {
            format: s.choice("format").unwrap_or(d.log.format),
            level: s.choice("level").unwrap_or(d.log.level),
        }),
    }
}

fn mirror(s: &mut Section<'_, '_>) -> Option<Mirror> {
    let name = s.required("name", "\"NAME\"", |s| s.string("name"));
    let source = s.required("source", "\"/the/tree\"", |s| s.path("source"));
    let d = Mirror::new(name.clone().unwrap_or_default(), source.clone().unwrap_or_default());
    let (filter, pattern_files, origins) = filter(s, true);
    let mirror = Mirror {
        delete: s.delete("delete").unwrap_or(d.delete),
        max_delete: s.max_delete("max_delete"),
        first_max_delete: s.max_delete("first_max_delete").unwrap_or(d.first_max_delete),
        remove_source_files: s.flag("remove_source_files").unwrap_or(d.remove_source_files),
        remove_after: s.duration("remove_after").unwrap_or(d.remove_after),
        max_file_size: s.text("max_file_size", "", units::file_size),
        allow_empty: s.flag("allow_empty").unwrap_or(d.allow_empty),
        initial: s.choice("initial").unwrap_or(d.initial),
        watch: s.choice("watch").unwrap_or(d.watch),
        roles: s.flag("roles").unwrap_or(d.roles),
        require_confined: s.flag("require_confined").unwrap_or(d.require_confined),
        send_renames: s.flag("send_renames").unwrap_or(d.send_renames),
        follow_open_files: s.follow_open_files("follow_open_files").unwrap_or(d.follow_open_files),
        follow_interval: s.duration("follow_interval").unwrap_or(d.follow_interval),
        filter,
        pattern_files,
        origins,
        extras: Extras {
            hard_links: s.flag("hard_links").unwrap_or(d.extras.hard_links),
            xattrs: s.flag("xattrs").unwrap_or(d.extras.xattrs),
            acls: s.flag("acls").unwrap_or(d.extras.acls),
            sparse: s.flag("sparse").unwrap_or(d.extras.sparse),
        },
        full_every: s.duration("full_every").or(d.full_every),
        full_at: s.times_of_day("full_at"),
        full_exclude: s
            .strings("full_exclude")
            .map_or(d.full_exclude, |list| list.into_iter().map(Spanned::into_inner).collect()),
        verify_every: s.duration("verify_every").or(d.verify_every),
        verify_at: s.times_of_day("verify_at"),
        verify_checksum: s.flag("verify_checksum").unwrap_or(d.verify_checksum),
        verify_repair: s.flag("verify_repair").unwrap_or(d.verify_repair),
        fail_log: s.path("fail_log").or(d.fail_log),
        events: s.table("events", "[mirror.events]", events),
        rsync: s.path("rsync").unwrap_or(d.rsync),
        mounts: s.table("mounts", "[mirror.mounts]", mounts),
        batch: s.table("batch", "[mirror.batch]", batch),
        kernel: s.table("kernel", "[mirror.kernel]", kernel),
        ..Mirror::new(d.name, d.source)
    };
    let mirror = keep_out_marks(mirror);
    let targets: Option<Vec<_>> = s.tables("target", "[[mirror.target]]", target).into_iter().collect();
    let feeds: Option<Vec<_>> = s.tables("feed", "[[mirror.feed]]", |s| feed::feed(s, &mirror.name)).into_iter().collect();
    let targets = targets.zip(feeds).map(|(targets, feeds)| targets.into_iter().chain(feeds).collect::<Vec<_>>());
    let alone = targets.as_ref().is_some_and(Vec::is_empty);
    let hooks: Option<Vec<_>> = s.tables("hook", "[[mirror.hook]]", |s| hook::hook(s, alone)).into_iter().collect();
    name.and(source)?;
    Some(Mirror { targets: targets?, hooks: hooks?, ..mirror })
}

fn mounts(s: &mut Section<'_, '_>) -> Mounts {
    let mut list = |key| -> Vec<String> {
        let given = s.strings(key).unwrap_or_default();
        // A type has no slash; a place begins with one and is more than that.
        for named in given.iter().filter(|n| n.get_ref().trim_matches('/').is_empty() || n.get_ref().find('/') > Some(0)) {
            let problem = Problem::new(format!("{key} has {:?}, which is neither a type nor a place", named.get_ref()));
            let help = "a type is written \"tmpfs\", a place with a slash in front, from the source: \"/scratch\"";
            s.found.problems.push(problem.at(named.span()).help(help));
        }
        given.into_iter().map(Spanned::into_inner).collect()
    };
    Mounts { skip: list("skip"), take: list("take") }
}

/// With roles, the directory of the marks belongs to each side and to no mirror; what is on its way
/// out of the source is below it, too.
fn keep_out_marks(mirror: Mirror) -> Mirror {
    let pattern = format!("/{}", mark::DIR).into_bytes();
    if !(mirror.roles || mirror.remove_source_files) || mirror.filter.exclude().contains(&pattern) {
        return mirror;
    }
    let mut exclude = mirror.filter.exclude().to_vec();
    // Those of files stay the last ones. Where they are, in Origins, moves with them.
    let own = exclude.len() - mirror.pattern_files.excluded;
    exclude.insert(own, pattern);
    let mirror = Mirror { origins: mirror.origins.moved("exclude", own), ..mirror };
    let (ordered, expressions) = (mirror.filter.ordered(), mirror.filter.expressions());
    let filter = Filter::with_regexes(mirror.filter.include(), &exclude, expressions, mirror.filter.temporary())
        .and_then(|filter| filter.with_rules(ordered));
    Mirror { filter: filter.expect("these patterns were taken before, and the new one is a plain path"), ..mirror }
}

/// The patterns of the files in a list, with their places. What is wrong with one is a problem at
/// its path.
fn patterns_of(s: &mut Section<'_, '_>, key: &'static str, list: List) -> (Vec<PathBuf>, Vec<(Vec<u8>, String)>) {
    let files = s.strings(key).unwrap_or_default();
    let mut found = Vec::new();
    for file in &files {
        let path = Path::new(file.get_ref());
        match patterns::read(path, list) {
            Ok(lines) => found.extend(lines.into_iter().map(|(line, p)| (p, format!("{}:{line}", path.display())))),
            Err(why) => {
                let problem = Problem::new(format!("{key}: {why}")).at(file.span());
                s.found.problems.push(problem.help("without these patterns other files would be copied or deleted"));
            }
        }
    }
    (files.into_iter().map(|file| PathBuf::from(file.into_inner())).collect(), found)
}

/// The rules in order: those of `filter`, then those of the files in `filter_from`, with the number
/// of these and the places of theirs.
fn rules(s: &mut Section<'_, '_>) -> (Vec<Ordered>, Vec<PathBuf>, Vec<String>) {
    let mut out = Vec::new();
    for given in s.strings("filter").unwrap_or_default() {
        match Ordered::parse(given.get_ref().as_bytes()) {
            Ok(rule) => out.push(rule),
            Err(why) => {
                let message = format!("cannot use the filter rule {:?}: {why}", given.get_ref());
                s.found.problems.push(Problem::new(message).at(given.span()));
            }
        }
    }
    let mut places = Vec::new();
    let files = s.strings("filter_from").unwrap_or_default();
    for file in &files {
        let path = Path::new(file.get_ref());
        match patterns::read_rules(path) {
            Ok(lines) => {
                for (line, rule) in lines {
                    out.push(rule);
                    places.push(format!("{}:{line}", path.display()));
                }
            }
            Err(why) => {
                let problem = Problem::new(format!("filter_from: {why}")).at(file.span());
                s.found.problems.push(problem.help("without these rules other files would be copied or deleted"));
            }
        }
    }
    (out, files.into_iter().map(|file| PathBuf::from(file.into_inner())).collect(), places)
}

/// A pattern that cannot be used is a problem at its place, and the filter is empty.
/// `files`: whether the section may name files of patterns, too.
fn filter(s: &mut Section<'_, '_>, files: bool) -> (Filter, PatternFiles, Origins) {
    let include = s.strings("include").unwrap_or_default();
    let exclude = s.strings("exclude").unwrap_or_default();
    let regexes = s.strings("exclude_regex").unwrap_or_default();
    let temporary = s.flag("exclude_temporary").unwrap_or_default();
    let (ordered, filter_files, filtered) = if files { rules(s) } else { Default::default() };
    let mut of_files = |key, list| if files { patterns_of(s, key, list) } else { (Vec::new(), Vec::new()) };
    let (include_files, included) = of_files("include_from", List::Include);
    let (exclude_files, excluded) = of_files("exclude_from", List::Exclude);
    let files = PatternFiles {
        include: include_files,
        exclude: exclude_files,
        filter: filter_files,
        filtered: filtered.len(),
        included: included.len(),
        excluded: excluded.len(),
    };
    let texts = |list: &[Spanned<String>]| list.iter().map(|p| p.get_ref().clone()).collect::<Vec<_>>();
    let all = |own: &[Spanned<String>], of_files: &[(Vec<u8>, String)]| -> Vec<Vec<u8>> {
        let own = own.iter().map(|p| p.get_ref().clone().into_bytes());
        own.chain(of_files.iter().map(|(p, _)| p.clone())).collect()
    };
    let mut origins = Origins::default();
    origins.add("filter", ordered.len() - filtered.len(), filtered.into_iter());
    for (key, own, of_files) in [("include", include.len(), &included), ("exclude", exclude.len(), &excluded)] {
        origins.add(key, own, of_files.iter().map(|(_, place)| place.clone()));
    }
    let (all_include, all_exclude) = (all(&include, &included), all(&exclude, &excluded));
    let filter = Filter::with_regexes(&all_include, &all_exclude, &texts(&regexes), temporary);
    let filter = filter.and_then(|filter| filter.with_rules(&ordered)).unwrap_or_else(|error| {
        let at =
            include.iter().chain(&exclude).chain(&regexes).find(|p| p.get_ref().as_bytes() == error.pattern).map(Spanned::span);
        s.found.problems.push(Problem { at, ..Problem::new(error.to_string()) });
        Filter::none()
    });
    (filter, files, origins)
}

fn batch(s: &mut Section<'_, '_>) -> Batch {
    let d = Batch::default();
    Batch {
        settle: s.duration("settle").unwrap_or(d.settle),
        max_delay: s.duration("max_delay").unwrap_or(d.max_delay),
        delay: s.duration("delay").or(d.delay),
        create_hold: s.duration("create_hold").unwrap_or(d.create_hold),
        max_paths: s.count("max_paths").unwrap_or(d.max_paths),
        max_bytes: s.text("max_bytes", "a size in quotes, as in \"256MiB\"", units::file_size).or(d.max_bytes),
        max_pending: s.count("max_pending").unwrap_or(d.max_pending),
    }
}

fn events(s: &mut Section<'_, '_>) -> Events {
    let d = Events::default();
    Events {
        delete: s.flag("delete").unwrap_or(d.delete),
        create_folder: s.flag("create_folder").unwrap_or(d.create_folder),
        create_file: s.flag("create_file").unwrap_or(d.create_file),
        close_write: s.flag("close_write").unwrap_or(d.close_write),
        move_from: s.flag("move_from").unwrap_or(d.move_from),
        move_to: s.flag("move_to").unwrap_or(d.move_to),
        attrib: s.flag("attrib").unwrap_or(d.attrib),
    }
}

fn kernel(s: &mut Section<'_, '_>) -> KernelSwitches {
    let d = KernelSwitches::default();
    KernelSwitches {
        unlimited_queue: s.flag("unlimited_queue").unwrap_or(d.unlimited_queue),
        rename_events: s.flag("rename_events").unwrap_or(d.rename_events),
        io_uring: s.flag("io_uring").unwrap_or(d.io_uring),
    }
}

fn target(s: &mut Section<'_, '_>) -> Option<Target> {
    let name = s.required("name", "\"NAME\"", |s| s.string("name"));
    let location = s.required("url", "\"rsync://host/module\"", location);
    // A place that is never used: the target is dropped when there was none.
    let d = Target::new(name.clone().unwrap_or_default(), location.clone().unwrap_or(Location::Local(PathBuf::new())));
    let args = s.strings("args").map(|args| args.into_iter().map(Spanned::into_inner).collect());
    let mut target = Target {
        password_file: s.path("password_file"),
        max_delete: s.max_delete("max_delete"),
        delay: s.duration("delay").or(d.delay),
        compress: s.choice("compress").unwrap_or(d.compress),
        args: args.unwrap_or(d.args),
        jobs: s.count("jobs").unwrap_or(d.jobs),
        small_jobs: s.count("small_jobs").unwrap_or(d.small_jobs),
        standby: s.count("standby").unwrap_or(d.standby),
        standby_max_age: s.duration("standby_max_age").unwrap_or(d.standby_max_age),
        timeout: s.duration("timeout").unwrap_or(d.timeout),
        connect_timeout: s.duration("connect_timeout").unwrap_or(d.connect_timeout),
        watchdog: s.duration("watchdog").unwrap_or(d.watchdog),
        retry_min: s.duration("retry_min").unwrap_or(d.retry_min),
        retry_max: s.duration("retry_max").unwrap_or(d.retry_max),
        retry_failed: s.duration("retry_failed").or(d.retry_failed),
        nice: s.number("nice", "a number from 0 to 19").unwrap_or(d.nice),
        ionice: s.choice("ionice").unwrap_or(d.ionice),
        ssh: s.string("ssh"),
        rsync_path: s.string("rsync_path"),
        backup_dir: s.path("backup_dir"),
        backup_keep: s.duration("backup_keep").or(d.backup_keep),
        feed: d.feed,
        name: d.name,
        location: d.location,
    };
    name.and(location)?;
    target.put_behind_its_shell();
    Some(target)
}

fn location(s: &mut Section<'_, '_>) -> Option<Location> {
    let mut secret = false;
    let location =
        s.text("url", "a string", |text| Location::parse(text).inspect_err(|e| secret = *e == LocationError::Password));
    if secret && let Some(problem) = s.found.problems.last_mut() {
        problem.secret = true;
    }
    if location.as_ref().is_some_and(Location::is_feed) {
        let problem = Problem::new("a feed is no [[mirror.target]]").at(s.at.clone());
        s.found.problems.push(problem.help("write a [[mirror.feed]] with name and servers"));
        return None;
    }
    location
}
