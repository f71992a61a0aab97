//! What a host without the key does to failover's wire.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fansync::failover::front::sandbox::Identity;
use fansync::failover::front::{self, Front};
use fansync::failover::wire::frame::{self, GREETING, REPLY, REQUEST};
use fansync::failover::wire::{self, Asker, Id, Key, Reply, Request};
use fansync::role::mark::Role;

use super::cluster::{Cluster, binary};
use crate::fixture::fs::Fs;
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Run, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("a_host_in_the_way_without_the_key", &[Fs::Tmpfs], in_the_way),
        case("silent_connections_keep_no_client_out", &[Fs::Tmpfs], silent),
    ]
}

/// A host between a server and its peer.
struct Way {
    port: u16,
    /// What the peer said last as a follower: its greeting and its answer.
    recorded: Arc<Mutex<Option<[Vec<u8>; 2]>>>,
    replay: Arc<AtomicBool>,
    replayed: Arc<AtomicU32>,
}

impl Way {
    fn to(port: u16) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
        let way = Way {
            port: listener.local_addr().expect("it is bound").port(),
            recorded: Arc::default(),
            replay: Arc::default(),
            replayed: Arc::default(),
        };
        let (recorded, replay, replayed) = (Arc::clone(&way.recorded), Arc::clone(&way.replay), Arc::clone(&way.replayed));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = recorded.lock().expect("no holder panics").clone();
                let _ = match kept.filter(|_| replay.load(Ordering::SeqCst)) {
                    Some(text) => play(&stream, &text).map(|()| {
                        replayed.fetch_add(1, Ordering::SeqCst);
                    }),
                    None => pass(&stream, port).map(|text| {
                        if is_of_follower(&text[1]) {
                            *recorded.lock().expect("no holder panics") = Some(text);
                        }
                    }),
                };
            }
        });
        way
    }
}

fn read(mut stream: &TcpStream, len: usize) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut message = vec![0; len];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn pass(mut client: &TcpStream, port: u16) -> std::io::Result<[Vec<u8>; 2]> {
    let server = TcpStream::connect(("127.0.0.1", port))?;
    let greeting = read(&server, GREETING)?;
    client.write_all(&greeting)?;
    (&server).write_all(&read(client, REQUEST)?)?;
    let answer = read(&server, REPLY)?;
    client.write_all(&answer)?;
    Ok([greeting, answer])
}

fn play(mut client: &TcpStream, text: &[Vec<u8>; 2]) -> std::io::Result<()> {
    client.write_all(&text[0])?;
    read(client, REQUEST)?;
    client.write_all(&text[1])
}

fn is_of_follower(answer: &[u8]) -> bool {
    let body = frame::split_reply(answer.try_into().expect("it is as long as a reply")).1;
    matches!(Reply::decode(body), Some(Reply::Report(report)) if report.mark.as_ref().is_some_and(|m| m.role == Role::Follower))
}

fn in_the_way(_: Fs) -> Run<()> {
    let mut c = Cluster::new();
    let way = Way::to(c.servers[1].port());
    let old = format!("peer = \"127.0.0.1:{}\"", c.servers[1].port());
    c.servers[0].die();
    c.servers[0].configure(&old, &format!("peer = \"127.0.0.1:{}\"", way.port));
    c.servers[0].live();
    assert!(c.servers[0].is_exported("rw"), "it does not come through: {}", c.servers[0].log());
    let recorded = || way.recorded.lock().expect("no holder panics").is_some().then_some(());
    assert!(poll_until(WAIT, recorded).is_some(), "nothing was recorded");
    // The primary loses its power, and the other takes over.
    c.servers[0].die();
    c.servers[0].forget();
    c.servers[1].set(2, Role::Primary);
    assert!(c.servers[1].is_exported("rw"));
    // It comes back, and receives what its peer sent before that.
    way.replay.store(true, Ordering::SeqCst);
    c.servers[0].live();
    assert!(poll_until(WAIT, || (way.replayed.load(Ordering::SeqCst) >= 3).then_some(())).is_some(), "it does not ask");
    assert!(c.servers[0].trouble("read-only until the peer answers"), "{}", c.servers[0].log());
    assert!(!c.servers[0].exports().contains(&"rw".into()), "an old answer was believed: {}", c.servers[0].log());
    // What the peer says now is believed.
    way.replay.store(false, Ordering::SeqCst);
    let follower = || (c.servers[0].mark() == (1, Role::Follower)).then_some(());
    assert!(poll_until(WAIT, follower).is_some(), "{}", c.servers[0].log());
    Ok(())
}

/// A front process of one's own, for a client without a daemon.
fn front(dir: &Path) -> Arc<Front> {
    let confine = Some(Identity { uid: 65534, gid: 65534 });
    Front::start(front::Config { exe: binary(), confine, dir: dir.join("front") }).expect("it starts")
}

fn silent(_: Fs) -> Run<()> {
    let c = Cluster::new();
    let port = c.servers[1].port();
    let end = AtomicBool::new(false);
    let key = Key::read(&c.work.path().join("key")).expect("it is a key");
    let front = front(c.work.path());
    let asker = Asker { id: Id::new().expect("a number can be had"), not: None };
    let mut open: Vec<TcpStream> = Vec::new();
    let fill =
        |open: &mut Vec<TcpStream>| open.extend((open.len()..100).filter_map(|_| TcpStream::connect(("127.0.0.1", port)).ok()));
    fill(&mut open);
    std::thread::scope(|s| {
        s.spawn(|| {
            // A byte each, again and again, so that no read takes long; and others in the place of
            // those that were closed.
            while !end.load(Ordering::SeqCst) {
                open.retain(|mut stream| stream.write_all(b"x").is_ok());
                fill(&mut open);
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        let asked: Vec<bool> = (0..20)
            .map(|_| {
                // As a monitor, which asks again: a storm of new connections from its own address
                // can take its place for a moment.
                (0..5).any(|_| {
                    let answer = wire::ask(&front, &format!("127.0.0.1:{port}"), &key, &asker, &Request::Report, WAIT);
                    std::thread::park_timeout(Duration::from_millis(20));
                    answer.is_ok()
                })
            })
            .collect();
        end.store(true, Ordering::SeqCst);
        assert!(asked.iter().all(|answered| *answered), "the peer was turned away: {asked:?}");
    });
    Ok(())
}
