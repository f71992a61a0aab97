//! The messages of rsync 3.2.3 to 3.5.0 that name a path: which path, and what it means for it.
//!
//! Promises: a path comes out only where the message says without doubt which one it is about. A
//! message with two names (`rename "…" -> "…"`, `symlink "…" -> "text"`,
//! `lsetxattr("…","attribute")`) is taken apart by its kind. Where a name holds what separates the
//! two, the message is a failure of an unknown path. A line that fits no kind is
//! [`Meaning::Unknown`]: it proves nothing about the run.
//!
//! How rsync writes paths (`full_fname` of its source): in quotes, absolute; a daemon's module
//! leaves its own path off and adds ` (in NAME)` after the closing quote. Other messages write the
//! name as it is in the transfer, without quotes, at the end of the line or between parentheses.
//! Names are not escaped but for what is not printable, so they may hold quotes and arrows.

use memchr::memmem;

use super::words::quoted;

/// What a line means for the path that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It was not transferred, not deleted, or not made equal.
    Failed,
    /// A directory stays on the target, because something in it may not go.
    Kept,
    /// It is neither a file nor a directory, and the receiver does not make such a node.
    Node,
    /// A directory of the list that is not entered.
    Skipped,
    /// It was gone when rsync came to it.
    Vanished,
    /// The run does it again by itself; if that fails as well, another message says so.
    Retried,
    /// Nothing: the transfer is complete in spite of it, or another line says the same.
    Nothing,
    /// No message of rsync's that is known here.
    Unknown,
}

/// A line taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'l> {
    pub(super) meaning: Meaning,
    /// The path, as it is written; `None`: the line names none, or none without doubt.
    pub(super) name: Option<&'l [u8]>,
    /// The sender wrote it, so an absolute name is one of the source.
    pub(super) sender: bool,
    /// It is the temporary name that the receiver tried to make.
    pub(super) temporary: bool,
}

