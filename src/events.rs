//! `fansync events`: the events, as they arrive, to find faults.
//!
//! Promises: a listener never holds up the engine, and costs it nothing once it has gone. What a
//! listener is too slow for is left out and counted, and the next event carries the count.
//!
//! How: each listener has a bounded queue; the engine puts in what fits, and a thread of the
//! control socket writes it out. Without a listener an event costs one check of an empty list.
//!
//! Gives up: inotify has no process. With fanotify, the command is read from `/proc/PID/comm` when
//! the event is taken from the queue; a process that has ended by then is shown as `?`. The kernel
//! merges events of one object: the process is that of the first.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::Whom;
use crate::control::{self, Reply, Request};
use crate::text::plural;

/// The end of `fansync events --help`.
pub(crate) const HELP: &str = "\
One line per event below a source that the filter does not leave out: time, mirror, what happened, process and command, path. What the \
kernel has merged is one event. Nothing is slowed down: what does not fit is left out, and counted.

Examples:
  fansync events
  fansync events --mirror data --count 100 --json

Exit codes: 0 COUNT events printed, 64 usage, 69 no daemon answers, or it ended, 77 not permitted.";

/// `fansync events`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct EventsArgs {
    /// Only the mirror with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) mirror: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave after so many
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Which daemon
    #[command(flatten)]
    pub(crate) whom: Whom,
}

/// One event, as it is printed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// When it was taken from the queue, seconds since 1970.
    pub(crate) time_unix: f64,
    /// The mirror's name.
    pub(crate) mirror: String,
    /// The kernel's words for what happened, with commas between; `lost` and the cause when events
    /// were missed.
    pub(crate) kind: String,
    /// It is a directory.
    pub(crate) dir: bool,
    /// The process; 0 when not known.
    pub(crate) pid: i32,
    /// Its command; `?` when not known.
    pub(crate) command: String,
    /// Relative to the source, escaped for display.
    pub(crate) path: String,
    /// Events before this one that were left out, as the listener was too slow for them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) dropped: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The client's side: prints events to `out`, `count` events or until the daemon ends. `false`: it
/// ended.
///
/// # Errors
/// [`control::Error`].
pub(crate) fn follow(socket: &Path, args: &EventsArgs, out: &mut impl Write) -> Result<Followed, control::Error> {
    let stream = control::request_to(socket, &Request::Events { mirror: args.mirror.clone() })?;
    let talk = |source| control::Error::Talk { path: socket.into(), source };
    let mut lines = BufReader::new(&stream);
    let mut line = String::new();
    lines.read_line(&mut line).map_err(talk)?;
    match serde_json::from_str(&line).map_err(|e| talk(e.into()))? {
        Reply::Events => {}
        other => return Ok(Followed::Refused(Box::new(other))),
    }
    let mut printed = 0;
    while args.count.is_none_or(|count| printed < count) {
        line.clear();
        if lines.read_line(&mut line).map_err(talk)? == 0 {
            return Ok(Followed::Ended);
        }
        let event: Event = serde_json::from_str(&line).map_err(|e| talk(e.into()))?;
        let text = if args.json { line.clone() } else { event.human() };
        if let Err(why) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            return Ok(Followed::NotWritten(why));
        }
        printed += 1;
    }
    Ok(Followed::Printed)
}

/// How following events ended.
pub(crate) enum Followed {
    /// As many were printed as were requested.
    Printed,
    /// The output cannot be written, as when its reader has gone.
    NotWritten(io::Error),
    /// The daemon has ended.
    Ended,
    /// It gave another answer.
    Refused(Box<Reply>),
}

impl Event {
    /// For a terminal.
    pub(crate) fn human(&self) -> String {
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
