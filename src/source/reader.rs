//! The reader: a thread that empties the kernel's event queues into buffers, and parses nothing.
//!
//! Promises:
//! - Bytes of one input arrive in the order the kernel gave them, whole reads at a time, none lost.
//!   When the engine is slow the reader has no empty buffer left and pauses; events then wait in
//!   the kernel, which has room for more than we have.
//! - After [`Reader::request_drain`], [`Item::Drained`] comes behind every event that was queued
//!   before the request.
//! - An idle reader sleeps in the kernel: no wake-ups, no timers.
//! - An input that fails is reported once ([`Item::Failed`]) and left alone; so is a reader that
//!   could not go on, for each of its inputs. So silence always means that there were no events.
//!
//! How it works. It sleeps until an input is readable, then drains all inputs at once: the first
//! event after a quiet time is not kept waiting. Behind that it waits a little before each next
//! drain, an eighth of `settle` first, doubling up to `settle` as long as drains find something.
//! Meanwhile the kernel merges events of one object, which is the cheapest stage of all: draining
//! every 2 ms gave 1.3-1.75 M events per CPU-second against 0.36 M when reading each event as it
//! comes (measured, 6.18). A drain that finds nothing ends the cadence.
//!
//! Filled buffers go through one [`Ring`] to the engine, empty ones come back through another;
//! their number bounds the memory. Two eventfds wake the sides: `wake` the engine, after a push
//! into a ring that was (nearly) empty; `control` the reader, for requests and when it is paused
//! for want of a buffer.
//!
//! Gives up: a record may wait up to `settle` while others keep coming.

use super::fan_decode;
use super::port::{Port, WaitFor};
use crate::ring::Ring;
use crate::sys::event::EventFd;
use crate::sys::queue::queued_bytes;
use crossbeam::queue::SegQueue;
use nix::sys::signal::SigSet;
use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::thread::JoinHandle;
use std::time::Duration;

/// The smallest buffer: holds any single record. fanotify's longest has two names of 255 bytes and
/// three handles of 128 with their heads, inotify's one name; both refuse to write a part of one
/// (`EINVAL`).
const MIN_BUF_BYTES: usize = 4096;

/// Which kind of records an input gives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Feed {
    /// For `fan_decode`.
    Fanotify,
    /// For `ino_decode`.
    Inotify,
}

impl Feed {
    /// What must be read so that all of `queued` (`FIONREAD`) has been; [`Feed::part`] returns how
    /// much a read was of it. inotify counts in bytes. fanotify answers 24 for each event, whatever
    /// follows its head (measured, 6.18), so events are counted; should a kernel answer with all
    /// bytes, this requests too much and the drain ends when the queue is empty.
    fn bound(self, queued: usize) -> usize {
        match self {
            Feed::Fanotify => queued.div_ceil(size_of::<libc::fanotify_event_metadata>()),
            Feed::Inotify => queued,
        }
    }

    fn part(self, read: &[u8]) -> usize {
        match self {
            Feed::Fanotify => fan_decode::events(read).count(),
            Feed::Inotify => read.len(),
        }
    }
}

/// A queue to read from.
#[derive(Debug)]
pub struct Input {
    /// What it gives.
    pub feed: Feed,
    /// A descriptor of the queue; set to non-blocking by [`Reader::spawn`], for all its duplicates.
    pub fd: OwnedFd,
}

/// How to read.
#[derive(Clone, Copy, Debug)]
pub struct ReaderConfig {
    /// The longest wait between two drains while events keep coming; zero: none.
    pub(crate) settle: Duration,
    /// Size of one buffer, at least [`MIN_BUF_BYTES`].
    pub(crate) buf_bytes: usize,
    /// How many buffers there are, at least 1.
    pub(crate) bufs: usize,
    /// Whether io_uring is used where it works.
    pub(crate) io_uring: bool,
}

impl Default for ReaderConfig {
    fn default() -> ReaderConfig {
        ReaderConfig { settle: Duration::from_millis(2), buf_bytes: 128 << 10, bufs: 16, io_uring: true }
    }
}

