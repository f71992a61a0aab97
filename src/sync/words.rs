//! How rsync writes numbers, names and paths.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use memchr::memmem;

use crate::config::Nodes;
use crate::location::Location;
use crate::path::RelPath;

/// How paths in rsync's messages are written: what to take off to get a path below the root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    source: Vec<u8>,
    /// Without a leading slash: relative to a home that is not known.
    target: Vec<u8>,
    /// What rsync was given in the place of a path, and that path.
    aliases: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the run begins, below the root.
    dir: RelPath,
    /// The nodes that the run is to copy.
    nodes: Nodes,
}

impl Names {
    /// For a run from `root` (canonical) to `location`.
    pub fn new(root: &Path, location: &Location) -> Names {
        let target = match location {
            Location::Daemon { path, .. } => format!("/{path}").into_bytes(),
            Location::Ssh { path, .. } => path.clone().into_bytes(),
            Location::Local(path) => path.as_os_str().as_bytes().to_vec(),
            Location::Feed { .. } => Vec::new(),
        };
        Names {
            source: root.as_os_str().as_bytes().to_vec(),
            target,
            aliases: Vec::new(),
            dir: RelPath::root(),
            nodes: Nodes::default(),
        }
    }

    /// The same for a run that begins in `dir` on both sides.
    pub(crate) fn below(mut self, dir: &RelPath) -> Names {
        for side in [&mut self.source, &mut self.target] {
            side.truncate(without_slash(side).len());
            side.push(b'/');
            side.extend_from_slice(dir);
        }
        Names { dir: dir.clone(), ..self }
    }

    /// The same for a run that was given its source under another name.
    pub(crate) fn told_as(mut self, alias: String) -> Names {
        self.aliases.push((alias.into_bytes(), self.source.clone()));
        self
    }

    /// The same for a run that was given its target under another name.
    pub(crate) fn target_told_as(mut self, alias: String) -> Names {
        self.aliases.push((alias.into_bytes(), self.target.clone()));
        self
    }

    /// The same for a run that copies these nodes only.
    pub(crate) fn copying(self, nodes: Nodes) -> Names {
        Names { nodes, ..self }
    }

    /// Whether a node that the run did not make is one that it was not to copy.
    pub(super) fn leaves_out(&self, path: Option<&RelPath>) -> bool {
        use std::os::unix::fs::FileTypeExt;
        match (self.nodes.devices, self.nodes.specials) {
            (true, true) => false,
            (false, false) => true,
            (devices, _) => path.is_some_and(|path| {
                // Where the run begins is in the path already.
                let top = self.source.strip_suffix(self.dir.as_bytes()).unwrap_or(&self.source);
                let found = Path::new(std::ffi::OsStr::from_bytes(top)).join(path.as_path()).symlink_metadata();
                let kind = found.map(|found| found.file_type());
                kind.is_ok_and(|kind| (kind.is_block_device() || kind.is_char_device()) != devices)
            }),
        }
    }

    /// Where the run begins; the root for most.
    pub(super) fn dir(&self) -> &RelPath {
        &self.dir
    }

    /// A message with the path itself in the place of another name for it; `None` where no such
    /// name occurs.
    pub(super) fn plain(&self, line: &[u8]) -> Option<Vec<u8>> {
        self.aliases.iter().find_map(|(alias, path)| {
            // rsync puts paths between quotes.
            let begins = |at: &usize| line[..*at].ends_with(b"\"") && matches!(line.get(at + alias.len()), Some(b'/' | b'"'));
            let at = memmem::find_iter(line, alias).find(begins)?;
            Some([&line[..at], &escaped(without_slash(path)), &line[at + alias.len()..]].concat())
        })
    }

    /// Whether a message's path, still escaped, is the source's root.
    pub(super) fn is_source_root(&self, escaped: &[u8]) -> bool {
        let root = |path: &[u8]| RelPath::new(path);
        root(&unescape(escaped)) == root(&self.source)
    }

