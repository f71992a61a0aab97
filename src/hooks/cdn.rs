//! `kind = "cdn"`: asks a content delivery network to fetch URLs anew.
//!
//! Two forms. `chinacache` is sersync's refreshCDN: a request for each change, byte for byte as
//! sersync sends it, but that values are percent-encoded, so that no name can end the request line
//! or add a parameter. `purge` is made of templates. Credentials are in no log line and no error.

use std::io::{Read, Write};
use std::sync::Arc;

use serde_json::Value;

use super::http::{Client, judge};
use super::message;
use super::queue::{Event, Fault};
use super::socket::connect;
use super::worker::{Deliver, Place};
use crate::config::hook::{Cdn, CdnForm, Hook as Config, Secret};
use crate::sync::password::password;

/// Bytes read of an answer.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

pub(super) struct Purger {
    cdn: Cdn,
    config: Arc<Config>,
    place: Place,
    client: Option<Client>,
}

impl Purger {
    pub(super) fn new(cdn: &Cdn, config: &Arc<Config>, place: &Place) -> Purger {
        let client = match &cdn.form {
            CdnForm::Purge { request, .. } => Some(Client::new(request, config.timeout)),
            CdnForm::Chinacache { .. } => None,
        };
        Purger { cdn: cdn.clone(), config: Arc::clone(config), place: place.clone(), client }
    }

    fn chinacache(&self, event: &Event, account: (&str, &str, &str, &Secret)) -> Result<(), Fault> {
        let (address, domain, user, secret) = account;
        let Some((base, path)) = message::raw_url(&self.place, event, &self.cdn.base, self.cdn.url_match.as_ref()) else {
            return Ok(());
        };
        let later = |reason: String| Fault::Receiver { reason, after: None };
        let secret = match secret {
            Secret::Text(text) => text.as_bytes().to_vec(),
            Secret::File(file) => password(file).map_err(|e| later(e.to_string()))?,
        };
        let what = if event.dir { "dirs" } else { "urls" };
        let request = format!(
            "HEAD /index.jsp?user={}&pswd={}&ok=ok&{what}={} HTTP/1.0\r\nHost: {domain}\r\n\r\n",
            message::query(user.as_bytes()),
            message::query(&secret),
            message::query(&[base, path].concat()),
        );
        let answer = || -> std::io::Result<Vec<u8>> {
            let mut stream = connect(address, self.config.timeout)?;
            stream.set_read_timeout(Some(self.config.timeout))?;
            stream.set_write_timeout(Some(self.config.timeout))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            let read = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer);
            // An answer whose head is there is one, however the connection ended.
            if status(&answer).is_none() { read.map(|_| answer) } else { Ok(answer) }
        };
        let answer = answer().map_err(|e| later(format!("{address}: {e}")))?;
        match status(&answer) {
            Some(status) => judge(status, b"", None),
            None => Err(later(format!("{address} gave no HTTP answer"))),
        }
    }

    fn purge(&mut self, events: &[Event], url: &str, method: &str, body: Option<&str>) -> Result<(), Fault> {
        let of = |event| message::url(&self.place, event, &self.cdn.base, self.cdn.url_match.as_ref());
        let urls: Vec<String> = events.iter().filter_map(of).collect();
        let Some(first) = urls.first() else { return Ok(()) };
        let fill = |text: &str| text.replace("{url_encoded}", &encoded(first)).replace("{url}", first);
        let list = || Value::from(urls.clone()).to_string();
        let body = body.map(|text| fill(text).replace("{lines}", &urls.join("\n")).replace("{urls}", &list()));
        let Some(client) = &mut self.client else { return Ok(()) };
        let json = [("Content-Type", "application/json")];
        client.send(method, &fill(url), if body.is_some() { &json } else { &[] }, body.map(String::into_bytes))
    }
}

impl Deliver for Purger {
    fn deliver(&mut self, events: &[Event]) -> Result<(), Fault> {
        match self.cdn.form.clone() {
            CdnForm::Chinacache { address, domain, user, password } => {
                events.iter().try_for_each(|event| self.chinacache(event, (&address, &domain, &user, &password)))
            }
            CdnForm::Purge { url, method, body, .. } => self.purge(events, &url, &method, body.as_deref()),
        }
    }
}

fn encoded(url: &str) -> String {
    percent_encoding::utf8_percent_encode(url, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The status of an HTTP answer.
pub(super) fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|&b| b == b'\n').next()?;
    let mut words = line.split(|&b| b == b' ');
    words.next().filter(|word| word.starts_with(b"HTTP/"))?;
    std::str::from_utf8(words.next()?.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert_eq!(status(b"HTTP/1.0 200 OK\r\nwhatsup: content=\"succeed\"\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.1 403\r\n"), Some(403));
        assert_eq!(status(b"HTTP/1.1 "), None);
        assert_eq!(status(b"SSH-2.0-x\r\n"), None);
        assert_eq!(status(b""), None);
    }
}
