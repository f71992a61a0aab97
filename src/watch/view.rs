//! What is drawn: lines from what is known, and as many of them as fit.

use std::path::Path;
use std::time::Instant;

use bytesize::ByteSize;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::Known;
use crate::status::{Health, Hook, HookState, Mirror, Snapshot, Target, TargetState};
use crate::text::{plural, span};

/// How it is to look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// With colours.
    pub(crate) colour: bool,
}

/// Failures listed for each target.
const FAILURES: usize = 5;

/// How grave a state is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Good,
    Rest,
    Behind,
    Bad,
}

impl Grade {
    fn of(t: &Target) -> Grade {
        match (t.health(), t.state) {
            (Health::Trouble, _) => Grade::Bad,
            (_, TargetState::Probing | TargetState::Fenced) => Grade::Rest,
            (Health::Behind, _) => Grade::Behind,
            (Health::Good, _) => Grade::Good,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Grade::Good => "●",
            Grade::Rest => "○",
            Grade::Behind => "◐",
            Grade::Bad => "▲",
        }
    }

    fn style(self, look: Look) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        match self {
            _ if !look.colour => style,
            Grade::Good => style.fg(Color::Green),
            Grade::Rest => style,
            Grade::Behind => style.fg(Color::Yellow),
            Grade::Bad => style.fg(Color::Red),
        }
    }
}

/// A daemon by its socket, and what is known of it.
pub(crate) type Daemon<'a> = (&'a Path, &'a Known);

/// Draws everything, one daemon after another; gives how far down it really is scrolled.
pub(crate) fn draw(frame: &mut Frame<'_>, daemons: &[Daemon<'_>], look: Look, now: Instant, scroll: u16) -> u16 {
    let [top, middle, bottom] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    let width = usize::from(middle.width);
    let (head, lines) = match *daemons {
        [(socket, known)] => (head(known, socket, look, now, width), body(known, look, now, width)),
        _ => (head_of_all(daemons, look, now, width), bodies(daemons, look, now, width)),
    };
    frame.render_widget(Paragraph::new(head), top);
    let most = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(middle.height);
    let scroll = scroll.min(most);
    let below = most - scroll;
    frame.render_widget(Paragraph::new(lines).scroll((scroll, 0)), middle);
    let keys = match (scroll, below) {
        (0, 0) => "q quit".to_owned(),
        (_, 0) => "q quit   ↑ more above".into(),
        (_, n) => format!("q quit   ↓ {}", plural(n as u64, "more line")),
    };
    frame.render_widget(Paragraph::new(cut(keys, width)).style(Style::new().add_modifier(Modifier::DIM)), bottom);
    scroll
}

/// Whether all is well, in a line, and a line for what is not.
fn head(known: &Known, socket: &Path, look: Look, now: Instant, width: usize) -> Vec<Line<'static>> {
    let Some(s) = &known.snapshot else {
        let message = if known.silence.is_empty() { format!("waiting for {}", socket.display()) } else { known.silence.clone() };
        return vec![Line::from("fansync"), Line::styled(cut(message, width), grave(&known.silence, look))];
    };
    let about = format!("fansync {}  pid {}  up {}", s.version, s.pid, span(s.uptime_seconds.floor()));
    if let Some((since, why)) = known.silent(now) {
        let message = format!("▲ no answer for {} s, trying again: {why}", since.as_secs());
        return vec![Line::from(cut(about, width)), Line::styled(cut(message, width), Grade::Bad.style(look))];
    }
    vec![Line::from(cut(about, width)), verdict(&[s], look, width)]
}

