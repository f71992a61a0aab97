//! The log on standard error: a line that cannot be written costs that line, and nothing else.
//!
//! Promises: no thread waits for the reader of the log, and none ends because the log cannot be
//! written (a full disk, a pipe whose reader has gone or stands still). Lines that were not written
//! are counted ([`lost`]), and the log says how many are missing once it can be written again.
//! Under the journal each line begins with its priority (sd-daemon(3)), and the time is left to the
//! journal. On a terminal the time is local and levels have colours.
//!
//! How: a line goes into a queue with a bound in bytes; one thread writes. What does not fit is
//! dropped and counted.
//!
//! Gives up: a process that is killed takes the lines with it that are still queued.
//! tracing-appender's writer bounds lines and not bytes, does not report a write that failed, and
//! prints to standard output when its end takes long.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing::Metadata;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::sys::patient::Patient;

/// What the log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct LogConfig {
    /// Form of a line.
    pub(crate) format: LogFormat,
    /// The least level that is written.
    pub(crate) level: Level,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Something is wrong and needs an administrator.
    Error,
    /// Something is wrong and is being dealt with.
    Warn,
    /// What the daemon does, in large.
    Info,
    /// Each batch.
    Debug,
    /// Each event.
    Trace,
}

impl From<Level> for tracing::Level {
    fn from(level: Level) -> tracing::Level {
        match level {
            Level::Error => tracing::Level::ERROR,
            Level::Warn => tracing::Level::WARN,
            Level::Info => tracing::Level::INFO,
            Level::Debug => tracing::Level::DEBUG,
            Level::Trace => tracing::Level::TRACE,
        }
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { format: LogFormat::Text, level: Level::Info }
    }
}

/// Bytes that are queued at most.
const QUEUE_BYTES: usize = 1 << 20;
/// How long the end of the process waits for what is queued.
const END_WAIT: Duration = Duration::from_secs(2);

