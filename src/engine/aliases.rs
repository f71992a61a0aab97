//! Paths below the source that show the same: what a bind mount shows at a second place in it.
//!
//! An event names one of them, whichever the check-up met. The others are as dirty as that one, so
//! they become dirty too. A directory that is renamed takes along the mounts below it; the kernel
//! raises no event of the mount table then, so the code that handles the rename reads the table
//! again.

use crate::dirty::Seen;
use crate::path::{self, RelPath, is_at_or_below};

/// A filesystem's directory (or file) as it is seen below the source.
pub(super) struct Shown<'a> {
    /// Where.
    pub(super) at: RelPath,
    pub(super) dev: (u32, u32),
    /// Which directory of the filesystem, from its root.
    pub(super) dir: &'a [u8],
}

/// Pairs of paths that show the same, and where something is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Aliases {
    pairs: Vec<(RelPath, RelPath)>,
    mounts: Vec<RelPath>,
}

/// What is left of `dir` below `above`; empty where they are one.
fn below<'d>(dir: &'d [u8], above: &[u8]) -> Option<&'d [u8]> {
    let rest = dir.strip_prefix(above.strip_suffix(b"/").unwrap_or(above))?;
    match rest {
        b"" | b"/" => Some(b""),
        _ => rest.strip_prefix(b"/"),
    }
}

fn joined(at: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut out = at.to_vec();
    if !rest.is_empty() {
        path::push(&mut out, rest);
    }
    out
}

impl Aliases {
    /// Those among what is shown below the source.
    pub(super) fn among(shown: &[Shown<'_>]) -> Aliases {
        let mut pairs = Vec::new();
        for (n, one) in shown.iter().enumerate() {
            for (m, other) in shown.iter().enumerate() {
                let Some(rest) = below(one.dir, other.dir).filter(|_| n != m && one.dev == other.dev) else { continue };
                let at = RelPath::from_normal(joined(&other.at, rest));
                let pair = if at <= one.at { (at, one.at.clone()) } else { (one.at.clone(), at) };
                if pair.0 != pair.1 && !pairs.contains(&pair) {
                    pairs.push(pair);
                }
            }
        }
        Aliases { pairs, mounts: Vec::new() }
    }

    /// Where something is mounted, mirrored or not.
    pub(super) fn mounted_at<'a>(&mut self, places: impl Iterator<Item = &'a RelPath>) {
        self.mounts = places.cloned().collect();
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Gives `out` the other names of what was seen at `path`. A directory that came or went above
    /// one of them stands for it.
    pub(super) fn others(&self, path: &[u8], seen: Seen, out: &mut dyn FnMut(&[u8], Seen)) {
        let whole = matches!(
            seen.plain(),
            Seen::MovedDir | Seen::ArrivedDir | Seen::GoneDir | Seen::LeftDir | Seen::Subtree | Seen::Contents | Seen::CreatedDir
        );
        for (one, other) in self.pairs.iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
            if let Some(rest) = at_or_below(path, one) {
                out(&joined(other, rest), seen.plain());
            } else if whole && is_at_or_below(one, path) {
                out(other, Seen::Subtree);
            }
        }
    }

    /// Whether a directory that moved or went at `path` changes what is an alias of what, or where
    /// something is mounted.
    pub(super) fn change_with(&self, path: &[u8], seen: Seen) -> bool {
        let above = |at: &RelPath| is_at_or_below(at, path);
        matches!(seen.plain(), Seen::MovedDir | Seen::GoneDir)
            && (self.pairs.iter().any(|(a, b)| above(a) || above(b)) || self.mounts.iter().any(above))
    }
}

