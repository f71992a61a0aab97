//! Screens as ratatui's test backend has them, without a terminal.

use std::path::Path;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::*;
use crate::status::tests::snapshot;
use crate::status::{Failure, TargetState};

const COLOUR: Look = Look { colour: true };

fn terminal(known: &Known, size: (u16, u16), look: Look, scroll: u16) -> (Terminal<TestBackend>, u16) {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    let mut at = 0;
    let later = Duration::from_secs(if known.silence.is_empty() { 1 } else { 7 });
    let now = known.received.map_or_else(Instant::now, |received| received + later);
    terminal.draw(|frame| at = view::draw(frame, &[(Path::new("/run/x.sock"), known)], look, now, scroll)).unwrap();
    (terminal, at)
}

fn screen(known: &Known, size: (u16, u16)) -> Vec<String> {
    let (terminal, _) = terminal(known, size, COLOUR, 0);
    let buffer = terminal.backend().buffer();
    let row = |y| (0..size.0).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..size.1).map(row).collect()
}

#[track_caller]
fn has(screen: &[String], want: &str) {
    assert!(screen.iter().any(|line| line.contains(want)), "{want:?} is not on\n{}", screen.join("\n"));
}

fn known(change: impl FnOnce(&mut Snapshot)) -> Known {
    let mut s = snapshot();
    change(&mut s);
    let mut known = Known::default();
    known.take(Ok(s), Instant::now());
    known
}

fn well(s: &mut Snapshot) {
    let t = &mut s.mirrors[0].targets[0];
    t.failures.clear();
    t.reason.clear();
    (t.state, t.lag_seconds, t.retry_seconds, t.pending) = (TargetState::Idle, 0.0, 0.0, 0);
    s.mirrors[0].hooks.clear();
}

#[test]
fn the_second_line_says_how_things_are() {
    let behind = |s: &mut Snapshot| {
        well(s);
        let t = &mut s.mirrors[0].targets[0];
        (t.state, t.lag_seconds, t.pending) = (TargetState::Syncing, 12.0, 40);
    };
    let paused = |s: &mut Snapshot| {
        behind(s);
        s.mirrors[0].targets[0].state = TargetState::Paused;
    };
    for (known, second) in [
        (known(well), "● in sync"),
        (known(behind), "◐ backup is behind, at most 12.0s"),
        (known(paused), "◐ backup is behind, at most 12.0s"),
        (known(|_| {}), "▲ trouble with backup"),
        (known(|s| s.mirrors.clear()), "no targets"),
    ] {
        assert_eq!(screen(&known, (80, 24))[1], second);
    }
}

#[test]
fn a_terminal_of_80_by_24_holds_what_counts() {
    let shown = screen(&known(|_| {}), (80, 24));
    for want in [
        "fansync 1  pid 1  up 0ms",
        "data  1 event  /data",
        "▲ backup       down     1m 15s behind  3 pending, 0 in flight",
        "connection refused (next try in 4.0s)",
        "FAILED a\\x0a: denied",
        "▲ hook purge  retrying: 0 delivered, 0 pending, 7 LOST",
        "q quit",
    ] {
        has(&shown, want);
    }
}

#[test]
fn a_narrow_terminal_breaks_nothing() {
    for size in [(40, 24), (20, 10), (10, 4), (1, 1), (200, 3)] {
        let known = known(|s| s.mirrors[0].targets[0].reason = "a long reason ".repeat(30));
        let shown = screen(&known, size);
        assert_eq!(shown.len(), usize::from(size.1));
    }
    let shown = screen(&known(|_| {}), (40, 24));
    has(&shown, "▲ backup       down     1m 15s behind");
    has(&shown, "    3 pending, 0 in flight");
}

#[test]
fn reasons_are_broken_between_words_and_end_somewhere() {
    let reason = |text: &str| {
        let known = known(|s| s.mirrors[0].targets[0].reason = text.into());
        let shown = screen(&known, (40, 24));
        let at = shown.iter().position(|line| line.contains("pending")).unwrap();
        shown[at + 1..at + 4].to_vec()
    };
    let shown = reason("failed to connect to 127.0.0.1: Connection refused");
    assert_eq!(shown, ["    failed to connect to 127.0.0.1:", "    Connection refused (next try in", "    4.0s)"]);
    let shown = reason(&"x".repeat(300));
    assert!(shown.iter().all(|line| line.chars().count() == 40) && shown[2].ends_with('…'), "{shown:?}");
}

