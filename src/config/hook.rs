//! `[[mirror.hook]]`: which receivers are notified once a change is on the targets.
//!
//! Keys that all kinds share are fields of [`Hook`]; those of one kind are in its [`Action`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use regex::bytes::{Regex, RegexBuilder};
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Serialize, Serializer};

use super::units;
use crate::filter::Filter;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Letters, digits, `-`, `_`, `.`.
    pub(crate) name: String,
    /// What it is notified of.
    pub(crate) when: When,
    /// Only what is confirmed on this target; `None`: what is confirmed on all.
    pub(crate) target: Option<String>,
    /// The kinds of change it is notified of.
    pub(crate) kinds: Vec<Change>,
    /// Paths that it is notified of, as the mirror's patterns.
    pub(crate) filter: Filter,
    /// Where there are any, the path must match one of them whole.
    pub(crate) matches: Vec<Pattern>,
    /// The most changes in one delivery.
    pub(crate) batch: usize,
    /// Deliveries at the same time.
    pub(crate) jobs: usize,
    /// The least time between the starts of two deliveries.
    pub(crate) interval: Option<Duration>,
    /// How long one delivery may take.
    pub(crate) timeout: Duration,
    /// How often a change is tried that fails by itself; what the receiver cannot take now is tried
    /// for ever.
    pub(crate) tries: u32,
    /// The first wait after a failure.
    pub(crate) retry_min: Duration,
    /// The longest.
    pub(crate) retry_max: Duration,
    /// Changes that wait at most; past it the oldest are dropped and counted.
    pub(crate) max_pending: usize,
    /// What is done.
    pub(crate) action: Action,
}

/// What a hook is notified of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum When {
    /// Changes that are on the targets.
    Confirmed,
    /// Changes as they happen in the source.
    Event,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    /// A file, link or other entry is new or changed.
    Changed,
    /// It is gone.
    Deleted,
    /// A directory is new or has other attributes.
    Directory,
    /// Anything at or below it may have changed; which names is not known.
    Subtree,
}

impl Change {
    /// As the configuration and the receivers see it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Change::Changed => "changed",
            Change::Deleted => "deleted",
            Change::Directory => "directory",
            Change::Subtree => "subtree",
        }
    }
}

/// What a hook does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Runs a program.
    Command(Command),
    /// Writes to a socket.
    Socket(Socket),
    /// POSTs JSON.
    Http(Http),
    /// Makes a content delivery network fetch anew.
    Cdn(Cdn),
}

impl Action {
    /// The `kind` key.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Action::Command(_) => "command",
            Action::Socket(_) => "socket",
            Action::Http(_) => "http",
            Action::Cdn(_) => "cdn",
        }
    }
}

/// `kind = "command"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// The words before the path, as a shell splits them; with `shell`, shell text.
    pub(crate) prefix: String,
    /// The words after the path, likewise.
    pub(crate) suffix: String,
    /// Run `sh -c 'PREFIX "$1" SUFFIX'`, with the path as `$1`.
    pub(crate) shell: bool,
    /// How it gets the paths.
    pub(crate) input: Input,
    /// Exit codes that mean success.
    pub(crate) success: Vec<i32>,
    /// However it ends is success.
    pub(crate) ignore_error: bool,
}

/// How a command gets its paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Input {
    /// One run per path, which is an argument.
    Argument,
    /// Many paths for one run, each ended by a NUL, on its standard input.
    Stdin,
}

/// `kind = "socket"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    /// Who listens.
    pub(crate) address: Address,
    /// What is written.
    pub(crate) form: SocketForm,
    /// Wait for one line in return for each line written.
    pub(crate) acknowledge: bool,
}

/// Where a socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// `host:port`.
    Tcp(String),
    /// A unix socket; absolute.
    Unix(PathBuf),
}

/// What is written to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SocketForm {
    /// One JSON object a line, over one connection that stays.
    Json,
    /// The bare absolute path and nothing else, a connection each.
    Path,
}

/// `kind = "http"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Http {
    /// `http://` or `https://`.
    pub(crate) url: String,
    /// How the request is made.
    pub(crate) request: Request,
}

