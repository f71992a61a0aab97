//! Where the patterns of a mirror, and its source, are written: for messages that say why a path is
//! left out, or what is missing.

use std::collections::HashMap;
use std::ops::Range;

use super::checked::Mirror;
use super::cite::Texts;

/// Places by key and number. Any two are equal: the place of a value is no part of the value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins(HashMap<(&'static str, usize), String>);

impl PartialEq for Origins {
    fn eq(&self, _: &Origins) -> bool {
        true
    }
}

impl Eq for Origins {}

/// The keys that hold patterns.
const KEYS: [&str; 4] = ["filter", "include", "exclude", "exclude_regex"];

impl Origins {
    /// The place of the source, `("source", 0)`, or of the pattern number `n` of a key:
    /// `FILE:LINE:COLUMN`, or an option; empty when not known.
    pub(crate) fn of(&self, key: &str, n: usize) -> String {
        let found = self.0.iter().find(|((k, at), _)| *k == key && *at == n);
        found.map(|(_, origin)| origin.clone()).unwrap_or_default()
    }

    /// Adds places for the patterns of a key from number `from` on.
    pub(super) fn add(&mut self, key: &'static str, from: usize, places: impl Iterator<Item = String>) {
        self.0.extend(places.enumerate().map(|(n, place)| ((key, from + n), place)));
    }

    /// The same places after a pattern of a key was put in at number `at`.
    pub(super) fn moved(self, key: &str, at: usize) -> Origins {
        let next = |n: usize, k: &str| if k == key && n >= at { n + 1 } else { n };
        Origins(self.0.into_iter().map(|((k, n), place)| ((k, next(n, k)), place)).collect())
    }

    /// Those of a command line.
    pub(super) fn options(include: usize, exclude: usize, filter: usize) -> Origins {
        let all = |key: &'static str, option: &'static str, len| (0..len).map(move |n| ((key, n), option.to_owned()));
        let lists = all("include", "--include", include).chain(all("exclude", "--exclude", exclude));
        Origins(lists.chain(all("filter", "--filter", filter)).collect())
    }
}

/// Notes the places of every mirror's patterns. `places`: by the path of a key, in bytes of
/// `texts`.
pub(super) fn note(mirrors: &mut [Mirror], places: &HashMap<String, Range<usize>>, texts: &Texts) {
    let place = |at: usize| {
        let (file, line, column) = texts.place(at);
        Some(format!("{}:{line}:{column}", file?.display()))
    };
    for (i, mirror) in mirrors.iter_mut().enumerate() {
        let ordered = mirror.filter.ordered().len();
        let lengths = [ordered, mirror.filter.include().len(), mirror.filter.exclude().len(), mirror.filter.expressions().len()];
        let all = KEYS.into_iter().zip(lengths).flat_map(|(key, len)| (0..len).map(move |n| (key, n)));
        let placed = all.filter_map(|(key, n)| {
            // A pattern of a file has its place already, and none in this text.
            Some(((key, n), place(places.get(&format!("mirror.{i}.{key}.{n}"))?.start)?))
        });
        let source = places.get(&format!("mirror.{i}.source")).and_then(|at| place(at.start));
        let source = source.map(|place| (("source", 0), place));
        mirror.origins.0.extend(placed.chain(source).collect::<Vec<_>>());
    }
}
