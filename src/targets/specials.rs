//! Where hard links are kept: FIFOs, sockets, device nodes and symbolic links whose name is another
//! file now.
//!
//! rsync writes a regular file under a temporary name, which parts it from the names that it was
//! linked to on the target. Of anything else that is as it should be by type, number or text, it
//! sets owner, mode and times in place, and so on every name that is linked there (3.5.0). So such
//! a name is removed from the target first, and sent by the next run: the removal is that of an old
//! name of a rename ([`super::renames`]).
//!
//! A name is another file where it was sent as one inode and leads to another now; that is known of
//! what this target was sent by lists, and of what walks over the source found. Of a name of which
//! nothing is known it follows from its events: it was deleted or moved here. A symbolic link of
//! which nothing is known is sent in place: these are replaced all the time, and hardly ever have
//! two names.
//!
//! Gives up: where names cannot be removed by themselves (see [`Target::removes_by_name`]) they are
//! sent as without.

use super::linked::path_and_above;
use super::renames::removable;
use super::*;
use crate::links::Inode;

/// Names of which something is known; of more, nothing is.
const MOST: usize = 100_000;

/// What is known of a name on the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It was sent as this file, or found to be it by a walk.
    As(Inode),
    /// It was sent as this file, and led to nothing, or to a file or directory, since. What rsync
    /// met under it may have been yet another one.
    /// `None`: nor is it known what it was sent as.
    Left(Option<Inode>),
    /// It was removed to be sent anew.
    Removed,
}

impl Known {
    /// What the target may hold under the name.
    fn inode(self) -> Option<Inode> {
        match self {
            Known::As(inode) => Some(inode),
            Known::Left(was) => was,
            Known::Removed => None,
        }
    }
}

/// How a name is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Send,
    RemoveFirst,
}

/// `replaced`: its events say that it may be another file than the target has under this name.
fn step(known: Option<Known>, now: Inode, symlink: bool, replaced: bool) -> Step {
    let other = match known {
        Some(Known::As(sent)) => sent != now,
        Some(Known::Left(_)) => true,
        Some(Known::Removed) => false,
        None => replaced && !symlink,
    };
    if other { Step::RemoveFirst } else { Step::Send }
}

/// What is known of the special names of one target; those that never had a second name and were
/// never replaced are not in it.
#[derive(Default)]
pub(super) struct Specials {
    known: BTreeMap<RelPath, Known>,
}

impl Specials {
    /// A walk found that these names, of files with several names, lead there.
    pub(super) fn found(&mut self, names: &[(RelPath, Inode)]) {
        for (name, inode) in names {
            if !self.known.contains_key(name) {
                self.put(name, *inode);
            }
        }
    }

    /// The name is not on the target any more, or it cannot be removed from it and is sent in
    /// place.
    pub(super) fn removed(&mut self, name: &RelPath) {
        self.known.insert(name.clone(), Known::Removed);
    }

    /// The name was to be removed from the target, and its directory was away: the target may have
    /// it still.
    pub(super) fn not_removed(&mut self, name: &RelPath) {
        let was = self.known.get(name).and_then(|known| known.inode());
        self.known.insert(name.clone(), Known::Left(was));
    }

    /// The names that the target may hold linked to these files.
    fn linked_to(&self, files: &BTreeSet<Inode>) -> Vec<RelPath> {
        let names = self.known.iter().filter(|(_, known)| matches!(known, Known::As(inode) if files.contains(inode)));
        names.map(|(name, _)| name.clone()).collect()
    }

    fn put(&mut self, name: &RelPath, inode: Inode) {
        if self.known.len() >= MOST {
            self.known.retain(|_, known| matches!(known, Known::As(_)));
        }
        if self.known.len() < MOST || self.known.contains_key(name) {
            self.known.insert(name.clone(), Known::As(inode));
        }
    }

    /// The name leads to nothing of its kind any more. `below`: nor does any below it.
    fn leaves(&mut self, path: &[u8], below: bool) {
        if !self.known.is_empty() {
            let names = self.at_and_below(path).filter(|(name, _)| below || **name == *path);
            let left = names.filter_map(|(name, known)| match known {
                Known::As(inode) => Some((name, Known::Left(Some(inode)))),
                Known::Left(_) | Known::Removed => None,
            });
            let left: Vec<_> = left.collect();
            self.known.extend(left);
        }
    }

