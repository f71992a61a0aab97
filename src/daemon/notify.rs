//! Messages to the service manager, by the protocol of sd_notify(3): ready, reloading, stopping,
//! status, watchdog, more time.
//!
//! One thread sends them, and only where there is a `NOTIFY_SOCKET`. At each beat it rings every
//! engine, and pings only if each has turned since the last ping. So an engine that hangs ends the
//! pings, whatever the other threads do; one that sleeps is woken by the ring, for a turn without
//! work. A turn in which inotify watches are set on a large tree takes minutes; it counts its steps
//! as turns.
//!
//! More time for a start or a reload is requested while the process uses processor time: setting a
//! million watches does, waiting for a disk or a server that does not answer does not.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use nix::time::{ClockId, clock_gettime};
use sd_notify::NotifyState;

use super::summary;
use crate::engine::{Command, Engines, Handle};

/// How often the status line is checked.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// Beats in the time after which the service manager takes the daemon for hung;
/// sd_watchdog_enabled(3) advises two.
const BEATS: u32 = 4;
const BEAT_MIN: Duration = Duration::from_millis(10);
/// How often more time is requested, how much, and the least processor time since then that counts
/// as getting on.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(30);
const EXTEND_FOR: Duration = Duration::from_millis(5);
/// How long the engines may take to return their status.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the daemon is about to do, or has done.
enum Word {
    Ready,
    Reloading,
    Stopping(Duration),
}

/// The way to the service manager. Where there is none, nothing is done.
pub(super) struct Manager(Option<mpsc::Sender<Word>>);

impl Manager {
    /// The daemon starts. `engines`: those that have to turn, as soon as there are any.
    pub(super) fn start(engines: &Engines) -> Manager {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Manager(None);
        }
        let (words, messages) = mpsc::channel();
        let speaker = Speaker::new(engines.clone());
        let thread = std::thread::Builder::new().name("fansync-notify".into()).spawn(move || speaker.run(&messages));
        if let Err(error) = thread {
            tracing::error!(%error, "no messages go to the service manager: its thread cannot be started");
        }
        Manager(Some(words))
    }

    fn say(&self, word: Word) {
        if let Some(words) = &self.0 {
            let _ = words.send(word);
        }
    }

    /// Everything is watched.
    pub(super) fn ready(&self) {
        self.say(Word::Ready);
    }

    /// The configuration is read again.
    pub(super) fn reloading(&self) {
        self.say(Word::Reloading);
    }

    /// That is over, well or not.
    pub(super) fn reloaded(&self) {
        self.say(Word::Ready);
    }

    /// The end begins and takes at most `patience`.
    pub(super) fn stopping(&self, patience: Duration) {
        self.say(Word::Stopping(patience));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Starting or reloading.
    Busy,
    Running,
    Stopping,
}

struct Speaker {
    engines: Engines,
    phase: Phase,
    beat: Duration,
    watchdog: bool,
    /// Each engine's turns at the last ping.
    turns: Vec<(String, u64)>,
    line: String,
    next_line: Instant,
    more: MoreTime,
}

impl Speaker {
    fn new(engines: Engines) -> Speaker {
        let watchdog = sd_notify::watchdog_enabled();
        let now = Instant::now();
        Speaker {
            engines,
            phase: Phase::Busy,
            beat: watchdog.map_or(STATUS_EVERY, |time| (time / BEATS).clamp(BEAT_MIN, STATUS_EVERY)),
            watchdog: watchdog.is_some(),
            turns: Vec::new(),
            line: String::new(),
            next_line: now,
            more: MoreTime { next: now + EXTEND_EVERY, used: used() },
        }
    }

