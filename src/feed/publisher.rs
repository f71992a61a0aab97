//! The source's side of a feed: a thread that stores records in the stream, in order, one at a
//! time.
//!
//! Each record has a message id and the sequence that the stream must end with before it. So a
//! record that is sent twice is stored once, a second publisher is found out, and a stream that was
//! set back is, too: then a new incarnation begins with a record of everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::Client;
use crossbeam::channel::{Receiver, Sender, bounded};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::barriers::{self, Questions};
use super::batch::{Inline, Making, unchanged};
use super::client::{self, Refused, Trouble, Which};
use super::machine::Point;
use super::note::PublishedFile;
use super::record::{Batch, Identity, Item, Record, split};
use super::writer::{self, Writer};
use super::{Report, live_subject, mark, position_subject, positions, relay_subject, stream, subject};
use crate::config;
use crate::location::Location;
use crate::status;
use crate::sync::publication::{Promise, Publication, Published, publication};

/// Tries of a record that is not answered.
const TRIES: u32 = 3;
/// How long JetStream remembers message ids.
const WINDOW: Duration = Duration::from_secs(120);
/// A follower that has not reported for so long is silent.
const SILENT: Duration = Duration::from_secs(30);
/// How often it is looked at how far back the stream goes.
const LOOK: Duration = Duration::from_secs(60);

enum Order {
    Probe(Promise),
    Publish {
        identity: Identity,
        everything: bool,
        last: bool,
        entries: Vec<Item>,
        inline: Option<Inline>,
        promise: Promise,
    },
    Hold(bool),
    /// Stores the record that answers these numbers.
    Answer(Vec<String>),
}

/// What one record has beside its place in the stream.
#[derive(Default)]
struct Content {
    everything: bool,
    held: bool,
    last: bool,
    entries: Vec<Item>,
    batch: Option<Batch>,
    /// Numbers that followers have drawn.
    answers: Vec<String>,
}

/// Questions that wait for an answer; what is more goes without one.
const QUESTIONS: usize = 4_096;

/// What the thread knows.
struct Known {
    /// Where questions of followers go.
    ask: Sender<String>,
    point: Option<Point>,
    /// The stream had records when it was looked at, so that followers may have something to lose.
    had_records: bool,
    records: u64,
    bytes: u64,
    /// For how long records are kept.
    kept: Duration,
    /// When records were stored, by their sequences; of older ones not all.
    stored: VecDeque<(u64, Instant)>,
    batches: u64,
    batches_failed: u64,
    followers: BTreeMap<String, (Report, Instant)>,
}

impl Known {
    fn new(ask: Sender<String>) -> Known {
        Known {
            ask,
            point: None,
            had_records: false,
            records: 0,
            bytes: 0,
            kept: Duration::ZERO,
            stored: VecDeque::new(),
            batches: 0,
            batches_failed: 0,
            followers: BTreeMap::new(),
        }
    }

    /// Takes in a follower's report.
    fn take(&mut self, name: &str, report: Report, received: Instant) {
        let before = self.followers.get(name).map(|(report, _)| &*report.barrier);
        if before != Some(&*report.barrier) && barriers::is_number(&report.barrier) {
            let _ = self.ask.try_send(report.barrier.clone());
        }
        self.followers.insert(name.to_owned(), (report, received));
    }
}

/// The way to the thread; dropped, it ends.
pub(crate) struct Publisher {
    orders: UnboundedSender<Order>,
    known: Arc<Mutex<Known>>,
    asked: Receiver<String>,
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publisher {
    /// Starts the thread. `kept`: the state directory and the source, where state is kept;
    /// `making`: how batches are written, if they are.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start(
        place: &Location,
        feed: &config::Feed,
        mirror: &str,
        kept: Option<(&Path, &Path)>,
        making: Option<Making>,
    ) -> io::Result<Publisher> {
        let (orders, taken) = unbounded_channel();
        let (ask, asked) = bounded(QUESTIONS);
        let known = Arc::new(Mutex::new(Known::new(ask)));
        let Location::Feed { feed: name, .. } = place else { return Err(io::ErrorKind::InvalidInput.into()) };
        let life = Life {
            mirror: mirror.to_owned(),
            place: place.clone(),
            name: name.clone(),
            config: feed.clone(),
            file: kept.map(|(dir, source)| PublishedFile::new(dir, mirror, source)),
            known: Arc::clone(&known),
            writer: making.map(Writer::start).transpose()?,
            link: None,
            at: None,
            unsure: None,
            owes_everything: false,
            before: BTreeSet::new(),
            fenced: None,
            held: None,
            holds: false,
            identity: Identity::default(),
            stored: 0,
        };
        let runtime = client::runtime()?;
        std::thread::Builder::new().name("fansync-feed".into()).spawn(move || {
            runtime.block_on(life.run(taken));
            // Not to wait for what its tasks wait for.
            runtime.shutdown_background();
        })?;
        Ok(Publisher { orders, known, asked })
    }

