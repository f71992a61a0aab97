//! A target that is a feed: a run of it is a record that is published, and the server's
//! acknowledgement is its confirmation. All else, from the dirty set to the restart walk, is as for
//! any target.

use super::guarded::{Prepared, Suspect};
use super::*;
use crate::feed::barriers::Questions;
use crate::feed::batch::{Inline, Making, found, is_small};
use crate::feed::record::{Identity, Item, Record};
use crate::feed::{Publisher, mark};
use crate::sync::publication::Publication;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstatat};

/// See the module's text.
pub(super) struct Feed {
    publisher: Publisher,
    name: String,
    /// Of the source, once it was taken.
    identity: std::cell::Cell<Option<Identity>>,
    /// What was published to followers last.
    held: bool,
    /// What leaves last changed then: all changes up to that go before.
    until: Option<Epoch>,
    /// Something waits for that.
    waits: bool,
    /// Changes with at most so many bytes of content travel in their record.
    inline: u64,
    /// What went to another name and is not published; `None`: followers are not to know.
    renamed: Option<std::cell::RefCell<Renamed>>,
}

/// Names that the source changed, as hints for followers: they judge by content what they make of
/// one.
#[derive(Default)]
struct Renamed {
    /// What left just now.
    left: Option<RelPath>,
    /// Old names with the new ones.
    to: BTreeMap<RelPath, RelPath>,
}

/// Renames that are remembered until they are published.
const MOST_RENAMED: usize = 1_000;
/// Smaller files are pulled or travel in their record: a comparison by content would cost more.
const SMALLEST_FILE: i64 = 256 * 1024;

impl Renamed {
    fn see(&mut self, path: &[u8], seen: Seen) {
        let left = self.left.take();
        match seen {
            Seen::Left | Seen::LeftDir => self.left = Some(RelPath::from_normal(path)),
            Seen::Arrived | Seen::ArrivedDir => {
                let Some(old) = left.filter(|_| self.to.len() < MOST_RENAMED) else { return };
                let new = RelPath::from_normal(path);
                // What came to the old name by a rename went on.
                match self.to.values_mut().find(|to| **to == old) {
                    Some(to) => *to = new,
                    None => _ = self.to.insert(old, new),
                }
            }
            _ => {}
        }
    }

    /// Takes out where what is gone from `path` went, if that is worth a rename.
    fn take(&mut self, root: &Root, path: &RelPath) -> Option<RelPath> {
        let to = self.to.remove(path).filter(|to| to != path)?;
        let found = fstatat(root, to.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        let is = |kind: SFlag| found.st_mode & SFlag::S_IFMT.bits() == kind.bits();
        (is(SFlag::S_IFDIR) || is(SFlag::S_IFREG) && found.st_size >= SMALLEST_FILE).then_some(to)
    }
}

impl Feed {
    pub(super) fn status(&self) -> status::Feed {
        self.publisher.status()
    }
}

/// What of a mirror and a target holds for a feed; `None` for other targets. What rsync does on a
/// target by itself (links, a bound on deletions) a follower does, or none.
pub(super) fn plain(mirror: &Mirror, cfg: &config::Target) -> Option<(Mirror, config::Target)> {
    if !cfg.location.is_feed() {
        return None;
    }
    let extras = config::Extras { hard_links: false, ..mirror.extras };
    let mirror = Mirror { max_delete: None, extras, ..mirror.clone() };
    Some((mirror, config::Target { max_delete: None, jobs: 1, small_jobs: 1, standby: 0, ..cfg.clone() }))
}

impl Target {
    pub(super) fn is_feed(&self) -> bool {
        self.cfg.location.is_feed()
    }

