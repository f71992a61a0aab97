//! How one rsync is started and entered among the target's runs.

use super::*;
use crate::faillog;

use std::os::fd::AsFd;

/// One rsync to start.
pub(super) struct Launch<'a> {
    pub(super) pass: Pass,
    pub(super) input: Input<'a>,
    pub(super) kind: LaunchKind,
    pub(super) options: RunOptions<'a>,
    /// How many paths it gets.
    pub(super) paths: usize,
    /// Where it counts.
    pub(super) lane: Lane,
    pub(super) compare: Compare,
    /// Directories above what it carries, with their ctime when it was composed.
    pub(super) ancestors: BTreeMap<RelPath, FileTime>,
}

/// What is started.
pub(super) enum LaunchKind {
    Probe,
    Role,
    Standby,
    Batch(Batch, Box<Purpose>),
}

impl<'a> Launch<'a> {
    /// In the plain manner, with a quick comparison.
    pub(super) fn of(pass: Pass, input: Input<'a>, kind: LaunchKind) -> Launch<'a> {
        let (options, ancestors) = (RunOptions::default(), BTreeMap::new());
        Launch { pass, input, kind, options, paths: 0, lane: Lane::Bulk, compare: Compare::Quick, ancestors }
    }

    /// A batch, for this.
    pub(super) fn batch(pass: Pass, input: Input<'a>, batch: Batch, purpose: Purpose) -> Launch<'a> {
        Launch::of(pass, input, LaunchKind::Batch(batch, Box::new(purpose)))
    }

    /// What compares directories runs dry first, as rsync does not compare these by itself where
    /// its filters cannot express all that is left out.
    fn by(self, filter: &Filter) -> Launch<'a> {
        let kind = match self.kind {
            LaunchKind::Batch(batch, purpose) if compares(self.pass) && !filter.is_rsyncs() => {
                LaunchKind::Batch(batch, Box::new(purpose.in_halves()))
            }
            kind => kind,
        };
        Launch { kind, ..self }
    }
}

impl Target {
    /// Whether a run may start that changes the target: the source is what it was, and our role
    /// lets us. Otherwise the mirror is held, or the target fenced off.
    pub(super) fn preflight(&mut self, cx: &mut Context<'_>) -> bool {
        match ((cx.check)(), self.own_role()) {
            (Err(hold), _) => *cx.held = Some(hold),
            (_, Err(why)) => self.fence_off(cx, why),
            (Ok(()), Ok(())) => return true,
        }
        false
    }

    /// Returns the run, if it runs. If not, its batch is pending again and the target counts as
    /// away.
    pub(super) fn start(&mut self, cx: &mut Context<'_>, launch: Launch<'_>) -> Option<u32> {
        let serial = self.runs.number();
        let launch = if self.is_feed() { launch } else { launch.by(&self.mirror.filter) };
        self.make_room_for(cx, &launch.kind);
        let started = self.spawn(cx, serial, &launch);
        let Launch { pass, kind, options, paths, lane, compare, ancestors, .. } = launch;
        let rsync = match started {
            Ok(rsync) => rsync,
            Err((config, error)) => {
                self.runs.unregister(cx.reactor, serial);
                if let LaunchKind::Batch(batch, _) = kind {
                    self.schedule.periodic.back(options.limited);
                    self.ledger.give_back(batch);
                }
                let what = if self.is_feed() { "cannot publish" } else { "cannot start rsync" };
                self.went_away(cx, config, format!("{what}: {error}"));
                return None;
            }
        };
        let kind = match kind {
            LaunchKind::Probe => RunKind::Probe,
            LaunchKind::Role => RunKind::Role,
            LaunchKind::Standby => RunKind::Standby,
            LaunchKind::Batch(batch, purpose) => {
                let purpose = *purpose;
                let renames = matches!(purpose, Purpose::Rename(_));
                let crowded = if lane == Lane::Bulk { lanes::crowded_tops(&batch.entries, SMALL_PATHS) } else { BTreeSet::new() };
                let makes_links =
                    self.mirror.extras.hard_links && !renames && !purpose.links_nothing() && !self.links_later(pass, &batch);
                let how = How {
                    paths,
                    compare,
                    limited: options.limited,
                    links: cx.links.as_deref_mut().filter(|_| makes_links).map(Links::run_begins),
                    began: cx.stamp,
                    from_standby: false,
                    wide: batch.entries.iter().any(|e| e.kind == Kind::Subtree),
                    soft: false,
                    ancestors,
                    tops: crowded,
                    stalled: Default::default(),
                };
                RunKind::Batch(Box::new(Carried { batch, purpose, how }))
            }
        };
        let process = Process {
            rsync,
            pass,
            lane,
            started: cx.now,
            stdout_paused_until: None,
            fifo_checked: cx.now,
            progress_logged: cx.now,
            abort_reason: None,
            pulse: Pulse::new(cx.now),
            aside: self.fence.as_ref().and_then(|f| f.aside.then_some(f.epoch)),
            lingers: None,
        };
        self.runs.insert(serial, InFlightRun { process, kind });
        Some(serial)
    }

