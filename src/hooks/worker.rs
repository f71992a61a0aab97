//! The threads of a hook: take, look, deliver, judge.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::queue::{Event, Fault, Queue, wanted};
use super::{cdn, command, http, message, socket};
use crate::config::hook::{Action, Change, Hook as Config};

/// Where the changes are.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The mirror's name.
    pub(super) mirror: String,
    /// The canonical source.
    pub(super) root: Vec<u8>,
}

/// One way to deliver.
pub(super) trait Deliver {
    /// Delivers all of `events`, at least one; or none of them counts as delivered.
    fn deliver(&mut self, events: &[Event]) -> Result<(), Fault>;
}

/// Starts one thread. It lives until the queue is closed.
pub(super) fn spawn(queue: Arc<Queue>, config: Arc<Config>, place: Place) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(format!("hook-{}", config.name));
    thread.spawn(move || {
        let mut receiver: Box<dyn Deliver> = match &config.action {
            Action::Command(c) => Box::new(command::Runner::new(c, &config, &place, &queue)),
            Action::Socket(s) => Box::new(socket::Sender::new(s, &config, &place)),
            Action::Http(h) => Box::new(http::Poster::new(h, &config, &place, &queue)),
            Action::Cdn(c) => Box::new(cdn::Purger::new(c, &config, &place)),
        };
        while let Some(events) = queue.take() {
            serve(&queue, &config, &place, &mut *receiver, events);
        }
    })?;
    Ok(())
}

fn serve(queue: &Queue, config: &Config, place: &Place, receiver: &mut dyn Deliver, mut events: Vec<Event>) {
    events.iter_mut().for_each(|event| look(place, event));
    let (events, unwanted): (Vec<Event>, Vec<Event>) = events.into_iter().partition(|event| wanted(config, event));
    if !unwanted.is_empty() {
        queue.done(&unwanted, false);
    }
    if events.is_empty() {
        return;
    }
    for tries in 1.. {
        // A thread that dies would leave the hook dead without a log line.
        let result = catch_unwind(AssertUnwindSafe(|| receiver.deliver(&events)));
        let result = result.unwrap_or_else(|_| Err(Fault::Changes { reason: "a bug, see the log".into(), permanent: true }));
        if queue.is_closed() {
            return queue.abandoned(&events);
        }
        match result {
            Ok(()) => {
                tracing::debug!(mirror = %place.mirror, hook = %config.name, changes = events.len(), "the hook was notified");
                return queue.done(&events, true);
            }
            Err(Fault::Changes { reason, permanent }) => return queue.failed(events, &reason, permanent),
            Err(Fault::Receiver { reason, after }) => {
                if !queue.pause(&events, tries, &reason, after) {
                    return queue.abandoned(&events);
                }
            }
        }
    }
}

/// Finds out what became of a path whose fate was not reported.
fn look(place: &Place, event: &mut Event) {
    if event.change.is_some() {
        return;
    }
    use std::os::unix::ffi::OsStrExt;
    let path = message::absolute(place, event);
    let meta = std::fs::symlink_metadata(std::ffi::OsStr::from_bytes(&path));
    (event.change, event.dir) = match meta {
        Ok(meta) if meta.is_dir() => (Some(Change::Directory), true),
        Ok(_) => (Some(Change::Changed), false),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            (Some(Change::Deleted), event.dir)
        }
        // It changed, whatever it is.
        Err(_) => (Some(Change::Changed), event.dir),
    };
}
