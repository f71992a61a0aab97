//! Values with their units, as the configuration and the command line write them.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serializer;

use super::checked::MaxDelete;

/// Reads `500ms`, `2s`, `1h 30m`. Zero is refused: nothing here is switched off by a time of zero.
///
/// # Errors
/// What is wrong with the text, and what one looks like.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text.trim().parse::<f64>().is_ok() {
        return Err(format!("the time \"{text}\" has no unit; write \"{}s\" or \"{}ms\"", text.trim(), text.trim()));
    }
    let value = humantime::parse_duration(text)
        .map_err(|e| format!("\"{text}\" is no time ({e}); write one like \"500ms\", \"10s\", \"5m\" or \"1h 30m\""))?;
    if value.is_zero() { Err(format!("the time \"{text}\" must be more than zero")) } else { Ok(value) }
}

/// A duration as [`duration`] reads it.
pub(crate) fn shown(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(*value))
}

/// A size of a file: `10GiB`, `500MB`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn file_size(text: &str) -> Result<u64, String> {
    match text.trim().parse::<bytesize::ByteSize>() {
        Ok(size) if size.0 > 0 && text.trim().ends_with(['B', 'b']) => Ok(size.0),
        _ => Err(format!("{text:?} is no size; a number with a unit, as in \"10GiB\"")),
    }
}

/// A size of content: as [`file_size`], or `0` for none.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn size_or_none(text: &str) -> Result<u64, String> {
    if text.trim() == "0" { Ok(0) } else { file_size(text) }
}

/// Reads a bound on deletions: a number, or a share as in `10%`.
///
/// # Errors
/// What one looks like.
pub(crate) fn max_delete(text: &str) -> Result<MaxDelete, String> {
    let text = text.trim();
    let percent = text.strip_suffix('%').map(|share| share.trim().parse().ok().filter(|share| (1..=100).contains(share)));
    match percent {
        Some(percent) => percent.map(MaxDelete::Percent),
        None => text.parse().ok().map(MaxDelete::Count),
    }
    .ok_or_else(|| {
        format!("\"{text}\" is no bound on deletions; write a number of entries as in 1000, or a share from \"1%\" to \"100%\"")
    })
}

/// The same in quotes, where a number alone may be meant as one of entries, or as a share.
///
/// # Errors
/// What one looks like.
pub(crate) fn quoted_max_delete(text: &str) -> Result<MaxDelete, String> {
    match max_delete(text)? {
        MaxDelete::Count(entries) => {
            let share = if (1..=100).contains(&entries) { entries } else { 50 };
            Err(format!(
                "\"{text}\" in quotes may be a number of entries or a share; write {entries} without quotes for entries, or \"{share}%\" for a share"
            ))
        }
        share @ MaxDelete::Percent(_) => Ok(share),
    }
}

/// Reads an address of this host with a port: `127.0.0.1:9846`, `[::1]:9846`, `0.0.0.0:9846`.
///
/// # Errors
/// What one looks like. Names are refused: what they stand for can change, and with it who can
/// connect.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let address: Option<SocketAddr> = text.trim().parse().ok();
    address
        .filter(|address| address.port() != 0)
        .ok_or_else(|| format!("\"{text}\" is no address with a port; write one like \"127.0.0.1:9846\" or \"[::1]:9846\""))
}

/// For a value that is left out when there is none.
pub(super) fn serialize_some<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serialize(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// The same for a number of bytes.
pub(super) fn serialize_bytes<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(bytes) => serializer.serialize_str(&format!("{bytes}B")),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        for (text, hint) in [
            ("10", "write \"10s\""),
            ("1.5", "no unit"),
            ("0s", "more than zero"),
            ("", "is no time"),
            ("-1s", "is no time"),
            ("5 parsecs", "500ms"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn bounds_on_deletions() {
        for (text, want) in
            [("10GiB", Some(10 << 30)), ("500 MB", Some(500_000_000)), ("1B", Some(1)), ("10", None), ("0B", None), ("", None)]
        {
            assert_eq!(file_size(text).ok(), want, "{text}");
        }
        assert_eq!(max_delete("0"), Ok(MaxDelete::Count(0)));
        assert_eq!(max_delete(" 1000 "), Ok(MaxDelete::Count(1000)));
        assert_eq!(max_delete("10%"), Ok(MaxDelete::Percent(10)));
        assert_eq!(quoted_max_delete("10%"), Ok(MaxDelete::Percent(10)));
        for (text, want) in
            [("50", "write 50 without quotes for entries, or \"50%\""), ("1000", "write 1000 without"), ("x", "is no bound")]
        {
            assert!(quoted_max_delete(text).unwrap_err().contains(want), "{text}");
        }
        for text in ["", "-1", "10k", "0%", "101%", "1.5%", "%", "many"] {
            assert!(max_delete(text).unwrap_err().contains("1000"), "{text}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(address("127.0.0.1:9846").unwrap().to_string(), "127.0.0.1:9846");
        assert_eq!(address(" [::1]:80 ").unwrap().to_string(), "[::1]:80");
        for text in ["", "9846", ":9846", "localhost:9846", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "::1:9846"] {
            assert!(address(text).unwrap_err().contains("127.0.0.1:9846"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(secs in 0..10_000_000_000u64, nanos in 1..1_000_000_000u32) {
            let value = Duration::new(secs, nanos);
            prop_assert_eq!(duration(&shown(value)), Ok(value));
        }
    }
}
