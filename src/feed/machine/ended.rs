//! What becomes of the paths of a run that has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;

impl Machine {
    /// whether a path here is a directory now.
    pub fn ended(&mut self, now: Duration, end: End, is_dir: &dyn Fn(&RelPath) -> bool) -> bool {
        let Some(flight) = self.flight.take() else { return false };
        match &flight {
            Flight::Whole { .. } => self.pulled.note(RelPath::root(), now),
            Flight::List(paths) => paths.keys().for_each(|path| self.pulled.note(path.clone(), now)),
            Flight::Batch { .. } => {}
        }
        let partly = matches!(end, End::Partly { .. });
        let progress = match (flight, end) {
            (Flight::Batch { .. }, End::Done) => true,
            (Flight::Batch { sequence, items }, _) => {
                for item in items {
                    self.put_back(item.path.clone(), Need::of(&item, sequence));
                }
                true
            }
            (Flight::Whole { .. }, End::Done) => {
                self.rounds = 0;
                self.forget_below_links(&RelPath::root(), is_dir);
                self.doubt_all();
                true
            }
            (Flight::List(paths), End::Done) => {
                for (path, need) in &paths {
                    if need.kind == Kind::Subtree {
                        self.forget_below_links(path, is_dir);
                    }
                    let doubted = self.moves.held(path, need, is_dir);
                    self.doubt_again(doubted, need.sequence);
                }
                // What was gone and is a directory after all is another one, and a list does not
                // enter it.
                for (path, need) in paths.into_iter().filter(|(path, need)| need.may_be_another() && is_dir(path)) {
                    self.put_back(path, Need::compare(Kind::Subtree, need.sequence, need.round));
                }
                true
            }
            (Flight::Whole { owed }, End::Not) => {
                self.owed.get_or_insert(owed);
                false
            }
            (Flight::Whole { owed }, End::Partly { complaints, complete }) => {
                self.rounds += 1;
                let lasting = complete && !complaints.is_empty() && complaints.iter().all(|c| !c.absent);
                if lasting && self.rounds >= ROUNDS {
                    self.rounds = 0;
                    self.forget_below_links(&RelPath::root(), is_dir);
                    for complaint in complaints {
                        self.fail(now, complaint.path, Need::compare(Kind::Subtree, u64::MAX, ROUNDS), complaint.words);
                    }
                    self.doubt_all();
                    true
                } else {
                    self.owed.get_or_insert(owed);
                    false
                }
            }
            (Flight::List(paths), End::Not) => {
                for (path, need) in paths {
                    match need.sequence {
                        u64::MAX if self.owed.is_none() => self.fail(now, path, need, "the run did not end".into()),
                        _ => self.put_back(path, need),
                    }
                }
                false
            }
            (Flight::List(paths), End::Partly { complaints, complete }) => self.partly(now, paths, &complaints, complete),
        };
        self.fruitless = if progress { 0 } else { self.fruitless + u32::from(partly) };
        let (pending, failed) = (&self.pending, &self.failed);
        let touched = |item: &Item| pending.touches(&item.path) || touches(failed, &item.path);
        if self.batches.iter().any(|queued| queued.items.iter().any(touched)) {
            self.pull_batches();
        }
        self.advance();
        progress
    }

    fn partly(&mut self, now: Duration, paths: BTreeMap<RelPath, Need>, complaints: &[Complaint], complete: bool) -> bool {
        let mut progress = false;
        let alone = paths.len() == 1;
        if complaints.is_empty() && self.fruitless >= FRUITLESS {
            self.fruitless = 0;
            self.owe("run after run failed, and rsync did not say at which paths".into());
            return false;
        }
        for (path, mut need) in paths {
            let touches = |c: &&Complaint| path::is_at_or_below(&c.path, &path) || path::is_at_or_below(&path, &c.path);
            // The one nearest to the top decides.
            let complaint = complaints.iter().filter(touches).min_by_key(|c| c.path.len());
            match complaint {
                // Others of the run failed; this one is not known to be held.
                None if complete => {
                    progress = true;
                    self.put_back(path, need);
                    continue;
                }
                Some(c) if c.absent && path::is_at_or_below(&path, &c.path) => {
                    progress = true;
                    let at = match c.path == path {
                        // Where directories are entered nothing that is missing is deleted.
                        true if need.kind == Kind::Subtree => Some(path.clone()),
                        true => path::parent(&path).map(RelPath::from_normal),
                        false => Some(c.path.clone()),
                    };
                    match at.filter(|at| !at.is_root()) {
                        Some(at) => self.put_back(at, Need::gone(need.sequence, need.round + 1)),
                        None => self.owe("a path at the top could not be pulled".into()),
                    }
                    continue;
                }
                _ => need.round += 1,
            }
            if complaint.is_none() && alone && need.round >= ROUNDS {
                match path::parent(&path).filter(|above| !above.is_empty()) {
                    Some(above) => {
                        let above = RelPath::from_normal(above);
                        self.put_back(above, Need::gone(need.sequence, need.round));
                    }
                    None => self.owe("a path at the top could not be pulled".into()),
                }
                continue;
            }
            match complaint.filter(|c| !c.absent && need.round >= ROUNDS) {
                Some(complaint) => {
                    need.sequence = u64::MAX;
                    self.fail(now, path, need, complaint.words.clone());
                }
                None => self.put_back(path, need),
            }
        }
        progress
    }

    /// What left is to be pulled still, at once. Also in the place of a path that failed again and
    /// again: nothing says that this one fails.
    fn put_back(&mut self, path: RelPath, need: Need) {
        // A comparison that begins later covers it.
        if self.owed.is_none() {
            self.pending.restore(path, need);
        }
    }

    /// A comparison of `at` has ended: what failed, or is doubted, below a name that is no directory
    /// now is not there. rsync would follow a link to it, and make the link a directory.
    fn forget_below_links(&mut self, at: &RelPath, is_dir: &dyn Fn(&RelPath) -> bool) {
        let is_there = |path: &RelPath| {
            let above = std::iter::successors(path::parent(path), |dir| path::parent(dir));
            let mut below_top = above.filter(|dir| !dir.is_empty()).map(RelPath::from_normal);
            !path::is_at_or_below(path, at) || below_top.all(|dir| is_dir(&dir))
        };
        self.failed.retain(|path, _| is_there(path));
        self.moves.keep(is_there);
    }

    fn fail(&mut self, now: Duration, path: RelPath, mut need: Need, words: String) {
        if self.pending.is_taken_along(&path, &need) {
            return;
        }
        // A record has said more of it meanwhile: it is another one.
        if self.pending.has(&path) {
            (need.sequence, need.round) = (u64::MAX, 0);
            return self.pending.restore(path, need);
        }
        self.failed.insert(path, Failure { need, words, due: now + self.pause });
    }
}