    /// `name` as written by the `sender` or the other side, below the root.
    pub(super) fn relative(&self, name: &[u8], sender: bool) -> Option<RelPath> {
        if !name.starts_with(b"/") {
            return self.entry(name);
        }
        let root = if sender { &self.source } else { &self.target };
        let below = match sender || root.starts_with(b"/") {
            true => name.strip_prefix(without_slash(root))?,
            false => below_some_home(name, root)?,
        };
        below.starts_with(b"/").then(|| self.entry(below)).flatten()
    }

    /// `name`, relative to where the run begins, below the root.
    pub(super) fn entry(&self, name: &[u8]) -> Option<RelPath> {
        let path = RelPath::new(name)?;
        Some(match (self.dir.is_root(), path.is_root()) {
            (true, _) => path,
            (false, true) => self.dir.clone(),
            (false, false) => self.dir.join(&path),
        })
    }
}

/// What of an absolute path lies below `dir`, with a slash before it, where that is a directory in
/// a home that is known to the other side alone. `None` where it may be more than one: a failure
/// of a path that is not known is sent again with all that was sent with it.
fn below_some_home<'a>(name: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    let dir = [b"/", dir, b"/"].concat();
    // Occurrences may share a slash.
    let mut found = name.windows(dir.len()).enumerate().filter(|(_, part)| *part == dir).map(|(at, _)| at);
    let at = found.next().filter(|_| dir.len() > 2)?;
    found.next().is_none().then(|| &name[at + dir.len() - 1..])
}

fn without_slash(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

/// `path` as [`unescape`] takes it.
fn escaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for (at, &byte) in path.iter().enumerate() {
        match path[at..].starts_with(b"\\#") {
            true => out.extend_from_slice(b"\\#134"),
            false => out.push(byte),
        }
    }
    out
}

/// rsync's `\#ooo` turned back into bytes; a literal `\#ooo` in a name comes as `\#134#ooo`.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memmem::find(rest, b"\\#") {
        out.extend_from_slice(&rest[..at]);
        let digits = rest.get(at + 2..at + 5).filter(|digits| digits.iter().all(|b| (b'0'..=b'7').contains(b)));
        let value = digits.map(|digits| digits.iter().fold(0_u32, |value, &b| value * 8 + u32::from(b - b'0')));
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &rest[at + 5..];
            }
            None => {
                out.extend_from_slice(b"\\#");
                rest = &rest[at + 2..];
            }
        }
    }
    out.extend_from_slice(rest);
    out
}

/// From the first quote to the last: names may hold quotes, error texts do not.
pub(super) fn quoted(text: &[u8]) -> Option<&[u8]> {
    let start = memchr::memchr(b'"', text)? + 1;
    let end = memchr::memrchr(b'"', text)?;
    text.get(start..end)
}

/// The number in `… (28)` at the end of a message.
pub(super) fn errno(text: &[u8]) -> Option<i32> {
    let text = text.strip_suffix(b")")?;
    let start = memchr::memrchr(b'(', text)? + 1;
    number(&text[start..]).and_then(|value| i32::try_from(value).ok())
}

/// Decimal with thousands separators; `None` for anything else.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let mut value: Option<u64> = None;
    for &b in text {
        match b {
            b'0'..=b'9' => value = Some(value.unwrap_or(0).checked_mul(10)?.checked_add(u64::from(b - b'0'))?),
            b',' if value.is_some() => {}
            _ => return None,
        }
    }
    value
}