/// Lines of the log that were not written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Lost {
    /// How many, since the start.
    pub(crate) lines: u64,
    /// Why the last one was not.
    pub(crate) reason: String,
    /// The log cannot be written at present.
    pub(crate) failing: bool,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A line has been taken from the queue and is being written.
    writing: bool,
    has_thread: bool,
    lost: Lost,
    /// Of these, lines that the log has not mentioned.
    unmentioned: u64,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    drained: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Vec<u8>) {
        let mut queue = self.lock();
        if queue.bytes + line.len() > QUEUE_BYTES {
            queue.lose("it is written too slowly");
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line);
        drop(queue);
        self.filled.notify_one();
    }

    /// Writes what is queued, for ever. `mention`: logs how many lines are missing.
    fn write_to(&self, mut out: impl Write, mention: impl Fn(u64, &str)) {
        let mut torn = false;
        let mut queue = self.lock();
        loop {
            let Some(line) = queue.lines.pop_front() else {
                self.drained.notify_all();
                queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.bytes -= line.len();
            queue.writing = true;
            drop(queue);
            let written = write_line(&mut out, &line, &mut torn);
            queue = self.lock();
            queue.writing = false;
            match written {
                Ok(()) => {
                    queue.lost.failing = false;
                    // While the queue is full, one more line would only be dropped as well.
                    if queue.unmentioned > 0 && queue.bytes < QUEUE_BYTES / 2 {
                        let lines = std::mem::take(&mut queue.unmentioned);
                        let reason = queue.lost.reason.clone();
                        drop(queue);
                        mention(lines, &reason);
                        queue = self.lock();
                    }
                }
                Err(error) => {
                    queue.lose(&error.to_string());
                    queue.lost.failing = true;
                }
            }
        }
    }

    /// Waits until everything queued is written, at most `patience`.
    fn wait_drained(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut queue = self.lock();
        while !queue.lines.is_empty() || queue.writing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.drained.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Queue {
    fn lose(&mut self, reason: &str) {
        self.lost.lines += 1;
        self.unmentioned += 1;
        if self.lost.reason != reason {
            reason.clone_into(&mut self.lost.reason);
        }
    }
}

/// `torn`: the last line was written in part only, so that the next one has to begin anew.
fn write_line(out: &mut impl Write, line: &[u8], torn: &mut bool) -> io::Result<()> {
    if *torn {
        out.write_all(b"\n")?;
        *torn = false;
    }
    let mut rest = line;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                rest = &rest[n..];
                *torn = !rest.is_empty();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What the daemon logs goes through here.
#[derive(Clone)]
struct Log {
    shared: Arc<Shared>,
    journal: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

impl Log {
    fn line(&self, level: tracing::Level, text: &[u8]) {
        let line = if self.journal { with_priority(level, text) } else { text.to_vec() };
        self.shared.push(line);
    }

    fn start_thread(&self) -> io::Result<()> {
        if std::mem::replace(&mut self.shared.lock().has_thread, true) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let write = move || {
            shared.write_to(Patient(io::stderr()), |lines, reason| {
                tracing::warn!(lines, reason, "lines of the log could not be written and are missing here");
            });
        };
        std::thread::Builder::new().name("fansync-log".into()).spawn(write).map(drop)
    }
}

/// The writer of one line.
struct Line<'a> {
    log: &'a Log,
    level: tracing::Level,
}

impl Write for Line<'_> {
    /// The formatter writes a line by one call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.log.line(self.level, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { log: self, level: tracing::Level::INFO }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        Line { log: self, level: *meta.level() }
    }
}

/// Each line of `text` with the priority that sd-daemon(3) gives to `level`.
fn with_priority(level: tracing::Level, text: &[u8]) -> Vec<u8> {
    let priority: &[u8] = match level {
        tracing::Level::ERROR => b"<3>",
        tracing::Level::WARN => b"<4>",
        tracing::Level::INFO => b"<6>",
        _ => b"<7>",
    };
    let mut out = Vec::with_capacity(text.len() + 2 * priority.len());
    for line in text.split_inclusive(|b| *b == b'\n') {
        out.extend_from_slice(priority);
        out.extend_from_slice(line);
    }
    out
}

/// Whether standard error leads to the journal: `JOURNAL_STREAM` has its device and inode then
/// (systemd.exec(5)).
fn is_journal() -> bool {
    let stated = std::env::var("JOURNAL_STREAM").ok();
    let stat = nix::sys::stat::fstat(io::stderr().as_fd()).ok();
    stated.zip(stat).is_some_and(|(stated, stat)| names_file(&stated, stat.st_dev, stat.st_ino))
}

fn names_file(stated: &str, dev: u64, ino: u64) -> bool {
    stated.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(dev) && i.parse() == Ok(ino))
}

/// From here on what is logged goes to standard error; it is queued until [`serve`] or [`finish`].
/// Once in a process.
pub(crate) fn begin(config: LogConfig) {
    let log = LOG.get_or_init(|| Log { shared: Arc::default(), journal: is_journal() }).clone();
    let journal = log.journal;
    let builder = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::from(config.level))
        .with_writer(log)
        .with_target(false)
        .log_internal_errors(false);
    // The client of NATS reports each message that it takes.
    let least = tracing::Level::from(config.level);
    let only = Targets::new().with_default(least).with_target("async_nats", least.min(tracing::Level::ERROR));
    match config.format {
        LogFormat::Json => builder.json().flatten_event(true).finish().with(only).init(),
        LogFormat::Text if journal => builder.with_ansi(false).without_time().finish().with(only).init(),
        LogFormat::Text if io::stderr().is_terminal() => {
            builder.with_ansi(has_colours()).with_timer(LocalTime).finish().with(only).init();
        }
        LogFormat::Text => builder.with_ansi(false).finish().with(only).init(),
    }
}

/// Whether a terminal is to get colours (no-color.org).
fn has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// For people at a terminal: `Nov 29 14:03:22`. A file has UTC, which sorts and has no gaps.
struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        match crate::sys::localtime::local(SystemTime::now()) {
            Some(t) => {
                let month = MONTHS.get(t.month).copied().unwrap_or_default();
                write!(out, "{month} {:02} {:02}:{:02}:{:02}", t.day, t.hour, t.minute, t.second)
            }
            None => tracing_subscriber::fmt::time::SystemTime.format_time(out),
        }
    }
}

