//! What leaves a target: when, how it is listed, and through which process.

use super::compose::{Content, Deleting, Looked, PARTS, Part};
use super::*;
use crate::cover::Cover;
use crate::sync::retries::Stand;

/// What the parts of a batch do that leave at the same time.
#[derive(Default)]
struct Begun {
    /// Directories whose level is compared: what the source does not have there is deleted.
    levels: BTreeSet<Vec<u8>>,
    /// Directories in which files are made, under temporary names at first.
    filled: BTreeSet<Vec<u8>>,
}

impl Begun {
    /// Whether one would delete the file that another is writing: that one would fail, and its
    /// temporary name would be reported as deleted.
    fn meets(&self, entries: &[Entry]) -> bool {
        entries.iter().any(|e| match e.kind {
            Kind::Contents => self.filled.contains(&*e.path),
            _ => path::parent(&e.path).is_some_and(|parent| self.levels.contains(parent)),
        })
    }

    fn take(&mut self, entries: &[Entry]) {
        for e in entries {
            match e.kind {
                Kind::Contents => _ = self.levels.insert(e.path.to_vec()),
                _ => self.filled.extend(path::parent(&e.path).map(<[u8]>::to_vec)),
            }
        }
    }
}

/// A list for a standby process.
pub(super) struct StandbyList<'l> {
    pub(super) bytes: &'l [u8],
    pub(super) paths: usize,
    pub(super) lane: Lane,
    /// Directories above the listed paths, with the ctime seen.
    pub(super) ancestors: BTreeMap<RelPath, FileTime>,
}

/// New files of a level that is compared above directories of others.
const LEVEL_MAX_ABOVE_OTHERS: usize = 2_000;