/// `dir/.name.XXXXXX` → `dir/name`: the receiver's temporary file.
pub(crate) fn without_temporary(path: RelPath) -> RelPath {
    let base = crate::path::base(&path);
    let name = base.strip_prefix(b".").and_then(|name| name.len().checked_sub(7).map(|end| name.split_at(end)));
    match name {
        Some((name, suffix)) if !name.is_empty() && suffix[0] == b'.' && suffix[1..].iter().all(u8::is_ascii_alphanumeric) => {
            let mut out = crate::path::parent(&path).unwrap_or_default().to_vec();
            crate::path::push(&mut out, name);
            RelPath::new(&out).unwrap_or(path)
        }
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Shown;

    #[test]
    fn unescaping() {
        for (text, want) in [
            (&b"a\\#012b"[..], &b"a\nb"[..]),
            (b"\\#134#012", b"\\#012"),
            (b"\\#377\\#400\\#9", b"\xff\\#400\\#9"),
            (b"\\#01", b"\\#01"),
            (b"plain \\ #", b"plain \\ #"),
        ] {
            assert_eq!(unescape(text), want, "{}", Shown(text));
        }
    }

    #[test]
    fn the_source_is_told_by_its_own_path() {
        let names = Names::new(Path::new("/s#\\#012"), &Location::Local("/t".into())).told_as("/proc/self/fd/9".into());
        for (line, want) in [
            (&b"file has vanished: \"/proc/self/fd/9/a\""[..], Some("a")),
            (b"rsync: [sender] change_dir \"/proc/self/fd/9\" failed: x (2)", Some("")),
            (b"rsync: [sender] link_stat \"/proc/self/fd/99/a\" failed: x (2)", None),
            (b"file has vanished: \"/data/proc/self/fd/9/a\"", None),
        ] {
            let plain = names.plain(line);
            let path = plain.as_deref().and_then(|line| names.relative(&unescape(line.split(|&b| b == b'"').nth(1)?), true));
            assert_eq!(path.map(|p| p.to_string()).as_deref(), want.filter(|w| !w.is_empty()), "{}", Shown(line));
            assert_eq!(plain.is_some(), want.is_some(), "{}", Shown(line));
        }
    }

    #[test]
    fn a_home_that_is_not_known_is_removed_where_it_is_certain() {
        for (place, name, want) in [
            ("h:web", "/home/u/web/d/f", Some("d/f")),
            ("h:web", "/web/f", Some("f")),
            ("h:a/b", "/home/u/a/b/a/c", Some("a/c")),
            ("h:./web/", "/home/u/web/f", Some("f")),
            ("h:web", "/home/u/webs/f", None),
            ("h:web", "/home/u/web", None),
            ("h:web", "/home/u/web/web/f", None),
            ("h:web", "/home/web/web/f", None),
            ("h:web", "/home/u/web/d/web/f", None),
            ("h:", "/home/u/f", None),
            ("h:", "//f", None),
            ("h:", "d/f", Some("d/f")),
        ] {
            let names = Names::new(Path::new("/s"), &Location::parse(place).unwrap());
            assert_eq!(names.relative(name.as_bytes(), false).map(|p| p.to_string()).as_deref(), want, "{place} {name}");
            assert_eq!(names.relative(b"/s/x", true).map(|p| p.to_string()).as_deref(), Some("x"));
        }
    }

    #[test]
    fn numbers() {
        for (text, want) in [
            (&b"0"[..], Some(0)),
            (b"1,234,567", Some(1_234_567)),
            (b"", None),
            (b",1", None),
            (b"1.5", None),
            (b"-1", None),
            (b"99999999999999999999", None),
        ] {
            assert_eq!(number(text), want, "{}", Shown(text));
        }
        assert_eq!(errno(b"write failed on \"x (1)\": No space left on device (28)"), Some(28));
        assert_eq!(errno(b"done"), None);
    }

    #[test]
    fn temporary_names() {
        for (name, want) in
            [("d/.a.Ab3xYz", "d/a"), (".a.b.Ab3xYz", "a.b"), (".a.short", ".a.short"), (".Ab3xYz", ".Ab3xYz"), ("a", "a")]
        {
            assert_eq!(without_temporary(RelPath::new(name.as_bytes()).unwrap()).to_string(), want);
        }
    }
}
