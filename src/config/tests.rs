//! What a configuration means, what is refused, and how that reads.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::*;

mod arguments;
mod prepared;
mod trusted;

fn read(text: &str) -> Result<Config, ConfigErrors> {
    toml::parse_written(text, Some(Path::new("f.toml"))).map(|(config, _)| config)
}

fn messages(text: &str) -> Vec<String> {
    read(text).err().map_or(Vec::new(), |e| e.problems.iter().map(|p| p.message.clone()).collect())
}

/// The least that is a configuration, and more below the mirror and the target.
fn least(mirror: &str, target: &str) -> String {
    format!(
        "[[mirror]]\nname = \"m\"\nsource = \"/no/such/tree\"\n{mirror}\n[[mirror.target]]\nname = \"t\"\nurl = \"rsync://h/m\"\n{target}\n"
    )
}

/// Every key, each with a value that is not its default.
const EVERY_KEY: &str = r#"
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
name = "told"
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
fn keys(config: &Config) -> std::collections::BTreeSet<String> {
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
fn the_reference_tells_every_key_and_default() {
    let reference = include_str!("../../docs/config.md");
    let (every, default) = (read(EVERY_KEY).unwrap(), read(&format!("{}{LEAST_HOOKS}", least("", ""))).unwrap());
    let default: ::toml::Table = default.to_toml().unwrap().parse().unwrap();
    let mut told = std::collections::BTreeSet::new();
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
        told.insert(format!("{table}.{key}"));
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
    assert_eq!(told, known, "the keys in docs/config.md and those of the daemon differ");
}

#[test]
fn the_sample_is_good() {
    let config = read(include_str!("../../packaging/fansync.toml")).unwrap_or_else(|e| panic!("{e}"));
    assert!(!config.mirrors[0].targets.is_empty());
    // What it shows commented out must be right too.
    let lines = include_str!("../../packaging/fansync.toml").lines();
    let all: Vec<_> = lines.map(|l| l.strip_prefix('#').filter(|l| !l.starts_with([' ', '#'])).unwrap_or(l)).collect();
    let all = all.join("\n");
    assert_ne!(read(&all).unwrap_or_else(|e| panic!("{e}")), config);
}

#[test]
fn all_problems_are_told_with_their_places() {
    let text = r#"[daemon]
stop_timout = "5s"
[[mirror]]
name = "m"
delete = "yes"
watch = "kqueue"
exclude = ["ok", ""]
[mirror.batch]
settle = 5
max_paths = -1
[[mirror.target]]
url = "rsync://h"
compres = "lz4"
frobnicate = 1
"#;
    let errors = read(text).unwrap_err();
    let got = errors.to_string();
    let want = r#"error: unknown key "stop_timout" in [daemon]
 --> f.toml:2:1
  |
2 | stop_timout = "5s"
  | ^^^^^^^^^^^
help: did you mean "stop_timeout"?

error: [[mirror]] has no source
 --> f.toml:3:1
  |
3 | [[mirror]]
  | ^^^^^^^^^^
help: add source = "/the/tree"

error: delete is a string, and should be true, false, "startup" or "running"
 --> f.toml:5:10
  |
5 | delete = "yes"
  |          ^^^^^

error: watch is "kqueue", and should be one of "auto", "fanotify", "inotify"
 --> f.toml:6:9
  |
6 | watch = "kqueue"
  |         ^^^^^^^^

error: cannot use the pattern "": it is empty; remove it, or write "*" to match everything
 --> f.toml:7:18
  |
7 | exclude = ["ok", ""]
  |                  ^^

error: settle is a number, and should be a time in quotes, as in "500ms"
 --> f.toml:9:10
  |
9 | settle = 5
  |          ^

error: max_paths is a negative number, and should be a whole number, not negative
  --> f.toml:10:13
"#;
    assert!(got.starts_with(&want[..want.len() - 36]), "{got}");
    for rest in [
        "error: [[mirror.target]] has no name",
        "error: the target \"rsync://h\" names no module; write rsync://host/module/path\n --> f.toml:12:7",
        "unknown key \"compres\" in [[mirror.target]]\n --> f.toml:13:1\n   |\n13 | compres = \"lz4\"\n   | ^^^^^^^\nhelp: did you mean \"compress\"?",
        "unknown key \"frobnicate\" in [[mirror.target]]",
    ] {
        assert!(got.contains(rest), "{rest}\nin\n{got}");
    }
    assert_eq!(errors.problems.len(), 11, "{got}");
}

#[test]
fn a_key_of_another_table_is_told_where_it_belongs() {
    let errors = read(&least("", "exclude = [\"*.swp\"]")).unwrap_err().to_string();
    assert!(errors.contains("unknown key \"exclude\" in [[mirror.target]]"), "{errors}");
    assert!(errors.contains("help: exclude is a key of [[mirror]]"), "{errors}");
    let errors = read(&least("", "socket = \"/run/s\"")).unwrap_err().to_string();
    assert!(errors.contains("help: it is called status_socket, and is a key of [daemon]"), "{errors}");
    let errors = read("[daemon]\nsocket = \"/run/s\"\n").unwrap_err().to_string();
    assert!(errors.contains("help: did you mean \"status_socket\"?"), "{errors}");
    for (_, key) in toml::OTHER_NAMES {
        assert!(toml::ELSEWHERE.iter().any(|(name, _)| name == key), "{key}");
    }
    let page = include_str!("../../docs/config.md");
    for (key, table) in toml::ELSEWHERE {
        let section = page.split("\n## ").find(|s| s.starts_with(&format!("`{table}`\n"))).unwrap_or_else(|| panic!("{table}"));
        assert!(section.contains(&format!("\n| `{key}` |")), "{key} in {table}");
    }
}

#[test]
fn broken_toml_is_told_with_its_place() {
    let got = read("[daemon\nx = 1\n[[mirror]]\nname = \n").unwrap_err().to_string();
    assert!(got.contains("f.toml:1:") && got.contains("f.toml:4:"), "{got}");
    let twice = read("[daemon]\nstate_dir = \"/a\"\nstate_dir = \"/b\"\n").unwrap_err().to_string();
    assert!(twice.contains("f.toml:3:1"), "{twice}");
}

#[test]
fn rules_within_a_mirror() {
    for (mirror, target, want) in [
        ("", "jobs = 0", "jobs is 0"),
        ("", "nice = 20", "nice is 20"),
        ("", "nice = -1", "nice is a negative number"),
        ("", "ionice = \"best\"", "one of \"normal\", \"low\", \"idle\""),
        ("max_delete = \"0%\"", "", "is no bound on deletions"),
        ("max_delete = 1.5", "", "max_delete is a number with a fraction"),
        ("", "max_delete = \"many\"", "is no bound on deletions"),
        ("", "standby = 65", "standby is 65"),
        ("", "timeout = \"1500ms\"", "timeout is 1s 500ms, and rsync counts in whole seconds"),
        ("", "timeout = \"0s\"", "more than zero"),
        ("", "timeout = \"10\"", "has no unit"),
        ("", "timeout = \"5s\"\nwatchdog = \"9s\"", "connect_timeout is 10s, not less than watchdog with 9s"),
        ("", "watchdog = \"59s\"", "timeout is 1m, not less than watchdog with 59s"),
        ("", "retry_min = \"2m\"", "retry_min is 2m, more than retry_max with 1m"),
        ("batch = { settle = \"1s\" }", "", "settle is 1s, more than max_delay with 300ms"),
        ("batch = { max_paths = 0 }", "", "max_paths is 0"),
        ("batch = { max_bytes = \"1kiB\" }", "", "max_bytes is 1024 bytes"),
        ("batch = { max_bytes = 1000 }", "", "max_bytes is a number, and should be a size in quotes"),
        ("batch = { max_pending = 10 }", "", "max_pending is 10"),
        ("batch = { delay = \"2d\" }", "", "delay is 2days, more than a day"),
        ("", "delay = \"0s\"", "more than zero"),
        ("delete = 1", "", "delete is a number, and should be true, false, \"startup\" or \"running\""),
        ("delete = \"always\"", "", "delete is a string, and should be true, false"),
        ("delete = \"startup\"\ninitial = \"none\"", "", "initial = \"none\" makes none"),
        ("delete = \"running\"\ninclude = [\"x\"]", "", "which rsync cannot where patterns include"),
        ("filter = [\"+ a\", \"*.tmp\"]", "", "cannot use the filter rule \"*.tmp\": it has no sign"),
        ("filter = [\"merge /f\"]", "", "a file of rules is named in filter_from"),
        ("filter = \"- a\"", "", "filter is a string, and should be a list of strings"),
        ("filter_from = [\"/no/such\"]", "", "filter_from: cannot read the patterns in /no/such"),
        ("delete = \"running\"\nfilter = [\"+ a\", \"- *\"]", "", "which rsync cannot where patterns include"),
        ("full_at = \"25:00\"", "", "\"25:00\" is no time of day"),
        ("verify_at = [\"03:00\", \"3pm\"]", "", "\"3pm\" is no time of day"),
        ("verify_at = 3", "", "verify_at is a number, and should be a list of strings"),
        ("batch = 5", "", "batch is a number, and should be a table, written [mirror.batch]"),
        ("rsync = \"./rsync\"", "", "neither an absolute path nor a plain name"),
        ("rsync = \"/usr/bin/rsync-ssl\"", "", "starts rsync by itself"),
        ("rsync = \"\"", "", "neither an absolute path nor a plain name"),
        ("target = 1", "", ""),
        ("full_every = \"0s\"", "", "more than zero"),
        ("follow_interval = \"0s\"", "", "more than zero"),
        ("", "password_file = \"p\"", "not an absolute path"),
        ("", "rsync_path = \"r\"", "rsync_path is for targets behind ssh only"),
        ("", "args = [\"-uz\"]", "the rsync option -u is refused"),
        ("", "args = [\"-H\", 5]", "args is a number, and should be a list of strings"),
        ("", "args = \"-H\"", "args is a string, and should be a list of strings"),
    ] {
        let got = messages(&least(mirror, target)).join("\n");
        assert!(!got.is_empty() && got.contains(want), "{mirror} {target}: {got}");
    }
    let one = |name: &str, source: &str, url: &str, more: &str| {
        let text = format!("[[mirror]]\nname={name:?}\nsource={source:?}\n[[mirror.target]]\nname=\"t\"\nurl={url:?}\n{more}");
        messages(&text).join("\n")
    };
    assert_eq!(one("m", "/no/such", "h::m", ""), "");
    assert!(one("a b", "/no/such", "h::m", "").contains("name \"a b\" cannot be used"));
    assert!(one("..", "/no/such", "h::m", "").contains("cannot be used"));
    assert!(one("m", "no/such", "h::m", "").contains("source \"no/such\" is not an absolute path"));
    assert!(one("m", "/no/../such", "h::m", "").contains("holds .."));
    assert!(one("m", "/no/such", "h:/p", "password_file = \"/p\"").contains("for rsync daemons only"));
    assert!(one("m", "/no/such", "h:/p", "ssh = \" \"").contains("is no command"));
    assert_eq!(one("m", "/no/such", "h::p", "ssh = \"ssh -p 1\""), "");
    assert!(one("m", "/no/such", "rsync://h:873/p", "ssh = \"ssh\"").contains("has a port, and the target a remote shell"));
    assert!(one("m", "/no/such", "h::p", "rsync_path = \"r\"").contains("for targets behind ssh only"));
    for (url, keys, want) in [
        ("h:/p", "backup_dir = \"/old\"\nbackup_keep = \"1d\"", ""),
        ("h::p/a", "backup_dir = \"/old\"", ""),
        ("/no/such/t", "backup_dir = \"/no/such/old\"", ""),
        ("h:/p", "backup_dir = \"old\"", "is not an absolute path"),
        ("h:/p", "backup_dir = \"/\"", "cannot be used"),
        ("h:/p", "backup_dir = \"/p/old\"", "lies inside the copy"),
        ("h:/p", "backup_dir = \"/p\"", "lies inside the copy"),
        ("h::p", "backup_dir = \"/old\"", "lies inside the copy"),
        ("h:/old/p", "backup_dir = \"/old\"", "lies inside backup_dir"),
        ("/no/such/t", "backup_dir = \"/no/such/t/old\"", "lies inside the copy"),
        ("h:/p", "backup_keep = \"1d\"", "backup_keep is for a backup_dir"),
        ("h:/p", "backup_dir = \"/old\"\nbackup_keep = \"1h\"", "backup_keep is 1h"),
        (
            "h:/p",
            "backup_dir = \"/old\"\n[[mirror.target]]\nname = \"u\"\nurl = \"h:/q\"\nbackup_dir = \"/old\"",
            "in the same place",
        ),
        ("h:/p", "backup_dir = \"/q/old\"\n[[mirror.target]]\nname = \"u\"\nurl = \"h:/q\"", "which deletes there"),
    ] {
        let got = one("m", "/no/such/m", url, keys);
        assert!(if want.is_empty() { got.is_empty() } else { got.contains(want) }, "{url} {keys}: {got}");
    }
    assert!(one("m", "/no/such", "/no/t", "backup_dir = \"/no/such/old\"").contains("lies inside the source"));
    assert!(one("m", "/no/such", "h:/p", "rsync_path = \"--server\"").contains("begins with an option"));
    assert!(messages("").join("").contains("there is no mirror"));
    assert!(messages("[[mirror]]\nname=\"m\"\nsource=\"/x\"").join("").contains("there is no target"));
    assert!(messages("[daemon]\nstate_dir = \"x\"\n").join("").contains("state_dir \"x\" is not an absolute path"));
    for (keys, want) in [
        ("remove_source_files = true", "goes with delete = false only"),
        ("remove_source_files = true\ndelete = \"running\"", "goes with delete = false only"),
        ("remove_source_files = true\ndelete = false\nroles = true", "does not go with roles"),
        ("remove_source_files = true\ndelete = false\ninclude = [\".fansync\"]", "must be left out, and is included"),
    ] {
        assert!(messages(&least(keys, "")).join("\n").contains(want), "{keys}");
    }
    for (other, shares) in [("/no/such", true), ("/no/such/tree/below", true), ("/no/such/tree", true), ("/no/such/trees", false)]
    {
        let mirror =
            format!("[[mirror]]\nname = \"other\"\nsource = {other:?}\n[[mirror.target]]\nname = \"o\"\nurl = \"h::other\"\n");
        let got = messages(&format!("{}{mirror}", least("remove_source_files = true\ndelete = false", ""))).join("\n");
        assert_eq!(got.contains("in the tree that files are removed from"), shares, "{other}: {got}");
    }
    let moves = read(&least("remove_source_files = true\ndelete = false", "")).unwrap();
    assert!(moves.mirrors[0].filter.excludes(b".fansync", true));
    for (daemon, want) in [
        ("max_runs = 0", "max_runs is 0"),
        ("bwlimit = \"1KiB\"", "bwlimit is 1024 bytes a second"),
        ("bwlimit = 5", "bwlimit is a number, and should be a size in quotes"),
        ("metrics = \"localhost:1\"", "is no address with a port"),
        ("metrics = 9846", "metrics is a number, and should be an address and a port"),
        ("metrics_file = \"m.prom\"", "metrics_file \"m.prom\" is not an absolute path"),
        ("metrics_file = \"/m/x.txt\"", "does not end in .prom"),
        ("metrics_interval = \"100ms\"", "metrics_interval is 100ms"),
    ] {
        let got = messages(&format!("[daemon]\n{daemon}\n{}", least("", ""))).join("\n");
        assert!(got.contains(want), "{daemon}: {got}");
    }
    for group in ["", "a b", "a:b"] {
        let text = format!("[daemon]\nsocket_group = {group:?}\n{}", least("", ""));
        assert!(messages(&text).join("").contains("is no name of a group"), "{group:?}");
    }
    let socket = format!("[daemon]\nstatus_socket = \"/{}\"\n", "x".repeat(107));
    assert!(messages(&socket).join("").contains("longer than 107 bytes"));
}

#[test]
fn a_rule_about_a_list_item_points_at_it() {
    let got = read(&least("", "args = [\"-H\",\n  \"--inplace\"]")).unwrap_err().to_string();
    assert!(got.contains("f.toml:9:3\n  |\n9 |   \"--inplace\"]\n  |   ^^^^^^^^^^^\nhelp: an interrupted transfer"), "{got}");
}

#[test]
fn a_password_in_the_url_is_not_shown() {
    let text = least("", "").replace("rsync://h/m", "rsync://u:hunter2@h/m");
    let got = read(&text).unwrap_err().to_string();
    assert!(got.contains("password_file") && got.contains("f.toml:7:7") && !got.contains("hunter2"), "{got}");
}

#[test]
fn rules_between_places() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("src/sub")).unwrap();
    fs::create_dir_all(root.join("dst")).unwrap();
    symlink(root.join("src"), root.join("link")).unwrap();
    let root = root.to_str().unwrap();
    // (mirrors as name, source, delete, exclude, targets; part of the message or none)
    type M<'a> = (&'a str, &'a str, bool, &'a str, &'a [&'a str]);
    let cases: &[(&[M<'_>], &str)] = &[
        (&[("a", "R/src", true, "", &["R/dst"])], ""),
        (&[("a", "R/src", true, "", &["R/src"])], "lies inside the source"),
        (&[("a", "R/src", true, "", &["R/src/sub/new/deep"])], "lies inside the source"),
        (&[("a", "R/src", true, "", &["R/link/sub"])], "lies inside the source"),
        (&[("a", "R/link", true, "", &["R/src/x"])], "lies inside the source"),
        (&[("a", "R/src/sub", true, "", &["R/src"])], "lies inside the target"),
        (&[("a", "R/src", true, "", &["R/srcs"])], ""),
        (&[("a", "R/src", true, "", &["h::m", "h::m"])], "is a target of mirror \"a\" already"),
        (&[("a", "R/src", false, "", &["h::m", "h::m"])], "is a target of mirror \"a\" already"),
        (&[("a", "R/src", true, "", &["h::m", "h::n", "h:/m"])], ""),
        (&[("a", "R/src", true, "", &["h::m"]), ("b", "R/dst", true, "", &["h::m"])], "is a target of mirror \"a\" already"),
        (&[("a", "R/src", false, "", &["h::m"]), ("b", "R/dst", false, "", &["h::m"])], ""),
        (
            &[("a", "R/src", true, "", &["h::m"]), ("b", "R/dst", true, "", &["h::m/b"])],
            "inside the target rsync://h/m of mirror \"a\"",
        ),
        (
            &[("b", "R/dst", true, "", &["h::m/b"]), ("a", "R/src", true, "", &["h::m"])],
            "inside the target rsync://h/m of mirror \"a\"",
        ),
        (&[("a", "R/src", true, "/b/", &["h::m"]), ("b", "R/dst", true, "", &["h::m/b"])], ""),
        (&[("a", "R/src", false, "", &["h::m"]), ("b", "R/dst", true, "", &["h::m/b"])], ""),
        (&[("a", "R/src", true, "", &["h::m"]), ("a", "R/dst", true, "", &["h::n"])], "another mirror has this name"),
        (&[("a", "R/src", true, "", &["R/dst"]), ("b", "R/dst", true, "", &["R/third"])], ""),
        (&[("a", "R/src", true, "", &["R/dst"]), ("b", "R/dst", true, "", &["R/src"])], "copy into each other's source"),
        (
            &[
                ("a", "R/src", false, "", &["R/dst/in"]),
                ("b", "R/dst", false, "", &["R/third"]),
                ("c", "R/third", false, "", &["R/link/back"]),
            ],
            "it and the mirrors a, b copy into each other's source, in a circle",
        ),
        (&[("a", "/", true, "", &["h::m"])], "the daemon's state_dir /var/lib/fansync lies inside the source"),
        (&[("a", "/", true, "/var/lib/fansync/", &["h::m"])], ""),
    ];
    for (mirrors, want) in cases {
        let mut text = String::new();
        for (name, source, delete, exclude, targets) in *mirrors {
            text += &format!(
                "[[mirror]]\nname = \"{name}\"\nsource = \"{source}\"\ndelete = {delete}\nexclude = [\"{}\"]\n",
                if exclude.is_empty() { "zzz" } else { exclude }
            );
            for (i, url) in targets.iter().enumerate() {
                text += &format!("[[mirror.target]]\nname = \"t{i}\"\nurl = \"{url}\"\n");
            }
        }
        let text = text.replace("R/", &format!("{root}/"));
        let got = messages(&text);
        assert!(
            if want.is_empty() { got.is_empty() } else { got.len() == 1 && got[0].contains(want) },
            "{text}{got:?}\nwanted {want:?}"
        );
    }
}

fn texts(warnings: Vec<Warning>) -> Vec<String> {
    warnings.into_iter().map(|warning| warning.message).collect()
}

#[test]
fn warnings_have_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.toml");
    let text = format!(
        "[daemon]\nsocket_group = \"no-such-group\"\n[[mirror]]\nname = \"m\"\nsource = \"{}\"\nexclude = [\"*.swp\", \"./cache\"]\n\
         [[mirror.target]]\nname = \"t\"\nurl = \"/no/such/target\"\n\
         [[mirror.hook]]\nname = \"h\"\nkind = \"command\"\nprefix = \"/no/such/program -x\"\n\
         [[mirror.hook]]\nname = \"i\"\nkind = \"command\"\nshell = true\nprefix = \"cd /srv &&\"\n",
        dir.path().display()
    );
    fs::write(&file, &text).unwrap();
    let (config, written) = Config::load_written(&file).unwrap();
    let cited: Vec<String> = config.warnings(&crate::sync::probe::Asked).iter().map(|warning| written.cite(warning)).collect();
    let shown = |n: usize, what: &str, line: usize, column: usize, marked: &str| {
        let at = format!("\n --> {}:{line}:{column}\n", file.display());
        let of = cited.get(n).unwrap_or_else(|| panic!("{cited:#?}"));
        assert!(of.starts_with("warning: ") && of.contains(what) && of.contains(&at), "{what} {line}:{column}: {cited:#?}");
        assert!(of.ends_with(&"^".repeat(marked.len())) && of.contains(marked), "{of}");
    };
    shown(0, "no group no-such-group", 2, 16, "\"no-such-group\"");
    shown(1, "\"./cache\" matches no path", 6, 21, "\"./cache\"");
    shown(2, "/no/such/target is not there", 9, 7, "\"/no/such/target\"");
    shown(3, "no program /no/such/program", 13, 10, "\"/no/such/program -x\"");
    assert_eq!(cited.len(), 4, "{cited:#?}");
    // What is read from elsewhere has no places.
    assert!(Written::default().cite(&config.warnings(&crate::sync::probe::Asked)[0]).starts_with("warning: daemon: "));
}

