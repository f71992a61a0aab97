//! The order of the modules: each uses only what lies below it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src`, the lowest layer first. Those of one layer do not know each other.
const LAYERS: [&[&str]; 14] = [
    &["error", "exit", "exports", "hash", "path", "ring", "short", "sys", "text", "trust"],
    &["cover", "daily", "dirty", "faillog", "filter", "location", "log", "lost", "progress", "role", "root", "socket"],
    &["budget"],
    &["config", "out", "source", "state", "status"],
    &["explain", "guard", "privilege", "scan", "sersync"],
    &["apart", "control", "lsyncd", "sync"],
    &["backups", "events", "feed", "import", "links", "metrics", "watch"],
    &["resolve", "targets", "web"],
    &["hooks"],
    &["engine", "failover"],
    &["follow"],
    &["verify"],
    &["cli", "connect", "daemon"],
    &["commands"],
];
/// What belongs to no layer: only tests use it, or it has no name of a module.
const BESIDE: [&str; 5] = ["docs_tests", "layers_tests", "lib", "main", "scratch"];

fn files_below(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files_below(&path, out),
            false if path.extension().is_some_and(|e| e == "rs") => out.push(path),
            false => {}
        }
    }
}

/// Whether it is compiled for tests alone, by the `mod` that declares it or one above that.
fn is_of_tests(file: &Path) -> bool {
    let name = file.file_stem().unwrap().to_str().unwrap();
    if name.ends_with("tests") {
        return true;
    }
    let dir = file.parent().unwrap();
    let (name, home) =
        if name == "mod" { (dir.file_name().unwrap().to_str().unwrap(), dir.parent().unwrap()) } else { (name, dir) };
    let parents = [home.join("mod.rs"), home.join("lib.rs"), home.with_extension("rs")];
    let Some(parent) = parents.iter().find(|p| p.exists() && *p != file) else { return false };
    let text = fs::read_to_string(parent).unwrap();
    let declared = [format!("mod {name};"), format!("#[path = \"{name}.rs\"]")];
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| declared.iter().any(|d| line.trim_start().ends_with(d.as_str())));
    let own = at.is_some_and(|at| lines[..at].iter().rev().take_while(|l| l.starts_with("#[")).any(|l| *l == "#[cfg(test)]"));
    own || (!parent.ends_with("lib.rs") && is_of_tests(parent))
}

/// The modules that a text uses by `crate::`, its comments and the tests at its end aside.
fn uses(text: &str) -> BTreeSet<String> {
    let end = ["\n#[cfg(test)]\nmod tests {", "\n#[cfg(test)]\npub(crate) mod tests {"].iter().filter_map(|t| text.find(t)).min();
    let code: Vec<&str> = text[..end.unwrap_or(text.len())].lines().map(|l| l.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let names = code.split("crate::").skip(1).flat_map(|rest| match rest.strip_prefix('{') {
        Some(group) => group.split('}').next().unwrap_or_default().split(',').map(str::trim).collect::<Vec<_>>(),
        None => vec![rest],
    });
    let word = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    names.map(word).collect()
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layer = |module: &str| LAYERS.iter().position(|l| l.contains(&module));
    let (mut files, mut wrong, mut met) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    files_below(&src, &mut files);
    for file in files {
        let below = file.strip_prefix(&src).unwrap().with_extension("");
        let module = below.iter().next().unwrap().to_str().unwrap().to_owned();
        if BESIDE.contains(&module.as_str()) {
            continue;
        }
        let Some(own) = layer(&module) else { panic!("{module} has no layer") };
        met.insert(module.clone());
        if is_of_tests(&file) {
            continue;
        }
        for used in uses(&fs::read_to_string(&file).unwrap()) {
            if used != module && layer(&used).is_some_and(|used| used >= own) {
                wrong.insert(format!("{}: {module} uses {used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let known: BTreeSet<String> = LAYERS.iter().flat_map(|l| l.iter()).map(|m| (*m).to_owned()).collect();
    assert_eq!(known, met, "the list of layers names other modules than there are");
}