/// What HTTP requests have in common.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Request {
    /// Names and values, in the file's order.
    pub(crate) headers: Vec<(String, String)>,
    /// A file whose first line is a token. Absolute.
    pub(crate) token_file: Option<PathBuf>,
    /// The header that carries the token, with `{token}` in its place.
    pub(crate) token_header: Option<String>,
    /// PEM file with the certificates that are trusted, in place of the public ones. Absolute.
    pub(crate) ca_file: Option<PathBuf>,
}

/// Headers may hold credentials.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("Request")
            .field("headers", &names)
            .field("token_file", &self.token_file)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// `kind = "cdn"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cdn {
    /// What the source is on the web: an URL, to which the path is added.
    pub(crate) base: String,
    /// Searched for in the absolute path: what follows the match is added to the base and its first
    /// group, and a path without a match is left out.
    pub(crate) url_match: Option<Pattern>,
    /// The request.
    pub(crate) form: CdnForm,
}

/// How a network is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CdnForm {
    /// `HEAD /index.jsp?user=…&pswd=…&ok=ok&urls=…`, as sersync's refreshCDN sends it.
    Chinacache {
        /// `host:port`.
        address: String,
        /// The `Host` header.
        domain: String,
        /// The account.
        user: String,
        password: Secret,
    },
    /// Any purge interface, by templates.
    Purge {
        /// `{url}` in it stands for the URL to purge, `{url_encoded}` for the same as a value of a
        /// query.
        url: String,
        /// `POST`, `PURGE`, `DELETE`, …
        method: String,
        /// `{urls}` in it stands for a JSON list of URLs, `{lines}` for one URL a line, `{url}` for
        /// the only one.
        body: Option<String>,
        /// Headers, token, certificates.
        request: Request,
    },
}

/// A password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    /// In the first line of a file that others cannot read. Absolute.
    File(PathBuf),
    /// In the configuration itself.
    Text(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::File(path) => write!(f, "{path:?}"),
            Secret::Text(_) => f.write_str("…"),
        }
    }
}

/// A regular expression; equal when the texts are.
#[derive(Clone)]
pub(crate) struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// One that has to match the whole subject.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn whole(text: &str) -> Result<Pattern, String> {
        Pattern::compile(text, &format!("\\A(?:{text})\\z"))
    }

    /// One that is searched for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn search(text: &str) -> Result<Pattern, String> {
        Pattern::compile(text, text)
    }

    fn compile(text: &str, full: &str) -> Result<Pattern, String> {
        // Bytes, not characters: a name need not be text.
        match RegexBuilder::new(full).unicode(false).dot_matches_new_line(true).size_limit(4 << 20).build() {
            Ok(regex) => Ok(Pattern { text: text.to_owned(), regex }),
            Err(e) => {
                let why = e.to_string();
                Err(format!("{text:?} is no regular expression: {}", why.lines().last().unwrap_or_default().trim()))
            }
        }
    }

    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Compiled.
    pub(crate) fn regex(&self) -> &Regex {
        &self.regex
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl Hook {
    /// A hook with all defaults for its kind.
    pub(crate) fn new(name: impl Into<String>, when: When, action: Action) -> Hook {
        let batch = match &action {
            Action::Command(Command { input: Input::Argument, .. })
            | Action::Socket(Socket { form: SocketForm::Path, .. })
            | Action::Cdn(Cdn { form: CdnForm::Chinacache { .. }, .. }) => 1,
            Action::Cdn(_) => 30,
            Action::Command(_) | Action::Socket(_) | Action::Http(_) => 500,
        };
        Hook {
            name: name.into(),
            when,
            target: None,
            kinds: Change::value_variants().to_vec(),
            filter: Filter::none(),
            matches: Vec::new(),
            batch,
            jobs: 1,
            interval: None,
            timeout: Duration::from_secs(30),
            tries: 5,
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(60),
            max_pending: 100_000,
            action,
        }
    }

    pub(crate) fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let files = match &self.action {
            Action::Http(Http { request, .. }) | Action::Cdn(Cdn { form: CdnForm::Purge { request, .. }, .. }) => {
                &request.token_file
            }
            Action::Cdn(Cdn { form: CdnForm::Chinacache { password: Secret::File(file), .. }, .. }) => {
                return Some(&**file).into_iter();
            }
            _ => &None,
        };
        files.as_deref().into_iter()
    }

    /// Whether one delivery carries one change, whatever `batch` says.
    pub(crate) fn one_by_one(&self) -> bool {
        match &self.action {
            Action::Command(c) => c.input == Input::Argument,
            Action::Socket(s) => s.form == SocketForm::Path,
            Action::Http(_) => false,
            Action::Cdn(c) => match &c.form {
                CdnForm::Chinacache { .. } => true,
                CdnForm::Purge { url, body, .. } => {
                    let one = |text: &str| text.contains("{url}") || text.contains("{url_encoded}");
                    one(url) || body.as_deref().is_some_and(one)
                }
            },
        }
    }
}

