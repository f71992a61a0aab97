//! Telling somebody: a program, or an HTTP POST. Each in a thread of its own, for at most [`PATIENCE`]; nothing waits for it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::config::{Client, Event, Hook};

/// How long a hook may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What is told: as JSON to a URL, as `FANSYNC_…` variables to a program.
#[derive(Debug, Clone, Serialize)]
pub struct Notice {
    /// `switch`, `failback`, `alarm`.
    pub event: &'static str,
    /// The `[[failover]]`.
    pub name: String,
    /// The host that tells.
    pub host: String,
    /// What is mounted now: `primary`, `backup`, or empty.
    pub on: String,
    /// The newest epoch.
    pub epoch: u64,
    /// One line for people.
    pub text: String,
}

/// Tells all hooks that want to hear of `event`.
pub fn tell(client: &Client, event: Event, notice: &Notice) {
    for hook in client.hooks.iter().filter(|h| h.on.contains(&event)) {
        let (hook, notice) = (hook.clone(), notice.clone());
        let spawned = std::thread::Builder::new().name("fansync-notify".into()).spawn(move || {
            if let Err(why) = run(&hook, &notice) {
                tracing::warn!(failover = %notice.name, event = notice.event, "a hook failed: {why}");
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "cannot start a hook");
        }
    }
}

fn run(hook: &Hook, notice: &Notice) -> Result<(), String> {
    if let Some(url) = &hook.url {
        let body = serde_json::to_string(notice).map_err(|e| e.to_string())?;
        let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
        let sent = agent.post(url).header("Content-Type", "application/json").send(body);
        return sent.map(drop).map_err(|e| format!("{url}: {e}"));
    }
    let [program, args @ ..] = &hook.command[..] else { return Ok(()) };
    let mut child = Command::new(program)
        .args(args)
        .envs([
            ("FANSYNC_EVENT", notice.event),
            ("FANSYNC_NAME", &notice.name),
            ("FANSYNC_HOST", &notice.host),
            ("FANSYNC_ON", &notice.on),
            ("FANSYNC_EPOCH", &notice.epoch.to_string()),
            ("FANSYNC_TEXT", &notice.text),
        ])
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    let begun = Instant::now();
    loop {
        match child.try_wait().map_err(|e| e.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{program}: {status}")),
            None if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(20)),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} did not end within {PATIENCE:?}"));
            }
        }
    }
}