/// Bytes that one read gave, as a slice: whole records of one input. To be handed back with
/// [`Reader::give_back`].
#[derive(Debug)]
pub struct Buf {
    /// What the records are.
    pub(crate) feed: Feed,
    data: Box<[u8]>,
    len: usize,
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

/// What the reader has to say, in order.
#[derive(Debug)]
pub enum Item {
    /// Events.
    Buf(Buf),
    /// Everything that was queued before `request_drain` with this token has come.
    Drained(u64),
    /// An input gave an error or ended, and is not read any more: its changes count as lost from
    /// here on.
    Failed {
        /// What it gave.
        feed: Feed,
        /// The input's index.
        input: usize,
        /// Why.
        error: io::Error,
    },
}

/// Counters of one reader since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ReaderStats {
    /// Reads that gave bytes.
    pub(crate) reads: u64,
    /// Bytes they gave.
    pub(crate) bytes: u64,
    /// Times the thread came back from sleeping, for whatever reason.
    pub(crate) wakeups: u64,
    /// Times it went to sleep without a time limit because there was nothing to do.
    pub(crate) sleeps: u64,
    /// Times it had to pause because the engine held every buffer or the ring was full.
    pub(crate) full_pauses: u64,
}

#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    bytes: AtomicU64,
    wakeups: AtomicU64,
    sleeps: AtomicU64,
    full_pauses: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    filled: Ring<Item>,
    empty: Ring<Box<[u8]>>,
    /// Drains requested and not yet begun.
    requests: SegQueue<u64>,
    control: EventFd,
    wake: Arc<EventFd>,
    stop: AtomicBool,
    /// The reader waits for a buffer or for room. Dekker's pattern: the reader sets it, fences, and
    /// checks the rings once more; the engine changes a ring, fences, and checks it. One of the
    /// two sees the other.
    paused: AtomicBool,
    /// Inputs still to be reported as failed because the thread ended by itself.
    fallen: AtomicUsize,
    counters: Counters,
}

impl Shared {
    /// To be called after taking from or giving to a ring.
    fn moved(&self) {
        fence(Ordering::SeqCst);
        if self.paused.load(Ordering::Relaxed) {
            self.control.wake();
        }
    }
}

