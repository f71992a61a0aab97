//! The arguments of every rsync of a target, whatever it carries.

use std::os::fd::AsFd;

use super::*;

/// See the module's text.
pub(super) struct RsyncArgs {
    pub(super) facts: RsyncFacts,
    pub(super) filter: Vec<OsString>,
    /// `filter`, and what only the periodic comparisons leave alone.
    pub(super) limited: Vec<OsString>,
    pub(super) guards: Vec<OsString>,
    /// What `guards` protect.
    pub(super) guarded: Filter,
    pub(super) env: Vec<(OsString, OsString)>,
    /// What every run inherits; where state is kept.
    pub(super) lock: Option<Arc<RunLock>>,
}

impl RsyncArgs {
    pub(super) fn new(mirror: &Mirror, facts: &RsyncFacts) -> RsyncArgs {
        let none: &[&[u8]] = &[];
        let guards = mirror.filter.guards();
        RsyncArgs {
            facts: facts.clone(),
            filter: mirror.filter.rsync_args(),
            limited: limited_args(mirror),
            guards: guards.iter().map(|p| survey::guard(b"-r", p)).collect(),
            guarded: Filter::new(none, guards).unwrap_or_default(), // checked with the configuration
            env: argv::environment(std::env::vars_os()),
            lock: None,
        }
    }

    /// Places are left alone, by these rules before the others.
    pub(super) fn leave_apart(&mut self, mirror: &Mirror, rules: &[OsString]) {
        self.filter = rules.iter().cloned().chain(mirror.filter.rsync_args()).collect();
        self.limited = rules.iter().cloned().chain(limited_args(mirror)).collect();
    }

    /// Whether rsync's filter only excludes.
    pub(super) fn excludes_only(&self) -> bool {
        argv::excludes_only(&self.filter)
    }

    /// The guards, but for these paths.
    pub(super) fn guards_but(&self, paths: &[RelPath]) -> Vec<OsString> {
        let risks = paths.iter().map(|p| survey::guard(b"+r", &Filter::exactly(p)));
        risks.chain(self.guards.iter().cloned()).collect()
    }

    /// A run of `target`.
    pub(super) fn spec<'s>(
        &'s self,
        mirror: &'s Mirror,
        target: &'s config::Target,
        root: &'s std::path::Path,
        compare: Compare,
    ) -> Spec<'s> {
        Spec {
            compare,
            filter_args: &self.filter,
            guard_args: &self.guards,
            lock: self.lock.as_deref().map(AsFd::as_fd),
            ..Spec::new(mirror, target, &self.facts, root)
        }
    }
}
