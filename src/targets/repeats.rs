//! Failures whose words the log has already.
//!
//! A batch that fails is tried again, and mostly fails for the same reason. The first failure is a
//! line of the log; of those that follow with the same words a line is written after a minute, then
//! after two, four, at most an hour, with how many there were. Names in quotes make no other words:
//! rsync's temporary files have new ones each time.

use std::collections::HashMap;
use std::time::Duration;

/// Between the first line and the second.
const PAUSE_MIN: Duration = Duration::from_secs(60);
/// Between two lines at most.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Words that did not come up for so long are new.
const FORGOTTEN: Duration = Duration::from_secs(2 * 3600);
/// Different words that are kept.
const KEPT: usize = 100;

struct Known {
    /// When the last line was written.
    logged: Duration,
    /// Until the next one.
    pause: Duration,
    /// When they came up last.
    last: Duration,
    /// How often since the last line.
    times: u64,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Repeats {
    known: HashMap<String, Known>,
    /// Paths kept failing when the last batch ended.
    failing: bool,
}

impl Repeats {
    /// A batch failed at `now` with these words. How many failures a line of the log stands for;
    /// `None` if it is too early for one.
    pub(super) fn line(&mut self, now: Duration, class: &str, reason: &str) -> Option<u64> {
        let words = unquoted(class, reason);
        if let Some(known) = self.known.get_mut(&words).filter(|k| now.saturating_sub(k.last) < FORGOTTEN) {
            (known.last, known.times) = (now, known.times + 1);
            if now.saturating_sub(known.logged) < known.pause {
                return None;
            }
            (known.logged, known.pause) = (now, (known.pause * 2).min(PAUSE_MAX));
            return Some(std::mem::take(&mut known.times));
        }
        if self.known.len() >= KEPT
            && let Some(oldest) = self.known.iter().min_by_key(|(_, k)| k.last).map(|(words, _)| words.clone())
        {
            self.known.remove(&oldest);
        }
        self.known.insert(words, Known { logged: now, pause: PAUSE_MIN, last: now, times: 0 });
        Some(1)
    }

    /// A batch ended, and paths keep failing or not. Whether the last of them went through just
    /// now: then the next failure is a new one.
    pub(super) fn is_over(&mut self, failing: bool) -> bool {
        let over = std::mem::replace(&mut self.failing, failing) && !failing;
        if over {
            self.known.clear();
        }
        over
    }
}

/// The words without what stands in quotes.
fn unquoted(class: &str, reason: &str) -> String {
    let mut out = String::from(class);
    for part in reason.split('"').step_by(2) {
        out.push('"');
        out.push_str(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn the_same_words_are_one_line_with_a_count() {
        let mut repeats = Repeats::default();
        let words = |n: u64| format!("rename \"/srv/.f.{n}\" -> \"f\": Operation not permitted (1) (rsync exit 23)");
        // A try each second for a day.
        let lines: Vec<(u64, u64)> =
            (0..86_400).filter_map(|s| Some((s, repeats.line(SECONDS(s), "partial", &words(s))?))).collect();
        let begin: Vec<u64> = lines.iter().take(5).map(|(at, _)| *at).collect();
        assert_eq!(begin, [0, 60, 180, 420, 900]);
        assert!(lines.len() < 32, "{lines:?}");
        let counted: u64 = lines.iter().map(|(_, times)| times).sum();
        let last = lines.last().expect("there are some").0;
        assert_eq!(counted, last + 1, "each failure up to the last line is counted in one");
    }

    #[test]
    fn other_words_another_class_and_a_new_fault_are_lines_of_their_own() {
        let mut repeats = Repeats::default();
        let mut line = |at, class: &str, words: &str| repeats.line(SECONDS(at), class, words);
        assert_eq!(line(0, "partial", "mkdir \"a\": Permission denied"), Some(1));
        assert_eq!(line(1, "partial", "mkdir \"b\": Permission denied"), None);
        assert_eq!(line(1, "partial", "mkdir \"b\": No space left on device"), Some(1));
        assert_eq!(line(1, "source_race", "mkdir \"b\": Permission denied"), Some(1));
        assert_eq!(line(60, "partial", "mkdir \"c\": Permission denied"), Some(2), "both since the first line");
        assert_eq!(line(60 + 3 * 3600, "partial", "mkdir \"c\": Permission denied"), Some(1), "after a long time it is new");
        let at = 60 + 3 * 3600 + 1;
        assert!(!repeats.is_over(false) && !repeats.is_over(true));
        assert_eq!(repeats.line(SECONDS(at), "partial", "mkdir \"c\": Permission denied"), None);
        assert!(repeats.is_over(false) && !repeats.is_over(false));
        assert_eq!(repeats.line(SECONDS(at), "partial", "mkdir \"c\": Permission denied"), Some(1));
    }

    #[test]
    fn no_more_words_are_kept_than_so_many() {
        let mut repeats = Repeats::default();
        for n in 0..1000 {
            assert_eq!(repeats.line(SECONDS(n), "partial", &format!("fault {n}")), Some(1));
        }
        assert_eq!(repeats.known.len(), KEPT);
        assert_eq!(repeats.line(SECONDS(1000), "partial", "fault 999"), None, "the newest are kept");
    }
}
