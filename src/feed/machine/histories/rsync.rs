//! Trees, and what rsync makes of a list, with and without names that the follower gave.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A tree: names to contents, `None` for a directory. Every parent is there. Some contents are
/// those of symbolic links to a directory ([`is_link`]).
pub(super) type Tree = BTreeMap<RelPath, Option<u32>>;

pub(super) fn below(tree: &Tree, dir: &RelPath) -> Vec<RelPath> {
    tree.keys().filter(|p| *p != dir && path::is_at_or_below(p, dir)).cloned().collect()
}

pub(super) fn remove(tree: &mut Tree, at: &RelPath) {
    for gone in below(tree, at) {
        tree.remove(&gone);
    }
    if !at.is_root() {
        tree.remove(at);
    }
}

pub(super) fn is_link(node: Option<&Option<u32>>) -> bool {
    matches!(node, Some(Some(content)) if content % 3 == 0)
}

/// Makes a name of the follower what it is in the source, without what is below.
fn copy(source: &Tree, copy: &mut Tree, at: &RelPath) {
    let Some(node) = source.get(at) else { return };
    if node.is_some() || copy.get(at).is_some_and(Option::is_some) {
        remove(copy, at);
    }
    copy.insert(at.clone(), *node);
}

/// What rsync does with a list, as it was measured: see the table in `docs/feed.md`.
pub(super) fn pull(source: &Tree, mine: &mut Tree, work: &Work) -> End {
    let mut complaints = Vec::new();
    match work {
        Work::Batch { .. } => panic!("a batch is applied"),
        Work::Whole => *mine = source.clone(),
        Work::List { paths, deletes, deep, .. } => {
            let remove = |mine: &mut Tree, at: &RelPath| {
                if *deletes {
                    remove(mine, at)
                }
            };
            let all_above = |at: &RelPath| {
                let mut above: Vec<RelPath> =
                    std::iter::successors(path::parent(at), |dir| path::parent(dir)).map(RelPath::from_normal).collect();
                above.reverse();
                above
            };
            // What a link leads to is listed in the place of the link, whatever else the list has.
            let followed = |(at, kind): &(RelPath, Kind)| {
                let above = all_above(at).into_iter().chain((*kind == Kind::Contents).then(|| at.clone()));
                above.into_iter().find(|dir| is_link(source.get(dir)))
            };
            let links: BTreeMap<RelPath, RelPath> =
                paths.iter().filter_map(|listed| Some((listed.0.clone(), followed(listed)?))).collect();
            for (at, kind) in paths {
                let above = all_above(at);
                if let Some(link) = links.get(at).or_else(|| links.values().find(|link| *link == at)) {
                    all_above(link).iter().for_each(|p| copy(source, mine, p));
                    if mine.get(link).is_none_or(Option::is_some) {
                        mine.insert(link.clone(), None);
                    }
                    if *deletes && at != link {
                        remove(mine, at);
                    }
                    continue;
                }
                let complain = |path: &RelPath| Complaint { path: path.clone(), absent: true, words: "vanished".into() };
                if above.iter().any(|dir| source.get(dir).is_some_and(Option::is_some)) {
                    complaints.push(complain(at));
                    continue;
                }
                if let Some(gone) = above.iter().find(|dir| !source.contains_key(*dir)) {
                    remove(mine, at);
                    complaints.push(complain(gone));
                    continue;
                }
                if !source.contains_key(at) {
                    match deep {
                        true => complaints.push(complain(at)),
                        false => remove(mine, at),
                    }
                    continue;
                }
                if *kind == Kind::Contents && source[at].is_some() {
                    complaints.push(complain(at));
                    continue;
                }
                above.iter().chain([at]).for_each(|p| copy(source, mine, p));
                let inside = |p: &RelPath| match kind {
                    Kind::Entry => false,
                    Kind::Contents => path::parent(p) == Some(&**at),
                    Kind::Subtree => true,
                };
                for gone in below(mine, at).iter().filter(|p| inside(p) && !source.contains_key(*p)) {
                    assert!(*deletes, "a comparison deletes");
                    remove(mine, gone);
                }
                for there in below(source, at).iter().filter(|p| inside(p)) {
                    copy(source, mine, there);
                }
            }
        }
    }
    if complaints.is_empty() { End::Done } else { End::Partly { complaints, complete: true } }
}

/// Whether a work reaches a name, and what it takes for equal there.
fn reaches(work: &Work, at: &RelPath) -> Option<Trust> {
    let (paths, trust) = match work {
        Work::Whole => return Some(Trust::SizeAndTimes),
        Work::List { paths, trust, .. } => (paths, *trust),
        Work::Batch { .. } => return None,
    };
    let reaches = |(path, kind): &(RelPath, Kind)| match kind {
        Kind::Entry => path == at,
        Kind::Contents => path == at || path::parent(at) == Some(&**path),
        Kind::Subtree => path::is_at_or_below(at, path),
    };
    paths.iter().any(reaches).then_some(trust)
}

/// A run as [`pull`] does it, but for files that were given their names by the follower: whatever
/// they hold, their size and times are those of the source's.
pub(super) fn pull_beside(source: &Tree, mine: &mut Tree, named: &mut BTreeSet<RelPath>, work: &Work) -> End {
    let before = mine.clone();
    let end = pull(source, mine, work);
    let is_file = |tree: &Tree, at: &RelPath| matches!(tree.get(at), Some(Some(_))) && !is_link(tree.get(at));
    named.retain(|at| is_file(mine, at) && is_file(&before, at));
    for at in named.clone() {
        match reaches(work, &at) {
            Some(Trust::SizeAndTimes) => _ = mine.insert(at.clone(), before[&at]),
            Some(_) => _ = named.remove(&at),
            None => {}
        }
    }
    end
}
