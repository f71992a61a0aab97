//! Rules for hooks.

use std::path::Path;

use super::{Complaint, Section};
use crate::config::checked::Mirror;
use crate::config::hook::{Action, Address, CdnForm, Command, Hook, Request, Secret, Socket, SocketForm, When};
use crate::config::whose::judge_program;

pub(super) fn hook(mirror: &Mirror, hook: &Hook, at: usize, path: &str, out: &mut Vec<Complaint>) {
    let title = format!("mirror {:?}, hook {:?}", mirror.name, hook.name);
    let mut section = Section { path: path.into(), title, out };
    section.name(&hook.name);
    if mirror.hooks[..at].iter().any(|h| h.name == hook.name) {
        section.complain("name", "another hook of this mirror has this name", "give each hook its own");
    }
    section.occasion(mirror, hook);
    section.queue(hook);
    match &hook.action {
        Action::Command(command) => section.command(command),
        Action::Socket(socket) => section.socket(socket),
        Action::Http(http) => {
            section.url("url", &http.url);
            section.request(&http.request);
        }
        Action::Cdn(cdn) => {
            section.url("base", &cdn.base);
            section.cdn_form(&cdn.form);
        }
    }
}

impl Section<'_> {
    /// Which changes the hook is for, of which target and of which kinds.
    fn occasion(&mut self, mirror: &Mirror, hook: &Hook) {
        if hook.when == When::Confirmed && mirror.targets.is_empty() {
            let help = "remove when, or write when = \"event\"; or add a [[mirror.target]]";
            self.complain("when", "nothing is ever confirmed, since the mirror has no target", help);
        }
        if let Some(target) = &hook.target {
            if hook.when == When::Event {
                let help = "remove target, or when = \"event\"";
                self.complain("target", "events happen in the source and have no target", help);
            } else if !mirror.targets.iter().any(|t| t.name == *target) {
                let names: Vec<&str> = mirror.targets.iter().map(|t| &*t.name).collect();
                let help = format!("the targets are: {}", names.join(", "));
                self.complain("target", format!("the mirror has no target {target:?}"), help);
            }
        }
        if hook.kinds.is_empty() {
            let help = "remove it to get every change";
            self.complain("kinds", "kinds is empty, so the hook would get no change", help);
        }
    }

    /// How changes wait, leave and are tried again.
    fn queue(&mut self, hook: &Hook) {
        self.count("batch", hook.batch, 1, 100_000);
        self.count("jobs", hook.jobs, 1, 64);
        self.count("tries", hook.tries as usize, 1, 1000);
        self.count("max_pending", hook.max_pending, 100, 10_000_000);
        self.ordered(("retry_min", hook.retry_min), ("retry_max", hook.retry_max));
    }

    fn command(&mut self, command: &Command) {
        let parts = [("prefix", &command.prefix), ("suffix", &command.suffix)];
        for (key, text) in parts {
            if text.contains('\0') {
                self.complain(key, format!("{key} holds a NUL"), "remove it");
            } else if !command.shell && shlex::split(text).is_none() {
                let message = format!("{key} {text:?} has a quote that does not end");
                self.complain(key, message, "end it, or escape it with a backslash");
            }
        }
        if command.prefix.trim().is_empty() {
            self.complain("prefix", "prefix is empty, so no program is named", "begin it with the program");
        }
        self.program(command);
        if command.success.is_empty() && !command.ignore_error {
            self.complain("success", "success is empty, so no run would be one", "write success = [0]");
        }
    }

    fn socket(&mut self, socket: &Socket) {
        match &socket.address {
            Address::Tcp(address) => self.address("address", address),
            Address::Unix(path) => self.absolute("path", path),
        }
        if socket.form == SocketForm::Path && socket.acknowledge {
            let help = "remove acknowledge, or write form = \"json\"";
            self.complain("acknowledge", "a bare path is not a line that could be acknowledged", help);
        }
    }

    fn cdn_form(&mut self, form: &CdnForm) {
        match form {
            CdnForm::Chinacache { address, domain, password, .. } => {
                self.address("address", address);
                let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
                if domain.is_empty() || !domain.chars().all(plain) {
                    self.complain("domain", format!("domain {domain:?} is no host name"), "write the host's name");
                }
                if let Secret::File(file) = password {
                    self.absolute("password_file", file);
                }
            }
            CdnForm::Purge { url, method, body, request } => {
                self.purge(url, method, body.as_deref());
                self.request(request);
            }
        }
    }

    /// A CDN's purge request: its templates and its method.
    fn purge(&mut self, url: &str, method: &str, body: Option<&str>) {
        let has_place = url.contains('{') || body.is_some_and(|b| b.contains("{url") || b.contains("{lines}"));
        if !has_place {
            let help = "write {urls}, {lines} or {url} where they belong in body, or {url} in url";
            self.complain("url", "neither url nor body has a place for the URLs to purge", help);
        }
        if url != "{url}" {
            self.url("url", url);
        }
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            let help = "write one like \"POST\" or \"PURGE\"";
            self.complain("method", format!("method {method:?} is no HTTP method"), help);
        }
    }

    /// A user who can change the program runs anything as the daemon's user.
    fn program(&mut self, command: &Command) {
        // The first word of a shell's text is a program only where it is plain; a shell has others
        // in it that are not seen from here.
        let words = shlex::split(&command.prefix).unwrap_or_default();
        let Some(first) = words.first() else { return };
        match judge_program(Path::new(first)) {
            Err(error) if !error.is_missing() => {
                self.complain("prefix", format!("others can change what it runs: {error}"), error.help());
            }
            _ => {}
        }
    }

    fn address(&mut self, key: &str, address: &str) {
        let sound = address.rsplit_once(':').is_some_and(|(host, port)| {
            let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
            !host.is_empty()
                && !host.contains(|c: char| c.is_whitespace() || c == '/')
                && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
        if !sound {
            self.complain(key, format!("{key} {address:?} is not host:port"), "write it as \"host:8009\" or \"[::1]:8009\"");
        }
    }

    fn url(&mut self, key: &str, url: &str) {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        if !rest.is_some_and(|r| !r.is_empty() && !r.starts_with('/')) {
            // Not shown whole: it may hold a key.
            self.complain(
                key,
                format!("{key} is no http:// or https:// URL"),
                "write the whole URL, as in \"https://host/path\"",
            );
        } else if !url.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`".contains(&b)) {
            let help = "percent-encode what is not plain ASCII";
            self.complain(key, format!("{key} holds a character that no URL may hold"), help);
        }
    }

    fn request(&mut self, request: &Request) {
        let name_is = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        for (name, value) in &request.headers {
            if !name_is(name) || value.contains(|c: char| c.is_control()) {
                self.complain("headers", format!("the header {name:?} cannot be sent"), "write it as \"Name: value\"");
            }
        }
        let paths: [(&str, &Option<_>); 2] = [("token_file", &request.token_file), ("ca_file", &request.ca_file)];
        for (key, path) in paths {
            if let Some(path) = path {
                self.absolute(key, AsRef::<Path>::as_ref(path));
            }
        }
        match (&request.token_header, &request.token_file) {
            (Some(_), None) => self.complain("token_header", "there is no token_file", "add one, or remove token_header"),
            (Some(header), Some(_))
                if !header.contains("{token}") || !header.split_once(':').is_some_and(|(n, _)| name_is(n)) =>
            {
                let help = "write it as \"Authorization: Bearer {token}\"";
                self.complain("token_header", "token_header has no name, or no place for the token", help);
            }
            _ => {}
        }
    }
}
