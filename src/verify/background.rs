//! `verify_every`: targets are compared with their source now and then, while everything goes on.
//!
//! One comparison at a time in the whole process, by an rsync that gets what others leave over, so
//! that batches are not held up by it. The first comes one interval after the start. Differences
//! are reported, and put right unless `verify_repair` says no: a difference that nothing explains
//! is a change that was lost, and none may stay lost that is known.
//!
//! The thread of a mirror ends when its [`Verifying`] is dropped, or at the first turn at which its
//! engine has ended.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::verify;
use crate::config::Mirror;
use crate::engine::Handle;
use crate::engine::Live;
use crate::status::verify::{Options, Report};

/// Held while a comparison runs.
static TURN: Mutex<()> = Mutex::new(());

/// Paths that the log names.
const NAMED: usize = 5;

/// Keeps the thread of a mirror running; where the mirror wants none, nothing.
#[derive(Default)]
pub(crate) struct Verifying {
    _lives: Option<mpsc::Sender<()>>,
}

/// Starts the thread of a mirror that wants one.
pub(crate) fn start(mirror: &Mirror, engine: &Handle) -> Verifying {
    let Some(every) = mirror.verify_every else { return Verifying::default() };
    let (lives, ended) = mpsc::channel();
    let options = Options { checksum: mirror.verify_checksum, repair: mirror.verify_repair };
    let engine = engine.clone();
    let thread = std::thread::Builder::new().name("fansync-verify".into()).spawn(move || run(&engine, every, options, &ended));
    if let Err(error) = thread {
        tracing::error!(mirror = %mirror.name, %error, "targets are not verified: no thread can be started for it; restart fansync");
    }
    Verifying { _lives: Some(lives) }
}

fn run(engine: &Handle, every: Duration, options: Options, ended: &mpsc::Receiver<()>) {
    while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
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
