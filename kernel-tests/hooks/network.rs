//! Sockets and web services.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::receiver::{Inbox, anywhere, free_address, header, keep, lines, listen, web};
use super::{ANY, delivered_all};
use crate::fixture::daemon::Until;
use crate::fixture::proc::{bound_command, poll_until};
use crate::fixture::tree::bytes;
use crate::fixture::{Case, Mirror, Run, Setup, Skip, To, WAIT, case};
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
            delivered_all(&m, "h");
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
            delivered_all(&m, "h");
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
        case("unix_socket_that_acknowledges_gets_events_again_until_it_does", ANY, |fs| {
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
                        0 => _ = stream.read(&mut [0; 10]),
                        _ => lines(stream, &kept, b"ok\n"),
                    }
                }
            });
            let m = with(fs, &format!("kind = 'socket'\npath = '{}'\nacknowledge = true\nretry_min = '10ms'", path.display()))?;
            m.src.write("f", b"x");
            delivered_all(&m, "h");
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
            delivered_all(&m, "h");
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
            delivered_all(&m, "h");
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
                    "kind = 'http'\nurl = 'http://{address}/changes?x=1'\nheaders = ['X-Site: a b']\nretry_min = '1ms'\nkinds = ['changed']"
                ),
            )?;
            m.src.write(bytes(b"a\xff\n\"$(x)"), b"x");
            let begun = Instant::now();
            delivered_all(&m, "h");
            assert!(begun.elapsed() > Duration::from_millis(900), "it came again before it was asked to");
            let (heads, bodies) = (web.heads.wait(2), web.bodies.wait(2));
            let heads: Vec<String> = heads.into_iter().map(|head| String::from_utf8_lossy(&head).into_owned()).collect();
            assert!(heads[0].starts_with("POST /changes?x=1 HTTP/1.1\r\n"), "{}", heads[0]);
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
            delivered_all(&m, "h");
            let third = String::from_utf8_lossy(&web.heads.wait(3)[2]).into_owned();
            assert_ne!(header(&third, "idempotency-key"), key);
            Ok(())
        }),
        case("http_that_refuses_for_good_is_shown", ANY, |fs| {
            let (address, web) = web(|_| "422 No".into());
            let m = with(fs, &format!("kind = 'http'\nurl = 'http://{address}/'"))?;
            m.src.write("f", b"x");
            delivered_all(&m, "h");
            let h = m.daemon.hook_status("h");
            assert_eq!((h.failed, h.delivered, h.failures[0].path.as_str()), (1, 0, "f"));
            assert!(h.failures[0].reason.contains("422"), "{h:?}");
            assert_eq!(web.heads.all().len(), 1, "it was asked again");
            Ok(())
        }),
        case("https_trusts_only_whom_ca_file_names", ANY, |fs| {
            let work = tempfile::tempdir().expect("a directory can be made");
            let tls = Tls::make(work.path())?;
            let (mut trusted, mut stranger) = (tls.serve("trusted"), tls.serve("stranger"));
            let token = work.path().join("token");
            fs::write(&token, "sesame\n").expect("a token can be written");
            let hook = |name: &str, address, more: &str| {
                format!(
                    "name = '{name}'\nkind = 'http'\nurl = 'https://{address}/in'\ntoken_file = '{}'\nkinds = ['changed']\n{more}",
                    token.display()
                )
            };
            fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).expect("its mode can be set");
            let m = Setup::new(fs)
                .targets(&[To::Local])
                .hook(&hook("good", trusted.address, &format!("ca_file = '{}'\nretry_max = '500ms'", tls.ca.display())))
                .hook(&hook("bad", stranger.address, ""))
                .start()?;
            m.src.write("f", b"x");
            m.check();
            let reason = |hook: &str| Some(m.daemon.hook_status(hook).reason).filter(|reason| !reason.is_empty());
            let open = poll_until(WAIT, || reason("good")).expect("a token that others can read is not used");
            assert!(open.contains("chmod 600"), "{open}");
            fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("its mode can be set");
            delivered_all(&m, "good");
            let got = trusted.got();
            assert!(got.starts_with("POST /in HTTP/1.1\r\n") && got.contains("\"path\":\"f\""), "{got}");
            assert_eq!(header(&got, "authorization").as_deref(), Some("Bearer sesame"));
            let untrusted = || reason("bad").filter(|reason| reason.contains("ertificate"));
            assert!(poll_until(WAIT, untrusted).is_some(), "{:?}", m.daemon.hook_status("bad"));
            assert_eq!((stranger.got().as_str(), m.daemon.hook_status("bad").delivered), ("", 0));
            Ok(())
        }),
        case("chinacache_is_asked_as_sersync_asks_it", ANY, |fs| {
            let inbox = Inbox::default();
            let kept = inbox.clone();
            let address = listen(anywhere(), move |mut stream| {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                }
                let denied = head.windows(7).any(|w| w == b"denied.");
                kept.put(head);
                let answer =
                    if denied { "HTTP/1.0 403 No\r\n\r\n" } else { "HTTP/1.0 200 OK\r\nwhatsup: content=\"succeed\"\r\n\r\n" };
                let _ = stream.write_all(answer.as_bytes());
            });
            let account = format!(
                "form = 'chinacache'\naddress = '{address}'\ndomain = 'r.cdn.example'\nuser = 'u&1'\npassword = 'p w=%hush'"
            );
            let m = with(fs, &format!("kind = 'cdn'\nbase = 'http://pic.example/s'\n{account}"))?;
            m.src.mkdir("d");
            m.src.write("d/a-1_2.txt", b"x");
            m.src.write(bytes(b"a b&urls=c\r\nX: y\xff"), b"x");
            m.src.write("denied.", b"x");
            delivered_all(&m, "h");
            let request = |what: &str, url: &str| {
                let target = format!("/index.jsp?user=u%261&pswd=p%20w%3D%25hush&ok=ok&{what}=http://pic.example/s/{url}");
                format!("HEAD {target} HTTP/1.0\r\nHost: r.cdn.example\r\n\r\n").into_bytes()
            };
            let want = [
                request("dirs", "d/"),
                request("urls", "d/a-1_2.txt"),
                request("urls", "a%20b%26urls%3Dc%0D%0AX%3A%20y%FF"),
                request("urls", "denied."),
            ];
            let readable =
                |all: Vec<Vec<u8>>| all.iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect::<BTreeSet<_>>();
            let want = readable(want.to_vec()).into_iter().map(|r| r.replace("X%3A", "X:")).collect::<BTreeSet<_>>();
            assert_eq!(readable(inbox.wait(4)), want);
            let h = m.daemon.hook_status("h");
            assert_eq!((h.delivered, h.failed, h.failures[0].path.as_str()), (3, 1, "denied."));
            let log = fs::read_to_string(m.scratch("fansync.log")).expect("there is a log");
            assert!(log.contains("403") && !log.contains("hush") && !h.failures[0].reason.contains("hush"), "the password shows");
            Ok(())
        }),
        case("cdn_purges_lists_and_single_urls", ANY, |fs| {
            let ((list, lists), (one, ones)) = (web(|_| "200 OK".into()), web(|_| "200 OK".into()));
            let m = Setup::new(fs)
                .targets(&[To::Local])
                .hook(&format!(
                    "name = 'list'\nkind = 'cdn'\nbase = 'https://w.example'\nurl = 'http://{list}/zones/z/purge'\nbody = '{{\"files\": {{urls}}}}'\nbatch = 3\nkinds = ['changed']\n\
                     url_match = '/site([/a-z0-9]*)\\.example/images'"
                ))
                .hook(&format!("name = 'one'\nkind = 'cdn'\nbase = 'http://{one}/x'\nurl = '{{url}}'\nmethod = 'PURGE'\nkinds = ['changed']\nexclude = ['/site/']"))
                .start()?;
            m.src.mkdirs("site/jx3.example/images/a");
            for n in 0..7 {
                m.src.write(format!("site/jx3.example/images/a/{n} \u{e9}.txt"), b"x");
            }
            m.src.write("x y?.txt", b"x");
            delivered_all(&m, "list");
            delivered_all(&m, "one");
            let bodies: Vec<Value> = lists.bodies.all().iter().map(|body| parsed(body)).collect();
            let of = |body: &Value| {
                body["files"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|u| u.as_str().expect("a URL").to_owned())
                    .collect::<Vec<_>>()
            };
            assert!(bodies.iter().all(|body| (1..=3).contains(&of(body).len())), "{bodies:?}");
            let urls: BTreeSet<String> = bodies.iter().flat_map(of).collect();
            assert_eq!(urls, (0..7).map(|n| format!("https://w.example/jx3/a/{n}%20%C3%A9.txt")).collect());
            let heads = ones.heads.wait(1);
            assert!(
                heads[0].starts_with(b"PURGE /x/x%20y%3F.txt HTTP/1.1\r\n") && heads.len() == 1,
                "{:?}",
                String::from_utf8_lossy(&heads[0])
            );
            Ok(())
        }),
        case("a_pass_over_the_tree_tells_what_it_changed", ANY, |fs| {
            let inbox = Inbox::default();
            let address = listen(anywhere(), keep(&inbox));
            let mut m = with(
                fs,
                &format!("kind = 'socket'\nform = 'path'\naddress = '{address}'\nkinds = ['changed', 'deleted', 'subtree']"),
            )?;
            m.src.mkdirs("d/e");
            for n in 0..20 {
                m.src.write(format!("d/e/{n}"), b"x");
            }
            m.rest("z", b"1"); // what was written just before a stop may be delivered again
            delivered_all(&m, "h");
            let before = inbox.wait(21).len();
            m.daemon.terminate();
            m.src.write("d/e/new", b"1");
            m.src.write("d/e/7", b"other");
            m.src.remove("d/e/8");
            m.restart(Until::Reconciled);
            delivered_all(&m, "h");
            let got: BTreeSet<Vec<u8>> = inbox.wait(before + 3).split_off(before).into_iter().collect();
            assert_eq!(got, ["d/e/new", "d/e/7", "d/e/8"].map(|p| m.src.at(p).as_os_str().as_bytes().to_vec()).into());
            Ok(())
        }),
    ]
}

