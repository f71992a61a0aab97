//! `fansync status --watch`: the status on a terminal, in place.
//!
//! A thread for each daemon asks it every `EVERY` and hands over the reply; the terminal's thread draws,
//! and listens to keys and to changes of size. So a daemon that does not answer blocks no key. What
//! is drawn is a pure function of the last answers (`view`), tested without a terminal.
//!
//! Colours follow the terminal's own palette, and there are none with `NO_COLOR`
//! (<https://no-color.org>); each state has a sign of its own besides. The terminal is put back on
//! every way out: keys, SIGTERM, a panic. When it is gone itself, so is this.

mod rates;
mod view;

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::SIGTERM;

use crate::control::{self, Reply, Request};
use crate::exit::ExitCode;
use crate::status::Snapshot;
use rates::Rates;
pub(crate) use view::Look;

/// Between two questions to the daemon.
const EVERY: Duration = Duration::from_secs(1);
/// How long an answer may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at what the other thread brought; a key is seen at once.
const GLANCE: Duration = Duration::from_millis(100);

/// It cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// There is nothing to draw on.
    #[error("--watch draws on a terminal, and standard output is none; for a script there is `fansync status --json`")]
    NoTerminal,
    /// It does not follow orders.
    #[error("cannot draw on the terminal")]
    Terminal(#[from] io::Error),
}

impl WatchError {
    /// What the process leaves with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            WatchError::NoTerminal => ExitCode::Usage,
            WatchError::Terminal(_) => ExitCode::Unavailable,
        }
    }
}

/// What is known, and since when.
#[derive(Default)]
pub(crate) struct Known {
    /// The last answer.
    pub(crate) snapshot: Option<Snapshot>,
    /// When it came; of the monotonic clock.
    pub(crate) received: Option<Instant>,
    /// Why the last request has no answer; empty when it has.
    pub(crate) silence: String,
    /// Changes in the last seconds.
    pub(crate) rates: Rates,
}

impl Known {
    /// For how long there has been no answer, and why; `None` while there are answers, and before
    /// the first one.
    pub(crate) fn silent(&self, now: Instant) -> Option<(Duration, &str)> {
        let age = now.saturating_duration_since(self.received?);
        match self.silence.as_str() {
            "" if age > PATIENCE => Some((age, "it has not answered yet")),
            "" => None,
            why => Some((age, why)),
        }
    }

    /// Takes in an answer, or why there is none.
    pub(crate) fn take(&mut self, answer: Result<Snapshot, String>, now: Instant) {
        match answer {
            Ok(snapshot) => {
                self.rates.take(&snapshot);
                (self.snapshot, self.received) = (Some(snapshot), Some(now));
                self.silence.clear();
            }
            Err(why) => self.silence = why,
        }
    }
}

/// Shows the daemons at `sockets`, in turn, until the user presses `q`.
///
/// # Errors
/// See [`WatchError`]. A daemon that does not answer is none: that is shown, and the next request
/// follows.
pub(crate) fn run(sockets: &[PathBuf]) -> Result<(), WatchError> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(WatchError::NoTerminal);
    }
    let (sender, answers) = bounded(1);
    for (n, socket) in sockets.iter().cloned().enumerate() {
        let sender = sender.clone();
        std::thread::Builder::new().name("fansync-ask".into()).spawn(move || ask_on(n, &socket, &sender))?;
    }
    let look = Look { colour: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) };
    let ended = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, Arc::clone(&ended))?;
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &answers, sockets, look, &ended);
    ratatui::try_restore()?;
    Ok(shown?)
}

/// What the daemon of this number answered, or why it did not.
type Answer = (usize, Result<Snapshot, String>);

/// Sends requests for ever; ends when there is no reader.
fn ask_on(number: usize, socket: &Path, sender: &Sender<Answer>) {
    loop {
        let begun = Instant::now();
        let answer = match control::ask(socket, &Request::Status, PATIENCE) {
            Ok(Reply::Status(snapshot)) => Ok(*snapshot),
            Ok(Reply::Error { message }) => Err(message),
            Ok(_) => Err("the daemon gave no proper answer".into()),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
                Err(format!("{error}{cause}"))
            }
        };
        if sender.send((number, answer)).is_err() {
            return;
        }
        std::thread::sleep(EVERY.saturating_sub(begun.elapsed()));
    }
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    answers: &Receiver<Answer>,
    sockets: &[PathBuf],
    look: Look,
    ended: &AtomicBool,
) -> io::Result<()> {
    let mut known: Vec<Known> = sockets.iter().map(|_| Known::default()).collect();
    let mut scroll = 0;
    let mut dirty = true;
    let mut drawn = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        while let Ok((number, answer)) = answers.try_recv() {
            known[number].take(answer, Instant::now());
            dirty = true;
        }
        if dirty || drawn.elapsed() >= EVERY {
            let all: Vec<_> = sockets.iter().map(PathBuf::as_path).zip(&known).collect();
            terminal.draw(|frame| scroll = view::draw(frame, &all, look, Instant::now(), scroll))?;
            (dirty, drawn) = (false, Instant::now());
        }
        if hung_up(GLANCE)? {
            return Ok(());
        }
        if !event::poll(Duration::ZERO)? {
            continue;
        }
        dirty = true;
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => match pressed(key) {
                Some(Pressed::Quit) => return Ok(()),
                Some(Pressed::Scroll(by)) => scroll = scroll.saturating_add_signed(by),
                None => {}
            },
            _ => {}
        }
    }
    Ok(())
}

/// Waits for a key, a signal or the time; whether the terminal is gone. crossterm 0.29 would read
/// its end for ever.
fn hung_up(wait: Duration) -> io::Result<bool> {
    let stdin = io::stdin();
    let mut keys = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    match poll(&mut keys, PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(keys[0].revents().is_some_and(|got| got.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL)))
}

#[derive(Debug, PartialEq, Eq)]
enum Pressed {
    Quit,
    Scroll(i16),
}

fn pressed(key: KeyEvent) -> Option<Pressed> {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Some(Pressed::Quit),
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Pressed::Quit),
        KeyCode::Up | KeyCode::Char('k') => Some(Pressed::Scroll(-1)),
        KeyCode::Down | KeyCode::Char('j') => Some(Pressed::Scroll(1)),
        KeyCode::PageUp => Some(Pressed::Scroll(-10)),
        KeyCode::PageDown | KeyCode::Char(' ') => Some(Pressed::Scroll(10)),
        KeyCode::Home | KeyCode::Char('g') => Some(Pressed::Scroll(i16::MIN)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
