//! Excludes that rsync cannot express: regular expressions and temporary names, as sersync has
//! them.
//!
//! A regular expression has to match the whole subject: of an entry at the top of the source its
//! `name`, of a deeper one its path with a slash before it, `/dir/name`. Temporary names are those
//! that begin with a dot, end with `~`, or are `4913` (vim tries that one out before it saves); of
//! others than directories only.
//!
//! Two promises follow, kept by different means. *Nothing excluded is sent*: lists are composed
//! from what this filter lets through, and a directory is never handed to rsync to be read by
//! itself. *Nothing excluded is deleted on the target*, not even with the directory it lies in,
//! which only rsync on the other side can see to: for it each expression is widened to rsync
//! patterns that match all that the expression matches, and perhaps more ([`Extra::guards`]). Where
//! they match more, such a name of the target stays until it is deleted by its own name.

use regex::bytes::{RegexSet, RegexSetBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::FilterError;
use crate::path::base;

/// Patterns that one expression becomes at most; beyond, it becomes one that matches everything.
const MAX_GLOBS: usize = 64;

/// See the module's text.
#[derive(Default)]
pub(super) struct Extra {
    /// As given.
    pub(super) expressions: Vec<String>,
    pub(super) temporary: bool,
    set: Option<RegexSet>,
    /// Patterns of rsync that match at least all that this filter matches.
    pub(super) guards: Vec<Vec<u8>>,
    /// Expressions that match no path.
    pub(super) never: Vec<Vec<u8>>,
}

impl Extra {
    /// # Errors
    /// An expression that is wrong, or too large.
    pub(super) fn new(expressions: &[String], temporary: bool) -> Result<Extra, FilterError> {
        let mut extra = Extra { expressions: expressions.to_vec(), temporary, ..Extra::default() };
        for text in expressions {
            let refuse = |reason: String| FilterError { pattern: text.clone().into_bytes(), reason };
            let hir = ParserBuilder::new().utf8(false).unicode(false).dot_matches_new_line(true).build().parse(text);
            let hir = hir.map_err(|e| refuse(explain(&e)))?;
            build(std::slice::from_ref(text))
                .map_err(|e| refuse(format!("it cannot be compiled: {}", last_line(&e.to_string()))))?;
            let globs = expand(&hir).unwrap_or_else(|| vec![vec![Token::StarStar]]);
            let mut patterns: Vec<Vec<u8>> = globs.into_iter().flat_map(both).filter_map(pattern).collect();
            if patterns.is_empty() {
                extra.never.push(text.clone().into_bytes());
            }
            extra.guards.append(&mut patterns);
        }
        if temporary {
            extra.guards.extend([b".*".to_vec(), b"*~".to_vec(), b"4913".to_vec()]);
        }
        extra.guards.sort_unstable();
        extra.guards.dedup();
        if !expressions.is_empty() {
            extra.set = Some(build(expressions).map_err(|e| FilterError {
                pattern: expressions.concat().into_bytes(),
                reason: format!("together the expressions cannot be compiled: {}", last_line(&e.to_string())),
            })?);
        }
        Ok(extra)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set.is_none() && !self.temporary
    }

    pub(super) fn matches(&self, path: &[u8], is_dir: bool) -> bool {
        if self.temporary && !is_dir {
            let name = base(path);
            if name.starts_with(b".") || name.ends_with(b"~") || name == b"4913" {
                return true;
            }
        }
        let Some(set) = &self.set else { return false };
        if !path.contains(&b'/') {
            return set.is_match(path);
        }
        let mut subject = Vec::with_capacity(path.len() + 1);
        subject.push(b'/');
        subject.extend_from_slice(path);
        set.is_match(&subject)
    }
}

fn build(expressions: &[String]) -> Result<RegexSet, regex::Error> {
    let whole = expressions.iter().map(|e| format!(r"\A(?:{e})\z"));
    RegexSetBuilder::new(whole).unicode(false).dot_matches_new_line(true).size_limit(16 << 20).build()
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text)
}

fn explain(error: &regex_syntax::Error) -> String {
    let message = error.to_string();
    let what = last_line(&message).trim_start_matches("error: ");
    if message.contains("repetition operator missing expression") {
        return format!("it is no regular expression ({what}); a name of any length is \".*\", not \"*\"");
    }
    if message.contains("look-around") || message.contains("backreferences") {
        return format!("{what}; write what is to be left out as several plain expressions");
    }
    format!("it is no regular expression: {what}")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// One byte of these; no slash among them, none with a meaning in brackets.
    Of(Vec<u8>),
    /// Any one byte but a slash.
    One,
    Star,
    StarStar,
}

type Glob = Vec<Token>;

