//! The daemon's side of `fansync events`.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crossbeam::channel::RecvTimeoutError;

use crate::control::Reply;
use crate::engine::{self, Handle};
use crate::socket::{self, has_hung_up};

/// How often the connection of a listener is checked while nothing happens.
const LOOK: Duration = Duration::from_secs(1);

/// Writes the events of `engines` to `client` until it hangs up, or all of them have ended.
pub(super) fn serve(client: &UnixStream, engines: &[&Handle]) -> io::Result<()> {
    let tap = engine::listen(engines);
    // A listener that stands still is none of the engine's business, so it may stand for as long as
    // it likes.
    client.set_write_timeout(None)?;
    socket::say(client, &Reply::Events)?;
    loop {
        match tap.next(LOOK) {
            Ok(event) => socket::say(client, &event)?,
            Err(RecvTimeoutError::Timeout) if !has_hung_up(client) => {}
            Err(_) => return Ok(()),
        }
    }
}