/// The engine's end of the reader thread; dropping it stops the thread.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    feeds: Vec<Feed>,
    backend: (&'static str, String),
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts the thread `fansync-reader` on `inputs`. `wake` becomes readable when there is
    /// something to [`Reader::pop`]; the engine clears it, pops until there is nothing, and only
    /// then sleeps on it.
    ///
    /// # Errors
    /// fcntl(2) on an input, no thread; `InvalidInput` for too small sizes.
    pub fn spawn(inputs: Vec<Input>, config: ReaderConfig, wake: Arc<EventFd>) -> io::Result<Reader> {
        if config.buf_bytes < MIN_BUF_BYTES || config.bufs == 0 {
            let why = format!("the reader needs at least one buffer of at least {MIN_BUF_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let feeds: Vec<Feed> = inputs.iter().map(|input| input.feed).collect();
        let port = Port::open(inputs.into_iter().map(|input| input.fd).collect(), config.io_uring)?;
        let empty = Ring::new(config.bufs);
        for _ in 0..config.bufs {
            let fits = empty.push(vec![0; config.buf_bytes].into_boxed_slice());
            debug_assert!(fits.is_ok(), "the ring has room for every buffer");
        }
        let shared = Arc::new(Shared {
            // Every buffer and every failure fits; drain tokens may have to wait.
            filled: Ring::new(config.bufs + feeds.len() + 4),
            empty,
            requests: SegQueue::new(),
            control: EventFd::new()?,
            wake,
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            fallen: AtomicUsize::new(0),
            counters: Counters::default(),
        });
        let backend = (port.name(), port.reason().to_owned());
        let worker = Worker { shared: shared.clone(), port, feeds: feeds.clone(), settle: config.settle };
        let thread = std::thread::Builder::new().name("fansync-reader".into()).spawn(move || worker.run())?;
        Ok(Reader { shared, feeds, backend, thread: Some(thread) })
    }

    /// The oldest item, if there is one. Never blocks.
    pub fn pop(&self) -> Option<Item> {
        let item = self.shared.filled.pop();
        if item.is_some() {
            self.shared.moved();
            return item;
        }
        let fallen = self.shared.fallen.load(Ordering::Acquire);
        if fallen == 0 {
            return None;
        }
        // The thread may have pushed between the check of the ring and its end.
        if let Some(item) = self.shared.filled.pop() {
            return Some(item);
        }
        self.shared.fallen.store(fallen - 1, Ordering::Relaxed);
        let error = io::Error::other("the reader thread could not go on; its message is in the log");
        Some(Item::Failed { feed: self.feeds[fallen - 1], input: fallen - 1, error })
    }

    /// Returns a buffer for the next read. Without it the reader pauses for good once all are out.
    pub fn give_back(&self, buf: Buf) {
        // No room only for a buffer of another reader, which is then just dropped.
        let _ = self.shared.empty.push(buf.data);
        self.shared.moved();
    }

    /// Asks for a drain: behind every event queued before this call, [`Item::Drained`] comes with
    /// `token`. Unanswered only if the reader has been stopped or has failed on all inputs by
    /// [`Item::Failed`].
    pub fn request_drain(&self, token: u64) {
        self.shared.requests.push(token);
        self.shared.control.wake();
    }

    /// `io_uring` or `poll`.
    pub(crate) fn backend_name(&self) -> &'static str {
        self.backend.0
    }

    /// Why this backend.
    pub(crate) fn backend_reason(&self) -> &str {
        &self.backend.1
    }

    /// Counters so far; each is exact, together they may be a moment apart.
    pub(crate) fn stats(&self) -> ReaderStats {
        let Counters { reads, bytes, wakeups, sleeps, full_pauses } = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ReaderStats {
            reads: get(reads),
            bytes: get(bytes),
            wakeups: get(wakeups),
            sleeps: get(sleeps),
            full_pauses: get(full_pauses),
        }
    }

    /// Ends the thread and waits for it, at most for one read. What is in the ring can still be
    /// popped; what is in the kernel's queues stays there until the inputs' last descriptors close.
    pub(crate) fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stop.store(true, Ordering::Release);
        self.shared.control.wake();
        // A panic there was caught and reported.
        let _ = thread.join();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread's side.
struct Worker {
    shared: Arc<Shared>,
    port: Port,
    feeds: Vec<Feed>,
    settle: Duration,
}

/// Why the thread leaves its loop.
enum End {
    Stopped,
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Failed(error)
    }
}

impl Worker {
    fn run(mut self) {
        // Signals are for the threads that wait for them; here they would only interrupt.
        let _ = SigSet::all().thread_block();
        let shared = self.shared.clone();
        let inputs = self.feeds.len();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.cadence()));
        match ended {
            Ok(End::Stopped) => return,
            Ok(End::Failed(error)) => tracing::error!(%error, "the reader cannot wait or read any more"),
            // The panic hook has logged it.
            Err(_) => tracing::error!("the reader panicked"),
        }
        shared.fallen.store(inputs, Ordering::Release);
        shared.wake.wake();
    }

    fn cadence(&mut self) -> End {
        match self.drain_for_ever() {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    fn drain_for_ever(&mut self) -> Result<std::convert::Infallible, End> {
        let mut pause = Duration::ZERO;
        // Whether the sleep before this drain ended with bytes.
        let mut began = false;
        loop {
            self.shared.control.clear();
            if self.shared.stop.load(Ordering::Acquire) {
                return Err(End::Stopped);
            }
            // Counted before the drain: what is requested while it runs must wait for the next one.
            let requested = self.shared.requests.len();
            let found = self.drain(requested > 0)? | std::mem::take(&mut began);
            for _ in 0..requested {
                if let Some(token) = self.shared.requests.pop() {
                    self.push(Item::Drained(token))?;
                }
            }
            if found {
                pause = if pause.is_zero() { self.settle / 8 } else { (pause * 2).min(self.settle) };
                if !pause.is_zero() {
                    self.sleep(WaitFor::Control, Some(pause))?;
                }
            } else {
                pause = Duration::ZERO;
                add(&self.shared.counters.sleeps, 1);
                began = self.sleep(WaitFor::Inputs, None)?;
            }
        }
    }

    /// Reads every input until it is empty, and returns whether anything came. `bounded`: until
    /// what was queued at the start has been read, so that a flush ends even when writers are
    /// faster than we are.
    fn drain(&mut self, bounded: bool) -> Result<bool, End> {
        let mut found = false;
        for input in 0..self.feeds.len() {
            let Some(fd) = self.port.input(input) else { continue };
            let feed = self.feeds[input];
            // An input without a known size (an eventfd) is small.
            let mut left = if bounded { queued_bytes(fd).map_or(usize::MAX, |queued| feed.bound(queued)) } else { usize::MAX };
            while left > 0 {
                let mut data = self.empty_buf()?;
                let read = self.port.read(input, &mut data);
                if bounded && let Ok(len) = read {
                    left = left.saturating_sub(feed.part(&data[..len]));
                }
                if !self.accept(input, data, read)? {
                    break;
                }
                found = true;
            }
        }
        Ok(found)
    }

    /// Passes on what a read of `input` gave, and returns whether that was bytes.
    fn accept(&mut self, input: usize, data: Box<[u8]>, read: io::Result<usize>) -> Result<bool, End> {
        let feed = self.feeds[input];
        let error = match read {
            Ok(len) if len > 0 => {
                add(&self.shared.counters.reads, 1);
                add(&self.shared.counters.bytes, len as u64);
                self.push(Item::Buf(Buf { feed, data, len }))?;
                return Ok(true);
            }
            Ok(_) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => error,
        };
        let kept = self.shared.empty.push(data);
        debug_assert!(kept.is_ok(), "a buffer that came out of the ring fits into it");
        if error.kind() != io::ErrorKind::WouldBlock {
            self.port.close(input);
            self.push(Item::Failed { feed, input, error })?;
        }
        Ok(false)
    }

    /// An empty buffer; pauses until there is one.
    fn empty_buf(&mut self) -> Result<Box<[u8]>, End> {
        loop {
            if let Some(buf) = self.shared.empty.pop() {
                return Ok(buf);
            }
            self.pause_until(|shared| !shared.empty.is_empty())?;
        }
    }

    /// Hands `item` to the engine; pauses while the ring is full.
    fn push(&mut self, mut item: Item) -> Result<(), End> {
        while let Err(back) = self.shared.filled.push(item) {
            item = back;
            self.pause_until(|shared| !shared.filled.is_full())?;
        }
        // With something else in the ring *after* the push the engine has not seen it empty since
        // that was pushed, so it is awake or has been woken. Looking before the push would lose the
        // case where it empties the ring in between.
        if self.shared.filled.len() <= 1 {
            self.shared.wake.wake();
        }
        Ok(())
    }

    /// Sleeps until the engine has moved something and `there` holds.
    fn pause_until(&mut self, there: impl Fn(&Shared) -> bool) -> Result<(), End> {
        add(&self.shared.counters.full_pauses, 1);
        let shared = self.shared.clone();
        shared.paused.store(true, Ordering::Relaxed);
        loop {
            shared.control.clear();
            fence(Ordering::SeqCst);
            if shared.stop.load(Ordering::Acquire) {
                return Err(End::Stopped);
            }
            if there(&shared) {
                shared.paused.store(false, Ordering::Relaxed);
                // A request may have been cleared away with the engine's wakes.
                shared.control.wake();
                return Ok(());
            }
            self.sleep(WaitFor::Control, None)?;
        }
    }

    /// Sleeps, and returns whether bytes came of it.
    fn sleep(&mut self, what: WaitFor, limit: Option<Duration>) -> Result<bool, End> {
        let (shared, mut got) = (self.shared.clone(), Vec::new());
        let mut spare = || shared.empty.pop();
        self.port.wait(&shared.control, what, limit, &mut spare, &mut |input, data, read| got.push((input, data, read)))?;
        add(&shared.counters.wakeups, 1);
        let mut found = false;
        for (input, data, read) in got {
            found |= self.accept(input, data, read)?;
        }
        Ok(found)
    }
}

/// Only the reader thread counts, so no read-modify-write is needed.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
