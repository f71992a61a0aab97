//! What a configuration means, what is refused, and how that reads.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::*;
use every_key::{EVERY_KEY, keys};

mod arguments;
mod every_key;
mod feeds;
mod pattern_files;
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

#[test]
fn all_problems_are_reported_with_their_places() {
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
fn a_key_of_another_table_is_refused_with_the_right_one() {
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
fn broken_toml_is_reported_with_its_place() {
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
        ("max_delete = \"50\"", "", "write 50 without quotes for entries, or \"50%\" for a share"),
        ("", "max_delete = \"1000\"", "write 1000 without quotes for entries"),
        ("first_max_delete = \"7\"", "", "or \"7%\" for a share"),
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
fn a_file_in_another_encoding_is_reported_with_its_place() {
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
