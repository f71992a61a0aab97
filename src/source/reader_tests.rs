//! Every test runs with each backend. Pipes and eventfds stand in for event queues where only the
//! transport is judged.

use super::*;
use crate::scratch::Scratch;
use crate::source::fan_decode::events;
use crate::sys::fanotify::{Group, Options};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{pipe, write};
use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;
use std::time::Instant;

/// Long enough for any machine; reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(60);

struct Rig {
    reader: Reader,
    wake: Arc<EventFd>,
}

impl Rig {
    fn new(inputs: Vec<Input>, config: ReaderConfig) -> Rig {
        let wake = Arc::new(EventFd::new().unwrap());
        Rig { reader: Reader::spawn(inputs, config, wake.clone()).unwrap(), wake }
    }

    /// The next item, sleeping as the engine does: clear, check, poll.
    fn next(&self) -> Item {
        self.next_within(PATIENCE).expect("an item before patience ends")
    }

    fn next_within(&self, limit: Duration) -> Option<Item> {
        let deadline = Instant::now() + limit;
        loop {
            self.wake.clear();
            if let Some(item) = self.reader.pop() {
                return Some(item);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            poll(&mut [PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)], PollTimeout::try_from(left).unwrap()).unwrap();
        }
    }

    /// The bytes of all buffers up to `Drained(token)`: fanotify's, inotify's.
    fn bytes_until(&self, token: u64) -> [Vec<u8>; 2] {
        let mut out = [Vec::new(), Vec::new()];
        loop {
            match self.next() {
                Item::Buf(buf) => {
                    out[usize::from(buf.feed == Feed::Inotify)].extend_from_slice(&buf);
                    self.reader.give_back(buf);
                }
                Item::Drained(found) if found == token => return out,
                other => panic!("not expected here: {other:?}"),
            }
        }
    }

    fn until(&self, what: &str, holds: impl Fn(ReaderStats) -> bool) {
        let begun = Instant::now();
        while !holds(self.reader.stats()) {
            assert!(begun.elapsed() < PATIENCE, "never came: {what}; {:?}", self.reader.stats());
            std::thread::yield_now();
        }
    }
}

fn config(io_uring: bool) -> ReaderConfig {
    ReaderConfig { io_uring, ..ReaderConfig::default() }
}

/// Runs `test` with each backend that works here.
fn with_each_backend(test: impl Fn(bool)) {
    test(false);
    let port = Port::open(Vec::new(), true).unwrap();
    match port.name() {
        "io_uring" => test(true),
        _ => eprintln!("SKIPPED with io_uring: {}", port.reason()),
    }
}

fn pipe_input() -> (Input, OwnedFd) {
    pipe_of(Feed::Inotify)
}

fn pipe_of(feed: Feed) -> (Input, OwnedFd) {
    let (fd, writer) = pipe().unwrap();
    (Input { feed, fd }, writer)
}

/// Writes the numbers 0..count as 8 bytes each; blocks when the pipe is full.
fn write_numbers(writer: OwnedFd, count: u64) {
    for n in 0..count {
        assert_eq!(write(&writer, &n.to_ne_bytes()), Ok(8));
    }
}

#[test]
fn bytes_arrive_in_order_whatever_the_ring_is() {
    const COUNT: u64 = 40_000;
    with_each_backend(|io_uring| {
        for (bufs, settle) in [(1, 0), (1, 2), (2, 0), (16, 2)] {
            let (input, writer) = pipe_input();
            let settle = Duration::from_millis(settle);
            let rig = Rig::new(vec![input], ReaderConfig { settle, bufs, buf_bytes: MIN_BUF_BYTES, io_uring });
            let thread = std::thread::spawn(move || write_numbers(writer, COUNT));
            let mut got = Vec::new();
            let error = loop {
                match rig.next() {
                    Item::Buf(buf) => {
                        got.extend_from_slice(&buf);
                        rig.reader.give_back(buf);
                    }
                    Item::Failed { error, .. } => break error,
                    other => panic!("not expected here: {other:?}"),
                }
            };
            thread.join().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "the pipe's end is reported");
            let numbers = got.chunks_exact(8).map(|bytes| u64::from_ne_bytes(bytes.try_into().unwrap()));
            assert!(numbers.eq(0..COUNT), "io_uring {io_uring}, {bufs} buffers: bytes lost or out of order");
            assert_eq!(rig.reader.stats().bytes, COUNT * 8);
        }
    });
}

#[test]
fn a_held_buffer_pauses_the_reader_and_loses_nothing() {
    with_each_backend(|io_uring| {
        let (input, writer) = pipe_input();
        let rig = Rig::new(vec![input], ReaderConfig { bufs: 1, ..config(io_uring) });
        write(&writer, b"first").unwrap();
        let Item::Buf(first) = rig.next() else { panic!("events expected") };
        write(&writer, b"second").unwrap();
        rig.until("a pause for want of a buffer", |stats| stats.full_pauses == 1);
        assert!(rig.reader.pop().is_none());
        assert_eq!(&*first, b"first");
        rig.reader.give_back(first);
        let Item::Buf(second) = rig.next() else { panic!("events expected") };
        assert_eq!(&*second, b"second");
    });
}

