//! What the documents say of the tests holds: each test they name is there.

mod translated;

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
    let text =
        ["docs/faults.md", "docs/security.md"].map(|page| fs::read_to_string(top.join(page)).expect("the page can be read"));
    // Of the page on security the last section of tables with tests ends where others begin.
    let faults = format!("{}\n{}", text[0], text[1].split("\n## Whose file is it").next().unwrap_or_default());
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
                None if word.starts_with("scripts/") => top.join(word).is_file(),
                None => module(word) || unit_test(word),
            };
            assert!(there, "docs/faults.md or docs/security.md names the test {word:?}, which is nowhere");
            named += 1;
        }
    }
    assert!(named > 80, "only {named} tests were found in the table; is it read as it is written?");
}

/// The blocks of `lang` in a document, each with its line.
fn blocks<'t>(text: &'t str, lang: &'t str) -> impl Iterator<Item = (usize, String)> + 't {
    let mut lines = text.lines().enumerate();
    std::iter::from_fn(move || {
        let (begin, _) = lines.find(|(_, line)| line.strip_prefix("```") == Some(lang))?;
        let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| !line.starts_with("```"));
        Some((begin + 1, inside.fold(String::new(), |text, line| text + line + "\n")))
    })
}

/// README and everything in docs, other languages included.
fn documents() -> Vec<(PathBuf, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = Vec::new();
    for dir in [top.to_owned(), top.join("docs"), top.join("docs/development"), top.join("docs/zh-CN")] {
        files.extend(fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    files.retain(|path| path.extension().is_some_and(|ext| ext == "md"));
    files.sort();
    let text = |path: &PathBuf| fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    files.iter().map(|path| (path.clone(), text(path))).collect()
}

/// What a piece of configuration needs around it to be a whole one.
fn whole(snippet: &str) -> String {
    const MIRROR: &str = "[[mirror]]\nname = \"m\"\nsource = \"/s\"\n";
    const TARGET: &str = "[[mirror.target]]\nname = \"t\"\nurl = \"h::m\"\n";
    let hook = |kind: &str| format!("{MIRROR}{TARGET}[[mirror.hook]]\nname = \"h\"\nkind = {kind:?}\n{snippet}");
    let has = |what: &str| snippet.lines().any(|line| line.starts_with(what));
    match () {
        () if has("[[mirror]]") && !has("[[mirror.") => format!("{snippet}{TARGET}"),
        () if has("[[mirror]]") => snippet.to_owned(),
        () if has("[[mirror.target]]") => format!("{MIRROR}{snippet}"),
        () if has("[mirror.") || has("[[mirror.") => format!("{MIRROR}{snippet}{TARGET}"),
        () if has("[daemon") => format!("{snippet}{MIRROR}{TARGET}"),
        () if has("prefix") => hook("command"),
        () if has("base") => hook("cdn"),
        () => format!("{MIRROR}{snippet}{TARGET}"),
    }
}

#[test]
fn every_configuration_that_the_documents_show_is_right() {
    let mut seen = 0;
    for (path, text) in documents() {
        for (line, snippet) in blocks(&text, "toml") {
            let place = format!("{}:{line}", path.display());
            if snippet.contains("[server]") || snippet.contains("[[failover]]") {
                crate::failover::config::Config::parse(&snippet, None).unwrap_or_else(|e| panic!("{place}: {e}"));
            } else {
                // What it names is not there.
                let alone: String =
                    snippet.split_inclusive('\n').filter(|line| !line.starts_with("include = [\"conf.d")).collect();
                crate::config::Config::from_toml(&whole(&alone)).unwrap_or_else(|e| panic!("{place}: {e}"));
            }
            seen += 1;
        }
    }
    assert!(seen >= 10, "only {seen} were found");
    // Those of the containers.
    let compose = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/compose");
    for name in ["source.toml", "follower.toml"] {
        let text = fs::read_to_string(compose.join(name)).expect("it can be read");
        crate::config::Config::from_toml(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// A message of the log as the source has it: level, and text with a NUL for what varies.
struct Logged {
    place: String,
    level: &'static str,
    text: String,
}

/// The string literals of a macro call that begins behind its parenthesis, as (what stands before
/// it, text).
fn literals(call: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut depth, mut before) = (1, String::new());
    let mut chars = call.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    match c {
                        // An escape; a line's end with what indents the next one is nothing.
                        '\\' if chars.next_if_eq(&'\n').is_some() => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                        '\\' => text.extend(chars.next()),
                        c => text.push(c),
                    }
                }
                found.push((std::mem::take(&mut before), text));
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        before.push(c);
    }
    found
}

/// Everything that the source logs as a warning or an error, tests aside.
fn logged() -> Vec<Logged> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    for (path, text) in sources(&src) {
        if path.to_string_lossy().contains("tests") {
            continue;
        }
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (level, name) in [("warn", "warn!("), ("error", "error!(")] {
            for (at, _) in text.match_indices(name) {
                let place = format!("{}:{}", path.display(), text[..at].lines().count());
                // Behind a comma or first: neither the value of a field nor within one.
                let alone = |before: &str| before.trim().is_empty() || before.trim_end().ends_with(',');
                let message = literals(&text[at + name.len()..]).into_iter().find(|(before, _)| alone(before));
                let Some((_, message)) = message else { continue };
                all.push(Logged { place, level, text: varying(&message) });
            }
        }
    }
    all
}

/// `{…}` of a format becomes a NUL.
fn varying(format: &str) -> String {
    let mut parts = format.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "\0" + part.split_once('}').map_or("", |(_, rest)| rest))
}

