//! Which rule decides about a path, for `explain`.

use super::Filter;

/// A rule of a filter, by its place in the list it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deciding {
    /// [`Filter::ordered`].
    Ordered(usize),
    /// [`Filter::include`].
    Include(usize),
    /// [`Filter::exclude`].
    Exclude(usize),
    /// [`Filter::expressions`].
    Expression(usize),
    /// [`Filter::temporary`].
    Temporary,
}

/// What a filter says of a path, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// It is left out.
    pub(crate) excluded: bool,
    /// The rule; `None`: no rule matches, so it belongs to the mirror.
    pub(crate) rule: Option<Deciding>,
    /// What the rule matches: the path, or a directory above it.
    pub(crate) at: Vec<u8>,
}

impl Filter {
    /// As [`Filter::excludes`], with the rule that decides. Compiles every pattern by itself: not
    /// for the path of events.
    pub(crate) fn decide(&self, path: &[u8], is_dir: bool) -> Decision {
        let ends = memchr::memchr_iter(b'/', path).map(|at| (at, true)).chain([(path.len(), is_dir)]);
        let mut included = None;
        for (end, dir) in ends {
            let at = &path[..end];
            let ordered = self.ordered().iter().position(|rule| matches(&rule.pattern, at, dir)).map(Deciding::Ordered);
            if self.excludes_leaf(at, dir) {
                let rule = ordered.or_else(|| self.excluded_by(at, dir));
                return Decision { excluded: true, rule, at: at.to_vec() };
            }
            included = ordered.or_else(|| first(self.include(), at, dir).map(Deciding::Include));
        }
        Decision { excluded: false, rule: included, at: path.to_vec() }
    }

    fn excluded_by(&self, at: &[u8], dir: bool) -> Option<Deciding> {
        if let Some(n) = first(self.exclude(), at, dir) {
            return Some(Deciding::Exclude(n));
        }
        let alone = |e: &String| Filter::with_regexes::<&[u8], &[u8]>(&[], &[], std::slice::from_ref(e), false);
        let matches = |e: &String| alone(e).is_ok_and(|f| f.excludes_leaf(at, dir));
        match self.expressions().iter().position(matches) {
            Some(n) => Some(Deciding::Expression(n)),
            None => self.temporary().then_some(Deciding::Temporary),
        }
    }
}

/// The first of `patterns` that matches.
fn first(patterns: &[Vec<u8>], at: &[u8], dir: bool) -> Option<usize> {
    patterns.iter().position(|p| matches(p, at, dir))
}

fn matches(pattern: &[u8], at: &[u8], dir: bool) -> bool {
    Filter::new::<&[u8], _>(&[], &[pattern]).is_ok_and(|f| f.excludes_leaf(at, dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_that_decides() {
        let filter =
            Filter::with_regexes(&["keep.tmp", "*.c"], &["*.tmp", "/cache/", "*.c"], &[".*/log[0-9]".to_owned()], true).unwrap();
        for (path, dir, excluded, rule, at) in [
            ("a/b", false, false, None, "a/b"),
            ("a/keep.tmp", false, false, Some(Deciding::Include(0)), "a/keep.tmp"),
            ("a/x.c", false, false, Some(Deciding::Include(1)), "a/x.c"),
            ("a/x.tmp", false, true, Some(Deciding::Exclude(0)), "a/x.tmp"),
            ("cache/keep.tmp", false, true, Some(Deciding::Exclude(1)), "cache"),
            ("cache", false, false, None, "cache"),
            ("d/log1/f", false, true, Some(Deciding::Expression(0)), "d/log1"),
            ("d/.hidden", false, true, Some(Deciding::Temporary), "d/.hidden"),
            ("", true, false, None, ""),
        ] {
            let want = Decision { excluded, rule, at: at.as_bytes().to_vec() };
            assert_eq!(filter.decide(path.as_bytes(), dir), want, "{path}");
            assert_eq!(filter.excludes(path.as_bytes(), dir), excluded, "{path}");
        }
        let rules = ["+ /a/***", "- *.o", "- /d/"].map(|rule| super::super::Ordered::parse(rule.as_bytes()).unwrap());
        let filter = Filter::new(&["d"], &["x"]).unwrap().with_rules(&rules).unwrap();
        for (path, excluded, rule, at) in [
            ("a/x.o", false, Some(Deciding::Ordered(0)), "a/x.o"),
            ("b/x.o", true, Some(Deciding::Ordered(1)), "b/x.o"),
            ("d/f", true, Some(Deciding::Ordered(2)), "d"),
            ("b/x", true, Some(Deciding::Exclude(0)), "b/x"),
            ("b/d", false, Some(Deciding::Include(0)), "b/d"),
        ] {
            let want = Decision { excluded, rule, at: at.as_bytes().to_vec() };
            assert_eq!(filter.decide(path.as_bytes(), false), want, "{path}");
        }
    }
}
