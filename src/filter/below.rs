//! Whether two directories are filtered alike.

use std::ffi::OsString;

use super::Filter;
use super::pattern::{self, Head, Text, Token};
use crate::path;

impl Filter {
    /// The exclude rules as rsync reads them with `a` or with `b` as the root of a transfer, if
    /// they leave the same names out below both of these directories, which are themselves not left
    /// out. `None` when that cannot be distinguished from the patterns.
    ///
    /// A pattern for a name alone holds in every directory. One for a path that is spelled out
    /// cannot matter if it lies below neither. Every other might.
    pub(crate) fn alike_below(&self, a: &[u8], b: &[u8]) -> Option<Vec<OsString>> {
        if self.includes() {
            return None;
        }
        let mut names = Vec::new();
        let all = self.ordered().iter().map(|rule| &rule.pattern).chain(self.exclude());
        for (given, rule) in all.zip(self.rsync_args()) {
            match pattern::parse(given) {
                None => {}
                Some(parsed) if parsed.text == Text::Name => names.push(rule),
                Some(parsed) => {
                    let literal: Option<Vec<u8>> =
                        parsed.tokens.iter().map(|t| if let Token::Byte(b) = t { Some(*b) } else { None }).collect();
                    let elsewhere = |path: &[u8]| ![a, b].iter().any(|dir| path::is_at_or_below(path, dir));
                    if !matches!(parsed.text, Text::Path { head: Head::Anchored, open_end: false })
                        || !literal.is_some_and(|p| elsewhere(&p))
                    {
                        return None;
                    }
                }
            }
        }
        Some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_places_elsewhere_are_alike() {
        for (include, exclude, alike) in [
            (&[][..], &[][..], Some(0)),
            (&[], &["*.swp", ".git/", "core"], Some(3)),
            (&[], &["/cache/", "*.o"], Some(1)),
            (&[], &["/old/cache"], None),
            (&[], &["/deep/new/x"], None),
            (&[], &["/deep/*"], None),
            (&[], &["a/b"], None),
            (&[], &["**/tmp"], None),
            (&["keep"], &["*.o"], None),
        ] {
            let filter = Filter::new(include, exclude).unwrap();
            assert_eq!(filter.alike_below(b"old", b"deep/new").map(|args| args.len()), alike, "{include:?} {exclude:?}");
        }
    }
}
