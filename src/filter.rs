//! Which paths are left out: one matcher for events, for walks and for every rsync run.
//!
//! The patterns are rsync's (rsync(1), "PATTERN MATCHING RULES"), and what this module says of a
//! path is what rsync 3.5.0 says of it: a path that the live stage leaves out must be the one that
//! a full pass leaves alone, or the two would undo each other's work. `filter/tests.rs` holds the
//! two side by side on random trees and patterns.
//!
//! How it works: rules come in two groups, includes first, and the first match wins; so the order
//! within a group does not matter and each group can be one set. Rules in an order of their own
//! (`ordered.rs`) go before these, and each stretch of them with one sign is a group again.
//! `pattern.rs` takes a pattern apart as rsync does. The common shapes (a name, `*.ext`, `prefix*`,
//! `/a/path`) become hash and suffix look-ups; all others of a group become one regular expression,
//! so that no pattern, however nested its stars, costs more than time linear in the path.
//!
//! `regexes.rs` adds excludes that rsync has no words for.
//!
//! What it gives up: rsync's per-directory merge files, `--cvs-exclude`, rules for one side only
//! and negated rules. Those depend on file contents or on the direction of the transfer and have no
//! meaning for a single event.

mod below;
mod ordered;
mod pattern;
mod regexes;
#[cfg(test)]
mod tests;
mod why;

pub(crate) use ordered::Ordered;
pub(crate) use why::Deciding;

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use hashbrown::HashSet;
use regex::bytes::{Regex, RegexBuilder};
use rustc_hash::FxBuildHasher;

use crate::path::{Shown, base};
use pattern::{Head, Rule, Text, Token};
use regexes::Extra;

/// The longest pattern, in bytes. rsync 3.5.0 drops patterns of 4,096 bytes and more with no more
/// than a message.
const MAX_PATTERN_BYTES: usize = 4000;

/// A pattern that rsync and this module could not be made to read alike.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot use the pattern \"{}\": {reason}", if .pattern.is_empty() { String::new() } else { Shown(.pattern).to_string() })]
pub struct FilterError {
    /// The pattern as given.
    pub(crate) pattern: Vec<u8>,
    /// What is wrong with it and what to write instead.
    pub(crate) reason: String,
}

/// Include and exclude patterns, compiled. Cloning is cheap; equal when the patterns are.
#[derive(Clone)]
pub struct Filter {
    rules: Arc<Rules>,
}

struct Rules {
    ordered: Vec<Ordered>,
    groups: Vec<ordered::Group>,
    include: Vec<Vec<u8>>,
    exclude: Vec<Vec<u8>>,
    /// What each group says of a path that is not a directory, and of one that is.
    files: Verdicts,
    dirs: Verdicts,
    never: Vec<Vec<u8>>,
    extra: Extra,
}

struct Verdicts {
    include: Table,
    exclude: Table,
}

/// All rules of one group, for one kind of path.
#[derive(Default)]
struct Table {
    /// Patterns like `*`.
    everything: bool,
    /// `.git`: the last component is the word.
    names: HashSet<Box<[u8]>, FxBuildHasher>,
    /// `*.swp`: the last component ends in a dot and the word, which holds no further dot.
    extensions: HashSet<Box<[u8]>, FxBuildHasher>,
    /// `*~`, `*.tar.gz`.
    suffixes: Vec<Box<[u8]>>,
    /// `.nfs*`.
    prefixes: Vec<Box<[u8]>>,
    /// `/var/cache`: the whole path is the word.
    paths: HashSet<Box<[u8]>, FxBuildHasher>,
    /// Other patterns for the last component.
    on_name: Option<Regex>,
    /// Other patterns for the path, seen as [`Subject`] shows it.
    on_path: Option<Regex>,
}

