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

/// Everything that is wrong with a configuration; at least one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    file: Option<PathBuf>,
    text: String,
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
    pub(crate) fn new(file: Option<&Path>, text: &str, mut problems: Vec<Problem>) -> ConfigErrors {
        debug_assert!(!problems.is_empty());
        problems.sort_by_key(|p| p.at.as_ref().map(|at| at.start));
        ConfigErrors { file: file.map(Path::to_owned), text: text.to_owned(), problems }
    }

    /// Each problem as `FILE:LINE:COLUMN: what`, for places that take one line.
    pub(crate) fn one_line_each(&self) -> Vec<String> {
        let line = |problem: &Problem| {
            let file = self.file.as_deref().map(|f| format!("{}:", f.display())).unwrap_or_default();
            let place = problem
                .at
                .as_ref()
                .map(|at| line_and_column(&self.text, at.start))
                .map(|(line, column)| format!("{line}:{column}:"));
            format!("{file}{} {}", place.unwrap_or_default(), plain(&problem.message)).trim_start().to_owned()
        };
        self.problems.iter().map(line).collect()
    }
}

/// One problem with its place. `label`: `error` or `warning`; `text`: what was read from `file`.
struct Cited<'a> {
    label: &'a str,
    file: Option<&'a Path>,
    text: &'a str,
    problem: &'a Problem,
}

impl fmt::Display for Cited<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = self.problem;
        write!(f, "{}: {}", self.label, plain(&problem.message))?;
        let file = self.file.map(Path::display);
        if let Some(at) = &problem.at {
            let (number, column) = line_and_column(self.text, at.start);
            if let Some(file) = file {
                write!(f, "\n --> {file}:{number}:{column}")?;
            }
            if !problem.secret {
                let line = self.text.lines().nth(number - 1).unwrap_or_default();
                let margin = " ".repeat(number.to_string().len());
                let width = self.text.get(at.clone()).map_or(1, |t| t.lines().next().unwrap_or_default().chars().count());
                // Tabs stay so that the caret keeps its column; whatever else moves a cursor does
                // not.
                let shown: String = line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
                let lead: String = line.chars().take(column - 1).map(|c| if c == '\t' { c } else { ' ' }).collect();
                write!(f, "\n{margin} |\n{number} | {shown}\n{margin} | {lead}{}", "^".repeat(width.max(1)))?;
            }
        } else if let Some(file) = file {
            write!(f, "\n --> {file}")?;
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
            Cited { label: "error", file: self.file.as_deref(), text: &self.text, problem }.fmt(f)?;
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
    pub(super) file: Option<PathBuf>,
    pub(super) text: String,
    /// By the path of a key, in bytes of the text.
    pub(super) places: HashMap<String, Range<usize>>,
}

impl Written {
    /// The warning with its place, as errors are shown.
    pub(crate) fn cite(&self, warning: &Warning) -> String {
        let at = place(&self.places, &warning.key);
        let secret = at.as_ref().is_some_and(|at| may_hold_secret(&self.text, at.start));
        let problem = Problem { at, secret, ..Problem::new(&warning.message) };
        Cited { label: "warning", file: self.file.as_deref(), text: &self.text, problem: &problem }.to_string()
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
    fn guesses() {
        let known = ["exclude", "include", "source", "jobs"];
        assert_eq!(nearest("exlude", &known), Some("exclude"));
        assert_eq!(nearest("Source", &known), Some("source"));
        assert_eq!(nearest("job", &known), Some("jobs"));
        assert_eq!(nearest("hook", &known), None);
    }
}
