//! Every key is read, written and documented, with its default.

use super::*;

/// Every key, each with a value that is not its default.
pub(super) const EVERY_KEY: &str = r#"
[daemon]
state_dir = "/s"
status_socket = "/r/sock"
socket_group = "monitoring"
stop_timeout = "20s"
max_runs = 12
bwlimit = "20MiB"
metrics = "[::1]:9847"
page = false
metrics_file = "/m/fansync.prom"
metrics_interval = "1m"
[daemon.log]
format = "json"
level = "debug"
[[mirror]]
name = "data"
source = "/no/such/tree"
delete = false
max_delete = "10%"
first_max_delete = 7
max_file_size = "10GiB"
remove_source_files = false
remove_after = "10m"
allow_empty = true
initial = "none"
watch = "inotify"
roles = true
require_confined = true
send_renames = false
follow_open_files = true
follow_interval = "700ms"
include = ["keep.swp", "\u00e9"]
exclude = ["*.swp", "/cache/", "+ x", "a\nb"]
exclude_regex = ["(.*)\\.svn"]
filter = ["+ /a/***", "- *.tmp"]
exclude_temporary = true
full_exclude = ["*.php"]
fail_log = "/v/failed.sh"
full_every = "1h 30m"
full_at = "3:00"
verify_at = ["12:30", "00:00", "12:30"]
verify_every = "1d"
rsync = "/opt/rsync"
[mirror.mounts]
skip = ["overlay", "/scratch/"]
take = ["fuse"]
[mirror.batch]
settle = "3ms"
max_delay = "1s"
delay = "15s"
create_hold = "1500us"
max_paths = 100
max_bytes = "256MiB"
max_pending = 5000
[mirror.events]
delete = false
create_folder = false
create_file = false
close_write = false
move_from = false
move_to = false
attrib = false
[mirror.kernel]
unlimited_queue = false
rename_events = false
io_uring = false
[[mirror.target]]
name = "a"
url = "rsync://u@[::1]:8730/m/p"
password_file = "/etc/p"
max_delete = 500
delay = "1m"
compress = "zstd"
args = ["-A", "--bwlimit=10m"]
jobs = 3
small_jobs = 5
standby = 0
standby_max_age = "1m"
timeout = "30s"
connect_timeout = "5s"
watchdog = "100s"
retry_min = "1s"
retry_max = "30s"
retry_failed = "1h"
nice = 5
ionice = "idle"
[[mirror.target]]
name = "b"
url = "h:/p"
ssh = "ssh -p 2222"
rsync_path = "sudo rsync"
backup_dir = "/old/web"
backup_keep = "30d"
[[mirror.hook]]
name = "list"
kind = "http"
when = "confirmed"
target = "b"
kinds = ["deleted", "changed"]
include = ["*/", "*.jpg"]
exclude = ["*"]
match = [".*\\.jpg"]
batch = 7
jobs = 3
interval = "1s"
timeout = "5s"
tries = 2
retry_min = "1s"
retry_max = "5m"
max_pending = 1000
url = "https://h/p"
headers = ["A: b", "C: d: e"]
token_file = "/t"
token_header = "X-Key: {token}"
ca_file = "/ca"
[[mirror.hook]]
name = "run"
kind = "command"
prefix = "/bin/x 'a b'"
suffix = "> /dev/null"
shell = true
input = "stdin"
success = [0, 3]
ignore_error = true
[[mirror.hook]]
name = "line"
kind = "socket"
address = "[::1]:80"
acknowledge = true
[[mirror.hook]]
name = "path"
kind = "socket"
when = "event"
path = "/run/s"
form = "path"
[[mirror.hook]]
name = "china"
kind = "cdn"
form = "chinacache"
base = "http://b"
url_match = "x(y)"
address = "h:80"
domain = "d"
user = "u"
password = "p"
[[mirror.hook]]
name = "china-too"
kind = "cdn"
form = "chinacache"
base = "http://b"
address = "h:80"
user = "u"
password_file = "/p"
[[mirror.hook]]
name = "purge"
kind = "cdn"
base = "http://b"
url = "https://api/z"
method = "DELETE"
body = '{"files": {urls}}'
[[mirror]]
name = "other"
source = "/no/such/other"
[[mirror.target]]
name = "a"
url = "/no/such/copy"
[[mirror.feed]]
name = "f"
servers = ["tls://hub1", "tls://hub2:4223"]
feed = "web"
nkey_file = "/n"
ca_file = "/ca"
cert_file = "/c"
key_file = "/k"
keep = "7d"
keep_bytes = "500MiB"
replicas = 3
last = ["/dists/**/Release*"]
inline = "64KiB"
retry_min = "2s"
retry_max = "10s"
[[mirror.feed]]
name = "g"
servers = ["nats://hub"]
nats_user = "u"
nats_password_file = "/p"
inline = "0"
[[follow]]
name = "copy"
servers = ["tls://hub1"]
feed = "web"
follower = "web17"
directory = "/no/such/follower"
upstream = ["rsync://u@relay/web", "rsync://u@origin/web"]
serve = "rsync://web17/web"
password_file = "/p"
max_delete = 1000
spread = "10m"
exclude = ["/cache/"]
xattrs = true
acls = true
sparse = true
compress = "lz4"
timeout = "30s"
connect_timeout = "5s"
watchdog = "2m"
retry_min = "1s"
retry_max = "5m"
rsync = "/opt/rsync"
nats_user = "u"
nats_password_file = "/p"
ca_file = "/ca"
cert_file = "/c"
key_file = "/k"
[[follow]]
name = "copy-too"
servers = ["nats://hub"]
directory = "/no/such/second"
upstream = "origin:/srv/web"
ssh = "ssh -p 2222"
nkey_file = "/n"
"#;

