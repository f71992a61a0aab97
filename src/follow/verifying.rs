//! A follower's part in `fansync verify`: what is compared with what, what is under way, and up to
//! where the source has published.

use std::sync::PoisonError;

use crossbeam::channel::Sender;

use super::watches::Watches;
use super::*;
use crate::engine::{Board, Followed, OnTarget};
use crate::feed::barriers;
use crate::path::RelPath;

/// A question up to where the source has published.
struct Asked {
    number: u64,
    deadline: Instant,
    reply: Sender<bool>,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Verifying {
    board: Board,
    watches: Watches,
    /// Not answered yet, the latest one last.
    asked: Vec<Asked>,
    /// Who waits for an upstream that holds everything.
    upstreams: Vec<(Instant, Sender<Option<Target>>)>,
}

impl Verifying {
    /// A record was read, which answers these numbers. One that was drawn later than another
    /// answers that, too.
    pub(super) fn read(&mut self, record: &Result<Record, RecordError>, answers: &[u64]) {
        match record {
            Ok(record) => self.watches.see(record),
            Err(_) => self.watches.see_all(),
        }
        if let Some(last) = self.asked.iter().rposition(|asked| answers.contains(&asked.number)) {
            self.asked.drain(..=last).for_each(|asked| _ = asked.reply.send(true));
        }
    }

    /// The number that the source is to answer, for the report.
    pub(super) fn barrier(&self) -> String {
        self.asked.last().map(|asked| barriers::shown(asked.number)).unwrap_or_default()
    }

    fn ask(&mut self, deadline: Instant, reply: Sender<bool>) {
        self.asked.push(Asked { number: fastrand::u64(..), deadline, reply });
    }

    /// Answers those whose time is over. `holder`: the upstream that holds everything; `owes`: the
    /// whole tree is to be compared.
    fn serve(&mut self, now: Instant, holder: Option<&Target>, owes: bool) {
        if owes {
            self.watches.see_all();
        }
        self.asked.retain(|asked| {
            let waits = now < asked.deadline;
            if !waits {
                let _ = asked.reply.send(false);
            }
            waits
        });
        self.upstreams.retain(|(deadline, reply)| {
            let waits = holder.is_none() && now < *deadline;
            if !waits {
                let _ = reply.send(holder.cloned());
            }
            waits
        });
    }

    /// When the next one is answered at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        let asked = self.asked.iter().map(|asked| asked.deadline);
        asked.chain(self.upstreams.iter().map(|(deadline, _)| *deadline)).min()
    }

    /// For the status.
    pub(super) fn status(&self) -> Option<status::Verify> {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        (board.running || board.ended_unix > 0.0).then(|| board.clone())
    }
}

impl Follower {
    pub(super) fn serve_verifying(&mut self) {
        let now = self.now();
        let holder = self.machine.read().and_then(|read| self.supply.holder(now, &read));
        self.verifying.serve(Instant::now(), holder, self.machine.owes());
    }

    pub(super) fn answer_verification(&mut self, what: OnTarget) {
        match what {
            OnTarget::Followed(reply) => _ = reply.send(Some(self.followed())),
            OnTarget::Watch(paths, reply) => {
                let owed = self.owed_of(paths.iter());
                let _ = reply.send((self.verifying.watches.begin(paths), owed));
            }
            OnTarget::Unwatch(id, reply) => {
                let (paths, mut touched) = self.verifying.watches.end(id);
                touched.extend(self.owed_of(paths.iter()));
                let _ = reply.send(touched.into_iter().collect());
            }
            OnTarget::Failing(reply) => {
                let failed = self.machine.failed().keys();
                let _ = reply.send(failed.filter(|path| !self.is_under_way(path)).cloned().collect());
            }
            OnTarget::Barrier(deadline, reply) => self.verifying.ask(deadline, reply),
            OnTarget::Upstream(deadline, reply) => self.verifying.upstreams.push((deadline, reply)),
            OnTarget::Plan(reply) => {
                let _ = reply.send(Err("a follower is compared with its upstream".into()));
            }
            OnTarget::Questions(reply) => _ = reply.send(None),
            // No caller asks a follower for that.
            OnTarget::Repair(..) => {}
        }
    }

    fn followed(&self) -> Followed {
        let holder = self.machine.read().and_then(|read| self.supply.holder(self.now(), &read));
        Followed {
            mirror: self.mirror.clone(),
            upstream: holder.unwrap_or_else(|| self.upstream()).clone(),
            identity: self.machine.identity(),
            is_held: self.machine.is_held(),
            dir: self.disk.mark_dir().with_file_name(format!("verify-{:016x}", fastrand::u64(..))),
            board: self.verifying.board.clone(),
        }
    }

    /// Those of these paths that something under way may concern.
    fn owed_of<'p>(&self, paths: impl Iterator<Item = &'p RelPath>) -> Vec<RelPath> {
        paths.filter(|path| self.is_under_way(path) || self.machine.fails_at(path)).cloned().collect()
    }

    /// Whether something that was read, and is not held, may concern this path.
    fn is_under_way(&self, path: &RelPath) -> bool {
        self.machine.is_about(path) || self.supply.is_about(path)
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::bounded;

    use super::*;

    #[test]
    fn an_answer_holds_only_for_requests_made_before() {
        let (mut verifying, now) = (Verifying::default(), Instant::now());
        let hour = now + Duration::from_secs(3_600);
        let ask = |verifying: &mut Verifying| {
            let (reply, answer) = bounded(1);
            verifying.ask(hour, reply);
            (verifying.asked.last().map(|asked| asked.number).unwrap(), answer)
        };
        assert_eq!((verifying.barrier(), verifying.due()), (String::new(), None));
        let (first, one) = ask(&mut verifying);
        let (second, two) = ask(&mut verifying);
        let (third, three) = ask(&mut verifying);
        assert_eq!((verifying.barrier(), verifying.due()), (barriers::shown(third), Some(hour)));
        let record = Ok(Record::default());
        verifying.read(&record, &[first ^ 1]);
        assert!(one.try_recv().is_err(), "it is another's");
        verifying.read(&record, &[second]);
        assert_eq!((one.try_recv(), two.try_recv(), three.try_recv().is_err()), (Ok(true), Ok(true), true));
        verifying.serve(hour, None, false);
        assert_eq!((three.try_recv(), verifying.barrier()), (Ok(false), String::new()));
    }

    #[test]
    fn an_upstream_that_holds_everything_is_waited_for() {
        let (mut verifying, now) = (Verifying::default(), Instant::now());
        let second = now + Duration::from_secs(1);
        let target = Target::new("upstream", crate::location::Location::Local("/".into()));
        for (at, holder, want) in [(now, Some(&target), Some(true)), (now, None, None), (second, None, Some(false))] {
            let (reply, answer) = bounded(1);
            verifying.upstreams.push((second, reply));
            verifying.serve(at, holder, false);
            assert_eq!(answer.try_recv().ok().map(|found| found.is_some()), want);
            verifying.upstreams.clear();
        }
    }
}
