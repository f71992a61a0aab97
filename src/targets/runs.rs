//! The rsyncs of a target that are under way: what each is for, and how it stands.
//!
//! A run's purpose is set once, when it is started ([`RunKind`], [`Purpose`]), and its end is a
//! `match` on that.

use super::*;

/// One rsync under way.
pub(super) struct InFlightRun {
    pub(super) process: Process,
    pub(super) kind: RunKind,
}

/// What every run has.
pub(super) struct Process {
    pub(super) rsync: Run,
    pub(super) pass: Pass,
    /// What it left by, which is where it counts.
    pub(super) lane: Lane,
    pub(super) started: Duration,
    /// What it writes is not read before then, see [`OUTPUT_PAUSE`].
    pub(super) stdout_paused_until: Option<Duration>,
    /// When it was last checked for FIFOs.
    pub(super) fifo_checked: Duration,
    /// When the log had a line on its progress.
    pub(super) progress_logged: Duration,
    pub(super) abort_reason: Option<AbortReason>,
    pub(super) pulse: Pulse,
    /// The epoch for which it keeps aside what it replaces.
    pub(super) aside: Option<u64>,
    /// It has ended, and its receiver may not have.
    pub(super) lingers: Option<orphans::Lingers>,
}

/// What a run is.
pub(super) enum RunKind {
    Probe,
    /// Fetches the target's mark.
    Role,
    Standby,
    Batch(Box<Carried>),
}

/// What a run does with a batch.
pub(super) struct Carried {
    pub(super) batch: Batch,
    pub(super) purpose: Purpose,
    pub(super) how: How,
}

/// How a run carries its batch.
pub(super) struct How {
    /// How many paths it gets.
    pub(super) paths: usize,
    pub(super) compare: Compare,
    /// Leaves alone what only the periodic comparisons leave alone.
    pub(super) limited: bool,
    /// It makes links (`-H`), and what the index of names loses meanwhile is kept for it.
    pub(super) links: Option<crate::links::Since>,
    /// What is changed while it is under way has this change time, or a later one.
    pub(super) began: FileTime,
    pub(super) from_standby: bool,
    /// It carries whole subtrees, by itself or by a list.
    pub(super) wide: bool,
    /// It has taken so long that others pass below it.
    pub(super) soft: bool,
    /// Directories above the listed paths, with the ctime seen.
    pub(super) ancestors: BTreeMap<RelPath, FileTime>,
    /// See [`lanes::crowded_tops`]; of bulk runs.
    pub(super) tops: BTreeSet<Vec<u8>>,
    /// The file that it stands at.
    pub(super) stalled: slow::StalledAt,
}

/// What a batch travels for.
pub(super) enum Purpose {
    /// To be on the target afterwards. `below`: where the run begins, if not at the top.
    Carry { extra: Extra, below: Option<RelPath> },
    /// The same, but for these deletions.
    Withhold(guarded::Withholds),
    /// To be compared by a dry run, and sent by a list of its findings ([`survey`]).
    Survey { extra: Extra, withholds: Option<guarded::Withholds> },
    /// That list.
    SecondHalf { survey: survey::Survey, withholds: Option<guarded::Withholds> },
    /// To be renamed on the target.
    Rename(renames::Moving),
    /// Nothing is changed: something is to be known first.
    DryRun(DryRun),
}

/// Why a run was ended from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AbortReason {
    /// No progress for the time of the watchdog; perhaps the target hangs.
    Stalled,
    /// Nothing but keep-alives for too long.
    Idle,
    /// It made links, and its processes waited for each other.
    Knotted,
    /// A FIFO of the source held it up. The target has no part in it.
    Fifo,
    /// A probe that the target does not answer.
    Silent,
    /// A lease on a file of the source did.
    Lease,
    /// The only file that it carried is gone.
    Gone,
    /// It would enter a place that is left alone since.
    Apart,
    /// A file of holes held it up.
    Hollow,
    /// It carries such a file, and a comparison waits for its end.
    GivesWay,
    /// Another bandwidth of all targets holds than at its start.
    Bandwidth,
}

impl InFlightRun {
    pub(super) fn is_standby(&self) -> bool {
        matches!(self.kind, RunKind::Standby)
    }

