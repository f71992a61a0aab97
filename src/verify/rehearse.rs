//! `fansync mirror --dry-run`: what the first pass would send and delete.

use std::fmt::Write as _;

use bytesize::ByteSize;

use super::compare::{Comparer, Found};
use super::why::Side;
use super::{Error, alone};
use crate::config::{Config, MaxDelete, Mirror, Target};
use crate::engine::Plan;
use crate::exit::ExitCode;
use crate::guard;
use crate::path::RelPath;
use crate::text::{are, plural};

/// Compares every target of `config` and prints what would go there. Nothing is changed.
pub(crate) fn rehearse(config: &Config, print: &mut dyn FnMut(Result<String, String>)) -> ExitCode {
    let mut worst = ExitCode::Done;
    for mirror in &config.mirrors {
        for target in &mirror.targets {
            let name = format!("{}/{}", mirror.name, target.name);
            match one(mirror, target) {
                Ok(plan) => print(Ok(format!("{name} ({}): {plan}", target.location))),
                Err(error) => {
                    worst = worst.max(exit_code(&error));
                    print(Err(format!("{name} ({}): {error}", target.location)));
                }
            }
        }
    }
    worst
}

fn exit_code(error: &Error) -> ExitCode {
    match error {
        Error::Unreachable(_) => ExitCode::TargetUnreachable,
        Error::Source(_) => ExitCode::Config,
        Error::Unavailable(_) => ExitCode::Unavailable,
        Error::Incomplete(_) | Error::Cancelled => ExitCode::Differences,
    }
}

fn one(mirror: &Mirror, target: &Target) -> Result<String, Error> {
    let plan = alone(mirror, target.clone(), None)?;
    let comparer = Comparer::new(&plan, false, &|| true);
    let found = comparer.whole()?;
    if let Some(why) = found.incomplete {
        return Err(Error::Incomplete(why));
    }
    Ok(described(&plan, &found))
}

/// What one pass would do, for people.
fn described(plan: &Plan, found: &Found) -> String {
    let mut out = String::new();
    summary(plan, found, &mut out);
    for (path, why) in &found.differing {
        let _ = match (why.is_extra(), why.sends()) {
            (true, _) => writeln!(out, "  delete {path}"),
            (false, true) => writeln!(out, "  send   {path}: {}", why.words(Side::Target)),
            (false, false) => writeln!(out, "  set    {path}: {}", why.words(Side::Target)),
        };
    }
    if found.more > 0 {
        let _ = writeln!(out, "  and {} more", found.more);
    }
    out
}

/// How much of each there is, and what would be held.
fn summary(plan: &Plan, found: &Found, out: &mut String) {
    let (mut files, mut bytes, mut others, mut deletes) = (0, 0, 0, 0);
    for (path, why) in &found.differing {
        if why.is_extra() {
            deletes += 1;
        } else if why.sends() {
            files += 1;
            bytes += size(plan, path);
        } else {
            others += 1;
        }
    }
    let more = if found.more > 0 { format!(", and {}", plural(found.more, "more change")) } else { String::new() };
    let _ = writeln!(
        out,
        "one pass over {} would send {} of {}, make or set {}, and delete {deletes}{more}",
        plural(found.entries, "entry"),
        plural(files, "file"),
        ByteSize(bytes),
        plural(others, "other entry"),
    );
    if let Some(why) = held(plan, deletes, found.entries) {
        let _ = writeln!(out, "  HELD   {why}");
    }
}

/// Why the deletions would not be made, or nothing sent at all.
fn held(plan: &Plan, deletes: u64, entries: u64) -> Option<String> {
    let (mirror, target) = (&plan.mirror, &plan.sides.target);
    let empty = || guard::left(&plan.root, &mirror.filter, &RelPath::root(), 1) == Some(0);
    if deletes > 0 && !mirror.allow_empty && empty() {
        return Some("the source is empty, so nothing would be sent or deleted; --allow-empty if that is meant".into());
    }
    let limit: MaxDelete = target.max_delete.or(mirror.max_delete)?;
    guard::exceeds(limit, deletes, entries + deletes).then(|| {
        format!("{} more than max_delete = {limit} allows at once, and would wait to be accepted", are(deletes, "deletion"))
    })
}