#[test]
fn more_drain_tokens_than_the_ring_holds() {
    with_each_backend(|io_uring| {
        let (input, _writer) = pipe_input();
        let rig = Rig::new(vec![input], ReaderConfig { bufs: 1, ..config(io_uring) });
        for token in 0..100 {
            rig.reader.request_drain(token);
        }
        for token in 0..100 {
            assert!(matches!(rig.next(), Item::Drained(found) if found == token));
        }
    });
}

#[test]
fn a_drain_comes_behind_all_that_was_queued_before() {
    with_each_backend(|io_uring| {
        let ((a, to_a), (b, to_b)) = (pipe_of(Feed::Fanotify), pipe_of(Feed::Inotify));
        let rig = Rig::new(vec![a, b], config(io_uring));
        for token in 0..200u64 {
            write(&to_a, &token.to_ne_bytes()).unwrap();
            write(&to_b, &(!token).to_ne_bytes()).unwrap();
            rig.reader.request_drain(token);
            assert_eq!(rig.bytes_until(token), [token.to_ne_bytes(), (!token).to_ne_bytes()]);
        }
    });
}

/// The pipe is never empty while the writer lives, so a drain "until empty" would not end.
#[test]
fn a_drain_ends_while_a_writer_is_faster() {
    with_each_backend(|io_uring| {
        let (input, writer) = pipe_input();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                while !stop.load(Ordering::Relaxed) && write(&writer, &[1; 4096]).is_ok() {}
            }
        });
        let rig = Rig::new(vec![input], ReaderConfig { settle: Duration::ZERO, buf_bytes: MIN_BUF_BYTES, ..config(io_uring) });
        for token in 0..20 {
            rig.reader.request_drain(token);
            rig.bytes_until(token);
        }
        stop.store(true, Ordering::Relaxed);
        drop(rig);
        thread.join().unwrap();
    });
}

#[test]
fn an_idle_reader_sleeps() {
    with_each_backend(|io_uring| {
        let (input, writer) = pipe_input();
        let rig = Rig::new(vec![input], config(io_uring));
        rig.until("the first sleep", |stats| stats.sleeps == 1);
        write(&writer, b"x").unwrap();
        let Item::Buf(buf) = rig.next() else { panic!("events expected") };
        rig.reader.give_back(buf);
        rig.until("the next sleep", |stats| stats.sleeps == 2);
        let before = rig.reader.stats();
        assert_eq!(before.reads, 1);
        assert!(rig.next_within(Duration::from_millis(100)).is_none());
        assert_eq!(rig.reader.stats(), before, "woken for nothing");
    });
}

/// Whether this thread kept up with the reader: one that writes late lets a drain find nothing,
/// which ends the cadence.
fn cadence(io_uring: bool, settle: Duration) -> bool {
    let (input, writer) = pipe_input();
    let rig = Rig::new(vec![input], ReaderConfig { settle, ..config(io_uring) });
    rig.until("the first sleep", |stats| stats.sleeps == 1);
    let begun = Instant::now();
    write(&writer, b"a").unwrap();
    // The first drain is at once; the next after 1/8, then 1/4, 1/2, 1 and 1 times settle more.
    let least = [0, 0, 1, 3, 7, 15].map(|eighths| settle * eighths / 8);
    loop {
        let Item::Buf(buf) = rig.next() else { panic!("events expected") };
        let stats = rig.reader.stats();
        let passed = begun.elapsed();
        if stats.sleeps > 1 {
            return false;
        }
        let drains = stats.wakeups as usize;
        assert!(passed >= least[drains.min(5)], "io_uring {io_uring}: drain {drains} came after {passed:?}");
        rig.reader.give_back(buf);
        if drains >= 5 {
            return true;
        }
        // Written when the one before was seen, so every drain finds something.
        write(&writer, b"b").unwrap();
    }
}

#[test]
fn a_cadence_of_drains_follows_the_first_event() {
    with_each_backend(|io_uring| {
        let settles = (0..8).map(|double| Duration::from_millis(200 << double));
        assert!(settles.into_iter().any(|settle| cadence(io_uring, settle)), "io_uring {io_uring}: no pause was long enough");
    });
}

#[test]
fn a_request_does_not_wait_for_the_pause_to_end() {
    with_each_backend(|io_uring| {
        let (input, writer) = pipe_input();
        // The first pause is an eighth of it, and far longer than any machine is slow.
        let settle = Duration::from_secs(240);
        let rig = Rig::new(vec![input], ReaderConfig { settle, ..config(io_uring) });
        rig.until("the first sleep", |stats| stats.sleeps == 1);
        write(&writer, b"a").unwrap();
        let Item::Buf(buf) = rig.next() else { panic!("events expected") };
        rig.reader.give_back(buf);
        write(&writer, b"b").unwrap();
        let begun = Instant::now();
        rig.reader.request_drain(1);
        rig.bytes_until(1);
        assert!(begun.elapsed() < settle / 8, "it waited");
    });
}