    /// A batch leaves that has no name to be removed first.
    fn go(&mut self, plan: Plan) {
        plan.left.iter().for_each(|(name, below)| self.leaves(name, *below));
        plan.sent.iter().for_each(|(name, inode)| self.put(name, *inode));
    }

    fn at_and_below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = (RelPath, Known)> + 'a {
        let mut from = path.to_vec();
        if !path.is_empty() {
            from.push(b'/');
        }
        let below = self.known.range::<[u8], _>((std::ops::Bound::Included(&*from), std::ops::Bound::Unbounded));
        let below = below.take_while(move |(name, _)| path::is_at_or_below(name, path));
        let own = self.known.get_key_value(path).filter(|_| !path.is_empty());
        own.into_iter().chain(below).map(|(name, known)| (name.clone(), *known))
    }
}

/// What a batch does with its special names.
#[derive(Default)]
struct Plan {
    first: Vec<RelPath>,
    sent: Vec<(RelPath, Inode)>,
    /// Names that lead to nothing of the kind; `true`: so does all below them.
    left: Vec<(RelPath, bool)>,
}

impl Plan {
    fn add(&mut self, specials: &Specials, name: &RelPath, look: Look, replaced: bool) {
        let known = specials.known.get(name).copied();
        match look {
            // Where a directory has the name, what is below it is what it was.
            Look::Present(stat) if stat.is_dir() => self.left.push((name.clone(), false)),
            Look::Present(stat) if stat.is_file() => self.left.push((name.clone(), true)),
            Look::Present(stat) => {
                let now = (stat.dev, stat.ino);
                match step(known, now, stat.is_symlink(), replaced) {
                    Step::RemoveFirst if removable(name) => self.first.push(name.clone()),
                    _ if known.is_some() || stat.nlink > 1 => self.sent.push((name.clone(), now)),
                    _ => {}
                }
            }
            Look::Missing => self.left.push((name.clone(), true)),
            Look::Unreadable(_) => {}
        }
    }
}

impl Target {
    /// Whether one name can be removed from the target by a run of its own, to be sent again.
    pub(super) fn removes_by_name(&self) -> bool {
        self.deletes() && self.link.missing_args && self.args.excludes_only() && !self.keeps_aside()
    }