/// Globs that match at least what `hir` matches; `None` when there would be too many.
fn expand(hir: &Hir) -> Option<Vec<Glob>> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Some(vec![Vec::new()]),
        HirKind::Literal(literal) => Some(vec![literal.0.iter().map(|&b| Token::Byte(b)).collect()]),
        HirKind::Class(class) => {
            let bytes = members(class);
            let slash = bytes.contains(&b'/');
            let others: Vec<u8> = bytes.into_iter().filter(|&b| b != b'/').collect();
            let mut globs = Vec::new();
            match others.as_slice() {
                [] => {}
                [one] => globs.push(vec![Token::Byte(*one)]),
                some if some.len() <= 64 && some.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_') => {
                    globs.push(vec![Token::Of(others)]);
                }
                _ => globs.push(vec![Token::One]),
            }
            if slash {
                globs.push(vec![Token::Byte(b'/')]);
            }
            Some(globs)
        }
        HirKind::Repetition(repetition) => {
            let sub = expand(&repetition.sub)?;
            if repetition.max == Some(0) {
                return Some(vec![Vec::new()]);
            }
            if (repetition.min, repetition.max) == (0, Some(1)) {
                return Some([sub, vec![Vec::new()]].concat());
            }
            let deep = sub.iter().flatten().any(|t| matches!(t, Token::Byte(b'/') | Token::StarStar));
            let rest = vec![vec![if deep { Token::StarStar } else { Token::Star }]];
            if repetition.min == 0 {
                return Some(rest);
            }
            if repetition.max == Some(1) {
                return Some(sub);
            }
            product(sub, &rest)
        }
        HirKind::Capture(capture) => expand(&capture.sub),
        HirKind::Concat(parts) => parts.iter().try_fold(vec![Vec::new()], |globs, part| product(globs, &expand(part)?)),
        HirKind::Alternation(parts) => {
            let mut globs = Vec::new();
            for part in parts {
                globs.append(&mut expand(part)?);
            }
            (globs.len() <= MAX_GLOBS).then_some(globs)
        }
    }
}

fn product(left: Vec<Glob>, right: &[Glob]) -> Option<Vec<Glob>> {
    (left.len() * right.len() <= MAX_GLOBS)
        .then(|| left.iter().flat_map(|l| right.iter().map(move |r| [l.as_slice(), r].concat())).collect())
}

fn members(class: &Class) -> Vec<u8> {
    match class {
        Class::Bytes(class) => class.ranges().iter().flat_map(|r| r.start()..=r.end()).collect(),
        // Not produced without Unicode; any byte of it may be meant.
        Class::Unicode(_) => (0..=255).collect(),
    }
}

/// A glob, and the same without the star it begins with: what follows may be the slash of a deeper
/// subject.
fn both(glob: Glob) -> Vec<Glob> {
    match glob.split_first() {
        Some((Token::Star, rest)) => [both(rest.to_vec()), vec![glob]].concat(),
        _ => vec![glob],
    }
}

/// A glob over subjects as a pattern of rsync over paths; `None` when no subject can match it.
fn pattern(glob: Glob) -> Option<Vec<u8>> {
    let mut tokens: Vec<Token> = Vec::new();
    for token in glob {
        match (tokens.last(), &token) {
            (Some(Token::StarStar), Token::Star | Token::StarStar) | (Some(Token::Star), Token::Star) => continue,
            (Some(Token::Star), Token::StarStar) => {
                tokens.pop();
            }
            _ => {}
        }
        tokens.push(token);
    }
    let mut out = Vec::new();
    match tokens.first()? {
        Token::Byte(b'/') => {}
        // Compared with the path behind a slash, which the stars take for an entry at the top.
        Token::StarStar => {}
        // Only a name at the top begins otherwise, and it holds no slash.
        _ => {
            if tokens.contains(&Token::Byte(b'/')) {
                return None;
            }
            out.push(b'/');
            tokens.iter_mut().filter(|t| **t == Token::StarStar).for_each(|t| *t = Token::Star);
        }
    }
    if tokens.last() == Some(&Token::Byte(b'/')) || tokens.windows(2).any(|w| w == [Token::Byte(b'/'), Token::Byte(b'/')]) {
        return None;
    }
    for token in &tokens {
        match token {
            // Whether a backslash escapes depends on the rest of the pattern: any byte is good
            // enough.
            Token::Byte(b'*' | b'?' | b'[' | b'\\' | 0) | Token::One => out.push(b'?'),
            Token::Byte(b) => out.push(*b),
            Token::Of(bytes) => {
                out.push(b'[');
                out.extend_from_slice(bytes);
                out.push(b']');
            }
            Token::Star => out.push(b'*'),
            Token::StarStar => out.extend_from_slice(b"**"),
        }
    }
    Some(out)
}

/// `path` as a pattern that matches nothing else.
pub(super) fn exactly(path: &[u8]) -> Vec<u8> {
    literally(path, path.iter().any(|b| b"*?[".contains(b)))
}

/// A pattern that matches what is directly in `path`, and so keeps off all that is below.
pub(super) fn inside(path: &[u8]) -> Vec<u8> {
    let mut out = literally(path, true);
    out.extend_from_slice(b"/*");
    out
}