#[test]
fn stopping_is_prompt_in_every_state() {
    with_each_backend(|io_uring| {
        type Setup = fn(&Rig, &OwnedFd) -> Option<Buf>;
        let states: [(&str, Setup); 3] = [
            ("asleep", |rig, _| {
                rig.until("sleep", |stats| stats.sleeps == 1);
                None
            }),
            ("in a pause of the cadence", |rig, writer| {
                write(writer, b"x").unwrap();
                rig.until("a read", |stats| stats.reads == 1);
                None
            }),
            ("paused for want of a buffer", |rig, writer| {
                write(writer, b"x").unwrap();
                let Item::Buf(buf) = rig.next() else { panic!("events expected") };
                rig.reader.request_drain(1);
                rig.until("a pause", |stats| stats.full_pauses > 0);
                Some(buf)
            }),
        ];
        for (state, setup) in states {
            let (input, writer) = pipe_input();
            let settle = Duration::from_secs(3600);
            let mut rig = Rig::new(vec![input], ReaderConfig { settle, bufs: 1, ..config(io_uring) });
            let held = setup(&rig, &writer);
            let begun = Instant::now();
            rig.reader.stop();
            assert!(begun.elapsed() < PATIENCE, "{state}");
            drop(held);
        }
    });
}

#[test]
fn a_failed_input_is_told_once_and_the_others_go_on() {
    with_each_backend(|io_uring| {
        let ((a, to_a), (b, to_b)) = (pipe_of(Feed::Fanotify), pipe_of(Feed::Inotify));
        let rig = Rig::new(vec![a, b], config(io_uring));
        drop(to_a);
        assert!(matches!(rig.next(), Item::Failed { feed: Feed::Fanotify, input: 0, .. }));
        write(&to_b, b"still here").unwrap();
        rig.reader.request_drain(7);
        assert_eq!(rig.bytes_until(7), [&b""[..], b"still here"]);
    });
}

#[test]
fn a_worker_that_cannot_go_on_fails_every_input() {
    let ((a, _to_a), (b, _to_b)) = (pipe_input(), pipe_input());
    let rig = Rig::new(vec![a, b], config(false));
    rig.until("sleep", |stats| stats.sleeps == 1);
    // As the thread does when it leaves its loop; itself it cannot be made to fail from outside.
    rig.reader.shared.fallen.store(2, Ordering::Release);
    rig.wake.wake();
    let mut failed = HashSet::new();
    for _ in 0..2 {
        let Item::Failed { input, .. } = rig.next() else { panic!("a failure expected") };
        failed.insert(input);
    }
    assert_eq!(failed, HashSet::from([0, 1]));
    assert!(rig.reader.pop().is_none());
}

#[test]
fn sizes_that_cannot_work_are_refused() {
    for (buf_bytes, bufs) in [(MIN_BUF_BYTES - 1, 4), (MIN_BUF_BYTES, 0)] {
        let wake = Arc::new(EventFd::new().unwrap());
        let error = Reader::spawn(Vec::new(), ReaderConfig { buf_bytes, bufs, ..config(false) }, wake).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

/// Real events: each file of 3,000 is reported, whichever backend, with a ring so small that the
/// reader must pause.
#[test]
fn fanotify_events_come_through() {
    with_each_backend(|io_uring| {
        let Some(scratch) = Scratch::new("tmpfs", "fanotify_events_come_through") else { return };
        let group = Group::open(&Options::default()).unwrap();
        group.mark_filesystem(scratch.path()).unwrap();
        let input = Input { feed: Feed::Fanotify, fd: group.as_fd().try_clone_to_owned().unwrap() };
        let rig = Rig::new(vec![input], ReaderConfig { bufs: 2, buf_bytes: MIN_BUF_BYTES, ..config(io_uring) });
        for n in 0..3000 {
            fs::write(scratch.path().join(n.to_string()), "").unwrap();
        }
        rig.reader.request_drain(1);
        let [bytes, _] = rig.bytes_until(1);
        let names: HashSet<_> = events(&bytes).map(|event| event.unwrap().dir.unwrap().name.to_vec()).collect();
        assert_eq!(names.len(), 3000);
    });
}

/// What the bound of a drain rests on.
#[test]
fn fionread_covers_every_queued_fanotify_event() {
    let Some(scratch) = Scratch::new("tmpfs", "fionread_covers_every_queued_fanotify_event") else { return };
    let group = Group::open(&Options::default()).unwrap();
    group.mark_filesystem(scratch.path()).unwrap();
    for n in 0..10 {
        fs::write(scratch.path().join(n.to_string()), "").unwrap();
    }
    let bound = Feed::Fanotify.bound(queued_bytes(&group).unwrap());
    let mut buf = [0; 65536];
    let len = nix::unistd::read(&group, &mut buf).unwrap();
    assert_eq!(Feed::Fanotify.part(&buf[..len]), 10);
    assert!(bound >= 10, "FIONREAD stands for {bound} events of 10");
}
