//! Random histories of relays that report, fall silent, are away and come back, against a model
//! that keeps the whole history and decides from that alone.

use super::*;

const SOURCE: usize = 3;

fn at(sequence: u64) -> Point {
    Point { stream: 1, incarnation: 7, number: sequence, sequence }
}

fn word(sequence: u64) -> Word {
    Word { at: Some((7, sequence)), course: Course::Pulls, by_me: false, unix: 0.0 }
}

fn away(next: Duration) -> Away {
    Away { config: false, why: "no answer".into(), tries: 1, next }
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_relay_is_waited_for_until_it_has_been_silent() {
    let mut all = Upstreams::new(2);
    assert_eq!(all.choose(secs(10), &at(5), false), Choice::Wait(0, secs(13)), "unknown");
    all.word(secs(11), 0, word(0), true);
    assert_eq!(all.choose(secs(11), &at(5), false), Choice::Wait(0, secs(14)), "it holds nothing, and says so");
    all.word(secs(12), 0, word(5), true);
    assert_eq!(all.choose(secs(12), &at(5), false), Choice::Use(0));
    assert_eq!(all.choose(secs(90), &at(6), false), Choice::Wait(0, secs(93)), "an idle one need not report");
    assert_eq!(all.choose(secs(93), &at(6), false), Choice::Use(1));
    assert_eq!((all.choose(secs(94), &at(7), false), all.silent().count()), (Choice::Use(1), 1), "passed over once and for all");
    assert_eq!(all.choose(secs(94), &at(5), false), Choice::Use(0), "what it held it holds");
    all.word(secs(95), 0, word(5), true);
    assert_eq!(all.choose(secs(95), &at(7), false), Choice::Wait(0, secs(98)), "it is back");
}

#[test]
fn who_stands_or_compares_is_not_waited_for() {
    for (course, whole, waits) in [
        (Course::Pulls, false, true),
        (Course::Pulls, true, true),
        (Course::Compares, false, false),
        (Course::Compares, true, true),
        (Course::Stands, false, false),
        (Course::Stands, true, false),
    ] {
        let mut all = Upstreams::new(2);
        all.word(secs(1), 0, Word { at: None, course, ..word(0) }, true);
        assert_eq!(all.choose(secs(1), &at(5), whole) != Choice::Use(1), waits, "{course:?} {whole}");
    }
    let mut all = Upstreams::new(2);
    all.word(secs(1), 0, Word { by_me: true, ..word(4) }, true);
    assert_eq!(all.choose(secs(1), &at(5), false), Choice::Use(1), "it waits for this one");
    assert_eq!(all.choose(secs(1), &at(4), false), Choice::Use(0));
    let other = Word { at: Some((8, 9)), ..word(0) };
    all.word(secs(2), 0, other, true);
    assert!(matches!(all.choose(secs(2), &at(4), false), Choice::Wait(0, _)), "another incarnation says nothing of this one");
}

#[test]
fn what_the_servers_kept_is_no_sign_of_life() {
    let mut all = Upstreams::new(2);
    all.word(secs(1), 0, Word { unix: 5.0, ..word(5) }, false);
    assert_eq!(all.choose(secs(1), &at(5), false), Choice::Use(0));
    all.choose(secs(1), &at(6), false);
    assert_eq!(all.choose(secs(4), &at(6), false), Choice::Use(1));
    all.word(secs(5), 0, Word { unix: 6.0, ..word(5) }, false);
    assert_eq!(all.choose(secs(5), &at(6), false), Choice::Use(1), "it is silent still");
    all.word(secs(5), 0, Word { unix: 5.5, ..word(9) }, false);
    assert_eq!(all.choose(secs(5), &at(6), false), Choice::Use(1), "older than what is known");
    all.word(secs(6), 0, Word { unix: 1.0, ..word(6) }, true);
    assert_eq!(all.choose(secs(6), &at(6), false), Choice::Use(0));
}

#[test]
fn what_is_away_is_tried_again_and_the_last_one_is_the_source() {
    let mut all = Upstreams::new(2);
    all.word(secs(1), 0, word(5), true);
    all.went(0, away(secs(9)));
    assert_eq!(all.choose(secs(2), &at(5), false), Choice::Use(1));
    assert!(all.trouble().is_none(), "the source answers");
    all.went(1, away(secs(7)));
    assert_eq!(all.choose(secs(2), &at(5), false), Choice::NoUpstream(Some(secs(7))));
    assert!(all.trouble().is_some());
    assert_eq!(all.choose(secs(8), &at(5), false), Choice::Use(1));
    assert_eq!(all.choose(secs(9), &at(5), false), Choice::Use(0));
    assert!(all.came_back(0).is_some() && all.trouble().is_none());
    // The one that comes last turns out to be a relay.
    let mut all = Upstreams::new(1);
    assert_eq!(all.choose(secs(1), &at(1), false), Choice::Use(0));
    all.is_a_relay(0);
    assert!(matches!(all.choose(secs(1), &at(1), false), Choice::Wait(0, _)));
    assert_eq!((all.choose(secs(4), &at(1), false), all.trouble()), (Choice::NoUpstream(None), None));
}

/// All that has happened, by time.
#[derive(Clone, Debug)]
enum Event {
    Word(usize, Word),
    Away(usize, Duration),
    Back(usize),
    /// What was to be pulled, and what was done about it.
    Asked(Point, bool, Choice),
}

/// What the promises say of one upstream at `now`, from the history alone.
#[derive(Debug, PartialEq)]
enum Says {
    Use,
    Wait(Duration),
    Next,
}

fn model(history: &[(Duration, Event)], now: Duration, which: usize, need: &Point, whole: bool) -> Says {
    let mut next_try = Duration::ZERO;
    let mut last: Option<(Duration, &Word)> = None;
    for (when, event) in history {
        match event {
            Event::Word(from, word) if *from == which => last = Some((*when, word)),
            Event::Away(from, next) if *from == which => next_try = *next,
            Event::Back(from) if *from == which => next_try = Duration::ZERO,
            _ => {}
        }
    }
    if next_try > now {
        return Says::Next;
    }
    if which == SOURCE || last.is_some_and(|(_, word)| holds(word, need)) {
        return Says::Use;
    }
    if last.is_some_and(|(_, word)| !comes(word, whole)) {
        return Says::Next;
    }
    // The wait that goes on, as (what for, since, asked last), and whether one was in vain since
    // the last report.
    let (mut wait, mut silent, mut away_until): (Option<(Point, Duration, Duration)>, _, _) = (None, false, Duration::ZERO);
    let (mut reported, mut last): (Option<Duration>, Option<&Word>) = (None, None);
    for (when, event) in history {
        match event {
            Event::Word(from, word) if *from == which => {
                (reported, last, silent) = (Some(*when), Some(word), false);
                wait = wait.filter(|(need, ..)| !holds(word, need));
            }
            Event::Away(from, next) if *from == which => away_until = *next,
            Event::Back(from) if *from == which => away_until = Duration::ZERO,
            Event::Asked(need, whole, choice) => {
                let place = match choice {
                    Choice::Use(n) | Choice::Wait(n, _) => *n,
                    Choice::NoUpstream(_) => usize::MAX,
                };
                let counts = away_until <= *when && last.is_none_or(|word| !holds(word, need) && comes(word, *whole));
                if place == which && matches!(choice, Choice::Wait(..)) {
                    wait = Some(match wait.filter(|(.., asked)| *when <= *asked + 2 * SILENT) {
                        Some((other, since, _)) if other.sequence >= need.sequence => (other, since, *when),
                        Some((_, since, _)) => (*need, since, *when),
                        None => (*need, *when, *when),
                    });
                } else if place > which && counts && !silent {
                    // That it was passed over was judged then.
                    (silent, wait) = (true, None);
                }
            }
            _ => {}
        }
    }
    let since = wait.filter(|(.., asked)| now <= *asked + 2 * SILENT).map_or(now, |(_, since, _)| since);
    let until = reported.map_or(since, |reported| reported.max(since)) + SILENT;
    if !silent && now < until { Says::Wait(until) } else { Says::Next }
}

fn holds(word: &Word, need: &Point) -> bool {
    word.at.is_some_and(|(incarnation, sequence)| incarnation == need.incarnation && sequence >= need.sequence)
}

fn comes(word: &Word, whole: bool) -> bool {
    !word.by_me && (word.course == Course::Pulls || word.course == Course::Compares && whole)
}

#[test]
fn any_history_is_decided_as_the_promises_say() {
    let (mut used, mut waited, mut passed, mut sourced) = (0, 0, 0, 0);
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut all, mut history, mut now, mut end) = (Upstreams::new(SOURCE + 1), Vec::new(), secs(1), 0);
        for step in 0..120 {
            now += Duration::from_millis(random.u64(..700));
            let which = random.usize(..SOURCE);
            match random.u8(..10) {
                0..3 => {
                    let at = (random.u8(..8) > 0).then(|| (7, end - random.u64(..=end.min(2))));
                    let course = [Course::Pulls, Course::Pulls, Course::Compares, Course::Stands][random.usize(..4)];
                    let word = Word { at, course, by_me: random.u8(..9) == 0, unix: now.as_secs_f64() };
                    all.word(now, which, word.clone(), true);
                    history.push((now, Event::Word(which, word)));
                }
                3 => {
                    let (which, next) = (random.usize(..=SOURCE), now + Duration::from_millis(random.u64(..2_000)));
                    all.went(which, away(next));
                    history.push((now, Event::Away(which, next)));
                }
                4 => {
                    all.came_back(which);
                    history.push((now, Event::Back(which)));
                }
                _ => {
                    end += random.u64(..2);
                    let (need, whole) = (at(end), random.u8(..4) == 0);
                    let choice = all.choose(now, &need, whole);
                    let place = match choice {
                        Choice::Use(n) | Choice::Wait(n, _) => n,
                        Choice::NoUpstream(_) => SOURCE + 1,
                    };
                    for n in 0..place {
                        let says = model(&history, now, n, &need, whole);
                        assert_eq!(says, Says::Next, "seed {seed}, step {step}: {n} was passed over; {choice:?}");
                        passed += 1;
                    }
                    match choice {
                        Choice::Use(n) => {
                            assert_eq!(model(&history, now, n, &need, whole), Says::Use, "seed {seed}, step {step}: {n}");
                            used += 1;
                            sourced += usize::from(n == SOURCE);
                        }
                        Choice::Wait(n, until) => {
                            let says = model(&history, now, n, &need, whole);
                            assert_eq!(says, Says::Wait(until), "seed {seed}, step {step}: {n}");
                            waited += 1;
                        }
                        Choice::NoUpstream(_) => {}
                    }
                    history.push((now, Event::Asked(need, whole, choice)));
                }
            }
        }
        // Whatever happened: all relays fall silent, and the source is reached.
        all.came_back(SOURCE);
        let reached = (0..=SOURCE).any(|_| {
            now += SILENT;
            matches!(all.choose(now, &at(end + 1), false), Choice::Use(SOURCE))
        });
        assert!(reached, "seed {seed}: no upstream is pulled from");
    }
    let counts = [used, waited, passed, sourced];
    assert!(counts.iter().all(|count| *count > 1_000), "the histories are too poor: {counts:?}");
}
