//! Places and programs of a configuration that others than root and the calling user can change:
//! what is only warned of.
//!
//! What is refused is refused elsewhere: the configuration itself and password files where they are
//! read, the programs of hooks by
//! the rules, `state_dir` and the socket's directory where they are made.

use std::path::Path;

use super::checked::Config;
use super::hook::Hook;
use crate::trust::{self, Mind, TrustError};

impl Config {
    /// What others can change of what this configuration names, a line each. For `check`, and for
    /// the log at the start.
    pub fn others_can_change(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut warn = |what: String, judged: Result<(), TrustError>| match judged {
            Err(error) if !error.is_missing() => out.push(format!("{what}: {error}; {}", error.help())),
            _ => {}
        };
        let daemon = &self.daemon;
        warn("state_dir".into(), trust::directory(&daemon.state_dir));
        for (key, file) in [("status_socket", Some(&daemon.status_socket)), ("metrics_file", daemon.metrics_file.as_ref())] {
            if let Some(dir) = file.and_then(|file| file.parent()) {
                warn(format!("the directory of {key}"), trust::directory(dir));
            }
        }
        for mirror in &self.mirrors {
            let title = format!("mirror {:?}", mirror.name);
            if let Some(dir) = mirror.fail_log.as_deref().and_then(Path::parent) {
                warn(format!("{title}: the directory of fail_log"), trust::directory(dir));
            }
            if !mirror.targets.is_empty() {
                warn(format!("{title}: rsync"), judge_program(&mirror.rsync));
            }
            for target in &mirror.targets {
                let first = target.ssh.as_deref().and_then(|words| words.split_whitespace().next());
                if let Some(first) = first {
                    warn(format!("{title}, target {:?}: ssh", target.name), judge_program(Path::new(first)));
                }
            }
            for (hook, file) in mirror.hooks.iter().filter_map(|hook| Some((hook, Hook::ca_file(hook)?))) {
                warn(format!("{title}, hook {:?}: ca_file", hook.name), trust::file(file, Mind::Writing));
            }
        }
        out
    }
}

/// Whether a program is ours alone, where it can be found.
pub(super) fn judge_program(name: &Path) -> Result<(), TrustError> {
    trust::program(name).map_or(Ok(()), |path| trust::file(&path, Mind::Writing))
}