/// Whether the pieces occur in `text` one behind the other.
fn in_order(pieces: &[&str], text: &str) -> bool {
    let mut rest = text;
    pieces.iter().all(|piece| {
        let Some((_, behind)) = rest.split_once(piece) else { return false };
        rest = behind;
        true
    })
}

#[test]
fn every_warning_and_error_of_the_log_is_in_the_guide() {
    let guide = include_str!("../docs/operating.md");
    let mut rows = Vec::new();
    for line in guide.lines() {
        let cells: Vec<&str> = line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        if cells.len() != 3 || !matches!(cells[0], "warn" | "error") {
            continue;
        }
        assert!(!cells[2].is_empty() && cells[2] != "…", "a row says nothing: {line}");
        // A message has several words; the names of fields are one.
        for span in cells[1].split('`').skip(1).step_by(2).filter(|span| span.contains(' ')) {
            let pieces: Vec<&str> = span.split('…').map(str::trim).filter(|piece| !piece.is_empty()).collect();
            assert!(pieces.iter().map(|p| p.len()).sum::<usize>() > 7, "this matches nearly everything: {span}");
            rows.push((cells[0], span, pieces));
        }
    }
    let logged = logged();
    assert!(logged.len() > 60, "only {} messages were found", logged.len());
    // Only what has words of its own can be looked for; the others pass on the words of an error.
    let worded = |text: &str| text.split('\0').any(|piece| piece.trim().len() >= 8);
    let missing: Vec<_> = logged
        .iter()
        .filter(|m| worded(&m.text))
        .filter(|m| !rows.iter().any(|(level, _, pieces)| *level == m.level && in_order(pieces, &m.text)))
        .map(|m| format!("{}: {}: {}", m.place, m.level, m.text.replace('\0', "…")))
        .collect();
    assert!(missing.is_empty(), "docs/operating.md lacks\n{}", missing.join("\n"));
    // And the other way round, as far as the words are those of the message itself.
    let src: String = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).into_iter().map(|(_, text)| text).collect();
    let src = src.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
    for (_, span, pieces) in &rows {
        for piece in pieces {
            assert!(src.contains(piece.trim_end_matches(':')), "docs/operating.md has {span:?}, which nothing says: {piece:?}");
        }
    }
}

#[test]
fn the_unit_of_several_instances_is_that_of_one() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    let settings = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#') && !l.starts_with("Description="));
        lines.map(|l| l.replace("/fansync.toml", "/%i.toml")).collect()
    };
    let one = settings("fansync.service");
    assert!(one.len() > 20, "{one:?}");
    assert_eq!(one, settings("fansync@.service"));
}

