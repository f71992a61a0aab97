//! rsync's output, read line by line in bounded memory.
//!
//! Promises: every line is judged, however many there are (a full pass prints one per changed
//! file), and no more is kept than counters, the first [`MAX_FAILED`] failed paths and the most
//! significant message. So a message that decides the outcome is never lost in the middle of a long
//! output.
//!
//! rsync mixes three things on stdout: itemised changes (`<f+++++++++ name`), messages, and
//! progress (ending in `\r`). Bytes of names that are not printable come as `\#ooo`, so a line is a
//! line, and a message is recognised by how the line *starts*: nothing in a file's name can forge
//! one. An itemised change is printed when a file is sent, also when the target then fails to take
//! it: it is counted, never taken for a confirmation.
//!
//! Which path a message is about is read by its kind (`messages`). What can be mapped back to a
//! path below the root is; the rest counts as [`Output::failed_more`]. Lines of no known kind are
//! kept as [`Output::unknown`].

mod signs;

use std::collections::BTreeSet;

use memchr::memmem;

use super::messages::{self, Meaning, Message};
use super::words::{errno, number, quoted, without_temporary};
use crate::path::{self, RelPath, Shown};

use signs::{DECISIVE, Sign, Weight};

pub use super::words::Names;
pub(crate) use super::words::unescape;
pub use crate::sys::child::Stream;
pub use signs::Signs;

/// How many failed paths are kept.
pub(crate) const MAX_FAILED: usize = 1000;
/// How many lines of no known kind are kept.
const MAX_UNKNOWN: usize = 20;
/// Bytes kept of a line that is not yet ended: a path of 4,096 bytes is 20,480 when every byte is
/// escaped, and twice for a rename.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Bytes kept of a message.
const MAX_MESSAGE_BYTES: usize = 1024;

/// What a run did, as far as rsync says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Regular files whose content was sent.
    pub files_sent: u64,
    /// Entries created or changed without content: directories, links, nodes, attributes.
    pub(crate) other_changes: u64,
    /// Entries deleted on the target.
    pub deleted: u64,
    /// Entries that the target did not have.
    pub(crate) created: u64,
    /// Entries that were to be deleted, beyond the bound on deletions.
    pub(crate) spared: u64,
    /// Directories that stay on the target because something in them may not go.
    pub dirs_kept: u64,
    /// Bytes written to the wire (or to the local receiver); 0 until a run ends well.
    pub wire_sent: u64,
    /// Bytes read from it.
    pub(crate) wire_received: u64,
}

/// How far a run with progress is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes of files that are done, sent or not.
    pub(crate) bytes: u64,
    /// Share of the tree's bytes that is done, 0 to 100.
    pub percent: u8,
    /// Entries examined.
    pub files_done: u64,
    /// Entries in the tree; of what was found so far while `scanning`.
    pub files_total: u64,
    /// The tree is still being read, so the total grows.
    pub scanning: bool,
}

/// One itemised change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// rsync(1) `%i`: `YXcstpoguax`, or `*deleting  `.
    pub(crate) change: [u8; 11],
    /// Path relative to the root, unescaped.
    pub path: RelPath,
    /// It is a directory, or was one.
    pub(crate) dir: bool,
}

impl Item {
    /// Whether nothing but the time of the last access differs (`--atimes`), which any reader
    /// changes, a comparison as well.
    pub(crate) fn is_access_time(&self) -> bool {
        self.change[0] == b'.' && self.change[8] == b'u' && (2..11).all(|at| at == 8 || matches!(self.change[at], b'.' | b' '))
    }

    /// Whether it is deleted on the target.
    pub(crate) fn deletes(&self) -> bool {
        self.change[0] == b'*'
    }
}

/// A path that a message named as failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Relative to the root.
    pub path: RelPath,
    /// The message, for people.
    pub(crate) words: String,
    /// The sender says so: it could not read the path.
    pub(crate) unread: bool,
}

impl AsRef<[u8]> for Failed {
    fn as_ref(&self) -> &[u8] {
        &self.path
    }
}

/// Which message is about which path, of many.
#[derive(Debug, Default)]
pub(crate) struct Words<'f> {
    all: Vec<&'f Failed>,
    /// Those that lie below no other.
    tops: Vec<&'f Failed>,
}

