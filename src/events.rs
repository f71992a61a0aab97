//! `fansync events`: what is heard, as it is heard, to find faults.
//!
//! Promises: a listener never holds up the engine, and costs it nothing once it has gone. What a listener is too slow for is left out and
//! counted, and the count is told with the next event.
//!
//! How: each listener has a bounded queue; the engine puts in what fits (`Listeners::tell`), and a thread of the control socket writes it out.
//! Without a listener an event costs one look at an empty list.
//!
//! Gives up: inotify tells no process. With fanotify, the command is read from `/proc/PID/comm` when the event is taken from
//! the queue; a process that has ended by then is shown as `?`. The kernel merges events of one object: the process is that of the first.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use serde::{Deserialize, Serialize};

use crate::control::{self, Handle, Reply, Request};
use crate::dirty::Seen;
use crate::engine;
use crate::lost::Lost;
use crate::path::RelPath;
use crate::status::plural;
use crate::verify::has_hung_up;

/// Events that wait for one listener.
const QUEUE: usize = 8192;
/// How often it is looked whether a listener is still there while nothing happens.
const LOOK: Duration = Duration::from_secs(1);

/// The end of `fansync events --help`.
pub const HELP: &str = "\
One line per event below a source that the filter does not leave out: time, mirror, what happened, process and command, path. What the \
kernel has merged is one event. Nothing is slowed down: what does not fit is left out, and counted.

Examples:
  fansync events
  fansync events --mirror data --count 100 --json

Exit codes: 0 COUNT events told, 64 usage, 69 no daemon answers, or it ended, 77 not permitted.";

/// `fansync events`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct EventsArgs {
    /// Only the mirror with this name
    #[arg(long, value_name = "NAME")]
    pub mirror: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Leave after so many
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// The daemon's socket, if not the usual one or FANSYNC_SOCKET
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// One event, as it is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When it was taken from the queue, seconds since 1970.
    pub time_unix: f64,
    /// The mirror's name.
    pub mirror: String,
    /// The kernel's words for what happened, with commas between; `lost` and the cause when events were missed.
    pub kind: String,
    /// It is a directory.
    pub dir: bool,
    /// The process; 0 when not known.
    pub pid: i32,
    /// Its command; `?` when not known.
    pub command: String,
    /// Relative to the source, escaped for display.
    pub path: String,
    /// Events before this one that were left out, as the listener was too slow for them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What a listener's queue holds.
struct Heard {
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

/// One who listens to an engine.
struct Listener {
    mirror: Arc<str>,
    queue: Sender<Heard>,
    dropped: Arc<AtomicU64>,
}

/// Those who listen to an engine.
#[derive(Default)]
pub struct Listeners {
    all: Vec<Listener>,
    /// Commands of the processes in the buffer at hand.
    commands: HashMap<i32, Option<Arc<str>>>,
}

impl Listeners {
    /// Whether somebody listens.
    pub fn any(&self) -> bool {
        !self.all.is_empty()
    }

    /// Tells of an event. `pid`: 0 when not known.
    pub fn tell(&mut self, mask: u64, pid: i32, path: &[u8], seen: Seen) {
        let command = match pid {
            0 => None,
            _ => self.commands.entry(pid).or_insert_with(|| command_of(pid)).clone(),
        };
        self.send(RelPath::from_normal(path), || What::Event(mask, seen), pid, command);
    }

    /// Tells that events were missed.
    pub(crate) fn tell_lost(&mut self, lost: &Lost) {
        self.send(lost.subtree.clone(), || What::Lost(lost.cause.name()), 0, None);
    }

    /// The buffer at hand is through: a process id may be another process from here on.
    pub(crate) fn forget_commands(&mut self) {
        self.commands.clear();
    }