fn size(plan: &Plan, path: &RelPath) -> u64 {
    plan.root.path().join(path.as_path()).symlink_metadata().map_or(0, |m| m.len())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::root::Root;
    use crate::sync::output::Item;
    use crate::targets::Sides;
    use crate::verify::why::Why;

    /// A mirror of `source` with these lines in its configuration.
    fn plan(source: &std::path::Path, lines: &str) -> Plan {
        let text = format!(
            "[[mirror]]\nname = \"m\"\nsource = \"{}\"\n{lines}[[mirror.target]]\nname = \"t\"\nurl = \"h::m\"\n",
            source.display()
        );
        let mirror = Config::from_toml(&text).unwrap().mirrors.remove(0);
        let target = mirror.targets[0].clone();
        let sides = Sides {
            target,
            facts: Default::default(),
            missing_args: true,
            dialect: Default::default(),
            top_refused: false,
            apart: Vec::new(),
        };
        Plan { mirror, sides, root: Root::open(source).unwrap(), board: Default::default(), idle: false }
    }

    fn found(list: &[(&str, &[u8; 11])], entries: u64, more: u64) -> Found {
        let why = |change: &[u8; 11]| Why::new(&Item { change: *change, path: RelPath::root(), dir: false });
        let differing = list.iter().map(|(path, change)| (RelPath::from_normal(*path), why(change))).collect();
        Found { differing, more, entries, incomplete: None }
    }

    #[test]
    fn a_rehearsal_names_what_it_would_send_set_and_delete() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("new"), [0; 1000]).unwrap();
        fs::write(dir.path().join("old"), [0; 24]).unwrap();
        let plan = plan(dir.path(), "");
        let list: [(&str, &[u8; 11]); 5] = [
            ("d", b".d..t......"),
            ("gone", b"*deleting  "),
            ("new", b"<f+++++++++"),
            ("old", b"<f.st......"),
            ("vanished", b"<f+++++++++"),
        ];
        let want = "one pass over 9 entries would send 3 files of 1.0 KiB, make or set 1 other entry, and delete 1\n  \
                    set    d: times\n  delete gone\n  send   new: missing on the target\n  send   old: size, times\n  \
                    send   vanished: missing on the target\n";
        assert_eq!(described(&plan, &found(&list, 9, 0)), want);
        let more = described(&plan, &found(&list, 9, 2));
        assert!(more.contains("delete 1, and 2 more changes\n") && more.ends_with("\n  and 2 more\n"), "{more}");
    }

    #[test]
    fn a_rehearsal_says_what_would_be_held() {
        let (empty, filled) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(filled.path().join("f"), "f").unwrap();
        let limit = "max_delete = 10\n";
        for (source, lines, deletes, entries, want) in [
            (filled.path(), limit, 10, 100, None),
            (filled.path(), limit, 11, 100, Some("11 deletions are more than max_delete = 10")),
            (filled.path(), "", 11, 100, None),
            // A share is one of what the target has: the tree and what is to go.
            (filled.path(), "max_delete = \"10%\"\n", 10, 90, None),
            (filled.path(), "max_delete = \"10%\"\n", 10, 89, Some("max_delete = 10%")),
            (empty.path(), "", 1, 1, Some("the source is empty")),
            (empty.path(), "", 0, 1, None),
            (empty.path(), "allow_empty = true\n", 1, 1, None),
        ] {
            let reason = held(&plan(source, lines), deletes, entries);
            match want {
                None => assert_eq!(reason, None, "{lines:?} {deletes} of {entries}"),
                Some(want) => assert!(reason.as_ref().is_some_and(|reason| reason.contains(want)), "{lines:?}: {reason:?}"),
            }
        }
    }

    #[test]
    fn a_rehearsal_that_fails_says_by_its_exit_code_why() {
        let why = String::new;
        for (error, want) in [
            (Error::Unreachable(why()), ExitCode::TargetUnreachable),
            (Error::Source(why()), ExitCode::Config),
            (Error::Unavailable(why()), ExitCode::Unavailable),
            (Error::Incomplete(why()), ExitCode::Differences),
            (Error::Cancelled, ExitCode::Differences),
        ] {
            assert_eq!(exit_code(&error), want, "{error:?}");
        }
    }
}
