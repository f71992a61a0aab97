//! Configuration errors as an administrator wants them: all at once, each with its place, the line,
//! and what to do.
//!
//! ```text
//! error: unknown key "exlude" in [[mirror]]
//!  --> /etc/fansync/fansync.toml:4:1
//!   |
//! 4 | exlude = ["*.swp"]
//!   | ^^^^^^
//! help: did you mean "exclude"?
//! ```

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::secrets::may_hold_secret;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where in the text, in bytes; none for what concerns the whole file or a command line.
    pub(crate) at: Option<Range<usize>>,
    /// What is wrong, in one line.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) help: Option<String>,
    /// The line holds a secret and must not be shown.
    pub(crate) secret: bool,
}

impl Problem {
    /// A problem without a place.
    pub(crate) fn new(message: impl Into<String>) -> Problem {
        Problem { at: None, message: message.into(), help: None, secret: false }
    }

    /// The same, at a place.
    pub(crate) fn at(self, at: Range<usize>) -> Problem {
        Problem { at: Some(at), ..self }
    }

    /// The same, with advice.
    pub(crate) fn help(self, help: impl Into<String>) -> Problem {
        Problem { help: Some(help.into()), ..self }
    }
}

/// The text of a file, with those of others behind it. A place is one in the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Texts {
    file: Option<PathBuf>,
    whole: String,
    /// Where each further file begins.
    further: Vec<(usize, PathBuf)>,
}

/// The part of a text that a place lies in.
#[derive(Clone, Copy)]
pub(crate) struct Part<'t> {
    pub(crate) file: Option<&'t Path>,
    /// Where it begins.
    pub(crate) start: usize,
    pub(crate) text: &'t str,
}

impl Texts {
    pub(crate) fn of(file: Option<&Path>, text: &str) -> Texts {
        Texts { file: file.map(Path::to_owned), whole: text.to_owned(), further: Vec::new() }
    }

    /// Puts another file behind.
    pub(crate) fn add(&mut self, file: &Path, text: &str) {
        self.whole.push('\n');
        self.further.push((self.whole.len(), file.to_owned()));
        self.whole.push_str(text);
    }

    /// Each file's part, the first file first.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let starts = std::iter::once((0, self.file.as_deref())).chain(self.further.iter().map(|(at, file)| (*at, Some(&**file))));
        // Between two files lies a line's end.
        let ends = self.further.iter().map(|(at, _)| at - 1).chain([self.whole.len()]);
        starts.zip(ends).map(|((start, file), end)| Part { file, start, text: &self.whole[start..end] })
    }

    /// The part that a place lies in.
    pub(crate) fn part(&self, at: usize) -> Part<'_> {
        let first = Part { file: self.file.as_deref(), start: 0, text: &self.whole };
        self.parts().take_while(|part| part.start <= at).last().unwrap_or(first)
    }

    /// Line and column, with the file in front.
    pub(crate) fn place(&self, at: usize) -> (Option<&Path>, usize, usize) {
        let part = self.part(at);
        let (line, column) = line_and_column(part.text, at - part.start);
        (part.file, line, column)
    }
}

/// Everything that is wrong with a configuration; at least one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    texts: Texts,
    /// In the order of the text.
    pub(super) problems: Vec<Problem>,
}

/// Line and column of a place in `text`, both from 1; the column counts characters.
pub(super) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |n| n + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// Without what moves a cursor: a parser's words may cite the file.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}

impl ConfigErrors {
    /// `text`: what was read from `file`; the problems' places lie in it.
    pub(crate) fn new(file: Option<&Path>, text: &str, problems: Vec<Problem>) -> ConfigErrors {
        ConfigErrors::of(Texts::of(file, text), problems)
    }

