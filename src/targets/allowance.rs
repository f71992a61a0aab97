//! What this target takes of what all targets of the daemon share: see [`crate::budget`].
//!
//! Runs that carry a batch and processes that wait are counted; probes and the reading of a role
//! mark are not, so that a target that is silent takes nothing from others. What ends in a turn and
//! what follows it directly (the second half of a comparison) need no place of their own: a place
//! is given back at the end of the turn.

use super::*;
use crate::budget::{Held, Limits, Member, WaitsFor};

/// How often one that waits requests a place again although nothing woke it.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// See the module's text.
#[derive(Default)]
pub(super) struct Allowance {
    /// `None`: there are no others, and no bounds.
    member: Option<Member>,
    ask: Option<Duration>,
}

impl Allowance {
    /// When to request again.
    pub(super) fn due(&self) -> Option<Duration> {
        self.ask
    }

    /// Whether a small run, and a long one, were refused at the end of the last turn.
    pub(super) fn refused(&self) -> (bool, bool) {
        self.member.as_ref().filter(|_| self.ask.is_some()).map_or((false, false), Member::refused)
    }
}

/// The rate in KiB a second that a user's own option of rsync's sets (rsync(1), `--bwlimit`:
/// units of 1024 bytes where none is given); `None` where there is none, or no bound.
fn own_rate(args: &[String]) -> Option<u64> {
    let text = args.iter().rev().find_map(|arg| arg.strip_prefix("--bwlimit="))?;
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (text[..digits].parse::<f64>().ok()?, text[digits..].to_ascii_lowercase());
    let kib = match unit.as_str() {
        "" | "k" | "kib" => 1.0,
        "kb" => 1000.0 / 1024.0,
        "b" => 1.0 / 1024.0,
        "m" | "mib" => 1024.0,
        "mb" => 1e6 / 1024.0,
        "g" | "gib" => 1024.0 * 1024.0,
        "gb" => 1e9 / 1024.0,
        _ => return None,
    };
    Some((number * kib) as u64).filter(|kib| *kib > 0)
}

impl Target {
    /// Takes a share of what all targets have together.
    pub(crate) fn share(&mut self, member: Member) {
        self.allowance.member = Some(member).filter(|_| !self.is_feed());
    }

    fn held(&self) -> Held {
        let lanes = self.runs.lanes();
        Held { small: lanes.small, long: lanes.bulk + lanes.large, standby: self.runs.standbys() }
    }

    fn is_remote(&self) -> bool {
        !matches!(self.cfg.location, crate::location::Location::Local(_))
    }

    /// The runs that hold bandwidth.
    fn drawing(&self) -> BTreeSet<u32> {
        self.runs.iter().filter(|(_, run)| run.carried().is_some()).map(|(serial, _)| serial).collect()
    }

    /// Whether what all share lets one more run start in `lane`.
    pub(super) fn shared_room(&self, lane: Lane) -> bool {
        let member = self.allowance.member.as_ref();
        member.is_none_or(|member| member.room(self.held(), lane != Lane::Small, self.is_remote()))
    }

    /// The same for a process that waits.
    pub(super) fn shared_standby(&self) -> bool {
        let member = self.allowance.member.as_ref();
        member.is_none_or(|member| member.standby_room(self.held(), self.is_remote()))
    }

    /// Ends a process that waits, where a run takes its place.
    pub(super) fn make_room_for(&mut self, cx: &mut Context<'_>, kind: &LaunchKind) {
        let limits = self.allowance.member.as_ref().map(Member::limits).unwrap_or_default();
        if matches!(kind, LaunchKind::Batch(..)) && limits.runs.is_some() && self.runs.standbys() > 0 {
            let fits = self.allowance.member.as_ref().is_none_or(|member| member.has_spare(self.held()));
            if !fits {
                self.end_standbys(cx, 1);
            }
        }
    }

    fn end_standbys(&mut self, cx: &mut Context<'_>, number: usize) {
        let ends: Vec<u32> =
            self.runs.iter().filter(|(_, run)| run.is_standby()).map(|(serial, _)| serial).take(number).collect();
        self.runs.end(cx.reactor, &ends);
    }

