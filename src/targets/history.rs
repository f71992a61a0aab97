//! What a restart and the state on disk need of a target.

use std::path::Path;

use super::ledger::next_by_path;
use super::*;

/// From when on the change times of a file that waits may be, for the next start to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// When it became dirty, as a time since the daemon's start: no watermark passes that.
    Dirty(Duration),
    /// Where the walk began that this run started with, seconds since 1970: the watermark stays
    /// there until all that the walk found is on the target.
    Walked(i64),
}

impl Target {
    /// A walk begins to report what changed since `since` (seconds since 1970).
    pub(crate) fn walk_begins(&mut self, since: i64) {
        self.doubts.walk_begins(since);
    }

    /// The walk has reported everything. The returned epoch is clear when all of it is on the
    /// target.
    pub(crate) fn walk_ended(&mut self) -> Epoch {
        let epoch = self.ledger.set.close_epoch();
        self.doubts.walk_ended(epoch);
        epoch
    }

    /// The directories of files that a walk found. A comparison of such a level has to wait for the
    /// files: beside them it would find the new ones missing, and send them once more.
    pub(super) fn found_below(&self, entries: &[Entry]) -> BTreeSet<RelPath> {
        let files = entries.iter().filter(|e| e.kind == Kind::Entry && e.content && self.doubts.found_since(e).is_some());
        files.filter_map(|e| path::parent(&e.path).map(RelPath::from_normal)).collect()
    }

    /// The next files behind `reached` that were written and are not known to be on the target, at
    /// most `most` of each place in the ledger, in no useful order. `reached` moves on, in each
    /// place back to the beginning after the last one.
    pub(crate) fn written(&self, reached: &mut Reached, most: usize) -> Vec<(RelPath, Option<Since>)> {
        let flying = self.runs.batches().flat_map(|batch| &batch.entries);
        let flying = flying.filter(|e| e.content && e.kind == Kind::Entry && !e.gone && !e.is_taken());
        let mut found = next_by_path(flying.map(|e| (&e.path, Some(e.epoch()))), &mut reached.flying, most);
        found.extend(self.ledger.written(reached, most));
        let since = |epoch: Epoch| self.doubts.walked_since(epoch).map_or(Since::Dirty(epoch.begins()), Since::Walked);
        found.into_iter().map(|(path, epoch)| (path, epoch.map(since))).collect()
    }

    /// Keeps those of `paths` that the target may lack, by themselves or as part of a directory.
    pub(crate) fn retain_unconfirmed<T>(&self, paths: &mut BTreeMap<RelPath, T>) {
        if !paths.is_empty() {
            let index = self.ledger.index();
            paths.retain(|path, _| index.why(path, Reach::Itself, &[]).is_some());
        }
    }

    /// When the oldest change that is not confirmed was made.
    pub(crate) fn waits_since(&self) -> Option<Duration> {
        self.ledger.epochs().oldest().map(Epoch::begins)
    }

    /// Whether the target may have lost what it had, or may yet overwrite it: it is not known what
    /// it holds.
    pub(crate) fn in_doubt(&self) -> bool {
        self.ledger.in_doubt()
    }

    /// Whether the target's directory was gone, so that whatever comes back must be compared whole.
    pub(crate) fn is_suspect(&self) -> bool {
        self.ledger.suspect
    }

    /// The newest change time that was seen on the source since the last call.
    pub(crate) fn take_newest(&mut self) -> Option<FileTime> {
        self.met.newest.take()
    }

    /// Closes the current epoch, without the hurry of [`Target::flush`].
    pub(crate) fn close_epoch(&mut self) -> Epoch {
        self.ledger.set.close_epoch()
    }

    /// Ends every run, at once. Whether one was cut off that may leave temporary files on the
    /// target.
    pub(crate) fn end_runs(&mut self, cx: &mut Context<'_>) -> bool {
        let cut = self.runs.is_sending();
        self.runs.discard_where(cx.reactor, |_| true);
        cut
    }

