//! Names that the index lost while runs with `-H` are under way.
//!
//! A run is judged at its end by the files with several names among those it carried. By then the
//! index may have lost a name that the run had: of a file whose other name was removed, the one
//! that stays is no name of a file with several any more. So what is lost is kept as long as a run
//! is under way that may have listed it, [`MOST`] names at the most.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Weak};

use super::Inode;
use crate::path;

/// Names kept; with more, those lost first are forgotten.
const MOST: usize = 200_000;

/// Held by a run: what the index loses meanwhile is kept for it.
pub(crate) struct Since {
    from: u64,
    _under_way: Arc<()>,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Departed {
    runs: Vec<Weak<()>>,
    lost: u64,
    names: BTreeMap<Arc<[u8]>, (u64, Inode)>,
}

impl Departed {
    /// A run begins.
    pub(super) fn begin(&mut self) -> Since {
        self.tidy();
        let under_way = Arc::new(());
        self.runs.push(Arc::downgrade(&under_way));
        Since { from: self.lost, _under_way: under_way }
    }

    fn tidy(&mut self) {
        self.runs.retain(|run| run.strong_count() > 0);
        if self.runs.is_empty() {
            self.names.clear();
        }
    }

    /// A name leads to this file no more, or the file has no other name.
    pub(super) fn lose(&mut self, name: Arc<[u8]>, inode: Inode) {
        if self.runs.is_empty() {
            return;
        }
        if self.names.len() >= MOST {
            self.tidy();
            let middle = self.lost - self.names.len() as u64 / 2;
            self.names.retain(|_, (number, _)| *number >= middle);
        }
        self.names.insert(name, (self.lost, inode));
        self.lost += 1;
    }

    /// The file that a name led to that was lost since a run began.
    pub(super) fn known(&self, name: &[u8], since: &Since) -> Option<Inode> {
        self.names.get(name).filter(|(number, _)| *number >= since.from).map(|(_, inode)| *inode)
    }

    /// The names lost since a run began, at and below a directory.
    pub(super) fn below<'a>(&'a self, dir: &'a [u8], since: &Since) -> impl Iterator<Item = (&'a Arc<[u8]>, Inode)> + use<'a> {
        let from = since.from;
        let names = self.names.range::<[u8], _>((Bound::Included(dir), Bound::Unbounded));
        // Others come between a directory and what is below it: `d-x` is before `d/x`.
        let names =
            names.take_while(move |(name, _)| name.starts_with(dir)).filter(move |(name, _)| path::is_at_or_below(name, dir));
        names.filter(move |(_, (number, _))| *number >= from).map(|(name, (_, inode))| (name, *inode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::samples::{A, B};

    fn below(departed: &Departed, dir: &str, since: &Since) -> Vec<String> {
        departed.below(dir.as_bytes(), since).map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[test]
    fn each_run_finds_what_was_lost_since_it_began() {
        let mut departed = Departed::default();
        departed.lose(b"before".as_slice().into(), A);
        let first = departed.begin();
        for name in ["d/a", "d-b", "e/c"] {
            departed.lose(name.as_bytes().into(), A);
        }
        let second = departed.begin();
        departed.lose(b"d/e/f".as_slice().into(), B);
        assert_eq!((departed.known(b"before", &first), departed.known(b"d/a", &first)), (None, Some(A)));
        assert_eq!((departed.known(b"d/a", &second), departed.known(b"d/e/f", &second)), (None, Some(B)));
        assert_eq!(below(&departed, "d", &first), ["d/a", "d/e/f"]);
        assert_eq!(below(&departed, "", &first), ["d-b", "d/a", "d/e/f", "e/c"]);
        assert_eq!(below(&departed, "", &second), ["d/e/f"]);
        departed.lose(b"d/a".as_slice().into(), B);
        assert_eq!((departed.known(b"d/a", &first), departed.known(b"d/a", &second)), (Some(B), Some(B)));
    }

    #[test]
    fn nothing_is_kept_that_no_run_asks_for_and_the_rest_is_bounded() {
        let mut departed = Departed::default();
        let run = departed.begin();
        (0..MOST + 10).for_each(|n| departed.lose(n.to_string().as_bytes().into(), A));
        assert!((MOST / 2..=MOST).contains(&departed.names.len()), "{}", departed.names.len());
        assert_eq!(departed.known((MOST + 9).to_string().as_bytes(), &run), Some(A));
        drop(run);
        let next = departed.begin();
        assert!(departed.names.is_empty() && below(&departed, "", &next).is_empty());
    }
}
