//! Who may do what on the servers of a feed: the accounts that docs/fan-out.md has, taken from
//! there, and TLS.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;

use super::*;

/// A pair of nkeys of a user: the seed, and what the server is given.
const SEED: &str = "SUADPHL45W6RICFIUJEQ22KUQAG7APNPRWWOOQUGMLOZOVQLQW4G6JDP3Q";
const PUBLIC: &str = "UBSPI2BBVJ4RYNLZA2EHUVRHZSO4HJXQ2SM3MWRW2PBP5Z22RXQJB64H";

/// The configuration of nats-server that docs/fan-out.md has, but for the lines that say where it
/// listens and where files are.
fn documented(follower: &str) -> String {
    let text = include_str!("../../docs/fan-out.md");
    let block = text.split("```text\n").find_map(|part| part.split("```").next().filter(|block| block.contains("accounts {")));
    let lines = block.expect("docs/fan-out.md has accounts").lines();
    let lines = lines.filter(|line| !["listen:", "jetstream {", "tls {"].iter().any(|word| line.starts_with(word)));
    lines.map(|line| line.replace("web1", follower) + "\n").collect()
}

/// The password of a user of [`documented`].
fn password(text: &str, user: &str) -> String {
    let line = text.lines().find(|line| line.contains(&format!("user: {user},"))).expect("the user is there");
    line.split("password: \"").nth(1).and_then(|rest| rest.split('"').next()).expect("it has a password").to_owned()
}