    /// What it carries, if it does.
    pub(super) fn carried(&self) -> Option<&Carried> {
        match &self.kind {
            RunKind::Batch(carried) => Some(carried),
            RunKind::Probe | RunKind::Role | RunKind::Standby => None,
        }
    }

    pub(super) fn batch(&self) -> Option<&Batch> {
        self.carried().map(|carried| &carried.batch)
    }
}

impl How {
    /// How a standby process carries its list.
    pub(super) fn by_standby(
        paths: usize,
        links: Option<crate::links::Since>,
        began: FileTime,
        ancestors: BTreeMap<RelPath, FileTime>,
    ) -> How {
        How {
            paths,
            compare: Compare::Resend,
            limited: false,
            links,
            began,
            from_standby: true,
            wide: false,
            soft: false,
            ancestors,
            tops: BTreeSet::new(),
            stalled: slow::StalledAt::default(),
        }
    }
}

impl Purpose {
    /// To be on the target afterwards, deletions within the bounds.
    pub(super) fn carry() -> Purpose {
        Purpose::Carry { extra: Extra::Goes, below: None }
    }

    /// Nothing is changed.
    pub(super) fn is_dry(&self) -> bool {
        matches!(self, Purpose::DryRun(_) | Purpose::Survey { .. })
    }

    /// It makes no links although they are wanted, so that its list is right in any case
    /// ([`inherited`]).
    pub(super) fn links_nothing(&self) -> bool {
        matches!(self, Purpose::DryRun(DryRun::Proof(proof)) if proof.narrows)
    }

    /// What becomes of things that only the target has.
    pub(super) fn extra(&self) -> Extra {
        match self {
            Purpose::Carry { extra, .. } | Purpose::Survey { extra, .. } => *extra,
            Purpose::DryRun(DryRun::Proof(proof)) => proof.extra,
            Purpose::Withhold(_) | Purpose::SecondHalf { .. } | Purpose::Rename(_) | Purpose::DryRun(_) => Extra::Goes,
        }
    }

    /// It deletes nothing.
    pub(super) fn keeps_all(&self) -> bool {
        match self {
            Purpose::Withhold(_) | Purpose::DryRun(DryRun::Entries) => true,
            Purpose::Survey { withholds, .. } | Purpose::SecondHalf { withholds, .. } => withholds.is_some(),
            Purpose::Carry { .. } | Purpose::Rename(_) | Purpose::DryRun(_) => false,
        }
    }

    /// Where the run begins, if not at the top.
    pub(super) fn below(&self) -> Option<&RelPath> {
        match self {
            Purpose::Carry { below, .. } => below.as_ref(),
            _ => None,
        }
    }

    /// By a dry run and a list, where rsync is not left alone with directories because its filters
    /// cannot express all that is left out of them.
    pub(super) fn in_halves(self) -> Purpose {
        match self {
            Purpose::Carry { extra, .. } => Purpose::Survey { extra, withholds: None },
            Purpose::Withhold(withholds) => Purpose::Survey { extra: Extra::Goes, withholds: Some(withholds) },
            other => other,
        }
    }
}

/// The runs of a target, by number.
pub(super) struct Runs {
    index: u16,
    flights: BTreeMap<u32, InFlightRun>,
    next: u32,
}

impl Runs {
    /// `index`: the target's number.
    pub(super) fn new(index: u16) -> Runs {
        Runs { index, flights: BTreeMap::new(), next: 0 }
    }

    /// The number of the next run.
    pub(super) fn number(&mut self) -> u32 {
        let serial = self.next;
        self.next = self.next.wrapping_add(1);
        serial
    }

    /// By what the reactor knows a descriptor of a run.
    pub(super) fn token(&self, serial: u32, which: u8) -> u64 {
        token(self.index, serial, which)
    }

    /// Waits for a descriptor of a run.
    pub(super) fn watch(&self, reactor: &mut Reactor, fd: BorrowedFd<'_>, serial: u32, which: u8) -> std::io::Result<()> {
        reactor.add(fd, Interest::Read, self.token(serial, which))
    }

    /// Takes a run's descriptors out of the reactor.
    pub(super) fn unregister(&self, reactor: &mut Reactor, serial: u32) {
        for which in [STDOUT, STDERR, EXIT] {
            let _ = reactor.remove(self.token(serial, which));
        }
    }

    pub(super) fn insert(&mut self, serial: u32, run: InFlightRun) {
        self.flights.insert(serial, run);
    }