    /// Starts the threads of a feed of the source `root`. `state_dir`: where state is kept; without
    /// one no batch is written.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start_feed(&mut self, root: &Root, state_dir: Option<&Path>) -> std::io::Result<()> {
        let (crate::location::Location::Feed { feed, .. }, Some(keys)) = (&self.cfg.location, &self.cfg.feed) else {
            return Ok(());
        };
        let kept = state_dir.map(|dir| (dir, self.mirror.source.as_path()));
        let making = state_dir.filter(|_| keys.inline > 0).map(|dir| Making {
            rsync: self.mirror.rsync.clone(),
            facts: self.args.facts.clone(),
            extras: self.mirror.extras,
            source: root.path().to_owned(),
            dir: dir.join(&self.mirror.name).join(format!("batch-{feed}")),
        });
        let inline = if making.is_some() { keys.inline } else { 0 };
        let renames = self.mirror.send_renames;
        let publisher = Publisher::start(&self.cfg.location, keys, &self.mirror.name, kept, making)?;
        self.feed = Some(Feed {
            publisher,
            name: feed.clone(),
            identity: Default::default(),
            held: false,
            until: None,
            waits: false,
            inline,
            renamed: renames.then(Default::default),
        });
        Ok(())
    }

    /// Questions of the feed's followers.
    pub(crate) fn questions(&self) -> Option<Questions> {
        Some(self.feed.as_ref()?.publisher.questions())
    }

    /// Something was seen: if it is one half of a rename, followers may rename it, too.
    pub(super) fn note_renamed(&mut self, path: &[u8], seen: Seen) {
        if let Some(renamed) = self.feed.as_mut().and_then(|feed| feed.renamed.as_mut()) {
            renamed.get_mut().see(path, seen);
        }
    }

    /// Whether a path is published after all that changed before it.
    fn leaves_last(&self, path: &[u8]) -> bool {
        self.cfg.feed.as_ref().is_some_and(|feed| feed.last.excludes(path, false))
    }

    /// Whether the feed has such paths.
    pub(super) fn has_last(&self) -> bool {
        self.cfg.feed.as_ref().is_some_and(|feed| !feed.last.is_empty())
    }

    /// A path changes: if it leaves last, all changes up to now go before.
    pub(super) fn note_last(&mut self, path: &[u8]) {
        if self.has_last()
            && self.leaves_last(path)
            && let Some(feed) = &mut self.feed
        {
            feed.until = Some(self.ledger.set.close_epoch());
        }
    }

    /// Takes out of a batch what leaves last, and gives it back while anything else that changed
    /// before is not published. Files that are held, as they are being written, do not count.
    pub(super) fn keep_last(&mut self, batch: &mut Batch) {
        if !self.has_last() {
            return;
        }
        let cfg = self.cfg.feed.as_ref();
        let is_last = |entry: &mut Entry| cfg.is_some_and(|feed| feed.last.excludes(&entry.path, false));
        let late: Vec<Entry> = batch.entries.extract_if(.., is_last).collect();
        if late.is_empty() {
            return;
        }
        let known = self.feed.as_ref().and_then(|feed| feed.until);
        let until = known.unwrap_or_else(|| self.ledger.set.close_epoch());
        let set = &self.ledger.set;
        let own = late.iter().filter(|entry| entry.epoch() <= until).count();
        if batch.entries.is_empty() && set.epochs().count_until(until) <= own + set.held_until(until) {
            batch.entries = late;
            return;
        }
        let late = self.ledger.set.split(batch, late);
        self.ledger.give_back(late);
        if let Some(feed) = &mut self.feed {
            feed.waits = true;
        }
    }

    /// Whether something waited that leaves last, since the last call.
    pub(super) fn last_waits(&mut self) -> bool {
        self.feed.as_mut().is_some_and(|feed| std::mem::take(&mut feed.waits))
    }

    /// Publishes to the followers whether the source is held.
    pub(crate) fn tell_held(&mut self, held: bool) {
        if let Some(feed) = self.feed.as_mut().filter(|feed| feed.held != held) {
            feed.held = held;
            feed.publisher.hold(held);
        }
    }