    /// What decides about the contents of the target, in a form that is equal when they are: the
    /// arguments of a comparison of the whole tree, less those that only say how it is reached. The
    /// command for the remote shell is none of these: its options may lead to another machine.
    pub(crate) fn settings(&self) -> String {
        let nowhere = Path::new("/");
        let spec = self.spec(nowhere, Compare::Quick);
        let peer = Peer {
            compress: config::Compress::None,
            timeout: Duration::ZERO,
            connect_timeout: Duration::ZERO,
            password_file: None,
            ..spec.peer
        };
        let spec = Spec {
            rsync: nowhere,
            peer,
            missing_args: true,
            dialect: Dialect::Current,
            delete: self.mirror.delete.ever(),
            ..spec
        };
        format!("{:?}", argv::argv(&spec, Pass::Full { progress: false }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::location::Location;

    /// A watermark moves past an epoch that is flushed, and a restart checks nothing before it.
    #[test]
    fn what_was_not_answered_is_looked_at_again_as_old_as_it_is() {
        let cfg = config::Target::new("t", Location::parse("host:/dir").unwrap());
        let mut target = Target::new(0, &Mirror::new("m", "/src"), &cfg, &RsyncFacts::default());
        let since = target.close_epoch();
        let carried = vec![(RelPath::new(b"f").unwrap(), Kind::Entry)];
        target.ledger.unanswered.push(Unanswered { due: Duration::from_secs(9), since, carried });
        assert!(!target.ledger.look_again_at_unanswered(Duration::from_secs(8)));
        assert!(target.flushed(since) && target.in_doubt(), "the doubt keeps the watermark");
        assert!(target.ledger.look_again_at_unanswered(Duration::from_secs(9)));
        assert!(!target.flushed(since) && !target.in_doubt(), "the path does");
    }

    /// The run that failed began before the flush, perhaps when the source was another.
    #[test]
    fn a_flush_does_not_end_with_a_failure_that_is_about_to_be_tried() {
        let cfg = config::Target::new("t", Location::parse("host:/dir").unwrap());
        let mut target = Target::new(0, &Mirror::new("m", "/src"), &cfg, &RsyncFacts::default());
        target.link.came_up(true);
        let since = target.close_epoch();
        let entry = target.ledger.set.parked(RelPath::new(b"f").unwrap(), since);
        target.ledger.retries.fail(Duration::ZERO, vec![entry], "denied", 0.0);
        assert!(target.stuck());
        let flush = target.flush();
        assert!(!target.stuck() && !target.at_rest());
        let (again, _) = target.ledger.retries.take_due(Duration::ZERO).unwrap();
        target.ledger.retries.fail(Duration::ZERO, again, "denied", 0.0);
        assert!(target.stuck() && !target.flushed(flush));
    }

    #[test]
    fn what_was_written_is_found_in_parts_wherever_it_waits() {
        let cfg = config::Target::new("t", Location::parse("host:/dir").unwrap());
        let mut target = Target::new(0, &Mirror::new("m", "/src"), &cfg, &RsyncFacts::default());
        target.ledger.set.tick(Duration::from_secs(7));
        let since = target.close_epoch();
        let failed = (0..5).rev().map(|at| {
            let mut entry = target.ledger.set.parked(RelPath::new(format!("failed/{at}").as_bytes()).unwrap(), since);
            entry.content = true;
            entry
        });
        let failed = failed.collect();
        target.ledger.retries.fail(Duration::ZERO, failed, "denied", 0.0);
        (0..7).for_each(|at| target.ledger.set.see(format!("d/{at}").as_bytes(), Seen::Written));
        let (mut reached, mut found) = (Reached::default(), BTreeMap::new());
        for _ in 0..3 {
            let part = target.written(&mut reached, 3);
            assert!(part.len() <= 6 && reached != Reached::default(), "at most 3 of each place, and there are more");
            found.extend(part);
        }
        assert_eq!(found.len(), 12);
        let dirty = |since: &Option<Since>| matches!(since, Some(Since::Dirty(at)) if at.as_secs() == 7);
        assert!(found.values().all(dirty));
        target.walk_begins(50);
        assert!(target.written(&mut reached, 3).iter().all(|(_, since)| *since == Some(Since::Walked(50))));

        let on_its_way = target.ledger.set.take_shallow(Limits { max_paths: 2, ignore_holds: true }, &mut |_, _| false);
        let on_its_way = on_its_way.expect("something is pending");
        found.insert(RelPath::new(b"sent").unwrap(), None);
        target.retain_unconfirmed(&mut found);
        assert_eq!(found.len(), 12, "what flies is not confirmed");
        target.ledger.set.confirm(on_its_way.id, on_its_way.entries);
        target.retain_unconfirmed(&mut found);
        assert_eq!(found.len(), 10);
    }

    #[test]
    fn settings_that_make_it_another_target() {
        let of = |change: fn(&mut config::Target)| {
            let mut cfg = config::Target::new("t", Location::parse("host:/dir").unwrap());
            change(&mut cfg);
            Target::new(0, &Mirror::new("m", "/src"), &cfg, &RsyncFacts::default()).settings()
        };
        let same = of(|_| {});
        for (what, change, other) in [
            ("location", (|t| t.location = Location::parse("host:/other").unwrap()) as fn(&mut config::Target), true),
            ("another port behind the same name", |t| t.ssh = Some("ssh -p 2222".into()), true),
            ("another place by the server's program", |t| t.rsync_path = Some("sudo -u b rsync".into()), true),
            ("arguments", |t| t.args = vec!["--chmod=F644".into()], true),
            ("patience", |t| t.timeout *= 2, false),
            ("compression", |t| t.compress = config::Compress::Zlib, false),
            ("jobs", |t| t.jobs += 1, false),
        ] {
            assert_eq!(of(change) != same, other, "{what}");
        }
    }
}
