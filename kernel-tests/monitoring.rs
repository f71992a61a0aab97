//! Metrics: over HTTP, as a file, and that they say what the status says.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::fixture::daemon::{Config, fansync};
use crate::fixture::fs::Fs;
use crate::fixture::proc::poll_until;
use crate::fixture::rsyncd::free_port;
use crate::fixture::{Case, Mirror, Run, Setup, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("metrics_say_what_the_status_says", &[Fs::Tmpfs], metrics),
        case("a_metrics_port_in_use_is_named", &[Fs::Tmpfs], port_in_use),
    ]
}

/// What `GET` of this path gives: the status line with headers, and the body. `None` while no server
/// listens.
fn try_get(port: u16, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(WAIT)).expect("a timeout can be set");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").expect("the request can be sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer is text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}"));
    Some((head.into(), body.into()))
}

fn get(port: u16, path: &str) -> String {
    let (head, body) = try_get(port, path).expect("the page is served");
    assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}\n{body}");
    body
}

fn series(text: &str) -> HashMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.into(), value.parse().expect("a number"))).collect()
}

fn of_target(series: &HashMap<String, f64>, name: &str, more: &str) -> f64 {
    let name = format!("fansync_target_{name}{{mirror=\"mirror\",target=\"t1\"{more}}}");
    *series.get(&name).unwrap_or_else(|| panic!("{name} is not in {series:#?}"))
}

fn metrics(fs: Fs) -> Run<()> {
    let port = free_port();
    let dir = tempfile::tempdir().expect("a directory can be made");
    let file = dir.path().join("fansync.prom");
    let setup = Setup::new(fs).daemon_key("metrics", format!("127.0.0.1:{port}"));
    let keys = setup.daemon_key("metrics_file", file.to_str().expect("text")).daemon_key("metrics_interval", "1s");
    let mut m: Mirror = keys.start()?;
    m.src.write("f", b"12345");
    m.check();
    let synced = poll_until(WAIT, || Some(series(&get(port, "/metrics"))).filter(|s| of_target(s, "lag_seconds", "") == 0.0));
    let synced = synced.expect("the lag goes back to 0");
    assert_eq!(of_target(&synced, "state", ",state=\"idle\""), 1.0);
    assert!(synced["fansync_events_total{mirror=\"mirror\"}"] >= 1.0 && of_target(&synced, "sent_files_total", "") >= 1.0);

    m.rsyncd.as_mut().expect("the target is a module").stop();
    m.src.write("g", b"x");
    let down = || Some(series(&get(port, "/metrics"))).filter(|s| of_target(s, "state", ",state=\"down\"") == 1.0);
    poll_until(WAIT, down).expect("the target is down");
    let before = m.daemon.target_status("t1");
    let shown = series(&get(port, "/metrics"));
    let after = m.daemon.target_status("t1");
    let lag = of_target(&shown, "lag_seconds", "");
    // A snapshot may be half a second old.
    assert!(before.lag_seconds - 0.6 <= lag && lag <= after.lag_seconds && lag > 0.0, "{lag}, {before:?}, {after:?}");
    assert_eq!(of_target(&shown, "pending_paths", "") as u64, after.pending);
    let written = || Some(series(&std::fs::read_to_string(&file).ok()?)).filter(|s| of_target(s, "lag_seconds", "") > lag);
    poll_until(WAIT, written).expect("the file follows");

    m.rsyncd.as_mut().expect("the target is a module").restart();
    m.daemon.does(&["retry"]);
    m.check();
    let back = || Some(series(&get(port, "/metrics"))).filter(|s| of_target(s, "lag_seconds", "") == 0.0);
    poll_until(WAIT, back).expect("the lag goes back to 0");
    m.daemon.terminate();
    assert!(!file.exists() && try_get(port, "/metrics").is_none(), "metrics outlive the daemon");
    Ok(())
}

fn port_in_use(fs: Fs) -> Run<()> {
    let port = free_port();
    let m = Setup::new(fs).daemon_key("metrics", format!("127.0.0.1:{port}")).start()?;
    let work = tempfile::tempdir().expect("a directory can be made");
    let config = Config::new(work.path(), m.config().mirror.clone())
        .with_keys([("metrics".into(), format!("127.0.0.1:{port}").into())].into());
    let ran = fansync(&["run", "--config", config.write(work.path()).to_str().expect("text")], WAIT);
    let named = ran.stderr.contains(&format!("cannot serve metrics on 127.0.0.1:{port}: the address is in use"));
    assert!(ran.code == 78 && named, "{}: {}", ran.code, ran.stderr);
    Ok(())
}