/// The same of several daemons; one that does not answer comes before all else.
fn head_of_all(daemons: &[Daemon<'_>], look: Look, now: Instant, width: usize) -> Vec<Line<'static>> {
    let snapshots: Vec<&Snapshot> = daemons.iter().filter_map(|(_, known)| known.snapshot.as_ref()).collect();
    let about = format!("fansync  {}", plural(daemons.len() as u64, "daemon"));
    let silent = |(socket, known): &Daemon<'_>| {
        let why = known.silent(now).map(|(since, why)| format!("for {} s, trying again: {why}", since.as_secs()));
        let never = || (known.snapshot.is_none() && !known.silence.is_empty()).then(|| format!("yet: {}", known.silence));
        Some(format!("▲ no answer from {} {}", socket.display(), why.or_else(never)?))
    };
    let line = match daemons.iter().find_map(silent) {
        Some(message) => Line::styled(cut(message, width), Grade::Bad.style(look)),
        None if snapshots.len() < daemons.len() => Line::from("waiting for answers"),
        None => verdict(&snapshots, look, width),
    };
    vec![Line::from(cut(about, width)), line]
}

/// How the targets of these are.
fn verdict(snapshots: &[&Snapshot], look: Look, width: usize) -> Line<'static> {
    let targets: Vec<&Target> = snapshots.iter().flat_map(|s| &s.mirrors).flat_map(|m| &m.targets).collect();
    let worst = targets.iter().map(|t| Grade::of(t)).max().unwrap_or(Grade::Rest);
    let named: Vec<&str> = targets.iter().filter(|t| Grade::of(t) == worst).map(|t| t.name.as_str()).collect();
    let count = named.len();
    let lag = targets.iter().map(|t| t.lag_seconds).fold(0.0, f64::max);
    let of = if let [one] = named[..] { one.to_owned() } else { format!("{count} of {} targets", targets.len()) };
    let are = if count == 1 { "is" } else { "are" };
    let message = match worst {
        Grade::Good => format!("{} in sync", worst.sign()),
        Grade::Rest if targets.is_empty() => "no targets".into(),
        Grade::Rest => format!("{} {of} {are} not sent to", worst.sign()),
        Grade::Behind => format!("{} {of} {are} behind, at most {}", worst.sign(), span(lag)),
        Grade::Bad => format!("{} trouble with {of}", worst.sign()),
    };
    Line::styled(cut(message, width), worst.style(look))
}

fn grave(silence: &str, look: Look) -> Style {
    if silence.is_empty() { Style::new() } else { Grade::Bad.style(look) }
}

