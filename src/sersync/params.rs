//! `commonParams`: rsync's options, as far as they are not part of every run anyway.

use std::ops::Range;
use std::time::Duration;

use super::xml::Found;
use crate::config::{Compress, Extras};

/// What the options request.
#[derive(Debug, Default)]
pub(super) struct Params {
    pub(super) compress: Option<Compress>,
    pub(super) extras: Extras,
    pub(super) exclude: Vec<String>,
    pub(super) include: Vec<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) port: Option<u16>,
    pub(super) password_file: Option<String>,
    pub(super) ssh: Option<String>,
    pub(super) rsync_path: Option<String>,
    /// Passed on, once they were judged as any `args`.
    pub(super) args: Vec<String>,
}

/// Short options that take a value.
const SHORT_WITH_VALUE: &str = "efBTM@";
/// What every run does. Beside them `--delete` and its kin, which depend on `<delete>`.
const ALWAYS: &str = "archive recursive links times relative devices specials numeric-ids from0 secluded-args protect-args";
/// What only changes what rsync says.
const SAYS: &str = "verbose quiet progress stats human-readable itemize-changes info debug no-motd";

/// Reads `text`, which stands at `at`.
pub(super) fn read(text: &str, at: &Range<usize>, found: &mut Found) -> Params {
    let mut params = Params::default();
    let Some(words) = shlex::split(text) else {
        found.wrong(at.clone(), "the quotes in params do not match", "close what was opened, or escape it with \\");
        return params;
    };
    let mut kept = Kept::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            let (name, mut value) = match long.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (long.to_owned(), None),
            };
            if takes_value(&name) && value.is_none() {
                value = words.next();
            }
            option(&name, value, &word, &mut params, &mut kept, at, found);
        } else if let Some(cluster) = word.strip_prefix('-').filter(|c| !c.is_empty()) {
            for (i, letter) in cluster.char_indices() {
                let rest = &cluster[i + letter.len_utf8()..];
                if SHORT_WITH_VALUE.contains(letter) {
                    let value = if rest.is_empty() { words.next() } else { Some(rest.to_owned()) };
                    short(letter, value, &mut params, &mut kept, at, found);
                    break;
                }
                short(letter, None, &mut params, &mut kept, at, found);
            }
        } else {
            found.wrong(
                at.clone(),
                format!("{word:?} in params is no option"),
                "source and targets are in <localpath> and <remote>",
            );
        }
    }
    kept.add(&mut params, at, found);
    params
}

/// What rsync keeps of a file, and is requested to keep.
#[derive(Default)]
struct Kept {
    archive: bool,
    recursive: bool,
    perms: bool,
    owner: bool,
    group: bool,
    devices: bool,
    times: bool,
    links: bool,
}

impl Kept {
    /// fansync keeps all of it; what was not requested and can be left is left.
    fn add(&self, params: &mut Params, at: &Range<usize>, found: &mut Found) {
        if self.archive {
            return;
        }
        let left = [(self.perms, "--no-perms"), (self.owner, "--no-owner"), (self.group, "--no-group"), (self.devices, "--no-D")];
        params.args.extend(left.iter().filter(|(kept, _)| !kept).map(|(_, option)| (*option).to_owned()));
        for (kept, letter, what) in [(self.times, 't', "modification times"), (self.links, 'l', "symbolic links")] {
            if !kept {
                found.note(
                    at.clone(),
                    format!("params has no -{letter}, but {what} are copied: without them a copy cannot be compared"),
                );
            }
        }
    }
}

fn takes_value(name: &str) -> bool {
    matches!(name, "exclude" | "include" | "timeout" | "contimeout" | "port" | "password-file" | "rsh" | "rsync-path")
}

fn short(letter: char, value: Option<String>, params: &mut Params, kept: &mut Kept, at: &Range<usize>, found: &mut Found) {
    let long = match letter {
        'a' => "archive",
        'r' => "recursive",
        'l' => "links",
        'p' => "perms",
        't' => "times",
        'g' => "group",
        'o' => "owner",
        'D' => "D",
        'R' => "relative",
        'u' => "update",
        'z' => "compress",
        'v' => "verbose",
        'q' => "quiet",
        'h' => "human-readable",
        'i' => "itemize-changes",
        'H' => "hard-links",
        'A' => "acls",
        'X' => "xattrs",
        'S' => "sparse",
        's' => "secluded-args",
        '0' => "from0",
        'e' => "rsh",
        _ => {
            params.args.push(format!("-{letter}"));
            params.args.extend(value);
            return;
        }
    };
    option(long, value, &format!("-{letter}"), params, kept, at, found);
}

fn option(
    name: &str,
    value: Option<String>,
    word: &str,
    params: &mut Params,
    kept: &mut Kept,
    at: &Range<usize>,
    found: &mut Found,
) {
    let listed = |list: &str| list.split(' ').any(|n| n == name);
    match name {
        "perms" => kept.perms = true,
        "owner" => kept.owner = true,
        "group" => kept.group = true,
        "D" => kept.devices = true,
        "update" => found.note(
            at.clone(),
            "-u in params is left out: a file that is newer on the target would keep its wrong content for good, as after a restore or a mv \
             of an older file",
        ),
        "compress" => params.compress = Some(Compress::Zlib),
        "hard-links" => params.extras.hard_links = true,
        "acls" => params.extras.acls = true,
        "xattrs" => params.extras.xattrs = true,
        "sparse" => params.extras.sparse = true,
        "del" | "delete" | "delete-before" | "delete-during" | "delete-delay" | "delete-after" | "force" => {
            found.note(at.clone(), format!("{word} in params does nothing: what is deleted is decided by <delete>"));
        }
        "exclude" => params.exclude.extend(value),
        "include" => params.include.extend(value),
        "timeout" | "contimeout" => {
            let seconds = value.as_deref().unwrap_or_default();
            match seconds.parse::<u32>() {
                Ok(0) => found.note(at.clone(), format!("{word} in params, no limit, is left out: one hung connection would stop everything")),
                Ok(n) if name == "timeout" => params.timeout = Some(Duration::from_secs(n.into())),
                Ok(n) => params.connect_timeout = Some(Duration::from_secs(n.into())),
                Err(_) => found.wrong(at.clone(), format!("{word} in params is no number of seconds"), "write it as in --timeout=100"),
            }
        }
        "port" => match value.as_deref().unwrap_or_default().parse::<u16>() {
            Ok(port) if port > 0 => params.port = Some(port),
            _ => found.wrong(at.clone(), format!("{word} in params is no port"), "write a number from 1 to 65535"),
        },
        "password-file" => params.password_file = value,
        "rsh" => params.ssh = value,
        "rsync-path" => params.rsync_path = value,
        _ if listed(ALWAYS) => match name {
            "archive" => kept.archive = true,
            "recursive" => kept.recursive = true,
            "times" => kept.times = true,
            "links" => kept.links = true,
            "devices" | "specials" => kept.devices = true,
            _ => {}
        },
        _ if listed(SAYS) => {
            found.note(at.clone(), format!("{word} in params does nothing: fansync reads what rsync says, and shows it in its log and status"));
        }
        _ => {
            params.args.push(match &value {
                Some(value) => format!("--{name}={value}"),
                None => format!("--{name}"),
            });
        }
    }
}