    /// Starts the publication that a launch requests, and waits for its end.
    ///
    /// # Errors
    /// What went wrong, and whether the configuration is to blame.
    pub(super) fn publish(&self, cx: &mut Context<'_>, serial: u32, launch: &Launch<'_>) -> Result<Run, (bool, String)> {
        let feed = self.feed.as_ref().ok_or((false, "the thread of the feed is not there".to_owned()))?;
        let failed = |e: std::io::Error| (false, e.to_string());
        let publication: Publication = match &launch.kind {
            LaunchKind::Probe => feed.publisher.probe().map_err(failed)?,
            LaunchKind::Batch(_, purpose) if matches!(**purpose, Purpose::Carry { .. }) => {
                let identity = feed
                    .identity_of(cx.root)
                    .map_err(|e| (true, format!("cannot keep the mark of the feed, {}, in the source: {e}", mark::FILE)))?;
                let everything = matches!(launch.pass, Pass::Full { .. });
                let (entries, inline) = match launch.input {
                    Input::List(list) if !everything => {
                        let mut entries = entries(cx.root, launch.pass, list, launch.compare != Compare::Quick);
                        let small = match feed.hint(cx.root, &mut entries) {
                            true => 0,
                            false => feed.inline,
                        };
                        let inline = self.inline(small, cx.root, &entries, list);
                        (entries, inline)
                    }
                    _ => (Vec::new(), None),
                };
                let last = !entries.is_empty() && entries.iter().all(|entry| self.leaves_last(&entry.path));
                feed.publisher.publish(identity, everything, last, entries, inline).map_err(failed)?
            }
            _ => return Err((true, "a feed cannot do that".into())),
        };
        let run = Run::publication(publication);
        self.runs.watch(cx.reactor, run.pidfd(), serial, EXIT).map_err(|e| (false, format!("cannot wait for it: {e}")))?;
        Ok(run)
    }

    /// What goes into the record as a batch beside these entries of `list`: state of at most `most`
    /// bytes.
    fn inline(&self, most: u64, root: &Root, entries: &[Item], list: &[u8]) -> Option<Inline> {
        let room = Record::room(entries);
        let filtered = !self.args.filter.is_empty() || !self.args.guards.is_empty();
        let small = most > 0 && is_small(root, entries, most, room, self.mirror.max_file_size, filtered);
        // A shortage of descriptors is no reason to publish nothing.
        small.then(|| root.as_fd().try_clone_to_owned().ok()).flatten().map(|root| Inline { root, list: list.to_vec() })
    }

    /// A part that may delete is about to leave, and the place that it concerns may have lost
    /// nearly everything: then the mirror is held. No dry run can count what followers would
    /// delete.
    pub(super) fn judge_feed(
        &mut self,
        cx: &mut Context<'_>,
        pass: Pass,
        batch: Batch,
        suspect: Option<Suspect>,
        run: Prepared,
        lane: Lane,
    ) -> bool {
        let to_lose = self.counters.stats.batches > 0 || self.feed.as_ref().is_some_and(|feed| feed.publisher.had_records());
        if let Some(suspect) = suspect.filter(|_| to_lose) {
            let deletes = batch.entries.len().max(suspect.enough.unwrap_or(0)) as u64;
            let from_the_start = suspect.level && self.counters.stats.batches == 0;
            self.ledger.give_back(batch);
            *cx.held = Some(Hold::Emptied { at: suspect.at, enough: suspect.enough, deletes, from_the_start });
            return false;
        }
        let input = if matches!(pass, Pass::Full { .. }) { Input::None } else { Input::List(&run.list) };
        let paths = batch.entries.len();
        let launch = Launch::batch(pass, input, batch, Purpose::carry());
        self.start(cx, Launch { paths, lane, compare: run.compare, ancestors: run.ancestors, ..launch }).is_some()
    }
}

impl Feed {
    /// Has the entries of what is gone say where it went; `true`: some do.
    fn hint(&self, root: &Root, entries: &mut [Item]) -> bool {
        let Some(renamed) = &self.renamed else { return false };
        let mut renamed = renamed.borrow_mut();
        for item in entries.iter_mut().filter(|item| item.gone) {
            item.to = renamed.take(root, &item.path);
        }
        entries.iter().any(|item| item.to.is_some())
    }

