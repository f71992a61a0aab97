//! What is fed to each parser of bytes that come from the kernel, the network, rsync or the disk,
//! and what must hold of the result besides that nothing panics. Used by the targets of cargo-fuzz
//! and by the runner that needs no other compiler (`stable.rs`).

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fansync::config::Config;
use fansync::dirty::Kind;
use fansync::failover::config::Config as FailoverConfig;
use fansync::failover::front::message::{News, Order, examples};
use fansync::failover::machine::Report;
use fansync::failover::probe;
use fansync::failover::wire::frame::{self, Asked};
use fansync::failover::wire::{self, Id, Key, Reply, Request};
use fansync::feed::machine::{End, Machine};
use fansync::feed::moves::Thing;
use fansync::feed::record::{Batch, Item, Record};
use fansync::filter::Filter;
use fansync::location::Location;
#[cfg(feature = "lsyncd")]
use fansync::lsyncd;
use fansync::path::{RelPath, Shown};
use fansync::role::mark::{LAST_EPOCH, Mark};
use fansync::root::Root;
use fansync::sersync::{self, Flags};
use fansync::source::{fan_decode, ino_decode};
use fansync::state::{Identity, Keeper, TargetId};
use fansync::sync::outcome::{self, Exit};
use fansync::sync::output::{Names, Output, Stream};
use fansync::sync::probe::RsyncFacts;
use fansync::sys::dirent::Entries;
use fansync::sys::mount::Mounts;
use fansync::trust::judge::Acl;
use fansync::web::http::{Request as HttpRequest, Response, exchange};
use fansync::web::site;

/// A parser under test.
pub struct Target {
    /// Its name; that of its file below `fuzz_targets`, too.
    pub name: &'static str,
    /// Feeds it.
    pub body: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them; without the feature `lsyncd`, those that need it are left out.
pub const TARGETS: &[Target] = &[
    Target { name: "fanotify", body: fanotify, seeds: fanotify_seeds },
    Target { name: "inotify", body: inotify, seeds: inotify_seeds },
    Target { name: "mountinfo", body: mountinfo, seeds: mountinfo_seeds },
    Target { name: "rsync_output", body: rsync_output, seeds: rsync_seeds },
    Target { name: "rsync_version", body: rsync_version, seeds: version_seeds },
    Target { name: "paths", body: paths, seeds: path_seeds },
    Target { name: "role_mark", body: role_mark, seeds: mark_seeds },
    Target { name: "wire", body: wire_request, seeds: wire_seeds },
    Target { name: "wire_reply", body: wire_reply, seeds: reply_seeds },
    Target { name: "front", body: front, seeds: front_seeds },
    Target { name: "config", body: config, seeds: config_seeds },
    Target { name: "failover_config", body: failover_config, seeds: failover_seeds },
    Target { name: "sersync", body: sersync_xml, seeds: sersync_seeds },
    Target { name: "patterns", body: patterns, seeds: pattern_seeds },
    Target { name: "locations", body: locations, seeds: location_seeds },
    Target { name: "state", body: state, seeds: state_seeds },
    Target { name: "http", body: http, seeds: http_seeds },
    Target { name: "rpc_reply", body: rpc_reply, seeds: rpc_seeds },
    Target { name: "exports", body: exports, seeds: export_seeds },
    Target { name: "locks", body: locks, seeds: lock_seeds },
    Target { name: "proc", body: proc_files, seeds: proc_seeds },
    Target { name: "getdents", body: getdents, seeds: getdents_seeds },
    #[cfg(feature = "lsyncd")]
    Target { name: "lsyncd", body: lsyncd, seeds: lsyncd_seeds },
    Target { name: "answers", body: answers, seeds: answer_seeds },
    Target { name: "pending", body: pending, seeds: pending_seeds },
    Target { name: "feed", body: feed, seeds: feed_seeds },
];

/// Feeds the target of this name.
#[allow(dead_code)]
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("there is such a target");
    (target.body)(data);
}

