//! lsyncd's configuration, carried over: its Lua program, its settings, its meaning of them.
//!
//! `script.rs` runs the program within bounds and records what it declares; `convert.rs` makes of
//! that the same [`Config`] that a TOML file gives, and the same rules judge it. What has no
//! counterpart is a [`Note`] with its line and the reason. What would copy more than lsyncd does
//! (lists of rules and excludes that cannot be read) is an error instead.

mod convert;
mod options;
mod script;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

#[cfg(doc)]
use crate::config::Config;
use crate::config::{ConfigErrors, Problem};
use crate::sersync::{Loaded, Note};

/// Whether a file is a configuration of lsyncd's: by its name, or as its text calls `sync` with a
/// table.
pub(crate) fn is_one(path: &Path, text: &[u8]) -> bool {
    let named = path.extension().is_some_and(|e| e == "lua");
    let calls = |line: &[u8]| {
        let line = line.trim_ascii_start();
        let rest = line.strip_prefix(b"sync").or_else(|| line.strip_prefix(b"settings"));
        // `settings = {` of version 2.0; no TOML begins a value with a brace that its line does not
        // end.
        rest.map(<[u8]>::trim_ascii_start).is_some_and(|rest| {
            rest.starts_with(b"{") || rest.is_empty() || rest.strip_prefix(b"=").is_some_and(|r| r.trim_ascii() == b"{")
        })
    };
    named || text.split(|&b| b == b'\n').any(calls)
}

/// Reads lsyncd's configuration file. `lua_files`: whether its `dofile` and `require` read files
/// below its directory.
///
/// # Errors
/// The file cannot be read or trusted; its program does not run; what cannot be carried over
/// without copying more, or elsewhere, than lsyncd does.
pub(crate) fn load(path: &Path, lua_files: bool) -> Result<Loaded, ConfigErrors> {
    let text = crate::config::read_trusted(path)?;
    let below = std::path::absolute(path).ok().and_then(|p| p.parent().map(Path::to_owned)).filter(|_| lua_files);
    read(&text, Some(path), below)
}

/// The same for the text of a program. `path`: named in the errors. `below`: where its `dofile` and
/// `require` may read files, if anywhere.
///
/// # Errors
/// As [`load`], but for the file's.
pub fn read(text: &str, path: Option<&Path>, below: Option<PathBuf>) -> Result<Loaded, ConfigErrors> {
    let fail = |problems| ConfigErrors::new(path, text, problems);
    let script = script::run(text, below).map_err(|failure| {
        let problem = Problem::new(format!("the Lua program does not run: {}", failure.text));
        let help = "lsyncd's own check is `lsyncd -nodaemon FILE`; files and commands are not within reach of an import";
        fail(vec![Problem { at: line_range(text, failure.line), ..problem }.help(help)])
    })?;
    let (config, mut found) = convert::config(&script, text);
    if found.problems.is_empty() {
        found.problems = crate::config::judge(&config, &found.places);
    }
    if !found.problems.is_empty() {
        return Err(fail(found.problems));
    }
    found.notes.sort_by(|a, b| (a.line, &a.text).cmp(&(b.line, &b.text)));
    // A loop over hosts says the same of each.
    found.notes.dedup();
    Ok(Loaded { config, notes: found.notes, program: "lsyncd" })
}

/// Where line `line` stands in `text`, without its indentation; `None` for line 0.
fn line_range(text: &str, line: usize) -> Option<Range<usize>> {
    let start = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum::<usize>();
    let whole = text.get(start..)?.lines().next()?;
    let indent = whole.len() - whole.trim_start().len();
    Some(start + indent..start + whole.trim_end().len().max(indent))
}

/// What a conversion has found besides values.
#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    notes: Vec<Note>,
    /// Where a section of the configuration stands, by its path.
    places: HashMap<String, Range<usize>>,
}
