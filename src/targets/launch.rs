//! How one rsync is started and entered among the target's runs.

use super::*;
use crate::faillog;

use std::os::fd::AsFd;

/// One rsync to start.
pub(super) struct Launch<'a> {
    pub(super) pass: Pass,
    pub(super) input: Input<'a>,
    pub(super) load: Load,
    pub(super) manner: guarded::Manner<'a>,
    /// How many paths it is told.
    pub(super) paths: usize,
    /// Where it counts.
    pub(super) lane: Lane,
    pub(super) compare: Compare,
    /// Directories above what it carries, with their ctime when it was composed.
    pub(super) ancestors: BTreeMap<RelPath, FileTime>,
}

impl<'a> Launch<'a> {
    /// In the plain manner, with a quick comparison.
    pub(super) fn of(pass: Pass, input: Input<'a>, load: Load) -> Launch<'a> {
        let (manner, ancestors) = (guarded::Manner::default(), BTreeMap::new());
        Launch { pass, input, load, manner, paths: 0, lane: Lane::Bulk, compare: Compare::Quick, ancestors }
    }

    /// It runs dry before it runs, as rsync is not left alone with directories when it cannot be told all that is left out of them.
    fn dry_first(&self, filter: &Filter) -> bool {
        let by_itself = matches!(self.pass, Pass::Deep | Pass::ShallowOneLevel | Pass::Full { .. });
        let plain = self.manner.look.is_none() && !self.manner.second;
        by_itself && plain && matches!(self.load, Load::Batch(_)) && !filter.is_rsyncs()
    }
}

impl Target {
    /// Whether a run may start that changes the target: the source is what it was, and our role lets us. Otherwise the mirror is
    /// held, or the target fenced off.
    pub(super) fn preflight(&mut self, cx: &mut Context<'_>) -> bool {
        match ((cx.check)(), self.own_role()) {
            (Err(hold), _) => *cx.held = Some(hold),
            (_, Err(why)) => self.fence_off(cx, why),
            (Ok(()), Ok(())) => return true,
        }
        false
    }

    /// Returns whether it runs. If not, its batch is pending again and the target counts as away.
    pub(super) fn start(&mut self, cx: &mut Context<'_>, launch: Launch<'_>) -> bool {
        let serial = self.next_run;
        self.next_run = self.next_run.wrapping_add(1);
        let dry = launch.dry_first(&self.mirror.filter);
        let started = self.spawn(cx, serial, &launch, dry);
        let Launch { pass, load, manner, paths, lane, compare, ancestors, .. } = launch;
        let run = match started {
            Ok(run) => run,
            Err((config, error)) => {
                self.unregister(cx, serial);
                if let Load::Batch(batch) = load {
                    self.periodic.back(manner.limited);
                    self.ledger.give_back(batch);
                }
                self.went_away(cx, config, format!("cannot start rsync: {error}"));
                return false;
            }
        };
        let wide = matches!(&load, Load::Batch(b) if b.entries.iter().any(|e| e.kind == Kind::Subtree));
        let links = self.mirror.extras.hard_links
            && manner.renamed.is_none()
            && !matches!(&load, Load::Batch(b) if self.links_later(pass, b));
        let tops = match &load {
            Load::Batch(batch) if lane == Lane::Bulk => lanes::crowded_tops(&batch.entries, SMALL_PATHS),
            _ => BTreeSet::new(),
        };
        let run = Flight {
            tops,
            wide,
            compare,
            dry,
            limited: manner.limited,
            extra: manner.extra,
            survey: None,
            run,
            load,
            pass,
            lane,
            stood_by: false,
            started: cx.now,
            paths,
            soft: false,
            ancestors,
            unheard: None,
            looked: cx.now,
            told: cx.now,
            ended_badly: None,
            links,
            pulse: Pulse::new(cx.now),
            standing: Default::default(),
            aside: self.fence.as_ref().and_then(|f| f.aside.then_some(f.epoch)),
            look: manner.look,
            withholds: manner.withholds,
            moving: None,
            below: manner.below.map(|below| below.dir.clone()),
            lingers: None,
        };
        self.runs.insert(serial, run);
        true
    }

    /// Whether a run makes no links although they are wanted; see [`knots`].
    fn links_later(&self, pass: Pass, batch: &Batch) -> bool {
        matches!(pass, Pass::Deep | Pass::Full { .. }) && self.knots.links_later(&batch.entries)
    }

    /// Starts the process and waits for its output and its end.
    ///
    /// # Errors
    /// What went wrong, and whether the configuration is to blame.
    fn spawn(&self, cx: &mut Context<'_>, serial: u32, launch: &Launch<'_>, dry: bool) -> Result<Run, (bool, String)> {
        let manner = &launch.manner;
        let extra = self.aside_args(serial);
        let root = if launch.pass == Pass::Role { self.inbox() } else { cx.root.path() };
        let mut spec = Spec { extra: &extra, renamed: manner.renamed, ..self.spec(root, launch.compare) };
        spec.source = if launch.pass == Pass::Role { self.inbox_fd() } else { Some(cx.root.as_fd()) };
        spec.dry_run = manner.look.is_some() || dry;
        spec.delete &= manner.withholds.is_none() && !matches!(manner.look, Some(guarded::Look::Entries));
        spec.max_delete = match manner.extra {
            guarded::Extra::Counted => Some(0),
            _ => self.cap().filter(|_| !spec.dry_run && !manner.free),
        };
        spec.spare = manner.extra == guarded::Extra::Stays;
        if manner.limited {
            spec.filter_args = &self.limited_args;
        }
        if let Load::Batch(batch) = &launch.load {
            spec.extras.hard_links &= !self.links_later(launch.pass, batch);
        }
        let hiding = match &launch.load {
            Load::Batch(batch) if pass_compares(launch.pass) => self.unread.rules(&batch.entries),
            _ => Vec::new(),
        };
        let filters = [hiding, spec.filter_args.to_vec()].concat();
        spec.filter_args = &filters;
        if let Some(below) = manner.below {
            (spec.below, spec.filter_args) = (manner.below, &below.filter_args);
        }
        if let Some(guards) = &manner.guards {
            spec.guard_args = guards;
        }
        if tracing::enabled!(tracing::Level::DEBUG) {
            let words: Vec<String> = argv::argv(&spec, launch.pass)
                .iter()
                .map(|w| Shown(&faillog::quoted(w.as_encoded_bytes())).to_string())
                .collect();
            tracing::debug!(mirror = %self.mirror.name, target_name = %self.cfg.name, command = %words.join(" "), "starting rsync");
        }
        let mut run = Run::start(&spec, launch.pass, &self.env, launch.input)
            .map_err(|e| (matches!(e, RunError::Password(_)), chain(&e)))?;
        run.keep_items(match &manner.look {
            Some(look) => self.kept_items(look),
            None if dry => self.mirror.batch.max_pending,
            None => self.telling.keep.max(self.kept_for_standing(&launch.load)),
        });
        let fds = [(run.output_fd(Stream::Stdout), STDOUT), (run.output_fd(Stream::Stderr), STDERR), (Some(run.pidfd()), EXIT)];
        for (fd, which) in fds {
            let Some(fd) = fd else { continue };
            let added = cx.reactor.add(fd, Interest::Read, token(self.index, serial, which));
            added.map_err(|e| (false, format!("cannot wait for it: {e}")))?;
        }
        Ok(run)
    }
}

/// Whether a pass reads directories.
fn pass_compares(pass: Pass) -> bool {
    matches!(pass, Pass::ShallowOneLevel | Pass::Deep | Pass::Full { .. })
}