/// A certificate authority of the test's own, and a service that it vouches for.
struct Tls {
    work: PathBuf,
    ca: PathBuf,
}

struct TlsServer {
    address: std::net::SocketAddr,
    out: PathBuf,
    /// Its input has the answer, and must stay open.
    child: Child,
}

impl Tls {
    fn make(work: &Path) -> Run<Tls> {
        let openssl = |line: &str| {
            let ran = Command::new("openssl").args(line.split(' ')).current_dir(work).output();
            match ran {
                Ok(ran) => {
                    assert!(ran.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&ran.stderr));
                    Ok(())
                }
                Err(e) => Err(Skip(format!("openssl cannot be run: {e}"))),
            }
        };
        fs::write(work.join("ext"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").expect("a file can be written");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"))?;
        openssl(&format!("req {key} -subj /CN=service -keyout service.key -out service.csr"))?;
        openssl("x509 -req -in service.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out service.pem")?;
        Ok(Tls { work: work.into(), ca: work.join("ca.pem") })
    }

    fn serve(&self, name: &str) -> TlsServer {
        let address = free_address();
        let out = self.work.join(name);
        let file = fs::File::create(&out).expect("a file can be made");
        let mut child = bound_command("openssl")
            .args(["s_server", "-quiet", "-cert", "service.pem", "-key", "service.key", "-accept", &address.to_string()])
            .current_dir(&self.work)
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl has run before");
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        child.stdin.as_mut().expect("it is piped").write_all(answer).expect("a pipe takes as much");
        TlsServer { address, out, child }
    }
}

impl TlsServer {
    /// What came in so far, decrypted.
    fn got(&mut self) -> String {
        fs::read_to_string(&self.out).expect("it is there")
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A mirror with one hook, named `h`.
fn with(fs: crate::fixture::fs::Fs, hook: &str) -> Run<Mirror> {
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