#[test]
fn more_than_fits_can_be_scrolled_to() {
    let known = known(|s| {
        let failure = Failure { path: "p".into(), reason: "r".into(), tries: 1, retry_seconds: 1.0 };
        let target = s.mirrors[0].targets[0].clone();
        s.mirrors[0].targets = (0..30).map(|n| crate::status::Target { name: format!("t{n}"), ..target.clone() }).collect();
        s.mirrors[0].targets[29].failures = vec![failure; 9];
    });
    let shown = screen(&known, (80, 24));
    has(&shown, "more lines");
    let (terminal, at) = terminal(&known, (80, 24), COLOUR, u16::MAX);
    assert!(at > 0 && at < u16::MAX, "scrolled to {at}");
    let text = terminal.backend().to_string();
    assert!(text.contains("more above") && text.contains("FAILED and 4 more"), "{text}");
}

#[test]
fn several_daemons_come_in_turn() {
    let (one, mut other) = (known(well), known(|s| s.mirrors[0].name = "mail".into()));
    let all = |other: &Known, later: u64| {
        let mut terminal = Terminal::new(TestBackend::new(80, 40)).unwrap();
        let daemons = [(Path::new("/run/status.sock"), &one), (Path::new("/run/mail.sock"), other)];
        let now = one.received.unwrap() + Duration::from_secs(later);
        terminal.draw(|frame| _ = view::draw(frame, &daemons, COLOUR, now, 0)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        (0..40).map(|y| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned()).collect::<Vec<_>>()
    };
    let shown = all(&other, 1);
    assert_eq!((shown[0].as_str(), shown[1].as_str()), ("fansync  2 daemons", "▲ trouble with backup"));
    let at = |start: &str| shown.iter().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{shown:#?}"));
    let (first, second) = (at("── /run/status.sock  fansync 1  pid 1"), at("── /run/mail.sock  fansync 1  pid 1"));
    assert!(first < second, "{shown:#?}");
    assert_eq!((shown[first + 1].as_str(), shown[second + 1].as_str()), ("● in sync", "▲ trouble with backup"));
    assert!(shown[first..second].iter().any(|line| line.contains("data")) && shown[second..].iter().any(|l| l.contains("mail")));
    other.take(Err("cannot reach it".into()), Instant::now());
    let second = all(&other, 3).swap_remove(1);
    assert!(second.starts_with("▲ no answer from /run/mail.sock for ") && second.contains("trying again: cannot"), "{second}");
    let never = Known::default();
    assert_eq!(all(&never, 1)[1], "waiting for answers");
    let mut refused = Known::default();
    refused.take(Err("cannot reach it".into()), Instant::now());
    assert_eq!(all(&refused, 1)[1], "▲ no answer from /run/mail.sock yet: cannot reach it");
}

#[test]
fn a_daemon_that_goes_away_is_told_and_what_it_said_stays() {
    let mut known = known(well);
    known.take(Err("cannot reach a fansync daemon on /run/x.sock".into()), Instant::now());
    let shown = screen(&known, (80, 24));
    assert!(shown[1].starts_with("▲ no answer for 7 s, trying again: cannot reach"), "{}", shown[1]);
    has(&shown, "backup");
    known.take(Ok(snapshot()), Instant::now());
    assert_eq!(screen(&known, (80, 24))[1], "▲ trouble with backup");
    let received = known.received.unwrap();
    assert!(known.silent(received + Duration::from_secs(2)).is_none());
    assert!(known.silent(received + Duration::from_secs(30)).is_some(), "the request itself waits");
    let mut never = Known::default();
    has(&screen(&never, (80, 24)), "waiting for /run/x.sock");
    never.take(Err("cannot reach".into()), Instant::now());
    has(&screen(&never, (80, 24)), "cannot reach");
}

#[test]
fn colour_only_where_it_is_wanted() {
    let colours = |look| {
        let (terminal, _) = terminal(&known(|_| {}), (80, 24), look, 0);
        let cells = terminal.backend().buffer().content().to_vec();
        cells.iter().filter(|c| c.fg != Color::Reset || c.bg != Color::Reset).count()
    };
    assert!(colours(COLOUR) > 0);
    assert_eq!(colours(Look { colour: false }), 0);
}

#[test]
fn keys() {
    let key = |code| pressed(KeyEvent::new(code, KeyModifiers::NONE));
    assert_eq!(key(KeyCode::Char('q')), Some(Pressed::Quit));
    assert_eq!(pressed(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Some(Pressed::Quit));
    assert_eq!((key(KeyCode::Char('c')), key(KeyCode::Down)), (None, Some(Pressed::Scroll(1))));
}
