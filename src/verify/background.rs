//! `verify_every`, `verify_at`: targets are compared with their source now and then, while
//! everything goes on.
//!
//! One comparison at a time in the whole process, by an rsync that gets what others leave over, so
//! that batches are not held up by it. The first comes one interval after the start, or at the
//! first of its times of day. Differences
//! are reported, and put right unless `verify_repair` says no: a difference that nothing explains
//! is a change that was lost, and none may stay lost that is known.
//!
//! The thread of a mirror ends when its [`Verifying`] is dropped, or at the first turn at which its
//! engine has ended.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::verify;
use crate::config::Mirror;
use crate::daily::Daily;
use crate::engine::Handle;
use crate::engine::Live;
use crate::status::verify::{Options, Report};
use crate::sys::localtime::{self, LocalTime};

/// Held while a comparison runs.
static TURN: Mutex<()> = Mutex::new(());

/// A clock without a time of day is checked again after that.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(60);

/// Paths that the log names.
const NAMED: usize = 5;

/// Keeps the thread of a mirror running; where the mirror wants none, nothing.
#[derive(Default)]
pub(crate) struct Verifying {
    _lives: Option<mpsc::Sender<()>>,
}

/// Starts the thread of a mirror that wants one.
pub(crate) fn start(mirror: &Mirror, engine: &Handle) -> Verifying {
    let (every, daily) = (mirror.verify_every, Daily::new(&mirror.verify_at));
    if every.is_none() && daily.is_empty() {
        return Verifying::default();
    }
    let times = Times::new(every, daily, Instant::now());
    let (lives, ended) = mpsc::channel();
    let options = Options { checksum: mirror.verify_checksum, repair: mirror.verify_repair };
    let engine = engine.clone();
    let thread = std::thread::Builder::new().name("fansync-verify".into()).spawn(move || run(&engine, times, options, &ended));
    if let Err(error) = thread {
        tracing::error!(mirror = %mirror.name, %error, "targets are not verified: no thread can be started for it; restart fansync");
    }
    Verifying { _lives: Some(lives) }
}

/// When targets are compared.
struct Times {
    every: Option<Duration>,
    next: Option<Instant>,
    daily: Daily,
}

impl Times {
    /// `every`: counted from `now` on.
    fn new(every: Option<Duration>, daily: Daily, now: Instant) -> Times {
        Times { every, next: every.map(|every| now + every), daily }
    }

    /// Whether a comparison is due. `local`: the time of day, if that is known.
    fn take(&mut self, now: Instant, local: Option<LocalTime>) -> bool {
        self.next.is_some_and(|next| next <= now) | local.is_some_and(|local| self.daily.take(local))
    }

    /// A comparison has ended: the next one is an interval away.
    fn ended(&mut self, now: Instant) {
        self.next = self.every.map(|every| now + every);
    }

    /// How long to wait before the next check whether one is due.
    fn wait(&self, now: Instant, local: Option<LocalTime>) -> Duration {
        let daily = local.and_then(|local| self.daily.wait(local));
        let next = self.next.map(|next| next.saturating_duration_since(now));
        daily.into_iter().chain(next).min().unwrap_or(UNKNOWN_PAUSE)
    }
}

fn run(engine: &Handle, mut times: Times, options: Options, ended: &mpsc::Receiver<()>) {
    let clocks = || (Instant::now(), localtime::local(SystemTime::now()));
    loop {
        let (now, local) = clocks();
        if !times.take(now, local) {
            match ended.recv_timeout(times.wait(now, local)) {
                Err(RecvTimeoutError::Timeout) => continue,
                _ => return,
            }
        }
        for target in &engine.targets {
            let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            let live = Live::new(engine.clone(), target.clone());
            match live.plan() {
                Some(Ok(mut plan)) => {
                    plan.idle = true;
                    log(&engine.mirror, target, &verify(&plan, Some(&live), options, &|| true));
                }
                Some(Err(held)) => {
                    tracing::debug!(mirror = %engine.mirror, target_name = %target, "not verified: {held}");
                }
                None => return,
            }
        }
        times.ended(Instant::now());
    }
}

fn log(mirror: &str, target: &str, report: &Report) {
    let (found, left) = (report.found, report.differing());
    if found > 0 {
        let first = report.first.iter().take(NAMED).map(|d| format!("{}: {}", d.path, d.why)).collect::<Vec<_>>().join("; ");
        tracing::warn!(
            %mirror, target_name = %target, differing = found, repaired = report.repaired, left, %first,
            "the target was not equal to its source, though nothing was on its way"
        );
    }
    if !report.error.is_empty() {
        tracing::warn!(%mirror, target_name = %target, "the target could not be verified: {}", report.error);
    } else if found == 0 {
        tracing::info!(
            %mirror, target_name = %target, entries = report.entries, unsettled = report.unsettled,
            seconds = format_args!("{:.1}", report.seconds), "the target is equal to its source"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_begins_when_a_comparison_ends_and_a_time_of_day_is_its_own() {
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let local = |hour, minute| Some(LocalTime { year: 2026, month: 5, day: 7, hour, minute, second: 0 });
        let mut times = Times::new(Some(minute * 90), Daily::new(&["03:00".parse().unwrap()]), start);
        assert!(!times.take(start, local(2, 0)) && times.wait(start, local(2, 0)) == minute, "the clock may be set");
        assert!(times.take(start + minute * 60, local(3, 0)));
        times.ended(start + minute * 70);
        assert!(!times.take(start + minute * 90, local(3, 30)) && !times.take(start + minute * 159, None));
        assert!(times.take(start + minute * 160, local(4, 40)));
        let often = Times::new(Some(Duration::from_secs(5)), Daily::default(), start);
        assert_eq!(often.wait(start, local(1, 0)), Duration::from_secs(5));
        assert_eq!(Times::new(None, Daily::new(&["03:00".parse().unwrap()]), start).wait(start, None), UNKNOWN_PAUSE);
    }
}
