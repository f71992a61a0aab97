//! Sockets and web services.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::Value;

use super::receiver::{Inbox, anywhere, free_address, header, keep, lines, listen, web};
use super::{ANY, told_all};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::bytes;
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};
use crate::names;

pub fn cases() -> Vec<Case> {
    vec![
        case("socket_gets_the_bare_path_of_every_name", ANY, |fs| {
            let inbox = Inbox::default();
            let address = listen(anywhere(), keep(&inbox));
            let m = with(fs, &format!("kind = 'socket'\nform = 'path'\naddress = '{address}'\nkinds = ['changed']"))?;
            let given = names::hostile();
            for name in &given {
                m.src.write(name, b"x");
            }
            told_all(&m, "h");
            let got: BTreeSet<Vec<u8>> = inbox.wait(given.len()).into_iter().collect();
            assert_eq!(got, given.iter().map(|name| m.src.at(name).as_os_str().as_bytes().to_vec()).collect());
            Ok(())
        }),
        case("socket_gets_json_lines_over_one_connection", ANY, |fs| {
            let (inbox, connections) = (Inbox::default(), Inbox::default());
            let (kept, counted) = (inbox.clone(), connections.clone());
            let address = listen(anywhere(), move |stream| {
                counted.put(Vec::new());
                lines(stream, &kept, b"");
            });
            let m = with(fs, &format!("kind = 'socket'\naddress = '{address}'"))?;
            let given = names::hostile();
            for name in &given {
                m.src.write(name, b"x");
                m.check();
            }
            told_all(&m, "h");
            let got = inbox.wait(given.len());
            assert_eq!(got.iter().map(|line| path_of(&parsed(line))).collect::<BTreeSet<_>>(), all_of(&given));
            let first = parsed(&got[0]);
            for (key, want) in [("mirror", "mirror"), ("hook", "h"), ("kind", "changed"), ("target", "t1")] {
                assert_eq!(first[key], want, "{first}");
            }
            assert_eq!(first["source"].as_str(), m.src.root().to_str());
            assert_eq!(connections.all().len(), 1, "a connection did not stay");
            Ok(())
        }),
        case("unix_socket_that_acknowledges_is_told_again_until_it_does", ANY, |fs| {
            let work = tempfile::tempdir().expect("a directory can be made");
            let path = work.path().join("sock");
            let inbox = Inbox::default();
            let kept = inbox.clone();
            let listener = UnixListener::bind(&path).expect("a unix socket can be made");
            std::thread::spawn(move || {
                // The first connection is closed before it acknowledges anything.
                for (n, stream) in listener.incoming().flatten().enumerate() {
                    let mut stream = stream;
                    match n {
                        0 => _ = std::io::Read::read(&mut stream, &mut [0; 10]),
                        _ => lines(stream, &kept, b"ok\n"),
                    }
                }
            });
            let m = with(fs, &format!("kind = 'socket'\npath = '{}'\nacknowledge = true\nretry_min = '10ms'", path.display()))?;
            m.src.write("f", b"x");
            told_all(&m, "h");
            assert_eq!(parsed(&inbox.wait(1)[0])["path"], "f");
            assert_eq!(m.daemon.hook_status("h").delivered, 1);
            Ok(())
        }),
        case("receiver_that_refuses_gets_all_when_it_is_back", ANY, |fs| {
            let address = free_address();
            let m = with(
                fs,
                &format!("kind = 'socket'\nform = 'path'\naddress = '{address}'\nretry_max = '500ms'\nkinds = ['changed']"),
            )?;
            for n in 0..20 {
                m.src.write(format!("f{n}"), b"x");
            }
            m.check();
            let retrying = || Some(m.daemon.hook_status("h")).filter(|h| h.state == "retrying");
            let h = poll_until(WAIT, retrying).expect("the status tells that the receiver is away");
            assert!(h.reason.contains("refused") && h.delivered == 0, "{h:?}");
            let inbox = Inbox::default();
            listen(address, keep(&inbox));
            told_all(&m, "h");
            assert_eq!(inbox.wait(20).into_iter().collect::<BTreeSet<_>>().len(), 20);
            let h = m.daemon.hook_status("h");
            assert_eq!((h.state.as_str(), h.delivered, h.failed, h.dropped), ("idle", 20, 0, 0));
            Ok(())
        }),
        case("what_does_not_fit_into_the_queue_is_counted", ANY, |fs| {
            let address = free_address();
            let m = with(
                fs,
                &format!(
                    "kind = 'socket'\nform = 'path'\naddress = '{address}'\nmax_pending = 100\nretry_max = '500ms'\nkinds = ['changed']"
                ),
            )?;
            // A lone one, which is being tried from then on and is no part of the queue.
            m.src.write("first", b"x");
            m.check();
            let tried = || (m.daemon.hook_status("h").in_flight == 1).then_some(());
            assert!(poll_until(WAIT, tried).is_some());
            for n in 0..30 {
                // In pieces, each less than one pass may name.
                for k in 0..10 {
                    m.src.write(format!("f{n}-{k}"), b"x");
                }
                m.check();
            }
            let h = m.daemon.hook_status("h");
            assert_eq!((h.pending, h.in_flight, h.dropped), (100, 1, 200));
            let inbox = Inbox::default();
            listen(address, keep(&inbox));
            told_all(&m, "h");
            let got: BTreeSet<Vec<u8>> = inbox.wait(101).into_iter().collect();
            let last = m.src.at("f29-9");
            assert!(got.len() == 101 && got.contains(last.as_os_str().as_bytes()), "the oldest go, not the newest");
            Ok(())
        }),
        case("http_posts_json_until_it_is_taken", ANY, |fs| {
            // Overloaded at first, and it says for how long.
            let (address, web) = web(|n| if n == 0 { "503 Busy\r\nRetry-After: 1".into() } else { "204 Thanks".into() });
            let m = with(
                fs,
                &format!(
                    "kind = 'http'\nurl = 'http://{address}/told?x=1'\nheaders = ['X-Site: a b']\nretry_min = '1ms'\nkinds = ['changed']"
                ),
            )?;
            m.src.write(bytes(b"a\xff\n\"$(x)"), b"x");
            told_all(&m, "h");
            let (heads, bodies) = (web.heads.wait(2), web.bodies.wait(2));
            let heads: Vec<String> = heads.into_iter().map(|head| String::from_utf8_lossy(&head).into_owned()).collect();
            assert!(heads[0].starts_with("POST /told?x=1 HTTP/1.1\r\n"), "{}", heads[0]);
            assert_eq!(header(&heads[0], "x-site").as_deref(), Some("a b"));
            assert_eq!(header(&heads[0], "content-type").as_deref(), Some("application/json"));
            let key = header(&heads[0], "idempotency-key");
            assert!(key.is_some() && key == header(&heads[1], "idempotency-key"), "{heads:?}");
            assert_eq!(bodies[0], bodies[1]);
            let body = parsed(&bodies[0]);
            let event = &body["events"][0];
            assert_eq!((path_of(event), &event["path"]), (b"a\xff\n\"$(x)".to_vec(), &Value::from("a\u{fffd}\n\"$(x)")));
            assert_eq!((&body["mirror"], &event["kind"], &event["target"]), (&"mirror".into(), &"changed".into(), &"t1".into()));
            assert!(event["time"].is_f64() && event["batch"].is_string(), "{event}");
            // Another change has another key.
            m.src.write("f", b"x");
            told_all(&m, "h");
            let third = String::from_utf8_lossy(&web.heads.wait(3)[2]).into_owned();
            assert_ne!(header(&third, "idempotency-key"), key);
            Ok(())
        }),
        case("http_that_refuses_for_good_is_shown", ANY, |fs| {
            let (address, web) = web(|_| "422 No".into());
            let m = with(fs, &format!("kind = 'http'\nurl = 'http://{address}/'"))?;
            m.src.write("f", b"x");
            told_all(&m, "h");
            let h = m.daemon.hook_status("h");
            assert_eq!((h.failed, h.delivered, h.failures[0].path.as_str()), (1, 0, "f"));
            assert!(h.failures[0].reason.contains("422"), "{h:?}");
            assert_eq!(web.heads.all().len(), 1, "it was asked again");
            Ok(())
        }),
    ]
}

/// A mirror with one hook, named `h`.
fn with(fs: crate::fixture::fs::Fs, hook: &str) -> crate::fixture::Run<Mirror> {
    Setup::new(fs).targets(&[To::Local]).hook(&format!("name = 'h'\n{hook}")).start()
}

fn parsed(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or_else(|e| panic!("{}: {e}", String::from_utf8_lossy(text)))
}

/// The bytes of a path in JSON.
fn path_of(event: &Value) -> Vec<u8> {
    use base64::Engine as _;
    match event["path_base64"].as_str() {
        Some(text) => base64::engine::general_purpose::STANDARD.decode(text).expect("it is base64"),
        None => event["path"].as_str().expect("a path").as_bytes().to_vec(),
    }
}

fn all_of<P: AsRef<Path>>(names: &[P]) -> BTreeSet<Vec<u8>> {
    names.iter().map(|name| name.as_ref().as_os_str().as_bytes().to_vec()).collect()
}