    /// Before a batch leaves: whether names in it, or below its directories, have to be removed
    /// from the target first. These are noted, and the batch has to be given back; what is near
    /// them does not leave before they are gone.
    pub(super) fn removes_first(&mut self, cx: &mut Context<'_>, entries: &[Entry], items: &[normal::Item]) -> bool {
        if cx.links.is_none() || !self.removes_by_name() {
            return false;
        }
        let mut plan = Plan::default();
        // What was read and waits for other names of its file is not in the batch any more.
        let found: BTreeMap<&[u8], &normal::Item> = items.iter().map(|item| (&*item.path, item)).collect();
        let mut here: BTreeMap<&[u8], (Look, bool)> = BTreeMap::new();
        for entry in entries {
            if let Some(item) = path_and_above(&entry.path).find_map(|at| found.get(at)) {
                let replaced = &mut here.entry(&item.path).or_insert((item.state, false)).1;
                *replaced |= item.path == entry.path && entry.is_replaced();
            }
        }
        for (name, (state, replaced)) in here.iter().filter(|(name, _)| !cx.filter.excludes(name, false)) {
            plan.add(&self.hard_links.specials, &RelPath::from_normal(*name), *state, *replaced);
        }
        // A directory that is compared with what is in it: what is known of that.
        let mut inside: BTreeMap<RelPath, Kind> = BTreeMap::new();
        for entry in entries.iter().filter(|e| e.kind > Kind::Entry) {
            let names = self.hard_links.specials.at_and_below(&entry.path).map(|(name, _)| name);
            let deep = entry.kind == Kind::Subtree;
            inside.extend(names.filter(|n| deep || path::parent(n) == Some(&entry.path)).map(|name| (name, Kind::Entry)));
        }
        if !inside.is_empty() {
            let paths: Vec<(RelPath, Kind)> = inside.into_iter().collect();
            // Where the root does not answer, the run itself finds out.
            let Ok(normalised) = normal::normalise(std::os::fd::AsFd::as_fd(cx.root), &paths, cx.statter) else { return false };
            let found: BTreeMap<&[u8], Look> = normalised.items.iter().map(|item| (&*item.path, item.state)).collect();
            for (name, _) in &paths {
                // One that is not listed lies below something that is missing or no directory.
                plan.add(&self.hard_links.specials, name, found.get(&**name).copied().unwrap_or(Look::Missing), false);
            }
        }
        if plan.first.is_empty() {
            self.hard_links.specials.go(plan);
            return false;
        }
        // Between the last check of a name and the run that carried it, it may have become another
        // file already: then that run set attributes of the one on all names of the other.
        let was = plan.first.iter().filter_map(|name| self.hard_links.specials.known.get(name)?.inode());
        let was: BTreeSet<Inode> = was.collect();
        let since = entries.iter().map(Entry::epoch).min();
        for name in self.hard_links.specials.linked_to(&was).iter().filter(|name| !plan.first.contains(name)) {
            match since {
                Some(since) => self.ledger.set.see_since(name, Seen::Touched, since),
                None => self.ledger.set.see(name, Seen::Touched),
            }
        }
        plan.first.into_iter().for_each(|name| self.ledger.set.link(name, false));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::samples::{A, B, p};

    #[test]
    fn which_names_are_removed_before_they_are_sent() {
        use Step::{RemoveFirst, Send};
        // Of whether it is a symbolic link, and whether it was replaced: no no, no yes, yes no, yes
        // yes.
        for (known, want) in [
            (None, [Send, RemoveFirst, Send, Send]),
            (Some(Known::As(A)), [Send; 4]),
            (Some(Known::As(B)), [RemoveFirst; 4]),
            (Some(Known::Left(Some(A))), [RemoveFirst; 4]),
            (Some(Known::Removed), [Send; 4]),
        ] {
            let got = [(false, false), (false, true), (true, false), (true, true)].map(|(link, re)| step(known, A, link, re));
            assert_eq!(got, want, "{known:?}");
        }
    }

    /// Each list that carries the directory itself would have all names in it removed and sent
    /// anew.
    #[test]
    fn names_in_a_directory_stay_known_where_it_has_the_name_of_a_special_file() {
        let of = |mode, ino| Look::Present(StatBrief { mode, nlink: 2, dev: A.0, ino, ..Default::default() });
        for (what, look, want) in [
            ("a directory", of(libc::S_IFDIR, 5), Known::As(B)),
            ("a file", of(libc::S_IFREG, 5), Known::Left(Some(B))),
            ("nothing", Look::Missing, Known::Left(Some(B))),
        ] {
            let mut specials = Specials::default();
            specials.found(&[(p("d"), A), (p("d/x"), B)]);
            let mut plan = Plan::default();
            plan.add(&specials, &p("d"), look, false);
            specials.go(plan);
            assert_eq!(specials.known[&p("d")], Known::Left(Some(A)), "{what}");
            assert_eq!(specials.known[&p("d/x")], want, "{what}");
        }
    }

    #[test]
    fn what_is_known_of_names() {
        let mut specials = Specials::default();
        specials.found(&[(p("d-e"), A), (p("d/x"), A), (p("e"), B)]);
        specials.leaves(b"d", true);
        specials.found(&[(p("d/x"), B)]);
        let known = |specials: &Specials, name: &str| specials.known.get(&p(name)).copied();
        assert_eq!(known(&specials, "d/x"), Some(Known::Left(Some(A))), "a walk does not know what the target holds");
        assert_eq!(known(&specials, "d-e"), Some(Known::As(A)));
        assert_eq!(specials.linked_to(&[A].into()), [p("d-e")], "names that are not there any more are not sent");
        specials.removed(&p("d/x"));
        specials.put(&p("d/x"), B);
        assert_eq!(known(&specials, "d/x"), Some(Known::As(B)));
    }
}
