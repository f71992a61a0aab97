//! Which upstream a follower pulls from. Pure: reports, failures and the time are arguments.
//!
//! Upstreams are in the order of preference. The source holds every record. A relay holds those up
//! to the position that it has reported, and it alone ends a wait for it. Promises:
//!
//! - A relay is used only for what it has reported to hold, by its last report.
//! - A wait for a relay ends with its report, or once it has been silent for [`SILENT`]. Then it is
//!   passed over until it reports again.
//! - A relay that is not known to hold anything is not one that holds nothing: both are waited for,
//!   but only the second one may say how far it is.
//! - Relays that pull from each other do not wait for each other.

use std::time::Duration;

use super::Report;
use super::machine::Point;

/// A relay that reports nothing for so long while it is waited for is passed over.
pub const SILENT: Duration = Duration::from_secs(3);

/// What a relay does, as far as it matters to who waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It holds everything that it has read, or is pulling that.
    Pulls,
    /// It compares its whole tree, and has no position.
    Compares,
    /// It pulls nothing for now.
    Stands,
}

/// What a relay has reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// It holds everything up to this sequence of this incarnation; `None`: it does not say.
    pub at: Option<(u64, u64)>,
    /// What it does.
    pub course: Course,
    /// It pulls by way of this follower.
    pub by_me: bool,
    /// When it made the report, by its own clock.
    pub unix: f64,
}

impl Word {
    /// What a report says to a follower that serves its tree as `own`.
    pub(crate) fn of(report: &Report, own: Option<&str>) -> Word {
        let incarnation = u64::from_str_radix(&report.incarnation, 16).ok();
        let at = incarnation.map(|incarnation| (incarnation, report.sequence));
        let course = match &*report.state {
            // A path that it lacks is not in its position.
            _ if report.failed > 0 => Course::Stands,
            "idle" | "syncing" => Course::Pulls,
            "comparing" => Course::Compares,
            _ => Course::Stands,
        };
        let by_me = own.is_some_and(|own| report.through.iter().any(|place| place == own));
        Word { at: at.filter(|_| report.failed == 0), course, by_me, unix: report.unix }
    }

    fn holds(&self, need: &Point) -> bool {
        self.at.is_some_and(|(incarnation, sequence)| incarnation == need.incarnation && sequence >= need.sequence)
    }
}

/// Why an upstream could not be pulled from, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Away {
    /// Trying again cannot help before a change by an administrator.
    pub config: bool,
    /// In words.
    pub why: String,
    /// How often it was tried since it last answered.
    pub tries: u64,
    /// When it is tried again.
    pub next: Duration,
}

/// A wait for a relay.
#[derive(Clone, Copy, Debug)]
struct Wish {
    /// What it is to hold.
    need: Point,
    since: Duration,
    /// When that was asked for last.
    asked: Duration,
}

