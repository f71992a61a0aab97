//! Filter arguments, one by one.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A filter argument taken apart: whether it excludes, and its pattern. `None` for rules that are
/// neither a plain exclude nor a plain include (merge files, modifiers, hide, protect, clear).
fn plain_rule(arg: &[u8]) -> Option<(bool, &[u8])> {
    // rsync(1): a pattern of --exclude and --include that starts with "- " or "+ " says itself what
    // it is; a lone "!" clears the list.
    let prefixed = |pattern: &'_ [u8]| match pattern {
        [b'-', b' ', ..] => Some(true),
        [b'+', b' ', ..] => Some(false),
        _ => None,
    };
    if let Some(rule) = arg.strip_prefix(b"--filter=") {
        let excludes = prefixed(rule)?;
        return Some((excludes, &rule[2..]));
    }
    let (by_option, pattern) = match arg.strip_prefix(b"--exclude=") {
        Some(pattern) => (true, pattern),
        None => (false, arg.strip_prefix(b"--include=")?),
    };
    match prefixed(pattern) {
        _ if pattern == b"!" => None,
        Some(excludes) => Some((excludes, &pattern[2..])),
        None => Some((by_option, pattern)),
    }
}

/// Whether every filter is a plain exclude, so that a deletion can be listed by name.
pub(crate) fn excludes_only(filter_args: &[OsString]) -> bool {
    filter_args.iter().all(|arg| is_exclude(arg.as_bytes()))
}

fn is_exclude(arg: &[u8]) -> bool {
    matches!(plain_rule(arg), Some((true, _)))
}

/// The receiver's half of a rule: protects (or releases) on the target, hides nothing on the
/// source. Other rules stay.
pub(crate) fn receiver_only(arg: &OsStr) -> OsString {
    let Some((excludes, pattern)) = plain_rule(arg.as_bytes()) else { return arg.to_owned() };
    let mut out = if excludes { b"--filter=-r ".to_vec() } else { b"--filter=+r ".to_vec() };
    out.extend_from_slice(pattern);
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shallow_filters_bind_the_receiver_only() {
        for (given, want) in [
            ("--exclude=*.o", "--filter=-r *.o"),
            ("--include=*.c", "--filter=+r *.c"),
            ("--exclude=+ a b", "--filter=+r a b"),
            ("--include=- x", "--filter=-r x"),
            ("--filter=- /y/", "--filter=-r /y/"),
            ("--filter=P keep", "--filter=P keep"),
            ("--exclude=!", "--exclude=!"),
        ] {
            assert_eq!(receiver_only(OsStr::new(given)), want);
        }
    }
}
