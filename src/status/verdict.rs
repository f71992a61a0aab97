//! The status in one word, and in one line for each target.

use std::fmt::Write as _;

use super::{HookState, Mirror, Snapshot, Target, TargetState};
use crate::exit::ExitCode;
use crate::text::{lower_first, plural, span};

/// How many of what is not well the verdict names.
const NAMED: usize = 3;

/// How a target, or all of them together, are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    /// Every change is on the target, or less than a second behind.
    Good,
    /// Not all is on the target, and nothing is wrong; or something beside the targets is.
    Behind,
    /// An administrator should check it.
    Trouble,
}

impl Health {
    fn of(mirror: &Mirror, t: &Target) -> Health {
        if mirror.held.is_empty() { t.health() } else { Health::Trouble }
    }

    /// What `status --exit-code` leaves with, as monitoring systems want it.
    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Health::Good => ExitCode::Done,
            Health::Behind => ExitCode::Differences,
            Health::Trouble => ExitCode::Trouble,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Health::Good => "OK",
            Health::Behind => "BEHIND",
            Health::Trouble => "TROUBLE",
        }
    }
}

impl Target {
    /// Whether paths fail, or deletions wait for an operator.
    fn has_failures(&self) -> bool {
        !self.failures.is_empty() || self.failures_more > 0 || self.held_deletes > 0
    }

    /// How it is, its mirror aside.
    pub(crate) fn health(&self) -> Health {
        match self.state {
            _ if self.has_failures() => Health::Trouble,
            TargetState::Syncing if self.lag_seconds < 1.0 => Health::Good,
            state => state.health(),
        }
    }

    /// Whether nothing is late, and what is not on it waits for `delay` or is under way after it.
    pub(crate) fn waits_its_delay(&self) -> bool {
        self.delay_seconds > 0.0 && self.lag_seconds == 0.0 && self.state == TargetState::Syncing
    }

    /// When what waits for `delay` leaves.
    pub(crate) fn leaving(&self) -> Option<String> {
        (self.leaves_seconds > 0.0).then(|| format!("leaving in {}", span(self.leaves_seconds)))
    }

    /// Whether it holds a whole copy of the source, as of some moment: it is sent changes, and
    /// nothing of it is left to compare or kept aside.
    pub(crate) fn holds_whole_copy(&self) -> bool {
        matches!(self.state, TargetState::Idle | TargetState::Syncing) && !self.keeps_aside && self.reconcile.is_none()
    }
}

/// Something that keeps the whole from being in sync.
struct Finding {
    health: Health,
    /// What is wrong, with its progress behind.
    what: String,
    /// What to do about it; empty when it passes by itself.
    next: String,
    lag: f64,
}

impl Finding {
    fn new(health: Health, what: String, next: impl Into<String>) -> Finding {
        Finding { health, what, next: next.into(), lag: 0.0 }
    }

    fn of_target(m: &Mirror, t: &Target) -> Option<Finding> {
        let health = Health::of(m, t);
        let behind = if t.lag_seconds > 0.0 { format!(", {} behind", span(t.lag_seconds)) } else { String::new() };
        let failed = t.failures.len() as u64 + t.failures_more;
        let trouble = match t.state {
            _ if t.held_deletes > 0 => format!("{} held", plural(t.held_deletes, "deletion")),
            TargetState::Idle | TargetState::Syncing | TargetState::Failing if failed > 0 => {
                format!("{} failed", plural(failed, "path"))
            }
            state => state.to_string(),
        };
        let next = match t.state {
            _ if !t.advice.is_empty() => t.advice.as_str(),
            TargetState::Paused => "`fansync resume` sends again",
            _ if t.held_deletes > 0 => {
                "bring the files back, or let the deletions through with `fansync resume --accept-deletes`"
            }
            _ if failed > 0 => "`fansync status` lists the paths and why they fail",
            _ => "",
        };
        let what = format!("{}/{} {trouble}{behind}", m.name, t.name);
        (health > Health::Good).then(|| Finding { lag: t.lag_seconds, ..Finding::new(health, what, next) })
    }

