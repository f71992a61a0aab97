//! Lines that come with every run to a target and have nothing to do with what it carries: a banner
//! of the remote shell, a warning of ssh about its key exchange, an option's remark.
//!
//! Promises: only lines that a probe brought are taken for such, since a probe carries no path.
//! They are compared without digits, so a time of day or a port does not make them new. Everything
//! else that is not understood stays in doubt.

use std::collections::BTreeSet;

use super::outcome::{Outcome, Verdict};

/// Lines that are remembered of a target.
const MAX_LINES: usize = 100;

/// What a target's probes printed beside their result.
#[derive(Debug, Default)]
pub(crate) struct Ambient {
    lines: BTreeSet<Vec<u8>>,
}

fn plain(line: &[u8]) -> Vec<u8> {
    line.iter().copied().filter(|b| !b.is_ascii_digit()).collect()
}

impl Ambient {
    /// Takes the lines of a probe that the target answered.
    pub(crate) fn learn(&mut self, outcome: &Outcome) {
        for line in &outcome.unknown {
            if self.lines.len() < MAX_LINES {
                self.lines.insert(plain(line));
            }
        }
    }

    /// What `outcome` proves: a run that ended well with other lines than these has proven nothing.
    pub(crate) fn weigh(&self, mut outcome: Outcome) -> Outcome {
        outcome.unknown.retain(|line| !self.lines.contains(&plain(line)));
        if outcome.is_done()
            && let Some(first) = outcome.unknown.first()
        {
            outcome.reason = crate::path::Shown(first).to_string();
            outcome.verdict = Verdict::Unproven;
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(lines: &[&str]) -> Outcome {
        let unknown = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
        Outcome { verdict: Verdict::Done, unknown, ..Outcome::unknown(String::new()) }
    }

    #[test]
    fn lines_of_a_probe_are_no_doubt_and_others_are() {
        let mut ambient = Ambient::default();
        assert!(ambient.weigh(ended(&[])).is_done());
        ambient.learn(&ended(&["Last login: Sat Nov 28 20:05:44", "Welcome"]));
        for (lines, want) in [
            (&["Welcome"][..], Verdict::Done),
            (&["Welcome", "Last login: Sat Nov 28 21:06:45"], Verdict::Done),
            (&["Welcome", "cannot frobnicate f"], Verdict::Unproven),
        ] {
            let outcome = ambient.weigh(ended(lines));
            assert_eq!(outcome.verdict, want, "{lines:?}");
            assert_eq!(outcome.reason, if want == Verdict::Done { "" } else { "cannot frobnicate f" });
        }
        let failed = Outcome { verdict: Verdict::Partial, ..ended(&["cannot frobnicate f"]) };
        assert_eq!(ambient.weigh(failed).verdict, Verdict::Partial);
    }
}
