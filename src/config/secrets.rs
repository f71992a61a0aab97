//! Secrets in a configuration: which values are some, and how they are kept from being shown.

use std::path::{Path, PathBuf};

use super::checked::Config;
use super::cite::nearest;
use super::hook::{Action, Cdn, CdnForm, Hook, Http, Request, Secret};
use crate::trust::{self, Mind, TrustError};

/// What is shown in place of a secret.
const HIDDEN: &str = "***";

/// Headers that carry credentials, in lower case; and what the name of one has in it.
const HEADERS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];
const WORDS: [&str; 7] = ["token", "secret", "password", "passwd", "auth", "api-key", "apikey"];
/// Parameters of a query that do; also as the end of a longer name.
const PARAMETERS: [&str; 9] = ["key", "token", "secret", "password", "passwd", "pswd", "sig", "signature", "auth"];

/// Whether a header of this name carries a credential.
fn is_secret_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    HEADERS.contains(&&*name) || WORDS.iter().any(|word| name.contains(word)) || name.ends_with("-key")
}

/// An URL without what may be a credential in it: the user, and the query where a parameter is
/// called like one. `None` when there is none.
fn without_credentials(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
    let (path, query) = after.split_once('?').map_or((after, None), |(path, query)| (path, Some(query)));
    let named = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
        PARAMETERS.iter().any(|p| name.strip_suffix(p).is_some_and(|left| left.is_empty() || left.ends_with(['_', '-', '.'])))
    };
    let hide = query.is_some_and(|query| query.split('&').any(named));
    if user.is_empty() && !hide {
        return None;
    }
    let user = if user.is_empty() { String::new() } else { format!("{HIDDEN}@") };
    let query = match query {
        Some(_) if hide => format!("?{HIDDEN}"),
        Some(query) => format!("?{query}"),
        None => String::new(),
    };
    Some(format!("{scheme}://{user}{host}{path}{query}"))
}

impl Request {
    fn secret(&self) -> Option<&'static str> {
        self.headers.iter().any(|(name, _)| is_secret_header(name)).then_some("a header with a credential")
    }

    fn hide(&mut self) {
        for (name, value) in &mut self.headers {
            if is_secret_header(name) {
                *value = HIDDEN.into();
            }
        }
    }
}

/// An URL as it is shown: also without those parts of its path that look like keys, as the URLs of
/// chat services have them.
fn shown_url(url: &str) -> String {
    let plain = without_credentials(url).unwrap_or_else(|| url.to_owned());
    let key = |part: &str| {
        part.len() >= 16
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_:".contains(&b))
            && part.bytes().any(|b| b.is_ascii_digit())
    };
    let (begin, query) = plain.split_once('?').map_or((&*plain, None), |(begin, query)| (begin, Some(query)));
    // The first three are the scheme, nothing, and the host.
    let parts: Vec<&str> = begin.split('/').enumerate().map(|(i, part)| if i > 2 && key(part) { HIDDEN } else { part }).collect();
    let begin = parts.join("/");
    query.map_or(begin.clone(), |query| format!("{begin}?{query}"))
}

impl Hook {
    /// What secret the hook itself holds, if any; not those in files of their own.
    fn secret(&self) -> Option<&'static str> {
        let url = |url: &str| without_credentials(url).map(|_| "a URL with a credential");
        match &self.action {
            Action::Http(Http { url: u, request }) => url(u).or(request.secret()),
            Action::Cdn(Cdn { form: CdnForm::Purge { url: u, request, .. }, .. }) => url(u).or(request.secret()),
            Action::Cdn(Cdn { form: CdnForm::Chinacache { password: Secret::Text(_), .. }, .. }) => Some("a password"),
            _ => None,
        }
    }

    fn hide_secrets(&mut self) {
        match &mut self.action {
            Action::Http(Http { url, request }) | Action::Cdn(Cdn { form: CdnForm::Purge { url, request, .. }, .. }) => {
                *url = shown_url(url);
                request.hide();
            }
            Action::Cdn(Cdn { form: CdnForm::Chinacache { password: Secret::Text(text), .. }, .. }) => {
                *text = HIDDEN.into();
            }
            _ => {}
        }
    }

    /// The certificates that are trusted in place of the public ones.
    pub(super) fn ca_file(&self) -> Option<&Path> {
        match &self.action {
            Action::Http(Http { request, .. }) | Action::Cdn(Cdn { form: CdnForm::Purge { request, .. }, .. }) => {
                request.ca_file.as_deref()
            }
            _ => None,
        }
    }
}

