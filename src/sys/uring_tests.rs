//! The ring against eventfds, pipes and a real event queue.

use super::*;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

fn open(tokens: usize) -> Option<Uring> {
    Uring::open(tokens).inspect_err(|why| eprintln!("SKIPPED: {why}")).ok()
}

fn poll<'a>(token: usize, fd: &'a impl AsFd) -> Wanted<'a> {
    Wanted { token, fd: fd.as_fd(), buf: None }
}

fn read<'a>(token: usize, fd: &'a impl AsFd) -> Wanted<'a> {
    Wanted { token, fd: fd.as_fd(), buf: Some(vec![0; 64].into()) }
}

/// What a wait found: token, and `None` for ready or the bytes read (`Err` for a cancelled or
/// failed read).
type Seen = (usize, Option<Result<Vec<u8>, io::ErrorKind>>);

fn wait(uring: &mut Uring, wanted: Vec<Wanted<'_>>, limit: Option<Duration>) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut note = |token, found| {
        seen.push((
            token,
            match found {
                Found::Ready => None,
                Found::Read(buf, read) => Some(read.map(|n| buf[..n].to_vec()).map_err(|error| error.kind())),
            },
        ));
    };
    uring.wait(wanted, limit, &mut note).unwrap();
    seen.sort();
    seen
}

#[test]
fn the_first_read_ends_the_wait_and_every_buffer_comes_back() {
    let Some(mut uring) = open(3) else { return };
    let events = [EventFd::new().unwrap(), EventFd::new().unwrap(), EventFd::new().unwrap()];
    for turn in [1, 0, 2] {
        events[turn].wake();
        let wanted = events.iter().enumerate().map(|(token, event)| read(token, event)).collect();
        let seen = wait(&mut uring, wanted, None);
        let want: Vec<Seen> = (0..3)
            .map(|token| {
                (token, Some(if token == turn { Ok(1u64.to_ne_bytes().to_vec()) } else { Err(io::ErrorKind::Interrupted) }))
            })
            .collect();
        assert_eq!(seen, want);
        assert!(!events[turn].clear(), "read means taken");
    }
}

#[test]
fn a_narrow_wait_is_not_ended_by_what_a_wider_one_left_armed() {
    let Some(mut uring) = open(2) else { return };
    let (wide, narrow) = (EventFd::new().unwrap(), EventFd::new().unwrap());
    narrow.wake();
    assert_eq!(wait(&mut uring, vec![poll(0, &wide), poll(1, &narrow)], None), [(1, None)]);
    narrow.clear();
    wide.wake();
    let limit = Duration::from_millis(20);
    let begun = Instant::now();
    wait(&mut uring, vec![poll(1, &narrow)], Some(limit));
    assert!(begun.elapsed() >= limit);
    assert_eq!(wait(&mut uring, vec![poll(0, &wide)], None), [(0, None)]);
}

#[test]
fn errors_and_ends_come_back_with_the_buffer() {
    let Some(mut uring) = open(2) else { return };
    let dir = std::fs::File::open("/").unwrap();
    assert_eq!(wait(&mut uring, vec![read(0, &dir)], None), [(0, Some(Err(io::ErrorKind::IsADirectory)))]);
    let (out, inn) = nix::unistd::pipe().unwrap();
    drop(inn);
    assert_eq!(wait(&mut uring, vec![read(1, &out)], None), [(1, Some(Ok(Vec::new())))]);
}

/// On an event queue, non-blocking as the reader has it: a read waits in the ring, its time runs
/// out, and it can be done again.
#[test]
fn a_read_of_an_event_queue_waits_and_is_cancelled() {
    let _judging = crate::scratch::judging();
    let Some(mut uring) = open(1) else { return };
    let dir = tempfile::tempdir().unwrap();
    let queue = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
    queue.add_watch(dir.path(), AddWatchFlags::IN_CREATE).unwrap();
    let limit = Some(Duration::from_millis(5));
    assert_eq!(wait(&mut uring, vec![read(0, &queue)], limit), [(0, Some(Err(io::ErrorKind::Interrupted)))]);
    std::fs::write(dir.path().join("f"), "").unwrap();
    let seen = wait(&mut uring, vec![read(0, &queue)], None);
    assert!(matches!(&seen[..], [(0, Some(Ok(bytes)))] if bytes.len() == 32), "{seen:?}");
}