fn shows_nothing_that_steers(text: &str) {
    assert!(!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{text:?}");
}

fn fanotify(data: &[u8]) {
    for event in fan_decode::events(data) {
        let Ok(event) = event else { break };
        let mut again = Vec::new();
        fan_decode::encode_event(&mut again, &event);
    }
}

fn fanotify_seeds() -> Vec<Vec<u8>> {
    use fansync::sys::handle::FsId;
    let handle = [2, 0, 0, 0, 1, 7, 7, 7];
    let fid = fan_decode::Fid { fs: FsId(7), kind: 1, handle: &handle };
    let place = Some(fan_decode::Place { fid, name: b"name" });
    let event = fan_decode::FanEvent { mask: 0x108, pid: 1, dir: place, old: None, new: None, child: Some(fid), skipped: 0 };
    let renamed = fan_decode::FanEvent { mask: 0x1000_0000, dir: None, old: place, new: place, ..event };
    let mut out = Vec::new();
    fan_decode::encode_event(&mut out, &event);
    fan_decode::encode_event(&mut out, &renamed);
    vec![out]
}

fn inotify(data: &[u8]) {
    for event in ino_decode::events(data) {
        let Ok(event) = event else { break };
        let mut again = Vec::new();
        ino_decode::encode_event(&mut again, &event);
    }
}

fn inotify_seeds() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (wd, mask, name) in [(1i32, 0x100u32, &b"name\0\0\0\0"[..]), (-1, 0x4000, b"")] {
        for word in [wd as u32, mask, 7, name.len() as u32] {
            out.extend_from_slice(&word.to_ne_bytes());
        }
        out.extend_from_slice(name);
    }
    vec![out]
}

fn mountinfo(data: &[u8]) {
    if let Ok(mounts) = Mounts::parse(data) {
        let _ = mounts.mount_of(Path::new("/srv/data/x"));
        let _ = mounts.below(Path::new("/srv")).count();
    }
    let _ = Acl::parse(data);
}

fn mountinfo_seeds() -> Vec<Vec<u8>> {
    vec![
        b"1 1 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 /x\\040y /srv\\011z rw,relatime shared:1 master:2 - btrfs /dev/b rw\n"
            .to_vec(),
        [&[2u8, 0, 0, 0][..], &[1, 0, 6, 0, 255, 255, 255, 255], &[2, 0, 6, 0, 1, 0, 0, 0]].concat(),
    ]
}

/// The first byte says how it comes in pieces and how the process ended.
fn rsync_output(data: &[u8]) {
    let Some((&how, text)) = data.split_first() else { return };
    let location = Location::parse(if how & 1 == 0 { "rsync://h/m/d" } else { "/mnt/copy" }).expect("it is a location");
    let mut output = Output::new(Names::new(Path::new("/srv/data"), &location));
    output.keep_items(100);
    for (n, piece) in text.chunks(usize::from(how >> 4) * 7 + 1).enumerate() {
        let stream = if (n + usize::from(how)) & 8 == 0 { Stream::Stdout } else { Stream::Stderr };
        output.push(stream, piece);
    }
    output.finish();
    for exit in [Exit::Code(0), Exit::Code(23), Exit::Code(12), Exit::Signal(9)] {
        let context = outcome::Context { filters: how & 2 != 0, delete: how & 4 != 0, makes_target: how & 8 != 0 };
        let outcome = outcome::classify(exit, &output, context);
        shows_nothing_that_steers(&outcome.reason);
    }
}

fn rsync_seeds() -> Vec<Vec<u8>> {
    let lines = b"<f+++++++++ d/f\n*deleting   x\ncL+++++++++ l -> t\n.d..t...... ./\n\
        rsync: [sender] send_files failed to open \"/srv/data/a\": Permission denied (13)\n\
        rsync: [receiver] rename \"/mnt/copy/d/.b.Ab12\" -> \"d/b\": Operation not permitted (1)\n\
        rsync: [receiver] symlink \"/d/l\" (in m) -> \"f\" failed: Permission denied (13)\n\
        rsync: [generator] rsync_xal_set: lsetxattr(\"/d/c\",\"user.big\") failed: No space left on device (28)\n\
        file has vanished: \"/srv/data/gone\"\nskipping non-regular file \"fifo\"\n@ERROR: Unknown module 'm'\n\
        rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1338) [sender=3.5.0]\n\
        \r      32,768 100%    1.00MB/s    0:00:00 (xfr#1, to-chk=0/2)\nsent 100 bytes  received 35 bytes\n\\#033[2J\n";
    (0..=255u8).step_by(17).map(|how| [&[how][..], lines].concat()).collect()
}

fn rsync_version(data: &[u8]) {
    let _ = RsyncFacts::parse(data);
}