    /// The same for several files.
    pub(crate) fn of(texts: Texts, mut problems: Vec<Problem>) -> ConfigErrors {
        debug_assert!(!problems.is_empty());
        problems.sort_by_key(|p| p.at.as_ref().map(|at| at.start));
        // What a default says wrong is wrong in each table that it fills.
        problems.dedup_by(|a, b| a.at.is_some() && (&a.at, &a.message) == (&b.at, &b.message));
        ConfigErrors { texts, problems }
    }

    /// Each problem as `FILE:LINE:COLUMN: what`, for places that take one line.
    pub(crate) fn one_line_each(&self) -> Vec<String> {
        let line = |problem: &Problem| {
            let (file, place) = match &problem.at {
                Some(at) => {
                    let (file, line, column) = self.texts.place(at.start);
                    (file, format!("{line}:{column}:"))
                }
                None => (self.texts.file.as_deref(), String::new()),
            };
            let file = file.map(|f| format!("{}:", f.display())).unwrap_or_default();
            format!("{file}{place} {}", plain(&problem.message)).trim_start().to_owned()
        };
        self.problems.iter().map(line).collect()
    }
}

/// One problem with its place. `label`: `error` or `warning`.
struct Cited<'a> {
    label: &'a str,
    texts: &'a Texts,
    problem: &'a Problem,
}

