//! `fansync flush` at a follower: who waits, and for which record.

use std::time::Instant;

use crossbeam::channel::Sender;

use crate::control::Waiting;

struct Flush {
    deadline: Instant,
    reply: Sender<Vec<Waiting>>,
    /// Until the end of the stream was read: the number of that request.
    request: Option<u64>,
    /// The last message of the stream then.
    until: u64,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Flushes {
    waiting: Vec<Flush>,
    requests: u64,
}

impl Flushes {
    /// One more waits, for the end of the stream that the request with this number reads.
    pub(super) fn add(&mut self, deadline: Instant, reply: Sender<Vec<Waiting>>) -> u64 {
        self.requests += 1;
        self.waiting.push(Flush { deadline, reply, request: Some(self.requests), until: 0 });
        self.requests
    }

    /// The stream was looked at: its last message, if it had any.
    pub(super) fn looked(&mut self, number: u64, end: Option<u64>) {
        for flush in self.waiting.iter_mut().filter(|flush| flush.request == Some(number)) {
            (flush.request, flush.until) = (None, end.unwrap_or(0));
        }
    }

    /// When the next one is answered at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.iter().map(|flush| flush.deadline).min()
    }

    /// Answers those that are done, hopeless or late. `held`: everything up to this record is;
    /// `failing`: but for paths that fail; `why`: what keeps the others waiting.
    pub(super) fn answer(&mut self, now: Instant, held: Option<u64>, failing: bool, why: impl Fn() -> Waiting) {
        self.waiting.retain(|flush| {
            let done = flush.request.is_none() && held.is_some_and(|held| held >= flush.until);
            let answer = match done {
                true if !failing => Some(Vec::new()),
                // All else is here.
                true => Some(vec![Waiting { unreachable: false, ..why() }]),
                false if now >= flush.deadline => Some(vec![match flush.request {
                    Some(_) => Waiting {
                        why: "the end of the feed could not be looked at in time".to_owned(),
                        unreachable: true,
                        ..why()
                    },
                    None => why(),
                }]),
                false => None,
            };
            let Some(answer) = answer else { return true };
            let _ = flush.reply.send(answer);
            false
        });
    }

    /// Answers those that wait: the follower ends.
    pub(super) fn end(&mut self, why: impl Fn() -> Waiting) {
        for flush in self.waiting.drain(..) {
            let _ = flush.reply.send(vec![why()]);
        }
    }

    /// Whether no flush waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam::channel::bounded;

    use super::*;

    #[test]
    fn a_flush_is_answered_for_what_the_stream_had_when_it_was_looked_at() {
        let (mut flushes, now) = (Flushes::default(), Instant::now());
        let why = || Waiting { target: "web/upstream".into(), why: "down".into(), unreachable: true };
        let ask = |flushes: &mut Flushes, seconds| {
            let (reply, answer) = bounded(1);
            (flushes.add(now + Duration::from_secs(seconds), reply), answer)
        };
        let (first, answer) = ask(&mut flushes, 9);
        let (second, late) = ask(&mut flushes, 5);
        assert_eq!(flushes.due(), Some(now + Duration::from_secs(5)));
        flushes.answer(now, Some(100), false, why);
        assert!(answer.try_recv().is_err(), "the stream was not looked at");
        flushes.looked(first, Some(8));
        flushes.answer(now, Some(7), false, why);
        assert!(answer.try_recv().is_err(), "it lacks the record 8");
        flushes.answer(now, None, false, why);
        assert!(answer.try_recv().is_err(), "the position is not known");
        flushes.answer(now, Some(8), false, why);
        assert!(answer.try_recv().is_ok_and(|waiting| waiting.is_empty()));
        flushes.answer(now + Duration::from_secs(5), Some(8), false, why);
        let words = late.try_recv().unwrap().remove(0);
        assert!(words.why.contains("could not be looked at in time") && words.unreachable);
        let (third, failing) = ask(&mut flushes, 9);
        assert!(second < third);
        flushes.looked(third, None);
        flushes.answer(now, Some(0), true, why);
        assert!(failing.try_recv().is_ok_and(|waiting| waiting.len() == 1 && !waiting[0].unreachable), "waiting does not help");
        let (fourth, waits) = ask(&mut flushes, 1);
        flushes.looked(fourth, Some(9));
        flushes.answer(now + Duration::from_secs(1), Some(8), false, why);
        assert_eq!(waits.try_recv().unwrap()[0].why, "down");
        let (_, ended) = ask(&mut flushes, 9);
        flushes.end(why);
        assert!(ended.try_recv().is_ok_and(|waiting| waiting.len() == 1) && flushes.is_empty());
    }
}
