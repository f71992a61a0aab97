//! Commands for targets while they run: pause, resume, retry. A pause is kept in the state
//! directory, so that it outlives the daemon; each start logs it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Engine;
use crate::control::{Steer, Steered};
use crate::state::pauses::Pauses;
use crate::text::plural;

impl Engine {
    /// Takes up which targets an earlier daemon has filled.
    pub(super) fn take_up_filled(&mut self) {
        let Some((file, known)) = &mut self.saved.filled else { return };
        match file.load() {
            Ok(filled) => *known = filled,
            Err(error) => tracing::warn!(mirror = %self.mirror.name, "which targets were filled is not known: {error}"),
        }
        self.targets.iter_mut().filter(|t| known.contains(&t.identity())).for_each(|t| t.was_filled());
    }

    /// Keeps for the next start that a target was filled.
    pub(super) fn remember_filled(&mut self, identity: String) {
        let Some((file, known)) = &mut self.saved.filled else { return };
        if known.insert(identity)
            && let Err(error) = file.save(known)
        {
            tracing::warn!(mirror = %self.mirror.name, "cannot save which targets were filled: {error}");
        }
    }

    /// Takes up the pauses of an earlier daemon.
    pub(super) fn take_up_pauses(&mut self) {
        let now = unix_now();
        let Some(pauses) = &self.saved.pauses else { return };
        let paused: Vec<Option<f64>> = match pauses.load() {
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
            Err(message) => {
                let name = |t: &crate::targets::Target| format!("{}/{}", self.mirror.name, t.cfg.name);
                let chosen = self.targets.iter().filter(|t| only.is_none_or(|name| name == t.cfg.name));
                return chosen.map(|t| Steered { target: name(t), said: message.clone(), done: false }).collect();
            }
        };
        let chosen: Vec<usize> = self
            .targets
            .iter()
            .enumerate()
            .filter(|(_, t)| only.is_none_or(|name| name == t.cfg.name))
            .map(|(at, _)| at)
            .collect();
        if what != Steer::Pause && self.looks_at_source() && self.shutdown.begin_again.is_none() {
            self.recheck_root();
        }
        let mut out: Vec<Steered> = chosen.iter().map(|&at| self.steer_one(what, at, accepted)).collect();
        if what != Steer::Retry {
            let pauses: Pauses = self.targets.iter().filter_map(|t| Some((t.identity(), t.paused()?))).collect();
            match self.saved.pauses.as_ref().map(|file| file.save(&pauses)) {
                None if what == Steer::Pause => {
                    out.iter_mut()
                        .for_each(|s| s.said.push_str("; this holds until fansync ends only, as `mirror` keeps no state"));
                }
                None | Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::error!(mirror = %self.mirror.name, "{error}");
                    for steered in &mut out {
                        steered.said.push_str(&format!("; this holds until fansync ends only: {error}"));
                    }
                }
            }
        }
        if self.shutdown.begin_again == Some(true) {
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

    /// Takes the source as it is now, or, where it is not held, lets the deletions of the chosen
    /// targets through. Whether it was held, and is not any more.
    fn accept(&mut self, only: Option<&str>) -> Result<bool, String> {
        if self.guard.held.is_none() && self.guard.apart.held().next().is_none() {
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
        Ok(self.guard.held.is_none())
    }

    fn steer_one(&mut self, what: Steer, at: usize, accepted: bool) -> Steered {
        let target = &self.targets[at];
        let name = format!("{}/{}", self.mirror.name, target.cfg.name);
        let was = target.paused().is_some();
        let away = target.away().map(|(reason, ..)| reason.to_owned());
        let failed = target.failures().len();
        let (message, done) = match what {
            Steer::Pause => {
                self.with_target(at, |target, cx| target.pause(cx, unix_now()));
                let collects = "changes are collected, and sent after `fansync resume`";
                (if was { format!("was paused already; {collects}") } else { format!("paused; {collects}") }, true)
            }
            Steer::Resume { accept_source, accept_deletes } => {
                self.with_target(at, |target, cx| target.resume(cx));
                let pending = plural(self.targets[at].unconfirmed() as u64, "path");
                let resumed = match (was, accepted) {
                    (true, _) => Some(format!("resumed, {pending} to send")),
                    (false, true) => Some(format!("the source is accepted as it is, {pending} to send")),
                    (false, false) if accept_source => Some("the source was not held, and the target was not paused".into()),
                    (false, false) if accept_deletes => None,
                    (false, false) => Some("was not paused".into()),
                };
                let deletes = (accept_deletes && !accept_source).then(|| self.accept_deletes(at).said);
                ([resumed, deletes].into_iter().flatten().collect::<Vec<_>>().join("; "), true)
            }
            Steer::Retry if was => ("is paused; `fansync resume` goes on".into(), false),
            Steer::Retry => {
                self.with_target(at, |target, cx| target.hurry_up(cx));
                let message = match away {
                    Some(reason) => format!("trying again now; it was away: {reason}"),
                    None if failed > 0 => format!("trying {} again now", plural(failed as u64, "failed path")),
                    None => "nothing waited for another try".into(),
                };
                (message, true)
            }
        };
        if what != Steer::Retry && was != (what == Steer::Pause) && self.shutdown.begin_again.is_none() {
            tracing::info!(mirror = %self.mirror.name, target_name = %self.targets[at].cfg.name, "{message}");
        }
        Steered { target: name, said: message, done }
    }
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