fn version_seeds() -> Vec<Vec<u8>> {
    vec![
        br#"{"program": "rsync", "version": "3.5.0", "capabilities": {"xattrs": true}, "compress_list": ["zstd"]}"#.to_vec(),
        b"rsync  version v3.2.3  protocol version 31\nCapabilities:\n    xattrs, no ACLs\nCompress list:\n    zstd none\n"
            .to_vec(),
    ]
}

fn paths(data: &[u8]) {
    shows_nothing_that_steers(&Shown(data).to_string().replace(['\n', '\t'], "\u{1}").replace('\u{1}', ""));
    assert!(!Shown(data).to_string().contains('\n'), "a line break is shown");
    if let Some(path) = RelPath::new(data) {
        assert_eq!(RelPath::new(path.as_bytes()).as_ref(), Some(&path), "the normal form is one");
        assert!(!path.as_bytes().split(|&b| b == b'/').any(|part| part == b".."), "it leads out");
    }
    let quoted = fansync::faillog::quoted(data);
    assert!(!quoted.iter().any(|&b| (b < 0x20 && b != b'\n') || b == 0x7f), "it steers a terminal");
}

fn path_seeds() -> Vec<Vec<u8>> {
    [&b"a/b"[..], b"/a//./b/", b"a/../b", b"\x1b[2J", b"\xff\xfe", "é\u{202e}x".as_bytes(), b"a'b\n"].map(<[u8]>::to_vec).into()
}

fn role_mark(data: &[u8]) {
    if let Ok(mark) = Mark::parse(data) {
        assert!((1..=LAST_EPOCH).contains(&mark.epoch));
        shows_nothing_that_steers(&mark.by);
        assert_eq!(Mark::parse(mark.text().as_bytes()), Ok(mark));
    }
}

fn mark_seeds() -> Vec<Vec<u8>> {
    use fansync::role::mark::Role;
    vec![Mark::new(7, Role::Primary, "by hand").text().into_bytes(), Mark::new(1, Role::Follower, "x").text().into_bytes()]
}

fn key() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let path = dir.path().join("key");
        std::fs::write(&path, "00112233445566778899aabbccddeeff").expect("a file can be written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("the mode can be set");
        Key::read(&path).expect("it is a key")
    })
}

/// So many of these bytes; zeros where there are too few.
fn array<const N: usize>(data: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    let n = N.min(data.len());
    array[..n].copy_from_slice(&data[..n]);
    array
}

/// What a sender without the key sends: never a request, whatever it says.
fn wire_request(data: &[u8]) {
    let (nonce, server) = (Id::new().expect("a number can be had"), Id::new().expect("a number can be had"));
    let frame = array(data);
    assert_eq!(wire::opens(&frame, key(), nonce, server), None, "a stranger is served");
    // With the right addressee, so that everything but the code is right.
    let asked = Asked { server, ..Asked::split(&frame) };
    assert_eq!(wire::opens(&asked.encode(), key(), nonce, server), None, "a stranger is served");
    let _ = frame::read_greeting(&array(data));
    if let Some(request) = Request::decode(&array(data)) {
        assert_eq!(request.encode(), array(data));
    }
}

fn wire_seeds() -> Vec<Vec<u8>> {
    let requests = [
        Request::Report,
        Request::Promote { above: 7, by: "x".into() },
        Request::StepDown { by: String::new() },
        Request::HandOver { by: "x".into() },
    ];
    let bodies = requests.map(|request| request.encode());
    let id = Id::from_bytes([7; 16]);
    let frames = bodies.map(|body| Asked { code: [7; 32], nonce: id, client: id, server: id, body }.encode().to_vec());
    bodies.iter().map(|body| body.to_vec()).chain(frames).chain([frame::greeting(id, id).to_vec()]).collect()
}

fn wire_reply(data: &[u8]) {
    if let Some(reply) = Reply::decode(&array(data)) {
        let mark = match &reply {
            Reply::Done { mark } => Some(mark),
            Reply::Report(report) => report.mark.as_ref(),
            Reply::Refused { .. } => None,
        };
        if let Some(mark) = mark {
            assert!((1..=LAST_EPOCH).contains(&mark.epoch));
            shows_nothing_that_steers(&mark.by);
        }
        if let Reply::Refused { why: text } | Reply::Report(Report { trouble: text, .. }) = &reply {
            shows_nothing_that_steers(text);
        }
        assert_eq!(reply.encode(), array(data));
    }
    let _ = serde_json::from_slice::<fansync::control::Request>(data);
    let _ = serde_json::from_slice::<fansync::failover::control::Ask>(data);
}

