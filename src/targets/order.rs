//! Which symbolic links leave after what they lead to. What waits, and until when, is the dirty
//! set's ([`crate::dirty`]); here their texts are read.
//!
//! Only links that are in a batch anyway are read, at the last check of the disk before it leaves:
//! a tree without links pays nothing. Where a batch holds many, those nearest to the top are read,
//! since it is these that lead into trees.
//!
//! Gives up: a link that a comparison finds (the whole tree, a subtree, one level) is sent in the
//! order in which rsync goes through the tree.

use std::collections::BTreeSet;

use nix::fcntl::readlinkat;

use super::linked::path_and_above;
use super::*;
use crate::dirty::{LinkRead, Needs};
use crate::sync::below::open_below;
use std::os::unix::ffi::OsStrExt;

/// Links that are read for one batch.
const MAX_READ: usize = 200;

/// Where a link leads, by its text alone. `below_root`: of an absolute text, what follows the
/// source's own path. `None` where it is not to wait: it leads out of the source, to its top, to
/// itself, or to a directory that it lies in.
fn destination(link: &[u8], text: &[u8], below_root: Option<&[u8]>) -> Option<RelPath> {
    let (from, text) = match text.first()? {
        b'/' => (&b""[..], below_root?),
        _ => (path::parent(link)?, text),
    };
    let mut at: Vec<&[u8]> = from.split(|&b| b == b'/').filter(|name| !name.is_empty()).collect();
    for name in text.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => _ = at.pop()?,
            name => at.push(name),
        }
    }
    let dest = RelPath::from_normal(at.join(&b'/'));
    (!path::is_at_or_below(link, &dest)).then_some(dest)
}

impl Target {
    /// Takes out of a batch the links that have to wait.
    pub(super) fn order_links(&mut self, cx: &Context<'_>, batch: &mut Batch, normal: &Normal) {
        if batch.round > 0 {
            return;
        }
        let links: BTreeMap<&[u8], FileTime> = normal
            .items
            .iter()
            .filter_map(|item| match item.state {
                Look::Present(stat) if stat.mode & libc::S_IFMT == libc::S_IFLNK => Some((&*item.path, stat.ctime)),
                _ => None,
            })
            .collect();
        let depth = |path: &[u8]| path.iter().filter(|&&b| b == b'/').count();
        let mut found: Vec<(usize, usize)> = (0..batch.entries.len())
            .filter(|&n| batch.entries[n].kind == Kind::Entry && links.contains_key(&*batch.entries[n].path))
            .map(|n| (depth(&batch.entries[n].path), n))
            .collect();
        found.sort_unstable();
        found.truncate(MAX_READ);
        // Those below first: what leads to them waits for them.
        let mut waits = BTreeSet::new();
        for &(_, n) in found.iter().rev() {
            let entry = &batch.entries[n];
            let ctime = links[&*entry.path];
            let Some(dest) = read(cx.root, &entry.path) else { continue };
            let read = LinkRead { dest, version: (ctime.secs, ctime.nanos) };
            let in_flight = |needs: &Needs<'_>| {
                let own = (0..batch.entries.len()).any(|m| m != n && !waits.contains(&m) && needs.has(&batch.entries[m]));
                let runs = self.runs.batches().filter(|b| b.round == 0);
                let others = runs.filter(|b| b.entries.iter().any(|e| needs.has(e))).map(|b| b.id);
                others.chain(own.then_some(batch.id)).collect()
            };
            if self.ledger.set.order_link(batch.id, entry, read, in_flight) {
                waits.insert(n);
            }
        }
        if !waits.is_empty() {
            let mut at = 0..;
            batch.entries.retain(|_| at.next().is_none_or(|n| !waits.contains(&n)));
        }
        self.keep_deletions(batch, &normal.items);
    }

    /// Takes out of a batch what would delete beside the destination of a link that waits: what was
    /// deleted by the events, and what is missing by now although they say something else of it.
    fn keep_deletions(&mut self, batch: &mut Batch, items: &[normal::Item]) {
        if !self.ledger.set.orders() {
            return;
        }
        let missing = items.iter().filter(|item| item.state == Look::Missing).map(|item| &*item.path);
        let missing: BTreeSet<&[u8]> = missing.collect();
        let (id, set) = (batch.id, &self.ledger.set);
        let mut kept: Vec<(Entry, RelPath)> = Vec::new();
        for entry in std::mem::take(&mut batch.entries) {
            let deletes = path_and_above(&entry.path).find(|at| missing.contains(at));
            let deletes = deletes.or(entry.gone.then_some(&*entry.path));
            match deletes.filter(|path| set.waits_for_link(id, &entry, path)).map(RelPath::from_normal) {
                Some(path) => kept.push((entry, path)),
                None => batch.entries.push(entry),
            }
        }
        for (mut entry, path) in kept {
            // It waits as what it is: what is above it is what goes. The set would let an entry
            // below the destination leave at once, to be found missing again without an end.
            entry.gone = true;
            if path != entry.path {
                let mut above = self.ledger.set.parked(path, entry.epoch());
                (above.gone, above.content, above.through) = (true, entry.content, entry.through);
                self.ledger.set.park(id, std::slice::from_ref(&entry));
                self.ledger.forget(vec![entry]);
                self.ledger.set.restore(above);
                continue;
            }
            self.ledger.turn(id, entry);
        }
    }

    /// Lets links go whose time has come.
    pub(super) fn release_links(&mut self, now: Duration) {
        if !self.ledger.set.orders() {
            return;
        }
        let flying: BTreeSet<BatchId> = self.runs.batches().map(|batch| batch.id).collect();
        let large = &self.ledger.large;
        let parked = |needs: &Needs<'_>| large.entries().any(|e| needs.has(e));
        if self.ledger.set.release_links(&|id| flying.contains(&id), &parked) {
            self.schedule.pace.waits(now);
        }
    }
}

