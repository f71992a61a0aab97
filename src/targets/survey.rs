//! Comparing directories where rsync's filters cannot express all that is left out of them
//! ([`Filter::is_rsyncs`]), in two halves.
//!
//! First rsync is run dry and lists what differs, on both sides. What the filter leaves out is
//! dropped from that, and the rest goes by a list of exact paths, looked up once more. So nothing
//! excluded is sent, also what came to be between the halves; and nothing excluded is deleted,
//! since each deletion names its path and the guards protect what lies below. The batch is
//! confirmed by the second half, and nothing that touches it leaves in between, as with any run.
//!
//! A receiver that cannot delete by name compares whole levels for that, where everything is hidden
//! from rsync that the guards match. What only they match, and no expression, is then sent by
//! itself and not deleted.
//!
//! What is left out can take the name of something that is not: of a directory, a file whose name
//! is that of a temporary one. Neither half deletes what the target has there: the name is no
//! missing one. Such a thing goes by a run of its own between the halves (`displaced`), and the
//! comparison is made again.
//!
//! Gives up: at most `max_pending` differences at a time; then the comparison is made again.

use super::displaced::Displaced;
use super::*;

/// Exceptions from the guards in one command line.
pub(super) const MAX_RISKS: usize = 500;

/// What the first half leaves to the second.
#[derive(Debug)]
pub(super) struct Survey {
    /// It did not see everything.
    doubt: Option<Outcome>,
    deletes_skipped: bool,
    /// There are more differences than were kept, or than this half carries.
    again: bool,
    /// What this half deletes because something that is left out has its name.
    displaced: Vec<RelPath>,
}

impl Survey {
    /// Whether the second half does not carry all that differs.
    pub(super) fn is_cut_off(&self) -> bool {
        self.again
    }
}

/// A rule as an argument: `-r` protects on the receiver, `+r` exempts, `-` hides as well.
pub(super) fn guard(sign: &[u8], pattern: &[u8]) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec([b"--filter=", sign, b" ", pattern].concat())
}

/// The arguments for what the periodic comparisons of a mirror leave alone: what its filter says,
/// and `full_exclude`.
pub(crate) fn limited_args(mirror: &Mirror) -> Vec<OsString> {
    let none: &[&[u8]] = &[];
    let limits = Filter::new(none, &mirror.full_exclude).unwrap_or_default(); // checked with the configuration
    mirror.filter.rsync_args().into_iter().chain(limits.rsync_args()).collect()
}

/// Whether the next comparison of the whole tree is wanted by the schedule alone: then it leaves
/// alone what the schedule's own filter says. Any other reason wants all of it.
#[derive(Debug, Default)]
pub(super) struct Periodic {
    owed: bool,
    limited: bool,
    /// The set's count of directories that were made to stand for what is below; it may request the
    /// whole tree by itself.
    coarsened: u64,
}

impl Periodic {
    pub(super) fn due(&mut self, coarsened: u64) {
        if !self.owed {
            (self.limited, self.coarsened) = (true, coarsened);
        }
        self.owed = true;
    }

    pub(super) fn unlimited(&mut self) {
        (self.owed, self.limited) = (true, false);
    }

    /// A comparison starts: whether it is a limited one.
    pub(super) fn take(&mut self, coarsened: u64) -> bool {
        self.owed = false;
        std::mem::take(&mut self.limited) && self.coarsened == coarsened
    }

    /// One has to be made again.
    pub(super) fn back(&mut self, limited: bool) {
        if limited && !self.owed {
            (self.owed, self.limited) = (true, true);
        }
    }
}

/// The directories above those that were kept on the target (`kept`, with their kept children
/// before them): perhaps only the guards kept what is in them, for which a survey is needed.
pub(super) fn above_kept(kept: &[RelPath]) -> BTreeSet<RelPath> {
    let kept: BTreeSet<&[u8]> = kept.iter().map(|p| &**p).collect();
    let tops = kept.iter().filter_map(|p| path::parent(p)).filter(|above| !kept.contains(above));
    tops.map(RelPath::from_normal).collect()
}

impl Target {
    /// Whether every deletion of the source raises an event that is followed.
    pub(super) fn follows_deletions(&self) -> bool {
        self.mirror.events.delete && self.mirror.events.move_from
    }

