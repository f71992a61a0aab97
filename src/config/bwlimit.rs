//! `[[daemon.bwlimit_at]]`: the bandwidth of a part of the day.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::toml::Section;
use super::units;
use crate::daily::PartOfDay;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BwlimitAt {
    pub(crate) part: PartOfDay,
    /// Bytes a second; `None`: as much as there is.
    pub(crate) limit: Option<u64>,
}

impl Serialize for BwlimitAt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("BwlimitAt", 3)?;
        out.serialize_field("from", &self.part.from.to_string())?;
        out.serialize_field("to", &self.part.to.to_string())?;
        out.serialize_field("limit", &self.limit.map_or_else(|| "none".to_owned(), |bytes| format!("{bytes}B")))?;
        out.end()
    }
}

pub(super) fn read(s: &mut Section<'_, '_>) -> Option<BwlimitAt> {
    let time = "a time of day in quotes, as in \"08:00\"";
    let from = s.required("from", "\"08:00\"", |s| s.text("from", time, str::parse));
    let to = s.required("to", "\"18:00\"", |s| s.text("to", time, str::parse));
    let limit = s.required("limit", "\"2MiB\"", |s| s.text("limit", "a size in quotes, as in \"2MiB\"", limit));
    Some(BwlimitAt { part: PartOfDay { from: from?, to: to? }, limit: limit? })
}

/// A size, or `none`.
fn limit(text: &str) -> Result<Option<u64>, String> {
    match text.trim() {
        "none" => Ok(None),
        _ => units::file_size(text).map(Some).map_err(|why| format!("{why}, or \"none\" for no bound")),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    const MIRROR: &str = "[[mirror]]\nname=\"m\"\nsource=\"/no/such\"\n[[mirror.target]]\nname=\"t\"\nurl=\"h::m\"\n";

    fn config(daemon: &str) -> Result<Config, String> {
        Config::from_toml(&format!("[daemon]\n{daemon}\n{MIRROR}")).map_err(|errors| errors.to_string())
    }

    #[test]
    fn parts_of_the_day_have_limits_of_their_own() {
        let text = r#"bwlimit = "20MiB"
bwlimit_at = [
    { from = "8:00", to = "18:00", limit = "2MiB" },
    { from = "22:00", to = "06:00", limit = "none" },
]"#;
        let config = config(text).unwrap();
        let parts: Vec<_> = config.daemon.bwlimit_at.iter().map(|at| (at.part.to_string(), at.limit)).collect();
        assert_eq!(parts, [("08:00 to 18:00".to_owned(), Some(2 << 20)), ("22:00 to 06:00".to_owned(), None)]);
        assert_eq!(config.daemon.bounds().hours.usual, Some(20 << 10));
        assert_eq!(config.daemon.bounds().hours.parts[0].1, Some(2 << 10));
        let again = Config::from_toml(&config.to_toml().unwrap()).unwrap();
        assert_eq!(again, config, "check --effective prints what can be read");
    }

    #[test]
    fn what_is_wrong_with_a_part_is_shown_where_it_is() {
        let second = |text: &str| format!("{{ from = \"08:00\", to = \"18:00\", limit = \"2MiB\" }},\n{text}");
        for (part, want) in [
            (
                r#"{ from = "17:00", to = "20:00", limit = "1MiB" }"#,
                "17:00 to 20:00 in bwlimit_at overlaps the one from 08:00 to 18:00",
            ),
            (r#"{ from = "20:00", to = "08:01", limit = "1MiB" }"#, "overlaps"),
            (r#"{ from = "20:00", to = "20:00", limit = "1MiB" }"#, "20:00 to 20:00, which is none"),
            (r#"{ from = "20:00", to = "21:00", limit = "1KiB" }"#, "20:00 to 21:00 in bwlimit_at is 1024 bytes a second"),
            (r#"{ from = "20:00", to = "24:00", limit = "1MiB" }"#, "\"24:00\" is no time of day"),
            (r#"{ from = "20:00", to = "21:00", limit = "off" }"#, "or \"none\" for no bound"),
            (r#"{ from = "20:00", to = "21:00" }"#, "[[daemon.bwlimit_at]] has no limit"),
            (r#"{ from = "20:00", to = "21:00", limt = "1MiB" }"#, "did you mean \"limit\"?"),
            (r#"{ from = 20, to = "21:00", limit = "1MiB" }"#, "from is a number, and should be a time of day in quotes"),
            (r#""20:00""#, "bwlimit_at is a string, and should be a table"),
        ] {
            let error = config(&format!("bwlimit_at = [\n{}]", second(part))).unwrap_err();
            assert!(error.contains(want) && error.contains("\n4 | "), "{part}: {error}");
        }
        for good in [r#"{ from = "18:00", to = "08:00", limit = "1MiB" }"#, r#"{ from = "23:00", to = "08:00", limit = "none" }"#]
        {
            assert_eq!(config(&format!("bwlimit_at = [\n{}]", second(good))).err(), None, "{good}");
        }
        let error = config("bwlimit_at = { from = \"08:00\" }").unwrap_err();
        assert!(error.contains("bwlimit_at should be a list of tables"), "{error}");
    }
}