/// Starts the thread that writes the log; to be called once the process has given up the
/// capabilities that it does not need.
///
/// # Errors
/// No thread can be started.
pub(crate) fn serve() -> io::Result<()> {
    LOG.get().map_or(Ok(()), Log::start_thread)
}

/// Writes what is queued, at most for a moment: before the process ends.
pub fn finish() {
    if let Some(log) = LOG.get()
        && log.start_thread().is_ok()
    {
        log.shared.wait_drained(END_WAIT);
    }
}

/// What could not be logged so far.
pub(crate) fn lost() -> Lost {
    LOG.get().map(|log| log.shared.lock().lost.clone()).unwrap_or_default()
}

/// Writes `text`, whole lines, to standard error: through the log where there is one.
pub(crate) fn to_stderr(level: tracing::Level, text: &str) {
    match LOG.get() {
        Some(log) => log.line(level, text.as_bytes()),
        None => {
            let line = if is_journal() { with_priority(level, text.as_bytes()) } else { text.into() };
            // There is no other place to report it.
            let _ = Patient(io::stderr()).write_all(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Takes as many bytes as it is given leave for; `Err` is returned to the writer.
    struct Gate {
        leave: Receiver<Result<usize, i32>>,
        out: Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.leave.recv().map_err(|_| io::Error::other("the test has ended"))? {
                Ok(n) => {
                    let n = n.min(bytes.len());
                    self.out.send(bytes[..n].to_vec()).map_err(io::Error::other)?;
                    Ok(n)
                }
                Err(errno) => Err(io::Error::from_raw_os_error(errno)),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Leave = Sender<Result<usize, i32>>;

    fn log() -> (Arc<Shared>, Leave, Receiver<Vec<u8>>) {
        let (give, leave) = channel();
        let (out, written) = channel();
        let shared: Arc<Shared> = Arc::default();
        let (writer, notices) = (Arc::clone(&shared), Arc::clone(&shared));
        std::thread::spawn(move || {
            writer.write_to(Gate { leave, out }, |lines, why| notices.push(format!("missing {lines}: {why}\n").into()));
        });
        (shared, give, written)
    }

    #[test]
    fn lines_that_fail_are_counted_and_mentioned_once_it_works() {
        let (log, give, written) = log();
        for line in ["one\n", "two\n", "three\n"] {
            log.push(line.into());
        }
        // The first fails in its middle, so the next one that is written begins a line.
        for step in [Ok(2), Err(libc::ENOSPC), Err(libc::ENOSPC), Ok(9), Ok(9), Ok(99)] {
            give.send(step).unwrap();
        }
        let text: Vec<u8> = (0..4).flat_map(|_| written.recv().unwrap()).collect();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, "on\nthree\nmissing 2: No space left on device (os error 28)\n");
        log.wait_drained(Duration::from_secs(60));
        let lost = log.lock().lost.clone();
        assert_eq!((lost.lines, lost.failing), (2, false));
    }

    #[test]
    fn a_reader_that_stands_still_holds_up_no_thread() {
        let (log, give, written) = log();
        let line = vec![b'x'; 4096];
        for _ in 0..2 * QUEUE_BYTES / line.len() {
            log.push(line.clone());
        }
        let lost = log.lock().lost.clone();
        assert!(lost.lines >= 255 && lost.reason == "it is written too slowly", "{lost:?}");
        log.wait_drained(Duration::from_millis(1)); // comes back although nothing was written
        drop(written);
        drop(give);
    }

    #[test]
    fn priorities_of_the_journal() {
        assert_eq!(with_priority(tracing::Level::WARN, b"a\nb\n"), b"<4>a\n<4>b\n");
        assert_eq!(with_priority(tracing::Level::ERROR, b"a\n"), b"<3>a\n");
        assert_eq!(with_priority(tracing::Level::TRACE, b"a\n"), b"<7>a\n");
        assert!(names_file("9:35912", 9, 35912));
        for other in ["9:35913", "8:35912", "9", "", "9:35912:1"] {
            assert!(!names_file(other, 9, 35912), "{other}");
        }
    }
}
