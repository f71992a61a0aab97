//! Files with patterns.

use super::*;

/// A mirror with these lines, in a file of the directory.
fn with_files(lines: &str) -> Result<Config, ConfigErrors> {
    Config::from_toml(&format!(
        "[[mirror]]\nname = \"m\"\nsource = \"/s\"\n{lines}\n[[mirror.target]]\nname = \"t\"\nurl = \"h::m\"\n"
    ))
}

#[test]
fn patterns_of_files_join_those_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (exclude, include) = (at("exclude", "# rebuilt\n*.tmp\n./never\n"), at("include", "keep.tmp\n"));
    let lines = format!("exclude = [\"a\"]\nroles = true\nexclude_from = [{exclude:?}]\ninclude_from = [{include:?}]");
    let config = with_files(&lines).unwrap();
    let mirror = &config.mirrors[0];
    for (path, excluded) in [("a", true), ("d/x.tmp", true), ("keep.tmp", false), (".fansync", true), ("b", false)] {
        assert_eq!(mirror.filter.excludes(path.as_bytes(), true), excluded, "{path}");
    }
    // The place of a pattern is the line of its file, behind the one that roles puts in.
    assert_eq!(mirror.filter.exclude()[2], b"*.tmp");
    assert_eq!(mirror.origins.of("exclude", 2), format!("{exclude}:2"));
    assert_eq!(mirror.origins.of("include", 0), format!("{include}:1"));
    // What is printed names the files and means the same.
    let printed = config.to_toml().unwrap();
    assert!(printed.contains("exclude_from") && !printed.contains("*.tmp"), "{printed}");
    assert_eq!(Config::from_toml(&printed).unwrap(), config);
    // A pattern that matches nothing is warned of with its line.
    let warned = mirror.warnings(&crate::sync::probe::Asked);
    assert!(warned.iter().any(|(_, text)| text.starts_with(&format!("{exclude}:3: the pattern \"./never\""))), "{warned:?}");
    // Another pattern in a file is another configuration, another comment is not.
    at("exclude", "# built anew\n*.tmp\n./never\n");
    assert_eq!(with_files(&lines).unwrap(), config);
    at("exclude", "*.tmp\n");
    assert_ne!(with_files(&lines).unwrap(), config);
}

#[test]
fn a_file_of_patterns_that_cannot_be_used_is_an_error_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("exclude");
    std::fs::write(&file, "a\n+ b\n").unwrap();
    let file = file.display().to_string();
    for (lines, words) in [
        (format!("exclude_from = [{file:?}]"), format!("exclude_from: {file}:2: \"+ b\" belongs into a file of include_from")),
        ("exclude_from = [\"/no/such\"]".into(), "exclude_from: cannot read the patterns in /no/such".into()),
        ("include_from = [\"relative\"]".into(), "include_from: relative is not an absolute path".into()),
        ("exclude_from = \"/etc/x\"".into(), "exclude_from is a string, and should be a list of strings".into()),
    ] {
        let message = with_files(&lines).unwrap_err().to_string();
        assert!(message.contains(&words) && message.contains("4 | "), "{lines}: {message}");
    }
}
