//! What the documents say of the tests holds: each test they name is there.

use std::fs;
use std::path::{Path, PathBuf};

/// Everything below `dir` that ends in `.rs`, as text.
fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            found.push((path, text));
        }
    }
    found
}

/// The last cell of each row of the tables in `text`.
fn last_cells(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.trim_end_matches('|').rsplit('|').next())
}

#[test]
fn every_test_that_the_table_of_faults_names_is_there() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let faults = fs::read_to_string(top.join("docs/faults.md")).expect("docs/faults.md can be read");
    let (unit, kernel) = (sources(&top.join("src")), sources(&top.join("kernel-tests")));
    let module_of = |path: &Path| -> String {
        let below = path.strip_prefix(top.join("kernel-tests")).expect("it lies there");
        below.components().next().map(|c| c.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()).unwrap_or_default()
    };
    let kernel_case = |module: &str, name: &str| {
        let quoted = match name.strip_suffix('*') {
            Some(begin) => format!("\"{begin}"),
            None => format!("\"{name}\""),
        };
        let calls = [format!("case({quoted}"), format!("step({quoted}")];
        kernel.iter().any(|(path, text)| {
            let text: String = text.split_whitespace().collect();
            module_of(path) == module && calls.iter().any(|call| text.contains(call))
        })
    };
    let unit_test = |name: &str| unit.iter().any(|(_, text)| text.contains(&format!("fn {name}(")));
    let module = |name: &str| top.join("src").join(name).is_dir() || top.join("src").join(format!("{name}.rs")).is_file();
    let mut named = 0;
    for cell in last_cells(&faults) {
        for word in cell.split('`').skip(1).step_by(2) {
            let there = match word.split_once("::") {
                Some((module, name)) => kernel_case(module, name),
                None => module(word) || unit_test(word),
            };
            assert!(there, "docs/faults.md names the test {word:?}, which is nowhere");
            named += 1;
        }
    }
    assert!(named > 80, "only {named} tests were found in the table; is it read as it is written?");
}
