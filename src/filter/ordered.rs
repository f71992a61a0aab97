//! Rules in order, as rsync's `--filter` takes them: the first that matches a path decides. They go
//! before the two lists.

use super::{Filter, FilterError, Table, compile};

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ordered {
    /// What it matches is left out; else it belongs to the mirror.
    pub(crate) excludes: bool,
    pub(crate) pattern: Vec<u8>,
}

impl Ordered {
    /// Reads `+ PATTERN`, `- PATTERN`, `include PATTERN` or `exclude PATTERN`; in place of the
    /// space there may be an underscore (rsync(1), "FILTER RULES").
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub(crate) fn parse(text: &[u8]) -> Result<Ordered, String> {
        let word = |word: &str| text.strip_prefix(word.as_bytes());
        let pattern_of = |rest: Option<&[u8]>| match rest? {
            [b' ' | b'_', pattern @ ..] => Some(pattern.to_vec()),
            _ => None,
        };
        for (excludes, names) in [(false, ["+", "include"]), (true, ["-", "exclude"])] {
            if let Some(pattern) = names.iter().find_map(|name| pattern_of(word(name))) {
                let alone = std::slice::from_ref(&pattern);
                Filter::new::<&[u8], _>(&[], alone).map_err(|error| error.reason)?;
                return Ok(Ordered { excludes, pattern });
            }
        }
        let begins = |names: &[&str]| names.iter().any(|name| word(name).is_some());
        Err(match text {
            [] => "it is empty; write \"- PATTERN\" or \"+ PATTERN\"",
            _ if begins(&["!", "clear"]) => "it would forget the rules before it; remove these",
            _ if begins(&[":", "dir-merge"]) => "files of rules in the source are not read; write their rules here",
            _ if begins(&[".", "merge"]) => "a file of rules is named in filter_from",
            _ if begins(&["H", "S", "P", "R", "hide", "show", "protect", "risk"]) => {
                "it acts on one side only, and a mirror leaves a path out on both; write \"- PATTERN\" or \"+ PATTERN\""
            }
            [b'+' | b'-', ..] => {
                "behind its sign there is no space; write \"- PATTERN\" or \"+ PATTERN\" (modifiers, as in \"-s\", are not known here)"
            }
            _ => "it has no sign; write \"- PATTERN\" to leave out, \"+ PATTERN\" to keep",
        }
        .to_owned())
    }

    /// As `+ PATTERN` or `- PATTERN`.
    pub(crate) fn text(&self) -> Vec<u8> {
        [if self.excludes { b"- " } else { b"+ " }, &self.pattern[..]].concat()
    }
}

/// Rules behind each other with the same sign: among them the order does not matter.
pub(super) struct Group {
    excludes: bool,
    files: Table,
    dirs: Table,
}

/// The rules in groups. Patterns that match nothing are appended to `never`.
pub(super) fn groups(rules: &[Ordered], never: &mut Vec<Vec<u8>>) -> Result<Vec<Group>, FilterError> {
    let of = |same: &[Ordered]| {
        let patterns: Vec<Vec<u8>> = same.iter().map(|rule| rule.pattern.clone()).collect();
        let (files, dirs) = compile(&patterns, never)?;
        Ok(Group { excludes: same[0].excludes, files, dirs })
    };
    rules.chunk_by(|a, b| a.excludes == b.excludes).map(of).collect()
}

/// What the first rule that matches says: whether it leaves the path out.
pub(super) fn verdict(groups: &[Group], path: &[u8], is_dir: bool) -> Option<bool> {
    let matches = |group: &&Group| (if is_dir { &group.dirs } else { &group.files }).matches(path, is_dir);
    groups.iter().find(matches).map(|group| group.excludes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_rsync_reads_them() {
        for (text, excludes, pattern) in [
            ("+ /a/***", false, "/a/***"),
            ("- *.tmp", true, "*.tmp"),
            ("-  two spaces", true, " two spaces"),
            ("-_x", true, "x"),
            ("include /a", false, "/a"),
            ("exclude_b", true, "b"),
            ("- + a", true, "+ a"),
        ] {
            let want = Ordered { excludes, pattern: pattern.into() };
            assert_eq!(Ordered::parse(text.as_bytes()), Ok(want.clone()), "{text}");
            assert_eq!(Ordered::parse(&want.text()), Ok(want), "{text}");
        }
        for (text, words) in [
            ("", "it is empty"),
            ("*.tmp", "has no sign"),
            ("-*.tmp", "no space"),
            ("-s *.tmp", "modifiers"),
            ("-", "no space"),
            ("- ", "it is empty"),
            ("- a\0", "NUL"),
            ("!", "forget"),
            ("clear", "forget"),
            (". /f", "filter_from"),
            ("merge /f", "filter_from"),
            (": .rules", "in the source"),
            ("dir-merge .rules", "in the source"),
            ("protect x", "one side"),
            ("P x", "one side"),
            ("excluded x", "has no sign"),
        ] {
            let why = Ordered::parse(text.as_bytes()).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides_before_the_lists() {
        let rules: Vec<Ordered> =
            ["+ /a/***", "- *.tmp", "+ *.txt", "- /b/"].iter().map(|rule| Ordered::parse(rule.as_bytes()).unwrap()).collect();
        let filter = Filter::new(&["keep.tmp", "/b/"], &["*.txt", "*.log"]).unwrap().with_rules(&rules).unwrap();
        for (path, dir, excluded) in [
            ("a/x.tmp", false, false),
            ("a/x.log", false, false),
            ("x.tmp", false, true),
            ("keep.tmp", false, true),
            ("x.txt", false, false),
            ("x.log", false, true),
            ("b", true, true),
            ("b/x.txt", false, true),
            ("b", false, false),
            ("c", false, false),
        ] {
            assert_eq!(filter.excludes(path.as_bytes(), dir), excluded, "{path}");
        }
        let args: Vec<_> = filter.rsync_args().into_iter().map(|arg| arg.into_string().unwrap()).collect();
        let want = ["+ /a/***", "- *.tmp", "+ *.txt", "- /b/", "+ keep.tmp", "+ /b/", "- *.txt", "- *.log"];
        assert_eq!(args, want.map(|rule| format!("--filter={rule}")));
        let only = |rule: &str| Filter::none().with_rules(&[Ordered::parse(rule.as_bytes()).unwrap()]).unwrap();
        assert!(only("+ a").is_empty() && !only("- a").is_empty());
        assert_ne!(only("+ a"), only("- a"));
    }
}