    fn run(mut self, words: &mpsc::Receiver<Word>) {
        self.show();
        loop {
            match words.recv_timeout(self.beat) {
                Ok(word) => self.take(word),
                Err(RecvTimeoutError::Timeout) => self.pulse(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, word: Word) {
        match word {
            Word::Ready => {
                self.phase = Phase::Running;
                send(&[NotifyState::Ready]);
            }
            Word::Reloading => {
                self.phase = Phase::Busy;
                // Both in one message, or systemd 253 and later takes the reload for failed.
                let now = NotifyState::monotonic_usec_now();
                send(&[Some(NotifyState::Reloading), now.ok()].into_iter().flatten().collect::<Vec<_>>());
            }
            Word::Stopping(patience) => {
                self.phase = Phase::Stopping;
                send(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros(patience))]);
            }
        }
        self.show();
    }

    fn pulse(&mut self) {
        let engines = self.engines.all();
        let mut turned = self.turned(&engines);
        engines.iter().for_each(|e| e.wake.wake());
        if self.phase == Phase::Busy && self.more.is_due(Instant::now(), used()) {
            send(&[NotifyState::ExtendTimeoutUsec(micros(EXTEND_BY))]);
            turned = true; // an engine that a reload replaces sets its marks
        }
        if turned && self.watchdog {
            send(&[NotifyState::Watchdog]);
        }
        if Instant::now() >= self.next_line {
            self.show();
        }
    }

    /// Whether each engine has turned since this last returned true.
    fn turned(&mut self, engines: &[Handle]) -> bool {
        let now: Vec<(String, u64)> = engines.iter().map(|e| (e.mirror.clone(), e.turns.load(Ordering::Relaxed))).collect();
        let turned = now.iter().all(|engine| !self.turns.contains(engine));
        if turned {
            self.turns = now;
        }
        turned
    }

    /// Sends the status line, if it is another than before.
    fn show(&mut self) {
        self.next_line = Instant::now() + STATUS_EVERY;
        let line = match self.phase {
            Phase::Stopping => "stopping".into(),
            Phase::Busy if self.engines.all().is_empty() => "starting".into(),
            _ => self.ask(),
        };
        if line != self.line {
            send(&[NotifyState::Status(&line)]);
            self.line = line;
        }
    }

    fn ask(&self) -> String {
        let until = Instant::now() + PATIENCE;
        let engines = self.engines.all();
        let requests: Vec<_> = engines
            .iter()
            .map(|engine| {
                let (reply, answer) = bounded(1);
                engine.send(Command::Status(reply));
                (engine, answer)
            })
            .collect();
        let mut mirrors = Vec::new();
        for (engine, answer) in requests {
            match answer.recv_deadline(until) {
                Ok(mirror) => mirrors.push(mirror),
                Err(_) => return format!("mirror {} does not answer", engine.mirror),
            }
        }
        match self.engines.trouble() {
            trouble if trouble.is_empty() => summary::line(&mirrors),
            trouble => format!("{}; {}", summary::line(&mirrors), trouble.replace('\n', " ")),
        }
    }
}

/// When to request more time.
struct MoreTime {
    next: Instant,
    /// Processor time when that was last read.
    used: Duration,
}

impl MoreTime {
    fn is_due(&mut self, now: Instant, used: Duration) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + EXTEND_EVERY;
        let spent = used.saturating_sub(std::mem::replace(&mut self.used, used));
        spent >= EXTEND_FOR
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot send a message to the service manager");
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Processor time of this process.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_walk_of_an_engine_pings_and_a_stuck_one_does_not() {
        use crate::config::{Mirror, Watch};
        use crate::engine::Engine;
        use crate::source::inotify::BEAT_DIRS;
        use crate::sync::probe::RsyncFacts;

        let (tree, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        (0..2 * BEAT_DIRS + 10).for_each(|n| std::fs::create_dir(tree.path().join(n.to_string())).unwrap());
        let mirror = Mirror { watch: Watch::Inotify, ..Mirror::new("m", tree.path()) };
        let (again, handle) = Engine::prepare(&mirror, &RsyncFacts::default(), state.path(), false, &Default::default()).unwrap();
        let mut speaker = Speaker::new(Engines::default());
        let engines = [handle];
        assert!(speaker.turned(&engines) && !speaker.turned(&engines), "it has not begun to walk");
        // All of it before its first turn.
        let _engine = Engine::open(again).unwrap();
        assert_eq!(engines[0].turns.load(Ordering::Relaxed), 2);
        assert!(speaker.turned(&engines) && !speaker.turned(&engines), "it is stuck after the walk");
    }

    #[test]
    fn more_time_is_for_those_who_get_on() {
        let (begin, ms) = (Instant::now(), Duration::from_millis);
        let mut more = MoreTime { next: begin + EXTEND_EVERY, used: ms(100) };
        assert!(!more.is_due(begin + ms(4_999), ms(900)), "not yet");
        assert!(more.is_due(begin + EXTEND_EVERY, ms(105)));
        assert!(!more.is_due(begin + EXTEND_EVERY, ms(900)), "once in that time");
        assert!(!more.is_due(begin + EXTEND_EVERY * 2, ms(109)), "4 ms in 5 s is waiting");
        assert!(more.is_due(begin + EXTEND_EVERY * 3, ms(114)));
    }
}
