//! Places and programs of a configuration that others than root and the calling user can change:
//! what is only warned of.
//!
//! What is refused is refused elsewhere: the configuration itself and password files where they are
//! read, the programs of hooks by the rules, `state_dir` and the socket's directory where they are
//! made.

use std::path::Path;

use super::checked::Config;
use super::cite::Warning;
use super::hook::Hook;
use crate::trust::{self, Mind, TrustError};

impl Config {
    /// What others can change of what this configuration names, a line each. For `check`, and for
    /// the log at the start.
    pub(crate) fn others_can_change(&self) -> Vec<Warning> {
        let mut out = Vec::new();
        let mut warn = |key: String, what: String, judged: Result<(), TrustError>| match judged {
            Err(error) if !error.is_missing() => {
                out.push(Warning::new(key, format!("{what}: {error}; {}", error.help())));
            }
            _ => {}
        };
        let daemon = &self.daemon;
        warn("daemon.state_dir".into(), "state_dir".into(), trust::directory(&daemon.state_dir));
        for (key, file) in [("status_socket", Some(&daemon.status_socket)), ("metrics_file", daemon.metrics_file.as_ref())] {
            if let Some(dir) = file.and_then(|file| file.parent()) {
                warn(format!("daemon.{key}"), format!("the directory of {key}"), trust::directory(dir));
            }
        }
        for (i, mirror) in self.mirrors.iter().enumerate() {
            let title = format!("mirror {:?}", mirror.name);
            if let Some(dir) = mirror.fail_log.as_deref().and_then(Path::parent) {
                warn(format!("mirror.{i}.fail_log"), format!("{title}: the directory of fail_log"), trust::directory(dir));
            }
            if !mirror.targets.is_empty() {
                warn(format!("mirror.{i}.rsync"), format!("{title}: rsync"), judge_program(&mirror.rsync));
            }
            for (j, target) in mirror.targets.iter().enumerate() {
                let first = target.ssh.as_deref().and_then(|words| words.split_whitespace().next());
                if let Some(first) = first {
                    warn(
                        format!("mirror.{i}.target.{j}.ssh"),
                        format!("{title}, target {:?}: ssh", target.name),
                        judge_program(Path::new(first)),
                    );
                }
            }
            for (k, hook, file) in mirror.hooks.iter().enumerate().filter_map(|(k, hook)| Some((k, hook, Hook::ca_file(hook)?))) {
                warn(
                    format!("mirror.{i}.hook.{k}.ca_file"),
                    format!("{title}, hook {:?}: ca_file", hook.name),
                    trust::file(file, Mind::Writing),
                );
            }
        }
        out
    }
}

/// Whether a program is ours alone, where it can be found.
pub(super) fn judge_program(name: &Path) -> Result<(), TrustError> {
    trust::program(name).map_or(Ok(()), |path| trust::file(&path, Mind::Writing))
}