    /// Questions of followers, and the way of their answers. Who has them keeps no thread running.
    pub(crate) fn questions(&self) -> Questions {
        let orders = self.orders.downgrade();
        let answer = move |numbers| {
            if let Some(orders) = orders.upgrade() {
                let _ = orders.send(Order::Answer(numbers));
            }
        };
        Questions { asked: self.asked.clone(), answer: Box::new(answer) }
    }

    /// Asks whether records can be stored.
    ///
    /// # Errors
    /// As [`publication`].
    pub(crate) fn probe(&self) -> io::Result<Publication> {
        let (publication, promise) = publication()?;
        let _ = self.orders.send(Order::Probe(promise));
        Ok(publication)
    }

    /// Stores what is to be looked at in the tree with this identity; `everything`: all of it;
    /// `last`: only when all before is held; `inline`: where the record is to hold a batch.
    ///
    /// # Errors
    /// As [`publication`].
    pub(crate) fn publish(
        &self,
        identity: Identity,
        everything: bool,
        last: bool,
        entries: Vec<Item>,
        inline: Option<Inline>,
    ) -> io::Result<Publication> {
        let (publication, promise) = publication()?;
        let _ = self.orders.send(Order::Publish { identity, everything, last, entries, inline, promise });
        Ok(publication)
    }

    /// Publishes to the followers whether the source is held.
    pub(crate) fn hold(&self, held: bool) {
        let _ = self.orders.send(Order::Hold(held));
    }

    /// Whether the stream has, or had, records: then followers may have something to lose.
    pub(crate) fn had_records(&self) -> bool {
        lock(&self.known).had_records
    }

    /// Where the feed is, and its followers.
    pub(crate) fn status(&self) -> status::Feed {
        let known = lock(&self.known);
        let point = known.point.unwrap_or_default();
        let incarnation = mark::hex(&point.incarnation.to_be_bytes());
        let shown = |(name, (report, received)): (&String, &(Report, Instant))| {
            let silent = received.elapsed().as_secs_f64();
            // A position of another incarnation says nothing about this one.
            let sequence = if report.incarnation == incarnation { report.sequence } else { 0 };
            let behind = point.sequence.saturating_sub(sequence);
            status::Follower {
                name: name.clone(),
                state: if received.elapsed() > SILENT { status::SILENT.into() } else { report.state.clone() },
                reason: report.reason.clone(),
                sequence,
                behind,
                lag_seconds: match age(&known.stored, sequence + 1) {
                    _ if behind == 0 => 0.0,
                    Some(age) if sequence > 0 => age.as_secs_f64(),
                    // Of records from before the start it knows more.
                    _ => report.lag_seconds + silent,
                },
                failed: report.failed,
                reported_seconds: silent,
                upstream: report.upstream.clone(),
                serve: report.serve.clone(),
                version: report.version.clone(),
            }
        };
        let followers = known.followers.iter().map(shown).collect();
        status::Feed {
            stream: point.stream,
            sequence: point.sequence,
            records: known.records,
            record_bytes: known.bytes,
            kept_seconds: known.kept.as_secs_f64(),
            batches: known.batches,
            batches_failed: known.batches_failed,
            incarnation: incarnation.clone(),
            ..status::Feed::default()
        }
        .of(followers)
    }
}

struct Life {
    mirror: String,
    place: Location,
    name: String,
    config: config::Feed,
    file: Option<PublishedFile>,
    known: Arc<Mutex<Known>>,
    writer: Option<Writer>,
    link: Option<Client>,
    /// The last record that is stored, as far as is known.
    at: Option<Point>,
    /// A record that was sent, and may be stored behind that.
    unsure: Option<Vec<u8>>,
    /// The next record is to be one of everything.
    owes_everything: bool,
    /// Its earlier incarnations.
    before: BTreeSet<u64>,
    /// Another publisher stores records.
    fenced: Option<String>,
    /// What is to be published to followers, if that is not known to be stored.
    held: Option<bool>,
    /// The source is held.
    holds: bool,
    identity: Identity,
    /// When the last record was known to be stored, as [`micros`]; 0 where that is not known.
    stored: u64,
}