impl Wish {
    /// The wait that goes on, or begins, when this is asked for.
    fn at(wish: Option<Wish>, now: Duration, need: &Point) -> Wish {
        // One that was not asked for since then is another one.
        match wish.filter(|wish| now.saturating_sub(wish.asked) <= 2 * SILENT) {
            None => Wish { need: *need, since: now, asked: now },
            Some(wish) => {
                let less = wish.need.incarnation == need.incarnation && need.sequence <= wish.need.sequence;
                Wish { need: if less { wish.need } else { *need }, since: wish.since, asked: now }
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Upstream {
    relay: bool,
    word: Option<Word>,
    /// When its last report came.
    reported: Option<Duration>,
    /// What it is waited for.
    wish: Option<Wish>,
    silent: bool,
    away: Option<Away>,
}

/// What to do about something that is to be pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Pull it from this one.
    Use(usize),
    /// This relay does not hold it yet; it is passed over at this time if it reports nothing.
    Wait(usize, Duration),
    /// None can be pulled from; the time of the next try, if it is not a report that is waited for.
    NoUpstream(Option<Duration>),
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Upstreams {
    all: Vec<Upstream>,
}

impl Upstreams {
    /// So many, of which the last one is the source.
    pub fn new(count: usize) -> Upstreams {
        let one = |n| Upstream { relay: n + 1 < count, ..Upstream::default() };
        Upstreams { all: (0..count).map(one).collect() }
    }

    /// A relay has reported. `live`: just now; otherwise it is what the servers have kept.
    pub fn word(&mut self, now: Duration, from: usize, word: Word, live: bool) {
        let Some(upstream) = self.all.get_mut(from) else { return };
        upstream.relay = true;
        if live {
            (upstream.reported, upstream.silent) = (Some(now), false);
        } else if upstream.word.as_ref().is_some_and(|known| known.unix >= word.unix) {
            return;
        }
        upstream.wish = upstream.wish.filter(|wish| !word.holds(&wish.need));
        upstream.word = Some(word);
    }

    /// What was taken for the source serves the tree of a relay.
    pub fn is_a_relay(&mut self, which: usize) {
        if let Some(upstream) = self.all.get_mut(which) {
            upstream.relay = true;
        }
    }

    /// Whether it is one, as far as is known.
    pub fn relays(&self, which: usize) -> bool {
        self.all.get(which).is_some_and(|upstream| upstream.relay)
    }

    /// It could not be pulled from.
    pub fn went(&mut self, which: usize, away: Away) {
        if let Some(upstream) = self.all.get_mut(which) {
            upstream.away = Some(away);
        }
    }

    /// Why it could not be.
    pub fn away(&self, which: usize) -> Option<&Away> {
        self.all.get(which)?.away.as_ref()
    }

    /// It was pulled from: what was wrong with it before.
    pub fn came_back(&mut self, which: usize) -> Option<Away> {
        self.all.get_mut(which)?.away.take()
    }

    /// Every one is tried again at once.
    pub fn hurry(&mut self) {
        self.all.iter_mut().filter_map(|upstream| upstream.away.as_mut()).for_each(|away| away.next = Duration::ZERO);
    }

    /// Which relays are passed over as they are silent.
    pub fn silent(&self) -> impl Iterator<Item = usize> + '_ {
        self.all.iter().enumerate().filter(|(_, upstream)| upstream.relay && upstream.silent).map(|(n, _)| n)
    }

    /// The first one that holds all records up to `need`, and is not known to be away.
    pub fn holder(&self, now: Duration, need: &Point) -> Option<usize> {
        self.all.iter().position(|upstream| {
            let answers = upstream.away.as_ref().is_none_or(|away| away.next <= now);
            answers && (!upstream.relay || upstream.word.as_ref().is_some_and(|word| word.holds(need)))
        })
    }

    /// Why none can be pulled from: what is wrong with the one that comes last.
    pub fn trouble(&self) -> Option<&Away> {
        let lasting = |upstream: &Upstream| upstream.away.is_some() || upstream.relay && upstream.silent;
        self.all.iter().all(lasting).then(|| self.all.iter().rev().find_map(|upstream| upstream.away.as_ref()))?
    }

    /// Where to pull what needs all records up to `need`. `whole`: a comparison of the whole tree,
    /// which waits for relays that compare their own.
    pub fn choose(&mut self, now: Duration, need: &Point, whole: bool) -> Choice {
        let mut due: Option<Duration> = None;
        for (n, upstream) in self.all.iter_mut().enumerate() {
            if let Some(away) = upstream.away.as_ref().filter(|away| away.next > now) {
                due = Some(due.map_or(away.next, |due| due.min(away.next)));
                continue;
            }
            if !upstream.relay || upstream.word.as_ref().is_some_and(|word| word.holds(need)) {
                return Choice::Use(n);
            }
            let comes = upstream
                .word
                .as_ref()
                .is_none_or(|word| !word.by_me && (word.course == Course::Pulls || whole && word.course == Course::Compares));
            if upstream.silent || !comes {
                continue;
            }
            let wish = Wish::at(upstream.wish, now, need);
            let until = upstream.reported.map_or(wish.since, |at| at.max(wish.since)) + SILENT;
            if now < until {
                upstream.wish = Some(wish);
                return Choice::Wait(n, until);
            }
            (upstream.silent, upstream.wish) = (true, None);
        }
        Choice::NoUpstream(due)
    }
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod choice_tests;