impl<'f> Words<'f> {
    /// Of `failed`, in any order.
    pub(crate) fn of(failed: &'f [Failed]) -> Words<'f> {
        let mut all: Vec<&Failed> = failed.iter().collect();
        all.sort_by(|a, b| path::tree_order(&a.path, &b.path));
        let mut tops: Vec<&Failed> = Vec::new();
        for &f in all.iter().filter(|f| !f.path.is_root()) {
            if tops.last().is_none_or(|top| !path::is_at_or_below(&f.path, &top.path)) {
                tops.push(f);
            }
        }
        Words { all, tops }
    }

    /// The words about `path`: of a message that names it, else one that names something below it
    /// or above it.
    pub(crate) fn about(&self, path: &RelPath) -> Option<&'f str> {
        let at = self.all.partition_point(|f| path::tree_order(&f.path, path).is_lt());
        let below = self.all.get(at).filter(|f| path::is_at_or_below(&f.path, path));
        let behind = self.tops.partition_point(|f| path::tree_order(&f.path, path).is_le());
        let above = || self.tops[..behind].last().filter(|f| path::is_at_or_below(path, &f.path));
        below.or_else(above).map(|f| &*f.words)
    }
}

/// Reads both outputs of one run.
#[derive(Debug, Clone, Default)]
pub struct Output {
    names: Names,
    lines: [Partial; 2],
    /// Counters so far.
    pub(crate) counters: Counters,
    /// Progress so far; `None` before the first report.
    pub progress: Option<Progress>,
    /// Entries found so far while the whole tree is read before anything is sent.
    pub(crate) listed: u64,
    /// Entries of the tree, once it was read whole.
    pub(crate) considered: Option<u64>,
    /// What decides the outcome.
    pub signs: Signs,
    /// Paths that messages named as failed, at most [`MAX_FAILED`], in the order of the messages,
    /// without repetition of the last one.
    pub(crate) failed: Vec<Failed>,
    /// Messages about failures whose path is not in `failed`.
    pub(crate) failed_more: u64,
    /// The first lines that are no message of rsync's known here, unescaped: they may say anything,
    /// so they prove nothing.
    pub(crate) unknown: Vec<Vec<u8>>,
    /// Further such lines.
    pub(crate) unknown_more: u64,
    /// Itemised changes, when requested by [`Output::keep_items`].
    pub items: Vec<Item>,
    /// Itemised changes beyond that limit, or without a name below the root.
    pub(crate) items_more: u64,
    keep_items: usize,
    keep_items_of: Option<BTreeSet<RelPath>>,
    best: Option<(Weight, Vec<u8>)>,
}

#[derive(Debug, Clone, Default)]
struct Partial {
    bytes: Vec<u8>,
    /// The line is longer than is kept; the rest up to its end is passed over.
    cut: bool,
}

impl Output {
    /// A reader for a run whose messages name paths as `names` says.
    pub fn new(names: Names) -> Output {
        Output { names, ..Output::default() }
    }

    /// Keeps the first `limit` itemised changes in [`Output::items`]: for verification, and for
    /// what a failed run left.
    pub fn keep_items(&mut self, limit: usize) {
        self.keep_items = limit;
    }

    /// Keeps the itemised changes of these paths in [`Output::items`], and no others.
    pub(crate) fn keep_items_of(&mut self, paths: BTreeSet<RelPath>) {
        self.keep_items_of = Some(paths);
    }

