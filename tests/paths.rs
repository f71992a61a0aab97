//! Whatever names a script, or a file of the packaging or of the tests, names one that exists.
//!
//! Documents, comments and scripts name files in words, which no compiler follows when a file
//! moves.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use regex::Regex;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below `dir`, from the top of the repository.
fn files(dir: &str) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![top().join(dir)]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else {
                found.push(path.strip_prefix(top()).expect("it lies below the top").to_owned());
            }
        }
    }
    found
}

/// The files on top, which has build directories besides.
fn on_top() -> Vec<PathBuf> {
    let entries = fs::read_dir(top()).expect("the top can be read").flatten();
    entries.filter(|entry| entry.path().is_file()).map(|entry| entry.file_name().into()).collect()
}

/// The paths that `text` names, each with its line. A path of another place (`/usr/share/…`,
/// `../…`, `https://…`) is none, nor is a pattern.
fn named(text: &str) -> Vec<(usize, String)> {
    let path = Regex::new(r"(?:^|[^\w./*~-])((?:scripts|packaging|kernel-tests|tests)/[\w./@*{-]*)").expect("a pattern");
    let mut all = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let words = path.captures_iter(line).map(|found| found[1].trim_end_matches(['.', '/']).to_owned());
        all.extend(words.filter(|word| !word.contains(['*', '{'])).map(|word| (n + 1, word)));
    }
    all
}

#[test]
fn every_script_and_file_that_is_named_exists() {
    let mut missing = Vec::new();
    let mut seen = 0;
    let dirs = ["src", "docs", "scripts", "packaging", "kernel-tests", "tests", "benches", "fuzz", ".ci"];
    for path in dirs.iter().flat_map(|dir| files(dir)).chain(on_top()) {
        // What is no text, as an image of the corpus, names nothing.
        let Ok(text) = fs::read_to_string(top().join(&path)) else { continue };
        for (line, word) in named(&text) {
            seen += 1;
            if !top().join(&word).exists() {
                missing.push(format!("{}:{line}: {word}", path.display()));
            }
        }
    }
    assert!(seen > 150, "only {seen} paths were found");
    assert!(missing.is_empty(), "these do not exist:\n{}", missing.join("\n"));
}

#[test]
fn what_is_a_path_and_what_is_not() {
    let words = |text: &str| named(text).into_iter().map(|(_, word)| word).collect::<Vec<_>>();
    assert_eq!(
        words("see `scripts/test`, and packaging/systemd/fansync@.service."),
        ["scripts/test", "packaging/systemd/fansync@.service"]
    );
    assert_eq!(words("sudo scripts/check/soak 30m"), ["scripts/check/soak"]);
    assert!(words("/usr/share/scripts/x ../scripts/x scripts/*/x scripts/{a,b} src/tests/x").is_empty());
}

#[test]
fn the_list_of_scripts_is_complete() {
    let list = fs::read_to_string(top().join("scripts/README.md")).expect("it can be read");
    let listed: BTreeSet<String> = named(&list).into_iter().map(|(_, word)| word).filter(|w| top().join(w).is_file()).collect();
    // Those of a package have their names from dpkg, and no script calls them.
    let commands = |path: &PathBuf| path.extension().is_none() && !path.starts_with("packaging/debian");
    for path in files("scripts").into_iter().chain(files("packaging")).filter(commands) {
        let mode = fs::metadata(top().join(&path)).expect("it was listed").permissions().mode();
        let shown = path.display().to_string();
        assert!(mode & 0o111 == 0 || listed.contains(&shown), "scripts/README.md does not list {shown}");
    }
    let on_top: BTreeSet<PathBuf> = files("scripts").into_iter().filter(|path| path.components().count() == 2).collect();
    let wanted = ["README.md", "deploy", "quickstart", "test"].map(|name| Path::new("scripts").join(name));
    assert!(on_top.iter().eq(wanted.iter()), "a new script belongs into a directory of scripts/: {on_top:?}");
}
