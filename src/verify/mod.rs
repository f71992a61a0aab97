//! Is a target equal to its source? `fansync verify`, and `verify_every` in the background.
//!
//! Promises: a path is reported as different only when nothing that is under way explains it. The
//! target is not changed, unless a repair is requested; that goes through the mirror's own
//! queue, so every guard on deletions holds.
//!
//! How: rsync is run dry over the whole tree with the arguments of the mirror's own full pass
//! (`compare`). What it names may be on its way, or have changed while rsync compared. So, with a
//! daemon running (`judge`): every event so far is confirmed first (a flush), the paths in doubt
//! are watched, and compared once more by name. A path that still differs, that the target was not
//! owed and that did not change meanwhile, differs. The others are judged again, and after
//! `judge::ROUNDS` rounds called unsettled.
//!
//! A follower of a feed is compared with its upstream (`followed`).
//!
//! Without a daemon nothing is under way, and the first comparison is the answer.
//!
//! Gives up: what is written to a file that stays open raises no event (without
//! `follow_open_files`); such a file is unsettled while it is being written, and differs once no
//! process writes to it although it is open. Differences beyond `compare::MAX_KEPT` are counted
//! only.

mod answer;
pub(crate) mod background;
mod bar;
pub(crate) mod cli;
mod compare;
mod ending;
#[cfg(feature = "feed")]
mod followed;
mod judge;
pub(crate) mod moving;
mod rehearse;
mod why;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::{Mirror, Target};
use crate::engine::{Board, Live, Plan, left_alone};
use crate::error::chain;
use crate::path::RelPath;
use crate::root::Root;
use crate::state::mounts::MountsFile;
use crate::status;
use crate::status::verify::{Difference, Options, Report};
use crate::sync::argv;
use crate::sync::probe::RsyncFacts;
use crate::sync::run::RunError;
use crate::targets::Sides;

pub(crate) use rehearse::rehearse;

pub(crate) use answer::answer;
use compare::{Comparer, Differing};
use judge::Judged;
use why::{Side, Why};

/// Paths of a verification that the status keeps.
const SHOWN: usize = 10;
/// Differing paths that a report lists.
const LISTED: usize = 10_000;

/// Why a comparison gives no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The target.
    #[error("{0}")]
    Unreachable(String),
    /// The source is gone, or not the one it was.
    #[error("the source cannot be compared: {0}")]
    Source(String),
    /// rsync ended before it had seen everything.
    #[error("not everything could be compared: {0}")]
    Incomplete(String),
    /// rsync, or the engine.
    #[error("{0}")]
    Unavailable(String),
    /// The client has left.
    #[error("the comparison was called off")]
    Cancelled,
}

impl Error {
    fn start(error: RunError) -> Error {
        Error::Unavailable(chain(&error))
    }

    fn engine() -> Error {
        Error::Unavailable("the engine of the mirror has ended or does not answer".into())
    }
}

/// A report that says only why there is none.
fn failed(target: String, error: &Error) -> Report {
    Report {
        target,
        error: error.to_string(),
        unreachable: matches!(error, Error::Unreachable(_)),
        unavailable: matches!(error, Error::Unavailable(_)),
        ..Report::default()
    }
}

/// Compares a target of a running daemon. `going`: called now and then; once it returns false, the
/// comparison ends.
pub(crate) fn of_daemon(live: &Live, options: Options, going: &dyn Fn() -> bool) -> Report {
    #[cfg(feature = "feed")]
    match live.followed() {
        Some(Some(followed)) => return verify_followed(&followed, Some(live), options, going),
        Some(None) => {}
        None => return failed(live.name(), &Error::engine()),
    }
    let plan = match live.plan() {
        Some(Ok(plan)) => plan,
        Some(Err(why)) => return failed(live.name(), &Error::Source(why)),
        None => return failed(live.name(), &Error::engine()),
    };
    verify(&plan, Some(live), options, going)
}

/// Compares, reports it to the board, and puts right what differs if requested.
fn verify(plan: &Plan, live: Option<&Live>, options: Options, going: &dyn Fn() -> bool) -> Report {
    let name = format!("{}/{}", plan.mirror.name, plan.sides.target.name);
    reported(name, &plan.board, options.checksum, || {
        let comparer = Comparer::new(plan, options.checksum, going);
        let mut judged = judge::judge(&comparer, live, plan)?;
        comparer.tell_types(&mut judged.differing);
        let first = judged.differing.clone();
        let repaired = match live {
            Some(live) if options.repair && !first.is_empty() => judge::repair(&comparer, live, plan, judged, going)?,
            _ => judged,
        };
        Ok(report(&repaired, &first, Side::Target))
    })
}