#[test]
fn first_mistakes_say_what_to_do() {
    let help = |text: &str| read(text).unwrap_err().to_string();
    let before = "[[mirror.target]]\nname = \"t\"\nurl = \"h::m\"\n[[mirror]]\nname = \"m\"\nsource = \"/s\"\n";
    assert!(help(before).contains("move the first [[mirror]] above it"), "{}", help(before));
    for quoted in ["\u{201c}*.swp\u{201d}", "\u{2018}*.swp\u{2019}", "\u{201e}*.swp\u{201c}"] {
        let said = help(&least(&format!("exclude = [{quoted}]"), ""));
        assert!(said.contains("typographic quotation mark"), "{said}");
    }
    for (value, want) in [
        ("0.1", "max_delete is a number with a fraction, and should be a number of entries, as in 1000, or a share in quotes"),
        ("-1", "from \"1%\" to \"100%\""),
        ("true", "a number of entries"),
        ("\"ten\"", "\"1%\" to \"100%\""),
        ("\"150%\"", "\"1%\" to \"100%\""),
    ] {
        let said = help(&least(&format!("max_delete = {value}"), ""));
        assert!(said.contains(want), "{value}: {said}");
    }
    assert!(read(&least("max_delete = \"10%\"", "")).is_ok());
    for (arg, want) in [
        ("--bwlimt=50m", "did you mean --bwlimit?"),
        ("--bwlimit 50m", "write \"--bwlimit=50m\""),
        ("--frobnicate", "what it does to a mirror is not known either"),
    ] {
        let said = help(&least("", &format!("args = [{arg:?}]")));
        assert!(said.contains(want), "{arg}: {said}");
    }
}