impl Config {
    /// A secret that this configuration holds itself, in words, if it does; not those in files of
    /// their own.
    pub(crate) fn secret(&self) -> Option<String> {
        let hooks = self.mirrors.iter().flat_map(|m| m.hooks.iter().map(move |h| (m, h)));
        hooks.filter_map(|(m, h)| Some(format!("mirror {:?}, hook {:?}: {}", m.name, h.name, h.secret()?))).next()
    }

    /// Replaces each password in the text by one in a file of its own below `dir`, which is not
    /// made. Returns these files.
    pub(crate) fn move_passwords(&mut self, dir: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for mirror in &mut self.mirrors {
            for hook in &mut mirror.hooks {
                if let Action::Cdn(Cdn { form: CdnForm::Chinacache { password, .. }, .. }) = &mut hook.action
                    && matches!(password, Secret::Text(_))
                {
                    let file = dir.join(format!("{}-{}.password", mirror.name, hook.name));
                    *password = Secret::File(file.clone());
                    files.push(file);
                }
            }
        }
        files
    }

    /// The same configuration with every secret replaced by `***`, to be shown.
    #[must_use]
    pub fn without_secrets(&self) -> Config {
        let mut shown = self.clone();
        shown.mirrors.iter_mut().flat_map(|m| &mut m.hooks).for_each(Hook::hide_secrets);
        shown
    }
}

/// Why a file with a secret in it must not be used: everybody can read it. What cannot be judged is
/// another matter.
pub(crate) fn readable(path: &Path) -> Option<TrustError> {
    trust::file(path, Mind::Secret).err().filter(|error| matches!(error, TrustError::Others { .. }))
}

/// Keys whose lines can be shown in a message.
const PLAIN: &[&str] = &[
    "acknowledge",
    "acls",
    "address",
    "allow_empty",
    "args",
    "attrib",
    "backup_dir",
    "backup_keep",
    "base",
    "batch",
    "bwlimit",
    "bwlimit_at",
    "ca_file",
    "cert_file",
    "close_write",
    "compress",
    "connect_timeout",
    "create_file",
    "create_folder",
    "create_hold",
    "daemon",
    "delete",
    "directory",
    "domain",
    "events",
    "exclude",
    "exclude_from",
    "exclude_regex",
    "exclude_temporary",
    "fail_log",
    "feed",
    "filter",
    "filter_from",
    "first_max_delete",
    "follow_interval",
    "follow_open_files",
    "follower",
    "form",
    "format",
    "full_every",
    "full_exclude",
    "hard_links",
    "hook",
    "ignore_error",
    "include",
    "include_from",
    "initial",
    "inline",
    "input",
    "interval",
    "io_uring",
    "ionice",
    "jobs",
    "keep",
    "keep_bytes",
    "kernel",
    "key_file",
    "kind",
    "kinds",
    "last",
    "level",
    "log",
    "match",
    "max_bytes",
    "max_delay",
    "max_delete",
    "max_file_size",
    "max_paths",
    "max_pending",
    "max_runs",
    "method",
    "metrics",
    "metrics_file",
    "metrics_interval",
    "mirror",
    "move_from",
    "move_to",
    "name",
    "nats_password_file",
    "nats_user",
    "nice",
    "nkey_file",
    "page",
    "password_file",
    "path",
    "prefix",
    "remove_after",
    "remove_source_files",
    "rename_events",
    "replicas",
    "require_confined",
    "retry_failed",
    "retry_max",
    "retry_min",
    "roles",
    "rsync",
    "rsync_path",
    "send_renames",
    "serve",
    "servers",
    "settle",
    "shell",
    "skip",
    "small_jobs",
    "socket_group",
    "source",
    "sparse",
    "spread",
    "ssh",
    "standby",
    "state_dir",
    "status_socket",
    "success",
    "suffix",
    "take",
    "target",
    "timeout",
    "token_file",
    "tries",
    "unlimited_queue",
    "upstream",
    "url",
    "url_match",
    "user",
    "watch",
];
/// Others, so that the list above is one of names that come to mind.
const PLAIN_TOO: [&str; 14] = [
    "delay",
    "from",
    "limit",
    "to",
    "full_at",
    "verify_at",
    "standby_max_age",
    "stop_timeout",
    "verify_checksum",
    "verify_every",
    "verify_repair",
    "watchdog",
    "when",
    "xattrs",
];
/// Keys whose lines may hold a secret.
const SECRET: [&str; 4] = ["password", "headers", "body", "token_header"];