    fn of_mirror(m: &Mirror) -> Vec<Finding> {
        let mut out = Vec::new();
        if !m.held.is_empty() {
            let next = if m.ready { super::BRING_BACK } else { super::MAKE_SOURCE };
            out.push(Finding::new(Health::Trouble, format!("{} held ({})", m.name, m.held), next));
        } else {
            out.extend(m.targets.iter().filter_map(|t| Finding::of_target(m, t)));
        }
        if m.unanswered_seconds > 0.0 {
            let what = format!("{} does not answer for {}", m.name, span(m.unanswered_seconds));
            let next = "a call on its source or on state_dir does not return: look at the filesystems of both";
            out.push(Finding::new(Health::Trouble, what, next));
        }
        for place in m.apart.iter().filter(|place| place.held) {
            let what = format!("{}: {} held ({})", m.name, place.path, place.why);
            out.push(Finding::new(Health::Trouble, what, super::BRING_BACK));
        }
        if !m.state_unsaved.is_empty() {
            let what = format!("the state of {} is not saved ({})", m.name, m.state_unsaved);
            out.push(Finding::new(Health::Behind, what, "see that state_dir can be written"));
        }
        for h in m.hooks.iter().filter(|h| h.state == HookState::Retrying || !h.failures.is_empty()) {
            let trouble = if h.state == HookState::Retrying { "is retrying" } else { "has failures" };
            let next = "`fansync status` shows why";
            out.push(Finding::new(Health::Behind, format!("hook {}/{} {trouble}", m.name, h.name), next));
        }
        out
    }
}

impl Snapshot {
    /// With what follows from the rest: to be called once that has its values.
    #[must_use]
    pub(crate) fn judged(mut self) -> Snapshot {
        for m in &mut self.mirrors {
            let held = !m.held.is_empty();
            m.targets.iter_mut().for_each(|t| {
                t.in_sync = Some(!held && !t.has_failures() && t.state == TargetState::Idle);
            });
        }
        self.format = super::FORMAT;
        self.health = self.health().word().to_ascii_lowercase();
        self.verdict = self.verdict();
        self
    }

    /// Of all targets, and of the daemon itself.
    pub(crate) fn health(&self) -> Health {
        self.findings().iter().map(|f| f.health).max().unwrap_or(Health::Good)
    }

    /// In one line whether all is in sync; if not, what is not and by how much, and what to do
    /// about the worst.
    pub(crate) fn verdict(&self) -> String {
        let good: Vec<&Target> = self.each().filter(|(m, t)| Health::of(m, t) == Health::Good).map(|(_, t)| t).collect();
        let under_way = |t: &Target| t.state == TargetState::Syncing && !t.waits_its_delay();
        let close = if good.iter().any(|t| under_way(t)) { " or less than 1 s behind" } else { "" };
        let mut out = match self.each().count() as u64 {
            0 => format!("{}: no targets", self.health().word()),
            all => format!("{}: {} of {} in sync{close}", self.health().word(), good.len(), plural(all, "target")),
        };
        let findings = self.findings();
        findings.iter().take(NAMED).for_each(|f| _ = write!(out, "; {}", f.what));
        if findings.len() > NAMED {
            let _ = write!(out, " and {} more", findings.len() - NAMED);
        }
        if let Some(f) = findings.iter().find(|f| !f.next.is_empty()) {
            let _ = write!(out, ". Next: {}", lower_first(&f.next));
        }
        out
    }

