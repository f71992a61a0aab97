//! The connection to the servers of a feed, and what is asked of JetStream: plain requests, so that
//! this holds for every server from 2.9 on.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::rustls;
use async_nats::{Client, ConnectOptions, HeaderMap, Message, ServerAddr};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::barriers;
use crate::config::Login;
use crate::location::Location;
use crate::trust::{self, Mind};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// Why something cannot be done with the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Trying again cannot help before a change by an administrator.
    pub(super) config: bool,
    pub(super) why: String,
}

impl Trouble {
    pub(super) fn away(why: impl Into<String>) -> Trouble {
        Trouble { config: false, why: why.into() }
    }

    pub(super) fn config(why: impl Into<String>) -> Trouble {
        Trouble { config: true, why: why.into() }
    }
}

/// What JetStream says of a stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Info {
    /// When it was made, in nanoseconds since 1970.
    pub(super) created: u64,
    pub(super) last: u64,
    /// Of all its messages together.
    pub(super) bytes: u64,
    /// When the oldest message was stored; `None` where there is none.
    pub(super) first: Option<SystemTime>,
    pub(super) config: Value,
    /// The subjects of its messages, where they were asked for.
    pub(super) subjects: Vec<String>,
}

/// A message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) payload: Vec<u8>,
    /// Numbers of followers that it answers.
    pub(crate) answers: Vec<u64>,
}

/// Why a message was not taken into a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// The stream does not end where it was expected to.
    WrongLast,
    /// No answer: it may have been stored all the same.
    Silent(String),
    /// By the server.
    Not(Trouble),
}

/// An error of JetStream's.
#[derive(Debug, Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

/// The runtime of a thread that talks to servers.
pub(super) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// What happens to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// It is there.
    Up,
    /// It was lost.
    Lost,
    /// The server has said this, as a rule before it ends the connection.
    Said(String),
}

/// Connects. What the client finds lost later it connects again by itself. `events`: gets what
/// happens to the connection.
pub(super) async fn connect(
    place: &Location,
    login: &Login,
    name: &str,
    events: Option<UnboundedSender<Link>>,
) -> Result<Client, Trouble> {
    let Location::Feed { servers, .. } = place else { return Err(Trouble::config(format!("{place} is no feed"))) };
    let mut addresses = Vec::new();
    for server in servers {
        addresses.push(server.parse::<ServerAddr>().map_err(|e| Trouble::config(format!("{server}: {e}")))?);
    }
    let unread = |key: &str, file: &Path, e: &dyn std::fmt::Display, help: &str| {
        Trouble::config(format!("the {key} {} cannot be read: {e}; {help}", file.display()))
    };
    let secret = |key: &str, file: &Path| -> Result<String, Trouble> {
        trust::file(file, Mind::Secret).map_err(|e| Trouble::config(format!("the {key}: {e}; {}", e.help())))?;
        let text = std::fs::read_to_string(file).map_err(|e| unread(key, file, &e, "it is a text of one line"))?;
        let line = text.lines().next().unwrap_or_default().trim().to_owned();
        if line.is_empty() {
            return Err(unread(key, file, &"its first line is empty", "that line is the secret"));
        }
        Ok(line)
    };
    for (key, file) in [("ca_file", &login.ca_file), ("cert_file", &login.cert_file), ("key_file", &login.key_file)] {
        if let Some(file) = file {
            std::fs::File::open(file)
                .map_err(|e| unread(key, file, &e, "it is a file in PEM; correct the path, or its rights"))?;
        }
    }
    let mut options = ConnectOptions::new().name(name).connection_timeout(CONNECT).request_timeout(Some(ANSWER));
    if let Some(file) = &login.nkey_file {
        options = options.nkey(secret("nkey_file", file)?);
    }
    if let (Some(user), Some(file)) = (&login.nats_user, &login.nats_password_file) {
        options = options.user_and_password(user.clone(), secret("nats_password_file", file)?);
    }
    if let Some(file) = &login.ca_file {
        options = options.add_root_certificates(file.clone());
    }
    if let (Some(cert), Some(key)) = (&login.cert_file, &login.key_file) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    if let Some(events) = events {
        options = options.event_callback(move |event| {
            let link = match event {
                async_nats::Event::Connected => Some(Link::Up),
                async_nats::Event::Disconnected => Some(Link::Lost),
                async_nats::Event::ServerError(error) => Some(Link::Said(error.to_string())),
                _ => None,
            };
            if let Some(link) = link {
                let _ = events.send(link);
            }
            std::future::ready(())
        });
    }
    options = options.require_tls(servers.iter().any(|server| server.starts_with("tls://")));
    let connected = tokio::time::timeout(CONNECT * 2, async_nats::connect_with_options(addresses, options)).await;
    match connected {
        Err(_) => Err(Trouble::away("no answer from a NATS server")),
        Ok(Err(e)) => {
            let servers = servers.join(", ");
            let refused = match e.kind() {
                async_nats::ConnectErrorKind::Authentication if login.nkey_file.is_some() => {
                    Some("the nkey_file is not the seed of an nkey: that is a line that begins with SU".to_owned())
                }
                async_nats::ConnectErrorKind::Authentication | async_nats::ConnectErrorKind::AuthorizationViolation => Some(
                    "it does not take this login; see the user, the password or nkey, and the server's `accounts`".to_owned(),
                ),
                async_nats::ConnectErrorKind::Tls => {
                    Some(format!("{e}; see that ca_file, cert_file and key_file are in PEM and belong together"))
                }
                _ => tls_words(&e, login.cert_file.is_some()),
            };
            match refused {
                Some(why) => Err(Trouble::config(format!("{servers}: {why}"))),
                None => Err(Trouble::away(format!("cannot connect to {servers}: {e}"))),
            }
        }
        Ok(Ok(client)) => Ok(client),
    }
}

