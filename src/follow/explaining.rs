//! A follower's part in `fansync explain`.

use std::os::unix::ffi::OsStrExt;

use super::processes::What;
use super::*;
use crate::engine::{Said, kind_of, verdict};
use crate::explain::{AtTarget, Explanation, Watched};
use crate::feed::machine::Work;
use crate::path::{self, RelPath, Shown};
use crate::status::{PathState, TargetState};

impl Follower {
    /// Explains the first of these absolute paths that lies below the directory.
    pub(super) fn explain_first(&self, paths: &[PathBuf]) -> Said {
        let below = |path: &PathBuf| RelPath::new(path.strip_prefix(&self.mirror.source).ok()?.as_os_str().as_bytes());
        match paths.iter().find_map(below) {
            Some(path) => Said::Explained(Box::new(self.explain(&path))),
            None => Said::Elsewhere(Shown(self.mirror.source.as_os_str().as_bytes()).to_string()),
        }
    }

    fn explain(&self, path: &RelPath) -> Explanation {
        let meta = self.mirror.source.join(path.as_path()).symlink_metadata();
        let filter = verdict(&self.mirror, path, meta.as_ref().is_ok_and(|m| m.is_dir()));
        let (state, why) = match filter.excluded {
            true => (PathState::LeftOut, "it is neither pulled nor deleted here".to_owned()),
            false => self.place_of(path),
        };
        let (target, reason) = self.state();
        let stopped = match target {
            TargetState::Idle | TargetState::Syncing => {
                self.supply.waits_for().map(|relay| format!("waits for the relay {relay}"))
            }
            _ => Some(reason),
        };
        let feed = self.mirror.follow.as_ref().map(|follow| follow.feed.to_string()).unwrap_or_default();
        let held = if self.machine.is_held() { "the source is held" } else { "" };
        let at = AtTarget {
            name: self.upstream().name.clone(),
            url: self.upstream().location.to_string(),
            state,
            why,
            stopped: stopped.unwrap_or_default(),
        };
        Explanation {
            mirror: self.mirror.name.clone(),
            source: Shown(self.mirror.source.as_os_str().as_bytes()).to_string(),
            path: path.to_string(),
            found: match &meta {
                Ok(meta) => kind_of(meta),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => "nothing is there".into(),
                Err(e) => format!("it cannot be looked at: {e}"),
            },
            held: held.into(),
            filter,
            watch: Watched {
                mount: feed,
                backend: "follows".into(),
                why: "a change made here is not noticed".into(),
                ..Default::default()
            },
            targets: vec![at],
            ..Explanation::default()
        }
    }

    /// Where a path is on its way, and why.
    fn place_of(&self, path: &RelPath) -> (PathState, String) {
        let touches = |other: &RelPath| path::is_at_or_below(path, other) || path::is_at_or_below(other, path);
        if let Some(why) = self.machine.why_owed() {
            return (PathState::Pending, format!("the whole tree is compared: {why}"));
        }
        let flies = |work: &Work| match work {
            Work::Whole => true,
            Work::List { paths, .. } => paths.iter().any(|(other, _)| touches(other)),
            Work::Batch { .. } => false,
        };
        if self.processes.doing().is_some_and(|doing| match &doing.what {
            What::Mark(work) | What::Count(work) | What::Pull(work) => flies(work),
            What::Apply => false,
        }) {
            return (PathState::InFlight, "a run that pulls it is under way".into());
        }
        if let Some(sequence) = self.machine.batch_about(touches) {
            return (PathState::InFlight, format!("what came with record {sequence} is being applied"));
        }
        if let Some((at, need)) = self.machine.pending().iter().find(|(other, _)| touches(other)) {
            return (PathState::Pending, format!("{} of record {} is to be pulled", Shown(at), need.sequence));
        }
        if let Some((at, failure)) = self.machine.failed().iter().find(|(other, _)| touches(other)) {
            let next = failure.due.saturating_sub(self.now()).as_secs();
            return (PathState::Failed, format!("{} could not be pulled: {}; next try in {next} s", Shown(at), failure.words));
        }
        let named =
            |waits: &&Waits| waits.record.as_ref().is_ok_and(|record| record.entries.iter().any(|item| touches(&item.path)));
        if let Some(waits) = self.supply.records.iter().find(named) {
            return (PathState::Pending, format!("record {} waits for an upstream that holds it", waits.sequence));
        }
        let at = self.machine.position().map_or(0, |point| point.sequence);
        (PathState::InSync, format!("everything up to record {at} is held"))
    }
}
