//! The status in one word, and in one line for each target.

use std::fmt::Write as _;

use super::{Mirror, Snapshot, Target, plural, span};
use crate::exit::ExitCode;

/// Targets that the first line names.
const NAMED: usize = 3;

/// How a target, or all of them together, are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Every change is on the target, or less than a second behind.
    Good,
    /// Not all is on the target, and nothing is wrong; or something beside the targets is.
    Behind,
    /// Somebody should look.
    Trouble,
}

impl Health {
    fn of(mirror: &Mirror, t: &Target) -> Health {
        match t.state.as_str() {
            _ if !mirror.held.is_empty() || !t.failures.is_empty() || t.failures_more > 0 || t.held_deletes > 0 => {
                Health::Trouble
            }
            // The other side is the one that pushes.
            "idle" | "fenced" => Health::Good,
            "syncing" if t.lag_seconds < 1.0 => Health::Good,
            "syncing" | "paused" | "probing" => Health::Behind,
            _ => Health::Trouble,
        }
    }

    /// What `status --exit-code` leaves with, as monitoring systems want it.
    pub fn exit_code(self) -> ExitCode {
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

impl Snapshot {
    /// Of all targets, and of the daemon itself.
    pub fn health(&self) -> Health {
        let own = if self.config_error.is_empty() && !self.log_lost.failing { Health::Good } else { Health::Behind };
        self.each().map(|(m, t)| Health::of(m, t)).chain(self.held().map(|_| Health::Trouble)).fold(own, Health::max)
    }

    /// The verdict, and a line for each target.
    pub fn brief(&self) -> String {
        let health = self.health();
        let (all, good) = (self.each().count(), self.each().filter(|(m, t)| Health::of(m, t) == Health::Good).count());
        let mut out = format!("{}: {good} of {} in sync", health.word(), plural(all as u64, "target"));
        let not_well: Vec<String> = self
            .each()
            .filter(|(m, t)| Health::of(m, t) == health && health > Health::Good)
            .map(|(m, t)| format!("{}/{} {}", m.name, t.name, t.state))
            .collect();
        not_well.iter().take(NAMED).for_each(|one| _ = write!(out, "; {one}"));
        if not_well.len() > NAMED {
            let _ = write!(out, " and {} more", not_well.len() - NAMED);
        }
        if !self.config_error.is_empty() {
            out.push_str("; the configuration in force is not that of the file");
        }
        if self.log_lost.failing {
            out.push_str("; the log cannot be written");
        }
        out.push('\n');
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

    fn each(&self) -> impl Iterator<Item = (&Mirror, &Target)> {
        self.mirrors.iter().flat_map(|m| m.targets.iter().map(move |t| (m, t)))
    }

    fn held(&self) -> impl Iterator<Item = &Mirror> {
        self.mirrors.iter().filter(|m| !m.held.is_empty())
    }
}

fn line(t: &Target) -> String {
    let mut out = if t.state == "idle" { "in sync".to_owned() } else { t.state.clone() };
    if t.lag_seconds > 0.0 {
        let _ = write!(out, ", {} behind", span(t.lag_seconds));
    }
    if t.pending + t.in_flight > 0 {
        let _ = write!(out, ", {} pending", plural(t.pending + t.in_flight, "path"));
    }
    let failed = t.failures.len() as u64 + t.failures_more;
    // The reason of one that is `failing` begins with their number.
    if failed > 0 && t.state != "failing" {
        let _ = write!(out, ", {} failed", plural(failed, "path"));
    }
    if t.held_deletes > 0 {
        let _ = write!(out, ", {} held", plural(t.held_deletes, "deletion"));
    }
    if !t.reason.is_empty() && t.state != "idle" {
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
        let brief = s.brief();
        let lines: Vec<&str> = brief.lines().collect();
        assert_eq!(lines[0], "TROUBLE: 0 of 1 target in sync; data/backup down");
        assert_eq!(lines[1], "  data/backup  down, 1m 15s behind, 3 paths pending, 1 path failed: connection refused");
        assert!(s.human().starts_with(&brief), "the verdict comes first");
        let well = Target { name: "b".into(), state: "idle".into(), ..Target::default() };
        s.mirrors[0].targets = vec![well.clone()];
        assert_eq!(s.brief(), "OK: 1 of 1 target in sync\n  data/b  in sync\n");
        for (state, lag, want) in [
            ("idle", 0.0, Health::Good),
            ("fenced", 0.0, Health::Good),
            ("syncing", 0.5, Health::Good),
            ("syncing", 1.5, Health::Behind),
            ("probing", 0.0, Health::Behind),
            ("paused", 0.0, Health::Behind),
            ("down", 0.0, Health::Trouble),
            ("config", 0.0, Health::Trouble),
            ("failing", 0.0, Health::Trouble),
            ("held", 0.0, Health::Trouble),
        ] {
            s.mirrors[0].targets = vec![well.clone(), Target { state: state.into(), lag_seconds: lag, ..well.clone() }];
            assert_eq!(s.health(), want, "{state}");
        }
        s.mirrors[0].targets = vec![well];
        s.config_error = "f:1:1: wrong".into();
        assert_eq!((s.health(), s.health().exit_code()), (Health::Behind, ExitCode::Differences));
        s.mirrors[0].held = "gone".into();
        assert_eq!(s.health().exit_code(), ExitCode::Trouble);
    }
}
