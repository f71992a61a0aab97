use std::io::Read;
use std::net::TcpListener;

use super::*;

const SOON: Duration = Duration::from_secs(60);

/// What a front process of one's own says, in place of the real one; and how many were started.
fn lying(says: impl Fn(&Packets, usize) + Send + Sync + 'static) -> (Arc<Front>, Arc<AtomicUsize>) {
    let (says, count) = (Arc::new(says), Arc::new(AtomicUsize::new(0)));
    let started = Arc::clone(&count);
    let start = move || {
        let n = started.fetch_add(1, Ordering::SeqCst);
        let (packets, theirs) = Packets::pair().unwrap();
        packets.patience(PATIENCE).unwrap();
        let says = Arc::clone(&says);
        std::thread::spawn(move || {
            let theirs = Packets::from(theirs);
            says(&theirs, n);
        });
        Ok(Link { packets, child: Mutex::new(None), pid: 1 })
    };
    (Front::with(true, Box::new(start)).unwrap(), count)
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < SOON, "{what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A connection to a server that accepts it and says nothing.
fn silent() -> (TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener, stream)
}

/// Waits until the other end is closed.
fn rest(packets: &Packets) {
    while !matches!(packets.recv_now::<PACKET>(), Ok(Came::End) | Ok(Came::Other)) {
        let _ = poll(&mut [PollFd::new(packets.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
    }
}

#[test]
fn one_that_says_what_it_cannot_know_is_replaced() {
    let (_, news) = message::examples();
    let unasked: Vec<Vec<u8>> = news
        .iter()
        .filter(|n| matches!(n, News::Ready | News::NotConfined { .. } | News::Opened { .. } | News::Asked { .. }))
        .map(|n| n.encode().to_vec())
        .chain([vec![0; PACKET], vec![0xff; PACKET], vec![1], vec![1; PACKET + 1]])
        .collect();
    let many = unasked.len();
    let (front, started) = lying(move |packets, n| {
        if let Some(lie) = unasked.get(n) {
            packets.send(lie, None).unwrap();
        }
        rest(packets);
    });
    until("a front process that lies is kept", || started.load(Ordering::SeqCst) == many + 1);
    until("the last one is not taken", || front.shown().pid == 1);
    assert_eq!(front.shown().restarts, many as u64);
    assert!(!front.shown().reason.is_empty());
}

#[test]
fn one_that_does_not_answer_is_replaced() {
    let (front, started) = lying(|packets, n| if n == 0 { std::thread::park_timeout(SOON) } else { rest(packets) });
    until("it is kept", || started.load(Ordering::SeqCst) == 2);
    until("its end has no reason", || front.shown().reason.contains("not answered"));
}

#[test]
fn what_was_under_way_is_no_answer() {
    // It ends with the first order after the start.
    let (front, started) = lying(|packets, n| {
        let mut orders = 0;
        while n == 0 && orders < 2 {
            let _ = poll(&mut [PollFd::new(packets.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
            orders += usize::from(matches!(packets.recv_now::<PACKET>(), Ok(Came::Packet(..))));
        }
        if n > 0 {
            rest(packets);
        }
    });
    let (_listener, stream) = silent();
    assert!(matches!(front.null(stream, 4, 1, Instant::now() + SOON), Err(Lost::Away)));
    until("it is not started again", || started.load(Ordering::SeqCst) == 2);
    // Nor is what the next one leaves without a word.
    let (_listener, stream) = silent();
    let asked = front.null(stream, 4, 1, Instant::now() + Duration::from_millis(50));
    assert!(matches!(asked, Err(Lost::Away)), "{asked:?}");
}

#[test]
fn silence_of_the_other_side_is_told_apart_from_that_of_the_front_process() {
    let (_listener, stream) = silent();
    let asked = Front::of_a_thread().null(stream, 4, 1, Instant::now() + Duration::from_millis(50));
    assert!(matches!(&asked, Err(Lost::Connection(e)) if e.kind() == io::ErrorKind::TimedOut), "{asked:?}");
    let (listener, stream) = silent();
    drop(listener);
    let asked = Front::of_a_thread().null(stream, 4, 1, Instant::now() + SOON);
    assert!(matches!(&asked, Err(Lost::Connection(e)) if e.kind() != io::ErrorKind::TimedOut), "{asked:?}");
}

#[test]
fn places_are_given_up_for_new_connections_and_come_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let front = Front::of_a_thread();
    let key = Key::parse(&"a".repeat(32)).unwrap();
    front.serve(listener, &key, Id::new().unwrap(), Arc::new(|_| Reply::Refused { why: String::new() })).unwrap();
    let connect = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.read_exact(&mut [0; GREETING]).unwrap();
        stream
    };
    let mut streams: Vec<TcpStream> = (0..8).map(|_| connect()).collect();
    let ninth = connect();
    assert_eq!(streams[0].read(&mut [0]).unwrap(), 0, "the oldest of its address was not closed");
    // One that ends gives its place to the next.
    drop(ninth);
    let _tenth = connect();
    streams[1].set_nonblocking(true).unwrap();
    assert_eq!(streams[1].read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "a place is lost");
}