    fn identity_of(&self, root: &Root) -> std::io::Result<Identity> {
        let known = self.identity.get().map(|identity| (identity, mark::look(root, &self.name, &identity)));
        match known {
            Some((identity, mark::Found::Ours)) => Ok(identity),
            // Followers would take the tree for another one.
            Some((identity, mark::Found::Another)) => {
                mark::put_back(root, &self.name, &identity)?;
                tracing::warn!(feed = %self.name, "something else was in the place of the mark {}: it is put back", mark::FILE);
                Ok(identity)
            }
            // With all else that was in the tree, perhaps.
            Some((_, mark::Found::Missing)) | None => {
                let identity = mark::take(root, &self.name)?;
                self.identity.set(Some(identity));
                Ok(identity)
            }
        }
    }
}

/// What a list for rsync means to a follower.
fn entries(root: &Root, pass: Pass, list: &[u8], content: bool) -> Vec<Item> {
    let mut out = Vec::new();
    for listed in list.split(|&b| b == 0).filter(|listed| !listed.is_empty()) {
        let Some(path) = RelPath::new(listed) else { continue };
        let kind = match (pass, listed.ends_with(b"/")) {
            (Pass::Deep, _) => Kind::Subtree,
            (_, true) => Kind::Contents,
            (_, false) => Kind::Entry,
        };
        let path = if path.starts_with(b".probe-") { RelPath::root() } else { path };
        // What cannot be read may be a directory.
        let (gone, directory) = found(root, &path).unwrap_or((false, true));
        out.push(Item { path, kind, gone, directory, content, to: None });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_is_a_hint_where_it_is_worth_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d3")).unwrap();
        std::fs::write(dir.path().join("large2"), vec![0; SMALLEST_FILE as usize]).unwrap();
        std::fs::write(dir.path().join("small2"), "x").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut renamed = Renamed::default();
        for (path, seen) in [
            ("d", Seen::LeftDir),
            ("d2", Seen::ArrivedDir),
            ("d2", Seen::LeftDir),
            ("d3", Seen::ArrivedDir),
            ("large", Seen::Left),
            ("large2", Seen::Arrived),
            ("small", Seen::Left),
            ("small2", Seen::Arrived),
            ("lone", Seen::Left),
            ("other", Seen::Written),
            ("d3", Seen::ArrivedDir),
            ("lost", Seen::Left),
            ("missing", Seen::Arrived),
        ] {
            renamed.see(path.as_bytes(), seen);
        }
        let mut to = |path: &str| renamed.take(&root, &RelPath::from_normal(path)).map(|to| to.to_string());
        assert_eq!((to("d").as_deref(), to("d")), (Some("d3"), None), "by way of d2, and once");
        assert_eq!(to("large").as_deref(), Some("large2"));
        for path in ["d2", "small", "lone", "lost"] {
            assert_eq!(to(path), None, "{path}");
        }
        (0..2 * MOST_RENAMED).for_each(|n| {
            renamed.see(format!("f{n}").as_bytes(), Seen::Left);
            renamed.see(format!("g{n}").as_bytes(), Seen::Arrived);
        });
        assert_eq!(renamed.to.len(), MOST_RENAMED);
    }

    #[test]
    fn a_list_becomes_entries_with_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/f"), "").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let shown = |pass, list: &[u8]| -> Vec<_> {
            let all = entries(&root, pass, list, true).into_iter();
            all.map(|e| (e.path.to_string(), e.kind, e.gone, e.directory)).collect()
        };
        assert_eq!(
            shown(Pass::ShallowOneLevel, b"./d/f\0./d/\0./gone/x\0./\0"),
            [
                ("d/f".into(), Kind::Entry, false, false),
                ("d".into(), Kind::Contents, false, true),
                ("gone/x".into(), Kind::Entry, true, false),
                (String::from("."), Kind::Contents, false, true),
            ]
        );
        assert_eq!(shown(Pass::Deep, b"./d\0"), [("d".into(), Kind::Subtree, false, true)]);
        assert_eq!(shown(Pass::Shallow, b"./.probe-1\0"), [(".".into(), Kind::Entry, false, true)]);
    }
}