    /// A line for each target, and for each mirror that is held.
    pub(super) fn overview(&self) -> String {
        let mut out = String::new();
        let width = self.each().map(|(m, t)| m.name.len() + 1 + t.name.len()).max().unwrap_or_default();
        for m in &self.mirrors {
            if !m.held.is_empty() {
                let _ = writeln!(out, "  {:width$}  HELD: {}", m.name, m.held);
            }
            for t in &m.targets {
                let name = format!("{}/{}", m.name, t.name);
                let _ = writeln!(out, "  {name:width$}  {}", line(t));
            }
        }
        out
    }

    /// What is not well, the worst first.
    fn findings(&self) -> Vec<Finding> {
        let mut out: Vec<Finding> = self.mirrors.iter().flat_map(Finding::of_mirror).collect();
        if !self.config_error.is_empty() {
            let what = "the configuration in force is not that of the file".to_owned();
            out.push(Finding::new(Health::Behind, what, "`fansync check` shows what is wrong with it"));
        }
        if self.log_lost.failing {
            let what = "the log cannot be written".to_owned();
            out.push(Finding::new(Health::Behind, what, "see that there is room for it"));
        }
        out.sort_by(|a, b| b.health.cmp(&a.health).then(b.lag.total_cmp(&a.lag)));
        out
    }

    fn each(&self) -> impl Iterator<Item = (&Mirror, &Target)> {
        self.mirrors.iter().flat_map(|m| m.targets.iter().map(move |t| (m, t)))
    }
}