/// How a message writes the name.
#[derive(Clone, Copy)]
enum Form {
    /// Between the only quotes.
    Quoted,
    /// The first of two names, in quotes, with this behind the closing quote.
    First(&'static [u8]),
    /// The second of two names, both in quotes: `"…" -> "…"`.
    Second,
    /// The rest of the line.
    Rest,
    /// After the first `: ` of the rest.
    AfterColon,
    /// Up to this text, which the name could only hold itself if it came twice.
    Until(&'static [u8]),
    /// After this text, likewise.
    After(&'static [u8]),
    /// No name, or none that helps.
    None,
}

/// Whose path it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Sender,
    Receiver,
}

type Kind = (&'static [u8], Form, By, Meaning);

/// Lines without `rsync: [WHO]` before them (`rprintf` of rsync's source); the first that fits
/// counts.
const PLAIN: &[Kind] = {
    use By::{Receiver, Sender};
    use Form::{After, AfterColon, Quoted, Rest, Until};
    use Meaning::{Failed, Kept, Node, Nothing, Retried, Skipped, Vanished};
    const VERIFICATION: Form = Until(b" failed verification -- update ");
    &[
        (b"cannot delete non-empty directory: ", Rest, Receiver, Kept),
        (b"cannot delete mount point: ", Rest, Receiver, Kept),
        (b"could not make way for ", AfterColon, Receiver, Failed),
        (b"skipping non-regular file \"", Quoted, Receiver, Node),
        (b"skipping directory ", Rest, Sender, Skipped),
        (b"file has vanished: ", Quoted, Sender, Vanished),
        (b"directory has vanished: ", Quoted, Sender, Vanished),
        (b"skipped diminished file: ", Quoted, Sender, Vanished),
        (b"WARNING: parent dir is absent in the file list: ", Form::None, Sender, Nothing),
        (b"WARNING: file is too large for checksum sending: ", Form::None, Receiver, Nothing),
        (b"WARNING: ", VERIFICATION, Receiver, Retried),
        (b"ERROR: daemon refused to receive ", Quoted, Receiver, Failed),
        (b"ERROR: rejecting file transfer request for daemon excluded file: ", Rest, Receiver, Failed),
        (b"ERROR: rejecting excluded file-list name: ", Rest, Receiver, Failed),
        (b"ERROR: rejecting unrequested file-list name: ", Rest, Receiver, Failed),
        (b"ERROR: ", VERIFICATION, Receiver, Failed),
        (b"Unable to create partial-dir for ", Until(b" -- discarding "), Receiver, Failed),
        (b"temporary filename too long: ", Rest, Receiver, Failed),
        (b"recv_files: ", Until(b" is a directory"), Receiver, Failed),
        (b"uid 4294967295 (-1) is impossible to set on ", Quoted, Receiver, Failed),
        (b"gid 4294967295 (-1) is impossible to set on ", Quoted, Receiver, Failed),
        (b"do_chmod: no symlink-safe chmod for ", Quoted, Receiver, Failed),
        (b"skipping socket (creation unsupported here): ", Rest, Receiver, Failed),
        (b"Missing abbreviated xattr value, ", After(b", for "), Receiver, Failed),
        (b"failed to re-read xattr ", After(b" for "), Sender, Failed),
        (b"skipping overly long name: ", Rest, Sender, Failed),
        (b"path too long: ", Rest, Sender, Failed),
        (b"filename overflows max-path len by ", AfterColon, Sender, Failed),
        (b"cannot send file with empty name in ", Quoted, Sender, Failed),
        (b"skipping file with bogus (zero) st_mode: ", Quoted, Sender, Failed),
        (b"skipping symlink with 0-length value: ", Quoted, Sender, Failed),
        (b"rsync error: ", Form::None, Sender, Nothing),
        (b"rsync warning: ", Form::None, Sender, Nothing),
        // After the message about the directory itself.
        (b"*** Skipping any contents from this failed directory ***", Form::None, Receiver, Nothing),
        (b"default_perms_for_dir: ", Form::None, Receiver, Nothing),
        (b"Time value of ", Form::None, Receiver, Nothing),
        (b"Access time value of ", Form::None, Receiver, Nothing),
        (b"Create time value of ", Form::None, Receiver, Nothing),
        (b"Setting --timeout=", Form::None, Receiver, Nothing),
        (b"Ignoring \"log file\" setting.", Form::None, Receiver, Nothing),
        // ssh, where a host key is taken at the first connection.
        (b"Warning: Permanently added ", Form::None, Receiver, Nothing),
    ]
};

/// What follows `rsync: [WHO] ` (`rsyserr`), where it is not one name in quotes.
const WITH_ERRNO: &[(&[u8], Form)] = &[
    (b"rename failed for ", Form::First(b" (from ")),
    (b"rename ", Form::Second),
    (b"copy ", Form::Second),
    (b"symlink ", Form::First(b" -> \"")),
    (b"link ", Form::First(b" => ")),
    // cmpbuf and fname, both bare: the second is the one that was to be made.
    (b"failed to hard-link ", Form::After(b" with ")),
];

/// Functions whose messages are `NAME: CALL(PATH…)`.
const CALLS: [&[u8]; 11] = [
    b"delete_file: ",
    b"get_acl: ",
    b"set_acl: ",
    b"gen_entry_copy_xattrs: openat(",
    b"get_xattr_names: ",
    b"get_xattr_data: ",
    b"copy_xattrs: ",
    b"rsync_xal_set: ",
    b"set_xattr_acl: ",
    b"readlink_stat(",
    b"readdir(",
];

/// Takes a line apart that has no `rsync: ` before it.
pub(super) fn plain(line: &[u8]) -> Message<'_> {
    for &(start, form, by, meaning) in PLAIN {
        let Some(rest) = line.strip_prefix(start) else { continue };
        // The quote belongs to the start there.
        let text = if start.ends_with(b"\"") { &line[start.len() - 1..] } else { rest };
        let name = cut(form, text);
        // What begins like a message and does not go on like it is none of that kind.
        if let Form::Until(part) | Form::After(part) = form
            && memmem::find(text, part).is_none()
        {
            continue;
        }
        return Message { meaning, name, sender: by == By::Sender, temporary: false };
    }
    Message { meaning: Meaning::Unknown, name: None, sender: false, temporary: false }
}

/// Takes apart what follows `rsync: `: every such message is a failure, but for the few that are
/// known to be none.
pub(super) fn with_errno(rest: &[u8]) -> Message<'_> {
    let (who, text) = who(rest);
    let sender = !matches!(who, Some(who) if !who.eq_ignore_ascii_case(b"sender") && who != b"client");
    if text.starts_with(b"do_fallocate ") {
        return Message { meaning: Meaning::Nothing, name: None, sender, temporary: false };
    }
    let name = if let Some((_, form)) = WITH_ERRNO.iter().find(|(start, _)| text.starts_with(start)) {
        cut(*form, if matches!(form, Form::After(_)) { without_error(text) } else { text })
    } else if CALLS.iter().any(|start| text.starts_with(start)) {
        argument(text)
    } else {
        quoted(text)
    };
    Message { meaning: Meaning::Failed, name, sender, temporary: text.starts_with(b"mkstemp ") }
}

/// `[WHO] text`.
pub(super) fn who(rest: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let inside = rest.strip_prefix(b"[").and_then(|inside| Some((inside, memmem::find(inside, b"] ")?)));
    match inside {
        Some((inside, end)) => (Some(&inside[..end]), &inside[end + 2..]),
        None => (None, rest),
    }
}

fn cut(form: Form, text: &[u8]) -> Option<&[u8]> {
    match form {
        Form::Quoted => quoted(text),
        Form::Rest => Some(text),
        Form::AfterColon => memmem::find(text, b": ").map(|at| &text[at + 2..]),
        Form::Until(end) => only(memmem::find_iter(text, end)).map(|at| &text[..at]),
        Form::After(start) => only(memmem::find_iter(text, start)).map(|at| &text[at + start.len()..]),
        Form::First(separator) => {
            let start = memchr::memchr(b'"', text)? + 1;
            only(closings(text, start, separator).map(|(end, _)| end)).map(|end| &text[start..end])
        }
        Form::Second => second(text),
        Form::None => None,
    }
}

/// The new name of `"old" -> "new"`. One that holds an arrow itself is known by the old one, which
/// is a temporary name of it.
fn second(text: &[u8]) -> Option<&[u8]> {
    let start = memchr::memchr(b'"', text)? + 1;
    let last = memchr::memrchr(b'"', text)?;
    let names = || {
        closings(text, start, b" -> \"")
            .filter(|(_, next)| *next <= last)
            .map(|(end, next)| (&text[start..end], &text[next..last]))
    };
    only(names()).or_else(|| only(names().filter(|(old, new)| is_temporary(old, new)))).map(|(_, new)| new)
}

/// Whether `old` is `.new.XXXXXX`, below whatever directory.
fn is_temporary(old: &[u8], new: &[u8]) -> bool {
    let base = |path| crate::path::base(path);
    let name = base(old).strip_prefix(b".").and_then(|name| name.len().checked_sub(7).map(|end| name.split_at(end)));
    name.is_some_and(|(name, suffix)| name == base(new) && suffix[0] == b'.')
}

/// The first argument of a call: in quotes (and perhaps with ` (in NAME)`), or bare.
fn argument(text: &[u8]) -> Option<&[u8]> {
    let start = memchr::memchr(b'(', text)? + 1;
    let inside = &text[start..];
    if inside.starts_with(b"\"") {
        // With an attribute's name or a size behind it, or alone.
        let call = &text[..start];
        let next: &[u8] = match call.ends_with(b"xattr(") {
            true if call.ends_with(b"llistxattr(") => b",",
            true => b",\"",
            false => b")",
        };
        return only(closings(inside, 1, next).map(|(end, _)| end)).map(|end| &inside[1..end]);
    }
    let acl = text.starts_with(b"get_acl: ") || text.starts_with(b"set_acl: ");
    let end = memmem::rfind(inside, if acl { b"): " } else { b") failed" })?;
    let inside = &inside[..end];
    // Where an ACL's type or a number for it follows.
    let is_type = |word: &[u8]| !word.is_empty() && word.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let typed = memmem::rfind(inside, b", ").filter(|&at| acl && is_type(&inside[at + 2..]));
    Some(typed.map_or(inside, |at| &inside[..at]))
}

/// Where a name that begins at `start` may end: at each quote that is followed, after ` (in NAME)`
/// or not, by `next`. Gives the quote's place, and the place behind `next`.
fn closings<'t>(text: &'t [u8], start: usize, next: &'static [u8]) -> impl Iterator<Item = (usize, usize)> + 't {
    memchr::memchr_iter(b'"', &text[start..]).filter_map(move |at| {
        let end = start + at;
        let rest = &text[end + 1..];
        let module = rest.strip_prefix(b" (in ").and_then(|inside| memchr::memchr(b')', inside)).map_or(0, |close| close + 6);
        [0, module].into_iter().find(|&skip| rest[skip..].starts_with(next)).map(|skip| (end, end + 1 + skip + next.len()))
    })
}

fn without_error(name: &[u8]) -> &[u8] {
    memmem::rfind(name, b": ").filter(|_| name.ends_with(b")")).map_or(name, |at| &name[..at])
}

/// The only item, if there is exactly one.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}

#[cfg(test)]
mod tests;
