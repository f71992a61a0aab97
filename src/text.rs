//! Numbers and times in a sentence.

/// A sentence that goes on after a colon: its first letter is small.
pub(crate) fn lower_first(sentence: &str) -> String {
    let mut chars = sentence.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// A number of things: `1 path`, `2 paths`.
pub(crate) fn plural(n: u64, noun: &str) -> String {
    match (n, noun) {
        (1, one) => format!("1 {one}"),
        (n, noun) => match noun.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'o'])) {
            Some(stem) => format!("{n} {stem}ies"),
            None if ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => format!("{n} {noun}es"),
            None => format!("{n} {noun}s"),
        },
    }
}

/// The subject of a sentence: `1 path is`, `2 paths are`.
pub(crate) fn are(n: u64, noun: &str) -> String {
    format!("{} {}", plural(n, noun), if n == 1 { "is" } else { "are" })
}

/// The same, known by then.
pub(crate) fn they_are(n: u64) -> &'static str {
    if n == 1 { "it is" } else { "they are" }
}

/// Seconds for a human: `12ms`, `3.4s`, `5m 10s`.
pub(crate) fn span(seconds: f64) -> String {
    let whole = std::time::Duration::from_secs(seconds.max(0.0) as u64);
    match seconds {
        s if s < 1.0 => format!("{:.0}ms", s * 1000.0),
        s if s < 60.0 => format!("{s:.1}s"),
        _ => humantime::format_duration(whole).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals() {
        let of = |n| ["path", "entry", "batch", "directory", "try", "process", "day"].map(|noun| plural(n, noun)).join(" ");
        assert_eq!(of(1), "1 path 1 entry 1 batch 1 directory 1 try 1 process 1 day");
        assert_eq!(of(2), "2 paths 2 entries 2 batches 2 directories 2 tries 2 processes 2 days");
        assert_eq!(plural(0, "path"), "0 paths");
        assert_eq!((are(1, "entry"), are(2, "entry")), ("1 entry is".into(), "2 entries are".into()));
    }
}