/// Flat, as the file has it.
impl Serialize for Hook {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let texts = |patterns: &[Vec<u8>]| {
            let text = |p: &Vec<u8>| String::from_utf8(p.clone()).map_err(|_| S::Error::custom("a pattern is not UTF-8"));
            patterns.iter().map(text).collect::<Result<Vec<_>, _>>()
        };
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("name", &self.name)?;
        out.serialize_entry("kind", self.action.kind())?;
        out.serialize_entry("when", &self.when)?;
        if let Some(target) = &self.target {
            out.serialize_entry("target", target)?;
        }
        out.serialize_entry("kinds", &self.kinds)?;
        out.serialize_entry("include", &texts(self.filter.include())?)?;
        out.serialize_entry("exclude", &texts(self.filter.exclude())?)?;
        out.serialize_entry("match", &self.matches.iter().map(Pattern::text).collect::<Vec<_>>())?;
        if !self.one_by_one() {
            out.serialize_entry("batch", &self.batch)?;
        }
        out.serialize_entry("jobs", &self.jobs)?;
        if let Some(interval) = self.interval {
            out.serialize_entry("interval", &units::shown(interval))?;
        }
        out.serialize_entry("timeout", &units::shown(self.timeout))?;
        out.serialize_entry("tries", &self.tries)?;
        out.serialize_entry("retry_min", &units::shown(self.retry_min))?;
        out.serialize_entry("retry_max", &units::shown(self.retry_max))?;
        out.serialize_entry("max_pending", &self.max_pending)?;
        match &self.action {
            Action::Command(c) => {
                out.serialize_entry("prefix", &c.prefix)?;
                out.serialize_entry("suffix", &c.suffix)?;
                out.serialize_entry("shell", &c.shell)?;
                out.serialize_entry("input", &c.input)?;
                out.serialize_entry("success", &c.success)?;
                out.serialize_entry("ignore_error", &c.ignore_error)?;
            }
            Action::Socket(s) => {
                match &s.address {
                    Address::Tcp(address) => out.serialize_entry("address", address)?,
                    Address::Unix(path) => out.serialize_entry("path", path)?,
                }
                out.serialize_entry("form", &s.form)?;
                out.serialize_entry("acknowledge", &s.acknowledge)?;
            }
            Action::Http(h) => {
                out.serialize_entry("url", &h.url)?;
                request(&mut out, &h.request)?;
            }
            Action::Cdn(c) => {
                out.serialize_entry("base", &c.base)?;
                if let Some(pattern) = &c.url_match {
                    out.serialize_entry("url_match", pattern.text())?;
                }
                match &c.form {
                    CdnForm::Chinacache { address, domain, user, password } => {
                        out.serialize_entry("form", "chinacache")?;
                        out.serialize_entry("address", address)?;
                        out.serialize_entry("domain", domain)?;
                        out.serialize_entry("user", user)?;
                        match password {
                            Secret::File(path) => out.serialize_entry("password_file", path)?,
                            Secret::Text(text) => out.serialize_entry("password", text)?,
                        }
                    }
                    CdnForm::Purge { url, method, body, request: r } => {
                        out.serialize_entry("form", "purge")?;
                        out.serialize_entry("url", url)?;
                        out.serialize_entry("method", method)?;
                        if let Some(body) = body {
                            out.serialize_entry("body", body)?;
                        }
                        request(&mut out, r)?;
                    }
                }
            }
        }
        out.end()
    }
}

fn request<M: SerializeMap>(out: &mut M, request: &Request) -> Result<(), M::Error> {
    if let Some(file) = &request.token_file {
        out.serialize_entry("token_file", file)?;
    }
    if let Some(header) = &request.token_header {
        out.serialize_entry("token_header", header)?;
    }
    if let Some(file) = &request.ca_file {
        out.serialize_entry("ca_file", file)?;
    }
    let lines: Vec<String> = request.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    out.serialize_entry("headers", &lines)
}