    pub(super) fn remove(&mut self, serial: u32) -> Option<InFlightRun> {
        self.flights.remove(&serial)
    }

    pub(super) fn get(&self, serial: u32) -> Option<&InFlightRun> {
        self.flights.get(&serial)
    }

    pub(super) fn get_mut(&mut self, serial: u32) -> Option<&mut InFlightRun> {
        self.flights.get_mut(&serial)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &InFlightRun)> {
        self.flights.iter().map(|(&serial, run)| (serial, run))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut InFlightRun)> {
        self.flights.iter_mut().map(|(&serial, run)| (serial, run))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &InFlightRun> {
        self.flights.values()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut InFlightRun> {
        self.flights.values_mut()
    }

    /// Those that carry something.
    pub(super) fn carriers(&self) -> impl Iterator<Item = (&Process, &Carried)> {
        self.values().filter_map(|run| Some((&run.process, run.carried()?)))
    }

    /// What they carry.
    pub(super) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.values().filter_map(InFlightRun::batch)
    }

    /// Whether something is being carried.
    pub(super) fn is_sending(&self) -> bool {
        self.batches().next().is_some()
    }

    /// Whether a run carries this batch.
    pub(super) fn flies(&self, id: BatchId) -> bool {
        self.batches().any(|batch| batch.id == id)
    }

    /// How many standby processes there are.
    pub(super) fn standbys(&self) -> usize {
        self.values().filter(|run| run.is_standby()).count()
    }

    pub(super) fn lanes(&self) -> Lanes {
        Lanes::of(self.carriers().map(|(process, _)| process.lane))
    }

    /// Ends the process of a run that is no concern any more.
    fn discard(&mut self, reactor: &mut Reactor, serial: u32) {
        self.unregister(reactor, serial);
        self.remove(serial);
    }

    /// Ends the standby processes.
    pub(super) fn drop_standbys(&mut self, reactor: &mut Reactor) {
        self.discard_where(reactor, InFlightRun::is_standby);
    }

    /// Ends the processes of some runs.
    pub(super) fn discard_where(&mut self, reactor: &mut Reactor, which: impl Fn(&InFlightRun) -> bool) {
        let serials: Vec<u32> = self.iter().filter(|(_, run)| which(run)).map(|(serial, _)| serial).collect();
        serials.into_iter().for_each(|serial| self.discard(reactor, serial));
    }

    /// Ends the processes of these runs.
    pub(super) fn end(&mut self, reactor: &mut Reactor, serials: &[u32]) {
        serials.iter().for_each(|serial| self.discard(reactor, *serial));
    }

    /// Waits again for what runs write, where the pause is over. What they write meanwhile stays in
    /// the pipe; an end is seen at once, and reads the rest.
    pub(super) fn read_on(&mut self, now: Duration, reactor: &mut Reactor) {
        let index = self.index;
        for (&serial, run) in &mut self.flights {
            if run.process.stdout_paused_until.take_if(|at| *at <= now).is_none() {
                continue;
            }
            let Some(fd) = run.process.rsync.output_fd(Stream::Stdout) else { continue };
            // Refused is only a token in use, and this one was taken out.
            let _ = reactor.add(fd, Interest::Read, token(index, serial, STDOUT));
        }
    }

    /// Keeps what a run says of these paths.
    pub(super) fn keep_items_of(&mut self, serial: u32, paths: impl IntoIterator<Item = RelPath>) {
        if let Some(run) = self.flights.get_mut(&serial) {
            run.process.rsync.keep_items_of(paths);
        }
    }

    /// Others pass below a run that goes on for one below which they did.
    pub(super) fn soft_from_the_start(&mut self, serial: u32, soft: bool) {
        if let Some(InFlightRun { kind: RunKind::Batch(carried), .. }) = self.flights.get_mut(&serial) {
            carried.how.soft = soft;
        }
    }

    /// A standby process and takes a list of this length.
    pub(super) fn take_standby(&mut self, list: &[u8]) -> Option<(u32, InFlightRun)> {
        let fits = |run: &InFlightRun| run.is_standby() && run.process.rsync.capacity().is_some_and(|c| c >= list.len());
        let serial = self.iter().find(|(_, run)| fits(run))?.0;
        self.remove(serial).map(|run| (serial, run))
    }
}