/// Why TLS does not come about, and what to do, where an administrator has to do something.
/// `shown`: the client has a certificate.
fn tls_words(error: &(dyn std::error::Error + 'static), shown: bool) -> Option<String> {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error};
    // An I/O error shows the one within it as itself, and its source as its own.
    let mut next = Some(error);
    let mut found = None;
    while let Some(error) = next {
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let within = within.and_then(|e| e.downcast_ref::<Error>());
        found = found.or(within).or(error.downcast_ref::<Error>());
        next = error.source();
    }
    let found = found?;
    let theirs = "have it renewed there";
    Some(match found {
        Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "its certificate is not signed by ca_file, or without one by what this host trusts; name the file of the authority that \
             signed it"
                .to_owned()
        }
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            format!("its certificate has expired; {theirs}, and look at this host's clock")
        }
        Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            format!("its certificate is not valid yet; {theirs}, and look at this host's clock")
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "its certificate is for other names; give it in `servers` by a name that the certificate has".to_owned()
        }
        // Some servers say bad where there is none.
        Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::HandshakeFailure
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::UnknownCA
            | Alert::CertificateUnknown,
        ) => match shown {
            false => format!("it wants a certificate of the client ({found}); give cert_file and key_file"),
            true => {
                format!("it refuses cert_file ({found}); see whether that has expired, and that the server's ca_file signed it")
            }
        },
        other => format!("TLS does not come about: {other}"),
    })
}

/// Asks JetStream for something.
async fn ask(client: &Client, what: &str, body: &Value) -> Result<Result<Value, ApiError>, Trouble> {
    let answer = client.request(format!("$JS.API.{what}"), body.to_string().into()).await;
    let answer = answer.map_err(|e| unanswered(&e))?;
    let value: Value = serde_json::from_slice(&answer.payload).map_err(|e| Trouble::away(format!("a strange answer: {e}")))?;
    match value.get("error") {
        None => Ok(Ok(value)),
        Some(error) => {
            let error = ApiError::deserialize(error).unwrap_or(ApiError { code: 0, err_code: 0, description: error.to_string() });
            Ok(Err(error))
        }
    }
}

fn unanswered(error: &async_nats::RequestError) -> Trouble {
    match error.kind() {
        async_nats::RequestErrorKind::NoResponders => {
            Trouble::away("JetStream does not answer: it is off (jetstream { } in nats-server's configuration), or starts")
        }
        async_nats::RequestErrorKind::TimedOut => {
            Trouble::away("no answer within 5 s: the server is away, or this login may not do that")
        }
        _ => Trouble::away(error.to_string()),
    }
}

fn refused(what: &str, error: &ApiError) -> Trouble {
    let why = format!("{what}: {} ({})", error.description, error.code);
    // 503: no leader in a cluster, or no resources just now.
    Trouble { config: error.code != 503, why }
}

fn info_of(value: &Value) -> Result<Info, Trouble> {
    let created = value["created"].as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
    let created = created.and_then(|at: SystemTime| at.duration_since(UNIX_EPOCH).ok());
    let (Some(created), Some(last)) = (created, value["state"]["last_seq"].as_u64()) else {
        return Err(Trouble::away("the server's description of the stream is not understood"));
    };
    let subjects = value["state"]["subjects"].as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
    let state = &value["state"];
    let first = state["first_ts"].as_str().and_then(|text| humantime::parse_rfc3339(text).ok());
    Ok(Info {
        created: created.as_nanos() as u64,
        last,
        bytes: state["bytes"].as_u64().unwrap_or(0),
        first: first.filter(|_| state["messages"].as_u64() > Some(0)),
        config: value["config"].clone(),
        subjects,
    })
}

/// What JetStream says of a stream that is there.
pub(super) async fn look(client: &Client, name: &str) -> Result<Info, Trouble> {
    match ask(client, &format!("STREAM.INFO.{name}"), &json!({})).await? {
        Ok(value) => info_of(&value),
        Err(error) => Err(refused("cannot look at the stream", &error)),
    }
}

