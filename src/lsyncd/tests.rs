use super::*;

/// What a program means: the TOML below the comments, and the notes as `LINE: TEXT`.
fn imported(text: &str) -> (String, Vec<String>) {
    let loaded = read(text, None, None).unwrap_or_else(|errors| panic!("{text}\n{errors}"));
    let toml = crate::sersync::toml(&loaded, false).unwrap();
    let body = toml.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect::<Vec<_>>().join("\n");
    crate::config::Config::from_toml(&body).unwrap_or_else(|errors| panic!("what is printed is not valid: {body}\n{errors}"));
    (body, loaded.notes.iter().map(|note| format!("{}: {}", note.line, note.text)).collect())
}

fn refused(text: &str) -> String {
    read(text, None, None).map(|loaded| panic!("{loaded:?}")).unwrap_err().to_string()
}

/// Situation, program, lines that the TOML has, beginnings of its notes.
type Case = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const CARRIED: &[Case] = &[
    (
        "literals, a module",
        r#"sync{ default.rsync, source="/srv/www", target="backup::www" }"#,
        &[r#"name = "www""#, r#"url = "rsync://backup/www""#, r#"args = ["--no-perms", "--no-owner", "--no-group", "--no-D"]"#],
        &[],
    ),
    (
        "archive keeps all of it",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={archive=true} }"#,
        &[r#"url = "rsync://b/a""#],
        &[],
    ),
    (
        "archive, less one thing",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={archive=true, owner=false} }"#,
        &[r#"args = ["--no-owner"]"#],
        &[],
    ),
    (
        "no archive, with some things",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={perms=true, owner=true, group=true} }"#,
        &[r#"args = ["--no-D"]"#],
        &[],
    ),
    ("a local copy", r#"sync{ default.direct, source="/a", target="/mnt/b/" }"#, &[r#"url = "/mnt/b""#], &[]),
    (
        "ssh with port, key and options",
        r#"sync{ default.rsyncssh, source="/a", host="u@h", targetdir="/b", ssh={port=2222, identityFile="/k", options={User="x"}} }"#,
        &[r#"url = "u@h:/b""#, r#"ssh = "ssh -i /k -o 'User=x' -p 2222""#],
        &[],
    ),
    (
        "a target behind ssh, written as rsync does",
        r#"sync{ default.rsync, source="/a", target="root@h:/b", rsync={rsh="/usr/bin/ssh -p 22"} }"#,
        &[r#"url = "root@h:/b""#, r#"ssh = "/usr/bin/ssh -p 22""#],
        &[],
    ),
    (
        "excludes in a list",
        r#"sync{ default.rsync, source="/a", target="b::a", exclude={"*.tmp", "/cache/"} }"#,
        &[r#"exclude = ["*.tmp", "/cache/"]"#],
        &[],
    ),
    ("one exclude", r#"sync{ default.rsync, source="/a", target="b::a", exclude="*.o" }"#, &[r#"exclude = ["*.o"]"#], &[]),
    (
        "excludes among the words",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={_extra={"--exclude=*.a", "--exclude", "*.b"}} }"#,
        &[r#"exclude = ["*.a", "*.b"]"#],
        &[],
    ),
    ("no deletions", r#"sync{ default.rsync, source="/a", target="b::a", delete=false }"#, &["delete = false"], &[]),
    (
        "deletions at the start only",
        r#"sync{ default.rsync, source="/a", target="b::a", delete="startup" }"#,
        &["[mirror.events]", "delete = false", "move_from = false"],
        &[],
    ),
    (
        "deletions while it runs only: none, which deletes no stranger's files",
        "sync{ default.rsync, source='/a', target='b::a',\n delete='running' }",
        &["delete = false"],
        &["2: delete = \"running\" becomes delete = false"],
    ),
    ("no first copy", r#"sync{ default.rsync, source="/a", target="b::a", init=false }"#, &[r#"initial = "none""#], &[]),
    ("processes, for all", r#"settings{ maxProcesses=8 } sync{ default.rsync, source="/a", target="b::a" }"#, &["jobs = 8"], &[]),
    (
        "processes, for one",
        r#"settings{ maxProcesses=8 } sync{ default.rsync, source="/a", target="b::a", maxProcesses=1 }"#,
        &["jobs = 1"],
        &[],
    ),
    (
        "a loop over hosts is one mirror with a target each",
        r#"for _, h in ipairs{"x", "y"} do sync{ default.rsync, source="/a", target=h.."::a" } end"#,
        &[r#"url = "rsync://x/a""#, r#"url = "rsync://y/a""#],
        &[],
    ),
    (
        "a function that declares",
        "local function m(dir)\n  sync{ default.rsync, source='/srv/'..dir, target='h::'..dir }\nend\nm('one') m('two')",
        &[r#"name = "one""#, r#"name = "two""#, r#"url = "rsync://h/two""#],
        &[],
    ),
    (
        "a table of its own that inherits",
        "base = { default.rsync, delete=false, rsync={archive=true} }\nsync{ base, source='/a', target='b::a', rsync={compress=true} }",
        &["delete = false", r#"compress = "zlib""#],
        &[],
    ),
    (
        "the environment, or what stands in for it",
        r#"sync{ default.rsync, source=os.getenv("NOT_SET_ANYWHERE") or "/a", target="b::a" }"#,
        &[r#"source = "/a""#],
        &[],
    ),
    (
        "settings by assignment, as in version 2.0",
        "settings = {\n logfile = '/l',\n nodaemon = true,\n}\nsync{ default.rsync, source='/a', target='b::a', rsyncOpts='-az' }",
        &[r#"url = "rsync://b/a""#],
        &["2: logfile is not carried over", "3: nodaemon is not carried over", "5: rsyncOpts is not carried over"],
    ),
    (
        "what changes the copy is left out with its reason",
        "sync{ default.rsync, source='/a', target='b::a',\n rsync = { archive=true,\n  update=true,\n  copy_links=true } }",
        &[r#"url = "rsync://b/a""#],
        &["3: update is not carried over: --update: ", "4: copy_links is not carried over: --copy-links: "],
    ),
    (
        "bandwidth, owners, a directory for temporary files",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={archive=true, bwlimit=2000, chown="w:w", temp_dir="/t"} }"#,
        &[r#""--bwlimit=2000""#, r#""--chown=w:w""#, r#""--temp-dir=/t""#],
        &[],
    ),
    (
        "a password file and limits of time",
        r#"sync{ default.rsync, source="/a", target="u@b::a", rsync={archive=true, password_file="/p", timeout=300} }"#,
        &[r#"password_file = "/p""#, r#"timeout = "5m""#, r#"watchdog = "6m 30s""#],
        &[],
    ),
    (
        "attributes, links and holes",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={archive=true, acls=true, xattrs=true, hard_links=true, sparse=true} }"#,
        &["acls = true", "xattrs = true", "hard_links = true", "sparse = true"],
        &[],
    ),
    (
        "files that stay open",
        r#"settings{ inotifyMode="CloseWrite or Modify" } sync{ default.rsync, source="/a", target="b::a" }"#,
        &["follow_open_files = "],
        &[],
    ),
    (
        "a delay, a crontab, a tunnel",
        "sync{ default.rsync, source='/a', target='localhost::a',\n delay=15,\n crontab={'0 3 * * *'},\n tunnel={'ssh','h'} }",
        &[r#"url = "rsync://localhost/a""#],
        &["2: delay = 15 is not carried over", "3: crontab is not carried over", "4: tunnel is not carried over"],
    ),
    (
        "actions of its own beside a copy",
        "mail = { onCreate = 'mail ^pathname', maxProcesses = 1 }\nsync{ mail, source='/a' }\nsync{ default.rsync, source='/a', target='b::a' }",
        &[r#"url = "rsync://b/a""#],
        &["2: this sync is not carried over, as it runs actions of its own: onCreate = \"mail ^pathname\""],
    ),
];

#[test]
fn what_is_carried_over() {
    for (what, program, lines, notes) in CARRIED {
        let (toml, told) = imported(program);
        for line in *lines {
            assert!(toml.contains(line), "{what}: {line}\n{toml}");
        }
        assert_eq!(told.len(), notes.len(), "{what}: {told:#?}");
        for (note, begins) in told.iter().zip(*notes) {
            assert!(note.starts_with(begins), "{what}: {note}");
        }
    }
}

/// What would copy more, or elsewhere, than lsyncd does is an error with its place.
#[test]
fn what_is_refused() {
    for (program, line, words) in [
        ("sync{ default.rsync, source='/a', target='b::a',\n filter={'+ /x', '- *'} }", 2, "filter: rules in order"),
        ("sync{ default.rsync, source='/a', target='b::a',\n rsync={filter='- x'} }", 2, "filter rules in order"),
        ("sync{ default.rsync, source='/a', target='b::a',\n excludeFrom='/no/such' }", 2, "cannot read /no/such"),
        ("sync{ default.rsync, source='/a',\n target='h:rel/' }", 2, "is a relative path"),
        ("sync{ default.rsync, target='b::a' }", 1, "has no source"),
        ("sync{ default.rsync, source='/a' }", 1, "has no target"),
        ("sync{ default.rsyncssh, source='/a', host='h' }", 1, "no host, or no targetdir"),
        ("sync{ default.rsync, source='/a', target='b::a',\n delete='sometimes' }", 2, "delete is \"sometimes\""),
        ("x = 1", 0, "declares no sync"),
        ("sync{ default.rsync,\n source=", 2, "does not run"),
        ("\nerror('stop')", 2, "does not run: stop"),
        ("\nio.open('/etc/passwd')", 2, "does not run"),
        ("\nos.execute('id')", 2, "does not run"),
        ("\nload('return 1')()", 2, "does not run"),
        ("\ndofile('x.lua')", 2, "--lua-files"),
    ] {
        let told = refused(program);
        assert!(told.contains(words), "{program}\n{told}");
        assert!(line == 0 || told.contains(&format!("\n{line} | ")), "{program}\n{told}");
    }
}

#[test]
fn a_program_is_bounded_in_time_and_memory() {
    assert!(refused("while true do end").contains("does not come to its end"));
    assert!(refused("while true do pcall(function() while true do end end) end").contains("does not come to its end"));
    assert!(refused("local s = 'x' while true do s = s .. s end").contains("memory"));
    assert!(refused("local t = {} t.t = t sync(t)").contains("without an end"));
}

#[test]
fn other_files_are_read_below_the_directory_only() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site");
    std::fs::create_dir(&site).unwrap();
    std::fs::write(dir.path().join("outside.lua"), "hosts = {}").unwrap();
    std::fs::write(site.join("hosts.lua"), "hosts = { 'p', 'q' }").unwrap();
    let main = site.join("main.lua");
    std::fs::write(
        &main,
        "require('hosts')\nfor _, h in ipairs(hosts) do sync{ default.rsync, source='/a', target=h..'::a' } end",
    )
    .unwrap();
    assert_eq!(load(&main, true).unwrap().config.mirrors[0].targets.len(), 2);
    assert!(load(&main, false).unwrap_err().to_string().contains("--lua-files"));
    std::fs::write(&main, "dofile('../outside.lua')").unwrap();
    assert!(load(&main, true).unwrap_err().to_string().contains("it lies outside of"));
    std::fs::write(site.join("hosts.lua"), b"\x1bLua\x54").unwrap();
    std::fs::write(&main, "require('hosts')").unwrap();
    assert!(load(&main, true).is_err(), "a compiled chunk");
}

#[test]
fn a_file_is_told_by_its_name_or_its_calls() {
    for (name, text, is) in [
        ("lsyncd.conf.lua", "", true),
        ("lsyncd.conf", "settings {\n}\nsync {\n}", true),
        ("lsyncd.conf", "-- mirrors\nsync\n{\n}", true),
        ("lsyncd.conf", "settings = {\n}", true),
        ("fansync.toml", "[[mirror]]\nname = \"sync\"", false),
        ("fansync.toml", "", false),
    ] {
        assert_eq!(is_one(Path::new(name), text.as_bytes()), is, "{name}: {text}");
    }
}

/// Comments of TOML hold no control characters.
#[test]
fn what_a_note_cites_is_fit_for_a_comment() {
    let program = "sync{ default.rsync, source = \"/a\", target = \"h:/b\", rsync = { chmod = \"\\18=rw\" } }";
    let loaded = read(program, None, None).unwrap();
    assert!(loaded.notes.iter().any(|note| note.text.contains("--chmod=\u{12}=rw")), "{:?}", loaded.notes);
    let toml = crate::sersync::toml(&loaded, false).unwrap();
    assert!(crate::config::Config::from_toml(&toml).is_ok() && toml.contains("\\u{12}=rw"), "{toml}");
}
