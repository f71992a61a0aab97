//! `[[mirror.hook]]`: the keys that all kinds share, then those of its kind.

use clap::ValueEnum;
use toml::Spanned;

use super::{Problem, Section, filter};
use crate::config::hook::{
    Action, Address, Cdn, CdnForm, Change, Command, Hook, Http, Input, Pattern, Request, Secret, Socket, SocketForm, When,
};

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Command,
    Socket,
    Http,
    Cdn,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Chinacache,
    Purge,
}

/// `alone`: the mirror has no target, so that nothing can be confirmed.
pub(super) fn hook(s: &mut Section<'_, '_>, alone: bool) -> Option<Hook> {
    let name = s.required("name", "\"NAME\"", |s| s.string("name"));
    let kind = s.required("kind", "\"command\", \"socket\", \"http\" or \"cdn\"", |s| s.choice::<Kind>("kind"));
    let when = s.choice("when").unwrap_or(if alone { When::Event } else { When::Confirmed });
    let Some(kind) = kind else {
        // Which keys belong here is not known.
        s.table.clear();
        return None;
    };
    let action = match kind {
        Kind::Command => command(s).map(Action::Command),
        Kind::Socket => socket(s).map(Action::Socket),
        Kind::Http => http(s).map(Action::Http),
        Kind::Cdn => cdn(s).map(Action::Cdn),
    };
    // A place that is never used, so that the other keys are read and judged too.
    let complete = action.is_some();
    let stand_in = || Action::Http(Http { url: String::new(), request: Request::default() });
    let d = Hook::new(name.clone().unwrap_or_default(), when, action.unwrap_or_else(stand_in));
    let hook = Hook {
        target: s.string("target"),
        kinds: kinds(s).unwrap_or_else(|| d.kinds.clone()),
        filter: filter(s, false).0,
        matches: patterns(s, "match"),
        jobs: s.count("jobs").unwrap_or(d.jobs),
        interval: s.duration("interval"),
        timeout: s.duration("timeout").unwrap_or(d.timeout),
        tries: s.count("tries").map_or(d.tries, |n| n.try_into().unwrap_or(u32::MAX)),
        retry_min: s.duration("retry_min").unwrap_or(d.retry_min),
        retry_max: s.duration("retry_max").unwrap_or(d.retry_max),
        max_pending: s.count("max_pending").unwrap_or(d.max_pending),
        // Where each delivery carries one there is no such key.
        batch: if complete && d.one_by_one() { 1 } else { s.count("batch").unwrap_or(d.batch) },
        ..d
    };
    (name.is_some() && complete).then_some(hook)
}

fn command(s: &mut Section<'_, '_>) -> Option<Command> {
    let prefix = s.required("prefix", "\"/the/program and its words\"", |s| s.string("prefix"));
    let success = s.numbers("success");
    Some(Command {
        suffix: s.string("suffix").unwrap_or_default(),
        shell: s.flag("shell").unwrap_or(false),
        input: s.choice("input").unwrap_or(Input::Argument),
        success: success.unwrap_or_else(|| vec![0]),
        ignore_error: s.flag("ignore_error").unwrap_or(false),
        prefix: prefix?,
    })
}

fn socket(s: &mut Section<'_, '_>) -> Option<Socket> {
    let address = s.string("address");
    let path = s.path("path");
    let form = s.choice("form").unwrap_or(SocketForm::Json);
    let acknowledge = s.flag("acknowledge").unwrap_or(false);
    let address = match (address, path) {
        (Some(address), None) => Address::Tcp(address),
        (None, Some(path)) => Address::Unix(path),
        _ => {
            let problem = Problem::new("a socket hook needs one of address and path").at(s.at.clone());
            s.found.problems.push(problem.help("add address = \"host:port\", or path = \"/run/a.sock\" for a unix socket"));
            return None;
        }
    };
    Some(Socket { address, form, acknowledge })
}

fn http(s: &mut Section<'_, '_>) -> Option<Http> {
    let url = s.required("url", "\"https://host/path\"", |s| s.string("url"));
    let request = request(s);
    Some(Http { url: url?, request })
}

