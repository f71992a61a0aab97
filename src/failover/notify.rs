//! Notifications: to a program, or by an HTTP POST. Each in a thread of its own, for at most
//! [`PATIENCE`]; nothing waits for it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::config::{Client, Event, Hook};
use crate::sys::child::as_usual;

/// How long a hook may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What is sent: as JSON to a URL, as `FANSYNC_…` variables to a program.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Notice {
    /// `switch`, `failback`, `alarm`.
    pub(crate) event: &'static str,
    /// The `[[failover]]`.
    pub(crate) name: String,
    /// The host that notifies.
    pub(crate) host: String,
    /// What is mounted now: `primary`, `backup`, or empty.
    pub(crate) on: String,
    /// The newest epoch.
    pub(crate) epoch: u64,
    /// One line for people.
    pub(crate) text: String,
}

/// Notifies all hooks that are set for `event`.
pub(crate) fn send(client: &Client, event: Event, notice: &Notice) {
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

/// As the mirror's hooks do it: redirections are not followed, so that a receiver cannot send this
/// host elsewhere; and the log shows no more of the URL than the host, as the rest may be a key.
fn post(url: &str, body: String) -> Result<(), String> {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host).to_owned();
    let agent = crate::hooks::plain_agent(PATIENCE);
    match agent.post(url).header("Content-Type", "application/json").send(body) {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(format!("{host}: HTTP status {}", response.status().as_u16())),
        // Its text may hold the URL.
        Err(ureq::Error::BadUri(_) | ureq::Error::Http(_)) => Err(format!("{host}: the URL cannot be used")),
        Err(e) => Err(format!("{host}: {e}")),
    }
}

fn run(hook: &Hook, notice: &Notice) -> Result<(), String> {
    if let Some(url) = &hook.url {
        let body = serde_json::to_string(notice).map_err(|e| e.to_string())?;
        return post(url, body);
    }
    let [program, args @ ..] = &hook.command[..] else { return Ok(()) };
    let mut command = Command::new(program);
    let mut child = as_usual(&mut command)
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection, and returns whether there was one.
    fn answering(answer: String) -> (String, std::thread::JoinHandle<bool>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ours = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else { return false };
            let mut head = [0; 4096];
            let asked = stream.read(&mut head).unwrap_or(0) > 0;
            let _ = stream.write_all(answer.as_bytes());
            asked
        });
        (address, thread, ours)
    }

    #[test]
    fn a_redirection_is_not_followed_and_no_url_is_told() {
        let (inner, inside, listener) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into());
        let (outer, _, _) = answering(format!("HTTP/1.1 302 Found\r\nLocation: http://{inner}/\r\nContent-Length: 0\r\n\r\n"));
        let error = post(&format!("http://me:pw@{outer}/hook/KEY?token=KEY"), "{}".into()).unwrap_err();
        assert!(error.contains("302") && error.starts_with(&outer) && !error.contains("KEY") && !error.contains("pw"), "{error}");
        // No process was there: what ends the wait is this connection.
        drop(std::net::TcpStream::connect(&inner).unwrap());
        assert!(!inside.join().unwrap(), "the redirection was followed");
        drop(listener);
        let error = post("http://me:pw@127.0.0.1:1/KEY", "{}".into()).unwrap_err();
        assert!(!error.contains("KEY") && !error.contains("pw"), "{error}");
        let error = post("http://[/KEY", "{}".into()).unwrap_err();
        assert!(!error.contains("KEY"), "{error}");
    }
}