/// Compares a follower with its upstream, and reports it to the board. `live`: the follower, if it
/// runs.
#[cfg(feature = "feed")]
fn verify_followed(
    followed: &crate::engine::Followed,
    live: Option<&Live>,
    options: Options,
    going: &dyn Fn() -> bool,
) -> Report {
    let name = format!("{}/{}", followed.mirror.name, followed.upstream.name);
    if options.repair {
        let why = "--repair is not for followers: SIGUSR1 has one compare its whole tree and pull what differs";
        return failed(name, &Error::Unavailable(why.into()));
    }
    reported(name, &followed.board, options.checksum, || {
        let judged = followed::judge(followed, live, options.checksum, going)?;
        Ok(report(&judged, &judged.differing, Side::Here))
    })
}

/// Compares, with its beginning and its end on the board.
fn reported(name: String, board: &Board, checksum: bool, compare: impl FnOnce() -> Result<Report, Error>) -> Report {
    let begun = Instant::now();
    on_board(board, |board| (board.running, board.progress) = (true, None));
    let compared = compare();
    let cancelled = matches!(compared, Err(Error::Cancelled));
    let mut report = compared.unwrap_or_else(|error| failed(name.clone(), &error));
    (report.target, report.checksum, report.seconds) = (name, checksum, begun.elapsed().as_secs_f64());
    on_board(board, |board| {
        (board.running, board.progress) = (false, None);
        if !cancelled {
            record(board, &report);
        }
    });
    report
}

fn report(judged: &Judged, first: &Differing, side: Side) -> Report {
    let left = judged.differing.len() as u64;
    let differences = listed(&judged.differing, LISTED, side);
    Report {
        more: left - differences.len() as u64 + judged.more,
        differences,
        found: first.len() as u64 + judged.more,
        first: listed(first, SHOWN, side),
        repaired: (first.len() as u64).saturating_sub(left),
        unsettled: judged.unsettled,
        entries: judged.entries,
        error: judged.incomplete.clone().map(|why| Error::Incomplete(why).to_string()).unwrap_or_default(),
        ..Report::default()
    }
}

fn listed(differing: &Differing, most: usize, side: Side) -> Vec<Difference> {
    let first = differing.iter().take(most);
    first.map(|(path, why)| Difference { path: path.to_string(), why: why.words(side) }).collect()
}

fn on_board(board: &Board, update: impl FnOnce(&mut status::Verify)) {
    update(&mut board.lock().unwrap_or_else(PoisonError::into_inner));
}

fn record(board: &mut status::Verify, report: &Report) {
    *board = status::Verify {
        running: false,
        progress: None,
        ended_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        seconds: report.seconds,
        checksum: report.checksum,
        entries: report.entries,
        differing: report.found,
        repaired: report.repaired,
        paths: report.first.iter().map(|d| format!("{}: {}", d.path, d.why)).collect(),
        unsettled: report.unsettled,
        error: report.error.clone(),
    };
}

/// A target of a configuration, compared without a daemon. `state_dir`: where one has kept its
/// state.
///
/// # Errors
/// rsync is not to be had; the source cannot be opened.
fn alone(mirror: &Mirror, target: Target, state_dir: Option<&Path>) -> Result<Plan, Error> {
    if target.location.is_feed() {
        return Err(Error::Unavailable("a feed has no tree to compare; `fansync verify` at a follower compares that".into()));
    }
    let env = argv::environment(std::env::vars_os());
    let facts = RsyncFacts::probe(&mirror.rsync, &env).map_err(|e| Error::Unavailable(e.to_string()))?;
    let root = Root::open(&mirror.source).map_err(|e| Error::Source(format!("{}: {e}", mirror.source.display())))?;
    let expected = state_dir.map(|dir| MountsFile::new(dir, &mirror.name, root.path()).load());
    let expected = expected.transpose().map_err(|e| Error::Source(e.to_string()))?.unwrap_or_default();
    let apart = left_alone(root.path(), &mirror.mounts, expected)
        .map_err(|e| Error::Source(format!("the list of mounts cannot be read: {e}")))?;
    let dialect = facts.dialect;
    let sides = Sides { target, facts, missing_args: true, dialect, top_refused: false, apart: apart.rules() };
    Ok(Plan { mirror: mirror.clone(), sides, root, board: Arc::new(Mutex::default()), idle: false })
}

