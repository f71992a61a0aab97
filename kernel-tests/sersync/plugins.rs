//! Plugins as sersync's configuration has them: attached to a mirror, and alone (`-m`), with real
//! receivers on the loopback address.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::fixture::daemon::binary;
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::{Service, bound_command, poll_until};
use crate::fixture::rsyncd::Rsyncd;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Note, Run, WAIT, case};
use crate::hooks::receiver::{Inbox, anywhere, keep, listen};
use crate::names;

const CONFIG: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<head version="2.5">
    <filter start="true"><exclude expression="(.*)\.bak"/></filter>
    <inotify>
        <delete start="true"/><createFolder start="true"/><createFile start="false"/><closeWrite start="true"/>
        <moveFrom start="true"/><moveTo start="true"/><attrib start="false"/><modify start="false"/>
    </inotify>
    <sersync>
        <localpath watch="SOURCE"><remote ip="127.0.0.1" name="data"/></localpath>
        <rsync>
            <commonParams params="-az"/>
            <userDefinedPort start="true" port="PORT"/>
        </rsync>
        <failLog path="WORK/fail_log.sh" timeToExecute="60"/>
        <plugin start="true" name="NAME"/>
    </sersync>
    <plugin name="NAME">BLOCK</plugin>
</head>
"#;

/// How a plugin is run.
#[derive(Clone, Copy, PartialEq)]
enum As {
    /// By `<plugin start="true">`, after the mirror.
    Attached,
    /// By `-m`.
    Alone,
}

/// A tree with a plugin for it.
struct Plugged {
    src: Dir,
    dst: Dir,
    daemon: Service,
    how: As,
    _left: Left,
    _rsyncd: Rsyncd,
    _work: tempfile::TempDir,
}

/// What is left when the daemon has ended: its log, which joins the failure message, and its state,
/// which is where sersync's configuration cannot say.
struct Left {
    log: PathBuf,
    state: PathBuf,
}

impl Drop for Left {
    fn drop(&mut self) {
        if std::thread::panicking() {
            drop(Note(fs::read_to_string(&self.log).unwrap_or_default()));
        }
        let _ = fs::remove_dir_all(&self.state);
    }
}

impl Plugged {
    /// `block`: the plugin's own part of the file, with `SOURCE` and `WORK` in it, for a directory
    /// that the test may use.
    fn start(how: As, name: &str, block: &str) -> Run<Plugged> {
        let work = work_dir();
        // Its name is that of the mirror, and of the mirror's state.
        let own = work.path().file_name().and_then(|n| n.to_str()).expect("a name of text").to_owned();
        let (src, dst) = (Dir::new(work.path().join(&own)), Dir::new(work.path().join("backup")));
        src.mkdir(".");
        dst.mkdir(".");
        let rsyncd = Rsyncd::start(work.path(), &[("data".into(), dst.root().into())])?;
        let url = rsyncd.url("data");
        let port = url.rsplit([':', '/']).nth(1).expect("a URL with a port");
        let text = CONFIG.replace("BLOCK", block).replace("NAME", name).replace("PORT", port);
        let text = text.replace("SOURCE", src.root().to_str().expect("a path of text"));
        let text = text.replace("WORK", work.path().to_str().expect("a path of text"));
        let config = work.path().join("confxml.xml");
        fs::write(&config, text).expect("the configuration");
        let log = work.path().join("log");
        let mut command = bound_command(binary().to_str().expect("a path of text"));
        command.args(["sersync", "-ro"]).arg(&config);
        if how == As::Alone {
            command.args(["-m", name]);
        }
        let out = File::create(&log).expect("a log");
        let mut daemon = Service::start("sersync", &mut command, &out).unwrap_or_else(|e| panic!("{e}"));
        let mirror = if how == As::Alone { format!("{name}-{own}") } else { own };
        let left = Left { log: log.clone(), state: Path::new("/var/lib/fansync").join(mirror) };
        let watching = poll_until(WAIT, || {
            assert!(daemon.ended().is_none(), "it ended at its start");
            // That of the daemon, after those of each filesystem.
            fs::read_to_string(&log).unwrap_or_default().contains(" watching socket=").then_some(())
        });
        assert!(watching.is_some(), "it does not watch");
        Ok(Plugged { src, dst, daemon, how, _left: left, _rsyncd: rsyncd, _work: work })
    }