    /// Takes the next bytes of `stream`, cut anywhere.
    pub fn push(&mut self, stream: Stream, mut bytes: &[u8]) {
        let at = stream as usize;
        while let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) {
            let (line, rest) = bytes.split_at(end);
            if self.lines[at].bytes.is_empty() && !self.lines[at].cut {
                self.line(stream, line);
            } else {
                self.lines[at].extend(line);
                self.end_line(stream);
            }
            bytes = &rest[1..];
        }
        self.lines[at].extend(bytes);
    }

    /// Judges what is left of lines without an end. Call once both outputs are read.
    pub fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.end_line(stream);
        }
    }

    /// Where the run begins, below the root: rsync's own words name paths below it.
    pub(crate) fn begins_at(&self) -> &RelPath {
        self.names.dir()
    }

    /// The message that reveals most about why a run failed, unescaped.
    pub fn top_message(&self) -> Option<&[u8]> {
        self.best.as_ref().map(|(_, line)| &line[..])
    }

    fn end_line(&mut self, stream: Stream) {
        let mut partial = std::mem::take(&mut self.lines[stream as usize]);
        if !partial.bytes.is_empty() {
            self.line(stream, &partial.bytes);
        }
        partial.bytes.clear();
        partial.cut = false;
        self.lines[stream as usize] = partial;
    }

    fn line(&mut self, stream: Stream, line: &[u8]) {
        if line.is_empty() || (stream == Stream::Stdout && (self.itemised(line) || self.report(line))) {
            return;
        }
        match self.names.plain(line) {
            Some(plain) => self.message(stream, &plain),
            None => self.message(stream, line),
        }
    }

    /// `<f+++++++++ name`, `*deleting name`: rsync(1) `--itemize-changes`, eleven characters since
    /// 3.0.
    fn itemised(&mut self, line: &[u8]) -> bool {
        if line.len() < 13 || line[11] != b' ' {
            return false;
        }
        if line == b"cd+++++++++ ./" {
            // Only a dry run gets that far: a real one fails to make `DST/.`.
            self.signs.target.missing = true;
        }
        match line[0] {
            b'*' if line.starts_with(b"*deleting ") => self.counters.deleted += 1,
            b'<' | b'>' if line[1] == b'f' => self.counters.files_sent += 1,
            b'<' | b'>' | b'c' | b'h' | b'.' if b"fdLDS".contains(&line[1]) => self.counters.other_changes += 1,
            _ => return false,
        }
        self.counters.created += u64::from(line[2] == b'+');
        let item = || {
            let mut change = [0; 11];
            change.copy_from_slice(&line[..11]);
            let name = &line[12..];
            let path = self.names.entry(&unescape(name))?;
            Some(Item { change, path, dir: name.ends_with(b"/") })
        };
        if let Some(paths) = &self.keep_items_of {
            let wanted = item().filter(|item| paths.contains(&item.path));
            self.items.extend(wanted);
        } else if self.keep_items > self.items.len() {
            match item() {
                Some(item) => self.items.push(item),
                None => self.items_more += 1,
            }
        } else if self.keep_items > 0 {
            self.items_more += 1;
        }
        true
    }

    /// Progress and the closing statistics.
    fn report(&mut self, line: &[u8]) -> bool {
        let words = || line.split(|&b| b == b' ').filter(|word| !word.is_empty());
        if line.starts_with(b"sent ") {
            let mut numbers = words().filter_map(number);
            let (Some(sent), Some(received)) = (numbers.next(), numbers.next()) else { return false };
            (self.counters.wire_sent, self.counters.wire_received) = (sent, received);
            return true;
        }
        // The last, where `args` request incremental recursion.
        if line.starts_with(b"total size is ")
            || line.starts_with(b"building file list ... ")
            || line == b"sending incremental file list"
        {
            return true;
        }
        // "1 file", "2 files".
        let counted = line.strip_suffix(b" files to consider").or_else(|| line.strip_suffix(b" file to consider"));
        if let Some(found) = counted.and_then(number) {
            self.considered = Some(found);
            return true;
        }
        if !line.starts_with(b" ") {
            return false;
        }
        // Below zero where a file became shorter while it was sent.
        let figure = |word: &[u8]| match word.strip_prefix(b"-") {
            Some(below) => number(below).map(|_| 0),
            None => number(word),
        };
        let mut words = words();
        let (Some(bytes), Some(percent)) = (words.next().and_then(figure), words.next()) else { return false };
        if percent == b"files..." {
            self.listed = bytes;
            return true;
        }
        let Some(percent) = percent.strip_suffix(b"%").and_then(figure) else { return false };
        let mut progress = self.progress.unwrap_or_default();
        progress.bytes = bytes;
        progress.percent = percent.min(100) as u8;
        for word in words {
            let counts = word.strip_prefix(b"to-chk=").map(|counts| (counts, false));
            let Some((counts, scanning)) = counts.or_else(|| word.strip_prefix(b"ir-chk=").map(|counts| (counts, true))) else {
                continue;
            };
            let counts = counts.strip_suffix(b")").unwrap_or(counts);
            let mut counts = counts.split(|&b| b == b'/').filter_map(number);
            if let (Some(left), Some(total)) = (counts.next(), counts.next()) {
                (progress.files_done, progress.files_total) = (total.saturating_sub(left), total);
                progress.scanning = scanning;
            }
        }
        self.progress = Some(progress);
        true
    }

    fn message(&mut self, stream: Stream, line: &[u8]) {
        let weight = self.judge(stream, line);
        if let Some(rest) = line.strip_prefix(b"Deletions stopped due to --max-delete limit (") {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).map(|b| u64::from(b - b'0'));
            self.counters.spared = digits.fold(0, |sum, digit| sum.saturating_mul(10).saturating_add(digit));
        }
        if self.best.as_ref().is_none_or(|(best, _)| weight > *best) {
            let mut kept = unescape(line);
            kept.truncate(MAX_MESSAGE_BYTES);
            self.best = Some((weight, kept));
        }
    }

    /// Whether a message of the target is about making an entry of its top directory.
    fn makes_in_root(&self, text: &[u8]) -> bool {
        let made = text.strip_prefix(b"recv_generator: ").unwrap_or(text);
        (made.starts_with(b"mkstemp \"") || made.starts_with(b"mkdir \""))
            && quoted(text)
                .and_then(|name| self.names.relative(&unescape(name), false))
                .is_some_and(|path| path::parent(&path).is_some_and(<[u8]>::is_empty))
    }

    fn failed(&mut self, path: Option<RelPath>, unread: bool, line: &[u8]) {
        match path {
            Some(path) if self.failed.last().is_some_and(|last| last.path == path) => {}
            Some(path) if self.failed.len() < MAX_FAILED => {
                let mut words = unescape(line);
                words.truncate(MAX_MESSAGE_BYTES);
                self.failed.push(Failed { path, words: Shown(&words).to_string(), unread });
            }
            _ => self.failed_more += 1,
        }
    }

    /// Notes what a message means; returns how much it says about the reason of a failure.
    fn judge(&mut self, stream: Stream, line: &[u8]) -> Weight {
        // A password prompt has no line end, so that the server's answer follows it.
        let unprompted = line.strip_prefix(b"Password: ").unwrap_or(line);
        if let Some((_, on, sign)) = DECISIVE.iter().find(|(start, ..)| unprompted.starts_with(start))
            && (*on).is_none_or(|on| on == stream)
        {
            *sign(&mut self.signs) = true;
            return Weight::Decides;
        }
        if let Some(rest) = line.strip_prefix(b"rsync: The server is configured to refuse ") {
            self.signs.server.refused = Some(String::from_utf8_lossy(rest).trim().to_owned());
            return Weight::Decides;
        }
        match line.strip_prefix(b"rsync: ") {
            Some(rest) => self.judge_error(rest, line),
            None => self.judge_plain(line),
        }
    }

    /// The same of a message without rsync's name before it, or of some other program's line.
    fn judge_plain(&mut self, line: &[u8]) -> Weight {
        let message = messages::plain(line);
        if message.meaning != Meaning::Unknown {
            self.take(&message, line);
            return if message.meaning == Meaning::Nothing { Weight::Nothing } else { Weight::Path };
        }
        if self.unknown.len() < MAX_UNKNOWN {
            let mut kept = unescape(line);
            kept.truncate(MAX_MESSAGE_BYTES);
            self.unknown.push(kept);
        } else {
            self.unknown_more += 1;
        }
        Weight::Path
    }

    /// The same of an error, as a rule of a system call; `rest`: what follows rsync's name in
    /// `line`.
    fn judge_error(&mut self, rest: &[u8], line: &[u8]) -> Weight {
        if rest.starts_with(b"connection unexpectedly closed")
            || memmem::find(rest, b" error: Connection reset by peer").is_some()
        {
            self.signs.server.hung_up = true;
            return Weight::Vague;
        }
        if rest.starts_with(b"on remote machine: ") && rest.ends_with(b": unknown option") {
            self.signs.server.unknown_option = true;
            return Weight::Decides;
        }
        let message = messages::with_errno(rest);
        let (_, text) = messages::who(rest);
        let (sender, error) = (message.sender, errno(text));
        // Of whoever still wrote when the other side had gone: which of the two messages comes is a
        // matter of timing.
        self.signs.server.hung_up |= text.starts_with(b"safe_write failed to write ") && error == Some(libc::EPIPE);
        if text.starts_with(b"Failed to exec ") {
            self.signs.no_program = true;
            return Weight::Decides;
        }
        self.signs.no_connection |= text.starts_with(b"failed to connect");
        self.signs.not_found |= error == Some(libc::ENOENT);
        if let Some(sign) = self.absent_root(text, sender, error) {
            *sign(&mut self.signs) = true;
            return Weight::Decides;
        }
        self.signs.target.read_only |= !sender && error == Some(libc::EROFS);
        self.take(&message, line);
        match error {
            Some(full @ (libc::ENOSPC | libc::EDQUOT)) if !sender => {
                self.signs.target.full = true;
                self.signs.target.quota |= full == libc::EDQUOT;
            }
            Some(libc::EFBIG) if !sender => self.signs.target.too_large = true,
            _ => return Weight::Path,
        }
        Weight::Decides
    }

    /// Which root an error says is not there: the source's or the target's.
    fn absent_root(&self, text: &[u8], sender: bool, error: Option<i32>) -> Option<Sign> {
        let enters = text.starts_with(b"change_dir");
        if enters && sender && self.names.is_source_root(quoted(text).unwrap_or_default()) {
            return Some(|signs| &mut signs.source_root);
        }
        let cannot_enter = !sender && (enters || (text.starts_with(b"mkdir \"") && memmem::find(text, b"/.\" ").is_some()));
        let cannot_stat =
            text.starts_with(b"ERROR: cannot stat destination ") && matches!(error, Some(libc::ENOENT | libc::ENOTDIR));
        // Only below a directory that was itself removed: this process still stands in it.
        let stands_in_removed = || !sender && error == Some(libc::ENOENT) && self.makes_in_root(text);
        (cannot_enter || cannot_stat || stands_in_removed()).then_some(|signs| &mut signs.target.missing)
    }

    /// Notes what a message says of a path.
    fn take(&mut self, message: &Message<'_>, line: &[u8]) {
        let sender = message.sender;
        let mut path = message.name.and_then(|name| self.names.relative(&unescape(name), sender));
        if message.temporary {
            path = path.map(without_temporary);
        }
        // Gone, or not to be read: to rsync, every path in it is missing.
        let unreadable = message.meaning == Meaning::Failed && line.starts_with(b"rsync: ");
        let gone = message.meaning == Meaning::Vanished || unreadable;
        self.signs.source_root |= sender && gone && path.as_ref().is_some_and(RelPath::is_root);
        match message.meaning {
            Meaning::Nothing | Meaning::Unknown | Meaning::Retried => return,
            Meaning::Node if self.names.leaves_out(path.as_ref()) => return,
            Meaning::Kept => self.counters.dirs_kept += 1,
            Meaning::Node | Meaning::Skipped => self.signs.skipped = true,
            Meaning::Vanished => self.signs.vanished = true,
            Meaning::Failed => self.signs.failed = true,
        }
        self.failed(path, sender && message.meaning == Meaning::Failed, line);
    }
}