#[test]
fn a_file_in_another_encoding_is_told_by_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.toml");
    let said = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        Config::load(&file).unwrap_err().to_string()
    };
    let latin = said(b"[[mirror]]\nname = \"m\"\nsource = \"/caf\xe9\"\n");
    assert!(latin.contains("not UTF-8 (the byte 0xe9 here)") && latin.contains("f.toml:3:15"), "{latin}");
    assert!(said(b"\xff\xfe[\0[\0").contains("it is UTF-16"));
    let secret = said(b"[[mirror.hook]]\npassword = \"ge\xe9heim\"\n");
    assert!(secret.contains("f.toml:2:") && !secret.contains("heim"), "{secret}");
}

#[test]
fn what_the_disk_says_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let pass = dir.path().join("pass");
    let text = |source: &Path| {
        least("exclude = [\"./cache\", \"*.swp\"]", &format!("password_file = {pass:?}"))
            .replace("/no/such/tree", source.to_str().unwrap())
    };
    let warnings = texts(read(&text(Path::new("/no/such/tree"))).unwrap().warnings(&crate::sync::probe::Asked));
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].contains("source /no/such/tree: No such file"), "{warnings:?}");
    assert!(warnings[1].contains("\"./cache\" matches no path"), "{warnings:?}");
    assert!(warnings[2].contains("password_file: cannot look at"), "{warnings:?}");

    fs::write(&pass, "x").unwrap();
    fs::set_permissions(&pass, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(read(&text(dir.path())).unwrap().warnings(&crate::sync::probe::Asked).len(), 1);
    assert!(read(&text(&pass)).unwrap().warnings(&crate::sync::probe::Asked)[0].message.contains("is not a directory"));

    fs::set_permissions(&pass, fs::Permissions::from_mode(0o644)).unwrap();
    let hook =
        format!("[[mirror.hook]]\nname = \"h\"\nkind = \"http\"\nurl = \"http://h\"\ntoken_file = {pass:?}\nexclude = [\"./x\"]");
    let warnings = read(&(least("", "").replace("/no/such/tree", dir.path().to_str().unwrap()) + &hook))
        .unwrap()
        .warnings(&crate::sync::probe::Asked);
    let warnings = texts(warnings);
    assert!(warnings.len() == 2 && warnings[0].contains("\"./x\"") && warnings[1].contains("chmod 600"), "{warnings:?}");
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

/// A mirror with these lines, in a file of the directory.
fn with_files(lines: &str) -> Result<Config, ConfigErrors> {
    Config::from_toml(&format!(
        "[[mirror]]\nname = \"m\"\nsource = \"/s\"\n{lines}\n[[mirror.target]]\nname = \"t\"\nurl = \"h::m\"\n"
    ))
}

#[test]
fn patterns_of_files_join_those_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (exclude, include) = (at("exclude", "# rebuilt\n*.tmp\n./never\n"), at("include", "keep.tmp\n"));
    let lines = format!("exclude = [\"a\"]\nroles = true\nexclude_from = [{exclude:?}]\ninclude_from = [{include:?}]");
    let config = with_files(&lines).unwrap();
    let mirror = &config.mirrors[0];
    for (path, excluded) in [("a", true), ("d/x.tmp", true), ("keep.tmp", false), (".fansync", true), ("b", false)] {
        assert_eq!(mirror.filter.excludes(path.as_bytes(), true), excluded, "{path}");
    }
    // The place of a pattern is the line of its file, behind the one that roles puts in.
    assert_eq!(mirror.filter.exclude()[2], b"*.tmp");
    assert_eq!(mirror.origins.of("exclude", 2), format!("{exclude}:2"));
    assert_eq!(mirror.origins.of("include", 0), format!("{include}:1"));
    // What is printed names the files and means the same.
    let printed = config.to_toml().unwrap();
    assert!(printed.contains("exclude_from") && !printed.contains("*.tmp"), "{printed}");
    assert_eq!(Config::from_toml(&printed).unwrap(), config);
    // A pattern that matches nothing is warned of with its line.
    let warned = mirror.warnings(&crate::sync::probe::Asked);
    assert!(warned.iter().any(|(_, text)| text.starts_with(&format!("{exclude}:3: the pattern \"./never\""))), "{warned:?}");
    // Another pattern in a file is another configuration, another comment is not.
    at("exclude", "# built anew\n*.tmp\n./never\n");
    assert_eq!(with_files(&lines).unwrap(), config);
    at("exclude", "*.tmp\n");
    assert_ne!(with_files(&lines).unwrap(), config);
}