impl Filter {
    /// Compiles the patterns. A path is left out when an exclude pattern matches it and no include
    /// pattern does.
    ///
    /// # Errors
    /// An empty pattern, one with a NUL, or one longer than [`MAX_PATTERN_BYTES`]: rsync cannot be
    /// given those. One whose expression grows beyond 16 MiB.
    pub fn new<I: AsRef<[u8]>, E: AsRef<[u8]>>(include: &[I], exclude: &[E]) -> Result<Filter, FilterError> {
        let include: Vec<Vec<u8>> = include.iter().map(|p| p.as_ref().to_vec()).collect();
        let exclude: Vec<Vec<u8>> = exclude.iter().map(|p| p.as_ref().to_vec()).collect();
        let mut never = Vec::new();
        let (include_files, include_dirs) = compile(&include, &mut never)?;
        let (exclude_files, exclude_dirs) = compile(&exclude, &mut never)?;
        let files = Verdicts { include: include_files, exclude: exclude_files };
        let dirs = Verdicts { include: include_dirs, exclude: exclude_dirs };
        Ok(Filter {
            rules: Arc::new(Rules {
                ordered: Vec::new(),
                groups: Vec::new(),
                include,
                exclude,
                files,
                dirs,
                never,
                extra: Extra::default(),
            }),
        })
    }

    /// As [`Filter::new`], and leaves out what one of `expressions` matches whole (`name` at the
    /// top of the source, `/dir/name` below), and with `temporary` files that begin with a dot, end
    /// with `~` or are called `4913`.
    ///
    /// # Errors
    /// Those of [`Filter::new`]; an expression that cannot be compiled.
    pub(crate) fn with_regexes<I: AsRef<[u8]>, E: AsRef<[u8]>>(
        include: &[I],
        exclude: &[E],
        expressions: &[String],
        temporary: bool,
    ) -> Result<Filter, FilterError> {
        let plain = Filter::new(include, exclude)?;
        let extra = Extra::new(expressions, temporary)?;
        let mut rules = Arc::into_inner(plain.rules).expect("made just now");
        rules.never.extend(extra.never.iter().cloned());
        rules.extra = extra;
        Ok(Filter { rules: Arc::new(rules) })
    }

    /// The same with rules that go before it, in their order.
    ///
    /// # Errors
    /// They are too large together.
    pub(crate) fn with_rules(self, ordered: &[Ordered]) -> Result<Filter, FilterError> {
        if ordered.is_empty() {
            return Ok(self);
        }
        let mut rules = Arc::into_inner(self.rules).expect("made just now");
        rules.groups = ordered::groups(ordered, &mut rules.never)?;
        rules.ordered = ordered.to_vec();
        Ok(Filter { rules: Arc::new(rules) })
    }

    /// Nothing is left out.
    pub fn none() -> Filter {
        Filter::new::<&[u8], &[u8]>(&[], &[]).expect("no pattern, no error")
    }

    /// Whether no path is ever left out: there is no exclude of any kind.
    pub fn is_empty(&self) -> bool {
        let Rules { ordered, exclude, extra, .. } = &*self.rules;
        exclude.is_empty() && extra.is_empty() && ordered.iter().all(|rule| !rule.excludes)
    }

    /// Whether rsync's filters can express all of this filter. Where it cannot, a pass that reads
    /// directories by itself would send too much: it is run dry, and what it names is sent by
    /// lists.
    pub(crate) fn is_rsyncs(&self) -> bool {
        self.rules.extra.is_empty()
    }

    /// The regular expressions, as given.
    pub fn expressions(&self) -> &[String] {
        &self.rules.extra.expressions
    }

    /// Whether temporary names are left out.
    pub(crate) fn temporary(&self) -> bool {
        self.rules.extra.temporary
    }

    /// Patterns of rsync that match at least what rsync cannot express exactly, see
    /// [`Filter::is_rsyncs`].
    pub(crate) fn guards(&self) -> &[Vec<u8>] {
        &self.rules.extra.guards
    }

    /// A pattern of rsync that matches `path` and nothing else.
    pub(crate) fn exactly(path: &[u8]) -> Vec<u8> {
        regexes::exactly(path)
    }

    /// A pattern of rsync that matches all that is directly in `path` and nothing else.
    pub(crate) fn inside(path: &[u8]) -> Vec<u8> {
        regexes::inside(path)
    }

    /// The rules in order, which go before the other patterns.
    pub(crate) fn ordered(&self) -> &[Ordered] {
        &self.rules.ordered
    }

    /// Whether a pattern includes.
    pub(crate) fn includes(&self) -> bool {
        !self.rules.include.is_empty() || self.rules.ordered.iter().any(|rule| !rule.excludes)
    }

