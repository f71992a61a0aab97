//! The engine's part in `fansync events`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::calls::{Call, call};
use super::handle::Handle;
use crate::dirty::Seen;
use crate::events::Event;
use crate::lost::Lost;
use crate::path::{RelPath, Shown};

/// How long an engine may take to add a listener.
const PATIENCE: Duration = Duration::from_secs(10);
/// Events that wait for one listener.
const QUEUE: usize = 8192;

/// The events of engines, for one listener.
pub(crate) struct Tap {
    queue: Receiver<TapRecord>,
    dropped: Arc<AtomicU64>,
}

/// Subscribes to the events of these engines; one that has ended sends none.
pub(crate) fn listen(engines: &[&Handle]) -> Tap {
    let dropped = Arc::new(AtomicU64::new(0));
    let (sender, queue) = bounded(QUEUE);
    for engine in engines {
        let listener = Listener { mirror: engine.mirror.as_str().into(), queue: sender.clone(), dropped: Arc::clone(&dropped) };
        call(engine, PATIENCE, |reply| Call::Subscribe(listener, reply));
    }
    Tap { queue, dropped }
}

impl Tap {
    /// The next event.
    ///
    /// # Errors
    /// There is none within this time, or all engines have ended.
    pub(crate) fn next(&self, within: Duration) -> Result<Event, RecvTimeoutError> {
        let record = self.queue.recv_timeout(within)?;
        Ok(record.event(self.dropped.swap(0, Ordering::Relaxed)))
    }
}

/// What a listener's queue holds.
struct TapRecord {
    mirror: Arc<str>,
    at: SystemTime,
    path: RelPath,
    what: What,
    pid: i32,
    command: Option<Arc<str>>,
}

enum What {
    Event(u64, Seen),
    Lost(&'static str),
}

/// A subscriber of an engine.
pub(crate) struct Listener {
    mirror: Arc<str>,
    queue: Sender<TapRecord>,
    dropped: Arc<AtomicU64>,
}

/// The subscribers of an engine.
#[derive(Default)]
pub struct Listeners {
    all: Vec<Listener>,
    /// Commands of the processes in the buffer at hand.
    commands: HashMap<i32, Option<Arc<str>>>,
}

impl Listeners {
    /// From here on it receives every event.
    pub(super) fn add(&mut self, listener: Listener) {
        self.all.push(listener);
    }

    /// Whether any listens.
    pub fn any(&self) -> bool {
        !self.all.is_empty()
    }

    /// Publishes an event. `pid`: 0 when not known.
    pub fn publish(&mut self, mask: u64, pid: i32, path: &[u8], seen: Seen) {
        let command = match pid {
            0 => None,
            _ => self.commands.entry(pid).or_insert_with(|| command_of(pid)).clone(),
        };
        self.send(RelPath::from_normal(path), || What::Event(mask, seen), pid, command);
    }

    /// Reports that events were missed.
    pub(crate) fn publish_lost(&mut self, lost: &Lost) {
        self.send(lost.subtree.clone(), || What::Lost(lost.cause.name()), 0, None);
    }

    /// The buffer at hand is through: a process id may be another process from here on.
    pub(crate) fn forget_commands(&mut self) {
        self.commands.clear();
    }

    fn send(&mut self, path: RelPath, what: impl Fn() -> What, pid: i32, command: Option<Arc<str>>) {
        let at = SystemTime::now();
        self.all.retain(|listener| {
            let record = TapRecord {
                mirror: Arc::clone(&listener.mirror),
                at,
                path: path.clone(),
                what: what(),
                pid,
                command: command.clone(),
            };
            match listener.queue.try_send(record) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    listener.dropped.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            }
        });
    }
}

fn command_of(pid: i32) -> Option<Arc<str>> {
    let comm = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(Shown(comm.trim_ascii_end()).to_string().into())
}

/// fanotify(7) and inotify(7) have the same bits for these.
const KINDS: [(u64, &str); 7] = [
    (libc::FAN_CREATE, "create"),
    (libc::FAN_MODIFY, "modify"),
    (libc::FAN_CLOSE_WRITE, "close_write"),
    (libc::FAN_ATTRIB, "attrib"),
    (libc::FAN_MOVED_FROM, "moved_from"),
    (libc::FAN_MOVED_TO, "moved_to"),
    (libc::FAN_DELETE, "delete"),
];