    fn send(&mut self, path: RelPath, what: impl Fn() -> What, pid: i32, command: Option<Arc<str>>) {
        let at = SystemTime::now();
        self.all.retain(|listener| {
            let heard = Heard {
                mirror: Arc::clone(&listener.mirror),
                at,
                path: path.clone(),
                what: what(),
                pid,
                command: command.clone(),
            };
            match listener.queue.try_send(heard) {
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
    Some(crate::path::Shown(comm.trim_ascii_end()).to_string().into())
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

impl Heard {
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

/// The daemon's side: writes what `engines` hear to `client` until it hangs up, or all of them have ended.
pub(crate) fn serve(client: &UnixStream, engines: &[&Handle]) -> io::Result<()> {
    let dropped = Arc::new(AtomicU64::new(0));
    let (queue, events) = bounded(QUEUE);
    for engine in engines {
        let listener = Listener { mirror: engine.mirror.as_str().into(), queue: queue.clone(), dropped: Arc::clone(&dropped) };
        engine::listen(engine, move |listeners| listeners.all.push(listener));
    }
    drop(queue);
    // A listener that stands still is none of the engine's business, so it may stand for as long as it likes.
    client.set_write_timeout(None)?;
    write_line(client, &Reply::Events)?;
    pass_on(client, &events, &dropped)
}

fn pass_on(client: &UnixStream, events: &Receiver<Heard>, dropped: &AtomicU64) -> io::Result<()> {
    loop {
        match events.recv_timeout(LOOK) {
            Ok(heard) => write_line(client, &heard.event(dropped.swap(0, Ordering::Relaxed)))?,
            Err(RecvTimeoutError::Timeout) if has_hung_up(client) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn write_line(mut client: &UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_string(what)?;
    line.push('\n');
    client.write_all(line.as_bytes())
}

/// The client's side: prints what is heard to `out`, `count` events or until the daemon ends. `false`: it ended.
///
/// # Errors
/// [`control::Error`].
pub fn follow(socket: &Path, args: &EventsArgs, out: &mut impl Write) -> Result<Followed, control::Error> {
    let stream = control::request_to(socket, &Request::Events { mirror: args.mirror.clone() })?;
    let talk = |source| control::Error::Talk { path: socket.into(), source };
    let mut lines = BufReader::new(&stream);
    let mut line = String::new();
    lines.read_line(&mut line).map_err(talk)?;
    match serde_json::from_str(&line).map_err(|e| talk(e.into()))? {
        Reply::Events => {}
        other => return Ok(Followed::Refused(Box::new(other))),
    }
    let mut told = 0;
    while args.count.is_none_or(|count| told < count) {
        line.clear();
        if lines.read_line(&mut line).map_err(talk)? == 0 {
            return Ok(Followed::Ended);
        }
        let event: Event = serde_json::from_str(&line).map_err(|e| talk(e.into()))?;
        let text = if args.json { line.clone() } else { event.human() };
        if let Err(why) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            return Ok(Followed::NotWritten(why));
        }
        told += 1;
    }
    Ok(Followed::Told)
}

/// How following events ended.
pub enum Followed {
    /// As many were told as were asked for.
    Told,
    /// The output cannot be written, as when its reader has gone.
    NotWritten(io::Error),
    /// The daemon has ended.
    Ended,
    /// It gave another answer.
    Refused(Box<Reply>),
}

impl Event {
    /// For a terminal.
    fn human(&self) -> String {
        let left_out = match self.dropped {
            0 => String::new(),
            n => format!("({} left out)\n", plural(n, "event")),
        };
        let at = UNIX_EPOCH + Duration::from_secs_f64(self.time_unix.max(0.0));
        let slash = if self.dir && self.path != "." { "/" } else { "" };
        let process = match self.pid {
            0 => "-".to_owned(),
            pid => format!("{pid} {}", self.command),
        };
        format!(
            "{left_out}{} {} {} {process} {}{slash}\n",
            humantime::format_rfc3339_micros(at),
            self.mirror,
            self.kind,
            self.path
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen() -> (Listeners, Receiver<Heard>, Arc<AtomicU64>) {
        let (queue, events) = bounded(2);
        let dropped = Arc::new(AtomicU64::new(0));
        let listener = Listener { mirror: "m".into(), queue, dropped: Arc::clone(&dropped) };
        (Listeners { all: vec![listener], ..Listeners::default() }, events, dropped)
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told() {
        let (mut listeners, events, dropped) = listen();
        for path in ["a", "b", "c", "d"] {
            listeners.tell(libc::FAN_CREATE | libc::FAN_CLOSE_WRITE, 0, path.as_bytes(), Seen::Written);
        }
        let first = events.try_recv().unwrap().event(dropped.swap(0, Ordering::Relaxed));
        assert_eq!((first.path.as_str(), first.kind.as_str(), first.dropped), ("a", "create,close_write", 2));
        assert!(first.human().starts_with("(2 events left out)\n"), "{}", first.human());
        assert_eq!(events.try_recv().unwrap().event(dropped.swap(0, Ordering::Relaxed)).dropped, 0);
    }

    #[test]
    fn a_listener_that_is_gone_costs_nothing() {
        let (mut listeners, events, _) = listen();
        assert!(listeners.any());
        drop(events);
        listeners.tell(0, 0, b"a", Seen::Subtree);
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
        let (mut listeners, events, _) = listen();
        listeners.tell(libc::FAN_CREATE, i32::MAX, b"f", Seen::Created);
        assert!(events.try_recv().unwrap().event(0).human().ends_with("m create 2147483647 ? f\n"));
    }
}
