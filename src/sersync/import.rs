//! A configuration of another program's as TOML.

use std::fmt::Write as _;

use std::path::Path;

use super::Loaded;
use crate::config::{Config, Daemon, Mirror, Target};

/// Where files for passwords are proposed.
const PASSWORDS: &str = "/etc/fansync";

/// A comment is one line, and TOML has no control characters in it.
fn in_comment(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// The TOML that `loaded` means: what is not a default, and as comments what is different from the
/// other program. A password is left out, and a file for it named in its place, unless
/// `show_secrets`.
///
/// # Errors
/// A path that is not UTF-8, which no file that is imported holds.
pub fn toml(loaded: &Loaded, show_secrets: bool) -> Result<String, toml::ser::Error> {
    let program = loaded.program;
    let mut out =
        format!("# From a configuration of {program}'s. Keys that are not here have their defaults; docs/config.md has all.\n",);
    if !loaded.notes.is_empty() {
        out.push_str("#\n# What is different, by the line of that file:\n");
    }
    for note in &loaded.notes {
        let text = in_comment(&note.text);
        _ = match note.line {
            0 => writeln!(out, "#   {text}"),
            line => writeln!(out, "#   {line}: {text}"),
        };
    }
    let failed = |e: toml::de::Error| <toml::ser::Error as serde::ser::Error>::custom(e);
    let mut config = loaded.config.clone();
    if !show_secrets {
        for file in config.move_passwords(Path::new(PASSWORDS)) {
            _ = writeln!(
                out,
                "#\n# A password is not shown here. Write it into {} (mode 600), or run import with --show-secrets.",
                file.display()
            );
        }
    }
    let mirrors = config.mirrors.iter().map(|m| Mirror {
        targets: m.targets.iter().map(|t| Target::new(t.name.clone(), t.location.clone())).collect(),
        ..Mirror::new(m.name.clone(), m.source.clone())
    });
    let usual = Config { daemon: Daemon::default(), mirrors: mirrors.collect() };
    let own: toml::Table = config.to_toml()?.parse().map_err(failed)?;
    let usual: toml::Table = usual.to_toml()?.parse().map_err(failed)?;
    let rest = beyond(own, &usual);
    if !rest.is_empty() {
        out.push('\n');
        out.push_str(&toml::to_string(&rest)?);
    }
    Ok(out)
}

/// The entries of `own` that are not in `usual`, and what every section needs.
fn beyond(own: toml::Table, usual: &toml::Table) -> toml::Table {
    const NEEDED: [&str; 4] = ["name", "source", "url", "kind"];
    let mut out = toml::Table::new();
    for (key, value) in own {
        let kept = match (value, usual.get(&key)) {
            (toml::Value::Table(own), Some(toml::Value::Table(usual))) => {
                let rest = beyond(own, usual);
                (!rest.is_empty()).then_some(toml::Value::Table(rest))
            }
            (toml::Value::Array(own), Some(toml::Value::Array(usual))) if own.iter().any(toml::Value::is_table) => {
                let none = toml::Table::new();
                let pairs = own.into_iter().enumerate().map(|(i, own)| match own {
                    toml::Value::Table(own) => {
                        toml::Value::Table(beyond(own, usual.get(i).and_then(toml::Value::as_table).unwrap_or(&none)))
                    }
                    other => other,
                });
                Some(toml::Value::Array(pairs.collect()))
            }
            (value, usual) if NEEDED.contains(&key.as_str()) || usual != Some(&value) => Some(value),
            _ => None,
        };
        if let Some(value) = kept {
            out.insert(key, value);
        }
    }
    out
}