#[test]
fn the_least_configuration_has_the_defaults() {
    let config = read(&least("", "")).unwrap();
    assert_eq!(config.daemon, Daemon::default());
    let mut mirror = Mirror::new("m", "/no/such/tree");
    mirror.targets.push(Target::new("t", Location::parse("h::m").unwrap()));
    assert_eq!(config.mirrors, [mirror]);
}

#[test]
fn every_key_is_read() {
    let config = read(EVERY_KEY).unwrap();
    let (d, m) = (&config.daemon, &config.mirrors[0]);
    assert_eq!((d.state_dir.to_str(), d.status_socket.to_str()), (Some("/s"), Some("/r/sock")));
    assert_eq!(d.socket_group.as_deref(), Some("monitoring"));
    assert_eq!((d.stop_timeout, d.log.format, d.log.level), (Duration::from_secs(20), LogFormat::Json, Level::Debug));
    let metrics = (d.metrics.map(|a| a.to_string()), d.metrics_file.as_deref(), d.metrics_interval);
    assert_eq!(metrics, (Some("[::1]:9847".into()), Some("/m/fansync.prom".as_ref()), Duration::from_secs(60)));
    assert!(m.roles && !m.send_renames && m.require_confined);
    assert_eq!((m.delete, m.initial, m.watch), (Delete::Never, Initial::None, Watch::Inotify));
    assert_eq!((m.follow_open_files, m.follow_interval), (FollowOpenFiles::On, Duration::from_millis(700)));
    let expressions = [r"(.*)\.svn".to_owned()];
    let filter =
        Filter::with_regexes(&["keep.swp", "\u{e9}"], &["*.swp", "/cache/", "+ x", "a\nb", "/.fansync"], &expressions, true);
    let rules = ["+ /a/***", "- *.tmp"].map(|rule| Ordered::parse(rule.as_bytes()).unwrap());
    assert_eq!(m.filter, filter.unwrap().with_rules(&rules).unwrap());
    assert_eq!(
        (&m.full_exclude[..], m.fail_log.as_deref()),
        (&["*.php".to_owned()][..], Some(std::path::Path::new("/v/failed.sh")))
    );
    let none = Events {
        delete: false,
        create_folder: false,
        create_file: false,
        close_write: false,
        move_from: false,
        move_to: false,
        attrib: false,
    };
    assert_eq!(m.events, none);
    let shown = |times: &[crate::daily::TimeOfDay]| times.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!((shown(&m.full_at).as_str(), shown(&m.verify_at).as_str()), ("03:00", "00:00 12:30"));
    assert_eq!((m.full_every, m.rsync.to_str()), (Some(Duration::from_secs(5400)), Some("/opt/rsync")));
    let [settle, max_delay, create_hold] = [3_000, 1_000_000, 1_500].map(Duration::from_micros);
    assert_eq!(
        m.batch,
        Batch {
            settle,
            max_delay,
            delay: Some(Duration::from_secs(15)),
            create_hold,
            max_paths: 100,
            max_bytes: Some(256 << 20),
            max_pending: 5000
        }
    );
    assert_eq!(m.kernel, checked::KernelSwitches { unlimited_queue: false, rename_events: false, io_uring: false });
    let mounts = [&m.mounts.skip, &m.mounts.take].map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(mounts, [vec!["overlay", "/scratch/"], vec!["fuse"]]);
    assert_eq!((m.max_delete, m.allow_empty), (Some(MaxDelete::Percent(10)), true));
    assert_eq!((m.first_max_delete, m.max_file_size), (MaxDelete::Count(7), Some(10 << 30)));
    let [standby_max_age, timeout, connect_timeout, watchdog, retry_min, retry_max] =
        [60, 30, 5, 100, 1, 30].map(Duration::from_secs);
    let want = Target {
        feed: None,
        name: "a".into(),
        location: Location::parse("rsync://u@[::1]:8730/m/p").unwrap(),
        password_file: Some("/etc/p".into()),
        max_delete: Some(MaxDelete::Count(500)),
        delay: Some(Duration::from_secs(60)),
        compress: Compress::Zstd,
        args: vec!["-A".into(), "--bwlimit=10m".into()],
        jobs: 3,
        small_jobs: 5,
        standby: 0,
        standby_max_age,
        timeout,
        connect_timeout,
        watchdog,
        retry_min,
        retry_max,
        retry_failed: Some(Duration::from_secs(3600)),
        nice: 5,
        ionice: checked::IoNice::Idle,
        ssh: None,
        rsync_path: None,
        backup_dir: None,
        backup_keep: None,
    };
    assert_eq!(m.targets[0], want);
    let day = Duration::from_secs(24 * 3600);
    let (dir, keep) = (Some(PathBuf::from("/old/web")), Some(day * 30));
    assert_eq!((m.targets[1].backup_dir.clone(), m.targets[1].backup_keep), (dir, keep));
    assert_eq!((m.targets[1].ssh.as_deref(), m.targets[1].rsync_path.as_deref()), (Some("ssh -p 2222"), Some("sudo rsync")));
}