/// A follower of a configuration, compared without a daemon. `state_dir`: where one has kept its
/// state.
#[cfg(feature = "feed")]
fn follower_alone(mirror: &Mirror, upstream: &Target, state_dir: &Path) -> crate::engine::Followed {
    crate::engine::Followed {
        mirror: mirror.clone(),
        upstream: upstream.clone(),
        identity: None,
        is_held: false,
        dir: state_dir.join(&mirror.name).join(format!("verify-{:016x}", fastrand::u64(..))),
        board: Board::default(),
    }
}

/// What a run would change, in words.
pub(crate) fn difference(item: &crate::sync::output::Item) -> String {
    Why::new(item).words(Side::Target)
}

/// Whether the source has changed there since `begun`.
fn is_recent(root: &Root, path: &RelPath, begun: SystemTime) -> bool {
    // The kernel's clock for files lags by up to a tick (4 ms, before Linux 6.13; 10 ms with
    // HZ=100).
    const TICK: Duration = Duration::from_millis(10);
    let since = begun.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(TICK);
    let meta = root.path().join(path.as_path()).symlink_metadata();
    meta.is_ok_and(|m| (m.ctime(), m.ctime_nsec()) >= (since.as_secs() as i64, i64::from(since.subsec_nanos())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::output::Item;

    fn many(n: usize) -> Differing {
        let why = Why::new(&Item { change: *b"<f.s.......", path: RelPath::root(), dir: false });
        (0..n).map(|n| (RelPath::from_normal(format!("f{n}")), why)).collect()
    }

    #[test]
    fn a_report_counts_what_it_does_not_list() {
        for (found, left, uncounted, listed, more, repaired) in [
            (0, 0, 0, 0, 0, 0),
            (3, 1, 0, 1, 0, 2),
            (LISTED + 5, LISTED + 2, 7, LISTED, 9, 3),
            // What came to differ while others were put right is no negative number of repairs.
            (1, 2, 0, 2, 0, 0),
        ] {
            let judged = Judged { differing: many(left), more: uncounted, ..Judged::default() };
            let report = report(&judged, &many(found), Side::Target);
            assert_eq!((report.differences.len(), report.more), (listed, more), "{found} {left}");
            assert_eq!((report.found, report.repaired), (found as u64 + uncounted, repaired), "{found} {left}");
            assert_eq!(report.differing(), left as u64 + uncounted);
            assert_eq!(report.first.len(), found.min(SHOWN), "the status keeps a few");
        }
        let partial = Judged { incomplete: Some("denied".into()), ..Judged::default() };
        assert_eq!(report(&partial, &many(0), Side::Here).error, "not everything could be compared: denied");
    }

    #[test]
    fn a_report_of_a_failure_says_whose_it_is() {
        for (error, unreachable, unavailable) in [
            (Error::Unreachable("no route".into()), true, false),
            (Error::Unavailable("no rsync".into()), false, true),
            (Error::engine(), false, true),
            (Error::Source("gone".into()), false, false),
            (Error::Incomplete("killed".into()), false, false),
            (Error::Cancelled, false, false),
        ] {
            let report = failed("m/t".into(), &error);
            assert_eq!((report.unreachable, report.unavailable), (unreachable, unavailable), "{error:?}");
            assert!(report.error == error.to_string() && report.differing() == 0 && report.entries == 0);
        }
    }

    #[test]
    fn a_change_since_the_comparison_began_is_recent_and_one_before_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "f").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let meta = dir.path().join("f").metadata().unwrap();
        let changed = UNIX_EPOCH + Duration::new(meta.ctime() as u64, meta.ctime_nsec() as u32);
        let ms = Duration::from_millis(1);
        for (path, begun, want) in [
            ("f", changed - ms * 1000, true),
            ("f", changed, true),
            // The file's clock may lag behind.
            ("f", changed + ms * 10, true),
            ("f", changed + ms * 11, false),
            ("f", changed + ms * 1500, false),
            ("missing", changed - ms * 1000, false),
        ] {
            let recent = is_recent(&root, &RelPath::from_normal(path), begun);
            assert_eq!(recent, want, "{path} {:?}", begun.duration_since(changed));
        }
    }
}
