//! Flushes: each waits until every event from before the request is in the dirty sets, then for the
//! walks that find what no event led to, then for its targets.

use std::time::Instant;

use crossbeam::channel::Sender;

use super::Engine;
use super::drains::For;
use crate::control::Waiting;
use crate::dirty::Epoch;

/// Walks that ended, by kind: for files that changed without a path, by handle, through a name that
/// they have lost, and for files that may have changed through a name outside.
type Walks = [u64; 4];

/// The request.
#[derive(Clone)]
pub(super) struct FlushRequest {
    /// Only this target.
    pub(super) only: Option<String>,
    pub(super) deadline: Instant,
    pub(super) reply: Sender<Vec<Waiting>>,
}

/// How far a flush is.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Events from before the request may be queued.
    Draining,
    /// They are in the dirty sets; what was changed before the request and raised none is sought by
    /// these walks.
    Searching(Walks),
    /// Which targets wait for which epoch.
    Sending(Vec<(usize, Epoch)>),
}

struct Flush {
    id: u64,
    request: FlushRequest,
    stage: Stage,
}

/// Flushes that are not answered.
#[derive(Default)]
pub(super) struct Flushes {
    last: u64,
    open: Vec<Flush>,
}

impl Flushes {
    /// Takes one in, and gives its number.
    fn add(&mut self, request: FlushRequest) -> u64 {
        self.last += 1;
        self.open.push(Flush { id: self.last, request, stage: Stage::Draining });
        self.last
    }

    fn get(&mut self, id: u64) -> Option<&mut Flush> {
        self.open.iter_mut().find(|flush| flush.id == id)
    }

    /// Those whose walks have ended, and that do not wait for targets yet.
    fn found(&mut self, ended: Walks) -> impl Iterator<Item = &mut Flush> {
        let found = move |flush: &&mut Flush| match &flush.stage {
            Stage::Searching(sought) => sought.iter().zip(&ended).all(|(sought, ended)| sought <= ended),
            Stage::Draining | Stage::Sending(_) => false,
        };
        self.open.iter_mut().filter(found)
    }

    pub(super) fn any(&self) -> bool {
        !self.open.is_empty()
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.open.iter().map(|flush| flush.request.deadline)
    }

    /// What the next engine has to answer.
    pub(super) fn into_requests(self) -> Vec<FlushRequest> {
        self.open.into_iter().map(|flush| flush.request).collect()
    }
}

impl Engine {
    /// Takes in a flush; what it waits for is known after a drain.
    pub(super) fn take_flush(&mut self, request: FlushRequest) {
        let id = self.flushes.add(request);
        self.drain(For::Flush(id));
    }

    /// Takes over flushes that the engine before did not answer: what they wait for is found by the
    /// walk, so they begin anew.
    pub(super) fn take_over(&mut self, flushes: Vec<FlushRequest>) {
        for flush in flushes {
            if let Some(name) = flush.only.as_ref().filter(|name| self.targets.iter().all(|t| t.cfg.name != **name)) {
                let why = "the configuration has this target no more".into();
                let target = format!("{}/{name}", self.mirror.name);
                let _ = flush.reply.send(vec![Waiting { target, why, unreachable: false }]);
                continue;
            }
            self.take_flush(flush);
        }
    }

    /// The drain of a flush has ended. It waits for what is lost, too, and for the walks that find
    /// what changed before it.
    pub(super) fn flush_is_drained(&mut self, id: u64) {
        if self.flushes.get(id).is_none() {
            return;
        }
        self.hurry_links();
        self.intake.resolver.nameless_files().hurry();
        self.take_what_waits();
        let nameless = self.intake.resolver.nameless_files().covered_by();
        let sought = [nameless, self.want_by_handle(), self.want_strays(), self.hurry_outside()];
        if let Some(flush) = self.flushes.get(id) {
            flush.stage = Stage::Searching(sought);
        }
    }