fn line(t: &Target) -> String {
    let idle = t.state == TargetState::Idle;
    let mut out = if idle { "in sync".to_owned() } else { t.state.to_string() };
    if t.lag_seconds > 0.0 {
        let _ = write!(out, ", {} behind", span(t.lag_seconds));
    }
    if t.pending + t.in_flight > 0 {
        let _ = write!(out, ", {} pending", plural(t.pending + t.in_flight, "path"));
    }
    if let Some(leaving) = t.leaving() {
        let _ = write!(out, " {leaving}");
    }
    let failed = t.failures.len() as u64 + t.failures_more;
    // The reason of one that is `failing` begins with their number.
    if failed > 0 && t.state != TargetState::Failing {
        let _ = write!(out, ", {} failed", plural(failed, "path"));
    }
    if t.held_deletes > 0 {
        let _ = write!(out, ", {} held", plural(t.held_deletes, "deletion"));
    }
    if !t.reason.is_empty() && !idle {
        let _ = write!(out, ": {}", t.reason);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::snapshot;
    use super::*;

    #[test]
    fn the_verdict_names_what_is_not_well() {
        let mut s = snapshot();
        (s.config_error, s.log_lost) = (String::new(), Default::default());
        s.mirrors[0].hooks.clear();
        s.mirrors[0].targets[0].advice = "See that b answers".into();
        let verdict = "TROUBLE: 0 of 1 target in sync; data/backup down, 1m 15s behind. Next: see that b answers";
        assert_eq!(s.verdict(), verdict);
        let lines: Vec<String> = s.human().lines().take(3).map(str::to_owned).collect();
        let target = "  data/backup  down, 1m 15s behind, 3 paths pending, 1 path failed: connection refused";
        assert_eq!(lines, [verdict, target, ""]);
        let well = Target { name: "b".into(), state: TargetState::Idle, ..Target::default() };
        s.mirrors[0].targets = vec![well.clone()];
        assert_eq!((s.verdict().as_str(), s.overview().as_str()), ("OK: 1 of 1 target in sync", "  data/b  in sync\n"));
        for (state, lag, want) in [
            (TargetState::Idle, 0.0, Health::Good),
            (TargetState::Fenced, 0.0, Health::Good),
            (TargetState::Syncing, 0.5, Health::Good),
            (TargetState::Syncing, 1.5, Health::Behind),
            (TargetState::Probing, 0.0, Health::Behind),
            (TargetState::Paused, 0.0, Health::Behind),
            (TargetState::Down, 0.0, Health::Trouble),
            (TargetState::Config, 0.0, Health::Trouble),
            (TargetState::Failing, 0.0, Health::Trouble),
            (TargetState::Held, 0.0, Health::Trouble),
        ] {
            s.mirrors[0].targets = vec![well.clone(), Target { state, lag_seconds: lag, ..well.clone() }];
            assert_eq!(s.health(), want, "{state}");
            let under_way = state == TargetState::Syncing && want == Health::Good;
            assert_eq!(s.verdict().contains("2 of 2 targets in sync or less than 1 s behind"), under_way, "{}", s.verdict());
        }
        let waits = Target { state: TargetState::Syncing, delay_seconds: 15.0, leaves_seconds: 12.0, pending: 3, ..well.clone() };
        s.mirrors[0].targets = vec![waits];
        assert_eq!((s.verdict().as_str(), s.health()), ("OK: 1 of 1 target in sync", Health::Good));
        assert_eq!(s.overview(), "  data/b  syncing, 3 paths pending leaving in 12.0s\n");
        assert!(s.human().contains("    lag     none beyond the delay of 15.0s; 3 pending leaving in 12.0s, 0 in flight\n"));
        s.mirrors[0].targets = vec![well];
        s.config_error = "f:1:1: wrong".into();
        assert_eq!((s.health(), s.health().exit_code()), (Health::Behind, ExitCode::Differences));
        s.mirrors[0].held = "gone".into();
        assert_eq!(s.health().exit_code(), ExitCode::Trouble);
        let judged = s.judged();
        assert!(
            judged.health == "trouble" && judged.mirrors[0].targets[0].in_sync == Some(false),
            "a held mirror is not in sync"
        );
    }

    #[test]
    fn what_is_not_well_comes_by_its_weight_and_with_what_to_do() {
        let mut s = snapshot();
        (s.config_error, s.log_lost) = (String::new(), Default::default());
        let m = &mut s.mirrors[0];
        let target = |name: &str, state: TargetState, lag_seconds: f64| Target {
            name: name.into(),
            state,
            lag_seconds,
            ..Target::default()
        };
        let failure = m.targets[0].failures.clone();
        m.targets = vec![
            target("a", TargetState::Paused, 90.0),
            target("b", TargetState::Down, 2.0),
            target("c", TargetState::Down, 60.0),
        ];
        assert_eq!(
            s.verdict(),
            "TROUBLE: 0 of 3 targets in sync; data/c down, 1m behind; data/b down, 2.0s behind; data/a paused, 1m 30s behind and 1 more. \
             Next: `fansync resume` sends again"
        );
        s.mirrors[0].hooks.clear();
        for (change, want) in [
            (
                Target { held_deletes: 7, ..target("x", TargetState::Held, 0.0) },
                "data/x 7 deletions held. Next: bring the files back, or",
            ),
            (
                Target { failures: failure, ..target("x", TargetState::Idle, 0.0) },
                "data/x 1 path failed. Next: `fansync status` lists",
            ),
            (target("x", TargetState::Syncing, 4.0), "BEHIND: 0 of 1 target in sync; data/x syncing, 4.0s behind"),
        ] {
            s.mirrors[0].targets = vec![change];
            assert!(s.verdict().contains(want), "{want}: {}", s.verdict());
        }
        let m = &mut s.mirrors[0];
        m.targets = vec![target("x", TargetState::Idle, 0.0)];
        (m.unanswered_seconds, m.state_unsaved) = (12.0, "disk full".into());
        m.apart = vec![super::super::Apart { path: "mnt".into(), why: "unmounted".into(), held: true }];
        let verdict = s.verdict();
        for want in [
            "TROUBLE: 1 of 1 target in sync; data does not answer for 12.0s; data: mnt held (unmounted)",
            "not saved (disk full)",
        ] {
            assert!(verdict.contains(want), "{want}: {verdict}");
        }
        s.mirrors.clear();
        assert_eq!(s.verdict(), "OK: no targets");
    }
}