    /// The first half has ended: starts the second.
    pub(super) fn surveyed(
        &mut self,
        cx: &mut Context<'_>,
        mut run: Process,
        (batch, how): (Batch, How),
        withholds: Option<guarded::Withholds>,
        outcome: Outcome,
    ) {
        let (items, all) = run.rsync.take_items();
        let id = batch.id;
        let survey = Survey {
            deletes_skipped: run.rsync.output().signs.deletes_skipped,
            again: !all,
            displaced: Vec::new(),
            doubt: (!outcome.is_done()).then_some(outcome),
        };
        tracing::debug!(target_name = %self.cfg.name, differences = items.len(), complete = all, "compared by a dry run");
        let differs: Vec<_> = items.iter().filter(|i| !cx.filter.excludes(&i.path, i.dir)).collect();
        let paths: Vec<_> = differs.iter().map(|i| (i.path.clone(), Kind::Entry)).collect();
        let normalised = self.preflight(cx).then(|| normal::normalise(std::os::fd::AsFd::as_fd(cx.root), &paths, cx.statter));
        let Some(Ok(normal)) = normalised else {
            if let Some(Err(e)) = normalised {
                *cx.held = Some(Hold::Gone(chain(&e)));
            }
            self.schedule.periodic.back(how.limited);
            self.ledger.give_back(batch);
            return self.ledger.landed(id);
        };
        let deletions = self.spec_for(cx.root.path(), Compare::Quick, &batch.entries).deletions();
        let displaced = match withholds {
            None => self.displaced.found(cx.filter, &self.args.guarded, &normal, &items),
            Some(_) => Displaced::default(),
        };
        let (list, guards, survey) = match displaced.names.is_empty() {
            true => self.second_half(cx, &normal, &differs, deletions, survey),
            false => {
                let guards = displaced.rules(&self.args.guards);
                let list = displaced.dirs.into_iter().map(|dir| (dir, Form::OneLevel)).collect();
                (list, Some(guards), Survey { again: true, displaced: displaced.names, ..survey })
            }
        };
        if list.is_empty() {
            self.proven(cx);
            match withholds {
                Some(withholds) => self.withhold_rest(cx, batch, withholds),
                None => {
                    let reconciles = self.counters.reconciles;
                    self.survey_done(cx, batch, &how, survey);
                    if self.counters.reconciles > reconciles {
                        self.guard.filled();
                    }
                }
            }
            self.ledger.landed(id);
            return;
        }
        let one_level = list.iter().any(|(_, form)| *form == Form::OneLevel);
        let encoded = filelist::encode(list.iter().map(|(p, f)| (p, *f)));
        for (path, _) in encoded.refused.iter().filter(|(_, why)| *why == Refusal::TooLong) {
            self.take_in(cx.now, path, Seen::Written, None); // to be reported by itself
        }
        let pass = if one_level { Pass::ShallowOneLevel } else { Pass::Shallow };
        let mut ancestors: BTreeMap<RelPath, FileTime> = normal.ancestors.iter().cloned().collect();
        ancestors.insert(RelPath::root(), normal.root.ctime);
        // What it deletes was judged before the first half.
        let options = RunOptions { guards, limited: how.limited, free: true, ..Default::default() };
        let launch = Launch::batch(pass, Input::List(&encoded.bytes), batch, Purpose::SecondHalf { survey, withholds });
        let (paths, lane, compare) = (encoded.entries, run.lane, how.compare);
        if !self.is_up() {
            return self.ledger.landed(id);
        }
        match self.start(cx, Launch { options, paths, lane, compare, ancestors, ..launch }) {
            Some(serial) => self.runs.soft_from_the_start(serial, how.soft),
            None => self.ledger.landed(id),
        }
    }

    /// The list of what differs, and the guards for it.
    fn second_half(
        &mut self,
        cx: &Context<'_>,
        normal: &Normal,
        differs: &[&Item],
        deletions: Deletions,
        mut survey: Survey,
    ) -> (Vec<(RelPath, Form)>, Option<Vec<OsString>>, Survey) {
        let missing = normal.items.iter().any(|i| i.state == Look::Missing);
        let by_level = deletions == Deletions::ByParent && missing;
        let mut list = Vec::new();
        for item in &normal.items {
            match item.state {
                Look::Unreadable(errno) => {
                    let why = format!("cannot look at {} on the source: {}", item.path, errno.desc());
                    survey.doubt.get_or_insert_with(|| Outcome { verdict: Verdict::Partial, ..Outcome::unknown(why) });
                }
                Look::Present(stat) if item.path.is_root() || cx.filter.excludes(&item.path, stat.is_dir()) => {
                    // The root's attributes travel with any list.
                    if item.path.is_root() && normal.items.len() == 1 {
                        list.push((RelPath::from_normal(format!(".probe-{:016x}", fastrand::u64(..))), Form::Plain));
                    }
                }
                Look::Present(_) if by_level && self.args.guarded.excludes(&item.path, false) => {
                    self.take_in(cx.now, &item.path, Seen::Touched, None);
                }
                Look::Present(_) => list.push((item.path.clone(), Form::Plain)),
                Look::Missing => list.extend(deletions.listed(&item.path)),
            }
        }
        if by_level {
            let hidden = self.mirror.filter.guards().iter().map(|p| guard(b"-", p)).collect();
            return (list, Some(hidden), survey);
        }
        // What is to go by name must not be protected for its name.
        let guarded = differs.iter().filter(|i| i.deletes() && self.args.guarded.excludes_leaf(&i.path, false));
        let mut risks: Vec<RelPath> = guarded.map(|i| i.path.clone()).collect();
        survey.again |= risks.len() > MAX_RISKS;
        risks.truncate(MAX_RISKS);
        let guards = (!risks.is_empty()).then(|| self.args.guards_but(&risks));
        (list, guards, survey)
    }

    /// Both halves went through.
    pub(super) fn survey_done(&mut self, cx: &mut Context<'_>, batch: Batch, how: &How, survey: Survey) {
        match survey.doubt {
            _ if survey.again => {
                self.displaced.went(survey.displaced);
                self.ledger.give_back(batch);
            }
            Some(outcome) => self.partial(cx, survey.deletes_skipped, batch, how, outcome),
            None => {
                self.displaced.done();
                let outcome = Outcome { verdict: Verdict::Done, ..Outcome::unknown(String::new()) };
                if let Some(batch) = self.without_inherited(cx, batch, how, Extra::Goes, &outcome) {
                    self.confirm_read(cx, batch);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_schedule_alone_limits() {
        let mut p = Periodic::default();
        p.due(0);
        assert!(p.take(0));
        p.back(true);
        assert!(p.take(0), "a second try");
        p.due(0);
        p.unlimited();
        assert!(!p.take(0));
        p.unlimited();
        p.due(0);
        assert!(!p.take(0), "a loss came first");
        p.due(0);
        assert!(!p.take(1), "the set requested it by itself");
        p.due(0);
        assert!(p.take(0));
        p.unlimited();
        p.back(true);
        assert!(!p.take(0), "a loss while the limited one failed");
    }
}