/// A stream with this configuration, made if there is none, and changed where it is another.
pub(super) async fn stream(client: &Client, config: &Value) -> Result<Info, Trouble> {
    let name = config["name"].as_str().unwrap_or_default();
    let body = json!({ "subjects_filter": ">" });
    let found = match ask(client, &format!("STREAM.INFO.{name}"), &body).await? {
        Ok(value) => info_of(&value)?,
        Err(error) if error.code == 404 => match ask(client, &format!("STREAM.CREATE.{name}"), config).await? {
            Ok(value) => return info_of(&value),
            Err(error) => return Err(refused("cannot make the stream", &error)),
        },
        Err(error) => return Err(refused("cannot look at the stream", &error)),
    };
    let differs = config.as_object().is_some_and(|map| map.iter().any(|(key, value)| found.config.get(key) != Some(value)));
    if !differs {
        return Ok(found);
    }
    let mut wanted = found.config.clone();
    if let (Some(wanted), Some(map)) = (wanted.as_object_mut(), config.as_object()) {
        wanted.extend(map.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    match ask(client, &format!("STREAM.UPDATE.{name}"), &wanted).await? {
        Ok(_) => Ok(found),
        Err(error) => Err(refused("cannot change the stream", &error)),
    }
}

/// What is looked for in a stream.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    /// The last one with this subject.
    Last(&'a str),
    /// The first one with this subject that has at least this sequence.
    From(u64, &'a str),
}

/// A message of a stream, from any server that holds it; `None` where there is none.
pub(super) async fn get(client: &Client, stream: &str, which: Which<'_>) -> Result<Option<Stored>, Trouble> {
    let body = match which {
        Which::Last(subject) => json!({ "last_by_subj": subject }),
        Which::From(sequence, subject) => json!({ "seq": sequence, "next_by_subj": subject }),
    };
    let answer = client.request(format!("$JS.API.DIRECT.GET.{stream}"), body.to_string().into()).await;
    let answer = answer.map_err(|e| unanswered(&e))?;
    match answer.status.map(|status| status.as_u16()) {
        Some(404) => return Ok(None),
        Some(code) if code != 200 => {
            let why = answer.description.clone().unwrap_or_default();
            return Err(Trouble::away(format!("cannot read the stream: {why} ({code})")));
        }
        _ => {}
    }
    let sequence = number(&answer, "Nats-Sequence").ok_or_else(|| Trouble::away("a message without its sequence"))?;
    Ok(Some(Stored { sequence, payload: answer.payload.to_vec(), answers: answers(&answer) }))
}

/// A number among a message's headers.
pub(super) fn number(message: &Message, header: &str) -> Option<u64> {
    message.headers.as_ref()?.get(header)?.as_str().parse().ok()
}

/// The numbers of followers that a message answers.
pub(super) fn answers(message: &Message) -> Vec<u64> {
    let header = message.headers.as_ref().and_then(|headers| headers.get(barriers::HEADER));
    header.map(|header| barriers::numbers(header.as_str()).collect()).unwrap_or_default()
}

/// Publishes a message with this id behind the message `last` of the stream, as an answer to these
/// numbers. Returns its sequence.
pub(super) async fn publish(
    client: &Client,
    stream: &str,
    subject: &str,
    (id, last, answers): (&str, u64, &[String]),
    payload: &[u8],
) -> Result<u64, Refused> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id);
    headers.insert("Nats-Expected-Stream", stream);
    headers.insert("Nats-Expected-Last-Sequence", last.to_string().as_str());
    if !answers.is_empty() {
        headers.insert(barriers::HEADER, answers.join(",").as_str());
    }
    let answer = client.request_with_headers(subject.to_owned(), headers, payload.to_vec().into()).await;
    let answer = answer.map_err(|e| Refused::Silent(unanswered(&e).why))?;
    let value: Value = serde_json::from_slice(&answer.payload).map_err(|e| Refused::Silent(format!("a strange answer: {e}")))?;
    if let Some(error) = value.get("error") {
        let error = ApiError::deserialize(error).unwrap_or(ApiError { code: 0, err_code: 0, description: error.to_string() });
        return Err(match error.err_code {
            10071 | 10164 => Refused::WrongLast,
            _ => Refused::Not(refused("the record is not stored", &error)),
        });
    }
    value["seq"].as_u64().ok_or_else(|| Refused::Silent("an acknowledgement without a sequence".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_a_stream() {
        let text =
            r#"{"created":"2026-11-30T07:23:01.123456789Z","config":{"name":"S"},"state":{"last_seq":7,"subjects":{"a.b":1}}}"#;
        let info = info_of(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!((info.created % 1_000_000_000, info.last), (123_456_789, 7));
        assert_eq!(info.subjects, ["a.b"]);
        assert!(info_of(&json!({ "state": { "last_seq": 1 } })).is_err());
    }
}
