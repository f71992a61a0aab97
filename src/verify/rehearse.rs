//! `fansync mirror --dry-run`: what the first pass would send and delete.

use std::fmt::Write as _;

use bytesize::ByteSize;

use super::compare::{Comparer, Found};
use super::{Error, alone};
use crate::config::{Config, MaxDelete, Mirror, Target};
use crate::engine::Plan;
use crate::exit::ExitCode;
use crate::guard;
use crate::path::RelPath;
use crate::text::{are, plural};

/// Compares every target of `config` and prints what would go there. Nothing is changed.
pub(crate) fn rehearse(config: &Config, tell: &mut dyn FnMut(Result<String, String>)) -> ExitCode {
    let mut worst = ExitCode::Done;
    for mirror in &config.mirrors {
        for target in &mirror.targets {
            let name = format!("{}/{}", mirror.name, target.name);
            match one(mirror, target) {
                Ok(told) => tell(Ok(format!("{name} ({}): {told}", target.location))),
                Err(error) => {
                    worst = match error {
                        Error::Unreachable(_) => ExitCode::TargetUnreachable,
                        Error::Source(_) => ExitCode::Config,
                        Error::Unavailable(_) => ExitCode::Unavailable,
                        Error::Incomplete(_) | Error::Cancelled => ExitCode::Differences,
                    };
                    tell(Err(format!("{name} ({}): {error}", target.location)));
                }
            }
        }
    }
    worst
}

fn one(mirror: &Mirror, target: &Target) -> Result<String, Error> {
    let plan = alone(mirror, target.clone(), None)?;
    let comparer = Comparer::new(&plan, false, &|| true);
    let found = comparer.whole()?;
    if let Some(why) = found.incomplete {
        return Err(Error::Incomplete(why));
    }
    let mut out = String::new();
    summary(&plan, &found, &mut out);
    for (path, why) in &found.differing {
        let _ = match (why.is_extra(), why.sends()) {
            (true, _) => writeln!(out, "  delete {path}"),
            (false, true) => writeln!(out, "  send   {path}: {}", why.words()),
            (false, false) => writeln!(out, "  set    {path}: {}", why.words()),
        };
    }
    if found.more > 0 {
        let _ = writeln!(out, "  and {} more", found.more);
    }
    Ok(out)
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