fn at_or_below<'p>(path: &'p [u8], above: &[u8]) -> Option<&'p [u8]> {
    if above.is_empty() {
        return Some(path);
    }
    is_at_or_below(path, above).then(|| path.get(above.len() + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(list: &[(&'static str, u32, &'static str)]) -> Aliases {
        let shown: Vec<Shown<'_>> = list
            .iter()
            .map(|(at, dev, dir)| Shown { at: RelPath::from_normal(*at), dev: (8, *dev), dir: dir.as_bytes() })
            .collect();
        Aliases::among(&shown)
    }

    fn others(aliases: &Aliases, path: &str, seen: Seen) -> Vec<String> {
        let mut found = Vec::new();
        aliases.others(path.as_bytes(), seen, &mut |path, _| found.push(String::from_utf8(path.to_vec()).unwrap()));
        found.sort();
        found
    }

    #[test]
    fn every_place_is_told() {
        // The source is /data/src of one filesystem; a of it is bound on b, x/y/f on g, another
        // filesystem on m and n.
        let a = shown(&[
            ("", 1, "/data/src"),
            ("b", 1, "/data/src/a"),
            ("g", 1, "/data/src/x/y/f"),
            ("out", 1, "/data/out"),
            ("m", 2, "/"),
            ("n", 2, "/sub"),
        ]);
        for (path, seen, want) in [
            ("a/f", Seen::Written, &["b/f"][..]),
            ("b/d/f", Seen::Written, &["a/d/f"]),
            ("a", Seen::Touched, &["b"]),
            ("x/y/f", Seen::Written, &["g"]),
            ("g", Seen::Written, &["x/y/f"]),
            ("x", Seen::GoneDir, &["g"]),
            ("x", Seen::Touched, &[]),
            ("ab/f", Seen::Written, &[]),
            ("out/f", Seen::Written, &[]),
            ("m/sub/f", Seen::Written, &["n/f"]),
            ("m/f", Seen::Written, &[]),
            ("n/f", Seen::Written, &["m/sub/f"]),
            ("", Seen::Subtree, &["a", "b", "g", "m/sub", "n", "x/y/f"]),
        ] {
            assert_eq!(others(&a, path, seen), want, "{path} {seen:?}");
        }
        assert!(a.change_with(b"x", Seen::MovedDir) && a.change_with(b"a", Seen::GoneDir) && !a.change_with(b"q", Seen::GoneDir));
    }

    #[test]
    fn a_directory_above_a_mount_takes_it_along() {
        let mut a = shown(&[("", 1, "/data/src")]);
        a.mounted_at([RelPath::from_normal("c/proc"), RelPath::from_normal("d/e/disk")].iter());
        for (path, seen, want) in [
            ("d", Seen::LeftDir, true),
            ("d/e", Seen::GoneDir, true),
            ("c", Seen::MovedDir, true),
            ("c", Seen::Touched, false),
            ("d/e", Seen::CreatedDir, false),
            ("d/e/disk/f", Seen::GoneDir, false),
            ("dd", Seen::GoneDir, false),
        ] {
            assert_eq!(a.change_with(path.as_bytes(), seen), want, "{path} {seen:?}");
        }
    }

    #[test]
    fn the_same_twice_and_one_within_itself() {
        let a = shown(&[("", 1, "/"), ("c", 1, "/e"), ("d", 1, "/e")]);
        assert_eq!(others(&a, "e/f", Seen::Written), ["c/f", "d/f"]);
        assert_eq!(others(&a, "c/f", Seen::Written), ["d/f", "e/f"]);
        let own = shown(&[("", 1, "/src"), ("a/self", 1, "/src")]);
        assert_eq!(others(&own, "x", Seen::Written), ["a/self/x"]);
        assert_eq!(others(&own, "a/self/x", Seen::Written), ["a/self/a/self/x", "x"]);
        assert!(shown(&[("", 1, "/src"), ("m", 2, "/")]).is_empty());
    }

    #[test]
    fn half_a_rename_is_no_rename_at_the_other_place() {
        let a = shown(&[("", 1, "/src"), ("b", 1, "/src/a")]);
        for (path, seen, want) in [
            ("a/f", Seen::Left, ("b/f", Seen::Gone)),
            ("a/f", Seen::Arrived, ("b/f", Seen::Replaced)),
            ("a/d", Seen::ArrivedDir, ("b/d", Seen::MovedDir)),
            ("a/d", Seen::DirTimes, ("b/d", Seen::Touched)),
            // Of the whole place it is not known what of it came.
            ("", Seen::Subtree, ("a", Seen::Subtree)),
        ] {
            let mut found = Vec::new();
            a.others(path.as_bytes(), seen, &mut |path, seen| found.push((String::from_utf8(path.to_vec()).unwrap(), seen)));
            assert!(found.contains(&(want.0.to_owned(), want.1)), "{path} {seen:?}: {found:?}");
        }
    }
}