fn reply_seeds() -> Vec<Vec<u8>> {
    use fansync::role::mark::Role;
    let mark = || Mark::new(7, Role::Primary, "x");
    let report = Report { mark: Some(mark()), peer_whole: Some(true), trouble: "x".into(), ..Report::default() };
    let replies = [Reply::Done { mark: mark() }, Reply::Refused { why: "x".into() }, Reply::Report(report)];
    let replies = replies.iter().map(|reply| reply.encode().to_vec());
    let asks = [r#"{"cmd":"status"}"#, r#"{"cmd":"flush","mirror":"m","target":null,"timeout_ms":30000}"#];
    replies.chain(asks.map(|text| text.as_bytes().to_vec())).collect()
}

/// What a front process that an attacker has taken over says to the daemon.
fn front(data: &[u8]) {
    let packet = array(data);
    if let Some(news) = News::decode(&packet) {
        assert_eq!(news.encode(), packet, "{news:?}");
    }
    let _ = Order::decode(&packet);
}

fn front_seeds() -> Vec<Vec<u8>> {
    let (orders, news) = examples();
    let orders = orders.iter().map(|order| order.encode().to_vec());
    orders.chain(news.iter().map(|news| news.encode().to_vec())).collect()
}

fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::from_toml(text) {
        Ok(config) => {
            let _ = config.without_secrets().to_toml();
        }
        Err(errors) => shows_nothing_that_steers(&errors.to_string()),
    }
}

fn config_seeds() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../packaging/fansync.toml").to_vec(),
        b"[[mirror]]\nname = \"m\"\nsource = \"/srv\"\nexclude = [\"*.swp\"]\n[mirror.batch]\nsettle = \"2ms\"\n[[mirror.target]]\n\
          name = \"t\"\nurl = \"rsync://h/m\"\nargs = [\"-H\"]\n[[mirror.hook]]\nname = \"h\"\nkind = \"http\"\nurl = \"https://h\"\n\
          headers = [\"A: b\"]\n"
            .to_vec(),
    ]
}

fn failover_config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Err(errors) = FailoverConfig::parse(text, None)
    {
        shows_nothing_that_steers(&errors.to_string());
    }
}

fn failover_seeds() -> Vec<Vec<u8>> {
    vec![
        b"[daemon]\nkey_file = \"/k\"\n[server]\ntree = \"/srv\"\npeer = \"h:1\"\nmirror = \"m\"\nexports = [\"h:/srv\"]\n".to_vec(),
        b"[daemon]\nkey_file = \"/k\"\n[[failover]]\nname = \"w\"\nmount = \"/m\"\n[failover.primary]\nhost = \"a\"\nexport = \"/x\"\n\
          [failover.backup]\nhost = \"b\"\nexport = \"/x\"\n[failover.probe]\nevery = \"1s\"\n"
            .to_vec(),
    ]
}

fn sersync_xml(data: &[u8]) {
    match sersync::read(data, None, &Flags::default()) {
        Ok(loaded) => {
            let _ = sersync::toml(&loaded, true);
        }
        Err(errors) => shows_nothing_that_steers(&errors.to_string()),
    }
}

fn sersync_seeds() -> Vec<Vec<u8>> {
    vec![
        br#"<?xml version="1.0" encoding="ISO-8859-1"?>
<head version="2.5"><host hostip="localhost" port="8008"/><debug start="false"/><fileSystem xfs="false"/>
<filter start="true"><exclude expression="(.*)\.svn"/></filter><inotify><delete start="true"/></inotify>
<sersync><localpath watch="/srv/data"><remote ip="127.0.0.1" name="data"/></localpath>
<rsync><commonParams params="-artuz"/><auth start="true" users="u" passwordfile="/p"/></rsync>
<failLog path="/tmp/f.sh" timeToExecute="60"/><crontab start="true" schedule="600"><crontabfilter start="false"/></crontab>
<plugin start="true" name="refreshCDN"/></sersync>
<plugin name="refreshCDN"><localpath watch="/srv/data"><cdninfo domainname="c" port="80" username="u" passwd="p"/>
<sendurl base="http://b"/><regexurl regex="true" match="x([a-z]*)"/></localpath></plugin></head>"#
            .to_vec(),
    ]
}

