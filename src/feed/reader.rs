//! A follower's side of a feed: a thread that reads the stream in order and hands each message on,
//! and that reports the follower's position.
//!
//! Records come by a plain subscription to what the server repeats; what is missing between them,
//! and after a connection was lost, is fetched from the stream. So the server keeps nothing for a
//! follower.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Client;
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use futures_util::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver as Asked, UnboundedSender as Asking, unbounded_channel};
use tokio::task::JoinSet;

pub(crate) use super::client::Stored;
use super::client::{self, Link, Trouble, Which};
use super::{Report, live_subject, position_subject, positions, relay_subject, stream, subject};
use crate::config::Login;
use crate::location::Location;
use crate::sys::event::EventFd;

/// How often the end of the stream is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Between two attempts to connect; after a connection was lost the first one is made at once.
const AT_ONCE: Duration = Duration::from_millis(20);
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(4);
/// Messages that wait for the follower.
const WAITING: usize = 256;

/// What the thread hands on.
#[derive(Debug)]
pub(crate) enum Read {
    /// The next message.
    Record(Stored),
    /// What the stream ends with, or that it is empty; looked at after that time.
    End(Instant, Option<Stored>),
    /// The stream was looked at after [`Reader::look`] was called with this number: its last
    /// message then, if it had any. What comes before that was handed on.
    Looked(u64, Option<u64>),
    /// The servers cannot be reached, or refuse.
    Down(String),
    /// They answer.
    Up,
}

/// A report of a relay.
#[derive(Debug)]
pub(crate) struct RelayReport {
    /// Which of the upstreams.
    pub(crate) from: usize,
    pub(crate) report: Report,
    /// It was made just now, and not kept by the servers.
    pub(crate) live: bool,
}

/// Who reads a feed.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// The follower's name.
    pub(crate) follower: String,
    /// The key of the place that it serves.
    pub(crate) serve: Option<String>,
    /// Those of its upstreams that may be relays, with their numbers.
    pub(crate) relays: Vec<(usize, String)>,
}

enum Ask {
    /// Go on reading behind this message; `None`: at the end.
    From(Option<u64>),
    Look(u64),
    Report(Box<Report>),
}

/// The way to the thread; dropped, it ends.
pub(crate) struct Reader {
    ask: Asking<Ask>,
    read: Receiver<Read>,
    relays: Receiver<RelayReport>,
}

impl Reader {
    /// Starts the thread, which reads behind the message `from`, or the last one where that is not
    /// known. `wake` is rung with whatever it hands on.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start(
        place: &Location,
        login: &Login,
        reading: Reading,
        from: Option<u64>,
        wake: Arc<EventFd>,
    ) -> io::Result<Reader> {
        let (ask, asked) = unbounded_channel();
        let (hand, read) = bounded(WAITING);
        let (relay_reports, relays) = unbounded();
        let Location::Feed { feed, .. } = place else { return Err(io::ErrorKind::InvalidInput.into()) };
        let life = Life {
            place: place.clone(),
            login: login.clone(),
            feed: feed.clone(),
            reading,
            next: from.map(|from| from + 1),
            hand,
            relay_reports,
            wake,
            reported: None,
            looks: Vec::new(),
        };
        let runtime = client::runtime()?;
        std::thread::Builder::new().name("fansync-reader".into()).spawn(move || {
            runtime.block_on(life.run(asked));
            runtime.shutdown_background();
        })?;
        Ok(Reader { ask, read, relays })
    }

    /// What has come.
    pub(crate) fn take(&self) -> Option<Read> {
        self.read.try_recv().ok()
    }

    /// What a relay has reported.
    pub(crate) fn relay_report(&self) -> Option<RelayReport> {
        self.relays.try_recv().ok()
    }

    /// Goes on behind this message.
    pub(crate) fn read_behind(&self, sequence: Option<u64>) {
        let _ = self.ask.send(Ask::From(sequence));
    }

    /// Looks at the stream; [`Read::Looked`] answers, once the servers do.
    pub(crate) fn look(&self, number: u64) {
        let _ = self.ask.send(Ask::Look(number));
    }

    /// Reports to the source; a later report takes the place of one that could not be sent.
    pub(crate) fn report(&self, report: Report) {
        let _ = self.ask.send(Ask::Report(Box::new(report)));
    }
}