#[test]
fn each_dependency_has_its_reason() {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().expect("Cargo parses it too");
    let mut used: Vec<&str> = ["dependencies", "dev-dependencies"]
        .into_iter()
        .flat_map(|table| manifest[table].as_table().expect("a table").keys().map(String::as_str))
        .collect();
    let named = |line: &'static str| Some(line.strip_prefix("| `")?.split_once('`')?.0);
    let mut listed: Vec<&str> = include_str!("../docs/dependencies.md").lines().filter_map(named).collect();
    used.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, used, "docs/dependencies.md and Cargo.toml differ");
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for (path, text) in documents() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
            if target.contains("://") {
                continue;
            }
            let (file, part) = target.split_once('#').map_or((target, None), |(file, part)| (file, Some(part)));
            let at = if file.is_empty() { path.clone() } else { path.parent().expect("in a directory").join(file) };
            // Pictures are no text.
            let there = fs::read(&at).unwrap_or_else(|e| panic!("{} leads to {target}: {e}", path.display()));
            let there = String::from_utf8_lossy(&there);
            let headings = || there.lines().filter(|l| l.starts_with('#')).map(|l| anchor(l.trim_start_matches('#')));
            assert!(
                part.is_none_or(|part| headings().any(|h| h == part)),
                "{} leads to {target}: no such heading",
                path.display()
            );
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} links were found");
}

/// What a number before a noun in the plural looks like in a format string.
fn numbered(line: &str) -> Option<&str> {
    const NOUNS: [&str; 16] = [
        "paths",
        "entries",
        "files",
        "deletions",
        "runs",
        "directories",
        "names",
        "events",
        "changes",
        "hooks",
        "mirrors",
        "batches",
        "places",
        "failures",
        "processes",
        "lines",
    ];
    line.match_indices("} ").find_map(|(at, _)| {
        let opens = line[..at].rfind('{')?;
        let inside = &line[opens + 1..at];
        let mut words = line[at + 2..].split(|c: char| !c.is_ascii_alphabetic());
        let plain = inside.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
        let noun = words.by_ref().take(2).find(|word| NOUNS.contains(word))?;
        plain.then_some(noun)
    })
}

#[test]
fn a_number_and_its_noun_agree() {
    // Numbers that are never 1, or follow an arm for 1; and texts that people do not read.
    const ELSEWHERE: [&str; 6] = [
        "held deletions go through",
        "paths differ",
        "{name} runs",
        "{self.index}",
        "with hooks alone",
        "rsync runs at the same time",
    ];
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut off = Vec::new();
    for (path, text) in sources(&top.join("src")) {
        let shown = path.display().to_string();
        if shown.contains("test") || shown.contains("golden") || shown.contains("scripted") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (n, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if let Some(noun) = numbered(line).filter(|_| !ELSEWHERE.iter().any(|known| line.contains(known))) {
                off.push(format!("{shown}:{}: {noun}: {}", n + 1, line.trim()));
            }
        }
    }
    assert_eq!(numbered("\"{} paths wait\""), Some("paths"));
    assert!(numbered("\"{} wait\"").is_none() && numbered("\"{path} and names\"").is_some());
    assert!(off.is_empty(), "use `text::plural` for\n{}", off.join("\n"));
}

#[test]
fn every_command_of_the_tasks_is_one() {
    use clap::Parser;

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tasks.md");
    let text = fs::read_to_string(path).expect("the page of tasks");
    let tasks = text.lines().filter(|line| line.starts_with("### ")).count();
    assert!(tasks >= 20, "only {tasks} tasks");
    let mut seen = 0;
    for (line, block) in blocks(&text, "sh") {
        for command in block.lines() {
            let words = shlex::split(command).expect("words of a shell");
            crate::cli::Cli::try_parse_from(words).unwrap_or_else(|e| panic!("docs/tasks.md:{line}: {command}: {e}"));
            seen += 1;
        }
    }
    assert!(seen >= 10, "only {seen} commands");
}
