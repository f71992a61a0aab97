//! What somebody asks of targets while they run: pause, resume, retry. A pause is kept in the state directory, so that it outlives
//! the daemon; who forgot it is told at each start.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Engine;
use crate::control::{Steer, Steered};
use crate::state::pauses::Pauses;

impl Engine {
    /// Takes up the pauses of an earlier daemon.
    pub(super) fn take_up_pauses(&mut self) {
        let now = unix_now();
        let paused: Vec<Option<f64>> = match self.pauses.load() {
            Ok(pauses) => self.targets.iter().map(|t| pauses.get(&t.identity()).copied()).collect(),
            Err(error) => {
                tracing::error!(mirror = %self.mirror.name, "{error}. Every target is taken for paused; `fansync resume` ends that");
                vec![Some(now); self.targets.len()]
            }
        };
        for (at, since) in paused.into_iter().enumerate() {
            let Some(since) = since else { continue };
            self.with_target(at, |target, cx| target.pause(cx, since));
            tracing::warn!(
                mirror = %self.mirror.name, target_name = %self.targets[at].cfg.name,
                since = %humantime::format_rfc3339_seconds(UNIX_EPOCH + std::time::Duration::from_secs_f64(since.max(0.0))),
                "the target is paused since before this start: its changes are collected and not sent. `fansync resume` ends that"
            );
        }
    }

    pub(super) fn steer(&mut self, what: Steer, only: Option<&str>) -> Vec<Steered> {
        let accepts = matches!(what, Steer::Resume { accept_source: true, .. });
        let accepted = match if accepts { self.accept(only) } else { Ok(false) } {
            Ok(accepted) => accepted,
            Err(said) => {
                let name = |t: &crate::sync::target::Target| format!("{}/{}", self.mirror.name, t.cfg.name);
                let chosen = self.targets.iter().filter(|t| only.is_none_or(|name| name == t.cfg.name));
                return chosen.map(|t| Steered { target: name(t), said: said.clone(), done: false }).collect();
            }
        };
        let chosen: Vec<usize> = self
            .targets
            .iter()
            .enumerate()
            .filter(|(_, t)| only.is_none_or(|name| name == t.cfg.name))
            .map(|(at, _)| at)
            .collect();
        if what != Steer::Pause && self.held.is_some() && self.begin_again.is_none() {
            self.recheck_root();
        }
        let mut out: Vec<Steered> = chosen.iter().map(|&at| self.steer_one(what, at, accepted)).collect();
        if what != Steer::Retry {
            let pauses: Pauses = self.targets.iter().filter_map(|t| Some((t.identity(), t.paused()?))).collect();
            if let Err(error) = self.pauses.save(&pauses) {
                tracing::error!(mirror = %self.mirror.name, "{error}");
                for steered in &mut out {
                    steered.said.push_str(&format!("; this holds until fansync ends only: {error}"));
                }
            }
        }
        if self.begin_again == Some(true) {
            for steered in &mut out {
                steered.said.push_str("; the source is taken as it is now, and everything is compared");
            }
        } else if let Some(why) = self.held_words()
            && what != Steer::Pause
        {
            for steered in &mut out {
                steered.done = false;
                steered.said.push_str(&format!("; but nothing is sent: {why}"));
            }
        }
        out
    }

    /// Takes the source as it is now, or, where it is not held, lets the deletions of the chosen targets through. Whether it was held, and
    /// is not any more.
    fn accept(&mut self, only: Option<&str>) -> Result<bool, String> {
        if self.held.is_none() {
            for at in 0..self.targets.len() {
                if only.is_none_or(|name| name == self.targets[at].cfg.name) {
                    self.accept_deletes(at);
                }
            }
            return Ok(false);
        }
        if only.is_some() {
            return Err("the source is one for all targets of the mirror: leave --target out".into());
        }
        self.accept_source()?;
        Ok(self.held.is_none())
    }

    fn steer_one(&mut self, what: Steer, at: usize, accepted: bool) -> Steered {
        let target = &self.targets[at];
        let name = format!("{}/{}", self.mirror.name, target.cfg.name);
        let was = target.paused().is_some();
        let away = target.away().map(|(reason, ..)| reason.to_owned());
        let failed = target.failures().len();
        let (said, done) = match what {
            Steer::Pause => {
                self.with_target(at, |target, cx| target.pause(cx, unix_now()));
                let collects = "changes are collected, and sent after `fansync resume`";
                (if was { format!("was paused already; {collects}") } else { format!("paused; {collects}") }, true)
            }
            Steer::Resume { accept_source, accept_deletes } => {
                self.with_target(at, |target, cx| target.resume(cx));
                let pending = self.targets[at].unconfirmed();
                let mut said = match (was, accepted) {
                    (true, _) => format!("resumed, {pending} paths to send"),
                    (false, true) => format!("the source is accepted as it is, {pending} paths to send"),
                    (false, false) => "was not paused".into(),
                };
                if accept_deletes && !accept_source {
                    said.push_str(&format!("; {}", self.accept_deletes(at).said));
                }
                (said, true)
            }
            Steer::Retry if was => ("is paused; `fansync resume` goes on".into(), false),
            Steer::Retry => {
                self.with_target(at, |target, cx| target.hurry_up(cx));
                let said = match away {
                    Some(reason) => format!("trying again now; it was away: {reason}"),
                    None if failed > 0 => format!("trying {failed} failed paths again now"),
                    None => "nothing waited for another try".into(),
                };
                (said, true)
            }
        };
        if what != Steer::Retry && was != (what == Steer::Pause) && self.begin_again.is_none() {
            tracing::info!(mirror = %self.mirror.name, target_name = %self.targets[at].cfg.name, "{said}");
        }
        Steered { target: name, said, done }
    }
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