/// Whether the line of a configuration at byte `at` may hold a secret: its key is one of those that
/// do, or is not known and not nearly one that is.
pub(super) fn may_hold_secret(text: &str, at: usize) -> bool {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |n| n + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    if line.trim().is_empty() {
        return false;
    }
    // A line within a list or a long string belongs to the key above it.
    match std::iter::once(line).chain(text[..start].lines().rev()).find_map(key_of) {
        Some(Key::Section) => false,
        Some(Key::Named(key)) => {
            let known: Vec<&str> = PLAIN.iter().chain(&PLAIN_TOO).chain(&SECRET).copied().collect();
            match nearest(key, &known) {
                Some("url") => line.contains("http://") || line.contains("https://"),
                meant => meant.is_none_or(|key| SECRET.contains(&key)),
            }
        }
        None => true,
    }
}

/// Whether a line of a configuration may hold a secret.
pub(super) fn any(text: &str) -> bool {
    let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
    starts.filter(|at| !text[*at..].trim_start().starts_with('#')).any(|at| may_hold_secret(text, at))
}

/// The same for the file of failover, where only the receivers of its notices can hold one.
pub(crate) fn may_hold_url(text: &str, at: usize) -> bool {
    let start = text.get(..at).unwrap_or(text).rfind('\n').map_or(0, |n| n + 1);
    text[start..].lines().next().is_some_and(|line| line.contains("://"))
}

enum Key<'a> {
    Section,
    Named(&'a str),
}

/// What a line begins, if it begins anything.
fn key_of(line: &str) -> Option<Key<'_>> {
    let line = line.trim();
    if line.starts_with('[') && line.trim_end_matches(|c: char| c != ']').ends_with(']') && !line.contains(['"', '\'']) {
        return Some(Key::Section);
    }
    let (key, _) = line.split_once('=')?;
    let key = key.trim().trim_matches(['"', '\'']);
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    plain.then(|| Key::Named(key.rsplit('.').next().unwrap_or(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_urls() {
        for (name, secret) in [("Authorization", true), ("X-Api-Key", true), ("X-Auth-Token", true), ("Content-Type", false)] {
            assert_eq!(is_secret_header(name), secret, "{name}");
        }
        for (url, want) in [
            ("https://host/path?page=1", None),
            ("https://host:8443/", None),
            ("https://me:pw@host/p", Some("https://***@host/p")),
            ("https://host/p?a=1&api_key=x", Some("https://host/p?***")),
            ("https://host?token=x", Some("https://host?***")),
            ("https://host/monkey?monkey=1", None),
            ("no url", None),
        ] {
            assert_eq!(without_credentials(url).as_deref(), want, "{url}");
        }
        assert_eq!(shown_url("https://h/services/T00000000/XXXX1234abcd5678efgh"), "https://h/services/T00000000/***");
        assert_eq!(shown_url("https://u:p@h/a/b?x=1"), "https://***@h/a/b?x=1");
    }

    #[test]
    fn lines_that_are_not_shown() {
        let text = "[[mirror]]\nname = \"m\"\nexlude = [\n  \"*.swp\"\n]\npasswrd = \"x\"\nheaders = [\n \"A: b\"\n]\nsecret = 1\n\
                    url = \"rsync://h/m\"\nurl = \"https://h/\"\npassword_file = \"/f\"\n\npassword: x\n";
        let hidden: Vec<bool> =
            text.lines().map(|l| may_hold_secret(text, l.as_ptr() as usize - text.as_ptr() as usize)).collect();
        let want = [false, false, false, false, false, true, true, true, true, true, false, true, false, false, false];
        assert_eq!(hidden, want);
        assert!(may_hold_secret("password: x", 3), "a line that begins nothing, at the top");
    }
}
