//! What sersync's elements and flags come to.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::{Flags, Loaded, read};
use crate::config::hook::{Action, When};
use crate::config::{Compress, Config, Initial};
use crate::log::Level;

/// Every element, with values as sites have them.
const WHOLE: &str = r#"<?xml version="1.0" encoding="ISO-8859-1"?>
<head version="2.5">
    <host hostip="localhost" port="8008"></host>
    <debug start="false"/>
    <fileSystem xfs="false"/>
    <filter start="true">
        <exclude expression="(.*)\.svn"></exclude>
        <exclude expression="^info/*"></exclude>
    </filter>
    <inotify>
        <delete start="false"/>
        <createFolder start="true"/>
        <createFile start="false"/>
        <closeWrite start="true"/>
        <moveFrom start="true"/>
        <moveTo start="true"/>
        <attrib start="false"/>
        <modify start="true"/>
    </inotify>
    <sersync>
        <localpath watch="/no/such/tree">
            <remote ip="192.0.2.41" name="data"/>
            <remote ip="192.0.2.42" name="data"/>
        </localpath>
        <localpath watch="/no/such/other">
            <remote ip="192.0.2.41" name="other/below"/>
        </localpath>
        <rsync>
            <commonParams params="-artuz"/>
            <auth start="true" users="mirror" passwordfile="/no/such/pass"/>
            <userDefinedPort start="true" port="874"/>
            <timeout start="true" time="100"/>
            <ssh start="false"/>
        </rsync>
        <failLog path="/no/such/fail_log.sh" timeToExecute="60"/>
        <crontab start="true" schedule="600">
            <crontabfilter start="true">
                <exclude expression="*.php"></exclude>
                <exclude expression="info/*"></exclude>
            </crontabfilter>
        </crontab>
    </sersync>
</head>
"#;