    /// The include patterns, as given.
    pub(crate) fn include(&self) -> &[Vec<u8>] {
        &self.rules.include
    }

    /// The exclude patterns, as given.
    pub(crate) fn exclude(&self) -> &[Vec<u8>] {
        &self.rules.exclude
    }

    /// Patterns that match no path at all, such as `./cache` (a path has no `.` component) or `[ab`
    /// (the bracket is not closed). rsync takes them without a word; its author should get an
    /// error.
    pub(crate) fn never_matching(&self) -> &[Vec<u8>] {
        &self.rules.never
    }

    /// Whether `path` is left out, by itself or because a directory above it is. `path`: relative
    /// to the root of the mirror, normal form; the root itself is never left out. O(components).
    pub fn excludes(&self, path: &[u8], is_dir: bool) -> bool {
        if self.is_empty() {
            return false;
        }
        memchr::memchr_iter(b'/', path).any(|at| self.excludes_leaf(&path[..at], true)) || self.excludes_leaf(path, is_dir)
    }

    /// As [`Filter::excludes`], for a path whose directories are all known to be included.
    pub fn excludes_leaf(&self, path: &[u8], is_dir: bool) -> bool {
        if self.is_empty() || path.is_empty() {
            return false;
        }
        if let Some(excluded) = ordered::verdict(&self.rules.groups, path, is_dir) {
            return excluded;
        }
        let verdicts = if is_dir { &self.rules.dirs } else { &self.rules.files };
        (verdicts.exclude.matches(path, is_dir) || self.rules.extra.matches(path, is_dir))
            && !verdicts.include.matches(path, is_dir)
    }

    /// The same rules in the same order as rsync arguments.
    ///
    /// `--filter=- PATTERN` and not `--exclude=PATTERN`: the latter reads a pattern that begins
    /// with `+ ` or `- ` as a rule and the pattern `!` as "forget all rules so far" (exclude.c,
    /// `XFLG_OLD_PREFIXES`); behind `--filter=- ` every byte belongs to the pattern.
    pub fn rsync_args(&self) -> Vec<OsString> {
        let rule = |sign: &[u8], pattern: &[u8]| OsString::from_vec([b"--filter=", sign, b" ", pattern].concat());
        let ordered = self.rules.ordered.iter().map(|r| rule(if r.excludes { b"-" } else { b"+" }, &r.pattern));
        let include = self.rules.include.iter().map(|p| rule(b"+", p));
        ordered.chain(include).chain(self.rules.exclude.iter().map(|p| rule(b"-", p))).collect()
    }
}

impl Default for Filter {
    fn default() -> Filter {
        Filter::none()
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Filter) -> bool {
        self.rules.ordered == other.rules.ordered
            && self.rules.include == other.rules.include
            && self.rules.exclude == other.rules.exclude
            && self.expressions() == other.expressions()
            && self.temporary() == other.temporary()
    }
}

impl Eq for Filter {}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        list.entries(self.rules.ordered.iter().map(|r| Shown(&r.text()).to_string()));
        list.entries(self.rules.include.iter().map(|p| format!("+ {}", Shown(p))));
        list.entries(self.rules.exclude.iter().map(|p| format!("- {}", Shown(p))));
        list.entries(self.expressions().iter().map(|e| format!("-~ {e}")));
        list.entries(self.temporary().then_some("temporary names")).finish()
    }
}