#[test]
fn the_effective_configuration_reads_back_equal() {
    let words = ["startup", "running"].map(|word| least(&format!("delete = {word:?}"), ""));
    for text in [EVERY_KEY.to_owned(), least("", "")].into_iter().chain(words) {
        let config = read(&text).unwrap();
        let effective = config.to_toml().unwrap();
        assert_eq!(read(&effective).unwrap_or_else(|e| panic!("{effective}\n{e}")), config, "{effective}");
        assert_eq!(read(&effective).unwrap().to_toml().unwrap(), effective);
    }
}

/// All paths of keys, without the numbers of list items.
pub(super) fn keys(config: &Config) -> std::collections::BTreeSet<String> {
    fn walk(value: &::toml::Value, path: &str, out: &mut std::collections::BTreeSet<String>) {
        match value {
            ::toml::Value::Table(table) => table.iter().for_each(|(k, v)| walk(v, &format!("{path}.{k}"), out)),
            ::toml::Value::Array(items) if items.iter().all(|i| i.is_table()) && !items.is_empty() => {
                items.iter().for_each(|i| walk(i, path, out));
            }
            _ => _ = out.insert(path[1..].to_owned()),
        }
    }
    let mut out = Default::default();
    walk(&config.to_toml().unwrap().parse::<::toml::Table>().unwrap().into(), "", &mut out);
    out
}

/// One hook of each kind, with what it needs.
const LEAST_HOOKS: &str = r#"
[[mirror.hook]]
name = "h"
kind = "http"
url = "http://h"
[[mirror.hook]]
name = "c"
kind = "command"
prefix = "x"
[[mirror.hook]]
name = "d"
kind = "cdn"
base = "http://b"
url = "{url}"
[[mirror.hook]]
name = "s"
kind = "socket"
path = "/s"
[[mirror.feed]]
name = "f"
servers = ["nats://hub"]
[[follow]]
name = "copy"
servers = ["nats://hub"]
directory = "/no/such/follower"
upstream = "rsync://origin/web"
"#;

