//! `exclude_from`, `include_from`: files with a pattern in each line, as rsync's options of these
//! names read them; `filter_from`: files with a rule in each line, as rsync's `merge` reads them.
//!
//! Empty lines and those that begin with `#` or `;` are comments (rsync(1), `--exclude-from`). A
//! line may begin with the sign of its own list, as in `- *.tmp`. The other sign, and `!`, would
//! change the order of rules, which the two lists do not have: they are errors.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::open_trusted;
use crate::filter::{Filter, Ordered};
use crate::path::Shown;

/// The size of a file of patterns at most, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The files of one mirror. Their patterns are the last ones of the filter's lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PatternFiles {
    pub(crate) include: Vec<PathBuf>,
    pub(crate) exclude: Vec<PathBuf>,
    pub(crate) filter: Vec<PathBuf>,
    /// Number of rules at the end of those in order that come from files.
    pub(crate) filtered: usize,
    /// Number of patterns at the end of the filter's include list that come from files.
    pub(crate) included: usize,
    /// The same for the exclude list.
    pub(crate) excluded: usize,
}

/// A pattern and the line that it stands in, from 1.
pub(crate) type Line = (usize, Vec<u8>);

/// Which list a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Include,
    Exclude,
}

/// The patterns of a file that only its owner can change.
///
/// # Errors
/// In words, with the file, and the line if it is one: it cannot be read or trusted, or a line is
/// no pattern of this list.
pub(crate) fn read(path: &Path, list: List) -> Result<Vec<Line>, String> {
    let bytes = content(path)?;
    parse(&bytes, list).map_err(|(line, why)| format!("{}:{line}: {why}", path.display()))
}

/// The rules of a file that only its owner can change, each with its line.
///
/// # Errors
/// The same.
pub(crate) fn read_rules(path: &Path) -> Result<Vec<(usize, Ordered)>, String> {
    let bytes = content(path)?;
    let rule = |(line, text): (usize, &[u8])| {
        Ordered::parse(text)
            .map(|rule| (line, rule))
            .map_err(|why| format!("{}:{line}: cannot use the rule \"{}\": {why}", path.display(), Shown(text)))
    };
    lines(&bytes).map(rule).collect()
}

/// Lines that are no comments, with their numbers.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    // rsync ends a line at a carriage return, too.
    let lines = bytes.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.enumerate().map(|(at, line)| (at + 1, line)).filter(|(_, line)| !line.is_empty() && line[0] != b'#' && line[0] != b';')
}

fn content(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("{shown} is not an absolute path"));
    }
    let mut bytes = Vec::new();
    let file = open_trusted(path).map_err(|error| format!("cannot read the patterns in {shown}: {error}"))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot read the patterns in {shown}: {error}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("cannot read the patterns in {shown}: it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// The same for the content of a file; an error is a line and what is wrong with it.
pub(crate) fn parse(bytes: &[u8], list: List) -> Result<Vec<Line>, (usize, String)> {
    let (own, other, key) = match list {
        List::Include => (b"+ ", b"- ", "exclude_from"),
        List::Exclude => (b"- ", b"+ ", "include_from"),
    };
    let mut out = Vec::new();
    for (at, line) in lines(bytes) {
        if line == b"!" {
            return Err((at, "\"!\" would forget the patterns before it, which a list without an order cannot".to_owned()));
        }
        if line.starts_with(other) {
            return Err((at, format!("\"{}\" belongs into a file of {key}", Shown(line))));
        }
        let pattern = line.strip_prefix(own).unwrap_or(line).to_vec();
        let alone = std::slice::from_ref(&pattern);
        let tried = match list {
            List::Include => Filter::new::<_, &[u8]>(alone, &[]),
            List::Exclude => Filter::new::<&[u8], _>(&[], alone),
        };
        tried.map_err(|error| (at, error.to_string()))?;
        out.push((at, pattern));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_rsync_reads_them() {
        let text = b"# comment\n; another\n\n*.tmp\n- /cache/\r\n  two spaces\n #no comment\n/\xff*";
        let want: &[(usize, &[u8])] =
            &[(4, b"*.tmp"), (5, b"/cache/"), (6, b"  two spaces"), (7, b" #no comment"), (8, b"/\xff*")];
        let got = parse(text, List::Exclude).unwrap();
        assert_eq!(got.iter().map(|(line, p)| (*line, p.as_slice())).collect::<Vec<_>>(), want);
        assert_eq!(parse(b"+ a\nb", List::Include).unwrap(), [(1, b"a".to_vec()), (2, b"b".to_vec())]);
        assert_eq!(parse(b"", List::Exclude).unwrap(), []);
    }

    #[test]
    fn what_a_list_without_an_order_cannot_say_is_an_error_with_its_line() {
        let long = [b"a\n".as_slice(), &[b'x'; 5000]].concat();
        for (text, list, line, words) in [
            (b"a\n+ b".as_slice(), List::Exclude, 2, "belongs into a file of include_from"),
            (b"- b", List::Include, 1, "belongs into a file of exclude_from"),
            (b"a\n\n!", List::Exclude, 3, "would forget"),
            (&long, List::Exclude, 2, "longer than 4000 bytes"),
            (b"- ", List::Exclude, 1, "it is empty"),
            (b"a\0", List::Exclude, 1, "NUL"),
        ] {
            let (at, why) = parse(text, list).unwrap_err();
            assert!(at == line && why.contains(words), "{at}: {why}");
        }
    }

    #[test]
    fn a_file_of_rules_keeps_their_order_and_names_the_line_of_a_wrong_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules");
        std::fs::write(&file, "# first\n+ /a/***\r\n\n- *\n").unwrap();
        let rules = read_rules(&file).unwrap();
        let texts: Vec<_> = rules.iter().map(|(line, rule)| (*line, rule.text())).collect();
        assert_eq!(texts, [(2, b"+ /a/***".to_vec()), (4, b"- *".to_vec())]);
        std::fs::write(&file, "- a\n-b\n").unwrap();
        let why = read_rules(&file).unwrap_err();
        assert!(why.contains("rules:2: cannot use the rule \"-b\"") && why.contains("no space"), "{why}");
    }

    #[test]
    fn a_file_is_read_from_an_absolute_path_and_only_if_no_other_user_writes_it() {
        use std::os::unix::fs::PermissionsExt;
        assert!(read(Path::new("excludes"), List::Exclude).unwrap_err().contains("is not an absolute path"));
        assert!(read(Path::new("/no/such"), List::Exclude).unwrap_err().contains("cannot read the patterns in /no/such"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("excludes");
        std::fs::write(&file, "*.tmp\n").unwrap();
        assert_eq!(read(&file, List::Exclude).unwrap(), [(1, b"*.tmp".to_vec())]);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read(&file, List::Exclude).is_err());
    }
}