impl Life {
    async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        let mut waiting = VecDeque::new();
        loop {
            let order = match waiting.pop_front() {
                Some(order) => order,
                None => match orders.recv().await {
                    Some(order) => order,
                    None => return,
                },
            };
            let work = async {
                match order {
                    Order::Probe(promise) => {
                        let said = self.open().await.map_err(not).err().unwrap_or(Published::Stored);
                        promise.keep(said);
                    }
                    Order::Publish { identity, everything, last, entries, inline, promise } => {
                        self.identity = identity;
                        let said = self.publish(everything, last, entries, inline).await;
                        promise.keep(said.map_err(not).err().unwrap_or(Published::Stored));
                        self.save();
                    }
                    Order::Hold(held) => {
                        (self.held, self.holds) = (Some(held), held);
                        if let Err(trouble) = self.tell_held().await {
                            tracing::debug!(mirror = %self.mirror, "the hold of the source is published later: {}", trouble.why);
                        }
                        self.save();
                    }
                    Order::Answer(numbers) => {
                        if let Err(trouble) = self.answer(numbers).await {
                            tracing::debug!(mirror = %self.mirror, "a follower's question is not answered: {}", trouble.why);
                        }
                        self.save();
                    }
                }
            };
            // What waits for a server must not keep the thread when its owner has gone.
            tokio::pin!(work);
            let mut closed = false;
            loop {
                tokio::select! {
                    () = &mut work => break,
                    order = orders.recv(), if !closed => match order {
                        Some(order) => waiting.push_back(order),
                        None => closed = true,
                    },
                }
                if closed {
                    return;
                }
            }
        }
    }

    fn save(&mut self) {
        if let (Some(file), Some(at)) = (&self.file, &self.at)
            && !self.owes_everything
            && let Err(error) = file.save(at)
        {
            tracing::warn!(mirror = %self.mirror, "where the feed ends cannot be saved, so followers compare everything after a restart: {error}");
            self.file = None;
        }
    }

    /// Connects, and looks whether the stream ends where it was left.
    async fn open(&mut self) -> Result<(), Trouble> {
        if let Some(why) = &self.fenced {
            return Err(Trouble::config(why.clone()));
        }
        let name = format!("fansync {}", self.mirror);
        if self.link.as_ref().is_some_and(|link| link.connection_state() == async_nats::connection::State::Disconnected) {
            // It connects again by itself, and does not say what hinders it.
            client::connect(&self.place, &self.config.login, &name, None).await?;
        }
        if self.link.is_none() {
            let client = client::connect(&self.place, &self.config.login, &name, None).await?;
            self.follow_reports(&client).await?;
            self.watch_retention(&client);
            self.link = Some(client);
        }
        let client = self.link.clone().ok_or_else(|| Trouble::away("not connected"))?;
        let (info, last) = self.end(&client).await?;
        {
            let mut known = lock(&self.known);
            known.had_records |= info.last > 0;
            known.kept = kept(&info, &self.config);
        }
        let bytes = last.as_ref().map(|stored| stored.payload.clone());
        let last = last.and_then(|stored| Some((stored.sequence, Record::decode(&stored.payload).ok()?)));
        let left = self.at.or_else(|| self.file.as_ref().and_then(PublishedFile::load));
        let found = last.as_ref().map(|(sequence, record)| Point::of(*sequence, record));
        match left {
            Some(at) if at.stream == info.created && info.last == at.sequence && found.is_none_or(|found| found == at) => {
                self.at = Some(at);
            }
            // A record whose acknowledgement was lost, or came after the process before ended.
            Some(at)
                if at.stream == info.created
                    && found.is_some_and(|f| {
                        f.sequence == info.last
                            && f.incarnation == at.incarnation
                            && f.sequence > at.sequence
                            && f.number.wrapping_sub(at.number) == f.sequence - at.sequence
                    })
                    && (self.at.is_none() || self.unsure.as_deref() == bytes.as_deref()) =>
            {
                self.at = found;
            }
            left => {
                if self.at.is_some() || left.is_some() {
                    tracing::warn!(
                        mirror = %self.mirror, feed = %self.name,
                        "the stream does not end where it was left (it was set back, made anew, or published to by another): \
                         every follower compares its whole tree"
                    );
                }
                self.begin_anew(info.created, info.last);
            }
        }
        self.unsure = None;
        self.stored = micros();
        // A hold from before the start is over, or is published again.
        if last.is_some_and(|(_, record)| record.held) && self.held.is_none() {
            self.held = Some(false);
        }
        self.note();
        Ok(())
    }

    /// What the server says of the stream, and its last record: both of one moment.
    async fn end(&self, client: &Client) -> Result<(client::Info, Option<client::Stored>), Trouble> {
        let mut tries = 0;
        loop {
            let info = client::stream(client, &self.stream_config()).await?;
            let last = client::get(client, &stream(&self.name), Which::Last(&subject(&self.name))).await?;
            tries += 1;
            if tries == 5 || last.as_ref().is_none_or(|stored| stored.sequence <= info.last) {
                return Ok((info, last));
            }
        }
    }

    fn begin_anew(&mut self, created: u64, last: u64) {
        self.before.extend(self.at.map(|at| at.incarnation));
        self.at = Some(Point { stream: created, incarnation: fastrand::u64(1..), number: 0, sequence: last });
        lock(&self.known).stored.clear();
        self.owes_everything = true;
    }

    fn note(&self) {
        lock(&self.known).point = self.at.filter(|_| !self.owes_everything);
    }

    fn stream_config(&self) -> serde_json::Value {
        json!({
            "name": stream(&self.name),
            "subjects": [subject(&self.name)],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "max_age": self.config.keep.as_nanos() as u64,
            "max_bytes": self.config.keep_bytes,
            "num_replicas": self.config.replicas,
            "duplicate_window": WINDOW.min(self.config.keep).as_nanos() as u64,
            "allow_direct": true,
            "republish": { "src": subject(&self.name), "dest": live_subject(&self.name) },
        })
    }

    /// Learns where followers are, and goes on listening.
    async fn follow_reports(&self, client: &Client) -> Result<(), Trouble> {
        let all = position_subject(&self.name, "*");
        let mut live = client.subscribe(all.clone()).await.map_err(|e| Trouble::away(e.to_string()))?;
        let config = json!({
            "name": positions(&self.name),
            "subjects": [&all, relay_subject(&self.name, "*")],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "max_msgs_per_subject": 1,
            "max_age": self.config.keep.as_nanos() as u64,
            "num_replicas": self.config.replicas,
            "duplicate_window": WINDOW.min(self.config.keep).as_nanos() as u64,
            "allow_direct": true,
        });
        let info = client::stream(client, &config).await?;
        let reports = position_subject(&self.name, "");
        for subject in info.subjects.into_iter().filter(|subject| subject.starts_with(&reports)) {
            if let Some(stored) = client::get(client, &positions(&self.name), Which::Last(&subject)).await? {
                take_report(&self.known, &subject, &stored.payload);
            }
        }
        let known = Arc::clone(&self.known);
        tokio::spawn(async move {
            while let Some(message) = live.next().await {
                take_report(&known, message.subject.as_str(), &message.payload);
            }
        });
        Ok(())
    }

    /// Looks now and then how far back the stream goes.
    fn watch_retention(&self, client: &Client) {
        let (client, known, config, name) = (client.clone(), Arc::clone(&self.known), self.config.clone(), stream(&self.name));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                // Without an answer what was known goes on to hold.
                if let Ok(info) = client::look(&client, &name).await {
                    lock(&known).kept = kept(&info, &config);
                }
            }
        });
    }

    async fn publish(&mut self, everything: bool, last: bool, entries: Vec<Item>, inline: Option<Inline>) -> Result<(), Trouble> {
        if self.at.is_none() || self.unsure.is_some() || self.link.is_none() {
            self.open().await?;
        }
        self.tell_held().await?;
        if everything {
            self.owes_everything = true;
        }
        if self.owes_everything {
            return self.store(Content { everything: true, ..Content::default() }).await;
        }
        let parts = split(entries);
        let mut batch = match (&parts[..], inline) {
            ([entries], Some(inline)) => self.write_batch(entries, inline).await,
            _ => None,
        };
        for entries in parts {
            self.store(Content { last, entries, batch: batch.take(), ..Content::default() }).await?;
            // The stream was found to be another one: everything went instead.
            if self.owes_everything {
                return self.store(Content { everything: true, ..Content::default() }).await;
            }
        }
        Ok(())
    }

    /// Answers followers that asked before a flush which has ended: all that had changed is stored.
    async fn answer(&mut self, answers: Vec<String>) -> Result<(), Trouble> {
        if self.at.is_none() || self.unsure.is_some() || self.link.is_none() {
            self.open().await?;
        }
        // A record without the flag would end a hold, and who compares everything asks again.
        if self.holds || self.held.is_some() || self.owes_everything {
            return Ok(());
        }
        self.store(Content { answers, ..Content::default() }).await
    }

    /// The state of these entries as one rsync writes it down, now that the record before is
    /// stored; `None` where that does not come out right.
    async fn write_batch(&self, entries: &[Item], inline: Inline) -> Option<Batch> {
        let writer = self.writer.as_ref()?;
        let (stored, made) = (self.stored, micros());
        let root = inline.root.try_clone().ok()?;
        let (reply, replied) = tokio::sync::oneshot::channel();
        let reply = Box::new(move |written| _ = reply.send(written));
        writer.write(writer::Order { root: inline.root, list: inline.list, reply });
        let written = replied.await.unwrap_or_else(|_| Err("the thread that writes batches has ended".into()));
        let batch = written.and_then(|batch| match () {
            () if !unchanged(&root, entries) => Err("the source changed meanwhile".into()),
            () if batch.bytes.len() > Record::room(entries) => Err("it is too large for a record".into()),
            () => Ok(Batch { stored, made, ..batch }),
        });
        let mut known = lock(&self.known);
        match &batch {
            Ok(_) => known.batches += 1,
            Err(why) => {
                known.batches_failed += 1;
                tracing::debug!(mirror = %self.mirror, feed = %self.name, "a record goes without a batch: {why}");
            }
        }
        batch.ok()
    }

    /// Publishes what is not known to be stored.
    async fn tell_held(&mut self) -> Result<(), Trouble> {
        let Some(held) = self.held else { return Ok(()) };
        if self.at.is_none() || self.link.is_none() {
            self.open().await?;
        }
        self.store(Content { everything: self.owes_everything, held, ..Content::default() }).await?;
        self.held = None;
        Ok(())
    }

    /// Stores one record.
    async fn store(&mut self, content: Content) -> Result<(), Trouble> {
        let client = self.link.clone().ok_or_else(|| Trouble::away("not connected"))?;
        let Content { mut everything, held, last, mut entries, mut batch, mut answers } = content;
        if everything {
            entries.clear();
        }
        // Once more where the stream was not what it was.
        for _ in 0..3 {
            let at = self.at.ok_or_else(|| Trouble::away("not connected"))?;
            let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            let record = Record {
                incarnation: at.incarnation,
                number: at.number + 1,
                stream: at.stream,
                identity: self.identity,
                millis,
                everything,
                held,
                last: last && !everything,
                entries: std::mem::take(&mut entries),
                batch: batch.take(),
            };
            let payload = record.encode();
            match self.send(&client, &at, &record, &payload, &answers).await {
                Ok(sequence) => {
                    self.at = Some(Point { number: at.number + 1, sequence, ..at });
                    self.stored = micros();
                    self.owes_everything &= !everything;
                    let mut known = lock(&self.known);
                    (known.records, known.bytes) = (known.records + 1, known.bytes + payload.len() as u64);
                    remember(&mut known.stored, sequence);
                    drop(known);
                    self.note();
                    return Ok(());
                }
                Err(Refused::WrongLast) => {
                    self.judge(&client, &payload, &at).await?;
                    self.stored = micros();
                    if self.at.is_some_and(|now| now.incarnation == at.incarnation) {
                        self.owes_everything &= !everything;
                        return Ok(()); // it is stored
                    }
                    everything = true;
                    answers.clear();
                }
                Err(Refused::Silent(why)) => {
                    self.unsure = Some(payload);
                    return Err(Trouble::away(why));
                }
                Err(Refused::Not(trouble)) => {
                    self.unsure = Some(payload);
                    return Err(trouble);
                }
            }
        }
        Err(Trouble::away("the stream changes all the time: is there another publisher?"))
    }

    async fn send(
        &self,
        client: &Client,
        at: &Point,
        record: &Record,
        payload: &[u8],
        answers: &[String],
    ) -> Result<u64, Refused> {
        let id = format!("{:016x}-{}-{}", at.incarnation, record.number, record.millis);
        let (stream, subject) = (stream(&self.name), subject(&self.name));
        let mut tries = 0;
        loop {
            match client::publish(client, &stream, &subject, (&id, at.sequence, answers), payload).await {
                Err(Refused::Silent(_)) if tries + 1 < TRIES => tries += 1,
                other => return other,
            }
        }
    }

    /// The stream does not end behind what was stored last: it is this record, whose
    /// acknowledgement was lost, or the stream is not what it was, or another publisher is there.
    async fn judge(&mut self, client: &Client, payload: &[u8], at: &Point) -> Result<(), Trouble> {
        let (info, last) = self.end(client).await?;
        if let Some(stored) = &last {
            if stored.payload == payload {
                self.at = Some(Point { number: at.number + 1, sequence: stored.sequence, ..*at });
                self.note();
                return Ok(());
            }
            // One of before that waited for the connection is no other's.
            let own = |incarnation| incarnation == at.incarnation || self.before.contains(&incarnation);
            let other = Record::decode(&stored.payload).ok().filter(|r| !own(r.incarnation));
            if let Some(other) = other.filter(|_| stored.sequence > at.sequence && info.created == at.stream) {
                let why = format!(
                    "another publisher stores records in the feed {} (its incarnation is {:016x}): one source has one publisher. \
                     Stop it, and restart this one",
                    self.name, other.incarnation
                );
                self.fenced = Some(why.clone());
                return Err(Trouble::config(why));
            }
        }
        tracing::warn!(
            mirror = %self.mirror, feed = %self.name,
            "the stream does not end where it was left (it was set back, made anew, or published to by another): \
             every follower compares its whole tree"
        );
        self.begin_anew(info.created, info.last);
        self.note();
        Ok(())
    }
}