/// The reference has a row `| key | default | …` for each key, below the heading of its table, and
/// its default is the one that an unset key has.
#[test]
fn the_reference_has_every_key_and_default() {
    let reference = include_str!("../../../docs/config.md");
    let (every, default) = (read(EVERY_KEY).unwrap(), read(&format!("{}{LEAST_HOOKS}", least("", ""))).unwrap());
    let default: ::toml::Table = default.to_toml().unwrap().parse().unwrap();
    let mut documented = std::collections::BTreeSet::new();
    let mut table = "";
    let mut of_kind = None;
    for line in reference.lines().filter(|line| !line.starts_with("```")) {
        if let Some(heading) = line.strip_prefix("## `") {
            let (name, rest) = heading.split_once('`').unwrap();
            table = name.trim_matches(['[', ']']);
            of_kind = rest.strip_prefix(", ").map(::toml::Value::from);
        }
        let cells: Vec<_> = line.split(" | ").map(|c| c.trim_matches(['|', ' '])).collect();
        let Some(key) = cells[0].strip_prefix('`').and_then(|k| k.strip_suffix('`')) else { continue };
        assert_eq!(cells.len(), 4, "a row has key, default, unit and meaning, example: {line}");
        documented.insert(format!("{table}.{key}"));
        let value = table
            .split('.')
            .try_fold(&::toml::Value::Table(default.clone()), |v, k| {
                let below = v.get(k)?;
                // Of hooks, one of the kind that the heading names.
                let fits = |t: &&::toml::Value| of_kind.is_none() || t.get("kind") == of_kind.as_ref();
                below.as_array().map_or(Some(below), |a| a.iter().find(fits).or(a.first()))
            })
            .and_then(|t| t.get(key))
            .cloned();
        match (cells[1], value) {
            ("required", Some(_)) | ("unset", None) => {}
            // A socket has this one or the other.
            ("unset", Some(_)) if key == "path" => {}
            (cell, Some(value)) => assert_eq!(cell.trim_matches('`'), value.to_string(), "default of {table}.{key}"),
            (cell, None) => panic!("{table}.{key} has no default, but the reference says {cell}"),
        }
        let example = cells[3].trim_matches('`');
        assert!(example.parse::<::toml::Table>().is_ok_and(|t| t.contains_key(key)), "example of {table}.{key}: {example}");
    }
    let known = keys(&every);
    assert_eq!(documented, known, "the keys in docs/config.md and those of the daemon differ");
}

#[test]
fn the_sample_is_good() {
    let config = read(include_str!("../../../packaging/fansync.toml")).unwrap_or_else(|e| panic!("{e}"));
    assert!(!config.mirrors[0].targets.is_empty());
    // What it shows commented out must be right too.
    let lines = include_str!("../../../packaging/fansync.toml").lines();
    let all: Vec<_> = lines.map(|l| l.strip_prefix('#').filter(|l| !l.starts_with([' ', '#'])).unwrap_or(l)).collect();
    let all = all.join("\n");
    assert_ne!(read(&all).unwrap_or_else(|e| panic!("{e}")), config);
}

