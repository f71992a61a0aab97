//! How changes are written down for receivers: absolute paths, JSON, URLs.
//!
//! A file name is any bytes but JSON holds characters. A path that is not UTF-8 has `path_base64`
//! beside `path`, with every byte of it; in `path` the bytes that are no character are then U+FFFD.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::{Map, Value, json};

use super::queue::Event;
use super::worker::Place;
use crate::config::hook::{Change, Pattern};

/// What stays as it is in the path of an URL: RFC 3986 `unreserved`, and the slash.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// What stays in a value of a query that is an URL: also what RFC 3986 allows there and that
/// separates nothing.
const QUERY: &AsciiSet =
    &PATH.remove(b':').remove(b'@').remove(b'!').remove(b'$').remove(b'*').remove(b',').remove(b'(').remove(b')');

/// The absolute path of a change.
pub(super) fn absolute(place: &Place, event: &Event) -> Vec<u8> {
    if event.path.is_root() {
        return place.root.clone();
    }
    let slash: &[u8] = if place.root.ends_with(b"/") { b"" } else { b"/" };
    [&place.root, slash, &event.path].concat()
}

fn put(map: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    map.insert(key.into(), String::from_utf8_lossy(bytes).into());
    if std::str::from_utf8(bytes).is_err() {
        map.insert(format!("{key}_base64"), BASE64.encode(bytes).into());
    }
}

/// The envelope: the sender.
pub(super) fn envelope(place: &Place, hook: &str) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("mirror".into(), place.mirror.clone().into());
    map.insert("hook".into(), hook.into());
    put(&mut map, "source", &place.root);
    map
}

/// Adds the fields of one change.
pub(super) fn add(map: &mut Map<String, Value>, event: &Event) {
    put(map, "path", &event.path);
    map.insert("kind".into(), event.change.unwrap_or(Change::Changed).name().into());
    map.insert("directory".into(), event.dir.into());
    map.insert("target".into(), event.target.as_deref().map_or(Value::Null, Value::from));
    map.insert("time".into(), json!(event.millis as f64 / 1000.0));
    map.insert("batch".into(), if event.batch.is_empty() { Value::Null } else { event.batch.clone().into() });
}

/// `value` for the query of an URL.
pub(super) fn query(value: &[u8]) -> String {
    percent_encode(value, QUERY).to_string()
}

/// What a path is on the web, not yet encoded: `base`, and the path or what follows the match in
/// it. `None`: it is not on the web.
pub(super) fn raw_url(place: &Place, event: &Event, base: &str, url_match: Option<&Pattern>) -> Option<(Vec<u8>, Vec<u8>)> {
    let base = base.trim_end_matches('/').as_bytes();
    let rest = match url_match {
        None => [b"/", &*event.path].concat(),
        Some(pattern) => {
            let path = absolute(place, event);
            let found = pattern.regex().captures(&path)?;
            let group = found.get(1).map_or(&b""[..], |g| g.as_bytes());
            [group, &path[found.get(0)?.end()..]].concat()
        }
    };
    let slash: &[u8] = if event.dir && !rest.ends_with(b"/") { b"/" } else { b"" };
    let lead: &[u8] = if rest.starts_with(b"/") || rest.is_empty() { b"" } else { b"/" };
    Some((base.to_vec(), [lead, &rest, slash].concat()))
}

/// The same as an URL.
pub(super) fn url(place: &Place, event: &Event, base: &str, url_match: Option<&Pattern>) -> Option<String> {
    let (base, path) = raw_url(place, event, base, url_match)?;
    Some(String::from_utf8_lossy(&base).into_owned() + &percent_encode(&path, PATH).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::RelPath;

    fn place() -> Place {
        Place { mirror: "m".into(), root: b"/data/cms.xoyo.com".to_vec() }
    }

    fn event(path: &[u8], dir: bool) -> Event {
        Event::new(RelPath::from_normal(path), Some(Change::Changed), dir, None, String::new())
    }

    #[test]
    fn urls() {
        let of = |path: &[u8], dir, pattern: Option<&str>| {
            let pattern = pattern.map(|p| Pattern::search(p).unwrap());
            url(&place(), &event(path, dir), "http://w.example/s", pattern.as_ref())
        };
        assert_eq!(of(b"a b/\xff?#%", false, None).as_deref(), Some("http://w.example/s/a%20b/%FF%3F%23%25"));
        assert_eq!(of(b"d", true, None).as_deref(), Some("http://w.example/s/d/"));
        assert_eq!(of(b"", true, None).as_deref(), Some("http://w.example/s/"));
        let pattern = Some("cms\\.xoyo\\.com/site([/a-zA-Z0-9]*)\\.xoyo\\.com/images");
        assert_eq!(
            of(b"site/jx3.xoyo.com/images/a/123.txt", false, pattern).as_deref(),
            Some("http://w.example/s/jx3/a/123.txt")
        );
        assert_eq!(of(b"other", false, pattern), None);
    }

    #[test]
    fn a_path_that_is_no_text_has_all_its_bytes() {
        let mut map = Map::new();
        add(&mut map, &event(b"a\xff", false));
        assert_eq!((map["path"].as_str(), map["path_base64"].as_str()), (Some("a\u{fffd}"), Some("Yf8=")));
        let mut map = Map::new();
        add(&mut map, &event("a\u{fffd}\n\"".as_bytes(), false));
        assert_eq!((map["path"].as_str(), map.get("path_base64")), (Some("a\u{fffd}\n\""), None));
    }

    #[test]
    fn a_query_value_decodes_to_what_it_was() {
        for value in [&b"http://b/a.txt"[..], b"a&b=c d%41+\n\xff#?", b"p\"'<>"] {
            let encoded = query(value);
            assert!(!encoded.contains(['&', '=', ' ', '+', '#', '?', '\n', '"']), "{encoded}");
            assert_eq!(percent_encoding::percent_decode_str(&encoded).collect::<Vec<u8>>(), value);
        }
        assert_eq!(query(b"http://b/a-1_2.txt"), "http://b/a-1_2.txt");
    }
}