/// A pattern, a line break, and a path.
fn patterns(data: &[u8]) {
    let at = data.iter().position(|&b| b == b'\n').unwrap_or(data.len());
    let (pattern, path) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    if let Ok(filter) = Filter::new(&[pattern], &[&b"*"[..]]) {
        for dir in [false, true] {
            let _ = filter.excludes(path, dir);
        }
        let _ = filter.rsync_args();
    }
    if let Ok(filter) = Filter::new::<&[u8], _>(&[], &[pattern]) {
        assert!(!filter.excludes(path, false) || !filter.is_empty());
    }
}

fn pattern_seeds() -> Vec<Vec<u8>> {
    [&b"*.swp\na/b.swp"[..], b"/a/**/b\na/x/y/b", b"[a-z[:digit:]\\]x]?/\nq1", b"a***\nab/c", b"+ x\nx"]
        .map(<[u8]>::to_vec)
        .into()
}

fn locations(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(location) = Location::parse(text) {
        let written = location.to_string();
        assert_eq!(Location::parse(&written).map_err(|e| e.to_string()), Ok(location), "{written}");
    }
}

fn location_seeds() -> Vec<Vec<u8>> {
    ["rsync://u@h:873/m/p", "h::m/p", "u@h:/p", "[::1]:/p", "/srv/copy", "rsync://[::1]/m"].map(|t| t.as_bytes().to_vec()).into()
}

/// A source on a filesystem in memory, and where its state is; made once.
struct World {
    dir: tempfile::TempDir,
    root: Root,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = tempfile::Builder::new().prefix("fansync-fuzz-").tempdir_in("/dev/shm").expect("a directory can be made");
        std::fs::create_dir(dir.path().join("src")).expect("a directory can be made");
        let root = Root::open(&dir.path().join("src")).expect("it can be opened");
        World { dir, root }
    })
}

fn targets() -> [TargetId; 1] {
    [TargetId { name: "t".into(), settings: "s".into() }]
}

fn state(data: &[u8]) {
    let world = world();
    let at = world.dir.path().join("state/m/state");
    std::fs::create_dir_all(at.parent().expect("it has one")).expect("a directory can be made");
    std::fs::write(&at, data).expect("a file can be written");
    let opened = Keeper::open(&world.dir.path().join("state"), "m", Identity::of(&world.root, "s"), &targets(), None);
    drop(opened.expect("whatever the file holds, a start goes on"));
}

fn state_seeds() -> Vec<Vec<u8>> {
    let world = world();
    let dir = world.dir.path().join("seed");
    let opened = Keeper::open(&dir, "m", Identity::of(&world.root, "s"), &targets(), None);
    drop(opened);
    vec![std::fs::read(dir.join("m/state")).unwrap_or_default()]
}

/// What a client sends to `metrics`: the path and the host that are answered for are those of its
/// head.
fn http(data: &[u8]) {
    let answer = |asked: &HttpRequest| {
        assert!(!asked.path.contains(['?', ' ', '\r', '\n']), "{asked:?}");
        site::guarded(asked, || Response::ok("text/plain", "x"))
    };
    let client = ([127, 0, 0, 1], 1).into();
    let got = exchange(data.to_vec(), client, Arc::new(answer)).expect("it can be served");
    let status = got.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    assert!(got.is_empty() || status.is_some_and(|code| code.iter().all(u8::is_ascii_digit)), "{}", got.escape_ascii());
    let answers = got.windows(7).filter(|piece| piece == b"HTTP/1.").count();
    assert!(answers <= 1, "more than one request was answered: {}", got.escape_ascii());
}

