//! What is fed to each parser of bytes that come from the kernel, the network, rsync or the disk,
//! and what must hold of the result besides
//! that nothing panics. Used by the targets of cargo-fuzz and by the runner that needs no other
//! compiler (`stable.rs`).

use std::path::Path;
use std::sync::OnceLock;

use fansync::config::Config;
use fansync::failover::config::Config as FailoverConfig;
use fansync::failover::front::message::{News, Order, examples};
use fansync::failover::machine::Report;
use fansync::failover::mark::{LAST_EPOCH, Mark};
use fansync::failover::wire::frame::{self, Asked};
use fansync::failover::wire::{self, Id, Key, Reply, Request};
use fansync::filter::Filter;
use fansync::path::{RelPath, Shown};
use fansync::resolve::Root;
use fansync::sersync::{self, Flags};
use fansync::source::{fan_decode, ino_decode};
use fansync::state::{Identity, Keeper, TargetId};
use fansync::sync::location::Location;
use fansync::sync::outcome::{self, Exit};
use fansync::sync::output::{Names, Output, Stream};
use fansync::sync::probe::RsyncFacts;
use fansync::sys::mount::Mounts;
use fansync::trust::judge::Acl;

/// A parser under test.
pub struct Target {
    /// Its name; that of its file below `fuzz_targets`, too.
    pub name: &'static str,
    /// Feeds it.
    pub body: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 16] = [
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
    use fansync::failover::mark::Role;
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

/// What somebody without the key sends: never a request, whatever it says.
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
    use fansync::failover::mark::Role;
    let mark = || Mark::new(7, Role::Primary, "x");
    let report = Report { mark: Some(mark()), peer_whole: Some(true), trouble: "x".into(), ..Report::default() };
    let replies = [Reply::Done { mark: mark() }, Reply::Refused { why: "x".into() }, Reply::Report(report)];
    let replies = replies.iter().map(|reply| reply.encode().to_vec());
    let asks = [r#"{"cmd":"status"}"#, r#"{"cmd":"flush","mirror":"m","target":null,"timeout_ms":30000}"#];
    replies.chain(asks.map(|text| text.as_bytes().to_vec())).collect()
}

/// What a front process that somebody has taken over says to the daemon.
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
        include_bytes!("../scripts/dist/fansync.toml").to_vec(),
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
    let opened = Keeper::open(&world.dir.path().join("state"), "m", Identity::of(&world.root, "s"), &targets());
    drop(opened.expect("whatever the file holds, a start goes on"));
}

fn state_seeds() -> Vec<Vec<u8>> {
    let world = world();
    let dir = world.dir.path().join("seed");
    let opened = Keeper::open(&dir, "m", Identity::of(&world.root, "s"), &targets());
    drop(opened);
    vec![std::fs::read(dir.join("m/state")).unwrap_or_default()]
}
