//! A follower's way to the feed: the thread that reads it, and whether the servers answer.

use std::sync::Arc;

use crate::config::Mirror;
use crate::feed::Report;
use crate::feed::reader::{Read, Reader, Reading, RelayReport};
use crate::sys::event::EventFd;

/// See the module's text.
pub(super) struct Feed {
    mirror: String,
    reader: Option<Reader>,
    /// Why the servers do not answer.
    down: Option<String>,
}

impl Feed {
    /// One that is not read yet.
    pub(super) fn new(mirror: &Mirror) -> Feed {
        Feed { mirror: mirror.name.clone(), reader: None, down: Some("the NATS servers have not answered yet".into()) }
    }

    /// Starts the thread, which reads behind the message `from`.
    pub(super) fn start(&mut self, mirror: &Mirror, reading: Reading, from: Option<u64>, bell: Arc<EventFd>) {
        let Some(follow) = &mirror.follow else { return };
        match Reader::start(&follow.feed, &follow.login, reading, from, bell) {
            Ok(reader) => self.reader = Some(reader),
            Err(error) => {
                tracing::error!(mirror = %self.mirror, %error, "cannot start the thread that reads the feed; restart fansync");
                self.down = Some(format!("the thread that reads the feed did not start: {error}"));
            }
        }
    }

    /// What has come.
    pub(super) fn take(&self) -> Option<Read> {
        self.reader.as_ref()?.take()
    }

    /// What a relay has reported.
    pub(super) fn relay_report(&self) -> Option<RelayReport> {
        self.reader.as_ref()?.relay_report()
    }

    /// Goes on behind this message.
    pub(super) fn read_behind(&self, sequence: u64) {
        if let Some(reader) = &self.reader {
            reader.read_behind(Some(sequence));
        }
    }

    /// Has the stream looked at; [`Read::Looked`] answers.
    pub(super) fn look(&self, number: u64) {
        if let Some(reader) = &self.reader {
            reader.look(number);
        }
    }

    /// Reports to the source; `false`: there is no thread for it.
    pub(super) fn report(&self, report: &Report) -> bool {
        let Some(reader) = &self.reader else { return false };
        reader.report(report.clone());
        true
    }

    /// Why the servers do not answer.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.down.as_deref()
    }

    /// The servers answer.
    pub(super) fn came_up(&mut self) {
        if self.down.take().is_some() {
            tracing::info!(mirror = %self.mirror, "the feed is read");
        }
    }

    /// They do not.
    pub(super) fn went_down(&mut self, why: String) {
        if self.down.as_ref() != Some(&why) {
            tracing::warn!(mirror = %self.mirror, "the feed cannot be read: {why}. It is tried again by itself; what was published meanwhile is read then");
        }
        self.down = Some(why);
    }
}
