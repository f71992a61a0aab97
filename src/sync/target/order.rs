//! Which symbolic links leave after what they lead to. What waits, and until when, is the dirty
//! set's
//! ([`crate::dirty`]); here their texts are read.
//!
//! Only links that are in a batch anyway are read, at the last look at the disk before it leaves:
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
                let runs = self.runs.values().filter_map(|r| match &r.load {
                    Load::Batch(b) if b.round == 0 => Some(b),
                    _ => None,
                });
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
        self.keep_deletions(batch, normal);
    }

    /// Takes out of a batch what would delete beside the destination of a link that waits: what was
    /// deleted by the events, and what is missing by now although they say something else of it.
    fn keep_deletions(&mut self, batch: &mut Batch, normal: &Normal) {
        if !self.ledger.set.orders() {
            return;
        }
        let missing = normal.items.iter().filter(|item| item.state == Look::Missing).map(|item| &*item.path);
        let missing: BTreeSet<&[u8]> = missing.collect();
        let (id, set) = (batch.id, &self.ledger.set);
        let keeps = |entry: &mut Entry| {
            let deletes = path_and_above(&entry.path).find(|at| missing.contains(at));
            let deletes = deletes.or(entry.gone.then_some(&*entry.path));
            deletes.is_some_and(|path| set.waits_for_link(id, entry, path))
        };
        let kept: Vec<Entry> = batch.entries.extract_if(.., keeps).collect();
        for mut entry in kept {
            // It waits as what it is.
            entry.gone = true;
            self.ledger.turn(id, entry);
        }
    }

    /// Lets links go whose time has come.
    pub(super) fn release_links(&mut self, now: Duration) {
        if !self.ledger.set.orders() {
            return;
        }
        let flying: BTreeSet<BatchId> = self.batches().map(|(_, batch)| batch.id).collect();
        let large = &self.ledger.large;
        let parked = |needs: &Needs<'_>| large.entries().any(|e| needs.has(e));
        if self.ledger.set.release_links(&|id| flying.contains(&id), &parked) {
            self.pace.waits(now);
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
