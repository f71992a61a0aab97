//! A dry run of rsync until its end, with what it shows of its progress.

use std::cell::{Cell, RefCell};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Error;
use crate::engine::Board;
use crate::progress::{LOG_EVERY, Progress};
use crate::sync::outcome::{Outcome, Verdict};
use crate::sync::pulse::{Beat, Carries, Pulse};
use crate::sync::run::Run;
use crate::sys::child::WaitsOn;

/// How often the run is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Which way a run copies, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToTarget,
    FromUpstream,
}

/// The comparisons of one verification.
pub(super) struct Ending<'p> {
    pub(super) mirror: &'p str,
    pub(super) target: &'p str,
    pub(super) board: &'p Board,
    pub(super) way: Way,
    /// How long a run may make no progress.
    pub(super) watchdog: Duration,
    /// Files are read; entries of the tree when it was last verified.
    pub(super) reads: Option<u64>,
    /// Called now and then; once it returns false, a run ends with [`Error::Cancelled`].
    pub(super) going: &'p dyn Fn() -> bool,
}

impl Ending<'_> {
    /// Runs it to its end. `whole`: it compares the whole tree.
    pub(super) fn of(&self, mut run: Run, whole: bool) -> Result<(Run, Outcome), Error> {
        let ended = Cell::new(None);
        let begun = Instant::now();
        let logged = Cell::new(begun);
        let pulse = RefCell::new(Pulse::new(Duration::ZERO));
        let outcome = run.wait_while(POLL_INTERVAL, |run| {
            self.show(run, whole, begun.elapsed(), &logged);
            let why = self.why_end(run, begun.elapsed(), &mut pulse.borrow_mut());
            let goes = why.is_none();
            ended.set(why);
            goes
        });
        let outcome = outcome.unwrap_or_else(|e| Outcome::unknown(format!("how rsync ended is not known: {e}")));
        match ended.take() {
            Some(error) if outcome.verdict != Verdict::Done => Err(error),
            _ => Ok((run, outcome)),
        }
    }

    /// Why a run should not go on.
    fn why_end(&self, run: &Run, now: Duration, pulse: &mut Pulse) -> Option<Error> {
        if !(self.going)() {
            return Some(Error::Cancelled);
        }
        if run.waits_on() == Some(WaitsOn::Fifo) {
            return Some(Error::Incomplete("a file became a FIFO under the comparison".into()));
        }
        let watchdog = self.watchdog;
        if pulse.due(Carries::Whole, watchdog) > now {
            return None;
        }
        let work = match self.way {
            Way::ToTarget => run.work(),
            Way::FromUpstream => run.work_of_pull(),
        };
        match pulse.take(now, work, Carries::Whole, watchdog) {
            Beat::Goes => None,
            Beat::Silent => Some(Error::Unreachable(format!("the comparison made no progress for {watchdog:?}"))),
            Beat::Idle | Beat::Knotted => {
                Some(Error::Unreachable("the comparison did nothing but keep its connection alive".into()))
            }
        }
    }

    fn show(&self, run: &Run, whole: bool, elapsed: Duration, logged: &Cell<Instant>) {
        let what = if whole { "verifying" } else { "verifying once more what differed" };
        let progress = Progress::of_run(what.into(), run, elapsed, whole, 0);
        let progress = match self.reads {
            Some(before) => progress.reading(run, before),
            None => progress,
        };
        if logged.get().elapsed() >= LOG_EVERY {
            logged.set(Instant::now());
            progress.log(self.mirror, self.target);
        }
        self.board.lock().unwrap_or_else(PoisonError::into_inner).progress = Some(progress);
    }
}