#[test]
fn a_file_of_patterns_that_cannot_be_used_is_an_error_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("exclude");
    std::fs::write(&file, "a\n+ b\n").unwrap();
    let file = file.display().to_string();
    for (lines, words) in [
        (format!("exclude_from = [{file:?}]"), format!("exclude_from: {file}:2: \"+ b\" belongs into a file of include_from")),
        ("exclude_from = [\"/no/such\"]".into(), "exclude_from: cannot read the patterns in /no/such".into()),
        ("include_from = [\"relative\"]".into(), "include_from: relative is not an absolute path".into()),
        ("exclude_from = \"/etc/x\"".into(), "exclude_from is a string, and should be a list of strings".into()),
    ] {
        let message = with_files(&lines).unwrap_err().to_string();
        assert!(message.contains(&words) && message.contains("4 | "), "{lines}: {message}");
    }
}

#[test]
fn rules_of_feeds_and_followers() {
    let feed = |mirror: &str, keys: &str| {
        format!(
            "[[mirror]]\nname = \"m\"\nsource = \"/s\"\n{mirror}\n[[mirror.feed]]\nname = \"f\"\nservers = [\"nats://h\"]\n{keys}\n"
        )
    };
    let follow = |keys: &str| {
        let least = "[[follow]]\nname = \"w\"\nservers = [\"nats://h\"]\ndirectory = \"/w\"\nupstream = \"rsync://h/m\"\n";
        keys.lines().fold(least.to_owned(), |text, line| {
            let key = line.split(" = ").next().unwrap_or_default();
            let kept: Vec<&str> = text.lines().filter(|l| !l.starts_with(&format!("{key} = "))).collect();
            format!("{}\n{line}\n", kept.join("\n"))
        })
    };
    for good in [
        feed("", ""),
        follow(""),
        follow("max_delete = 5"),
        follow("upstream = \"u@h:/srv\"\nssh = \"ssh -p 2\""),
        follow("upstream = [\"rsync://r/m\", \"u@h:/srv\"]\nserve = \"rsync://me/m\""),
    ] {
        assert_eq!(messages(&good), Vec::<String>::new(), "{good}");
    }
    for (text, want) in [
        (feed("roles = true", ""), "is not supported"),
        (feed("delete = false", ""), "a feed lists all that is gone"),
        (feed("exclude = [\"/.fansync/\"]", ""), "the mark of the feed"),
        (feed("", "nats_user = \"u\""), "go together"),
        (feed("", "nkey_file = \"/n\"\nnats_user = \"u\"\nnats_password_file = \"/p\""), "two ways to log in"),
        (feed("", "replicas = 9"), "replicas is 9"),
        (feed("", "keep = \"1s\""), "keep is 1s"),
        (feed("", "servers = [\"http://h\"]").replacen("servers = [\"nats://h\"]\n", "", 1), "is neither nats://"),
        (feed("", "feed = \"a.b\""), "is no name of a feed"),
        (least("", "").replace("rsync://h/m", "nats://h/m"), "a feed is no [[mirror.target]]"),
        (follow("max_delete = \"10%\""), "it knows no share"),
        (follow("upstream = \"/srv/web\""), "nothing can be pulled from"),
        (follow("upstream = \"nats://h/web\""), "nothing can be pulled from"),
        (follow("directory = \"w\""), "is not an absolute path"),
        (follow("follower = \"a.b\""), "cannot be used"),
        (follow("servers = []"), "names no server"),
        (follow("upstream = []"), "upstream names no place"),
        (follow("upstream = [\"h:/srv\", \"rsync://h/m\"]"), "is no relay"),
        (follow("upstream = [\"rsync://h/m\", \"rsync://h/m\"]"), "is there twice"),
        (follow("serve = \"h:/srv\""), "is no module of an rsync daemon"),
        (follow("serve = \"rsync://h/m\""), "is the upstream, too"),
    ] {
        let got = messages(&text);
        assert!(got.iter().any(|message| message.contains(want)), "{text}: {got:?}");
    }
    let secret = read(&follow("servers = [\"nats://u:pw@h\"]")).unwrap_err().to_string();
    assert!(secret.contains("the target holds a password") && !secret.contains("pw@h"), "{secret}");
}