struct Life {
    place: Location,
    login: Login,
    feed: String,
    reading: Reading,
    /// The message to hand on next; `None`: what the stream ends with.
    next: Option<u64>,
    hand: Sender<Read>,
    relay_reports: Sender<RelayReport>,
    wake: Arc<EventFd>,
    reported: Option<Report>,
    /// Not answered yet.
    looks: Vec<u64>,
}

impl Life {
    async fn run(mut self, mut asked: Asked<Ask>) {
        let mut pause = AGAIN;
        loop {
            let trouble = match self.follow(&mut asked, &mut pause).await {
                Ok(()) => return,
                Err(trouble) => trouble,
            };
            if !self.hand(Read::Down(trouble.why)).await {
                return;
            }
            let wait = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64()));
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    ask = asked.recv() => match ask {
                        None => return,
                        Some(ask) => self.take(ask),
                    },
                }
            }
            pause = (pause * 2).clamp(AGAIN, AGAIN_MAX);
        }
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::From(sequence) => self.next = sequence.map(|sequence| sequence + 1),
            Ask::Look(number) => self.looks.push(number),
            Ask::Report(report) => self.reported = Some(*report),
        }
    }

    /// `false`: the follower has ended.
    async fn hand(&self, read: Read) -> bool {
        let mut read = read;
        loop {
            match self.hand.try_send(read) {
                Ok(()) => {
                    self.wake.wake();
                    return true;
                }
                Err(crossbeam::channel::TrySendError::Disconnected(_)) => return false,
                // It is busy; the server keeps what comes meanwhile.
                Err(crossbeam::channel::TrySendError::Full(back)) => {
                    read = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }

    async fn follow(&mut self, asked: &mut Asked<Ask>, pause: &mut Duration) -> Result<(), Trouble> {
        let name = format!("fansync {}", self.reading.follower);
        let (events, mut connected) = unbounded_channel();
        let client = client::connect(&self.place, &self.login, &name, Some(events)).await?;
        let lost = |e: String| Trouble::away(format!("the connection was lost: {e}"));
        let mut live = client.subscribe(live_subject(&self.feed)).await.map_err(|e| lost(e.to_string()))?;
        // Before the end is read, so that nothing is stored unseen in between.
        client.flush().await.map_err(|e| lost(e.to_string()))?;
        let mut relays = JoinSet::new();
        for (from, key) in self.reading.relays.clone() {
            let live = client.subscribe(relay_subject(&self.feed, &key)).await.map_err(|e| lost(e.to_string()))?;
            let (relay_reports, wake) = (self.relay_reports.clone(), Arc::clone(&self.wake));
            relays.spawn(async move {
                let mut live = live;
                while let Some(message) = live.next().await {
                    hand_report(&relay_reports, &wake, from, &message.payload, true);
                }
            });
        }
        self.fetch_reports(&client, &mut relays);
        if !self.catch_up(&client).await? {
            return Ok(());
        }
        *pause = AT_ONCE;
        let mut said = None;
        if !self.hand(Read::Up).await {
            return Ok(());
        }
        self.send_report(&client).await;
        let mut look = tokio::time::interval(LOOK.mul_f64(0.9 + fastrand::f64() / 5.0));
        look.tick().await;
        loop {
            tokio::select! {
                message = live.next() => {
                    let Some(message) = message else { return Err(lost("the subscription ended".into())) };
                    let sequence = client::number(&message, "Nats-Sequence");
                    let goes_on = match (sequence, self.next) {
                        (Some(sequence), Some(next)) if sequence == next => {
                            self.next = Some(next + 1);
                            let answers = client::answers(&message);
                            self.hand(Read::Record(Stored { sequence, payload: message.payload.to_vec(), answers })).await
                        }
                        (Some(sequence), Some(next)) if sequence < next => true, // it was fetched, or the next request for the end finds out
                        _ => self.catch_up(&client).await?,
                    };
                    if !goes_on {
                        return Ok(());
                    }
                }
                link = connected.recv() => match link {
                    Some(Link::Up) => {}
                    Some(Link::Said(words)) => said = Some(words),
                    // A connection that is made anew says what hinders it, which one that the
                    // client makes again by itself does not.
                    Some(Link::Lost) | None => return Err(lost_by(said)),
                },
                _ = look.tick() => {
                    if !self.catch_up(&client).await? {
                        return Ok(());
                    }
                    self.send_report(&client).await;
                }
                ask = asked.recv() => match ask {
                    None => return Ok(()),
                    Some(Ask::From(sequence)) => {
                        self.next = sequence.map(|sequence| sequence + 1);
                        if !self.catch_up(&client).await? {
                            return Ok(());
                        }
                    }
                    Some(Ask::Look(number)) => {
                        self.looks.push(number);
                        if !self.catch_up(&client).await? {
                            return Ok(());
                        }
                    }
                    Some(Ask::Report(report)) => {
                        self.reported = Some(*report);
                        self.send_report(&client).await;
                    }
                },
            }
        }
    }

    async fn send_report(&mut self, client: &Client) {
        let Some(report) = &mut self.reported else { return };
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        report.unix = since_1970.as_secs_f64();
        if let Ok(payload) = serde_json::to_vec(report) {
            // A report that is lost is sent again with the next check.
            if let Some(key) = &self.reading.serve {
                let _ = client.publish(relay_subject(&self.feed, key), payload.clone().into()).await;
            }
            let _ = client.publish(position_subject(&self.feed, &self.reading.follower), payload.into()).await;
            let _ = client.flush().await;
        }
    }

    /// Asks for what the servers have kept of the relays' reports; nothing waits for that.
    fn fetch_reports(&self, client: &Client, tasks: &mut JoinSet<()>) {
        for (from, key) in self.reading.relays.clone() {
            let (client, feed) = (client.clone(), self.feed.clone());
            let (relay_reports, wake) = (self.relay_reports.clone(), Arc::clone(&self.wake));
            tasks.spawn(async move {
                let subject = relay_subject(&feed, &key);
                if let Ok(Some(kept)) = client::get(&client, &positions(&feed), Which::Last(&subject)).await {
                    hand_report(&relay_reports, &wake, from, &kept.payload, false);
                }
            });
        }
        // Those that have ended.
        while tasks.try_join_next().is_some() {}
    }

    /// Fetches what the stream has beyond what was handed on, and looks at its end. `false`: the
    /// follower has ended.
    async fn catch_up(&mut self, client: &Client) -> Result<bool, Trouble> {
        let looks = std::mem::take(&mut self.looks);
        let end = match self.fetch(client).await {
            Ok(Some(end)) => end,
            Ok(None) => return Ok(false),
            Err(trouble) => {
                self.looks = looks;
                return Err(trouble);
            }
        };
        for number in looks {
            if !self.hand(Read::Looked(number, end)).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// As [`Life::catch_up`]: the last message of the stream; `None`: the follower has ended.
    async fn fetch(&mut self, client: &Client) -> Result<Option<Option<u64>>, Trouble> {
        let (stream, subject) = (stream(&self.feed), subject(&self.feed));
        let began = Instant::now();
        let last = client::get(client, &stream, Which::Last(&subject)).await?;
        let end = last.as_ref().map(|stored| stored.sequence);
        let Some(mut next) = self.next else {
            // Where it begins is known now.
            if let Some(last) = last {
                self.next = Some(last.sequence + 1);
                return Ok(self.hand(Read::Record(last)).await.then_some(end));
            }
            return Ok(self.hand(Read::End(began, None)).await.then_some(end));
        };
        if !self.hand(Read::End(began, last)).await {
            return Ok(None);
        }
        while end.is_some_and(|end| next <= end) {
            let Some(stored) = client::get(client, &stream, Which::From(next, &subject)).await? else { break };
            next = stored.sequence + 1;
            self.next = Some(next);
            if !self.hand(Read::Record(stored)).await {
                return Ok(None);
            }
        }
        Ok(Some(end))
    }
}

/// The connection was lost; `said`: the server's last words.
fn lost_by(said: Option<String>) -> Trouble {
    let said = said.map(|said| format!("; it had said: {said}")).unwrap_or_default();
    Trouble::away(format!("the connection to the NATS server was lost{said}"))
}

fn hand_report(relay_reports: &Sender<RelayReport>, wake: &EventFd, from: usize, payload: &[u8], live: bool) {
    if let Ok(report) = serde_json::from_slice::<Report>(payload) {
        let _ = relay_reports.send(RelayReport { from, report, live });
        wake.wake();
    }
}