fn not(trouble: Trouble) -> Published {
    Published::Not { config: trouble.config, why: trouble.why }
}

/// Records whose times are remembered.
const REMEMBERED: usize = 4_096;

/// Takes in a record that is stored now.
fn remember(stored: &mut VecDeque<(u64, Instant)>, sequence: u64) {
    if stored.len() >= REMEMBERED {
        let mut nth = 0;
        stored.retain(|_| {
            nth += 1;
            nth % 2 == 1
        });
    }
    stored.push_back((sequence, Instant::now()));
}

/// The age of a record, or of the last one before it that is remembered; `None` before all of
/// these.
fn age(stored: &VecDeque<(u64, Instant)>, sequence: u64) -> Option<Duration> {
    let before = stored.partition_point(|(at, _)| *at <= sequence).checked_sub(1)?;
    stored.get(before).map(|(_, at)| at.elapsed())
}

/// For how long records are kept: `keep`, or less where the stream is full by then.
fn kept(info: &client::Info, config: &config::Feed) -> Duration {
    let full = config.keep_bytes > 0 && info.bytes / 9 >= config.keep_bytes / 10;
    match info.first.filter(|_| full) {
        Some(first) => config.keep.min(SystemTime::now().duration_since(first).unwrap_or_default()),
        None => config.keep,
    }
}