/// Files of a test: secrets with mode 600, and what openssl makes.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(fs::work_dir())
    }

    fn at(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn secret(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("it can be written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("its mode can be set");
        self.at(name)
    }

    /// The keys of a user's table.
    fn login(&self, text: &str, user: &str) -> String {
        let file = self.secret(user, &password(text, user));
        format!("nats_user = \"{user}\"\nnats_password_file = \"{file}\"\n")
    }

    fn openssl(&self, words: &str) {
        let mut command = Command::new("openssl");
        let ran = command.current_dir(self.0.path()).args(words.split(' ')).output().expect("openssl can be run");
        assert!(ran.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    /// An authority: NAME.pem and NAME.key.
    fn authority(&self, name: &str) {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        self.openssl(&format!("req -x509 {key} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2"));
    }

    /// A certificate for loopback that `authority` signs: NAME.pem and NAME.key. It ends in so many
    /// days.
    fn certificate(&self, name: &str, authority: &str, days: i32) {
        std::fs::write(self.0.path().join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").expect("it can be written");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        self.openssl(&format!("req -new {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let by = format!("-CA {authority}.pem -CAkey {authority}.key -CAcreateserial");
        self.openssl(&format!("x509 -req -in {name}.csr {by} -days {days} -extfile names -out {name}.pem"));
    }

    /// The block `tls` of a server with this certificate; `more` of its keys.
    fn tls(&self, name: &str, more: &str) -> String {
        format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\"{more} }}\n",
            self.at(&format!("{name}.pem")),
            self.at(&format!("{name}.key"))
        )
    }

    fn ca(&self, name: &str) -> String {
        format!("ca_file = \"{}\"\n", self.at(&format!("{name}.pem")))
    }

    fn shown(&self, name: &str) -> String {
        format!("cert_file = \"{}\"\nkey_file = \"{}\"\n", self.at(&format!("{name}.pem")), self.at(&format!("{name}.key")))
    }
}

/// A client that speaks to a nats-server by hand.
struct Client(BufReader<TcpStream>);

impl Client {
    fn login(port: u16, user: &str, password: &str) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
        stream.set_read_timeout(Some(WAIT)).expect("a time can be set");
        let mut client = Client(BufReader::new(stream));
        let hello = format!("CONNECT {{\"verbose\":false,\"user\":\"{user}\",\"pass\":\"{password}\",\"headers\":true}}\r\n");
        let said = client.say(&hello);
        assert!(said.iter().all(|line| !line.starts_with("-ERR")), "{user} cannot log in: {said:?}");
        client
    }

    /// What the server says to these lines, up to the answer to a ping.
    fn say(&mut self, lines: &str) -> Vec<String> {
        self.0.get_mut().write_all(format!("{lines}PING\r\n").as_bytes()).expect("it can be sent");
        let lines = (&mut self.0).lines().map(|line| line.expect("the server answers"));
        lines.take_while(|line| line != "PONG").collect()
    }

    fn may(&mut self, lines: &str) -> bool {
        let said = self.say(lines);
        let refused = said.iter().any(|line| line.starts_with("-ERR 'Permissions Violation"));
        assert!(refused || said.iter().all(|line| !line.starts_with("-ERR")), "{lines:?}: {said:?}");
        !refused
    }

    fn may_publish(&mut self, subject: &str) -> bool {
        self.may(&format!("PUB {subject} 1\r\nx\r\n"))
    }

    fn may_subscribe(&mut self, subject: &str) -> bool {
        self.may(&format!("SUB {subject} 7\r\nUNSUB 7\r\n"))
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("the_documented_rights_are_enough", ON, |fs| {
            let (files, text) = (Files::new(), documented("f0"));
            files.authority("ca");
            files.certificate("hub", "ca", 2);
            let with_ca = |user| files.login(&text, user) + &files.ca("ca");
            let (source, own) = (with_ca("source"), with_ca("f0"));
            let mut w = World::with(fs, 1, &source, &own, &(files.tls("hub", "") + &text))?;
            for n in 0..3 {
                w.churn(CHURN);
                match n {
                    0 => w.nats.restart(),
                    1 => w.restart_source(),
                    _ => w.followers[0].restart(),
                }
            }
            w.check();
            Ok(())
        }),
        case("the_documented_rights_are_no_more_than_needed", ON, |fs| {
            let (files, text) = (Files::new(), documented("f0"));
            let w = World::with(fs, 1, &files.login(&text, "source"), &files.login(&text, "f0"), &text)?;
            w.check();
            let mut follower = Client::login(w.nats.port, "f0", &password(&text, "f0"));
            assert!(follower.may_subscribe("fansync.live.web") && follower.may_subscribe("_INBOX.of.it"));
            // Its own position would be refused by no right; it is reported by the follower itself.
            for subject in [
                "fansync.web",
                "fansync.live.web",
                "fansync.at.web.other",
                "$JS.API.STREAM.DELETE.FANSYNC_web",
                "$JS.API.STREAM.PURGE.FANSYNC_web",
                "$JS.API.STREAM.UPDATE.FANSYNC_web",
                "$JS.API.STREAM.INFO.FANSYNC_web",
                "$JS.API.STREAM.MSG.DELETE.FANSYNC_web",
                "$JS.API.CONSUMER.CREATE.FANSYNC_web",
                "$JS.API.DIRECT.GET.FANSYNC_other",
            ] {
                assert!(!follower.may_publish(subject), "a follower may publish to {subject}");
            }
            for subject in [">", "fansync.>", "fansync.live.>", "$JS.>"] {
                assert!(!follower.may_subscribe(subject), "a follower may subscribe to {subject}");
            }
            let mut source = Client::login(w.nats.port, "source", &password(&text, "source"));
            for subject in [
                "fansync.at.web.f0",
                "fansync.live.web",
                "fansync.other",
                "$JS.API.STREAM.DELETE.FANSYNC_web",
                "$JS.API.STREAM.CREATE.other",
                "$JS.API.CONSUMER.CREATE.FANSYNC_web",
            ] {
                assert!(!source.may_publish(subject), "a source may publish to {subject}");
            }
            w.check();
            Ok(())
        }),
        case("an_nkey_logs_in", ON, |fs| {
            let (files, text) = (Files::new(), documented("f0"));
            let by_password = format!("user: f0, password: \"{}\"", password(&text, "f0"));
            assert!(text.contains(&by_password));
            let by_nkey = text.replace(&by_password, &format!("nkey: {PUBLIC}"));
            let own = format!("nkey_file = \"{}\"\n", files.secret("seed", &format!("{SEED}\n")));
            let mut w = World::with(fs, 1, &files.login(&text, "source"), &own, &by_nkey)?;
            w.churn(CHURN);
            w.check();
            // What is no seed, and what is one of another user.
            for (n, seed, words) in [
                (1, "f0", "is not the seed of an nkey"),
                (2, "SUALVL5A7ZQYBQCZATK5MJYVOJCNTNJ6DDVBHFBB7K3ZFMJ56OB7UGHQ3Q", "it does not take this login"),
            ] {
                w.keys = format!("nkey_file = \"{}\"\n", files.secret("other", seed));
                w.join(n, |_| {});
                w.follower_says(n, words);
            }
            Ok(())
        }),
        case("a_certificate_that_cannot_be_trusted_is_named", ON, |fs| {
            let files = Files::new();
            files.authority("ca");
            files.authority("another");
            files.certificate("hub", "ca", 2);
            files.certificate("source", "ca", 2);
            files.certificate("old", "ca", -1);
            let verify = format!(", ca_file: \"{}\", verify: true", files.at("ca.pem"));
            let source = files.ca("ca") + &files.shown("source");
            let mut w = World::with(fs, 1, &source, &source, &files.tls("hub", &verify))?;
            w.churn(CHURN);
            w.check();
            for (n, keys, words) in [
                (1, files.ca("another") + &files.shown("source"), "its certificate is not signed by ca_file"),
                (2, files.ca("ca"), "it wants a certificate of the client"),
                (3, files.ca("ca") + &files.shown("old"), "it refuses cert_file"),
                (4, files.ca("missing"), "the ca_file /"),
                (5, files.ca("ca") + &files.shown("missing"), "the cert_file /"),
            ] {
                w.keys = keys;
                w.join(n, |_| {});
                w.follower_says(n, words);
            }
            w.followers.truncate(1);
            // The server's own, from now on.
            files.certificate("hub", "ca", -1);
            w.nats.restart();
            w.src.write("top", b"what waits for the server");
            w.follower_says(0, "its certificate has expired");
            w.daemon.target_status_until("feed", "it says so", |t| t.reason.contains("its certificate has expired"));
            files.certificate("hub", "ca", 2);
            w.nats.restart();
            w.churn(CHURN);
            w.check();
            Ok(())
        }),
        case("a_login_that_is_wrong_or_missing_is_named", ON, |fs| {
            let (files, text) = (Files::new(), documented("f0"));
            let mut w = World::with(fs, 1, &files.login(&text, "source"), &files.login(&text, "f0"), &text)?;
            w.check();
            let wrong = files.secret("wrong", "not this one");
            let readable = files.secret("readable", "by all");
            std::fs::set_permissions(&readable, PermissionsExt::from_mode(0o644)).expect("its mode can be set");
            let user = |file: &str| format!("nats_user = \"f0\"\nnats_password_file = \"{file}\"\n");
            for (n, keys, words) in [
                (1, user(&wrong), "it does not take this login"),
                (2, user(&files.at("missing")), "the nats_password_file: cannot look at "),
                (3, user(&files.secret("empty", "\n")), "its first line is empty"),
                (4, user(&readable), "chmod "),
                (5, String::new(), "it does not take this login"),
            ] {
                w.keys = keys;
                w.join(n, |_| {});
                w.follower_says(n, words);
            }
            w.followers.truncate(1);
            w.check();
            Ok(())
        }),
    ]
}
