use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::code::ID;
use super::frame::GREETING;
use super::*;

fn key(digit: char) -> Key {
    Key::parse(&digit.to_string().repeat(32)).unwrap()
}

fn asker() -> Asker {
    Asker { id: Id::new().unwrap(), not: None }
}

fn echo(request: Request) -> Reply {
    Reply::Refused { why: format!("{request:?}") }
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A server with a front of its own; who it is, and how many requests it has carried out.
fn serve(key: Key) -> (String, Id, Arc<AtomicUsize>, Arc<Front>) {
    let (listener, address) = listen();
    let (id, front, served) = (Id::new().unwrap(), Front::of_a_thread(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&served);
    let answer = move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        echo(request)
    };
    front.serve(listener, &key, id, Arc::new(answer)).unwrap();
    (address, id, served, front)
}

/// Asks through a front of its own.
fn ask(address: &str, key: &Key, asker: &Asker, request: &Request, deadline: Duration) -> Result<(Reply, Id), WireError> {
    super::ask(&Front::of_a_thread(), address, key, asker, request, deadline)
}

fn read<const N: usize>(mut stream: &TcpStream) -> io::Result<[u8; N]> {
    stream.set_read_timeout(Some(10 * SOON))?;
    let mut frame = [0; N];
    stream.read_exact(&mut frame).map(|()| frame)
}

/// It is closed without a byte.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(10 * SOON)).unwrap();
    match stream.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
    }
}

/// A host in the way: what passes, each way, may be changed. Returns where it listens, and a thread
/// that ends with the first connection.
fn in_the_way(to: String, mut change: impl FnMut(usize, &mut [u8]) + Send + 'static) -> (String, JoinHandle<Vec<Vec<u8>>>) {
    let (listener, address) = listen();
    let thread = std::thread::spawn(move || {
        let client = listener.accept().unwrap().0;
        let server = TcpStream::connect(to).unwrap();
        let mut passed = Vec::new();
        for (n, len) in [GREETING, REQUEST, REPLY].into_iter().enumerate() {
            let (mut from, mut to) = if n % 2 == 0 { (&server, &client) } else { (&client, &server) };
            let mut frame = vec![0; len];
            if from.read_exact(&mut frame).is_err() {
                break;
            }
            passed.push(frame.clone());
            change(n, &mut frame);
            let _ = to.write_all(&frame);
        }
        passed
    });
    (address, thread)
}

/// Puts one number in the place of another, wherever it is.
fn replace(frame: &mut [u8], old: Id, new: Id) {
    let Some(at) = frame.windows(ID).position(|w| w == old.bytes()) else { return };
    frame[at..at + ID].copy_from_slice(new.bytes());
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn asks_and_answers() {
    let (address, id, served, _front) = serve(key('a'));
    let request = Request::Promote { above: 7, by: "web1".into() };
    let reply = ask(&address, &key('a'), &asker(), &request, SOON).unwrap();
    assert_eq!(reply, (Reply::Refused { why: format!("{request:?}") }, id));
    assert_eq!(served.load(Ordering::SeqCst), 1);
}

#[test]
fn without_the_key_nothing() {
    let (address, _, served, _front) = serve(key('a'));
    assert!(matches!(ask(&address, &key('b'), &asker(), &Request::Report, SOON), Err(WireError::Io { .. })));
    assert_eq!(served.load(Ordering::SeqCst), 0);
    // A server that does not know it is not believed either: here one that takes every request.
    let (listener, address) = listen();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (nonce, id) = (Id::new().unwrap(), Id::new().unwrap());
        stream.write_all(&frame::greeting(nonce, id)).unwrap();
        read::<REQUEST>(&stream).unwrap();
        let body = Reply::Refused { why: String::new() }.encode();
        stream.write_all(&frame::reply(&key('b').code(&[b"reply"]), &body)).unwrap();
    });
    assert!(matches!(ask(&address, &key('a'), &asker(), &Request::Report, SOON), Err(WireError::Key { .. })));
    // Another version, or something else altogether.
    let (listener, address) = listen();
    std::thread::spawn(move || listener.accept().unwrap().0.write_all(&[b'x'; GREETING]));
    assert!(matches!(ask(&address, &key('a'), &asker(), &Request::Report, SOON), Err(WireError::Version { .. })));
}

#[test]
fn a_recorded_answer_is_of_no_use() {
    let (address, _, _, _front) = serve(key('a'));
    let (way, recorded) = in_the_way(address, |_, _| ());
    ask(&way, &key('a'), &asker(), &Request::Report, SOON).unwrap();
    let recorded = recorded.join().unwrap();
    assert_eq!(recorded.len(), 3);
    // Played back, with the server's old greeting.
    let (listener, way) = listen();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(&recorded[0]);
        let _ = read::<REQUEST>(&stream);
        let _ = stream.write_all(&recorded[2]);
    });
    assert!(matches!(ask(&way, &key('a'), &asker(), &Request::Report, SOON), Err(WireError::Key { .. })));
}