/// What is known of several daemons, each under its socket.
fn bodies(daemons: &[Daemon<'_>], look: Look, now: Instant, width: usize) -> Vec<Line<'static>> {
    let mut out = Vec::new();
    for (socket, known) in daemons {
        let [about, verdict] = <[Line<'_>; 2]>::try_from(head(known, socket, look, now, width)).unwrap_or_default();
        let about = format!("── {}  {about}", socket.display());
        out.extend([Line::default(), Line::styled(cut(about, width), Style::new().add_modifier(Modifier::BOLD)), verdict]);
        out.extend(body(known, look, now, width));
    }
    out
}

fn body(known: &Known, look: Look, now: Instant, width: usize) -> Vec<Line<'static>> {
    let Some(s) = &known.snapshot else { return Vec::new() };
    let mut out = Vec::new();
    for m in &s.mirrors {
        out.push(Line::default());
        mirror(m, known, look, width, &mut out);
        for t in &m.targets {
            target(m, t, known, look, width, &mut out);
        }
        for h in &m.hooks {
            hook(h, look, width, &mut out);
        }
    }
    let batches: Vec<_> = known.rates.batches().take(8).collect();
    if !batches.is_empty() {
        out.push(Line::default());
        out.push(Line::styled("last batches", Style::new().add_modifier(Modifier::BOLD)));
        out.extend(batches.iter().map(|b| Line::from(cut(format!("  {}: {}", b.target, b.summary), width))));
    }
    let stale = if known.silent(now).is_some() { Modifier::DIM } else { Modifier::empty() };
    out.into_iter().map(|line| line.patch_style(Style::new().add_modifier(stale))).collect()
}

fn mirror(m: &Mirror, known: &Known, look: Look, width: usize, out: &mut Vec<Line<'static>>) {
    let events = match known.rates.events(&m.name) {
        Some(rate) => format!("{rate:.0} events/s"),
        None => plural(m.events, "event"),
    };
    out.push(Line::styled(cut(format!("{}  {events}  {}", m.name, m.source), width), Style::new().add_modifier(Modifier::BOLD)));
    if let Some(p) = &m.start.progress {
        out.extend(wrapped("  ", &format!("{}: {}", p.what, p.figures()), Style::new(), width));
    }
    if !m.held.is_empty() {
        out.extend(wrapped("  HELD ", &m.held, Grade::Bad.style(look), width));
    }
}

fn target(m: &Mirror, t: &Target, known: &Known, look: Look, width: usize, out: &mut Vec<Line<'static>>) {
    let grade = Grade::of(t);
    let lag = match t.leaving() {
        _ if t.lag_seconds > 0.0 => format!("{} behind", span(t.lag_seconds)),
        Some(leaving) => leaving,
        None if t.waits_its_delay() => "sending".into(),
        None => "in sync".into(),
    };
    let queue = format!("{} pending, {} in flight", t.pending, t.in_flight);
    let rate = known.rates.bytes(&m.name, &t.name).filter(|r| *r > 0.0);
    let rate = rate.map(|r| format!("  {}/s", ByteSize(r as u64))).unwrap_or_default();
    let message = format!("  {} {:<12} {:<8} ", grade.sign(), t.name, t.state);
    let rest = format!("{lag}  {queue}{rate}");
    // On a narrow terminal the queue goes below.
    if message.chars().count() + rest.chars().count() <= width {
        out.push(Line::from(vec![Span::styled(message, grade.style(look)), Span::raw(rest)]));
    } else {
        out.push(Line::styled(cut(format!("{message}{lag}"), width), grade.style(look)));
        out.push(Line::from(cut(format!("    {queue}{rate}"), width)));
    }
    if !t.reason.is_empty() {
        let next = if t.retry_seconds > 0.0 { format!(" (next try in {})", span(t.retry_seconds)) } else { String::new() };
        out.extend(wrapped("    ", &format!("{}{next}", t.reason), Style::new(), width));
    }
    let verify = t.verify.iter().filter_map(|v| v.progress.as_ref());
    if !t.advice.is_empty() {
        out.extend(wrapped("    ", &t.advice, Style::new().add_modifier(Modifier::DIM), width));
    }
    for p in t.reconcile.iter().chain(&t.passes).chain(verify) {
        out.extend(wrapped("    ", &format!("{}: {}", p.what, p.figures()), Style::new(), width));
    }
    if !t.held_reason.is_empty() && t.held_reason != t.reason {
        out.extend(wrapped("    HELD ", &t.held_reason, Grade::Bad.style(look), width));
    }
    for f in t.failures.iter().take(FAILURES) {
        out.extend(wrapped("    FAILED ", &format!("{}: {}", f.path, f.reason), Grade::Bad.style(look), width));
    }
    let more = t.failures.len().saturating_sub(FAILURES) as u64 + t.failures_more;
    if more > 0 {
        out.push(Line::styled(cut(format!("    FAILED and {more} more"), width), Grade::Bad.style(look)));
    }
}

fn hook(h: &Hook, look: Look, width: usize, out: &mut Vec<Line<'static>>) {
    let lost = h.dropped + h.failed;
    let grade = if h.state == HookState::Retrying || lost > 0 { Grade::Bad } else { Grade::Rest };
    let lost = if lost > 0 { format!(", {lost} LOST") } else { String::new() };
    let message =
        format!("  {} hook {}  {}: {} delivered, {} pending{lost}", grade.sign(), h.name, h.state, h.delivered, h.pending);
    out.push(Line::styled(cut(message, width), if grade == Grade::Bad { grade.style(look) } else { Style::new() }));
    if !h.reason.is_empty() {
        out.extend(wrapped("    ", &h.reason, Style::new(), width));
    }
}

/// At most three lines of `text`, the first behind `label`, the others below it, broken between
/// words where there are any.
fn wrapped(label: &str, text: &str, style: Style, width: usize) -> Vec<Line<'static>> {
    let indent = label.chars().count();
    let room = width.saturating_sub(indent).max(1);
    let mut rest: &[char] = &text.chars().collect::<Vec<_>>();
    let mut out = Vec::new();
    while out.len() < 3 && (!rest.is_empty() || out.is_empty()) {
        let fits = if rest.len() <= room || out.len() == 2 {
            rest.len()
        } else {
            let space = rest[..=room].iter().rposition(|c| *c == ' ');
            space.filter(|at| *at > room / 2).unwrap_or(room)
        };
        let before = if out.is_empty() { label.to_owned() } else { " ".repeat(indent) };
        let line: String = rest[..fits].iter().collect();
        out.push(Line::styled(cut(format!("{before}{line}"), width), style));
        rest = rest[fits..].strip_prefix(&[' ']).unwrap_or(&rest[fits..]);
    }
    out
}

/// As much as fits, with a sign that there was more.
fn cut(text: String, width: usize) -> String {
    if text.chars().count() <= width {
        return text;
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}
