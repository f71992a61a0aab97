//! The configuration read again, on SIGHUP.
//!
//! It is taken whole or not at all: the file is checked, each source that something changes for is
//! opened, each rsync probed, and the capabilities it needs are still there; else the earlier one
//! stays in force, and log and status say why. Then mirrors are compared by name. One that is the
//! same is not touched. One that differs in anything ends in the orderly way, with its state saved,
//! and begins anew: the walk after its start finds what changed in between, and each target whose
//! settings are the same gets that alone. The commands of a mirror survive this, so a flush that
//! waits goes on waiting for the successor.
//!
//! What it gives up: under `[daemon]`, all but `stop_timeout`, `max_runs`, `bwlimit` and
//! `bwlimit_at` takes effect at the next start.
//! Totals of a mirror begin again. A mirror that cannot be begun after all goes on with its earlier
//! configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crossbeam::channel::Sender;

use super::crew::Crew;
use super::notify::Manager;
use crate::config::{Config, ConfigErrors, Daemon, Mirror};
use crate::control::Reloaded;
use crate::error::chain;
use crate::privilege;
use crate::root::Root;
use crate::sync::probe::RsyncFacts;
use crate::sys::caps::Caps;

/// Reads the configuration again.
pub(crate) type Reread<'a> = &'a dyn Fn() -> Result<Config, ConfigErrors>;

/// What is to be done.
#[derive(Default)]
struct Plan {
    changed: Vec<(Mirror, RsyncFacts)>,
    added: Vec<(Mirror, RsyncFacts)>,
    removed: Vec<String>,
    same: usize,
}

/// A reload under way.
struct UnderWay {
    /// What each mirror that has to begin will be, or `None` for one that has to end.
    waits: BTreeMap<String, Option<(Mirror, RsyncFacts)>>,
    order: Vec<String>,
    /// What did not work.
    trouble: Vec<String>,
}

/// See the module's text.
pub(super) struct Reloader<'a> {
    reread: Option<Reread<'a>>,
    under_way: Option<UnderWay>,
    /// To whom to say how it ended.
    asks: Vec<Sender<Reloaded>>,
    asked_again: bool,
    /// The same of the next one.
    asks_again: Vec<Sender<Reloaded>>,
    /// What takes effect at the next start.
    later: Vec<String>,
    /// Capabilities that the process had and has no more.
    given_up: Caps,
}