/// Whether `new` files are so large a part of a directory that comparing its whole level is cheaper
/// than listing them: where they are one in four or five, with paths of 30 bytes as with 130
/// (`scripts/bench/batching --only level`, rsync 3.5.0), since longer paths make the entries of a
/// level dearer, too.
///
/// Not where a file in it has other names: each is sought when the file is listed.
fn mostly_new(root: &Root, dir: &RelPath, new: usize) -> bool {
    let most = new * LEVEL_ENTRIES_PER_PATH + 2; // with `.` and `..`
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let Ok(mut listing) = nix::dir::Dir::openat(root, dir.as_path(), flags, Mode::empty()) else { return false };
    let entries: Vec<_> = listing.iter().take(most + 1).flatten().collect();
    let names = entries.iter().map(|entry| entry.file_name()).filter(|name| !matches!(name.to_bytes(), b"." | b".."));
    let mut has_dirs = false;
    let mut plain = |name: &std::ffi::CStr| {
        let Ok(stat) = fstatat(&listing, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { return true };
        let dir = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
        has_dirs |= dir;
        dir || stat.st_nlink <= 1
    };
    entries.len() <= most && names.into_iter().all(&mut plain) && leaves_room(new, has_dirs)
}

/// Whether a comparison of a level of `new` files is short enough for what lies in its directories:
/// nothing of that leaves while it is under way.
fn leaves_room(new: usize, has_dirs: bool) -> bool {
    !has_dirs || new <= LEVEL_MAX_ABOVE_OTHERS
}

/// New files in a directory before its level is requested. In a small batch a level costs a process
/// of its own, where the list goes to a standby process; `dry_first`: it costs a dry run.
fn level_min(lane: Lane, dry_first: bool) -> usize {
    if lane == Lane::Small || dry_first { DEAR_LEVEL_MIN } else { LEVEL_MIN }
}

impl Target {
    pub(super) fn hurry(&self) -> bool {
        self.schedule.hurries()
    }

    pub(super) fn lanes_free(&self) -> (bool, bool) {
        (self.has_room(Lane::Small), self.has_room(Lane::Bulk))
    }

    /// Whether a further run may start in `lane`: by the bounds of this target, and by those of
    /// all.
    pub(super) fn has_room(&self, lane: Lane) -> bool {
        self.own_room(lane) && self.shared_room(lane)
    }

    /// The same by the bounds of this target alone.
    pub(super) fn own_room(&self, lane: Lane) -> bool {
        let lanes = self.runs.lanes();
        (!self.link.is_limited() || lanes.all() == 0) && lanes.room(lane, self.cfg.jobs, self.cfg.small_jobs)
    }

    /// Small and bulk lanes that have room, but for what all targets share and what was refused of
    /// that: a target that was refused is woken when it can be had.
    pub(super) fn lanes_open(&self) -> (bool, bool) {
        let (small, long) = self.allowance.refused();
        (self.own_room(Lane::Small) && !small, self.own_room(Lane::Bulk) && !long)
    }

    /// Whether a large file may leave. Where one of holes gave way to a comparison, that goes
    /// first.
    pub(super) fn large_goes(&self) -> bool {
        !self.large_gives_way() && self.has_room(Lane::Large)
    }

    /// The same as [`Target::lanes_open`] has it.
    pub(super) fn large_opens(&self) -> bool {
        !self.large_gives_way() && self.own_room(Lane::Large) && !self.allowance.refused().1
    }

    fn large_gives_way(&self) -> bool {
        self.ledger.set.has_deep() && self.unread.has_given_way()
    }

    /// Something may be pending again.
    pub(super) fn note_ready(&mut self, now: Duration) {
        if self.ledger.set.ready(false) > 0 {
            self.schedule.pace.waits(now);
        }
    }

    /// When the pending paths may leave; `None` when there are none.
    pub(super) fn leaves_at(&self) -> Option<Duration> {
        self.schedule.pace.leaves_at(self.ledger.set.ready(self.hurry()), self.hurry())
    }

    /// Which lane the next batch takes; `None` when only a run's end makes room for it.
    pub(super) fn next_lane(&self) -> Option<Lane> {
        let few = self.ledger.set.ready(self.hurry()) <= SMALL_PATHS;
        Lane::of(few, self.ledger.set.has_deep(), self.lanes_free())
    }

    /// While all bulk jobs carry floods: what is pending in other directories at the top, if it
    /// fits into the small lane. A flood in the top itself counts as one of its name.
    fn take_beside(&mut self) -> Option<Batch> {
        let mut bulk = self.runs.carriers().filter(|(run, _)| run.lane == Lane::Bulk).map(|(_, c)| &c.how.tops).peekable();
        if !self.has_room(Lane::Small) || bulk.peek().is_none() {
            return None;
        }
        let tops: BTreeSet<Vec<u8>> = bulk.flatten().cloned().collect();
        if tops.is_empty() {
            return None;
        }
        self.ledger.set.take_beside(Limits { max_paths: SMALL_PATHS, ignore_holds: self.hurry() }, &tops)
    }

    /// The few paths of a bulk batch that lie beside its flood, where the small lane has room.
    /// Links and deletions keep their order, so they stay.
    fn split_beside(&mut self, batch: &mut Batch, normal: &mut Normal) -> Option<Batch> {
        if !self.has_room(Lane::Small) {
            return None;
        }
        let stat = |item: &normal::Item| match item.state {
            Look::Present(stat) => Some(stat),
            _ => None,
        };
        let present: BTreeSet<&[u8]> = (normal.items.iter())
            .filter(|item| stat(item).is_some_and(|stat| stat.is_dir() || stat.is_file()))
            .map(|item| &*item.path)
            .collect();
        let stays = |entry: &Entry| entry.gone || !present.contains(&*entry.path);
        let beside = lanes::take_few_beside(&mut batch.entries, SMALL_PATHS, stays);
        if beside.is_empty() {
            return None;
        }
        let taken: BTreeSet<&[u8]> = beside.iter().map(|entry| &*entry.path).collect();
        normal.remove(&taken);
        Some(self.ledger.set.split(batch, beside))
    }

    /// Gives back what of a batch is beyond `max_bytes`. Links and deletions keep their order, so
    /// they stay, and so does what is compared, whose size is not known.
    fn bound_bytes(&mut self, batch: &mut Batch, normal: &mut Normal) {
        let Some(most) = self.mirror.batch.max_bytes.filter(|_| batch.round == 0) else { return };
        let sizes: BTreeMap<&[u8], u64> = (normal.items.iter())
            .filter_map(|item| match item.state {
                Look::Present(stat) if stat.is_file() && stat.nlink <= 1 => Some((&*item.path, stat.size)),
                _ => None,
            })
            .collect();
        let size = |entry: &Entry| sizes.get(&*entry.path).copied().filter(|_| !entry.gone && entry.kind == Kind::Entry);
        let beyond = lanes::take_beyond(&mut batch.entries, most, size);
        if beyond.is_empty() {
            return;
        }
        let taken: BTreeSet<&[u8]> = beyond.iter().map(|entry| &*entry.path).collect();
        normal.remove(&taken);
        let rest = self.ledger.set.split(batch, beyond);
        self.ledger.give_back(rest);
    }

    /// Whether something may start, as far as the target and the source go.
    fn may_start(&self, cx: &Context<'_>) -> bool {
        self.is_up() && cx.held.is_none()
    }

    /// Sends what may leave now.
    pub(crate) fn dispatch(&mut self, cx: &mut Context<'_>) {
        self.send_due(cx);
        self.settle_shares(cx);
    }

    fn send_due(&mut self, cx: &mut Context<'_>) {
        self.ledger.set.tick(cx.now);
        self.release_links(cx.now);
        self.look_at_known(cx);
        if !self.may_start(cx) || self.schedule.is_paused() || self.orphans.is_some() {
            return;
        }
        self.dispatch_apart(cx);
        if !self.may_start(cx) {
            return;
        }
        self.schedule.blocked = false;
        self.look_at_long(cx);
        self.bound_failures();
        if self.lanes_free().1 {
            self.judge_again(cx);
            self.count_again(cx);
            if !self.may_start(cx) {
                return;
            }
        }
        let before = self.ledger.set.ready(false);
        let mut launched = self.dispatch_renames(cx);
        if self.may_start(cx) {
            launched |= self.dispatch_pending(cx);
        }
        if self.may_start(cx) {
            // Names that are to be removed before they are sent were found just now.
            launched |= self.dispatch_renames(cx);
        }
        if !self.may_start(cx) {
            return;
        }
        self.schedule.pace.left(cx.now, launched, before, self.ledger.set.ready(false));
        // Starting a process takes a core from the transfer that just began; standby processes are
        // replaced after it.
        if !self.runs.is_sending() || self.runs.standbys() == 0 {
            self.refill_standby(cx);
        }
    }

    /// Sends what failed and is due, and large files.
    fn dispatch_apart(&mut self, cx: &mut Context<'_>) {
        while self.may_start(cx) && self.lanes_free().1 {
            let Some((entries, round)) = self.ledger.retries.take_due(cx.now) else { break };
            if let Some(batch) = self.ledger.set.take_again(entries, round) {
                self.launch(cx, batch, Lane::Bulk);
            }
        }
        while self.may_start(cx) && self.ledger.large.len() > 0 && self.large_goes() {
            let Some((entry, round)) = self.ledger.large.take(cx.now, self.hurry()) else { break };
            if let Some(batch) = self.ledger.set.take_again(vec![entry], round) {
                self.launch(cx, batch, Lane::Large);
            }
        }
    }

    /// Sends what is pending and due. Returns whether something was started.
    fn dispatch_pending(&mut self, cx: &mut Context<'_>) -> bool {
        let mut launched = false;
        while self.may_start(cx) && self.leaves_at().is_some_and(|at| at <= cx.now) {
            let lane = self.next_lane();
            let batch = match lane {
                Some(lane) => self.take_next(cx, lane),
                None => self.take_beside(),
            };
            let Some(batch) = batch else {
                self.schedule.blocked = true;
                break;
            };
            launched |= self.launch(cx, batch, lane.unwrap_or(Lane::Small));
            if self.last_waits() {
                self.schedule.blocked = true;
                break;
            }
        }
        launched
    }

    /// The next batch of what is pending.
    fn take_next(&mut self, cx: &Context<'_>, lane: Lane) -> Option<Batch> {
        let (bulk, ignore_holds) = (self.lanes_free().1, self.hurry());
        let max_paths = match lane {
            Lane::Small | Lane::Large => SMALL_PATHS,
            Lane::Bulk => {
                let free = self.cfg.jobs.saturating_sub(self.runs.lanes().bulk);
                self.schedule.pace.share(cx.now, self.ledger.set.ready(ignore_holds), free, ignore_holds)
            }
        };
        let limits = Limits { max_paths, ignore_holds };
        let level_min = level_min(lane, self.limit().is_some() || !self.mirror.filter.is_rsyncs());
        // A level that is compared whole carries what is not to be followed, and each name has to
        // be looked at for the others of its file.
        let levels = self.mirror.events == config::Events::default() && !self.mirror.extras.hard_links && !self.has_last();
        let shallow =
            self.ledger.set.take_shallow(limits, &mut |dir, new| new >= level_min && levels && mostly_new(cx.root, dir, new));
        match shallow {
            None if bulk => self.ledger.set.take_deep(limits),
            batch => batch,
        }
    }

    /// Looks at the disk, decides how each entry is listed, and starts the run. `false` when
    /// nothing was left to send.
    pub(super) fn launch(&mut self, cx: &mut Context<'_>, batch: Batch, lane: Lane) -> bool {
        if !self.preflight(cx) {
            self.ledger.give_back(batch);
            return false;
        }
        let mut batch = self.leave_apart(batch);
        self.ledger.take_along(&mut batch);
        self.keep_last(&mut batch);
        if batch.entries.is_empty() {
            return false;
        }
        let whole_tree = batch.entries.iter().any(|e| e.path.is_root() && e.kind == Kind::Subtree);
        if whole_tree {
            if self.removes_first(cx, &batch.entries, &[]) {
                self.ledger.give_back(batch);
                return false;
            }
            self.await_names_of_all(cx, &batch);
            return self.start_full(cx, batch, lane);
        }
        let paths: Vec<(RelPath, Kind)> = batch.entries.iter().map(|e| (e.path.clone(), e.kind)).collect();
        let mut normal = match normal::normalise(std::os::fd::AsFd::as_fd(cx.root), &paths, cx.statter) {
            Ok(normal) => normal,
            Err(e) => {
                self.ledger.give_back(batch);
                *cx.held = Some(Hold::Gone(chain(&e)));
                return false;
            }
        };
        self.met.newest = self.met.newest.max(Some(normal.newest()));
        self.order_links(cx, &mut batch, &normal);
        self.bound_bytes(&mut batch, &mut normal);
        let mut started = false;
        if lane == Lane::Bulk
            && let Some(beside) = self.split_beside(&mut batch, &mut normal)
        {
            started = self.launch(cx, beside, Lane::Small);
            if !self.is_up() || cx.held.is_some() {
                self.ledger.give_back(batch);
                return started;
            }
        }
        self.spread(cx, &mut batch, &normal);
        if batch.entries.is_empty() {
            return started;
        }
        let Some((batch, normal, linked)) = self.join_links(cx, batch, normal) else { return started };
        if self.removes_first(cx, &batch.entries, &normal.items) {
            self.ledger.give_back(batch);
            return started;
        }
        let deep = batch.entries.iter().any(|e| e.kind == Kind::Subtree);
        let suspect = self.suspect(cx, &batch.entries, Some(&normal));
        let leased = self.leased(cx, &normal);
        let looked = Looked { normal, deep, linked, suspect, leased, lane };
        self.send_parts(cx, batch, &looked) || started
    }

    /// Sends the parts of a batch, each by a run of its own. Returns whether one was started.
    fn send_parts(&mut self, cx: &mut Context<'_>, batch: Batch, looked: &Looked) -> bool {
        let mut started = false;
        let parts = self.compose(cx, batch, looked);
        let mut begun = Begun::default();
        let several = parts.iter().filter(|part| !part.batch.entries.is_empty()).count() > 1;
        for (kind, part) in PARTS.into_iter().zip(parts) {
            if part.batch.entries.is_empty() {
                continue;
            }
            // A further part waits for the first where the lane has no room for both, or where they
            // would meet.
            if self.is_up() && self.has_room(looked.lane) && !begun.meets(&part.batch.entries) {
                if several {
                    begun.take(&part.batch.entries);
                }
                started |= self.start_listed(cx, part, kind, looked);
            } else {
                self.ledger.give_back(part.batch);
            }
        }
        started
    }

    /// Makes the files that did not fit failures, for rsync ends at the first such and never gets
    /// to what comes after it.
    pub(super) fn set_unfit_apart(&mut self, cx: &Context<'_>, batch: &mut Batch, outcome: &Outcome) {
        let failed = Cover::new(&outcome.failed);
        let unfit = |e: &Entry| e.kind == Kind::Entry && failed.has(&e.path);
        let (bad, good): (Vec<Entry>, Vec<Entry>) = std::mem::take(&mut batch.entries).into_iter().partition(unfit);
        self.ledger.set.park(batch.id, &bad);
        self.ledger.retries.fail(cx.now, bad, &outcome.reason, fastrand::f64());
        batch.entries = good;
    }

    /// Whether a comparison for this entry leaves alone what only the target has: nothing shows
    /// that the source once had it. Where deletions cannot be listed by name, a comparison is what
    /// carries them out.
    pub(super) fn spares(&self, entry: &Entry) -> bool {
        if self.mirror.delete == Delete::Running {
            return entry.kind > Kind::Entry && !self.gone_dirs.covers(entry);
        }
        let rescan = entry.kind > Kind::Entry && !entry.content;
        rescan && !self.is_accepted(entry) && self.guard.fill.spares() && self.link.missing_args && self.args.excludes_only()
    }

    /// Whether what goes from the source is deleted as it goes.
    pub(crate) fn deletes(&self) -> bool {
        match self.mirror.delete {
            // A level that is compared would take what only the target has.
            Delete::Running => self.link.missing_args && self.args.excludes_only(),
            delete => delete.follows(),
        }
    }

    /// Whether the comparison of the whole tree that `entry` requests may delete, its bounds aside.
    pub(super) fn deletes_whole(&self, entry: &Entry) -> bool {
        match self.mirror.delete {
            Delete::Startup => entry.path.is_root() && entry.kind == Kind::Subtree && self.guard.is_start(entry),
            _ => self.deletes(),
        }
    }

    /// Which options both sides know.
    pub(super) fn dialect(&self) -> Dialect {
        self.link.dialect.min(self.args.facts.dialect)
    }

    /// What a run is given that carries changes as they come.
    pub(super) fn spec<'s>(&'s self, root: &'s std::path::Path, compare: Compare) -> Spec<'s> {
        let spec = self.args.spec(&self.mirror, &self.cfg, root, compare);
        Spec { missing_args: self.link.missing_args, dialect: self.dialect(), delete: self.deletes(), ..spec }
    }

    /// The same for a run that carries these.
    pub(super) fn spec_for<'s>(&'s self, root: &'s std::path::Path, compare: Compare, entries: &[Entry]) -> Spec<'s> {
        let spec = self.spec(root, compare);
        Spec { delete: spec.delete || entries.iter().any(|e| self.deletes_whole(e)), ..spec }
    }

    fn start_full(&mut self, cx: &mut Context<'_>, batch: Batch, lane: Lane) -> bool {
        let pass = Pass::Full { progress: true };
        let compare = self.doubts.compare();
        let free = batch.entries.iter().all(|e| self.is_accepted(e));
        let deletes = batch.entries.iter().any(|e| self.deletes_whole(e));
        if deletes && !free && self.guard.fill != Fill::Kept {
            let suspect = self.suspect(cx, &batch.entries, None);
            if suspect.is_some() || self.limit().is_some() {
                return self.look_first(cx, pass, batch, suspect, guarded::Prepared::whole(compare), lane);
            }
        }
        let extra = match self.guard.fill {
            _ if !deletes || free && self.mirror.delete != Delete::Running => Extra::Goes,
            Fill::Filled | Fill::Counted => Extra::Goes,
            Fill::Unknown if !self.mirror.filter.is_rsyncs() => {
                return self.look_first(cx, pass, batch, None, guarded::Prepared::whole(compare), lane);
            }
            Fill::Unknown => Extra::Counted,
            Fill::Kept => Extra::Stays,
        };
        tracing::info!(mirror = %self.mirror.name, target_name = %self.cfg.name, "comparing the whole tree");
        let limited = self.schedule.periodic.take(self.ledger.set.coarsened());
        let options = RunOptions { free, limited, ..Default::default() };
        let launch = Launch::batch(pass, Input::None, batch, Purpose::Carry { extra, below: None });
        self.start(cx, Launch { options, paths: 1, lane, compare, ..launch }).is_some()
    }

    fn start_listed(
        &mut self,
        cx: &mut Context<'_>,
        part: Part,
        (deleting, content): (Deleting, Content),
        looked: &Looked,
    ) -> bool {
        let Looked { normal, deep, suspect, lane, .. } = looked;
        let lane = *lane;
        let Part { batch, mut list, present, risks } = part;
        if list.is_empty() {
            // The root's own attributes travel with any list, so with one that names nothing there
            // is.
            list.push((RelPath::from_normal(format!(".probe-{:016x}", fastrand::u64(..))), Form::Plain));
        }
        let one_level = list.iter().any(|(_, form)| *form == Form::OneLevel);
        let encoded = filelist::encode(list.iter().map(|(p, f)| (p, *f)));
        let mut batch = self.refuse(cx, batch, &encoded.refused);
        if batch.entries.is_empty() {
            return false;
        }
        let refused = !encoded.refused.is_empty();
        let pass = match (*deep, one_level) {
            (true, _) => Pass::Deep,
            (false, true) => Pass::ShallowOneLevel,
            (false, false) => Pass::Shallow,
        };
        let few = batch.entries.len() <= SMALL_PATHS && pass == Pass::Shallow && batch.round == 0;
        let mut ancestors: BTreeMap<RelPath, FileTime> = normal.ancestors.iter().cloned().collect();
        ancestors.insert(RelPath::root(), normal.root.ctime); // its attributes travel with every list
        let compare = content.compare(batch.round);
        let guards = (!risks.is_empty()).then(|| self.args.guards_but(&risks));
        if deleting == Deleting::Guarded {
            let run = guarded::Prepared { list: encoded.bytes, present, compare, guards, ancestors };
            return self.look_first(cx, pass, batch, suspect.clone(), run, lane);
        }
        let below = if refused || guards.is_some() { None } else { self.begins_below(cx, pass, &batch, &list) };
        let encoded = match &below {
            Some(below) => {
                ancestors.retain(|dir, _| path::is_at_or_below(dir, &below.dir)); // the others it does not touch
                let list: Vec<_> = list.iter().map(|(path, form)| (below.relative(path), *form)).collect();
                filelist::encode(list.iter().map(|(path, form)| (path, *form)))
            }
            None => encoded,
        };
        // A standby process has its bound on deletions already, and begins at the top.
        let standby = below.is_none() && few && (deleting == Deleting::Within || self.limit().is_none());
        let entries = encoded.entries;
        if standby && content == Content::Sent && risks.is_empty() {
            let list = StandbyList { bytes: &encoded.bytes, paths: entries, lane, ancestors };
            match self.give_to_standby(cx, batch, Purpose::carry(), list) {
                Ok(_) => return true,
                Err((back, list)) => (batch, ancestors) = (back, list.ancestors),
            }
        }
        let extra = if batch.entries.iter().any(|e| self.spares(e)) { Extra::Stays } else { Extra::Goes };
        let free = deleting == Deleting::Free;
        let options = RunOptions { free, guards, below: below.as_ref(), ..Default::default() };
        let purpose = Purpose::Carry { extra, below: below.as_ref().map(|below| below.dir.clone()) };
        let launch = Launch::batch(pass, Input::List(&encoded.bytes), batch, purpose);
        self.start(cx, Launch { options, paths: entries, lane, compare, ancestors, ..launch }).is_some()
    }

    /// Takes paths out of a batch that rsync cannot be given; they are reported, not dropped.
    /// Changes that are this long never come here ([`long`]), so these are others: further names of
    /// a file.
    fn refuse(&mut self, cx: &Context<'_>, mut batch: Batch, refused: &[(RelPath, Refusal)]) -> Batch {
        if refused.is_empty() {
            return batch;
        }
        // Where something above a path is missing, that is what was to be listed.
        let refused = Cover::new(refused.iter().filter(|(_, why)| *why == Refusal::TooLong).map(|(path, _)| path));
        let (bad, good): (Vec<Entry>, Vec<Entry>) = batch.entries.into_iter().partition(|e| refused.covers(&e.path));
        batch.entries = good;
        self.ledger.set.park(batch.id, &bad);
        for entry in &bad {
            if let Some(dir) = long::place_of(&entry.path) {
                self.see_long(cx.now, dir, entry.path.len(), entry.epoch());
            }
        }
        self.ledger.forget(bad);
        batch
    }

    /// Keeps failures few: where they are too many, directories stand for them.
    fn bound_failures(&mut self) {
        for Stand { dir, kind, of } in self.ledger.retries.take_many() {
            tracing::warn!(mirror = %self.mirror.name, target_name = %self.cfg.name, %dir, paths = of.len(), "so many paths fail that their directory stands for them");
            let (before, entries): (Vec<_>, Vec<Entry>) = of.into_iter().map(|f| ((f.reason, f.tries, f.due), f.entry)).unzip();
            if let Some(entry) = self.ledger.set.widen(entries, dir, kind) {
                self.ledger.retries.stand(entry, &before);
            }
        }
    }

    // ----- standby -----

    pub(super) fn refill_standby(&mut self, cx: &mut Context<'_>) {
        if !self.is_up()
            || self.schedule.is_stopping()
            || self.schedule.is_paused()
            || cx.held.is_some()
            || self.link.is_limited()
        {
            return;
        }
        for _ in self.runs.standbys()..self.schedule.pace.standbys(self.cfg.standby) {
            if !self.shared_standby() {
                return;
            }
            let standby = Launch::of(Pass::Shallow, Input::Standby, LaunchKind::Standby);
            if self.start(cx, Launch { lane: Lane::Small, compare: Compare::Resend, ..standby }).is_none() {
                return;
            }
        }
    }

    /// Gives a list to a standby process. Returns the run.
    ///
    /// # Errors
    /// The batch and the list, where none takes it.
    pub(super) fn give_to_standby<'l>(
        &mut self,
        cx: &mut Context<'_>,
        batch: Batch,
        purpose: Purpose,
        list: StandbyList<'l>,
    ) -> Result<u32, (Batch, StandbyList<'l>)> {
        let Some((serial, InFlightRun { mut process, .. })) = self.runs.take_standby(list.bytes) else {
            return Err((batch, list));
        };
        if cx.now.saturating_sub(process.started) > STANDBY_INFANT {
            self.proven(cx);
        }
        match process.rsync.feed(list.bytes) {
            Ok(()) => {
                (process.started, process.fifo_checked, process.progress_logged) = (cx.now, cx.now, cx.now);
                (process.pulse, process.lane) = (Pulse::new(cx.now), list.lane);
                let links = cx.links.as_deref_mut().map(Links::run_begins);
                let how = How::by_standby(list.paths, links, cx.stamp, list.ancestors);
                let kind = RunKind::Batch(Box::new(Carried { batch, purpose, how }));
                self.runs.insert(serial, InFlightRun { process, kind });
                Ok(serial)
            }
            Err(error) => {
                tracing::debug!(mirror = %self.mirror.name, target_name = %self.cfg.name, %error, "a standby took no list");
                self.runs.unregister(cx.reactor, serial);
                Err((batch, list))
            }
        }
    }

    pub(super) fn drop_standbys(&mut self, cx: &mut Context<'_>) {
        self.runs.drop_standbys(cx.reactor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, seen: Seen) -> [Entry; 1] {
        let mut set = DirtySet::new(10);
        set.see(path.as_bytes(), seen);
        let batch = set.take_shallow(Limits { max_paths: 10, ignore_holds: true }, &mut |_, _| false);
        batch.unwrap().entries.try_into().unwrap()
    }

    #[test]
    fn a_level_is_asked_for_where_it_costs_no_more_than_itself() {
        for (lane, dry_first, min) in
            [(Lane::Bulk, false, 10), (Lane::Bulk, true, 50), (Lane::Small, false, 50), (Lane::Small, true, 50)]
        {
            assert_eq!(level_min(lane, dry_first), min, "{lane:?}, dry run first: {dry_first}");
        }
    }

    #[test]
    fn a_level_of_many_files_is_not_compared_above_others() {
        for (new, has_dirs, want) in [(2_000, true, true), (2_001, true, false), (120_000, false, true)] {
            assert_eq!(leaves_room(new, has_dirs), want, "{new} files, directories: {has_dirs}");
        }
    }

    #[test]
    fn a_level_and_a_file_in_it_do_not_leave_together() {
        use Seen::{Contents, Written};
        for (first, second, meet) in [
            (("", Contents), ("f", Written), true),
            (("d/f", Written), ("d", Contents), true),
            (("d", Contents), ("d/f", Written), true),
            (("d", Contents), ("d/e/f", Written), false),
            (("d", Contents), ("dd/f", Written), false),
            (("d", Contents), ("d/e", Contents), false),
            (("d/f", Written), ("d/g", Written), false),
        ] {
            let mut begun = Begun::default();
            begun.take(&entry(first.0, first.1));
            assert_eq!(begun.meets(&entry(second.0, second.1)), meet, "{first:?} {second:?}");
        }
    }
}