    /// Writes files of every name, and some that are left out. Gives the absolute paths that a
    /// plugin gets.
    fn write_all(&self) -> BTreeSet<Vec<u8>> {
        let given = names::hostile();
        for name in given.iter().map(PathBuf::as_path).chain([Path::new("x.bak")]) {
            self.src.write(name, b"content");
        }
        let reported = given.iter().filter(|name| {
            let name = name.as_os_str().as_bytes();
            !name.starts_with(b".") && !name.ends_with(b"~")
        });
        reported.map(|name| self.src.at(name).as_os_str().as_bytes().to_vec()).collect()
    }

    /// What was delivered is on the target first, if there is a target.
    #[track_caller]
    fn ends_well(mut self) {
        let sent = fs::read_dir(self.dst.root()).expect("the target can be read").count();
        assert_eq!(sent > 0, self.how == As::Attached, "{sent} names on the target");
        self.daemon.signal(Signal::SIGTERM);
        assert!(self.daemon.wait(WAIT).success());
    }
}

/// The pieces that came, the same ones once, as soon as `want` are among them; no other.
#[track_caller]
fn reported(pieces: impl Fn() -> BTreeSet<Vec<u8>>, want: &BTreeSet<Vec<u8>>) {
    let all = poll_until(WAIT, || pieces().is_superset(want).then_some(()));
    let shown = |set: &BTreeSet<Vec<u8>>, but: &BTreeSet<Vec<u8>>| {
        set.difference(but).map(|p| String::from_utf8_lossy(p).into_owned()).collect::<Vec<_>>()
    };
    let got = pieces();
    assert!(all.is_some(), "not delivered: {:#?}\nbut: {:#?}", shown(want, &got), shown(&got, want));
    assert_eq!(shown(&got, want), Vec::<String>::new(), "delivered although nothing like it happened");
}

/// What a program wrote, each piece ended by a NUL; what is half written is not looked at.
fn pieces(file: &Path) -> BTreeSet<Vec<u8>> {
    let bytes = fs::read(file).unwrap_or_default();
    let mut pieces: Vec<&[u8]> = bytes.split(|&b| b == 0).collect();
    pieces.pop();
    pieces.into_iter().map(<[u8]>::to_vec).collect()
}

fn command(how: As) -> impl Fn(Fs) -> Run<()> {
    move |_| {
        let work = tempfile::tempdir().expect("a directory");
        let (program, out) = (work.path().join("program"), work.path().join("out"));
        let text = format!("#!/bin/sh\n[ \"$1$3\" = one'a b' ] && printf '%s\\0' \"$2\" >> {}\n", out.display());
        fs::write(&program, text).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
        let param = format!("<param prefix=\"{} one\" suffix=\"'a b'\" ignoreError=\"false\"/>", program.display());
        let p = Plugged::start(how, "command", &format!("{param}<filter start=\"false\"/>"))?;
        let want = p.write_all();
        reported(|| pieces(&out), &want);
        p.ends_well();
        Ok(())
    }
}

/// sersync's way with shell syntax, and its filter.
fn command_in_a_shell(how: As) -> impl Fn(Fs) -> Run<()> {
    move |_| {
        let work = tempfile::tempdir().expect("a directory");
        let (out, pwned) = (work.path().join("out"), work.path().join("pwned"));
        let block = format!(
            "<param prefix=\"printf '%s\\0'\" suffix=\"&gt;&gt; {} &amp;&amp; true\" ignoreError=\"true\"/>\
             <filter start=\"true\"><include expression=\"(.*)\\.php\"/><include expression=\"(.*)\\.sh\"/></filter>",
            out.display()
        );
        let p = Plugged::start(how, "command", &block)?;
        p.src.mkdir("d");
        let named = |name: &str| p.src.at(name).as_os_str().as_bytes().to_vec();
        let given = ["a b.php", "$(touch pwned).sh", "`touch pwned`.php", "; touch pwned;.sh", "d/'x\n\".php"];
        for name in given.into_iter().chain(["other.txt", "d/a.php.txt", "x.bak"]) {
            p.src.write(name, b"content");
        }
        reported(|| pieces(&out), &given.map(named).into());
        assert!(!pwned.exists() && !Path::new("pwned").exists() && !Path::new("/pwned").exists(), "a file name was executed");
        p.ends_well();
        Ok(())
    }
}

fn tree(how: As, inner: &str) -> String {
    // Alone, a plugin watches the tree that its own block names; attached, that of the mirror.
    let watch = if how == As::Alone { "SOURCE" } else { "/nowhere" };
    format!("<localpath watch=\"{watch}\">{inner}</localpath>")
}