impl Table {
    fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        if self.everything {
            return true;
        }
        let name = base(path);
        (!self.names.is_empty() && self.names.contains(name))
            || (!self.extensions.is_empty()
                && memchr::memrchr(b'.', name).is_some_and(|dot| self.extensions.contains(&name[dot + 1..])))
            || self.suffixes.iter().any(|s| name.ends_with(s))
            || self.prefixes.iter().any(|p| name.starts_with(p))
            || (!self.paths.is_empty() && self.paths.contains(path))
            || self.on_name.as_ref().is_some_and(|re| re.is_match(name))
            || self.on_path.as_ref().is_some_and(|re| Subject::with(path, is_dir, |subject| re.is_match(subject)))
    }

    /// Takes the rule's tokens for a check-up if their shape allows it.
    fn take(&mut self, rule: &Rule) -> bool {
        let literal = |tokens: &[Token]| -> Option<Box<[u8]>> {
            tokens.iter().map(|t| if let Token::Byte(b) = t { Some(*b) } else { None }).collect()
        };
        match (&rule.text, &rule.tokens[..]) {
            (Text::Name, [Token::Star]) => self.everything = true,
            (Text::Name, tokens) if literal(tokens).is_some() => {
                self.names.insert(literal(tokens).expect("just seen"));
            }
            (Text::Name, [Token::Star, rest @ ..]) if literal(rest).is_some() => {
                let word = literal(rest).expect("just seen");
                match word.strip_prefix(b".") {
                    Some(extension) if !extension.contains(&b'.') => {
                        self.extensions.insert(extension.into());
                    }
                    _ => self.suffixes.push(word),
                }
            }
            (Text::Name, [rest @ .., Token::Star]) if literal(rest).is_some() => {
                self.prefixes.push(literal(rest).expect("just seen"));
            }
            (Text::Path { head: Head::Anchored, .. }, tokens) if literal(tokens).is_some() => {
                self.paths.insert(literal(tokens).expect("just seen"));
            }
            _ => return false,
        }
        true
    }
}

/// A path as the expressions see it: `/a/b` for a file, `/a/b/` for a directory, so that "at the
/// root", "after any slash" and rsync's "`dir/***` matches the directory too" need no cases of
/// their own.
struct Subject;

impl Subject {
    /// On the stack for the usual path: this runs once per event.
    fn with<R>(path: &[u8], is_dir: bool, then: impl FnOnce(&[u8]) -> R) -> R {
        const SHORT: usize = 254;
        let end = path.len() + 1 + usize::from(is_dir);
        if path.len() <= SHORT {
            let mut short = [b'/'; SHORT + 2];
            short[1..=path.len()].copy_from_slice(path);
            then(&short[..end])
        } else {
            let mut long = Vec::with_capacity(end);
            long.push(b'/');
            long.extend_from_slice(path);
            long.resize(end, b'/');
            then(&long)
        }
    }
}

/// The tables of one group, for files and for directories. Patterns that match nothing are appended
/// to `never`.
fn compile(patterns: &[Vec<u8>], never: &mut Vec<Vec<u8>>) -> Result<(Table, Table), FilterError> {
    let mut tables = [Table::default(), Table::default()];
    // Per table the expressions for the name and for the path.
    let mut open: [[Vec<String>; 2]; 2] = Default::default();
    for given in patterns {
        let refuse = |reason: &str| Err(FilterError { pattern: given.clone(), reason: reason.to_owned() });
        if given.is_empty() {
            return refuse("it is empty; remove it, or write \"*\" to match everything");
        }
        if given.contains(&0) {
            return refuse("it holds a NUL byte, which no file name does");
        }
        if given.len() > MAX_PATTERN_BYTES {
            return refuse("it is longer than 4000 bytes, which rsync cuts off");
        }
        let Some(rule) = pattern::parse(given) else {
            never.push(given.clone());
            continue;
        };
        for (is_dir, (table, open)) in tables.iter_mut().zip(&mut open).enumerate() {
            let is_dir = is_dir == 1;
            if (is_dir || !rule.dirs_only) && !table.take(&rule) {
                open[usize::from(rule.text != Text::Name)].push(rule.expression(is_dir));
            }
        }
    }
    for (table, [names, paths]) in tables.iter_mut().zip(&open) {
        table.on_name = union(names, patterns)?;
        table.on_path = union(paths, patterns)?;
    }
    let [files, dirs] = tables;
    Ok((files, dirs))
}

fn union(expressions: &[String], patterns: &[Vec<u8>]) -> Result<Option<Regex>, FilterError> {
    if expressions.is_empty() {
        return Ok(None);
    }
    let built = RegexBuilder::new(&format!("(?s-u:{})", expressions.join("|")))
        .unicode(false)
        .size_limit(16 << 20)
        .dfa_size_limit(8 << 20)
        .build();
    built.map(Some).map_err(|e| FilterError {
        pattern: patterns.iter().max_by_key(|p| p.len()).cloned().unwrap_or_default(),
        reason: format!("together with the other patterns it is too large to compile ({e}); use fewer or shorter ones"),
    })
}