fn loaded(text: &str) -> Loaded {
    read(text.as_bytes(), Some(Path::new("confxml.xml")), &Flags::default()).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn wrong(text: &str) -> String {
    read(text.as_bytes(), Some(Path::new("confxml.xml")), &Flags::default()).expect_err(text).to_string()
}

#[test]
fn every_element_takes_effect() {
    let Config { daemon, mirrors } = loaded(WHOLE).config;
    assert_eq!(daemon.log.level, Level::Info);
    let [tree, other] = &mirrors[..] else { panic!("{mirrors:?}") };
    assert_eq!((tree.name.as_str(), tree.source.to_str(), other.name.as_str()), ("tree", Some("/no/such/tree"), "other"));
    assert_eq!(tree.filter.expressions(), [r"(.*)\.svn", "^info/*"]);
    assert!(tree.filter.temporary() && !tree.delete.ever() && tree.follow_open_files == crate::config::FollowOpenFiles::On);
    let e = tree.events;
    assert_eq!((e.create_folder, e.create_file, e.close_write), (true, false, true));
    assert_eq!((e.move_from, e.move_to, e.attrib, e.delete), (true, true, false, true));
    assert_eq!((tree.initial, tree.full_every), (Initial::None, Some(Duration::from_secs(36_000))));
    assert_eq!(tree.full_exclude, ["*.php", "info/*"]);
    assert_eq!(tree.fail_log.as_deref(), Some(Path::new("/no/such/fail_log.sh")));
    let t = &tree.targets[0];
    assert_eq!(t.location.to_string(), "rsync://mirror@192.0.2.41:874/data");
    assert_eq!(other.targets[0].location.to_string(), "rsync://mirror@192.0.2.41:874/other/below");
    assert_eq!(t.password_file.as_deref(), Some(Path::new("/no/such/pass")));
    assert_eq!(
        (t.compress, t.timeout, t.retry_failed),
        (Compress::Zlib, Duration::from_secs(100), Some(Duration::from_secs(3600)))
    );
    assert_eq!(t.args, Vec::<String>::new());
    assert_eq!((tree.targets.len(), tree.targets[1].name.as_str()), (2, "192.0.2.42-data"));
}

#[test]
fn what_differs_is_told_with_its_line() {
    let notes = loaded(WHOLE).notes;
    for (line, text) in
        [(3, "<host>"), (13, "<createFile> off"), (17, "<attrib> off"), (25, "each <localpath>"), (29, "-u in params")]
    {
        assert!(notes.iter().any(|n| n.line == line && n.text.contains(text)), "line {line}, {text:?}: {notes:#?}");
    }
}

#[test]
fn flags() {
    let with = |reconcile, workers: &str| {
        let flags = Flags { reconcile, workers: Some(workers.into()), plugin: None };
        read(WHOLE.as_bytes(), None, &flags).unwrap()
    };
    let config = with(true, "12").config;
    assert_eq!((config.mirrors[0].initial, config.mirrors[0].targets[0].jobs), (Initial::Reconcile, 12));
    for (workers, jobs) in [("0", 2), ("abc", 2), ("-3", 2), ("500", 64)] {
        let loaded = with(false, workers);
        assert_eq!(loaded.config.mirrors[0].targets[0].jobs, jobs);
        assert!(loaded.notes.iter().any(|n| n.line == 0 && n.text.contains("-n")), "{workers}");
    }
}

#[test]
fn mistakes_have_their_places() {
    let mut off = Vec::new();
    for (from, to, message, place) in [
        ("</head>", "", "never closed", ":1:1"),
        (r#"watch="/no/such/tree""#, r#"watch="relative""#, "not an absolute path", ":21:27"),
        (r#"watch="/no/such/tree""#, "", "<localpath> has no watch", ":21:9"),
        (r#"name="other/below""#, r#"name="""#, "<remote> has no name", ":26:43"),
        (r#"ip="192.0.2.42""#, r#"ip="192.0.2.41""#, "is a target of mirror", ":23:25"),
        (r#"ip="192.0.2.42""#, r#"ip="bad host""#, "bad host", ":23:25"),
        (r#"port="874""#, r#"port="87400""#, "port of <userDefinedPort>", ":31:49"),
        (r#"time="100""#, r#"time="soon""#, "time of <timeout>", ":32:41"),
        (r#"timeToExecute="60""#, r#"timeToExecute="0""#, "timeToExecute of <failLog>", ":35:61"),
        (r#"path="/no/such/fail"#, r#"path="fail"#, "fail_log", ":35:24"),
        (r#"expression="(.*)\.svn""#, r#"expression="*.svn""#, "no regular expression", ":7:30"),
        (r#"params="-artuz""#, r#"params="-artuz --inplace""#, "--inplace is refused", ":29:35"),
        (r#"params="-artuz""#, r#"params="-a 'x""#, "quotes", ":29:35"),
        (r#"params="-artuz""#, r#"params="-a -n""#, "-n is refused", ":29:35"),
        (r#"<sersync>"#, r#"<sersink>"#, "no XML", ""),
        ("<head version", "<foot/><head version", "no XML", ""),
    ] {
        assert!(WHOLE.contains(from));
        let error = wrong(&WHOLE.replacen(from, to, 1));
        if !error.contains(message) || !error.contains(&format!("confxml.xml{place}")) {
            off.push(format!("{to}, {place}: {error}"));
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
    assert!(wrong("<a/>").contains("not <head>"));
    assert!(wrong("<head/>").contains("no <sersync>"));
    assert!(wrong("").contains("no XML"));
    assert!(wrong("<!DOCTYPE head [<!ENTITY a \"b\">]><head/>").contains("no XML"));
    wrong(&"<a>".repeat(50_000));
}

#[test]
fn parameters() {
    let with = |params: &str| loaded(&WHOLE.replacen("-artuz", params, 1));
    let target = |params: &str| with(params).config.mirrors[0].targets[0].clone();
    assert_eq!(target("-a --bwlimit=500 --chown=www:www").args, ["--bwlimit=500", "--chown=www:www"]);
    assert_eq!(target("-a").compress, Compress::None);
    assert_eq!(target("-rtz").args, ["--no-perms", "--no-owner", "--no-group", "--no-D"]);
    assert_eq!(target("-a --contimeout=3").connect_timeout, Duration::from_secs(3));
    assert_eq!(target("-avz --delete --progress -R").args, Vec::<String>::new());
    assert_eq!(target("-aT /tmp").args, ["-T", "/tmp"]);
    let m = with("-aHX --exclude=*.log --exclude &quot;a b&quot;").config.mirrors[0].clone();
    assert!(m.extras.hard_links && m.extras.xattrs && !m.extras.acls);
    assert_eq!(m.filter.exclude(), [b"*.log".to_vec(), b"a b".to_vec()]);
    let notes = with("-rz").notes;
    assert!(notes.iter().any(|n| n.text.contains("no -t")), "{notes:?}");
}

#[test]
fn ssh() {
    let text = WHOLE.replace("<ssh start=\"false\"/>", "<ssh start=\"true\"/>").replace("name=\"data\"", "name=\"/srv/data\"");
    let text = text.replace("name=\"other/below\"", "name=\"/srv/other\"");
    let loaded = loaded(&text);
    let t = &loaded.config.mirrors[0].targets[0];
    assert_eq!((t.location.to_string().as_str(), &t.password_file), ("mirror@192.0.2.41:/srv/data", &None));
    assert!(loaded.notes.iter().any(|n| n.line == 30 && n.text.contains("password file")), "{:?}", loaded.notes);
    let targets = loaded_targets(&text.replace("/srv/data", "relative"));
    assert_eq!(targets[0], "mirror@192.0.2.41:relative", "as rsync takes it: from the home of the login");
    assert!(wrong(&text.replace("/srv/other", "~bob/x")).contains("another user"));
}

fn loaded_targets(text: &str) -> Vec<String> {
    loaded(text).config.mirrors[0].targets.iter().map(|t| t.location.to_string()).collect()
}

#[test]
fn encodings() {
    let text = WHOLE.replace("/no/such/tree", "/no/such/数据");
    // Declared as something else, as in the sample: bytes are what counts.
    assert_eq!(loaded(&text).config.mirrors[0].source, Path::new("/no/such/数据"));
    for (label, encoding) in [("GBK", encoding_rs::GBK), ("gb2312", encoding_rs::GBK)] {
        let (bytes, ..) = encoding.encode(&text);
        let bytes = [b"<?xml version='1.0' encoding = '".to_vec(), label.into(), b"'?>".to_vec(), bytes[44..].to_vec()].concat();
        let loaded = read(&bytes, None, &Flags::default()).unwrap();
        assert_eq!(loaded.config.mirrors[0].source, Path::new("/no/such/数据"), "{label}");
        assert!(loaded.notes[0].text.contains("GBK"));
    }
    let latin: Vec<u8> = WHOLE.replace("/no/such/tree", "/no/such/caf\u{e9}").chars().map(|c| c as u8).collect();
    assert_eq!(read(&latin, None, &Flags::default()).unwrap().config.mirrors[0].source, Path::new("/no/such/café"));
    let unknown = read(b"<?xml version='1.0' encoding='klingon'?><head>\xff</head>", None, &Flags::default());
    assert!(unknown.unwrap_err().to_string().contains("klingon"));
    assert!(read(b"<head>\xff</head>", None, &Flags::default()).unwrap_err().to_string().contains("names no encoding"));
}

const PLUGINS: &str = r#"
        <plugin start="true" name="command"/>
    </sersync>
    <plugin name="command">
        <param prefix="/bin/sh" suffix="" ignoreError="true"/>
        <filter start="true"><include expression="(.*)\.php"/></filter>
    </plugin>
    <plugin name="socket">
        <localpath watch="/no/such/socket"><deshost ip="192.0.2.20" port="8009"/></localpath>
    </plugin>
    <plugin name="refreshCDN">
        <localpath watch="/no/such/cdn">
            <cdninfo domainname="ccms.example" port="80" username="u" passwd="s3cret"/>
            <sendurl base="http://pic.example/cms"/>
            <regexurl regex="true" match="cms/site([/a-z0-9]*).example/images"/>
        </localpath>
    </plugin>
</head>"#;

#[test]
fn plugins() {
    let text = WHOLE.replace("    </sersync>\n</head>", PLUGINS);
    let attached = loaded(&text);
    imports(&attached);
    let [hook] = &attached.config.mirrors[1].hooks[..] else { panic!("no hook") };
    assert_eq!((hook.name.as_str(), hook.when, hook.matches[0].text()), ("command", When::Confirmed, r"(.*)\.php"));
    let Action::Command(command) = &hook.action else { panic!("{hook:?}") };
    assert_eq!(
        (command.prefix.as_str(), command.suffix.as_str(), command.shell, command.ignore_error),
        ("/bin/sh", "", false, true)
    );
    for (name, watch) in [("socket", "/no/such/socket"), ("refreshCDN", "/no/such/cdn"), ("command", "/no/such/tree")] {
        let flags = Flags { plugin: Some(name.into()), ..Flags::default() };
        let alone = read(text.as_bytes(), None, &flags).unwrap_or_else(|e| panic!("{e}"));
        imports(&alone);
        let m = &alone.config.mirrors[0];
        assert_eq!((m.source.as_path(), m.targets.len(), m.hooks[0].when), (Path::new(watch), 0, When::Event), "{name}");
    }
    let shell = loaded(&text.replace("suffix=\"\"", "suffix=\"| logger\""));
    assert!(matches!(&shell.config.mirrors[0].hooks[0].action, Action::Command(c) if c.shell));
    let no_port = wrong(
        &text
            .replace("start=\"true\" name=\"command\"", "start=\"true\" name=\"refreshCDN\"")
            .replace("port=\"80\"", "port=\"x\""),
    );
    assert!(no_port.contains("port of <cdninfo>") && !no_port.contains("s3cret"), "{no_port}");
    assert!(wrong(&text.replace("start=\"true\" name=\"command\"", "start=\"true\" name=\"http\"")).contains("never built"));
}

/// The imported configuration is the one that the XML is run with.
#[track_caller]
fn imports(loaded: &Loaded) {
    let text = super::toml(loaded, true).unwrap();
    let again = Config::from_toml(&text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    assert_eq!(again, loaded.config, "{text}");
    let effective = loaded.config.to_toml().unwrap();
    assert_eq!(Config::from_toml(&effective).unwrap(), loaded.config, "{effective}");
}

#[test]
fn import_is_the_same_configuration() {
    imports(&loaded(WHOLE));
    let flags = Flags { reconcile: true, workers: Some("7".into()), plugin: None };
    let whole = read(WHOLE.as_bytes(), None, &flags).unwrap();
    imports(&whole);
    let text = super::toml(&whole, true).unwrap();
    assert!(text.contains("#   13: with <createFile> off") && text.contains("jobs = 7"), "{text}");
    assert!(!text.contains("standby") && !text.contains("max_paths"), "a default is written:\n{text}");
}

#[test]
fn import_leaves_a_password_out() {
    let text = WHOLE.replace("    </sersync>\n</head>", PLUGINS);
    let flags = Flags { plugin: Some("refreshCDN".into()), ..Flags::default() };
    let loaded = read(text.as_bytes(), None, &flags).unwrap();
    assert!(super::toml(&loaded, true).unwrap().contains("password = \"s3cret\""));
    let shown = super::toml(&loaded, false).unwrap();
    assert!(!shown.contains("s3cret") && shown.contains("password_file = \"/etc/fansync/"), "{shown}");
    Config::from_toml(&shown).unwrap_or_else(|e| panic!("{shown}\n{e}"));
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(<|/|>|head|sersync|localpath| watch=| start=|\"|&|;|#x|true|\\PC){0,60}") {
        let _ = read(text.as_bytes(), None, &Flags::default());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), declared in any::<bool>()) {
        let head: &[u8] = if declared { b"<?xml version='1.0' encoding='GBK'?><head>" } else { b"" };
        let _ = read(&[head, &bytes].concat(), None, &Flags::default());
    }

    #[test]
    fn no_damage_makes_the_reader_panic(at in 0..WHOLE.len(), len in 0..30usize, with in "(<|>|\"|/|é|x|=|&)?") {
        if let (Some(head), Some(tail)) = (WHOLE.get(..at), WHOLE.get((at + len).min(WHOLE.len())..)) {
            let _ = read(format!("{head}{with}{tail}").as_bytes(), None, &Flags::default());
        }
    }

    /// Each value that the XML can hold is in the effective configuration, and in the imported one.
    #[test]
    fn values_come_out_as_they_went_in(
        switches in proptest::array::uniform8(any::<bool>()),
        tree in "/no/[a-z ]{1,8}[a-z]",
        host in "[a-z][a-z0-9.]{0,10}[a-z]",
        module in "[a-z][a-z0-9_]{0,8}(/[a-z]{1,5})?",
        user in "[a-z_]{1,8}",
        port in 1..=65535u16,
        timeout in 1..100_000u64,
        interval in 1..100_000u64,
        schedule in 1..100_000u64,
        exclude in "[a-z]{1,5}(\\.\\*|\\(a\\|b\\))?",
        cron in "[*a-z/]{0,5}[a-z]",
    ) {
        let names = ["delete", "createFolder", "createFile", "closeWrite", "moveFrom", "moveTo", "attrib", "modify"];
        let switched: String = names.iter().zip(switches).map(|(n, on)| format!("<{n} start=\"{on}\"/>")).collect();
        let text = format!(
            "<head><filter start=\"true\"><exclude expression=\"{exclude}\"/></filter><inotify>{switched}</inotify><sersync>\
             <localpath watch=\"{tree}\"><remote ip=\"{host}\" name=\"{module}\"/></localpath><rsync><commonParams params=\"-a\"/>\
             <auth start=\"true\" users=\"{user}\" passwordfile=\"/p\"/><userDefinedPort start=\"true\" port=\"{port}\"/>\
             <timeout start=\"true\" time=\"{timeout}\"/></rsync><failLog path=\"/f\" timeToExecute=\"{interval}\"/>\
             <crontab start=\"true\" schedule=\"{schedule}\"><crontabfilter start=\"true\"><exclude expression=\"{cron}\"/></crontabfilter></crontab>\
             </sersync></head>"
        );
        let loaded = loaded(&text);
        imports(&loaded);
        let effective: toml::Table = loaded.config.to_toml().unwrap().parse().unwrap();
        let m = &effective["mirror"][0];
        let t = &m["target"][0];
        let keys = ["create_folder", "create_file", "close_write", "move_from", "move_to", "attrib"];
        let events: Vec<_> = keys.iter().map(|k| m["events"][*k].as_bool().unwrap()).collect();
        prop_assert_eq!(&events[..], &switches[1..7]);
        prop_assert_eq!(m["delete"].as_bool(), Some(switches[0]));
        prop_assert_eq!(m["follow_open_files"].as_bool(), Some(switches[7]));
        prop_assert_eq!(m["source"].as_str(), Some(tree.as_str()));
        let default = if port == 873 { vec![format!("rsync://{user}@{host}:873/{module}"), format!("rsync://{user}@{host}/{module}")] }
            else { vec![format!("rsync://{user}@{host}:{port}/{module}")] };
        prop_assert!(default.iter().any(|d| t["url"].as_str() == Some(d)), "{:?}", t["url"]);
        let time = |v: &toml::Value| crate::config::units::duration(v.as_str().unwrap()).unwrap().as_secs();
        prop_assert_eq!(time(&t["timeout"]), timeout);
        prop_assert_eq!(time(&t["retry_failed"]), interval * 60);
        prop_assert_eq!(time(&m["full_every"]), schedule * 60);
        prop_assert_eq!(m["exclude_regex"][0].as_str(), Some(exclude.as_str()));
        prop_assert_eq!(m["full_exclude"][0].as_str(), Some(cron.as_str()));
    }
}