fn socket(how: As) -> impl Fn(Fs) -> Run<()> {
    move |_| {
        let inbox = Inbox::default();
        let address = listen(anywhere(), keep(&inbox));
        let host = format!("<deshost ip=\"127.0.0.1\" port=\"{}\"/>", address.port());
        let p = Plugged::start(how, "socket", &tree(how, &host))?;
        let want = p.write_all();
        reported(|| inbox.all().into_iter().collect(), &want);
        p.ends_well();
        Ok(())
    }
}

/// Keeps each request's head, and answers as the service does.
fn chinacache(inbox: &Inbox) -> SocketAddr {
    let inbox = inbox.clone();
    listen(anywhere(), move |mut stream| {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
        }
        inbox.put(head);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nwhatsup: content=\"succeed\"\r\n\r\n");
    })
}

fn refresh_cdn(how: As) -> impl Fn(Fs) -> Run<()> {
    move |_| {
        let inbox = Inbox::default();
        let port = chinacache(&inbox).port();
        let inner = format!(
            "<cdninfo domainname=\"127.0.0.1\" port=\"{port}\" username=\"u&amp;1\" passwd=\"p w=%\"/>\
             <sendurl base=\"http://pic.example/cms\"/><regexurl regex=\"false\" match=\"cms/site([/a-zA-Z0-9]*).example/images\"/>"
        );
        let p = Plugged::start(how, "refreshCDN", &tree(how, &inner))?;
        p.src.mkdir("d");
        p.src.write("d/a-1_2.txt", b"content");
        p.src.write("a b&urls=c\r\nX y", b"content");
        p.src.write("x.bak", b"left out");
        let request = |what: &str, url: &str| {
            let target = format!("/index.jsp?user=u%261&pswd=p%20w%3D%25&ok=ok&{what}=http://pic.example/cms/{url}");
            format!("HEAD {target} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
        };
        let want = [request("dirs", "d/"), request("urls", "d/a-1_2.txt"), request("urls", "a%20b%26urls%3Dc%0D%0AX%20y")];
        reported(|| inbox.all().into_iter().collect(), &want.into());
        p.ends_well();
        Ok(())
    }
}

/// sersync's own example of a match: the URL is the base, the group, and what follows the match.
fn refresh_cdn_by_match(how: As) -> impl Fn(Fs) -> Run<()> {
    move |_| {
        let inbox = Inbox::default();
        let port = chinacache(&inbox).port();
        let inner = format!(
            "<cdninfo domainname=\"127.0.0.1\" port=\"{port}\" username=\"u\" passwd=\"p\"/>\
             <sendurl base=\"http://pic.example\"/><regexurl regex=\"true\" match=\"cms/site([/a-zA-Z0-9]*).example.com/images\"/>"
        );
        let p = Plugged::start(how, "refreshCDN", &tree(how, &inner))?;
        p.src.mkdirs("cms/site/jx3.example.com/images");
        p.src.write("cms/site/jx3.example.com/images/a.txt", b"content");
        p.src.write("cms/elsewhere.txt", b"not on the web");
        let request = |what: &str, url: &str| {
            let target = format!("/index.jsp?user=u&pswd=p&ok=ok&{what}=http://pic.example{url}");
            format!("HEAD {target} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
        };
        let want = [request("dirs", "/jx3/"), request("urls", "/jx3/a.txt")];
        reported(|| inbox.all().into_iter().collect(), &want.into());
        p.ends_well();
        Ok(())
    }
}

pub fn cases() -> Vec<Case> {
    const ANY: &[Fs] = &[Fs::Tmpfs];
    vec![
        case("plugin_command_attached", ANY, command(As::Attached)),
        case("plugin_command_alone", ANY, command(As::Alone)),
        case("plugin_command_with_shell_and_filter_attached", ANY, command_in_a_shell(As::Attached)),
        case("plugin_command_with_shell_and_filter_alone", ANY, command_in_a_shell(As::Alone)),
        case("plugin_socket_attached", ANY, socket(As::Attached)),
        case("plugin_socket_alone", ANY, socket(As::Alone)),
        case("plugin_refresh_cdn_attached", ANY, refresh_cdn(As::Attached)),
        case("plugin_refresh_cdn_alone", ANY, refresh_cdn(As::Alone)),
        case("plugin_refresh_cdn_by_match_attached", ANY, refresh_cdn_by_match(As::Attached)),
        case("plugin_refresh_cdn_by_match_alone", ANY, refresh_cdn_by_match(As::Alone)),
    ]
}