/// Reads a link without following any above it.
fn read(root: &Root, path: &RelPath) -> Option<RelPath> {
    let dir = open_below(root, path::parent(path)?).ok()?;
    let text = readlinkat(&dir, std::ffi::OsStr::from_bytes(path::base(path))).ok()?;
    destination(path, text.as_bytes(), root.strip(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The event of a directory that is missing on the disk may not have been read yet.
    #[test]
    fn what_is_kept_does_not_leave_again_before_the_link() {
        let cfg = config::Target::new("t", crate::location::Location::parse("host:/dir").unwrap());
        // The link itself may be in the batch once more.
        for (below, left) in [("p/x/y", 2), ("p/x", 2), ("p/l", 1)] {
            let mut target = Target::new(0, &Mirror::new("m", "/src"), &cfg, &RsyncFacts::default());
            let all = Limits { max_paths: 100, ignore_holds: true };
            let set = &mut target.ledger.set;
            set.see(b"p/l", Seen::Replaced);
            let link = set.take_shallow(all, &mut |_, _| false).unwrap();
            set.see(b"p/x/y", Seen::Written);
            let read = LinkRead { dest: RelPath::new(b"p/x").unwrap(), version: (1, 0) };
            assert!(set.order_link(link.id, &link.entries[0], read, |_| Default::default()));
            set.see(below.as_bytes(), Seen::Written);
            let mut batch = set.take_shallow(all, &mut |_, _| false).unwrap();
            let missing = normal::Item { path: RelPath::new(b"p").unwrap(), kind: Kind::Entry, state: Look::Missing };
            target.keep_deletions(&mut batch, &[missing]);
            assert!(batch.entries.is_empty(), "{below}");
            let set = &mut target.ledger.set;
            assert!(set.take_shallow(all, &mut |_, _| false).is_none(), "{below}");
            assert_eq!(set.epochs().total(), left, "{below}: the deletion, and the link");
        }
    }

    /// What lies at a path: nothing, a file, a directory, or a link that leads to another path.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Lies {
        Nowhere,
        File,
        Dir,
        Link(&'static str),
    }

    const NAMES: [&str; 12] = ["a", "b", "d", "e", "a/b", "b/x", "e/b", "e/b/b", "d/a", "d/b", "a/b/x", "b/x/y"];

    /// Whatever happens to links, to what they lead to and to what lies beside them: once nothing
    /// changes any more, all of it leaves.
    #[test]
    fn all_leaves_in_the_end() {
        for seed in 0..5_000 {
            if let Err(stuck) = history(seed) {
                panic!("seed {seed}: {stuck}");
            }
        }
    }

    fn history(seed: u64) -> Result<(), String> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let cfg = config::Target::new("t", crate::location::Location::parse("host:/dir").unwrap());
        let mut target = Target::new(0, &Mirror::new("m", "/src"), &cfg, &RsyncFacts::default());
        let mut lie: BTreeMap<&str, Lies> = BTreeMap::new();
        let mut flying: Vec<Batch> = Vec::new();
        let mut story = String::new();
        let (steps, mut idle) = (rng.usize(5..60), 0);
        for step in 0..steps + 400 {
            let change = step < steps && rng.u8(..3) > 0;
            if change {
                let name = NAMES[rng.usize(..NAMES.len())];
                let lies = match rng.u8(..5) {
                    0 => Lies::Nowhere,
                    1 => Lies::File,
                    2 => Lies::Dir,
                    _ => Lies::Link(NAMES[rng.usize(..NAMES.len())]),
                };
                let parent = name.rsplit_once('/').map(|(at, _)| at);
                // An event of what is below may come first.
                if parent.is_some_and(|at| lie.get(at) != Some(&Lies::Dir)) && rng.u8(..4) > 0 {
                    continue;
                }
                let before = lie.insert(name, lies).unwrap_or(Lies::Nowhere);
                if lies != Lies::Dir {
                    let below: Vec<&str> = lie.keys().copied().filter(|at| at.starts_with(&format!("{name}/"))).collect();
                    below.into_iter().for_each(|at| _ = lie.insert(at, Lies::Nowhere));
                }
                let set = &mut target.ledger.set;
                let gone = if before == Lies::Dir { Seen::GoneDir } else { Seen::Gone };
                if before != Lies::Nowhere {
                    set.see(name.as_bytes(), gone);
                }
                match lies {
                    Lies::Nowhere => set.see(name.as_bytes(), gone),
                    Lies::File => set.see(name.as_bytes(), Seen::Written),
                    Lies::Dir => set.see(name.as_bytes(), if rng.bool() { Seen::CreatedDir } else { Seen::MovedDir }),
                    Lies::Link(_) => set.see(name.as_bytes(), Seen::Replaced),
                }
                story += &format!("{name} is {lies:?}; ");
                continue;
            }
            let mut moved = false;
            if !flying.is_empty() && (step >= steps || rng.bool()) {
                let batch = flying.swap_remove(rng.usize(..flying.len()));
                target.ledger.set.confirm(batch.id, batch.entries);
                story += "one lands; ";
                moved = true;
            }
            let ids: Vec<BatchId> = flying.iter().map(|batch| batch.id).collect();
            target.ledger.set.release_links(&|id| ids.contains(&id), &|_| false);
            let all = Limits { max_paths: 100, ignore_holds: true };
            let taken = match target.ledger.set.take_shallow(all, &mut |_, _| false) {
                Some(batch) => Some(batch),
                None => target.ledger.set.take_deep(all),
            };
            if let Some(mut batch) = taken {
                story += &format!("taken {:?}; ", batch.entries.iter().map(|e| e.path.to_string()).collect::<Vec<_>>());
                let items = items(&lie, &batch);
                order(&mut target, &lie, &mut batch, &flying);
                target.keep_deletions(&mut batch, &items);
                story += &format!("left {:?}; ", batch.entries.iter().map(|e| e.path.to_string()).collect::<Vec<_>>());
                moved |= !batch.entries.is_empty();
                if !batch.entries.is_empty() {
                    flying.push(batch);
                }
            }
            idle = if moved || step < steps { 0 } else { idle + 1 };
            if idle > 20 {
                break;
            }
        }
        match target.ledger.set.epochs().total() {
            0 => Ok(()),
            n => Err(format!("{n} stay, of {lie:?}: {story}")),
        }
    }

    /// As [`Target::order_links`], with links that are made up.
    fn order(target: &mut Target, lie: &BTreeMap<&str, Lies>, batch: &mut Batch, flying: &[Batch]) {
        let mut waits = BTreeSet::new();
        let links: Vec<usize> = (0..batch.entries.len()).filter(|&n| batch.entries[n].kind == Kind::Entry).collect();
        for n in links.into_iter().rev() {
            let entry = &batch.entries[n];
            let path = entry.path.to_string();
            let Some(Lies::Link(to)) = lie.get(&*path) else { continue };
            let dest = RelPath::from_normal(*to);
            if path::is_at_or_below(&entry.path, &dest) {
                continue;
            }
            let read = LinkRead { dest, version: (to.len() as i64, to.as_bytes()[0].into()) };
            let in_flight = |needs: &Needs<'_>| {
                let own = (0..batch.entries.len()).any(|m| m != n && !waits.contains(&m) && needs.has(&batch.entries[m]));
                let others = flying.iter().filter(|b| b.entries.iter().any(|e| needs.has(e))).map(|b| b.id);
                others.chain(own.then_some(batch.id)).collect()
            };
            if target.ledger.set.order_link(batch.id, entry, read, in_flight) {
                waits.insert(n);
            }
        }
        let mut at = 0..;
        batch.entries.retain(|_| at.next().is_none_or(|n| !waits.contains(&n)));
    }

    fn items(lie: &BTreeMap<&str, Lies>, batch: &Batch) -> Vec<normal::Item> {
        let missing = |path: &str| path != "." && lie.get(path).is_none_or(|lies| *lies == Lies::Nowhere);
        let of = |entry: &Entry| {
            // The nearest that is missing stands for what is below it.
            let path = entry.path.to_string();
            let at = path.match_indices('/').map(|(at, _)| &path[..at]).find(|at| missing(at));
            let at = at.or(missing(&path).then_some(&*path))?;
            Some(normal::Item { path: RelPath::from_normal(at), kind: Kind::Entry, state: Look::Missing })
        };
        batch.entries.iter().filter_map(of).collect()
    }

    #[test]
    fn where_a_text_leads() {
        for (link, text, dest) in [
            ("current", "releases/7", Some("releases/7")),
            ("app/current", "releases/7/", Some("app/releases/7")),
            ("app/current", "./releases//7/.", Some("app/releases/7")),
            ("app/current", "../other/7", Some("other/7")),
            ("app/current", "/srv/www/app/releases/7", Some("app/releases/7")),
            ("app/current", "/srv/www/app/x/../releases/7", Some("app/releases/7")),
            ("lib/libx.so", "libx.so.1", Some("lib/libx.so.1")),
            // To itself, above itself, to the top, out of the source.
            ("a", "a", None),
            ("a", "./a/b/..", None),
            ("app/sub/up", "..", None),
            ("app/sub/up", ".", None),
            ("app/up", "/srv/www", None),
            ("app/up", "/srv/www/app", None),
            ("app/up", "../..", None),
            ("up", "../www/x", None),
            ("app/up", "/srv/www/../x", None),
            ("app/out", "/srv/wwwx/y", None),
            ("out", "/etc/passwd", None),
            ("none", "", None),
        ] {
            let below = text.strip_prefix("/srv/www").filter(|rest| rest.is_empty() || rest.starts_with('/'));
            let found = destination(link.as_bytes(), text.as_bytes(), below.map(str::as_bytes));
            assert_eq!(found.map(|d| d.to_string()).as_deref(), dest, "{link} -> {text}");
        }
    }
}
