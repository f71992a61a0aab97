//! The daemon in one line, for the service manager's status.

use std::fmt::Write as _;
use std::time::Duration;

use crate::status::{Mirror, TargetState};
use crate::text::plural;

/// Targets in trouble that are named.
const NAMED: usize = 3;

/// What is in sync and what is not: `3 of 4 targets in sync; web/backup down; 412 paths pending,
/// lag 3m 5s`.
pub(super) fn line(mirrors: &[Mirror]) -> String {
    let targets = || mirrors.iter().flat_map(|m| m.targets.iter().map(move |t| (m, t)));
    let (all, idle) = (targets().count(), targets().filter(|(_, t)| t.state == TargetState::Idle).count());
    let mut out = match (all, idle) {
        (0, _) => format!("{} with hooks alone", plural(mirrors.len() as u64, "mirror")),
        (1, 1) => "the target is in sync".into(),
        (all, idle) if all == idle => format!("all {all} targets in sync"),
        (all, idle) => format!("{idle} of {} in sync", plural(all as u64, "target")),
    };
    let trouble: Vec<String> = targets()
        .filter(|(_, t)| !matches!(t.state, TargetState::Idle | TargetState::Syncing | TargetState::Probing))
        .map(|(m, t)| format!("{}/{} {}", m.name, t.name, t.state))
        .collect();
    for one in trouble.iter().take(NAMED) {
        let _ = write!(out, "; {one}");
    }
    if trouble.len() > NAMED {
        let _ = write!(out, " and {} more", trouble.len() - NAMED);
    }
    let pending: u64 = targets().map(|(_, t)| t.pending + t.in_flight).sum();
    let lag = targets().map(|(_, t)| t.lag_seconds).fold(0.0, f64::max);
    if pending > 0 {
        let lag = humantime::format_duration(Duration::from_secs(lag as u64));
        let _ = write!(out, "; {} pending, lag {lag}", plural(pending, "path"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Target;

    #[test]
    fn one_line_says_what_is_wrong() {
        let target = |name: &str, state: TargetState, pending, lag_seconds| Target {
            name: name.into(),
            state,
            pending,
            lag_seconds,
            ..Target::default()
        };
        let of = |targets: &[Target]| {
            let mirror = serde_json::json!({
                "name": "web", "source": "/srv", "watch": [], "reader": "", "ready": true, "held": "", "events": 0, "foreign": 0,
                "lookups": 0, "directories": 0, "muted_directories": 0, "muted_files": 0, "following": 0, "links": null, "lost": {},
                "initial": "done", "start": crate::status::Start::default(), "targets": targets
            });
            line(&[serde_json::from_value(mirror).unwrap()])
        };
        let (a, b) = (target("a", TargetState::Idle, 0, 0.0), target("b", TargetState::Down, 412, 185.4));
        assert_eq!(of(std::slice::from_ref(&a)), "the target is in sync");
        assert_eq!(of(&[a.clone(), a.clone()]), "all 2 targets in sync");
        assert_eq!(of(&[a.clone(), b.clone()]), "1 of 2 targets in sync; web/b down; 412 paths pending, lag 3m 5s");
        assert_eq!(of(&[b.clone(), b.clone(), b.clone(), b]).matches("web/b down").count(), 3);
        assert_eq!(of(&[target("c", TargetState::Syncing, 1, 0.2)]), "0 of 1 target in sync; 1 path pending, lag 0s");
        assert_eq!(of(&[]), "1 mirror with hooks alone");
    }
}