impl fmt::Display for Cited<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = self.problem;
        write!(f, "{}: {}", self.label, plain(&problem.message))?;
        if let Some(at) = &problem.at {
            let part = self.texts.part(at.start);
            let at = at.start - part.start..at.end.saturating_sub(part.start);
            let (number, column) = line_and_column(part.text, at.start);
            if let Some(file) = part.file.map(Path::display) {
                write!(f, "\n --> {file}:{number}:{column}")?;
            }
            if !problem.secret {
                let line = part.text.lines().nth(number - 1).unwrap_or_default();
                let margin = " ".repeat(number.to_string().len());
                let width = part.text.get(at).map_or(1, |t| t.lines().next().unwrap_or_default().chars().count());
                // Tabs stay so that the caret keeps its column; whatever else moves a cursor does
                // not.
                let shown: String = line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
                let lead: String = line.chars().take(column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
                write!(f, "\n{margin} |\n{number} | {shown}\n{margin} | {lead}{}", "^".repeat(width.max(1)))?;
            }
        } else if let Some(file) = &self.texts.file {
            write!(f, "\n --> {}", file.display())?;
        }
        problem.help.as_ref().map_or(Ok(()), |help| write!(f, "\nhelp: {}", plain(help)))
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            Cited { label: "error", texts: &self.texts, problem }.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Something that is valid, and cannot work or means something else than it seems to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Warning {
    /// The key it is about, as a path: `mirror.0.target.1.url`.
    key: String,
    /// What it is, in one line.
    pub(crate) message: String,
}

impl Warning {
    pub(super) fn new(key: impl Into<String>, message: impl Into<String>) -> Warning {
        Warning { key: key.into(), message: message.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Where the values of a configuration are written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    pub(super) texts: Texts,
    /// By the path of a key, in bytes of the texts.
    pub(super) places: HashMap<String, Range<usize>>,
}

impl Written {
    /// The warning with its place, as errors are shown.
    pub(crate) fn cite(&self, warning: &Warning) -> String {
        let at = place(&self.places, &warning.key);
        let secret = at.as_ref().is_some_and(|at| {
            let part = self.texts.part(at.start);
            may_hold_secret(part.text, at.start - part.start)
        });
        let problem = Problem { at, secret, ..Problem::new(&warning.message) };
        Cited { label: "warning", texts: &self.texts, problem: &problem }.to_string()
    }
}

/// Where a key is, or the section that it is missing in.
pub(crate) fn place(places: &HashMap<String, Range<usize>>, key: &str) -> Option<Range<usize>> {
    let above = std::iter::successors(Some(key), |key| key.rsplit_once('.').map(|(above, _)| above));
    above.into_iter().find_map(|key| places.get(key)).cloned()
}

/// The one of `known` that was probably meant by `word`: at most a third of it wrong.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |a: &str, b: &str| -> usize {
        let b: Vec<char> = b.chars().collect();
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, ca) in a.chars().enumerate() {
            let mut corner = row[0];
            row[0] = i + 1;
            for (j, cb) in b.iter().enumerate() {
                let next = (corner + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
                corner = std::mem::replace(&mut row[j + 1], next);
            }
        }
        row[b.len()]
    };
    let scored = known.iter().map(|k| (distance(&word.to_lowercase(), k), *k));
    scored.min().filter(|(d, k)| *d <= k.chars().count().max(3) / 3).map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_place() {
        let text = "[daemon]\n\tstop = \"é\x1b\"\n";
        let at = text.find('"').unwrap();
        let errors = ConfigErrors::new(
            Some(Path::new("/etc/f.toml")),
            text,
            vec![Problem::new("late").at(at..at + 5).help("do this"), Problem::new("first")],
        );
        let want = "error: first\n --> /etc/f.toml\n\nerror: late\n --> /etc/f.toml:2:9\n  |\n2 | \tstop = \"é\u{fffd}\"\n  | \t       ^^^^\nhelp: do this";
        assert_eq!(errors.to_string(), want);
        assert_eq!(errors.one_line_each(), ["/etc/f.toml: first", "/etc/f.toml:2:9: late"]);
    }

    #[test]
    fn a_message_that_cites_the_file_steers_no_terminal() {
        let errors = ConfigErrors::new(None, "", vec![Problem::new("expected a tag, not '\x1b[2J'").help("\x07")]);
        assert_eq!(errors.to_string(), "error: expected a tag, not '\u{fffd}[2J'\nhelp: \u{fffd}");
        assert!(!errors.one_line_each()[0].contains('\x1b'));
    }

    #[test]
    fn a_secret_line_is_not_shown() {
        let mut problem = Problem::new("a password").at(6..12);
        problem.secret = true;
        let errors = ConfigErrors::new(Some(Path::new("f")), "url = secret", vec![problem]);
        assert_eq!(errors.to_string(), "error: a password\n --> f:1:7");
    }

    #[test]
    fn places_at_the_end_of_the_text() {
        let errors = ConfigErrors::new(None, "a\n", vec![Problem::new("end").at(2..2)]);
        assert_eq!(errors.to_string(), "error: end\n  |\n2 | \n  | ^");
    }

    #[test]
    fn a_place_in_a_further_file_is_cited_in_that_file() {
        let mut texts = Texts::of(Some(Path::new("/f")), "a = 1\nb = 2");
        texts.add(Path::new("/g"), "c = 3\nd = 4\n");
        texts.add(Path::new("/h"), "");
        let at = texts.whole.find('d').unwrap();
        let problem = Problem::new("wrong").at(at..at + 1);
        let errors = ConfigErrors::of(texts.clone(), vec![problem.clone(), problem, Problem::new("of all")]);
        assert_eq!(errors.to_string(), "error: of all\n --> /f\n\nerror: wrong\n --> /g:2:1\n  |\n2 | d = 4\n  | ^");
        assert_eq!(errors.one_line_each(), ["/f: of all", "/g:2:1: wrong"]);
        let parts: Vec<_> = texts.parts().map(|part| (part.start, part.text)).collect();
        assert_eq!(parts, [(0, "a = 1\nb = 2"), (12, "c = 3\nd = 4\n"), (25, "")]);
        assert_eq!((texts.place(10), texts.place(25).0), ((Some(Path::new("/f")), 2, 5), Some(Path::new("/h"))));
    }

    #[test]
    fn guesses() {
        let known = ["exclude", "include", "source", "jobs"];
        assert_eq!(nearest("exlude", &known), Some("exclude"));
        assert_eq!(nearest("Source", &known), Some("source"));
        assert_eq!(nearest("job", &known), Some("jobs"));
        assert_eq!(nearest("hook", &known), None);
    }
}
