//! A bound on the paths that fail: beyond it, directories stand for what fails in them.
//!
//! Promises: what fails goes on being tried, and nothing is forgotten; of very many the names are.
//! The directory with the most of them goes first, so that the failures of others keep their names.
//!
//! Pure.

use std::ops::Range;

use crate::dirty::Kind;
use crate::path::{self, RelPath, tree_order};

/// So many failures are kept, and the reasons with them.
const MAX_FAILURES: usize = 2_000;
/// So many bytes their paths may have.
const MAX_FAILURE_BYTES: usize = 2 * 1024 * 1024;
/// What a failure weighs, in bytes of its path.
const WEIGHT: usize = 512;
/// A directory that weighs less than this part of all is left alone.
const SHARE: usize = 64;

/// Whether failures are to be made fewer.
pub(super) fn too_many(count: usize, bytes: usize) -> bool {
    count > MAX_FAILURES || bytes > MAX_FAILURE_BYTES
}

/// A directory in place of some failures.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stand {
    pub(super) dir: RelPath,
    pub(super) kind: Kind,
    /// Indices of what it stands for.
    pub(super) of: Vec<usize>,
}

/// What is to stand for `failing` so that half the bound is free again. What is in no [`Stand`]
/// stays as it is.
///
/// Each round makes the directory stand that is reached by going down, from the root, to where most
/// of it fails.
pub(super) fn fewer(failing: &[(&RelPath, Kind)]) -> Vec<Stand> {
    let mut left: Vec<Stand> =
        failing.iter().enumerate().map(|(at, (dir, kind))| Stand { dir: (*dir).clone(), kind: *kind, of: vec![at] }).collect();
    left.sort_by(|a, b| tree_order(&a.dir, &b.dir));
    loop {
        let bytes = left.iter().map(|s| s.dir.len()).sum::<usize>();
        if left.len() <= MAX_FAILURES / 2 && bytes <= MAX_FAILURE_BYTES / 2 {
            break;
        }
        let (which, len) = heaviest(&left, weigh(left.iter()) / SHARE);
        let dir = RelPath::from_normal(&left[which.start].dir[..len]);
        let mut stand = Stand { dir, kind: Kind::Contents, of: Vec::new() };
        let at = which.start;
        for below in left.drain(which) {
            let (itself, in_it) = (below.dir == stand.dir, path::parent(&below.dir) == Some(&*stand.dir));
            // One level shows what fails in it by itself, and not what is further down, nor what is
            // below a directory in it.
            if below.kind == Kind::Subtree || !itself && (below.kind > Kind::Entry || !in_it) {
                stand.kind = Kind::Subtree;
            }
            stand.of.extend(below.of);
        }
        left.insert(at, stand);
    }
    left.retain(|stand| stand.of.len() > 1 || *failing[stand.of[0]].0 != stand.dir);
    left
}

fn weigh<'s>(stands: impl Iterator<Item = &'s Stand>) -> usize {
    stands.map(|s| WEIGHT + s.dir.len()).sum()
}

/// The deepest directory of at least this weight that is reached by always going to the heaviest
/// one: what lies in it, and the bytes of its path.
/// `left`: in the order of the tree.
fn heaviest(left: &[Stand], least: usize) -> (Range<usize>, usize) {
    let (mut within, mut len) = (0..left.len(), 0);
    loop {
        let mut best: Option<(usize, Range<usize>, usize)> = None;
        let mut from = within.start;
        while from < within.end {
            let path = &left[from].dir;
            let start = if len == 0 { 0 } else { len + 1 };
            if path.len() < start || path.is_root() {
                from += 1; // the directory itself
                continue;
            }
            let end = memchr::memchr(b'/', &path[start..]).map_or(path.len(), |at| start + at);
            let count = left[from..within.end].iter().take_while(|s| path::is_at_or_below(&s.dir, &path[..end])).count();
            let is_dir = left[from + count - 1].dir.len() > end;
            let weight = weigh(left[from..from + count].iter());
            if is_dir && weight >= least && best.as_ref().is_none_or(|(most, ..)| weight > *most) {
                best = Some((weight, from..from + count, end));
            }
            from += count;
        }
        match best {
            Some((_, range, end)) => (within, len) = (range, end),
            None => return (within, len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_fewer(paths: Vec<(String, Kind)>) -> Vec<(String, Kind, usize)> {
        let paths: Vec<(RelPath, Kind)> = paths.into_iter().map(|(p, kind)| (RelPath::from_normal(p), kind)).collect();
        let failing: Vec<(&RelPath, Kind)> = paths.iter().map(|(p, kind)| (p, *kind)).collect();
        fewer(&failing).into_iter().map(|s| (s.dir.to_string(), s.kind, s.of.len())).collect()
    }

    #[test]
    fn the_directory_with_the_most_stands_for_them_and_others_keep_their_names() {
        use Kind::{Contents, Entry, Subtree};
        let many = |dir: &str, n: usize, kind| (0..n).map(|i| (format!("{dir}/f{i}"), kind)).collect::<Vec<_>>();
        assert_eq!(made_fewer(many("d", 20, Entry)), [], "few are left as they are");
        let of_others = many("other", 20, Entry);
        let all = [many("d", 20_000, Entry), of_others.clone()].concat();
        assert_eq!(made_fewer(all), [("d".into(), Contents, 20_000)]);
        let all = [many("d", 20_000, Entry), vec![("d-".into(), Entry), ("d/sub".into(), Subtree)]].concat();
        assert_eq!(made_fewer(all), [("d".into(), Subtree, 20_001)], "not `d-`, which only begins alike");
        // One in each directory.
        let apart: Vec<_> = (0..20_000).map(|i| (format!("u/{i}/f"), Entry)).collect();
        assert_eq!(made_fewer([apart, of_others].concat()), [("u".into(), Subtree, 20_000)]);
        // Few, of many bytes.
        let long = vec!["d".repeat(200); 19].join("/");
        assert_eq!(made_fewer(many(&long, 1_500, Entry)), [(long, Contents, 1_500)]);
        // Of many users, those with much.
        let users: Vec<_> = (0..10).flat_map(|u| many(&format!("u{u}"), if u < 3 { 5 } else { 2_000 }, Entry)).collect();
        let stands = made_fewer(users);
        assert!(stands.iter().all(|(dir, kind, n)| dir.len() == 2 && *kind == Contents && *n == 2_000), "{stands:?}");
        assert_eq!(made_fewer((0..5_000).map(|i| (format!("{i}"), Entry)).collect()), [(".".into(), Contents, 5_000)]);
    }
}