#[test]
fn hooks() {
    let config = read(EVERY_KEY).unwrap();
    let hooks = &config.mirrors[0].hooks;
    use hook::{Action, Address, CdnForm, Change, Secret, SocketForm, When};
    let h = &hooks[0];
    assert_eq!(
        (h.when, h.target.as_deref(), &h.kinds[..]),
        (When::Confirmed, Some("b"), &[Change::Deleted, Change::Changed][..])
    );
    assert!(h.matches[0].regex().is_match(b"/d/a.jpg") && !h.matches[0].regex().is_match(b"a.jpg.b"));
    assert_eq!((h.batch, h.jobs, h.tries, h.max_pending), (7, 3, 2, 1000));
    let Action::Http(http) = &h.action else { panic!("{h:?}") };
    assert_eq!(http.request.headers, [("A".into(), "b".into()), ("C".into(), "d: e".into())]);
    assert!(!format!("{h:?}").contains("d: e"), "a header may be a secret");
    let Action::Command(c) = &hooks[1].action else { panic!("{:?}", hooks[1]) };
    assert_eq!((&*c.prefix, c.shell, c.input, &c.success[..]), ("/bin/x 'a b'", true, hook::Input::Stdin, &[0, 3][..]));
    let Action::Socket(s) = &hooks[3].action else { panic!("{:?}", hooks[3]) };
    assert_eq!((hooks[3].when, s.form, &s.address), (When::Event, SocketForm::Path, &Address::Unix("/run/s".into())));
    let Action::Cdn(cdn) = &hooks[5].action else { panic!("{:?}", hooks[5]) };
    let CdnForm::Chinacache { domain, password, .. } = &cdn.form else { panic!("{cdn:?}") };
    assert_eq!((&**domain, password), ("h", &Secret::File("/p".into())));
    assert!(!format!("{:?}", hooks[4]).contains("\"p\""), "the password shows");

    let alone = |more: &str| {
        messages(&format!("[[mirror]]\nname = \"m\"\nsource = \"/no/such\"\n[[mirror.hook]]\nname = \"h\"\n{more}")).join("\n")
    };
    assert_eq!(alone("kind = \"command\"\nprefix = \"x\""), "");
    for (more, want) in [
        ("kind = \"command\"", "has no prefix"),
        ("kind = \"commando\"", "should be one of \"command\", \"socket\", \"http\", \"cdn\""),
        ("kind = \"command\"\nprefix = \"x\"\nwhen = \"confirmed\"", "nothing is ever confirmed"),
        ("kind = \"command\"\nprefix = \"x\"\ntarget = \"t\"", "have no target"),
        ("kind = \"command\"\nprefix = \"x\"\nbatch = 3", "unknown key \"batch\""),
        ("kind = \"command\"\nprefix = \"x 'y\"", "a quote that does not end"),
        ("kind = \"command\"\nprefix = \" \"", "prefix is empty"),
        ("kind = \"command\"\nprefix = \"x\"\nsuccess = [\"0\"]", "should be a list of whole numbers"),
        ("kind = \"command\"\nprefix = \"x\"\nsuccess = []", "success is empty"),
        ("kind = \"command\"\nprefix = \"x\"\nkinds = []", "kinds is empty"),
        ("kind = \"command\"\nprefix = \"x\"\nkinds = [\"moved\"]", "no kind of change \"moved\""),
        ("kind = \"command\"\nprefix = \"x\"\nmatch = [\"(\"]", "no regular expression"),
        ("kind = \"command\"\nprefix = \"x\"\njobs = 0", "jobs is 0"),
        ("kind = \"socket\"", "one of address and path"),
        ("kind = \"socket\"\naddress = \"h\"", "is not host:port"),
        ("kind = \"socket\"\naddress = \"h:1\"\nform = \"path\"\nacknowledge = true", "not a line"),
        ("kind = \"http\"\nurl = \"h/p\"", "no http:// or https:// URL"),
        ("kind = \"http\"\nurl = \"http://h/\u{e9}\"", "a character that no URL may hold"),
        ("kind = \"http\"\nurl = \"http://h\"\nheaders = [\"x\"]", "a header has no colon"),
        ("kind = \"http\"\nurl = \"http://h\"\nheaders = [\"x y: z\"]", "cannot be sent"),
        ("kind = \"http\"\nurl = \"http://h\"\ntoken_header = \"X: {token}\"", "no token_file"),
        ("kind = \"http\"\nurl = \"http://h\"\ntoken_file = \"/t\"\ntoken_header = \"X: t\"", "no place for the token"),
        ("kind = \"cdn\"\nbase = \"http://b\"\nurl = \"http://h\"", "a place for the URLs"),
        ("kind = \"cdn\"\nbase = \"http://b\"\nurl = \"{url}\"\nmethod = \"p\"", "no HTTP method"),
        (
            "kind = \"cdn\"\nform = \"chinacache\"\nbase = \"http://b\"\naddress = \"h:80\"\nuser = \"u\"",
            "password_file and password",
        ),
    ] {
        let got = alone(more);
        assert!(got.contains(want), "{more}: {got}");
    }
    let of = |more: &str| {
        messages(&format!("{}[[mirror.hook]]\nname = \"h\"\nkind = \"command\"\nprefix = \"x\"\n{more}", least("", ""))).join("")
    };
    assert_eq!(of("target = \"t\""), "");
    assert!(of("target = \"u\"").contains("has no target \"u\""));
    assert!(of("when = \"event\"\ntarget = \"t\"").contains("have no target"));
    assert!(of("[[mirror.hook]]\nname = \"h\"\nkind = \"command\"\nprefix = \"x\"").contains("another hook"));
}