#[test]
fn a_recorded_request_is_of_no_use() {
    let (address, _, served, _front) = serve(key('a'));
    let (way, recorded) = in_the_way(address.clone(), |_, _| ());
    let request = Request::StepDown { by: String::new() };
    ask(&way, &key('a'), &asker(), &request, SOON).unwrap();
    let recorded = recorded.join().unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    read::<GREETING>(&stream).unwrap();
    stream.write_all(&recorded[1]).unwrap();
    assert!(is_closed(&stream), "it was answered");
    assert_eq!(served.load(Ordering::SeqCst), 1);
}

#[test]
fn a_request_sent_back_to_its_sender_is_refused() {
    // What A asks of B comes back to A; neither the greeting with A's own number passes, ...
    let request = Request::StepDown { by: "a".into() };
    let (address, a, served, _front) = serve(key('a'));
    let asked = ask(&address, &key('a'), &Asker::server(a), &request, SOON);
    assert!(matches!(asked, Err(WireError::Misdirected { .. })), "{asked:?}");
    // ... nor one in which it was replaced by B's.
    let b = Id::new().unwrap();
    let (way, _) = in_the_way(address.clone(), move |n, frame| {
        if n == 0 {
            replace(frame, a, b)
        }
    });
    assert!(ask(&way, &key('a'), &Asker::server(a), &request, SOON).is_err());
    // Nor is its own number in the request put right: it is under the code.
    let (way, _) = in_the_way(address, move |n, frame| if n == 0 { replace(frame, a, b) } else { replace(frame, b, a) });
    assert!(ask(&way, &key('a'), &Asker::server(a), &request, SOON).is_err());
    assert_eq!(served.load(Ordering::SeqCst), 0);
}

#[test]
fn one_server_does_not_answer_for_both() {
    let (primary, _, _, _first) = serve(key('a'));
    let (backup, _, _, _second) = serve(key('a'));
    let pair = Pair::new(&Front::of_a_thread()).unwrap();
    let ask = |side, address: &str| pair.ask(side, address, &key('a'), &Request::Report, SOON);
    ask(Side::Primary, &primary).unwrap();
    assert!(matches!(ask(Side::Backup, &primary), Err(WireError::Misdirected { .. })));
    ask(Side::Backup, &backup).unwrap();
    ask(Side::Primary, &primary).unwrap();
}

/// Everything in a message is changed, a byte at a time.
#[test]
fn no_part_of_a_message_can_be_changed() {
    let [server, client, nonce, theirs] = [(); 4].map(|()| Id::new().unwrap());
    let body = Request::Promote { above: 1, by: "x".into() }.encode();
    let talk = Talk { nonces: [nonce, theirs], client, server };
    let frame = talk.ask(&key('a'), body).encode();
    assert!(opens(&frame, &key('a'), nonce, server).is_some());
    assert!(opens(&frame, &key('b'), nonce, server).is_none());
    assert!(opens(&frame, &key('a'), theirs, server).is_none(), "another connection");
    assert!(opens(&frame, &key('a'), nonce, client).is_none(), "another server");
    for at in 0..frame.len() {
        let mut changed = frame;
        changed[at] ^= 1;
        assert!(opens(&changed, &key('a'), nonce, server).is_none(), "byte {at}");
    }
    // A reply is no request, and the other way round.
    let answered = Reply::Refused { why: "x".into() };
    let answer = talk.answer(&key('a'), &body, &answered);
    let (code, reply) = frame::split_reply(&answer);
    let good = |code: &[u8; code::CODE], body: &[u8; REQUEST_BODY], reply: &[u8; REPLY_BODY]| {
        talk.is_reply(&key('a'), code, body, reply)
    };
    assert!(good(code, &body, reply));
    assert!(!good(frame.first_chunk().unwrap(), &body, reply));
    assert!(!good(code, &Request::Report.encode(), reply), "the answer to another request");
    for at in 0..answer.len() {
        let mut changed = answer;
        changed[at] ^= 1;
        let (code, reply) = frame::split_reply(&changed);
        assert!(!good(code, &body, reply), "byte {at}");
    }
}

#[test]
fn a_request_has_one_deadline_and_a_length() {
    // In drops, each in time by itself.
    let (address, _, served, _front) = serve(key('a'));
    let begun = Instant::now();
    let mut stream = TcpStream::connect(&address).unwrap();
    read::<GREETING>(&stream).unwrap();
    while stream.write_all(b"x").is_ok() {
        assert!(begun.elapsed() < 20 * WHOLE_REQUEST, "it is read for ever");
        std::thread::park_timeout(WHOLE_REQUEST / 20);
    }
    assert!(begun.elapsed() >= WHOLE_REQUEST, "{:?}", begun.elapsed());
    // What follows a request is not read.
    let mut stream = TcpStream::connect(&address).unwrap();
    while stream.write_all(&[b'x'; 1024]).is_ok() {}
    assert_eq!(served.load(Ordering::SeqCst), 0);
}