fn kind(mask: u64, seen: Seen) -> String {
    if mask & libc::FAN_RENAME != 0 {
        let from = matches!(seen.plain(), Seen::Gone | Seen::GoneDir);
        return if from { "moved_from".into() } else { "moved_to".into() };
    }
    let words: Vec<&str> = KINDS.iter().filter(|(bits, _)| mask & bits != 0).map(|(_, word)| *word).collect();
    if words.is_empty() { format!("{seen:?}").to_lowercase() } else { words.join(",") }
}

impl TapRecord {
    fn event(&self, dropped: u64) -> Event {
        let (kind, dir) = match self.what {
            What::Event(mask, seen) => (kind(mask, seen), mask & libc::FAN_ONDIR != 0),
            What::Lost(cause) => (format!("lost {cause}"), true),
        };
        Event {
            time_unix: self.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            mirror: self.mirror.to_string(),
            kind,
            dir,
            pid: self.pid,
            command: self.command.as_deref().unwrap_or("?").to_owned(),
            path: self.path.to_string(),
            dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening() -> (Listeners, Receiver<TapRecord>, Arc<AtomicU64>) {
        let (queue, events) = bounded(2);
        let dropped = Arc::new(AtomicU64::new(0));
        let listener = Listener { mirror: "m".into(), queue, dropped: Arc::clone(&dropped) };
        (Listeners { all: vec![listener], ..Listeners::default() }, events, dropped)
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told() {
        let (mut listeners, events, dropped) = listening();
        for path in ["a", "b", "c", "d"] {
            listeners.publish(libc::FAN_CREATE | libc::FAN_CLOSE_WRITE, 0, path.as_bytes(), Seen::Written);
        }
        let first = events.try_recv().unwrap().event(dropped.swap(0, Ordering::Relaxed));
        assert_eq!((first.path.as_str(), first.kind.as_str(), first.dropped), ("a", "create,close_write", 2));
        assert!(first.human().starts_with("(2 events left out)\n"), "{}", first.human());
        assert_eq!(events.try_recv().unwrap().event(dropped.swap(0, Ordering::Relaxed)).dropped, 0);
    }

    #[test]
    fn a_listener_that_is_gone_costs_nothing() {
        let (mut listeners, events, _) = listening();
        assert!(listeners.any());
        drop(events);
        listeners.publish(0, 0, b"a", Seen::Subtree);
        assert!(!listeners.any());
    }

    #[test]
    fn names_of_events_and_processes() {
        for (mask, seen, want) in [
            (libc::FAN_RENAME, Seen::Left, "moved_from"),
            (libc::FAN_RENAME | libc::FAN_ONDIR, Seen::ArrivedDir, "moved_to"),
            (libc::FAN_ATTRIB | libc::FAN_DELETE, Seen::Gone, "attrib,delete"),
            (0, Seen::Modified, "modified"),
        ] {
            assert_eq!(kind(mask, seen), want);
        }
        assert!(command_of(std::process::id() as i32).is_some_and(|comm| !comm.is_empty()));
        assert_eq!(command_of(i32::MAX), None);
        let (mut listeners, events, _) = listening();
        listeners.publish(libc::FAN_CREATE, i32::MAX, b"f", Seen::Created);
        assert!(events.try_recv().unwrap().event(0).human().ends_with("m create 2147483647 ? f\n"));
    }

    #[test]
    fn a_loss_is_told_with_its_cause_and_place() {
        let (mut listeners, events, _) = listening();
        listeners.publish_lost(&Lost { subtree: RelPath::from_normal("d"), cause: crate::lost::Cause::QueueOverflow });
        let event = events.try_recv().unwrap().event(0);
        assert_eq!(
            (event.kind, event.path.as_str(), event.dir),
            (format!("lost {}", crate::lost::Cause::QueueOverflow.name()), "d", true)
        );
    }

    #[test]
    fn a_process_is_looked_up_once_a_buffer() {
        let (mut listeners, events, _) = listening();
        let own = std::process::id() as i32;
        listeners.commands.insert(own, Some("known".into()));
        listeners.publish(0, own, b"f", Seen::Written);
        assert_eq!(events.try_recv().unwrap().event(0).command, "known");
        listeners.forget_commands();
        listeners.publish(0, own, b"f", Seen::Written);
        let command = events.try_recv().unwrap().event(0).command;
        assert!(command != "known" && command != "?", "the number may be of another process in the next buffer: {command}");
    }
}