    /// Ends what has its bandwidth from a time with another one ([`crate::budget`]): runs, which begin
    /// anew, and processes that wait with no bound at all. A single file would be sent from its
    /// beginning, one that is read as a whole on both sides read anew, and a small batch is soon
    /// through; these begin anew for a lower rate only.
    fn keep_to_bandwidth(&mut self, cx: &mut Context<'_>) {
        let remote = self.is_remote();
        let Some(member) = self.allowance.member.as_ref().filter(|_| remote) else { return };
        if member.limits().bandwidth.is_some() && self.runs.standbys() > 0 {
            let number = self.runs.standbys();
            return self.end_standbys(cx, number);
        }
        let own = own_rate(&self.cfg.args);
        for (serial, run) in self.runs.iter_mut() {
            let InFlightRun { process, kind: RunKind::Batch(carried) } = run else { continue };
            let ends = process.abort_reason.is_some() || process.lingers.is_some();
            if ends || carried.purpose.is_dry() {
                continue;
            }
            let faster = process.lane == Lane::Bulk && carried.how.compare != Compare::Checksum;
            if member.is_overdue(serial, own, faster) {
                tracing::info!(
                    mirror = %self.mirror.name, target_name = %self.cfg.name,
                    "a long run is ended and begins anew, as another bandwidth of all targets holds"
                );
                process.abort_reason = Some(AbortReason::Bandwidth);
                process.rsync.cut();
            }
        }
    }

    /// The bandwidth of a run that starts, in KiB a second.
    pub(super) fn bandwidth_of(&self, serial: u32, lane: Lane) -> Option<u64> {
        let member = self.allowance.member.as_ref().filter(|_| self.is_remote())?;
        let share = member.rate(serial, lane != Lane::Small, &self.drawing())?;
        Some(own_rate(&self.cfg.args).map_or(share, |own| own.min(share)))
    }

    /// The end of a turn: what is not used is given back, and what others lack.
    pub(super) fn settle_shares(&mut self, cx: &mut Context<'_>) {
        self.keep_to_bandwidth(cx);
        let Some(member) = &self.allowance.member else { return };
        if member.limits() == Limits::default() {
            self.allowance.ask = None;
            return;
        }
        let wants = self.wants_run(cx.now);
        let gives_up = member.settle(self.held(), &self.drawing(), wants);
        if gives_up > 0 {
            self.end_standbys(cx, gives_up);
        }
        let Some(member) = &self.allowance.member else { return };
        if gives_up > 0 {
            member.give_back(self.held());
        }
        self.allowance.ask = member.waits().map(|_| cx.now + ASK_AGAIN);
    }

    /// Whether something could leave now, if there were room.
    fn wants_run(&self, now: Duration) -> bool {
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        self.is_up()
            && !self.schedule.is_paused()
            && (due(self.ledger.large.due(self.hurry()))
                || due(self.leaves_at())
                || due(self.ledger.retries.next_due())
                || due(self.ledger.withheld.iter().map(|w| w.due).min())
                || due(self.recount_due())
                || due(self.moves_leave_at())
                || due(self.ledger.set.next_linked()))
    }

    /// Why it waits, in words, where it is for others.
    pub(super) fn waits_for_others(&self) -> Option<String> {
        let member = self.allowance.member.as_ref()?;
        let (what, since) = member.waits()?;
        let what = match what {
            WaitsFor::Place => format!("one of the {} of all mirrors (max_runs)", plural(member.limits().runs? as u64, "run")),
            WaitsFor::Bandwidth => "a part of the bandwidth of all targets (bwlimit)".to_owned(),
        };
        Some(format!("waiting for {what}, for {}", crate::text::span(since.as_secs_f64())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_rsyncs_own_option() {
        for (arg, want) in [
            ("--bwlimit=500", Some(500)),
            ("--bwlimit=2m", Some(2048)),
            ("--bwlimit=1.5MiB", Some(1536)),
            ("--bwlimit=2048b", Some(2)),
            ("--bwlimit=1MB", Some(976)),
            ("--bwlimit=0", None),
            ("--bwlimit=x", None),
            ("-A", None),
        ] {
            assert_eq!(own_rate(&["--bwlimit=9".to_owned(), arg.to_owned()][usize::from(arg == "-A")..]), want, "{arg}");
        }
    }
}