impl Partial {
    fn extend(&mut self, bytes: &[u8]) {
        let room = MAX_LINE_BYTES - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.cut |= bytes.len() > room;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::location::Location;
    use std::path::Path;

    fn read(stdout: &[u8], stderr: &[u8], piece: usize) -> Output {
        let location =
            Location::Daemon { shell: false, user: None, host: "h".into(), port: None, module: "m".into(), path: "sub".into() };
        let mut output = Output::new(Names::new(Path::new("/data"), &location));
        output.keep_items(3);
        stdout.chunks(piece).for_each(|bytes| output.push(Stream::Stdout, bytes));
        stderr.chunks(piece).for_each(|bytes| output.push(Stream::Stderr, bytes));
        output.finish();
        output
    }

    fn failed(output: &Output) -> Vec<String> {
        output.failed.iter().map(|f| f.path.to_string()).collect()
    }

    /// Which of these is said is a matter of timing.
    #[test]
    fn the_other_side_has_hung_up() {
        for (line, want) in [
            ("connection unexpectedly closed (0 bytes received so far) [sender]", true),
            ("[sender] read error: Connection reset by peer (104)", true),
            ("[sender] safe_write failed to write 1 bytes to fd 3: Broken pipe (32)", true),
            ("[sender] safe_write failed to write 1 bytes to fd 3: No space left on device (28)", false),
            ("failed to connect to h (1.2.3.4): Connection refused (111)", false),
        ] {
            let output = read(b"", format!("rsync: {line}\n").as_bytes(), 4096);
            assert_eq!(output.signs.server.hung_up, want, "{line}");
        }
    }

    #[test]
    fn words_are_those_about_the_path() {
        let failed = ["d", "d/e/f", "x/y", "x-z"].map(|path| Failed {
            path: RelPath::from_normal(path),
            words: format!("about {path}"),
            unread: false,
        });
        let words = Words::of(&failed);
        for (path, want) in [
            ("d", Some("about d")),
            ("d/e/f", Some("about d/e/f")),
            ("d/e", Some("about d/e/f")),
            ("d/g/h", Some("about d")),
            ("x", Some("about x/y")),
            ("x-z", Some("about x-z")),
            ("x/a", None),
            ("y", None),
        ] {
            assert_eq!(words.about(&RelPath::from_normal(path)), want, "{path}");
        }
    }

    #[test]
    fn counts_whatever_the_pieces() {
        let stdout = b"*deleting   gone/\n.d..t...... ./\n<f+++++++++ we\"ird \\#134#012 n\\#012l\ncL+++++++++ l -> a\n\
            hf+++++++++ h\ncannot delete non-empty directory: keep/x\n\nsent 1,234 bytes  received 75 bytes  578.00 bytes/sec\n\
            total size is 8  speedup is 0.03\n";
        for piece in [1, 2, 7, 64, 4096] {
            let output = read(stdout, b"", piece);
            let want = Counters {
                files_sent: 1,
                other_changes: 3,
                deleted: 1,
                created: 3,
                dirs_kept: 1,
                wire_sent: 1234,
                wire_received: 75,
                ..Counters::default()
            };
            assert_eq!(output.counters, want, "in pieces of {piece}");
            assert_eq!(failed(&output), ["keep/x"]);
            let names: Vec<_> = output.items.iter().map(|item| item.path.as_bytes()).collect();
            assert_eq!(names, [&b"gone"[..], b"", b"we\"ird \\#012 n\nl"]);
            assert_eq!(output.items_more, 2);
            assert_eq!(output.top_message(), Some(&b"cannot delete non-empty directory: keep/x"[..]));
        }
    }

    #[test]
    fn what_is_read_before_anything_is_sent_is_counted() {
        let output = read(b"building file list ... \n 0 files...\r 100 files...\r 200 files...\r", b"", 10);
        assert_eq!((output.listed, output.considered, output.progress), (200, None, None));
        let output = read(b"building file list ... \r 100 files...\r130 files to consider\n<f+++++++++ 100 files...\n", b"", 10);
        assert_eq!((output.listed, output.considered, output.counters.files_sent), (100, Some(130), 1));
        assert_eq!(output.top_message(), None);
        let output = read(b"sending incremental file list\n", b"", 10);
        assert_eq!(output.top_message(), None);
        let output = read(b"building file list ... \n1 file to consider\n", b"", 10);
        assert_eq!(output.considered, Some(1));
        assert_eq!(output.top_message(), None);
    }

    #[test]
    fn progress_follows_the_last_report() {
        let output = read(b"\r              3   0%    0.00kB/s    0:00:00  \r              3   0%    0.00kB/s    0:00:00 (xfr#1, ir-chk=1100/1302)\n", b"", 10);
        assert_eq!(output.progress, Some(Progress { bytes: 3, percent: 0, files_done: 202, files_total: 1302, scanning: true }));
        let output = read(b"\r     52,535,146  99%   21.91MB/s    0:00:02 (xfr#19747, to-chk=254/20202)\r", b"", 1000);
        let want = Progress { bytes: 52_535_146, percent: 99, files_done: 19_948, files_total: 20_202, scanning: false };
        assert_eq!(output.progress, Some(want));
        assert_eq!(output.top_message(), None);
        // A file that became shorter while it was sent.
        let output = read(b"\r       -117,232 -2147483648%    0.00kB/s    0:00:00  \r", b"", 1000);
        assert_eq!((output.progress.map(|p| (p.bytes, p.percent)), output.top_message()), (Some((0, 0)), None));
        let output = read(b"\r       -117,232 -x%    0.00kB/s    0:00:00  \r", b"", 1000);
        assert!(output.progress.is_none() && output.top_message().is_some(), "no line of progress");
    }

    #[test]
    fn failed_paths_come_back_below_the_root() {
        for (line, want) in [
            (&b"rsync: [sender] link_stat \"/data/a/b\" failed: Not a directory (20)"[..], Some(&b"a/b"[..])),
            (b"file has vanished: \"/data/nodir\"", Some(b"nodir")),
            (b"file has vanished: \"/other/nodir\"", None),
            (b"rsync: [sender] send_files failed to open \"/data/x\": Permission denied (13)", Some(b"x")),
            (
                b"rsync: [receiver] mkstemp \"/sub/d/.we\"ird \\#134#012.dvIuBh\" (in m) failed: Permission denied (13)",
                Some(b"d/we\"ird \\#012"),
            ),
            (b"rsync: [generator] delete_file: unlink(gone (1)) failed: Permission denied (13)", Some(b"gone (1)")),
            (b"rsync: [generator] failed to set times on \"/sub/.\" (in m): Operation not permitted (1)", Some(b"")),
            (b"rsync: [receiver] rename \"/sub/.a.abcdef\" -> \"a\": Is a directory (21)", Some(b"a")),
            (b"ERROR: daemon refused to receive directory \"secret\"", Some(b"secret")),
            (b"ERROR: d/a failed verification -- update discarded.", Some(b"d/a")),
            (b"could not make way for new regular file: new", Some(b"new")),
            (b"skipping non-regular file \"gone\"", Some(b"gone")),
            (b"skipping directory d", Some(b"d")),
        ] {
            let output = read(b"", line, 4096);
            assert_eq!(output.failed.first().map(|f| f.path.as_bytes()), want, "{}", Shown(line));
            assert_eq!(output.failed_more, u64::from(want.is_none()), "{}", Shown(line));
        }
    }

    #[test]
    fn paths_of_a_run_that_began_below_come_back_below_the_root() {
        let location =
            Location::Daemon { shell: false, user: None, host: "h".into(), port: None, module: "m".into(), path: "sub".into() };
        let to = |location| {
            Names::new(Path::new("/data"), location).below(&RelPath::from_normal("a/b")).told_as("/proc/self/fd/8".into())
        };
        let local = Location::Local("/t".into());
        let read = |names: Names, text: &[u8]| {
            let mut output = Output::new(names);
            output.keep_items(10);
            output.push(
                if text.starts_with(b"rsync") || text.starts_with(b"file") { Stream::Stderr } else { Stream::Stdout },
                text,
            );
            output.finish();
            output
        };
        let missing = b"rsync: [Receiver] mkdir \"/sub/a/b/.\" (in m) failed: No such file or directory (2)";
        assert!(read(to(&location), missing).signs.target.missing);
        let gone = b"rsync: [sender] change_dir \"/proc/self/fd/8\" failed: No such file or directory (2)";
        assert!(read(to(&location), gone).signs.source_root);
        for (text, want) in [
            (&b"file has vanished: \"/proc/self/fd/8/d/f\""[..], "a/b/d/f"),
            (b"file has vanished: \"/proc/self/fd/8/.\"", "a/b"),
            (b"rsync: [receiver] mkstemp \"/sub/a/b/d/.f.dvIuBh\" (in m) failed: Permission denied (13)", "a/b/d/f"),
            (b"rsync: [receiver] mkstemp \"/sub/a/b/.f.dvIuBh\" (in m) failed: No such file or directory (2)", "a/b/f"),
            (b"rsync: [generator] delete_file: unlink(d/gone) failed: Permission denied (13)", "a/b/d/gone"),
            (b"rsync: [receiver] rename \"/sub/a/b/.f.abcdef\" -> \"f\": Is a directory (21)", "a/b/f"),
            (b"cannot delete non-empty directory: keep", "a/b/keep"),
            (b"could not make way for new regular file: new", "a/b/new"),
            (b"skipping non-regular file \"gone\"", "a/b/gone"),
            (b"skipping directory d", "a/b/d"),
            (b"ERROR: d/f failed verification -- update discarded.", "a/b/d/f"),
        ] {
            let output = read(to(&location), text);
            assert_eq!(failed(&output), [want], "{}", Shown(text));
            // Only the root itself may stand for a source or a target that is not there.
            assert!(!output.signs.source_root && !output.signs.target.missing, "{}", Shown(text));
        }
        let text = b"rsync: [receiver] mkstemp \"/proc/self/fd/9/.f.dvIuBh\" failed: No such file or directory (2)";
        let output = read(to(&local).target_told_as("/proc/self/fd/9".into()), text);
        assert_eq!(failed(&output), ["a/b/f"]);
        assert!(!output.signs.target.missing && output.top_message().is_some_and(|t| memmem::find(t, b"\"/t/a/b/.f.").is_some()));
        let output =
            read(to(&local), b".d..t...... ./\n<f+++++++++ d/f\n*deleting   d/gone/\ncL+++++++++ l\ncL+++++++++ l -> x\n");
        let items: Vec<String> = output.items.iter().map(|i| i.path.to_string()).collect();
        assert_eq!(items, ["a/b", "a/b/d/f", "a/b/d/gone", "a/b/l", "a/b/l -> x"]);
    }

    #[test]
    fn what_was_not_found_and_not_reached_has_signs() {
        for (line, no_connection, not_found) in [
            ("rsync: [Receiver] failed to connect to h (192.0.2.1): Connection refused (111)\n", true, false),
            ("rsync: [sender] link_stat \"/role\" (in m) failed: No such file or directory (2)\n", false, true),
            ("rsync: [sender] send_files failed to open \"/role\" (in m): Permission denied (13)\n", false, false),
        ] {
            let signs = read(b"", line.as_bytes(), 4096).signs;
            assert_eq!((signs.no_connection, signs.not_found), (no_connection, not_found), "{line}");
        }
    }

    #[test]
    fn a_name_forges_no_message() {
        let output = read(
            b"<f+++++++++ Deletions stopped due to --max-delete limit\n*deleting   sent 5 bytes  received 6 bytes\n",
            b"",
            4096,
        );
        assert_eq!(output.signs, Signs::default());
        assert_eq!((output.counters.files_sent, output.counters.deleted, output.counters.wire_sent), (1, 1, 0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut output = Output::new(Names::default());
        for i in 0..5_000 {
            output
                .push(Stream::Stderr, format!("rsync: [sender] link_stat \"x{i}\" failed: Permission denied (13)\n").as_bytes());
        }
        output.push(Stream::Stderr, b"Deletions stopped due to --max-delete limit (3 skipped)\n");
        for _ in 0..200 {
            output.push(Stream::Stdout, &[b'x'; 1000]);
        }
        output.push(Stream::Stdout, b"\n");
        for i in 0..2 * MAX_UNKNOWN {
            output.push(Stream::Stderr, format!("{i} is printed by a shell\n").as_bytes());
        }
        output.finish();
        assert_eq!(output.failed.len() as u64 + output.failed_more, 5_000);
        assert_eq!(output.failed.len(), MAX_FAILED);
        assert_eq!((output.unknown.len(), output.unknown_more), (MAX_UNKNOWN, MAX_UNKNOWN as u64 + 1));
        assert_eq!(output.unknown.iter().map(Vec::len).max(), Some(MAX_MESSAGE_BYTES));
        assert!(output.signs.max_delete, "a message in the middle decides");
    }
}