fn http_seeds() -> Vec<Vec<u8>> {
    [
        &b"GET /metrics HTTP/1.1\r\nHost: localhost:9846\r\nUser-Agent: Prometheus/2.53\r\nAccept: text/plain;q=0.5,*/*;q=0.1\r\n\
           Accept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n"[..],
        b"HEAD /status.json?x=%2e%2e HTTP/1.0\r\nhost: [::1]\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
        b"GET http://other.example/../a HTTP/1.1\r\nHost: evil\r\nHost: localhost\r\nUpgrade: h2c\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost:\r\nExpect: 100-continue\r\n\r\n",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

/// An NFS server's answer, its length in front.
fn rpc_reply(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<4>() else { return };
    if let Some(len) = probe::reply_length(*head) {
        assert!((24..=4096).contains(&len));
    }
    for xid in [7, u32::from_be_bytes(array(rest))] {
        match probe::judge(rest, xid) {
            // Five words and the verifier at the least.
            Ok(()) => assert!(rest.len() >= 24 && rest.starts_with(&xid.to_be_bytes())),
            Err(wrong) => assert_eq!(probe::Wrong::from_number(wrong as u8), Some(wrong)),
        }
    }
}

fn rpc_seeds() -> Vec<Vec<u8>> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    vec![
        words(&[0x8000_0018, 7, 1, 0, 0, 0, 0]),
        words(&[0x8000_0020, 7, 1, 0, 0, 0, 2, 3, 4]),
        words(&[0x8000_0018, 7, 1, 1, 0, 2, 2]),
        words(&[0x8000_0020, 7, 1, 0, 6, 8, 1, 2, 0]),
        words(&[0x8000_0018, 7, 0, 0, 0, u32::MAX, 0]),
    ]
}

/// Tables of exports, and files of Samba.
fn exports(data: &[u8]) {
    let nfs = fansync::exports::of_nfs(data);
    let (shared, included) = fansync::exports::of_samba(data);
    for path in nfs.iter().chain(&shared).chain(&included) {
        assert!(path.is_absolute(), "{path:?}");
    }
    assert!(shared.iter().all(|path| !path.as_os_str().as_encoded_bytes().contains(&b'%')), "{shared:?}");
}

fn export_seeds() -> Vec<Vec<u8>> {
    [
        &b"/srv\t*(rw,sync,wdelay,hide,nocrossmnt,secure,root_squash,no_all_squash,no_subtree_check,secure_locks,acl,no_pnfs,fsid=1,\
           anonuid=65534,anongid=65534,sec=sys,rw,secure,root_squash,no_all_squash)\n"[..],
        b"# Version 1.1\n# Path Client(Flags) # IPs\n/a\\040b\\134c\t10.0.0.0/8(ro,crossmnt,fsid=0)\n/\t192.168.1.1(ro,v4root,fsid=0,uuid=1)\n",
        b"[global]\n  workgroup = X\n include = /etc/samba/more.conf\n include = /etc/samba/%m.conf\n[data]\n\tPath = /srv/data\n\
          ; path = /not\n[homes]\n directory=\"/home/%S/files\"\n",
        b"#VERSION 2\npath=/srv/shared\ncomment=\nusershare_acl=S-1-1-0:R\nguest_ok=n\nsharename=x\n",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

/// `/proc/locks`.
fn locks(data: &[u8]) {
    let leased = fansync::targets::leased(data);
    assert!(leased.len() <= data.split(|&b| b == b'\n').count());
}

fn lock_seeds() -> Vec<Vec<u8>> {
    vec![
        b"1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF\n2: FLOCK  ADVISORY  WRITE 3517 fd:00:2531448 0 EOF\n\
          3: LEASE  ACTIVE    READ  3459 fd:00:1048 0 EOF\n3: -> LEASE  BREAKING  UNLCK 3459 00:2f:257 0 EOF\n\
          4: DELEG  ACTIVE    WRITE 0 08:01:18446744073709551615 0 EOF\n5: OFDLCK MANDATORY READ -1 <none>:0 128 128\n"
            .to_vec(),
    ]
}

/// Files of other processes below /proc, which choose their names themselves.
fn proc_files(data: &[u8]) {
    use fansync::sys::{caps, child, tcp};
    let found = tcp::half_closed_in(data, None, 873);
    let there = tcp::half_closed_in(data, Some([127, 0, 0, 1].into()), 873);
    assert!(found.known >= there.known && found.unknown >= there.unknown);
    let _ = (child::io_bytes(data), child::cpu_ticks(data), fansync::failover::stuck::state(data));
    if let Some(caps) = caps::Caps::parse(data) {
        let _ = caps.names();
    }
}

fn proc_seeds() -> Vec<Vec<u8>> {
    [
        &b"1234 (a) b) S 1 1234 1234 0 -1 4194560 1 2 3 4 56 78 9 10 20 0 1 0 12345 67890 12 18446744073709551615 1 1 0 0 0\n"[..],
        b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
          0: 0100007F:C350 0100007F:0369 05 00000000:00000000 03:00001770 00000000     0        0 0 3 0000000000000000\n\
          1: 0000000000000000FFFF00000100007F:C351 0000000000000000FFFF00000100007F:0369 04 00000001:00000000 01:00000014\n",
        b"rchar: 38002897\nwchar: 5\nsyscr: 7\nsyscw: 1\nread_bytes: 100\nwrite_bytes: 0\ncancelled_write_bytes: 0\n",
        b"Name:\trsync\nUmask:\t0022\nUid:\t0\t0\t0\t0\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000004\nCapEff:\t000001ffffffffff\n",
    ]
    .map(<[u8]>::to_vec)
    .into()
}

/// A listing as the kernel writes it.
fn getdents(data: &[u8]) {
    let mut entries = Entries::of(data);
    while let Some((name, _, _)) = entries.next_numbered() {
        assert!(!name.contains(&0) && name != b"." && name != b"..");
    }
}

fn getdents_seeds() -> Vec<Vec<u8>> {
    let record = |ino: u64, kind: u8, name: &[u8]| {
        let length = (19 + name.len() + 1).next_multiple_of(8);
        let mut out = [&ino.to_ne_bytes()[..], &[0; 8], &(length as u16).to_ne_bytes(), &[kind], name].concat();
        out.resize(length, 0);
        out
    };
    vec![[record(2, 4, b"."), record(2, 4, b".."), record(7, 8, b"name"), record(u64::MAX, 0, &[b'x'; 255])].concat()]
}

#[cfg(feature = "lsyncd")]
fn lsyncd(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match lsyncd::read(text, None, None) {
        Ok(loaded) => {
            let toml = sersync::toml(&loaded, false).expect("it can be written");
            assert!(Config::from_toml(&toml).is_ok(), "what is printed is not valid: {toml}");
        }
        Err(errors) => shows_nothing_that_steers(&errors.to_string()),
    }
}

#[cfg(feature = "lsyncd")]
fn lsyncd_seeds() -> Vec<Vec<u8>> {
    [
        "settings { logfile = \"/var/log/lsyncd.log\", statusFile = \"/s\", maxProcesses = 4, nodaemon = true }\n\
         sync { default.rsync, source = \"/srv/www\", target = \"backup::www\", delay = 15, delete = \"running\",\n\
         exclude = { \"*.tmp\", \"/cache/\" }, rsync = { archive = true, compress = true, owner = false, _extra = { \"-S\" } } }\n",
        "local hosts = { \"a\", \"b\" }\nfor _, host in ipairs(hosts) do\n sync { default.rsyncssh, source = \"/a\", host = \"u@\" .. host,\n\
         targetdir = \"/b\", ssh = { port = 2222, identityFile = \"/k\", options = { User = \"x\" } } }\nend\n",
        "sync{ default.direct, source=\"/a\", target=\"/mnt/b/\", filter={\"+ /x\", \"- *\"}, init=false, excludeFrom=\"/e\" }\n\
         local ok, err = pcall(function() error(\"\\27[2J\") end)\nprint(err, string.rep(\"x\", 10), #arg)\n",
        "settings = { delay = 1 }\nsync{ default.rsync, source=\"/a\", target=\"root@h:/b\", rsync={rsh=\"/usr/bin/ssh -p 22\", chmod=\"u=rw\"} }\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// What receivers of hooks answer: two bytes of a status, a header's value to the first line break,
/// and the rest. And the greeting of an rsync daemon.
fn answers(data: &[u8]) {
    let Some((status, rest)) = data.split_first_chunk::<2>() else { return };
    let at = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
    let (value, said) = (&rest[..at], rest.get(at + 1..).unwrap_or_default());
    let words = fansync::hooks::judged(u16::from_be_bytes(*status), &String::from_utf8_lossy(value), said);
    shows_nothing_that_steers(&words);
    let _ = fansync::connect::protocol(&String::from_utf8_lossy(said));
}

fn answer_seeds() -> Vec<Vec<u8>> {
    let of = |status: u16, rest: &[u8]| [&status.to_be_bytes(), rest].concat();
    vec![
        of(429, b"120\nslow down\n"),
        of(503, b"Sun, 06 Nov 1994 08:49:37 GMT\nHTTP/1.1 503 Unavailable\r\nServer: x\r\n\r\n"),
        of(404, b"\n\xff\x1b[2Jnot here"),
        of(200, b"\n@RSYNCD: 31.0 sha512 sha256 sha1 md5 md4\n"),
    ]
}

/// What a hook had pending.
fn pending(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(events) = fansync::hooks::pending(text) {
        assert_eq!(events, text.lines().count());
    }
    let _ = serde_json::from_str::<fansync::control::Reply>(text);
}

fn pending_seeds() -> Vec<Vec<u8>> {
    vec![
        b"{\"path\":\"ZC9m\",\"change\":\"written\",\"dir\":false,\"target\":\"t\",\"millis\":1700000000000,\"batch\":\"b\"}\n\
          {\"path\":\"\",\"change\":null,\"dir\":true,\"target\":null,\"millis\":0,\"batch\":\"\"}\n"
            .to_vec(),
        b"{\"reply\":\"done\"}".to_vec(),
    ]
}

/// A message of a feed, and what a follower makes of several.
fn feed(data: &[u8]) {
    let mut follower = Machine::new(None, 100, Duration::from_secs(1));
    for (sequence, message) in data.split(|b| *b == 0xfe).enumerate() {
        let record = Record::decode(message);
        if let Ok(record) = &record {
            assert_eq!(record.encode(), message, "there is one way to write a record");
        }
        follower.record(sequence as u64, record);
        follower.looked(Duration::ZERO, sequence as u64 / 2);
        assert!(!follower.owes() || follower.position().is_none());
        give_names(&mut follower);
        if follower.take(Duration::ZERO).is_some() {
            assert_eq!(follower.next_move(), None, "no name is given beside a run");
            follower.ended(Duration::ZERO, End::Done, &|path| path.len() % 2 == 0);
        }
        for (path, _) in follower.saved().doubted {
            let path = RelPath::new(&path).expect("it was one");
            assert!(follower.is_about(&path) || follower.fails_at(&path), "{path} stays doubted");
        }
        let saved = follower.saved();
        assert_eq!(Machine::new(Some(saved.clone()), 100, Duration::ZERO).saved().owed, saved.owed);
    }
}

/// The names that wait, each given or not, to a file or a directory, by its length.
fn give_names(follower: &mut Machine) {
    while let Some(given) = follower.next_move() {
        assert!(!follower.owes() && !follower.is_held());
        let (from, to) = (given.from.as_path(), given.to.as_path());
        assert!(!from.starts_with(to) && !to.starts_with(from), "one is in the other");
        let thing = if given.from.len() % 2 == 0 { Thing::Directory } else { Thing::File };
        if !follower.begin_move(&given, thing) {
            continue;
        }
        let is_doubted = |follower: &Machine| follower.saved().doubted.iter().any(|(path, _)| **path == *given.to);
        assert!(is_doubted(follower), "it is on the disk before it is given");
        match given.to.len() % 3 {
            0 => {
                follower.not_moved(&given);
                assert!(!is_doubted(follower));
            }
            _ => follower.end_move(given, thing),
        }
    }
}

fn feed_seeds() -> Vec<Vec<u8>> {
    let entry = |path: &str, kind: Kind, gone: bool| Item {
        path: RelPath::new(path.as_bytes()).expect("a path"),
        kind,
        gone,
        directory: !gone,
        content: true,
        to: Some(RelPath::new(b"moved").expect("a path")).filter(|_| gone),
    };
    let of = |number: u64, everything: bool| {
        let entries = vec![entry("a/b", Kind::Entry, true), entry("a", Kind::Subtree, false), entry("", Kind::Contents, false)];
        let batch = Batch { protocol: 32, version: [3, 5, 0], stored: 1, made: number, bytes: vec![1; 9], ..Batch::default() };
        let batch = Some(batch).filter(|_| number.is_multiple_of(2));
        let identity = [1; 16];
        Record { identity, incarnation: 7, number, stream: 1, everything, entries, batch, ..Record::default() }.encode()
    };
    vec![
        of(1, true),
        [of(1, true), of(2, false), of(3, false), of(4, false), of(5, false)].join(&0xfe),
        [of(1, true), of(3, false)].join(&0xfe),
    ]
}