fn request(s: &mut Section<'_, '_>) -> Request {
    let lines = s.strings("headers").unwrap_or_default();
    let mut headers = Vec::new();
    for line in lines {
        match line.get_ref().split_once(':') {
            Some((name, value)) => headers.push((name.trim().to_owned(), value.trim().to_owned())),
            None => {
                let mut problem = Problem::new("a header has no colon").at(line.span()).help("write it as \"Name: value\"");
                problem.secret = true;
                s.found.problems.push(problem);
            }
        }
    }
    let token_file = s.path("token_file");
    let default = token_file.as_ref().map(|_| "Authorization: Bearer {token}".to_owned());
    Request { headers, token_header: s.string("token_header").or(default), token_file, ca_file: s.path("ca_file") }
}

fn cdn(s: &mut Section<'_, '_>) -> Option<Cdn> {
    let base = s.required("base", "\"https://www.example.com\"", |s| s.string("base"));
    let url_match = s.text("url_match", "a regular expression", Pattern::search);
    let form = match s.choice("form").unwrap_or(Form::Purge) {
        Form::Chinacache => {
            let address = s.required("address", "\"host:port\"", |s| s.string("address"));
            let domain = s.string("domain");
            let user = s.required("user", "\"NAME\"", |s| s.string("user"));
            let password = password(s);
            let address = address?;
            let domain = domain.unwrap_or_else(|| address.rsplit_once(':').map_or(&*address, |(host, _)| host).to_owned());
            CdnForm::Chinacache { domain, user: user?, password: password?, address }
        }
        Form::Purge => {
            let url = s.required("url", "\"https://api.example.com/purge\"", |s| s.string("url"));
            let method = s.string("method").unwrap_or_else(|| "POST".into());
            let body = s.string("body");
            let request = request(s);
            CdnForm::Purge { url: url?, method, body, request }
        }
    };
    Some(Cdn { base: base?, url_match, form })
}

fn password(s: &mut Section<'_, '_>) -> Option<Secret> {
    match (s.path("password_file"), s.string("password")) {
        (Some(file), None) => Some(Secret::File(file)),
        (None, Some(text)) => Some(Secret::Text(text)),
        _ => {
            let problem = Problem::new("this hook needs one of password_file and password").at(s.at.clone());
            s.found.problems.push(problem.help("add password_file = \"/the/file\", mode 600"));
            None
        }
    }
}

fn kinds(s: &mut Section<'_, '_>) -> Option<Vec<Change>> {
    let names = s.strings("kinds")?;
    let all: Vec<&str> = Change::value_variants().iter().map(|c| c.name()).collect();
    let mut out = Vec::new();
    for name in names {
        match Change::from_str(name.get_ref(), false) {
            Ok(kind) if !out.contains(&kind) => out.push(kind),
            Ok(_) => {}
            Err(_) => {
                let problem = Problem::new(format!("there is no kind of change {:?}", name.get_ref())).at(name.span());
                s.found.problems.push(problem.help(format!("the kinds are {}", all.join(", "))));
            }
        }
    }
    Some(out)
}

fn patterns(s: &mut Section<'_, '_>, key: &'static str) -> Vec<Pattern> {
    let texts: Vec<Spanned<String>> = s.strings(key).unwrap_or_default();
    let mut out = Vec::new();
    for text in texts {
        match Pattern::whole(text.get_ref()) {
            Ok(pattern) => out.push(pattern),
            Err(e) => s.found.problems.push(Problem::new(e).at(text.span())),
        }
    }
    out
}

impl Section<'_, '_> {
    fn numbers(&mut self, key: &'static str) -> Option<Vec<i32>> {
        let value = self.take(key)?;
        let number = |v: &toml::de::DeValue<'_>| v.as_integer().and_then(|i| i32::from_str_radix(i.as_str(), i.radix()).ok());
        let numbers = value.get_ref().as_array().and_then(|a| a.iter().map(|v| number(v.get_ref())).collect());
        if numbers.is_none() {
            self.wrong(key, &value, "a list of whole numbers");
        }
        numbers
    }
}