/// Takes in a follower's report.
fn take_report(known: &Mutex<Known>, subject: &str, payload: &[u8]) {
    let Some(name) = subject.rsplit('.').next() else { return };
    let Ok(report) = serde_json::from_slice::<Report>(payload) else { return };
    let age = Duration::try_from_secs_f64(now() - report.unix).unwrap_or_default();
    let received = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
    lock(known).take(name, report, received);
}

/// The time since the host was started, in microseconds.
fn micros() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| Duration::from(now).as_micros() as u64)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_taken_up_once_and_only_a_number_is_one() {
        let (ask, asked) = bounded(10);
        let mut known = Known::new(ask);
        let mut report = |name: &str, barrier: &str| {
            known.take(name, Report { barrier: barrier.into(), ..Report::default() }, Instant::now());
            asked.try_iter().collect::<Vec<_>>()
        };
        let (one, two) = (barriers::shown(1), barriers::shown(2));
        assert!(report("a", "").is_empty());
        assert_eq!(report("a", &one), std::slice::from_ref(&one));
        assert!(report("a", &one).is_empty() && report("a", "x\r\nNats-Msg-Id: y").is_empty());
        assert_eq!((report("b", &one), report("a", &two)), (vec![one], vec![two]));
    }

    #[test]
    fn times_of_records_are_few_and_none_is_too_young() {
        let mut stored = VecDeque::new();
        assert_eq!(age(&stored, 1), None);
        for sequence in 1..=10_000 {
            remember(&mut stored, sequence);
            assert!(stored.len() <= REMEMBERED);
        }
        assert_eq!(stored.front().map(|(at, _)| *at), Some(1));
        let ages: Vec<Duration> = (1..=10_001).rev().map(|sequence| age(&stored, sequence).expect("it is known")).collect();
        assert!(ages.is_sorted(), "an older record is younger");
        stored.pop_front();
        assert_eq!(age(&stored, 1), None);
    }
}