    /// Sets what flushes wait for, as soon as all that may differ is in the dirty sets: what a walk
    /// after the start has still to find was changed before any request.
    pub(super) fn open_flushes(&mut self) {
        if self.begin.status.walking {
            return;
        }
        let ended = [
            self.intake.resolver.nameless_walks(),
            self.searches.by_handle.ended(),
            self.searches.strays.ended(),
            self.searches.outside.ended(),
        ];
        for flush in self.flushes.found(ended) {
            let only = flush.request.only.as_deref();
            let chosen = self.targets.iter_mut().enumerate().filter(|(_, t)| only.is_none_or(|name| name == t.cfg.name));
            flush.stage = Stage::Sending(chosen.map(|(at, target)| (at, target.flush())).collect());
        }
    }

    /// Answers the flushes that are done, hopeless, or late.
    pub(super) fn serve_flushes(&mut self) {
        let now = Instant::now();
        let mut at = 0;
        while at < self.flushes.open.len() {
            let Some(waiting) = self.answer_to(&self.flushes.open[at], now) else {
                at += 1;
                continue;
            };
            let flush = self.flushes.open.swap_remove(at);
            if let Stage::Sending(waits) = flush.stage {
                waits.into_iter().for_each(|(t, epoch)| self.targets[t].end_flush(epoch));
            }
            let _ = flush.request.reply.send(waiting);
        }
    }

    /// What has not arrived, if there is nothing to wait for any more.
    fn answer_to(&self, flush: &Flush, now: Instant) -> Option<Vec<Waiting>> {
        let late = now >= flush.request.deadline;
        let why = match &flush.stage {
            Stage::Sending(waits) => return self.waits_for(waits, late),
            _ if self.begin.status.walking => "the walk over the source after the start goes on",
            Stage::Searching(_) => "the walk over the source for files that changed without a path goes on",
            Stage::Draining => "the event queue could not be drained in time",
        };
        late.then(|| vec![Waiting { target: self.mirror.name.clone(), why: why.into(), unreachable: false }])
    }

    fn waits_for(&self, waits: &[(usize, Epoch)], late: bool) -> Option<Vec<Waiting>> {
        let open = |(t, epoch): &&(usize, Epoch)| self.guard.held.is_some() || !self.targets[*t].flushed(*epoch);
        let open: Vec<_> = waits.iter().filter(open).map(|(t, _)| &self.targets[*t]).collect();
        let hopeless = open.iter().all(|target| target.at_rest());
        let waiting = open.into_iter().map(|target| {
            let (why, unreachable) = match self.held_words() {
                Some(why) => (format!("{why}; nothing is sent or deleted"), false),
                None => target.why_waiting(),
            };
            Waiting { target: format!("{}/{}", self.mirror.name, target.cfg.name), why, unreachable }
        });
        (late || hopeless).then(|| waiting.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam::channel::unbounded;

    use super::*;

    fn request() -> FlushRequest {
        FlushRequest { only: None, deadline: Instant::now() + Duration::from_secs(60), reply: unbounded().0 }
    }

    #[test]
    fn a_flush_waits_for_every_walk_that_it_was_told_of() {
        let mut flushes = Flushes::default();
        let (first, second) = (flushes.add(request()), flushes.add(request()));
        assert_ne!(first, second);
        assert_eq!(flushes.found([u64::MAX; 4]).count(), 0, "its events are not drained");
        flushes.get(first).expect("it is open").stage = Stage::Searching([1, 0, 2, 0]);
        for ended in [[0, 9, 9, 9], [9, 9, 1, 9]] {
            assert_eq!(flushes.found(ended).count(), 0, "{ended:?}");
        }
        let found: Vec<u64> = flushes.found([1, 0, 2, 0]).map(|flush| flush.id).collect();
        assert_eq!(found, [first]);
        flushes.get(first).expect("it is open").stage = Stage::Sending(Vec::new());
        assert_eq!(flushes.found([u64::MAX; 4]).count(), 0, "its epochs are closed once");
    }

    #[test]
    fn the_next_engine_gets_every_request_that_is_open() {
        let mut flushes = Flushes::default();
        flushes.add(FlushRequest { only: Some("t1".into()), ..request() });
        let id = flushes.add(request());
        flushes.get(id).expect("it is open").stage = Stage::Searching([0; 4]);
        assert!(flushes.get(id + 1).is_none() && flushes.deadlines().count() == 2);
        let only: Vec<_> = flushes.into_requests().into_iter().map(|request| request.only).collect();
        assert_eq!(only, [Some("t1".to_owned()), None]);
    }
}