/// `wild`: the pattern has wildcards, so that a backslash means the character behind it.
fn literally(path: &[u8], wild: bool) -> Vec<u8> {
    let mut out = vec![b'/'];
    for &b in path {
        if wild && b"*?[\\".contains(&b) {
            out.push(b'\\');
        }
        out.push(b);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;
    use proptest::prelude::*;

    fn extra(expressions: &[&str], temporary: bool) -> Extra {
        let expressions: Vec<String> = expressions.iter().map(|e| (*e).to_owned()).collect();
        Extra::new(&expressions, temporary).unwrap()
    }

    fn texts(patterns: &[Vec<u8>]) -> Vec<&str> {
        patterns.iter().map(|p| std::str::from_utf8(p).unwrap()).collect()
    }

    /// What was measured of sersync 2.5.4: whole-string match, `name` at the top, `/dir/name`
    /// below.
    #[test]
    fn matches_as_sersync_does() {
        let e = extra(&[r"(.*)\.svn", "^info/*", "^static/.*$", "^/a/b$"], false);
        for (path, want) in [
            ("x.svn", true),
            (".svn", true),
            ("d/x.svn", true),
            ("x.svnx", false),
            ("info", true),
            ("information", false),
            ("d/info", false),
            ("info/x", false),
            ("static/x", false),
            ("static", false),
            ("a/b", true),
            ("b", false),
        ] {
            assert_eq!(e.matches(path.as_bytes(), false), want, "{path}");
        }
        assert_eq!(texts(&e.never), ["^static/.*$"]);
        assert!(!e.matches(b".htaccess", false));
    }

    #[test]
    fn temporary_names_are_of_files() {
        let e = extra(&[], true);
        for (path, file, dir) in [
            (".htaccess", true, false),
            ("a/.x", true, false),
            ("a~", true, false),
            ("d/4913", true, false),
            ("a.tmp", false, false),
            ("x.swp", false, false),
        ] {
            assert_eq!((e.matches(path.as_bytes(), false), e.matches(path.as_bytes(), true)), (file, dir), "{path}");
        }
    }

    #[test]
    fn guards_of_the_usual_expressions_are_exact() {
        for (expression, want) in [
            (r"(.*)\.svn", &["**.svn"][..]),
            (r"(.*)\.(gz|php)", &["**.gz", "**.php"]),
            ("^info/*", &["/info*"]),
            ("cache_[0-9]+", &["/cache_[0123456789]*"]),
            ("/data/tmp(/.*)?", &["/data/tmp", "/data/tmp/**"]),
            (".*/logs/.*", &["**/logs/**"]),
            (r"a\*b", &["/a?b"]),
            ("(a|b|c|d)(a|b|c|d)(a|b|c|d)(a|b|c|d|x.*)?(y.*|z)", &["**"]),
        ] {
            let e = extra(&[expression], false);
            if want == ["**"] {
                assert!(e.guards.len() <= MAX_GLOBS && !e.guards.is_empty());
            } else {
                assert_eq!(texts(&e.guards), want, "{expression}");
            }
        }
    }

    #[test]
    fn errors_say_what_to_write() {
        for (expression, hint) in
            [("*.php", "\".*\""), ("(", "unclosed group"), ("(?=x)", "plain expressions"), (r"(a)\1", "plain expressions")]
        {
            let error = Extra::new(&[expression.to_owned()], false).err().unwrap().to_string();
            assert!(error.contains(hint), "{expression}: {error}");
        }
    }

    proptest! {
        /// The guards match whatever the expression matches: else a pass could delete what is left
        /// out.
        #[test]
        fn guards_cover(
            expression in r"(\^)?([a-c/.*]|\(\.\*\)|\.\*|\[ab\]\+|\[\^/\]\*|\(a\|b/\)\?|\\\.|/d|x\{2,3\}|\(a\|bc\)\*|\\w){1,6}(\$)?",
            path in "[abcdx.]{0,2}[abcdx](/[abcdx.]{0,2}[abcdx]){0,3}",
        ) {
            if let Ok(e) = Extra::new(&[expression], false) {
                let guards = Filter::new::<&[u8], _>(&[], &e.guards).unwrap();
                if e.matches(path.as_bytes(), false) {
                    prop_assert!(guards.excludes_leaf(path.as_bytes(), false), "{} not in {:?}", path, texts(&e.guards));
                }
            }
        }

        #[test]
        fn an_exact_pattern_matches_its_path_only(path in r"[a*?\[\\\]]{1,4}", other in r"[a*?\[\\\]]{1,4}") {
            let filter = Filter::new::<&[u8], _>(&[], &[exactly(path.as_bytes())]).unwrap();
            prop_assert!(filter.excludes_leaf(path.as_bytes(), false));
            prop_assert_eq!(filter.excludes_leaf(other.as_bytes(), false), path == other);
        }
    }
}