    /// Whether a run makes no links although they are wanted; see [`link_stalls`].
    fn links_later(&self, pass: Pass, batch: &Batch) -> bool {
        matches!(pass, Pass::Deep | Pass::Full { .. }) && self.hard_links.stalls.links_later(&batch.entries)
    }

    /// Starts the process and waits for its output and its end.
    ///
    /// # Errors
    /// What went wrong, and whether the configuration is to blame.
    fn spawn(&self, cx: &mut Context<'_>, serial: u32, launch: &Launch<'_>) -> Result<Run, (bool, String)> {
        if self.is_feed() {
            return self.publish(cx, serial, launch);
        }
        let options = &launch.options;
        let carries = match &launch.kind {
            LaunchKind::Batch(batch, purpose) => Some((batch, &**purpose)),
            LaunchKind::Probe | LaunchKind::Role | LaunchKind::Standby => None,
        };
        let mut extra = self.aside_args(serial);
        if !matches!(launch.kind, LaunchKind::Probe | LaunchKind::Role) {
            extra.extend(self.bandwidth_of(serial, launch.lane).map(|kib| format!("--bwlimit={kib}")));
        }
        let root = if launch.pass == Pass::Role { self.inbox() } else { cx.root.path() };
        let backup = self.backup_of(serial).filter(|_| launch.pass != Pass::Role);
        let mut spec = Spec {
            backup: backup.as_deref(),
            extra: &extra,
            renamed: options.renamed,
            ..self.spec_for(root, launch.compare, carries.map_or(&[], |(batch, _)| &batch.entries))
        };
        spec.source = if launch.pass == Pass::Role { self.inbox_fd() } else { Some(cx.root.as_fd()) };
        if options.limited {
            spec.filter_args = &self.args.limited;
        }
        if launch.lane == Lane::Bulk && carries.is_some() {
            spec.priority = self.cfg.priority();
        }
        let mut filters = Vec::new();
        spec.max_delete = self.cap().filter(|_| !options.free);
        if let Some((batch, purpose)) = carries {
            spec.dry_run = purpose.is_dry();
            spec.delete &= !purpose.keeps_all();
            spec.max_delete = match purpose.extra() {
                Extra::Counted => Some(0),
                _ => spec.max_delete.filter(|_| !purpose.is_dry()),
            };
            spec.spare = purpose.extra() == Extra::Stays;
            spec.extras.hard_links &= !purpose.links_nothing() && !self.links_later(launch.pass, batch);
            if compares(launch.pass) {
                filters = self.unread.rules(&batch.entries);
            }
        }
        filters.extend_from_slice(spec.filter_args);
        spec.filter_args = &filters;
        if let Some(below) = options.below {
            (spec.below, spec.filter_args) = (options.below, &below.filter_args);
        }
        if let Some(guards) = &options.guards {
            spec.guard_args = guards;
        }
        self.log_command(&spec, launch.pass);
        let mut run = Run::start(&spec, launch.pass, &self.args.env, launch.input)
            .map_err(|e| (matches!(e, RunError::Password(_)), chain(&e)))?;
        run.keep_items(match carries {
            Some((_, Purpose::DryRun(dry))) => self.kept_items(dry),
            Some((_, Purpose::Survey { .. })) => self.mirror.batch.max_pending,
            _ => self.confirmations.keep.max(self.items_kept_for(&launch.kind)),
        });
        let fds = [(run.output_fd(Stream::Stdout), STDOUT), (run.output_fd(Stream::Stderr), STDERR), (Some(run.pidfd()), EXIT)];
        for (fd, which) in fds {
            let Some(fd) = fd else { continue };
            let added = self.runs.watch(cx.reactor, fd, serial, which);
            added.map_err(|e| (false, format!("cannot wait for it: {e}")))?;
        }
        Ok(run)
    }

    fn log_command(&self, spec: &Spec<'_>, pass: Pass) {
        if tracing::enabled!(tracing::Level::DEBUG) {
            let words: Vec<String> =
                argv::argv(spec, pass).iter().map(|w| Shown(&faillog::quoted(w.as_encoded_bytes())).to_string()).collect();
            tracing::debug!(mirror = %self.mirror.name, target_name = %self.cfg.name, command = %words.join(" "), "starting rsync");
        }
    }
}

/// Whether a pass reads directories.
fn compares(pass: Pass) -> bool {
    matches!(pass, Pass::ShallowOneLevel | Pass::Deep | Pass::Full { .. })
}
