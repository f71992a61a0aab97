//! `kind = "http"`: a POST of JSON for many changes; and what the requests of other kinds have in
//! common with it.
//!
//! Any 2xx confirms. 408, 429 and 5xx, and whatever keeps the answer from coming, are tried again,
//! no earlier than `Retry-After` says; any other answer means that the same request fails again, so
//! its changes are given up. Redirections are not followed: a POST would become a GET.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use siphasher::sip128::{Hasher128, SipHasher13};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::message;
use super::queue::{Event, Fault, Queue};
use super::worker::{Deliver, Place};
use crate::config::hook::{Hook as Config, Http, Request};
use crate::error::chain;
use crate::path::Shown;
use crate::sync::password::password;

/// Bytes read of an answer.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;
/// Bytes of it that are shown.
const SHOWN_BYTES: usize = 200;
/// A receiver cannot ask for a longer pause than this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

pub(super) struct Poster {
    http: Http,
    config: Arc<Config>,
    place: Place,
    queue: Arc<Queue>,
    client: Client,
}

impl Poster {
    pub(super) fn new(http: &Http, config: &Arc<Config>, place: &Place, queue: &Arc<Queue>) -> Poster {
        let client = Client::new(&http.request, config.timeout);
        Poster { http: http.clone(), config: Arc::clone(config), place: place.clone(), queue: Arc::clone(queue), client }
    }
}

impl Deliver for Poster {
    fn deliver(&mut self, events: &[Event]) -> Result<(), Fault> {
        let mut body = message::envelope(&self.place, &self.config.name);
        let list = events.iter().map(|event| {
            let mut map = Map::new();
            message::add(&mut map, event);
            Value::Object(map)
        });
        body.insert("events".into(), list.collect());
        // The same changes have the same key, also from the next daemon.
        let key = key(&Value::Object(body.clone()).to_string());
        body.insert("dropped".into(), self.queue.dropped().into());
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", &key)];
        self.client.send("POST", &self.http.url, &headers, Some(Value::Object(body).to_string().into_bytes()))
    }
}

fn key(text: &str) -> String {
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    format!("{:032x}", hasher.finish128().as_u128())
}

/// What makes requests without following where an answer sends it, and without taking a status for
/// an error.
pub(crate) fn plain_agent(timeout: Duration) -> ureq::Agent {
    settings(timeout).build().new_agent()
}

fn settings(timeout: Duration) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("fansync/", env!("CARGO_PKG_VERSION")))
}

/// Makes requests and judges the answers.
pub(super) struct Client {
    request: Request,
    timeout: Duration,
    agent: Option<ureq::Agent>,
}

impl Client {
    pub(super) fn new(request: &Request, timeout: Duration) -> Client {
        Client { request: request.clone(), timeout, agent: None }
    }

    /// Made at the first request, and anew after a failure: the certificates may have been
    /// replaced.
    fn agent(&mut self) -> Result<ureq::Agent, String> {
        if let Some(agent) = &self.agent {
            return Ok(agent.clone());
        }
        let mut tls = TlsConfig::builder();
        if let Some(path) = &self.request.ca_file {
            let pem = std::fs::read(path).map_err(|e| format!("cannot read ca_file {}: {e}", path.display()))?;
            let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                return Err(format!("ca_file {} holds no PEM certificate", path.display()));
            }
            tls = tls.root_certs(RootCerts::from(certificates.into_iter()));
        }
        let config = settings(self.timeout).tls_config(tls.build()).allow_non_standard_methods(true).build();
        let agent = config.new_agent();
        self.agent = Some(agent.clone());
        Ok(agent)
    }

    /// Sends one request. `own`: headers that a configured one of the same name takes the place of.
    pub(super) fn send(&mut self, method: &str, url: &str, own: &[(&str, &str)], body: Option<Vec<u8>>) -> Result<(), Fault> {
        let result = self.try_send(method, url, own, body);
        if matches!(result, Err(Fault::Receiver { .. })) {
            self.agent = None;
        }
        result
    }

    fn try_send(&mut self, method: &str, url: &str, own: &[(&str, &str)], body: Option<Vec<u8>>) -> Result<(), Fault> {
        let later = |reason: String| Fault::Receiver { reason, after: None };
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        let configured = |name: &str| self.request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        for (name, value) in own.iter().filter(|(name, _)| !configured(name)) {
            request = request.header(*name, *value);
        }
        for (name, value) in &self.request.headers {
            request = request.header(name, value);
        }
        if let (Some(file), Some(template)) = (&self.request.token_file, &self.request.token_header) {
            let token = password(file).map_err(|e| later(chain(&e)))?;
            let token =
                String::from_utf8(token).map_err(|_| later(format!("{} holds what no header can hold", file.display())))?;
            let (name, value) = template.split_once(':').unwrap_or(("Authorization", "{token}"));
            request = request.header(name.trim(), value.trim().replace("{token}", token.trim()));
        }
        let agent = self.agent().map_err(later)?;
        let sent = match body {
            Some(body) => request.body(body).map_err(ureq::Error::Http).and_then(|r| agent.run(r)),
            None => request.body(()).map_err(ureq::Error::Http).and_then(|r| agent.run(r)),
        };
        let mut response = sent.map_err(|e| later(chain(&e)))?;
        let after = response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(retry_after);
        let answer = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec().unwrap_or_default();
        judge(response.status().as_u16(), &answer, after)
    }
}

/// What a status means for the request that it answers.
pub(super) fn judge(status: u16, answer: &[u8], after: Option<Duration>) -> Result<(), Fault> {
    if (200..300).contains(&status) {
        return Ok(());
    }
    let answer = answer.trim_ascii();
    let words = if answer.is_empty() { String::new() } else { format!(": {}", Shown(&answer[..answer.len().min(SHOWN_BYTES)])) };
    let reason = format!("HTTP status {status}{words}");
    match status {
        408 | 429 | 500.. => Err(Fault::Receiver { reason, after }),
        _ => Err(Fault::Changes { reason, permanent: true }),
    }
}

/// RFC 9110 10.2.3: seconds, or a date.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    let wait = match value.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = httpdate::parse_http_date(value.trim()).ok()?;
            at.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_that_a_receiver_asks_for() {
        for absurd in ["Sun, 06 Nov 18446744073709551615 08:49:37 GMT", "Sun, 06 Nov 1994 18446744073709551615:49:37 GMT"] {
            assert_eq!(retry_after(absurd), None);
        }
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("99999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn what_a_status_means() {
        for (status, done, again) in [
            (200, true, false),
            (204, true, false),
            (301, false, false),
            (400, false, false),
            (401, false, false),
            (404, false, false),
            (408, false, true),
            (409, false, false),
            (429, false, true),
            (500, false, true),
            (503, false, true),
        ] {
            let result = judge(status, b"", None);
            assert_eq!(result.is_ok(), done, "{status}");
            assert_eq!(matches!(result, Err(Fault::Receiver { .. })), again, "{status}");
        }
    }

    #[test]
    fn a_key_is_a_matter_of_the_changes() {
        assert_eq!(key("a"), key("a"));
        assert_ne!(key("a"), key("b"));
        assert_eq!(key("a").len(), 32);
    }
}