impl<'a> Reloader<'a> {
    pub(super) fn new(reread: Option<Reread<'a>>, given_up: Caps) -> Reloader<'a> {
        let (asks, asks_again, later) = (Vec::new(), Vec::new(), Vec::new());
        Reloader { reread, under_way: None, asks, asked_again: false, asks_again, later, given_up }
    }

    /// Says to a client how the next reload that begins has ended.
    pub(super) fn answer_to(&mut self, asked: Option<Sender<Reloaded>>) {
        if self.under_way.is_some() { &mut self.asks_again } else { &mut self.asks }.extend(asked);
    }

    fn answer(&mut self, troubles: Vec<String>) {
        let reloaded = Reloaded { troubles, later: std::mem::take(&mut self.later) };
        // A client that has gone needs no answer.
        self.asks.drain(..).for_each(|asked| _ = asked.send(reloaded.clone()));
    }

    /// SIGHUP, or a client. `config`: what is in force.
    pub(super) fn ask(&mut self, config: &mut Config, crew: &mut Crew, manager: &Manager) {
        let Some(reread) = self.reread else {
            self.answer(vec!["there is no configuration file to read again".into()]);
            return tracing::warn!("SIGHUP does nothing here: there is no configuration file");
        };
        if self.under_way.is_some() {
            self.asked_again = true;
            return;
        }
        manager.reloading();
        let planned = match reread() {
            Ok(new) => self.plan(&new, crew).map(|plan| (plan, new)).map_err(|why| vec![why]),
            Err(errors) => Err(errors.one_line_each()),
        };
        match planned {
            Ok((plan, new)) => {
                self.later = take_daemon(config, &new);
                crew.limit(&config.daemon);
                self.begin(plan, &new, crew);
                self.go_on(crew, manager);
            }
            Err(why) => {
                for why in &why {
                    tracing::error!("the configuration is not taken, the earlier one stays in force: {why}");
                }
                crew.engines()
                    .note(format!("the configuration is not taken, the earlier one stays in force: {}", why.join("; ")));
                self.answer(why);
                manager.reloaded();
            }
        }
    }

    /// What is to be done for `new`; why it cannot be, before anything is.
    fn plan(&self, new: &Config, crew: &Crew) -> Result<Plan, String> {
        if let Some(names) = privilege::lacks(new, self.given_up) {
            return Err(format!("it needs {names}, which was given up at the start; restart fansync"));
        }
        let mut plan = Plan::default();
        for mirror in &new.mirrors {
            let old = crew.mirrors().find(|m| m.name == mirror.name);
            if old == Some(mirror) {
                plan.same += 1;
                continue;
            }
            let failed = |why: String| format!("mirror {}: {why}", mirror.name);
            if old.is_some_and(|old| old.follow.is_some() != mirror.follow.is_some()) {
                return Err(failed("a mirror and a follower take each other's place after a restart only".into()));
            }
            let source = mirror.source.display();
            Root::open(&mirror.source).map_err(|e| failed(format!("cannot open the source {source}: {e}")))?;
            let facts = crew.facts(mirror).map_err(|e| failed(chain(&e)))?;
            let list = if old.is_some() { &mut plan.changed } else { &mut plan.added };
            list.push((mirror.clone(), facts));
        }
        let stays = |m: &&Mirror| new.mirrors.iter().any(|n| n.name == m.name);
        plan.removed = crew.mirrors().filter(|m| !stays(m)).map(|m| m.name.clone()).collect();
        Ok(plan)
    }

    fn begin(&mut self, plan: Plan, new: &Config, crew: &mut Crew) {
        let (changed, added, removed) = (plan.changed.len(), plan.added.len(), plan.removed.len());
        tracing::info!(same = plan.same, changed, added, removed, "the configuration was read again");
        let deadline = Instant::now() + new.daemon.stop_timeout.mul_f64(0.9);
        let order = new.mirrors.iter().map(|m| m.name.clone()).collect();
        let mut under_way = UnderWay { waits: BTreeMap::new(), order, trouble: Vec::new() };
        for name in plan.removed {
            crew.dismiss(&name, deadline);
            under_way.waits.insert(name, None);
        }
        for (mirror, facts) in plan.changed {
            crew.replace(&mirror, facts.clone(), deadline);
            under_way.waits.insert(mirror.name.clone(), Some((mirror, facts)));
        }
        for (mirror, facts) in plan.added {
            match crew.add(mirror.clone(), facts.clone()) {
                Ok(()) => drop(under_way.waits.insert(mirror.name.clone(), Some((mirror, facts)))),
                Err(error) => under_way.failed(&mirror.name, &chain(&error)),
            }
        }
        self.under_way = Some(under_way);
    }

    /// A mirror began, or could not.
    pub(super) fn begun(&mut self, name: &str, result: Result<(), String>, crew: &mut Crew, manager: &Manager) {
        let Some(under_way) = &mut self.under_way else { return };
        let Some(wanted) = under_way.waits.remove(name) else { return };
        match (result, wanted) {
            (Ok(()), Some((mirror, facts))) => crew.replaced(mirror, facts),
            (Ok(()), None) => {}
            (Err(why), wanted) => {
                under_way.failed(name, &why);
                // One that was added has ended; one that was changed goes on as it was.
                if wanted.is_some_and(|(mirror, _)| crew.mirrors().any(|m| *m == mirror)) {
                    crew.dismiss(name, Instant::now());
                }
            }
        }
        self.go_on(crew, manager);
    }

    /// A mirror has ended as ordered.
    pub(super) fn gone(&mut self, mirror: &str, crew: &mut Crew, manager: &Manager) {
        if let Some(under_way) = &mut self.under_way {
            under_way.waits.retain(|name, wanted| wanted.is_some() || name != mirror);
        }
        self.go_on(crew, manager);
    }

    /// Ends the reload when nothing is waited for any more.
    fn go_on(&mut self, crew: &Crew, manager: &Manager) {
        let Some(done) = self.under_way.take_if(|under_way| under_way.waits.is_empty()) else { return };
        crew.sort(&done.order.iter().map(String::as_str).collect::<Vec<_>>());
        crew.engines().note(done.trouble.join("; "));
        if done.trouble.is_empty() {
            tracing::info!("the configuration is in force");
        }
        self.answer(done.trouble);
        manager.reloaded();
    }

    /// Whether SIGHUP came while a reload was under way that is over now.
    pub(super) fn is_due_again(&mut self) -> bool {
        let due = self.under_way.is_none() && std::mem::take(&mut self.asked_again);
        if due {
            self.asks.append(&mut self.asks_again);
        }
        due
    }
}

impl UnderWay {
    fn failed(&mut self, mirror: &str, why: &str) {
        tracing::error!(%mirror, "the mirror cannot be run as the configuration has it: {why}");
        self.trouble.push(format!("mirror {mirror} cannot be run as the configuration has it: {why}"));
    }
}

/// Takes over what can change below `[daemon]`, and says what cannot.
fn take_daemon(config: &mut Config, new: &Config) -> Vec<String> {
    config.daemon.stop_timeout = new.daemon.stop_timeout;
    (config.daemon.max_runs, config.daemon.bwlimit) = (new.daemon.max_runs, new.daemon.bwlimit);
    config.daemon.bwlimit_at.clone_from(&new.daemon.bwlimit_at);
    let keys = changed(&config.daemon, &new.daemon);
    if !keys.is_empty() {
        tracing::warn!("changed in [daemon], and in effect from the next start on: {}", keys.join(", "));
    }
    keys
}

/// The keys below `[daemon]` that differ.
fn changed(old: &Daemon, new: &Daemon) -> Vec<String> {
    let table = |daemon| toml::Table::try_from(daemon).unwrap_or_default();
    let (old, new) = (table(old), table(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_of_the_daemon_that_changed_is_named() {
        let of = |keys: &str| {
            Config::from_toml(&format!(
                "[daemon]\n{keys}[[mirror]]\nname = \"m\"\nsource = \"/s\"\n\
            [[mirror.target]]\nname = \"t\"\nurl = \"h::m\"\n"
            ))
            .unwrap()
            .daemon
        };
        let old = of("metrics = \"127.0.0.1:9846\"\n");
        assert!(changed(&old, &old).is_empty());
        assert_eq!(changed(&old, &of("")), ["metrics"]);
        let new = of(
            "status_socket = \"/run/x.sock\"\nmetrics = \"127.0.0.1:9847\"\nmetrics_file = \"/x.prom\"\n[daemon.log]\nlevel = \"warn\"\n",
        );
        assert_eq!(changed(&old, &new), ["log", "metrics", "metrics_file", "status_socket"]);
    }
}
